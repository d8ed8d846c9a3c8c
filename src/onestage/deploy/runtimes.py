"""Which program runs a detector: torch, or another runtime that runs an exported file of it.

Shape letters: H and W of a picture.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from torch import Tensor

from onestage.deploy.benchmark import least_seconds
from onestage.deploy.cache import Cached
from onestage.deploy.check import TOLERANCE, check_file, drawn_pictures
from onestage.deploy.export import FORMATS, USUAL
from onestage.deploy.plan import ExportConfig, is_as_built
from onestage.errors import (
    ConfigError,
    MismatchError,
    OnestageError,
    UnfitError,
    WeightsError,
    WriteError,
    nearest,
    warn_outside,
)
from onestage.files import Json, make_folder, write_file
from onestage.model.detector import Detector
from onestage.predict.engines import litert, ncnn, onnxruntime, openvino
from onestage.predict.engines.exported import threads
from onestage.predict.predictor import Predictor


@dataclass(frozen=True)
class Runtime:
    """A program that runs files of a format, as ``export`` names it, and the packages that this needs. any_size: whether a
    file can take pictures of any size.
    """

    to: str
    packages: tuple[str, ...]
    any_size: bool = True

    @property
    def installed(self) -> bool:
        """Whether a detector can be exported for it and run by it."""
        return all(find_spec(package) is not None for package in self.packages)

    def suits(self, detector: Detector) -> bool:
        """Whether a file of it gives the network the same input as the detector does, which may follow the picture."""
        return self.any_size or detector.config.preprocess.mode != "shortest_edge"


TORCH, AUTO = "torch", "auto"
RUNTIMES = {
    onnxruntime.NAME: Runtime("onnx", ("onnx", "onnxscript", "onnxruntime")),
    openvino.NAME: Runtime("onnx", ("onnx", "onnxscript", "onnxruntime", "openvino")),  # the same file, checked by onnxruntime
    ncnn.NAME: Runtime("ncnn", ("ncnn", "pnnx"), any_size=False),
    litert.NAME: Runtime("litert", ("litert_torch", "ai_edge_litert"), any_size=False),
}
"""The runtimes besides torch, by name."""

BF16 = (TORCH, openvino.NAME)
"""The runtimes that compute in bfloat16, if the processor can."""
PLAIN = ExportConfig(winograd=False)
"""A file to compute in bfloat16: plain convolutions, because Winograd's algorithm multiplies rounding."""

GAIN = 0.9
"""Another runtime is chosen if it takes at most that part of torch's time: a smaller gain is not worth a change."""
SAVED = 0.4
"""The part of torch's time that other runtimes are expected to save before they are measured. Most save more."""
EXPORT_SECONDS, OPEN_SECONDS = 20.0, 1.0
"""The time to export a small detector, and to open a file."""
PASSES = 16
"""How often the trial of a runtime puts its pictures through torch or this runtime."""
LEAST_PICTURES = 50
"""With fewer pictures no runtime is tried: the trial would take longer than it saves."""


@dataclass(frozen=True)
class Choice:
    """The runtime that was chosen, the milliseconds that each one takes for a picture, as far as they were measured, and the
    reason in a few words.
    """

    runtime: str
    milliseconds: dict[str, float]
    reason: str

    @property
    def saved(self) -> float:
        """Milliseconds of a picture that it saves against torch."""
        return self.milliseconds.get(TORCH, 0.0) - self.milliseconds.get(self.runtime, 0.0)


