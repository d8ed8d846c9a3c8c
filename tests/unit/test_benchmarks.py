"""The benchmarks run, compare what they say, and fail where the two sides disagree."""

import importlib
import json
import sys
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch

import onestage
from loaded import loaded
from onestage.data import load_dataset, open_data
from onestage.data.detections import open_detections
from onestage.data.solids import SOLIDS
from onestage.data.synthetic import SyntheticConfig, generate
from onestage.data.writers import write_coco
from onestage.errors import ConfigError
from onestage.model.output.postprocess import RawDetections
from onestage.structures import Detections, Truth

FOLDER = Path(__file__).parents[2] / "benchmarks"
LITE = "ssdlite320_mobilenet_v3_large"


@pytest.fixture
def load(monkeypatch):
    """Import a benchmark by name, as ``python benchmarks/NAME.py`` finds its neighbours; nothing stays imported."""
    monkeypatch.syspath_prepend(str(FOLDER))
    names = [path.stem for path in FOLDER.glob("*.py")]
    yield importlib.import_module
    for name in names:
        sys.modules.pop(name, None)


def test_turns_alternate(load):
    calls = []
    result = load("common").compare("x", lambda: calls.append("o"), lambda: calls.append("t"), repeats=4, warmup=1)
    assert "".join(calls) == "ot" + "ot" + "to" + "ot" + "to"
    assert len(result.ours) == len(result.theirs) == 4


def test_ratio_and_quartiles(load):
    """The ratio is one of neighbouring turns, so it lies between the quartiles. That of the medians, 3.25, does not."""
    c = load("common").Comparison("x", ours=[1.0, 4.0, 2.0], theirs=[3.0, 12.0, 6.5])
    assert c.ratio == 3.0
    assert c.spread == (3.0, 3.125)


def test_inference(load, tmp_path, capsys):
    path = tmp_path / "inference.json"
    load("inference").main(models=(LITE,), batches=(1,), repeats=1, json=path)
    written = json.loads(path.read_text())
    assert written["seconds"][0]["ratio"] > 0
    assert written["environment"]["threads"] == torch.get_num_threads()
    printed = capsys.readouterr().out
    assert LITE in printed and "times as fast" in printed


@pytest.mark.parametrize("counts", [(), pytest.param((3, 6), marks=pytest.mark.slow)])
def test_folders(counts, load, tmp_path, capsys):
    """The loop and the whole see the same pictures; the command line runs in another process."""
    path, options = tmp_path / "folders.json", {"model": "tinyssd", "runtime": "torch", "batch": 2, "repeats": 1}
    load("folders").main(pictures=5, workers=(0, 2), counts=counts, json=path, **options)
    written = json.loads(path.read_text())
    assert [row["what"] for row in written["rows"]] == [
        "the engine in a plain loop", "the whole, workers as many as pay", "the whole, workers 2",
    ]  # fmt: skip
    assert all(len(row["wall"]) == len(row["cpu"]) == 1 for row in written["rows"])
    assert [row["pictures"] for row in written["counts"]] == list(counts)
    assert all(row["megabytes"] > 100 and row["threads"] > 1 for row in written["counts"])
    assert "against the first" in capsys.readouterr().out


def test_evaluation(load, tmp_path, capsys):
    path = tmp_path / "evaluation.json"
    rows = load("evaluation").main(pictures=6, classes=3, objects=30, detections=8, draws=3, json=path)
    assert len(rows) >= 2 and len(json.loads(path.read_text())["seconds"]) == len(rows)
    assert "6 pictures, 3 classes" in capsys.readouterr().out


def test_large_files_hold_the_same_detections_in_each_form(load, tmp_path):
    files = load("detection_files")
    data = files.draw_pictures(pictures=5, classes=3, objects=10, detections=8)
    files.write_truth(data, tmp_path / "truth.json")
    dataset = open_data(tmp_path / "truth.json", labels_alone=True).load()
    found = []
    for name, write in files.WRITERS.items():
        (tmp_path / name).mkdir()
        opened = open_detections(write(files.block_of(data, 30), 70, tmp_path / name))
        assert len(opened.rows) == pytest.approx(70, abs=3)  # VOC's files repeat, each for itself
        found.append([{(*d.box, d.score, d.label) for d in picture} for picture in opened.on(dataset).detections])
    rows = torch.tensor([[d for picture in form for d in sorted(picture)] for form in found])
    assert len(rows) == 4 and torch.allclose(rows, rows[:1], atol=0.02)


