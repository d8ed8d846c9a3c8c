"""Which runtime runs a detector: by name, from the cache, or chosen by a measurement."""

import contextlib
import copy
import json
import os
import re
import shutil
import signal
import threading
import tomllib
import warnings
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import get_args, get_type_hints

import pytest
import torch
from filelock import FileLock
from PIL import Image

import onestage
from exported_files import check_shared_by_threads
from onestage.cli.common import find_any_model, run_model
from onestage.cli.generate import write_data_set
from onestage.cli.main import main
from onestage.data.reader import open_data
from onestage.data.synthetic import SyntheticConfig
from onestage.deploy import cache, plan, runtimes
from onestage.deploy.benchmark import pictures
from onestage.deploy.cache import Cached
from onestage.deploy.check import TOLERANCE, Agreement, compare, drawn_pictures
from onestage.deploy.export import FORMATS
from onestage.deploy.plan import MAKERS, ExportConfig, fingerprint, is_as_built, plan_export
from onestage.deploy.runtimes import RUNTIMES, Runtime, choose, needed_for, run_by
from onestage.errors import ConfigError, MismatchError, OnestageError, WeightsError, WriteError
from onestage.model.output.postprocess import RawDetections
from onestage.predict.contract import PRECISIONS
from onestage.predict.engines.exported import FileEngine, threads
from onestage.predict.engines.onnxruntime import open_onnx
from onestage.predict.engines.openvino import open_openvino
from onestage.predict.exported import OPENERS, open_exported
from onestage.predict.predictor import TorchEngine
from small_runs import signal_here, start

pytest.importorskip("onnx", reason="pip install 'onestage[onnx]'")
pytest.importorskip("onnxruntime", reason="pip install 'onestage[onnx]'")


PICTURE = drawn_pictures(1)


@pytest.fixture(scope="module")
def exported(model, folder):
    """A model and its ONNX file."""
    return model, folder / "model.onnx"


@pytest.fixture
def home(exported, tmp_path, monkeypatch):
    """An empty cache, and exports that copy the file which was made once. Its list counts them."""
    monkeypatch.setenv("ONESTAGE_HOME", str(tmp_path / "home"))
    made = []

    def write(plan, path):
        made.append(path)
        shutil.copy(exported[1], path)

    monkeypatch.setitem(FORMATS, "onnx", replace(FORMATS["onnx"], write=write))
    for module in ("export", "runtimes"):  # one picture to check with is enough here
        monkeypatch.setattr(f"onestage.deploy.{module}.drawn_pictures", lambda: PICTURE)
    return made


@pytest.fixture(scope="module")
def labelled(tmp_path_factory):
    """A model's file, and a folder with two pictures and the labels of its classes."""
    folder = tmp_path_factory.mktemp("labelled")
    write_data_set(folder / "set", {"val": 2}, SyntheticConfig(seed=1, size=(64, 96)))
    (folder / "a file").touch()
    onestage.create("tinyssd", classes=open_data(folder / "set").load("val").classes, size=(64, 96)).save(
        folder / "m.safetensors"
    )
    return folder / "m.safetensors", folder / "set"


def agrees(model, file, images):
    """Whether a file finds what the model finds in pictures (3, H, W)."""
    pairs = zip(model.predict(images), file.predict(images), strict=True)
    total = sum((compare(*pair, TOLERANCE, places=200) for pair in pairs), Agreement())
    return total.paired == total.compared > 20


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_detectors_file_is_run_by_any_runtime(exported, home, runtime):
    if not RUNTIMES[runtime].installed:
        pytest.skip(f"{runtime} is not installed")
    model, path = exported
    for _ in range(2):
        file = onestage.load(path.with_name("model.safetensors"), runtime=runtime)
        assert file.engine.runtime == runtime and file.engine.contract.checked
        assert agrees(model, file, pictures(5, (100, 140)))
    assert len(home) == (RUNTIMES[runtime].to == "onnx")


@pytest.mark.parametrize("suffix", OPENERS)
def test_a_run_folder_may_have_the_name_of_an_exported_file(exported, tmp_path, suffix):
    run = tmp_path / f"run{suffix}"
    run.mkdir()
    shutil.copy(exported[1].with_name("model.safetensors"), run / "best.safetensors")
    assert isinstance(onestage.load(run), onestage.Detector) and isinstance(find_any_model(str(run)), onestage.Detector)


