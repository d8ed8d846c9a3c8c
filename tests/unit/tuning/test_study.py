"""The trials of a search: what is tried, what is shared, and what happens when a process ends before its trial."""

import json
import re
import signal
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from threading import Barrier, Thread

import pytest

from onestage.creation import recipe
from onestage.errors import ConfigError, DataError, WriteError
from onestage.files import BEST as BEST_MODEL
from onestage.files import LAST as LAST_MODEL
from onestage.training.config import TrainConfig

pytest.importorskip("optuna", reason="pip install 'onestage[tune]'")

from filelock import FileLock
from optuna.trial import TrialState, create_trial

from onestage.training.lock import FolderLock
from onestage.tuning import storage
from onestage.tuning.page import save_page
from onestage.tuning.space import BY_RULE, Proposal, Space, parted, proposal, scaled, told
from onestage.tuning.storage import LOCK
from onestage.tuning.study import (
    BEST,
    FAILED,
    FAILURE,
    FOLDER,
    PROCESS,
    TRIES,
    WHY,
    Search,
    SearchPlan,
    Stopped,
    Trained,
    agree,
    load_plan,
)  # fmt: skip
from small_runs import signal_here, start

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


def states(search):
    return [trial.state.name for trial in search.trials]


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


def test_what_a_process_would_search_otherwise_is_told():
    other = Space((BY_RULE, "ssd timm/resnet18"), (1.0,))
    assert parted(SPACE, SPACE) == []
    assert parted(SPACE, other) == [
        "model: rule, dssd timm/resnet18 in the search, rule, ssd timm/resnet18 by the rules here",
        "size: 1, 0.8, 1.25 in the search, not searched by the rules here",
        "backbone_lr: rule, 0.3, 0.1 in the search, not searched by the rules here",
    ]


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


def begin_and_die(out):
    Search(out, load_plan(out)).next(lambda *_: signal_here(signal.SIGKILL))


def killed(search):
    """Begin a trial in another process, which is killed in the middle."""
    process = start(begin_and_die, search.out)
    process.join(60)
    assert process.exitcode == -signal.SIGKILL


def test_the_trial_of_a_killed_process_goes_on(search):
    killed(search)
    assert states(search) == ["RUNNING"]
    folders = []
    search.next(lambda one, folder, watch: folders.append(folder.name) or train_nothing(one, folder, watch))
    assert folders == ["0000"] and [trial.state.name for trial in search.trials] == ["FAIL", "COMPLETE"]


def no_memory(proposal, folder, watch):
    raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")


def test_a_trial_that_fails_is_tried_again_and_then_given_up(search):
    first = search.next(no_memory)
    assert (first.state.name, first.user_attrs[FAILED]) == ("FAIL", "there was not enough memory")
    assert search.given_up(first) is None
    assert "allocate 9 bytes" in (search.folder(first) / FAILURE).read_text()
    save_page(search, title="a", command="onestage train")
    assert "waits; before: there was not enough memory" in (search.out / "index.html").read_text()
    for _ in range(TRIES - 1):
        last = search.next(no_memory)
    assert search.given_up(last) == "given up after 3 failures: there was not enough memory"
    assert states(search) == ["FAIL"] * TRIES + ["PRUNED"] and search.trials[-1].params == SPACE.first
    assert search.next(train_nothing).state.name == "COMPLETE" and states(search)[-1] == "COMPLETE"
    assert search.best is not None and told(search.best.params, SPACE.first) != "all by rule"  # another trial, not that one
    save_page(search, title="a", command="onestage train")
    assert "given up after 3 failures" in (search.out / "index.html").read_text()


def test_a_trial_that_gets_further_each_time_is_not_given_up(search):
    folders = []

    def further(proposal, folder, watch):
        folders.append(folder.name)
        reached = folder / "checkpoints" / f"step-{len(folders):08d}"
        reached.mkdir(parents=True)
        (reached / "state.json").touch()
        return no_memory(proposal, folder, watch)

    for _ in range(2 * TRIES):
        search.next(further)
    assert search.next(train_nothing).state.name == "COMPLETE" and folders == ["0000"] * 2 * TRIES
    assert states(search) == ["FAIL"] * 2 * TRIES + ["COMPLETE"]


