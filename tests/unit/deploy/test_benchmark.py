"""Timing a detector, and the verb that does it."""

import json
import platform
import re
from pathlib import Path

import pytest
import torch

import onestage
from onestage.cli.main import main
from onestage.deploy.benchmark import environment, pictures, processor, time_detector
from onestage.errors import WeightsError


def test_every_turn_is_kept_and_the_network_is_a_part_of_the_whole():
    model, seen = onestage.create("tinyssd", num_classes=2, size=(64, 96)), []
    timing = time_detector(model, pictures(3), repeats=5, advance=seen.append)
    assert (len(timing.predict), len(timing.network), timing.batch, timing.input) == (5, 5, 3, (64, 96))
    assert seen == [3] * 7  # two turns to warm up
    assert min(timing.predict) > 0 and timing.median("network") < timing.median("predict")
    assert timing.median("predict") == pytest.approx(1000 * sorted(timing.predict)[2] / 3)
    assert environment(model.device)["threads"] >= 1


def test_the_processor_is_named_as_the_system_names_it():
    about = Path("/proc/cpuinfo")
    names = re.findall(r"^model name\s*: (.*)", about.read_text(), re.M) if about.exists() else [""]
    assert processor().startswith(names[0] if names else "")
    assert platform.machine() in processor() and torch.backends.cpu.get_cpu_capability() in processor()


def test_the_verb_writes_every_time(tmp_path, capsys):
    file = tmp_path / "speed.json"
    assert main(["benchmark", "tinyssd", "--repeats", "2", "--batch", "2", "--picture", "60x80", "--json", str(file)]) == 0
    assert "tinyssd" in capsys.readouterr().out
    (timing,) = json.loads(file.read_text())["timings"]
    assert (timing["given"], timing["model"], timing["batch"], len(timing["predict"])) == ("tinyssd", "tinyssd", 2, 2)


def test_a_model_of_ones_own(tmp_path, capsys):
    onestage.create("tinyssd", classes=["a"], size=(64, 64)).save(tmp_path / "m.safetensors")
    assert main(["benchmark", str(tmp_path / "m.safetensors"), "--repeats", "1"]) == 0
    assert "64x64" in capsys.readouterr().out


def test_two_files_of_one_model_are_told_apart(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name in ("old", "new"):
        onestage.create("tinyssd", classes=["a"], size=(64, 64)).save(f"{name}[1].safetensors")
    assert main(["benchmark", "old[1].safetensors", "new[1].safetensors", "--repeats", "1", "--json", "t.json"]) == 0
    rows = [line for line in capsys.readouterr().out.splitlines() if "64x64" in line]
    assert [row.split()[0] for row in rows] == ["old[1].safetensors", "new[1].safetensors"]
    timings = json.loads((tmp_path / "t.json").read_text())["timings"]
    assert [(t["given"], t["model"]) for t in timings] == [("old[1].safetensors", "tinyssd"), ("new[1].safetensors", "tinyssd")]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["nope"], "no such model"),
        (["tinyssd", "--batch", "0"], "at least 1"),
        (["tinyssd", "--picture", "big"], "--picture is not understood"),
        (["tinyssd", "--picture", "0x0"], "--picture has a side without pixels"),
        (["tinyssd", "--json", "/nowhere/x.json"], "no such folder"),
        (["tinyssd", "--precision", "bf16", "--runtime", "onnxruntime"], "torch alone computes in bfloat16"),
    ],
)
def test_mistakes(arguments, says, capsys):
    assert main(["benchmark", *arguments]) == 2
    assert says in capsys.readouterr().err


def test_torch_in_bfloat16(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("onestage.predict.folded.check_bfloat16", lambda device: None)
    file, rest = tmp_path / "t.json", ["--repeats", "1", "--picture", "60x80"]
    assert main(["benchmark", "tinyssd", "--precision", "bf16", *rest, "--json", str(file)]) == 0
    assert json.loads(file.read_text())["timings"][0]["runtime"] == "torch, bfloat16"
    assert "bfloat16" in capsys.readouterr().out


def test_auto_leaves_out_what_cannot_run_a_model(tmp_path, monkeypatch, capsys):
    """A RetinaNet's input follows the picture, and this runtime has files of one size."""
    from onestage.deploy import runtimes

    monkeypatch.setattr(runtimes, "RUNTIMES", {"a": runtimes.Runtime("onnx", (), any_size=False)})
    recipe = onestage.recipe("tinyssd", ("a",), size=(64, 96)).replace({"preprocess.mode": "shortest_edge"})
    onestage.build(recipe).save(tmp_path / "m.safetensors")
    assert main(["benchmark", str(tmp_path / "m.safetensors"), "--repeats", "1", "--runtime", "auto"]) == 0
    told = capsys.readouterr()
    assert "by a: a file for this runtime has one input size" in told.err and "torch" in told.out


def test_auto_keeps_the_times_when_a_runtime_finds_other_objects(tmp_path, monkeypatch, capsys):
    from onestage.deploy import runtimes

    def differs(detector, runtime):
        raise WeightsError("the exported file finds other objects than its source")

    monkeypatch.setattr(runtimes, "RUNTIMES", {"ncnn": runtimes.Runtime("onnx", ())})
    monkeypatch.setattr(runtimes, "run_by", differs)
    onestage.create("tinyssd", classes=["a"], size=(64, 64)).save(tmp_path / "m.safetensors")
    assert main(["benchmark", str(tmp_path / "m.safetensors"), "--repeats", "1", "--runtime", "auto"]) == 0
    told = capsys.readouterr()
    assert "by ncnn: the exported file finds other objects" in told.err and "torch" in told.out
    assert main(["benchmark", str(tmp_path / "m.safetensors"), "--repeats", "1", "--runtime", "ncnn"]) == 2
    assert "finds other objects" in capsys.readouterr().err
    assert main(["benchmark", str(tmp_path / "none.safetensors"), "--repeats", "1", "--runtime", "auto"]) == 2
