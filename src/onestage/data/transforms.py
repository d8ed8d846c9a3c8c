"""From a decoded picture to the network's input: SSD's augmentations for training, the model's resize for evaluation.

Shape letters: N objects of one picture, T trial crops; H, W a picture, h, w the input. Boxes are xyxy pixels.

Augmentation at full resolution is slow: zooming out of a 640x480 picture makes up to 2560x1920 pixels, most of them of one
colour, and then shrinks them to 300x300. So the geometry is drawn first, as numbers, and composed into one ``Region`` of the
picture, which may reach outside. Then the pixels are processed once: cut out, resize, recolour, paste on the fill colour.

A ``Place`` says where a region lies in the input. It is a function from a size to an ImageMeta. ``stretch`` is SSD's. A model
that letterboxes or keeps the shortest edge passes a different one, and nothing else changes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from onestage import boxes as box_ops
from onestage.data.colour import distort_colours, mean_colour
from onestage.data.undecoded import Undecoded
from onestage.errors import ConfigError
from onestage.structures import ImageMeta, Sample, Size, Targets

Place = Callable[[Size], ImageMeta]
"""Tells where a picture of a given (height, width) lies in the network's input."""

Prepared = tuple[Tensor, Targets, ImageMeta]
"""A picture ready for a batch: (3, h, w) in 0..255, its objects in input pixels, and where the picture lies in the input."""

Colour = tuple[float, float, float]
"""RGB in 0..255; rounded where pictures are uint8."""

MEAN_COLOUR = (124.0, 116.0, 104.0)
"""The mean RGB of ImageNet: about 0 after normalisation."""

# The sampler of the SSD paper, section 2.2 "Data augmentation", with the numbers of torchvision's RandomIoUCrop: the smallest
# IoU that an object must have with the crop (1 leaves the picture whole), sides and aspect ratio relative to the picture.
_OVERLAPS = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0)
_TRIALS = 40
_MIN_SIDE = 0.3
_ASPECT = (0.5, 2.0)


def stretch(size: Size) -> Place:
    """The place of every picture when each is stretched to ``size`` (height, width), as SSD does."""
    return partial(ImageMeta.stretched, input=size)


@dataclass(frozen=True)
class Augment:
    """How training pictures are varied. The defaults change nothing; ``ssd()``, ``light()`` and ``none()`` are the presets.

    photometric: strength of brightness, contrast, saturation and hue changes; 1 is SSD's, 0 none, at most 2.
    shuffle_channels: probability that red, green and blue change places (SSD's authors 0, torchvision 0.5).
    zoom_out: the picture is put on a canvas up to this many times as wide and high; 1 is off.
    zoom_out_p: probability of that.
    iou_crop: probability of a crop that keeps an object; 1 is SSD's (one in seven crops is then the whole picture).
    flip: probability of a mirror image, left to right.
    flip_vertical: probability of turning the picture upside down: for cells, aerial pictures and the like.
    mosaic: probability that four pictures share the input (``data.mosaic``). In it, zoom-out and IoU crop are off.
    scale_jitter: pictures, and those of a mosaic, are shown 1 - scale_jitter to 1 + scale_jitter times as large; at most 0.9.
        Zoom-out takes its place where that is drawn.
    min_size: objects of a smaller width or height, in input pixels, are dropped.
    """

    photometric: float = 0.0
    shuffle_channels: float = 0.0
    zoom_out: float = 1.0
    zoom_out_p: float = 0.5
    iou_crop: float = 0.0
    flip: float = 0.0
    flip_vertical: float = 0.0
    min_size: float = 1.0
    mosaic: float = 0.0
    scale_jitter: float = 0.0

    def __post_init__(self) -> None:
        limits = {"photometric": (0.0, 2.0), "zoom_out": (1.0, 16.0), "min_size": (0.0, math.inf), "scale_jitter": (0.0, 0.9)}
        for name, value in vars(self).items():
            low, high = limits.get(name, (0.0, 1.0))
            if not low <= value <= high:
                raise ConfigError(f"augment.{name} is out of range", got=value, expected=f"{low:g} to {high:g}")

    @classmethod
    def ssd(cls) -> Augment:
        """SSD with the expansion of section 3.6: photometric distortion, zoom-out up to 4, IoU crop, mirror image."""
        return cls(photometric=1.0, zoom_out=4.0, iou_crop=1.0, flip=0.5)

    @classmethod
    def light(cls) -> Augment:
        """Colours and mirror images only: no object changes its size."""
        return cls(photometric=1.0, flip=0.5)

    @classmethod
    def none(cls) -> Augment:
        """The picture as it is."""
        return cls()

    @property
    def clean(self) -> Augment:
        """The same without mosaic and scale jitter, for the last part of a training: no picture to detect has seams.

        Colours, zoom-out, IoU crop and mirror images stay: the published recipes use them to the end.
        """
        return replace(self, mosaic=0.0, scale_jitter=0.0)


