"""What the benchmarks share: two models with the same weights, a fair stopwatch, a table.

The peer (torchvision, effdet) and onestage take turns in one process (ours, theirs, theirs, ours, ...), so that other
load on the machine slows both. The number of threads is the default, as for a user.
"""

from __future__ import annotations

import json
import math
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
import torchvision
from rich.console import Console
from rich.table import Table
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor, nn
from torchvision.transforms.v2 import functional as tv

import onestage
from onestage.data.synthetic import SyntheticConfig, generate
from onestage.deploy.benchmark import pictures as pictures
from onestage.deploy.benchmark import processor
from onestage.deploy.machine import instructions

CLASSES = 90
PASSING = 1500
"""Scores above 0.01 in a picture; trained SSDs give a few hundred to a few thousand."""
MODELS = ("ssd300_vgg16", "ssdlite320_mobilenet_v3_large")
"""torchvision's SSDs, for training; predict() is compared for all of PEERS."""
SETTLING = 0.1
"""Seconds of untimed turns after a pause: one turn at least."""
DELTAS = 0.3
"""The standard deviation of the boxes' offsets of RetinaNet and EfficientDet, in anchors."""
PEERS = {
    "ssd300_vgg16": "ssd300_vgg16",
    "ssdlite320_mobilenet_v3_large": "ssdlite320_mobilenet_v3_large",
    "retinanet_resnet50_fpn": "retinanet_r50_fpn",
    "tf_efficientdet_d0": "efficientdet_d0",
}
"""The name of a model in torchvision or effdet (tf_*) -> our name."""


@dataclass(frozen=True)
class Comparison:
    """Seconds that each turn took, ours and the peer's, in the order they were measured."""

    what: str
    ours: list[float]
    theirs: list[float]

    @property
    def ratio(self) -> float:
        """How many times faster ours is: the median of the ratios of neighbouring turns."""
        return statistics.median(theirs / ours for theirs, ours in zip(self.theirs, self.ours, strict=True))

    @property
    def spread(self) -> tuple[float, float]:
        """The quartiles of the ratios of neighbouring turns."""
        ratios = torch.tensor(self.theirs, dtype=torch.float64) / torch.tensor(self.ours, dtype=torch.float64)
        low, high = ratios.quantile(torch.tensor([0.25, 0.75], dtype=torch.float64)).tolist()
        return low, high

    @property
    def row(self) -> tuple[str, ...]:
        """The comparison in words: what, the median milliseconds of both, the ratio, its quartiles."""
        ours, theirs = (f"{1000 * statistics.median(times):.1f}" for times in (self.ours, self.theirs))
        return self.what, ours, theirs, f"{self.ratio:.2f}", "{:.2f} - {:.2f}".format(*self.spread)


Turn = Callable[[], object]
"""The work of one program in one turn."""


Clock = Literal["wall", "cpu"]
"""Wall time, or the processor time of all threads of this process. Processor time is fair on a busy machine too, but it counts
threads that wait for each other, unless OMP_WAIT_POLICY=PASSIVE is set."""


def compare(
    what: str, ours: Turn, theirs: Turn, *, repeats: int, warmup: int = 2, clock: Clock = "wall", pause: float = 0.0
) -> Comparison:
    """Time two functions in turns, after ``warmup`` untimed turns of each.

    pause: seconds before each timed turn, and then ``SETTLING`` of untimed turns of the same function. A processor that has
    slept, with the other program's data in its caches, is slow for some turns.
    """
    now = time.perf_counter if clock == "wall" else time.process_time
    for _ in range(warmup):
        ours()
        theirs()
    times: dict[Turn, list[float]] = {ours: [], theirs: []}
    for turn in range(repeats):
        for function in (ours, theirs) if turn % 2 == 0 else (theirs, ours):
            if pause:
                time.sleep(pause)
                settled = time.perf_counter() + SETTLING
                function()
                while time.perf_counter() < settled:
                    function()
            start = now()
            function()
            times[function].append(now() - start)
    return Comparison(what, times[ours], times[theirs])


