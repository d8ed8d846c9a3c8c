"""Give a reader inputs that nobody would write, and demand one of two answers: it is read, or a OnestageError.

FUZZ_SECONDS is the time for each reader: 1 in the default test run, minutes in ``make fuzz``. FUZZ_SEED picks the inputs.
Each try has a seed of its own, so one failing try can be repeated alone.
"""

from __future__ import annotations

import os
import signal
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from random import Random
from types import FrameType

from onestage.errors import OnestageError

SECONDS = float(os.environ.get("FUZZ_SECONDS", "1"))
SEED = int(os.environ.get("FUZZ_SEED", "0"))
LONGEST = 20
"""Seconds that one try may take. A slower one counts as a hang."""


class Hang(BaseException):
    """A try took too long. It is no Exception, so that no reader catches it."""


def fuzz(title: str, attempt: Callable[[Random], str], *, seconds: float = SECONDS) -> None:
    """Call ``attempt`` with new random numbers until the time is over; print what came of it.

    ``attempt`` makes one input, gives it to a reader, compares what was read, and returns a word for the kind of the input.
    A OnestageError is a refusal and counts as an answer. Anything else that is raised is a fault: it fails the test and names
    the seed. The signal that ends a hang needs the main thread.
    """
    kinds: Counter[str] = Counter()
    refused, faults, slowest = 0, [], 0.0
    end = time.monotonic() + seconds
    number = 0
    while time.monotonic() < end or number < 3:
        began = time.monotonic()
        try:
            with _limit(LONGEST):
                kinds[attempt(Random(f"{SEED}.{number}"))] += 1
        except OnestageError:
            refused += 1
        except (Exception, Hang):
            faults.append(f"seed {SEED}.{number}:\n{traceback.format_exc(limit=-6)}")
        slowest = max(slowest, time.monotonic() - began)
        number += 1
    read = ", ".join(f"{kind} {count}" for kind, count in sorted(kinds.items())) or "none"
    print(f"{title}: {number} tries, {refused} refused, read: {read}; slowest {slowest:.2f} s; {len(faults)} faults")
    assert not faults, f"{len(faults)} of {number} tries failed, the first ones:\n" + "\n".join(faults[:3])


def mutated(random: Random, data: bytes, *, tokens: tuple[bytes, ...] = ()) -> bytes:
    """The data with one to five changes: a bit flipped, a piece cut out, doubled or cut off, a token or noise put in."""
    for _ in range(random.randint(1, 5)):
        start = random.randint(0, len(data))
        stop = min(len(data), start + random.choice((1, 2, 4, 16, 256)))
        piece = data[start:stop]
        change = random.randint(0, 5)
        if change == 0 and piece:
            piece = bytes([piece[0] ^ (1 << random.randint(0, 7))]) + piece[1:]
        elif change == 1:
            piece = b""
        elif change == 2:
            piece = piece * random.choice((2, 3, 50))
        elif change == 3:
            piece = random.choice(tokens or (b"\0", b"-1", b"1e999", b"\xff\xfe")) + piece
        elif change == 4:
            piece = random.randbytes(len(piece))
        elif random.random() < 0.3:
            return data[:start]
        data = data[:start] + piece + data[stop:]
    return data


@contextmanager
def _limit(seconds: float) -> Iterator[None]:
    """Raise Hang inside the block once it has taken so long."""

    def stop(_number: int, _frame: FrameType | None) -> None:
        raise Hang(f"more than {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
