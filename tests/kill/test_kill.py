"""Workers, runs and ranks killed at random moments: none hangs, none loses anything, and all end with the same bits.

They have averages, mosaics, a clean last part and a cache. ``make kill`` runs it whole: 30 workers, 20 runs, 20 runs of some
minutes, 10 ranks. The short forms are part of the usual tests. KILL_SEED picks the moments, KILL_MINUTES gives those runs more
time on a slow machine.
"""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from multiprocessing.process import BaseProcess
from pathlib import Path
from random import Random
from unittest.mock import patch

import pytest

from clocked import undisturbed
from onestage import processes
from onestage.errors import LostError
from onestage.files import LAST
from onestage.processes import leave
from onestage.training import folder as run_folder
from onestage.training.folder import Plan
from onestage.training.loop import Training, resume, train
from small_runs import CONFIG, detector, finished, free_port, same_bits, send, signal_here, start, write_pictures

SEED = int(os.environ.get("KILL_SEED", "0"))
LONGEST = 240.0
"""Seconds after which a process that has not ended counts as a hang."""
MINUTES = float(os.environ.get("KILL_MINUTES", "0.2"))
RUN = replace(
    CONFIG, epochs=3, checkpoint_minutes=0.0, ema=0.9, clean=0.3, augment_with=("mosaic=0.5", "scale_jitter=0.3"), cache=0.01
)


