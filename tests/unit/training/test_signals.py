"""A signal asks, the next one insists, and afterwards all is as it was."""

import os
import signal
import threading

import pytest

from onestage.training.signals import NOTICE, StopSignal


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
def test_the_first_asks_and_the_second_stops(first: signal.Signals, capfd: pytest.CaptureFixture[str]) -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with StopSignal() as stop:
        assert not stop.asked
        os.kill(os.getpid(), first)
        assert stop.asked
        assert capfd.readouterr().err == NOTICE.decode()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_only_one_of_several_processes_talks(capfd: pytest.CaptureFixture[str]) -> None:
    with StopSignal(told=False) as stop:
        os.kill(os.getpid(), signal.SIGTERM)
    assert stop.asked and capfd.readouterr().err == ""


def test_another_thread_trains_without_handlers() -> None:
    seen = []

    def work() -> None:
        with StopSignal() as stop:
            seen.append((stop.asked, signal.getsignal(signal.SIGTERM)))

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [(False, before)]
