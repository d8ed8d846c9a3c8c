"""What a line of a YOLO label file states: a box, key points, an outline or an oriented box."""

import shutil
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import trees
from onestage.data import load_dataset
from onestage.data.yolo_lines import key_point_columns, read_file
from onestage.errors import DataError

BOXES = [(0.5, 0.5, 0.4, 0.4), (0.3, 0.6, 0.2, 0.3), (0.7, 0.3, 0.5, 0.2)]
"""Centre, width and height, as lines have them."""

ROUGH = [(0.12, 0.2, 0.83, 0.31, 0.7, 0.77), (0.2, 0.9, 0.4, 0.1, 0.95, 0.5, 0.5, 0.7)]
"""Outlines whose points do not lie in a box that their first points could be."""


def yolo(root: Path, lines: list[str], stated: str = "") -> Path:
    """A picture for each line."""
    for number, line in enumerate(lines):
        trees.picture(root / f"images/train/{number:03}.png")
        trees.write(root / f"labels/train/{number:03}.txt", line)
    trees.write(root / "data.yaml", f"train: images/train\nnames: [cat, dog]\n{stated}")
    return root


def read(root: Path, **options: str) -> list[list[float]]:
    """Centre, width and height of all objects, in parts of their pictures."""
    data = load_dataset(root, **options)
    height, width = data.sizes[0]
    boxes = data.boxes.double().tolist()
    return [[(a + c) / 2 / width, (b + d) / 2 / height, (c - a) / width, (d - b) / height] for a, b, c, d in boxes]


def pose(box: tuple[float, ...], count: int, numbers: int, random: Random, *, hidden: float = 0.2) -> str:
    """A line with key points in its box; some are not visible and written as 0 0."""
    x, y, w, h = box
    points: list[float] = []
    for _ in range(count):
        place = [x + w * random.uniform(-0.5, 0.5), y + h * random.uniform(-0.5, 0.5)]
        absent = random.random() < hidden
        points += ([0, 0] if absent else place) + ([0 if absent else random.choice((1, 2))] if numbers == 3 else [])
    return " ".join(["1", *(f"{value:.6g}" for value in (*box, *points))])


def outline(points: tuple[float, ...]) -> str:
    return " ".join(["0", *map(str, points)])


def around(points: tuple[float, ...]) -> list[float]:
    xs, ys = points[0::2], points[1::2]
    return [(min(xs) + max(xs)) / 2, (min(ys) + max(ys)) / 2, max(xs) - min(xs), max(ys) - min(ys)]


@pytest.mark.parametrize("numbers", [2, 3])
@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 12, 17, 133])
@pytest.mark.parametrize("stated", [True, False])
def test_the_box_of_key_points_is_the_first_four_numbers(count: int, numbers: int, stated: bool, tmp_path: Path) -> None:
    random = Random(f"{count} {numbers}")
    lines = [pose(box, count, numbers, random) for box in BOXES]
    root = yolo(tmp_path, lines, f"kpt_shape: [{count}, {numbers}]\n" if stated else "")
    for found, box in zip(read(root), BOXES, strict=True):
        assert found == pytest.approx(box, abs=1e-4)


@pytest.mark.parametrize("stated", [True, False])
def test_points_that_nobody_sees_do_not_count(stated: bool, tmp_path: Path) -> None:
    lines = ["0 0.5 0.5 0.4 0.4 0.9 0.9 0 0.5 0.5 2", "0 0.5 0.5 0.2 0.2 0 0 0 0 0 0"]
    root = yolo(tmp_path, lines, "kpt_shape: [2, 3]\n" if stated else "")
    assert [box[2] for box in read(root)] == pytest.approx([0.4, 0.2], abs=1e-4)


