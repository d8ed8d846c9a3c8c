"""A prediction over many pictures that is killed at random moments goes on, with any number of workers, to the same bytes.

One picture of a hundred is broken. The short form is part of the usual tests; ``make kill`` runs the one with 20,000 pictures
too, and says what memory the process took. KILL_SEED picks the moments, KILL_PICTURES another number of pictures.
"""

import json
import os
import signal
import sys
import time
from collections.abc import Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from random import Random

import pytest
from PIL import Image

from onestage.cli.main import main
from onestage.data.synthetic import generate
from onestage.predict import journal
from small_runs import PICTURES, detector, send, start

SEED = int(os.environ.get("KILL_SEED", "0"))
MANY = int(os.environ.get("KILL_PICTURES", "20000"))
LONGEST = 1800.0
"""Seconds after which a process that has not ended counts as a hang."""
FEW_MEGABYTES = 80
"""What the list of 20,000 names, the tally and the allocator may add to the memory of a run of 2,000 pictures."""
BROKEN = (b"", b"no picture", b"\xff\xd8\xff\xe0")


def write_folder(folder: Path, count: int) -> Path:
    """So many pictures: copies of 50 different ones, every hundredth broken in one of three ways."""
    folder.mkdir()
    different = []
    for number in range(50):
        path = folder.parent / f"{number}.jpg"
        Image.fromarray(generate(number, PICTURES).image.permute(1, 2, 0).contiguous().numpy()).save(path)
        different.append(path.read_bytes())
    for number in range(count):
        content = BROKEN[number % 3] if number % 100 == 7 else different[number % 50]
        (folder / f"{number:05d}.jpg").write_bytes(content)
    return folder


def predict_here(arguments: Sequence[str], seconds: float, peak: Path) -> None:
    """Run the command line in this process. seconds: between two notes of the journal. peak: a file for the most memory."""
    journal.SECONDS = seconds
    code = main(["predict", *arguments])
    status = Path("/proc/self/status")
    if status.exists():
        (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        peak.write_text(line.split()[1])  # kilobytes
    sys.exit(code)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def command(model: Path, pictures: Path, out: Path, *more: str) -> list[str]:
    options = ["--score", "0.2", "--top", "3", "--runtime", "torch", "--format", "coco", "csv", "jsonl", "--out", str(out)]
    return [str(model), str(pictures), *options, *more]


def going_on(log: Path) -> int:
    """How many processes have said that they go on."""
    return log.read_text().count("going on after") if log.exists() else 0


def wait_for_work(out: Path, process: BaseProcess, log: Path, before: int | None = None) -> None:
    """Until the model is there and the work begins. before: how many went on before, if this process goes on."""
    run, deadline = out / journal.FOLDER / journal.RUN, time.monotonic() + LONGEST
    while process.is_alive() and time.monotonic() < deadline:
        if run.exists() if before is None else going_on(log) > before:
            return
        time.sleep(0.005)


def point(out: Path) -> int:
    """How many pictures a run is known to have done."""
    state = out / journal.FOLDER / journal.STATE
    return int(json.loads(state.read_text())["done"]) if state.exists() else 0


def whole(arguments: Sequence[str], folder: Path, out: Path) -> tuple[float, int]:
    """Run it once without a disturbance. Return the seconds of its work, and the most kilobytes of its process."""
    log, peak = folder / "log-whole", folder / "peak"
    process = start(predict_here, arguments, journal.SECONDS, peak, log=log)
    wait_for_work(out, process, log)
    began = time.monotonic()
    process.join(LONGEST)
    assert process.exitcode == 1, log.read_text()  # some pictures are broken
    return time.monotonic() - began, int(peak.read_text()) if peak.exists() else 0


def begin(arguments: Sequence[str], seconds: float, number: int, log: Path) -> BaseProcess:
    """Run the command line in another process, with another number of workers each time. seconds: of a whole run."""
    workers = "--workers", str(1 + number % 3)
    return start(predict_here, [*arguments, *workers], seconds / 40, log.with_name("peak-killed"), log=log)


@pytest.mark.parametrize(("count", "kills"), [(100, 1), pytest.param(MANY, 5, marks=pytest.mark.slow)])
def test_a_prediction_that_is_killed_goes_on_to_the_same_bytes(count: int, kills: int, tmp_path: Path) -> None:
    model, pictures = tmp_path / "model.safetensors", write_folder(tmp_path / "pictures", count)
    detector().save(model)
    seconds, most = whole(command(model, pictures, tmp_path / "whole"), tmp_path, tmp_path / "whole")
    random, killed, points, log = Random(f"predict {SEED}"), 0, [], tmp_path / "log"
    out, number, shortened = tmp_path / "found", 0, seconds
    while killed < kills:
        number += 1
        assert number <= 10 * kills, f"nothing is killed: {log.read_text()[-3000:]}"
        before = going_on(log) if (out / journal.FOLDER).exists() else None
        process = begin(command(model, pictures, out, "--resume"), seconds, number, log)
        wait_for_work(out, process, log, before)
        process.join(random.uniform(0.0, shortened / kills))
        if process.exitcode is None:
            send(signal.SIGKILL, process)
            process.join()
            killed += 1
            points.append(point(out))
        else:  # it was fast; it begins again, and is killed earlier
            assert process.exitcode == 1 and contents(out) == contents(tmp_path / "whole"), log.read_text()[-3000:]
            shortened /= 2
    process = begin(command(model, pictures, out, "--resume"), seconds, number + 1, log)
    process.join(LONGEST)
    assert process.exitcode == 1, log.read_text()[-3000:]
    assert contents(out) == contents(tmp_path / "whole")
    named = (out / "failures.csv").read_text()
    assert all(f"{broken:05d}.jpg" in named for broken in range(7, count, 100)) and named.count("\n") >= count // 100
    assert going_on(log) >= 1
    print(
        f"\n{count:,} pictures in {seconds:.0f} s, {most / 1000:.0f} MB; {killed} kills (noted then: {points}), the same bytes"
    )


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux tells the most memory of a process")
def test_memory_does_not_grow_with_the_number_of_pictures(tmp_path: Path) -> None:
    model = tmp_path / "model.safetensors"
    detector().save(model)
    taken = []
    for count in (MANY // 10, MANY):
        pictures = write_folder(tmp_path / f"{count}", count)
        out = tmp_path / f"found-{count}"
        _, most = whole(command(model, pictures, out, "--no-pictures"), tmp_path, out)
        taken.append(most / 1000)
    print(f"\n{MANY // 10:,} pictures: {taken[0]:.0f} MB; {MANY:,}: {taken[1]:.0f} MB")
    assert taken[1] < taken[0] + FEW_MEGABYTES
