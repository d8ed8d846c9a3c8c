"""The lines of YOLO's label files: which objects they state.

| the line                                            | what follows the class                                                |
|-----------------------------------------------------|-----------------------------------------------------------------------|
| box                                                 | centre x, centre y, width, height                                     |
| key points ("pose")                                 | the box, then x y, or x y visibility, for each point                  |
| outline ("segment") or oriented box ("obb")         | x y for each of three or more points; the box around them counts      |

All numbers but the visibility (0 unlabelled, 1 hidden, 2 visible) are parts of the picture, 0-1. The forms:
https://docs.ultralytics.com/datasets/ (detect, pose, segment, obb). Policy, for lines longer than a box:
- ``kpt_shape`` in data.yaml states how many key points there are, and with how many numbers each. Then all lines have them.
- Without it, a line can be key points if its points lie inside its box; points of visibility 0, and points at (0, 0) if there
  is no visibility, do not count. An odd number of numbers leaves no other choice.
- All lines of a data set decide together, because key points have one length in a whole data set, and outlines have not. If
  the lines have several lengths, at least half of them must be able to be key points of one length; then the lines of other
  lengths are problems. If lines of that length disagree, or the splits, each alone, it is an error.
- Lines that are all the four corners of rectangles are oriented boxes.
- A tracker writes a score and the number of a track behind an object, and these look like a last point: of an outline, or of
  key points. If most lines of a split end so, it is an error that asks: see ``_refuse_tracks``. No last point ends in a whole
  number but one at the top or bottom edge of the picture, and then another number of a triangle is often 0 or 1, too.
- A line that begins with # is a comment.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from onestage.data.files import read_text
from onestage.data.plain_yaml import Plain
from onestage.data.table import Row, Table
from onestage.data.text import decimal, lines_of, quoted, whole
from onestage.errors import DataError, counted

_LARGEST = 1.5
"""Positions are parts of the picture; one beyond this is in pixels. A box that is a little too large is another fault."""

_NEAR = 0.02
"""A part of the picture by which a key point may leave its box, and such a box its picture: annotators are not exact."""

_CROOKED = 0.01
"""A part of its longer diagonal by which the corner of an oriented box may be off: files have few digits."""

_BOX_AND_SCORE = 6
"""Columns of a line with a class, a box and a score, in some order."""

_WORD = re.compile(r"[^\W\d_]|[\"']")
"""How a name begins."""

_BOX_AND_TRACK = 7
"""Columns of a line with a class, a box, a score and a track; a tracker may write one more number."""

_MANY = 10
"""Lines that do not all end in a whole number by chance."""

_SEPARATORS = str.maketrans(",;", "  ")


class KeyPoints(NamedTuple):
    """``kpt_shape``: the number of key points of each object, and the numbers of each point, 2 or 3."""

    amount: int
    numbers: int


class _Line(NamedTuple):
    """A line longer than a box.

    row: its object if the first four numbers are the box. outline: the box around all points; None if the numbers do not pair
    up. columns: all of them, with the class. points: whether it can be key points. corners: see ``_corners``. track: the number
    of a track if the line can end in a score and one, perhaps -1, for none; None otherwise.
    """

    row: Row
    outline: list[float] | None
    columns: int
    points: bool
    corners: int
    track: int | None


class _Scored(NamedTuple):
    """A line of six columns: the numbers after the class, which are a box and, first or last, a score; and its place."""

    numbers: list[float]
    where: str


def stated_key_points(content: dict[str, Plain], where: Path) -> KeyPoints | None:
    """``kpt_shape`` of a data.yaml, None if it has none. Raise DataError if it is not understood."""
    stated = content.get("kpt_shape")
    if stated is None:
        return None
    try:
        count, numbers = (whole(part) for part in stated if isinstance(part, str)) if isinstance(stated, list) else (0, 0)
    except ValueError:
        count, numbers = 0, 0
    if count < 1 or numbers not in (2, 3):
        expected = "the number of key points, and 2 or 3 numbers for each, such as [17, 3]"
        raise DataError("kpt_shape is not understood", where=where, got=quoted(stated), expected=expected)
    return KeyPoints(count, numbers)


class Content(NamedTuple):
    """What a label file states: its good lines, of picture 0, and the errors of its bad lines; number 0 is the whole file.
    Lines with six columns are bad too; all files together tell why.
    """

    lines: list[Row | _Line | _Scored]
    errors: dict[int, DataError]

    @property
    def long(self) -> list[_Line]:
        """The lines longer than a box."""
        return [line for line in self.lines if isinstance(line, _Line)]


def read_file(file: Path, name: str) -> Content:
    """The content of a label file. name: the file in messages."""
    content = Content([], {})
    try:
        lines = lines_of(read_text(file))
    except DataError as error:
        content.errors[0] = error
        return content
    for number, line in enumerate(lines, start=1):
        try:
            if (columns := line.split()) and not columns[0].startswith("#"):
                content.lines.append(_line(columns, 0, f"{name}:{number}"))
        except DataError as error:
            content.errors[number] = error
    return content


def fill(table: Table, files: Iterable[tuple[int, str, Content]], columns: int | None) -> None:
    """Put the objects of label files into the table. files: the row of each picture, its label file's name, and the content.
    columns: of each line of key points; None for outlines.
    """
    files = [*files]
    scored = [line for _, _, content in files for line in content.lines if isinstance(line, _Scored)]
    for picture, name, content in files:
        for number, error in content.errors.items():
            table.problem(f"{name}:{number}" if number else name, error)
        for line in content.lines:
            if isinstance(line, _Scored):
                continue
            try:
                row = _decided(line, columns) if isinstance(line, _Line) else line
                table.objects.append(row._replace(picture=picture))
            except DataError as error:
                table.problem(line.row.where if isinstance(line, _Line) else line.where, error)
    six_columns = _six_columns(scored, columns)
    for found in scored:
        table.problem(found.where, six_columns)


def key_point_columns(splits: Mapping[str, Iterable[Content]]) -> int | None:
    """The columns of each line with key points in a data set; None if the lines are outlines.

    Raise DataError if the lines can be both, or if those of the splits alone are of different kinds.
    """
    long = [(split, [line for content in found for line in content.long]) for split, found in splits.items()]
    long = [(split, lines) for split, lines in long if lines]
    if not long:
        return None
    alone: dict[str, int | None] = {}
    for split, lines in long:
        _refuse_tracks(lines)
        with suppress(DataError):
            alone[split] = _key_point_columns(lines)
    if len(alone) < len(long):
        alone["all together"] = _key_point_columns([line for _, lines in long for line in lines])
    return _agreed(alone, long[0][1][0].row.where)


def _agreed(columns: Mapping[str, int | None], where: str) -> int | None:
    """The columns that all splits have. Raise DataError if they differ."""
    if len(set(columns.values())) > 1:
        kinds = (f"{split}: {f'key points, {count} columns' if count else 'outlines'}" for split, count in columns.items())
        raise _unclear(where, "; ".join(kinds), max(count or 0 for count in columns.values()))
    return next(iter(columns.values()))


def _line(columns: Sequence[str], picture: int, where: str) -> Row | _Line | _Scored:
    """What a line states. Raise DataError with the reason if this is no object."""
    if any("," in column or ";" in column for column in columns):
        raise _wrong_commas(columns)
    if named := _class_name(columns):
        what, got = "the first column is a name; YOLO has the number of the class there", quoted(" ".join(columns))
        fix = f"write the number of {quoted(named)}: its place in the list of names, counted from 0"
        raise DataError(what, got=got, expected="a whole number and then decimals", fix=fix)
    if len(columns) < 5:
        raise _wrong_columns(len(columns))
    try:
        index, numbers = whole(columns[0]), [decimal(column) for column in columns[1:]]
    except ValueError:
        got, expected = quoted(" ".join(columns)), "a whole number and then decimals"
        raise DataError("these are not the numbers of an object", got=got, expected=expected) from None
    box, rest = numbers[:4], numbers[4:]
    if not rest:
        return Row(picture, _parts(box, max(box)), index, where)
    if not all(map(math.isfinite, numbers)):
        fix = "correct the line, or remove it"
        raise DataError("these are not finite numbers", got=quoted(" ".join(columns)), fix=fix)
    if len(columns) == _BOX_AND_SCORE:
        return _Scored(numbers, where)
    points = list(zip(numbers[0::2], numbers[1::2], strict=False))
    paired = len(rest) >= 2 and len(rest) % 2 == 0
    outline = _box_around(points) if paired else None
    corners = _corners(points) if paired and len(points) == 4 else 0
    line = _Line(Row(picture, box, index, where), outline, len(columns), _can_be_points(box, rest), corners, None)
    return line._replace(track=_track(line, numbers))


def _decimals(columns: Sequence[str]) -> list[float]:
    """The numbers in these columns; none if some column is no number."""
    with suppress(ValueError):
        return [decimal(column) for column in columns]
    return []


def _class_name(columns: Sequence[str]) -> str:
    """The name, of one word or more, that stands before the four numbers of a box; nothing if there is none."""
    *words, x, y, width, height = ("", "", "", "", *columns)
    name = " ".join(filter(None, words))
    numbers = any(_decimals([word]) for word in words)
    return name if _WORD.match(name) and not numbers and len(_decimals([x, y, width, height])) == 4 else ""


def is_named(line: str) -> bool:
    """Whether a line is a box whose class is a name and not a number."""
    return bool(_class_name(line.split()))


def _track(line: _Line, numbers: Sequence[float]) -> int | None:
    """The number of the track that a line can end in, None if there can be none. numbers: those after the class."""
    box, rest = numbers[:4], numbers[4:]
    if len(rest) < 2:
        return None
    if line.columns <= _BOX_AND_TRACK:
        last, can_be = rest, _is_no_triangle(box)
    elif line.columns == _BOX_AND_TRACK + 1:  # or one key point with its visibility
        last, can_be = rest[:2], not _within(rest[:2], box[:2], box[2:])
    else:
        last, can_be = rest[-2:], line.outline is not None and not line.points and line.corners < 2 and box[1] != rest[-1]
    return int(last[1]) if can_be and _are_score_and_track(*last) else None


def _are_score_and_track(score: float, number: float) -> bool:
    """Whether two numbers can be these, and are not (0, 0), as a point that is not visible is written."""
    return 0 <= score <= 1 and number >= -1 and number.is_integer() and (score, number) != (0, 0)


def _is_no_triangle(box: Sequence[float]) -> bool:
    """Whether four numbers can be a box, perhaps over the picture's edge, and not two points of which one is at the edge."""
    sides = zip(box[:2], box[2:], strict=True)
    return max(box) <= _LARGEST and all(
        centre not in (0, 1) and side > 0 and (side != 1 or centre == 0.5) for centre, side in sides
    )


