"""What the words of a batch stand for: any mixture of them gives each picture once, in order, and nothing else."""

import contextlib
import io
import math
import os
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from functools import partial
from itertools import count
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet
import pytest
from fsspec.asyn import AsyncFileSystem
from fsspec.implementations.memory import MemoryFileSystem
from hypothesis import given, settings
from hypothesis import strategies as st

from batches_of_pictures import batch, changed, command, jpeg, with_memory, with_storage, write_tar
from onestage.cli.main import main
from onestage.data.files import matches
from onestage.errors import ConfigError, DataError
from onestage.images import decode_image
from onestage.parts import Part
from onestage.scale import reading
from onestage.scale.inputs import Listed, expanded, pictures_of
from onestage.scale.listing import Summary, read_shard, write_listing
from onestage.scale.reading import stored

_numbers = count()


def content_of(picture: Listed) -> bytes:
    """The bytes of a picture, as the decoder gets them."""
    place = stored(picture)
    return place.read() if isinstance(place, Part) else Path(place).read_bytes()


def listed(words: Sequence[str], root: Path, shard_size: int = 4) -> tuple[Summary, list[Listed]]:
    """The list that is written for these words, as it is read back, and what was noted of it."""
    path = root / "pictures.parquet"
    summary = write_listing(path, partial(pictures_of, words, results=root / "found", note=pytest.fail), shard_size)
    shards = [read_shard(path, shard) for shard in range(summary.shards)]
    assert [len(shard) for shard in shards[:-1]] == [shard_size] * (summary.shards - 1)
    return summary, [picture for shard in shards for picture in shard]


def files(folder: Path, contents: Sequence[bytes]) -> list[Path]:
    """Files with these contents, the last of three in a subfolder each: their order is that of a folder."""
    names = [f"{number:03d}.jpg" for number in range(len(contents))]
    below = [f"sub/{name}" if number % 3 == 2 else name for number, name in enumerate(names)]
    ordered = sorted(below, key=lambda name: (name.startswith("sub/"), name))
    for name, content in zip(ordered, contents, strict=True):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return [folder / name for name in ordered]


def as_folder(root: Path, contents: Sequence[bytes]) -> str:
    files(root / "folder", contents)
    (root / "folder" / "notes.md").write_text("no picture")
    (root / "folder" / ".hidden.jpg").write_bytes(b"hidden")
    return str(root / "folder")


def as_glob(root: Path, contents: Sequence[bytes]) -> str:
    for number, content in enumerate(contents):
        (root / f"{number:03d}.png").write_bytes(content)
    return f"{root}/*.png"


def as_text(root: Path, contents: Sequence[bytes]) -> str:
    """Lines with and without the folder, empty ones, and both kinds of ends."""
    lines = [str(path) if path.name > "001" else str(path.relative_to(root)) for path in files(root / "photos", contents)]
    (root / "list.txt").write_bytes(b"\r\n\n".join(map(os.fsencode, lines)))
    return str(root / "list.txt")


def as_table(root: Path, contents: Sequence[bytes]) -> str:
    rows = [f'"{path}";{number}' for number, path in enumerate(files(root / "photos, more", contents))]
    (root / "list.csv").write_text("\n".join(["Path;width", *rows]) + "\n")
    return str(root / "list.csv")


def as_parquet(root: Path, contents: Sequence[bytes]) -> str:
    paths = [str(path.relative_to(root)) for path in files(root / "photos", contents)]
    table = pa.table({"id": [f"{root.name}:{path}" for path in paths], "file_name": paths})
    pyarrow.parquet.write_table(table, root / "list.parquet", row_group_size=2)
    return str(root / "list.parquet")


def as_rows(root: Path, contents: Sequence[bytes]) -> str:
    table = pa.table({"image": pa.array(contents, pa.binary()), "label": [0] * len(contents)})
    pyarrow.parquet.write_table(table, root / "pictures.parquet", row_group_size=2)
    return str(root / "pictures.parquet")


