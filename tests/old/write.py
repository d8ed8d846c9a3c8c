"""Writes the files of this folder, with the code of commit c0fbafc: a data set, a model, an interrupted run, and what came of
both. Newer code must load them and go on (test_old_files.py).

    git worktree add /tmp/c0fbafc c0fbafc
    cd tests/old && PYTHONPATH=/tmp/c0fbafc/src OMP_NUM_THREADS=1 python write.py

data/                 12 pictures to train on and 3 to measure, 64 x 64, as COCO: onestage data generate
run/                  a run of 3 epochs of 3 steps, interrupted after step 4, in the middle of an epoch
model.safetensors     a model of the whole run
expected.json         predictions of that model, and the metrics of the whole run
defaults.json         the default value of each field of each part that a plan can have; what each word of "augment" stands for
left_out.json         the plan in run/ read again without one of its values, for each of them: the value then taken
"""

import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import torch
from onestage.train.config import AUGMENTS
from onestage.train.loop import Training
from onestage.train.run import Plan
from plans import defaults, left_out, parts

import onestage
from onestage.cli.main import main
from onestage.model.config import encode
from onestage.zoo import build, recipe

CLASSES = ("cube", "ring")
SMALL = {"backbone.base": (4, 8, 8), "backbone.width": 8}
STEPS_DONE = 4


def write(folder: Path) -> None:
    """Write everything anew, into this folder."""
    for name in ("data", "run", "whole"):
        shutil.rmtree(folder / name, ignore_errors=True)
    sizes = ["--train", "12", "--val", "3", "--size", "64", "--seed", "5"]
    assert main(["data", "generate", str(folder / "data"), *sizes, "--classes", *CLASSES]) == 0
    train(folder / "data", folder / "whole")
    with_interruption_after(STEPS_DONE)
    train(folder / "data", folder / "run")
    plan = folder / "run" / "config.json"
    plan.write_text(plan.read_text().replace(json.dumps(str(folder / "data")), '"data"'))  # no paths of this machine

    shutil.copy(folder / "whole" / "last.safetensors", folder / "model.safetensors")
    model = onestage.load(folder / "model.safetensors")
    found = {p.name: predictions(model, p) for p in sorted((folder / "data" / "val").iterdir())}
    rows = [json.loads(line) for line in (folder / "whole" / "metrics.jsonl").read_text().splitlines()]
    write_json(folder / "expected.json", {"predictions": found, "metrics": rows})
    shutil.rmtree(folder / "whole")
    by_part = {part.__name__: defaults(part) for part in sorted(parts(Plan), key=str)}
    write_json(folder / "defaults.json", by_part | {f"augment={name}": encode(value) for name, value in AUGMENTS.items()})
    write_json(folder / "left_out.json", left_out(json.loads(plan.read_text()), Plan))


def write_json(path: Path, content: object) -> None:
    """Small enough to keep, and in lines."""
    path.write_text(json.dumps(content, indent=1) + "\n")


def train(data: Path, out: Path) -> None:
    """A run of 9 steps with settings that are not the usual ones."""
    config = onestage.TrainConfig(
        epochs=3, batch_size=4, optimizer="sgd", lr=0.02, warmup=2, seed=3, workers=0, device="cpu", augment="light"
    )
    torch.manual_seed(config.seed)
    model = build(recipe("tinyssd", CLASSES, size=(64, 64)).replace(SMALL))
    onestage.train(model, data, out=out, config=config)


def with_interruption_after(steps: int) -> None:
    """From now on Ctrl-C arrives in that step of a training; the loop saves and stops after it."""
    inner = Training._step

    def step(self: Training, batch: Any) -> dict[str, float]:
        if self.step + 1 == steps:
            os.kill(os.getpid(), signal.SIGINT)
        return inner(self, batch)

    Training._step = step


def predictions(model: Any, picture: Path) -> dict[str, list[Any]]:
    """The ten best detections in a picture."""
    found = model.predict(picture, score=0.0)[0]
    return {name: getattr(found, name)[:10].tolist() for name in ("boxes", "scores", "labels")}


if __name__ == "__main__":
    write(Path(__file__).resolve().parent)
