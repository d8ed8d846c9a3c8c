"""Labels that are probably wrong, as files that label tools open: COCO's JSON, or LabelMe's, a file for each picture.

Nothing is corrected here. All labels of a picture stay as they are, and a doubted one says why. A box that a detector proposes
has a class of another name, PROPOSAL and the class that is meant: so no program takes it for a label until a person renames it.
The formats are in data/label_files.py.

Shape letters: N objects of one picture.
"""

from __future__ import annotations

import math
import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from onestage.analysis.labels import Box, Labels, Reason, Suspect
from onestage.data.label_files import Shape, coco_categories, json_text, labelme_text
from onestage.data.stems import Stems
from onestage.errors import printable
from onestage.files import Json, make_folder, write_file
from onestage.structures import Detections, Size, Truth

PROPOSAL = "proposal: "
"""How the class of a box begins that a detector proposes."""
ABOUT = f"Labels to check, by onestage evaluate. A class that begins with '{PROPOSAL}' is a detector's box, and no label."

Pair = tuple[Detections, Truth]


@dataclass(frozen=True)
class Marked:
    """A box for a label tool. box: xyxy pixels. crowd, ignore, area: as in the Truth. reason: why it is doubted, or empty.

    proposal: it is a detector's box, and no label.
    """

    box: Box
    label: int
    area: float
    crowd: bool = False
    ignore: bool = False
    reason: str = ""
    proposal: bool = False


@dataclass(frozen=True)
class ToCheck:
    """A picture for a label tool: all its labels, then the boxes that a detector proposes. reasons: those of its suspects."""

    path: Path
    image_id: int | str
    size: Size
    boxes: tuple[Marked, ...]
    reasons: tuple[Reason, ...]


def pictures_to_check(
    labels: Labels, pairs: Iterable[Pair], classes: Sequence[str], *, everything: bool = False
) -> list[ToCheck]:
    """The pictures with a suspect, the one with the worst label first. pairs: the detections and the truth of each picture;
    classes: the K names, by label; everything: the pictures without a suspect follow.
    """
    suspects: dict[int | str, list[Suspect]] = defaultdict(list)
    for suspect in labels.suspects:
        suspects[suspect.image_id].append(suspect)
    by_id = {found.image_id: (found, truth) for found, truth in pairs}
    ids = [image_id for image_id in suspects if image_id in by_id]
    ids += [image_id for image_id in by_id if everything and image_id not in suspects]
    return [_to_check(*by_id[image_id], suspects.get(image_id, []), classes) for image_id in ids]


def _to_check(found: Detections, truth: Truth, suspects: Sequence[Suspect], classes: Sequence[str]) -> ToCheck:
    reasons: dict[int, list[str]] = defaultdict(list)
    for suspect in suspects:
        reasons[suspect.row].append(reason_of(suspect, classes))
    columns = (truth.boxes.tolist(), truth.labels.tolist(), truth.area.tolist(), truth.crowd.tolist(), truth.ignore.tolist())
    boxes = [
        Marked((x1, y1, x2, y2), label, area, crowd, ignore, "; ".join(reasons[row]))
        for row, ((x1, y1, x2, y2), label, area, crowd, ignore) in enumerate(zip(*columns, strict=True))
    ]
    for suspect in suspects:
        if suspect.reason != "swapped":  # there the box is right, or nearly so
            x1, y1, x2, y2 = suspect.suggested_box
            area, reason = (x2 - x1) * (y2 - y1), reason_of(suspect, classes)
            boxes.append(Marked(suspect.suggested_box, suspect.suggested_label, area, reason=reason, proposal=True))
    kinds = dict.fromkeys(suspect.reason for suspect in suspects)
    return ToCheck(Path(truth.path), truth.image_id, found.size, tuple(boxes), tuple(kinds))


def reason_of(suspect: Suspect, classes: Sequence[str]) -> str:
    """Why a label is doubted, in one line."""
    name, suggested = printable(classes[suspect.label]), printable(classes[suspect.suggested_label])
    score = f"score {suspect.score:.2f}, quality of the label {suspect.quality:.3f}"
    if suspect.reason == "overlooked":
        return f"overlooked: the detector finds {suggested} here, and there is no label ({score})"
    if suspect.reason == "badly placed":
        corners = ", ".join(f"{side:.0f}" for side in suspect.suggested_box)
        return f"badly placed: the detector puts this {name} at {corners} ({score})"
    if math.isnan(suspect.score):
        return f"swapped: labelled twice, as {name} and as {suggested} (quality of the label {suspect.quality:.3f})"
    return f"swapped: labelled as {name}, the detector says {suggested} ({score})"