def as_tars(root: Path, contents: Sequence[bytes]) -> str:
    """Two tar files with annotations between the pictures, named by a range."""
    half = len(contents) // 2
    for number, held in enumerate((contents[:half], contents[half:])):
        pairs = [(f"{place:03d}", content) for place, content in enumerate(held)]
        members = {name + end: data for name, content in pairs for end, data in ((".json", b"{}"), (".jpg", content))}
        write_tar(root / f"train-{number:02d}.tar", members)
    return f"{root}/train-{{00..01}}.tar" if half else f"{root}/train-01.tar"


def as_tars_of_folder(root: Path, contents: Sequence[bytes]) -> str:
    (root / "shards").mkdir()
    write_tar(root / "shards" / "a.tar", {f"./{number}.jpg": content for number, content in enumerate(contents[:10])})
    return str(root / "shards")


def as_picture(root: Path, contents: Sequence[bytes]) -> str:
    """A file whose name does not say that it is a picture; the rest of the contents has no place there."""
    (root / "scan[1].original").write_bytes(contents[0])
    return str(root / "scan[1].original")


def as_address(root: Path, contents: Sequence[bytes]) -> str:
    storage = fsspec.filesystem("memory")
    for number, content in enumerate(contents):
        storage.pipe(f"/{root.name}/{number:03d}.jpg", content)
    return f"memory://{root.name}"


def as_remote_tar(root: Path, contents: Sequence[bytes]) -> str:
    place = write_tar(root / "one.tar", {f"{number:03d}.jpg": content for number, content in enumerate(contents)})
    fsspec.filesystem("memory").pipe(f"/{root.name}/one.tar", place.read_bytes())
    return f"memory://{root.name}/one.tar"


def as_file_address(root: Path, contents: Sequence[bytes]) -> str:
    return f"file://{as_folder(root, contents)}"


def as_list_of_addresses(root: Path, contents: Sequence[bytes]) -> str:
    address = as_address(root, contents)
    names = [f"{address}/{number:03d}.jpg" for number in range(len(contents))]
    (root / "addresses.txt").write_text("\n".join(names))
    return str(root / "addresses.txt")


KINDS: list[Callable[[Path, Sequence[bytes]], str]] = [
    as_folder,
    as_glob,
    as_text,
    as_table,
    as_parquet,
    as_rows,
    as_tars,
    as_tars_of_folder,
    as_picture,
    as_address,
    as_remote_tar,
    as_file_address,
    as_list_of_addresses,
]


class Net(AsyncFileSystem):
    """Storage that waits for a network in a thread, as those of s3://, gs:// and https:// do; they refuse to work in a fork."""

    protocol = "net"

    async def _info(self, path: str, **_: object) -> dict[str, object]:
        return {"name": path, "size": len(jpeg(1)), "type": "file"}

    async def _cat_file(self, path: str, start: int | None = None, end: int | None = None, **_: object) -> bytes:
        return jpeg(1)[start:end]


def test_storage_that_no_fork_may_use(model: Path, tmp_path: Path) -> None:
    """A process asks it for the pictures, and others, here its forks, fetch them."""
    words = [f"net://host/{number}.jpg" for number in range(6)]
    arguments = command(words, tmp_path / "found", model, "--workers", "2")
    code, said = changed(partial(with_storage, {"net": Net}), arguments, tmp_path / "log")
    assert code == 0, said
    assert len(pyarrow.parquet.read_table(tmp_path / "found")) == 6


@pytest.fixture
def memory() -> Iterator[None]:
    """Nothing stays in fsspec's storage in memory."""
    yield
    fsspec.filesystem("memory").store.clear()


