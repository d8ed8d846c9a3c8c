"""``onestage evaluate --suspects``: the labels that are probably wrong, written for a label tool. No label is overwritten."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from onestage.cli.output import say, tell
from onestage.errors import ConfigError, counted

if TYPE_CHECKING:
    from onestage.analysis import Analysis
    from onestage.cli.judge import Judging
    from onestage.data import Dataset
    from onestage.structures import Detections, Truth

NAMES: dict[Literal["coco", "labelme"], str] = {"coco": "suspects.json", "labelme": "suspects"}
"""The file or the folder of each form."""


def check_suspects(judging: Judging, out: Path | None) -> None:
    """Raise ConfigError if suspects cannot be had, or if files are in their place, which may be corrected by now."""
    if judging.suspects is None:
        if judging.all_pictures:
            what, fix = "this says which pictures are written with suspects", "add --suspects coco or --suspects labelme"
            raise ConfigError(what, where="all_pictures", fix=fix)
        return
    if out is None:
        raise ConfigError("suspects are written into a folder", where="suspects", fix="name one, such as --out report/")
    if not judging.analysis:
        raise ConfigError("suspects are a part of the analysis", where="suspects", fix="leave --no-analysis out")
    if os.path.lexists(place := out / NAMES[judging.suspects]):
        what, fix = "labels to check are here already, and may be corrected by now", "move them away, or choose another --out"
        raise ConfigError(what, where=place, fix=fix)


def save_suspects(
    analysis: Analysis | None,
    pairs: Sequence[tuple[Detections, Truth]],
    dataset: Dataset,
    out: Path,
    judging: Judging,
) -> None:
    """Write the suspects of an analysis, if they are wanted, and say where they are, or why there are none.

    pairs: the detections and the truth of each picture.
    """
    if judging.suspects is None or analysis is None or (labels := analysis.labels) is None:
        return
    from onestage.analysis.label_tools import common_folder, pictures_to_check, write_coco, write_labelme
    from onestage.files import temporary_folder, writing

    if not labels.suspects:
        few = "" if labels.confident else f"; no detection has a score of {labels.sure:g}: try a lower --sure"
        say(("suspects:", "bold"), f" no label looks wrong{few}")
        return
    root, place = common_folder(dataset.paths), out / NAMES[judging.suspects]
    if os.path.lexists(place):  # made meanwhile, by a second evaluate; the rest of the results must not be lost for it
        say(("suspects:", "bold yellow"), f" not written, as there are others by now: {place}")
        return
    pictures = pictures_to_check(labels, pairs, dataset.classes, everything=judging.all_pictures)
    if judging.suspects == "coco":
        write_coco(pictures, place, classes=dataset.classes, category_ids=dataset.category_ids, root=root)
    else:
        with temporary_folder(place) as folder:
            write_labelme(pictures, folder, classes=dataset.classes, root=root)
            folder.chmod(out.stat().st_mode & 0o777)  # a temporary folder is its owner's alone
            with writing(place):
                folder.rename(place)
    count = sum(labels.counts.values())
    more = f", the worst of {count:,}" if count > len(labels.suspects) else ""
    tell(f"labels to check: {place} ({counted(len(labels.suspects), 'suspect')}{more})")
    if judging.suspects == "labelme":
        tell(f"open them: labelme {shlex.quote(str(root))} --output {shlex.quote(str(place))}")
