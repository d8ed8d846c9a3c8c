"""Large pictures in tiles: every object is found once, and whole, whatever borders cut it."""

from collections.abc import Sequence
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import onestage
from drawn_rectangles import Rectangle, draw, seer
from exported_files import model, onnx_file
from onestage import boxes as box_ops
from onestage.errors import ConfigError
from onestage.model.output.scores import Scores
from onestage.predict.predictor import Predictor
from onestage.predict.tiles import Tiled
from onestage.predict.windows import SMALLEST, auto_tile, starts, windows_of
from onestage.structures import Detections


def each_once(found: Detections, truth: Sequence[Rectangle], *, least: float = 0.6) -> bool:
    """Whether every rectangle was found, with an IoU of at least ``least``, and nothing else was."""
    overlap = box_ops.iou(torch.tensor(truth, dtype=torch.float32).reshape(-1, 4), found.boxes)
    return overlap.shape[0] == overlap.shape[1] and bool((overlap.amax(dim=1) >= least).all() if len(truth) else True)


@given(st.integers(1, 3000), st.integers(1, 800), st.floats(0.05, 0.9))
def test_windows_cover_a_side_and_overlap_as_asked(side: int, window: int, overlap: float) -> None:
    begins = starts(side, window, overlap)
    assert begins[0] == 0 and (begins == [0] if window >= side else begins[-1] == side - window)
    steps = [b - a for a, b in pairwise(begins)]
    assert all(0 < step <= max(1, window * (1 - overlap)) for step in steps)
    fewer = len(begins) - 1
    assert fewer < 1 or window + (fewer - 1) * max(1, int(window * (1 - overlap))) < side, "one window less would do"


def test_a_picture_is_seen_whole_and_in_tiles_that_cover_it() -> None:
    windows = windows_of((400, 1000), (128, 256), 0.25, 1.0)
    assert windows[0][:4] == (0, 0, 400, 1000)
    seen = torch.zeros(400, 1000, dtype=torch.int64)
    for window in windows[1:]:
        assert (window.bottom - window.top, window.right - window.left) == (128, 256)
        seen[window.top : window.bottom, window.left : window.right] += 1
    assert int(seen.min()) == 1 and len(windows) == 1 + 4 * 5
    assert len(windows_of((100, 200), (128, 256), 0.25, 1.0)) == 1, "a tile as large as the picture is the picture"
    assert len(windows_of((100, 200), None, 0.2, 1.25)) == 4 and windows_of((100, 200), None, 0.2, 0.5)[0].shrink == 0.5


@given(st.integers(40, 3000), st.integers(40, 3000), st.floats(10, 60), st.floats(0.05, 0.6))
@settings(max_examples=20)
def test_auto_tiles_follow_from_the_smallest_anchors_and_the_picture(
    height: int, width: int, side: float, overlap: float
) -> None:
    sizes = [side + 10 * i for i in range(6)]
    config = onestage.recipe("tinyssd", ("a",), size=(128, 128), box_sizes=sizes)  # which lists its anchors
    tile = auto_tile(config, (height, width), overlap)
    factor = min(0.7 * side / SMALLEST, 2.0)
    largest = int(128 / factor)
    if tile is None:
        assert max(height, width) <= 128 / factor
        return
    for whole, part in zip((height, width), tile, strict=True):
        assert part <= max(largest, 1) or part == whole <= largest
        assert len(starts(whole, part, overlap)) == len(starts(whole, largest, overlap)), "smaller tiles cost no more"


@st.composite
def layouts(draw_: st.DrawFn) -> list[Rectangle]:
    """Rectangles apart from each other, from a few pixels to most of a picture of 300x420."""
    placed: list[Rectangle] = []
    for _ in range(draw_(st.integers(0, 8))):
        sides = [draw_(st.sampled_from([(10, 18), (20, 60), (60, 140), (140, 280)])) for _ in range(2)]
        height, width = (draw_(st.integers(*pair)) for pair in sides)
        if not 0.4 <= height / width <= 2.5:
            continue
        x, y = draw_(st.integers(0, 420 - width)), draw_(st.integers(0, 300 - height))
        box = (x, y, x + width, y + height)
        if all(x >= c + 4 or y >= d + 4 or box[2] <= a - 4 or box[3] <= b - 4 for a, b, c, d in placed):
            placed.append(box)
    return placed


@given(layouts())
@settings(max_examples=25)
def test_every_object_is_found_once_and_whole(rectangles: list[Rectangle]) -> None:
    tiled = Tiled(seer(len(rectangles)), (80, 120), 0.2)
    (found,) = tiled.predict(draw((300, 420), rectangles))
    assert each_once(found, rectangles), (rectangles, found.boxes.round().tolist())


SMALL = [(x, y, x + 20, y + 20) for x in range(5, 570, 61) for y in range(3, 380, 67)]


