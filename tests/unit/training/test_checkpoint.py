"""Checkpoints: exact to the bit, and always one to go on from, whatever happens while one is written."""

import errno
import json
import math
import multiprocessing
import os
import random
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from onestage.errors import WeightsError
from onestage.files import BEST, LAST, TEMPORARY
from onestage.training import checkpoint
from onestage.training.checkpoint import MODEL, STATE, TRAINING, CheckpointStore
from onestage.training.checkpoint import Checkpoint as TrainState
from tensor_files import load_tensors

needs_fork = pytest.mark.skipif(sys.platform != "linux", reason="forks processes that hold torch")


def state_at(step: int) -> TrainState:
    """A state that is a pure function of its step, so that a loaded one can be checked."""
    weight = torch.full((50, 20), float(step))
    return TrainState(
        step=step,
        epoch=step // 10,
        model={"weight": weight},
        metadata={"classes": '["cat"]'},
        optimizer={"state": {0: {"momentum_buffer": weight / 3}}, "param_groups": [{"lr": 0.1 / 3, "params": [0]}]},
        extra={"best": step / 7, "rng": {"cpu": torch.arange(step, step + 9)}},
    )


def assert_same(left: Any, right: Any) -> None:
    assert type(left) is type(right), (left, right)
    if isinstance(left, torch.Tensor):
        assert left.dtype == right.dtype and torch.equal(left, right)
    elif isinstance(left, dict):
        assert list(left) == list(right)
        for key in left:
            assert_same(left[key], right[key])
    elif isinstance(left, list | tuple):
        assert len(left) == len(right)
        for a, b in zip(left, right, strict=True):
            assert_same(a, b)
    elif isinstance(left, float):
        assert left.hex() == right.hex()
    else:
        assert left == right


def assert_is(found: TrainState | None, step: int) -> None:
    assert found is not None
    expected = state_at(step)
    assert (found.step, found.epoch) == (step, expected.epoch)
    assert found.metadata["classes"] == '["cat"]'
    assert_same((found.model, found.optimizer, found.extra), (expected.model, expected.optimizer, expected.extra))


def step_of(model_file: Path) -> int:
    return int(load_tensors(model_file)[0]["weight"][0, 0])


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def store(tmp_path: Path) -> CheckpointStore:
    return CheckpointStore(tmp_path / "run")


# --- what is saved comes back ---


def test_an_empty_folder_has_no_checkpoint(store: CheckpointStore) -> None:
    assert store.latest() == (None, ())


def test_the_layout_on_disk(store: CheckpointStore) -> None:
    folder = store.save(state_at(1234), best=True)
    assert folder == store.folder / "checkpoints" / "step-00001234"
    assert names(folder) == [MODEL, STATE, TRAINING] and names(store.folder) == [BEST, "checkpoints", LAST]
    found, skipped = store.latest()
    assert_is(found, 1234)
    assert skipped == ()


def test_last_and_best_are_models_of_their_own(store: CheckpointStore) -> None:
    store.save(state_at(1), best=True)
    store.save(state_at(2))
    assert (step_of(store.folder / BEST), step_of(store.folder / LAST)) == (1, 2)
    assert load_tensors(store.folder / BEST)[1]["classes"] == '["cat"]'


@pytest.mark.parametrize(
    "value",
    [
        {"tuple": (1, (2.5, "x")), "list": [(), []], "none": None, "flag": True},
        {"floats": [0.1, 1 / 3, 5e-324, -0.0, 1e308, math.inf, -math.inf, math.nan]},
        {3: "int key", None: 1, (1, 2): 2, "x": 3},
        {"$tensor": "a name", "$tuple": 3},
        {"a.b": {"c": torch.zeros(1)}, "a": {"b.c": torch.ones(1)}},
        {"types": [torch.tensor(7.0), torch.tensor([True]), torch.zeros(0, 2), torch.ones(2).bfloat16(), torch.tensor(2**62)]},
        {"diverged": torch.tensor([math.inf])},
        {"big": 2**200, "text": 'ü"\n\x00'},
    ],
)
def test_any_nesting_of_plain_values_and_tensors_is_exact(store: CheckpointStore, value: dict[Any, Any]) -> None:
    store.save(TrainState(step=1, epoch=0, model={}, metadata={}, optimizer={}, extra=value))
    found, skipped = store.latest()
    assert found is not None, skipped
    assert_same(found.extra, value)


