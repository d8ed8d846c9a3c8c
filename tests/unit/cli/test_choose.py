"""What ``onestage train`` decides if only the data is named: the model, its input, the start; and how it says so."""

import json
from pathlib import Path

import pytest
import torch

from onestage.cli.candidates import CANDIDATES, DataFacts, choose, larger_than, on_backbone, rate_of, shaped, sizes_for
from onestage.cli.choose import ModelChoice, choose_detector
from onestage.cli.main import main
from onestage.cli.start import best_start, choose_and_begin
from onestage.data import load_dataset
from onestage.errors import WeightsError
from onestage.model.detector import Detector
from onestage.training import machine as machines
from onestage.training.folder import Plan
from onestage.training.machine import DENSE_WORK, DEPTHWISE_WORK, Machine, StepTimes
from onestage.training.rules import TRAINING, expected_pictures
from onestage.weights.at_hand import Offer
from onestage.zoo.table import recipe

Captured = pytest.CaptureFixture[str]
LIGHT = "timm/regnetx_002"
ON_CPU = [candidate for candidate in CANDIDATES if not candidate.gpu]


def machine(milliseconds: float, depthwise: float | None = None) -> Machine:
    dense, light = (StepTimes(time, None, time) for time in (milliseconds, depthwise or milliseconds))
    return Machine("cpu", cores=2, share=1.0, dense=dense, depthwise=light)


@pytest.mark.parametrize(
    ("milliseconds", "depthwise", "minutes", "name"),
    [
        (4, 4, 10, "timm/resnet18"),
        (10, 10, 10, "timm/regnetx_002"),
        (30, 5, 10, "ssdlite320_mobilenet_v3_large"),
        (40, 40, 60, "timm/regnetx_002"),
        (80, 80, 1, "tinyssd"),
    ],
)
def test_the_most_able_that_sees_enough(milliseconds: float, depthwise: float, minutes: float, name: str) -> None:
    found = choose(ON_CPU, [(320, 320)], machine(milliseconds, depthwise), seconds=60 * minutes)
    assert (found.candidate.backbone or found.candidate.model) == name and found.seen is not None
    assert (found.seen >= found.candidate.needs) == (name != "tinyssd")  # the nearest, if none sees enough


def test_a_gpu_gets_a_large_one_and_no_measurement_the_first() -> None:
    assert choose(CANDIDATES, [(512, 512)], machine(1), seconds=3600).candidate.backbone == "timm/resnet50"
    assert choose(ON_CPU, [(320, 320)], None, seconds=60).candidate is ON_CPU[0]


@pytest.mark.parametrize(
    ("facts", "gpu", "first", "last"),
    [
        (DataFacts((480, 640), small=0.07), False, (320, 320), (256, 256)),
        (DataFacts((480, 640), small=0.04), False, (448, 448), (320, 320)),
        (DataFacts((256, 256), small=0.2), False, (256, 256), (256, 256)),
        (DataFacts((64, 64), small=0.3), False, (256, 256), (256, 256)),
        (DataFacts((1080, 1920), small=0.2), True, (512, 512), (256, 256)),
    ],
)
def test_the_input_shows_small_objects(facts: DataFacts, gpu: bool, first: object, last: object) -> None:
    sizes = sizes_for(facts, gpu=gpu)
    assert (sizes[0], sizes[-1]) == (first, last)


@pytest.mark.parametrize(("milliseconds", "side"), [(4, 320), (7, 384), (10, 320)])
def test_plenty_of_time_buys_a_larger_input(milliseconds: float, side: int) -> None:
    found = choose(ON_CPU, [(320, 320), (256, 256)], machine(milliseconds), seconds=600, larger=(384, 384))
    assert found.size == (side, side)


def test_no_input_has_more_pixels_than_the_pictures() -> None:
    assert larger_than((320, 320), DataFacts((480, 640), small=0.07)) == (384, 384)
    assert larger_than((256, 256), DataFacts((256, 256), small=0.07)) is None
    assert larger_than((640, 640), DataFacts((2000, 2000), small=0.07)) is None
    assert larger_than((160, 640), DataFacts((500, 2000), small=0.07, aspect=4.0)) == (192, 768)


def test_wide_pictures_get_a_wide_input() -> None:
    assert shaped(320, 1.33) == (320, 320) and shaped(320, 4.0) == (160, 640) and shaped(320, 0.25) == (640, 160)


