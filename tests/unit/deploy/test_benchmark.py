"""Timing a detector, and the verb that does it."""

import csv
import io
import json
import os
import platform
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import onestage
from lively import lively
from onestage.analysis.plain import to_plain
from onestage.cli import alone, benchmark_run, cell
from onestage.cli.alone import ask
from onestage.cli.cell import Answer, Order, Pictures, Refusal, answered
from onestage.cli.main import main
from onestage.data.synthetic import SyntheticConfig, generate
from onestage.data.writers import write_coco
from onestage.deploy import runtimes
from onestage.deploy.benchmark import Repeats, environment, pictures, processor, time_predictor
from onestage.deploy.drawn import jpegs
from onestage.deploy.machine import INSTRUCTIONS, instructions, measure_peaks, memory, peak_memory
from onestage.errors import WeightsError
from onestage.predict.predictor import Predictor
from small_runs import send

SMALL = ["--picture", "60x80", "--repeats", "2", "--warm-up", "1"]


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    """An empty cache, and an empty folder to work in."""
    monkeypatch.setenv("ONESTAGE_HOME", str(tmp_path / "home"))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "home"


@pytest.fixture
def tiny(home) -> str:
    """The file of a small model."""
    torch.manual_seed(0)
    onestage.create("tinyssd", classes=["ball", "ring"], size=(64, 96)).save("tiny.safetensors")
    return "tiny.safetensors"


def test_every_turn_is_timed_stage_by_stage():
    model = onestage.create("tinyssd", num_classes=2, size=(64, 96))
    timing = time_predictor(Predictor.of(model), pictures(3), batch=3, repeats=Repeats(5, 5))
    assert {len(timing.whole), len(timing.network), len(timing.decode)} == {5}
    assert (timing.batch, timing.input, timing.runtime, timing.numbers) == (3, (64, 96), "torch", "fp32")
    assert all(
        whole > predict > network > 0
        for whole, predict, network in zip(timing.whole, timing.predict, timing.network, strict=True)
    )
    assert environment(model.device)["threads"] >= 1


def test_the_turns_end_when_their_time_is_over_but_not_before_there_are_some():
    predictor = Predictor.of(onestage.create("tinyssd", num_classes=2, size=(64, 96)))
    assert len(time_predictor(predictor, pictures(1), repeats=Repeats(3, 10_000, 1e-9)).whole) == 3
    assert len(time_predictor(predictor, pictures(1), repeats=Repeats(1, 4, 1e9)).whole) == 4


def test_turns_take_the_pictures_in_order(monkeypatch, tmp_path):
    seen = []
    monkeypatch.setattr(
        "onestage.deploy.benchmark.decode_image", lambda path: seen.append(path.name) or pictures(1, (32, 32))[0]
    )
    predictor = Predictor.of(onestage.create("tinyssd", num_classes=2, size=(64, 96)))
    time_predictor(predictor, [Path(f"{name}.jpg") for name in "abc"], batch=2, repeats=Repeats(3, 3), warm_up=1)
    assert "".join(name[0] for name in seen[2:]) == "abcabc"


def test_the_processor_is_named_as_the_system_names_it():
    about = Path("/proc/cpuinfo")
    names = re.findall(r"^model name\s*: (.*)", about.read_text(), re.M) if about.exists() else [""]
    assert processor().startswith(names[0] if names else "")
    assert platform.machine() in processor() and torch.backends.cpu.get_cpu_capability() in processor()


def test_instructions_are_those_that_the_system_lists(tmp_path):
    about = tmp_path / "cpuinfo"
    about.write_text("model name: x avx2\nflags\t\t: fpu amx_int8 avx2 avx512_vnni2\n")
    assert instructions(about) == ("avx2", "amx_int8")
    about.write_text("Features\t: fp asimd i8mm\n")
    assert instructions(about) == ("asimd", "i8mm")
    assert instructions(tmp_path / "none") == () and len(set(INSTRUCTIONS)) == len(INSTRUCTIONS)


