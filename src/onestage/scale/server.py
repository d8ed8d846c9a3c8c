"""The server of which processes of a batch are forked: it has imported what they need, and run nothing.

A fork of any other process has its locks, but not the threads that would open them, such as those of OpenVINO or pyarrow, and
may wait for ever. Importing this module takes no time, so that the server can begin before torch is imported here.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.context import BaseContext

IMPORTS = ["onestage.scale.local", "onestage.zoo", "pyarrow.parquet"]


def context() -> BaseContext:
    """What starts processes: the server, which is started if it does not run; or where none can be, a new Python each."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    from multiprocessing import forkserver

    found = multiprocessing.get_context("forkserver")
    found.set_forkserver_preload(IMPORTS)
    try:
        with without_this_folder():
            forkserver.ensure_running()
    except OSError:  # the path of its socket may be too long, by the variable TMPDIR
        return multiprocessing.get_context("spawn")
    return found


@contextmanager
def without_this_folder() -> Iterator[None]:
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
