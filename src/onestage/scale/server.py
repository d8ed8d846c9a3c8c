"""The server of which processes of a batch are forked: it has imported what they need, and run nothing.

A fork of any other process has its locks, but not the threads that would open them, such as those of OpenVINO or pyarrow, and
may wait for ever. Importing this module takes no time, so that the server can begin before torch is imported here.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess

IMPORTS = ["onestage.scale.local", "onestage.zoo"]
"""Without pyarrow, which starts a thread when it is imported, and takes a moment only."""
IMPORTED_IN = os.getpid()
"""The process that has imported this module: in what the server has forked, that is the server."""
_STARTING = threading.Lock()
"""Held while this process looks different to those that it starts."""
_PAUSE = 0.2
"""Seconds after which a server that was killed is gone."""


def context() -> BaseContext:
    """What makes processes: the server, which is started if it does not run; or where none can be, a new Python each. Only on
    Linux do all libraries allow a fork.
    """
    if sys.platform != "linux":
        return multiprocessing.get_context("spawn")
    found = multiprocessing.get_context("forkserver")
    found.set_forkserver_preload(IMPORTS)
    try:
        with _STARTING, _without_this_folder():
            _serve()
    except OSError:  # the path of its socket may be too long, by the variable TMPDIR
        return multiprocessing.get_context("spawn")
    return found


def start(found: BaseContext, process: BaseProcess) -> None:
    """Start a process that a context of ours has made. It does not run the program of this process, which may be no file, or
    start the same once more. Raise OSError or EOFError if it cannot be started.
    """
    with _STARTING, _without_this_folder(), _without_this_program():
        for is_last in (False, False, True):
            try:
                if found.get_start_method() == "forkserver":
                    _serve()  # it may have been killed
                return process.start()
            except (EOFError, ConnectionError):  # it was killed since
                if is_last:
                    raise
                time.sleep(_PAUSE)


def _serve() -> None:
    """Start the server, if it does not run. It never hears Ctrl-C, which a terminal sends to all, even while it imports."""
    from multiprocessing import forkserver, resource_tracker

    resource_tracker.ensure_running()  # the other one starts it too, and changes the mask then
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _without_this_folder() -> Iterator[None]:
    """Let a Python that is started in the block not look for modules in the working folder, which may be anybody's."""
    usual = os.environ.get("PYTHONSAFEPATH")
    os.environ["PYTHONSAFEPATH"] = "1"
    try:
        yield
    finally:
        if usual is None:
            del os.environ["PYTHONSAFEPATH"]
        else:
            os.environ["PYTHONSAFEPATH"] = usual


@contextmanager
def _without_this_program() -> Iterator[None]:
    """Hide from multiprocessing where the program of this process is."""
    program = vars(sys.modules["__main__"])
    usual: dict[str, object] = {name: program[name] for name in ("__spec__", "__file__") if name in program}
    program.pop("__file__", None)
    program["__spec__"] = None
    try:
        yield
    finally:
        program.update(usual)
