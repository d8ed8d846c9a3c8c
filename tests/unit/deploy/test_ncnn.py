"""Files of ncnn: written, opened, shared by threads, and refused before ncnn sees them when a byte is not as it was."""

import ctypes
import errno
import hashlib
import json
import os
import shutil
import subprocess
from dataclasses import replace
from importlib.resources import files

import numpy as np
import pytest
import torch
from PIL import Image

import exported_files
import onestage
from exported_files import check_shared_by_threads
from lively import lively
from onestage.cli.main import main
from onestage.deploy.benchmark import pictures
from onestage.deploy.check import TOLERANCE, Agreement, compare, drawn_pictures
from onestage.deploy.example import check_example, write_example
from onestage.deploy.export import ExportConfig, export
from onestage.deploy.ncnn import in_known_operators, ncnn_config
from onestage.deploy.onnx import quietly
from onestage.deploy.plan import plan_export
from onestage.errors import ConfigError, OnestageError, UnfitError, WeightsError, WriteError
from onestage.files import writing
from onestage.model.output.scores import Scores
from onestage.model.output.suppress import SoftNMS
from onestage.model.preprocess import Preprocess
from onestage.predict.engines.ncnn import MOST_TEXT, check_graph, describe

pytest.importorskip("ncnn", reason="pip install 'onestage[ncnn]'")
pytest.importorskip("pnnx", reason="pip install 'onestage[ncnn]'")


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory):
    """A folder with the files of the model."""
    folder = tmp_path_factory.mktemp("ncnn")
    made = export(model, folder / "m.ncnn.param", to="ncnn", pictures=drawn_pictures(2))
    assert made.agreement.paired == made.agreement.compared > 20
    assert made.size == sum(path.stat().st_size for path in folder.glob("m.ncnn.*"))
    return folder


def agreement(model, found, images):
    """How well detections agree with what the model finds in pictures (3, H, W)."""
    places = model.config.postprocess.detections
    pairs = zip(model.predict(images), found, strict=True)
    return sum((compare(*pair, TOLERANCE, places=places) for pair in pairs), Agreement())


def test_the_files_find_what_the_model_finds(model, folder):
    names = {path.name for path in folder.iterdir()}
    assert names == {"m.ncnn.param", "m.ncnn.bin", "m.ncnn.json", "m.ncnn_vectors"}
    file = onestage.load(folder / "m.ncnn.param")
    assert file.config == model.config and file.engine.runtime == "ncnn"
    images = pictures(3, (100, 140))
    total = agreement(model, file.predict(images), images)
    assert total.compared > 20 and total.paired == total.compared and total.score < 1e-4


def test_threads_share_a_net(folder):
    check_shared_by_threads(onestage.load(folder / "m.ncnn.param"), pictures(8, (100, 140)))


def test_functions_that_the_process_shares_stay_as_they_are(folder):
    shared = ctypes.pythonapi.PyCapsule_GetPointer
    shared.restype, shared.argtypes = ctypes.c_char_p, None  # as another library may set them
    try:
        onestage.load(folder / "m.ncnn.param")
        assert (shared.restype, shared.argtypes) == (ctypes.c_char_p, None)
    finally:
        shared.restype = ctypes.c_int


def test_verbs_take_the_file(folder, tmp_path, capsys):
    picture = tmp_path / "a.png"
    Image.fromarray(drawn_pictures(1)[0].permute(1, 2, 0).numpy()).save(picture)
    assert main(["predict", str(folder / "m.ncnn.param"), str(picture), "--out", str(tmp_path / "seen"), "--score", "0.1"]) == 0
    assert "object" in capsys.readouterr().out
    assert main(["predict", str(folder / "m.ncnn.param"), str(picture), "--runtime", "openvino"]) == 2
    assert "takes no .param files" in capsys.readouterr().err


def test_ncnn_gets_the_bytes_that_were_checked(folder, tmp_path, monkeypatch):
    for path in folder.glob("m.ncnn.*"):
        shutil.copy(path, tmp_path)
    picture = pictures(1, (100, 140))
    expected = onestage.load(folder / "m.ncnn.param").predict(picture)[0]
    exported_files.change_when_read(monkeypatch)
    found = onestage.load(tmp_path / "m.ncnn.param").predict(picture)[0]
    assert found.boxes.equal(expected.boxes) and found.scores.equal(expected.scores)
    assert {path.read_bytes() for path in tmp_path.iterdir()} == {b"another file"}


