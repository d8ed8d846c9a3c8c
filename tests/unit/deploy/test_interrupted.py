"""An export that is ended leaves a whole file or none, and nothing that stays."""

import os
import signal
import subprocess
import sys
import time

import pytest

import onestage
from onestage.files import CLAIMED_AFTER, temporary_folder

pytest.importorskip("onnx", reason="pip install 'onestage[onnx]'")
pytest.importorskip("onnxruntime", reason="pip install 'onestage[onnx]'")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

ENDS = [signal.SIGINT, signal.SIGTERM, signal.SIGKILL]
MOMENTS = {"before the file": "*", "while it is checked": "*/m.onnx", "at the end": "m_vectors"}
"""What lies in the folder when the signal comes. The vectors take their place before the file does, and it may be there too."""


@pytest.mark.parametrize("end", ENDS, ids=lambda end: end.name)
@pytest.mark.parametrize("moment", MOMENTS)
def test_an_export_that_is_ended_leaves_no_part_of_a_file(model, tmp_path, end, moment):
    model.save(tmp_path / "m.safetensors")
    out = tmp_path / "out"
    out.mkdir()
    command = [sys.executable, "-m", "onestage", "export", tmp_path / "m.safetensors", "-o", out / "m.onnx"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        while process.poll() is None and not list(out.glob(MOMENTS[moment])):
            time.sleep(0.001)
        process.send_signal(end)
        _, told = process.communicate()
    names = {path.name for path in out.iterdir()}
    if end == signal.SIGKILL:  # what it left goes when the next export begins
        for name in names:
            os.utime(out / name, times=(time.time() - 2 * CLAIMED_AFTER,) * 2)
        with temporary_folder(out / "m.onnx"):
            pass
        names = {path.name for path in out.iterdir()}
    else:
        assert "Traceback" not in told
    assert names <= {"m.onnx", "m_vectors"}
    if "m.onnx" in names:
        assert onestage.load(out / "m.onnx").classes == model.classes
