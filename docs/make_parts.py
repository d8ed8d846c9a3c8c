"""Write parts.md: every part of a detector that ``--set`` and ``config.replace`` know, with its settings, from the code itself.

python docs/make_parts.py
"""

from __future__ import annotations

import dataclasses
import inspect
import re
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from onestage.model.config import DetectorConfig

PAGE = Path(__file__).resolve().parent / "parts.md"

INTRODUCTION = """# The parts

Made by `python docs/make_parts.py` from the code; do not edit.

A detector is a config of parts, and every recipe of the zoo is such a config. On the command line `--set PART=KIND` takes
another kind of part, and `--set PART.SETTING=VALUE` changes a setting. In Python
`config.replace({"PART": "KIND", "PART.SETTING": value})` does the same. All changes are made together, in any order. Values are
JSON (`true`, `null`, `[1, 2]`) or plain words. If the first setting of a kind is a choice of words, such a word calls for the
kind: `loss.box=ciou`.

```
onestage train pictures/ --model ssd --set neck=FPN --set neck.width=128 --set head=SharedHead --set anchors=OctaveAnchors
```

Parts that do not fit together are refused before the training begins. Shared heads need maps of equal channels, as an FPN or a
BiFPN gives them, and the same anchor shapes on every map, as `OctaveAnchors` gives them.
"""


def page() -> str:
    hints = get_type_hints(DetectorConfig)
    skipped = ("name", "classes", "category_ids")
    sections = [_section(name, declared) for name, declared in hints.items() if name not in skipped]
    return "\n".join([INTRODUCTION, *sections])


def _section(path: str, declared: Any) -> str:
    """A part: its kinds, each with what it is and its settings. The parts of these kinds follow below."""
    lines, below = [f"## {path}", ""], {}
    if NoneType in get_args(declared):
        lines.append("- `null`: none.")
    for kind in kinds(declared):
        lines.append(f"- **`{kind.__name__}`**: {_summary(kind)}")
        for field in dataclasses.fields(kind):
            hint = get_type_hints(kind)[field.name]
            below |= {f"{path}.{field.name}": hint} if kinds(hint) and get_origin(hint) is not tuple else {}
            lines.append(f"  - `{field.name}`{_default(field)}{_choices(hint)}")
    return "\n".join([*lines, "", *(_section(name, hint) for name, hint in below.items())])


def kinds(declared: Any) -> list[type]:
    """The dataclasses among the types that are allowed."""
    found = [declared, *get_args(declared), *(item for choice in get_args(declared) for item in get_args(choice))]
    return [kind for kind in found if isinstance(kind, type) and dataclasses.is_dataclass(kind)]


def _summary(kind: type) -> str:
    """The first paragraph of the docstring, up to the first setting that it explains ("width: ...")."""
    text = " ".join((inspect.getdoc(kind) or "").split("\n\n")[0].replace("``", "`").split())
    return re.split(r"(?<=[.)])\s(?=[a-z_]+:)", text)[0]


def _default(field: dataclasses.Field[Any]) -> str:
    if field.default is not dataclasses.MISSING:
        return f" = {_plain(field.default)}"
    if field.default_factory is not dataclasses.MISSING:
        return f" = {type(field.default_factory()).__name__}"
    return ""


def _plain(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, tuple):
        return f"[{', '.join(map(_plain, value))}]"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _choices(declared: Any) -> str:
    words = [w for choice in (declared, *get_args(declared)) if get_origin(choice) is Literal for w in get_args(choice)]
    return f" ({', '.join(words)})" if words else ""


if __name__ == "__main__":
    PAGE.write_text(page())
