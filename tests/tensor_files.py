"""Files of tensors, read whole."""

from pathlib import Path

from torch import Tensor

from onestage.weights.tensor_file import read_bytes, unpack_tensors


def load_tensors(path: Path | str, *, finite: bool = True) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors and the metadata of a safetensors file."""
    return unpack_tensors(read_bytes(path), path, finite=finite)
