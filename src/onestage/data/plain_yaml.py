"""YAML from unknown authors, as plain text: every scalar is a string, so nothing is guessed and nothing is constructed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable
from pathlib import Path
from typing import TypeAlias

import yaml

from onestage.data.files import read_text
from onestage.data.text import quoted
from onestage.errors import DataError, shortened

Plain: TypeAlias = "str | list[Plain] | dict[str, Plain]"
"""What a YAML file holds: text, lists and mappings."""


_BLANKS = str.maketrans("\t", " ")  # of any width, a tab would move the mark
_FIX = "put texts with : # [ ] { } or , into quotes, indent with blanks, and close what is opened"


class _TextLoader(yaml.BaseLoader):
    """Strings, lists and dictionaries. Refuse aliases, which can blow up, and a key given twice, which hides a mistake."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """The next node. Raise YAMLError if it is an alias."""
        if self.check_event(yaml.AliasEvent):
            raise yaml.MarkedYAMLError(problem="aliases are not allowed", problem_mark=self.peek_event().start_mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Plain]:
        """The mapping in a node. Raise YAMLError if it has a key twice."""
        keys = Counter(key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode))
        for key, count in keys.most_common(1):
            if count > 1:
                second = [name for name, _ in node.value if name.value == key][1]
                raise yaml.MarkedYAMLError(problem=f"the key {quoted(key)} is given twice", problem_mark=second.start_mark)
        return super().construct_mapping(node, deep=deep)


def _fault(error: Exception) -> str:
    """What a YAML parser found. If it knows where: the line and column, and below that the line with a mark under the place."""
    mark = getattr(error, "problem_mark", None)
    if not isinstance(error, yaml.MarkedYAMLError) or mark is None:
        return shortened(" ".join(str(error).split()))
    place = f"{error.problem or error.context}: line {mark.line + 1}, column {mark.column + 1}"
    return f"{place}\n{(mark.get_snippet(indent=12) or '').translate(_BLANKS)}".rstrip()


def read_yaml(path: Path) -> dict[str, Plain]:
    """The mapping in a YAML file; every leaf is the text in the file. Raise DataError if the file holds something else."""
    loader = None
    try:
        loader = _TextLoader(read_text(path))
        content = loader.get_single_data()
    except RecursionError as error:
        raise DataError("this YAML is nested too deeply", where=path, fix=_FIX) from error
    except (yaml.YAMLError, ValueError, OverflowError) as error:  # the last two for \U and %YAML with numbers out of range
        if isinstance(error, DataError):
            raise
        raise DataError("this is not valid YAML", where=path, got=_fault(error), fix=_FIX) from error
    finally:
        if loader is not None:
            loader.dispose()
    if not isinstance(content, dict):
        expected = "lines such as train: images/train and names: [cat, dog]"
        got = type(content).__name__
        raise DataError("this YAML file should hold keys and values", where=path, got=got, expected=expected)
    return {str(key): value for key, value in content.items()}
