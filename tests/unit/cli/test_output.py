"""What is shown of work that takes long."""

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
    assert capsys.readouterr().err == "measuring: 1,000 of 2,000 pictures\nmeasuring: 2,000 of 2,000 pictures\n"


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
