"""The frame of every web page: one HTML file that holds its styles and pictures. Names of classes, files and models are foreign
text, so everything put in is escaped."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from onestage.errors import printable

HEAD = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<meta name="color-scheme" content="light dark">
<title>{{ title }}</title>
<style>
  :root { --ink: #2b2f36; --faint: #656c78; --line: #e4e7ec; --blue: #2b69d6; --paper: #fff; --note: #fff8e6; }
  @media screen and (prefers-color-scheme: dark) {
    :root { --ink: #e6e8ec; --faint: #a3acb9; --line: #363c47; --blue: #6ea1ff; --paper: #16191e; --note: #3a3218; }
  }
  * { box-sizing: border-box; }
  body { margin: 0 auto; padding: 2.5rem 1.5rem 4rem; max-width: 66rem; color: var(--ink); background: var(--paper);
         font: 16px/1.5 system-ui, sans-serif; }
  h1 { margin: 0; font-size: 1.7rem; overflow-wrap: anywhere; }
  h2 { margin: 2.5rem 0 .8rem; font-size: 1.15rem; }
  h3 { margin: 1.6rem 0 .4rem; font-size: 1rem; }
  p { margin: .3rem 0; color: var(--faint); overflow-wrap: anywhere; }
  a { color: var(--blue); }
  .tiles { display: grid; grid-template-columns: repeat(auto-fill, minmax(9.5rem, 1fr)); gap: .8rem; margin: 1.6rem 0 0; }
  .tile { padding: .8rem 1rem; border: 1px solid var(--line); border-radius: .5rem; }
  .tile b { display: block; font-size: 1.5rem; line-height: 1.3; white-space: nowrap; }
  .tile span { color: var(--faint); font-size: .85rem; }
  .tiles + p { margin-top: .8rem; }
  table { width: 100%; border-collapse: collapse; font-variant-numeric: tabular-nums; }
  caption { padding-bottom: .3rem; text-align: left; color: var(--faint); font-size: .85rem; }
  th, td { padding: .35rem .7rem; border-bottom: 1px solid var(--line); text-align: right; }
  th { color: var(--faint); font-weight: 500; }
  tbody th { color: inherit; font-weight: inherit; }
  thead th { border-bottom: 2px solid var(--line); }
  th:first-child, td:first-child { min-width: 6.5rem; text-align: left; padding-left: 0; overflow-wrap: anywhere; }
  .share { min-width: 6rem; }
  .share div { border-radius: .3rem; background: var(--line); }
  .share i { display: block; height: .6rem; border-radius: .3rem; background: var(--blue); }
  td { white-space: nowrap; }
  td.words, th.words { min-width: 8rem; text-align: left; white-space: normal; }
  img { max-width: 100%; height: auto; }
  figure { margin: 0; }
  figcaption { color: var(--faint); font-size: .85rem; overflow-wrap: anywhere; }
  .examples { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(18rem, 100%), 1fr)); gap: 1rem; }
  .wide { margin-top: 1rem; overflow-x: auto; }
  @media (max-width: 40rem) { body { padding: 1.2rem .9rem 3rem; } }
  @media print {
    body { max-width: none; padding: 0; font-size: 12px; }
    .wide { overflow: visible; }
    td { white-space: normal; }
    figure, tr, .tile { break-inside: avoid; }
    h2, h3, caption { break-after: avoid; }
  }
</style>
</head>
<body>
"""
"""The beginning of every page, with a policy that lets nothing be fetched or run. It needs a ``title``."""

TABLE = """<div class="wide" role="region" tabindex="0" aria-label="{{ caption }}"><table>
<caption>{{ caption }}</caption>
<thead><tr>{% for name in head %}<th scope="col"{% if loop.index <= texts %} class="words"{% endif %}>{{ name }}</th>\
{% endfor %}</tr></thead>
<tbody>
{% for row in rows %}<tr>{% for cell in row %}{% if loop.first %}<th scope="row">{{ cell }}</th>\
{% else %}<td{% if loop.index <= texts %} class="words"{% endif %}>{{ cell }}</td>{% endif %}{% endfor %}</tr>
{% endfor %}</tbody></table></div>
"""
"""It scrolls sideways where it is wider than the page, by keyboard too."""


SECTIONED = """<a class="skip" href="#figures">To the content</a>
<main>
<h1>{{ title }}</h1>
{% for sentence in lead %}<p class="lead">{{ sentence }}</p>
{% endfor %}<p>{{ subtitle }}</p>
<nav aria-label="Sections">{% for part in parts %}<a href="#part-{{ loop.index }}">{{ part.title }}</a>
{% endfor %}</nav>
<div class="tiles" id="figures">
{% for name, value in tiles %}  <div class="tile"><b>{{ value }}</b><span>{{ name }}</span></div>
{% endfor %}</div>
{% if note %}<p>{{ note }}</p>
{% endif %}{% for part in parts %}<section aria-labelledby="part-{{ loop.index }}">
<h2 id="part-{{ loop.index }}">{{ part.title }}</h2>
{{ part.body }}</section>
{% endfor %}</main>
</body>
</html>
"""
SECTIONED_STYLE = """  .lead { margin-top: .6rem; color: var(--ink); font-size: 1.1rem; }
  .skip { position: absolute; left: -100rem; }
  .skip:focus { left: 1rem; top: .5rem; padding: .3rem .6rem; background: var(--paper); }
  nav { display: flex; flex-wrap: wrap; gap: .2rem 1.2rem; margin-top: 1.2rem; font-size: .9rem; }
  @media print { nav, .skip { display: none; } }
"""


class Section(NamedTuple):
    """A part of a page that is made apart from it: its heading, and what stands below, escaped."""

    title: str
    body: Markup


def fill(body: str, *, style: str = "", **content: object) -> str:
    """A whole page: HEAD, with the rules of ``style`` added, and the jinja2 template ``body``.

    Content is escaped: what would be HTML in it, and control characters, which could reverse or hide the text after them.
    """
    return str(fragment(HEAD.replace("</style>", f"{style}</style>") + body, **content))


def sectioned(
    title: str,
    subtitle: str,
    *,
    parts: Sequence[Section],
    lead: Sequence[str] = (),
    tiles: Sequence[tuple[str, str]] = (),
    note: str = "",
    style: str = "",
) -> str:
    """A whole page of sections, with links to them. lead: what it says, in sentences. tiles: the first figures, as name and
    value; a note stands below them. style: the rules that the sections need.
    """
    content = {"title": title, "subtitle": subtitle, "lead": lead, "tiles": tiles, "note": note, "parts": parts}
    return fill(SECTIONED, style=SECTIONED_STYLE + style, **content)


def fragment(template: str, **content: object) -> Markup:
    """A part of a page: the jinja2 template filled with content, which is escaped unless it is such a part."""
    return Markup(_environment().from_string(template).render(**content))


def table(caption: str, head: Sequence[str], rows: Sequence[Sequence[object]], *, texts: int = 1) -> Markup:
    """A table with its caption. The first ``texts`` columns hold words, the rest numbers; the first one names the row."""
    return fragment(TABLE, caption=caption, head=head, rows=rows, texts=texts)


@cache
def _environment() -> Environment:
    return Environment(autoescape=True, undefined=StrictUndefined, keep_trailing_newline=True, finalize=_shown)


def _shown(content: object) -> object:
    """What stands on the page for a text or number."""
    return printable(content) if isinstance(content, str) and not isinstance(content, Markup) else content


def as_base64(data: bytes) -> str:
    """The bytes as text for a data URL."""
    return base64.b64encode(data).decode("ascii")
