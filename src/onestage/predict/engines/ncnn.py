"""Files of ncnn, the runtime for phones.

NAME.ncnn.param is the graph, NAME.ncnn.bin the weights, and NAME.ncnn.json the contract.

Shape letters: A anchors, C logits per anchor, h and w of the input.
"""

from __future__ import annotations

import ctypes
import hashlib
import io
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from onestage.errors import ConfigError, WeightsError
from onestage.files import Json
from onestage.predict.contract import Contract
from onestage.predict.engines.exported import FileEngine, foreign, read_bytes, threads

if TYPE_CHECKING:
    import ncnn

NAME = "ncnn"
MAGIC = "7767517"
"""The first line of a .param file."""
FILES = "files"
"""The entry of the .json file that holds size and SHA-256 of the other two, by the ends of their names."""
DIGEST = "sha256"
"""The entry that holds the SHA-256 of all others, as JSON."""
IN, OUTS = "in0", ("out0", "out1")
"""The names that pnnx gives to the images, the logits and the deltas."""
LONGEST_NAME = 255
"""Characters of a name in a .param file. ncnn reads no more."""
FIX = "update ncnn and pnnx, or export to another format"
MOST_TEXT = 2**24
"""Bytes of a .json or .param file. Parsed, they would take several times as much memory."""
SETTING = re.compile(r'-?[0-9]{1,5}=(?:[-+.,0-9e]+|"[-+*/(),.0-9a-z]+")')
"""A setting of a layer in a .param file: numbers, or a formula of sizes."""


_ADDRESS = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)
_address = _ADDRESS(("PyCapsule_GetPointer", ctypes.pythonapi))
"""The address in a PyCapsule. The attribute of ``ctypes.pythonapi`` is shared by the whole process, so it stays as it is."""


def open_ncnn(path: Path) -> FileEngine:
    """The engine of a .param file that ``export`` wrote, with its .bin and .json. It computes in float32.

    ncnn checks little of what it reads, and a damaged file can end the whole process. So it gets only files that are byte for
    byte as they were written. Raise ConfigError if ncnn is not installed, WeightsError if a file is missing, damaged or was not
    made by ``export``.
    """
    try:
        import ncnn
    except ImportError as error:
        raise ConfigError("ncnn is not installed", where=path, fix="pip install 'onestage[ncnn]'") from error
    graph = read_bytes(path, most=MOST_TEXT)
    contract, files = _described(path)
    if contract.ending != "outputs" or contract.batch != 1 or contract.size is None or contract.pixels != "float32":
        what, expected = "this description is of no ncnn file", "one image of a fixed size, float32, without NMS"
        raise WeightsError(what, where=path.with_suffix(".json"), expected=expected, fix="export it again")
    _check_unchanged(path, graph, files)
    weights = path.with_suffix(".bin")
    data, text = read_bytes(weights), graph.decode(errors="replace")
    _check_unchanged(weights, data, files)
    check_graph(text, where=path, known=lambda layer: ncnn.layer_to_index(layer) >= 0)
    net = _net(text, data, path)
    return FileEngine(contract, lambda inputs: _run(net, inputs), NAME)


def _net(graph: str, weights: bytes, path: Path) -> ncnn.Net:
    """The network in the contents of a .param file and its .bin. Raise WeightsError if ncnn cannot read it."""
    import ncnn

    net = ncnn.Net()
    for option in ("use_fp16_packed", "use_fp16_storage", "use_fp16_arithmetic", "use_bf16_storage", "use_vulkan_compute"):
        setattr(net.opt, option, False)
    net.opt.num_threads = threads()
    if net.load_param_mem(graph) or net.load_model(_reader(weights)):
        raise WeightsError("ncnn cannot read this file", where=path, fix="update ncnn, or export it again")
    return net


def _reader(data: bytes) -> ncnn.DataReader:
    """The weights for ncnn, from memory. Unlike ncnn's ``load_model_mem`` it never reads behind the end of the data."""
    import ncnn

    class Reader(ncnn.DataReader):
        """Copy the next bytes to where ncnn wants them."""

        def read(self, place: object, size: int) -> int:
            """How many of ``size`` bytes there were. place: a PyCapsule with the address."""
            return file.readinto((ctypes.c_char * size).from_address(_address(place, None)))

    file = io.BytesIO(data)
    return Reader()


