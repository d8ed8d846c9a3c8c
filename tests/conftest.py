"""Fixtures shared by all tests, and one thread for each process that runs them.

Two processes with a thread each are faster than one with two, and two with two each wait for one another. Programs that tests
start inherit it.
"""

import os
from pathlib import Path

import pytest
from hypothesis import settings

os.environ["OMP_NUM_THREADS"] = "1"  # torch reads it when it is first imported, which is after this

settings.register_profile("no deadline", deadline=None)  # a busy machine is no reason to fail
settings.load_profile("no deadline")

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real pictures, labels and weights that stands beside a developer's checkout; skips where it is absent."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"no shared data beside the checkout (looked for {SHARED_DATA.parent.name}/{SHARED_DATA.name})")
    return SHARED_DATA
