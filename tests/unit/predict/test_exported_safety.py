"""Exported files that are damaged, or made to harm: each is refused before a runtime reads it."""

import os
import re

import numpy as np
import pytest
import torch

import exported_files
import onestage
from onestage.cli.main import main
from onestage.errors import WeightsError
from onestage.predict.contract import TEXT, Contract
from onestage.predict.engines.exported import MOST_BYTES, FileEngine
from onestage.predict.exported import OPENERS
from onestage.predict.seal import SEALS, check_seal, write_seal

onnx = pytest.importorskip("onnx", reason="pip install 'onestage[onnx]'")
pytest.importorskip("onnxruntime", reason="pip install 'onestage[onnx]'")

ENTITIES = '<!DOCTYPE net [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]>'


@pytest.fixture
def onnx_path(tmp_path):
    """A copy of the ONNX file."""
    path = tmp_path / "x.onnx"
    path.write_bytes(exported_files.onnx_file("detections").read_bytes())
    return path


@pytest.fixture
def xml_path(tmp_path):
    """A copy of the OpenVINO file and its .bin."""
    pytest.importorskip("openvino", reason="pip install 'onestage[openvino]'")
    path = tmp_path / "x.xml"
    for end in (".xml", ".bin"):
        path.with_suffix(end).write_bytes(exported_files.openvino_file().with_suffix(end).read_bytes())
    return path


def refused(path, says):
    with pytest.raises(WeightsError, match=says):
        onestage.load(path)


def flip(path, place):
    data = bytearray(path.read_bytes())
    data[place] ^= 64
    path.write_bytes(data)


def test_one_bit_of_a_weight_is_seen(onnx_path, xml_path):
    """The runtime would load it and find other boxes."""
    for path in (onnx_path, xml_path.with_suffix(".bin")):
        flip(path, path.stat().st_size // 2)
    refused(onnx_path, "damaged, or was changed")
    refused(xml_path, "damaged, or was changed")


def test_a_file_with_a_seal_is_still_one_of_its_format(onnx_path):
    onnx.checker.check_model(onnx.load(onnx_path))
    assert onnx.load(onnx_path).metadata_props[-1].key == "onestage_sha256"


@pytest.mark.parametrize("kind", ["onnx", "xml"])
def test_a_file_without_a_seal_is_taken_and_two_seals_are_never_put(kind, onnx_path, xml_path):
    path = {"onnx": onnx_path, "xml": xml_path}[kind]
    data = path.read_bytes()
    write_seal(path)
    assert path.read_bytes() == data
    check_seal(path, data, [path.with_suffix(part).read_bytes() for part in SEALS[path.suffix].parts])
    path.write_bytes(SEALS[path.suffix].split(data)[0])
    assert path.stat().st_size < len(data) and onestage.load(path).classes == exported_files.CLASSES


def test_a_seal_that_is_not_at_the_end_is_no_missing_seal(onnx_path, xml_path):
    """git may change the ends of lines, editors the end of a file, and programs may add metadata."""
    sealed, data = xml_path.read_bytes(), onnx_path.read_bytes()
    for changed in (sealed.replace(b"\n", b"\r\n"), sealed + b"\n", sealed[:-1], sealed[:-20], b"\xef\xbb\xbf" + sealed):
        xml_path.write_bytes(changed)
        refused(xml_path, "damaged, or was changed")
    model = onnx.load(onnx_path)
    model.metadata_props.add(key="later", value="1")
    for changed in (model.SerializeToString(), data + data[-1:], data[:-1]):
        onnx_path.write_bytes(changed)
        refused(onnx_path, "damaged, or was changed")


def external_weights(model):
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../secret.bin")


def external_weights_in_a_branch(model):
    node = model.graph.node.add(op_type="If", name="branch")
    inner = onnx.helper.make_tensor("t", onnx.TensorProto.FLOAT, [1], [0.0])
    inner.external_data.add(key="location", value="/etc/passwd")
    constant = onnx.helper.make_node("Constant", [], ["y"], value=inner)
    node.attribute.append(onnx.helper.make_attribute("then_branch", onnx.helper.make_graph([constant], "g", [], [])))


def operator_of_others(model):
    model.graph.node.add(op_type="EPContext", domain="com.microsoft")


def operators_of_others(model):
    model.opset_import.add(domain="evil.ops", version=1)


def tensor_without_end(model):
    model.graph.initializer[0].dims[:] = [2**31, 2**31]


def negative_side(model):
    model.graph.initializer[0].dims[0] = -1


def weight_that_is_no_number(model, number=float("nan")):
    tensor = max(model.graph.initializer, key=lambda tensor: len(tensor.raw_data))
    values = onnx.numpy_helper.to_array(tensor).copy()
    values.flat[0] = number
    tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))


