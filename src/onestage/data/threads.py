"""Threads that work ahead, and are left behind if they do not answer: a dead disk stops one forever."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from functools import partial
from queue import SimpleQueue
from typing import Self, TypeVar

from onestage.data.workers import SILENT, TIMEOUT
from onestage.errors import ConfigError, LostError, require, warn_outside

T = TypeVar("T")
_TICK = 1.0
"""Seconds between two looks at a silent thread."""


class PatientThreads:
    """Threads for work that is submitted. A context manager: they have some seconds to finish at the end; the rest is left.

    Python waits at its end for the threads of a ThreadPoolExecutor, forever if need be. It does not wait for these.
    timeout: seconds after which a silent thread is given up. farewell: seconds to finish.
    """

    def __init__(self, *, timeout: float = TIMEOUT, farewell: float = 5.0) -> None:
        require(timeout > 0, "the timeout of threads is a number of seconds above 0", got=timeout)
        self.timeout, self.farewell = timeout, farewell
        self._queue: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._threads = [threading.Thread(target=self._work, daemon=True) for _ in range(min(32, (os.cpu_count() or 1) + 4))]
        self._ended = False

    def __enter__(self) -> Self:
        """Start the threads, or as many as there is room for. Raise ConfigError if there is none for the first one."""
        started: list[threading.Thread] = []
        for thread in self._threads:
            try:
                thread.start()
            except RuntimeError as error:
                if not started:
                    what, fix = "no thread can be started to read pictures", "free memory, or raise the limits: ulimit -v, -u"
                    raise ConfigError(what, got=error, fix=fix) from error
                break
            started.append(thread)
        self._threads = started
        return self

    def __exit__(self, *_: object) -> None:
        """Give the threads some seconds to finish."""
        for _thread in self._threads:
            self._queue.put(None)
        end = time.monotonic() + self.farewell
        for thread in self._threads:
            thread.join(max(0.0, end - time.monotonic()))
        self._ended = True

    def submit(self, action: Callable[[], T]) -> Future[T]:
        """Have some thread do this. ``result`` waits for it."""
        future: Future[T] = Future()
        self._queue.put(partial(_do, future, action))
        return future

    def result(self, future: Future[T], name: str) -> T:
        """The result of submitted work, or its error. name: of what it works at, for messages.

        Warn after a minute of silence. Raise LostError after the timeout.
        """
        waited, warned = 0.0, False
        while not wait([future], timeout=min(_TICK, self.timeout)).done:
            waited += min(_TICK, self.timeout)
            if waited >= self.timeout:
                what, fix = (
                    "a thread does not answer",
                    "is a disk or network folder gone? To wait longer: --worker-timeout SECONDS",
                )
                raise LostError(what, where=name, got=f"silence for {waited:.0f} s", fix=fix)
            if waited >= SILENT and not warned:
                warn_outside([f"{name}: no word for {waited:.0f} s from the thread that works at it"])
                warned = True
        return future.result()

    def _work(self) -> None:
        while (job := self._queue.get()) is not None and not self._ended:
            job()
            del job  # an idle thread would hold its last picture


def _do(future: Future[T], action: Callable[[], T]) -> None:
    try:
        future.set_result(action())
    except BaseException as error:
        future.set_exception(error)
