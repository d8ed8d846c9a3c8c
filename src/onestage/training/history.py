"""What was changed in the plan of a run after it had begun, and the place on the learning rate's curve that follows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

STEPS = "steps"
"""The name of a change of the number of steps."""
LEFT_OUT = "pictures left out"
"""The name of a change of the number of pictures that the run began with and that cannot be read any more."""


@dataclass(frozen=True)
class Change:
    """One setting got another value.

    step: optimiser steps done until then. what: the setting. before, after: its values. why: the reason, for people.
    """

    step: int
    what: str
    before: int | float | str | None
    after: int | float | str | None
    why: str = ""

    def __str__(self) -> str:
        """As a line for people: at step 120: steps 800 -> 640 (other work on this machine)."""
        return f"at step {self.step}: {self.what} {self.before} -> {self.after}" + (f" ({self.why})" if self.why else "")


def with_steps(changes: Sequence[Change], step: int, before: int, after: int | None, *, why: str = "") -> tuple[Change, ...]:
    """The changes, with ``after`` as the number of steps from ``step`` on. None: it is not known yet.

    A run may go on from a checkpoint before its last change of the number of steps. Such a change has not come to pass, and the
    new one takes its place.
    """
    undone = [change for change in changes if change.what == STEPS and change.step >= step]
    kept = [change for change in changes if change not in undone]
    return (*kept, Change(step, STEPS, undone[0].before if undone else before, after, why))


def with_left_out(changes: Sequence[Change], step: int, lost: Sequence[str]) -> tuple[Change, ...]:
    """The changes, with the number of pictures that are left out from ``step`` on, if it has changed. lost: their names."""
    before = next((change.after for change in reversed(changes) if change.what == LEFT_OUT), 0)
    if before == len(lost):
        return tuple(changes)
    why = f"{', '.join(lost[:3])}{', ...' if len(lost) > 3 else ''}"
    return (*changes, Change(step, LEFT_OUT, before, len(lost), why))


def place_on_curve(step: int, steps: int, changes: Sequence[Change] = ()) -> tuple[float, int]:
    """The place of step ``step`` (from 0) on the curve of the learning rate, and the length of that curve in steps.

    Without changes these are ``step`` and ``steps``. Where the number of steps was changed, the rest of the curve is
    compressed or stretched to the steps that remain. If the run was complete by then, a new curve begins.
    """
    lengths = [(change.step, change.before, change.after) for change in changes if change.what == STEPS]
    length = int(lengths[0][1] or 0) if lengths else steps
    place, since, pace = 0.0, 0, 1.0
    for at, before, after in lengths:
        if step < at:
            break
        left = int(after or 0) - at
        if at >= int(before or 0):
            place, pace, length = 0.0, 1.0, left
        else:
            place += (at - since) * pace
            pace = (length - place) / max(left, 1)
        since = at
    return place + (step - since) * pace, length


def last_part(share: float, steps: int, changes: Sequence[Change] = ()) -> int:
    """The first step of the last ``share`` (0 to 1) of the training. Where the number of steps was changed before it, it keeps
    its part of the steps that were left, and at least one of them. If the run was complete by then, a new training begins.
    """
    lengths = [(change.step, int(change.before or 0), int(change.after or 0)) for change in changes if change.what == STEPS]
    length = lengths[0][1] if lengths else steps
    first = length - round(share * length)
    for at, before, after in lengths:
        if at >= before:
            first = after - round(share * (after - at))
        elif at <= first < before:
            first = after - max(1, round((before - first) * (after - at) / (before - at)))
        elif at <= first:
            first = after
    return first
