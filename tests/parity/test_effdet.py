"""Our EfficientDets against effdet's with the same weights: network, anchors, matches, losses, detections."""

from dataclasses import replace
from itertools import combinations

import pytest
import timm
import torch
import torch.nn.functional as F
from timm.layers import DropPath

import onestage
from onestage.cli import imports
from onestage.errors import WeightsError
from onestage.model.anchors.levels import anchor_boxes
from onestage.structures import ImageMeta, Targets
from onestage.weights.class_names import COCO_90
from onestage.weights.projects.effdet import PIXELS, PUBLISHED, RELEASE, classes, convert, model, recognises
from onestage.weights.source import Source
from onestage.zoo.efficientdet import IMAGENET, TWINS, VARIANTS
from onestage.zoo.table import recipe

effdet = pytest.importorskip("effdet")

NAMES = tuple(f"class {i}" for i in range(90))
CASES = [
    ("tf_efficientdet_d0", "efficientdet_d0", (256, 256)),
    ("tf_efficientdet_d0", "efficientdet_d0", (128, 384)),
    ("tf_efficientdet_d1", "efficientdet_d1", (256, 256)),
    ("efficientdet_d0", "efficientdet_d0", (256, 128)),
    ("tf_efficientdet_lite0", "efficientdet_lite0", (320, 320)),
    ("tf_efficientdet_lite0", "efficientdet_lite0", (192, 320)),
]


def their_model(name, size=None):
    """effdet's model with random weights, lively: statistics of batch norm from a pass over a picture, all weights uneven."""
    torch.manual_seed(0)
    theirs = effdet.create_model(name, pretrained=False, pretrained_backbone=False, image_size=size)
    with torch.no_grad():
        for key, parameter in theirs.named_parameters():
            if key.endswith("edge_weights"):
                parameter.uniform_(-0.3, 1.5)
        for module in theirs.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.momentum = 1.0
                module.weight.uniform_(0.7, 1.3)
                module.bias.uniform_(-0.2, 0.2)
        theirs.train()(cloud(size, batch=4))
        for module in theirs.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_var.clamp_(min=0.1)
        theirs.box_net.predict.conv_pw.weight.mul_(0.2)  # boxes that stay near their anchors
        theirs.box_net.predict.conv_pw.bias.uniform_(-0.3, 0.3)
        theirs.class_net.predict.conv_pw.weight.mul_(0.3)
        theirs.class_net.predict.conv_pw.bias.uniform_(-6.0, -3.0)
    return theirs.eval()


def cloud(size, batch=1):
    generator = torch.Generator().manual_seed(1)
    return F.interpolate(torch.randn(batch, 3, 9, 9, generator=generator), size, mode="bicubic")


def flat(outputs, width):
    """effdet's outputs, a list of (B, S * width, H, W), as rows (level, y, x, shape)."""
    return torch.cat([o.permute(0, 2, 3, 1).reshape(len(o), -1, width) for o in outputs], dim=1)


@pytest.fixture(scope="module", params=CASES, ids=lambda case: f"{case[0]}-{case[2][0]}x{case[2][1]}")
def pair(request, tmp_path_factory):
    """effdet's model, and ours made from its checkpoint; the input size."""
    name, own, size = request.param
    theirs = their_model(name, size)
    path = tmp_path_factory.mktemp("weights") / "effdet.pth"
    torch.save(theirs.state_dict(), path)
    return theirs, onestage.create(own, weights=path, size=size).eval(), size


@pytest.mark.parametrize("name", VARIANTS)
def test_blocks_left_out_in_training(name):
    asked = effdet.get_efficientdet_config(f"tf_{name}")
    with torch.device("meta"):  # the backbones alone: blocks of other parts are never left out
        theirs = timm.create_model(asked.backbone_name, features_only=True, out_indices=(2, 3, 4), **asked.backbone_args)
        ours = recipe(name, NAMES).backbone.build()
    expected, got = ([m.drop_prob for m in b.modules() if isinstance(m, DropPath)] for b in (theirs, ours))
    assert got == expected
    assert got or name == "efficientdet_lite0", "where effdet has none"


