"""The options of ``onestage predict`` that say what is written."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import tyro

from onestage.cli.output import tell
from onestage.errors import ConfigError

if TYPE_CHECKING:
    from onestage.predict.copies import Piece
    from onestage.predict.pictures import PictureFile
    from onestage.predict.sinks import Sink
    from onestage.predict.zones import Zone
    from onestage.structures import ClassSet


@dataclass(frozen=True)
class Output:
    """What is written."""

    HEADING: ClassVar[str] = "output"
    format: tuple[Literal["coco", "csv", "jsonl", "counts"], ...] = ()
    """predictions.json in COCO's results form, predictions.csv, predictions.jsonl; counts.csv, the number of objects of each
    class in each picture; one or several."""
    draw: Annotated[bool, tyro.conf.arg(name="pictures")] = True
    """Save annotated copies of the pictures."""
    save_crops: bool = False
    """Save each object as a picture: crops/CLASS/PICTURE-NUMBER.jpg."""
    blur: tuple[str, ...] = ()
    """Make objects of these classes unrecognisable, such as face plate, in all pictures that are written, and save copies that
    are blurred only in blurred/. What the detector overlooks stays readable: a low --score blurs more."""
    zone: Annotated[tuple[str, ...], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="NAME=X,Y,X,Y,X,Y")] = ()
    """A polygon in which objects are counted, by its name and corners, in pixels, or in parts of the picture if no number is
    above 1. It is drawn into the annotated copies, and counts.csv has a row for it."""
    zone_by: Literal["foot", "centre"] = "foot"
    """The point of a box that is in a zone or not: foot, the middle of its lower edge, or its centre."""
    to: tuple[Literal["yolo", "coco", "voc", "labelme"], ...] = ()
    """Write a data set of the pictures with the detections as its labels, for correcting them by hand and for training: yolo/,
    coco/, voc/ or labelme/."""
    link: bool = False
    """In data sets, make links to the pictures instead of copies."""

    def __post_init__(self) -> None:

        if not (self.draw or self.save_crops or self.blur or self.to or self.format or self.zone):
            raise ConfigError("nothing would be written", got="--no-pictures without --format", fix="add --format jsonl")
        if self.link and (self.blur or not self.to):
            got = "--link " + ("with --blur" if self.blur else "without --to")
            raise ConfigError("there is nothing to link to", got=got, fix="leave --link out")
        names = [zone.name for zone in self.zones]
        if double := next((name for name in names if names.count(name) > 1), None):
            raise ConfigError("two zones have one name", where="--zone", got=double, fix="give each one a name")

    @property
    def zones(self) -> tuple[Zone, ...]:
        """The zones that are counted. Raise ConfigError for one that is none."""
        if not self.zone:
            return ()
        from onestage.predict.zones import Zone  # torch takes a while, and most calls have no zones

        return tuple(map(Zone.read, self.zone))


def check_blurring(output: Output, *, classes: Sequence[str], top: int | None) -> None:
    """Raise ConfigError if objects to blur would be left out. classes: those that are reported; all if there are none. top: the
    number of objects that are.
    """
    left = [name for name in output.blur if classes and name not in classes]
    if left:
        what, fix = (
            "a class to blur is not looked for, so it would stay readable",
            "add it to --classes, or leave --classes out",
        )
        raise ConfigError(what, where="--blur", got=", ".join(left), fix=fix)
    if output.blur and top is not None:
        what, fix = "objects after the best ones would stay readable", "leave --top out, or take a higher --score"
        raise ConfigError(what, where="--blur", got=f"--top {top}", fix=fix)


def pieces_of(output: Output, out: Path, pictures: Sequence[PictureFile], classes: ClassSet) -> dict[str, Piece]:
    """What is made of the pixels of each picture, below the folder ``out``, each with a name for people. classes: of the model.

    Raise DataError if a file would replace a picture, or any file but an earlier copy; ConfigError for an unknown class.
    """
    from onestage.cli.common import labels_of
    from onestage.predict.blurring import Blur
    from onestage.predict.copies import Annotated, Blurred, Crops, Plain, SetPictures
    from onestage.predict.pictures import check_copies
    from onestage.predict.sets import pictures_folder

    pieces: dict[str, Piece] = {}
    labels = labels_of(output.blur, classes.names)
    if output.draw:
        check_copies(pictures, out)
        pieces["annotated pictures"] = Annotated(out, output.zones, classes.names, output.zone_by)
    if output.blur:
        check_copies(pictures, out / "blurred")
        pieces["blurred pictures"] = Plain(out / "blurred")
    if output.save_crops:
        pieces["crops"] = Crops(out / "crops", classes.names)
    for name in dict.fromkeys(output.to):
        folder = pictures_folder(name, out / name)
        pieces[f"data set ({name})"] = SetPictures(folder, link=output.link, encode=bool(output.blur))
    if not output.blur:
        return pieces
    return {name: Blurred(Blur(tuple(labels)), piece) for name, piece in pieces.items()}


def sinks_of(
    output: Output, out: Path, classes: ClassSet, *, labels: Sequence[int] = (), go_on: bool = False
) -> dict[str, Sink]:
    """What takes the outcomes of the pictures, below the folder ``out``, each with a name for people. classes: of the model;
    labels: those that are reported, all if there are none. go_on: with what an earlier run has left.

    Make the folder. Raise ConfigError if files are in the way that are no results, or that people may have changed.
    """
    from onestage.cli.results import results_folder
    from onestage.data.predictions import FORMATS
    from onestage.predict.sets import SetPlan, set_sink
    from onestage.predict.sinks import Counts, Results

    sinks: dict[str, Sink] = {}
    for name in dict.fromkeys(output.format):
        if name != "counts":
            sinks[f"results ({name})"] = Results(out / FORMATS[name].file_name, name)
    zones, shown = output.zones, labels or range(len(classes.names))
    if zones or "counts" in output.format:
        sinks["counts"] = Counts(out / "counts.csv", classes.names, shown=shown, zones=zones, spot=output.zone_by)
    results_folder(out, [sink.path.name for sink in sinks.values()])
    if not go_on:
        for folder in [*output.to, *["crops"] * output.save_crops]:
            _check_fresh(out / folder)
    sets: dict[str, Sink] = {
        f"data set ({kind})": set_sink(kind, SetPlan(out / kind, classes, encode=bool(output.blur)))
        for kind in dict.fromkeys(output.to)
    }
    return sinks | sets


def tell_counts(sinks: Iterable[Sink]) -> None:
    """Print how many objects there were in each zone."""
    from onestage.predict.sinks import Counts

    for sink in sinks:
        for line in sink.summary() if isinstance(sink, Counts) else ():
            tell(line)


def _check_fresh(folder: Path) -> None:
    """Raise ConfigError if there is something in the folder."""
    if folder.exists() and (not folder.is_dir() or any(os.scandir(folder))):
        what = "an earlier run wrote this, and a person may have corrected it"
        raise ConfigError(what, where=folder, fix="choose another folder with --out, or move this one away")
