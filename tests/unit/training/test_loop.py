"""The training loop: the same bits whatever interrupts it, several processes as one, clear words when something is wrong."""

import errno
import json
import os
import random
import re
import shutil
import signal
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image
from torch import nn

import onestage
from onestage.creation import create
from onestage.errors import ConfigError, DataError, LostError, WeightsError, WriteError
from onestage.evaluation import evaluate
from onestage.files import BEST, LAST
from onestage.predict.measure import evaluate_dataset
from onestage.training import loop
from onestage.training.checkpoint import STATE, CheckpointStore
from onestage.training.checkpoint import Checkpoint as TrainState
from onestage.training.config import TrainConfig
from onestage.training.loop import DivergedError, Training, resume, train
from onestage.weights.detector_file import load_detector
from small_runs import (
    CONFIG,
    PICTURES,
    PLAIN,
    ask_to_stop,
    before_step,
    detector,
    metrics,
    pictures,
    run,
    run_divided_by_own,
    run_with_signals,
    same_bits,
    send,
    start,
    together,
    wait_for_step,
    weights,
    write_pictures,
)  # fmt: skip

pytestmark = pytest.mark.usefixtures("no_curves")


@pytest.fixture(scope="module")
def finished(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that nothing interrupted."""
    out = tmp_path_factory.mktemp("finished")
    run(data, out)
    return out


# --- what a run leaves behind ---


def test_a_run_folder_is_complete(finished: Path) -> None:
    names = {path.name for path in finished.iterdir()}
    tables = {"metrics.jsonl", "metrics.csv", "per_class.csv"}
    assert names == {"config.json", *tables, "curves.png", "index.html", "pictures", LAST, BEST, "checkpoints"}
    rows = metrics(finished)
    assert [(row["epoch"], row["step"]) for row in rows] == [(1, 3), (2, 6), (3, 9)]
    keys = {
        "epoch",
        "step",
        "lr",
        "loss",
        "loss/cls",
        "loss/box",
        "val/AP",
        "val/AP50",
        "val/loss",
        "val/loss/cls",
        "val/loss/box",
    }
    assert all(row.keys() == keys for row in rows)
    assert all(row["loss"] == pytest.approx(row["loss/cls"] + row["loss/box"]) for row in rows)
    assert rows[-1]["loss"] < rows[0]["loss"]
    assert (finished / "metrics.csv").read_text().splitlines()[0].startswith("epoch,step,loss")
    with Image.open(finished / "curves.png") as curves:
        assert curves.format == "PNG"


def test_the_saved_model_is_the_measured_one(data: Path, finished: Path) -> None:
    model = onestage.load(finished / LAST)
    assert model.config.classes == PICTURES.classes and model.config.category_ids == (1, 2, 3)
    report = evaluate(model, data, split="val", workers=0)
    assert report.losses["total"] == pytest.approx(metrics(finished)[-1]["val/loss"], rel=1e-6)
    assert pytest.approx(metrics(finished)[-1]["val/AP"], abs=1e-9) == report.coco.AP


# --- the same bits again ---


def test_the_same_seed_gives_the_same_bits_with_any_workers(data: Path, finished: Path, tmp_path: Path) -> None:
    before = torch.get_rng_state()
    run(data, tmp_path / "again", replace(CONFIG, workers=2))
    assert same_bits(finished, tmp_path / "again")
    assert torch.get_rng_state().equal(before)


def test_another_seed_gives_other_weights(data: Path, finished: Path, tmp_path: Path) -> None:
    run(data, tmp_path / "other", replace(CONFIG, seed=1))
    ours, theirs = weights(finished), weights(tmp_path / "other")
    assert any(not ours[key].equal(theirs[key]) for key in ours)


@pytest.mark.parametrize(("step", "minutes", "seed"), [(2, 0.0, 0), (4, 0.0, 1), (3, 10.0, 2)])
def test_sigkill_and_resume_end_as_if_nothing_had_been(
    data: Path, finished: Path, tmp_path: Path, step: int, minutes: float, seed: int
) -> None:
    """With a checkpoint after every step, or after every epoch only."""
    out = tmp_path / "killed"
    process = start(run, data, out, replace(CONFIG, checkpoint_minutes=minutes))
    wait_for_step(out, step, process)
    process.join(random.Random(seed).uniform(0, 0.05))
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    result = resume(out)
    assert not result.interrupted and result.report is not None
    assert same_bits(finished, out)
    assert (finished / BEST).read_bytes() == (out / BEST).read_bytes()
    assert len((out / "metrics.csv").read_text().splitlines()) == 4


def test_a_damaged_checkpoint_is_skipped_and_said(
    data: Path, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Training, "_step", before_step(8, ask_to_stop))
    assert run(data, tmp_path / "run").interrupted
    newest = max((tmp_path / "run" / "checkpoints").iterdir())
    assert newest.name == "step-00000008"
    content = bytearray((newest / "model.safetensors").read_bytes())
    content[len(content) // 2] ^= 1
    (newest / "model.safetensors").write_bytes(content)
    monkeypatch.undo()
    capsys.readouterr()
    resume(tmp_path / "run")
    said = capsys.readouterr().out
    assert "skipped a damaged checkpoint: step-00000008: model.safetensors is damaged" in said
    assert "going on after step 6" in said
    assert same_bits(finished, tmp_path / "run")


class WithDropout(nn.Module):
    """A backbone that draws random numbers while it trains."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.dropout = inner, nn.Dropout(0.3)

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        return self.inner(self.dropout(images))


def test_dropout_goes_on_with_the_same_bits(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def go(folder: str, **options: Any) -> bool:
        model = detector()
        model.backbone = WithDropout(model.backbone)
        return train(model, data, out=tmp_path / folder, config=CONFIG, **options).interrupted

    go("whole")
    torch.rand(5)  # what the program does between is nothing to it
    with monkeypatch.context() as patch:
        patch.setattr(Training, "_step", before_step(5, ask_to_stop))
        assert go("stopped")
    assert not go("stopped", resume=True)
    assert same_bits(tmp_path / "whole", tmp_path / "stopped")


def test_a_finished_run_has_nothing_left_to_do(
    data: Path, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (finished / LAST).read_bytes()
    (finished / "metrics.jsonl").rename(tmp_path / "old.jsonl")  # as if it had been killed just before it was written
    result = resume(finished)
    assert not result.interrupted and result.best_ap >= 0
    assert capsys.readouterr().out == "this run was complete already, after 3 epochs\n"
    assert (finished / LAST).read_bytes() == before
    assert (finished / "metrics.jsonl").read_bytes() == (tmp_path / "old.jsonl").read_bytes()


# --- signals ---


@pytest.mark.parametrize("step", [4, 6, 9])
def test_ctrl_c_saves_and_says_how_to_go_on(data: Path, finished: Path, tmp_path: Path, step: int) -> None:
    """In the middle of an epoch, at the end of one, at the very end."""
    out, log = tmp_path / "my run", tmp_path / "log"
    process = start(run_with_signals, data, out, step, signal.SIGINT, log=log)
    process.join(60)
    said = log.read_text()
    assert process.exitcode == 0, said
    assert "once more stops at once" in said
    assert f"all is saved. Go on with: onestage train --resume '{out}'\n" in said
    assert not resume(out).interrupted
    assert same_bits(finished, out)


def test_a_second_signal_stops_at_once(data: Path, tmp_path: Path) -> None:
    process = start(run_with_signals, data, tmp_path / "run", 5, signal.SIGINT, signal.SIGTERM, log=tmp_path / "log")
    process.join(60)
    assert process.exitcode == 130, (tmp_path / "log").read_text()
    state, damaged = CheckpointStore(tmp_path / "run").latest()
    assert state is not None and state.step == 3 and not damaged


def test_sigterm_to_all_processes_of_a_run_saves_it(data: Path, tmp_path: Path) -> None:
    """As torchrun and many schedulers send it: to those that load pictures as well."""
    out, log = tmp_path / "run", tmp_path / "log"
    process = start(run, data, out, replace(CONFIG, epochs=500, workers=2, checkpoint_minutes=0.0, evaluate_every=0), log=log)
    wait_for_step(out, 5, process)
    os.killpg(process.pid, signal.SIGTERM)
    process.join(60)
    assert process.exitcode == 0, log.read_text()
    assert "all is saved" in log.read_text() and "killed" not in log.read_text()
    state, damaged = CheckpointStore(out).latest()
    assert state is not None and state.step >= 5 and not damaged


# --- several processes ---

SGD = replace(CONFIG, optimizer="sgd", lr=0.01, epochs=2, batch_size=8, augment="light", evaluate_every=0)
"""No division by tiny numbers: sums in another order stay within rounding. One step an epoch."""


def test_processes_and_parts_take_the_same_steps(tmp_path: Path) -> None:
    """1 process x 8 pictures, 1 x 2 parts of 4, 2 x 4 pictures, 2 x 2 parts of 2. Objects are spread unevenly over them."""
    data = write_pictures(tmp_path / "data", train=8, val=1)
    run(data, tmp_path / "one", SGD, PLAIN)
    run(data, tmp_path / "parts", replace(SGD, accumulate=2), PLAIN)
    with together(run, data, tmp_path / "two", SGD, PLAIN, log=tmp_path / "log"):
        pass
    with together(run, data, tmp_path / "both", replace(SGD, accumulate=2), PLAIN, log=tmp_path / "log"):
        pass
    fresh, one = detector(changes=PLAIN).state_dict(), weights(tmp_path / "one")
    assert max((fresh[key] - one[key]).abs().max() for key in one) > 1e-4  # something was learned
    for other in ("parts", "two", "both"):
        theirs = weights(tmp_path / other)
        assert max((one[key] - theirs[key]).abs().max() for key in one) <= 1e-6, other
        for ours, row in zip(metrics(tmp_path / "one"), metrics(tmp_path / other), strict=True):
            assert row == pytest.approx(ours, rel=1e-4), other


def test_dividing_by_each_process_s_own_positives_would_be_noticed(tmp_path: Path) -> None:
    data = write_pictures(tmp_path / "data", train=8, val=1)
    run(data, tmp_path / "one", SGD, PLAIN)
    with together(run_divided_by_own, data, tmp_path / "two", SGD, PLAIN, log=tmp_path / "log"):
        pass
    one, two = weights(tmp_path / "one"), weights(tmp_path / "two")
    assert max((one[key] - two[key]).abs().max() for key in one) > 1e-5  # ten times what the test above lets pass


def test_two_processes_measure_the_model_they_save(data: Path, tmp_path: Path) -> None:
    """Each has gathered its own averages of batch norm; those of the first are saved, and measured by both."""
    out = tmp_path / "run"
    with together(run, data, out, replace(CONFIG, epochs=1), log=tmp_path / "log"):
        pass
    assert (tmp_path / "log").read_text().count("epoch   1/1") == 1
    report = evaluate(load_detector(out / LAST), data, split="val", workers=0)
    assert metrics(out)[0]["val/loss"] == pytest.approx(report.losses["total"], rel=1e-5)


def test_a_signal_to_one_process_stops_both_at_the_same_step(data: Path, tmp_path: Path) -> None:
    out, log = tmp_path / "run", tmp_path / "log"
    config = replace(CONFIG, epochs=500, checkpoint_minutes=0.0, evaluate_every=0)
    with together(run, data, out, config, log=log) as processes:
        wait_for_step(out, 2, processes[0])
        send(signal.SIGTERM, processes[1])
    assert log.read_text().count("all is saved") == 1


# --- what can go wrong ---


def test_a_loss_that_is_no_number_stops_with_step_and_pictures(
    data: Path, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spoil(training: Training) -> None:
        with torch.no_grad():
            training.model.head.cls[0].bias[0] = torch.nan

    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(Training, "_step", before_step(5, spoil))
        with pytest.raises(DivergedError, match=r"step 5, epoch 2, pictures .*\.jpg") as caught:
            run(data, out)
    assert str(caught.value).count(".jpg") == 4 and "cls nan" in str(caught.value) and "learning rate" in str(caught.value)
    state, damaged = CheckpointStore(out).latest()
    assert state is not None and state.step == 3 and not damaged
    assert all(t.isfinite().all() for t in weights(out).values())
    resume(out)
    assert same_bits(finished, out)


def test_a_folder_that_holds_a_run_is_refused(data: Path, finished: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*")}
    with pytest.raises(ConfigError, match=f"already holds a run\n  where:    {finished}\n.*--resume {finished}"):
        run(data, finished)
    assert {path: path.stat().st_mtime_ns for path in finished.rglob("*")} == before


def test_a_run_that_was_killed_in_its_first_checkpoint_begins_again(
    data: Path, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It has nothing to go on from, and nothing to lose. Where a row of the metrics is, a checkpoint was whole before."""
    out = tmp_path / "run"
    shutil.copytree(finished, out)
    (one, *others) = sorted((out / "checkpoints").glob("step-*"))
    for folder in others:
        shutil.rmtree(folder)
    (one / STATE).unlink()
    with pytest.raises(ConfigError, match="already holds a run"):
        run(data, out)
    for name in ("metrics.jsonl", "metrics.csv", BEST):
        (out / name).unlink()
    run(data, out)
    assert "the run in this folder had not begun: it begins again" in capsys.readouterr().out
    assert same_bits(finished, out) and not one.exists()


def test_the_data_sets_folder_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    data = write_pictures(tmp_path)
    before = sorted(data.rglob("*"))
    with pytest.raises(ConfigError, match=f"would be written among the pictures of a data set\n  where:    {data}\n"):
        run(data, data)
    assert sorted(data.rglob("*")) == before


def test_a_run_goes_on_with_its_own_settings_and_data(data: Path, finished: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="batch_size 4 -> 6"):
        train(detector(), data, out=finished, config=replace(CONFIG, batch_size=6), resume=True)
    with pytest.raises(ConfigError, match=r"got:      a model of other preprocess\.size\n"):
        train(detector(size=(64, 96)), data, out=finished, config=CONFIG, resume=True)
    with pytest.raises(ConfigError, match="have changed since this run began"):
        train(detector(), write_pictures(tmp_path, train=13), out=finished, config=CONFIG, resume=True)


def test_there_must_be_something_to_go_on_from(data: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds no run"):
        resume(tmp_path / "nothing")
    with pytest.raises(ConfigError, match="holds no run"):
        train(detector(), data, out=tmp_path / "nothing", config=CONFIG, resume=True)
    train(detector(), pictures(4), out=tmp_path / "memory", config=replace(CONFIG, epochs=1))
    with pytest.raises(ConfigError, match="handed over in Python"):
        resume(tmp_path / "memory")
    for folder in (tmp_path / "memory" / "checkpoints").glob("step-*"):
        (folder / STATE).unlink()
    with pytest.raises(ConfigError, match="no checkpoint to go on from"):
        train(detector(), pictures(4), out=tmp_path / "memory", config=replace(CONFIG, epochs=1), resume=True)


def test_a_checkpoint_of_an_earlier_version_is_refused_in_words(
    data: Path, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that does not yet say which pictures it saw."""
    latest = CheckpointStore.latest

    def older(self: CheckpointStore) -> tuple[TrainState | None, tuple[str, ...]]:
        state, damaged = latest(self)
        assert state is not None
        return replace(state, extra={key: value for key, value in state.extra.items() if key != "data"}), damaged

    monkeypatch.setattr(CheckpointStore, "latest", older)
    with pytest.raises(ConfigError, match="an earlier version of onestage") as caught:
        resume(finished)
    assert str(finished / LAST) in str(caught.value)


def test_a_folder_that_cannot_be_written_fails_at_the_start(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Training, "_step", lambda *_: pytest.fail("it began to train"))
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(WeightsError, match="cannot be written here"):
        run(data, tmp_path / "file" / "run")
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o500)
    if not os.access(closed, os.W_OK):  # root may write anywhere
        with pytest.raises(WeightsError, match="cannot be written here"):
            run(data, closed / "run")


def test_a_corrupt_picture_is_named_and_mending_it_is_enough(tmp_path: Path, finished: Path) -> None:
    data, out = write_pictures(tmp_path / "data"), tmp_path / "run"
    picture = data / "train" / "000003.jpg"
    content = picture.read_bytes()
    picture.write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match=r"000003\.jpg"):
        run(data, out, replace(CONFIG, checkpoint_minutes=0.0))
    picture.write_bytes(content)
    if (out / LAST).exists():
        resume(out)
    else:
        run(data, out)
    assert weights(out).keys() == weights(finished).keys()
    assert all(tensor.equal(weights(finished)[key]) for key, tensor in weights(out).items())


def test_a_disk_with_too_little_room_is_told_at_the_start(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What the run needs is about what it takes: three checkpoints for a moment, the last and the best model."""
    out = tmp_path / "run"
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=10**6))
    run(data, out, replace(CONFIG, epochs=1, ema=0.9))
    told = re.search(r"too little room: 1 MB are free .* needs up to (\d+) MB", capsys.readouterr().out)
    (checkpoint,) = out.glob("checkpoints/step-*")
    sizes = [sum(file.stat().st_size for file in folder.glob("*.safetensors")) for folder in (checkpoint, out)]
    assert told is not None and float(told[1]) == pytest.approx((3 * sizes[0] + 1.5 * sizes[1]) / 1e6, rel=0.1)


@pytest.mark.parametrize("number", [1, 12, 25])
def test_a_full_disk_says_how_to_go_on(
    data: Path, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """Whichever file does not fit. number: of the first such file."""
    left, replace_file = iter(range(number)), os.replace
    (tmp_path / "run").mkdir()

    def full(source: Any, target: Any, **options: Any) -> None:
        if "run" in str(target) and "pictures" not in str(target) and next(left, None) is None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        replace_file(source, target, **options)

    with monkeypatch.context() as patch, pytest.raises((WriteError, WeightsError), match="No space left") as caught:
        patch.setattr(os, "replace", full)
        run(data, tmp_path / "run", CONFIG)
    begun = [*(tmp_path / "run").glob("checkpoints/*/state.json")]
    assert (f"then go on with the run: onestage train --resume {tmp_path / 'run'}" in str(caught.value)) == bool(begun)
    if begun:
        resume(tmp_path / "run")
        assert same_bits(tmp_path / "run", finished)


@pytest.mark.parametrize(
    ("error", "epoch"),
    [(LostError("silence"), 1), (LostError("silence"), 3), (DataError("a bad picture"), 1), (RuntimeError("no memory"), 3)],
    ids=repr,
)
def test_what_ends_a_measurement_loses_no_training(
    data: Path,
    finished: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: Exception,
    epoch: int,
) -> None:
    """The run goes on with the measurement, not with the epoch before it, to the same bits."""
    measured = iter(range(1, 9))

    def measure(*arguments: Any, **options: Any) -> Any:
        if next(measured) == epoch:
            raise error
        return evaluate_dataset(*arguments, **options)

    monkeypatch.setattr(loop, "evaluate_dataset", measure)
    out, config = tmp_path / "run", replace(CONFIG, checkpoint_minutes=1e3)
    with pytest.raises(type(error), match=str(error)):
        run(data, out, config)
    assert f"--resume {out}" in capsys.readouterr().out
    checkpoint = CheckpointStore(out).latest()[0]
    assert checkpoint is not None and checkpoint.step == 3 * epoch
    steps: list[int] = []
    step = Training._step
    monkeypatch.setattr(Training, "_step", lambda self, batch: steps.append(self.step) or step(self, batch))
    resume(out)
    assert steps == list(range(3 * epoch, 9)) and same_bits(out, finished)


def test_bad_pictures_are_left_out_and_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_pictures(tmp_path / "data")
    for name in ("train/000003.jpg", "val/001001.jpg"):
        content = (data / name).read_bytes()
        (data / name).write_bytes(content[: len(content) // 2])
    (data / "train" / "000005.jpg").unlink()
    result = run(data, tmp_path / "run", replace(CONFIG, epochs=2, on_bad="skip"))
    said = capsys.readouterr().out
    assert "on 11 pictures" in said and "left out: 1 picture; listed in" in said
    assert said.count("2 pictures could not be read, such as ") == 1 and "000003.jpg; others stood in" in said
    assert result.report is not None and result.report.coco.pictures == 2


def test_one_picture_alone_is_too_few_for_batch_norm_on_one_cell(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="raise batch_size="):
        config = replace(CONFIG, batch_size=1)
        train(detector("ssdlite320_mobilenet_v3_large"), pictures(3), out=tmp_path / "run", config=config)


def test_batch_sizes_that_two_processes_cannot_share_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="device"):
        train(detector(), pictures(4), out=tmp_path / "run", config=replace(CONFIG, device="tpu"))


# --- data and classes ---


def test_without_a_validation_split_a_tenth_is_held_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_pictures(tmp_path / "data", train=20, val=0)
    result = run(data, tmp_path / "run", replace(CONFIG, epochs=1))
    assert "on 18 pictures of data, 2 (held out) to measure it" in capsys.readouterr().out
    assert result.report is not None and result.report.coco.pictures == 2


def test_a_model_made_for_a_number_of_classes_adopts_names_and_ids(data: Path, tmp_path: Path) -> None:
    model = create("tinyssd", 3, size=(64, 64))
    train(model, data, out=tmp_path / "run", config=replace(CONFIG, epochs=1))
    for saved in (model, onestage.load(tmp_path / "run" / BEST)):
        assert saved.config.classes == PICTURES.classes and saved.config.category_ids == (1, 2, 3)
    found = model.predict(pictures(1)[0].image, score=0.0)[0]
    assert set(found.class_names) <= set(PICTURES.classes) and set(found.category_ids) <= {1, 2, 3}


def test_classes_that_do_not_fit_are_refused(data: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"got:      3 in the data: ball, cube, star\n  expected: the model's 5"):
        train(create("tinyssd", 5, size=(64, 64)), data, out=tmp_path / "run", config=CONFIG)
    with pytest.raises(ConfigError, match="differ in their classes"):
        train(create("tinyssd", classes=["cat", "dog"], size=(64, 64)), data, out=tmp_path / "run", config=CONFIG)
    with pytest.raises(DataError, match="that the model does not have"):
        train(create("tinyssd", classes=["cat", "dog", "star"], size=(64, 64)), data, out=tmp_path / "run", config=CONFIG)
    swapped = create("tinyssd", classes=["cube", "ball", "star"], size=(64, 64))
    with pytest.raises(ConfigError, match="differ in their classes"):
        train(swapped, pictures(4), out=tmp_path / "run", config=CONFIG)
    assert swapped.config.classes == ("cube", "ball", "star")
    assert not (tmp_path / "run").exists()


def test_a_model_with_names_of_its_own_keeps_their_order(data: Path, tmp_path: Path) -> None:
    model = create("tinyssd", classes=["star", "ball", "cube"], size=(64, 64))
    train(model, data, out=tmp_path / "run", config=replace(CONFIG, epochs=1))
    assert model.config.classes == ("star", "ball", "cube") and model.config.category_ids == (3, 1, 2)


def test_a_test_split_is_never_trained_on(tmp_path: Path) -> None:
    data = write_pictures(tmp_path / "data", train=4, val=2)
    annotations = data / "annotations"
    (annotations / "instances_train.json").rename(annotations / "instances_test.json")
    (data / "train").rename(data / "test")
    with pytest.raises(DataError, match=r"to train on\n.*\n  got:      .*test"):
        train(detector(), data, out=tmp_path / "run", config=CONFIG)


@pytest.mark.parametrize(("every", "measured"), [(0, [3]), (1, [1, 2, 3]), (2, [2, 3])])
def test_how_often_it_is_measured(data: Path, tmp_path: Path, every: int, measured: list[int]) -> None:
    run(data, tmp_path / "run", replace(CONFIG, evaluate_every=every))
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows if "val/AP" in row] == measured


def test_clipping_bounds_the_step(data: Path, tmp_path: Path) -> None:
    config = replace(CONFIG, epochs=1, optimizer="sgd", lr=1.0, momentum=0.0, weight_decay=0.0, warmup=0, clip_norm=1e-3)
    fresh = dict(detector().named_parameters())
    model = detector()
    train(model, data, out=tmp_path / "run", config=config)
    moved = torch.stack([(p - fresh[key]).norm() for key, p in model.named_parameters()]).norm()
    assert 1e-4 < moved.item() <= 3 * 1e-3 * 1.001  # three steps of rate 1 or less


def test_bfloat16_trains_too(data: Path, finished: Path, tmp_path: Path) -> None:
    run(data, tmp_path / "run", replace(CONFIG, precision="bf16"))
    rows = metrics(tmp_path / "run")
    assert rows[-1]["loss"] < rows[0]["loss"]
    assert rows[0]["loss"] != metrics(finished)[0]["loss"]
    assert rows[0]["loss"] == pytest.approx(metrics(finished)[0]["loss"], rel=0.05)
    assert TrainConfig().precision == "auto" and weights(tmp_path / "run")["head.cls.0.weight"].dtype == torch.float32
