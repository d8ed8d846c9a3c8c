"""Closer looks from the command line: predict and evaluate with tiles, mirror images, scales and several models."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import onestage
from films import encode
from onestage.cli.looking import PLAIN_LOOK, Look
from onestage.cli.main import main
from onestage.predict.films import FilmFile
from onestage.predict.frames import Frame

Captured = pytest.CaptureFixture[str]


@pytest.fixture
def large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A picture of 150 x 200 pixels, for a model that sees 64 x 64."""
    monkeypatch.chdir(tmp_path)
    pixels = torch.randint(0, 256, (150, 200, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    Image.fromarray(pixels.numpy()).save("large.png")
    return Path("large.png")


def test_predict_looks_as_python_does_and_says_what_it_costs(run: Path, large: Path, capsys: Captured) -> None:
    options = ["--tiles", "80x100", "--overlap", "0.3", "--flip", "--score", "0.2", "--no-pictures", "--format", "jsonl"]
    assert main(["predict", str(run), str(large), "--with", str(run), "--weights", "2,1", *options]) == 0
    look = onestage.look(onestage.load(run), tiles=(80, 100), overlap=0.3, flip=True)
    (expected,) = onestage.fuse([look, look], weights=[2, 1]).predict([str(large)], score=0.2)
    (line,) = Path("predictions/predictions.jsonl").read_text().splitlines()
    found = json.loads(line)["detections"]
    assert len(found) == len(expected) > 0
    torch.testing.assert_close(torch.tensor([row["box"] for row in found]), expected.boxes, atol=2e-3, rtol=0)
    told = capsys.readouterr().err
    assert f"looking closer: {run} + {run} (tinyssd, tiles 80x100" in " ".join(told.split())
    passes = 2 * look.passes((150, 200))
    assert f"{passes} passes through the network for the picture of 150x200, in place of 1" in told and passes == 2 * 2 * 10
    assert "lower --score" not in told, "a score was chosen"


def test_tiles_that_a_small_picture_does_not_need_are_told(run: Path, large: Path, capsys: Captured) -> None:
    assert main(["predict", str(run), str(large), "--tiles", "200x200"]) == 0
    assert "1 pass through the network for the picture of 150x200, as in the plain call" in capsys.readouterr().err


@pytest.mark.parametrize(("options", "lower"), [(["--flip"], True), (["--with", "RUN"], True), (["--tiles", "80x100"], False)])
def test_lower_scores_are_told_where_nobody_chose_one(
    run: Path, large: Path, options: list[str], lower: bool, capsys: Captured
) -> None:
    given = [str(run) if word == "RUN" else word for word in options]
    assert main(["predict", str(run), str(large), *given]) == 0
    assert ("take a lower --score" in capsys.readouterr().err) == lower


def objects(folder: Path) -> list[list[dict[str, Any]]]:
    """The detections in each row of the results."""
    return [json.loads(line)["detections"] for line in (folder / "predictions.jsonl").read_text().splitlines()]


def test_a_film_says_what_it_costs(run: Path, large: Path, capsys: Captured) -> None:
    encode(Path("in.mp4"), 2, size=(96, 64))
    assert main(["predict", str(run), "in.mp4", "--flip", "--no-pictures", "--format", "jsonl"]) == 0
    told = capsys.readouterr().err
    assert "2 passes through the network for a frame of" in told and "take a lower --score" in told


def test_a_film_is_looked_at_as_its_frames_would_be(run: Path, large: Path, capsys: Captured) -> None:
    """In tiles, mirrored and by two models; and in two scales with ids."""
    encode(Path("in.mp4"), 3, size=(80, 96))
    pixels = [item.pixels for item in FilmFile(Path("in.mp4")).frames() if isinstance(item, Frame)]
    command = ["predict", str(run), "in.mp4", "--score", "0.2"]
    closer = ["--tiles", "64x80", "--flip", "--with", str(run), "--weights", "2,1", "--seconds", "0.01"]
    assert main([*command, *closer, "--no-pictures", "--format", "jsonl", "--out", "fused"]) == 0
    look = onestage.look(onestage.load(run), tiles=(64, 80), flip=True)
    fused = onestage.fuse([look, look], weights=[2, 1])
    (expected,) = fused.predict(pixels[0], score=0.2)
    (found,) = objects(Path("fused"))
    assert [row["class_name"] for row in found] == list(expected.class_names) != []
    torch.testing.assert_close(torch.tensor([row["box"] for row in found]), expected.boxes, atol=2e-3, rtol=0)
    assert f"{fused.passes((80, 96))} passes through the network for a frame of 80x96" in capsys.readouterr().err

    assert main([*command, "--scales", "0.8,1", "--track", "--out", "tracked"]) == 0
    found = objects(Path("tracked"))
    expected = onestage.look(onestage.load(run), scales=(0.8, 1)).predict(pixels, score=0.2)
    for rows, one in zip(found, expected, strict=True):
        boxes = torch.tensor([row["box"] for row in rows])
        assert len(one) > 0 and (one.boxes[:, None] - boxes).abs().amax(dim=2).amin(dim=1).max() < 2e-3
    ids = [{row["track"] for row in rows} - {None} for rows in found]
    assert not ids[0] and ids[1] and ids[1] & ids[2]
    assert sum(isinstance(item, Frame) for item in FilmFile(Path("tracked/in.mp4")).frames()) == 3


def test_evaluate_says_how_it_looked_and_its_detections_can_be_compared(shapes: Path, large: Path) -> None:
    run = Path("model.safetensors")
    config = replace(onestage.recipe("tinyssd", ("ball", "ring"), size=(64, 64)), category_ids=(1, 2))  # as in the data
    onestage.build(config).save(run)
    options = ["--workers", "0", "--no-analysis"]
    assert main(["evaluate", str(run), str(shapes), *options, "--out", "plain"]) == 0
    closer = ["--flip", "--scales", "0.8,1", "--with", str(run)]
    assert main(["evaluate", str(run), str(shapes), *options, *closer, "--out", "closer"]) == 0
    metrics = json.loads(Path("closer/metrics.json").read_text())
    assert metrics["model"] == "tinyssd, mirrored too, scales 0.8 1 + tinyssd, mirrored too, scales 0.8 1"
    assert metrics["model"] in Path("closer/index.html").read_text()
    same = onestage.look(onestage.load(run), flip=True, scales=(0.8, 1))
    report = onestage.evaluate(onestage.fuse([same, same]), shapes, workers=0)
    assert pytest.approx(metrics["coco"]["AP"]) == report.coco.AP and report.losses is None
    files = ["plain/predictions.json", "closer/predictions.json"]
    assert main(["compare", *files, "--data", str(shapes), "--split", "test", "--draws", "20"]) == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--tiles", "big"], "--tiles is not understood"),
        (["--tiles", "0"], "such as --tiles auto"),
        (["--tiles", "8x8"], "tiles are too small"),
        (["--tiles", "auto", "--overlap", "0"], "--overlap"),
        (["--overlap", "0.5"], "--overlap is of tiles"),
        (["--scales", "0.8,x"], "--scales is not understood"),
        (["--scales", "0.8,nan"], "--scales"),
        (["--scales", "1,1.0"], "--scales names one twice"),
        (["--scales", "9"], "--scales"),
        (["--weights", "1,2"], "--weights has a number for each model"),
        (["--with", "RUN", "--weights", "1"], "--weights has a number for each model"),
        (["--with", "RUN", "--weights", "1,0"], "--weights"),
        (["--with", "nowhere"], "nowhere"),
    ],
)
def test_what_is_refused(options: list[str], message: str, run: Path, large: Path, capsys: Captured) -> None:
    given = [str(run) if word == "RUN" else word for word in options]
    assert main(["predict", str(run), str(large), *given]) == 2
    assert message in capsys.readouterr().err and not Path("predictions").exists()


def test_evaluate_keeps_nothing_of_a_closer_look(run: Path, shapes: Path, large: Path, capsys: Captured) -> None:
    Path("found.json").write_text("[]")
    for words in ([str(run), str(shapes), "--keep-thresholds"], ["found.json", str(shapes)]):
        assert main(["evaluate", *words, "--flip", "--workers", "0"]) == 2
        assert "--flip" in capsys.readouterr().err


def test_options_are_told_as_they_are_typed() -> None:
    look = Look("auto", 0.3, True, ("0.8", "1"), ("a", "b"), ("1", "2,3"))
    typed = "--tiles auto --overlap 0.3 --flip --scales 0.8,1 --with a --with b --weights 1,2,3"
    assert " ".join(look.typed) == typed and look.is_closer
    assert PLAIN_LOOK.typed == [] and not PLAIN_LOOK.is_closer
