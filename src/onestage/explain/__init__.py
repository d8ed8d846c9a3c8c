"""What a detector does with one picture, step by step: anchors, matches, the loss of each anchor, and NMS."""

from onestage.explain.explanation import Explanation, Group, Level, explain_sample, stand_ins
from onestage.explain.page import files_of, save_explanation

__all__ = ["Explanation", "Group", "Level", "explain_sample", "files_of", "save_explanation", "stand_ins"]
