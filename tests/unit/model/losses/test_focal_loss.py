"""The focal losses: against torchvision's and against loops; ignored anchors, empty images, batches in parts."""

import itertools
from types import SimpleNamespace

import pytest
import torch
from torchvision.models.detection.retinanet import RetinaNetClassificationHead
from torchvision.ops import sigmoid_focal_loss

import slow_references as slow
from onestage.errors import ConfigError
from onestage.model.anchors.coder import BoxCoder
from onestage.model.anchors.max_iou import IGNORED, MaxIoUAssigner, assign
from onestage.model.losses.boxes import L1, IoULoss, SmoothL1
from onestage.model.losses.focal import FocalLoss, focal_loss
from onestage.model.losses.quality_focal import QualityFocalLoss
from onestage.structures import HeadOutput, Targets

ANCHORS = torch.tensor([[x, y, x + 16.0, y + 16.0] for x in range(0, 80, 8) for y in range(0, 80, 8)])
OBJECTS = Targets(torch.tensor([[0.0, 0, 15, 17], [40, 40, 60, 58], [2, 50, 20, 70]]), torch.tensor([2, 0, 1]))
NOTHING = Targets(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))
CROWD = Targets(torch.tensor([[30.0, 30, 80, 80], [1, 1, 17, 17]]), torch.tensor([1, 1]), torch.tensor([True, False]))
BATCHES = {
    "objects": [OBJECTS],
    "nothing": [NOTHING],
    "mixed": [OBJECTS, NOTHING, CROWD],
    "nothing, then objects": [NOTHING, NOTHING, OBJECTS],
}
each_batch = pytest.mark.parametrize("targets", BATCHES.values(), ids=BATCHES)


def outputs(images, seed=0, spread=2.0):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(images, len(ANCHORS), 3, generator=generator) * spread
    deltas = torch.randn(images, len(ANCHORS), 4, generator=generator)
    return HeadOutput(logits.requires_grad_(), deltas.requires_grad_(), (), (80, 80))


def assigned(targets):
    """With a band of ignored anchors."""
    return assign(MaxIoUAssigner(negative=0.3, claim="tied"), ANCHORS, targets)


def rows(count=200, classes=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(count, classes, generator=generator) * 4
    return logits.requires_grad_(), (torch.rand(count, classes, generator=generator) < 0.2).float()


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0, 5.0])
@pytest.mark.parametrize("alpha", [None, 0.25, 0.9])
@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
def test_values_and_gradients_are_torchvisions(gamma, alpha, reduction):
    logits, targets = rows()
    ours = focal_loss(logits, targets, alpha=alpha, gamma=gamma, reduction=reduction)
    theirs = sigmoid_focal_loss(logits, targets, alpha=-1 if alpha is None else alpha, gamma=gamma, reduction=reduction)
    assert ours.shape == theirs.shape
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-5)
    grads = [torch.autograd.grad(loss.sum(), logits)[0] for loss in (ours, theirs)]
    torch.testing.assert_close(*grads, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize(("alpha", "gamma"), [(None, 0.0), (0.25, 2.0), (0.7, 0.5)])
def test_soft_targets_are_weighed_between_the_two_cases(alpha, gamma):
    logits, _ = rows(20)
    targets = torch.rand(20, 5, generator=torch.Generator().manual_seed(1))
    ours = focal_loss(logits, targets, alpha=alpha, gamma=gamma, reduction="none")
    numbers = zip(logits.flatten().tolist(), targets.flatten().tolist(), strict=True)
    expected = [slow.focal_loss(x, t, alpha=alpha, gamma=gamma) for x, t in numbers]
    assert ours.flatten().tolist() == pytest.approx(expected, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("alpha", [None, 0.25])
@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 1.5, 2.0, 5.0])
def test_the_gradient_is_that_of_the_formula(gamma, alpha):
    generator = torch.Generator().manual_seed(0)
    logits = (3 * torch.randn(20, 4, generator=generator, dtype=torch.float64)).requires_grad_()
    soft = torch.rand(20, 4, generator=generator, dtype=torch.float64)
    for targets in (soft, soft.round()):
        assert torch.autograd.gradcheck(
            lambda x, t=targets: focal_loss(x, t, alpha=alpha, gamma=gamma, reduction="none"), logits
        )


def test_the_backward_pass_keeps_logits_and_targets_alone():
    logits, targets = rows()
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.shape) or t, lambda t: t):
        focal_loss(logits, targets)
    assert kept == [logits.shape, targets.shape]


