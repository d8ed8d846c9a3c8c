"""``onestage train`` by two processes under torchrun: they decide alike, say everything once, stop together and go on."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from onestage.training.folder import Plan
from small_runs import metrics

pytestmark = pytest.mark.slow
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "onestage", "train"]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}


def torchrun(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*TORCHRUN, *arguments], env=ENVIRONMENT, capture_output=True, text=True, timeout=240)


def test_a_plan_is_told_once_and_expects_what_both_can_do(shapes: Path) -> None:
    done = torchrun(str(shapes), "--plan-only", "--minutes", "5", "--device", "cpu")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("decided by rules") == done.stdout.count("pictures to learn from") == 1
    assert "pictures in 5 min, needs" in done.stdout


def test_a_training_of_some_minutes_stops_together_and_goes_on(shapes: Path, tmp_path: Path) -> None:
    out, log = tmp_path / "run", tmp_path / "log"
    options = ["--model", "tinyssd", "--size", "64", "--weights", "none", "--workers", "0", "--device", "cpu"]
    with log.open("w") as file:
        command = [*TORCHRUN, str(shapes), *options, "--minutes", "1", "--out", str(out)]
        process = subprocess.Popen(command, env=ENVIRONMENT, stdout=file, stderr=file)
        deadline = time.monotonic() + 120
        while " fit: a step takes" not in log.read_text() and time.monotonic() < deadline:
            time.sleep(0.2)
        process.terminate()
        process.wait(120)
    said = log.read_text()
    assert said.count(" fit: a step takes") == said.count("all is saved. Go on with") == 1, said
    done = torchrun("--resume", str(out))
    assert done.returncode == 0, done.stderr
    assert metrics(out)[-1]["step"] == Plan.load(out).train.steps and done.stdout.count("best validation AP") == 1
