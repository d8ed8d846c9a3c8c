"""The network of an ONNX graph in int8: ranges from calibration pictures, by NNCF, in a form that ONNX Runtime and OpenVINO run
in integers.
"""

from __future__ import annotations

import collections
import logging
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from onestage.deploy.onnx import quietly
from onestage.errors import ConfigError
from onestage.predict.engines.exported import threads
from onestage.predict.engines.onnxruntime import import_onnxruntime

if TYPE_CHECKING:
    import onnx

Inputs = Mapping[str, np.ndarray]
"""What goes into a file at once, by name."""


def quantised(network: onnx.ModelProto, inputs: Iterable[Inputs], count: int) -> onnx.ModelProto:
    """The network with QuantizeLinear and DequantizeLinear around its layers. inputs: of ``count`` calibration pictures; they
    are read several times.

    Weights have one scale for each channel and activations one for each tensor, as ONNX Runtime needs it. Weights use half of
    the range of int8: with more, processors without VNNI cut off sums, and the file would find other things there.

    Raise ConfigError if NNCF is not installed.
    """
    import onnx

    check_nncf()
    with quietly():
        import nncf
        from nncf.quantization.advanced_parameters import AdvancedQuantizationParameters, OverflowFix, QuantizationParameters

        nncf.set_log_level(logging.ERROR)
        copy = onnx.ModelProto()
        copy.CopyFrom(network)  # NNCF writes into what it gets
        how = AdvancedQuantizationParameters(
            overflow_fix=OverflowFix.ENABLE, activations_quantization_params=QuantizationParameters(per_channel=False)
        )
        preset, pictures = nncf.QuantizationPreset.MIXED, nncf.Dataset(inputs)
        return nncf.quantize(copy, pictures, preset=preset, subset_size=count, advanced_parameters=how)


def check_nncf() -> None:
    """Raise ConfigError if NNCF is not installed. From here on it sends no reports about its use over the network."""
    os.environ.setdefault("NNCF_CI", "1")  # the name that NNCF has for "no reports"; it is read once, at the import
    try:
        with quietly():
            import nncf  # noqa: F401
    except ImportError as error:
        raise ConfigError("to write int8, NNCF is needed", got=error, fix="pip install 'onestage[int8]'") from error


def layers(network: onnx.ModelProto) -> list[str]:
    """The names of the nodes of a quantised network that compute in int8."""
    from_int8 = {node.output[0] for node in network.graph.node if node.op_type == "DequantizeLinear"}
    return [node.name for node in network.graph.node if node.op_type != "QuantizeLinear" and from_int8 & {*node.input}]


def in_float(network: onnx.ModelProto, source: onnx.ModelProto, names: Collection[str]) -> onnx.ModelProto:
    """A quantised network in which the layers of these names read what they read in its source: float32 tensors."""
    import onnx

    made = onnx.ModelProto()
    made.CopyFrom(network)
    before = {node.name: node for node in source.graph.node}
    tensors = {tensor.name: tensor for tensor in source.graph.initializer}
    added: dict[str, onnx.TensorProto] = {}
    for node in made.graph.node:
        if node.name in names:
            for place, name in enumerate(before[node.name].input):
                node.input[place] = f"{name}_float" if name in tensors else name
                if name in tensors:  # under another name: NNCF may have changed the tensor
                    copy = added[name] = onnx.TensorProto()
                    copy.CopyFrom(tensors[name])
                    copy.name = node.input[place]
    made.graph.initializer.extend(added.values())
    return made


def most_sensitive(network: onnx.ModelProto, source: onnx.ModelProto, inputs: Sequence[Inputs]) -> list[str]:
    """The layers of a quantised network, the most sensitive first: in int8, with all others in float, it changes the outputs of
    the source most.
    """
    expected, names = _outputs(source, inputs), layers(network)
    spread = [max(float(np.var(value)), 1e-12) for value in expected]
    errors = {}
    for name in names:
        alone = in_float(network, source, [other for other in names if other != name])
        _without_dead_ends(alone.graph)
        pairs = zip(expected, _outputs(alone, inputs), spread, strict=True)
        errors[name] = sum(float(np.mean((one - other) ** 2)) / part for one, other, part in pairs)
    return sorted(names, key=lambda name: -errors[name])


