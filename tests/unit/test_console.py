"""The terminal: no foreign text steers it, and its end does not end the work."""

import ast
import io
import os
import re
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unicodedata import category

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.columns import Columns
from rich.console import Group
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from onestage import console
from onestage.console import Outlet, Terminal, outlets, show_traceback, without_prints, words
from onestage.errors import printable

HOSTILE = "\x1b[31m\x1b]0;owned\x07\x9b2J\u202eback\r\b\x7f[red]\\ :warning: \ud800"
STYLES = re.compile(r"\x1b\[[0-9;]*m")
"""The only sequences that rich writes for text with styles."""


def shown(*parts, colours=False, **options):
    """What the terminal gets."""
    terminal = Terminal(width=60)
    terminal.file = io.StringIO()
    terminal._force_terminal = colours
    terminal.print(*parts, **options)
    return terminal.file.getvalue()


def harmless(text):
    return all(c in "\n\t\u200c\u200d" or category(c) not in ("Cc", "Cf", "Cs", "Zl", "Zp") for c in STYLES.sub("", text))


def table(cell):
    grid = Table("name", title=words("t", str(cell)))
    grid.add_row(cell)
    grid.add_row(Text(str(cell), overflow="ellipsis", no_wrap=True))
    return grid


WAYS = {
    "text": lambda s: Text(s),
    "markup": lambda s: words((s, "bold"), f" and {s}"),
    "raw string": lambda s: s.replace("[", "("),
    "table": lambda s: table(words((s, "red"))),
    "columns": lambda s: Columns([Text(s), Text(s)]),
    "panel": lambda s: Panel(Group(Text(s)), title=words(s)),
    "assembled": lambda s: Text.assemble((s, "bold"), "rest", (s, "red")),
}


@pytest.mark.parametrize("way", WAYS)
@given(text=st.one_of(st.text(), st.text("\x1b\x9b[]0;m\\\r\n/redJ:\u202e\ud800", max_size=30), st.just(HOSTILE)))
def test_no_text_steers_the_terminal(way, text):
    printed = shown(WAYS[way](text))
    assert harmless(printed) and not STYLES.search(printed)


@given(text=st.one_of(st.text(max_size=20), st.text("[]/red\\:a ", max_size=20)))
def test_a_name_is_shown_as_it_is(text):
    """Also where rich's markup, or its escape, would take a part of it away: :warning:, [red], a\\[b."""
    assert shown(words((text, "bold"), "|"), soft_wrap=True) == printable(text) + "|\n"


WIDTHS = [("80", 80), ("5", 20), *((asked, 120) for asked in ("0", "-1", "x", "", "9" * 30))]


@pytest.mark.parametrize(("asked", "width"), WIDTHS)
def test_any_width_has_room_for_a_table(monkeypatch, asked, width):
    monkeypatch.setenv("COLUMNS", asked)
    assert Terminal().width == width


class Gone(io.StringIO):
    """A stream whose reader has gone."""

    def write(self, text):
        raise BrokenPipeError(32, "Broken pipe")


def test_an_outlet_that_is_gone_stops_no_work():
    outlet = Outlet(Gone())
    assert not outlet.lost
    assert outlet.write("text") == 4 and outlet.lost
    outlet.flush()


@pytest.mark.parametrize(("terminal", "ends"), [(False, ("a\n\n  b\n", "c ")), (True, ("a  \n  \n  b \n", "c "))])
def test_lines_of_a_file_do_not_end_with_blanks(terminal, ends, monkeypatch):
    stream = io.StringIO()
    monkeypatch.setattr(stream, "isatty", lambda: terminal, raising=False)
    outlet = Outlet(stream)
    assert outlet.write("a  \n  \n  b \nc ") == 14
    assert stream.getvalue() == "".join(ends)


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "utf-8"])
def test_characters_that_an_encoding_lacks_are_escaped(encoding):
    bytes_ = io.BytesIO()
    outlet = Outlet(io.TextIOWrapper(bytes_, encoding=encoding))
    outlet.write("犬 é ·")
    outlet.flush()
    text = bytes_.getvalue().decode(encoding)
    assert text == ("犬 é ·" if encoding == "utf-8" else text) and not outlet.lost and ("é" in text or r"\xe9" in text)


def test_closed_streams_become_the_null_device(monkeypatch):
    monkeypatch.setattr(os, "open", lambda *_: 3)
    monkeypatch.setattr(os, "close", lambda *_: None)
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    with outlets():
        print("to nobody")
        print("to nobody", file=sys.stderr)
    assert sys.stdout is not None and sys.stderr is not None


def test_a_traceback_holds_no_escape_sequence(capsys):
    try:
        raise RuntimeError(HOSTILE.replace("\ud800", ""))
    except RuntimeError as error:
        show_traceback(type(error), error, error.__traceback__)
    text = capsys.readouterr().err
    assert "RuntimeError" in text and "Traceback" in text and harmless(text)


def test_one_more_ctrl_c_shows_no_traceback(capsys):
    show_traceback(KeyboardInterrupt, KeyboardInterrupt(), None)
    assert capsys.readouterr() == ("", "")


def test_all_text_goes_through_the_terminal():
    """No other file of the package prints, or makes a console of rich."""
    source = Path(console.__file__).parent
    found = []
    for path in source.rglob("*.py"):
        if path.name == "console.py":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            called = node.func if isinstance(node, ast.Call) else None
            if isinstance(called, ast.Name) and called.id in ("print", "Console"):
                found.append(f"{path.relative_to(source)}:{node.lineno} {called.id}")
            if isinstance(called, ast.Name) and called.id == "Progress" and "console" not in [k.arg for k in node.keywords]:
                found.append(f"{path.relative_to(source)}:{node.lineno} Progress without console")
            if isinstance(node, ast.ImportFrom) and node.module == "rich.markup":
                found.append(f"{path.relative_to(source)}:{node.lineno} rich.markup, in place of console.words")
    assert found == []


def test_one_thread_is_silent_and_the_others_are_heard(capsys):
    usual = sys.stdout
    with ThreadPoolExecutor(1) as pool, without_prints():
        print("dropped")
        assert not sys.stdout.isatty()
        pool.submit(print, "heard").result()
        kept = sys.stdout
    assert sys.stdout is usual
    kept.write("later")  # another thread may have it still
    assert capsys.readouterr().out == "heard\nlater"


def test_what_took_the_place_of_standard_output_meanwhile_stays(monkeypatch):
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    with without_prints():
        sys.stdout = other = io.StringIO()
    assert sys.stdout is other