def lively_pictures(count: int) -> list[Tensor]:
    """``count`` pictures (3, H, W) uint8 by which ``enliven`` chooses: of both kinds that the benchmarks use."""
    drawn = [generate(index, SyntheticConfig(seed=7, size=(480, 640))).image for index in range(count // 2)]
    return [*drawn, *pictures(count - len(drawn))]


def pair(name: str) -> tuple[onestage.Detector, nn.Module]:
    """Our model and the peer's of that name, in eval mode, with the same random weights, changed by ``enliven``."""
    torch.manual_seed(0)
    theirs = effdet_model(name) if name.startswith("tf_") else torchvision_model(name)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "peer.pth"
        torch.save(theirs.state_dict(), path)
        ours = onestage.create(PEERS[name], num_classes=CLASSES, weights=path)
    return ours.eval(), theirs.eval()


def torchvision_model(name: str) -> nn.Module:
    """torchvision's detector for CLASSES and background, changed by ``enliven``."""
    build = getattr(torchvision.models.detection, name)
    model: nn.Module = build(weights=None, weights_backbone=None, num_classes=CLASSES + 1)
    (side,) = model.transform.min_size
    images = model.transform([image / 255 for image in lively_pictures(4 if side <= 320 else 1)])[0].tensors
    softmax = name.startswith("ssd")

    def outputs() -> tuple[Tensor, Tensor]:
        found = model.head(list(model.backbone(images).values()))
        return found["cls_logits"], found["bbox_regression"]

    enliven(model, outputs, ("classification_head", "bbox_reg."), softmax=softmax)
    return model


def effdet_model(name: str) -> nn.Module:
    """effdet's detector for CLASSES, changed by ``enliven``."""
    import effdet

    model: nn.Module = effdet.create_model(name, pretrained=False, pretrained_backbone=False, num_classes=CLASSES)
    side = model.config.image_size[0]
    resized = torch.stack([tv.resize(image, [3 * side // 4, side]) for image in lively_pictures(4)]) / 255
    images = F.pad(tv.normalize(resized, list(IMAGENET_DEFAULT_MEAN), list(IMAGENET_DEFAULT_STD)), (0, 0, 0, side // 4))

    def outputs() -> tuple[Tensor, ...]:
        sides = zip(model(images), (CLASSES, 4), strict=True)
        return tuple(
            torch.cat([map.permute(0, 2, 3, 1).reshape(len(images), -1, n) for map in maps], dim=1) for maps, n in sides
        )

    enliven(model, outputs, ("class_net.predict", "box_net.predict.conv_pw"), softmax=False)
    return model


@torch.no_grad()
def enliven(model: nn.Module, outputs: Callable[[], tuple[Tensor, ...]], names: tuple[str, str], *, softmax: bool) -> None:
    """Give random weights the outputs of a trained model: activations of unit size, class logits with a standard deviation of
    2, shifted so that PASSING scores of a picture exceed 0.01, and boxes near their anchors.

    outputs: runs the model, logits (B, A, C) and deltas (B, A, 4). names: parts of the names of the parameters of the last
    layers of classes and boxes; SSD's boxes have no such name, and stay. softmax: whether the first logit is background.
    """
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0  # one pass sets the statistics: without it the outputs would not depend on the picture
    model.train()
    outputs()
    model.eval()
    found, deltas = outputs()
    last = [p for key, p in model.named_parameters() if names[0] in key and p.shape[0] % found.shape[2] == 0]
    scale = 2 / found.std()
    for p in last:
        p.mul_(scale)
    shift = _shift(found * scale, softmax=softmax)  # the last layer is linear
    for p in last:
        if p.ndim == 1 and softmax:
            p.view(-1, CLASSES + 1)[:, 0] += shift
        elif p.ndim == 1:
            p -= shift
    for key, p in model.named_parameters():
        if names[1] in key:
            p.mul_(DELTAS / deltas.std())


def _shift(logits: Tensor, *, softmax: bool) -> float:
    """The number to add to the background's logits (B, A, C), or to subtract from all logits if there is no background, so that
    PASSING scores of a picture exceed 0.01; 0 if no number makes so many of them.
    """
    if softmax:  # e^l / (e^(background + shift) + the sum of e^others) > 0.01, solved for the shift
        objects = logits[:, :, 1:]
        others = objects.logsumexp(dim=2, keepdim=True)
        largest = (100 * (objects - others).exp() - 1).log() + others - logits[:, :, :1]  # NaN: below 0.01 with any shift
    else:
        largest = logits + math.log(99)
    best = largest.nan_to_num(-math.inf).flatten().topk(PASSING * len(logits)).values
    return float(best[-1]) if best[-1].isfinite() else 0.0


def report(title: str, comparisons: Sequence[Comparison], *, path: Path | None) -> None:
    """Print a table, and write all that was measured to a JSON file."""
    where = environment()
    table = Table(title=title, caption=", ".join(f"{k} {v}" for k, v in where.items()))
    table.add_column()
    for column in ("onestage ms", "peer ms", "times as fast", "quartiles"):
        table.add_column(column, justify="right")
    for c in comparisons:
        table.add_row(*c.row)
    Console(width=None if sys.stdout.isatty() else 128).print(table)
    if path is not None:
        rows = [asdict(c) | {"ratio": c.ratio, "quartiles": c.spread} for c in comparisons]
        path.write_text(json.dumps({"title": title, "environment": where, "seconds": rows}, indent=1))


def processor_name() -> str:
    """The processor and those of its instructions that inference programs choose by."""
    return " ".join([processor(), *instructions()])


def environment() -> dict[str, str | int]:
    """Versions, threads and processor. Without them a time has no meaning."""
    return {
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "onestage": onestage.__version__,
        "python": platform.python_version(),
        "threads": torch.get_num_threads(),
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "processor": processor_name(),
    }
