"""``onestage predict``: what is written, what is skipped, what is refused."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from onestage import create, files, load
from onestage.cli import common, working
from onestage.cli.main import main
from onestage.cli.working import as_before
from onestage.errors import ConfigError
from onestage.images import decode_image
from onestage.predict import journal, pipeline
from onestage.predict.predictor import Predictor

Captured = pytest.CaptureFixture[str]


@pytest.fixture
def photos(shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three pictures in two folders, two of them with the same name."""
    folder = tmp_path / "photos"
    sources = sorted((shapes / "test").iterdir())
    for source, name in zip(sources, ("a/x.jpg", "b/x.jpg", "b/y.jpg"), strict=False):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(source.read_bytes())
    monkeypatch.chdir(tmp_path)
    return folder


def test_pictures_and_all_result_files_agree_with_python(run: Path, photos: Path, capsys: Captured) -> None:
    arguments = ["predict", str(run), "photos", "--score", "0.2", "--top", "3", "--batch-size", "2", "--format"]
    assert main([*arguments, "coco", "csv", "jsonl"]) == 0
    paths = ["photos/a/x.jpg", "photos/b/x.jpg", "photos/b/y.jpg"]
    expected = [found.select(torch.arange(3)) for found in load(run / "best.safetensors").predict(paths, score=0.2)]

    lines = [json.loads(line) for line in Path("predictions/predictions.jsonl").read_text().splitlines()]
    assert [line["path"] for line in lines] == paths
    assert [line["image_id"] for line in lines] == ["a/x.jpg", "b/x.jpg", "b/y.jpg"]
    for line, found in zip(lines, expected, strict=True):
        assert [d["class_name"] for d in line["detections"]] == list(found.class_names)
        torch.testing.assert_close(torch.tensor([d["box"] for d in line["detections"]]), found.boxes, atol=2e-3, rtol=0)
    results = json.loads(Path("predictions/predictions.json").read_text())
    assert len(results) == 9 and {r["image_id"] for r in results} == {"a/x.jpg", "b/x.jpg", "b/y.jpg"}
    rows = list(csv.DictReader(Path("predictions/predictions.csv").read_text().splitlines()))
    assert [row["image"] for row in rows] == [path for path in paths for _ in range(3)]
    for name in ("a/x.jpg", "b/x.jpg", "b/y.jpg"):
        assert (decode_image(f"predictions/{name}") != decode_image(f"photos/{name}")).any()
    text = capsys.readouterr().out
    assert "3 pictures" in text and "9 objects" in text and "predictions/predictions.csv" in text


def test_a_format_that_is_not_written_becomes_a_jpeg(run: Path, photos: Path) -> None:
    Image.open("photos/b/y.jpg").save("photos/b/y.webp")
    assert main(["predict", str(run), "photos/b/y.webp", "--score", "0.2"]) == 0
    assert Image.open("predictions/y.webp.jpg").format == "JPEG"


def test_the_same_command_replaces_its_own_copies_and_no_other_picture(run: Path, photos: Path, capsys: Captured) -> None:
    Image.open("photos/b/y.jpg").save("photos/b/z.png")
    command = ["predict", str(run), "photos", "--score", "0.2"]
    assert main(command) == 0 and main([*command, "--top", "1"]) == 0
    theirs = Path("photos/a/x.jpg").read_bytes()
    Path("predictions/b/y.jpg").write_bytes(theirs)
    assert main(command) == 2
    assert "predictions/b/y.jpg" in capsys.readouterr().err and Path("predictions/b/y.jpg").read_bytes() == theirs


def test_classes_and_score_select(run: Path, photos: Path) -> None:
    command = ["predict", str(run), "photos/a/x.jpg", "--no-pictures", "--format", "jsonl"]
    assert main([*command, "--score", "0.3", "--classes", "ring"]) == 0
    (line,) = Path("predictions/predictions.jsonl").read_text().splitlines()
    found = json.loads(line)["detections"]
    assert found and all(d["class_name"] == "ring" and d["score"] >= 0.3 for d in found)
    assert [entry.name for entry in Path("predictions").iterdir()] == ["predictions.jsonl"]


def test_an_unreadable_picture_is_skipped_counted_and_shows_in_the_exit_code(run: Path, photos: Path, capsys: Captured) -> None:
    Path("photos/b/y.jpg").write_bytes(Path("photos/b/x.jpg").read_bytes()[:500])
    Path("photos/empty.png").touch()
    assert main(["predict", str(run), "photos", "--score", "0.2", "--batch-size", "1", "--format", "jsonl"]) == 1
    captured = capsys.readouterr()
    assert "photos/b/y.jpg" in captured.err and "photos/empty.png" in captured.err
    assert "2 pictures could not be read; failures.csv says why" in captured.err
    assert "2 of 4 pictures" in captured.out
    assert len(Path("predictions/predictions.jsonl").read_text().splitlines()) == 2


