"""Foreign files are taken whole or not at all: tensors that lack, are too many, of another network or of no sensible shape.

The tensors are zeros that take no memory, under the names and shapes of the original programs.
"""

import json
import random
import warnings
from functools import cache
from types import SimpleNamespace

import pytest
import torch
import torchvision
from torchvision.models.detection import retinanet
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import _resnet_fpn_extractor
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

import onestage
from onestage.errors import WeightsError
from onestage.model.detector import ShapesAlone
from onestage.weights import load
from onestage.weights import source as module
from onestage.weights.foreign_file import StateDict
from onestage.zoo.efficientdet import HALF, IMAGENET
from onestage.zoo.table import recipe


def zeros(model):
    return {name: torch.zeros((), dtype=t.dtype).expand(t.shape) for name, t in model.state_dict().items()}


def their_retinanet(resnet, **options):
    """torchvision's, of two classes and background, on a network of its models."""
    with ShapesAlone(), torch.device("meta"):
        body = getattr(torchvision.models, resnet)()
        body = _resnet_fpn_extractor(body, 5, [2, 3, 4], LastLevelP6P7(512 if resnet == "resnet18" else 2048, 256))
        theirs = retinanet.RetinaNet(body, 3, **options)
    return zeros(theirs)


def their_ssd(name):
    with ShapesAlone(), torch.device("meta"):
        theirs = getattr(torchvision.models.detection, name)(weights=None, weights_backbone=None, num_classes=3)
    return zeros(theirs)


def their_efficientdet(name):
    effdet = pytest.importorskip("effdet")
    with ShapesAlone(), torch.device("meta"):
        theirs = effdet.create_model(name, pretrained=False, pretrained_backbone=False)
    return zeros(theirs)


def listed(folder, name):
    shapes = dict(json.loads((folder / "foreign" / f"{name}.keys.json").read_text()))
    return {name: torch.zeros(()).expand(shape) for name, shape in shapes.items()}


def the_books():
    names = [("backbone.stages.", "blk_"), ("head.cls.", "cls_"), ("head.box.", "bbox_")]
    ours = zeros(onestage.create("tinyssd", 2)).items()
    return {next(b + name.removeprefix(a) for a, b in names if name.startswith(a)): tensor for name, tensor in ours}


FILES = {
    "torchvision SSD": lambda _: their_ssd("ssd300_vgg16"),
    "torchvision SSDLite": lambda _: their_ssd("ssdlite320_mobilenet_v3_large"),
    "torchvision RetinaNet": lambda _: their_retinanet("resnet18"),
    "qfgaohao v1": lambda folder: listed(folder, "qfgaohao_mb1_ssd"),
    "qfgaohao v2": lambda folder: listed(folder, "qfgaohao_mb2_ssd_lite"),
    "amdegroot": lambda folder: listed(folder, "amdegroot_ssd300"),
    "lufficc": lambda folder: listed(folder, "lufficc_ssd300"),
    "effdet": lambda _: their_efficientdet("tf_efficientdet_lite0"),
    "d2l": lambda _: the_books(),
}


@pytest.fixture
def imported(tmp_path, monkeypatch):
    """Makes the detector of a file with these tensors, as onestage import does."""

    def make(tensors, model=None, **options):
        monkeypatch.setattr(module, "load_foreign", lambda file: StateDict(tensors))
        path = tmp_path / "theirs.pth"
        path.touch()
        source = module.read_source(path)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "frozen batch norm")
            if source.background is None:
                source = source.settled(None, "first")  # their RetinaNets have background
            return onestage.create(model or source.model, weights=source, **options)

    return make


def refused(imported, tensors, match, model=None, **options):
    with pytest.raises(WeightsError, match=match) as error, warnings.catch_warnings():
        warnings.simplefilter("error")
        imported(tensors, model, **options)
    assert "theirs.pth" in str(error.value)
    return str(error.value)


def groups(name):
    """Parts of a detector, by what their names hold: none may lack."""
    return {
        "amdegroot": ("extras", "loc.", "conf.5", "loc.5", "L2Norm"),
        "lufficc": ("extras", "reg_headers", "cls_headers.5", "l2_norm"),
        "qfgaohao v1": ("extras", "regression_headers", "regression_headers.5", "classification_headers.2"),
        "qfgaohao v2": ("extras", "regression_headers", "regression_headers.5", "classification_headers.2"),
        "torchvision SSD": ("backbone.extra.4", "regression_head", "module_list.5"),
        "torchvision SSDLite": ("backbone.extra.3", "regression_head", "module_list.5", "features.0.3."),
        "torchvision RetinaNet": ("regression_head", "extra_blocks", "layer_blocks.1", "layer3.1."),
        "effdet": ("box_net", "fpn.cell.1", "fpn.resample", "backbone.blocks.4"),
        "d2l": ("bbox_4", "blk_3", "bbox"),
    }[name]


@pytest.mark.parametrize("name", FILES)
def test_a_file_is_taken_whole_or_not_at_all(name, imported, shared_data):
    whole = FILES[name](shared_data)
    detector = imported(whole)
    assert not any(tensor.any() for key, tensor in detector.state_dict().items() if not key.endswith("tracked"))
    for part in groups(name):
        less = {key: tensor for key, tensor in whole.items() if part not in key}
        assert len(less) < len(whole), part
        refused(imported, less, "tensors are missing|do not fit|no known project|not supported")
    refused(imported, whole | {"stray.weight": torch.zeros(2)}, "stray")


