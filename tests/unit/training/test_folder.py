"""The run folder: what was asked for comes back as it was, and the history is written for people and programs."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from onestage.errors import ConfigError, WeightsError
from onestage.training.config import TrainConfig
from onestage.training.folder import CONFIG, Plan, draw_history, fingerprint, write_history
from small_runs import detector, pictures

PLAN = Plan(
    detector().config, TrainConfig(epochs=7, lr=1e-3 / 3, milestones=(0.25, 0.5), schedule="steps"), "/data/cats & dogs", "voc"
)


def test_a_plan_comes_back(tmp_path: Path) -> None:
    PLAN.save(tmp_path)
    assert Plan.load(tmp_path) == PLAN
    assert Plan.load(str(tmp_path)) == PLAN


def test_a_folder_without_a_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"holds no run\n  where:    {tmp_path}/none"):
        Plan.load(tmp_path / "none")


@pytest.mark.parametrize(
    "change",
    [
        lambda content: "",
        lambda content: "[]",
        lambda content: "[" * 100_000,
        lambda content: json.dumps(content)[:-30],
        lambda content: json.dumps(content | {"train": content["train"] | {"epochs": "many"}}),
        lambda content: json.dumps(content | {"train": content["train"] | {"epoch": 3}}),
        lambda content: json.dumps({k: v for k, v in content.items() if k != "model"}),
        lambda content: json.dumps(content | {"model": {"name": "x"}}),
        lambda content: json.dumps(content | {"data": 5}),
    ],
)
def test_a_damaged_plan_is_an_error_that_names_it(tmp_path: Path, change) -> None:  # type: ignore[no-untyped-def]
    PLAN.save(tmp_path)
    path = tmp_path / CONFIG
    path.write_text(change(json.loads(path.read_text())))
    with pytest.raises(ConfigError, match=f"config cannot be read\n  where:    {path}"):
        Plan.load(tmp_path)


def test_an_error_in_a_plan_has_each_part_in_its_place(tmp_path: Path) -> None:
    PLAN.save(tmp_path)
    path = tmp_path / CONFIG
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"train": content["train"] | {"epochs": "many"}}))
    with pytest.raises(ConfigError) as caught:
        Plan.load(tmp_path)
    error = caught.value
    assert (error.where, error.expected) == (path, "a whole number") and "\n" not in str(error.got)
    assert str(error.got).startswith("config.json.train.epochs: ") and str(error.got).endswith("'many'")


def test_a_plan_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(WeightsError):
        PLAN.save(tmp_path / "no such folder")


def test_what_may_change_when_a_run_goes_on(tmp_path: Path) -> None:
    free = replace(PLAN.train, workers=3, device="cpu", checkpoint_minutes=1.0, on_bad="skip")
    PLAN.check_same(replace(PLAN, train=free, data="elsewhere"), tmp_path)
    with pytest.raises(ConfigError, match="batch_size 16 -> 8, seed 0 -> 1"):
        PLAN.check_same(replace(PLAN, train=replace(PLAN.train, batch_size=8, seed=1)), tmp_path)
    with pytest.raises(ConfigError, match=r"got:      a model of other preprocess\.size\n"):
        PLAN.check_same(replace(PLAN, model=detector(size=(64, 96)).config), tmp_path)


def test_the_fingerprint_tells_data_sets_apart() -> None:
    data = pictures(5)
    assert fingerprint(data) == fingerprint(data.subset(range(5))) == fingerprint(replace(data, root=Path("elsewhere")))
    others = [
        data.subset(range(4)),
        data.subset([1, 0, 2, 3, 4]),
        replace(data, boxes=data.boxes + 1),
        replace(data, labels=(data.labels + 1) % 3),
        replace(data, ignore=~data.ignore),
        replace(data, classes=data.classes[::-1]),
    ]
    assert len({fingerprint(other) for other in [data, *others]}) == 7


HISTORY = [
    {"epoch": 1, "step": 3, "loss": 2.5, "lr": 0.1},
    {"epoch": 2, "step": 6, "loss": 1 / 3, "lr": 0.05, "val/AP": float("nan"), "val/loss": 0.25},
]


def test_a_history_as_json_lines_csv_and_curves(tmp_path: Path) -> None:
    write_history(tmp_path, HISTORY)
    draw_history(tmp_path, HISTORY)
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert rows == [HISTORY[0], HISTORY[1] | {"val/AP": None}]
    with (tmp_path / "metrics.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert [*table[0]] == ["epoch", "step", "loss", "lr", "val/AP", "val/loss"]
    assert table[0] == {"epoch": "1", "step": "3", "loss": "2.5", "lr": "0.1", "val/AP": "", "val/loss": ""}
    assert float(table[1]["loss"]) == 1 / 3 and table[1]["val/AP"] == ""
    with Image.open(tmp_path / "curves.png") as curves:
        assert curves.format == "PNG" and min(curves.size) > 200


def test_a_longer_history_replaces_the_shorter(tmp_path: Path) -> None:
    write_history(tmp_path, HISTORY)
    write_history(tmp_path, HISTORY[:1])
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 1
    assert len((tmp_path / "metrics.csv").read_text().splitlines()) == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["metrics.csv", "metrics.jsonl"]


def test_the_figures_of_classes_have_a_table_of_their_own(tmp_path: Path) -> None:
    rows = [HISTORY[0], HISTORY[1] | {"class/a": 0.5, "class/b": 0.25}]
    write_history(tmp_path, rows)
    assert (tmp_path / "per_class.csv").read_text().split() == ["epoch,step,a,b", "2,6,0.5,0.25"]
    assert "class/" not in (tmp_path / "metrics.jsonl").read_text() + (tmp_path / "metrics.csv").read_text()