def test_the_peak_is_that_of_products_of_matrices(monkeypatch):
    monkeypatch.setattr("onestage.deploy.machine.SIDE", 256)
    monkeypatch.setattr("onestage.deploy.machine.CELLS", 16)
    found = measure_peaks(torch.device("cpu"), seconds=0.01)
    assert found["fp32"] > 0 and found["int8"] > 0


def test_a_type_that_cannot_be_multiplied_is_left_out(monkeypatch):
    def missing() -> object:
        raise RuntimeError("not implemented for 'Half'")

    monkeypatch.setattr(
        "onestage.deploy.machine._products", lambda _: [("fp16", 10, missing), ("fp32", 10, lambda: time.sleep(0.001))]
    )
    assert measure_peaks(torch.device("cpu"), seconds=0.001).keys() == {"fp32"}


def test_memory_is_that_of_this_program():
    code = "from onestage.deploy.machine import memory, peak_memory; print(memory(), peak_memory())"
    held = bytearray(300_000_000)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    now, most = (int(word) for word in done.stdout.split())
    assert now <= most and len(held) < (peak_memory() or 0) and (memory() or 0) <= (peak_memory() or 0)


# --- processes ---


def test_a_new_process_gives_the_same_answer_as_this_one(tiny, tmp_path):
    folder = tmp_path / "work"
    folder.mkdir()
    timed = tuple(map(str, jpegs(folder / "pictures", count=2, size=(60, 80))))
    order = Order("time", str(folder), tiny, timed=timed, repeats=Repeats(2, 2), pictures=Pictures(drawn=(60, 80)), threads=1)
    apart, here = ask(order, timeout=100), answered(order)
    assert apart.timing is not None and here.timing is not None and apart.refusal is None
    assert (apart.timing.input, apart.multiply_adds) == (here.timing.input, here.multiply_adds)
    assert 0 < apart.before < apart.memory and apart.environment["threads"] == 1
    assert sorted(path.name for path in folder.iterdir()) == ["pictures"]


def test_a_refusal_of_a_new_process_is_raised_here_as_it_was_there(monkeypatch, tmp_path):
    """What that process writes is written here, by its program, and handed over by another one, which imports nothing."""
    order = Order("time", str(tmp_path), "none.safetensors")
    monkeypatch.setattr(cell, "_end_with_the_program_that_asked", lambda: None)
    monkeypatch.setattr("sys.stdin", io.StringIO(json.dumps(to_plain(order)) + "\n"))
    assert cell.main([str(tmp_path / "answer.json")]) == 0
    answer = (tmp_path / "answer.json").read_text()
    program(monkeypatch, f"import pathlib, sys; sys.stdin.readline(); pathlib.Path(sys.argv[2]).write_text({answer!r})")
    refusal, expected = ask(order, timeout=60).refusal, answered(order).refusal
    assert refusal is not None and refusal == expected and refusal.got == order.model and refusal.fix
    error = alone.raised(refusal)
    assert type(error) is WeightsError and Refusal.of(error) == refusal


def program(monkeypatch, code):
    """Let the processes run this code in the place of the program of cells."""
    monkeypatch.setattr(alone, "PROGRAM", code)


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("import ctypes; ctypes.string_at(0)", "its process was ended by SIGSEGV"),
        ("raise ValueError('a \\x1b[31m fault')", r"ValueError: a \x1b[31m fault"),
        ("raise SystemExit(7)", "its process ended with status 7"),
        ("pass", "its process ended with status 0"),
    ],
)
def test_a_crash_is_an_answer(code, reason, monkeypatch, tmp_path):
    program(monkeypatch, code)
    found = ask(Order("time", str(tmp_path)), timeout=60)
    assert found.refusal is not None and reason in str(found.refusal) and found.timing is None


def test_the_system_ends_processes_for_lack_of_memory(tmp_path):
    (tmp_path / "said").touch()
    assert "SIGKILL, as by the system when memory runs out" in alone._how_it_ended(-9, tmp_path / "said")
    assert alone._how_it_ended(-1000, tmp_path / "said") == "its process ended with status -1000"


