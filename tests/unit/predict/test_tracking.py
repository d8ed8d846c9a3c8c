"""Ids through time: objects keep them through a crossing, measured by IDF1 of a slow reference."""

from collections import Counter
from collections.abc import Iterator
from fractions import Fraction
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import onestage
from films import Knowing, crossing, encode
from onestage.boxes import iou
from onestage.data.synthetic import SyntheticConfig, synthetic_dataset
from onestage.model.output.scores import Scores
from onestage.predict.film_rows import row_of
from onestage.predict.film_writer import draw_seen
from onestage.predict.films import FilmFile
from onestage.predict.frames import Fault, Frame, followed
from onestage.predict.pipeline import Selection
from onestage.predict.predictor import Predictor
from onestage.predict.tracking import Tracker
from onestage.predict.watching import Seen, watch
from onestage.training.config import TrainConfig

SIDE, COUNT = 24, 60
COLOURS = ((250, 250, 250), (250, 220, 20))
"""Of two objects of one class: the first goes to the right in front of the second, which goes to the left."""


def truth(number: int) -> Tensor:
    """(2, 4): where both are in a frame. They meet in the middle, a third of their height apart."""
    boxes = [[4 + 2 * number, 30, 4 + 2 * number + SIDE, 30 + SIDE], [140 - 2 * number, 38, 140 - 2 * number + SIDE, 38 + SIDE]]
    return torch.tensor(boxes, dtype=torch.float32)


def drawn(number: int, size: tuple[int, int]) -> np.ndarray:
    rows = np.full((*size, 3), 60, np.uint8)
    for box, colour in reversed([*zip(truth(number).int().tolist(), COLOURS, strict=True)]):
        x1, y1, x2, y2 = box
        rows[y1:y2, x1:x2] = colour
    return rows


