"""Threads for batches: as many as pay, each result the same, nothing left behind."""

import threading
import time
from collections.abc import Callable

import pytest
import torch

from onestage.predict.streams import Pace, Streams


def paced(rate: Callable[[int], float], most: int = 8) -> list[int]:
    """The numbers of batches at the same time that are tried, if so many of them do ``rate`` batches a second."""
    now = [0.0]
    pace, tried = Pace(most, lambda: now[0]), [1]
    for _ in range(3000):
        now[0] += 1 / rate(pace.count)
        pace.finished(1)
        if pace.count != tried[-1]:
            tried.append(pace.count)
    assert pace.is_settled
    return tried


@pytest.mark.parametrize(
    ("rate", "tried"),
    [
        (lambda count: 10.0, [1, 2, 1]),
        (lambda count: 10.0 / count, [1, 2, 1]),
        (lambda count: 10.0 * min(count, 3), [1, 2, 3, 4, 3]),
        (lambda count: 10.0 * count, [1, 2, 3, 4, 5, 6, 7, 8]),
        (lambda count: 10.0 + 0.4 * count, [1, 2, 1]),  # 4 % more: not worth the memory
    ],
    ids=["nothing gained", "slower", "three", "all", "too little"],
)
def test_one_more_batch_is_tried_as_long_as_it_pays(rate: Callable[[int], float], tried: list[int]) -> None:
    assert paced(rate) == tried


def test_one_processor_tries_nothing() -> None:
    assert Pace(1).is_settled and paced(lambda count: 10.0 * count, most=1) == [1]


def test_so_many_batches_are_in_work_at_the_same_time() -> None:
    together, held = threading.Barrier(3, timeout=20), Streams(3)
    with held:
        futures = [held.submit(together.wait, pictures=1) for _ in range(3)]
        assert sorted(future.result(20) for future in futures) == [0, 1, 2]
        lock, most, now = threading.Lock(), [0], [0]

        def counted() -> None:
            with lock:
                now[0] += 1
                most[0] = max(most[0], now[0])
            time.sleep(0.01)
            with lock:
                now[0] -= 1

        for future in [held.submit(counted, pictures=1) for _ in range(12)]:
            future.result(20)
        assert most[0] <= 3


def test_when_one_more_does_not_pay_a_thread_goes() -> None:
    def running() -> list[threading.Thread]:
        return [thread for thread in found._threads if thread.is_alive()]

    with Streams() as found:
        for count in (1, 3, 2):
            found._pace.count = count
            found.submit(int, pictures=1).result(20)
            deadline = time.monotonic() + 20
            while len(running()) != count and time.monotonic() < deadline:
                time.sleep(0.002)
            assert len(running()) == count
    assert not running()


def test_errors_belong_to_the_one_who_waits() -> None:
    with Streams(1) as found:
        future = found.submit(lambda: 1 / 0, pictures=1)
        with pytest.raises(ZeroDivisionError):
            future.result(20)
        assert found.submit(lambda: 5, pictures=1).result(20) == 5


def test_the_end_waits_for_what_computes_and_drops_the_rest() -> None:
    begun, done = threading.Event(), []

    def slow() -> None:
        begun.set()
        time.sleep(0.2)
        done.append("first")

    with Streams(1) as found:
        found.submit(slow, pictures=1)
        later = found.submit(lambda: done.append("second"), pictures=1)
        assert begun.wait(20)
    assert done == ["first"] and not later.done()


def test_threads_compute_as_the_one_that_set_the_number() -> None:
    """A sum that is split among more threads may have other last digits."""
    before = torch.get_num_threads()
    try:
        for number in (1, 2):
            torch.set_num_threads(number)
            with Streams(1) as found:
                assert found.submit(torch.get_num_threads, pictures=1).result(20) == number
    finally:
        torch.set_num_threads(before)
