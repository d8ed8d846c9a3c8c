"""The public face: every name is there in a fresh process, and torch comes only when it is needed."""

import subprocess
import sys

import pytest


def run(code: str) -> str:
    """What a fresh Python process prints: this one has imported too much already."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    "code",
    [
        "import onestage; print(onestage.structures.Targets.__name__ == 'Targets')",
        "import onestage; onestage.errors.DataError; onestage.boxes; onestage.data.Dataset; print(bool(onestage.zoo.ZOO))",
        "import onestage.training.config as c; a = c.TrainConfig; import onestage; print(onestage.TrainConfig is a)",
        "import onestage.training.loop as l, onestage; print(onestage.resume is l.resume and callable(onestage.train))",
        "import onestage; print(all(getattr(onestage, name) is not None for name in onestage.__all__ + dir(onestage)))",
    ],
)
def test_names_need_no_further_import(code: str) -> None:
    assert run(code) == "True\n"


def test_no_package_takes_the_place_of_a_function() -> None:
    code = """
import inspect, onestage.metrics.coco, onestage.predict.measure, onestage.training.loop, onestage
assert inspect.signature(onestage.train) == inspect.signature(onestage.training.loop.train)
assert inspect.getdoc(onestage.train) == inspect.getdoc(onestage.training.loop.train)
for function in (onestage.train, onestage.evaluate):
    try:
        function(onestage.create("tinyssd", 1), "no such folder")
    except onestage.errors.DataError as error:
        print("no such" in str(error))
"""
    assert run(code) == "True\nTrue\n"


def test_an_unknown_name_is_an_attribute_error_and_torch_waits() -> None:
    code = "import sys, onestage; print(hasattr(onestage, 'trian'), onestage.errors.DataError.__name__, 'torch' in sys.modules)"
    assert run(code) == "False DataError False\n"
