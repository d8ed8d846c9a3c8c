"""The closed table of necks: every kind that a config may name."""

from __future__ import annotations

from onestage.model.necks.bifpn import BiFPN
from onestage.model.necks.deconvolution import Deconvolution
from onestage.model.necks.extra_levels import ExtraLevels
from onestage.model.necks.fpn import FPN

Neck = ExtraLevels | FPN | BiFPN | Deconvolution
