"""Closer looks over every runtime, and in ``evaluate``: each finds what the plain call of the same file misses.

The models are set by hand, so they need no training and their files are small: the input is cut into cells of 8 x 8 pixels, and
an anchor of 3 x 3 cells scores high if its mean is one colour. A square of 24 input pixels is found wherever it lies.
"""

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Literal, NamedTuple

import pytest
import torch
from torch import Tensor

import onestage
from onestage import boxes as box_ops
from onestage.data.reader import open_data
from onestage.data.writers import write_coco
from onestage.deploy.export import FORMATS, ExportConfig
from onestage.deploy.plan import Plan, plan_export
from onestage.deploy.runtimes import RUNTIMES
from onestage.model.anchors.levels import AnchorLevel
from onestage.model.backbones.folded import IMAGE, FoldedBackbone, FoldedLayer
from onestage.model.config import DetectorConfig
from onestage.model.output.postprocess import Postprocess
from onestage.model.output.suppress import HardNMS, SoftNMS
from onestage.model.preprocess import Preprocess
from onestage.predict.predictor import Looker, Predictor
from onestage.predict.seal import write_seal
from onestage.structures import Detections, Sample

Model = Predictor | onestage.Detector
CELL, SIDE = 8, 24
INPUT = (64, 96)
COLOURS = {"red": (255, 0, 0), "blue": (0, 0, 255)}
SHARP, MEAN = 80.0, 0.75
"""A logit is SHARP times how far the mean of the anchor's colour is above MEAN."""


@cache
def seeing(name: str, *, soft: bool = False) -> onestage.Detector:
    """A detector that knows both colours, that one first, and sees squares of that one alone, unless their left third is green
    too. soft: with soft NMS, which no file holds.
    """
    names = [name, *(other for other in COLOURS if other != name)]
    config = DetectorConfig(
        name="by hand",
        classes=tuple(names),
        category_ids=tuple(1 + list(COLOURS).index(one) for one in names),
        preprocess=Preprocess(INPUT, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)),
        backbone=FoldedBackbone((FoldedLayer(3, IMAGE, CELL, CELL),), (0,)),
        anchors=(AnchorLevel(((float(SIDE), float(SIDE)),)),),
        postprocess=Postprocess(nms=SoftNMS() if soft else HardNMS(0.3)),
    )
    model = onestage.build(config).eval()
    for parameter in model.parameters():
        parameter.requires_grad_(False).zero_()
    model.get_submodule("backbone.layers.0.0").weight[:] = torch.eye(3)[:, :, None, None] / CELL**2
    logits = model.get_submodule("head.cls.0")
    logits.weight[1, list(COLOURS[name]).index(255)] = SHARP / 9
    logits.weight[1, 1, :, 0] = -SHARP / 3
    logits.bias[1:] = torch.tensor([-SHARP * MEAN, -SHARP])
    return model


class File(NamedTuple):
    """An export, what opens its file, and whether soft NMS comes after it, which no file holds."""

    to: str
    runtime: str | None = None
    nms: Literal["graph", "none"] = "graph"
    soft: bool = False


FILES = {
    "onnxruntime": File("onnx"),
    "onnxruntime, candidates": File("onnx", soft=True),
    "onnxruntime, outputs": File("onnx", nms="none"),
    "openvino, its own file": File("openvino"),
    "openvino, ONNX": File("onnx", "openvino"),
    "torch, pt2": File("torch"),
    "ncnn": File("ncnn"),
    "litert": File("litert"),
}
SLOW = ("openvino, its own file", "torch, pt2", "ncnn", "litert")
"""Those that need one more export."""


@cache
def folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="closer-")


@cache
def exported(to: str, nms: Literal["graph", "none"], soft: bool, name: str) -> Path:
    """The file of that kind, made once in a process. What these tests find is its check."""
    form, config = FORMATS[to], ExportConfig(nms=nms)
    plan = plan_export(seeing(name, soft=soft), form.config(config) if form.config else config)
    path = Path(folder().name) / f"{name}-{nms}-{soft}{form.suffix}"
    form.write(Plan(plan.detector, replace(plan.contract, checked=False)), path)
    write_seal(path)
    return path


def opened(kind: str, name: str) -> Model:
    """The file of that kind. In its place, for the second model where soft NMS follows, the detector: they can be fused too."""
    file = FILES[kind]
    if file.soft and name == "blue":
        return seeing(name, soft=True)
    path = exported(file.to, file.nms, file.soft, name)
    return onestage.load(path, runtime=file.runtime, trusted=file.to == "torch")


