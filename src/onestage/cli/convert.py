"""``onestage data convert``: a data set in another format."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import tyro

from onestage.cli.output import progress, say, tell
from onestage.errors import counted, first_ten

if TYPE_CHECKING:
    from onestage.data.convert import Converted


def convert(
    data: tyro.conf.Positional[Path],
    out: tyro.conf.Positional[Path],
    /,
    *,
    to: Literal["wds", "parquet", "coco", "yolo", "voc"],
    format: Literal["coco", "voc", "yolo", "csv", "labelme", "wds", "parquet"] | None = None,
    on_bad: Literal["stop", "skip"] = "stop",
    shard_size: float = 256.0,
) -> int:
    """Write a data set in another format: the same labels, and the pictures' files byte by byte.

    onestage data convert photos/ shards/ --to wds

    wds makes tars for WebDataset, and parquet Parquet files: some thousand pictures in each file, which large disks and
    networks read much faster than a file for each. Training, evaluation and data check read them as any data set. coco, yolo
    and voc make the usual folders, from shards too.

    The copy appears when it is complete: an interrupted one leaves nothing. It is then read and compared with the original.
    What a format cannot say is counted: YOLO has no crowds, difficult objects and areas, VOC has no crowds and areas. Outlines
    are not copied.

    Args:
        data: the data set's folder or file
        out: folder for the copy; made if it does not exist, and must be empty if it does
        to: the format of the copy
        format: the format of the data set, if it is not recognised
        on_bad: stop at the first list of faulty pictures and annotations, or skip them
        shard_size: megabytes of a tar or Parquet file
    """
    from onestage.data.convert import convert as convert_data

    found = convert_data(data, out, to=to, format=format, on_bad=on_bad, shard=shard_size, track=_track)
    parts = ", ".join(f"{number:,} {split}" for split, number in found.pictures.items() if split)
    pictures = counted(sum(found.pictures.values()), "picture") + (f" ({parts})" if parts else "")
    _say_what_differs(found, to)
    tell(f"{pictures} and {counted(found.objects, 'object')} as {to} in {out}, read again and found equal")
    tell(f"next: onestage data check {shlex.quote(str(out))}")
    return 0


def _say_what_differs(found: Converted, to: str) -> None:
    """Say what the copy in the format ``to`` lacks."""
    if found.problems:
        say(
            f"{counted(len(found.problems), 'problem')}, left out:\n{first_ten([str(problem) for problem in found.problems])}",
            lines=True,
        )
    for what, number in found.lost.items():
        say(f"the format {to} cannot say everything: {number:,} x {what}")
    if found.note is not None:
        say(found.note)


@contextmanager
def _track(text: str, count: int) -> Iterator[Callable[[], None]]:
    with progress(text, count) as pictures:
        yield partial(pictures.advance, 1)
