"""Files that hold tensors: each is opened once and recognised by its first bytes. safetensors files are read and written here.

No code in a file is run. A tensor keeps its shape and dtype through a file; no dimension has a meaning here, so this
module needs no shape letters.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
import os
import stat
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import BinaryIO, NamedTuple, NoReturn

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from onestage.errors import WeightsError, counted, first_ten
from onestage.files import given_path, write_atomically
from onestage.model.codec import Limit
from onestage.model.limits import HEADER, TENSORS, WEIGHTS_FILE

FORMAT_KEY = "onestage_format"


FORMAT = 1
"""The version of our metadata. A file of a later version is refused rather than misread."""


LEAST, MOST = 1, 16
"""Bytes of a number in a tensor: 1 for a bool, 16 for a complex one of the largest kind."""

FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
"""The types in which files hold real numbers."""
COUNTER = "num_batches_tracked"
"""How the names of batch norm's counters end. Nothing is computed from them, so a file may lack them or have more."""

DAMAGED = "copy or download it again; it was damaged on the way"


class FileKind(NamedTuple):
    """A kind of file: its name for messages, and the bytes at ``offset``."""

    name: str
    magic: bytes = b""
    offset: int = 0


TFLITE = FileKind("a TensorFlow Lite model", b"TFL3", 4)
SAFETENSORS = FileKind("a safetensors file", b"{", 8)
TORCH_ZIP = FileKind("a PyTorch checkpoint (.pth, .pt) or another zip archive", b"PK\x03\x04")
PICKLE = FileKind("a Python pickle (.pkl, an old .pth)", b"\x80")
EMPTY, UNKNOWN = FileKind("an empty file"), FileKind("a file of unknown type")
KINDS = (
    TFLITE,
    SAFETENSORS,
    TORCH_ZIP,
    PICKLE,
    FileKind("a NumPy array (.npy)", b"\x93NUMPY"),
    FileKind("a git-lfs pointer, not the file it stands for (run: git lfs pull)", b"version https://git-lfs"),
    FileKind("HTML or XML, perhaps the error page of a download", b"<"),
    FileKind("an HDF5 file (Keras)", b"\x89HDF"),
    FileKind("a gzip archive", b"\x1f\x8b"),
    FileKind("a JPEG picture", b"\xff\xd8\xff"),
    FileKind("a PNG picture", b"\x89PNG"),
    FileKind("JSON text", b"{"),
)
"""The first one that fits counts."""
IMPORTED = (TFLITE, TORCH_ZIP, PICKLE)
"""Kinds of files of other programs that may hold a detector."""


def kind_of(start: bytes) -> FileKind:
    """The kind of a file that begins with these bytes; 32 are enough."""
    if not start:
        return EMPTY
    return next((kind for kind in KINDS if start[kind.offset :].startswith(kind.magic)), UNKNOWN)


class Header(NamedTuple):
    """The header of a safetensors file: its text metadata, and the shape of every tensor."""

    metadata: dict[str, str]
    shapes: dict[str, tuple[int, ...]]


class OpenFile:
    """A file that holds tensors, open for reading. Its kind is known; everything more is read when it is needed.

    path: its name for messages. size: in bytes. stream: at any position.
    """

    def __init__(self, path: Path | str, stream: BinaryIO) -> None:
        self.path, self.stream = Path(path), stream
        self.size = os.fstat(stream.fileno()).st_size
        self.kind = kind_of(stream.read(32))

    def read(self) -> bytes:
        """The whole contents."""
        self.stream.seek(0)
        return self.stream.read()

    @cached_property
    def header(self) -> Header:
        """Metadata and shapes of a safetensors file; no tensor is read. Raise WeightsError if it is damaged or foreign."""
        self.stream.seek(0)
        return _read_header(self.stream, self.size, self.path)

    def tensors(self, *, finite: bool = True) -> dict[str, Tensor]:
        """The tensors of a safetensors file, on the CPU. Raise WeightsError as ``unpack_tensors`` does."""
        return unpack_tensors(self.read(), self.path, finite=finite)[0]


