"""The built-in pictures: pure functions of seed and index, with boxes that are right."""

import dataclasses
import hashlib

import numpy as np
import PIL
import pytest
import torch

from onestage import boxes as box_ops
from onestage.data import synthetic
from onestage.data.solids import NEAR, SOLIDS, pose, trace
from onestage.data.synthetic import SyntheticConfig, generate, generate_encoded, synthetic_dataset
from onestage.data.textures import GROUNDS, PATTERNS, noise
from onestage.errors import ConfigError

SMALL = SyntheticConfig(size=(72, 96), count=6)


@pytest.fixture
def placements(monkeypatch: pytest.MonkeyPatch) -> list[synthetic._Placed]:
    """The objects that the next pictures are made of, in the order of drawing."""
    drawn: list[synthetic._Placed] = []
    draw = synthetic._draw
    monkeypatch.setattr(synthetic, "_draw", lambda canvas, item, light: (drawn.append(item), draw(canvas, item, light)))
    return drawn


def _footprint(item: synthetic._Placed, margin: int = 200) -> np.ndarray:
    """The object's pixels, (H, W) bool, on a plane that reaches ``margin`` pixels beyond the origin on either side."""
    plane = np.zeros((2 * margin, 2 * margin), bool)
    h, w = item.sprite.alpha.shape
    plane[margin + item.top : margin + item.top + h, margin + item.left : margin + item.left + w] = item.sprite.alpha > 0
    return plane


def test_a_picture_depends_on_seed_and_index_alone() -> None:
    first = [generate(i, SMALL) for i in (4, 0, 4)]
    assert torch.equal(first[0].image, first[2].image) and torch.equal(first[0].boxes, first[2].boxes)
    assert not torch.equal(first[0].image, first[1].image)
    assert not torch.equal(first[0].image, generate(4, dataclasses.replace(SMALL, seed=1)).image)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, "5a18b5981ee3ac6d"),
        ({"size": (72, 96)}, "bb3fc6f3c61fa6db"),
        ({"size": (96, 64), "seed": 3, "objects": (4, 4), "min_visible": 0.6}, "a7bfd03bbcce37ac"),
    ],
)
def test_the_pictures_stay_the_same_to_the_bit(change: dict[str, object], expected: str) -> None:
    """The checksums are those of the first version of this code. Another version of numpy or Pillow may change them."""
    if (np.__version__, PIL.__version__) != ("2.4.6", "13.0.0"):
        pytest.skip("made with numpy 2.4.6 and Pillow 13.0.0")
    digests = ""
    for index in range(6):
        sample = generate(index, SyntheticConfig(**change))  # type: ignore[arg-type]
        parts = (sample.image, sample.boxes, sample.labels)
        digests += hashlib.sha256(b"".join(part.numpy().tobytes() for part in parts)).hexdigest()
    assert hashlib.sha256(digests.encode()).hexdigest().startswith(expected)


def test_global_random_numbers_are_neither_used_nor_changed() -> None:
    np.random.seed(3)
    before = np.random.get_state()[1].copy(), torch.get_rng_state()
    generate(0, SMALL)
    assert np.array_equal(before[0], np.random.get_state()[1]) and torch.equal(before[1], torch.get_rng_state())


@pytest.mark.parametrize("size", [(72, 96), (96, 64)])
def test_samples_obey_their_contract(size: tuple[int, int]) -> None:
    config = dataclasses.replace(SMALL, size=size, objects=(1, 4))
    for index in range(12):
        sample = generate(index, config)
        assert sample.image.shape == (3, *size) and sample.image.dtype == torch.uint8
        assert 1 <= len(sample.boxes) <= 4 and not sample.ignore.any()
        x1, y1, x2, y2 = sample.boxes.unbind(1)
        assert (x1 >= 0).all() and (y1 >= 0).all() and (x2 <= size[1]).all() and (y2 <= size[0]).all()
        assert (x2 > x1).all() and (y2 > y1).all() and ((sample.labels >= 0) & (sample.labels < 8)).all()
        assert sample.image.float().std() > 3  # a picture, not a plain field


def test_boxes_are_tight_around_the_whole_object_and_cut_at_the_border(placements: list[synthetic._Placed]) -> None:
    beyond = 0
    for index in range(12):
        placements.clear()
        sample = generate(index, dataclasses.replace(SMALL, scale=(0.3, 0.8)))
        for box, item in zip(sample.boxes, placements, strict=True):
            rows, columns = np.nonzero(_footprint(item))
            around = torch.tensor([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]) - 200
            # a pixel that the object covers by half counts in the footprint whole
            assert (box - box_ops.clip(around.float(), SMALL.size)).abs().max() <= 0.5
            beyond += int((box_ops.clip(around, SMALL.size) != around).any())
    assert beyond > 0  # or the cut was never tried


def test_every_object_can_be_seen(placements: list[synthetic._Placed]) -> None:
    covered = 0
    config = dataclasses.replace(SMALL, objects=(4, 4), min_visible=0.7)
    for index in range(12):
        placements.clear()
        generate(index, config)
        owner = np.full((400, 400), -1)
        for number, item in enumerate(placements):
            owner[_footprint(item)] = number
        inside = owner[200 : 200 + config.size[0], 200 : 200 + config.size[1]]
        for number, item in enumerate(placements):
            visible = (inside == number).sum() / _footprint(item).sum()
            assert visible >= 0.7 - 0.06  # pixels on the outline are counted whole here
            covered += visible < 0.95
    assert covered > 0


def test_a_set_share_of_the_pictures_is_empty() -> None:
    config = dataclasses.replace(SMALL, size=(32, 32), objects=(1, 1), empty=0.1)
    empty = [index for index in range(40) if len(generate(index, config).boxes) == 0]
    assert empty == [9, 19, 29, 39]


