"""Files of ncnn: written, opened, shared by threads, and refused before ncnn sees them when a byte is not as it was."""

import hashlib
import json
import shutil
from concurrent.futures import ThreadPoolExecutor

import pytest
from PIL import Image

import onestage
from onestage.cli.main import main
from onestage.deploy.benchmark import pictures
from onestage.deploy.check import TOLERANCE, Agreement, compare, drawn_pictures
from onestage.deploy.export import ExportConfig, export
from onestage.errors import ConfigError, WeightsError
from onestage.predict.engines.ncnn import check_graph

pytest.importorskip("ncnn", reason="pip install 'onestage[ncnn]'")
pytest.importorskip("pnnx", reason="pip install 'onestage[ncnn]'")


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory):
    """A folder with the files of the model."""
    folder = tmp_path_factory.mktemp("ncnn")
    made = export(model, folder / "m.ncnn.param", to="ncnn", pictures=drawn_pictures(2))
    assert made.agreement.paired == made.agreement.compared > 20
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
    file = onestage.load(folder / "m.ncnn.param")
    images = pictures(8, (100, 140))
    expected = [file.predict(image)[0] for image in images]
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda image: file.predict(image)[0], images * 3))
    for one, again in zip(expected * 3, found, strict=True):
        assert one.boxes.equal(again.boxes) and one.scores.equal(again.scores)


def test_verbs_take_the_file(folder, tmp_path, capsys):
    picture = tmp_path / "a.png"
    Image.fromarray(drawn_pictures(1)[0].permute(1, 2, 0).numpy()).save(picture)
    assert main(["predict", str(folder / "m.ncnn.param"), str(picture), "--out", str(tmp_path / "seen"), "--score", "0.1"]) == 0
    assert "object" in capsys.readouterr().out
    assert main(["predict", str(folder / "m.ncnn.param"), str(picture), "--runtime", "openvino"]) == 2
    assert "takes no .param files" in capsys.readouterr().err


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
    with pytest.raises(ConfigError, match=r"ends with \.ncnn\.param"):
        export(model, tmp_path / "x.param", to="ncnn")
    assert list(tmp_path.iterdir()) == []
