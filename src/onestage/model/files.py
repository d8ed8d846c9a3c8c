"""Weights on disk: written atomically, and read without running anything that a file holds.

Our own files are safetensors with text metadata. Foreign PyTorch files are read at one place, ``load_foreign``, tensors only.
A tensor keeps its shape and dtype through a file; none has a meaning here, so this file needs no shape letters.
"""

import argparse
import contextlib
import errno
import io
import json
import os
import re
import secrets
import time
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO, NamedTuple, NoReturn

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from onestage.errors import WeightsError, explain, first_ten

FORMAT_KEY = "onestage_format"
FORMAT = 1
"""The version of our metadata. A file of a later version is refused rather than misread."""

TEMPORARY = ".onestage-tmp"
"""How the name of every file ends that is still being written; what a crash leaves behind is known by it."""

ABANDONED_AFTER = 3600.0
"""Seconds after which a temporary file belongs to a crash, not to a writer still at work: no write takes that long."""

MAX_HEADER = 16 * 2**20
"""Bytes. A detector's header takes about 100 kB; parsing a hostile one of the format's own 100 MB takes a gigabyte."""

WRAPPERS = ("state_dict_ema", "model_ema", "ema", "state_dict", "model_state_dict", "model", "net", "weights")
"""Keys under which training programs store a state_dict. The averaged weights come first: they are the ones measured."""

PREFIXES = ("module.", "_orig_mod.")
"""What DistributedDataParallel and torch.compile put before every key."""

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
TORCH_PICKLE = torch.serialization.MAGIC_NUMBER.to_bytes(10, "little")
"""What torch.save pickles first, in its files that are no zip archives."""
DAMAGED = "copy or download it again; it was damaged on the way"


class Header(NamedTuple):
    """What a safetensors file says of itself: its text metadata, and the shape of every tensor."""

    metadata: dict[str, str]
    shapes: dict[str, tuple[int, ...]]


# --- writing ---------------------------------------------------------------------------------------------------------------