def test_key_points_of_the_shared_set(shared_data: Path, tmp_path: Path) -> None:
    for name in ("as it is", "without kpt_shape"):
        root = shutil.copytree(shared_data / "layouts/pose_labels", tmp_path / name)
        if name != "as it is":
            file = root / "data.yaml"
            file.write_text(file.read_text().replace("kpt_shape: [12, 2]\n", ""))
        data = load_dataset(root)
        lines = [
            line.split() for path in data.paths for line in Path(path.replace("images", "labels")).with_suffix(".txt").open()
        ]
        assert read(root) == [pytest.approx([float(v) for v in line[1:5]], abs=2e-3) for line in lines]


def test_outlines_of_any_length(tmp_path: Path) -> None:
    small = (0.5, 0.5, 0.6, 0.5, 0.55, 0.6)  # alone, it could be a box with a point in it
    assert read(yolo(tmp_path / "a", [outline(ROUGH[0])])) == [pytest.approx(around(ROUGH[0]), abs=1e-4)]
    found = read(yolo(tmp_path / "b", [outline(points) for points in (small, *ROUGH, *ROUGH)]))
    assert found == [pytest.approx(around(points), abs=1e-4) for points in (small, *ROUGH, *ROUGH)]


def test_boxes_and_outlines_in_one_file(tmp_path: Path) -> None:
    root = yolo(tmp_path, [f"{outline(ROUGH[0])}\n1.0 0.5 0.5 0.4 0.4\n{outline(ROUGH[1])}\n"])
    assert [box[2] for box in read(root)] == pytest.approx([around(ROUGH[0])[2], 0.4, around(ROUGH[1])[2]], abs=1e-4)
    assert load_dataset(root).labels.tolist() == [0, 1, 0]


def test_oriented_boxes(tmp_path: Path) -> None:
    """Also small ones in the middle, whose corners lie in the box that their first two corners could be."""
    random, corners = Random(3), []
    for _ in range(40):
        x, y, a, b = random.uniform(0.3, 0.7), random.uniform(0.3, 0.7), random.uniform(-0.2, 0.2), random.uniform(0.02, 0.2)
        flat = random.uniform(0.1, 0.6)
        p, q = (a, b), (-b * flat, a * flat)
        signs = ((1, 1), (1, -1), (-1, -1), (-1, 1))
        corners.append(tuple(round(c + s * u + t * v, 6) for s, t in signs for c, u, v in zip((x, y), p, q, strict=True)))
    found = read(yolo(tmp_path / "all", [outline(points) for points in corners]))
    assert found == [pytest.approx(around(points), abs=1e-4) for points in corners]
    for number, points in enumerate(corners):
        assert read(yolo(tmp_path / str(number), [outline(points)])) == [pytest.approx(around(points), abs=1e-4)]


def test_crooked_corners_of_oriented_boxes(tmp_path: Path) -> None:
    corners = [(0.3, 0.3, 0.4, 0.32, 0.38, 0.43, 0.29, 0.4), (0.1, 0.1, 0.8, 0.2, 0.75, 0.7, 0.2, 0.65)]
    assert read(yolo(tmp_path, [outline(points) for points in corners])) == [
        pytest.approx(around(points), abs=1e-4) for points in corners
    ]


@pytest.mark.parametrize("together", [True, False])
def test_lines_that_contradict_each_other(together: bool, tmp_path: Path) -> None:
    """Five points in the box of the first line; the second line's points lie outside of its box."""
    lines = ["0 0.5 0.5 0.4 0.4" + " 0.4 0.6" * 5, "0 0.5 0.5 0.2 0.2" + " 0.9 0.1" * 5]
    root = yolo(tmp_path, ["\n".join(lines)] if together else lines)
    with pytest.raises(DataError, match=r"outlines as well as boxes with key points\n(.|\n)*kpt_shape: \[5, 2\]") as caught:
        load_dataset(root)
    assert ("000.txt:2" if together else "001.txt:1") in str(caught.value)
    yolo(root, [], "kpt_shape: [5, 2]\n")
    assert [box[2] for box in read(root)] == pytest.approx([0.4, 0.2], abs=1e-4)


