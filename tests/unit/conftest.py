"""What every unit test has, a terminal wide enough for any path; and what some need."""

from functools import partial

import pytest

from onestage.explain import page, pictures


@pytest.fixture(autouse=True)
def wide_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """No line of captured output wraps, so no test depends on how long its temporary folder's name is."""
    monkeypatch.setenv("COLUMNS", "2000")


@pytest.fixture
def small_panels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Explanations whose maps are drawn small, which takes a fraction of the time: for tests that do not look at them."""
    monkeypatch.setattr(page, "level_picture", partial(pictures.level_picture, side=60))