@given(
    kinds=st.lists(st.tuples(st.sampled_from(KINDS), st.integers(1, 9)), min_size=1, max_size=6),
    again=st.lists(st.integers(0, 5), max_size=3),
    shard_size=st.integers(1, 7),
)
@settings(max_examples=25)
def test_any_mixture_gives_each_picture_once(
    kinds: list[tuple[Callable[[Path, Sequence[bytes]], str], int]], again: list[int], shard_size: int
) -> None:
    """again: words that are given a second time."""
    with tempfile.TemporaryDirectory() as place:
        words, wanted = list[str](), list[list[bytes]]()
        for kind, pictures in kinds:
            root = Path(place) / f"{next(_numbers)}"
            root.mkdir()
            contents = [f"{root.name} {number}".encode() for number in range(1 if kind is as_picture else pictures)]
            words.append(kind(root, contents))
            wanted.append(contents)
        repeated = [number for number in again if number < len(kinds)]
        words += [words[number] for number in repeated]
        summary, found = listed(words, Path(place), shard_size)
        assert [content_of(picture) for picture in found] == [content for contents in wanted for content in contents]
        assert len({picture.id for picture in found}) == len(found) == summary.pictures
        assert summary.shards == math.ceil(len(found) / shard_size)
        assert summary.repeated == sum(len(wanted[number]) for number in repeated)
        assert listed(words, Path(place), shard_size)[0] == summary
    fsspec.filesystem("memory").store.clear()


@pytest.mark.parametrize("kind", KINDS)
def test_the_ids_of_a_word_that_stands_alone_are_short(kind, tmp_path: Path, memory: None) -> None:
    _, found = listed([kind(tmp_path, [b"0", b"1"][: 1 if kind is as_picture else 2])], tmp_path)
    lists = (as_text, as_glob, as_table, as_list_of_addresses, as_tars)
    assert kind in lists or not any(str(tmp_path) in picture.id for picture in found)


def test_every_kind_gives_the_same_rows(model: Path, tmp_path: Path, memory: None) -> None:
    """The command with all of them at once: each kind has the same three pictures, one of them broken."""
    contents = [jpeg(1), jpeg(2)[:300], jpeg(3)]
    words = []
    for number, kind in enumerate(kind for kind in KINDS if kind is not as_picture):
        (tmp_path / f"{number}").mkdir()
        words.append(kind(tmp_path / f"{number}", contents))
    stored_there = {path: file.getvalue() for path, file in fsspec.filesystem("memory").store.items()}
    arguments = command(words, tmp_path / "found", model, "--batch-size", "3", "--shard-size", "3")
    code, said = changed(partial(with_memory, stored_there), arguments, tmp_path / "log")
    assert code == 1, said
    rows = pyarrow.parquet.read_table(tmp_path / "found").to_pylist()
    assert len(rows) == 3 * len(words) == len({row["id"] for row in rows})
    first = [(row["status"], row["code"], row["labels"], row["scores"], row["boxes"]) for row in rows[:3]]
    assert [status for status, *_ in first] == ["ok", "error", "ok"]
    for start in range(0, len(rows), 3):
        shown = [(row["status"], row["code"], row["labels"], row["scores"], row["boxes"]) for row in rows[start : start + 3]]
        assert shown == first, rows[start]["path"]