@contextlib.contextmanager
def open_file(path: Path | str) -> Iterator[OpenFile]:
    """Open a weights file. Raise WeightsError if it does not exist or cannot be read."""
    try:
        try:
            found = Path(path).stat()
        except (TypeError, ValueError):
            given_path(path, "path")  # says what is wrong with it
            raise
        if stat.S_ISFIFO(found.st_mode):  # to open it would wait for a writer, for ever
            raise WeightsError("this is not a file", where=path, got="a pipe", expected="a weights file")
        if found.st_size > WEIGHTS_FILE.most:
            refuse_large(WEIGHTS_FILE, found.st_size, path)
        with Path(path).open("rb") as stream:
            yield OpenFile(path, stream)
    except OSError as error:
        fix = "name the file in that folder" if isinstance(error, IsADirectoryError) else "check the path"
        raise WeightsError("the weights file cannot be read", where=path, got=error.strerror or error, fix=fix) from error


def refuse_large(limit: Limit, size: int, where: Path | str) -> NoReturn:
    """Raise the WeightsError of a file that is larger than its limit."""
    raise WeightsError(f"too many {limit.what}", where=where, got=f"{size:,}", expected=f"at most {limit.most:,}")


def pack_tensors(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    """The bytes of a safetensors file; the same tensors and metadata always give the same bytes.

    Tensors may lie on any device, be non-contiguous or share their memory: each is written as a whole.
    """
    if empty := [name for name, tensor in tensors.items() if tensor.is_meta]:
        fix = 'build it outside torch.device("meta")'
        raise WeightsError("a detector without numbers cannot be saved", got=f"tensor {empty[0]} on the meta device", fix=fix)
    plain: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in tensors.items():
        dense = tensor.detach().cpu().contiguous()
        memory = dense.untyped_storage().data_ptr()
        plain[name] = dense.clone() if memory in seen else dense
        seen.add(memory)
    packed = safetensors.torch.save(plain)
    # The library orders metadata by a hash that differs between processes, so the header is written again in a fixed order.
    length = int.from_bytes(packed[:8], "little")
    noted = dict(sorted({**metadata, FORMAT_KEY: str(FORMAT)}.items()))
    header = json.dumps({"__metadata__": noted, **json.loads(packed[8 : 8 + length])}, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)  # the format wants the tensors aligned
    return b"".join([len(header).to_bytes(8, "little"), header, memoryview(packed)[8 + length :]])


def save_tensors(path: Path | str, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file atomically. Raise WeightsError if it cannot be written."""
    write_atomically(path, pack_tensors(tensors, metadata))


def unpack_tensors(data: bytes, where: Path | str, *, finite: bool = True) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The inverse of ``pack_tensors``; errors name the file ``where``.

    It takes bytes, not a memory map: if a mapped file is shortened later, a bus error ends the process.
    """
    metadata, _ = _read_header(io.BytesIO(data), len(data), where)
    try:
        tensors = safetensors.torch.load(data)
    except (SafetensorError, ValueError, KeyError, TypeError, AssertionError, RuntimeError) as error:
        raise WeightsError("the weights file is damaged", where=where, got=error, fix=DAMAGED) from error
    if finite:
        check_finite(tensors, where)
    return tensors, metadata


def read_bytes(path: Path | str) -> bytes:
    """The contents of a weights file. Raise WeightsError if it does not exist or cannot be read."""
    with open_file(path) as file:
        return file.read()


def _read_header(stream: BinaryIO, size: int, where: Path | str) -> Header:
    """Header of a safetensors file of ``size`` bytes: its length in 8 bytes, then JSON, then the tensors."""
    start = stream.read(32)
    length = int.from_bytes(start[:8], "little")
    if (kind := kind_of(start)) is not SAFETENSORS:
        _refuse_kind(kind, where)
    if length > HEADER.most:
        raise WeightsError(
            "the weights file is damaged: its header is too long", where=where, got=f"{length:,} bytes", fix=DAMAGED
        )
    stream.seek(8)
    text = stream.read(length)
    if len(text) < length:
        _refuse_length(size, 8 + length, where)
    try:
        header, end = _parse_header(text)
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise WeightsError(
            "the weights file is damaged: its header is not understood", where=where, got=repr(error), fix=DAMAGED
        ) from error
    if size != 8 + length + end:
        _refuse_length(size, 8 + length + end, where)
    _check_version(header.metadata, where)
    return header


def _parse_header(text: bytes) -> tuple[Header, int]:
    """The header, and the byte after it at which the tensors end. Errors of json and of wrong types pass through."""
    entries = json.loads(text)
    metadata = entries.pop("__metadata__", {})
    if not all(isinstance(value, str) for value in metadata.values()):
        raise TypeError("metadata that is not text")
    if len(entries) > TENSORS.most:
        raise ValueError(f"more than {TENSORS.most:,} {TENSORS.what}")
    shapes = {name: tuple(map(_number, entry["shape"])) for name, entry in entries.items()}
    end = 0
    for start, stop in sorted(tuple(map(_number, entry["data_offsets"])) for entry in entries.values()):
        if not end == start <= stop:
            raise ValueError("tensors overlap, or there are bytes between them")
        end = stop
    for name, shape in shapes.items():
        start, stop = entries[name]["data_offsets"]
        if not math.prod(shape) * LEAST <= stop - start <= math.prod(shape) * MOST:
            raise ValueError(f"the shape of '{name}' does not fit its bytes")
    return Header(dict(metadata), shapes), end


def _number(value: object) -> int:
    """A size or a place in a header. Raise TypeError or ValueError unless it is a whole number of 0 or more."""
    if type(value) is not int:
        raise TypeError(f"a {type(value).__name__} in place of a number")
    if value < 0:
        raise ValueError("a number below 0")
    return value


def _check_version(metadata: Mapping[str, str], where: Path | str) -> None:
    version = metadata.get(FORMAT_KEY, str(FORMAT))  # a foreign safetensors file has none
    if version != str(FORMAT):
        raise WeightsError(
            "the weights file was written by a later onestage",
            where=where,
            got=f"format {version}",
            expected=f"format {FORMAT}",
            fix="update onestage",
        )


def check_finite(tensors: Mapping[str, Tensor], where: Path | str) -> None:
    """Raise WeightsError, naming the tensors, if one holds a NaN or an infinity."""
    bad = [name for name, t in tensors.items() if (t.is_floating_point() or t.is_complex()) and not t.isfinite().all()]
    if bad:
        raise WeightsError(
            f"{len(bad)} of the {len(tensors)} tensors hold NaN or infinity",
            where=where,
            got="\n" + first_ten(bad),
            fix="take an earlier file; this training had already diverged",
        )


def check_types(wanted: Mapping[str, Tensor], tensors: Mapping[str, Tensor], where: object) -> None:
    """Raise WeightsError if a tensor holds whole, true-or-false or complex numbers where the detector has real ones."""
    wrong = [f"{k}: {v.dtype}" for k, v in tensors.items() if wanted[k].is_floating_point() and v.dtype not in FLOATS]
    if wrong:
        what = f"{counted(len(wrong), 'tensor')} of another kind of number than the detector has"
        fix = "take the weights in floating-point numbers, before they were quantised or cast"
        raise WeightsError(what, where=where, got="\n" + first_ten(wrong), expected="float32, or 16 or 64 bits", fix=fix)


@contextlib.contextmanager
def without_memory(path: str | Path) -> Iterator[None]:
    """Build detectors inside this block with names and shapes, but without numbers (torch's meta device).

    Raise WeightsError for the file at ``path`` if a detector cannot be built.
    """
    try:
        with torch.device("meta"):
            yield
    except Exception as e:  # a damaged config can ask torch or timm for anything
        raise WeightsError("no detector can be built from the config in the file", where=path, got=e) from e


def shapes_of(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """The shape of every tensor, by name."""
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def differing(expected: Mapping[str, tuple[int, ...]], got: Mapping[str, tuple[int, ...]]) -> list[str]:
    """A line for every tensor that is missing, has another shape or is not part of the detector."""
    wrong = [f"{k}: missing, expected {s}" for k, s in expected.items() if k not in got]
    wrong += [f"{k}: {got[k]}, expected {s}" for k, s in expected.items() if k in got and got[k] != s]
    return wrong + [f"{k}: not part of this detector" for k in got if k not in expected]


def _refuse_length(size: int, expected: int, where: Path | str) -> NoReturn:
    what = "is cut short" if size < expected else "has bytes after its end"
    raise WeightsError(
        f"the weights file {what}", where=where, got=f"{size:,} bytes", expected=f"{expected:,} bytes", fix=DAMAGED
    )


def _refuse_kind(kind: FileKind, where: Path | str) -> NoReturn:
    if kind is EMPTY:
        raise WeightsError("the weights file is empty", where=where, fix=DAMAGED)
    raise WeightsError(
        "this is not a weights file of onestage",
        where=where,
        got=kind.name,
        expected="a safetensors file, as model.save() and training write it",
        fix=import_first(where) if kind in IMPORTED else "name the right file, or fetch it again",
    )


def import_first(path: Path | str) -> str:
    """What to do if a file holds another project's detector and one of ours is needed."""
    return f"import it first: onestage import {path} -o imported.safetensors"
