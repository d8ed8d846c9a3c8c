"""The format of safetensors files: a header of names, shapes and text in JSON, then the tensors.

A tensor keeps its shape and dtype through a file; no dimension has a meaning here, so this module needs no shape letters.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO, NamedTuple, NoReturn

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from onestage.errors import WeightsError
from onestage.files import write_atomically
from onestage.model.limits import HEADER, TENSORS

FORMAT_KEY = "onestage_format"


FORMAT = 1
"""The version of our metadata. A file of a later version is refused rather than misread."""


LEAST, MOST = 1, 16
"""Bytes of a number in a tensor: 1 for a bool, 16 for a complex one of the largest kind."""

DAMAGED = "copy or download it again; it was damaged on the way"


class Header(NamedTuple):
    """The header of a safetensors file: its text metadata, and the shape of every tensor."""

    metadata: dict[str, str]
    shapes: dict[str, tuple[int, ...]]


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


def load_tensors(data: bytes, where: Path | str) -> dict[str, Tensor]:
    """The tensors in the bytes of a safetensors file, whose header is sound. Raise WeightsError that names ``where``."""
    try:
        return safetensors.torch.load(data)
    except (SafetensorError, ValueError, KeyError, TypeError, AssertionError, RuntimeError) as error:
        raise WeightsError("the weights file is damaged", where=where, got=error, fix=DAMAGED) from error


def read_header(stream: BinaryIO, size: int, where: Path | str) -> Header:
    """Header of a safetensors file of ``size`` bytes: its length in 8 bytes, then JSON, then the tensors. No tensor is read.

    stream: at its start. Raise WeightsError if the header is damaged, or of a later version of this project.
    """
    length = int.from_bytes(stream.read(8), "little")
    if length > HEADER.most:
        raise WeightsError(
            "the weights file is damaged: its header is too long", where=where, got=f"{length:,} bytes", fix=DAMAGED
        )
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


def _refuse_length(size: int, expected: int, where: Path | str) -> NoReturn:
    what = "is cut short" if size < expected else "has bytes after its end"
    raise WeightsError(
        f"the weights file {what}", where=where, got=f"{size:,} bytes", expected=f"{expected:,} bytes", fix=DAMAGED
    )
