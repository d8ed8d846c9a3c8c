"""The objects found in one picture, as a sequence: iterated, cut, masked, drawn, and given to other libraries.

Shape letters: D detections, M chosen rows, H, W height and width of the picture, K foreground classes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple, TypeAlias, TypedDict, overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from onestage import boxes as box_ops
from onestage.boxes import Size
from onestage.errors import ConfigError, DataError, RowError, known_keywords

if TYPE_CHECKING:
    import pandas
    import supervision
    from PIL import Image

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
        """A table of D rows: x1, y1, x2, y2, score, label, class_name, category_id, image_id, path.

        Raise ConfigError if pandas is not installed.
        """
        with _demanded("pandas"):
            from pandas import DataFrame, Series

        boxes, scores, labels = (column.copy() for column in self.numpy())
        columns = dict(zip(("x1", "y1", "x2", "y2"), boxes.T, strict=True)) | {"score": scores, "label": labels}
        rows = len(self)
        names = Series([*self.class_names, ""])[:rows]  # one value more than rows tells the type of a column without rows
        ids = {"class_name": names, "category_id": np.array(self.category_ids, dtype=np.int64)}
        picture = {"image_id": Series([self.image_id] * (rows + 1))[:rows], "path": Series([self.path] * (rows + 1))[:rows]}
        return DataFrame(columns | ids | picture)


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
