"""A law of ``data convert``: into any format and back again, all that the format can say stays, to the bit or as it states."""

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import shards
from onestage.data import Dataset, load_dataset
from onestage.data.convert import ROUNDS, WRITERS, convert
from onestage.data.reader import list_splits

HEIGHT, WIDTH = 30, 40
NAMES = ("cat", "chat noir", "狗", "a.b", "100 %")
ANCHOR = {"bbox": [0, 0, 40, 30], "category": "cat"}
"""A box that is clearly in pixels, as large as its picture, in the first picture of each split."""


@dataclass(frozen=True)
class Objects:
    """A picture. id: of the picture, or None for none. objects: as the labels have them."""

    id: int | str | None
    objects: list[dict[str, object]]


def corner(most: int) -> st.SearchStrategy[float]:
    """A number of float32 below ``most``, also one that is nearly 0."""
    return st.one_of(st.just(0.0), st.floats(2.0**-60, most - 2, width=32), st.integers(0, most - 2).map(float))


@st.composite
def objects(draw: st.DrawFn) -> dict[str, object]:
    x, y = draw(corner(WIDTH)), draw(corner(HEIGHT))
    w, h = (2 + draw(st.floats(0, 1)) * (side - start - 2) for side, start in ((WIDTH, x), (HEIGHT, y)))
    made: dict[str, object] = {"bbox": [x, y, w, h], "category": draw(st.sampled_from(NAMES))}
    made |= {name: 1 for name in ("ignore", "iscrowd") if draw(st.integers(0, 3)) == 0}
    return made | ({"area": draw(st.floats(0.3, 1.0)) * w * h} if draw(st.booleans()) else {})


@st.composite
def pictures(draw: st.DrawFn) -> list[Objects]:
    ids = draw(st.sampled_from(["numbers", "texts", "none", "both"]))
    count = draw(st.integers(1, 3))
    named: dict[str, list[int | str | None]] = {
        "numbers": [5 + 3 * n for n in range(count)],
        "texts": [f"n{n}" for n in range(count)],
        "none": [None] * count,
        "both": [7, "n1", 1][:count],
    }
    rows = [draw(st.lists(objects(), max_size=3)) for _ in range(count)]
    return [Objects(name, row) for name, row in zip(named[ids], [[ANCHOR, *rows[0]], *rows[1:]], strict=True)]


SETS = st.one_of(
    st.fixed_dictionaries({"": pictures()}),
    st.fixed_dictionaries({"train": pictures(), "val": pictures()}),
    st.fixed_dictionaries({"train": pictures(), "test": pictures()}),
    st.fixed_dictionaries({"trainval": pictures()}),
)


def write(root: Path, split: str, rows: list[Objects], first: int) -> None:
    members = []
    for number, row in enumerate(rows, start=first):
        more = {} if row.id is None else {"image_id": row.id}
        members += [(f"{number}.png", shards.picture(number)), (f"{number}.json", shards.labels(*row.objects, **more))]
    shards.tar(root / f"{split or 'all'}.tar", members)


Picture = tuple[int, list[tuple[list[float], str, bool, bool, float]]]


def said(data: Dataset, to: str) -> list[Picture]:
    """The objects of each picture, by its colour, as far as a format says it: corners, class, difficult, crowd, area."""
    found = []
    for row in range(len(data)):
        truth = data.truth(row)
        columns = [truth.boxes.tolist(), [data.classes[label] for label in truth.labels.tolist()]]
        rows = zip(*columns, truth.ignore.tolist(), truth.crowd.tolist(), truth.area.tolist(), strict=True)
        if to == "yolo":
            rows = ((box, name, False, False, 0.0) for box, name, ignore, crowd, _ in rows if not (ignore or crowd))
        elif to == "voc":
            rows = ((box, name, ignore or crowd, False, 0.0) for box, name, ignore, crowd, _ in rows)
        found.append((int(data[row].image[0, 0, 0]), [*rows]))
    return sorted(found)


@pytest.mark.parametrize("to", WRITERS)
@settings(max_examples=12, deadline=None)
@example(given_set={"": [Objects(1, [ANCHOR, {"bbox": [2.0**-60, 0, 20.5, 20], "category": "狗"}])]})
@given(given_set=SETS)
def test_there_and_back_all_stays_that_a_format_can_say(to: str, given_set: dict[str, list[Objects]]) -> None:
    with tempfile.TemporaryDirectory() as place, pytest.MonkeyPatch.context() as patch:
        root = Path(place)
        patch.setenv("ONESTAGE_HOME", str(root / "cache"))
        first = 0
        listed = [{"id": 3 * number, "name": name} for number, name in enumerate(NAMES)]
        (root / "source").mkdir()
        (root / "source" / "classes.json").write_text(json.dumps({"classes": listed}))
        for split, rows in given_set.items():
            write(root / "source", split, rows, first)
            first += len(rows)
        convert(root / "source", root / "there", to=to, shard=0.0002)  # type: ignore[arg-type]
        convert(root / "there", root / "back", to="wds")
        splits = [split or None for split in given_set]
        for folder in ("there", "back"):
            assert {*list_splits(root / folder)} == {*filter(None, splits)}
        for split in splits:
            sets = [load_dataset(root / folder, split=split) for folder in ("source", "there", "back")]
            original, there, back = (said(data, to) for data in sets)
            assert same(there, original, ROUNDS if to == "yolo" else 0.0) and same(back, there, 0.0)
            if to not in ("yolo", "voc") and all(isinstance(name, int) for name in sets[0].image_ids):
                assert [*sets[1].image_ids] == [*sets[0].image_ids]


def same(ours: list[Picture], theirs: list[Picture], near: float) -> bool:
    """Whether all is equal, and corners differ by no more than ``near`` pixels."""
    flat = [[corner for _, rows in pictures for box, *_ in rows for corner in box] for pictures in (ours, theirs)]
    rest = [[(shade, [row[1:] for row in rows]) for shade, rows in pictures] for pictures in (ours, theirs)]
    return rest[0] == rest[1] and bool((np.abs(np.subtract(*flat)) <= near).all())
