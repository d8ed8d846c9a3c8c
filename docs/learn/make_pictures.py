"""Makes every picture and every table of this folder's pages, with the project's code and its built-in pictures.

python docs/learn/make_pictures.py                    # trains two small detectors first: minutes
python docs/learn/make_pictures.py --practice FOLDER  # keeps them there for the next time
python docs/learn/make_pictures.py --tables           # only the tables that need no training

A table stands in its page between ``<!-- table: NAME -->`` and ``<!-- end -->``; what is between them is replaced.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from matplotlib.axes import Axes

from onestage import boxes as box_ops
from onestage import create
from onestage.creation import build
from onestage.explain import Explanation, explain_sample
from onestage.explain import pictures as seen_as
from onestage.metrics.plots import COLOURS, FAINT, INK, panels, save
from onestage.model.cost import cost_of
from onestage.model.detector import Detector
from onestage.model.losses.focal import FocalLoss, focal_loss
from onestage.model.losses.multibox import MultiBoxLoss
from onestage.model.output.suppress import NMS, DIoUNMS, HardNMS, LinearSoftNMS, SoftNMS
from onestage.weights.tensor_file import numbered_classes
from onestage.zoo.efficientdet import VARIANTS
from onestage.zoo.table import recipe

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
import diagrams  # noqa: E402  # beside this file
import practice  # noqa: E402

PICTURES = HERE / "pictures"
GAMMAS = (0.0, 0.5, 1.0, 2.0, 5.0)
EVERYTHING = 1e6
"""A ratio of negatives to positives that leaves no negative out."""
SCALED = [name for name in VARIANTS if "lite" not in name]
KINDS = {"positives": COLOURS[2], "hard negatives": COLOURS[1], "easy negatives": COLOURS[0]}


def table(head: Sequence[str], rows: Sequence[Sequence[object]], texts: int = 1) -> str:
    """A table in Markdown. The columns after the first ``texts`` hold numbers."""
    rule = ["---" if i < texts else "---:" for i in range(len(head))]
    return "\n".join("| " + " | ".join(map(str, row)) + " |" for row in (head, rule, *rows))


# Multi-scale maps and default boxes


def ssd300_table() -> str:
    """SSD300's maps, cells, shapes and anchors (paper, section 2.2 and figure 2)."""
    config = recipe("ssd300_vgg16", numbered_classes(80))
    sizes = create("ssd300_vgg16", 80).level_sizes((300, 300))
    rows = []
    for number, (level, (height, width)) in enumerate(zip(config.anchors, sizes, strict=True), start=1):
        count = height * width * len(level.shapes)
        smallest = level.shapes[0][0]  # a square
        _, apart = level.steps((height, width), (300, 300))
        rows.append((number, f"{height} × {width}", f"{apart:.0f}", len(level.shapes), f"{count:,}", f"{smallest:.0f}"))
    total = ("all", "", "", "", f"{cost_of(config).anchors:,}", "")
    return table(("map", "cells", "pixels per cell", "boxes per cell", "boxes", "smaller square"), [*rows, total])


def draw_maps(seen: Explanation) -> None:
    """The grids of all maps and the shapes of their middle cells, side by side."""
    titles = [f"{level.size[0]} × {level.size[1]} cells" for level in seen.levels]
    figure, row = seen_as.panels(seen.picture, titles, side=240)
    for axes, level in zip(row, seen.levels, strict=True):
        seen_as.draw_shapes(axes, seen, level)
    (PICTURES / "maps.jpg").write_bytes(seen_as.rendered(figure))


def draw_sizes() -> None:
    """Which sizes of objects each map's anchors fit, for three families."""
    names = {"ssd300_vgg16": "SSD300", "retinanet_r50_fpn": "RetinaNet", "efficientdet_d0": "EfficientDet-D0"}
    figure, row = panels([f"{title}, {len(recipe(name, ('x',)).anchors)} maps" for name, title in names.items()])
    for axes, name in zip(row, names, strict=True):
        for number, level in enumerate(recipe(name, ("x",)).anchors, start=1):
            sides = sorted((w * h) ** 0.5 for w, h in level.shapes)
            axes.plot(
                (sides[0], sides[-1]), (number, number), color=COLOURS[0], linewidth=7, solid_capstyle="round", alpha=0.35
            )
            axes.plot(sides, [number] * len(sides), "o", color=COLOURS[0], markersize=5)
        axes.set(xscale="log", xlabel="size of the anchors, pixels", ylabel="map, fine to coarse", xlim=(14, 1000))
        axes.set_xticks([16, 32, 64, 128, 256, 512], ["16", "32", "64", "128", "256", "512"])
        axes.set_xticks([], minor=True)
        axes.set_yticks(range(1, number + 1))
        axes.invert_yaxis()
    save(figure, PICTURES / "sizes.png")