@pytest.mark.parametrize("number", ["nan", "inf"])
def test_a_weight_that_is_no_number_is_an_error(folder, tmp_path, number):
    for path in folder.glob("m.ncnn.*"):
        shutil.copy(path, tmp_path)
    weights = np.frombuffer((tmp_path / "m.ncnn.bin").read_bytes(), np.float32).copy()
    weights[len(weights) // 2] = number
    (tmp_path / "m.ncnn.bin").write_bytes(weights.tobytes())
    contract = onestage.load(folder / "m.ncnn.param").engine.contract
    parts = {end: (tmp_path / f"m.ncnn{end}").read_bytes() for end in (".param", ".bin")}
    (tmp_path / "m.ncnn.json").write_text(describe(contract, parts))
    with pytest.raises(WeightsError, match="not numbers"):
        onestage.load(tmp_path / "m.ncnn.param").predict(pictures(1, (100, 140)))


def damage(path, how):
    """Cut a file, change a byte in its middle, add one, or take the file away."""
    data = path.read_bytes()
    changed = {"cut": data[: len(data) // 2], "more": data + b"\0", "empty": b""}
    if how == "byte":
        middle = len(data) // 2
        path.write_bytes(data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :])
    elif how == "gone":
        path.unlink()
    else:
        path.write_bytes(changed[how])


@pytest.mark.parametrize("how", ["cut", "byte", "more", "empty", "gone"])
@pytest.mark.parametrize("end", ["param", "bin", "json"])
def test_a_damaged_file_never_reaches_ncnn(folder, tmp_path, end, how, monkeypatch):
    for path in folder.glob("m.ncnn.*"):
        shutil.copy(path, tmp_path)
    damage(tmp_path / f"m.ncnn.{end}", how)
    import ncnn

    monkeypatch.setattr(ncnn, "Net", lambda: pytest.fail("ncnn was called"))
    with pytest.raises(WeightsError, match=r"m\.ncnn\."):
        onestage.load(tmp_path / "m.ncnn.param")


def test_a_converter_that_cannot_be_started_is_named(model, tmp_path, monkeypatch):
    import pnnx

    monkeypatch.setattr("onestage.deploy.ncnn._write_traced", lambda plan, path: path.touch())
    monkeypatch.setattr(pnnx, "EXEC_PATH", "/nowhere/pnnx")
    with pytest.raises(ConfigError, match=r"pnnx cannot be started\n.*/nowhere/pnnx"):
        export(model, tmp_path / "m.ncnn.param", to="ncnn")
    assert not list(tmp_path.iterdir())


@pytest.fixture
def pnnx_says(tmp_path, monkeypatch):
    """Put a program in the place of pnnx that says something and fails."""
    import pnnx

    def put(text, *commands):
        program = tmp_path / "pnnx"
        program.write_text("\n".join(["#!/bin/sh", *commands, f"echo '{text}' >&2", "exit 1"]))
        program.chmod(0o755)
        monkeypatch.setattr(pnnx, "EXEC_PATH", str(program))
        monkeypatch.setattr("onestage.deploy.ncnn._write_traced", lambda plan, path: path.touch())

    return put


def test_a_converter_that_fails_by_itself_is_a_reason_that_lasts(model, tmp_path, pnnx_says):
    pnnx_says("layer x not supported")
    with pytest.raises(UnfitError, match=r"cannot convert.*\n.*status 1: layer x not supported\n.*try another format"):
        export(model, tmp_path / "m.ncnn.param", to="ncnn")


@pytest.mark.parametrize("number", [errno.ENOMEM, errno.ENOSPC, errno.EDQUOT])
def test_what_the_system_refused_to_the_converter_is_no_reason_that_lasts(model, tmp_path, pnnx_says, number):
    pnnx_says(f"fwrite failed: {os.strerror(number)}")
    with pytest.raises(OnestageError, match=os.strerror(number)) as caught:
        export(model, tmp_path / "m.ncnn.param", to="ncnn")
    assert not isinstance(caught.value, UnfitError) and isinstance(caught.value, WriteError) is (number != errno.ENOMEM)


def test_a_full_disk_that_the_converter_does_not_notice_is_no_reason_that_lasts(model, tmp_path, pnnx_says, monkeypatch):
    """pnnx leaves empty files then, and says that all went well."""
    pnnx_says("done", "exit 0")

    def full(path, data):
        with writing(path):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("onestage.deploy.ncnn.write_file", full)
    with pytest.raises(WriteError, match=r"No space left") as caught:
        export(model, tmp_path / "m.ncnn.param", to="ncnn")
    assert caught.value.where == tmp_path / "m.ncnn.param"


@pytest.mark.parametrize("end", ["param", "json"])
def test_a_text_without_end_is_not_parsed(folder, tmp_path, end):
    for path in folder.glob("m.ncnn.*"):
        shutil.copy(path, tmp_path)
    os.truncate(tmp_path / f"m.ncnn.{end}", MOST_TEXT + 1)
    with pytest.raises(WeightsError, match=rf"too large\n.*m\.ncnn\.{end}"):
        onestage.load(tmp_path / "m.ncnn.param")


@pytest.mark.parametrize(
    "change",
    [
        {"files": 3},
        {"files": {}},
        {"files": {".param": 1, ".bin": None}},
        {"batch": 2},
        {"size": None},
        {"ending": "detections"},
    ],
)
def test_a_description_that_contradicts_the_files_is_refused(folder, tmp_path, change):
    for path in folder.glob("m.ncnn.*"):
        shutil.copy(path, tmp_path)
    beside = tmp_path / "m.ncnn.json"
    plain = json.loads(beside.read_text()) | change
    del plain["sha256"]
    plain["sha256"] = hashlib.sha256(json.dumps(plain).encode()).hexdigest()
    beside.write_text(json.dumps(plain))
    with pytest.raises(WeightsError, match=r"m\.ncnn\."):
        onestage.load(tmp_path / "m.ncnn.param")


GRAPH = """7767517
3 4
Input images 0 1 in0
ReLU one 1 2 in0 out0 out1 0=0.1
Reshape two 1 1 out0 more 0=1,2 6="1,//(128,0n)"
"""


def test_a_graph_is_read_before_ncnn_reads_it():
    check_graph(GRAPH, where="x", known=lambda kind: True)
    for line, other in (
        ("7767517", "7767518"),
        ("3 4", "3"),
        ("3 4", "4 4"),
        ("3 4", "3 1000000000"),
        ("Input images 0 1 in0", "Input images 0 9 in0"),
        ("Input images 0 1 in0", "Input images -1 1 in0"),
        ("Input images 0 1 in0", "Input"),
        ("1 2 in0 out0", "1 2 late out0"),
        ("out1 0=0.1", "out1 0=0.1 rest"),
        ("out0 more", "out0 out1"),
        ("more", "m" * 300),
    ):
        with pytest.raises(WeightsError, match="graph of ncnn"):
            check_graph(GRAPH.replace(line, other), where="x", known=lambda kind: True)
    with pytest.raises(WeightsError, match="graph of ncnn"):
        check_graph("", where="x", known=lambda kind: True)
    with pytest.raises(WeightsError, match="no layer ReLU"):
        check_graph(GRAPH, where="x", known=lambda kind: kind != "ReLU")


def test_what_ncnn_cannot_take_is_refused(model, tmp_path, capsys):
    for config in (ExportConfig(batch=2), ExportConfig(batch="any"), ExportConfig(pixels="uint8"), ExportConfig(size="any")):
        with pytest.raises(ConfigError):
            export(model, tmp_path / "x.ncnn.param", to="ncnn", config=config)
    with pytest.raises(ConfigError, match=r"must end with \.ncnn\.param"):
        export(model, tmp_path / "x.param", to="ncnn")
    assert list(tmp_path.iterdir()) == []


def test_an_example_is_written_for_hard_nms_alone(model, tmp_path):
    contract = plan_export(model, ncnn_config(ExportConfig())).contract
    check_example(contract, tmp_path / "x.ncnn.param", ".ncnn.param")
    text = write_example(tmp_path / "m.ncnn.param", contract, ".ncnn.param").read_text()
    assert len(text.splitlines()) <= 80 and "$" not in text
    assert [text.index(f'{{"{name}", 0.5, ') for name in ("ball", "red box", "x")] == sorted(
        text.index(f'{{"{name}", 0.5, ') for name in ("ball", "red box", "x")
    )
    soft = replace(contract, config=contract.config.replace({"postprocess.nms": SoftNMS()}))
    for other, suffix in ((soft, ".ncnn.param"), (contract, ".onnx"), (contract, ".xml")):
        with pytest.raises(ConfigError, match="no example"):
            check_example(other, tmp_path / f"x{suffix}", suffix)


class Normalised(torch.nn.Module):
    """What SSD300 does to its first map: its vectors get the length 1."""

    def forward(self, maps):
        return maps[:, :] / maps.norm(dim=1, keepdim=True).clamp_min(1e-12)


def test_operators_that_ncnn_lacks_are_written_in_others(tmp_path):
    import ncnn
    import pnnx

    maps = torch.randn(1, 8, 4, 4, generator=torch.Generator().manual_seed(0))
    graph = torch.export.export(Normalised(), (maps,)).module()
    expected = graph(maps)
    in_known_operators(graph)
    assert graph(maps).equal(expected)
    with quietly():
        torch.jit.save(torch.jit.trace(graph, maps, check_trace=False), tmp_path / "m.pt")
    subprocess.run([pnnx.EXEC_PATH, "m.pt", "inputshape=[1,8,4,4]", "fp16=0"], cwd=tmp_path, check=True, capture_output=True)
    layers = [line.split()[0] for line in (tmp_path / "m.ncnn.param").read_text().splitlines()[2:]]
    assert len(layers) > 3 and all(ncnn.layer_to_index(layer) >= 0 for layer in layers)


RESIZES = """
int main(int, char** words) {
    const int height = std::atoi(words[1]), width = std::atoi(words[2]);
    const int rows = std::atoi(words[3]), columns = std::atoi(words[4]);
    vector<float> pixels;
    for (int byte = std::getchar(); byte != EOF; byte = std::getchar()) pixels.push_back(byte);
    for (float value : resized(resized(pixels, height, width, columns), columns, height, rows)) std::putchar(int(value));
}
"""


def test_the_example_resizes_as_the_model_does(tmp_path):
    """To the bit: a network may answer one grey level with another score."""
    if shutil.which("g++") is None or torch.backends.cpu.get_cpu_capability() not in ("AVX2", "AVX512"):
        pytest.skip("needs g++, and a processor on which torchvision resizes in whole numbers")
    whole = files("onestage.deploy").joinpath("example_ncnn.txt").read_text()
    head = (
        "#include <cmath>\n#include <cstdio>\n#include <cstdlib>\n#include <vector>\nusing std::max, std::min, std::vector;\n"
    )
    function = whole[whole.index("vector<float> resized") : whole.index("double iou")]
    (tmp_path / "a.cpp").write_text(f"{head}const bool ANTIALIAS = true;\n{function}{RESIZES}")
    subprocess.run(["g++", "-std=c++17", "a.cpp", "-o", "resize"], cwd=tmp_path, check=True)
    random = torch.Generator().manual_seed(0)
    for sizes in ((59, 60, 31, 32), (42, 64, 21, 32), (33, 44, 24, 32), (1, 50, 3, 7), (24, 32, 30, 40), (20, 30, 20, 30)):
        picture = torch.randint(0, 256, (3, *sizes[:2]), generator=random, dtype=torch.uint8)
        expected, _ = Preprocess(sizes[2:]).resize(picture)
        data = picture.permute(1, 2, 0).contiguous().numpy().tobytes()
        done = subprocess.run([tmp_path / "resize", *map(str, sizes)], input=data, capture_output=True, check=True)
        assert done.stdout == expected.permute(1, 2, 0).contiguous().numpy().tobytes(), sizes


def has_ncnn():
    """Whether there are a C++ compiler and ncnn's headers, where the compiler looks for them or CPATH tells it to."""
    compiler = ["g++", "-E", "-x", "c++", "-include", "ncnn/net.h", "/dev/null"]
    return shutil.which("g++") is not None and subprocess.run(compiler, capture_output=True).returncode == 0


BUILD = ["g++", "-O1", "-std=c++17", "-Wall", "-Wextra", "-Werror", "-o", "detect"]


@pytest.mark.slow
def test_the_example_reports_by_thresholds_and_calibrated_scores(tmp_path):
    if not has_ncnn():
        pytest.skip("needs g++ and a built ncnn: name its include and lib folders in CPATH and LIBRARY_PATH")
    torch.manual_seed(0)
    model = lively(onestage.create("tinyssd", classes=["a", "b", "c"], size=(128, 128)))
    model.scores = Scores((0.2, 0.4, 0.6), (0.5, 2.0, 1.0), (((0.25, 0.5),), (), ((0.5, 0.625), (0.75, 0.875))))
    made = export(model, tmp_path / "m.ncnn.param", to="ncnn", example=True)
    subprocess.run([*BUILD, made.example.name, "-lncnn", "-fopenmp"], cwd=tmp_path, check=True)
    file, total, raw = onestage.load(made.path), 0, 0
    for picture in drawn_pictures():
        Image.fromarray(picture.permute(1, 2, 0).contiguous().numpy()).save(tmp_path / "a.ppm")
        done = subprocess.run([tmp_path / "detect", "a.ppm"], cwd=tmp_path, capture_output=True, text=True, check=True)
        told = [line.split() for line in done.stdout.splitlines() if "nothing reached" not in line]
        ours = file.predict(picture)[0]
        assert [line[1] for line in told] != [] and sorted(line[1] for line in told) == sorted(one.name for one in ours)
        for label in "abc":
            scores = [float(line[2]) for line in told if line[1] == label]
            assert scores == pytest.approx([one.score for one in ours if one.name == label], abs=2e-3)
        total += len(told)
        raw += len(file.detect([picture], score=0.5)[0])
    assert total > 10 and total != raw


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "size"), [("tinyssd", (128, 128)), ("retinanet_r18_fpn", (128, 128)), ("efficientdet_lite0", (320, 320))]
)
def test_the_example_finds_what_the_file_finds(name, size, tmp_path):
    if not has_ncnn():
        pytest.skip("needs g++ and a built ncnn: name its include and lib folders in CPATH and LIBRARY_PATH")
    torch.manual_seed(0)
    model = lively(onestage.create(name, classes=["red box", "b", "c"], size=size))
    made = export(model, tmp_path / "m.ncnn.param", to="ncnn", config=ExportConfig(size=size), example=True)
    build = [*BUILD, made.example.name, "-lncnn", "-fopenmp"]
    subprocess.run(build, cwd=tmp_path, check=True)
    file, total, away = onestage.load(made.path), 0, tmp_path / "away"
    away.mkdir()
    for picture in drawn_pictures():
        Image.fromarray(picture.permute(1, 2, 0).contiguous().numpy()).save(away / "a.ppm")
        done = subprocess.run([tmp_path / "detect", "a.ppm"], cwd=away, capture_output=True, text=True, check=True)
        told = [line.rsplit(maxsplit=5) for line in done.stdout.splitlines()]
        firm = [found for found in file.predict(picture, score=0.5)[0] if found.score > 0.501]  # rounding decides at the border
        total += len(firm)
        assert len(firm) <= len(told)
        for found in firm:
            scored = [line for line in told if line[0] == f"a.ppm {found.name}" and abs(float(line[1]) - found.score) < 1e-3]
            assert any([float(side) for side in line[2:]] == pytest.approx(found.box, abs=0.2) for line in scored), found
    assert total > 10
    for words, said in (["missing.ppm"], "missing.ppm: no whole PPM"), ([], "./detect PICTURE.ppm"):
        done = subprocess.run([tmp_path / "detect", *words], cwd=away, capture_output=True, text=True)
        assert done.returncode == 1 and done.stdout.startswith(said)
    made.example.write_text(
        made.example.read_text().replace('", 0.5, ', '", 2, ').replace("LEAST_SCORE = 0.5", "LEAST_SCORE = 2")
    )
    subprocess.run(build, cwd=tmp_path, check=True)
    done = subprocess.run([tmp_path / "detect", "a.ppm"], cwd=away, capture_output=True, text=True, check=True)
    assert done.stdout == "a.ppm: nothing reached the least score of its class\n"


