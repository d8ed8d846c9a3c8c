"""Decoded pictures that stay in memory, for all the processes that load them.

The memory is one block that workers inherit from their parent. It has no name in any folder, so nothing is left behind, however
a process ends. A picture goes where the block is free, and stays there: what does not fit is decoded again each time. Where
workers are not forked (Windows, macOS), each has a part of the memory for itself. The result is the same to the bit.

Processors such as ARM's may show a process the note that a picture is here before they show its pixels. So a process takes a
picture for the first time only if its pixels have the checksum in the note; before that, it decodes the picture again.

Shape letters: P pictures, H, W height and width of one as it was decoded.
"""

from __future__ import annotations

import mmap
import multiprocessing
import zlib
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from onestage.errors import ConfigError
from onestage.images import REDUCTIONS


class PictureCache:
    """Room for so many bytes of pixels, of ``count`` pictures, for a number of processes.

    A process that finds another one reserving room keeps nothing this time, and goes on. So a killed process stops no other.
    """

    def __init__(self, size: int, *, count: int, processes: int) -> None:
        self._arguments = size, count, processes
        try:
            self._block = mmap.mmap(-1, size)
            rows = mmap.mmap(-1, max(count, 1) * len(REDUCTIONS) * 4 * 8)
        except (OSError, OverflowError, ValueError) as error:
            what, expected = "there is no memory for so large a cache", "gigabytes that are free"
            raise ConfigError(what, where="cache", got=size / 1e9, expected=expected, fix="lower cache=") from error
        self._notes = np.frombuffer(rows, np.int64).reshape(-1, len(REDUCTIONS), 4)  # height, width, start, checksum
        self._whole: dict[tuple[int, int], tuple[int, int, int]] = {}  # where this process has seen whole pixels
        self._used = np.frombuffer(mmap.mmap(-1, 8), np.int64)
        self._reserving = multiprocessing.Lock()

    def __reduce__(self) -> tuple[Callable[[int, int], PictureCache], tuple[int, int]]:
        """What a process gets that is not forked."""
        size, count, processes = self._arguments
        return _alone, (max(size // processes, 1), count)

    @property
    def used(self) -> int:
        """Bytes that are taken."""
        return int(self._used[0])

    def get(self, index: int, reduction: int) -> Tensor | None:
        """Picture ``index`` as decoded with a reduction, (3, H, W) uint8; None if it is not here. It must not be changed."""
        key = index, reduction
        if key not in self._whole:
            height, width, start, checksum = self._notes[index, REDUCTIONS.index(reduction)].tolist()
            if not height * width or self._checksum(start, height, width) != checksum:
                return None
            self._whole[key] = start, height, width
        return self._pixels(*self._whole[key])

    def put(self, index: int, reduction: int, image: Tensor) -> None:
        """Keep a picture (3, H, W) uint8 if there is room."""
        start = self._reserved(image.numel())
        if start is None:
            return
        _, height, width = image.shape
        self._pixels(start, height, width).copy_(image)
        note = self._notes[index, REDUCTIONS.index(reduction)]
        note[1:] = width, start, self._checksum(start, height, width)
        note[0] = height  # last: from now on it is found

    def _reserved(self, size: int) -> int | None:
        if self.used + size > len(self._block) or not self._reserving.acquire(block=False):
            return None
        try:
            start = self.used
            if start + size > len(self._block):
                return None
            self._used[0] = start + size
            return start
        finally:
            self._reserving.release()

    def _checksum(self, start: int, height: int, width: int) -> int:
        return zlib.crc32(memoryview(self._block)[start : start + 3 * height * width])

    def _pixels(self, start: int, height: int, width: int) -> Tensor:
        """(3, H, W), channels-last in memory as ``decode_image`` gives it."""
        bytes_ = np.frombuffer(self._block, np.uint8, 3 * height * width, start)
        return torch.from_numpy(bytes_).view(height, width, 3).permute(2, 0, 1)


def _alone(size: int, count: int) -> PictureCache:
    return PictureCache(size, count=count, processes=1)