# Hard negative mining


def looked_at(detector: Detector, loss: MultiBoxLoss | FocalLoss) -> list[Explanation]:
    """What the detector, with ``loss`` as its loss, does with the test pictures.

    Whatever that loss takes, three negatives for each positive are called hard.
    """
    other = build(replace(detector.config, loss=loss)).eval()
    other.load_state_dict(detector.state_dict())
    pictures = practice.test_pictures()
    seen = [explain_sample(other, pictures[i]) for i in range(len(pictures))]
    return [replace(one, mining=MultiBoxLoss()) for one in seen]


def shares(seen: Sequence[Explanation]) -> dict[str, float]:
    """The share of the class loss of all pictures that each kind of anchors makes."""
    masses = {name: 0.0 for name in KINDS}
    for one in seen:
        for group in one.groups:
            if group.name in masses:
                masses[group.name] += group.share * float(one.class_loss.sum())
    total = sum(masses.values())
    return {name: mass / total for name, mass in masses.items()}


def counts(seen: Sequence[Explanation]) -> dict[str, int]:
    """How many anchors of each kind the pictures have."""
    return {name: sum(g.anchors for one in seen for g in one.groups if g.name == name) for name in KINDS}


def percents(part: Mapping[str, float]) -> list[str]:
    return [f"{100 * part[name]:.1f} %" for name in KINDS]


def mining_table(detectors: Mapping[str, Detector]) -> str:
    """Shares of the class loss with and without mining, before and after training; a row for each detector."""
    rows = []
    for when, detector in detectors.items():
        for how, ratio in (("all negatives", EVERYTHING), ("3 : 1, hardest", 3.0)):
            rows.append((when, how, *percents(shares(looked_at(detector, MultiBoxLoss(negative_ratio=ratio))))))
    return table(("network", "negatives that count", *KINDS), rows, texts=2)


def anchors_table() -> str:
    """How many anchors are positives, hard and easy negatives: the same before and after training."""
    seen = looked_at(practice.fresh("mining"), MultiBoxLoss())
    number = counts(seen)
    total = sum(number.values())
    rows = [(name, f"{count:,}", f"{100 * count / total:.1f} %") for name, count in number.items()]
    return table(("anchors of 16 pictures", "number", "share"), rows)


def draw_mining(detectors: Mapping[str, Detector]) -> None:
    """The sorted losses of the negatives with the cut of mining, and who makes the class loss with and without mining."""
    figure, (ranked, bars) = panels(["Negatives of 16 pictures, hardest first", "Who makes the class loss"])
    for (when, detector), colour in zip(detectors.items(), (FAINT, COLOURS[1]), strict=True):
        seen = looked_at(detector, MultiBoxLoss(negative_ratio=EVERYTHING))
        losses = torch.cat([one.class_loss[one.negative] for one in seen]).sort(descending=True).values
        ranked.plot(range(1, len(losses) + 1), losses, color=colour, linewidth=2.2, label=when)
    cut = counts(seen)["hard negatives"]
    ranked.axvline(cut, color=INK, linewidth=1.2, linestyle="--", label=f"3 for every positive: {cut:,}")
    ranked.set(xscale="log", yscale="log", xlabel="rank", ylabel="class loss of the anchor", ylim=(1e-6, 30))
    ranked.legend(fontsize=9.5, loc="lower left")
    rows = {}
    for when, detector in detectors.items():
        rows[f"{when},\nall"] = shares(looked_at(detector, MultiBoxLoss(negative_ratio=EVERYTHING)))
        rows[f"{when},\nmined"] = shares(looked_at(detector, MultiBoxLoss()))
    stacked(bars, rows)
    save(figure, PICTURES / "mining.png")


