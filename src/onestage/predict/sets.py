"""Sinks that write a data set of the pictures and their detections, for people who correct labels by hand.

A set has one split, "train", as ``data/writers.py`` writes it; here the pictures come from copies.py, in threads. Boxes are cut
to their picture, and a box without an area is left out. Only LabelMe's form has scores.

Shape letters: D detections.
"""

from __future__ import annotations

import io
import json
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

from onestage.data.label_files import Boxed, Shape, coco_boxes, coco_categories, data_yaml, labelme_text, voc_text, yolo_text
from onestage.data.predictions import encoded
from onestage.errors import WriteError
from onestage.files import GrowingFile, Json, atomic_file, make_folder, open_regular, write_file, writing
from onestage.predict.copies import set_name
from onestage.predict.pipeline import Outcome
from onestage.predict.sinks import Sink, State
from onestage.structures import ClassSet, Detections

SetFormat = Literal["yolo", "coco", "voc", "labelme"]
_PIECE = 1 << 20
"""Bytes of a file that are in memory at once."""


@dataclass(frozen=True)
class SetPlan:
    """A data set to write. root: its folder. classes: of the model. encode: its pictures are newly encoded."""

    root: Path
    classes: ClassSet
    encode: bool = False

    def name(self, outcome: Outcome) -> str:
        """The name of a picture in the set."""
        return set_name(outcome.picture, encode=self.encode)


def set_sink(format: SetFormat, plan: SetPlan) -> Sink:
    """What writes the labels of a data set in this format."""
    kinds: dict[SetFormat, Callable[[SetPlan], Sink]] = {
        "yolo": YoloSet,
        "coco": CocoSet,
        "voc": VocSet,
        "labelme": LabelmeSet,
    }
    return kinds[format](plan)


def pictures_folder(format: SetFormat, root: Path) -> Path:
    """The folder of a data set for its pictures."""
    return root / {"yolo": "images/train", "coco": "train", "voc": "JPEGImages", "labelme": ""}[format]


def objects_of(found: Detections) -> list[tuple[Boxed, float]]:
    """The detections of a picture as its objects, each with its score."""
    rows = zip(found.clipped().boxes.tolist(), found.labels.tolist(), found.scores.tolist(), strict=True)
    return [(Boxed(tuple(box), label), score) for box, label, score in rows if box[0] < box[2] and box[1] < box[3]]


class _FilePerPicture(ABC):
    """What the formats share that have a file of labels for each picture. There is nothing to cut off to go on: what was
    written after a state is written again, and is the same.
    """

    def __init__(self, plan: SetPlan) -> None:
        self.plan, self.path = plan, plan.root

    def add(self, outcome: Outcome) -> None:
        """Write the labels of the next picture."""
        if isinstance(outcome.found, Detections):
            file, text = self.labels(outcome, outcome.found)
            make_folder(file.parent)
            write_file(file, encoded(text))

    @abstractmethod
    def labels(self, outcome: Outcome, found: Detections) -> tuple[Path, str]:
        """The file of labels of a picture, and its content."""

    def sync(self) -> State:
        """Nothing is held back."""
        return {}

    def go_on(self, state: State) -> None:  # noqa: B027  # most have nothing to do
        """Nothing is to be undone."""

    def finish(self) -> None:
        """Write what the set has beside its labels."""
        make_folder(self.path)

    def close(self) -> None:  # noqa: B027
        """No file is open."""


class YoloSet(_FilePerPicture):
    """A sink for images/train/, labels/train/*.txt and data.yaml, in which the model's classes keep their order."""

    def labels(self, outcome: Outcome, found: Detections) -> tuple[Path, str]:
        """The lines of a picture; none without detections."""
        file = self.path / "labels" / "train" / f"{outcome.picture.stem}.txt"
        return file, yolo_text([item for item, _ in objects_of(found)], found.size)

    def finish(self) -> None:
        """Write data.yaml."""
        make_folder(self.path)
        write_file(self.path / "data.yaml", encoded(data_yaml(self.plan.classes.names, ["train"])))


class LabelmeSet(_FilePerPicture):
    """A sink for a JSON file beside each picture. A shape has its score as ``score``, and in the ``description`` for people."""

    def labels(self, outcome: Outcome, found: Detections) -> tuple[Path, str]:
        """The file of a picture."""
        names = self.plan.classes.names
        shapes = [
            Shape(item.box, names[item.label], description=f"score {score:.3f}", score=float(f"{score:.8g}"))
            for item, score in objects_of(found)
        ]
        file = self.path / f"{outcome.picture.stem}.json"
        return file, labelme_text(self.plan.name(outcome), found.size, shapes)