@pytest.mark.parametrize("error", [Stopped(), KeyboardInterrupt(), DataError("a broken picture"), WriteError("a full disk")])
def test_what_is_no_fault_of_a_trial_does_not_count(search, error):
    def stop(proposal, folder, watch):
        raise error

    for _ in range(2 * TRIES):
        with pytest.raises(type(error)):
            search.next(stop)
    trial = search.next(train_nothing)
    assert trial.state.name == "COMPLETE" and search.folder(trial).name == "0000"


def test_a_trial_whose_process_is_killed_each_time_is_given_up(search):
    for _ in range(TRIES):
        killed(search)
    assert search.next(train_nothing).number == TRIES + 1
    (why,) = [trial.user_attrs[WHY] for trial in search.trials if WHY in trial.user_attrs]
    assert why == "given up after 3 failures: its process was killed"


def test_a_trial_whose_process_only_slept_is_left_to_it_and_counts(search):
    """Another process takes it for lost, because its sign of life is missing."""
    other = Search(search.out, agree(search.out, PLAN))

    def sleep(proposal, folder, watch):
        with FolderLock(folder / "checkpoints"):
            (folder / LAST_MODEL).write_bytes(b"a model")
            number = search.trials[-1].number
            search.study.tell(number, state=TrialState.FAIL)
            taken = other.next(train_nothing)
            assert taken.number != number and other.folder(taken) != folder
            assert (folder / LAST_MODEL).exists() and (folder / "checkpoints").exists()
            watch(0.9, 1.0)
        return Trained(0.9, MODEL, {})

    trial = search.next(sleep)
    assert (trial.state.name, trial.value, search.folder(trial).name) == ("COMPLETE", 0.9, "0000")
    assert sorted(states(search)) == ["COMPLETE", "COMPLETE", "FAIL"]
    search.next(train_nothing)
    assert len(search.complete) == 3  # nothing is trained again


@pytest.mark.parametrize("name", ["a?b", "a%20b", "a#b", "a b", "ä"])
def test_any_folder_holds_a_search(tmp_path, name):
    out = tmp_path / name
    search = Search(out, agree(out, PLAN))
    assert search.next(train_nothing).number == 0 and (out / "study.db").is_file()
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert len(Search(out, agree(out, PLAN)).trials) == 1


def test_no_message_has_the_password_of_a_database(tmp_path):
    with pytest.raises(ConfigError) as caught:
        Search(tmp_path, agree(tmp_path, PLAN), storage="postgresql://me:SECRET@127.0.0.1:1/db")
    assert "SECRET" not in str(caught.value) and "me:***@127.0.0.1" in str(caught.value)


def test_a_search_in_a_database_is_found_from_another_path(tmp_path):
    shared = f"sqlite:///{tmp_path}/all.db"
    out, moved = tmp_path / "here", tmp_path / "there"
    Search(out, agree(out, PLAN), storage=shared).next(train_nothing)
    out.rename(moved)
    assert len(Search(moved, agree(moved, PLAN), storage=shared).trials) == 1
    assert len(Search(out, agree(out, PLAN), storage=shared).trials) == 1  # that of the rules, which waits: another search
    assert not Search(out, agree(out, PLAN), storage=shared).complete


def test_a_process_that_keeps_the_lock_is_told(search, monkeypatch):
    monkeypatch.setattr(storage, "PATIENCE", 0.2)
    with FileLock(search.out / LOCK), pytest.raises(ConfigError, match="the lock of this search"):
        search.next(train_nothing)


def test_two_that_join_at_the_same_time_draw_different_trials(tmp_path):
    """Both have seen the same trials, and no other one."""
    drawn = []

    def meet(proposal, folder, watch):
        drawn.append(proposal)
        both.wait(30)
        return train_nothing(proposal, folder, watch)

    both = Barrier(2)
    searches = [Search(tmp_path, agree(tmp_path, PLAN)) for _ in range(2)]
    searches[0].next(train_nothing)  # by rule
    with ThreadPoolExecutor(2) as threads:
        [*threads.map(lambda mine: mine.next(meet), searches)]
    assert drawn[0] != drawn[1]