def stacked(axes: Axes, rows: Mapping[str, Mapping[str, float]]) -> None:
    """Bars from 0 to 100 %, in the colours of KINDS."""
    for place, part in enumerate(rows.values()):
        left = 0.0
        for name, colour in KINDS.items():
            axes.barh(place, 100 * part[name], left=left, color=colour, height=0.6, label=name if place == 0 else None)
            if part[name] > 0.09:
                place_of_text = left + 50 * part[name]
                axes.text(place_of_text, place, f"{100 * part[name]:.0f}", ha="center", va="center", color="white", fontsize=9)
            left += 100 * part[name]
    axes.set_yticks(range(len(rows)), list(rows))
    axes.invert_yaxis()
    axes.set(xlim=(0, 100), xlabel="percent of the class loss")
    axes.legend(fontsize=9, loc="upper center", bbox_to_anchor=(0.45, -0.16), ncols=3, frameon=False)


# Focal loss


def draw_focal_curves() -> None:
    """RetinaNet, figure 1: the loss over the probability of the true class; and how much each gamma turns down."""
    figure, (loss, factor) = panels(["Focal loss, for the true class", "Turned down by (1 − p)^γ"])
    p = torch.linspace(0.002, 0.998, 500)
    for gamma, colour in zip(GAMMAS, COLOURS, strict=False):
        curve = focal_loss(p.logit(), torch.ones_like(p), alpha=None, gamma=gamma, reduction="none")
        loss.plot(p, curve, color=colour, linewidth=2, label=f"γ = {gamma:g}")
        factor.plot(p, (1 - p) ** gamma, color=colour, linewidth=2)
    loss.axvspan(0.6, 1, color=COLOURS[2], alpha=0.08)
    loss.text(0.8, 3.6, "easy:\nwell classified", ha="center", fontsize=9.5, color=INK)
    loss.set(xlabel="p, probability of the true class", ylabel="loss", xlim=(0, 1), ylim=(0, 5))
    factor.set(xlabel="p, probability of the true class", ylabel="factor", xlim=(0, 1), ylim=(1e-4, 1.5), yscale="log")
    loss.legend(fontsize=9.5)
    save(figure, PICTURES / "focal-curves.png")


def factor_table() -> str:
    """How many times smaller the loss of a right anchor becomes (RetinaNet, section 3.2, gives 100 and 1,000 for gamma 2)."""
    rows = []
    for p in (0.5, 0.9, 0.968, 0.99):
        factors = [(1 - p) ** -gamma for gamma in GAMMAS]
        rows.append((p, *(f"{factor:,.0f}" if factor > 99 else f"{factor:.3g}" for factor in factors)))
    return table(("p", *(f"γ = {gamma:g}" for gamma in GAMMAS)), rows)


def focal_table(detectors: Mapping[str, Detector]) -> str:
    """Shares of the class loss for each gamma, before and after training."""
    rows = []
    for when, detector in detectors.items():
        seen = {gamma: looked_at(detector, FocalLoss(alpha=None, gamma=gamma)) for gamma in GAMMAS}
        rows += [(when, f"{gamma:g}", *percents(shares(every))) for gamma, every in seen.items()]
    return table(("network", "γ", *KINDS), rows, texts=2)


def draw_mass(detector: Detector) -> None:
    """RetinaNet, figure 4: the share of the loss that the easiest anchors make, for positives and for negatives."""
    figure, row = panels(["Positives, easiest first", "Negatives, easiest first"])
    for gamma, colour in zip((0.0, 0.5, 1.0, 2.0), COLOURS, strict=False):
        seen = looked_at(detector, FocalLoss(alpha=None, gamma=gamma))
        for axes, masks in zip(row, ([s.positive for s in seen], [s.negative for s in seen]), strict=True):
            losses = torch.cat([one.class_loss[mask] for one, mask in zip(seen, masks, strict=True)]).sort().values
            part = torch.linspace(0, 100, len(losses))
            axes.plot(part, 100 * losses.cumsum(0) / losses.sum(), color=colour, linewidth=2, label=f"γ = {gamma:g}")
    for axes in row:
        axes.set(xlabel="percent of these anchors", ylabel="percent of their loss", xlim=(0, 100), ylim=(0, 101))
        axes.legend(fontsize=9.5, loc="upper left")
    save(figure, PICTURES / "focal-mass.png")


