"""The pages that teach: their pictures are there, their links lead somewhere, their tables are current, their snippets run."""

import importlib.util
import re
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
from PIL import Image

from onestage.zoo.efficientdet import VARIANTS

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


@pytest.mark.parametrize("name", ["ssd300", "anchors", "factors", "nms", pytest.param("scaling", marks=pytest.mark.slow)])
def test_tables_are_what_the_code_says_now(make_pictures, name):
    assert tables_in_pages()[name] == make_pictures.TABLES[name](), "run: python docs/learn/make_pictures.py --tables"


@pytest.mark.parametrize("name", ["mining", "focal"])
def test_the_rows_before_training_are_what_the_code_says_now(make_pictures, name):
    """Those after it take minutes; up to a tenth of a percent may be another processor's rounding."""
    said = rows_of(tables_in_pages()[name], "fresh")
    now = rows_of(getattr(make_pictures, f"{name}_table")({"fresh": make_pictures.practice.fresh(name)}), "fresh")
    assert said.keys() == now.keys() and len(said) >= 2
    for kind, shares in said.items():
        assert shares == pytest.approx(now[kind], abs=0.11), "run: python docs/learn/make_pictures.py"


def rows_of(table: str, first: str) -> dict[str, list[float]]:
    """What stands in the second column -> the percents behind it, of the rows that begin so."""
    rows = [[cell.strip() for cell in row.strip("|").split("|")] for row in table.splitlines()]
    return {row[1]: [float(cell.removesuffix(" %")) for cell in row[2:]] for row in rows if row[0] == first}


def test_the_practice_detectors_are_trained_once_and_kept(make_pictures, tmp_path, monkeypatch):
    practice = make_pictures.practice
    monkeypatch.setattr(practice, "PICTURES", replace(practice.PICTURES, size=(64, 64), count=4))
    monkeypatch.setattr(practice, "TRAINING", replace(practice.TRAINING, epochs=1, batch_size=4))
    model = practice.trained("mining", tmp_path)
    weights = (tmp_path / "mining" / "last.safetensors").read_bytes()
    assert model.config.loss == practice.PARTS["mining"]["loss"]
    practice.trained("mining", tmp_path)
    assert (tmp_path / "mining" / "last.safetensors").read_bytes() == weights


def test_every_table_is_made(make_pictures):
    found = tables_in_pages()
    assert all(text.startswith("|") for text in found.values())
    assert found.keys() == make_pictures.TABLES.keys() | {"mining", "focal"}


def test_what_strays_from_compound_scaling_is_named():
    """The equations of EfficientDet's section 4.2 against the table of the variants, in which D7 and D7x are D6's."""
    strays = {}
    for phi in range(7):
        variant = VARIANTS[f"efficientdet_d{phi}"]
        due = {"pixels": 512 + 128 * phi, "layers": 3 + phi, "head": 3 + phi // 3}
        real = {"pixels": variant.side, "layers": variant.layers, "head": variant.head_layers}
        assert abs(variant.width / (64 * 1.35**phi) - 1) < 0.06 and variant.backbone.endswith(f"b{phi}") and variant.scale == 4
        strays |= {(phi, what): (real[what], due[what]) for what in due if real[what] != due[what]}
    assert strays == {(5, "pixels"): (1280, 1152), (5, "layers"): (7, 8), (6, "layers"): (8, 9)}
    text = " ".join((LEARN / "compound-scaling.md").read_text(encoding="utf-8").split())
    assert "D5 has 7 layers instead of 8 and 1,280 pixels instead of 1,152; D6 has 8 layers instead of 9." in text
    d6, d7, d7x = (VARIANTS[f"efficientdet_{name}"] for name in ("d6", "d7", "d7x"))
    assert replace(d6, side=1536, scale=5.0, published=d7.published) == d7
    larger = replace(d7, backbone="tf_efficientnet_b7", levels=6, scale=4.0, published=d7x.published)
    assert larger == d7x
    d7_in_words = (
        "D7 is D6 with an input of 1,536 pixels and anchors that start at 5 strides instead of 4. D7x has the input of D7,"
    )
    assert d7_in_words in text


def test_a_focal_loss_alone_starts_from_its_prior(make_pictures):
    """As its page says: without any word about the prior on the command line or in the detector of the page."""
    assert make_pictures.practice.fresh("focal").config.head.prior == 0.01
    assert "prior=" not in (LEARN / "focal-loss.md").read_text() + (LEARN / "practice.py").read_text()


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
