"""Pictures without objects teach, and regions that are not to be counted teach nothing."""

import pytest
import torch
from torch import Tensor

from onestage import boxes as box_ops
from onestage.model.detector import Detector
from onestage.structures import Targets
from small_runs import detector, pictures

MODELS = {
    "tinyssd": {},
    "ssd300_vgg16": {},
    "ssdlite320_mobilenet_v3_large": {"size": (96, 96)},
    "ssd300_resnet50": {},
}
LONG = ("ssd300_vgg16", "ssd300_resnet50")
"""Wide: with ``make test-slow``. Their loss is that of the other two."""
NOTHING = Targets(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))


def inputs(model: Detector, count: int = 4) -> Tensor:
    return model.prepare([pictures(count)[i].image for i in range(count)])[0]


@torch.no_grad()
def background_score(model: Detector, images: Tensor) -> float:
    """Mean probability of background, in training mode: batch norm's averages need more steps than these tests take."""
    return model(images).logits.softmax(dim=2)[:, :, 0].mean().item()


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if n in LONG else n for n in MODELS])
def test_pictures_without_objects_train(name: str) -> None:
    model = detector(name, **MODELS[name]).train()
    images, targets = inputs(model), [NOTHING] * 4
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4)
    before = background_score(model, images)
    losses = []
    for step in range(6):
        loss = model.loss(model(images), targets)
        assert loss["cls"] > 0 and loss["box"] == 0
        optimizer.zero_grad()
        sum(loss.values()).backward()
        if step == 0:
            for part in (model.backbone, model.head.cls):
                assert any(p.grad is not None and p.grad.any() for p in part.parameters())
        optimizer.step()
        losses.append(loss["cls"].item())
    assert losses[-1] < 0.7 * losses[0]
    assert background_score(model, images) > before


def test_a_mixed_batch_is_the_sum_of_its_pictures() -> None:
    model = detector().eval()
    images = inputs(model, 3)
    size = model.config.preprocess.size
    objects = [Targets(torch.tensor([[5.0, 8.0, 40.0, 50.0]]), torch.tensor([1])), NOTHING, NOTHING]
    one = torch.ones(())
    together = model.loss(model(images), objects, normalizer=one)
    alone = [model.loss(model(images[i : i + 1]), objects[i : i + 1], normalizer=one) for i in range(3)]
    assert all(loss["cls"] > 0 for loss in alone) and alone[0]["box"] > 0
    for part, total in together.items():
        assert total.item() == pytest.approx(sum(loss[part].item() for loss in alone), rel=1e-5)
    divisor = model.config.loss.normalizer(model.assign(objects, size).matches)
    mean = model.loss(model(images), objects)
    assert mean["cls"].item() == pytest.approx(together["cls"].item() / divisor.item(), rel=1e-5)


def test_an_empty_picture_does_not_drown_the_objects_of_another() -> None:
    """It weighs as a few objects do, not as thousands of anchors."""
    model = detector()
    size = model.config.preprocess.size
    matches = model.assign([Targets(torch.tensor([[5.0, 8.0, 40.0, 50.0]]), torch.tensor([1])), NOTHING], size).matches
    loss = model.config.loss
    assert loss.normalizer(matches[1:]) == loss.min_negatives / loss.negative_ratio
    assert loss.normalizer(matches) == loss.normalizer(matches[:1]) + loss.normalizer(matches[1:])


def test_an_ignored_region_teaches_nothing() -> None:
    model = detector().train()
    images = inputs(model, 2)
    size = model.config.preprocess.size
    region, inside = torch.tensor([[0.0, 0.0, 40.0, 64.0]]), torch.tensor([[8.0, 8.0, 30.0, 30.0]])
    boxes, labels = torch.cat([region, inside]), torch.tensor([0, 1])
    targets = [
        Targets(region, labels[:1], torch.tensor([True])),  # nothing but the region
        Targets(boxes, labels, torch.tensor([True, False])),  # and an object in it, which counts all the same
    ]
    output = model(images)
    output.logits.retain_grad()
    output.deltas.retain_grad()
    sum(model.loss(output, targets).values()).backward()
    taught = output.logits.grad.abs().sum(2) + output.deltas.grad.abs().sum(2) > 0
    covered = box_ops.cover(model.anchors(size), region)[:, 0] >= 0.5
    positive = model.assign(targets, size).matches[1] >= 0
    assert covered.sum() > 100 and (covered & positive).sum() > 0
    assert not taught[0][covered].any() and taught[0][~covered].any()
    assert taught[1][covered & positive].all() and not taught[1][covered & ~positive].any()

    ordinary = [Targets(t.boxes, t.labels) for t in targets]
    output = model(images)
    output.logits.retain_grad()
    sum(model.loss(output, ordinary).values()).backward()
    assert output.logits.grad[0][covered].any()  # the same region as an object does teach
