"""What folding brings with torch: the engine with a folded copy of the network, against the network as it is written.

OMP_NUM_THREADS=1 python benchmarks/folded.py --clock cpu
OMP_NUM_THREADS=1 python benchmarks/folded.py --clock cpu --bf16

"ours" is the folded copy, "peer" the network as it is written; both in one process, in turns, on one picture.
"""

from __future__ import annotations

from functools import partial

import tyro

from common import PEERS, Clock, compare, pair, pictures, report
from onestage.predict.predictor import Predictor


def main(*, models: tuple[str, ...] = tuple(PEERS), bf16: bool = False, repeats: int = 8, clock: Clock = "wall") -> None:
    """Compare the engines, without resizing and decoding.

    Args:
        models: the detectors, by their names in torchvision or effdet (tf_*).
        bf16: the copy computes in bfloat16.
        repeats: timed turns of each.
        clock: wall time, or processor time on a busy machine.
    """
    found = []
    for name in models:
        model = pair(name)[0]
        images, metas = model.config.preprocess.batch(pictures(1))
        turns = [partial(one.run, images, metas) for one in (Predictor.folded(model, bf16=bf16), Predictor.of(model))]
        found.append(compare(name, *turns, repeats=repeats, clock=clock))
        print(" | ".join(found[-1].row), flush=True)
    report(f"the network with torch, {clock} time", found, path=None)


if __name__ == "__main__":
    tyro.cli(main)
