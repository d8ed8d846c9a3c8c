"""Writes TensorFlow Lite files, so that networks of any kind can be made on the spot: what the import is tested against."""

from dataclasses import dataclass, field

import flatbuffers
import numpy as np
import tflite
from flatbuffers import flexbuffers
from tflite.ActivationFunctionType import ActivationFunctionType
from tflite.BuiltinOperator import BuiltinOperator
from tflite.BuiltinOptions import BuiltinOptions
from tflite.TensorType import TensorType

from onestage.weights.projects.tflite import backbone, ssd
from onestage.weights.tensor_file import open_file

TYPES = {
    "float32": TensorType.FLOAT32,
    "float16": TensorType.FLOAT16,
    "int32": TensorType.INT32,
    "uint8": TensorType.UINT8,
    "int8": TensorType.INT8,
}
RELU6 = ActivationFunctionType.RELU6
OPTIONS = {
    "CONV_2D": "Conv2DOptions",
    "DEPTHWISE_CONV_2D": "DepthwiseConv2DOptions",
    "CONCATENATION": "ConcatenationOptions",
    "ADD": "AddOptions",
    "RESHAPE": "ReshapeOptions",
    "SOFTMAX": "SoftmaxOptions",
}
"""Operators with options -> the schema's table of them."""
POSTPROCESS = {
    **{"x_scale": 10.0, "y_scale": 10.0, "w_scale": 5.0, "h_scale": 5.0},
    **{"nms_iou_threshold": 0.6, "nms_score_threshold": 1e-8, "max_detections": 10, "max_classes_per_detection": 1},
}


@dataclass(frozen=True)
class Value:
    """A tensor of the graph; a constant where it has numbers, as they are stored. scale and zero: per tensor or per channel."""

    shape: tuple[int, ...]
    kind: str = "float32"
    numbers: np.ndarray | None = None
    scale: tuple[float, ...] = ()
    zero: tuple[int, ...] = ()
    axis: int = 0


