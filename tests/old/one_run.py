"""One training, whole or in parts, by whichever onestage is on the path: test_same_bits.py runs this with two versions.

python one_run.py MODEL SIZE DATA OUT [--stop-after STEP | --resume]
"""

import argparse
import os
import signal
from collections.abc import Callable
from typing import Any

import torch

import onestage

torch.set_num_threads(1)


def stop_after(step: int) -> None:
    """Ctrl-C arrives in that step of the training. The loop saves and stops after it."""
    inner: Callable[..., Any] = onestage.Detector.loss
    calls = 0

    def loss(*args: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == step:
            os.kill(os.getpid(), signal.SIGINT)
        return inner(*args, **options)

    onestage.Detector.loss = loss


def main() -> None:
    """8 steps: 2 epochs of 8 pictures, 2 each."""
    parser = argparse.ArgumentParser()
    for name in ("model", "size", "data", "out"):
        parser.add_argument(name)
    parser.add_argument("--stop-after", type=int)
    parser.add_argument("--resume", action="store_true")
    given = parser.parse_args()
    if given.resume:
        assert not onestage.resume(given.out).interrupted
        return
    if given.stop_after:
        stop_after(given.stop_after)
    name, _, backbone = given.model.partition(":")
    torch.manual_seed(0)
    side = int(given.size)
    model = onestage.create(name, classes=["cube", "ring"], size=(side, side), backbone=backbone or None)
    config = onestage.TrainConfig(epochs=2, batch_size=2, workers=0, device="cpu", warmup=1, seed=7)
    result = onestage.train(model, given.data, out=given.out, config=config)
    assert result.interrupted == bool(given.stop_after)


if __name__ == "__main__":
    main()
