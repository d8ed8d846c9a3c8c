"""From a JPEG file to boxes: each engine of ours against torchvision or effdet, with the same weights and pictures.

python benchmarks/inference.py --runtimes torch onnxruntime openvino ncnn --repeats 30 --json runtimes.json

Each engine runs in a process of its and the peer's, in turns with the peer. A pause before each turn lets the threads of the
other program fall asleep; some untimed turns after it wake our own. Files are exported into a folder and used again from there.
What cannot be measured is a row with a reason.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import tyro
from torchvision.io import ImageReadMode, decode_image

import onestage
from common import Clock, Comparison, compare, pair
from onestage.deploy.drawn import USUAL, drawn_data, jpegs
from onestage.deploy.export import FORMATS, export
from onestage.deploy.plan import ExportConfig
from onestage.errors import OnestageError
from onestage.predict.predictor import Predictor

FORMAT_OF = {"onnxruntime": "onnx", "openvino": "openvino", "ncnn": "ncnn"}
"""The runtimes besides torch, and the format of the files that they run."""
PAUSE = 0.1
"""Seconds before each turn."""


@dataclass(frozen=True)
class Engine:
    """What runs a model: torch or another runtime, in fp32 or int8."""

    model: str
    runtime: str
    precision: str

    def __str__(self) -> str:
        return f"{self.model}, {self.runtime} {self.precision}"


def path_of(engine: Engine, folder: Path) -> Path:
    """The file that a runtime besides torch runs."""
    return folder / f"{engine.model}-{engine.precision}{FORMATS[FORMAT_OF[engine.runtime]].suffix}"


def open_engine(engine: Engine, model: onestage.Detector, folder: Path) -> Predictor:
    """The predictor. A file is exported into the folder if it is not there.

    Raise OnestageError or LookupError with the reason if there is none.
    """
    if engine.runtime == "torch":
        if engine.precision != "fp32":
            raise LookupError("torch runs in fp32 alone")
        return Predictor.folded(model)
    to, path = FORMAT_OF[engine.runtime], path_of(engine, folder)
    if not path.exists():
        follows = model.config.preprocess.mode == "shortest_edge"
        size = model.config.preprocess.place(USUAL).input if follows else None
        config = ExportConfig(size=size, nms="none" if to == "ncnn" else "graph")
        if engine.precision == "int8":
            with tempfile.TemporaryDirectory() as data:
                export(
                    model, path, to=to, config=replace(config, precision="int8"), labelled=drawn_data(model.classes, Path(data))
                )
        else:
            export(model, path, to=to, config=config, check=False)
    return onestage.load(path, runtime=engine.runtime)


def measure(engine: Engine, files: Sequence[Path], folder: Path, repeats: int, clock: Clock) -> Comparison:
    """Seconds for a picture, ours and the peer's, in turns in this process."""
    from inference import effdet_predictor, predict_torchvision

    model, theirs = pair(engine.model)
    ours = open_engine(engine, model, folder)
    peer = effdet_predictor(theirs) if engine.model.startswith("tf_") else partial(predict_torchvision, theirs)
    turns = {"ours": 0, "theirs": 0}

    def file(side: str) -> Path:
        turns[side] += 1
        return files[turns[side] % len(files)]

    return compare(
        str(engine),
        lambda: ours.predict(file("ours")),
        lambda: peer([decode_image(str(file("theirs")), ImageReadMode.RGB)]),
        repeats=repeats,
        clock=clock,
        pause=PAUSE,
    )


def rows(
    engines: Sequence[Engine], pictures: Path | None, folder: Path | None, repeats: int, clock: Clock
) -> Iterator[Comparison | str]:
    """The comparison of each engine, measured in a new process, or the reason why there is none."""
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary) if folder is None else folder
        place.mkdir(parents=True, exist_ok=True)
        for engine in engines:
            options = ["--model", engine.model, "--runtime", engine.runtime, "--precision", engine.precision]
            options += ["--folder", str(place), "--repeats", str(repeats), "--clock", clock]
            options += [] if pictures is None else ["--pictures", str(pictures)]
            done = subprocess.run([sys.executable, __file__, *options], capture_output=True, text=True, check=False)
            last = (done.stdout.strip().splitlines() or [""])[-1]
            found = json.loads(last) if last.startswith("{") else {"reason": (done.stderr.strip().splitlines() or ["?"])[-1]}
            yield f"{engine}: {found['reason']}" if "reason" in found else Comparison(**found)


def main(
    *, model: str, runtime: str, precision: str, folder: Path, repeats: int, clock: Clock = "wall", pictures: Path | None = None
) -> None:
    """Measure one engine in this process, and print what was found as a line of JSON."""
    files = jpegs(folder) if pictures is None else sorted(pictures.glob("*.jpg"))[:8]
    engine = Engine(model, runtime, precision)
    try:
        found = measure(engine, files, folder, repeats, clock)
        print(json.dumps({"what": found.what, "ours": found.ours, "theirs": found.theirs}))
    except (OnestageError, LookupError) as error:
        print(json.dumps({"reason": str(error).strip("'\"").replace("\n", " ")}))


if __name__ == "__main__":
    tyro.cli(main)
