"""How long the processes of a training take to compare their pictures: checksums of 1,000,000 names and 7,000,000 objects.

python benchmarks/alike.py

The data set is a table of columns, as it is read from shards; then the part of it that is left where a tenth is held out.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch

from onestage.data.checksums import checksum_of_names, checksum_of_objects
from onestage.data.columns import Numbers, Sizes, Texts
from onestage.data.dataset import Dataset


def table(pictures: int, objects: int) -> Dataset:
    """Pictures with so many objects each."""
    names = Texts(*Texts.packed([f"train/{number:09d}.jpg" for number in range(pictures)]), before="/data/")
    none = torch.zeros(pictures * objects, dtype=torch.bool)
    return Dataset(
        root=Path("/data"),
        format="wds",
        split="train",
        paths=names,
        image_ids=Numbers(np.arange(pictures)),
        sizes=Sizes(np.full((pictures, 2), 640, np.int32)),
        offsets=torch.arange(pictures + 1) * objects,
        boxes=torch.rand(len(none), 4),
        labels=none.long(),
        ignore=none,
        crowd=none,
        area=none.float(),
        classes=("thing",),
        category_ids=(1,),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=1_000_000)
    parser.add_argument("--objects", type=int, default=7, help="of each picture")
    options = parser.parse_args()
    whole = table(options.pictures, options.objects)
    for name, data in (("all", whole), ("nine tenths", whole.hold_out(0.1, 0)[0])):
        began = time.perf_counter()
        checksum_of_names(data)
        between = time.perf_counter()
        checksum_of_objects(data)
        print(f"{name}: names {between - began:.2f} s, objects {time.perf_counter() - between:.2f} s")


if __name__ == "__main__":
    main()
