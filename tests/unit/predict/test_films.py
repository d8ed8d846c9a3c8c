"""Films: every frame at its time, upright, whatever their sizes, rates and faults; and what hostile files do not do."""

import struct
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from fractions import Fraction
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

from films import CLOCK, SQUARE, Knowing, Scripted, encode, frames, picture, white
from onestage.errors import ConfigError, DataError, LostError
from onestage.images import ImageLimits
from onestage.predict.film_rows import row_of
from onestage.predict.film_writer import LARGEST, FilmWriter, check_films, film_path, may_replace
from onestage.predict.films import FilmFile, turn
from onestage.predict.frames import Dropped, Facts, Fault, Frame, Patience, followed
from onestage.predict.live import Paced, camera_of, is_live_name, open_source, without_password
from onestage.predict.watching import Seen, watch
from onestage.structures import Detections


def read(path: Path, **options: int) -> list[Frame | Fault]:
    return [*followed(FilmFile(path), **options)]  # type: ignore[arg-type]


def watched(path: Path, out: Path) -> list[Seen | Fault]:
    """What is seen in a film by a looker that finds the white square, drawn into another film."""
    source, seen = FilmFile(path), list[Seen | Fault]()
    with FilmWriter(out, lambda: source.facts) as writer:
        for item in watch(Knowing(white), followed(source), name=path.name, batch_size=4):  # type: ignore[arg-type]
            seen.append(item)
            if isinstance(item, Seen):
                writer.add(item)
        writer.finish()
    return seen


def only_frames(items: list[Frame | Fault]) -> list[Frame]:
    assert all(isinstance(item, Frame) for item in items), items
    return [item for item in items if isinstance(item, Frame)]


@pytest.mark.parametrize("size", [(96, 128), (97, 129)])
def test_frames_in_and_out_agree_in_number_time_and_pixels(tmp_path: Path, size: tuple[int, int]) -> None:
    odd = size[0] % 2 == 1  # with a colour for each pixel, because x264 writes no odd sizes otherwise
    film = encode(tmp_path / "in.mp4", 14, size=size, pixels="yuv444p" if odd else "yuv420p")
    seen = watched(film, tmp_path / "out.mp4")
    before, after = only_frames(read(film)), only_frames(read(tmp_path / "out.mp4"))
    assert [f.time for f in before] == [f.time for f in after] == [Fraction(n, 30) for n in range(14)]
    assert [f.number for f in before] == [*range(14)]
    for number, (one, other, item) in enumerate(zip(before, after, seen, strict=True)):
        height, width = size
        assert one.pixels.shape == (3, height, width) and other.pixels.shape == (3, height + height % 2, width + width % 2)
        assert isinstance(item, Seen) and len(item.found) == 1
        left = 4 * number % (width - SQUARE)
        assert abs(float(item.found.boxes[0, 0]) - left) <= 2
        assert (one.pixels[:, -9, -9].int() - torch.tensor([30, 30, 220])).abs().max() < 12
        assert (other.pixels[:, height - 9, width - 9].int() - one.pixels[:, -9, -9].int()).abs().max() < 8


def test_a_variable_frame_rate_stays(tmp_path: Path) -> None:
    stamps = np.cumsum([0, *np.random.default_rng(1).integers(900, 40_000, 15)]).tolist()
    film = encode(tmp_path / "in.mp4", 16, stamps=stamps)
    watched(film, tmp_path / "out.mp4")
    times = [stamp * CLOCK for stamp in stamps]
    assert [f.time for f in only_frames(read(film))] == [f.time for f in only_frames(read(tmp_path / "out.mp4"))] == times


