"""What other programs use of the processors: a made /proc, with made numbers."""

import math
import os
from pathlib import Path

import pytest

from onestage.training import other_work
from onestage.training.other_work import OtherWork, Ticks, read_ticks


def write(proc: Path, busy: int, idle: int, processes: dict[int, tuple[int, int]]) -> None:
    """processes: id -> parent and ticks."""
    core = min(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 0
    stat = f"cpu  9 9 9 9 9 9 9 9 0 0\ncpu{core} {busy} 0 0 {idle} 0 0 0 0 0 0\ncpu9999 5 0 0 5 0 0 0 0 0 0\nctxt 7\n"
    proc.mkdir(exist_ok=True)
    (proc / "stat").write_text(stat)
    (proc / "self").mkdir(exist_ok=True)
    for process, (parent, ticks) in processes.items():
        (proc / f"{process}").mkdir(exist_ok=True)
        cells = f"R {parent} 1 1 0 -1 0 0 0 0 0 {ticks} 0 0 0 20 0 1"
        (proc / f"{process}" / "stat").write_text(f"{process} (a) name ) {cells}")


def test_our_processes_and_those_that_they_began_are_not_others(tmp_path: Path) -> None:
    proc = tmp_path / "proc"
    write(proc, 1000, 500, {1: (0, 70), 50: (1, 100), 51: (50, 10), 52: (51, 5), 60: (1, 800)})
    first = read_ticks(50, proc)
    assert first == Ticks(1500, 1000, 115)
    write(proc, 1900, 600, {50: (1, 700), 51: (50, 110), 52: (51, 55), 60: (1, 900)})
    later = read_ticks(50, proc)
    assert later is not None and later.ours - first.ours == 750
    assert first.others(later) == pytest.approx(0.15)  # 900 of 1,000 ticks are busy, 750 are ours


def test_a_share_is_never_below_none_nor_above_all() -> None:
    begin = Ticks(0, 0, 0)
    assert begin.others(Ticks(100, 50, 60)) == 0 and begin.others(Ticks(100, 200, 0)) == 1
    assert math.isnan(begin.others(begin))


def test_it_is_told_after_a_window_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    time, ticks = 0.0, Ticks(0, 0, 0)
    monkeypatch.setattr(other_work.time, "monotonic", lambda: time)
    monkeypatch.setattr(other_work, "read_ticks", lambda root: ticks)
    watch = OtherWork(os.getpid())
    time, ticks = other_work.WINDOW - 0.1, Ticks(100, 100, 0)
    assert watch.share() is None
    time, ticks = other_work.WINDOW, Ticks(1000, 300, 100)
    assert watch.share() == pytest.approx(0.2)


@pytest.mark.parametrize("text", ["", "cpu0 a b", "cpu9999 1 1 1 1 1 1 1 1"])
def test_a_system_that_does_not_tell(text: str, tmp_path: Path) -> None:
    (tmp_path / "stat").write_text(text)
    found = read_ticks(1, tmp_path)
    assert found is None or math.isnan(found.others(found))
    assert read_ticks(1, tmp_path / "missing") is None
