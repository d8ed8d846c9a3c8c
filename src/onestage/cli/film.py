"""``onestage predict film.mp4``: the options of films, cameras and streams, and how they are watched."""

from __future__ import annotations

import glob
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, fields
from fractions import Fraction
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from onestage.cli.output import progress, say, tell
from onestage.errors import ConfigError, DataError, LostError, WriteError, counted
from onestage.model.codec import Range

if TYPE_CHECKING:
    from torch import Tensor

    from onestage.cli.looking import Look
    from onestage.cli.output import PictureProgress
    from onestage.cli.working import Work
    from onestage.cli.writing import Output
    from onestage.predict.film_rows import FilmRows
    from onestage.predict.film_writer import Drawing, FilmWriter
    from onestage.predict.frames import Dropped, Fault, Frame, FrameSource
    from onestage.predict.pipeline import Selection
    from onestage.predict.predictor import Looker
    from onestage.predict.tracking import Tracker
    from onestage.predict.watching import Seen

ROWS = "predictions.jsonl"
"""The file of rows, for all sources of a command."""


@dataclass(frozen=True)
class Film:
    """How films, cameras and streams are watched."""

    HEADING: ClassVar[str] = "film"
    every: int = 1
    """Look at every Nth frame of a film. The drawn film has these frames, at their times."""
    track: bool = False
    """Give each object an id that it keeps through the film, drawn in and in predictions.jsonl."""
    realtime: bool = False
    """Keep up with the time of a film: drop frames for which the detector is too slow, and count them. Cameras and streams
    always do."""
    seconds: float | None = None
    """Stop after so many seconds of film."""
    silence: float = 10.0
    """Seconds without a frame after which a film, camera or stream counts as lost."""
    reconnect: float = 60.0
    """Seconds for which a lost camera or stream is opened again and again."""

    def __post_init__(self) -> None:
        Range(least=1).check(self.every, "every")
        Range(above=0, below=1e9).check(self.seconds, "seconds")
        Range(above=0, below=1e6).check(self.silence, "silence")
        Range(least=0, below=1e9).check(self.reconnect, "reconnect")


def names_films(given: Sequence[str], film: Film) -> bool:
    """Whether films, cameras or streams are named. Raise ConfigError if pictures are too, or options for films without one."""
    from onestage.predict.films import SUFFIXES
    from onestage.predict.live import is_live_name, without_password

    films = [
        text for text in given if is_live_name(text) or (Path(text).suffix.lower() in SUFFIXES and not Path(text).is_dir())
    ]
    if films and len(films) < len(given):
        other = next(text for text in given if text not in films)
        what = "films and pictures cannot be looked at by one command"
        raise ConfigError(what, got=without_password(f"{films[0]} and {other}"), fix="a command for each")
    if not films and film != Film():
        options = ", ".join(f"--{one.name}" for one in fields(film) if getattr(film, one.name) != one.default)
        what, expected = "this is for films, cameras and streams", "a film, a camera or a stream"
        got = f"{options} for {', '.join(given[:3])}"
        raise ConfigError(what, got=got, expected=expected, fix="name a film, or leave it out")
    return bool(films)


def with_films_of_globs(given: Sequence[str]) -> tuple[str, ...]:
    """What is given, with the films that globs name in their place, because not every shell puts them there."""
    from onestage.data.files import matches
    from onestage.predict.films import SUFFIXES

    found: list[str] = []
    for text in given:
        is_glob = glob.has_magic(text) and Path(text).suffix.lower() in SUFFIXES and not Path(text).exists()
        found += (matches(text) if is_glob else []) or [text]
    return tuple(found)


@dataclass(frozen=True)
class Watching:
    """What is watched, with what, and where the results go."""

    looker: Looker
    selection: Selection
    film: Film
    batch_size: int
    limit: int
    out: Path
    draw: bool
    drawing: Drawing


def sources_of(given: Sequence[str], film: Film) -> list[FrameSource]:
    """The sources that are named, each once."""
    from onestage.predict.live import Paced, open_source

    sources = [open_source(text, silence=film.silence) for text in dict.fromkeys(given)]
    return [Paced(source) if film.realtime and not source.live else source for source in sources]


def check_options(output: Output, work: Work) -> None:
    """Raise ConfigError for what is written of pictures alone: nothing that was asked for is left out in silence."""
    others = [f"--format {name}" for name in output.format if name != "jsonl"]
    others += ["--save-crops"] * output.save_crops
    others += [f"--to {name}" for name in output.to] + ["--resume"] * work.resume
    usual = {field.name: field.default for field in fields(work)}
    changed = (name for name in ("workers", "worker_timeout") if getattr(work, name) != usual[name])
    others += [f"--{name.replace('_', '-')} {getattr(work, name)}" for name in changed]
    if others:
        what, fix = "this is for pictures: a film becomes a drawn film and JSON lines", "leave it out"
        raise ConfigError(what, got=" ".join(others), fix=fix)


