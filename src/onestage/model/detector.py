"""The one detector: backbone -> neck -> head, what gives their numbers a meaning, and how large their maps are.

Shape letters: B images, L levels, C_l channels and H_l x W_l cells of level l, A anchors, C logits per anchor, N objects of one
image. Pictures are RGB, boxes xyxy pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from threading import get_ident
from typing import TYPE_CHECKING, Literal, Self, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten, tree_unflatten

from onestage.errors import ConfigError, known_keywords
from onestage.model.anchors.levels import Anchors
from onestage.model.anchors.max_iou import Assignment, assign
from onestage.model.codec import Part, unusual
from onestage.model.config import DetectorConfig
from onestage.model.decoder import Decoder
from onestage.model.features import Backbone, Features
from onestage.model.heads.per_level import HeadModule
from onestage.model.layers.convolution import mend_strided
from onestage.model.limits import ANCHORS, PARAMETERS
from onestage.model.output.scores import Scores
from onestage.structures import Detections, HeadOutput, ImageMeta, Size, Targets, check_labels

if TYPE_CHECKING:
    from onestage.images import Channels, Picture

T = TypeVar("T")

_SHARED = frozenset(vars(nn.Module()))  # what every module has, such as hooks
_KEPT_SIZES = 32  # for so many input sizes the sizes of the maps are kept


class Detector(nn.Module):
    """A one-stage, anchor-based detector. The config says which parts it has; no code asks for its family.

    ``forward`` is a pure graph that trains, compiles and exports. ``loss`` and ``decode`` give its output a meaning.
    ``predict`` does everything, from pictures to named boxes.
    """

    def __init__(self, config: DetectorConfig) -> None:
        """Raise ConfigError if the parts do not fit each other. Weights are drawn from torch's global random numbers."""
        super().__init__()
        self.config = config = resolve_anchors(config)
        self.scores: Scores | None = None  # what was measured about the weights in a file
        with _bounded(config.name):
            if unusual(config, DetectorConfig):  # count the weights before they take memory
                with torch.device("meta"):
                    self._build(config)
        with _bounded(config.name):
            self._build(config)
        mend_strided(self).to(memory_format=torch.channels_last)
        self._anchors = Anchors(config.levels)
        self._level_sizes: dict[Size, tuple[Size, ...]] = {}
        self._check_places()

    @classmethod
    def on(cls, device: Literal["cpu", "meta"], config: DetectorConfig) -> Self:
        """The detector in float32 on a device, whatever type and device are torch's defaults. "meta": without numbers."""
        with _usual_numbers(device):
            return cls(config)

    def _build(self, config: DetectorConfig) -> None:
        """Backbone, neck and head with fresh weights."""
        self.backbone = config.backbone.build()
        self.neck = config.neck.build(self.backbone.channels) if config.neck else None
        channels = self.neck.channels if self.neck is not None else self.backbone.channels
        if len(channels) != len(config.levels):
            giver = "backbone" if self.neck is None else "neck"
            what = f"the {giver} gives {len(channels)} levels, the anchors describe {len(config.levels)}"
            fix = "give one AnchorLevel per level, or anchors=OctaveAnchors, which suits any maps"
            raise ConfigError(what, where=config.name, fix=fix)
        shapes = tuple(len(level.shapes) for level in config.levels)
        self.head: HeadModule = config.head.build(channels, shapes, config.logits)

    def _check_places(self) -> None:
        """Raise ConfigError for an input size that the network cannot take, too many anchors, or some beside the cells."""
        size = self.config.preprocess.largest
        self._level_sizes = {size: self._behind_neck(_checked_maps(self.backbone, size, where=self.config.backbone), size)}
        ANCHORS.check(sum(self.level_counts(size)), self.config.name)
        for number, (level, cells) in enumerate(zip(self.config.levels, self.level_sizes(size), strict=True)):
            steps = level.steps(cells, size)
            if not level.inside and any(abs(n * s - side) >= s for side, n, s in zip(size, cells, steps, strict=True)):
                even = tuple(round(side / n, 1) for side, n in zip(size, cells, strict=True))
                what = f"the anchors of level {number} stand {steps} pixels apart, but the cells of its map {even}"
                fix = "set the size through the recipe (size=): it adapts the anchors; or take anchors=OctaveAnchors"
                where = f"{self.config.name}, map of {cells[0]}x{cells[1]} cells over {size[0]}x{size[1]} pixels"
                raise ConfigError(what, where=where, got=f"stride {steps}", expected=f"about {even}", fix=fix)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the K classes; label k stands for ``classes[k]``."""
        return self.config.classes

    @property
    def decoder(self) -> Decoder:
        """The decoder, which turns the output of ``forward`` into detections."""
        return Decoder(self.config, self._anchors)

    @property
    def criterion(self) -> Criterion:
        """The criterion, which turns the output of ``forward`` and the labelled objects into losses."""
        return Criterion(self.config, self._anchors)

    def forward(self, images: Tensor) -> HeadOutput:
        """(B, 3, H, W) normalised float images, as ``prepare`` gives them -> logits (B, A, C) and deltas (B, A, 4)."""
        if not images.is_floating_point():
            raise ConfigError("the network takes normalised float images", got=images.dtype, fix="use model.prepare(images)")
        maps = self.backbone(images)
        maps = self.neck(maps) if self.neck is not None else maps
        logits, deltas = self.head(maps)
        return HeadOutput(logits, deltas, sizes_of(maps), (images.shape[2], images.shape[3]))

    def prepare(self, images: Sequence[Tensor]) -> tuple[Tensor, tuple[ImageMeta, ...]]:
        """B pictures (3, H, W) uint8 of any size -> (B, 3, h, w) for ``forward`` on the model's device, and how to undo it."""
        return self.config.preprocess(images, device=self.device)

    def level_sizes(self, input_size: Size) -> tuple[Size, ...]:
        """(height, width) of every map for an input of that size, before any image has been processed.

        The first call for a size costs a dry run on the meta device. Raise ConfigError if the network cannot take it.
        """
        kept = self._level_sizes
        if input_size not in kept:
            maps = _blank_maps(self.backbone, input_size, where=self.config.backbone)
            kept = {**(kept if len(kept) < _KEPT_SIZES else {}), input_size: self._behind_neck(maps, input_size)}
            self._level_sizes = kept  # a new dict: another thread may be copying the old one
        return kept[input_size]

    def _behind_neck(self, maps: list[Tensor], input_size: Size) -> tuple[Size, ...]:
        """(height, width) of every map that the head gets. maps: of the backbone, (1, C_l, H_l, W_l), without numbers."""
        return sizes_of(maps if self.neck is None else dry_run(self.neck, maps, input_size, where=self.config.name))

    def anchors(self, input_size: Size) -> Tensor:
        """(A, 4) xyxy pixels of an input of that (height, width), on the model's device; cached, never part of the weights."""
        return self._anchors.boxes(self.level_sizes(input_size), input_size, self.device)

    def level_counts(self, input_size: Size) -> tuple[int, ...]:
        """The number of these anchors on each map, fine to coarse."""
        return self._anchors.counts(self.level_sizes(input_size))

    def assign(self, targets: Sequence[Targets], input_size: Size) -> Assignment:
        """Which anchor learns which object of B images; see ``Criterion.assign``. Targets are on the model's device."""
        return self.criterion.assign(targets, self.level_sizes(input_size), input_size, device=self.device)

    def loss(
        self, output: HeadOutput, targets: Sequence[Targets] | Assignment, *, normalizer: Tensor | None = None
    ) -> dict[str, Tensor]:
        """{"cls": (), "box": ()}: training minimises the sum. For the arguments see ``Criterion.loss``."""
        return self.criterion.loss(self._sized(output), targets, normalizer=normalizer)

    def decode(self, output: HeadOutput, metas: Sequence[ImageMeta], *, score: float | None = None) -> list[Detections]:
        """One Detections per image, in pixels of the original pictures. ``score`` replaces the config's score threshold.

        output: logits (B, A, C) and deltas (B, A, 4).
        """
        return self.decoder.decode(self._sized(output), metas, score=score)

    def _sized(self, output: HeadOutput) -> HeadOutput:
        """The output with its map sizes. An output that was made by hand may lack them."""
        return output if output.level_sizes else output._replace(level_sizes=self.level_sizes(output.input_size))

    @known_keywords
    def predict(
        self,
        images: Picture | Sequence[Picture],
        *,
        score: float | None = None,
        batch_size: int = 8,
        channels: Channels = "rgb",
    ) -> list[Detections]:
        """Detect objects in one picture or a list of them; always a list, one Detections per picture.

        A picture is a path, a PIL image, an array (H, W, 3) or (H, W), or a tensor (3, H, W); 0..255 in uint8. Arrays and
        tensors are RGB; ``channels="bgr"`` takes frames of OpenCV. ``score``: the least score to report. By default
        the thresholds that the file of the model holds decide, and without them that of the config.

        predict() gives the results of evaluation mode, whatever the mode of the model. It only reads the model, so threads
        may share one, unless one of them changes its weights or its mode. It computes in the type of the weights: autocast and
        torch's default type and device change nothing.

        Raise DataError for a picture that cannot be read, ConfigError for a size that the network cannot take.
        """
        from onestage.predict.predictor import Predictor

        return Predictor.of(self).predict(images, score=score, batch_size=batch_size, channels=channels)

    @known_keywords
    def stream(
        self, frames: Iterable[Picture], *, score: float | None = None, batch_size: int = 8, channels: Channels = "rgb"
    ) -> Iterator[Detections]:
        """The detections of pictures that come one after the other, such as frames of a film: one for each, in order.

        frames: any iterable of what ``predict`` takes. A thread asks it for them, at most two batches ahead, and copies them.
        For a camera, ``batch_size=1`` gives each result as soon as possible. An error of the iterable is raised after the
        detections before it. The thread ends with the last picture, or as soon as the iterator is closed or dropped.
        """
        from onestage.predict.predictor import Predictor

        return Predictor.of(self).stream(frames, score=score, batch_size=batch_size, channels=channels)

    @known_keywords
    def save(self, path: str | Path) -> None:
        """Write weights, config, class names and ids to one safetensors file, atomically."""
        from onestage.weights.detector_file import save_detector

        save_detector(self, path)

    @partial(known_keywords, other="if it is a setting of the file: config=onestage.ExportConfig({}=...)")
    def export(self, path: str | Path, *, to: str = "onnx", config: Part | None = None) -> Path:
        """Write the detector to a file that other programs run. Return its path.

        to: "onnx", "openvino", "torch", "ncnn" or "litert". config: an ExportConfig. The file appears only after it found what
        the detector finds. For more options see ``onestage.export``.
        """
        from onestage.deploy.export import USUAL, checked_config, export

        return export(self, path, to=to, config=USUAL if config is None else checked_config(config)).path