def test_only_unreadable_pictures(run: Path, photos: Path, capsys: Captured) -> None:
    Path("bad.jpg").write_bytes(b"\xff\xd8\xff")
    assert main(["predict", str(run), "bad.jpg", "--format", "coco"]) == 1
    assert json.loads(Path("predictions/predictions.json").read_text()) == []


def test_nothing_found_says_what_to_try(run: Path, photos: Path, capsys: Captured) -> None:
    assert main(["predict", str(run), "photos", "--score", "0.95"]) == 0
    assert "try --score 0.2" in capsys.readouterr().err
    assert Path("predictions/a/x.jpg").is_file()


def test_an_interruption_keeps_what_is_done(run: Path, photos: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    decode = pipeline.decode_image

    def interrupted(path: Path) -> torch.Tensor:
        if path.name == "y.jpg":
            raise KeyboardInterrupt
        return decode(path)

    monkeypatch.setattr(pipeline, "decode_image", interrupted)
    assert main(["predict", str(run), "photos", "--score", "0.2", "--batch-size", "1", "--format", "coco"]) == 130
    assert {entry["image_id"] for entry in json.loads(Path("predictions/predictions.json").read_text())} == {
        "a/x.jpg", "b/x.jpg",
    }  # fmt: skip
    captured = capsys.readouterr()
    assert "interrupted" in captured.err and "--resume goes on" in captured.err and "2 of 3 pictures" in captured.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["RUN", "nowhere.jpg"], "no such file or folder"),
        (["RUN"], "no picture is named"),
        (["RUN", "photos", "--classes", "bal"], "did you mean 'ball'?"),
        (["RUN", "photos", "--no-pictures"], "nothing would be written"),
        (["RUN", "photos", "--out", "photos"], "would replace pictures"),
        (["RUN", "photos", "--out", "photos/a/x.jpg"], "expected: a folder for results"),
        (["RUN", "photos", "--device", "gpu"], "this device cannot be used"),
        (["photos", "photos"], "or the file itself, of a model or of detections"),
        (["photos/a/x.jpg", "photos"], "not a weights file of onestage"),
        (["tinyssd", "photos"], "recipe without weights"),
        (["ssd300_vgg16.coc", "photos"], "did you mean 'ssd300_vgg16.coco'?"),
    ],
)
def test_what_is_refused(arguments: list[str], message: str, run: Path, photos: Path, capsys: Captured) -> None:
    before = sorted(Path().rglob("*"))
    assert main(["predict", *(str(run) if a == "RUN" else a for a in arguments)]) == 2
    assert message in capsys.readouterr().err
    assert sorted(Path().rglob("*")) == before


@pytest.mark.parametrize(
    "option", [["--score", "2"], ["--score", "1"], ["--top", "0"], ["--batch-size", "0"], ["--format", "xml"]]
)
def test_impossible_options(option: list[str], run: Path, photos: Path, capsys: Captured) -> None:
    assert main(["predict", str(run), "photos", *option]) == 2
    assert option[0] in capsys.readouterr().err


