"""Pictures that come one after the other, such as frames of a film: detections come out in the same order.

Shape letters: H and W of a picture.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TypeVar

from torch import Tensor

from onestage.errors import ConfigError, check_number
from onestage.images import Channels, Picture, decode_image, to_tensor
from onestage.predict.ahead import Ahead
from onestage.structures import Detections

T = TypeVar("T")


def stream(
    predict: Callable[..., list[Detections]],
    pictures: Iterable[Picture],
    *,
    score: float | None,
    batch_size: int,
    channels: Channels,
) -> Iterator[Detections]:
    """The detections of each picture, in order. predict: as ``Predictor.predict``. For the rest see ``Detector.stream``.

    The thread begins with the first picture that is asked for. It copies each, because some readers put all frames of a film
    into the same memory.
    """
    check_number("batch_size", batch_size, least=1, whole=True)
    if score is not None:
        check_number("score", score, least=0)
    if isinstance(pictures, str | Path) or not isinstance(pictures, Iterable):
        what, fix = "a stream takes pictures one after the other", "model.stream([picture]), or model.predict(picture) for one"
        raise ConfigError(what, got=f"a {type(pictures).__name__}", expected="an iterable of pictures", fix=fix)
    return _stream(predict, pictures, score, batch_size, channels)


def _stream(
    predict: Callable[..., list[Detections]],
    pictures: Iterable[Picture],
    score: float | None,
    batch_size: int,
    channels: Channels,
) -> Iterator[Detections]:
    with Ahead((_copied(picture, channels) for picture in pictures), most=2 * batch_size, timeout=None) as ahead:
        for batch in batched(ahead, batch_size):
            found = predict([pixels for _, pixels in batch], score=score, batch_size=batch_size)
            paths = [path for path, _ in batch]
            del batch  # now the detections alone hold their pictures
            found.reverse()
            for path in paths:
                yield _named(found.pop(), path)


def _copied(picture: Picture, channels: Channels) -> tuple[str | Path | None, Tensor]:
    """The path of a picture, if it has one, and its pixels, (3, H, W) uint8 RGB, which are no other's."""
    if isinstance(picture, str | Path) and channels == "rgb":
        return picture, decode_image(picture)
    return None, to_tensor(picture, channels=channels).clone()


def _named(found: Detections, path: str | Path | None) -> Detections:
    """The detections of a file with its name. They read it again to draw it, so they hold no pixels."""
    if path is None:
        return found
    return replace(found, path=str(path), image_id=Path(path).name, source=partial(decode_image, path))


def batched(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """The items in lists of ``size``; the last may be shorter. An error of the iterable is raised after the items before it."""
    iterator = iter(items)
    failed: list[BaseException] = []

    def until_error() -> Iterator[T]:
        try:
            yield from islice(iterator, size)
        except Exception as error:
            failed.append(error)

    while batch := [*until_error()]:
        yield batch
        del batch
        if failed:
            break
    if failed:
        raise failed[0]
