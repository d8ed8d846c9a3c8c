"""Weights of a whole detector into a detector of a config, which may differ in its parts, classes and default boxes.

Shape letters: S anchor shapes per cell of a level, C logits per anchor, K classes.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from onestage.errors import WeightsError, counted, first_ten
from onestage.model.anchors.levels import AnchorLevel
from onestage.model.config import DetectorConfig
from onestage.model.detector import Detector
from onestage.model.heads.per_level import ConvHead
from onestage.weights.source import ADAPTERS, OURS, Source, adapting
from onestage.weights.tensor_file import COUNTER, check_types, differing, is_numbered, shapes_of, without_memory
from onestage.zoo.table import recipe, recipe_of

Unit = tuple[float, float]
"""(height, width) in pixels of the unit of anchor shapes: the input, or the strides of a level."""
T = TypeVar("T")

PARTS = ("backbone", "neck", "head", "coder", "assigner", "loss", "postprocess")
"""Fields of a config that the weights of a file may change. Anchors are not among them: they also depend on the size."""
TRAINING_ONLY = ("drop_path",)
"""Settings that no weights need. Old files lack them, and their detectors are trained with the values of the recipe."""


@dataclass(frozen=True)
class Loaded:
    """A detector with weights. notes: what the user should know about them, a line of text each."""

    detector: Detector
    notes: tuple[str, ...] = ()


def load_weights(config: DetectorConfig, source: Source) -> Loaded:
    """A detector of this config with these weights.

    The pixel normalisation of the weights replaces that of the config. If the file holds a detector with the name of the
    config, the settings that the file changed in its recipe replace those of the config, unless the config changes them too.
    Outputs for other classes or other default boxes keep fresh values, and a note names them, and any tensor of our files that
    does not fit. Classes of the file that have the same name keep their outputs, though the others are fresh.

    Raise WeightsError if the weights belong to another network. In a foreign file, one tensor that does not fit is enough.
    """
    foreign, source = source.origin != OURS, source.settled(len(config.classes))
    usual = recipe_of(config)
    every, stored = _in_our_terms(source, usual)
    if stored.name == config.name:
        config = with_parts_of(stored, config, stored_recipe=recipe_of(stored), recipe=usual)
    if foreign and is_numbered(stored) and len(stored.classes) == len(config.classes):
        # a file without names cannot contradict the given ones
        stored = replace(stored, classes=config.classes, category_ids=config.category_ids)
    config = with_input_of(stored, config)
    if foreign:
        with without_memory(source.path):
            detector = Detector.on("meta", config)
    else:
        detector = Detector.on("cpu", config)
    config = detector.config
    with adapting(source.origin, source.path):
        tensors = for_classes(every, stored, detector)
    if foreign:  # no memory is allocated before the tensors fit
        _check_exact(tensors, stored, detector, source)
        detector = Detector.on("cpu", config)
    fresh = load_fitting(detector, tensors, where=source.path)
    known = load_known_classes(detector, every, stored)
    if len(known) == len(config.classes):
        fresh = tuple(name for name in fresh if name not in outputs_of(detector))
    notes = [source.note, fresh_note(fresh, source.path, _other_classes(stored, config, known))]
    if not same_anchors(stored, config):
        what = "made for other default boxes, so its box offsets have another meaning until they are trained"
        notes.append(f"{source.path}: {what}")
    return Loaded(detector, tuple(filter(None, notes)))


def _in_our_terms(source: Source, usual: DetectorConfig) -> tuple[Mapping[str, Tensor], DetectorConfig]:
    """The tensors of a file under our names, and the config that these weights need for their classes.

    usual: the recipe of the wanted detector, for files that hold no config.
    """
    tensors, config = source.tensors, source.config
    if config is None:
        usual = replace(usual, classes=source.classes.names, category_ids=source.classes.ids)
        with adapting(source.origin, source.path):
            tensors, config = ADAPTERS[source.origin].convert(source.tensors, usual)
    if source.pixels is not None:
        config = config.replace(dict(zip(("preprocess.mean", "preprocess.std"), source.pixels, strict=True)))
    return tensors, config


def _check_exact(tensors: Mapping[str, Tensor], stored: DetectorConfig, wanted: Detector, source: Source) -> None:
    """Raise WeightsError if a foreign file's tensors are not those of the wanted detector, one by one.

    Tensors that need not fit are not compared, nor are the counters of batch norm.
    """
    expected, got = (
        {name: shape for name, shape in shapes_of(side).items() if not name.endswith(COUNTER)}
        for side in (wanted.state_dict(), tensors)
    )
    if expected == got:
        return
    free = _need_not_fit(stored, wanted, source)
    expected, got = ({name: shape for name, shape in side.items() if not name.startswith(free)} for side in (expected, got))
    wrong = differing(expected, got)
    if wrong:
        name = wanted.config.name
        fix = "leave backbone, neck, head and input size as the recipe has them"
        if source.model == "retinanet":
            fix = 'name its backbone: onestage.create("retinanet", backbone=NAME, weights=FILE)'
        elif source.model != name:
            fix = f"name the model the weights were made for: {source.model}"
        what = f"these weights are not those of {name}: tensors that do not fit, {len(wrong):,}"
        raise WeightsError(what, where=source.path, got="\n" + first_ten(wrong), fix=fix)


def _need_not_fit(stored: DetectorConfig, wanted: Detector, source: Source) -> tuple[str, ...]:
    """The beginnings of the names of tensors in a foreign file that need not fit: the outputs, for other classes or default
    boxes.

    If an SSD for other classes has another number of levels at this input size, the whole neck and head need not fit.
    """
    config = wanted.config
    free: tuple[str, ...] = ()
    if not same_counts(stored, config):
        free = outputs_of(wanted, boxes=True)
    if set(stored.classes) != set(config.classes):
        free += outputs_of(wanted)
        if isinstance(config.head, ConvHead) and _levels_in(source) != len(config.levels):
            free = ("neck.", "head.")
    return free


def _levels_in(source: Source) -> int:
    """How many levels the detector of a foreign file has: as its config says, or as its recipe has at its usual size."""
    config = source.config or recipe(source.model, source.classes.names)
    return len(config.levels)


def _other_classes(stored: DetectorConfig, config: DetectorConfig, known: Sequence[str]) -> str:
    """The end of a note that says why class outputs start fresh: the file's class names, if they are not those of the
    config. known: classes whose outputs are those of the file.
    """
    if set(stored.classes) == set(config.classes):
        return ""
    if known:
        more = f" and {len(known) - 10} more" if len(known) > 10 else ""
        return f", but not their rows for classes that the file knows by name: {', '.join(known[:10])}{more}"
    more = f" and {len(stored.classes) - 10} more" if len(stored.classes) > 10 else ""
    return f"; the file's classes are others: {', '.join(stored.classes[:10])}{more}"


def fresh_note(fresh: Collection[str], path: Path, why: str = "") -> str:
    """A line that names the modules of the tensors that start fresh; empty if there are none."""
    if not fresh:
        return ""
    modules = sorted({name.rsplit(".", 1)[0] for name in fresh})
    shown = ", ".join(modules[:6]) + (f" and {len(modules) - 6} more" if len(modules) > 6 else "")
    what = "does not fit and starts" if len(fresh) == 1 else "do not fit and start"
    return f"{path}: {counted(len(fresh), 'tensor')} {what} fresh: {shown}{why}"


def load_fitting(detector: Detector, tensors: Mapping[str, Tensor], *, where: object) -> tuple[str, ...]:
    """Load every tensor that has the name and shape of one of the detector's. Return the names of those that start fresh.

    A checkpoint for other classes fits in all tensors except the class outputs. Raise WeightsError if less than half of the
    tensors fit: it is then a checkpoint of another network. The counters of batch norm, which any file has, do not count.
    """
    wanted = detector.state_dict()
    needed = [k for k in wanted if not k.endswith(COUNTER)]
    fitting = {k: v for k, v in tensors.items() if k in wanted and wanted[k].shape == v.shape}
    check_types(wanted, fitting, where)
    fresh = tuple(k for k in needed if k not in fitting)
    if len(fresh) > len(needed) / 2:
        wrong = differing(shapes_of(wanted), shapes_of(tensors))
        raise WeightsError(
            f"these weights are not those of {detector.config.name}",
            where=where,
            got=f"{len(needed) - len(fresh)} of its {len(needed)} tensors; but\n" + first_ten(wrong),
            fix="name the model the weights were made for",
        )
    detector.load_state_dict(fitting, strict=False)
    return fresh


def same_classes(stored: DetectorConfig, config: DetectorConfig) -> bool:
    """Whether a config has the classes that a file stores, in any order. Numbered classes match any names of the same
    number.
    """
    numbered = is_numbered(config) and len(stored.classes) == len(config.classes)
    return numbered or set(stored.classes) == set(config.classes)


def with_parts_of(
    stored: DetectorConfig, config: DetectorConfig, *, stored_recipe: DetectorConfig, recipe: DetectorConfig
) -> DetectorConfig:
    """The config with every setting in which the detector of a file differs from its recipe, because the weights need them.

    Examples are default boxes of other sizes, or another activation in the backbone.

    A setting in which the config differs from its recipe was chosen by the user, and stays. The postprocess of the file is
    taken for the same classes only: the number and the least score of detections depend on the classes.

    stored: the config in the file. stored_recipe, recipe: the zoo's recipes for the size of each.
    """
    parts = PARTS if same_classes(stored, config) else [part for part in PARTS if part != "postprocess"]
    taken = {part: _merged(*(getattr(c, part) for c in (stored, config, stored_recipe, recipe))) for part in parts}
    if stored.anchors != stored_recipe.anchors and config.anchors == recipe.anchors:
        taken["anchors"] = _resized(stored, stored_recipe, recipe)
    mode, stored_mode = recipe.preprocess.mode, stored.preprocess.mode
    if stored_mode != stored_recipe.preprocess.mode and config.preprocess.mode == mode:
        taken["preprocess"] = replace(config.preprocess, mode=stored_mode)
    return replace(config, **taken)


def _merged(stored: T, config: T, stored_recipe: T, recipe: T) -> T:
    """A part, or a setting, of the config; that of the file if only the file differs from its recipe.

    Parts of one kind are merged setting by setting.
    """
    if is_dataclass(stored) and not isinstance(stored, type):
        four = (stored, config, stored_recipe, recipe)
        if len({type(part) for part in four}) == 1:
            names = [field.name for field in fields(stored) if field.name not in TRAINING_ONLY]
            return replace(config, **{name: _merged(*(getattr(part, name) for part in four)) for name in names})  # type: ignore[type-var]
    return stored if stored != stored_recipe and config == recipe else config


def _resized(stored: DetectorConfig, stored_recipe: DetectorConfig, recipe: DetectorConfig) -> tuple[AnchorLevel, ...]:
    """The anchors of ``stored`` for the input of ``recipe``. They grow in the same way as the recipe's anchors.

    In RetinaNet and EfficientDet anchors are measured in strides, so they grow with the strides. In SSD the strides stay, and
    the anchors grow with the input.
    """
    pairs = _side_by_side(stored_recipe, recipe)
    if pairs is None or len(stored.levels) != len(pairs) or not all(map(_equal_in_strides, pairs)):
        return tuple(_grown(level, stored.preprocess.size, recipe.preprocess.size) for level in stored.levels)
    resized = []
    for level, (before, after) in zip(stored.levels, pairs, strict=True):
        old, new = _strides(before, after)
        grown = _grown(level, old, new)
        if isinstance(level.stride, tuple):
            grown = replace(grown, stride=(level.stride[0] / old[0] * new[0], level.stride[1] / old[1] * new[1]))
        resized.append(grown)
    return tuple(resized)


def _grown(level: AnchorLevel, old: Unit, new: Unit) -> AnchorLevel:
    """The level with its shapes converted: each has as many new units as it had old units."""
    y, x = new[0] / old[0], new[1] / old[1]
    return replace(level, shapes=tuple((w * x, h * y) for w, h in level.shapes))


def with_input_of(stored: DetectorConfig, config: DetectorConfig) -> DetectorConfig:
    """The config with the pixels that the weights of a file expect.

    Numbered classes get the names and ids of the file if their number is the same.
    """
    pixels = {name: getattr(stored.preprocess, name) for name in ("mean", "std", "antialias")}
    config = replace(config, preprocess=replace(config.preprocess, **pixels))
    if is_numbered(config) and len(stored.classes) == len(config.classes):
        config = replace(config, classes=stored.classes, category_ids=stored.category_ids)
    return config


def for_classes(tensors: Mapping[str, Tensor], stored: DetectorConfig, detector: Detector) -> dict[str, Tensor]:
    """The tensors of a file whose config is ``stored`` for the classes of ``detector``.

    If the same classes are in another order, the rows of the class outputs (S * C, ...) are reordered too. If the classes are
    others, the class outputs are left out, because their rows would get wrong names.
    """
    config = detector.config
    if config.classes == stored.classes:
        return dict(tensors)
    outputs = outputs_of(detector)
    if set(config.classes) == set(stored.classes):
        return {k: _reordered(t, stored, config) if k in outputs else t for k, t in tensors.items()}
    return {k: t for k, t in tensors.items() if k not in outputs}


def load_known_classes(detector: Detector, tensors: Mapping[str, Tensor], stored: DetectorConfig) -> tuple[str, ...]:
    """Give classes that a file for other classes knows by name the rows of its class outputs. Return their names.

    tensors: of the file, under our names. The background logit comes along. Other classes, and outputs with another number of
    shapes (S * C, ...) or of inputs, or that a head of another kind does not have, stay as they are.
    """
    config = detector.config
    known = tuple(name for name in config.classes if name in stored.classes)
    if not known or set(config.classes) == set(stored.classes) or not same_anchors(stored, config):
        return ()
    ours, outputs = detector.state_dict(), outputs_of(detector)
    if not all(name in tensors for name in outputs):
        return ()
    pairs = [(ours[k].unflatten(0, (-1, config.logits)), tensors[k].unflatten(0, (-1, stored.logits))) for k in outputs]
    first = config.logits - len(config.classes)
    if first != stored.logits - len(stored.classes) or any(a[:, 0].shape != b[:, 0].shape for a, b in pairs):
        return ()
    to, of = (torch.tensor([*range(first), *(first + side.classes.index(name) for name in known)]) for side in (config, stored))
    for mine, theirs in pairs:
        mine[:, to] = theirs[:, of].to(mine)
    return known


def outputs_of(detector: Detector, *, boxes: bool = False) -> tuple[str, ...]:
    """Names of the tensors that give the logits, and with ``boxes`` of those that give the box offsets too."""
    head = detector.head
    return tuple(f"head.{name}" for name in (*head.class_outputs(), *(head.box_outputs() if boxes else ())))


def _reordered(tensor: Tensor, stored: DetectorConfig, config: DetectorConfig) -> Tensor:
    """(S * C, ...) with the logits of each shape in the config's order of classes. The background logit stays first."""
    first = stored.logits - len(stored.classes)
    order = [*range(first), *(first + stored.classes.index(name) for name in config.classes)]
    return tensor.unflatten(0, (-1, stored.logits))[:, torch.tensor(order)].flatten(0, 1)


