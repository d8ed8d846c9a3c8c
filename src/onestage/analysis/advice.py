"""What to do next, in a few sentences, by written rules. docs/evaluation.md has them as a table.

Every rule is a function of the analysis and of facts that it does not have. It gives one sentence, or None if it has nothing to
say. The first sentences are given, in the order of RULES.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from onestage.analysis.analysis import Analysis, AnalysisSettings
from onestage.analysis.labels import PLACED
from onestage.analysis.reach import ReachedPart
from onestage.analysis.slices import Slice
from onestage.analysis.thresholds import without_use
from onestage.errors import counted, printable

SENTENCES = 5
"""The most that are given."""
ENOUGH = 10
"""Objects of a class, or of a size, without which its share says nothing."""
POOR = 0.7
"""The share of the objects of a class below which too few are reached by an anchor. Training warns at the same share."""
BLAMED = 0.5
"""The share of the missed objects that no anchor reaches from which the anchors are to blame."""
NOTHING = 0.05
"""An AP50 below which hardly anything is found."""
COSTLY = 0.02
"""What mending a type of error must bring in AP50, to be worth a sentence."""
FAR = 0.25
"""The least difference of two shares that are told apart."""
RISEN = 1.05
"""How many times its lowest value a validation loss has risen."""
RISING = 0.02
"""AP that the last quarter of a training brought, from which a longer one will bring more."""
LATEST = 3
"""Rows of the history behind the lowest validation loss."""
WRONG = 0.02
"""The share of the objects whose labels are probably wrong, from which the labels come first; and at least FEW labels."""
FEW = 5
LOOSE = 0.15
"""The mean of 1 - IoU of the hits from which a detector places boxes too loosely to doubt how those of labels are placed."""
DOUBTED = 0.05
"""A D-ECE of the detections that are shown from which they are not to be believed, if a calibration takes DOUBTED_LESS away."""
DOUBTED_LESS = 0.02
LONGER_SIDES = 4 / 3
"""How many times as long the sides of a larger input are, at least."""
GRID = 128
"""Its sides are multiples of so many pixels, which all recipes take."""
APART = 0.2
"""How far the best score of a class is from that of all classes, to be named."""
WIDE = 0.1
"""The width of the interval of AP from which more pictures should measure."""


@dataclass(frozen=True)
class Epoch:
    """A row of the history of a run. epoch: epochs done. A figure that was not measured is NaN."""

    epoch: float
    loss: float = math.nan
    val_loss: float = math.nan
    AP: float = math.nan


@dataclass(frozen=True)
class Facts:
    """What advice depends on besides the analysis.

    history: of the run. run, data: as they are typed in a command, and so is model, the file of the weights. recipe: its name
    in the zoo, empty if it has none. size: (height, width) of the model's input; None if it is not known. resized: whether that
    is another one than the recipe's. larger: whether a larger input would show most pictures with more of their pixels. finer:
    options of a model with a finer map that reaches the objects; empty if none is known. fitted: whether the anchors were
    fitted to the objects. measured: what was typed after ``onestage evaluate``. keeps: whether the model has a file that can
    keep thresholds and a calibration. thresholds, calibrated: whether it has these.
    """

    history: tuple[Epoch, ...] = ()
    run: str = "RUN"
    data: str = "DATA"
    model: str = "MODEL"
    recipe: str = ""
    size: tuple[int, int] | None = None
    resized: bool = False
    larger: bool = True
    finer: str = ""
    fitted: bool = False
    measured: str = "RUN DATA"
    keeps: bool = False
    thresholds: bool = False
    calibrated: bool = False

    @property
    def train(self) -> str:
        """The command that trains such a model on the data: of its input size, with fitted anchors if they were fitted."""
        size = f" --size {_typed(self.size)}" if self.resized and self.size is not None else ""
        return f"{self._train}{size}"

    @property
    def train_larger(self) -> str:
        """The same with sides that are a third longer, or a little more."""
        longer = None if self.size is None else tuple(GRID * math.ceil(side * LONGER_SIDES / GRID) for side in self.size)
        return f"{self._train} --size {_typed(longer)}"

    @property
    def _train(self) -> str:
        recipe = f" --model {self.recipe}" if self.recipe else ""
        return f"onestage train {self.data}{recipe}{' --fit-anchors' if self.fitted else ''}"


def advise(analysis: Analysis, facts: Facts = Facts()) -> tuple[str, ...]:
    """At most SENTENCES sentences that say what to do next, the most important first; none if there are no objects.

    Of more, the last ones are left out, but never that of the score: it is the answer to what everybody asks first.
    """
    if analysis.AP is None or math.isnan(analysis.AP.AP50.value):
        return ()
    found = [(name, text) for name, rule in RULES.items() if (text := rule(analysis, facts)) is not None]
    others = [(name, text) for name, text in found if name != SCORE]
    left_out = others[SENTENCES - len(found) :] if len(found) > SENTENCES else []
    return tuple(text for name, text in found if (name, text) not in left_out)


def _unreached(analysis: Analysis, facts: Facts) -> str | None:
    worst = unreached_class(analysis)
    if worst is None:
        return None
    small = 2 * worst.small >= worst.unreached
    helps = [] if facts.fitted else ["--fit-anchors"]
    helps += ["a larger --size"] if facts.larger else []
    helps += [f"a model with a finer map such as {facts.finer}"] if facts.finer else []
    fits = "is small enough" if small else "has their size and shape"
    text = f"{printable(worst.name)}: {worst.missed:,} of {counted(worst.objects, 'object')} are missed: no anchor {fits}"
    text += f" ({worst.unreached:,} are reached by none, among them {worst.missed_unreached:,} of the missed ones)"
    command = facts.train if facts.fitted else f"{facts.train} --fit-anchors"
    return f"{text}. Train with {_or(helps or ['--set anchors=OctaveAnchors'])}: {command}"


def unreached_class(analysis: Analysis) -> ReachedPart | None:
    """The class that is missed because no anchor reaches its objects; of several, the one that is reached least."""
    parts = () if analysis.reach is None else analysis.reach.classes
    poor = [part for part in parts if part.objects >= ENOUGH and part.reached < POOR * part.objects]
    blamed = [part for part in poor if part.missed and part.missed_unreached >= BLAMED * part.missed]
    return min(blamed, key=lambda part: part.reached / part.objects, default=None)


def _nothing(analysis: Analysis, facts: Facts) -> str | None:
    if analysis.AP is None or analysis.AP.AP50.value >= NOTHING:
        return None
    text = f"hardly anything is found (AP50 {_figure(analysis.AP.AP50.value)}): look at the labels first"
    return f"{text} (onestage data check {facts.data}), then train longer, with --epochs or --minutes: {facts.train}"


def _costliest(analysis: Analysis, facts: Facts) -> str | None:
    errors = analysis.errors
    if errors is None:
        return None
    worst = max(errors.types, key=lambda kind: kind.gain)
    if worst.gain < COSTLY:
        return None
    most = "most of what is lost is" if 2 * worst.gain >= sum(kind.gain for kind in errors.types) else "what costs most is"
    gain = f"without it, AP50 would be {_figure(errors.AP + worst.gain)} in place of {_figure(errors.AP)}"
    what, remedy = REMEDIES[worst.name]
    remedy = LONGER if worst.name == "Loc" and facts.fitted else remedy
    return f"{most} {what} ({gain}){_pair(analysis) if worst.name == 'Cls' else ''}: {remedy.format(facts=facts)}"


LONGER = "train longer, with --epochs or --minutes: {facts.train}"

REMEDIES = {
    "Cls": (
        "confusion of classes",
        "look at the labels of such objects (onestage data check {facts.data}), and add pictures that show the difference:"
        " {facts.train}",
    ),
    "Loc": (
        "localisation: boxes near an object that do not fit it",
        "train longer (--epochs or --minutes), or with anchors that fit: {facts.train} --fit-anchors",
    ),
    "Both": (
        "boxes of a wrong class in a wrong place",
        LONGER,
    ),
    "Dupe": (
        "objects that are found more than once",
        "suppress more of the boxes that overlap: {facts.train} --set postprocess.nms.iou_threshold=0.35",
    ),
    "Bkg": (
        "false alarms where no object is",
        "add pictures without objects that show what is mistaken, and train on from this model: {facts.train} --weights"
        " {facts.model}; or show fewer detections, of which more are right, from the score that this names: onestage evaluate"
        " {facts.measured} --want precision=0.95",
    ),
    "Miss": (
        "objects that nothing is found for",
        "train longer (--epochs or --minutes), or with more pictures that show such objects: {facts.train}",
    ),
}
"""For each type of error what it is, and what to do about it."""


def _pair(analysis: Analysis) -> str:
    """The two classes that are mistaken most often, as a part of a sentence; empty if there are none."""
    if analysis.confusion is None or not analysis.confusion.mistaken:
        return ""
    cell = analysis.confusion.mistaken[0]
    true, predicted = (printable(analysis.classes[label]) for label in (cell.true, cell.predicted))
    return f", most often {true} taken for {predicted} ({counted(cell.count, 'time')})"


def _small(analysis: Analysis, facts: Facts) -> str | None:
    sizes = [part for part in _slices(analysis, "size") if part.objects >= ENOUGH]
    if len(sizes) < 2:
        return None
    best = max(sizes[1:], key=lambda part: part.share)
    worst = min(sizes[: sizes.index(best)], key=lambda part: part.share)
    if best.share - worst.share < FAR or worst.high >= best.low:
        return None
    text = f"small objects are found less often: {_percent(worst)} of those {worst.name}, {_percent(best)} of those {best.name}"
    if facts.larger:
        return f"{text}. A larger input shows more of their pixels: {facts.train_larger}"
    return f"{text}. A model with a finer map may find more: onestage train {facts.data} {facts.finer or '--model NAME'}"


def _worst_class(analysis: Analysis, facts: Facts) -> str | None:
    if analysis.AP is None:
        return None
    parts = {part.name: part for part in _slices(analysis, "class") if part.objects >= ENOUGH}
    told, mean = unreached_class(analysis), analysis.AP.AP50.value
    rows = [row for row in analysis.AP.per_class if row.name in parts and (told is None or row.name != told.name)]
    worst = min(rows, key=lambda row: row.AP50.value, default=None)
    if worst is None or worst.AP50.value > mean / 2 or worst.AP50.high >= mean:
        return None
    part = parts[worst.name]
    text = f"{printable(worst.name)} is the worst class: AP50 {_figure(worst.AP50.value)}, all classes {_figure(mean)}"
    found = f"{part.found:,} of its {counted(part.objects, 'object')} are found"
    return f"{text}; {found}. Label more pictures with it, or show it more often: {facts.train} --balance 0.5"


def _by_heart(analysis: Analysis, facts: Facts) -> str | None:
    rows = [row for row in facts.history if math.isfinite(row.loss) and math.isfinite(row.val_loss)]
    if not rows:
        return None
    lowest = min(rows, key=lambda row: row.val_loss)
    last, since = rows[-1], rows[rows.index(lowest) :]
    if len(since) <= LATEST or last.val_loss < RISEN * lowest.val_loss or last.loss >= lowest.loss:
        return None
    text = f"validation loss rises since epoch {lowest.epoch:g} (from {lowest.val_loss:.3g} to {last.val_loss:.3g}), while the"
    text += " training loss falls: the model learns its pictures by heart. More pictures help, or stronger augmentation"
    return f"{text}: {facts.train} --augment ssd; --patience stops such a training"


def _unfinished(analysis: Analysis, facts: Facts) -> str | None:
    rows = [row for row in facts.history if math.isfinite(row.AP)]
    before = [row for row in rows if row.epoch <= 0.75 * rows[-1].epoch]
    if len(before) < LATEST:
        return None
    last, best = rows[-1], max(row.AP for row in before)
    if max(row.AP for row in rows) > last.AP or last.AP - best < RISING:
        return None
    text = f"AP still rose when the training ended, from {_figure(best)} to {_figure(last.AP)} in its last quarter"
    return f"{text}: go on, for example onestage train --resume {facts.run} --epochs {math.ceil(2 * last.epoch)}"


def _labels(analysis: Analysis, facts: Facts) -> str | None:
    if analysis.labels is None:
        return None
    loose = analysis.olrp is None or not analysis.olrp.mean.loc < LOOSE
    doubted = {kind: number for kind, number in analysis.labels.counts.items() if number and not (loose and kind == PLACED)}
    count, objects = sum(doubted.values()), sum(part.objects for part in _slices(analysis, "class"))
    if count < max(FEW, WRONG * objects):
        return None
    kinds = ", ".join(f"{number:,} {kind}" for kind, number in doubted.items())
    suspects = [suspect for suspect in analysis.labels.suspects if suspect.reason in doubted]
    pictures = ", ".join(dict.fromkeys(printable(str(suspect.image_id)) for suspect in suspects[:FEW]))
    text = f"{counted(count, 'label')} are probably wrong ({kinds}). Look at these pictures first: {pictures}"
    sure = "" if analysis.labels.sure == AnalysisSettings.sure else f" --sure {analysis.labels.sure:g}"
    tool = f"for a label tool: onestage evaluate {facts.measured}{sure} --out suspects --suspects coco"
    return f"{text}; correct them ({tool}), and train again: {facts.train}"


def _unsure(analysis: Analysis, facts: Facts) -> str | None:
    if analysis.AP is None or not analysis.AP.AP.high - analysis.AP.AP.low > WIDE:
        return None
    ap, pictures = analysis.AP.AP, counted(analysis.AP.pictures, "picture")
    text = f"AP is {_figure(ap.value)}, and with other pictures it could be {_figure(ap.low)} to {_figure(ap.high)}: {pictures}"
    compare = f"onestage compare A B --data {facts.data}"
    return f"{text} tell no more. Label more to measure on; whether another model is better says {compare}"


def _calibration(analysis: Analysis, facts: Facts) -> str | None:
    fitted = analysis.calibrated
    if fitted is None or facts.calibrated or not fitted.helps or not fitted.shown_before.error >= DOUBTED:
        return None
    before, after = fitted.shown_before.error, fitted.shown_after.error
    if before - after < DOUBTED_LESS:
        return None
    bins = [part for part in fitted.shown_before.bins if part.count]
    worst = max(bins, key=lambda part: part.count * abs(part.hits - part.score))
    text = f"scores cannot be believed: of {counted(worst.count, 'detection')} of a score from {worst.low:g} to {worst.high:g},"
    text += f" {100 * worst.hits:.0f} % are right. On pictures that it was not fitted on, a calibration takes D-ECE of the"
    text += f" detections that are shown from {_figure(before)} to {_figure(after)}"
    return f"{text}: onestage evaluate {facts.measured} --calibrate --keep-thresholds"


def _score(analysis: Analysis, facts: Facts) -> str | None:
    if analysis.thresholds is None or math.isnan(analysis.thresholds.overall.score.value):
        return None
    best, want = analysis.thresholds.overall, analysis.thresholds.want
    wanted = "" if want.figure == "f1" else f" --want {want.figure}={want.value:g}"
    why = "the best F1" if want.figure == "f1" else f"a {want.figure} of {want.value:g}"
    text = f"for {why}, show detections of a score of at least {best.score.value:.3g}: {_figure(best.precision.value)} of them"
    text += f" are right, and they find {_figure(best.recall.value)} of the objects{_apart(analysis)}"
    if facts.thresholds:
        return f"{text}; the model holds a score for each class, and uses it: onestage predict {facts.run} PICTURES"
    if facts.keeps:
        text += ". Keep the score of each class in the model, for predict and exported files"
        return f"{text}: onestage evaluate {facts.measured} --keep-thresholds{wanted}"
    return f"{text}: onestage predict {facts.run} PICTURES --score {best.score.value:.3g}"


def _apart(analysis: Analysis) -> str:
    """The class whose best score is farthest from that of all classes, as a part of a sentence; empty if all are near. Classes
    without a score of use are passed over.
    """
    thresholds = analysis.thresholds
    many = {part.name for part in _slices(analysis, "class") if part.objects >= ENOUGH}
    rows = [] if thresholds is None else [row for row in thresholds.per_class if row.name in many]
    if thresholds is None or not rows:
        return ""
    overall = thresholds.overall.score.value
    useless = {row.name for row in without_use(thresholds)}
    rows = [row for row in rows if abs(row.score.value - overall) > APART and row.name not in useless]
    if not rows:
        return ""
    far = max(rows, key=lambda row: abs(row.score.value - overall))
    found = f"there {_figure(far.precision.value)} are right, and {_figure(far.recall.value)} are found"
    return f"; {printable(far.name)} alone needs {far.score.value:.3g} ({found})"


SCORE = "score"
RULES: dict[str, Callable[[Analysis, Facts], str | None]] = {
    "unreached": _unreached,
    "nothing": _nothing,
    "costliest": _costliest,
    "by heart": _by_heart,
    "unfinished": _unfinished,
    "small": _small,
    "worst class": _worst_class,
    "labels": _labels,
    "unsure": _unsure,
    "calibration": _calibration,
    SCORE: _score,
}
"""The rules by name, in the order in which their sentences come."""


def _slices(analysis: Analysis, quality: str) -> tuple[Slice, ...]:
    """The parts of all objects by this quality."""
    qualities = () if analysis.slices is None else analysis.slices.qualities
    return next((each.slices for each in qualities if each.name == quality), ())


def _typed(size: Sequence[int] | None) -> str:
    """A size (height, width) as --size takes it."""
    return "HEIGHTxWIDTH" if size is None else "x".join(map(str, size))


def _percent(part: Slice) -> str:
    return f"{100 * part.share:.0f} %"


def _figure(value: float) -> str:
    """A figure from 0 to 1 with three digits: .412."""
    return f"{value:.3f}".removeprefix("0")


def _or(things: list[str]) -> str:
    """Things in a row: a, b or c."""
    return " or ".join(filter(None, [", ".join(things[:-1]), things[-1]]))