def _refuse_tracks(lines: Sequence[_Line]) -> None:
    """Raise DataError if most lines of a split look like what a tracker writes: a box, or an outline, a score and a track.

    A few triangles among longer outlines may all end at an edge of the picture.
    """
    boxes = [line for line in lines if line.columns == _BOX_AND_TRACK]
    points = [line for line in lines if line.columns == _BOX_AND_TRACK + 1]
    outlines = [line for line in lines if line.outline and line.columns > _BOX_AND_TRACK]
    tracked = _mostly_tracked(boxes)
    if len(tracked) >= _MANY or (tracked and max(line.columns for line in lines) == _BOX_AND_TRACK):
        raise _tracked(tracked, "box", "for outlines of three points, write another of their points last; for boxes, ")
    if tracked := _mostly_tracked(points):
        otherwise = "for a key point and its visibility, write kpt_shape: [1, 3] into data.yaml; for boxes, "
        raise _tracked(tracked, "box", otherwise, columns="three")
    if _end_in_tracks(outlines):
        otherwise = "for outlines alone, write another of their points last; for outlines with both, "
        raise _tracked(outlines, "outline", otherwise)


def _end_in_tracks(outlines: Sequence[_Line]) -> bool:
    """Whether the last point of most outlines is a score and a track: some track is no edge of a picture, or there are many and
    none that can only be an outline.
    """
    tracked = _mostly_tracked(outlines)
    sure = any(line.track not in (0, 1) for line in tracked)
    strangers = (line for line in outlines if line.track is None and not line.points and line.corners < 2)
    return sure or (len(tracked) >= _MANY and not any(strangers))


