"""The detector as a whole: pictures in, detections out, and nothing left behind."""

import copy
import dataclasses
import pickle

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import onestage
from onestage.errors import ConfigError, DataError
from onestage.model.detector import Detector, ShapesAlone, dry_run
from onestage.structures import HeadOutput, ImageMeta, Targets
from onestage.zoo.table import recipe

PIXELS = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    model = onestage.create("tinyssd", classes=["cat", "dog"], size=(64, 96)).eval()
    return Detector(dataclasses.replace(model.config, category_ids=(17, 3))).eval()


@pytest.fixture
def path(tmp_path):
    Image.fromarray(PIXELS).save(tmp_path / "a picture.png")
    return tmp_path / "a picture.png"


def same(a, b):
    return torch.equal(a.boxes, b.boxes) and torch.equal(a.scores, b.scores) and torch.equal(a.labels, b.labels)


def test_predict_takes_a_path_an_image_an_array_or_a_tensor(model, path):
    tensor = torch.from_numpy(PIXELS).permute(2, 0, 1)
    forms = [path, str(path), Image.fromarray(PIXELS), PIXELS, tensor]
    found = model.predict(forms, batch_size=1)
    assert len(found) == len(model.predict(forms, batch_size=2)) == 5
    assert len(found[0]) > 10
    assert all(same(f, found[0]) for f in found)
    assert all(same(model.predict(form)[0], found[0]) for form in forms)
    assert (found[0].path, found[0].image_id, found[0].size) == (str(path), "a picture.png", (40, 60))
    assert model.predict([]) == []
    assert len(model.predict((path, PIXELS))) == 2


def test_detections_are_named_sorted_and_inside_the_picture(model):
    (found,) = model.predict(PIXELS)
    assert set(found.class_names) <= {"cat", "dog"}
    assert all(c == {"cat": 17, "dog": 3}[n] for n, c in zip(found.class_names, found.category_ids, strict=True))
    assert found.labels.tolist() == [["cat", "dog"].index(n) for n in found.class_names]
    assert found.scores.diff().le(0).all()
    assert found.boxes[:, [0, 1]].min() >= 0
    assert found.boxes[:, 2].max() <= 60
    assert found.boxes[:, 3].max() <= 40


def test_a_picture_can_be_drawn_again(model, path):
    for image in (path, PIXELS):
        assert model.predict(image)[0].draw().size == (60, 40)


def test_the_least_score_can_be_chosen(model):
    everything = model.predict(PIXELS, score=0.0)[0]
    some = model.predict(PIXELS, score=everything.scores[5].item())[0]
    assert len(some) == 5
    assert model.config.postprocess.score_threshold == 0.01
    with pytest.raises(ConfigError, match="below 1"):
        model.predict(PIXELS, score=1.5)


def test_results_are_ordinary_tensors(model):
    (found,) = model.predict(PIXELS)
    assert not found.boxes.is_inference()
    found.boxes.add_(1)
    assert not found.boxes.requires_grad


def test_predict_leaves_every_mode_as_it_was(path):
    model = onestage.create("tinyssd", 1, size=(64, 64))
    model.train()
    model.backbone.eval()  # as for frozen batch norm
    modes = [m.training for m in model.modules()]
    model.predict(path)
    assert [m.training for m in model.modules()] == modes
    with pytest.raises(DataError, match=r"nothing\.jpg"):
        model.predict([path, path.with_name("nothing.jpg")])
    assert [m.training for m in model.modules()] == modes
    model.anchors((96, 96))
    assert [m.training for m in model.modules()] == modes


def test_training_goes_on_after_predicting():
    model = onestage.create("tinyssd", 1, size=(64, 64))
    model.predict(np.zeros((64, 64, 3), np.uint8))
    with torch.inference_mode():
        model.anchors((96, 96))
    model.train()
    for size in ((64, 64), (96, 96)):
        output = model(torch.randn(2, 3, *size))
        losses = model.loss(output, [Targets(torch.tensor([[5.0, 5, 40, 40]]), torch.tensor([0]))] * 2)
        sum(losses.values()).backward()
    assert all(p.grad is not None for p in model.parameters())


def test_what_is_no_picture(model):
    with pytest.raises(DataError, match="each picture of a batch by itself"):
        model.predict(torch.zeros(2, 3, 8, 8))
    with pytest.raises(DataError):
        model.predict(5)
    with pytest.raises(ConfigError, match="batch_size is not understood"):
        model.predict(PIXELS, batch_size=0)


def test_the_network_refuses_pixels_that_were_not_prepared(model):
    with pytest.raises(ConfigError, match=r"model\.prepare"):
        model(torch.zeros(1, 3, 64, 96, dtype=torch.uint8))


