"""The command line where something is odd: full disks, hostile names, closed streams, terminals of no width."""

import csv
import errno
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from unicodedata import category

import pytest
import torch
from PIL import Image

from onestage import create, load
from onestage.cli import report as cli_report
from onestage.cli.main import main
from onestage.structures import Detections
from small_runs import signal_here, start

Captured = pytest.CaptureFixture[str]

EVIL = "\x1b[31m\x1b]0;pwned\a\x9b2J\u202etac"
"""It would colour, rename, clear and reverse a terminal."""
NAMES = (f"{EVIL}[red]=1", "=HYPERLINK(\x1b[2J)")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def hostile(here: Path, shapes: Path) -> Path:
    """A run folder and a data set whose classes, files and folders have hostile names; in the folder "evil"."""
    home = here / f"evil{EVIL}"
    (home / "data").mkdir(parents=True)
    content = json.loads((shapes / "annotations" / "instances_test.json").read_text())
    for picture in content["images"]:
        new = f"{EVIL}{picture['id']}.jpg"
        shutil.copyfile(shapes / "test" / picture["file_name"], home / "data" / new)
        picture["file_name"] = new
    for entry, name in zip(content["categories"], NAMES, strict=True):
        entry["name"] = name
    (home / "data" / "annotations.json").write_text(json.dumps(content))
    torch.manual_seed(0)
    (home / "run").mkdir()
    create("tinyssd", classes=NAMES, size=(64, 64)).save(home / "run" / "best.safetensors")
    return home


def is_harmless(text: str) -> bool:
    return all(c in "\n\t" or category(c) not in ("Cc", "Cf", "Cs", "Zl", "Zp") for c in text)


VERBS = {
    "predict": ["predict", "RUN", "DATA", "--score", "0.2", "--out", "OUT", "--format", "csv", "coco", "jsonl"],
    "predict nothing": ["predict", "RUN", "DATA/none", "--out", "OUT"],
    "predict a class": ["predict", "RUN", "DATA", "--classes", EVIL, "--out", "OUT"],
    "predict with a file": ["predict", "FILE", "DATA", "--out", "OUT"],
    "evaluate": ["evaluate", "RUN", "DATA", "--workers", "0", "--out", "OUT"],
    "evaluate nothing": ["evaluate", "RUN", "DATA/none"],
    "evaluate a split": ["evaluate", "RUN", "DATA", "--split", EVIL],
    "explain": ["explain", "RUN", "PICTURE", "--labels", "DATA", "--out", "OUT"],
    "explain nothing": ["explain", "RUN", f"{EVIL}.jpg"],
    "import": ["import", "FILE", "--out", "OUT.safetensors"],
    "models": ["models", EVIL],
    "benchmark": ["benchmark", "RUN", "--repeats", "1", "--picture", "32", "--json", "OUT.json", "--out", "OUT"],
    "data check": ["data", "check", "DATA", "--json", "OUT.json"],
    "data generate": ["data", "generate", "OUT", "--train", "1", "--val", "0", "--size", "32"],
    "data generate nothing": ["data", "generate", "DATA", "--classes", EVIL],
    "no verb": [EVIL],
    "no option": ["predict", f"--{EVIL}"],
    "no choice": ["evaluate", "RUN", "DATA", "--on-bad", EVIL],
    "no number": ["benchmark", "--batch", EVIL],
    "train": ["train", "DATA", "--model", EVIL],
    "train nothing": ["train", "DATA/none", "--model", "tinyssd"],
    "train with a setting": ["train", "DATA", "--model", "tinyssd", "--set", f"{EVIL}=1"],
    "resume": ["train", "--resume", "DATA"],
}


@pytest.mark.usefixtures("small_panels", "cells_here")
@pytest.mark.parametrize("verb", VERBS)
def test_no_name_steers_the_terminal(verb: str, hostile: Path, capsys: Captured) -> None:
    places = {"RUN": hostile / "run", "DATA": hostile / "data", "OUT": hostile / "out", "FILE": hostile / "data" / "bad.pth"}
    places["PICTURE"] = min((hostile / "data").glob("*.jpg"))
    places["FILE"].write_bytes(EVIL.encode())
    words = [re.sub("^(RUN|DATA|OUT|FILE|PICTURE)", lambda m: str(places[m[0]]), word) for word in VERBS[verb]]
    assert main(words) in (0, 1, 2)
    captured = capsys.readouterr()
    assert captured.out + captured.err and is_harmless(captured.out) and is_harmless(captured.err)
    for page in hostile.rglob("*.html"):
        assert is_harmless(page.read_text(encoding="utf-8")) and r"\x1b" in page.read_text(encoding="utf-8")
    for table in hostile.rglob("per_class.csv"):
        names = [row["name"] for row in csv.DictReader(table.read_text(encoding="utf-8").splitlines())]
        assert len(names) == 2 and all(is_harmless(name) and not name.startswith("=") for name in names)
    for table in hostile.rglob("predictions.csv"):  # results are for programs: names are as they are
        with table.open(encoding="utf-8", newline="") as file:
            assert {row["label"] for row in csv.DictReader(file)} <= set(NAMES)