def test_a_process_that_hangs_ends_with_all_that_it_began(monkeypatch, tmp_path):
    note = tmp_path / "children"
    inner = "import time; time.sleep(1000)"
    program(
        monkeypatch,
        "import subprocess, sys, pathlib, time\n"
        f"child = subprocess.Popen([sys.executable, '-c', {inner!r}])\n"
        f"pathlib.Path({str(note)!r}).write_text(str(child.pid))\ntime.sleep(1000)",
    )
    found = ask(Order("time", str(tmp_path)), timeout=3)
    assert "it took more than 3 s" in str(found.refusal)
    assert ended(int(note.read_text()))


def ended(process: int, patience: float = 20.0) -> bool:
    """Whether a process is gone, or is only waited for, within some seconds."""
    until = time.monotonic() + patience
    while time.monotonic() < until:
        try:
            state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return True
        if state == "Z":
            return True
        time.sleep(0.05)
    return False


@pytest.mark.slow
def test_a_process_ends_when_the_program_that_asked_is_killed(tmp_path):
    note = tmp_path / "number"
    waits = (
        "import json, os, sys, time, pathlib, threading; sys.path[:] = json.loads(sys.argv[1])\n"
        "from onestage.cli.cell import _end_with_the_program_that_asked\n"
        "sys.stdin.readline()\n"
        f"pathlib.Path({str(note)!r}).write_text(str(os.getpid()))\n"
        "_end_with_the_program_that_asked()"
    )
    asks = (
        "from onestage.cli import alone; from onestage.cli.cell import Order\n"
        f"alone.PROGRAM = {waits!r}\nalone.ask(Order('time', {str(tmp_path)!r}), timeout=1000)"
    )
    with subprocess.Popen([sys.executable, "-c", asks]) as process:
        until = time.monotonic() + 100
        while not (note.is_file() and note.read_text()) and time.monotonic() < until:
            time.sleep(0.05)
        send(signal.SIGKILL, process)
    assert ended(int(note.read_text()))


# --- the verb ---


@pytest.mark.usefixtures("home", "cells_here")
def test_the_verb_writes_every_time(capsys):
    assert main(["benchmark", "tinyssd", "--batch", "2", *SMALL, "--json", "speed.json", "--out", "speed"]) == 0
    told, said = capsys.readouterr()
    assert said.index("measuring what this machine can do at best") < said.index("tinyssd by torch"), "it takes half a minute"
    assert "tinyssd" in told and "this machine's peak, thousand million operations a second: fp32 100, int8 400" in told
    content = json.loads(Path("speed.json").read_text())
    (timing,) = content["timings"]
    assert (timing["given"], timing["model"], timing["batch"], len(timing["predict"])) == ("tinyssd", "tinyssd", 2, 2)
    assert content == json.loads(Path("speed/benchmark.json").read_text())
    (row,) = csv.DictReader(Path("speed/benchmark.csv").read_text().splitlines())
    assert float(row["p50_ms"] or 0) == 0 and int(row["turns"]) == 2, "two turns say nothing of a percentile"
    share = 2e-9 * timing["multiply_adds"] * 2 / (sum(timing["network"]) / 2) / 100
    assert timing["share_of_peak"] == pytest.approx(share, rel=0.01)
    page = Path("speed/index.html").read_text()
    assert "Which detector to deploy" in page and "data:image/png" in page
    assert main(["benchmark", "tinyssd", *SMALL, "--out", "speed"]) == 0, "results are replaced"


