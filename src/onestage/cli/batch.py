"""``onestage batch``: millions of pictures in, Parquet files out, on the processes of this machine or on a Ray cluster."""

from __future__ import annotations

import time
from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import tyro

from onestage.cli import early
from onestage.cli.output import progress, say, tell
from onestage.errors import ConfigError, command, counted
from onestage.model.codec import Range
from onestage.scale import server

if TYPE_CHECKING:
    from onestage.model.detector import Detector
    from onestage.predict.predictor import Predictor
    from onestage.scale.batch import Batch, Tally, Wanted
    from onestage.scale.work import Advance, Done

MOST_NAMED = 8
"""Classes and codes in a line."""


@dataclass(frozen=True)
class Reported:
    """What rows hold. It belongs to the batch: a command that goes on must say the same."""

    HEADING: ClassVar[str] = "result"
    score: float | Literal["auto"] = "auto"
    """The least score to report. auto: of each class the threshold that evaluate --keep-thresholds put into the model, and 0.5
    without one. To measure the results with onestage evaluate, take 0.01."""
    classes: tuple[str, ...] = ()
    """Only these classes, by name; by default all."""
    top: int | None = None
    """At most so many detections in a picture, the best ones."""
    seconds: bool = True
    """A column with the seconds that each picture took. Without it, results of the same batch are equal to the byte."""
    shard_size: int = 500
    """Pictures in a part. What is killed loses at most the parts that were being made."""
    batch_size: int = 8
    """Pictures that go through the network together. 1 is exact for a model whose input follows the picture, such as a
    RetinaNet: several are padded to the largest of them, which changes detections."""
    picture_memory: float = 1.0
    """Gigabytes for the pictures in the memory of each process. Fewer go through the network together if they do not fit, and a
    larger one comes alone."""
    device: Literal["cpu", "cuda"] | None = None
    """By default cuda if there is a GPU; with --engine ray if --gpus is above 0."""
    runtime: Literal["torch", "onnxruntime", "openvino", "ncnn", "litert"] | None = None
    """What runs the model. By default torch, and for an exported file the usual one (onnxruntime for .onnx, openvino for .xml,
    torch for .pt2, ncnn for .param, litert for .tflite)."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """bf16: torch computes in bfloat16, faster and less exact, if the processor can. An exported file has its precision."""
    trusted: bool = False
    """Open a .pt2 file, which could run code."""

    def __post_init__(self) -> None:
        Range(least=0, below=1).check(self.score, "score")
        Range(least=1).check(self.top, "top")
        Range(least=1, most=1_000_000).check(self.shard_size, "shard_size")
        Range(least=1).check(self.batch_size, "batch_size")
        Range(above=0, below=1e6).check(self.picture_memory, "picture_memory")


@dataclass(frozen=True)
class Machines:
    """Who does the work. No result depends on it."""

    HEADING: ClassVar[str] = "machine"
    engine: Literal["local", "ray"] = "local"
    """local: processes of this machine. ray: actors of Ray, which may be on many machines that share the folders."""
    workers: int | None = None
    """Processes, or actors of Ray, each with a model and one thread. By default one for each processor or GPU, and with Ray one
    less than the processors of the cluster."""
    address: str | None = None
    """Of a Ray cluster that is there: auto, HOST:6379 or ray://HOST:10001. By default one is started on this machine."""
    gpus: float = 0.0
    """GPUs for each actor of Ray; 0.25 puts four actors on a GPU."""
    worker_timeout: float = 600.0
    """Seconds to wait for a picture to be read, and for a process that says nothing."""

    def __post_init__(self) -> None:
        Range(least=1, most=4096).check(self.workers, "workers")
        Range(least=0, below=1e4).check(self.gpus, "gpus")
        Range(above=0, below=1e6).check(self.worker_timeout, "worker_timeout")
        if self.engine != "ray" and (self.address is not None or self.gpus):
            given = "--address" if self.address is not None else "--gpus"
            raise ConfigError("this option is for Ray", where=given, got=f"--engine {self.engine}", fix="add --engine ray")


def batch(
    pictures: tyro.conf.Positional[tuple[str, ...]],
    /,
    *,
    model: str,
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])],
    reported: Reported = Reported(),
    machines: Machines = Machines(),
) -> int:
    """Find objects in any number of pictures. The results are Parquet files, with a row for each picture; one that cannot be
    read is a row too. After a crash the same command goes on, and nothing is lost or done twice.

    onestage batch photos/ -o found/ --model runs/first

    onestage batch 'shards/train-{000000..000999}.tar' -o found/ --model ssd300_vgg16.coco --score 0.3

    onestage batch list.parquet -o /shared/found/ --model runs/first --engine ray --address auto

    onestage batch report found/

    Args:
        pictures: folders (with all below them and in their .tar files), globs in quotes, .tar files (names with ranges such as
            {000..123} too), lists of paths (.txt, .csv, .parquet), pictures, and addresses such as s3://bucket/folder (these
            need pip install 'onestage[remote]')
        model: a run folder, a .safetensors file, an exported file, or published weights (see onestage models)
        out: folder for the results: new, or of the same batch, which then goes on. With Ray all machines share it
    """
    if not pictures:
        raise ConfigError("no picture is named", fix=command("batch", "FOLDER", "-o", out, "--model", model))
    if machines.engine == "local":
        server.context()  # the server of its processes imports torch meanwhile
    early.again()
    from onestage.scale.batch import Tally, begun

    early.stop()
    wanted = _wanted(model, pictures, reported, machines)
    began, tally = time.monotonic(), Tally()
    with begun(out, wanted, note=_note) as found:
        if found.earlier:
            say(f"going on: {found.pictures_done:,} of {counted(found.manifest.pictures.pictures, 'picture')} done")
        for part in found.earlier:
            tally.add(part)
        interrupted = _done(found, machines, tally)
    _show(tally, found, time.monotonic() - began, out, interrupted=interrupted)
    return 130 if interrupted else 1 if tally.failures else 0


