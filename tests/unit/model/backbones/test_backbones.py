"""Backbones, necks and heads: shapes, strides, and whatever timm has."""

import re

import pytest
import timm
import torch
from timm.layers import DropPath
from torch import nn

import onestage
from onestage.errors import ConfigError
from onestage.model.backbones.any_timm import TimmBackbone
from onestage.model.backbones.mobilenet import MobileNetBackbone
from onestage.model.backbones.tiny import TinyBackbone
from onestage.model.backbones.vgg16 import VGG16Backbone
from onestage.model.detector import Detector, map_sizes
from onestage.model.heads.per_level import ConvHead
from onestage.model.necks.extra_levels import ExtraBlock, ExtraLevels
from onestage.structures import Targets

OBJECTS = Targets(torch.tensor([[20.0, 30, 120, 140], [100, 10, 200, 90]]), torch.tensor([0, 1]))


def check_it_trains(model, size):
    """Forward, loss and backward on two images; every parameter learns something."""
    model.train()
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.head.parameters():  # away from 0, so that no gradient is 0 by chance
            parameter.add_(torch.randn_like(parameter) * 0.01)
    output = model(torch.randn(2, 3, *size))
    anchors = model.anchors(size)
    assert output.logits.shape == (2, len(anchors), model.config.logits)
    assert output.deltas.shape == (2, len(anchors), 4)
    sum(model.loss(output, [OBJECTS, OBJECTS]).values()).backward()
    without = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert without == []


@pytest.mark.parametrize("name", ["resnet18", "mobilenetv3_small_100", "convnext_atto", "regnetx_002", "efficientnet_b0"])
def test_any_timm_backbone(name):
    check_it_trains(onestage.create("ssd", 2, backbone=f"timm/{name}", size=(144, 208)), (144, 208))
    wide = onestage.create("ssd", 2, backbone=name, size=(170, 333)).eval()
    assert len(wide.predict(torch.zeros(3, 50, 60, dtype=torch.uint8))) == 1


def test_a_backbone_that_rounds_down_gets_levels_that_fit():
    """270 pixels are 9 cells of stride 32 to one network and 8 to another; the extra levels follow the real map."""
    down, up = (onestage.create("ssd", 2, backbone=name, size=(270, 270)) for name in ("convnext_atto", "resnet18"))
    assert [h for h, _ in down.level_sizes((270, 270))] == [33, 16, 8, 4, 2, 1]
    assert [h for h, _ in up.level_sizes((270, 270))] == [34, 17, 9, 5, 3, 1]