@dataclass(frozen=True, eq=False)
class Criterion:
    """The training targets and the losses of a detector: anchors, assigner, coder and loss come from the config alone.

    config: of a built detector, so its anchors are listed level by level.
    """

    config: DetectorConfig
    anchors: Anchors

    def assign(
        self, targets: Sequence[Targets], level_sizes: Sequence[Size], input_size: Size, *, device: torch.device
    ) -> Assignment:
        """Which anchor learns which object of B images. targets: in input pixels, on the device.

        level_sizes: (height, width) of each of the L maps. Raise DataError for a label outside 0..K-1, unless it is on a GPU.
        """
        for number, target in enumerate(targets):
            if target.labels.device.type == "cpu":
                check_labels(target.labels, len(self.config.classes), where=f"targets[{number}]")
        anchors = self.anchors.boxes(level_sizes, input_size, device)
        return assign(self.config.assigner, anchors, targets, levels=self.anchors.counts(level_sizes))

    def loss(
        self, output: HeadOutput, targets: Sequence[Targets] | Assignment, *, normalizer: Tensor | None = None
    ) -> dict[str, Tensor]:
        """{"cls": (), "box": ()}: training minimises the sum.

        targets: one per image, in input pixels, or their assignment. ``normalizer``: the divisor () of a larger batch that
        these images are part of (several processes, accumulated steps); by default the divisor of these images.
        Raise ConfigError if the assignment was made for maps of other sizes than the output has.
        """
        if not isinstance(targets, Assignment):
            targets = self.assign(targets, output.level_sizes, output.input_size, device=output.deltas.device)
        anchors = self.anchors.boxes(output.level_sizes, output.input_size, output.deltas.device)
        same = targets.anchors is anchors or targets.anchors.equal(anchors)  # they are kept, so mostly it is the same tensor
        if not same or targets.matches.shape != output.deltas.shape[:2]:
            what = "the assignment was made for other images than the output of the network"
            got, expected = (f"{len(m)} images, {m.shape[1]} anchors" for m in (targets.matches, output.deltas))
            raise ConfigError(what, got=got, expected=expected, fix="assign the targets for the size of these images")
        return self.config.loss(output, targets, self.config.coder, normalizer=normalizer)