@torch.no_grad()
def test_network(pair):
    theirs, ours, size = pair
    images = cloud(size, batch=2)
    logits, offsets = theirs(images)
    output = ours(images.contiguous(memory_format=torch.channels_last))
    expected, turned = flat(logits, 90), flat(offsets, 4)[:, :, [1, 0, 3, 2]]
    assert expected.std() > 0.5 and turned.std() > 0.05
    assert (output.logits - expected).abs().max() <= 1e-4
    assert (output.deltas - turned).abs().max() <= 1e-4


def test_anchors(pair):
    theirs, ours, size = pair
    expected = effdet.anchors.Anchors.from_config(theirs.config).boxes[:, [1, 0, 3, 2]]
    assert (ours.anchors(size) - expected).abs().max() <= 1e-3


@pytest.mark.parametrize("name", ["efficientdet_d0", "efficientdet_d7", "efficientdet_d7x"])
def test_anchors_at_the_usual_size(name):
    theirs = effdet.anchors.Anchors.from_config(effdet.get_efficientdet_config(f"tf_{name}"))
    cells = [theirs.feat_sizes[level] for level in range(theirs.min_level, theirs.max_level + 1)]
    own = anchor_boxes(recipe(name, NAMES).anchors, cells, theirs.image_size)
    assert (own - theirs.boxes[:, [1, 0, 3, 2]]).abs().max() <= 1e-3


def test_matches(pair):
    """The objects share best anchors: the first of them gets it, in effdet and here."""
    theirs, ours, size = pair
    height, width = size
    boxes = torch.tensor([[0.1, 0.2, 0.5, 0.9], [0.1, 0.2, 0.5, 0.9], [0.7, 0.7, 0.72, 0.72], [0.0, 0.0, 1.0, 1.0]])
    boxes = boxes * torch.tensor([width, height, width, height])
    labels = torch.tensor([3, 17, 89, 0])
    labeler = effdet.anchors.AnchorLabeler(effdet.anchors.Anchors.from_config(theirs.config), 90)
    cls, _, positives = labeler.batch_label_anchors([boxes[:, [1, 0, 3, 2]]], [labels + 1])
    expected = torch.cat([level.flatten() for level in cls])
    matches = ours.assign([Targets(boxes, labels)], size).matches[0]
    assert int(positives) == int((matches >= 0).sum()) > 4
    own = torch.where(matches >= 0, labels[matches.clamp(min=0)], -1)
    assert torch.equal(own, expected.long())


@torch.no_grad()
def test_losses(pair):
    """effdet divides by one positive more, and leaves out offsets that are exactly zero, which none is here."""
    theirs, ours, size = pair
    images = cloud(size, batch=2)
    boxes = torch.tensor([[13.3, 20.1, 101.7, 90.4], [30.2, 15.8, 110.9, 120.3]])
    labels = torch.tensor([5, 60])
    bench = effdet.DetBenchTrain(theirs)
    target = {
        "bbox": [boxes[:, [1, 0, 3, 2]]] * 2,
        "cls": [labels + 1] * 2,
        "img_scale": torch.ones(2),
        "img_size": torch.tensor([[size[1], size[0]]] * 2).float(),
    }
    expected = bench(images, target)
    output = ours(images)
    assignment = ours.assign([Targets(boxes, labels)] * 2, size)
    divisor = (assignment.matches >= 0).sum() + 1.0
    losses = ours.loss(output, assignment, normalizer=divisor)
    torch.testing.assert_close(losses["cls"], expected["class_loss"], rtol=1e-4, atol=0)
    torch.testing.assert_close(losses["box"], 50 * expected["box_loss"], rtol=1e-4, atol=0)


@torch.no_grad()
def test_detections(pair):
    """From the same outputs: the best 5,000, NMS per class, the best 100; effdet knows no threshold."""
    theirs, ours, size = pair
    images = cloud(size, batch=2)
    output = ours(images)
    extent = {"img_scale": torch.ones(2), "img_size": torch.tensor([[size[1], size[0]]] * 2).float()}
    expected = effdet.DetBenchPredict(theirs)(images, extent)
    found = ours.decode(output, [ImageMeta(size, size, (1.0, 1.0), (0, 0))] * 2, score=0.0)
    for own, foreign in zip(found, expected, strict=True):
        assert len(own) == len(foreign) == 100
        torch.testing.assert_close(own.scores, foreign[:, 4], atol=1e-5, rtol=1e-3)
        # neighbours in rank may change places where scores are equal up to rounding: look for each of theirs among ours
        near = (own.boxes[None] - foreign[:, None, :4]).abs().amax(2) < 0.05
        same = near & (own.labels[None] + 1 == foreign[:, None, 5])
        assert same.any(1).float().mean() > 0.98