def test_a_file_that_no_runtime_opens_is_named():
    with pytest.raises(ConfigError, match="no runtime opens a file of this name"):
        open_exported("model.foo")


def ctrl_c_after_openvino(path):
    """Of two engines the elder goes first; then one goes in another thread."""
    engines = [open_openvino(path), open_openvino(path)]
    del engines[0]
    engines.clear()
    with pytest.raises(KeyboardInterrupt):
        signal_here(signal.SIGINT)
    engines.append(open_openvino(path))
    thread = threading.Thread(target=engines.clear)
    thread.start()
    thread.join()
    with pytest.raises(KeyboardInterrupt):
        signal_here(signal.SIGINT)


def test_ctrl_c_is_heard_after_openvino_s_engines_have_gone(exported, tmp_path):
    pytest.importorskip("openvino", reason="pip install 'onestage[openvino]'")
    process = start(ctrl_c_after_openvino, exported[1], log=tmp_path / "log")
    process.join(60)
    assert process.exitcode == 0, (tmp_path / "log").read_text()


def test_onnxruntime_is_told_to_report_nothing_unless_the_user_says_otherwise(exported, monkeypatch):
    for given, then in (None, "1"), ("0", "0"):
        monkeypatch.setenv("ORT_DISABLE_TELEMETRY", given or "")
        if given is None:
            monkeypatch.delenv("ORT_DISABLE_TELEMETRY")
        open_onnx(exported[1])
        assert os.environ["ORT_DISABLE_TELEMETRY"] == then


def test_torch_gives_the_detector(exported):
    model = onestage.load(exported[1].with_name("model.safetensors"), runtime="torch")
    assert isinstance(model, onestage.Detector)
    assert isinstance(run_by(model, "torch").engine, TorchEngine)


@pytest.mark.parametrize("harm", ["flip", "cut", "lost"])
def test_a_damaged_file_in_the_cache_is_made_anew(exported, home, harm):
    cached = Cached.of(exported[0])
    cached.open("onnx", "onnxruntime")
    path = cached.place("onnx") / "model.onnx"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1  # in the weights: the file still opens
    if harm == "lost":
        path.unlink()
    else:
        path.write_bytes(data if harm == "flip" else data[:1000])
    cached.open("onnx", "onnxruntime")
    assert len(home) == 2 and path.read_bytes() == exported[1].read_bytes()


def test_several_at_once_make_one_file(exported, home):
    with ThreadPoolExecutor(4) as pool:
        files = list(pool.map(lambda _: run_by(exported[0], "onnxruntime"), range(4)))
    assert len(home) == 1 and all(agrees(exported[0], file, pictures(2, (100, 140))) for file in files)


def test_no_file_waits_for_another_one(exported, home):
    """Though the cache is locked for every other file."""
    cached = Cached.of(exported[0])
    cached.root.mkdir(parents=True)
    name = cached.place("onnx").name
    others = [f".{digit:x}.lock" for digit in range(16)] + [f".{name[0]}{'0' * 31}.lock"]
    with contextlib.ExitStack() as held:
        for other in others:
            held.enter_context(FileLock(cached.root / other))
        with ThreadPoolExecutor(1) as pool:
            made = pool.submit(cached.open, "onnx", "onnxruntime")
            wait([made], timeout=20)
            done = made.done()
            held.close()
    assert done and len(home) == 1


def test_another_model_or_package_is_another_file(exported, home, monkeypatch):
    model, _ = exported
    place = Cached.of(model).place("onnx")
    changed = onestage.build(model.config).eval()
    assert place == Cached.of(model).place("onnx") != Cached.of(changed).place("onnx")
    cached, places = Cached.of(model), {place}
    for package in MAKERS:
        monkeypatch.setattr(plan, "version", lambda name, changed=package: "99" if name == changed else "1")
        places.add(cached.place("onnx"))
    assert len(places) == 1 + len(MAKERS)


