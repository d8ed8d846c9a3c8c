"""The one door for pictures: pictures in any form -> batches -> an engine -> Detections.

Shape letters: B images, A anchors, C logits per anchor, D detections, H and W of a picture, h and w of the network's input.
Pictures are RGB; boxes are xyxy pixels.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import NoReturn, Protocol, Self, cast

import torch
from torch import Tensor, nn

from onestage.errors import ConfigError, check_number, counted, warn_outside
from onestage.images import Channels, Picture, decode_image, to_tensor
from onestage.model.config import DetectorConfig
from onestage.model.decoder import Decoder
from onestage.model.detector import Detector, mirror
from onestage.model.output.postprocess import RawDetections, check_finite
from onestage.model.output.scores import Scores
from onestage.model.reached import reached
from onestage.predict.stream import stream
from onestage.structures import Detections, HeadOutput, ImageMeta, Size

MOST_PIXELS = 25_000_000
"""Larger pictures are resized on the CPU: there a GPU would need more than 300 MB for one of them."""
EngineOutput = HeadOutput | list[RawDetections]
"""What an engine gives: the output of the network, or the detections in input pixels, if NMS is part of the engine."""


class Engine(Protocol):
    """Run a network with any program: torch, an inference runtime, or a file that contains NMS."""

    @property
    def device(self) -> torch.device:
        """The device on which it needs the images."""
        ...

    def __call__(self, images: Tensor, frames: Tensor) -> EngineOutput:
        """images (B, 3, h, w), resized, RGB in 0..255, uint8 or float; frames (B, 4), xyxy input pixels where each picture lies
        (the rest is padding) -> logits (B, A, C) and deltas (B, A, 4), or the detections of each image.

        It is called by several threads at once. Raise ConfigError if the network cannot take images of that size.
        """
        ...


class TorchEngine:
    """Run a detector's network with torch, in evaluation mode. The detector itself is only read."""

    def __init__(self, detector: Detector) -> None:
        self.detector = detector
        self._network = in_evaluation_mode(detector)
        self._type = next(detector.parameters()).dtype  # a model in half precision takes images in this type

    @property
    def device(self) -> torch.device:
        """Where the detector is."""
        return self.detector.device

    def __call__(self, images: Tensor, frames: Tensor) -> HeadOutput:
        """(B, 3, h, w) in 0..255 -> logits (B, A, C) and deltas (B, A, 4). The network needs no frames."""
        normal = self.detector.config.preprocess.normalize(images)
        with torch.inference_mode(), type_of_weights(self.device):
            try:
                output: HeadOutput = self._network(normal.to(self._type))
            except (RuntimeError, AssertionError):
                self.detector.level_sizes((images.shape[2], images.shape[3]))  # raises if the size is the reason
                raise
        if self._type == torch.bfloat16:  # losses and scores need more bits
            output = output._replace(logits=output.logits.float(), deltas=output.deltas.float())
        return output


def type_of_weights(device: torch.device) -> AbstractContextManager[object]:
    """Inside, the network computes in the type of its weights, even if the caller has turned autocast on."""
    on = device.type != "meta" and torch.is_autocast_enabled(device.type)
    return torch.autocast(device.type, enabled=False) if on else nullcontext()


def not_a_detector(given: object) -> ConfigError:
    """The error for what should be exported and is no detector, such as the predictor of a file that is exported already."""
    what = (
        "this runs an exported file, which cannot be exported again" if isinstance(given, Predictor) else "this is no detector"
    )
    fix = 'model = onestage.load("runs/first"), the run folder or the file of the model'
    got = repr(str(given)) if isinstance(given, str | Path) else f"a {type(given).__name__}"
    return ConfigError(what, got=got, expected="a Detector", fix=fix)


