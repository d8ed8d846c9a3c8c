"""The settings of a training as options that may be left out: what is left out, the rules decide."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields, make_dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar, get_type_hints

import docstring_parser
import tyro

from onestage.training.config import RULED, Setting, TrainConfig, make_config, option

if TYPE_CHECKING:

    @dataclass(frozen=True)
    class Settings:
        """Every field of ``TrainConfig``, with None, or an empty tuple of words, where it is left out."""

        HEADING: ClassVar[str] = "training"

else:
    _NAMES = "|".join(rf"\b{field.name}\b" for field in fields(TrainConfig) if "_" in field.name)

    def _help(name: str, text: str | None, default: object) -> str:
        """The help text of a field, and what it is if the user leaves it out."""
        text = re.sub(_NAMES, lambda found: option(found[0]), text or "")
        typed = " ".join(map(str, default)) if isinstance(default, tuple) else default
        shown = " (default: by rule)" if name in RULED else "" if typed in (None, "") else f" (default: {typed})"
        return " ".join(text.split()) + shown

    def _options() -> list[tuple[str, object, object]]:
        """The name, the type and the default of every option."""
        texts = {param.arg_name: param.description for param in docstring_parser.parse_from_object(TrainConfig).params}
        hints, found = get_type_hints(TrainConfig, include_extras=True), []
        for field in fields(TrainConfig):
            text = _help(field.name, texts.get(field.name), field.default)
            several = "FLOAT [FLOAT ...]" if isinstance(field.default, tuple) and field.default else None
            told = tyro.conf.arg(help=text, help_behavior_hint="", metavar=several)
            many = tyro.conf.UseAppendAction in getattr(hints[field.name], "__metadata__", ())
            hint = hints[field.name] if many else hints[field.name] | None
            found.append((field.name, Annotated[hint, told], () if many else None))
        return found

    Settings = make_dataclass("Settings", _options(), frozen=True, namespace={"__module__": __name__, "HEADING": "training"})
    Settings.__doc__ = "How to train. What you leave out is decided by the rules in docs/training.md, and told with the reason."

NOTHING_GIVEN = Settings()


def given_settings(settings: Settings) -> dict[str, Setting]:
    """The settings that the user gave, by their names in ``TrainConfig``. Raise ConfigError for a value out of its range."""
    given = {name: value for name, value in vars(settings).items() if value not in (None, ())}
    make_config(given)
    return given