def test_sizes_that_are_new_to_a_model_are_timed_against_a_second_time(load):
    inference = load("inference")
    images = inference.mixed_pictures(20)
    place = onestage.recipe("retinanet_r50_fpn", ("a",)).preprocess.place
    sizes = {place((image.shape[1], image.shape[2])).input for image in images}
    assert len(sizes) == 20 and place(inference.WARMUP_SIZE).input not in sizes
    model = onestage.create("tinyssd", 1, size=(64, 64)).eval()
    seen = inference.first_and_second(model, images[:3], repeats=2, clock="cpu")
    assert len(seen.ours) == len(seen.theirs) == 6 and min(*seen.ours, *seen.theirs) > 0


def test_mixed_sizes_stand_alone_and_each_row_is_printed_at_once(load, monkeypatch, capsys):
    inference, printed = load("inference"), []
    config = onestage.recipe("tinyssd", ("a",), size=(64, 96)).replace({"preprocess.mode": "shortest_edge"})
    calls = []
    monkeypatch.setattr(inference, "pair", lambda name: (onestage.build(config).eval(), None))
    monkeypatch.setattr(inference, "predict_torchvision", lambda model, images: calls.append(tuple(images[0].shape[1:])))
    monkeypatch.setattr(inference, "first_and_second", lambda *_, **__: printed.append(capsys.readouterr().out) or row)
    row = inference.Comparison("later", [1.0], [2.0])
    found = inference.main(models=("one", "two"), mixed=3, repeats=2)
    assert [one.what for one in found] == ["one, 3 sizes", "later", "two, 3 sizes", "later"]
    assert len(found[0].ours) == len(found[0].theirs) == 6
    assert len(set(calls)) == 4 and len(calls) == 2 * 7  # one to warm up, and 3 sizes twice, of each model
    assert "one, 3 sizes" in printed[0] and "later" not in printed[0] and "later" in printed[1]


@pytest.mark.parametrize("softmax", [True, False])
def test_random_weights_give_as_many_scores_as_a_trained_model(load, softmax):
    common = load("common")
    torch.manual_seed(0)
    layer = torch.nn.Conv2d(8, 4 * (common.CLASSES + softmax), 1)
    images, boxes, calls = torch.randn(2, 8, 40, 30), torch.nn.Conv2d(8, 16, 1), []

    def outputs():
        calls.append(len(images))
        return layer(images).permute(0, 2, 3, 1).reshape(2, -1, common.CLASSES + softmax), boxes(images)

    model = torch.nn.ModuleDict({"outputs": layer, "boxes": boxes, "other": torch.nn.Conv2d(8, 8, 1)})
    common.enliven(model, outputs, ("outputs", "boxes"), softmax=softmax)
    assert len(calls) == 2  # a pass of a RetinaNet takes seconds
    with torch.no_grad():
        logits, deltas = outputs()
        scores = logits.softmax(2)[:, :, 1:] if softmax else logits.sigmoid()
    assert float(deltas.std()) == pytest.approx(common.DELTAS)
    assert int((scores > 0.01).sum()) == pytest.approx(2 * common.PASSING, abs=3)


def test_both_sides_of_a_pair_see_the_same(load):
    common = load("common")
    ours, theirs = common.pair(LITE)
    images = common.pictures(2, (200, 300))
    assert all(len(found) > 30 for found in ours.predict(images))
    with torch.no_grad():
        expected = theirs([image / 255 for image in images])
    for found, other in zip(ours.predict(images), expected, strict=True):
        torch.testing.assert_close(found.scores, other["scores"], rtol=1e-3, atol=1e-4)


def test_training_step_changes_both_models(load):
    common, training = load("common"), load("training")
    ours, theirs = common.pair(LITE)
    decoded = training.samples(2, (60, 80))
    fast = training.OurStep(ours, training.Way("bf16", channels_last=False, fused=True))
    for step, model in ((training.OurStep(ours), ours), (fast, ours), (training.TheirStep(theirs), theirs)):
        before = [p.clone() for p in model.parameters()]
        step.from_samples(decoded)
        assert sum(not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True)) > len(before) / 2


