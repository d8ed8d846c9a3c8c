"""Any timm model that gives feature maps, as a backbone.

Shape letters: B images, C_l channels of level l.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Self

import timm
import torch
from timm.layers.drop import DropPath
from timm.layers.format import Format
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from onestage.errors import ConfigError, nearest, require
from onestage.model.features import Features, blank_image, dry_run, sizes_of
from onestage.model.layers.same_padding import spare_copies


@dataclass(frozen=True)
class TimmBackbone:
    """Any timm model that gives feature maps, by its timm name ("resnet34", "convnext_tiny", ...).

    strides: which of its maps are used, by their stride in input pixels. keep_resolution: the last stage used runs at stride 1
    instead of 2, as in NVIDIA's SSD300-ResNet50 (its map is then as fine as the one before it). activation: in place of the
    network's own.

    dilated: in a stage of kept resolution the convolutions behind the stride that is gone take every second cell, so that they
    look as far as they did (DSSD, section 3.1: a trous). unpadded_pool: the stem's max pooling rounds up instead of padding, as
    in Caffe's ResNets: 321 pixels give maps of 40 and 20 cells, not 41 and 21.

    norm: "frozen" batch norm keeps its weights and statistics, as is usual when a classifier is tuned on batches of few large
    pictures. freeze: nothing learns up to the freeze-th map that timm offers, batch norm included: of a ResNet 1 is the stem, 2
    the first stage too, as detectron2's MODEL.BACKBONE.FREEZE_AT counts.

    drop_path: in training each residual block is left out for a picture with a chance of its own, which rises over the network
    from 0 to about this (stochastic depth, arXiv 1603.09382), but where all is frozen. None leaves it to timm: mostly none.
    """

    name: str
    strides: tuple[int, ...] = (8, 16, 32)
    keep_resolution: bool = False
    norm: Literal["train", "frozen"] = "train"
    freeze: int = 0
    activation: Literal["relu", "relu6"] | None = None
    dilated: bool = False
    unpadded_pool: bool = False
    drop_path: float | None = None

    def __post_init__(self) -> None:
        require(self.keep_resolution or not self.dilated, "dilated needs keep_resolution", got=self)
        require(self.drop_path is None or 0 <= self.drop_path < 1, "drop_path is 0 or more, below 1", got=self.drop_path)

    def build(self) -> Features:
        return _Timm(self)


class _Timm(Features):
    def __init__(self, config: TimmBackbone) -> None:
        super().__init__()
        in_order = list(config.strides) == sorted(set(config.strides))
        require(in_order, "strides are given fine to coarse, each once", got=config.strides)
        with torch.device("meta"):  # only to ask: nothing is allocated
            whole = _timm_features(config.name)
        info = whole.feature_info
        offered = info.reduction()
        if missing := [s for s in config.strides if s not in offered]:
            raise ConfigError(
                "the backbone has no map of that stride", where=config.name, got=missing, expected=f"of {offered}"
            )
        # the first map offered need not be the network's first: timm counts dla34's from 1
        indices = [info.out_indices[offered.index(s)] for s in config.strides]
        body = _timm_features(config.name, indices, activation=config.activation, drop_path=config.drop_path)
        assert body.feature_info.reduction() == list(config.strides)
        self.channels = tuple(body.feature_info.channels())
        self.channels_last = getattr(body, "output_fmt", None) == Format.NHWC
        self.body = body
        if config.keep_resolution:
            _undo_stride(list(body.children())[-1], dilated=config.dilated)
            _check_kept(whole, body, config)
        if config.unpadded_pool:
            _unpad_pool(body)
        if config.drop_path:
            what = "drop_path needs a backbone with residual blocks that timm can leave out"
            require(_leaves_out(body), what, got=config.name, fix="take another backbone, or leave backbone.drop_path alone")
        spare_copies(body)
        self._freeze(config, whole)
        self.train()

    def _freeze(self, config: TimmBackbone, whole: nn.Module) -> None:
        """Take what the config freezes out of learning. whole: the network with all the maps it offers, on the meta device."""
        frozen = _behind(whole, config)
        for name, parameter in self.body.named_parameters():
            if name in frozen:
                parameter.requires_grad_(False)
        if config.norm == "frozen":
            norms = [m for m in self.body.modules() if isinstance(m, _BatchNorm)]
            require(bool(norms), 'norm="frozen" needs a backbone with batch norm', got=config.name)
            for norm in norms:
                norm.requires_grad_(False)
        norms = [m for m in self.body.modules() if isinstance(m, _BatchNorm) and m.affine]
        held = [m for m in self.body.modules() if not any(p.requires_grad for p in m.parameters())]
        drops = [drop for module in held for drop in module.children() if isinstance(drop, DropPath)]
        self._resting = [*(norm for norm in norms if not norm.weight.requires_grad), *drops]

    def train(self, mode: bool = True) -> Self:
        """Training mode, but for what the config freezes: batch norm keeps its statistics there, and no block is left out."""
        super().train(mode)
        for module in self._resting:  # whatever a caller has done to requires_grad since
            module.eval()
        return self

    def forward(self, images: Tensor) -> list[Tensor]:
        maps: list[Tensor] = self.body(images)
        return [m.permute(0, 3, 1, 2) for m in maps] if self.channels_last else maps


def _behind(whole: nn.Module, config: TimmBackbone) -> set[str]:
    """Names of the parameters on which the first ``config.freeze`` maps depend, whatever the network looks like inside."""
    if config.freeze == 0:
        return set()
    size = timm.get_pretrained_cfg_value(config.name, "input_size") or (3, 224, 224)
    maps: list[Tensor] = whole(torch.empty(1, *size, device="meta"))
    rule = f"{config.name} offers {len(maps)} maps, so freeze lies in 0..{len(maps)}"
    require(0 < config.freeze <= len(maps), rule, got=config.freeze)
    names, parameters = zip(*whole.named_parameters(), strict=True)
    total = sum((m.sum() for m in maps[: config.freeze]), start=torch.zeros((), device="meta"))
    slopes = torch.autograd.grad(total, parameters, allow_unused=True)
    return {name for name, slope in zip(names, slopes, strict=True) if slope is not None}


def _timm_features(
    name: str, out_indices: list[int] | None = None, *, activation: str | None = None, drop_path: float | None = None
) -> Any:
    """timm's feature extractor of that name, with fresh weights; ConfigError where there is none. None: as timm has it."""
    if not timm.is_model(name):
        raise ConfigError("timm has no such model", got=name + nearest(name, timm.list_models()), fix="see timm.list_models()")
    try:
        options: dict[str, Any] = {"out_indices": out_indices, "act_layer": activation, "drop_path_rate": drop_path}
        return timm.create_model(name, features_only=True, pretrained=False, **options)  # which passes no None on
    except (RuntimeError, AttributeError) as e:  # timm's own refusal, and a model without feature_info
        raise ConfigError("this timm model gives no feature maps", got=name, fix="take a convolutional one") from e
    except TypeError as e:
        asked = {"backbone.activation": activation, "backbone.drop_path": drop_path}
        got = ", ".join(f"{key}={value}" for key, value in asked.items() if value is not None)
        what, fix = "timm has no such choice for this backbone", "leave it as it is, or take another backbone"
        raise ConfigError(what, where=name, got=f"{got} ({e})", fix=fix) from e


