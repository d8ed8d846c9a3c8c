"""Several processes: a real group of two on the CPU under torchrun, and the ways in which a start can be wrong."""

import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

from onestage import processes as distributed
from onestage.errors import ConfigError, LostError
from onestage.processes import RESTARTS, TOLD, VARIABLES, Distributed, Launch, _Alarm, choose_device, init
from small_runs import run_program, together


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*VARIABLES, RESTARTS):
        monkeypatch.delenv(name, raising=False)


def launched(monkeypatch: pytest.MonkeyPatch, **changes: str | None) -> None:
    variables = dict(zip(VARIABLES, ("0", "1", "0", "127.0.0.1", "29500"), strict=True)) | changes
    for name, value in variables.items():
        if value is not None:
            monkeypatch.setenv(name, value)


class HalfUsed(torch.nn.Module):
    """A network with a part that its output does not depend on."""

    def __init__(self) -> None:
        super().__init__()
        self.used, self.spare = torch.nn.Linear(1, 1, bias=False), torch.nn.Linear(1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self.used(x)
        return output


def mean_gradient(group: Distributed) -> float:
    """Of two steps: torch notices in the second that a parameter had no gradient in the first."""
    model = HalfUsed()
    network = group.parallel(model, spare_parts=True)
    for _ in range(2):
        model.zero_grad()
        network(torch.tensor([[group.rank + 1.0]])).sum().backward()
    assert model.used.weight.grad is not None
    return model.used.weight.grad.item()


def take_part(out: Path) -> None:
    """What each of the two processes does; it leaves its results in ``out``."""
    with init("cpu") as group:
        part = torch.tensor([group.rank + 1.0, 10.0], requires_grad=True)
        total = group.all_reduce_sum(part)
        with init("cpu") as again:  # stays in the group around it
            gathered = again.gather_objects({"rank": again.rank, "ids": ["a"] * group.rank})
        shared, turned = torch.tensor([5.0, 6.0]) * (group.rank + 1), torch.arange(4).reshape(2, 2).T * (group.rank + 1)
        group.share([shared, turned])
        if not group.is_main:
            time.sleep(0.3)
            (out / "late").touch()
        group.barrier()
        result = {
            "facts": [group.rank, group.world, group.local_rank, str(group.device), group.is_main],
            "sums": [part.tolist(), total.tolist(), total.requires_grad],
            "gathered": gathered,
            "shared": [shared.tolist(), turned.tolist()],
            "waited": (out / "late").exists(),
            "gradient": mean_gradient(group),
        }
    result["left"] = not torch.distributed.is_initialized()
    (out / f"{group.rank}.json").write_text(json.dumps(result))


def check_results(out: Path) -> None:
    for rank in range(2):
        assert json.loads((out / f"{rank}.json").read_text()) == {
            "facts": [rank, 2, rank, "cpu", rank == 0],
            "sums": [[rank + 1, 10], [3, 20], False],
            "gathered": [{"rank": 0, "ids": []}, {"rank": 1, "ids": ["a"]}],
            "shared": [[5, 6], [[0, 2], [1, 3]]],
            "waited": True,
            "gradient": 1.5,
            "left": True,
        }


def test_two_processes(tmp_path: Path) -> None:
    with together(run_program, __file__, str(tmp_path)):
        pass
    check_results(tmp_path)


@pytest.mark.slow
def test_two_processes_under_torchrun(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", __file__, str(tmp_path)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    check_results(tmp_path)


def check_alone(group: Distributed) -> None:
    assert not torch.distributed.is_initialized()
    assert (group.rank, group.world, group.local_rank, group.is_main) == (0, 1, 0, True)
    part = torch.tensor([2.0])
    total = group.all_reduce_sum(part)
    total += 1
    assert part.item() == 2 and group.gather_objects("x") == ["x"]
    group.barrier()
    group.close()


def test_without_a_launcher_nothing_happens() -> None:
    with init("cpu") as group:
        assert group.device == torch.device("cpu")
        check_alone(group)


def test_one_launched_process_needs_no_group(monkeypatch: pytest.MonkeyPatch) -> None:
    launched(monkeypatch)
    check_alone(init("cpu"))


def test_what_the_launcher_says(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Launch.from_environment() == Launch(rank=0, world=1, local_rank=0, restarts=0)
    launched(monkeypatch, RANK="5", WORLD_SIZE="8", LOCAL_RANK="1", TORCHELASTIC_RESTART_COUNT="2")
    assert Launch.from_environment() == Launch(rank=5, world=8, local_rank=1, restarts=2)
    assert not Launch.from_environment().is_main and Launch().is_main


@pytest.mark.parametrize(("available", "kind"), [(True, "cuda"), (False, "cpu")])
def test_the_gpu_is_taken_where_there_is_one(monkeypatch: pytest.MonkeyPatch, available: bool, kind: str) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: available)
    monkeypatch.setattr(torch, "empty", lambda *_, **__: None)  # that the GPU works is not the question
    assert init().device.type == kind


def test_each_process_takes_its_own_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    launched(monkeypatch, RANK="5", WORLD_SIZE="8", LOCAL_RANK="1")
    calls: list[object] = []
    monkeypatch.setattr(distributed, "choose_device", torch.device)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(torch.cuda, "set_device", calls.append)
    monkeypatch.setattr(distributed.dist, "init_process_group", lambda backend, **_: calls.append(backend))
    assert init("cuda") == Distributed(rank=5, world=8, local_rank=1, device=torch.device("cuda:1"))
    assert calls == [torch.device("cuda:1"), "cpu:gloo,cuda:nccl"]


def test_no_process_touches_the_gpu_of_another(monkeypatch: pytest.MonkeyPatch) -> None:
    launched(monkeypatch, RANK="1", WORLD_SIZE="2", LOCAL_RANK="1")
    touched: list[object] = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch, "empty", lambda *_, device: touched.append(device))
    monkeypatch.setattr(torch.cuda, "set_device", touched.append)
    monkeypatch.setattr(distributed.dist, "init_process_group", lambda backend, **_: None)
    for name in (None, "cuda"):
        init(name).close()
    with pytest.raises(ConfigError, match=r"cannot share one GPU\n.*cuda:0"):
        init("cuda:0")
    assert touched == [torch.device("cuda:1")] * 4


def test_a_port_that_is_taken_is_no_lost_process(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        launched(monkeypatch, WORLD_SIZE="2", MASTER_PORT=port)
        with pytest.raises(ConfigError, match=f"another program has the port of this training(.|\n)*{port}"):
            init("cpu", timeout=5)


def test_the_launcher_of_processes_finds_another_port(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between its look and the start of the first process, another program may take the port: they start again."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        launched(monkeypatch, WORLD_SIZE="2", MASTER_PORT=str(other.getsockname()[1]), **{TOLD: "told"})
        with pytest.raises(LostError, match="another program has the port"):
            init("cpu", timeout=5)


def test_an_alarm_that_cannot_be_told_stops_no_work_and_ends_with_the_group(monkeypatch: pytest.MonkeyPatch) -> None:
    told, free, before = threading.Event(), threading.Event(), threading.active_count()
    monkeypatch.setattr(distributed, "SILENT", 0.01)
    monkeypatch.setattr(distributed, "warn_outside", lambda _: (told.set(), free.wait(20)))
    group = Distributed(0, 2, 0, torch.device("cpu"), _alarm=_Alarm())
    with group.patience():
        assert told.wait(20)
    for _ in range(3):  # while standard error blocks
        with group.patience():
            pass
    group.close()
    assert threading.active_count() == before + 1
    free.set()
    deadline = time.monotonic() + 20
    while threading.active_count() > before:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_more_processes_than_gpus_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    launched(monkeypatch, RANK="2", WORLD_SIZE="4", LOCAL_RANK="2")
    monkeypatch.setattr(distributed, "choose_device", torch.device)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(ConfigError, match="LOCAL_RANK=2 with 2 GPUs"):
        init("cuda")


@pytest.mark.parametrize("name", ["tpu", "cuda:99", "meta:x"])
def test_a_device_that_is_not_there_is_an_error(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"cannot be used\n  got:      {name}"):
        init(name)


@pytest.mark.parametrize("missing", VARIABLES)
def test_an_incomplete_launch_names_what_is_missing(monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    launched(monkeypatch, **{missing: None})
    with pytest.raises(ConfigError, match=f"no {missing}\n"):
        init("cpu")


@pytest.mark.parametrize("change", [{"RANK": "1"}, {"RANK": "x"}, {"RANK": "-1"}, {"WORLD_SIZE": "0"}, {"LOCAL_RANK": "7"}])
def test_an_impossible_launch_is_an_error(monkeypatch: pytest.MonkeyPatch, change: dict[str, str]) -> None:
    launched(monkeypatch, **change)
    with pytest.raises(ConfigError, match="impossible"):
        init("cpu")


if __name__ == "__main__":  # under torchrun
    take_part(Path(sys.argv[1]))


@pytest.mark.parametrize("port", ["x", "0", "-1", "65536", "9" * 30, "²"])
def test_a_port_that_is_none(monkeypatch, port):
    for name, value in zip(VARIABLES, ("0", "2", "0", "localhost", port), strict=True):
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match="MASTER_PORT"):
        Launch.from_environment()


@pytest.mark.parametrize("name", ["meta", "gpu", "cpu:x", "\0", "cuda:99"])
def test_a_device_that_computes_nothing_is_refused_in_a_few_words(name):
    with pytest.raises(ConfigError, match="this device cannot be used") as caught:
        choose_device(name)
    assert len(str(caught.value)) < 300


BROKEN = (
    "[gloo/transport/tcp/pair.cc:545] Read error [127.0.0.1]:4: Connection reset by peer",
    "[gloo/transport/tcp/unbound_buffer.cc:78] Timed out waiting 4000ms for recv operation to complete",
    "Application timeout caused pair closure",
    "Connection closed by peer [127.0.0.1]:14253",
)


@pytest.mark.parametrize("text", BROKEN)
def test_an_error_of_the_exchange_is_a_lost_process(text: str) -> None:
    """As gloo words it when another process was killed or stopped; no other error changes."""
    several = Distributed(rank=0, world=2, local_rank=0, device=torch.device("cpu"))
    with pytest.raises(LostError, match="another process of this training"), several:
        raise RuntimeError(text)


@pytest.mark.parametrize(
    "text",
    [
        "shape mismatch",
        "/data/igloo/a.jpg is no picture",
        "gloo/weights.pt: 3 keys are missing",
        "Timed out waiting for a lock",
    ],
)
def test_other_errors_are_no_lost_process(text: str) -> None:
    several = Distributed(rank=0, world=2, local_rank=0, device=torch.device("cpu"))
    with pytest.raises(RuntimeError, match=re.escape(text)), several:
        raise RuntimeError(text)
