"""ONNX files without NMS, read by programs that know few operators: OpenCV's dnn module, which says nothing when it misreads
one, and pnnx, which converts them for ncnn.
"""

import importlib
import subprocess
from importlib.util import find_spec

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

SIZES = {
    "ssd300_vgg16": (300, 300),
    "ssdlite320_mobilenet_v3_large": (128, 128),
    "efficientdet_d0": (128, 128),
    "efficientdet_lite0": (128, 128),
    "retinanet_r18_fpn": (96, 128),
    "dssd": (128, 128),
}


def by_opencv(path, images):
    """Logits and deltas of images (1, 3, h, w)."""
    import cv2

    net = cv2.dnn.readNetFromONNX(str(path))
    net.setInput(images, "images")
    return net.forward(["logits", "deltas"])


def by_ncnn(path, images):
    """The same by ncnn, of a file that pnnx converts."""
    import ncnn
    import pnnx

    shape = f"inputshape=[{','.join(map(str, images.shape))}]"
    subprocess.run([pnnx.EXEC_PATH, path.name, shape, "fp16=0"], cwd=path.parent, check=True, capture_output=True)
    net = ncnn.Net()
    net.opt.use_fp16_packed = net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = False
    assert net.load_param(str(path.with_suffix(".ncnn.param"))) == net.load_model(str(path.with_suffix(".ncnn.bin"))) == 0
    extractor = net.create_extractor()
    extractor.input("in0", ncnn.Mat(images[0]))
    return [np.array(extractor.extract(name)[1])[None] for name in ("out0", "out1")]


def readers():
    """Those of the functions above whose packages are installed. OpenCV reads such files from version 5."""
    found = []
    if find_spec("cv2") is not None and importlib.import_module("cv2").__version__ >= "5":
        found.append(by_opencv)
    if find_spec("ncnn") is not None and find_spec("pnnx") is not None:
        found.append(by_ncnn)
    return found or pytest.skip("pip install 'opencv-python-headless>=5' 'onestage[ncnn]'")


def check_outputs(name, size, folder):
    """Each program must give the logits and deltas that torch gives for a picture."""
    programs = readers()
    torch.manual_seed(0)
    model = lively(onestage.create(name, 3, size=size))
    plan = plan_export(model, ExportConfig(nms="none", size=size, pixels="float32"))
    export_onnx(plan, folder / "model.onnx")
    images, metas = plan.detector.config.preprocess.batch(pictures(1, (100, 140)))
    expected = Predictor.of(plan.detector).run(images, metas)
    for read in programs:
        if (name, read) == ("ssd300_vgg16", by_ncnn):
            continue  # pnnx misreads its ONNX file; ``--to ncnn`` writes it by another way
        outputs = read(folder / "model.onnx", images.float().numpy())
        for found, wanted in zip(outputs, (expected.logits, expected.deltas), strict=True):
            assert found.shape == tuple(wanted.shape), read
            assert np.abs(found - wanted.numpy()).max() < 1e-3 * float(wanted.abs().max()), read


def test_a_small_network_is_read(tmp_path):
    check_outputs("tinyssd", (96, 128), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", SIZES)
def test_every_family_is_read(name, tmp_path):
    check_outputs(name, SIZES[name], tmp_path)
