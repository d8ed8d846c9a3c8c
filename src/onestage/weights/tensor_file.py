"""Tensors on disk as safetensors with text metadata, read without running anything that a file holds.

A tensor keeps its shape and dtype through a file; none has a meaning here, so this file needs no shape letters.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO, NamedTuple, NoReturn

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from onestage.errors import WeightsError, first_ten
from onestage.files import write_atomically

FORMAT_KEY = "onestage_format"


FORMAT = 1
"""The version of our metadata. A file of a later version is refused rather than misread."""


MAX_HEADER = 16 * 2**20
"""Bytes. A detector's header takes about 100 kB; parsing a hostile one of the format's own 100 MB takes a gigabyte."""


KINDS: tuple[tuple[bytes, str], ...] = (
    (b"PK\x03\x04", "a PyTorch checkpoint (.pth, .pt) or another zip archive"),
    (b"\x80", "a Python pickle (.pkl, an old .pth)"),
    (b"version https://git-lfs", "a git-lfs pointer, not the file it stands for (run: git lfs pull)"),
    (b"<", "HTML or XML, perhaps the error page of a download"),
    (b"\x89HDF", "an HDF5 file (Keras)"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"\xff\xd8\xff", "a JPEG picture"),
    (b"\x89PNG", "a PNG picture"),
    (b"{", "JSON text"),
)


TFLITE = b"TFL3"
"""Bytes 4 to 7 of a TensorFlow Lite model: the identifier of a flatbuffer."""


DAMAGED = "copy or download it again; it was damaged on the way"


class Header(NamedTuple):
    """What a safetensors file says of itself: its text metadata, and the shape of every tensor."""

    metadata: dict[str, str]
    shapes: dict[str, tuple[int, ...]]


def pack_tensors(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    """The bytes of a safetensors file; the same tensors and metadata always give the same bytes.

    Tensors may lie on any device, be non-contiguous or share their memory: each is written whole.
    """
    plain: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in tensors.items():
        dense = tensor.detach().cpu().contiguous()
        memory = dense.untyped_storage().data_ptr()
        plain[name] = dense.clone() if memory in seen else dense
        seen.add(memory)
    packed = safetensors.torch.save(plain)
    # The library orders metadata by a hash that differs from process to process, so the header is written anew.
    length = int.from_bytes(packed[:8], "little")
    noted = dict(sorted({**metadata, FORMAT_KEY: str(FORMAT)}.items()))
    header = json.dumps({"__metadata__": noted, **json.loads(packed[8 : 8 + length])}, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)  # the format wants the tensors aligned
    return b"".join([len(header).to_bytes(8, "little"), header, memoryview(packed)[8 + length :]])


def save_tensors(path: Path | str, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file atomically. Raises WeightsError if it cannot be written."""
    write_atomically(path, pack_tensors(tensors, metadata))


def load_tensors(path: Path | str, *, finite: bool = True) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors, on the CPU, and metadata of a safetensors file. Raises WeightsError if it is damaged or something else.

    With ``finite`` a NaN or an infinity in it is an error as well.
    """
    return unpack_tensors(read_bytes(path), path, finite=finite)


def unpack_tensors(data: bytes, where: Path | str, *, finite: bool = True) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The inverse of ``pack_tensors``; errors name the file ``where``.

    From bytes and not by memory map: a mapped file that somebody shortens later kills the process with a bus error.
    """
    metadata, _ = _read_header(io.BytesIO(data), len(data), where)
    try:
        tensors = safetensors.torch.load(data)
    except (SafetensorError, ValueError, KeyError, TypeError, AssertionError, RuntimeError) as error:
        raise WeightsError("the weights file is damaged", where=where, got=error, fix=DAMAGED) from error
    if finite:
        check_finite(tensors, where)
    return tensors, metadata


def read_header(path: Path | str) -> Header:
    """Metadata and shapes of a safetensors file; no tensor is read. Raises WeightsError like ``load_tensors``."""
    with _opened(path) as file:
        return _read_header(file, os.fstat(file.fileno()).st_size, path)


def read_metadata(path: Path | str) -> dict[str, str]:
    """The text metadata of a safetensors file, cheaply. Raises WeightsError like ``load_tensors``."""
    return read_header(path).metadata


def read_bytes(path: Path | str) -> bytes:
    """The contents of a weights file; WeightsError if there is none or it may not be read."""
    with _opened(path) as file:
        return file.read()


@contextlib.contextmanager
def _opened(path: Path | str) -> Iterator[BinaryIO]:
    try:
        with Path(path).open("rb") as file:
            yield file
    except OSError as error:
        fix = "name the file in that folder" if isinstance(error, IsADirectoryError) else "check the path"
        raise WeightsError("the weights file cannot be read", where=path, got=error.strerror or error, fix=fix) from error


def _read_header(stream: BinaryIO, size: int, where: Path | str) -> Header:
    """Header of a safetensors file of ``size`` bytes: its length in 8 bytes, then JSON, then the tensors."""
    start = stream.read(32)
    length = int.from_bytes(start[:8], "little")
    if start[8:9] != b"{":
        _refuse_kind(start, size, where)
    if length > MAX_HEADER:
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
    """The header, and at which byte after it the tensors end. Errors of json and of wrong types pass through."""
    entries = json.loads(text)
    metadata = entries.pop("__metadata__", {})
    if not all(isinstance(value, str) for value in metadata.values()):
        raise TypeError("metadata that is not text")
    shapes = {name: tuple(int(side) for side in entry["shape"]) for name, entry in entries.items()}
    end = max((int(entry["data_offsets"][1]) for entry in entries.values()), default=0)
    return Header(dict(metadata), shapes), end


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


def _refuse_length(size: int, expected: int, where: Path | str) -> NoReturn:
    what = "is cut short" if size < expected else "has bytes after its end"
    raise WeightsError(
        f"the weights file {what}", where=where, got=f"{size:,} bytes", expected=f"{expected:,} bytes", fix=DAMAGED
    )


def _refuse_kind(start: bytes, size: int, where: Path | str) -> NoReturn:
    kind = _kind(start)
    if size == 0:
        raise WeightsError("the weights file is empty", where=where, fix=DAMAGED)
    raise WeightsError(
        "this is not a weights file of onestage",
        where=where,
        got=kind or "a file of unknown type",
        expected="a safetensors file, as model.save() and training write it",
        fix=import_first(where) if _is_foreign(start) else "name the right file, or fetch it again",
    )


def _kind(start: bytes) -> str | None:
    if start[4:8] == TFLITE:
        return "a TensorFlow Lite model"
    return next((kind for magic, kind in KINDS if start.startswith(magic)), None)


def import_first(path: Path | str) -> str:
    """What to do with another project's detector where one of ours is wanted."""
    return f"import it first: onestage import {path} -o imported.safetensors"


def _is_foreign(start: bytes) -> bool:
    return _is_pytorch(start) or start[4:8] == TFLITE


def _is_pytorch(start: bytes) -> bool:
    return start.startswith((b"PK\x03\x04", b"\x80"))


def is_safetensors(path: Path | str) -> bool:
    """Whether it is a safetensors file, told by its content. WeightsError where it cannot be read."""
    with _opened(path) as file:
        return file.read(9)[8:] == b"{"


def is_tflite(path: Path | str) -> bool:
    """Whether it is a TensorFlow Lite model, told by its content. WeightsError where it cannot be read."""
    with _opened(path) as file:
        return file.read(8)[4:] == TFLITE
