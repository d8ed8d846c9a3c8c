"""Workers may die or fall silent at any moment: who waits for them gets the same results, or an error, and never hangs."""

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
import torch

from onestage.data import workers as module
from onestage.data.memory import ClosedError, PictureMemory, Share
from onestage.data.workers import Parcel, WorkerPool, Workers
from onestage.errors import ConfigError, LostError
from small_runs import signal_here

pytestmark = pytest.mark.filterwarnings("ignore:the process")
PIXELS = 300_000
"""Of a parcel: more than a pipe holds, so that a worker can die in the middle of writing it."""


def work(task: int, share: Share, *, seconds: float = 0.0) -> Parcel[int]:
    time.sleep(seconds)
    return Parcel(torch.full((PIXELS,), task % 251, dtype=torch.uint8), task)


@contextmanager
def pool_of(work, count: int = 2, **options) -> Iterator[WorkerPool[int, int]]:
    pool = WorkerPool(work, Workers(count, **options), name=lambda task: f"picture {task}")
    try:
        yield pool
    finally:
        pool.close()


def right(parcel: Parcel[int], number: int) -> bool:
    return parcel.rest == number and bool((parcel.pixels == number % 251).all())


def pids(pool: WorkerPool[int, int]) -> list[int]:
    return [keeper.process.pid for keeper in pool._keepers]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("when", ["idle", "at work", "all at work", "between rounds"])
def test_a_dead_worker_is_replaced_and_nothing_is_lost(number: signal.Signals, when: str) -> None:
    with pool_of(partial(work, seconds=0.02)) as pool:
        for step, parcel in enumerate(pool.run(range(12))):
            assert right(parcel, step)
            if step == 3 and when != "between rounds":
                time.sleep(0.3 if when == "idle" else 0.0)
                for pid in pids(pool)[: 2 if when == "all at work" else 1]:
                    os.kill(pid, number)
        if when == "between rounds":
            for pid in pids(pool):
                os.kill(pid, number)
        assert [parcel.rest for parcel in pool.run(range(20, 30))] == list(range(20, 30))


class DiesInTheMiddle:
    """Of writing its parcel, as its parent sees it: half of the bytes have come."""

    def __init__(self, marks: Path) -> None:
        self.marks = marks

    def __call__(self, task: int, share: Share) -> Parcel[int]:
        mark = self.marks / str(task)
        if task % 3 == 1 and not mark.exists():
            mark.touch()
            threading.Timer(0.05, signal_here, (signal.SIGKILL,)).start()
            return Parcel(torch.zeros(200_000_000, dtype=torch.uint8), task)
        return work(task, share)


def test_a_worker_that_dies_while_it_writes_leaves_no_half_parcel(tmp_path: Path) -> None:
    with pool_of(DiesInTheMiddle(tmp_path)) as pool:
        parcels = pool.run(range(8))
        assert all(right(parcel, number) for number, parcel in enumerate(parcels) if parcel.pixels.numel() == PIXELS)


def dies(task: int, share: Share) -> Parcel[int]:
    if task == 3:
        os._exit(7)
    return work(task, share)


def test_a_task_that_kills_every_worker_is_named() -> None:
    with pool_of(dies) as pool, pytest.raises(LostError, match="picture 3") as caught:
        list(pool.run(range(8)))
    assert "ended with code 7" in str(caught.value)


def stops(task: int, share: Share) -> Parcel[int]:
    if task == 2:
        signal_here(signal.SIGSTOP)
    return work(task, share)


def test_a_silent_worker_gets_a_warning_and_then_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SILENT", 0.3)
    monkeypatch.setattr(module, "_TICK", 0.1)
    with pool_of(stops, timeout=0.8) as pool:
        with warnings.catch_warnings(record=True) as said, pytest.raises(LostError, match="does not answer") as caught:
            warnings.simplefilter("always")
            list(pool.run(range(8)))
        stopped = pids(pool)
    assert "picture 2" in str(caught.value) and "--worker-timeout" in str(caught.value)
    assert ["picture 2" in str(warning.message) for warning in said] == [True]
    assert all_end(stopped)


def test_time_in_which_the_parent_is_stopped_too_is_no_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_TICK", 0.05)
    clock = iter(range(0, 10**9, 1000))  # every look at it, a thousand seconds have passed
    monkeypatch.setattr(module.time, "monotonic", lambda: next(clock))
    with pool_of(partial(work, seconds=0.01), timeout=5.0) as pool:
        assert len(list(pool.run(range(8)))) == 8


def asks(task: int, share: Share) -> Parcel[int]:
    """Every third dies with its share of the memory."""
    with share() as admit:
        admit(400)
        time.sleep(0.02)
        if task % 3 == 0 and not Path(f"{os.environ['MARKS']}/{task}").exists():
            Path(f"{os.environ['MARKS']}/{task}").touch()
            signal_here(signal.SIGKILL)
    return work(task, share)


