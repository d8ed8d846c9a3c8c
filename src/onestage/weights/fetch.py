"""Published weights: downloaded once, verified, and kept in a cache. Nothing else in the project opens a connection.

The cache is ``$ONESTAGE_HOME/weights``, else ``$XDG_CACHE_HOME/onestage/weights``, else ``~/.cache/onestage/weights``. A file
that a person puts there by hand serves as well as a downloaded one. A machine without a network can be served in this way.

pooch (1.9) is not used: it needs whole checksums, starts interrupted downloads again from the beginning, and has no lock
between programs.
"""

import hashlib
import re
import socket
import threading
import urllib.request
from http.client import HTTPException, HTTPMessage, HTTPResponse
from pathlib import Path, PurePosixPath
from queue import Empty, SimpleQueue
from typing import IO
from urllib.error import HTTPError, URLError
from urllib.parse import unquote, urlsplit

from filelock import FileLock
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from onestage import files
from onestage.console import Terminal
from onestage.errors import WeightsError
from onestage.files import commit

SCHEMES = ("https",)
TIMEOUT = 30.0  # seconds without a byte
CONNECTING = 5.0  # seconds until a server answers
CHUNK = 2**18  # bytes

HASH_IN_NAME = re.compile(r"-([0-9a-f]{8,64})\.\w+$")
"""How torchvision and timm publish: ``ssd300_vgg16_coco-b556d3b4.pth`` names the beginning of its SHA-256."""

SHA256 = re.compile(r"[0-9a-f]{64}")


def cache_folder() -> Path:
    """Where published weights are kept; it need not exist yet."""
    return files.cache_folder("weights")


def fetch(
    url: str, *, sha256: str | None, filename: str | None = None, cache: Path | None = None, progress: bool = True
) -> Path:
    """The file at ``url``, from the cache or downloaded into it.

    sha256: the checksum in hexadecimal, or its first 8 digits or more; without it, the digits in the file's name are used if
    there are any. A cached file is verified too, and fetched again if it is wrong. An interrupted download goes on where it
    stopped if there is a checksum to verify the result. Any number of processes may ask for the same file at once.

    Raise WeightsError if there is no connection, the server refuses, or the checksum is wrong.
    """
    _check_scheme(url)
    path = (cache or cache_folder()) / _file_name(url, filename)
    checksum = (sha256 or _hash_in_name(path.name)).lower()
    if _is_right(path, checksum):
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_name(f".{path.name}.lock")):
            if not _is_right(path, checksum):  # another process may have fetched it while this one waited
                _download(url, path, checksum, progress=progress)
    except (OSError, HTTPException) as error:  # URLError, HTTPError and TimeoutError are OSErrors
        raise _cannot_fetch(url, path, checksum, _reason(error)) from error
    return path


def fetch_url(url: str) -> Path:
    """The file at an address that the user gave; see ``fetch``. Files of the same name from different addresses are
    kept apart.
    """
    return fetch(url, sha256=None, cache=cache_folder() / "url" / hashlib.sha256(url.encode()).hexdigest()[:16])


def fetch_hub(
    repo_id: str,
    filename: str,
    *,
    sha256: str | None = None,
    revision: str | None = None,
    cache: Path | None = None,
    progress: bool = True,
) -> Path:
    """A file of the public Hugging Face repository ``owner/name``, from the cache or downloaded into it; see ``fetch``.

    Without a ``sha256`` a download is checked against the one that the hub states, as it does for every large file.
    $HF_ENDPOINT (a mirror) and $HF_HUB_OFFLINE are obeyed. Only the address comes from the library. The library's
    download would retry for 20 seconds without a network, and its cache cannot be filled by hand.

    Raise WeightsError as ``fetch`` does, and if ``repo_id`` is not the name of a repository.
    """
    from huggingface_hub import constants, hf_hub_url  # takes a while to import
    from huggingface_hub.errors import HFValidationError

    try:
        url = hf_hub_url(repo_id, filename, revision=revision)
    except HFValidationError as error:
        raise WeightsError("not a Hugging Face repository", got=repo_id, expected="owner/name") from error
    path = _hub_path(repo_id, filename, revision, cache)
    if not path.is_file():
        if constants.HF_HUB_OFFLINE:
            raise _cannot_fetch(url, path, sha256 or "", "HF_HUB_OFFLINE is set")
        if sha256 is None:
            commit_hash, sha256 = _stated_by_hub(url, path)
            url = hf_hub_url(repo_id, filename, revision=commit_hash or revision)  # the very version that the checksum is of
    return fetch(url, sha256=sha256, filename=path.name, cache=path.parent, progress=progress)