def _mostly_tracked(lines: Sequence[_Line]) -> list[_Line]:
    """Those of the lines that can end in a track, if they are more than half; none otherwise."""
    found = [line for line in lines if line.track is not None]
    return found if 2 * len(found) > len(lines) else []


def _tracked(lines: Sequence[_Line], kind: str, otherwise: str, *, columns: str = "two") -> DataError:
    """The error for lines that end in tracks. otherwise: what to do first if they are no ``kind`` with a track. columns: how
    many follow the ``kind``.
    """
    return DataError(
        f"these lines look like the output of a tracker: class, {kind}, score, number of the track",
        where=lines[0].row.where,
        got=f"{counted(len(lines), 'line')} with a whole number at the place of the track",
        expected=f"class, {kind}",
        fix=f"{otherwise}remove the last {columns} columns: labels have neither score nor track",
    )


def _wrong_commas(columns: Sequence[str]) -> DataError:
    """The error for a line with commas or semicolons, which separate its numbers or stand in them."""
    got = quoted(" ".join(columns))
    plain = " ".join(columns).translate(_SEPARATORS).split()
    if len(columns) < 5 or any(column[-1] in ",;" for column in columns) or len(plain) == len(columns):
        what, fix = "commas separate these numbers; YOLO has blanks", f"write {' '.join(plain[:5])}"
        return DataError(what.replace("commas", "semicolons") if ";" in got else what, got=got, fix=fix)
    fix = f"write {' '.join(column.replace(',', '.') for column in columns[:5])}"
    return DataError("numbers need a decimal point, not a comma", got=got, fix=fix)


