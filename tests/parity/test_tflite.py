"""TensorFlow Lite files against the interpreter that they are made for (ai-edge-litert), raw outputs and detections.

Networks of floats agree to rounding. A network of integers rounds after every layer; ours computes with what its integers stand
for, so the two are as near as eight bits allow.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import onestage
from onestage import boxes as box_ops
from onestage.evaluation import read_for
from onestage.images import decode_image
from onestage.metrics.coco import coco_metrics
from onestage.model.detector import Detector
from onestage.predict.measure import evaluate_dataset
from onestage.weights.projects.tflite.graph import read_graph
from tflite_files import in_floats, read, small_ssd

interpreter = pytest.importorskip("ai_edge_litert.interpreter", reason="the reference for these files is in the dev extra")

pytestmark = pytest.mark.filterwarnings("ignore:.*experimental_preserve_all_tensors")

SSD = "coco_ssd_mobilenet_v1_quant_2018_06_29.tflite"
CATS_AND_DOGS = (
    ("cat", 54, 396, 393, 196, 0.64),
    ("cat", 602, 157, 394, 447, 0.61),
    ("cat", 260, 394, 180, 209, 0.56),
    ("dog", 389, 197, 278, 409, 0.50),
)
"""The authors' own test of the file on photos/cats_and_dogs.jpg: left, top, width, height; scores within 0.05."""


def interpret(path, images, *values):
    """The file's outputs and dequantised values of its graph, for (1, 3, H, W) images as the file wants them."""
    runner = interpreter.Interpreter(str(path), num_threads=1, experimental_preserve_all_tensors=True)
    runner.allocate_tensors()
    runner.set_tensor(runner.get_input_details()[0]["index"], images.permute(0, 2, 3, 1).contiguous().numpy())
    runner.invoke()
    details = {detail["index"]: detail for detail in runner.get_tensor_details()}

    def number(index):
        tensor = runner.get_tensor(index)
        scale, zero = details[index]["quantization"]
        return torch.from_numpy((tensor.astype(np.float32) - zero) * scale if scale else tensor)

    outputs = [torch.from_numpy(runner.get_tensor(output["index"])) for output in runner.get_output_details()]
    return outputs, [number(value) for value in values]


def ours_of(path):
    config, tensors = read(path)
    detector = Detector(config)
    detector.load_state_dict(tensors)
    return detector.eval()


def last_inputs(path):
    """The postprocessing operator's inputs: offsets (1, A, 4) and scores (1, A, C), background first."""
    operator = read_graph(path.read_bytes()).operators[-1]
    assert operator.kind == "TFLite_Detection_PostProcess"
    return operator.inputs[:2]


def check_detections(ours, output, outputs, *, atol):
    """Ours against the operator's: boxes (y, x, y, x parts of the input), classes, scores, count."""
    boxes, classes, scores, count = (o[0] if o.dim() > 1 else o for o in outputs)
    found = ours.config.postprocess(
        output,
        ours.anchors(output.input_size),
        ours.config.coder,
        activation=ours.config.loss.activation,
        levels=ours.level_counts(output.input_size),
    )[0]
    n = int(count)
    assert len(found.scores) == n > 0
    height, width = output.input_size
    pixels = boxes[:n, [1, 0, 3, 2]] * torch.tensor([width, height, width, height])
    torch.testing.assert_close(found.boxes, box_ops.clip(pixels, output.input_size), atol=atol * max(output.input_size), rtol=0)
    torch.testing.assert_close(found.scores, scores[:n], atol=atol, rtol=0)
    assert found.labels.tolist() == classes[:n].long().tolist()


@torch.no_grad()
@pytest.mark.parametrize(
    ("stored", "options"),
    [
        ("float32", {}),
        ("float32", {"version": "v2", "separable": True}),
        ("float32", {"kernel": 3, "score": "SOFTMAX"}),
        ("float32", {"use_regular_nms": True, "detections_per_class": 100}),
        ("float16", {"version": "v2"}),
    ],
)
def test_a_network_of_floats(stored, options, tmp_path):
    path = tmp_path / "small.tflite"
    path.write_bytes(small_ssd(stored=stored, **options))
    ours = ours_of(path)
    images = torch.randn(1, 3, 44, 36, generator=torch.Generator().manual_seed(0)).clamp(-1, 1)
    outputs, (deltas, scores) = interpret(path, images, *last_inputs(path))
    output = ours(images)
    torch.testing.assert_close(output.deltas, deltas[..., [1, 0, 3, 2]], atol=1e-4, rtol=0)
    softmax = options.get("score") == "SOFTMAX"
    ours_scores = output.logits.softmax(-1) if softmax else output.logits.sigmoid()
    torch.testing.assert_close(ours_scores, scores if softmax else scores[..., 1:], atol=1e-5, rtol=0)
    check_detections(ours, output, outputs, atol=1e-4)