@pytest.mark.parametrize("rotation", [90, -90, 180])
def test_a_turned_film_is_seen_and_drawn_upright(tmp_path: Path, rotation: int) -> None:
    film = encode(tmp_path / "in.mp4", 3, rotation=rotation)
    first = only_frames(read(film))[0]
    expected = np.rot90(picture(0), rotation // 90)  # degrees against the clock, as FFmpeg counts
    assert first.pixels.shape[1:] == expected.shape[:2]
    assert np.abs(first.pixels.permute(1, 2, 0).numpy().astype(int) - expected).mean() < 6
    watched(film, tmp_path / "out.mp4")
    drawn = only_frames(read(tmp_path / "out.mp4"))[0]
    assert drawn.pixels.shape == first.pixels.shape  # its rows are turned themselves: nothing is left for the player


def test_every_matrix_of_a_player_is_followed() -> None:
    """By the definition: what is at (x, y) goes to (a x + c y, b x + d y), moved until it begins at 0."""
    rows = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    for matrix in [(1, 0, 0, 1), (-1, 0, 0, 1), (1, 0, 0, -1), (-1, 0, 0, -1)] + [
        (0, b, c, 0) for b in (1, -1) for c in (1, -1)
    ]:
        a, b, c, d = matrix
        places = {(a * x + c * y, b * x + d * y): rows[y, x] for y in range(2) for x in range(3)}
        left, top = min(x for x, _ in places), min(y for _, y in places)
        turned = turn(rows, tuple(65536 * part for part in matrix))  # type: ignore[arg-type]
        for (x, y), pixel in places.items():
            assert turned[y - top, x - left].tolist() == pixel.tolist(), matrix


@pytest.mark.parametrize(("suffix", "codec"), [("mkv", "libx264"), ("ts", "libx264"), ("avi", "mpeg4"), ("webm", "libvpx-vp9")])
def test_other_containers(tmp_path: Path, suffix: str, codec: str) -> None:
    found = only_frames(read(encode(tmp_path / f"in.{suffix}", 6, codec=codec)))
    assert [round(float(f.time), 2) for f in found] == [round(n / 30, 2) for n in range(6)]


def test_every_nth_frame_at_its_time(tmp_path: Path) -> None:
    film = encode(tmp_path / "in.mp4", 10)
    assert [(f.number, f.time) for f in only_frames(read(film, every=3))] == [(n, Fraction(n, 30)) for n in (0, 3, 6, 9)]


def cut(path: Path, part: float) -> Path:
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * part)])
    return path


def test_a_truncated_film_ends_with_a_fault(tmp_path: Path) -> None:
    *found, fault = read(cut(encode(tmp_path / "in.mkv", 90), 0.5))
    assert 10 < len(only_frames(found)) < 80
    assert isinstance(fault, Fault) and "ends before its header says" in str(fault.error)
    with pytest.raises(DataError, match=r"in\.mp4"):  # its index is at the end
        read(cut(encode(tmp_path / "in.mp4", 30), 0.5))


def test_a_broken_frame_is_a_row_and_the_film_goes_on(tmp_path: Path) -> None:
    film = encode(tmp_path / "in.avi", 30, codec="mjpeg", pixels="yuvj420p")
    content = bytearray(film.read_bytes())
    starts = [at for at in range(len(content) - 2) if content[at : at + 3] == b"\xff\xd8\xff"]
    content[starts[10] : starts[11] - 16] = bytes(starts[11] - 16 - starts[10])
    film.write_bytes(content)
    found = read(film)
    assert [item.number for item in found] == [*range(30)]
    assert [item.number for item in found if isinstance(item, Fault)] == [10]
    row = row_of(found[10], "in.avi")  # type: ignore[arg-type]
    assert row["image_id"] == "in.avi#10" and row["error"]["error"] == "DataError"  # type: ignore[index]
    assert all(isinstance(item, Seen | Fault) for item in watched(film, tmp_path / "out.mp4"))
    assert len(only_frames(read(tmp_path / "out.mp4"))) == 29


