"""Exported files: written, checked, opened again, used without this package, and refused when they are not ours."""

import copy
import json
import math
import os
import re
import runpy
import shutil
import subprocess
import sys
import warnings
import zipfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

import onestage
from exported_files import check_shared_by_threads
from lively import lively
from onestage.cli.export import _labelled
from onestage.cli.main import main
from onestage.data.synthetic import SyntheticConfig, generate
from onestage.data.writers import write_coco
from onestage.deploy.benchmark import pictures
from onestage.deploy.check import TOLERANCE, Agreement, check_file, compare, drawn_pictures
from onestage.deploy.example import write_example
from onestage.deploy.export import FORMATS, ExportConfig, _targets, export
from onestage.deploy.graph import MOST_CANDIDATES
from onestage.deploy.onnx import quietly
from onestage.deploy.plan import plan_export
from onestage.deploy.runtimes import run_by
from onestage.deploy.vectors import README
from onestage.errors import ConfigError, OnestageError, UnfitError, WeightsError, WriteError
from onestage.files import UNWRITABLE, writing
from onestage.images import decode_image
from onestage.model.output.scores import Scores
from onestage.model.output.suppress import SoftNMS
from onestage.predict.contract import KEY, VERSION, Contract
from onestage.predict.engines.exported import FileEngine
from onestage.predict.exported import open_exported
from onestage.predict.predictor import Predictor

onnx = pytest.importorskip("onnx", reason="pip install 'onestage[onnx]'")
pytest.importorskip("onnxruntime", reason="pip install 'onestage[onnx]'")

PLACES = 200
"""Detections that a picture can have, as in SSD's recipe."""


def agreement(model, found, images):
    """How well detections agree with what the model finds in pictures (3, H, W)."""
    pairs = zip(model.predict(images), found, strict=True)
    return sum((compare(*pair, TOLERANCE, places=PLACES) for pair in pairs), Agreement())


def test_the_file_finds_what_the_model_finds_for_any_number_of_pictures(model, folder):
    file = onestage.load(folder / "model.onnx")
    assert file.classes == model.classes and file.config == model.config
    images = pictures(7, (100, 140))
    for count in (1, 2, 7):
        found = file.predict(images[:count], batch_size=count)
        agreements = [
            compare(a, b, TOLERANCE, places=PLACES) for a, b in zip(model.predict(images[:count]), found, strict=True)
        ]
        total = sum(agreements, Agreement())
        assert total.compared > 20 and total.paired == total.compared
    assert file.predict([]) == []


def test_openvino_finds_the_same_in_float32(model, folder):
    pytest.importorskip("openvino", reason="pip install 'onestage[openvino]'")
    images = pictures(5, (100, 140))
    found = onestage.load(folder / "model.onnx", runtime="openvino").predict(images, batch_size=5)
    total = agreement(model, found, images)
    assert total.compared > 20 and total.paired == total.compared and total.score < 1e-4  # bfloat16 is 1e-2 off


@pytest.mark.slow
def test_an_openvino_file_is_two_files(model, tmp_path):
    pytest.importorskip("openvino", reason="pip install 'onestage[openvino]'")
    images = pictures(5, (100, 140))
    path = export(model, tmp_path / "model.xml", to="openvino").path
    total = agreement(model, onestage.load(path).predict(images), images)
    assert total.compared > 20 and total.paired == total.compared and total.score < 1e-4
    assert {path.name for path in tmp_path.iterdir()} == {"model.xml", "model.bin", "model.xml_vectors"}
    with pytest.raises(ConfigError, match=r"takes no \.xml"):
        onestage.load(path, runtime="onnxruntime")


FAMILIES = {
    "ssdlite320_mobilenet_v3_large": {"size": (128, 128)},
    "retinanet_r18_fpn": {"size": (96, 128)},
    "efficientdet_d0": {"size": (128, 128)},
    "ssd300_vgg16": {},
    "dssd": {"backbone": "resnet10t", "size": (192, 192)},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_is_exported(name, tmp_path):
    torch.manual_seed(0)
    model = lively(onestage.create(name, 3, **FAMILIES[name]))
    made = export(model, tmp_path / "model.onnx")
    assert made.agreement.compared > 50 and made.agreement.paired >= 0.995 * made.agreement.compared


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tinyssd", "retinanet_r18_fpn"])
def test_a_file_without_nms_is_decoded_behind_it(name, tmp_path):
    torch.manual_seed(0)
    model = lively(onestage.create(name, 3, size=(96, 128)))
    made = export(model, tmp_path / "model.onnx", config=ExportConfig(nms="none", size=(96, 128)))
    assert made.contract.batch == 1 and made.agreement.paired == made.agreement.compared > 20


@pytest.mark.slow
def test_a_torch_program_needs_torch_alone_and_trust(model, tmp_path):
    path = export(model, tmp_path / "model.pt2", to="torch").path
    with pytest.raises(WeightsError, match="could run code"):
        onestage.load(path)
    images = pictures(3, (100, 140))
    found = onestage.load(path, trusted=True).predict(images)
    total = sum(
        (compare(a, b, TOLERANCE, places=PLACES) for a, b in zip(model.predict(images), found, strict=True)), Agreement()
    )
    assert total.compared > 20 and total.paired == total.compared
    program = """
import sys
sys.path.append(sys.argv[2])
import torch
sys.modules["onestage"] = None
program = torch.export.load(sys.argv[1])
graphs = [part.graph for part in program.graph_module.modules() if hasattr(part, "graph")]
assert not [node for graph in graphs for node in graph.nodes if "onestage" in str(node.target).split(".")[0]]
for count in (1, 2, 5):
    print([tuple(x.shape) for x in program.module()(torch.zeros(count, 3, 96, 128, dtype=torch.uint8))])
"""
    command = [sys.executable, "-I", "-S", "-c", program, path, Path(torch.__file__).parents[1]]  # without .pth files of venvs
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:-1] == [f"[({n}, 200, 4), ({n}, 200), ({n}, 200), ({n},)]" for n in (1, 2, 5)]
    data = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        assert not [name for name in archive.namelist() if b".py" in archive.read(name)]
    flipped = len(data) // 2
    for damaged in (data[:1000], b"", data[:flipped] + bytes([data[flipped] ^ 0x40]) + data[flipped + 1 :]):
        path.write_bytes(damaged)
        with pytest.raises(WeightsError, match="cannot be read"):
            onestage.load(path, trusted=True)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ssdlite320_mobilenet_v3_large", "retinanet_r18_fpn", "efficientdet_lite0"])
