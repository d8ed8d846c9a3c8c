"""Processes that do tasks ahead of time, and never keep the process waiting that needs the results.

Each worker has a pipe, and in the parent a thread that alone uses it. Workers share no lock and no queue, so one that dies in
the middle of anything leaves nothing locked. The parent itself never reads a pipe: it looks for results that have arrived, and
counts the seconds.

- A worker that dies is replaced, and its task is done again from the beginning.
- A task that five workers die of is an error that names it. So is a worker that is silent for too long.
- Workers end with their parent, however that ends, and at SIGTERM. They leave Ctrl-C to it.
"""

from __future__ import annotations

import atexit
import gc
import multiprocessing
import multiprocessing.util  # registers its clean-up at exit: ours is registered later, so it comes before that
import os
import signal
import sys
import threading
import time
import traceback
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from itertools import islice
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, Generic, NamedTuple, TypeVar

import torch
from torch import Tensor

from onestage.data.memory import GIGABYTES, HEAVY, Admit, ClosedError, PictureMemory, Share, in_bytes, return_freed_memory
from onestage.errors import ConfigError, LostError, check_number, require, warn_outside
from onestage.parts import share_kept
from onestage.processes import end_with_parent

SILENT, TIMEOUT = 60.0, 600.0
"""Seconds of silence before a warning, and before the end."""
MOST = 1024
"""Workers: a larger number is a mistake, and all would be started."""
TRIES = 5
"""Workers that may die of one task."""
AHEAD = 2
"""Tasks per worker that are begun before their results are wanted."""

_TICK, _LOOK_AROUND = 1.0, 5.0
"""Seconds between two looks: of the parent at silent workers, of an idle worker for its parent."""
_STDERR = 2
"""The number under which C libraries know standard error."""
_FORKING = threading.Lock()
"""Held from the making of a pipe until the parent has closed the worker's end: no other worker inherits that end."""

Task = TypeVar("Task")
Rest = TypeVar("Rest")


@dataclass(frozen=True)
class Workers:
    """The processes that load pictures. They never change the result.

    count: how many; 0 means this process. timeout: seconds of silence after which a worker is given up. gigabytes: of memory
    for all pictures that are decoded at the same time.
    """

    count: int = 0
    timeout: float = TIMEOUT
    gigabytes: float = GIGABYTES

    def __post_init__(self) -> None:
        check_number("the number of workers", self.count, least=0, most=MOST, whole=True)
        require(self.timeout > 0, "the timeout of workers is a number of seconds above 0", got=self.timeout)
        in_bytes(self.gigabytes)


class Parcel(NamedTuple, Generic[Rest]):
    """The result of a task. pixels (...,) uint8 or float, if any, travel as bytes; the rest as Python sends any value."""

    pixels: Tensor | None
    rest: Rest


class _Fault(NamedTuple):
    """An error of the program in a worker, with its traceback."""

    text: str


class _Heading(NamedTuple, Generic[Rest]):
    """What comes before the bytes of a parcel: the shape and type of its pixels. shape: None if none follow."""

    shape: tuple[int, ...] | None
    type: torch.dtype
    rest: Rest


@dataclass(eq=False)
class _Job(Generic[Task]):
    """A task of the current round. deaths: workers that died of it."""

    number: int
    round: int
    task: Task
    deaths: int = 0


