"""Batches. Their order and their augmentation depend on the seed, the epoch and the picture alone.

They do not depend on the number of workers or processes, nor on interruptions. The order of an epoch is
permutation(seed, epoch), and what is random about a picture comes from a generator made of (seed, epoch, index). For a picture
that an epoch shows again, the number of the repetition is a part of it too. The global generators stay untouched. So an
epoch that resumes at batch k goes on to the same bits as one without interruption.

Shape letters: B images, N objects of one picture, M objects of a batch; h, w the input.
"""

from __future__ import annotations

import contextlib
import os
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from onestage.data.balance import repeat_factors
from onestage.data.cache import PictureCache
from onestage.data.dataset import Dataset
from onestage.data.memory import Admit, Share
from onestage.data.mosaic import PICTURES, Mosaic
from onestage.data.order import WINDOW_OF_GROUPS, Order, repetitions, seed_of
from onestage.data.remarks import without_remarks
from onestage.data.table import OnBad
from onestage.data.transforms import Colour, EvalTransform, Prepared, TrainTransform, canvas_of
from onestage.data.undecoded import Decoder, PictureSource, Undecoded
from onestage.data.workers import Parcel, WorkerPool, Workers
from onestage.errors import ConfigError, DataError, OnestageError
from onestage.structures import Batch, ImageMeta, Sample, Size, Targets

Made = TypeVar("Made")


@dataclass(frozen=True)
class Key:
    """What a worker needs to make a picture. repetition: how often this epoch has shown it before. clean: without mosaic and
    scale jitter.
    """

    epoch: int
    index: int
    repetition: int = 0
    clean: bool = False


Keys = Sequence[Key]
"""Of the pictures of a batch."""

_SPARE = 10
"""How many pictures in a row may be unreadable before training stops, even with on_bad="skip"."""


@dataclass(frozen=True)
class Shard:
    """Which part of the work this process does: number ``rank`` of ``world`` processes."""

    rank: int = 0
    world: int = 1


