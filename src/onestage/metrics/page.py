"""The frame of every web page: one HTML file that holds its styles and pictures. Names of classes, files and models are foreign
text, so everything put in is escaped."""

from __future__ import annotations

import base64

from jinja2 import Environment, StrictUndefined

from onestage.errors import printable

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
  .tiles + p { margin-top: .8rem; }
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
"""The beginning of every page, with a policy that lets nothing be fetched or run. It needs a ``title``."""


def fill(body: str, *, style: str = "", **content: object) -> str:
    """A whole page: HEAD, with the rules of ``style`` added, and the jinja2 template ``body``.

    Content is escaped: what would be HTML in it, and control characters, which could reverse or hide the text after them.
    """
    environment = Environment(autoescape=True, undefined=StrictUndefined, keep_trailing_newline=True, finalize=_shown)
    head = HEAD.replace("</style>", f"{style}</style>")
    return environment.from_string(head + body).render(**content)


def _shown(content: object) -> object:
    """What stands on the page for a text or number."""
    return printable(content) if isinstance(content, str) else content


def as_base64(data: bytes) -> str:
    """The bytes as text for a data URL."""
    return base64.b64encode(data).decode("ascii")
