"""Every recipe of the zoo learns four pictures by heart, and every part of it learns.

Whatever is wrong between pixels and boxes (anchors beside their cells, a transposed output, a loss that misses a level, a
signal that dies on its way) shows here, whichever file it is in.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from onestage.data.synthetic import generate
from onestage.data.writers import write_coco
from onestage.evaluation import evaluate
from onestage.model.detector import Detector
from onestage.model.losses.boxes import IoULoss
from onestage.model.necks.bifpn import BiFPN
from onestage.structures import Targets
from onestage.training import folder
from onestage.training.config import TrainConfig
from onestage.training.loop import train
from onestage.training.optim import learning_rate, make_optimizer
from onestage.zoo.table import ZOO
from small_runs import CONFIG, PICTURES, detector, pictures

NARROW = {"backbone.name": "resnet18", "head.width": 128}
"""ResNet-101's recipes are tried on a smaller one: the real one takes gigabytes and minutes."""

EVERY = 5
"""So many steps lie between two looks at a model that learns."""

CASES: dict[str, dict[str, Any]] = {
    "tinyssd": dict(lr=3e-3, steps=60),
    "ssd300_vgg16": dict(lr=3e-4, steps=40),
    "ssd512_vgg16": dict(lr=3e-4, steps=40, size=(64, 96)),
    "ssdlite320_mobilenet_v3_large": dict(lr=4e-3, steps=110, size=(96, 96)),
    "ssd300_mobilenet_v2": dict(lr=4e-3, steps=110, size=(96, 96)),
    "ssd300_mobilenet_v1": dict(lr=2e-3, steps=80),
    "ssd300_resnet50": dict(lr=1e-3, steps=45),
    "ssd": dict(lr=2e-3, steps=40, backbone="timm/resnet18"),
    "ssd321_resnet101": dict(lr=2e-3, steps=30, changes=NARROW),
    "dssd321_resnet101": dict(lr=2e-3, steps=40, changes=NARROW | {"neck.width": 64}),
    "dssd": dict(lr=4e-3, steps=60, backbone="timm/test_resnet", changes={"neck.width": 32}),
    "retinanet": dict(lr=3e-3, steps=80, backbone="timm/test_resnet", changes={"head.layers": 1, "neck.width": 64}),
    "retinanet_r18_fpn": dict(lr=1e-3, steps=80),
    # two cells of the coarsest map: with one alone, batch norm after the next convolution would take this level's shift away
    "efficientdet_lite0": dict(lr=4e-3, steps=70, size=(64, 160)),
    "efficientdet": dict(lr=4e-3, steps=80, backbone="timm/test_efficientnet"),
}

TINY = dict(model="tinyssd", lr=3e-3, steps=100)
MIXED: dict[str, dict[str, Any]] = {
    "quality focal loss, ATSS": TINY | dict(changes={"loss": "QualityFocalLoss", "assigner": "ATSSAssigner"}),
    "focal loss, CIoU, ATSS": TINY
    | dict(changes={"loss": "FocalLoss", "loss.box": IoULoss("ciou"), "loss.box_weight": 2, "assigner": "ATSSAssigner"}),
    "an SSD with RetinaNet's neck and head": dict(
        model="ssd",
        lr=1e-3,
        steps=80,
        backbone="timm/resnet18",
        changes={"neck": "FPN", "neck.width": 64, "head": "SharedHead", "head.layers": 2, "anchors": "OctaveAnchors"},
    ),
    "a RetinaNet with SSD's loss and softmax fusion": dict(
        model="retinanet_r18_fpn",
        lr=3e-3,
        steps=80,
        changes={"neck": BiFPN(64, 2, fusion="softmax"), "loss": "MultiBoxLoss", "head.layers": 2},
    ),
}
"""What no recipe has, on recipes that learn fast."""


def build(name: str) -> Detector:
    case = CASES.get(name) or MIXED[name]
    return detector(case.get("model", name), **{k: v for k, v in case.items() if k in ("size", "backbone", "changes")})


def inputs(model: Detector, count: int = 4) -> tuple[Tensor, list[Targets]]:
    """The first pictures as the model takes them, with their objects."""
    samples = [pictures(count)[i] for i in range(count)]
    images, metas = model.prepare([s.image for s in samples])
    return images, [Targets(meta.apply(s.boxes), s.labels) for s, meta in zip(samples, metas, strict=True)]


@dataclass(frozen=True)
class Look:
    """A model after some steps. loss: in training. measured, AP50: in evaluation mode, NaN if nobody measured them.

    Both losses are shares of what they were at the start.
    """

    step: int
    loss: float
    measured: float = math.nan
    AP50: float = math.nan

    @property
    def good(self) -> bool:
        """Whether the model knows the pictures by heart, in evaluation mode too: batch norm's averages have caught up."""
        return self.loss < 1 / 10 and self.measured < 1 / 5 and self.AP50 >= 0.9


