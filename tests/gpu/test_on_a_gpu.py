"""What only a GPU can show: it finds, learns and measures the same as the CPU, to the same bits each time, and ends kindly.

All of it skips where torch finds no GPU.
"""

import warnings
from collections import Counter
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import pytest
import torch

import onestage
from lively import lively
from onestage.cli.main import main
from onestage.deploy.benchmark import pictures
from onestage.model.preprocess import Preprocess
from onestage.predict.predictor import Predictor
from onestage.structures import Batch
from onestage.training import folder as run_folder
from onestage.training.checks import EVERY, DivergedError
from onestage.training.config import TrainConfig
from onestage.training.loop import Training, resume, train
from small_runs import before_step, detector, run, run_stopped, same_bits, write_pictures

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no GPU")

CONFIG = TrainConfig(epochs=3, batch_size=4, workers=0, device="cuda", warmup=2)
"""On 12 pictures: 3 steps an epoch."""
FAMILIES = ("tinyssd", "ssd300_vgg16", "ssdlite320_mobilenet_v3_large", "retinanet_r18_fpn", "efficientdet_d0")


@pytest.fixture(autouse=True)
def no_curves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing them takes longer than the trainings."""
    monkeypatch.setattr(run_folder, "plot_training_curves", lambda *_: None)


@pytest.fixture
def exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """Products of float32 with all their bits, as on a CPU."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    monkeypatch.setattr(torch.backends.cuda.matmul, "allow_tf32", False)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pictures(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing disturbed."""
    with patch.object(run_folder, "plot_training_curves"):
        return run(data, tmp_path_factory.mktemp("whole") / "run", CONFIG).folder


def missing(found: onestage.Detections, wanted: onestage.Detections) -> int:
    """How many of the wanted detections above a score of 0.05 have no partner: the class, IoU .99, score to 1e-3."""
    lost = 0
    for box, score, label in zip(wanted.boxes.cpu(), wanted.scores.cpu(), wanted.labels.cpu(), strict=True):
        ious = onestage.boxes.iou(found.boxes.cpu(), box[None])[:, 0]
        fits = (ious >= 0.99) & (found.labels.cpu() == label) & ((found.scores.cpu() - score).abs() <= 1e-3)
        lost += score > 0.05 and not bool(fits.any())
    return lost


@pytest.mark.usefixtures("exact")
@pytest.mark.parametrize("name", FAMILIES)
def test_a_gpu_finds_what_the_cpu_finds(name: str) -> None:
    torch.manual_seed(0)
    model, images = lively(onestage.create(name, num_classes=3)), pictures(4, (240, 320))
    wanted = model.predict(images)
    found = model.to("cuda").predict(images)
    assert sum(len(one.boxes) for one in wanted) > 10
    count = sum(int((one.scores > 0.05).sum()) for one in wanted)
    antialias = model.config.preprocess.antialias  # then pixels differ by a grey level
    few = count // (10 if antialias else 100)  # NMS may keep the other one of two that are alike
    assert sum(map(missing, found, wanted)) <= few


@pytest.mark.parametrize("antialias", [False, True])
@pytest.mark.parametrize("mode", ["stretch", "letterbox", "shortest_edge"])
def test_a_gpu_resizes_as_the_cpu_does(mode: str, antialias: bool) -> None:
    preprocess = Preprocess((96, 160), mode=mode, antialias=antialias)  # type: ignore[arg-type]
    images = [*pictures(2, (120, 160)), *pictures(1, (31, 200))]
    wanted, metas = preprocess.batch(images)
    found, same = preprocess.batch([image.to("cuda") for image in images])
    assert same == metas and found.dtype == wanted.dtype
    difference = (found.cpu().float() - wanted.float()).abs()
    assert float(difference.max()) <= (1.0 if antialias else 1e-3)


@pytest.mark.slow  # it compiles for minutes
@pytest.mark.usefixtures("exact")
@pytest.mark.parametrize("name", ["tinyssd", "efficientdet_d0"])
def test_bf16_and_a_compiled_network_find_nearly_the_same(name: str) -> None:
    torch.manual_seed(0)
    model, images = lively(onestage.create(name, num_classes=3)).to("cuda"), pictures(2, (240, 320))
    wanted = model.predict(images)
    half = Predictor.folded(model, bf16=True).predict(images)
    model.compile(mode="reduce-overhead", dynamic=False)
    compiled = model.predict(images)
    for a, b, c in zip(wanted, half, compiled, strict=True):
        assert missing(c, a) <= len(a.boxes) // 50
        strongest = a.scores[:5].cpu()
        assert torch.allclose(b.scores[:5].cpu(), strongest, atol=0.05)


def test_the_same_seed_gives_the_same_bits(data: Path, whole: Path, tmp_path: Path) -> None:
    assert same_bits(run(data, tmp_path / "again", CONFIG).folder, whole)


