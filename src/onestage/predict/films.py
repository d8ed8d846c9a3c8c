"""Films in files, decoded with PyAV: upright, each frame with its time. What such a file says is not trusted.

Shape letters: H and W of a frame.

- A film is opened as a file and read by its bytes, so its name means nothing. No demuxer that opens other files, such as
  playlists, is allowed, and no protocol at all.
- Only the usual codecs decode, and frames beyond ``ImageLimits`` are refused before memory is taken for them.
- Numbers in the header, such as the count of frames, are shown and not relied on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from onestage.errors import ConfigError, DataError, absent
from onestage.files import open_regular
from onestage.images import ImageLimits
from onestage.predict.frames import Facts, Fault, Frame, no_one

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.packet import Packet
    from av.sidedata.sidedata import SideData
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

CONTAINERS = (
    *("mov", "mp4", "m4a", "3gp", "3g2", "mj2", "matroska", "webm", "avi", "mpegts", "mpeg", "mpegvideo", "flv", "ogg"),
    *("asf", "ivf", "h264", "hevc", "m4v", "mjpeg", "mxf", "nut", "gif", "dv", "rm", "wtv"),
)
"""FFmpeg's demuxers for films. None of them opens a second file. Playlists (hls, dash, concat, sdp) are not among them."""

CODECS = (
    *("h264", "hevc", "vp8", "vp9", "libvpx-vp9", "libvpx", "libdav1d", "av1", "mpeg4", "mpeg1video", "mpeg2video", "mjpeg"),
    *("msmpeg4", "msmpeg4v2", "msmpeg4v1", "wmv1", "wmv2", "wmv3", "vc1", "h263", "flv", "theora", "prores", "dnxhd", "ffv1"),
    *("dvvideo", "rawvideo", "gif", "png", "huffyuv", "ffvhuff", "utvideo"),
)
"""The decoders that may run."""

_ENDS = "mp4 m4v mov mkv webm avi ts mts m2ts mpg mpeg flv ogv wmv asf 3gp 3g2 ivf h264 hevc mjpeg mxf dv"
SUFFIXES = frozenset("." + end for end in _ENDS.split())
"""How the names of films end."""

USUAL_LIMITS = ImageLimits()
UNKNOWN_RATE = Fraction(25)
"""Frames per second of a film that does not say when its frames come, such as a bare H.264 stream without a rate."""
EARLY = 0.3
"""Seconds that the frames may end before the header says, at most: sound may last longer than the picture."""
MEND = "mend the film, or encode it again; the other frames are read"
"""What to do about a broken frame."""
DECODING_THREADS = 4


def import_av() -> None:
    """Import PyAV, and let FFmpeg print nothing. Raise ConfigError if it is not installed."""
    try:
        import av.logging
    except ImportError as error:
        raise ConfigError("PyAV is not installed", got=error, fix='pip install "onestage[film]"') from error
    av.logging.set_level(None)


class FilmFile:
    """The frames of a film in a file."""

    live = False

    def __init__(self, path: Path, *, limits: ImageLimits = USUAL_LIMITS) -> None:
        self.path, self.limits = path, limits
        self.facts: Facts | None = None

    @property
    def name(self) -> str:
        """The path."""
        return str(self.path)

    def frames(self, *, every: int = 1, alive: Callable[[], None] = no_one) -> Iterator[Frame | Fault]:
        """The frames in the order of time; those that cannot be decoded, and an early end, as faults."""
        with ExitStack() as stack:
            film = Film(stack.enter_context(self._opened(stack)), self.name, self.limits)
            self.facts = film.facts
            yield from film.frames(every=every, alive=alive)
            yield from film.early_end()

    def _opened(self, stack: ExitStack) -> AbstractContextManager[InputContainer]:
        import_av()
        import av

        try:
            file = stack.enter_context(open_regular(self.path))
        except FileNotFoundError as error:
            raise DataError(absent(str(self.path)), where=self.path, fix="correct the path of the film") from error
        except OSError as error:
            fix = "allow this program to read it"
            raise DataError("this film cannot be opened", where=self.path, got=error.strerror or error, fix=fix) from error
        if not file.read(1):
            raise DataError("this file is empty", where=self.path, expected="a film")
        file.seek(0)
        options = {**_limited(self.limits), "protocol_whitelist": "none", "format_whitelist": ",".join(CONTAINERS)}
        try:
            return av.open(file, "r", options=options, metadata_errors="replace")
        except (av.FFmpegError, OSError, ValueError, RuntimeError) as error:
            raise DataError(
                "this is no film that can be read", where=self.path, got=reason_of(error), expected=EXPECTED
            ) from error


