"""Every recipe of the zoo becomes a file, which onnxruntime opens, and runs unless its network is large. -s prints times."""

import time

import pytest
import torch

import onestage
from onestage.deploy.benchmark import pictures
from onestage.deploy.export import export
from onestage.model.cost import cost_of
from onestage.zoo.table import ANY_BACKBONE, ZOO

pytest.importorskip("onnx", reason="pip install 'onestage[onnx]'")
pytest.importorskip("onnxruntime", reason="pip install 'onestage[onnx]'")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

MOST_WORK = 60e9
"""Multiply-adds of a network that is run."""


@pytest.mark.parametrize("name", ZOO)
def test_every_recipe_is_exported(name, tmp_path):
    torch.manual_seed(0)
    model = onestage.create(name, 20, backbone="resnet10t" if name in ANY_BACKBONE else None).eval()
    began = time.perf_counter()
    path = export(model, tmp_path / "model.onnx", check=False).path
    exported = time.perf_counter() - began
    file = onestage.load(path)
    assert file.config == model.config
    done = "opened"
    if cost_of(model.config).multiply_adds < MOST_WORK:
        (found,) = file.predict(pictures(1, (100, 140)))
        done = f"run: {len(found)} detections"
    print(f"{name}: exported in {exported:.0f} s, {path.stat().st_size / 1e6:.0f} MB, {done}", flush=True)
