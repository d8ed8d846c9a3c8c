"""A film with boxes drawn in: the frames that were looked at, each at its time.

Shape letters: D detections, H and W of a frame.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
from PIL import Image
from torch import Tensor

from onestage.draw import Stroke, colour_of, draw_detections, draw_strokes
from onestage.errors import ConfigError, DataError, WriteError
from onestage.files import atomic_file, open_regular
from onestage.predict.blurring import Blur
from onestage.predict.copies import with_zones
from onestage.predict.films import import_av
from onestage.predict.frames import Facts
from onestage.predict.watching import Seen
from onestage.predict.zones import Spot, Zone

if TYPE_CHECKING:
    from av.container import OutputContainer
    from av.video.stream import VideoStream

MARK = "onestage predict"
"""The comment in the film. Only a film with it may be replaced."""
END = 4096
"""Bytes at the end of a film that hold the comment."""
ENCODERS: tuple[tuple[str, dict[str, str]], ...] = (
    ("libx264", {"preset": "veryfast", "crf": "20"}),
    ("h264", {}),
    ("mpeg4", {"qscale": "3"}),
)
"""What writes the film: the first that is there, with its options."""
SHAPES = (Fraction(1, 1000), 1000)
"""Width over height of a pixel, between which it is believed."""
FINEST = Fraction(1, 1_000_000)
"""The finest clock of a film in seconds: some containers count in units that no MP4 takes."""
LONGEST_GAP = 2**28
"""Ticks of the clock from a frame to the next, at most: MP4 has room for 2**31 over the frames that x264 puts in another order.
A longer gap is cut to this.
"""
LARGEST = 16_384
"""Pixels of a side that x264 takes. A larger film is drawn smaller."""
WAITING = 4
"""Frames that may wait to be drawn."""


def film_path(source: str, out: Path) -> Path:
    """Where the drawn film of a source goes: it has the source's name, with .mp4 after it if that is another format."""
    name = (
        Path(source).name if "://" not in source else source.partition("://")[2].partition("?")[0].strip("/").replace("/", "_")
    )
    safe = "".join(c if c.isalnum() or c in "._- " else "_" for c in name) or "film"
    return out / (safe if safe.lower().endswith(".mp4") else f"{safe}.mp4")


def may_replace(path: Path) -> bool:
    """Whether no file is at this path, or a film that was drawn here."""
    try:
        with open_regular(path) as file:
            file.seek(max(0, path.stat().st_size - END))
            return MARK.encode() in file.read(END)
    except FileNotFoundError:
        return True
    except OSError:
        return False


