"""A signal asks, the next one insists, and afterwards all is as it was."""

import os
import signal
import sys
import threading
from pathlib import Path

import pytest

from onestage.training.signals import NOTICE, StopSignal
from small_runs import signal_handlers, signal_here, start


def asked_and_stopped(first: int) -> None:
    before = signal_handlers()
    with StopSignal() as stop:
        assert not stop.asked
        signal_here(first)
        assert stop.asked
        with pytest.raises(KeyboardInterrupt):
            signal_here(signal.SIGINT)
    assert signal_handlers() == before


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
def test_the_first_asks_and_the_second_stops(first: signal.Signals, tmp_path: Path) -> None:
    process = start(asked_and_stopped, first, log=tmp_path / "log")
    process.join(60)
    assert (process.exitcode, (tmp_path / "log").read_text()) == (0, NOTICE.decode())


def asked_in_silence() -> None:
    with StopSignal(told=False) as stop:
        signal_here(signal.SIGTERM)
    assert stop.asked


def test_only_one_of_several_processes_talks(tmp_path: Path) -> None:
    process = start(asked_in_silence, log=tmp_path / "log")
    process.join(60)
    assert (process.exitcode, (tmp_path / "log").read_text()) == (0, "")


def asked_where_nobody_reads() -> None:
    """Ctrl-C ends tee as well, so standard error may be a pipe without a reader by the time the handler writes to it."""
    read, write = os.pipe()
    os.close(read)
    os.dup2(write, 2)
    with StopSignal() as stop:
        signal_here(signal.SIGINT)
    sys.exit(0 if stop.asked else 3)


def test_a_reader_of_standard_error_that_is_gone_ends_no_run() -> None:
    process = start(asked_where_nobody_reads)
    process.join(60)
    assert process.exitcode == 0


def test_another_thread_trains_without_handlers() -> None:
    seen = []

    def work() -> None:
        with StopSignal() as stop:
            seen.append((stop.asked, signal_handlers()))

    before = signal_handlers()
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [(False, before)]