def test_what_cannot_be_saved_is_named_before_anything_is_written(store: CheckpointStore) -> None:
    with pytest.raises(TypeError, match=r"extra\.a\.1 is a \w*Path"):
        store.save(TrainState(step=1, epoch=0, model={}, metadata={}, optimizer={}, extra={"a": [0, store.folder]}))
    assert not store.folder.exists()


OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "sgd": lambda groups: torch.optim.SGD(groups, lr=0.01, momentum=0.9, nesterov=True),
    "adamw": lambda groups: torch.optim.AdamW(groups, lr=1e-3 / 3, amsgrad=True),
    "adamw, lr a tensor": lambda groups: torch.optim.AdamW(groups, lr=torch.tensor(1e-3), foreach=False),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_training_goes_on_to_the_bit(store: CheckpointStore, name: str) -> None:
    def build() -> tuple[torch.nn.Module, torch.optim.Optimizer]:
        torch.manual_seed(0)
        net = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.BatchNorm1d(8), torch.nn.Dropout(), torch.nn.Linear(8, 2))
        decayed = [p for p in net.parameters() if p.ndim > 1]
        others = [p for p in net.parameters() if p.ndim <= 1]
        return net, OPTIMIZERS[name]([{"params": decayed, "weight_decay": 5e-4}, {"params": others, "weight_decay": 0.0}])

    def train(net: torch.nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> None:
        for _ in range(steps):
            optimizer.zero_grad()
            net(torch.randn(4, 3)).square().mean().backward()
            optimizer.step()

    net, optimizer = build()
    train(net, optimizer, 3)
    saved = optimizer.state_dict()
    extra = {"rng": torch.get_rng_state()}
    store.save(TrainState(step=3, epoch=0, model=net.state_dict(), metadata={}, optimizer=saved, extra=extra))
    found, _ = store.latest()
    assert found is not None
    assert_same(found.optimizer, saved)
    train(net, optimizer, 3)

    other, other_optimizer = build()
    other.load_state_dict(found.model)
    other_optimizer.load_state_dict(dict(found.optimizer))
    torch.set_rng_state(found.extra["rng"])
    train(other, other_optimizer, 3)
    assert_same(dict(net.state_dict()), dict(other.state_dict()))


# --- how many are kept ---


def test_two_are_kept_and_the_best(store: CheckpointStore) -> None:
    for step in range(1, 6):
        store.save(state_at(step), best=step == 2)
    assert names(store.checkpoints) == ["step-00000004", "step-00000005"]
    assert step_of(store.folder / BEST) == 2


def test_a_second_save_at_one_step_does_not_touch_the_first(store: CheckpointStore) -> None:
    first = store.save(state_at(3))
    before = {path.name: path.stat().st_ino for path in first.iterdir()}
    second = store.save(TrainState(**{**vars(state_at(3)), "epoch": 99}))
    assert second.name == "step-00000003-1" and before == {path.name: path.stat().st_ino for path in first.iterdir()}
    found, _ = store.latest()
    assert found is not None and found.epoch == 99


# --- damage ---


def damage(path: Path, how: str) -> None:
    data = bytearray(path.read_bytes())
    if how == "missing":
        path.unlink()
    elif how == "cut":
        path.write_bytes(data[: len(data) // 2])
    elif how == "flipped":
        data[-40] ^= 1
        path.write_bytes(data)
    else:
        path.write_bytes(b"")


@pytest.mark.parametrize("how", ["missing", "empty", "cut", "flipped"])
@pytest.mark.parametrize("name", [MODEL, TRAINING, STATE])
def test_a_damaged_newest_falls_back_and_says_so(store: CheckpointStore, name: str, how: str) -> None:
    store.save(state_at(1))
    damage(store.save(state_at(2)) / name, how)
    found, skipped = store.latest()
    assert_is(found, 1)
    assert len(skipped) == 1 and skipped[0].startswith("step-00000002: ")
    reason = {"missing": "never finished" if name == STATE else f"{name} is missing"}.get(how, f"{name} is damaged")
    assert reason in skipped[0]


def test_one_changed_digit_in_the_numbers_is_noticed(store: CheckpointStore) -> None:
    path = store.save(state_at(7)) / STATE
    path.write_text(path.read_text().replace('"epoch": 0', '"epoch": 5'))
    found, skipped = store.latest()
    assert found is None and "state.json is damaged" in skipped[0]


def test_a_later_format_is_not_misread(store: CheckpointStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "FORMAT", 2)
    store.save(state_at(1))
    monkeypatch.undo()
    assert store.latest() == (None, ("step-00000001: written by a later onestage",))


def test_weights_that_are_not_finite_are_skipped(store: CheckpointStore) -> None:
    store.save(state_at(1))
    store.save(TrainState(step=2, epoch=0, model={"w": torch.tensor([math.nan])}, metadata={}, optimizer={}))
    found, skipped = store.latest()
    assert_is(found, 1)
    assert "NaN" in skipped[0]


def test_pruning_never_prefers_damaged_checkpoints(store: CheckpointStore) -> None:
    """After two damaged ones at steps 30 and 40 the run comes back to 20: what it saves then must survive."""
    keeper = CheckpointStore(store.folder, keep=3)
    for step in (20, 30, 40):
        keeper.save(state_at(step))
    for step in (30, 40):
        damage(store.checkpoints / f"step-{step:08d}" / MODEL, "empty")
    found, skipped = store.latest()
    assert_is(found, 20)
    assert [line[:13] for line in skipped] == ["step-00000040", "step-00000030"]
    store.save(state_at(25))
    assert names(store.checkpoints) == ["step-00000020", "step-00000025"]


def test_other_things_in_the_folder_are_left_alone(store: CheckpointStore) -> None:
    store.save(state_at(1))
    (store.checkpoints / "step-mine").mkdir()
    (store.checkpoints / "notes.txt").touch()
    store.save(state_at(2))
    store.save(state_at(3))
    assert names(store.checkpoints) == ["notes.txt", "step-00000002", "step-00000003", "step-mine"]


# --- disks ---


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_disk_costs_nothing_that_was_there(store: CheckpointStore, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    """The disk fills at the first, the second, ... write of a save."""
    store.save(state_at(1), best=True)
    original = getattr(os, call)
    for successes in range(100):
        left = iter(range(successes))

        def fill(*args: Any, left: Iterator[int] = left) -> None:
            if next(left, None) is None:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            original(*args)

        monkeypatch.setattr(os, call, fill)
        try:
            store.save(state_at(2), best=True)
        except WeightsError as error:
            assert "No space left on device" in str(error) and "fix:" in str(error)
        else:
            break
        finally:
            monkeypatch.undo()
        assert names(store.checkpoints) == ["step-00000001"]
        assert_is(store.latest()[0], 1)
        assert step_of(store.folder / LAST) in (1, 2) and step_of(store.folder / BEST) in (1, 2)
    assert successes >= 5
    assert_is(store.latest()[0], 2)


def test_the_probe_makes_the_folder_and_clears_what_a_kill_left(store: CheckpointStore) -> None:
    store.checkpoints.mkdir(parents=True)
    (store.folder / f".best.safetensors.1{TEMPORARY}").touch()
    (store.checkpoints / f".trial.2{TEMPORARY}").touch()
    store.probe()
    assert names(store.folder) == ["checkpoints"] and names(store.checkpoints) == []


def test_the_probe_finds_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(WeightsError, match=r"cannot be written here\n.*file/run.*\n.*Not a directory\n.*out="):
        CheckpointStore(tmp_path / "file" / "run").probe()


def test_the_probe_finds_a_folder_that_takes_no_files(store: CheckpointStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(WeightsError, match="Read-only file system"):
        store.probe()
    assert names(store.checkpoints) == []


# --- killed ---

CALLS = ("mkdir", "fsync", "replace", "unlink", "rmdir")


def save_and_die(store: CheckpointStore, calls_to_live: int) -> None:
    """Save step 3, and end the process without any clean-up at the given call that changes the disk."""
    left = iter(range(calls_to_live))

    def lethal(call: Callable[..., None]) -> Callable[..., None]:
        def counted(*args: Any, **options: Any) -> None:
            if next(left, None) is None:
                os._exit(9)
            call(*args, **options)

        return counted

    for name in CALLS:
        setattr(os, name, lethal(getattr(os, name)))
    store.save(state_at(3), best=True)
    os._exit(0)


def run(target: Callable[..., None], *arguments: Any) -> int | None:
    process = multiprocessing.get_context("fork").Process(target=target, args=arguments)
    process.start()
    process.join(30)
    return process.exitcode


@needs_fork
def test_death_at_every_single_change_of_the_disk(tmp_path: Path) -> None:
    outcomes = []
    original = CheckpointStore(tmp_path / "original")
    for step in (1, 2):
        original.save(state_at(step), best=True)
    for calls in range(100):
        store = CheckpointStore(tmp_path / "run")
        shutil.copytree(original.folder, store.folder)
        code = run(save_and_die, store, calls)
        assert code in (0, 9)

        found, skipped = store.latest()
        assert found is not None and all("never finished" in line for line in skipped)
        outcomes.append(found.step)
        assert_is(found, found.step)
        assert step_of(store.folder / LAST) in (2, 3) and step_of(store.folder / BEST) in (2, 3)
        if found.step == 3:  # what the state tells of has been written
            assert step_of(store.folder / LAST) == step_of(store.folder / BEST) == 3

        store.probe()
        store.save(state_at(4))  # and the run goes on, and cleans up
        assert names(store.folder) == [BEST, "checkpoints", LAST] and len(names(store.checkpoints)) == 2
        shutil.rmtree(store.folder)
        if code == 0:
            break
    assert outcomes == sorted(outcomes) and set(outcomes) == {2, 3} and len(outcomes) > 15


def save_for_ever(store: CheckpointStore, committed: Any) -> None:
    found, _ = store.latest()
    for step in range(found.step + 1 if found else 1, 10**6):
        store.save(state_at(step), best=step % 3 == 0)
        committed.value = step


@needs_fork
def test_sigkill_at_random_moments(store: CheckpointStore) -> None:
    context = multiprocessing.get_context("fork")
    committed = context.Value("i", 0)
    generator = random.Random(0)
    for _ in range(8):
        before, begin = committed.value, time.monotonic()
        process = context.Process(target=save_for_ever, args=(store, committed))
        process.start()
        while committed.value == before and time.monotonic() < begin + 30:
            time.sleep(0.001)
        time.sleep(generator.uniform(0, 0.03))  # one or two saves long
        process.kill()
        process.join(30)
        found, skipped = store.latest()
        assert found is not None and found.step >= committed.value > before
        assert_is(found, found.step)
        assert all("never finished" in line for line in skipped)
        assert step_of(store.folder / LAST) >= found.step


def test_the_state_is_readable_text(store: CheckpointStore) -> None:
    text = json.loads((store.save(state_at(5)) / STATE).read_text())
    assert text["state"]["step"] == 5 and text["state"]["optimizer"]["param_groups"][0]["lr"] == 0.1 / 3
    assert sorted(text["state"]["files"]) == [MODEL, TRAINING]
