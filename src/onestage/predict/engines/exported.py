"""The engine of every exported file, whatever runs it.

Shape letters: B images, A anchors, C logits per anchor, N candidates, D detections, h and w of the input.
"""

from __future__ import annotations

import stat
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from onestage.errors import ConfigError, OnestageError, WeightsError
from onestage.model.output.postprocess import RawDetections
from onestage.predict.contract import KEY, OUTPUTS, Contract
from onestage.predict.predictor import EngineOutput
from onestage.predict.seal import check_seal
from onestage.structures import HeadOutput

MOST_BYTES = 2**31
"""Of an exported file. Protocol buffers, and so ONNX files, cannot be larger."""
PLACE = "Exception from "
"""How OpenVINO's lines begin that name a place in its code."""
Run = Callable[[Mapping[str, np.ndarray]], Sequence[np.ndarray]]
"""Named inputs to the outputs of the file, in the order of ``contract.OUTPUTS``. Threads may call it at once."""


@dataclass(frozen=True, eq=False)
class FileEngine:
    """Run an exported file as its contract says. runtime: the name of the program that runs it, such as "onnxruntime". numbers:
    what its float layers are computed in, "fp32", "fp16" or "bf16"; "" if the program does not tell.
    """

    contract: Contract = field(repr=False)
    run: Run = field(repr=False)
    runtime: str
    numbers: str = ""

    @property
    def device(self) -> torch.device:
        """Always the CPU."""
        return torch.device("cpu")

    def __call__(self, images: Tensor, frames: Tensor) -> EngineOutput:
        """images (B, 3, h, w) in 0..255, frames (B, 4) -> the detections of each image, or logits (B, A, C) and deltas
        (B, A, 4). A file for a fixed number of images gets them in groups; the last group is filled up with its last image.

        Raise ConfigError if the file was made for another input size.
        """
        contract = self.contract
        height, width = images.shape[2], images.shape[3]
        if contract.size not in (None, (height, width)):
            what, fix = "this file was exported for another input size", "export it for that size, or with --size any"
            raise ConfigError(what, got=f"{height}x{width}", expected="{}x{}".format(*contract.size or ()), fix=fix)
        step = contract.batch or len(images)
        try:
            parts = [self._few(images[i : i + step], frames[i : i + step], step) for i in range(0, len(images), step)]
            columns = [torch.cat(column) for column in zip(*parts, strict=True)]
            if contract.ending != "outputs":
                return [self._detections(*(column[row] for column in columns)) for row in range(len(images))]
        except OnestageError:
            raise
        except Exception as error:  # a runtime's exceptions have no common class
            what, lines = f"{self.runtime} cannot run this exported file", str(error).strip().splitlines() or [""]
            told = next((line for line in lines if not line.startswith(PLACE)), lines[0])
            raise WeightsError(what, got=f"{type(error).__name__}: {told}", fix="export it again") from error
        logits, deltas = columns
        return HeadOutput(logits, deltas, contract.level_sizes, (height, width))

    def as_pixels(self, images: Tensor) -> Tensor:
        """Resized images (B, 3, h, w) in 0..255 in the type that the file takes."""
        if self.contract.pixels == "float32":
            return images.float()
        return images if images.dtype == torch.uint8 else images.round().clamp(0, 255).byte()

    def _few(self, images: Tensor, frames: Tensor, step: int) -> list[Tensor]:
        """At most ``step`` images, as many as the file takes, through the file."""
        count = len(images)
        if self.contract.batch is not None and count < step:
            more = [len(images) - 1] * (step - count)
            images, frames = torch.cat([images, images[more]]), torch.cat([frames, frames[more]])
        inputs = {"images": self.as_pixels(images).contiguous().numpy()}
        if self.contract.has_frames:
            inputs["frames"] = frames.float().cpu().numpy()
        outputs = self.run(inputs)
        if len(outputs) != len(OUTPUTS[self.contract.ending]) or any(len(output) != len(images) for output in outputs):
            expected = f"{', '.join(OUTPUTS[self.contract.ending])} of {len(images)} images"
            got = ", ".join(str(np.shape(output)) for output in outputs)
            raise WeightsError("this exported file does not give what it promises", got=got, expected=expected)
        return [torch.from_numpy(np.asarray(output))[:count] for output in outputs]

    def _detections(self, boxes: Tensor, scores: Tensor, labels: Tensor, num: Tensor | None = None) -> RawDetections:
        """One image's rows of the file's outputs, without those that are padding; NMS, where the file has none."""
        if num is not None:
            count = int(num)
            if not 0 <= count <= len(scores):
                what, expected = "this exported file does not give what it promises", f"0 to {len(scores):,} detections"
                raise WeightsError(what, got=f"{count:,} detections", expected=expected, fix="export it again")
            return RawDetections(boxes[:count], scores[:count], labels[:count].long())
        found = scores > 0
        boxes, scores, labels = boxes[found], scores[found], labels[found].long()
        post = self.contract.config.postprocess
        groups = torch.zeros_like(labels) if post.class_agnostic else labels
        rows, kept = post.nms(boxes, scores, groups, least=post.score_threshold)
        rows, kept = rows[: post.detections], kept[: post.detections]
        return RawDetections(boxes[rows], kept, labels[rows])


