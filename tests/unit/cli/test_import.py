"""``onestage import``: what it recognises, what it refuses, and that what it writes is a detector like any other."""

import pickle
import runpy
import sys
from pathlib import Path

import pytest
import timm
import torch
from torchvision.models.detection import ssdlite320_mobilenet_v3_large

from onestage import create, load
from onestage.cli import imports
from onestage.cli.main import main
from onestage.structures import ClassSet
from onestage.weights.class_names import COCO_90
from onestage.weights.source import Source
from onestage.zoo.table import recipe
from small_runs import start

Captured = pytest.CaptureFixture[str]


def their_ssdlite(path: Path, classes: int) -> Path:
    torch.manual_seed(0)
    torch.save(ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=classes + 1).state_dict(), path)
    return path


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """torchvision's SSDLite of two classes."""
    return their_ssdlite(tmp_path_factory.mktemp("foreign") / "two.pth", 2)


@pytest.fixture(scope="module")
def book(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The d2l book's TinySSD of one class."""
    ours = create("tinyssd", 1).state_dict()
    names = [("backbone.stages.", "blk_"), ("head.cls.", "cls_"), ("head.box.", "bbox_")]
    renamed = {next(b + k.removeprefix(a) for a, b in names if k.startswith(a)): v for k, v in ours.items()}
    path = tmp_path_factory.mktemp("book") / "net.pkl"
    torch.save(renamed, path)
    return path


def refused(capsys: Captured, *arguments: object) -> str:
    """The message of an import that fails with exit code 2 and leaves nothing behind."""
    out = Path(str(arguments[-1]))
    before = out.read_bytes() if out.exists() else None
    assert main(["import", *map(str, arguments)]) == 2
    assert (out.read_bytes() if out.exists() else None) == before
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.startswith("error: ") and "Traceback" not in captured.err
    return captured.err


def test_the_file_tells_by_itself(foreign: Path, tmp_path: Path, capsys: Captured) -> None:
    out = tmp_path / "ours.safetensors"
    assert main(["import", str(foreign), "-o", str(out)]) == 0
    captured = capsys.readouterr()
    rows = dict(line.split(maxsplit=1) for line in captured.out.splitlines()[:5])
    detector = load(out)
    assert rows["recognised"] == "ssdlite320_mobilenet_v3_large, of torchvision"
    assert rows["classes"] == "2: class 0, class 1"
    assert rows["parameters"] == f"{sum(p.numel() for p in detector.parameters()):,}"
    assert rows["differs"] == "from the recipe in preprocess.antialias"
    assert f"onestage predict {out} PICTURES" in captured.out
    assert "--classes" in captured.err
    theirs = torch.load(foreign, weights_only=True)
    assert torch.equal(detector.backbone.stages[0][0][0].weight, theirs["backbone.features.0.0.0.weight"])


def test_all_of_it_said(book: Path, tmp_path: Path, capsys: Captured) -> None:
    out = tmp_path / "tiny.safetensors"
    said = ["--from", "d2l", "--model", "tinyssd", "--classes", "banana", "--out", str(out)]
    assert main(["import", str(book), *said]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    assert load(out).config.classes == ("banana",)


def test_names_from_a_labels_file(foreign: Path, tmp_path: Path) -> None:
    """As jetson-inference writes it: background first, a name per line."""
    (tmp_path / "labels.txt").write_text("BACKGROUND\nred car\n\nblue car\n")
    out = tmp_path / "ours.safetensors"
    assert main(["import", str(foreign), "--classes", str(tmp_path / "labels.txt"), "-o", str(out)]) == 0
    assert load(out).config.classes == ("red car", "blue car")
    straight = create("ssdlite320_mobilenet_v3_large", weights=foreign)
    assert all(torch.equal(v, straight.state_dict()[k]) for k, v in load(out).state_dict().items())


def test_known_classes_have_their_names_and_ids(tmp_path: Path) -> None:
    path = their_ssdlite(tmp_path / "coco.pth", 90)
    assert main(["import", str(path), "-o", str(tmp_path / "coco.safetensors")]) == 0
    config = load(tmp_path / "coco.safetensors").config
    assert (config.classes, config.category_ids) == (COCO_90.names, COCO_90.ids)


def test_too_few_names(foreign: Path, tmp_path: Path, capsys: Captured) -> None:
    message = refused(capsys, foreign, "--classes", "cat", "-o", tmp_path / "x.safetensors")
    assert "one name for every class" in message and "2 names" in message and "1: cat" in message


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--from", "d2l"], ["is not of the d2l book's TinySSD", "a detector of torchvision"]),
        (["--from", "tflite"], ["is not of the TF object-detection API", "a detector of torchvision"]),
        (["--from", "torchvison"], ["no project 'torchvison'", "did you mean 'torchvision'", "lufficc"]),
        (["--model", "ssd300_vgg16"], ["are not those of ssd300_vgg16", "ssdlite320_mobilenet_v3_large, of torchvision"]),
        (["--model", "ssdlite"], ["no model 'ssdlite' in the zoo"]),
    ],
)
def test_what_contradicts_the_file(
    options: list[str], says: list[str], foreign: Path, tmp_path: Path, capsys: Captured
) -> None:
    message = refused(capsys, foreign, *options, "-o", tmp_path / "x.safetensors")
    assert all(text in message for text in says), message


