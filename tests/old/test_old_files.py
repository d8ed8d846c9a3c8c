"""Files that commit c0fbafc wrote (write.py says how): they load, mean what they meant, and the run goes on."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

import onestage
from old.plans import defaults, left_out, parts
from onestage.data.transforms import Augment
from onestage.model.config import encode
from onestage.training.config import AUGMENTS
from onestage.training.folder import Plan

HERE = Path(__file__).resolve().parent
EXPECTED, DEFAULTS, LEFT_OUT = (
    json.loads((HERE / f"{name}.json").read_text()) for name in ("expected", "defaults", "left_out")
)
PLAN = json.loads((HERE / "run" / "config.json").read_text())

NEW: dict[tuple[str, str], Any] = {
    ("TrainConfig", "worker_timeout"): 600.0,  # c0fbafc had no limits; neither of these changes the bits of a run
    ("TrainConfig", "picture_memory"): 2.0,
    ("TrainConfig", "steps"): None,  # epochs alone said how long a training was
    ("TrainConfig", "minutes"): None,
    ("TrainConfig", "evaluate_steps"): None,
    ("TrainConfig", "clean"): 0.0,  # there was neither mosaic nor scale jitter
    ("Augment", "mosaic"): 0.0,
    ("Augment", "scale_jitter"): 0.0,
    ("TrainConfig", "balance"): 0.0,
    ("TrainConfig", "decoder"): "pillow",
    ("TrainConfig", "cache"): 0.0,
    ("TrainConfig", "evaluate_pictures"): None,
    ("TrainConfig", "channels_last"): True,  # the detector has always ordered its weights and images so
    ("TrainConfig", "fused"): False,
    ("TrainConfig", "fp32_depthwise"): False,
    ("TrainConfig", "compile"): False,
    ("Plan", "history"): [],  # nothing could be changed
    ("TrainConfig", "ema"): 0.0,  # c0fbafc measured and saved the weights themselves
    ("Plan", "decisions"): [],  # no rules decided anything
    ("TrainConfig", "freeze"): 0,  # all parts learned, at one rate, to the end
    ("TrainConfig", "backbone_lr"): 1.0,
    ("TrainConfig", "layer_decay"): 1.0,
    ("TrainConfig", "patience"): 0,
    ("Plan", "machine"): None,
    ("TrainConfig", "log"): None,
    ("TrainConfig", "bad_limit"): None,  # on_bad had no limit
    ("TrainConfig", "shared_batch_norm"): False,  # each process had its own statistics
    ("TrainConfig", "recompute"): False,
    ("TrainConfig", "shard"): False,
}
"""Each field that c0fbafc did not have, as (part, field): the value by which c0fbafc acted. Old files lack the field, so this
value must be its default.
"""


@pytest.mark.parametrize("picture", EXPECTED["predictions"])
def test_the_model_predicts_what_it_predicted(picture: str) -> None:
    found = onestage.load(HERE / "model.safetensors").predict(HERE / "data" / "val" / picture, score=0.0)[0]
    expected = EXPECTED["predictions"][picture]
    assert found.labels[:10].tolist() == expected["labels"]
    torch.testing.assert_close(found.scores[:10], torch.tensor(expected["scores"]), atol=1e-5, rtol=0)
    torch.testing.assert_close(found.boxes[:10] / 64, torch.tensor(expected["boxes"]) / 64, atol=1e-5, rtol=0)


def test_the_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """To the figures of the whole run, but for another machine's rounding; with the very first epoch as it stood."""
    for name in ("data", "run"):
        shutil.copytree(HERE / name, tmp_path / name)
    monkeypatch.chdir(tmp_path)  # the plan names its data by a relative path
    result = onestage.resume("run")
    assert not result.interrupted and "going on after step 4" in capsys.readouterr().out
    rows = [json.loads(line) for line in Path("run/metrics.jsonl").read_text().splitlines()]
    assert rows[0] == json.loads((HERE / "run" / "metrics.jsonl").read_text())
    untimed = [{k: v for k, v in row.items() if k not in ("seconds", "images_per_s")} for row in EXPECTED["metrics"]]
    for row, expected in zip(rows, untimed, strict=True):
        assert {name: row[name] for name in expected} == pytest.approx(expected, rel=1e-3, abs=1e-3)
    ours, theirs = (onestage.load(path).state_dict() for path in (result.last, HERE / "model.safetensors"))
    assert ours.keys() == theirs.keys()
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], atol=1e-4, rtol=1e-4)


def test_a_plan_without_one_of_its_values_means_what_it_meant() -> None:
    assert without_new(left_out(PLAN, Plan)) == LEFT_OUT


@pytest.mark.parametrize("name", DEFAULTS)
def test_no_part_has_other_defaults_than_it_had(name: str) -> None:
    now = {part.__name__: defaults(part) for part in parts(Plan)}
    now |= {f"augment={word}": encode(preset) for word, preset in AUGMENTS.items()}
    assert without_new({"kind": name} | now[name]) == {"kind": name} | DEFAULTS[name]


def test_new_fields_act_as_before_where_they_are_missing() -> None:
    old = DEFAULTS | {"Augment": DEFAULTS["augment=none"]}  # a plan holds the name of a preset
    known = {Augment, *(part for part in parts(Plan) if part.__name__ in DEFAULTS)}
    new = {(part.__name__, name) for part in known for name in defaults(part).keys() - old[part.__name__].keys()}
    assert new == NEW.keys(), "what did c0fbafc do? write it into NEW"
    assert {(part.__name__, name): defaults(part)[name] for part in known for p, name in NEW if p == part.__name__} == NEW


def without_new(value: Any) -> Any:
    """Plain data without the fields in NEW."""
    if isinstance(value, list):
        return [without_new(inner) for inner in value]
    if not isinstance(value, dict):
        return value
    return {key: without_new(inner) for key, inner in value.items() if (value.get("kind"), key) not in NEW}
