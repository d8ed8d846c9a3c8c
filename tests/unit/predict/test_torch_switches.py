"""What a caller has set in torch changes no prediction, and no call changes what a caller has set."""

import copy
import locale
import random
import signal
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageFile

import onestage
from onestage.data.synthetic import SyntheticConfig, generate, synthetic_dataset
from onestage.explain.explanation import explain_sample
from onestage.explain.pictures import level_picture, nms_picture
from onestage.model.detector import Detector
from onestage.predict.copies import Annotated
from onestage.predict.measure import evaluate_dataset
from onestage.predict.pictures import name_pictures
from onestage.predict.pipeline import in_batches
from onestage.predict.predictor import Predictor

PIXELS = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
PICTURES = SyntheticConfig(classes=("ball", "cube"), count=3, size=(64, 64), objects=(1, 2), empty=0)
MODES = {"letterbox": {}, "stretch": {}, "shortest_edge": {}, "without antialias": {"preprocess.antialias": False}}


@contextmanager
def default_type(kind: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(kind)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


SURROUNDINGS = {
    "float64": lambda: default_type(torch.float64),
    "bfloat16": lambda: default_type(torch.bfloat16),
    "inference mode": torch.inference_mode,
    "no gradients": lambda: torch.set_grad_enabled(False),
    "gradients": lambda: torch.set_grad_enabled(True),
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "meta": lambda: torch.device("meta"),
}


def build(mode: str) -> Detector:
    torch.manual_seed(0)
    changes = MODES[mode] | ({} if mode == "without antialias" else {"preprocess.mode": mode})
    return onestage.build(onestage.recipe("tinyssd", PICTURES.classes, size=(64, 96)).replace(changes)).eval()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("around", SURROUNDINGS)
@pytest.mark.parametrize("training", [False, True])
def test_predictions_do_not_depend_on_what_is_set_around_them(mode: str, around: str, training: bool) -> None:
    model = build(mode).train(training)
    (expected,) = build(mode).predict(PIXELS)
    with SURROUNDINGS[around]():
        first = model.predict(PIXELS)  # the anchors are made here
        others = model.predict(torch.from_numpy(PIXELS).permute(2, 0, 1))
    later = model.predict(PIXELS)
    for found in (*first, *others, *later):
        assert found.boxes.equal(expected.boxes) and found.scores.equal(expected.scores) and found.labels.equal(expected.labels)
    assert model.anchors((64, 96)).dtype == torch.float32 and not model.anchors((64, 96)).is_inference()


@pytest.mark.parametrize("around", SURROUNDINGS)
def test_measuring_and_explaining_do_not_depend_on_them_either(around: str) -> None:
    model, dataset, sample = build("stretch"), synthetic_dataset(PICTURES), generate(2, PICTURES)
    expected = evaluate_dataset(build("stretch"), dataset, workers=0)[0].to_dict()
    seen = explain_sample(build("stretch"), sample)
    with SURROUNDINGS[around]():
        found = evaluate_dataset(model, dataset, workers=0)[0].to_dict()
        again = explain_sample(model, sample)
    assert found == expected
    assert again.losses == seen.losses and again.picture.equal(seen.picture) and again.before.boxes.equal(seen.before.boxes)


def switches() -> dict[str, object]:
    """All that a library could change behind its caller's back."""
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    return {
        "gradients": torch.is_grad_enabled(),
        "inference": torch.is_inference_mode_enabled(),
        "type": torch.get_default_dtype(),
        "device": torch.get_default_device(),
        "autocast": torch.is_autocast_enabled("cpu"),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "threads": torch.get_num_threads(),
        "precision": torch.get_float32_matmul_precision(),
        "cudnn": (cudnn.enabled, cudnn.benchmark, cudnn.deterministic, cudnn.allow_tf32, matmul.allow_tf32),
        "anomaly": torch.is_anomaly_enabled(),
        "printing": repr(torch.tensor(1 / 3)),
        "random": (torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist()),
        "folder": Path.cwd(),
        "signals": {number: signal.getsignal(number) for number in signal.valid_signals()},
        "warnings": (list(warnings.filters), warnings.showwarning),
        "locale": locale.setlocale(locale.LC_ALL),
        "pillow": (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES),
        "numpy": (np.geterr(), np.get_printoptions()),
    }


def test_no_call_changes_a_global_switch(tmp_path: Path) -> None:
    model = build("stretch")
    path, picture = tmp_path / "model.safetensors", tmp_path / "picture.png"
    Image.fromarray(PIXELS).save(picture)
    dataset, sample = synthetic_dataset(PICTURES), generate(2, PICTURES)
    seen = explain_sample(model, sample)
    calls: dict[str, Callable[[], object]] = {
        "predict": lambda: copy.deepcopy(model).train().predict([PIXELS, str(picture)]),
        "draw": lambda: model.predict(str(picture))[0].draw(),
        "files": lambda: list(in_batches(Predictor.of(model), name_pictures([picture]), pieces=[Annotated(tmp_path / "out")])),
        "save": lambda: model.save(path),
        "load": lambda: onestage.load(path),
        "weights": lambda: onestage.create("tinyssd", size=(64, 96), weights=path),
        "evaluate": lambda: evaluate_dataset(model, dataset, workers=0)[0].save(tmp_path / "report"),
        "explain": lambda: (
            explain_sample(model, sample),
            level_picture(seen, seen.levels[0], side=60),
            nms_picture(seen, side=60),
        ),
        "anchors": lambda: (model.level_sizes((96, 96)), model.anchors((96, 128)), onestage.recipe("ssd", ("a",))),
        "an error": lambda: _fails(model),
    }
    for name, call in calls.items():
        before = switches()
        call()
        after = switches()
        drawn = ["random"] if name in ("load", "weights") else []  # weights are drawn before they are replaced
        assert [key for key in before if before[key] != after[key]] == drawn, name


def _fails(model: Detector) -> None:
    with pytest.raises(onestage.errors.DataError):
        model.predict("absent.jpg")