@pytest.mark.usefixtures("cells_here")
def test_two_files_of_one_model_are_told_apart(home, capsys):
    for name in ("old", "new"):
        onestage.create("tinyssd", classes=["a"], size=(64, 64)).save(f"{name}[1].safetensors")
    assert main(["benchmark", "old[1].safetensors", "new[1].safetensors", *SMALL, "--json", "t.json"]) == 0
    rows = [line for line in capsys.readouterr().out.splitlines() if "torch fp32  " in line]
    assert [row.split()[0] for row in rows] == ["old[1]", "new[1]"]
    timings = json.loads(Path("t.json").read_text())["timings"]
    assert [(t["given"], t["model"]) for t in timings] == [("old[1].safetensors", "tinyssd"), ("new[1].safetensors", "tinyssd")]


@pytest.mark.usefixtures("home")
@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["nope"], "no such model"),
        (["tinyssd", "--batch", "0"], "at least 1"),
        (["tinyssd", "--batch"], "--batch takes one value or several"),
        (["tinyssd", "--precision"], "--precision takes one value or several"),
        (["tinyssd", "--picture", "big"], "--picture is not understood"),
        (["tinyssd", "--picture", "0x0"], "--picture has a side without pixels"),
        (["tinyssd", "--picture", "9000x9000", "--batch", "1", "100"], "at most 1,000,000,000 pixels"),
        (["tinyssd", "--json", "/nowhere/x.json"], "no such folder"),
        (["tinyssd", "--precision", "bf16", "--runtime", "onnxruntime"], "no runtime that is asked for computes so"),
        (["tinyssd", "--at-most", "30"], "--at-most is a time with its unit"),
        (["tinyssd", "--at-most", "0ms"], "--at-most is a time with its unit"),
        (["tinyssd", "--at-most", "nan ms"], "--at-most is a time with its unit"),
        (["tinyssd", "--least-ap", "0.3"], "no --data"),
        (["tinyssd", "--data", "missing"], "there is no such file or folder"),
        (["tinyssd", "--split", "val"], "--split is of --data"),
        (["tinyssd", "--repeats", "0"], "a number out of its range"),
    ],
)
def test_mistakes(arguments, says, capsys):
    assert main(["benchmark", *arguments]) == 2
    assert says in capsys.readouterr().err


@pytest.mark.usefixtures("cells_here")
def test_int8_of_a_trained_model_needs_labels(tiny, capsys):
    assert main(["benchmark", tiny, "--runtime", "onnxruntime", "--precision", "int8"]) == 2
    assert "int8 needs labelled pictures" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.usefixtures("home", "cells_here")
def test_int8_of_a_recipe_is_made_with_drawn_pictures(capsys):
    """Its random weights give boxes that rounding decides, and have no AP to lose."""
    pytest.importorskip("nncf", reason="pip install 'onestage[int8]'")
    words = ["--classes", "2", "--runtime", "onnxruntime", "openvino", "--precision", "int8", *SMALL, "--json", "t.json"]
    assert main(["benchmark", "tinyssd", *words]) == 0, capsys.readouterr().err
    rows = json.loads(Path("t.json").read_text())["timings"]
    assert [(row["runtime"], row["numbers"], row["ap"]) for row in rows] == [
        (r, "int8", None) for r in ("onnxruntime", "openvino")
    ]


@pytest.mark.slow
@pytest.mark.usefixtures("cells_here")
def test_int8_is_calibrated_and_measured_on_the_pictures_of_the_user(tiny, labelled, home):
    pytest.importorskip("nncf", reason="pip install 'onestage[int8]'")
    lively(onestage.create("tinyssd", classes=["ball", "ring"], size=(64, 96))).save(tiny)
    words = ["--runtime", "torch", "onnxruntime", "--precision", "fp32", "int8", "--data", labelled, *SMALL, "--json", "t.json"]
    assert main(["benchmark", tiny, *words]) == 0
    rows = json.loads(Path("t.json").read_text())["timings"]
    assert [row["numbers"] for row in rows] == ["fp32", "fp32", "int8"] and {row["ap_pictures"] for row in rows} == {3}
    files = [path for path in home.glob("exported/*/model.onnx")]
    assert len(files) == 2, "both are kept for the next time"
    quantised = [onestage.load(path).engine.contract.quantised for path in files]
    (found,) = [one for one in quantised if one is not None]
    assert (found.calibrated, found.measured) == (3, 3)


