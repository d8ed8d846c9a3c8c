"""Commands that messages advise: they name the data set as it was named, and quote it."""

import re
import shlex
from dataclasses import replace
from pathlib import Path
from shutil import copytree

import pytest

from onestage.cli.choose import ModelChoice
from onestage.cli.main import main
from onestage.data import load_dataset
from onestage.errors import command
from onestage.training.folder import Plan, again, next_commands
from onestage.zoo.table import recipe

Captured = pytest.CaptureFixture[str]


@pytest.fixture
def broken(shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The pictures in a folder with a blank in its name, one of them without its file."""
    folder = copytree(shapes, tmp_path / "my pictures (1)")
    next((folder / "train").glob("*.*")).unlink()
    monkeypatch.chdir(tmp_path)
    return Path(folder.name)


def commands(text: str) -> list[list[str]]:
    """The commands of the doctor in a text, as the shell divides them into words."""
    return [shlex.split(found) for found in re.findall(r"onestage data check (?:'[^']*'|[^\s),;]+)(?: --format \w+)?", text)]


@pytest.mark.parametrize(
    "typed",
    [
        "train DATA --model tinyssd --size 64x64 --on-bad stop",
        "train DATA --model tinyssd --size 64x64 --on-bad skip --plan-only",
        "evaluate RUN DATA --split train --on-bad skip --no-analysis",
        "explain RUN PICTURE --labels DATA --on-bad skip --out seen",
    ],
)
def test_the_command_that_shows_what_is_wrong_can_be_copied(typed: str, broken: Path, run: Path, capsys: Captured) -> None:
    picture = next((broken / "train").glob("*.*"))
    names = {"DATA": str(broken), "RUN": str(run), "PICTURE": str(picture)}
    words = [names.get(word, word) for word in typed.split()]
    main([*words, "--format", "coco"])
    found = commands("".join(capsys.readouterr()))
    assert found and all(words == ["onestage", "data", "check", str(broken), "--format", "coco"] for words in found)
    assert main(found[0][1:]) == 1  # it finds what is wrong


def test_a_data_set_knows_how_it_was_named(shapes: Path) -> None:
    data = load_dataset(str(shapes), split="val")
    assert data.doctor == command("data check", shapes) and data.subset([0]).doctor == data.doctor
    assert load_dataset(shapes, "coco", split="val").doctor == command("data check", shapes, "--format", "coco")
    assert repr(data) == f"Dataset('{shapes}' val, 4 pictures, {len(data.boxes)} objects, 2 classes)"
    assert replace(data, named=("DATA",)).doctor == "onestage data check DATA"
    assert command("train", "a b", "--size", "3x4", Path("c'd")) == """onestage train 'a b' --size 3x4 'c'"'"'d'"""


def test_commands_after_a_run_name_its_data(tmp_path: Path) -> None:
    from onestage.training.config import TrainConfig

    run = tmp_path / "my run"
    run.mkdir()
    assert again(run, "--on-bad", "skip") == "onestage train DATA --on-bad skip"
    plan = Plan(recipe("tinyssd", ("ball",)), TrainConfig(), "/my pictures", "coco")
    plan.save(run)
    assert again(run) == "onestage train '/my pictures' --format coco"
    (run / "last.safetensors").touch()
    assert shlex.split(again(run))[-2:] == ["--weights", str(run / "last.safetensors")]
    assert next_commands(run, plan)["measure it"] == f"onestage evaluate '{run}' '/my pictures' --format coco"


def test_the_choice_of_a_model_as_it_is_typed() -> None:
    choice = ModelChoice(
        model="ssd", box_sizes=(1.5, 3), changes=("loss=FocalLoss", "a=b c"), config_file=Path("my model.json")
    )
    assert [shlex.join(words) for words in choice.options] == [
        "--model ssd", "--box-sizes 1.5 3", "--config 'my model.json'", "--set loss=FocalLoss", "--set 'a=b c'",
    ]  # fmt: skip
    assert ModelChoice().options == []
