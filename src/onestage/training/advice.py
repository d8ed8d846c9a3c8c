"""Advice while a training runs, by written rules. docs/training.md has them as a table.

Every rule is a function of the history of the run and of facts that stand since its start. So a run that goes on knows what
was said before, without a note of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

from onestage.errors import counted, printable
from onestage.training.state import CLASS, Record

FEW = 20
"""Objects of a class below which its AP will be low, if they train, or unsure, if they measure."""
FAR_ABOVE = 1.5
"""How many times the training loss a validation loss is far above it."""
MOVED = 0.002
"""AP has moved if it is higher than before by this much."""
FOUND = 0.05
"""An AP by which a detector finds things."""
FLAT = 0.97
"""A loss above this part of the first one has not fallen."""
RISEN = 1.2
"""How many times its lowest value a training loss has risen."""
SLOW = 0.5
"""The part of the first speed that shows other work on the processor."""
OTHERS = 0.25
"""The share of the processors for other programs from which threads wait for one another."""
WAITING = 0.05
"""The largest share of the time for waiting for pictures."""
WORSE = 2.0
"""Advice is given again if what it is about has grown this many times."""
LATEST = 3
"""Rows of the history over which something must hold."""
NAMED = 5
"""Classes that one line names."""

History: TypeAlias = Sequence[Record]


class ClassCount(NamedTuple):
    """The objects of a class: those that train and those that measure. each: of a training picture that has any, on average."""

    name: str
    train: int
    val: int
    each: float = 1.0

    @property
    def lacking(self) -> int:
        """Pictures with the class that would bring it to FEW objects to train and FEW to measure."""
        return sum(math.ceil(max(0, FEW - objects) / self.each) for objects in (self.train, self.val))


@dataclass(frozen=True)
class Facts:
    """What advice depends on besides the history.

    epochs: of the whole training. warmup: epochs of the warm-up. lr: the peak learning rate. threads: of this process. busy:
    the share of the processors at hand that other programs use, 0..1; NaN if that is not known. larger: whether a larger input
    would show most pictures with more of their pixels. doctor: the command that looks at the data set.
    """

    classes: tuple[ClassCount, ...]
    epochs: float
    warmup: float
    lr: float
    threads: int = 1
    busy: float = math.nan
    larger: bool = True
    doctor: str = "onestage data check DATA"


class Finding(NamedTuple):
    """What a rule found. level: how bad it is, in the rule's measure; above 0."""

    level: float
    text: str


@dataclass(frozen=True)
class Advice:
    """A line for people, or a few. epoch: epochs done when it was given; 0 before the first. rule: a key of RULES."""

    epoch: float
    rule: str
    level: float
    text: str


def new_advice(history: History, facts: Facts, given: Sequence[Advice] = ()) -> list[Advice]:
    """What the newest row of the history gives reason to say. given: what was said before; it comes again if it is worse."""
    last = {advice.rule: advice.level for advice in given}
    epoch = history[-1]["epoch"] if history else 0.0
    found = ((name, rule(history, facts)) for name, rule in RULES.items())
    return [Advice(epoch, name, *f) for name, f in found if f is not None and f.level >= WORSE * last.get(name, 0.0)]


def all_advice(history: History, facts: Facts) -> list[Advice]:
    """All that was to be said up to the end of the history, in its order."""
    given: list[Advice] = []
    for rows in range(len(history) + 1):
        given += new_advice(history[:rows], facts, given)
    return given


def _few_examples(history: History, facts: Facts) -> Finding | None:
    few = sorted((c for c in facts.classes if c.train < FEW or c.val < FEW), key=lambda c: (min(c.train, c.val), c.name))
    if history or not few:
        return None
    text = f"few examples: below {FEW} objects to train, the AP of a class will be low; below {FEW} to measure, unsure"
    return Finding(1, "\n  ".join([text, *map(_few_objects, few[:NAMED]), *_others(few)]))


def _few_objects(count: ClassCount) -> str:
    """The objects of a class that has few of them, and what to do about it."""
    name, more = printable(count.name), counted(count.lacking, "more picture")
    each = f", each {100 / count.val:.0f} points of recall" if 0 < count.val < FEW else ""
    return f"{name}: {count.train:,} to train, {count.val:,} to measure{each}; label about {more} with it"


def _other_work(history: History, facts: Facts) -> Finding | None:
    if not facts.busy >= OTHERS or facts.threads == 1:
        return None
    text = f"other programs use {100 * facts.busy:.0f} % of the processors. Threads that wait for one another can cost tenfold"
    return Finding(facts.busy, f"{text}: stop the other work, or try OMP_NUM_THREADS=1 in the environment")


def _overfits(history: History, facts: Facts) -> Finding | None:
    rows = _with(history, "loss", "val/loss")
    if len(rows) <= LATEST:
        return None
    ratio = min(row["val/loss"] / max(row["loss"], 1e-9) for row in rows[-LATEST:])
    lowest = min(rows, key=lambda row: row["val/loss"])
    if ratio < FAR_ABOVE or lowest in rows[-LATEST:]:
        return None
    text = f"the validation loss is {ratio:.1f} times the training loss, and has not fallen since epoch {lowest['epoch']:g}"
    return Finding(
        ratio, f"{text}: the model learns these pictures by heart. More pictures help, or more augmentation: --augment"
    )


