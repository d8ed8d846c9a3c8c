"""An ONNX graph in two: the network, which may compute in fewer bits, and its tail, which stays in float32."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from onestage.errors import ConfigError
from onestage.predict.engines.onnxruntime import import_onnxruntime

if TYPE_CHECKING:
    import onnx

HEAVY = ("Conv", "ConvTranspose", "Gemm", "MatMul")
"""The operators in which a network spends its time."""


@dataclass(frozen=True, eq=False)
class Halves:
    """A model in two. network: everything up to the last convolutions; its outputs are what the tail reads. tail: what decodes
    boxes and scores, and NMS.
    """

    whole: onnx.ModelProto
    network: onnx.ModelProto
    tail: tuple[onnx.NodeProto, ...]

    def joined(self, network: onnx.ModelProto) -> onnx.ModelProto:
        """The whole with another network of the same inputs and outputs."""
        import onnx

        made = onnx.ModelProto()
        made.CopyFrom(self.whole)
        graph = made.graph
        tensors = {tensor.name: tensor for tensor in (*self.whole.graph.initializer, *network.graph.initializer)}
        shared = {tensor.name for tensor in network.graph.initializer}
        nodes = [*network.graph.node]
        for before in self.tail:
            node = onnx.NodeProto()
            node.CopyFrom(before)
            node.input[:] = [f"{name}_tail" if name in shared else name for name in before.input]
            nodes.append(node)
        for tensor in self.whole.graph.initializer:  # the network may have changed the type of a tensor that the tail reads too
            if tensor.name in shared:
                copy = tensors[f"{tensor.name}_tail"] = onnx.TensorProto()
                copy.CopyFrom(tensor)
                copy.name = f"{tensor.name}_tail"
        used = {name for node in nodes for name in node.input}
        for field in (graph.node, graph.initializer, graph.value_info):
            del field[:]
        graph.node.extend(nodes)
        graph.initializer.extend(tensor for name, tensor in tensors.items() if name in used)
        return made


def halves(model: onnx.ModelProto) -> Halves:
    """Divide a model behind its last convolutions. The tail is all that no convolution depends on."""
    import onnx

    before = _before_convolutions(model.graph)
    first = [node for node in model.graph.node if node.output[0] in before]
    tail = [node for node in model.graph.node if node.output[0] not in before]
    network = onnx.ModelProto()
    network.CopyFrom(model)
    graph = network.graph
    del graph.node[:], graph.output[:], graph.value_info[:]
    graph.node.extend(first)
    given = {name for node in first for name in node.output}
    read = dict.fromkeys(name for node in tail for name in node.input if name in given)
    read |= dict.fromkeys(entry.name for entry in model.graph.output if entry.name in given)
    known = {entry.name: entry for entry in (*model.graph.value_info, *model.graph.output)}
    graph.output.extend(known.get(name) or _float32(name) for name in read)
    _drop_unused(graph, first)
    return Halves(model, network, tuple(tail))


def _before_convolutions(graph: onnx.GraphProto) -> set[str]:
    """The first output of each node that is a convolution, or that one depends on."""
    made = {name: node for node in graph.node for name in node.output}
    before: set[str] = set()
    waiting = [node for node in graph.node if node.op_type in HEAVY]
    while waiting:
        node = waiting.pop()
        if node.output[0] not in before:
            before.add(node.output[0])
            waiting += [made[name] for name in node.input if name in made]
    return before


def in_half(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with its network in float16. Inputs, outputs and tail keep their types."""
    try:
        import_onnxruntime()
        from onnxruntime.transformers.float16 import convert_float_to_float16
    except ImportError as error:
        raise ConfigError("to write float16, onnxruntime is needed", got=error, fix="pip install 'onestage[onnx]'") from error
    parts = halves(model)
    made = convert_float_to_float16(parts.network, keep_io_types=True)
    given = {entry.name for entry in made.graph.input}
    nodes = sorted(made.graph.node, key=lambda node: not (node.op_type == "Cast" and node.input[0] in given))
    del made.graph.node[:]
    made.graph.node.extend(nodes)  # what casts the inputs comes first: the converter puts it last
    return parts.joined(made)


def _float32(name: str) -> onnx.ValueInfoProto:
    import onnx

    return onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)


def _drop_unused(graph: onnx.GraphProto, nodes: Sequence[onnx.NodeProto]) -> None:
    """Take inputs and tensors out of a graph that none of its nodes read."""
    used = {name for node in nodes for name in node.input}
    for field in (graph.initializer, graph.input):
        kept = [entry for entry in field if entry.name in used]
        del field[:]
        field.extend(kept)