@dataclass(frozen=True)
class Feed:
    """Which pictures a training gets, and how they are brought.

    balance: the share of pictures below which a class is shown more often (``data.balance``); 0: an epoch shows each picture
    once. decoder: who decodes JPEGs. cache: gigabytes of decoded pictures that this process and its workers keep in memory.
    pin_memory: put batches into pinned memory, from which a GPU copies faster.
    """

    balance: float = 0.0
    decoder: Decoder = "pillow"
    cache: float = 0.0
    pin_memory: bool = False


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
        workers: int | Workers = 0,
        on_bad: OnBad = "stop",
        feed: Feed = Feed(),
    ) -> None:
        _check_batch_size(batch_size, shard, count=len(dataset))
        self.batch_size = batch_size
        self.seed = seed
        self.shard = shard
        self._count = len(dataset)
        factors = repeat_factors(dataset, feed.balance) if feed.balance else None
        self._order = _order_of(dataset, seed, factors)
        spare = _SPARE if on_bad == "skip" else 0
        workers = _as_workers(workers)
        size = int(feed.cache * 1e9)
        cache = PictureCache(size, count=len(dataset), processes=max(workers.count, 1)) if size else None
        source = PictureSource(dataset, feed.decoder, cache)
        pictures = _Pictures(source, transform, clean=transform.clean, order=self._order, spare=spare)
        self._reader = _Reader(pictures, workers=workers, on_bad=on_bad, pin_memory=feed.pin_memory)

    def __len__(self) -> int:
        """Batches in an epoch."""
        return max(self._count // self.batch_size, 1)

    @property
    def skipped(self) -> Mapping[str, OnestageError]:
        """Why a picture was skipped, by its path."""
        return self._reader.skipped

    def epoch(self, epoch: int, *, start: int = 0, clean_from: int | None = None) -> Iterator[Batch]:
        """This process's share of each batch of an epoch, images (B, 3, h, w), from batch ``start`` on. Earlier
        pictures are not decoded. From batch ``clean_from`` on, there is no mosaic and no scale jitter; None: all may have them.
        """
        order = self._order.epoch(epoch)
        again = repetitions(order)
        clean = len(order) if clean_from is None else clean_from * self.batch_size
        size, shard = self.batch_size, self.shard

        def keys(number: int) -> Keys:
            mine = range(number * size + shard.rank, min((number + 1) * size, len(order)), shard.world)
            return [Key(epoch, int(order[n]), int(again[n]), n >= clean) for n in mine]

        for batch in self._reader.read(map(keys, range(start, len(self)))):
            if batch is None:
                raise DataError(
                    f"more than {_SPARE} pictures in a row cannot be read",
                    where=", ".join(list(self.skipped)[-3:]),
                    fix=f"see what is wrong with them: {self._reader.doctor}",
                )
            yield batch


class EvalLoader:
    """Every picture once, in the data set's order (``indices``): process r of w gets the batches r, r + w, r + 2w ... A batch
    has the same pictures whatever w is: the bits that a network computes may depend on what else is in the batch.

    The last batch of all may be smaller. A picture that cannot be read raises DataError.
    With on_bad="skip" it is left out, and ``skipped`` notes the error.
    """

    def __init__(
        self,
        dataset: Dataset,
        transform: EvalTransform,
        *,
        batch_size: int,
        shard: Shard = Shard(),
        workers: int | Workers = 0,
        on_bad: OnBad = "stop",
        pin_memory: bool = False,
    ) -> None:
        _check_batch_size(batch_size, Shard(), count=None)
        self.batch_size = batch_size
        firsts = range(shard.rank * batch_size, len(dataset), shard.world * batch_size)
        self.indices = [i for first in firsts for i in range(first, min(first + batch_size, len(dataset)))]
        pictures = _Pictures(PictureSource(dataset), transform, clean=transform, order=Order(len(dataset), 0), spare=0)
        self._reader = _Reader(pictures, workers=_as_workers(workers), on_bad=on_bad, pin_memory=pin_memory)

    def __len__(self) -> int:
        """Batches of this process, before any picture is left out."""
        return -(-len(self.indices) // self.batch_size)

    @property
    def skipped(self) -> Mapping[str, OnestageError]:
        """Why a picture was left out, by its path."""
        return self._reader.skipped

    def __iter__(self) -> Iterator[Batch]:
        """The batches in order, images (B, 3, h, w)."""
        firsts = range(0, len(self.indices), self.batch_size)
        batches = ([Key(0, i) for i in self.indices[first : first + self.batch_size]] for first in firsts)
        return (batch for batch in self._reader.read(batches) if batch is not None)


def _order_of(dataset: Dataset, seed: int, factors: Tensor | None) -> Order:
    """The order of the epochs: pictures that lie in larger files come in windows of these, or of row groups."""
    if dataset.parts is None:
        return Order(len(dataset), seed, factors)
    groups = dataset.parts.groups
    if groups is None:
        return Order(len(dataset), seed, factors, torch.from_numpy(dataset.parts.file))
    return Order(len(dataset), seed, factors, torch.from_numpy(groups), WINDOW_OF_GROUPS)


def usual_workers(world: int = 1) -> int:
    """How many workers suit each of ``world`` processes on this machine: 1 to 16, one less than its share of the cores."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(max(cores // world - 1, 1), 16)


def _as_workers(workers: int | Workers) -> Workers:
    return workers if isinstance(workers, Workers) else Workers(workers)


def _check_batch_size(batch_size: int, shard: Shard, *, count: int | None) -> None:
    """Raise ConfigError or DataError. count: the pictures to share out, one or more for each process; None: any number."""
    if batch_size < 1 or batch_size % shard.world:
        expected = f"a positive multiple of {shard.world}, the number of processes" if shard.world > 1 else "1 or more"
        raise ConfigError("this batch size cannot be shared out", got=batch_size, expected=expected, fix="change batch_size=")
    if count is not None and count < shard.world:
        expected, fix = f"at least {shard.world}, one per process", "add pictures, or start fewer processes"
        raise DataError("too few pictures to train on", got=count, expected=expected, fix=fix)


@dataclass(frozen=True)
class _Pictures:
    """Run in a worker: decode and transform pictures. In place of one that fails comes one of the ``spare`` pictures after it.

    clean: the transform for the last part of a training. Errors that a user can mend come back as values.
    """

    source: PictureSource
    transform: TrainTransform | EvalTransform
    clean: TrainTransform | EvalTransform
    order: Order
    spare: int

    def load(self, keys: Keys, share: Share) -> Parcel[_Rest]:
        """A batch: images (B, 3, h, w), None if no picture could be read, and the rest."""
        return _pack([self._load_one(key, share) for key in keys], fill=self.transform.fill)

    def names(self, keys: Keys) -> str:
        """The pictures of a batch, for messages."""
        paths = [self.dataset.paths[key.index] for key in keys]
        return ", ".join(paths[:3]) + (f" and {len(paths) - 3} more" if len(paths) > 3 else "")

    @property
    def dataset(self) -> Dataset:
        return self.source.dataset

    def _load_one(self, key: Key, share: Share) -> _Item:
        failures: list[Failure] = []
        use = partial(self._use, key, share, failures)
        mosaic = self._mosaic(key)
        if mosaic is None:
            prepared = use(key.index, self.clean if key.clean else self.transform)
        else:
            cells = [use(index, mosaic.add, cell) for cell, index in enumerate(mosaic.pictures)]
            prepared = None if None in cells else mosaic.prepared()
        return _Item(prepared, tuple(failures))

    def _mosaic(self, key: Key) -> Mosaic | None:
        """The mosaic that begins with a picture; None if the picture is shown alone, and then it is as without mosaics."""
        transform = self.transform
        if key.clean or not isinstance(transform, TrainTransform) or not transform.augment.mosaic:
            return None
        generator = torch.Generator().manual_seed(seed_of(self.order.seed, key.epoch, key.index, key.repetition, PICTURES))
        if float(torch.rand((), generator=generator)) >= transform.augment.mosaic:
            return None
        among = self.order.neighbours(key.epoch, key.index)
        return Mosaic(transform, first=key.index, among=len(self.dataset) if among is None else among, generator=generator)

    def _use(
        self,
        key: Key,
        share: Share,
        failures: list[Failure],
        wanted: int,
        make: Callable[[Sample | Undecoded, torch.Generator], Made],
        cell: int | None = None,
    ) -> Made | None:
        """What ``make`` gives for a picture, or for the first spare one after it that can be read; None if none can.

        At most one picture is decoded at a time. cell: of the mosaic of ``key`` that it is for.
        """
        repetition = (key.repetition,) if key.repetition else ()
        purpose = repetition if cell is None else (key.repetition, key.index, cell)
        for index in (i % len(self.dataset) for i in range(wanted, wanted + 1 + self.spare)):
            generator = torch.Generator().manual_seed(seed_of(self.order.seed, key.epoch, index, *purpose))
            try:
                with share() as admit:
                    return make(self.source.open(index, admit), generator)
            except OnestageError as error:
                failures.append(Failure(self.dataset.paths[index], error))
        return None


class _Item(NamedTuple):
    prepared: Prepared | None
    failures: tuple[Failure, ...]


class _Rest(NamedTuple):
    """What a batch has besides its images, as plain values: a tensor would travel as a file handle.

    boxes (M, 4), labels (M,), ignore (M,) of all pictures; counts: N of each picture.
    """

    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]
    ignore: NDArray[np.bool_]
    counts: tuple[int, ...]
    metas: tuple[ImageMeta, ...]
    failures: tuple[Failure, ...]


def _unpack(parcel: Parcel[_Rest]) -> Batch | None:
    """The batch, images (B, 3, h, w); None if no picture could be read."""
    images, rest = parcel
    if images is None:
        return None
    columns = (torch.from_numpy(column).split(list(rest.counts)) for column in (rest.boxes, rest.labels, rest.ignore))
    return Batch(images, tuple(Targets(*rows) for rows in zip(*columns, strict=True)), rest.metas)


def _pack(items: Sequence[_Item], *, fill: Colour) -> Parcel[_Rest]:
    """One batch. Pictures of different sizes are padded with ``fill`` at the right and bottom to the largest size."""
    prepared = [item.prepared for item in items if item.prepared is not None]
    failures = tuple(failure for item in items for failure in item.failures)
    if not prepared:
        none = Targets(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.bool))
        return Parcel(None, _Rest(*_pack_objects([none]), (), failures))
    images, targets, metas = zip(*prepared, strict=True)
    size = max(image.shape[1] for image in images), max(image.shape[2] for image in images)
    stacked = torch.stack([_pad(image, size, fill) for image in images])
    return Parcel(stacked, _Rest(*_pack_objects(targets), tuple(replace(meta, input=size) for meta in metas), failures))


def _pack_objects(
    targets: Sequence[Targets],
) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.bool_], tuple[int, ...]]:
    """The objects of all pictures: boxes (M, 4), labels (M,), ignore (M,), and N of each picture."""
    boxes = torch.cat([target.boxes for target in targets])
    labels = torch.cat([target.labels for target in targets])
    ignore = torch.cat([target.ignore for target in targets])
    return boxes.numpy(), labels.numpy(), ignore.numpy(), tuple(len(target.boxes) for target in targets)


def _pad(image: Tensor, size: Size, fill: Colour) -> Tensor:
    """(3, h, w) -> (3, *size), the picture at the top left."""
    if image.shape[1:] == size:
        return image
    canvas = canvas_of(fill, size, like=image)
    canvas[:, : image.shape[1], : image.shape[2]] = image
    return canvas


class _Reader:
    """A reader of batches, in this process or with workers. It turns failures into errors or notes."""

    def __init__(self, pictures: _Pictures, *, workers: Workers, on_bad: OnBad, pin_memory: bool) -> None:
        self.skipped: dict[str, OnestageError] = {}
        self._pictures, self._workers, self._on_bad, self._pin_memory = pictures, workers, on_bad, pin_memory
        self._pool: WorkerPool[Keys, _Rest] | None = None

    @property
    def doctor(self) -> str:
        """The command that looks at every picture of the data set."""
        return self._pictures.dataset.doctor

    def read(self, batches: Iterable[Keys]) -> Iterator[Batch | None]:
        """The batches in order; None for a batch of which no picture could be read."""
        for parcel in self._parcels(batches):
            self._note(parcel.rest.failures)
            yield _unpack(parcel)

    def _parcels(self, batches: Iterable[Keys]) -> Iterator[Parcel[_Rest]]:
        if self._workers.count == 0:
            for keys in batches:
                with without_remarks() if self._pictures.source.decoder == "fast" else contextlib.nullcontext():
                    pixels, rest = self._pictures.load(keys, _unasked)
                yield Parcel(pixels.pin_memory() if self._pin_memory and pixels is not None else pixels, rest)
            return
        if self._pool is None:  # workers live through many epochs
            load, names = self._pictures.load, self._pictures.names
            self._pool = WorkerPool(load, self._workers, name=names, doctor=self.doctor, pin_memory=self._pin_memory)
            weakref.finalize(self, self._pool.close)
        try:
            yield from self._pool.run(batches)
        except Exception:
            self._pool.close()
            self._pool = None
            raise

    def _note(self, failures: Sequence[Failure]) -> None:
        """Raise the first error that must not be skipped, and note all other errors."""
        for path, error in failures:
            if self._on_bad == "stop" or not isinstance(error, DataError):
                raise error
            self.skipped[path] = error


@contextlib.contextmanager
def _unasked() -> Iterator[Admit]:
    """For a process that decodes one picture after another: any size is admitted."""
    yield lambda size: None
