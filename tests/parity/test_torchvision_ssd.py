"""Our SSDs against torchvision's with the same weights: network, anchors, losses, detections."""

import pytest
import torch
import torch.nn.functional as F
import torchvision

import onestage
from onestage.structures import HeadOutput, Targets

MODELS = ["ssd300_vgg16", "ssdlite320_mobilenet_v3_large"]


@pytest.fixture(scope="module", params=MODELS)
def pair(request, tmp_path_factory):
    """torchvision's model with lively random weights, and ours made from its checkpoint."""
    torch.manual_seed(0)
    build = getattr(torchvision.models.detection, request.param)
    theirs = build(weights=None, weights_backbone=None, num_classes=91)
    with torch.no_grad():
        images = theirs.transform([i / 255 for i in pictures()])[0].tensors
        norms = [module for module in theirs.modules() if isinstance(module, torch.nn.BatchNorm2d)]
        for module in norms:
            module.momentum = 1.0  # one pass sets the statistics: without it nothing of the picture gets through
        if norms:
            theirs.train().head(list(theirs.backbone(images).values()))
        outputs = theirs.eval().head(list(theirs.backbone(images).values()))
        for name, p in theirs.named_parameters():  # outputs as large as a trained model's; most anchors background
            if "classification_head" in name and p.shape[0] % 91 == 0:
                p.mul_(7 / outputs["cls_logits"].abs().max())
                if p.ndim == 1:
                    p.view(-1, 91)[:, 0] += 4
            elif "regression_head" in name and p.shape[0] in (4 * 4, 6 * 4):
                p.mul_(5 / outputs["bbox_regression"].abs().max())
    path = tmp_path_factory.mktemp("weights") / "torchvision.pth"
    torch.save(theirs.state_dict(), path)
    ours = onestage.create(request.param, num_classes=90, weights=path)
    return theirs.eval(), ours.eval()


def pictures():
    generator = torch.Generator().manual_seed(1)
    sizes = [(300, 300), (480, 640), (333, 500)]
    clouds = [torch.rand(1, 3, 9, 9, generator=generator) for _ in sizes]
    large = [F.interpolate(c, s, mode="bicubic")[0] for c, s in zip(clouds, sizes, strict=True)]
    return [image.clamp(0, 1).mul(255).byte() for image in large]


def targets(size):
    boxes = torch.tensor([[30.0, 40, 130, 200], [100, 20, 280, 290], [5, 5, 40, 30], [98, 22, 279, 288]])
    many = Targets(boxes, torch.tensor([3, 17, 89, 0]))
    one = Targets(torch.tensor([[60.0, 50, 250, 120]]), torch.tensor([42]))
    return [many, one, Targets(boxes[1:3], torch.tensor([5, 5]))]


@pytest.fixture(scope="module")
@torch.no_grad()
def outputs(pair):
    """torchvision's input, network and anchors in its own terms."""
    theirs, _ = pair
    batch, _ = theirs.transform([i / 255 for i in pictures()])
    maps = list(theirs.backbone(batch.tensors).values())
    return batch, theirs.head(maps), theirs.anchor_generator(batch, maps)


def test_parameters(pair):
    theirs, ours = pair
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters())


@torch.no_grad()
def test_network_and_anchors(pair, outputs):
    _, ours = pair
    batch, heads, anchors = outputs
    inputs, _ = ours.prepare(pictures())
    torch.testing.assert_close(inputs, batch.tensors, atol=1e-3 if inputs.abs().max() > 10 else 1e-5, rtol=1e-5)
    output = ours(batch.tensors)
    assert 6 < heads["cls_logits"].abs().max() < 12
    assert (output.logits - heads["cls_logits"]).abs().max() <= 1e-4
    assert 4 < heads["bbox_regression"].abs().max() < 6
    assert (output.deltas - heads["bbox_regression"]).abs().max() <= 1e-4
    assert (ours.anchors(output.input_size) - anchors[0]).abs().max() <= 1e-3


@torch.no_grad()
def test_losses(pair, outputs):
    theirs, ours = pair
    batch, heads, anchors = outputs
    size = tuple(batch.tensors.shape[-2:])
    own = targets(size)
    foreign = [{"boxes": t.boxes, "labels": t.labels + 1} for t in own]
    matches = [theirs.proposal_matcher(torchvision.ops.box_iou(t.boxes, anchors[0])) for t in own]
    assert torch.equal(ours.assign(own, size).matches, torch.stack(matches))
    expected = theirs.compute_loss(foreign, heads, anchors, matches)
    output = HeadOutput(heads["cls_logits"], heads["bbox_regression"], (), size)
    losses = ours.loss(output, own)
    torch.testing.assert_close(losses["cls"], expected["classification"], rtol=1e-5, atol=0)
    torch.testing.assert_close(losses["box"], expected["bbox_regression"], rtol=1e-5, atol=0)


@torch.no_grad()
def test_detections(pair):
    theirs, ours = pair
    images = pictures()
    expected = theirs([i / 255 for i in images])
    found = ours.predict(images)
    assert sum(len(f) for f in found) > 100
    for own, foreign in zip(found, expected, strict=True):
        assert len(own) == len(foreign["scores"])
        torch.testing.assert_close(own.scores, foreign["scores"], atol=1e-4, rtol=1e-3)
        # neighbours in rank may change places where scores are equal up to rounding: look for each of theirs among ours
        near = (own.boxes[None] - foreign["boxes"][:, None]).abs().amax(2) < 0.1
        alike = (own.scores[None] - foreign["scores"][:, None]).abs() < 1e-4
        same = near & alike & (own.labels[None] + 1 == foreign["labels"][:, None])
        assert same.any(1).float().mean() > 0.98