def test_prepare(model):
    inputs, metas = model.prepare([torch.from_numpy(PIXELS).permute(2, 0, 1), torch.zeros(3, 9, 7, dtype=torch.uint8)])
    assert inputs.shape == (2, 3, 64, 96)
    assert [m.original for m in metas] == [(40, 60), (9, 7)]


def test_decode_undoes_the_resize(model):
    """One anchor found with offsets 0: its box is the anchor, scaled back to the picture and cut to it."""
    anchors = model.anchors((64, 96))
    logits = torch.zeros(1, len(anchors), 3)
    logits[:, :, 0] = 20
    logits[0, 50, 2] = 40
    meta = ImageMeta((32, 192), (64, 96), (2.0, 0.5), (0, 0), image_id=5, path="p")
    output = HeadOutput(logits, torch.zeros(1, len(anchors), 4), (), (64, 96))
    (found,) = model.decode(output, [meta])
    x1, y1, x2, y2 = anchors[50].tolist()
    assert found.boxes[0].tolist() == pytest.approx([max(x1, 0) * 2, max(y1, 0) / 2, min(x2, 96) * 2, min(y2, 64) / 2])
    assert (found.class_names, found.category_ids, found.image_id, found.path) == (("dog",), (3,), 5, "p")
    with pytest.raises(ValueError, match="zip"):
        model.decode(output, [meta, meta])


def test_anchors_are_cached_and_no_weights(model):
    before = list(model.state_dict())
    assert model.anchors((128, 128)) is model.anchors((128, 128))
    assert list(model.state_dict()) == before
    assert model.anchors((64, 96)).shape == (sum(h * w * 4 for h, w in model.level_sizes((64, 96))), 4)


def test_one_detector_takes_inputs_of_any_size(model):
    for size in ((64, 64), (100, 75)):
        output = model(torch.zeros(1, 3, *size))
        assert output.logits.shape[1] == len(model.anchors(size))
        assert output.level_sizes == model.level_sizes(size)
        assert output.input_size == size


def test_one_anchor_level_per_map():
    config = recipe("tinyssd", ("a",))
    with pytest.raises(ConfigError, match="backbone gives 5 levels, the anchors describe 4"):
        Detector(dataclasses.replace(config, anchors=config.anchors[:4]))


def test_a_copy_is_whole_and_separate(model):
    twin = copy.deepcopy(model)
    assert same(twin.predict(PIXELS)[0], model.predict(PIXELS)[0])
    with torch.no_grad():
        twin.head.cls[0].weight.zero_()
    assert not same(twin.predict(PIXELS)[0], model.predict(PIXELS)[0])


SMALL = {
    "tinyssd": {},
    "dssd": {"backbone.name": "test_resnet", "neck.width": 16, "head.width": 16},
    "retinanet_r18_fpn": {"backbone.name": "test_resnet", "head.layers": 1},
    "efficientdet_lite0": {"backbone.name": "test_efficientnet", "neck.layers": 1, "head.layers": 1},
}
"""What leaves little of a network, but all kinds of its parts."""


@pytest.mark.parametrize("name", SMALL)
def test_forward_exports_for_any_number_of_pictures(name):
    model = Detector(recipe(name, ("cat", "dog"), size=(64, 96)).replace(SMALL[name])).eval()
    program = torch.export.export(model, (torch.randn(2, 3, 64, 96),), dynamic_shapes=({0: torch.export.Dim("batch")},))
    images = torch.randn(3, 3, 64, 96)
    with torch.no_grad():
        expected, output = model(images), program.module()(images)
    torch.testing.assert_close(output.logits, expected.logits)
    torch.testing.assert_close(output.deltas, expected.deltas)


def test_losses_take_targets_or_their_assignment(model):
    output = model(torch.randn(2, 3, 64, 96))
    targets = [Targets(torch.tensor([[5.0, 5, 40, 40]]), torch.tensor([1])), Targets(torch.zeros(0, 4), torch.zeros(0).long())]
    direct = model.loss(output, targets)
    assert set(direct) == {"cls", "box"}
    assigned = model.assign(targets, (64, 96))
    assert model.loss(output, assigned) == direct
    doubled = model.loss(output, assigned, normalizer=model.config.loss.normalizer(assigned.matches) * 2)
    assert doubled["cls"].item() == pytest.approx(direct["cls"].item() / 2)


