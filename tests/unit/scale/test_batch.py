"""Batches on this machine: the same bytes whoever does them, nothing lost and nothing twice, failures as rows."""

import errno
import multiprocessing
import os
import resource
import shutil
import signal
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pyarrow.dataset
import pyarrow.parquet
import pytest
import torch

from batches_of_pictures import (
    COUNT,
    batch,
    changed,
    command,
    deadly,
    digests,
    forked,
    jpeg,
    leftovers,
    slowly,
    write_tar,
)
from onestage import files, load
from onestage.cli import working
from onestage.cli.main import main
from onestage.data import batch_folder
from onestage.data.detections import open_detections
from onestage.data.threads import PatientThreads
from onestage.errors import ConfigError, DataError, LostError, WeightsError, WriteError
from onestage.model.detector import Detector
from onestage.predict import pipeline
from onestage.scale import attempts, manifest, model_copy, parts, reading, work
from onestage.scale import batch as batches
from onestage.scale.listing import Summary, read_shard
from onestage.scale.local import run_local
from onestage.scale.manifest import Manifest, Options
from small_runs import send, signal_here, start


def rows(folder: Path) -> list[dict]:
    return pyarrow.dataset.dataset(folder, format="parquet").to_table().to_pylist()


def test_a_row_for_each_picture(whole: Path, pictures: Path, model: Path) -> None:
    found = rows(whole)
    names = [f"{folder}/{number:04d}.jpg" for folder, first in (("a", 0), ("b", 1)) for number in range(first, COUNT, 2)]
    assert [row["id"] for row in found] == names
    assert [row["path"] for row in found] == [str(pictures / name) for name in names]
    bad = [row for row in found if row["status"] == "error"]
    assert [row["id"] for row in bad] == ["b/0007.jpg", "b/0017.jpg"]
    assert all(row["size"] is None and row["code"] and row["message"] and row["scores"] == [] for row in bad)
    detector = load(model)
    for row in found[:3]:
        (seen,) = detector.predict([row["path"]], score=0.2)
        assert row["size"] == {"height": 64, "width": 64} and row["code"] is None and row["message"] is None
        assert row["names"] == list(seen.class_names[:4]) and row["labels"] == seen.labels[:4].tolist()
        assert row["scores"] == pytest.approx(seen.scores[:4].tolist(), abs=1e-4)
        assert torch.tensor(row["boxes"]).numpy() == pytest.approx(seen.boxes[:4].numpy(), abs=0.02)


def test_any_number_of_processes_writes_the_same_bytes(whole: Path, pictures: Path, model: Path, tmp_path: Path) -> None:
    assert batch(pictures, tmp_path / "found", model, "--workers", "3") == 1
    assert digests(tmp_path / "found") == digests(whole) and len(digests(whole)) == 5


def test_the_same_command_again_does_nothing(whole: Path, pictures: Path, model: Path, capsys, monkeypatch) -> None:
    before = {path: path.stat().st_mtime_ns for path in batch_folder.part_paths(whole)}
    monkeypatch.setattr(work, "write_part", None)
    assert batch(pictures, whole, model) == 1
    assert {path: path.stat().st_mtime_ns for path in batch_folder.part_paths(whole)} == before
    shown = capsys.readouterr()
    assert "going on: 23 of 23 pictures done" in shown.err and "23 pictures in" in shown.out