@contextmanager
def _usual_numbers(device: str) -> Iterator[None]:
    """New tensors inside this block are float32 and on the device. While it lasts, float32 is the default of all threads."""
    dtype = torch.get_default_dtype()
    if dtype != torch.float32:
        torch.set_default_dtype(torch.float32)
    try:
        with torch.device(device):
            yield
    finally:
        if dtype != torch.float32:
            torch.set_default_dtype(dtype)


@contextmanager
def _bounded(where: str) -> Iterator[None]:
    """Build a network inside this block, for a config with that name. Raise ConfigError as soon as it has too many weights."""
    thread, total = get_ident(), 0

    def count(_module: nn.Module, _name: str, parameter: Tensor) -> None:
        nonlocal total
        if get_ident() == thread:  # another thread may build another network
            total += parameter.numel()
            PARAMETERS.check(total, where)

    hook = register_module_parameter_registration_hook(count)
    try:
        with ShapesAlone():
            yield
    except RuntimeError as e:  # a single tensor that is larger than the memory
        what, fix = "the network cannot be built", "fewer channels, or layers"
        raise ConfigError(what, where=where, got=str(e).splitlines()[0], fix=fix) from e
    finally:
        hook.remove()


def resolve_anchors(config: DetectorConfig) -> DetectorConfig:
    """The config with a rule for anchors replaced by the levels that follow from the maps of its input size."""
    if isinstance(config.anchors, tuple):
        return config
    size = config.preprocess.largest
    with _bounded(config.name), torch.device("meta"):
        body = config.backbone.build()
        neck = config.neck.build(body.channels) if config.neck else None
    maps = _checked_maps(body, size, where=config.backbone)
    maps = dry_run(neck, maps, size, where=config.name) if neck is not None else maps
    return replace(config, anchors=config.anchors.levels(sizes_of(maps), size))


