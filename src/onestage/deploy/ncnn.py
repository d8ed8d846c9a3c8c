"""Detectors as files of ncnn: NAME.ncnn.param, the graph, NAME.ncnn.bin, the weights, and NAME.ncnn.json, the contract."""

from __future__ import annotations

import io
import subprocess
from dataclasses import replace
from pathlib import Path

import torch

from onestage.deploy.onnx import captured, example_inputs, quietly
from onestage.deploy.plan import ExportConfig, Plan
from onestage.deploy.survivors import suppress_by_operator
from onestage.errors import ConfigError, UnfitError, WeightsError
from onestage.files import temporary_folder, write_file
from onestage.predict.engines.ncnn import check_graph, describe


def ncnn_config(config: ExportConfig) -> ExportConfig:
    """The config of a file for ncnn: one image of fixed size, float32, without NMS. Raise ConfigError if more is asked for."""
    if config.batch not in (None, 1):
        raise ConfigError("ncnn takes one picture at a time", got=f"batch {config.batch}", fix="leave batch= out")
    if config.pixels == "uint8":
        raise ConfigError("ncnn takes float32 pixels", got=config.pixels, fix="leave pixels= out, on the command line --input")
    return replace(config, nms="none", batch=1, pixels="float32")


def export_ncnn(plan: Plan, path: Path) -> None:
    """Write the detector to ``path``, a .param file, and its .bin and .json. Raise ConfigError if a package is missing."""
    try:
        import ncnn
        import pnnx
    except ImportError as error:
        fix = "pip install 'onestage[ncnn]'"
        raise ConfigError("to write files of ncnn, more packages are needed", got=error, fix=fix) from error
    with temporary_folder(path) as folder:  # in that of the export, which is temporary too
        traced = folder / "model.pt"
        _write_traced(plan, traced)
        height, width = plan.contract.size or (0, 0)
        command = [pnnx.EXEC_PATH, traced.name, f"inputshape=[1,3,{height},{width}]", "fp16=0"]
        try:
            done = subprocess.run(command, cwd=folder, capture_output=True, text=True, errors="replace")
        except OSError as error:
            fix = "pip install --force-reinstall pnnx"
            raise ConfigError("pnnx cannot be started", where=pnnx.EXEC_PATH, got=error.strerror, fix=fix) from error
        graph, weights = traced.with_suffix(".ncnn.param"), traced.with_suffix(".ncnn.bin")
        if done.returncode or not (graph.is_file() and weights.is_file()):
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            kind = UnfitError if done.returncode >= 0 else WeightsError  # below 0 a signal ended it
            raise kind("pnnx cannot convert this detector", got=f"status {done.returncode}: {last}")
        parts = {".param": graph.read_bytes(), ".bin": weights.read_bytes()}
    check_graph(parts[".param"].decode(), where=path, known=lambda layer: ncnn.layer_to_index(layer) >= 0)
    for end, data in parts.items():
        write_file(path.with_suffix(end), data)
    write_file(path.with_suffix(".json"), describe(plan.contract, parts))


def _write_traced(plan: Plan, path: Path) -> None:
    """Write the graph as a TorchScript file, which pnnx reads best. It is traced after torch.export has made constants of all
    sizes: pnnx cannot follow a size that is computed.
    """
    graph = captured(plan, suppress_by_operator).module()
    in_known_operators(graph)
    images, _ = example_inputs(plan.contract)
    with torch.no_grad(), quietly():
        torch.jit.save(torch.jit.trace(graph, images, check_trace=False), file := io.BytesIO())
    write_file(path, file.getvalue())


def in_known_operators(graph: torch.fx.GraphModule) -> None:
    """Write the operators of a graph that pnnx leaves as they are, and ncnn does not know, in terms of others."""
    aten = torch.ops.aten
    for node in list(graph.graph.nodes):
        if node.target == aten.alias.default:  # what a slice of the whole map becomes
            node.replace_all_uses_with(node.args[0])
            graph.graph.erase_node(node)
        elif node.target == aten.clamp_min.default:
            node.target, node.args = aten.clamp.default, (*node.args, torch.finfo(torch.float32).max)
    graph.recompile()
