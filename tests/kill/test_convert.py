"""Conversions that are killed, stopped and interrupted at any moment: a whole copy or none, and the next command succeeds."""

import os
import random
import shutil
import signal
import time
from contextlib import suppress
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

from onestage.data import load_dataset
from onestage.data.check import check_dataset
from onestage.data.convert import Target, convert
from onestage.files import TEMPORARY
from shards import pairs, tar
from small_runs import send, start

pytestmark = pytest.mark.slow
KINDS: tuple[Target, ...] = ("wds", "parquet", "coco", "yolo", "voc")


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same eighty pictures in each format."""
    root = tmp_path_factory.mktemp("sources")
    tar(root / "wds" / "train.tar", pairs(60))
    tar(root / "wds" / "val.tar", pairs(20, first=60))
    for to in KINDS[1:]:
        convert(root / "wds", root / to, to=to)
    return root


def begun(source: Path, out: Path, to: Target, home: Path) -> BaseProcess:
    return start(converted, source, out, to, ONESTAGE_HOME=str(home))


def converted(source: Path, out: Path, to: Target) -> None:
    convert(source, out, to=to, shard=0.002)


def wait_for_beginning(folder: Path, process: BaseProcess) -> None:
    while process.is_alive() and not [*folder.glob(f"*{TEMPORARY}")]:
        time.sleep(0.002)


@pytest.mark.parametrize("to", KINDS)
@pytest.mark.parametrize("source", KINDS)
def test_a_killed_conversion_leaves_a_whole_copy_or_none(sources: Path, tmp_path: Path, source: str, to: Target) -> None:
    moments = random.Random(f"{source} {to}")
    out = tmp_path / "place" / "copy"
    out.parent.mkdir()
    began = time.perf_counter()
    process = begun(sources / source, out, to, tmp_path)
    wait_for_beginning(out.parent, process)
    began = time.perf_counter()
    process.join(120)
    whole = time.perf_counter() - began
    assert process.exitcode == 0
    for number in (signal.SIGKILL, signal.SIGINT, signal.SIGKILL):
        shutil.rmtree(out, ignore_errors=True)
        process = begun(sources / source, out, to, tmp_path)
        wait_for_beginning(out.parent, process)
        time.sleep(moments.random() * whole)
        with suppress(ProcessLookupError):  # it may have ended
            if number == signal.SIGINT:  # a stopped one goes on
                send(signal.SIGSTOP, process)
                time.sleep(0.05)
                send(signal.SIGCONT, process)
            send(number, process)
        process.join(120)
        if out.exists():
            assert len(load_dataset(out)) == 80 and not check_dataset(out).problems
    shutil.rmtree(out, ignore_errors=True)
    for left in out.parent.iterdir():
        os.utime(left, (0, 0))  # as old as what a killed command left
    converted(sources / source, out, to)
    assert [path.name for path in out.parent.iterdir()] == ["copy"] and len(load_dataset(out)) == 80
