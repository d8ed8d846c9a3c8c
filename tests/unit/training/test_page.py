"""The page of a run, and the pictures on it."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from PIL import Image

from onestage.training import journal as journals
from onestage.training import page as pages
from onestage.training.config import TrainConfig
from onestage.training.examples import COLUMNS, Examples, choose
from onestage.training.loop import resume, train
from onestage.training.monitor import Monitor
from onestage.training.run import Run, round_epochs
from small_runs import CONFIG, detector, metrics, pictures, same_bits, write_pictures


class Notes(Monitor):
    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pictures(tmp_path_factory.mktemp("page") / "data")


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    notes = Notes()
    out = tmp_path_factory.mktemp("page") / "run"
    train(detector(), data, out=out, config=replace(CONFIG, epochs=2), monitor=notes)
    return out, notes.said


def test_a_run_has_a_page_with_all_there_is_to_see(run: tuple[Path, list[str]], data: Path) -> None:
    folder, said = run
    text = (folder / "index.html").read_text(encoding="utf-8")
    few = ("few to learn from", "more pictures with it would do")
    for words in ("step 6 of 6", "labels", "epoch 2", "ball", *few, "batch_size", "onestage predict"):
        assert words in text, words
    assert f"onestage evaluate {folder} {data}" in text
    assert text.count("data:image/png") == 2 and text.count("data:image/jpeg") >= 6  # 3 pictures: labels, epoch 2
    (few_examples,) = [line.removeprefix("advice: ") for line in said if line.startswith("advice: few examples")]
    assert "\n  " in few_examples and few_examples.replace("\n", "<br>") in text
    assert "<script" not in text and text.endswith("</html>\n")


@pytest.mark.parametrize(
    ("length", "expected"),
    [
        ({"epochs": 2}, {"epochs": "2", "steps": "by default", "minutes": "by default"}),
        ({"steps": 5}, {"epochs": "1.67", "steps": "5", "minutes": "by default"}),
        ({"minutes": 0.5, "steps": 60}, {"epochs": "20", "steps": "60", "minutes": "0.5"}),
        ({"minutes": 0.5}, {"epochs": "not known yet", "steps": "not known yet", "minutes": "0.5"}),
    ],
)
def test_the_settings_say_how_long_the_run_is_and_no_usual_value_beside_it(
    length: dict[str, Any], expected: dict[str, str]
) -> None:
    """Here an epoch has 3 steps."""
    config = replace(TrainConfig(batch_size=4), **length)
    steps = config.steps
    run = SimpleNamespace(
        config=config, loader=range(3), epochs=config.epochs if steps is None else round_epochs(steps / 3), decisions=()
    )
    table = {name: (value, reason) for name, value, reason, _ in pages._settings(cast(Run, run))}
    assert {name: table[name][0] for name in expected} == expected
    assert bool(table["epochs"][1]) == (config.epochs == TrainConfig().epochs)


def test_a_run_that_goes_on_repeats_no_advice(run: tuple[Path, list[str]], tmp_path: Path) -> None:
    notes = Notes()
    resume(run[0], monitor=notes)
    assert not any(line.startswith("advice") for line in notes.said)


def test_a_page_that_cannot_be_drawn_stops_no_training_and_changes_no_bit(
    run: tuple[Path, list[str]], data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        torch.rand(3)
        raise OSError("no space left")

    monkeypatch.setattr(journals, "save_page", fail)
    monkeypatch.setattr(journals, "COST", 0.0)
    notes = Notes()
    train(detector(), data, out=tmp_path / "run", config=replace(CONFIG, epochs=2), monitor=notes)
    assert same_bits(run[0], tmp_path / "run")
    assert len([line for line in notes.said if "no space left; the training goes on" in line]) == 1


def test_a_page_of_foreign_names_is_escaped(tmp_path: Path) -> None:
    assert "&lt;b&gt;" in pages.fill("{{ x }}", title="", x="<b>")


def test_the_history_keeps_the_figures_of_classes_apart(run: tuple[Path, list[str]]) -> None:
    assert (run[0] / "per_class.csv").read_text().splitlines()[0].startswith("epoch,step,")
    assert not any(key.startswith("class/") for row in metrics(run[0]) for key in row)


def test_the_pictures_show_as_many_classes_as_possible() -> None:
    many = pictures(40)
    chosen = choose(many)
    seen = {label for row in chosen for label in many.truth(row).labels.tolist()}
    assert len(chosen) == 6 and seen == {*many.labels.tolist()} and chosen == choose(many)
    assert choose(pictures(2)) in ([0], [1], [0, 1])


def test_the_columns_of_pictures_stay_few(tmp_path: Path) -> None:
    examples = Examples(pictures(6), tmp_path)
    epochs: dict[int, float] = {}
    for step in range(1, 30):
        epochs[step] = float(step)
        examples.save(step, {"1 a": Image.new("RGB", (8, 8))}, epochs=epochs)
        assert len(examples.steps) <= COLUMNS + 1 and examples.steps[0] == 0
        assert {1, step} <= {*examples.steps}
    kept = examples.steps[1:]
    assert max(b - a for a, b in pairwise(kept)) <= 16
    examples.save(3, {}, epochs={1: 1.0})  # the run went back
    assert examples.steps == [0, 1]
