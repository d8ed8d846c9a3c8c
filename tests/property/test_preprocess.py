"""Preprocess: whatever the picture's size, boxes go to the input and back, and the picture goes with them."""

import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from onestage.model.preprocess import Preprocess

sides = st.integers(1, 90)
input_sides = st.integers(2, 90)  # torch itself fails at 1 x 1


@given(sides, sides, input_sides, input_sides, st.booleans())
@settings(deadline=None)
def test_the_input_has_its_size_and_the_meta_undoes_it(height, width, h, w, antialias):
    resized, meta = Preprocess((h, w), antialias=antialias).resize(torch.zeros(3, height, width, dtype=torch.uint8))
    assert resized.shape == (3, h, w)
    whole = torch.tensor([[0.0, 0, width, height]])
    torch.testing.assert_close(meta.apply(whole), torch.tensor([[0.0, 0, w, h]]))
    torch.testing.assert_close(meta.undo(meta.apply(whole)), whole)


@given(st.integers(1, 3000), st.integers(1, 3000), sides, sides, st.sampled_from(["stretch", "letterbox", "shortest_edge"]))
@settings(deadline=None)
def test_every_mode_keeps_the_whole_picture_in_the_input_and_undoes_it(height, width, a, b, mode):
    preprocess = Preprocess((min(a, b), max(a, b)), mode=mode)
    meta = preprocess.place((height, width))
    whole = torch.tensor([[0.0, 0, width, height]], dtype=torch.float64)
    placed = meta.apply(whole)
    assert (placed[0, :2] == 0).all() and (placed[0, 2:] >= 1 - 1e-6).all()
    assert placed[0, 3] <= meta.input[0] + 1e-6 and placed[0, 2] <= meta.input[1] + 1e-6
    torch.testing.assert_close(meta.undo(placed), whole)
    if mode == "shortest_edge":
        assume(min(placed[0, 2:]) > 1)
        assert all(side % 32 == 0 for side in meta.input)
        assert min(placed[0, 2:]) <= preprocess.size[0] + 1e-6 and max(placed[0, 2:]) <= preprocess.size[1] + 1e-6
    else:
        assert meta.input == preprocess.size
    if mode == "letterbox":
        left = torch.tensor(preprocess.size).flip(0) - placed[0, 2:]
        assert left.min() < 1 + 1e-6  # whole pixels, rounded down


@given(st.integers(0, 1), st.integers(0, 1), st.integers(2, 40), st.integers(2, 40), st.booleans())
@settings(deadline=None)
def test_pixels_move_with_their_boxes(bottom, right, h, w, antialias):
    """The brightest corner of a 2x2 picture is where its box says it is."""
    image = torch.zeros(3, 2, 2, dtype=torch.uint8)
    image[:, bottom, right] = 255
    resized, meta = Preprocess((h, w), antialias=antialias).resize(image)
    x1, y1, x2, y2 = meta.apply(torch.tensor([[right, bottom, right + 1, bottom + 1]]).float())[0].round().int().tolist()
    inside = resized[0, y1:y2, x1:x2].float()
    assert inside.numel() == 0 or inside.mean() >= resized[0].float().mean()


@given(st.integers(0, 255), st.floats(0, 1), st.floats(0.01, 2))
def test_normalising_is_the_formula(value, mean, std):
    ours = Preprocess((1, 1), (mean,) * 3, (std,) * 3).normalize(torch.full((1, 3, 1, 1), value, dtype=torch.uint8))
    expected = torch.full((1, 3, 1, 1), (value / 255 - mean) / std)
    torch.testing.assert_close(ours, expected, atol=2e-5, rtol=2e-5)