def draw(size: tuple[int, int], squares: Sequence[tuple[str, int, int]], *, green: bool = False) -> Sample:
    """Squares of SIDE pixels at (colour, left, top) on black. green: their left thirds are yellow."""
    picture = torch.zeros(3, *size, dtype=torch.uint8)
    for name, x, y in squares:
        picture[:, y : y + SIDE, x : x + SIDE] = torch.tensor(COLOURS[name], dtype=torch.uint8)[:, None, None]
        picture[1, y : y + SIDE, x : x + SIDE // 3] = 255 * green
    boxes = torch.tensor([[x, y, x + SIDE, y + SIDE] for _, x, y in squares], dtype=torch.float32)
    labels = torch.tensor([list(COLOURS).index(name) for name, *_ in squares])
    return Sample(picture, boxes, labels, torch.zeros(len(squares), dtype=torch.bool), 1, "1.png")


class Case(NamedTuple):
    """A closer look at a picture in which the plain call misses something."""

    look: Callable[[Callable[[str], Model]], Looker]
    sample: Sample
    missed: int
    """How many squares the plain call misses."""
    score: float = 0.5


SMALL = [("red", x, y) for x in (6, 90, 177, 290) for y in (2, 110, 222)]
"""At most 2 pixels from the cells of tiles, all of which begin at multiples of 8."""
CASES = {
    "tiles": Case(lambda model: onestage.look(model("red"), tiles=INPUT), draw((256, 384), SMALL), 12),
    "scales": Case(lambda model: onestage.look(model("red"), scales=(1, 4)), draw((256, 384), SMALL), 12, 0.3),
    "flip": Case(
        lambda model: onestage.look(model("red"), flip=True), draw(INPUT, [("red", 8, 8), ("red", 56, 24)], green=True), 2, 0.3
    ),
    "fusion": Case(
        lambda model: onestage.fuse([model("red"), model("blue")]),
        draw(INPUT, [("red", 8, 8), ("blue", 56, 24)]),
        1,
        0.3,
    ),
}


def overlaps(found: Detections, sample: Sample) -> Tensor:
    """(N,): of each square the IoU with the nearest detection of its colour, 0 if there is none."""
    best = torch.zeros(len(sample.labels))
    for row, (box, label) in enumerate(zip(sample.boxes, sample.labels.tolist(), strict=True)):
        mine = [one == list(COLOURS)[label] for one in found.class_names]
        if any(mine):
            best[row] = box_ops.iou(box[None], found.boxes[torch.tensor(mine)]).amax()
    return best


def by_place(found: Detections) -> Tensor:
    """(D, 5): scores in hundredths and boxes, from the top left on."""
    rows = torch.cat([100 * found.scores[:, None], found.boxes], dim=1)
    return rows[sorted(range(len(rows)), key=lambda row: found.boxes[row].round().tolist())]


@pytest.mark.parametrize("kind", [pytest.param(kind, marks=pytest.mark.slow if kind in SLOW else ()) for kind in FILES])
def test_closer_looks_of_every_runtime_find_what_its_plain_call_misses(kind: str, tmp_path: Path) -> None:
    runtime, soft = kind.split(",")[0], FILES[kind].soft
    if runtime in RUNTIMES and not RUNTIMES[runtime].installed:
        pytest.skip(f"{runtime} is not installed")
    plain = opened(kind, "red")
    for case, (look, sample, missed, score) in CASES.items():
        closer = look(partial(opened, kind))
        assert int((overlaps(plain.predict(sample.image, score=score)[0], sample) < 0.5).sum()) == missed, case
        (found,) = closer.predict(sample.image, score=score)
        assert bool((overlaps(found, sample) > 0.5).all()), (case, found)
        (expected,) = look(partial(seeing, soft=soft)).predict(sample.image, score=score)
        assert sorted(found.class_names) == sorted(expected.class_names), case
        places, wanted = by_place(found), by_place(expected)  # equal scores come in any order
        torch.testing.assert_close(places, wanted, atol=1e-2, rtol=0)
        write_coco([sample], tmp_path / case, classes=tuple(COLOURS), split="val")
        data = open_data(tmp_path / case).load("val")
        before, after = (onestage.evaluate(one, data, workers=0).coco.AP50 for one in (plain, closer))
        assert after > before + 0.3, case
