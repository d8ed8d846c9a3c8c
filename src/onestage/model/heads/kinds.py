"""The closed table of heads: every kind that a config may name."""

from __future__ import annotations

from onestage.model.heads.per_level import ConvHead
from onestage.model.heads.residual import ResidualHead
from onestage.model.heads.separable import SeparableHead
from onestage.model.heads.shared import SharedHead

Head = ConvHead | SharedHead | SeparableHead | ResidualHead
