"""The command line as a whole: help without waiting, clean messages, exit codes."""

import io
import os
import re
import signal
import subprocess
import sys
import time
import warnings
from contextlib import redirect_stdout
from importlib.util import find_spec
from pathlib import Path
from unittest.mock import patch

import pytest

from onestage.cli import main as command
from onestage.cli.main import VERBS, Verb, main
from onestage.cli.mistakes import reword
from onestage.creation import create
from onestage.data.dataset import LEAVE_OUT
from onestage.errors import DataError
from onestage.files import BEST, temporary_folder
from small_runs import signal_here, start

Captured = pytest.CaptureFixture[str]
needs_hook = pytest.mark.skipif(find_spec("tyro._errors") is None, reason="an older tyro shows its mistakes in boxes")


def stand_in(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    """A verb "fail" that raises the error."""

    def call(*_: object) -> int:
        raise error

    monkeypatch.setitem(VERBS, "fail", Verb("main", "main", ""))
    monkeypatch.setattr(command, "_call", call)


def test_help_lists_every_verb_and_does_not_import_torch() -> None:
    code = "import sys; from onestage.cli.main import main; main(['--help']); print('torch' in sys.modules)"
    text = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert text.splitlines()[-1] == "False"
    assert all(verb in text for verb in VERBS)


def test_the_program_can_be_run_as_a_module() -> None:
    done = subprocess.run([sys.executable, "-m", "onestage", "nonsense"], capture_output=True, text=True)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("error: there is no verb 'nonsense'")


@pytest.mark.parametrize("arguments", [[], ["-h"], ["help"], ["data"], ["data", "--help"], ["--version"]])
def test_questions_are_answered_on_standard_output(arguments: list[str], capsys: Captured) -> None:
    assert main(arguments) == 0
    captured = capsys.readouterr()
    assert "onestage" in captured.out and captured.err == ""


@pytest.mark.parametrize(("arguments", "hint"), [(["trian"], "'train'"), (["data", "chek"], "'data check'")])
def test_a_mistyped_verb_gets_the_nearest_one(arguments: list[str], hint: str, capsys: Captured) -> None:
    assert main(arguments) == 2
    assert f"did you mean {hint}?" in capsys.readouterr().err


def help_of(verb: str, columns: int = 100) -> str:
    """The help of a verb on a terminal with lines for boxes. columns: of text; from 130 on tyro puts boxes side by side."""
    out = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    with patch.dict(os.environ, COLUMNS=str(columns)), redirect_stdout(out), pytest.raises(SystemExit) as stop:
        main([*verb.split(), "--help"])
    assert stop.value.code == 0
    out.seek(0)
    return re.sub(r"\x1b\[[0-9;]*m", "", out.read())


@pytest.mark.parametrize("verb", list(VERBS))
def test_every_verb_explains_itself(verb: str) -> None:
    text = help_of(verb)
    assert f"usage: onestage {verb}" in text and "{None}" not in text
    assert "(default: None)" not in text and "(default: )" not in text
    assert "Args:" not in text  # a docstring whose lines were joined says nothing about single options


@pytest.mark.parametrize("verb", list(VERBS))
def test_texts_of_options_are_paragraphs(verb: str) -> None:
    """Every line of a text is full: the first word of the next has no room in it. No line break of the source is left."""
    cells = [line.strip("│") for line in help_of(verb).splitlines() if line.startswith("│")]
    texts = [cell.startswith(10 * " ") for cell in cells]
    pairs = [(cells[i - 1], cells[i].split()[0]) for i in range(1, len(cells)) if texts[i - 1] and texts[i]]
    assert cells and not [line for line, word in pairs if len(line.rstrip()) + 1 + len(word) < len(line)]


HEADINGS = {
    *("analysis", "budget", "certainty", "closer look", "deployment", "detection", "detector", "film", "file", "machine"),
    *("model file", "output", "picture", "precision", "process", "result", "runtime", "timing", "training"),
}


def test_headings_of_options_are_words_of_a_reader_and_no_names_of_variables() -> None:
    found = set[str]()
    for verb in VERBS:
        headings = re.findall("╭─ (.*options) ─", help_of(verb))
        assert "options" in headings and len(headings) == len({*headings}), verb
        found |= {*headings}
    assert found == {"options", *(f"{heading} options" for heading in HEADINGS)}


MISTAKES = {
    "train data --epohs 3": ["there is no option '--epohs' (did you mean '--epochs'?)", "where:    onestage train"],
    "predict m p --conf 0.3": ["there is no option '--conf' (did you mean '--score'?)", "where:    onestage predict"],
    "train d --imgsz 300": ["there is no option '--imgsz' (did you mean '--size'?)", "where:    onestage train"],
    "explain m p --zzz 1": ["there is no option '--zzz'", "where:    onestage explain"],
    "predict --model m p": [
        "there is no option '--model': MODEL is typed without one",
        "fix:      onestage predict MODEL PICTURES",
    ],
    "train --data d": ["there is no option '--data': DATA is typed without one", "fix:      onestage train DATA"],
    "evaluate m --data=d": [
        "there is no option '--data=d': DATA is typed without one",
        "fix:      onestage evaluate MODEL DATA",
    ],
    "predict --soucre p": ["there is no option '--soucre' (did you mean '--score'?)", "where:    onestage predict"],
    "pictures train --epochs 3": [
        "there is no verb 'pictures'",
        "fix:      the verb comes first: onestage train --epochs 3 pictures",
    ],
    "detect m p": ["there is no verb 'detect' (did you mean 'predict'?)", "fix:      onestage --help"],
    "predict": ["something is missing", "expected: MODEL, PICTURES"],
    "demo more": ["one argument too many", "got:      more"],
    "demo --out": ["the option needs a value", "where:    --out"],
    "evaluate m d --on-bad stopp": ["there is no such choice (did you mean 'stop'?)", "expected: stop, skip"],
    "train data --freeze neck": ["the value is not understood", "expected: a whole number, such as 3, or backbone"],
    "models --classes x": ["the value is not understood", "where:    --classes"],
    "predict m p --score 2": ["a number out of its range", "where:    --score"],
    "evaluate m d --batch-size 0": ["a number out of its range", "fix:      such as --batch-size 16"],
    "train d --epochs 0": ["a number out of its range", "fix:      such as --epochs 100"],
    "train d --lr -1": ["a number out of its range", "fix:      leave --lr out"],
    "train d --milestones 0.9 0.5": ["milestones are rising parts of the training", "fix:      such as --milestones 0.67 0.89"],
    "train d --accumulate 40": ["a step cannot have more parts than pictures", "where:    --accumulate"],
    "train d --model tinyssd --size 30": [
        "the input size is (height, width) of at least 32 pixels each",
        "fix:      such as --size 300x300",
    ],
    "train d --model tinyssd --set loss.gama=2": ["unknown key 'gama'", "got:      --set loss.gama=2"],
    "models --classes 0": ["a number out of its range", "fix:      such as --classes 80"],
    "benchmark tinyssd --repeats 0": ["a number out of its range", "where:    --repeats"],
    "explain m p --score 7": ["a number out of its range", "expected: above 0, below 1"],
    "export m --to torch --precision fp16": [
        "files of the format torch cannot be in fp16",
        "fix:      leave --precision out, or choose another format: --to onnx or openvino",
    ],
    "export m --to torch --example": ["there is no example for files of the format torch", "got:      .pt2"],
    "export m --to ncnn --batch 4": ["ncnn takes one picture at a time", "fix:      leave --batch out"],
    "export m --precision int8": ["int8 needs labelled pictures: its AP is measured on them", "got:      no --data"],
    "export m -o m.txt": ["the name of the file must end with .onnx", "fix:      such as m.onnx"],
}


@needs_hook
@pytest.mark.parametrize(
    "verb",
    [
        "train d",
        "tune d",
        "evaluate m d",
        "compare a b --data d",
        "explain m p",
        "data check d",
        "data anchors d",
        "data convert d o --to coco",
    ],
)
def test_an_unknown_format_lists_the_real_ones(verb: str, capsys: Captured) -> None:
    assert main([*verb.split(), "--format", "yollo"]) == 2
    said = capsys.readouterr().err
    assert "did you mean 'yolo'?" in said
    listed = said.split("expected: ")[1].splitlines()[0]
    assert set(listed.split(", ")) == {"coco", "voc", "yolo", "csv", "labelme", "wds", "parquet"}


@pytest.mark.parametrize(
    ("typed", "meant"), [("dat check x", "data check"), ("data chek x", "data check"), ("dta generate", "data generate")]
)
def test_a_mistyped_verb_of_two_words_gets_the_nearest(typed: str, meant: str, capsys: Captured) -> None:
    assert main(typed.split()) == 2
    assert f"did you mean '{meant}'?" in capsys.readouterr().err


@needs_hook
@pytest.mark.parametrize("arguments", MISTAKES)
def test_a_mistake_in_the_command_line_is_told_as_every_other(arguments: str, capsys: Captured) -> None:
    assert main(arguments.split()) == 2
    captured = capsys.readouterr()
    first, second = MISTAKES[arguments]
    assert captured.err.startswith(f"error: {first}\n  ") and f"  {second}\n" in captured.err and captured.out == ""


@needs_hook
@pytest.mark.parametrize("verb", list(VERBS))
def test_a_verb_without_words_says_all_that_is_missing_in_the_order_of_its_help(verb: str, capsys: Captured) -> None:
    if verb in ("train", "benchmark", "models", "demo"):  # train has an error of its own, the others need nothing
        return
    entries = re.split(r"\n│ (?=-|[A-Z[]+ )", help_of(verb))  # an argument with its text
    needed = [entry.split("  ")[0].split("\n")[0] for entry in entries if "(required)" in entry]
    names = [name.split(", ")[-1].split(" ")[0] for name in needed]
    assert names and main(verb.split()) == 2
    assert f"expected: {', '.join(names)}\n" in capsys.readouterr().err


@needs_hook
@pytest.mark.parametrize(
    ("typed", "missing"), [("batch a b", "--model, --out"), ("batch --out o", "PICTURES, --model"), ("compare a", "--data")]
)
def test_what_is_given_is_not_missing(typed: str, missing: str, capsys: Captured) -> None:
    assert main(typed.split()) == 2
    assert f"expected: {missing}\n" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("fix", "typed"),
    [
        ("lower lr=, or raise batch_size=", "lower --lr, or raise --batch-size"),
        ('such as size=(300, 400), or precision="bf16"', "such as --size 300x400, or --precision bf16"),
        ("leave trusted=True out, or say check=False", "leave --trusted out, or say --no-check"),
        ("anchors=OctaveAnchors", "anchors=OctaveAnchors"),
        ('onestage.create("ssd", size=(3, 4))', 'onestage.create("ssd", size=(3, 4))'),
        ("--set loss.size=2", "--set loss.size=2"),
        ('config=ExportConfig(trusted=True, precision="fp16")', "--trusted, --precision fp16"),
        ("lower lr=: onestage data check 'a(1) lr=3'", "lower --lr: onestage data check 'a(1) lr=3'"),
        (f"{LEAVE_OUT}; or so", "correct them, or go on without them: --on-bad skip; or so"),
    ],
)
def test_a_remedy_names_settings_as_they_are_typed(fix: str, typed: str) -> None:
    names = ["--lr", "--batch-size", "--size", "--precision", "--trusted", "--check", "--on-bad"]
    error = DataError("wrong", where="batch_size", fix=fix)
    reword(error, dict.fromkeys(names), "onestage train --help")
    assert (error.where, error.fix) == ("--batch-size", typed)


