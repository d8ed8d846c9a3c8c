"""What an exported file promises: what goes in, what comes out, and what the numbers mean.

Shape letters: B images, A anchors, C logits per anchor, N candidates, D detections, h and w of the input.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields
from typing import Literal, TypeVar

from onestage.errors import ConfigError, WeightsError
from onestage.files import Json
from onestage.model.codec import Limit, decode, encode
from onestage.model.config import DetectorConfig
from onestage.model.limits import CONFIG_TEXT
from onestage.model.output.scores import Scores
from onestage.structures import Size

Ending = Literal["detections", "candidates", "outputs"]
"""Where a file's graph ends: after NMS; at decoded candidates, before NMS; at the outputs of the network."""

Precision = Literal["fp32", "fp16", "int8"]
"""The type of the numbers in a file's network. Decoding and NMS are always in float32."""
PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "int8")

OUTPUTS: dict[Ending, tuple[str, ...]] = {
    "detections": ("boxes", "scores", "labels", "num"),
    "candidates": ("boxes", "scores", "labels"),
    "outputs": ("logits", "deltas"),
}
"""The names of a file's outputs, in order."""

KEY = "onestage"
"""The name under which a file's metadata hold the contract, as JSON."""

Choice = TypeVar("Choice")

MOST_AT_ONCE, LARGEST = 4096, 8192
"""Images, and pixels along a side of the input, that a file may be made for."""
TEXT = Limit("characters of a description in JSON", 2 * CONFIG_TEXT.most)
"""It holds the config, and the names of the classes once more."""
VERSION = 1
"""Of the contract. A later program raises it when an earlier one would read the file wrongly."""


@dataclass(frozen=True)
class Quantised:
    """How an int8 file was made, and what it cost.

    calibrated: pictures that gave the ranges of its numbers. measured: other pictures, on which its AP was measured. AP_fp32,
    AP: before and after, 0..1. low, high: the 95 % interval of AP - AP_fp32. layers: those that could be in int8. in_float:
    those of them that stayed in float.
    """

    calibrated: int
    measured: int
    AP_fp32: float
    AP: float
    low: float
    high: float
    layers: int
    in_float: int

    @property
    def drop(self) -> float:
        """How much AP int8 costs, 0..1. It is negative if int8 is better."""
        return self.AP_fp32 - self.AP


