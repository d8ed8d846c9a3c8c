"""The order in which an epoch shows pictures: permutation(seed, epoch), for any number of processes and workers.

Pictures in shards are mixed inside a window: shards come in a random order, each window takes as many as have ``WINDOW``
pictures, and its pictures are mixed. So the bytes that are read in a while lie in few files, which the system keeps in memory.
A data set that is one window is mixed as a whole, as pictures in separate files are.

Shape letters: P pictures.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from onestage.data.balance import repeated

WINDOW = 2**15
"""Pictures of a window, at least."""
WINDOW_OF_GROUPS = 2**10
"""The same where whole row groups of Parquet files have to be read: so many can be kept in memory."""


@dataclass(frozen=True, eq=False)
class Order:
    """The order of P pictures. factors (P,): how often each is shown, on average; None: once. shards (P,): the number of the
    file, or of the row group, that holds each; None: each has a separate file. window: see ``WINDOW``.
    """

    count: int
    seed: int
    factors: Tensor | None = None
    shards: Tensor | None = None
    window: int = WINDOW
    _known: dict[int, _Windows | None] = field(default_factory=dict, init=False, repr=False)

    def epoch(self, epoch: int) -> Tensor:
        """(P,) the pictures of an epoch, in the order in which it shows them."""
        generator = torch.Generator().manual_seed(seed_of(self.seed, epoch))
        windows = self._windows(epoch)
        if windows is None:
            return self._mixed(None, generator)
        return torch.cat([self._mixed(rows, generator) for rows in windows.rows])

    def _mixed(self, rows: Tensor | None, generator: torch.Generator) -> Tensor:
        """As many pictures of a window as it has, mixed. rows: of the window; None: all."""
        count = self.count if rows is None else len(rows)
        if self.factors is None:
            mixed = torch.randperm(count, generator=generator)
        else:
            shown = repeated(self.factors if rows is None else self.factors[rows], generator)
            mixed = shown[torch.randperm(len(shown), generator=generator)[:count]]
        return mixed if rows is None else rows[mixed]

    def neighbours(self, epoch: int, index: int) -> Tensor | None:
        """The pictures of the window that shows picture ``index`` in an epoch; None if that is all pictures."""
        windows = self._windows(epoch)
        return None if windows is None else windows.rows[int(windows.of[index])]

    def _windows(self, epoch: int) -> _Windows | None:
        """The windows of an epoch; None if all pictures are mixed as a whole. Those of the last two epochs are kept."""
        if epoch not in self._known:
            while len(self._known) > 1:
                self._known.pop(next(iter(self._known)), None)
            self._known[epoch] = _windows(self, epoch)
        return self._known[epoch]


class _Windows(NamedTuple):
    """rows: the pictures of each window, in the order of the data set. of (P,): the window of each picture."""

    rows: list[Tensor]
    of: Tensor


def _windows(order: Order, epoch: int) -> _Windows | None:
    """The windows of an epoch; None if all pictures are mixed as a whole."""
    if order.shards is None or order.count <= order.window:
        return None
    numbers, shard, counts = order.shards.unique(return_inverse=True, return_counts=True)
    generator = torch.Generator().manual_seed(seed_of(order.seed, epoch, len(numbers)))
    mixed = torch.randperm(len(numbers), generator=generator)
    window = torch.empty_like(mixed)
    window[mixed] = (counts[mixed].cumsum(0) - counts[mixed]) // order.window
    of = window[shard]
    return _Windows([*of.argsort(stable=True).split(torch.bincount(of).tolist())], of)


def repetitions(order: Tensor) -> Tensor:
    """(P,) how often each picture of an order (P,) was there before."""
    by_picture = order.argsort(stable=True)
    place = torch.arange(len(order))
    new = torch.ones(len(order), dtype=torch.bool)
    new[1:] = order[by_picture][1:] != order[by_picture][:-1]
    first = torch.where(new, place, place.new_zeros(())).cummax(0).values if len(order) else place
    found = torch.empty_like(order)
    found[by_picture] = place - first
    return found


def seed_of(*parts: int) -> int:
    """One 32-bit seed from several numbers. Neighbouring numbers give unrelated seeds; all machines give the same ones."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=4).digest()
    return int.from_bytes(digest, "little")
