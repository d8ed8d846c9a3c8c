"""Tars: their members, by the standard library as reference; and those that are cut off, damaged or hostile."""

import io
import tarfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onestage.errors import DataError
from onestage.images import decode_image, decoding_cost, image_size, picture_bytes
from onestage.parts import located
from onestage.tars import Member, members
from shards import picture, tar


def read(content: bytes) -> list[Member]:
    return list(members(io.BytesIO(content), len(content)))


def archive(files: dict[str, bytes], form: int) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=form) as made:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            made.addfile(entry, io.BytesIO(content))
    return file.getvalue()


NAMES = st.text(st.characters(max_codepoint=0x2FF, exclude_characters="\0/"), min_size=1, max_size=120)


@settings(max_examples=40)
@given(st.dictionaries(NAMES, st.binary(max_size=1200), max_size=6), st.sampled_from([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT]))
def test_members_are_those_that_the_standard_library_wrote(files: dict[str, bytes], form: int) -> None:
    content = archive(files, form)
    found = read(content)
    assert {m.name: content[m.offset : m.offset + m.size] for m in found} == files
    assert all(m.kind == "file" for m in found)


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_long_names_are_read_in_all_forms(form: int) -> None:
    name = f"{'a' * 90}/{'b' * 90}.jpg"
    assert [m.name for m in read(archive({name: b"x"}, form))] == [name]


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_a_tar_that_is_cut_anywhere_is_never_taken_for_a_whole_one(form: int) -> None:
    content = archive({f"{i}.jpg": bytes(300 * i) for i in range(5)} | {"ü" * 120: b"12"}, form)
    end = content.rindex(b"12") + 510
    for length in [*range(0, end, 61), end]:
        with pytest.raises(DataError, match=r"cut off|empty"):
            read(content[:length])
    assert len(read(content)) == 6


@given(st.integers(0, 1999), st.integers(1, 255))
def test_a_changed_byte_is_an_error_or_changes_one_member_only(at: int, by: int) -> None:
    content = bytearray(archive({"a.jpg": b"1" * 600, "b.jpg": b"2" * 300}, tarfile.USTAR_FORMAT))
    content[at] = (content[at] + by) % 256
    try:
        assert [m[:3] for m in read(bytes(content))] == [("a.jpg", 512, 600), ("b.jpg", 2048, 300)]
    except DataError as error:
        assert error.fix


def test_what_is_no_plain_file_is_named_and_has_no_content() -> None:
    kinds = {
        tarfile.SYMTYPE: "a symbolic link",
        tarfile.LNKTYPE: "a hard link",
        tarfile.CHRTYPE: "a device",
        tarfile.FIFOTYPE: "a pipe",
        tarfile.DIRTYPE: "folder",
        b"S": "a sparse file",
        b"Z": "of an unknown kind",
    }
    for flag, kind in kinds.items():
        entry = tarfile.TarInfo("a.jpg")
        entry.type = flag
        content = entry.tobuf(tarfile.GNU_FORMAT) + bytes(1024)
        assert read(content) == [Member(read(content)[0].name, 512, 0, kind)]


@pytest.mark.parametrize(("begin", "kind"), [(b"\x1f\x8b\x08", "gzip"), (b"\x28\xb5\x2f\xfd", "zstd"), (b"BZh9", "bzip2")])
def test_a_compressed_tar_is_refused(begin: bytes, kind: str) -> None:
    with pytest.raises(DataError, match=f"compressed with {kind}"):
        read(begin + bytes(5000))


def test_a_second_tar_behind_the_first_is_not_lost_in_silence() -> None:
    one = archive({"a.jpg": b"1"}, tarfile.USTAR_FORMAT)
    with pytest.raises(DataError, match="something follows the end"):
        read(one + one)


@pytest.mark.parametrize("size", [b"77777777777\0", b"\x80" + b"\xff" * 11, b"-0000000012\0", b"zz\0"])
def test_absurd_sizes_are_an_error(size: bytes) -> None:
    header = bytearray(tarfile.TarInfo("a.jpg").tobuf(tarfile.USTAR_FORMAT))
    header[124:136] = size.ljust(12, b"\0")
    header[148:156] = b"%06o\0 " % (sum(header[:148]) + sum(header[156:]) + 256)
    with pytest.raises(DataError, match=r"cut off|damaged"):
        read(bytes(header) + bytes(1024))


def test_a_header_of_many_megabytes_is_refused() -> None:
    entry = tarfile.TarInfo("././@LongLink")
    entry.type, entry.size = b"L", 2 * 2**20
    with pytest.raises(DataError, match="too long"):
        read(entry.tobuf(tarfile.GNU_FORMAT) + bytes(2**22))


def test_a_picture_in_a_tar_is_read_by_its_path_as_a_file_is(tmp_path: Path) -> None:
    content = picture(7)
    file = tar(tmp_path / "x.tar", [("sub/a.png", content), ("b.txt", b"no picture")])
    (tmp_path / "a.png").write_bytes(content)
    inside = f"{file}/sub/a.png"
    assert picture_bytes(inside) == content
    assert decode_image(inside).equal(decode_image(tmp_path / "a.png"))
    assert image_size(Path(inside)) == (30, 40)
    assert decoding_cost(inside) == decoding_cost(located(inside)) == decoding_cost(tmp_path / "a.png")
    with pytest.raises(DataError, match="not a picture of a known format"):
        decode_image(f"{file}/b.txt")
    for wrong in ("c.png", "sub", "../x.tar"):
        with pytest.raises(DataError, match="no such picture"):
            decode_image(f"{file}/{wrong}")
    with pytest.raises(DataError, match="no such picture"):
        decode_image(f"{tmp_path}/a.png/b.png")


def test_limits_hold_for_pictures_in_a_tar(tmp_path: Path) -> None:
    from onestage.images import ImageLimits

    file = tar(tmp_path / "x.tar", [("a.png", picture()), ("empty.png", b"")])
    with pytest.raises(DataError, match="too large"):
        decode_image(f"{file}/a.png", ImageLimits(max_bytes=50))
    with pytest.raises(DataError, match="too many pixels"):
        decode_image(f"{file}/a.png", ImageLimits(max_side=20))
    with pytest.raises(DataError, match="empty"):
        decode_image(f"{file}/empty.png")


def test_a_tar_that_changed_since_its_place_was_found_is_an_error(tmp_path: Path) -> None:
    file = tar(tmp_path / "x.tar", [("a.png", picture(1))])
    part = located(f"{file}/a.png")
    tar(file, [("0.png", picture(5)), ("a.png", picture(1))])
    with pytest.raises(DataError, match="has changed"):
        decode_image(part)
