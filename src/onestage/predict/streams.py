"""Threads that put batches through a network, as many at the same time as pay.

One batch seldom keeps all processors busy: some parts of a network, and the choice among its boxes, run on one. How many at
once pay depends on the machine, the model and the runtime, so it is tried while the work goes on. Each batch is computed as it
would be alone, by as many threads of the runtime, so the number never changes a result.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from functools import partial
from queue import SimpleQueue
from typing import Any, Self, TypeVar

import torch

T = TypeVar("T")

MOST = 64
"""Batches at the same time: a larger number is a mistake."""
MOST_TRIED = 4
"""Batches at the same time that are tried without being asked for: each needs memory for the maps of its network."""
GAIN = 1.05
"""One batch more at the same time pays if so many times as many pictures are done in a second."""
TRIAL_SECONDS, TRIAL_BATCHES = 2.0, 4
"""The least length of a trial: of both, whichever lasts longer."""

_TICK = 0.5
"""Seconds between two looks whether all is over."""


class Pace:
    """How many batches go through the network at the same time: first one, then one more as long as that pays.

    most: so many at most. now: gives the seconds of a clock.
    """

    def __init__(self, most: int, now: Callable[[], float] = time.monotonic) -> None:
        self.count = 1
        self.is_settled = most == 1
        self._most, self._now, self._best = most, now, 0.0
        self._lock = threading.Lock()
        self._begin()

    def _begin(self) -> None:
        """Begin a trial. Batches that were under way before do not count."""
        self._left_out, self._batches, self._pictures, self._since = self.count + 1, 0, 0, 0.0

    def finished(self, pictures: int) -> None:
        """Count a batch of so many pictures as finished now."""
        with self._lock:
            if self.is_settled:
                return
            if self._left_out:
                self._left_out -= 1
                self._since = self._now()
                return
            self._batches, self._pictures = self._batches + 1, self._pictures + pictures
            seconds = self._now() - self._since
            if self._batches >= TRIAL_BATCHES * self.count and seconds >= TRIAL_SECONDS:
                self._judge(self._pictures / seconds)

    def _judge(self, rate: float) -> None:
        """End a trial in which so many pictures a second were done."""
        if rate < GAIN * self._best:
            self.count -= 1
            self.is_settled = True
            return
        self._best = rate
        self.is_settled = self.count == self._most
        self.count += not self.is_settled
        self._begin()


class Streams:
    """Threads for batches. A context manager: at the end, each finishes the batch that it works at.

    Python must not end while a thread computes, so the end waits for them. A batch that has not begun is dropped.
    """

    def __init__(self, count: int | None = None) -> None:
        """count: so many batches at the same time; None: as many as pay."""
        self._count, self._pace = count, Pace(min(MOST_TRIED, os.cpu_count() or 1))
        self._queue: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._working = 0
        self._ended = threading.Event()

    @property
    def count(self) -> int:
        """How many batches go through the network at the same time, as far as is known now."""
        return self._count or self._pace.count

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        for _thread in self._threads:
            self._queue.put(None)
        for thread in self._threads:
            thread.join()

    def submit(self, action: Callable[[], T], *, pictures: int) -> Future[T]:
        """Have a thread do the work of a batch of so many pictures. Work begins in the order in which it is submitted."""
        future: Future[T] = Future()
        self._queue.put(partial(self._do, future, action, pictures))
        while self._working < self.count:
            thread = threading.Thread(target=self._work, daemon=True, name="onestage-stream")
            self._threads.append(thread)
            self._working += 1
            thread.start()
        while self._working > self.count:
            self._working -= 1
            self._queue.put(None)
        return future

    def results(self, futures: Sequence[Future[T]]) -> list[T]:
        """In a thread of these: the results of other work, as soon as all are there. Raise its error if one failed."""
        while wait(futures, timeout=_TICK).not_done:
            if self._ended.is_set():
                raise RuntimeError("the work was given up")
        return [future.result() for future in futures]

    def _work(self) -> None:
        torch.get_num_threads()  # torch then computes with as many threads here as in the thread that set their number
        while (job := self._queue.get()) is not None:
            if not self._ended.is_set():
                job()
            del job  # an idle thread would hold its last batch

    def _do(self, future: Future[Any], action: Callable[[], object], pictures: int) -> None:
        try:
            future.set_result(action())
        except BaseException as error:
            future.set_exception(error)
        else:
            self._pace.finished(pictures)
