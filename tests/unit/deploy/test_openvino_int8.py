"""A quantised network in OpenVINO finds the same for every number of images: with a free batch, OpenVINO itself does not."""

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier, Event

import numpy as np
import pytest

from onestage.deploy.openvino import save_openvino
from onestage.predict.engines import openvino as engine
from onestage.predict.engines.openvino import ANY, GROUPS, _Programs, _Requests, the_core, with_batch

STEP = 0.05
"""Of the rounding behind the convolution."""


@pytest.fixture(scope="module")
def network():
    """uint8 images (B, 3, 32, 32) -> a convolution with another range in each channel, rounded to int8: (B, 16, 32, 32); and
    0 .. B-1, because OpenVINO joins the convolution and the rounding unless the model has a tensor of such a size.
    """
    onnx = pytest.importorskip("onnx", reason="pip install 'onestage[onnx]'")
    pytest.importorskip("openvino", reason="pip install 'onestage[openvino]'")
    rng, made = np.random.default_rng(0), onnx.helper.make_node
    values = {
        "weight": rng.integers(-64, 65, (16, 3, 3, 3)).astype(np.int8),
        "steps": (1e-5 * 2.0 ** np.arange(16)).astype(np.float32),
        "zeros": np.zeros(16, np.int8),
        "bias": rng.normal(size=16).astype(np.float32),
        "pixel": np.float32(1),
        "middle": np.uint8(100),
        "step": np.float32(STEP),
        "least": np.uint8(0),
        "0": np.int64(0),
        "1": np.int64(1),
        "axis": np.array([0]),
    }
    nodes = [
        made("Cast", ["images"], ["pixels"], to=onnx.TensorProto.FLOAT),
        made("QuantizeLinear", ["pixels", "pixel", "middle"], ["pixels8"]),
        made("DequantizeLinear", ["pixels8", "pixel", "middle"], ["input"]),
        made("DequantizeLinear", ["weight", "steps", "zeros"], ["weights"], axis=0),
        made("Conv", ["input", "weights", "bias"], ["sums"], pads=[1, 1, 1, 1]),
        made("Relu", ["sums"], ["parts"]),
        made("QuantizeLinear", ["parts", "step", "least"], ["parts8"]),
        made("DequantizeLinear", ["parts8", "step", "least"], ["boxes"]),
        made("Shape", ["images"], ["sizes"], start=0, end=1),
        made("Squeeze", ["sizes", "axis"], ["count"]),
        made("Range", ["0", "count", "1"], ["num"]),
    ]
    entry, types = onnx.helper.make_tensor_value_info, onnx.TensorProto
    graph = onnx.helper.make_graph(
        nodes,
        "network",
        [entry("images", types.UINT8, ["B", 3, 32, 32])],
        [entry("boxes", types.FLOAT, ["B", 16, 32, 32]), entry("num", types.INT64, ["B"])],
        [onnx.numpy_helper.from_array(np.asarray(value), name) for name, value in values.items()],
    )
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=9)


@pytest.fixture(scope="module")
def saved(network, tmp_path_factory):
    """The path of the network as an OpenVINO file."""
    path = tmp_path_factory.mktemp("int8") / "network.xml"
    save_openvino(network, path)
    return path


def test_for_every_number_of_images_it_computes_what_onnxruntime_computes(network, saved):
    onnxruntime = pytest.importorskip("onnxruntime", reason="pip install 'onestage[onnx]'")
    reference = onnxruntime.InferenceSession(network.SerializeToString(), providers=["CPUExecutionProvider"])
    model = the_core().read_model(saved)
    run = _Requests(_Programs(the_core(), model, wanted="f32", exact=True), ["boxes", "num"])
    images = np.random.default_rng(1).integers(0, 256, (23, 3, 32, 32)).astype(np.uint8)
    for count in (1, 2, 5, 23, 3, 7, 1, 2):
        found, numbers = run({"images": images[:count]})
        expected = reference.run(["boxes"], {"images": images[:count]})[0]
        assert expected.std() > 10 * STEP and len(numbers) == count
        np.testing.assert_allclose(found, expected, atol=1.01 * STEP)


