"""What follows from the figures of a benchmark: percentiles, shares, which cell to deploy; and how that is told."""

import csv
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onestage.cli.benchmark_table import show
from onestage.console import Terminal
from onestage.deploy import benchmark_views
from onestage.deploy import benchmark_wording as wording
from onestage.deploy.benchmark import Timing
from onestage.deploy.benchmark_views import COLUMNS, FILES, Findings, plot, save, to_csv, to_json
from onestage.deploy.cells import Cell, Row, Wish, best, front, lost, reference, turns_for

SECONDS = st.lists(st.floats(1e-4, 10), min_size=1, max_size=40)
MS = 0.001


def row(ms=10.0, *, model="m", runtime="torch", numbers="fp32", batch=1, turns=30, ap=None, **more) -> Row:
    """A cell whose turns all take so many milliseconds, half of them in the network."""
    half, rest = (ms * MS / 2,) * turns, (ms * MS / 6,) * turns
    timing = Timing("net", batch, (300, 300), runtime, "fp32" if numbers == "int8" else numbers, rest, rest, half, rest)
    return Row(Cell(model, runtime, numbers, batch), timing=timing, ap=ap, **more)


def of(*seconds: float) -> Row:
    """A cell of these turns."""
    nothing = (0.0,) * len(seconds)
    timing = Timing("net", 1, (300, 300), "torch", "fp32", nothing, nothing, tuple(seconds), nothing)
    return Row(Cell("m", "torch", "fp32"), timing=timing)


def test_so_many_turns_a_percentile_takes():
    """The largest of n times lies above the percentile p with a probability of 1 - p^n."""
    assert [turns_for(p) for p in (50, 90, 99)] == [5, 29, 299]
    for percent in (50, 75, 90, 99):
        share, count = percent / 100, turns_for(percent)
        assert 1 - share**count >= 0.95 > 1 - share ** (count - 1)


def test_a_percentile_is_given_from_so_many_turns_on():
    times = [MS * n for n in range(1, 30)]
    assert of(*times[:28]).percentile(90) is None and of(*times[:28]).latency == max(times[:28])
    known = of(*times).percentile(90)
    assert known == pytest.approx(float(np.percentile(times, 90))) == of(*times).latency
    assert of(*times).percentile(99) is None and of(*times[:5]).percentile(50) == pytest.approx(3 * MS)


@given(SECONDS)
def test_the_figures_of_any_turns_are_in_order(seconds):
    found = of(*seconds)
    assert min(seconds) <= found.median <= found.latency * (1 + 1e-9) <= max(seconds) * (1 + 2e-9)
    assert found.spread >= 0 and found.rate == pytest.approx(len(seconds) / sum(seconds))


def test_operations_are_two_for_each_multiply_add_of_all_pictures_at_once():
    found = row(20, batch=4, multiply_adds=3_000_000_000)
    assert found.operations == pytest.approx(4 * 2 * 3 / 0.010)
    assert found.share({"fp32": 4800.0}) == pytest.approx(0.5) and found.share({"bf16": 1.0}) is None
    assert replace(found, multiply_adds=None).share({"fp32": 1.0}) is None


def test_a_cell_without_times_fits_no_wish():
    failed = Row(Cell("m", "ncnn", "fp32"), reason="a crash")
    assert not Wish().fits(failed) and best([failed], Wish()) is None and failed.rate == 0 and math.isinf(failed.latency)


def test_the_best_cell_has_the_most_ap_within_the_time_and_of_equals_the_least_time():
    slow, good, equal, quick = row(40, ap=0.5), row(20, ap=0.45), row(10, ap=0.4455), row(5, ap=0.30)
    rows = [slow, good, equal, quick]
    assert best(rows, Wish(50 * MS)) is slow
    assert best(rows, Wish(30 * MS)) is equal, "0.0045 less AP is as good, and twice as fast"
    assert best(rows, Wish(8 * MS)) is quick and best(rows, Wish(1 * MS)) is None
    assert best(rows, Wish(None, 0.45)) is good and best(rows, Wish(30 * MS, 0.6)) is None
    assert best([row(9), row(8)], Wish(10 * MS)) == row(8), "without AP the fastest"
    assert best([row(9), row(8, ap=0.1)], Wish(None, 0.1)) == row(8, ap=0.1)


@given(
    st.lists(st.tuples(st.integers(1, 50), st.integers(0, 20)), min_size=1, max_size=12), st.integers(1, 50), st.integers(0, 20)
)
def test_no_cell_that_fits_is_clearly_better(cells, most, least):
    rows = [row(ms, ap=ap / 20, turns=29) for ms, ap in cells]
    wish = Wish(most * MS * 1.0001, least / 20)
    found = best(rows, wish)
    fit = [one for one in rows if one.latency <= wish.at_most and one.ap >= wish.least_ap]
    assert (found is None) == (not fit)
    if found is not None:
        assert found in fit and not any(one.ap > found.ap + 0.005 + 1e-9 for one in fit)
        assert not any(one.latency < found.latency and one.ap >= found.ap for one in fit)


