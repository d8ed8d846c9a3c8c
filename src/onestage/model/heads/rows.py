"""From maps to rows of anchors.

Shape letters: B images, S shapes per cell, A anchors over all levels, C logits per anchor.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class HeadModule(nn.Module):
    """A built head: maps, a list of (B, C_l, H_l, W_l) fine to coarse, to logits (B, A, C) and deltas (B, A, 4).

    Its parts cls and box: one net for all levels, or a list of one per level. The last layer of each gives the outputs.
    """

    def class_outputs(self) -> tuple[str, ...]:
        """Names, in the state_dict, of the tensors that give the logits: (S * C, ...), rows ordered (shape, logit)."""
        return _last_layers("cls", self.get_submodule("cls"))

    def box_outputs(self) -> tuple[str, ...]:
        """Names, in the state_dict, of the tensors that give the box offsets: (S * 4, ...), rows ordered (shape, offset)."""
        return _last_layers("box", self.get_submodule("box"))


def _last_layers(name: str, nets: nn.Module) -> tuple[str, ...]:
    """The names of weight and bias of the last layer of a net, or of each net in a list, all under that name."""
    single = not isinstance(nets, nn.ModuleList)
    named = [(name, nets)] if single else [(f"{name}.{level}", net) for level, net in nets.named_children()]
    return tuple(f"{place}.{tensor}" for place, net in named for tensor, _ in list(net.named_parameters())[-2:])


def as_rows(logits: Sequence[Tensor], deltas: Sequence[Tensor], width: int) -> tuple[Tensor, Tensor]:
    """What the convolutions of a head give, maps (B, S * C, H_l, W_l) and (B, S * 4, H_l, W_l), as (B, A, C) and (B, A, 4).

    width: C.
    """
    return _rows(logits, width), _rows(deltas, 4)


def _rows(maps: Sequence[Tensor], width: int) -> Tensor:
    return torch.cat([m.permute(0, 2, 3, 1).reshape(m.shape[0], -1, width) for m in maps], dim=1)
