"""Gradient checkpointing: the same bits, less memory between the forward and the backward pass."""

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from onestage.model.blocks import blocks_of
from onestage.model.detector import Detector
from onestage.processes import Distributed
from onestage.structures import Targets
from onestage.training.config import TrainConfig
from onestage.training.network import arithmetic
from onestage.training.recompute import recomputed
from small_runs import CONFIG, detector, pictures, run, same_bits, together, weights, write_pictures

ALONE = Distributed(0, 1, 0, torch.device("cpu"))
MODELS = {
    "efficientdet_d0": {"size": (128, 128)},  # with drop_path
    "ssd300_vgg16": {"size": (300, 300)},
    "retinanet": {"size": (96, 96), "backbone": "timm/test_resnet"},
    "dssd": {"size": (96, 96), "backbone": "timm/test_resnet"},
    "ssdlite320_mobilenet_v3_large": {"size": (96, 96)},
}
SLOW = [pytest.param(name, marks=pytest.mark.slow if name != "efficientdet_d0" else ()) for name in MODELS]


def passed(model: Detector, *, again: bool, precision: str = "fp32") -> tuple[dict[str, Tensor], int]:
    """Losses, gradients and batch norm's averages after a step on two pictures, and the bytes kept for its backward pass."""
    config = TrainConfig(precision=precision, recompute=again)  # type: ignore[arg-type]
    samples = [pictures(2)[i] for i in range(2)]
    images, metas = model.prepare([sample.image for sample in samples])
    targets = [Targets(meta.apply(sample.boxes), sample.labels) for sample, meta in zip(samples, metas, strict=True)]
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    def around() -> object:
        return arithmetic(config, ALONE)

    torch.manual_seed(1)
    model.train()
    hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
    autocast = torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16")
    with hooks, autocast, around(), recomputed(model, around) if again else nullcontext():
        output = model(images)
    losses = model.loss(output, targets)
    torch.stack([*losses.values()]).sum().backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return {**losses, **gradients, **dict(model.named_buffers())}, sum(kept.values())


@pytest.mark.parametrize("name", SLOW)
@pytest.mark.parametrize("precision", ["fp32", pytest.param("bf16", marks=pytest.mark.slow)])
def test_the_same_bits_from_less_memory(name: str, precision: str) -> None:
    (whole, most), (again, least) = (
        passed(detector(name, **MODELS[name]), again=again, precision=precision) for again in (False, True)
    )
    assert whole.keys() == again.keys() and len(whole) > 20
    for key, value in whole.items():
        assert torch.equal(again[key], value), key
    assert least < (0.5 if name == "efficientdet_d0" else 0.95) * most, f"{least:,} of {most:,} bytes"


@pytest.mark.parametrize("name", SLOW)
def test_blocks_share_nothing_and_hold_nearly_all_convolutions(name: str) -> None:
    model = detector(name, **MODELS[name])
    blocks = blocks_of(model)
    parts = [id(part) for block in blocks for part in block.modules()]
    assert len(set(parts)) == len(parts) and len(blocks) > 1
    convolutions = [id(module) for module in model.modules() if isinstance(module, nn.Conv2d)]
    assert len(set(convolutions) & set(parts)) >= 0.5 * len(convolutions)
    assert not any("forward" in vars(block) for block in blocks)


def test_a_run_has_the_bits_of_one_that_keeps_its_maps(tmp_path: Path) -> None:
    """Averages of batch norm count each picture once; with accumulated parts and averaged weights."""
    data = write_pictures(tmp_path / "data", val=1)
    config = replace(CONFIG, epochs=1, accumulate=2, ema=0.9)
    run(data, tmp_path / "kept", config)
    run(data, tmp_path / "again", replace(config, recompute=True))
    assert same_bits(tmp_path / "kept", tmp_path / "again")


@pytest.mark.slow
def test_two_processes_with_shared_batch_norm(tmp_path: Path) -> None:
    data = write_pictures(tmp_path / "data", val=1)
    config = replace(CONFIG, epochs=1, shared_batch_norm=True)
    for name, again in (("kept", False), ("again", True)):
        with together(run, data, tmp_path / name, replace(config, recompute=again), log=tmp_path / "log"):
            pass
    kept, again = weights(tmp_path / "kept"), weights(tmp_path / "again")
    for name, tensor in kept.items():
        torch.testing.assert_close(again[name], tensor, rtol=1e-6, atol=1e-7)