def test_a_file_that_is_not_there(tmp_path: Path, capsys: Captured) -> None:
    assert "no such file" in refused(capsys, tmp_path / "no.pth", "-o", tmp_path / "x.safetensors")


def test_a_truncated_file(foreign: Path, tmp_path: Path, capsys: Captured) -> None:
    (tmp_path / "half.pth").write_bytes(foreign.read_bytes()[:100_000])
    message = refused(capsys, tmp_path / "half.pth", "-o", tmp_path / "x.safetensors")
    assert "cannot be imported" in message and "damaged" in message


class Evil:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.touch, (self.mark,)  # type: ignore[return-value]


def test_a_pickle_with_code_in_it_runs_nothing(tmp_path: Path, capsys: Captured) -> None:
    mark = tmp_path / "ran"
    (tmp_path / "evil.pkl").write_bytes(pickle.dumps({"weight": Evil(mark)}))
    message = refused(capsys, tmp_path / "evil.pkl", "-o", tmp_path / "x.safetensors")
    assert "cannot be imported" in message
    torch.save({"weight": torch.zeros(2), "hook": Evil(mark)}, tmp_path / "evil.pth")
    assert "could run code" in refused(capsys, tmp_path / "evil.pth", "-o", tmp_path / "x.safetensors")
    assert not mark.exists()


def test_a_classifier(tmp_path: Path, capsys: Captured) -> None:
    torch.save(timm.create_model("mobilenetv3_small_100").state_dict(), tmp_path / "classifier.pth")
    message = refused(capsys, tmp_path / "classifier.pth", "-o", tmp_path / "x.safetensors")
    assert "no known project's detector" in message and "conv_stem.weight" in message and "backbone_weights" in message


def test_pictures_and_empty_files(tmp_path: Path, capsys: Captured) -> None:
    (tmp_path / "photo.pth").write_bytes(b"\xff\xd8\xff" + bytes(99))
    assert "a JPEG picture" in refused(capsys, tmp_path / "photo.pth", "-o", tmp_path / "x.safetensors")
    (tmp_path / "empty.pth").touch()
    assert "an empty file" in refused(capsys, tmp_path / "empty.pth", "-o", tmp_path / "x.safetensors")


def test_our_own_file_needs_no_import(tmp_path: Path, capsys: Captured) -> None:
    create("tinyssd", 1, size=(64, 64)).save(tmp_path / "own.safetensors")
    assert "already" in refused(capsys, tmp_path / "own.safetensors", "-o", tmp_path / "x.safetensors")


def test_nothing_is_overwritten(book: Path, tmp_path: Path, capsys: Captured) -> None:
    (tmp_path / "x.safetensors").write_text("precious")
    assert "exists already" in refused(capsys, book, "-o", tmp_path / "x.safetensors")
    assert "did not write it" in refused(capsys, book, "-o", tmp_path / "x.safetensors", "--overwrite")
    assert (tmp_path / "x.safetensors").read_text() == "precious"
    assert "a .safetensors file" in refused(capsys, book, "-o", tmp_path / "x.pth")
    assert "-o" in refused(capsys, book, "-o", tmp_path / "x.pth")


def test_a_detector_of_ours_is_replaced_by_those_who_ask(book: Path, tmp_path: Path, capsys: Captured) -> None:
    out = tmp_path / "x.safetensors"
    create("tinyssd", 2, size=(64, 64)).save(out)
    assert "--overwrite" in refused(capsys, book, "-o", out)
    assert main(["import", str(book), "-o", str(out), "--overwrite"]) == 0
    assert len(load(out).config.classes) == 1


def as_a_program(*arguments: str) -> None:
    """What the shell starts. It changes how its process ends, so it needs one of its own."""
    sys.argv = ["onestage", *arguments]
    runpy.run_module("onestage", run_name="__main__")


def test_as_a_program(tmp_path: Path) -> None:
    """Exit code and message reach the shell; nothing of Python does."""
    (tmp_path / "page.pth").write_text("<html>not found</html>")
    log = tmp_path / "log"
    process = start(as_a_program, "import", str(tmp_path / "page.pth"), "-o", str(tmp_path / "x.safetensors"), log=log)
    process.join(60)
    said = log.read_text()
    assert process.exitcode == 2 and said.startswith("error: this is not a weights file")
    assert "HTML" in said and "Traceback" not in said