def test_a_traceback_is_harmless_too() -> None:
    code = f"import os; os.environ['ONESTAGE_DEBUG'] = '1'; from onestage.cli.main import main; main([{EVIL!r}, '1'])"
    code = code.replace("main([", "VERBS = 0; import onestage.cli.main as m; m.VERBS = None; main([")  # a fault of the program
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1 and "Traceback" in done.stderr and is_harmless(done.stderr)


# --- full disks ---

WRITING = {
    "predict csv": ["predict", "RUN", "PICTURES", "--score", "0.2", "--no-pictures", "--out", "OUT", "--format", "csv"],
    "predict json": [
        "predict",
        "RUN",
        "PICTURES",
        "--score",
        "0.2",
        "--no-pictures",
        "--out",
        "OUT",
        "--format",
        "coco",
        "jsonl",
    ],
    "evaluate": ["evaluate", "RUN", "DATA", "--workers", "0", "--out", "OUT"],
    "explain": ["explain", "RUN", "PICTURE", "--labels", "DATA", "--out", "OUT"],
    "data generate": ["data", "generate", "OUT", "--train", "1", "--val", "0", "--size", "32"],
    "data check": ["data", "check", "DATA", "--json", "OUT"],
}


def words_of(command: list[str], run: Path, shapes: Path, out: Path) -> list[str]:
    picture = min((shapes / "test").glob("*.jpg"))
    places = {"RUN": run, "DATA": shapes, "OUT": out, "PICTURES": shapes / "test", "PICTURE": picture}
    return [str(places.get(word, word)) for word in command]


@pytest.mark.usefixtures("small_panels")
@pytest.mark.parametrize("verb", WRITING)
def test_a_full_disk_is_an_error_that_names_the_file(verb: str, here: Path, run: Path, shapes: Path, capsys: Captured) -> None:
    resource = pytest.importorskip("resource")
    words = words_of(WRITING[verb], run, shapes, here / "out")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20, before[1]))
    try:
        assert main(words) == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    error = capsys.readouterr().err
    assert (
        error.count("error:") == 1
        and f"where:    {here / 'out'}" in error
        and "ulimit" in error
        and "tmp"
        not in Path(
            re.search("where: +(.*)", error)[1]  # type: ignore[index]
        ).name
    )
    assert [path for path in here.rglob("*") if path.is_file() and path.stat().st_size >= 20] == []
    assert main(words) in (0, 2), "the second try meets no half file"


def test_a_copy_that_cannot_be_saved_stops_nothing(here: Path, run: Path, shapes: Path, capsys: Captured) -> None:
    """A name of 255 bytes has no room for the .jpg of its copy."""
    source = min((shapes / "test").glob("*.jpg"))
    (here / "in").mkdir()
    names = ["a.jpg", "n" * 251 + ".bmp", "z.jpg"]
    for name in names:
        Image.open(source).save(here / "in" / name, "BMP" if name.endswith("bmp") else "JPEG")
    assert main(["predict", str(run), "in", "--score", "0.2", "--batch-size", "1", "--format", "jsonl", "--out", "out"]) == 1
    captured = capsys.readouterr()
    assert (
        "not saved:" in captured.err
        and "choose a shorter name" in captured.err
        and "files of 1 picture could not" in captured.err
    )
    lines = [json.loads(line) for line in Path("out/predictions.jsonl").read_text().splitlines()]
    assert [line["image_id"] for line in lines] == names
    assert sorted(path.name for path in Path("out").iterdir()) == ["a.jpg", "predictions.jsonl", "z.jpg"]


def test_a_report_of_pictures_with_the_longest_names(here: Path, run: Path, shapes: Path) -> None:
    content = json.loads((shapes / "annotations" / "instances_test.json").read_text())
    (here / "data").mkdir()
    for picture in content["images"]:
        new = f"{picture['id']:04d}".ljust(127, "é").encode()[:251].decode(errors="ignore") + ".jpg"
        shutil.copyfile(shapes / "test" / picture["file_name"], here / "data" / new)
        picture["file_name"] = new
    (here / "data" / "annotations.json").write_text(json.dumps(content))
    assert main(["evaluate", str(run), "data", "--workers", "0", "--out", "out"]) == 0
    assert len(list(Path("out/pictures").iterdir())) == min(cli_report.PICTURES, len(content["images"]))


# --- streams and terminals ---

ODD = {
    "COLUMNS=5": "80",
    "COLUMNS=0": "0",
    "COLUMNS=-1": "-1",
    "COLUMNS=x": "x",
    "TERM=dumb": "dumb",
    "NO_COLOR=1": "1",
    "MASTER_PORT=x": "x",
    "TMPDIR=/nowhere": "/nowhere",
    "HOME=": "",
    "PYTHONIOENCODING=ascii": "ascii",
}