def test_a_trial_is_the_same_whoever_draws_it(tmp_path):
    drawn = []
    for name in "ab":
        search = Search(tmp_path / name, agree(tmp_path / name, PLAN))
        for _ in range(7):
            search.next(train_nothing)
        drawn.append([trial.params for trial in search.trials])
    assert drawn[0] == drawn[1] and len({str(params) for params in drawn[0]}) == 7


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
            added.append(create_trial(value=2.0, params={}, user_attrs={**found[0].user_attrs, FOLDER: "better"}))
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
    with pytest.raises(ConfigError, match=r"--each: 1.0 before, 2.0 now"):
        agree(search.out, replace(PLAN, minutes=2.0))


@pytest.mark.parametrize("content", ["", "{", "[1]", '{"data": 3}', "[" * 10_000, {"pictures": -5}, {"minutes": 0}])
def test_a_damaged_plan_is_an_error(search, content):
    usual = json.loads((search.out / "tune.json").read_text())
    (search.out / "tune.json").write_text(content if isinstance(content, str) else json.dumps(usual | content))
    with pytest.raises(ConfigError, match=r"tune\.json|search"):
        agree(search.out, PLAN)


def test_a_storage_that_cannot_be_opened_is_an_error(tmp_path):
    with pytest.raises(ConfigError, match="storage"):
        Search(tmp_path, agree(tmp_path, PLAN), storage="nodatabase://x")
    (tmp_path / "study.db").write_text("this is no database")
    with pytest.raises(ConfigError, match="storage"):
        Search(tmp_path, agree(tmp_path, PLAN))


@pytest.mark.parametrize(
    ("address", "said", "fix"),
    [
        ("sqlite:///HERE/all.db", None, None),
        ("sqlite:///HERE/kept.db", None, None),
        ("sqlite://", "a database in memory", "sqlite:///FILE"),
        ("sqlite:///:memory:", "a database in memory", "sqlite:///FILE"),
        ("sqlite:///HERE", "this is a folder", "HERE/study.db"),
        ("sqlite:///HERE/none/all.db", "no such folder", "make the folder"),
        ("sqlite:///HERE/text.db", "damaged", "another search"),
        ("sqlite:///file:HERE/kept.db?mode=ro&uri=true", "cannot be written", "allow this user to write"),
        ("HERE/all.db", "cannot be opened", "sqlite:///FILE"),
        ("redis://127.0.0.1", "cannot be opened", "sqlite:///FILE"),
    ],
)
def test_a_storage_is_tried_before_the_folder_of_its_search_is_made(tmp_path, address, said, fix):
    Search(tmp_path / "old", agree(tmp_path / "old", PLAN), storage=f"sqlite:///{tmp_path}/kept.db")
    (tmp_path / "text.db").write_text("this is no database, though it is long enough to be one; " * 20)
    address = address.replace("HERE", str(tmp_path))
    if said is None:
        storage.try_storage(tmp_path / "new", address)
    else:
        with pytest.raises(ConfigError, match=said) as caught:
            storage.try_storage(tmp_path / "new", address)
        assert fix.replace("HERE", str(tmp_path)) in caught.value.fix
    storage.try_storage(tmp_path / "new", None)
    assert not (tmp_path / "new").exists()


def test_a_damaged_database_in_the_folder_is_told_first(tmp_path):
    out = tmp_path / "old"
    Search(out, agree(out, PLAN))
    storage.try_storage(out, None)
    (out / "study.db").write_text("this is no database, though it is long enough to be one; " * 20)
    with pytest.raises(ConfigError, match="damaged"):
        storage.try_storage(out, None)


def test_tables_that_another_process_makes_at_the_same_time_are_taken(tmp_path, monkeypatch):
    tries, opened = [], storage._opened

    def raced(out, address):
        tries.append(address)
        if len(tries) == 1:
            raise ConfigError("the database of this search cannot be used", got="table studies already exists")
        return opened(out, address)

    monkeypatch.setattr(storage, "_opened", raced)
    storage.try_storage(tmp_path / "new", f"sqlite:///{tmp_path}/all.db")
    assert len(tries) == 2


