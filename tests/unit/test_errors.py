"""The one form of an error message."""

import inspect
import json
import pickle
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

import onestage
from onestage import errors
from onestage.errors import (
    ConfigError,
    DataError,
    KeywordError,
    OnestageError,
    WeightsError,
    absent,
    counted,
    first_ten,
    known_keywords,
    nearest,
    printable,
    require,
    three_nearest,
    warn_outside,
    without_warnings,
)


@pytest.mark.parametrize("kind", [DataError, ConfigError, WeightsError])
def test_every_error_is_a_value_error(kind):
    assert issubclass(kind, OnestageError)
    assert issubclass(kind, ValueError)


def test_the_text_gives_a_line_to_each_part_that_is_there():
    error = DataError("the box is empty", where="a.xml", got=[5, 5, 5, 9], expected="x1 < x2", fix="draw it again")
    assert str(error).splitlines() == [
        "the box is empty",
        "  where:    a.xml",
        "  got:      [5, 5, 5, 9]",
        "  expected: x1 < x2",
        "  fix:      draw it again",
    ]
    assert str(DataError("short")) == "short"
    assert str(DataError("nought", got=0)) == "nought\n  got:      0"


def test_an_error_is_data():
    error = WeightsError("damaged", where=Path("a.pth"), got=3)
    assert error.to_dict() == {
        "error": "WeightsError", "what": "damaged", "where": "a.pth", "got": "3", "expected": None, "fix": None,
    }  # fmt: skip
    assert json.loads(json.dumps(error.to_dict()))["what"] == "damaged"


def test_an_error_travels_between_processes_with_all_its_parts():
    error = DataError("the box is empty", where="a.xml", got=[5, 5], expected="x1 < x2", fix="draw it again")
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is DataError and str(copy) == str(error) and copy.to_dict() == error.to_dict()
    odd = DataError("the box is empty", where=lambda: 0, got=threading.Lock())
    assert str(pickle.loads(pickle.dumps(odd))) == str(odd)


class TwoArguments(Exception):
    """Cannot be made anew from its ``args``, as pickle does."""

    def __init__(self, first: str, second: str) -> None:
        super().__init__(f"{first}, {second}")


def test_an_error_holds_the_text_of_an_exception_not_the_exception():
    """That would keep every variable of its traceback, and not each exception can travel between processes."""
    error = DataError("the file cannot be read", got=TwoArguments("a", "b"))
    assert error.got == "a, b"
    assert str(pickle.loads(pickle.dumps(error))) == str(error) == "the file cannot be read\n  got:      a, b"


def test_a_warning_names_the_line_outside_this_package_that_led_here():
    """A neighbour whose name begins as ours does is outside."""
    package = Path(errors.__file__).parent
    file = Path(f"{package}_extras") / "caller.py"
    names = {"warn_outside": warn_outside}
    exec(compile("def call():\n    warn_outside(['a note'])", str(file), "exec"), names)
    with pytest.warns(UserWarning, match="a note") as caught:
        names["call"]()
    assert caught[0].filename == str(file) and caught[0].lineno == 2


HOSTILE = {
    "\x1b[31mred": r"\x1b[31mred",
    "\x9b2J": r"\x9b2J",
    "\a\b\0\x7f": r"\x07\x08\x00\x7f",
    "cat\u202egpj.exe": r"cat\u202egpj.exe",
    "\u2066\u200f\ufeff\U000e0041": r"\u2066\u200f\ufeff\U000e0041",
    "line\u2028end\r\n": r"line\u2028end\r\n",
    b"\xff.jpg".decode("utf-8", "surrogateescape"): r"\udcff.jpg",
}
"""Foreign text that could steer a terminal, and how a person sees it."""


@pytest.mark.parametrize("text", HOSTILE)
def test_foreign_text_is_escaped_in_every_part_of_an_error(text):
    assert printable(text) == HOSTILE[text]
    error = DataError(text, where=text, got=text, expected=text, fix=text)
    assert error.got == text
    shown = str(error).replace("\n", "")
    assert shown.isprintable() and shown.count(HOSTILE[text].removesuffix(r"\r\n")) == 5
    assert "".join(part or "" for part in error.to_dict().values()).replace("\n", "").isprintable()


@pytest.mark.parametrize("text", ["plain", "dög 犬 🐕 كلب", "می\u200cخواهم", "👩\u200d🚀", "[red]\\[/]", "a\u00a0b", ""])
def test_words_of_any_language_stay_as_they_are(text):
    assert printable(text) == text