HOSTILE = {
    "empty.mp4": b"",
    "text.mp4": b"no film\n" * 500,
    "concat.mp4": b"ffconcat version 1.0\nfile secret.mp4\n",
    "hls.mp4": b"#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\nsecret.ts\n#EXT-X-ENDLIST\n",
    "dash.mp4": b'<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static"><Period/></MPD>',
    "sdp.mp4": b"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n",
    "sound.wav": b"RIFF$\0\0\0WAVEfmt \x10\0\0\0\1\0\1\0\x40\x1f\0\0\x80\x3e\0\0\2\0\x10\0data\0\0\0\0",
    "noise.mp4": np.random.default_rng(0).bytes(20_000),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_is_no_film_is_named(tmp_path: Path, name: str) -> None:
    encode(tmp_path / "secret.mp4", 2)
    encode(tmp_path / "secret.ts", 2)
    (tmp_path / name).write_bytes(HOSTILE[name])
    with pytest.raises(DataError) as caught:
        read(tmp_path / name)
    assert caught.value.where == tmp_path / name


@pytest.mark.parametrize("name", ["missing.mp4", "."])
def test_what_cannot_be_opened_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError) as caught:
        read(tmp_path / name)
    assert caught.value.where == tmp_path / name


def test_huge_frames_are_refused_before_memory_is_taken(tmp_path: Path) -> None:
    """Of the header of the film, and of a frame that says another size than it."""
    film = encode(tmp_path / "in.avi", 5, codec="mjpeg", pixels="yuvj420p")
    content = film.read_bytes()
    huge = struct.pack(">HH", 60_000, 60_000)
    film.write_bytes(content.replace(struct.pack(">HH", 96, 128), huge))
    try:
        found = read(film)
    except DataError:
        found = []
    assert not [item for item in found if isinstance(item, Frame)]
    with pytest.raises(DataError, match="too large"):
        [*FilmFile(encode(tmp_path / "in.mp4", 2), limits=ImageLimits(max_side=100)).frames()]


def test_a_header_that_claims_millions_of_frames_is_not_believed(tmp_path: Path) -> None:
    film = encode(tmp_path / "in.avi", 5, codec="mjpeg", pixels="yuvj420p")
    content = bytearray(film.read_bytes())
    at = content.index(b"avih") + 8 + 16
    content[at : at + 4] = struct.pack("<I", 50_000_000)
    at = content.index(b"strh") + 8 + 32
    content[at : at + 4] = struct.pack("<I", 50_000_000)
    film.write_bytes(content)
    source = FilmFile(film)
    *found, fault = followed(source)
    assert source.facts is not None and source.facts.total is not None and source.facts.total > 1_000_000
    assert len(found) == 5 and isinstance(fault, Fault) and "before its header" in str(fault.error)


def test_ctrl_c_leaves_a_playable_film(tmp_path: Path) -> None:
    source = FilmFile(encode(tmp_path / "in.mp4", 20))
    with pytest.raises(KeyboardInterrupt), FilmWriter(tmp_path / "out.mp4", lambda: source.facts) as writer:
        for number, item in enumerate(followed(source)):
            if number == 7:
                raise KeyboardInterrupt
            assert isinstance(item, Frame)
            writer.add(Seen(item, Knowing(white).one(item.pixels, 0.0)))
    assert len(only_frames(read(tmp_path / "out.mp4"))) == 7


def test_an_error_leaves_no_film_and_no_thread(tmp_path: Path) -> None:
    (frame, *_) = frames(1)
    with pytest.raises(ZeroDivisionError), FilmWriter(tmp_path / "out.mp4", lambda: None) as writer:
        writer.add(Seen(frame, Knowing(white).one(frame.pixels, 0.0)))
        raise ZeroDivisionError
    assert [*tmp_path.iterdir()] == []
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("onestage")]


def test_only_drawn_films_are_replaced(tmp_path: Path) -> None:
    film = encode(tmp_path / "in.mp4", 3)
    watched(film, tmp_path / "out.mp4")
    assert may_replace(tmp_path / "out.mp4") and may_replace(tmp_path / "new.mp4") and not may_replace(film)
    assert film_path("a/in.mkv", tmp_path).name == "in.mkv.mp4"
    assert film_path("rtsp://u:***@host:554/a?b=c", tmp_path).name == "u_____host_554_a.mp4"
    for wrong in (film, tmp_path / "out.mp4"):
        pairs = [(str(film), film_path(str(film), tmp_path))] if wrong == film else [("a.mkv", wrong), ("b/a.mkv", wrong)]
        with pytest.raises(DataError, match="drawn film"):
            check_films(pairs)


