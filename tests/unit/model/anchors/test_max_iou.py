"""Which anchor learns which object: against slow loops, on crowds, ties and emptiness; and what it costs in memory."""

import subprocess
import sys

import pytest
import torch

import slow_references as slow
from onestage.errors import ConfigError
from onestage.model.anchors import max_iou
from onestage.model.anchors.levels import AnchorLevel, anchor_boxes
from onestage.model.anchors.max_iou import BACKGROUND, IGNORED, MaxIoUAssigner, assign
from onestage.structures import Targets

ANCHORS = anchor_boxes([AnchorLevel(((12.0, 12.0), (20.0, 10.0))), AnchorLevel(((40.0, 40.0),))], [(8, 8), (3, 3)], (96, 96))
CLAIMS = ["best", "first", "greedy", "tied", "none"]


def crowd(count, seed, *, side=96, ignored=0.0):
    """Random objects on whole pixels: many ties."""
    generator = torch.Generator().manual_seed(seed)
    corner = torch.randint(0, side - 8, (count, 2), generator=generator)
    extent = torch.randint(4, 40, (count, 2), generator=generator)
    ignore = torch.rand(count, generator=generator) < ignored
    return Targets(torch.cat([corner, corner + extent], 1).float(), torch.arange(count), ignore)


def expected(targets, **rules):
    return [slow.max_iou_matches(ANCHORS.tolist(), t.boxes.tolist(), t.ignore.tolist(), **rules) for t in targets]


@pytest.mark.parametrize("claim", CLAIMS)
def test_equals_the_slow_one_on_a_mixed_batch(claim):
    targets = [crowd(n, seed, ignored=0.3) for seed, n in enumerate([7, 0, 1, 30, 3])]
    rules = {"positive": 0.5, "negative": 0.4, "claim": claim}
    assignment = assign(MaxIoUAssigner(**rules), ANCHORS, targets)
    assert assignment.matches.tolist() == expected(targets, **rules)
    assert assignment.matches.shape == (5, len(ANCHORS))
    assert {BACKGROUND, IGNORED} < set(assignment.matches.unique().tolist())


@pytest.mark.parametrize("claim", CLAIMS)
def test_ties_are_settled_as_stated(claim):
    twins = Targets(torch.tensor([[10.0, 10, 22, 22]] * 3 + [[40, 40, 52, 52]]), torch.arange(4))
    assert assign(MaxIoUAssigner(claim=claim), ANCHORS, [twins]).matches.tolist() == expected([twins], claim=claim)


@pytest.mark.parametrize(("claim", "winner"), [("best", 1), ("first", 0), ("greedy", 0), ("tied", 0), ("none", 0)])
def test_two_objects_with_one_best_anchor(claim, winner):
    """It lies exactly on the first and is the best there is for the second: the later, the earlier or the better gets it."""
    boxes = torch.tensor([[0.0, 0, 12, 12], [0, 0, 12, 11]])
    anchors = torch.tensor([[0.0, 0, 12, 12], [50, 50, 60, 60]])
    assigner = MaxIoUAssigner(claim=claim)
    assert assign(assigner, anchors, [Targets(boxes, torch.arange(2))]).matches.tolist() == [[winner, -1]]
    swapped = {"best": 1, "first": 0}.get(claim, 1)  # the others look at the overlap, not at the order
    assert assign(assigner, anchors, [Targets(boxes.flip(0), torch.arange(2))]).matches.tolist() == [[swapped, -1]]


def test_tied_anchors_all_learn_the_object_that_they_overlap_most():
    """IoU 1/4 with two anchors each; the second anchor is the first object's best too, but overlaps the other one more."""
    anchors = torch.tensor([[0.0, 0, 8, 8], [8, 0, 16, 8], [40, 40, 48, 48]])
    low = torch.tensor([[4.0, 0, 12, 4]])
    (matches,) = assign(MaxIoUAssigner(claim="tied"), anchors, [Targets(low, torch.tensor([0]))]).matches.tolist()
    assert matches == [0, 0, -1]
    two = torch.cat([low, torch.tensor([[8.0, 0, 16, 6]])])
    (matches,) = assign(MaxIoUAssigner(claim="tied"), anchors, [Targets(two, torch.arange(2))]).matches.tolist()
    assert matches == [0, 1, -1]


def test_an_overlap_of_exactly_the_limit():
    """IoU 1/2: from ``positive`` on an object, from ``negative`` on no background."""
    half = [Targets(torch.tensor([[0.0, 0, 12, 6]]), torch.tensor([0]))]
    anchor = torch.tensor([[0.0, 0, 12, 12]])
    assert assign(MaxIoUAssigner(claim="none"), anchor, half).matches.tolist() == [[0]]
    assert assign(MaxIoUAssigner(positive=0.6, claim="none"), anchor, half).matches.tolist() == [[IGNORED]]
    assert assign(MaxIoUAssigner(positive=0.6, negative=0.6, claim="none"), anchor, half).matches.tolist() == [[BACKGROUND]]


