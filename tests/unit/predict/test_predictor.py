"""Pictures to detections with any engine: what it is given, what it may give, and that a model is only read."""

import collections
import copy
import functools
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import onestage
from onestage.errors import ConfigError, DataError, OnestageError
from onestage.model import detector
from onestage.model.anchors.levels import Anchors
from onestage.model.decoder import Decoder
from onestage.model.detector import Detector
from onestage.model.output.postprocess import RawDetections
from onestage.model.output.scores import Scores
from onestage.predict import folded as folding
from onestage.predict.contract import Contract
from onestage.predict.engines.exported import FileEngine
from onestage.predict.predictor import Predictor, TorchEngine, in_evaluation_mode
from onestage.structures import HeadOutput

PIXELS = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def model() -> Detector:
    torch.manual_seed(0)
    return onestage.create("tinyssd", 3, size=(64, 96)).eval()


@pytest.fixture(scope="module")
def any_size() -> Detector:
    """A model that takes pictures of any size, as RetinaNet does."""
    torch.manual_seed(0)
    config = onestage.recipe("tinyssd", ("a", "b"), size=(64, 96)).replace({"preprocess.mode": "shortest_edge"})
    return onestage.build(config).eval()


def same(a, b) -> bool:
    return a.boxes.equal(b.boxes) and a.scores.equal(b.scores) and a.labels.equal(b.labels)


def test_a_predictor_prints_as_one_short_line(model: Detector) -> None:
    assert repr(Predictor.of(model)) == "Predictor('tinyssd', 3 classes, torch)"
    engine = FileEngine(Contract(model.config, "detections"), lambda _: [], "onnxruntime")
    assert repr(Predictor(engine, model.decoder)) == "Predictor('tinyssd', 3 classes, onnxruntime)" and len(repr(engine)) < 60


def test_the_decoder_needs_no_network(model: Detector) -> None:
    inputs, metas = model.prepare([torch.from_numpy(PIXELS).permute(2, 0, 1)])
    with torch.inference_mode():
        output = model(inputs)
    (found,) = Decoder.of(model.config).decode(output, metas)
    assert len(found) > 0 and same(found, model.predict(PIXELS)[0])


def test_an_engine_gets_resized_pictures_and_where_they_lie() -> None:
    config = onestage.recipe("tinyssd", ("a",), size=(64, 96)).replace({"preprocess.mode": "letterbox"})
    seen: list[tuple[Tensor, Tensor]] = []

    class Engine:
        device = torch.device("cpu")

        def __call__(self, images: Tensor, frames: Tensor) -> list[RawDetections]:
            seen.append((images, frames))
            boxes = torch.tensor([[0.0, 0, 48, 32], [0.0, 0, 200, 200]])
            return [RawDetections(boxes, torch.tensor([0.9, 0.2]), torch.tensor([0, 0])) for _ in images]

    model = onestage.build(config)
    predictor = Predictor(Engine(), model.decoder)
    found = predictor.predict([np.zeros((128, 192, 3), np.uint8), np.zeros((128, 64, 3), np.uint8)])
    ((images, frames),) = seen
    assert images.shape == (2, 3, 64, 96) and images.dtype == torch.uint8
    assert frames.tolist() == [[0, 0, 96, 64], [0, 0, 32, 64]]
    assert found[0].boxes.tolist() == [[0, 0, 96, 64], [0, 0, 192, 128]]  # in pixels of the picture, cut to it
    assert found[0].class_names == ("a", "a")
    assert [len(d) for d in predictor.predict(np.zeros((8, 8, 3), np.uint8), score=0.5)] == [1]
    with pytest.warns(UserWarning, match="an engine with NMS inside finds nothing below a score of 0.01; torch does"):
        assert [len(d) for d in predictor.predict(PIXELS, score=0.005)] == [2]


def test_predict_gives_evaluation_mode_whatever_the_modes_are(model: Detector) -> None:
    expected = model.predict(PIXELS)[0]
    training = copy.deepcopy(model).train()
    training.backbone.eval()
    state = copy.deepcopy(training.state_dict())
    modes = [part.training for part in training.modules()]
    assert same(training.predict(PIXELS)[0], expected) and len(expected) > 0
    assert [part.training for part in training.modules()] == modes
    assert all(value.equal(state[name]) for name, value in training.state_dict().items())