def test_torch_programs_of_every_family(name, tmp_path):
    torch.manual_seed(0)
    size = (96, 128) if name == "retinanet_r18_fpn" else (128, 128)
    model = lively(onestage.create(name, 3, size=size))
    made = export(model, tmp_path / "model.pt2", to="torch", config=ExportConfig(size=size))
    assert made.agreement.paired == made.agreement.compared > 50


def test_a_flipped_bit_of_a_torch_program_is_seen(tmp_path):
    """torch reads its archives without looking at their checksums."""

    class Sum(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.arange(100.0))

        def forward(self, images):
            return images.sum() + self.weight

    torch.export.save(torch.export.export(Sum(), (torch.zeros(2),)), tmp_path / "x.pt2")
    data, weights = (tmp_path / "x.pt2").read_bytes(), torch.arange(100.0).numpy().tobytes()
    with pytest.raises(WeightsError, match="not exported by onestage"):
        onestage.load(tmp_path / "x.pt2", trusted=True)
    at = data.index(weights) + 200
    (tmp_path / "x.pt2").write_bytes(data[:at] + bytes([data[at] ^ 0x40]) + data[at + 1 :])
    with pytest.raises(WeightsError, match="not as it was written"):
        onestage.load(tmp_path / "x.pt2", trusted=True)


def test_a_file_does_not_say_where_its_maker_s_program_lies(folder):
    named = re.findall(rb'[^\s"]*\.py\b', (folder / "model.onnx").read_bytes())
    assert all(name.startswith(b"torch/") for name in named)  # torch 2.10 names a file of torch


def test_what_follows_the_network_gathers_no_more_than_a_number_for_each_candidate(folder):
    """Runtimes gather single numbers slowly: rows of scores and boxes are copied whole."""
    graph = onnx.load(folder / "model.onnx").graph
    shapes = {value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim[1:]] for value in graph.value_info}
    kinds = Counter(node.op_type for node in graph.node)
    gathered = [math.prod(shapes[node.output[0]]) for node in graph.node if node.op_type == "GatherElements"]
    assert gathered
    assert max(gathered) <= MOST_CANDIDATES
    assert kinds["NonMaxSuppression"] == 1
    assert kinds["TopK"] == 3


def test_threads_share_a_file(folder):
    check_shared_by_threads(onestage.load(folder / "model.onnx"), pictures(8, (100, 140)))


def test_the_contract_says_what_a_stranger_needs(model, folder):
    import onnx

    entries = {entry.key: entry.value for entry in onnx.load(folder / "model.onnx").metadata_props}
    about = json.loads(entries["onestage"])
    assert about["classes"] == ["ball", "red box", "x"] and about["category_ids"] == list(model.config.category_ids)
    assert about["resize"] == {"mode": "stretch", "size": [96, 128], "antialias": True, "padding": [124, 116, 104]}
    assert about["checked"] is True and about["batch"] is None and about["pixels"] == "uint8"
    assert {"onestage", "torch", "onnx"} <= about["versions"].keys() and len(about["source_sha256"]) == 64
    documented = (Path(__file__).resolve().parents[3] / "docs" / "deploy.md").read_text(encoding="utf-8")
    assert not [key for key in about if f"`{key}`" not in documented]


def test_the_vectors_are_what_the_file_sees_and_finds(folder):
    engine = open_exported(folder / "model.onnx").engine
    for number in range(3):
        images = torch.from_numpy(np.load(folder / f"model_vectors/input_{number}.npy"))
        told = json.loads((folder / f"model_vectors/boxes_{number}.json").read_text())
        (raw,) = engine(images, torch.tensor([told["frame"]]))
        assert len(raw.scores) == len(told["detections"]) > 0
        assert raw.scores.tolist() == pytest.approx([d["score"] for d in told["detections"]], abs=1e-6)


WITHOUT = """
import runpy, sys
sys.modules["torch"] = sys.modules["onestage"] = None
runpy.run_path(sys.argv.pop(1))
"""


def test_the_example_needs_neither_torch_nor_this_package(model, folder):
    program = folder / "model_example.py"
    lines = program.read_text().splitlines()
    assert len(lines) <= 60
    picture = drawn_pictures(1)[0]
    Image.fromarray(picture.permute(1, 2, 0).numpy()).save(folder / "picture.png")
    command = [sys.executable, "-c", WITHOUT, program.name, "picture.png"]
    told = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout.splitlines()
    found = model.predict(picture, score=0.5)[0]
    assert len(told) == len(found) > 0
    for detection in found:  # equal scores may come in another order
        numbers = pytest.approx((detection.score, *detection.box), abs=0.2)
        start = f"picture.png {detection.name} "
        assert any(line.startswith(start) and [float(w) for w in line.split()[-5:]] == numbers for line in told), detection


