"""The trials of a search: what is tried, what is shared, and what happens when a process ends before its trial."""

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from onestage.creation import recipe
from onestage.errors import ConfigError
from onestage.files import BEST as BEST_MODEL
from onestage.files import LAST as LAST_MODEL
from onestage.training.config import TrainConfig

pytest.importorskip("optuna", reason="pip install 'onestage[tune]'")

from optuna.trial import create_trial

from onestage.tuning.page import save_page
from onestage.tuning.space import BY_RULE, Proposal, Space, proposal, scaled, told
from onestage.tuning.study import BEST, FOLDER, PROCESS, WHY, Search, SearchPlan, Stopped, Trained, agree

SPACE = Space((BY_RULE, "dssd timm/resnet18"), trained=True)
PLAN = SearchPlan("data", SPACE, minutes=1.0)
MODEL = recipe("tinyssd", ["cat"])


def train_nothing(proposal, folder, watch):
    """AP is best at a learning rate of twice the rule's."""
    (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
    for name in (BEST_MODEL, LAST_MODEL):
        (folder / name).write_bytes(b"a model")
    AP = 1 / (1 + abs(proposal.lr - 2))
    for part in (0.3, 0.62, 1.0):
        watch(AP * part, part)
    return Trained(AP, MODEL, proposal.given)


@pytest.fixture
def search(tmp_path):
    return Search(tmp_path, agree(tmp_path, PLAN))


def test_the_first_trial_is_that_of_the_rules(search):
    asked = []
    trial = search.next(lambda one, folder, watch: asked.append(one) or train_nothing(one, folder, watch))
    assert trial.number == 0 and asked == [Proposal(settings={})] and told(trial.params, SPACE.first) == "all by rule"


def test_every_value_is_known_to_the_training():
    for name, values in SPACE.choices.items():
        for value in values:
            settings = proposal({**SPACE.first, name: value}).given
            TrainConfig(**settings)
            assert (value == values[0]) == (proposal({name: value}) == Proposal(settings={}))


@pytest.mark.parametrize(
    ("given", "searched"),
    [
        (("lr",), {"model", "size", "batch_size", "augment", "scale_jitter", "mosaic", "backbone_lr"}),
        (("augment",), {"model", "size", "batch_size", "backbone_lr", "lr"}),
        (("optimizer",), {"model", "size", "batch_size", "augment", "scale_jitter", "mosaic", "backbone_lr"}),
        (("batch_size", "backbone_lr"), {"model", "size", "augment", "scale_jitter", "mosaic", "lr"}),
    ],
)
def test_what_the_user_decides_is_not_searched(given, searched):
    assert set(replace(SPACE, given=given).names) == searched


def test_inputs_have_sides_of_32_pixels():
    assert scaled((320, 320), 0.8) == (256, 256) and scaled((64, 96), 0.8) == (64, 64)
    assert scaled((320, 416), 1.25) == (384, 512)


def test_a_search_keeps_its_best_and_little_else(search):
    for _ in range(7):
        search.next(train_nothing)
    best = json.loads((search.out / BEST).read_text())
    assert best["tuned"]["trial"] == search.best.number
    assert search.best.value == max(trial.value for trial in search.complete)
    kept = [path.parent.name for path in search.out.glob(f"trials/*/{BEST_MODEL}")]
    assert kept == [search.folder(search.best).name] and not [*search.out.glob("trials/*/checkpoints")]
    save_page(search, title="<b>a</b>", command="onestage train")
    page = (search.out / "index.html").read_text()
    assert f"trial {search.best.number}, AP {search.best.value:.3f}" in page and "<b>a</b>" not in page


def test_a_trial_that_most_others_beat_is_ended(search):
    for _ in range(6):
        search.next(train_nothing)

    def hopeless(proposal, folder, watch):
        watch(0.0, 0.3)
        raise AssertionError("it was not ended")

    trial = search.next(hopeless)
    assert trial.state.name == "PRUNED" and search.best.value > 0


def test_what_cannot_be_trained_is_told_and_not_tried_again(search):
    def refuse(proposal, folder, watch):
        raise ConfigError("this input is too small", fix="a larger one")

    trial = search.next(refuse)
    assert trial.state.name == "PRUNED" and "too small" in trial.user_attrs[WHY]
    assert search.next(train_nothing).state.name == "COMPLETE" and len(search.trials) == 2


@pytest.mark.parametrize("error", [Stopped, KeyboardInterrupt, OSError])
def test_a_trial_that_was_interrupted_goes_on_in_its_folder(search, error):
    folders = []

    def interrupt(proposal, folder, watch):
        folders.append((proposal, folder))
        raise error

    with pytest.raises(error):
        search.next(interrupt)
    again = Search(search.out, agree(search.out, PLAN))
    trial = again.next(lambda one, folder, watch: folders.append((one, folder)) or train_nothing(one, folder, watch))
    assert folders[0] == folders[1] and trial.state.name == "COMPLETE"
    assert len(again.complete) == 1 and not [one for one in again.trials if one.state.name in ("RUNNING", "WAITING")]


KILLED = """
import os, signal, sys
from pathlib import Path
from onestage.tuning.study import Search, load_plan
out = Path(sys.argv[1])
Search(out, load_plan(out)).next(lambda *_: os.kill(os.getpid(), signal.SIGKILL))
"""


def test_the_trial_of_a_killed_process_goes_on(search):
    assert subprocess.run([sys.executable, "-c", KILLED, str(search.out)]).returncode == -9
    assert [trial.state.name for trial in search.trials] == ["RUNNING"]
    folders = []
    search.next(lambda one, folder, watch: folders.append(folder.name) or train_nothing(one, folder, watch))
    assert folders == ["0000"] and [trial.state.name for trial in search.trials] == ["FAIL", "COMPLETE"]


@pytest.mark.filterwarnings("ignore:Heartbeat")
def test_the_trial_of_another_machine_is_left_to_it(search):
    lost = search.study.ask()
    lost.set_user_attr(PROCESS, "another-machine 1")
    trial = search.next(train_nothing)
    assert trial.number != lost.number and search.trials[lost.number].state.name == "RUNNING"


def test_several_take_part_in_one_search(search):
    def take_part(_):
        mine = Search(search.out, agree(search.out, PLAN))
        return [mine.next(train_nothing).number for _ in range(3)]

    with ThreadPoolExecutor(2) as threads:
        numbers = [number for part in threads.map(take_part, range(2)) for number in part]
    assert sorted(numbers) == [*range(6)]


def test_a_better_trial_that_ends_meanwhile_keeps_its_model(search, monkeypatch):
    """Another process ends one whenever this one has looked at the trials."""
    search.next(train_nothing)
    folder = search.out / "trials" / "better"
    folder.mkdir()
    (folder / BEST_MODEL).write_bytes(b"a model")
    plain, added = search.study.get_trials, []

    def looked(**options):
        found = plain(**options)
        if not added and sum(trial.state.name == "COMPLETE" for trial in found) == 2:
            added.append(create_trial(value=2.0, params={}, user_attrs={FOLDER: "better"}))
            search.study.add_trial(added[0])
        return found

    monkeypatch.setattr(search.study, "get_trials", looked)
    search._take_back = lambda: None
    search.next(train_nothing)
    assert added and (folder / BEST_MODEL).exists()


def test_a_page_without_anything_to_search(tmp_path):
    space = Space(scales=(1.0,), given=("batch_size", "augment", "lr"))
    search = Search(tmp_path, agree(tmp_path, replace(PLAN, space=space)))
    assert not space.names and search.next(train_nothing).state.name == "COMPLETE"
    save_page(search, title="a", command="onestage train")
    assert "all by rule" in (tmp_path / "index.html").read_text()


def test_another_search_in_the_folder_is_refused(search):
    with pytest.raises(ConfigError, match=r"minutes: 1.0 -> 2.0"):
        agree(search.out, replace(PLAN, minutes=2.0))


@pytest.mark.parametrize("content", ["", "{", "[1]", '{"data": 3}', "[" * 10_000])
def test_a_damaged_plan_is_an_error(search, content):
    (search.out / "tune.json").write_text(content)
    with pytest.raises(ConfigError, match=r"tune\.json|search"):
        agree(search.out, PLAN)


def test_a_storage_that_cannot_be_opened_is_an_error(tmp_path):
    with pytest.raises(ConfigError, match="storage"):
        Search(tmp_path, agree(tmp_path, PLAN), storage="nodatabase://x")
    (tmp_path / "study.db").write_text("this is no database")
    with pytest.raises(ConfigError, match="storage"):
        Search(tmp_path, agree(tmp_path, PLAN))
