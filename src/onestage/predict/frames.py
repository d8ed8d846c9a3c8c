"""Frames in the order of time, from a film, a camera, a stream, or any other source: one interface, and what may go wrong.

Shape letters: H and W of a frame.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from fractions import Fraction
from time import monotonic
from time import sleep as usual_sleep
from typing import NamedTuple, Protocol

from torch import Tensor

from onestage.errors import DataError, LostError
from onestage.predict.ahead import Ahead, Signs

PAUSES = (1.0, 2.0, 4.0, 8.0, 16.0, 30.0)
"""Seconds before each attempt to open a lost source again; the last one is repeated."""


class Frame(NamedTuple):
    """A picture of a source. number: from 0, all frames count, those that are skipped or broken too. time: seconds since the
    first frame. pixels: (3, H, W) uint8 RGB, upright. damaged: whether the decoder filled gaps in it.
    """

    number: int
    time: Fraction
    pixels: Tensor
    damaged: bool = False


class Fault(NamedTuple):
    """What went wrong instead of a frame: a broken one, a connection that was lost, an end that came too early.

    number and time: as of a frame; the last ones before it if it is about none.
    """

    number: int
    time: Fraction
    error: DataError | LostError


@dataclass(frozen=True)
class Facts:
    """What is known about a source as soon as it is open.

    clock: seconds, of which every time of a frame is a multiple. rate: frames per second on average, if that is known. total:
    how many frames its header promises, if it does. shape: the width of a pixel over its height, as a player shows it.
    """

    clock: Fraction
    rate: Fraction | None = None
    total: int | None = None
    shape: Fraction = Fraction(1)


def no_one() -> None:
    """Hear of a sign of life, and do nothing."""


class FrameSource(Protocol):
    """Where frames come from."""

    @property
    def name(self) -> str:
        """What it is called in results, without a password."""
        ...

    @property
    def live(self) -> bool:
        """Whether frames come whether they are asked for or not, as from a camera, and it can be opened again."""
        ...

    @property
    def facts(self) -> Facts | None:
        """What is known about it; None before the first frame."""
        ...

    def frames(self, *, every: int = 1, alive: Callable[[], None] = no_one) -> Iterator[Frame | Fault]:
        """Open the source. Frames in the order of time, those whose number is a multiple of ``every``, and every fault.

        alive: called for each frame, those that are left out too, and while it waits for the time of one. It is called in a
        thread, and again after a live source was lost. Raise DataError if the source cannot be opened, or is lost.
        """
        ...


@dataclass(frozen=True)
class Patience:
    """How long a source is waited for. silence: seconds without a frame, of those that are left out too, after which it counts
    as lost. reconnect: seconds after which a live source that was lost is given up.
    """

    silence: float = 10.0
    reconnect: float = 60.0


@dataclass
class Dropped:
    """How many frames were dropped because others were newer."""

    count: int = 0


def weight(item: Frame | Fault) -> int:
    """The bytes of the pixels of a frame."""
    return item.pixels.numel() if isinstance(item, Frame) else 0


def followed(
    source: FrameSource,
    *,
    every: int = 1,
    ahead: int = 16,
    limit: int = 2**31,
    newest: bool = False,
    patience: Patience = Patience(),
    dropped: Dropped | None = None,
    sleep: Callable[[float], None] = usual_sleep,
) -> Iterator[Frame | Fault]:
    """The frames of a source, and its faults, for as long as it lives. A thread reads at most ``ahead`` frames, or ``limit``
    bytes of them, before they are asked for. newest: drop the oldest then, and count them in ``dropped``.

    A source that is silent for too long is lost. That is a fault, and so is the end of a live source, which is opened again.
    Numbers and times go on. Raise DataError or LostError if the source cannot be opened at first.
    """
    state = _Progress(dropped if dropped is not None else Dropped())

    def opened() -> Ahead[Frame | Fault]:
        signs = Signs()
        frames = source.frames(every=every, alive=signs)
        return Ahead(frames, most=ahead, weight=weight, limit=limit, newest=newest, timeout=patience.silence, signs=signs)

    while True:
        error = yield from _until_lost(opened(), state)
        if error is None and not source.live:
            return
        if error is not None and state.number < 0:
            raise error
        fix = "look at the camera and the network"
        ended = LostError("the stream has ended", where=source.name, fix=fix)
        yield Fault(max(state.number, 0), state.time, ended if error is None else LostError.of(error, source.name))
        if not source.live or not state.wait(patience.reconnect, sleep):
            return


@dataclass
class _Progress:
    """How far a source is, over all times that it was opened. number, time: of the last frame. began: when. lost: since when.
    tries: to open it, since it was lost.
    """

    dropped: Dropped
    number: int = -1
    time: Fraction = Fraction(0)
    began: float = field(default_factory=monotonic)
    lost: float | None = None
    tries: int = 0
    offset: Fraction = Fraction(0)

    def wait(self, most: float, sleep: Callable[[float], None]) -> bool:
        """Wait before the source is opened again. Return False if it was lost for ``most`` seconds by then."""
        self.lost = self.lost if self.lost is not None else monotonic()
        pause = PAUSES[min(self.tries, len(PAUSES) - 1)]
        if monotonic() + pause - self.lost > most:
            return False
        sleep(pause)
        self.tries += 1
        self.offset = max(self.time, Fraction(round((monotonic() - self.began) * 1000), 1000))
        return True


def _until_lost(items: Ahead[Frame | Fault], state: _Progress) -> Generator[Frame | Fault, None, DataError | LostError | None]:
    """The frames of an opened source, with the numbers and times of all before it. Return the error that ended them."""
    first, before = state.number + 1, state.dropped.count
    with closing(items):
        try:
            for item in items:
                item = item._replace(number=item.number + first, time=item.time + state.offset)
                state.number, state.time = item.number, item.time
                if isinstance(item, Frame):  # one that only ever brings faults is lost still
                    state.lost, state.tries = None, 0
                state.dropped.count = before + items.dropped
                yield item
                del item  # its pixels are those of the caller now
        except (DataError, LostError) as error:
            return error
        finally:
            state.dropped.count = before + items.dropped
    return None
