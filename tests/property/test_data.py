"""Laws of the readers: what is written comes back, and whatever a file holds, the answer is a data set or a DataError."""

import tempfile
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import trees
from onestage.data import load_dataset
from onestage.data.files import inside
from onestage.data.split_words import split_name
from onestage.errors import DataError

HEIGHT, WIDTH = trees.SIZE


@st.composite
def boxes(draw: st.DrawFn) -> tuple[float, float, float, float]:
    """A box of at least one pixel inside the picture, in quarters of pixels: all formats can say it."""
    x1, y1 = draw(st.integers(0, 4 * WIDTH - 4)), draw(st.integers(0, 4 * HEIGHT - 4))
    x2, y2 = draw(st.integers(x1 + 4, 4 * WIDTH)), draw(st.integers(y1 + 4, 4 * HEIGHT))
    return (x1 / 4, y1 / 4, x2 / 4, y2 / 4)


@st.composite
def truths(draw: st.DrawFn) -> dict[str, list[tuple[str, tuple[float, ...]]]]:
    """Objects of three pictures; one box is larger than the unit square, so that a CSV file is clearly in pixels."""
    objects = st.lists(st.tuples(st.sampled_from(trees.NAMES), boxes()), max_size=4)
    known = [("cat", (0.0, 0.0, 9.0, 9.0)), ("dog", (1.0, 1.0, 8.0, 8.0))]
    return {"a": known, "b": draw(objects), "c": draw(objects)}


@pytest.mark.parametrize("name", trees.WRITERS)
@settings(max_examples=15, deadline=None)
@given(truth=truths())
def test_what_is_written_comes_back(name: str, truth: dict[str, list[tuple[str, tuple[float, ...]]]]) -> None:
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(trees, "TRUTH", truth)
        data = load_dataset(trees.WRITERS[name](Path(folder)))
        assert [Path(path).stem for path in data.paths] == ["a", "b", "c"]
        for index, objects in enumerate(truth.values()):
            read = data.truth(index)
            assert [data.classes[k] for k in read.labels.tolist()] == [label for label, _ in objects]
            expected = torch.tensor([box for _, box in objects]).reshape(-1, 4)
            assert torch.allclose(read.boxes, expected, atol=1e-3)


FILES = {
    "coco": "annotations/instances_train2017.json",
    "voc": "Annotations/a.xml",
    "yolo": "labels/train/a.txt",
    "csv": "label.csv",
    "yaml": "data.yaml",
}


@pytest.mark.parametrize("name", FILES)
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_damaged_files_give_data_or_a_data_error(name: str, data: st.DataObject) -> None:
    format = "yolo" if name == "yaml" else name
    with tempfile.TemporaryDirectory() as folder:
        root = trees.WRITERS[format](Path(folder))
        file = root / FILES[name]
        content = bytearray(file.read_bytes())
        for _ in range(data.draw(st.integers(1, 3))):
            start = data.draw(st.integers(0, len(content)))
            stop = data.draw(st.integers(start, min(start + 12, len(content))))
            content[start:stop] = data.draw(st.one_of(st.binary(max_size=6), st.sampled_from(TOKENS)))
        file.write_bytes(content)
        for on_bad in ("stop", "skip"):
            try:
                found = load_dataset(root, format, on_bad=on_bad)
            except DataError:
                continue
            low, high = found.boxes[:, :2], found.boxes[:, 2:]
            assert (low >= 0).all() and (low < high).all() and (high <= torch.tensor([WIDTH, HEIGHT])).all()
            assert ((found.labels >= 0) & (found.labels < len(found.classes))).all()
            assert (found.area > 0).all()


TOKENS = [
    *(b"null", b"true", b"-1", b"1e999", b"NaN", b"[]", b"{}", b'""', b"0", b"1e-320", b"9" * 400, b"'", b'"', b"\\", b"\r"),
    *(b"&a", b"*a", b"!!int", b"<x>", b"</object>", b"<!--", b",", b";", b"\t", b"\n", b"\0", b"\xff", b"..", b"\xe2\x80\xa8"),
]


@given(st.text(max_size=30))
def test_a_path_never_leads_outside(name: str) -> None:
    clean = inside(name)
    if clean is not None:
        root = Path("/data/set")
        assert (root / clean).resolve().is_relative_to(root)
        assert inside(clean) == clean


@given(st.sampled_from(["train", "val", "valid", "validation", "test"]), st.integers(0, 2100), st.sampled_from("_-. "))
def test_split_names_survive_years_and_prefixes(word: str, year: int, separator: str) -> None:
    expected = "val" if word.startswith("val") else word
    assert split_name(f"instances{separator}{word}{year}") == expected == split_name(f"{word.upper()}{separator}set")
    assert split_name(f"my{word}") is None