def test_tiles_find_what_the_plain_call_misses() -> None:
    plain, picture = seer(len(SMALL)), draw((400, 600), SMALL)
    tiled = onestage.look(plain, tiles="auto")
    assert len(plain.predict(picture)[0]) == 0
    assert each_once(tiled.predict(picture)[0], SMALL)
    assert tiled.passes((400, 600)) == sum(tiled.looker.engine.batches) - 1  # type: ignore[attr-defined]  # less the plain call


def test_an_object_larger_than_a_tile_stays_whole() -> None:
    large = [(100, 60, 520, 330), (10, 350, 30, 370)]
    (found,) = onestage.look(seer(2), tiles=(96, 96)).predict(draw((400, 600), large))
    assert each_once(found, large, least=0.9)


def test_a_small_picture_is_looked_at_as_in_the_plain_call() -> None:
    picture = torch.randint(0, 256, (3, 90, 120), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    plain = Predictor.of(model())
    for one, other in zip(
        plain.predict([picture] * 2), onestage.look(model(), tiles=(96, 128)).predict([picture] * 2), strict=True
    ):
        assert one.boxes.equal(other.boxes) and one.scores.equal(other.scores) and one.path == other.path


def test_memory_is_bounded_by_the_batch() -> None:
    plain = seer(1)
    Tiled(plain, (64, 64), 0.2, batch_size=3).predict([draw((400, 600), []), draw((100, 200), [])])
    assert max(plain.engine.batches) == 3  # type: ignore[attr-defined]


def pieces(picture: Tensor) -> list[Tensor]:
    return [picture, picture[:, :150, :200]]


@pytest.mark.slow  # test_closer_runtimes.py does the same with fewer detections
@pytest.mark.parametrize("ending", ["detections", "candidates", "outputs"])
def test_every_engine_looks_closer(ending: str) -> None:
    """An exported file with and without NMS inside finds in tiles, mirrored and in scales what torch finds."""
    detector = model(ending=ending if ending == "candidates" else "detections")
    exported = onestage.load(onnx_file(ending))
    picture = torch.randint(0, 256, (3, 200, 260), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    for options in ({"tiles": (96, 128)}, {"flip": True, "scales": (0.8, 1.25)}):
        ours, theirs = (onestage.look(one, **options).predict(pieces(picture), score=0.3) for one in (detector, exported))
        for one, other in zip(ours, theirs, strict=True):
            assert len(one) == len(other) > 0 and one.class_names == other.class_names
            torch.testing.assert_close(one.boxes, other.boxes, atol=2e-2, rtol=0)
            torch.testing.assert_close(one.scores, other.scores, atol=1e-4, rtol=0)


def test_scores_keep_their_meaning_in_tiles() -> None:
    """Thresholds and calibration of the model's file are applied to what tiles find."""
    plain = seer(2, classes=("a", "b"), label=lambda number: number, score=0.6)
    picture = draw((400, 600), SMALL[:2])
    kept = Predictor(plain.engine, plain.decoder, Scores(thresholds=(0.5, 0.7)))
    assert onestage.look(kept, tiles=(96, 96)).predict(picture)[0].class_names == ("a",)
    cooled = Predictor(plain.engine, plain.decoder, Scores(temperatures=(1.0, 0.1)))
    found = onestage.look(cooled, tiles=(96, 96)).predict(picture, score=0.7)[0]
    assert found.class_names == ("b",) and float(found.scores[0]) > 0.9


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"tiles": "large"}, "these are no tiles"),
        ({"tiles": (8, 64)}, "tiles are too small"),
        ({"tiles": (640,)}, "these are no tiles"),
        ({"tiles": (640.0, 640)}, "these are no tiles"),
        ({"tiles": (64, 64), "overlap": 0}, "a number out of its range"),
        ({"tiles": (64, 64), "overlap": float("nan")}, "a number out of its range"),
        ({"scales": (0.1,)}, "a number out of its range"),
        ({"scales": ()}, "these are no scales"),
        ({"scales": (1, 1)}, "these are no scales"),
        ({"tiles": (64, 64), "overlap": "0.2"}, "this is no number"),
        ({"tiles": (64, 64), "overlap": None}, "this is no number"),
        ({"scales": ("1",)}, "this is no number"),
        ({"scales": (True,)}, "this is no number"),
        ({"scales": 1.25}, "scales are several"),
        ({"scales": None}, "scales are several"),
        ({"batch_size": 0}, "batch_size is not understood"),
        ({"batch_size": 1.5}, "batch_size is not understood"),
    ],
)
def test_what_cannot_be_is_refused(options: dict[str, object], what: str) -> None:
    with pytest.raises(ConfigError) as caught:
        onestage.look(seer(1), **options)  # type: ignore[arg-type]
    assert caught.value.what == what


def test_only_a_model_looks_closer() -> None:
    with pytest.raises(ConfigError, match="this looks closer already"):
        onestage.look(onestage.look(seer(1), tiles=(64, 64)))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="no detector"):
        onestage.look("runs/first")  # type: ignore[arg-type]
