"""Ctrl-C, SIGTERM and a terminal that closes as a request: the training saves everything, then stops."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
from collections.abc import Callable
from types import FrameType
from typing import Self

INSISTING = (signal.SIGINT, signal.SIGTERM)
"""The signals that stop at once when they come second."""
ASKING = (*INSISTING, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else []))
"""A terminal that closes may send SIGHUP twice, itself and through the shell, so the second one asks for no more."""

NOTICE = b"\nstopping as soon as all is saved; once more stops at once\n"

AT_ONCE = b"\nstopped at once: another process did not answer. What was saved last is whole\n"
PATIENCE = 5.0
"""Seconds from the second signal to the end of a process that waits for others."""

Handler = Callable[[int, FrameType | None], object] | int | None
"""What Python calls at a signal, or the number of a usual reaction."""


class StopSignal:
    """Turn the first SIGINT, SIGTERM or SIGHUP into a request, which the loop honours after its step. A second SIGINT or
    SIGTERM interrupts at once. A SIGHUP that is ignored, as under nohup, stays so.

    Python allows signal handlers in the main thread only. In any other thread this does nothing.
    """

    def __init__(self, *, told: bool = True, insists: bool = False) -> None:
        """told: whether this process prints that it received the signal. insists: whether a second signal also ends a process
        that waits in C++ for another one, where Python handles no signals.
        """
        self.asked = False
        self._told = told
        self._insists = insists
        self._over = threading.Event()
        self._sockets: tuple[socket.socket, ...] = ()
        self._wakeup = -1
        self._before: dict[int, Handler] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            heard = [s for s in ASKING if s in INSISTING or signal.getsignal(s) != signal.SIG_IGN]
            self._before = {s: signal.signal(s, self._handle) for s in heard}
            if self._insists:
                self._sockets = ours, theirs = socket.socketpair()
                theirs.setblocking(False)
                self._wakeup = signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
                threading.Thread(target=self._insist, args=(ours,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        if self._sockets:
            signal.set_wakeup_fd(self._wakeup)
            self._sockets[1].close()  # the thread reads its end, and closes the other socket
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.asked and number in INSISTING:
            raise KeyboardInterrupt
        again, self.asked = self.asked, True
        if self._told and not again:
            _tell(NOTICE)

    def _insist(self, signals: socket.socket) -> None:
        """Read the number of each signal as it comes; after the second one, give Python some seconds to react."""
        with signals:
            count = 0
            while count < 2 and (numbers := signals.recv(16)):
                count += sum(number in INSISTING for number in numbers)
            if count >= 2 and not self._over.wait(PATIENCE):
                _tell(AT_ONCE)
                os._exit(130)


def _tell(text: bytes) -> None:
    """Write to standard error, if anybody reads it: Ctrl-C has ended tee too. print() may be what the signal interrupted."""
    with contextlib.suppress(OSError):
        os.write(2, text)
