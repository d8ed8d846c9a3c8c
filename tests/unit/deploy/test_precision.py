"""Files in fewer bits: in float16, and in int8 behind a gate of AP."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import onestage
from onestage.cli.generate import write_data_set
from onestage.cli.main import main
from onestage.data.reader import open_data
from onestage.data.synthetic import SyntheticConfig
from onestage.deploy import int8
from onestage.deploy.accuracy import accuracy
from onestage.deploy.benchmark import pictures
from onestage.deploy.check import IN_HALF, check_file
from onestage.deploy.export import export
from onestage.deploy.halves import halves, in_half
from onestage.deploy.int8 import Int8Data, divided, interval
from onestage.deploy.onnx import describe, save_onnx
from onestage.deploy.openvino import save_openvino
from onestage.deploy.plan import ExportConfig, plan_export
from onestage.deploy.quantise import for_integers, in_float, layers, most_sensitive, quantised
from onestage.errors import ConfigError, DataError, WeightsError
from onestage.predict.contract import Contract, Quantised
from onestage.predict.engines.openvino import PRECISION
from onestage.predict.exported import open_exported

onnx = pytest.importorskip("onnx", reason="pip install 'onestage[onnx]'")
onnxruntime = pytest.importorskip("onnxruntime", reason="pip install 'onestage[onnx]'")


@pytest.fixture(scope="module")
def whole(folder):
    """The ONNX model of the shared file, in float32."""
    model = onnx.load(folder / "model.onnx")
    kept = [entry for entry in model.metadata_props if entry.key == "onestage"]  # without the seal
    del model.metadata_props[:]
    model.metadata_props.extend(kept)
    return model


@pytest.fixture(scope="module")
def parts(whole):
    return halves(whole)


@pytest.fixture(scope="module")
def inputs():
    images = torch.rand(6, 1, 3, 96, 128, generator=torch.Generator().manual_seed(0)).mul(255).byte()
    return [{"images": image.numpy()} for image in images]


def run(network, inputs):
    session = onnxruntime.InferenceSession(network.SerializeToString(), providers=["CPUExecutionProvider"])
    return [value for one in inputs for value in session.run(None, one)]


def error(network, other, inputs):
    """The root mean square difference of all outputs, in their standard deviations."""
    pairs = zip(run(network, inputs), run(other, inputs), strict=True)
    return max(float(np.sqrt(np.mean((one - two) ** 2)) / one.std()) for one, two in pairs)


def test_the_halves_are_the_whole(whole, parts):
    again = parts.joined(parts.network)
    onnx.checker.check_model(again, full_check=True)
    assert sorted(node.op_type for node in again.graph.node) == sorted(node.op_type for node in whole.graph.node)
    assert not {"Conv", "MatMul"} & {node.op_type for node in parts.tail}
    assert {"NonMaxSuppression", "TopK"} <= {node.op_type for node in parts.tail}
    image = {"images": np.full((2, 3, 96, 128), 99, np.uint8)}
    assert all(np.array_equal(a, b) for a, b in zip(run(whole, [image]), run(again, [image]), strict=True))


def test_a_file_in_float16_finds_the_same_in_every_runtime(model, whole, tmp_path):
    path = tmp_path / "half.onnx"
    half = in_half(whole)
    save_onnx(half, path)
    types = {tensor.data_type for tensor in half.graph.initializer if tensor.name.startswith("network")}
    assert types <= {onnx.TensorProto.FLOAT16, onnx.TensorProto.INT64} and path.stat().st_size < 0.7 * whole.ByteSize()
    total = check_file(model, open_exported(path), pictures(5, (100, 140)), IN_HALF)
    assert total.within(IN_HALF) and total.compared > 20 and total.score > 1e-6
    openvino = pytest.importorskip("openvino", reason="pip install 'onestage[openvino]'")
    save_openvino(half, tmp_path / "half.xml")
    assert (tmp_path / "half.bin").stat().st_size < 0.7 * whole.ByteSize()
    graph = openvino.Core().read_model(tmp_path / "half.xml").get_ops()
    singles = [op.data for op in graph if op.get_type_name() == "Constant" and op.data.dtype == np.float32]
    assert not all(np.array_equal(data, data.astype(np.float16)) for data in singles), "anchors, which lose digits in float16"
    total = check_file(model, open_exported(tmp_path / "half.xml"), pictures(5, (100, 140)), IN_HALF)
    assert total.within(IN_HALF) and total.compared > 20


def test_an_export_in_float16_is_checked_as_one_and_opened_as_one(model, whole, tmp_path, monkeypatch):
    def captured_before(plan):
        again = onnx.ModelProto()
        again.CopyFrom(whole)
        describe(again, plan.contract)
        return again

    checked, hints = [], []
    monkeypatch.setattr("onestage.deploy.onnx.onnx_model", captured_before)
    monkeypatch.setattr("onestage.deploy.export.check_file", lambda *given: (checked.append(given[-1]), check_file(*given))[1])
    config = ExportConfig(precision="fp16")
    made = export(model, tmp_path / "m.onnx", config=config, pictures=pictures(1, (100, 140)))
    assert open_exported(made.path).engine.contract.precision == "fp16" and made.agreement.score > 1e-6
    openvino = pytest.importorskip("openvino", reason="pip install 'onestage[openvino]'")

    compile_model = openvino.Core.compile_model

    def noting(core, model, device, settings):
        compiled = compile_model(core, model, device, settings)
        hints.append((settings[PRECISION], compiled.get_property(PRECISION).get_type_name()))
        return compiled

    monkeypatch.setattr(openvino.Core, "compile_model", noting)
    made = export(model, tmp_path / "m.xml", to="openvino", config=config, pictures=pictures(1, (100, 140)))
    assert open_exported(made.path).engine.contract.precision == "fp16" and made.agreement.score > 1e-6
    assert checked == [IN_HALF] * 2
    assert hints[0][0] == "f16" and hints[-1] in {("f16", "f16"), ("f32", "f32")}  # never bfloat16


@pytest.mark.parametrize("able", [True, False])
def test_bfloat16_in_openvino_is_not_believed_but_read_back(able, folder, monkeypatch):
    openvino = pytest.importorskip("openvino", reason="pip install 'onestage[openvino]'")
    from onestage.predict.engines import openvino as engine

    compile_model, hints = openvino.Core.compile_model, []

    def compiled(core, model, device, settings):
        hints.append(settings[PRECISION])
        return compile_model(core, model, device, settings | {PRECISION: "f32"})

    monkeypatch.setattr(openvino.Core, "compile_model", compiled)
    if able:  # whatever this processor can
        monkeypatch.setattr(engine, "_read_back", lambda compiled: "bf16")
        opened = open_exported(folder / "model.onnx", "openvino", bf16=True)
        assert opened.engine.numbers == "bf16" and hints == ["bf16"]
        return
    with pytest.raises(ConfigError, match="does not compute in bfloat16 on this processor"):
        open_exported(folder / "model.onnx", "openvino", bf16=True)
    assert hints == ["bf16", "f32"]
    with pytest.raises(ConfigError, match="OpenVINO alone computes in bfloat16"):
        open_exported(folder / "model.onnx", "onnxruntime", bf16=True)


def test_bfloat16_in_openvino_finds_the_same_objects(model, folder):
    """Boxes are decoded in float32: with 8 bits their sides would be off by pixels."""
    pytest.importorskip("openvino", reason="pip install 'onestage[openvino]'")
    try:
        file = open_exported(folder / "model.onnx", "openvino", bf16=True)
    except ConfigError:
        pytest.skip("this processor does not compute in bfloat16")
    images = pictures(4, (96, 128))
    exact = open_exported(folder / "model.onnx", "openvino").predict(images)
    near = 0
    for one, other in zip(exact, file.predict(images), strict=True):
        overlap = onestage.boxes.iou(one.boxes[:20], other.boxes)
        near += int(((overlap > 0.9) & (one.labels[:20, None] == other.labels)).any(1).sum())
        assert not other.boxes.equal(other.boxes.bfloat16().float()), "they have more bits than bfloat16"
    assert near >= 0.8 * sum(min(20, len(one)) for one in exact)


def test_int8_layers_are_integers_and_go_back_to_float(parts, inputs):
    pytest.importorskip("nncf", reason="pip install 'onestage[int8]'")
    network = quantised(parts.network, inputs, len(inputs))
    names = layers(network)
    convolutions = [node.name for node in parts.network.graph.node if node.op_type == "Conv"]
    assert {*convolutions} <= {*names}
    assert 1e-3 < error(parts.network, network, inputs) < 0.5
    fast = for_integers(network)
    assert not {"Relu"} & {node.op_type for node in fast.graph.node}
    assert error(network, fast, inputs) < 0.1
    floats = in_float(network, parts.network, names)
    assert error(parts.network, floats, inputs) < 1e-5 and not {"Relu"} & {*layers(for_integers(floats))}
    order = most_sensitive(network, parts.network, inputs[:1])
    assert sorted(order) == sorted(names)
    one = in_float(network, parts.network, order[: len(order) // 2])
    assert error(parts.network, one, inputs) < error(parts.network, network, inputs)


def test_the_contract_says_the_precision_and_old_files_are_in_float32(model):
    facts = Quantised(10, 5, 0.5, 0.49, -0.02, 0.01, layers=30, in_float=2)
    contract = replace(plan_export(model, ExportConfig()).contract, precision="int8", quantised=facts)
    text = contract.to_json()
    assert Contract.from_json(text, where="") == contract and facts.drop == pytest.approx(0.01)
    plain = json.loads(text)
    del plain["precision"], plain["int8"]
    old = Contract.from_json(json.dumps(plain), where="")
    assert old.precision == "fp32" and old.quantised is None
    for bad in (
        {"precision": "int4"},
        {"int8": {"AP": 1}},
        {"int8": plain["classes"]},
        {"int8": json.loads(text)["int8"] | {"AP": "x"}},
    ):
        with pytest.raises(WeightsError, match="damaged"):
            Contract.from_json(json.dumps(json.loads(text) | bad), where="")


@pytest.fixture(scope="module")
def labelled(tmp_path_factory):
    """A folder with pictures of train and val."""
    folder = tmp_path_factory.mktemp("labelled")
    write_data_set(folder / "set", {"train": 6, "val": 4}, SyntheticConfig(seed=1, size=(64, 96)))
    return folder / "set"


def test_pictures_that_are_measured_are_not_calibrated_on(labelled):
    opened = open_data(labelled)
    first, second = divided(opened, opened.load("val").classes)
    assert (len(first), len(second), second.split) == (6, 4, "val")
    data = Int8Data([*second.paths, *first.paths], second)
    assert [str(path) for path in data.pictures] == list(first.paths)
    with pytest.raises(ConfigError, match="besides"):
        Int8Data(second.paths, second)
    with pytest.raises(ConfigError, match="max_drop"):
        Int8Data(first.paths, second, max_drop=-1)


def test_a_data_set_with_one_split_is_cut_in_two(labelled, monkeypatch):
    opened = open_data(labelled)
    monkeypatch.setattr(type(opened), "splits", ("val",))
    first, second = divided(opened, opened.load("val").classes)
    assert (len(first), len(second)) == (2, 2) and not {*first.paths} & {*second.paths}


def test_a_split_that_is_named_and_not_there_is_not_replaced_by_another(labelled):
    whole = open_data(labelled)
    classes, fault = whole.load("val").classes, DataError("there is no such folder")
    for has, names in ((["train"], "val"), (["train"], "test"), (["val"], "train"), (["test"], "val")):
        part = SimpleNamespace(splits=has, missing={names: fault}, load=whole.load)
        with pytest.raises(DataError, match="no such folder"):
            divided(part, classes)
    part = SimpleNamespace(splits=["train", "val"], missing={"test": fault}, load=whole.load)
    assert [len(half) for half in divided(part, classes)] == [6, 4]  # as evaluate chooses


def test_a_path_is_no_list_of_pictures(labelled):
    measure = open_data(labelled).load("val")
    for path in (labelled, str(labelled)):
        with pytest.raises(ConfigError, match="calibrate is a list"):
            Int8Data(path, measure)


def test_the_interval_is_of_pairs_and_comes_again(model, labelled):
    dataset = open_data(labelled).load("val", classes=None)
    twin = onestage.build(replace(model.config, classes=dataset.classes, category_ids=dataset.category_ids))
    before = accuracy(twin, dataset)
    assert interval(before, before) == (0.0, 0.0)
    blind = replace(before, found=tuple(found.select([]) for found in before.found), AP=0.0)
    low, high = interval(before, blind)
    assert low <= -before.AP <= high and interval(before, blind) == (low, high)


def test_what_cannot_be_is_refused_before_the_work(model, labelled, tmp_path, capsys):
    config = ExportConfig(precision="int8")
    with pytest.raises(ConfigError, match="labelled pictures"):
        export(model, tmp_path / "m.onnx", config=config)
    for to, end in (("torch", "pt2"), ("ncnn", "ncnn.param"), ("litert", "tflite")):
        for precision in ("fp16", "int8"):
            with pytest.raises(ConfigError, match=f"cannot be in {precision}"):
                export(model, tmp_path / f"m.{end}", to=to, config=ExportConfig(precision=precision))
    opened = open_data(labelled)
    first, second = divided(opened, opened.load("val").classes)
    with pytest.raises(ConfigError, match="always measured"):
        export(model, tmp_path / "m.onnx", config=config, check=False, labelled=Int8Data(first.paths, second))
    model.save(tmp_path / "m.safetensors")
    assert main(["export", str(tmp_path / "m.safetensors"), "-o", str(tmp_path / "m.onnx"), "--precision", "int8"]) == 2
    assert "--data FOLDER" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["m.safetensors"]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--calibrate", "pictures"], "--calibrate is for int8 alone"),
        (["--max-drop", "0.005"], "--max-drop is for int8 alone"),
        (["--precision", "fp16", "--max-drop", "0.1"], "--max-drop is for int8 alone"),
        (["--data", "pictures", "--no-check"], "--data is what the file is checked with"),
        (["--data", "pictures", "--no-check", "--precision", "int8"], "an int8 file is always measured"),
    ],
)
def test_no_option_is_taken_and_ignored(model, tmp_path, monkeypatch, capsys, options, says):
    monkeypatch.chdir(tmp_path)
    model.save("m.safetensors")
    assert main(["export", "m.safetensors", *options]) == 2
    assert says in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["m.safetensors"]


def test_labelled_pictures_are_not_ignored_without_a_check(model, labelled, tmp_path):
    opened = open_data(labelled)
    with pytest.raises(ConfigError, match="measured on"):
        export(model, tmp_path / "m.onnx", check=False, labelled=opened.load("val"))


class Written:
    """Stands for the files of a search: each write is noted, and none is a file."""

    def __init__(self, monkeypatch, drops):
        self.drops, self.floats = iter(drops), []
        monkeypatch.setattr(int8, "accuracy", lambda file, data: self.next())
        monkeypatch.setattr(int8, "open_exported", lambda path: None)
        monkeypatch.setattr(int8, "interval", lambda before, after: (-1.0, 1.0))
        real = int8.in_float
        monkeypatch.setattr(int8, "in_float", lambda a, b, names: (self.floats.append(len(names)), real(a, b, names))[1])

    def next(self):
        return type("Found", (), {"AP": 0.5 - next(self.drops)})


def test_layers_go_back_to_float_until_the_drop_is_small_enough(model, whole, labelled, tmp_path, monkeypatch):
    pytest.importorskip("nncf", reason="pip install 'onestage[int8]'")
    opened = open_data(labelled)
    first, second = divided(opened, opened.load("val").classes)
    save_onnx(whole, tmp_path / "m.onnx")
    file = open_exported(tmp_path / "m.onnx")
    data, wrote = Int8Data(first.paths, second), Written(monkeypatch, [0, 0.02, 0.01, 0.004])
    found = int8.write_int8(whole, file, tmp_path / "q.onnx", save_onnx, data)
    assert wrote.floats == [1, 2] and found.in_float == 2 and found.AP == 0.496 and found.calibrated == 6
    monkeypatch.undo()
    contract = open_exported(tmp_path / "q.onnx").engine.contract
    assert contract.precision == "int8" and contract.quantised == found
    Written(monkeypatch, [0] + [0.5] * 99)
    with pytest.raises(WeightsError, match="costs this detector too much"):
        int8.write_int8(whole, file, tmp_path / "r.onnx", save_onnx, data)


@pytest.mark.slow
@pytest.mark.parametrize(("to", "name"), [("onnx", "m.onnx"), ("openvino", "m.xml")])
def test_a_file_that_loses_too_much_is_refused_and_leaves_nothing(to, name, model, labelled, tmp_path, monkeypatch):
    """The drop itself decides, not its interval, which is wide here."""
    pytest.importorskip("nncf", reason="pip install 'onestage[int8]'")
    pytest.importorskip("openvino", reason="pip install 'onestage[openvino]'")
    opened = open_data(labelled)
    first, second = divided(opened, opened.load("val").classes)
    data, config = Int8Data(first.paths, second), ExportConfig(precision="int8")
    Written(monkeypatch, [0] + [0.0051] * 99)
    with pytest.raises(WeightsError, match=r"costs this detector too much(.|\n)*a drop of at most 0\.005"):
        export(model, tmp_path / name, to=to, config=config, labelled=data)
    assert list(tmp_path.iterdir()) == []
    monkeypatch.undo()
    wrote = Written(monkeypatch, [0, 0.0051, 0.0051, 0.0049])
    made = export(model, tmp_path / name, to=to, config=config, labelled=data)
    assert wrote.floats == [1, 2] and made.contract.quantised.in_float == 2
    assert onestage.load(tmp_path / name).engine.contract.quantised == made.contract.quantised


@pytest.mark.slow
@pytest.mark.parametrize("to", ["onnx", "openvino"])
def test_the_real_coco_ssd_in_int8(to, shared_data, tmp_path):
    """Calibrated on pictures of VOC, measured on 80 of COCO."""
    pytest.importorskip("nncf", reason="pip install 'onestage[int8]'")
    pytest.importorskip("tflite", reason="pip install 'onestage[tflite]'")
    from tflite_files import read

    config, tensors = read(shared_data / "weights/coco_ssd_mobilenet_v1_quant_2018_06_29.tflite")
    source = onestage.build(config.replace({"postprocess.detections": 100})).eval()
    source.load_state_dict(tensors)
    measure = open_data(shared_data / "coco_tiny").load(None, classes=source.classes)
    calibrate = sorted((shared_data / "metrics_formats").rglob("*.jpg"))
    path = tmp_path / ("m.onnx" if to == "onnx" else "m.xml")
    made = export(source, path, to=to, config=ExportConfig(precision="int8"), labelled=Int8Data(calibrate, measure))
    assert made.contract.quantised.drop <= 0.005
    report = onestage.evaluate(path, measure, workers=0)
    assert abs(report.coco.AP - made.contract.quantised.AP) < 1e-9
    assert made.int8.bytes[1] < 0.4 * made.int8.bytes[0]