RESUMED = ["photos", "--score", "0.2", "--batch-size", "1", "--format", "coco", "csv", "jsonl"]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def interrupted(run: Path, photos: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The results of a run that Ctrl-C ended after two of four pictures, one of which is broken."""
    (photos / "a/w.jpg").write_bytes(b"broken")
    decode = pipeline.decode_image

    def stopped(path: Path) -> torch.Tensor:
        if path.name == "y.jpg":
            raise KeyboardInterrupt
        return decode(path)

    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "decode_image", stopped)
        patch.setattr(journal, "SECONDS", 0.0)
        assert main(["predict", str(run), *RESUMED, "--out", "found"]) == 130
    return Path("found")


def test_a_run_that_was_interrupted_goes_on_to_the_same_files(run: Path, interrupted: Path, capsys: Captured) -> None:
    """Those that it has finished can be read before it goes on."""
    assert json.loads((interrupted / "predictions.json").read_text())
    assert main(["predict", str(run), *RESUMED, "--out", "found", "--resume", "--workers", "2"]) == 1
    told = capsys.readouterr()
    assert "going on after 2 of 4 pictures" in told.err and "3 of 4 pictures" in told.out
    assert main(["predict", str(run), *RESUMED, "--out", "whole"]) == 1
    assert contents(Path("found")) == contents(Path("whole"))
    assert "failures.csv" in contents(Path("found")) and "photos/a/w.jpg" in Path("found/failures.csv").read_text()


def test_each_model_of_an_interrupted_run_goes_on_with_its_own_runtime() -> None:
    """A detector that OpenVINO runs, with an .onnx file that onnxruntime does: both programs take such a file."""
    notes = {"runtimes": ["openvino", "onnxruntime"], "threads": torch.get_num_threads()}
    assert as_before(notes, "auto", ["run", "a.onnx"]) == ["openvino", "onnxruntime"]
    assert as_before(notes, "torch", ["run", "a.onnx"]) == ["torch", "torch"]
    assert as_before(None, "auto", ["run", "a.onnx"]) == ["auto", "auto"]
    assert as_before(notes, "auto", ["run"] * 3) == ["auto"] * 3  # another run, which is refused for its settings
    assert as_before(notes, "auto", ["a.xml", "b.tflite"]) == ["openvino", "auto"]  # the same


def test_several_models_are_opened_again_as_they_were_run(
    run: Path, photos: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    asked: list[str] = []

    def noted(name: str, *, runtime: str, **rest: Any) -> Any:
        asked.append(runtime)
        return real(name, runtime=runtime, **rest)

    def run_by(model: Any, runtime: str, **_: Any) -> Predictor:
        asked.append(runtime)
        return Predictor.of(model)

    real, kept = common.find_any_model, working.notes_of
    monkeypatch.setattr(common, "find_any_model", noted)
    monkeypatch.setattr(working, "notes_of", lambda models: {**kept(models), "runtimes": ["torch", "onnxruntime"]})
    monkeypatch.setattr(journal.Journal, "remove", lambda self: None)  # as if it had been killed at the end
    command = ["predict", str(run), "photos/a/x.jpg", "--with", str(run), "--no-pictures", "--format", "csv"]
    assert main(command) == 0 and asked == ["auto", "auto"]
    monkeypatch.setattr(common, "run_model", run_by)
    assert main([*command, "--resume"]) == 0 and asked[2:] == ["torch", "onnxruntime"] * 2


def test_an_interrupted_run_is_not_mixed_with_another(run: Path, interrupted: Path, photos: Path, capsys: Captured) -> None:
    again = ["predict", str(run), *RESUMED, "--out", "found", "--resume"]
    before = contents(interrupted)
    for change, said in ((["--top", "2"], "top: null, now 2"), (["--no-pictures"], "draw: true, now false")):
        assert main([*again, *change]) == 2
        assert said in capsys.readouterr().err
    (photos / "new.jpg").write_bytes((photos / "a/x.jpg").read_bytes())
    assert main(again) == 2 and "photos/new.jpg" in capsys.readouterr().err
    (photos / "new.jpg").unlink()
    torch.manual_seed(1)
    create("tinyssd", classes=("ball", "ring"), size=(64, 64)).save("other.safetensors")
    assert main(["predict", "other.safetensors", *again[2:]]) == 2 and "model: " in capsys.readouterr().err
    assert contents(interrupted) == before
    assert main(again) == 1


def test_an_exported_file_of_another_kind_is_another_model(
    run: Path, photos: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    """As of ONNX before, and of OpenVINO now: the runtime of before takes no such file, which is not what has changed."""
    kept, usual = working.notes_of, common.find_any_model
    monkeypatch.setattr(working, "notes_of", lambda models: {**kept(models), "runtimes": ["onnxruntime"]})
    monkeypatch.setattr(journal.Journal, "remove", lambda self: None)  # as if it had been killed at the end
    command = ["photos/a/x.jpg", "--no-pictures", "--format", "csv"]
    assert main(["predict", str(run), *command]) == 0
    Path("other.xml").write_text("another model")

    def opened(name: str, *, runtime: str, **rest: Any) -> Any:
        if name == "other.xml" and runtime != "auto":
            raise ConfigError("this runtime takes no .xml files", got=runtime)
        return usual(str(run), runtime=runtime, **rest)

    monkeypatch.setattr(common, "find_any_model", opened)
    monkeypatch.setattr("onestage.cli.predict.identity", lambda name, model: name)
    assert main(["predict", "other.xml", *command, "--resume"]) == 2
    said = capsys.readouterr().err
    assert "something has changed since" in said and "now other.xml" in said and "takes no .xml" not in said


def test_without_resume_an_interrupted_run_is_given_up_and_that_is_said(run: Path, interrupted: Path, capsys: Captured) -> None:
    assert main(["predict", str(run), *RESUMED, "--out", "found"]) == 1
    told = capsys.readouterr()
    assert "takes the place of an interrupted run" in told.err and "going on" not in told.err


def test_resume_begins_where_nothing_was_interrupted(run: Path, photos: Path) -> None:
    assert main(["predict", str(run), *RESUMED, "--resume"]) == 0
    assert not (Path("predictions") / journal.FOLDER).exists()


def test_two_commands_do_not_mix_their_results(
    run: Path, photos: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.setattr(files, "CLAIMED_AFTER", 0.0)
    command, codes = ["predict", str(run), "photos", "--no-pictures", "--format", "csv"], list[int]()
    inner = pipeline._detect

    def and_another(*arguments: object) -> object:
        codes.extend(main([*command, *more]) for more in ([], ["--resume"], ["--score", "0.1"]) if len(codes) < 3)
        return inner(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(pipeline, "_detect", and_another)
    assert main([*command, "--score", "0.2"]) == 0 and codes == [2, 2, 2]
    text = capsys.readouterr().err
    assert text.count("another process is writing into this folder") == 3 and "choose another folder" in text
    mixed = Path("predictions/predictions.csv").read_bytes()
    monkeypatch.undo()
    monkeypatch.chdir(photos.parent)
    assert main([*command, "--score", "0.2"]) == 0
    assert Path("predictions/predictions.csv").read_bytes() == mixed
