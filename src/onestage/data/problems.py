"""What is wrong with a data set, as far as its annotations and file names tell: the list that the doctor and training share.

The doctor looks further: it opens every picture, and finds broken ones, other sizes than stated, and copies.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from onestage.data.dataset import NOTHING_TO_MEASURE, Dataset, Problem, complain, owner_of
from onestage.data.reader import OpenData


def problems_of(opened: OpenData, sets: Sequence[Dataset], split: str | None = None) -> tuple[Problem, ...]:
    """All problems of the splits that were looked at, each once. split: the only one that is wanted, if any."""
    return tuple(dict.fromkeys([*_of_the_whole(opened, sets, split), *(p for data in sets for p in data.problems)]))


def refuse_problems(opened: OpenData, splits: Sequence[str | None], *, names: Sequence[str] | None) -> None:
    """Raise one DataError that lists all problems if an annotation or a picture of these splits is faulty.

    names: of the classes, if the data set only numbers them.
    """
    sets = [opened.look(split, names=names) for split in splits]
    if any(data.problems for data in sets):
        raise complain(opened.root, problems_of(opened, sets), empty=sets[0].is_empty, more=DOCTOR)


DOCTOR = "; to look into every picture too: onestage data check"
"""What finds more than training does at its start."""


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
