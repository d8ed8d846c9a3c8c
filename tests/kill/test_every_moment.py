"""A run of some minutes that is killed at any moment goes on to the bits that its plan gives without a kill.

A kill leaves the run folder as it is between two changes of the disk, and nothing else outlives it. So the folder is copied
before every such change, and each copy is resumed. By a clock that moves with the work alone, each finds its plan: with the cut
of the run that was copied, or with one of its time.
"""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from clocked import Machine, undisturbed
from onestage.training.folder import CONFIG, Plan
from onestage.training.loop import resume, train
from small_runs import CONFIG as SMALL
from small_runs import PLAIN, detector, finished, same_bits, write_pictures

CHANGES = ("mkdir", "replace", "unlink", "rmdir")
"""What changes a folder, apart from new files, which are temporary until they are renamed."""
RUN = replace(
    SMALL, epochs=100, checkpoint_minutes=0.0, ema=0.9, clean=0.3, cache=0.01,
    augment_with=("mosaic=0.5", "scale_jitter=0.3"),
)  # fmt: skip


@contextmanager
def copied_at_every_change(folder: Path, copies: Path) -> Iterator[None]:
    """Copies of the folder, in the order of time, each as it was before a change of the disk. All files in it are replaced,
    never written into, so links are copies; but for the lock, which frees itself.
    """
    seen: list[list[tuple[Path, int]]] = []
    before = {name: getattr(os, name) for name in CHANGES}

    def copied(change: Callable[..., None], *arguments: Any, **options: Any) -> None:
        found = sorted((path, path.stat().st_ino) for path in folder.rglob("*") if path.is_file())
        if found not in seen[-1:]:
            seen.append(found)
            with pytest.MonkeyPatch.context() as patch:
                for name, original in before.items():
                    patch.setattr(os, name, original)
                copy = copies / f"{len(seen):04d}"
                shutil.copytree(folder, copy, copy_function=os.link, ignore=shutil.ignore_patterns("lock"))
        change(*arguments, **options)

    folder.mkdir()
    copies.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        for name, change in before.items():
            patch.setattr(os, name, partial(copied, change))
        yield


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pictures(tmp_path_factory.mktemp("data") / "pictures")


def few(copies: list[Path]) -> list[Path]:
    """Just before the plan has its cut, just after it, and between the last checkpoint and the rows of the results."""
    cut = next(number for number, copy in enumerate(copies) if has(copy / CONFIG, '"what": "steps"'))
    rows = next(number for number, copy in enumerate(copies) if has(copy / "metrics.jsonl", "val/AP"))
    return [copies[cut - 1], copies[cut], copies[rows - 1]]


def some(copies: list[Path]) -> list[Path]:
    return copies[::9]


def has(file: Path, text: str) -> bool:
    return file.exists() and text in file.read_text()


@pytest.mark.parametrize(
    ("minutes", "slow", "picked"),
    [
        (0.1, 3.0, few),
        pytest.param(0.15, 3.0, list, marks=pytest.mark.slow),
        pytest.param(0.15, 0.4, some, marks=pytest.mark.slow),
    ],
    ids=["few", "every", "longer"],
)
def test_a_run_that_is_killed_at_any_moment_goes_on_with_the_same_bits(
    minutes: float,
    slow: float,
    picked: Callable[[list[Path]], list[Path]],
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its plan has a cut, or, on a machine that becomes faster, more steps."""
    config, wholes = replace(RUN, minutes=minutes), dict[bytes, Path]()
    Machine(monkeypatch, step=0.25, slower_at=1.5, slow=slow, real=True)
    with copied_at_every_change(tmp_path / "run", tmp_path / "copies"):
        finished(train(detector(changes=PLAIN), data, out=tmp_path / "run", config=config))
    copies = sorted((tmp_path / "copies").iterdir())
    for run in (*picked(copies), tmp_path / "run"):
        begun = [*run.glob("checkpoints/*/state.json")]
        with monkeypatch.context() as patch:
            Machine(patch, step=0.25, slower_at=0.0, slow=slow, real=True)
            finished(resume(run) if begun else train(detector(changes=PLAIN), data, out=run, config=config))
        plan = (run / CONFIG).read_bytes()
        if plan not in wholes:
            wholes[plan] = undisturbed(run, detector(changes=PLAIN), data, out=tmp_path / f"whole-{len(wholes)}")
        assert same_bits(run, wholes[plan])
    change = Plan.load(tmp_path / "run").history[0]
    assert len(copies) > 100 and (int(change.after or 0) < int(change.before or 0)) == (slow > 1)
    print(f"\n{len(copies)} copies, {len(picked(copies))} resumed, {len(wholes)} plans, all with the same bits")
