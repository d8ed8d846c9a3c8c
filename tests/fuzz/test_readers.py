"""Readers of annotations, predictions and plans: damaged files are read as a slow, plain reader reads them, or refused.

The references below are written from the documented policies, one value after another, without the readers' code.
"""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections import Counter
from contextlib import suppress
from copy import deepcopy
from pathlib import Path
from random import Random
from xml.etree import ElementTree

import pytest
import torch
import yaml

import trees
from fuzz.harness import SECONDS, fuzz, mutated
from onestage.data import load_dataset, read_detections
from onestage.data.csv_header import ROLES
from onestage.data.dataset import Dataset
from onestage.data.predictions import FORMATS, Format, PredictionWriter
from onestage.errors import ConfigError, DataError
from onestage.model.codec import encode
from onestage.model.config import DetectorConfig
from onestage.structures import Detections
from onestage.training.config import TrainConfig
from onestage.training.folder import Plan
from onestage.zoo import recipe

HEIGHT, WIDTH = trees.SIZE
NUMBERS = (b"-1", b"0", b"0.0", b"1e999", b"1e30", b"-1e400", b"9223372036854775808", b"9" * 4300, b"9" * 4301, b"NaN", b"nan")
NUMBERS += (b"inf", b"1_0", b"0x10", b"0,5", b".5", b"5.", b"1e-320", "٣".encode(), b"2.5", b"3.0", b"60", b"40")
TEXTS = (
    b"null",
    b"true",
    b"[]",
    b"{}",
    b'""',
    b'"0"',
    b'"1"',
    b"''",
    b"'",
    b'"',
    b"\\",
    b"\r",
    b"\n",
    b"\r\n",
    b"\t",
    b" ",
    b";",
    b",",
    b"..",
)
TEXTS += (
    b"\0",
    b"\xff",
    b"\xe2\x80\xa8",
    b"\xef\xbb\xbf",
    b"\\ud800",
    b"\\u0000",
    b"x" * 300,
    b"x" * 200_000,
    b"a.png",
    b"../a.png",
    b"/a.png",
)
CODE = (
    b"&a ",
    b"*a",
    b"!!int ",
    b"<x>",
    b"</object>",
    b"<!--",
    b"-->",
    b"<![CDATA[",
    b"&lt;",
    b"<!DOCTYPE a>",
    b"&#0;",
    b"%YAML 9.9\n",
    b": ",
    b"- ",
)
CODE += (
    b"? ",
    b"{",
    b"}",
    b"[",
    b"]",
    b"[" * 3000,
    b"names:: x\n",
    b"kpt_shape: [2, 3]\n",
    b"nc: 2\n",
    b"|\n",
    b"---\n",
    b'"\\UFFFFFFFF"',
)
KEYS = (
    b'"iscrowd": null,',
    b'"width": -1,',
    b'"segmentation": null,',
    b'"area": 1,',
    b'"ignore": "1",',
    b"dog",
    b"cat",
    b"18",
    b"100",
)
TOKENS = NUMBERS + TEXTS + CODE + KEYS

Box = tuple[float, ...]
Object = tuple[str, str, Box, bool]
"""Stem of the picture, class, xyxy box, whether it is ignored or a crowd."""


def objects_of(data: Dataset) -> list[Object]:
    """As the references give them."""
    found = []
    for index, path in enumerate(data.paths):
        truth = data.truth(index)
        columns = truth.boxes.tolist(), truth.labels.tolist(), (truth.ignore | truth.crowd).tolist()
        found += [(Path(path).stem, data.classes[label], tuple(box), flag) for box, label, flag in zip(*columns, strict=True)]
    return found


def agree(found: list[Object], expected: list[Object]) -> None:
    """The same objects, picture by picture; boxes to a float32."""

    def key(item: Object) -> tuple[str, str, Box]:
        return item[0], item[1], tuple(round(value, 3) for value in item[2])

    assert len(found) == len(expected), f"{found} is not {expected}"
    for ours, theirs in zip(sorted(found, key=key), sorted(expected, key=key), strict=True):
        assert ours[:2] == theirs[:2] and ours[3] == theirs[3] and ours[2] == pytest.approx(theirs[2], abs=2e-3), (ours, theirs)


def cut(box: Box) -> Box | None:
    """A good box cut to its picture, None for a bad one: the policy of data/table.py."""
    x1, y1, x2, y2 = box
    if not all(map(math.isfinite, box)) or x2 <= x1 or y2 <= y1 or min(x1, y1) < -2 or x2 > WIDTH + 2 or y2 > HEIGHT + 2:
        return None
    limits = (WIDTH, HEIGHT, WIDTH, HEIGHT)
    x1, y1, x2, y2 = (float(torch.tensor(min(max(value, 0.0), limit))) for value, limit in zip(box, limits, strict=True))
    return (x1, y1, x2, y2) if x1 < x2 and y1 < y2 else None


