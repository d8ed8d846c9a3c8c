"""The engine of every exported file, whatever runs it.

Shape letters: B images, A anchors, C logits per anchor, N candidates, D detections, h and w of the input.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from onestage.errors import ConfigError, WeightsError
from onestage.model.output.postprocess import RawDetections
from onestage.predict.contract import KEY, OUTPUTS, Contract
from onestage.predict.predictor import EngineOutput
from onestage.structures import HeadOutput

Run = Callable[[Mapping[str, np.ndarray]], Sequence[np.ndarray]]
"""Named inputs to the outputs of the file, in the order of ``contract.OUTPUTS``. Threads may call it at once."""


@dataclass(frozen=True, eq=False)
class FileEngine:
    """Run an exported file as its contract says. runtime: the name of the program that runs it, such as "onnxruntime"."""

    contract: Contract
    run: Run
    runtime: str

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
        parts = [self._few(images[i : i + step], frames[i : i + step], step) for i in range(0, len(images), step)]
        columns = [torch.cat(column) for column in zip(*parts, strict=True)]
        if contract.ending == "outputs":
            logits, deltas = columns
            return HeadOutput(logits, deltas, contract.level_sizes, (height, width))
        return [self._detections(*(column[row] for column in columns)) for row in range(len(images))]

    def _few(self, images: Tensor, frames: Tensor, step: int) -> list[Tensor]:
        """At most ``step`` images, as many as the file takes, through the file."""
        count = len(images)
        if self.contract.batch is not None and count < step:
            more = [len(images) - 1] * (step - count)
            images, frames = torch.cat([images, images[more]]), torch.cat([frames, frames[more]])
        if self.contract.pixels == "uint8":
            images = images if images.dtype == torch.uint8 else images.round().clamp(0, 255).byte()
        else:
            images = images.float()
        inputs = {"images": images.contiguous().numpy()}
        if self.contract.has_frames:
            inputs["frames"] = frames.float().cpu().numpy()
        return [torch.from_numpy(np.asarray(output))[:count] for output in self.run(inputs)]

    def _detections(self, boxes: Tensor, scores: Tensor, labels: Tensor, num: Tensor | None = None) -> RawDetections:
        """One image's rows of the file's outputs, without those that are padding; NMS, where the file has none."""
        if num is not None:
            count = int(num)
            return RawDetections(boxes[:count], scores[:count], labels[:count].long())
        found = scores > 0
        boxes, scores, labels = boxes[found], scores[found], labels[found].long()
        post = self.contract.config.postprocess
        groups = torch.zeros_like(labels) if post.class_agnostic else labels
        rows, kept = post.nms(boxes, scores, groups, least=post.score_threshold)
        rows, kept = rows[: post.detections], kept[: post.detections]
        return RawDetections(boxes[rows], kept, labels[rows])


def foreign(path: Path) -> WeightsError:
    """The error for a file that ``export`` did not write."""
    what = "this file was not exported by onestage, so what its numbers mean is unknown"
    expected = f'metadata "{KEY}" (classes, input size, thresholds), and outputs {", ".join(OUTPUTS["detections"])}'
    fix = "import the checkpoint that it was made from, then: onestage export"
    return WeightsError(what, where=path, expected=expected, fix=fix)