def _run(net: ncnn.Net, inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """images (1, 3, h, w) -> logits (1, A, C), deltas (1, A, 4). Threads share the net: each call has its extractor."""
    import ncnn

    image = np.ascontiguousarray(inputs["images"][0], dtype=np.float32)
    extractor, found = net.create_extractor(), []
    extractor.input(IN, ncnn.Mat(image))  # it reads the memory of the array, which lives until the end of this call
    for name in OUTS:
        status, output = extractor.extract(name)
        if status:
            raise RuntimeError(f"{name}: status {status}")
        found.append(np.array(output)[None])  # a copy: the memory belongs to the extractor
    return found


def _described(path: Path) -> tuple[Contract, dict[str, Json]]:
    """The contract in the .json file beside ``path``, and what it says about the other files."""
    beside = path.with_suffix(".json")
    if not beside.exists():
        raise foreign(path)
    described = read_bytes(beside, most=MOST_TEXT)
    try:
        written = described.decode()
        plain = json.loads(written)
        if written != json.dumps(plain):  # the last digit of a number may change without changing the number
            raise ValueError("it is not as it was written")
        files, stated = plain[FILES], plain.pop(DIGEST)
        text = json.dumps(plain)
        if stated != _digest(text.encode()):
            raise ValueError("it is not as it was written")
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        what = "the description of this file is damaged"
        raise WeightsError(what, where=beside, got=f"{type(error).__name__}: {error}", fix="export it again") from error
    return Contract.from_json(text, where=beside), files


def describe(contract: Contract, parts: Mapping[str, bytes]) -> str:
    """The text of a .json file: the contract, and size and SHA-256 of the other files. parts: by the ends of their names."""
    plain = json.loads(contract.to_json()) | {FILES: {end: _about(data) for end, data in parts.items()}}
    return json.dumps(plain | {DIGEST: _digest(json.dumps(plain).encode())})


def _about(data: bytes) -> dict[str, Json]:
    """What a .json file says about another file."""
    return {"bytes": len(data), "sha256": _digest(data)}


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _check_unchanged(path: Path, data: bytes, files: dict[str, Json]) -> None:
    """Raise WeightsError unless the content of a file is what ``files`` tells of it."""
    if not isinstance(files, dict) or files.get(path.suffix) != _about(data):
        what, expected = "this file is damaged, or belongs to another export", "the bytes that export wrote"
        raise WeightsError(what, where=path, got=f"{len(data):,} bytes", expected=expected, fix="copy it again")


def check_graph(text: str, *, where: Path, known: Callable[[str], bool]) -> None:
    """Raise WeightsError unless the text of a .param file is a whole graph of layers that ncnn knows.

    After two lines, with a number that names the format, and the numbers of layers and arrays, there is a line for each layer.
    """
    made: set[str] = set()
    try:
        magic, counts, *lines = [line.split() for line in text.splitlines() if line.strip()]
        layers, arrays = (int(number) for number in counts)
        for line in lines:
            made.update(_outputs(line, made, known))
        whole = magic == [MAGIC] and layers == len(lines) and arrays == len(made) and made.issuperset((IN, *OUTS))
    except ValueError as error:
        raise WeightsError("this is no graph of ncnn", where=where, got=error, fix=FIX) from error
    if not whole:
        raise WeightsError("this is no whole graph of ncnn", where=where, expected=f"{MAGIC}, and as many lines as it counts")


def _outputs(line: list[str], made: set[str], known: Callable[[str], bool]) -> list[str]:
    """The outputs of a layer. Its words are a type, a name, the numbers of inputs and outputs, their names, and settings.

    Raise ValueError if this is no layer that ncnn knows, or an input is not among the arrays ``made`` by lines above.
    """
    kind, name, inputs, outputs, *rest = line
    first, last = int(inputs), int(inputs) + int(outputs)
    taken, given, settings = rest[:first], rest[first:last], rest[last:]
    if not known(kind):
        raise ValueError(f"ncnn has no layer {kind}")
    if not 0 <= first <= last <= len(rest) or not made.issuperset(taken) or made.intersection(given):
        raise ValueError(f"inputs or outputs of {name}")
    if max(map(len, (kind, name, *given))) > LONGEST_NAME or not all(map(SETTING.fullmatch, settings)):
        raise ValueError(f"names or settings of {name}")
    return given
