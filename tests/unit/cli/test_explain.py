"""``onestage explain``: what is written, where the labels come from, what is refused."""

import json
from pathlib import Path

import pytest

from onestage import load
from onestage.cli.main import main

Captured = pytest.CaptureFixture[str]

pytestmark = pytest.mark.usefixtures("small_panels")


@pytest.fixture
def picture(shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return next(path for path in sorted((shapes / "test").iterdir()))


def figures(folder: str = "explained") -> dict:
    return json.loads(Path(folder, "figures.json").read_text())


def test_labels_are_found_in_the_data_set(run: Path, shapes: Path, picture: Path, capsys: Captured) -> None:
    assert main(["explain", str(run), str(picture), "--labels", str(shapes), "-o", "seen"]) == 0
    known = json.loads((shapes / "annotations/instances_test.json").read_text())
    image = next(i for i in known["images"] if Path(i["file_name"]).name == picture.name)
    names = {c["id"]: c["name"] for c in known["categories"]}
    expected = [names[a["category_id"]] for a in known["annotations"] if a["image_id"] == image["id"]]
    assert [o["name"] for o in figures("seen")["objects"]] == expected
    assert not figures("seen")["guessed_labels"]
    text = capsys.readouterr().out
    assert "hard negatives" in text and "seen/index.html" in text and "learn an object" in text


def test_a_copy_of_a_picture_has_its_labels(run: Path, shapes: Path, picture: Path) -> None:
    copy = Path("other", picture.name)
    copy.parent.mkdir()
    copy.write_bytes(picture.read_bytes())
    for path, out in (picture, "one"), (copy, "two"):
        assert main(["explain", str(run), str(path), "--labels", str(shapes), "-o", out]) == 0
    assert figures("one")["objects"] == figures("two")["objects"]


def test_without_labels_detections_stand_in(run: Path, picture: Path, capsys: Captured) -> None:
    score = float(load(run / "best.safetensors").predict(picture)[0].scores[4])  # so that the best few stand in: it finds 200
    assert main(["explain", str(run), str(picture), "--score", f"{score - 1e-5:.6f}"]) == 0
    assert figures()["guessed_labels"] and 5 <= len(figures()["objects"]) < 10
    assert "stand in for them" in capsys.readouterr().out


def test_a_recipe_is_explained_with_labels_only(shapes: Path, picture: Path, capsys: Captured) -> None:
    assert main(["explain", "tinyssd", str(picture)]) == 2
    assert "--labels DATA\n" in capsys.readouterr().err
    assert main(["explain", "tinyssd", str(picture), "--labels", str(shapes)]) == 0
    assert figures()["input"] == [256, 256]
    assert main(["explain", "tinyssd", str(picture), "--labels", str(shapes), "--device", "nowhere"]) == 2
    assert "this device cannot be used" in capsys.readouterr().err


def test_mistakes_are_told(run: Path, shapes: Path, picture: Path, capsys: Captured) -> None:
    Path("other.jpg").write_bytes(picture.read_bytes())
    Path("text.jpg").write_text("no picture")
    namesake = Path("other", picture.name)
    namesake.parent.mkdir()
    namesake.write_bytes(sorted((shapes / "test").iterdir())[1].read_bytes())
    for arguments, words in (
        (["other.jpg", "--labels", str(shapes)], "no labels for this picture"),
        ([str(namesake), "--labels", str(shapes)], "another picture of this name"),
        (["nowhere/" + picture.name, "--labels", str(shapes)], "another picture of this name"),
        (["missing.jpg"], "missing.jpg"),
        (["text.jpg"], "not a picture"),
        ([str(picture), "--labels", "nowhere"], "no such file or folder"),
        ([str(picture), "--score", "1.5"], "above 0, below 1"),
    ):
        assert main(["explain", str(run), *arguments]) == 2
        error = capsys.readouterr().err
        assert words in error and "Traceback" not in error
    assert not Path("explained").exists()


def test_classes_that_the_model_does_not_know_are_named(run: Path, shapes: Path, picture: Path, capsys: Captured) -> None:
    for path in (shapes / "annotations").iterdir():
        text = path.read_text().replace('"ball"', '"planet"').replace('"ring"', '"moon"')
        target = Path("copy", *path.relative_to(shapes).parts)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
    for split in ("train", "val", "test"):
        (Path("copy") / split).symlink_to(shapes / split)
    labelled = next(name for name in sorted(Path("copy/test").iterdir()) if _has_objects(name, shapes))
    assert main(["explain", str(run), str(labelled), "--labels", "copy"]) == 2
    error = capsys.readouterr().err
    assert "does not know" in error and ("planet" in error or "moon" in error) and "ball" in error


def test_bad_labels_stop_or_are_left_out(run: Path, shapes: Path, picture: Path, capsys: Captured) -> None:
    labels = json.loads((shapes / "annotations/instances_test.json").read_text())
    worst = max(labels["images"], key=lambda image: sum(a["image_id"] == image["id"] for a in labels["annotations"]))
    known = [a for a in labels["annotations"] if a["image_id"] == worst["id"]]
    labels["annotations"].append({**known[0], "id": 10_000, "bbox": [5, 5, 0, 0]})
    Path("copy/annotations").mkdir(parents=True)
    Path("copy/annotations/instances_test.json").write_text(json.dumps(labels))
    Path("copy/test").symlink_to(shapes / "test")
    arguments = ["explain", str(run), f"copy/test/{Path(worst['file_name']).name}", "--labels", "copy"]
    assert main(arguments) == 2
    assert "--on-bad skip" in capsys.readouterr().err
    assert main([*arguments, "--on-bad", "skip"]) == 0
    assert "left out: 1 bad labels or pictures of the data set; see them: onestage data check copy" in capsys.readouterr().err
    assert len(figures()["objects"]) == len(known)


def _has_objects(picture: Path, shapes: Path) -> bool:
    known = json.loads((shapes / "annotations/instances_test.json").read_text())
    ids = {i["id"] for i in known["images"] if Path(i["file_name"]).name == picture.name}
    return any(a["image_id"] in ids for a in known["annotations"])
