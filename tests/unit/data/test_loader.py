"""The order of the data: a pure function of seed, epoch and picture, whatever loads it."""

import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from batches import assert_same, eleven_pictures, ids, spoil
from onestage.data.dataset import Dataset
from onestage.data.loader import EvalLoader, Shard, TrainLoader, usual_workers
from onestage.data.order import Order, seed_of
from onestage.data.transforms import Augment, EvalTransform, Prepared, TrainTransform, stretch
from onestage.errors import ConfigError, DataError, LostError, OnestageError
from onestage.model.preprocess import Preprocess
from onestage.structures import ImageMeta, Sample
from small_runs import signal_here

AUGMENTED = TrainTransform(stretch((20, 24)), Augment.ssd())


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    return eleven_pictures(tmp_path)


def test_workers_change_no_bit_and_live_through_epochs_begun_and_left(dataset: Dataset) -> None:
    alone = TrainLoader(dataset, AUGMENTED, batch_size=4, seed=3)
    expected = [list(alone.epoch(e)) for e in (0, 1)]
    for workers in (1, 2):
        loader = TrainLoader(dataset, AUGMENTED, batch_size=4, seed=3, workers=workers)
        assert_same(list(loader.epoch(0)), expected[0])
        next(loader.epoch(1))
        assert_same(list(loader.epoch(1)), expected[1])


def test_an_epoch_resumed_in_its_middle_goes_on_with_the_same_bits(dataset: Dataset) -> None:
    whole = list(TrainLoader(dataset, AUGMENTED, batch_size=2, seed=1).epoch(4))
    assert len(whole) == 5
    for start in (1, 3, 5):
        assert_same(list(TrainLoader(dataset, AUGMENTED, batch_size=2, seed=1).epoch(4, start=start)), whole[start:])


def test_resuming_does_not_read_what_was_seen(dataset: Dataset) -> None:
    loader = TrainLoader(dataset, AUGMENTED, batch_size=4)
    spoil(dataset, *Order(11, 0).epoch(0).tolist()[:4])
    assert len(list(loader.epoch(0, start=1))) == 1
    with pytest.raises(DataError):
        next(loader.epoch(0))


@pytest.mark.parametrize("workers", [0, 1])
def test_the_global_generators_are_not_touched(dataset: Dataset, workers: int) -> None:
    before = torch.get_rng_state()
    loader = TrainLoader(dataset, AUGMENTED, batch_size=4, workers=workers)
    first = list(loader.epoch(0))
    torch.manual_seed(99)
    assert_same(list(loader.epoch(0)), first)
    torch.set_rng_state(before)
    list(loader.epoch(1))
    assert torch.get_rng_state().equal(before)


def test_each_epoch_is_another_permutation(dataset: Dataset) -> None:
    orders = [Order(50, s).epoch(e).tolist() for s in (0, 1) for e in (0, 1)]
    assert all(sorted(order) == list(range(50)) for order in orders)
    assert len({tuple(order) for order in orders}) == 4
    loader = TrainLoader(dataset, AUGMENTED, batch_size=11)
    (batch,) = loader.epoch(0)
    assert ids(batch) == [100 + i for i in Order(11, 0).epoch(0).tolist()]


def test_a_picture_is_augmented_anew_in_each_epoch(dataset: Dataset) -> None:
    loader = TrainLoader(dataset.subset([0]), AUGMENTED, batch_size=1)
    assert len({next(loader.epoch(e)).images.sum().item() for e in range(6)}) > 3


