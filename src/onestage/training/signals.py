"""Ctrl-C and its like, as a request instead of an accident."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType
from typing import Any, Self

NOTICE = b"\nstopping as soon as all is saved; once more stops at once\n"


class StopSignal:
    """Turns the first SIGINT or SIGTERM into a request that the loop honours after its step; a second interrupts at once.

    Outside of the main thread, where Python allows no handlers, it does nothing.
    """

    def __init__(self, *, told: bool = True) -> None:
        """told: whether this process says that it heard."""
        self.asked = False
        self._told = told
        self._before: dict[int, Any] = {}

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