@pytest.mark.parametrize("label", [-1, 2, 90])
def test_a_label_that_is_no_class_is_refused(label):
    model = onestage.create("tinyssd", 2, size=(64, 64))
    boxes = torch.tensor([[5.0, 8.0, 40.0, 50.0]])
    targets = [Targets(boxes, torch.tensor([1])), Targets(boxes, torch.tensor([label]))]
    with pytest.raises(DataError, match=rf"targets\[1\]\n +got: +{label}\n +expected: 0 to 1"):
        model.loss(model(torch.zeros(2, 3, 64, 64)), targets)


def test_save_and_load_through_the_public_face(model, tmp_path):
    model.save(tmp_path / "m.safetensors")
    again = onestage.load(tmp_path / "m.safetensors")
    assert again.config == model.config
    assert same(again.predict(PIXELS)[0], model.predict(PIXELS)[0])


@pytest.mark.parametrize("backbone", ["swinv2_cr_tiny_ns_224", "swin_tiny_patch4_window7_224"])
def test_level_sizes_of_a_network_with_tensors_that_are_not_saved(backbone):
    model = onestage.create("ssd", 1, backbone=backbone, size=(224, 224))
    assert model.level_sizes((224, 224))[:3] == ((28, 28), (14, 14), (7, 7))


def test_anchors_first_used_while_predicting_can_be_trained_with():
    model = onestage.create("tinyssd", 1, size=(64, 64))
    with torch.inference_mode():
        assert not model.anchors((64, 64)).is_inference()


def test_detections_travel_between_processes(model):
    (found,) = model.predict(PIXELS)
    again = pickle.loads(pickle.dumps(found))
    assert again.draw().tobytes() == found.draw().tobytes()


def test_pixels_move_to_the_device_as_bytes(model, monkeypatch):
    seen = []
    normalize = type(model.config.preprocess).normalize

    def noted(self, images):
        seen.append((images.device.type, images.dtype))
        return normalize(self, images)

    monkeypatch.setattr(type(model.config.preprocess), "normalize", noted)
    elsewhere = copy.deepcopy(model).to("meta")
    inputs, _ = elsewhere.prepare([torch.zeros(3, 64, 96, dtype=torch.uint8)])
    assert seen == [("meta", torch.uint8)]
    assert inputs.device.type == "meta"


def test_boxes_beside_the_picture_are_no_detections(model):
    """A high picture fills the left of a letterboxed input; what is predicted to its right has no area in it."""
    beside = Detector(model.config.replace({"preprocess.mode": "letterbox", "postprocess.score_threshold": 0.0})).eval()
    images, metas = beside.prepare([torch.zeros(3, 64, 16, dtype=torch.uint8)])
    found = beside.decode(beside(images), metas)[0]
    sides = found.boxes[:, 2:] - found.boxes[:, :2]
    assert len(found) > 0 and (sides > 0).all()
    assert found.boxes[:, 2].max() <= 16


def test_a_picture_that_leaves_the_network_no_cells_is_told():
    """Sizes vary with "shortest_edge": what 300x300 pixels suffer, a long and low picture may not."""
    model = Detector(recipe("ssd", ("cat",), size=(300, 300)).replace({"preprocess.mode": "shortest_edge"}))
    with pytest.raises(ConfigError, match=r"cannot take inputs of 96x320 pixels\n  where:    ssd"):
        model.predict(torch.zeros(3, 60, 200, dtype=torch.uint8))


@pytest.mark.parametrize("name", ["running_mean", "running_var", "weight", "bias"])
def test_where_shapes_count_alone_a_norm_for_other_maps_is_refused(name):
    layers = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    blank = torch.empty(1, 3, 8, 8, device="meta")
    assert dry_run(layers, blank, (8, 8), where="here").shape == (1, 4, 6, 6)
    values = layers[1]._buffers if "running" in name else layers[1]._parameters
    values[name] = nn.Parameter(torch.ones(5))
    with pytest.raises(ConfigError, match=f"cannot take inputs of 8x8(.|\n)*{name} should contain 4 elements not 5"):
        dry_run(layers, blank, (8, 8), where="here")


def test_where_shapes_count_alone_a_norm_of_single_numbers_is_refused_as_ever():
    """Without averages it takes those of its input, and one number has none."""
    layers = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False))
    with pytest.raises(ValueError, match="more than 1 value"):
        dry_run(layers, torch.empty(1, 3, 3, 3, device="meta"), (3, 3), where="here")


def test_where_shapes_count_alone_networks_with_numbers_are_as_ever():
    def built():
        torch.manual_seed(0)
        layers = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
        with torch.no_grad():
            return layers(torch.full((2, 3, 5, 5), 7.0))

    expected = built()
    with ShapesAlone():
        assert built().equal(expected)
        with torch.device("meta"):
            assert built().shape == expected.shape
