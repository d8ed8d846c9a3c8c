"""Programs of torch.export (.pt2), run by torch. Such a file could run code, so it is opened only for those who trust it."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from onestage.errors import WeightsError
from onestage.predict.contract import Contract
from onestage.predict.engines.exported import FileEngine, check_numbers, foreign, read_bytes

NAME = "torch"
CONTRACT = "onestage.json"
"""The name of the contract inside the file."""


def open_pt2(path: Path) -> FileEngine:
    """The engine of a .pt2 file that ``export`` wrote. Raise WeightsError if it is damaged, or was not made by ``export``."""
    file, texts = io.BytesIO(read_bytes(path)), {CONTRACT: ""}
    try:
        with zipfile.ZipFile(file) as archive:
            damaged = archive.testzip()  # torch does not look at the checksums, so a flipped bit would give other boxes
        if damaged is not None:
            raise zipfile.BadZipFile(f"{damaged} is not as it was written")
        file.seek(0)
        program = torch.export.load(file, extra_files=texts)
    except Exception as error:  # torch raises many kinds, for zip, pickle, JSON and graph
        got, fix = str(error).strip()[:200], "export it again, with this version of torch"
        raise WeightsError("this .pt2 file cannot be read", where=path, got=got, fix=fix) from error
    if not texts[CONTRACT]:
        raise foreign(path)
    for name, tensor in (program.state_dict | program.constants).items():
        if isinstance(tensor, Tensor) and tensor.is_floating_point():
            check_numbers(tensor.detach().float().numpy(), name, path)
    module = program.module()

    def run(inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        with torch.inference_mode():
            return [output.numpy() for output in module(*(torch.from_numpy(value) for value in inputs.values()))]

    return FileEngine(Contract.from_json(texts[CONTRACT], where=path), run, NAME)
