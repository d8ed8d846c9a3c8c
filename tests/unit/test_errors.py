"""The one form of an error message."""

import pytest

from onestage.errors import (
    ConfigError,
    DataError,
    OnestageError,
    WeightsError,
    counted,
    explain,
    first_ten,
    located,
    nearest,
    require,
)


@pytest.mark.parametrize("kind", [DataError, ConfigError, WeightsError])
def test_every_error_is_a_value_error(kind):
    assert issubclass(kind, OnestageError)
    assert issubclass(kind, ValueError)


def test_explain_gives_a_line_to_each_part_that_is_there():
    text = explain("the box is empty", where="a.xml", got=[5, 5, 5, 9], expected="x1 < x2", fix="draw it again")
    assert text.splitlines() == [
        "the box is empty",
        "  where:    a.xml",
        "  got:      [5, 5, 5, 9]",
        "  expected: x1 < x2",
        "  fix:      draw it again",
    ]
    assert explain("short") == "short"
    assert explain("nought", got=0) == "nought\n  got:      0"


def test_nearest_names_only_what_is_close():
    assert nearest("tinysd", ["tinyssd", "ssd300_vgg16"]) == " (did you mean 'tinyssd'?)"
    assert nearest("yolo", ["tinyssd", "ssd300_vgg16"]) == ""
    assert nearest("anything", []) == ""
    assert nearest("fpn", ["FPN", "BiFPN"]) == " (did you mean 'FPN'?)"


def test_things_are_counted_in_words():
    assert [counted(n, "epoch") for n in (0, 1, 2)] == ["0 epochs", "1 epoch", "2 epochs"]
    assert counted(1, "class") == "1 class" and counted(1200, "class") == "1,200 classes"


def test_an_error_gets_its_place_once():
    message = explain("the box is empty", got=5, fix="draw it again")
    told = explain("the box is empty", where="a.xml", got=5, fix="draw it again")
    assert located(message, "a.xml") == told
    assert located(told, "b.xml") == told
    assert located("short", "a.xml") == "short\n  where:    a.xml"


def test_first_ten_counts_the_rest():
    assert first_ten(["a", "b"]) == "  a\n  b"
    shown = first_ten([str(i) for i in range(13)]).splitlines()
    assert len(shown) == 11
    assert shown[9:] == ["  9", "  ... and 3 more"]
    assert len(first_ten([str(i) for i in range(10)]).splitlines()) == 10


def test_require():
    require(True, "never said", got=None)
    with pytest.raises(ConfigError, match="at least one") as error:
        require(False, "at least one", got=0)
    assert "got:      0" in str(error.value)