def test_predict_flips_no_mode_even_for_a_moment(model: Detector, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another thread may train or predict with the model at any time: nothing of it may change, not even for a moment."""
    training = copy.deepcopy(model).train()
    parameters = {name: id(p) for name, p in training.named_parameters()}
    during: list[bool] = []
    forward = type(training.head).forward

    def watched(self, maps):
        during.append(all(m.training for m in training.modules()))
        during.append({name: id(p) for name, p in training.named_parameters()} == parameters)
        return forward(self, maps)

    monkeypatch.setattr(type(training.head), "forward", watched)
    training.predict(PIXELS)
    assert during == [True, True]


def test_what_hangs_on_a_model_in_training_mode_is_shared_not_copied(model: Detector) -> None:
    """Locks, hooks of objects, tensors that were computed: none of it can be copied, and none has to be."""
    training = copy.deepcopy(model).train()
    training.lock = threading.Lock()
    training.notes = {"loss": next(training.parameters()).sum()}
    seen: list[str] = []

    class Watcher:
        def __init__(self) -> None:
            self.lock = threading.Lock()

        def hook(self, module, inputs, output) -> None:
            seen.append(type(module).__name__)

    training.head.register_forward_hook(Watcher().hook)
    assert same(training.predict(PIXELS)[0], model.predict(PIXELS)[0])
    assert len(seen) == 1


def test_a_replaced_forward_is_refused_in_training_mode(model: Detector) -> None:
    """It belongs to the original part, which would run in training mode and change its statistics."""
    training = copy.deepcopy(model).train()
    original = training.backbone.forward
    training.backbone.forward = lambda images: original(images)
    statistics = copy.deepcopy(dict(training.named_buffers()))
    with pytest.raises(ConfigError, match=r"forward was replaced") as error:
        training.predict(PIXELS)
    assert error.value.where == "backbone" and "eval()" in str(error.value)
    with pytest.raises(ConfigError, match=r"forward was replaced"):
        Predictor.folded(training)
    assert all(value.equal(statistics[name]) for name, value in training.named_buffers())
    assert same(training.eval().predict(PIXELS)[0], model.predict(PIXELS)[0])


def by_list(part: nn.Module) -> None:
    part.held = list(part.children())


def by_tuples_in_a_dict(part: nn.Module) -> None:
    part.held = {"all": (tuple(part.children()), None)}


def by_compiled_parts(part: nn.Module) -> None:
    for child in part.modules():
        child.compile(backend="eager")


HOLDERS = [by_list, by_tuples_in_a_dict, by_compiled_parts]
"""Ways in which a part may reach its parts besides the tree of modules."""


class Steps(nn.Sequential):
    """A sequence that runs its parts as it holds them: in a list, in a dict, or in the tree alone."""

    held = None

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        for step in self.held["all"][0] if isinstance(self.held, dict) else self.held or self.children():
            images = step(images)
        return images


def held(model: Detector, hold: Callable[[nn.Module], None]) -> Detector:
    """A copy of the model whose first stage reaches its parts in that way."""
    other = copy.deepcopy(model)
    other.backbone.stages[0][0] = steps = Steps(*other.backbone.stages[0][0])
    hold(steps)
    return other.eval()


@pytest.mark.parametrize("hold", HOLDERS)
def test_parts_that_are_not_only_in_the_tree_run_in_evaluation_mode_too(model: Detector, hold) -> None:
    expected, training = model.predict(PIXELS)[0], held(model, hold).train()
    state = copy.deepcopy(training.state_dict())
    assert same(training.predict(PIXELS)[0], expected) and len(expected) > 0
    assert all(value.equal(state[name]) for name, value in training.state_dict().items())


@pytest.mark.parametrize("hold", HOLDERS)
def test_parts_that_are_not_only_in_the_tree_are_folded_too(model: Detector, hold) -> None:
    """A norm that was folded into a convolution does not run a second time under another name."""
    (expected,), (found,) = model.predict(PIXELS), Predictor.folded(held(model, hold)).predict(PIXELS)
    torch.testing.assert_close(found.scores[:5], expected.scores[:5], atol=1e-4, rtol=0)


class Holder:
    """An object that holds a part."""

    def __init__(self, part: nn.Module) -> None:
        self.part = part

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        return self.part(images)


class Linked(Holder):
    """An object that refers to a part weakly."""

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        return self.part()(images)


HIDDEN = {
    "partial": functools.partial,
    "bound method": lambda part: part.forward,
    "closure": lambda part: lambda images: part(images),
    "object": Holder,
    "weak reference": lambda part: Linked(weakref.ref(part)),
    "global": lambda part: eval("lambda images: PART(images)", {"PART": part}),
}
"""Ways in which a part may reach another one that no copy of the tree can follow."""


class Hiding(nn.Module):
    """A norm, called in that way."""

    def __init__(self, way: Callable[[nn.Module], Callable]) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3)
        self.calls = collections.deque([way(self.norm)])

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.calls[0](images)


@pytest.mark.parametrize("way", HIDDEN.values(), ids=HIDDEN)
def test_parts_that_a_mirror_cannot_follow_are_refused_in_training_mode(way) -> None:
    """They would run in training mode: other scores, and averages that move."""
    part = Hiding(way)
    with pytest.raises(ConfigError, match=r"(?s)function or an object holds.*norm.*call model.eval\(\) first"):
        in_evaluation_mode(part)
    part.norm.eval()  # nothing of it changes now, whoever calls it
    assert in_evaluation_mode(part) is not part
    assert in_evaluation_mode(part.eval()) is part


def test_a_detector_with_parts_that_no_copy_can_follow(model: Detector, monkeypatch: pytest.MonkeyPatch) -> None:
    other = held(model, lambda steps: None)
    steps = other.backbone.stages[0][0]
    steps.held = [functools.partial(part) for part in steps.children()]
    predictor = Predictor.folded(other)
    assert predictor.engine.detector is other
    assert same(predictor.predict(PIXELS)[0], model.predict(PIXELS)[0])
    monkeypatch.setattr(folding, "check_bfloat16", lambda device: None)
    with pytest.raises(ConfigError, match="leave --precision bf16 out"):
        Predictor.folded(other, bf16=True)
    state = copy.deepcopy(other.train().state_dict())
    for use in (lambda model: model.predict(PIXELS), Predictor.folded):
        with pytest.raises(ConfigError, match=r"call model.eval\(\) first"):
            use(other)
    assert all(value.equal(state[name]) for name, value in other.state_dict().items())


def test_a_compiled_model_in_training_mode_predicts(model: Detector) -> None:
    training = copy.deepcopy(model).train()
    training.compile(backend="eager")
    assert same(training.predict(PIXELS)[0], model.predict(PIXELS)[0])


def test_a_model_without_numbers_says_so(model: Detector) -> None:
    for use in (lambda empty: empty.predict(PIXELS), Predictor.folded):
        with pytest.raises(ConfigError, match="without numbers cannot predict"):
            use(copy.deepcopy(model).to("meta"))
    partly = copy.deepcopy(model)
    partly.head.to("meta")
    with pytest.raises(ConfigError, match="without numbers cannot predict"):
        partly.predict(PIXELS)


@pytest.mark.parametrize("kind", [torch.float16, torch.float64])
def test_the_maps_of_a_size_do_not_depend_on_types(model: Detector, kind: torch.dtype) -> None:
    size = (128, 96)
    expected, usual = copy.deepcopy(model).level_sizes(size), torch.get_default_dtype()
    assert copy.deepcopy(model).to(kind).level_sizes(size) == expected
    torch.set_default_dtype(kind)
    try:
        assert copy.deepcopy(model).level_sizes(size) == expected
        assert Predictor.folded(model).device.type == "cpu"
    finally:
        torch.set_default_dtype(usual)


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float64])
@pytest.mark.parametrize("training", [False, True])
def test_a_model_in_another_precision_predicts(model: Detector, kind: torch.dtype, training: bool) -> None:
    other = copy.deepcopy(model).to(kind).train(training)
    (found,), (expected,) = other.predict(PIXELS), model.predict(PIXELS)
    assert found.boxes.dtype == found.scores.dtype == torch.float32
    torch.testing.assert_close(found.scores[:5], expected.scores[:5], atol=0.02, rtol=0)


@pytest.mark.parametrize("training", [False, True])
def test_threads_share_a_model_from_its_first_call_on(training: bool, any_size: Detector) -> None:
    """Every thread with pictures of other sizes, all at once, on a model that was never used: the results are those of one."""
    shapes = [(40 + 8 * i, 96 - 4 * i) for i in range(8)]
    images = [np.random.default_rng(i).integers(0, 256, (*shape, 3), dtype=np.uint8) for i, shape in enumerate(shapes)]
    expected = [any_size.predict(image)[0] for image in images]
    assert len({d.size for d in expected}) == 8 and all(len(d) for d in expected)
    fresh = onestage.build(any_size.config)
    fresh.load_state_dict(any_size.state_dict())
    fresh.train(training)
    together = threading.Barrier(8)

    def work(number: int):
        together.wait()
        return [fresh.predict(images[(number + turn) % 8])[0] for turn in range(3)]

    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(work, range(8)))
    for number, found in enumerate(results):
        assert all(same(one, expected[(number + turn) % 8]) for turn, one in enumerate(found))
    assert all(t.device.type == "cpu" for t in [*fresh.parameters(), *fresh.buffers()])
    assert fresh.training is training


def test_a_new_size_of_picture_costs_no_dry_run(any_size: Detector, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither in predict() nor in training: the sizes of the maps come with the output of the network."""
    fresh = onestage.build(any_size.config)
    monkeypatch.setattr(detector, "mirror", lambda *_: pytest.fail("a dry run"))
    for width in (64, 70, 96, 130):
        fresh.eval().predict(np.zeros((64, width, 3), np.uint8))
        output = fresh(fresh.prepare([torch.zeros(3, 64, width, dtype=torch.uint8)])[0])
        boxes = torch.tensor([[5.0, 5, 40, 40]])
        fresh.loss(output, [onestage.structures.Targets(boxes, torch.tensor([0]))])["cls"].backward()


def test_a_size_that_the_network_cannot_take_is_explained_and_other_faults_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    config = onestage.recipe("ssd", ("cat",), size=(300, 300), backbone="resnet10t").replace(
        {"preprocess.mode": "shortest_edge"}
    )
    model = onestage.build(config).eval()
    with pytest.raises(ConfigError, match="cannot take inputs of 96x320 pixels") as error:
        model.predict(np.zeros((60, 200, 3), np.uint8))
    assert error.value.where == "ssd"
    monkeypatch.setattr(type(model.head), "forward", lambda *_: (_ for _ in ()).throw(RuntimeError("out of memory")))
    with pytest.raises(RuntimeError, match="out of memory"):
        model.predict(np.zeros((300, 300, 3), np.uint8))


def test_an_assignment_for_an_input_of_another_size_is_refused(any_size: Detector) -> None:
    """Even one with as many anchors: the transposed size has them elsewhere."""
    output = any_size(torch.zeros(1, 3, 64, 96))
    targets = [onestage.structures.Targets(torch.tensor([[5.0, 5, 40, 40]]), torch.tensor([0]))]
    any_size.loss(output, any_size.assign(targets, (64, 96)))
    other = any_size.assign(targets, (96, 64))
    assert other.matches.shape == output.deltas.shape[:2]
    with pytest.raises(ConfigError, match="other images"):
        any_size.loss(output, other)


def test_the_engine_follows_its_detector(model: Detector) -> None:
    moved = copy.deepcopy(model)
    engine = TorchEngine(moved)
    moved.to("meta")
    assert engine.device.type == "meta"


def test_frames_of_opencv(model: Detector) -> None:
    (expected,) = model.predict(PIXELS)
    (found,) = model.predict(np.ascontiguousarray(PIXELS[:, :, ::-1]), channels="bgr")
    assert same(found, expected) and len(found) > 0
    assert found.draw().tobytes() == expected.draw().tobytes()
    assert not same(model.predict(np.ascontiguousarray(PIXELS[:, :, ::-1]))[0], expected)
    with pytest.raises(DataError):
        model.predict("picture.jpg", channels="bgr")


def test_a_full_cache_of_anchors_starts_anew(model: Detector) -> None:
    levels = model.config.levels
    anchors = Anchors(levels)
    sizes = [((i + 1, 1), *[(1, 1)] * (len(levels) - 1)) for i in range(40)]
    made = [anchors.boxes(size, (64, 64), torch.device("cpu")) for size in sizes]
    again = [anchors.boxes(size, (64, 64), torch.device("cpu")) for size in sizes]
    assert all(a.equal(b) for a, b in zip(made, again, strict=True))
    assert len(anchors._kept) <= 32


def test_the_torch_engine_gives_the_output_of_the_network(model: Detector) -> None:
    pixels, metas = model.config.preprocess.batch([torch.from_numpy(PIXELS).permute(2, 0, 1)])
    output = TorchEngine(model)(pixels, torch.stack([meta.frame for meta in metas]))
    assert isinstance(output, HeadOutput)
    with torch.inference_mode():
        expected = model(model.prepare([torch.from_numpy(PIXELS).permute(2, 0, 1)])[0])
    assert output.logits.equal(expected.logits) and output.level_sizes == expected.level_sizes


GOOD = torch.tensor([[1.0, 1, 20, 20], [2.0, 2, 30, 30]]), torch.tensor([0.9, 0.5]), torch.tensor([0, 1])


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ([], "for each image"),
        ([RawDetections(GOOD[0][:1], *GOOD[1:])], "no detections"),
        ([RawDetections(*GOOD[:2], GOOD[2].float())], "no detections"),
        ([RawDetections(GOOD[0] * torch.nan, *GOOD[1:])], "not numbers"),
        ([RawDetections(GOOD[0], GOOD[1] / 0, GOOD[2])], "not numbers"),
        ([RawDetections(*GOOD[:2], GOOD[2] - 1)], "label of no class"),
        ([RawDetections(*GOOD[:2], GOOD[2] + 2)], "label of no class"),
        ([RawDetections(GOOD[0], GOOD[1].flip(0), GOOD[2])], "best detections first"),
    ],
)
def test_what_an_engine_gives_is_checked(model: Detector, wrong: list[RawDetections], says: str) -> None:
    class Engine:
        device = torch.device("cpu")
        answer = wrong

        def __call__(self, images: Tensor, frames: Tensor) -> list[RawDetections]:
            return self.answer

    with pytest.raises(ConfigError, match=says):
        Predictor(Engine(), model.decoder).predict(PIXELS)
    Engine.answer = [RawDetections(GOOD[0].double(), GOOD[1], GOOD[2].int())]
    (found,) = Predictor(Engine(), model.decoder).predict(PIXELS)
    assert (found.boxes.dtype, found.labels.dtype, len(found)) == (torch.float32, torch.int64, 2)


