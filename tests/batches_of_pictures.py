"""What tests of batch work share: pictures, a model, and a batch in this process or in another one."""

import hashlib
import io
import multiprocessing
import os
import signal
import tarfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec import AbstractFileSystem
from PIL import Image

from onestage.cli.main import main
from onestage.data.batch_folder import part_paths
from onestage.data.synthetic import generate
from onestage.scale import server
from onestage.scale.work import Done, Worker
from small_runs import PICTURES, detector, signal_here, start

SCORE = ("--score", "0.2", "--top", "4")
"""Few of the many detections of fresh weights."""
COUNT = 23
BROKEN = {"b/0007.jpg": b"\xff\xd8\xff\xe0 no picture", "b/0017.jpg": b""}


def jpeg(number: int) -> bytes:
    """Generated picture of that number."""
    file = io.BytesIO()
    Image.fromarray(generate(number, PICTURES).image.permute(1, 2, 0).numpy()).save(file, "JPEG")
    return file.getvalue()


def write_batch_pictures(root: Path, count: int = COUNT) -> Path:
    """Pictures in the folders a and b, two of them broken."""
    for number in range(count):
        name = f"{'ab'[number % 2]}/{number:04d}.jpg"
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(BROKEN[name] if name in BROKEN else jpeg(number))
    return root


def write_model(path: Path) -> Path:
    """A TinySSD for the classes of the pictures."""
    detector().save(path)
    return path


def write_tar(path: Path, contents: dict[str, bytes]) -> Path:
    """A tar file of these members."""
    with tarfile.open(path, "w") as tar:
        for name, content in contents.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def command(pictures: Path | str | Sequence[str], out: Path, model: Path, *more: str) -> list[str]:
    """A batch of 5 pictures a shard, without the seconds."""
    words = [
        "batch",
        *([str(pictures)] if isinstance(pictures, Path | str) else pictures),
        "-o",
        str(out),
        "--model",
        str(model),
        "--shard-size",
        "5",
        "--batch-size",
        "2",
        "--no-seconds",
    ]
    return [*words, *SCORE, *more]


def batch(pictures: Path | str | Sequence[str], out: Path, model: Path, *more: str) -> int:
    """Run it here. Return the exit code."""
    return main(command(pictures, out, model, *more))


Change = Callable[[pytest.MonkeyPatch], object]
"""A change to the program, such as a disk that is full. It must be picklable."""


def forked(arguments: list[str], change: Change) -> None:
    """Run a command in a process that a test began, with a change to the program. The processes of its batch have it too: they
    are forks of this one, which has run nothing before.
    """
    with pytest.MonkeyPatch.context() as patch:
        change(patch)
        patch.setattr(server, "context", partial(multiprocessing.get_context, "fork"))
        raise SystemExit(main(arguments))


def changed(change: Change, arguments: list[str], log: Path) -> tuple[int | None, str]:
    """The exit code of a command in a process of its own with a change to the program, and what it has said."""
    process = start(forked, arguments, change, log=log)
    process.join(240)
    code = process.exitcode
    process.kill()
    return code, log.read_text()


def with_memory(contents: dict[str, bytes], patch: pytest.MonkeyPatch) -> None:
    """Put files into fsspec's storage in memory, each by its path there."""
    for path, content in contents.items():
        fsspec.filesystem("memory").pipe(path, content)


def with_storage(storages: dict[str, type[AbstractFileSystem]], patch: pytest.MonkeyPatch) -> None:
    """Let fsspec know kinds of storage, each by its protocol."""
    for protocol, kind in storages.items():
        fsspec.register_implementation(protocol, kind, clobber=True)


def slowly(seconds: float, patch: pytest.MonkeyPatch) -> None:
    """Let each shard take that many seconds more, so that a test can kill within."""
    inner = Worker.__call__

    def slow(self: Worker, *arguments: Any, **options: Any) -> Done:
        time.sleep(seconds)
        return inner(self, *arguments, **options)

    patch.setattr(Worker, "__call__", slow)


def deadly(inner: Callable[..., Any], names: Sequence[str], kill: Callable[[int], None] = signal_here) -> Callable[..., Any]:
    """A function that kills its process if it is given a picture whose path has one of these ends."""

    def decode(place, *arguments, **options):
        if str(getattr(place, "path", place)).endswith(tuple(names)):
            kill(signal.SIGKILL)
        return inner(place, *arguments, **options)

    return decode


def digests(folder: Path) -> dict[str, str]:
    """The parts of a folder, each with a digest of its bytes."""
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in part_paths(folder)}


def leftovers(folder: Path) -> list[str]:
    """Temporary files in a folder of results."""
    return [name for place, _, names in os.walk(folder) for name in names if name.endswith(".onestage-tmp") and place]


def batch_on_ray(arguments: list[str], slowly: float, names: Sequence[str] = ()) -> int:
    """Run a command whose actors take ``slowly`` seconds more for each shard, and die of pictures with these names."""
    from onestage.predict import pipeline
    from onestage.scale import on_ray

    class SlowActor(on_ray.Actor):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            if names:
                pipeline.decode_image = deadly(pipeline.decode_image, names, signal.raise_signal)

        def __call__(self, table):
            time.sleep(slowly)
            return super().__call__(table)

    on_ray.Actor = SlowActor  # type: ignore[misc]
    return main(arguments)