@pytest.mark.parametrize("other", [outline(ROUGH[0]), "0 0.5 0.5 0.4 0.4" + " 0.4 0.6" * 11 + " 0.5", "0 0.5 0.5 0.4 0.4 0.9"])
@pytest.mark.parametrize("stated", ["", "kpt_shape: [12, 2]\n"])
def test_a_line_of_another_length_among_key_points_is_a_problem(other: str, stated: str, tmp_path: Path) -> None:
    lines = ["0 0.5 0.5 0.4 0.4" + " 0.4 0.6" * 12, "1 0.5 0.5 0.2 0.2"]
    root = yolo(tmp_path, [*lines, other], stated)
    with pytest.raises(DataError, match="1 problem") as caught:
        load_dataset(root)
    assert "002.txt:1: the number of columns is wrong" in str(caught.value) and "or 29 columns" in str(caught.value)
    assert [box[2] for box in read(root, on_bad="skip")] == pytest.approx([0.4, 0.2], abs=1e-4)


@pytest.mark.parametrize("stated", ["12", "[12]", "[12, 4]", "[0, 2]", "[x, 2]", "{12: 2}", "[12, 2, 1]", "[[12], 2]", "''"])
def test_a_kpt_shape_that_is_none(stated: str, tmp_path: Path) -> None:
    root = yolo(tmp_path, ["0 0.5 0.5 0.4 0.4"], f"kpt_shape: {stated}\n")
    with pytest.raises(DataError, match="kpt_shape is not understood"):
        load_dataset(root)


@pytest.mark.parametrize("written", ["1.0", "1.", "01", "1.00000"])
def test_classes_written_as_decimals(written: str, tmp_path: Path) -> None:
    root = yolo(tmp_path, [f"{written} 0.5 0.5 0.4 0.4"])
    assert load_dataset(root).labels.tolist() == [1]
    (root / "data.yaml").unlink()
    assert load_dataset(root, classes=["cat", "dog"]).labels.tolist() == [1]


BOX = "0 0.5 0.5 0.2 0.2"
TRACKED = [f"{BOX} 0.91 1", f"{BOX} 0.4 1"]
OUTLINE = "0 0.1 0.2 0.3 0.2 0.3 0.7 0.2 0.9"


@pytest.mark.parametrize(
    "lines",
    [
        TRACKED * 5,
        [*TRACKED, f"{BOX} 1 17", BOX],
        [f"{BOX} 0.9 3.0", f"{BOX} 0.9"],
        [f"{BOX} 0.9 1", f"{BOX} 0.9"],
        TRACKED * 5 + [OUTLINE] * 3,
        [f"{OUTLINE} 0.8 1", f"{OUTLINE} 0.1 0.5 0.7 2"],
        [f"{OUTLINE} 0.8 1"] * 10,
        TRACKED[:1],
        [f"{BOX} 0.9 0"],
        ["0 0.1 0.2 0.3 0.4 0.5 1"],  # over the picture's edge
        [*TRACKED * 15, "0 0.05 0.5 0.2 0.2 0.9 1"],
        [*(f"{BOX} 0.9 {track}" for track in range(-1, 20)), "0 -0.05 0.5 0.2 0.2 0.9 1", f"{BOX} 1.02 1"],
        [f"{OUTLINE} 0.8 {track}" for track in range(5)] + ["0 0.5 0.5 0.6 0.5 0.55 0.6 0.52 0.55"] * 2,
    ],
)
def test_the_output_of_a_tracker_is_no_outline(lines: list[str], tmp_path: Path) -> None:
    root = yolo(tmp_path, lines)
    with pytest.raises(DataError, match=r"look like the output of a tracker: class, (box|outline), score") as caught:
        load_dataset(root, on_bad="skip")
    fix = str(caught.value.fix)
    assert "remove the last two columns" in fix and "000.txt:1" in str(caught.value)
    assert fix.startswith("for outlines of three points, write another") == ("class, box" in str(caught.value))


