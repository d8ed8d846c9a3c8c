"""``onestage tune``: many short trainings look for settings that do better than the rules."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal, cast

import tyro

from onestage.cli.choose import NO_CHOICE, ModelChoice
from onestage.cli.settings import NOTHING_GIVEN, Settings, given_settings
from onestage.errors import ConfigError
from onestage.model.codec import Range
from onestage.training.config import LENGTHS, Setting, option

PART = 10
"""A trial gets this part of the minutes, if nothing else says it."""
MINUTES = 60.0
"""Of a search, if the user sets none."""


@dataclass(frozen=True)
class Budget:
    """How long to search: --minutes is for the whole search, by default 60."""

    HEADING: ClassVar[str] = "budget"
    each: float | None = None
    """Minutes of each trial; by default a tenth of all. What is best in trials of a few minutes need not be best in a training
    of hours."""
    trials: int | None = None
    """End after so many trials, if that is sooner."""

    def __post_init__(self) -> None:
        Range(above=0, below=1e6).check(self.each, "each")
        Range(least=1).check(self.trials, "trials")

    def of(self, minutes: float) -> float:
        """Minutes of each trial of a search of so many minutes. Raise ConfigError if a trial is longer than the search."""
        each = minutes / PART if self.each is None else self.each
        if each > minutes:
            got, fix = f"{each:g} min of {minutes:g}", "a smaller --each, or more --minutes"
            raise ConfigError("a trial is longer than the search", where="--each", got=got, fix=fix)
        return each


def tune(
    data: tyro.conf.Positional[Path],
    /,
    *,
    out: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None,
    budget: Budget = Budget(),
    storage: str | None = None,
    format: Literal["coco", "voc", "yolo", "csv", "labelme", "wds", "parquet"] | None = None,
    detector: ModelChoice = NO_CHOICE,
    training: Settings = NOTHING_GIVEN,
) -> int:
    """Look for better settings by many short trainings. What you give is fixed; the rest is searched, starting with the rules.

    onestage tune pictures/ --minutes 60

    onestage tune pictures/ --minutes 600 --each 20 --model retinanet_r18_fpn --out runs/tune

    onestage train pictures/ --config runs/tune/best.json --minutes 60

    The first trial is what onestage train would do. Optuna proposes the others, and ends those that most others beat. All are
    measured on the same pictures, and the end says whether the best is better than the first, or whether that may be chance.
    Ctrl-C saves; the same command goes on, and searches for as long again. Start it several times with the
    same --out to use several processes, or several machines that share that folder and a --storage.

    Args:
        data: the data set's folder or file
        out: folder of the search; by default runs/tune-NAME, which the same command finds again
        storage: where the trials are kept, as SQLAlchemy writes it (postgresql://...); by default study.db in the folder.
            Several machines need a database server: SQLite does not work on a network folder
        format: the data set's format, if it is not recognised
    """
    from onestage.cli.trials import Tuner

    given = given_settings(training)
    _check(given)
    minutes = cast(float, given.pop("minutes", MINUTES))
    each = budget.of(minutes)
    folder = out or Path("runs") / f"tune-{data.resolve().name}"
    settings = {**given, "minutes": each}
    tuner = Tuner(data, folder, detector, settings, format, each_given=budget.each is not None, storage=storage)
    return tuner.search(minutes, budget.trials)


def _check(given: Mapping[str, Setting]) -> None:
    """Raise ConfigError if a search cannot have these settings, several processes, or no Optuna."""
    from onestage.processes import Launch

    lengths = [option(name) for name in ("epochs", *LENGTHS) if name in given and name != "minutes"]
    if lengths:
        raise ConfigError("a search trains by the clock", got=", ".join(lengths), fix="--minutes for all, --each for a trial")
    if Launch.from_environment().world > 1:
        fix = "start the command several times, with the same --out"
        raise ConfigError("a trial trains in one process", got="torchrun", fix=fix)
    try:
        import optuna  # noqa: F401
    except ImportError as error:
        raise ConfigError("a search needs Optuna", got=error, fix="pip install 'onestage[tune]'") from error