def cached(url: str, sha256: str | None = None, *, folder: Path | None = None) -> Path | None:
    """The file of an address, if it lies in the cache, or in another ``folder``, and is right. No connection is opened."""
    path = (folder or cache_folder()) / _file_name(url, None)
    return path if _is_right(path, (sha256 or _hash_in_name(path.name)).lower()) else None


def cached_hub(repo_id: str, filename: str) -> Path | None:
    """The file of a Hugging Face repository, if it lies in the cache, or in that of the library. No connection is opened."""
    from huggingface_hub import try_to_load_from_cache

    path = _hub_path(repo_id, filename)
    found = path if path.is_file() else try_to_load_from_cache(repo_id, filename)
    return Path(found) if isinstance(found, str | Path) else None


def check_connection(url: str) -> None:
    """Raise OSError if no server, or no proxy in its place, answers within CONNECTING seconds.

    A thread waits for it, since looking a name up has no time limit that could be set.
    """
    place = urlsplit(url)
    proxy = urllib.request.getproxies().get(place.scheme)
    if proxy and not urllib.request.proxy_bypass(place.hostname or ""):
        place = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
    port = place.port or (443 if place.scheme == "https" else 80)
    answers: SimpleQueue[OSError | None] = SimpleQueue()

    def connect() -> None:
        try:
            socket.create_connection((place.hostname or "", port), timeout=CONNECTING).close()
            answers.put(None)
        except OSError as error:
            answers.put(error)

    threading.Thread(target=connect, daemon=True).start()
    try:
        error = answers.get(timeout=CONNECTING)
    except Empty:
        raise OSError(f"no connection within {CONNECTING:g} seconds") from None
    if error is not None:
        raise URLError(error)


def _hub_path(repo_id: str, filename: str, revision: str | None = None, cache: Path | None = None) -> Path:
    """The place of a file of the hub in the cache."""
    folder = (cache or cache_folder()) / "hub" / f"{repo_id}@{revision or 'main'}".replace("/", "--")
    return folder / filename.replace("/", "--")


def _stated_by_hub(url: str, path: Path) -> tuple[str | None, str | None]:
    """The commit of the file at an address of the hub, and its SHA-256, as far as the hub states them."""
    from huggingface_hub import get_hf_file_metadata

    try:
        check_connection(url)
        stated = get_hf_file_metadata(url, token=False, timeout=TIMEOUT)
    except OSError as error:
        raise _cannot_fetch(url, path, "", _reason(error)) from error
    except Exception as error:  # the library lets those of its HTTP client through
        raise _cannot_fetch(url, path, "", f"{type(error).__name__}: {error}") from error
    return stated.commit_hash, stated.etag if stated.etag and SHA256.fullmatch(stated.etag) else None


def _file_name(url: str, filename: str | None) -> str:
    name = filename or unquote(PurePosixPath(urlsplit(url).path).name)
    if not name or name.startswith(".") or set(name) & set("/\\\0"):
        raise WeightsError("the address does not end in a file name", where=url, got=repr(name), fix="pass filename=")
    return name


def _hash_in_name(name: str) -> str:
    found = HASH_IN_NAME.search(name)
    return found[1] if found else ""


