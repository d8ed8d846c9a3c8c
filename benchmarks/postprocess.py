"""From SSD300's raw outputs for 90 classes to detections: our batched postprocessing against torchvision's loop.

    python benchmarks/postprocess.py --repeats 50 --json postprocess.json

No trained weights are needed: the outputs are constructed in several ways (``distributions``). The time depends on how many
scores pass the threshold of 0.01, how they cluster into objects, and how many classes they belong to. Before a distribution is
timed, the benchmark checks that both programs find the same detections.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from pathlib import Path

import torch
import torchvision
import tyro
from torch import Tensor
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.ssd import SSD

from common import CLASSES, Clock, Comparison, compare, report
from onestage import boxes as box_ops
from onestage.model.anchors.coder import BoxCoder
from onestage.model.output.postprocess import RawDetections
from onestage.structures import HeadOutput
from onestage.zoo.table import recipe

SIZE = (300, 300)
MAPS = (38, 19, 10, 5, 3, 1)


def trained(anchors: Tensor, objects: int, *, clutter: float, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Logits (A, 91) and deltas (A, 4) as a trained SSD gives them for a picture with that many objects.

    Background stands 12 above the classes, with a spread of 1.5 from class to class and anchor to anchor. For anchors that
    overlap an object, the logit of its class rises by up to 20 (more for a larger overlap), and those of four similar classes
    by about two thirds of that. Their offsets lead to the object with a small error. ``clutter`` is the share of all anchors
    with a false response: one class rises by 4 to 10.
    """
    random = torch.Generator().manual_seed(seed)
    count = len(anchors)
    logits = torch.randn(count, CLASSES + 1, generator=random) * 1.5
    logits[:, 0] += 12
    confused = (torch.rand(count, generator=random) < clutter).nonzero().flatten()
    surprise = 4 + 6 * torch.rand(len(confused), generator=random)
    logits[confused, torch.randint(1, CLASSES + 1, (len(confused),), generator=random)] += surprise

    sides = 30 + 150 * torch.rand(objects, 2, generator=random)
    centres = sides / 2 + (300 - sides) * torch.rand(objects, 2, generator=random)
    boxes = box_ops.from_cxcywh(torch.cat([centres, sides], dim=1))
    overlap, nearest = box_ops.iou(anchors, boxes).max(dim=1)
    near = (overlap > 0.3).nonzero().flatten()
    labels = torch.stack([torch.randperm(CLASSES, generator=random)[:5] + 1 for _ in range(objects)])[nearest[near]]
    strength = 20 * overlap[near, None] * torch.tensor([1.0, 0.7, 0.65, 0.6, 0.55])
    logits[near[:, None], labels] += strength + torch.randn(len(near), 5, generator=random)

    deltas = torch.randn(count, 4, generator=random) * 0.5
    deltas[near] = BoxCoder().encode(anchors[near], boxes[nearest[near]]) + 0.3 * torch.randn(len(near), 4, generator=random)
    return logits, deltas


def flat(anchors: Tensor, spread: float) -> tuple[Tensor, Tensor]:
    """Logits (A, 91) and deltas (A, 4) of an untrained SSD: every class is about as likely as the background. At a spread of
    0.05 most scores are just above 0.01.
    """
    random = torch.Generator().manual_seed(0)
    return torch.randn(len(anchors), CLASSES + 1, generator=random) * spread, torch.randn(len(anchors), 4, generator=random)


def distributions(anchors: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """Raw outputs by description."""
    return {
        "trained-like, 2 objects": trained(anchors, 2, clutter=0.005),
        "trained-like, 7 objects": trained(anchors, 7, clutter=0.02),
        "trained-like, 25 objects": trained(anchors, 25, clutter=0.05),
        "trained-like, empty picture": trained(anchors, 1, clutter=0.05),
        "flat, spread 0.05": flat(anchors, 0.05),
        "flat, spread 0.5": flat(anchors, 0.5),
        "random, spread 2": flat(anchors, 2.0),
    }


def check_same(found: RawDetections, other: dict[str, Tensor]) -> None:
    """Raise AssertionError unless both name the same boxes with the same labels and scores; their labels start at 1."""
    torch.testing.assert_close(found.scores, other["scores"], rtol=1e-5, atol=1e-7)
    near = (found.boxes[None] - other["boxes"][:, None]).abs().amax(2) < 0.01  # equal scores may change places
    alike = (found.scores[None] - other["scores"][:, None]).abs() < 1e-6
    same = near & alike & (found.labels[None] + 1 == other["labels"][:, None])
    missing = int((~same.any(1)).sum())
    assert missing <= len(found.scores) // 100, f"{missing} of {len(found.scores)} detections differ"


def turns(logits: Tensor, deltas: Tensor) -> tuple[Callable[[], list[RawDetections]], Callable[[], list[dict[str, Tensor]]]]:
    """Our postprocessing and torchvision's of the same B raw outputs, (B, A, C) and (B, A, 4)."""
    config = recipe("ssd300_vgg16", [str(i) for i in range(CLASSES)])
    theirs, anchors = their_model(), their_anchors()
    output = HeadOutput(logits, deltas, (), SIZE)
    heads = {"cls_logits": logits, "bbox_regression": deltas}
    levels = [side * side * len(level.shapes) for side, level in zip(MAPS, config.anchors, strict=True)]
    ours = partial(config.postprocess, output, anchors, config.coder, activation=config.loss.activation, levels=levels)
    batch = len(logits)
    return ours, partial(theirs.postprocess_detections, heads, [anchors] * batch, [SIZE] * batch)


@cache
def their_model() -> SSD:
    """torchvision's SSD300; its weights do not matter here."""
    model: SSD = torchvision.models.detection.ssd300_vgg16(weights=None, weights_backbone=None, num_classes=CLASSES + 1)
    return model


def their_anchors() -> Tensor:
    """The (8732, 4) anchors of torchvision's SSD300."""
    maps = [torch.empty(1, 1, side, side) for side in MAPS]
    anchors: Tensor = their_model().anchor_generator(ImageList(torch.empty(1, 3, *SIZE), [SIZE]), maps)[0]
    return anchors


def main(
    *, batches: tuple[int, ...] = (1, 8), repeats: int = 20, clock: Clock = "wall", json: Path | None = None
) -> list[Comparison]:
    """Compare postprocessing.

    Args:
        batches: pictures at once.
        repeats: timed turns of each.
        clock: wall time, or processor time on a busy machine.
        json: a file for all that was measured.
    """
    results = []
    with torch.inference_mode():
        for what, (logits, deltas) in distributions(their_anchors()).items():
            passing = int((logits.softmax(dim=1)[:, 1:] > 0.01).sum())
            for batch in batches:
                ours, theirs = turns(logits.expand(batch, -1, -1).clone(), deltas.expand(batch, -1, -1).clone())
                for found, other in zip(ours(), theirs(), strict=True):
                    check_same(found, other)
                name = f"{what} ({passing} scores > 0.01), {batch} at once"
                results.append(compare(name, ours, theirs, repeats=repeats, clock=clock))
    report(f"postprocessing, SSD300, 90 classes, {clock} time; same detections", results, path=json)
    return results


if __name__ == "__main__":
    tyro.cli(main)