@pytest.mark.parametrize("length", [0, 1, 299, 300, 301, 12_000])
@pytest.mark.parametrize("letter", ["a", "\x1b", "\U000e0041", "\n", "ab\n", "\n" + "a" * 500])
def test_a_text_is_short_and_its_beginning_and_end_are_shown(length, letter):
    whole = "<" + letter * length + ">"
    error = DataError(whole, where=whole, got=whole, expected=whole, fix=whole)
    lines = str(error).splitlines()
    assert len(lines) <= 5 * (errors.LINES + 1) and max(map(len, lines)) <= errors.LISTED + 12
    assert max(len(line) for line in str(DataError(whole, got=whole)).splitlines()) <= errors.QUOTED + 12
    assert lines[0].startswith("<") and ("\n" in letter or lines[0].endswith(">"))
    if len(whole) <= errors.QUOTED and letter == "a":
        assert lines[0] == whole


def test_nearest_names_only_what_is_close():
    assert nearest("tinysd", ["tinyssd", "ssd300_vgg16"]) == " (did you mean 'tinyssd'?)"
    assert nearest("yolo", ["tinyssd", "ssd300_vgg16"]) == ""
    assert nearest("anything", []) == ""
    assert nearest("fpn", ["FPN", "BiFPN"]) == " (did you mean 'FPN'?)"


def test_things_are_counted_in_words():
    assert [counted(n, "epoch") for n in (0, 1, 2)] == ["0 epochs", "1 epoch", "2 epochs"]
    assert counted(0.25, "epoch") == "0.25 epochs"
    assert counted(1, "class") == "1 class" and counted(1200, "class") == "1,200 classes"


def test_an_error_gets_its_place_once():
    error = DataError("the box is empty", got=5, fix="draw it again")
    told = error.at("a.xml")
    assert type(told) is DataError
    assert str(told) == str(DataError("the box is empty", where="a.xml", got=5, fix="draw it again"))
    assert str(told.at("b.xml")) == str(told)
    other = WeightsError.of(told, "b.xml")
    assert type(other) is WeightsError and other.where == "a.xml"
    assert WeightsError.of(error, "b.xml").where == "b.xml"


def test_first_ten_counts_the_rest():
    assert first_ten(["a", "b"]) == "  a\n  b"
    shown = first_ten([str(i) for i in range(13)]).splitlines()
    assert len(shown) == 11
    assert shown[9:] == ["  9", "  ... and 3 more"]
    assert len(first_ten([str(i) for i in range(10)]).splitlines()) == 10


def test_lines_of_one_part_stand_below_each_other():
    """Whether a list begins on the line of its name or behind it."""
    for got in (first_ten(["a", "b"]), "\n" + first_ten(["a", "b"]), "a\nb"):
        assert str(DataError("two are gone", got=got)) == "two are gone\n  got:      a\n            b"


def test_require():
    require(True, "never said", got=None)
    with pytest.raises(ConfigError, match="at least one") as error:
        require(False, "at least one", got=0)
    assert "got:      0" in str(error.value)


@known_keywords
def cook(dish: str, /, minutes: int = 5, *, salt: bool = True) -> str:
    """Cook it."""
    return f"{dish} {minutes} {salt}"


@known_keywords
@dataclass(frozen=True)
class Oven:
    """A hot place."""

    degrees: int = 180

    @known_keywords
    def heat(self, *, slowly: bool = False) -> int:
        return self.degrees + slowly


@pytest.mark.parametrize(
    ("call", "what", "where", "expected"),
    [
        (lambda: cook("rice", minute=3), "unknown keyword 'minute' (did you mean 'minutes'?)", "cook()", "minutes, salt"),
        (lambda: cook("rice", pepper=3), "unknown keyword 'pepper'", "cook()", "minutes, salt"),
        (lambda: cook("rice", dish=3), "unknown keyword 'dish'", "cook()", "minutes, salt"),
        (lambda: Oven(degree=3), "unknown keyword 'degree' (did you mean 'degrees'?)", "Oven()", "degrees"),
        (lambda: replace(Oven(), degree=3), "unknown keyword 'degree' (did you mean 'degrees'?)", "Oven()", "degrees"),
        (lambda: Oven().heat(slow=True), "unknown keyword 'slow' (did you mean 'slowly'?)", "Oven.heat()", "slowly"),
    ],
)
def test_an_unknown_keyword_gets_the_nearest_name(call, what, where, expected):
    with pytest.raises(KeywordError) as caught:
        call()
    assert isinstance(caught.value, TypeError) and isinstance(caught.value, ConfigError)
    assert (caught.value.what, caught.value.where, caught.value.expected) == (what, where, expected)


