"""The public face: every name is there in a fresh process, and torch comes only when it is needed."""

import ast
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import onestage
from onestage.errors import KeywordError


def run(code: str, *arguments: str) -> str:
    """What a fresh Python process prints: this one has imported too much already."""
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


FORKED = """
import os, sys
import timm, torch, torchvision.models.detection

assert not any(name.startswith("onestage") for name in sys.modules)
for code in sys.argv[1:]:
    if not os.fork():
        exec(code)
        sys.stdout.flush()
        os._exit(0)
    assert os.wait()[1] == 0, code
"""
"""Runs each code in a process that has imported what onestage needs, which takes seconds, but nothing of onestage."""


def test_names_need_no_further_import() -> None:
    codes = [
        "import onestage; print(onestage.structures.Targets.__name__ == 'Targets')",
        "import onestage; onestage.errors.DataError; onestage.boxes; onestage.data.Dataset; print(bool(onestage.zoo.ZOO))",
        "import onestage.training.config as c; a = c.TrainConfig; import onestage; print(onestage.TrainConfig is a)",
        "import onestage.training.loop as l, onestage; print(onestage.resume is l.resume and callable(onestage.train))",
        "import onestage; print(all(getattr(onestage, name) is not None for name in onestage.__all__ + dir(onestage)))",
        NO_PACKAGE,
    ]
    assert run(FORKED, *codes) == "True\n" * 7


NO_PACKAGE = """
import inspect, onestage.metrics.coco, onestage.predict.measure, onestage.training.loop, onestage
assert inspect.signature(onestage.train) == inspect.signature(onestage.training.loop.train)
assert inspect.getdoc(onestage.train) == inspect.getdoc(onestage.training.loop.train)
for function in (onestage.train, onestage.evaluate):
    try:
        function(onestage.create("tinyssd", 1), "no such folder")
    except onestage.errors.DataError as error:
        print("no such" in str(error))
"""
"""No package takes the place of a function."""


def test_an_unknown_name_is_an_attribute_error_and_torch_waits() -> None:
    code = "import sys, onestage; print(hasattr(onestage, 'trian'), onestage.errors.DataError.__name__, 'torch' in sys.modules)"
    assert run(code) == "False DataError False\n"


@pytest.fixture(scope="module")
def model() -> onestage.Detector:
    return onestage.create("tinyssd", classes=["cat"], size=(64, 64))


@pytest.mark.parametrize(
    ("call", "wrong", "right"),
    [
        (lambda m: onestage.create("tinyssd", clases=["cat"]), "clases", "classes"),
        (lambda m: onestage.build(m.config, weight="x"), "weight", "weights"),
        (lambda m: onestage.recipe("tinyssd", ["cat"], sizes=(64, 64)), "sizes", "size"),
        (lambda m: onestage.load(pth="x"), "pth", "path"),
        (lambda m: onestage.train(m, "data", epoch=3), "epoch", "epochs"),
        (lambda m: onestage.resume(folders="x"), "folders", "folder"),
        (lambda m: onestage.evaluate(m, "data", splits="val"), "splits", "split"),
        (lambda m: onestage.TrainConfig(batchsize=3), "batchsize", "batch_size"),
        (lambda m: m.predict(torch.zeros(3, 64, 64), scores=0.3), "scores", "score"),
        (lambda m: m.save(pth="x"), "pth", "path"),
        (lambda m: m.predict(torch.zeros(3, 64, 64))[0].draw(scor=0.3), "scor", "score"),
    ],
)
def test_a_misspelt_keyword_gets_the_nearest_name(
    call: Callable[[onestage.Detector], object], wrong: str, right: str, model: onestage.Detector
) -> None:
    with pytest.raises(KeywordError) as caught:
        call(model)
    assert caught.value.what == f"unknown keyword '{wrong}' (did you mean '{right}'?)"


def test_type_checkers_see_the_names_that_there_are() -> None:
    tree = ast.parse(Path(onestage.__file__).read_text(encoding="utf-8"))
    declared = {alias.asname for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert declared - {None} == set(onestage._HOMES)
    assert dir(onestage) == sorted(onestage.__all__) and not set(dir(onestage)) & {"boxes", "data", "TYPE_CHECKING"}