def infinite_weight(model):
    weight_that_is_no_number(model, float("inf"))


def circle_of_nodes(model):
    """OpenVINO never ends when it reads it."""
    nodes = model.graph.node
    first, last = next(i for i, node in enumerate(nodes) if node.op_type == "Conv"), len(nodes) - 1
    nodes[first].input[0] = nodes[last].output[0]


def name_that_two_nodes_make(model):
    model.graph.node[-1].output[0] = model.graph.node[0].output[0]


def loop_without_end(model):
    body = onnx.helper.make_graph([], "body", [], [])
    model.graph.node.add(op_type="Loop").attribute.append(onnx.helper.make_attribute("body", body))


def operator_that_the_file_defines(model):
    """It may be made of itself."""
    model.functions.add(name="Conv")


def tensor_cut_short(model):
    model.graph.initializer[0].raw_data = b"\0\0\0"


@pytest.mark.parametrize(
    ("harm", "says"),
    [
        (weight_that_is_no_number, "weights that are not numbers"),
        (infinite_weight, "weights that are not numbers"),
        (tensor_cut_short, "does not hold the numbers"),
        (external_weights, "weights from another file"),
        (external_weights_in_a_branch, "weights from another file"),
        (operator_of_others, "foreign operators"),
        (operators_of_others, "foreign operators"),
        (tensor_without_end, "more numbers than the file"),
        (negative_side, "more numbers than the file"),
        (circle_of_nodes, "not in order"),
        (name_that_two_nodes_make, "not in order"),
        (loop_without_end, "loops or branches"),
        (operator_that_the_file_defines, "foreign operators"),
    ],
)
@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_what_an_onnx_file_may_not_contain(onnx_path, harm, says, runtime):
    pytest.importorskip(runtime)
    model = onnx.load(onnx_path)
    harm(model)
    onnx_path.write_bytes(model.SerializeToString())
    write_seal(onnx_path)
    with pytest.raises(WeightsError, match=says):
        onestage.load(onnx_path, runtime=runtime)


@pytest.mark.parametrize(
    ("pattern", "put", "says"),
    [
        (r"<\?xml[^>]*>", f'<?xml version="1.0"?>{ENTITIES}', "damaged"),
        (r'version="opset1"', 'version="extension"', "foreign operators"),
        (r'offset="\d+"', 'offset="99999999999"', "do not fit together"),
        (r'offset="\d+"', 'offset="-1"', "do not fit together"),
        (r"</net>", "", "damaged"),
        (r'type="Transpose"', 'type="ReadValue"', "loops, branches or a state"),
        (r"<onestage", "<twostage", "not exported by onestage"),
    ],
)
def test_what_an_openvino_file_may_not_contain(xml_path, pattern, put, says):
    text, count = re.subn(pattern, put, xml_path.read_text(), count=1)
    assert count == 1
    xml_path.write_text(text)
    write_seal(xml_path)
    refused(xml_path, says)


@pytest.mark.parametrize("number", ["nan", "inf"])
def test_an_openvino_file_with_a_weight_that_is_no_number_is_refused(xml_path, number):
    """OpenVINO runs it, and finds any boxes in silence."""
    places = re.findall(r'element_type="f32".*? offset="(\d+)" size="(\d+)"', xml_path.read_text())
    start, _ = max((tuple(map(int, place)) for place in places), key=lambda place: place[1])
    with xml_path.with_suffix(".bin").open("r+b") as file:
        file.seek(start)
        file.write(np.float32(number).tobytes())
    write_seal(xml_path)
    refused(xml_path, "weights that are not numbers")