class Looker(Protocol):
    """What looks at pictures and says what is there: a Predictor, or what makes a few looks into one, such as tiles.

    Pipelines, films and measuring need no more of a model than this.
    """

    def __repr__(self) -> str:
        """Short: models and configs have many fields."""
        return f"{type(self).__name__}({self.name!r})"

    @property
    def name(self) -> str:
        """How it looks, for the header of a report: the name of its model, and what is done beyond the plain call."""
        ...

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the K classes; label k stands for ``classes[k]``."""
        ...

    @property
    def category_ids(self) -> tuple[int, ...]:
        """The data set's id of each class, (K,)."""
        ...

    @property
    def scores(self) -> Scores | None:
        """What was measured about its scores, and what ``predict`` applies; None if there is nothing."""
        ...

    @property
    def threshold(self) -> float:
        """The least score that ``detect`` reports by default."""
        ...

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        ...

    def detect(self, pictures: Sequence[Tensor], *, score: float | None = None) -> list[Detections]:
        """The detections of B pictures, each (3, H, W) uint8 RGB, before ``scores`` are applied.

        score: the least one to report; by default the threshold of the config.
        """
        ...

    def passes(self, size: Size) -> int:
        """How many pictures go through a network for one picture of that (height, width): what a look costs."""
        return 1

    def predict(
        self,
        images: Picture | Sequence[Picture],
        *,
        score: float | None = None,
        batch_size: int = 8,
        channels: Channels = "rgb",
    ) -> list[Detections]:
        """One Detections per picture, in order; for the arguments see ``Detector.predict``."""
        check_number("batch_size", batch_size, least=1, whole=True)
        least = score
        if self.scores is not None and score is not None:
            check_number("score", score, least=0)
            least = self.scores.before(score)
        several: Sequence[Picture] = images if isinstance(images, list | tuple) else [cast(Picture, images)]
        found: list[Detections] = []
        for start in range(0, len(several), batch_size):
            part = several[start : start + batch_size]
            pictures = [_pixels(image, channels) for image in part]
            detections = self.detect(pictures, score=least)
            if self.scores is not None:
                detections = [self.scores.reported(one, score) for one in detections]
            found += [_with_source(d, i, p) for d, i, p in zip(detections, part, pictures, strict=True)]
        return found

    def stream(
        self,
        frames: Iterable[Picture],
        *,
        score: float | None = None,
        batch_size: int = 8,
        channels: Channels = "rgb",
    ) -> Iterator[Detections]:
        """The detections of pictures that come one after the other, in order; for the arguments see ``Detector.stream``."""
        return stream(self.predict, frames, score=score, batch_size=batch_size, channels=channels)

    def believed(self, found: Detections) -> Detections:
        """The same detections with calibrated scores, if the file of the model holds a calibration."""
        return found if self.scores is None else self.scores.calibrated(found)