@torch.no_grad()
def test_weights_of_integers_with_a_scale_for_every_channel(tmp_path):
    """The interpreter rounds the inputs of such layers to eight bits as well."""
    path = tmp_path / "small.tflite"
    path.write_bytes(small_ssd(stored="int8", version="v2"))
    images = torch.randn(1, 3, 44, 36, generator=torch.Generator().manual_seed(0)).clamp(-1, 1)
    _, (deltas, scores) = interpret(path, images, *last_inputs(path))
    output = ours_of(path)(images)
    torch.testing.assert_close(output.deltas, deltas[..., [1, 0, 3, 2]], atol=0.1, rtol=0)
    torch.testing.assert_close(output.logits.sigmoid(), scores[..., 1:], atol=0.02, rtol=0)


@pytest.fixture(scope="module")
def published(shared_data):
    return shared_data / "weights" / SSD


@pytest.fixture(scope="module")
def imported(published):
    return ours_of(published)


@torch.no_grad()
def test_the_published_network_in_floats(published, imported, shared_data, tmp_path):
    """The file's own weights as float32, run by the interpreter: everything but its rounding must be ours to the last digit."""
    path = tmp_path / "floats.tflite"
    path.write_bytes(in_floats(read_graph(published.read_bytes())))
    picture = imported.config.preprocess.resize(decode_image(shared_data / "photos" / "cats_and_dogs.jpg"))[0][None]
    images = imported.config.preprocess.normalize(picture)
    _, (deltas, scores) = interpret(path, images, *last_inputs(path))
    output = imported(images)
    torch.testing.assert_close(output.deltas, deltas[..., [1, 0, 3, 2]], atol=1e-4, rtol=0)
    torch.testing.assert_close(output.logits.sigmoid(), scores[..., 1:], atol=1e-5, rtol=0)
    again = ours_of(path)
    torch.testing.assert_close(again.anchors((300, 300)), imported.anchors((300, 300)), atol=1.0, rtol=0)


@torch.no_grad()
def test_the_published_network_as_it_is(published, imported, shared_data):
    picture = imported.config.preprocess.resize(decode_image(shared_data / "photos" / "cats_and_dogs.jpg"))[0][None]
    whole = picture.round().to(torch.uint8)
    _, (deltas, scores) = interpret(published, whole, *last_inputs(published))
    output = imported(imported.config.preprocess.normalize(whole))
    assert F.cosine_similarity(output.deltas.flatten(), deltas[..., [1, 0, 3, 2]].flatten(), dim=0) > 0.998
    assert (output.logits.sigmoid() - scores[..., 1:]).abs().max() < 0.03


def test_the_objects_its_authors_expect(imported, shared_data):
    found = imported.predict(shared_data / "photos" / "cats_and_dogs.jpg")[0]
    for name, x, y, width, height, score in CATS_AND_DOGS:
        iou = box_ops.iou(box_ops.from_xywh(torch.tensor([[x, y, width, height]], dtype=torch.float32)), found.boxes)[0]
        best = max((i for i, own in enumerate(found.class_names) if own == name), key=lambda i: float(iou[i]))
        assert iou[best] > 0.85
        assert found.scores[best] == pytest.approx(score, abs=0.05)
    assert found.category_ids[0] == 17  # COCO's cat


@torch.no_grad()
@pytest.mark.parametrize(
    ("file", "model", "last"),
    [
        ("mobilenet_v1_0.75_192_quant.tflite", "ssd300_mobilenet_v1", -5),
        ("mobilenet_v2_1.0_224_quant.tflite", "ssd300_mobilenet_v2", -5),
        ("tf2_mobilenet_v2_1.0_224_ptq.tflite", "ssd300_mobilenet_v2", -6),
    ],
)
def test_classifiers_as_backbones(file, model, last, shared_data):
    """Against the classifier's own last map; ``last``: the operator that makes it, before pooling, output, reshape, softmax."""
    path = shared_data / "weights" / file
    side = int(file.rsplit("_", 2)[1])
    ours = onestage.create(model, 2, size=(side, side), backbone_weights=path).eval()
    value = read_graph(path.read_bytes()).operators[last].outputs[0]
    picture = (
        ours.config.preprocess.resize(decode_image(shared_data / "photos" / "parrot.jpg"))[0][None].round().to(torch.uint8)
    )
    _, (theirs,) = interpret(path, picture, value)
    own = ours.backbone(ours.config.preprocess.normalize(picture))[-1]
    assert F.cosine_similarity(own.flatten(), theirs.permute(0, 3, 1, 2).flatten(), dim=0) > 0.99


@pytest.mark.slow
def test_the_published_network_is_as_good_as_its_file(published, imported, shared_data, monkeypatch):
    """AP on 80 pictures of COCO, same metric. Rounding as the interpreter does moves it by as much as 0.01 either way."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    from tflite_parity import interpreted

    dataset = read_for(imported, shared_data / "coco_tiny", split=None, on_bad="stop")
    truths = [dataset.truth(i) for i in range(len(dataset))]
    found = evaluate_dataset(imported, dataset)[1], interpreted(published, imported, dataset)
    ours, theirs = (coco_metrics(each, truths, dataset.classes).figures["AP"] for each in found)
    assert theirs > 0.19
    assert ours == pytest.approx(theirs, abs=0.015)
