"""Files are written whole or not at all."""

import errno
import os
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from onestage import files
from onestage.errors import ConfigError, WeightsError, WriteError


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_new_file_has_the_permissions_of_any_other(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        files.write_atomically(tmp_path / "x", b"1")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "x").stat().st_mode) == 0o644


@pytest.mark.parametrize("call", ["fsync", "replace"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS])
def test_a_failed_write_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, code: int
) -> None:
    path = tmp_path / "x"
    files.write_atomically(path, b"old")

    def fail(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(WeightsError, match=os.strerror(code)) as caught:
        files.write_atomically(path, b"new")
    assert str(path) in str(caught.value) and "fix:" in str(caught.value)
    assert path.read_bytes() == b"old" and names(tmp_path) == ["x"]


def test_a_write_that_stops_half_way(tmp_path: Path) -> None:
    """The system itself stops the write, as on a full disk: no file may grow beyond 10 kB."""
    resource = pytest.importorskip("resource")
    path = tmp_path / "x"
    files.write_atomically(path, b"old")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
    try:
        with pytest.raises(WeightsError, match=os.strerror(errno.EFBIG)):
            files.write_atomically(path, bytes(100_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == b"old" and names(tmp_path) == ["x"]


def test_an_interrupted_write_cleans_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        files.write_atomically(tmp_path / "x", b"new")
    assert names(tmp_path) == []


def test_what_a_crash_left_is_removed_and_a_writer_at_work_is_not(tmp_path: Path) -> None:
    crashed, working = tmp_path / f".x.1{files.TEMPORARY}", tmp_path / f".x.2{files.TEMPORARY}"
    crashed.touch(), working.touch()
    os.utime(crashed, (0, 0))
    files.write_atomically(tmp_path / "x", b"1")
    assert names(tmp_path) == [working.name, "x"]
    files.remove_leftovers(tmp_path, older_than=0)
    assert names(tmp_path) == ["x"]


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_file_belongs_to_its_writer_until_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    """On a slow disk, contents take seconds to arrive, and another program may begin to write into the same folder."""
    pytest.importorskip("fcntl")
    real = getattr(os, call)

    def slow(*args: object) -> object:
        for working in tmp_path.glob(f".*{files.TEMPORARY}"):
            os.utime(working, (0, 0))
        files.remove_leftovers(tmp_path, older_than=0)
        return real(*args)

    monkeypatch.setattr(os, call, slow)
    files.write_atomically(tmp_path / "x", b"1")
    assert names(tmp_path) == ["x"] and (tmp_path / "x").read_bytes() == b"1"


@pytest.mark.parametrize("path", ["missing/x", "."])
def test_an_impossible_path_is_an_error_that_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(WeightsError, match=r"fix: +(make the folder|name a file)"):
        files.write_atomically(path, b"1")


# --- streams ---


@pytest.mark.parametrize("durable", [True, False])
def test_a_stream_is_whole_or_absent(tmp_path: Path, durable: bool) -> None:
    path = tmp_path / "x"
    with files.atomic_file(path, durable=durable) as file:
        file.write(b"half")
        file.flush()
        assert not path.exists()
        file.write(b" and whole")
    assert path.read_bytes() == b"half and whole" and names(tmp_path) == ["x"]
    with pytest.raises(KeyboardInterrupt), files.atomic_file(path, durable=durable) as file:
        file.write(b"new")
        raise KeyboardInterrupt
    assert path.read_bytes() == b"half and whole" and names(tmp_path) == ["x"]


REFUSED = {
    ".": "name a file, not a folder",
    "missing/x": "make the folder first",
    "file/x": "a file has the name of a folder",
    "n" * 256: "choose a shorter name",
    "a\0b": "choose another name",
}


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("write", [files.write_file, files.write_atomically])
def test_a_path_that_cannot_be_written_is_an_error_that_names_it(
    tmp_path: Path, write: Callable[[Path, bytes], None], name: str
) -> None:
    (tmp_path / "file").touch()
    path = tmp_path / name
    with pytest.raises((WriteError, WeightsError)) as caught:
        write(path, b"1")
    assert caught.value.where == path and REFUSED[name] in str(caught.value)
    assert isinstance(caught.value, OSError) == (write is files.write_file)


@pytest.mark.parametrize("name", ["file", "file/x", "n" * 256, "a\0b"])
def test_a_folder_that_cannot_be_made_is_an_error_that_names_it(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(WriteError, match="cannot be made") as caught:
        files.make_folder(tmp_path / name)
    assert caught.value.where == tmp_path / name and caught.value.fix
    assert files.make_folder(tmp_path / "a" / "b").is_dir() and files.make_folder(tmp_path) == tmp_path


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO])
def test_every_reason_of_the_system_has_its_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    def fail(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(WriteError) as caught:
        files.write_file(tmp_path / "x", b"1")
    assert caught.value.where == tmp_path / "x" and caught.value.got == os.strerror(code)
    assert caught.value.fix == files.FIXES.get(code, "choose a folder that you may write to") and names(tmp_path) == []


@pytest.mark.parametrize("size", [1, 1_000_000])
def test_a_full_disk_names_the_file_and_not_its_temporary_one(tmp_path: Path, size: int) -> None:
    """A few bytes reach the disk when the file is closed, many while it is written."""
    resource = pytest.importorskip("resource")
    path = tmp_path / "x"
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))
    try:
        with pytest.raises(WriteError, match="ulimit") as caught:
            files.write_file(path, bytes(size))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert caught.value.where == path and names(tmp_path) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no such device")
def test_a_full_device_is_named_by_the_path_that_leads_to_it(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.symlink_to("/dev/full")
    with pytest.raises(WriteError, match="free some space") as caught:
        files.write_file(path, b"1")
    assert caught.value.where == path


def test_an_error_of_the_block_is_no_error_of_the_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught, files.atomic_file(tmp_path / "x"):
        (tmp_path / "another").read_bytes()
    assert not isinstance(caught.value, WriteError) and names(tmp_path) == []


@pytest.mark.parametrize("name", ["n" * 255, "é" * 127, "\N{SNOWMAN}" * 85, b"\xff".decode("utf-8", "surrogateescape") * 255])
def test_a_name_as_long_as_the_system_takes(tmp_path: Path, name: str) -> None:
    files.write_file(tmp_path / name, b"1")
    files.write_atomically(tmp_path / name, b"2")
    assert names(tmp_path) == [name] and (tmp_path / name).read_bytes() == b"2"


@pytest.mark.parametrize("durable", [True, False])
def test_a_file_keeps_its_permissions(tmp_path: Path, durable: bool) -> None:
    path = tmp_path / "x"
    path.touch(mode=0o600)
    with files.atomic_file(path, durable=durable) as file:
        file.write(b"secret")
    assert path.read_bytes() == b"secret" and stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize("write", [files.write_file, files.write_atomically])
@pytest.mark.parametrize("there", [True, False])
def test_a_link_stays_and_its_file_is_written(tmp_path: Path, write: Callable[[Path, bytes], None], there: bool) -> None:
    (tmp_path / "far").mkdir()
    link, end = tmp_path / "link", tmp_path / "far" / "x"
    link.symlink_to(Path("far") / "x")
    if there:
        end.touch()
    write(link, b"new")
    assert link.is_symlink() and end.read_bytes() == b"new"
    assert names(tmp_path) == ["far", "link"] and names(end.parent) == ["x"]


@pytest.mark.parametrize("write", [files.write_file, files.write_atomically])
def test_a_pipe_is_written_into(tmp_path: Path, write: Callable[[Path, bytes], None]) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    write(pipe, b"through")
    assert os.read(reader, 100) == b"through" and pipe.is_fifo()
    os.close(reader)


def test_standard_output_and_the_null_device_are_written_into() -> None:
    code = "from onestage.files import write_file; [write_file(f'/dev/{name}', 'text') for name in ('null', 'stdout')]"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "text" and Path("/dev/null").is_char_device()


def test_a_file_is_written_where_its_folder_takes_no_new_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x"
    path.touch()
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write into every folder
    before = path.stat().st_ino
    files.write_file(path, "new")
    assert path.read_text() == "new" and path.stat().st_ino == before


def test_text_is_utf8_with_its_line_ends_as_they_are(tmp_path: Path) -> None:
    files.write_file(tmp_path / "x", "dög\r\n\n")
    assert (tmp_path / "x").read_bytes() == b"d\xc3\xb6g\r\n\n"


def test_no_other_file_of_the_package_writes_files() -> None:
    """What downloads leave for a second try is no result; all else is whole or absent."""
    source = Path(files.__file__).parent
    signs = (".write_text(", ".write_bytes(", 'open("w', 'open("x', "os.replace(", "mkstemp(", "savefig(path")
    allowed = {"files.py": signs, "cli/generate.py": (".write_text(",)}
    allowed["cli/alone.py"] = ('open("w',)  # what a process says, in a folder that goes with it
    for path in source.rglob("*.py"):
        text, name = path.read_text(encoding="utf-8"), path.relative_to(source).as_posix()
        assert [sign for sign in signs if sign in text and sign not in allowed.get(name, ())] == [], name


WRITER = """
import sys, time
from pathlib import Path
from onestage import files
with files.temporary_folder(Path(sys.argv[1])) as folder, files.atomic_file(Path(sys.argv[1])) as file:
    (folder / "half").touch()
    print("at work", flush=True)
    time.sleep(60)
"""


@pytest.mark.skipif(files.fcntl is None, reason="needs a system that knows which process has a file open")
def test_what_a_killed_writer_left_goes_with_the_next_and_not_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "CLAIMED_AFTER", 0.0)
    writer = subprocess.Popen([sys.executable, "-c", WRITER, tmp_path / "x"], stdout=subprocess.PIPE)
    assert writer.stdout is not None and writer.stdout.readline() == b"at work\n"
    at_work = names(tmp_path)
    assert len(at_work) == 2 and all(name.endswith(files.TEMPORARY) for name in at_work)
    for name in at_work:
        os.utime(tmp_path / name, (0, 0))  # as after hours of work
    files.remove_leftovers(tmp_path, older_than=0)
    assert names(tmp_path) == at_work
    writer.kill()
    writer.communicate()
    with files.temporary_folder(tmp_path / "y") as folder:
        assert list(tmp_path.iterdir()) == [folder]
    assert names(tmp_path) == []


@pytest.mark.parametrize("place", ["{}", "{}/x", "{}/inner/y, line 3"])
def test_an_error_never_names_a_temporary_folder(tmp_path: Path, place: str) -> None:
    """It is gone when the error is read."""
    with (
        pytest.raises(ConfigError) as caught,
        files.temporary_folder(tmp_path / "x") as outer,
        files.temporary_folder(outer / "x") as inner,
    ):
        raise ConfigError("no", where=place.format(inner))
    assert caught.value.where == tmp_path / "x"


@pytest.mark.skipif(files.fcntl is None, reason="needs a folder that can be deleted while it is the current one")
def test_a_folder_that_is_there_and_takes_nothing_need_not_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    for path, says in (("x", "takes no files"), (tmp_path / "gone" / "x", "make the folder first")):
        with pytest.raises(WriteError, match=says):
            files.write_file(path, "text")
        with pytest.raises(WriteError, match=says), files.temporary_folder(Path(path)):
            pass


@pytest.mark.skipif(files.fcntl is None, reason="needs a system with pipes")
def test_a_pipe_with_the_name_of_a_temporary_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / f".x.{files._machine()}.1{files.TEMPORARY}")
    with files.temporary_folder(tmp_path / "x"):
        pass


