"""How closely pictures are looked at: options for tiles, mirror images, scales and several models."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Annotated, ClassVar

import tyro

from onestage.cli.output import say
from onestage.errors import ConfigError, DataError, counted
from onestage.model.codec import Range

if TYPE_CHECKING:
    from onestage.data.dataset import Dataset
    from onestage.predict.pictures import PictureFile
    from onestage.predict.predictor import Looker, Predictor
    from onestage.predict.windows import Tiles
    from onestage.structures import Size


@dataclass(frozen=True)
class Look:
    """How closely to look. Each of these takes more passes through the network. --flip, --scales and --with lower the scores:
    what one of two looks sees with 0.8 has 0.4. So as much as before is found above a lower score."""

    HEADING: ClassVar[str] = "closer look"
    tiles: str | None = None
    """For large pictures: also look at tiles of this size in pixels, 640 or 480x640 (height x width), that overlap. auto: so
    large that objects of 20 pixels suit the smallest anchors of the model."""
    overlap: float = 0.2
    """The part of a tile that its neighbour shows too. Objects up to that size are whole in one of them."""
    flip: bool = False
    """Look at the mirror image of each picture too."""
    scales: Annotated[tuple[str, ...], tyro.conf.arg(metavar="0.8,1,1.25")] = ()
    """Look several times, with objects so many times as large."""
    with_: Annotated[tuple[str, ...], tyro.conf.UseAppendAction, tyro.conf.arg(name="with", metavar="MODEL")] = ()
    """Look with this model too, as often as wanted; what all of them find is fused. Their classes are matched by name."""
    weights: Annotated[tuple[str, ...], tyro.conf.arg(metavar="2,1")] = ()
    """How much each model counts, the first one and those of --with in their order; equal by default."""

    def __post_init__(self) -> None:
        """Raise ConfigError for a value that is not understood, or that nothing would use."""
        if not self.is_closer:  # torch is not needed to say so
            return
        from onestage.predict.tiles import OVERLAP

        OVERLAP.check(self.overlap, "--overlap")
        _ = self.tile, self.scale_numbers
        if self.weights and len(self.weight_numbers) != 1 + len(self.with_):
            expected = f"{1 + len(self.with_)}: for the first model, then for each --with"
            raise ConfigError("--weights has a number for each model", got=len(self.weight_numbers), expected=expected)
        if self.overlap != Look.overlap and self.tiles is None and max(self.scale_numbers) <= 1:
            raise ConfigError("--overlap is of tiles, and there are none", got=self.overlap, fix="add --tiles auto")

    @property
    def is_closer(self) -> bool:
        """Whether anything is done beyond the plain call."""
        return any(getattr(self, field.name) != field.default for field in fields(self))

    @property
    def fuses(self) -> bool:
        """Whether scores become means over several looks."""
        return self.flip or bool(self.with_) or len(self.scale_numbers) > 1

    @property
    def tile(self) -> Tiles:
        """The size of tiles. Raise ConfigError if it is none."""
        from onestage.cli.generate import parse_size
        from onestage.predict.tiles import check_tiles

        tiles: Tiles = None
        if self.tiles is not None:
            tiles = "auto" if self.tiles.strip().lower() == "auto" else parse_size(self.tiles, option="--tiles", or_="auto")
            check_tiles(tiles)
        return tiles

    @property
    def scale_numbers(self) -> tuple[float, ...]:
        """The scales; 1 alone by default. Raise ConfigError for others than numbers in their range."""
        from onestage.predict.tiles import SCALE

        numbers = _numbers(self.scales, "--scales", "--scales 0.8,1,1.25", SCALE) or (1.0,)
        if len(set(numbers)) != len(numbers):
            raise ConfigError("--scales names one twice", got=" ".join(self.scales), fix="--scales 0.8,1,1.25")
        return numbers

    @property
    def weight_numbers(self) -> tuple[float, ...]:
        """The weights; empty by default. Raise ConfigError for others than numbers above 0."""
        return _numbers(self.weights, "--weights", "--weights 2,1", Range(above=0, most=1e6))

    @property
    def typed(self) -> list[str]:
        """The options, as they are typed."""
        words = [] if self.tiles is None else ["--tiles", self.tiles]
        words += [] if self.overlap == Look.overlap else ["--overlap", f"{self.overlap:g}"]
        words += ["--flip"] if self.flip else []
        words += ["--scales", ",".join(f"{number:g}" for number in self.scale_numbers)] if self.scales else []
        words += [word for name in self.with_ for word in ("--with", name)]
        return words + (["--weights", ",".join(f"{number:g}" for number in self.weight_numbers)] if self.weights else [])

    def refuse(self, what: str, fix: str) -> None:
        """Raise ConfigError if anything is done beyond the plain call."""
        if self.is_closer:
            raise ConfigError(what, got=" ".join(self.typed), fix=fix)

    def closer(self, models: Sequence[Predictor], *, batch_size: int) -> Looker:
        """What looks at pictures: the model itself, or what the options make of it. models: the first one, and those of --with.
        batch_size: windows that go through a network together.
        """
        from onestage.predict.views import fuse, look

        if not self.is_closer:
            return models[0]
        scales = self.scale_numbers
        looks = [
            look(each, tiles=self.tile, overlap=self.overlap, flip=self.flip, scales=scales, batch_size=batch_size)
            if (self.tile, self.flip, scales) != (None, False, (1.0,))
            else each
            for each in models
        ]
        if len(looks) == 1:
            return looks[0]
        _tell_classes(models)
        return fuse(looks, weights=self.weight_numbers or None)


PLAIN_LOOK = Look()
"""One pass through the network for each picture."""


def _numbers(given: Sequence[str], option: str, example: str, range: Range) -> tuple[float, ...]:
    """The numbers of an option, which commas or spaces part. Raise ConfigError for anything else."""
    words = [word.strip() for text in given for word in text.split(",")]
    numbers = []
    for word in words:
        try:
            numbers.append(float(word))
        except ValueError as error:
            raise ConfigError(f"{option} is not understood", got=repr(word), expected="numbers", fix=example) from error
        range.check(numbers[-1] if math.isfinite(numbers[-1]) else math.nan, option, fix=example)
    return tuple(numbers)


def _tell_classes(models: Sequence[Predictor]) -> None:
    """Say which classes not all models know: a name that is spelt in two ways is two classes."""
    names = list(dict.fromkeys(name for model in models for name in model.classes))
    some = [name for name in names if not all(name in model.classes for model in models)]
    if some:
        more = f" and {len(some) - 5} more" if len(some) > 5 else ""
        say(("not all models know:", "bold"), f" {', '.join(some[:5])}{more}; classes are matched by name")


def tell_cost(
    look: Look, looker: Looker, model: str, pictures: Sequence[PictureFile] | Dataset, *, score: float | None = None
) -> None:
    """Say how pictures are looked at, and what that costs for the first one, if it is more than the plain call. For the other
    arguments see ``tell_passes``.
    """
    from onestage.data.dataset import Dataset
    from onestage.images import image_size

    if not look.is_closer or not len(pictures):
        return
    try:
        size = pictures.size_of(0) if isinstance(pictures, Dataset) else image_size(pictures[0].path)
    except DataError:  # it cannot be read, which is said when its turn comes
        size = None
    if size is not None:
        what = "the picture" if len(pictures) == 1 else "the first picture"
        tell_passes(look, looker, model, (what, size), score=score)


def tell_passes(look: Look, looker: Looker, model: str, picture: tuple[str, Size], *, score: float | None) -> None:
    """Say how it looks, and what that costs. model: as the user named the first one. picture: which one, and its size. score:
    the least one that is reported, if it is the usual one. Scores that are means over several looks are lower, so then that is
    said too.
    """
    what, size = picture
    passes = looker.passes(size)  # tiles auto: 1 for a small picture
    cost = f"{counted(passes, 'pass')} through the network for {what} of {size[0]}x{size[1]}"
    cost += ", in place of 1" if passes > 1 else ", as in the plain call"
    say(("looking closer:", "bold"), f" {' + '.join([model, *look.with_])} ({looker.name}): {cost}")
    if look.fuses and score is not None:
        more = f"so lower: to report as much as one look does at {score:g}, take a lower --score (docs/large-pictures.md)"
        say(("scores are means over the looks,", "bold"), f" {more}")