def test_a_source_that_stalls_is_lost_and_opened_again() -> None:
    stop, pauses = threading.Event(), list[float]()

    def stalls() -> Iterator[Frame]:
        yield from frames(2)
        stop.wait(20)

    def fails() -> Iterator[Frame]:
        raise DataError("no route to the camera")
        yield

    source = Scripted(stalls, fails, lambda: frames(3, first=10), fails)
    found = [*followed(source, patience=Patience(0.5, 10), sleep=pauses.append)]  # the last play is repeated until it is enough
    stop.set()
    assert [item.number for item in found if isinstance(item, Frame)] == [0, 1, 2, 3, 4]
    faults = [str(item.error) for item in found if isinstance(item, Fault)]
    assert "does not answer" in faults[0] and "no route" in faults[1] and "has ended" in faults[2]
    assert pauses == [1.0, 2.0, 1.0, 2.0, 4.0, 8.0]
    times = [item.time for item in found]
    assert times == sorted(times)


def test_a_film_that_stalls_ends_with_a_fault() -> None:
    stop = threading.Event()

    def stalls() -> Iterator[Frame]:
        yield from frames(2)
        stop.wait(20)

    found = [*followed(Scripted(stalls, live=False), patience=Patience(0.2, 60))]
    stop.set()
    assert [type(item) for item in found] == [Frame, Frame, Fault] and isinstance(found[-1].error, LostError)  # type: ignore[union-attr]


def test_a_source_that_cannot_be_opened_is_an_error() -> None:
    def fails() -> Iterator[Frame]:
        raise DataError("no such camera")
        yield

    with pytest.raises(DataError, match="no such camera"):
        next(followed(Scripted(fails)))


def test_old_frames_are_dropped_and_counted_if_the_detector_is_slow() -> None:
    taken, last, dropped = threading.Event(), threading.Event(), Dropped()

    def play() -> Iterator[Frame]:
        for frame in frames(9):
            yield frame
            if frame.number == 0:
                taken.wait(20)
        last.set()
        taken.clear()

    found = followed(Scripted(play, live=False), ahead=1, newest=True, dropped=dropped)
    first = next(found)
    taken.set()
    assert last.wait(20)
    assert (first.number, [item.number for item in found], dropped.count) == (0, [8], 7)


def test_realtime_plays_a_film_at_its_speed() -> None:
    now, pauses = [0.0], list[float]()

    def sleep(seconds: float) -> None:
        pauses.append(seconds)
        now[0] += seconds

    paced = Paced(Scripted(lambda: frames(4, rate=10), live=False), clock=lambda: now[0], sleep=sleep)
    for item in paced.frames():
        now[0] += 0.25 if item.number == 1 else 0.0  # one that takes long: the next ones come at once
    assert [round(pause, 6) for pause in pauses] == [0.1]