@pytest.mark.parametrize("name", FILES)
def test_tensors_of_no_sensible_shape(name, imported, shared_data, monkeypatch):
    """0-d, of another rank and empty: an error of the file, whichever tensor it is."""
    built = cache(load.Detector.on)  # building a network, even without memory, takes most of the time
    monkeypatch.setattr(load, "Detector", SimpleNamespace(on=built))
    whole = FILES[name](shared_data)
    chance = random.Random(0)
    keys = [key for key in whole if not key.endswith("num_batches_tracked")]
    outputs = [key for key in keys if key.startswith(("head", "box", "class", "reg", "cls", "conf", "loc"))]
    for key in {keys[0], keys[-1], *chance.sample(outputs, 3), *chance.sample(keys, 2)}:
        for shape in ((), (0,), (*whole[key].shape, 1), (2, *whole[key].shape), whole[key].shape[1:]):
            said = refused(imported, whole | {key: torch.zeros(()).expand(shape)}, "tensor|class|file")
            assert "can be built" not in said


@pytest.mark.parametrize(
    ("resnet", "model"),
    [("resnet152", "retinanet"), ("resnext50_32x4d", "retinanet"), ("resnext50_32x4d", "retinanet_r50_fpn")],
)
def test_a_retinanet_on_a_network_that_is_not_the_zoos(resnet, model, imported):
    message = refused(imported, their_retinanet(resnet), f"not those of {model}: .* do not fit", model)
    assert 'onestage.create("retinanet", backbone=' in message


def test_it_is_taken_where_somebody_names_the_network(imported):
    detector = imported(their_retinanet("resnext50_32x4d"), backbone="resnext50_32x4d", size=(96, 96))
    assert not detector.backbone.body.layer4[2].conv2.weight.any()


@pytest.mark.parametrize("outputs", [3, 91])
def test_a_retinanet_with_anchors_of_its_own(outputs, imported):
    anchors = AnchorGenerator(((32,), (64,), (128,), (256,), (512,)), ((0.5, 1.0, 2.0),) * 5)
    theirs = their_retinanet("resnet50", anchor_generator=anchors)
    for kind in ("weight", "bias"):
        key = f"head.classification_head.cls_logits.{kind}"
        theirs[key] = torch.zeros(()).expand(3 * outputs, *theirs[key].shape[1:])
    message = refused(imported, theirs, "unusual anchors")
    assert "3 shapes per cell" in message and "9, torchvision's" in message


def test_separable_heads_are_not_those_of_mb1_ssd(imported, shared_data):
    plain = listed(shared_data, "qfgaohao_mb1_ssd")
    lite = {key: t for key, t in plain.items() if "headers" not in key or "headers.5" in key}
    lite |= {key: t for key, t in listed(shared_data, "qfgaohao_mb2_ssd_lite").items() if "headers" in key}
    assert "of a kind that is not supported" in (message := refused(imported, lite, "pytorch-ssd"))
    assert "mb1-ssd and mb2-ssd-lite" in message and "backbone_weights" not in message


@pytest.mark.parametrize("name", ["efficientdet_q0", "tf_efficientdet_lite3x"])
def test_variants_of_effdet_that_are_not_supported(name, imported):
    message = refused(imported, their_efficientdet(name), "looks like a detector of effdet .* not supported")
    assert "lite3x" in message and "backbone_weights" not in message


def test_other_classes_leave_the_class_outputs_open_and_nothing_else(imported, shared_data):
    whole = listed(shared_data, "qfgaohao_mb1_ssd")
    with pytest.warns(UserWarning, match="12 tensors do not fit and start fresh"):
        imported(whole, classes=["a", "b"])
    less = {key: tensor for key, tensor in whole.items() if "extras.2" not in key}
    refused(imported, less, "do not fit", classes=["a", "b"])


def test_an_ssd_of_fewer_levels_is_for_training_on_other_classes(imported, shared_data):
    """At 128 pixels it has 4 levels: the others' heads start fresh, the backbone does not."""
    whole = listed(shared_data, "amdegroot_ssd300")
    with pytest.warns(UserWarning, match="do not fit and start fresh"):
        detector = imported(whole, classes=["a", "b"], size=(128, 128))
    assert not detector.backbone.fc7[8].weight.any()
    refused(imported, whole, "do not fit", size=(128, 128))
    refused(imported, whole | {"vgg.33.weight": torch.zeros(2)}, "vgg|fc7", classes=["a", "b"], size=(128, 128))


def test_advprops_pixels(imported, tmp_path, monkeypatch):
    """Its files have the tensors of the others; their tag, or somebody who knows, says which pixels they want."""
    theirs = their_efficientdet("tf_efficientdet_d0")
    detector = imported(theirs)
    assert (detector.config.preprocess.mean, detector.config.preprocess.std) == IMAGENET
    assert "--pixels half" in module.read_source(tmp_path / "theirs.pth").doubt
    monkeypatch.setattr(module, "fetch", lambda url, **_: tmp_path / "theirs.pth")
    for tag, pixels in {"coco_ap": HALF, "coco": IMAGENET}.items():
        preprocess = onestage.create("efficientdet_d0", weights=tag).config.preprocess
        assert (preprocess.mean, preprocess.std) == pixels
        assert (
            preprocess
            == recipe("efficientdet_d0", ["a"]).replace({"preprocess.mean": pixels[0], "preprocess.std": pixels[1]}).preprocess
        )
    imported(their_efficientdet("tf_efficientdet_lite0"))
    assert module.read_source(tmp_path / "theirs.pth").doubt == ""