def number(text: str) -> float:
    """A number in ASCII, without underscores; ValueError for anything else."""
    if not re.fullmatch(
        r"\s*[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?\s*|\s*[-+]?(nan|inf(inity)?)\s*", text, re.A | re.I
    ):
        raise ValueError(text)
    return float(text)


def picture_of(name: str, folders: list[Path]) -> str | None:
    """The stem of the picture that has a name, with or without suffix. None if there is no such picture.

    Raise DataError for a name that comes close to one: tests of pairing say what it means.
    """
    pictures = {path.name: path.stem for path in folders[0].iterdir()}
    known = pictures | {stem: stem for stem in pictures.values()}
    if name in known:
        return known[name]
    last = re.split(r"[/\\]", name.strip())[-1].strip().casefold()
    if last in known or last.rpartition(".")[0] in known:
        raise DataError("a name that the reference does not follow", got=name[:40])
    return None


# COCO


def whole(value: object) -> int | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if isinstance(value, float):
        return int(value) if abs(value) <= 2**53 and value == int(value) else None
    return value if abs(value) < 2**63 else None


YES, NO = r"(\+?0*1(\.0*)?)|true|t|yes|y", r"[-+]?0+(\.0*)?|-0*1(\.0*)?|false|f|no|n|unspecified|na|n/a|<na>|nan|none|null|"
SAID = re.compile("(?!(unspecified|na|n/a|<na>|nan|none|null|)$)", re.I)


def are_flags(words: list[str]) -> bool:
    """Whether these words, of all rows in a field, flag objects, although some may be odd."""
    words = [word for word in words if SAID.match(word)]
    odd = [word for word in words if not re.fullmatch(f"{YES}|{NO}", word, re.I)]
    numbers = 0
    for word in odd:
        with suppress(ValueError):
            number(word)
            numbers += 1
    return not odd or (len(odd) < len(words) and 10 * numbers < len(words))


def known_difficulty(entry: object) -> bool:
    return isinstance(entry, dict) and entry.get("difficult") is not None


def coco_reference(text: str, root: Path) -> list[Object]:
    content = json.loads(text)
    names = {}
    for entry in content["categories"]:
        stored = entry["id"]
        names[int(stored) if isinstance(stored, str) else whole(stored)] = entry["name"]
    images: dict[object, str | None] = {}
    for entry in content["images"]:
        stored = entry.get("id") if isinstance(entry, dict) else None
        stored = stored if isinstance(stored, str) else whole(stored)
        if stored is None or stored in images:
            continue
        sides = [entry.get("width"), entry.get("height")]
        unknown = [side is None or side == "" or (side is not False and side in (0, -1)) for side in sides]
        sizes = [not none and (whole(side) or 0) in range(1, 10**6 + 1) for side, none in zip(sides, unknown, strict=True)]
        fits = all(a or b for a, b in zip(unknown, sizes, strict=True)) and isinstance(entry.get("file_name"), str)
        images[stored] = picture_of(entry["file_name"], [root / "train2017", root]) if fits else None
        if list(images.values()).count(images[stored]) > 1:  # listed under an id before
            images[stored] = None
        if images[stored] and all(sizes) and [whole(side) for side in sides] != [WIDTH, HEIGHT]:
            raise DataError("a size that the reference does not follow")
    found, seen = [], set()
    words = [str(entry["difficult"]).strip() for entry in content["annotations"] if known_difficulty(entry)]
    understood = are_flags(words)
    for entry in content["annotations"]:
        if not isinstance(entry, dict):
            continue
        stored = entry.get("id")
        stored = stored if isinstance(stored, str) else whole(stored)
        if stored is not None and stored in seen:
            continue
        seen |= {stored} - {None}
        image, category = (
            entry.get(key) if isinstance(entry.get(key), str) else whole(entry.get(key)) for key in ("image_id", "category_id")
        )
        if isinstance(image, str) and image not in images:
            image = next((known for known in images if isinstance(known, int) and str(known) == image), None)
        elif image not in images:
            texts = [known for known in images if isinstance(known, str) and known.isdigit() and len(known) <= 18]
            same = [known for known in texts if int(known) == image]
            image = same[0] if len(same) == 1 else None
        box = entry.get("bbox")
        flags = [entry.get(key) for key in ("ignore", "iscrowd")]
        good = isinstance(box, list) and len(box) == 4 and all(type(value) in (int, float) for value in box)
        if (
            images.get(image) is None
            or category is None
            or not good
            or any(flag not in (None, 0, 1, "0", "1") for flag in flags)
        ):
            continue
        if isinstance(category, str):
            category = int(category) if str(category) in map(str, names) else None
        left, top, width, height = (max(-1e15, min(value, 1e15)) for value in box)
        corners = cut((left, top, left + width, top + height))
        if category in names and corners:
            word = str(entry["difficult"]).strip() if understood and known_difficulty(entry) else ""
            hard = re.fullmatch(YES, word, re.I)
            if not hard and not re.fullmatch(NO, word, re.I):
                continue
            found.append((images[image], names[category], corners, any(flag in (1, "1") for flag in flags) or bool(hard)))
    return found