class VocSet(_FilePerPicture):
    """A sink for JPEGImages/, Annotations/*.xml and ImageSets/Main/train.txt."""

    def __init__(self, plan: SetPlan) -> None:
        super().__init__(plan)
        self._list = GrowingFile(plan.root / "ImageSets" / "Main" / "train.txt")

    def add(self, outcome: Outcome) -> None:
        """Write the labels of the next picture, and its name into the list."""
        super().add(outcome)
        if isinstance(outcome.found, Detections):
            make_folder(self._list.path.parent)
            self._list.write(encoded(f"{outcome.picture.stem}\n"))

    def labels(self, outcome: Outcome, found: Detections) -> tuple[Path, str]:
        """The file of a picture."""
        objects = [item for item, _ in objects_of(found)]
        file = self.path / "Annotations" / f"{outcome.picture.stem}.xml"
        return file, voc_text(self.plan.name(outcome), found.size, objects, self.plan.classes.names)

    def sync(self) -> State:
        """Put the list on the disk. Return its bytes so far."""
        make_folder(self._list.path.parent)
        return {"bytes": self._list.sync()}

    def go_on(self, state: State) -> None:
        """Cut the list."""
        make_folder(self._list.path.parent)
        self._list.go_on(state["bytes"])

    def finish(self) -> None:
        """Give the list its name."""
        make_folder(self._list.path.parent)
        self._list.finish()

    def close(self) -> None:
        """Let go of the list as it is."""
        self._list.close()


class CocoSet:
    """A sink for train/ and annotations/instances_train.json.

    The file has all annotations, then all pictures. Until the end the pictures are in a file beside it.
    """

    _MIDDLE = b'\n],\n"images": [\n'
    """Between the annotations and the pictures. No text of JSON has line breaks, so it is there once."""
    _END = b"\n]}\n"

    def __init__(self, plan: SetPlan) -> None:
        self.plan, self.path = plan, plan.root
        file = plan.root / "annotations" / "instances_train.json"
        self._annotations, self._images = GrowingFile(file), GrowingFile(file.with_name("images"))
        categories = json_line(coco_categories(plan.classes.names, plan.classes.ids))
        self._head = b'{"categories": ' + categories + b',\n"annotations": [\n'
        self._state = {"annotations": 0, "images": 0}

    def add(self, outcome: Outcome) -> None:
        """Write the labels of the next picture."""
        if not isinstance(found := outcome.found, Detections):
            return
        self._begin()
        image_id = found.image_id if isinstance(found.image_id, int) else self._state["images"] + 1
        height, width = found.size
        image: dict[str, Json] = {"id": image_id, "file_name": self.plan.name(outcome), "height": height, "width": width}
        objects = objects_of(found)
        for (item, _), box in zip(objects, coco_boxes([item for item, _ in objects]), strict=True):
            number = self._state["annotations"] + 1
            entry: dict[str, Json] = {"id": number, "image_id": image_id, "category_id": self.plan.classes.ids[item.label]}
            self._append("annotations", self._annotations, entry | box)
        self._append("images", self._images, image)

    def sync(self) -> State:
        """Put everything on the disk. Return the numbers of entries and the bytes so far."""
        self._begin()
        return self._state | {"bytes": self._annotations.sync(), "bytes of images": self._images.sync()}

    def go_on(self, state: State) -> None:
        """Cut off what was written after that state."""
        self._take_apart()
        self._annotations.go_on(state["bytes"])
        self._images.go_on(state["bytes of images"])
        self._head, self._state = b"", {name: state[name] for name in self._state}

    def finish(self) -> None:
        """Put the pictures after the annotations, and give the file its name."""
        self._begin()
        self._images.sync()
        self._images.close()
        self._annotations.write(self._MIDDLE)
        with writing(self.path), self._images.part.open("rb") as file:
            while piece := file.read(_PIECE):
                self._annotations.write(piece)
        self._annotations.write(self._END)
        self._annotations.finish()
        with writing(self.path):
            self._images.part.unlink()

    def close(self) -> None:
        """Let go of the files as they are."""
        self._annotations.close()
        self._images.close()

    def _append(self, name: str, file: GrowingFile, entry: dict[str, Json]) -> None:
        """Write an entry after those before."""
        file.write((b",\n" if self._state[name] else b"") + json_line(entry))
        self._state[name] += 1

    def _begin(self) -> None:
        """Write the head, if it is not there yet."""
        if self._head:
            make_folder(self._annotations.path.parent)
            self._annotations.write(self._head)
            self._head = b""

    def _take_apart(self) -> None:
        """Put the pictures of a finished file back beside it."""
        if self._images.part.exists():
            return
        path = self._annotations.path
        with writing(path), open_regular(path) as file:
            start = _place_of(self._MIDDLE, file)
            if start is None:
                what, fix = "this is no file of an earlier run", "start again without --resume"
                raise WriteError(what, where=path, fix=fix)
            length = file.seek(0, io.SEEK_END) - len(self._END)
            file.seek(start + len(self._MIDDLE))
            with atomic_file(self._images.part) as images:
                while piece := file.read(min(_PIECE, length - file.tell())):
                    images.write(piece)


def _place_of(mark: bytes, file: BinaryIO) -> int | None:
    """Where a text begins in a file; None if it is not there."""
    before, start = b"", 0
    while piece := file.read(_PIECE):
        at = (before + piece).find(mark)
        if at >= 0:
            return start - len(before) + at
        start += len(piece)
        before = (before + piece)[1 - len(mark) :]
    return None


def json_line(content: Json | dict[str, Json]) -> bytes:
    """JSON on one line."""
    return encoded(json.dumps(content, allow_nan=False))