def test_the_example_runs_in_every_folder_and_says_what_is_wrong(model, folder, tmp_path):
    program = folder / "model_example.py"

    def told(*words):
        done = subprocess.run([sys.executable, program, *words], cwd=tmp_path, capture_output=True, text=True)
        return done.returncode, done.stdout, done.stderr

    Image.fromarray(drawn_pictures(1)[0].permute(1, 2, 0).numpy()).save(tmp_path / "picture.png")
    code, out, _ = told("picture.png")
    assert code == 0 and len(out.splitlines()) == len(model.predict(tmp_path / "picture.png", score=0.5)[0]) > 0
    code, out, err = told()
    assert (code, out) == (1, "") and "python model_example.py PICTURE..." in err and "Traceback" not in err
    (tmp_path / "cut.png").write_bytes((tmp_path / "picture.png").read_bytes()[:200])
    for name in ("missing.png", "cut.png"):
        code, out, err = told(name)
        assert (code, out) == (1, "") and err.startswith(f"{name}: this picture cannot be read") and err.count("\n") == 1
    high = tmp_path / "model_example.py"
    high.write_text(program.read_text().replace("LEAST = 0.5", "LEAST = 2.0").replace("__file__", repr(str(program))))
    done = subprocess.run([sys.executable, high, "picture.png"], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "picture.png: nothing reached a score of 2.0\n")


def example_inputs(contract, path, monkeypatch):
    """What the example gives to a file with this contract for a picture, and what this package gives to it."""
    seen = []

    def run(names, inputs):
        seen.append(inputs)
        count = len(inputs["images"])
        return [np.zeros((count, 2, 4)), np.zeros((count, 2)), np.zeros((count, 2), int), np.zeros(count, int)]

    session = SimpleNamespace(run=run, get_modelmeta=lambda: SimpleNamespace(custom_metadata_map={KEY: contract.to_json()}))
    monkeypatch.setitem(sys.modules, "onnxruntime", SimpleNamespace(InferenceSession=lambda _: session))
    monkeypatch.setattr(sys, "argv", ["example", str(path)])
    runpy.run_path(str(write_example(path.with_name("m.onnx"), contract, ".onnx")))
    images, metas = contract.config.preprocess.batch([decode_image(path)])
    return *seen, FileEngine(contract, run, "stand-in").as_pixels(images).numpy(), metas[0].frame


@pytest.mark.parametrize("batch", [None, 3])
@pytest.mark.parametrize("pixels", ["uint8", "float32"])
@pytest.mark.parametrize("antialias", [True, False])
@pytest.mark.parametrize("mode", ["stretch", "letterbox", "shortest_edge"])
def test_the_example_gives_a_file_what_this_package_gives_it(model, tmp_path, monkeypatch, mode, antialias, pixels, batch):
    config = model.config.replace({"preprocess.mode": mode, "preprocess.antialias": antialias})
    contract = Contract(config, "detections", pixels=pixels, batch=batch)
    Image.fromarray(pictures(1, (70, 150))[0].permute(1, 2, 0).numpy()).save(tmp_path / "picture.png")
    inputs, expected, frame = example_inputs(contract, tmp_path / "picture.png", monkeypatch)
    assert (inputs["images"].shape, inputs["images"].dtype) == ((batch or 1, *expected.shape[1:]), expected.dtype)
    apart = np.abs(inputs["images"].astype(float) - expected)
    assert apart.max() <= (1 if antialias or pixels == "uint8" else 0.01)  # Pillow differs by one level, and so do halves
    assert apart.mean() < (0.1 if antialias else 0.001)
    right, below = (frame[2:].int() - 1).tolist()
    assert np.all(apart[:, :, below + 1 :] < 1e-4) and np.all(apart[:, :, :, right + 1 :] < 1e-4)
    if mode != "stretch":
        assert inputs["frames"].tolist() == [frame.tolist()] * (batch or 1)


def clear_glass(picture):
    """RGBA, from clear to solid."""
    picture.putalpha(Image.linear_gradient("L").resize(picture.size))
    return picture


def with_a_clear_colour(picture):
    picture = picture.convert("P")
    picture.info["transparency"] = picture.getpixel((5, 5))
    return picture


def in_16_bits(picture):
    return Image.fromarray(np.asarray(picture.convert("L")).astype(np.uint16) * 257 + 13)


@pytest.mark.parametrize(
    ("change", "name", "options"),
    [
        (clear_glass, "a.png", {}),
        (lambda picture: clear_glass(picture).convert("LA"), "a.png", {}),
        (with_a_clear_colour, "a.png", {}),
        (in_16_bits, "a.png", {}),
        (lambda picture: picture.convert("1"), "a.png", {}),
        (lambda picture: picture.convert("L"), "a.jpg", {}),
        (lambda picture: picture.convert("CMYK"), "a.jpg", {}),
        (lambda picture: picture, "a.jpg", {"exif": b"Exif\0\0MM\0*\0\0\0\x08\0\1\1\x12\0\3\0\0\0\1\0\6\0\0\0\0\0\0"}),
    ],
    ids=["RGBA", "LA", "palette", "16 bits", "1 bit", "grey", "CMYK", "turned"],
)
def test_the_example_sees_every_kind_of_picture_as_this_package_does(model, tmp_path, monkeypatch, change, name, options):
    change(Image.fromarray(drawn_pictures(1)[0].permute(1, 2, 0).numpy())).save(tmp_path / name, **options)
    inputs, expected, _ = example_inputs(Contract(model.config, "detections"), tmp_path / name, monkeypatch)
    assert np.abs(inputs["images"].astype(int) - expected).max() <= 1


@pytest.mark.parametrize("kind", [np.float32, np.int32, np.uint16])
def test_the_example_guesses_no_white(model, tmp_path, monkeypatch, kind):
    Image.fromarray(np.ones((9, 9), kind)).save(tmp_path / "a.tif")
    with pytest.raises(SystemExit, match=r"a\.tif: store it with 8 bits"):
        example_inputs(Contract(model.config, "detections"), tmp_path / "a.tif", monkeypatch)


