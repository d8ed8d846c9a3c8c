"""What Winograd's algorithm brings in exported files: single layers, and whole models.

OMP_NUM_THREADS=1 python benchmarks/winograd.py --clock cpu
OMP_NUM_THREADS=1 python benchmarks/winograd.py --clock cpu --models ssd300_vgg16 --repeats 5

"ours" is by Winograd's algorithm, "peer" the plain convolution; both in one process, in turns, in onnxruntime or OpenVINO.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
import tyro
from numpy.typing import NDArray
from torch import nn

from common import Clock, Comparison, compare, pair, report
from onestage.deploy.drawn import USUAL, jpegs
from onestage.deploy.export import export
from onestage.deploy.plan import ExportConfig
from onestage.deploy.winograd import GraphConv3x3
from onestage.predict.engines.exported import threads
from onestage.predict.engines.onnxruntime import import_onnxruntime
from onestage.predict.exported import open_exported

LAYERS = ((64, 64, 300, 300), (128, 128, 150, 150), (256, 256, 75, 75), (512, 512, 38, 38), (256, 256, 100, 136))
"""Input and output channels, height and width: of SSD300 and RetinaNet."""


def layers(folder: Path, runtime: str, repeats: int, clock: Clock) -> Iterator[Comparison]:
    """Each of LAYERS with a ReLU behind it."""
    for inputs, outputs, *size in LAYERS:
        conv, images = nn.Conv2d(inputs, outputs, 3, padding=1), torch.randn(1, inputs, *size)
        runs = []
        for name, layer in (("winograd", GraphConv3x3(conv)), ("plain", conv)):
            path = folder / f"{name}.onnx"
            network = nn.Sequential(layer, nn.ReLU()).eval()
            torch.onnx.export(network, (images,), path, dynamo=True, verbose=False, external_data=False)
            runs.append(partial(_runner(path, runtime), images.numpy()))
        yield compare(f"{inputs} to {outputs} on {size[0]}x{size[1]}, {runtime}", *runs, repeats=repeats, clock=clock)


def _runner(path: Path, runtime: str) -> Callable[[NDArray[np.float32]], object]:
    """The function that runs a file with one input."""
    if runtime == "openvino":
        import openvino

        settings = {"INFERENCE_NUM_THREADS": threads(), "INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
        request = openvino.Core().compile_model(path, "CPU", settings).create_infer_request()
        return lambda images: request.infer([images])
    onnxruntime = import_onnxruntime()

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads()
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda images: session.run(None, {name: images})


def whole(model: str, folder: Path, runtimes: Sequence[str], repeats: int, clock: Clock) -> Iterator[Comparison]:
    """predict() with two files of a model, from a JPEG file."""
    detector, picture = pair(model)[0], jpegs(folder, 1)[0]
    size = detector.config.preprocess.place(USUAL).input if detector.config.preprocess.mode == "shortest_edge" else None
    for winograd in (True, False):
        export(detector, folder / f"{winograd}.onnx", config=ExportConfig(size=size, winograd=winograd), check=False)
    for runtime in runtimes:
        files = [open_exported(folder / f"{winograd}.onnx", runtime) for winograd in (True, False)]
        yield compare(f"{model}, {runtime}", *(partial(file.predict, picture) for file in files), repeats=repeats, clock=clock)


def main(
    *,
    models: tuple[str, ...] = (),
    runtimes: tuple[str, ...] = ("onnxruntime", "openvino"),
    repeats: int = 10,
    clock: Clock = "wall",
) -> None:
    """Compare files by Winograd's algorithm with plain ones.

    Args:
        models: whole detectors, by their names in torchvision or effdet (tf_*), in the place of single layers.
        runtimes: onnxruntime, openvino.
        repeats: timed turns of each.
        clock: wall time, or processor time on a busy machine.
    """
    found = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for model in models:
            place = folder / model
            place.mkdir()
            found += whole(model, place, runtimes, repeats, clock)
        for runtime in () if models else runtimes:
            found += layers(folder, runtime, repeats, clock)
    report(f"Winograd's algorithm against plain convolutions, {clock} time", found, path=None)


if __name__ == "__main__":
    tyro.cli(main)