def test_every_package_is_one_that_files_depend_on_or_not():
    """A new requirement must be put on one of the two lists."""
    project = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())["project"]
    extras = [entry for name, entries in project["optional-dependencies"].items() if name != "dev" for entry in entries]
    needed = {re.match(r"[\w-]+", entry)[0] for entry in [*project["dependencies"], *extras]}
    read_and_show = {"pillow", "safetensors", "pyyaml", "tflite", "defusedxml", "rich", "matplotlib", "jinja2"}
    read_and_show |= {"tensorboard", "mlflow-skinny", "wandb", "optuna", "av", "trackers", "pyarrow", "fsspec", "ray"}
    assert needed - {*MAKERS} == read_and_show | {"tyro", "filelock", "huggingface-hub"}


def test_only_equal_detectors_have_equal_fingerprints(exported):
    tensors = [torch.zeros(4), torch.zeros(2, 2), torch.zeros(4, dtype=torch.int32), torch.zeros(8).half(), torch.ones(4)]
    states = [{"a": tensor} for tensor in tensors] + [{"b": tensors[0]}, {"a": torch.zeros(2), "b": torch.zeros(2)}]
    found = {fingerprint(SimpleNamespace(config=exported[0].config, state_dict=state.copy)) for state in states}
    assert len(found) == len(states)


def hooked(model):
    model.head.register_forward_hook(lambda part, given, output: (output[0] * 2, output[1]))


def replaced(model):
    model.head.forward = lambda maps, forward=model.head.forward: (2 * forward(maps)[0], forward(maps)[1])


def exchanged(model):
    """One activation for another one, without parameters."""
    name = next(name for name, part in model.named_modules() if isinstance(part, torch.nn.ReLU))
    model.set_submodule(name, torch.nn.LeakyReLU())


def set_otherwise(model):
    next(part for part in model.modules() if isinstance(part, torch.nn.BatchNorm2d)).eps = 1.0


def changed_by(change, plain):
    """A detector of the same config and tensors, with a change."""
    changed = onestage.build(plain.config).eval()
    changed.load_state_dict(plain.state_dict())
    change(changed)
    return changed


@pytest.mark.parametrize("change", [hooked, replaced, exchanged, set_otherwise])
def test_a_changed_detector_is_known_and_never_built_anew_without_the_change(exported, change):
    changed = changed_by(change, exported[0])
    assert fingerprint(changed) == fingerprint(exported[0]) and is_as_built(exported[0]) and not is_as_built(changed)
    with pytest.raises(ConfigError, match="keeps its input size"):
        plan_export(changed, ExportConfig(size=(160, 160)))


def test_a_changed_detector_shares_no_file_with_a_plain_one(exported, home, monkeypatch):
    """In either order."""
    plain, changed = exported[0], changed_by(hooked, exported[0])
    for module in ("export", "runtimes"):
        monkeypatch.setattr(f"onestage.deploy.{module}.check_file", lambda *_: Agreement(1, 1))
    for model, made in ((changed, 1), (plain, 2), (plain, 2), (changed, 3)):
        run_by(model, "onnxruntime")
        assert len(home) == made
    assert choose(changed)[1].runtime == "torch" and "hooks" in choose(changed)[1].reason and len(home) == 3


OTHERS = ("ssdlite320_mobilenet_v3_large", "dssd", "retinanet_r18_fpn", "efficientdet_lite0")


@pytest.mark.parametrize("name", ["tinyssd", *(pytest.param(name, marks=pytest.mark.slow) for name in OTHERS)])
def test_use_leaves_a_detector_as_it_was_built(name):
    model = onestage.build(onestage.recipe(name, ("a",), size=(128, 128)))
    model.train()(torch.rand(2, 3, 128, 128))
    model.eval().predict(PICTURE[0])
    model.half().float().requires_grad_(False)
    state = torch.get_rng_state()
    assert is_as_built(model) and is_as_built(copy.deepcopy(model)) and torch.get_rng_state().equal(state)


