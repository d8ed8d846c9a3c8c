"""Foreign weights and our own: classifiers made on the spot become backbones, whole detectors change their classes."""

import re
import shutil
import warnings
from pathlib import Path

import pytest
import timm
import torch
import torchvision

import onestage
from onestage.errors import WeightsError
from onestage.weights import projects, source
from onestage.weights.class_names import COCO_80, COCO_90, VOC
from onestage.weights.detector_file import metadata
from onestage.weights.load import with_parts_of
from onestage.weights.projects.torchvision import VGG_MEAN
from onestage.weights.safetensors_file import save_tensors
from onestage.weights.source import ADAPTERS, PROJECTS, WEIGHTS, tags
from onestage.zoo.table import recipe

IMAGES = torch.randn(2, 3, 96, 96, generator=torch.Generator().manual_seed(0))


def lively(model):
    """Statistics of batch norm away from 0 and 1, so that leaving them out would be seen."""
    for part in model.modules():
        if isinstance(part, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(part.running_mean, -0.1, 0.1)
            torch.nn.init.uniform_(part.running_var, 0.5, 1.5)
    return model.eval()


def file_of(model, folder):
    torch.save(model.state_dict(), folder / "classifier.pth")
    return folder / "classifier.pth"


def quietly(*arguments, **options):
    """create() where no warning may be given."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return onestage.create(*arguments, **options).eval()


@torch.no_grad()
@pytest.mark.parametrize("name", ["resnet34", "mobilenetv1_100", "convnext_atto", "mobilenetv3_small_100"])
def test_a_timm_classifier(name, tmp_path):
    torch.manual_seed(0)
    classifier = lively(timm.create_model(name))
    ours = quietly("ssd", 2, backbone=name, size=(96, 96), backbone_weights=file_of(classifier, tmp_path))
    maps = classifier.forward_intermediates(IMAGES, intermediates_only=True)
    last = [m for m in maps if m.shape[2] == 3][-1]
    torch.testing.assert_close(ours.backbone(IMAGES)[-1], last, atol=1e-4, rtol=1e-4)
    assert ours.config.preprocess.mean == timm.get_pretrained_cfg(name).mean


@torch.no_grad()
@pytest.mark.parametrize("caffe", [True, False], ids=["Caffe's, its classifier NaN", "torchvision's own"])
def test_torchvisions_vgg16(caffe, tmp_path):
    torch.manual_seed(0)
    classifier = torchvision.models.vgg16(num_classes=3).eval()
    for i in (0, 3):  # 400 MB that play no part
        classifier.classifier[i] = torch.nn.Linear(1, 1)
    for parameter in classifier.classifier.parameters() if caffe else ():
        parameter.fill_(torch.nan)
    with pytest.warns(
        UserWarning, match=r"5 tensors do not fit and start fresh: backbone, backbone\.fc7\.10, backbone\.fc7\.8"
    ):
        ours = onestage.create("ssd300_vgg16", 2, size=(96, 96), backbone_weights=file_of(classifier, tmp_path)).eval()
    to_conv4_3, to_conv5_3 = classifier.features[:23], classifier.features[:30]
    fine = ours.backbone.conv4_3(IMAGES)
    torch.testing.assert_close(fine, to_conv4_3(IMAGES), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(ours.backbone.fc7[:7](fine), to_conv5_3(IMAGES), atol=1e-4, rtol=1e-4)
    assert ours.config.preprocess.mean == (VGG_MEAN if caffe else (0.485, 0.456, 0.406))


def test_a_backbone_of_nan_is_refused(tmp_path):
    classifier = timm.create_model("resnet18")
    torch.nn.init.constant_(classifier.layer2[0].conv1.weight, torch.nan)
    with pytest.raises(WeightsError, match="NaN"):
        onestage.create("ssd", 2, backbone="resnet18", size=(96, 96), backbone_weights=file_of(classifier, tmp_path))


@torch.no_grad()
@pytest.mark.parametrize(
    ("name", "build"),
    [
        ("ssd300_mobilenet_v2", torchvision.models.mobilenet_v2),
        ("ssdlite320_mobilenet_v3_large", lambda **o: torchvision.models.mobilenet_v3_large(reduced_tail=True, **o)),
    ],
)
def test_torchvisions_mobilenets(name, build, tmp_path):
    torch.manual_seed(0)
    classifier = lively(build(norm_layer=lambda c: torch.nn.BatchNorm2d(c, eps=1e-3)))
    ours = quietly(name, 2, size=(96, 96), backbone_weights=file_of(classifier, tmp_path))
    torch.testing.assert_close(ours.backbone(IMAGES)[-1], classifier.features(IMAGES), atol=1e-5, rtol=1e-4)
    assert ours.config.preprocess.mean == (0.485, 0.456, 0.406)


@pytest.mark.parametrize(
    ("model", "options"),
    [("ssd300_vgg16", {}), ("ssd", {"backbone": "resnet50"}), ("tinyssd", {}), ("ssd300_mobilenet_v2", {})],
)
def test_the_classifier_of_another_backbone(model, options, tmp_path):
    path = file_of(timm.create_model("resnet18"), tmp_path)
    with pytest.raises(WeightsError, match="these are no weights for") as error:
        onestage.create(model, 2, size=(96, 96), backbone_weights=path, **options)
    message = str(error.value)
    assert str(path) in message and "conv1.weight, " in message
    network = {"ssd300_vgg16": "vgg16", "ssd": "resnet50", "tinyssd": "TinyBackbone"}.get(model, "mobilenet_v2")
    assert network in message.splitlines()[0] and "expected:" in message and "fix:" in message


def their_ssdlite(classes):
    torch.manual_seed(0)
    build = torchvision.models.detection.ssdlite320_mobilenet_v3_large
    return lively(build(weights=None, weights_backbone=None, num_classes=classes + 1))


def test_another_number_of_classes_keeps_all_that_fits(tmp_path):
    theirs = their_ssdlite(90)
    with pytest.warns(UserWarning, match=r"12 tensors do not fit and start fresh: head\.cls\.0\.3") as caught:
        ours = onestage.create("ssdlite320_mobilenet_v3_large", 5, weights=file_of(theirs, tmp_path))
    assert caught[0].filename == __file__  # the warning points at the user's line
    box = theirs.head.regression_head.module_list[2][1].weight
    assert torch.equal(ours.head.box[2][3].weight, box)
    assert torch.equal(ours.head.cls[2][0].weight, theirs.head.classification_head.module_list[2][0][0].weight)
    assert len(ours.predict(torch.zeros(3, 50, 50, dtype=torch.uint8))) == 1
    assert ours.config.preprocess.std == (0.5, 0.5, 0.5)
    assert not ours.config.preprocess.antialias


def has_all_of(ours, theirs):
    """Whether our SSDLite holds every tensor of torchvision's, in whatever order and under whatever names."""

    def sums(model):
        return sorted(v.double().sum().item() for k, v in model.state_dict().items() if v.is_floating_point())

    return sums(ours) == sums(theirs)


@pytest.mark.parametrize("count", [7, None], ids=["told", "taken from the file"])
def test_the_number_of_classes_of_the_file_warns_of_nothing(count, tmp_path):
    theirs = their_ssdlite(7)
    ours = quietly("ssdlite320_mobilenet_v3_large", count, weights=file_of(theirs, tmp_path))
    assert ours.config.classes == tuple(f"class {i}" for i in range(7))
    assert has_all_of(ours, theirs)


def test_wrapped_checkpoints_are_understood(tmp_path):
    theirs = their_ssdlite(7)
    torch.save({"model": {f"module.{k}": v for k, v in theirs.state_dict().items()}, "epoch": 3}, tmp_path / "c.pth")
    with pytest.warns(UserWarning, match="its entry 'model', and 'module.' is taken off"):
        ours = onestage.create("ssdlite320_mobilenet_v3_large", 7, weights=tmp_path / "c.pth")
    assert has_all_of(ours, theirs)


def test_a_half_checkpoint_is_named(tmp_path):
    """Recognised by its first head, but without the others."""
    kept = {k: v for k, v in their_ssdlite(2).state_dict().items() if "module_list" not in k}
    torch.save(kept, tmp_path / "half.pth")
    with pytest.raises(WeightsError, match="a detector of torchvision, but tensors are missing"):
        onestage.create("ssdlite320_mobilenet_v3_large", weights=tmp_path / "half.pth")


@torch.no_grad()
def test_a_foreign_file_s_names_in_another_order_take_their_outputs_along(tmp_path):
    """90 outputs are COCO's: the user's order counts, so that no output gets a wrong name."""
    path = file_of(their_ssdlite(90), tmp_path)
    names = COCO_90.names[::-1]
    ours = quietly("ssdlite320_mobilenet_v3_large", classes=names, weights=path)
    straight = quietly("ssdlite320_mobilenet_v3_large", weights=path)
    assert ours.config.classes == names
    assert straight.config.category_ids == COCO_90.ids
    flipped, logits = ours(IMAGES).logits, straight(IMAGES).logits
    torch.testing.assert_close(flipped[..., 1:], logits[..., 1:].flip(2))
    torch.testing.assert_close(flipped[..., 0], logits[..., 0])


def test_parts_that_a_file_has_otherwise_than_its_recipe_are_taken():
    """Where the config has the recipe's; what somebody chose stays."""
    usual, larger = recipe("ssd300_mobilenet_v1", ["cat"]), recipe("ssd300_mobilenet_v1", ["cat"], size=(600, 450))
    own = usual.replace({"backbone.activation": "relu", "postprocess.top_k": 7, "anchors": usual.anchors[::-1]})
    chosen = larger.replace({"postprocess.top_k": 9})
    merged = with_parts_of(own, chosen, stored_recipe=usual, recipe=larger)
    assert (merged.backbone.activation, merged.postprocess.top_k) == ("relu", 9)
    (width, height), (scaled_width, scaled_height) = own.anchors[0].shapes[2], merged.anchors[0].shapes[2]
    assert (scaled_width, scaled_height) == pytest.approx((1.5 * width, 2 * height))
    assert merged.preprocess.size == (600, 450)
    assert merged.loss == larger.loss


def test_an_imported_file_goes_on_as_it_is(tmp_path):
    """Its parts travel into later detectors, by name alone, with other classes, at another size."""
    config = recipe("ssd300_mobilenet_v2", ["cat"], size=(96, 96))
    foreign = ADAPTERS["qfgaohao"].convert({"base_net.17.conv.6.weight": torch.zeros(1)}, config)[1]
    onestage.Detector(foreign).save(tmp_path / "imported.safetensors")
    same = quietly("ssd300_mobilenet_v2", weights=tmp_path / "imported.safetensors")
    assert same.config == foreign
    with pytest.warns(UserWarning, match="12 tensors do not fit"):  # the class outputs' weights and biases
        other = onestage.create("ssd300_mobilenet_v2", 3, size=(128, 96), weights=tmp_path / "imported.safetensors").config
    assert (other.neck, other.head, other.backbone) == (foreign.neck, foreign.head, foreign.backbone)
    assert other.anchors[0].shapes[0] == pytest.approx(
        (foreign.anchors[0].shapes[0][0], foreign.anchors[0].shapes[0][1] * 4 / 3)
    )


def test_default_boxes_that_a_foreign_file_brings(tmp_path):
    """VOC's or COCO's, by the number of classes."""
    brought = ADAPTERS["amdegroot"].convert({}, recipe("ssd300_vgg16", VOC.names))[1]
    assert [level.shapes[0][0] for level in brought.anchors] == pytest.approx([30, 60, 111, 162, 213, 264])
    coco = ADAPTERS["amdegroot"].convert({}, recipe("ssd300_vgg16", COCO_80.names))[1]
    assert [level.shapes[0][0] for level in coco.anchors] == pytest.approx([21, 45, 99, 153, 207, 261])


def test_every_adapter_is_in_the_table():
    folder = Path(projects.__file__).parent
    written = {path.stem for path in folder.glob("*.py") if "def recognises(" in path.read_text()}
    assert written == set(ADAPTERS)
    assert {"tflite", *written} == set(PROJECTS)


def test_our_own_file_with_other_classes(tmp_path):
    old = onestage.create("tinyssd", classes=["cat", "dog"], size=(64, 64))
    old.save(tmp_path / "own.safetensors")
    with pytest.warns(UserWarning, match="10 tensors do not fit"):
        new = onestage.create("tinyssd", classes=["a", "b", "c"], size=(64, 64), weights=tmp_path / "own.safetensors")
    kept = {k: v for k, v in old.state_dict().items() if not k.startswith("head.cls")}
    assert all(torch.equal(new.state_dict()[k], v) for k, v in kept.items())
    same = quietly("tinyssd", classes=["cat", "dog"], size=(64, 64), weights=tmp_path / "own.safetensors")
    assert all(torch.equal(v, old.state_dict()[k]) for k, v in same.state_dict().items())


def test_our_own_file_brings_what_it_expects_of_pixels(tmp_path):
    model = onestage.create("tinyssd", 1, size=(64, 64))
    changes = {"preprocess.mean": (0.1, 0.2, 0.3), "preprocess.antialias": False}
    onestage.Detector(model.config.replace(changes)).save(tmp_path / "own.safetensors")
    new = onestage.create("tinyssd", 1, size=(96, 96), weights=tmp_path / "own.safetensors").config.preprocess
    assert (new.size, new.mean, new.antialias) == ((96, 96), (0.1, 0.2, 0.3), False)


@pytest.mark.parametrize("form", ["pth", "safetensors"])
def test_a_file_of_something_else(form, tmp_path):
    tensors = {"encoder.weight": torch.zeros(3, 3), "decoder.weight": torch.zeros(3, 3)}
    path = tmp_path / f"other.{form}"
    if form == "pth":
        torch.save(tensors, path)
    else:
        save_tensors(path, tensors, {})
    with pytest.raises(WeightsError, match="no known project") as error:
        onestage.create("tinyssd", 1, weights=path)
    assert "encoder.weight" in str(error.value)
    assert "backbone_weights" in str(error.value)


def test_a_detector_of_another_kind(tmp_path):
    path = file_of(their_ssdlite(2), tmp_path)
    with pytest.raises(WeightsError, match="not those of ssd300_vgg16"):
        onestage.create("ssd300_vgg16", 2, weights=path)
    onestage.create("tinyssd", 2).save(tmp_path / "tiny.safetensors")
    with pytest.raises(WeightsError, match="not those of ssdlite320"):
        onestage.create("ssdlite320_mobilenet_v3_large", 2, weights=tmp_path / "tiny.safetensors")


def test_a_file_that_is_no_weights(tmp_path):
    (tmp_path / "page.pth").write_text("<html>not found</html>")
    with pytest.raises(WeightsError, match="not a weights file"):
        onestage.create("tinyssd", 1, weights=tmp_path / "page.pth")


def test_the_published_table():
    for key, row in WEIGHTS.items():
        assert key.split(".")[0] in onestage.list_models()
        assert row.url.startswith("https://")
        assert re.search(r"-[0-9a-f]{8}\.pth$", row.url), "the name holds the checksum that fetch() verifies"
        assert row.recipe.startswith("https://")
        assert len(set(row.classes.names)) == 90
        assert row.classes.names[0] == "person"
        assert 0 < row.ap < 100
    assert tags("ssd300_vgg16") == ["coco"]
    assert tags("ssd300") == []


def test_a_tag_brings_its_classes_and_ids(tmp_path, monkeypatch):
    """With a stand-in for the download; a folder of the tag's name is no file and changes nothing."""
    path = file_of(their_ssdlite(90), tmp_path)
    monkeypatch.setattr(source, "fetch", lambda url, **_: path)
    (tmp_path / "coco").mkdir()
    monkeypatch.chdir(tmp_path)
    config = quietly("ssdlite320_mobilenet_v3_large", weights="coco").config
    assert config.classes[0] == "person"
    assert config.category_ids == tuple(range(1, 91))
    with pytest.warns(UserWarning, match="start fresh"):
        assert onestage.create("ssdlite320_mobilenet_v3_large", 3, weights="coco").config.category_ids == (0, 1, 2)


def test_imagenet_weights_of_a_backbone_that_nobody_publishes():
    with pytest.raises(WeightsError, match="no published"):
        onestage.create("tinyssd", 1, backbone_weights="imagenet")


def own_file(folder, classes, **changes):
    """A TinySSD of random class outputs with these classes, ids from 10, and its file."""
    torch.manual_seed(0)
    model = onestage.create("tinyssd", classes=classes, size=(64, 64))
    config = model.config.replace({"category_ids": [10 + i for i in range(len(classes))], **changes})
    model = lively(onestage.Detector(config))
    for conv in model.head.cls:
        torch.nn.init.normal_(conv.bias)
    model.save(folder / "own.safetensors")
    return model, folder / "own.safetensors"


def test_classes_given_by_number_take_the_names_of_our_file(tmp_path):
    old, path = own_file(tmp_path, ["cat", "dog"])
    new = quietly("tinyssd", 2, size=(64, 64), weights=path)
    assert (new.config.classes, new.config.category_ids) == (("cat", "dog"), (10, 11))
    assert all(torch.equal(v, old.state_dict()[k]) for k, v in new.state_dict().items())


@torch.no_grad()
def test_classes_in_another_order_take_their_outputs_along(tmp_path):
    old, path = own_file(tmp_path, ["cat", "dog", "emu"])
    new = quietly("tinyssd", classes=["emu", "cat", "dog"], size=(64, 64), weights=path)
    images = IMAGES[:, :, :64, :64]
    theirs, ours = old(images), new(images)
    torch.testing.assert_close(ours.logits, theirs.logits[:, :, [0, 3, 1, 2]])
    assert torch.equal(ours.deltas, theirs.deltas)


def test_other_names_never_inherit_class_outputs(tmp_path):
    old, path = own_file(tmp_path, ["cat", "dog"])
    with pytest.warns(UserWarning, match="10 tensors do not fit .*for classes that the file knows by name: dog"):
        new = onestage.create("tinyssd", classes=["dog", "emu"], size=(64, 64), weights=path)
    for ours, theirs in zip(new.head.cls, old.head.cls, strict=True):
        mine, cat_and_dog = ours.weight.unflatten(0, (-1, 3)), theirs.weight.unflatten(0, (-1, 3))
        assert torch.equal(mine[:, :2], cat_and_dog[:, [0, 2]])  # background and dog
        assert not (mine[:, [2]] == cat_and_dog).flatten(2).all(dim=2).any()


def test_known_names_take_nothing_from_other_default_boxes(tmp_path):
    old, path = own_file(tmp_path, ["cat", "dog"])
    with pytest.warns(UserWarning, match="start fresh"):
        new = onestage.create("tinyssd", classes=["dog", "emu"], size=(64, 64), weights=path, box_sizes=[5, 10, 20, 30, 40, 50])
    for ours, theirs in zip(new.head.cls, old.head.cls, strict=True):
        assert not (ours.weight[:, None] == theirs.weight[None]).flatten(2).all(dim=2).any()


def test_other_default_boxes_are_told(tmp_path):
    _, path = own_file(tmp_path, ["cat"])
    with pytest.warns(UserWarning, match="made for other default boxes") as caught:
        onestage.create("tinyssd", classes=["cat"], size=(64, 64), weights=path, box_sizes=[5, 10, 20, 30, 40, 50])
    assert caught[0].filename == __file__
    quietly("tinyssd", classes=["cat"], size=(128, 128), weights=path)  # the same parts of a larger input


def test_our_own_file_is_known_by_its_content(tmp_path):
    old, path = own_file(tmp_path, ["cat"])
    shutil.copy(path, tmp_path / "renamed.pth")
    new = quietly("tinyssd", size=(64, 64), weights=tmp_path / "renamed.pth")
    assert (new.config.classes, new.config.category_ids) == (("cat",), (10,))
    assert all(torch.equal(v, old.state_dict()[k]) for k, v in new.state_dict().items())


def test_torchvisions_91_outputs_are_cocos(tmp_path):
    config = quietly("ssdlite320_mobilenet_v3_large", 90, weights=file_of(their_ssdlite(90), tmp_path)).config
    assert (config.classes[0], config.category_ids) == ("person", tuple(range(1, 91)))


def test_an_address_is_fetched(tmp_path, monkeypatch):
    _, path = own_file(tmp_path, ["cat"])
    asked = []
    monkeypatch.setattr(source, "fetch_url", lambda *a: asked.append(a) or path)
    monkeypatch.setattr(source, "fetch_hub", lambda *a: asked.append(a) or path)
    for address in ("https://host/own.safetensors", "hf-hub:owner/name"):
        quietly("tinyssd", classes=["cat"], size=(64, 64), weights=address)
    assert asked == [("https://host/own.safetensors",), ("owner/name", "model.safetensors")]


def test_a_tag_that_is_not_published():
    with pytest.raises(WeightsError, match="nothing is published for tinyssd") as error:
        onestage.create("tinyssd", 2, weights="coco")
    assert "ssd300_vgg16, ssdlite320_mobilenet_v3_large, retinanet_r50_fpn" in str(error.value)
    with pytest.raises(WeightsError, match="did you mean 'coco'"):
        onestage.create("ssd300_vgg16", 2, weights="cocoo")
    with pytest.raises(WeightsError, match=r"no such weights\n(.*\n)*.*check the path"):
        onestage.create("tinyssd", 2, weights="no/file.pth")


def test_a_run_folder_in_the_place_of_its_model(tmp_path):
    _, path = own_file(tmp_path, ["cat", "dog"])
    with pytest.raises(WeightsError, match=f"name a file in it: {path}"):
        onestage.create("tinyssd", 2, weights=path.parent)


def test_our_own_file_with_a_class_output_of_no_sensible_shape(tmp_path):
    model, path = own_file(tmp_path, ["cat", "dog"])
    save_tensors(path, model.state_dict() | {"head.cls.0.bias": torch.zeros(7)}, metadata(model))
    with pytest.raises(WeightsError, match="other shapes") as error:
        onestage.create("tinyssd", classes=["dog", "cat"], size=(64, 64), weights=path)
    assert str(path) in str(error.value)
