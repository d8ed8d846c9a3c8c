"""The border to TensorFlow Lite: the TF object-detection API's SSDs on MobileNet v1 and v2, float or quantised.

Shape letters: L levels, A anchors, S anchor shapes per cell, C logits per anchor, K classes.

Such a file is a network frozen for deployment: batch norm is folded into the convolutions, and weights may be integers. It
becomes a float network without norms, with one layer per operator of the file. Names in the file are not used. Sources: the API
in tensorflow/models, research/object_detection (export_tflite_ssd_graph_lib.py, multiple_grid_anchor_generator.py and, of the
samples/configs, ssd_mobilenet_v1_0.75_depth_quantized_300x300_coco14_sync.config), and detection_postprocess.cc in
tensorflow/lite/kernels.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

from onestage.errors import WeightsError
from onestage.model.anchors.coder import BoxCoder
from onestage.model.anchors.levels import AnchorLevel, linear_scales
from onestage.model.backbones.folded import FoldedBackbone
from onestage.model.config import DetectorConfig
from onestage.model.detector import Detector
from onestage.model.heads.per_level import ConvHead
from onestage.model.limits import TFLITE_FILE
from onestage.model.losses.focal import FocalLoss
from onestage.model.losses.multibox import MultiBoxLoss
from onestage.model.output.postprocess import Postprocess
from onestage.model.output.suppress import HardNMS
from onestage.model.preprocess import Preprocess
from onestage.structures import Size
from onestage.weights.class_names import COCO_90
from onestage.weights.foreign_file import known_classes
from onestage.weights.projects.tflite.graph import Graph, Operator, Unsupported, damage, read_graph, read_options
from onestage.weights.projects.tflite.layers import POSTPROCESS, SAME_NUMBERS, Trunk, input_size, normalisation, parameters
from onestage.weights.tensor_file import OpenFile, check_finite, refuse_large, shapes_of, without_memory

TRAINED_WITH = FocalLoss(alpha=0.75, gamma=2.0, box_weight=0.25)
"""The API's settings for these networks; the box loss is divided by the four numbers of a box."""
PRIOR = 0.01
"""The prior of classes that start fresh: the API's class_prediction_bias_init of -4.6."""
_HEADS: dict[tuple[bool, tuple[int, ...]], Literal["plain", "pointwise", "folded"]] = {
    (False, (3, 3)): "plain",
    (False, (1, 1)): "pointwise",
    (True, (3, 3)): "folded",
}
"""Whether a depthwise convolution is part of the outputs, and the first kernel's height and width -> ConvHead's style."""
_OPTIONS = (
    *("num_classes", "max_detections", "nms_iou_threshold", "nms_score_threshold", "use_regular_nms"),
    *("x_scale", "y_scale", "w_scale", "h_scale"),
)


def read(file: OpenFile) -> tuple[DetectorConfig, dict[str, Tensor]]:
    """The detector in a TensorFlow Lite file of the object-detection API: its config, and weights under our names.

    90 classes are those of COCO; any other number of classes is numbered. Raise WeightsError if the file is damaged or of
    another kind.
    """
    if file.size > TFLITE_FILE.most:
        refuse_large(TFLITE_FILE, file.size, file.path)
    data = file.read()
    with damage(file.path):
        graph = read_graph(data)
        last = next((o for o in graph.operators if o.kind == POSTPROCESS), None)
        if last is None:
            raise WeightsError(
                "this TensorFlow Lite file holds no SSD of the TF object-detection API",
                got=", ".join(sorted({o.kind for o in graph.operators})),
                expected=f"an operator {POSTPROCESS}",
                fix="a MobileNet classifier goes to backbone_weights=",
            )
        config, tensors = _SSD(graph, last).detector()
        with without_memory(file.path):
            expected = shapes_of(Detector(config).state_dict())
        if shapes_of(tensors) != expected:
            raise ValueError("the shapes of its constants do not fit each other")
    check_finite(tensors, file.path)
    return config, tensors


# --- the detector ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Output:
    """The convolution that gives an output of a level, and in SSDLite the depthwise convolution before it."""

    conv: Operator
    depthwise: Operator | None

    @property
    def source(self) -> int:
        """The value that it reads: a feature map."""
        return (self.depthwise or self.conv).inputs[0]


