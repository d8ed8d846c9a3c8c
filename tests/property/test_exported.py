"""Laws of exported files of every ending: what they find depends on nothing but the picture, and is what predict() finds."""

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import exported_files
import onestage
from exported_files import CLASSES, check_shared_by_threads, onnx_file
from lively import lively
from onestage.deploy.benchmark import pictures
from onestage.deploy.check import TOLERANCE, Agreement, compare
from onestage.deploy.export import ExportConfig, export
from onestage.errors import WeightsError
from onestage.predict.predictor import Predictor
from onestage.predict.seal import write_seal

pytest.importorskip("onnxruntime", reason="pip install 'onestage[onnx]'")

slow = pytest.mark.slow
KINDS = [
    ("detections", "stretch"),
    ("detections", "letterbox"),  # which takes frames
    pytest.param(("detections", "shortest_edge"), marks=slow),
    pytest.param(("candidates", "stretch"), marks=slow),
    pytest.param(("candidates", "letterbox"), marks=slow),
    pytest.param(("outputs", "stretch"), marks=slow),
    pytest.param(("outputs", "letterbox"), marks=slow),
]
"""Endings, and how pictures are resized. Each takes an export."""
SIZES = st.sampled_from([(1, 1), (1, 700), (700, 1), (2, 3), (31, 33), (96, 128), (128, 96), (100, 140), (200, 60)])
"""Heights and widths: a pixel, a line, the input itself, and usual ones."""
LINES = ((1, 700), (700, 1))
"""Where the input follows the picture, they give one of 32 x 128 pixels, which a TinySSD refuses."""
few = settings(max_examples=5, derandomize=True)


@pytest.fixture(scope="module", params=KINDS, ids="_".join)
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def source(kind):
    ending, mode = kind
    return exported_files.model(ending=ending, mode=mode)


@pytest.fixture(scope="module")
def file(kind):
    return onestage.load(onnx_file(*kind))


def made(sizes):
    """A picture (3, H, W) of each size, no two alike."""
    return [(picture.float() * (1 - 0.07 * i)).byte() for i, size in enumerate(sizes) for picture in pictures(1, size)]


def agree(expected, found, *, places=200):
    total = sum((compare(a, b, TOLERANCE, places=places) for a, b in zip(expected, found, strict=True)), Agreement())
    return total.paired == total.compared


@few
@given(st.lists(SIZES, min_size=1, max_size=5), st.integers(1, 5))
def test_a_picture_has_the_same_detections_alone_in_company_and_in_any_order(file, source, sizes, batch):
    follows = source.config.preprocess.mode == "shortest_edge"
    images = made([size for size in sizes if not follows or size not in LINES])
    alone = [file.predict(image)[0] for image in images]
    if not follows:  # where it does, the pictures of a batch share an input, which changes what is found
        assert agree(alone, file.predict(images, batch_size=batch))
        assert agree(alone[::-1], file.predict(images[::-1], batch_size=batch))
    assert agree(source.predict(images, batch_size=batch), file.predict(images, batch_size=batch))


@few
@given(SIZES)
def test_detections_are_in_the_picture_best_first_and_above_the_threshold(file, size):
    height, width = size
    assume(file.config.preprocess.mode != "shortest_edge" or size not in LINES)
    (found,) = file.predict(made([size]))
    post = file.config.postprocess
    assert len(found) <= post.detections and bool((found.scores > post.score_threshold).all())
    assert bool((found.scores.diff() <= 0).all()) and set(found.labels.tolist()) <= {0, 1, 2}
    left, top, right, bottom = found.boxes.unbind(1)
    assert bool((left >= 0).all() and (left < right).all() and (right <= width + 1e-3).all())
    assert bool((top >= 0).all() and (top < bottom).all() and (bottom <= height + 1e-3).all())


@few
@given(st.floats(0.02, 0.9))
def test_a_threshold_leaves_the_better_detections(file, least):
    images = made([(100, 140), (60, 60)])
    for found, better in zip(file.predict(images), file.predict(images, score=least), strict=True):
        chosen = found.select(found.scores > least)
        assert chosen.boxes.equal(better.boxes) and chosen.scores.equal(better.scores)


def test_no_pictures_and_no_detections(file):
    assert file.predict([]) == []
    assert [len(found) for found in file.predict(made([(100, 140)] * 3), score=0.99999)] == [0, 0, 0]


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_eight_threads_share_a_file(kind, runtime):
    pytest.importorskip(runtime)
    check_shared_by_threads(onestage.load(onnx_file(*kind), runtime=runtime), made([(100, 140)] * 8))


def changed(path, out, change):
    """A copy of an ONNX file in which ``change`` was made to the biases of the class outputs, background first."""
    onnx = pytest.importorskip("onnx")
    model = onnx.load(path)
    count = 0
    for tensor in model.graph.initializer:
        if ".head.cls." in tensor.name and tensor.name.endswith("bias"):
            values = onnx.numpy_helper.to_array(tensor).copy().reshape(-1, len(CLASSES) + 1)
            change(values)
            tensor.CopyFrom(onnx.numpy_helper.from_array(values.reshape(-1), tensor.name))
            count += 1
    assert count  # equal tensors are kept once
    out.write_bytes(model.SerializeToString())
    write_seal(out)
    return out


def with_background(path, value):
    """The small ONNX file, at ``path``, with this bias for all its outputs for background."""

    def change(values):
        values[:, 0] = np.float32(value)

    return changed(onnx_file("detections"), path, change)


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_a_network_that_sees_nothing_finds_nothing(tmp_path, runtime):
    """NMS gets no candidate at all then."""
    pytest.importorskip(runtime)
    file = onestage.load(with_background(tmp_path / "x.onnx", 1e4), runtime=runtime)
    assert [len(one) for one in file.predict(made([(100, 140), (1, 1)]), batch_size=2)] == [0, 0]


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("background", [float("nan"), float("inf")])
def test_a_network_with_weights_that_are_no_numbers_is_refused(tmp_path, runtime, background):
    pytest.importorskip(runtime)
    with pytest.raises(WeightsError, match="not numbers"):
        onestage.load(with_background(tmp_path / "x.onnx", background), runtime=runtime)


@slow
@pytest.mark.parametrize("classes", [1, 500])
def test_one_class_and_very_many(classes, tmp_path):
    torch.manual_seed(0)
    model = lively(onestage.create("tinyssd", num_classes=classes, size=(96, 128)))
    agreement = export(model, tmp_path / "x.onnx").agreement
    assert agreement.paired == agreement.compared > 20


@slow
def test_pixels_as_floats_and_as_integers_are_the_same_pictures(tmp_path):
    model = exported_files.model()
    path = export(model, tmp_path / "x.onnx", config=ExportConfig(pixels="float32"), check=False).path
    images = made([(100, 140), (1, 700), (96, 128)])
    assert agree(onestage.load(onnx_file("detections")).predict(images), onestage.load(path).predict(images))
    assert agree(Predictor.of(model).detect(images), onestage.load(path).predict(images))
