"""Processes of this machine that do shards, one at a time each.

A process that dies is replaced, and its shard is done again from the beginning: it has left nothing. A process that is silent
for too long is ended, and counts as dead. All end with this process, however it ends.

None is a fork of this process (server.py).
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import NamedTuple, Protocol, Self

import torch

from onestage.data.workers import SILENT, TIMEOUT, end_of, mute_libraries
from onestage.errors import LostError, OnestageError, warn_outside
from onestage.processes import end_with_parent
from onestage.scale import server
from onestage.scale.work import Advance, Done, Tell

TRIES = 50
"""Processes that may die of one shard: those that work at it give up earlier, unless they die before."""
_TICK = 1.0
"""Seconds between two looks at silent processes."""
NOTHING = Advance(0, 0)


class Job(Protocol):
    """What a process does with a shard. It tells how it advances."""

    def __call__(self, shard: int, tell: Tell) -> Done:
        """Do a shard."""
        ...


class _Fault(NamedTuple):
    """An error of the program in a process, with its traceback."""

    text: str


Word = Advance | Done | OnestageError | _Fault
Begin = Callable[[int], Job]
"""Called in a process, with its number, before its first shard."""


@dataclass(eq=False)
class _Member:
    """A process and the end of its pipe. shard: that it works at; silence: seconds since it said something; said: what it has
    told of that shard.
    """

    number: int
    process: BaseProcess
    pipe: Connection
    shard: int | None = None
    silence: float = 0.0
    said: Advance = NOTHING
    warned: bool = False


class Team:
    """A number of processes, as a context manager. begin: as ``Begin``; it must be picklable.

    timeout: seconds of silence after which a process is given up.
    """

    def __init__(self, begin: Begin, count: int, *, timeout: float = TIMEOUT) -> None:
        self._context = server.context()
        self.begin, self.count, self.timeout = begin, count, timeout
        self._members: list[_Member] = []
        self._deaths: dict[int, int] = {}
        self._left: deque[int] = deque()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """End all processes now."""
        for member in self._members:
            _kill(member.process)
        for member in self._members:
            member.process.join(_TICK)  # one that waits for a dead disk cannot be killed, and is left alone
            member.pipe.close()
        self._members.clear()

    def run(self, shards: Sequence[int]) -> Iterator[Advance | Done]:
        """Do shards. Yield how they advance, and each that is done; an Advance below 0 takes back what died.

        Raise LostError if a shard ends several processes, or what a process raises.
        """
        self._left = deque(shards)
        while self._left or any(member.shard is not None for member in self._members):
            self._staff()
            before = time.monotonic()
            wait([member.pipe for member in self._members], timeout=_TICK)
            waited = min(time.monotonic() - before, 2 * _TICK)  # seconds in which this process itself was stopped do not count
            for member in [*self._members]:
                yield from self._heard(member)
                member.silence += waited
                self._look_at(member)

    def _staff(self) -> None:
        """Give work to those without, and start processes as long as there is work for them."""
        for member in self._members:
            if member.shard is None and self._left:
                self._give(member)
        while self._left and len(self._members) < self.count:
            number = min({*range(self.count)} - {member.number for member in self._members})
            ours, theirs = self._context.Pipe()
            arguments = (self.begin, number, theirs, dict(os.environ))
            process = self._context.Process(target=_work, args=arguments, daemon=True)  # type: ignore[attr-defined]
            try:
                server.start(self._context, process)
            except (OSError, EOFError) as error:
                ours.close()
                what, fix = "no process can be started for this batch", "try fewer --workers"
                raise LostError(what, got=getattr(error, "strerror", None) or error, fix=fix) from error
            finally:
                theirs.close()
            member = _Member(number, process, ours)
            self._members.append(member)
            self._give(member)

    def _give(self, member: _Member) -> None:
        member.shard, member.silence, member.said, member.warned = self._left.popleft(), 0.0, NOTHING, False
        with suppress(OSError):  # it has died, which is seen next
            member.pipe.send(member.shard)

    def _heard(self, member: _Member) -> Iterator[Advance | Done]:
        """What a process has said, and its death."""
        try:
            while member.pipe.poll():
                word: Word = member.pipe.recv()
                member.silence = 0.0
                if isinstance(word, _Fault):
                    raise RuntimeError(word.text)
                if isinstance(word, OnestageError):
                    raise word
                if isinstance(word, Done):
                    member.shard = None
                else:
                    member.said = Advance(*(a + b for a, b in zip(member.said, word, strict=True)))
                yield word
        except (EOFError, ConnectionError):  # it has ended, and all that it said before is read
            _kill(member.process)
            member.process.join(_TICK)
            yield from self._lost(member)

    def _look_at(self, member: _Member) -> None:
        """Warn of a silent process, and end it in the end."""
        if member.shard is None:
            return
        if member.silence >= self.timeout:
            _kill(member.process)
        elif member.silence >= SILENT and not member.warned:
            member.warned = True
            note = f"the process {member.process.pid}, which does shard {member.shard}, has said nothing"
            warn_outside([f"{note} for {member.silence:.0f} s"])

    def _lost(self, member: _Member) -> Iterator[Advance]:
        """Put the shard of a dead process back, to be the next one."""
        self._members.remove(member)
        member.pipe.close()
        shard = member.shard
        if shard is None:
            return
        end = end_of(member.process.exitcode)
        self._deaths[shard] = self._deaths.get(shard, 0) + 1
        if self._deaths[shard] >= TRIES:
            what, fix = "a process died, and so did those that took its place", "often too little memory: try fewer --workers"
            raise LostError(what, where=f"shard {shard}", got=f"the last one {end}", fix=f"{fix}; all other shards are kept")
        self._left.appendleft(shard)
        if member.process.exitcode != -signal.SIGTERM:  # which is sent to all processes of a batch at once
            warn_outside([f"the process {member.process.pid}, which did shard {shard}, {end}; another one takes its place"])
        if member.said.pictures:
            yield Advance(-member.said.pictures, -member.said.failures)


def _kill(process: BaseProcess) -> None:
    """End a process, unless it has ended: the server has buried it then, and another one may have its number."""
    if process.is_alive():
        process.kill()


# --- in the process -------------------------------------------------------------------------------------------------------


def _work(begin: Begin, number: int, pipe: Connection, surroundings: dict[str, str]) -> None:
    """The life of a process. It ends when its parent closes the pipe or ends. surroundings: the variables of its environment:
    those of the server may be old.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends Ctrl-C to all; the parent decides what to do
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.environ.clear()
    os.environ.update(surroundings)
    parent = multiprocessing.parent_process()
    assert parent is not None
    if os.getppid() != parent.pid:
        end_with_parent()  # with the server: without it, the parent could neither end this process nor see its end
        if os.getppid() != server.IMPORTED_IN != os.getpid():  # it has ended already
            os._exit(1)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    mute_libraries()
    torch.set_num_threads(1)  # results are then the same for any number of processes
    try:
        job = begin(number)
        while True:
            done = job(pipe.recv(), pipe.send)
            pipe.send(done)
    except (EOFError, ConnectionError):
        return
    except OnestageError as error:
        _say(pipe, error)
    except Exception as error:
        _say(pipe, _Fault(f"{type(error).__name__} in a process of a batch: {error}\n{traceback.format_exc()}"))


def _end_with(parent: BaseProcess) -> None:
    """End this process with the one that has started it, even in the middle of a shard."""
    parent.join()
    os._exit(1)


def _say(pipe: Connection, word: Word) -> None:
    with suppress(OSError):
        pipe.send(word)
        pipe.recv()  # wait: the parent ends this process when it has heard
