"""What a machine is fast at: the choices follow from the written numbers alone."""

import pytest
import torch

from onestage.model.codec import decode, encode
from onestage.training import machine as measuring
from onestage.training.machine import Machine, StepTimes, kernels_of, measure_machine
from small_runs import detector

FAST_BF16 = StepTimes(fp32=20.0, bf16=10.0, contiguous=22.0)
SLOW_BF16 = StepTimes(fp32=20.0, bf16=19.0, contiguous=15.0)
MACHINE = Machine("cpu", cores=4, share=0.6, dense=FAST_BF16, depthwise=SLOW_BF16)


def test_the_machine_is_measured_and_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measuring, "_TURNS", 1)
    monkeypatch.setattr(measuring, "_SPIN", 0.01)
    before = torch.random.get_rng_state()
    found = measure_machine()
    assert torch.equal(torch.random.get_rng_state(), before)
    assert found.device == "cpu" and found.gpu is None and found.cores >= 1 and 0 < found.share <= 1
    assert (
        min(found.dense.fp32, found.dense.contiguous, found.dense.gain, found.depthwise.fp32, found.depthwise.mixed or 0) > 0
        and found.dense.mixed is None
    )
    assert decode(encode(found), Machine, "machine") == found


def test_a_device_that_is_timed_with_more_pictures_gets_the_time_of_the_usual_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(measuring._TIMES_AS_MANY, "cpu", 8)
    monkeypatch.setattr(measuring, "_step_ms", lambda network, images, *_: float(len(images)))
    found = measuring._step_times(measuring._dense(), torch.device("cpu"))
    assert found.fp32 == found.contiguous == found.bf16 == measuring._PICTURES


def test_the_choices_follow_from_the_numbers() -> None:
    plain = detector("tinyssd")
    assert MACHINE.precision(plain) == "bf16" and MACHINE.channels_last(plain)
    mobile = torch.nn.Sequential(
        torch.nn.Conv2d(8, 8, 3, groups=8), torch.nn.Conv2d(8, 4, 1), torch.nn.Conv2d(4, 4, 5, groups=4)
    )
    assert MACHINE.precision(mobile) == "fp32" and not MACHINE.channels_last(mobile)
    grouped = torch.nn.Sequential(torch.nn.Conv2d(8, 8, 3, groups=2), torch.nn.Conv2d(8, 4, 1))
    assert (kernels_of(plain), kernels_of(mobile), kernels_of(grouped)) == ("dense", "depthwise", "grouped")
    assert SLOW_BF16.precision == "fp32", "a gain that may be chance is none"
    assert StepTimes(20.0, None, 20.0).precision == "fp32" and StepTimes(20.0, None, 20.0).gain == 0


def test_bf16_with_depthwise_convolutions_in_fp32() -> None:
    mixed = StepTimes(fp32=20.0, bf16=25.0, contiguous=15.0, mixed=10.0)
    assert (mixed.precision, mixed.fp32_depthwise, mixed.gain, mixed.best) == ("bf16", True, 1.5, 10.0)
    assert mixed.channels_last, "in this order it was measured, though fp32 is faster in the other one"
    assert (SLOW_BF16.best, FAST_BF16.best) == (15.0, 10.0) and not FAST_BF16.fp32_depthwise
    assert StepTimes(20.0, 30.0, 20.0, mixed=19.0).precision == "fp32"