def sizes(short: int, long: int):
    return pytest.mark.parametrize("count", [short, pytest.param(long, marks=pytest.mark.slow)])


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pictures(tmp_path_factory.mktemp("data") / "pictures")


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that nothing disturbed."""
    out = tmp_path_factory.mktemp("whole") / "run"
    with patch.object(run_folder, "plot_training_curves"):
        return finished(train(detector(), data, out=out, config=RUN))


def children(pid: int) -> list[int]:
    """The processes that a process has started."""
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def kill(pid: int) -> bool:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


def joined(process: BaseProcess, log: Path) -> int | None:
    process.join(LONGEST)
    if process.exitcode is None:
        process.kill()
        pytest.fail(f"a hang: {log.read_text()}")
    return process.exitcode


def begin_or_go_on(data: Path, out: Path, config) -> None:
    """As a person would: resume what is there. The curves take longer than the rest, and are not drawn."""
    run_folder.plot_training_curves = lambda *_: None
    begun = list(out.glob("checkpoints/*/state.json"))
    finished(resume(out) if begun else train(detector(), data, out=out, config=config))


@sizes(2, 30)
def test_workers_killed_at_random_moments(count: int, data: Path, tmp_path: Path) -> None:
    """One run goes on through the deaths of them all."""
    random, killed, log = Random(f"workers {SEED}"), 0, tmp_path / "log"
    config = replace(RUN, workers=2, checkpoint_minutes=10.0, epochs=4 if count < 10 else 80)
    process = start(begin_or_go_on, data, tmp_path / "run", config, log=log)
    began = time.monotonic()
    while killed < count and process.is_alive() and time.monotonic() < began + LONGEST:
        time.sleep(random.uniform(0.05, 0.6))
        workers = children(process.pid or 0)
        killed += bool(workers) and kill(random.choice(workers))
    assert joined(process, log) == 0, log.read_text()
    with patch.object(run_folder, "plot_training_curves"):
        finished(train(detector(), data, out=tmp_path / "whole", config=replace(config, workers=0)))
    assert same_bits(tmp_path / "run", tmp_path / "whole")
    print(f"\nworkers: {killed} of {count} killed in {time.monotonic() - began:.0f} s; 1 run, 0 hangs, the same bits")
    assert killed >= count // 2, "the run was too short"


@sizes(1, 20)
def test_runs_killed_at_random_moments(count: int, data: Path, whole: Path, tmp_path: Path) -> None:
    """With their workers at work. Each is resumed until it has ended."""
    random, kills, ended, out, log = Random(f"runs {SEED}"), 0, 0, tmp_path / "run-0", tmp_path / "log"
    while True:
        process = start(begin_or_go_on, data, out, replace(RUN, workers=kills % 3), log=log)
        process.join(random.uniform(0.2, 2.5) if kills < count else LONGEST)
        if process.exitcode is None and kills < count:
            process.kill()
            kills += 1
            process.join()
            continue
        assert joined(process, log) == 0, log.read_text()
        assert same_bits(out, whole)
        ended += 1
        if kills >= count:
            break
        out = tmp_path / f"run-{ended}"
    print(f"\nruns: {kills} killed, {ended} finished, 0 hangs, all with the same bits")


@pytest.mark.slow
@sizes(2, 20)
def test_runs_of_some_minutes_killed_at_random_moments(count: int, data: Path, tmp_path: Path) -> None:
    """One that is killed before its length is known begins again. The plan that each has found gives the same bits."""
    random, kills, again, ended, log = Random(f"minutes {SEED}"), 0, 0, 0, tmp_path / "log"
    config, out = replace(RUN, epochs=100, minutes=MINUTES), tmp_path / "run-0"
    while True:
        process = start(begin_or_go_on, data, out, replace(config, workers=ended % 2), log=log)
        deadline = time.monotonic() + LONGEST * max(1, MINUTES)
        while not (out / "config.json").exists() and process.is_alive() and time.monotonic() < deadline:
            time.sleep(0.01)
        process.join(random.uniform(0.0, 40 * MINUTES) if kills < count else LONGEST * max(1, MINUTES))
        if process.exitcode is None and kills < count:
            process.kill()
            process.join()
            kills, again = kills + 1, again + Plan.load(out).is_unfitted
            continue
        assert joined(process, log) == 0, log.read_text()
        assert same_bits(out, undisturbed(out, detector(), data, out=tmp_path / f"whole-{ended}"))
        ended += 1
        if kills >= count:
            break
        out = tmp_path / f"run-{ended}"
    print(f"\nminutes: {kills} killed, {again} before the length was known, {ended} finished, 0 hangs, all with the same bits")


@contextmanager
def ranks(world: int, data: Path, out: Path, config, log: Path) -> Iterator[list[BaseProcess]]:
    port = str(free_port())
    processes = [
        start(
            begin_or_go_on_rank, data, out, config, log=log,
            RANK=str(rank), WORLD_SIZE=str(world), LOCAL_RANK=str(rank), MASTER_ADDR="127.0.0.1", MASTER_PORT=port,
        )
        for rank in range(world)
    ]  # fmt: skip
    try:
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.join()


def begin_or_go_on_rank(data: Path, out: Path, config) -> None:
    try:
        begin_or_go_on(data, out, config)
    except LostError as error:
        print(error, flush=True)  # as the command line does
        leave(1)


@pytest.mark.slow
@sizes(1, 10)
def test_ranks_killed_at_random_moments(count: int, data: Path, tmp_path: Path) -> None:
    """The other one ends with one message; then the run goes on, and ends with the same bits (compared in the long form)."""
    random, kills, runs, out, log = Random(f"ranks {SEED}"), 0, 0, tmp_path / "run", tmp_path / "log"
    config = replace(RUN, epochs=1 if count == 1 else 3, worker_timeout=20.0)  # one may die before both have met
    if count > 1:
        finish(data, tmp_path / "whole", config, log)
    while kills < count:
        with ranks(2, data, out, config, log := tmp_path / f"log-{kills}") as processes:
            first = "checkpoints/*/state.json" if count == 1 else "checkpoints"  # the short form waits until both have met
            deadline = time.monotonic() + LONGEST
            while not list(out.glob(first)) and time.monotonic() < deadline:
                time.sleep(0.01)
            time.sleep(random.uniform(0.0, 0.6) if count > 1 else 0.0)
            victim = random.randrange(2)
            kill(processes[victim].pid or 0)
            killed = joined(processes[victim], log) == -signal.SIGKILL
            end = joined(processes[1 - victim], log)
            assert end in (0, 1) if killed else end == 0, log.read_text()
            assert log.read_text().count("has ended or does not answer") == end, log.read_text()
            kills += killed
        if count > 1 and (out / LAST).exists() and same_length(out, tmp_path / "whole"):
            assert same_bits(out, tmp_path / "whole")
            out, runs = tmp_path / f"run-{runs}", runs + 1
    finish(data, out, config, log)
    assert count == 1 or same_bits(out, tmp_path / "whole")
    print(f"\nranks: {kills} killed, {runs + 1} runs of 2 ranks finished, 0 hangs" + ", all with the same bits" * (count > 1))


def finish(data: Path, out: Path, config, log: Path) -> None:
    """Train with two ranks, or go on, to the end."""
    with ranks(2, data, out, config, log) as processes:
        assert [joined(process, log) for process in processes] == [0, 0], log.read_text()


def same_length(a: Path, b: Path) -> bool:
    lines = [(folder / "metrics.jsonl") for folder in (a, b)]
    return all(path.exists() for path in lines) and len({len(path.read_text().splitlines()) for path in lines}) == 1


def stop_in_the_middle(data: Path, out: Path, config) -> None:
    step = Training._step

    def stopped(self: Training, batch):
        if self.step == 2 and self.run.group.rank == 1:
            signal_here(signal.SIGSTOP)
        return step(self, batch)

    Training._step = stopped  # type: ignore[method-assign]
    processes.SILENT = 1.0
    begin_or_go_on_rank(data, out, config)


@contextmanager
def stuck(data: Path, out: Path, config, log: Path) -> Iterator[BaseProcess]:
    """A process that trains with another one, which stops in the middle."""
    variables = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    ranks = [{"RANK": rank, "LOCAL_RANK": rank, **variables} for rank in "01"]
    both = [start(stop_in_the_middle, data, out, config, log=log, **rank) for rank in ranks]
    try:
        yield both[0]
    finally:
        for process in both:
            process.kill()
            process.join()


@pytest.mark.slow
def test_a_stuck_rank_ends_the_others_after_a_warning(data: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with stuck(data, tmp_path / "run", replace(RUN, worker_timeout=3.0), log) as other:
        assert joined(other, log) == 1, log.read_text()
    said = log.read_text()
    assert said.count("has ended or does not answer") == 1
    assert said.count("If another process of this training has stopped, the run ends after 3 s") == 1, said


@pytest.mark.slow
def test_a_second_signal_ends_a_process_that_waits_for_a_stuck_rank(data: Path, tmp_path: Path) -> None:
    (log := tmp_path / "log").touch()
    with stuck(data, tmp_path / "run", replace(RUN, worker_timeout=600.0), log) as other:
        deadline = time.monotonic() + LONGEST
        while "rank 0 of 2 has worked" not in log.read_text() and time.monotonic() < deadline:
            time.sleep(0.1)
        for _ in range(2):
            send(signal.SIGINT, other)
            time.sleep(0.5)
        assert joined(other, log) == 130, log.read_text()
    assert log.read_text().count("stopped at once") == 1
