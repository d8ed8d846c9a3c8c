"""``onestage data generate``: the built-in data on disk."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import tyro
from rich.progress import Progress

from onestage.cli.output import picture_columns, stderr, tell
from onestage.data.solids import SOLIDS
from onestage.data.synthetic import SyntheticConfig, generate_encoded
from onestage.data.writers import Split, write_coco, write_voc, write_yolo
from onestage.errors import ConfigError, DataError, check_folder_place, counted
from onestage.files import TEMPORARY, make_folder, open_regular, write_file
from onestage.images import ImageLimits
from onestage.structures import Size

WRITERS: dict[str, Callable[..., int]] = {"coco": write_coco, "voc": write_voc, "yolo": write_yolo}

UNFINISHED = "INCOMPLETE.md"
"""The name of a file that is in the folder until all other files are written."""

FINISHED = "GENERATED.md"
LIMITS = ImageLimits()
"""A picture that nothing here could read is not drawn."""
MOST = 100_000_000
"""Pictures in a data set."""
WRITTEN = {
    *("train", "val", "test", "annotations"),  # COCO
    *("JPEGImages", "Annotations", "ImageSets"),  # VOC
    *("images", "labels", "data.yaml"),  # YOLO
    *(FINISHED, UNFINISHED),
}


def generate(
    out: tyro.conf.Positional[Path],
    /,
    *,
    format: Literal["coco", "voc", "yolo"] = "coco",
    train: int = 1000,
    val: int = 200,
    test: int = 0,
    size: str = "256",
    classes: tuple[str, ...] = tuple(SOLIDS),
    seed: int = 0,
    overwrite: bool = False,
) -> int:
    """Draw the built-in data set: balls, bottles, cones, cubes, mugs, mushrooms, rings and stars on textured grounds.

    The same arguments give the same pictures, so this data set needs no download. Use it to try a model or a setting in
    minutes, to learn the formats, or to test a pipeline before your pictures are labelled.

    The usual one is `onestage data generate shapes`. A small one of other pictures:
    `onestage data generate few --format yolo --train 200 --val 50 --size 320x480 --classes ball cube star --seed 7`

    Args:
        out: folder to write to; made if it does not exist, and must be empty if it does
        format: layout on disk: COCO JSON, Pascal VOC XML or YOLO text files, with the same pictures in each
        train: pictures to train on
        val: held-out pictures, to choose the best epoch by
        test: held-out pictures, to measure the final model on
        size: side of the pictures in pixels, or HEIGHTxWIDTH
        classes: which kinds of objects to draw
        seed: another number gives other pictures
        overwrite: replace the data set that this command wrote there before, finished or not
    """
    config = SyntheticConfig(classes=classes, size=parse_size(size), seed=seed)
    counts: dict[Split, int] = {"train": train, "val": val, "test": test}
    write_data_set(out, counts, config, format=format, overwrite=overwrite)
    parts = ", ".join(f"{count} {split}" for split, count in counts.items() if count)
    tell(f"{counted(sum(counts.values()), 'picture')} ({parts}) of {len(classes)} classes as {format} in {out}")
    tell(f"next: onestage train {shlex.quote(str(out))}")
    return 0


def write_data_set(
    out: Path, counts: dict[Split, int], config: SyntheticConfig, *, format: str = "coco", overwrite: bool = False
) -> None:
    """Draw ``counts`` pictures for the splits into a folder, with a progress bar for each split.

    The folder must be new or empty; with ``overwrite`` it may hold a generated data set.
    """
    if min(counts.values()) < 0 or not 0 < sum(counts.values()) <= MOST:
        got, expected = ", ".join(f"--{split} {count}" for split, count in counts.items()), f"1 to {MOST:,} pictures in all"
        what, fix = "no pictures to draw, or too many", "such as --train 1000 --val 200"
        raise ConfigError(what, got=got, expected=f"0 or more in each split, {expected}", fix=fix)
    _make_room(out, overwrite=overwrite)
    _write(out, format, counts, config)
    write_file(out / FINISHED, _description(format, counts, config))
    (out / UNFINISHED).unlink()


def parse_size(text: str, *, option: str = "--size", or_: str = "") -> Size:
    """'256' or '240x320' -> (height, width), both 1 or more. option: its name in the ConfigError for anything else. or_: a word
    that the option takes as well.
    """
    sides = text.lower().split("x")
    expected, fix = "256, or 240x320 for height x width", f"such as {option} {or_ or 320}"
    expected = f"{or_}, {expected}" if or_ else expected
    if len(sides) > 2 or not all(side.isdecimal() for side in sides):
        raise ConfigError(f"{option} is not understood", got=repr(text), expected=expected, fix=fix)
    height, width = int(sides[0][:20]), int(sides[-1][:20])  # in more digits Python itself finds no number
    if min(height, width) < 1:
        raise ConfigError(f"{option} has a side without pixels", got=repr(text), expected=expected, fix=fix)
    if max(height, width) > LIMITS.max_side or height * width > LIMITS.max_pixels:
        most = f"sides of at most {LIMITS.max_side:,} pixels, and {LIMITS.max_pixels:,} pixels in all"
        raise ConfigError(f"{option} is too large", got=repr(text), expected=most, fix=fix)
    return height, width


def _make_room(out: Path, *, overwrite: bool) -> None:
    """Make ``out`` a folder that holds only the mark of an unfinished data set.

    Remove only what this command wrote. Raise DataError if anything else is there.
    """
    check_folder_place(out, "a folder for the pictures", fix="name another folder")
    make_folder(out)
    present = {entry.name for entry in out.iterdir()}
    _check_removable(out, present, overwrite=overwrite)
    write_file(
        out / UNFINISHED,
        "The writing of this data set was interrupted, or is still going on: do not use it.\n"
        "`onestage data generate` with `--overwrite` starts again.\n",
    )
    for entry in (out / name for name in present - {UNFINISHED}):
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()


def _check_removable(out: Path, present: set[str], *, overwrite: bool) -> None:
    """Raise DataError unless the folder is empty, or holds a generated data set that may be overwritten."""
    generated = bool(present & {FINISHED, UNFINISHED})
    ours = WRITTEN | {name for name in present if name.endswith(TEMPORARY)} if generated else set()
    foreign = sorted(present - ours)
    if foreign:
        raise DataError("this folder holds other things", where=out, got=", ".join(foreign[:5]), fix="name another one")
    if generated and not overwrite:
        fix = "name another folder, or add --overwrite to replace it"
        raise DataError("a data set was generated here before", where=out, fix=fix)


def _write(out: Path, format: str, counts: dict[Split, int], config: SyntheticConfig) -> None:
    """Write all splits, one after another. Each takes the next indices, so no picture is in two splits."""
    first = 0
    with Progress(*picture_columns(), console=stderr()) as progress:
        for split, count in counts.items():
            if count:
                bar = progress.add_task(split, total=count)
                pictures = progress.track(generate_encoded(range(first, first + count), config), task_id=bar)
                WRITERS[format](pictures, out, classes=config.classes, split=split)
                first += count


def is_data_set(folder: Path, counts: dict[Split, int], config: SyntheticConfig, *, format: str = "coco") -> bool:
    """Whether the folder holds the finished data set that ``write_data_set`` writes for the same arguments."""
    try:
        with open_regular(folder / FINISHED) as mark:
            lines = mark.read().decode(errors="replace").splitlines()
    except OSError:  # there is none
        return False
    return _command(format, counts, config) in map(str.strip, lines)


def _command(format: str, counts: dict[Split, int], config: SyntheticConfig) -> str:
    """The command that draws these pictures."""
    numbers = " ".join(f"--{split} {count}" for split, count in counts.items())
    look = f"--size {config.size[0]}x{config.size[1]} --classes {' '.join(config.classes)} --seed {config.seed}"
    return f"onestage data generate FOLDER --format {format} {numbers} {look}"


def _description(format: str, counts: dict[Split, int], config: SyntheticConfig) -> str:
    """The text about the pictures in the folder, with the command that makes them again."""
    return f"""# Generated pictures

Drawn by onestage; free to use for anything. To make them again, with the same versions of onestage, numpy and Pillow:

    {_command(format, counts, config)}
"""