def test_lost_and_damaged_parts_are_made_again(whole: Path, pictures: Path, model: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "found"
    batch(pictures, out, model)
    (out / "part-000001.parquet").unlink()
    cut = out / "part-000003.parquet"
    cut.write_bytes(cut.read_bytes()[:-40])
    flipped = bytearray((out / "part-000004.parquet").read_bytes())
    flipped[200] ^= 1  # a page of data
    (out / "part-000004.parquet").write_bytes(flipped)
    (out / ".part-000002.parquet.0123.ab.onestage-tmp").write_bytes(b"x")
    os.utime(out / ".part-000002.parquet.0123.ab.onestage-tmp", (0, 0))
    assert batch(pictures, out, model) == 1
    assert digests(out) == digests(whole) and leftovers(out) == []
    told = capsys.readouterr().err
    assert all(f"part-00000{number}.parquet: this part is damaged" in told for number in (3, 4))


@pytest.mark.parametrize("damage", [lambda content: content[:-40], lambda content: b"", None])
def test_a_damaged_list_is_made_again(damage, whole: Path, pictures: Path, model: Path, tmp_path: Path) -> None:
    out = shutil.copytree(whole, tmp_path / "found")
    listing = out / "_batch" / "pictures.parquet"
    usual = listing.read_bytes()
    (out / "part-000001.parquet").unlink()
    listing.unlink()
    if damage is not None:
        listing.write_bytes(damage(usual))
    assert batch(pictures, out, model) == 1
    assert digests(out) == digests(whole) and listing.read_bytes() == usual


def test_a_list_with_another_byte_is_not_read(whole: Path, tmp_path: Path) -> None:
    usual, copy = whole / "_batch" / "pictures.parquet", tmp_path / "pictures.parquet"
    group = pyarrow.parquet.read_metadata(usual).row_group(2)
    for number in range(group.num_columns):
        column, content = group.column(number), bytearray(usual.read_bytes())
        content[(column.dictionary_page_offset or column.data_page_offset) + column.total_compressed_size - 1] ^= 1
        copy.write_bytes(content)
        assert len(read_shard(copy, 1)) == 5
        with pytest.raises(DataError, match="the list of pictures of this batch cannot be read"):
            read_shard(copy, 2)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--score", "0.25"), "--score: 0.2 before, 0.25 now"),
        (("--classes", "star"), "--classes: all (the usual) before, star now"),
        (("--seconds",), "--seconds: off before, on (the usual) now"),
        (("--batch-size", "1"), "--batch-size: 2 before, 1 now"),
        (("--picture-memory", "2"), "--picture-memory: 1.0 (the usual) before, 2.0 now"),
        (("--score", "0.5"), "--score: 0.2 before, 0.5 (the usual) now"),
        (("--top", "1", "--batch-size", "1"), "--top: 4 before, 1 now\n            --batch-size: 2 before, 1 now\n"),
    ],
)
def test_another_option_is_refused(more, said: str, whole: Path, pictures: Path, model: Path, capsys) -> None:
    before = digests(whole)
    assert batch(pictures, whole, model, *more) == 2
    assert said in capsys.readouterr().err and digests(whole) == before


def test_a_runtime_that_would_not_be_used_is_refused(pictures: Path, model: Path, tmp_path: Path, capsys) -> None:
    assert batch(pictures, tmp_path / "parts", model, "--runtime", "onnxruntime") == 2
    assert "another runtime than torch runs exported files" in capsys.readouterr().err and not (tmp_path / "parts").exists()


def test_another_model_is_refused(whole: Path, pictures: Path, model: Path, tmp_path: Path, capsys) -> None:
    other = load(model)
    with_change = tmp_path / "other.safetensors"
    next(other.parameters()).data[0] += 1e-6
    other.save(with_change)
    assert batch(pictures, whole, with_change) == 2
    assert "the model: " in (said := capsys.readouterr().err) and "the input" not in said


def test_another_input_is_refused_and_told(model: Path, tmp_path: Path, capsys) -> None:
    copy, out = tmp_path / "photos", tmp_path / "found"
    copy.mkdir()
    for number in range(4):
        (copy / f"{number}.jpg").write_bytes(jpeg(number))
    assert batch(copy, out, model) == 0
    (copy / "0.jpg").unlink()
    (copy / "1.jpg").write_bytes(jpeg(9))
    (copy / "new.jpg").write_bytes(jpeg(2))
    assert batch(copy, out, model) == 2
    assert "the input: 1 picture came, 1 picture went, 1 picture changed" in capsys.readouterr().err
    assert not list((out / "_batch").glob("new*"))


def test_a_foreign_folder_is_refused(pictures: Path, model: Path, tmp_path: Path, capsys) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    assert batch(pictures, tmp_path, model) == 2
    assert "files are in the way" in capsys.readouterr().err and [*tmp_path.iterdir()] == [tmp_path / "notes.txt"]