@given(st.lists(st.tuples(st.integers(1, 30), st.integers(0, 20)), min_size=1, max_size=12))
def test_the_front_are_the_cells_that_nothing_beats(cells):
    rows = [row(ms, ap=ap / 20, turns=1) for ms, ap in cells]
    kept = front(rows)
    for one in rows:
        beaten = any((o.latency <= one.latency and o.ap > one.ap) or (o.latency < one.latency and o.ap >= one.ap) for o in rows)
        assert (one in kept) == (not beaten)


def test_ap_is_held_against_torch_in_fp32():
    torch, other, small = row(ap=0.5), row(runtime="openvino", ap=0.49), row(runtime="openvino", numbers="int8", ap=0.4)
    assert reference([other, torch, small], small) is torch and lost([other, torch, small], small) == pytest.approx(0.1)
    assert reference([other, small], small) is other and reference([torch, small], torch) is None
    assert lost([small], small) is None and lost([row(model="x", ap=0.9), small], small) is None


# --- words ---


def test_numbers_have_three_digits():
    assert [wording.milliseconds(s) for s in (0.0012345, 0.012345, 0.12345, 12.345, None, math.inf)] == [
        *("1.23", "12.3", "123", "12,345", "-", "-")
    ]
    assert [wording.cost(v) for v in (0.0045, -0.0045, 0.0, -0.00001, None)] == ["-.0045", "+.0045", "0", "0", "-"]
    assert [wording.accuracy(v) for v in (0.4123, 1.0, 0.0, None)] == [".4123", "1.000", ".0000", "-"]


def test_a_file_that_is_computed_in_other_numbers_says_so():
    assert wording.engine(row(numbers="int8")) == "torch int8" and wording.engine(row(numbers="bf16")) == "torch bf16"
    told = row(numbers="fp16", runtime="openvino")
    assert wording.engine(replace(told, timing=replace(told.timing, numbers="fp32"))) == "openvino fp16 (in fp32)"


def test_the_last_sentence_says_which_to_deploy_or_that_none_fits():
    rows = [row(40, ap=0.5), row(20, runtime="openvino", numbers="int8", ap=0.49)]
    (told,) = wording.conclusion(rows, Wish(30 * MS))
    assert told == (
        "For at most 30.0 ms: deploy m by openvino int8. 90 % of 30 turns take at most 20.0 ms; 50.0 pictures a second; "
        "AP .4900, -.0100 against fp32."
    )
    (told,) = wording.conclusion(rows, Wish(10 * MS, 0.45))
    assert told.startswith("Nothing that was measured gives at most 10.0 ms and an AP of at least .4500: none fits.")
    assert "The nearest is m by openvino int8" in told
    (told,) = wording.conclusion(rows, Wish(None, 0.9))
    assert "none fits" in told and "The nearest is m by torch fp32" in told
    assert wording.conclusion([Row(Cell("m", "torch", "fp32"), reason="x")], Wish(1)) == ["Nothing was measured."]
    (told,) = wording.conclusion([row(turns=3)], Wish(1))
    assert "The slowest of 3 turns takes 10.0 ms" in told


def test_without_a_wish_the_fastest_of_each_model_is_named():
    rows = [row(40), row(20, runtime="ncnn"), row(30, model="other"), row(25, model="other", batch=8)]
    told = wording.conclusion(rows)
    assert told[0].startswith("m: ncnn fp32, 1 at once is the fastest.")
    assert told[1].startswith("other: torch fp32, 8 at once is the fastest.")
    assert told[2].startswith("Of all, other by torch fp32, 8 at once is the fastest.")
    assert len(wording.conclusion([row(model=str(n), batch=b) for n in range(9) for b in (1, 2)])) == 1


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (row(), "onestage predict m PICTURES --runtime torch"),
        (
            row(numbers="bf16", runtime="openvino", batch=4),
            "onestage predict m PICTURES --runtime openvino --precision bf16 --batch-size 4",
        ),
        (
            row(model="a b.safetensors", numbers="int8", runtime="onnxruntime"),
            "onestage export 'a b.safetensors' --to onnx -o 'a b.onnx' --precision int8 --data 'my data' && "
            "onestage predict 'a b.onnx' PICTURES --runtime onnxruntime",
        ),
        (
            row(numbers="int8", runtime="openvino"),
            "onestage export m --to openvino -o m.xml --precision int8 --data 'my data' && "
            "onestage predict m.xml PICTURES --runtime openvino",
        ),
        (row(model="m.onnx", runtime="openvino"), "onestage predict m.onnx PICTURES --runtime openvino"),
    ],
)
def test_the_command_uses_the_cell(found, expected):
    assert wording.command(found, Path("my data"), is_recipe=False) == expected
    assert wording.command(found, None, is_recipe=True).startswith("onestage train DATA --model ")