def by_colour(image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What is visible of both, as boxes; the less of an object is visible, the lower is its score."""
    boxes, scores = [], []
    for colour in COLOURS:
        mine = (image.int() - torch.tensor(colour)[:, None, None]).abs().amax(0) < 40
        if mine.sum() < SIDE * SIDE / 8:
            continue
        rows, columns = mine.any(1).nonzero(), mine.any(0).nonzero()
        boxes.append([float(side) for side in (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)])
        scores.append(min(0.95, float(mine.sum()) / SIDE**2))
    return torch.tensor(boxes).view(-1, 4), torch.tensor(scores), torch.zeros(len(scores), dtype=torch.int64)


def idf1(true: list[Tensor], seen: list[tuple[Tensor, tuple[int | None, ...]]]) -> float:
    """IDF1 (Ristani et al. 2016, section 4) by trying every way to pair true objects with ids.

    true: of each frame, the boxes of all objects, in one order. seen: of each frame, boxes and their ids.
    """
    together: Counter[tuple[int, int]] = Counter()
    for boxes, (found, ids) in zip(true, seen, strict=True):
        for (row, column), overlap in np.ndenumerate(iou(boxes, found).numpy()):
            number = ids[column]
            if overlap >= 0.5 and number is not None:
                together[row, number] += 1
    objects, numbers = len(true[0]), sorted({n for _, ids in seen for n in ids if n is not None})
    padded = [*numbers, *range(-objects, 0)]
    best = max(sum(together[row, number] for row, number in enumerate(some)) for some in permutations(padded, objects))
    reported = sum(number is not None for _, ids in seen for number in ids)
    return 2 * best / (objects * len(true) + reported)


def in_film(film: Path, *, every: int = 1, looker: object = Knowing(by_colour)) -> list[Seen]:
    items = followed(FilmFile(film), every=every)
    seen = watch(
        looker,  # type: ignore[arg-type]
        items,
        selection=Selection(0.5),
        tracker=lambda: Tracker(0.5, rate=30 / every),
    )
    return [item for item in seen if isinstance(item, Seen)]


@pytest.mark.parametrize("every", [1, 2])
def test_ids_are_kept_through_a_crossing_in_a_film(tmp_path: Path, every: int) -> None:
    seen = in_film(encode(tmp_path / "in.mp4", COUNT, size=(96, 168), draw=drawn), every=every)
    assert [item.frame.number for item in seen] == [*range(0, COUNT, every)]
    score = idf1([truth(item.frame.number) for item in seen], [(item.found.boxes, item.ids) for item in seen])
    assert score > 0.95
    first, last = seen[5], seen[-1]
    for item in (first, last):
        assert sorted(number or 0 for number in item.ids) == [1, 2]
    place = [{number: float(box[0]) for number, box in zip(s.ids, s.found.boxes, strict=True)} for s in (first, last)]
    assert (place[0][1] < place[0][2]) != (place[1][1] < place[1][2])  # the left one is on the right in the end


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    """A TinySSD that was trained on built-in pictures in which objects may hide half of each other."""
    config = SyntheticConfig(("ball", "cube"), (96, 128), 500, objects=(1, 4), scale=(0.25, 0.45), min_visible=0.4)
    model = onestage.create("tinyssd", classes=config.classes, size=config.size)
    settings = TrainConfig(epochs=15, batch_size=8, lr=2e-3, workers=0, device="cpu", evaluate_every=0)
    onestage.train(model, synthetic_dataset(config), out=tmp_path_factory.mktemp("trained") / "run", config=settings)
    return Predictor.of(model)


@pytest.mark.slow
@pytest.mark.timeout(1200)  # the training is a part of it
def test_a_trained_detector_keeps_ids_through_crossings(trained: Predictor, tmp_path: Path) -> None:
    """In twenty drawn films, each with other objects on another ground; frame 30 hides most of the one behind."""
    scores = {}
    for seed in range(20):
        pictures, true = crossing(1000 + seed)
        film = encode(tmp_path / f"{seed}.mp4", len(pictures), size=(96, 128), draw=lambda number, _, p=pictures: p[number])
        for every in (1, 2):
            seen = in_film(film, every=every, looker=trained)
            balls = [(item.found.boxes, item.ids) for item in seen]
            scores[seed, every] = idf1([true[item.frame.number] for item in seen], balls)
    means = {every: sum(scores[seed, every] for seed in range(20)) / 20 for every in (1, 2)}
    print(f"IDF1 {means}, least {min(scores.values()):.2f}, above 0.8 in {sum(s > 0.8 for s in scores.values())} of 40")
    assert min(means.values()) > 0.85


def noisy(seed: int, *, seconds: Fraction = Fraction(1, 30)) -> Iterator[tuple[int, Fraction, Tensor, Tensor]]:
    """Number, time, boxes and scores: of the truth with noise, with misses, weak sightings and false alarms."""
    numbers = np.random.default_rng(seed)
    for number in range(COUNT):
        boxes = truth(number) + torch.tensor(numbers.normal(0, 1.0, (2, 4)), dtype=torch.float32)
        scores = torch.tensor(numbers.choice([0.9, 0.7, 0.3], 2, p=[0.6, 0.25, 0.15]), dtype=torch.float32)
        keep = torch.tensor(numbers.random(2) > 0.07)
        boxes, scores = boxes[keep], scores[keep]
        if numbers.random() < 0.1:
            corner = torch.tensor(numbers.uniform(0, 60, 2), dtype=torch.float32)
            boxes, scores = torch.cat([boxes, torch.cat([corner, corner + 20])[None]]), torch.cat([scores, torch.tensor([0.6])])
        yield number, number * seconds, boxes, scores


@pytest.mark.parametrize("seed", range(5))
def test_ids_survive_noise(seed: int) -> None:
    tracker, seen, true = Tracker(0.5, rate=30), [], []
    for number, when, boxes, scores in noisy(seed):
        looker = Knowing(lambda _, b=boxes, s=scores: (b, s, torch.zeros(len(s), dtype=torch.int64)))
        found = looker.one(torch.zeros(3, 96, 168), 0.1)
        seen.append((found.boxes, tracker.ids(found, when)))
        true.append(truth(number))
    assert idf1(true, seen) > 0.9


def test_the_reference_punishes_a_swap() -> None:
    true = [truth(number) for number in range(10)]
    assert idf1(true, [(boxes, (1, 2)) for boxes in true]) == 1
    assert idf1(true, [(boxes, (1, 2) if number < 5 else (2, 1)) for number, boxes in enumerate(true)]) == 0.5
    assert idf1(true, [(boxes, (None, None)) for boxes in true]) == 0


def steps(tracker: Tracker, rows: list[tuple[float, list[float], float, int]]) -> list[int | None]:
    """The id of one object, given as time, box, score and label."""
    ids = []
    for when, box, score, label in rows:
        looker = Knowing(lambda _, b=box, s=score, k=label: (torch.tensor([b]), torch.tensor([s]), torch.tensor([k])))
        ids += tracker.ids(looker.one(torch.zeros(3, 96, 168), 0.0), when)
    return ids


def test_weak_sightings_continue_an_id_and_begin_none() -> None:
    box = [10.0, 10, 40, 40]
    rows = [(n / 30, box, score, 0) for n, score in enumerate([0.3, 0.3, 0.8, 0.8, 0.2, 0.2, 0.8])]
    assert steps(Tracker(0.5), rows) == [None, None, None, 1, 1, 1, 1]
    once = [(n / 30, box, score, 0) for n, score in enumerate([0.3, 0.8, 0.2, 0.2])]
    assert steps(Tracker(0.5), once) == [None, None, 1, 1], "the second sighting may be weak (docs/films.md)"


def test_ids_never_change_their_class_and_each_class_has_its_score() -> None:
    box = [10.0, 10, 40, 40]
    rows = [(n / 30, box, 0.6, label) for n, label in enumerate([0, 0, 1, 1, 0, 1])]
    assert steps(Tracker([0.5, 0.5]), rows) == [None, 1, None, 2, 1, 2]
    assert steps(Tracker([0.5, 0.9]), rows) == [None, 1, None, None, 1, None]


@pytest.mark.parametrize(("gap", "kept"), [(0.9, True), (1.5, False)])
def test_an_object_keeps_its_id_for_a_second(gap: float, kept: bool) -> None:
    """By the times of frames, whatever their number."""
    box = [10.0, 10, 40, 40]
    rows = [(0.0, box, 0.9, 0), (0.5, box, 0.9, 0), (0.5 + gap, box, 0.9, 0), (0.6 + gap, box, 0.9, 0)]
    assert (steps(Tracker(0.5), rows)[-1] == 1) == kept


def test_rows_and_drawings_have_the_ids(tmp_path: Path) -> None:
    seen = in_film(encode(tmp_path / "in.mp4", 6, size=(96, 168), draw=drawn))
    rows = [row_of(item, "in.mp4") for item in seen]
    assert [entry["track"] for entry in rows[0]["detections"]] == [None, None]  # type: ignore[attr-defined]
    assert sorted(entry["track"] for entry in rows[5]["detections"]) == [1, 2]  # type: ignore[attr-defined]
    assert list(rows[5])[:4] == ["image_id", "path", "frame", "time"] and rows[5]["time"] == 0.166667
    assert draw_seen(seen[5]).size == (168, 96) and draw_seen(seen[5]).tobytes() != draw_seen(seen[0]).tobytes()


def test_only_what_is_tracked_is_reported_below_the_score() -> None:
    boxes, labels = torch.tensor([[10.0, 10, 40, 40], [60, 10, 90, 40]]), torch.tensor([0, 1])
    scores = iter([torch.tensor([0.8, 0.2]), torch.tensor([0.8, 0.2]), torch.tensor([0.3, 0.2])])
    looker = Knowing(lambda _: (boxes, next(scores), labels))
    items = [Frame(n, Fraction(n, 30), torch.zeros(3, 96, 168, dtype=torch.uint8)) for n in range(3)]
    faults = [Fault(3, Fraction(1, 10), None)]  # type: ignore[arg-type]
    seen = [*watch(looker, [*items, *faults], selection=Selection(0.5), tracker=lambda: Tracker(0.5))]  # type: ignore[arg-type]
    assert [item.found.class_names for item in seen[:3]] == [("a",)] * 3  # type: ignore[union-attr]
    assert [item.ids for item in seen[:3]] == [(None,), (1,), (1,)] and seen[3] is faults[0]  # type: ignore[union-attr]


@pytest.mark.parametrize("score", [0.5, 0.3])  # 0.3 in 32 bits is above 0.3
@pytest.mark.parametrize("of_class", [True, False])
def test_what_lies_at_the_score_counts_as_without_ids(score: float, of_class: bool) -> None:
    """A threshold of a class is reached, and a score of --score is surpassed."""
    box, at = torch.tensor([[10.0, 10, 40, 40]]), torch.tensor([score])
    looker = Knowing(lambda _: (box, at, torch.tensor([0])))
    thresholds = (float(at), float(at)) if of_class else ()
    expected = Scores(thresholds=thresholds).reported(looker.one(torch.zeros(3, 96, 168), 0.0), None if of_class else score)
    items = [Frame(n, Fraction(n, 30), torch.zeros(3, 96, 168, dtype=torch.uint8)) for n in range(3)]
    tracker = Tracker(thresholds if of_class else score)
    seen = [*watch(looker, items, selection=Selection(None if of_class else score), tracker=lambda: tracker)]  # type: ignore[arg-type]
    assert [len(item.found) for item in seen] == [len(expected)] * 3 == [int(of_class)] * 3  # type: ignore[union-attr]