# Compound scaling


def scaling_table() -> str:
    """The costs of the EfficientDets, counted here, and the AP of the authors' weights."""
    rows = []
    for name in SCALED:
        v, cost = VARIANTS[name], cost_of(recipe(name, numbered_classes(90)))
        title = name.removeprefix("efficientdet_").upper().replace("X", "x")
        net = (v.backbone.removeprefix("tf_efficientnet_").upper(), f"{v.width} × {v.layers}", v.head_layers)
        millions, billions = f"{cost.parameters / 1e6:.1f} M", f"{cost.multiply_adds / 1e9:.1f} G"
        rows.append((title, v.side, *net, millions, billions, f"{cost.anchors:,}", v.published[1]))
    head = ("", "input", "backbone", "BiFPN", "head", "parameters", "multiply-adds", "anchors", "AP test-dev")
    return table(head, rows)


def draw_scaling() -> None:
    """AP over multiply-adds, and what compound scaling turns up."""
    figure, (accuracy, growth) = panels(["What it costs, what it gives", "What is turned up, D0 = 1"])
    costs = [cost_of(recipe(name, numbered_classes(90))).multiply_adds / 1e9 for name in SCALED]
    found = [VARIANTS[name].published[1] or 0.0 for name in SCALED]
    accuracy.plot(costs, found, "o-", color=COLOURS[0], linewidth=2)
    titles = [name.removeprefix("efficientdet_").upper().replace("X", "x") for name in SCALED]
    for x, y, title in zip(costs, found, titles, strict=True):
        accuracy.annotate(title, (x, y), xytext=(6, -11), textcoords="offset points", fontsize=9, color=INK)
    accuracy.set(xscale="log", xlabel="multiply-adds, billions", ylabel="AP, COCO test-dev", xlim=(2, 800), ylim=(32, 58))
    accuracy.set_xticks([3, 10, 30, 100, 300], ["3", "10", "30", "100", "300"])
    first = VARIANTS[SCALED[0]]
    parts: dict[str, Callable[[str], float]] = {
        "input side": lambda name: VARIANTS[name].side / first.side,
        "BiFPN channels": lambda name: VARIANTS[name].width / first.width,
        "BiFPN layers": lambda name: VARIANTS[name].layers / first.layers,
        "head layers": lambda name: VARIANTS[name].head_layers / first.head_layers,
    }
    for (title, part), colour in zip(parts.items(), COLOURS, strict=False):
        growth.plot(titles, [part(name) for name in SCALED], "o-", color=colour, linewidth=2, markersize=4, label=title)
    growth.set(ylabel="times D0's", ylim=(0.8, 6.5))
    growth.legend(fontsize=9.5)
    save(figure, PICTURES / "scaling.png")


# NMS

SCENE = torch.tensor([[40.0, 60, 160, 220], [48, 66, 166, 226], [84, 60, 204, 220], [60, 120, 140, 200]])
SCENE_SCORES = torch.tensor([0.95, 0.90, 0.80, 0.60])
SCENE_NAMES = ("A, an object", "B, the same once more", "C, its neighbour", "D, a part of A")
METHODS: dict[str, NMS] = {
    "hard, IoU .45": HardNMS(0.45),
    "DIoU, .45": DIoUNMS(0.45),
    "soft, linear, IoU .3": LinearSoftNMS(0.3),
    "soft, Gaussian, σ .5": SoftNMS(0.5),
}


def nms_table() -> str:
    """What every kind of suppression makes of the same four boxes."""
    overlap, diou = box_ops.iou(SCENE[:1], SCENE)[0], box_ops.paired_diou(SCENE[:1].expand(4, 4), SCENE)
    left = {}
    for name, method in METHODS.items():
        rows, scores = method(SCENE, SCENE_SCORES, torch.zeros(4, dtype=torch.int64), least=0.001)
        left[name] = dict(zip(rows.tolist(), scores.tolist(), strict=True))
    rows = []
    for i, name in enumerate(SCENE_NAMES):
        after = (f"{scores[i]:.2f}" if i in scores else "gone" for scores in left.values())
        rows.append((name, f"{SCENE_SCORES[i]:.2f}", f"{overlap[i]:.2f}", f"{diou[i]:.2f}", *after))
    return table(("box", "score", "IoU with A", "DIoU with A", *METHODS), rows)


