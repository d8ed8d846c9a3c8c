"""Anchor shapes that fit objects: no worse than before, whatever the order of the objects, and the same again."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from onestage.model.anchors import fit as search
from onestage.model.anchors.fit import Objects, fit, in_slots, measure_levels
from onestage.model.anchors.levels import AnchorLevel
from onestage.model.anchors.reach import distances

LEVELS = (
    AnchorLevel(((40.0, 40.0), (56.0, 56.0)), (16.0, 16.0)),
    AnchorLevel(((80.0, 80.0), (110.0, 110.0)), (32.0, 32.0)),
)
INPUT, MAPS = (128, 128), ((8, 8), (4, 4))


def objects(seed: int, count: int, *, order: torch.Tensor | None = None) -> Objects:
    """Of two classes: most are wide, few are small."""
    generator = torch.Generator().manual_seed(seed)
    small = torch.arange(count) % 8 == 0
    sides = torch.where(small[:, None], torch.tensor([18.0, 20.0]), torch.tensor([70.0, 30.0]))
    sides = sides * (0.8 + 0.4 * torch.rand(count, 2, generator=generator))
    corners = torch.rand(count, 2, generator=generator) * (128 - sides)
    boxes, labels = torch.cat([corners, corners + sides], dim=1), small.long()
    if order is not None:
        boxes, labels = boxes[order], labels[order]
    return Objects.of((boxes[:, 2:] - boxes[:, :2]).double(), distances(LEVELS, MAPS, INPUT, boxes), labels)


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "ROUNDS", 4)
    monkeypatch.setattr(search, "STEPS", (0.2, 0.05))


@pytest.mark.parametrize("shared", [False, True])
def test_it_reaches_what_was_out_of_reach(shared: bool) -> None:
    wanted = objects(0, 60)
    fitted = fit(LEVELS, wanted, shared=shared)
    assert measure_levels(LEVELS, wanted) < 0.4 and measure_levels(fitted, wanted) > 0.6
    assert [len(level.shapes) for level in fitted] == [2, 2] and [level.stride for level in fitted] == [(16, 16), (32, 32)]


def test_shared_shapes_are_the_same_on_every_level() -> None:
    fine, coarse = fit(LEVELS, objects(0, 60), shared=True)
    factors = [a / b for big, small in zip(coarse.shapes, fine.shapes, strict=True) for a, b in zip(big, small, strict=True)]
    assert factors == pytest.approx([factors[0]] * 4, rel=2e-3)


@settings(max_examples=5)
@given(seed=st.integers(0, 1000), count=st.integers(1, 40), shared=st.booleans())
def test_it_is_never_worse_and_does_not_depend_on_the_order(seed: int, count: int, shared: bool) -> None:
    wanted = objects(seed, count)
    fitted = fit(LEVELS, wanted, shared=shared, seed=seed)
    assert measure_levels(fitted, wanted) >= measure_levels(LEVELS, wanted)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    assert fit(LEVELS, objects(seed, count, order=order), shared=shared, seed=seed) == fitted


def test_many_objects_are_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "MOST_OBJECTS", 30)
    monkeypatch.setattr(search, "MOST_IN_EVOLUTION", 20)
    wanted, threads = objects(1, 200), torch.get_num_threads()
    fitted = fit(LEVELS, wanted, shared=False)
    assert measure_levels(fitted, wanted) > measure_levels(LEVELS, wanted) + 0.3
    try:
        torch.set_num_threads(threads + 1)
        assert fit(LEVELS, wanted, shared=False) == fitted
    finally:
        torch.set_num_threads(threads)


def test_anchors_that_fit_stay() -> None:
    wanted = objects(2, 40)
    once = fit(LEVELS, wanted, shared=False)
    again = fit(once, wanted, shared=False)
    assert measure_levels(again, wanted) >= measure_levels(once, wanted)
    far = Objects(torch.full((3, 2), 1e-3).double(), wanted.apart[:3], torch.full((3,), 1 / 3).double())
    assert fit(LEVELS, far, shared=False) == LEVELS


def test_a_new_shape_takes_the_place_of_the_nearest_one() -> None:
    usual, group = torch.tensor([[0.0, 0.0], [2.0, 2.0], [9.0, 9.0]]), torch.tensor([0, 0, 1])
    rows = torch.tensor([[2.1, 2.0], [0.3, 0.1], [1.0, 1.0]])
    assert in_slots(rows, usual, group).tolist() == rows[[1, 0, 2]].tolist()
