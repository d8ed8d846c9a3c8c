"""A detector that was trained on real pictures, in int8: calibrated on train, measured on test, kept or refused by its AP."""

import pytest

import onestage
from onestage.cli.main import main
from onestage.data.reader import open_data
from onestage.deploy.int8 import MAX_DROP

pytest.importorskip("nncf", reason="pip install 'onestage[int8]'")
pytest.importorskip("onnxruntime", reason="pip install 'onestage[onnx]'")
pytest.importorskip("openvino", reason="pip install 'onestage[openvino]'")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

TRAINING = "--model tinyssd --size 120x160 --epochs 8 --batch-size 8 --lr 2e-3 --augment none --evaluate-every 8 --workers 0"


@pytest.fixture(scope="module")
def blood_cells(tmp_path_factory, shared_data):
    """The run folder of a TinySSD, and its data set."""
    data, run = shared_data / "bccd", tmp_path_factory.mktemp("trained") / "run"
    assert main(["train", str(data), *TRAINING.split(), "--on-bad", "skip", "--out", str(run)]) == 0
    return run, data


@pytest.mark.parametrize(("to", "name"), [("onnx", "cells.onnx"), ("openvino", "cells.xml")])
def test_a_detector_of_blood_cells_loses_little_or_is_refused(to, name, blood_cells, tmp_path, capsys):
    run, data = blood_cells
    line = ["export", str(run), "--to", to, "-o", str(tmp_path / name), "--precision", "int8", "--data", str(data)]
    code = main([*line, "--on-bad", "skip"])
    told = capsys.readouterr()
    if code != 0:
        assert "costs this detector too much" in told.err and list(tmp_path.iterdir()) == []
        return
    facts = onestage.load(tmp_path / name).engine.contract.quantised
    layers = f"{facts.in_float} of {facts.layers} layers in float"
    with capsys.disabled():
        print(f"\n{to}: AP {facts.AP_fp32:.4f} in float32, {facts.AP:.4f} in int8, {layers}")
    assert facts.AP_fp32 > 0.1, "it has not learned enough to lose anything"
    assert facts.drop <= MAX_DROP
    test = open_data(data).load("test", on_bad="skip", classes=onestage.load(run).classes)
    assert facts.measured == len(test) and 0 < facts.calibrated <= 100
    assert abs(onestage.evaluate(tmp_path / name, test, workers=0).coco.AP - facts.AP) < 1e-9
