"""Trainings small enough for tests: the built-in pictures at 64 x 64, TinySSD, a few steps; here or in other processes.

Other processes are forked from a server that has imported everything and run nothing, so they start in no time and share no
threads or random numbers with the tests.
"""

import json
import multiprocessing
import os
import runpy
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from itertools import zip_longest
from multiprocessing import forkserver
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from safetensors.torch import load_file

from onestage.creation import build
from onestage.data.synthetic import MemoryDataset, SyntheticConfig, generate, synthetic_dataset
from onestage.data.writers import write_coco
from onestage.files import LAST
from onestage.model.detector import Detector
from onestage.processes import VARIABLES, Distributed
from onestage.training import folder as run_folder
from onestage.training.config import TrainConfig
from onestage.training.loop import Training, TrainResult, resume, train
from onestage.zoo.table import recipe

PICTURES = SyntheticConfig(classes=("ball", "cube", "star"), size=(64, 64), objects=(1, 2), empty=0.1)
CONFIG = TrainConfig(epochs=3, batch_size=4, workers=0, device="cpu", warmup=2)
"""On 12 pictures: 3 steps an epoch."""

_LAYERS = [{"kind": "FoldedLayer", "channels": 8 << i, "source": i - 1, "kernel": 3, "stride": 2} for i in range(4)]
PLAIN = {"backbone": {"kind": "FoldedBackbone", "layers": _LAYERS, "maps": [2, 3]}, "anchors": "SSDAnchors"}
"""Changes that make a tiny network of plain convolutions: without batch norm, sums in another order stay within rounding."""

_forked = multiprocessing.get_context("forkserver")


@cache
def pictures(count: int, first: int = 0) -> MemoryDataset:
    """Pictures first .. first + count - 1, in memory."""
    return synthetic_dataset(replace(PICTURES, count=count), first)


def write_pictures(root: Path, *, train: int = 12, val: int = 3) -> Path:
    """The same on disk, as COCO with a train and, if any, a val split."""
    write_coco((generate(i, PICTURES) for i in range(train)), root, classes=PICTURES.classes, split="train")
    if val:
        samples = (generate(1000 + i, PICTURES) for i in range(val))
        write_coco(samples, root, classes=PICTURES.classes, split="val")
    return root


def detector(
    name: str = "tinyssd",
    *,
    size: tuple[int, int] = (64, 64),
    seed: int = 0,
    changes: Mapping[str, Any] | None = None,
    **options: Any,
) -> Detector:
    """Fresh, for the classes of the pictures; the same seed gives the same weights. changes: of the recipe's config."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return build(recipe(name, PICTURES.classes, size=size, **options).replace(changes or {}))


def run(data: Path, out: Path, config: TrainConfig = CONFIG, changes: Mapping[str, Any] | None = None) -> TrainResult:
    return train(detector(changes=changes), data, out=out, config=config)


def before_step(number: int, action: Callable[[Training], object]) -> Callable[[Training, Any], None]:
    """``Training._step`` that calls ``action(training)`` first, as that step (from 1) begins."""
    inner = Training._step

    def step(training: Training, batch: Any) -> None:
        if training.step + 1 == number:
            action(training)
        inner(training, batch)

    return step


def ask_to_stop(training: Training) -> None:
    """What a signal does: the training stops after its step."""
    training.stop.asked = True


def run_stopped(data: Path, out: Path, config: TrainConfig, *, step: int) -> None:
    """A run that is stopped after that step (from 1)."""
    with patch.object(Training, "_step", before_step(step, ask_to_stop)):
        assert run(data, out, config).interrupted


def run_divided_by_own(data: Path, out: Path, config: TrainConfig, changes: Mapping[str, Any]) -> None:
    """A mistake that tests should notice: each process divides its losses by the positives of its own pictures."""
    summed = Distributed.all_reduce_sum

    def own(self: Distributed, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.detach() * self.world if tensor.ndim == 0 else summed(self, tensor)  # the divisor alone is a scalar

    with patch.object(Distributed, "all_reduce_sum", own):
        run(data, out, config, changes)


def run_with_signals(data: Path, out: Path, step: int, *numbers: int) -> None:
    """Train, and get these signals as that step (from 1) begins. The exit code is 0 if the run was saved, 130 if it was
    stopped at once.
    """
    before, inner = signal_handlers(), Training._step

    def signalled(training: Training, batch: Any) -> None:
        if training.step + 1 == step:
            for number in numbers:
                signal_here(number)
        inner(training, batch)

    with patch.object(Training, "_step", signalled), patch.object(run_folder, "plot_training_curves"):
        try:
            assert run(data, out).interrupted
            code = 0
        except KeyboardInterrupt:
            code = 130
    assert signal_handlers() == before
    sys.exit(code)


def go_on(folder: Path) -> TrainResult:
    return resume(folder)


def weights(folder: Path, name: str = LAST) -> dict[str, torch.Tensor]:
    return load_file(folder / name)


def same_bits(a: Path, b: Path) -> bool:
    """Whether two runs ended with the same model, and measured the same on their way. Raise AssertionError, which says what
    differs, if not.
    """
    lines = [] if (a / LAST).read_bytes() == (b / LAST).read_bytes() else [f"{LAST}: {line}" for line in _unlike(a, b)]
    rows = [metrics(folder) for folder in (a, b)]
    for number, (one, other) in enumerate(zip_longest(*rows, fillvalue={}), 1):
        names = [name for name in one | other if one.get(name) != other.get(name)]
        lines += [f"row {number}: {name} {one.get(name)}, {other.get(name)}" for name in names]
    assert not lines, "\n".join([f"{a} is not {b}:", *lines])
    return True


def _unlike(a: Path, b: Path) -> list[str]:
    """Which tensors differ between two last models, and by how much; or that it is what stands beside them."""
    one, other = weights(a), weights(b)
    if names := one.keys() ^ other.keys():
        return [f"only one has {', '.join(sorted(names))}"]
    pairs = {name: (tensor.double(), other[name].double()) for name, tensor in one.items()}
    far = [f"{name} by up to {(x - y).abs().max():.3g}" for name, (x, y) in pairs.items() if not torch.equal(x, y)]
    return far or ["the metadata"]


def finished(result: TrainResult) -> Path:
    """The folder of a training that nothing has stopped before its end."""
    assert not result.interrupted, f"{result.folder}: a signal, or a test, has stopped this training"
    return result.folder


def metrics(folder: Path) -> list[dict[str, float]]:
    """A run's rows, without what depends on the clock; none before the first one."""
    path = folder / "metrics.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return [{k: v for k, v in row.items() if k not in ("seconds", "images_per_s", "waiting")} for row in rows]