def keys_only(name):
    with torch.device("meta"):
        return effdet.create_model(name, pretrained=False, pretrained_backbone=False).state_dict()


QUICK = ("efficientdet_d2", "efficientdet_d7x", "efficientdet_lite1")


@pytest.mark.parametrize("name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in VARIANTS])
def test_every_checkpoint_is_recognised_and_fits(name):
    """By names and shapes alone, and so every parameter of each model is counted."""
    tensors = keys_only(f"tf_{name}")
    assert recognises(tensors)
    assert name in (model(tensors), TWINS.get(model(tensors)))
    assert len(classes(tensors).names) == 90
    converted, config = convert(tensors, recipe(name, NAMES))
    assert config == recipe(name, NAMES)
    with torch.device("meta"):
        ours = onestage.Detector(config).state_dict()
    assert {k: v.shape for k, v in converted.items()} == {k: v.shape for k, v in ours.items()}


def test_a_file_of_d6_or_d7_is_taken_for_neither_until_somebody_says_which(tmp_path, monkeypatch):
    """Their tensors are the same, their anchors are not."""
    source = Source(tmp_path, "effdet", model(keys_only("tf_efficientdet_d7")), COCO_90, {})
    monkeypatch.setattr(imports, "read_source", lambda *_: source)
    monkeypatch.setattr(imports, "create", lambda name, **_: onestage.create("tinyssd", 1, size=(64, 64)))
    monkeypatch.setattr(imports, "_show", lambda *_: None)
    (tmp_path / "d7.pth").touch()
    with pytest.raises(WeightsError, match="efficientdet_d6 or efficientdet_d7: say --model"):
        imports.import_weights(tmp_path / "d7.pth", out=tmp_path / "d7.safetensors")
    assert imports.import_weights(tmp_path / "d7.pth", out=tmp_path / "d7.safetensors", model="efficientdet_d7") == 0


def test_twins_are_the_variants_that_differ_in_input_and_anchors_alone():
    usual = {name: replace(v, side=0, scale=0.0, published=(0.0, None)) for name, v in VARIANTS.items()}
    alike = {a: b for (a, x), (b, y) in combinations(usual.items(), 2) if x == y}
    assert alike == TWINS


@pytest.mark.parametrize("name", ["resdet50", "efficientdet_q0", "efficientdetv2_dt", "efficientdet_lite0"])
def test_its_other_models_are_not_taken_for_efficientdets(name):
    assert not recognises(keys_only(name))


@torch.no_grad()
def test_a_checkpoint_of_its_training_and_norms_listed_by_level(tmp_path):
    """DetBenchTrain puts "model." before the names; torchscript needs the head's norms by level first."""
    size = (128, 128)
    theirs = their_model("tf_efficientdet_lite0", size)
    images = cloud(size)
    expected = flat(theirs(images)[0], 90)
    theirs.toggle_head_bn_level_first()
    torch.save(effdet.DetBenchTrain(theirs).state_dict(), tmp_path / "bench.pth")
    ours = onestage.create("efficientdet_lite0", weights=tmp_path / "bench.pth", size=size).eval()
    assert (ours(images).logits - expected).abs().max() <= 1e-4


def test_published_files_are_those_effdet_names():
    configs = effdet.config.model_config.efficientdet_model_param_dict
    for tag, (file, *_) in PUBLISHED.items():
        name, kind = tag.split(".")
        theirs = name if kind == "coco_effdet" else f"tf_{name}" + kind.removeprefix("coco")
        assert configs[theirs]["url"] == RELEASE + file
        preprocess = recipe(name, NAMES).preprocess
        usual = effdet.config.get_efficientdet_config(theirs)
        pixels = tuple(usual.get("mean", IMAGENET[0])), tuple(usual.get("std", IMAGENET[1]))
        assert PIXELS.get(tag, (preprocess.mean, preprocess.std)) == pixels
