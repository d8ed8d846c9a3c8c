"""What ``onestage evaluate`` tells beside the figures: which errors cost AP, how sure AP is, which score to deploy with."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Literal

from onestage.cli.output import progress, say, stdout
from onestage.errors import ConfigError, DataError
from onestage.model.codec import Range

if TYPE_CHECKING:
    from onestage.analysis import Analysis
    from onestage.analysis.calibration import Calibrated
    from onestage.analysis.thresholds import Want
    from onestage.cli.advice import Background
    from onestage.data import Dataset
    from onestage.structures import Detections, Truth


@dataclass(frozen=True)
class Judging:
    """What is told beside the figures."""

    HEADING: ClassVar[str] = "analysis"
    analysis: bool = True
    """Also tell which errors cost most, how sure AP is, which score to deploy with, and with --out the worst pictures. With
    thousands of pictures this takes seconds to minutes; --no-analysis leaves it out."""
    draws: int = 1000
    """Data sets that are drawn from the pictures, with repeats, to say how sure the figures are. 0: no intervals, which is
    much faster."""
    want: str = "f1"
    """What the scores to deploy with are for. f1: the best F1; precision=0.95: the most objects found with at least this
    precision; recall=0.9: the best precision with at least this recall."""
    learning_curve: float | None = None
    """Also train three times, so many minutes each, on a quarter, half and all of the pictures of the run, and say whether more
    pictures would help."""
    suspects: Literal["coco", "labelme"] | None = None
    """With --out: also write the labels that are probably wrong for a label tool, each with the reason: suspects.json, a COCO
    data set, or suspects/, a LabelMe file for each picture. Your labels stay as they are. Where the model says something else,
    its box is added in a class that begins with "proposal: ", so that no program takes it for a label."""
    all_pictures: bool = False
    """With --suspects: also write the pictures of which no label looks wrong."""
    sure: float = 0.95
    """A detection of at least this score is believed against the labels. Many models never reach 0.95."""

    def __post_init__(self) -> None:
        Range(least=0, most=1_000_000).check(self.draws, "draws")
        Range(least=0, most=1).check(self.sure, "sure")
        if self.want != Judging.want:
            self.wanted()

    def wanted(self) -> Want:
        """What the thresholds are for. Raise ConfigError if it is not understood."""
        from onestage.analysis.thresholds import Want

        figure, _, value = self.want.partition("=")
        with suppress(ValueError):  # of float; and a ConfigError, which is one, for a number outside 0..1
            if self.want == Judging.want:
                return Want()
            if figure == "precision":
                return Want("precision", float(value))
            if figure == "recall":
                return Want("recall", float(value))
        expected = "f1, precision=0.95 or recall=0.9, or other numbers from 0 to 1"
        raise ConfigError("what is wanted is not understood", where="want", got=self.want, expected=expected)


USUAL_JUDGING = Judging()


def judged(
    found: Sequence[Detections],
    dataset: Dataset,
    judging: Judging,
    known: Background,
    *,
    calibrated: Calibrated | None = None,
) -> tuple[Analysis | None, tuple[str, ...]]:
    """Analyse the detections, and show what to do next and the analysis in short; return the analysis and the sentences. None
    and nothing if that is not wanted, or not possible, which is said: the figures count nevertheless.

    calibrated: what was measured when scores were fitted. Without it they are fitted to tell what it would give, if the file of
    the model could keep that.
    """
    if not judging.analysis:
        return None, ()
    from onestage.analysis import AnalysisSettings, analyse
    from onestage.analysis.advice import advise
    from onestage.analysis.calibration import Method
    from onestage.analysis.terminal import analysis_table
    from onestage.cli.advice import tell_advice

    truths = [truth for _, truth in with_truths(found, dataset)]
    try:
        method: Method | None = "best" if calibrated is None and known.facts.keeps and not known.facts.calibrated else None
        settings = AnalysisSettings(want=judging.wanted(), draws=judging.draws, sure=judging.sure, calibrate=method)
        bright, overlaps = brightness(found, dataset), known.overlaps
        analysis = analyse(found, truths, dataset.classes, settings=settings, brightness=bright, overlaps=overlaps)
    except (DataError, MemoryError) as error:  # after an hour of measuring, the figures must not be lost for it
        say(("not analysed:", "bold yellow"), f" {error}", lines=True)
        return None, ()
    analysis = analysis if calibrated is None else replace(analysis, calibrated=calibrated)
    advice = advise(analysis, known.facts)
    tell_advice(advice)
    stdout().print(analysis_table(analysis))
    stdout().print()
    return analysis, advice


def with_truths(found: Sequence[Detections], dataset: Dataset) -> list[tuple[Detections, Truth]]:
    """The detections of each picture with its truth."""
    row_of = {image_id: row for row, image_id in enumerate(dataset.image_ids)}
    return [(one, dataset.truth(row_of[one.image_id])) for one in found]


def brightness(found: Sequence[Detections], dataset: Dataset) -> dict[int | str, tuple[float, ...]] | None:
    """How bright each object is, by picture; None if no picture is there, as for labels alone. A JPEG is read at a quarter of
    its sides. A picture that cannot be read is left out.
    """
    from onestage.analysis.slices import brightness_of
    from onestage.images import decode_image, read_header

    result: dict[int | str, tuple[float, ...]] = {}
    if not dataset.is_on_disk:
        return None
    with progress("brightness", len(found)) as bar:
        for one, truth in with_truths(found, dataset):
            bar.advance(1)
            if not len(truth.boxes):
                continue
            try:
                reduction = min(4, max(read_header(truth.path).reductions))
                image = decode_image(truth.path, reduction=reduction)
            except DataError:
                continue
            scale = truth.boxes.new_tensor([*image.shape[:0:-1]]) / truth.boxes.new_tensor([*one.size[::-1]])
            result[truth.image_id] = brightness_of(image, truth.boxes * scale.repeat(2))
    return result or None