def _leaves_out(body: nn.Module) -> bool:
    """Whether any block does: MobileNet v1's of timm hold a DropPath too, but have no shortcut and never call it."""
    blocks = (m for m in body.modules() if any(isinstance(child, DropPath) for child in m.children()))
    return any(getattr(block, "has_skip", True) for block in blocks)


def _undo_stride(stage: nn.Module, *, dilated: bool) -> None:
    """Set every stride of a stage to 1; its weights stay as they are. ConfigError where it has none."""
    strided = [m for m in stage.modules() if isinstance(m, nn.Conv2d | nn.MaxPool2d | nn.AvgPool2d) and m.stride in (2, (2, 2))]
    require(bool(strided), "keep_resolution needs a backbone whose last stage has a stride", got=type(stage).__name__)
    if dilated:
        for conv in stage.modules():
            if isinstance(conv, nn.Conv2d) and conv.kernel_size != (1, 1) and conv not in strided:
                conv.dilation = (2, 2)
                rows, columns = (int(cells) for cells in conv.padding)  # timm gives numbers, not "same"
                conv.padding = (2 * rows, 2 * columns)
    for module in strided:
        module.stride = (1, 1) if isinstance(module, nn.Conv2d) else 1


def _check_kept(whole: nn.Module, body: nn.Module, config: TimmBackbone) -> None:
    """ConfigError unless the last map of ``body`` is now as fine as the one before it was, and the others are what they were.

    Where the last stage of a network is not the last of its modules (MobileNets), strides before it are gone too.
    """
    size = timm.get_pretrained_cfg_value(config.name, "input_size") or (3, 224, 224)
    whole_info: Any = whole.feature_info
    offered = [1, *whole_info.reduction()]
    before = sizes_of(dry_run(whole, blank_image(size[1:]), size[1:], where=config.name))
    cells = dict(zip(offered, [size[1:], *before], strict=True))
    kept = [*config.strides[:-1], offered[offered.index(config.strides[-1]) - 1]]
    expected = [tuple(cells[stride]) for stride in kept]
    got = [*sizes_of(dry_run(body, blank_image(size[1:]), size[1:], where=config.name))]
    if got != expected:
        what = "keep_resolution does not suit this backbone: its strides do not stand in its last stage alone"
        fix = "take a ResNet or a relative of it"
        raise ConfigError(what, where=config.name, got=f"maps of {got}", expected=expected, fix=fix)


def _unpad_pool(body: nn.Module) -> None:
    """ConfigError where the network has no max pooling of its own, or several."""
    pools = [m for m in body.modules() if isinstance(m, nn.MaxPool2d)]
    rule = "unpadded_pool needs a backbone with one max pooling"
    require(len(pools) == 1, rule, got=f"{len(pools)} in {type(body).__name__}")
    pools[0].padding, pools[0].ceil_mode = 0, True
