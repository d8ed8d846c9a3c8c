"""MultiBoxLoss against a slow one: mining, empty images, ignored anchors, divisors."""

import pytest
import torch

import slow_references as slow
from onestage.errors import ConfigError
from onestage.model.anchors.coder import BoxCoder
from onestage.model.anchors.max_iou import IGNORED, Assignment, MaxIoUAssigner, assign
from onestage.model.losses.multibox import MultiBoxLoss
from onestage.structures import HeadOutput, Targets

ANCHORS = torch.tensor([[x, y, x + 16.0, y + 16.0] for x in range(0, 80, 8) for y in range(0, 80, 8)])
OBJECTS = Targets(torch.tensor([[0.0, 0, 15, 17], [40, 40, 60, 58], [2, 50, 20, 70]]), torch.tensor([2, 0, 1]))
NOTHING = Targets(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))
CROWD = Targets(torch.tensor([[30.0, 30, 80, 80], [1, 1, 17, 17]]), torch.tensor([1, 1]), torch.tensor([True, False]))


def outputs(images, classes=3, seed=0, spread=2.0):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(images, len(ANCHORS), classes + 1, generator=generator) * spread
    deltas = torch.randn(images, len(ANCHORS), 4, generator=generator)
    return HeadOutput(logits.requires_grad_(), deltas.requires_grad_(), (), (80, 80))


def slow_loss(output, assignment, **rules):
    lists = [t.tolist() for t in (output.logits, output.deltas, ANCHORS, assignment.matches)]
    return slow.multibox_loss(*lists, assignment.boxes.tolist(), assignment.labels.tolist(), **rules)


@pytest.mark.parametrize(
    "targets",
    [[OBJECTS], [NOTHING], [NOTHING, NOTHING], [OBJECTS, NOTHING, CROWD], [CROWD, OBJECTS]],
    ids=["objects", "nothing", "twice nothing", "mixed", "crowd"],
)
@pytest.mark.parametrize("rules", [(3.0, 30), (0.5, 7), (50.0, 1000)], ids=["as in the paper", "few", "more than there are"])
def test_equals_the_slow_one(targets, rules):
    ratio, least = rules
    output = outputs(len(targets))
    assignment = assign(MaxIoUAssigner(negative=0.4), ANCHORS, targets)
    losses = MultiBoxLoss(negative_ratio=ratio, min_negatives=least)(output, assignment, BoxCoder())
    cls, box = slow_loss(output, assignment, ratio=ratio, min_negatives=least)
    assert losses["cls"].item() == pytest.approx(cls, rel=1e-5)
    assert losses["box"].item() == pytest.approx(box, rel=1e-5, abs=1e-7)


def test_a_picture_of_background_teaches():
    output = outputs(1)
    losses = MultiBoxLoss()(output, assign(MaxIoUAssigner(), ANCHORS, [NOTHING]), BoxCoder())
    (losses["cls"] + losses["box"]).backward()
    assert losses["cls"] > 0
    assert losses["box"] == 0
    taught = output.logits.grad.abs().sum(2) > 0
    assert taught.sum() == 30
    assert output.deltas.grad.abs().sum() == 0


def test_the_negatives_are_the_hardest_three_for_each_positive():
    output = outputs(1)
    matches = torch.full((1, len(ANCHORS)), -1)
    matches[0, :2] = 0
    matches[0, 2:50] = IGNORED
    image, anchor = MultiBoxLoss().hard_negatives(output.logits, matches)
    surprise = -output.logits.detach().log_softmax(2)[0, :, 0]
    assert image.tolist() == [0] * 6
    assert anchor.tolist() == (surprise[50:].argsort(descending=True)[:6] + 50).tolist()


def test_parts_of_a_batch_with_the_divisor_of_the_whole_add_up():
    targets = [OBJECTS, NOTHING, CROWD, OBJECTS]
    output, loss = outputs(4), MultiBoxLoss()
    assignment = assign(MaxIoUAssigner(), ANCHORS, targets)
    whole = loss(output, assignment, BoxCoder())
    divisor = loss.normalizer(assignment.matches)
    parts = []
    for part in (slice(0, 1), slice(1, 4)):
        piece = Assignment(ANCHORS, assignment.matches[part], assignment.boxes[part], assignment.labels[part])
        half = HeadOutput(output.logits[part], output.deltas[part], (), output.input_size)
        parts.append(loss(half, piece, BoxCoder(), normalizer=divisor))
    for name in ("cls", "box"):
        torch.testing.assert_close(sum(p[name] for p in parts), whole[name], rtol=1e-6, atol=0)
    by_images = sum(loss.normalizer(assignment.matches[i : i + 1]) for i in range(4))
    assert by_images == divisor == (assignment.matches >= 0).sum() + 10


def test_easy_negatives_are_ranked_in_low_precision_too():
    """Their losses, 1e-3 and less, all become 0 where the difference is taken in bfloat16."""
    logits = torch.zeros(1, 500, 4)
    logits[0, :, 0] = torch.linspace(8, 10, 500)[torch.randperm(500, generator=torch.Generator().manual_seed(0))]
    logits = logits.bfloat16()
    _, anchor = MultiBoxLoss(min_negatives=20).hard_negatives(logits, torch.full((1, 500), -1))
    assert logits[0, anchor, 0].float().max() <= logits[0, :, 0].float().sort().values[20]


def test_a_network_that_has_diverged_is_not_hidden():
    output = outputs(1)
    broken = HeadOutput(output.logits * torch.nan, output.deltas, (), (80, 80))
    losses = MultiBoxLoss()(broken, assign(MaxIoUAssigner(), ANCHORS, [NOTHING]), BoxCoder())
    assert losses["cls"].isnan()


def test_one_class():
    output = outputs(1, classes=1)
    one = Targets(OBJECTS.boxes, torch.zeros(3, dtype=torch.int64))
    assignment = assign(MaxIoUAssigner(), ANCHORS, [one])
    losses = MultiBoxLoss()(output, assignment, BoxCoder())
    assert losses["cls"].item() == pytest.approx(slow_loss(output, assignment)[0], rel=1e-5)


def test_box_weight():
    output, assignment = outputs(1), assign(MaxIoUAssigner(), ANCHORS, [OBJECTS])
    single, double = (MultiBoxLoss(box_weight=w)(output, assignment, BoxCoder()) for w in (1.0, 2.0))
    assert double["box"] == 2 * single["box"]
    assert double["cls"] == single["cls"]


@pytest.mark.parametrize("rules", [{"negative_ratio": 0.0}, {"min_negatives": 0}, {"box_weight": -1.0}])
def test_numbers_that_make_no_loss_are_refused(rules):
    with pytest.raises(ConfigError):
        MultiBoxLoss(**rules)
