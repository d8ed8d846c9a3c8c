"""What the project computes in batches, computed again the slow and obvious way: loops over plain Python numbers.

A box is a list of four numbers. IoU is rounded to float32, as the project's is, so that ties are ties on both sides.
"""

import math
import statistics

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


def giou(a, b):
    hull = area(around(a, b))
    return iou(a, b) - (hull - (area(a) + area(b) - overlap(a, b))) / hull


def diou(a, b):
    x1, y1, x2, y2 = around(a, b)
    (ax, ay), (bx, by) = centre(a), centre(b)
    return iou(a, b) - ((ax - bx) ** 2 + (ay - by) ** 2) / ((x2 - x1) ** 2 + (y2 - y1) ** 2)


def ciou(a, b):
    angles = [math.atan((box[2] - box[0]) / (box[3] - box[1])) for box in (a, b)]
    aspect = 4 / math.pi**2 * (angles[0] - angles[1]) ** 2
    return diou(a, b) - (aspect * aspect / (1 - iou(a, b) + aspect) if aspect > 0 else 0)


def around(a, b):
    """The smallest box that holds both."""
    return [min(a[0], b[0]), min(a[1], b[1]), max(a[2], b[2]), max(a[3], b[3])]


def nms(boxes, scores, groups, threshold, *, overlap=iou):
    """(index, score) of the survivors, best first; equal scores in the order of their index."""
    survivors = []
    for i in sorted(range(len(boxes)), key=lambda i: (-scores[i], i)):
        rivals = [j for j in survivors if groups[j] == groups[i]]
        if all(overlap(boxes[i], boxes[j]) <= threshold for j in rivals):
            survivors.append(i)
    return [(i, scores[i]) for i in survivors]


def soft_nms(boxes, scores, groups, decay, threshold):
    """(index, new score) of all that are taken, best first; equal ones in the order of their index.

    Soft-NMS, figure 2, for each group: take the best of those that are left, let the others decay. Of equal ones the one that
    began with more, then the lower index, is taken.
    """
    taken = []
    for group in set(groups):
        left = {i: scores[i] for i in range(len(boxes)) if groups[i] == group}
        while left:
            best = max(left, key=lambda i: (left[i], scores[i], -i))
            score = left.pop(best)
            if score > threshold:
                taken.append((best, score))
            left = {i: value * decay(iou(boxes[best], boxes[i])) for i, value in left.items()}
    return sorted(taken, key=lambda pair: (-pair[1], pair[0]))


def max_iou_matches(anchors, boxes, ignore, *, positive=0.5, negative=0.5, claim="best", ignore_cover=0.5):
    """Per anchor: index of its object, -1 background, -2 ignored. The rules are those of MaxIoUAssigner's docstring."""
    objects = [n for n in range(len(boxes)) if not ignore[n]]
    table = {(a, n): iou(anchors[a], boxes[n]) for a in range(len(anchors)) for n in objects}
    matches = []
    for a in range(len(anchors)):
        best = max(objects, key=lambda n: (table[a, n], -n), default=None)
        value = table[a, best] if best is not None else 0.0
        matches.append(best if value >= positive and value > 0 else -1 if value < negative else -2)
    if claim in ("best", "first"):
        for n in objects if claim == "best" else reversed(objects):  # the one that comes after takes the anchor
            a = max(range(len(anchors)), key=lambda a: (table[a, n], -a))
            if table[a, n] > 0:
                matches[a] = n
    if claim == "tied":
        for n in objects:
            top = max(table[a, n] for a in range(len(anchors)))
            for a in range(len(anchors)):
                if table[a, n] == top > 0:
                    matches[a] = max(objects, key=lambda m: (table[a, m], -m))
    if claim == "greedy":
        left = {pair: value for pair, value in table.items() if value > 0}
        while left:
            a, n = max(left, key=lambda pair: (left[pair], -pair[0], -pair[1]))
            matches[a] = n
            left = {pair: value for pair, value in left.items() if pair[0] != a and pair[1] != n}
    return without_ignored(matches, anchors, boxes, ignore, ignore_cover)