def sizes_of(maps: Sequence[Tensor]) -> tuple[Size, ...]:
    """(height, width) of each of the feature maps (B, C_l, H_l, W_l)."""
    return tuple((m.shape[2], m.shape[3]) for m in maps)


class ShapesAlone(TorchFunctionMode):
    """Inside this block, tensors without numbers are not initialised, nor normalised by given averages where no gradient is
    wanted: neither changes a shape. Tensors with numbers are treated as usual, and so are those that torch would refuse.

    torch does both in Python on its meta device, which took most of the time of building and running a network there.
    """

    _FILL = frozenset({f for name, f in vars(nn.init).items() if name.endswith("_") and callable(f)})
    _FILL |= {Tensor.normal_, Tensor.uniform_}

    def __torch_function__(
        self, func: Callable[..., T], types: Sequence[type], args: Sequence[T] = (), kwargs: Mapping[str, object] | None = None
    ) -> T:
        """What ``func`` of torch returns: here its first argument, if it only fills or normalises that."""
        options = kwargs or {}
        if func in self._FILL or (func is F.batch_norm and not torch.is_grad_enabled() and _only_scales(args, options)):
            first = args[0] if args else None
            if isinstance(first, Tensor) and first.is_meta:
                return args[0]
        return func(*args, **options)


def _only_scales(args: Sequence[object], options: Mapping[str, object]) -> bool:
    """Whether ``F.batch_norm``, called so, only scales and shifts maps (B, C, ...), by numbers that are all (C,)."""
    maps, *numbers = (value for value in (*args, *options.values()) if isinstance(value, Tensor))
    return not options.get("training") and all(values.shape == maps.shape[1:2] for values in numbers)


@lru_cache(maxsize=256)  # the recipes of a family ask for the same ones again and again
def map_sizes(backbone: Backbone, size: Size) -> tuple[Size, ...]:
    """(height, width) of each map of the backbone for an input of that size; nothing is computed (torch's meta device).

    Raise ConfigError if the backbone cannot take such an input, or if its maps do not have the strides that it promises.
    """
    with ShapesAlone(), torch.device("meta"):
        features = backbone.build()
    return sizes_of(_checked_maps(features, size, where=backbone))


