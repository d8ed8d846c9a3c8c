"""Detectors and backbones from TensorFlow Lite files: what is read, what is refused, and what one can then do with it."""

import random
import sys

import numpy as np
import pytest
import torch

import onestage
from onestage.cli.main import main
from onestage.errors import WeightsError
from onestage.model.backbones.any_timm import TimmBackbone
from onestage.model.backbones.folded import FoldedBackbone
from onestage.model.detector import Detector
from onestage.model.losses.focal import FocalLoss
from onestage.model.losses.multibox import MultiBoxLoss
from onestage.structures import Targets
from onestage.weights.projects.tflite import ssd as adapt_tflite
from onestage.weights.projects.tflite.graph import read_graph
from onestage.zoo.table import recipe
from tflite_files import Network, Value, anchors_for, convert_backbone, read, small_ssd, write

IMAGES = torch.randn(2, 3, 44, 36, generator=torch.Generator().manual_seed(0)).clamp(-1, 1)


@pytest.fixture
def file(tmp_path):
    """Writes the bytes of a file and gives its path."""

    def put(data):
        path = tmp_path / "model.tflite"
        path.write_bytes(data)
        return path

    return put


def detector(path):
    config, tensors = read(path)
    made = Detector(config)
    made.load_state_dict(tensors)
    return made


# --- what is read ----------------------------------------------------------------------------------------------------------


def test_the_config_says_what_the_file_says(file):
    options = {"max_detections": 7, "nms_iou_threshold": 0.55, "nms_score_threshold": 0.02, "x_scale": 8.0, "h_scale": 4.0}
    config, _ = read(file(small_ssd(classes=3, **options)))
    assert config.classes == ("class 0", "class 1", "class 2")
    assert config.preprocess.size == (44, 36)
    assert config.preprocess.mean == config.preprocess.std == (0.5, 0.5, 0.5)
    assert config.coder.variances == (1 / 8, 1 / 10, 1 / 5, 1 / 4)
    found = config.postprocess
    assert (found.detections, found.class_agnostic) == (7, True)
    assert (found.nms.iou_threshold, found.score_threshold) == pytest.approx((0.55, 0.02))
    assert isinstance(config.loss, FocalLoss) and config.logits == 3
    expected = anchors_for([(22, 18), (11, 9)], (3, 6))
    ours = Detector(config).anchors((44, 36))
    theirs = torch.tensor(expected, dtype=torch.float32) * torch.tensor([44, 36, 44, 36])
    corners = torch.cat([theirs[:, :2] - theirs[:, 2:] / 2, theirs[:, :2] + theirs[:, 2:] / 2], dim=1)[:, [1, 0, 3, 2]]
    torch.testing.assert_close(ours, corners, atol=1e-4, rtol=0)


def test_scores_by_softmax_keep_their_background(file):
    config, tensors = read(file(small_ssd(score="SOFTMAX", classes=3)))
    assert isinstance(config.loss, MultiBoxLoss) and config.logits == 4
    assert len(tensors["head.cls.1.weight"]) == 6 * 4


def test_ninety_classes_are_cocos(file):
    config, _ = read(file(small_ssd(classes=90)))
    assert (config.classes[16], config.category_ids[16]) == ("cat", 17)
    assert config.name == "ssd300_mobilenet_v1"


@torch.no_grad()
def test_relu6_that_only_the_range_of_the_integers_tells(file):
    said, implied = (detector(file(small_ssd(implied=implied))).eval() for implied in (False, True))
    assert [layer.relu6 for layer in implied.config.backbone.layers] == [True] * 6
    assert torch.equal(said(IMAGES).logits, implied(IMAGES).logits)


def test_the_published_file(shared_data):
    """Its README: width 0.75, 6 maps, 1,917 anchors; the input's integers 0..255 stand for -1..0.992."""
    config, tensors = read(shared_data / "weights" / "coco_ssd_mobilenet_v1_quant_2018_06_29.tflite")
    backbone = config.backbone
    assert isinstance(backbone, FoldedBackbone)
    assert [backbone.layers[i].channels for i in backbone.maps] == [384, 768, 384, 192, 192, 96]
    assert sum(t.numel() for t in tensors.values()) == 4_120_545 - 30_291  # 33 shapes' background: 1x1 kernels and biases
    made = Detector(config)
    assert made.level_sizes((300, 300)) == ((19, 19), (10, 10), (5, 5), (3, 3), (2, 2), (1, 1))
    assert made.anchors((300, 300)).shape == (1917, 4)
    # the file's integers lie up to a pixel beside the sizes 0.2, 0.35, ..., 0.95 that its authors chose
    squares = [level.shapes[0][0] / 300 for level in config.anchors]
    assert squares == pytest.approx([0.1, 0.35, 0.5, 0.65, 0.8, 0.95])
    lowest, highest = (config.preprocess.normalize(torch.full((1, 3, 1, 1), v)).flatten()[0] for v in (0.0, 255.0))
    assert (float(lowest), float(highest)) == pytest.approx((-1.0, 127 / 128), abs=1e-5)


