"""Small exported files, made once in a test run by the process that wants them first: what several tests of exported files
read, and one of their checks. Nothing may write there.
"""

import os
import shutil
from collections.abc import Callable, Sequence
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

try:
    import fcntl
except ImportError:  # Windows: one process makes its files alone
    fcntl = None  # type: ignore[assignment]

SHARED = "ONESTAGE_TESTS_SHARED"
"""The folder for all processes of a test run; conftest.py sets it and removes the folder."""
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


def _made(name: str, make: Callable[[Path], object]) -> Path:
    """The folder of that name for all processes of a test run. The first one that wants it makes what is in it."""
    root = Path(os.environ[SHARED])
    folder, done = root / name, root / f"{name}.done"
    with (root / f"{name}.lock").open("w") as lock:
        if fcntl is not None:
            fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():
            shutil.rmtree(folder, ignore_errors=True)  # of a process that was killed
            folder.mkdir()
            make(folder)
            done.touch()
    return folder


@cache
def checked_folder() -> Path:
    """A folder with the model, its ONNX file, vectors and example."""

    def make(folder: Path) -> None:
        model().save(folder / "model.safetensors")
        export(model(), folder / "model.onnx", example=True)

    return _made("checked", make)


@cache
def onnx_file(ending: str, mode: str = "stretch") -> Path:
    """The ONNX file of that ending."""
    if (ending, mode) == ("detections", "stretch"):
        return checked_folder() / "model.onnx"

    def make(folder: Path) -> None:
        plan = plan_export(model(ending=ending, mode=mode), ExportConfig(nms="none" if ending == "outputs" else "graph"))
        export_onnx(Plan(plan.detector, replace(plan.contract, checked=False)), folder / "model.onnx")
        write_seal(folder / "model.onnx")

    return _made(f"{ending}_{mode}", make) / "model.onnx"


@cache
def openvino_file() -> Path:
    """The OpenVINO file that ends with detections."""
    from openvino import Core, save_model

    def make(folder: Path) -> None:
        save_model(Core().read_model(onnx_file("detections")), folder / "model.xml", compress_to_fp16=False)
        write_seal(folder / "model.xml")

    return _made("openvino", make) / "model.xml"


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
