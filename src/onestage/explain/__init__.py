"""What a detector does with one picture, step by step: anchors, matches, the loss of each anchor, and NMS."""

from onestage.explain.explanation import Explanation, Group, Level, explain_sample, stand_ins
from onestage.explain.page import save_explanation

__all__ = ["Explanation", "Group", "Level", "explain_sample", "save_explanation", "stand_ins"]
