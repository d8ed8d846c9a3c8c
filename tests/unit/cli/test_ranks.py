"""``onestage train --processes``, with small programs in place of trainings: they end, die, hang, or are stopped."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from onestage.cli import ranks
from onestage.cli.main import main
from onestage.cli.ranks import Ends, Ranks, are_to_start, start_ranks
from onestage.errors import ConfigError, LostError
from onestage.processes import LOST, RESTARTS, TOLD, VARIABLES, is_told
from small_runs import signal_here, start

HEAD = "import os, pathlib, signal, sys, time; rank = int(os.environ['RANK']); out = pathlib.Path(sys.argv[1]); "
KILLED = "os.kill(os.getpid(), signal.SIGKILL) if rank == 1 else time.sleep(100)"
NOTE = "(out / f'{os.environ[\"TORCHELASTIC_RESTART_COUNT\"]}-{rank}').touch(); "


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*VARIABLES, RESTARTS, TOLD):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(ranks, "GRACE", 0.3)
    monkeypatch.setattr(ranks, "LOOK", 0.01)


def program(monkeypatch: pytest.MonkeyPatch, text: str, folder: Path) -> None:
    """Let each process run this in place of a training."""

    def started(arguments: Sequence[str], variables: dict[str, str]) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-c", HEAD + text, str(folder), *arguments]
        return subprocess.Popen(command, env=variables, start_new_session=True)

    monkeypatch.setattr(ranks, "_started", started)


def notes(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("?-?"))


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("sys.exit(0)", 0),
        ("sys.exit(2 if rank == 1 else 75)", 2),  # a mistake of one, which the other loses
        ("sys.exit(1 if rank == 1 else 75)", 1),  # a traceback
        ("sys.exit(130)", 130),
        ("sys.exit(2) if rank == 1 else time.sleep(100)", 2),  # the other one hangs
    ],
)
def test_processes_that_end_by_themselves_do_not_start_again(
    text: str, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program(monkeypatch, NOTE + text, tmp_path)
    assert start_ranks(Ranks(2, 3), out=tmp_path) == code
    assert notes(tmp_path) == ["0-0", "0-1"]


def test_a_dead_one_ends_all_and_they_start_again_a_few_times(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    program(monkeypatch, NOTE + KILLED, tmp_path)
    with pytest.raises(LostError, match=r"rank 1 of 2 was ended by SIGKILL(.|\n)*--recompute(.|\n)*--resume .* --processes 2"):
        start_ranks(Ranks(2, 2), out=tmp_path)
    assert notes(tmp_path) == [f"{attempt}-{rank}" for attempt in range(3) for rank in range(2)]
    assert capsys.readouterr().err.count("start again from the beginning") == 2


def test_what_others_say_after_one_has_died_is_no_cause(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A traceback of a broken exchange whose text is not known: the one that died is the cause, so they start again."""
    program(monkeypatch, NOTE + KILLED.replace("time.sleep(100)", "(time.sleep(0.15), sys.exit(1))"), tmp_path)
    with pytest.raises(LostError, match="rank 1 of 2 was ended by SIGKILL"):
        start_ranks(Ranks(2, 1), out=tmp_path)
    assert notes(tmp_path) == ["0-0", "0-1", "1-0", "1-1"]