def test_postprocessing_of_every_distribution_is_the_same(load):
    postprocess = load("postprocess")
    anchors = postprocess.their_anchors()
    for what, (logits, deltas) in postprocess.distributions(anchors).items():
        passing = int((logits.softmax(dim=1)[:, 1:] > 0.01).sum())
        assert (100 < passing < 4000) == what.startswith("trained-like"), what
        ours, theirs = postprocess.turns(logits[None], deltas[None])
        postprocess.check_same(ours()[0], theirs()[0])


def test_a_difference_in_detections_is_caught(load):
    check_same = load("postprocess").check_same
    found = RawDetections(torch.tensor([[0.0, 0, 10, 10]]), torch.tensor([0.5]), torch.tensor([3]))
    other = {"boxes": found.boxes, "scores": found.scores, "labels": torch.tensor([4])}
    check_same(found, other)
    for key, wrong in (("boxes", found.boxes + 1), ("scores", found.scores + 0.1), ("labels", torch.tensor([3]))):
        with pytest.raises(AssertionError):
            check_same(found, other | {key: wrong})


def test_startup(load, tmp_path, capsys, monkeypatch):
    startup = load("startup")
    kept = (startup.PYTHON, "onestage --help", "onestage demo --fats")
    monkeypatch.setattr(startup, "COMMANDS", {command: startup.COMMANDS[command] for command in kept})
    path = tmp_path / "startup.json"
    startup.main(repeats=1, json=path)
    written = json.loads(path.read_text())
    assert set(written["seconds"]) == set(kept) and all(len(times) == 1 for times in written["seconds"].values())
    printed = capsys.readouterr().out
    assert "onestage --help" in printed and f"threads {torch.get_num_threads()}" in printed
    with pytest.raises(RuntimeError, match="ZeroDivisionError"):
        startup.seconds(["-c", "1 / 0"])


def test_engines_are_compared_from_files_and_a_missing_one_has_a_reason(load, monkeypatch, tmp_path, capsys):
    inference, asked = load("inference"), []

    def rows(engines, *_):
        asked.extend(map(str, engines))
        yield inference.Comparison("x", [1.0], [3.0])
        yield "ncnn: a reason"

    monkeypatch.setattr(inference.by_runtime, "rows", rows)
    inference.main(models=(LITE,), runtimes=("torch", "ncnn"), json=tmp_path / "found.json")
    assert asked == [f"{LITE}, torch fp32", f"{LITE}, ncnn fp32"]
    assert json.loads((tmp_path / "found.json").read_text())["seconds"][0]["ratio"] == 3
    assert "not measured: ncnn: a reason" in capsys.readouterr().out


def test_an_engine_that_cannot_run_says_why(load, tmp_path):
    runtimes = load("runtimes")
    model = onestage.create("tinyssd", 9, size=(64, 64)).eval()
    with pytest.raises(LookupError, match="fp32 alone"):
        runtimes.open_engine(runtimes.Engine("tinyssd", "torch", "int8"), model, tmp_path)
    with pytest.raises(ConfigError, match="cannot be in int8"):
        runtimes.open_engine(runtimes.Engine("tinyssd", "ncnn", "int8"), model, tmp_path)


def test_int8_files_are_made_with_drawn_pictures(load, tmp_path):
    runtimes = load("runtimes")
    data = runtimes.drawn_data(("ball", "ring"), tmp_path)
    assert (len(data.pictures), len(data.measure), data.max_drop) == (4, 2, 1.0)


def test_a_profile_tells_the_share_of_what_stands_behind_the_network(load):
    operators = load("operators")
    times = operators._least([("a", "Conv", 9.0), ("a", "Conv", 4.0), ("b", "TopK", 1.0), ("c", "Relu", 1.0)])
    assert times == {("a", "Conv"): 4.0, ("b", "TopK"): 1.0, ("c", "Relu"): 1.0}
    profile = operators.Profile({kind: value for (_, kind), value in times.items()}, operations=8e8)
    assert (profile.total, profile.products, profile.tail) == (6.0, 4.0, 1.0)
    assert "200 thousand million" in str(profile) and "20% of the network's time" in str(profile)
    assert "float32" in operators.peak(side=64, repeats=1)


