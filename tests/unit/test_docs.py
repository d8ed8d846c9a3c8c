"""The generated page of the zoo is what the zoo is now."""

import importlib.util
from pathlib import Path

import onestage

DOCS = Path(__file__).resolve().parents[2] / "docs"


def test_the_page_of_the_zoo_is_up_to_date():
    spec = importlib.util.spec_from_file_location("make_models", DOCS / "make_models.py")
    make_models = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(make_models)
    page = (DOCS / "models.md").read_text()
    assert page == make_models.current(), "run: python docs/make_models.py"
    assert all(f"| {name} |" in page for name in onestage.list_models())
