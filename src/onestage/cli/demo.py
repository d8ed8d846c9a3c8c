"""``onestage demo``: from nothing to a trained detector, measured on pictures that it has never seen."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tyro


def demo(*, out: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = Path("demo"), fast: bool = False) -> int:
    """Try everything without any pictures: draw 1,300, train TinySSD on most of them, and measure it on the rest.

    onestage demo --out demo

    This takes some minutes. After an interruption, the same command goes on where it stopped.

    Args:
        out: folder for everything
        fast: a few tiny pictures and one epoch, just to see that it works
    """
    from onestage.cli.walkthrough import FAST, FULL, walk

    return walk(out, FAST if fast else FULL)
