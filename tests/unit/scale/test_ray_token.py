"""A batch on a Ray cluster that ``ray start --head`` began and that asks for a token, as it does once any Ray has run there."""

import os
import secrets
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from batches_of_pictures import command, digests
from onestage.scale import on_ray

pytestmark = pytest.mark.ray


def surroundings(home: Path, **more: str) -> dict[str, str]:
    """Of a user with that home folder. Ray keeps its token there."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    path = os.pathsep.join(sys.path)
    return kept | {"HOME": str(home), "PYTHONPATH": path, "RAY_USAGE_STATS_ENABLED": "0", **more}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("home")
    (place / ".ray").mkdir()
    (place / ".ray" / "auth_token").write_text(secrets.token_hex(32))
    return place


@pytest.fixture(scope="module")
def address(home: Path) -> Iterator[str]:
    """Of a cluster that was begun by hand."""
    pytest.importorskip("ray")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = ["--head", "--port", port, "--num-cpus", 2, "--object-store-memory", 80_000_000, "--block"]
    words = ["ray.scripts.scripts", "start", *map(str, options), "--include-dashboard=false"]
    begun = subprocess.Popen(
        [sys.executable, "-m", *words], env=surroundings(home), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert begun.stdout is not None
    lines = list[str]()
    for line in begun.stdout:
        lines.append(line)
        if "Ray runtime started" in line:
            break
    try:
        assert begun.poll() is None and any("Token authentication is enabled" in line for line in lines), "".join(lines)
        yield f"127.0.0.1:{port}"
    finally:
        begun.terminate()  # with --block all its processes end with it
        begun.wait(60)


def run(words: list[str], env: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    program = [sys.executable, "-m", "onestage", *words]
    return subprocess.run(program, env=dict(env), capture_output=True, text=True, timeout=250)


def test_a_cluster_on_this_machine_takes_its_own_token(
    address: str, home: Path, pictures: Path, model: Path, whole: Path, tmp_path: Path
) -> None:
    words = command(pictures, tmp_path / "found", model, "--engine", "ray", "--address", address)
    done = run(words, surroundings(home))
    assert done.returncode == 1, done.stderr  # two pictures are broken
    assert digests(tmp_path / "found") == digests(whole)


@pytest.mark.parametrize(
    ("mode", "fix"), [({}, "RAY_AUTH_MODE=token, and"), ({"RAY_AUTH_MODE": "disabled"}, "RAY_AUTH_MODE=token here")]
)
def test_who_has_no_token_hears_what_to_set(
    mode: dict[str, str], fix: str, address: str, pictures: Path, model: Path, tmp_path: Path
) -> None:
    (tmp_path / "stranger").mkdir()
    words = command(pictures, tmp_path / "found", model, "--engine", "ray", "--address", address)
    refused = run(words, surroundings(tmp_path / "stranger", **mode))
    assert refused.returncode == 2 and "takes no one without its token" in refused.stderr and fix in refused.stderr
    assert "Traceback" not in refused.stderr


@pytest.mark.parametrize(("host", "here"), [("127.0.0.1", True), ("localhost", True), ("203.0.113.7", False), ("", False)])
def test_a_token_is_shown_on_this_machine_alone(host: str, here: bool) -> None:
    assert on_ray._is_here(host) == here