def learn(model: Detector, images: Tensor, targets: Sequence[Targets], *, lr: float, steps: int) -> list[Look]:
    """Plain steps of AdamW, until two looks in a row are good. Returns all looks, one after every fifth step.

    A look measures only where the loss in training is low enough, and after the last step.
    """
    config = TrainConfig(lr=lr, warmup=5, weight_decay=0.0)
    optimizer = make_optimizer(model, config)
    before = evaluate(model, pictures(len(images)), workers=0)
    assert before.coco.AP50 < 0.3
    losses: list[float] = []
    looks: list[Look] = []
    model.train()
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, steps, config)
        loss = sum(model.loss(model(images), targets).values())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip_norm)
        optimizer.step()
        losses.append(loss.item())
        if len(losses) % EVERY == 0:
            look = Look(len(losses), losses[-1] / losses[0])
            if look.loss < 1 / 10 or len(losses) == steps:
                after = evaluate(model, pictures(len(images)), workers=0)
                look = replace(look, measured=after.losses["total"] / before.losses["total"], AP50=after.coco.AP50)
            looks.append(look)
            if known_by_heart(looks):
                break
    return looks


def known_by_heart(looks: Sequence[Look]) -> bool:
    """At one look alone a model may be on its way through, before it diverges."""
    return [look.good for look in looks[-2:]] == [True, True]


def test_every_recipe_is_tried() -> None:
    assert {ZOO[name].build for name in CASES} == {entry.build for entry in ZOO.values()}


LONG = ("ssd512_vgg16", "ssd321_resnet101", "dssd321_resnet101", "retinanet_r18_fpn", "efficientdet_lite0", "ssd300_resnet50")
LONG += ("ssd300_mobilenet_v1", "ssd300_mobilenet_v2", "ssd300_vgg16", "ssdlite320_mobilenet_v3_large", "ssd")
LONG += ("an SSD with RetinaNet's neck and head", "a RetinaNet with SSD's loss and softmax fusion")
"""Wide or deep: learned by heart with ``make test-slow``; that all parameters of a recipe learn is always tested. The parts of
the mixed ones are always learned with, in their own families.
"""


def test_a_case_of_every_family_is_always_tried() -> None:
    assert {ZOO[name].build.__module__ for name in CASES if name not in LONG} == {e.build.__module__ for e in ZOO.values()}


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if n in LONG else n for n in (*CASES, *MIXED)])
def test_four_pictures_are_learned_by_heart(name: str) -> None:
    model, case = build(name), CASES.get(name) or MIXED[name]
    looks = learn(model, *inputs(model), lr=case["lr"], steps=case["steps"])
    assert known_by_heart(looks), looks[-2:]


@pytest.mark.parametrize("name", CASES)
def test_every_parameter_learns(name: str) -> None:
    model = build(name)
    images, _ = inputs(model, 2)
    targets = on_every_level(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    every, reached = {key for key, _ in model.named_parameters()}, set[str]()
    model.train()
    for _ in range(3):  # the last batch norm of a residual block starts at 0, so what is before it learns from step 2 on
        optimizer.zero_grad()
        sum(model.loss(model(images), targets).values()).backward()
        for key, parameter in model.named_parameters():
            assert parameter.grad is not None and parameter.grad.isfinite().all(), key
            if parameter.grad.any():
                reached.add(key)
        if reached == every:
            break
        optimizer.step()
    assert every - reached == set()


def on_every_level(model: Detector) -> list[Targets]:
    """For two pictures, an object on an anchor of every feature map, in the middle of the picture."""
    size = model.config.preprocess.size
    anchors, cells = model.anchors(size), model.level_sizes(size)
    rows, start = [], 0
    for (height, width), level in zip(cells, model.config.anchors, strict=True):
        middle = (height // 2) * width + width // 2
        rows.append(start + middle * len(level.shapes))
        start += height * width * len(level.shapes)
    assert start == len(anchors)
    targets = Targets(anchors[rows], torch.arange(len(rows)) % len(model.config.classes))
    learned = model.assign([targets], size).positives()[1]
    assert set(rows) <= set(learned.tolist())
    return [targets, targets]


def test_the_whole_way_from_files_to_a_measured_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder, "plot_training_curves", lambda *_: None)  # 60 times would take longer than the training
    for split, count in (("train", 20), ("val", 4)):  # four pictures: what is measured is what was learned
        samples = (replace(generate(i % 4, PICTURES), image_id=f"{i}") for i in range(count))
        write_coco(samples, tmp_path / "data", classes=PICTURES.classes, split=split)
    config = TrainConfig(**vars(CONFIG) | dict(epochs=12, lr=3e-3, augment="none", evaluate_every=0))
    result = train(detector(), tmp_path / "data", out=tmp_path / "run", config=config)
    assert result.report is not None and result.report.coco.AP50 >= 0.9
    assert result.best_ap == result.report.coco.AP
