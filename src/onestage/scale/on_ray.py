"""The engine of many machines: Ray Data hands shards out to actors, each of which has a model.

Every machine of the cluster sees the folder of the results and the pictures, at the same paths. Ray starts lost actors again,
on machines that are left, and gives them what the lost ones had; a part that is there is not made again. An error never ends
the job of Ray: it comes back as a row with a status.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

import torch

from onestage.errors import ConfigError, LostError, OnestageError, shortened
from onestage.scale.attempts import PERIOD, Hand, advances, forget_attempts
from onestage.scale.batch import Batch, sized
from onestage.scale.local import processors
from onestage.scale.work import Advance, Conditions, Done

TRIES = 10
"""Actors that may die of one shard, or before their first one. Those of machines that were taken away count too."""
MOST_BLOCKS = 5000
"""Tasks of Ray. Each is a shard, or several if there are more."""
MODE = "RAY_AUTH_MODE"
"""Ray's variable for its tokens: "token" or "disabled"; without it Ray decides."""
KNOCK = 10.0
"""Seconds in which a cluster must answer."""
SPARE = 1
"""Logical processors of the cluster that no actor takes: Ray Data waits forever without a word if its actors have all."""


@dataclass(frozen=True)
class Cluster:
    """Where Ray runs. address: of a cluster that is there, such as "auto" or "ray://head:10001"; None starts one here. gpus:
    that each actor has; it may be a part of one.
    """

    address: str | None = None
    gpus: float = 0.0


def run_on_ray(
    batch: Batch, *, workers: int | None, conditions: Conditions, cluster: Cluster = Cluster()
) -> Iterator[Advance | Done]:
    """Do the shards that are left. Yield each shard that is done, and its pictures.

    workers: actors; by default as many as the cluster has room for. Raise ConfigError if Ray is not installed, is not reached
    or has no room; LostError if a shard ends many actors, or Ray itself fails.
    """
    forget_attempts(batch.folder)
    with _connected(cluster, sized(workers, processors(), batch.left)) as ray:
        machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        count = actors(machines, sized(workers, MOST_BLOCKS, batch.left), cluster.gpus)
        conditions = replace(conditions, deaths=TRIES)
        source = ray.data.from_items(
            [{"shard": shard} for shard in batch.left], override_num_blocks=min(len(batch.left), MOST_BLOCKS)
        )
        done = source.map_batches(
            Actor,
            batch_size=1,
            batch_format="pyarrow",
            compute=ray.data.ActorPoolStrategy(size=count),
            num_cpus=1,
            num_gpus=cluster.gpus or None,
            fn_constructor_args=(str(batch.folder), batch.manifest.digest, batch.manifest.options.device, conditions),
        )
        try:
            yield from _told(batch.folder, done.iter_rows())
        except (ray.exceptions.RayError, RuntimeError) as error:
            what, fix = "Ray could not finish this batch", "see the state of the cluster (ray status); the same command goes on"
            got = shortened(str(error).strip().rpartition("\n")[2], 200)
            raise LostError(what, where=cluster.address or "a cluster on this machine", got=got, fix=fix) from error


def _told(folder: Path, rows: Iterable[dict[str, str]]) -> Iterator[Advance | Done]:
    """What the rows say, and what the folder says of the shards that are being done, as long as no row comes."""
    told: dict[int, Advance] = {}
    for row in _ticking(rows):
        if row is None:
            yield from advances(folder, told)
            continue
        done = _understood(row)
        before = told.pop(done.shard, Advance(0, 0))
        yield Advance(done.pictures - before.pictures, sum(done.failures.values()) - before.failures)
        yield done


def _ticking(rows: Iterable[dict[str, str]]) -> Iterator[dict[str, str] | None]:
    """The rows; None if there is none for some time. A thread waits for them, so Ctrl-C is heard at once."""
    arrived: SimpleQueue[dict[str, str] | BaseException | None] = SimpleQueue()

    def wait() -> None:
        try:
            for row in rows:
                arrived.put(row)
            arrived.put(None)
        except BaseException as error:
            arrived.put(error)

    threading.Thread(target=wait, name="rows of Ray", daemon=True).start()
    while True:
        try:
            word = arrived.get(timeout=PERIOD)
        except Empty:
            yield None
            continue
        if word is None:
            return
        if isinstance(word, BaseException):
            raise word
        yield word


class FaultError(Exception):
    """A fault of this program in an actor, with its traceback."""


