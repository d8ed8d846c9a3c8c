"""The work of pairing names grows with the number of names, and not with how many files share each."""

import sys
from pathlib import Path

import pytest

from onestage.data.pairing import Named
from onestage.data.tree import Tree

TOP = Path("/data/set")


def calls(name: str, videos: int) -> int:
    """How many functions are called to find each picture of so many videos by its name, with the videos' numbers in it."""
    files = [
        TOP / f"{root}v{video}/frames/{number}.jpg" for root in ("", "images/") for video in range(videos) for number in "012"
    ]
    named = Named(Tree(TOP, tuple(files)), TOP / "all.json")
    count = 0

    def see(_frame: object, event: str, _argument: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    stated = [name.format(video=video, number=number) for video in range(videos) for number in "012"]
    sys.setprofile(see)
    try:
        for each in stated:
            if named.fits(each):
                named.find(each)
    finally:
        sys.setprofile(None)
    return count


@pytest.mark.parametrize(
    "name",
    [
        "images/v{video}/frames/{number}.jpg",
        "images/v{video}/frames/{number}",
        "IMAGES/V{video}/frames/{number}.JPG",
        "/home/me/set/images/v{video}/frames/{number}.jpg",
        "C:\\set\\images\\v{video}\\frames\\{number}.jpg",
        "gone{video}/frames/{number}.jpg",
        "images/v{video}/frames/gone{number}.jpg",
    ],
)
def test_names_that_many_files_share_are_found_at_once(name: str) -> None:
    few, many = calls(name, 20), calls(name, 80)
    assert many < 5 * few


def test_one_name_is_looked_up_once(monkeypatch: pytest.MonkeyPatch) -> None:
    judged = []
    monkeypatch.setattr(Named, "_judged", lambda _self, above: judged.append(above) or 2)
    named = Named(Tree(TOP, tuple(TOP / f"v{video}/a.jpg" for video in range(50))), TOP / "all.json")
    for _ in range(10):
        assert named.fits("a.jpg") and named.find("v7/a.jpg") == TOP / "v7/a.jpg"
    assert len(judged) == len(set(judged)) == 51