def run_by(
    detector: Detector, runtime: str, *, pictures: Callable[[], Sequence[Tensor]] = tuple, bf16: bool = False
) -> Predictor:
    """The predictor that runs a detector with the runtime of that name. All but torch run an exported file, which is kept in a
    cache; see ``Cached``. Without a cache that can be written it is made for this process alone, with a warning. For a
    detector with hooks or exchanged parts it is made at every call. pictures: gives some, (3, H, W) uint8 each, to check a new
    file with. bf16: compute in bfloat16.

    Raise ConfigError if there is no such runtime, if it is not installed, if the detector is on a GPU, or if this runtime or
    the processor does not compute in bfloat16.
    """
    if runtime == TORCH:
        return Predictor.folded(detector, bf16=True) if bf16 else Predictor.of(detector)
    about = _runtime(detector, runtime)
    check_bf16(runtime, wanted=bf16)
    if not is_as_built(detector):
        with Cached.for_once(detector) as cached:
            return _from_cache(cached, runtime, about, pictures, bf16=bf16)
    try:
        return _from_cache(Cached.of(detector), runtime, about, pictures, bf16=bf16)
    except WriteError as error:
        return _from_cache(Cached.without_cache(detector, error), runtime, about, pictures, bf16=bf16)


def _from_cache(
    cached: Cached, runtime: str, about: Runtime, pictures: Callable[[], Sequence[Tensor]], *, bf16: bool
) -> Predictor:
    """The file of a cache, run by the runtime of that name. pictures: gives some, (3, H, W) uint8 each, to check it."""
    config = PLAIN if bf16 else USUAL
    missing = [package for package in about.packages if find_spec(package) is None]
    if missing and not cached.has(about.to, config):  # an export takes a while, so this is said before
        raise _missing(runtime, missing)
    return cached.open(about.to, runtime, pictures=pictures, config=config, bf16=bf16)


def computes_in(runtime: str, *, gpu: bool = False) -> tuple[str, ...]:
    """The numbers that a runtime computes a network in, or takes a file in. The processor may still lack them."""
    if runtime == TORCH:
        return ("fp32", "bf16", "fp16") if gpu else ("fp32", "bf16")
    known = FORMATS[RUNTIMES[runtime].to].precisions if runtime in RUNTIMES else ()
    return (*known, "bf16") if runtime in BF16 else tuple(known)


def check_bf16(runtime: str, *, wanted: bool) -> None:
    """Raise ConfigError if bfloat16 is wanted of a runtime that never computes in it. The processor may still lack it."""
    if wanted and runtime not in BF16:
        what, fix = "this runtime does not compute in bfloat16", "leave --precision bf16 out, or choose another --runtime"
        raise ConfigError(what, got=runtime, expected=" or ".join(BF16), fix=fix)


def _runtime(detector: Detector, runtime: str) -> Runtime:
    """What is known about a runtime besides torch. Raise ConfigError if there is none, or if it cannot run this detector."""
    if runtime not in RUNTIMES:
        what, expected = f"there is no such runtime{nearest(runtime, RUNTIMES)}", ", ".join((TORCH, AUTO, *RUNTIMES))
        raise ConfigError(what, where="runtime", got=runtime, expected=expected, fix="runtime='auto' takes the fastest")
    if detector.device.type != "cpu":
        what, fix = "of all runtimes, torch alone uses a GPU", "choose the device cpu, or the runtime torch"
        raise ConfigError(what, got=f"{runtime} on {detector.device}", fix=fix)
    if not RUNTIMES[runtime].suits(detector):
        what = "a file for this runtime has one input size, and the input of this detector follows the picture"
        fix = f"onestage export MODEL --to {RUNTIMES[runtime].to} --size HxW"
        raise ConfigError(what, where=detector.config.name, got=runtime, fix=fix)
    return RUNTIMES[runtime]


def needed_for(detector: Detector, runtime: str) -> Runtime:
    """What must be exported so that a runtime besides torch runs the detector. Raise ConfigError if it cannot, or if packages
    are missing.
    """
    about = _runtime(detector, runtime)
    if missing := [package for package in about.packages if find_spec(package) is None]:
        raise _missing(runtime, missing)
    return about


def format_for(runtime: str, numbers: str) -> str:
    """The format of the file that a runtime besides torch runs. In int8, OpenVINO gets a file that was measured in OpenVINO:
    the AP of an int8 file is that of the program that it was measured with.
    """
    if runtime == openvino.NAME and numbers == "int8":
        return openvino.NAME
    return RUNTIMES[runtime].to


def _missing(runtime: str, packages: Sequence[str]) -> ConfigError:
    what, fix = f"to run a detector with {runtime}, packages are missing", "docs/deploy.md says how to install them"
    return ConfigError(what, got=f"no {', '.join(packages)}", fix=fix)