def test_where_the_system_does_not_tell_a_day_decides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "fcntl", None)
    leftover = tmp_path / f".x.1{files.TEMPORARY}"
    leftover.touch()
    os.utime(leftover, (time.time() - 4 * 3600, time.time() - 4 * 3600))  # as in an export to int8
    with files.temporary_folder(tmp_path / "x"):
        assert leftover.exists()
    os.utime(leftover, (0, 0))
    with files.temporary_folder(tmp_path / "x"):
        assert not leftover.exists()


@pytest.mark.parametrize("name", [".x.0123abcd.1{}", ".x.1{}", ".1{}", ".{}"])
def test_work_of_another_machine_is_left_alone_for_a_day(tmp_path: Path, name: str) -> None:
    """On a shared disk its lock may not be seen here, and names from before this rule say no machine."""
    at_work = tmp_path / name.format(files.TEMPORARY)
    at_work.mkdir()
    (at_work / "work").touch()
    os.utime(at_work, (time.time() - 4 * 3600,) * 2)
    with files.temporary_folder(tmp_path / "x"):
        assert (at_work / "work").exists()
    os.utime(at_work, (time.time() - files.ABANDONED_AFTER - 1,) * 2)
    with files.temporary_folder(tmp_path / "x"):
        assert not at_work.exists()


def test_the_page_about_files_says_after_how_long_they_are_deleted() -> None:
    page = (Path(__file__).parents[2] / "docs" / "files.md").read_text()
    assert f"deleted {files.ABANDONED_AFTER / 3600:.0f} hours after its last change" in page


def test_a_folder_has_one_writer_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "CLAIMED_AFTER", 0.0)
    folder = tmp_path / "a" / "b"
    with files.only_writer(folder):
        (folder / "x").touch()
        with pytest.raises(ConfigError, match="another process is writing into this folder"), files.only_writer(folder):
            pass
    with pytest.raises(KeyError), files.only_writer(folder):
        raise KeyError
    with files.only_writer(folder):
        assert names(folder) == ["x"]


def test_a_folder_that_its_writer_leaves_empty_goes_again(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for folder in (tmp_path / "a" / "b", tmp_path / "file" / "c", tmp_path / ("x" * 300)):
        with files.only_writer(folder):
            pass
    assert names(tmp_path) == ["file"]
