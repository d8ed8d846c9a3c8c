"""Whether the first output of a foreign detector is a class or background: never a guess, and no class is lost in silence."""

import warnings
from dataclasses import replace

import pytest
import torch
from torchvision.models import resnet18
from torchvision.models.detection.backbone_utils import _resnet_fpn_extractor
from torchvision.models.detection.retinanet import RetinaNet
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

import onestage
from onestage.cli.main import main
from onestage.errors import WeightsError
from onestage.weights.class_names import COCO_80, COCO_90, ids_of
from onestage.weights.source import ADAPTERS, read_source

OUTPUTS = 4
SIZE = (64, 64)
CASES = [(["a", "b", "c", "d"], None, 4), (["a", "b", "c"], None, 3), (None, 4, 4), (None, 3, 3)]


@pytest.fixture(scope="module")
def retinanet(tmp_path_factory):
    """torchvision's RetinaNet with 4 outputs, and its class biases: output i of every shape has the bias i."""
    torch.manual_seed(0)
    theirs = RetinaNet(_resnet_fpn_extractor(resnet18(), 5, [2, 3, 4], LastLevelP6P7(256, 256)), OUTPUTS)
    torch.nn.init.constant_(theirs.head.classification_head.cls_logits.bias, 0.0)
    theirs.head.classification_head.cls_logits.bias.data += torch.arange(OUTPUTS).repeat(9)
    path = tmp_path_factory.mktemp("theirs") / "retinanet.pth"
    torch.save(theirs.state_dict(), path)
    return path


@pytest.mark.parametrize(("classes", "number", "kept"), CASES)
def test_the_number_of_names_or_the_user_says_it(retinanet, classes, number, kept):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ours = onestage.create("retinanet_r18_fpn", number, classes=classes, size=SIZE, weights=retinanet)
    biases = ours.state_dict()["head.cls.4.bias"]
    assert len(ours.classes) == kept and biases[:kept].tolist() == list(range(OUTPUTS - kept, OUTPUTS))


def test_build_goes_by_the_classes_of_its_config(retinanet):
    for count in (3, 4):
        config = onestage.recipe("retinanet_r18_fpn", [f"x{i}" for i in range(count)], size=SIZE)
        assert onestage.build(config, weights=retinanet).state_dict()["head.cls.4.bias"][0] == OUTPUTS - count


def test_nothing_known_is_an_error_that_asks(retinanet, tmp_path, capsys):
    with pytest.raises(WeightsError, match="it is unknown whether the first output") as error:
        onestage.create("retinanet_r18_fpn", weights=retinanet)
    assert "4 outputs" in str(error.value) and "--background" in str(error.value)
    out = tmp_path / "o.safetensors"
    assert main(["import", str(retinanet), "-o", str(out)]) == 2 and "--background first" in capsys.readouterr().err
    assert main(["import", str(retinanet), "-o", str(out), "--background", "none"]) == 0
    assert len(onestage.load(out).classes) == OUTPUTS
    out = tmp_path / "named.safetensors"
    assert main(["import", str(retinanet), "-o", str(out), "--classes", "cat", "dog", "boat"]) == 0
    assert onestage.load(out).config.category_ids == (17, 18, 9)


def test_other_classes_need_no_answer(retinanet):
    with pytest.warns(UserWarning, match="start fresh"):
        ours = onestage.create("retinanet_r18_fpn", 7, size=SIZE, weights=retinanet)
    assert len(ours.classes) == 7


def test_what_the_file_shows_cannot_be_contradicted(retinanet):
    source = replace(read_source(retinanet), background="first")
    with pytest.raises(WeightsError, match="the file shows which output is background"):
        source.settled(None, "none")
    assert source.settled(4) is source and source.settled(None, "first") is source


def test_coco_is_known_and_silent(retinanet):
    source = replace(read_source(retinanet), classes=COCO_90)
    assert source.settled(None).classes == COCO_90 and len(source.settled(91).classes.names) == 91


def test_every_project_states_where_background_stands():
    """Only a head with sigmoids may leave it open."""
    found = {name: adapter.background({}) for name, adapter in ADAPTERS.items()}
    assert found == {name: "none" if name == "effdet" else "first" for name in ADAPTERS}
    assert ADAPTERS["torchvision"].background({"head.classification_head.cls_logits.weight": torch.zeros(1)}) is None


@pytest.mark.parametrize("known", [COCO_80, COCO_90])
def test_cocos_names_have_cocos_ids(known):
    assert ids_of(known.names) == known.ids
    assert ids_of([name.upper() for name in known.names]) == known.ids
    assert ids_of(["person", "my own"]) == (0, 1)