@pytest.mark.usefixtures("cells_here")
def test_a_full_disk_is_an_error_that_names_the_file(tiny, capsys):
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full")
    assert main(["benchmark", tiny, *SMALL, "--json", "/dev/full"]) == 2
    assert "/dev/full" in capsys.readouterr().err


@pytest.mark.usefixtures("home", "cells_here")
def test_torch_in_bfloat16(monkeypatch, capsys):
    monkeypatch.setattr("onestage.predict.folded.check_bfloat16", lambda device: None)
    assert main(["benchmark", "tinyssd", "--precision", "bf16", "fp16", *SMALL, "--json", "t.json"]) == 0
    (row,) = json.loads(Path("t.json").read_text())["timings"]
    assert (row["runtime"], row["numbers"], row["computed_in"]) == ("torch", "bf16", "bf16")
    told = capsys.readouterr()
    assert "torch bf16" in told.out and "torch in fp16" in told.err


@pytest.mark.usefixtures("home", "cells_here")
def test_a_cell_that_cannot_be_measured_is_a_row(monkeypatch, capsys):
    """A RetinaNet's input follows the picture, and this runtime has files of one size."""
    monkeypatch.setattr(runtimes, "RUNTIMES", {"a": runtimes.Runtime("onnx", (), any_size=False)})
    recipe = onestage.recipe("tinyssd", ("a",), size=(64, 96)).replace({"preprocess.mode": "shortest_edge"})
    onestage.build(recipe).save("m.safetensors")
    assert main(["benchmark", "m.safetensors", *SMALL, "--runtime", "auto", "--out", "o"]) == 0
    told = capsys.readouterr()
    assert "m.safetensors by a fp32, 1 at once: a file for this runtime has one input size" in told.err and "torch" in told.out
    rows = [*csv.DictReader(Path("o/benchmark.csv").read_text().splitlines())]
    assert [bool(row["not_measured"]) for row in rows] == [False, True] and "one input size" in Path("o/index.html").read_text()
    words = ["--runtime", "torch", "onnxruntime", "--precision", "fp32"]
    assert main(["benchmark", "m.safetensors", *SMALL, *words]) == 0
    assert "left out: onnxruntime in fp32, which is not possible" in capsys.readouterr().err


@pytest.mark.usefixtures("cells_here")
def test_if_nothing_can_be_measured_the_reason_is_an_error(home, capsys):
    Path("bad.safetensors").write_bytes(b"nothing")
    assert main(["benchmark", "bad.safetensors", *SMALL]) == 2
    told = capsys.readouterr().err
    assert "no cell could be measured" in told and "bad.safetensors by torch fp32" in told


@pytest.fixture
def labelled(home) -> str:
    """A labelled data set of two splits."""
    config = SyntheticConfig(classes=("ball", "ring"), size=(64, 96))
    for split, rows in (("train", range(3)), ("test", range(3, 6))):
        write_coco((generate(row, config) for row in rows), Path("set"), classes=config.classes, split=split)
    return "set"


@pytest.mark.usefixtures("cells_here")
def test_the_ap_is_the_one_that_evaluate_prints(tiny, labelled, capsys):
    words = ["--data", labelled, "--at-most", "9s", "--least-ap", "0", "--batch", "1", "2", *SMALL, "--json", "t.json"]
    assert main(["benchmark", tiny, *words]) == 0
    report = onestage.evaluate(tiny, labelled)
    rows = json.loads(Path("t.json").read_text())["timings"]
    assert [row["ap"] for row in rows] == pytest.approx([report.coco.AP] * 2, abs=1e-4)
    assert [row["ap_pictures"] for row in rows] == [3, 3]
    told = capsys.readouterr().out
    assert "For at most 9,000 ms and an AP of at least .0000: deploy tiny.safetensors by torch fp32" in told
    assert "to use it: onestage predict tiny.safetensors PICTURES --runtime torch" in told


