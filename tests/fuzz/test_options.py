"""Option values that nobody would write: each verb answers with a result or with one error, and writes nowhere else.

The options and their kinds are read from the verbs, so a new option is tried as soon as it is there. Long work is left out:
what trains, times or draws is replaced, since this is about how values come in.
"""

from collections.abc import Iterator
from dataclasses import is_dataclass
from importlib import import_module
from inspect import Parameter, signature
from pathlib import Path
from random import Random
from typing import get_type_hints

import pytest
import torch

from fuzz.harness import fuzz
from onestage import create
from onestage.cli import benchmark, generate, train, walkthrough
from onestage.cli.main import VERBS, main
from onestage.data.synthetic import SyntheticConfig, synthetic_dataset
from onestage.data.writers import write_coco

NUMBERS = ("0", "-1", "1", "2", "-0", "+1", "1e3", "0.5", "1.5", "nan", "inf", "-inf", "1e400", "1e-400", "0x10", "1_0")
NUMBERS += ("٣", "²", "9" * 5, "9" * 19, "9" * 20, "-" + "9" * 20, "9" * 5000, "1,5", "True", "None")
WORDS = (
    "",
    " ",
    "\0",
    "a\0b",
    "\n",
    "\x1b[2J",
    "..",
    "~",
    "-",
    "--",
    "=",
    "a=",
    "=a",
    "*",
    "[",
    "[red]",
    "\ud800",
    "ø",
    "none",
)
WORDS += ("n" * 256, "n" * 5000, "a/" * 2500, "/dev/full", "/proc/self/mem", "64", "64x48", "0x0", "1x1x1", "9" * 9 + "x9")
WORDS += ("cpu", "meta", "coco", "test", "ball", "tinyssd", "DATA", "RUN", "file", "missing/x")
WORDS += ("loss.gamma=x", "preprocess.size=1", "a.b.c=1", "name=\0")

NEEDED = {
    "predict": ["RUN", "DATA/test"],
    "evaluate": ["RUN", "DATA", "--workers", "0"],
    "explain": ["RUN", "PICTURE"],
    "export": ["RUN"],
    "import": ["file", "-o", "new.safetensors"],
    "models": ["tinyssd"],
    "benchmark": ["tinyssd", "--picture", "32", "--repeats", "1"],
    "data anchors": ["DATA", "--model", "tinyssd"],
    "data check": ["DATA"],
    "data generate": ["drawn", "--train", "1", "--val", "0", "--size", "32"],
    "train": ["DATA", "--model", "tinyssd"],
    "tune": ["DATA", "--model", "tinyssd"],
    "compare": ["RUN", "RUN", "--data", "DATA", "--out", "compared"],
    "batch": ["DATA/test", "-o", "parts", "--model", "RUN"],
    "batch report": ["parts"],
    "data convert": ["DATA", "converted", "--to", "voc"],
    "demo": ["--fast"],
}


CHANGING = ("keep_thresholds", "calibrate")
"""Options that change the model that they are given, as they say."""


def options(part) -> Iterator[tuple[str, bool]]:
    """The options of a verb, or of a dataclass among them, and whether each takes a value."""
    hints = get_type_hints(part, include_extras=True)
    for parameter in signature(part).parameters.values():
        if is_dataclass(parameter.default):
            yield from options(type(parameter.default))
        elif parameter.kind is not Parameter.POSITIONAL_ONLY and parameter.name not in CHANGING:
            names = [mark.name for mark in getattr(hints[parameter.name], "__metadata__", ()) if getattr(mark, "name", None)]
            yield "--" + (names or [parameter.name])[0].replace("_", "-"), get_type_hints(part)[parameter.name] is not bool


OPTIONS = {
    name: tuple(options(getattr(import_module(f"onestage.cli.{verb.module}"), verb.function))) for name, verb in VERBS.items()
}


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """A folder with a data set, a run and a file that is nothing."""
    root = tmp_path_factory.mktemp("options")
    for first, split in enumerate(("train", "val", "test")):
        data = synthetic_dataset(SyntheticConfig(classes=("ball", "ring"), size=(64, 64), count=1), first)
        write_coco([data[0]], root / "DATA", classes=("ball", "ring"), split=split)
    torch.manual_seed(0)
    (root / "RUN").mkdir()
    create("tinyssd", classes=("ball", "ring"), size=(64, 64)).save(root / "RUN" / "best.safetensors")
    (root / "file").write_bytes(b"nothing")
    return root


@pytest.fixture
def no_long_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """What takes long ends with an error as soon as its settings have come in."""

    def done(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    for room, name in ((benchmark, "_run"), (walkthrough, "_trained"), (generate, "_write"), (walkthrough, "_pictures")):
        monkeypatch.setattr(room, name, done)
    monkeypatch.setattr("onestage.training.loop.train", done)
    monkeypatch.setattr("onestage.deploy.export.export", done)
    monkeypatch.setattr("onestage.explain.explain_sample", done)
    monkeypatch.setattr("onestage.model.cost.cost_of", done)
    monkeypatch.setattr("onestage.cli.trials.Tuner.search", done)
    monkeypatch.setattr(train, "_free_folder", lambda _: Path("free"))


@pytest.mark.usefixtures("no_long_work")
def test_options_of_every_verb(home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    base = home / "here"
    outside = {path: path.stat().st_mtime_ns for path in home.rglob("*") if path.is_file()}  # an output may be named DATA
    parents = {path: sorted(path.iterdir()) for path in (home.parent, Path.cwd())}

    def attempt(random: Random) -> str:
        folder = base / f"{random.randrange(10**12)}"
        folder.mkdir(parents=True)
        for name in ("DATA", "RUN", "file"):
            (folder / name).symlink_to(home / name)
        monkeypatch.chdir(folder)
        monkeypatch.setenv("HOME", str(folder))
        verb = random.choice(sorted(VERBS))
        words = [str(min((home / "DATA" / "test").iterdir())) if word == "PICTURE" else word for word in NEEDED[verb]]
        for _ in range(random.randint(1, 2)):
            option, valued = random.choice(OPTIONS[verb])
            value = random.choice(NUMBERS if random.random() < 0.5 else WORDS)
            words += random.choice(([option, value], [f"{option}={value}"])) if valued else [option]
        if random.random() < 0.2:
            words[random.randrange(len(words))] = random.choice(WORDS + NUMBERS)
        try:
            code = main([*verb.split(), *words])
        except SystemExit as end:  # --help
            code = end.code
        said = capsys.readouterr()
        assert code in (0, 1, 2, 130), words
        assert said.err.count("error: ") == (code in (2, 130)), (words, said.err)
        assert len(said.err) < 9000 and "Traceback" not in said.err, words
        return f"{verb} {code}"

    fuzz("options", attempt)
    monkeypatch.chdir(home)
    assert {path: path.stat().st_mtime_ns for path in outside if path.exists()} == outside
    assert {path: sorted(path.iterdir()) for path in parents} == parents