def test_a_program_that_knows_no_batch_would_find_what_the_file_finds(saved):
    """The file has a batch of one image: who compiles it as it is gets right numbers, or an error for more images."""
    openvino = pytest.importorskip("openvino", reason="pip install 'onestage[openvino]'")
    (entry,) = the_core().read_model(saved).inputs
    assert entry.partial_shape == openvino.PartialShape([1, 3, 32, 32])


def test_any_number_of_images_needs_no_more_than_some_programs(saved):
    """Each takes memory, and a third of a second to compile: a server that gets now 5 images, now 7, would wait for each."""
    programs = _Programs(the_core(), the_core().read_model(saved), wanted="f32", exact=True)
    cut = {count: [*programs.groups(count)] for count in range(1, 40)}
    assert all(sum(groups) == count for count, groups in cut.items()) and cut[23] == [8, 8, 4, 2, 1]
    made = {count: programs.of(count) for count in GROUPS}
    assert {size for groups in cut.values() for size in groups} == {*made} == {*programs._compiled}
    assert all(programs.of(count) is program for count, program in made.items())


def test_eight_threads_make_the_first_call_together(saved):
    """Each program is compiled once, and no thread writes where another one reads."""
    programs = _Programs(the_core(), the_core().read_model(saved), wanted="f32", exact=True)
    run, start = _Requests(programs, ["boxes"]), Barrier(8)
    images = np.random.default_rng(2).integers(0, 256, (8, 11, 3, 32, 32)).astype(np.uint8)

    def call(number):
        start.wait()
        return [run({"images": images[number]})[0] for _ in range(5)]

    with ThreadPoolExecutor(8) as pool:
        found = [*pool.map(call, range(8))]
    for number, several in enumerate(found):
        (expected,) = run({"images": images[number]})
        assert all(np.array_equal(one, expected) for one in several)
    assert {*programs._compiled} == {8, 2, 1}


def test_a_program_that_is_there_waits_for_no_other_one(saved, monkeypatch):
    """A server answers single images while the program for eight is compiled."""
    programs, began, ended = _Programs(the_core(), the_core().read_model(saved), wanted="f32", exact=True), Event(), Event()
    run, image = _Requests(programs, ["boxes"]), np.zeros((1, 3, 32, 32), np.uint8)
    run({"images": image})
    usual = engine._compiled

    def slow(*arguments):
        began.set()
        assert ended.wait(60)
        return usual(*arguments)

    monkeypatch.setattr(engine, "_compiled", slow)
    with ThreadPoolExecutor(2) as pool:
        eight = pool.submit(run, {"images": np.repeat(image, 8, axis=0)})
        assert began.wait(60)
        try:
            pool.submit(run, {"images": image}).result(60)
        finally:
            ended.set()
        assert len(eight.result(60)[0]) == 8


def test_a_file_for_a_fixed_number_of_images_is_compiled_as_it_is(network, tmp_path):
    """Its batch is no free one, so OpenVINO computes it rightly, and no other is ever asked for."""
    model = with_batch(the_core().read_model(network.SerializeToString(), b""), 6)
    programs = _Programs(the_core(), model, wanted="f32", exact=False)
    images = np.random.default_rng(3).integers(0, 256, (6, 3, 32, 32)).astype(np.uint8)
    free = _Programs(the_core(), the_core().read_model(network.SerializeToString(), b""), wanted="f32", exact=True)
    (found,), (expected,) = (_Requests(one, ["boxes"])({"images": images}) for one in (programs, free))
    np.testing.assert_allclose(found, expected, atol=1.01 * STEP)
    assert [*programs._compiled] == [ANY]