class FilmWriter:
    """Draw and encode frames in a thread. A context manager: the film is at ``path`` after ``finish``, or when the block has
    ended, with all frames so far, after Ctrl-C too. Without a frame there is no film.

    ``add`` waits while WAITING frames are to be drawn. ``add`` and ``finish`` raise what went wrong with an earlier frame, such
    as WriteError.
    """

    def __init__(self, path: Path, facts: Callable[[], Facts | None], drawing: Drawing | None = None) -> None:
        self.path, self.frames = path, 0
        self._facts, self._drawing = facts, drawing or Drawing()
        self._waiting: deque[Seen] = deque()
        self._changed = threading.Condition()
        self._ended = self._discarded = False
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._work, daemon=True, name="onestage-film")

    def __enter__(self) -> FilmWriter:
        import_av()
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        """Finish the film. An error other than Ctrl-C discards it."""
        self._end(discarded=kind is not None and not issubclass(kind, KeyboardInterrupt))

    def finish(self) -> None:
        """Draw what waits, and put the film at ``path``. Raise what went wrong."""
        self._end(discarded=False)
        self._raise()

    def add(self, seen: Seen) -> None:
        """Draw a frame and put it at the end of the film."""
        with self._changed:
            self._changed.wait_for(lambda: len(self._waiting) < WAITING or self._error is not None)
            self._raise()
            self._waiting.append(seen)
            self._changed.notify_all()

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error

    def _end(self, *, discarded: bool) -> None:
        with self._changed:
            self._ended, self._discarded = True, discarded
            self._changed.notify_all()
        try:
            self._thread.join()
        except BaseException:  # a second Ctrl-C
            with self._changed:
                self._discarded = True
                self._changed.notify_all()
            raise

    def _work(self) -> None:
        """Encode until the end. This is the thread."""
        try:
            first = self._next()
            if first is None:
                return
            with atomic_file(self.path) as file:
                self._write(file, first)
        except _DiscardedError:
            return
        except BaseException as error:
            with self._changed:
                self._error = error
                self._waiting.clear()
                self._changed.notify_all()

    def _write(self, file: BinaryIO, first: Seen) -> None:
        film = _Encoder(file, first, self._facts() or Facts(Fraction(1, 90_000)), self.path)
        film.drawing = self._drawing
        seen: Seen | None = first
        while seen is not None:
            film.add(seen)
            self.frames += 1
            seen = self._next()
        film.finish()

    def _next(self) -> Seen | None:
        """The next frame; None at the end. Raise _DiscardedError if the film is not wanted any more."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._ended)
            if self._discarded:
                raise _DiscardedError
            self._changed.notify_all()
            return self._waiting.popleft() if self._waiting else None


class _DiscardedError(Exception):
    """The film is not wanted any more."""


class _Encoder:
    """Encodes drawn frames into an open file."""

    def __init__(self, file: BinaryIO, first: Seen, facts: Facts, path: Path) -> None:
        import av

        self.path, self.drawing = path, Drawing()
        self.size = height, width = _fitting(*first.frame.pixels.shape[1:])
        self.coded = (height + height % 2, width + width % 2)  # 4:2:0 has one colour for two by two pixels
        self.clock = max(facts.clock, FINEST).limit_denominator(FINEST.denominator)
        self._last, self._cut = -1, 0
        self._rate = (facts.rate or Fraction(25)).limit_denominator(FINEST.denominator)
        self._period = min(LONGEST_GAP, round(1 / (self._rate * self.clock)) or 1) if self._rate > 0 else 1
        self._container: OutputContainer = av.open(file, "w", format="mp4")
        self._container.metadata["comment"] = MARK
        self._stream = self._begun(facts)

    def _begun(self, facts: Facts) -> VideoStream:
        import av

        for name, options in ENCODERS:
            with suppress(av.FFmpegError, ValueError):
                codec = av.Codec(name, "w")
                stream: VideoStream = self._container.add_stream(codec.name, options=options)  # type: ignore[assignment]
                break
        else:
            raise ConfigError("this PyAV has no encoder for films", expected=", ".join(name for name, _ in ENCODERS))
        stream.height, stream.width = self.coded
        stream.pix_fmt = "yuv420p"
        stream.codec_context.time_base = stream.time_base = self.clock
        stream.codec_context.framerate = self._rate
        if facts.shape != 1 and SHAPES[0] <= facts.shape <= SHAPES[1]:
            stream.sample_aspect_ratio = facts.shape.limit_denominator(SHAPES[1])
        large = self.coded[0] >= 720
        stream.codec_context.colorspace = stream.codec_context.color_primaries = 1 if large else 6
        stream.codec_context.color_trc, stream.codec_context.color_range = 1 if large else 6, 1
        return stream

    def add(self, seen: Seen) -> None:
        """Draw a frame and encode it."""
        import av

        picture = np.asarray(self.drawing(seen))
        if picture.shape[:2] != self.size:  # it is too large, or a stream has changed its size: the film cannot
            picture = np.asarray(Image.fromarray(picture).resize(self.size[::-1]))
        down, across = (coded - side for coded, side in zip(self.coded, self.size, strict=True))
        if down or across:
            picture = np.pad(picture, ((0, down), (0, across), (0, 0)), mode="edge")
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
        space = "ITU709" if self.coded[0] >= 720 else "ITU601"
        frame = frame.reformat(format="yuv420p", dst_colorspace=space, dst_color_range="MPEG")
        wanted = round(seen.frame.time / self.clock) - self._cut
        self._cut += max(0, wanted - self._last - LONGEST_GAP)
        self._last = max(self._last + 1, min(wanted, self._last + LONGEST_GAP))
        frame.pts, frame.time_base = self._last, self.clock
        self._mux(frame)

    def finish(self) -> None:
        """Write what the encoder holds, and the end of the film."""
        self._mux(None)
        self._container.close()

    def _mux(self, frame: object) -> None:
        import av

        try:
            for packet in self._stream.encode(frame):  # type: ignore[arg-type]
                packet.duration = packet.duration or self._period
                self._container.mux(packet)
        except (av.FFmpegError, OverflowError) as error:
            got = getattr(error, "strerror", None) or "a number that no MP4 takes"
            fix = "make room on the disk, or send the film to another place: --out"
            raise WriteError("the film could not be written", where=self.path, got=got, fix=fix) from error


def _fitting(height: int, width: int) -> tuple[int, int]:
    """The size of a film of such frames: theirs, or as much smaller as the encoder needs."""
    scale = min(1.0, LARGEST / max(height, width))
    return max(1, round(height * scale)), max(1, round(width * scale))


@dataclass(frozen=True)
class Drawing:
    """What is drawn into frames. boxes: the detections. blur: objects that are made unrecognisable before. zones: polygons with
    what is in them, for which classes, all names by label, and spot say what counts.
    """

    boxes: bool = True
    blur: Blur | None = None
    zones: tuple[Zone, ...] = ()
    classes: tuple[str, ...] = ()
    spot: Spot = "foot"

    def __call__(self, seen: Seen) -> Image.Image:
        """The drawn frame."""
        pixels = seen.frame.pixels if self.blur is None else self.blur(seen.found, seen.frame.pixels)
        picture = with_zones(pixels, seen.found, self.zones, classes=self.classes, spot=self.spot)
        if self.boxes:
            return draw_seen(seen, picture)
        return picture if isinstance(picture, Image.Image) else Image.fromarray(picture.permute(1, 2, 0).numpy())


def draw_seen(seen: Seen, pixels: Tensor | Image.Image | None = None) -> Image.Image:
    """The frame with its detections drawn in. Those with an id have its number in the text and its colour.

    pixels: those to draw on, (3, H, W) or PIL; by default those of the frame.
    """
    found, pixels = seen.found, seen.frame.pixels if pixels is None else pixels
    if not any(number is not None for number in seen.ids):
        return draw_detections(pixels, found)
    names = zip(found.class_names, seen.ids, found.scores.tolist(), strict=True)
    captions = [f"{name} {score:.2f}" if number is None else f"{name} #{number} {score:.2f}" for name, number, score in names]
    strokes = [
        Stroke(colour_of(label), dash=(3, 2)) if number is None else Stroke(colour_of(number - 1))
        for label, number in zip(found.labels.tolist(), seen.ids, strict=True)
    ]
    return draw_strokes(pixels, found.boxes, strokes=strokes, captions=captions, side=max(found.size))


def check_films(sources: list[tuple[str, Path]]) -> None:
    """Raise DataError if a drawn film would replace a source, or any file but an earlier drawn film, or another of them."""
    taken: set[Path] = set()
    for source, path in sources:
        same = "://" not in source and path.exists() and Path(source).exists() and path.samefile(source)
        if same or path in taken or not may_replace(path):
            what = "two drawn films would have one name" if path in taken else "a drawn film would replace another file"
            raise DataError(what, where=source, got=str(path), fix="choose another folder: --out annotated")
        taken.add(path)