ODD: list[object] = [
    None,
    True,
    False,
    -1,
    -1.0,
    0,
    1,
    2.0,
    1.5,
    60,
    2**63,
    2**63 - 1,
    10**400,
    1e30,
    -1e300,
    1e400,
    [],
    [1],
    {},
    [[]],
]
ODD += [
    "",
    "0",
    "1",
    "3",
    "18",
    "100",
    "0100",
    "-1",
    "3.0",
    "9" * 5000,
    "x" * 300,
    "\ud800",
    "a\0",
    "a.png",
    "a",
    "./a.png",
    "../a.png",
    "/a.png",
]
ODD += [
    [0, 0, 60, 40],
    [-2, -2, 62, 42],
    [-3, 0, 9, 9],
    [1, 1, 0, 5],
    [1, 1, 1e-30, 5],
    [1, 2, 3],
    ["1", 2, 3, 4],
    [1, 2, 3, 1e999],
]


def odd_coco(random: Random, text: bytes) -> bytes:
    """The file with one to three values that are replaced or left out."""
    content = json.loads(text)
    for _ in range(random.randint(1, 3)):
        entries = content[random.choice(("images", "annotations", "annotations", "categories"))]
        entry = random.choice(entries) if entries else {}
        key = random.choice([*entry, "ignore", "difficult", "segmentation", "area"])
        entry[key] = random.choice([*ODD, *(other.get(key) for other in entries)])
        if random.random() < 0.1:
            del entry[key]
        if random.random() < 0.05:
            entries.append(random.choice([*ODD, dict(entry)]))
            entries[:] = [item for item in entries if isinstance(item, dict)] or [entry]
    return json.dumps(content).replace("Infinity", "1e999").encode()


def test_coco(tmp_path: Path) -> None:
    root = trees.coco(tmp_path)
    file = root / "annotations/instances_train2017.json"
    good = file.read_bytes()
    agree(objects_of(load_dataset(root)), coco_reference(good.decode(), root))

    def attempt(random: Random) -> str:
        file.write_bytes(mutated(random, good, tokens=TOKENS) if random.random() < 0.4 else odd_coco(random, good))
        data = load_dataset(file, on_bad="skip")
        agree(objects_of(data), coco_reference(file.read_text(encoding="utf-8-sig"), root))
        return "with problems" if data.problems else "whole"

    fuzz("COCO", attempt)


# Pascal VOC


def voc_reference(files: dict[str, bytes]) -> list[Object]:
    found = []
    for stem, content in files.items():
        try:
            root = ElementTree.fromstring(content)
        except (ElementTree.ParseError, ValueError, LookupError):
            continue
        sides = [(root.findtext(f"size/{key}") or "0").strip() or "0" for key in ("width", "height")]
        try:
            stated = [number(side) for side in sides]
        except ValueError:
            continue
        if (
            b"<!DOCTYPE" in content
            or root.tag != "annotation"
            or not all(side == -1 or whole(side) in range(10**6 + 1) for side in stated)
        ):
            continue
        if min(stated) > 0 and stated != [WIDTH, HEIGHT]:
            raise DataError("a size that the reference does not follow")
        fields = [
            "name",
            "difficult",
            "deleted",
            "bndbox",
            *(f"bndbox/{corner}" for corner in ("xmin", "ymin", "xmax", "ymax")),
        ]
        for entry in root.findall("object"):
            if any(len(entry.findall(field)) > 1 for field in fields):
                continue
            name, difficult = (entry.findtext("name") or "").strip(), (entry.findtext("difficult") or "0").strip()
            try:
                box = cut(tuple(number(entry.findtext(corner) or "") for corner in fields[4:]))
            except ValueError:
                continue
            yes, no = re.fullmatch(YES, difficult, re.I), re.fullmatch(NO, difficult, re.I)
            there = re.fullmatch(NO, (entry.findtext("deleted") or "0").strip(), re.I)
            if name and (yes or no) and box and there:
                found.append((stem, name, box, bool(yes)))
    return found


def test_voc(tmp_path: Path) -> None:
    root = trees.voc(tmp_path)
    good = {stem: (root / f"Annotations/{stem}.xml").read_bytes() for stem in trees.TRUTH}
    good["a"] = good["a"].replace(b"</name>", b"</name><difficult>1</difficult><deleted>0</deleted>", 1)
    agree(voc_reference(good), [("a", "cat", (2, 3, 30, 20), True), *objects_of(load_dataset(root))[1:]])

    def attempt(random: Random) -> str:
        content = good["a"]
        if random.random() < 0.7:
            texts = list(re.finditer(rb">([^<]*)<", content))
            for _ in range(random.randint(1, 3)):
                start, stop = random.choice(texts).span(1)
                value = random.choice((*NUMBERS, b"", b" 5 ", b"cat", b"&lt;", b"&#233;", b"x" * 300))
                content = content[:start] + value + content[stop:]
                texts = list(re.finditer(rb">([^<]*)<", content))
        else:
            content = mutated(random, content, tokens=TOKENS)
        (root / "Annotations/a.xml").write_bytes(content)
        data = load_dataset(root, on_bad="skip", classes=None)
        agree(objects_of(data), voc_reference(good | {"a": content}))
        return "with problems" if data.problems else "whole"

    fuzz("VOC", attempt)