def test_gamma_zero_is_cross_entropy_and_a_larger_one_turns_the_easy_down():
    easy, target = torch.tensor([4.0]), torch.tensor([1.0])
    losses = [focal_loss(easy, target, alpha=None, gamma=g).item() for g in (0, 0.5, 1, 2, 5)]
    assert losses[0] == pytest.approx(torch.nn.functional.binary_cross_entropy_with_logits(easy, target).item())
    wrong = 1 - easy.sigmoid().item()
    assert losses == pytest.approx([losses[0] * wrong**g for g in (0, 0.5, 1, 2, 5)], rel=1e-4)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_extreme_logits_have_finite_gradients(gamma, dtype):
    values = [-100.0, -30.0, -17.0, 0.0, 17.0, 30.0, 100.0]
    logits, targets = (torch.tensor(v, dtype=dtype) for v in zip(*itertools.product(values, [0.0, 0.5, 1.0]), strict=True))
    logits.requires_grad_()
    loss = focal_loss(logits, targets, gamma=gamma, reduction="none")
    loss.sum().backward()
    assert loss.isfinite().all() and logits.grad.isfinite().all()
    wrong_and_sure = loss[(logits == -100) & (targets == 1)]
    assert wrong_and_sure.item() == pytest.approx(25, rel=1e-2)


def expected_losses(output, assignment, of_logit):
    """Class loss of each image, anchor by anchor; of_logit(logit, image, anchor, class, object index or None)."""
    sums = []
    for image, matches in enumerate(assignment.matches.tolist()):
        cells = [(a, m, k) for a, m in enumerate(matches) if m != IGNORED for k in range(output.logits.shape[2])]
        labels = assignment.labels[image].tolist()
        hit = [(a, k, m if m >= 0 and labels[m] == k else None) for a, m, k in cells]
        sums.append(sum(of_logit(output.logits[image, a, k].item(), image, a, m) for a, k, m in hit))
    return sums


@each_batch
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_focal_loss_is_the_sum_over_all_anchors_by_the_positives(targets, smoothing):
    output, assignment = outputs(len(targets)), assigned(targets)
    losses = FocalLoss(label_smoothing=smoothing, box=L1(), box_weight=3.0)(output, assignment, BoxCoder())

    def of_logit(logit, image, anchor, match):
        return slow.focal_loss(logit, smoothing / 2 if match is None else 1 - smoothing / 2)

    positives = (assignment.matches >= 0).sum().item()
    assert losses["cls"].item() == pytest.approx(
        sum(expected_losses(output, assignment, of_logit)) / max(1, positives), rel=1e-5
    )
    box = 0.0
    for image, anchor, match in zip(*(t.tolist() for t in assignment.positives()), strict=True):
        wanted = slow.offsets(ANCHORS[anchor].tolist(), assignment.boxes[image, match].tolist())
        box += sum(abs(d - t) for d, t in zip(output.deltas[image, anchor].tolist(), wanted, strict=True))
    assert losses["box"].item() == pytest.approx(3 * box / max(1, positives), rel=1e-5)


@each_batch
def test_per_image_is_torchvisions(targets):
    output, assignment = outputs(len(targets)), assigned(targets)
    loss = FocalLoss(per_image=True, box=SmoothL1(0.0))
    head = SimpleNamespace(BETWEEN_THRESHOLDS=IGNORED)
    theirs = RetinaNetClassificationHead.compute_loss(
        head,
        [{"labels": t.labels, "boxes": t.boxes} for t in targets],
        {"cls_logits": output.logits},
        list(assignment.matches),
    )
    ours = loss(output, assignment, BoxCoder())
    torch.testing.assert_close(ours["cls"], theirs, rtol=1e-5, atol=0)
    by_hand = [
        loss(HeadOutput(*(t[i : i + 1] for t in output[:2]), (), (80, 80)), assigned([t]), BoxCoder())
        for i, t in enumerate(targets)
    ]
    assert ours["box"].item() == pytest.approx(sum(part["box"].item() for part in by_hand) / len(targets))


@each_batch
@pytest.mark.parametrize("beta", [1.0, 2.0])
def test_quality_focal_loss_learns_how_well_the_box_fits(targets, beta):
    output, assignment = outputs(len(targets)), assigned(targets)
    losses = QualityFocalLoss(beta=beta)(output, assignment, BoxCoder())
    large = (10_000, 10_000)

    def of_logit(logit, image, anchor, match):
        if match is None:
            return slow.quality_focal_loss(logit, 0.0, beta=beta)
        shift = torch.tensor([5000.0, 5000, 5000, 5000])  # cutting boxes to the input must not matter here
        found = slow.decoded((ANCHORS[anchor] + shift).tolist(), output.deltas[image, anchor].tolist(), large)
        fit = slow.iou(found, (assignment.boxes[image, match] + shift).tolist())
        return slow.quality_focal_loss(logit, fit, beta=beta)

    positives = max(1, (assignment.matches >= 0).sum().item())
    assert losses["cls"].item() == pytest.approx(sum(expected_losses(output, assignment, of_logit)) / positives, rel=1e-4)
    box = IoULoss()(output.deltas[assignment.matches >= 0], *pairs_of(assignment), BoxCoder()).sum()
    torch.testing.assert_close(losses["box"], 2 * box / positives)


