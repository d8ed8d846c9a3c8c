"""What ``onestage evaluate`` tells beside the figures: which errors cost AP, how sure AP is, which score to deploy with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from onestage.cli.output import say, stdout
from onestage.errors import DataError
from onestage.model.codec import Range

if TYPE_CHECKING:
    from onestage.analysis import Analysis
    from onestage.cli.advice import Background
    from onestage.data import Dataset
    from onestage.structures import Detections, Truth


@dataclass(frozen=True)
class Judging:
    """What is told beside the figures."""

    analysis: bool = True
    """Also tell which errors cost most, how sure AP is, which score to deploy with, and with --out the worst pictures. With
    thousands of pictures this takes seconds to minutes; --no-analysis leaves it out."""
    draws: int = 1000
    """Data sets that are drawn from the pictures, with repeats, to say how sure the figures are. 0: no intervals, which is
    much faster."""
    learning_curve: float | None = None
    """Also train three times, so many minutes each, on a quarter, half and all of the pictures of the run, and say whether more
    pictures would help."""

    def __post_init__(self) -> None:
        Range(least=0, most=1_000_000).check(self.draws, "draws")


USUAL_JUDGING = Judging()


def judged(
    found: Sequence[Detections], dataset: Dataset, judging: Judging, known: Background
) -> tuple[Analysis | None, tuple[str, ...]]:
    """Analyse the detections, and show what to do next and the analysis in short; return the analysis and the sentences. None
    and nothing if that is not wanted, or not possible, which is said: the figures count nevertheless.
    """
    if not judging.analysis:
        return None, ()
    from onestage.analysis import AnalysisSettings, analyse
    from onestage.analysis.advice import advise
    from onestage.analysis.terminal import analysis_table
    from onestage.cli.advice import tell_advice

    truths = [truth for _, truth in with_truths(found, dataset)]
    try:
        settings = AnalysisSettings(draws=judging.draws)
        analysis = analyse(found, truths, dataset.classes, settings=settings, overlaps=known.overlaps)
    except (DataError, MemoryError) as error:  # after an hour of measuring, the figures must not be lost for it
        say(("not analysed:", "bold yellow"), f" {error}", lines=True)
        return None, ()
    advice = advise(analysis, known.facts)
    tell_advice(advice)
    stdout().print(analysis_table(analysis))
    stdout().print()
    return analysis, advice


def with_truths(found: Sequence[Detections], dataset: Dataset) -> list[tuple[Detections, Truth]]:
    """The detections of each picture with its truth."""
    row_of = {image_id: row for row, image_id in enumerate(dataset.image_ids)}
    return [(one, dataset.truth(row_of[one.image_id])) for one in found]