def test_pictures_of_a_list_that_are_not_there_are_failures(model: Path, tmp_path: Path) -> None:
    (tmp_path / "1.jpg").write_bytes(jpeg(1))
    (tmp_path / "pipe.jpg").mkdir()
    (tmp_path / "list.txt").write_text("gone.jpg\n1.jpg\n../nowhere/2.jpg\npipe.jpg\nmemory://no/such.jpg\nnosuch://a/b.jpg\n")
    assert batch(tmp_path / "list.txt", tmp_path / "found", model) == 1
    rows = pyarrow.parquet.read_table(tmp_path / "found").to_pylist()
    assert [row["code"] for row in rows] == ["missing", None, "missing", "unreadable", "missing", "unreachable"]
    assert all(row["message"] for row in rows if row["code"])


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("empty", None, "no pictures in this folder"),
        ("list.txt", b"", "this list names no pictures"),
        ("list.txt", b"\n \n\r\n", "this list names no pictures"),
        ("list.csv", b"path,id\n", "this list names no pictures"),
        ("list.csv", b"width,height\n3,4\n", "no column of this list holds paths"),
        ("list.csv", b"path,id\na.jpg\n", "a row has too few columns"),
        ("list.txt", b"\xff\xd8\xff\0\0", "this is no list of pictures"),
        ("list.parquet", b"PAR1", "this Parquet file is cut off or damaged"),
        ("a.tar", b"", "this tar is empty"),
        ("a.tar", bytes(1024), "no member of this tar file is a picture"),
        ("a.tar.gz", b"\x1f\x8b", "a compressed archive is not read"),
        ("*.webp", None, "no picture matches"),
        ("nothing", None, "there is no"),
        ("train-{5..3}.tar", None, "a range of numbers in a name is not understood"),
    ],
)
def test_an_input_without_pictures_is_refused(name: str, content: bytes | None, said: str, model, tmp_path, capsys) -> None:
    place = tmp_path / "in" / name
    place.parent.mkdir()
    if name == "empty":
        place.mkdir()
    elif content is not None:
        place.write_bytes(content)
    assert batch(place, tmp_path / "found", model) == 2
    told = capsys.readouterr().err
    assert said in told and str(place) in told and "Traceback" not in told
    assert not (tmp_path / "found" / "_batch" / "manifest.json").exists()


def test_of_pictures_with_one_id_the_first_is_taken(model: Path, tmp_path: Path, capsys) -> None:
    for number in range(5):
        (tmp_path / f"{number}.jpg").write_bytes(jpeg(number))
    (tmp_path / "list.csv").write_text("id,path\n7,0.jpg\n8,1.jpg\n7,2.jpg\n7,0.jpg\n8,3.jpg\n9,4.jpg\n")
    assert batch(tmp_path / "list.csv", tmp_path / "found", model) == 0
    rows = pyarrow.parquet.read_table(tmp_path / "found").to_pylist()
    assert [(row["id"], Path(row["path"]).name) for row in rows] == [("7", "0.jpg"), ("8", "1.jpg"), ("9", "4.jpg")]
    told = capsys.readouterr().err
    assert f"2 pictures left out, because another one before has the same id: 7 ({tmp_path}/2.jpg), for example" in told
    assert "1 picture named twice" in told


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 2)), max_size=30), st.integers(1, 7))
def test_ids_are_counted_as_a_dictionary_would(named: list[tuple[int, int]], shard_size: int) -> None:
    """named: the id and the place of each picture."""
    pictures = [Listed(f"{id}", f"/{place}.jpg", f"/{place}.jpg", 0, 9, 9, 1) for id, place in named]
    first, repeated, clashes = dict[str, Listed](), 0, 0
    for picture in pictures:
        known = first.setdefault(picture.id, picture)
        repeated += known is not picture and known == picture
        clashes += known != picture
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "pictures.parquet"
        summary = write_listing(path, lambda: pictures, shard_size)
        found = [picture for shard in range(summary.shards) for picture in read_shard(path, shard)]
    assert found == [*first.values()] and (summary.repeated, summary.clashes) == (repeated, clashes)


def test_members_of_one_name_in_a_tar(model: Path, tmp_path: Path, capsys) -> None:
    """Programs that add to a tar replace members in this way; the rest of the batch goes on."""
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for number, name in enumerate(["0.jpg", "1.jpg", "0.jpg", "2.jpg"]):
            info = tarfile.TarInfo(name)
            info.size = len(jpeg(number))
            tar.addfile(info, io.BytesIO(jpeg(number)))
    assert batch(tmp_path / "a.tar", tmp_path / "found", model) == 0
    assert [row["id"] for row in pyarrow.parquet.read_table(tmp_path / "found").to_pylist()] == [
        f"a.tar/{number}.jpg" for number in range(3)
    ]
    assert "1 picture left out, because another one before has the same id: a.tar/0.jpg" in capsys.readouterr().err