# --- what one can do with it -----------------------------------------------------------------------------------------------


@torch.no_grad()
def test_saved_and_loaded(file, tmp_path):
    made = detector(file(small_ssd(version="v2", separable=True))).eval()
    made.save(tmp_path / "ours.safetensors")
    again = onestage.load(tmp_path / "ours.safetensors")
    assert again.config == made.config
    assert torch.equal(again(IMAGES).logits, made(IMAGES).logits)


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_tuning_reaches_every_weight_and_lowers_the_loss(version, file):
    torch.manual_seed(0)
    made = detector(file(small_ssd(version=version, separable=version == "v2"))).train()
    boxes = torch.tensor([[4.0, 5.0, 30.0, 40.0], [8.0, 9.0, 20.0, 20.0]])  # one for each level
    targets = [Targets(boxes, torch.tensor(labels)) for labels in ((0, 1), (2, 2))]
    optimiser = torch.optim.Adam(made.parameters(), lr=5e-3)
    losses = []
    for _ in range(20):
        loss = sum(made.loss(made(IMAGES), targets).values())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    without = [name for name, p in made.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert not without
    assert losses[-1] < 0.7 * losses[0]


def test_other_classes_start_from_the_prior(file):
    path = file(small_ssd(classes=3))
    with pytest.warns(UserWarning, match=r"4 tensors do not fit and start fresh: head\.cls\.0, head\.cls\.1"):
        made = onestage.create("ssd300_mobilenet_v1", classes=["bolt", "nut"], size=(44, 36), weights=path)
    assert made.config.classes == ("bolt", "nut")
    assert made.config.postprocess == recipe("ssd300_mobilenet_v1", ["bolt", "nut"]).postprocess  # not that of its use
    assert made.head.cls[1].bias.sigmoid().tolist() == pytest.approx([0.01] * 12)
    assert torch.equal(made.backbone.layers[0][0].weight, read(path)[1]["backbone.layers.0.0.weight"])


def test_imported_by_the_command_line(file, tmp_path, capsys):
    path = file(small_ssd(classes=90))
    assert main(["import", str(path), "-o", str(tmp_path / "ours.safetensors")]) == 0
    assert onestage.load(tmp_path / "ours.safetensors").config.classes[16] == "cat"
    damaged = file(path.read_bytes()[:-2000])
    assert main(["import", str(damaged), "-o", str(tmp_path / "no.safetensors")]) == 2
    message = capsys.readouterr().err
    assert str(damaged) in message and "Traceback" not in message
    assert not (tmp_path / "no.safetensors").exists()


# --- what is refused -------------------------------------------------------------------------------------------------------


def refused(path, match):
    with pytest.raises(WeightsError, match=match) as error:
        read(path)
    assert f"  where:    {path}" in str(error.value).splitlines()
    return str(error.value)


def test_cut_short_anywhere(file):
    data = small_ssd()
    for length in range(0, len(data), len(data) // 60):
        with pytest.raises(WeightsError):
            read(file(data[:length]))


def test_flipped_bits_are_an_error_or_other_numbers_and_nothing_else(file):
    """Most of a file is weights, so half of the flips go to its structure, which stands at its two ends."""
    chance = random.Random(5)
    good = small_ssd(stored="int8", version="v2", size=(20, 20))
    outcomes = set()
    for _ in range(150):
        data = bytearray(good)
        for _ in range(chance.choice((1, 4, 16))):
            at = chance.choice((chance.randrange(len(data)), chance.randrange(300), -1 - chance.randrange(3000)))
            data[at] = chance.choice((0, 127, 128, 255, data[at] ^ (1 << chance.randrange(8))))
        try:
            read(file(bytes(data)))
            outcomes.add("read")
        except WeightsError:
            outcomes.add("refused")
    assert outcomes == {"read", "refused"}


def test_random_bytes_under_the_format_s_name(file):
    chance = np.random.default_rng(0)
    for size in (8, 9, 64, 5000):
        refused(file(b"\x20\0\0\0TFL3" + chance.bytes(size - 8)), "damaged")


def test_operators_that_read_what_is_made_later(file):
    values = [Value((1, 8, 8, 3)), Value((1, 8, 8, 3)), Value((1, 8, 8, 3))]
    data = write(values, [("ADD", [0, 2], [1], {}), ("ADD", [1, 1], [2], {})], inputs=[0], outputs=[2])
    refused(file(data), "not in the order in which they run")


def test_a_bomb_of_operators_that_share_one_constant(file):
    values = [Value((1, 8, 8, 3)), Value((200, 200), numbers=np.zeros((200, 200), np.float32))]
    values += [Value((1, 8, 8, 3)) for _ in range(50)]
    steps = [("CONV_2D", [0, 1], [i], {}) for i in range(2, 52)]
    refused(file(write(values, steps, inputs=[0], outputs=[51])), "more constants than it holds")


def test_a_long_chain_before_a_constant():
    network = Network()
    picture = network.value(1, 8, 8, 3)
    last = network.constant(np.arange(6, dtype=np.float32))
    for _ in range(3000):
        last = network.operator("DEQUANTIZE", [last], (6,))
    assert read_graph(network.file(picture, [last])).constant(last).tolist() == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("side", [0, 1])
def test_classes_that_the_file_only_claims(side, file, monkeypatch):
    """Two thousand million names would fill the memory."""
    claimed = 2**31 - 1
    network = Network()
    picture = network.value(1, 44, 36, 3)
    maps = network.conv(picture, 8, kernel=3, stride=2)
    outputs = network.detector([maps], (1,), 2, anchors_for([(22, 18)], (1,)), num_classes=claimed)
    predictor = [operator for operator in network.operators if operator[0] == "CONV_2D"][-1]
    network.values[predictor[1][1]] = Value((claimed, side, side, 8))
    monkeypatch.setattr(adapt_tflite, "known_classes", lambda *_: pytest.fail("names were made"))
    refused(file(network.file(picture, outputs)), "a constant of the file is damaged")


def addition_to_a_reshaped_map(network, maps, *, read_before):
    """The sum of the maps and those of a convolution on them, in another form; its own form is read too or not."""
    added = network.conv(maps, 8)
    if read_before:
        network.conv(added, 8)
    return network.add(maps, network.reshape(added, *network.values[added].shape))


def test_an_addition_to_a_reshaped_map(file):
    network = Network()
    picture = network.value(1, 44, 36, 3)
    maps = addition_to_a_reshaped_map(network, network.conv(picture, 8, kernel=3, stride=2), read_before=False)
    outputs = network.detector([maps], (3,), 2, anchors_for([(22, 18)], (3,)))
    config, _ = read(file(network.file(picture, outputs)))
    assert [layer.add for layer in config.backbone.layers] == [None, 0]


@pytest.mark.parametrize(
    ("build", "match"),
    [
        (lambda n, x: n.conv(x, 8, kernel=3, stride=3), "unusual form"),
        (lambda n, x: n.operator("HARD_SWISH", [x], n.values[x].shape), "an operator HARD_SWISH"),
        (lambda n, x: n.add(x, x), "addition of an unusual form"),
        (lambda n, x: addition_to_a_reshaped_map(n, x, read_before=True), "addition of an unusual form"),
    ],
)
def test_networks_of_another_kind(build, match, file):
    network = Network()
    picture = network.value(1, 44, 36, 3)
    maps = build(network, network.conv(picture, 8, kernel=3, stride=2))
    size = network.values[maps].shape[1:3]
    outputs = network.detector([maps], (3,), 2, anchors_for([size], (3,)))
    message = refused(file(network.file(picture, outputs)), match)
    assert "give a MobileNet v1 or v2" in message and "damaged" not in message


def test_another_activation(file, monkeypatch):
    monkeypatch.setattr("tflite_files.RELU6", 1)  # plain ReLU
    assert "damaged" not in refused(file(small_ssd()), "another activation")


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"num_classes": 7}, "do not fit the number of classes"),
        ({"nms_iou_threshold": 3.0}, "iou_threshold"),
        ({"nms_score_threshold": float("nan")}, "not a finite number"),
        ({"x_scale": 0.0}, "damaged"),
        ({"max_detections": 0}, "at least 1"),
    ],
)
def test_options_that_cannot_be(options, match, file):
    refused(file(small_ssd(**options)), match)


