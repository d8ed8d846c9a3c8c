"""Foreign PyTorch files, read at one place: tensors only, and nothing that a file holds is run."""

from __future__ import annotations

import argparse
import re
import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from onestage.errors import WeightsError
from onestage.weights.tensor_file import DAMAGED, _is_pytorch, _kind, _opened, check_finite, is_safetensors, load_tensors

WRAPPERS = ("state_dict_ema", "model_ema", "ema", "state_dict", "model_state_dict", "model", "net", "weights")
"""Keys under which training programs store a state_dict. The averaged weights come first: they are the ones measured."""


PREFIXES = ("module.", "_orig_mod.")
"""What DistributedDataParallel and torch.compile put before every key."""


TORCH_PICKLE = torch.serialization.MAGIC_NUMBER.to_bytes(10, "little")
"""What torch.save pickles first, in its files that are no zip archives."""


def load_foreign(path: Path | str, *, finite: bool = True) -> dict[str, Tensor]:
    """The state_dict in another program's file (.pth, .pt, .pkl, .bin or .safetensors, told by content), on the CPU.

    Wrappers such as {"state_dict": ...} and prefixes such as "module." are taken off; nothing else is renamed. Raises
    WeightsError if the file is damaged, holds Python objects besides tensors and plain data (they could run code), no
    state_dict, or, with ``finite``, a NaN or infinity.
    """
    if is_safetensors(path):
        return _without_prefixes(load_tensors(path, finite=finite)[0])
    with _opened(path) as file:
        start = file.read(32)
    if not _is_pytorch(start):
        raise WeightsError(
            "this is not a weights file",
            where=path,
            got=_kind(start) or ("a file of unknown type" if start else "an empty file"),
            expected="a PyTorch state_dict (.pth, .pt, .pkl, .bin) or a safetensors file",
        )
    tensors = _state_dict(_load_pickled(path, start), path)
    for name, tensor in tensors.items():  # a view that repeats its memory could claim any size
        if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            raise WeightsError(f"tensor '{name}' claims more numbers than the file holds", where=path, fix=DAMAGED)
    if finite:
        check_finite(tensors, path)
    return _without_prefixes({name: tensor.detach().clone() for name, tensor in tensors.items()})  # off the mapped file


def _load_pickled(path: Path | str, start: bytes) -> object:
    """Tensors and plain data out of a torch.save file, whose first bytes are ``start``. Namespace (a program's arguments) is
    plain data in other clothes.
    """
    try:
        with torch.serialization.safe_globals([argparse.Namespace]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns of old pickles and TorchScript; the outcome is what counts
            return torch.load(path, weights_only=True, map_location="cpu", mmap=start.startswith(b"PK"))
    except Exception as error:  # torch's reader lets many kinds through: RuntimeError, EOFError, KeyError, struct.error ...
        # torch's own text advises to load the file unsafely, so it is not passed on.
        culprit = re.search(r"GLOBAL (\S+)", str(error))
        if culprit:
            got, fix = f"Python objects ({culprit[1]}), which could run code when loaded", "save only model.state_dict()"
        elif "TorchScript" in str(error):
            got, fix = "a TorchScript program", "save the state_dict() of the model it was made from"
        elif not start.startswith(b"PK") and TORCH_PICKLE not in start:
            got, fix = "a Python pickle of other things than tensors", "save it anew: torch.save(model.state_dict(), FILE)"
        else:
            got, fix = f"contents that PyTorch cannot read ({type(error).__name__})", DAMAGED
        raise WeightsError(
            "the checkpoint cannot be imported", where=path, got=got, expected="a state_dict of tensors", fix=fix
        ) from error


def _state_dict(content: object, path: Path | str) -> dict[str, Tensor]:
    """The mapping of names to tensors in ``content``, through its wrappers: no deeper than three, a pickle may hold itself."""
    for _ in range(3):
        content = _unwrapped(content)
    if isinstance(content, Mapping) and content and all(isinstance(value, Tensor) for value in content.values()):
        return {str(name): tensor for name, tensor in content.items()}
    got = f"a {type(content).__name__}"
    if isinstance(content, Mapping):
        got = f"entries {', '.join(map(str, list(content)[:10]))}" if content else "no entries at all"
    raise WeightsError("no state_dict in the checkpoint", where=path, got=got, expected="names with tensors")


def _unwrapped(content: object) -> object:
    """What the first wrapper key with tensors (or a further wrapper) in it stands for; ``content`` itself without one."""
    if isinstance(content, Mapping):
        for key in WRAPPERS:
            inner = content.get(key)
            if isinstance(inner, Mapping) and any(isinstance(value, Tensor | Mapping) for value in inner.values()):
                return inner
    return content


def _without_prefixes(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    tensors.pop("n_averaged", None)  # torch's AveragedModel counts beside the module it wraps
    for prefix in PREFIXES:
        if tensors and all(name.startswith(prefix) for name in tensors):
            tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    return tensors
