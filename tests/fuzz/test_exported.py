"""Damaged exported files: each finds what it found before, or is refused, and the process lives."""

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import pytest

import exported_files
from fuzz.harness import SECONDS
from fuzz.open_exported import fuzz_file
from onestage.deploy.export import export

pytest.importorskip("onnxruntime", reason="pip install 'onestage[onnx]'")


def run_in_a_process(path: Path, folder: Path, damaged: str, seconds: float) -> None:
    """Fail if the process dies or hangs: a runtime's C++ can do both. It is forked from a server that has run nothing."""
    note = folder / "try.txt"
    with ProcessPoolExecutor(1, multiprocessing.get_context("forkserver")) as pool:
        try:
            pool.submit(fuzz_file, path, folder, damaged, seconds, note).result(timeout=seconds + 240)
        except (BrokenProcessPool, TimeoutError) as error:
            for process in pool._processes.values():
                process.kill()
            pytest.fail(f"{type(error).__name__}: {note.read_text()}; the file is {folder}")


@pytest.mark.slow
def test_onnx_files(tmp_path):
    run_in_a_process(exported_files.onnx_file("detections"), tmp_path, ".onnx", SECONDS)


@pytest.mark.slow
@pytest.mark.parametrize("damaged", [".xml", ".bin"])
def test_openvino_files(tmp_path, damaged):
    pytest.importorskip("openvino", reason="pip install 'onestage[openvino]'")
    run_in_a_process(exported_files.openvino_file(), tmp_path, damaged, SECONDS)


@pytest.mark.slow
def test_torch_programs(tmp_path):
    path = export(exported_files.model(), tmp_path / "model.pt2", to="torch", check=False).path
    (tmp_path / "copies").mkdir()
    run_in_a_process(path, tmp_path / "copies", ".pt2", SECONDS)
