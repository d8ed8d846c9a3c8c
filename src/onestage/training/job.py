"""Whether a launcher starts the processes of a training again: then the same command goes on with the run that it has begun.

torchrun counts restarts after a crash. It does not count where a machine joins a running training, or where a pod is replaced
by another one, which counts from 0. Then the job tells: its name and its command are in the run folder, as a checksum.
"""

from __future__ import annotations

import contextlib
from functools import partial
from pathlib import Path

from onestage.files import write_atomically
from onestage.processes import Distributed, Launch
from onestage.training.checkpoint import CHECKPOINTS

NAME = "job"


def is_again(group: Distributed, folder: Path) -> bool:
    """Whether the launcher has started this command before, and it began or went on with the run in ``folder``.

    All have to call this, and get one answer: their machines may have counted differently, and see other files.
    """
    if any(group.gather_objects(Launch.from_environment().restarts)):
        return True
    return group.on_main(partial(_is_of_job, folder))


def sign(folder: Path) -> None:
    """Write the job of this process into the run folder, if it has a name. Raise WeightsError if that is not possible."""
    if (job := Launch.from_environment().job) is not None:
        write_atomically(_place(folder), job.encode())


def _is_of_job(folder: Path) -> bool:
    """Whether the run in the folder was begun, or last gone on with, by this job and this command."""
    with contextlib.suppress(OSError, ValueError):
        return _place(folder).read_text() == Launch.from_environment().job
    return False


def _place(folder: Path) -> Path:
    return folder / CHECKPOINTS / NAME