@dataclass(frozen=True)
class Region:
    """A rectangle in whole pixels of a picture, which may reach outside; and how it is mirrored."""

    left: int
    top: int
    width: int
    height: int
    mirrored: bool = False
    upside_down: bool = False

    @property
    def box(self) -> tuple[int, int, int, int]:
        """x1, y1, x2, y2."""
        return self.left, self.top, self.left + self.width, self.top + self.height

    def snapped(self, step: int) -> Region:
        """The region with its corner and sides at the nearest multiples of ``step`` pixels."""
        left, top = (step * round(value / step) for value in (self.left, self.top))
        width, height = (step * max(round(side / step), 1) for side in (self.width, self.height))
        return replace(self, left=left, top=top, width=width, height=height)


def draw_region(size: Size, boxes: Tensor, augment: Augment, *, generator: torch.Generator) -> Region:
    """Draw the part of a picture of ``size`` to show. boxes (N, 4): the objects that a crop tries to keep."""
    height, width = size
    region = Region(0, 0, width, height)
    if augment.zoom_out > 1 and _chance(augment.zoom_out_p, generator):
        region = _zoom_out(size, augment.zoom_out, generator)
    elif augment.scale_jitter:
        zoom = draw_zoom(augment.scale_jitter, generator)
        region = place_region(size, (round(height / zoom), round(width / zoom)), generator)
    if augment.iou_crop and len(boxes) and _chance(augment.iou_crop, generator):
        region = _iou_crop(region, boxes, generator)
    return draw_mirrors(region, augment, generator)


def draw_mirrors(region: Region, augment: Augment, generator: torch.Generator) -> Region:
    """The region, mirrored with the probabilities of ``augment``."""
    return replace(region, mirrored=_chance(augment.flip, generator), upside_down=_chance(augment.flip_vertical, generator))


def draw_zoom(jitter: float, generator: torch.Generator) -> float:
    """How many times as large a picture is shown: a number in 1 - jitter..1 + jitter."""
    return 1 + jitter * (2 * float(torch.rand((), generator=generator)) - 1)


def place_region(size: Size, region: Size, generator: torch.Generator) -> Region:
    """A region of a given (height, width), anywhere in a picture of ``size``. A longer side holds that of the picture."""
    (height, width), (rows, columns) = size, (max(side, 1) for side in region)
    down, across = torch.rand(2, generator=generator).tolist()
    return Region(int((width - columns) * across), int((height - rows) * down), columns, rows)


def _chance(probability: float, generator: torch.Generator) -> bool:
    return float(torch.rand((), generator=generator)) < probability


def _zoom_out(size: Size, max_ratio: float, generator: torch.Generator) -> Region:
    """The law of torchvision's RandomZoomOut: one ratio for both sides, the picture anywhere on the canvas."""
    height, width = size
    ratio, across, down = torch.rand(3, generator=generator).tolist()
    ratio = 1 + ratio * (max_ratio - 1)
    canvas_height, canvas_width = int(height * ratio), int(width * ratio)
    left, top = int((canvas_width - width) * across), int((canvas_height - height) * down)
    return Region(-left, -top, canvas_width, canvas_height)


def _iou_crop(region: Region, boxes: Tensor, generator: torch.Generator) -> Region:
    """The law of torchvision's RandomIoUCrop inside ``region``. All 40 trials of one IoU are made at once, not one by one.

    The result is the first trial with a valid aspect ratio that holds the centre of an object and overlaps it enough. boxes:
    (N, 4).
    """
    corner = boxes.new_tensor([region.left, region.top])
    limits = boxes.new_tensor([region.width, region.height])
    centres = box_ops.to_cxcywh(boxes)[:, :2]
    while True:
        overlap = _OVERLAPS[int(torch.randint(len(_OVERLAPS), (), generator=generator))]
        if overlap >= 1:
            return region
        random = torch.rand(_TRIALS, 4, generator=generator)
        sides = (limits * (_MIN_SIDE + (1 - _MIN_SIDE) * random[:, :2])).floor()
        corners = corner + ((limits - sides) * random[:, 2:]).floor()
        crops = torch.cat([corners, corners + sides], dim=1)
        aspect = sides[:, 0] / sides[:, 1]
        held = _inside(centres, crops)
        enough = (held & (box_ops.iou(crops, boxes) >= overlap)).any(1)
        good = (enough & (aspect >= _ASPECT[0]) & (aspect <= _ASPECT[1])).nonzero()
        if len(good):
            left, top, right, bottom = (int(v) for v in crops[good[0, 0]].tolist())
            return Region(left, top, right - left, bottom - top)