def test_exact_numbers_are_those_of_the_network_as_it_is_written(exported, home, monkeypatch):
    """Whatever lets torch run it: few pictures, a measurement, no other runtime, no cache."""
    model, _ = exported

    def is_written(predictor):
        return predictor.engine.detector is model

    assert is_written(choose(model, total=3, exact=True)[0]) and not is_written(choose(model, total=3)[0])
    assert is_written(run_model(model, "auto", pictures=list, total=1)), "evaluate --runtime auto"
    stand_in(model, {"torch": 45, "a": 43}, monkeypatch)
    timed = []
    seconds = runtimes._seconds
    monkeypatch.setattr(runtimes, "_seconds", lambda predictor, some: timed.append(predictor) or seconds(predictor, some))
    assert is_written(choose(model, exact=True)[0]) and is_written(timed[0])
    assert not is_written(choose(model)[0]) and not is_written(timed[2]), "another choice"
    monkeypatch.setenv("ONESTAGE_HOME", "~nobody-of-this-name")
    with pytest.warns(UserWarning, match="no home folder"):
        assert is_written(choose(model, exact=True)[0])
    monkeypatch.setattr(runtimes, "RUNTIMES", {})
    assert is_written(choose(model, exact=True)[0])


def test_another_state_of_this_program_makes_another_file(exported, tmp_path, monkeypatch):
    """Between two versions of the package, too: a file that a mended exporter wrote wrongly before must not be used."""
    place = Cached.of(exported[0]).place("onnx")
    (tmp_path / "a.py").write_text("1")
    monkeypatch.setattr(cache, "PROGRAM", tmp_path)
    other = Cached.of(exported[0]).place("onnx")
    (tmp_path / "a.py").write_text("2")
    cache.program.cache_clear()
    assert len({place, other, Cached.of(exported[0]).place("onnx")}) == 3


def test_the_cache_has_a_limit(exported, home, monkeypatch):
    cached = Cached.of(exported[0])
    cached.open("onnx", "onnxruntime")
    before = cached.place("onnx").name
    old = cached.root / ".0.lock"  # as earlier versions left them
    old.touch()
    os.utime(old, (0, 0))
    choice = cached.place("a choice").with_suffix(".json")
    choice.write_text("{}")
    monkeypatch.setattr(cache, "MOST_BYTES", 1)
    monkeypatch.setattr(cache, "versions", lambda: {"onestage": "99"})
    cached.open("onnx", "onnxruntime")
    name = cached.place("onnx").name
    assert {path.name for path in choice.parent.iterdir()} - {f".{name}.lock", f".{before}.lock"} == {name}


def no_folder(home, monkeypatch):
    home.write_text("a file")


def no_home(home, monkeypatch):
    monkeypatch.setenv("ONESTAGE_HOME", "~nobody-of-this-name")


def full_disk(home, monkeypatch):
    """For the cache alone."""
    make = cache.make_folder

    def fail(path):
        if path == home / "exported":
            raise WriteError("the folder cannot be made", where=path, got="No space left on device")
        return make(path)

    monkeypatch.setattr(cache, "make_folder", fail)


@pytest.mark.parametrize("harm", [no_folder, pytest.param(no_home, marks=pytest.mark.slow), full_disk])
def test_without_a_cache_the_work_goes_on_with_a_warning(exported, home, tmp_path, harm, monkeypatch):
    harm(tmp_path / "home", monkeypatch)
    cache._temporary_root.cache_clear()
    for _ in range(2):
        with pytest.warns(UserWarning, match="the cache cannot be written"):
            assert run_by(exported[0], "onnxruntime").engine.runtime == "onnxruntime"
    assert len(home) == 1, "in this process it is kept"
    assert not list(tmp_path.rglob("*.onnx"))


def test_mistakes(exported):
    model, _ = exported
    with pytest.raises(ConfigError, match="did you mean 'onnxruntime'"):
        run_by(model, "onnxruntme")
    with pytest.raises(ConfigError, match="torch alone uses a GPU"):
        run_by(onestage.Detector.on("meta", model.config), "onnxruntime")
    with pytest.raises(ConfigError, match="torch alone uses a GPU"):
        needed_for(onestage.Detector.on("meta", model.config), "onnxruntime")


