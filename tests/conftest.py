"""Fixtures shared by all tests, and one thread for each process that runs them.

Two processes with a thread each are faster than one with two, and two with two each wait for one another. Programs that tests
start inherit it.
"""

import atexit
import contextlib
import gc
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import settings

from onestage.training.signals import StopSignal

os.environ["OMP_NUM_THREADS"] = "1"  # torch reads it when it is first imported, which is after this
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # or each process compiles all tests, and each of many programs all our files
sys.dont_write_bytecode = False

settings.register_profile("no deadline", deadline=None)  # a busy machine is no reason to fail
settings.load_profile("no deadline")

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real pictures, labels and weights that stands beside a developer's checkout; skips where it is absent."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"no shared data beside the checkout (looked for {SHARED_DATA.parent.name}/{SHARED_DATA.name})")
    return SHARED_DATA


SHARED = "ONESTAGE_TESTS_SHARED"
"""Where processes of one test run share what takes long to make (exported_files.py)."""


def pytest_configure(config: pytest.Config) -> None:
    """Make the folder that the processes of pytest-xdist share: they inherit its name."""
    if not hasattr(config, "workerinput"):
        os.environ[SHARED] = tempfile.mkdtemp(prefix="onestage-tests-")


def pytest_unconfigure(config: pytest.Config) -> None:
    """Remove it."""
    if not hasattr(config, "workerinput"):
        shutil.rmtree(os.environ.pop(SHARED), ignore_errors=True)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Let nobody look for garbage in what is imported and collected here: it stays, and to look through it takes a tenth of the
    time of a run.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        atexit.register(gc.unfreeze)  # packages that count what they leave behind would complain
        gc.enable()


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object) -> None:
    """Say how a process of pytest-xdist ended that died: xdist says only that it did."""
    if error and (process := getattr(node.gateway._io, "popen", None)) is not None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            code = process.wait(20)
            how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
            node.config.get_terminal_writer().line(f"\n{node.gateway.id} (process {process.pid}) ended with {how}")


@pytest.fixture(autouse=True, scope="session")
def signals_end_the_tests() -> Iterator[None]:
    """A signal to the process that runs the tests, such as that of ``timeout``, ends them. A training that they run would take
    it for the request to stop, and they would take half a training for a whole one. Where Ctrl-C is ignored, as in the
    background of a shell script, tests run as they do where it is not.
    """

    def interrupt(_: StopSignal, number: int, frame: object) -> None:
        raise KeyboardInterrupt(f"the tests got {signal.Signals(number).name}")

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    with patch.object(StopSignal, "_handle", interrupt):
        yield
    signal.signal(signal.SIGINT, before)


def _surroundings() -> dict[str, object]:
    """What a test may change for the tests after it, without knowing."""
    found: dict[str, object] = {number.name: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    found["folder"] = Path.cwd()
    if (torch := sys.modules.get("torch")) is not None:  # importing it here would take seconds from tests that need none
        found |= {"type": torch.get_default_dtype(), "gradients": torch.is_grad_enabled()}
    return found


@pytest.fixture(autouse=True)
def surroundings_stay() -> Iterator[None]:
    """A test leaves the process as it found it: what it leaves behind makes another test fail, and seldom the next one."""
    before = _surroundings()
    yield
    after = _surroundings()
    changed = {name: (value, after[name]) for name, value in before.items() if after[name] != value}
    assert not changed, f"the test left other surroundings, (before, after): {changed}"


@pytest.fixture
def cells_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let ``onestage benchmark`` measure in the process of the test: a new one imports torch for seconds. Peaks are made up."""
    from onestage.cli import benchmark_run
    from onestage.cli.cell import Answer, Order, answered

    def ask(order: Order, *, timeout: float) -> Answer:
        return Answer(peaks={"fp32": 100.0, "int8": 400.0}) if order.what == "peaks" else answered(order)

    monkeypatch.setattr(benchmark_run, "ask", ask)
