"""The order of pictures: a permutation for any shards, mixed inside windows, the same for any number of processes."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from onestage.data.order import Order, repetitions

SHARDS = st.lists(st.integers(1, 9), min_size=1, max_size=8)


def in_shards(sizes: list[int], window: int = 10, **more: object) -> Order:
    shards = torch.repeat_interleave(torch.arange(len(sizes)) * 3, torch.tensor(sizes))
    return Order(len(shards), 7, shards=shards, window=window, **more)  # type: ignore[arg-type]


@given(SHARDS, st.integers(1, 30), st.integers(0, 5))
def test_an_epoch_shows_every_picture_once(sizes: list[int], window: int, epoch: int) -> None:
    shown = in_shards(sizes, window).epoch(epoch)
    assert sorted(shown.tolist()) == list(range(sum(sizes)))
    assert shown.tolist() == in_shards(sizes, window).epoch(epoch).tolist()


@given(SHARDS, st.integers(1, 30), st.integers(0, 5))
def test_a_window_takes_whole_shards_until_it_is_full(sizes: list[int], window: int, epoch: int) -> None:
    """The reference: shards are taken one by one, and begin a new window once there are enough pictures in the old one."""
    order = in_shards(sizes, window)
    shown = order.epoch(epoch).tolist()
    assert order.shards is not None
    at = 0
    while at < len(shown):
        near = order.neighbours(epoch, shown[at])
        rows = list(range(len(shown))) if near is None else near.tolist()
        assert sorted(shown[at : at + len(rows)]) == rows
        whole = {int(order.shards[row]) for row in rows}
        assert sum(int(shard) in whole for shard in order.shards) == len(rows)
        at += len(rows)
        assert near is None or len(rows) >= window - max(sizes) + 1 or at == len(shown)


def test_one_window_is_mixed_as_files_are() -> None:
    assert in_shards([4, 4], window=8).epoch(3).tolist() == Order(8, 7).epoch(3).tolist()
    assert in_shards([4, 4], window=4).epoch(3).tolist() != Order(8, 7).epoch(3).tolist()
    assert Order(8, 7).neighbours(0, 3) is None


def test_epochs_mix_other_shards() -> None:
    firsts = {frozenset(in_shards([5] * 12).epoch(epoch)[:10].tolist()) for epoch in range(8)}
    assert len(firsts) > 4


def test_balanced_windows_show_as_many_pictures_as_they_have() -> None:
    factors = torch.ones(40, dtype=torch.float64)
    factors[3] = 6.5
    order = in_shards([10] * 4, factors=factors)
    shown = order.epoch(0)
    assert len(shown) == 40
    near = order.neighbours(0, 3)
    assert near is not None
    at = next(i for i in range(0, 40, 10) if set(shown[i : i + 10].tolist()) <= set(near.tolist()))
    assert shown[at : at + 10].tolist().count(3) >= 2


@given(st.lists(st.integers(0, 5), max_size=30))
def test_repetitions_count_what_came_before(order: list[int]) -> None:
    assert repetitions(torch.tensor(order, dtype=torch.int64)).tolist() == [order[:i].count(p) for i, p in enumerate(order)]