def test_an_export_hides_nothing_of_other_threads(folder, tmp_path, capsys):
    """It prints nothing, and a thread that draws a plot or reads an old pickle waits for no export."""
    torch.save({"a": torch.zeros(1)}, tmp_path / "old.pth")
    with ThreadPoolExecutor(1) as others, quietly(), pytest.warns(UserWarning, match="heard"):
        print("dropped")
        warnings.warn("dropped", stacklevel=1)
        others.submit(print, "heard").result()
        others.submit(warnings.warn, "heard").result()
        with pytest.raises(WeightsError):
            others.submit(onestage.load, tmp_path / "old.pth").result(timeout=20)
    assert capsys.readouterr().out == "heard\n"


def test_verbs_take_the_file(folder, tmp_path, capsys):
    picture = tmp_path / "a.png"
    Image.fromarray(drawn_pictures(1)[0].permute(1, 2, 0).numpy()).save(picture)
    assert main(["predict", str(folder / "model.onnx"), str(picture), "--out", str(tmp_path / "seen"), "--score", "0.1"]) == 0
    assert "object" in capsys.readouterr().out


@pytest.mark.parametrize("taken", ["m.xml", "m.bin", "m.xml_vectors"])
def test_nothing_is_written_over(model, tmp_path, taken):
    (tmp_path / taken).write_bytes(b"mine")
    with pytest.raises(ConfigError, match=f"exists already\n.*{re.escape(taken)}"):
        export(model, tmp_path / "m.xml", to="openvino")
    assert [path.name for path in tmp_path.iterdir()] == [taken] and (tmp_path / taken).read_bytes() == b"mine"


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ([], "there is no picture"),
        (["a.jpg"], r"pictures\[0\]\n.*a str"),
        ([np.zeros((9, 9, 3), np.uint8)], "a ndarray"),
        ([torch.zeros(3, 9, 9).byte(), torch.rand(3, 9, 9)], r"pictures\[1\]\n.*float32 \(3, 9, 9\)"),
        ([torch.zeros(9, 9, 3).byte()], r"\(9, 9, 3\)"),
        (torch.zeros(3, 9, 9).byte(), r"uint8 \(9, 9\)"),
        ([torch.zeros(3, 0, 9).byte()], r"\(3, 0, 9\)"),
    ],
)
def test_what_is_no_picture_is_refused_before_the_work(model, tmp_path, given, says):
    with pytest.raises(ConfigError, match=says):
        export(model, tmp_path / "m.onnx", pictures=given)
    assert not list(tmp_path.iterdir())


REPLACE = ExportConfig(overwrite=True)


def test_an_earlier_export_is_replaced_by_those_who_ask(model, copied, tmp_path):
    """And its vectors go with it: they say nothing of another file. An example stays: a user may have edited it."""
    export(model, tmp_path / "m.onnx", example=True, pictures=drawn_pictures(2))
    (tmp_path / "m_example.py").write_bytes((tmp_path / "m_example.py").read_bytes().replace(b"\n", b"\r\n"))  # by git
    (tmp_path / "m.onnx").write_bytes((tmp_path / "m.onnx").read_bytes()[::-1] + b"source_sha256")  # damaged
    export(model, tmp_path / "m.onnx", pictures=drawn_pictures(1), config=REPLACE)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.onnx", "m_example.py", "m_vectors"]
    assert onestage.load(tmp_path / "m.onnx").classes == model.classes
    assert not (tmp_path / "m_vectors" / "picture_1.png").exists() and b"\r\n" in (tmp_path / "m_example.py").read_bytes()
    export(model, tmp_path / "m.onnx", check=False, example=True, config=REPLACE)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.onnx", "m_example.py"]
    assert b"\r\n" not in (tmp_path / "m_example.py").read_bytes()


def test_a_folder_of_vectors_with_something_else_in_it_stays(model, copied, tmp_path):
    export(model, tmp_path / "m.onnx", pictures=drawn_pictures(1))
    (tmp_path / "m_vectors" / "precious.txt").write_text("mine")
    with pytest.raises(ConfigError, match=r"did not export it\n.*m_vectors"):
        export(model, tmp_path / "m.onnx", config=REPLACE)
    export(model, tmp_path / "m.onnx", check=False, config=REPLACE)
    assert (tmp_path / "m_vectors" / "precious.txt").read_text() == "mine"


def test_a_run_folder_with_the_name_of_the_file_stays(model, tmp_path):
    (tmp_path / "m_vectors").mkdir()
    (tmp_path / "m_vectors" / "README.txt").write_text(README.format(name="m.onnx"))
    (tmp_path / "m.onnx").mkdir()
    (tmp_path / "m.onnx" / "best.safetensors").write_bytes(b"mine")
    with pytest.raises(ConfigError, match="did not export it"):
        export(model, tmp_path / "m.onnx", config=REPLACE)
    assert (tmp_path / "m.onnx" / "best.safetensors").read_bytes() == b"mine"


@pytest.mark.parametrize("earlier", [False, True])
@pytest.mark.parametrize("taken", ["m.onnx", "m_vectors", "m_example.py"])
def test_what_no_export_wrote_is_never_replaced(model, folder, tmp_path, taken, earlier):
    """Not even beside a file that an export wrote."""
    if earlier and taken != "m.onnx":
        shutil.copy(folder / "model.onnx", tmp_path / "m.onnx")
    (tmp_path / taken).write_bytes(b"mine")
    with pytest.raises(ConfigError, match=f"did not export it\n.*{re.escape(taken)}"):
        export(model, tmp_path / "m.onnx", config=REPLACE, example=True)
    assert (tmp_path / taken).read_bytes() == b"mine"


@pytest.mark.parametrize("suffix", [".xml", ".ncnn.param"])
def test_weights_belong_to_the_file_that_names_them(model, tmp_path, suffix):
    to = next(name for name, form in FORMATS.items() if form.suffix == suffix)
    weights = (tmp_path / f"m{suffix}").with_suffix(".bin")
    weights.write_bytes(b"mine")
    with pytest.raises(ConfigError, match=f"did not export it\n.*{re.escape(weights.name)}"):
        export(model, tmp_path / f"m{suffix}", to=to, config=ExportConfig(overwrite=True, nms="none"))
    assert weights.read_bytes() == b"mine"


