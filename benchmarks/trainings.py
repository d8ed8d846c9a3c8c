"""The programs that ``time_to_accuracy.py`` compares. Each is a separate process, and each finds objects on the same pictures.

Ultralytics is a separate program: nothing here imports it. Its Python is given by its path.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torchvision

import onestage
from onestage.predict.measure import evaluate_dataset
from onestage.structures import Detections
from onestage.weights.detector_file import load_detector
from split_pictures import Found, SplitPictures, detections

INSTALL = "python3.11 -m venv ultralytics && ultralytics/bin/pip install ultralytics"
"""How to get the peer; its licence is the AGPL."""
QUIET = {"YOLO_OFFLINE": "1", "YOLO_AUTOINSTALL": "false"}
"""Settings with which Ultralytics fetches nothing while it is measured."""
YOLO = {"imgsz": 320, "batch": 16, "workers": 1, "plots": False, "exist_ok": True}
"""Its picture size and batch, those of ours; all other settings of a training are its usual ones."""


class FailedTraining(Exception):
    """A program ended with an error. The message quotes the end of what it printed."""


@dataclass(frozen=True)
class Trained:
    """What a program did. command: as a user types it. seconds: of wall clock from its start to its end. epochs: as far as it
    got. found: its detections on the measured pictures, in their order.
    """

    name: str
    version: str
    command: str
    seconds: float
    epochs: float
    found: list[Detections]


def train_ours(name: str, pictures: SplitPictures, minutes: float, folder: Path) -> Trained:
    """Run ``onestage train`` with the options that stand in ``name`` after the model; "default" leaves the model to it.

    The best model by validation finds the objects.
    """
    model, *options = shlex.split(name)
    chosen = [] if model == "default" else ["--model", model]
    arguments = ["train", str(pictures.ours), "--minutes", f"{minutes:g}", *chosen, *options]
    seconds = run([sys.executable, "-m", "onestage", *arguments, "--out", str(folder)], folder.with_suffix(".log"))
    history = (folder / "metrics.jsonl").read_text().splitlines()
    best = load_detector(folder / onestage.files.BEST)
    found = evaluate_dataset(best, pictures.measured)[1]
    shown = f"onestage {shlex.join(arguments)}"
    return Trained(f"onestage {name}", onestage.__version__, shown, seconds, json.loads(history[-1])["epoch"], found)


def train_ultralytics(model: str, pictures: SplitPictures, minutes: float, folder: Path, *, python: Path) -> Trained:
    """Run ``yolo detect train`` from scratch, and ``yolo detect val`` on the measured pictures with its best model.

    model: such as "yolo26n". python: of the environment that has Ultralytics.
    """
    yolo, log, where = str(python.with_name("yolo")), folder.with_suffix(".log"), pictures.yolo
    common = {**YOLO, "data": "data.yaml", "project": folder.parent}
    settings = {"model": f"{model}.yaml", "time": minutes / 60, "pretrained": False, **common, "name": folder.name}
    seconds = run([yolo, "detect", "train", *_settings(settings)], log, where=where)
    best, measured = folder / "weights" / "best.pt", f"{folder.name}-measured"
    settings = {"model": best, "split": pictures.split, "save_json": True, **common, "name": measured}
    run([yolo, "detect", "val", *_settings(settings)], log, where=where)
    entries = json.loads((folder.parent / measured / "predictions.json").read_text())
    found = [Found(int(Path(one["file_name"]).stem), one["category_id"] - 1, one["bbox"], one["score"]) for one in entries]
    command = f"yolo detect train model={model}.yaml imgsz=320 batch=16 time={minutes / 60:.4g} pretrained=False workers=1"
    epochs = len((folder / "results.csv").read_text().splitlines()) - 1
    shown = subprocess.run([yolo, "version"], env=os.environ | QUIET, capture_output=True, text=True, check=True)
    return Trained(
        f"Ultralytics {model}", shown.stdout.split()[-1], command, seconds, epochs, detections(found, pictures.measured)
    )


def train_torchvision(pictures: SplitPictures, minutes: float, folder: Path) -> Trained:
    """Run ``torchvision_ssdlite.py``: the recipe of torchvision's references, in time for the budget."""
    output = folder.with_suffix(".json")
    arguments = [str(pictures.yolo), "--minutes", f"{minutes:g}", "--split", pictures.split, "--out", str(output)]
    program = Path(__file__).with_name("torchvision_ssdlite.py")
    run([sys.executable, str(program), *arguments], folder.with_suffix(".log"))
    content = json.loads(output.read_text())
    found = [Found(**one) for one in content["found"]]
    command = shlex.join(["python", f"benchmarks/{program.name}", *arguments])
    return Trained(
        "torchvision ssdlite320",
        torchvision.__version__,
        command,
        content["seconds"],
        content["epochs"],
        detections(found, pictures.measured),
    )


def _settings(settings: Mapping[str, object]) -> list[str]:
    return [f"{name}={value}" for name, value in settings.items()]


def run(command: Sequence[str], log: Path, *, where: Path | None = None) -> float:
    """Run a program to its end, in the folder ``where``, with all that it prints in the file ``log``. Return its seconds.

    Raise FailedTraining if the program fails.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    begun = time.monotonic()
    with log.open("a") as file:
        file.write(f"$ {shlex.join(command)}\n")
        file.flush()
        code = subprocess.run(command, stdout=file, stderr=file, env=os.environ | QUIET, cwd=where, check=False).returncode
    if code != 0:
        raise FailedTraining(f"{shlex.join(command)} failed with code {code}; the end of {log}:\n{log.read_text()[-2000:]}")
    return time.monotonic() - begun