# YOLO


def yolo_line(text: str) -> tuple[int, list[float]] | None:
    """Class and numbers of a line, None if it is bad however it is read."""
    cells = text.split()
    try:
        if not re.fullmatch(r"[-+]?[0-9]{1,18}(\.0*)?", cells[0]):
            return None
        numbers = [number(cell) for cell in cells[1:]]
    except ValueError:
        return None
    if len(numbers) < 4 or (len(numbers) > 4 and not all(map(math.isfinite, numbers))):
        return None
    return int(cells[0].split(".")[0]), numbers


def in_box(box: list[float], points: list[list[float]]) -> bool:
    x, y, w, h = box
    return all(abs(px - x) <= w / 2 + 0.02 and abs(py - y) <= h / 2 + 0.02 for px, py in points)


def can_be_points(numbers: list[float]) -> bool:
    box, rest = numbers[:4], numbers[4:]
    triples = [rest[i : i + 3] for i in range(0, len(rest), 3)]
    threes = len(rest) % 3 == 0 and all(triple[2] in (0, 1, 2) for triple in triples)
    if len(rest) % 2:
        return threes
    pairs = [rest[i : i + 2] for i in range(0, len(rest), 2)]
    x, y, w, h = box
    if w <= 0 or h <= 0 or not in_box([0.5, 0.5, 1 - w, 1 - h], [[x, y]]):
        return False
    return in_box(box, [pair for pair in pairs if pair != [0, 0]]) or (threes and in_box(box, [t[:2] for t in triples if t[2]]))


def quadrangle(numbers: list[float]) -> int:
    """2 for the corners of a parallelogram, 1 for those of another convex shape."""
    if len(numbers) != 8:
        return 0
    a, b, c, d = (complex(*numbers[i : i + 2]) for i in (0, 2, 4, 6))
    turns = [((q - p).conjugate() * (r - q)).imag for p, q, r in ((a, b, c), (b, c, d), (c, d, a), (d, a, b))]
    if not (all(turn > 0 for turn in turns) or all(turn < 0 for turn in turns)):
        return 0
    return 2 if abs(a - b + c - d) <= 0.01 * max(abs(c - a), abs(d - b)) else 1


def track_of(numbers: list[float]) -> float | None:
    """The number of the track that a line can end in, which has these numbers after the class; None if it cannot."""
    x, y, w, h, *rest = numbers
    if len(rest) < 2:
        return None
    score, track = rest[:2] if len(numbers) == 7 else rest[-2:]
    if not 0 <= score <= 1 or track < -1 or track != math.floor(track) or score == track == 0:
        return None
    if len(numbers) == 7:
        return None if in_box([x, y, w, h], [[score, track]]) else track
    if len(numbers) > 7:
        paired = len(numbers) % 2 == 0 and not can_be_points(numbers) and quadrangle(numbers) != 2
        return track if paired and y != track else None
    at_an_edge = {x, y} & {0, 1} or (w == 1 and x != 0.5) or (h == 1 and y != 0.5)
    return None if at_an_edge or min(w, h) <= 0 or max(x, y, w, h) > 1.5 else track


def tracked(long: list[list[float]]) -> bool:
    """Whether most lines end in a score and the number of a track. Each has its numbers after the class."""

    def mostly(lines: list[list[float]]) -> list[float]:
        found = [track for numbers in lines if (track := track_of(numbers)) is not None]
        return found if 2 * len(found) > len(lines) else []

    boxes, points = (mostly([numbers for numbers in long if len(numbers) == length]) for length in (6, 7))
    if points or len(boxes) >= 10 or (boxes and all(len(numbers) <= 6 for numbers in long)):
        return True
    outlines = [numbers for numbers in long if len(numbers) > 6 and len(numbers) % 2 == 0]
    clear = [numbers for numbers in outlines if not can_be_points(numbers) and quadrangle(numbers) != 2]
    tracks = mostly(outlines)
    return any(track not in (0, 1) for track in tracks) or (
        len(tracks) >= 10 and all(track_of(numbers) is not None for numbers in clear)
    )


