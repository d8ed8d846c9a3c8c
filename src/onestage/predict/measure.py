"""A detector measured on a data set: the one place where models meet metrics.

Shape letters: B images, A anchors, C logits per anchor.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from onestage.data import Dataset, list_splits, load_dataset
from onestage.data.loader import EvalLoader, Shard, usual_workers
from onestage.data.table import OnBad
from onestage.data.transforms import EvalTransform
from onestage.errors import ConfigError, known_keywords
from onestage.metrics.book import BookMetrics
from onestage.metrics.report import Report, measure
from onestage.model.anchors.max_iou import Assignment
from onestage.model.detector import Detector
from onestage.model.features import evaluating
from onestage.processes import Distributed
from onestage.structures import Batch, Detections, HeadOutput

Advance = Callable[[int], None]
"""Told how many pictures were done since the last call."""

_ALONE = Distributed(rank=0, world=1, local_rank=0, device=torch.device("cpu"))


@known_keywords
def evaluate(
    model: Detector,
    data: str | Path | Dataset,
    *,
    split: str | None = None,
    batch_size: int = 16,
    workers: int | None = None,
    on_bad: OnBad = "stop",
    advance: Advance | None = None,
) -> Report:
    """Every figure of the detector on a data set: COCO AP, VOC AP, per class, validation loss, the book's class error and box
    MAE.

    data: a path, or a Dataset already read. split: of a path; by default "test", else "val", else everything.
    Raises DataError where the data cannot be used, ConfigError where its classes are not the model's.
    """
    dataset = data if isinstance(data, Dataset) else read_for(model, data, split=split, on_bad=on_bad)
    return evaluate_dataset(model, dataset, batch_size=batch_size, workers=workers, on_bad=on_bad, advance=advance)[0]


def read_for(model: Detector, path: str | Path, *, split: str | None, on_bad: OnBad, format: str | None = None) -> Dataset:
    """The data set at ``path``, with the labels of the model's classes. ConfigError where it knows none of them."""
    if split is None:
        split = next((s for s in ("test", "val") if s in list_splits(path, format)), None)
    return load_dataset(path, format, split=split, classes=model.config.classes, on_bad=on_bad)


def evaluate_dataset(
    model: Detector,
    dataset: Dataset,
    *,
    batch_size: int = 16,
    workers: int | None = None,
    on_bad: OnBad = "stop",
    advance: Advance | None = None,
    distributed: Distributed = _ALONE,
) -> tuple[Report, list[Detections]]:
    """The report and the detections behind it, in the order of the data set; under several processes each one gets both.

    Process r of w takes pictures r, r + w, ...; nothing is padded or counted twice.
    """
    if dataset.classes != model.config.classes:
        raise ConfigError(
            "the data set's classes are not the model's",
            where=dataset.root,
            got=", ".join(dataset.classes),
            expected=", ".join(model.config.classes),
            fix="read it with the model's: onestage.data.load_dataset(path, classes=model.config.classes)",
        )
    shard = Shard(distributed.rank, distributed.world)
    workers = usual_workers(distributed.world) if workers is None else workers
    transform = EvalTransform(model.config.preprocess.resize, fill=model.config.preprocess.colour)
    loader = EvalLoader(dataset, transform, batch_size=batch_size, shard=shard, workers=workers, on_bad=on_bad)
    found, losses, book = _run(model, loader, advance)

    parts = distributed.gather_objects((loader.indices, loader.skipped, found, losses, book))
    skipped = {path for _, paths, *_ in parts for path in paths}
    kept = [i for i in range(len(dataset)) if dataset.paths[i] not in skipped]
    by_id = {d.image_id: d for _, _, part, *_ in parts for d in part}
    assert len(by_id) == len(kept), "every picture exactly once"
    detections = [by_id[dataset.image_ids[i]] for i in kept]
    sums = torch.stack([losses for *_, losses, _ in parts]).sum(0)
    names = [*_LOSSES, "total"]
    means = [*(sums[:-1] / sums[-1].clamp(min=1)).tolist()]
    report = measure(
        detections,
        [dataset.truth(i) for i in kept],
        dataset.classes,
        model=model.config.name,
        data=" ".join(filter(None, (dataset.root.name, dataset.split))),
        losses=dict(zip(names, [*means, sum(means)], strict=True)),
        book=sum((book for *_, book in parts), BookMetrics()),
    )
    return report, detections


_LOSSES = ("cls", "box")


@torch.inference_mode()
def _run(model: Detector, loader: EvalLoader, advance: Advance | None) -> tuple[list[Detections], Tensor, BookMetrics]:
    """Detections, summed losses (cls, box, divisor) and the book's sums of this process's pictures."""
    found: list[Detections] = []
    sums, book = torch.zeros(3, dtype=torch.float64), BookMetrics()
    one = torch.ones((), device=model.device)
    with evaluating(model):
        for batch in loader:
            output, assignment = _forward(model, batch)
            found += model.decode(output, batch.metas)
            losses = model.loss(output, assignment, normalizer=one)
            divisor = model.config.loss.normalizer(assignment.matches)
            sums += torch.stack([*(losses[name] for name in _LOSSES), divisor]).double().cpu()
            book += _book(model, output, assignment)
            if advance is not None:
                advance(len(batch.metas))
    return found, sums, book


def _forward(model: Detector, batch: Batch) -> tuple[HeadOutput, Assignment]:
    batch = batch.to(model.device)
    output: HeadOutput = model(model.config.preprocess.normalize(batch.images))
    return output, model.assign(batch.targets, output.input_size)


def _book(model: Detector, output: HeadOutput, assignment: Assignment) -> BookMetrics:
    """The d2l book's sums for one batch; class 0 is background there."""
    image, anchor, match = assignment.positives()
    assigned = torch.zeros_like(assignment.matches)
    assigned[image, anchor] = assignment.labels[image, match] + 1
    targets = torch.zeros_like(output.deltas)
    targets[image, anchor] = model.config.coder.encode(assignment.anchors[anchor], assignment.boxes[image, match])
    if model.config.loss.activation == "softmax":
        predicted = output.logits.argmax(dim=2)
    else:
        score, label = output.logits.max(dim=2)
        predicted = torch.where(score > 0, label + 1, 0)
    return BookMetrics.of(predicted, assigned, deltas=output.deltas, targets=targets, positive=assignment.matches >= 0)
