"""What a batch is: its model, its options and its pictures, written down before the first picture is looked at.

The folder of the results holds

    part-000000.parquet ...     a row for each picture, a file for each shard
    _batch/pictures.parquet     the pictures, a row group for each shard
    _batch/model.safetensors    a copy of the model, so that any machine has it and nothing can change it
    _batch/manifest.json        this; it comes last, so where it is, all else is whole

A second command for the same folder must mean the same batch. Programs that read a folder of Parquet files pass over names that
begin with an underscore.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Self

from onestage.data.batch_folder import HIDDEN, MANIFEST, PICTURES, is_batch
from onestage.errors import ConfigError, DataError, check_folder_place
from onestage.files import TEMPORARY, atomic_file
from onestage.scale.listing import SECRETS, Summary

NEW_PICTURES, LOCK = "new-pictures.parquet", "lock"
REPORT = "_report"
USUAL_SCORE = 0.5
"""That the command takes for a model without thresholds, if none is given."""
VERSION = 2
"""Of the form of the folder. Another one is refused."""


@dataclass(frozen=True)
class Options:
    """All that decides what is found, besides the model and the pictures.

    score: the least one; None for the thresholds of the model. top: detections of a picture. batch_size: pictures that go
    through the network together, if they fit into picture_memory, in gigabytes of each process. shard_size: pictures of a part.
    runtime and precision: what computes, and how. device: "cpu" or "cuda". seconds: whether rows say how long their picture
    took.
    """

    score: float | None = None
    classes: tuple[str, ...] = ()
    top: int | None = None
    batch_size: int = 8
    picture_memory: float = 1.0
    shard_size: int = 500
    runtime: str = "torch"
    precision: Literal["fp32", "bf16"] = "fp32"
    device: str = "cpu"
    seconds: bool = True


def nothing_found(options: Options) -> str:
    """What to say of a batch without an object, and what to try."""
    if options.score is None:
        return "nothing reached the threshold of its class: try a lower --score, in another folder"
    return f"nothing reached a score of {options.score:g}: try --score {options.score / 5:.1g}, in another folder"


@dataclass(frozen=True)
class ModelNote:
    """A model. name: as the user wrote it. file: in the folder of the batch. digest: of all that it computes."""

    name: str
    file: str
    digest: str
    classes: tuple[str, ...]


@dataclass(frozen=True)
class Manifest:
    """A batch. given: the words for its input. made_by: the versions of programs, which do not decide but are told."""

    model: ModelNote
    options: Options
    given: tuple[str, ...]
    pictures: Summary
    made_by: Mapping[str, str]

    @cached_property
    def digest(self) -> str:
        """A SHA-256 of all that decides the results. Every part holds it."""
        parts = [VERSION, self.model.digest, list(self.model.classes), asdict(self.options), asdict(self.pictures)]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def write(self, folder: Path) -> None:
        """Put it into the folder of results, durably. Raise WriteError if that is not possible."""
        content = {"version": VERSION, "digest": self.digest, **asdict(self)}
        with atomic_file(folder / HIDDEN / MANIFEST, durable=True) as file:
            file.write((json.dumps(content, indent=1, ensure_ascii=True) + "\n").encode())

    @classmethod
    def read(cls, folder: Path) -> Self:
        """The manifest of a folder of results. Raise DataError if there is none, or it is damaged or of another version."""
        path = folder / HIDDEN / MANIFEST
        fix = "name the folder that onestage batch -o named"
        try:
            content = json.loads(path.read_bytes())
            if content["version"] != VERSION:
                what, fix = "this batch was made by another version of onestage", "begin again in another folder: -o OTHER"
                raise DataError(what, where=path, got=f"form {content['version']}", expected=f"form {VERSION}", fix=fix)
            model = ModelNote(**_tuples(content["model"], ModelNote))
            if not model.file.startswith("model.") or "/" in model.file or "\\" in model.file:
                raise ValueError(f"the model is in {model.file!r}")
            options = Options(**_tuples(content["options"], Options))
            made = cls(model, options, tuple(content["given"]), Summary(**content["pictures"]), content["made_by"])
            if made.digest != content["digest"]:
                raise ValueError("the digest is another one")
        except DataError:
            raise
        except (FileNotFoundError, NotADirectoryError) as error:
            raise DataError("this folder holds no results of onestage batch", where=folder, fix=fix) from error
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            what, fix = "the manifest of this batch is damaged", "begin again in another folder: -o OTHER"
            raise DataError(what, where=path, got=f"{type(error).__name__}: {error}", fix=fix) from error
        return made


def _tuples(content: Mapping[str, Any], kind: type) -> dict[str, Any]:
    """The fields of a dataclass as JSON holds them: lists stand for tuples. Raise TypeError for others."""
    if not isinstance(content, dict) or content.keys() != {field.name for field in fields(kind)}:
        raise TypeError(f"other fields than those of {kind.__name__}")
    return {name: tuple(value) if isinstance(value, list) else value for name, value in content.items()}


def changes(before: Manifest, after: Manifest, pictures: str) -> list[str]:
    """What another command for the same folder would change, a line each. pictures: how the lists differ, if they do."""
    lines = []
    if before.model.digest != after.model.digest or before.model.classes != after.model.classes:
        names = [f"{model.name} ({model.digest[:12]})" for model in (before.model, after.model)]
        lines.append(f"the model: {names[0]} before, {names[1]} now")
    old, new = asdict(before.options), asdict(after.options)
    lines += [
        f"--{name.replace('_', '-')}: {_word(name, old[name])} before, {_word(name, new[name])} now"
        for name in old
        if old[name] != new[name]
    ]
    if before.pictures.digest != after.pictures.digest:
        lines.append(f"the input: {pictures}")
    return lines


def _word(name: str, value: object) -> str:
    """The value of an option as it is typed, and whether it is the usual one, which is perhaps not typed."""
    if value is None:
        return "the usual"
    if isinstance(value, tuple | list):
        return " ".join(map(str, value)) or "all (the usual)"
    word = ("on" if value else "off") if isinstance(value, bool) else str(value)
    return f"{word} (the usual)" if value in (getattr(Options(), name), USUAL_SCORE if name == "score" else None) else word


def refuse(folder: Path, lines: list[str]) -> ConfigError:
    """The error for a command that would change a batch."""
    fix = "the same options, model and pictures as before, or another folder: -o OTHER"
    return ConfigError("the results in this folder are of another batch", where=folder, got="\n".join(lines), fix=fix)


def check_folder(folder: Path) -> None:
    """Raise ConfigError if a folder for results holds anything that no batch left there."""
    check_folder_place(folder, "a folder for results", fix="name a folder: -o OUT")
    if not folder.is_dir() or is_batch(folder):
        return
    hidden = folder / HIDDEN
    ours = {PICTURES, NEW_PICTURES, SECRETS, LOCK}  # a batch that was killed before its manifest was written
    begun = [path.name for path in hidden.iterdir()] if hidden.is_dir() else []
    strange = [
        f"{HIDDEN}/{name}" for name in begun if name not in ours and not name.startswith("model.") and not _is_temporary(name)
    ]
    strange += [path.name for path in folder.iterdir() if path.name != HIDDEN and not _is_temporary(path.name)]
    if strange:
        what, fix = "files are in the way that onestage batch did not write", "choose another folder with -o, or move them away"
        raise ConfigError(what, where=folder, got=", ".join(sorted(strange)[:5]), expected="a new or empty folder", fix=fix)


def _is_temporary(name: str) -> bool:
    return name.startswith(".") and name.endswith(TEMPORARY)
