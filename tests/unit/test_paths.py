"""Paths that no system takes, at every public door: an error that names the argument, and nothing raw."""

from pathlib import Path

import pytest
import torch

import onestage
from onestage.data import load_dataset
from onestage.data.synthetic import SyntheticConfig, synthetic_dataset
from onestage.data.writers import write_coco
from onestage.errors import ConfigError, OnestageError
from onestage.files import given_path

NO_PATHS = ["", "a\0b", "n" * 300, "a/" * 3000, b"x", 3, None, ["x"], "\ud800"]


@pytest.fixture(scope="module")
def model() -> onestage.Detector:
    torch.manual_seed(0)
    return onestage.create("tinyssd", 2, size=(64, 64)).eval()


@pytest.mark.parametrize("path", NO_PATHS, ids=lambda path: repr(path)[:12])
def test_no_door_lets_a_raw_error_through(model, path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for argument, door in {
        "path": lambda: onestage.load(path),
        " path": lambda: model.save(path),
        "model": lambda: onestage.evaluate(path, "data"),
        "data": lambda: onestage.evaluate(model, path),
    }.items():
        with pytest.raises(ConfigError) as caught:
            door()
        assert argument.strip() in caught.value.what and len(str(caught.value)) < 2500
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "path", [path for path in NO_PATHS if isinstance(path, str) and path], ids=lambda path: repr(path)[:12]
)
def test_pictures_and_data_sets_of_no_path(model, path: str) -> None:
    for door in (lambda: model.predict(path), lambda: model.predict([Path(path)]), lambda: load_dataset(path)):
        with pytest.raises((OnestageError, FileNotFoundError)):
            door()


@pytest.mark.parametrize("path", ["x", "./x", Path("a/b"), "ø" * 100, "n" * 255, ".", " "])
def test_any_other_path_passes(path) -> None:
    assert given_path(path, "data") == Path(path)


NO_NUMBERS = [*({"workers": w} for w in (-1, 2.5, "4", 10**20, True)), *({"batch_size": b} for b in (0, 2.5, "8", True))]


@pytest.mark.parametrize("arguments", NO_NUMBERS, ids=str)
def test_numbers_of_evaluate(model, arguments, tmp_path: Path) -> None:
    (picture,) = synthetic_dataset(SyntheticConfig(classes=("ball", "ring"), size=(64, 64), count=1))
    write_coco([picture], tmp_path, classes=model.classes)
    with pytest.raises(ConfigError, match=next(iter(arguments))):
        onestage.evaluate(model, tmp_path, **arguments)
