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


def test_in_the_process_of_the_tests_a_signal_ends_the_tests() -> None:
    """It would stop a training half way, and a test would compare that half."""
    stop = StopSignal()
    with pytest.raises(KeyboardInterrupt, match="SIGTERM"):
        stop._handle(signal.SIGTERM, None)
    assert not stop.asked


def asked_in_silence() -> None:
    with StopSignal(told=False) as stop:
        signal_here(signal.SIGTERM)
    assert stop.asked


def test_only_one_of_several_processes_talks(tmp_path: Path) -> None:
    process = start(asked_in_silence, log=tmp_path / "log")
    process.join(60)
    assert (process.exitcode, (tmp_path / "log").read_text()) == (0, "")


def asked_by_a_terminal_that_closes(before: signal.Handlers) -> None:
    signal.signal(signal.SIGHUP, before)
    with StopSignal() as stop:
        for _ in range(2):  # the terminal's, and the shell's
            signal_here(signal.SIGHUP)
    assert signal.getsignal(signal.SIGHUP) == before
    sys.exit(0 if stop.asked else 3)


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="this system has no such signal")
@pytest.mark.parametrize(("before", "code"), [(signal.SIG_DFL, 0), (signal.SIG_IGN, 3)])
def test_a_terminal_that_closes_asks_too_but_not_under_nohup(before: signal.Handlers, code: int, tmp_path: Path) -> None:
    process = start(asked_by_a_terminal_that_closes, before, log=tmp_path / "log")
    process.join(60)
    said = (tmp_path / "log").read_text()
    assert (process.exitcode, said) == (code, "" if code else NOTICE.decode())


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
