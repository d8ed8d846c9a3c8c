"""Processes with other pictures, labels, options or software train nothing together: all end, and one says what differs."""

import os
import re
import shutil
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from onestage.cli.main import main
from onestage.data.checksums import checksum_of_names, checksum_of_objects
from onestage.data.columns import Texts
from onestage.data.dataset import Dataset
from onestage.errors import ConfigError
from onestage.files import LAST
from onestage.processes import JOB, RESTARTS, VARIABLES, Distributed
from onestage.training.agreement import Facts, check_alike, of_decisions
from onestage.training.checkpoint import newest_step
from onestage.training.going_on import NewSettings
from onestage.training.loop import Training
from onestage.training.run import Beginning
from small_runs import CONFIG, ask_to_stop, before_step, detector, free_port, pictures, start, write_pictures

CHANGED: list[dict[str, Any]] = [{"lr": 0.1, "workers": 1}, {"lr": 0.1, "workers": 2, "log": "csv"}, {"lr": 0.2}]
"""The settings of a run that go on differently on three machines."""
OPTIONS = ["--model", "tinyssd", "--size", "64", "--weights", "none", "--workers", "0", "--device", "cpu", "--batch-size", "4"]

slow = partial(pytest.param, marks=pytest.mark.slow)


def command(words: Sequence[Sequence[str]]) -> None:
    """The command line of this rank."""
    mine = [*words[int(os.environ["RANK"])]]
    with patch.object(sys, "argv", ["onestage", *words[0]]):
        sys.exit(main(mine))


def codes(words: Sequence[Sequence[str]], log: Path, *variables: dict[str, str]) -> list[int | None]:
    """The exit codes of processes that train together, each with its own words and, if any, variables."""
    port, world = free_port(), len(words)
    processes = []
    for rank in range(world):
        place = dict(zip(VARIABLES, (str(rank), str(world), str(rank), "127.0.0.1", str(port)), strict=True))
        more = variables[rank] if variables else {}
        processes.append(start(command, words, log=log, **{**place, **more}))
    try:
        for process in processes:
            process.join(120)
        return [process.exitcode for process in processes]
    finally:
        for process in processes:
            process.kill()


class Several(Distributed):
    """This process among others whose facts are known: their values are gathered as those of processes."""

    def __init__(self, facts: Sequence[Facts]) -> None:
        super().__init__(0, len(facts), 0, torch.device("cpu"))
        object.__setattr__(self, "facts", facts)

    def gather_objects(self, value: Any) -> list[Any]:
        """Of the first exchange, checksums that differ; of the second one, the facts as texts."""
        if isinstance(value, str):
            return [str(rank) for rank in range(self.world)]
        return [{name: repr(fact) for name, fact in row.items()} for row in self.facts]  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pictures(tmp_path_factory.mktemp("data"), train=8, val=1)


def changed(data: Path, folder: Path, how: str) -> list[str]:
    """The words of the process that differs, and its data."""
    if how == "number":
        return [str(write_pictures(folder, train=9, val=1))]
    if how == "option":
        return [str(data), "--lr", "0.5"]
    if how == "model":
        return [str(data), "--set", "loss.negative_ratio=2"]
    write_pictures(folder, train=8, val=1)
    labels = folder / "annotations" / "instances_train.json"
    text = labels.read_text()
    if how == "labels":
        labels.write_text(text.replace('"category_id": 1', '"category_id": 2', 1))
    else:
        picture = min(folder.glob("train/*.jpg"))
        picture.rename(picture.with_name("other.jpg"))
        labels.write_text(text.replace(picture.name, "other.jpg"))
    return [str(folder)]


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("names", r"pictures to learn from: 8, checksum of their names (\S+) in rank 1, 8, checksum of their names (?!\1)"),
        slow("labels", r"got: objects to learn from: (\d+), checksum (\S+) in rank 1, \1, checksum (?!\2)\S+ in rank 0 fix:"),
        ("number", "pictures to learn from: 9, .* in rank 1, 8, "),
        slow("option", "got: lr: 0.5 in rank 1, left out in rank 0 fix:"),
        slow("model", r"got: --changes: \('loss.negative_ratio=2',\) in rank 1, \(\) in rank 0 fix:"),
    ],
)
def test_two_processes_that_differ_end_with_one_message(how: str, said: str, data: Path, tmp_path: Path) -> None:
    run = ["--steps", "2", *OPTIONS, "--out", str(tmp_path / "run")]
    words = [["train", str(data), *run], ["train", *changed(data, tmp_path / "data", how), *run]]
    log = tmp_path / "log"
    assert codes(words, log) == [2, 2]
    text = log.read_text()
    assert re.search(said, " ".join(text.split())), text
    assert text.count("error:") == 1 and "Traceback" not in text
    assert not (tmp_path / "run" / LAST).exists()


def test_all_that_differs_is_told_of_each_process_but_the_usual_ones() -> None:
    group = Several([{"lr": 0.1, "steps": 5}, {"lr": 0.2, "steps": 5}, {"lr": 0.2}])
    with pytest.raises(ConfigError) as caught:
        check_alike(group, lambda: group.facts[0])
    assert str(caught.value.got).split("\n")[1:] == [
        "  lr: 0.1 in rank 0, 0.2 in rank 1",
        "  steps: left out in rank 2, 5 in rank 0",
    ]


def test_long_values_that_differ_in_their_middle_look_different() -> None:
    values = [[0] * 100 + [number] + [0] * 100 for number in (1, 2)]
    with pytest.raises(ConfigError, match=r"anchors: (.*) in rank 1, (?!\1)"):
        check_alike(Several([{"anchors": value} for value in values]), lambda: {})