def test_an_example_of_the_user_stays_if_none_is_asked_for(model, copied, tmp_path):
    for _ in range(2):  # without and with an earlier export
        (tmp_path / "m_example.py").write_bytes(b"mine")
        export(model, tmp_path / "m.onnx", check=False, config=REPLACE)
        assert (tmp_path / "m_example.py").read_bytes() == b"mine"


def test_a_link_is_not_replaced(model, folder, tmp_path):
    (tmp_path / "m.onnx").symlink_to(folder / "model.onnx")
    with pytest.raises(ConfigError, match="a link is not replaced"):
        export(model, tmp_path / "m.onnx", config=REPLACE)
    assert (tmp_path / "m.onnx").is_symlink()


def test_what_is_not_written_is_not_in_the_way(model, copied, tmp_path):
    (tmp_path / "m_example.py").write_text("mine")
    (tmp_path / "m_vectors").mkdir()
    made = export(model, tmp_path / "m.onnx", check=False)
    assert not made.contract.checked
    assert (made.vectors, made.example) == (None, None) and (tmp_path / "m_example.py").read_text() == "mine"
    with pytest.raises(ConfigError, match=r"exists already\n.*n_example"):
        (tmp_path / "n_example.py").touch()
        export(model, tmp_path / "n.onnx", check=False, example=True)
    made = export(model, tmp_path / "o.onnx", check=False, example=True)
    assert made.vectors is None and made.example == tmp_path / "o_example.py" and made.example.is_file()


def test_one_name_serves_every_format(tmp_path):
    flags = {"check": True, "example": True, "overwrite": False}
    written = [path for form in FORMATS.values() for path in _targets(tmp_path / f"m{form.suffix}", form, **flags)]
    assert len(written) == len(set(written))


@pytest.mark.parametrize(("name", "says"), [(".onnx", "must end with"), ("a" * 250 + ".onnx", "could not be written")])
def test_names_that_no_file_can_have_are_refused_before_the_work(model, tmp_path, name, says):
    with pytest.raises(OnestageError, match=says):
        export(model, tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_a_link_to_nowhere_and_a_file_that_came_meanwhile_stay(model, folder, tmp_path, monkeypatch):
    path = tmp_path / "x.onnx"
    path.symlink_to("gone")
    with pytest.raises(ConfigError, match="a link is not replaced"):
        export(model, path)
    path.unlink()

    def write(plan, draft):
        path.write_text("mine")
        shutil.copy(folder / "model.onnx", draft)

    monkeypatch.setitem(FORMATS, "onnx", replace(FORMATS["onnx"], write=write))
    with pytest.raises(ConfigError, match="exists already"):
        export(model, path, check=False)
    assert path.read_text() == "mine" and list(tmp_path.iterdir()) == [path]


@pytest.fixture
def copied(folder, monkeypatch):
    """Exports that copy the file which was made once."""
    monkeypatch.setitem(
        FORMATS, "onnx", replace(FORMATS["onnx"], write=lambda plan, draft: shutil.copy(folder / "model.onnx", draft))
    )


@pytest.mark.parametrize("number", sorted(UNWRITABLE))
@pytest.mark.parametrize("named", ["nothing", "a descriptor", "the draft", "a file of ours"])
def test_a_disk_that_takes_no_more_is_no_reason_for_another_format(model, tmp_path, monkeypatch, number, named):
    """And the error names the file that was asked for, not one in a temporary folder."""

    def write(plan, draft):
        error = OSError(number, os.strerror(number))
        if named != "nothing":
            error.filename = 3 if named == "a descriptor" else str(draft)
        with writing(draft) if named == "a file of ours" else nullcontext():
            raise error

    monkeypatch.setitem(FORMATS, "onnx", replace(FORMATS["onnx"], write=write))
    with pytest.raises(WriteError, match=os.strerror(number)) as caught:
        export(model, tmp_path / "m.onnx", check=False)
    assert caught.value.where == tmp_path / "m.onnx" and "another format" not in str(caught.value)
    assert caught.value.fix and not list(tmp_path.iterdir())


def test_too_little_memory_is_no_reason_for_another_format(model, tmp_path, monkeypatch):
    def write(plan, draft):
        raise MemoryError

    monkeypatch.setitem(FORMATS, "onnx", replace(FORMATS["onnx"], write=write))
    with pytest.raises(MemoryError):  # the command line has words for it
        export(model, tmp_path / "m.onnx", check=False)


def test_pictures_may_come_from_anything_that_gives_them(model, copied, tmp_path):
    assert export(model, tmp_path / "m.onnx", pictures=(picture for picture in drawn_pictures(1))).agreement.compared
    for wrong, says in ((7, "got: .* a int"), (iter(()), "no picture"), (iter("a"), "a str")):
        with pytest.raises(ConfigError, match=says):
            export(model, tmp_path / "n.onnx", pictures=wrong)


def test_a_program_that_is_not_there_is_no_place_that_cannot_be_written(model, tmp_path, monkeypatch):
    def write(plan, draft):
        raise FileNotFoundError(2, "No such file or directory", "converter")

    monkeypatch.setitem(FORMATS, "onnx", replace(FORMATS["onnx"], write=write))
    with pytest.raises(WeightsError, match=r"cannot be exported to onnx\n(.|\n)*converter") as caught:
        export(model, tmp_path / "m.onnx")
    assert not isinstance(caught.value, UnfitError)  # which would never be tried again
    assert not list(tmp_path.iterdir())


def test_a_mistake_of_the_program_is_not_hidden(model, copied, tmp_path, monkeypatch):
    def wrong(*_):
        raise ValueError("a mistake of ours")

    monkeypatch.setattr("onestage.deploy.export.check_file", wrong)
    with pytest.raises(ValueError, match="a mistake of ours") as caught:
        export(model, tmp_path / "m.onnx")
    assert not isinstance(caught.value, OnestageError) and not list(tmp_path.iterdir())


def test_a_file_that_cannot_take_its_place_is_an_error_that_names_it(model, copied, tmp_path, monkeypatch):
    move = Path.replace

    def full(self, target):
        if target.parent == tmp_path:
            raise OSError(28, "No space left on device")
        return move(self, target)

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(WriteError, match=r"m\.onnx\n(.|\n)*No space left"):
        export(model, tmp_path / "m.onnx", check=False)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"precision": "fp16"}, r"fix: +config=ExportConfig\(precision=...\)"),
        ({"to": "onx"}, "did you mean 'onnx'"),
        ({"config": {"precision": "fp16"}}, r"fix: +config=onestage.ExportConfig"),
        ({"config": ExportConfig(precision="fp16"), "to": "torch"}, r"fix: +leave precision= out, or .* to=onnx or openvino"),
        ({"to": "torch", "example": True}, "no example for files of the format torch"),
    ],
)
def test_a_wrong_request_is_refused_before_the_work(wrong, said, model, tmp_path, monkeypatch):
    monkeypatch.setattr("onestage.deploy.export.plan_export", None)
    ends = {"torch": ".pt2"}
    with pytest.raises(ConfigError, match=said):
        export(model, tmp_path / f"m{ends.get(wrong.get('to'), '.onnx')}", **wrong)