def _inside(points: Tensor, rectangles: Tensor) -> Tensor:
    """(N, 2) x, y and (T, 4) -> (T, N) bool: the point lies inside the rectangle and not on its border."""
    low, high = rectangles[:, None, :2], rectangles[:, None, 2:]
    return ((points > low) & (points < high)).all(-1)


@dataclass(frozen=True)
class Axis:
    """One axis of a view: the pixels ``source`` of the picture fill the pixels ``target`` of the input, perhaps mirrored.

    Both are (start, stop), whole numbers: so the pixels can be cut and pasted, and the boxes follow them exactly.
    """

    source: tuple[int, int]
    target: tuple[int, int]
    mirrored: bool

    @classmethod
    def of(cls, low: int, high: int, length: int, *, scale: float, pad: int, mirrored: bool) -> Axis:
        """Where low..high of a picture's side of ``length`` lies in the input, if low lies at ``pad``."""
        first, last = max(low, 0), min(high, length)
        content = max(round((high - low) * scale), 1)
        start = min(round((first - low) * scale), content - 1)
        stop = max(round((last - low) * scale), start + 1)
        if mirrored:
            start, stop = content - stop, content - start
        return cls((first, last), (start + pad, stop + pad), mirrored)

    def apply(self, values: Tensor) -> Tensor:
        """Picture coordinates (N, 2) -> input coordinates (N, 2), cut to the visible part."""
        (first, last), (start, stop) = self.source, self.target
        moved = (values.clamp(first, last) - first) * ((stop - start) / (last - first))
        moved = moved.clamp(max=stop - start)  # the product may round up
        return stop - moved if self.mirrored else start + moved


