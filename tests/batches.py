"""A small data set, and batches compared to the bit."""

from pathlib import Path

import torch
from PIL import Image

from onestage.data.dataset import Dataset
from onestage.structures import Batch


def eleven_pictures(folder: Path) -> Dataset:
    """Eleven small pictures with two objects each, the second one ignored; picture 3 has none."""
    generator = torch.Generator().manual_seed(0)
    paths, boxes, lengths = [], [], [0]
    for i in range(11):
        size = (30 + i, 40)
        pixels = torch.randint(0, 256, (*size, 3), dtype=torch.uint8, generator=generator)
        paths.append(str(folder / f"{i}.png"))
        Image.fromarray(pixels.numpy()).save(paths[-1])
        boxes += [] if i == 3 else [[2.0, 3.0, 30.0, 25.0], [5.0, 5.0, 15.0, 20.0]]
        lengths.append(0 if i == 3 else 2)
    count = len(boxes)
    ignore = torch.arange(count) % 2 == 1
    return Dataset(
        root=folder,
        format="test",
        split=None,
        paths=tuple(paths),
        image_ids=tuple(range(100, 111)),
        sizes=(None,) * 11,
        offsets=torch.tensor(lengths).cumsum(0),
        boxes=torch.tensor(boxes),
        labels=torch.arange(count) % 3,
        ignore=ignore,
        crowd=torch.zeros(count, dtype=torch.bool),
        area=torch.ones(count),
        classes=("a", "b", "c"),
        category_ids=(1, 2, 3),
    )


def spoil(dataset: Dataset, *indices: int) -> None:
    for i in indices:
        Path(dataset.paths[i]).write_bytes(b"not a picture")


def ids(batch: Batch) -> list[int | str]:
    return [meta.image_id for meta in batch.metas]


def assert_same(ours: list[Batch], theirs: list[Batch]) -> None:
    """To the last bit."""
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs, strict=True):
        assert a.images.equal(b.images) and a.metas == b.metas
        for x, y in zip(a.targets, b.targets, strict=True):
            assert x.boxes.equal(y.boxes) and x.labels.equal(y.labels) and x.ignore.equal(y.ignore)