def test_checkpoints_are_progress(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """With one restart, processes that die five times go on as long as each attempt has a new checkpoint."""
    save = (
        "n = int(os.environ['TORCHELASTIC_RESTART_COUNT']); "
        "(out / 'checkpoints' / str(n)).mkdir(parents=True, exist_ok=True); "
        "(out / 'checkpoints' / str(n) / 'state.json').touch(); n == 5 and sys.exit(0); "
    )
    program(monkeypatch, NOTE + save + KILLED, tmp_path)
    assert start_ranks(Ranks(2, 1), out=tmp_path) == 0
    assert len(notes(tmp_path)) == 12
    assert capsys.readouterr().err.count("start again from the last checkpoint") == 5


def test_lost_processes_start_again_too() -> None:
    assert Ends((LOST, LOST), False).is_lost and Ends((-9, LOST), False).is_lost
    assert not any(Ends(codes, False).is_lost for codes in ((0, 0), (2, LOST), (1, -9)))
    assert Ends((1, -9), False, died=True).is_lost and Ends((1, -9), False, died=True).reason.startswith("rank 1 of 2")
    assert Ends((LOST, 0), False).reason == "the processes of this training have lost one another"


def each_process(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    variables = "' '.join(os.environ[name] for name in ('RANK', 'WORLD_SIZE', 'LOCAL_RANK', 'MASTER_ADDR'))"
    program(monkeypatch, f"(out / f'0-{{rank}}').write_text({variables})", folder)


def test_each_process_knows_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    each_process(monkeypatch, tmp_path)
    assert start_ranks(Ranks(3, 0), out=tmp_path) == 0
    assert [(tmp_path / name).read_text() for name in notes(tmp_path)] == [f"{rank} 3 {rank} 127.0.0.1" for rank in range(3)]


WAIT = (
    "times = []; signal.signal(signal.SIGINT, lambda *_: times.append(0)); (out / f'0-{rank}').touch()\n"
    "while not times: time.sleep(0.01)\n"
    "(out / f'1-{rank}').touch()\nsys.exit(130)"
)


def with_ctrl_c(folder: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        program(patch, WAIT, folder)

        sleep = time.sleep

        def soon(look: float) -> None:
            if notes(folder) == ["0-0", "0-1"]:
                signal_here(signal.SIGINT)
            sleep(look)

        patch.setattr(ranks.time, "sleep", soon)
        sys.exit(start_ranks(Ranks(2, 3), out=folder))


def test_ctrl_c_goes_to_all_and_starts_nothing_again(tmp_path: Path) -> None:
    process = start(with_ctrl_c, tmp_path, log=tmp_path / "log")
    process.join(60)
    assert process.exitcode == 130, (tmp_path / "log").read_text()
    assert notes(tmp_path) == ["0-0", "0-1", "1-0", "1-1"]


def test_none_is_left_if_one_cannot_be_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(monkeypatch, "time.sleep(100)", tmp_path)
    usual, begun = ranks._started, list[subprocess.Popen[bytes]]()

    def started(arguments: Sequence[str], variables: dict[str, str]) -> subprocess.Popen[bytes]:
        if begun:
            raise OSError("no more processes")
        begun.append(usual(arguments, variables))
        return begun[0]

    monkeypatch.setattr(ranks, "_started", started)
    with pytest.raises(OSError, match="no more"):
        start_ranks(Ranks(2, 0), out=tmp_path)
    assert begun[0].poll() is not None


@pytest.mark.parametrize("numbers", [(0, 1), (-1, 1), (2, -1)])
def test_impossible_numbers(numbers: tuple[int, int]) -> None:
    with pytest.raises(ConfigError, match="is not understood"):
        are_to_start(Ranks(*numbers))


def test_two_launchers_are_one_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(ConfigError, match="two launchers"):
        are_to_start(Ranks(2))
    assert not are_to_start(Ranks(1))


def test_one_error_is_told_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TOLD, str(tmp_path / "told"))
    first, second = ConfigError("x"), ConfigError("x")
    assert not is_told(first) and is_told(second) and not is_told(first)


@pytest.mark.slow
def test_a_second_ctrl_c_in_two_processes_is_one_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    def interrupted(given: list[str]) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("onestage.cli.main._run", interrupted)
    monkeypatch.setenv(TOLD, str(tmp_path / "told"))
    for rank in "01":
        monkeypatch.setenv("RANK", rank)
        assert main(["train"]) == 130
    assert capsys.readouterr().err == "error: interrupted\n"


def test_a_mistake_in_two_processes_is_one_message(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "onestage",
        "train",
        str(tmp_path / "none"),
        "--processes",
        "2",
        "--out",
        str(tmp_path / "o"),
    ]
    done = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=240)
    assert done.returncode == 2 and done.stderr.count("error:") == 1, done.stderr
    assert not list(tmp_path.iterdir())


def test_a_folder_is_chosen_for_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    program(monkeypatch, "(out / f'0-{rank}').write_text(' '.join(sys.argv[2:]))", tmp_path)
    assert main(["train", "data", "--processes", "2", "--model", "tinyssd"]) == 0
    said = {(tmp_path / name).read_text() for name in notes(tmp_path)}
    assert said == {"train data --processes 2 --model tinyssd --out runs/tinyssd-1"}


def test_no_module_of_the_working_folder_is_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be anybody's. ``python -m`` alone looks there first."""
    for name in ("json", "signal", "onestage", "tyro"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('this module is of the working folder')")
    monkeypatch.chdir(tmp_path)
    with ranks._started(["--version"], dict(os.environ)) as process:
        assert process.wait(60) == 0


def killed_by_its_own(folder: Path) -> None:
    """Start processes, of which one kills this one."""
    with pytest.MonkeyPatch.context() as patch:
        program(patch, "os.kill(os.getppid(), signal.SIGKILL) if rank == 1 else None; time.sleep(0.1)", folder)
        start_ranks(Ranks(2), out=folder)


def test_what_a_killed_command_leaves_goes_when_the_next_one_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "tmp"
    place.mkdir()
    process = start(killed_by_its_own, tmp_path, TMPDIR=str(place))
    process.join(60)
    (left,) = place.iterdir()
    assert process.exitcode == -signal.SIGKILL
    os.utime(left, (0, 0))
    monkeypatch.setattr(ranks, "gettempdir", lambda: str(place))
    program(monkeypatch, "sys.exit(0)", tmp_path)
    assert start_ranks(Ranks(2), out=tmp_path) == 0 and list(place.iterdir()) == []
