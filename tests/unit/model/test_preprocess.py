"""Preprocess: the resize, the normalisation, and where the picture then lies."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torchvision.models.detection.transform import GeneralizedRCNNTransform

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


LETTERBOX = Preprocess((64, 96), mode="letterbox")
SHORTEST = Preprocess((60, 100), mode="shortest_edge")


def test_letterbox_is_as_large_as_fits_in_the_top_left_corner():
    for original, inner in {(100, 100): (64, 64), (100, 200): (48, 96), (30, 10): (64, 21), (64, 96): (64, 96)}.items():
        pixels, meta = LETTERBOX.resize(picture(*original))
        assert pixels.shape == (3, 64, 96) and meta.input == (64, 96)
        assert meta.apply(torch.tensor([0.0, 0, original[1], original[0]])).tolist() == pytest.approx(
            [0, 0, inner[1], inner[0]]
        )
        alone, _ = Preprocess(inner).resize(picture(*original))
        assert torch.equal(pixels[:, : inner[0], : inner[1]], alone)
        colour = torch.tensor([124, 116, 104]).view(3, 1, 1)
        assert (pixels[:, inner[0] :] == colour).all() and (pixels[:, :, inner[1] :] == colour).all()


def test_shortest_edge():
    for original, inner in {(120, 120): (60, 60), (120, 240): (50, 100), (100, 110): (60, 66), (30, 20): (90, 60)}.items():
        pixels, meta = SHORTEST.resize(picture(*original))
        whole = tuple(-(-side // 32) * 32 for side in inner)
        assert pixels.shape[1:] == meta.input == whole
        assert meta.apply(torch.tensor([0.0, 0, original[1], original[0]])).tolist() == pytest.approx(
            [0, 0, inner[1], inner[0]]
        )


@pytest.mark.parametrize("preprocess", [LETTERBOX, SHORTEST], ids=["letterbox", "shortest edge"])
def test_padding_is_nothing_to_the_network(preprocess):
    """Exactly nothing in float; in uint8 the mean colour is rounded."""
    for antialias, most in ((False, 0.0), (True, 0.5 / 255 / 0.224)):
        plain = Preprocess(preprocess.size, antialias=antialias, mode=preprocess.mode)
        batch, metas = plain([picture(40, 90), picture(90, 40), picture(30, 50), picture(60, 66)])
        assert len({meta.input for meta in metas}) == 1 and batch.shape[2:] == metas[0].input
        padded = 0
        for image, meta in zip(batch, metas, strict=True):
            rows, columns = (round(side * scale) for side, scale in zip(meta.original, meta.scale, strict=True))
            padding = torch.cat([image[:, rows:].flatten(), image[:, :, columns:].flatten()])
            assert len(padding) == 0 or padding.abs().max() <= most
            padded += len(padding)
        assert padded > 0


def test_a_picture_gets_the_same_pixels_in_any_company():
    """With plain interpolation also one that happens to have the right size already."""
    for antialias in (False, True):
        preprocess = Preprocess((60, 100), antialias=antialias, mode="shortest_edge")
        pictures = [picture(60, 66), picture(90, 200), picture(200, 90)]
        batch, metas = preprocess(pictures)
        for image, together, meta in zip(pictures, batch, metas, strict=True):
            (alone,), (own,) = preprocess([image])
            assert meta.scale == own.scale and meta.input == tuple(batch.shape[2:])
            assert torch.equal(together[:, : own.input[0], : own.input[1]], alone)


def test_shortest_edge_is_torchvisions():
    """Sizes for many pictures, and for some the pixels."""
    theirs = GeneralizedRCNNTransform(160, 266, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]).eval()
    ours = Preprocess((160, 266), antialias=False, mode="shortest_edge")
    generator = torch.Generator().manual_seed(0)
    sizes = torch.randint(1, 700, (150, 2), generator=generator).tolist()
    sizes = [size for size in sizes if max(size) < 60 * min(size)] + [[480, 640], [427, 640], [640, 480], [333, 500]]
    for height, width in sizes:
        meta = ours.place((height, width))
        resized, _ = theirs.resize(torch.zeros(1, height, width))
        assert [round(side * scale) for side, scale in zip((height, width), meta.scale, strict=True)] == list(resized.shape[1:])
        assert meta.input == tuple(theirs.batch_images([resized]).shape[2:])
    pictures = [picture(120, 90), picture(64, 200), picture(160, 266)]
    expected, _ = theirs([image / 255 for image in pictures])
    batch, metas = ours(pictures)
    torch.testing.assert_close(batch, expected.tensors, atol=1e-4, rtol=0)
    assert [tuple(round(a * b) for a, b in zip(m.original, m.scale, strict=True)) for m in metas] == expected.image_sizes


def test_the_largest_input():
    assert [p.largest for p in (Preprocess((30, 40)), LETTERBOX, SHORTEST)] == [(30, 40), (64, 96), (64, 128)]


@pytest.mark.parametrize(
    "values", [{"size": (0, 5)}, {"size": (5, 5), "std": (1.0, 0.0, 1.0)}, {"size": (9, 5), "mode": "shortest_edge"}]
)
def test_values_that_make_no_input_are_refused(values):
    with pytest.raises(ConfigError):
        Preprocess(**values)