class _SSD:
    """The detector that ends in a postprocessing operator."""

    def __init__(self, graph: Graph, last: Operator) -> None:
        self.graph = graph
        self.options = read_options(last.options, _OPTIONS)
        boxes, scores, anchors = last.inputs
        self.anchors, step = graph.constant(anchors), graph.values[anchors].scale
        self.anchor_step = float(step[0]) if len(step) else 0.0
        logits, self.softmax = _before_activation(graph, scores)
        self.box, self.cls = _outputs(graph, boxes), _outputs(graph, logits)
        self.maps = [output.source for output in self.box]
        if self.maps != [output.source for output in self.cls]:
            raise Unsupported("class and box outputs do not read the same maps")
        self.shapes = tuple(_channels(graph, output) // 4 for output in self.box)
        self.background = self._background()

    def detector(self) -> tuple[DetectorConfig, dict[str, Tensor]]:
        """The config, and the weights under our names."""
        trunk = Trunk(self.graph)
        trunk.follow(_needed(self.graph, self.maps))
        tensors = trunk.tensors() | self._head_tensors()  # before the classes: their number in the file may be wrong
        picture = self.graph.values[self.graph.input]
        size = input_size(picture)
        mean, std = normalisation(picture)
        classes = known_classes(int(self.options["num_classes"]), COCO_90)
        residual = any(layer.add is not None for layer in trunk.layers)
        maps = tuple(trunk.made[value] for value in self.maps)
        sizes = trunk.sizes(size)
        config = DetectorConfig(
            name="ssd300_mobilenet_v2" if residual else "ssd300_mobilenet_v1",
            classes=classes.names,
            category_ids=classes.ids,
            preprocess=Preprocess(size, mean, std, antialias=False),
            backbone=FoldedBackbone(tuple(trunk.layers), maps),
            head=self._head(),
            anchors=self._levels(size, [sizes[index] for index in maps]),
            coder=BoxCoder(self._variances()),
            loss=MultiBoxLoss() if self.softmax else TRAINED_WITH,
            postprocess=self._postprocess(),
        )
        return config, tensors

    def _background(self) -> int:
        """1 if the first logit of an anchor is background, otherwise 0."""
        logits = {_channels(self.graph, output) / shapes for output, shapes in zip(self.cls, self.shapes, strict=True)}
        background = logits.pop() - self.options["num_classes"]
        if logits or background not in (0, 1) or (self.softmax and not background):
            raise ValueError("the class outputs do not fit the number of classes")
        return int(background)

    def _variances(self) -> tuple[float, float, float, float]:
        x, y, w, h = (1 / self.options[f"{side}_scale"] for side in "xywh")
        return x, y, w, h

    def _postprocess(self) -> Postprocess:
        """Unless the file asks for regular NMS, the operator uses only the best class of each box. NMS over all classes does
        the same: two classes of one box have an IoU of 1, so only the better one stays.
        """
        return Postprocess(
            score_threshold=self.options["nms_score_threshold"],
            nms=HardNMS(self.options["nms_iou_threshold"]),
            top_k=len(self.anchors),
            detections=int(self.options["max_detections"]),
            class_agnostic=not self.options.get("use_regular_nms", 0),
        )

    def _levels(self, size: Size, sizes: Sequence[Size]) -> tuple[AnchorLevel, ...]:
        """The file's anchors (A, 4), centre y, x, height, width as parts of the input, as one set of shapes for every cell.

        Quantised anchors differ by up to half a step from the anchors of training (a pixel of 300). If they agree with the
        API's usual anchors within that, the usual ones are used. Raise Unsupported if the cells have different shapes.
        """
        counts = [h * w * s for (h, w), s in zip(sizes, self.shapes, strict=True)]
        tolerance = max(0.75 * self.anchor_step, 0.005)
        usual = _usual_shapes(self.shapes, size)
        levels = []
        for rows, cells, shapes, default in zip(self.anchors.split(counts), sizes, self.shapes, usual, strict=True):
            table = rows.view(*cells, shapes, 4)
            y, x = ((torch.arange(n) + 0.5) / n for n in cells)
            off = torch.maximum((table[..., 0] - y[:, None, None]).abs().max(), (table[..., 1] - x[None, :, None]).abs().max())
            extents = table[0, 0, :, 2:]
            off = torch.maximum(off, (table[..., 2:] - extents).abs().max())
            if not off <= tolerance:  # in this form it refuses NaN too
                raise Unsupported(f"the anchors of a map of {cells} cells are not the same at every cell")
            ours = extents * torch.tensor(size)
            close = default is not None and bool(((default - ours).abs() <= tolerance * max(size)).all())
            chosen = default if close and default is not None and self.anchor_step else ours
            levels.append(AnchorLevel(tuple((w, h) for h, w in chosen.tolist())))
        return tuple(levels)

    def _head(self) -> ConvHead:
        forms = {
            (output.depthwise is not None, self.graph.values[(output.depthwise or output.conv).inputs[1]].shape[1:3])
            for output in (*self.box, *self.cls)
        }
        style = _HEADS.get(forms.pop())
        if forms or style is None:
            raise Unsupported("its outputs are not made by 1x1, 3x3 or separable convolutions, the same on all maps")
        return ConvHead(style, prior=None if self.softmax else PRIOR)

    def _head_tensors(self) -> dict[str, Tensor]:
        """The head's tensors: rows (S * 4) reordered from ty, tx, th, tw to x, y, w, h; rows (S * C) without those of
        background, because sigmoids need none.
        """
        tensors: dict[str, Tensor] = {}
        dropped = 0 if self.softmax else self.background
        for level, (box, cls, shapes) in enumerate(zip(self.box, self.cls, self.shapes, strict=True)):
            for name, output in (("box", box), ("cls", cls)):
                for kind, tensor in parameters(self.graph, output.conv).items():
                    rows = tensor.unflatten(0, (shapes, -1))
                    rows = rows[:, [1, 0, 3, 2]] if name == "box" else rows[:, dropped:]
                    index = f"{level}.3" if output.depthwise else f"{level}"
                    tensors[f"head.{name}.{index}.{kind}"] = rows.flatten(0, 1)
                if output.depthwise:
                    depthwise = parameters(self.graph, output.depthwise)
                    tensors |= {f"head.{name}.{level}.0.{kind}": tensor for kind, tensor in depthwise.items()}
        return tensors


def _usual_shapes(shapes: Sequence[int], size: Size) -> list[Tensor | None]:
    """The API's default boxes, (S, 2) heights and widths in pixels of each level, or None if a level has another number.

    multiple_grid_anchor_generator.py, create_ssd_anchors: three on the first map, six on every other map.
    """
    scales = [*linear_scales(len(shapes), 0.2, 0.95), 1.0]
    levels: list[Tensor | None] = []
    for level, (count, (scale, following)) in enumerate(zip(shapes, pairwise(scales), strict=True)):
        boxes = [(scale, r) for r in (1.0, 2.0, 0.5, 3.0, 0.3333)] + [(math.sqrt(scale * following), 1.0)]
        if level == 0:
            boxes = [(0.1, 1.0), (scale, 2.0), (scale, 0.5)]
        table = torch.tensor([(s / math.sqrt(r), s * math.sqrt(r)) for s, r in boxes]) * min(size)
        levels.append(table if count == len(boxes) else None)
    return levels


def _before_activation(graph: Graph, scores: int) -> tuple[int, bool]:
    """The logits behind the scores, and whether the scores are a softmax of them (True) or sigmoids (False)."""
    maker = graph.maker(_through(graph, scores))
    if maker is None or maker.kind not in ("LOGISTIC", "SOFTMAX"):
        raise Unsupported("its scores are made in an unknown way")
    return maker.inputs[0], maker.kind == "SOFTMAX"


def _outputs(graph: Graph, value: int) -> list[_Output]:
    """The convolutions, one per level, whose outputs are joined to this value."""
    value = _through(graph, value)
    maker = graph.maker(value)
    parts = maker.inputs if maker is not None and maker.kind == "CONCATENATION" else (value,)
    return [_output(graph, _through(graph, part)) for part in parts]


def _output(graph: Graph, value: int) -> _Output:
    conv = graph.maker(value)
    if conv is None or conv.kind != "CONV_2D":
        raise Unsupported("its outputs are not made by a convolution on each map")
    before = graph.maker(conv.inputs[0])
    return _Output(conv, before if before is not None and before.kind == "DEPTHWISE_CONV_2D" else None)


def _channels(graph: Graph, output: _Output) -> int:
    return graph.values[output.conv.inputs[1]].shape[0]


def _through(graph: Graph, value: int) -> int:
    """The value behind operators that only change its form."""
    while (maker := graph.maker(value)) is not None and maker.kind in SAME_NUMBERS:
        value = maker.inputs[0]
    return value


def _needed(graph: Graph, values: Iterable[int]) -> list[Operator]:
    """The operators without which these values cannot be computed, in order."""
    wanted = set(values)
    for index in reversed(range(len(graph.operators))):
        if wanted & set(graph.operators[index].outputs):
            wanted.update(graph.operators[index].inputs)
    return [operator for operator in graph.operators if wanted & set(operator.outputs)]
