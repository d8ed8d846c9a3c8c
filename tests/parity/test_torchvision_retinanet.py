"""Our RetinaNets against torchvision's with the same weights: network, anchors, matches, losses, detections.

Pictures are brought to a shorter side of 256 pixels instead of 800, so that it is quick. One thing is switched to its way that
is not our own: a loss divided image by image.
"""

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torchvision.models.detection import _utils, backbone_utils, retinanet
from torchvision.ops.feature_pyramid_network import LastLevelP6P7
from torchvision.ops.misc import FrozenBatchNorm2d

import onestage
from onestage.model.detector import Detector
from onestage.structures import HeadOutput, Targets
from onestage.weights.projects import torchvision as adapt_torchvision
from onestage.zoo.table import recipe

SIDES = (256, 420)
SIZES = [(300, 300), (240, 340)]
MODELS = {"retinanet_r50_fpn": "retinanet_resnet50_fpn", "retinanet_r50_fpn_v2": "retinanet_resnet50_fpn_v2"}


def pictures(sizes=SIZES):
    generator = torch.Generator().manual_seed(1)
    clouds = [torch.rand(1, 3, 9, 9, generator=generator) for _ in sizes]
    large = [F.interpolate(c, s, mode="bicubic")[0] for c, s in zip(clouds, sizes, strict=True)]
    return [(image + torch.randn(image.shape, generator=generator) / 5).clamp(0, 1).mul(255).byte() for image in large]


@torch.no_grad()
def enliven(theirs):
    """Statistics of real maps in batch norm, outputs spread as a trained model's are, most anchors background, none class 0."""
    torch.manual_seed(0)
    theirs.head.classification_head.cls_logits.bias.zero_()
    for parameter in theirs.parameters():
        if parameter.ndim == 1:
            parameter.add_(torch.randn_like(parameter) * 0.1)
    for layer in theirs.head.modules():  # they start at 0.01, with which a picture leaves no trace
        if isinstance(layer, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    images = theirs.transform([i / 255 for i in pictures()])[0].tensors
    for name, module in theirs.named_modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0
            if name.endswith("bn3"):  # trained blocks add little each; such ones as these would add up rounding errors, too
                module.weight.mul_(0.3)
    theirs.train().backbone(images)
    outputs = theirs.eval().head(list(theirs.backbone(images).values()))
    cls, box = theirs.head.classification_head.cls_logits, theirs.head.regression_head.bbox_reg
    for layer, output, spread in ((cls, outputs["cls_logits"], 1.2), (box, outputs["bbox_regression"], 0.5)):
        layer.weight.mul_(spread / output.std())
        layer.bias.mul_(spread / output.std())
    cls.bias.sub_(4.0)
    cls.bias.view(9, 91)[:, 0] = -20.0
    cls.weight.view(9, 91, -1)[:, 0] = 0.0


@pytest.fixture(scope="module", params=MODELS)
def pair(request, tmp_path_factory):
    """torchvision's model with lively random weights, and ours made from its checkpoint."""
    torch.manual_seed(0)
    build = getattr(torchvision.models.detection, MODELS[request.param])
    theirs = build(weights=None, weights_backbone=None, num_classes=91, min_size=SIDES[0], max_size=SIDES[1])
    enliven(theirs)
    path = tmp_path_factory.mktemp("weights") / "torchvision.pth"
    torch.save(theirs.state_dict(), path)
    ours = onestage.create(request.param, num_classes=90, size=SIDES, weights=path)
    as_theirs = Detector(ours.config.replace({"loss.per_image": True}))
    as_theirs.load_state_dict(ours.state_dict())
    return theirs.eval(), as_theirs.eval()


@torch.no_grad()
def their_outputs(theirs, images):
    """torchvision's input, network and anchors in its own terms."""
    batch, _ = theirs.transform([i / 255 for i in images])
    maps = list(theirs.backbone(batch.tensors).values())
    return batch, maps, theirs.head(maps), theirs.anchor_generator(batch, maps)


@pytest.fixture(scope="module")
def outputs(pair):
    return their_outputs(pair[0], pictures())


def test_class_names_and_parameters(pair):
    theirs, ours = pair
    assert ours.config.classes[0] == "person"
    assert ours.config.category_ids == tuple(range(1, 91))
    of_class_0 = 9 * (256 * 9 + 1)
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters()) - of_class_0