def draw_nms() -> None:
    """The four boxes of the table, and what an overlap costs."""
    figure, (scene, price) = panels(["Four boxes of one class", "What is left of a score"])
    for box, name, colour in zip(SCENE.tolist(), SCENE_NAMES, COLOURS, strict=False):
        x1, y1, x2, y2 = box
        scene.plot((x1, x2, x2, x1, x1), (y1, y1, y2, y2, y1), color=colour, linewidth=2.4, label=name)
    scene.set(xlim=(20, 224), ylim=(330, 40), xticks=[], yticks=[])
    scene.grid(visible=False)
    scene.legend(fontsize=9, loc="lower right")
    iou = torch.linspace(0, 1, 400)
    kept = {
        "hard, .45": (iou <= 0.45).float(),
        "soft, linear, .3": 1 - iou * (iou > 0.3),
        "soft, Gaussian, σ .5": (-iou.square() / 0.5).exp(),
    }
    for (name, curve), colour in zip(kept.items(), COLOURS, strict=False):
        price.plot(iou, curve, color=colour, linewidth=2.2, label=name)
    price.set(xlabel="IoU with a better box", ylabel="factor", xlim=(0, 1), ylim=(0, 1.05))
    price.legend(fontsize=9.5, loc="lower left")
    save(figure, PICTURES / "nms-kinds.png")


TABLES: dict[str, Callable[[], str]] = {
    "ssd300": ssd300_table,
    "anchors": anchors_table,
    "factors": factor_table,
    "scaling": scaling_table,
    "nms": nms_table,
}
"""Those that need no training, by name."""


def fill(tables: Mapping[str, str]) -> None:
    """Put the tables into the pages that hold their marks."""
    for page in sorted(HERE.glob("*.md")):
        old = new = page.read_text(encoding="utf-8")
        for name, text in tables.items():
            mark = re.compile(rf"(<!-- table: {name} -->\n).*?(<!-- end -->)", re.DOTALL)
            new = mark.sub(lambda found, text=text: f"{found[1]}{text}\n{found[2]}", new)
        if new != old:
            page.write_text(new, encoding="utf-8")


def best_picture(seen: Sequence[Explanation]) -> Explanation:
    """The one in which NMS has most to do with several objects, all of them found as what they are."""
    right = [one for one in seen if sorted(one.after.labels.tolist()) == sorted(one.targets.labels.tolist())]
    return max(right, key=lambda one: len(one.before))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--practice", type=Path, help="folder in which the trained detectors are kept")
    parser.add_argument("--tables", action="store_true", help="only the tables that need no training")
    options = parser.parse_args()
    fill({name: make() for name, make in TABLES.items()})
    if options.tables:
        return
    PICTURES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.practice or Path(temporary)
        mining = {"fresh": practice.fresh("mining"), "trained": practice.trained("mining", folder)}
        focal = {"fresh": practice.fresh("focal"), "trained": practice.trained("focal", folder)}
    seen = best_picture(looked_at(mining["trained"], MultiBoxLoss()))
    draw_maps(seen)
    draw_sizes()
    busiest = max(seen.levels, key=seen.matched)
    (PICTURES / "level.jpg").write_bytes(seen_as.level_picture(seen, busiest, side=360))
    (PICTURES / "nms.jpg").write_bytes(seen_as.nms_picture(seen, side=420))
    draw_mining(mining)
    draw_focal_curves()
    draw_mass(focal["trained"])
    draw_scaling()
    draw_nms()
    diagrams.draw_pyramid(PICTURES / "fpn.png")
    diagrams.draw_bifpn(PICTURES / "bifpn.png")
    fill({"mining": mining_table(mining), "focal": focal_table(focal)})


if __name__ == "__main__":
    main()