class WorkerPool(Generic[Task, Rest]):
    """Workers that live until ``close``, through many rounds of tasks.

    work: done in a worker, for a task and with a share of the memory for pictures. name: of a task, for messages. doctor: the
    command that looks at all pictures one by one, for messages.
    """

    def __init__(
        self,
        work: Callable[[Task, Share], Parcel[Rest]],
        workers: Workers,
        *,
        name: Callable[[Task], str],
        doctor: str = "onestage data check DATA",
        pin_memory: bool = False,
    ) -> None:
        self.work, self.workers, self.name, self.doctor, self.pin_memory = work, workers, name, doctor, pin_memory
        limit = in_bytes(workers.gigabytes)
        self.unasked = min(HEAVY, limit // (2 * workers.count))  # what a worker may use without asking
        self.memory = PictureMemory(limit - workers.count * self.unasked)
        self._keepers: list[_Keeper[Task, Rest]] = []
        self._jobs: deque[_Job[Task]] = deque()
        self._results: dict[int, Parcel[Rest] | Exception] = {}
        self._notes: list[str] = []
        self._round = 0
        self._changed = threading.Condition()
        self._closed = False
        self._owner = os.getpid()

    def run(self, tasks: Iterable[Task]) -> Iterator[Parcel[Rest]]:
        """The results of a round of tasks, in order. A new round ends the one before.

        Raise LostError if a worker is silent for too long, or if a task ends several of them.
        """
        with self._changed:
            self._round += 1
            self._jobs.clear()
            self._results.clear()
        jobs = (_Job(number, round, task) for round in [self._round] for number, task in enumerate(tasks))
        begun = deque(islice(jobs, AHEAD * self.workers.count))
        self._begin(begun)
        while begun:
            job = begun.popleft()
            self._staff()
            result = self._result(job)
            begun.extend(more := [*islice(jobs, 1)])
            self._begin(more)
            if isinstance(result, Exception):
                raise result
            yield result

    def close(self) -> None:
        """End all workers now."""
        if self._owner != os.getpid():  # a copy in a forked process, whose workers are not its children
            return
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self.memory.close()
        for keeper in self._keepers:
            keeper.process.kill()
        for keeper in self._keepers:
            keeper.process.join(_TICK)  # one that waits for a dead disk cannot be killed, and is left alone
        self._keepers.clear()

    def _begin(self, jobs: Iterable[_Job[Task]]) -> None:
        with self._changed:
            self._jobs.extend(jobs)
            self._changed.notify_all()

    def _staff(self) -> None:
        """Start workers in place of those that died. Only the thread that waits for results does this: while it waits, it is
        safe to fork.
        """
        self._keepers = [keeper for keeper in self._keepers if keeper.is_alive]
        while len(self._keepers) < self.workers.count:
            self._keepers.append(_Keeper(self))
        with self._changed:
            notes, self._notes = self._notes, []
        warn_outside(notes)

    def _result(self, job: _Job[Task]) -> Parcel[Rest] | Exception:
        """Wait for the result of a job. Seconds in which this process itself was stopped do not count."""
        waited, warned = 0.0, False
        while True:
            before = time.monotonic()
            with self._changed:
                if job.round != self._round:
                    what, fix = "a loader with workers is read by one loop at a time", "make a loader for each loop"
                    raise ConfigError(what, got="a second loop has begun", fix=fix)
                if job.number not in self._results:
                    self._changed.wait(_TICK)
                if job.number in self._results:
                    return self._results.pop(job.number)
            waited += min(time.monotonic() - before, 2 * _TICK)
            self._staff()
            if waited >= self.workers.timeout:
                raise self._silence(job, waited)
            if waited >= SILENT and not warned:
                warn_outside([f"{self._who(job)} has said nothing for {waited:.0f} s"])
                warned = True

    def _who(self, job: _Job[Task]) -> str:
        busy = [keeper.process.pid for keeper in self._keepers if keeper.job is job]
        return f"the process {busy[0]}, which loads {self.name(job.task)}," if busy else "each process that loads pictures"

    def _silence(self, job: _Job[Task], waited: float) -> LostError:
        what = "a process that loads pictures does not answer"
        fix = "is a disk or a network folder gone? To wait longer: --worker-timeout SECONDS"
        return LostError(what, where=self._who(job).rstrip(","), got=f"silence for {waited:.0f} s", fix=fix)

    # --- called by the threads of keepers ----------------------------------------------------------------------------------

    def take_job(self) -> _Job[Task] | None:
        """The next job, when there is one; None after ``close``."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._jobs)
            return None if self._closed else self._jobs.popleft()

    def finish(self, job: _Job[Task], result: Parcel[Rest] | Exception) -> None:
        """Hand a result over, unless its round is over."""
        with self._changed:
            if job.round == self._round:
                self._results[job.number] = result
                self._changed.notify_all()

    def lost(self, job: _Job[Task], pid: int | None, code: int | None) -> None:
        """A worker died with that exit code: put its job back, to be the next one. A SIGTERM makes no note: timeout, kubectl
        and slurm send it to all processes, and the parent, which has it too, says what it does about it.
        """
        job.deaths += 1
        if job.deaths >= TRIES:
            fix = f"often too little memory: try fewer --workers, or 0; or look for a harmful file: {self.doctor}"
            what = "a process that loads pictures died, and so did those that took its place"
            self.finish(job, LostError(what, where=self.name(job.task), got=f"the last one {end_of(code)}", fix=fix))
            return
        with self._changed:
            if job.round == self._round and not self._closed:
                self._jobs.appendleft(job)
                if code != -signal.SIGTERM:
                    self._notes.append(f"the process {pid}, which loaded pictures, {end_of(code)}; another one took its place")
            self._changed.notify_all()


class _Keeper(Generic[Task, Rest]):
    """A worker, and the thread that gives it jobs. Both end when the worker dies."""

    def __init__(self, pool: WorkerPool[Task, Rest]) -> None:
        self.pool = pool
        self.job: _Job[Task] | None = None
        self.is_alive = True
        with _FORKING:
            self._pipe, theirs = multiprocessing.Pipe()
            in_main = threading.current_thread() is threading.main_thread()
            arguments = (pool.work, theirs, pool.unasked, in_main, pool.workers.count)
            self.process = multiprocessing.Process(target=_work, args=arguments, daemon=True)
            try:
                self.process.start()
            except OSError as error:
                self._pipe.close()
                what, fix = "no process can be started to load pictures", "try fewer --workers, or 0"
                raise LostError(what, got=error.strerror or error, fix=fix) from error
            finally:
                theirs.close()
        _RUNNING.add(self.process)
        threading.Thread(target=self._keep, daemon=True).start()

    def _keep(self) -> None:
        with suppress(ClosedError), self._pipe:
            while self.is_alive and (job := self.pool.take_job()) is not None:
                self.job = job
                self._do(job)
                self.job = None

    def _do(self, job: _Job[Task]) -> None:
        try:
            self._pipe.send(job.task)
            result = self._answer()
        except (EOFError, OSError):  # a broken pipe is an OSError
            self.process.join(_TICK)
            self.is_alive = False
            self.pool.lost(job, self.process.pid, self.process.exitcode)
        except ClosedError:
            raise
        except Exception as error:  # of the program, such as a task that cannot be sent
            self.pool.finish(job, error)
        else:
            self.pool.finish(job, result)

    def _answer(self) -> Parcel[Rest] | Exception:
        """Give the worker memory for pictures while it asks, then receive its parcel. Raise EOFError if it dies."""
        held = 0
        try:
            while isinstance(word := self._receive(), int):
                self.pool.memory.give_back(held)
                held = 0  # take() may raise
                if word:
                    held = self.pool.memory.take(word)
                    self._pipe.send(True)
        finally:
            self.pool.memory.give_back(held)
        if isinstance(word, _Fault):
            return RuntimeError(word.text)
        if word.shape is None:
            return Parcel(None, word.rest)
        pixels = torch.empty(word.shape, dtype=word.type, pin_memory=self.pool.pin_memory)
        self._pipe.recv_bytes_into(pixels.view(-1).numpy().data)
        return Parcel(pixels, word.rest)

    def _receive(self) -> int | _Fault | _Heading[Rest]:
        if self._pipe not in wait([self._pipe, self.process.sentinel]):
            raise EOFError
        word: int | _Fault | _Heading[Rest] = self._pipe.recv()
        return word


def end_of(code: int | None) -> str:
    """How a process ended, in words."""
    if code is not None and code < 0:
        with suppress(ValueError):
            return f"was killed ({signal.Signals(-code).name})"
    return f"ended with code {code}"


# --- in the worker --------------------------------------------------------------------------------------------------------


def _work(work: Callable[[Task, Share], Parcel[Rest]], pipe: Connection, unasked: int, in_main: bool, count: int) -> None:
    """The life of one of ``count`` workers. It ends when its parent closes the pipe or ends. in_main: whether the main thread
    began it.
    """
    signal.set_wakeup_fd(-1)  # the parent's
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends Ctrl-C to all; the parent decides what to do
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # nohup ignores it
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
    if in_main:  # Linux would end it with any other thread that began it
        end_with_parent()
    mute_libraries()
    torch.set_num_threads(1)
    gc.freeze()  # a search for garbage would write into all objects of the parent, and so copy the memory that they share
    share_kept(count)
    share = partial(_share, pipe, unasked)
    while True:
        task: Task = _from_parent(pipe)
        try:
            pixels, rest = work(task, share)
        except Exception as error:
            pipe.send(_Fault(f"{type(error).__name__} in a process that loads pictures: {error}\n{traceback.format_exc()}"))
            continue
        shape, kind = (None, torch.uint8) if pixels is None else (tuple(pixels.shape), pixels.dtype)
        pipe.send(_Heading(shape, kind, rest))
        if pixels is not None:
            pipe.send_bytes(pixels.contiguous().view(-1).numpy().data)


def mute_libraries() -> None:
    """Drop what C libraries print, such as libjpeg's remark on a damaged picture. Python's standard error stays."""
    with suppress(OSError):  # it is closed
        kept, nowhere = os.dup(_STDERR), os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, _STDERR)
        os.close(nowhere)
        sys.stderr = os.fdopen(kept, "w", buffering=1, errors="backslashreplace")


def _from_parent(pipe: Connection) -> Any:
    """The next word of the parent. End this process if the parent has ended."""
    parent = multiprocessing.parent_process()
    while not pipe.poll(_LOOK_AROUND):
        if parent is None or not parent.is_alive():
            raise SystemExit
    try:
        return pipe.recv()
    except EOFError:
        raise SystemExit from None


@contextmanager
def _share(pipe: Connection, unasked: int) -> Iterator[Admit]:
    """A block in which one picture is decoded. For a large one, the parent is asked first."""
    asked = 0

    def admit(size: int) -> None:
        nonlocal asked
        if size > unasked:
            asked = size
            pipe.send(size)
            _from_parent(pipe)

    try:
        yield admit
    finally:
        if asked:
            return_freed_memory(asked)
            pipe.send(0)


_RUNNING: weakref.WeakSet[BaseProcess] = weakref.WeakSet()
"""Workers of this process."""
if hasattr(os, "register_at_fork"):  # Windows does not fork
    os.register_at_fork(after_in_child=_RUNNING.clear)


@atexit.register
def _kill_all() -> None:
    """A worker that is stopped does not hear multiprocessing's request to end, and Python would wait for it forever."""
    for process in _RUNNING:
        process.kill()
