"""Timing a detector, and the verb that does it."""

import json

import pytest

import onestage
from onestage.cli.main import main
from onestage.deploy.benchmark import environment, pictures, time_detector


def test_every_turn_is_kept_and_the_network_is_a_part_of_the_whole():
    model, seen = onestage.create("tinyssd", num_classes=2, size=(64, 96)), []
    timing = time_detector(model, pictures(3), repeats=5, advance=seen.append)
    assert (len(timing.predict), len(timing.network), timing.batch, timing.input) == (5, 5, 3, (64, 96))
    assert seen == [3] * 7  # two turns to warm up
    assert min(timing.predict) > 0 and timing.median("network") < timing.median("predict")
    assert timing.median("predict") == pytest.approx(1000 * sorted(timing.predict)[2] / 3)
    assert environment(model.device)["threads"] >= 1


def test_the_verb_writes_every_time(tmp_path, capsys):
    file = tmp_path / "speed.json"
    assert main(["benchmark", "tinyssd", "--repeats", "2", "--batch", "2", "--picture", "60x80", "--json", str(file)]) == 0
    assert "tinyssd" in capsys.readouterr().out
    (timing,) = json.loads(file.read_text())["timings"]
    assert (timing["batch"], len(timing["predict"])) == (2, 2)


def test_a_model_of_ones_own(tmp_path, capsys):
    onestage.create("tinyssd", classes=["a"], size=(64, 64)).save(tmp_path / "m.safetensors")
    assert main(["benchmark", str(tmp_path / "m.safetensors"), "--repeats", "1"]) == 0
    assert "64x64" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["nope"], "no such model"),
        (["tinyssd", "--batch", "0"], "1 or more"),
        (["tinyssd", "--picture", "big"], "big"),
        (["tinyssd", "--json", "/nowhere/x.json"], "no such folder"),
    ],
)
def test_mistakes(arguments, says, capsys):
    assert main(["benchmark", *arguments]) == 2
    assert says in capsys.readouterr().err