def test_the_imported_detector_works_like_any_other(book: Path, run: Path, shapes: Path, tmp_path: Path) -> None:
    """It predicts on pictures from the command line."""
    out = tmp_path / "tiny.safetensors"
    assert main(["import", str(book), "-o", str(out)]) == 0
    picture = next(shapes.rglob("*.png"), None) or next(shapes.rglob("*.jpg"))
    assert main(["predict", str(out), str(picture), "--out", str(tmp_path / "found")]) == 0
    assert any((tmp_path / "found").iterdir())


def test_placeholders_of_a_labels_file_are_numbered(tmp_path: Path) -> None:
    """As TensorFlow's labelmap.txt has them, background too."""
    (tmp_path / "labels.txt").write_text("???\nred car\n???\nN/A\n???\n")
    path, out = their_ssdlite(tmp_path / "four.pth", 4), tmp_path / "ours.safetensors"
    assert main(["import", str(path), "--classes", str(tmp_path / "labels.txt"), "-o", str(out)]) == 0
    assert load(out).config.classes == ("red car", "??? 2", "N/A 3", "??? 4")


def test_the_labels_beside_the_published_tflite_file(shared_data: Path, tmp_path: Path, capsys: Captured) -> None:
    """Its note says how to have more detections than the file reports, and that is true."""
    weights, out = shared_data / "weights", tmp_path / "ours.safetensors"
    labels = ["--classes", str(weights / "coco_labelmap.txt")]
    assert main(["import", str(weights / "coco_ssd_mobilenet_v1_quant_2018_06_29.tflite"), *labels, "-o", str(out)]) == 0
    names = load(out).config.classes
    assert (names[0], names[11], names[89]) == ("person", "??? 12", "toothbrush")
    note = capsys.readouterr().err
    assert "at most 10 detections a picture" in note
    program = note.split("in Python: ")[1].strip().replace("more.safetensors", str(tmp_path / "more.safetensors"))
    exec(program, {})
    more = load(tmp_path / "more.safetensors")
    assert more.config == load(out).config.replace({"postprocess.detections": 100})
    assert all(torch.equal(v, more.state_dict()[k]) for k, v in load(out).state_dict().items())


@pytest.mark.parametrize(("detections", "noted"), [(10, True), (99, True), (100, False), (200, False)])
def test_few_detections_are_noted(detections: int, noted: bool) -> None:
    config = recipe("ssd300_vgg16", ["cat"]).replace({"postprocess.detections": detections})
    source = Source(Path("x.pth"), "torchvision", config.name, ClassSet(("cat",), (0,)), {})
    notes = " ".join(imports._notes(source, config, Path("out.safetensors")))
    assert ("for more" in notes) == noted


def test_a_name_that_stands_twice(foreign: Path, tmp_path: Path, capsys: Captured) -> None:
    labels = tmp_path / "labels.txt"
    labels.write_text("BACKGROUND\nred car\n\nred car\n")
    message = refused(capsys, foreign, "--classes", labels, "-o", tmp_path / "x.safetensors")
    assert f"{labels}, lines 2 and 4" in message and "red car" in message
    assert "names 1 and 2" in refused(capsys, foreign, "--classes", "a", "a", "-o", tmp_path / "x.safetensors")


def test_pixels_that_nothing_in_the_file_tells(foreign: Path, tmp_path: Path) -> None:
    out = tmp_path / "ours.safetensors"
    assert main(["import", str(foreign), "--pixels", "imagenet", "-o", str(out)]) == 0
    preprocess = load(out).config.preprocess
    assert (preprocess.mean, preprocess.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def test_advprop_is_named_where_it_may_be(tmp_path: Path, capsys: Captured) -> None:
    effdet = pytest.importorskip("effdet")
    torch.save(effdet.create_model("tf_efficientdet_d0", pretrained_backbone=False).state_dict(), tmp_path / "d0.pth")
    for pixels, noted in ([], True), (["--pixels", "half"], False):
        out = tmp_path / f"{noted}.safetensors"
        assert main(["import", str(tmp_path / "d0.pth"), *pixels, "-o", str(out)]) == 0
        assert ("import it with --pixels half" in " ".join(capsys.readouterr().err.split())) == noted
        assert (load(out).config.preprocess.mean == (0.5, 0.5, 0.5)) != noted


def test_a_pickle_of_other_things(tmp_path: Path, capsys: Captured) -> None:
    (tmp_path / "arrays.pkl").write_bytes(pickle.dumps({"weight": [1.0, 2.0]}))
    message = refused(capsys, tmp_path / "arrays.pkl", "-o", tmp_path / "x.safetensors")
    assert "a Python pickle that holds more than tensors" in message and "damaged" not in message