def test_the_stages_of_a_picture_are_timed(load, tmp_path):
    runtimes, stages = load("runtimes"), load("stages")
    model = onestage.create("tinyssd", 1, size=(64, 64)).eval()
    files = runtimes.jpegs(tmp_path, 2)
    assert all(path.read_bytes()[:2] == b"\xff\xd8" for path in files)
    predictor = runtimes.open_engine(runtimes.Engine("tinyssd", "torch", "fp32"), model, tmp_path)
    found = stages.stages(predictor, files, repeats=2)
    assert set(found) == set(stages.STAGES) and min(found.values()) > 0


def test_a_gpu_is_asked_for_and_the_program_can_be_tried_without(load, monkeypatch, tmp_path, capsys):
    gpu = load("gpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit, match="no GPU"):
        gpu.main()
    model, asked = onestage.create("tinyssd", 1, size=(64, 64)).eval(), []
    peer = torch.nn.Linear(1, 1)
    monkeypatch.setattr(gpu, "pair", lambda name: (model, peer))
    monkeypatch.setattr(gpu, "predict_torchvision", lambda model, images: asked.append((model, len(images))))
    path = tmp_path / "gpu.json"
    found = gpu.main(models=("one",), forms=("fp32",), batches=(1, 3), device="cpu", repeats=2, json=path)
    assert [row.what for row in found] == ["one, fp32, 1 at once", "one, fp32, 3 at once"]
    assert asked == [(peer, batch) for batch in (1, 3) for _ in range(gpu.WARMUP + 2)]
    assert len(json.loads(path.read_text())["seconds"]) == 2 and "predict() on cpu" in capsys.readouterr().out
    gpu.main(models=("one",), forms=("fp32",), batches=(2,), device="cpu", repeats=2, stages_alone=True)
    out = capsys.readouterr().out
    assert "one, fp32, 2 at once: resize on the CPU " in out and "network " in out and "decode and NMS " in out
    monkeypatch.setattr(gpu, "compare", Mock(side_effect=torch.OutOfMemoryError))
    assert gpu.main(models=("one",), forms=("fp32",), batches=(1,), device="cpu") == []
    assert "not measured: one, fp32, 1 at once: the memory" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_compiled_network_finds_the_same(load):
    gpu, common = load("gpu"), load("common")
    torch.manual_seed(0)
    model = onestage.create("tinyssd", 2, size=(64, 64)).eval()
    compiled = gpu.predictor(model, bf16=False, compiled=True)
    for images in (common.pictures(2, (80, 100)), common.pictures(3, (80, 100))):
        for one, other in zip(model.predict(images), compiled.predict(images), strict=True):
            assert len(one) > 10 and one.labels.equal(other.labels)
            torch.testing.assert_close(one.boxes, other.boxes, rtol=1e-4, atol=1e-3)
            torch.testing.assert_close(one.scores, other.scores, rtol=1e-4, atol=1e-5)
    assert model._compiled_call_impl is None and compiled.engine.detector._compiled_call_impl is not None


def test_times_agree_if_each_median_lies_within_the_other_s_turns(load):
    agree = load("agreement").agree
    times = [1.0 + 0.01 * n for n in range(21)]
    assert agree(times, [t + 0.05 for t in times]) and agree(times, times)
    assert not agree(times, [t + 0.2 for t in times])
    assert not agree([1.0, 5.0, 9.0], [8.9] * 3), "the median of the first lies outside of the second"


def test_the_page_of_the_benchmarks_names_each():
    page = (FOLDER / "README.md").read_text()
    programs = [path.name for path in FOLDER.glob("*.py") if "__main__" in path.read_text()]
    assert len(programs) > 5 and [name for name in programs if f"python benchmarks/{name}" not in page] == []


@pytest.fixture
def divided(load, tmp_path):
    """A drawn data set without splits, divided for a comparison."""
    write_coco(
        [generate(index, SyntheticConfig(size=(48, 64), objects=(1, 1))) for index in range(20)],
        tmp_path / "data",
        classes=[*SOLIDS],
    )
    return load("split_pictures").split_pictures(tmp_path / "data", tmp_path / "pictures")


def test_an_undivided_set_is_divided_and_all_programs_get_the_same_pictures(divided):
    parts = {"train": divided.train, "val": divided.val, "test": divided.test}
    assert [len(part) for part in parts.values()] == [14, 2, 4]
    original = {path.read_bytes() for path in (divided.ours.parents[1] / "data" / "train").glob("*.jpg")}
    copies = [Path(path).read_bytes() for part in parts.values() for path in part.paths]
    assert {*copies} == original and len(copies) == len(original)  # as they are, none in two splits
    for name, part in parts.items():
        theirs = load_dataset(divided.yolo, split=name)
        assert [Path(path).read_bytes() for path in theirs.paths] == [Path(path).read_bytes() for path in part.paths]
        assert [int(Path(path).stem) for path in theirs.paths] == [*range(len(part))]
        assert theirs.classes == part.classes and theirs.labels.equal(part.labels)
        torch.testing.assert_close(theirs.boxes, part.boxes, atol=1e-2, rtol=0)


def test_a_divided_set_stays_as_it_is(load, tmp_path):
    """Ours is given the data set itself, as a user gives it."""
    for split, first in (("train", 0), ("val", 3), ("test", 5)):
        pictures = [generate(index, SyntheticConfig(size=(48, 64))) for index in range(first, first + 2)]
        write_coco(pictures, tmp_path / "data", classes=[*SOLIDS], split=split)
    found = load("split_pictures").split_pictures(tmp_path / "data", tmp_path / "pictures", split="val")
    assert found.ours == tmp_path / "data" and not (tmp_path / "pictures" / "coco").exists()
    assert found.measured is found.val and [len(found.train), len(found.val), len(found.test)] == [2, 2, 2]


def perfect(load, dataset):
    """Each object, found with the highest score."""
    found = []
    for row in range(len(dataset)):
        truth = dataset.truth(row)
        for (x1, y1, x2, y2), label in zip(truth.boxes.tolist(), truth.labels.tolist(), strict=True):
            found.append(load("split_pictures").Found(row, label, (x1, y1, x2 - x1, y2 - y1), 0.9))
    return found


def test_trainings_are_measured_by_one_evaluator_and_compared(load, divided, tmp_path, monkeypatch, capsys):
    minutes, trainings, pictures = load("time_to_accuracy"), load("trainings"), load("split_pictures")
    truth = perfect(load, divided.test)

    def trained(name, found):
        return trainings.Trained(name, "1", "x", 30.0, 2, pictures.detections(found, divided.test))

    programs = [trained("onestage default", truth), trained("Ultralytics yolo26n", truth[:2])]
    todo = [lambda *_, one=one: one for one in programs]
    monkeypatch.setattr(minutes, "trainings", lambda *_, **__: todo)
    monkeypatch.setattr(minutes, "split_pictures", lambda *_, **__: divided)
    path = tmp_path / "minutes.json"
    ours, peer = minutes.main(tmp_path / "data", minutes=0.5, json=path)
    assert 0 < peer.AP < ours.AP and ours.AP > 0.999
    content = json.loads(path.read_text())
    assert len(content["rows"]) == 2 and content["environment"]["threads"] == torch.get_num_threads()
    table = minutes.table(content)
    assert table in capsys.readouterr().out
    page = "a\n<!-- minutes: x -->\nold\n<!-- end -->\nb <!-- end -->"
    assert loaded("docs/make_minutes.py").with_table(page, "x", table).split("\n\n") == [
        "a\n<!-- minutes: x -->",
        *table.split("\n\n"),
        "<!-- end -->\nb <!-- end -->",
    ]
    assert f"| {ours.AP / peer.AP:.2f} | {ours.AP50 / peer.AP50:.2f} |" in table.splitlines()[2]


def test_what_is_to_be_trained(load, tmp_path):
    minutes = load("time_to_accuracy")
    python = tmp_path / "python"
    with pytest.raises(SystemExit, match="pip install ultralytics"):
        minutes.trainings(["default"], [], ["ultralytics"], ["yolo26n"], ultralytics=python)
    (tmp_path / "yolo").touch()
    todo = minutes.trainings(["default", "dssd --size 64"], [python], ["ultralytics"], ["yolo26n"], ultralytics=python)
    names = [one.args[0] for one in todo]
    assert names == ["default", "dssd --size 64", f"default --weights {python}", "yolo26n"]
    assert len(minutes.trainings(["default"], [], ["torchvision"], [], ultralytics=python)) == 2


def test_a_program_that_fails_is_quoted_and_left_out(load, divided, tmp_path, capsys):
    trainings, log = load("trainings"), tmp_path / "logs" / "log"
    assert trainings.run([sys.executable, "-c", "print('fine')"], log) > 0 and log.read_text().endswith("fine\n")
    todo = [lambda *_: trainings.run([sys.executable, "-c", "1 / 0"], log)]
    assert [*load("time_to_accuracy").rows(todo, divided, 1, tmp_path)] == []
    assert "ZeroDivisionError" in capsys.readouterr().out


def test_torchvisions_recipe_ends_in_time_and_names_what_it_finds(load, divided, tmp_path, monkeypatch):
    program = load("torchvision_ssdlite")
    monkeypatch.setattr(program, "BATCH", 4)
    program.main(divided.yolo, minutes=1e-3, out=tmp_path / "found.json", split="val")
    content = json.loads((tmp_path / "found.json").read_text())
    assert content["seconds"] < 60 and {one["row"] for one in content["found"]} <= {0, 1}


def test_the_loader_is_timed(load, tmp_path, capsys):
    path = tmp_path / "loader.json"
    load("loader").main(size=(48, 64), count=4, repeats=1, epochs=0, json_file=path)
    assert min(json.loads(path.read_text())["milliseconds"].values()) > 0
    assert "mosaic" in capsys.readouterr().out


@pytest.mark.slow
def test_a_batch_is_compared_with_the_loop(load, tmp_path, monkeypatch):
    batch, path = load("batch"), tmp_path / "batch.json"
    monkeypatch.setattr(batch, "LIMITS", {"local": 1e9})
    batch.main(pictures=20, workers=2, engines=("local",), json=path)
    loop, local = json.loads(path.read_text())["turns"]
    assert loop["engine"] == "loop" and local["engine"] == "local"
    for turn in (loop, local):
        assert 0 < turn["work"] <= turn["seconds"] and turn["others"] < turn["processor"] and turn["memory"] > 1e8


@pytest.mark.parametrize("kind", ["text", "csv", "parquet", "folder"])
def test_the_list_of_a_batch_is_measured(load, tmp_path, monkeypatch, kind):
    lists = load("batch_list")
    monkeypatch.setattr(lists, "NAMES", 300)
    found = lists.measured(str(lists.write_input(kind, tmp_path, 700)), tmp_path / "found")
    assert found["pictures"] == 700 and min(found["begin"], found["go on"], found["a shard"]) > 0


@pytest.mark.parametrize("form", ["wds", "parquet"])
def test_tables(load, tmp_path, capsys, monkeypatch, form):
    monkeypatch.setenv("ONESTAGE_HOME", str(tmp_path / "cache"))
    tables = load("tables")
    tables.make(tmp_path / "data", 40, 3, form)
    tables.measure(tmp_path / "data", 0)
    printed = capsys.readouterr().out
    assert "40 pictures, 120 boxes: open in" in printed and "0 workers after 1 batches" in printed


def test_tiles_trains_its_detector_once_and_counts_what_it_finds(load, monkeypatch, tmp_path):
    tiles = load("tiles")
    for name, value in {"PICTURES": 10, "ROWS": 1, "COLUMNS": 2}.items():
        monkeypatch.setattr(tiles, name, value)
    model = tiles.detector(tmp_path / "run", epochs=1)
    assert (tmp_path / "run" / tiles.DONE).read_text().startswith("1 epoch")
    monkeypatch.setattr(onestage, "train", None)
    assert tiles.detector(tmp_path / "run", epochs=1).config == model.config
    scene = tiles.scene(large=False)
    assert scene.image.shape == (3, 400, 800) and len(scene.truth.labels) == 7
    boxes, labels = scene.truth.boxes, scene.truth.labels
    names = tuple(tiles.CLASSES[label] for label in labels.tolist())
    exact = Detections(boxes, torch.linspace(0.9, 0.5, 7), labels, names, tuple(labels.tolist()), (400, 800))
    assert tiles.ap(exact, scene.truth) == (1, 1)
    assert tiles.ap(exact.select([0, 1, 2]), scene.truth)[1] < 1
    one = torch.tensor([[0.0, 0, 700, 390]])
    no = torch.zeros(2, dtype=torch.bool)
    large = Truth(torch.cat([boxes[:1], one]), labels[:2], no, no, torch.ones(2), "picture", size=(400, 800))
    parts = replace(exact.select([0, 1]), boxes=torch.tensor([[10.0, 10, 700, 390], [10, 10, 200, 200]]))
    assert tiles.whole(parts, large) == (1, 1, 1)