@pytest.mark.parametrize("claim", CLAIMS)
def test_an_object_that_nothing_overlaps_gets_nothing(claim):
    far = Targets(torch.tensor([[500.0, 500, 510, 510]]), torch.tensor([0]))
    assert (assign(MaxIoUAssigner(claim=claim), ANCHORS, [far]).matches == BACKGROUND).all()


@pytest.mark.parametrize("claim", CLAIMS)
def test_a_batch_without_objects_is_all_background(claim):
    assignment = assign(MaxIoUAssigner(claim=claim), ANCHORS, [crowd(0, 0)] * 3)
    assert (assignment.matches == BACKGROUND).all()
    assert [len(part) for part in assignment.positives()] == [0, 0, 0]


def test_ignored_regions_are_neither_object_nor_background():
    everything = torch.tensor([[0.0, 0, 96, 96], [10, 10, 22, 22]])
    targets = Targets(everything, torch.tensor([0, 1]), torch.tensor([True, False]))
    matches = assign(MaxIoUAssigner(), ANCHORS, [targets]).matches
    assert set(matches.unique().tolist()) == {IGNORED, 1}


@pytest.mark.parametrize("claim", ["best", "first", "greedy"])
def test_every_object_of_a_spread_crowd_has_its_anchor(claim):
    targets = Targets(
        torch.tensor([[x, y, x + 3.0, y + 3.0] for x in range(0, 90, 20) for y in range(0, 90, 20)]), torch.arange(25)
    )
    _, _, objects = assign(MaxIoUAssigner(claim=claim), ANCHORS, [targets]).positives()
    assert set(objects.tolist()) == set(range(25))


@pytest.mark.parametrize("claim", CLAIMS)
@pytest.mark.parametrize("pairs", [1, len(ANCHORS) * 3 * 4 + 5])
def test_objects_compared_a_few_at_a_time_give_the_same(monkeypatch, claim, pairs):
    crowds = [crowd(20, 1, ignored=0.2), crowd(0, 2), crowd(11, 3)]
    targets = [Targets(c.boxes.repeat(2, 1), c.labels.repeat(2), c.ignore.repeat(2)) for c in crowds]  # ties across the parts
    whole = assign(MaxIoUAssigner(claim=claim), ANCHORS, targets).matches
    monkeypatch.setattr(max_iou, "_PAIRS_AT_ONCE", pairs)
    assert torch.equal(assign(MaxIoUAssigner(claim=claim), ANCHORS, targets).matches, whole)


def test_positives_in_row_order():
    given = assign(MaxIoUAssigner(), ANCHORS, [crowd(3, 0), crowd(0, 0), crowd(2, 1)])
    image, anchor, match = given.positives()
    assert (image * len(ANCHORS) + anchor).diff().gt(0).all()
    assert torch.equal(given.matches[image, anchor], match)
    assert set(image.tolist()) == {0, 2}


@pytest.mark.parametrize("rules", [{"positive": 0.4, "negative": 0.5}, {"positive": 1.5}, {"ignore_cover": 0.0}])
def test_rules_that_contradict_themselves_are_refused(rules):
    with pytest.raises(ConfigError):
        MaxIoUAssigner(**rules)


MEMORY = """
import resource, torch
from onestage.model.anchors.max_iou import assign
from onestage.model.anchors.max_iou import MaxIoUAssigner
from onestage.structures import Targets
from onestage.zoo.table import recipe
from onestage.model.anchors.levels import anchor_boxes

def crowd(count):
    corner = torch.rand(count, 2) * 480
    return Targets(torch.cat([corner, corner + 4 + torch.rand(count, 2) * 28], 1), torch.zeros(count, dtype=torch.int64))

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

anchors = anchor_boxes(recipe("ssd512_vgg16", ("a",)).anchors, [(s, s) for s in (64, 32, 16, 8, 4, 2, 1)], (512, 512))
assign(MaxIoUAssigner(), anchors, [crowd(3)])
before = peak()
for claim in ("best", "greedy", "tied"):
    for counts in ([2000], [3, 2000, 0, 5, 1, 2, 9, 4]):
        matches = assign(MaxIoUAssigner(claim=claim), anchors, [crowd(count) for count in counts]).matches
        assert (matches >= 0).any(1).tolist() == [count > 0 for count in counts]
print(len(anchors), peak() - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is counted in kilobytes on Linux only")
def test_memory_of_a_crowd_on_ssd512_stays_below_200_megabytes():
    """A picture with 2,000 objects, alone and in a batch of eight, by either policy."""
    run = subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, text=True, check=True)
    anchors, kilobytes = map(int, run.stdout.split())
    assert anchors == 24_564
    assert kilobytes < 200_000
