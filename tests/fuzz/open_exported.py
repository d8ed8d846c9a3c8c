"""Damaged exported files, opened and run in a process that a runtime may kill: ``fuzz_file`` is what that process does."""

from pathlib import Path
from random import Random

import torch

import onestage
from fuzz.harness import fuzz, mutated
from onestage.deploy.benchmark import pictures
from onestage.predict.seal import SEALS, write_seal

TOKENS = (
    b"\0",
    b"\xff" * 9,
    b"\x80" * 9 + b"\x01",
    b"-1",
    b"9" * 30,
    b"opset99",
    b"../../etc/passwd",
    b"<!DOCTYPE x>",
    b"null",
)
SEALED = ("as it was", "sealed again", "without a seal")


def fuzz_file(path: Path, folder: Path, damaged: str, seconds: float | None, note: Path) -> None:
    """Damage a file that was exported, open it and run it. ``note`` holds the number of the try, for the case of a crash.

    damaged: the end of the name of the file to damage: that of ``path`` or of one of its parts. A file whose seal is as it was
    must be refused, or find what it always found.
    """
    torch.set_num_threads(1)
    images = pictures(2, (60, 80))
    expected = _found(path, images)
    data = {part: path.with_suffix(part).read_bytes() for part in (path.suffix, *_parts(path))}
    copy = folder / path.name
    number = 0

    def attempt(random: Random) -> str:
        nonlocal number
        note.write_text(f"{damaged}, try {number}")
        number += 1
        sealed = random.choice(SEALED) if path.suffix in SEALS else SEALED[0]
        for part, content in data.items():
            copy.with_suffix(part).write_bytes(_damage(random, content) if part == damaged else content)
        if sealed == SEALED[1]:
            write_seal(copy)
        elif sealed == SEALED[2]:
            copy.write_bytes(SEALS[path.suffix].split(copy.read_bytes())[0])
        found = _found(copy, images)
        if sealed == SEALED[0]:
            same = [a.boxes.equal(b.boxes) and a.scores.equal(b.scores) for a, b in zip(expected, found, strict=True)]
            assert all(same), "a damaged file gives other boxes"
        return sealed

    fuzz(f"exported {damaged} files", attempt, **({} if seconds is None else {"seconds": seconds}))


def _parts(path: Path) -> tuple[str, ...]:
    return SEALS[path.suffix].parts if path.suffix in SEALS else ()


def _found(path: Path, images: list[torch.Tensor]) -> list[onestage.Detections]:
    return onestage.load(path, trusted=True).predict(images)


def _damage(random: Random, data: bytes) -> bytes:
    """Most of a file are weights; half of the damage is in the graph at the start, or in the metadata at the end."""
    place = random.random()
    if place < 0.5:
        return mutated(random, data, tokens=TOKENS)
    cut = min(len(data) // 2, 2**17)
    if place < 0.8:
        return mutated(random, data[:cut], tokens=TOKENS) + data[cut:]
    return data[:-cut] + mutated(random, data[-cut:], tokens=TOKENS)