def _outputs(network: onnx.ModelProto, inputs: Sequence[Inputs]) -> list[np.ndarray]:
    """All outputs of a network for these inputs."""
    onnxruntime = import_onnxruntime()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = threads()
    session = onnxruntime.InferenceSession(network.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return [value for one in inputs for value in session.run(None, dict(one))]


def for_integers(network: onnx.ModelProto) -> onnx.ModelProto:
    """The same network in the form that ONNX Runtime computes in integers: biases are in int32, and activations are left out
    where the rounding to int8 cuts off as they do. Nodes and tensors that nothing reads any more are taken out.
    """
    import onnx

    made = onnx.ModelProto()
    made.CopyFrom(network)
    _integer_biases(made.graph)
    _without_activations(made.graph)
    _without_dead_ends(made.graph)
    return made


def _integer_biases(graph: onnx.GraphProto) -> None:
    """Write the bias of each quantised convolution in int32, in steps of the scale of its sums."""
    import onnx

    arrays = {tensor.name: tensor for tensor in graph.initializer}
    made = {name: node for node in graph.node for name in node.output}
    first: list[onnx.NodeProto] = []
    for node in graph.node:
        reads = _from_int8(node, made)
        with_bias = node.op_type == "Conv" and len(node.input) == 3 and node.input[2] in arrays
        columns = _in_steps(arrays[node.input[2]], [arrays[read.input[1]] for read in reads]) if with_bias and reads else None
        if columns is None:
            continue
        name = f"{node.name}_bias"
        graph.initializer.extend(onnx.numpy_helper.from_array(value, f"{name}_{key}") for key, value in columns.items())
        names = [f"{name}_{key}" for key in columns]
        first.append(onnx.helper.make_node("DequantizeLinear", names, [name], axis=0, name=f"{name}_float"))
        node.input[2] = name
    nodes = [*first, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)


def _from_int8(node: onnx.NodeProto, made: Mapping[str, onnx.NodeProto]) -> list[onnx.NodeProto]:
    """The two DequantizeLinear nodes that input and weights of a node come from; empty if they do not both."""
    reads = [made[name] for name in node.input[:2] if name in made and made[name].op_type == "DequantizeLinear"]
    return reads if len(reads) == 2 else []


def _in_steps(bias: onnx.TensorProto, factors: Sequence[onnx.TensorProto]) -> dict[str, np.ndarray] | None:
    """A bias in int32, with scale and zero. factors: the scales of input and weights. None if a channel is dead, so that its
    scale is next to nothing and its bias too large for int32.
    """
    import onnx

    values = onnx.numpy_helper.to_array(bias).astype(np.float64)
    pair = [onnx.numpy_helper.to_array(factor).astype(np.float64).ravel() for factor in factors]
    scale = np.broadcast_to(pair[0] * pair[1], values.shape).astype(np.float32)
    steps = np.round(values / scale)
    if not np.all(np.abs(steps) < 2**31):
        return None
    return {"steps": steps.astype(np.int32), "scale": scale, "zero": np.zeros(values.shape, np.int32)}


def _without_activations(graph: onnx.GraphProto) -> None:
    """Let QuantizeLinear read the input of the Relu or Clip before it, if int8 cuts off at the same values or inside them."""
    import onnx

    arrays = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    made = {name: node for node in graph.node for name in node.output}
    readers = collections.Counter(name for node in graph.node for name in node.input)
    for node in graph.node:
        before = made.get(node.input[0]) if node.op_type == "QuantizeLinear" else None
        if before is None or before.op_type not in ("Relu", "Clip") or readers[node.input[0]] > 1:
            continue
        low, high = (0.0, np.inf) if before.op_type == "Relu" else _limits(before.input, arrays, made)
        least, most = _range(arrays[node.input[1]], arrays[node.input[2]])
        if least >= low and most <= high * (1 + 1e-6):
            node.input[0] = before.input[0]


def _range(scale: np.ndarray, zero: np.ndarray) -> tuple[float, float]:
    """The least and the largest number that 8 bits with this scale and zero hold, over all channels."""
    kind = np.iinfo(zero.dtype)
    steps = zero.astype(np.int64)
    return float(((kind.min - steps) * scale).min()), float(((kind.max - steps) * scale).max())


def _limits(inputs: Sequence[str], arrays: Mapping[str, np.ndarray], made: Mapping[str, onnx.NodeProto]) -> tuple[float, float]:
    """The least and the largest value that a Clip with these inputs gives."""
    import onnx

    found = [-np.inf, np.inf]
    for place, name in enumerate(inputs[1:3]):
        if name in arrays:
            found[place] = float(arrays[name])
        elif name in made and made[name].op_type == "Constant":
            found[place] = float(onnx.numpy_helper.to_array(made[name].attribute[0].t))
        elif name:
            found[place] = np.nan  # computed: no comparison with it holds
    return found[0], found[1]


def _without_dead_ends(graph: onnx.GraphProto) -> None:
    """Take out nodes and tensors that nothing reads."""
    used = {entry.name for entry in graph.output}
    kept = []
    for node in reversed(graph.node):  # a graph is sorted: readers come later
        if used & {*node.output}:
            kept.append(node)
            used |= {*node.input}
    tensors = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(reversed(kept))
    graph.initializer.extend(tensors)
