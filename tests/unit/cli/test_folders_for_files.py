"""A folder, or a pipe, where a file is expected, and a file where a folder is: one error that says what is there."""

import os
from pathlib import Path

import pytest

from onestage.cli.main import main

Captured = pytest.CaptureFixture[str]

NO_FILE = {
    "weights": ["train", "DATA", "--weights", "IN", "--device", "cpu"],
    "weights of a backbone": ["train", "DATA", "--model", "ssd", "--backbone", "timm/resnet18", "--backbone-weights", "IN"],
    "a config": ["train", "DATA", "--config", "IN", "--device", "cpu"],
    "a checkpoint": ["import", "IN", "--out", "x.safetensors"],
    "a picture": ["explain", "RUN", "IN", "--device", "cpu"],
}
"""Commands with something else in the place of a file."""


@pytest.mark.parametrize("verb", NO_FILE)
@pytest.mark.parametrize("got", ["a folder", "a pipe"])
def test_what_is_no_file_is_named(
    got: str, verb: str, shapes: Path, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.chdir(tmp_path)
    os.mkfifo("IN") if got == "a pipe" else Path("IN").mkdir()
    words = [word.replace("DATA", str(shapes)).replace("RUN", str(run)) for word in NO_FILE[verb]]
    assert main(words) == 2
    told = capsys.readouterr().err
    assert "error: this is not a file" in told and f"got:      {got}\n" in told
    assert all(part in told for part in ("where:    ", "expected: ", "fix:      name a file"))
    assert [path.name for path in tmp_path.iterdir()] == ["IN"]


NO_FOLDER = {
    "results": ["evaluate", "RUN", "DATA", "--out", "IN", "--workers", "0"],
    "a benchmark": ["benchmark", "RUN", "--out", "IN"],
    "a batch": ["batch", "DATA", "--model", "RUN", "-o", "IN"],
    "pictures": ["data", "generate", "IN"],
    "a data set": ["data", "convert", "DATA", "IN", "--to", "wds"],
    "a run": ["train", "--resume", "IN"],
    "a new run": ["train", "DATA", "--model", "tinyssd", "--out", "IN", "--steps", "1", "--device", "cpu"],
    "a run below a file": ["train", "DATA", "--model", "tinyssd", "--out", "IN/run", "--steps", "1", "--device", "cpu"],
    "a search": ["tune", "DATA", "--out", "IN", "--device", "cpu"],
    "predictions": ["predict", "RUN", "DATA/test", "--out", "IN"],
    "a report of a batch": ["batch", "report", "IN"],
}


@pytest.mark.parametrize("verb", NO_FOLDER)
def test_a_file_that_should_be_a_folder_is_named(
    verb: str, shapes: Path, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("IN").write_text("nothing")
    words = [word.replace("DATA", str(shapes)).replace("RUN", str(run)) for word in NO_FOLDER[verb]]
    assert main(words) == 2
    told = capsys.readouterr().err
    assert "got:      a file\n" in told and all(part in told for part in ("where:    ", "fix:      "))
    assert Path("IN").read_text() == "nothing"
