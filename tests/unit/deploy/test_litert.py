"""TensorFlow Lite files: written where the converter is, read with the contract at their end, and refused when damaged."""

import zipfile
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

import onestage
from lively import lively
from onestage.cli.main import main
from onestage.deploy.benchmark import pictures
from onestage.deploy.check import TOLERANCE, Agreement, compare
from onestage.deploy.export import ExportConfig, export
from onestage.deploy.litert import PLAIN, litert_config
from onestage.deploy.plan import plan_export
from onestage.errors import ConfigError, WeightsError
from onestage.predict.engines.litert import CONTRACT, DIGEST, _parts, with_contract

MODEL = b"\x20\0\0\0TFL3" + bytes(range(256)) * 4
"""It begins as a model does. LiteRT cannot read it, and must not be asked to if the file is damaged."""


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return onestage.create("tinyssd", classes=["ball", "red box", "x"], size=(96, 128)).eval()


@pytest.fixture(scope="module")
def contract(model):
    return plan_export(model, litert_config(ExportConfig())).contract


def test_the_contract_is_an_archive_at_the_end(contract, tmp_path):
    data = with_contract(MODEL, contract)
    assert data.startswith(MODEL) and data == with_contract(MODEL, contract)
    (tmp_path / "x.tflite").write_bytes(data)
    with zipfile.ZipFile(tmp_path / "x.tflite") as archive:
        assert archive.namelist() == [CONTRACT, DIGEST] and archive.read(CONTRACT).decode() == contract.to_json()
    assert contract.batch == 1 and contract.ending == "outputs" and contract.size == (96, 128)


def test_every_damage_is_found_before_the_interpreter_reads_the_file(contract, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "ai_edge_litert.interpreter", None)
    good, path = with_contract(MODEL, contract), tmp_path / "x.tflite"
    path.write_bytes(good)
    with pytest.raises(ConfigError, match=r"onestage\[litert\]"):  # whole, so the interpreter is the next step
        onestage.load(path)
    cut = [good[:length] for length in (*range(0, len(good), 97), len(good) - 1)]
    flipped = [good[:place] + bytes([good[place] ^ 0x55]) + good[place + 1 :] for place in range(0, len(good), 61)]
    for data in (*cut, *flipped):
        path.write_bytes(data)
        try:
            onestage.load(path)
        except WeightsError as error:
            assert str(path) in str(error)
        except ConfigError:  # a byte of the archive that says nothing about the contents, such as a date
            assert _parts(data, path) == (MODEL, contract)


def test_a_whole_file_that_litert_cannot_run_is_an_error(contract, tmp_path):
    pytest.importorskip("ai_edge_litert", reason="pip install 'onestage[litert]'")
    (tmp_path / "x.tflite").write_bytes(with_contract(MODEL, contract))
    with pytest.raises(WeightsError, match="LiteRT cannot run this file"):
        onestage.load(tmp_path / "x.tflite")


def test_a_foreign_file_is_to_be_imported(shared_data, capsys):
    path = shared_data / "weights" / "coco_ssd_mobilenet_v1_quant_2018_06_29.tflite"
    with pytest.raises(WeightsError, match=r"not exported by onestage(.|\n)*onestage import .*tflite"):
        onestage.load(path)
    assert main(["predict", str(path), "x.jpg"]) == 2


def test_what_a_tflite_file_cannot_hold_is_refused(model, tmp_path, capsys):
    with pytest.raises(ConfigError, match="one picture at a time"):
        export(model, tmp_path / "x.tflite", to="litert", config=ExportConfig(batch=2))
    model.save(tmp_path / "m.safetensors")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(__import__("sys").modules, "litert_torch", None)
        assert main(["export", str(tmp_path / "m.safetensors"), "--to", "litert", "-o", str(tmp_path / "x.tflite")]) == 2
    assert "litert-torch" in capsys.readouterr().err and not (tmp_path / "x.tflite").exists()


def test_operators_that_the_converter_lacks_keep_their_bits():
    maps = torch.randn(2, 5, 4, 3, generator=torch.Generator().manual_seed(0))
    pool, nearest = PLAIN.values()
    assert pool(maps, [1, 1])[0].equal(torch.nn.AdaptiveMaxPool2d(1)(maps))
    for size in ((4, 3), (8, 6), (7, 5), (9, 4), (12, 12)):
        assert nearest(maps, size).equal(torch.nn.functional.interpolate(maps, size))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "size", "paired"),
    [("tinyssd", (96, 128), 1), ("retinanet_r18_fpn", (96, 128), 1), ("efficientdet_lite0", (320, 320), 0.997)],
)
def test_a_converted_file_finds_what_the_model_finds(name, size, paired, tmp_path):
    """RetinaNet's weights lie channels-last in memory, which the converter once read wrongly. A map of lite0 grows from 3 to 5
    cells. paired: the least part of the boxes that the check pairs; of lite0's 2,940 it pairs 2,934.
    """
    pytest.importorskip("litert_torch", reason="the converter is installed apart: docs/deploy.md")
    torch.manual_seed(0)
    model = lively(onestage.create(name, 3, size=size))
    made = export(model, tmp_path / "m.tflite", to="litert", config=ExportConfig(size=size))
    assert made.agreement.paired >= paired * made.agreement.compared > 20
    images = pictures(5, (96, 128))
    file = onestage.load(made.path)
    found = file.predict(images, batch_size=5)
    total = Agreement()
    for expected, one in zip(model.predict(images), found, strict=True):
        total += compare(expected, one, TOLERANCE, places=model.config.postprocess.detections)
    assert name != "tinyssd" or total.paired == total.compared > 20
    with ThreadPoolExecutor(4) as threads:
        again = list(threads.map(lambda image: file.predict(image)[0], images * 2))
    for one, other in zip(found * 2, again, strict=True):
        assert one.boxes.equal(other.boxes) and one.scores.equal(other.scores)