def serve() -> None:
    """Start the server of which processes are forked, if it does not run."""
    _forked.set_forkserver_preload(["small_runs"])
    with patch.dict(os.environ, PYTHONPATH=os.pathsep.join(sys.path)):
        forkserver.ensure_running()  # it takes sys.path from there; without it, every process would import everything


def start(function: Callable[..., Any], *arguments: Any, log: Path | None = None, **variables: str) -> BaseProcess:
    """Call ``function`` in another process; what it prints goes to ``log``. variables: of its environment."""
    serve()
    threads = torch.get_num_threads()  # sums are split among the threads: the same number, the same bits
    process = _forked.Process(target=_begin, args=(function, arguments, log, variables, threads))
    process.start()
    return process


def _begin(
    function: Callable[..., Any], arguments: tuple[Any, ...], log: Path | None, variables: dict[str, str], threads: int
) -> None:
    os.environ.update(variables)
    multiprocessing.set_start_method("fork", force=True)  # for those that load pictures: as in a program started by hand
    os.setsid()  # a process group of its own, as under torchrun
    signal.signal(signal.SIGINT, signal.default_int_handler)  # the server ignores it, and so would we
    torch.set_num_threads(threads)
    if log is not None:
        file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(file, 1)
        os.dup2(file, 2)
    function(*arguments)


def run_program(path: str, *arguments: str) -> None:
    """Run a file of Python as a program."""
    with patch.object(sys, "argv", [path, *arguments]):
        runpy.run_path(path, run_name="__main__")


def signal_here(number: int) -> None:
    """Send a signal to this process, which must be one that a test began: no test risks the process that runs all tests."""
    assert multiprocessing.parent_process() is not None, "this process runs the tests; let start() begin another one"
    os.kill(os.getpid(), number)


def signal_handlers() -> dict[str, object]:
    """What Ctrl-C and SIGTERM call in this process."""
    return {number.name: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}


def send(number: int, process: BaseProcess) -> None:
    """Send a signal to a process that runs or ran. (To os.kill, process 0 means all processes of the group of the tests.)"""
    assert process.pid
    os.kill(process.pid, number)


def free_port() -> int:
    """A port of this machine that no program listens at."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


@contextmanager
def together(
    function: Callable[..., Any], *arguments: Any, log: Path | None = None, world: int = 2
) -> Iterator[list[BaseProcess]]:
    """The same call in ``world`` processes of one group, as torchrun would start them; at the end all must have returned."""
    port = free_port()
    launched = [
        zip(VARIABLES, (str(rank), str(world), str(rank), "127.0.0.1", str(port)), strict=True) for rank in range(world)
    ]
    processes = [start(function, *arguments, log=log, **dict(variables)) for variables in launched]
    try:
        yield processes
        for process in processes:
            process.join(240)
        assert [process.exitcode for process in processes] == [0] * world, log and log.read_text()
    finally:
        for process in processes:
            process.kill()


def wait_for_step(folder: Path, step: int, process: BaseProcess) -> None:
    """Until the run has a whole checkpoint of that step or a later one."""
    deadline = time.monotonic() + 240
    while process.is_alive() and time.monotonic() < deadline:
        if any(int(state.parent.name.split("-")[1]) >= step for state in folder.glob("checkpoints/step-*/state.json")):
            return
        time.sleep(0.002)
    raise AssertionError(f"no checkpoint of step {step}; the process ended with {process.exitcode}")
