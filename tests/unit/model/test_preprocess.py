"""Preprocess: the resize, the normalisation, and where the picture then lies."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from onestage.errors import ConfigError
from onestage.model.preprocess import Preprocess


def picture(height, width, seed=0):
    return torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def test_antialiased_resize_is_pillows_up_to_rounding():
    image = picture(123, 250)
    ours, _ = Preprocess((60, 70)).resize(image)
    theirs = Image.fromarray(image.permute(1, 2, 0).numpy()).resize((70, 60), Image.Resampling.BILINEAR)
    assert ours.dtype == torch.uint8
    off = np.abs(ours.permute(1, 2, 0).numpy().astype(int) - np.asarray(theirs))
    assert off.max() <= 1
    assert (off > 0).mean() < 0.01


def test_plain_bilinear_resize_stays_float():
    image = picture(50, 40)
    ours, _ = Preprocess((60, 70), antialias=False).resize(image)
    theirs = F.interpolate(image[None].float(), (60, 70), mode="bilinear", align_corners=False)[0]
    assert torch.equal(ours, theirs)
    assert not torch.equal(ours, ours.round())


def test_a_picture_of_the_right_size_is_left_alone():
    image = picture(60, 70)
    ours, meta = Preprocess((60, 70)).resize(image)
    assert ours is image
    assert (meta.original, meta.input, meta.scale, meta.pad) == ((60, 70), (60, 70), (1, 1), (0, 0))


def test_meta_says_how_it_was_stretched():
    _, meta = Preprocess((300, 320)).resize(picture(100, 640))
    assert meta.original == (100, 640)
    assert meta.input == (300, 320)
    assert meta.apply(torch.tensor([[0.0, 0, 640, 100], [64, 10, 128, 20]])).tolist() == [[0, 0, 320, 300], [32, 30, 64, 60]]


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_normalise(dtype):
    pixels = torch.tensor([0, 100, 255], dtype=dtype).view(1, 3, 1, 1).expand(2, 3, 4, 5)
    ours = Preprocess((4, 5), mean=(0.5, 0.25, 0.0), std=(0.5, 0.1, 2.0)).normalize(pixels)
    assert ours[1, :, 2, 3].tolist() == pytest.approx([-1, (100 / 255 - 0.25) / 0.1, 0.5], rel=1e-5)
    assert ours.dtype == torch.float32
    assert ours.is_contiguous(memory_format=torch.channels_last)


def test_pictures_of_any_size_become_one_batch():
    batch, metas = Preprocess((32, 48))([picture(10, 20), picture(100, 31), picture(32, 48)])
    assert batch.shape == (3, 3, 32, 48)
    assert [meta.original for meta in metas] == [(10, 20), (100, 31), (32, 48)]


@pytest.mark.parametrize("values", [{"size": (0, 5)}, {"size": (5, 5), "std": (1.0, 0.0, 1.0)}])
def test_values_that_make_no_input_are_refused(values):
    with pytest.raises(ConfigError):
        Preprocess(**values)
