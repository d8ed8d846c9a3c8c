"""A copy of a detector that only predicts, and does once what the detector does again for every picture.

Shape letters: B images, C input and O output channels, H and W of a map.

A batch norm in evaluation mode multiplies each channel by a number and adds one: the convolution before it can do that. The
filters of wide 3x3 convolutions are transformed for Winograd's algorithm and stored. Both change outputs by rounding, and
neither follows weights that change. So training, its validation and ``Detector.predict`` compute as the network is written.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from timm.layers.norm_act import BatchNormAct2d
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from onestage.errors import ConfigError
from onestage.model.detector import Detector, mirror
from onestage.model.features import is_changed
from onestage.model.layers.convolution import STORED_PIXELS, Conv3x3, StridedConv2d, convolve_by, is_wide, transformed
from onestage.model.layers.same_padding import SameConv2d
from onestage.model.reached import reached

CONVOLUTIONS = (nn.Conv2d, Conv3x3, StridedConv2d, SameConv2d)
"""Types that hand their weight to one convolution as it is, and give its result as it is."""
NORMS = (nn.BatchNorm2d, BatchNormAct2d)
"""Types of batch norm. The second one has an activation behind it."""


def folded(detector: Detector, *, bf16: bool = False) -> Detector:
    """The copy, with the weights as they are now, and with ``bf16`` in bfloat16. It predicts: do not train or save it.

    On a GPU, in another type than float32, if a part has hooks or another forward than its class, or if a copy would still
    reach parts of the detector, there is nothing to fold: without ``bf16`` it is then the detector itself. Raise ConfigError
    for bfloat16 if there can be no copy, or on a device that has no instructions for it.
    """
    usual = all(tensor.device.type == "cpu" and tensor.dtype == torch.float32 for tensor in detector.parameters())
    usual = usual and not any(map(is_changed, detector.modules()))
    if bf16:
        check_bfloat16(detector.device)
    elif not usual:
        return detector
    copy = _copied(detector)
    if copy is None:
        if bf16:
            what = "a detector with a part that a function or an object holds cannot be copied"
            raise ConfigError(what, where=detector.config.name, fix="leave --precision bf16 out")
        return detector
    instead: dict[nn.Module, nn.Module] = {}
    if usual:
        for conv, norm in _pairs(copy):
            old = copy.get_submodule(norm)
            instead[old] = _fold(copy.get_submodule(conv), old).eval()
        if not bf16:
            instead |= {part: StoredConv3x3(part).eval() for part in copy.modules() if is_wide(part)}
    made = mirror(copy, instead=instead)
    assert isinstance(made, Detector)
    return made.to(torch.bfloat16) if bf16 else made


def _copied(detector: Detector) -> Detector | None:
    """A copy with weights that are its alone; None if it would still reach a part of the detector."""
    made: dict[int, Tensor] = {}  # a tensor that several modules share stays one
    copy = mirror(detector, lambda tensor: made.setdefault(id(tensor), tensor.detach().clone()))
    assert isinstance(copy, Detector)
    return copy if set(reached(detector)).isdisjoint(reached(copy)) else None


def check_bfloat16(device: torch.device) -> None:
    """Raise ConfigError unless a device computes in bfloat16. Others imitate it, more slowly than in float32."""
    if device.type == "cuda":
        able = torch.cuda.is_bf16_supported(including_emulation=False)
    else:  # older versions of torch do not tell
        able = any(has for name, has in getattr(torch.cpu, "get_capabilities", dict)().items() if name.endswith("bf16"))
    if not able:
        what, fix = "this device does not compute in bfloat16, as far as torch knows", "leave --precision bf16 out"
        raise ConfigError(what, got=device, expected="such as a processor with AVX512_BF16 or AMX", fix=fix)


class StoredConv3x3(nn.Module):
    """A wide 3x3 convolution by Winograd's algorithm. Its filters are transformed at the first map that is large enough."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.conv = conv
        self.filters: Tensor | None = None

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, O, H, W)."""
        if images.device.type != "cpu" or images.shape[2:].numel() < STORED_PIXELS:
            plain: Tensor = self.conv(images)
            return plain
        if self.filters is None:  # two threads may both do it: they store the same numbers
            self.filters = transformed(self.conv.weight).contiguous()
        return convolve_by(images, self.filters, self.conv.bias)


class _Call(NamedTuple):
    """A call of one of torch's functions: the tensors that it took, and what it gave."""

    function: Callable[..., object]
    taken: Sequence[Tensor]
    given: object


class _Calls(TorchFunctionMode):
    """Lists the calls of functions that give tensors. It keeps the tensors, so none has the ``id`` of an earlier one."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[_Call] = []

    def __torch_function__(
        self,
        func: Callable[..., object],
        types: Sequence[type],
        args: tuple[object, ...] = (),
        kwargs: dict[str, object] | None = None,
    ) -> object:
        given = func(*args, **(kwargs or {}))
        if any(isinstance(leaf, Tensor) for leaf in tree_leaves(given)):
            taken = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
            self.seen.append(_Call(func, taken, given))
        return given


def _pairs(network: Detector) -> Iterator[tuple[str, str]]:
    """The names of each convolution and of the batch norm that takes its output, if nothing else does and each runs once."""
    made: dict[int, Tensor] = {}
    shapes = mirror(network, lambda tensor: made.setdefault(id(tensor), tensor.detach().to("meta")))
    names: dict[int, str] = {}  # a convolution by the id of its weight, a batch norm by that of its mean
    for name, part in shapes.named_modules():
        if type(part) in CONVOLUTIONS or type(part) in NORMS:
            names[id(part.weight if type(part) in CONVOLUTIONS else part.running_mean)] = name
    with torch.no_grad(), _Calls() as calls:
        shapes(torch.empty(1, 3, *network.config.preprocess.largest, dtype=torch.float32, device="meta"))
    uses = Counter(id(tensor) for call in calls.seen for tensor in call.taken)
    convolved: dict[int, str] = {}
    for function, taken, given in calls.seen:
        if function is F.conv2d and uses[id(given)] == uses[id(taken[1])] == 1 and id(taken[1]) in names:
            convolved[id(given)] = names[id(taken[1])]
        elif function is F.batch_norm and uses[id(taken[1])] == 1 and id(taken[0]) in convolved and id(taken[1]) in names:
            yield convolved[id(taken[0])], names[id(taken[1])]


def _fold(conv: nn.Module, old: nn.Module) -> nn.Module:
    """Put a batch norm into the convolution before it. Return what is left of the norm: its activation, if it has one."""
    assert isinstance(conv, nn.Conv2d) and isinstance(old, nn.BatchNorm2d)
    assert old.running_mean is not None and old.running_var is not None
    scale = (old.running_var.double() + old.eps).rsqrt()
    scale = scale if old.weight is None else scale * old.weight
    bias = -old.running_mean * scale if conv.bias is None else (conv.bias - old.running_mean) * scale
    bias = bias if old.bias is None else bias + old.bias
    conv.weight = nn.Parameter((conv.weight * scale.view(-1, 1, 1, 1)).float(), requires_grad=False)
    conv.bias = nn.Parameter(bias.float(), requires_grad=False)
    return nn.Sequential(old.drop, old.act) if isinstance(old, BatchNormAct2d) else nn.Identity()