def write_atomically(path: Path | str, data: bytes) -> None:
    """Put ``data`` at ``path`` so that a reader, a crash or a full disk never meets half a file: the old one or the new one.

    The permissions are those of any new file (0666 less the umask). Raises WeightsError if it cannot be written; what was
    there before is then untouched. Removes what earlier crashes left in the same folder.
    """
    path = Path(path)
    if path.is_dir():
        raise _cannot_write(path, IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR)), len(data))
    remove_leftovers(path.parent)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}{TEMPORARY}")
    try:
        with temporary.open("xb") as file:
            file.write(data)
        commit(temporary, path)
    except OSError as error:
        raise _cannot_write(path, error, len(data)) from error
    finally:  # after success it is gone, after Ctrl-C or a full disk it must go
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def commit(temporary: Path, path: Path) -> None:
    """Move a finished file of the same folder to its final name, durably: contents first, then the name. Raises OSError."""
    with temporary.open("rb+") as file:
        os.fsync(file.fileno())
    temporary.replace(path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make the folder's list of names durable: a new name survives a power cut only then. Windows has no such call."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_leftovers(folder: Path, *, older_than: float = ABANDONED_AFTER) -> None:
    """Delete the temporary files in ``folder`` that nobody has touched for ``older_than`` seconds."""
    for leftover in folder.glob(f".*{TEMPORARY}"):
        with contextlib.suppress(OSError):  # another process may do the same
            if time.time() - leftover.stat().st_mtime >= older_than:
                leftover.unlink()


def _cannot_write(path: Path, error: OSError, size: int) -> WeightsError:
    fixes = {
        errno.ENOSPC: f"free at least {size / 1e6:.1f} MB on that disk",
        errno.EDQUOT: f"free at least {size / 1e6:.1f} MB of your quota",
        errno.ENOENT: "make the folder first",
        errno.EISDIR: "name a file, not a folder",
    }
    return WeightsError(
        explain(
            "the file could not be written; what was there before is untouched",
            where=path,
            got=error.strerror or error,
            fix=fixes.get(error.errno or 0, "choose a folder that you may write to"),
        )
    )


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


# --- reading our own files -------------------------------------------------------------------------------------------------


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
        raise WeightsError(explain("the weights file is damaged", where=where, got=error, fix=DAMAGED)) from error
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
        raise WeightsError(
            explain("the weights file cannot be read", where=path, got=error.strerror or error, fix=fix)
        ) from error


def _read_header(stream: BinaryIO, size: int, where: Path | str) -> Header:
    """Header of a safetensors file of ``size`` bytes: its length in 8 bytes, then JSON, then the tensors."""
    start = stream.read(32)
    length = int.from_bytes(start[:8], "little")
    if start[8:9] != b"{":
        _refuse_kind(start, size, where)
    if length > MAX_HEADER:
        raise WeightsError(
            explain("the weights file is damaged: its header is too long", where=where, got=f"{length:,} bytes", fix=DAMAGED)
        )
    stream.seek(8)
    text = stream.read(length)
    if len(text) < length:
        _refuse_length(size, 8 + length, where)
    try:
        header, end = _parse_header(text)
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise WeightsError(
            explain("the weights file is damaged: its header is not understood", where=where, got=repr(error), fix=DAMAGED)
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
            explain(
                "the weights file was written by a later onestage",
                where=where,
                got=f"format {version}",
                expected=f"format {FORMAT}",
                fix="update onestage",
            )
        )


def check_finite(tensors: Mapping[str, Tensor], where: Path | str) -> None:
    """Raise WeightsError, naming the tensors, if one holds a NaN or an infinity."""
    bad = [name for name, t in tensors.items() if (t.is_floating_point() or t.is_complex()) and not t.isfinite().all()]
    if bad:
        raise WeightsError(
            explain(
                f"{len(bad)} of the {len(tensors)} tensors hold NaN or infinity",
                where=where,
                got="\n" + first_ten(bad),
                fix="take an earlier file; this training had already diverged",
            )
        )


def _refuse_length(size: int, expected: int, where: Path | str) -> NoReturn:
    what = "is cut short" if size < expected else "has bytes after its end"
    raise WeightsError(
        explain(f"the weights file {what}", where=where, got=f"{size:,} bytes", expected=f"{expected:,} bytes", fix=DAMAGED)
    )


def _refuse_kind(start: bytes, size: int, where: Path | str) -> NoReturn:
    kind = _kind(start)
    if size == 0:
        raise WeightsError(explain("the weights file is empty", where=where, fix=DAMAGED))
    raise WeightsError(
        explain(
            "this is not a weights file of onestage",
            where=where,
            got=kind or "a file of unknown type",
            expected="a safetensors file, as model.save() and training write it",
            fix=import_first(where) if _is_foreign(start) else "name the right file, or fetch it again",
        )
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


# --- reading foreign files -------------------------------------------------------------------------------------------------


def is_safetensors(path: Path | str) -> bool:
    """Whether it is a safetensors file, told by its content. WeightsError where it cannot be read."""
    with _opened(path) as file:
        return file.read(9)[8:] == b"{"


def is_tflite(path: Path | str) -> bool:
    """Whether it is a TensorFlow Lite model, told by its content. WeightsError where it cannot be read."""
    with _opened(path) as file:
        return file.read(8)[4:] == TFLITE


def load_foreign(path: Path | str, *, finite: bool = True) -> dict[str, Tensor]:
    """The state_dict in another program's file (.pth, .pt, .pkl, .bin or .safetensors, told by content), on the CPU.

    Wrappers such as {"state_dict": ...} and prefixes such as "module." are taken off; nothing else is renamed. Raises
    WeightsError if the file is damaged, holds Python objects besides tensors and plain data (they could run code), no
    state_dict, or, with ``finite``, a NaN or infinity.
    """
    if is_safetensors(path):
        return _without_prefixes(load_tensors(path, finite=finite)[0])
    with _opened(path) as file:
        start = file.read(32)
    if not _is_pytorch(start):
        raise WeightsError(
            explain(
                "this is not a weights file",
                where=path,
                got=_kind(start) or ("a file of unknown type" if start else "an empty file"),
                expected="a PyTorch state_dict (.pth, .pt, .pkl, .bin) or a safetensors file",
            )
        )
    tensors = _state_dict(_load_pickled(path, start), path)
    for name, tensor in tensors.items():  # a view that repeats its memory could claim any size
        if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            raise WeightsError(explain(f"tensor '{name}' claims more numbers than the file holds", where=path, fix=DAMAGED))
    if finite:
        check_finite(tensors, path)
    return _without_prefixes({name: tensor.detach().clone() for name, tensor in tensors.items()})  # off the mapped file


def _load_pickled(path: Path | str, start: bytes) -> object:
    """Tensors and plain data out of a torch.save file, whose first bytes are ``start``. Namespace (a program's arguments) is
    plain data in other clothes.
    """
    try:
        with torch.serialization.safe_globals([argparse.Namespace]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns of old pickles and TorchScript; the outcome is what counts
            return torch.load(path, weights_only=True, map_location="cpu", mmap=start.startswith(b"PK"))
    except Exception as error:  # torch's reader lets many kinds through: RuntimeError, EOFError, KeyError, struct.error ...
        # torch's own text advises to load the file unsafely, so it is not passed on.
        culprit = re.search(r"GLOBAL (\S+)", str(error))
        if culprit:
            got, fix = f"Python objects ({culprit[1]}), which could run code when loaded", "save only model.state_dict()"
        elif "TorchScript" in str(error):
            got, fix = "a TorchScript program", "save the state_dict() of the model it was made from"
        elif not start.startswith(b"PK") and TORCH_PICKLE not in start:
            got, fix = "a Python pickle of other things than tensors", "save it anew: torch.save(model.state_dict(), FILE)"
        else:
            got, fix = f"contents that PyTorch cannot read ({type(error).__name__})", DAMAGED
        raise WeightsError(
            explain("the checkpoint cannot be imported", where=path, got=got, expected="a state_dict of tensors", fix=fix)
        ) from error


def _state_dict(content: object, path: Path | str) -> dict[str, Tensor]:
    """The mapping of names to tensors in ``content``, through its wrappers: no deeper than three, a pickle may hold itself."""
    for _ in range(3):
        content = _unwrapped(content)
    if isinstance(content, Mapping) and content and all(isinstance(value, Tensor) for value in content.values()):
        return {str(name): tensor for name, tensor in content.items()}
    got = f"a {type(content).__name__}"
    if isinstance(content, Mapping):
        got = f"entries {', '.join(map(str, list(content)[:10]))}" if content else "no entries at all"
    raise WeightsError(explain("no state_dict in the checkpoint", where=path, got=got, expected="names with tensors"))


def _unwrapped(content: object) -> object:
    """What the first wrapper key with tensors (or a further wrapper) in it stands for; ``content`` itself without one."""
    if isinstance(content, Mapping):
        for key in WRAPPERS:
            inner = content.get(key)
            if isinstance(inner, Mapping) and any(isinstance(value, Tensor | Mapping) for value in inner.values()):
                return inner
    return content


def _without_prefixes(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    tensors.pop("n_averaged", None)  # torch's AveragedModel counts beside the module it wraps
    for prefix in PREFIXES:
        if tensors and all(name.startswith(prefix) for name in tensors):
            tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    return tensors