@pytest.mark.parametrize("step", [2, 3, 5])
def test_a_resumed_run_ends_with_the_same_bits(step: int, data: Path, whole: Path, tmp_path: Path) -> None:
    run_stopped(data, tmp_path / "run", CONFIG, step=step)
    assert same_bits(resume(tmp_path / "run").folder, whole)


def test_workers_and_pinned_memory_change_no_bit(data: Path, whole: Path, tmp_path: Path) -> None:
    assert same_bits(run(data, tmp_path / "run", replace(CONFIG, workers=2)).folder, whole)


@pytest.mark.parametrize(
    "changes",
    [
        {"precision": "fp32"},
        {"precision": "bf16", "ema": 0.9, "fused": True},
        {"compile": True},
        {"optimizer": "adamw", "fused": True, "accumulate": 2},
    ],
    ids=lambda changes: ",".join(map(str, changes)),
)
def test_each_way_to_take_a_step_learns_and_resumes(changes: dict, data: Path, tmp_path: Path) -> None:
    config = replace(CONFIG, **changes)
    undisturbed = run(data, tmp_path / "whole", config)
    run_stopped(data, tmp_path / "run", config, step=4)
    assert same_bits(resume(tmp_path / "run").folder, undisturbed.folder)


def test_a_loss_that_is_no_number_is_named_within_some_steps(data: Path, tmp_path: Path) -> None:
    def spoil(training: Training) -> None:
        with torch.no_grad():
            next(training.model.parameters()).fill_(float("nan"))

    config = replace(CONFIG, epochs=2 * EVERY["cuda"])
    with patch.object(Training, "_step", before_step(5, spoil)), pytest.raises(DivergedError, match="step 5"):
        run(data, tmp_path / "run", config)
    assert not (tmp_path / "run" / "checkpoints" / "step-00000006").exists()


def test_most_steps_do_not_wait_for_the_gpu(data: Path, tmp_path: Path) -> None:
    """With batches of two, an epoch has six steps. The first step of an epoch and every tenth one look at the losses."""
    watched = range(14, 18)
    waits: list[str] = []

    def note(message: Warning | str, category: type[Warning], filename: str, line: int, *_: object) -> None:
        if "synchroniz" in str(message):
            waits.append(f"{Path(filename).name}:{line}")

    inner = Training._step

    def step(training: Training, batch: Batch) -> None:
        torch.cuda.set_sync_debug_mode("warn" if training.step + 1 in watched else "default")
        inner(training, batch)
        torch.cuda.set_sync_debug_mode("default")

    with warnings.catch_warnings(), patch.object(Training, "_step", step):
        warnings.simplefilter("always")
        warnings.showwarning = note
        train(detector(), data, out=tmp_path / "run", config=replace(CONFIG, epochs=4, batch_size=2))
    print(f"waits in {len(watched)} steps: {Counter(waits)}")
    assert not [place for place in waits if place.startswith("checks.py")]


def test_minutes_on_a_gpu(data: Path, tmp_path: Path) -> None:
    result = train(detector(), data, out=tmp_path / "run", config=replace(CONFIG, minutes=0.1, epochs=100))
    assert not result.interrupted and result.report is not None


def test_the_command_line_decides_measures_and_predicts_on_a_gpu(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert main(["train", str(data), "--epochs", "2", "--out", str(out), "--workers", "0", "--seed", "1"]) == 0
    assert main(["evaluate", str(out), str(data), "--split", "val", "--no-analysis"]) == 0
    assert main(["evaluate", str(out), str(data), "--split", "val", "--no-analysis", "--device", "cpu"]) == 0
    picture = next((data / "val").rglob("*.*g"), None) or next(data.rglob("*.*g"))
    assert main(["predict", str(out), str(picture), "--out", str(tmp_path / "found")]) == 0
    print(capsys.readouterr().out[-3000:])


def test_too_little_memory_is_a_clear_error(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of the CLI: no traceback, and what to change."""
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(0.005)
    try:
        options = ["--model", "retinanet_r50_fpn", "--size", "800", "--batch-size", "12", "--epochs", "1", "--workers", "0"]
        assert main(["train", str(data), *options, "--out", str(tmp_path / "run")]) == 2
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
        torch.cuda.empty_cache()
    error = capsys.readouterr().err
    assert "memory" in error and "--batch-size" in error and "Traceback" not in error


@pytest.mark.usefixtures("exact")
def test_a_detector_on_a_gpu_is_exported(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    torch.manual_seed(0)
    model = lively(onestage.create("tinyssd", num_classes=2)).to("cuda")
    wanted = model.predict(pictures(2, (120, 160)))
    model.export(tmp_path / "model.onnx")
    assert model.device.type == "cuda"
    found = onestage.load(tmp_path / "model.onnx").predict(pictures(2, (120, 160)))
    assert sum(map(missing, found, wanted)) <= 1
