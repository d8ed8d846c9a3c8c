"""The files and folders that an export writes: whether they are in the way, and how they take their places."""

from __future__ import annotations

import mmap
import re
from collections.abc import Sequence
from pathlib import Path

from onestage.deploy.example import is_example
from onestage.deploy.vectors import README
from onestage.errors import ConfigError
from onestage.files import open_regular, writing

MARK = b"source_sha256"
"""A key of the contract. It stands as it is in every kind of exported file."""
LONGEST = 2**24
"""Bytes of a longest example, by far."""
VECTORS = re.compile(r"README\.txt|picture_\d+\.png|input_\d+\.npy|boxes_\d+\.json")
"""Names in a folder of test vectors. A folder with other names is not replaced: no export wrote them."""


def check_targets(targets: Sequence[Path], parts: Sequence[Path] = (), *, overwrite: bool) -> None:
    """Raise ConfigError if one of the files and folders of an export exists. The last is the file that was asked for.
    overwrite: only if no export wrote it. Of the parts, which belong together, one is enough that shows it: weights do not.

    Raise WriteError if the system does not take a name.
    """
    taken = []
    for target in targets:
        with writing(target):  # a name may be too long
            if target.is_symlink() or target.exists():
                taken.append(target)
    for target in taken:
        if target.is_symlink():
            raise ConfigError("a link is not replaced", where=target, fix="name the file at its end, or move the link away")
    if taken and not overwrite:
        fix = "name another one, move it away, or replace an earlier export: config=ExportConfig(overwrite=True)"
        place = targets[-1] if targets[-1] in taken else taken[0]
        raise ConfigError("the file to write exists already", where=place, fix=fix)
    for target in taken:
        if not any(map(is_exported, parts if target in parts else [target])):
            what, fix = "this is in the way, and onestage did not export it", "name another file, or move it away"
            raise ConfigError(what, where=target, fix=fix)


def put_in_place(drafts: Path, targets: Sequence[Path]) -> None:
    """Move what lies in the temporary folder ``drafts`` to the targets of the same names, in their order. What an earlier
    export left there goes. Raise OSError.
    """
    for target in targets:
        made = drafts / target.name
        if target.is_dir():
            target.replace(drafts / f".before_{target.name[:99]}")  # goes with the temporary folder
        if made.exists():
            made.replace(target)
        else:
            target.unlink(missing_ok=True)


def is_exported(path: Path) -> bool:
    """Whether an export wrote a file, a folder of test vectors, or an example that was not edited since."""
    try:
        if path.is_dir():
            names = [inside.name for inside in path.iterdir()]
            if not all(map(VECTORS.fullmatch, names)):
                return False
            with open_regular(path / "README.txt") as file:
                return file.read().startswith(README[: README.index("{")].encode())
        with open_regular(path) as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return content.find(MARK) >= 0 or is_example(content[:LONGEST])
    except (OSError, ValueError):  # there is no such file in the folder, it is empty, no text, or no file
        return False