@dataclass(frozen=True)
class View:
    """A region of a picture as it lies in the input. meta describes the region as if it were the whole picture.

    reduction: the picture can be decoded with its sides divided by this, and the region still has the pixels of the input.
    """

    region: Region
    across: Axis
    down: Axis
    meta: ImageMeta
    reduction: int = 1

    @classmethod
    def of(cls, region: Region, size: Size, place: Place, reductions: Sequence[int] = (1,)) -> View:
        """The view that shows ``region`` of a picture of ``size`` (height, width) where ``place`` says.

        reductions: those that can be chosen. The region then begins and ends at whole pixels of the smaller picture.
        """
        meta = place((region.height, region.width))
        reduction = max(r for r in reductions if r == 1 or r * max(meta.scale) <= 1)
        if reduction > 1:
            region = region.snapped(reduction)
            meta = place((region.height, region.width))
        left, top, right, bottom = region.box
        (scale_y, scale_x), (pad_y, pad_x) = meta.scale, meta.pad
        across = Axis.of(left, right, size[1], scale=scale_x, pad=pad_x, mirrored=region.mirrored)
        down = Axis.of(top, bottom, size[0], scale=scale_y, pad=pad_y, mirrored=region.upside_down)
        return cls(region, across, down, meta, reduction)

    def boxes(self, boxes: Tensor) -> Tensor:
        """(N, 4) picture pixels -> (N, 4) input pixels, cut to the visible part of the picture."""
        x = self.across.apply(boxes[:, 0::2]).sort(1).values
        y = self.down.apply(boxes[:, 1::2]).sort(1).values
        return torch.stack([x[:, 0], y[:, 0], x[:, 1], y[:, 1]], dim=1)

    def pixels(self, image: Tensor, fill: Colour, recolour: Callable[[Tensor], Tensor], *, antialias: bool = True) -> Tensor:
        """(3, H, W) uint8 -> (3, h, w) uint8. Resize and recolour the visible part; ``fill`` is the colour around it.

        The sides of the image are those of the picture, divided by ``reduction`` and rounded up.
        """
        (left, right), (top, bottom) = (
            (start // self.reduction, -(-stop // self.reduction)) for start, stop in (self.across.source, self.down.source)
        )
        (x1, x2), (y1, y2) = self.across.target, self.down.target
        part = image[:, top:bottom, left:right]
        if part.shape[1:] != (y2 - y1, x2 - x1):
            part = _resize(part, (y2 - y1, x2 - x1), antialias)
        mirrors = [dim for dim, axis in ((1, self.down), (2, self.across)) if axis.mirrored]
        part = recolour(part.flip(mirrors) if mirrors else part)
        if part.shape[1:] == self.meta.input:
            return part
        canvas = canvas_of(fill, self.meta.input, like=part)
        canvas[:, y1:y2, x1:x2] = part
        return canvas


def canvas_of(colour: Colour, size: Size, *, like: Tensor) -> Tensor:
    """A picture (3, H, W) of one colour and of ``size`` (H, W), with the number type of ``like``."""
    pixel = torch.tensor(colour).view(3, 1, 1)
    return (pixel if like.is_floating_point() else pixel.round()).to(like.dtype).repeat(1, *size)


def _resize(image: Tensor, size: Size, antialias: bool) -> Tensor:
    """(3, H, W) uint8 -> (3, *size) uint8, antialiased as by Pillow or plain. torch 2.15 fails on uint8 at 1x1."""
    from torchvision.transforms.v2 import functional as tv  # here, because it takes as long to import as torch

    if size == (1, 1):
        return mean_colour(image.float()).round().to(torch.uint8).view(3, 1, 1)
    return tv.resize(image, list(size), antialias=antialias)


@dataclass(frozen=True)
class TrainTransform:
    """Sample -> augmented picture in the network's input, with its objects.

    place: where the augmented picture lies in the input, e.g. ``stretch((300, 300))``. fill: RGB outside the picture.
    antialias: whether the filter of the model's preprocessing antialiases. The resulting meta describes the augmented region
    as if it were the whole picture, and has its image id and path.
    """

    place: Place
    augment: Augment = Augment()
    fill: Colour = MEAN_COLOUR
    antialias: bool = True

    def __call__(self, sample: Sample | Undecoded, generator: torch.Generator) -> Prepared:
        """image (3, H, W) and boxes (N, 4) -> image (3, h, w), targets, meta."""
        region = draw_region(sample.size, sample.boxes[~sample.ignore], self.augment, generator=generator)
        view = self.view(sample, region, self.place)
        image = self.pixels(sample, view, generator)
        meta = replace(view.meta, image_id=sample.image_id, path=sample.path)
        return image, self._targets(sample, view), meta

    @property
    def clean(self) -> TrainTransform:
        """The same without mosaic and scale jitter."""
        return replace(self, augment=self.augment.clean)

    @staticmethod
    def view(sample: Sample | Undecoded, region: Region, place: Place) -> View:
        """The view of a region (3, H, W) of a picture, for which as few pixels are decoded as possible."""
        return View.of(region, sample.size, place, (1,) if isinstance(sample, Sample) else sample.reductions)

    def pixels(self, sample: Sample | Undecoded, view: View, generator: torch.Generator) -> Tensor:
        """The view (3, h, w) of a picture (3, H, W), with its colours changed at random."""
        image = sample.image if isinstance(sample, Sample) else sample.decode(view.reduction)

        def recolour(part: Tensor) -> Tensor:
            return distort_colours(
                part, self.augment.photometric, shuffle_channels=self.augment.shuffle_channels, generator=generator
            )

        return view.pixels(image, self.fill, recolour, antialias=self.antialias)

    def _targets(self, sample: Sample | Undecoded, view: View) -> Targets:
        """The objects with their centre inside the region (SSD section 2.2) that are large enough to learn from.

        Ignored objects stay if a part of them is visible: that part is no background either.
        """
        boxes = view.boxes(sample.boxes)
        centred = _inside(box_ops.to_cxcywh(sample.boxes)[:, :2], boxes.new_tensor([view.region.box]))[0]
        sides = boxes[:, 2:] - boxes[:, :2]
        keep = (centred | sample.ignore) & (sides > 0).all(1) & (sides >= self.augment.min_size).all(1)
        return Targets(boxes[keep], sample.labels[keep], sample.ignore[keep])


@dataclass(frozen=True)
class EvalTransform:
    """Sample -> the network's input by the model's resize, with every object. Nothing is random.

    resize: (3, H, W) uint8 -> (3, h, w) in 0..255 and its meta. fill: RGB of the padding if sizes in a batch differ.
    """

    resize: Callable[[Tensor], tuple[Tensor, ImageMeta]]
    fill: Colour = MEAN_COLOUR

    def __call__(self, sample: Sample | Undecoded, generator: torch.Generator) -> Prepared:
        """image (3, H, W) and boxes (N, 4) -> image (3, h, w), targets, meta."""
        image, meta = self.resize(sample.image)
        targets = Targets(meta.apply(sample.boxes), sample.labels, sample.ignore)
        return image, targets, replace(meta, image_id=sample.image_id, path=sample.path)