def test_what_a_reader_should_know():
    told = wording.remarks([row(turns=20, others=0.3, multiply_adds=10**9)], {"fp32": 1.0})
    assert [line.split()[0:3] for line in told] == [
        ["The", "90th", "percentile"],
        ["The", "99th", "percentile"],
        ["Other", "programs", "used"],
        ["A", "share", "above"],
    ]
    assert wording.remarks([row(turns=299, others=0.01)], {}) == []


# --- views ---

NASTY = "<script>\x1b[31m$x_y\u202e"


def findings(count: int = 2, *, ap: bool = True) -> Findings:
    """Some cells of a model with a hostile name, and one that failed."""
    rows = [
        row(10 + n, model=NASTY, ap=0.4 if ap else None, memory=10**9, multiply_adds=10**9, others=0.0) for n in range(count)
    ]
    failed = Row(Cell(NASTY, "ncnn", "fp32"), reason="a <b>crash</b>\x1b[0m")
    return Findings([*rows, failed], Wish(20 * MS), {"fp32": 1000.0}, {"device": NASTY}, "drawn", f"onestage benchmark {NASTY}")


@pytest.mark.parametrize("ap", [True, False])
def test_the_files_hold_every_cell_and_no_name_steers_the_page(ap, tmp_path):
    save(findings(ap=ap), tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(FILES)
    page = (tmp_path / "index.html").read_text()
    assert "<script>" not in page and "\x1b" not in page and "\u202e" not in page and "<b>crash" not in page
    assert page.count("torch fp32") >= 2 and "Not measured" in page and "deploy" in page
    rows = [*csv.DictReader((tmp_path / "benchmark.csv").read_text(encoding="utf-8").splitlines())]
    assert len(rows) == 3 and tuple(rows[0]) == COLUMNS and rows[2]["not_measured"] and float(rows[0]["p50_ms"]) == 10
    content = json.loads((tmp_path / "benchmark.json").read_text())
    assert content["timings"][0]["ap"] == (0.4 if ap else None) and len(content["timings"][0]["network"]) == 30
    assert content["not_measured"][0]["runtime"] == "ncnn" and content["peaks"] == {"fp32": 1000.0}
    assert (tmp_path / "benchmark.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("ap", [None, 0.4])
@pytest.mark.parametrize("turns", [12, 30])
def test_the_words_of_the_plot_lie_in_it(ap, turns, monkeypatch):
    figures = []
    monkeypatch.setattr(benchmark_views, "as_png", lambda figure: figures.append(figure) or b"")
    plot(Findings([row(n, model="/home/someone/runs/first", turns=turns, ap=ap) for n in (10, 20)], Wish(30 * MS)))
    figures[0].canvas.draw()
    for axes in figures[0].axes:
        place = axes.xaxis.label.get_window_extent()
        assert 0 <= place.x0 < place.x1 <= figures[0].bbox.width and place.y0 >= 0


def test_the_page_names_the_median_of_the_fastest_cell(tmp_path):
    save(Findings([of(*(n * MS for n in (1, 2, 3, 4, 100)))]), tmp_path)
    assert "<b>3.00</b><span>least median, ms" in (tmp_path / "index.html").read_text()


def test_no_figure_at_all_is_drawn_too():
    nothing = Findings([Row(Cell("m", "torch", "fp32"), reason="x")])
    assert plot(nothing) and "torch" in to_csv(nothing) and json.loads(to_json(nothing))["timings"] == []


@pytest.mark.parametrize("width", [60, 80, 100, 120, 200])
def test_the_table_fits_the_terminal(width, capsys):
    many = [
        row(10.5, model=f"runs/{name}", runtime="onnxruntime", numbers="fp16", batch=b, ap=0.4, memory=10**9)
        for name in "ab"
        for b in (1, 8)
    ]
    show(Terminal(width=width), Findings(many, Wish(), {"fp32": 1000.0}, {"device": "x"}))
    lines = capsys.readouterr().out.splitlines()
    head = next(line for line in lines if "median" in line)
    assert max(map(len, lines)) <= width and "AP" in head and ("99 %" in head) == (width >= 120)
    assert sum("onnxruntime" in line for line in lines) >= 4
