"""How many actors have room on the machines of a cluster; Ray itself is not asked."""

import pytest

from onestage.errors import ConfigError
from onestage.scale.on_ray import actors


@pytest.mark.parametrize(
    ("machines", "gpus", "count"),
    [
        ([(4, 0)], 0.0, 3),
        ([(4, 0), (8, 0)], 0.0, 11),
        ([(8, 2)], 0.6, 2),  # two halves and more, one on each
        ([(8, 2)], 0.25, 7),  # the processors are fewer
        ([(16, 2)], 0.25, 8),
        ([(8, 1), (8, 1)], 1.0, 2),
        ([(8, 3), (8, 3)], 2.0, 2),  # no actor has GPUs of two machines
        ([(16, 3)], 1 / 3, 9),
        ([(1, 4), (32, 0)], 1.0, 1),  # one has the GPUs, the other one the processors
        ([(1.5, 0), (1.5, 0)], 0.0, 1),  # no actor is on two machines
    ],
)
def test_actors_have_whole_seats(machines: list[tuple[float, int]], gpus: float, count: int) -> None:
    assert actors([{"CPU": cpus, "GPU": there} for cpus, there in machines], 100, gpus) == count


@pytest.mark.parametrize(
    ("machines", "gpus"),
    [([], 0.0), ([{"CPU": 1.0}], 0.0), ([{"CPU": 4.0, "GPU": 1.0}] * 2, 2.0), ([{"CPU": 8.0}, {"GPU": 2.0}], 1.0)],
)
def test_no_room_is_said(machines: list[dict[str, float]], gpus: float) -> None:
    with pytest.raises(ConfigError):
        actors(machines, 3, gpus)