@pytest.mark.usefixtures("cells_here")
def test_pictures_without_labels_are_timed(tiny, capsys):
    jpegs(Path("photos"), count=2, size=(40, 50))
    Path("photos/0.jpg").write_text("no picture")
    assert main(["benchmark", tiny, "--data", "photos", *SMALL, "--json", "t.json"]) == 0
    (row,) = json.loads(Path("t.json").read_text())["timings"]
    assert row["ap"] is None


@pytest.mark.usefixtures("cells_here")
def test_pictures_that_cannot_be_read_are_named(tiny, capsys):
    Path("0.jpg").write_text("no picture")
    assert main(["benchmark", tiny, "--data", "0.jpg", *SMALL]) == 2
    assert "where:    0.jpg" in capsys.readouterr().err


@pytest.mark.usefixtures("cells_here")
def test_an_interrupted_run_shows_what_it_has_and_goes_on(tiny, monkeypatch, capsys):
    usual, asked = benchmark_run.ask, []

    def interrupted(order: Order, *, timeout: float) -> Answer:
        if order.what == "time":
            if len(asked) == 1:
                raise KeyboardInterrupt
            asked.append(order.batch)
        return usual(order, timeout=timeout)

    command = ["benchmark", tiny, "--batch", "1", "2", "3", *SMALL, "--json", "t.json"]
    monkeypatch.setattr(benchmark_run, "ask", interrupted)
    assert main(command) == 130
    told = capsys.readouterr()
    assert "tiny.safetensors" in told.out and "goes on with the other 2 cells" in told.err
    first = json.loads(Path("t.json").read_text())["timings"]
    monkeypatch.setattr(benchmark_run, "ask", usual)
    assert main(command) == 0
    assert "going on: 1 of 3 cells" in capsys.readouterr().err
    rows = json.loads(Path("t.json").read_text())["timings"]
    assert rows[0]["predict"] == first[0]["predict"] and [row["batch"] for row in rows] == [1, 2, 3]
    assert main(command) == 0, "a run that has ended is measured again"
    assert json.loads(Path("t.json").read_text())["timings"][0]["predict"] != first[0]["predict"]


