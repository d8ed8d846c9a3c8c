"""What is wrong with a data set, as far as its annotations and file names tell: the list that the doctor and training share.

The doctor looks further: it opens every picture, and finds broken ones, other sizes than stated, and copies.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import ceil

from onestage.data.dataset import CORRECT, LEAVE_OUT, NOTHING_TO_MEASURE, Dataset, Problem, complain, owner_of
from onestage.data.reader import OpenData
from onestage.errors import DataError, ProblemsError, first_ten

ALWAYS, NEVER = 10, 0.1
"""A limit lets pass this number of bad pictures and boxes in any data set, but no more than this part of the pictures."""


def problems_of(opened: OpenData, sets: Sequence[Dataset], split: str | None = None) -> tuple[Problem, ...]:
    """All problems of the splits that were looked at, each once. split: the only one that is wanted, if any."""
    return tuple(dict.fromkeys([*_of_the_whole(opened, sets, split), *(p for data in sets for p in data.problems)]))


def refuse_problems(
    opened: OpenData, splits: Sequence[str | None], *, names: Sequence[str] | None, share: float | None = None
) -> None:
    """Raise one DataError that lists all problems if an annotation or a picture of these splits is faulty.

    names: of the classes, if the data set only numbers them. share: let pass pictures that are missing or unreadable and boxes
    without area, up to the limit that follows from it (``most_left_out``); None: nothing is let pass.
    """
    sets = [opened.look(split, names=names) for split in splits]
    found = left_out_of(*sets)
    if share is None or any(problem.fault is None for problem in found):
        if found:
            listed = [p for p in problems_of(opened, sets) if share is None or p.fault is None]
            raise complain(opened.root, listed, empty=sets[0].is_empty, more=also_look(sets[0].doctor))
        return
    if len(found) > most_left_out(share, *sets):
        raise too_many(found, *sets, share=share, empty=sets[0].is_empty)


def left_out_of(*sets: Dataset) -> tuple[Problem, ...]:
    """What was left out of these data sets, each once: parts of one data set share their problems."""
    return tuple(dict.fromkeys(problem for data in sets for problem in data.problems))


def most_left_out(share: float, *sets: Dataset) -> int:
    """The number of bad pictures and boxes that may be left out: this share (0 to 1) of all pictures, the bad ones too, or
    ``ALWAYS``, whichever is more, but no more than ``NEVER`` of the pictures.
    """
    lost = sum(problem.fault == "picture" for problem in left_out_of(*sets))
    pictures = sum(map(len, sets)) + lost
    return min(max(ALWAYS, ceil(share * pictures)), int(NEVER * pictures))


def too_many(
    found: Sequence[Problem], *sets: Dataset, share: float, empty: bool = False, go_on: str | None = None
) -> DataError:
    """The error if more was found in data sets than may be left out. It lists the first ten. share: see ``most_left_out``.
    empty: no object is without problems. go_on: the command that resumes the run, if one is under way: then the error is no
    ProblemsError of a data set that is read, and its remedy is complete.
    """
    fix = CORRECT if empty else LEAVE_OUT if go_on is None else f"mend them, or go on without them: {go_on} --on-bad skip"
    if not empty and len(found) <= most_left_out(NEVER, *sets):
        fix += f"; or raise bad_limit=, the share of the pictures, up to {NEVER:g}"
    most = most_left_out(share, *sets)
    kind = ProblemsError if go_on is None else DataError
    return kind(
        f"{len(found):,} bad pictures and boxes in this data set, and at most {most:,} may be left out",
        where=sets[0].root,
        got="\n" + first_ten([str(problem) for problem in found]),
        fix=fix,
    )


def also_look(doctor: str) -> str:
    """The end of a remedy: what finds more than training does at its start. doctor: the command of the doctor."""
    return f"; to look into every picture too: {doctor}"


def _of_the_whole(opened: OpenData, sets: Sequence[Dataset], split: str | None) -> Iterator[Problem]:
    """What is wrong with the splits, and not with one annotation."""
    where = str(opened.path)
    if split is None:
        yield from opened.unread
        yield from opened.unlabelled
        yield from opened.absent
    first, *others = sets
    for data in sets:
        if data.split == "val" and data.is_empty:
            yield Problem(where, NOTHING_TO_MEASURE)
        elif data.is_empty and (data is first or data.split in ("train", "trainval")):
            yield Problem(where, f"no object was read in {data.split or 'this data set'}, so there is nothing to learn")
    for data in others:
        if data.split and (error := opened.other_classes(data.split, first.classes, owner=owner_of(first))):
            yield Problem.of_whole(opened.path, error)
