"""Pictures and a detector for batches."""

from pathlib import Path

import pytest

from batches_of_pictures import batch, write_batch_pictures, write_model
from small_runs import serve


@pytest.fixture(autouse=True, scope="session")
def server() -> None:
    """Processes of batches and those that tests begin are forked from one server."""
    serve()


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """23 generated pictures in two folders, two of them broken."""
    return write_batch_pictures(tmp_path_factory.mktemp("pictures") / "photos")


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A TinySSD with fresh weights in a file: it finds much, all of it with scores around 0.3."""
    return write_model(tmp_path_factory.mktemp("model") / "tiny.safetensors")


@pytest.fixture(scope="session")
def whole(pictures: Path, model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results that nothing disturbed, by one process. Tests only read them."""
    out = tmp_path_factory.mktemp("whole") / "found"
    assert batch(pictures, out, model, "--workers", "1") == 1  # two pictures are broken
    return out