def same_anchors(stored: DetectorConfig, config: DetectorConfig) -> bool:
    """Whether both have the same anchor shapes on every level, as parts of their inputs or in strides."""
    if stored.anchors == config.anchors:
        return True
    sizes = stored.preprocess.size, config.preprocess.size
    pairs = _side_by_side(stored, config)
    return pairs is not None and (all(_equal(*pair, *sizes) for pair in pairs) or all(map(_equal_in_strides, pairs)))


def same_counts(stored: DetectorConfig, config: DetectorConfig) -> bool:
    """Whether both have the same number of levels, and the same number of anchor shapes on each."""
    pairs = _side_by_side(stored, config)
    return pairs is not None and all(len(a.shapes) == len(b.shapes) for a, b in pairs)


def _side_by_side(a: DetectorConfig, b: DetectorConfig) -> list[tuple[AnchorLevel, AnchorLevel]] | None:
    """The levels of two configs in pairs; None if one has more than the other."""
    return list(zip(a.levels, b.levels, strict=True)) if len(a.levels) == len(b.levels) else None


def _equal_in_strides(pair: tuple[AnchorLevel, AnchorLevel]) -> bool:
    return _equal(*pair, *_strides(*pair))


def _strides(a: AnchorLevel, b: AnchorLevel) -> tuple[Unit, Unit]:
    """The strides of two levels; a pixel for both if a stride depends on the size of the map, which is not known here."""
    if isinstance(a.stride, tuple) and isinstance(b.stride, tuple):
        return a.stride, b.stride
    return (1.0, 1.0), (1.0, 1.0)


def _equal(a: AnchorLevel, b: AnchorLevel, unit_a: Unit, unit_b: Unit) -> bool:
    """Whether the shapes of ``a`` measured in ``unit_a`` are those of ``b`` measured in ``unit_b``."""
    grown = _grown(a, unit_a, unit_b)
    return len(a.shapes) == len(b.shapes) and all(
        math.isclose(old, new, rel_tol=1e-3)
        for shapes in zip(grown.shapes, b.shapes, strict=True)
        for old, new in zip(*shapes, strict=True)
    )
