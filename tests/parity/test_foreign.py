"""Checkpoints of other people's SSDs against what their own programs compute: logits, offsets and default boxes.

The weights are rebuilt from the keys by the data's own rule; detections, fine-tuning and files follow from the same detector.
"""

import importlib.util
import json
import warnings

import numpy as np
import pytest
import torch

import onestage
from onestage import boxes as box_ops
from onestage.structures import Targets
from onestage.weights.class_names import VOC

ENTRIES = {
    "qfgaohao_mb1_ssd": ("ssd300_mobilenet_v1", 9_468_996),
    "qfgaohao_mb2_ssd_lite": ("ssd300_mobilenet_v2", 3_388_228 - 2 * (576 + 1280 + 512 + 256 + 256)),
    "amdegroot_ssd300": ("ssd300_vgg16", 26_285_486),
    "lufficc_ssd300": ("ssd300_vgg16", 26_285_486),
}
"""The zoo's name, and the published parameter count: in mb2-ssd-lite's heads less the biases that batch norm takes off."""

TWIN = "lufficc_ssd300"
"""What does not depend on its keys is tried with the other SSD300 only, but for ``make test-slow``."""
once = pytest.mark.parametrize(
    "entry", [pytest.param(n, marks=pytest.mark.slow) if n == TWIN else n for n in ENTRIES], indirect=True
)


@pytest.fixture(scope="module")
def rule(shared_data):
    """The module that rebuilds the weights and draws the input."""
    spec = importlib.util.spec_from_file_location("weights_rule", shared_data / "foreign" / "weights_rule.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Keys:
    """What the rule needs of a model."""

    def __init__(self, shapes):
        counter = torch.zeros((), dtype=torch.int64)
        self.tensors = {k: counter if k.endswith("tracked") else torch.empty(s, device="meta") for k, s in shapes.items()}

    def state_dict(self):
        return self.tensors

    def load_state_dict(self, tensors):
        self.tensors = tensors

    def eval(self):
        return self


@pytest.fixture(scope="module", params=ENTRIES)
def entry(request, shared_data, rule, tmp_path_factory):
    """The name, the checkpoint's file and what the original program computes."""
    shapes = json.loads((shared_data / "foreign" / f"{request.param}.keys.json").read_text())
    path = tmp_path_factory.mktemp("foreign") / f"{request.param}.pth"
    torch.save(rule.fill(Keys(dict(shapes))).tensors, path)
    with np.load(shared_data / "foreign" / f"{request.param}.npz") as theirs:
        return request.param, path, {k: torch.from_numpy(theirs[k]) for k in theirs}


@pytest.fixture(scope="module")
def detector(entry):
    """Ours of that checkpoint, by its name in the zoo and nothing else."""
    name, path, _ = entry
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return onestage.create(ENTRIES[name][0], weights=path).eval()


@torch.no_grad()
def test_the_network(entry, detector, rule):
    _, _, theirs = entry
    output = detector(rule.image(300, 300))
    for ours, expected in ((output.logits, theirs["confidences"]), (output.deltas, theirs["locations"])):
        assert ours.shape == expected.shape
        assert (ours - expected).abs().max() <= 1e-4 * expected.abs().max()


def test_the_default_boxes(entry, detector):
    ours = box_ops.to_cxcywh(detector.anchors((300, 300)) / 300)
    torch.testing.assert_close(ours, entry[2]["priors_cxcywh"], atol=1e-5, rtol=0)


def test_parameters_and_classes(entry, detector):
    assert sum(p.numel() for p in detector.parameters()) == ENTRIES[entry[0]][1]
    assert detector.config.classes == VOC.names
    assert (detector.config.classes[0], detector.config.classes[-1]) == ("aeroplane", "tvmonitor")


def test_the_pixels(entry, detector):
    """A red picture as the original programs prepare it: RGB, less 127 by 128, or less the Caffe weights' mean."""
    red = torch.tensor([250, 10, 30], dtype=torch.uint8).view(3, 1, 1).expand(3, 20, 20)
    pixel = detector.prepare([red])[0][0, :, 150, 150]
    expected = [123 / 128, -117 / 128, -97 / 128] if entry[0].startswith("qfgaohao") else [127.0, -107.0, -74.0]
    torch.testing.assert_close(pixel, torch.tensor(expected), atol=1e-4, rtol=1e-5)


@torch.no_grad()
def test_detections_are_those_of_their_own_numbers(entry, detector, rule):
    """The best box of each class, decoded from the program's own numbers by the formulas of the paper."""
    _, _, theirs = entry
    metas = detector.prepare([torch.zeros(3, 300, 300, dtype=torch.uint8)])[1]
    (found,) = detector.decode(detector(rule.image(300, 300)), metas)
    scores, priors, offsets = theirs["confidences"][0].softmax(1), theirs["priors_cxcywh"], theirs["locations"][0]
    centre = priors[:, :2] + offsets[:, :2] * 0.1 * priors[:, 2:]
    extent = priors[:, 2:] * (offsets[:, 2:] * 0.2).exp()
    boxes = (torch.cat([centre - extent / 2, centre + extent / 2], dim=1) * 300).clamp(0, 300)
    assert len(found) > 20
    assert (found.scores.diff() <= 0).all()
    for label in set(found.labels[:50].tolist()):
        best = scores[:, label + 1].argmax()
        own = int((found.labels == label).nonzero()[0])
        torch.testing.assert_close(found.scores[own], scores[best, label + 1], atol=1e-3, rtol=0)
        torch.testing.assert_close(found.boxes[own], boxes[best], atol=0.1, rtol=0)
        assert found.class_names[own] == VOC.names[label]


@once
def test_a_step_of_fine_tuning_learns(entry):
    """On classes of one's own: the box outputs are kept, and the loss falls on the picture that was learned."""
    name, path, _ = entry
    torch.manual_seed(0)
    with pytest.warns(UserWarning, match="the file's classes are others: aeroplane"):
        model = onestage.create(ENTRIES[name][0], classes=["yak", "gnu"], size=(128, 128), weights=path)
    images, _ = model.prepare([torch.randint(0, 256, (3, 128, 128), dtype=torch.uint8)] * 2)
    targets = [Targets(torch.tensor([[20.0, 30, 90, 110]]), torch.tensor([1]))] * 2
    for key, parameter in model.named_parameters():
        parameter.requires_grad_(key.startswith("head.cls"))
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-5)
    losses = []
    for _ in range(3):
        loss = model.loss(model(images), targets)["cls"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[2] < losses[0]


@once
@torch.no_grad()
def test_a_file_of_it_gives_the_same(entry, detector, rule, tmp_path):
    detector.save(tmp_path / "own.safetensors")
    again = onestage.load(tmp_path / "own.safetensors")
    assert again.config == detector.config
    image = rule.image(300, 300)
    assert torch.equal(again(image).logits, detector(image).logits)


@once
def test_another_input_size_keeps_every_weight(entry):
    name, path, _ = entry
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = onestage.create(ENTRIES[name][0], size=(300, 400), weights=path)
    assert max(w for level in model.config.anchors for w, _ in level.shapes) > 300
    assert all(level.inside for level in model.config.anchors)
    assert len(model.predict(torch.zeros(3, 50, 60, dtype=torch.uint8))) == 1
