"""Files that hold tensors, ours and foreign ones. Each is opened once and recognised by its first bytes.

Here is what all readers share: checks of tensors, and the classes of files that do not name them. No dimension has a meaning
here, so this module needs no shape letters.
"""

from __future__ import annotations

import contextlib
import io
import os
import stat
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import BinaryIO, NamedTuple, NoReturn

import torch
from torch import Tensor

from onestage.errors import WeightsError, absent, command, counted, first_ten
from onestage.files import given_path
from onestage.model.codec import Limit
from onestage.model.config import DetectorConfig
from onestage.model.limits import WEIGHTS_FILE
from onestage.weights.safetensors_file import DAMAGED, Header, load_tensors, read_header

FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
"""The types in which files hold real numbers."""
COUNTER = "num_batches_tracked"
"""How the names of batch norm's counters end. Nothing is computed from them, so a file may lack them or have more."""


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
MODEL_FILES = (".safetensors", ".pth", ".pt")
"""How the names of weights files end."""
EXPORTED = (".onnx", ".xml", ".pt2", ".param")
"""How the names of files end that ``export`` writes, and that are never imported."""
IMPORTED = (TFLITE, TORCH_ZIP, PICKLE)
"""Kinds of files of other programs that may hold a detector."""


def kind_of(start: bytes) -> FileKind:
    """The kind of a file that begins with these bytes; 32 are enough."""
    if not start:
        return EMPTY
    return next((kind for kind in KINDS if start[kind.offset :].startswith(kind.magic)), UNKNOWN)


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
        _check_kind(self.kind, self.path)
        self.stream.seek(0)
        return read_header(self.stream, self.size, self.path)

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
        if not stat.S_ISREG(found.st_mode):  # to open a pipe would wait for a writer, for ever
            raise WeightsError.no_file(path, "a weights file", ends=MODEL_FILES)
        if Path(path).suffix.lower() in EXPORTED:
            what, expected = (
                "this is an exported file, not a model",
                "the model that it was made from: a run folder or its file",
            )
            fix = "name that model; onestage predict, evaluate and benchmark take exported files, and so does onestage.load"
            raise WeightsError(what, where=path, expected=expected, fix=fix)
        if found.st_size > WEIGHTS_FILE.most:
            refuse_large(WEIGHTS_FILE, found.st_size, path)
        with Path(path).open("rb") as stream:
            yield OpenFile(path, stream)
    except OSError as error:
        fix = "name the file in that folder" if isinstance(error, IsADirectoryError) else "check the path"
        if isinstance(error, FileNotFoundError):
            raise WeightsError(absent(path), where=path, fix=fix) from error
        raise WeightsError("the weights file cannot be read", where=path, got=error.strerror or error, fix=fix) from error


def refuse_large(limit: Limit, size: int, where: Path | str) -> NoReturn:
    """Raise the WeightsError of a file that is larger than its limit."""
    raise WeightsError(f"too many {limit.what}", where=where, got=f"{size:,}", expected=f"at most {limit.most:,}")


def unpack_tensors(data: bytes, where: Path | str, *, finite: bool = True) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The inverse of ``pack_tensors``; errors name the file ``where``.

    It takes bytes, not a memory map: if a mapped file is shortened later, a bus error ends the process.
    """
    _check_kind(kind_of(data[:32]), where)
    metadata, _ = read_header(io.BytesIO(data), len(data), where)
    tensors = load_tensors(data, where)
    if finite:
        check_finite(tensors, where)
    return tensors, metadata


def read_bytes(path: Path | str) -> bytes:
    """The contents of a weights file. Raise WeightsError if it does not exist or cannot be read."""
    with open_file(path) as file:
        return file.read()


def check_finite(tensors: Mapping[str, Tensor], where: Path | str) -> None:
    """Raise WeightsError, naming the tensors, if one holds a NaN or an infinity. Numbers of 8 bits or fewer, which no detector
    has, are not looked at: torch cannot tell of all kinds of them.
    """
    real = {name: t for name, t in tensors.items() if (t.is_floating_point() or t.is_complex()) and t.itemsize > 1}
    bad = [name for name, t in real.items() if not t.isfinite().all()]
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
        what, fix = "no detector can be built from the config in the file", "take another copy of the file, or update onestage"
        raise WeightsError(what, where=path, got=e, fix=fix) from e


def shapes_of(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """The shape of every tensor, by name."""
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def differing(expected: Mapping[str, tuple[int, ...]], got: Mapping[str, tuple[int, ...]]) -> list[str]:
    """A line for every tensor that is missing, has another shape or is not part of the detector."""
    wrong = [f"{k}: missing, expected {s}" for k, s in expected.items() if k not in got]
    wrong += [f"{k}: {got[k]}, expected {s}" for k, s in expected.items() if k in got and got[k] != s]
    return wrong + [f"{k}: not part of this detector" for k in got if k not in expected]


def _check_kind(kind: FileKind, where: Path | str) -> None:
    """Raise WeightsError for a file of another kind than ours."""
    if kind is EMPTY:
        raise WeightsError("the weights file is empty", where=where, fix=DAMAGED)
    if kind is not SAFETENSORS:
        raise WeightsError(
            "this is not a weights file of onestage",
            where=where,
            got=kind.name,
            expected="a safetensors file, as model.save() and training write it",
            fix=import_first(where) if kind in IMPORTED else "name the right file, or fetch it again",
        )


def import_first(path: Path | str) -> str:
    """What to do if a file holds another project's detector and one of ours is needed."""
    return f"import it first: {command('import', path, '-o', 'imported.safetensors')}"


def numbered_classes(count: int) -> tuple[str, ...]:
    """The names of K classes that were given by number only. Weights or training replace them by the true names."""
    return tuple(f"class {i}" for i in range(count))


def is_numbered(config: DetectorConfig) -> bool:
    """Whether the classes of a config were given by number only."""
    return config.classes == numbered_classes(len(config.classes))