def test_any_thread_may_use_the_storage(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The heartbeat of each trial is a separate thread. Its connections are closed without a word on the terminal."""
    study, seen = storage.open_study(tmp_path, None, name="a", seed=0), list[int]()
    for _ in range(20):
        threads = [Thread(target=lambda: seen.append(len(study.get_trials(deepcopy=False)))) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert seen == [0] * 160
    assert not caplog.records


@pytest.mark.parametrize("named", [False, True])
def test_a_database_without_the_trials_of_its_folder_is_refused(tmp_path, named):
    shared = [f"sqlite:///{tmp_path}/{name}.db" if named else None for name in "ab"]
    out = tmp_path / "search"
    Search(out, agree(out, PLAN), storage=shared[0]).next(train_nothing)
    if not named:
        (out / "study.db").unlink()
    with pytest.raises(ConfigError, match="has no trials, but its folder has") as caught:
        Search(out, agree(out, PLAN), storage=shared[1])
    assert "1 folder" in caught.value.got and (out / "trials" / "0000" / BEST_MODEL).exists()


def spoil(out, fault):
    file = out / "study.db"
    if fault == "no database":
        file.write_bytes(b"these are words, and no database " * 300)
    elif fault == "damaged":
        content = bytearray(file.read_bytes())
        content[200:] = bytes(len(content) - 200)
        file.write_bytes(content)
    else:
        file.write_bytes(b"")


@pytest.mark.parametrize(
    ("fault", "said"), [("no database", "is damaged"), ("damaged", "is damaged"), ("empty", "has no trials")]
)
def test_a_damaged_database_is_told_in_our_words(tmp_path, fault, said):
    Search(tmp_path, agree(tmp_path, PLAN)).next(train_nothing)
    spoil(tmp_path, fault)
    with pytest.raises(ConfigError, match=said) as caught:
        Search(tmp_path, agree(tmp_path, PLAN))
    assert not any(word in str(caught.value) for word in ("SQL:", "PRAGMA", "sqlalche", "Background"))
    assert "another search: --out" in caught.value.fix


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("DELETE FROM trial_user_attributes", "no detector; no settings"),
        ("DELETE FROM trial_values", "no AP"),
        ("UPDATE trial_user_attributes SET value_json = '[1]' WHERE key = 'folder'", r"folder: \[1\]"),
        ("UPDATE trial_user_attributes SET value_json = '\"../x\"' WHERE key = 'folder'", r"folder: '\.\./x'"),
        ("UPDATE trial_user_attributes SET value_json = '[\"x\"]' WHERE key = 'drawn'", r"drawn: \['x'\]"),
        ("UPDATE trial_user_attributes SET value_json = '\"x\"' WHERE key = 'steps'", "steps: 'x'"),
    ],
)
def test_a_trial_that_another_program_changed_is_told(search, change, said):
    search.next(train_nothing)
    with sqlite3.connect(search.out / "study.db") as base:
        base.execute(change)
    base.close()
    again = Search(search.out, agree(search.out, PLAN))
    with pytest.raises(ConfigError, match="is damaged, or another program has changed it") as caught:
        again.next(train_nothing)
    assert caught.value.where == f"trial 0 of {search.out}" and re.search(said, caught.value.got)


def test_a_page_of_the_database_that_is_damaged_is_seen_at_once(search):
    search.next(train_nothing)
    file = search.out / "study.db"
    content = bytearray(file.read_bytes())
    content[-4096:] = b"\xff" * 4096
    file.write_bytes(content)
    with pytest.raises(ConfigError, match="the database of this search is damaged"):
        Search(search.out, agree(search.out, PLAN))


def test_a_database_that_another_keeps_is_told(search, monkeypatch):
    monkeypatch.setattr(storage, "PATIENCE", 0.2)
    other = sqlite3.connect(search.out / "study.db", isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    try:
        with pytest.raises(ConfigError, match="another process keeps the database") as caught:
            Search(search.out, agree(search.out, PLAN))
    finally:
        other.close()
    assert caught.value.got == "database is locked" and "end that process" in caught.value.fix


def test_other_minutes_are_named_as_they_are_typed(tmp_path):
    agree(tmp_path, PLAN)
    with pytest.raises(ConfigError) as raised:
        agree(tmp_path, replace(PLAN, minutes=0.5))
    assert raised.value.got == "--each: 1.0 before, 0.5 now"
    assert raised.value.fix.startswith("--each 1 ")
