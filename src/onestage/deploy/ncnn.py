"""Detectors as files of ncnn: NAME.ncnn.param, the graph, NAME.ncnn.bin, the weights, and NAME.ncnn.json, the contract."""

from __future__ import annotations

import errno
import io
import os
import subprocess
from dataclasses import replace
from pathlib import Path

import torch

from onestage.deploy.onnx import captured, example_inputs, quietly
from onestage.deploy.plan import ExportConfig, Plan
from onestage.deploy.survivors import suppress_by_operator
from onestage.errors import ConfigError, UnfitError, WeightsError
from onestage.files import UNWRITABLE, temporary_folder, write_file
from onestage.predict.engines.ncnn import check_graph, describe
from onestage.structures import Size

SPACE = 2**20
"""Bytes that a disk takes after pnnx if it took all that pnnx wrote."""


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
        import pnnx  # noqa: F401
    except ImportError as error:
        fix = "pip install 'onestage[ncnn]'"
        raise ConfigError("to write files of ncnn, more packages are needed", got=error, fix=fix) from error
    with temporary_folder(path) as folder:  # in that of the export, which is temporary too
        traced = folder / "model.pt"
        _write_traced(plan, traced)
        parts = _converted(traced, plan.contract.size or (0, 0))
    check_graph(parts[".param"].decode(), where=path, known=lambda layer: ncnn.layer_to_index(layer) >= 0)
    for end, data in parts.items():
        write_file(path.with_suffix(end), data)
    write_file(path.with_suffix(".json"), describe(plan.contract, parts))


def _converted(traced: Path, size: Size) -> dict[str, bytes]:
    """The graph and the weights of ncnn, by the ends of their names, that pnnx makes of a TorchScript file. It writes into the
    same folder, and does not notice if the disk is full.

    Raise UnfitError if pnnx cannot convert the file, WriteError or OSError if the system refused something.
    """
    import pnnx

    command = [pnnx.EXEC_PATH, traced.name, f"inputshape=[1,3,{size[0]},{size[1]}]", "fp16=0"]
    try:
        done = subprocess.run(command, cwd=traced.parent, capture_output=True, text=True, errors="replace")
    except OSError as error:
        fix = "pip install --force-reinstall pnnx"
        raise ConfigError("pnnx cannot be started", where=pnnx.EXEC_PATH, got=error.strerror, fix=fix) from error
    write_file(traced, bytes(SPACE))
    parts = {end: traced.with_suffix(f".ncnn{end}") for end in (".param", ".bin")}
    if done.returncode or not all(part.is_file() for part in parts.values()):
        for number in (errno.ENOMEM, *UNWRITABLE):
            if os.strerror(number) in done.stderr:
                raise OSError(number, os.strerror(number))
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        kind = UnfitError if done.returncode >= 0 else WeightsError  # below 0 a signal ended it
        got = f"status {done.returncode}: {last}"
        raise kind("pnnx cannot convert this detector", got=got, fix="try another format: --to")
    return {end: part.read_bytes() for end, part in parts.items()}


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
