"""int8 files: made with calibration pictures, and kept only if their AP on other, labelled pictures is good enough.

Shape letters: B images, h and w of the input.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from onestage.data import Dataset
from onestage.data.reader import OpenData
from onestage.data.table import OnBad
from onestage.deploy.accuracy import Accuracy, accuracy
from onestage.deploy.halves import halves
from onestage.deploy.onnx import describe
from onestage.deploy.quantise import Inputs, for_integers, in_float, layers, most_sensitive, quantised
from onestage.errors import ConfigError, WeightsError, require
from onestage.images import decode_image
from onestage.predict.contract import Quantised
from onestage.predict.engines.exported import FileEngine
from onestage.predict.exported import open_exported
from onestage.predict.predictor import Predictor

if TYPE_CHECKING:
    import onnx

MAX_DROP = 0.005
"""The most AP, 0..1, that int8 may cost by default."""
MOST_CALIBRATED = 100
"""The most pictures that are calibrated on. Of more, each n-th is taken."""
RESAMPLED = 50
"""Bootstrap samples behind an interval. They give a standard deviation, which needs fewer of them than quantiles do."""
LOOKED_AT = 2
"""Pictures on which the layers are compared, to find those that int8 harms most."""

Save = Callable[["onnx.ModelProto", Path], None]
"""Writes an ONNX model as a file of some format."""


@dataclass(frozen=True, eq=False)
class Int8Data:
    """The pictures that an int8 file is made with.

    calibrate: paths of pictures that show what the detector will see. measure: labelled pictures; they are left out of the
    calibration. max_drop: the most AP, 0..1, that int8 may cost. compared: whether the file in float32, of which the int8 file
    is made, must find what the detector finds. Random weights may give boxes that rounding decides.
    """

    calibrate: Sequence[str | Path]
    measure: Dataset
    max_drop: float = MAX_DROP
    compared: bool = True

    def __post_init__(self) -> None:
        what, fix = "calibrate is a list of the paths of pictures", "list(Path(FOLDER).glob('*.jpg'))"
        require(not isinstance(self.calibrate, str | Path), what, got=self.calibrate, fix=fix)
        require(0 <= self.max_drop <= 1, "max_drop is a part of AP, 0..1", got=self.max_drop)
        if self.measure.is_empty:
            what = "int8 needs labelled pictures to measure its AP on, and these have no objects"
            raise ConfigError(what, where=self.measure.root, fix="choose another --data")
        if not self.pictures:
            what = "int8 needs pictures to calibrate on besides those that its AP is measured on"
            raise ConfigError(what, where=self.measure.root, got="none", fix="name a folder of other pictures: calibrate=")

    @property
    def pictures(self) -> list[Path]:
        """The pictures for the calibration: at most MOST_CALIBRATED, and none that the AP is measured on."""
        measured = {Path(path).resolve() for path in self.measure.paths}
        rest = [path for path in map(Path, self.calibrate) if path.resolve() not in measured]
        return rest[:: -(-len(rest) // MOST_CALIBRATED) or 1]

    @property
    def fingerprint(self) -> str:
        """A SHA-256 of what a file made with these pictures depends on: their paths, sizes and times of change, the labels, and
        the limit.
        """
        digest = hashlib.sha256(f"{self.max_drop} {self.measure.classes}".encode())
        for path in (*self.pictures, *map(Path, self.measure.paths)):
            about = path.stat()
            digest.update(f"\n{path.resolve()} {about.st_size} {about.st_mtime_ns}".encode(errors="surrogateescape"))
        for row in range(len(self.measure)):
            truth = self.measure.truth(row)
            for tensor in (truth.boxes, truth.labels, truth.ignore):
                digest.update(f"{tuple(tensor.shape)}".encode() + tensor.contiguous().numpy().tobytes())
        return digest.hexdigest()


def divided(data: OpenData, classes: tuple[str, ...], *, on_bad: OnBad = "stop") -> tuple[Dataset, Dataset]:
    """The pictures of a data set to calibrate on and those to measure on, with the labels of the model's classes.

    The AP is measured on "test", or else on "val", as ``evaluate`` does. The calibration takes "train", or else "trainval" or
    "val". A data set without two such splits is cut into a first and a second half. Raise DataError if it names such splits,
    and none of them is there.
    """
    last = _split(data, ["test", "val"])
    first = _split(data, [split for split in ("train", "trainval", "val") if split != last])
    if first is not None and last is not None:
        one, two = (data.load(split, classes=classes, on_bad=on_bad) for split in (first, last))
        return one, two
    whole = data.load(first or last, classes=classes, on_bad=on_bad)
    middle = len(whole) // 2
    return whole.subset(range(middle)), whole.subset(range(middle, len(whole)))


def _split(data: OpenData, names: Sequence[str]) -> str | None:
    """The first of these splits that a data set has; None if it names none. Raise DataError if it names some, and has none."""
    found = next((split for split in names if split in data.splits), None)
    missing = [data.missing[split] for split in names if split in data.missing]
    if found is None and missing:
        raise missing[0]
    return found


def write_int8(model: onnx.ModelProto, file: Predictor, path: Path, save: Save, data: Int8Data) -> Quantised:
    """Write the model in int8 to ``path``. model: in float32; file: the same, opened.

    The layers that int8 harms most are put back into float, 1, 2, 4, ... and at most half of them, until the AP is good enough.
    Raise WeightsError if it never is.
    """
    engine = file.engine
    assert isinstance(engine, FileEngine)
    before, parts = accuracy(file, data.measure), halves(model)
    inputs = Calibration(file, tuple(data.pictures), frozenset(entry.name for entry in parts.network.graph.input))
    network = quantised(parts.network, inputs, len(inputs.paths))
    names, order, count, tried = layers(network), list[str](), 0, list[float]()
    while count <= len(names) // 2:
        if count and not order:
            order = most_sensitive(network, parts.network, inputs.first(LOOKED_AT))
        mixed = in_float(network, parts.network, order[:count]) if count else network
        whole = parts.joined(for_integers(mixed))
        describe(whole, engine.contract)
        save(whole, path)
        after = accuracy(open_exported(path), data.measure)
        drop = before.AP - after.AP
        if drop <= data.max_drop:
            low, high = interval(before, after)
            sizes = len(inputs.paths), len(data.measure)
            found = Quantised(*sizes, before.AP, after.AP, low, high, layers=len(names), in_float=count)
            describe(whole, replace(engine.contract, precision="int8", quantised=found))
            save(whole, path)
            return found
        tried.append(after.AP)
        count = 2 * count or 1
    got = f"AP {before.AP:.4f} in float32, at best {max(tried):.4f} in int8, with up to {count // 2} layers in float"
    what, fix = "int8 costs this detector too much", "more pictures to calibrate on: calibrate=; or precision='fp16'"
    raise WeightsError(what, where=data.measure.root, got=got, expected=f"a drop of at most {data.max_drop}", fix=fix)


def interval(before: Accuracy, after: Accuracy, *, seed: int = 0) -> tuple[float, float]:
    """The 95 % interval of AP after - AP before: 1.96 standard deviations around it, by the paired bootstrap over pictures.
    Same seed, same interval.
    """
    random, count = np.random.default_rng(seed), len(before.truths)
    samples = [random.integers(0, count, count).tolist() for _ in range(RESAMPLED)]
    gains = np.array([after.on(rows) - before.on(rows) for rows in samples])
    gains = gains[~np.isnan(gains)]  # a sample may have no object at all
    reach, gain = 1.96 * float(gains.std()) if len(gains) else 0.0, after.AP - before.AP
    return gain - reach, gain + reach


@dataclass(frozen=True, eq=False)
class Calibration:
    """The inputs of a file for pictures on disk, which are decoded at each pass. names: those of the inputs."""

    file: Predictor
    paths: tuple[Path, ...]
    names: frozenset[str]

    def __iter__(self) -> Iterator[Inputs]:
        return map(self._inputs, self.paths)

    def first(self, count: int) -> list[Inputs]:
        """The inputs for the first ``count`` pictures."""
        return [self._inputs(path) for path in self.paths[:count]]

    def _inputs(self, path: Path) -> Inputs:
        """images (B, 3, h, w), and frames (B, 4) if the network takes them. A file for B images gets the picture B times."""
        engine = self.file.engine
        assert isinstance(engine, FileEngine)
        images, metas = self.file.config.preprocess.batch([decode_image(path)])
        count = engine.contract.batch or 1
        pixels, frame = engine.as_pixels(images).numpy(), metas[0].frame[None].float().numpy()
        found = {"images": np.repeat(pixels, count, axis=0), "frames": np.repeat(frame, count, axis=0)}
        return {name: found[name] for name in self.names}
