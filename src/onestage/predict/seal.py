"""A SHA-256 at the end of an exported file. It shows damage, such as a flipped bit of a weight, before a runtime reads it.

It is no signature: every program can write one. Files of earlier versions have none; they are read without this check.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from onestage.errors import WeightsError
from onestage.files import write_file

DIGITS = 64
"""The length of a SHA-256 in hexadecimal."""


@dataclass(frozen=True)
class Seal:
    """How the digest stands at the end of a file: what comes before and after its digits, so that the file keeps its format.

    parts: the ends of the names of further files that it covers.
    """

    before: bytes
    after: bytes = b""
    parts: tuple[str, ...] = ()

    def split(self, data: bytes) -> tuple[bytes, str | None]:
        """The content of a file and the digest at its end, None if it has none."""
        start = len(data) - len(self.before) - DIGITS - len(self.after)
        if start < 0 or not data.startswith(self.before, start) or not data.endswith(self.after):
            return data, None
        return data[:start], data[start + len(self.before) :][:DIGITS].decode("latin-1")


SEALS = {
    ".onnx": Seal(b"\x72\x53\x0a\x0fonestage_sha256\x12\x40"),  # an entry of the metadata, as protocol buffers encode it
    ".xml": Seal(b"<!-- onestage_sha256 ", b" -->\n", parts=(".bin",)),
}
"""By the ends of the names of files. Archives such as .pt2 have checksums already."""


def write_seal(path: Path) -> None:
    """Put the digest at the end of an exported file, if files of its kind have one."""
    if (seal := SEALS.get(path.suffix)) is not None:
        content, _ = seal.split(path.read_bytes())
        parts = [path.with_suffix(end).read_bytes() for end in seal.parts]
        write_file(path, content + seal.before + _digest(content, parts).encode() + seal.after)


def check_seal(path: Path, data: bytes, parts: Sequence[bytes] = ()) -> None:
    """Raise WeightsError if the content ``data`` of the file at ``path``, or of its further files, is not as it was written. A
    digest that is no longer at the end, because something came behind it or it was cut off, says so too.

    parts: the contents of the further files, in the order of ``Seal.parts``.
    """
    if (seal := SEALS.get(path.suffix.lower())) is None:
        return
    content, stated = seal.split(data)
    if stated is None and seal.before not in data:
        return
    found = _digest(content, parts)
    if stated != found:
        what, expected = "this exported file is damaged, or was changed after it was written", stated or "a SHA-256 at its end"
        raise WeightsError(what, where=path, got=f"SHA-256 {found}", expected=expected, fix="export it again, or copy it again")


def _digest(content: bytes, parts: Sequence[bytes]) -> str:
    """The SHA-256 of the content of a file and of its further files."""
    digest = hashlib.sha256(content)
    for part in parts:
        digest.update(part)
    return digest.hexdigest()
