"""Batches, in an order and with an augmentation that depend on nothing but the seed, the epoch and the picture.

Not on the number of workers, not on the number of processes, not on whether training was interrupted: the order of an epoch is
permutation(seed, epoch), and what is random about a picture is drawn from a generator made of (seed, epoch, index). The global
generators are never touched. So an epoch resumed at batch k goes on with the very bits that it would have had.

Shape letters: B images, N objects of one picture, M objects of a batch; h, w the input.
"""

from __future__ import annotations

import hashlib
import os
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from onestage.data.dataset import Dataset
from onestage.data.table import OnBad
from onestage.data.transforms import Colour, EvalTransform, Prepared, TrainTransform, canvas_of
from onestage.errors import ConfigError, DataError
from onestage.structures import Batch, ImageMeta, Targets

Key = tuple[int, int]
"""(epoch, index): what a worker needs to know to make a picture."""

_SPARE = 10
"""How many pictures in a row may be unreadable before training stops, even when bad ones are skipped."""


@dataclass(frozen=True)
class Shard:
    """Which part of the work this process does: number ``rank`` of ``world`` processes."""

    rank: int = 0
    world: int = 1


class Failure(NamedTuple):
    """A picture that could not be read, and the whole message."""

    path: str
    message: str


class TrainLoader:
    """Epochs of augmented batches. ``batch_size`` counts the pictures of all processes together: one step of the optimiser.

    Every process gets the same number of batches, a disjoint share of each: 1 process with 8 pictures, 2 with 4 and 4 with 2
    see the same pictures in the same step. Pictures left over at the end of an epoch wait for the next permutation; a data
    set smaller than a batch is one batch.

    on_bad: "stop" raises DataError at a picture that cannot be read; "skip" puts the next one of the data set in its place and
    notes it in ``skipped`` (path -> message). workers: processes that decode and augment; 0 does it in this one.
    """

    def __init__(
        self,
        dataset: Dataset,
        transform: TrainTransform,
        *,
        batch_size: int,
        seed: int = 0,
        shard: Shard = Shard(),
        workers: int = 0,
        on_bad: OnBad = "stop",
        pin_memory: bool = False,
    ) -> None:
        _check_batch_size(batch_size, shard, count=len(dataset))
        self.batch_size = batch_size
        self.seed = seed
        self.shard = shard
        self._count = len(dataset)
        pictures = _Pictures(dataset, transform, seed=seed, spare=_SPARE if on_bad == "skip" else 0)
        self._reader = _Reader(pictures, workers=workers, on_bad=on_bad, pin_memory=pin_memory)

    def __len__(self) -> int:
        """Batches in an epoch."""
        return max(self._count // self.batch_size, 1)

    @property
    def skipped(self) -> dict[str, str]:
        return self._reader.skipped

    def epoch(self, epoch: int, *, start: int = 0) -> Iterator[Batch]:
        """This process's share of each batch of that epoch, from batch ``start`` on; nothing before it is decoded."""
        order = epoch_order(self._count, seed=self.seed, epoch=epoch)
        batches = [order[i * self.batch_size : (i + 1) * self.batch_size] for i in range(start, len(self))]
        for batch in self._reader.read([[(epoch, i) for i in b[self.shard.rank :: self.shard.world]] for b in batches]):
            if batch is None:
                raise DataError(
                    f"more than {_SPARE} pictures in a row cannot be read",
                    where=", ".join(list(self.skipped)[-3:]),
                    fix="see what is wrong with them: onestage data check",
                )
            yield batch


class EvalLoader:
    """Every picture once, in the data set's order: process r of w gets pictures r, r + w, r + 2w ... (``indices``).

    batch_size counts this process's pictures; the last batch may be smaller, nothing is padded. A picture that cannot be read
    raises DataError, or with on_bad="skip" is left out and noted in ``skipped`` (path -> message).
    """

    def __init__(
        self,
        dataset: Dataset,
        transform: EvalTransform,
        *,
        batch_size: int,
        shard: Shard = Shard(),
        workers: int = 0,
        on_bad: OnBad = "stop",
        pin_memory: bool = False,
    ) -> None:
        _check_batch_size(batch_size, Shard(), count=None)
        self.batch_size = batch_size
        self.indices = range(shard.rank, len(dataset), shard.world)
        pictures = _Pictures(dataset, transform, seed=0, spare=0)
        self._reader = _Reader(pictures, workers=workers, on_bad=on_bad, pin_memory=pin_memory)

    def __len__(self) -> int:
        return -(-len(self.indices) // self.batch_size)

    @property
    def skipped(self) -> dict[str, str]:
        return self._reader.skipped

    def __iter__(self) -> Iterator[Batch]:
        keys = [(0, i) for i in self.indices]
        batches = [keys[i : i + self.batch_size] for i in range(0, len(keys), self.batch_size)]
        return (batch for batch in self._reader.read(batches) if batch is not None)


def epoch_order(count: int, *, seed: int, epoch: int) -> list[int]:
    """The order in which an epoch shows the ``count`` pictures."""
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed_of(seed, epoch))).tolist()


def seed_of(*parts: int) -> int:
    """One 32-bit seed out of several numbers: neighbouring numbers give unrelated seeds, on every machine the same."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=4).digest()
    return int.from_bytes(digest, "little")


def usual_workers(world: int = 1) -> int:
    """How many workers suit each of ``world`` processes on this machine: its share of the cores less one, 1 to 16."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(max(cores // world - 1, 1), 16)


