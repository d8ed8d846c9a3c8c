"""A predictor measured on a data set: the one place where predictions meet metrics.

Shape letters: B images, A anchors, C logits per anchor, H and W of a picture.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import zip_longest
from typing import TypeVar, cast

import torch
from torch import Tensor

from onestage.data import Dataset
from onestage.data.loader import EvalLoader, Shard, usual_workers
from onestage.data.table import OnBad
from onestage.data.transforms import EvalTransform
from onestage.data.workers import Workers
from onestage.errors import ConfigError, OnestageError, check_number
from onestage.metrics.book import BookMetrics
from onestage.metrics.report import Report, measure
from onestage.model.anchors.max_iou import Assignment
from onestage.model.detector import Criterion, Detector
from onestage.predict.predictor import MOST_PIXELS, Looker, Predictor
from onestage.processes import Distributed
from onestage.structures import Batch, Detections, HeadOutput, ImageMeta

T = TypeVar("T")

Advance = Callable[[int], None]
"""A function that gets the number of pictures measured since the last call."""

_ALONE = Distributed(rank=0, world=1, local_rank=0, device=torch.device("cpu"))
_LOSSES = ("cls", "box")


def evaluate_dataset(
    model: Detector | Looker,
    dataset: Dataset,
    *,
    batch_size: int = 16,
    workers: int | Workers | None = None,
    on_bad: OnBad = "stop",
    advance: Advance | None = None,
    distributed: Distributed = _ALONE,
    skipped: dict[str, OnestageError] | None = None,
) -> tuple[Report, list[Detections]]:
    """The report and the detections behind it, in the order of the data set; with several processes, each one gets both.

    Anything that looks at pictures can be measured. The validation loss, the class error and the box MAE need the output of the
    network for the whole picture: they are missing in the report if the engine gives detections instead, or if the model looks
    closer (``predict.views``). Scores are calibrated if the file of the model says how; its thresholds are not applied. Process
    r of w takes batches r, r + w, ...; no picture is counted twice, and the figures have the same bits for any w. skipped: gets
    why a picture could not be read, by path, with on_bad="skip". Raise ConfigError if the classes of the data set are not those
    of the model.
    """
    check_number("batch_size", batch_size, least=1, whole=True)
    looker = Predictor.of(model) if isinstance(model, Detector) else model
    _check_classes(dataset, looker.classes)
    shard = Shard(distributed.rank, distributed.world)
    workers = usual_workers(distributed.world) if workers is None else workers
    load = partial(EvalLoader, dataset, shard=shard, workers=workers, on_bad=on_bad)
    part = _part(looker, load, batch_size, advance)
    parts = distributed.gather_objects(part)
    detections, rows = _in_order(dataset, parts, {} if skipped is None else skipped)
    has_outputs = all(part.has_outputs for part in parts)
    report = measure(
        detections,
        [dataset.truth(row) for row in rows],
        dataset.classes,
        model=looker.name,
        data=name_of(dataset),
        losses=_mean_losses(_in_turn(part.losses for part in parts)) if has_outputs else None,
        book=sum(_in_turn(part.books for part in parts), BookMetrics()) if has_outputs else None,
    )
    return report, detections


def _part(looker: Looker, load: Callable[..., EvalLoader], batch_size: int, advance: Advance | None) -> _Part:
    """Measure the pictures of this process. load: makes their loader."""
    if not isinstance(looker, Predictor):
        return _look(looker, load(EvalTransform(_as_it_is), batch_size=1), advance, batch_size)
    preprocess = looker.config.preprocess
    loader = load(EvalTransform(preprocess.resize, fill=preprocess.colour), batch_size=batch_size)
    return _run(looker, loader, advance)


def name_of(dataset: Dataset) -> str:
    """What a report calls a data set: its folder and its split."""
    return " ".join(filter(None, (dataset.root.name, dataset.split)))


def _check_classes(dataset: Dataset, classes: tuple[str, ...]) -> None:
    if dataset.classes != classes:
        raise ConfigError(
            "the data set's classes are not the model's",
            where=dataset.root,
            got=", ".join(dataset.classes),
            expected=", ".join(classes),
            fix="read it with the model's: onestage.data.load_dataset(path, classes=model.classes)",
        )


@dataclass
class _Part:
    """What one process measured. skipped: why a picture could not be read, by path.

    losses: for each batch (3,) float64, the sums of cls and box and their divisor. Like books, it stays empty if the engine
    gives no outputs.
    """

    found: list[Detections] = field(default_factory=list)
    skipped: Mapping[str, OnestageError] = field(default_factory=dict)
    losses: list[Tensor] = field(default_factory=list)
    books: list[BookMetrics] = field(default_factory=list)
    has_outputs: bool = True


def _in_order(
    dataset: Dataset, parts: Sequence[_Part], skipped: dict[str, OnestageError]
) -> tuple[list[Detections], list[int]]:
    """The detections of all processes in the order of the data set, and the rows of their pictures. skipped: gets the rest."""
    skipped.update({path: error for part in parts for path, error in part.skipped.items()})
    rows = [row for row in range(len(dataset)) if dataset.paths[row] not in skipped]
    found = {d.image_id: d for part in parts for d in part.found}
    assert len(found) == len(rows), "every picture exactly once"
    return [found[dataset.image_ids[row]] for row in rows], rows


def _as_it_is(image: Tensor) -> tuple[Tensor, ImageMeta]:
    """The picture (3, H, W) itself."""
    size = image.shape[1], image.shape[2]
    return image, ImageMeta.stretched(size, size)


def _look(looker: Looker, loader: EvalLoader, advance: Advance | None, batch_size: int) -> _Part:
    """Show all pictures of this process to a looker, ``batch_size`` together if they are small. The loader gives them one by
    one, as they are.
    """
    part = _Part(has_outputs=False)
    waiting: list[Batch] = []

    def look() -> None:
        found = looker.detect([batch.images[0] for batch in waiting])
        for one, batch in zip(found, waiting, strict=True):
            meta = batch.metas[0]
            part.found.append(looker.believed(replace(one, image_id=meta.image_id, path=meta.path)))
        if advance is not None:
            advance(len(waiting))
        waiting.clear()

    for batch in loader:
        pixels = sum(one.images[0, 0].numel() for one in (*waiting, batch))
        if waiting and (len(waiting) == batch_size or pixels > MOST_PIXELS):
            look()
        waiting.append(batch)
    if waiting:
        look()
    part.skipped = dict(loader.skipped)
    return part


@torch.inference_mode()
def _run(predictor: Predictor, loader: EvalLoader, advance: Advance | None) -> _Part:
    """Put all pictures of this process through the predictor."""
    part, device = _Part(), predictor.engine.device
    criterion = Criterion(predictor.decoder.config, predictor.decoder.anchors)
    one = torch.ones((), dtype=torch.float32, device=device)
    for batch in loader:
        moved = batch.to(device)
        output = predictor.run(moved.images, moved.metas)
        part.found += map(predictor.believed, predictor.decode(output, moved.metas))
        if isinstance(output, HeadOutput):
            _add_losses(part, criterion, output, moved, one=one)
        else:
            part.has_outputs = False
        if advance is not None:
            advance(len(batch.metas))
    part.skipped = dict(loader.skipped)
    return part


def _add_losses(part: _Part, criterion: Criterion, output: HeadOutput, batch: Batch, *, one: Tensor) -> None:
    """Add the losses of a batch's outputs. one: (), the divisor that leaves the sums as they are."""
    assignment = criterion.assign(batch.targets, output.level_sizes, output.input_size, device=one.device)
    losses = criterion.loss(output, assignment, normalizer=one)
    divisor = criterion.config.loss.normalizer(assignment.matches)
    part.losses.append(torch.stack([*(losses[name] for name in _LOSSES), divisor]).double().cpu())
    part.books.append(_book(criterion, output, assignment))


