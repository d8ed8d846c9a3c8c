"""The DSSD family (Fu et al., arXiv 1701.06659): SSD on ResNet-101, and the same with deconvolution.

SSD and DSSD differ in the neck alone. Every input size works, and the default boxes have the scales of SSD (zoo/ssd.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from onestage.model.backbones.any_timm import TimmBackbone
from onestage.model.config import DetectorConfig
from onestage.model.heads.residual import ResidualHead
from onestage.model.necks.deconvolution import Deconvolution
from onestage.model.necks.extra_levels import ExtraLevels
from onestage.structures import Size
from onestage.zoo import ssd

RATIOS = (1.6, 2.0, 3.0)
"""Of the default boxes of every level, with their inverses (section 3.2)."""
EXTRAS = ((256, 1024),)
"""(middle, out) channels of the extra levels. The paper states 1024 and leaves the rest open. Here they are SSD's blocks with
batch norm.
"""


def ssd_resnet101(classes: tuple[str, ...], size: Size, box_sizes: Sequence[float] | None = None) -> DetectorConfig:
    """SSD321 and SSD513 (section 3.1): the maps conv3_x and conv5_x, extra levels, and a residual block before every prediction
    (figure 2c). conv5_x has stride 16 instead of 32, with dilated convolutions.
    """
    body = TimmBackbone("resnet101", (8, 32), keep_resolution=True, dilated=True, unpadded_pool=True)
    pyramid = ssd.Pyramid(body, (8, 16), EXTRAS, ratios=RATIOS)
    config = ssd.with_extra_levels("ssd_resnet101", classes, size=size, box_sizes=box_sizes, pyramid=pyramid)
    return replace(config, head=ResidualHead())


def dssd_resnet101(classes: tuple[str, ...], size: Size, box_sizes: Sequence[float] | None = None) -> DetectorConfig:
    """DSSD321 and DSSD513."""
    return _deconvolved(ssd_resnet101(classes, size, box_sizes), "dssd_resnet101", width=512)


def dssd(
    classes: tuple[str, ...], size: Size, box_sizes: Sequence[float] | None = None, *, backbone: str = "resnet34"
) -> DetectorConfig:
    """DSSD on any timm backbone: its maps of stride 8, 16 and 32, SSD's extra levels, and a quarter of the paper's widths."""
    pyramid = ssd.Pyramid(TimmBackbone(backbone), (8, 16, 32), ssd.VGG_EXTRAS, ratios=RATIOS)
    name = f"dssd_{backbone}"
    config = ssd.with_extra_levels(name, classes, size=size, box_sizes=box_sizes, pyramid=pyramid)
    return _deconvolved(replace(config, head=ResidualHead(width=256)), name, width=128)


def _deconvolved(config: DetectorConfig, name: str, *, width: int) -> DetectorConfig:
    """The SSD with a deconvolution module of that width for every level."""
    assert isinstance(config.neck, ExtraLevels)
    return replace(config, name=name, neck=Deconvolution(config.neck, width))
