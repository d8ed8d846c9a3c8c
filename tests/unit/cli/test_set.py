"""``--set KEY=VALUE``: any part of a recipe changed from the command line."""

import pytest

from onestage.cli.main import main
from onestage.cli.train import ModelChoice
from onestage.errors import ConfigError
from onestage.model.anchors.atss import ATSSAssigner
from onestage.model.anchors.max_iou import MaxIoUAssigner
from onestage.model.losses.boxes import Huber, IoULoss
from onestage.model.losses.focal import FocalLoss
from onestage.model.losses.multibox import MultiBoxLoss
from onestage.model.output.suppress import HardNMS, SoftNMS


def config(*changes, model="tinyssd"):
    return ModelChoice(model=model, size="64", changes=changes).config(("ball", "ring"))


def test_a_part_by_its_name_and_then_its_numbers():
    changed = config("loss=FocalLoss", "loss.gamma=1.5", "loss.box=IoULoss", "loss.box.overlap=ciou", "postprocess.nms=SoftNMS")
    assert changed.loss == FocalLoss(gamma=1.5, box=IoULoss("ciou"))
    assert changed.postprocess.nms == SoftNMS()
    assert changed.logits == 2  # no background among sigmoids


def test_in_any_order_and_the_last_of_the_same():
    assert config("loss.gamma=1.5", "loss.box.overlap=ciou", "loss=FocalLoss", "loss.box=IoULoss").loss == FocalLoss(
        gamma=1.5, box=IoULoss("ciou")
    )
    assert config("loss.negative_ratio=2", "loss.negative_ratio=4").loss == MultiBoxLoss(negative_ratio=4.0)


def test_numbers_words_null_and_json():
    changed = config(
        "assigner=ATSSAssigner",
        "assigner.top_k=5",
        "preprocess.mode=letterbox",
        "preprocess.antialias=false",
        "postprocess.scope=image",
        'loss={"kind": "FocalLoss", "alpha": null, "box": {"kind": "Huber", "delta": 0.1}}',
    )
    assert changed.assigner == ATSSAssigner(5)
    assert (changed.preprocess.mode, changed.preprocess.antialias, changed.postprocess.scope) == ("letterbox", False, "image")
    assert changed.loss == FocalLoss(alpha=None, box=Huber(0.1))
    assert isinstance(config().assigner, MaxIoUAssigner) and isinstance(config().postprocess.nms, HardNMS)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("los=FocalLoss", "did you mean 'loss'?"),
        ("loss=FocalLos", "did you mean 'FocalLoss'?"),
        ("loss=focalloss", "did you mean 'FocalLoss'?"),
        ("loss.negativ_ratio=2", "did you mean 'negative_ratio'?"),
        ("loss.gamma=2", "unknown key 'gamma'"),
        ("loss.box=L2", "one of SmoothL1, L1, Huber, IoULoss (giou, diou, ciou)"),
        ("loss.gamma=2", "loss.gamma, of MultiBoxLoss"),
        ("anchors.shapes=3", "5 values"),
        ("postprocess.nms=SoftNms", "did you mean 'SoftNMS'?"),
        ("postprocess.nms.iou_treshold=0.5", "did you mean 'iou_threshold'?"),
        ("postprocess.scope=images", "did you mean 'image'?"),
        ("assigner.claim=tie", "did you mean 'tied'?"),
        ("neck=fpn", "did you mean 'FPN'?"),
        ("head=Sharedhead", "did you mean 'SharedHead'?"),
        ("loss.box.beta=-1", "at least 0"),
        ("loss.box.beta=wide", "wrong kind"),
        ("loss", "--set takes KEY=VALUE"),
        ("=5", "unknown key ''"),
        ("loss.activation=sigmoid", "unknown key 'activation'"),
    ],
)
def test_what_is_unknown_gets_the_nearest_name(change, says):
    with pytest.raises(ConfigError) as error:
        config(change)
    assert says in str(error.value)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("loss=FocalLos", "did you mean 'FocalLoss'?"),
        ("head=SharedHead", "equal channels"),
        ("anchors=[]", "anchors describe 0"),
        ("preprocess.size=[96, 96]", "--size HEIGHTxWIDTH"),
    ],
)
def test_no_traceback_and_nothing_written(change, says, shapes, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["train", str(shapes), "--model", "tinyssd", "--size", "64", "--set", change]) == 2
    assert says in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_trained_measured_and_used_with_other_parts(shapes, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    changes = [
        "loss=FocalLoss",
        "loss.gamma=1.5",
        "postprocess.nms=SoftNMS",
        "assigner=ATSSAssigner",
        "preprocess.mode=letterbox",
    ]
    flags = [part for change in changes for part in ("--set", change)]
    once = ["--epochs", "1", "--batch-size", "4", "--workers", "0"]
    assert main(["train", str(shapes), "--model", "tinyssd", "--size", "64x96", *flags, *once, "--out", "run"]) == 0
    assert main(["evaluate", "run", str(shapes), "--out", "report", "--workers", "0"]) == 0
    assert "4 pictures" in capsys.readouterr().out