EXPECTED = "a film such as MP4, MOV, MKV, WebM, AVI or MPEG-TS, whole to its end"


def _limited(limits: ImageLimits) -> dict[str, str]:
    """Options of FFmpeg: which decoders may run, and how large a frame may be."""
    return {"codec_whitelist": ",".join(CODECS), "max_pixels": str(limits.max_pixels)}


def reason_of(error: Exception) -> str:
    """What FFmpeg says about an error, in one line."""
    if type(error).__name__ == "ExitError":  # FFmpeg was told to wait no longer
        return "nothing came for too long"
    log = getattr(error, "log", None)
    said = str(log[2]).strip() if log else ""
    return said or str(getattr(error, "strerror", None) or error)


class Film:
    """The pictures of an open container."""

    def __init__(self, container: InputContainer, name: str, limits: ImageLimits) -> None:
        """Raise DataError if it has no picture that can be decoded."""
        self.name, self._container, self._limits = name, container, limits
        self._stream = stream = self._best()
        context = stream.codec_context
        self._check_size(context.height, context.width)
        if context.name not in CODECS:
            raise _unread_codec(name, context.name)
        context.options = _limited(limits)
        context.thread_count = DECODING_THREADS
        context.thread_type = "AUTO"
        rate = stream.average_rate or stream.guessed_rate
        clock = stream.time_base or Fraction(1, 90_000)
        shape = stream.sample_aspect_ratio or Fraction(1)
        self.facts = Facts(clock, rate, self._promised(rate), shape)
        self._first: Fraction | None = None
        self._last = self._end = Fraction(0)
        self._seen = 0

    def _best(self) -> VideoStream:
        """The stream of pictures that a player would show. Cover art is none."""
        from av.stream import Disposition

        streams = [s for s in self._container.streams.video if not s.disposition & Disposition.attached_pic]
        if not streams:
            raise DataError("there are no moving pictures in this file", where=self.name, expected=EXPECTED)
        streams = [s for s in streams if s.codec_context is not None]  # FFmpeg knows the codecs of these
        if not streams:
            raise _unread_codec(self.name, "one that FFmpeg does not know")
        return max(streams, key=lambda s: (bool(s.disposition & Disposition.default), s.width * s.height))

    def _check_size(self, height: int, width: int) -> None:
        most = self._limits
        if max(height, width) > most.max_side or height * width > most.max_pixels:
            expected = f"sides of at most {most.max_side:,} and {most.max_pixels:,} pixels"
            raise DataError(
                "the frames of this film are too large", where=self.name, got=f"{height} x {width}", expected=expected
            )

    def _promised(self, rate: Fraction | None) -> int | None:
        """How many frames the header promises, or its duration and rate do."""
        if self._stream.frames > 0:
            return self._stream.frames
        seconds = self._seconds()
        return None if seconds is None or rate is None else max(1, round(seconds * rate))

    def _seconds(self) -> Fraction | None:
        """How long the header says that the pictures last. That of the container counts if it has nothing but pictures."""
        stream = self._stream
        if stream.duration and stream.time_base:
            return stream.duration * stream.time_base
        alone = len(self._container.streams) == 1 and self._container.duration
        return Fraction(self._container.duration, 1_000_000) if alone and self._container.duration else None

    def frames(self, *, every: int = 1, alive: Callable[[], None] = no_one) -> Iterator[Frame | Fault]:
        """The frames in the order of time, and those that cannot be decoded as faults."""
        import av

        packets = self._container.demux(self._stream)
        while True:
            try:
                packet = next(packets, None)
            except (av.FFmpegError, OSError) as error:
                yield self._fault("the film cannot be read any further", error)
                return
            if packet is None:
                return
            yield from self._decoded(packet, every, alive)

    def early_end(self) -> Iterator[Fault]:
        """A fault if the frames end before the header says."""
        promised, rate = self._seconds(), self.facts.rate
        counts = self._stream.frames if self._container.format.name == "avi" else 0
        missing = (promised - self._end) if promised is not None else Fraction(0)
        if counts > self._seen and rate:
            missing = max(missing, (counts - self._seen) / rate)
        if missing > max(Fraction(EARLY), 2 / (rate or UNKNOWN_RATE)) or (not self._seen):
            what = "the film ends before its header says" if self._seen else "the film has no frame that can be decoded"
            got, expected = f"{float(self._end):.2f} s", f"{float(promised):.2f} s" if promised is not None else None
            yield Fault(max(self._seen - 1, 0), self._last, DataError(what, where=self.name, got=got, expected=expected))

    def _decoded(self, packet: Packet[VideoStream], every: int, alive: Callable[[], None]) -> Iterator[Frame | Fault]:
        """The frames that a packet completes."""
        import av

        try:
            frames = packet.decode()
        except (av.FFmpegError, ValueError, MemoryError) as error:
            yield self._fault("a frame cannot be decoded", error)
            self._seen += 1
            return
        for frame in frames:
            when = self._time(frame)
            number, self._seen = self._seen, self._seen + 1
            alive()
            if number % every:
                continue
            try:
                yield Frame(number, when, upright_pixels(frame, self._check_size), damaged=bool(frame.is_corrupt))
            except (av.FFmpegError, DataError, ValueError, MemoryError) as error:
                what = error.what if isinstance(error, DataError) else "a frame cannot be converted"
                got = getattr(error, "got", None) or reason_of(error)
                yield Fault(number, when, DataError(what, where=self.name, got=got, fix=MEND))

    def _time(self, frame: VideoFrame) -> Fraction:
        """Seconds since the first frame. Without a time stamp, a frame comes one period after the one before it."""
        period = 1 / (self.facts.rate or UNKNOWN_RATE)
        if frame.pts is None or frame.time_base is None:
            when = self._last + period if self._seen else Fraction(0)
        else:
            stamp = frame.pts * frame.time_base
            self._first = stamp - self._last if self._first is None else self._first
            if stamp - self._first < self._last:  # after a cut, time goes on
                self._first = stamp - self._last - period
            when = stamp - self._first
        lasts = frame.duration * frame.time_base if frame.duration and frame.time_base else period
        self._last, self._end = when, max(self._end, when + lasts)
        return when

    def _fault(self, what: str, error: Exception) -> Fault:
        return Fault(self._seen, self._last, DataError(what, where=self.name, got=reason_of(error), fix=MEND))


