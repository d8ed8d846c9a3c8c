"""Names for files about pictures: no two the same on any system, none that leads out of its folder."""

import os
import unicodedata

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from onestage.data.stems import LONGEST, Stems, flat_stems, plain

NAMES = st.text(st.characters(codec="utf-8"), min_size=1, max_size=30)


@given(
    st.lists(NAMES | st.sampled_from(["a.jpg", "a.png", "A.JPG", "a_png", "a_png-2", "..", "a/b.jpg", "a_b.jpg"]), unique=True)
)
@example(["e\u0301.jpg", "\u00e9.jpg", "\u00c9.jpg"])
def test_no_two_pictures_share_a_stem_on_any_system(names: list[str]) -> None:
    stems = list(flat_stems(names))
    keys = {unicodedata.normalize("NFD", stem.upper().lower()) for stem in stems}
    assert len(keys) == len(stems) == len(names)


@given(NAMES)
@example("../../etc/passwd")
@example("C:\\x.jpg")
@example("-rf.jpg")
@example(os.fsdecode(b"\xff\xfe.jpg"))
@example("x" * 400 + ".jpg")
def test_a_stem_is_one_plain_name(name: str) -> None:
    (stem,) = flat_stems([name])
    assert stem and not {*'/\\\0\n\r\t "<>:|?*'} & {*stem}
    assert stem[0] not in ".-" and stem[-1] != "." and len(stem.encode()) <= LONGEST


@pytest.mark.parametrize(
    ("names", "stems"),
    [
        (["a/x.jpg", "b/x.jpg", "y.png"], ["a_x", "b_x", "y"]),
        (["x.jpg", "x.png"], ["x", "x_png"]),
        (["x.jpg", "x.png", "x_png.jpg", "X.JPG"], ["x", "x_png", "x_png_jpg", "X_JPG"]),
        (["a/b.jpg", "a_b.jpg", "a_b_jpg.gif"], ["a_b", "a_b_jpg", "a_b_jpg_gif"]),
        (["photo 1 (2).jpg", "straße.jpg", "写真.jpg"], ["photo_1__2_", "straße", "写真"]),
        (["CON.jpg", "com1.x.jpg", ".jpg"], ["_CON", "_com1.x", "_jpg"]),
    ],
)
def test_stems_are_those_that_people_expect(names: list[str], stems: list[str]) -> None:
    assert list(flat_stems(names)) == stems


def test_the_end_of_a_long_name_stays() -> None:
    first, second = plain("a" * 300 + "end"), plain("b" * 300 + "end")
    assert first.endswith("end") and second.endswith("end") and first != second


def test_a_stem_is_given_once() -> None:
    stems = Stems()
    assert [stems.take("a", "a.png") for _ in range(4)] == ["a", "a.png", "a.png-2", "a.png-3"]