def yolo_reference(files: dict[str, str], stated: int | None) -> list[Object] | None:
    """None if the lines contradict each other. stated: the columns of lines with key points."""
    lines = [
        (stem, line)
        for stem, text in files.items()
        for row in re.split("\r\n|\r|\n", text)
        if (line := row and row.strip() and not row.strip().startswith("#") and yolo_line(row))
    ]
    if stated is None and tracked([numbers for _, (_, numbers) in lines if len(numbers) > 4]):
        return None
    long = [numbers for _, (_, numbers) in lines if len(numbers) > 4]
    usable = [numbers for numbers in long if can_be_points(numbers) or (len(numbers) >= 6 and len(numbers) % 2 == 0)]
    fitting = [numbers for numbers in usable if can_be_points(numbers)]
    shapes = [quadrangle(numbers) for numbers in usable]
    columns = stated
    if stated is None and fitting and not (min(shapes) == 2 or (min(shapes) == 1 and len(fitting) < len(usable))):
        length, count = Counter(map(len, fitting)).most_common(1)[0]
        same = [numbers for numbers in usable if len(numbers) == length]
        if len(same) == len(usable) or 2 * count >= len(usable):
            if count < len(same):
                return None
            columns = length + 1
    found = []
    for stem, (label, numbers) in lines:
        box = numbers[:4]
        if len(numbers) > 4 and columns is None and len(numbers) >= 6 and len(numbers) % 2 == 0:
            xs, ys = numbers[0::2], numbers[1::2]
            box = [(min(xs) + max(xs)) / 2, (min(ys) + max(ys)) / 2, max(xs) - min(xs), max(ys) - min(ys)]
            if max(xs + ys) > 1.5:
                continue
        elif (len(numbers) > 4 and columns != len(numbers) + 1) or max(box) > 1.5:
            continue
        x, y, w, h = box
        corners = cut(((x - w / 2) * WIDTH, (y - h / 2) * HEIGHT, (x + w / 2) * WIDTH, (y + h / 2) * HEIGHT))
        if corners and label in (0, 1):
            found.append((stem, trees.NAMES[label], corners, False))
    return found


def some_line(random: Random) -> str:
    """A box, key points, an outline or an oriented box, all of them possible."""
    x, y, w, h = (random.uniform(0.3, 0.6), random.uniform(0.3, 0.6), random.uniform(0.05, 0.6), random.uniform(0.05, 0.6))
    points = [
        (random.uniform(x - w / 2, x + w / 2), random.uniform(y - h / 2, y + h / 2)) for _ in range(random.choice((1, 3, 4, 5)))
    ]
    track = random.choice((0, 1, 1, 1, 2, 7, 7.5))
    numbers = [
        [x, y, w, h],
        [x, y, w, h, random.random(), track],
        [x, y, w, h, random.random(), track, random.choice((0, 1, 2))],
        [x, y, w, h, *(value for point in points for value in point)],
        [x, y, w, h, *(value for point in points for value in (*point, random.choice((0, 1, 2))))],
        [value for point in [*points, (x, y), (x, y + h / 3)] for value in point],
        [x, y, x + w / 3, y + h / 3, x + w / 2, y + h / 9, x + w / 6, y - 2 * h / 9],
    ]
    return " ".join([random.choice(("0", "1", "1.0", "0.")), *(f"{value:.6g}" for value in random.choice(numbers))])


def test_yolo_lines(tmp_path: Path) -> None:
    root = trees.yolo(tmp_path)
    (root / "images/train/b.png").unlink()

    def attempt(random: Random) -> str:
        kind = some_line(random)
        lines = [kind if random.random() < 0.7 else some_line(random) for _ in range(random.choice((1, 2, 3, 4, 5, 15)))]
        content = "\n".join(lines).encode()
        if random.random() < 0.6:
            content = mutated(random, content, tokens=TOKENS)
        (root / "labels/train/a.txt").write_bytes(content)
        stated = random.choice((None, None, (3, 2), (4, 3)))
        shape = f"kpt_shape: [{stated[0]}, {stated[1]}]\n" if stated else ""
        trees.write(root / "data.yaml", f"train: images/train\nnames: [cat, dog]\n{shape}")
        try:
            files = {"a": content.decode("utf-8-sig"), "c": (root / "labels/train/c.txt").read_text()}
        except UnicodeDecodeError:
            files = {"c": (root / "labels/train/c.txt").read_text()}
        expected = yolo_reference(files, 5 + stated[0] * stated[1] if stated else None)
        try:
            data = load_dataset(root / "data.yaml", on_bad="skip")
        except DataError as error:
            assert expected is None, error
            return "contradictory"
        assert expected is not None, f"read as {objects_of(data)}"
        agree(objects_of(data), expected)
        return "with problems" if data.problems else "whole"

    fuzz("YOLO lines", attempt)


def test_data_yaml(tmp_path: Path) -> None:
    root = trees.yolo(tmp_path)
    good = (root / "data.yaml").read_bytes() + b"kpt_shape: [17, 3]\ntest: \n# the end\n"

    def attempt(random: Random) -> str:
        (root / "data.yaml").write_bytes(mutated(random, good, tokens=TOKENS))
        data = load_dataset(root / "data.yaml", on_bad="skip")
        content = yaml.load((root / "data.yaml").read_text(encoding="utf-8-sig"), Loader=yaml.BaseLoader)
        names = content["names"]
        expected = [names[str(i)] for i in range(len(names))] if isinstance(names, dict) else list(names)
        assert list(data.classes) == expected and content.get("nc", str(len(expected))) == str(len(expected))
        boxes = [(label, box) for _, label, box, _ in objects_of(data)]
        truth = [
            (expected[trees.NAMES.index(name)], box)
            for objects in trees.TRUTH.values()
            for name, box in objects
            if trees.NAMES.index(name) < len(expected)
        ]
        assert [label for label, _ in boxes] == [label for label, _ in truth]
        return "names in a mapping" if isinstance(names, dict) else "names in a list"

    fuzz("data.yaml", attempt)