def _unread_codec(film: str, codec: str) -> DataError:
    return DataError("the codec of this film is not read", where=film, got=codec, fix="convert it to H.264")


def upright_pixels(frame: VideoFrame, check: object = None) -> Tensor:
    """(3, H, W) uint8 RGB of a decoded frame, turned and mirrored as its display matrix says.

    check: called with the height and the width before memory is taken.
    """
    if callable(check):
        check(frame.height, frame.width)
    unknown = frame.colorspace in (0, 2)  # players take the matrix of HDTV for a large frame that names none, as we do
    space = ("ITU709" if frame.height >= 720 else "ITU601") if unknown else None
    rgb: NDArray[np.uint8] = frame.to_ndarray(format="rgb24", src_colorspace=space)  # type: ignore[assignment]
    turned = turn(rgb, display_matrix(frame))
    return torch.from_numpy(np.ascontiguousarray(turned)).permute(2, 0, 1)


def display_matrix(frame: VideoFrame) -> tuple[int, int, int, int] | None:
    """a, b, c, d of the matrix that a player applies: x' = a x + c y, y' = b x + d y; None if there is none."""
    from av.sidedata.sidedata import Type

    data = next((data for data in cast("list[SideData]", [*frame.side_data]) if data.type == Type.DISPLAYMATRIX), None)
    if data is None:
        return None
    a, b, _, c, d, *_ = np.frombuffer(bytes(data), dtype=np.int32).tolist()
    return a, b, c, d


def turn(pixels: NDArray[np.uint8], matrix: tuple[int, int, int, int] | None) -> NDArray[np.uint8]:
    """Rows of pixels (H, W, 3) as a player shows them: turned by a multiple of 90 degrees, the nearest one, and mirrored."""
    if matrix is None or not any(matrix):
        return pixels
    a, b, c, d = matrix
    if abs(a) + abs(d) >= abs(b) + abs(c):
        across, down = a, d
    else:
        pixels, across, down = pixels.transpose(1, 0, 2), c, b
    return pixels[:: -1 if down < 0 else 1, :: -1 if across < 0 else 1]
