"""Small exported files, made once in a process: what several tests of exported files read, and one of their checks. Nothing may
write there.
"""

import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

import onestage
from lively import lively
from onestage.deploy.export import ExportConfig, export
from onestage.deploy.onnx import export_onnx
from onestage.deploy.plan import Plan, plan_export
from onestage.model.backbones.folded import IMAGE, FoldedBackbone, FoldedLayer
from onestage.model.output.suppress import SoftNMS
from onestage.predict.engines import exported, litert, ncnn, openvino, pt2
from onestage.predict.predictor import Predictor
from onestage.predict.seal import write_seal

CLASSES = ("ball", "red box", "x")
SIZE = (96, 128)


@cache
def model(*, ending: str = "detections", mode: str = "stretch") -> onestage.Detector:
    """A lively TinySSD; for letterboxed pictures one of a single convolution, whose export takes half the time."""
    torch.manual_seed(0)
    recipe = onestage.recipe("tinyssd", CLASSES, size=SIZE).replace({"preprocess.mode": mode})
    if mode == "letterbox":
        single = FoldedBackbone((FoldedLayer(8, IMAGE, 3, 8),), (0,))
        recipe = recipe.replace({"backbone": single, "anchors": recipe.anchors[:1]})
    if ending == "candidates":
        recipe = recipe.replace({"postprocess.nms": SoftNMS()})
    return lively(onestage.build(recipe))


@cache
def _folder() -> tempfile.TemporaryDirectory:
    return tempfile.TemporaryDirectory(prefix="exported-")


@cache
def checked_folder() -> Path:
    """A folder with the model, its ONNX file, vectors and example."""
    folder = Path(_folder().name) / "checked"
    folder.mkdir()
    model().save(folder / "model.safetensors")
    export(model(), folder / "model.onnx", example=True)
    return folder


@cache
def onnx_file(ending: str, mode: str = "stretch") -> Path:
    """The ONNX file of that ending."""
    if (ending, mode) == ("detections", "stretch"):
        return checked_folder() / "model.onnx"
    path = Path(_folder().name) / f"{ending}_{mode}.onnx"
    plan = plan_export(model(ending=ending, mode=mode), ExportConfig(nms="none" if ending == "outputs" else "graph"))
    export_onnx(Plan(plan.detector, replace(plan.contract, checked=False)), path)
    write_seal(path)
    return path


@cache
def openvino_file() -> Path:
    """The OpenVINO file that ends with detections."""
    from openvino import Core, save_model

    path = Path(_folder().name) / "model.xml"
    save_model(Core().read_model(onnx_file("detections")), path, compress_to_fp16=False)
    write_seal(path)
    return path


def change_when_read(monkeypatch) -> None:
    """Let every exported file become another one as soon as it was read: what is checked must be what the runtime gets."""
    read = exported.read_bytes

    def once(path: Path, **limits: int) -> bytes:
        data = read(path, **limits)
        path.write_bytes(b"another file")
        return data

    for module in (exported, openvino, ncnn, pt2, litert):
        monkeypatch.setattr(module, "read_bytes", once)


def check_shared_by_threads(file: Predictor, images: Sequence[Tensor]) -> None:
    """Eight threads that share an opened file find what one finds, to the bit. images: (3, H, W) uint8 each."""
    expected = [file.predict(image)[0] for image in images]
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda image: file.predict(image)[0], [*images, *images]))
    for one, again in zip(expected * 2, found, strict=True):
        assert one.boxes.equal(again.boxes) and one.scores.equal(again.scores) and one.labels.equal(again.labels)
