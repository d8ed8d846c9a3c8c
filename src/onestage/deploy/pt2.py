"""Detectors as programs of torch.export (.pt2), which load with torch alone."""

from __future__ import annotations

import io
from pathlib import Path

import torch

from onestage.deploy.onnx import captured, quietly
from onestage.deploy.plan import Plan
from onestage.deploy.survivors import suppress_by_rounds
from onestage.errors import ConfigError
from onestage.files import write_file
from onestage.predict.engines.pt2 import CONTRACT


def export_pt2(plan: Plan, path: Path) -> None:
    """Write the detector to a .pt2 file: plain operators of torch, NMS by rounds, and the contract beside them."""
    if plan.contract.size is None:
        what, fix = "a program of torch is made for one input size", "size=(H, W)"
        raise ConfigError(what, where=plan.contract.config.name, got="size any", fix=fix)
    file = io.BytesIO()
    program = captured(plan, suppress_by_rounds)
    with quietly():
        torch.export.save(program, file, extra_files={CONTRACT: plan.contract.to_json()})
    write_file(path, file.getvalue())