def edited(output: HeadOutput, **parts) -> HeadOutput:
    return output._replace(**{name: part(getattr(output, name)) for name, part in parts.items()})


WRONG_OUTPUTS = {
    "fewer anchors": {"logits": lambda t: t[:, 1:], "deltas": lambda t: t[:, 1:]},
    "logits alone": {"logits": lambda t: t[:, 1:]},
    "one image more": {"logits": lambda t: t.repeat(2, 1, 1), "deltas": lambda t: t.repeat(2, 1, 1)},
    "one class more": {"logits": lambda t: torch.cat([t, t[..., :1]], dim=2)},
    "five numbers a box": {"deltas": lambda t: torch.cat([t, t[..., :1]], dim=2)},
    "flat": {"logits": torch.flatten, "deltas": torch.flatten},
    "another input": {"input_size": lambda size: (size[0], size[1] + 1)},
    "a map less": {"level_sizes": lambda sizes: sizes[1:]},
    "other maps": {"level_sizes": lambda sizes: ((1, 1), *sizes[1:])},
    "NaN deltas": {"deltas": lambda t: t * torch.nan},
    "infinite deltas": {"deltas": lambda t: t + torch.inf},
    "NaN logits": {"logits": lambda t: t * torch.nan},
}


class Foreign:
    """An engine that changes what the network gives, or gives something else."""

    device = torch.device("cpu")

    def __init__(self, model: Detector, change) -> None:
        self.network, self.change = TorchEngine(model), change

    def __call__(self, images: Tensor, frames: Tensor):
        return self.change(self.network(images, frames))