def choose(
    detector: Detector, pictures: Callable[[], Sequence[Tensor]] = tuple, *, total: int | None = None, exact: bool = False
) -> tuple[Predictor, Choice]:
    """The predictor of a detector that is the fastest on this machine, and why. A choice is kept in the cache.

    pictures: gives some, (3, H, W) uint8 each, to measure and compare with; without any, they are drawn. total: how many
    pictures there are to do; None is very many. Only a runtime that finds what torch finds is chosen. If a trial would take
    longer than it could save, torch is. exact: torch runs the network as it is written, and not as ``Predictor.folded`` does.
    """
    by_torch = Predictor.of if exact else Predictor.folded
    rivals = [name for name, runtime in RUNTIMES.items() if runtime.installed and runtime.suits(detector)]
    if (reason := _torch_alone(detector, rivals)) is not None:
        return by_torch(detector), Choice(TORCH, {}, reason)
    pictures = functools.cache(pictures)
    try:
        cached = Cached.of(detector)
        choice = _choice(cached, pictures, rivals, total, exact=exact)
    except WriteError as error:  # there is no place for a cache, and without one every program would try the runtimes again
        warn_outside([f"torch runs the model, because a choice of runtimes cannot be kept: {error.what}"])
        return by_torch(detector), Choice(TORCH, {}, error.what)
    if choice.runtime == TORCH:
        return by_torch(detector), choice
    try:
        return cached.open(RUNTIMES[choice.runtime].to, choice.runtime, pictures=pictures), choice
    except (OnestageError, MemoryError) as error:
        why = error.what if isinstance(error, OnestageError) else "there is not enough memory for it"
        return by_torch(detector), Choice(TORCH, choice.milliseconds, f"{choice.runtime}: {why}")


def _torch_alone(detector: Detector, rivals: Sequence[str]) -> str | None:
    """Why torch runs the detector, whatever the runtimes that are installed for it may take; None if there is a choice."""
    if not rivals:
        return "no other runtime for it is installed"
    if detector.device.type != "cpu":
        return "no other runtime uses a GPU"
    return None if is_as_built(detector) else "it has hooks or exchanged parts, so no file of it can be kept"


def _choice(
    cached: Cached, pictures: Callable[[], Sequence[Tensor]], rivals: Sequence[str], total: int | None, *, exact: bool
) -> Choice:
    """A choice that was made before, or by a measurement now; torch, if a measurement or a file would not be repaid. exact: for
    torch as the network is written, which takes longer.
    """
    settings = ["as written"] if exact else []
    place = cached.place(f"{threads()} threads", *rivals, *settings).with_suffix(".json")
    choice = _recall(place)
    if choice is None:
        if total is not None and total < LEAST_PICTURES:
            return Choice(TORCH, {}, "too few pictures for a trial of other runtimes")
        source = Predictor.of(cached.detector) if exact else Predictor.folded(cached.detector)
        choice, lasting = _measure(cached, source, list(pictures()) or drawn_pictures(), rivals, total)
        if lasting:
            _keep(choice, place)
    elif choice.runtime != TORCH and total is not None and total * choice.saved / 1000 < _opening(cached, choice.runtime):
        return Choice(TORCH, choice.milliseconds, f"too few pictures to make a file for {choice.runtime}")
    return choice


def _opening(cached: Cached, runtime: str) -> float:
    """Seconds to open the file for a runtime, or to make it."""
    return OPEN_SECONDS + (0 if cached.has(RUNTIMES[runtime].to) else EXPORT_SECONDS)