def test_paths_that_cannot_be_looked_at_are_rows(model: Path, tmp_path: Path) -> None:
    """One odd line in a list of millions does not end the batch before it begins."""
    (tmp_path / "1.jpg").write_bytes(jpeg(1))
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    odd = ["x" * 5000 + ".jpg", "loop/2.jpg", "1.jpg/3.jpg"]
    (tmp_path / "list.txt").write_text("\n".join(["1.jpg", *odd]))
    assert batch(tmp_path / "list.txt", tmp_path / "found", model) == 1
    found = pyarrow.parquet.read_table(tmp_path / "found").to_pylist()
    assert [(row["id"], row["status"]) for row in found] == [("1.jpg", "ok"), *((name, "error") for name in odd)]


@pytest.mark.parametrize("damage", ["no tar", "cut at once", "gone"])
def test_a_broken_tar_among_others_is_told_and_does_not_end_the_batch(damage: str, tmp_path: Path) -> None:
    (tmp_path / "shards").mkdir()
    for name in "ab":
        write_tar(tmp_path / "shards" / f"{name}.tar", {f"{name}.jpg": jpeg(1)})
    broken = tmp_path / "shards" / "b.tar"
    broken.write_bytes(b"these are words" * 99 if damage == "no tar" else broken.read_bytes()[:600])
    if damage == "gone":
        broken.unlink()
        broken.symlink_to(tmp_path / "nowhere")
    for word in (f"{tmp_path}/shards", f"{tmp_path}/shards/*.tar")[: 1 if damage == "gone" else 2]:
        told = list[str]()
        found = [*pictures_of([word], results=tmp_path / "found", note=told.append)]
        assert [Path(picture.id).name for picture in found] == ["a.jpg"]
        assert len(told) == 1 and str(broken) in told[0] and told[0].endswith("no picture of it is taken")
    with pytest.raises(DataError):
        listed([str(broken)], tmp_path)


def test_a_name_is_a_picture_before_it_is_a_pattern(tmp_path: Path) -> None:
    for name in ("a[1].jpg", "a1.jpg", "{1..2}.jpg"):
        (tmp_path / name).write_bytes(name.encode())
    for name in ("a[1].jpg", "{1..2}.jpg"):
        _, found = listed([str(tmp_path / name)], tmp_path)
        assert [content_of(picture) for picture in found] == [name.encode()]


@pytest.mark.parametrize(
    ("word", "names"),
    [
        ("a{08..10}.tar", ["a08.tar", "a09.tar", "a10.tar"]),
        ("{0..1}/{2..3}", ["0/2", "0/3", "1/2", "1/3"]),
        ("a{1..1}", ["a1"]),
        ("a{1,2}", ["a{1,2}"]),
    ],
)
def test_ranges(word: str, names: list[str]) -> None:
    assert expanded(word) == names


def test_results_inside_the_input_are_passed_over(tmp_path: Path) -> None:
    (tmp_path / "1.jpg").write_bytes(b"1")
    (tmp_path / "found").mkdir()
    (tmp_path / "found" / "contact-sheet.jpg").write_bytes(b"2")
    _, found = listed([str(tmp_path)], tmp_path)
    assert [picture.id for picture in found] == ["1.jpg"]


GLOBS = ["*", "**", "**/*", "**/*.jpg", "*/*.jpg", "found*", "f*/**/*.jpg", "**/*.parquet", "*/*.parquet"]


