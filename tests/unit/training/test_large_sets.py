"""What a training computes of all objects at its start takes bounded memory, and says the same as what looks at all at once."""

import gc
import math
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from onestage.cli import anchors
from onestage.cli.anchors import _sides
from onestage.data import Dataset, load_dataset, tallies
from onestage.data.balance import repeat_factors
from onestage.data.columns import Sizes
from onestage.data.tallies import never_taught, objects_by_size, objects_of, pictures_with, spans
from onestage.model.anchors.fit import Objects
from onestage.model.detector import Detector
from onestage.training import coverage
from onestage.training.coverage import coverage_of
from onestage.training.header import MANY, give_back
from shards import pairs, tar
from small_runs import detector, pictures


def many(count: int, each: int = 10, classes: int = 5) -> Dataset:
    """A data set of so many pictures, whose columns alone are there."""
    generator = torch.Generator().manual_seed(0)
    corners = torch.rand(count * each, 2, generator=generator) * 100
    small = pictures(3)
    return replace(
        small,
        paths=range(count),  # type: ignore[arg-type]  # nobody asks for one
        image_ids=range(count),
        sizes=Sizes(torch.tensor([[128, 160], [160, 128]], dtype=torch.int32).repeat(-(-count // 2), 1)[:count].numpy()),
        offsets=torch.arange(count + 1) * each,
        boxes=torch.cat([corners, corners + 1 + 27 * torch.rand(count * each, 2, generator=generator)], dim=1),
        labels=(torch.rand(count * each, generator=generator).pow(2) * classes).long(),
        ignore=torch.arange(count * each) % 11 == 0,
        crowd=torch.arange(count * each) % 13 == 0,
        area=torch.rand(count * each, generator=generator) * 20000,
        classes=tuple("abcde"[:classes]),
        category_ids=tuple(range(classes)),
        parts=None,
    )


class Largest(TorchDispatchMode):
    """Notes the bytes of the largest tensor that is made. Views of others are not."""

    bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        result = func(*args, **(kwargs or {}))
        given, made = (
            [leaf for leaf in tree_flatten(tree)[0] if isinstance(leaf, Tensor)] for tree in ((args, kwargs), result)
        )
        known = {leaf.untyped_storage().data_ptr() for leaf in given}
        new = [leaf.untyped_storage() for leaf in made if leaf.device.type == "cpu"]
        self.bytes = max([self.bytes, *(storage.nbytes() for storage in new if storage.data_ptr() not in known)])
        return result


STARTS: dict[str, Callable[[Detector, Dataset], object]] = {
    "coverage": coverage_of,
    "objects of each class": lambda model, data: objects_of(data),
    "pictures with each class": lambda model, data: pictures_with(data),
    "objects of each size": lambda model, data: objects_by_size(data),
    "classes that nobody teaches": lambda model, data: never_taught(data, data),
    "factors of a balanced order": lambda model, data: repeat_factors(data, 0.5),
    "what a drawing shows": _sides,
}


@pytest.mark.parametrize("start", STARTS.values(), ids=STARTS)
def test_no_column_of_all_objects_is_made(
    start: Callable[[Detector, Dataset], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A column of bytes for all objects would have 200 kB, and one of numbers 1.6 MB."""
    monkeypatch.setattr(tallies, "AT_ONCE", 2048)
    monkeypatch.setattr(coverage, "pieces", partial(coverage.pieces, most=2048))
    data, model = many(20_000), detector()
    model.level_sizes(model.config.preprocess.size)
    with Largest() as made:
        start(model, data)
    assert 0 < made.bytes < 200_000


@pytest.fixture
def few() -> Dataset:
    """Pictures with 0 to 4 objects. Of class 3 all are ignored, and there is none of class 4."""
    data = many(40)
    counts = torch.arange(40) % 5
    rows = int(counts.sum())
    columns = {name: getattr(data, name)[:rows] for name in ("boxes", "labels", "ignore", "crowd", "area")}
    columns["labels"] = torch.arange(rows) % 4
    columns["ignore"] = columns["ignore"] | (columns["labels"] == 3)
    return replace(data, offsets=torch.cat([torch.zeros(1, dtype=torch.int64), counts.cumsum(0)]), **columns)


def test_numbers_of_objects(few: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted one by one; also some at a time, so few that a picture has more."""
    seen, every = ([Counter[tuple[str, ...]]() for _ in range(3)] for _ in range(2))
    for index in range(len(few)):
        truth = few.truth(index)
        names = [few.classes[label] for label in truth.labels.tolist()]
        bands = ["small" if area < 32**2 else "medium" if area < 96**2 else "large" for area in truth.area.tolist()]
        out = (truth.ignore | truth.crowd).tolist()
        for found, kept in ((every, [False] * len(out)), (seen, out)):
            rows = [(name, band) for name, band, left_out in zip(names, bands, kept, strict=True) if not left_out]
            found[0].update((name,) for name, _ in rows)
            found[1].update({(name,) for name, _ in rows})
            found[2].update(rows)
    for size in (1, 3, 2**16):
        monkeypatch.setattr(tallies, "AT_ONCE", size)
        for found, of in ((seen, False), (every, True)):
            assert objects_of(few, every=of) == [found[0][(name,)] for name in few.classes]
            assert pictures_with(few, every=of) == [found[1][(name,)] for name in few.classes]
        assert objects_by_size(few).tolist() == [
            [seen[2][(name, band)] for band in ("small", "medium", "large")] for name in few.classes
        ]
        assert [*spans(few)][-1][0].stop == len(few) and [*spans(few)][-1][1].stop == len(few.boxes)


@pytest.mark.parametrize("drawn", [5000, 10])
def test_parts_say_what_all_objects_say(drawn: int, few: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    model = detector()
    every, monkey = _sides(model, few), monkeypatch.setattr
    monkey(anchors, "DRAWN", drawn)
    whole = [repeat_factors(few, 0.5).tolist(), _sides(model, few)]
    assert len(every) == sum(objects_of(few)) > 40 and whole[1] == every[:: max(1, len(every) // drawn)]
    monkey(tallies, "AT_ONCE", 3)
    monkey(coverage, "pieces", partial(coverage.pieces, most=3))
    assert [repeat_factors(few, 0.5).tolist(), _sides(model, few)] == whole


def test_objects_are_sorted_as_tuples_are() -> None:
    generator = torch.Generator().manual_seed(0)
    labels, extents, apart = (torch.randint(3, size, generator=generator) for size in ((200,), (200, 2), (200, 2, 2)))
    objects = Objects.of(extents.double(), apart.double(), labels)
    rows = sorted(zip(labels.tolist(), extents.tolist(), apart.flatten(1).tolist(), strict=True))
    assert objects.extents.tolist() == [extent for _, extent, _ in rows]
    assert objects.apart.flatten(1).tolist() == [apart for *_, apart in rows]


@pytest.mark.parametrize("pictures", [MANY - 1, MANY])
def test_what_the_start_of_a_large_set_took_goes_back_to_the_system(pictures: int, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[float] = []
    monkeypatch.setattr("onestage.training.header.return_freed_memory", given.append)
    give_back(pictures)
    assert given == [math.inf] * (pictures >= MANY)


@pytest.mark.skipif(sys.platform != "linux", reason="Linux says what is mapped")
def test_columns_that_a_part_has_copied_are_mapped_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A training that holds pictures out takes the memory of its parts alone."""
    monkeypatch.setenv("ONESTAGE_HOME", str(tmp_path / "cache"))
    tar(tmp_path / "set" / "a.tar", pairs(4))

    def mapped() -> int:
        return Path("/proc/self/maps").read_text().count(f"{tmp_path}/cache")

    data = load_dataset(tmp_path / "set")
    every, part = mapped(), data.subset([0, 2])
    del data
    gc.collect()
    assert 0 < mapped() <= every - 5 and part.paths[1].endswith("a.tar/0002.png")