def test_what_is_no_detector_is_not_exported(model, folder, tmp_path):
    predictor = Predictor.of(model)
    for attempt in (lambda: predictor.export(tmp_path / "m.onnx", to="onnx"), lambda: export(predictor, tmp_path / "m.onnx")):
        with pytest.raises(ConfigError, match="cannot be exported again"):
            attempt()
    with pytest.raises(ConfigError, match="this is no detector"):
        export(str(folder), tmp_path / "m.onnx")


def test_a_mistyped_runtime_gets_the_nearest_one(folder, tmp_path):
    (tmp_path / "m.xml").write_bytes(b"x")
    for path in (folder / "model.safetensors", tmp_path / "m.xml"):
        with pytest.raises(ConfigError, match=r"no such runtime \(did you mean 'onnxruntime'\?\)(.|\n)*fix: +\w+"):
            onestage.load(path, runtime="onnx")


def test_a_name_does_not_become_a_part_of_the_example(model, tmp_path):
    with pytest.raises(ConfigError, match="a program cannot name"):
        export(model, tmp_path / '""";boom().onnx', example=True)


def test_the_command_line_names_files_after_runs_and_never_writes_over_one(folder, tmp_path, capsys, monkeypatch):
    out = tmp_path / "model.onnx"
    out.write_bytes(b"mine")
    assert main(["export", str(folder / "model.safetensors"), "-o", str(out)]) == 2
    assert "--overwrite" in capsys.readouterr().err and out.read_bytes() == b"mine"
    assert main(["export", str(folder / "model.safetensors"), "-o", str(out), "--overwrite"]) == 2
    assert "did not export it" in capsys.readouterr().err and out.read_bytes() == b"mine"
    assert main(["export", str(folder / "model.safetensors"), "-o", str(tmp_path / "x.pb")]) == 2
    assert "must end with .onnx" in capsys.readouterr().err
    (tmp_path / "lr0.01").mkdir()
    shutil.copy(folder / "model.safetensors", tmp_path / "lr0.01" / "best.safetensors")
    form = replace(FORMATS["onnx"], write=lambda plan, path: shutil.copy(folder / "model.onnx", path))
    monkeypatch.setitem(FORMATS, "onnx", form)
    monkeypatch.chdir(tmp_path)
    assert main(["export", "lr0.01"]) == 0
    assert (tmp_path / "lr0.01.onnx").is_file() and "detections agree" in capsys.readouterr().out


def test_a_device_that_the_file_does_not_use_is_refused(folder, tmp_path, capsys):
    picture = tmp_path / "a.png"
    Image.fromarray(drawn_pictures(1)[0].permute(1, 2, 0).numpy()).save(picture)
    assert main(["predict", str(folder / "model.onnx"), str(picture), "--device", "cuda"]) == 2
    assert "run on the CPU" in capsys.readouterr().err


def test_a_file_that_finds_other_objects_is_not_left(model, folder, tmp_path, monkeypatch):
    """The writer gives a good file of another model."""
    other = (folder / "model.onnx").read_bytes()
    torch.manual_seed(5)
    changed = lively(onestage.create("tinyssd", classes=["ball", "red box", "x"], size=(96, 128)))
    form = replace(FORMATS["onnx"], write=lambda plan, path: path.write_bytes(other))
    monkeypatch.setitem(FORMATS, "onnx", form)
    with pytest.raises(WeightsError, match="other objects than its source"):
        export(changed, tmp_path / "out.onnx")
    assert list(tmp_path.iterdir()) == []


def test_a_check_sees_boxes_scores_and_labels_that_are_off(model):
    picture = drawn_pictures(1)
    good = Predictor.of(model).detect(picture)[0]
    for name, wrong in (("boxes", good.boxes + 5), ("scores", good.scores * 0.9), ("labels", (good.labels + 1) % 3)):
        agreement = compare(good, replace(good, **{name: wrong}), TOLERANCE, places=PLACES)
        assert not agreement.within(TOLERANCE), name
    few = good.select(good.scores > float(good.scores.median()))
    assert not compare(good, few, TOLERANCE, places=PLACES).within(TOLERANCE)


@pytest.mark.parametrize("part", [0.0, 0.3, 0.99])
def test_a_damaged_file_is_an_error(folder, tmp_path, part):
    data = (folder / "model.onnx").read_bytes()
    (tmp_path / "cut.onnx").write_bytes(data[: int(part * len(data))])
    with pytest.raises(WeightsError, match=r"cut\.onnx"):
        onestage.load(tmp_path / "cut.onnx")


