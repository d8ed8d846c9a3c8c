"""The options of ``onestage predict`` that say what is written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from onestage.errors import ConfigError

if TYPE_CHECKING:
    from onestage.predict.copies import Piece
    from onestage.predict.pictures import PictureFile
    from onestage.predict.sinks import Sink


@dataclass(frozen=True)
class Output:
    """What is written."""

    format: tuple[Literal["coco", "csv", "jsonl"], ...] = ()
    """predictions.json in COCO's results form, predictions.csv, predictions.jsonl; one or several."""
    draw: Annotated[bool, tyro.conf.arg(name="pictures")] = True
    """Save annotated copies of the pictures."""

    def __post_init__(self) -> None:
        if not self.draw and not self.format:
            raise ConfigError("nothing would be written", got="--no-pictures without --format", fix="add --format csv")


def pieces_of(output: Output, out: Path, pictures: Sequence[PictureFile]) -> dict[str, Piece]:
    """What is made of the pixels of each picture, below the folder ``out``, each with a name for people.

    Raise DataError if a file would replace a picture, or any file but an earlier copy.
    """
    from onestage.predict.copies import Annotated
    from onestage.predict.pictures import check_copies

    pieces: dict[str, Piece] = {}
    if output.draw:
        check_copies(pictures, out)
        pieces["annotated pictures"] = Annotated(out)
    return pieces


def sinks_of(output: Output, out: Path) -> dict[str, Sink]:
    """What takes the outcomes of the pictures, below the folder ``out``, each with a name for people.

    Make the folder. Raise ConfigError if files are in the way that are no results.
    """
    from onestage.cli.results import results_folder
    from onestage.data.predictions import FORMATS
    from onestage.predict.sinks import Results

    formats = tuple(dict.fromkeys(output.format))
    results_folder(out, [FORMATS[name].file_name for name in formats])
    sinks: dict[str, Sink] = {}
    for name in formats:
        sinks[f"results ({name})"] = Results(out / FORMATS[name].file_name, name)
    return sinks