def _decided(line: _Line, key_point_columns: int | None) -> Row:
    """The object of a line. key_point_columns: of each line of key points; None for outlines. Raise DataError if it is none."""
    if key_point_columns is None and line.outline:
        x, y, width, height = line.outline
        return line.row._replace(box=_parts(line.outline, max(x + width / 2, y + height / 2), tracked=line.track is not None))
    if key_point_columns == line.columns:
        return line.row._replace(box=_parts(line.row.box, max(line.row.box)))
    raise _wrong_columns(line.columns, _longer(key_point_columns))


def _longer(key_point_columns: int | None) -> str:
    """What a line may be that is longer than a box."""
    return f"{key_point_columns} columns with the key points" if key_point_columns else "an outline"


def _wrong_columns(columns: int, other: str = "an outline", *, fix: str = "correct the line, or remove it") -> DataError:
    expected = f"class, centre x, centre y, width, height, or {other}"
    return DataError("the number of columns is wrong", got=f"{columns} columns", expected=expected, fix=fix)


def _six_columns(lines: Sequence[_Scored], key_point_columns: int | None) -> DataError:
    """The error for each of the lines with six columns. The boxes that they all leave without the sixth number, or without the
    second one, tell which is the score.
    """
    last, second = (sum(_in_picture(line.numbers[part]) for line in lines) for part in (slice(4), slice(1, 5)))
    of, neither = f"of {counted(len(lines), 'line')}", "labels have neither score nor track"
    fix = f"remove the sixth column: {neither}"
    if min(last, second) >= 0.9 * len(lines):
        fix = (
            f"remove the score: the sixth column if it is behind the box, the second if it is before the box; "
            f"{last:,} {of} are boxes in their pictures without the sixth, {second:,} without the second"
        )
    elif second > last:
        fix = (
            f"remove the second column: {neither}; {second:,} {of} are then boxes in their pictures, {last:,} without the sixth"
        )
    return _wrong_columns(_BOX_AND_SCORE, _longer(key_point_columns), fix=fix)


def _parts(box: Sequence[float], largest: float, *, tracked: bool = False) -> Sequence[float]:
    """The box. Raise DataError if its ``largest`` position is no part of the picture. tracked: that may be the number of a
    track.
    """
    if largest > _LARGEST:
        fix = "divide x and widths by the picture's width, y and heights by its height"
        fix = "if the last two columns are a score and the number of a track, remove them" if tracked else fix
        raise DataError("positions should be parts of the picture, 0-1", got=f"{largest:g}", fix=fix)
    return box