def test_known_keywords_leave_a_function_as_it_is():
    assert cook("rice", 3, salt=False) == "rice 3 False" and Oven(200).heat(slowly=True) == 201
    assert str(inspect.signature(cook)) == "(dish: str, /, minutes: int = 5, *, salt: bool = True) -> str"
    assert str(inspect.signature(Oven)) == "(degrees: int = 180) -> None"
    assert cook.__doc__ == "Cook it." and pickle.loads(pickle.dumps(cook)) is cook
    assert pickle.loads(pickle.dumps(Oven(3))) == Oven(3)
    with pytest.raises(TypeError, match="missing"):
        cook()


def test_an_error_keeps_its_notes_when_it_gets_a_place_or_travels():
    error = ConfigError("x")
    error.add_note("in epoch 3")
    for made in (error.at("there"), WeightsError.of(error, "there"), pickle.loads(pickle.dumps(error))):
        assert made.__notes__ == ["in epoch 3"]
        made.add_note("a second one")
    assert error.__notes__ == ["in epoch 3"]


def test_a_number_that_python_does_not_write_and_a_long_name_are_no_trouble():
    assert "a very long int" in str(ConfigError("x", got=10**5000))
    assert nearest("a" * 10**7, ["a" * 100]) == ""


@pytest.mark.parametrize(
    ("keyword", "said"),
    [
        ("lr", "unknown keyword 'lr'\n(.|\n)*fix: *config=TrainConfig\\(lr=...\\)"),
        ("batch_size", "config=TrainConfig"),
        ("bacth_size", "did you mean 'batch_size'"),
        ("epoch", "did you mean 'epochs'"),
    ],
)
def test_a_setting_that_is_given_as_a_keyword_is_shown_its_place(keyword: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        onestage.train(None, "pictures", **{keyword: 1})  # type: ignore[arg-type]


def test_threads_that_drop_warnings_leave_the_filters_as_they_were():
    before, met = list(warnings.filters), threading.Barrier(8)

    def drop(_: int) -> None:
        met.wait()
        for _ in range(50):
            with without_warnings():
                warnings.warn("dropped", stacklevel=1)

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(drop, range(8)))
    assert warnings.filters == before


def test_a_thread_drops_no_warnings_but_those_it_was_told_to_drop():
    """The filters that another block puts back may still hold ours: it must be dead by then."""
    with pytest.warns(UserWarning) as told:
        with without_warnings("old"):
            warnings.warn("old pickle", stacklevel=1)
            warnings.warn("heard", stacklevel=1)
            with ThreadPoolExecutor(1) as pool:
                pool.submit(warnings.warn, "old, but of another thread").result()
            kept = list(warnings.filters)
        warnings.filters[:] = kept
        warnings.warn("old, but later", stacklevel=1)
    assert [str(one.message) for one in told] == ["heard", "old, but of another thread", "old, but later"]


@pytest.mark.parametrize(
    ("name", "found"), [("tinysd", "tinyssd"), ("SSD", "ssd, tinyssd"), ("qqq", None), ("x" * 10_000, None)]
)
def test_the_three_nearest_names(name, found):
    assert three_nearest(name, ["ssd", "tinyssd", "retinanet"]) == found


@pytest.mark.parametrize(
    ("path", "near"),
    [
        ("run/firts", "run/first"),
        ("RUM/First", "run/first"),
        ("run/first/best.safetensor", "run/first/best.safetensors"),
        ("run/quite another", None),
        ("nothing/first", None),
        ("run/" + 400 * "first", None),
        ("run/first/best.safetensors/x", None),
        ("nul\0", None),
        ("", None),
    ],
)
def test_a_path_that_is_absent_has_a_nearest_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, near: str | None
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("run/first").mkdir(parents=True)
    Path("run/first/best.safetensors").touch()
    assert absent(path, "gone") == ("gone" if near is None else f"gone (did you mean '{near}'?)")
    if near is not None:
        assert absent(tmp_path / path, "gone") == f"gone (did you mean '{tmp_path / near}'?)"
