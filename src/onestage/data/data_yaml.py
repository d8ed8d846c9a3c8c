"""What YOLO's data.yaml says: the splits, the names of the classes.

Policy:
- A folder or list of a split is searched below ``path``, then beside data.yaml, for each split alone. If it exists at both
  places and they differ, it is an error.
- A key that is not known, but is close to one that the file lacks, is an error: ``trian`` would hide the training pictures.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path

from onestage.data.dataset import Problem
from onestage.data.files import MAX_BYTES, Sources, head
from onestage.data.pairing import Named
from onestage.data.picture_lists import PictureList, in_order, read_pictures, texts
from onestage.data.plain_yaml import Plain, read_yaml
from onestage.data.split_words import SPLIT_OF_WORD, split_name
from onestage.data.text import is_number, listed, quoted, repeated
from onestage.data.tree import ByName, Tree, folded
from onestage.errors import DataError

KEYS = ("path", "train", "val", "test", "names", "nc", "kpt_shape")
"""The keys that are read, for messages."""

_WORDS = ("path", "names", "kpt_shape", *SPLIT_OF_WORD)
"""Spellings of keys that others may be close to; ``nc`` is close to too many."""
_OTHERS = frozenset({"nc", "kpt_names", "flip_idx", "minival", "skeleton", "channels", "download", "roboflow"})
"""Keys of Ultralytics that are not read."""
_CLOSE = 0.66
"""The least similarity of a misspelt key, whose first letter is right: ``vla`` is close to ``val``."""
_USUAL_NAMES = frozenset({"data", "dataset"})
"""Names of files that describe a data set, before their suffix."""
_EMPTY = ("", "null", "~")

_DATA_YAML = tuple(re.compile(rf"^{key}\s*:", re.MULTILINE) for key in ("names", "(train|val|test)"))  # a faulty file's


def describes_data(file: Path) -> bool:
    """Whether a YAML file has names and some split among its keys, perhaps one of them misspelt. One that cannot be read counts
    if it looks so.
    """
    text = head(file, MAX_BYTES[".yaml"])
    usual = file.stem.lower() in _USUAL_NAMES
    if "names" not in text and not usual:
        return False
    try:
        content = read_yaml(file)
    except DataError:
        return all(pattern.search(text) for pattern in _DATA_YAML)
    exact = {key.rstrip(" :") for key in content}
    if "names" in exact:
        return any(_split_of_key(key) or split_name(_meant(key) or "") for key in content)
    return usual and any(map(_split_of_key, content)) and "names" in map(_meant, content)


def _split_of_key(key: str) -> str | None:
    """The split that a key of data.yaml names, such as ``val`` or ``valid``."""
    return split_name(key) if key.isalpha() else None


def _meant(key: str) -> str | None:
    """The known key that an unknown one is close to, such as ``train`` for ``trian`` or ``train_images``; None if there is
    none.
    """
    word = key.strip(" :").lower()
    if word in _WORDS or word in _OTHERS:
        return None
    likely = [known for known in _WORDS if known[:1] == word[:1]]
    return split_name(word) or next(iter(get_close_matches(word[:40], likely, n=1, cutoff=_CLOSE)), None)


def check_keys(file: Path, content: Mapping[str, Plain]) -> None:
    """Raise DataError for a key that is close to one that the file lacks."""
    present = {_split_of_key(key) or key for key in content}
    for key, value in content.items():
        meant = _meant(key)
        is_measure = isinstance(value, str) and is_number(value.replace(".", ""))
        if meant and not is_measure and (split_name(meant) or meant) not in present and _split_of_key(key) is None:
            what = f"there is no key {quoted(key)} in data.yaml (did you mean {meant!r}?)"
            raise DataError(what, where=file, expected=", ".join(KEYS), fix=f"rename it to {meant}, or remove it")


def class_names(file: Path, content: Mapping[str, Plain]) -> tuple[str, ...]:
    """The class names. Raise DataError if they cannot be read, one comes twice, or their number is not ``nc``."""
    names, count = _name_list(content.get("names", "")), content.get("nc")
    if not names:
        written = content.get("names", "")
        gap = next((str(number) for number in range(len(written)) if str(number) not in written), None)
        what = "the names of the classes cannot be read"
        what += f": there is none for {gap}" if isinstance(written, dict) and gap else ""
        expected = "a list of names, or a mapping from 0, 1, 2 and so on to names"
        fix = "write them as names: [cat, dog], in the order of the numbers in the labels"
        raise DataError(what, where=f"{file}: names", got=quoted(written) if written else None, expected=expected, fix=fix)
    if len(set(names)) < len(names):
        got, fix = listed(repeated(names)), "give the classes different names"
        raise DataError("a class is named twice", where=f"{file}: names", got=got, fix=fix)
    if count is not None and count != str(len(names)):
        got = f"nc: {quoted(count)}, and {len(names)} names: {listed(names)}"
        fix = f"write nc: {len(names)}, or remove that line, or complete the names"
        raise DataError("nc and names disagree", where=file, got=got, fix=fix)
    return names


def _name_list(names: Plain) -> tuple[str, ...]:
    """The names on a list, or in a mapping from the numbers 0..K-1; none if this is neither."""
    if isinstance(names, dict):
        numbers = [str(number) for number in range(len(names))]
        names = [names[number] for number in numbers] if set(names) == set(numbers) else []
    found = tuple(name for name in names if isinstance(name, str)) if isinstance(names, list) else ()
    return found if len(found) == len(names) else ()


def _is_foreign(text: str) -> bool:
    """Whether a path starts at the top of a machine, or with a drive."""
    return bool(re.match(r"\s*([A-Za-z]:)?[/\\]", text))


class YamlSplits:
    """The splits that data.yaml names: folders, lists, or several of them."""

    def __init__(self, tree: Tree, file: Path, content: Mapping[str, Plain]) -> None:
        self.tree, self.file, self.content = tree, file, content
        self.moved: dict[Path, Mapping[str, Path]] = {}
        self.missing: dict[str, DataError] = {}
        self.absent: dict[Path, Problem] = {}
        self.notes: list[Problem] = []
        stated = content.get("path")
        base = self._folder(stated, [file.parent]) if isinstance(stated, str) else None
        if base is None and stated not in (None, *_EMPTY):
            what = f"path: {quoted(stated)} is no folder inside the data set; the folder of {file.name} is taken for it"
            self.notes.append(Problem(tree.short(file), what))
        self.stated = list(dict.fromkeys([base or file.parent, file.parent]))
        self.bases = list(dict.fromkeys([*self.stated, tree.top]))

    def read(self) -> Sources:
        """The pictures of each split. Raise DataError if no split exists; those of several that do not are in ``missing``."""
        sources: dict[str, tuple[Path, ...]] = {}
        for split, entries in self._entries().items():
            found = {entry: self._entry(entry) for entry in entries}
            absent = next((entry for entry, pictures in found.items() if not pictures), None)
            if absent is None:
                sources[split] = tuple(dict.fromkeys(picture for pictures in found.values() for picture in pictures))
            else:
                self.missing[split] = self._absent(split, absent)
        if not sources:
            fix = "write the folder of the training pictures, such as train: images/train"
            raise next(iter(self.missing.values()), DataError("this file names no pictures", where=self.file, fix=fix))
        everything = dict.fromkeys(picture for chosen in sources.values() for picture in chosen)
        return in_order([*everything], sources)

    def _entries(self) -> dict[str, list[str]]:
        """The folders and lists of each split; a split without any is left out."""
        found: dict[str, list[str]] = {}
        for key, value in self.content.items():
            split = _split_of_key(key)
            entries = value if isinstance(value, list) else [value]
            if split:
                found.setdefault(split, []).extend(str(entry) for entry in entries if entry not in _EMPTY)
        return {split: entries for split, entries in found.items() if entries}

    def _entry(self, entry: str) -> Sequence[Path]:
        """The pictures in a folder or on a list; none if it does not exist."""
        text = re.sub(r"^(\.\./)+", "", entry.replace("\\", "/"))
        if text.lower().endswith(".txt"):
            file = self._list(text)
            return () if file is None else self._read(read_pictures(self.tree, file, self.bases[0]))
        stated = () if _is_foreign(text) else self.stated
        inside = {base: pictures for base in stated if (pictures := self._pictures(self._folder(text, [base])))}
        self._check_one(entry, inside)
        return next(iter(inside.values()), ()) or self._pictures(self._folder(text, self.bases))

    def _read(self, found: PictureList) -> Sequence[Path]:
        """The pictures on a list. What else it says is kept."""
        if found.moved:
            self.moved[found.file] = found.moved
        self.absent |= found.absent
        return found.pictures

    def _pictures(self, folder: Path | None) -> tuple[Path, ...]:
        """The pictures in a folder, at any depth."""
        return tuple(picture for picture in self.tree.pictures if folder in picture.parents) if folder else ()

    def _check_one(self, entry: str, inside: Mapping[Path, object]) -> None:
        """Raise DataError if an entry is at two places that differ. inside: what was found below each folder."""
        if len(inside) > 1 and len({*inside.values()}) > 1:
            clean = entry.strip().replace("\\", "/")
            got = ", ".join(self.tree.short(base / clean) for base in inside)
            what = f"{quoted(entry)} is below path: and beside {self.file.name}, and they differ"
            fix = "remove or rename one of them, or write path: as it is meant"
            raise DataError(what, where=self.file, got=got, fix=fix)

    def _absent(self, split: str, entry: str) -> DataError:
        what = f"none of the pictures that this file names for {split!r} are here"
        expected = "a folder or a list, with pictures, inside the data set"
        fix = f"write it relative to {self.file.name}, or remove the line"
        if "*" in entry:  # a pattern
            what, fix = (
                f"{what}: a * stands for nothing",
                f"write the folder alone: {entry.partition('*')[0].rstrip('/') or '.'}",
            )
        return DataError(what, where=self.file, got=quoted(entry), expected=expected, fix=fix)

    def _list(self, text: str) -> Path | None:
        """The list that data.yaml means. Raise DataError if several fit."""
        lists = texts(self.tree)
        exact = {base: base / text for base in self.stated if base / text in lists}
        self._check_one(text, exact)
        if exact:
            return next(iter(exact.values()))
        named = Named(self.tree, self.file, among=ByName(self.tree, lists), base=self.bases[0])
        found = named.find(text) if named.fits(text) else None
        self._note_moved(named.moved)
        return found

    def _note_moved(self, moved: Mapping[str, Path]) -> None:
        if moved:
            self.moved[self.file] = {**self.moved.get(self.file, {}), **moved}

    def _folder(self, text: str, bases: Iterable[Path]) -> Path | None:
        """The folder that data.yaml means: below one of the bases, or by its end if it is a path of another machine."""
        clean = text.strip().replace("\\", "/")
        foreign = _is_foreign(clean)
        parts = tuple(folded(part) for part in clean.split("/") if part not in ("", "."))
        if ".." in parts or "://" in clean or "\0" in clean:
            return None
        for start in range(len(parts) if foreign else 1):
            for base in bases:
                found = self.tree.subfolders.get((*self.tree.parts(base), *parts[start:]), ())
                if found:
                    self._note_moved({text: found[0]} if foreign else {})
                    return self._one(text, found)
        return None

    def _one(self, text: str, found: Sequence[Path]) -> Path:
        """The folder whose name is spelled as stated, or the only one. Raise DataError if it is none of several."""
        exact = [folder for folder in found if folder.as_posix().endswith(text.strip("./"))]
        if len(exact or found) > 1:
            got = ", ".join(map(self.tree.short, found))
            what, fix = f"several folders fit the name {quoted(text)}", "write it as it is spelled"
            raise DataError(what, where=self.file, got=got, fix=fix)
        return (exact or found)[0]
