"""The options of ``onestage predict`` that say how the work is done, and the loop that does it."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, cast

from onestage.cli.output import PictureProgress, progress, say, tell
from onestage.errors import ConfigError, DataError, WeightsError, WriteError, counted
from onestage.files import remove_leftovers
from onestage.model.codec import Range

if TYPE_CHECKING:
    from onestage.files import Json
    from onestage.model.detector import Detector
    from onestage.predict.journal import Journal
    from onestage.predict.pipeline import Outcome, Resources
    from onestage.predict.predictor import Predictor
    from onestage.predict.sinks import Sink

USUAL_SCORE = 0.5
"""The least score that is reported if nothing else says it."""
SHOWN = 20
"""Pictures that could not be read which are shown one by one; failures.csv lists all."""
FAILURES = "pictures that could not be read"
"""The name of the sink for them."""


@dataclass(frozen=True)
class Work:
    """How the work is done."""

    HEADING: ClassVar[str] = "machine"
    batch_size: int = 8
    """Pictures that go through the network together. 1 is exact for a model whose input follows the picture, such as a
    RetinaNet: several are padded to the largest of them, which changes detections."""
    workers: int | None = None
    """Batches that go through the network at the same time. Without it, as many as pay, which is found out on the way. It never
    changes what is found."""
    picture_memory: float = 2.0
    """Gigabytes for the pictures in memory at the same time; a larger one comes alone."""
    worker_timeout: float = 600.0
    """Seconds to wait for a picture to be read, or a copy to be saved."""
    resume: bool = False
    """Go on where an interrupted run with the same model, options, pictures and --out has stopped. What is written is the same
    as without the interruption. If there was none, begin."""

    def __post_init__(self) -> None:
        Range(least=1).check(self.batch_size, "batch_size")
        Range(least=1, most=64).check(self.workers, "workers")
        Range(above=0, below=1e6).check(self.picture_memory, "picture_memory")
        Range(above=0, below=1e6).check(self.worker_timeout, "worker_timeout")

    def resources(self) -> Resources:
        """The same for the functions that do the work."""
        from onestage.predict.pipeline import Resources

        return Resources(self.workers, self.picture_memory, self.worker_timeout)


WITHOUT_EFFECT = ("workers", "worker_timeout", "resume", "trusted")
"""Options that change no result, so an interrupted run may go on with others."""


def settings_of(options: Sequence[object]) -> dict[str, Json]:
    """The options in several dataclasses, all that results follow from, as plain data: a name as typed for each value."""
    found: dict[str, Json] = {}
    for group in options:
        for entry in fields(group):  # type: ignore[arg-type]  # a dataclass
            if entry.name not in WITHOUT_EFFECT:
                value = getattr(group, entry.name)
                plain = value if isinstance(value, str | int | float | None) else [str(part) for part in _parts(value)]
                found[entry.name] = cast("Json", plain)
    return found


def _parts(value: object) -> Sequence[object]:
    return value if isinstance(value, tuple | list) else (value,)


def as_before(notes: Mapping[str, Json] | None, runtime: str, names: Sequence[str]) -> list[str]:
    """What runs each of the models: what ran it in the interrupted run, if ``runtime`` leaves that open. An exported file that
    this does not run is another model, of which ``Journal.compare`` says so.

    Raise ConfigError if torch has another number of threads than it had then: their number shows in the last digits.
    """
    from onestage.predict.exported import takes

    if notes is None:
        return [runtime] * len(names)
    threads, before = notes.get("threads"), notes.get("runtimes")
    now = threads_now()
    if isinstance(threads, int) and threads != now:
        what = "with another number of threads the last digits would differ"
        fix = f"OMP_NUM_THREADS={threads} onestage predict ..."
        raise ConfigError(what, where="--resume", got=f"{now} threads", expected=f"{threads}, as before", fix=fix)
    if runtime != "auto" or not isinstance(before, list) or len(before) != len(names):
        return [runtime] * len(names)
    return [str(each) if takes(name, str(each)) else runtime for name, each in zip(names, before, strict=True)]


def threads_now() -> int:
    """The threads with which torch computes."""
    import torch

    return torch.get_num_threads()


def notes_of(models: Sequence[Predictor]) -> dict[str, Json]:
    """What ``as_before`` needs to know."""
    return {"runtimes": [getattr(each.engine, "runtime", "torch") for each in models], "threads": threads_now()}


def begin(journal: Journal, models: Sequence[Predictor]) -> None:
    """Begin a run in the journal. Say so if that gives up an interrupted one."""
    if journal.exists:
        say(("note:", "bold yellow"), " this takes the place of an interrupted run; --resume would have gone on with it")
    journal.begin(notes_of(models))


def failures_of(out: Path) -> dict[str, Sink]:
    """The sink for the pictures that cannot be read, by its name for people. Raise ConfigError if a file is in the way."""
    from onestage.cli.results import results_folder
    from onestage.predict.failures import NAME, Failures

    results_folder(out, [NAME])
    return {FAILURES: Failures(out / NAME)}


def identity(name: str, model: Detector | Predictor) -> str:
    """A SHA-256 of all that a model computes: of a detector, wherever its file is; of an exported file, its bytes.

    name: the path of that file.
    """
    from onestage.deploy.plan import fingerprint
    from onestage.model.detector import Detector

    if isinstance(model, Detector):
        return hashlib.sha256(f"{fingerprint(model)} {model.scores!r}".encode()).hexdigest()
    digest, path = hashlib.sha256(), Path(name)
    for part in (path, path.with_suffix(".bin")):
        try:
            if part == path or part.exists():
                digest.update(part.read_bytes())
        except OSError as error:
            raise WeightsError("this file cannot be read", where=part, got=error.strerror, fix="check the path") from error
    return digest.hexdigest()


def work_through(
    run: Callable[..., Iterator[list[Outcome]]],
    pictures: Sequence[object],
    *,
    sinks: Mapping[str, Sink],
    journal: Journal,
    tally: Tally,
    resume: bool,
) -> bool:
    """Give the outcomes of all pictures to the sinks. Return whether Ctrl-C ended it. The finished part is then kept.

    run: ``in_batches`` with all arguments but the pictures and ``unsaved``. resume: whether to go on where the journal says.
    """
    from onestage.predict.sinks import closing

    with closing(tuple(sinks.values())):
        done = 0
        if resume:
            _remove_leftovers(journal.folder.parent)
            point = journal.go_on(sinks)
            done = point.done
            tally.go_on(point.counts)
            say((f"going on after {done:,} of {counted(len(pictures), 'picture')}", "dim"))
        with progress("predicting", len(pictures), done=done) as bar:
            try:
                _add_all(run(pictures[done:], unsaved=_Unsaved(tally, bar)), done, sinks, journal, tally=tally, bar=bar)
            except KeyboardInterrupt:  # the files are finished as if these had been all pictures
                bar.say(("interrupted:", "bold yellow"), " what is done is kept; the same command with --resume goes on")
                tally.interrupted = True
        for sink in sinks.values():
            sink.finish()
        if not tally.interrupted:
            journal.remove()
    return tally.interrupted


def _remove_leftovers(out: Path) -> None:
    """Delete the copies that the interrupted run was just writing. Nothing writes into the folder now."""
    for folder, _, _ in os.walk(out):
        remove_leftovers(Path(folder), older_than=0.0)


def _add_all(
    batches: Iterator[list[Outcome]],
    done: int,
    sinks: Mapping[str, Sink],
    journal: Journal,
    *,
    tally: Tally,
    bar: PictureProgress,
) -> None:
    """Give all outcomes to the sinks. The journal notes only what is behind a whole batch: when the next batch comes, the
    copies of its pictures are saved too.
    """
    for batch in batches:
        journal.note(done, sinks, tally.counts())
        for outcome in batch:
            tally.add(outcome)
            for sink in sinks.values():
                sink.add(outcome)
            if isinstance(outcome.found, DataError) and tally.unreadable <= SHOWN:
                bar.say(("skipped:", "bold yellow"), f" {outcome.found}")
                if tally.unreadable == SHOWN:
                    bar.say(("all others that are skipped are only listed, in failures.csv", "dim"))
        done += len(batch)
        bar.advance(len(batch))


@dataclass(frozen=True)
class _Unsaved:
    """Count and show copies that could not be saved."""

    tally: Tally
    bar: PictureProgress

    def __call__(self, error: WriteError) -> None:
        self.tally.unsaved += 1
        if self.tally.unsaved <= SHOWN:
            self.bar.say(("not saved:", "bold yellow"), f" {error}")


@dataclass
class Tally:
    """Count the pictures that were read, those that could not be, the copies that could not be saved, and the objects of each
    class.
    """

    read: int = 0
    unreadable: int = 0
    unsaved: int = 0
    objects: Counter[str] = field(default_factory=Counter)
    interrupted: bool = False

    def add(self, outcome: Outcome) -> None:
        """Count one picture."""
        if isinstance(outcome.found, DataError):
            self.unreadable += 1
        else:
            self.read += 1
            self.objects.update(outcome.found.class_names)

    def counts(self) -> dict[str, Json]:
        """What is counted, as plain data."""
        objects: Json = dict(self.objects)
        return {"read": self.read, "unreadable": self.unreadable, "unsaved": self.unsaved, "objects": objects}

    def go_on(self, counts: Mapping[str, Json]) -> None:
        """Go on from what an interrupted run has counted."""
        for name in ("read", "unreadable", "unsaved"):
            number = counts.get(name, 0)
            setattr(self, name, number if isinstance(number, int) else 0)
        objects = counts.get("objects")
        if isinstance(objects, dict):
            self.objects = Counter({name: number for name, number in objects.items() if isinstance(number, int)})

    @property
    def code(self) -> int:
        """The exit code of the run."""
        return 130 if self.interrupted else 1 if self.unreadable or self.unsaved else 0

    def show(self, total: int, seconds: float, *, places: Mapping[str, Path], score: float | None) -> None:
        """Print what was found and where it is. total: pictures that were asked for. score: the least one reported; None: the
        thresholds of the model.
        """
        pictures = (f"{self.read:,} of " if self.read < total else "") + counted(total, "picture")
        found = ", ".join(f"{count:,} {name}" for name, count in self.objects.most_common(8))
        more = f" and {len(self.objects) - 8} more classes" if len(self.objects) > 8 else ""
        objects = counted(self.objects.total(), "object") + (f" ({found}{more})" if found else "")
        tell(f"{pictures} in {seconds:.1f} s: {objects}")
        for what, place in places.items():
            tell(f"{what}: {place}")
        if self.unreadable:
            say((f"{counted(self.unreadable, 'picture')} could not be read", "bold yellow"), "; failures.csv says why")
        if self.unsaved:
            say((f"the files of {counted(self.unsaved, 'picture')} could not all be saved", "bold yellow"), ", as said above")
        if not self.objects and self.read:
            least = "the threshold of its class" if score is None else f"a score of {score:g}"
            say(f"nothing reached {least}: try --score {(score or USUAL_SCORE) / 5:.1g}")