def test_anchors_that_are_no_grid(file, monkeypatch):
    monkeypatch.setattr("tflite_files.anchors_for", lambda sizes, shapes: anchors_for(sizes, shapes)[::-1])
    refused(file(small_ssd()), "not the same at every cell")


def test_a_table_of_anchors_that_lacks_a_row(file, monkeypatch):
    monkeypatch.setattr("tflite_files.anchors_for", lambda sizes, shapes: anchors_for(sizes, shapes)[:-1])
    refused(file(small_ssd()), "damaged")


def test_without_the_extra(file, monkeypatch):
    path = file(small_ssd())
    monkeypatch.setitem(sys.modules, "tflite.Model", None)
    refused(path, r"pip install 'onestage\[tflite\]'")


# --- backbones -------------------------------------------------------------------------------------------------------------


def classifier(channels=(8, 12, 16), *, side=33):
    """The file of a little MobileNet v1 classifier of stride 8."""
    network = Network()
    picture = network.value(1, side, side, 3)
    maps = network.conv(picture, channels[0], kernel=3, stride=2)
    for width in channels[1:]:
        maps = network.conv(network.conv(maps, 0, kernel=3, stride=2, depthwise=True), width)
    pooled = network.operator("MEAN", [maps, network.constant(np.array([1, 2], np.int32))], (1, channels[-1]))
    return network.file(picture, [pooled])