def test_bfloat16_takes_a_file_of_plain_convolutions_and_only_where_it_can_be(exported, home, monkeypatch):
    asked = []
    monkeypatch.setattr(cache, "open_exported", lambda path, runtime, *, bf16: asked.append((runtime, bf16)) or exported[0])
    monkeypatch.setattr(cache, "replace", lambda predictor, **_: predictor)
    run_by(exported[0], "openvino", bf16=True)
    assert asked == [("openvino", True)] and runtimes.PLAIN.winograd is False
    assert Cached.of(exported[0]).path("onnx", runtimes.PLAIN) != Cached.of(exported[0]).path("onnx")
    for runtime in ("onnxruntime", "ncnn"):
        with pytest.raises(ConfigError, match="does not compute in bfloat16"):
            run_by(exported[0], runtime, bf16=True)
        assert "bf16" not in runtimes.computes_in(runtime)
    assert runtimes.computes_in("openvino") == ("fp32", "fp16", "int8", "bf16") and runtimes.computes_in("no") == ()
    assert "fp16" in runtimes.computes_in("torch", gpu=True) and "fp16" not in runtimes.computes_in("torch")


def test_a_missing_package_is_told_before_the_export(exported, home, monkeypatch):
    monkeypatch.setattr(runtimes, "RUNTIMES", {"a": Runtime("onnx", ("onnx", "no_such_package"))})
    with pytest.raises(ConfigError, match="packages are missing") as error:
        run_by(exported[0], "a")
    assert "no no_such_package" in str(error.value) and not home


def stand_in(model, times, monkeypatch, *, wrong=()):
    """Runtimes that take these milliseconds for a picture, as a measurement would tell; those in ``wrong`` find nothing."""
    monkeypatch.setattr(runtimes, "RUNTIMES", {name: Runtime("onnx", ()) for name in times if name != "torch"})

    def engine(name):
        def run(images, frames):
            found = TorchEngine(model)(images, frames)
            return model.decoder.raw(found, frames, model.config.postprocess) if name not in wrong else [EMPTY] * len(images)

        return run

    def opened(self, to, name, *, pictures=None):
        file = FileEngine(None, None, name)
        monkeypatch.setattr(type(file), "__call__", lambda self, images, frames: engine(self.runtime)(images, frames))
        return replace(runtimes.Predictor.of(model), engine=file)

    def seconds(predictor, pictures):
        name = getattr(predictor.engine, "runtime", "torch")
        measured.append(name)
        return times[name] / 1000

    measured = []
    monkeypatch.setattr(Cached, "open", opened)
    monkeypatch.setattr(runtimes, "_seconds", seconds)
    return measured


EMPTY = RawDetections(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.long))


def test_the_fastest_that_finds_the_same_is_chosen_once(exported, home, monkeypatch):
    model, _ = exported
    measured = stand_in(model, {"torch": 45, "a": 17, "b": 30, "liar": 1}, monkeypatch, wrong=("liar",))
    predictor, choice = choose(model)
    assert predictor.engine.runtime == choice.runtime == "a"
    assert choice.reason.startswith("17 ms a picture, b 30 ms, torch 45 ms, liar: ") and "finds other objects" in choice.reason
    assert measured == ["torch", "a", "b"]
    assert choose(model)[1] == choice and measured == ["torch", "a", "b"]
    place = next(Cached.of(model).place().parent.glob("*.json"))
    place.write_text(json.dumps({"runtime": "x"}))
    assert choose(model)[1] == choice and len(measured) == 6


@pytest.mark.parametrize(
    ("error", "comes_again"),
    [
        (OSError(28, "No space left on device"), False),
        (MemoryError(), False),
        (WeightsError("the runtime cannot run this file"), False),
        (RuntimeError("no such operator"), True),
        (ConfigError("no such size"), True),
    ],
)
def test_only_a_failure_that_comes_again_is_remembered(exported, home, monkeypatch, error, comes_again):
    def broken(plan, path):
        raise error

    monkeypatch.setattr(runtimes, "RUNTIMES", {"onnxruntime": RUNTIMES["onnxruntime"]})
    monkeypatch.setattr(runtimes, "_seconds", lambda *_: 1.0)
    for module in ("export", "runtimes"):
        monkeypatch.setattr(f"onestage.deploy.{module}.check_file", lambda *_: Agreement(1, 1))
    with monkeypatch.context() as patch:
        patch.setitem(FORMATS, "onnx", replace(FORMATS["onnx"], write=broken))
        assert choose(exported[0])[1].runtime == "torch"
    assert ("onnxruntime" in choose(exported[0])[1].milliseconds) != comes_again