def _check_batch_size(batch_size: int, shard: Shard, *, count: int | None) -> None:
    """count is that of the pictures to be shared by all processes in every batch, None where a share may be empty."""
    if batch_size < 1 or batch_size % shard.world:
        expected = f"a positive multiple of {shard.world}, the number of processes" if shard.world > 1 else "1 or more"
        raise ConfigError("this batch size cannot be shared out", got=batch_size, expected=expected)
    if count is not None and count < shard.world:
        raise DataError("too few pictures to train on", got=count, expected=f"at least {shard.world}, one per process")


@dataclass(frozen=True)
class _Pictures(torch.utils.data.Dataset["_Item"]):
    """What runs in a worker: decode and transform one picture; when it cannot be read, one of the ``spare`` ones after it.

    Failures come back as values, for an exception would arrive with the worker's traceback in its message.
    """

    dataset: Dataset
    transform: TrainTransform | EvalTransform
    seed: int
    spare: int

    def __getitem__(self, key: Key) -> _Item:
        epoch, wanted = key
        failures: list[Failure] = []
        for index in (i % len(self.dataset) for i in range(wanted, wanted + 1 + self.spare)):
            generator = torch.Generator().manual_seed(seed_of(self.seed, epoch, index))
            try:
                return _Item(self.transform(self.dataset[index], generator), tuple(failures))
            except DataError as error:
                failures.append(Failure(self.dataset.paths[index], str(error)))
        return _Item(None, tuple(failures))


class _Item(NamedTuple):
    prepared: Prepared | None
    failures: tuple[Failure, ...]


class _Packed(NamedTuple):
    """A batch on its way from a worker. The objects of all pictures are packed together, for each tensor costs a file handle.

    images (B, 3, h, w), or None where no picture could be read; boxes (M, 4), labels (M,), ignore (M,); counts: N of each.
    """

    images: Tensor | None
    boxes: Tensor
    labels: Tensor
    ignore: Tensor
    counts: tuple[int, ...]
    metas: tuple[ImageMeta, ...]
    failures: tuple[Failure, ...]

    def unpack(self) -> Batch | None:
        if self.images is None:
            return None
        columns = (column.split(list(self.counts)) for column in (self.boxes, self.labels, self.ignore))
        return Batch(self.images, tuple(Targets(*rows) for rows in zip(*columns, strict=True)), self.metas)


def _pack(items: Sequence[_Item], *, fill: Colour) -> _Packed:
    """Pictures of different sizes are padded with ``fill`` at the right and bottom to the largest height and width."""
    prepared = [item.prepared for item in items if item.prepared is not None]
    failures = tuple(failure for item in items for failure in item.failures)
    if not prepared:
        return _Packed(None, torch.zeros(0, 4), torch.zeros(0), torch.zeros(0), (), (), failures)
    images, targets, metas = (list(column) for column in zip(*prepared, strict=True))
    height, width = (max(image.shape[dim] for image in images) for dim in (1, 2))
    if any(image.shape[1:] != (height, width) for image in images):
        images = [_pad(image, (height, width), fill) for image in images]
        metas = [replace(meta, input=(height, width)) for meta in metas]
    boxes, labels, ignore = (torch.cat([getattr(t, name) for t in targets]) for name in ("boxes", "labels", "ignore"))
    return _Packed(torch.stack(images), boxes, labels, ignore, tuple(len(t.boxes) for t in targets), tuple(metas), failures)


def _pad(image: Tensor, size: tuple[int, int], fill: Colour) -> Tensor:
    canvas = canvas_of(fill, size, like=image)
    canvas[:, : image.shape[1], : image.shape[2]] = image
    return canvas


@dataclass
class _Keys:
    """The batches that are to be read next. Workers live through many epochs, so the list changes, not the loader."""

    batches: list[list[Key]] = field(default_factory=list)

    def __iter__(self) -> Iterator[list[Key]]:
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)


class _Reader:
    """A DataLoader that reads the keys it is given and turns failures into errors or notes."""

    def __init__(self, pictures: _Pictures, *, workers: int, on_bad: OnBad, pin_memory: bool) -> None:
        self.skipped: dict[str, str] = {}
        self._on_bad = on_bad
        self._keys = _Keys()
        self._make_loader = partial(
            DataLoader[_Packed],
            pictures,  # type: ignore[arg-type]  # an item of it is not yet a batch
            batch_sampler=self._keys,
            collate_fn=partial(_pack, fill=pictures.transform.fill),
            num_workers=workers,
            persistent_workers=workers > 0,
            pin_memory=pin_memory,
            worker_init_fn=_leave_interrupts_to_parent,
            generator=torch.Generator(),  # or iter() would draw from the global one
        )
        self._loader = self._make_loader()

    def read(self, batches: list[list[Key]]) -> Iterator[Batch | None]:
        """The batches in order; None for one of which no picture could be read."""
        self._keys.batches = batches
        try:
            for packed in self._loader:
                self._note(packed.failures)
                yield packed.unpack()
        except Exception as error:
            self._loader = self._make_loader()  # end the workers now, not whenever the error's traceback is collected
            if not str(error).startswith("DataLoader worker"):
                raise
            fix = "often too little memory: try fewer --workers, or 0"
            raise DataError("a process that loads pictures died", got=error, fix=fix) from error

    def _note(self, failures: Sequence[Failure]) -> None:
        if failures and self._on_bad == "stop":
            raise DataError(failures[0].message)
        self.skipped.update(failures)


def _leave_interrupts_to_parent(worker: int) -> None:
    """Ctrl-C goes to every process of the terminal, and many a scheduler, torchrun too, asks every process to end; the parent
    alone decides what that means (save, then stop). A worker ends when its parent does.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
