"""The types that flow between the rooms of the project.

Shape letters, the same in every file: B images, L levels, A anchors over all levels, C logits per anchor (K or K+1),
K foreground classes, N objects in one image, D detections, M chosen rows. Boxes are xyxy float pixels, sizes are
(height, width), labels are 0..K-1. Pictures are RGB, uint8, (3, H, W).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, NamedTuple, Self, TypeAlias, TypedDict, overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from onestage import boxes as box_ops
from onestage.boxes import Size as Size
from onestage.errors import ConfigError, DataError, RowError, counted, known_keywords

if TYPE_CHECKING:
    import pandas
    import supervision
    from PIL import Image


class ClassSet(NamedTuple):
    """K classes in the order of their labels, or of a detector's outputs: the name of each, and the data set's id."""

    names: tuple[str, ...]
    ids: tuple[int, ...]


def check_labels(labels: Tensor, classes: int, *, where: object) -> None:
    """Raise DataError unless the labels, (N,), lie in 0..classes - 1. On a GPU it waits for all work of the GPU."""
    wrong = labels[(labels < 0) | (labels >= classes)]
    if len(wrong):
        expected = f"0 to {classes - 1} for {counted(classes, 'class')}; background is no class"
        raise DataError("a label that is none of the classes", where=where, got=int(wrong[0]), expected=expected)


@dataclass(frozen=True, eq=False)
class Targets:
    """The objects of one picture, in the pixels of the network's input.

    boxes (N, 4) xyxy float32; labels (N,) int64 in 0..K-1; ignore (N,) bool: neither an object nor background (crowds,
    difficult objects), all False when left out.
    """

    boxes: Tensor
    labels: Tensor
    ignore: Tensor = field(default=None)  # type: ignore[assignment]  # filled in below: never None afterwards

    def __post_init__(self) -> None:
        if self.ignore is None:
            object.__setattr__(self, "ignore", torch.zeros(len(self.labels), dtype=torch.bool, device=self.labels.device))
        box_ops.check_rows("Targets", self.boxes, self.labels, self.ignore)

    def to(self, device: torch.device | str) -> Targets:
        """The same targets on that device."""
        return Targets(*(t.to(device, non_blocking=True) for t in (self.boxes, self.labels, self.ignore)))


@dataclass(frozen=True, eq=False)
class Sample:
    """One decoded picture and its objects, in pixels of that picture.

    image (3, H, W) uint8 RGB; boxes (N, 4) float32 with 0 <= x1 < x2 <= W and 0 <= y1 < y2 <= H; labels (N,) int64 in 0..K-1;
    ignore (N,) bool; image_id is the id in the data set.
    """

    image: Tensor
    boxes: Tensor
    labels: Tensor
    ignore: Tensor
    image_id: int | str
    path: str

    def __post_init__(self) -> None:
        box_ops.check_rows(f"Sample {self.image_id}", self.boxes, self.labels, self.ignore)

    @property
    def size(self) -> Size:
        """(H, W) of the picture."""
        return self.image.shape[1], self.image.shape[2]


@dataclass(frozen=True)
class ImageMeta:
    """How a picture of size ``original`` lies in the network's input of size ``input``; all sizes (height, width).

    A point (x, y) of the picture lies at (x * scale[1] + pad[1], y * scale[0] + pad[0]) of the input;
    pad is (top, left) in input pixels. Law: ``undo(apply(boxes)) == boxes`` up to float rounding.
    """

    original: Size
    input: Size
    scale: tuple[float, float]
    pad: tuple[int, int]
    image_id: int | str = ""
    path: str = ""

    @classmethod
    def stretched(cls, original: Size, input: Size) -> Self:
        """The picture fills the whole input. Each side has its scale."""
        return cls(original, input, scale=(input[0] / original[0], input[1] / original[1]), pad=(0, 0))

    def apply(self, boxes: Tensor) -> Tensor:
        """(N, 4) picture pixels -> (N, 4) input pixels."""
        scale, shift = self._scale_and_shift(boxes)
        return boxes * scale + shift

    def undo(self, boxes: Tensor) -> Tensor:
        """(N, 4) input pixels -> (N, 4) picture pixels, not clipped."""
        scale, shift = self._scale_and_shift(boxes)
        return (boxes - shift) / scale

    @property
    def frame(self) -> Tensor:
        """(4,) xyxy input pixels: where the picture lies. The rest is padding."""
        height, width = self.original
        return self.apply(torch.tensor([[0.0, 0.0, width, height]], dtype=torch.float32, device="cpu")).round()[0]

    def _scale_and_shift(self, like: Tensor) -> tuple[Tensor, Tensor]:
        (sy, sx), (top, left) = self.scale, self.pad
        return like.new_tensor([sx, sy, sx, sy]), like.new_tensor([left, top, left, top])


@dataclass(frozen=True, eq=False)
class Batch:
    """Pictures of one size with their targets; every part has length B.

    images (B, 3, H, W), uint8 or float in 0..255, resized but not yet normalised: the detector normalises them on its device.
    """

    images: Tensor
    targets: tuple[Targets, ...]
    metas: tuple[ImageMeta, ...]

    def __post_init__(self) -> None:
        assert len(self.images) == len(self.targets) == len(self.metas)

    def to(self, device: torch.device | str) -> Batch:
        """The same batch with images (B, 3, H, W) and targets on that device."""
        return Batch(self.images.to(device, non_blocking=True), tuple(t.to(device) for t in self.targets), self.metas)

    def pin_memory(self) -> Batch:
        """The same batch with images (B, 3, H, W) in pinned memory, from which a GPU copies faster."""
        return replace(self, images=self.images.pin_memory())


class HeadOutput(NamedTuple):
    """The outputs of the network for every anchor, before boxes are computed. Rows are ordered (level, y, x, shape), like the
    anchors.

    logits (B, A, C); deltas (B, A, 4) in the coder's units; level_sizes: (height, width) of each feature map, fine to coarse;
    input_size: (height, width) of the images that went in.
    """

    logits: Tensor
    deltas: Tensor
    level_sizes: tuple[Size, ...]
    input_size: Size


@dataclass(frozen=True, eq=False)
class Truth:
    """The true objects of one picture, for evaluation, in pixels of that picture. The picture itself is not read.

    boxes (N, 4) float32; labels (N,) int64; ignore (N,) bool: not counted either way (VOC difficult); crowd (N,) bool: a COCO
    crowd region; area (N,) float32 in pixels, which puts an object among small, medium or large (COCO gives the area of the
    outline; in other formats it is the area of the box). size is (height, width), or None if it is unknown.
    """

    boxes: Tensor
    labels: Tensor
    ignore: Tensor
    crowd: Tensor
    area: Tensor
    image_id: int | str
    path: str = ""
    size: Size | None = None

    def __post_init__(self) -> None:
        box_ops.check_rows(f"Truth {self.image_id}", self.boxes, self.labels, self.ignore, self.crowd, self.area)


Rows: TypeAlias = slice | Tensor | NDArray[np.bool_] | NDArray[np.integer] | list[bool] | list[int]
"""Which detections: a slice, a mask of D bools, or M row numbers, from -D to D - 1."""


class Detection(NamedTuple):
    """One object. box: x1, y1, x2, y2 in pixels of the picture. score: 0..1. label: 0..K-1. name, category_id: of the label."""

    box: tuple[float, float, float, float]
    score: float
    label: int
    name: str
    category_id: int


class DetectionArrays(NamedTuple):
    """The numbers of a Detections as arrays: boxes (D, 4) float32 xyxy pixels, scores (D,) float32, labels (D,) int64."""

    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    labels: NDArray[np.int64]


class DetectionRecord(TypedDict):
    """One object as plain data; box: [x1, y1, x2, y2]."""

    box: list[float]
    score: float
    label: int
    class_name: str
    category_id: int


class PictureRecord(TypedDict):
    """One picture and its detections as plain data."""

    image_id: int | str
    path: str
    height: int
    width: int
    detections: list[DetectionRecord]


@dataclass(frozen=True, eq=False, repr=False)
class Detections:
    """The objects found in one picture, best first.

    boxes (D, 4) xyxy float32 in pixels of the original picture; scores (D,) in 0..1, descending; labels (D,) int64 in 0..K-1;
    class_names and category_ids: the data set's name and id of each label, D of each; size: the picture's (height, width).
    ``source`` gives the picture again, for drawing: a function without arguments that returns (3, H, W) uint8 RGB, or None.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    class_names: tuple[str, ...]
    category_ids: tuple[int, ...]
    size: Size
    image_id: int | str = ""
    path: str = ""
    source: Callable[[], Tensor] | None = None

    def __post_init__(self) -> None:
        box_ops.check_rows(f"Detections {self.image_id}", self.boxes, self.scores, self.labels)
        assert len(self.class_names) == len(self.category_ids) == len(self.boxes)

    def __len__(self) -> int:
        return len(self.boxes)

    def __iter__(self) -> Iterator[Detection]:
        columns = self.boxes.tolist(), self.scores.tolist(), self.labels.tolist(), self.class_names, self.category_ids
        for box, *others in zip(*columns, strict=True):
            yield Detection(tuple(box), *others)

    @overload
    def __getitem__(self, key: int | np.integer) -> Detection: ...
    @overload
    def __getitem__(self, key: Rows) -> Detections: ...
    def __getitem__(self, key: int | np.integer | Rows) -> Detection | Detections:
        """One Detection for a number, which may be negative; a Detections for all that ``select`` takes."""
        if isinstance(key, Tensor | np.ndarray) and key.ndim == 0 and _as_array(key).dtype.kind == "i":
            key = int(key)  # as argmax() gives it
        if isinstance(key, bool) or not isinstance(key, int | np.integer):
            return self.select(key)  # type: ignore[arg-type]  # which refuses a bool
        return next(iter(self.select([int(key)])))

    def __repr__(self) -> str:
        """One line: a picture may have 300 detections. ``to_dict`` has them all."""
        counts = Counter(self.class_names)
        best = f", best score {float(self.scores[0]):.2f}" if len(self) else ""
        parts = ", ".join(f"{name} {count}" for name, count in counts.most_common(5)) + (", ..." if len(counts) > 5 else "")
        return f"Detections({len(self)}{': ' if len(self) else ''}{parts}{best})"

    def select(self, rows: Rows) -> Detections:
        """The chosen detections, in the order of ``rows``. Best first stays true for masks, slices and ascending numbers.

        rows: a slice, (D,) bool, or (M,) int from -D to D - 1; a tensor, an array or a list. Raise RowError for anything else.
        """
        numbers = _row_numbers(rows, len(self))
        chosen = torch.tensor(numbers, dtype=torch.int64, device=self.boxes.device)
        return replace(
            self,
            boxes=self.boxes[chosen],
            scores=self.scores[chosen],
            labels=self.labels[chosen],
            class_names=tuple(self.class_names[i] for i in numbers),
            category_ids=tuple(self.category_ids[i] for i in numbers),
        )

    @known_keywords
    def draw(self, image: Tensor | Image.Image | None = None, *, score: float = 0.0) -> Image.Image:
        """The picture with the boxes and labels of at least ``score`` drawn in.

        image: (3, H, W) or PIL; if left out, the picture that was predicted. Raise DataError if that is not available.
        """
        from onestage.draw import draw_detections

        if image is None:
            if self.source is None:
                raise DataError("these detections do not know their picture", fix="pass it: detections.draw(image)")
            image = self.source()
        return draw_detections(image, self.select(self.scores >= score))

    def clipped(self) -> Detections:
        """The same detections with their boxes cut to the picture."""
        return replace(self, boxes=box_ops.clip(self.boxes, self.size))

    def to_dict(self) -> PictureRecord:
        """Plain data for JSON: boxes in pixels of the original picture, as [x1, y1, x2, y2]."""
        height, width = self.size
        records: list[DetectionRecord] = [
            {"box": list(box), "score": score, "label": label, "class_name": name, "category_id": category_id}
            for box, score, label, name, category_id in self
        ]
        return {"image_id": self.image_id, "path": self.path, "height": height, "width": width, "detections": records}

    def numpy(self) -> DetectionArrays:
        """``boxes, scores, labels = detections.numpy()``: (D, 4), (D,) and (D,). On a CPU they share the tensors' memory."""
        return DetectionArrays(*(column.detach().cpu().numpy() for column in (self.boxes, self.scores, self.labels)))

    def to_supervision(self) -> supervision.Detections:
        """A copy for the library supervision: xyxy (D, 4), confidence (D,), class_id (D,), and data["class_name"] (D,).

        Raise ConfigError if supervision is not installed.
        """
        with _demanded("supervision"):
            from supervision import Detections as Supervised

        boxes, scores, labels = self.numpy()
        names = np.array(self.class_names, dtype=str)
        return Supervised(boxes.copy(), confidence=scores.copy(), class_id=labels.copy(), data={"class_name": names})

    def to_pandas(self) -> pandas.DataFrame:
        """A table of D rows: x1, y1, x2, y2, score, label, class_name, category_id, image_id, path. For several pictures there
        is ``onestage.to_pandas``.

        Raise ConfigError if pandas is not installed.
        """
        return to_pandas([self])