@pytest.mark.parametrize("always", [True, False])
def test_pictures_that_disagree_decide_only_if_drawn_ones_do(exported, home, monkeypatch, always):
    """Near-ties of NMS in five odd pictures say little about a runtime."""
    model, odd = exported[0], pictures(2, (60, 80))
    measured = stand_in(model, {"torch": 45, "a": 17}, monkeypatch)

    def check(source, file, compared, tolerance):
        if always or len(compared) == 2:
            raise MismatchError("other objects")
        return Agreement(1, 1)

    monkeypatch.setattr(runtimes, "check_file", check)
    assert choose(model, lambda: odd)[1].runtime == "torch" and measured == ["torch"]
    assert choose(model)[1].runtime == ("torch" if always else "a") and measured == ["torch"] + ["torch", "a"] * (not always)


def test_pictures_without_objects_decide_nothing(exported, home, monkeypatch):
    config = exported[0].config
    model = onestage.build(config.replace({"postprocess.score_threshold": 0.9})).eval()
    model.load_state_dict(exported[0].state_dict())
    stand_in(model, {"torch": 45, "a": 17}, monkeypatch)
    monkeypatch.setattr(runtimes, "check_file", lambda *_: None)
    _, choice = choose(model, lambda: [torch.zeros(3, 60, 80, dtype=torch.uint8)])
    assert choice.runtime == "torch" and "finds nothing" in choice.reason
    assert choose(model, lambda: PICTURE)[1].runtime == "a"


def test_a_choice_is_for_a_processor_and_a_number_of_threads(exported, home, monkeypatch):
    measured = stand_in(exported[0], {"torch": 45, "a": 17}, monkeypatch)
    for count, (module, what) in enumerate([(runtimes, "no change"), (cache, "processor"), (runtimes, "threads")], start=1):
        monkeypatch.setattr(module, what, lambda what=what: what, raising=False)
        assert [choose(exported[0])[1].runtime for _ in range(2)] == ["a", "a"] and len(measured) == 2 * count


def test_pictures_are_read_once_and_only_for_a_new_file(exported, home, monkeypatch):
    monkeypatch.setattr(runtimes, "RUNTIMES", {"onnxruntime": RUNTIMES["onnxruntime"]})
    monkeypatch.setattr(
        runtimes, "_seconds", lambda predictor, pictures: 0.5 if isinstance(predictor.engine, FileEngine) else 1.0
    )
    read = []

    def some():
        read.append(1)
        return PICTURE

    for _ in range(2):
        choose(exported[0], some)
        run_by(exported[0], "onnxruntime", pictures=some)
        assert read == [1]
    shutil.rmtree(Cached.of(exported[0]).place("onnx"))
    choose(exported[0], some)
    assert read == [1, 1]


def test_a_file_of_one_size_is_no_substitute_for_any_size(exported, home, monkeypatch):
    model = onestage.build(onestage.recipe("tinyssd", ("a",), size=(64, 96)).replace({"preprocess.mode": "shortest_edge"}))
    monkeypatch.setattr(runtimes, "RUNTIMES", {"a": Runtime("ncnn", (), any_size=False)})
    assert choose(model)[1].runtime == "torch"
    with pytest.raises(ConfigError, match="one input size"):
        run_by(model, "a")
    with pytest.raises(ConfigError, match="one input size"):
        needed_for(model, "a")


def test_a_little_faster_is_not_worth_a_change(exported, home, monkeypatch):
    stand_in(exported[0], {"torch": 45, "a": 43}, monkeypatch)
    predictor, choice = choose(exported[0])
    assert choice.runtime == "torch" and isinstance(predictor.engine, TorchEngine)


def test_few_pictures_do_not_repay_a_trial(exported, home, monkeypatch):
    model, _ = exported
    measured = stand_in(model, {"torch": 45, "a": 17}, monkeypatch)
    assert choose(model, total=3)[1].milliseconds == {} and measured == []
    _, choice = choose(model, total=100)
    assert choice.runtime == "torch" and "too few for a trial" in choice.reason and measured == ["torch"]
    assert choose(model, total=100_000)[1].runtime == "a"
    assert choose(model, total=3)[1].runtime == "torch"  # known, but the file would have to be opened
    assert choose(model, total=10_000)[1].runtime == "a"


