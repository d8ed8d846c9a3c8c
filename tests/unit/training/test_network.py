"""The settings that make a step faster: what they change, and that a run goes on with the same bits under each."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from onestage.errors import ConfigError
from onestage.files import LAST
from onestage.processes import Distributed
from onestage.training import network
from onestage.training.config import TrainConfig
from onestage.training.loop import resume
from onestage.training.optim import load_optimizer, make_optimizer
from onestage.weights.detector_file import load_detector
from small_runs import CONFIG, PLAIN, detector, run, run_stopped, same_bits, together, weights, write_pictures

ALONE = Distributed(0, 1, 0, torch.device("cpu"))

pytestmark = pytest.mark.usefixtures("no_curves")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three steps of 4 pictures an epoch."""
    return write_pictures(tmp_path_factory.mktemp("data"), val=1)


def goes_on_with_the_same_bits(data: Path, out: Path, **settings: Any) -> bool:
    """Whether a run that stopped in its second epoch ends as one that did not."""
    config = replace(CONFIG, epochs=2, **settings)
    run(data, out / "whole", config)
    run_stopped(data, out / "stopped", config, step=4)
    resume(out / "stopped")
    return same_bits(out / "whole", out / "stopped")


def test_a_run_goes_on_with_the_same_bits(data: Path, tmp_path: Path) -> None:
    assert goes_on_with_the_same_bits(data, tmp_path, fused=True, precision="bf16")


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings", [{"fused": True, "optimizer": "sgd"}, {"channels_last": False}, {"compile": True}], ids=str
)
def test_a_longer_run_goes_on_with_the_same_bits(settings: dict[str, Any], data: Path, tmp_path: Path) -> None:
    assert goes_on_with_the_same_bits(data, tmp_path, **settings)
    assert not any("_orig_mod" in name for name in weights(tmp_path / "whole"))
    load_detector(tmp_path / "whole" / LAST)


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{"fused": True}, {"channels_last": False}, {"compile": True}], ids=str)
def test_two_processes_train_as_one(settings: dict[str, Any], data: Path, tmp_path: Path) -> None:
    config = replace(CONFIG, epochs=1, **settings)
    run(data, tmp_path / "one", config, PLAIN)
    with together(run, data, tmp_path / "two", config, PLAIN):
        pass
    one, two = weights(tmp_path / "one"), weights(tmp_path / "two")
    assert one.keys() == two.keys()
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, atol=2e-4, rtol=2e-3, msg=name)


def test_depthwise_convolutions_stay_in_fp32_under_bf16() -> None:
    images = torch.rand(1, 4, 5, 5)
    depthwise, whole = torch.nn.Conv2d(4, 4, 3, groups=4), torch.nn.Conv2d(4, 4, 3)
    with torch.autocast("cpu", torch.bfloat16):
        with network.arithmetic(TrainConfig(precision="bf16", fp32_depthwise=True), ALONE):
            assert torch.equal(
                depthwise(whole(images)),
                torch.nn.functional.conv2d(whole(images).float(), depthwise.weight.float(), depthwise.bias, groups=4),
            )
            assert depthwise(images).dtype == torch.float32 and whole(images).dtype == torch.bfloat16
        with network.arithmetic(TrainConfig(precision="bf16"), ALONE):
            assert depthwise(images).dtype == torch.bfloat16
    with pytest.raises(ConfigError, match="fp32_depthwise"):
        TrainConfig(precision="fp32", fp32_depthwise=True)


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_loaded_momenta_lie_in_memory_as_their_weights_do(optimizer: str) -> None:
    """A checkpoint holds them with channels first. torch's fused kernels look at no order."""
    config = TrainConfig(optimizer=optimizer, fused=True, lr=0.1)  # type: ignore[arg-type]
    model, other = detector(), detector()
    optimizers = [make_optimizer(m, config) for m in (model, other)]

    def step(model: torch.nn.Module, optimizer: torch.optim.Optimizer, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        for p in model.parameters():
            p.grad = torch.empty_like(p).copy_(torch.rand(p.shape, generator=generator) - 0.5)
        optimizer.step()

    for pair in zip((model, other), optimizers, strict=True):
        step(*pair, seed=1)
    stored = optimizers[1].state_dict()
    rows = {k: {n: v.contiguous() if torch.is_tensor(v) else v for n, v in row.items()} for k, row in stored["state"].items()}
    load_optimizer(optimizers[1], {**stored, "state": rows})
    for pair in zip((model, other), optimizers, strict=True):
        step(*pair, seed=2)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))


def test_where_torch_cannot_compile_an_error_says_what_is_missing(data: Path, tmp_path: Path, monkeypatch: Any) -> None:
    def fails(*_: Any) -> Any:
        raise RuntimeError("\nno C++ compiler found\nset CXX")

    monkeypatch.setattr(torch, "compile", fails)
    with pytest.raises(ConfigError, match=r"got:      no C\+\+ compiler found\n(?s:.*)fix:      install a C\+\+ compiler"):
        run(data, tmp_path / "run", replace(CONFIG, compile=True))
    with pytest.raises(ConfigError, match="Triton"):
        network.check_compiler(torch.device("cuda"))


def test_where_torch_has_no_fused_optimiser_an_error_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(*_: Any, **__: Any) -> Any:
        raise RuntimeError("`fused=True` requires all the params to be floating point Tensors of supported devices")

    monkeypatch.setattr(torch.optim, "AdamW", refuses)
    with pytest.raises(ConfigError, match="no fused adamw for this device"):
        make_optimizer(detector(), TrainConfig(fused=True))


def test_the_order_in_memory_is_that_of_the_setting() -> None:
    for channels_last, order in ((True, torch.channels_last), (False, torch.contiguous_format)):
        assert network.memory_order(TrainConfig(channels_last=channels_last)) is order
    settings = TrainConfig(channels_last=False, fused=True, compile=True)
    assert settings.options == ["--no-channels-last", "--fused", "--compile"]