@pytest.mark.parametrize("every", [1, 3])
def test_each_frame_is_a_sign_of_life_whether_it_is_looked_at_or_not(tmp_path: Path, every: int) -> None:
    signs: list[None] = []
    film = FilmFile(encode(tmp_path / "in.mp4", 7))
    assert len(only_frames([*film.frames(every=every, alive=lambda: signs.append(None))])) == -(-7 // every)
    assert len(signs) == 7


def test_time_between_frames_that_are_looked_at_is_no_silence() -> None:
    """With --every 500, or a pause in a film that is played at its speed, the next frame may be far away."""

    def slow() -> Iterator[Frame]:
        yield from (frame._replace(time=Fraction(3 * frame.number, 4)) for frame in frames(3))

    paced = Paced(Scripted(slow, live=False))
    assert [type(item) for item in followed(paced, patience=Patience(0.4, 0))] == [Frame] * 3


def test_a_source_that_brings_faults_alone_is_given_up() -> None:
    def broken() -> Iterator[Fault]:
        yield Fault(0, Fraction(0), DataError("a frame cannot be decoded"))

    pauses = list[float]()
    source = Scripted(lambda: frames(2), broken)
    found = [*islice(followed(source, patience=Patience(1, 10), sleep=pauses.append), 100)]
    assert len(found) < 100 and pauses == [1.0, 2.0, 4.0, 8.0]


def test_the_fault_of_a_stream_without_a_frame_has_a_number() -> None:
    (fault,) = followed(Scripted(lambda: frames(0)), patience=Patience(1, 0))
    assert isinstance(fault, Fault) and fault.number == 0


def test_batches_are_small_if_faults_come_before_large_frames() -> None:
    looker = Knowing(white)
    items = [Fault(0, Fraction(0), DataError("a frame cannot be decoded")), *frames(7)]
    assert len([*watch(looker, items, batch_size=8, limit=3 * 8 * 8 * 2)]) == 8  # type: ignore[arg-type]
    assert max(looker.batches) == 2


def test_batches_of_large_frames_are_small() -> None:
    looker = Knowing(white)
    seen = [*watch(looker, frames(7), batch_size=8, limit=3 * 8 * 8 * 2)]  # type: ignore[arg-type]
    assert len(seen) == 7 and looker.batches == [1, 2, 2, 2]


def test_names_of_cameras_and_streams() -> None:
    assert is_live_name("0") and is_live_name("rtsp://host/a") and is_live_name("camera:Front") and not is_live_name("a.mp4")
    assert without_password("rtsp://me:secret@host/a") == "rtsp://me:***@host/a"
    assert without_password("rtsp://me:se@cr:et@host/a@b") == "rtsp://me:***@host/a@b"
    assert without_password("rtsp://host:554/a:b@c") == "rtsp://host:554/a:b@c"
    for text in (
        "rtsp://h/a?user=me&password=***&x=1",
        "https://h/a.mp4?Token=***",
        "rtsp://h/a?access_token=***#b",
        "https://h/a?X-Amz-Credential=***&X-Amz-Signature=***",
        "rtsp://h:554/user=me_password=***_channel=1_stream=0.sdp",
        "rtsp://h/a?pwd=***",
    ):
        assert without_password(text.replace("***", "s_e.c%r+et")) == text
    assert without_password("rtsp://h/keys/a?rate=5") == "rtsp://h/keys/a?rate=5"
    source = open_source("rtsp://me:secret@host/a", silence=1.0)
    assert source.live and "secret" not in source.name
    assert camera_of("1", "linux") == ("/dev/video1", "v4l2") and camera_of("A", "win32") == ("video=A", "dshow")
    assert camera_of("1", "darwin") == ("1", "avfoundation")
    for wrong in ("file:///etc/passwd", "concat://a"):
        with pytest.raises(ConfigError, match="not understood"):
            open_source(wrong, silence=1.0)
    with pytest.raises(ConfigError, match="on Windows"):
        camera_of("0", "win32")


@pytest.mark.slow
def test_a_stream_of_the_network(tmp_path: Path) -> None:
    """MPEG-TS over UDP, on this machine: it is read as it comes."""
    import av

    film, ended = encode(tmp_path / "in.ts", 60), threading.Event()
    address = "udp://127.0.0.1:23571"

    def send() -> None:
        while not ended.is_set():  # again and again, because a receiver hears only what comes later
            with av.open(film) as given, av.open(f"{address}?pkt_size=1316", "w", format="mpegts") as sent:
                out = sent.add_stream_from_template(given.streams.video[0])
                for packet in given.demux(video=0):
                    if packet.dts is not None:
                        packet.stream = out
                        sent.mux(packet)
                        time.sleep(0.005)

    sender = threading.Thread(target=send, daemon=True)
    sender.start()
    source = open_source(address, silence=5.0)
    found = followed(source, patience=Patience(20, 0))
    assert isinstance(next(found), Frame)
    found.close()  # type: ignore[attr-defined]
    ended.set()
    sender.join(10)


@pytest.mark.parametrize("stalls", [False, True])
def test_a_film_on_a_web_server_and_one_that_stalls(tmp_path: Path, stalls: bool) -> None:
    content, ended = encode(tmp_path / "in.ts", 60).read_bytes(), threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            with suppress(OSError):
                self.wfile.write(content[: len(content) // 2] if stalls else content)
                self.wfile.flush()
                ended.wait(20 if stalls else 0)

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        source = open_source(f"http://127.0.0.1:{server.server_port}/in.ts", silence=1.0)
        found = [*followed(source, patience=Patience(20, 60))]
        ended.set()
        server.shutdown()
    count = sum(isinstance(item, Frame) for item in found)
    assert (count < 60) == stalls and count > 10
    assert isinstance(found[-1], Fault) == stalls


@pytest.mark.slow
def test_a_minute_of_film(tmp_path: Path) -> None:
    film = encode(tmp_path / "in.mp4", 1800, size=(240, 320))
    seen = watched(film, tmp_path / "out.mp4")
    before, after = [f.time for f in only_frames(read(film))], [f.time for f in only_frames(read(tmp_path / "out.mp4"))]
    assert before == after == [Fraction(n, 30) for n in range(1800)] and len(seen) == 1800


def test_stamps_that_go_back_begin_anew(tmp_path: Path) -> None:
    film = encode(tmp_path / "in.ts", 6, codec="mpeg2video")
    content = bytearray(film.read_bytes())
    whole = [frame.time for frame in only_frames(read(film))]
    starts = [place for place in range(len(content)) if content[place : place + 4] == b"\0\0\1\xe0"]
    content[starts[2] + 10] ^= 0x40  # a bit of the stamp of one picture: it comes hours later, and the next one goes back
    film.write_bytes(content)
    times = [item.time for item in read(film) if isinstance(item, Frame)]
    assert len(times) == len(whole) and times == sorted(times) and times != whole


@pytest.mark.parametrize(
    ("facts", "times"),
    [
        (Facts(CLOCK, Fraction(30)), (0, 100_000, 100_001)),
        (Facts(CLOCK, Fraction(30)), (0, 2**62)),
        (Facts(CLOCK, Fraction(10**12 + 1, 10**11)), (0, 1)),
        (Facts(CLOCK, Fraction(30), shape=Fraction(10**10, 3)), (0, 1)),
        (Facts(Fraction(7_000_000, 2**40 + 1), Fraction(30)), (0, 1)),
    ],
)
def test_numbers_that_no_film_has_lose_no_frame(tmp_path: Path, facts: Facts, times: tuple[int, ...]) -> None:
    with FilmWriter(tmp_path / "out.mp4", lambda: facts) as writer:
        for number, seconds in enumerate(times):
            pixels = torch.full((3, 48, 64), 90, dtype=torch.uint8)
            writer.add(Seen(Frame(number, Fraction(seconds), pixels), Knowing(white).one(pixels, 0.5)))
        writer.finish()
    assert len(only_frames(read(tmp_path / "out.mp4"))) == len(times)


@pytest.mark.parametrize(("suffix", "codec", "mark"), [("mp4", "libx264", b"avc1"), ("avi", "mpeg4", b"FMP4")])
def test_a_codec_that_nothing_knows_is_refused(tmp_path: Path, suffix: str, codec: str, mark: bytes) -> None:
    film = encode(tmp_path / f"in.{suffix}", 3, codec=codec)
    content = film.read_bytes()
    assert mark in content
    film.write_bytes(content.replace(mark, b"zzz9"))
    with pytest.raises(DataError, match="the codec of this film is not read"):
        read(film)


@pytest.mark.parametrize("size", [(8, LARGEST + 2), (LARGEST + 10, 4)])
def test_a_film_that_is_too_wide_for_the_encoder_is_drawn_smaller(size: tuple[int, int], tmp_path: Path) -> None:
    none = Detections(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64), (), (), size)
    with FilmWriter(tmp_path / "out.mp4", lambda: Facts(CLOCK, Fraction(30))) as film:
        film.add(Seen(Frame(0, Fraction(0), torch.zeros(3, *size, dtype=torch.uint8)), none))
        film.finish()
    (frame,) = only_frames(read(tmp_path / "out.mp4"))
    assert max(frame.pixels.shape[1:]) == LARGEST
