"""ONNX files without NMS, read by OpenCV's dnn module, which knows few operators and says nothing when it misreads one."""

import numpy as np
import pytest
import torch

import onestage
from lively import lively
from onestage.deploy.benchmark import pictures
from onestage.deploy.onnx import export_onnx
from onestage.deploy.plan import ExportConfig, plan_export
from onestage.predict.predictor import Predictor

pytest.importorskip("onnx", reason="pip install 'onestage[onnx]'")
cv2 = pytest.importorskip("cv2", minversion="5", reason="pip install 'opencv-python-headless>=5'")

SIZES = {
    "ssd300_vgg16": None,
    "ssdlite320_mobilenet_v3_large": (128, 128),
    "efficientdet_d0": (128, 128),
    "efficientdet_lite0": (128, 128),
    "retinanet_r18_fpn": (96, 128),
}


def check_outputs(name, size, folder):
    """OpenCV must give the logits and deltas that torch gives for a picture."""
    torch.manual_seed(0)
    model = lively(onestage.create(name, 3, **({} if size is None else {"size": size})))
    plan = plan_export(model, ExportConfig(nms="none", size=size, pixels="float32"))
    export_onnx(plan, folder / "model.onnx")
    images, metas = plan.detector.config.preprocess.batch(pictures(1, (100, 140)))
    expected = Predictor.of(plan.detector).run(images, metas)
    net = cv2.dnn.readNetFromONNX(str(folder / "model.onnx"))
    net.setInput(images.float().numpy(), "images")
    for found, wanted in zip(net.forward(["logits", "deltas"]), (expected.logits, expected.deltas), strict=True):
        assert found.shape == tuple(wanted.shape)
        assert np.abs(found - wanted.numpy()).max() < 1e-3 * float(wanted.abs().max())


def test_opencv_reads_a_small_network(tmp_path):
    check_outputs("tinyssd", (96, 128), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", SIZES)
def test_opencv_reads_every_family(name, tmp_path):
    check_outputs(name, SIZES[name], tmp_path)
