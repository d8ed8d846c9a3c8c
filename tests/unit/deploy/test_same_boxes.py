"""Every family as an exported file against predict(), on 50 real pictures, by both runtimes, one, two and five at once.

The networks are random but lively: batch norms have the statistics of the first photos, and the class logits are spread (see
``lively``). The SSD that was trained on COCO is the real one. ``make test-export`` runs this and prints the figures.
"""

import pytest
import torch

import onestage
from lively import lively
from onestage.deploy.check import BATCHES, LEAST, TOLERANCE, Agreement, compare
from onestage.deploy.export import ExportConfig, export
from onestage.predict.predictor import Predictor

pytest.importorskip("onnxruntime", reason="pip install 'onestage[onnx]'")
pytest.importorskip("openvino", reason="pip install 'onestage[openvino]'")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

REAL = "the SSD of COCO"
RANDOM = {
    "tinyssd": {},
    "ssdlite320_mobilenet_v3_large": {},
    "dssd": {"backbone": "resnet10t", "size": (192, 192)},
    "efficientdet_lite0": {},
    "retinanet_r18_fpn": {"size": (192, 256)},
    "efficientdet_d0": {},
    "ssd300_vgg16": {},
    "retinanet_r50_fpn": {"size": (320, 448)},
}
"""Recipes and what is changed in them, the fastest first."""
BELOW = {"retinanet_r50_fpn": 4.5}
"""Its maps are large: with more scores above ``LEAST``, NMS can leave too few of the 2,000 candidates that a graph looks at."""
LARGE = "retinanet_r50_fpn in its usual size"
MOST_LARGE = 10
"""Pictures for it: each takes seconds, eight times."""


def detector(name, shared_data, photos):
    torch.manual_seed(0)
    if name == REAL:
        weights = shared_data / "weights" / "coco_ssd_mobilenet_v1_quant_2018_06_29.tflite"
        return onestage.create("ssd300_mobilenet_v1", weights=weights).eval()
    if name == LARGE:
        model = onestage.create("retinanet_r50_fpn", 20).eval()
        model.load_state_dict(detector("retinanet_r50_fpn", shared_data, photos).state_dict())
        return model
    return lively(onestage.create(name, 20, **RANDOM[name]), below=BELOW.get(name, 3.5), on=photos[:4])


def found_in(predictor, photos, batch):
    return [one for i in range(0, len(photos), batch) for one in predictor.detect(photos[i : i + batch])]


@pytest.mark.parametrize("name", [REAL, *RANDOM, LARGE])
def test_the_file_finds_what_predict_finds(name, shared_data, photos, tmp_path):
    model = detector(name, shared_data, photos)
    photos = photos[:MOST_LARGE] if name == LARGE else photos
    path = export(model, tmp_path / "model.onnx", config=ExportConfig(), check=False).path
    source, places = Predictor.of(model), model.config.postprocess.detections
    expected = {}
    for batch in BATCHES:  # where the input follows the pictures, those of a group share its size
        follows = model.config.preprocess.mode == "shortest_edge"
        expected[batch] = found_in(source, photos, batch) if follows or batch == 1 else expected[1]
    worst = []
    for runtime in ("onnxruntime", "openvino"):
        file = onestage.load(path, runtime=runtime)
        for batch in BATCHES:
            pairs = zip(expected[batch], found_in(file, photos, batch), strict=True)
            total = sum((compare(*pair, TOLERANCE, places=places, least=LEAST) for pair in pairs), Agreement())
            print(
                f"{name}, {runtime}, batch {batch}: {total.paired:,} of {total.compared:,} detections have a partner,", end=" "
            )
            print(f"IoU at least {total.iou:.5f}, scores within {total.score:.1e}", flush=True)
            worst.append(total)
    assert all(total.compared > 100 and total.within(TOLERANCE) for total in worst)