# CSV and predictions


def csv_reference(text: str, folders: list[Path]) -> list[Object] | None:
    """None if there is no way to tell what is what."""
    first = next(line for line in re.split("\r\n|\r|\n", text) if line.strip())
    for separator in ",;\t":
        header = next(csv.reader([first], delimiter=separator))
        clean = [re.sub("[ _-]", "", cell.strip().lower()) for cell in header]
        columns = [[i for i, cell in enumerate(clean) if cell in names.split()] for names in ROLES.values()]
        if all(len(places) == 1 for places in columns):
            return csv_rows(text, separator, [places[0] for places in columns], folders, headed=header)
        bare = len(header) == 6 and Path(header[0]).suffix.lower() in (".png", ".jpg", ".gif", ".bmp")
        if bare and (not any(header[1:]) or all(re.fullmatch(r"\s*-*\d*\.?\d*\s*", cell) for cell in header[1:5])):
            return csv_rows(text, separator, [0, 5, 1, 2, 3, 4], folders, headed=[])
    return None


def csv_rows(text: str, separator: str, columns: list[int], folders: list[Path], *, headed: list[str]) -> list[Object] | None:
    """headed: the header; empty if there is none."""
    rows = []
    try:
        for row in csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True):
            rows += [row] if any(cell.strip() for cell in row) else []
    except csv.Error:
        pass  # what stood before it counts
    boxes, labels = [], set()
    width = len(headed) or 6
    rows = [row for row in rows[bool(headed) :] if len(row) > max(columns) and not any(cell.strip() for cell in row[width:])]
    words = {column: [cell.strip() for row in rows for cell in row[column : column + 1]] for column in flag_columns(headed)}
    flags = [column for column, said in words.items() if are_flags(said)]
    for row in rows:
        image, label, *corners = (row[column].strip() for column in columns)
        try:
            box = [number(corner) for corner in corners] if any(corners) else None
        except ValueError:
            continue
        stem = picture_of(image, folders)
        said = [cell.strip() for column in flags for cell in row[column : column + 1]]
        hard = any(re.fullmatch(YES, word, re.I) for word in said)
        good = image and label and box and all(re.fullmatch(f"{YES}|{NO}", word, re.I) for word in said)
        labels |= {label} if good else set()
        if good and stem:
            boxes.append((stem, label, box, hard))
    if all(re.fullmatch(r"\+?[0-9]{1,18}(\.0*)?|-0+(\.0*)?", label) for label in labels):  # 1, 1.0 and 01 are one class
        boxes = [(stem, str(int(label.split(".")[0])), *rest) for stem, label, *rest in boxes]
    parts = [all(0 <= v <= 1 for v in box) and any(v != int(v) for v in box) for _, _, box, _ in boxes]
    pixels = [any(v > 1.5 for v in box) for _, _, box, _ in boxes]
    if any(parts) and any(pixels):
        return None
    scale = (WIDTH, HEIGHT, WIDTH, HEIGHT) if any(parts) else (1, 1, 1, 1)
    return [
        (stem, label, whole_box, hard)
        for stem, label, box, hard in boxes
        if (whole_box := cut(tuple(v * s for v, s in zip(box, scale, strict=True))))
    ]


def flag_columns(header: list[str]) -> list[int]:
    known = ["ignore", "ignored", "difficult", "isdifficult", "iscrowd", "crowd", "isgroupof", "groupof"]
    return [i for i, cell in enumerate(header) if re.sub("[ _-]", "", cell.strip().lower()) in known]


def with_flags(random: Random, text: bytes) -> bytes:
    """The file with a column of flags, of which some may be odd."""
    words = random.choices((b"0", b"1", b"no", b"Yes", b"", b"NaN", b"2", b"hard"), (9, 9, 9, 9, 9, 3, 1, 1), k=99)
    header, *lines = text.split()
    rows = [words.pop() + b"," + line for line in lines]
    return b"\n".join([random.choice((b"difficult,", b"is_crowd,")) + header, *rows]) + b"\n"


def odd_csv(random: Random, text: bytes) -> bytes:
    """The file with one to three cells that are replaced."""
    cells = re.split(rb"([,\n])", text)
    for _ in range(random.randint(1, 3)):
        cells[random.randrange(12, len(cells))] = random.choice(TOKENS)
    return b"".join(cells)


