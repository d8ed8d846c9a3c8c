"""Cameras of this machine, and streams of a network, with PyAV. They were not run with real cameras or RTSP servers.

A stream may name no file: of FFmpeg's protocols only those of networks are allowed.
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from onestage.errors import ConfigError, DataError
from onestage.images import ImageLimits
from onestage.predict.films import CODECS, USUAL_LIMITS, Film, FilmFile, import_av, reason_of
from onestage.predict.frames import Facts, Fault, Frame, FrameSource, no_one

if TYPE_CHECKING:
    from av.container import InputContainer

SCHEMES = {"rtsp": True, "rtsps": True, "rtmp": True, "rtmps": True, "udp": True, "rtp": True, "srt": True, "tcp": True} | {
    "http": False,
    "https": False,
}
"""The addresses that are understood, and whether such a source is live. A film on a web server is none."""
PROTOCOLS = "rtsp,rtsps,rtmp,rtmps,rtmpt,udp,rtp,srtp,srt,tcp,tls,http,https,httpproxy,crypto"
"""What a stream may be fetched with: no file, no pipe, no device, no data inside the address."""
NAP = 0.1
"""Seconds between two signs of life, at most, while a film waits for the time of a frame."""
CAMERA = "camera:"
"""How the name of a camera begins; a number alone is a camera too."""
_SECRET = re.compile(r"(?<=://)([^/@:]*):[^/?#]*@")
_SECRETS = "password|passwd|pass|pwd|token|secret|signature|sig|key|auth|credential"
_NAMED_SECRET = re.compile(rf"((?:{_SECRETS})=)[^&;#/?\s]*?(?=[&;#/?\s]|_[a-z]+=|$)", re.IGNORECASE)
"""As in ?token=..., and as in /user=admin_password=..._channel=1, which some cameras want."""
_DEVICES = {"linux": "v4l2", "darwin": "avfoundation", "win32": "dshow"}


def is_live_name(text: str) -> bool:
    """Whether this names a camera or an address, and no file."""
    if Path(text).exists():
        return False
    return text.isdecimal() or text.startswith(CAMERA) or "://" in text


def open_source(text: str, *, silence: float, limits: ImageLimits = USUAL_LIMITS) -> FrameSource:
    """The source of that name: a film's path, the number or the name of a camera, or an address. Nothing is opened yet.

    Raise ConfigError for an address that is not understood.
    """
    if not is_live_name(text):
        return FilmFile(Path(text), limits=limits)
    scheme, found, _ = text.partition("://")
    if found:
        if scheme.lower() not in SCHEMES:
            raise ConfigError("this kind of address is not understood", got=f"{scheme}://", expected=", ".join(SCHEMES))
        options = {"protocol_whitelist": PROTOCOLS, "rtsp_transport": "tcp"}
        return LiveSource(without_password(text), text, None, options, SCHEMES[scheme.lower()], silence, limits)
    device, form = camera_of(text.removeprefix(CAMERA))
    return LiveSource(text, device, form, {}, True, silence, limits)


def without_password(address: str, *, in_path: bool = True) -> str:
    """The address with *** for passwords and keys, for results and messages. in_path: look for keys before the ? too."""
    hidden = _SECRET.sub(r"\1:***@", address)
    path, mark, query = ("", "", hidden) if in_path else hidden.partition("?")
    return path + mark + _NAMED_SECRET.sub(r"\1***", query)


def camera_of(name: str, platform: str = sys.platform) -> tuple[str, str]:
    """The device and FFmpeg's format of a camera, by its number or name. Raise ConfigError if this system has no such way."""
    if platform not in _DEVICES:
        raise ConfigError("cameras are not known on this system", got=platform, expected=", ".join(_DEVICES))
    if platform == "linux":
        return (f"/dev/video{int(name)}" if name.isdecimal() else name), _DEVICES[platform]
    if platform == "win32":
        if name.isdecimal():
            raise ConfigError("on Windows a camera has a name", got=name, fix=f'{CAMERA}"Integrated Camera"')
        return f"video={name}", _DEVICES[platform]
    return name, _DEVICES[platform]


@dataclass
class LiveSource:
    """The frames of a camera or a network stream.

    device: what FFmpeg opens, in its ``form``. silence: seconds after which it gives up to wait.
    """

    name: str
    device: str
    form: str | None
    options: dict[str, str]
    live: bool
    silence: float
    limits: ImageLimits = USUAL_LIMITS
    facts: Facts | None = None

    def frames(self, *, every: int = 1, alive: Callable[[], None] = no_one) -> Iterator[Frame | Fault]:
        """The frames as they come. Raise DataError if the connection fails."""
        with self._opened() as container:
            film = Film(container, self.name, self.limits)
            self.facts = film.facts
            yield from film.frames(every=every, alive=alive)
            if not self.live:
                yield from film.early_end()

    def _opened(self) -> InputContainer:
        import_av()
        import av

        limited = {"codec_whitelist": ",".join(CODECS), "max_pixels": str(self.limits.max_pixels)}
        try:
            options = {**self.options, **limited}
            return av.open(self.device, "r", format=self.form, options=options, timeout=self.silence, metadata_errors="replace")
        except (av.FFmpegError, OSError, ValueError, RuntimeError) as error:
            what = "this camera cannot be opened" if self.form else "nothing comes from this address"
            raise DataError(
                what, where=self.name, got=without_password(reason_of(error)), fix="is it there, and free?"
            ) from error


@dataclass
class Paced:
    """A film that is played as fast as a player does: each frame comes at its time."""

    source: FrameSource
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep

    @property
    def name(self) -> str:
        """The name of the film."""
        return self.source.name

    @property
    def live(self) -> bool:
        """Whether it is live without this."""
        return self.source.live

    @property
    def facts(self) -> Facts | None:
        """What is known about the film."""
        return self.source.facts

    def frames(self, *, every: int = 1, alive: Callable[[], None] = no_one) -> Iterator[Frame | Fault]:
        """Each frame, not before its time."""
        began = self.clock()
        for item in self.source.frames(every=every, alive=alive):
            while (early := float(item.time) - (self.clock() - began)) > 0:
                self.sleep(min(early, NAP))
                alive()
            yield item
