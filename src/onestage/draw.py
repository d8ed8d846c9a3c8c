"""Draw boxes and labels into pictures, for people to look at.

Shape letters: H, W height and width of the picture; D boxes; V corners of a polygon. Boxes are xyxy float pixels.
"""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from onestage import boxes as box_ops
from onestage.errors import DataError
from onestage.images import to_tensor
from onestage.structures import Detections

Colour = tuple[int, int, int]


class Stroke(NamedTuple):
    """The line around a box. dash: the lengths of a dash and of the gap after it, in widths of the line; None: solid."""

    colour: Colour
    dash: tuple[int, int] | None = None


_RIM = (0, 0, 0, 90)
_ZONE = (255, 255, 255)
_LONGEST = 100  # characters of a label
_CROWD = 1 / 6  # of the picture, the most that labels hide

# One colour per label index. The first ten are chosen by hand. Each further colour has the largest distance (in OKLab) from all
# before it, among the colours that are easy to see on dark and on light pictures. The smallest distance of two colours is 0.13
# for the first 20, 0.10 for the first 40, and 0.07 for all 90.
_CODES = """
ff4d4d 2f9bff ffc400 16c172 b868ff ff8c1a 00cfd5 ff7ac6 a4de02 a9805f 4b2dff b40087 1e7800 e1d2ff 2d6996
b42d00 9600e1 4bffc3 ff00f0 009687 9669a5 b4a5d2 b4b478 ff0096 789600 d2e1b4 6969f0 ffa5a5 78692d 00ff00
87f0ff c34b69 873ca5 d25ab4 5a87b4 f0a5ff 005ad2 d25a00 d200c3 00d200 d28796 9687e1 c30fff 78c3ff 875a69
96b400 f069ff 4be187 78a587 c39600 007869 e1002d 693cd2 a54bd2 69a5d2 c3f078 009600 96d2b4 ffc387 00b400
d287e1 a55a1e d2b400 5a5ab4 1e78d2 5a874b d29669 69ff78 00b4b4 7800ff a500b4 b41e5a ff7887 0f69ff b4d278
87a5ff 2da55a b44b96 ff4bc3 e10069 d26969 964bff d24be1 f05a96 e17800 967800 f0e100 e1b4d2 c3b4ff a5d2f0
"""
PALETTE: tuple[Colour, ...] = tuple((code >> 16, code >> 8 & 255, code & 255) for code in (int(c, 16) for c in _CODES.split()))


def colour_of(label: int) -> Colour:
    """The colour of a class, by its label index. The colours repeat after 90 classes."""
    return PALETTE[label % len(PALETTE)]


def draw_detections(image: Tensor | Image.Image, detections: Detections) -> Image.Image:
    """A copy of the picture, (3, H, W) or PIL, with each detection's box and ``name score`` in its class's colour.

    The best detection lies on top, and its label is placed first. Labels hide at most a sixth of the picture: the detections
    after that have boxes only. Raise DataError if the picture has another size than the one that was predicted.
    """
    canvas = _canvas(image)
    if (canvas.height, canvas.width) != detections.size:
        raise DataError(
            "these detections belong to a picture of another size",
            where=detections.path or detections.image_id or None,
            got=f"a picture of {canvas.height} x {canvas.width} (height x width)",
            expected=f"{detections.size[0]} x {detections.size[1]}",
            fix="draw them on the picture that was predicted",
        )
    captions = [f"{name} {score:.2f}" for name, score in zip(detections.class_names, detections.scores.tolist(), strict=True)]
    return _draw(canvas, detections.boxes, _of_classes(detections.labels), captions)


def draw_boxes(image: Tensor | Image.Image, boxes: Tensor, *, labels: Tensor, names: Sequence[str]) -> Image.Image:
    """A copy of the picture, (3, H, W) or PIL, with boxes (D, 4) and the names of their labels (D,).

    names: of all classes, by label index.
    """
    return _draw(_canvas(image), boxes, _of_classes(labels), [names[label] for label in labels.tolist()])