@pytest.mark.parametrize("relative", [False, True])
def test_csv(relative: bool, tmp_path: Path) -> None:
    root = trees.csv(tmp_path)
    good = trees.csv_text(relative).encode()

    def attempt(random: Random) -> str:
        text = with_flags(random, good) if random.random() < 0.5 else good
        (root / "label.csv").write_bytes(
            mutated(random, text, tokens=TOKENS) if random.random() < 0.4 else odd_csv(random, text)
        )
        data = load_dataset(root / "label.csv", on_bad="skip")
        expected = csv_reference((root / "label.csv").read_bytes().decode("utf-8-sig"), [root / "images", root])
        assert expected is not None
        agree(objects_of(data), expected)
        return "with problems" if data.problems else "whole"

    fuzz(f"CSV in {'parts' if relative else 'pixels'}", attempt, seconds=SECONDS / 2)


def some_detections(random: Random) -> Detections:
    words = ["cat", "a,b", 'say "no"', "a\nb", "a\rb", "\r\n", " x ", "", "=1", "é", "\u2028", "\0", "\udce9", "\\", "'"]
    names = tuple("".join(random.choices(words, k=random.randint(1, 3))) for _ in range(random.randint(0, 4)))
    corners = [[random.uniform(0, 20), random.uniform(0, 20), random.uniform(21, 60), random.uniform(21, 40)] for _ in names]
    return Detections(
        boxes=torch.tensor(corners).reshape(-1, 4),
        scores=torch.rand(len(names), generator=torch.Generator().manual_seed(random.randrange(2**31))),
        labels=torch.arange(len(names)),
        class_names=names,
        category_ids=tuple(random.randrange(2**40) for _ in names),
        size=trees.SIZE,
        image_id=random.choice([7, 2**62, "a", "a,\n\r\udce9"]),
        path=random.choice(["", "a.png", "b,\r\n.png", 'c".png', "\udce9.png"]),
    )


@pytest.mark.parametrize("format", FORMATS)
def test_predictions_come_back(format: str, tmp_path: Path) -> None:
    file = tmp_path / FORMATS[format].file_name

    def attempt(random: Random) -> str:
        pictures = [some_detections(random) for _ in range(random.randint(0, 3))]
        with PredictionWriter(file, format) as writer:
            for found in pictures:
                writer.add(found)
        text = file.read_bytes().decode("utf-8", "surrogateescape")
        if format == "csv":
            rows = list(csv.reader(io.StringIO(text, newline=""), strict=True))[1:]
            read = [(row[0], row[1], [float(v) for v in row[2:6]], float(row[6]), int(row[7])) for row in rows]
        elif format == "coco":
            entries = [(entry, entry["bbox"]) for entry in json.loads(text)]
            read = [(e["image_id"], None, [x, y, x + w, y + h], e["score"], e["category_id"]) for e, (x, y, w, h) in entries]
        else:
            records = [json.loads(line) for line in text.split("\n")[:-1]]
            assert [record["path"] for record in records] == [found.path for found in pictures]
            objects = [(record["image_id"], item) for record in records for item in record["detections"]]
            read = [(i, o["class_name"], o["box"], o["score"], o["category_id"]) for i, o in objects]
        wanted = [(found, item) for found in pictures for item in found]
        for (image, name, box, score, category), (found, item) in zip(read, wanted, strict=True):
            assert image == (found.path or str(found.image_id) if format == "csv" else found.image_id)
            assert name == (None if format == "coco" else item.name) and category == item.category_id
            assert box == pytest.approx(item.box, abs=2e-3) and score == pytest.approx(item.score, rel=1e-6)
        return "written"

    fuzz(f"predictions as {format}", attempt, seconds=SECONDS / 4)


def predicted(file: Path, format: Format) -> bytes:
    """The file with two detections in each picture, and its content."""
    with PredictionWriter(file, format) as writer:
        for name in "abc":
            boxes, names = torch.tensor([[1.5, 2, 30, 20], [4, 5, 6, 7.25]]), ("cat", "dog")
            scores, labels = torch.tensor([0.9, 0.1]), torch.tensor([0, 1])
            writer.add(
                Detections(boxes, scores, labels, names, (3, 18), trees.SIZE, path=f"{name}.png", image_id=f"{name}.png")
            )
    return file.read_bytes()


@pytest.mark.parametrize("format", FORMATS)
def test_damaged_detections(format: Format, tmp_path: Path) -> None:
    """They are read or refused, and what is read are detections of these pictures."""
    data = load_dataset(trees.coco(tmp_path / "coco"))
    file = tmp_path / FORMATS[format].file_name
    good = predicted(file, format)
    assert [len(found) for found in read_detections(file, data)] == [2, 2, 2]

    def attempt(random: Random) -> str:
        file.write_bytes(mutated(random, good, tokens=TOKENS))
        found = read_detections(file, data, on_bad="skip")
        assert [one.image_id for one in found] == [*data.image_ids]
        for one in found:
            assert one.boxes.isfinite().all() and (one.boxes[:, 2:] >= one.boxes[:, :2]).all()
            assert ((one.scores >= 0) & (one.scores <= 1)).all() and (one.scores.diff() <= 0).all()
            assert one.class_names == tuple(data.classes[label] for label in one.labels.tolist())
        return "read"

    fuzz(f"damaged detections as {format}", attempt, seconds=SECONDS / 4)