def test_the_facts_of_a_data_set(shapes: Path) -> None:
    facts = DataFacts.of(load_dataset(shapes, split="train"))
    assert facts.size == (64, 64) and 0.05 < facts.small < 0.9 and facts.aspect == pytest.approx(1)


@pytest.mark.parametrize("candidate", ON_CPU, ids=lambda c: c.backbone or c.model)
def test_a_model_that_is_named_sees_as_much_as_one_that_is_chosen(candidate) -> None:  # type: ignore[no-untyped-def]
    """So the work and the kernels in the list are those of the models."""
    config = recipe(candidate.model, ("a", "b", "c"), size=(320, 320), backbone=candidate.backbone)
    chosen = 600 * TRAINING * rate_of(candidate, (320, 320), machine(10, 3))
    assert expected_pictures(Detector.on("meta", config), machine(10, 3), 10.0) == pytest.approx(chosen, rel=0.03)


def test_another_backbone_is_taken_by_its_cost(shapes: Path) -> None:
    assert on_backbone("resnet18") is ON_CPU[0] and on_backbone("timm/resnet50") is CANDIDATES[0]
    other = on_backbone("resnet26")
    assert other.kernels == "dense" and 5.5 < other.multiply_adds < 11 and other.needs in {each.needs for each in CANDIDATES}
    data = load_dataset(shapes, split="train")
    asked = ModelChoice(backbone="resnet26", size="320", weights="none")
    chosen, decisions, seen = choose_detector(asked, data, machine(10), gpu=False, minutes=10)
    assert chosen.backbone == "resnet26" and seen == int(rate_of(other, (320, 320), machine(10)) * 600 * TRAINING)
    assert f"sees {seen:,} pictures in 10 min, needs {other.needs:,}" in decisions[0].reason


def test_a_tag_chooses_among_the_models_that_have_such_weights(shapes: Path) -> None:
    data = load_dataset(shapes, split="train")
    chosen, decisions, _ = choose_detector(ModelChoice(weights="coco"), data, machine(4), gpu=False, minutes=30)
    assert chosen.model == "ssdlite320_mobilenet_v3_large" and "from trained weights" in decisions[0].reason