def draw_strokes(
    image: Tensor | Image.Image, boxes: Tensor, *, strokes: Sequence[Stroke], captions: Sequence[str], side: int
) -> Image.Image:
    """A copy of the picture, (3, H, W) or PIL, with boxes (D, 4), each with its line and its caption, unless that is empty.

    side: the most pixels of the longer side. A larger picture is made smaller before lines and captions are drawn.
    """
    canvas = _canvas(image)
    width, height = canvas.size
    canvas.thumbnail((side, side))
    across, down = canvas.width / width, canvas.height / height
    return _draw(canvas, boxes * boxes.new_tensor([across, down, across, down]), strokes, captions)


def draw_zones(image: Tensor | Image.Image, polygons: Sequence[Tensor], captions: Sequence[str]) -> Image.Image:
    """A copy of the picture, (3, H, W) or PIL, with polygons, (V, 2) x and y of V corners each, and a caption for each. Zones
    are white, because every class has a colour.
    """
    canvas = _canvas(image)
    line, font = _line_and_font(canvas)
    pen = ImageDraw.Draw(canvas, "RGBA")
    for polygon in polygons:
        corners = [(x, y) for x, y in polygon.tolist()]
        pen.polygon(corners, fill=(*_ZONE, 40))
        for colour, width in ((_RIM, line + 2), (_ZONE, line)):
            pen.line([*corners, *corners[:2]], fill=colour, width=width, joint="curve")
    for polygon, caption in zip(polygons, captions, strict=True):
        text = _shorten(caption, font, canvas.size)
        if not text:
            continue
        width, height = _plate_size(text, font)
        x, y = polygon.mean(0).tolist()
        left = max(0, min(round(x - width / 2), canvas.width - width))
        top = max(0, min(round(y - height / 2), canvas.height - height))
        pen.rectangle((left, top, left + width - 1, top + height - 1), fill=_ZONE)
        pen.text((left + width / 2, top + height / 2), text, fill=_ink_on(_ZONE), font=font, anchor="mm")
    return canvas


def _of_classes(labels: Tensor) -> list[Stroke]:
    """Solid lines in the colours of the labels (D,)."""
    return [Stroke(colour_of(label)) for label in labels.tolist()]


def _canvas(image: Tensor | Image.Image) -> Image.Image:
    """A copy of the picture to draw on."""
    return Image.fromarray(to_tensor(image).permute(1, 2, 0).cpu().numpy()).copy()


def _draw(canvas: Image.Image, boxes: Tensor, strokes: Sequence[Stroke], captions: Sequence[str]) -> Image.Image:
    """All boxes, then all labels over them, from the last to the first."""
    line, font = _line_and_font(canvas)
    boxes = _outlines(boxes.detach().float().cpu(), line, canvas.size)
    captions = [_shorten(caption, font, canvas.size) for caption in captions]
    sizes = torch.tensor([_plate_size(c, font) for c in captions]).view(-1, 2)
    seen = sizes.prod(1).cumsum(0) <= max(_CROWD * canvas.width * canvas.height, float(sizes[:1].prod()))
    captions = [caption if shown else "" for caption, shown in zip(captions, seen.tolist(), strict=True)]
    plates = _place(boxes, sizes * seen[:, None], canvas.size)

    pen = ImageDraw.Draw(canvas, "RGBA")
    backwards = range(len(boxes) - 1, -1, -1)
    for i in backwards:
        x1, y1, x2, y2 = boxes[i].tolist()
        # A thin dark rim sets the line off from parts of the same colour.
        pen.rectangle((x1 - 1, y1 - 1, x2, y2), outline=_RIM, width=line + 2)
        _outline(pen, (x1, y1, x2, y2), strokes[i], line)
    for i in backwards:
        if captions[i]:
            x1, y1, x2, y2 = plates[i].tolist()
            pen.rectangle((x1, y1, x2 - 1, y2 - 1), fill=strokes[i].colour)
            pen.text(((x1 + x2) / 2, (y1 + y2) / 2), captions[i], fill=_ink_on(strokes[i].colour), font=font, anchor="mm")
    return canvas


def _line_and_font(canvas: Image.Image) -> tuple[int, ImageFont.FreeTypeFont]:
    """The width of lines and the font that suit the size of a picture."""
    scale = (canvas.width * canvas.height) ** 0.5
    return max(1, round(scale / 220)), _font(max(9, round(scale / 42)))