@pytest.mark.parametrize("size", [(160, 160), (171, 600), (299, 301), (427, 427), (600, 600)])
def test_vgg_at_odd_sizes(size):
    with torch.device("meta"):
        model = Detector(onestage.recipe("ssd300_vgg16", ["a", "b"], size=size)).eval()
        outputs = model(torch.empty(1, 3, *size))
    sizes = model.level_sizes(size)
    assert sizes[0] == (-(-(size[0] // 4) // 2), -(-(size[1] // 4) // 2))
    assert min(sizes[-1]) == 1
    assert len(model.anchors(size)) == sum(h * w * len(a.shapes) for (h, w), a in zip(sizes, model.config.anchors, strict=True))
    assert outputs.logits.shape[1] == len(model.anchors(size))


@pytest.mark.parametrize(
    ("backbone", "size", "sizes"),
    [
        (TinyBackbone(), (256, 192), [(32, 24), (16, 12), (8, 6), (4, 3), (1, 1)]),
        (VGG16Backbone(), (300, 300), [(38, 38), (19, 19)]),
        (MobileNetBackbone("v2"), (300, 300), [(19, 19), (10, 10)]),
        (MobileNetBackbone(), (320, 320), [(20, 20), (10, 10)]),
        (TimmBackbone("resnet18"), (300, 300), [(38, 38), (19, 19), (10, 10)]),
        (TimmBackbone("resnet18", strides=(16,), keep_resolution=True), (300, 300), [(38, 38)]),
    ],
)
def test_maps_and_channels(backbone, size, sizes):
    assert list(map_sizes(backbone, size)) == sizes
    with torch.device("meta"):
        built = backbone.build().eval()
        assert [m.shape[1] for m in built(torch.empty(1, 3, *size))] == list(built.channels)


@pytest.mark.parametrize("name", ["dla34", "tresnet_l"])
def test_strides_are_right_where_the_first_map_offered_is_not_the_networks_first(name):
    assert map_sizes(TimmBackbone(name), (256, 128)) == ((32, 16), (16, 8), (8, 4))


def test_maps_that_do_not_cover_the_input_are_refused():
    with pytest.raises(ConfigError, match="map of stride 8 does not cover"):
        onestage.create("ssd", 2, backbone="inception_v3", size=(256, 256))


@pytest.mark.parametrize("promised", [(8, 16), (8, 16, 32, 64)])
def test_a_promise_for_other_maps_than_there_are_is_an_error(monkeypatch, promised):
    """The maps beyond it would go unchecked."""
    build = TimmBackbone.build
    backbone = TimmBackbone("resnet10t", strides=(8, 16, 32))

    def built(self):
        features = build(self)
        features.strides = promised
        return features

    monkeypatch.setattr(TimmBackbone, "build", built)
    with pytest.raises(
        ConfigError, match=r"other maps than it promises\n.*resnet10t.*\n.*\n.*promise 3 strides, one per map, or none"
    ):
        map_sizes.__wrapped__(backbone, (64, 64))


def test_strides_in_another_order_are_refused():
    with torch.device("meta"), pytest.raises(ConfigError, match="fine to coarse"):
        TimmBackbone("resnet18", strides=(32, 8)).build()


def test_keeping_the_resolution_changes_no_weight():
    torch.manual_seed(0)
    plain, kept = (TimmBackbone("resnet18", (16,), keep_resolution=keep).build() for keep in (False, True))
    assert {k: v.shape for k, v in plain.state_dict().items()} == {k: v.shape for k, v in kept.state_dict().items()}


def test_conv4_3_is_normalised_to_the_learned_scale():
    with torch.no_grad():
        fine, _ = VGG16Backbone().build()(torch.randn(1, 3, 64, 64))
    assert fine.norm(dim=1).flatten().tolist() == pytest.approx([20.0] * 64, rel=1e-4)


def test_maps_that_come_channels_last_are_turned():
    """timm's Swin gives (B, H, W, C)."""
    backbone = TimmBackbone("swin_tiny_patch4_window7_224", strides=(8, 32))
    assert map_sizes(backbone, (224, 224)) == ((28, 28), (7, 7))
    with pytest.raises(ConfigError, match="cannot take inputs"):
        map_sizes(backbone, (300, 300))


@pytest.mark.parametrize(
    ("name", "says"),
    [("resnet43", "did you mean 'resnet"), ("vit_tiny_patch16_224", "no map of that stride"), ("", "no such model")],
)
def test_names_that_are_no_backbone(name, says):
    with pytest.raises(ConfigError, match=says):
        onestage.create("ssd", 2, backbone=name)


def test_weights_are_not_downloaded(monkeypatch):
    asked = []
    monkeypatch.setattr(timm.models._builder, "load_pretrained", lambda *_, **__: asked.append("a download"))
    TimmBackbone("resnet18").build()
    assert asked == []
    timm.create_model("resnet18", pretrained=True)  # which asks, so the check can fail
    assert asked == ["a download"]


def test_a_backbone_without_strides_cannot_keep_its_resolution():
    with torch.device("meta"), pytest.raises(ConfigError, match="keep_resolution"):
        TimmBackbone("vgg11", strides=(1,), keep_resolution=True).build()


@pytest.mark.parametrize("style", ["plain", "batch_norm", "separable"])
def test_extra_levels_stand_on_the_last_map(style):
    blocks = (ExtraBlock(8, 12), ExtraBlock(4, 6, stride=1, padding=0))
    neck = ExtraLevels(blocks, style=style).build((5, 7)).eval()
    maps = neck([torch.zeros(1, 5, 20, 20), torch.zeros(1, 7, 10, 10)])
    assert [tuple(m.shape[1:]) for m in maps] == [(5, 20, 20), (7, 10, 10), (12, 5, 5), (6, 3, 3)]
    assert neck.channels == (5, 7, 12, 6)


@pytest.mark.parametrize("style", ["plain", "separable"])
def test_head_rows_are_ordered_level_y_x_shape(style):
    """A 1x1 stand-in for the convolutions writes the position and shape of each number into it."""
    head = ConvHead(style).build((2, 2), (3, 1), 5).eval()
    for level, shapes in enumerate((3, 1)):
        spread = nn.Conv2d(2, shapes * 5, 1, bias=True)
        spread.weight.data.zero_()[:, 0] = 1
        spread.bias.data = torch.arange(shapes).repeat_interleave(5) * 0.1
        head.cls[level] = spread
    cells = [torch.arange(6.0).view(1, 1, 2, 3).expand(1, 2, 2, 3), torch.full((1, 2, 1, 1), 100.0)]
    logits, deltas = head(cells)
    expected = [cell + 0.1 * shape for cell in range(6) for shape in range(3)] + [100]
    assert logits[0, :, 0].tolist() == pytest.approx(expected)
    assert logits.shape == (1, 19, 5)
    assert deltas.shape == (1, 19, 4)


def learns(backbone):
    """Names of the parameters that learn, and of the batch norms whose statistics still move in training mode."""
    parameters = {name for name, p in backbone.named_parameters() if p.requires_grad}
    return parameters, {name for name, m in backbone.named_modules() if isinstance(m, nn.BatchNorm2d) and m.training}


@pytest.mark.parametrize(
    ("name", "freeze", "stages"),
    [
        ("resnet18", 1, ["conv1", "bn1"]),  # detectron2's MODEL.BACKBONE.FREEZE_AT: 1 is the stem, 2 the first stage too
        ("resnet18", 2, ["conv1", "bn1", "layer1"]),
        ("resnet18", 5, [""]),
        ("mobilenetv3_small_100", 2, ["conv_stem", "bn1", "blocks.0"]),
        ("convnext_atto", 1, ["stem_0", "stem_1", "stages_0"]),  # its stem gives no map of its own
    ],
)
def test_the_first_stages_can_be_frozen(name, freeze, stages):
    with torch.device("meta"):
        free, frozen = TimmBackbone(name).build().train(), TimmBackbone(name, freeze=freeze).build().train()
    held = tuple(f"body.{stage}" for stage in stages)
    parameters, norms = learns(free)
    assert learns(frozen) == ({n for n in parameters if not n.startswith(held)}, {n for n in norms if not n.startswith(held)})
    assert len(learns(frozen)[0]) < len(parameters)
    assert list(frozen.state_dict()) == list(free.state_dict())


@pytest.mark.parametrize("settings", [{"norm": "frozen"}, {"norm": "frozen", "freeze": 3}, {"freeze": 5}])
def test_what_is_frozen_stays_through_training(settings):
    torch.manual_seed(0)
    config = onestage.create("ssd", 2, backbone="resnet18", size=(96, 96)).config
    model = Detector(config.replace({f"backbone.{k}": v for k, v in settings.items()})).train()
    before = {k: v.clone() for k, v in model.backbone.state_dict().items()}
    learning, moving = learns(model.backbone)
    assert moving == set()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1, weight_decay=0.1)
    losses = model.loss(model(torch.randn(2, 3, 96, 96)), [OBJECTS, OBJECTS])
    sum(losses.values()).backward()
    optimizer.step()
    after = model.backbone.state_dict()
    assert {k for k in before if not torch.equal(before[k], after[k])} == learning
    assert len(learning) < len(list(model.backbone.parameters()))


def test_frozen_norms_stay_so_between_training_and_evaluation():
    with torch.device("meta"):
        backbone = TimmBackbone("resnet18", freeze=1).build()
    assert not backbone.body.bn1.training
    assert backbone.body.layer1[0].bn1.training
    assert not backbone.eval().body.layer1[0].bn1.training
    backbone.train()
    assert not backbone.body.bn1.training
    assert backbone.body.layer1[0].bn1.training


@pytest.mark.parametrize(
    ("backbone", "says"),
    [
        (TimmBackbone("resnet18", freeze=6), r"freeze lies in 0\.\.5"),
        (TimmBackbone("resnet18", freeze=-1), r"freeze lies in 0\.\.5"),
        (TimmBackbone("convnext_atto", norm="frozen"), "needs a backbone with batch norm"),
    ],
)
def test_what_cannot_be_frozen(backbone, says):
    with torch.device("meta"), pytest.raises(ConfigError, match=says):
        backbone.build()


@pytest.mark.parametrize("name", ["mobilenetv3_small_100", "tf_efficientnet_b0"])
def test_blocks_are_left_out_in_training_alone(name):
    whole, leaving_out = (TimmBackbone(name, norm="frozen", drop_path=part).build() for part in (0.0, 0.5))
    leaving_out.load_state_dict(whole.state_dict())  # the same tensors by the same names
    images = torch.randn(8, 3, 64, 64)

    def maps(backbone, seed=0):
        torch.manual_seed(seed)
        with torch.no_grad():
            return backbone(images)

    expected = maps(whole.train())
    for ours, theirs in zip(maps(leaving_out.eval()), expected, strict=True):
        torch.testing.assert_close(ours, theirs)
    first, same, other = (maps(leaving_out.train(), seed) for seed in (0, 0, 1))
    assert all(torch.equal(a, b) for a, b in zip(first, same, strict=True)), "the same seed leaves out the same"
    assert not torch.equal(first[-1], other[-1])
    chances = [m.drop_prob for m in leaving_out.modules() if isinstance(m, DropPath)]
    assert chances == sorted(chances)
    assert 0.4 <= chances[-1] <= 0.5 and chances[0] <= 0.1


def test_blocks_are_left_out_as_often_as_asked():
    """Of ResNet-18's eight blocks, the last with the chance asked for."""
    with torch.device("meta"):
        body = TimmBackbone("resnet18", drop_path=0.35).build()
    chances = {name: m.drop_prob for name, m in body.named_modules() if isinstance(m, DropPath)}
    assert chances["body.layer4.1.drop_path"] == pytest.approx(0.35)
    assert chances["body.layer1.1.drop_path"] == pytest.approx(0.05)


def test_nothing_is_left_out_where_nothing_learns():
    with torch.device("meta"):
        body = TimmBackbone("tf_efficientnet_b0", norm="frozen", freeze=2, drop_path=0.2).build().train()
    stages = {True: set(), False: set()}
    for name, module in body.named_modules():
        if isinstance(module, DropPath):
            stages[module.training].add(name.removesuffix(".drop_path").split(".")[2])
    assert stages == {True: {"2", "3", "4", "5", "6"}, False: {"1"}}  # the first has no chance to be left out


@pytest.mark.parametrize(("asked", "chance"), [(None, 0.1), (0.0, None)])
def test_timm_decides_what_is_left_out_unless_asked(asked, chance):
    """swin leaves out blocks by itself."""
    with torch.device("meta"):
        body = TimmBackbone("swin_tiny_patch4_window7_224", drop_path=asked).build()
    chances = [m.drop_prob for m in body.modules() if isinstance(m, DropPath)]
    assert max(chances, default=None) == (chance and pytest.approx(chance))


@pytest.mark.parametrize("part", [-0.1, 1.0])
def test_blocks_are_left_out_of_a_part_of_the_pictures(part):
    with pytest.raises(ConfigError, match=r"drop_path\n.*\n  expected: at least 0, below 1"):
        TimmBackbone("resnet18", drop_path=part)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("vgg11", "timm has no such choice for this backbone\n  where:    vgg11\n  got:      backbone.drop_path=0.2 "),
        ("mobilenetv1_100", "drop_path needs a backbone with residual blocks that timm can leave out\n  got:      mobilenetv1"),
    ],
)
def test_a_network_without_residual_blocks_cannot_leave_them_out(name, says):
    with torch.device("meta"), pytest.raises(ConfigError, match=re.escape(says)) as error:
        TimmBackbone(name, drop_path=0.2).build()
    assert "fix:      " in str(error.value)


