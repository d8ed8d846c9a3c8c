"""What libjpeg prints about a damaged picture is kept from the terminal: the program says itself which pictures are bad."""

from __future__ import annotations

import contextlib
import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_STDERR = 2
"""The number under which C libraries know standard error."""
_REMARK = re.compile(
    rb"(Corrupt JPEG data|Premature end of JPEG|Inconsistent progression sequence|Invalid SOS parameters"
    rb"|Unknown Adobe color transform|Warning: unknown JFIF revision|Application transferred too many scanlines)[^\n]*\n?"
)
"""A warning of libjpeg (jerror.h, JWRN_...)."""
_ONE = threading.Lock()
"""Held by the thread that has put a file in the place of standard error."""


@contextmanager
def without_remarks() -> Iterator[None]:
    """Inside, libjpeg's remarks are dropped. What anything else prints to standard error meanwhile comes at the end.

    It does nothing on a system that has no files in memory, or inside another such block.
    """
    if not hasattr(os, "memfd_create") or not _ONE.acquire(blocking=False):
        yield
        return
    try:
        with contextlib.ExitStack() as ends:
            with contextlib.suppress(OSError):  # standard error is closed
                _put_aside(ends)
            yield
    finally:
        _ONE.release()


def _put_aside(ends: contextlib.ExitStack) -> None:
    """Put a file in memory in the place of standard error, until the end of the block."""
    kept = os.dup(_STDERR)
    ends.callback(os.close, kept)
    printed = os.memfd_create("printed")
    ends.callback(os.close, printed)
    os.dup2(printed, _STDERR)
    ends.callback(_put_back, kept, printed)


def _put_back(kept: int, printed: int) -> None:
    os.dup2(kept, _STDERR)
    if size := os.fstat(printed).st_size:
        with contextlib.suppress(OSError):  # its reader is gone
            os.write(_STDERR, _REMARK.sub(b"", os.pread(printed, size, 0)))