def stopped(words: Sequence[str]) -> None:
    """Begin a run that is stopped after two steps."""
    with patch.object(Training, "_step", before_step(2, ask_to_stop)), patch.object(sys, "argv", ["onestage", *words]):
        sys.exit(main([*words]))


@pytest.fixture(scope="module")
def begun(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[list[str], Path, Path]:
    """The words of a command, its run folder, and a copy of that after two of four steps, in a job of the name "flowers"."""
    folder = tmp_path_factory.mktemp("begun")
    out, kept = folder / "run", folder / "kept"
    words = ["train", str(data), "--steps", "4", *OPTIONS, "--out", str(out)]
    place = dict(zip(VARIABLES, ("0", "1", "0", "127.0.0.1", "1"), strict=True))
    process = start(stopped, words, log=folder / "log", **place, **{JOB: "flowers"})
    process.join(120)
    assert process.exitcode == 130, (folder / "log").read_text()
    shutil.copytree(out, kept)
    return words, out, kept


@pytest.mark.parametrize(
    ("variables", "goes_on"),
    [
        ([{RESTARTS: "0"}, {RESTARTS: "1"}], True),  # the pod of the first rank was replaced
        slow([{JOB: "flowers"}, {JOB: "flowers"}], True),  # a machine has joined, or the job was queued again
        slow([{JOB: "other"}, {JOB: "other"}], False),
        slow([{JOB: "none"}, {JOB: "none"}], False),  # torchrun's word for a job without a name
    ],
)
def test_processes_that_count_restarts_differently_go_on_alike(
    variables: list[dict[str, str]], goes_on: bool, begun: tuple[list[str], Path, Path], tmp_path: Path
) -> None:
    words, out, kept = begun
    shutil.rmtree(out)
    shutil.copytree(kept, out)
    log = tmp_path / "log"
    expected = [0, 0] if goes_on else [2, 2]
    assert codes([words, words], log, *variables) == expected
    text = log.read_text()
    assert newest_step(out) == (4 if goes_on else 2)
    assert goes_on or (text.count("this folder already holds a run") == text.count("error:") == 1), text


@pytest.mark.slow
@pytest.mark.parametrize("how", ["resume", "folder"])
def test_one_process_that_goes_on_with_a_run_and_one_that_begins_one(
    how: str, begun: tuple[list[str], Path, Path], tmp_path: Path
) -> None:
    """They would not even exchange the same things in the same order."""
    words, _, kept = begun
    out = str(tmp_path / "out")
    shutil.copytree(kept, out)
    words = [*words[:-1], out]
    others = ["train", "--resume", out] if how == "resume" else [*words[:-1], str(tmp_path / "other")]
    assert codes([words, others], tmp_path / "log") == [2, 2]
    text = " ".join((tmp_path / "log").read_text().split())
    assert text.count("error:") == 1 and "Traceback" not in text, text
    assert ("goes on with the run: True in rank 1, False in rank 0" if how == "resume" else f"{out} in rank 0") in text


def test_machines_that_go_on_may_each_have_their_own_workers() -> None:
    decided = [of_decisions(detector().config, CONFIG, Beginning(None, NewSettings(**new))) for new in CHANGED]
    assert decided[0] == decided[1] != decided[2]


@pytest.mark.slow
def test_the_same_job_with_other_words_does_not_go_on(begun: tuple[list[str], Path, Path], tmp_path: Path) -> None:
    words, out, kept = begun
    shutil.rmtree(out)
    shutil.copytree(kept, out)
    other, job = [*words, "--lr", "0.5"], {JOB: "flowers"}
    assert codes([other, other], tmp_path / "log", job, job) == [2, 2]
    assert (tmp_path / "log").read_text().count("this folder already holds a run") == 1


# --- checksums of data sets ------------------------------------------------------------------------------------------------


def with_paths(data: Dataset, names: Sequence[str], *, columns: bool) -> Dataset:
    """A data set with pictures of these names, as texts or as columns."""
    paths = [f"{data.root}/{name}" for name in names]
    return replace(data, paths=Texts(*Texts.packed(names), before=f"{data.root}/") if columns else paths)


@given(st.lists(st.text("abcä/"), min_size=6, max_size=6), st.lists(st.integers(0, 5), max_size=8))
def test_columns_have_the_checksum_of_their_texts(letters: list[str], rows: list[int]) -> None:
    names = [f"x{text.replace('/', '-')}" for text in letters]
    plain, columns = (with_paths(pictures(6), names, columns=kind) for kind in (False, True))
    assert checksum_of_names(plain) == checksum_of_names(columns)
    assert checksum_of_names(plain.subset(rows)) == checksum_of_names(columns.subset(rows))
    assert (checksum_of_names(plain.subset(rows)) == checksum_of_names(plain)) == ([names[r] for r in rows] == names)


def test_pieces_of_many_names_make_one_checksum(monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"{number}.jpg" for number in range(6)]
    whole = checksum_of_names(with_paths(pictures(6), names, columns=True))
    monkeypatch.setattr("onestage.data.checksums._PIECE", 4)
    plain, columns = (checksum_of_names(with_paths(pictures(6), names, columns=kind)) for kind in (False, True))
    assert plain == columns != whole


def test_each_column_of_objects_counts() -> None:
    data = pictures(6)
    boxes = data.boxes.clone()
    boxes[-1, -1] += 1
    others = [
        replace(data, boxes=boxes),
        replace(data, labels=data.labels.flip(0)),
        replace(data, ignore=~data.ignore),
        replace(data, crowd=~data.crowd),
        replace(data, classes=("ball", "cube", "moon")),
    ]
    assert len({checksum_of_objects(one) for one in (data, *others)}) == 1 + len(others)