class Actor:
    """A process of Ray that does shards. Its model is opened with the first one, so that an error comes back as a row."""

    def __init__(self, folder: str, digest: str, device: str, conditions: Conditions) -> None:
        torch.set_num_threads(1)  # results are then the same on any number of machines
        self._hand = Hand(Path(folder), digest, device, conditions, noting=True)

    def __call__(self, batch: Any) -> Any:
        """The outcome of the shards in a table of one row: status, error, and what was done."""
        import pyarrow as pa

        rows = [self._outcome(shard) for shard in batch.column("shard").to_pylist()]
        return pa.Table.from_pylist(rows, pa.schema([(name, pa.string()) for name in ("status", "content")]))

    def _outcome(self, shard: int) -> dict[str, str]:
        try:
            return {"status": "ok", "content": json.dumps(self._hand(shard, lambda _: None))}
        except OnestageError as error:
            return {"status": "error", "content": json.dumps({"kind": type(error).__name__, **_plain(error)})}
        except Exception as error:
            text = f"{type(error).__name__} in an actor: {error}\n{traceback.format_exc()}"
            return {"status": "fault", "content": json.dumps(text)}


def _plain(error: OnestageError) -> dict[str, str | None]:
    parts = {name: getattr(error, name) for name in ("what", "where", "got", "expected", "fix")}
    return {name: None if part is None else str(part) for name, part in parts.items()}


def _understood(row: dict[str, str]) -> Done:
    """A shard that is done. Raise the error of one that is not."""
    content = json.loads(row["content"])
    if row["status"] == "fault":
        raise FaultError(content)
    if row["status"] == "error":
        kinds: list[type[OnestageError]] = [OnestageError]
        for kind in kinds:  # with all that come from them
            kinds += kind.__subclasses__()
        kind = next((kind for kind in kinds if kind.__name__ == content["kind"]), OnestageError)
        raise kind(content.pop("what"), **{name: part for name, part in content.items() if name != "kind"})
    return Done(*content)


def actors(machines: Sequence[Mapping[str, float]], wanted: int, gpus: float) -> int:
    """How many actors there are. machines: what each has, as Ray calls it. gpus: of each actor; no part of one is on two GPUs.

    Raise ConfigError if there is no room for one.
    """
    processors = [int(machine.get("CPU", 0)) for machine in machines]
    room = sum(processors) - SPARE
    if room < 1:
        what, fix = "this cluster has too few processors: one is left free for Ray", "add a machine, or use --engine local"
        raise ConfigError(what, got=str(sum(processors)), expected="2 or more", fix=fix)
    if not gpus:
        return min(wanted, room)
    there = [int(machine.get("GPU", 0)) for machine in machines]
    seats = [count * int(1 / gpus + 1e-6) if gpus < 1 else int(count / gpus + 1e-6) for count in there]
    if not any(seats):
        what, fix = "no machine of this cluster has the GPUs of an actor", "lower --gpus, or leave it out for processors"
        raise ConfigError(what, got=f"{max(there, default=0)} GPUs at most", expected=f"{gpus:g}", fix=fix)
    both = sum(map(min, processors, seats))  # an actor has its processor and its GPU on one machine
    if not both:
        what, fix = (
            "no machine of this cluster has both GPUs and processors",
            "start its machines with both: ray start --num-cpus",
        )
        raise ConfigError(what, got="GPUs on machines without a processor", expected="a processor for each actor", fix=fix)
    return min(wanted, room, both)


@contextmanager
def _connected(cluster: Cluster, workers: int) -> Iterator[Any]:
    """Ray, connected to a cluster for the block, or to one that is started here. One that is connected already stays so."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it would send reports about its use
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # its remarks would break the progress line
    try:
        import ray
        import ray.data
    except ImportError as error:
        what, fix = "Ray is not installed", "pip install 'onestage[ray]'"
        raise ConfigError(what, where="--engine ray", got=error, fix=fix) from error
    for name in ("ray", "ray.data"):
        logging.getLogger(name).setLevel(logging.ERROR)
    ours = not ray.is_initialized()
    if ours:
        _connect(ray, cluster, workers)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.max_consecutive_actor_init_deaths = TRIES  # a machine may be taken away while an actor of it begins
    try:
        yield ray
    finally:
        if ours:
            ray.shutdown()


@contextmanager
def _quiet() -> Iterator[None]:
    """Drop what the C++ of Ray prints when it begins. Its errors are exceptions."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def _knock(address: str | None) -> None:
    """Raise OSError if nothing listens at HOST:PORT: Ray would try for minutes. Other words for a cluster are left to Ray."""
    host, _, port = (address or "").removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), timeout=KNOCK).close()