def _is_right(path: Path, checksum: str) -> bool:
    """Whether the file is there and its SHA-256 begins with ``checksum``, which may be empty."""
    return path.is_file() and (not checksum or _sha256(path).startswith(checksum))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _download(url: str, path: Path, checksum: str, *, progress: bool) -> None:
    """Fetch into a partial file beside ``path``, verify it, and only then give it its name."""
    partial = path.with_name(f".{path.name}.part")
    got = ""
    # If a resumed download is wrong, the file at the address has changed: try once from the beginning.
    for resume in (True, False) if checksum and partial.is_file() else (False,):
        _receive(url, partial, resume=resume, progress=progress)
        if _is_right(partial, checksum):
            commit(partial, path)
            return
        got = _sha256(partial)
        partial.unlink()
    raise WeightsError(
        "the downloaded weights do not have their checksum, and were deleted",
        where=url,
        got=f"sha256 {got}",
        expected=f"sha256 {checksum}" + ("..." if len(checksum) < 64 else ""),
        fix=f"try again; if it stays so, the published file has changed (a copy you trust goes to {path})",
    )


def _receive(url: str, partial: Path, *, resume: bool, progress: bool) -> None:
    """Write what ``url`` serves into ``partial``: only the rest if ``resume`` is set and the server agrees, otherwise
    everything.
    """
    start = partial.stat().st_size if resume else 0
    headers = {"User-Agent": "onestage"} | ({"Range": f"bytes={start}-"} if start else {})
    opener = urllib.request.build_opener(_SafeRedirects)
    check_connection(url)
    try:
        response = opener.open(urllib.request.Request(url, headers=headers), timeout=TIMEOUT)
    except HTTPError as error:
        if start and error.code == 416:  # range not satisfiable: there is nothing after what we have
            return
        raise
    with response:
        # Only status 206, partial content, goes on from the start; any other success sends the whole file.
        _store(response, partial, start=start if response.status == 206 else 0, progress=progress)


def _store(response: HTTPResponse, partial: Path, *, start: int, progress: bool) -> None:
    """Write an answer into ``partial``, behind its first ``start`` bytes. Raise HTTPException if it breaks off."""
    length = response.headers.get("Content-Length")
    total = start + int(length) if length else None
    with partial.open("ab" if start else "wb") as file, _progress_bar(progress) as bar:
        task = bar.add_task(partial.name.removeprefix(".").removesuffix(".part"), total=total, completed=start)
        while chunk := response.read(CHUNK):
            file.write(chunk)
            bar.advance(task, len(chunk))
    if total is not None and (size := partial.stat().st_size) != total:
        raise HTTPException(f"the connection broke off after {size:,} of {total:,} bytes")


def _progress_bar(shown: bool) -> Progress:
    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    return Progress(TextColumn("{task.description}"), *columns, console=Terminal(stderr=True), disable=not shown)


class _SafeRedirects(urllib.request.HTTPRedirectHandler):
    """Follow a redirect only to an address over https, as is required of the first address."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> urllib.request.Request | None:
        """The request for the new address. Raise WeightsError if it is not fetched over https."""
        _check_scheme(newurl)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _check_scheme(url: str) -> None:
    if urlsplit(url).scheme not in SCHEMES:
        raise WeightsError("weights are fetched over https only", got=url, expected="https://...")


def _reason(error: OSError | HTTPException) -> str:
    if isinstance(error, HTTPError):
        return f"the server answered {error.code} {error.reason}"
    if isinstance(error, TimeoutError) or (isinstance(error, URLError) and isinstance(error.reason, TimeoutError)):
        return f"no answer for {TIMEOUT:g} seconds"
    if isinstance(error, URLError):
        return f"no connection: {error.reason}"
    return str(error) or type(error).__name__


def _cannot_fetch(url: str, path: Path, checksum: str, reason: str) -> WeightsError:
    wrong = f"; the file now at {path} does not have the checksum" if path.is_file() else ""
    by_hand = f"download that address on a machine with a connection, and put the file at {path}"
    return WeightsError(
        "published weights could not be fetched",
        where=url,
        got=reason + wrong,
        expected=f"a file whose sha256 begins with {checksum}" if checksum else None,
        fix=f"try again, or {by_hand}",
    )