def pairs_of(assignment):
    image, anchor, match = assignment.positives()
    return ANCHORS[anchor], assignment.boxes[image, match]


LOSSES = [FocalLoss(), FocalLoss(gamma=0.5, alpha=None, label_smoothing=0.1), FocalLoss(per_image=True), QualityFocalLoss()]
each_loss = pytest.mark.parametrize("loss", LOSSES, ids=["focal", "soft", "per image", "quality"])


@each_loss
def test_ignored_anchors_teach_nothing(loss):
    output, assignment = outputs(2), assigned([OBJECTS, CROWD])
    ignored = assignment.matches == IGNORED
    assert 0 < ignored.sum() < (assignment.matches < 0).sum()
    sum(loss(output, assignment, BoxCoder()).values()).backward()
    taught = output.logits.grad.abs().sum(2) > 0
    assert torch.equal(taught, ~ignored)
    assert torch.equal(output.deltas.grad.abs().sum(2) > 0, assignment.matches >= 0)


@each_loss
def test_pictures_without_objects_teach_background(loss):
    output, assignment = outputs(2), assigned([NOTHING, NOTHING])
    losses = loss(output, assignment, BoxCoder())
    sum(losses.values()).backward()
    assert losses["box"] == 0 and losses["cls"] > 0
    assert (output.logits.grad[output.logits > -1] > 0).all()  # label smoothing is content with -3
    assert output.deltas.grad is None or not output.deltas.grad.any()


@each_loss
def test_parts_of_a_batch_with_the_divisor_of_the_whole_add_up(loss):
    """Also a part of which no picture has an object."""
    targets = [OBJECTS, NOTHING, CROWD, OBJECTS, NOTHING]
    output, assignment = outputs(5), assigned(targets)
    divisor = loss.normalizer(assignment.matches)
    assert divisor == sum(loss.normalizer(assignment.matches[i : i + 1]) for i in range(5))
    whole = loss(output, assignment, BoxCoder())
    parts = []
    for part in (slice(0, 1), slice(1, 2), slice(2, 5)):
        piece = HeadOutput(output.logits[part], output.deltas[part], (), (80, 80))
        parts.append(loss(piece, assigned(targets[part]), BoxCoder(), normalizer=divisor))
    for name in ("cls", "box"):
        torch.testing.assert_close(sum(p[name] for p in parts), whole[name], rtol=1e-5, atol=0)


@each_loss
def test_class_losses_are_those_of_each_anchor(loss):
    output, assignment = outputs(2), assigned([OBJECTS, CROWD])
    each = loss.class_losses(output, assignment, BoxCoder())
    assert each.shape == assignment.matches.shape
    if getattr(loss, "per_image", False):
        each = each / (assignment.matches >= 0).sum(1, keepdim=True)
    divisor = loss.normalizer(assignment.matches)
    torch.testing.assert_close(each.sum() / divisor, loss(output, assignment, BoxCoder())["cls"])


@each_loss
def test_bfloat16_outputs_are_summed_in_float32(loss):
    output, assignment = outputs(1), assigned([OBJECTS])
    low = HeadOutput(output.logits.detach().bfloat16(), output.deltas.detach().bfloat16(), (), (80, 80))
    same = HeadOutput(low.logits.float(), low.deltas.float(), (), (80, 80))
    ours, expected = loss(low, assignment, BoxCoder()), loss(same, assignment, BoxCoder())
    assert ours["cls"].dtype == torch.float32
    assert ours == expected


@pytest.mark.parametrize(
    ("kind", "numbers"),
    [
        (FocalLoss, {"alpha": 0.0}),
        (FocalLoss, {"alpha": 1.5}),
        (FocalLoss, {"gamma": -1.0}),
        (FocalLoss, {"label_smoothing": 1.0}),
        (FocalLoss, {"box_weight": -1.0}),
        (QualityFocalLoss, {"beta": -1.0}),
    ],
)
def test_numbers_that_make_no_loss_are_refused(kind, numbers):
    with pytest.raises(ConfigError):
        kind(**numbers)