@dataclass(frozen=True, eq=False, repr=False)
class Predictor(Looker):
    """Detect objects in pictures with any engine. The decoder says how pictures are resized and what the output means.

    scores: what was measured about the scores, if the file of the model holds it. ``predict`` applies all of it, a measurement
    its calibration alone (``believed``). ``detect`` and ``decode`` give the scores of the network.
    """

    engine: Engine
    decoder: Decoder
    scores: Scores | None = None

    def __post_init__(self) -> None:
        """Raise ConfigError if the scores are about another number of classes."""
        if self.scores is not None:
            self.scores.check(len(self.classes))

    def __repr__(self) -> str:
        """Short: the model, its classes and what runs it."""
        runtime = getattr(self.engine, "runtime", "torch" if isinstance(self.engine, TorchEngine) else repr(self.engine))
        return f"{type(self).__name__}({self.name!r}, {counted(len(self.classes), 'class')}, {runtime})"

    @classmethod
    def of(cls, detector: Detector) -> Self:
        """The predictor that runs a detector with torch, as it is now: make another one after its mode or config changed."""
        return cls(TorchEngine(detector), detector.decoder, detector.scores)

    @classmethod
    def folded(cls, detector: Detector, *, bf16: bool = False) -> Self:
        """As ``of``, for many pictures and weights that stay: torch runs a copy of the network, with batch norms folded into
        convolutions and filters transformed once. It is faster, needs more memory, and changes scores by about 1e-5. Only a
        detector in float32 on a CPU, without hooks, has something to fold; any other runs as it is.

        bf16: compute in bfloat16, whose numbers have 8 bits of precision. Raise ConfigError if the device does not.
        """
        from onestage.predict.folded import folded  # timm takes a while to import

        return cls.of(folded(cast(Detector, in_evaluation_mode(detector)), bf16=bf16))

    def export(self, *_: object, **__: object) -> NoReturn:
        """Raise ConfigError: a predictor has no network that could be exported. It is there for those who call it."""
        raise not_a_detector(self)

    @property
    def config(self) -> DetectorConfig:
        """The config of the detector that the engine runs."""
        return self.decoder.config

    @property
    def name(self) -> str:
        """The name of the recipe that the model comes from."""
        return self.config.name

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the K classes; label k stands for ``classes[k]``."""
        return self.config.classes

    @property
    def category_ids(self) -> tuple[int, ...]:
        """The data set's id of each class, (K,)."""
        return self.config.category_ids

    @property
    def threshold(self) -> float:
        """The score threshold of the config."""
        return self.config.postprocess.score_threshold

    @property
    def device(self) -> torch.device:
        """Where the engine computes."""
        return self.engine.device

    def detect(self, pictures: Sequence[Tensor], *, score: float | None = None) -> list[Detections]:
        """The detections of B pictures, each (3, H, W) uint8 RGB, that go through the network together.

        They are resized where the engine computes: a GPU does so in a hundredth of the time. With antialiasing its pixels
        differ by at most one grey level from those of a CPU, without it not at all.
        """
        small = all(picture.shape[1] * picture.shape[2] <= MOST_PIXELS for picture in pictures)
        moved = [picture.to(self.device, non_blocking=True) for picture in pictures] if small else pictures
        images, metas = self.decoder.config.preprocess.batch(moved)
        return self.decode(self.run(images, metas), metas, score=score)

    def run(self, images: Tensor, metas: Sequence[ImageMeta]) -> EngineOutput:
        """Put B resized images (B, 3, h, w) in 0..255 through the engine."""
        frames = torch.stack([meta.frame for meta in metas])
        output = self.engine(images.to(self.engine.device, non_blocking=True), frames)
        if isinstance(output, HeadOutput):
            if not isinstance(self.engine, TorchEngine):  # whose network and decoder come from one config
                _check_output(output, images, self.decoder)
            check_finite(output.deltas)
        else:
            _check_detections(output, images=len(metas), classes=len(self.decoder.config.classes))
        return output

    def decode(self, output: EngineOutput, metas: Sequence[ImageMeta], *, score: float | None = None) -> list[Detections]:
        """One Detections per image, in pixels of the original pictures.

        ``score``: the least score to report, by default the threshold of the config. An engine with NMS inside cannot report
        less than the threshold that it was made with. Warn if it is asked to.
        """
        if score is not None:
            check_number("score", score, least=0)
        if isinstance(output, HeadOutput):
            return self.decoder.decode(output, metas, score=score)
        threshold = self.config.postprocess.score_threshold
        if score is not None and score < threshold:
            runtime = getattr(self.engine, "runtime", "an engine with NMS inside")
            warn_outside([f"{runtime} finds nothing below a score of {threshold:g}; torch does"])
        least = threshold if score is None else score
        found = [self.decoder.name(raw, meta) for raw, meta in zip(output, metas, strict=True)]
        return [one.select(one.scores > least) for one in found]


@dataclass(frozen=True, eq=False, repr=False)
class Through(Looker):
    """A looker that shows another one its pictures in some other way. Their classes and scores are the same."""

    looker: Looker

    @property
    def classes(self) -> tuple[str, ...]:
        """Those of the other looker."""
        return self.looker.classes

    @property
    def category_ids(self) -> tuple[int, ...]:
        """Those of the other looker."""
        return self.looker.category_ids

    @property
    def scores(self) -> Scores | None:
        """Those of the other looker."""
        return self.looker.scores

    @property
    def threshold(self) -> float:
        """That of the other looker."""
        return self.looker.threshold

    @property
    def device(self) -> torch.device:
        """Where the other looker computes."""
        return self.looker.device

    def passes(self, size: Size) -> int:
        """Those of the other looker."""
        return self.looker.passes(size)


def in_evaluation_mode(module: nn.Module) -> nn.Module:
    """The module itself if all of it is in evaluation mode, or else a mirror that is, with the same parameters and buffers.

    Neither a mode nor a tensor of the module changes, so other threads may use it at the same time. Raise ConfigError if its
    tensors have no numbers, or if a mirror would run a part of the original in training mode: because the forward of a part was
    replaced on the object (torch.compile(part) does so), or because a part reaches another one in a way that ``mirror`` does
    not follow, such as a partial function.
    """
    training, without_numbers = _state(module)
    if without_numbers:
        what, fix = "a model without numbers cannot predict", 'load it, or build it outside torch.device("meta")'
        raise ConfigError(what, got="tensors on the meta device", fix=fix)
    if not training:
        return module
    replaced = [name or "the model" for name, part in module.named_modules() if "forward" in vars(part)]
    if replaced:
        what = "a model in training mode whose forward was replaced cannot predict"
        raise ConfigError(what, where=", ".join(replaced[:3]), fix="call model.eval() first")
    copy = mirror(module)
    original = next((part for part in reached(copy) if part.training), None)
    if original is not None:
        names = {part: name for name, part in module.named_modules()}
        what = "a model in training mode cannot predict if a function or an object holds one of its parts"
        raise ConfigError(what, where=names.get(original) or type(original).__name__, fix="call model.eval() first")
    return copy