@pytest.mark.parametrize("wrong", WRONG_OUTPUTS)
def test_the_output_of_a_foreign_engine_is_checked(model: Detector, wrong: str) -> None:
    engine = Foreign(model, lambda output: edited(output, **WRONG_OUTPUTS[wrong]))
    with pytest.raises(OnestageError):
        Predictor(engine, model.decoder).predict(PIXELS)
    (same,) = Predictor(Foreign(model, lambda output: output), model.decoder).predict(PIXELS)
    assert same.boxes.equal(model.predict(PIXELS)[0].boxes)


@pytest.mark.parametrize("answer", [None, 3, "boxes", {}, (1, 2), [None], [(1, 2)], [[]], torch.zeros(3), iter(())])
def test_an_engine_that_gives_something_else_is_refused(model: Detector, answer) -> None:
    with pytest.raises(ConfigError, match="engine"):
        Predictor(Foreign(model, lambda _: answer), model.decoder).predict(PIXELS)


def test_an_engine_may_give_outputs_and_detections_by_turns(model: Detector) -> None:
    turn = iter(range(100))

    def change(output: HeadOutput):
        return output if next(turn) % 2 else [RawDetections(*GOOD)] * len(output.logits)

    found = Predictor(Foreign(model, change), model.decoder).predict([PIXELS] * 4, batch_size=1)
    assert [len(one) for one in found][::2] == [2, 2] and found[1].boxes.equal(model.predict(PIXELS)[0].boxes)