PLACES = {
    "predict RUN pictures/tets": "pictures/test",
    "predict RUNN pictures/test": "RUN",
    "evaluate RUN picturs": "pictures",
    "explain RUN picturs/test": "pictures/test",
    "export RUNN": "RUN",
    "export RUN --data pictres": "pictures",
    "train picturs --model tinyssd": "pictures",
    "train pictures --model tinyssd --weights RUN/bst.safetensors": "RUN/best.safetensors",
    "train --resume RUNN": "RUN",
    "data check picturs": "pictures",
    "import RUN/bst.safetensors -o new.safetensors": "RUN/best.safetensors",
    "benchmark RUNN": "RUN",
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model in RUN, and pictures."""
    folder = tmp_path_factory.mktemp("place")
    (folder / "pictures" / "test").mkdir(parents=True)
    (folder / "pictures" / "test" / "a.jpg").touch()
    (folder / "RUN").mkdir()
    create("tinyssd", 1, size=(64, 64)).save(folder / "RUN" / BEST)
    return folder


@pytest.mark.parametrize("arguments", PLACES)
def test_a_mistyped_path_gets_the_nearest_one(
    arguments: str, place: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.chdir(place)
    assert main(arguments.split()) == 2
    assert f"(did you mean '{PLACES[arguments]}'?)" in capsys.readouterr().err


@pytest.mark.parametrize("verb", ["export {} -o new.onnx", "explain {} x.jpg", "train pictures --weights {} --model tinyssd"])
@pytest.mark.parametrize("suffix", [".onnx", ".xml", ".pt2", ".ncnn.param"])
def test_a_verb_that_needs_a_model_knows_an_exported_file(
    verb: str, suffix: str, place: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.chdir(place)
    Path(f"first{suffix}").write_bytes(b"x")
    assert main(verb.format(f"first{suffix}").split()) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: this is an exported file, not a model\n") and "run folder" in said


@pytest.mark.parametrize("verb", ["predict", "evaluate", "explain"])
def test_a_model_behind_the_pictures_is_noticed(verb: str, tmp_path: Path, capsys: Captured) -> None:
    pictures, run = tmp_path / "my pictures", tmp_path / "run"
    for folder in (pictures, run):
        folder.mkdir()
    (run / BEST).touch()
    assert main([verb, str(pictures), str(run)]) == 2
    assert f"fix:      the model comes first: onestage {verb} {run} '{pictures}'\n" in capsys.readouterr().err
    assert main([verb, str(pictures), str(tmp_path)]) == 2
    assert "comes first" not in capsys.readouterr().err


@pytest.mark.parametrize("verb", list(VERBS))
def test_what_is_written_is_named_by_one_letter_too(verb: str, capsys: Captured) -> None:
    with pytest.raises(SystemExit):
        main([*verb.split(), "--help"])
    text = capsys.readouterr().out
    assert ("--out PATH" in text) == ("-o PATH, --out PATH" in text)


@needs_hook
@pytest.mark.parametrize("part", ["on_parse_error", "UnrecognizedArgs"])
def test_a_tyro_without_a_part_of_the_hook_shows_its_boxes(
    part: str, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.delattr(f"tyro._errors.{part}")
    with pytest.raises(SystemExit) as stop:
        main(["predict"])
    assert stop.value.code == 2 and "MODEL" in capsys.readouterr().err


@needs_hook
def test_a_wrong_option_is_found_before_what_the_verb_works_with_is_imported() -> None:
    code = """
import sys
from onestage.cli.main import VERBS, main
heavy = ["torchvision", "timm", "matplotlib"]
for verb in sorted(VERBS, key=lambda verb: (verb in ("train", "tune", "data anchors", "data generate"), verb != "train")):
    if verb == "train":
        print("torch" in sys.modules)
    assert main([*verb.split(), "--nonsense"]) == 2
print([name for name in heavy if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n[]\n" and done.stderr.count("error: ") == len(VERBS)


def test_a_users_mistake_is_a_message_without_traceback(monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    stand_in(monkeypatch, DataError("no [such] thing", where="/a/b[0].jpg", fix="look again"))
    assert main(["fail"]) == 2
    assert capsys.readouterr().err == "error: no [such] thing\n  where:    /a/b[0].jpg\n  fix:      look again\n"


def test_the_traceback_is_there_for_whoever_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(monkeypatch, DataError("no"))
    monkeypatch.setenv(command.early.DEBUG, "1")
    with pytest.raises(DataError):
        main(["fail"])


def test_a_missing_file_is_a_message_too(monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    stand_in(monkeypatch, FileNotFoundError(2, "No such file or directory", "x.jpg"))
    assert main(["fail"]) == 2
    assert capsys.readouterr().err == "error: no such file or directory\n  where:    x.jpg\n  fix:      check that path\n"


def test_a_fault_of_the_program_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(monkeypatch, ZeroDivisionError())
    with pytest.raises(ZeroDivisionError):
        main(["fail"])


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("could not create a primitive"),
        ImportError("libtorch_cuda.so: failed to map segment from shared object"),
    ],
)
def test_a_lack_of_memory_is_a_message_too(error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    stand_in(monkeypatch, error)
    assert main(["fail"]) == 2
    assert capsys.readouterr().err.startswith("error: there is not enough memory for this\n")


@pytest.mark.parametrize("error", [RuntimeError("mat1 and mat2 shapes cannot be multiplied"), ImportError("no such name")])
def test_other_faults_of_the_same_kind_are_not_hidden(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(monkeypatch, error)
    with pytest.raises(type(error)):
        main(["fail"])


def test_an_interruption_has_its_usual_exit_code(monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    stand_in(monkeypatch, KeyboardInterrupt())
    assert main(["fail"]) == 130
    assert capsys.readouterr().err == "error: interrupted\n"


def test_a_reader_that_leaves_early_causes_no_noise() -> None:
    code = "import sys; from onestage.cli.main import main; sys.exit(main(['--help']))"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as program:
        assert program.stdout is not None and program.stderr is not None
        program.stdout.close()
        assert program.stderr.read() == b""
    assert program.returncode == 0


def test_warnings_are_lines_on_standard_error(monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    def call(*_: object) -> int:
        warnings.warn("[8] tensors start fresh", stacklevel=1)
        return 0

    monkeypatch.setitem(VERBS, "warn", Verb("main", "main", ""))
    monkeypatch.setattr(command, "_call", call)
    assert main(["warn"]) == 0
    captured = capsys.readouterr()
    assert captured.err == "warning: [8] tensors start fresh\n" and captured.out == ""


@pytest.mark.parametrize(("wish", "coloured"), [({"NO_COLOR": "1"}, False), ({}, True)])
def test_no_colours_where_none_are_wanted(wish: dict[str, str], coloured: bool) -> None:
    program = """
import sys, types
from onestage.cli import main
def verb(*, number: int = 1) -> int:
    return 0
sys.modules["onestage.cli.fake"] = types.SimpleNamespace(verb=verb)
main.VERBS["fake"] = main.Verb("fake", "verb", "")
print(main.main(["trian"]), flush=True)
main.main(["fake", "--nonsense"])
"""
    terminal = f"import pty, sys; pty.spawn([sys.executable, '-c', {program!r}])"
    done = subprocess.run(
        [sys.executable, "-c", terminal],
        capture_output=True,
        stdin=subprocess.DEVNULL,
        env={"TERM": "xterm", **wish},
        check=True,
    )
    assert b"there is no verb" in done.stdout and b"nonsense" in done.stdout
    colours = [code for code in (b"\x1b[31m", b"\x1b[1;31m", b"\x1b[91") if code in done.stdout]
    assert bool(colours) == coloured


def test_help_before_a_verb_is_the_help_of_the_verb(capsys):
    texts = []
    for arguments in (["help", "predict"], ["predict", "--help"]):
        with pytest.raises(SystemExit) as end:
            main(arguments)
        assert end.value.code == 0
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1] and "PICTURES" in texts[0]
    assert main(["help", "predikt"]) == 2


def ended_by(number: int, place: Path) -> None:
    """A program that gets a signal in the middle of its work, and ends with the exit code of ``main``."""

    def verb(given: list[str]) -> int:
        with temporary_folder(place):
            signal_here(number)
            time.sleep(10)
        return 0

    signal.signal(number, signal.SIG_DFL)  # under nohup it is ignored
    with patch.object(command, "_run", verb):
        code = main([])
    assert signal.getsignal(number) == signal.SIG_DFL
    sys.exit(code)


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_a_signal_to_end_is_an_interruption_that_cleans_up(name: str, tmp_path: Path) -> None:
    number = getattr(signal, name, None) or pytest.skip("this system has no such signal")
    (tmp_path / "out").mkdir()
    process = start(ended_by, number, tmp_path / "out" / "x", log=tmp_path / "log")
    process.join(60)
    assert process.exitcode == 130 and "interrupted" in (tmp_path / "log").read_text()
    assert list((tmp_path / "out").iterdir()) == []