def _stands_still(history: History, facts: Facts) -> Finding | None:
    rows = _with(history, "val/AP")
    best, since, count = 0.0, 0.0, 0
    for row in rows:
        count += 1
        if row["val/AP"] > best + MOVED:
            best, since, count = row["val/AP"], row["epoch"], 0
    still = rows[-1]["epoch"] - since if rows else 0.0
    if best < FOUND or count < 2 * LATEST or still < facts.epochs / 4:
        return None
    text = f"AP has not risen above {best:.3f} for {still:g} epochs: more of them may bring little"
    more = "more pictures or a larger --size" if facts.larger else "more pictures"
    return Finding(still, f"{text}. --patience stops such a training; {more} may help")


def _learns_nothing(history: History, facts: Facts) -> Finding | None:
    rows = _with(history, "loss")
    after = [row for row in rows if row["epoch"] > facts.warmup]
    if len(after) < LATEST or rows[-1]["epoch"] < facts.warmup + facts.epochs / 10:
        return None
    if min(row["loss"] for row in rows) < FLAT * rows[0]["loss"] or rows[-1]["loss"] > RISEN * rows[0]["loss"]:
        return None
    text = f"the loss is {rows[-1]['loss']:.3g}, as at the start: a learning rate of {facts.lr:.2g} does nothing here"
    return Finding(1, f"{text}. Try --lr {10 * facts.lr:.2g}; if that changes nothing, look at the labels: {facts.doctor}")


def _rises(history: History, facts: Facts) -> Finding | None:
    rows = [row for row in _with(history, "loss") if row["epoch"] > facts.warmup]
    if len(rows) <= LATEST:
        return None
    lowest = min(row["loss"] for row in rows[:-LATEST])
    ratio = min(row["loss"] for row in rows[-LATEST:]) / max(lowest, 1e-9)
    if ratio < RISEN:
        return None
    text = f"the training loss has risen from {lowest:.3g} to {rows[-1]['loss']:.3g}: the learning rate may be too high"
    return Finding(ratio, f"{text}. Try --lr {facts.lr / 3:.2g}, or a longer --warmup")


def _never_found(history: History, facts: Facts) -> Finding | None:
    rows = _with(history, "val/AP")
    if len(rows) < 2 * LATEST or rows[-1]["epoch"] < facts.warmup + facts.epochs / 3 or rows[-1]["val/AP"] < FOUND:
        return None
    lost = [c for c in facts.classes if (key := CLASS + c.name) in rows[-1] and not any(row.get(key) for row in rows)]
    if not lost:
        return None
    text = _named([f"{c.name} ({counted(c.train, 'training object')})" for c in lost])
    size = "; small objects need a larger --size" if facts.larger else ""
    return Finding(len(lost), f"never found: {text}. Look at the labels ({facts.doctor}){size}")


def _slows(history: History, facts: Facts) -> Finding | None:
    rates = [row["images_per_s"] for row in _with(history, "images_per_s")]
    if len(rates) <= LATEST:
        return None
    first, now = sorted(rates[:LATEST])[LATEST // 2], max(rates[-2:])
    if now > SLOW * first:
        return None
    text = f"{now:.2g} pictures a second, {first:.2g} at the start: does other work share the processor? Threads that wait for"
    more = "one another can cost tenfold: stop the other work, or go on with OMP_NUM_THREADS=1 in the environment"
    return Finding(first / max(now, 1e-9), f"{text} {more}")


def _waits(history: History, facts: Facts) -> Finding | None:
    shares = [row["waiting"] for row in _with(history, "waiting")][-2:]
    if len(shares) < 2 or min(shares) <= WAITING:  # the first epoch begins with a wait
        return None
    text = f"{100 * min(shares):.0f} % of the time goes into waiting for pictures"
    return Finding(min(shares), f"{text}: raise --workers, or keep decoded pictures in memory: --cache")


RULES: dict[str, Callable[[History, Facts], Finding | None]] = {
    "few examples": _few_examples,
    "other work": _other_work,
    "by heart": _overfits,
    "stands still": _stands_still,
    "learns nothing": _learns_nothing,
    "loss rises": _rises,
    "never found": _never_found,
    "slower": _slows,
    "waiting": _waits,
}
"""The rules by name, in the order in which their lines come."""


def _with(history: History, *keys: str) -> list[Record]:
    """The rows in which all these figures are numbers."""
    return [row for row in history if all(math.isfinite(row.get(key, math.nan)) for key in keys)]


def _named(things: Sequence[str]) -> str:
    """The first few, and the number of the others."""
    return " ".join([", ".join(printable(thing) for thing in things[:NAMED]), *_others(things)])


def _others(things: Sequence[object]) -> list[str]:
    """The number of those beyond the first few; none if there are no others."""
    return [f"and {len(things) - NAMED:,} more"] if len(things) > NAMED else []
