"""``onestage train --processes N``: the same command in N processes of this machine, which train together.

They get the variables that torchrun sets. This process only watches: it hands signals on, ends all if one has died, and starts
them again from the last checkpoint. A terminal's signals come to it alone, because each process is in another session.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from tempfile import gettempdir
from typing import Annotated, ClassVar

import tyro

from onestage.cli.output import ARGUMENTS, say
from onestage.errors import ConfigError, LostError, check_number, counted
from onestage.files import temporary_folder
from onestage.processes import LOST, RESTARTS, TOLD, VARIABLES, end_with_parent

GRACE = 20.0
"""Seconds that the others have to end by themselves, once one has died or a second signal has come."""
LOOK = 0.1
"""Seconds between two looks at the processes."""
PARENT = "ONESTAGE_PARENT"
"""The variable with the number of the process that has started this one."""
SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
Count = Annotated[int, tyro.conf.arg(metavar="N")]


@dataclass(frozen=True)
class Ranks:
    """Processes of this machine that train together."""

    HEADING: ClassVar[str] = "process"
    processes: Count = 1
    """Train in so many processes of this machine: each takes a GPU, or a part of the cores. On several machines: torchrun."""
    restarts: Count = 3
    """With --processes: if one dies, start all again from the last checkpoint, up to so often without a new checkpoint."""


ONE = Ranks()


def are_to_start(ranks: Ranks) -> bool:
    """Whether several processes are to be started. One that was started so does its part, and ends with the one that did it.

    Raise ConfigError for numbers that are not possible, or if another launcher has started this process as one of several.
    """
    if TOLD in os.environ:
        end_with_parent()
        if os.getppid() != int(os.environ.get(PARENT, os.getppid())):  # it had ended before
            raise SystemExit(LOST)
        return False
    check_number("processes", ranks.processes, least=1, whole=True)
    check_number("restarts", ranks.restarts, least=0, whole=True)
    if ranks.processes > 1 and "RANK" in os.environ:
        what, got = "two launchers: a variable says that this is one of several processes already", f"RANK={os.environ['RANK']}"
        raise ConfigError(what, got=got, fix="leave --processes out, or start the command without torchrun")
    return ranks.processes > 1


def start_ranks(ranks: Ranks, *, out: Path, more: Sequence[str] = ()) -> int:
    """Train in several processes, and give the exit code: that of one process, or 130 after a signal.

    out: the run folder. more: words to put behind those of this command line. Raise LostError if processes have died more often
    than they may.
    """
    arguments = (*ARGUMENTS.get(), *more)
    left, begun, attempt = ranks.restarts, _checkpoints(out), 0
    while True:
        ends = _Group.run(ranks.processes, arguments, attempt)
        if ends.stopped:
            return 130
        if not ends.is_lost:
            return ends.code
        if (now := _checkpoints(out)) != begun:  # there was progress
            left, begun = ranks.restarts, now
        if not left:
            raise ends.error(out, ranks.processes)
        left, attempt = left - 1, attempt + 1
        place = "from the last checkpoint" if now else "from the beginning"
        say(
            ("warning:", "bold yellow"),
            f" {ends.reason}: all have ended, and start again {place}; {left} more without progress",
        )


def _checkpoints(out: Path) -> frozenset[Path]:
    """The whole checkpoints of a run."""
    return frozenset(out.glob("checkpoints/*/state.json"))


@dataclass(frozen=True)
class Ends:
    """How the processes have ended. codes: of each, negative after a signal, and 0 for one that was ended from here. stopped:
    by a signal to all of them. died: one died of a signal before any other had failed, so what those said is no cause.
    """

    codes: tuple[int, ...]
    stopped: bool
    died: bool = False

    @property
    def is_lost(self) -> bool:
        """Whether one has died, or they have lost one another, and none has told another error before."""
        return self.died or (not self.code and any(code < 0 or code == LOST for code in self.codes))

    @property
    def code(self) -> int:
        """The exit code of the one that has told an error; 0 if all are done."""
        return max((code for code in self.codes if 0 < code != LOST), default=0)

    @property
    def reason(self) -> str:
        """Why they have ended, for people."""
        killed = {rank: -code for rank, code in enumerate(self.codes) if code < 0}
        if not killed:
            return "the processes of this training have lost one another"
        rank, number = next(iter(killed.items()))
        return f"rank {rank} of {len(self.codes)} was ended by {signal.Signals(number).name}"

    def error(self, out: Path, processes: int) -> LostError:
        """The error that ends a training."""
        memory = any(code == -signal.SIGKILL for code in self.codes)
        hint = "if the system did it for want of memory: a smaller --batch-size, fewer --workers, or --recompute; " * memory
        fix = f"{hint}then go on with the run: onestage train --resume {quote(str(out))} --processes {processes}"
        return LostError(self.reason, where=f"{counted(processes, 'process')}; all have ended", fix=fix)


class _Group:
    """Processes that run together."""

    def __init__(self) -> None:
        self._all: list[subprocess.Popen[bytes]] = []
        self._asked = 0
        self._end = float("inf")
        self._ended_here: set[int] = set()
        self._first: list[int] = []  # the exit codes of those that have failed first

    @classmethod
    def run(cls, count: int, arguments: Sequence[str], attempt: int) -> Ends:
        """Start ``count`` processes, and wait for the end of all. However this ends, none is left."""
        with temporary_folder(Path(gettempdir()) / "onestage") as folder:
            common = {**_common(count), RESTARTS: str(attempt), TOLD: str(folder / "told"), PARENT: str(os.getpid())}
            group = cls()
            with group._hears(SIGNALS):
                try:
                    for rank in range(count):
                        group._all.append(_started(arguments, {**common, **_place(rank, count)}))
                        if group._asked:  # by a signal while they start: this one has not heard it
                            group._all[-1].send_signal(signal.SIGTERM)
                    return group._wait()
                finally:
                    group._kill()

    def _wait(self) -> Ends:
        """Look at the processes until all have ended. Those that do not end in time, when one has failed, are ended."""
        while None in (codes := [process.poll() for process in self._all]):
            self._note(codes)
            if self._first:
                self._end = min(self._end, time.monotonic() + GRACE)
            if time.monotonic() > self._end:
                self._kill()
            time.sleep(LOOK)
        self._note([process.returncode for process in self._all if process.pid not in self._ended_here])
        found = [0 if process.pid in self._ended_here else process.returncode for process in self._all]
        stopped = (self._asked > 0 and any(found)) or 130 in found
        died = min(self._first, default=0) < 0 and all(code < 0 or code in (1, LOST) for code in self._first)
        return Ends(tuple(found), stopped, died)

    def _note(self, codes: Sequence[int | None]) -> None:
        """Keep the codes of the processes that have failed, if these are the first ones."""
        self._first = self._first or [code for code in codes if code]

    def _kill(self) -> None:
        for process in self._all:
            if process.poll() is None:
                self._ended_here.add(process.pid)
                process.kill()
                process.wait()

    @contextmanager
    def _hears(self, numbers: Sequence[signal.Signals]) -> Iterator[None]:
        """Inside, signals go on to all processes: the first one lets them save and end, the second one end at once."""

        def hand_on(number: int, frame: object) -> None:
            self._asked += 1
            if self._asked > 1:
                self._end = min(self._end, time.monotonic() + GRACE)
            for process in self._all:
                with suppress(ProcessLookupError):
                    process.send_signal(number)

        heard = [number for number in numbers if signal.getsignal(number) != signal.SIG_IGN]
        before = {number: signal.signal(number, hand_on) for number in heard}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _started(arguments: Sequence[str], variables: dict[str, str]) -> subprocess.Popen[bytes]:
    """One process, with the command line of this one. No signal of the terminal reaches it. It imports from where this one
    does: not from the working folder, which may be anybody's.
    """
    command = [sys.executable, "-P", "-m", "onestage", *arguments]
    environment = {**variables, "PYTHONPATH": os.pathsep.join(str(Path(place).absolute()) for place in sys.path)}
    return subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, start_new_session=True)


def _common(count: int) -> dict[str, str]:
    """The environment of all processes: a meeting place on this machine, and the cores in equal parts."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    usual = {"OMP_NUM_THREADS": str(max(1, cores // count))}
    if Path("/sys/class/net/lo").exists():
        usual["GLOO_SOCKET_IFNAME"] = "lo"  # whatever the name of this machine stands for
    return {**usual, **os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}


def _place(rank: int, count: int) -> dict[str, str]:
    return dict(zip(VARIABLES[:3], (str(rank), str(count), str(rank)), strict=True))
