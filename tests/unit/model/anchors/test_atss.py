"""ATSS against loops over the objects: ties, crowds, levels of few anchors; and what it costs in memory."""

import subprocess
import sys

import pytest
import torch

import slow_references as slow
from onestage.errors import ConfigError
from onestage.model.anchors import max_iou
from onestage.model.anchors.atss import ATSSAssigner
from onestage.model.anchors.levels import AnchorLevel, anchor_boxes, octave_levels
from onestage.model.anchors.max_iou import BACKGROUND, IGNORED, assign
from onestage.structures import Targets

LEVELS = [AnchorLevel(((12.0, 12.0), (20.0, 10.0))), AnchorLevel(((24.0, 24.0),)), AnchorLevel(((48.0, 48.0), (40.0, 60.0)))]
MAPS, SHAPES = [(12, 12), (6, 6), (2, 2)], [2, 1, 2]
COUNTS = tuple(h * w * s for (h, w), s in zip(MAPS, SHAPES, strict=True))
ANCHORS = anchor_boxes(LEVELS, MAPS, (96, 96))


def crowd(count, seed, *, ignored=0.0):
    """On whole pixels: many objects as near to one cell as to another."""
    generator = torch.Generator().manual_seed(seed)
    corner = torch.randint(0, 80, (count, 2), generator=generator)
    extent = torch.randint(4, 50, (count, 2), generator=generator)
    ignore = torch.rand(count, generator=generator) < ignored
    return Targets(torch.cat([corner, corner + extent], 1).float(), torch.arange(count), ignore)


def matches_of(targets, **rules):
    return assign(ATSSAssigner(**rules), ANCHORS, targets, levels=COUNTS).matches


def expected(targets, *, top_k=9, **rules):
    objects = [(t.boxes.tolist(), t.ignore.tolist()) for t in targets]
    return [slow.atss_matches(ANCHORS.tolist(), COUNTS, *o, shapes=SHAPES, top_k=top_k, **rules) for o in objects]


@pytest.mark.parametrize("top_k", [1, 3, 9, 30])
def test_equals_the_slow_one_on_a_mixed_batch(top_k):
    """The coarsest level has 4 cells, fewer than 9 candidates; the one below it 36, about as many as 30."""
    targets = [crowd(n, seed, ignored=0.2) for seed, n in enumerate([7, 0, 1, 25, 3])]
    matches = matches_of(targets, top_k=top_k)
    assert matches.tolist() == expected(targets, top_k=top_k)
    assert {BACKGROUND, IGNORED} < set(matches.unique().tolist())


def test_the_candidates_decide_how_good_an_anchor_must_be():
    """A small object at the centre of a fine cell: its anchor there, of IoU 0.7, stands far out from the others."""
    box = torch.tensor([[30.0, 31.0, 42.0, 41.0]])
    (matches,) = matches_of([Targets(box, torch.tensor([0]))])
    assert (matches >= 0).sum() >= 1
    learned = ANCHORS[matches >= 0]
    centres = (learned[:, :2] + learned[:, 2:]) / 2
    assert ((centres > box[0, :2]) & (centres < box[0, 2:])).all()


def test_an_anchor_of_two_objects_learns_the_one_it_overlaps_most():
    same = crowd(4, 5)
    twice = Targets(same.boxes.repeat(2, 1), torch.arange(8))
    assert matches_of([twice]).max() < 4  # at equal IoU the first


def test_a_batch_without_objects_is_all_background():
    assert (matches_of([crowd(0, 0)] * 2) == BACKGROUND).all()


def test_ignored_regions_are_neither_object_nor_background():
    everything = Targets(torch.tensor([[0.0, 0, 96, 96], [30, 31, 42, 41]]), torch.tensor([0, 1]), torch.tensor([True, False]))
    matches = matches_of([everything], ignore_cover=0.2)
    assert set(matches.unique().tolist()) == {IGNORED, 1}


def test_images_do_not_know_each_other():
    targets = [crowd(9, 1), crowd(0, 2), crowd(2, 3, ignored=0.5)]
    together = matches_of(targets)
    assert all(torch.equal(matches_of([t])[0], m) for t, m in zip(targets, together, strict=True))


def test_objects_compared_a_few_at_a_time_give_the_same(monkeypatch):
    whole = matches_of([crowd(20, 1)])
    monkeypatch.setattr(max_iou, "_PAIRS_AT_ONCE", 1)
    assert torch.equal(matches_of([crowd(20, 1)]), whole)


@pytest.mark.parametrize("size", [(256, 256), (320, 448)])
def test_the_shapes_of_a_cell_are_counted_whatever_float32_makes_of_their_centres(size):
    """Sides such as 4 * 8 * 2^(1/3) have no exact half: the centres of the shapes of one cell differ in the last bit."""
    strides = (8, 16, 32)
    maps = [(size[0] // s, size[1] // s) for s in strides]
    anchors = anchor_boxes(octave_levels(strides), maps, size)
    counts = tuple(h * w * 9 for h, w in maps)
    boxes = torch.tensor([[33.3, 40.1, 99.7, 171.9], [100.0, 7.0, 250.0, 130.0], [201.0, 201.0, 214.0, 219.0]])
    (matches,) = assign(ATSSAssigner(), anchors, [Targets(boxes, torch.arange(3))], levels=counts).matches.tolist()
    ignore = [False] * 3
    assert matches == slow.atss_matches(anchors.tolist(), counts, boxes.tolist(), ignore, shapes=[9] * 3, top_k=9)


@pytest.mark.parametrize("rules", [{"top_k": 0}, {"ignore_cover": 0.0}])
def test_rules_that_make_no_sense_are_refused(rules):
    with pytest.raises(ConfigError):
        ATSSAssigner(**rules)


MEMORY = """
import resource, torch
from onestage.model.anchors.levels import anchor_boxes, octave_levels
from onestage.model.anchors.max_iou import assign
from onestage.model.anchors.atss import ATSSAssigner
from onestage.structures import Targets

def crowd(count):
    corner = torch.rand(count, 2) * 480
    return Targets(torch.cat([corner, corner + 4 + torch.rand(count, 2) * 28], 1), torch.zeros(count, dtype=torch.int64))

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

strides = (8, 16, 32, 64, 128)
anchors = anchor_boxes(octave_levels(strides), [(512 // s, 512 // s) for s in strides], (512, 512))
levels = [(512 // s) ** 2 * 9 for s in strides]
assign(ATSSAssigner(), anchors, [crowd(3)], levels=levels)
before = peak()
for counts in ([2000], [3, 2000, 0, 5]):
    matches = assign(ATSSAssigner(), anchors, [crowd(count) for count in counts], levels=levels).matches
    assert (matches >= 0).any(1).tolist() == [count > 0 for count in counts]
print(len(anchors), peak() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is counted in kilobytes on Linux only")
def test_memory_of_a_crowd_stays_below_250_megabytes():
    """2,000 objects and EfficientDet-D0's 49,104 anchors: a table of their distances alone would take 390."""
    run = subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, text=True, check=True)
    anchors, kilobytes = map(int, run.stdout.split())
    assert anchors == 49_104
    assert kilobytes < 250_000