@pytest.mark.parametrize(
    ("weights", "says"), [("cocoa", "no such weights"), ("first", "name a file in it: first/best.safetensors")]
)
def test_weights_that_are_named_are_never_left_out(
    weights: str, says: str, shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    """Without a model: a tag that is not published, and the folder of a run, which looks like a tag."""
    monkeypatch.chdir(tmp_path)
    Path("first").mkdir()
    Path("first/best.safetensors").touch()
    monkeypatch.setattr(machines, "measure_machine", lambda device: machine(20_000))
    assert main(["train", str(shapes), "--weights", weights, "--plan-only"]) == 2
    assert says in capsys.readouterr().err


@pytest.mark.parametrize(("network", "work"), [(machines._dense, DENSE_WORK), (machines._depthwise, DEPTHWISE_WORK)])
def test_the_work_of_the_measured_networks(network, work: float) -> None:  # type: ignore[no-untyped-def]
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network()(torch.rand(machines._PICTURES, machines._CHANNELS, machines._CELLS, machines._CELLS))
    assert counter.get_total_flops() / 2e9 == pytest.approx(work, rel=0.02)


@pytest.mark.parametrize(
    ("asked", "at_hand", "taken", "says"),
    [
        (None, None, None, "--weights auto fetches ImageNet"),
        (None, Path("here.pth"), "here.pth", "on this machine"),
        ("none", Path("here.pth"), None, "as asked"),
        ("auto", Path("here.pth"), "here.pth", "on this machine"),
        ("auto", None, None, "could not be fetched: no network"),
        (None, Path("other.pth"), None, "cannot be taken: these are no weights for it"),
    ],
)
def test_the_best_weights_at_hand(
    asked: str | None, at_hand: Path | None, taken: str | None, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[ModelChoice] = []

    def make(classes: object, choice: ModelChoice, source: object, *, seed: int) -> None:
        if choice.backbone_weights == "other.pth":
            raise WeightsError("these are no weights for it")
        made.append(choice)

    def offline(config: object) -> Path:
        raise WeightsError("published weights could not be fetched", got="no network", fix="try again")

    offer = Offer("ImageNet weights of resnet18", "backbone_weights", "imagenet", at_hand)
    monkeypatch.setattr("onestage.cli.start.offers", lambda config: [offer])
    monkeypatch.setattr("onestage.cli.start.published_backbone", offline)
    choice = ModelChoice(model="dssd", backbone="resnet18", weights=asked)
    monkeypatch.setattr("onestage.cli.start.make_model", make)
    start = best_start(choice, ("a",), seed=0)
    assert (made[-1].weights, made[-1].backbone_weights) == (None, taken) and says in start.decision.reason
    assert start.trained == (taken is not None)
    assert start.decision.option == ("--backbone-weights imagenet" if taken else "--weights none")


@pytest.mark.parametrize(
    ("asked", "at_hand", "backbone"),
    [(None, None, LIGHT), (None, "x.pth", "timm/resnet18"), ("none", "x.pth", LIGHT), ("auto", None, "timm/resnet18")],
)
def test_a_start_from_trained_weights_needs_fewer_pictures(
    asked: str | None, at_hand: str | None, backbone: str, shapes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    offer = Offer("ImageNet weights", "backbone_weights", "imagenet", at_hand and Path(at_hand))
    monkeypatch.setattr("onestage.weights.at_hand.offers", lambda config: [offer])
    data = load_dataset(shapes, split="train")
    chosen, decisions, seen = choose_detector(ModelChoice(weights=asked), data, machine(40), gpu=False, minutes=30)
    assert chosen.backbone == backbone and seen is not None and seen < ON_CPU[0].needs
    assert decisions[0].option == f"--model dssd --backbone {backbone}"
    assert ("from trained weights" in decisions[0].reason) == (backbone != LIGHT)


def test_weights_that_do_not_fit_are_not_counted_on(shapes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They seem to be at hand for the second candidate, which would need a third of the pictures from them."""
    offer, made = Offer("ImageNet weights", "backbone_weights", "imagenet", Path("x.pth")), list[str | None]()

    def make(classes: object, choice: ModelChoice, source: object, *, seed: int) -> None:
        made.append(choice.backbone)
        if choice.backbone_weights is not None:
            raise WeightsError("these are no weights for it")

    monkeypatch.setattr("onestage.weights.at_hand.offers", lambda config: [offer])
    monkeypatch.setattr("onestage.cli.start.offers", lambda config: [offer])
    monkeypatch.setattr("onestage.cli.start.make_model", make)
    begun = choose_and_begin(ModelChoice(), load_dataset(shapes, split="train"), machine(40), minutes=30, seed=0)
    assert not begun.trained and made[-1] == LIGHT and "timm/resnet18" in made
    assert "from trained weights" not in begun.decisions[0].reason and "cannot be taken" in begun.decisions[-1].reason


def test_the_data_alone_is_enough(shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    """On a machine that is slow, as it says. The run goes on by its plan, and nothing is measured again."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(machines, "measure_machine", lambda device: machine(20_000))
    monkeypatch.setattr("onestage.cli.candidates.CANDIDATES", ON_CPU[-1:])
    assert main(["train", str(shapes), "--plan-only"]) == 0
    said = capsys.readouterr().out
    assert "tinyssd on 8 pictures to learn from, 4 to measure on" in said and "anchors reach" in said
    assert not Path("runs").exists()
    for option in ("--model", "--size", "--weights", "--epochs", "--batch-size", "--lr"):
        assert option in said
    assert max(map(len, said.splitlines())) <= 100

    small = ["--size", "64", "--epochs", "1", "--workers", "0", "--device", "cpu"]
    assert main(["train", str(shapes), *small]) == 0
    capsys.readouterr()
    plan = Plan.load("runs/tinyssd-1")
    assert plan.machine == machine(20_000) and plan.train.batch_size == 8 and plan.train.warmup == 100
    assert {"model", "start", "batch_size", "recipe"} <= {decision.setting for decision in plan.decisions}
    assert json.loads(Path("runs/tinyssd-1/config.json").read_text())["decisions"][0]["setting"] == "model"

    monkeypatch.delattr(machines, "measure_machine")
    assert main(["train", "--resume", "runs/tinyssd-1"]) == 0
    assert Plan.load("runs/tinyssd-1") == plan
