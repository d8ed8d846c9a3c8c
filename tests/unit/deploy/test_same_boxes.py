"""Every family as an exported file against predict(), on 50 real pictures, by both runtimes, one, two and five at once.

The networks are not trained. They are random but lively: batch norms have the statistics of the first photos, and the class
logits are spread (see ``lively``). The SSD that was trained on COCO is the real one. ``make test-export`` runs this and prints
the figures.

Rounding must explain every difference (see ``rounding``): the numbers of some candidates are so near to each other, or to a
limit, that their last digits decide. Nothing may be left over, and such candidates may not be many.
"""

from typing import NamedTuple

import pytest
import torch

import onestage
from lively import lively
from onestage.deploy.check import BATCHES, LEAST, TOLERANCE, Agreement, compare
from onestage.deploy.export import ExportConfig, export
from onestage.model.output.postprocess import RawDetections
from onestage.predict.predictor import Predictor
from onestage.structures import Detections, HeadOutput
from rounding import Candidates, candidates, fates, measured, unexplained

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
MOST_PIXELS = 0.05
"""A side of a box may be so far apart in two programs and still be called rounding."""
DECIDED = 0.8
"""The part of the detections about which rounding may leave no choice, at the least. Otherwise it would explain everything."""
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


class Expected(NamedTuple):
    """What predict() finds in a picture, in its pixels and in input pixels, and all candidates that matter for detections above
    the score ``least``. Where every place is taken, that is the last one's score.
    """

    detections: Detections
    raw: RawDetections
    candidates: Candidates
    least: float


def expected_in(model, photos, batch):
    """One Expected per photo, (3, H, W) each, of which ``batch`` go through the network together."""
    source, config, found = Predictor.of(model), model.config, []
    for start in range(0, len(photos), batch):
        images, metas = config.preprocess.batch(photos[start : start + batch])
        output = source.run(images, metas)
        assert isinstance(output, HeadOutput)
        every = source.decoder.raw(output, torch.stack([meta.frame for meta in metas]), config.postprocess)
        for row, (raw, meta) in enumerate(zip(every, metas, strict=True)):
            full = len(raw.scores) == config.postprocess.detections
            least = max(LEAST, float(raw.scores[-1])) if full else LEAST
            near = candidates(config, output, row, meta.frame, least=least - 8 * TOLERANCE.score)
            found.append(Expected(source.decoder.name(raw, meta), raw, near, least))
    return found


def found_in(file, photos, batch):
    """The detections of each photo, in its pixels and in input pixels, with ``batch`` photos at once."""
    found: list[tuple[Detections, RawDetections]] = []
    for start in range(0, len(photos), batch):
        images, metas = file.config.preprocess.batch(photos[start : start + batch])
        output = file.run(images, metas)
        found += zip(file.decode(output, metas), output, strict=True)
    return found


class Found(NamedTuple):
    """How a file and its model agree. lines: what rounding does not explain; decided: the part of the detections about which
    rounding leaves no choice, 0..1.
    """

    lines: list[str]
    agreement: Agreement
    decided: float


def left_over(config, expected, found):
    """Explain every difference between what the model finds and what a file finds in some pictures."""
    agreements = [
        compare(
            one.detections,
            detections,
            TOLERANCE,
            places=config.postprocess.detections,
            least=LEAST,
            scale=config.preprocess.place(one.detections.size).scale,
        )
        for one, (detections, _) in zip(expected, found, strict=True)
    ]
    pairs = [(one.raw, raw) for one, (_, raw) in zip(expected, found, strict=True)]
    rounding = measured(pairs, iou=TOLERANCE.iou, score=TOLERANCE.score)
    lines = [] if rounding.pixels <= 2 * MOST_PIXELS else [f"sides of boxes are up to {rounding.pixels / 2} pixels apart"]
    decided = total = 0
    for one, (_, raw) in zip(expected, found, strict=True):
        lines += unexplained(config, one.candidates, raw, rounding, least=one.least)
        must, _ = fates(config, one.candidates, rounding)
        decided += int((must & (one.candidates.scores > LEAST)).sum())
        total += int((one.raw.scores > LEAST).sum())
    return Found(lines, sum(agreements, Agreement()), decided / total)


@pytest.mark.parametrize("name", [REAL, *RANDOM, LARGE])
def test_the_file_finds_what_predict_finds(name, shared_data, photos, tmp_path):
    model = detector(name, shared_data, photos)
    photos = photos[:MOST_LARGE] if name == LARGE else photos
    path = export(model, tmp_path / "model.onnx", config=ExportConfig(), check=False).path
    expected = {}
    for batch in BATCHES:  # where the input follows the pictures, those of a group share its size
        follows = model.config.preprocess.mode == "shortest_edge"
        expected[batch] = expected_in(model, photos, batch) if follows or batch == 1 else expected[1]
    results = []
    for runtime in ("onnxruntime", "openvino"):
        file = onestage.load(path, runtime=runtime)
        for batch in BATCHES:
            lines, total, decided = left_over(model.config, expected[batch], found_in(file, photos, batch))
            print(
                f"{name}, {runtime}, batch {batch}: {total.paired:,} of {total.compared:,} detections have a partner,", end=" "
            )
            print(f"{total.slivers} by their sides, IoU at least {total.iou:.5f}, scores within {total.score:.1e};", end=" ")
            print(f"no choice about {decided:.1%}", *lines, sep="\n  ", flush=True)
            results.append(total.compared > 100 and total.within(TOLERANCE) and not lines and decided > DECIDED)
    assert all(results)
