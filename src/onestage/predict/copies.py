"""Files that are made of the pixels of a picture, in threads while the network works: annotated and blurred copies, crops, and
the pictures of a data set.

Shape letters: H and W of a picture.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Protocol

import torch
from PIL import ExifTags, Image
from torch import Tensor

from onestage.data.files import PICTURE_SUFFIXES
from onestage.data.memory import return_freed_memory
from onestage.data.stems import Stems, plain
from onestage.data.threads import PatientThreads
from onestage.draw import draw_zones
from onestage.errors import WriteError
from onestage.files import make_folder, place_file, write_file
from onestage.predict.blurring import Blur
from onestage.predict.pictures import SOFTWARE, WRITTEN_AS_NAMED, PictureFile, may_replace
from onestage.predict.zones import Spot, Zone, count_in_zones, in_words
from onestage.structures import Detections

QUALITY = 92
"""The quality of JPEGs that are written, as Pillow counts it: 0..95."""

LEAST_SIDE = 4
"""Pixels of the shorter side of a crop: a smaller one shows nothing."""


class Piece(Protocol):
    """Something to make of each picture. Threads call it, for several pictures at the same time."""

    @property
    def folder(self) -> Path:
        """The folder for its files."""

    @property
    def cost(self) -> int:
        """Bytes of memory for each pixel of the picture, its pixels included."""

    def __call__(self, picture: PictureFile, found: Detections, image: Tensor) -> None:
        """Make it of a picture, its detections and its pixels (3, H, W). Raise WriteError if it cannot be saved."""


@dataclass(frozen=True)
class Annotated:
    """A copy of a picture with its detections drawn in, and the zones with what is in them. It has the name of its picture.

    classes: all names, by label, and spot: for the counts in zones.
    """

    folder: Path
    zones: tuple[Zone, ...] = ()
    classes: tuple[str, ...] = ()
    spot: Spot = "foot"
    cost: int = 11  # the tensor, Pillow's copy and the encoder's

    def __call__(self, picture: PictureFile, found: Detections, image: Tensor) -> None:
        """Draw the detections into a copy of the picture (3, H, W), and save it."""
        below = with_zones(image, found, self.zones, classes=self.classes, spot=self.spot)
        save_picture(found.draw(below), self.folder / picture.name)


def with_zones(
    image: Tensor, found: Detections, zones: Sequence[Zone], *, classes: Sequence[str], spot: Spot
) -> Tensor | Image.Image:
    """A copy of the picture (3, H, W) with the zones drawn in, and how many objects of each class are in them. The picture
    itself if there are no zones. classes: all names, by label.
    """
    if not zones:
        return image
    counts = count_in_zones(found, zones, classes, spot=spot)
    captions = [f"{zone.name}: {in_words(counts[zone.name], classes)}" for zone in zones]
    return draw_zones(image, [zone.polygon(found.size) for zone in zones], captions)


@dataclass(frozen=True)
class Plain:
    """A copy of a picture with nothing drawn in, for pictures that are blurred. It has the name of its picture."""

    folder: Path
    cost: int = 9

    def __call__(self, picture: PictureFile, found: Detections, image: Tensor) -> None:
        """Save the picture (3, H, W)."""
        save_picture(_pillow(image), self.folder / picture.name)


@dataclass(frozen=True)
class Blurred:
    """Another piece, made of the blurred picture."""

    blur: Blur
    piece: Piece

    @property
    def folder(self) -> Path:
        """The folder for its files."""
        return self.piece.folder

    @property
    def cost(self) -> int:
        """Bytes of memory for each pixel of the picture."""
        return 3 + self.piece.cost

    def __call__(self, picture: PictureFile, found: Detections, image: Tensor) -> None:
        """Blur the picture (3, H, W), and make the piece of it."""
        self.piece(picture, found, self.blur(found, image))


@dataclass(frozen=True)
class Crops:
    """Each detection of a picture as a picture: CLASS/STEM-NUMBER, with a folder for each class.

    NUMBER is the place of the detection among those of its picture, from 1. classes: all names, by label. Boxes are cut to the
    picture. Of those with a side below LEAST_SIDE there is no crop.
    """

    folder: Path
    classes: tuple[str, ...]
    cost: int = 9

    def __call__(self, picture: PictureFile, found: Detections, image: Tensor) -> None:
        """Save the crops of a picture (3, H, W)."""
        folders = class_folders(self.classes)
        suffix = ".png" if picture.name.lower().endswith(".png") else ".jpg"
        boxes = found.clipped().boxes.detach().cpu()
        corners = torch.cat([boxes[:, :2].floor(), boxes[:, 2:].ceil()], dim=1).long().tolist()
        for number, (label, (x1, y1, x2, y2)) in enumerate(zip(found.labels.tolist(), corners, strict=True), start=1):
            if min(x2 - x1, y2 - y1) >= LEAST_SIDE:
                path = self.folder / folders[label] / f"{picture.stem}-{number:03d}{suffix}"
                save_picture(_pillow(image[:, y1:y2, x1:x2]), path)


@cache
def class_folders(classes: tuple[str, ...]) -> tuple[str, ...]:
    """The name of a folder for each class: plain names, no two the same on any system."""
    stems = Stems()
    return tuple(stems.take(plain(name)) for name in classes)


@dataclass(frozen=True)
class SetPictures:
    """The pictures of a data set: each as it is, or a link to it; or, with ``encode``, newly encoded from its pixels."""

    folder: Path
    link: bool = False
    encode: bool = False
    cost: int = 9

    def __call__(self, picture: PictureFile, found: Detections, image: Tensor) -> None:
        """Put the picture, of pixels (3, H, W), into the folder."""
        make_folder(self.folder)
        name = set_name(picture, encode=self.encode)
        if self.encode or picture.path.suffix.lower() not in PICTURE_SUFFIXES:
            save_picture(_pillow(image), self.folder / name)
        else:
            place_file(picture.path, self.folder / name, link=self.link)


def set_name(picture: PictureFile, *, encode: bool) -> str:
    """The name of a picture in a data set. encode: it is newly encoded."""
    suffix = picture.path.suffix.lower()
    if encode and suffix not in WRITTEN_AS_NAMED:
        suffix = ".jpg"
    return picture.stem + (suffix if suffix in PICTURE_SUFFIXES else ".png")


def save_picture(picture: Image.Image, path: Path) -> None:
    """Save a picture, in the format of its suffix, with no other metadata than SOFTWARE. Raise WriteError if that fails, or if
    a file is there that has no such mark.
    """
    make_folder(path.parent)
    if not may_replace(path):
        what, fix = "a file is in the way that onestage predict did not write", "choose another folder with --out, or move it"
        raise WriteError(what, where=path, fix=fix)
    mark = Image.Exif()
    mark[ExifTags.Base.Software] = SOFTWARE
    encoded = io.BytesIO()  # Pillow does not notice when a file on a full disk takes only a part of its bytes
    picture.save(encoded, Image.registered_extensions()[path.suffix.lower()], quality=QUALITY, exif=mark)
    write_file(path, encoded.getvalue())


def _pillow(image: Tensor) -> Image.Image:
    """A picture (3, H, W) uint8 as Pillow has it."""
    return Image.fromarray(image.permute(1, 2, 0).contiguous().cpu().numpy())


class Copies:
    """Make all pieces of the pictures of a batch in threads. cost: bytes of memory for the pictures that are in work.

    unsaved: takes the error of a picture whose pieces cannot all be saved. Without it the error is raised.
    """

    def __init__(
        self, pieces: Sequence[Piece], threads: PatientThreads, *, unsaved: Callable[[WriteError], None] | None = None
    ) -> None:
        self.cost = 0
        self._pieces, self._threads, self._unsaved = pieces, threads, unsaved
        self._futures: list[tuple[Path, Future[None]]] = []

    def start(self, found: Sequence[tuple[PictureFile, Detections, Tensor]], cost: int) -> None:
        """Begin with the pictures of a batch: each with its detections and its pixels (3, H, W). cost: of the batch."""
        if self._pieces:
            self.cost = cost
            self._futures = [(row[0].path, self._threads.submit(partial(_make, self._pieces, *row))) for row in found]

    def finish(self) -> None:
        """Wait for the pictures of the last batch. Raise WriteError if one could not be saved, unless ``unsaved`` takes it."""
        for path, future in self._futures:
            try:
                self._threads.result(future, str(path))
            except WriteError as error:
                if self._unsaved is None:
                    raise
                self._unsaved(error)
        self._futures, self.cost = [], 0


def _make(pieces: Sequence[Piece], picture: PictureFile, found: Detections, image: Tensor) -> None:
    for piece in pieces:
        piece(picture, found, image)
    return_freed_memory(image.numel())