@pytest.fixture(scope="module")
def with_results(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of pictures, and the results of two batches on them. Nothing comes into it after that."""
    folder = tmp_path_factory.mktemp("with_results")
    for name in ("1.jpg", "sub/2.jpg", "found pictures/3.jpg"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(jpeg(1))
    with contextlib.chdir(folder):
        for out in ("found", "former"):
            assert batch([".", "sub"], Path(out), model) == 0
            assert main(["batch", "report", out, "--pictures", "2"]) == 0
            assert (folder / out / "_report" / "contact-sheet.jpg").exists()
    return folder


@pytest.mark.parametrize("word", GLOBS)
def test_globs_pass_over_the_results(word: str, with_results: Path, monkeypatch) -> None:
    """Of this batch and of others: there are lists in them, and a contact sheet."""
    monkeypatch.chdir(with_results)
    told = list[str]()
    usual = [path for path in matches(word) if "_batch" not in path and not path.startswith(("found/", "former/"))]
    wanted = {
        os.path.realpath(place)
        for path in map(Path, usual)
        for place in (path.rglob("*.jpg") if path.is_dir() else [path])
        if path.name not in ("found", "former") and "_report" not in place.parts
    }
    try:
        found = [*pictures_of([word], results=Path("found"), note=told.append)]
    except DataError as error:
        assert error.what == "no picture matches"
        found = []
    assert {os.path.realpath(picture.address) for picture in found} == wanted
    fits_none = word in ("found*", "*/*.jpg")
    assert told == ([] if fits_none else ["the results of other batches are passed over: former"])


def test_no_result_is_an_input_of_the_same_batch_again(with_results: Path, model: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(with_results)
    assert batch([".", "sub"], Path("found"), model) == 0, capsys.readouterr().err  # nothing came


def test_the_folder_of_results_is_no_input(model: Path, tmp_path: Path, capsys) -> None:
    (tmp_path / "1.jpg").write_bytes(jpeg(1))
    assert batch(tmp_path / "1.jpg", tmp_path / "found", model) == 0
    assert main(["batch", "report", str(tmp_path / "found")]) == 0
    for out in ("found", "other"):
        assert batch(tmp_path / "found", tmp_path / out, model) == 2
        assert "no pictures in this folder" in capsys.readouterr().err


def test_links_in_circles_end(tmp_path: Path) -> None:
    """A glob follows links once on the way down; a folder follows none, and says so."""
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "1.jpg").write_bytes(b"1")
    (tmp_path / "a" / "2.jpg").write_bytes(b"2")
    (tmp_path / "a" / "b" / "loop").symlink_to(tmp_path / "a")
    (tmp_path / "a" / "loop").symlink_to(tmp_path)
    (tmp_path / "far").mkdir()
    (tmp_path / "far" / "3.jpg").write_bytes(b"3")
    told = list[str]()
    found = [*pictures_of([f"{tmp_path}/a"], results=tmp_path / "found", note=told.append)]
    assert [picture.id for picture in found] == ["2.jpg", "b/1.jpg"]
    assert told == [
        f"what lies behind 2 links to folders is not taken, such as {tmp_path}/a/loop: "
        "name it as a folder if its pictures are meant"
    ]
    globbed = [*pictures_of([f"{tmp_path}/**/*.jpg"], results=tmp_path / "found", note=pytest.fail)]
    names = [picture.id.removeprefix(f"{tmp_path}/") for picture in globbed]
    assert {"a/2.jpg", "a/b/1.jpg", "far/3.jpg"} <= set(names) and len(names) < 10


SECRET = "hunter2"


class Locked(Net):
    """Storage that wants a password or a signature."""

    protocol = "locked"

    async def _ls(self, path: str, detail: bool = True, **_: object) -> list[dict[str, object]]:
        raise NotADirectoryError(path)

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return path

    async def _info(self, path: str, **_: object) -> dict[str, object]:
        if SECRET not in path:
            raise PermissionError(f"401 for {path}")
        return {"name": path, "size": len(jpeg(1)), "type": "file"}

    async def _cat_file(self, path: str, start: int | None = None, end: int | None = None, **_: object) -> bytes:
        await self._info(path)
        return jpeg(1)[start:end]


def test_no_password_is_shown_or_kept(model: Path, tmp_path: Path, capsys) -> None:
    """Words and lists may have them; the processes need them, and the next command gets them again."""
    locked, log = partial(with_storage, {"locked": Locked}), tmp_path / "log"
    signed = [f"locked://host/{name}?X-Amz-Signature={SECRET}{name}" for name in ("1.jpg", "2.jpg")]
    same = [f"locked://host/get?key={SECRET}{name}" for name in "ab"]
    (tmp_path / "list.txt").write_text("\n".join([*signed, *same, f"locked://me:no-{SECRET[:4]}@host/3.jpg"]))
    words, out = [f"locked://me:{SECRET}@host/0.jpg", str(tmp_path / "list.txt")], tmp_path / "found"
    code, said = changed(locked, command(words, out, model, "--workers", "2"), log)
    assert code == 1, said
    rows = pyarrow.parquet.read_table(out).to_pylist()
    assert [row["id"] for row in rows] == [
        "locked://me:***@host/0.jpg",
        "locked://host/1.jpg?X-Amz-Signature=***#2",
        "locked://host/2.jpg?X-Amz-Signature=***#3",
        "locked://host/get?key=***#4",
        "locked://host/get?key=***#5",
        "locked://me:***@host/3.jpg",
    ]
    assert [row["code"] for row in rows] == [None] * 5 + ["unreachable"] and len(rows[0]["scores"]) == 4
    (out / "part-000001.parquet").unlink()
    assert changed(locked, command(words, out, model), log)[0] == 1
    assert main(["batch", "report", str(out)]) == 0
    told = capsys.readouterr()
    held = b"".join(path.read_bytes() for path in out.rglob("*") if path.is_file())
    held += repr(pyarrow.parquet.read_table(out / "_batch" / "pictures.parquet").to_pylist()).encode()
    for text in (told.out, told.err, log.read_text(), held.decode("latin-1"), repr(rows)):
        assert SECRET not in text and f"no-{SECRET[:4]}" not in text
    code, said = changed(locked, command([words[0].replace(SECRET, "forgotten")], tmp_path / "other", model), tmp_path / "more")
    assert code == 2 and "forgotten" not in said and "locked://me:***@host/0.jpg" in said


def test_ids_of_a_list_stay_where_addresses_have_keys(tmp_path: Path) -> None:
    signed = [f"s3://host/{name}?X-Amz-Signature={SECRET}{name}" for name in "ab"]
    (tmp_path / "list.csv").write_text(f"id,url\n7,{signed[0]}\n8,{signed[1]}\n")
    _, found = listed([str(tmp_path / "list.csv")], tmp_path)
    assert [(picture.id, picture.address) for picture in found] == [("7", signed[0]), ("8", signed[1])]
    assert not any(SECRET in picture.path for picture in found) and len({picture.path for picture in found}) == 2


def test_the_file_of_whole_addresses_is_private(tmp_path: Path) -> None:
    path = tmp_path / "pictures.parquet"
    pictures = [
        Listed(f"{n}", f"{n}", f"s3://me:{SECRET}@host/{n}" if n % 3 else f"s3://host/{n}", 0, 1, 1, 0) for n in range(9)
    ]
    summary = write_listing(path, lambda: pictures, 2)
    assert [picture for shard in range(summary.shards) for picture in read_shard(path, shard)] == pictures
    private = tmp_path / ".addresses.parquet"
    assert private.stat().st_mode & 0o077 == 0
    private.unlink()
    shown = [picture.address for shard in range(summary.shards) for picture in read_shard(path, shard)]
    assert shown == [picture.address.replace(SECRET, "***") for picture in pictures]
    pictures = pictures[::3]
    assert write_listing(path, lambda: pictures, 2).pictures == 3 and not private.exists()


def test_keys_of_folders_are_no_passwords(memory: None, tmp_path: Path) -> None:
    for number in range(2):
        fsspec.filesystem("memory").pipe(f"/data/key={number}/a.jpg", b"1")
    _, found = listed(["memory://data"], tmp_path)
    assert [picture.id for picture in found] == ["key=0/a.jpg", "key=1/a.jpg"]
    assert [picture.path for picture in found] == ["memory:///data/key=0/a.jpg", "memory:///data/key=1/a.jpg"]


@pytest.mark.parametrize("change", ["another of the same size", "cut", "gone", "a tar"])
def test_a_file_that_was_replaced_is_noticed(change: str, memory: None, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(reading, "PAUSE", 0.0)
    storage, content = fsspec.filesystem("memory"), jpeg(1)
    if change == "a tar":
        content = write_tar(tmp_path / "a.tar", {"1.jpg": content}).read_bytes()
    name = "/data/a.tar" if change == "a tar" else "/data/1.jpg"
    storage.pipe(name, content)
    _, (picture,) = listed(["memory://data"], tmp_path)
    assert stored(picture).read() == jpeg(1)
    monkeypatch.setattr(reading, "_kept", reading._Kept())
    storage.rm(name)
    if change != "gone":
        storage.pipe(name, content[:-100] if change == "cut" else content)
        storage.store[name].created += timedelta(seconds=1)
    with pytest.raises(DataError) as raised:
        stored(picture).read()
    assert raised.value.code == ("missing" if change == "gone" else "changed")


def fetched_before(place: Path, patch: pytest.MonkeyPatch) -> None:
    """A list of one picture, which another one takes the place of after it was fetched."""
    storage = fsspec.filesystem("memory")
    storage.pipe("/data/1.jpg", b"no picture")
    (place / "list.txt").write_text("memory://data/1.jpg\n")
    _, (picture,) = listed([str(place / "list.txt")], place)
    assert stored(picture).read() == b"no picture"
    storage.pipe("/data/1.jpg", jpeg(1))


def test_what_was_fetched_before_is_not_decoded(model: Path, tmp_path: Path) -> None:
    """Of a list of addresses nothing is asked, so no stamp would tell that what lies there now is another picture."""
    arguments = command(tmp_path / "list.txt", tmp_path / "found", model)
    code, said = changed(partial(fetched_before, tmp_path), arguments, tmp_path / "log")
    assert code == 0, said


def test_a_picture_is_fetched_once_for_header_and_pixels(memory: None, tmp_path: Path, monkeypatch) -> None:
    fsspec.filesystem("memory").pipe("/data/1.jpg", jpeg(1))
    _, (picture,) = listed(["memory://data"], tmp_path)
    monkeypatch.setattr(reading, "_kept", reading._Kept())
    fetched, inner = list[str](), reading.Fetched._fetch
    monkeypatch.setattr(reading.Fetched, "_fetch", lambda self: (fetched.append(self.path), inner(self))[1])
    assert decode_image(stored(picture)).shape == decode_image(stored(picture)).shape
    assert len(fetched) == 1 and reading._kept._size == 0 == len(reading._kept._contents)


def test_storage_that_says_more_of_one_file_than_of_a_folder(memory: None, tmp_path: Path, monkeypatch) -> None:
    """Any of its stamps may be the one of the list."""
    fsspec.filesystem("memory").pipe("/data/1.jpg", jpeg(1))
    _, (picture,) = listed(["memory://data"], tmp_path)
    inner = MemoryFileSystem.info
    monkeypatch.setattr(MemoryFileSystem, "info", lambda self, path, **more: inner(self, path, **more) | {"ETag": "abc"})
    assert stored(picture).read() == jpeg(1)


def test_a_table_of_one_column_needs_a_heading_that_is_known(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("image_name\na.jpg\n")
    with pytest.raises(DataError, match="no column of this list holds paths"):
        listed([str(tmp_path / "list.csv")], tmp_path)
    (tmp_path / "list.csv").write_text("a.jpg\nb.jpg\n")
    assert [picture.id for picture in listed([str(tmp_path / "list.csv")], tmp_path)[1]] == ["a.jpg", "b.jpg"]


def test_storage_without_its_package_is_said(tmp_path: Path) -> None:
    with pytest.raises((ConfigError, DataError), match=r"not installed|not understood"):
        listed(["nosuch://bucket/photos"], tmp_path)
