"""What the benchmarks share: two models with the same weights, a fair stopwatch, a table.

torchvision and onestage take turns in one process (ours, theirs, theirs, ours, ...), so that whatever else slows the machine
down falls on both. Nothing sets the number of threads: it is what a user gets.
"""

from __future__ import annotations

import json
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
from torch import Tensor, nn

import onestage

CLASSES = 90
PASSING = 1500
"""Scores above 0.01 in a picture; trained SSDs give a few hundred to a few thousand."""
MODELS = ("ssd300_vgg16", "ssdlite320_mobilenet_v3_large")


@dataclass(frozen=True)
class Comparison:
    """Seconds that each turn took, ours and torchvision's, in the order they were measured."""

    what: str
    ours: list[float]
    theirs: list[float]

    @property
    def ratio(self) -> float:
        """How many times as fast ours is: the ratio of the medians."""
        return statistics.median(self.theirs) / statistics.median(self.ours)

    @property
    def spread(self) -> tuple[float, float]:
        """The quartiles of the ratios of neighbouring turns."""
        ratios = torch.tensor(self.theirs, dtype=torch.float64) / torch.tensor(self.ours, dtype=torch.float64)
        low, high = ratios.quantile(torch.tensor([0.25, 0.75], dtype=torch.float64)).tolist()
        return low, high


Turn = Callable[[], object]
"""What one contender does in one turn."""


Clock = Literal["wall", "cpu"]
"""Time as it passes, or what all threads of this process computed: that is fair on a busy machine too, but counts threads that
wait for each other as if they worked, unless OMP_WAIT_POLICY=PASSIVE is set."""


def compare(what: str, ours: Turn, theirs: Turn, *, repeats: int, warmup: int = 2, clock: Clock = "wall") -> Comparison:
    """Time two functions in turns, after ``warmup`` untimed turns of each."""
    now = time.perf_counter if clock == "wall" else time.process_time
    for _ in range(warmup):
        ours()
        theirs()
    times: dict[Turn, list[float]] = {ours: [], theirs: []}
    for turn in range(repeats):
        for function in (ours, theirs) if turn % 2 == 0 else (theirs, ours):
            start = now()
            function()
            times[function].append(now() - start)
    return Comparison(what, times[ours], times[theirs])


def pictures(count: int = 4, size: tuple[int, int] = (480, 640)) -> list[Tensor]:
    """``count`` smooth, colourful pictures (3, *size) uint8; the same every time."""
    generator = torch.Generator().manual_seed(1)
    clouds = torch.rand(count, 3, 9, 9, generator=generator)
    return list(F.interpolate(clouds, size, mode="bicubic").clamp(0, 1).mul(255).byte())


def pair(name: str) -> tuple[onestage.Detector, nn.Module]:
    """Our model and torchvision's of that name, in eval mode, with the same random weights and lively outputs."""
    torch.manual_seed(0)
    build = getattr(torchvision.models.detection, name)
    theirs = build(weights=None, weights_backbone=None, num_classes=CLASSES + 1)
    enliven(theirs)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "torchvision.pth"
        torch.save(theirs.state_dict(), path)
        ours = onestage.create(name, num_classes=CLASSES, weights=path)
    return ours.eval(), theirs.eval()


@torch.no_grad()
def enliven(model: nn.Module) -> None:
    """Give random weights the outputs of a trained model: activations of unit size, class logits with a standard deviation of
    2, and so much background above them that PASSING scores of a picture exceed 0.01."""
    images = model.transform([image / 255 for image in pictures()])[0].tensors
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0  # one pass sets the statistics: without it nothing of the picture gets through
    model.train().head(list(model.backbone(images).values()))
    logits = model.eval().head(list(model.backbone(images).values()))["cls_logits"]
    scale = 2 / logits.std()
    background = _background(logits * scale)
    for name, p in model.named_parameters():
        if "classification_head" in name and p.shape[0] % (CLASSES + 1) == 0:
            p.mul_(scale)
            if p.ndim == 1:
                p.view(-1, CLASSES + 1)[:, 0] += background


def _background(logits: Tensor) -> float:
    """How much must be added to the background's logits (B, A, C) that about PASSING scores of a picture exceed 0.01."""
    low, high = 0.0, 40.0
    for _ in range(20):
        middle = (low + high) / 2
        scores = torch.cat([logits[:, :, :1] + middle, logits[:, :, 1:]], dim=2).softmax(dim=2)[:, :, 1:]
        low, high = (middle, high) if (scores > 0.01).sum() > PASSING * len(logits) else (low, middle)
    return middle


def report(title: str, comparisons: Sequence[Comparison], *, path: Path | None) -> None:
    """Print a table, and write all that was measured to a JSON file."""
    where = environment()
    table = Table(title=title, caption=", ".join(f"{k} {v}" for k, v in where.items()))
    table.add_column()
    for column in ("onestage ms", "torchvision ms", "times as fast", "quartiles"):
        table.add_column(column, justify="right")
    for c in comparisons:
        ours, theirs = (f"{1000 * statistics.median(t):.1f}" for t in (c.ours, c.theirs))
        table.add_row(c.what, ours, theirs, f"{c.ratio:.2f}", "{:.2f} - {:.2f}".format(*c.spread))
    Console(width=None if sys.stdout.isatty() else 128).print(table)
    if path is not None:
        rows = [asdict(c) | {"ratio": c.ratio, "quartiles": c.spread} for c in comparisons]
        path.write_text(json.dumps({"title": title, "environment": where, "seconds": rows}, indent=1))


def environment() -> dict[str, str | int]:
    """Versions, threads and processor: what a number means nothing without."""
    return {
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "onestage": onestage.__version__,
        "python": platform.python_version(),
        "threads": torch.get_num_threads(),
        "cpu": torch.backends.cpu.get_cpu_capability(),
    }