def test_a_foreign_file_is_told_what_is_asked_for(folder, tmp_path):
    import onnx

    foreign = onnx.load(folder / "model.onnx")
    del foreign.metadata_props[:]
    onnx.save(foreign, tmp_path / "foreign.onnx")
    with pytest.raises(WeightsError, match=r"not exported by onestage(.|\n)*classes(.|\n)*boxes, scores, labels, num"):
        onestage.load(tmp_path / "foreign.onnx")


def test_a_contract_survives_json_and_damage_is_named(model):
    contract = plan_export(model, ExportConfig()).contract
    assert Contract.from_json(contract.to_json(), where="x") == contract
    plain = json.loads(contract.to_json())
    for name, value in (("ending", "x"), ("size", [1]), ("config", {}), ("level_sizes", None), ("pixels", 3)):
        with pytest.raises(WeightsError, match="damaged"):
            Contract.from_json(json.dumps(plain | {name: value}), where="x")
    with pytest.raises(WeightsError, match="later version"):
        Contract.from_json(json.dumps(plain | {"contract": VERSION + 1}), where="x")


def test_options_that_cannot_be_are_refused(model, tmp_path):
    with pytest.raises(ConfigError, match="one size"):
        plan_export(model, ExportConfig(size="any"))
    with pytest.raises(ConfigError, match="fixed shapes"):
        plan_export(model, ExportConfig(nms="none", batch="any"))
    with pytest.raises(ConfigError, match="belong to its input size"):
        plan_export(model, ExportConfig(size=(64, 64)))
    with pytest.raises(ConfigError, match="1 or more"):
        ExportConfig(batch=0)
    for name, value in (
        ("batch", "8x"),
        ("batch", 1.5),
        ("batch", 10**9),
        ("nms", "None"),
        ("pixels", "int8"),
        ("size", (0, -3)),
    ):
        with pytest.raises(ConfigError):
            ExportConfig(**{name: value})
    for size in ("modle", (0, -3)):
        with pytest.raises(ConfigError):
            ExportConfig(size=size)
    with pytest.raises(ConfigError, match="one input size"):
        export(onestage.create("retinanet_r18_fpn", 2, size=(64, 96)), tmp_path / "x.pt2", to="torch")
    with pytest.raises(ConfigError, match="did you mean 'onnx'"):
        export(model, tmp_path / "x.onnx", to="onx")


def engine_of(contract, seen):
    """A stand-in for a file: one detection for each image, at its first pixel's value."""

    def run(inputs):
        images = inputs["images"]
        seen.append((images.shape, images.dtype))
        count = len(images)
        boxes = np.zeros((count, 2, 4), np.float32)
        boxes[:, 0] = [0, 0, 10, 10]
        scores = np.zeros((count, 2), np.float32)
        scores[:, 0] = images[:, 0, 0, 0] / 255
        return [boxes, scores, np.zeros((count, 2), np.int64), np.ones(count, np.int64)]

    return FileEngine(contract, run, "stand-in")


def test_a_file_for_a_fixed_number_gets_groups_of_it(model):
    contract = replace(plan_export(model, ExportConfig(batch=4)).contract)
    seen: list = []
    images = torch.arange(1, 7)[:, None, None, None].expand(6, 3, 96, 128).byte()
    found = engine_of(contract, seen)(images, torch.zeros(6, 4))
    assert [shape[0] for shape, _ in seen] == [4, 4] and {dtype for _, dtype in seen} == {np.dtype(np.uint8)}
    assert [round(255 * float(raw.scores[0])) for raw in found] == [1, 2, 3, 4, 5, 6]
    with pytest.raises(ConfigError, match="another input size"):
        engine_of(contract, seen)(images[:, :, :64], torch.zeros(6, 4))


def test_nms_that_is_not_in_the_file_is_done_behind_it(model):
    config = model.config.replace({"postprocess.nms": SoftNMS()})
    contract = replace(plan_export(model, ExportConfig()).contract, config=config, ending="candidates")

    def run(inputs):
        boxes = np.array([[[0, 0, 10, 10], [0, 0, 10, 9], [50, 50, 60, 60], [0, 0, 0, 0]]], np.float32)
        return [boxes, np.array([[0.9, 0.8, 0.7, 0]], np.float32), np.zeros((1, 4), np.int64)]

    (raw,) = FileEngine(contract, run, "stand-in")(torch.zeros(1, 3, 96, 128).byte(), torch.zeros(1, 4))
    assert raw.scores[:2].tolist() == pytest.approx([0.9, 0.7]) and 0 < float(raw.scores[2]) < 0.3


def test_a_check_that_compares_nothing_is_no_check(model):
    blind = onestage.build(model.config.replace({"postprocess.score_threshold": 0.99999})).eval()
    with pytest.raises(WeightsError, match="finds nothing in these pictures") as error:
        check_file(blind, Predictor.of(blind), drawn_pictures(2), TOLERANCE)
    assert "onestage export" in error.value.fix  # other verbs, and load(), check files too and have no such options
    with pytest.raises(WeightsError, match="finds nothing"):
        check_file(model, Predictor.of(model), [], TOLERANCE)


def test_one_detection_of_the_same_score_at_another_place_is_seen(model):
    one = Predictor.of(model).detect(drawn_pictures(1))[0].select([0])
    moved = replace(one, boxes=one.boxes + 50)
    assert compare(one, moved, TOLERANCE, places=PLACES) == Agreement(compared=2)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ending", "outputs"),
        ("ending", "candidates"),
        ("pixels", "float32"),
        ("batch", -1),
        ("batch", 10**9),
        ("size", [10**9, 1]),
    ],
)
def test_metadata_that_contradict_the_file_are_an_error(folder, tmp_path, name, value):
    import onnx

    file = onnx.load(folder / "model.onnx")
    for entry in file.metadata_props:
        if entry.key == "onestage":
            entry.value = json.dumps(json.loads(entry.value) | {name: value})
    onnx.save(file, tmp_path / "x.onnx")
    with pytest.raises(WeightsError):
        onestage.load(tmp_path / "x.onnx").predict(pictures(2, (100, 140)))