@pytest.mark.parametrize(
    "lines",
    [
        ["0 0.1 0.2 0.3 1 0.5 1"],  # two points are at the edge
        ["0 0.3 0 0.4 0.2 0.5 0"],
        [f"{BOX} 0.9 1"] * 9 + [OUTLINE],
        [f"{BOX} 0.9 1", f"{BOX} 0.9 0.5"],
        [f"{BOX} 0.9 1", OUTLINE],
        ["0 0 0 1 0 1 1 0 1"] * 20,
        [f"{OUTLINE} 0.8 1", f"{OUTLINE} 0.1 0.5 0.7 1"],
        [f"{OUTLINE} 0.8 1"] * 10 + [OUTLINE],
    ],
)
def test_outlines_that_end_at_an_edge_stay_outlines(lines: list[str], tmp_path: Path) -> None:
    found = read(yolo(tmp_path, lines))
    assert found == [pytest.approx(around(tuple(map(float, line.split()[1:]))), abs=1e-4) for line in lines]


def test_another_point_at_the_end_says_that_a_triangle_is_none(tmp_path: Path) -> None:
    assert read(yolo(tmp_path, ["0 0.9 1 0.5 0.5 0.2 0.2"])) == [pytest.approx([0.55, 0.6, 0.7, 0.8], abs=1e-4)]


def test_a_few_tracks_among_outlines_are_told_as_tracks(tmp_path: Path) -> None:
    root = yolo(tmp_path, [OUTLINE, OUTLINE, f"{BOX} 0.9 3"])
    with pytest.raises(DataError, match="a score and the number of a track, remove them"):
        load_dataset(root)


@pytest.mark.parametrize("lines", [[f"{BOX} 0.9 3 1"], [f"{BOX} 0.9 {track} 2" for track in range(9)] + [f"{BOX} 0.5 0.5 2"]])
def test_a_track_before_a_last_number_is_no_key_point(lines: list[str], tmp_path: Path) -> None:
    root = yolo(tmp_path, lines)
    with pytest.raises(DataError, match=r"output of a tracker: class, box(.|\n)*\[1, 3\](.|\n)*last three columns"):
        load_dataset(root, on_bad="skip")
    yolo(root, [], "kpt_shape: [1, 3]\n")
    assert read(root) == [pytest.approx([0.5, 0.5, 0.2, 0.2], abs=1e-4)] * len(lines)


@pytest.mark.parametrize("lines", [[f"{BOX} 0 0 0"], [f"{BOX} 0.5 0.6 2", f"{BOX} 0.9 1 1"], ["0 0.9 0.9 0.2 0.2 0.95 1 2"]])
def test_one_key_point_is_read_at_an_edge_too(lines: list[str], tmp_path: Path) -> None:
    assert [box[2] for box in read(yolo(tmp_path, lines))] == pytest.approx([0.2] * len(lines), abs=1e-4)


PART = st.floats(0.001, 0.999).map(lambda part: round(part, 6))
TRACKS = st.tuples(PART, PART, PART, PART, PART, st.sampled_from((0, 1, 1, 1, 2, 40)))
TRIANGLE = st.tuples(PART, PART, PART, PART, PART, PART)
BOTTOM = st.tuples(PART, PART.filter(lambda y: y != 0.5), PART, st.just(1), PART, st.just(1))
CUT = BOTTOM | st.tuples(PART, st.just(0), PART, PART, PART, st.just(0))
"""Triangles of which the bottom or the top of the picture cuts off a part: as outlines of pixels begin at the top."""


def columns_of(lines: list[tuple[float, ...]], folder: Path) -> int | None:
    """As a data set with these lines, of class 0, is read: see ``key_point_columns``."""
    file = trees.write(folder / "a.txt", "".join(f"0 {' '.join(map(str, line))}\n" for line in lines))
    return key_point_columns({"train": [read_file(file, "a.txt")]})