def _state(module: nn.Module) -> tuple[bool, bool]:
    """Whether a part is in training mode, and whether a parameter or buffer has no numbers.

    Every predict() asks this of hundreds of parts: a loop takes less time than torch's ``named_modules`` alone.
    """
    training = without_numbers = False
    todo, seen = [module], {module}
    while todo:
        part = todo.pop()
        training |= part.training
        for tensors in (part._parameters, part._buffers):
            for tensor in tensors.values():
                without_numbers |= tensor is not None and tensor.is_meta
        for child in part._modules.values():
            if child is not None and child not in seen:
                seen.add(child)
                todo.append(child)
    return training, without_numbers


def _check_output(output: HeadOutput, images: Tensor, decoder: Decoder) -> None:
    """Raise ConfigError unless the output of an engine for B images, (B, 3, h, w), is that of the detector that the decoder is
    for: logits (B, A, C) and deltas (B, A, 4) for every anchor.
    """
    count, (height, width) = len(images), images.shape[2:]
    levels, classes = decoder.anchors.levels, decoder.config.logits
    if tuple(output.input_size) != (height, width) or len(output.level_sizes) != len(levels):
        got = f"{len(output.level_sizes)} maps of an input of {tuple(output.input_size)}"
        expected = f"{len(levels)} maps of an input of {(height, width)} (height, width)"
        raise ConfigError("the engine gave the output of another network or input", got=got, expected=expected)
    anchors = sum(decoder.anchors.counts(output.level_sizes))
    shapes, wanted = [tuple(part.shape) for part in output[:2]], [(count, anchors, classes), (count, anchors, 4)]
    if shapes != wanted:
        what, expected = "the engine gave the output of another network", f"logits {wanted[0]} and deltas {wanted[1]}"
        raise ConfigError(what, got=f"logits {shapes[0]} and deltas {shapes[1]}", expected=expected)


def _check_detections(found: list[RawDetections], *, images: int, classes: int) -> None:
    """Raise ConfigError unless an engine gave detections for each image: boxes (D, 4), scores (D,), labels (D,) in 0..K-1, all
    finite, best first.
    """
    if not isinstance(found, list | tuple) or not all(isinstance(raw, tuple) and len(raw) == 3 for raw in found):
        expected = "a HeadOutput, or a list of RawDetections"
        raise ConfigError("the engine gave no detections", got=f"{type(found).__name__} {found!r:.100}", expected=expected)
    if len(found) != images:
        raise ConfigError("the engine did not give detections for each image", got=len(found), expected=images)
    for boxes, scores, labels in found:
        shapes = tuple(boxes.shape), tuple(scores.shape), tuple(labels.shape)
        count = len(scores)
        if shapes != ((count, 4), (count,), (count,)) or labels.is_floating_point():
            raise ConfigError(
                "the engine gave no detections", got=shapes, expected="boxes (D, 4), scores (D,), labels (D,) int"
            )
        if not bool(boxes.isfinite().all() and scores.isfinite().all()):
            raise ConfigError("the engine gave boxes or scores that are not numbers", got="NaN or infinity", expected="numbers")
        if bool(((labels < 0) | (labels >= classes)).any()):
            raise ConfigError("the engine gave a label of no class", got=labels.tolist(), expected=f"0 to {classes - 1}")
        if bool((scores.diff() > 0).any()):
            raise ConfigError(
                "the engine did not give the best detections first", got=scores.tolist(), expected="falling scores"
            )


def _pixels(image: Picture, channels: Channels) -> Tensor:
    """(3, H, W) uint8 RGB. Only arrays and tensors can have another order of colours; to_tensor refuses it for all others."""
    if isinstance(image, str | Path) and channels == "rgb":
        return decode_image(image)
    return to_tensor(image, channels=channels)


def _with_source(detections: Detections, image: Picture, picture: Tensor) -> Detections:
    """The detections with a way back to their picture. A path is read again, so a long list of results holds no pictures."""
    if isinstance(image, str | Path):
        return replace(detections, source=partial(decode_image, image), path=str(image), image_id=Path(image).name)
    return replace(detections, source=partial(_same, picture))


def _same(picture: Tensor) -> Tensor:
    """The picture (3, H, W). A function with a name, unlike a lambda, travels between processes."""
    return picture