@dataclass(frozen=True)
class Contract:
    """Everything that a program must know to use an exported file.

    batch: the number of images, None for any. size: (h, w) of the input, None for any. level_sizes: (height, width) of the
    maps, if the size is fixed. pixels: the type of the images, RGB in 0..255. checked: whether the file's boxes were compared
    with those of its source when it was made, or the AP of an int8 file with that of its source. source: a SHA-256 of its
    config and tensors. versions: of the programs that made it. precision: of the network. quantised: what int8 cost. scores:
    what was measured about the scores of its source; no output of the file has it applied.
    """

    config: DetectorConfig
    ending: Ending
    pixels: Literal["uint8", "float32"] = "uint8"
    batch: int | None = None
    size: Size | None = None
    level_sizes: tuple[Size, ...] = ()
    checked: bool = False
    source: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    precision: Precision = "fp32"
    quantised: Quantised | None = None
    scores: Scores | None = None

    @property
    def has_frames(self) -> bool:
        """Whether the file takes frames (B, 4): pictures may be padded, and boxes are cut to them inside the graph."""
        return self.config.preprocess.mode != "stretch" and self.ending != "outputs"

    @property
    def padding(self) -> tuple[float, ...]:
        """The colour around a picture, RGB in 0..255. It is whole where pictures are resized in uint8 or put in so."""
        config = self.config.preprocess
        return tuple(map(round, config.colour)) if config.antialias or self.pixels == "uint8" else config.colour

    def to_json(self) -> str:
        """The contract as JSON. "config" holds the whole of it; what stands beside is for readers without this package."""
        config, resize = self.config, self.config.preprocess
        plain: dict[str, Json] = {
            "contract": VERSION,
            "model": config.name,
            "classes": list(config.classes),
            "category_ids": list(config.category_ids),
            "score_threshold": config.postprocess.score_threshold,
            "nms": {"detections": "in the file", "candidates": "to be done", "outputs": "to be done"}[self.ending],
            "resize": {
                "mode": resize.mode,
                "size": list(resize.size),
                "antialias": resize.antialias,
                "padding": list(self.padding),
            },
            "ending": self.ending,
            "pixels": self.pixels,
            "batch": self.batch,
            "size": None if self.size is None else list(self.size),
            "level_sizes": [list(size) for size in self.level_sizes],
            "checked": self.checked,
            "precision": self.precision,
            "int8": None if self.quantised is None else asdict(self.quantised),
            "scores": None if self.scores is None else encode(self.scores),
            "source_sha256": self.source,
            "versions": dict(self.versions),
            "config": json.loads(config.to_json()),
        }
        return json.dumps(plain)

    @classmethod
    def from_json(cls, text: str, *, where: object) -> Contract:
        """The inverse of ``to_json``. Raise WeightsError if the text is no contract, or one of a later version."""
        try:
            TEXT.check(text, "description")
            plain = json.loads(text)
            if _within(plain["contract"], 2**31) > VERSION:
                what, expected = "this file was exported by a later version", f"contract {VERSION}"
                raise WeightsError(what, where=where, got=plain["contract"], expected=expected, fix="update onestage")
            made = cls(
                config=DetectorConfig.from_json(json.dumps(plain["config"])),
                ending=_one_of(plain["ending"], tuple(OUTPUTS)),
                pixels=_one_of(plain["pixels"], ("uint8", "float32")),
                batch=None if plain["batch"] is None else _within(plain["batch"], MOST_AT_ONCE),
                size=None if plain["size"] is None else _size(plain["size"]),
                level_sizes=tuple(_size(pair) for pair in plain["level_sizes"]),
                checked=_one_of(plain["checked"], (False, True)),
                source=str(plain["source_sha256"]),
                versions={str(name): str(version) for name, version in plain["versions"].items()},
                precision=_one_of(plain.get("precision", "fp32"), PRECISIONS),
                quantised=None if plain.get("int8") is None else _quantised(plain["int8"]),
                scores=None if plain.get("scores") is None else decode(plain["scores"], Scores, "scores"),
            )
            if len(made.level_sizes) != (0 if made.size is None else len(made.config.levels)):
                raise ValueError(f"{len(made.level_sizes)} sizes of maps for {len(made.config.levels)} levels of anchors")
            if made.scores is not None:
                made.scores.check(len(made.config.classes))
            return made
        except (ConfigError, TypeError, ValueError, LookupError, AttributeError, ArithmeticError, RecursionError) as error:
            what = "the description inside this exported file is damaged"
            raise WeightsError(what, where=where, got=f"{type(error).__name__}: {error}", fix="export it again") from error


def _one_of(value: object, choices: tuple[Choice, ...]) -> Choice:
    for choice in choices:
        if value == choice and type(value) is type(choice):  # 1 is not True
            return choice
    raise ValueError(f"{value!r} is none of {', '.join(map(str, choices))}")


def _quantised(plain: dict[str, float]) -> Quantised:
    """What stands under "int8". Later versions may say more there."""
    found = {entry.name: plain[entry.name] for entry in fields(Quantised)}
    if any(type(value) not in (int, float) for value in found.values()):
        raise ValueError(f"{found} are not all numbers")
    calibrated, measured, count, in_float = (int(found.pop(key)) for key in ("calibrated", "measured", "layers", "in_float"))
    return Quantised(calibrated, measured, layers=count, in_float=in_float, **found)


def _size(pair: list[int]) -> Size:
    height, width = pair
    return _within(height, LARGEST), _within(width, LARGEST)


def _within(value: int, most: int) -> int:
    if type(value) is not int or not 1 <= value <= most:
        raise ValueError(f"{value!r:.40} is no number from 1 to {most:,}")
    return value