REAL = "the SSD of COCO"
FAMILIES = {
    REAL: None,
    "tinyssd": (256, 256),
    "ssdlite320_mobilenet_v3_large": (320, 320),
    "efficientdet_lite0": (320, 320),
    "efficientdet_d0": (512, 512),
    "retinanet_r50_fpn": (320, 448),
    "dssd": (320, 320),
    "ssd300_vgg16": (300, 300),
}


def detector(name, shared_data, photos):
    torch.manual_seed(0)
    if name == REAL:
        weights = shared_data / "weights" / "coco_ssd_mobilenet_v1_quant_2018_06_29.tflite"
        return onestage.create("ssd300_mobilenet_v1", weights=weights).eval()
    return lively(onestage.create(name, 3, size=FAMILIES[name]), on=photos)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_finds_the_same_in_real_pictures(name, shared_data, photos, tmp_path):
    model = detector(name, shared_data, photos[:4])
    made = export(model, tmp_path / "m.ncnn.param", to="ncnn", config=ExportConfig(size=FAMILIES[name]), pictures=photos)
    total = made.agreement
    print(f"{name}: {total.paired:,} of {total.compared:,} detections have a partner,", end=" ")
    print(f"IoU at least {total.iou:.5f}, scores within {total.score:.1e}", flush=True)
    assert total.compared > 100 and total.paired >= 0.995 * total.compared
