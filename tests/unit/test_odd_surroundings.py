"""The public functions where a program has changed torch's defaults, and with values of types that they do not take."""

import pytest
import torch

import onestage
from onestage.errors import OnestageError, WeightsError

PICTURE = torch.randint(0, 256, (3, 90, 70), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def made(path, model=None):
    """A detector's weights, and what it finds, from create, build, load and predict."""
    torch.manual_seed(0)
    model = model or onestage.create("tinyssd", 2, size=(64, 64))
    model.save(path)
    models = [model, onestage.load(path), onestage.create("tinyssd", weights=path), onestage.build(model.config, weights=path)]
    found = [each.predict(PICTURE, score=0.0)[0] for each in models]
    return (
        [tensor for each in models for tensor in each.state_dict().values()]
        + [f.boxes for f in found]
        + [f.scores for f in found]
    )


@pytest.fixture
def usual(tmp_path):
    return made(tmp_path / "usual.safetensors")


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_another_default_type_changes_nothing(usual, dtype, tmp_path):
    try:
        torch.set_default_dtype(dtype)
        other = made(tmp_path / "x.safetensors")
        assert torch.get_default_dtype() == dtype
    finally:
        torch.set_default_dtype(torch.float32)
    assert all(torch.equal(a, b) and a.dtype == b.dtype for a, b in zip(usual, other, strict=True))


def test_another_default_device_changes_nothing(usual, tmp_path):
    torch.manual_seed(0)
    model = onestage.create("tinyssd", 2, size=(64, 64))
    with torch.device("meta"):
        other = made(tmp_path / "x.safetensors", model)
    assert all(torch.equal(a, b) for a, b in zip(usual, other, strict=True))


def test_a_detector_without_numbers_is_made_for_those_who_ask_and_not_saved(tmp_path):
    with torch.device("meta"):
        model = onestage.create("tinyssd", 2, size=(64, 64))
    assert {tensor.device.type for tensor in model.parameters()} == {"meta"}
    with pytest.raises(WeightsError, match="without numbers"):
        model.save(tmp_path / "x.safetensors")
    assert list(tmp_path.iterdir()) == []


WRONG = [
    *({"num_classes": value} for value in (2.0, True, "2", -1, 0, 2**40, [2], float("nan"))),
    *({"classes": value} for value in ("cat", [1, 2], {"a"}, [], 3, [None], ["x" * 10_000], ["a", "a"])),
    *({"num_classes": 1, "size": value} for value in (300, "300", (300,), (2.5, 300), ("a", "b"), (True, True), (10**9, 300))),
    *({"num_classes": 1, "box_sizes": value} for value in (3, "abc", ["a"] * 6, [None] * 6, [float("nan")] * 6)),
    *({"num_classes": 1, "name": value} for value in (3, None, b"tinyssd", ["tinyssd"])),
    *({"num_classes": 1, "name": "ssd", "backbone": value} for value in (3, True, ["resnet18"], "")),
    *({"num_classes": 1, "weights": value} for value in (3, True, [], {}, torch.zeros(1))),
    *({"num_classes": 1, "backbone_weights": value} for value in (3, True, [], {})),
]


@pytest.mark.parametrize("arguments", WRONG, ids=str)
def test_create_refuses_values_of_other_types(arguments):
    with pytest.raises(OnestageError):
        onestage.create(**{"name": "tinyssd", **arguments})


@pytest.mark.parametrize("config", [None, 3, "tinyssd", {}, {"name": "tinyssd"}], ids=str)
def test_build_refuses_what_is_no_config(config):
    with pytest.raises(OnestageError):
        onestage.build(config)


def test_load_of_a_published_name_tells_how_to_get_it():
    with pytest.raises(WeightsError, match=r'onestage\.create\("ssd300_vgg16", weights="coco"\)'):
        onestage.load("ssd300_vgg16.coco")