def _checked_maps(features: Features, size: Size, *, where: object) -> list[Tensor]:
    """The maps (1, C_l, H_l, W_l) of a built backbone, without numbers. Raise ConfigError as ``map_sizes`` does.

    Convolutions without padding (Inception) give fewer cells than promised: anchors would not be centred on what these see.
    """
    maps = _blank_maps(features, size, where=where)
    if len(features.strides) not in (0, len(maps)):
        what, fix = "the backbone has other maps than it promises", f"promise {len(maps)} strides, one per map, or none"
        raise ConfigError(what, where=where, got=features.strides, fix=fix)
    for stride, cells in zip(features.strides, sizes_of(maps), strict=False):
        if not all(side // stride <= count <= -(-side // stride) for side, count in zip(size, cells, strict=True)):
            expected = tuple(-(-side // stride) for side in size)
            what = f"the backbone's map of stride {stride} does not cover an input of {size}: it is not padded"
            raise ConfigError(what, where=where, got=cells, expected=expected, fix="take another backbone")
    return maps


def _blank_maps(features: Features, size: Size, *, where: object) -> list[Tensor]:
    """The maps (1, C_l, H_l, W_l) of a built backbone for an input of that size, without numbers and without a check."""
    kind = next((p.dtype for p in features.parameters() if p.is_floating_point()), torch.float32)
    return dry_run(features, torch.empty(1, 3, *size, dtype=kind, device="meta"), size, where=where)


@torch.no_grad()
def dry_run(module: nn.Module, inputs: Tensor | list[Tensor], size: Size, *, where: object) -> list[Tensor]:
    """The maps that a module gives, as shapes without numbers: tensors on torch's meta device.

    inputs: one image (1, 3, H, W), or maps (1, C_l, H_l, W_l), on the meta device. size: (height, width) of the image. The
    module stays as it is: a copy without numbers runs. Raise ConfigError with ``where`` if it cannot take them.
    """
    made: dict[int, Tensor] = {}  # a tensor that several modules share stays one
    shapes = mirror(module, lambda tensor: made.setdefault(id(tensor), _without_numbers(tensor)))
    try:
        with ShapesAlone():
            maps: list[Tensor] = shapes(inputs)
    except (RuntimeError, AssertionError) as e:
        what = f"the network cannot take inputs of {size[0]}x{size[1]} pixels"
        reason = str(e).splitlines()[0] if str(e) else type(e).__name__
        fix = "give another size, such as multiples of 32 pixels, or fewer levels"
        raise ConfigError(what, where=where, got=reason, fix=fix) from e
    return maps


def mirror(
    module: nn.Module, tensor: Callable[[Tensor], Tensor] = lambda t: t, *, instead: Mapping[nn.Module, nn.Module] | None = None
) -> nn.Module:
    """A copy of a tree of modules in evaluation mode, which shares everything but the modules themselves: parameters, buffers,
    hooks, other attributes. The module stays as it is. The copy is not compiled: what was compiled runs the original.
    Modules are also found in attributes, and in lists, tuples and dicts there.

    tensor: gives what stands in the place of each parameter, buffer and other tensor. instead: modules to put for others.
    """
    copies = dict(instead or {})  # a module may stand at several places

    def replaced(value: object) -> object:
        if isinstance(value, Tensor | nn.Module):
            return tensor(value) if isinstance(value, Tensor) else copied(value)
        if isinstance(value, list | tuple | dict):
            leaves, form = tree_flatten(value)
            made = [leaf if leaf is value else replaced(leaf) for leaf in leaves]  # it is its leaf if torch does not know it
            return value if all(a is b for a, b in zip(leaves, made, strict=True)) else tree_unflatten(made, form)
        return value

    def copied(part: nn.Module) -> nn.Module:
        if part not in copies:
            made = copies[part] = type(part).__new__(type(part))
            values = {name: value if name in _SHARED else replaced(value) for name, value in vars(part).items()}
            tables = {t: {n: replaced(v) for n, v in vars(part)[t].items()} for t in ("_parameters", "_buffers", "_modules")}
            vars(made).update(values | tables | {"training": False, "_compiled_call_impl": None})
        return copies[part]

    return copied(module)


def _without_numbers(tensor: Tensor) -> Tensor:
    shape = tensor.detach().to("meta")
    return nn.Parameter(shape, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else shape
