"""Files that are made of the pixels of a picture, in threads while the network works: annotated copies.

Shape letters: H and W of a picture.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

from PIL import ExifTags, Image
from torch import Tensor

from onestage.data.memory import return_freed_memory
from onestage.data.threads import PatientThreads
from onestage.errors import WriteError
from onestage.files import make_folder, write_file
from onestage.predict.pictures import SOFTWARE, PictureFile
from onestage.structures import Detections

QUALITY = 92
"""The quality of JPEGs that are written, as Pillow counts it: 0..95."""


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
    """A copy of a picture with its detections drawn in. It is in ``folder``, under the name of its picture."""

    folder: Path
    cost: int = 11  # the tensor, Pillow's copy and the encoder's

    def __call__(self, picture: PictureFile, found: Detections, image: Tensor) -> None:
        """Draw the detections into a copy of the picture (3, H, W), and save it."""
        save_picture(found.draw(image), self.folder / picture.name)


def save_picture(picture: Image.Image, path: Path) -> None:
    """Save a picture, in the format of its suffix, with no other metadata than SOFTWARE. Raise WriteError if that fails."""
    make_folder(path.parent)
    mark = Image.Exif()
    mark[ExifTags.Base.Software] = SOFTWARE
    encoded = io.BytesIO()  # Pillow does not notice when a file on a full disk takes only a part of its bytes
    picture.save(encoded, Image.registered_extensions()[path.suffix.lower()], quality=QUALITY, exif=mark)
    write_file(path, encoded.getvalue())


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