def _note(text: str) -> None:
    say(("note:", "bold"), f" {text}")


def _wanted(name: str, pictures: tuple[str, ...], reported: Reported, machines: Machines) -> Wanted:
    """What the options ask for. The model stays on the CPU: a process that uses a GPU cannot begin others that do."""
    import torch

    from onestage.cli.common import find_any_model, labels_of
    from onestage.cli.predict import least_score
    from onestage.predict.predictor import Predictor
    from onestage.scale.batch import Wanted
    from onestage.scale.manifest import Options

    found = find_any_model(name, device="cpu", runtime=reported.runtime, trusted=reported.trusted)
    labels_of(reported.classes, found.classes)
    exported = isinstance(found, Predictor)
    usual = machines.gpus > 0 if machines.engine == "ray" else torch.cuda.is_available()
    device = reported.device or ("cuda" if usual and not exported and reported.runtime in (None, "torch") else "cpu")
    _check(found, reported, device)
    options = Options(
        score=least_score(found, reported.score),
        classes=reported.classes,
        top=reported.top,
        batch_size=reported.batch_size,
        picture_memory=reported.picture_memory,
        shard_size=reported.shard_size,
        runtime=reported.runtime
        or (str(getattr(found.engine, "runtime", "torch")) if isinstance(found, Predictor) else "torch"),
        precision=reported.precision,
        device=device,
        seconds=reported.seconds,
    )
    return Wanted(name, Path(name) if isinstance(found, Predictor) else found, pictures, options)


def _check(found: Detector | Predictor, reported: Reported, device: str) -> None:
    """Raise ConfigError for options that do not go together."""
    from onestage.predict.predictor import Predictor
    from onestage.processes import choose_device

    by_torch = not isinstance(found, Predictor)
    if by_torch and reported.runtime not in (None, "torch"):
        what, fix = "another runtime than torch runs exported files", "onestage export MODEL, then --model with that file"
        raise ConfigError(what, got=f"--runtime {reported.runtime}", fix=fix)
    if reported.precision == "bf16" and not by_torch:
        fix = "leave --precision bf16 out, or name the model that it was made from"
        raise ConfigError("an exported file has its precision", where=found.config.name, got="--precision bf16", fix=fix)
    if device == "cuda" and not by_torch:
        raise ConfigError("of all runtimes, torch alone uses a GPU", got=f"--runtime {reported.runtime}", fix="--device cpu")
    if device == "cpu":
        choose_device(device)


def _done(found: Batch, machines: Machines, tally: Tally) -> bool:
    """Do what is left. Return whether Ctrl-C ended it: the parts that are finished are kept."""
    from onestage.scale.work import Done

    failures = 0
    with progress("batch", found.pictures_left) as bar, closing(_engine(found, machines)) as words:
        try:
            for word in words:
                if isinstance(word, Done):
                    tally.add(word)
                    continue
                failures += word.failures
                bar.advance(word.pictures)
                if word.failures:
                    bar.describe(f"batch ({failures:,} failed)")
        except KeyboardInterrupt:
            bar.say(("interrupted:", "bold yellow"), " the parts that are finished are kept; the same command goes on")
            return True
    return False


def _engine(found: Batch, machines: Machines) -> Generator[Advance | Done]:
    from onestage.scale.work import Conditions

    if not found.left:
        return
    conditions = Conditions(machines.worker_timeout)
    if machines.engine == "local":
        from onestage.scale.local import run_local

        yield from run_local(found, workers=machines.workers, conditions=conditions)
        return
    from onestage.scale.on_ray import Cluster, run_on_ray

    cluster = Cluster(machines.address, machines.gpus)
    yield from run_on_ray(found, workers=machines.workers, conditions=conditions, cluster=cluster)


def _show(tally: Tally, found: Batch, seconds: float, out: Path, *, interrupted: bool) -> None:
    """Print what was found and where it is."""
    from onestage.scale.manifest import nothing_found

    total = found.manifest.pictures.pictures
    pictures = ("" if tally.pictures == total else f"{tally.pictures:,} of ") + counted(total, "picture")
    now = tally.pictures - found.pictures_done
    rate = f", {now / seconds:,.1f} pictures/s" if now and seconds else ""
    objects = counted(tally.objects.total(), "object")
    named = ", ".join(f"{count:,} {name}" for name, count in tally.objects.most_common(MOST_NAMED))
    more = f" and {len(tally.objects) - MOST_NAMED} more classes" if len(tally.objects) > MOST_NAMED else ""
    tell(f"{pictures} in {seconds:.1f} s{rate}: {objects}" + (f" ({named}{more})" if named else ""))
    if tally.failures:
        codes = ", ".join(f"{count:,} {code}" for code, count in tally.failures.most_common(MOST_NAMED))
        why = "the rows with status 'error' say why"
        say((f"{counted(tally.failures.total(), 'picture')} could not be read", "bold yellow"), f" ({codes}): {why}")
    if not tally.objects and tally.pictures > tally.failures.total():
        say(nothing_found(found.manifest.options))
    tell(f"results: {out}/part-*.parquet")
    if not interrupted:
        tell(f"look at them: {command('batch report', out)}")