def to_pandas(found: Iterable[Detections]) -> pandas.DataFrame:
    """One table for several pictures: a row for each detection, with the columns of ``Detections.to_pandas``, in the order of
    the pictures. A picture without detections has no row.

    Raise ConfigError if pandas is not installed, or for the detections of one picture without a list.
    """
    if isinstance(found, Detections):
        fix = "found.to_pandas(), or onestage.to_pandas([found])"
        raise ConfigError("a table is made of several pictures", got="one Detections", expected="a list of them", fix=fix)
    with _demanded("pandas"):
        from pandas import DataFrame, Series

    pictures = list(found)
    arrays = [picture.numpy() for picture in pictures]
    boxes = np.concatenate([np.zeros((0, 4), np.float32), *(array.boxes for array in arrays)])
    scores = np.concatenate([np.zeros(0, np.float32), *(array.scores for array in arrays)])
    labels = np.concatenate([np.zeros(0, np.int64), *(array.labels for array in arrays)])
    columns = dict(zip(("x1", "y1", "x2", "y2"), boxes.T, strict=True)) | {"score": scores, "label": labels}
    rows = len(scores)

    def column(values: Iterable[object], example: object) -> pandas.Series:
        return Series([*values, example])[:rows]  # one value more than rows tells the type of a column without rows

    names = column((name for picture in pictures for name in picture.class_names), "")
    ids = np.array([number for picture in pictures for number in picture.category_ids], dtype=np.int64)
    owners = [picture for picture in pictures for _ in range(len(picture))]
    image_ids = column((picture.image_id for picture in owners), pictures[0].image_id if pictures else "")
    paths = column((picture.path for picture in owners), "")
    return DataFrame(columns | {"class_name": names, "category_id": ids, "image_id": image_ids, "path": paths})


