"""The pictures of a report say which detections they show."""

import pytest

from metric_cases import found
from onestage.cli.report import SCORE, caption


@pytest.mark.parametrize(
    ("scores", "text"),
    [
        ([0.9, 0.1], "the labels, and what was found with a score of 0.30 or more"),
        ([SCORE + 1e-3], "the labels, and what was found with a score of 0.30 or more"),
        ([0.298, 0.1], "the labels; nothing reached a score of 0.30, the best has 0.298"),
        ([], "the labels; nothing was found"),
    ],
    ids=["some", "just", "too weak", "none"],
)
def test_a_caption_says_from_which_score_on_boxes_are_drawn(scores: list[float], text: str) -> None:
    assert caption(found(1, [(0, score, 1, 1, 9, 9) for score in scores])).endswith(f": {text}")