@pytest.mark.parametrize("shape", ["a batch", "a square"])
@torch.no_grad()
def test_network_and_anchors(pair, outputs, shape):
    theirs, ours = pair
    images = pictures() if shape == "a batch" else pictures()[:1]
    batch, maps, heads, anchors = outputs if shape == "a batch" else their_outputs(theirs, images)
    inputs, _ = ours.prepare(images)
    torch.testing.assert_close(inputs, batch.tensors, atol=1e-5, rtol=0)
    features = ours.neck(ours.backbone(batch.tensors))
    for own, foreign in zip(features, maps, strict=True):
        assert (own - foreign).abs().max() <= 1e-4
    logits, deltas = ours.head(features)
    expected = heads["cls_logits"][..., 1:]
    assert 6 < expected.abs().max() < 16
    assert (logits - expected).abs().max() <= 1e-4
    assert heads["bbox_regression"].abs().max() > 1
    assert (deltas - heads["bbox_regression"]).abs().max() <= 1e-4
    assert torch.equal(ours.anchors(tuple(batch.tensors.shape[-2:])), anchors[0])


BOXES = torch.tensor([[30.0, 40, 130, 200], [100, 20, 220, 240], [5, 5, 40, 30], [98, 22, 219, 238], [60, 60, 68, 66]])


@pytest.mark.parametrize("rows", [([0, 1, 2, 3, 4], [3]), ([], [1, 2])], ids=["many and one", "none and two"])
@torch.no_grad()
def test_matches_and_losses(pair, outputs, rows):
    theirs, ours = pair
    batch, _, heads, anchors = outputs
    size = tuple(batch.tensors.shape[-2:])
    own = [Targets(BOXES[r], torch.tensor([3, 17, 89, 0, 44])[r]) for r in rows]
    matches = ours.assign(own, size).matches
    for row, t in zip(matches, own, strict=True):
        if len(t.boxes):
            assert torch.equal(row, theirs.proposal_matcher(torchvision.ops.box_iou(t.boxes, anchors[0])))
            assert row.unique().tolist() == [-2, -1, *range(len(t.boxes))]
        else:
            assert (row == -1).all()
    expected = theirs.compute_loss([{"boxes": t.boxes, "labels": t.labels + 1} for t in own], heads, anchors)
    losses = ours.loss(HeadOutput(heads["cls_logits"][..., 1:], heads["bbox_regression"], (), size), own)
    torch.testing.assert_close(losses["cls"], expected["classification"], rtol=1e-5, atol=0)
    torch.testing.assert_close(losses["box"], expected["bbox_regression"], rtol=1e-5, atol=0)


@pytest.mark.parametrize("count", [2, 1], ids=["a batch", "a square"])
@torch.no_grad()
def test_detections(pair, count):
    theirs, ours = pair
    expected = theirs([i / 255 for i in pictures()[:count]])
    found = ours.predict(pictures()[:count])
    assert min(len(f) for f in found) > 50
    for own, foreign in zip(found, expected, strict=True):
        x1, y1, x2, y2 = foreign["boxes"].unbind(1)
        there = (x2 > x1) & (y2 > y1)  # torchvision reports boxes of no area too, which lie beside the picture
        assert there.float().mean() > 0.9
        foreign = {name: column[there] for name, column in foreign.items()}
        assert len(own) >= len(foreign["scores"])  # their place goes to others here
        torch.testing.assert_close(own.scores[: len(foreign["scores"])], foreign["scores"], atol=1e-4, rtol=0)
        # neighbours in rank may change places where scores are equal up to rounding: look for each of theirs among ours
        near = (own.boxes[None] - foreign["boxes"][:, None]).abs().amax(2) < 0.05
        alike = (own.scores[None] - foreign["scores"][:, None]).abs() < 1e-4
        same = near & alike & (own.labels[None] + 1 == foreign["labels"][:, None])
        assert same.any(1).float().mean() > 0.99


