"""The pages that teach: their pictures are there, their links lead somewhere, their tables are current, their snippets run."""

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest
from PIL import Image

LEARN = Path(__file__).resolve().parents[2] / "docs" / "learn"
PAGES = sorted(LEARN.glob("*.md"))
PICTURES = sorted((LEARN / "pictures").iterdir())
LARGEST = 150_000

links = re.compile(r"!?\[([^\]]*)\]\(([^)]+)\)")
snippets = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)
tables = re.compile(r"<!-- table: (\w+) -->\n(.*?)<!-- end -->", re.DOTALL)


@pytest.fixture(scope="module")
def make_pictures() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_pictures", LEARN / "make_pictures.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    sys.path.remove(str(LEARN))


def test_every_page_is_in_the_contents():
    contents = (LEARN / "README.md").read_text(encoding="utf-8")
    assert [page.name for page in PAGES if page.name != "README.md" and f"({page.name})" not in contents] == []
    assert len(PAGES) == 7


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_and_pictures_are_there(page):
    found = links.findall(page.read_text(encoding="utf-8"))
    assert found
    for text, target in found:
        assert text, f"{target} has no text for those who do not see it"
        if not target.startswith("https://"):
            assert (page.parent / target).is_file(), target


@pytest.mark.parametrize("picture", PICTURES, ids=lambda picture: picture.name)
def test_pictures_are_small_used_and_show_something(picture):
    assert picture.stat().st_size <= LARGEST
    assert any(f"(pictures/{picture.name})" in page.read_text(encoding="utf-8") for page in PAGES)
    with Image.open(picture) as image:
        low, high = image.convert("L").getextrema()
        assert min(image.size) >= 200 and high - low > 100


def tables_in_pages() -> dict[str, str]:
    return {name: text.strip() for page in PAGES for name, text in tables.findall(page.read_text(encoding="utf-8"))}


@pytest.mark.parametrize("name", ["ssd300", "factors", "nms", pytest.param("scaling", marks=pytest.mark.slow)])
def test_tables_are_what_the_code_says_now(make_pictures, name):
    assert tables_in_pages()[name] == make_pictures.TABLES[name](), "run: python docs/learn/make_pictures.py --tables"


def test_every_table_is_made(make_pictures):
    found = tables_in_pages()
    assert all(text.startswith("|") for text in found.values())
    assert found.keys() == make_pictures.TABLES.keys() | {"anchors", "mining", "focal"}


def test_the_numbers_in_the_text_are_those_of_the_tables():
    """What the prose says of the scaling table and of the four boxes."""
    found = tables_in_pages()
    rows = {row.split("|")[1].strip(): row.split("|") for row in found["scaling"].splitlines()[2:]}
    work = {name: float(row[7].split()[0]) for name, row in rows.items()}
    accuracy = {name: float(row[9]) for name, row in rows.items()}
    assert 9.5 < work["D3"] / work["D0"] < 10.5 and 12.5 < accuracy["D3"] - accuracy["D0"] < 13.5
    assert work["D7x"] / work["D3"] > 16 and accuracy["D7x"] - accuracy["D3"] < 8
    neighbour = next(row for row in found["nms"].splitlines() if "neighbour" in row).split("|")
    assert [cell.strip() for cell in neighbour[5:7]] == ["gone", "0.80"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_snippets_run(page, capsys):
    found = snippets.findall(page.read_text(encoding="utf-8"))
    assert found or page.name == "README.md"
    for number, code in enumerate(found):
        exec(compile(code, f"{page.name}, snippet {number + 1}", "exec"), {})


def test_filling_replaces_only_what_stands_between_the_marks(make_pictures, tmp_path, monkeypatch):
    monkeypatch.setattr(make_pictures, "HERE", tmp_path)
    page = tmp_path / "page.md"
    page.write_text("a\n<!-- table: x -->\nold\n<!-- end -->\nb\n<!-- table: y -->\nkept\n<!-- end -->\n")
    make_pictures.fill({"x": "| new |"})
    assert page.read_text() == "a\n<!-- table: x -->\n| new |\n<!-- end -->\nb\n<!-- table: y -->\nkept\n<!-- end -->\n"
