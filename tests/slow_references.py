"""What the project computes in batches, computed again the slow and obvious way: loops over plain Python numbers.

A box is a list of four numbers. IoU is rounded to float32, as the project's is, so that ties are ties on both sides.
"""

import math

import numpy as np


def area(box):
    return max(box[2] - box[0], 0) * max(box[3] - box[1], 0)


def overlap(a, b):
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    return max(width, 0) * max(height, 0)


def iou(a, b):
    union = area(a) + area(b) - overlap(a, b)
    return float(np.float32(overlap(a, b) / union)) if union > 0 else 0.0


def nms(boxes, scores, groups, threshold):
    """Indices of the survivors, best first; equal scores in the order of their index."""
    survivors = []
    for i in sorted(range(len(boxes)), key=lambda i: (-scores[i], i)):
        rivals = [j for j in survivors if groups[j] == groups[i]]
        if all(iou(boxes[i], boxes[j]) <= threshold for j in rivals):
            survivors.append(i)
    return survivors


def max_iou_matches(anchors, boxes, ignore, *, positive=0.5, negative=0.5, claim="best", ignore_cover=0.5):
    """Per anchor: index of its object, -1 background, -2 ignored. The rules are those of MaxIoUAssigner's docstring."""
    objects = [n for n in range(len(boxes)) if not ignore[n]]
    table = {(a, n): iou(anchors[a], boxes[n]) for a in range(len(anchors)) for n in objects}
    matches = []
    for a in range(len(anchors)):
        best = max(objects, key=lambda n: (table[a, n], -n), default=None)
        value = table[a, best] if best is not None else 0.0
        matches.append(best if value >= positive and value > 0 else -1 if value < negative else -2)
    if claim == "best":
        for n in objects:  # a later object takes the anchor from an earlier one
            a = max(range(len(anchors)), key=lambda a: (table[a, n], -a))
            if table[a, n] > 0:
                matches[a] = n
    if claim == "greedy":
        left = {pair: value for pair, value in table.items() if value > 0}
        while left:
            a, n = max(left, key=lambda pair: (left[pair], -pair[0], -pair[1]))
            matches[a] = n
            left = {pair: value for pair, value in left.items() if pair[0] != a and pair[1] != n}
    for a, anchor in enumerate(anchors):
        regions = [overlap(anchor, boxes[n]) / area(anchor) for n in range(len(boxes)) if ignore[n] and area(anchor) > 0]
        if matches[a] < 0 and max(regions, default=0) >= ignore_cover:
            matches[a] = -2
    return matches


def log_sum_exp(values):
    top = max(values)
    return top + math.log(sum(math.exp(v - top) for v in values))


def multibox_loss(logits, deltas, anchors, matches, boxes, labels, *, ratio=3.0, min_negatives=30):
    """Classification and box loss of a batch, each image a list; SSD's loss with a minimum of negatives for empty images."""
    cls = box = divisor = 0.0
    for image_logits, image_deltas, image_matches, image_boxes, image_labels in zip(
        logits, deltas, matches, boxes, labels, strict=True
    ):
        positives = [a for a, m in enumerate(image_matches) if m >= 0]
        for a in positives:
            m = image_matches[a]
            cls += log_sum_exp(image_logits[a]) - image_logits[a][1 + image_labels[m]]
            box += sum(smooth_l1(d - t) for d, t in zip(image_deltas[a], offsets(anchors[a], image_boxes[m]), strict=True))
        negatives = [log_sum_exp(image_logits[a]) - image_logits[a][0] for a, m in enumerate(image_matches) if m == -1]
        due = int(ratio * len(positives)) if positives else min_negatives
        cls += sum(sorted(negatives, reverse=True)[:due])
        divisor += len(positives) if positives else min_negatives / ratio
    return cls / max(divisor, 1), box / max(divisor, 1)


def smooth_l1(x):
    return 0.5 * x * x if abs(x) < 1 else abs(x) - 0.5


def offsets(anchor, box, *, eps=0.0):
    """SSD eq. (2) with variances 0.1 and 0.2; the d2l book adds 1e-6 inside the logarithm."""
    (ax, ay, aw, ah), (x, y, w, h) = ((*centre(b), b[2] - b[0], b[3] - b[1]) for b in (anchor, box))
    return [(x - ax) / aw / 0.1, (y - ay) / ah / 0.1, math.log(w / aw + eps) / 0.2, math.log(h / ah + eps) / 0.2]


def centre(box):
    return (box[0] + box[2]) / 2, (box[1] + box[3]) / 2


def decoded(anchor, delta, size):
    """The box that ``offsets`` came from, cut to the input of ``size`` (height, width)."""
    (ax, ay), aw, ah = centre(anchor), anchor[2] - anchor[0], anchor[3] - anchor[1]
    x, y = ax + 0.1 * delta[0] * aw, ay + 0.1 * delta[1] * ah
    w, h = aw * math.exp(min(0.2 * delta[2], math.log(62.5))), ah * math.exp(min(0.2 * delta[3], math.log(62.5)))
    corners = [x - w / 2, y - h / 2, x + w / 2, y + h / 2]
    return [min(max(c, 0.0), limit) for c, limit in zip(corners, (size[1], size[0], size[1], size[0]), strict=True)]


def detections(scores, deltas, anchors, size, *, score_threshold, iou_threshold, top_k, detections):
    """(score, label, anchor, box) of one image, best first: score all, top_k per class, decode, NMS per class, best few.

    scores: of every anchor and foreground class. Equal scores: the lower anchor first, then the lower class.
    """
    candidates = []
    for label in range(len(scores[0])):
        of_class = [(scores[a][label], label, a) for a in range(len(scores)) if scores[a][label] > score_threshold]
        candidates += sorted(of_class, key=lambda c: (-c[0], c[2]))[:top_k]
    candidates.sort(key=lambda c: (-c[0], c[2], c[1]))
    boxes = [decoded(anchors[a], deltas[a], size) for _, _, a in candidates]
    kept = nms(boxes, [c[0] for c in candidates], [c[1] for c in candidates], iou_threshold)
    return [(*candidates[i], boxes[i]) for i in kept[:detections]]
