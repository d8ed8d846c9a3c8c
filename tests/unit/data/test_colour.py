"""The affine colour map against torchvision's chain of photometric operations."""

import pytest
import torch
from torchvision.transforms import v2

from onestage.data.colour import Colours, distort_colours, draw_colours, mean_colour, recolour


def picture() -> torch.Tensor:
    """Smooth and colourful, with values far enough from 0 and 255 that nothing is cut."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(1, 3, 6, 7, generator=generator) * 60 + torch.tensor([110.0, 90.0, 70.0]).view(1, 3, 1, 1)
    return torch.nn.functional.interpolate(coarse, (60, 70), mode="bilinear")[0].round().to(torch.uint8)


def torchvision_chain(image: torch.Tensor, colours: Colours) -> torch.Tensor:
    params = {
        "brightness_factor": colours.brightness,
        "contrast_factor": colours.contrast,
        "saturation_factor": colours.saturation,
        "hue_factor": colours.hue or None,
        "contrast_before": colours.contrast_first,
        "channel_permutation": None,
    }
    return v2.RandomPhotometricDistort().transform(image, params)


@pytest.mark.parametrize(
    "colours",
    [
        Colours(brightness=1.125),
        Colours(brightness=0.875),
        Colours(contrast=1.5),
        Colours(contrast=0.5),
        Colours(saturation=1.5),
        Colours(saturation=0.5),
    ],
)
def test_each_factor_is_torchvisions_within_a_grey_level(colours: Colours) -> None:
    image = picture()
    difference = recolour(image, colours).int() - torchvision_chain(image, colours).int()
    assert difference.abs().max() <= 1
    assert (recolour(image, colours) != image).float().mean() > 0.5


@pytest.mark.parametrize("contrast_first", [True, False])
def test_a_chain_is_torchvisions_within_the_rounding_of_its_parts(contrast_first: bool) -> None:
    image = picture()
    colours = Colours(brightness=0.95, contrast=1.3, saturation=1.4, contrast_first=contrast_first)
    difference = recolour(image, colours).int() - torchvision_chain(image, colours).int()
    assert difference.abs().max() <= 3


@pytest.mark.parametrize("turn", [0.05, -0.05])
def test_hue_turns_the_way_of_torchvision_and_keeps_luminance(turn: float) -> None:
    image = torch.tensor([190, 120, 160], dtype=torch.uint8).view(3, 1, 1)
    ours = recolour(image, Colours(hue=turn)).flatten().float()
    theirs = v2.functional.adjust_hue(image, turn).flatten().float()
    assert torch.dot(ours - image.flatten(), theirs - image.flatten()) > 0
    luminance = torch.tensor([0.299, 0.587, 0.114])
    assert abs(luminance @ ours - luminance @ image.flatten().float()) < 1
    grey = torch.full((3, 2, 2), 90, dtype=torch.uint8)
    assert recolour(grey, Colours(hue=turn)).equal(grey)


def test_no_change_of_colour_changes_no_bit() -> None:
    assert recolour(picture(), Colours()).equal(picture())


def test_the_result_does_not_depend_on_the_number_of_threads() -> None:
    image = torch.randint(0, 256, (3, 301, 303), dtype=torch.uint8, generator=torch.Generator().manual_seed(3))
    colours = Colours(brightness=1.07, contrast=0.83, saturation=1.21, hue=0.03)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = recolour(image, colours)
        torch.set_num_threads(2)
        assert recolour(image, colours).equal(one)
    finally:
        torch.set_num_threads(before)


def test_mean_colour_is_exact() -> None:
    image = torch.tensor([[[0, 255]], [[10, 20]], [[7, 7]]], dtype=torch.float32)
    assert mean_colour(image).tolist() == [127.5, 15.0, 7.0]


def test_drawn_colours_stay_in_ssds_ranges_and_each_changes_half_of_the_time() -> None:
    generator = torch.Generator().manual_seed(0)
    drawn = torch.tensor([draw_colours(1.0, generator=generator) for _ in range(2000)])
    neutral = torch.tensor([1.0, 1.0, 1.0, 0.0])
    reach = torch.tensor([0.125, 0.5, 0.5, 0.05])
    distance = (drawn[:, :4] - neutral).abs()
    assert (distance <= reach + 1e-6).all()
    assert (distance.max(0).values > 0.95 * reach).all()
    changed = (distance > 0).float().mean(0)
    assert ((changed - 0.5).abs() < 0.05).all()


def test_strength_scales_the_ranges() -> None:
    weak = [draw_colours(0.2, generator=torch.Generator().manual_seed(i)) for i in range(200)]
    assert max(abs(c.contrast - 1) for c in weak) <= 0.1 + 1e-6


def test_strength_zero_gives_the_picture_and_draws_nothing() -> None:
    generator = torch.Generator().manual_seed(1)
    before = generator.get_state()
    image = picture()
    assert distort_colours(image, 0.0, shuffle_channels=0.0, generator=generator) is image
    assert generator.get_state().equal(before)


def test_shuffled_channels_are_the_same_channels() -> None:
    image = torch.arange(3, dtype=torch.uint8).view(3, 1, 1)
    orders = {
        tuple(distort_colours(image, 0.0, shuffle_channels=1.0, generator=torch.Generator().manual_seed(i)).flatten().tolist())
        for i in range(60)
    }
    assert len(orders) == 6 and all(sorted(order) == [0, 1, 2] for order in orders)
