"""Several processes that train together: plain ``torch.distributed``, started by torchrun.

    onestage train DATA --processes 2

    export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1
    torchrun --nproc-per-node 2 --max-restarts 3 --no-python onestage train DATA --model NAME --out runs/NAME

After a crash, both start the same command again. The command line then resumes the run in its --out folder.

torchrun starts every process with RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT. Other launchers that set the
same variables work as well. Without these variables, or with one process, everything here does nothing and costs nothing.

Set TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 in torchrun's environment: it makes --max-restarts reliable. Without it 5 of 8
restarts failed, with it none of 6 (torch 2.15, gloo).
"""

import ctypes
import hashlib
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from types import TracebackType
from typing import Self, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from onestage.errors import ConfigError, LostError, OnestageError, shortened, warn_outside

VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
"""The variables that a launcher must set, all or none."""

RESTARTS = "TORCHELASTIC_RESTART_COUNT"
"""How often torchrun has started this process again."""

JOB = "TORCHELASTIC_RUN_ID"
"""The name of torchrun's job (--rdzv-id), the same for all its machines and starts; "none" if it has no name."""

TOLD = "ONESTAGE_TOLD"
"""Where ``onestage train --processes`` has started this process: the file that the first one makes that tells an error."""

LOST = 75
"""The exit code there of a process that has lost another one."""

TO_CLAIM = 3.0
"""Seconds to ask whether another process has told an error already."""

_PR_SET_PDEATHSIG = 1
"""Linux, sys/prctl.h."""

SILENT = 60.0
"""Seconds of waiting for other processes after which a process says so."""

T = TypeVar("T")


@dataclass(frozen=True)
class Launch:
    """The data that the launcher gave to this process: it is number ``rank`` of ``world``, and number ``local_rank`` on its
    machine.

    restarts: how often the launcher has started the processes again after a crash. A machine that has come later counts from 0.
    job: a checksum of the name of the launcher's job and of this command; None if it has no name. Without a launcher, the
    process is alone.
    """

    rank: int = 0
    world: int = 1
    local_rank: int = 0
    restarts: int = 0
    job: str | None = None

    @property
    def is_main(self) -> bool:
        """Whether this is the one process that writes files and talks."""
        return self.rank == 0

    @staticmethod
    def from_environment() -> "Launch":
        """Read the launcher's variables. Raise ConfigError if they are incomplete or impossible."""
        if "RANK" not in os.environ and "WORLD_SIZE" not in os.environ:
            return Launch()
        missing = [name for name in VARIABLES if not os.environ.get(name)]
        if missing:
            raise ConfigError(
                "the launcher of this distributed training did not set all its variables",
                got=f"no {', '.join(missing)}",
                expected=", ".join(VARIABLES),
                fix="start it with torchrun, or unset RANK and WORLD_SIZE to train in one process",
            )
        rank, world, local_rank = (_number(os.environ[name]) for name in VARIABLES[:3])
        if not (0 <= rank < world and 0 <= local_rank < world):
            raise ConfigError(
                "the launcher's variables are impossible",
                got=", ".join(f"{name}={os.environ[name]}" for name in VARIABLES[:3]),
                expected="whole numbers, RANK and LOCAL_RANK below WORLD_SIZE",
            )
        if world > 1 and not 0 < _number(os.environ["MASTER_PORT"]) < 2**16:
            what, got = "the launcher's MASTER_PORT is no port", os.environ["MASTER_PORT"]
            raise ConfigError(what, got=got, expected="a whole number from 1 to 65535")
        return Launch(rank, world, local_rank, max(0, _number(os.environ.get(RESTARTS, "0"))), _job())


def _job() -> str | None:
    """The name of the launcher's job and the words of this command, as one checksum; None if the job has no name."""
    name = os.environ.get(JOB, "none")
    return None if name in ("", "none") else hashlib.sha256(repr([name, *sys.argv]).encode(errors="replace")).hexdigest()


def _number(text: str) -> int:
    """A whole number of 0 or more; -1 for any other text."""
    return int(text) if text.isdecimal() else -1


