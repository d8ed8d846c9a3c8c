"""Pictures whose pixels are decoded when they are needed, and only as large as they are needed.

Shape letters: N objects of one picture; H, W its height and width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

from torch import Tensor

from onestage.data.cache import PictureCache
from onestage.data.dataset import Dataset, contradiction
from onestage.data.memory import Admit
from onestage.images import decode_image, read_header
from onestage.structures import Sample, Size

Decoder = Literal["pillow", "fast"]
"""pillow: the same pixels on every machine. fast: JPEGs by torchvision, and no larger than the input needs."""


@dataclass(frozen=True, eq=False)
class Undecoded:
    """A picture and its objects, as in ``Sample``, before its pixels are decoded.

    size: (H, W) of the whole picture, in whose pixels boxes (N, 4) are. reductions: by which its sides can be divided.
    decode: from one of these to (3, H, W) uint8, with the sides divided and rounded up.
    """

    size: Size
    boxes: Tensor
    labels: Tensor
    ignore: Tensor
    image_id: int | str
    path: str
    reductions: tuple[int, ...]
    decode: Callable[[int], Tensor]

    @property
    def image(self) -> Tensor:
        """The whole picture, (3, H, W) uint8 RGB."""
        return self.decode(1)


@dataclass(frozen=True)
class PictureSource:
    """The pictures of a data set as a loader gets them. cache: where decoded pictures are kept, if any are.

    Pictures that are not files are taken as they are.
    """

    dataset: Dataset
    decoder: Decoder = "pillow"
    cache: PictureCache | None = None

    def open(self, index: int, admit: Admit) -> Sample | Undecoded:
        """Picture ``index``, once there is memory to decode it.

        Raise DataError if it cannot be read or its size contradicts its annotation; of an Undecoded, ``decode`` may raise it.
        """
        if (self.decoder == "pillow" and self.cache is None) or not self.dataset.is_on_disk:
            admit(self.dataset.decoding_cost(index))
            return self.dataset[index]
        truth = self.dataset.truth(index)
        size, cost, reductions = read_header(self.dataset.stored(index))
        if truth.size not in (None, size):
            raise contradiction(truth.path, size, truth.size)
        admit(cost)
        return Undecoded(
            size,
            truth.boxes,
            truth.labels,
            truth.ignore | truth.crowd,
            truth.image_id,
            truth.path,
            reductions if self.decoder == "fast" else reductions[:1],
            partial(self._decode, index),
        )

    def _decode(self, index: int, reduction: int) -> Tensor:
        """(3, H, W) uint8."""
        kept = None if self.cache is None else self.cache.get(index, reduction)
        if kept is not None:
            return kept
        image = decode_image(self.dataset.stored(index), reduction=reduction, fast=self.decoder == "fast")
        if self.cache is not None:
            self.cache.put(index, reduction, image)
        return image