def test_pictures_of_several_sizes_are_compared_in_the_same_groups():
    """A detector for any size pads the pictures of a group to one size, so a picture alone is another input."""
    torch.manual_seed(1)
    recipe = onestage.recipe("tinyssd", ("a", "b"), size=(64, 96)).replace({"preprocess.mode": "shortest_edge"})
    model = lively(onestage.build(recipe))
    total = check_file(model, Predictor.of(model), drawn_pictures(5), TOLERANCE)
    assert total.paired == total.compared > 0


def test_check_file_compares_every_picture_at_every_batch(model):
    total = check_file(model, Predictor.of(model), drawn_pictures(5), TOLERANCE)
    assert total.paired == total.compared > 0 and total.iou > 0.99999


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_weights_that_are_not_numbers_are_not_exported(tmp_path, wrong):
    broken = onestage.create("tinyssd", num_classes=1, size=(64, 64))
    with torch.no_grad():
        next(broken.parameters())[0, 0, 0, 0] = wrong
    with pytest.raises(WeightsError, match="weights that are not numbers"):
        export(broken, tmp_path / "x.onnx")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_labelled_pictures_give_the_accuracy_of_both(tmp_path, capsys):
    """The AP of the file is that of evaluate. Pictures without labels check the boxes alone."""
    data, config = tmp_path / "data", SyntheticConfig(size=(64, 64))
    write_coco((generate(i, config) for i in range(6)), data, classes=config.classes, split="val")
    torch.manual_seed(0)
    lively(onestage.create("tinyssd", classes=config.classes, size=(96, 128))).save(tmp_path / "m.safetensors")
    model, file = str(tmp_path / "m.safetensors"), tmp_path / "m.xml"
    assert main(["export", model, "--to", "openvino", "-o", str(file), "--data", str(data)]) == 0
    told = capsys.readouterr().out
    (found, source) = re.search(r"AP on 6 labelled pictures: (\S+); (\S+) in torch", told).groups()
    assert float(found) == pytest.approx(onestage.evaluate(file, data, workers=0).coco.AP, abs=1e-4)
    assert 0 < float(source) == pytest.approx(onestage.evaluate(model, data, workers=0).coco.AP, abs=1e-4)
    megabytes = float(re.search(r"(\S+) MB", told)[1])
    assert megabytes == pytest.approx((file.stat().st_size + file.with_suffix(".bin").stat().st_size) / 1e6, abs=0.1)


def test_pictures_without_labels_give_no_accuracy(model, tmp_path, capsys):
    Image.fromarray(drawn_pictures(1)[0].permute(1, 2, 0).numpy()).save(tmp_path / "a.png")
    assert _labelled(model, tmp_path, tmp_path) is None
    assert "no AP is measured" in capsys.readouterr().err


def scored(model):
    """A copy of the model in whose file thresholds and temperatures are kept."""
    copied = copy.deepcopy(model)
    copied.scores = Scores((0.5, 0.4, 0.6), (1.0, 2.0, 0.5), (((0.25, 0.5),), (), ((0.5, 0.5), (0.75, 0.875))))
    return copied


def test_the_contract_says_what_was_measured_about_scores(model):
    contract = plan_export(scored(model), ExportConfig()).contract
    text = contract.to_json()
    assert contract.scores == scored(model).scores and Contract.from_json(text, where="x") == contract
    plain = json.loads(text)
    lines = [[[0.25, 0.5]], [], [[0.5, 0.5], [0.75, 0.875]]]
    assert plain["scores"] == {"thresholds": [0.5, 0.4, 0.6], "temperatures": [1.0, 2.0, 0.5], "lines": lines}
    for bad in (
        {"lines": [[[0.5, 0.5], [0.4, 0.6]], [], []]},
        {"lines": [[[0.5]], [], []]},
        {"thresholds": [0.5]},
        {"temperatures": [0, 1, 1]},
        [],
        {"other": 1},
    ):
        with pytest.raises(WeightsError, match="damaged"):
            Contract.from_json(json.dumps(plain | {"scores": bad}), where="x")
    del plain["scores"]
    assert Contract.from_json(json.dumps(plain), where="x") == replace(contract, scores=None)


@pytest.mark.slow
def test_a_file_its_example_and_runtimes_report_by_the_thresholds_of_the_model(model, tmp_path, monkeypatch):
    monkeypatch.setenv("ONESTAGE_HOME", str(tmp_path / "home"))
    kept, picture = scored(model), drawn_pictures(1)[0]
    (found,) = kept.predict(picture)
    assert 0 < len(found) < len(model.predict(picture)[0])
    export(kept, tmp_path / "m.onnx", example=True)
    (same,) = onestage.load(tmp_path / "m.onnx").predict(picture)
    assert same.labels.sort().values.equal(found.labels.sort().values)
    assert same.scores.tolist() == pytest.approx(found.scores.tolist(), abs=1e-3)
    Image.fromarray(picture.permute(1, 2, 0).numpy()).save(tmp_path / "picture.png")
    command = [sys.executable, "m_example.py", "picture.png"]
    told = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout.splitlines()
    shown = sorted((float(line.split()[-5]) for line in told), reverse=True)
    assert shown == pytest.approx(found.scores.tolist(), abs=2e-3)

    assert run_by(kept, "onnxruntime").scores == kept.scores
    kept.scores = None
    assert run_by(kept, "onnxruntime").scores is None  # though the file in the cache is older