def test_a_part_of_another_batch_is_refused(whole: Path, pictures: Path, model: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "found"
    assert batch(pictures, out, model, "--classes", "star") == 1
    (out / "part-000001.parquet").write_bytes((whole / "part-000001.parquet").read_bytes())
    assert batch(pictures, out, model, "--classes", "star") == 2
    assert "a part of another batch" in capsys.readouterr().err


def test_the_usual_score_is_that_of_the_command() -> None:
    assert manifest.USUAL_SCORE == working.USUAL_SCORE


@pytest.mark.parametrize("name", ["part-000001 (1).parquet", "part-000077.parquet", "part-x.parquet"])
def test_a_copy_of_a_part_is_in_the_way(name: str, whole: Path, pictures: Path, model: Path, tmp_path: Path, capsys) -> None:
    """Its objects would count twice: so say the command, the report, and who reads the detections."""
    out = tmp_path / "found"
    shutil.copytree(whole, out)
    if name == "part-x.parquet":
        (out / name).write_bytes(b"PAR1")
    else:
        shutil.copy(out / "part-000001.parquet", out / name)
    for arguments in (command(pictures, out, model), ["batch", "report", str(out), "--pictures", "0"]):
        assert main(arguments) == 2
        told = capsys.readouterr().err
        assert "a file in this folder is no part of this batch" in told and name in told and "Traceback" not in told
    with pytest.raises(ConfigError, match="no part of this batch"):
        open_detections(out)
    (out / name).unlink()
    assert batch(pictures, out, model) == 1 and digests(out) == digests(whole)


def test_a_copy_of_the_model_that_was_changed_is_not_used(whole, pictures, model, tmp_path: Path, capsys) -> None:
    out = tmp_path / "found"
    shutil.copytree(whole, out)
    (out / "part-000002.parquet").unlink()
    copy, other = out / "_batch" / "model.safetensors", load(model)
    next(other.parameters()).data[0] += 1e-3
    other.save(copy)
    with pytest.raises(WeightsError, match="the copy of the model in this batch has changed"):
        model_copy.open_copy(out, Manifest.read(out), "cpu")
    assert batch(pictures, out, model) == 1
    assert "this copy of the model was changed; it is made again" in capsys.readouterr().err
    assert digests(out) == digests(whole)


def test_a_copy_that_could_run_code_is_not_opened_if_it_has_changed(tmp_path: Path, monkeypatch) -> None:
    original, copy = tmp_path / "model.pt2", tmp_path / "_batch" / "model.pt2"
    copy.parent.mkdir()
    original.write_bytes(b"what the user trusts")
    copy.write_bytes(b"what the user trusts")
    opened = []
    monkeypatch.setattr(model_copy, "open_exported", lambda path, *_, **__: opened.append(path))
    note = manifest.ModelNote("model.pt2", "model.pt2", model_copy.digest_of(original), ("ball",))
    about = Manifest(note, Options(runtime="torch"), ("photos",), Summary(1, 1, ""), {})
    model_copy.open_copy(tmp_path, about, "cpu")
    assert opened == [copy]
    copy.write_bytes(b"what anyone wrote")
    with pytest.raises(WeightsError, match="has changed"):
        model_copy.open_copy(tmp_path, about, "cpu")
    assert opened == [copy]


def test_another_manifest_is_not_obeyed(whole: Path) -> None:
    with pytest.raises(DataError, match="the manifest of this batch was changed"):
        work.Worker.begin(whole, "0" * 64, "cpu", work.Conditions())


def without_answer(names: Sequence[str], patch: pytest.MonkeyPatch) -> None:
    """Let threads give no answer for pictures whose paths have one of these ends."""
    inner = PatientThreads.result

    def result(self, future, name):
        if name.endswith(tuple(names)):
            raise LostError("a thread does not answer", where=name, got="silence for 600 s", fix="wait longer")
        return inner(self, future, name)

    patch.setattr(PatientThreads, "result", result)


def with_deadly(names: Sequence[str], patch: pytest.MonkeyPatch) -> None:
    """Let pictures whose paths have one of these ends kill the process that decodes them."""
    patch.setattr(pipeline, "decode_image", deadly(pipeline.decode_image, names))


def test_pictures_that_are_not_read_in_time_are_rows(whole, pictures, model, tmp_path) -> None:
    names = ["a/0000.jpg", "a/0004.jpg", "a/0008.jpg", "a/0012.jpg", "b/0003.jpg", "b/0017.jpg"]
    arguments = command(pictures, tmp_path / "found", model, "--workers", "2")
    code, said = changed(partial(without_answer, names), arguments, tmp_path / "log")
    assert code == 1 and "6 timeout" in said, said
    found, usual = rows(tmp_path / "found"), rows(whole)
    assert [row["id"] for row in found] == [row["id"] for row in usual]
    assert [row["id"] for row in found if row["code"] == "timeout"] == names
    assert all("--worker-timeout" in row["message"] for row in found if row["id"] in names)
    assert [row["labels"] for row in found if row["id"] not in names] == [r["labels"] for r in usual if r["id"] not in names]


def slow_and_deadly(slow: Sequence[str], names: Sequence[str], patch: pytest.MonkeyPatch) -> None:
    without_answer(slow, patch)
    with_deadly(names, patch)


def test_a_slow_picture_in_a_shard_that_others_kill(whole, pictures, model, tmp_path) -> None:
    slow, deadly_ones = ["a/0010.jpg", "a/0016.jpg"], ["a/0012.jpg"]
    arguments = command(pictures, tmp_path / "found", model, "--workers", "1")
    code, said = changed(partial(slow_and_deadly, slow, deadly_ones), arguments, tmp_path / "log")
    assert code == 1, said
    found = {row["id"]: row["code"] for row in rows(tmp_path / "found") if row["code"]}
    usual = {row["id"]: row["code"] for row in rows(whole) if row["code"]}
    assert found == usual | dict.fromkeys(slow, "timeout") | dict.fromkeys(deadly_ones, "crashed")


def test_a_disk_that_gives_no_answer_ends_the_batch(pictures: Path, model: Path, tmp_path: Path) -> None:
    arguments = command(pictures, tmp_path / "found", model, "--workers", "1")
    code, said = changed(partial(without_answer, [".jpg"]), arguments, tmp_path / "log")
    assert code == 1 and "a thread does not answer" in said and digests(tmp_path / "found") == {}
    assert not list((tmp_path / "found" / "_batch").glob(".attempt*"))


def test_a_mistyped_word_leaves_nothing_behind(pictures: Path, model: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    for out in (tmp_path / "found", tmp_path / "mine"):
        assert batch(f"{pictures}x", out, model) == 2
    assert not (tmp_path / "found").exists() and [*(tmp_path / "mine").iterdir()] == []


def wait_for(condition, process) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert process.is_alive() and time.monotonic() < deadline
        time.sleep(0.02)


def test_two_commands_at_once_are_refused(pictures: Path, model: Path, tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.setattr(batches, "PATIENCE", 0.1)
    arguments = command(pictures, tmp_path / "found", model, "--workers", "1")
    process = start(forked, arguments, partial(slowly, 30.0), log=tmp_path / "log")
    try:
        wait_for(lambda: (tmp_path / "found" / "_batch" / "manifest.json").exists(), process)
        assert batch(pictures, tmp_path / "found", model) == 2
        assert "another process works at this batch" in capsys.readouterr().err
    finally:
        process.kill()
        process.join()


@pytest.mark.parametrize(
    "number", [signal.SIGKILL, *(pytest.param(number, marks=pytest.mark.slow) for number in (signal.SIGINT, signal.SIGTERM))]
)
def test_a_command_that_is_killed_goes_on(number: int, whole, pictures, model, tmp_path: Path, monkeypatch) -> None:
    out, log = tmp_path / "found", tmp_path / "log"
    process = start(forked, command(pictures, out, model, "--workers", "2"), partial(slowly, 0.3), log=log)
    wait_for(lambda: len(digests(out)) >= 1, process)
    send(number, process)
    process.join(60)
    assert process.exitcode == (-number if number == signal.SIGKILL else 130), log.read_text()
    kept = digests(out)
    assert 1 <= len(kept) < 5 and kept.items() <= digests(whole).items()
    assert number == signal.SIGKILL or "Traceback" not in log.read_text()
    assert batch(pictures, out, model, "--workers", "2") == 1
    assert digests(out) == digests(whole)
    monkeypatch.setattr(files, "CLAIMED_AFTER", 0.0)  # a file that was begun just now may still be claimed
    if leftovers(out):  # a process of the killed command was still at work when this one began
        assert batch(pictures, out, model) == 1
    assert digests(out) == digests(whole) and leftovers(out) == []


def words(pictures: Path, out: Path, model: Path):
    """What the local engine says of a batch of two processes."""
    options = Options(score=0.2, top=4, batch_size=2, shard_size=5, seconds=False)
    wanted = batches.Wanted(str(model), load(model), (str(pictures),), options)
    with batches.begun(out, wanted, note=print) as found:
        yield from run_local(found, workers=2, conditions=work.Conditions())


def killed_once(place: Path, patch: pytest.MonkeyPatch) -> None:
    """Let processes die as they write the parts 1 and 3, once each."""
    inner = parts.write_part

    def once(folder, shard, table, digest):
        if shard in (1, 3) and not (mark := place / f"killed-{shard}").exists():
            mark.touch()
            signal_here(signal.SIGKILL)
        inner(folder, shard, table, digest)

    patch.setattr(work, "write_part", once)


def test_a_worker_that_is_killed_is_replaced(whole: Path, pictures: Path, model: Path, tmp_path: Path) -> None:
    arguments = command(pictures, tmp_path / "found", model, "--workers", "2")
    code, said = changed(partial(killed_once, tmp_path), arguments, tmp_path / "log")
    assert code == 1 and said.count("was killed (SIGKILL); another one takes its place") == 2, said
    assert digests(tmp_path / "found") == digests(whole) and (tmp_path / "killed-3").exists()
    assert f"{COUNT} pictures in " in said


def test_a_worker_that_is_killed_from_outside_is_replaced(whole: Path, pictures: Path, model: Path, tmp_path: Path) -> None:
    """What the engine says adds up to all pictures, whatever was lost."""
    said = []
    with pytest.warns(UserWarning, match=r"was killed \(SIGKILL\); another one takes its place"):
        for word in words(pictures, tmp_path / "found", model):
            if not said:
                send(signal.SIGKILL, min(multiprocessing.active_children(), key=lambda process: process.pid or 0))
            said.append(word)
    assert digests(tmp_path / "found") == digests(whole)
    assert sum(word.pictures for word in said if isinstance(word, work.Advance)) == COUNT


def test_pictures_that_kill_every_process_are_rows(whole, pictures, model, tmp_path) -> None:
    """One of them is the first of its shard, one its last, and two lie side by side."""
    names = ["a/0000.jpg", "a/0008.jpg", "a/0012.jpg", "a/0014.jpg"]
    for name, workers in (("one", "1"), ("two", "3")):
        arguments = command(pictures, tmp_path / name, model, "--workers", workers)
        code, said = changed(partial(with_deadly, names), arguments, tmp_path / f"{name}.log")
        assert code == 1 and "4 crashed" in said, said
        assert said.count("another one takes its place") == 2 * attempts.SUSPECT + len(names) * attempts.PROVEN
    found, usual = rows(tmp_path / "one"), rows(whole)
    assert [row["id"] for row in found] == [row["id"] for row in usual]
    assert [row["id"] for row in found if row["code"] == "crashed"] == names
    assert all(row["status"] == "error" and "died" in row["message"] for row in found if row["id"] in names)
    assert [row["labels"] for row in found if row["id"] not in names] == [r["labels"] for r in usual if r["id"] not in names]
    assert digests(tmp_path / "two") == digests(tmp_path / "one") and leftovers(tmp_path / "one") == []
    assert not list((tmp_path / "one" / "_batch").glob(".attempt*"))


def all_deadly(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(attempts, "MOST", 2)
    with_deadly([""], patch)


def dying(*_: object) -> None:
    signal_here(signal.SIGKILL)


def dead_before_work(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(work, "open_copy", dying)


def dead_before_the_part(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(work, "write_part", dying)


@pytest.mark.parametrize(
    ("change", "told"),
    [(all_deadly, "at 3 pictures alone"), (dead_before_work, "5 times"), (dead_before_the_part, "5 times")],
)
def test_a_shard_that_kills_whatever_works_at_it_ends_the_batch(change, told, pictures, model, tmp_path: Path) -> None:
    """Then it is the machine, and not the pictures: a result without any would be wrong."""
    code, said = changed(change, command(pictures, tmp_path / "found", model, "--workers", "1"), tmp_path / "log")
    assert code == 1 and "all processes that worked at a shard died" in said and told in said, said
    assert digests(tmp_path / "found") == {}


def small_files_only(patch: pytest.MonkeyPatch) -> None:
    """Let the processes of a batch write no more than its smaller parts need."""
    inner, main_process = work.open_copy, os.getpid()

    def open_copy(*arguments):
        assert os.getpid() != main_process
        resource.setrlimit(resource.RLIMIT_FSIZE, (5000, resource.RLIM_INFINITY))
        return inner(*arguments)

    patch.setattr(work, "open_copy", open_copy)


def test_a_full_disk_ends_the_batch_clearly(whole, pictures, model, tmp_path) -> None:
    """Then the same command goes on."""
    out = tmp_path / "found"
    code, said = changed(small_files_only, command(pictures, out, model, "--workers", "1"), tmp_path / "log")
    assert code == 2 and "part-000003.parquet" in said and os.strerror(errno.EFBIG) in said and "Traceback" not in said
    assert len(digests(out)) == 3 and digests(out).items() <= digests(whole).items() and leftovers(out) == []
    assert batch(pictures, out, model) == 1
    assert digests(out) == digests(whole)


def test_a_disk_that_is_full_before_the_first_picture_is_said(
    pictures: Path, model: Path, tmp_path, monkeypatch, capsys
) -> None:
    def full(self, place):
        raise WriteError("the file could not be written", where=place, got=os.strerror(errno.ENOSPC), fix="free some space")

    with monkeypatch.context() as patch:
        patch.setattr(Detector, "save", full)
        assert batch(pictures, tmp_path / "found", model) == 2
    assert os.strerror(errno.ENOSPC) in (said := capsys.readouterr().err) and "model.safetensors" in said
    assert batch(pictures, tmp_path / "found", model) == 1


@pytest.mark.slow
def test_an_exported_file_of_another_runtime(pictures: Path, model: Path, tmp_path: Path, capsys) -> None:
    """The bytes are the same for any number of processes; the file is copied, and a changed one is refused."""
    onnx, small = tmp_path / "tiny.onnx", [pictures / "a" / f"{number:04d}.jpg" for number in range(0, 12, 2)]
    assert main(["export", str(model), "-o", str(onnx)]) == 0
    for name, workers in (("one", "1"), ("three", "3")):
        assert batch([*map(str, small)], tmp_path / name, onnx, "--shard-size", "2", "--workers", workers) == 0
    assert digests(tmp_path / "one") == digests(tmp_path / "three") and len(digests(tmp_path / "one")) == 3
    assert batch([*map(str, small)], tmp_path / "torch", model, "--shard-size", "2") == 0
    for found, expected in zip(rows(tmp_path / "one"), rows(tmp_path / "torch"), strict=True):
        assert found["labels"] == expected["labels"] and found["scores"] == pytest.approx(expected["scores"], abs=1e-4)
        assert torch.tensor(found["boxes"]).numpy() == pytest.approx(torch.tensor(expected["boxes"]).numpy(), abs=0.05)
    assert Manifest.read(tmp_path / "one").options.runtime == "onnxruntime"
    capsys.readouterr()
    assert batch([*map(str, small)], tmp_path / "one", onnx, "--shard-size", "2", "--runtime", "openvino") == 2
    assert "--runtime: onnxruntime before, openvino now" in capsys.readouterr().err
    assert batch([*map(str, small)], tmp_path / "bf16", onnx, "--precision", "bf16") == 2
    assert "an exported file has its precision" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize(
    ("format", "file", "runtime", "others", "packages"),
    [
        ("openvino", "tiny.xml", "openvino", ["model.bin"], ["openvino"]),
        ("torch", "tiny.pt2", "torch", [], []),
        ("ncnn", "tiny.ncnn.param", "ncnn", ["model.ncnn.bin", "model.ncnn.json"], ["ncnn", "pnnx"]),
        ("litert", "tiny.tflite", "litert", [], ["litert_torch", "ai_edge_litert"]),
    ],
)
def test_exported_files_of_all_kinds(format, file, runtime, others, packages, pictures, model, tmp_path, capsys) -> None:
    """They find what the detector finds, for any number of processes; what belongs to a file is copied and checked too."""
    for package in packages:
        pytest.importorskip(package)
    exported, small = tmp_path / file, [str(pictures / "a" / f"{number:04d}.jpg") for number in range(0, 12, 2)]
    (tmp_path / "tiny.bin.txt").touch()
    assert main(["export", str(model), "-o", str(exported), "--to", format]) == 0
    trusted = ("--trusted",) if file.endswith(".pt2") else ()
    if trusted:
        assert batch(small, tmp_path / "one", exported) == 2
        assert "--trusted" in capsys.readouterr().err and not (tmp_path / "one").exists()
    for name, workers in (("one", "1"), ("two", "2")):
        assert batch(small, tmp_path / name, exported, "--shard-size", "2", "--workers", workers, *trusted) == 0
    assert digests(tmp_path / "one") == digests(tmp_path / "two") and len(digests(tmp_path / "one")) == 3
    copies = sorted(path.name for path in (tmp_path / "one" / "_batch").glob("model.*"))
    assert copies == sorted([exported.name.replace("tiny", "model"), *others])
    assert batch(small, tmp_path / "torch", model, "--shard-size", "2") == 0
    for found, expected in zip(rows(tmp_path / "one"), rows(tmp_path / "torch"), strict=True):
        assert found["labels"] == expected["labels"] and found["scores"] == pytest.approx(expected["scores"], abs=1e-3)
        assert torch.tensor(found["boxes"]).numpy() == pytest.approx(torch.tensor(expected["boxes"]).numpy(), abs=0.1)
    assert Manifest.read(tmp_path / "one").options.runtime == runtime
    for name in copies:
        (tmp_path / "one" / "part-000001.parquet").unlink()
        (tmp_path / "one" / "_batch" / name).write_bytes(b"another one")
        capsys.readouterr()
        assert batch(small, tmp_path / "one", exported, "--shard-size", "2", *trusted) == 0
        assert "this copy of the model was changed" in capsys.readouterr().err
        assert digests(tmp_path / "one") == digests(tmp_path / "two")


def changing_while_read(patch: pytest.MonkeyPatch) -> None:
    inner = reading.Part.read

    def changing(self, most=None):
        content = inner(self, most)
        if self.path.endswith("0004.jpg"):
            os.utime(self.path)
        return content

    patch.setattr(reading.Part, "read", changing)


def test_a_picture_that_changes_while_it_is_read_is_a_row(model, tmp_path) -> None:
    copy = tmp_path / "photos"
    copy.mkdir()
    for number in range(6):
        (copy / f"{number:04d}.jpg").write_bytes(jpeg(number))
        os.utime(copy / f"{number:04d}.jpg", (1000, 1000))
    code, said = changed(changing_while_read, command(copy, tmp_path / "found", model), tmp_path / "log")
    assert code == 1, said
    (bad,) = [row for row in rows(tmp_path / "found") if row["status"] == "error"]
    assert bad["id"] == "0004.jpg" and "changed" in bad["message"]


def test_a_tenth_of_broken_pictures_in_tar_files(model: Path, tmp_path: Path) -> None:
    contents = {f"{n:03d}.jpg": jpeg(n)[: None if n % 10 else 300] for n in range(40)}
    for number in range(2):
        names = [*contents][number * 20 : number * 20 + 20]
        members = {name: contents[name] for name in names} | {f"{names[0][:3]}.json": b"{}"}
        write_tar(tmp_path / f"train-{number:03d}.tar", members)
    assert batch(f"{tmp_path}/train-{{000..001}}.tar", tmp_path / "found", model) == 1
    found = rows(tmp_path / "found")
    assert [row["id"].rpartition("/")[2] for row in found] == [*contents]
    assert [row["status"] == "error" for row in found] == [n % 10 == 0 for n in range(40)]
    assert found[1]["path"] == f"{tmp_path}/train-000.tar/001.jpg"


def test_seconds_are_there_if_they_are_wanted(pictures: Path, model: Path, tmp_path: Path) -> None:
    assert batch(pictures, tmp_path / "found", model, "--seconds") == 1
    found = rows(tmp_path / "found")
    assert all(row["seconds"] >= 0 for row in found) and sum(row["seconds"] for row in found) > 0


def test_the_manifest_says_what_the_batch_is(whole: Path, pictures: Path) -> None:
    found = Manifest.read(whole)
    assert found.pictures.pictures == COUNT and found.pictures.shards == 5 and found.given == (str(pictures),)
    assert found.options.score == 0.2 and found.model.classes == ("ball", "cube", "star")
    assert load(whole / "_batch" / "model.safetensors").classes == found.model.classes