@dataclass(frozen=True)
class Distributed:
    """This process among all processes of the training: number ``rank`` of ``world``, number ``local_rank`` on its machine.

    timeout: seconds that an exchange waits for another process. joined: whether this joined the group, and not a block around
    it. A context manager: leaving it leaves the group that it joined. An error that came from a lost process leaves it as a
    LostError.
    """

    rank: int
    world: int
    local_rank: int
    device: torch.device
    timeout: float = 600.0
    joined: bool = True
    _alarm: "_Alarm | None" = field(default=None, repr=False, compare=False)

    @property
    def is_main(self) -> bool:
        """Whether this is the one process that writes files and talks."""
        return self.rank == 0

    @contextmanager
    def patience(self) -> Iterator[None]:
        """Warn, once, if what happens inside takes more than SILENT seconds: it may wait for a process that has stopped."""
        if self._alarm is None:
            yield
            return
        note = f"rank {self.rank} of {self.world} has worked at one step or exchange for {SILENT:.0f} s so far"
        end = f"If another process of this training has stopped, the run ends after {self.timeout:.0f} s of silence"
        with self._alarm.set(f"{note}. {end}"):
            yield

    def all_reduce_sum(self, tensor: Tensor) -> Tensor:
        """The sum of the tensors of all processes, the same in each. No gradient flows through it.

        tensor: (...,), of any shape and dtype, the same in each process. The sum has that shape and dtype too.
        """
        total = tensor.detach().clone()
        if self.world > 1:
            with self.patience():
                dist.all_reduce(total)
        return total

    def gather_objects(self, value: T) -> list[T]:
        """The values of all processes, in the order of ranks, in each process."""
        values = [value] * self.world
        if self.world > 1:
            with self.patience():
                dist.all_gather_object(values, value)
        return values

    def share(self, tensors: Iterable[Tensor]) -> None:
        """Overwrite the tensors of every process, each (...,) of any shape, with those of the first process."""
        if self.world == 1:
            return
        kinds: dict[tuple[torch.dtype, torch.device], list[Tensor]] = {}
        for tensor in tensors:
            kinds.setdefault((tensor.dtype, tensor.device), []).append(tensor.detach())
        with self.patience():
            for kind in kinds.values():  # together: an exchange takes as long for one number as for thousands
                flat = torch.cat([tensor.reshape(-1) for tensor in kind])
                dist.broadcast(flat, src=0)
                for tensor, part in zip(kind, flat.split([tensor.numel() for tensor in kind]), strict=True):
                    tensor.copy_(part.view(tensor.shape))

    def parallel(self, model: nn.Module, *, spare_parts: bool) -> nn.Module:
        """The model with its gradients averaged over the processes.

        spare_parts: some parameters may take no part in the output, such as the last fusion of timm's HRNets if not all maps
        are used. Each step then looks for them; without this setting, torch refuses such parameters.
        """
        if self.world == 1:
            return model
        devices = [self.device] if self.device.type == "cuda" else None
        return DistributedDataParallel(model, device_ids=devices, find_unused_parameters=spare_parts)

    def on_main(self, action: Callable[[], T]) -> T:
        """Do it in the first process while the others wait. All return its result, or raise the OnestageError it raised."""
        outcome: T | OnestageError | None = None
        if self.is_main:
            try:
                outcome = action()
            except OnestageError as raised:
                outcome = raised
        outcome = self.gather_objects(outcome)[0]
        if isinstance(outcome, OnestageError):
            raise outcome
        return cast(T, outcome)

    def barrier(self) -> None:
        """Wait until every process has come here."""
        if self.world > 1:
            with self.patience():
                dist.barrier(device_ids=[self.local_rank] if self.device.type == "cuda" else None)

    def close(self) -> None:
        """Leave the group. A process can join another group only afterwards."""
        if self._alarm is not None:
            self._alarm.close()
        if self.world > 1 and self.joined and dist.is_initialized():
            dist.destroy_process_group()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        lost = _lost(error) if self.world > 1 and isinstance(error, RuntimeError) and _is_of_group(error) else None
        told = lost or error
        if self.world > 1 and isinstance(told, OnestageError) and told.told is None:
            told.told = not _is_first_to_tell()  # while the group is still joined
        self.close()
        if lost is not None:
            raise lost from error


class _Alarm:
    """A thread that warns when a block of code takes long. The code itself cannot: it may wait in C++. ``close`` ends it."""

    def __init__(self) -> None:
        self._changed, self._closed = threading.Condition(), False
        self._block: object | None = None  # what runs now
        self._note = ""
        threading.Thread(target=self._watch, daemon=True).start()

    @contextmanager
    def set(self, note: str) -> Iterator[None]:
        """Inside, the alarm is on. A block inside another one changes nothing."""
        if self._block is not None:
            yield
            return
        self._turn(object(), note)
        try:
            yield
        finally:
            self._turn(None)

    def _turn(self, block: object | None, note: str = "") -> None:
        with self._changed:
            self._block, self._note = block, note
            self._changed.notify()

    def close(self) -> None:
        """End the thread."""
        self._closed = True
        self._turn(None)

    def _watch(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._block is not None or self._closed)
                if self._closed:
                    return
                block, note = self._block, self._note
                ended = self._changed.wait_for(lambda: self._block is not block, SILENT)  # noqa: B023
            if not ended:
                warn_outside([note])  # not under the lock: standard error may block, and the work goes on
                with self._changed:
                    self._changed.wait_for(lambda: self._block is not block)  # noqa: B023


_BROKEN = re.compile(
    r"\[\S*gloo/\S+:\d+\]|\bNCCL (?:error|communicator)|\bpair closure\b|\bConnection (?:closed|reset) by peer\b", re.IGNORECASE
)
"""What errors of an exchange say. Those of gloo are plain RuntimeErrors, and begin with the place in its source files."""


def _is_of_group(error: RuntimeError) -> bool:
    """Whether the exchange with the other processes has failed."""
    return isinstance(error, dist.DistError) or _BROKEN.search(str(error)) is not None


