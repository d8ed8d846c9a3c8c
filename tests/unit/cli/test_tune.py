"""``onestage tune``: a search from the command line, an interruption, and a training with what was found."""

import json
import re
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import pytest

from onestage.cli.main import main
from onestage.training import folder as run_folder
from onestage.training.folder import Plan
from onestage.training.loop import Training
from small_runs import ask_to_stop, before_step, write_pictures

pytest.importorskip("optuna", reason="pip install 'onestage[tune]'")

from onestage.cli.trials import Tuner

Captured = pytest.CaptureFixture[str]
FIXED = ["--model", "tinyssd", "--size", "64", "--workers", "0", "--augment", "none", "--seed", "3", "--batch-size", "4"]


@pytest.fixture
def search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The command of a search whose trials take two steps each, in place of minutes."""
    monkeypatch.setattr(run_folder, "plot_training_curves", lambda *_: None)
    prepared = Tuner._prepared

    def two_steps(tuner: Tuner, proposal: object) -> object:
        found = prepared(tuner, proposal)  # type: ignore[arg-type]
        return found._replace(chosen=replace(found.chosen, train=replace(found.chosen.train, minutes=None, steps=2)))

    monkeypatch.setattr(Tuner, "_prepared", two_steps)
    data = write_pictures(tmp_path / "data")
    return ["tune", str(data), "--out", str(tmp_path / "tune"), "--minutes", "1", "--trials", "2", *FIXED]


def test_a_search_is_stopped_goes_on_and_a_training_takes_its_best(search: list[str], tmp_path: Path, capsys: Captured) -> None:
    out = tmp_path / "tune"
    with patch.object(Training, "_step", before_step(2, ask_to_stop)):
        assert main(search) == 130
    told = capsys.readouterr()
    assert "searched: lr\n" in told.out and "the same command goes on" in told.err and not (out / "best.json").exists()

    assert main(search) == 0
    told = capsys.readouterr()
    assert re.search(r"best AP 0\.\d{3} of 2 trials; the rules alone 0\.\d{3}", told.out)
    assert sorted(path.name for path in (out / "trials").iterdir()) == ["0000", "0002"]  # the stopped one is the first again
    best = json.loads((out / "best.json").read_text())
    assert {"batch_size": 4, "augment": "none", "seed": 3}.items() <= best["training"].items()

    taken = ["train", search[1], "--config", str(out / "best.json"), "--steps", "1", "--workers", "0", "--seed", "5"]
    assert main([*taken, "--out", str(tmp_path / "run")]) == 0
    plan = Plan.load(tmp_path / "run").train
    assert (plan.batch_size, plan.augment, plan.seed) == (4, "none", 5)  # what is typed goes before what was found
    assert plan.lr == best["training"].get("lr", plan.lr)

    assert main([*search, "--lr", "0.1"]) == 2
    assert "another search" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--epochs", "3"], "by the clock"),
        (["--minutes", "1", "--each", "2"], "longer than the search"),
        (["--model", "no-such-model"], "no-such-model"),
        (["--lr", "-1"], "lr"),
    ],
)
def test_mistakes_are_told(tmp_path: Path, capsys: Captured, options: list[str], said: str) -> None:
    data = write_pictures(tmp_path / "data")
    assert main(["tune", str(data), "--out", str(tmp_path / "tune"), *options]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    "content",
    [{"detector": {}, "training": {}}, {"detector": {"name": 3}, "training": 7}, {"detector": 1, "training": {"lr": -1}}],
)
def test_a_damaged_result_is_told(tmp_path: Path, capsys: Captured, content: object) -> None:
    data, file = write_pictures(tmp_path / "data"), tmp_path / "best.json"
    file.write_text(json.dumps(content))
    assert main(["train", str(data), "--config", str(file), "--steps", "1"]) == 2
    assert "best.json" in capsys.readouterr().err
