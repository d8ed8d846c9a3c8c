"""Drawn pictures as files: what speed is measured on where a user gives no pictures.

Shape letters: H and W of a picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from onestage.data.reader import open_data
from onestage.data.solids import SOLIDS
from onestage.data.synthetic import SyntheticConfig, generate
from onestage.data.writers import Split, encode, write_coco
from onestage.deploy.int8 import Int8Data, divided
from onestage.files import make_folder, write_file
from onestage.structures import Size

USUAL: Size = (480, 640)
"""(H, W) of a drawn picture."""
SPLITS: dict[Split, range] = {"train": range(2, 6), "val": range(2)}
"""The drawn pictures that an int8 file is calibrated with, and those that it is measured with."""


def jpegs(folder: Path, count: int = 8, size: Size = USUAL) -> list[Path]:
    """``count`` pictures of that (H, W) as JPEG files in the folder: the same at every call. Those that are there stay."""
    paths = [make_folder(folder) / f"{index}.jpg" for index in range(count)]
    for index, path in enumerate(paths):
        if not path.exists():
            write_file(path, encode(generate(index, SyntheticConfig(seed=7, size=size)), quality=90).data)
    return paths


def drawn_data(classes: Sequence[str], folder: Path, size: Size = USUAL) -> Int8Data:
    """Drawn pictures to make an int8 file of random weights with. These have no AP to lose, so any drop will do."""
    config = SyntheticConfig(classes=tuple(SOLIDS)[: len(classes)], seed=7, size=size)
    for split, indices in SPLITS.items():
        write_coco((generate(index, config) for index in indices), folder, classes=classes, split=split)
    calibrate, measure = divided(open_data(folder), tuple(classes))
    return Int8Data(calibrate.paths, measure, max_drop=1.0, compared=False)