def _in_turn(parts: Iterable[Iterable[T]]) -> Iterator[T]:
    """What the processes have of their batches, in the order of the batches: sums in one order have the same bits."""
    missing = object()
    return (cast(T, one) for turn in zip_longest(*parts, fillvalue=missing) for one in turn if one is not missing)


def _mean_losses(batches: Iterable[Tensor]) -> dict[str, float]:
    """The losses per positive anchor over all batches, each (3,), with their total."""
    sums = sum(batches, torch.zeros(3, dtype=torch.float64, device="cpu"))
    means = [*(sums[:-1] / sums[-1].clamp(min=1)).tolist()]
    return dict(zip((*_LOSSES, "total"), (*means, sum(means)), strict=True))


def _book(criterion: Criterion, output: HeadOutput, assignment: Assignment) -> BookMetrics:
    """The d2l book's sums for one batch; class 0 is background there. output: logits (B, A, C), deltas (B, A, 4)."""
    config = criterion.config
    image, anchor, match = assignment.positives()
    assigned = torch.zeros_like(assignment.matches)
    assigned[image, anchor] = assignment.labels[image, match] + 1
    targets = torch.zeros_like(output.deltas)
    targets[image, anchor] = config.coder.encode(assignment.anchors[anchor], assignment.boxes[image, match])
    if config.loss.activation == "softmax":
        predicted = output.logits.argmax(dim=2)
    else:
        score, label = output.logits.max(dim=2)
        predicted = torch.where(score > 0, label + 1, 0)
    return BookMetrics.of(predicted, assigned, deltas=output.deltas, targets=targets, positive=assignment.matches >= 0)