def test_the_runtime_gets_the_bytes_that_were_checked(onnx_path, xml_path, monkeypatch):
    picture = torch.zeros(3, 60, 80, dtype=torch.uint8)
    expected = [onestage.load(path).predict(picture)[0] for path in (onnx_path, xml_path)]
    exported_files.change_when_read(monkeypatch)
    for path, before in zip((onnx_path, xml_path), expected, strict=True):
        assert onestage.load(path).predict(picture)[0].boxes.equal(before.boxes)
        assert path.read_bytes() == b"another file"


def test_a_graph_with_the_weights_of_another_is_refused(xml_path):
    weights = xml_path.with_suffix(".bin")
    data = weights.read_bytes()
    weights.write_bytes(data[::-1])
    refused(xml_path, "damaged, or was changed")
    weights.write_bytes(data[:-1])
    refused(xml_path, "damaged, or was changed")
    weights.unlink()
    refused(xml_path, r"cannot be read\n.*x\.bin")
    os.mkfifo(weights)  # a reader would wait for ever
    refused(xml_path, r"not a file\n.*x\.bin")


def test_a_description_without_end_is_not_parsed():
    with pytest.raises(WeightsError, match="damaged"):
        Contract.from_json("[" * (TEXT.most + 1), where="x")


def test_a_file_that_gets_shorter_while_it_is_loaded_changes_nothing(xml_path):
    """A mapped file would end the whole process."""
    file, picture = onestage.load(xml_path), torch.zeros(3, 60, 80, dtype=torch.uint8)
    expected = file.predict(picture)[0]
    os.truncate(xml_path.with_suffix(".bin"), 0)
    assert file.predict(picture)[0].boxes.equal(expected.boxes)


@pytest.mark.parametrize("number", [-1, 3])
def test_a_number_of_detections_that_cannot_be_is_an_error(number):
    contract = Contract(exported_files.model().config, "detections")
    outputs = [np.zeros((1, 2, 4), np.float32), np.zeros((1, 2), np.float32), np.zeros((1, 2), int), np.array([number])]
    with pytest.raises(WeightsError, match="does not give what it promises"):
        FileEngine(contract, lambda _: outputs, "x")(torch.zeros(1, 3, 8, 8), torch.zeros(1, 4))


def test_a_program_of_torch_is_not_opened_without_trust(tmp_path, capsys, monkeypatch):
    path = tmp_path / "x.pt2"
    path.write_bytes(b"any program")
    (tmp_path / "a.png").touch()
    with monkeypatch.context() as patched:
        patched.setattr(type(path), "open", lambda *_: pytest.fail("it was opened"))
        refused(path, "could run code")
        assert main(["predict", str(path), str(tmp_path / "a.png")]) == 2
    assert "say so: --trusted" in capsys.readouterr().err
    with pytest.raises(WeightsError, match="cannot be read"):
        onestage.load(path, trusted=True)


@pytest.mark.parametrize("suffix", list(OPENERS))
def test_a_file_that_is_too_large_is_not_read(suffix, tmp_path, monkeypatch):
    pytest.importorskip({".xml": "openvino", ".param": "ncnn", ".tflite": "ai_edge_litert"}.get(suffix, "onnx"))
    path = tmp_path / f"x{suffix}"
    for end in {suffix, *SEALS[suffix].parts} if suffix in SEALS else {suffix}:
        path.with_suffix(end).touch()
        os.truncate(path.with_suffix(end), MOST_BYTES + 1)
    monkeypatch.setattr(type(path), "open", lambda *_: pytest.fail("it was opened"))
    with pytest.raises(WeightsError, match="too large"):
        onestage.load(path, trusted=True)


@pytest.mark.parametrize("suffix", list(OPENERS))
def test_a_file_that_is_not_there_is_said_to_be_so(suffix, tmp_path):
    with pytest.raises(WeightsError, match="no such file") as caught:
        onestage.load(tmp_path / f"absent{suffix}")
    assert "trusted" not in str(caught.value)
