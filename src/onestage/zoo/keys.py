"""Renaming the tensors of a foreign checkpoint: what the adapters share."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from torch import Tensor

Rules = tuple[tuple[str, str | Callable[[re.Match[str]], str]], ...]
"""(pattern of a whole name, what it becomes); the first that matches counts, a name that none matches is dropped."""


def rename(tensors: Mapping[str, Tensor], rules: Rules) -> dict[str, Tensor]:
    """The tensors under their new names."""
    renamed = {}
    for name, tensor in tensors.items():
        for pattern, becomes in rules:
            if match := re.fullmatch(pattern, name):
                renamed[match.expand(becomes) if isinstance(becomes, str) else becomes(match)] = tensor
                break
    return renamed
