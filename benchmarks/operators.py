"""What onnxruntime's and OpenVINO's profilers measure for each kind of operator, and how near the convolutions come to what the
processor can do. ``stages.py --profile`` prints it. Profilers have wall time alone, so their figures need a quiet machine. The
package of ncnn has no profiler.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

import onestage
from common import Clock
from onestage.images import decode_image
from onestage.predict.engines.exported import FileEngine, threads
from onestage.predict.engines.onnxruntime import import_onnxruntime
from onestage.predict.predictor import Predictor

PRODUCTS = (
    "Conv",
    "FusedConv",
    "QLinearConv",
    "Convolution",
    "GroupConvolution",
    "MatMul",
    "FusedMatMul",
    "Gemm",
    "FullyConnected",
)
"""Kinds of operators that multiply by the network's weights; MatMul by Winograd's algorithm."""
TAIL = (
    *("TopK", "NonMaxSuppression", "Softmax", "ReduceMax", "CumSum", "Equal", "Expand", "Broadcast"),
    *("Gather", "GatherElements", "GatherND", "ScatterND", "ScatterNDUpdate"),
)
"""Kinds of operators that stand behind the network alone, in these models."""
REST = 0.02
"""Seconds of sleep before each run: on a busy machine, what has slept is interrupted less."""

Inputs = Mapping[str, np.ndarray]
Times = dict[tuple[str, str], float]
"""The least milliseconds of each operator, by its name and its kind."""


@dataclass(frozen=True)
class Profile:
    """Milliseconds of each kind of operator, the most first, for a network of ``operations`` of plain convolutions."""

    kinds: dict[str, float]
    operations: float

    @property
    def total(self) -> float:
        """Milliseconds of all operators."""
        return sum(self.kinds.values())

    @property
    def products(self) -> float:
        """Milliseconds of convolutions and matrix products."""
        return sum(self.kinds.get(kind, 0.0) for kind in PRODUCTS)

    @property
    def tail(self) -> float:
        """Milliseconds of what stands behind the network."""
        return sum(self.kinds.get(kind, 0.0) for kind in TAIL)

    def __str__(self) -> str:
        first = ", ".join(f"{kind} {value:.2f}" for kind, value in list(self.kinds.items())[:8])
        rate, network = self.operations / self.products / 1e6, self.total - self.tail
        return (
            f"{self.total:.1f} ms. Convolutions {self.products:.1f} ({self.products / self.total:.0%}), as plain ones "
            f"{rate:.0f} thousand million operations a second. Behind the network {self.tail:.1f}, which is "
            f"{self.tail / network:.0%} of the network's time. {first}"
        )


def profiled(path: Path, model: onestage.Detector, predictor: Predictor, file: Path, *, repeats: int) -> Profile:
    """The profile of an exported file on the picture in ``file``. Raise LookupError if its runtime has no profiler."""
    engine = predictor.engine
    if not isinstance(engine, FileEngine) or engine.runtime not in PROFILERS:
        raise LookupError("there is no profiler for it")
    images, metas = predictor.config.preprocess.batch([decode_image(file)])
    inputs = {"images": engine.as_pixels(images).contiguous().numpy()}
    if engine.contract.has_frames:
        inputs["frames"] = metas[0].frame[None].numpy()
    found: Counter[str] = Counter()
    for (_, kind), value in PROFILERS[engine.runtime](path, inputs, repeats).items():
        found[kind] += value  # type: ignore[assignment]
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        model(predictor.config.preprocess.normalize(images))
    return Profile(dict(found.most_common()), counter.get_total_flops())


def _by_onnxruntime(path: Path, inputs: Inputs, repeats: int) -> Times:
    onnxruntime = import_onnxruntime()

    with tempfile.TemporaryDirectory() as folder:
        options = onnxruntime.SessionOptions()
        options.enable_profiling, options.profile_file_prefix = True, f"{folder}/profile"
        options.intra_op_num_threads, options.log_severity_level = threads(), 4
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        for _ in range(repeats):
            time.sleep(REST)
            session.run(None, dict(inputs))
        events = json.loads(Path(session.end_profiling()).read_text())
    return _least(
        (event["name"], event["args"]["op_name"], event["dur"] / 1000)
        for event in events
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time")
    )


def _by_openvino(path: Path, inputs: Inputs, repeats: int) -> Times:
    import openvino

    model = openvino.Core().read_model(path)
    model.reshape({name: list(value.shape) for name, value in inputs.items()})
    settings = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY", "PERF_COUNT": True}
    settings["INFERENCE_NUM_THREADS"] = threads()
    request = openvino.Core().compile_model(model, "CPU", settings).create_infer_request()
    found = []
    for _ in range(repeats):
        time.sleep(REST)
        request.infer(dict(inputs))
        found += request.get_profiling_info()
    return _least((node.node_name, node.node_type, node.real_time.total_seconds() * 1000) for node in found)


PROFILERS: dict[str, Callable[[Path, Inputs, int], Times]] = {"onnxruntime": _by_onnxruntime, "openvino": _by_openvino}
"""By the names of runtimes."""


def _least(rows: Iterable[tuple[str, str, float]]) -> Times:
    """Rows of name, kind and milliseconds -> the least milliseconds of each operator."""
    times: dict[tuple[str, str], list[float]] = defaultdict(list)
    for name, kind, milliseconds in rows:
        times[name, kind].append(milliseconds)
    return {key: min(values) for key, values in times.items()}


@cache
def peak(clock: Clock = "wall", side: int = 1024, repeats: int = 40) -> str:
    """The operations a second of a plain product of two square matrices, in words: what this processor can do at best. By
    processor time it is that of one thread.
    """
    now = time.perf_counter if clock == "wall" else time.process_time
    floats = np.random.default_rng(0).standard_normal((2, side, side), dtype=np.float32)
    whole = torch.randint(-128, 127, (2, side, side), dtype=torch.int8)
    products: dict[str, Callable[[], object]] = {
        "float32 (numpy)": lambda: floats[0] @ floats[1],
        "int8 (torch)": lambda: torch._int_mm(whole[0], whole[1]),
    }
    found = []
    for name, product in products.items():
        seconds = []
        for _ in range(repeats):
            start = now()
            product()
            seconds.append(now() - start)
        found.append(f"{name} {2 * side**3 / min(seconds) / 1e9:.0f}")
    return f"a product of two matrices, thousand million operations a second by {clock} time: {', '.join(found)}"