def test_without_other_runtimes_nothing_is_measured(exported, monkeypatch):
    monkeypatch.setattr(runtimes, "RUNTIMES", {"a": Runtime("onnx", ("no_such_package",))})
    predictor, choice = choose(exported[0])
    assert isinstance(predictor.engine, TorchEngine) and "installed" in choice.reason


def test_verbs_say_what_runs_the_model(exported, home, tmp_path, monkeypatch, capsys):
    model, path = exported
    for number, picture in enumerate(PICTURE * 3):
        Image.fromarray(picture.permute(1, 2, 0).numpy()).save(tmp_path / f"{number}.png")
    verb = ["predict", str(path.with_name("model.safetensors")), str(tmp_path / "*.png"), "--out", str(tmp_path / "seen")]
    assert main(verb) == 0
    assert capsys.readouterr().err == ""  # three pictures: torch, as ever
    assert main([*verb, "--runtime", "onnxruntime", "--score", "0.001"]) == 0
    assert "onnxruntime finds nothing below a score of 0.01" in capsys.readouterr().err
    stand_in(model, {"torch": 45, "a": 17}, monkeypatch)
    monkeypatch.setattr(runtimes, "LEAST_PICTURES", 0)
    monkeypatch.setattr(runtimes, "EXPORT_SECONDS", 0)
    monkeypatch.setattr(runtimes, "SAVED", 1000)
    assert main(verb) == 0
    assert "a: 17 ms a picture, torch 45 ms; --runtime torch to force" in capsys.readouterr().err


def test_a_score_below_that_of_the_file_is_not_taken_in_silence(exported, home):
    model = onestage.load(exported[1].with_name("model.safetensors"), runtime="onnxruntime")
    with pytest.warns(UserWarning, match="onnxruntime finds nothing below a score of 0.01"):
        model.predict(PICTURE[0], score=0.001)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.predict(PICTURE[0], score=0.01)
        exported[0].predict(PICTURE[0], score=0.001)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["evaluate", "MODEL", "nowhere"], "there is no such"),
        (["evaluate", "MODEL", "DATA", "--out", "a file"], "a file"),
        (["predict", "MODEL", "DATA", "--classes", "dog"], "knows no class 'dog'"),
        (["predict", "MODEL", "DATA", "--out", "a file"], "a file"),
    ],
)
@pytest.mark.parametrize("runtime", ["auto", "onnxruntime"])
def test_arguments_are_checked_before_an_export(exported, labelled, monkeypatch, capsys, arguments, says, runtime):
    model, data = labelled
    monkeypatch.chdir(data.parent)
    monkeypatch.setattr(runtimes, "LEAST_PICTURES", 0)
    monkeypatch.setattr(Cached, "open", lambda *_, **__: pytest.fail("a file was made first"))
    monkeypatch.setattr(runtimes, "_seconds", lambda *_: 100.0)
    given = [str({"MODEL": model, "DATA": data}.get(word, word)) for word in arguments]
    assert main([*given, "--runtime", runtime]) == 2
    assert says in capsys.readouterr().err


@pytest.mark.parametrize("runtime", ["auto", "onnxruntime"])
def test_evaluate_tries_runtimes_with_pictures_of_the_data_set(labelled, monkeypatch, runtime):
    seen = []

    def chosen(detector, pictures, *, total, exact=True):
        assert exact, "evaluate measures the network as it is written"
        seen.append([picture.shape for picture in pictures()])
        return runtimes.Predictor.of(detector), runtimes.Choice("torch", {}, f"{total} pictures")

    monkeypatch.setattr(runtimes, "choose", chosen)
    monkeypatch.setattr(runtimes, "run_by", lambda detector, name, *, pictures, **_: chosen(detector, pictures, total=None)[0])
    assert main(["evaluate", *map(str, labelled), "--runtime", runtime, "--workers", "0"]) == 0
    assert seen == [[(3, 64, 96)] * 2]


