"""The report as one HTML file that needs nothing else: styles and pictures lie inside. Class, file and model names are foreign
text, so everything is escaped."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

from jinja2 import Environment, StrictUndefined

HEAD = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{{ title }}</title>
<style>
  :root { --ink: #2b2f36; --faint: #6b7280; --line: #e4e7ec; --blue: #2f6fde; }
  * { box-sizing: border-box; }
  body { margin: 0 auto; padding: 2.5rem 1.5rem 4rem; max-width: 66rem; color: var(--ink); background: #fff;
         font: 16px/1.5 system-ui, sans-serif; }
  h1 { margin: 0; font-size: 1.7rem; overflow-wrap: anywhere; }
  h2 { margin: 2.5rem 0 .8rem; font-size: 1.15rem; }
  p { margin: .3rem 0; color: var(--faint); overflow-wrap: anywhere; }
  .tiles { display: grid; grid-template-columns: repeat(auto-fill, minmax(9.5rem, 1fr)); gap: .8rem; margin: 1.6rem 0 0; }
  .tile { padding: .8rem 1rem; border: 1px solid var(--line); border-radius: .5rem; }
  .tile b { display: block; font-size: 1.5rem; line-height: 1.3; white-space: nowrap; }
  .tile span { color: var(--faint); font-size: .85rem; }
  table { width: 100%; border-collapse: collapse; font-variant-numeric: tabular-nums; }
  th, td { padding: .35rem .7rem; border-bottom: 1px solid var(--line); text-align: right; }
  th { color: var(--faint); font-weight: 500; }
  thead th { border-bottom: 2px solid var(--line); }
  th:first-child, td:first-child { text-align: left; padding-left: 0; overflow-wrap: anywhere; }
  td.bar { width: 9rem; }
  td.bar div { border-radius: .3rem; background: var(--line); }
  td.bar i { display: block; height: .6rem; border-radius: .3rem; background: var(--blue); }
  img { max-width: 100%; height: auto; }
  figure { margin: 0; }
  figcaption { color: var(--faint); font-size: .85rem; overflow-wrap: anywhere; }
  .examples { display: grid; grid-template-columns: repeat(auto-fill, minmax(18rem, 1fr)); gap: 1rem; }
  .wide { overflow-x: auto; }
</style>
</head>
<body>
"""
"""The beginning of every page: one file under a policy that lets nothing be fetched or run. It names ``title``."""

PAGE = """<h1>{{ title }}</h1>
<p>{{ subtitle }}</p>
<div class="tiles">
{% for name, value in tiles %}  <div class="tile"><b>{{ value }}</b><span>{{ name }}</span></div>
{% endfor %}</div>
<h2>COCO: average precision and recall</h2>
<div class="wide"><table>
<thead><tr>{% for name in figures_head %}<th>{{ name }}</th>{% endfor %}</tr></thead>
<tbody>
{% for row in figures %}<tr>{% for cell in row %}<td>{{ cell }}</td>{% endfor %}</tr>
{% endfor %}</tbody></table></div>
<p>AR, 10 each: recall with at most 10 detections of a class in a picture. Small: an area below 32 × 32 pixels, medium: below
96 × 96. A dash: nothing to find.</p>
<h2>Precision and recall</h2>
<figure><img src="data:image/png;base64,{{ curves }}" alt="Precision over recall, the mean and by class"></figure>
<h2>Classes</h2>
<div class="wide"><table>
<thead><tr>{% for name in classes_head %}<th>{{ name }}</th>{% endfor %}<th>AP, 0 to 1</th></tr></thead>
<tbody>
{% for cells, part in classes %}<tr>{% for cell in cells %}<td>{{ cell }}</td>{% endfor %}\
<td class="bar"><div><i style="width: {{ part }}%"></i></div></td></tr>
{% endfor %}</tbody></table></div>
{% if examples %}<h2>Pictures</h2>
<div class="examples">
{% for name, data in examples %}<figure><img src="data:image/jpeg;base64,{{ data }}" alt="{{ name }}">\
<figcaption>{{ name }}</figcaption></figure>
{% endfor %}</div>
{% endif %}</body>
</html>
"""


def render(content: Mapping[str, Any], *, curves: bytes, examples: Mapping[str, bytes]) -> str:
    """The page: ``content`` holds the texts and rows that PAGE names, ``curves`` a PNG, ``examples`` JPEGs by caption."""
    pictures = [(name, as_base64(data)) for name, data in examples.items()]
    return fill(PAGE, **content, curves=as_base64(curves), examples=pictures)


def fill(body: str, *, style: str = "", **content: Any) -> str:
    """A whole page: HEAD, with more rules of ``style``, and the jinja2 template ``body``; all content put in is escaped."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, keep_trailing_newline=True)
    head = HEAD.replace("</style>", f"{style}</style>")
    return environment.from_string(head + body).render(**content)


def as_base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