WRONG_ARGUMENTS = [
    *({"score": value} for value in ("0.5", torch.nan, -1, True, [0.5], 1j, ConfigError)),
    *({"batch_size": value} for value in (0, -1, 2.5, "8", None, True, 2**70)),
    *({"channels": value} for value in (3, None, "RGB", b"rgb")),
]


@pytest.mark.parametrize("arguments", WRONG_ARGUMENTS, ids=str)
@pytest.mark.parametrize("engine", ["network", "detections"])
def test_an_argument_of_the_wrong_kind_is_named(model: Detector, arguments, engine: str) -> None:
    change = (lambda output: output) if engine == "network" else (lambda output: [RawDetections(*GOOD)])
    with pytest.raises(ConfigError) as caught:
        Predictor(Foreign(model, change), model.decoder).predict(PIXELS, **arguments)
    assert next(iter(arguments)) in str(caught.value) or "colours" in str(caught.value)


@pytest.mark.parametrize("value", [np.int64(2), np.float32(0.5), 0, 0.0])
def test_numbers_of_numpy_are_numbers(model: Detector, value) -> None:
    assert model.predict(PIXELS, score=value / 4, batch_size=np.int64(1))


def test_what_was_measured_about_scores_is_applied_by_predict_alone(model: Detector) -> None:
    kept = copy.deepcopy(model)
    (plain,) = model.predict(PIXELS)
    kept.scores = Scores(temperatures=(0.5, 1, 2))
    (calibrated,) = kept.predict(PIXELS)
    assert same(calibrated, kept.scores.calibrated(plain)) and not calibrated.scores.equal(plain.scores)
    middle = float(calibrated.scores.median())
    kept.scores = Scores((middle,) * 3, kept.scores.temperatures)
    (found,) = kept.predict(PIXELS)
    assert same(found, kept.scores.reported(plain, None)) and 0 < len(found) < len(plain)
    (more,) = kept.predict(PIXELS, score=middle / 2)
    assert same(more, calibrated.select(calibrated.scores > middle / 2)) and len(more) > len(found)
    predictor = Predictor.folded(kept)
    assert predictor.scores == kept.scores
    (raw,) = Predictor.of(kept).detect([torch.from_numpy(PIXELS).permute(2, 0, 1)])
    assert same(raw, plain)


def test_scores_about_other_classes_are_refused(model: Detector) -> None:
    kept = copy.deepcopy(model)
    kept.scores = Scores(thresholds=(0.5, 0.5))
    with pytest.raises(ConfigError, match="thresholds are one for each of the 3 classes"):
        kept.predict(PIXELS)