@torch.no_grad()
def test_a_classifier_for_a_backbone_whose_norms_are_frozen(shared_data):
    """At 225 pixels TensorFlow's padding is the usual one, so timm's network and the folded one must agree to rounding."""
    path = shared_data / "weights" / "mobilenet_v2_1.0_224_quant.tflite"
    images = torch.randn(1, 3, 225, 225, generator=torch.Generator().manual_seed(0)).clamp(-1, 1)
    maps = []
    for norm in ("train", "frozen"):
        config = recipe("ssd", ["a"], size=(225, 225), backbone="mobilenetv2_100").replace({"backbone.norm": norm})
        tensors, config = convert_backbone(path, config)
        assert isinstance(config.backbone, FoldedBackbone if norm == "train" else TimmBackbone)
        made = Detector(config)
        assert not [k for k in made.load_state_dict(tensors, strict=False).unexpected_keys if k.startswith("backbone.")]
        maps.append(made.backbone.eval()(images))
    for folded, frozen in zip(*maps, strict=True):
        torch.testing.assert_close(folded, frozen, atol=1e-3, rtol=1e-3)


def test_a_folded_backbone_trains_as_it_predicts(shared_data):
    path = shared_data / "weights" / "mobilenet_v1_0.75_192_quant.tflite"
    made = onestage.create("ssd300_mobilenet_v1", 2, size=(96, 96), backbone_weights=path)
    images = torch.randn(1, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(made.train().backbone(images)[-1], made.eval().backbone(images)[-1])
    assert made.backbone.channels == (384, 768)


def test_the_rest_of_a_folded_backbone_starts_fresh(file):
    """A classifier for the backbone of an imported SSD: its extra levels have no counterpart."""
    config, _ = read(file(small_ssd(version="v1", size=(40, 40))))
    layers = config.backbone.layers
    path = file(classifier((layers[0].channels, 99)))
    with pytest.raises(WeightsError, match="these are no weights for FoldedBackbone"):
        convert_backbone(path, config)  # the first layer alone
    network = Network(seed=1)
    picture = network.value(1, 40, 40, 3)
    maps = network.conv(picture, 8, kernel=3, stride=2)
    maps = network.conv(network.conv(maps, 0, kernel=3, depthwise=True), 12)
    maps = network.conv(maps, 16)
    pooled = network.operator("AVERAGE_POOL_2D", [maps], (1, 1, 1, 16))
    tensors, _ = convert_backbone(file(network.file(picture, [pooled])), config)
    assert sorted(tensors) == [f"backbone.layers.{i}.0.{kind}" for i in range(4) for kind in ("bias", "weight")]


@pytest.mark.parametrize("model", ["ssd300_mobilenet_v2", "ssd300_vgg16", "tinyssd"])
def test_a_classifier_of_another_kind(model, file):
    path = file(classifier())
    with pytest.raises(WeightsError, match="these are no weights for") as error:
        onestage.create(model, 2, size=(96, 96), backbone_weights=path)
    assert str(path) in str(error.value)


def test_detectors_and_classifiers_are_not_confused(file):
    path = file(classifier())
    refused(path, "backbone_weights")
    with pytest.raises(WeightsError, match="give it as weights"):
        onestage.create("ssd300_mobilenet_v1", 2, backbone_weights=file(small_ssd()))