def _key_point_columns(lines: Sequence[_Line]) -> int | None:
    """The columns of the lines with key points; None if all lines are outlines. Raise DataError if that is unclear."""
    lines = [line for line in lines if line.points or line.outline]
    lengths = Counter(line.columns for line in lines if line.points)
    if not lengths or _are_oriented(lines):
        return None
    columns, fitting = lengths.most_common(1)[0]
    same = [line for line in lines if line.columns == columns]
    if len(same) < len(lines) and 2 * fitting < len(lines):
        return None
    strangers = [line for line in same if not line.points]
    if strangers:
        got = f"{counted(fitting, 'line')} with all points in the box, and {len(strangers)} like this one"
        raise _unclear(strangers[0].row.where, got, columns)
    return columns


def _unclear(where: str, got: str, columns: int) -> DataError:
    """The error for lines of two kinds. columns: of those that may be key points."""
    shape = f"[{(columns - 5) // 2}, 2]" if columns % 2 else f"[{(columns - 5) // 3}, 3]"
    return DataError(
        "these lines could be outlines as well as boxes with key points",
        where=where,
        got=got,
        expected="one kind of lines",
        fix=f"for key points, write kpt_shape: {shape} into data.yaml; for outlines, write their boxes",
    )


def _are_oriented(lines: Sequence[_Line]) -> bool:
    """Whether all lines are corners of rectangles, which may be crooked if some cannot be key points."""
    least = min(line.corners for line in lines)
    return least == 2 or (least == 1 and not all(line.points for line in lines))


def _can_be_points(box: Sequence[float], rest: Sequence[float]) -> bool:
    """Whether the numbers after a box can be key points: of three numbers, or of two, which then lie in the box."""
    visible = [point[:2] for point in zip(rest[0::3], rest[1::3], rest[2::3], strict=False) if point[2]]
    by_three = len(rest) % 3 == 0 and all(visibility in (0, 1, 2) for visibility in rest[2::3])
    if len(rest) % 2:
        return by_three
    placed = [point for point in zip(rest[0::2], rest[1::2], strict=True) if point != (0, 0)]
    x, y, width, height = box
    by_two = all(_within(point, (x, y), (width, height)) for point in placed)
    return _in_picture(box) and (by_two or (by_three and all(_within(point, (x, y), (width, height)) for point in visible)))


def _in_picture(box: Sequence[float]) -> bool:
    """Whether four numbers can be a box: centre, width and height."""
    x, y, width, height = box
    return width > 0 and height > 0 and _within((x, y), (0.5, 0.5), (1 - width, 1 - height))


def _within(point: Sequence[float], centre: Sequence[float], extent: Sequence[float]) -> bool:
    """Whether a point lies in a box, or close to it."""
    return all(abs(p - c) <= e / 2 + _NEAR for p, c, e in zip(point, centre, extent, strict=True))


def _corners(points: Sequence[tuple[float, float]]) -> int:
    """2 if four points are the corners of a parallelogram in order, 1 if of another convex shape, 0 if of neither."""
    turns = []
    for (ax, ay), (bx, by), (cx, cy) in zip(points, [*points[1:], points[0]], [*points[2:], *points[:2]], strict=True):
        turns.append((bx - ax) * (cy - by) - (by - ay) * (cx - bx))
    if not (min(turns) > 0 or max(turns) < 0):
        return 0
    (ax, ay), (bx, by), (cx, cy), (dx, dy) = points
    off = math.hypot(ax - bx + cx - dx, ay - by + cy - dy)
    return 2 if off <= _CROOKED * max(math.hypot(cx - ax, cy - ay), math.hypot(dx - bx, dy - by)) else 1


def _box_around(points: Sequence[tuple[float, float]]) -> list[float]:
    """Centre, width and height of the smallest box that holds all points."""
    xs, ys = zip(*points, strict=True)
    return [(min(xs) + max(xs)) / 2, (min(ys) + max(ys)) / 2, max(xs) - min(xs), max(ys) - min(ys)]
