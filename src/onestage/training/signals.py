"""Ctrl-C and SIGTERM as a request: the training saves everything, then stops."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Self

NOTICE = b"\nstopping as soon as all is saved; once more stops at once\n"

Handler = Callable[[int, FrameType | None], object] | int | None
"""What Python calls at a signal, or the number of a usual reaction."""


class StopSignal:
    """Turn the first SIGINT or SIGTERM into a request, which the loop honours after its step. A second one interrupts at once.

    Python allows signal handlers in the main thread only. In any other thread this does nothing.
    """

    def __init__(self, *, told: bool = True) -> None:
        """told: whether this process prints that it received the signal."""
        self.asked = False
        self._told = told
        self._before: dict[int, Handler] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._before = {s: signal.signal(s, self._handle) for s in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
        if self._told:
            os.write(2, NOTICE)  # not print(), which may be what was interrupted
