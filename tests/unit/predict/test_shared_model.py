"""One model, many threads, from its first call on: every result is that of one thread, and the model stays as it is."""

import copy
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from torch import Tensor

import onestage
from onestage.data.synthetic import SyntheticConfig, generate, synthetic_dataset
from onestage.explain.explanation import explain_sample
from onestage.explain.pictures import level_picture, nms_picture
from onestage.model.detector import Detector
from onestage.model.layers import convolution
from onestage.predict.measure import evaluate_dataset
from onestage.structures import Targets
from onestage.zoo.table import ZOO

ROUNDS, THREADS = 20, 8
FEW = 8
"""Rounds of quick networks: a mode that is flipped for the time of a call shows in the first ones."""
FAMILIES = {
    "tinyssd": {"size": (64, 96)},
    "ssd": {"size": (32, 64), "backbone": "test_resnet"},
    "dssd": {"size": (32, 64), "backbone": "test_resnet"},
    "retinanet": {"size": (32, 64), "backbone": "test_resnet"},
    "efficientdet": {"size": (32, 32), "backbone": "test_resnet"},
}
SMALL = {
    "tinyssd": {"backbone.width": 16},
    "dssd": {"neck.width": 16, "head.width": 16},
    "retinanet": {"neck.width": 16, "head.layers": 1},
    "efficientdet": {"neck.width": 16, "neck.layers": 1, "head.layers": 1},
}
"""What makes a network of a family quick; ``make test-slow`` runs networks as they are."""
AS_THEY_ARE = {
    "tinyssd": {"size": (64, 96)},
    "ssd300_vgg16": {"size": (32, 32)},
    "ssdlite320_mobilenet_v3_large": {"size": (32, 32)},
    "ssd": {"size": (32, 64), "backbone": "resnet10t"},
    "dssd": {"size": (32, 64), "backbone": "resnet10t"},
    "retinanet_r18_fpn": {"size": (32, 64)},
    "efficientdet_d0": {"size": (32, 32)},
}
OTHERS = ("ssd300_mobilenet_v2", "ssd300_resnet50", "ssd321_resnet101", "dssd321_resnet101", "ssd512_vgg16")
ANY_SIZE = ("tinyssd", "ssd", "dssd")
"""Families that take inputs of any size, although their recipes ask for one."""
PICTURES = SyntheticConfig(classes=("ball", "cube"), count=4, size=(64, 64), objects=(1, 2), empty=0)


def build(name: str, changes: Mapping[str, object] | None = None, **options: object) -> Detector:
    """The detector of a recipe, in evaluation mode. changes: of fields of its config."""
    torch.manual_seed(0)
    config = onestage.recipe(name, PICTURES.classes, **options).replace(changes or {})
    if name in ANY_SIZE:
        config = config.replace({"preprocess.mode": "shortest_edge"})
    return onestage.build(config).eval()


def small(name: str) -> Detector:
    """A quick network of a family."""
    return build(name, SMALL.get(name, {}) | {"postprocess.detections": 20}, **FAMILIES[name])


def fresh(model: Detector) -> Detector:
    """A copy that was never used, with the same tensors."""
    tensors = [*model.parameters(), *model.buffers()]
    return copy.deepcopy(model, {id(tensor): tensor for tensor in tensors})


def state(model: Detector) -> list[tuple[str, str, int]]:
    """Every module's mode, and every tensor by its place."""
    modes = [(name, "training", int(part.training)) for name, part in model.named_modules()]
    tensors = [*model.named_parameters(), *model.named_buffers()]
    return modes + [(name, str(tensor.requires_grad), id(tensor)) for name, tensor in tensors]


def together(works) -> list:
    """The results of all functions, each in a thread; all start at the same time."""
    start = threading.Barrier(len(works))

    def run(work):
        start.wait()
        return work()

    with ThreadPoolExecutor(len(works)) as pool:
        return list(pool.map(run, works))


def columns(found: onestage.Detections) -> list[Tensor]:
    return [found.boxes, found.scores, found.labels]


def check_rounds(model: Detector, rounds: int = ROUNDS) -> None:
    generator = torch.Generator().manual_seed(1)
    images = [torch.randint(256, (3, 40 + 12 * i, 90 - 8 * i), generator=generator, dtype=torch.uint8) for i in range(4)]
    expected = [columns(copy.deepcopy(model).predict(image, score=0.0)[0]) for image in images]
    assert all(len(boxes) for boxes, *_ in expected)
    values = {name: value.clone() for name, value in model.state_dict().items()}
    for _ in range(rounds):
        convolution.transforms.cache_clear()
        pair = [fresh(model), fresh(model).train()]
        before = [state(one) for one in pair]
        works = [lambda one=pair[i % 2], image=images[i // 2]: one.predict(image, score=0.0)[0] for i in range(THREADS)]
        for number, found in enumerate(together(works)):
            assert all(a.equal(b) for a, b in zip(columns(found), expected[number // 2], strict=True))
        assert [state(one) for one in pair] == before
    assert all(value.equal(values[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("name", FAMILIES)
def test_eight_threads_half_of_them_on_a_model_in_training_mode(name: str) -> None:
    check_rounds(small(name), FEW)


def test_a_model_of_every_family_is_always_shared() -> None:
    assert {ZOO[name].build.__module__ for name in FAMILIES} == {entry.build.__module__ for entry in ZOO.values()}


@pytest.mark.slow
@pytest.mark.parametrize("name", AS_THEY_ARE)
def test_eight_threads_on_networks_as_they_are(name: str) -> None:
    check_rounds(build(name, **AS_THEY_ARE[name]))


@pytest.mark.slow
@pytest.mark.parametrize("name", OTHERS)
def test_the_other_families_too(name: str) -> None:
    check_rounds(build(name, size=(64, 64)))


@pytest.mark.parametrize("training", [False, True])
def test_everything_at_once_with_one_model(training: bool, tmp_path: Path) -> None:
    """Predict, measure, explain, save, ask for anchors and compute losses, each in a thread, on a model that was never used."""
    model = small("tinyssd").train(training)
    dataset = synthetic_dataset(PICTURES)
    sample = generate(3, PICTURES)
    inputs, _ = model.prepare([sample.image])
    with torch.no_grad():
        output = copy.deepcopy(model).eval()(inputs)
    targets = [Targets(sample.boxes, sample.labels)]

    def works(one: Detector, path: Path) -> list:
        def explain():
            seen = explain_sample(one, sample)
            return seen.losses, seen.anchors.tolist(), level_picture(seen, seen.levels[1], side=80), nms_picture(seen, side=80)

        def save():
            one.save(path)
            return path.read_bytes()

        return [
            lambda: [c.tolist() for c in columns(one.predict(sample.image)[0])],
            lambda: [c.tolist() for d in evaluate_dataset(one, dataset, workers=0)[1] for c in columns(d)],
            lambda: evaluate_dataset(one, dataset, workers=0)[0].to_dict(),
            explain,
            save,
            lambda: [one.level_sizes((64, 64 + 32 * i)) for i in range(12)],
            lambda: [one.anchors((64, 64 + 32 * i)).sum().item() for i in range(12)],
            lambda: {name: float(loss) for name, loss in one.loss(output, targets).items()},
        ]

    expected = [work() for work in works(fresh(model), tmp_path / "alone.safetensors")]
    for number in range(5):
        one = fresh(model)
        before = state(one)
        assert together(works(one, tmp_path / f"{number}.safetensors")) == expected
        assert state(one) == before