def atss_matches(anchors, levels, boxes, ignore, *, shapes, top_k, ignore_cover=0.5):
    """ATSS, algorithm 1, object by object. levels: anchors on each; shapes: of those how many stand at each cell."""
    wanted = [[] for _ in anchors]
    for n, box in enumerate(boxes):
        if ignore[n]:
            continue
        candidates, start = [], 0
        for count, of_cell in zip(levels, shapes, strict=True):
            cells = range(start, start + count, of_cell)
            nearest = sorted(cells, key=lambda a: math.dist(centre(anchors[a]), centre(box)))[:top_k]
            candidates += [cell + shape for cell in nearest for shape in range(of_cell)]
            start += count
        overlaps = [iou(anchors[a], box) for a in candidates]
        spread = statistics.stdev(overlaps) if len(overlaps) > 1 else 0.0
        least = statistics.mean(overlaps) + spread
        for a, value in zip(candidates, overlaps, strict=True):
            x, y = centre(anchors[a])
            if value >= least and box[0] < x < box[2] and box[1] < y < box[3]:
                wanted[a].append((value, -n))
    matches = [-max(by)[1] if by else -1 for by in wanted]
    return without_ignored(matches, anchors, boxes, ignore, ignore_cover)


def without_ignored(matches, anchors, boxes, ignore, least):
    """-2 for anchors that learn nothing and lie by ``least`` or more of themselves in one box that is to be ignored."""
    found = list(matches)
    for a, anchor in enumerate(anchors):
        regions = [overlap(anchor, boxes[n]) / area(anchor) for n in range(len(boxes)) if ignore[n] and area(anchor) > 0]
        if matches[a] < 0 and max(regions, default=0) >= least:
            found[a] = -2
    return found


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


def focal_loss(logit, target, *, alpha=0.25, gamma=2.0):
    """RetinaNet, eq. 5; a target between 0 and 1 weighs p_t, alpha_t and cross-entropy of the two cases. alpha None: eq. 4."""
    p = 1 / (1 + math.exp(-logit))
    wrong = (1 - p) * target + p * (1 - target)
    weight = 1.0 if alpha is None else alpha * target + (1 - alpha) * (1 - target)
    return weight * wrong**gamma * cross_entropy(logit, target)


def quality_focal_loss(logit, target, *, beta=2.0):
    """Generalized Focal Loss, eq. 2."""
    return abs(target - 1 / (1 + math.exp(-logit))) ** beta * cross_entropy(logit, target)


def cross_entropy(logit, target):
    """Binary, of a sigmoid."""
    return target * log_sum_exp([0, -logit]) + (1 - target) * log_sum_exp([0, logit])


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


def detections(
    scores, deltas, anchors, size, *, score_threshold, top_k, detections, nms, levels=(), scope="class", class_agnostic=False
):
    """(score, label, anchor, box) of one image, best first: score all, top_k of each scope, decode, NMS, best few.

    scores: of every anchor and foreground class. nms(boxes, scores, groups, least) -> (index, score). levels: anchors on each.
    Equal scores: the lower anchor first, then the lower class.
    """
    level = [n for n, count in enumerate(levels) for _ in range(count)]
    candidates = [(s, k, a) for a, row in enumerate(scores) for k, s in enumerate(row) if s > score_threshold]
    candidates.sort(key=lambda c: (-c[0], c[2], c[1]))
    of_scope = {}
    for candidate in candidates:
        key = {"class": candidate[1], "level": level[candidate[2]] if levels else 0, "image": 0}[scope]
        of_scope.setdefault(key, []).append(candidate)
    candidates = sorted((c for group in of_scope.values() for c in group[:top_k]), key=lambda c: (-c[0], c[2], c[1]))
    boxes = [decoded(anchors[a], deltas[a], size) for _, _, a in candidates]
    groups = [0 if class_agnostic else c[1] for c in candidates]
    kept = nms(boxes, [c[0] for c in candidates], groups, least=score_threshold)
    return [(score, *candidates[i][1:], boxes[i]) for i, score in kept[:detections]]


def best_iou(anchors, box):
    """The largest IoU of a box with any anchor."""
    return max(iou(anchor, box) for anchor in anchors)
