"""Batches. Their order and their augmentation depend on the seed, the epoch and the picture alone.

They do not depend on the number of workers or processes, nor on interruptions. The order of an epoch is
permutation(seed, epoch), and what is random about a picture comes from a generator made of (seed, epoch, index). The global
generators stay untouched. So an epoch that resumes at batch k goes on to the same bits as one without interruption.

Shape letters: B images, N objects of one picture, M objects of a batch; h, w the input.
"""

from __future__ import annotations

import hashlib
import os
import signal
import weakref
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from multiprocessing.process import BaseProcess
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from onestage.data.dataset import Dataset
from onestage.data.table import OnBad
from onestage.data.transforms import Colour, EvalTransform, Prepared, TrainTransform, canvas_of
from onestage.errors import ConfigError, DataError, OnestageError
from onestage.structures import Batch, ImageMeta, Size, Targets

EpochIndex = tuple[int, int]
"""(epoch, index): what a worker needs to make a picture."""

_SPARE = 10
"""How many pictures in a row may be unreadable before training stops, even with on_bad="skip"."""


@dataclass(frozen=True)
class Shard:
    """Which part of the work this process does: number ``rank`` of ``world`` processes."""

    rank: int = 0
    world: int = 1


class Failure(NamedTuple):
    """A picture that could not be read or transformed, and why."""

    path: str
    error: OnestageError


class TrainLoader:
    """Epochs of augmented batches. ``batch_size`` counts the pictures of all processes together: one step of the optimiser.

    Every process gets the same number of batches, and a disjoint share of each batch: 1 process with 8 pictures, 2 with 4 and
    4 with 2 see the same pictures in the same step. The last pictures of an epoch that fill no batch are left out. A data
    set smaller than a batch is one batch.

    on_bad: "stop" raises DataError at a picture that cannot be read; "skip" takes the next picture of the data set instead
    and notes the error in ``skipped``. workers: processes that decode and augment; 0 means this process.
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
    def skipped(self) -> Mapping[str, OnestageError]:
        """Why a picture was skipped, by its path."""
        return self._reader.skipped

    def epoch(self, epoch: int, *, start: int = 0) -> Iterator[Batch]:
        """This process's share of each batch of an epoch, images (B, 3, h, w), from batch ``start`` on. Earlier
        pictures are not decoded.
        """
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

    batch_size counts this process's pictures; the last batch may be smaller. A picture that cannot be read raises DataError.
    With on_bad="skip" it is left out, and ``skipped`` notes the error.
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
        """Batches of this process, before any picture is left out."""
        return -(-len(self.indices) // self.batch_size)

    @property
    def skipped(self) -> Mapping[str, OnestageError]:
        """Why a picture was left out, by its path."""
        return self._reader.skipped

    def __iter__(self) -> Iterator[Batch]:
        """The batches in order, images (B, 3, h, w)."""
        keys = [(0, i) for i in self.indices]
        batches = [keys[i : i + self.batch_size] for i in range(0, len(keys), self.batch_size)]
        return (batch for batch in self._reader.read(batches) if batch is not None)


def epoch_order(count: int, *, seed: int, epoch: int) -> list[int]:
    """The order in which an epoch shows ``count`` pictures."""
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed_of(seed, epoch))).tolist()


def seed_of(*parts: int) -> int:
    """One 32-bit seed from several numbers. Neighbouring numbers give unrelated seeds; all machines give the same ones."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=4).digest()
    return int.from_bytes(digest, "little")