def check_live_options(sources: Sequence[FrameSource], film: Film, look: Look, work: Work) -> None:
    """Raise ConfigError for an option that these sources would leave out in silence."""
    if film.reconnect != Film.reconnect and not any(source.live for source in sources):
        what, got = "a film in a file is not opened again: this is for cameras and streams", f"--reconnect {film.reconnect:g}"
        raise ConfigError(what, got=got, fix="leave it out")
    at_once = all(source.live or film.realtime for source in sources)
    if at_once and work.batch_size != type(work).batch_size and not look.is_closer:  # windows go through the network together
        what, got = "live frames go through the network one by one", f"--batch-size {work.batch_size}"
        raise ConfigError(what, got=got, fix="leave it out")


def drawing_of(output: Output, classes: Sequence[str]) -> Drawing:
    """What is drawn into the frames. classes: of the model. Raise ConfigError for a class to blur that it does not have."""
    from onestage.cli.common import labels_of
    from onestage.predict.blurring import Blur
    from onestage.predict.film_writer import Drawing

    blur = Blur(tuple(labels_of(output.blur, classes))) if output.blur else None
    return Drawing(output.draw, blur, output.zones, tuple(classes), output.zone_by)


def check_places(sources: Sequence[FrameSource], out: Path, *, draw: bool) -> None:
    """Raise ConfigError or DataError if results would replace something else."""
    from onestage.cli.results import results_folder
    from onestage.predict.film_writer import check_films, film_path

    if draw:
        check_films([(source.name, film_path(source.name, out)) for source in sources])
    results_folder(out, [ROWS])


def first_frames(sources: Sequence[FrameSource], count: int, film: Film) -> tuple[FrameSource, list[Tensor]]:
    """The first of the sources that can be opened, and its first frames, (3, H, W) each. Raise the DataError or LostError of
    the first one if there is none.
    """
    from onestage.predict.frames import Frame, Patience, followed

    errors: list[DataError | LostError] = []
    for source in sources:
        items = followed(source, patience=Patience(film.silence, 0))
        try:
            return source, [item.pixels for item in islice((item for item in items if isinstance(item, Frame)), count)]
        except (DataError, LostError) as error:
            errors.append(error)
    raise errors[0]


def watch_films(watching: Watching, sources: Sequence[FrameSource]) -> int:
    """Watch the sources one after the other. Return the exit code."""
    from onestage.predict.film_rows import FilmRows

    count, began = Counts(), time.monotonic()
    rows = FilmRows(watching.out / ROWS)
    try:
        for source in sources:
            _watch(watching, source, rows, count)
            if count.interrupted:
                break
        rows.finish()
    finally:
        rows.close()
    count.show(time.monotonic() - began, rows.path)
    return 130 if count.interrupted else 1 if count.faults or count.unsaved else 0


def _watch(watching: Watching, source: FrameSource, rows: FilmRows, count: Counts) -> None:
    """Watch one source to its end, or to Ctrl-C."""
    from onestage.predict.film_writer import FilmWriter, film_path
    from onestage.predict.frames import Dropped

    dropped = Dropped()
    with ExitStack() as stack, progress("watching", None, unit="frames") as bar:
        writer = None
        if watching.draw:
            path = film_path(source.name, watching.out)
            writer = stack.enter_context(FilmWriter(path, lambda: source.facts, watching.drawing))
        seen = _seen(watching, source, dropped)
        try:
            for item in seen:
                count.add(item)
                rows.add(_row(item, source, dropped, watching.drawing))
                writer = _drawn(writer, item, bar, count)
                _advance(bar, source, watching.film.every)
        except KeyboardInterrupt:  # the film and the rows are finished as if it had ended here
            bar.say(("interrupted:", "bold yellow"), " what is done is kept; the film is being finished")
            count.interrupted = True
        finally:
            seen.close()
            count.dropped += dropped.count
        if writer is not None and _finished(writer, bar, count):
            count.films.append(writer.path)


def _seen(watching: Watching, source: FrameSource, dropped: Dropped) -> Generator[Seen | Fault, None, None]:
    """What is seen in the source, until its end or the wished time."""
    from onestage.predict.frames import Patience, followed
    from onestage.predict.watching import watch

    film, now = watching.film, source.live or watching.film.realtime
    batch = 1 if now else watching.batch_size
    items = followed(
        source,
        every=film.every,
        ahead=1 if now else 2 * batch,
        limit=watching.limit,
        newest=now,
        patience=Patience(film.silence, film.reconnect),
        dropped=dropped,
    )
    return watch(
        watching.looker,
        _until(_opened(items), film.seconds),
        name=source.name,
        selection=watching.selection,
        tracker=partial(_tracker, watching, source) if film.track else None,
        batch_size=batch,
        limit=watching.limit,
    )