@pytest.mark.usefixtures("cells_here")
def test_pictures_that_cannot_be_used_are_said_before_anything_is_measured(tiny, tmp_path, monkeypatch, capsys):
    usual, asked = benchmark_run.ask, list[str]()

    def noted(order: Order, *, timeout: float) -> Answer:
        asked.append(order.what)
        return usual(order, timeout=timeout)

    bad = tmp_path / "bad"
    config = SyntheticConfig(classes=("ball", "ring"), size=(60, 80))
    write_coco([generate(0, config)], bad, classes=config.classes, split="val")
    labels = next(bad.rglob("*.json"))
    content = json.loads(labels.read_text())
    content["annotations"][0]["bbox"][2] = 0
    labels.write_text(json.dumps(content))
    monkeypatch.setattr(benchmark_run, "ask", noted)
    assert main(["benchmark", tiny, "--data", str(bad), "--split", "val", *SMALL[2:]]) == 2
    assert "--on-bad skip" in capsys.readouterr().err and asked == ["look"]
    assert main(["benchmark", tiny, "--data", str(bad), *SMALL[2:]]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "No AP was measured: 1 problem in this data set (onestage evaluate tiny.safetensors " in told


def cut(path: Path) -> None:
    """Leave the header of a picture and not its end, as an interrupted copy does."""
    path.write_bytes(path.read_bytes()[:-200])


@pytest.fixture
def asked(monkeypatch) -> list[str]:
    """What processes are asked to do."""
    usual, subjects = benchmark_run.ask, list[str]()

    def noted(order: Order, *, timeout: float) -> Answer:
        subjects.append(order.what)
        return usual(order, timeout=timeout)

    monkeypatch.setattr(benchmark_run, "ask", noted)
    return subjects


@pytest.mark.usefixtures("cells_here")
def test_a_broken_picture_of_a_data_set_is_said_before_anything_is_measured_or_left_out(tiny, labelled, asked, capsys):
    broken = sorted(Path(labelled, "test").glob("*.jpg"))[1]
    cut(broken)
    assert main(["benchmark", tiny, "--data", labelled, *SMALL[2:]]) == 2
    told = capsys.readouterr().err
    assert "1 picture of 3 cannot be read" in told and broken.name in told and "--on-bad skip" in told and asked == ["look"]
    assert main(["benchmark", tiny, "--data", labelled, "--on-bad", "skip", *SMALL[2:], "--json", "t.json"]) == 0
    assert "left out: 1 picture that cannot be read, such as" in capsys.readouterr().err
    (row,) = json.loads(Path("t.json").read_text())["timings"]
    assert row["ap_pictures"] == 2 and row["ap"] == pytest.approx(
        onestage.evaluate(tiny, labelled, on_bad="skip").coco.AP, abs=1e-4
    )


@pytest.mark.usefixtures("cells_here")
def test_broken_pictures_without_labels_are_left_out_and_told(tiny, asked, capsys):
    first, second = jpegs(Path("photos"), count=2, size=(40, 50))
    cut(Path(first))
    assert main(["benchmark", tiny, "--data", "photos", *SMALL]) == 0
    told = capsys.readouterr().err
    assert "left out: 1 picture that cannot be read" in told and Path(first).name in told
    cut(Path(second))
    asked.clear()
    assert main(["benchmark", tiny, "--data", "photos", *SMALL]) == 2
    assert Path(first).name in capsys.readouterr().err and asked == ["look"]


@pytest.mark.usefixtures("cells_here")
def test_another_model_of_that_name_is_measured_again(tiny, monkeypatch, capsys):
    command = ["benchmark", tiny, "--batch", "1", "2", *SMALL]
    usual = benchmark_run.ask

    def interrupted(order: Order, *, timeout: float) -> Answer:
        if order.what == "time" and order.batch == 2:
            raise KeyboardInterrupt
        return usual(order, timeout=timeout)

    monkeypatch.setattr(benchmark_run, "ask", interrupted)
    assert main(command) == 130
    onestage.create("tinyssd", classes=["a", "b", "c"], size=(64, 96)).save(tiny)
    capsys.readouterr()
    assert main(command) == 130
    assert "going on" not in capsys.readouterr().err
    assert main(command) == 130
    assert "going on: 1 of 2 cells" in capsys.readouterr().err
    assert main([*command, "--fresh"]) == 130
    assert "going on" not in capsys.readouterr().err


@pytest.mark.usefixtures("cells_here")
def test_a_damaged_journal_is_no_obstacle(tiny, home, monkeypatch):
    journal = benchmark_run.Journal.of("x", fresh=False)
    assert journal.place is not None
    for damage in (b"", b"{", b"[{}]", b"\xff", b'[{"asked": 1, "row": null}]', b"null", b"3"):
        journal.place.write_bytes(damage)
        assert benchmark_run.Journal.of("x", fresh=False).rows == {}


def test_figures_of_runs_that_were_never_gone_on_with_are_deleted(home):
    old, new = (benchmark_run.Journal.of(name, fresh=False).place for name in ("old", "new"))
    for path in (old, new):
        path.write_text("[]")
    os.utime(old, (0, 0))
    benchmark_run.Journal.of("another", fresh=False)
    assert not old.exists() and new.exists()


def test_a_home_that_cannot_be_written_is_no_obstacle(monkeypatch):
    monkeypatch.setenv("ONESTAGE_HOME", "~nobody-of-this-name")
    assert benchmark_run.Journal.of("x", fresh=False).place is None


def test_an_order_survives_the_way_through_json():
    order = Order("file", "/x", "m", pictures=Pictures("d", None, "skip", (3, 4), int8=True), timed=("a", "b"), threads=3)
    plain = json.loads(json.dumps(cell.to_plain(order)))
    assert cell.from_plain(Order, plain) == order and os.sep
