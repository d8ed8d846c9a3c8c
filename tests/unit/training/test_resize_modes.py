"""Stretched, letterboxed or by the shortest edge: pictures of different sizes in a batch, every object where its pixels are."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from onestage import boxes as box_ops
from onestage.data.loader import EvalLoader, TrainLoader
from onestage.data.synthetic import MemoryDataset
from onestage.data.transforms import Augment, EvalTransform, TrainTransform
from onestage.model.detector import Detector
from onestage.model.preprocess import Preprocess
from onestage.predict.measure import evaluate_dataset
from onestage.zoo.table import recipe

SIZES = [(60, 90), (90, 60), (64, 64), (40, 150), (120, 100), (33, 47)]
MODES = {
    "stretch": Preprocess((64, 96)),
    "letterbox": Preprocess((64, 96), mode="letterbox"),
    "shortest edge": Preprocess((48, 80), mode="shortest_edge"),
    "shortest edge, plain": Preprocess((48, 80), mode="shortest_edge", antialias=False),
}
each_mode = pytest.mark.parametrize("preprocess", MODES.values(), ids=MODES)


@pytest.fixture(scope="module")
def dataset():
    """Black pictures of different sizes, a red rectangle and a green one in each; no grey is as red as it is green."""
    pictures, boxes = {}, []
    for i, (height, width) in enumerate(SIZES):
        image = torch.zeros(3, height, width, dtype=torch.uint8)
        for channel in (0, 1):
            x, y = width // 8 + channel * width // 2, height // 6
            x2, y2 = x + width // 4, y + height // 2
            image[channel, y:y2, x:x2] = 255
            boxes.append([x, y, x2, y2])
        pictures[f"{i}.png"] = image
    count = len(boxes)
    return MemoryDataset(
        root=Path("rectangles"),
        format="test",
        split=None,
        paths=tuple(pictures),
        image_ids=tuple(range(len(SIZES))),
        sizes=tuple(SIZES),
        offsets=torch.arange(0, count + 1, 2),
        boxes=torch.tensor(boxes, dtype=torch.float32),
        labels=torch.arange(count) % 2,
        ignore=torch.zeros(count, dtype=torch.bool),
        crowd=torch.zeros(count, dtype=torch.bool),
        area=torch.ones(count),
        classes=("red", "green"),
        category_ids=(1, 2),
        pictures=pictures,
    )


def check(batch):
    """Every box is full of its own colour, but for a pixel at its sides. Returns how many boxes there were."""
    assert all(meta.input == tuple(batch.images.shape[2:]) for meta in batch.metas)
    seen = 0
    for image, targets in zip(batch.images.float(), batch.targets, strict=True):
        inside = box_ops.clip(targets.boxes, tuple(image.shape[1:]))
        assert torch.equal(inside, targets.boxes)
        for (x1, y1, x2, y2), label in zip(targets.boxes.tolist(), targets.labels.tolist(), strict=True):
            part = image[:, int(y1) + 2 : int(y2) - 1, int(x1) + 2 : int(x2) - 1]
            if part.numel():
                assert part[label].min() > 200 and part[1 - label].max() < 55
                seen += 1
    return seen


@each_mode
def test_training_pictures_and_their_objects(dataset, preprocess):
    transform = TrainTransform(preprocess.place, Augment(zoom_out=2.0, iou_crop=1.0, flip=0.5), fill=preprocess.colour)
    loader = TrainLoader(dataset, transform, batch_size=3)
    assert sum(check(batch) for epoch in range(6) for batch in loader.epoch(epoch)) > 40


@each_mode
def test_evaluation_pictures_are_those_of_predict(dataset, preprocess):
    loader = EvalLoader(dataset, EvalTransform(preprocess.resize, fill=preprocess.colour), batch_size=4)
    batches = list(loader)
    assert sum(map(check, batches)) == 2 * len(SIZES)
    for batch, names in zip(batches, (dataset.paths[:4], dataset.paths[4:]), strict=True):
        pixels, metas = preprocess([dataset.pictures[name] for name in names])
        assert torch.equal(preprocess.normalize(batch.images), pixels)
        assert [(m.scale, m.pad, m.input) for m in metas] == [(m.scale, m.pad, m.input) for m in batch.metas]
        for meta, targets, name in zip(metas, batch.targets, names, strict=True):
            truth = dataset.truth(dataset.paths.index(name)).boxes
            torch.testing.assert_close(meta.undo(targets.boxes), truth, atol=1e-4, rtol=0)


def detector(preprocess):
    torch.manual_seed(0)
    return Detector(replace(recipe("tinyssd", ("red", "green")), preprocess=preprocess)).eval()


@each_mode
def test_what_is_found_lies_in_the_picture_and_is_what_evaluation_measures(dataset, preprocess):
    model = detector(preprocess)
    found = model.predict(list(dataset.pictures.values()), batch_size=3)
    for size, detections in zip(SIZES, found, strict=True):
        assert len(detections) > 0 and detections.size == size
        assert torch.equal(box_ops.clip(detections.boxes, size), detections.boxes)
    _, measured = evaluate_dataset(model, dataset, batch_size=3, workers=0)
    for ours, theirs in zip(found, measured, strict=True):
        torch.testing.assert_close(ours.boxes, theirs.boxes, atol=1e-3, rtol=0)
        assert torch.equal(ours.labels, theirs.labels)


@pytest.mark.parametrize("mode", ["stretch", "letterbox"])
def test_a_picture_has_the_same_detections_in_any_company(dataset, mode):
    """Where the input's size does not depend on the company."""
    model = detector(MODES[mode])
    pictures = list(dataset.pictures.values())
    together = model.predict(pictures, batch_size=6)
    for alone, found in zip((model.predict(p)[0] for p in pictures), together, strict=True):
        torch.testing.assert_close(found.scores, alone.scores, atol=1e-5, rtol=0)
        torch.testing.assert_close(found.boxes, alone.boxes, atol=1e-2, rtol=0)


def test_the_padding_of_a_shortest_edge_batch_moves_no_box(dataset):
    """A batch pads further than a picture alone, and what lies beyond the border seeps in a little, as it does in torchvision;
    but the boxes of the anchors are scaled back to the same place of the picture."""
    model = detector(MODES["shortest edge"])
    square, wide = (dataset.pictures[name] for name in ("2.png", "3.png"))
    (_, alone), (_, together) = model.prepare([square]), model.prepare([square, wide])
    assert alone[0].input == (64, 64) and together[0].input == (64, 96)
    corner = torch.tensor([[8.0, 8, 40, 40]])
    assert torch.equal(alone[0].undo(corner), together[0].undo(corner))