def _measure(
    cached: Cached, source: Predictor, pictures: Sequence[Tensor], rivals: Sequence[str], total: int | None
) -> tuple[Choice, bool]:
    """The choice, and whether another measurement would come to the same: all runtimes were tried, and what kept one from being
    measured is the detector, not a full disk or these pictures. They run one after another, never two at once: the threads of
    one would take time from another. source: as torch runs the detector. pictures: (3, H, W).
    """
    if not any(map(len, source.detect(pictures))):
        return Choice(TORCH, {}, "the detector finds nothing in these pictures, so runtimes cannot be compared"), False
    seconds = {TORCH: _seconds(source, pictures)}
    missing = {RUNTIMES[name].to for name in rivals if not cached.has(RUNTIMES[name].to)}
    cost = EXPORT_SECONDS * len(missing) + seconds[TORCH] * len(pictures) * PASSES * len(rivals)
    if total is not None and SAVED * total * seconds[TORCH] < cost:
        reason = f"{total:,} pictures are too few for a trial of other runtimes, which takes about {cost:.0f} s"
        return Choice(TORCH, _milliseconds(seconds), reason), False
    failed: dict[str, OnestageError] = {}
    for name in rivals:
        try:
            file = _compared(cached, name, pictures)
        except OnestageError as error:
            failed[name] = error
        except MemoryError:
            failed[name] = WeightsError("there is not enough memory for it", expected="more memory")
        else:
            seconds[name] = _seconds(file, pictures)
            del file
    best = min(seconds, key=lambda name: seconds[name])
    if seconds[best] > GAIN * seconds[TORCH]:
        best = TORCH
    lasting = all([_comes_again(cached, name, error) for name, error in failed.items()])
    return Choice(best, _milliseconds(seconds), _reason(best, seconds, failed)), lasting


def _compared(cached: Cached, runtime: str, pictures: Sequence[Tensor]) -> Predictor:
    """The file for a runtime. Raise MismatchError unless it finds what torch finds in these pictures (3, H, W), and what else
    ``Cached.open`` raises.
    """
    file = cached.open(RUNTIMES[runtime].to, runtime, pictures=lambda: pictures)
    check_file(cached.detector, file, pictures, TOLERANCE)
    return file


def _comes_again(cached: Cached, runtime: str, error: OnestageError) -> bool:
    """Whether the reason of a failure is the detector. If pictures were, drawn ones must fail in the same way."""
    if isinstance(error, MismatchError):
        try:
            _compared(cached, runtime, drawn_pictures())
        except (OnestageError, MemoryError) as again:
            return isinstance(again, UnfitError | ConfigError)
        return False
    return isinstance(error, UnfitError | ConfigError)


def _reason(best: str, seconds: dict[str, float], failed: dict[str, OnestageError]) -> str:
    """The times, the best first, and what kept a runtime from being measured."""
    order = sorted(seconds, key=lambda name: (name != best, seconds[name]))
    times = [f"{name} {1000 * seconds[name]:.0f} ms" for name in order]
    times[0] = f"{1000 * seconds[best]:.0f} ms a picture"
    return ", ".join(times + [f"{name}: {error.what}" for name, error in failed.items()])


def _milliseconds(seconds: dict[str, float]) -> dict[str, float]:
    return {name: round(1000 * value, 3) for name, value in seconds.items()}


def _seconds(predictor: Predictor, pictures: Sequence[Tensor]) -> float:
    """For one of the pictures (3, H, W), which go through it together."""
    return least_seconds([predictor], pictures, turns=4)[0] / len(pictures)


def _keep(choice: Choice, place: Path) -> None:
    plain: Json = {"runtime": choice.runtime, "milliseconds": dict(choice.milliseconds), "reason": choice.reason}
    with contextlib.suppress(OnestageError):  # a cache that cannot be written costs time, nothing else
        make_folder(place.parent)
        write_file(place, json.dumps(plain))


def _recall(place: Path) -> Choice | None:
    """A choice as it was kept; None if there is none, or it is damaged."""
    try:
        plain = json.loads(place.read_text(encoding="utf-8"))
        runtime, times = str(plain["runtime"]), {str(name): float(value) for name, value in plain["milliseconds"].items()}
        known = runtime in times and TORCH in times and times.keys() <= {TORCH, *RUNTIMES}
        with contextlib.suppress(OSError):  # a cache that is only read serves too
            os.utime(place)  # the time of its last use
        return Choice(runtime, times, str(plain["reason"])) if known else None
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return None