def test_labels_name_the_solid_that_was_drawn(placements: list[synthetic._Placed]) -> None:
    config = dataclasses.replace(SMALL, classes=("star", "ball"), objects=(1, 1), empty=0.0)
    labels = [int(generate(index, config).labels) for index in range(10)]
    assert set(labels) == {0, 1}
    for label, item in zip(labels, placements, strict=True):
        x1, y1, x2, y2 = item.sprite.box
        share = item.sprite.alpha.sum() / ((x2 - x1) * (y2 - y1))
        assert share < 0.5 if label == 0 else share == pytest.approx(np.pi / 4, abs=0.03)


def test_scale_bounds_the_size() -> None:
    config = dataclasses.replace(SMALL, classes=("ball",), objects=(1, 1), scale=(0.5, 0.5), min_visible=1.0)
    for index in range(6):
        extent = generate(index, config).boxes[0, 2:] - generate(index, config).boxes[0, :2]
        assert torch.allclose(extent, torch.full((2,), 0.5 * 72), atol=1.5)


@pytest.mark.parametrize("name", SOLIDS)
def test_tracing_finds_what_a_search_along_every_ray_finds(name: str) -> None:
    solid = SOLIDS[name]
    rotation = pose(spin=solid.spin[1] / 2, tilt=solid.tilt[1], roll=20)
    x = ((np.arange(48) + 0.5) / 24 - 1).astype(np.float32)
    surface = trace(solid.distance, rotation, x, x)
    across, down, depth = np.meshgrid(x, -x, np.linspace(-1, 1, 201, dtype=np.float32), indexing="xy")
    points = rotation.T @ np.stack([across.ravel(), down.ravel(), depth.ravel()])
    inside = (solid.distance(points) <= NEAR).reshape(across.shape).any(-1)
    assert inside.sum() > 200
    assert (inside != surface.hit).sum() <= 0.03 * inside.sum()  # rays that graze
    assert np.allclose((surface.normals**2).sum(0), 1, atol=1e-3)
    assert np.mean(surface.normals[2] > 0) > 0.97  # what is seen faces the viewer
    assert surface.openness.min() >= 0 and surface.openness.max() <= 1


@pytest.mark.parametrize("name", SOLIDS)
def test_solids_fit_into_the_unit_ball(name: str) -> None:
    directions = np.random.default_rng(0).normal(size=(3, 20_000)).astype(np.float32)
    assert SOLIDS[name].distance(directions / np.linalg.norm(directions, axis=0)).min() >= 0


@pytest.mark.parametrize("kind", GROUNDS)
def test_grounds_are_single_precision_and_textured(kind: object) -> None:
    pattern = kind(np.random.default_rng(1), (40, 56))  # type: ignore[operator]
    assert pattern.shape == (40, 56) and pattern.dtype == np.float32 and pattern.std() > 0.01


@pytest.mark.parametrize("kind", PATTERNS)
def test_patterns_are_mixing_weights(kind: object) -> None:
    points = np.random.default_rng(0).uniform(-1, 1, (3, 500)).astype(np.float32)
    weights = kind(np.random.default_rng(1), points)  # type: ignore[operator]
    assert weights.shape == (500,) and weights.dtype == np.float32 and 0 <= weights.min() < weights.max() <= 1


def test_noise_looks_the_same_in_a_larger_picture() -> None:
    small, large = (noise(np.random.default_rng(0), (side, side), 3, octaves=2) for side in (64, 128))
    assert np.abs(large.reshape(64, 2, 64, 2).mean((1, 3)) - small).max() < 0.02


def test_several_processes_draw_the_same_pictures_in_order() -> None:
    config = dataclasses.replace(SMALL, size=(48, 48))
    alone = list(generate_encoded(range(3, 23), config, workers=1))
    assert list(generate_encoded(range(3, 23), config, workers=2)) == alone
    assert [item.name for item in alone] == [f"{index:06d}.jpg" for index in range(3, 23)]


def test_the_data_set_in_memory_is_a_data_set() -> None:
    dataset = synthetic_dataset(SMALL, first=2)
    assert len(dataset) == 6 and dataset.classes == tuple(SOLIDS) and dataset.category_ids == tuple(range(1, 9))
    for i in range(6):
        sample, truth, expected = dataset[i], dataset.truth(i), generate(i + 2, SMALL)
        assert torch.equal(sample.image, expected.image) and torch.equal(sample.labels, expected.labels)
        assert torch.equal(truth.boxes, expected.boxes) and truth.size == SMALL.size and truth.image_id == i + 2
        assert torch.equal(truth.area, box_ops.area(expected.boxes))
    larger, smaller = dataset.hold_out(0.3, seed=0)
    assert len(larger) == 4 and len(smaller) == 2
    assert torch.equal(smaller[1].image, generate(int(smaller.image_ids[1]), SMALL).image)


def test_an_empty_data_set_in_memory() -> None:
    assert len(synthetic_dataset(dataclasses.replace(SMALL, count=0))) == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"classes": ("balll",)}, "did you mean 'ball'"),
        ({"classes": ("ball", "ball")}, "none twice"),
        ({"classes": ()}, "at least one"),
        ({"size": (8, 64)}, "at least 32"),
        ({"objects": (0, 2)}, "fewest"),
        ({"scale": (0.5, 1.5)}, "largest"),
        ({"empty": 1.2}, "bad empty"),
        ({"seed": -1}, "bad seed"),
    ],
)
def test_a_wrong_configuration_is_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        dataclasses.replace(SMALL, **change)  # type: ignore[arg-type]
