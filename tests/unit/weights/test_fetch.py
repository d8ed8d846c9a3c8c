"""Fetching published weights, from a server on this machine. Nothing here leaves it."""

import hashlib
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from onestage.errors import WeightsError
from onestage.weights import fetch as module
from onestage.weights.fetch import cache_folder, fetch, fetch_hub, fetch_url

CONTENT = bytes(range(256)) * 4000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Server(ThreadingHTTPServer):
    """Serves CONTENT at any path but these: /404, /503, /redirect-plain, /redirect-out; counts and notes what was asked."""

    ranges: list[str | None]
    paths: list[str]
    stated = SHA256  # by the hub, in the answer to HEAD
    break_off_after: int | None = None
    honours_ranges = True

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        asked = self.headers.get("Range")
        self.server.ranges.append(asked)
        self.server.paths.append(self.path)
        if self.path in ("/404", "/503"):
            self.send_error(int(self.path[1:]))
        elif self.path.startswith("/redirect"):
            self.send_response(302)
            self.send_header("Location", "/w.bin" if "plain" in self.path else "ftp://127.0.0.1/w.bin")
            self.end_headers()
        else:
            self.send_content(int(asked[6:-1]) if asked and self.server.honours_ranges else 0)

    def do_HEAD(self) -> None:
        self.send_response(200)
        self.send_header("X-Repo-Commit", "c0ffee")
        self.send_header("X-Linked-Etag", f'"{self.server.stated}"')
        self.send_header("Content-Length", str(len(CONTENT)))
        self.end_headers()
        self.server.paths.append(self.path)

    def send_content(self, start: int) -> None:
        if start >= len(CONTENT):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(CONTENT) - start))
        self.end_headers()
        self.wfile.write(CONTENT[start : self.server.break_off_after])

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(module, "SCHEMES", ("http",))
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with Server(("127.0.0.1", 0), Handler) as running:
        running.ranges, running.paths = [], []
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def get(url: str, cache: Path, sha256: str | None = SHA256) -> Path:
    return fetch(url, sha256=sha256, cache=cache, progress=False)


def visible(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if not path.name.endswith(".lock"))


def test_a_file_is_downloaded_once(server: Server, tmp_path: Path) -> None:
    path = get(f"{server.url}/w.bin", tmp_path / "new" / "cache")
    assert path == tmp_path / "new" / "cache" / "w.bin" and path.read_bytes() == CONTENT
    assert get(f"{server.url}/w.bin", tmp_path / "new" / "cache") == path
    assert server.ranges == [None] and visible(path.parent) == ["w.bin"]


def test_a_redirect_is_followed_but_not_to_another_protocol(server: Server, tmp_path: Path) -> None:
    assert get(f"{server.url}/redirect-plain", tmp_path).read_bytes() == CONTENT
    with pytest.raises(WeightsError, match=r"https only\n.*ftp://"):
        get(f"{server.url}/redirect-out", tmp_path)


@pytest.mark.parametrize("url", ["http://127.0.0.1/w.bin", "file:///etc/passwd", "ftp://127.0.0.1/x", "w.bin"])
def test_anything_but_https_is_refused(url: str, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="https only"):
        get(url, tmp_path)


@pytest.mark.parametrize("end", ["", "/", "/..", "/%2e%2e", "/a%2fb", "/.hidden", "/a%00b"])
def test_an_address_without_a_plain_file_name_is_refused(end: str, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="does not end in a file name"):
        get("https://127.0.0.1" + end, tmp_path)


# --- checksums ---


@pytest.mark.parametrize("digits", [64, 8])
def test_a_wrong_checksum_leaves_nothing_behind(server: Server, tmp_path: Path, digits: int) -> None:
    with pytest.raises(WeightsError, match="do not have their checksum") as caught:
        get(f"{server.url}/w.bin", tmp_path, sha256="0" * digits)
    assert SHA256 in str(caught.value) and "0" * digits in str(caught.value)
    assert visible(tmp_path) == [] and server.ranges == [None]


def test_the_beginning_of_a_checksum_and_capitals_are_enough(server: Server, tmp_path: Path) -> None:
    assert get(f"{server.url}/w.bin", tmp_path, sha256=SHA256[:8].upper()).is_file()


def test_the_checksum_in_a_published_name_counts(server: Server, tmp_path: Path) -> None:
    assert get(f"{server.url}/ssd-{SHA256[:8]}.pth", tmp_path, sha256=None).is_file()
    with pytest.raises(WeightsError, match=r"sha256 0000abcd\.\.\."):
        get(f"{server.url}/ssd-0000abcd.pth", tmp_path, sha256=None)