def _opened(items: Iterator[Frame | Fault]) -> Iterator[Frame | Fault]:
    """The items. That a source cannot be opened is a fault too: others come after it."""
    from onestage.predict.frames import Fault

    try:
        yield from items
    except (DataError, LostError) as error:
        yield Fault(0, Fraction(0), error)


def _until(items: Iterator[Frame | Fault], seconds: float | None) -> Iterator[Frame | Fault]:
    for item in items:
        if seconds is not None and float(item.time) >= seconds:
            return
        yield item


def _tracker(watching: Watching, source: FrameSource) -> Tracker:
    """Of a source whose first frame is there."""
    from onestage.predict.tracking import Tracker

    score, scores = watching.selection.score, watching.looker.scores
    rate = source.facts.rate if source.facts is not None else None
    per_class = scores.thresholds if scores is not None else ()
    return Tracker(per_class if score is None else score, rate=rate / watching.film.every if rate is not None else None)


def _row(item: Seen | Fault, source: FrameSource, dropped: Dropped, drawing: Drawing) -> dict[str, object]:
    from onestage.predict.film_rows import row_of

    return row_of(item, source.name, dropped=dropped.count, drawing=drawing)


def _drawn(writer: FilmWriter | None, item: Seen | Fault, bar: PictureProgress, count: Counts) -> FilmWriter | None:
    """Draw a frame. Return the writer, or None after it failed: the rows go on."""
    from onestage.predict.frames import Fault

    if isinstance(item, Fault):
        bar.say(("fault:", "bold yellow"), f" {item.error}")
    elif writer is not None:
        try:
            writer.add(item)
        except WriteError as error:
            bar.say(("not saved:", "bold yellow"), f" {error}")
            count.unsaved += 1
            return None
    return writer


def _finished(writer: FilmWriter, bar: PictureProgress, count: Counts) -> bool:
    """Whether there is a film now."""
    try:
        writer.finish()
    except WriteError as error:
        bar.say(("not saved:", "bold yellow"), f" {error}")
        count.unsaved += 1
        return False
    return writer.frames > 0


def _advance(bar: PictureProgress, source: FrameSource, every: int) -> None:
    """Show how far it is. every: the frames from one that is looked at to the next."""
    facts = source.facts
    bar.expect(-(-facts.total // every) if facts is not None and facts.total and not source.live else None)
    bar.advance(1)


@dataclass
class Counts:
    """Count the frames, what went wrong, and the objects of each class."""

    frames: int = 0
    damaged: int = 0
    faults: int = 0
    dropped: int = 0
    unsaved: int = 0
    interrupted: bool = False
    objects: dict[str, int] = field(default_factory=dict)
    tracks: dict[str, set[int]] = field(default_factory=dict)
    films: list[Path] = field(default_factory=list)
    last: float = 0.0

    def add(self, item: Seen | Fault) -> None:
        """Count a frame or a fault."""
        from onestage.predict.frames import Fault

        if isinstance(item, Fault):
            self.faults += 1
            return
        self.frames += 1
        self.damaged += item.frame.damaged
        for name in item.found.class_names:
            self.objects[name] = self.objects.get(name, 0) + 1
        for name, number in zip(item.found.class_names, item.ids, strict=False):
            if number is not None:
                self.tracks.setdefault(name, set()).add(number)

    def show(self, seconds: float, rows: Path) -> None:
        """Print what was seen and where it is."""
        if self.tracks:
            found = ", ".join(
                f"{len(ids):,} {name}" for name, ids in sorted(self.tracks.items(), key=lambda one: -len(one[1]))[:8]
            )
            objects = f"objects with an id: {found}"
        else:
            found = ", ".join(f"{count:,} {name}" for name, count in sorted(self.objects.items(), key=lambda one: -one[1])[:8])
            objects = counted(sum(self.objects.values()), "detection") + (f" ({found})" if found else "")
        rate = f", {self.frames / seconds:.1f} frames/s" if seconds > 0 else ""
        tell(f"{counted(self.frames, 'frame')} in {seconds:.1f} s{rate}: {objects}")
        for film in self.films:
            tell(f"annotated film: {film}")
        tell(f"results (jsonl): {rows}")
        if self.dropped:
            say((f"dropped {counted(self.dropped, 'frame')}", "bold yellow"), ": the detector was too slow")
        if self.damaged:
            say((counted(self.damaged, "damaged frame"), "bold yellow"), ": the decoder filled gaps there")
        if self.faults:
            say((counted(self.faults, "fault"), "bold yellow"), f", as said above and in {ROWS}")
