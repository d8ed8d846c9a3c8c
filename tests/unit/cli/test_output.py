"""What is shown of work that takes long."""

import re

import pytest

from onestage.cli import output


def test_without_a_terminal_lines_tell_how_far_the_work_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with output.progress("measuring", 2000) as bar:
        bar.advance(1000)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(output, "LINE_SECONDS", 0.0)
    with output.progress("measuring", 2000) as bar:
        bar.advance(1000)
        bar.advance(1000)
    first, second = capsys.readouterr().err.splitlines()
    speed = r", [\d,.]+ pictures/s, 0:00:0\d left"
    assert re.fullmatch("measuring: 1,000 of 2,000 pictures" + speed, first)
    assert re.fullmatch("measuring: 2,000 of 2,000 pictures" + speed, second)


def test_the_rate_is_that_since_the_first_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not that of a batch, whose pictures come all at once."""
    from rich.progress import Progress

    now = [0.0]
    bars = Progress(*output.picture_columns(), disable=True, get_time=lambda: now[0])
    task = bars.add_task("predicting", total=7)
    rate = bars.columns[3]
    assert isinstance(rate, output._Rate) and str(rate.render(bars.tasks[0])) == ""
    now[0] = 2.0
    for _ in range(7):
        bars.update(task, advance=1)
    assert str(rate.render(bars.tasks[0])) == "3.5 pictures/s"


def test_the_rate_does_not_count_what_was_done_before() -> None:
    from rich.progress import Progress

    now = [0.0]
    bars = Progress(disable=True, get_time=lambda: now[0])
    task = bars.add_task("predicting", total=100, completed=90, before=90)
    now[0] = 2.0
    bars.update(task, advance=5)
    assert output.rate_of(bars.tasks[0]) == 2.5


@pytest.mark.parametrize(
    ("rate", "told"),
    [
        (1234.56, "1,234.6 cells/s"),
        (1, "1.0 cells/s"),
        (0.5, "2.0 s each"),
        (1 / 41.2, "41 s each"),
        (1 / 4000, "4,000 s each"),
    ],
)
def test_of_slow_work_the_time_of_each_is_told(rate: float, told: str) -> None:
    """0.0 cells/s would tell nothing."""
    assert output.pace(rate, "cells") == told
