"""The items of an iterable, taken by a thread before they are asked for."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Generic, TypeVar

from onestage.data.workers import TIMEOUT
from onestage.errors import LostError, require

T = TypeVar("T")
FAREWELL = 5.0
"""Seconds that the thread gets at the end to leave the iterable. A daemon, it is left behind if it does not."""


class Signs:
    """Signs of life of what brings items: one call for each."""

    def __init__(self) -> None:
        self.last = float("-inf")

    def __call__(self) -> None:
        """Note that it lives now."""
        self.last = time.monotonic()


class Ahead(Generic[T]):
    """The items of an iterable in order. A thread takes them, so that they are there when they are needed.

    The thread stops while ``most`` items wait, or as many as weigh ``limit`` together. newest: it does not stop, but drops
    the items that have waited longest, and counts them in ``dropped``. timeout: the longest wait for an item, in seconds; None
    is forever. signs: with each sign of life the wait begins again.

    An error of the iterable is raised after the items before it. ``close`` ends the thread, as leaving a ``with`` block does.
    A thread that waits inside the iterable then, such as for a camera, is left behind after FAREWELL seconds, or at once if it
    was silent for too long before.
    """

    def __init__(
        self,
        items: Iterable[T],
        *,
        most: int,
        weight: Callable[[T], int] = lambda _: 0,
        limit: int = 1,
        newest: bool = False,
        timeout: float | None = TIMEOUT,
        signs: Signs | None = None,
    ) -> None:
        require(most >= 1, "at least one item waits", got=most)
        require(timeout is None or timeout > 0, "the timeout of threads is a number of seconds above 0", got=timeout)
        self._shelf = _Shelf(most, weight, limit, newest=newest, signs=signs or Signs())
        self._timeout, self._farewell = timeout, FAREWELL
        self._thread = threading.Thread(target=_fill, args=(items, self._shelf), daemon=True, name="onestage-ahead")
        self._thread.start()

    @property
    def dropped(self) -> int:
        """How many items were dropped so far."""
        return self._shelf.dropped

    def __iter__(self) -> Iterator[T]:
        return self

    def __next__(self) -> T:
        """Raise LostError if nothing comes for ``timeout`` seconds."""
        try:
            return self._shelf.take(self._timeout)
        except LostError:
            self._farewell = 0.0  # whatever the thread waits for, it does not come
            raise

    def __enter__(self) -> Ahead[T]:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the thread. The items that wait are gone."""
        self._shelf.close()
        if self._thread is not threading.current_thread():  # the garbage collector runs in any thread
            self._thread.join(self._farewell)


class _Shelf(Generic[T]):
    """Items between the thread that brings them and the one that takes them. It knows neither."""

    def __init__(self, most: int, weight: Callable[[T], int], limit: int, *, newest: bool, signs: Signs) -> None:
        self.dropped = 0
        self._most, self._weight, self._limit, self._newest = most, weight, limit, newest
        self._signs = signs
        self._items: deque[T] = deque()
        self._weights: deque[int] = deque()
        self._changed = threading.Condition()
        self._closed = self._ended = False
        self._error: BaseException | None = None

    def wait_for_room(self) -> bool:
        """Wait until an item may come. Return whether any may come still."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._newest or self._has_room())
            return not self._closed

    def put(self, item: T) -> None:
        """Bring an item, after ``wait_for_room``."""
        weight = self._weight(item)
        with self._changed:
            while self._newest and self._items and not self._has_room(weight):
                self._items.popleft()
                self._weights.popleft()
                self.dropped += 1
            if not self._closed:
                self._items.append(item)
                self._weights.append(weight)
            self._changed.notify_all()

    def end(self, error: BaseException | None) -> None:
        """No more items come, because of an error or without one."""
        with self._changed:
            self._ended, self._error = True, error
            self._changed.notify_all()

    def take(self, timeout: float | None) -> T:
        """The next item. Raise the error at the end, StopIteration without one, LostError after so many seconds of waiting."""
        with self._changed:
            began, left = time.monotonic(), timeout
            while not self._changed.wait_for(lambda: self._items or self._ended or self._closed, left):
                assert timeout is not None
                silence = time.monotonic() - max(began, self._signs.last)
                left = timeout - silence
                if left > 0:
                    continue
                what, got = "what should bring pictures does not answer", f"silence for {silence:.0f} s"
                raise LostError(what, got=got, fix="is a camera, a disk or a connection gone?")
            if not self._items:
                error, self._error = self._error, None
                if error is not None:
                    raise error
                raise StopIteration
            self._weights.popleft()
            self._changed.notify_all()
            return self._items.popleft()

    def close(self) -> None:
        """Let go of all items, and take no more."""
        with self._changed:
            self._closed = True
            self._items.clear()
            self._weights.clear()
            self._changed.notify_all()

    def _has_room(self, more: int = 0) -> bool:
        return not self._items or (len(self._items) < self._most and sum(self._weights) + more < self._limit)


def _fill(items: Iterable[T], shelf: _Shelf[T]) -> None:
    """Bring all items to the shelf. This is the thread: it holds the iterable and the shelf, and lets go of each item."""
    try:
        iterator = iter(items)
        del items
        while shelf.wait_for_room():
            try:
                item = next(iterator)
            except StopIteration:
                break
            shelf.put(item)
            del item
    except BaseException as error:  # whatever it is, it belongs to who asks for the items
        shelf.end(error)
    else:
        shelf.end(None)
