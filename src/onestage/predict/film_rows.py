"""What is seen in a film as JSON lines: a row for each frame as it comes, with the fields of a picture's row and its time.

A row has image_id (the source, # and the number of the frame), path, frame, time in seconds since the first frame, height,
width and detections, each with ``track``, its id or null, if ids were given. ``damaged`` is there if the decoder filled gaps
in the frame, ``dropped`` if frames were dropped before it: how many so far, ``zones`` if
objects are counted in some: how many of each class. What went wrong has ``error`` instead of
detections.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TypeAlias, cast

from onestage.data.predictions import encoded, record_of
from onestage.files import GrowingFile
from onestage.predict.film_writer import Drawing
from onestage.predict.frames import Fault
from onestage.predict.watching import Seen
from onestage.predict.zones import count_in_zones

Row: TypeAlias = "dict[str, object]"


def row_of(item: Seen | Fault, name: str, *, dropped: int = 0, drawing: Drawing | None = None) -> Row:
    """The row of a frame or a fault. name: of the source. dropped: how many frames were dropped so far. drawing: has the zones
    in which objects are counted.
    """
    moment = item if isinstance(item, Fault) else item.frame
    head: Row = {"image_id": f"{name}#{moment.number}", "path": name, "frame": moment.number}
    head["time"] = round(float(moment.time), 6)
    if isinstance(item, Fault):
        return head | {"error": item.error.to_dict()}
    content = record_of(item.found)
    objects = cast("list[Row]", content["detections"])
    if item.ids:
        for entry, number in zip(objects, item.ids, strict=True):
            entry["track"] = number
    notes: Row = {"damaged": True} if item.frame.damaged else {}
    notes |= {"dropped": dropped} if dropped else {}
    if drawing is not None and drawing.zones:
        counts = count_in_zones(item.found, drawing.zones, drawing.classes, spot=drawing.spot)
        names = drawing.classes
        notes["zones"] = {
            zone.name: {name: count for name, count in zip(names, counts[zone.name], strict=True) if count}
            for zone in drawing.zones
        }
    return head | {"height": content["height"], "width": content["width"], **notes, "detections": objects}


class FilmRows:
    """The file of rows. Other programs see each row as soon as it is added, in the file of that name with .part after it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = GrowingFile(path)

    def add(self, row: Row) -> None:
        """Write a row."""
        self._file.write(encoded(json.dumps(row, allow_nan=False) + "\n"))
        self._file.flush()

    def finish(self) -> None:
        """Give the file its name."""
        self._file.finish()

    def close(self) -> None:
        """Let go of the file as it is."""
        self._file.close()