def frozen_torchvision():
    """retinanet_resnet50_fpn as it is with its published weights: frozen batch norm of eps 0, no counters in the file."""
    body = torchvision.models.resnet18(weights=None, norm_layer=FrozenBatchNorm2d)
    body = backbone_utils._resnet_fpn_extractor(body, 5, [2, 3, 4], LastLevelP6P7(256, 256))
    theirs = retinanet.RetinaNet(body, 91, min_size=SIDES[0], max_size=SIDES[1])
    torch.manual_seed(0)
    for module in theirs.modules():
        if isinstance(module, FrozenBatchNorm2d):
            module.running_var.uniform_(1e-5, 2).mul_(torch.rand_like(module.running_var) ** 4).add_(1e-6)
            module.weight.copy_(module.running_var.sqrt())
    _utils.overwrite_eps(theirs, 0.0)
    return theirs.eval()


@torch.no_grad()
def test_batch_norm_of_the_published_weights_has_no_eps(tmp_path):
    theirs = frozen_torchvision()
    torch.save(theirs.state_dict(), tmp_path / "frozen.pth")
    ours = onestage.create("retinanet_r18_fpn", num_classes=90, size=SIDES, weights=tmp_path / "frozen.pth").eval()
    images = ours.prepare(pictures()[:1])[0]
    for own, foreign in zip(ours.backbone(images), theirs.backbone.body(images).values(), strict=True):
        assert (own - foreign).abs().max() <= 1e-4 * foreign.abs().max()
    _utils.overwrite_eps(theirs, 1e-5)  # and that is not what any eps would give
    other = list(theirs.backbone.body(images).values())[-1]
    assert (ours.backbone(images)[-1] - other).abs().max() > 1e-3 * other.abs().max()


def test_frozen_batch_norm_of_other_classes_is_told(tmp_path):
    """Nobody knows whether it was tuned from the published weights, which have no eps."""
    state = frozen_torchvision().state_dict()
    for name in ("weight", "bias"):
        key = f"head.classification_head.cls_logits.{name}"
        state[key] = state[key].unflatten(0, (9, 91))[:, :4].flatten(0, 1)
    torch.save(state, tmp_path / "frozen.pth")
    with pytest.warns(UserWarning, match="frozen batch norm, of other classes than COCO's") as caught:
        ours = onestage.create("retinanet_r18_fpn", num_classes=3, size=SIDES, weights=tmp_path / "frozen.pth")
    assert caught[0].filename == __file__
    assert torch.equal(ours.backbone.body.bn1.weight, state["backbone.body.bn1.weight"])


def test_names_of_before_torchvision_0_13():
    """The published file of the first RetinaNet has them."""
    with torch.device("meta"):
        theirs = retinanet.RetinaNet(
            backbone_utils.resnet_fpn_backbone(
                backbone_name="resnet18", weights=None, returned_layers=[2, 3, 4], extra_blocks=LastLevelP6P7(512, 256)
            ),
            4,
        )
    new = {name: torch.full(tensor.shape, i) for i, (name, tensor) in enumerate(theirs.state_dict().items())}
    old = {}
    for name, tensor in new.items():
        parts = name.split(".")
        if "conv" in parts and parts[0] == "head":
            parts[3:5] = [str(2 * int(parts[3]))]
        elif "fpn" in parts and "extra_blocks" not in parts:
            del parts[4]
        old[".".join(parts)] = tensor
    assert set(old) != set(new)
    assert adapt_torchvision.model(old) == adapt_torchvision.model(new) == "retinanet_r18_fpn"
    config = recipe("retinanet_r18_fpn", ["a", "b", "c"])
    (tensors, changed), (same, _) = (adapt_torchvision.convert(file, config) for file in (new, old))
    assert all(torch.equal(tensor, same[name]) for name, tensor in tensors.items())
    assert [level.stride for level in changed.anchors] == ["floor"] * 5
    assert changed.neck.source == "c5"  # its P6 has 512 channels to start from
    with torch.device("meta"):
        ours = Detector(changed).state_dict()
    assert {k: v.shape for k, v in tensors.items()} | {k: v.shape for k, v in ours.items() if "num_batches" in k} == {
        k: v.shape for k, v in ours.items()
    }