@dataclass
class Network:
    """A graph under construction; methods add operators and return the index of their output. Maps are (1, H, W, C)."""

    values: list[Value] = field(default_factory=list)
    operators: list[tuple[str, list[int], list[int], dict]] = field(default_factory=list)
    stored: str = "float32"
    """How weights are stored: float32, float16 (behind DEQUANTIZE) or int8 (with a scale for every output channel)."""
    implied: bool = False
    """Whether ReLU6 is said by the range of the output's integers alone, and not by the operator."""
    seed: int = 0

    def __post_init__(self):
        self.random = np.random.default_rng(self.seed)

    def value(self, *shape, **more):
        self.values.append(Value(tuple(int(s) for s in shape), **more))
        return len(self.values) - 1

    def constant(self, numbers, **more):
        numbers = np.ascontiguousarray(numbers)
        return self.value(*numbers.shape, kind=numbers.dtype.name, numbers=numbers, **more)

    def operator(self, kind, inputs, shape, **options):
        output = self.value(*shape)
        self.operators.append((kind, list(inputs), [output], options))
        return output

    def weights(self, numbers, axis):
        """Float numbers as a constant of the network's own way to store them."""
        numbers = np.asarray(numbers, np.float32)
        if self.stored == "float32":
            return self.constant(numbers)
        if self.stored == "float16":
            return self.operator("DEQUANTIZE", [self.constant(numbers.astype(np.float16))], numbers.shape)
        others = tuple(i for i in range(numbers.ndim) if i != axis)
        scale = (np.abs(numbers).max(axis=others) + 1e-6) / 127
        whole = np.rint(numbers / np.expand_dims(scale, others)).astype(np.int8)
        return self.constant(whole, scale=tuple(scale.tolist()), zero=(0,) * len(scale), axis=axis)

    def conv(self, source, channels, *, kernel=1, stride=1, relu6=True, depthwise=False):
        """SAME padding, random weights with which numbers neither grow nor fade."""
        _, height, width, inputs = self.values[source].shape
        shape = (1, kernel, kernel, inputs) if depthwise else (channels, kernel, kernel, inputs)
        spread = (2 / (kernel * kernel * (1 if depthwise else inputs))) ** 0.5
        weight = self.weights(self.random.normal(size=shape) * spread, axis=3 if depthwise else 0)
        bias = self.constant((self.random.normal(size=inputs if depthwise else channels) * 0.3).astype(np.float32))
        options = {"Padding": tflite.Padding.SAME, "StrideW": stride, "StrideH": stride}
        if relu6 and not self.implied:
            options["FusedActivationFunction"] = RELU6
        if depthwise:
            options["DepthMultiplier"] = 1
        kind, outputs = ("DEPTHWISE_CONV_2D", inputs) if depthwise else ("CONV_2D", channels)
        out = (1, -(-height // stride), -(-width // stride), outputs)
        made = self.operator(kind, [source, weight, bias], out, **options)
        if relu6 and self.implied:
            self.values[made] = Value(out, kind="uint8", scale=(6 / 255,), zero=(0,))
        return made

    def reshape(self, source, *shape):
        return self.operator("RESHAPE", [source, self.constant(np.array(shape, np.int32))], shape)

    def add(self, a, b):
        return self.operator("ADD", [a, b], self.values[a].shape)

    def concatenate(self, parts, axis=1):
        shape = list(self.values[parts[0]].shape)
        shape[axis] = sum(self.values[part].shape[axis] for part in parts)
        return self.operator("CONCATENATION", parts, shape, Axis=axis)

    def detector(self, maps, shapes, classes, anchors, *, kernel=1, separable=False, score="LOGISTIC", **options):
        """Outputs on these maps, scores and postprocessing; the file's outputs."""
        logits, boxes = [], []
        for source, count in zip(maps, shapes, strict=True):
            _, height, width, _ = self.values[source].shape
            for made, width_of_row in ((boxes, 4), (logits, classes + 1)):
                before = self.conv(source, 0, kernel=3, depthwise=True) if separable else source
                out = self.conv(before, count * width_of_row, kernel=1 if separable else kernel, relu6=False)
                rows = height * width * count
                made.append(self.reshape(out, *((1, rows, 1, 4) if made is boxes else (1, rows, classes + 1))))
        joined = self.concatenate(boxes)
        boxes = self.reshape(joined, 1, self.values[joined].shape[1], 4)
        joined = self.concatenate(logits)
        extra = {"Beta": 1.0} if score == "SOFTMAX" else {}
        scores = self.operator(score, [joined], self.values[joined].shape, **extra)
        outputs = [self.value() for _ in range(4)]
        numbers = {**POSTPROCESS, "num_classes": classes, **options}
        inputs = [boxes, scores, self.constant(np.asarray(anchors, np.float32))]
        self.operators.append(("TFLite_Detection_PostProcess", inputs, outputs, numbers))
        return outputs

    def file(self, source, outputs):
        """The bytes of the file."""
        return write(self.values, self.operators, inputs=[source], outputs=outputs)


def write(values, operators, *, inputs, outputs):
    """A graph as the bytes of a file. operators: (kind, inputs, outputs, options); unknown kinds are custom operators, whose
    options become a flexbuffer."""
    builder = flatbuffers.Builder(1024)
    kinds = list(dict.fromkeys(kind for kind, *_ in operators))
    buffers = [_buffer(builder, None), *(_buffer(builder, value.numbers) for value in values)]
    tensors = [_tensor(builder, index + 1, value) for index, value in enumerate(values)]
    steps = [_operator(builder, kinds, *operator) for operator in operators]
    lists = [_offsets(builder, tflite.SubGraphStartTensorsVector, tensors)]
    lists += [builder.CreateNumpyVector(np.array(side, np.int32)) for side in (inputs, outputs)]
    lists += [_offsets(builder, tflite.SubGraphStartOperatorsVector, steps)]
    tflite.SubGraphStart(builder)
    tflite.SubGraphAddTensors(builder, lists[0])
    tflite.SubGraphAddInputs(builder, lists[1])
    tflite.SubGraphAddOutputs(builder, lists[2])
    tflite.SubGraphAddOperators(builder, lists[3])
    subgraphs = _offsets(builder, tflite.ModelStartSubgraphsVector, [tflite.SubGraphEnd(builder)])
    codes = _offsets(builder, tflite.ModelStartOperatorCodesVector, [_code(builder, kind) for kind in kinds])
    buffers = _offsets(builder, tflite.ModelStartBuffersVector, buffers)
    tflite.ModelStart(builder)
    tflite.ModelAddVersion(builder, 3)
    tflite.ModelAddOperatorCodes(builder, codes)
    tflite.ModelAddSubgraphs(builder, subgraphs)
    tflite.ModelAddBuffers(builder, buffers)
    builder.Finish(tflite.ModelEnd(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())


def _offsets(builder, start, offsets):
    start(builder, len(offsets))
    for offset in reversed(offsets):
        builder.PrependUOffsetTRelative(offset)
    return builder.EndVector()


def _buffer(builder, numbers):
    data = None if numbers is None else builder.CreateByteVector(numbers.tobytes())
    tflite.BufferStart(builder)
    if data is not None:
        tflite.BufferAddData(builder, data)
    return tflite.BufferEnd(builder)


def _tensor(builder, buffer, value):
    shape = builder.CreateNumpyVector(np.array(value.shape, np.int32))
    quantised = _quantisation(builder, value) if value.scale else None
    tflite.TensorStart(builder)
    tflite.TensorAddShape(builder, shape)
    tflite.TensorAddType(builder, TYPES[value.kind])
    tflite.TensorAddBuffer(builder, buffer)
    if quantised is not None:
        tflite.TensorAddQuantization(builder, quantised)
    return tflite.TensorEnd(builder)


def _quantisation(builder, value):
    scale = builder.CreateNumpyVector(np.array(value.scale, np.float32))
    zero = builder.CreateNumpyVector(np.array(value.zero, np.int64))
    tflite.QuantizationParametersStart(builder)
    tflite.QuantizationParametersAddScale(builder, scale)
    tflite.QuantizationParametersAddZeroPoint(builder, zero)
    tflite.QuantizationParametersAddQuantizedDimension(builder, value.axis)
    return tflite.QuantizationParametersEnd(builder)


def _code(builder, kind):
    number = getattr(BuiltinOperator, kind, None)
    custom = builder.CreateString(kind) if number is None else None
    tflite.OperatorCodeStart(builder)
    tflite.OperatorCodeAddVersion(builder, 1)
    tflite.OperatorCodeAddDeprecatedBuiltinCode(builder, BuiltinOperator.CUSTOM if number is None else number)
    tflite.OperatorCodeAddBuiltinCode(builder, BuiltinOperator.CUSTOM if number is None else number)
    if custom is not None:
        tflite.OperatorCodeAddCustomCode(builder, custom)
    return tflite.OperatorCodeEnd(builder)


def _operator(builder, kinds, kind, inputs, outputs, options):
    inputs, outputs = (builder.CreateNumpyVector(np.array(side, np.int32)) for side in (inputs, outputs))
    table = custom = None
    if kind in OPTIONS:
        name = OPTIONS[kind]
        getattr(tflite, f"{name}Start")(builder)
        for key, number in options.items():
            getattr(tflite, f"{name}Add{key}")(builder, number)
        table = getattr(tflite, f"{name}End")(builder)
    elif not hasattr(BuiltinOperator, kind):
        custom = builder.CreateByteVector(flexbuffers.Dumps(options))
    tflite.OperatorStart(builder)
    tflite.OperatorAddOpcodeIndex(builder, kinds.index(kind))
    tflite.OperatorAddInputs(builder, inputs)
    tflite.OperatorAddOutputs(builder, outputs)
    if table is not None:
        tflite.OperatorAddBuiltinOptionsType(builder, getattr(BuiltinOptions, OPTIONS[kind]))
        tflite.OperatorAddBuiltinOptions(builder, table)
    if custom is not None:
        tflite.OperatorAddCustomOptions(builder, custom)
    return tflite.OperatorEnd(builder)


# --- networks --------------------------------------------------------------------------------------------------------------


def anchors_for(sizes, shapes, *, seed=3):
    """(A, 4) centre y, x, height, width as parts of the input: random shapes, the same at every cell of a map."""
    random = np.random.default_rng(seed)
    rows = []
    for (height, width), count in zip(sizes, shapes, strict=True):
        extents = random.uniform(0.1, 0.6, (count, 2))
        y, x = np.meshgrid((np.arange(height) + 0.5) / height, (np.arange(width) + 0.5) / width, indexing="ij")
        centres = np.stack([y, x], axis=-1)[:, :, None].repeat(count, axis=2)
        rows.append(np.concatenate([centres, np.broadcast_to(extents, (height, width, count, 2))], axis=-1).reshape(-1, 4))
    return np.concatenate(rows)


def small_ssd(*, stored="float32", size=(44, 36), classes=3, version="v1", implied=False, **options):
    """The file of a little SSD of two levels on a MobileNet's blocks, without or ("v2") with an addition."""
    network = Network(stored=stored, implied=implied)
    picture = network.value(1, *size, 3)
    maps = network.conv(picture, 8, kernel=3, stride=2)
    maps = network.conv(network.conv(maps, 0, kernel=3, depthwise=True), 12)
    if version == "v2":
        narrow = network.conv(maps, 6, relu6=False)
        inner = network.conv(network.conv(narrow, 24), 0, kernel=3, depthwise=True)
        narrow = network.add(narrow, network.conv(inner, 6, relu6=False))
        fine = network.conv(narrow, 24)  # the expansion before the stride is the first map
    else:
        fine = network.conv(maps, 16)
    coarse = network.conv(network.conv(fine, 0, kernel=3, stride=2, depthwise=True), 20)
    shapes = (3, 6)
    sizes = [network.values[i].shape[1:3] for i in (fine, coarse)]
    outputs = network.detector([fine, coarse], shapes, classes, anchors_for(sizes, shapes), **options)
    return network.file(picture, outputs)


def in_floats(graph):
    """A network that ``read_graph`` has read, as a file that holds all its numbers as float32; ReLU6 follows
    every convolution but those whose output is reshaped: the predictors."""
    values = []
    for index, value in enumerate(graph.values):
        numbers = None
        if len(value.data):
            whole = value.stored == "<i4" and not len(value.scale)
            numbers = value.data.view(np.int32).reshape(value.shape) if whole else graph.constant(index).numpy()
        values.append(Value(value.shape, kind="float32" if numbers is None else numbers.dtype.name, numbers=numbers))
    operators = []
    for operator in graph.operators:
        options = {}
        if operator.kind in ("CONV_2D", "DEPTHWISE_CONV_2D"):
            options = {"Padding": tflite.Padding.SAME, "StrideH": operator.stride[0], "StrideW": operator.stride[1]}
            options |= {"DepthMultiplier": 1} if operator.kind == "DEPTHWISE_CONV_2D" else {}
            linear = any(other.kind == "RESHAPE" and operator.outputs[0] in other.inputs for other in graph.operators)
            options |= {} if linear else {"FusedActivationFunction": RELU6}
        elif operator.kind == "CONCATENATION":
            options = {"Axis": 1}
        elif operator.options:
            options = flexbuffers.Loads(operator.options)
        operators.append((operator.kind, list(operator.inputs), list(operator.outputs), options))
    last = operators[-1]
    return write(values, operators, inputs=[graph.input], outputs=last[2])


def read(path):
    """The detector in a file: its config, and weights under our names."""
    with open_file(path) as file:
        return ssd.read(file)


def convert_backbone(path, config):
    """The backbone in a classifier's file: weights under our names, and the config that they need."""
    with open_file(path) as file:
        return backbone.convert_backbone(file, config)
