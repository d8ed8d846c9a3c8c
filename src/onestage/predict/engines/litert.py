"""TensorFlow Lite files (.tflite), run by LiteRT.

Our contract is in a zip archive at the end of the file, where such files keep their metadata. Programs for .tflite files read
what comes before it, and programs for archives, such as unzip, read the archive.
"""

from __future__ import annotations

import hashlib
import io
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from threading import local
from typing import TYPE_CHECKING

import numpy as np

from onestage.errors import ConfigError, WeightsError, command
from onestage.predict.contract import KEY, OUTPUTS, Contract
from onestage.predict.engines.exported import FileEngine, check_inputs, read_bytes, threads

if TYPE_CHECKING:
    from ai_edge_litert.interpreter import Interpreter, SignatureRunner

NAME = "litert"
CONTRACT, DIGEST = f"{KEY}.json", f"{KEY}.sha256"
"""Files in the archive: the contract, and the SHA-256 of all that comes before the archive."""
IDENTIFIER = slice(4, 8), b"TFL3"
"""Where the format's mark stands in a file, and what it is."""
MOST_TEXT = 2**24
"""Bytes of a file in the archive."""


def with_contract(model: bytes, contract: Contract) -> bytes:
    """The bytes of a .tflite file with the contract behind them."""
    file = io.BytesIO(model)
    file.seek(0, io.SEEK_END)
    with zipfile.ZipFile(file, "a") as archive:
        for name, text in ((CONTRACT, contract.to_json()), (DIGEST, hashlib.sha256(model).hexdigest())):
            archive.writestr(zipfile.ZipInfo(name), text)  # of a fixed date: the same detector gives the same bytes
    return file.getvalue()


def open_litert(path: Path) -> FileEngine:
    """The engine of a .tflite file that ``export`` wrote.

    LiteRT checks little of what it reads, and a damaged file can end the whole process. So it gets only files that are byte for
    byte as they were written. Raise ConfigError if LiteRT is not installed, WeightsError if the file is damaged, or was not
    made by ``export``.
    """
    model, contract = _parts(read_bytes(path), path)
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError as error:
        raise ConfigError("LiteRT is not installed", where=path, fix="pip install 'onestage[litert]'") from error
    interpreters = _Interpreters(lambda: Interpreter(model_content=model, num_threads=threads()))
    try:
        runner = interpreters.runner()
        inputs = {name: np.dtype(entry["dtype"]).name for name, entry in runner.get_input_details().items()}
        outputs = list(runner.get_output_details())
    except (ValueError, RuntimeError) as error:
        what, got = "LiteRT cannot run this file", str(error).strip()[:200]
        raise WeightsError(what, where=path, got=got, fix="update ai-edge-litert, or export it again") from error
    check_inputs(path, contract, inputs, outputs)
    names = OUTPUTS[contract.ending]

    def run(arrays: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        found = interpreters.runner()(**arrays)
        return [found[name] for name in names]

    return FileEngine(contract, run, NAME)


class _Interpreters:
    """One interpreter for each thread, because an interpreter runs one image at a time. They share the bytes of the file."""

    def __init__(self, make: Callable[[], Interpreter]) -> None:
        self._make, self._kept = make, local()

    def runner(self) -> SignatureRunner:
        """This thread's: named inputs -> named outputs. Raise ValueError or RuntimeError if LiteRT cannot read the file."""
        if not hasattr(self._kept, "runner"):
            interpreter = self._make()
            interpreter.allocate_tensors()
            self._kept.runner = interpreter.get_signature_runner()
        runner: SignatureRunner = self._kept.runner
        return runner


def _parts(data: bytes, path: Path) -> tuple[bytes, Contract]:
    """The model and the contract in the bytes of a file. Raise WeightsError if they are not as ``export`` wrote them."""
    where, mark = IDENTIFIER
    if data[where] != mark:
        what, fix = "this is no TensorFlow Lite file", "copy it again, or export it again"
        raise WeightsError(what, where=path, got=repr(data[where]), expected=repr(mark), fix=fix)
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = {entry.filename: entry for entry in archive.infolist()}
            if not {CONTRACT, DIGEST} <= entries.keys():
                raise _foreign(path)
            if max(entry.file_size for entry in entries.values()) > MOST_TEXT:
                raise zipfile.BadZipFile("a text is too large")
            model = data[: min(entry.header_offset for entry in entries.values())]
            text, digest = (archive.read(name).decode() for name in (CONTRACT, DIGEST))
    except zipfile.BadZipFile as error:
        if CONTRACT.encode() not in data:
            raise _foreign(path) from error
        raise _damaged(path, str(error)) from error
    except (ValueError, LookupError, EOFError, NotImplementedError, RuntimeError, OSError, zlib.error) as error:
        raise _damaged(path, f"{type(error).__name__}: {error}") from error
    if (found := hashlib.sha256(model).hexdigest()) != digest:
        raise _damaged(path, f"SHA-256 {found}", digest)
    return model, Contract.from_json(text, where=path)


def _damaged(path: Path, got: str, expected: str = "the bytes that export wrote") -> WeightsError:
    what = "this exported file is damaged, or was changed after it was written"
    return WeightsError(what, where=path, got=got, expected=expected, fix="copy it again, or export it again")


def _foreign(path: Path) -> WeightsError:
    """The error for a file without our contract: another program's, or one of ours that was cut off."""
    what = "this TensorFlow Lite file was not exported by onestage, or was cut off"
    expected = f"an archive at its end, with {CONTRACT}"
    fix = f"if it is another program's detector: {command('import', path, '-o', 'imported.safetensors')}"
    return WeightsError(what, where=path, expected=expected, fix=fix)