def usual_workers(world: int = 1) -> int:
    """How many workers suit each of ``world`` processes on this machine: 1 to 16, one less than its share of the cores."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(max(cores // world - 1, 1), 16)


def _check_batch_size(batch_size: int, shard: Shard, *, count: int | None) -> None:
    """Raise ConfigError or DataError. count: the pictures to share out, one or more for each process; None: any number."""
    if batch_size < 1 or batch_size % shard.world:
        expected = f"a positive multiple of {shard.world}, the number of processes" if shard.world > 1 else "1 or more"
        raise ConfigError("this batch size cannot be shared out", got=batch_size, expected=expected)
    if count is not None and count < shard.world:
        raise DataError("too few pictures to train on", got=count, expected=f"at least {shard.world}, one per process")


@dataclass(frozen=True)
class _Pictures(torch.utils.data.Dataset["_Item"]):
    """Run in a worker: decode and transform one picture or, if that fails, one of the ``spare`` pictures after it.

    Errors that a user can mend come back as values. DataLoader would raise them again without their parts, and with the
    worker's traceback as their text.
    """

    dataset: Dataset
    transform: TrainTransform | EvalTransform
    seed: int
    spare: int

    def __getitem__(self, key: EpochIndex) -> _Item:
        epoch, wanted = key
        failures: list[Failure] = []
        for index in (i % len(self.dataset) for i in range(wanted, wanted + 1 + self.spare)):
            generator = torch.Generator().manual_seed(seed_of(self.seed, epoch, index))
            try:
                return _Item(self.transform(self.dataset[index], generator), tuple(failures))
            except OnestageError as error:
                failures.append(Failure(self.dataset.paths[index], error))
        return _Item(None, tuple(failures))


class _Item(NamedTuple):
    prepared: Prepared | None
    failures: tuple[Failure, ...]


class _Packed(NamedTuple):
    """A batch on its way from a worker. Each tensor costs a file handle, so the objects of all pictures share tensors.

    images (B, 3, h, w), or None if no picture could be read; boxes (M, 4), labels (M,), ignore (M,); counts: N of each
    picture.
    """

    images: Tensor | None
    boxes: Tensor
    labels: Tensor
    ignore: Tensor
    counts: tuple[int, ...]
    metas: tuple[ImageMeta, ...]
    failures: tuple[Failure, ...]

    def unpack(self) -> Batch | None:
        """The batch, images (B, 3, h, w); None if no picture could be read."""
        if self.images is None:
            return None
        columns = (column.split(list(self.counts)) for column in (self.boxes, self.labels, self.ignore))
        return Batch(self.images, tuple(Targets(*rows) for rows in zip(*columns, strict=True)), self.metas)


def _pack(items: Sequence[_Item], *, fill: Colour) -> _Packed:
    """One batch. Pictures of different sizes are padded with ``fill`` at the right and bottom to the largest size."""
    prepared = [item.prepared for item in items if item.prepared is not None]
    failures = tuple(failure for item in items for failure in item.failures)
    if not prepared:
        return _Packed(None, torch.zeros(0, 4), torch.zeros(0), torch.zeros(0), (), (), failures)
    images, targets, metas = zip(*prepared, strict=True)
    size = max(image.shape[1] for image in images), max(image.shape[2] for image in images)
    stacked = torch.stack([_pad(image, size, fill) for image in images])
    return _Packed(stacked, *_pack_objects(targets), tuple(replace(meta, input=size) for meta in metas), failures)


def _pack_objects(targets: Sequence[Targets]) -> tuple[Tensor, Tensor, Tensor, tuple[int, ...]]:
    """The objects of all pictures: boxes (M, 4), labels (M,), ignore (M,), and N of each picture."""
    boxes = torch.cat([target.boxes for target in targets])
    labels = torch.cat([target.labels for target in targets])
    ignore = torch.cat([target.ignore for target in targets])
    return boxes, labels, ignore, tuple(len(target.boxes) for target in targets)


def _pad(image: Tensor, size: Size, fill: Colour) -> Tensor:
    """(3, h, w) -> (3, *size), the picture at the top left."""
    if image.shape[1:] == size:
        return image
    canvas = canvas_of(fill, size, like=image)
    canvas[:, : image.shape[1], : image.shape[2]] = image
    return canvas


@dataclass
class _Keys:
    """The batches to read next. Workers live through many epochs, so this list changes and the loader stays."""

    batches: list[list[EpochIndex]] = field(default_factory=list)

    def __iter__(self) -> Iterator[list[EpochIndex]]:
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)


class _Reader:
    """A DataLoader that reads the keys it is given and turns failures into errors or notes."""

    def __init__(self, pictures: _Pictures, *, workers: int, on_bad: OnBad, pin_memory: bool) -> None:
        self.skipped: dict[str, OnestageError] = {}
        self._on_bad = on_bad
        self._keys = _Keys()
        self._loader: DataLoader[_Packed] = DataLoader(
            pictures,  # type: ignore[arg-type]  # an item of it is not yet a batch
            batch_sampler=self._keys,
            collate_fn=partial(_pack, fill=pictures.transform.fill),
            num_workers=workers,
            persistent_workers=workers > 0,
            pin_memory=pin_memory,
            worker_init_fn=_leave_interrupts_to_parent,
            generator=torch.Generator(),  # iter() draws from it; without one, from the global generator
        )
        weakref.finalize(self, _end_workers, self._loader)

    def read(self, batches: list[list[EpochIndex]]) -> Iterator[Batch | None]:
        """The batches in order; None for a batch of which no picture could be read."""
        self._keys.batches = batches
        try:
            for packed in self._loader:
                self._note(packed.failures)
                yield packed.unpack()
        except Exception as error:
            died = self._worker_died()
            _end_workers(self._loader)
            if not died:
                raise
            fix = "often too little memory: try fewer --workers, or 0"
            raise DataError("a process that loads pictures died", got=error, fix=fix) from error

    def _worker_died(self) -> bool:
        """Whether a worker process has ended. None ends before the loader ends it."""
        workers: Sequence[BaseProcess] = getattr(self._loader._iterator, "_workers", ())
        return any(worker.exitcode is not None for worker in workers)

    def _note(self, failures: Sequence[Failure]) -> None:
        """Raise the first error that must not be skipped, and note all other errors."""
        for path, error in failures:
            if self._on_bad == "stop" or not isinstance(error, DataError):
                raise error
            self.skipped[path] = error


def _end_workers(loader: DataLoader[_Packed]) -> None:
    """End the worker processes now; the next epoch starts new ones.

    Without this they end when their iterator is collected. The traceback of an error may keep it for long, and a global
    variable until Python exits. Python then waits forever, since workers ignore its request to end.
    """
    iterator, loader._iterator = loader._iterator, None
    if iterator is not None:
        iterator._shutdown_workers()  # type: ignore[attr-defined]  # only an iterator with workers is kept


def _leave_interrupts_to_parent(worker: int) -> None:
    """Ignore Ctrl-C and requests to end. A terminal sends them to every process, and so do many schedulers and torchrun. The
    parent alone decides what to do (save, then stop). A worker ends when its parent does.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