@pytest.mark.parametrize("error", [RuntimeError("features_only not implemented"), AttributeError("feature_info")])
def test_a_timm_model_that_refuses_to_give_maps(monkeypatch, error):
    """None of timm 1.0.31's is known to; earlier and later ones may."""

    def refuse(*_, **__):
        raise error

    monkeypatch.setattr(timm, "create_model", refuse)
    with pytest.raises(ConfigError, match="gives no feature maps"):
        TimmBackbone("resnet18").build()


def test_frozen_norms_stay_so_when_a_caller_freezes_and_frees_everything():
    features = TimmBackbone("resnet18", norm="frozen").build()
    features.requires_grad_(False)
    features.requires_grad_(True)
    features.train()
    assert not any(m.training for m in features.modules() if isinstance(m, torch.nn.BatchNorm2d))


def test_a_network_that_cannot_be_made_without_numbers_is_made_with_them(monkeypatch):
    """torch 2.10 has no meta kernel of unique(), which a RegNet needs while it is made."""
    real = timm.create_model

    def older(*args, **options):
        if torch.empty(0).device.type == "meta":
            raise NotImplementedError("aten::_unique2")
        return real(*args, **options)

    monkeypatch.setattr(timm, "create_model", older)
    assert map_sizes(TimmBackbone("test_resnet", (8, 16)), (64, 96)) == ((8, 12), (4, 6))
    with torch.device("meta"):
        assert {p.device.type for p in TimmBackbone("test_resnet", (8, 16)).build().parameters()} == {"meta"}
