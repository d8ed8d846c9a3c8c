"""``onestage train`` and ``onestage evaluate``: from labels to a report, and everything that is refused on the way."""

import json
import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch

from onestage import create, evaluate, load
from onestage.cli.choose import ModelChoice, make_model
from onestage.cli.main import main
from onestage.data import load_dataset
from onestage.data.dataset import Problem, complain
from onestage.data.problems import also_look
from onestage.training.config import TrainConfig
from onestage.training.folder import Plan
from onestage.training.loop import TrainResult
from small_runs import PICTURES, write_pictures

CLASSES = ("ball", "ring")
Captured = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def somewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_train_then_evaluate(shapes: Path, capsys: Captured) -> None:
    arguments = ["train", str(shapes), "--model", "tinyssd", "--size", "64x96", "--set", "loss.negative_ratio=2"]
    assert main([*arguments, "--epochs", "1", "--batch-size", "4", "--workers", "0", "--seed", "3"]) == 0
    text = capsys.readouterr().out
    assert f"onestage evaluate runs/tinyssd-1 {shapes}\n" in text and "onestage predict runs/tinyssd-1" in text
    model = load("runs/tinyssd-1/best.safetensors")
    assert model.config.classes == ("ball", "ring") and model.config.category_ids == (1, 2)
    assert model.config.preprocess.size == (64, 96) and model.config.loss.negative_ratio == 2
    assert json.loads(Path("runs/tinyssd-1/config.json").read_text())["train"]["seed"] == 3

    assert main(["evaluate", "runs/tinyssd-1", str(shapes), "--out", "report", "--workers", "0"]) == 0
    assert "4 pictures" in capsys.readouterr().out
    assert json.loads(Path("report/metrics.json").read_text())["pictures"] == 4
    results = json.loads(Path("report/predictions.json").read_text())
    truth = json.loads((shapes / "annotations/instances_test.json").read_text())
    assert {r["image_id"] for r in results} <= {image["id"] for image in truth["images"]}
    assert {r["category_id"] for r in results} <= {1, 2} and results
    assert len(list(Path("report/pictures").glob("*.jpg"))) == 4 and Path("report/index.html").is_file()