@pytest.mark.parametrize("setting", ODD)
@pytest.mark.parametrize(
    "command", ["data check DATA", "evaluate RUN DATA --workers 0", "models tinyssd", "nonsense", "--help"]
)
def test_odd_settings_change_no_result(
    setting: str, command: str, here: Path, run: Path, shapes: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.delenv("COLUMNS")
    monkeypatch.setenv(*setting.split("=", 1))
    code = main(words_of(command.split(), run, shapes, here / "out"))
    captured = capsys.readouterr()
    assert code == (2 if command == "nonsense" else 0)
    text = captured.err if code else captured.out
    assert text.strip() and (not code or text.startswith("error:"))


SHELL = [
    ("{} evaluate RUN DATA --workers 0 --out OUT", "closed", 0),
    pytest.param("{} evaluate RUN DATA --workers 0 --out OUT", "ascii", 0, marks=pytest.mark.slow),
    pytest.param("{} predict RUN PICTURES --score 0.2 --format csv --out OUT", "head", None, marks=pytest.mark.slow),
    pytest.param("{} predict RUN PICTURES --score 0.2 --format csv --out OUT", "full", 2, marks=pytest.mark.slow),
]
HOW = {
    "closed": "{command} <&- >&- 2>&-",
    "ascii": "LC_ALL=C PYTHONUTF8=0 PYTHONIOENCODING=ascii {command} >said 2>&1",
    "head": "{command} 2>&1 | true; exit ${{PIPESTATUS[0]}}",
    "full": "{command} >/dev/full 2>/dev/full",
}


@pytest.mark.skipif(not Path("/dev/full").exists() or not shutil.which("bash"), reason="needs bash and such a device")
@pytest.mark.parametrize(("command", "how", "code"), SHELL)
def test_streams_that_take_nothing_lose_no_result(
    command: str, how: str, code: int | None, here: Path, run: Path, shapes: Path
) -> None:
    out = here / "out"
    words = " ".join(words_of(command.format(f"{sys.executable} -m onestage").split(), run, shapes, out))
    done = subprocess.run(["bash", "-c", HOW[how].format(command=words)], capture_output=True, text=True)
    assert done.returncode == code if code is not None else done.returncode in (0, 1)
    assert "Traceback" not in done.stdout + done.stderr + (Path("said").read_text() if how == "ascii" else "")
    if "evaluate" in command:
        assert (out / "index.html").is_file()
    else:
        assert len((out / "predictions.csv").read_text().splitlines()) > 4 and len(list(out.glob("*.jpg"))) == 4


def test_output_that_a_full_disk_does_not_take_is_an_error(monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    class Full(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(sys, "stdout", Full())
    assert main(["--version"]) == 2
    said = capsys.readouterr().err
    assert "standard output cannot be written" in said and "No space left" in said


def test_a_working_directory_that_is_gone(here: Path, run: Path, capsys: Captured) -> None:
    gone = here / "gone"
    gone.mkdir()
    os.chdir(gone)
    gone.rmdir()
    for command in (["predict", str(run), "a.jpg"], ["evaluate", str(run), "data"], ["data", "generate", "x"], ["train", "x"]):
        assert main(command) == 2
        assert capsys.readouterr().err.count("error:") == 1
    os.chdir(here)


def test_an_empty_value_is_no_path_of_this_folder(here: Path, run: Path, shapes: Path, capsys: Captured) -> None:
    for words in (["--out", ""], ["--out="], ["--format", ""]):
        assert main(["predict", str(run), str(shapes / "test"), *words]) == 2
        assert "a value is empty" in capsys.readouterr().err
    assert main(["predict", str(run), "a\0b"]) == 2
    assert "NUL" in capsys.readouterr().err and list(here.iterdir()) == []


def test_names_reach_the_results_of_python_as_they_are(hostile: Path) -> None:
    (found,) = load(hostile / "run").predict(min((hostile / "data").glob("*.jpg")))
    assert isinstance(found, Detections) and set(found.class_names) <= set(NAMES)


@pytest.mark.skipif(os.name == "nt", reason="there a folder in use cannot be removed")
def test_a_folder_that_was_removed_is_a_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    """Before torch is loaded, which would end the process with a message of its own."""
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert main(["models"]) == 2
    assert "the folder that this command was started in is gone" in (said := capsys.readouterr().err) and "fix:" in said
    assert main(["--help"]) == 0 and main(["--version"]) == 0


def _interrupted_at_its_end() -> None:
    sys.argv = ["onestage", "--version"]
    main()
    signal_here(signal.SIGINT)


def test_ctrl_c_when_a_command_is_over_shows_no_traceback(tmp_path: Path) -> None:
    process = start(_interrupted_at_its_end, log=tmp_path / "log")
    process.join(60)
    said = (tmp_path / "log").read_text()
    assert process.exitcode == -signal.SIGINT and said.startswith("onestage ") and said.count("\n") == 1
