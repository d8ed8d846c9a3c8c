"""What ``--recompute`` saves and costs: the bytes of maps that a step keeps for its backward pass, and the time of a step.

    python benchmarks/recompute.py --models efficientdet_d0 efficientdet_d5
    python benchmarks/recompute.py --models efficientdet_d0 --steps 3 --size 512

The bytes are counted at the full input size without computing anything (torch's meta device), for one picture in fp32, and
exactly: every storage that the backward pass holds, the weights aside. --steps also times steps on this machine, and shows the
largest memory of each process.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor

from onestage.model.detector import Detector
from onestage.training.recompute import recomputed
from onestage.zoo.table import recipe

MODELS = ["efficientdet_d0", "efficientdet_d3", "efficientdet_d5", "efficientdet_d7x", "retinanet_resnet50_fpn", "ssd300_vgg16"]


@contextmanager
def counting(model: Detector) -> Iterator[dict[int, int]]:
    """The bytes of every storage that autograd keeps inside, those of weights and buffers aside."""
    kept: dict[int, int] = {}
    alive: list[Tensor] = []
    weights = {tensor.untyped_storage()._cdata for tensor in model.state_dict().values()}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in weights:
            kept[storage._cdata] = storage.nbytes()
            alive.append(tensor)  # so that no other storage gets its number
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        yield kept


def sparing(model: Detector, *, again: bool) -> AbstractContextManager[None]:
    return recomputed(model, nullcontext) if again else nullcontext()


def kept_bytes(name: str, size: int | None, *, again: bool) -> int:
    """Of one picture."""
    model = Detector.on("meta", recipe(name, ("thing",), **({} if size is None else {"size": (size, size)}))).train()
    height, width = model.config.preprocess.largest
    with counting(model) as kept, sparing(model, again=again):
        model(torch.empty(1, 3, height, width, device="meta"))
    return sum(kept.values())


def step(name: str, size: int | None, steps: int, batch: int, *, again: bool) -> None:
    """Print the seconds of a step and the largest memory of this process in gigabytes."""
    model = Detector(recipe(name, ("thing",), **({} if size is None else {"size": (size, size)}))).train()
    height, width = model.config.preprocess.largest
    images = torch.rand(batch, 3, height, width).contiguous(memory_format=torch.channels_last)
    taken = []
    for _ in range(steps + 1):
        begun = time.perf_counter()
        with sparing(model, again=again):
            output = model(images)
        (output.logits.mean() + output.deltas.mean()).backward()
        taken.append(time.perf_counter() - begun)
    print(min(taken[1:]), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--size", type=int, help="side of the input; by default that of the recipe")
    parser.add_argument("--steps", type=int, default=0, help="time so many steps")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--again", choices=["no", "yes"], help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.again:
        step(given.models[0], given.size, given.steps, given.batch, again=given.again == "yes")
        return
    print(
        "| model | kept, GB per picture | with --recompute | part |" + " s/step | with | peak GB | with |" * (given.steps > 0)
    )
    print("|---|---:|---:|---:|" + "---:|---:|---:|---:|" * (given.steps > 0))
    for name in given.models:
        plain, again = (kept_bytes(name, given.size, again=again) / 1e9 for again in (False, True))
        row = f"| {name} | {plain:.2f} | {again:.2f} | {again / plain:.0%} |"
        if given.steps:
            options = ["--models", name, "--steps", str(given.steps), "--batch", str(given.batch)]
            options += [] if given.size is None else ["--size", str(given.size)]
            found = []
            for answer in ("no", "yes"):
                command = [sys.executable, __file__, *options, "--again", answer]
                found.append(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())
            (seconds, peak), (longer, less) = found
            row += f" {float(seconds):.2f} | {float(longer):.2f} | {float(peak):.2f} | {float(less):.2f} |"
        print(row, flush=True)


if __name__ == "__main__":
    main()