def test_a_damaged_file_in_the_cache_is_fetched_anew(server: Server, tmp_path: Path) -> None:
    (tmp_path / "w.bin").write_bytes(CONTENT[:-1])
    assert get(f"{server.url}/w.bin", tmp_path).read_bytes() == CONTENT


def test_addresses_that_end_alike_are_two_files(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONESTAGE_HOME", str(tmp_path))
    first, second = (fetch_url(f"{server.url}/{folder}/w.bin") for folder in "ab")
    assert first != second and first.name == second.name == "w.bin" and len(server.ranges) == 2


# --- interrupted downloads ---


def test_a_broken_connection_is_an_error_and_the_next_try_goes_on(server: Server, tmp_path: Path) -> None:
    server.break_off_after = 1000
    with pytest.raises(WeightsError, match=r"broke off after 1,000 of 1,024,000 bytes"):
        get(f"{server.url}/w.bin", tmp_path)
    assert visible(tmp_path) == [".w.bin.part"]
    server.break_off_after = None
    assert get(f"{server.url}/w.bin", tmp_path).read_bytes() == CONTENT
    assert server.ranges == [None, "bytes=1000-"] and visible(tmp_path) == ["w.bin"]


def test_without_a_checksum_a_download_starts_over(server: Server, tmp_path: Path) -> None:
    (tmp_path / ".w.bin.part").write_bytes(b"the beginning of another file")
    assert get(f"{server.url}/w.bin", tmp_path, sha256=None).read_bytes() == CONTENT
    assert server.ranges == [None]


@pytest.mark.parametrize(
    ("partial", "requests"),
    [
        (CONTENT, ["bytes=1024000-"]),  # complete, the crash came just before its renaming
        (b"another version" * 10, ["bytes=150-", None]),
        (CONTENT + b"too long", ["bytes=1024008-", None]),
        (b"", [None]),
    ],
)
def test_whatever_an_interrupted_download_left_the_outcome_is_right(
    server: Server, tmp_path: Path, partial: bytes, requests: list[str | None]
) -> None:
    (tmp_path / ".w.bin.part").write_bytes(partial)
    assert get(f"{server.url}/w.bin", tmp_path).read_bytes() == CONTENT
    assert server.ranges == requests


def test_a_server_that_knows_no_ranges(server: Server, tmp_path: Path) -> None:
    server.honours_ranges = False
    (tmp_path / ".w.bin.part").write_bytes(CONTENT[:500])
    assert get(f"{server.url}/w.bin", tmp_path).read_bytes() == CONTENT
    assert server.ranges == ["bytes=500-"]


def test_many_at_once_download_once(server: Server, tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        paths = list(pool.map(lambda _: get(f"{server.url}/w.bin", tmp_path), range(8)))
    assert set(paths) == {tmp_path / "w.bin"} and paths[0].read_bytes() == CONTENT
    assert server.ranges == [None]


# --- no way through ---


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_offline_says_what_to_put_where(server: Server, tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{closed_port()}/w.bin"
    with pytest.raises(WeightsError, match=r"no connection: .*refused") as caught:
        get(url, tmp_path)
    message = str(caught.value)
    assert f"where:    {url}" in message and f"put the file at {tmp_path / 'w.bin'}" in message and SHA256 in message
    (tmp_path / "w.bin").write_bytes(CONTENT)  # as the message says
    assert get(url, tmp_path).read_bytes() == CONTENT


def test_offline_with_a_wrong_file_in_its_place(server: Server, tmp_path: Path) -> None:
    (tmp_path / "w.bin").write_bytes(b"something else")
    with pytest.raises(WeightsError, match="does not have the checksum"):
        get(f"http://127.0.0.1:{closed_port()}/w.bin", tmp_path)
    assert (tmp_path / "w.bin").read_bytes() == b"something else"


@pytest.mark.parametrize("status", ["404 Not Found", "503 Service Unavailable"])
def test_a_refusal_names_the_status(server: Server, tmp_path: Path, status: str) -> None:
    with pytest.raises(WeightsError, match=f"the server answered {status}"):
        fetch(f"{server.url}/{status[:3]}", sha256=None, filename="w.bin", cache=tmp_path, progress=False)
    assert visible(tmp_path) == []


def test_a_silent_server_is_given_up(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TIMEOUT", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(WeightsError, match=r"no answer for 0\.05 seconds"):
        get(f"http://127.0.0.1:{silent.getsockname()[1]}/w.bin", tmp_path)


def test_no_connection_is_tried_for_long(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Looking a name up may take long, and has no time limit."""
    released = threading.Event()
    monkeypatch.setattr(module, "CONNECTING", 0.05)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [released.wait(20)][:0])
    with pytest.raises(WeightsError, match=r"no connection within 0\.05 seconds"):
        get("http://127.0.0.1:9/w.bin", tmp_path)
    released.set()


def test_a_proxy_that_refuses_names_its_status(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", server.url)
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.setattr(module, "SCHEMES", ("https",))
    with pytest.raises(WeightsError, match="no connection: Tunnel connection failed: 501"):  # it knows no CONNECT
        get("https://weights.invalid/w.bin", tmp_path)


def test_a_cache_that_cannot_be_made_is_an_error(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(WeightsError, match="Not a directory"):
        get(f"{server.url}/w.bin", tmp_path / "file" / "cache")


def test_progress_goes_to_stderr(server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fetch(f"{server.url}/w.bin", sha256=SHA256, cache=tmp_path)
    output = capsys.readouterr()
    assert output.out == "" and "w.bin" in output.err and "1.0/1.0 MB" in output.err


# --- where ---


def test_the_cache_is_where_the_environment_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("ONESTAGE_HOME", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "onestage" / "weights"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "onestage" / "weights"
    monkeypatch.setenv("ONESTAGE_HOME", "~/mine")
    assert cache_folder() == tmp_path / "mine" / "weights"


# --- the Hugging Face hub ---


@pytest.fixture
def hub(server: Server, monkeypatch: pytest.MonkeyPatch) -> Server:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", server.url)
    template = server.url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    return server


def files(hub: Server) -> list[str]:
    """What was asked for, REVISION/NAME; the library may ask the hub other things too."""
    return [path.split("/resolve/")[1] for path in hub.paths if "/resolve/" in path]


def test_a_hub_file_is_kept_by_repository_and_revision(hub: Server, tmp_path: Path) -> None:
    first = fetch_hub("owner/name", "model.bin", sha256=SHA256, cache=tmp_path, progress=False)
    again = fetch_hub("owner/name", "model.bin", sha256=SHA256, cache=tmp_path, progress=False)
    other = fetch_hub("owner/name", "sub/model.bin", revision="v2", cache=tmp_path, progress=False)
    assert first == again == tmp_path / "hub" / "owner--name@main" / "model.bin"
    assert other == tmp_path / "hub" / "owner--name@v2" / "sub--model.bin"
    assert first.read_bytes() == other.read_bytes() == CONTENT
    assert files(hub) == ["main/model.bin", "v2/sub/model.bin", "c0ffee/sub/model.bin"]


def test_a_hub_file_has_the_checksum_that_the_hub_states(hub: Server, tmp_path: Path) -> None:
    fetch_hub("owner/name", "model.bin", cache=tmp_path, progress=False)
    fetch_hub("owner/name", "model.bin", cache=tmp_path, progress=False)
    assert files(hub) == ["main/model.bin", "c0ffee/model.bin"]
    hub.stated = "0" * 64
    with pytest.raises(WeightsError, match="do not have their checksum"):
        fetch_hub("owner/other", "model.bin", cache=tmp_path, progress=False)
    hub.stated = "0" * 40  # of a small file the hub states git's own
    assert fetch_hub("owner/other", "model.bin", cache=tmp_path, progress=False).read_bytes() == CONTENT


def test_a_hub_out_of_reach_says_what_to_put_where(hub: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    template = f"http://127.0.0.1:{closed_port()}" + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    with pytest.raises(WeightsError, match="could not be fetched") as caught:
        fetch_hub("owner/name", "model.bin", cache=tmp_path)
    assert f"put the file at {tmp_path / 'hub' / 'owner--name@main' / 'model.bin'}" in str(caught.value)


def test_the_hub_offline_says_what_to_put_where(hub: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(WeightsError, match="HF_HUB_OFFLINE is set") as caught:
        fetch_hub("owner/name", "model.bin", cache=tmp_path)
    place = tmp_path / "hub" / "owner--name@main" / "model.bin"
    assert f"{hub.url}/owner/name/resolve/main/model.bin" in str(caught.value) and f"put the file at {place}" in str(
        caught.value
    )
    place.parent.mkdir(parents=True)
    place.write_bytes(CONTENT)
    assert fetch_hub("owner/name", "model.bin", cache=tmp_path) == place and hub.ranges == []


def test_a_repository_that_cannot_be_is_an_error(hub: Server, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="owner/name"):
        fetch_hub("../../etc", "passwd", cache=tmp_path)