def _init(ray: Any, address: str | None, options: dict[str, Any]) -> None:
    """Connect to a cluster, or start one. At an address of this machine show Ray's token if it is asked for, as Ray does for
    "auto" and not for HOST:PORT.

    ``ray start --head`` asks for a token wherever it finds one: that of any Ray which a program ever started here. To other
    machines none is shown unasked, nor to a cluster that does not ask: a driver with tokens may not hear actors without. Ray
    takes 20 s to say that it was refused.
    """
    try:
        ray.init(address=address or "local", **options)
    except (ConnectionError, RuntimeError, ray.exceptions.RayError) as error:
        host = (address or "").removeprefix("ray://").rpartition(":")[0].strip("[]")
        if MODE in os.environ or not (_wants_token(error) and _is_here(host) and _has_token()):
            raise
        os.environ[MODE] = "token"
        with suppress(ImportError, AttributeError):  # of another version of Ray
            import_module("ray._raylet").Config.initialize("")
        ray.init(address=address, **options)


def _is_here(host: str) -> bool:
    """Whether a name or number is that of this machine."""
    if host in ("localhost", "127.0.0.1", "::1"):
        return True
    try:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as one:
            one.bind((host, 0))  # only an address of this machine can be bound
        return bool(host)
    except OSError:
        return False


def _has_token() -> bool:
    """Whether Ray has a token on this machine."""
    places = Path(os.environ.get("RAY_AUTH_TOKEN_PATH", "/nowhere")), Path.home() / ".ray" / "auth_token"
    return bool(os.environ.get("RAY_AUTH_TOKEN")) or any(place.is_file() for place in places)


def _wants_token(error: BaseException) -> bool:
    """Whether Ray was refused for want of the right token. It says so only deep in the text of its errors."""
    texts, seen = list[str](), set[int]()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        texts.append(f"{type(cause).__name__} {cause}")
        cause = cause.__cause__ or cause.__context__
    return any(word in text for text in texts for word in ("AuthToken", "AuthenticationError", "Unauthenticated"))


def _token_fix(address: str | None) -> str:
    """What makes a cluster with a token take this process."""
    mode = os.environ.get(MODE)
    if mode is None:
        return f"{MODE}=token, and the token of the cluster in ~/.ray/auth_token (or in RAY_AUTH_TOKEN); docs/scaling.md"
    if mode.lower() == "token":
        return "put the token of the cluster into ~/.ray/auth_token (ray get-auth-token there), or into RAY_AUTH_TOKEN"
    return f"{MODE}=token here, or start the cluster with {MODE}=disabled too"


def _connect(ray: Any, cluster: Cluster, workers: int) -> None:
    """Connect to a cluster, or start one here with a processor more than workers. Raise ConfigError if it is not reached."""
    usual = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR, "configure_logging": True}
    if cluster.address is None:
        gpus = {"num_gpus": torch.cuda.device_count()} if cluster.gpus else {"num_gpus": 0}
        options |= {"num_cpus": workers + SPARE, "include_dashboard": False, **gpus}
    try:
        _knock(cluster.address)
        with _quiet():
            _init(ray, cluster.address, options)
    except (ConnectionError, RuntimeError, ValueError, OSError, ray.exceptions.RayError) as error:
        if _wants_token(error):
            what, fix = "this Ray cluster takes no one without its token", _token_fix(cluster.address)
            got = "Ray: the token is missing, or another one"
            raise ConfigError(
                what, where=cluster.address, got=got, expected="the token with which it began", fix=fix
            ) from error
        what, fix = "this Ray cluster cannot be reached", "start it (ray start --head), or leave --address out"
        where, got = cluster.address or "a cluster on this machine", shortened(str(error).partition("\n")[0], 200)
        raise ConfigError(
            what, where=where, got=got, expected="such as auto, HOST:6379 or ray://HOST:10001", fix=fix
        ) from error
    finally:
        if threading.current_thread() is threading.main_thread():  # Ray sets handlers, and Ctrl-C and SIGTERM are ours
            for number, handler in usual.items():
                signal.signal(number, handler)
