"""The memory that pictures take while they are decoded, shared out among all who decode at the same time."""

from __future__ import annotations

import ctypes
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from onestage.errors import require

GIGABYTES = 2.0
"""The usual limit, in 10**9 bytes: two photos of 50 million pixels at once, or one with transparency of 100 million."""

HEAVY = 64_000_000
"""Bytes from which the memory of a picture is counted, and given back to the system at once."""

Admit = Callable[[int], None]
"""Called with a number of bytes before that much memory is used; returns when there is room."""
Share = Callable[[], AbstractContextManager[Admit]]
"""Opens a block in which one picture may be admitted. Its memory is given back at the end of the block."""


class ClosedError(Exception):
    """The memory is closed: the work that needed it was given up."""


class PictureMemory:
    """At most ``limit`` bytes at once for pictures in decoding, over all threads. The first to ask is the first served.

    A picture that needs more than the limit waits until there is no other. A thread that holds some may not ask for more:
    so each thread that waits gets its share in the end.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._taken = 0
        self._queue: deque[object] = deque()
        self._changed = threading.Condition()
        self._closed = False

    @property
    def taken(self) -> int:
        """Bytes that are in use now."""
        return self._taken

    def take(self, size: int) -> int:
        """Wait for ``size`` bytes. Return the number to give back. Raise ClosedError after ``close``."""
        size = min(size, self.limit)
        ticket = object()
        with self._changed:
            self._queue.append(ticket)
            try:
                self._changed.wait_for(lambda: self._closed or (self._queue[0] is ticket and self._taken + size <= self.limit))
                if self._closed:
                    raise ClosedError
                self._taken += size
            finally:
                self._queue.remove(ticket)
                self._changed.notify_all()
        return size

    def give_back(self, size: int) -> None:
        """End the use of so many bytes."""
        with self._changed:
            self._taken -= size
            self._changed.notify_all()

    @contextmanager
    def share(self) -> Iterator[Admit]:
        """A block in which this thread decodes one picture."""
        held = 0

        def admit(size: int) -> None:
            nonlocal held
            assert held == 0, "one picture in a block"
            held = self.take(size)

        try:
            yield admit
        finally:
            return_freed_memory(held)
            self.give_back(held)

    def close(self) -> None:
        """End all waiting."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()


def in_bytes(gigabytes: float) -> int:
    """Gigabytes of picture memory in bytes. Raise ConfigError unless they are above 0."""
    require(0 < gigabytes < float("inf"), "the memory for pictures is a number of gigabytes above 0", got=gigabytes)
    return max(1, int(gigabytes * 1e9))


def return_freed_memory(size: float) -> None:
    """On Linux, give back to the system what was freed after work with ``size`` bytes, if they are many: each thread keeps what
    it has freed.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" and size > HEAVY else None
    if trim is not None:
        trim(0)