def _lost(error: RuntimeError) -> LostError:
    first_line = str(error).partition("\n")[0]
    reason = first_line.rpartition(".cc:")[2].partition("] ")[2] or first_line  # what follows gloo's file and line
    reason = reason.partition(". This is")[0]
    return LostError(
        "another process of this training has ended or does not answer",
        where=f"rank {os.environ.get('RANK')} of {os.environ.get('WORLD_SIZE')} noticed it",
        got=reason,
        fix="see what it said last; then go on with the run: onestage train --resume RUN",
    )


def is_told(error: OnestageError) -> bool:
    """Whether another process of this training has told this error, or the one that led to it."""
    if error.told is None:
        error.told = TOLD in os.environ and not _is_first_to_tell()
    return error.told


def _is_first_to_tell() -> bool:
    """Whether no other process of this training has told an error; from now on, this one has. If it cannot be known, it is."""
    if path := os.environ.get(TOLD):
        try:
            os.close(os.open(path, os.O_CREAT | os.O_EXCL))
        except OSError as error:
            return not isinstance(error, FileExistsError)
        return True
    counts: list[int] = []

    def count() -> None:
        with suppress(Exception):  # the process or the machine with the store has ended
            store = dist.distributed_c10d._get_default_store()
            counts.append(store.add("onestage/told", 1))

    asking = threading.Thread(target=count, daemon=True)
    asking.start()
    asking.join(TO_CLAIM)
    return counts in ([], [1])


def end_with_parent() -> None:
    """On Linux the kernel ends this process with its parent, even if it is stopped or in the middle of a task."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def leave(code: int) -> None:
    """End this process at once if it is one of several. What is left of a broken exchange may wait for lost processes."""
    if Launch.from_environment().world > 1:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def init(device: str | None = None, *, timeout: float = 600.0) -> Distributed:
    """Join the other processes of this training, if there are any. Inside a block that has joined them, they stay joined.

    device: "cpu" or "cuda"; by default cuda if there is one. Each process takes the GPU of its local rank. timeout: seconds to
    wait for another process, here and at every exchange. Raise ConfigError if the device cannot be used, if the launcher's
    variables are incomplete or ask for more GPUs than the machine has, or if its port is taken; LostError if another process
    does not come.
    """
    launch = Launch.from_environment()
    if launch.world == 1:
        return Distributed(rank=0, world=1, local_rank=0, device=choose_device(device))
    wanted = choose_device(_of_rank(device, launch))
    on_gpu = wanted.type == "cuda"
    if on_gpu:
        torch.cuda.set_device(wanted)
    # gloo beside nccl: objects and plain numbers are gathered without a copy to the GPU
    joined = not dist.is_initialized()
    try:
        if joined:
            dist.init_process_group("cpu:gloo,cuda:nccl" if on_gpu else "gloo", timeout=timedelta(seconds=timeout))
    except RuntimeError as error:
        raise (_port_taken() if "EADDRINUSE" in str(error) else _lost(error)) from error
    return Distributed(launch.rank, launch.world, launch.local_rank, wanted, timeout, joined, _Alarm())


def _port_taken() -> OnestageError:
    """The error of a port that another program has. ``--processes`` finds another one when it starts the processes again."""
    what, got = "another program has the port of this training", os.environ["MASTER_PORT"]
    if TOLD in os.environ:
        return LostError(what, got=got, fix="start the command again")
    return ConfigError(what, got=got, fix="torchrun --standalone, or another --master-port")


def _of_rank(name: str | None, launch: Launch) -> str:
    """The name of the device of one of several processes, found before anything is put on a GPU: each takes memory of a GPU
    as soon as it looks at it. Raise ConfigError if a single GPU is named, or if the machine has too few.
    """
    kind, _, number = (name or ("cuda" if torch.cuda.is_available() else "cpu")).partition(":")
    if kind != "cuda":
        return name or kind
    if number:
        what, expected = "several processes cannot share one GPU", "cuda: each process takes the GPU of its local rank"
        raise ConfigError(what, got=name, expected=expected, fix="leave the device out, or choose GPUs: CUDA_VISIBLE_DEVICES")
    if 0 < (count := torch.cuda.device_count()) <= launch.local_rank:
        raise ConfigError(
            "more processes on this machine than it has GPUs",
            got=f"LOCAL_RANK={launch.local_rank} with {count} GPUs",
            fix="start fewer (--processes, --nproc-per-node), or train on the CPU with device=cpu",
        )
    return f"cuda:{launch.local_rank}"


def choose_device(name: str | None) -> torch.device:
    """The device of that name, or the best there is. Raise ConfigError if it cannot be used."""
    expected, fix = "cpu, cuda or cuda:1", "leave the device out: a GPU is used if there is one"
    try:
        device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
    except RuntimeError as error:  # its text lists devices that nothing here uses
        got = f"{name} (did you mean cuda?)" if str(name).lower().startswith("gpu") else name
        raise ConfigError("this device cannot be used", got=got, expected=expected, fix=fix) from error
    try:
        if device.type == "meta":
            raise RuntimeError("it computes nothing")
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:  # torch asserts that it was built for CUDA
        got = f"{name} ({shortened(str(error).partition('. ')[0], 120)})"
        raise ConfigError("this device cannot be used", got=got, expected=expected, fix=fix) from error
    return device
