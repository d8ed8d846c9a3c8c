"""Batches on a Ray cluster of two nodes, both on this machine: workers, a node and the driver are killed.

They take minutes, so they are not among the usual tests: make test-ray.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

import pytest
from pyarrow.dataset import dataset

from batches_of_pictures import batch, command, digests, leftovers, write_batch_pictures

pytestmark = pytest.mark.ray
SHARDS, SLOWLY = 12, 1.0
HEAD, NODE = ({"num_cpus": count, "object_store_memory": 80_000_000} for count in (1, 2))
"""Two actors, of which one at least is on the second node: one processor stays free."""
PROGRAM = "import sys, json, batches_of_pictures as b; sys.exit(b.batch_on_ray(*map(json.loads, sys.argv[1:])))"


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_batch_pictures(tmp_path_factory.mktemp("many") / "photos", SHARDS * 5)


@pytest.fixture(scope="module")
def expected(many: Path, model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What the engine of this machine makes."""
    out = tmp_path_factory.mktemp("local") / "found"
    assert batch(many, out, model, "--workers", "2") == 1
    assert len(digests(out)) == SHARDS
    return digests(out)


@pytest.fixture(scope="module")
def head() -> Iterator["Cluster"]:  # noqa: F821
    """A cluster of one node, for all tests. Its processes find this checkout."""
    cluster_utils = pytest.importorskip("ray.cluster_utils")
    surroundings = {"PYTHONPATH": os.pathsep.join(sys.path), "RAY_USAGE_STATS_ENABLED": "0"}
    with patch.dict(os.environ, surroundings), usual_signals():
        made = cluster_utils.Cluster(initialize_head=True, head_node_args=HEAD | {"include_dashboard": False})
        try:
            yield made
        finally:
            made.shutdown()


@pytest.fixture
def cluster(head: "Cluster") -> Iterator["Cluster"]:  # noqa: F821
    """The cluster with a second node, which a test may kill."""
    with usual_signals():
        head.worker = head.add_node(**NODE)
        head.wait_for_nodes()
    yield head
    if head.worker in head.list_all_nodes():
        head.remove_node(head.worker)


@contextmanager
def usual_signals() -> Iterator[None]:
    """Put back the handlers of signals, which Ray replaces."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def driver(
    cluster, pictures: Path, out: Path, model: Path, log: Path, *, slowly: float = SLOWLY, deadly: tuple[str, ...] = ()
) -> subprocess.Popen[bytes]:
    """The command, in another process. deadly: pictures that kill their actors."""
    arguments = command(pictures, out, model, "--engine", "ray", "--address", cluster.address, "--workers", "2")
    with log.open("ab") as file:
        words = [sys.executable, "-c", PROGRAM, *map(json.dumps, (arguments, slowly, deadly))]
        return subprocess.Popen(words, stdout=file, stderr=file)


def wait_for_parts(out: Path, count: int, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 600
    while len(digests(out)) < count:
        assert process.poll() is None and time.monotonic() < deadline, log.read_text()
        time.sleep(0.05)


def ended(process: subprocess.Popen[bytes], log: Path) -> None:
    assert process.wait(700) == 1, log.read_text()  # some pictures are broken
    assert "Traceback" not in log.read_text()


def actors() -> list[int]:
    """The processes of actors that come from this one, as all of its cluster do."""
    parents, named = dict[int, int](), list[int]()
    for place in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(place.name)] = int((place / "stat").read_text().rpartition(")")[2].split()[1])
            if b"MapWorker" in (place / "cmdline").read_bytes():
                named.append(int(place.name))
        except OSError:
            continue

    def is_ours(process: int) -> bool:
        return process == os.getpid() or (process in parents and is_ours(parents[process]))

    return [process for process in named if is_ours(process)]


def test_two_nodes_make_the_same_bytes(cluster, many: Path, model: Path, expected, tmp_path: Path) -> None:
    out, log = tmp_path / "found", tmp_path / "log"
    ended(driver(cluster, many, out, model, log, slowly=0.0), log)
    assert digests(out) == expected and leftovers(out) == []


def test_an_actor_that_is_killed(cluster, many: Path, model: Path, expected, tmp_path: Path) -> None:
    out, log = tmp_path / "found", tmp_path / "log"
    process = driver(cluster, many, out, model, log)
    wait_for_parts(out, 2, process, log)
    os.kill(actors()[0], signal.SIGKILL)
    ended(process, log)
    assert digests(out) == expected


def test_a_picture_that_kills_every_actor_is_a_row(cluster, many: Path, model: Path, expected, tmp_path: Path) -> None:
    out, log = tmp_path / "found", tmp_path / "log"
    ended(driver(cluster, many, out, model, log, slowly=0.0, deadly=("a/0012.jpg",)), log)
    assert sum(digest != expected[name] for name, digest in digests(out).items()) == 1 and len(digests(out)) == SHARDS
    found = dataset(out, format="parquet").to_table().to_pylist()
    assert [row["id"] for row in found if row["code"] == "crashed"] == ["a/0012.jpg"]
    assert len({row["id"] for row in found}) == len(found) == 5 * SHARDS


def test_a_node_that_is_killed(cluster, many: Path, model: Path, expected, tmp_path: Path) -> None:
    out, log = tmp_path / "found", tmp_path / "log"
    process = driver(cluster, many, out, model, log)
    wait_for_parts(out, 2, process, log)
    cluster.remove_node(cluster.worker, allow_graceful=False)
    ended(process, log)
    assert digests(out) == expected


def test_a_driver_that_is_killed_and_started_again(cluster, many: Path, model: Path, expected, tmp_path: Path) -> None:
    out, log = tmp_path / "found", tmp_path / "log"
    process = driver(cluster, many, out, model, log)
    wait_for_parts(out, 2, process, log)
    process.kill()
    process.wait(60)
    kept = digests(out)
    assert len(kept) < SHARDS and kept.items() <= expected.items()
    ended(driver(cluster, many, out, model, log, slowly=0.0), log)
    assert digests(out) == expected and "going on: " in log.read_text()


def test_a_full_disk_ends_the_job_clearly(cluster, many: Path, model: Path, tmp_path: Path) -> None:
    """A folder in the place of a part cannot be replaced, as a full disk cannot be written."""
    out, log = tmp_path / "found", tmp_path / "log"
    process = driver(cluster, many, out, model, log)
    wait_for_parts(out, 1, process, log)
    (out / f"part-{SHARDS - 1:06d}.parquet").mkdir(parents=True)
    assert process.wait(700) == 2, log.read_text()
    assert "could not be written" in log.read_text() and "Traceback" not in log.read_text()


def test_a_cluster_that_is_not_there_is_said(many: Path, model: Path, tmp_path: Path, capsys) -> None:
    pytest.importorskip("ray")
    assert batch(many, tmp_path / "found", model, "--engine", "ray", "--address", "127.0.0.1:1") == 2
    assert "this Ray cluster cannot be reached" in capsys.readouterr().err


def test_a_cluster_that_is_started_here(many: Path, model: Path, expected, tmp_path: Path, capsys) -> None:
    pytest.importorskip("ray")
    before = signal.getsignal(signal.SIGTERM)
    assert batch(many, tmp_path / "found", model, "--engine", "ray", "--workers", "2") == 1
    assert digests(tmp_path / "found") == expected and signal.getsignal(signal.SIGTERM) == before
    assert "pictures in" in capsys.readouterr().out
