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

from onestage.cli import trials
from onestage.cli.trial_length import LEAST_PICTURES, TrialLength, length_of
from onestage.cli.trials import Tuner
from onestage.training.clock import Costs
from onestage.tuning.study import PLAN, WHY, Search, load_plan

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
    monkeypatch.setattr(trials, "rehearsed", lambda *_, **__: TrialLength(steps=2, pictures=2))
    monkeypatch.setattr(trials, "LEAST_STEPS", 2)
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
    assert re.search(r"best AP 0\.\d{3} of 2 trials, on the same 2 pictures: trial \d", told.out)
    assert "better than" in told.out  # that it is not: two pictures tell nothing
    assert sorted(path.name for path in (out / "trials").iterdir()) == ["0000", "0002"]  # the stopped one is the first again
    best = json.loads((out / "best.json").read_text())
    assert {"batch_size": 4, "augment": "none", "seed": 3}.items() <= best["training"].items()

    taken = ["train", search[1], "--config", str(out / "best.json"), "--steps", "1", "--workers", "0", "--seed", "5"]
    assert main([*taken, "--out", str(tmp_path / "run")]) == 0
    assert {Plan.load(path).train.evaluate_pictures for path in (out / "trials").iterdir()} == {2}
    plan = Plan.load(tmp_path / "run").train
    assert (plan.batch_size, plan.augment, plan.seed) == (4, "none", 5)  # what is typed goes before what was found
    assert plan.lr == best["training"].get("lr", plan.lr)

    assert main([*search, "--lr", "0.1"]) == 2
    assert "another search" in capsys.readouterr().err


def test_a_trial_of_too_few_steps_is_no_measurement(
    search: list[str], tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where a machine has become slower; such trials are over at once, and a search of nothing else ends."""
    monkeypatch.setattr(trials, "LEAST_STEPS", 3)
    monkeypatch.setattr(trials, "HOPELESS", 2)
    assert main([*search, "--trials", "3"]) == 2
    told = capsys.readouterr()
    assert "trial 0: not measured: 2 steps fit into its minutes" in told.out and "trial after trial is too short" in told.err
    found = Search(tmp_path / "tune", load_plan(tmp_path / "tune"))
    assert [trial.state.name for trial in found.trials] == ["PRUNED"] * 2 and found.best is None
    assert all("fewer than 3" in trial.user_attrs[WHY] for trial in found.trials)


@pytest.mark.parametrize(("each", "fix"), [([], "--minutes"), (["--each", "0.001"], "--each")])
def test_minutes_that_teach_nothing_are_refused_with_what_helps(
    tmp_path: Path, capsys: Captured, each: list[str], fix: str
) -> None:
    data, out = write_pictures(tmp_path / "data"), tmp_path / "tune"
    assert main(["tune", str(data), "--out", str(out), "--minutes", "0.02", *each, *FIXED]) == 2
    told = capsys.readouterr().err
    assert fix in told and not out.exists()


def test_a_storage_that_cannot_be_used_is_told_before_any_work(tmp_path: Path, capsys: Captured) -> None:
    command = ["tune", str(tmp_path / "no data"), "--out", str(tmp_path / "tune"), "--storage", f"sqlite:///{tmp_path}"]
    assert main(command) == 2
    told = capsys.readouterr().err
    assert "this is a folder" in told and "study.db" in told and not (tmp_path / "tune").exists()


def test_pictures_or_steps_are_as_many_as_the_time_allows() -> None:
    costs = Costs(step=1, picture=0.1, save=0)
    assert length_of(costs, 600, validation=1000, epoch=100).pictures == 600
    assert length_of(costs, 600, validation=40, epoch=100).pictures == 40
    short = length_of(costs, 20, validation=1000, epoch=100)
    assert short == TrialLength(steps=11, pictures=LEAST_PICTURES)  # 5 s for the measurement, and room for another
    assert length_of(costs, 4, validation=1000, epoch=100) == TrialLength(steps=1, pictures=LEAST_PICTURES)


def test_a_process_whose_rules_choose_otherwise_is_told(search: list[str], tmp_path: Path, capsys: Captured) -> None:
    """As on a machine where other models are fast, or that has trained weights: it takes part with the values of the search."""
    assert main([*search, "--trials", "1"]) == 0 and "in the search" not in capsys.readouterr().err
    plan = tmp_path / "tune" / PLAN
    content = json.loads(plan.read_text())
    content["space"]["trained"] = True
    plan.write_text(json.dumps(content))
    assert main([*search, "--trials", "1"]) == 0
    told = capsys.readouterr()
    assert "note: backbone_lr: rule, 0.3, 0.1 in the search, not searched by the rules here. The search keeps its" in told.err
    assert "searched: backbone_lr, lr\n" in told.out


def test_a_search_of_other_pictures_is_refused(search: list[str], tmp_path: Path, capsys: Captured) -> None:
    assert main([*search, "--trials", "1"]) == 0
    plan = tmp_path / "tune" / PLAN
    kept = json.loads(plan.read_text())
    assert kept["pictures"] == 2
    plan.write_text(json.dumps(kept | {"content": "other"}))
    assert main(search) == 2
    assert "its trials could not be compared" in capsys.readouterr().err
    plan.write_text(json.dumps({name: value for name, value in kept.items() if name != "pictures"}))
    assert main(search) == 2
    assert "on different pictures" in capsys.readouterr().err


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
