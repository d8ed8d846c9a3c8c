"""Detectors as TensorFlow Lite files (.tflite): the outputs of the network, for LiteRT on phones and small computers.

Shape letters: B images, A anchors, C logits per anchor (in pooling: channels), H and W of a map, h and w of the input.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from onestage.deploy.graph import Graph
from onestage.deploy.onnx import example_inputs, quietly
from onestage.deploy.plan import ExportConfig, Plan
from onestage.errors import ConfigError
from onestage.files import write_file
from onestage.predict.contract import OUTPUTS
from onestage.predict.engines.litert import with_contract


def litert_config(config: ExportConfig) -> ExportConfig:
    """The config of a .tflite file: one image of a fixed size, without NMS. Raise ConfigError if more is asked for."""
    if config.batch not in (None, 1):
        raise ConfigError("a .tflite file takes one picture at a time", got=f"batch {config.batch}", fix="leave batch= out")
    return replace(config, nms="none", batch=1)


def export_litert(plan: Plan, path: Path) -> None:
    """Write the detector to a .tflite file, with the contract at its end. Raise ConfigError if the converter is missing."""
    images, _ = example_inputs(plan.contract)
    with torch.no_grad(), quietly():
        try:
            import litert_torch
        except ImportError as error:
            what, fix = "to write .tflite files, the converter litert-torch is needed", "docs/deploy.md says how to install it"
            raise ConfigError(what, got=error, fix=fix) from error
        program = torch.export.export(_Named(plan).eval(), (), {"images": images}).run_decompositions(PLAIN)
        module = program.module()
        module.training = False  # its eval() is an error, and the converter asks
        model = litert_torch.convert(module, sample_kwargs={"images": images}).model_content()
    write_file(path, with_contract(model, plan.contract))


def _global_max_pool(maps: Tensor, size: Sequence[int]) -> tuple[Tensor, Tensor]:
    """The largest value of each map, (B, C, H, W) -> (B, C, 1, 1), and in the place of where it is, which nothing reads, 0."""
    assert list(size) == [1, 1]
    largest = maps.amax((2, 3), keepdim=True)
    return largest, torch.zeros_like(largest, dtype=torch.int64)


def _nearest(maps: Tensor, size: Sequence[int], factors: Sequence[float] | None = None) -> Tensor:
    """(B, C, H, W) -> (B, C, *size): of each cell the nearest one. The converter takes others where a side grows by a part of
    itself, such as from 3 to 5.
    """
    for axis, cells in enumerate(size, start=2):
        maps = maps.index_select(axis, torch.arange(cells, device=maps.device) * maps.shape[axis] // cells)
    return maps


PLAIN = {
    torch.ops.aten.adaptive_max_pool2d.default: _global_max_pool,
    torch.ops.aten.upsample_nearest2d.vec: _nearest,
}
"""Operators that the converter lacks, or converts wrongly, in terms of others."""


class _Named(nn.Module):
    """The graph of a detector with names for its outputs, which become those of the file."""

    def __init__(self, plan: Plan) -> None:
        super().__init__()
        self.detector, self.names = Graph(plan.detector, plan.contract.ending), OUTPUTS[plan.contract.ending]

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """(1, 3, h, w) -> logits (1, A, C) and deltas (1, A, 4)."""
        return dict(zip(self.names, self.detector(images), strict=True))