def _outline(pen: ImageDraw.ImageDraw, box: tuple[float, float, float, float], stroke: Stroke, line: int) -> None:
    """Draw the border of a box of whole pixels inside it, ``line`` pixels wide, solid or dashed."""
    x1, y1, x2, y2 = box
    if stroke.dash is None:
        pen.rectangle((x1, y1, x2 - 1, y2 - 1), outline=stroke.colour, width=line)
        return
    dash, gap = (line * part for part in stroke.dash)
    for start in range(int(x1), int(x2), dash + gap):
        for y in (y1, max(y1, y2 - line)):
            pen.rectangle((start, y, min(start + dash, x2) - 1, y + line - 1), fill=stroke.colour)
    for start in range(int(y1), int(y2), dash + gap):
        for x in (x1, max(x1, x2 - line)):
            pen.rectangle((x, start, x + line - 1, min(start + dash, y2) - 1), fill=stroke.colour)


def _outlines(boxes: Tensor, line: int, picture: tuple[int, int]) -> Tensor:
    """(D, 4) -> (D, 4) whole pixels, at least one each: the outer edge of lines of that width centred on the boxes' borders, or
    moved inwards where they would leave the ``picture`` (width, height).
    """
    size, out = torch.tensor(picture, dtype=torch.float32), line // 2
    low = (boxes[:, :2].round() - out).clamp(min=0).minimum(size - 1)
    high = (boxes[:, 2:].round() + out).minimum(size).maximum(low + 1)
    return torch.cat([low, high], dim=1)


def _place(boxes: Tensor, sizes: Tensor, picture: tuple[int, int]) -> Tensor:
    """Where the labels go: (D, 4) plates of ``sizes`` (D, 2), width and height, inside the ``picture`` (width, height).

    Each plate takes the place along the top or bottom edge of its outline that covers least of the plates before it.
    """
    plates = torch.zeros(0, 4)
    for (x1, y1, x2, y2), (width, height) in zip(boxes.tolist(), sizes.tolist(), strict=True):
        corners = [(x, y) for y in (y1 - height, y1, y2, y2 - height, y1 - 2 * height, y2 + height) for x in (x1, x2 - width)]
        room = torch.tensor([max(picture[0] - width, 0), max(picture[1] - height, 0)])
        low = torch.tensor(corners).round().clamp(min=0).minimum(room)
        places = torch.cat([low, low + torch.tensor([width, height])], dim=1)
        covered = box_ops.intersection(places, plates).sum(1)
        plates = torch.cat([plates, places[covered.argmin()][None]])
    return plates


def _plate_size(caption: str, font: ImageFont.FreeTypeFont) -> tuple[int, int]:
    """(width, height) of a label with its margin; nothing for an empty one."""
    if not caption:
        return 0, 0
    ascent, descent = font.getmetrics()
    return round(font.getlength(caption) + font.size / 2), ascent + descent


def _shorten(caption: str, font: ImageFont.FreeTypeFont, picture: tuple[int, int]) -> str:
    """The caption on one line, with its end cut off until it fits into the picture's width. It is empty if it would hide a
    quarter of the picture, as on a thumbnail, or if too few letters would be left.
    """
    text = " ".join(caption.encode("utf-8", "replace").decode().split())[:_LONGEST]
    shorter = (text[:length] + "…" for length in range(len(text) - 1, 1, -1))
    for candidate in (text, *shorter):
        width, height = _plate_size(candidate, font)
        if width <= picture[0]:
            return candidate if 4 * width * height <= picture[0] * picture[1] else ""
    return ""


def _ink_on(colour: Colour) -> Colour:
    """Black or white: the one with more contrast (relative luminance as in WCAG 2.1)."""
    linear = [v / 255 / 12.92 if v <= 10 else ((v / 255 + 0.055) / 1.055) ** 2.4 for v in colour]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return (0, 0, 0) if luminance > 0.179 else (255, 255, 255)


@lru_cache(maxsize=16)
def _font(size: int) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which comes with matplotlib and knows the alphabets of Europe, Greek, Cyrillic, Arabic and Hebrew."""
    from matplotlib import get_data_path  # here, because it costs 0.1 s that only drawing needs

    return ImageFont.truetype(str(Path(get_data_path()) / "fonts" / "ttf" / "DejaVuSans-Bold.ttf"), size)
