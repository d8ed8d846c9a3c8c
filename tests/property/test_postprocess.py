"""Postprocess on any outputs, ties and extremes included: what the slow one gives, in every order of the batch."""

from dataclasses import fields

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import slow_references as slow
from onestage.model.anchors.coder import BoxCoder
from onestage.model.output.postprocess import Postprocess
from onestage.model.output.suppress import HardNMS
from onestage.structures import HeadOutput

ANCHORS = torch.tensor([[x, y, x + 16.0, y + 16.0] for y in range(0, 40, 8) for x in range(0, 40, 8)])
SIZE, LEVELS = (56, 56), (10, 12, 3)

# Few distinct logits make many equal scores; 30 is as sure as float32 can say. The IoU thresholds are odd numbers, because some
# boxes here overlap by 0.3 to seven digits, where the rounding of float32 would decide (and at 0 some boxes only touch).
rules = st.builds(
    Postprocess,
    score_threshold=st.sampled_from([0.0, 0.01, 0.3]),
    nms=st.builds(HardNMS, st.sampled_from([0.103, 0.307, 1.0])),
    top_k=st.integers(1, 30),
    scope=st.sampled_from(["class", "level", "image"]),
    class_agnostic=st.booleans(),
    detections=st.integers(1, 60),
)
seeds = st.integers(0, 2**31)


def outputs(seed, images, classes):
    generator = torch.Generator().manual_seed(seed)
    values = torch.tensor([-30.0, -2, 0, 1, 30])
    pick = torch.randint(0, len(values), (images, len(ANCHORS), classes + 1), generator=generator)
    deltas = torch.randint(-2, 3, (images, len(ANCHORS), 4), generator=generator) / 2
    return HeadOutput(values[pick], deltas, (), SIZE)


def run(postprocess, output):
    return postprocess(output, ANCHORS, BoxCoder(), activation="softmax", levels=LEVELS)


@given(rules, seeds, st.integers(1, 5))
@settings(max_examples=120, deadline=None)
def test_equals_the_slow_one(postprocess, seed, classes):
    output = outputs(seed, 2, classes)
    scores = output.logits.softmax(2)[:, :, 1:]

    def slow_nms(*candidates, least):
        return slow.nms(*candidates, postprocess.nms.iou_threshold)

    limits = {f.name: getattr(postprocess, f.name) for f in fields(postprocess)} | {"nms": slow_nms, "levels": LEVELS}
    for image, ours in enumerate(run(postprocess, output)):
        rows = slow.detections(scores[image].tolist(), output.deltas[image].tolist(), ANCHORS.tolist(), SIZE, **limits)
        assert ours.scores.tolist() == [score for score, *_ in rows]
        assert ours.labels.tolist() == [label for _, label, _, _ in rows]


@given(rules, seeds, st.integers(1, 4), st.randoms())
@settings(deadline=None)
def test_images_do_not_know_each_other(postprocess, seed, images, random):
    output = outputs(seed, images, 3)
    order = random.sample(range(images), images)
    whole = run(postprocess, output)
    mixed = run(postprocess, HeadOutput(output.logits[order], output.deltas[order], (), SIZE))
    for place, image in enumerate(order):
        assert all(torch.equal(a, b) for a, b in zip(mixed[place], whole[image], strict=True))


@given(rules, seeds)
@settings(deadline=None)
def test_what_is_found_keeps_the_laws(postprocess, seed):
    for found in run(postprocess, outputs(seed, 2, 3)):
        assert len(found.scores) <= postprocess.detections
        assert (found.scores > postprocess.score_threshold).all()
        assert (found.scores.diff() <= 0).all()
        assert (found.boxes >= 0).all() and (found.boxes <= 56).all()
        most = {"class": 3, "level": len(LEVELS), "image": 1}[postprocess.scope] * postprocess.top_k
        assert len(found.scores) <= most