def threads() -> int:
    """How many threads a runtime uses: as many as torch."""
    return torch.get_num_threads()


def check_inputs(path: Path, contract: Contract, inputs: Mapping[str, str], outputs: Collection[str]) -> None:
    """Raise WeightsError unless a file has the inputs and outputs that its contract states. inputs: the type of each."""
    expected = {"images": contract.pixels} | ({"frames": "float32"} if contract.has_frames else {})
    if dict(inputs) != expected or set(outputs) != set(OUTPUTS[contract.ending]):
        what = "this exported file is not what its metadata say"
        got = f"inputs {dict(inputs)}, outputs {', '.join(outputs)}"
        wanted = f"inputs {expected}, outputs {', '.join(OUTPUTS[contract.ending])}"
        raise WeightsError(what, where=path, got=got, expected=wanted, fix="export it again")


def check_numbers(values: np.ndarray, name: str, path: Path) -> None:
    """Raise WeightsError if a tensor in a file holds NaN or infinity: the file would find nothing, or anything, without a word.
    A single number may be infinite; it is a bound.
    """
    wrong = np.isnan(values) if values.size == 1 else ~np.isfinite(values)
    if count := int(wrong.sum()):
        what, got = "this exported file has weights that are not numbers", f"{name}: {count:,} NaN or infinite"
        raise WeightsError(what, where=path, got=got, fix="export it again, from an earlier state of the detector")


def read_bytes(path: Path, *, most: int = MOST_BYTES) -> bytes:
    """The bytes of a file that may be an exported one, or a part of one. most: so many at most.

    What is checked and what a runtime gets are these bytes: the file may be another one a moment later. Raise WeightsError if
    it cannot be read, is no regular file, or is too large.
    """
    try:
        about = path.stat()
        if not stat.S_ISREG(about.st_mode):  # before it is opened: a pipe would wait for a writer
            raise WeightsError.no_file(path, "an exported model")
        data = b""
        if about.st_size <= most:
            with path.open("rb") as file:
                data = file.read(most + 1)  # it may have grown since
    except OSError as error:
        raise WeightsError("this file cannot be read", where=path, got=error.strerror, fix="check the path") from error
    if max(about.st_size, len(data)) > most:
        expected = f"at most {most:,} bytes"
        raise WeightsError("this file is too large", where=path, expected=expected, fix="export a smaller detector")
    return data


def read_file(path: Path, *parts: bytes) -> bytes:
    """The bytes of an exported file. parts: the contents of its further files. Raise WeightsError as ``read_bytes`` does, or if
    it is not as it was written.
    """
    data = read_bytes(path)
    check_seal(path, data, parts)
    return data


def foreign(path: Path) -> WeightsError:
    """The error for a file that ``export`` did not write."""
    what = "this file was not exported by onestage, so what its numbers mean is unknown"
    expected = f'metadata "{KEY}" (classes, input size, thresholds), and outputs {", ".join(OUTPUTS["detections"])}'
    fix = "import the checkpoint that it was made from, then: onestage export MODEL"
    return WeightsError(what, where=path, expected=expected, fix=fix)