def test_a_killed_worker_s_memory_is_given_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MARKS", str(tmp_path))
    most = 0
    with pool_of(asks, 4, gigabytes=1e-6) as pool:
        taken = pool.memory.take

        def take(size: int) -> int:
            nonlocal most
            got = taken(size)
            most = max(most, pool.memory.taken)
            return got

        monkeypatch.setattr(pool.memory, "take", take)
        assert [parcel.rest for parcel in pool.run(range(12))] == list(range(12))
        assert pool.memory.taken == 0 and 0 < most <= pool.memory.limit == 500


def fails(task: int, share: Share) -> Parcel[int]:
    raise KeyError("a fault of the program")


def test_a_fault_of_the_program_comes_with_its_traceback() -> None:
    with pool_of(fails) as pool, pytest.raises(RuntimeError, match=r"(?s)KeyError.*in fails"):
        list(pool.run(range(3)))


def remarks(task: int, share: Share) -> Parcel[int]:
    os.write(2, b"Corrupt JPEG data")  # as libjpeg does
    sys.stderr.write("a line of Python\n")
    return Parcel(None, task)


def test_what_libraries_print_in_a_worker_goes_nowhere(capfd: pytest.CaptureFixture[str]) -> None:
    with pool_of(remarks, count=1) as pool:
        assert [parcel.rest for parcel in pool.run(range(3))] == [0, 1, 2]
    assert capfd.readouterr().err == 3 * "a line of Python\n"


PARENT = """
import os, signal, sys, time
from onestage.data.workers import Parcel, WorkerPool, Workers
def work(task, share):
    if task == 1: time.sleep(100)
    return Parcel(None, task)
pool = WorkerPool(work, Workers(2), name=str)
results = pool.run(range(4))
next(results)
print(*[keeper.process.pid for keeper in pool._keepers], flush=True)
if sys.argv[1] == "end":
    for keeper in pool._keepers: os.kill(keeper.process.pid, signal.SIGSTOP)
else:
    time.sleep(100)
"""


@pytest.mark.parametrize("how", ["end", "killed"])
def test_workers_end_with_their_parent(how: str) -> None:
    """Even if they are stopped, and with a parent that is killed."""
    parent = subprocess.Popen([sys.executable, "-c", PARENT, how], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    workers = [int(pid) for pid in parent.stdout.readline().split()]
    if how == "killed":
        parent.kill()
    assert len(workers) == 2 and parent.wait(60) == (0 if how == "end" else -signal.SIGKILL)
    assert all_end(workers)


def all_end(pids: list[int]) -> bool:
    """Wait until none of these processes runs."""
    deadline = time.monotonic() + 20
    while any(_runs(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not any(_runs(pid) for pid in pids)


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_copy_of_a_pool_in_another_process_ends_no_workers() -> None:
    with pool_of(work) as pool:
        results = pool.run(range(12))
        next(results)
        child = multiprocessing.get_context("fork").Process(target=pool.close)
        before = pids(pool)
        child.start()
        child.join(30)
        assert child.exitcode == 0 and len(list(results)) == 11 and pids(pool) == before


@pytest.mark.parametrize("wrong", [{"count": -1}, {"timeout": 0.0}, {"gigabytes": 0.0}, {"gigabytes": float("nan")}])
def test_impossible_workers_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError):
        Workers(**wrong)


def test_memory_is_shared_out_in_order_and_a_giant_comes_alone() -> None:
    memory = PictureMemory(100)
    order, most = [], 0

    def use(size: int) -> None:
        nonlocal most
        with memory.share() as admit:
            admit(size)
            order.append(size)
            most = max(most, memory.taken)
            time.sleep(0.01)

    with memory.share() as admit:
        admit(100)
        threads = [threading.Thread(target=use, args=(size,)) for size in (60, 1000, 50, 40, 30)]
        for thread in threads:
            thread.start()
            time.sleep(0.02)
    for thread in threads:
        thread.join(10)
    assert order[:2] == [60, 1000] and len(order) == 5 and most == 100 and memory.taken == 0


def test_nobody_waits_for_closed_memory() -> None:
    memory = PictureMemory(10)
    memory.take(10)
    threading.Timer(0.05, memory.close).start()
    with pytest.raises(ClosedError):
        memory.take(1)


def test_workers_outlive_the_thread_that_began_them() -> None:
    """Linux can end a process with the thread that forked it. A round in a thread must not leave dead workers behind."""
    with pool_of(work) as pool, warnings.catch_warnings():
        warnings.simplefilter("error")
        thread = threading.Thread(target=lambda: list(pool.run(range(4))))
        thread.start()
        thread.join()
        time.sleep(0.3)
        before = pids(pool)
        assert all(right(parcel, number) for number, parcel in enumerate(pool.run(range(4))))
        assert pids(pool) == before


def test_a_second_loop_over_one_pool_is_told() -> None:
    with pool_of(work) as pool:
        first = pool.run(range(8))
        assert right(next(first), 0)
        second = pool.run(range(8))
        assert right(next(second), 0)
        with pytest.raises(ConfigError, match="one loop at a time"):
            list(first)


def test_a_system_without_room_for_processes_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_room(self: object) -> None:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(multiprocessing.Process, "start", no_room)
    with pool_of(work) as pool, pytest.raises(LostError, match="no process can be started"):
        list(pool.run(range(2)))