@pytest.mark.parametrize("world", [1, 2, 4])
def test_processes_share_every_batch_out(dataset: Dataset, world: int) -> None:
    """1 x 8, 2 x 4 and 4 x 2 see the same pictures, with the same bits, in the same step."""
    (whole,) = TrainLoader(dataset, AUGMENTED, batch_size=8).epoch(2)
    shares = []
    for rank in range(world):
        loader = TrainLoader(dataset, AUGMENTED, batch_size=8, shard=Shard(rank, world))
        assert len(loader) == 1
        shares += loader.epoch(2)
    assert [len(share.images) for share in shares] == [8 // world] * world
    seen = {name: image for share in shares for name, image in zip(ids(share), share.images, strict=True)}
    assert sorted(seen) == sorted(ids(whole))
    assert all(seen[name].equal(image) for name, image in zip(ids(whole), whole.images, strict=True))


def test_incomplete_batches_are_dropped_unless_there_is_no_other(dataset: Dataset) -> None:
    sizes = {b: [len(x.images) for x in TrainLoader(dataset, AUGMENTED, batch_size=b).epoch(0)] for b in (4, 11, 16)}
    assert sizes == {4: [4, 4], 11: [11], 16: [11]}
    shares = [list(TrainLoader(dataset, AUGMENTED, batch_size=16, shard=Shard(r, 2)).epoch(0)) for r in (0, 1)]
    assert [[len(x.images) for x in share] for share in shares] == [[6], [5]]


def test_a_batch_that_cannot_be_shared_out_is_refused(dataset: Dataset) -> None:
    with pytest.raises(ConfigError, match="multiple of 2"):
        TrainLoader(dataset, AUGMENTED, batch_size=3, shard=Shard(0, 2))
    with pytest.raises(ConfigError, match="1 or more"):
        TrainLoader(dataset, AUGMENTED, batch_size=0)
    with pytest.raises(DataError, match="too few pictures"):
        TrainLoader(dataset.subset([0]), AUGMENTED, batch_size=2, shard=Shard(0, 2))
    with pytest.raises(DataError, match="too few pictures"):
        TrainLoader(dataset.subset([]), AUGMENTED, batch_size=2)


@pytest.mark.parametrize("workers", [0, 1])
def test_an_unreadable_picture_stops_training_with_its_name_and_no_traceback(dataset: Dataset, workers: int) -> None:
    spoil(dataset, 5)
    with pytest.raises(DataError) as caught:
        list(TrainLoader(dataset, AUGMENTED, batch_size=11, workers=workers).epoch(0))
    assert dataset.paths[5] in str(caught.value)
    assert "Traceback" not in str(caught.value)


def test_a_skipped_picture_is_replaced_by_the_next_and_noted(dataset: Dataset) -> None:
    spoil(dataset, 5, 6, 10)
    batches = {}
    for workers in (0, 2):
        loader = TrainLoader(dataset, AUGMENTED, batch_size=11, workers=workers, on_bad="skip")
        batches[workers] = list(loader.epoch(0))
        assert sorted(loader.skipped) == sorted(dataset.paths[i] for i in (5, 6, 10))
    assert_same(batches[0], batches[2])
    replaced = {5: 7, 6: 7, 10: 0}
    assert ids(batches[0][0]) == [100 + replaced.get(i, i) for i in Order(11, 0).epoch(0).tolist()]


def test_nothing_but_unreadable_pictures_stop_training_even_when_they_are_skipped(dataset: Dataset) -> None:
    spoil(dataset, *range(11))
    with pytest.raises(DataError, match="in a row"):
        list(TrainLoader(dataset, AUGMENTED, batch_size=4, on_bad="skip").epoch(0))


@dataclass(frozen=True)
class Refusing(TrainTransform):
    """Raises an error with all its parts."""

    kind: type[OnestageError] = DataError

    def __call__(self, sample: Sample, generator: torch.Generator) -> Prepared:
        raise self.kind("what", where="where", got="got", expected="expected", fix="fix")


@pytest.mark.parametrize("kind", [ConfigError, DataError])
@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_keeps_its_parts_on_the_way_from_a_worker(dataset: Dataset, workers: int, kind: type[OnestageError]) -> None:
    transform = Refusing(stretch((8, 8)), kind=kind)
    with pytest.raises(kind) as caught:
        list(TrainLoader(dataset, transform, batch_size=4, workers=workers).epoch(0))
    parts = {name: name for name in ("what", "where", "got", "expected", "fix")}
    assert caught.value.to_dict() == {"error": kind.__name__, **parts}


def test_only_errors_of_the_data_can_be_skipped(dataset: Dataset) -> None:
    loader = EvalLoader(dataset, Refusing(stretch((8, 8))), batch_size=4, on_bad="skip")  # type: ignore[arg-type]
    assert list(loader) == [] and {error.what for error in loader.skipped.values()} == {"what"}
    with pytest.raises(ConfigError):
        list(TrainLoader(dataset, Refusing(stretch((8, 8)), kind=ConfigError), batch_size=4, on_bad="skip").epoch(0))


class Broken(TrainTransform):
    """A fault of the program, in words that torch uses for a dead worker."""

    def __call__(self, sample: Sample, generator: torch.Generator) -> Prepared:
        raise RuntimeError("DataLoader worker (pid 1) is killed by signal: Killed.")


@pytest.mark.parametrize("workers", [0, 1])
def test_a_fault_of_the_program_is_not_taken_for_a_dead_worker(dataset: Dataset, workers: int) -> None:
    with pytest.raises(RuntimeError, match="killed by signal"):
        list(TrainLoader(dataset, Broken(stretch((8, 8))), batch_size=4, workers=workers).epoch(0))


class Dying(TrainTransform):
    """A worker killed from outside, as the kernel does when memory is short."""

    def __call__(self, sample: Sample, generator: torch.Generator) -> Prepared:
        signal_here(signal.SIGKILL)
        raise AssertionError


def test_a_worker_that_dies_is_one_clear_error(dataset: Dataset) -> None:
    with pytest.raises(LostError, match="a process that loads pictures died"):
        list(TrainLoader(dataset, Dying(stretch((8, 8))), batch_size=4, workers=1).epoch(0))


STILL_THERE_AT_THE_END = """
from onestage.data.loader import TrainLoader
from onestage.data.synthetic import SyntheticConfig, synthetic_dataset
from onestage.data.transforms import TrainTransform, stretch

pictures = synthetic_dataset(SyntheticConfig(size=(32, 32), count=2))
loader = TrainLoader(pictures, TrainTransform(stretch((8, 8))), batch_size=2, workers=1)
print(len(list(loader.epoch(0))), flush=True)
"""


def test_python_ends_though_a_loader_with_workers_is_still_there() -> None:
    ended = subprocess.run([sys.executable, "-c", STILL_THERE_AT_THE_END], timeout=120, capture_output=True, text=True)
    assert (ended.returncode, ended.stdout) == (0, "1\n"), ended.stderr


class Interrupted(TrainTransform):
    """Ctrl-C, as the terminal sends it to the workers too."""

    def __call__(self, sample: Sample, generator: torch.Generator) -> Prepared:
        signal_here(signal.SIGINT)
        return super().__call__(sample, generator)


def test_workers_leave_ctrl_c_to_the_parent(dataset: Dataset) -> None:
    loader = TrainLoader(dataset, Interrupted(stretch((8, 8))), batch_size=4, workers=1)
    assert len(list(loader.epoch(0))) == 2


def half(image: torch.Tensor) -> tuple[torch.Tensor, ImageMeta]:
    """A model's resize that keeps the pictures' different sizes."""
    size = (int(image.shape[1]), int(image.shape[2]))
    return image[:, ::2, ::2], ImageMeta(size, (-(-size[0] // 2), size[1] // 2), (0.5, 0.5), (0, 0))


@pytest.mark.parametrize("world", [1, 2, 3, 12])
def test_evaluation_sees_every_picture_once_in_order(dataset: Dataset, world: int) -> None:
    loaders = [EvalLoader(dataset, EvalTransform(half), batch_size=4, shard=Shard(r, world)) for r in range(world)]
    for rank, loader in enumerate(loaders):
        batches = list(loader)
        assert len(batches) == len(loader)
        whole = [list(range(i, min(i + 4, 11))) for i in range(0, 11, 4)]  # the batches of one process, dealt out
        assert [[name - 100 for name in ids(b)] for b in batches] == whole[rank::world]
        assert loader.indices == [i for batch in whole[rank::world] for i in batch]
    assert sorted(i for loader in loaders for i in loader.indices) == list(range(11))


def test_pixels_in_float_come_from_workers_as_they_are(dataset: Dataset) -> None:
    """A detector that resizes without antialiasing gets its pictures in float."""
    transform = EvalTransform(Preprocess(size=(20, 24), antialias=False).resize)
    alone, helped = (list(EvalLoader(dataset, transform, batch_size=4, workers=workers)) for workers in (0, 1))
    assert alone[0].images.is_floating_point()
    assert_same(helped, alone)


def test_evaluation_of_nothing_is_nothing(dataset: Dataset) -> None:
    loader = EvalLoader(dataset.subset([]), EvalTransform(half), batch_size=4)
    assert len(loader) == 0 and list(loader) == []


def test_evaluation_leaves_unreadable_pictures_out_or_stops(dataset: Dataset) -> None:
    spoil(dataset, 0, 1, 4)
    loader = EvalLoader(dataset, EvalTransform(half), batch_size=2, on_bad="skip")
    assert [ids(batch) for batch in loader] == [[102, 103], [105], [106, 107], [108, 109], [110]]
    assert sorted(loader.skipped) == [dataset.paths[i] for i in (0, 1, 4)]
    with pytest.raises(DataError, match=r"0\.png"):
        list(EvalLoader(dataset, EvalTransform(half), batch_size=2))


def test_pictures_of_different_sizes_are_padded_right_and_bottom(dataset: Dataset) -> None:
    loader = EvalLoader(dataset, EvalTransform(half, fill=(9, 8, 7)), batch_size=11)
    (batch,) = loader
    assert batch.images.shape == (11, 3, 20, 20)
    assert {meta.input for meta in batch.metas} == {(20, 20)}
    first = dataset[0].image[:, ::2, ::2]
    assert batch.images[0, :, :15].equal(first)
    assert batch.images[0, :, 15:].unique(dim=1).flatten(1).amax(1).tolist() == [9, 8, 7]
    assert batch.targets[0].boxes.tolist() == [[1.0, 1.5, 15.0, 12.5], [2.5, 2.5, 7.5, 10.0]]


def test_targets_of_a_batch_are_those_of_its_pictures(dataset: Dataset) -> None:
    (batch,) = EvalLoader(dataset, EvalTransform(half), batch_size=11, workers=1)
    for i, targets in enumerate(batch.targets):
        truth = dataset.truth(i)
        assert targets.boxes.equal(truth.boxes / 2)
        assert targets.labels.equal(truth.labels) and targets.ignore.equal(truth.ignore)
    assert len(batch.targets[3].boxes) == 0


def test_seeds_differ_and_stay_what_they_are() -> None:
    assert len({seed_of(s, e, i) for s in range(5) for e in range(5) for i in range(40)}) == 1000
    assert seed_of(1, 2, 3) == seed_of(1, 2, 3) != seed_of(3, 2, 1)
    assert 0 <= seed_of(0) < 2**32


def test_usual_workers_leave_a_core_to_training() -> None:
    cores = len(os.sched_getaffinity(0))
    assert usual_workers() == min(max(cores - 1, 1), 16)
    assert usual_workers(world=10 * cores) == 1