@settings(max_examples=30, deadline=None)
@given(lines=st.lists(TRACKS, min_size=1, max_size=40))
def test_a_tracker_is_recognised_however_many_boxes_leave_the_picture(
    lines: list[tuple[float, ...]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    with pytest.raises(DataError, match="output of a tracker"):
        columns_of(lines, tmp_path_factory.getbasetemp())


@settings(max_examples=30, deadline=None)
@given(inside=st.lists(TRIANGLE, max_size=20), cut=st.lists(CUT, max_size=20), few=st.lists(TRACKS, max_size=9))
def test_triangles_are_no_output_of_a_tracker(
    inside: list[tuple[float, ...]],
    cut: list[tuple[float, ...]],
    few: list[tuple[float, ...]],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """Also a few that only the last point of lies at an edge, among longer outlines."""
    outlines = [tuple(map(float, OUTLINE.split()[1:]))] if few else []
    try:
        columns_of([*inside, *cut, *few, *outlines], tmp_path_factory.getbasetemp())
    except DataError as error:  # another doubt
        assert "key points" in error.what


def test_comments_in_label_files(tmp_path: Path) -> None:
    root = yolo(tmp_path, [f"# class x y w h\n\n  #\n{BOX}\n#{BOX}\n"])
    (root / "data.yaml").unlink()
    trees.write(root / "classes.txt", "cat")
    assert read(root) == [pytest.approx([0.5, 0.5, 0.2, 0.2], abs=1e-4)]


SMALL = "0 0.5 0.5 0.52 0.5 0.55 0.52 0.53 0.56 0.5 0.55"
"""An outline that could be a box with three points in it."""

POSE = "0 0.5 0.5 0.4 0.4" + " 0.4 0.6" * 3


def splits(root: Path, **lines: list[str]) -> Path:
    for split, written in lines.items():
        for number, line in enumerate(written):
            trees.picture(root / f"images/{split}/{number}.png")
            trees.write(root / f"labels/{split}/{number}.txt", line)
    trees.write(root / "data.yaml", "".join(f"{s}: images/{s}\n" for s in lines) + "names: [cat, dog]\n")
    return root


@pytest.mark.parametrize(
    "lines",
    [
        {"train": [outline(points) for points in ROUGH], "val": [SMALL]},
        {"train": [outline(points) for points in ROUGH * 20], "val": [POSE]},
        {"train": [POSE] * 20, "val": [outline(points) for points in ROUGH]},
        {"train": [POSE] * 3, "val": [POSE], "test": [outline(ROUGH[0])]},
        {"train": [POSE] * 3, "val": [POSE + " 0.5 0.5"]},
    ],
)
def test_splits_that_alone_are_of_different_kinds(lines: dict[str, list[str]], tmp_path: Path) -> None:
    """Each split alone would be read by its own rule."""
    root = splits(tmp_path, **lines)
    for split in (None, *lines):
        with pytest.raises(DataError, match="outlines as well as boxes with key points"):
            load_dataset(root, split=split, on_bad="skip")
    (root / "data.yaml").open("a").write("kpt_shape: [3, 2]\n")
    assert load_dataset(root, split="train", on_bad="skip").split == "train"


def test_a_split_that_is_unclear_alone_follows_the_others(tmp_path: Path) -> None:
    unclear = [SMALL, "0 0.5 0.5 0.2 0.2" + " 0.9 0.1" * 3]
    alone = splits(tmp_path / "alone", val=unclear)
    with pytest.raises(DataError, match="outlines as well"):
        load_dataset(alone)
    root = splits(tmp_path / "all", train=[outline(points) for points in ROUGH * 3], val=unclear)
    assert load_dataset(root, split="val").labels.tolist() == [0, 0]
    assert load_dataset(splits(tmp_path / "boxes", train=["0 0.5 0.5 0.4 0.4"], val=[POSE])).labels.tolist() == [0, 0]
