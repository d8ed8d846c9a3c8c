"""The closed table of class losses: every kind that a config may name."""

from __future__ import annotations

from onestage.model.losses.focal import FocalLoss
from onestage.model.losses.multibox import MultiBoxLoss
from onestage.model.losses.quality_focal import QualityFocalLoss

ClassLoss = MultiBoxLoss | FocalLoss | QualityFocalLoss