def test_pictures_that_were_trained_on_do_not_measure_the_run(capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    data = write_pictures(Path("all"), train=20, val=0)
    (data / "annotations/instances_train.json").rename(data / "labels.json")
    arguments = ["train", "all", "--model", "tinyssd", "--size", "64", "--out", "run", "--seed", "3"]
    assert main([*arguments, "--epochs", "1", "--batch-size", "4", "--workers", "0"]) == 0
    rest = load_dataset(data, classes=PICTURES.classes).hold_out(0.1, 3)[1]
    for model, given in (("run", "all"), ("run/last.safetensors", str(data.resolve()))):
        capsys.readouterr()
        assert main(["evaluate", model, given, "--out", f"{model}-report", "--workers", "0"]) == 0
        assert "on the 2 pictures held out; the run trained on the rest of this data set" in capsys.readouterr().out
        found = json.loads(Path(f"{model}-report/predictions.json").read_text())
        assert found and {r["image_id"] for r in found} <= {*rest.image_ids}

    for picture in sorted((data / "train").iterdir())[:1]:
        picture.unlink()
    assert main(["evaluate", "run", "all", "--on-bad", "skip", "--workers", "0"]) == 0
    assert "on the 2 pictures held out" in capsys.readouterr().out  # the run knows which
    Path("run/checkpoints/inventory.json").unlink()  # as in a run of an earlier version
    assert main(["evaluate", "run", "all", "--on-bad", "skip", "--workers", "0"]) == 0
    captured = capsys.readouterr()
    assert "19 pictures" in captured.out and "held out" not in captured.out
    assert "warning: the data set has changed since this run began" in captured.err

    other = write_pictures(Path("other"), train=5, val=0)
    assert main(["evaluate", "run", str(other), "--workers", "0"]) == 0
    captured = capsys.readouterr()
    assert "5 pictures" in captured.out and "held out" not in captured.out and captured.err == ""


def test_the_same_seed_gives_the_same_fresh_weights() -> None:
    choice = ModelChoice(model="tinyssd", size="64")
    one, same, other = (make_model(CLASSES, choice, None, seed=seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not all(torch.equal(one[name], other[name]) for name in one)


def test_start_from_weights_and_change_the_recipe() -> None:
    torch.manual_seed(9)
    start = create("tinyssd", classes=["cat", "dog", "cow"], size=(64, 64))
    start.save("start.safetensors")
    choice = ModelChoice(model="tinyssd", size="64", weights="start.safetensors", changes=("assigner.claim=best",))
    with pytest.warns(UserWarning, match="start fresh"):
        model = make_model(CLASSES, choice, choice.source(), seed=0)
    assert model.config.assigner.claim == "best" and model.config.classes == ("ball", "ring")
    first = next(iter(start.state_dict()))
    assert torch.equal(model.state_dict()[first], start.state_dict()[first])


def test_weights_of_ones_own_say_which_model(capsys: Captured) -> None:
    """And how large its input is, and on what it stands; what is asked for goes before."""
    create("retinanet", classes=["cat"], size=(64, 96), backbone="test_resnet").save("start.safetensors")
    capsys.readouterr()
    for asked, size in ({}, (64, 96)), ({"size": "96"}, (96, 96)):
        choice = ModelChoice(weights="start.safetensors", **asked)
        with pytest.warns(UserWarning, match="start fresh"):
            model = make_model(CLASSES, choice, choice.source(), seed=0)
        assert model.config.name == "retinanet" and model.config.backbone.name == "test_resnet"
        assert model.config.preprocess.size == size
        assert ("preprocess.size" in capsys.readouterr().err) == (asked == {})


def test_a_run_gets_the_next_free_folder_and_an_interruption_shows(
    shapes: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    outs: list[Path] = []

    def interrupted(*_: object, out: Path, **__: object) -> TrainResult:
        outs.append(out)
        out.mkdir(parents=True)
        return TrainResult(folder=out, best_ap=0.0, report=None, interrupted=True, seconds=1)

    monkeypatch.setattr("onestage.training.loop.train", interrupted)
    for _ in range(2):
        assert main(["train", str(shapes), "--model", "tinyssd"]) == 130
    assert [out.as_posix() for out in outs] == ["runs/tinyssd-1", "runs/tinyssd-2"]


def test_a_run_whose_data_set_lost_a_picture_says_how_it_goes_on(monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    def resume(folder: Path, **options: Any) -> TrainResult:
        problems = [Problem("a.txt", "there is no picture for these labels")]
        raise complain(Path("data"), problems, empty=False, more=also_look("onestage data check data"))

    monkeypatch.setattr("onestage.training.loop.resume", resume)
    assert main(["train", "--resume", "runs/x"]) == 2
    said = capsys.readouterr().err
    assert "a.txt" in said and "put the data set back" in said and "onestage train DATA --on-bad skip\n" in said
    assert "--resume runs/x --on-bad skip" in said


@pytest.mark.parametrize("verb", [["data", "check", "data"], ["benchmark", "tinyssd"]])
def test_a_folder_is_no_file_for_results(verb: list[str], tmp_path: Path, capsys: Captured) -> None:
    assert main([*verb, "--json", str(tmp_path)]) == 2
    assert "this is a folder" in capsys.readouterr().err


def test_resume_needs_nothing_but_the_folder(monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    Path("runs/x").mkdir(parents=True)
    Plan(create("tinyssd", 2).config, TrainConfig(), "/data/my shapes", "coco").save(Path("runs/x"))
    resumed: list[Path] = []

    def resume(folder: Path, **options: Any) -> TrainResult:
        assert not options["accept_changes"]
        resumed.append(folder)
        return TrainResult(folder=folder, best_ap=0.5, report=None, interrupted=False, seconds=1)

    monkeypatch.setattr("onestage.training.loop.resume", resume)
    assert main(["train", "--resume", "runs/x"]) == 0
    assert resumed == [Path("runs/x")]
    assert "onestage evaluate runs/x '/data/my shapes' --format coco\n" in capsys.readouterr().out

    assert main(["train", "--resume", "runs/x", "--seed", "3"]) == 2
    error = capsys.readouterr().err
    assert "these cannot change" in error and "--weights" not in error  # there is no model yet


def test_after_a_crash_the_same_command_goes_on(shapes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """torchrun starts every process again with the command that it had, and counts how often."""
    command_line = ["train", str(shapes), "--model", "tinyssd", "--size", "64", "--out", "runs/x", "--epochs", "1"]
    assert main([*command_line, "--batch-size", "4", "--workers", "0", "--device", "cpu"]) == 0
    resumed: list[Path] = []

    def resume(folder: Path, **options: Any) -> TrainResult:
        assert not options["accept_changes"]
        resumed.append(folder)
        return TrainResult(folder=folder, best_ap=0.5, report=None, interrupted=True, seconds=1)

    monkeypatch.setattr("onestage.training.loop.resume", resume)
    launched = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
    for name, value in launched.items():
        monkeypatch.setenv(name, value)
    assert main(command_line) == 2 and resumed == []  # started for the first time: the folder holds a run
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    assert main(command_line) == 130 and resumed == [Path("runs/x")]
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(["train", str(shapes), "--model", "tinyssd"]) == 2  # without --out, each would take another folder


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "no data set is named"),
        (["nowhere"], "there is no such file or folder"),
        (["nowhere", "--model", "tinysd"], "did you mean 'tinyssd'?"),  # before a long look at the data
        (["nowhere", "--model", "tinyssd", "--set", "head=SharedHead"], "equal channels"),
        (["nowhere", "--model", "tinyssd"], "there is no such file or folder"),
        (["DATA", "--model", "tinysd"], "did you mean 'tinyssd'?"),
        (["DATA", "--model", "tinyssd", "--size", "big"], "--size is not understood"),
        (["DATA", "--model", "tinyssd", "--backbone", "timm/resnet18"], "part of its name"),
        (["DATA", "--model", "tinyssd", "--set", "los.negative_ratio=2"], "did you mean 'loss'?"),
        (["DATA", "--model", "tinyssd", "--set", "loss.negative_ratio"], "--set takes KEY=VALUE"),
        (["DATA", "--model", "tinyssd", "--weights", "none.pth"], "no such weights"),
        (["DATA", "--model", "tinyssd", "--weights", "a", "--backbone-weights", "b"], "give one of them"),
        (["DATA", "--model", "tinyssd", "--out", "/proc/no"], "cannot be written here"),
        (["--resume", "nowhere"], "this folder holds no run"),
        (["--resume", "nowhere", "--epochs", "3"], "this folder holds no run"),
        (["DATA", "--resume", "nowhere"], "this folder holds no run"),
        (["DATA", "--model", "tinyssd", "--out", "DATA"], "results would be written among the pictures"),
    ],
)
def test_what_train_refuses(arguments: list[str], message: str, shapes: Path, capsys: Captured) -> None:
    assert main(["train", *(str(shapes) if a == "DATA" else a for a in arguments)]) == 2
    assert message in capsys.readouterr().err
    assert list(Path().iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["RUN", "nowhere"], "there is no such file or folder"),
        (["nowhere", "DATA"], "there is no such model"),
        (["RUN", "DATA", "--split", "tset"], "there is no split 'tset'"),
        (["RUN", "DATA", "--format", "voc"], "no labelled pictures were recognised"),
        (["RUN", "DATA", "--out", "/proc/no"], "results cannot be written here"),
    ],
)
def test_what_evaluate_refuses(arguments: list[str], message: str, shapes: Path, run: Path, capsys: Captured) -> None:
    places = {"DATA": str(shapes), "RUN": str(run)}
    assert main(["evaluate", *(places.get(a, a) for a in arguments)]) == 2
    assert message in capsys.readouterr().err


def test_evaluate_says_what_it_left_out(shapes: Path, run: Path, tmp_path: Path, capsys: Captured) -> None:
    rows = ["image,label,xmin,ymin,xmax,ymax"]
    for number, picture in enumerate(sorted((shapes / "test").iterdir())):
        data = picture.read_bytes()
        (tmp_path / picture.name).write_bytes(data[: len(data) // 2] if number == 0 else data)
        rows.append(f"{picture.name},ball,1,1,20,{20 if number != 1 else 0}")
    (tmp_path / "label.csv").write_text("\n".join(rows))
    assert main(["evaluate", str(run), str(tmp_path), "--workers", "0"]) == 2
    assert "--on-bad skip" in capsys.readouterr().err
    assert main(["evaluate", str(run), str(tmp_path), "--workers", "0", "--on-bad", "skip"]) == 0
    captured = capsys.readouterr()
    assert "3 pictures" in captured.out and "left out: 2 bad labels or pictures" in captured.err


VERBS = {
    "evaluate": ["evaluate", "RUN", "DATA"],
    "explain": ["explain", "RUN", "DATA/test/PICTURE", "--labels", "DATA"],
    "train": ["train", "DATA", "--model", "tinyssd", "--size", "64x64", "--epochs", "1", "--workers", "0"],
}


@pytest.mark.parametrize("out", ["DATA", "DATA/test", "DATA/train", "link"])
@pytest.mark.parametrize("verb", VERBS)
def test_results_never_mix_with_a_data_set(verb: str, out: str, shapes: Path, run: Path, capsys: Captured) -> None:
    if (verb, out) in (("evaluate", "DATA/train"), ("train", "DATA/test"), ("explain", "DATA/test")):
        pytest.skip("this verb does not read that split")
    before = sorted(shapes.rglob("*"))
    Path("link").symlink_to(shapes)
    picture = min((shapes / "test").iterdir()).name
    places = {"RUN": str(run), "DATA": str(shapes), "PICTURE": picture}
    arguments = [*VERBS[verb], "--out", out]
    for name, place in places.items():
        arguments = [word.replace(name, place) for word in arguments]
    assert main(arguments) == 2
    said = capsys.readouterr().err
    assert "would be written among the pictures of a data set" in said and "choose another folder: --out" in said
    assert sorted(shapes.rglob("*")) == before


@pytest.mark.parametrize("verb", ["evaluate", "train"])
def test_leaving_out_all_objects_is_no_remedy(verb: str, shapes: Path, run: Path, tmp_path: Path, capsys: Captured) -> None:
    names = [f"x{number}.jpg" for number in range(2)]
    for name, picture in zip(names, sorted((shapes / "test").iterdir()), strict=False):
        (tmp_path / name).write_bytes(picture.read_bytes())
    arguments = {"evaluate": ["evaluate", str(run), "."], "train": ["train", ".", "--model", "tinyssd"]}[verb]
    for last, fix in ((0, "correct them"), (20, "correct them, or go on without them: --on-bad skip")):
        rows = ["image,label,xmin,ymin,xmax,ymax", f"{names[0]},ball,1,1,20,0", f"{names[1]},ball,1,1,20,{last}"]
        (tmp_path / "label.csv").write_text("\n".join(rows))
        assert main(arguments) == 2
        said = capsys.readouterr().err.split("fix:")[1].strip()
        assert said.split(";")[0] == fix


def results(shapes: Path) -> list[dict[str, object]]:
    """The labels of the test pictures as detections that are right."""
    (file,) = (shapes / "annotations").glob("*test*.json")
    labels = json.loads(file.read_text())["annotations"]
    return [
        {"image_id": one["image_id"], "category_id": one["category_id"], "bbox": one["bbox"], "score": 0.5} for one in labels
    ]


def test_evaluate_measures_detections_of_other_programs(shapes: Path, tmp_path: Path, capsys: Captured) -> None:
    """Of the splits, the one that has their pictures."""
    file = tmp_path / "results.json"
    file.write_text(json.dumps([*results(shapes), {"image_id": -1, "category_id": 7, "bbox": [0, 0, 1, 1], "score": 1}]))
    assert main(["evaluate", str(file), str(shapes), "--split", "test"]) == 2
    told = capsys.readouterr().err
    assert "a picture that the data set does not have" in told and "--on-bad skip" in told
    file.write_text(json.dumps([*results(shapes), {**results(shapes)[0], "score": 7}]))
    assert main(["evaluate", str(file), str(shapes), "--on-bad", "skip", "--out", "report"]) == 0
    captured = capsys.readouterr()
    assert "results.json on shapes test" in captured.out and "1.000" in captured.out
    assert "left out: results.json: 1 detection left out: a score outside 0-1" in captured.err
    assert json.loads(Path("report/metrics.json").read_text())["coco"]["AP"] == pytest.approx(1)
    assert "Best score" in captured.out and "AP50 it costs" in captured.out
    written = {"analysis.json", "errors.csv", "pictures.csv"}
    assert written < {path.name for path in Path("report").iterdir()}
    assert "Which score to deploy with" in Path("report/index.html").read_text()
    arguments = ["evaluate", str(file), str(shapes), "--on-bad", "skip", "--out", "report", "--no-analysis"]
    assert main(arguments) == 0 and "Best score" not in capsys.readouterr().out
    assert not written & {path.name for path in Path("report").iterdir()}  # those of the earlier detections
    with pytest.warns(UserWarning, match="a score outside 0-1"):
        report = evaluate(file, shapes, on_bad="skip")
    assert round(report.coco.AP, 6) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["results.json", "DATA", "--batch-size", "4"], "--batch-size"),
        (["DATA/test", "DATA"], "best.safetensors"),
        (["nowhere.json", "DATA"], "or detections: COCO results"),
        (["results.json", "DATA"], "cut off"),
    ],
)
def test_what_evaluate_refuses_of_detections(arguments: list[str], message: str, shapes: Path, capsys: Captured) -> None:
    Path("results.json").write_text(json.dumps(results(shapes))[:-9])
    assert main(["evaluate", *(argument.replace("DATA", str(shapes)) for argument in arguments)]) == 2
    assert message in capsys.readouterr().err


def test_the_help_of_train_names_options_as_they_are_typed_each_beside_its_like(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    text = capsys.readouterr().out
    names = ("epochs", "steps", "minutes", "batch-size", "on-bad", "bad-limit")
    order = [max(found.start() for found in re.finditer(rf"(?m)^[^\w-]*--{name}\b", text)) for name in names]
    assert order == sorted(order)
    words = {word.strip(".,;:()") for word in text.split()}
    assert not words & {field.name for field in fields(TrainConfig) if "_" in field.name}
    assert {f"--{field.name.replace('_', '-')}" for field in fields(TrainConfig)} <= words
    assert "process options" in text
