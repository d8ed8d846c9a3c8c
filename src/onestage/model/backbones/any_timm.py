"""Any timm model that gives feature maps, as a backbone.

Shape letters: B images, H and W of the input, C_l channels and H_l x W_l cells of level l.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal, Self

import torch
from timm.layers.drop import DropPath
from timm.layers.format import Format
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from onestage.errors import ConfigError, require
from onestage.model.backbones.timm_network import (
    check_kept,
    create_network,
    drops_paths,
    feature_info,
    parameters_up_to,
    undo_stride,
    unpad_pool,
)
from onestage.model.codec import Part
from onestage.model.features import Features
from onestage.model.layers.same_padding import spare_copies
from onestage.model.limits import MANY_LEVELS, PARAMETERS, Levels, Name, Rate


@dataclass(frozen=True)
class TimmBackbone(Part):
    """Any timm model that gives feature maps, by its timm name ("resnet34", "convnext_tiny", ...).

    strides: which of its maps are used, by their stride in input pixels. keep_resolution: the last stage used runs at stride 1
    instead of 2, as in NVIDIA's SSD300-ResNet50. Its map is then as fine as the map before it. activation: replaces the
    activation of the network.

    dilated: in a stage of kept resolution the convolutions behind the former stride take every second cell, so that their
    receptive field stays the same (DSSD, section 3.1: a trous). unpadded_pool: the max pooling of the stem rounds up instead of
    padding, as in Caffe's ResNets: 321 pixels give maps of 40 and 20 cells, not 41 and 21.

    norm: "frozen" batch norm keeps its weights and statistics, as is usual when a classifier is tuned on batches of few large
    pictures. freeze: the layers up to map number ``freeze`` of timm's maps do not learn, batch norm included. In a ResNet, 1 is
    the stem, and 2 the stem and the first stage, as in detectron2's MODEL.BACKBONE.FREEZE_AT.

    drop_path: in training each residual block is skipped at random, picture by picture (stochastic depth, arXiv 1603.09382).
    The probability rises over the network from 0 to about this number; frozen blocks are never skipped. None means
    timm's default: usually no block is skipped.
    """

    name: Name
    strides: Annotated[tuple[int, ...], MANY_LEVELS] = (8, 16, 32)
    keep_resolution: bool = False
    norm: Literal["train", "frozen"] = "train"
    freeze: Levels = 0
    activation: Literal["relu", "relu6"] | None = None
    dilated: bool = False
    unpadded_pool: bool = False
    drop_path: Rate | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        require(bool(self.strides), "a backbone gives at least one map", got=self.strides)
        require(self.keep_resolution or not self.dilated, "dilated needs keep_resolution", got=self)

    def build(self) -> Features:
        """The network with fresh weights. Raise ConfigError if timm has no such network."""
        return _Timm(self)


class _Timm(Features):
    def __init__(self, config: TimmBackbone) -> None:
        super().__init__()
        in_order = list(config.strides) == sorted(set(config.strides))
        require(in_order, "strides are given fine to coarse, each once", got=config.strides)
        with torch.device("meta"):  # only to read its structure: no memory is allocated
            whole = create_network(config.name)
        PARAMETERS.check(sum(p.numel() for p in whole.parameters()), config.name)
        self.body = create_network(
            config.name, _indices(whole, config), activation=config.activation, drop_path=config.drop_path
        )
        info = feature_info(self.body)
        assert info.reduction() == list(config.strides)
        self.channels = tuple(info.channels())
        *finer, last = config.strides
        self.strides = (*finer, last // 2 if config.keep_resolution else last)
        self.channels_last = getattr(self.body, "output_fmt", None) == Format.NHWC
        self._change(config, whole)
        spare_copies(self.body)
        self._freeze(config, whole)
        self._resting = _resting(self.body)
        self.train()

    def _change(self, config: TimmBackbone, whole: nn.Module) -> None:
        """Change the network as the config says. whole: the network with all the maps that it offers, as timm has it."""
        if config.keep_resolution:
            undo_stride(list(self.body.children())[-1], dilated=config.dilated)
            check_kept(whole, self.body, config.name)
        if config.unpadded_pool:
            unpad_pool(self.body)
        if config.drop_path:
            what = "drop_path needs a backbone with residual blocks that timm can leave out"
            require(
                drops_paths(self.body), what, got=config.name, fix="take another backbone, or leave backbone.drop_path alone"
            )

    def _freeze(self, config: TimmBackbone, whole: nn.Module) -> None:
        """Freeze the layers that the config freezes. whole: as in ``_change``, on the meta device."""
        frozen = parameters_up_to(whole, config.name, config.freeze)
        for name, parameter in self.body.named_parameters():
            if name in frozen:
                parameter.requires_grad_(False)
        if config.norm == "frozen":
            norms = [m for m in self.body.modules() if isinstance(m, _BatchNorm)]
            require(bool(norms), 'norm="frozen" needs a backbone with batch norm', got=config.name)
            for norm in norms:
                norm.requires_grad_(False)

    def train(self, mode: bool = True) -> Self:
        """Training mode, except for what the config freezes: batch norm keeps its statistics there, and no block is skipped.

        A later change of ``requires_grad`` does not change this.
        """
        super().train(mode)
        for module in self._resting:
            module.eval()
        return self

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W) -> a list of (B, C_l, H_l, W_l), one map per stride."""
        maps: list[Tensor] = self.body(images)
        return [m.permute(0, 3, 1, 2) for m in maps] if self.channels_last else maps


def _indices(whole: nn.Module, config: TimmBackbone) -> list[int]:
    """timm's indices of the maps of the config's strides. timm's first map need not have index 0: in dla34 it has 1."""
    info = feature_info(whole)
    offered = info.reduction()
    if missing := [s for s in config.strides if s not in offered]:
        what = "the backbone has no map of that stride"
        raise ConfigError(what, where=config.name, got=missing, expected=f"of {offered}")
    return [info.out_indices[offered.index(s)] for s in config.strides]


def _resting(body: nn.Module) -> list[nn.Module]:
    """The modules that never go into training mode: batch norm that does not learn, and drop_path of blocks that do
    not learn.
    """
    norms = [m for m in body.modules() if isinstance(m, _BatchNorm) and m.affine and not m.weight.requires_grad]
    held = [m for m in body.modules() if not any(p.requires_grad for p in m.parameters())]
    return [*norms, *(drop for module in held for drop in module.children() if isinstance(drop, DropPath))]
