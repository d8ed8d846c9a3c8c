"""Which objects the anchors of a detector reach, against every pair of anchor and object compared one by one."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import slow_references
from onestage.cli.candidates import SIDES
from onestage.data import Dataset, load_dataset
from onestage.model.anchors.levels import AnchorLevel, grid
from onestage.model.anchors.reach import distances, overlaps
from onestage.model.detector import Detector
from onestage.training import coverage
from onestage.training.anchors import fit_anchors
from onestage.training.coverage import (
    AT_ONCE,
    LARGEST,
    Coverage,
    PlacedObjects,
    Reached,
    coverage_of,
    overlaps_of,
    pieces,
    told,
)
from onestage.zoo.table import recipe
from small_runs import detector, pictures

LEVELS = {
    "even": AnchorLevel(((20.0, 30.0), (40.0, 15.0))),
    "stride": AnchorLevel(((20.0, 30.0), (40.0, 15.0)), (16.0, 20.0)),
    "floor": AnchorLevel(((25.0, 25.0),), "floor"),
    "inside": AnchorLevel(((25.0, 40.0),), (40.0, 40.0), inside=True),
    "offset": AnchorLevel(((25.0, 40.0),), (16.0, 16.0), offset=0.0),
}


@pytest.mark.parametrize("level", LEVELS.values(), ids=LEVELS)
@pytest.mark.parametrize("cells", [(5, 7), (1, 1)])
def test_the_nearest_cell_has_the_best_anchor(level: AnchorLevel, cells: tuple[int, int]) -> None:
    corner = torch.rand(40, 2, generator=torch.Generator().manual_seed(0)) * 90
    boxes = torch.cat([corner, corner + 1 + 60 * torch.rand(40, 2, generator=torch.Generator().manual_seed(1))], dim=1)
    apart = distances([level], [cells], (90, 130), boxes)[:, 0]
    extents = (boxes[:, 2:] - boxes[:, :2]).double()
    found = overlaps(extents, apart, torch.tensor(level.shapes, dtype=torch.float64)).amax(1)
    anchors = grid(level, cells, (90, 130)).tolist()
    expected = [slow_references.best_iou(anchors, box) for box in boxes.tolist()]
    assert found.tolist() == pytest.approx(expected, abs=1e-5)


def slow(model: Detector, data: Dataset) -> dict[str, list[bool]]:
    """Class name -> whether each of its objects has an anchor with an IoU of 0.5 or more."""
    found: dict[str, list[bool]] = {name: [] for name in data.classes}
    for index in range(len(data)):
        truth = data.truth(index)
        assert truth.size is not None
        meta = model.config.preprocess.place(truth.size)
        anchors = model.anchors(meta.input).tolist()
        rows = zip(meta.apply(truth.boxes).tolist(), truth.labels.tolist(), (truth.ignore | truth.crowd).tolist(), strict=True)
        for box, label, ignored in rows:
            if not ignored:
                found[data.classes[label]].append(slow_references.best_iou(anchors, box) >= 0.5)
    return found


@pytest.mark.parametrize("mode", ["stretch", "letterbox", "shortest_edge"])
def test_coverage_is_that_of_all_pairs(mode: str) -> None:
    data = pictures(12)
    sizes = tuple((64, 64 + 16 * (i % 2)) for i in range(12))
    data = replace(data, sizes=sizes, ignore=torch.arange(len(data.boxes)) % 7 == 0)
    model = detector(changes={"preprocess.mode": mode})
    found, expected = coverage_of(model, data), slow(model, data)
    assert [(part.name, part.objects, part.reached) for part in found.classes] == [
        (name, len(hits), sum(hits)) for name, hits in expected.items()
    ]
    assert found.total.objects == sum(part.objects for part in found.classes) == sum(part.objects for part in found.sizes)
    assert found.total.reached == sum(part.reached for part in found.classes) == sum(part.reached for part in found.sizes)
    assert 0 < found.total.reached < found.total.objects or mode != "stretch"
    assert max(part.reached for part in found.levels) <= found.total.reached <= sum(part.reached for part in found.levels)
    assert json.loads(json.dumps(found.to_dict()))["total"]["reached"] == found.total.reached


@pytest.mark.parametrize("most", [1, 2, 5, 17, 10**6])
def test_in_pieces_it_finds_the_same(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """No more objects than that lie in memory at once, or those of one picture."""
    data = pictures(12)
    data = replace(data, sizes=tuple((64, 64 + 16 * (i % 2)) for i in range(12)), ignore=torch.arange(len(data.boxes)) % 7 == 0)
    model = detector()
    whole, overlaps = coverage_of(model, data), overlaps_of(model, data)
    parts = list(pieces(data, most=most))
    counts = [[int(count) for count in part.offsets.diff()] for part in parts]
    assert [count for part in counts for count in part] == data.offsets.diff().tolist()
    assert all(sum(part) <= most or len(part) == 1 for part in counts)
    monkeypatch.setattr(coverage, "pieces", lambda _: pieces(data, most=most))
    assert coverage_of(model, data) == whole
    for one, other in zip(overlaps_of(model, data), overlaps, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True)


def test_of_millions_of_objects_no_more_than_some_are_placed_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    placed, usual = list[int](), PlacedObjects.of.__func__  # type: ignore[attr-defined]

    def noted(cls: type[PlacedObjects], model: Detector, data: Dataset) -> PlacedObjects:
        placed.append(len(data.labels))
        return usual(cls, model, data)

    data = pictures(2)
    data = data.subset([0, 1] * (AT_ONCE // len(data.labels) + 9))
    monkeypatch.setattr(PlacedObjects, "of", classmethod(noted))
    assert coverage_of(detector(), data).total.objects == sum(placed) == len(data.labels)
    fit_anchors(detector(), data)
    assert max(placed) <= AT_ONCE < len(data.labels) and len(placed) == 3


def test_a_picture_that_cannot_be_read_and_no_objects() -> None:
    data = pictures(3)
    unknown = replace(data, sizes=(None, *data.sizes[1:]), paths=("missing.png", *data.paths[1:]))
    assert coverage_of(detector(), unknown).total.objects == int(data.offsets[-1] - data.offsets[1])
    empty = coverage_of(detector(), replace(data, ignore=torch.ones_like(data.ignore)))
    assert empty.total == Reached("all", 0, 0) and not empty.poor and told(empty) == "anchors reach 100 % of 0 objects"


def test_the_line() -> None:
    classes = (Reached("cat", 90, 85), Reached("dog", 20, 14), Reached("cow", 9, 0))
    good = Coverage(Reached("all", 119, 108), classes, (), ())
    assert told(good) == "anchors reach 90 % of 119 objects (dog least, 70 %)"
    assert told(replace(good, classes=(Reached("cat", 90, 90), Reached("dog", 20, 20)))) == "anchors reach 90 % of 119 objects"
    poor = replace(good, classes=(classes[0], Reached("dog", 20, 13)))
    assert told(poor).startswith("anchors reach 90 % of 119 objects (dog least, 65 %): few; --fit-anchors finds")
    assert replace(good, total=Reached("all", 119, 100)).poor
    assert told(poor).endswith("few; --fit-anchors finds better shapes, and a larger --size shows more of their pixels")
    assert told(poor, fitted=True).endswith("few; a larger --size shows more of their pixels")
    assert told(replace(poor, larger=False)).endswith("few; --fit-anchors finds better shapes")
    assert told(replace(poor, larger=False), fitted=True).endswith("few; a model with a finer map may reach more")


def test_a_larger_input_helps_only_as_far_as_the_pictures_and_the_rules_go() -> None:
    data = replace(pictures(3), sizes=3 * ((960, 1280),))
    larger = [coverage_of(detector(size=(side, side)), data).larger for side in (64, 320, LARGEST)]
    assert larger == [True, True, False] and SIDES[-1] == LARGEST
    assert not coverage_of(detector(), pictures(3)).larger  # they have no more pixels than the input


@pytest.mark.slow
def test_what_the_recipes_reach_of_blood_cells(shared_data: Path) -> None:
    """The platelets, 14 to 60 pixels wide in 640x480, are too small for the anchors of SSDlite and of TinySSD."""
    data = load_dataset(shared_data / "bccd", split="train", on_bad="skip")
    shares = {}
    for name in ("ssdlite320_mobilenet_v3_large", "ssd300_vgg16", "tinyssd", "efficientdet_d0"):
        found = coverage_of(Detector.on("meta", recipe(name, data.classes)), data)
        shares[name] = (found.total.share, found.least.share if found.least else None)
    assert shares["ssdlite320_mobilenet_v3_large"] == pytest.approx((0.90, 0.0), abs=0.01)
    assert shares["tinyssd"] == pytest.approx((0.90, 0.0), abs=0.01)
    assert shares["ssd300_vgg16"] == pytest.approx((0.99, 0.97), abs=0.01)
    assert shares["efficientdet_d0"] == pytest.approx((0.99, 0.98), abs=0.01)
