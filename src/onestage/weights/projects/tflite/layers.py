"""The operators of a TensorFlow Lite graph as layers of ours: convolutions with their norms folded in, ReLU6, additions."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from torch import Tensor

from onestage.model.backbones.folded import IMAGE, FoldedLayer
from onestage.structures import Size
from onestage.weights.projects.tflite.graph import Graph, Operator, Unsupported, Value

POSTPROCESS = "TFLite_Detection_PostProcess"
"""The custom operator at the end of a detector of the TF object-detection API."""
SAME_NUMBERS = ("RESHAPE", "SQUEEZE", "QUANTIZE", "DEQUANTIZE")
"""Operators that change the form of the numbers and not their values."""
_NONE, _RELU6 = 0, 3
"""ActivationFunctionType of the schema."""
_LARGEST_INPUT = 4096
"""Pixels along a side."""


class Trunk:
    """Operators as the layers of a FoldedBackbone, and where each layer's parameters lie in the file."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.layers: list[FoldedLayer] = []
        self.operators: list[Operator] = []
        self.made = {graph.input: IMAGE}
        """Which layer's output a value is."""

    def follow(self, operators: Iterable[Operator]) -> None:
        """Add these operators. Raise Unsupported at an operator for which this project has no layer."""
        for operator in operators:
            if operator.kind in ("CONV_2D", "DEPTHWISE_CONV_2D"):
                self._convolve(operator)
            elif operator.kind == "ADD":
                self._add(operator)
            elif operator.kind not in SAME_NUMBERS:
                raise Unsupported(f"its network has an operator {operator.kind}")
            elif operator.inputs[0] in self.made:  # otherwise it unpacks a constant
                self.made[operator.outputs[0]] = self.made[operator.inputs[0]]

    def _convolve(self, operator: Operator) -> None:
        depthwise = operator.kind != "CONV_2D"
        first, height, width, last = self.graph.values[operator.inputs[1]].shape
        stride = operator.stride[0]
        usual = height == width and operator.stride == (stride, stride) and stride in (1, 2) and not operator.dilated
        if not usual or not (operator.same or height == 1):
            raise Unsupported("its network has a convolution of an unusual form")
        source = self.made[operator.inputs[0]]
        relu6 = _has_relu6(operator, self.graph.values[operator.outputs[0]])
        layer = FoldedLayer(last if depthwise else first, source, height, stride, depthwise=depthwise, relu6=relu6)
        self.made[operator.outputs[0]] = len(self.layers)
        self.layers.append(layer)
        self.operators.append(operator)

    def _add(self, operator: Operator) -> None:
        """MobileNet v2's addition: the output of an earlier layer is added to the output of a layer that nothing else reads."""
        earlier, later = sorted(self.made[value] for value in operator.inputs)
        forms = {value for value, layer in self.made.items() if layer == later}  # of the same numbers
        readers = sum(not forms.isdisjoint(o.inputs) and forms.isdisjoint(o.outputs) for o in self.graph.operators)
        if operator.activation != _NONE or readers != 1 or earlier == later or self.layers[later].add is not None:
            raise Unsupported("its network has an addition of an unusual form")
        self.layers[later] = replace(self.layers[later], add=earlier)
        self.made[operator.outputs[0]] = later

    def sizes(self, size: Size) -> list[Size]:
        """(height, width) of each layer's output for an input of that size."""
        sizes: list[Size] = []
        for layer in self.layers:
            height, width = size if layer.source == IMAGE else sizes[layer.source]
            sizes.append((-(-height // layer.stride), -(-width // layer.stride)))
        return sizes

    def constants(self) -> list[dict[str, Tensor]]:
        """Weight and bias of each layer."""
        return [parameters(self.graph, operator) for operator in self.operators]

    def tensors(self) -> dict[str, Tensor]:
        """The parameters under our names."""
        tensors: dict[str, Tensor] = {}
        for index, (layer, parameters) in enumerate(zip(self.layers, self.constants(), strict=True)):
            place = f"{index}.0" if layer.relu6 else f"{index}"  # with a ReLU6 behind it: the first of two modules
            tensors |= {f"backbone.layers.{place}.{kind}": tensor for kind, tensor in parameters.items()}
        return tensors


def _has_relu6(operator: Operator, output: Value) -> bool:
    """Whether ReLU6 follows: the operator states it, or the integers of its output can only hold 0..6.

    Converters drop an activation if the range of the output makes it unnecessary. The float network needs it.
    """
    lowest, highest = output.limits
    if operator.activation == _RELU6 or (lowest == 0 and abs(highest - 6) < 0.05):
        return True
    if operator.activation != _NONE:
        raise Unsupported("its network has another activation than ReLU6")
    return False


def parameters(graph: Graph, operator: Operator) -> dict[str, Tensor]:
    """Weight (out, in, height, width) and bias (out,) of a convolution."""
    weight = graph.constant(operator.inputs[1])
    order = (3, 0, 1, 2) if operator.kind == "DEPTHWISE_CONV_2D" else (0, 3, 1, 2)
    weight = weight.permute(order).contiguous()
    bias = graph.constant(operator.inputs[2]) if len(operator.inputs) > 2 and operator.inputs[2] >= 0 else None
    return {"weight": weight, "bias": weight.new_zeros(len(weight)) if bias is None else bias}


def input_size(picture: Value) -> Size:
    """(height, width) of the pictures that a file takes."""
    batch, height, width, channels = picture.shape
    if (batch, channels) != (1, 3) or not (0 < height <= _LARGEST_INPUT and 0 < width <= _LARGEST_INPUT):
        raise Unsupported(f"it does not take one RGB picture, but {picture.shape}")
    return height, width


def normalisation(picture: Value) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Mean and std, of pixels 0..1, that give the network's input. If its pixels are integers, these are the real numbers that
    they represent. If they are floats, -1..1, as in the API's MobileNet extractors.
    """
    if picture.stored not in ("u1", "i1") or len(picture.scale) != 1:
        return (0.5,) * 3, (0.5,) * 3
    lowest, highest = picture.limits
    std = 1 / (highest - lowest)
    return (-lowest * std,) * 3, (std,) * 3
