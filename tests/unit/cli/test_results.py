"""Files of others are never replaced by results; results of earlier runs are."""

import os
from pathlib import Path

import pytest

from metric_cases import found, known
from onestage.analysis.compare import compare
from onestage.analysis.compare_files import NAMES, save_comparison
from onestage.cli.report import FILES
from onestage.cli.results import BENCHMARK, CHECKUP, check_replaceable, results_folder
from onestage.data.predictions import FORMATS, PredictionWriter
from onestage.errors import ConfigError

PREDICTIONS = [form.file_name for form in FORMATS.values()]

STRANGE = {
    "predictions.json": b'{"mine": 1}',
    "predictions.csv": b"picture,label\n",
    "predictions.jsonl": b'{"text": "mine"}\n',
    "index.html": b"<!doctype html>\n<title>mine</title>",
    "pr_curves.png": b"\x89PNG mine",
    "metrics.json": b"{}",
    "analysis.json": b"{}",
    "errors.csv": b"time,error\n",
    "objects.jpg": b"mine",
}


@pytest.mark.parametrize("name", STRANGE)
def test_a_file_of_others_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(STRANGE[name])
    with pytest.raises(ConfigError, match=f"did not write\n.*\n  got: +{name}") as caught:
        results_folder(tmp_path, [*FILES, *PREDICTIONS, "objects.jpg"])
    assert caught.value.fix and (tmp_path / name).read_bytes() == STRANGE[name]


@pytest.mark.parametrize("name", STRANGE)
def test_a_pipe_is_neither_read_nor_written(name: str, tmp_path: Path) -> None:
    """To open it would wait for another program, for ever."""
    os.mkfifo(tmp_path / name)
    names = [*FILES, *PREDICTIONS, "objects.jpg"]
    with pytest.raises(ConfigError, match=f"did not write\n.*\n  got: +{name}"):
        results_folder(tmp_path, names)
    if name != "metrics.json":
        (tmp_path / "metrics.json").write_text('{\n  "model": "x",\n  "data": "y"\n}\n')  # not beside a result either
        with pytest.raises(ConfigError, match=f"did not write\n.*\n  got: +{name}"):
            results_folder(tmp_path, names)


@pytest.mark.parametrize("format", FORMATS)
def test_predictions_of_an_earlier_run_are_replaced(format: str, tmp_path: Path) -> None:
    file = tmp_path / FORMATS[format].file_name
    with PredictionWriter(file, format):
        pass
    results_folder(tmp_path, [file.name])


def test_pictures_beside_a_result_are_results(tmp_path: Path) -> None:
    (tmp_path / "pr_curves.png").touch()
    (tmp_path / "metrics.json").write_text('{\n  "model": "x",\n  "data": "y"\n}\n')
    results_folder(tmp_path, FILES)


@pytest.mark.parametrize(
    ("text", "beginning"), [('{\n "environment": {}', BENCHMARK), ('{\n  "path": "x",\n  "format": "coco"', CHECKUP)]
)
def test_only_a_file_of_the_same_verb_is_replaced(text: str, beginning: object, tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    check_replaceable(file, beginning)  # type: ignore[arg-type]
    file.write_text(text)
    check_replaceable(file, beginning)  # type: ignore[arg-type]
    file.write_text('{"images": []}')
    with pytest.raises(ConfigError, match="onestage did not write it"):
        check_replaceable(file, beginning)  # type: ignore[arg-type]


@pytest.mark.parametrize(("name", "classes"), [("first", 1), ("first", 600), ('a, "b"', 1)])
def test_a_comparison_of_an_earlier_run_is_replaced(name: str, classes: int, tmp_path: Path) -> None:
    """However many classes it names before its figures, and however a detector is called."""
    names = [f"a class with the number {k}" for k in range(classes)]
    comparison = compare({name: [found(1)], f"{name} again": [found(1)]}, [known(1)], names, data="pictures test", draws=0)
    save_comparison(comparison, tmp_path, paths={})
    results_folder(tmp_path, NAMES)