def write_coco(
    pictures: Sequence[ToCheck], file: Path, *, classes: Sequence[str], category_ids: Sequence[int], root: Path
) -> None:
    """Write the pictures as one COCO data set. category_ids: of the K classes; root: the names of pictures begin there.

    The classes of proposals follow, with ids above all others. ``reason`` is in each doubted annotation, and among its
    ``attributes`` too, where CVAT looks.
    """
    numbers = [picture.image_id for picture in pictures]
    ids = [n for n in numbers if isinstance(n, int)] if all(isinstance(n, int) for n in numbers) else range(1, len(numbers) + 1)
    after = max(category_ids, default=0) + 1
    used = sorted({box.label for picture in pictures for box in picture.boxes if box.proposal})
    images: list[Json] = []
    annotations: list[Json] = []
    for number, picture in zip(ids, pictures, strict=True):
        height, width = picture.size
        images.append({"id": number, "file_name": _below(picture.path, root).as_posix(), "height": height, "width": width})
        for box in picture.boxes:
            category = after + used.index(box.label) if box.proposal else category_ids[box.label]
            annotations.append(_annotation(box, len(annotations) + 1, number, category))
    categories = coco_categories(classes, category_ids)
    categories += [{"id": after + place, "name": proposed(classes, label)} for place, label in enumerate(used)]
    content: dict[str, Json] = {
        "info": {"description": ABOUT},
        "images": images,
        "annotations": annotations,
        "categories": categories,
    }
    make_folder(file.parent)
    write_file(file, json_text(content))


def _annotation(box: Marked, number: int, picture: int, category: int) -> dict[str, Json]:
    x1, y1, x2, y2 = box.box
    entry: dict[str, Json] = {"id": number, "image_id": picture, "category_id": category}
    entry["bbox"] = [round(side, 3) for side in (x1, y1, x2 - x1, y2 - y1)]
    entry |= {"area": round(box.area, 3), "iscrowd": int(box.crowd)}
    if box.ignore:
        entry["ignore"] = 1
    if box.reason:
        entry |= {"reason": box.reason, "attributes": {"reason": box.reason, "proposal": box.proposal}}
    return entry


def write_labelme(pictures: Sequence[ToCheck], folder: Path, *, classes: Sequence[str], root: Path) -> None:
    """Write a file for each picture into ``folder``, below it as the picture is below ``root``.

    ``labelme PICTURES --output FOLDER`` opens them. A reason is the ``description`` of a shape; ``flags`` tell proposals,
    crowds and ignored objects. The kinds of reasons in a picture are its ``flags``, which LabelMe shows.
    """
    stems = Stems()
    for picture in pictures:
        place = _below(picture.path, root)
        file = folder / (stems.take(str(place.with_suffix("")), str(place)) + ".json")  # there may be a.jpg and a.png
        make_folder(file.parent)
        shapes = [_shape(box, classes) for box in picture.boxes]
        write_file(file, labelme_text(_relative(picture.path, file.parent), picture.size, shapes, picture.reasons))


def _shape(box: Marked, classes: Sequence[str]) -> Shape:
    marks = {"proposal": box.proposal, "suspect": bool(box.reason), "crowd": box.crowd, "ignore": box.ignore}
    name = proposed(classes, box.label) if box.proposal else classes[box.label]
    return Shape(box.box, name, description=box.reason, flags=tuple(mark for mark, holds in marks.items() if holds))


def proposed(classes: Sequence[str], label: int) -> str:
    """The class of a proposed box: PROPOSAL and the class that is meant, so often that no other class has this name."""
    name = PROPOSAL + classes[label]
    while name in classes:
        name = PROPOSAL + name
    return name


def _below(path: Path, root: Path) -> Path:
    """The path from ``root`` on, or the name alone if the picture is not below it."""
    return path.relative_to(root) if path.is_relative_to(root) else Path(path.name)


def _relative(path: Path, folder: Path) -> str:
    """The path as seen from a folder, with slashes; the whole path if they are on two drives."""
    try:
        return Path(os.path.relpath(path, os.path.realpath(folder))).as_posix()
    except ValueError:
        return path.absolute().as_posix()


def common_folder(paths: Iterable[str]) -> Path:
    """The folder that holds all these pictures, at some depth."""
    folders = {Path(path).parent for path in paths}
    return Path(os.path.commonpath(folders)) if folders else Path()