def _row_numbers(rows: Rows, count: int) -> list[int]:
    """The row numbers, each in 0..count - 1. Raise RowError for what names no rows of so many."""
    expected = f"a slice, a mask of {count} bools, or whole numbers" + (f" from {-count} to {count - 1}" if count else "")
    try:
        if isinstance(rows, slice):
            return list(range(count)[rows])
        values = _as_array(rows)
    except (TypeError, ValueError, NotImplementedError, RuntimeError) as e:  # slice(0.5), a sparse tensor
        raise RowError("this does not choose among the detections", got=f"{rows!r:.100}", expected=expected) from e
    if isinstance(values, np.ma.MaskedArray):
        raise RowError("a masked array does not say whether its masked rows count", got=f"{rows!r:.100}", expected=expected)
    if values.ndim != 1 or values.dtype.kind not in "biu" or values.dtype == np.uint8:  # uint8: NumPy's number, torch's mask
        got = f"{values.dtype} of shape {values.shape}"
        raise RowError("this does not choose among the detections", got=got, expected=expected, fix="a mask is of type bool")
    if values.dtype.kind == "b":
        if len(values) != count:
            raise RowError("a mask of the wrong length", got=len(values), expected=count)
        return np.flatnonzero(values).tolist()
    numbers: list[int] = values.tolist()
    outside = [number for number in numbers if not -count <= number < count]
    if outside:
        raise RowError("there is no such detection", got=outside[0], expected=expected)
    return [number % count for number in numbers]


def _as_array(rows: Rows) -> NDArray[np.generic]:
    """A tensor, array or list as an array; anything different becomes an array of objects, which the callers refuse."""
    if isinstance(rows, Tensor):
        return (rows.double() if rows.is_floating_point() else rows).detach().cpu().numpy()
    if isinstance(rows, list) and not rows:
        return np.zeros(0, dtype=np.int64)
    if isinstance(rows, list) and len({isinstance(row, bool | np.bool_) for row in rows}) == 2:
        return np.array(rows, dtype=object)  # bools among numbers: NumPy would take True for row 1
    try:
        return np.array(None) if isinstance(rows, tuple | str) else np.asanyarray(rows)
    except ValueError:  # a list of lists of several lengths
        return np.array(None)


@contextmanager
def _demanded(package: str) -> Iterator[None]:
    """Turn a failed import inside into a ConfigError that names the command."""
    try:
        yield
    except ImportError as error:
        raise ConfigError(f"{package} is not installed", got=error, fix=f"pip install {package}") from error