def test_a_mistake_of_the_program_is_no_cache_that_cannot_be_written(exported, home, monkeypatch):
    def wrong(*_, **__):
        raise ValueError("a mistake of ours")

    monkeypatch.setattr(cache, "export", wrong)
    with pytest.raises(ValueError, match="a mistake of ours") as caught:
        run_by(exported[0], "onnxruntime")
    assert not isinstance(caught.value, OnestageError)


def test_a_broken_export_is_no_obstacle(exported, home, monkeypatch):
    def broken(plan, path):
        raise WeightsError("no")

    monkeypatch.setattr(runtimes, "RUNTIMES", {"onnxruntime": RUNTIMES["onnxruntime"]})
    monkeypatch.setitem(FORMATS, "onnx", replace(FORMATS["onnx"], write=broken))
    predictor, choice = choose(exported[0])
    assert isinstance(predictor.engine, TorchEngine) and choice.runtime == "torch" and "onnxruntime: no" in choice.reason


def test_runtimes_use_as_many_threads_as_torch():
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        assert threads() == 3
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_threads_share_a_file(exported, home, runtime):
    if not RUNTIMES[runtime].installed:
        pytest.skip(f"{runtime} is not installed")
    check_shared_by_threads(run_by(exported[0], runtime), pictures(8, (100, 140)))


def test_a_model_exports_itself(exported, home, tmp_path):
    path = exported[0].export(tmp_path / "m.onnx")
    assert path == tmp_path / "m.onnx" and onestage.load(path, runtime="auto").engine.runtime == "onnxruntime"


def test_benchmark_has_a_row_for_each_runtime(exported, home, folder, tmp_path, monkeypatch, capsys, cells_here):
    for name in ("ncnn", "litert"):  # their conversions take seconds
        monkeypatch.delitem(RUNTIMES, name)
    files = [str(folder / "model.safetensors"), str(folder / "model.onnx")]
    json_file = tmp_path / "speed.json"
    verb = ["benchmark", *files, "tinyssd", "--classes", "3", "--repeats", "1", "--picture", "96x128"]
    assert main([*verb, "--runtime", "torch", "onnxruntime", "--json", str(json_file)]) == 1  # torch takes no .onnx
    assert "takes no .onnx" in capsys.readouterr().err
    assert main([*verb, "--runtime", "auto", "--json", str(json_file)]) == 0
    rows = [(row["given"], row["runtime"]) for row in json.loads(json_file.read_text())["timings"]]
    expected = [("torch", *RUNTIMES), tuple(RUNTIMES), ("torch", *RUNTIMES)]
    assert rows == [(name, runtime) for name, some in zip([*files, "tinyssd"], expected, strict=True) for runtime in some]
    told = capsys.readouterr().out
    assert "is the fastest" in told
    assert len(list(Cached.of(exported[0]).place().parent.glob("*/model.onnx"))) == 1  # the recipe's is not kept


def choices(declared):
    """All words that a type takes."""
    return {word for part in get_args(declared) for word in (choices(part) or ({part} if isinstance(part, str) else set()))}


def test_the_command_line_offers_every_runtime_and_format():
    from onestage.cli import benchmark, evaluate, export, predict

    options = [get_type_hints(predict.Choice), get_type_hints(evaluate.Machine)]
    options.append(get_type_hints(benchmark.Engines))
    assert all(choices(hints["runtime"]) == {"auto", "torch", *RUNTIMES} for hints in options)
    assert choices(get_type_hints(export.export)["to"]) == set(FORMATS)
    assert choices(get_type_hints(export.Numbers)["precision"]) == set(PRECISIONS)
    assert {name for openers in OPENERS.values() for name in openers} == {"torch", *RUNTIMES}
    assert {form.suffix[form.suffix.rindex(".") :] for form in FORMATS.values()} == OPENERS.keys()


def test_without_a_home_folder_auto_takes_torch(model, monkeypatch):
    monkeypatch.setenv("ONESTAGE_HOME", "~nobody-of-this-name")
    with pytest.warns(UserWarning, match="cannot be kept: there is no home folder"):
        predictor, choice = choose(model)
    assert isinstance(predictor.engine, TorchEngine) and "no home folder" in choice.reason