@pytest.mark.parametrize("format", FORMATS)
def test_damaged_predictions_as_a_data_set(format: Format, tmp_path: Path) -> None:
    """The CSV file is one. The other two are refused, whatever is in them."""
    root = trees.csv(tmp_path)
    file = root / FORMATS[format].file_name
    (root / "label.csv").unlink()
    good = predicted(file, format)

    def attempt(random: Random) -> str:
        file.write_bytes(mutated(random, good, tokens=TOKENS))
        data = load_dataset(file, on_bad="skip")
        assert format == "csv", "detections were read as a data set"
        expected = csv_reference(file.read_bytes().decode("utf-8-sig"), [root / "images", root])
        assert expected is not None
        agree(objects_of(data), expected)
        return "with problems" if data.problems else "whole"

    fuzz(f"damaged predictions as {format}", attempt, seconds=SECONDS / 4)


# Plans and recipes


def said(given: object, read: object) -> bool:
    """Whether what was read holds all that the file gives: the same values, and defaults only where it is silent."""
    if isinstance(given, dict) and isinstance(read, dict):
        derived = {key for key in ("category_ids", "prior") if given.get(key, 0) in ([], None)}  # they follow from other values
        return all(key in derived or (key in read and said(value, read[key])) for key, value in given.items())
    if isinstance(given, list) and isinstance(read, list):
        return len(given) == len(read) and all(map(said, given, read))
    if isinstance(given, str) and isinstance(read, dict):  # the name of a part, or its word
        return given == read.get("kind") or given.lower() in read.values()
    if given in ("None", "none"):
        return read in (None, given)
    if isinstance(read, float) and type(given) is int:
        return float(given) == read
    return given == read and isinstance(given, bool) == isinstance(read, bool)


def odd_plan(random: Random, text: bytes) -> bytes:
    """The JSON with one to three values that are replaced, at any depth."""
    content = json.loads(text)
    for _ in range(random.randint(1, 3)):
        node = content
        while True:
            keys = list(node) if isinstance(node, dict) else list(range(len(node)))
            if not keys:
                break
            key = random.choice(keys)
            if isinstance(node[key], dict | list) and random.random() < 0.8:
                node = node[key]
                continue
            node[key] = deepcopy(
                random.choice([*ODD, *(node.values() if isinstance(node, dict) else node), "FocalLoss", "giou", "None"])
            )
            break
    return json.dumps(content).replace("Infinity", "1e999").encode()


def plan() -> Plan:
    return Plan(recipe("tinyssd", classes=("cat", "dog")), TrainConfig(), "data")


def test_plans(tmp_path: Path) -> None:
    plan().save(tmp_path)
    file = tmp_path / "config.json"
    good = file.read_bytes()

    def attempt(random: Random) -> str:
        file.write_bytes(mutated(random, good, tokens=TOKENS) if random.random() < 0.4 else odd_plan(random, good))
        read = Plan.load(tmp_path)
        assert said(json.loads(file.read_text(encoding="utf-8")), encode(read))
        return "plan"

    fuzz("plans of runs", attempt)


def test_recipes() -> None:
    good = plan().model.to_json().encode()

    def attempt(random: Random) -> str:
        content = mutated(random, good, tokens=TOKENS) if random.random() < 0.4 else odd_plan(random, good)
        text = content.decode("utf-8", "surrogateescape")
        read = DetectorConfig.from_json(text)
        assert said(json.loads(text), encode(read))
        assert DetectorConfig.from_json(read.to_json()) == read
        return "recipe"

    fuzz("recipes", attempt)


def test_a_changed_recipe_of_a_command_line() -> None:
    model = plan().model
    paths = [
        "loss",
        "loss.box",
        "postprocess",
        "postprocess.score_threshold",
        "anchors",
        "head",
        "head.prior",
        "preprocess.mean",
        "category_ids",
    ]

    def attempt(random: Random) -> str:
        part = json.dumps(random.choice(list(encode(model).values()))).encode()  # type: ignore[union-attr]
        text = mutated(random, random.choice((part, b"0.5", b"[1, 2]", b"null", b"FocalLoss")), tokens=TOKENS)
        changed = model.replace({random.choice(paths): text.decode("utf-8", "surrogateescape")})
        assert DetectorConfig.from_json(changed.to_json()) == changed
        return "recipe"

    fuzz("changes of a recipe", attempt)


def test_the_references_know_a_difference() -> None:
    """Or the comparisons above could not fail."""
    truth: list[Object] = [("a", "cat", (2, 3, 30, 20), False)]
    for other in (
        ("b", "cat", (2, 3, 30, 20), False),
        ("a", "dog", (2, 3, 30, 20), False),
        ("a", "cat", (2, 3, 30.1, 20), False),
    ):
        with pytest.raises(AssertionError):
            agree(truth, [other])
    with pytest.raises(AssertionError):
        agree(truth, [])
    assert not said({"a": 1}, {"a": 2}) and not said([1], [1, 2]) and said({"a": 1}, {"a": 1, "b": 2})
    with pytest.raises(ConfigError):
        DetectorConfig.from_json("{}")
