"""Which picture and which class of a data set a file of detections means.

Policy:
- A number is the id of a picture in the data set; so is a text that equals an id. Where no id fits, a text is a path, and
  pairing.py finds the picture as it does for labels: by the end of the path, with the suffix or without, with other capitals.
  In a folder that the data set does not have, the name alone tells, if one picture has it.
- A number that is no id is the picture whose name, without its suffix, is this number with zeros in front: 42 is 000042.jpg.
- A number is the id of a category in the data set, and a text the name of a class. Capitals and blanks count only where two
  classes differ in nothing more. A text of digits that is no name is an id.
- What fits several pictures or classes fits none.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from functools import cached_property
from pathlib import Path

from onestage.data.dataset import Dataset
from onestage.data.detections_rows import Reference
from onestage.data.pairing import Named
from onestage.data.text import is_number
from onestage.data.tree import Tree, folded
from onestage.errors import DataError

NONE = -1
"""In place of the row of a picture, or of a label: there is none."""


class PictureNames:
    """The P pictures of a data set, by id, path or number."""

    def __init__(self, dataset: Dataset, file: Path) -> None:
        self.dataset, self.file = dataset, file
        self._by_id = {image_id: row for row, image_id in enumerate(dataset.image_ids)}
        self._by_path = {Path(path): row for row, path in enumerate(dataset.paths)}

    def rows(self, references: Iterable[Reference]) -> list[int]:
        """The row of each picture that is named, or NONE."""
        return [self._row(reference) for reference in references]

    def _row(self, reference: Reference) -> int:
        if (row := self._by_id.get(reference)) is not None:
            return row
        other: Reference = str(reference)
        if isinstance(reference, str):
            if (row := self._row_of_path(reference)) != NONE:
                return row
            other = int(reference) if is_number(reference) else reference
        if (row := self._by_id.get(other)) is not None:
            return row
        return self._by_number.get(str(other).lstrip("0"), NONE) if is_number(str(other)) else NONE

    def _row_of_path(self, text: str) -> int:
        for name in dict.fromkeys((text, re.split(r"[/\\\\]", text)[-1])):
            with suppress(DataError):
                return self._by_path[self._named.find(name)]
        return NONE

    @cached_property
    def _named(self) -> Named:
        tree = Tree(self.dataset.root, tuple(self._by_path))
        return Named(tree, self.file, base=self.dataset.root, is_list=True)

    @cached_property
    def _by_number(self) -> dict[str, int]:
        """The pictures whose names are numbers, by these without zeros in front; not those that share one."""
        stems = {path.stem.lstrip("0"): row for path, row in self._by_path.items() if is_number(path.stem)}
        count = Counter(path.stem.lstrip("0") for path in self._by_path if is_number(path.stem))
        return {stem: row for stem, row in stems.items() if count[stem] == 1}


class ClassNames:
    """The K classes of a data set, by name or category id."""

    def __init__(self, dataset: Dataset) -> None:
        self._by_name = {name: label for label, name in enumerate(dataset.classes)}
        self._by_id = {category: label for label, category in enumerate(dataset.category_ids)}
        looks = Counter(map(_look, dataset.classes))
        self._by_look = {_look(name): label for name, label in self._by_name.items() if looks[_look(name)] == 1}

    def labels(self, references: Iterable[Reference]) -> list[int]:
        """The label of each class that is named, or NONE."""
        return [self._label(reference) for reference in references]

    def _label(self, reference: Reference) -> int:
        if isinstance(reference, int):
            return self._by_id.get(reference, NONE)
        if (label := self._by_name.get(reference, self._by_look.get(_look(reference)))) is not None:
            return label
        return self._by_id.get(int(reference), NONE) if is_number(reference) else NONE


def _look(name: str) -> str:
    """A name without capitals, and with one blank where it has several or an underscore."""
    return " ".join(folded(name).replace("_", " ").split())
