"""Measure how the house is built: how many files one has to read, how long and complex functions are, and how well they are
described.

python docs/measure_house.py           # one figure a line
python docs/measure_house.py --list    # and the items behind each figure, file by file
python docs/measure_house.py --write   # put the table into architecture.md, between its marks

It measures the onestage package that Python imports. To measure another checkout, write ``PYTHONPATH=OTHER/src`` before the
command.

How things are counted. A file is *entered* when one of its functions is called; imports were done before and do not count.
All three ways go with an SSD300, at 128x128 pixels where pictures are involved. A *room* is a folder of the package.
A *change of room* is a pair of functions, the caller in one room and the called one in another; a config's check of its values
(``__post_init__``) is no change. A function is *public* if it is at the top of a file or of a class and its name does
not begin with an underscore; ``__call__`` is public too. Complexity is radon's cyclomatic complexity: it counts conditions and
comprehensions too. "Before" is what this script counts at commit c0fbafc.
"""

from __future__ import annotations

import ast
import importlib.util
import re
import sys
import tempfile
import warnings
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from functools import cache
from math import floor
from pathlib import Path
from types import FrameType
from typing import NamedTuple

from radon.complexity import cc_visit

SOURCE = Path(importlib.util.find_spec("onestage").origin).parent
DOCS = Path(__file__).resolve().parent
MARKS = ("<!-- house -->\n", "<!-- end of house -->\n")
DELEGATES = ("Detector.predict", "Detector.stream", "Detector.save", "Detector.export", "Detections.draw")
"""Public methods that import inside the function, against the arrows. They alone may make a circle."""
SIDE = r"(?:\.\.\.|[A-Za-z](?:_\w+)?|\d+)(?: ?[*+] ?\w+)?"
SHAPE = re.compile(rf"(?<!\w)\((?:|(?=[^)]*[A-Z]|\.\.\.|\d+,\)){SIDE},(?: ?{SIDE},?)*)\)")
"""A shape in letters: (), (N,), (4,), (B, 3, H, W), (..., 4)."""
Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Figure:
    """One number, what it was at commit c0fbafc, the goal, and the items behind it."""

    title: str
    before: float
    now: float
    goal: float
    at_least: bool = False
    items: list[str] = field(default_factory=list)

    @property
    def good(self) -> bool:
        """Whether the goal is reached."""
        return self.now >= self.goal if self.at_least else self.now <= self.goal


@cache
def files() -> dict[str, ast.Module]:
    """Every file of the package, parsed, by its path inside the package."""
    paths = sorted(SOURCE.rglob("*.py"))
    return {path.relative_to(SOURCE).as_posix(): ast.parse(path.read_text(encoding="utf-8")) for path in paths}


# --- the contents of the files --------------------------------------------------------------------------------------------


def functions() -> Iterator[tuple[str, Function]]:
    """Every function of the package with its file, nested ones too."""
    for name, tree in files().items():
        for node in ast.walk(tree):
            if isinstance(node, Function):
                yield name, node


def public_functions() -> Iterator[tuple[str, Function]]:
    """Functions at the top of a file and methods, without a leading underscore, and ``__call__``."""
    for name, tree in files().items():
        for place in [tree, *(node for node in ast.walk(tree) if isinstance(node, ast.ClassDef))]:
            for node in place.body:
                if isinstance(node, Function) and (not node.name.startswith("_") or node.name == "__call__"):
                    yield name, node


def takes_tensors(function: Function) -> bool:
    """Whether a parameter or the result is declared with tensors; those by name, as in weights, have shapes of all kinds."""
    arguments = function.args
    declared = [a.annotation for a in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.vararg) if a]
    text = " ".join(ast.unparse(note) for note in (*declared, function.returns) if note is not None)
    return re.search(r"\bTensor\b", re.sub(r"\w+\[str, Tensor\]", "", text)) is not None


def lines() -> list[tuple[int, str]]:
    """The length of every function in lines, its docstring included, and its place."""
    return [(node.end_lineno - node.lineno + 1, f"{name}:{node.lineno} {node.name}") for name, node in functions()]


def complexities() -> list[tuple[int, str]]:
    """The cyclomatic complexity of every function and method, and its place."""
    found = []
    for name in files():
        blocks = cc_visit((SOURCE / name).read_text(encoding="utf-8"))
        blocks += [inner for block in blocks for inner in getattr(block, "closures", [])]
        found += [(b.complexity, f"{name}:{b.lineno} {b.name}") for b in blocks if not hasattr(b, "methods")]
    return found


def without_docstring() -> tuple[float, list[str]]:
    """The share of public functions that have a docstring, in per cent, and those that have none."""
    asked = list(public_functions())
    missing = [f"{name}:{node.lineno} {node.name}" for name, node in asked if not ast.get_docstring(node)]
    return 100 * (1 - len(missing) / len(asked)), missing


def without_shapes() -> tuple[float, list[str]]:
    """The share of public functions with tensors whose docstring states a shape, in per cent, and those that state none."""
    asked = [(name, node) for name, node in public_functions() if takes_tensors(node)]
    missing = [f"{n}:{node.lineno} {node.name}" for n, node in asked if not SHAPE.search(ast.get_docstring(node) or "")]
    return 100 * (1 - len(missing) / len(asked)), missing


def words(word: str) -> list[str]:
    """How often each file holds a word, as ``grep -wo`` counts."""
    counts = {name: len(re.findall(rf"\b{word}\b", (SOURCE / name).read_text(encoding="utf-8"))) for name in files()}
    return [f"{name}: {count}" for name, count in counts.items() for _ in range(count)]


# --- who imports whom ------------------------------------------------------------------------------------------------------


def module_file(name: str) -> str | None:
    """The file of a module or of a name in a module; None for the public face and for what is not of this package."""
    parts = name.split(".")
    if parts[0] != "onestage":
        return None
    for end in range(len(parts), 1, -1):
        path = "/".join(parts[1:end])
        for file in (f"{path}.py", f"{path}/__init__.py"):
            if file in files():
                return file
    return None


class Import(NamedTuple):
    """One imported name. function: where, as in "Detector.save"; "" at the top of the file."""

    name: str
    line: int
    function: str


def imports(node: ast.AST, function: str = "") -> Iterator[Import]:
    """The names that a file imports, at its top or inside a function."""
    if isinstance(node, ast.Import):
        yield from (Import(alias.name, node.lineno, function) for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        yield from (Import(f"{node.module}.{alias.name}", node.lineno, function) for alias in node.names)
    elif isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in ("import_module", "__import__"):
        yield from (Import(str(a.value), node.lineno, function) for a in node.args[:1] if isinstance(a, ast.Constant))
    if isinstance(node, ast.ClassDef | Function):
        function = f"{function}.{node.name}".lstrip(".")
    for child in ast.iter_child_nodes(node):
        yield from imports(child, function)


def circles(aside: Collection[str] = ()) -> list[str]:
    """Groups of files that import each other, directly or through other files; imports inside functions and for type checkers
    count.

    aside: functions whose imports do not count.
    """
    graph = {
        name: {file for i in imports(tree) if i.function not in aside and (file := module_file(i.name)) is not None} - {name}
        for name, tree in files().items()
        if name != "__init__.py"
    }

    def reached(start: str) -> set[str]:
        seen: set[str] = set()
        waiting = [start]
        while waiting:
            new = graph[waiting.pop()] - seen
            seen |= new
            waiting += new
        return seen

    reach = {name: reached(name) for name in graph}
    groups = {frozenset(other for other in reach[name] if name in reach[other]) for name in graph if name in reach[name]}
    return sorted(" <-> ".join(sorted(group)) for group in groups)


# --- three ways through the house ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Way:
    """The files that a call entered, in order, and its changes of room."""

    files: list[str]
    changes: list[str]


def way(call: Callable[[], object]) -> Way:
    """Which functions of the package a call enters. Repeat the call beforehand, on other objects, so that all is imported."""
    entered: dict[str, None] = {}
    changes: dict[str, None] = {}

    def place(frame: FrameType | None) -> tuple[str, str] | None:
        while frame is not None:
            path = Path(frame.f_code.co_filename)
            if path.is_relative_to(SOURCE):
                return path.relative_to(SOURCE).as_posix(), frame.f_code.co_qualname
            frame = frame.f_back
        return None

    def hook(frame: FrameType, event: str, _: object) -> None:
        if event != "call" or frame.f_code.co_name == "<module>" or not frame.f_code.co_filename.startswith(str(SOURCE)):
            return
        here, caller = place(frame), place(frame.f_back)
        entered[here[0]] = None
        checks = any("__post_init__" in function for _, function in (here, caller or here))
        if caller is not None and not checks and Path(here[0]).parts[:-1][:1] != Path(caller[0]).parts[:-1][:1]:
            changes[f"{' '.join(caller)} -> {' '.join(here)}"] = None

    before = sys.getprofile()
    sys.setprofile(hook)
    try:
        call()
    finally:
        sys.setprofile(before)
    return Way(list(entered), list(changes))


def ways() -> tuple[Way, Way, Way]:
    """From a picture to boxes, from a picture to the gradients of a training step, from a foreign file to a detector."""
    import torch
    from PIL import Image
    from torchvision.models.detection import ssd300_vgg16

    import onestage
    from onestage.images import decode_image
    from onestage.model.detector import map_sizes
    from onestage.structures import Targets

    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(), torch.random.fork_rng():
        warnings.simplefilter("ignore")
        picture, weights = Path(folder) / "picture.png", Path(folder) / "theirs.pth"
        Image.effect_noise((100, 80), 99).convert("RGB").save(picture)
        torch.save(ssd300_vgg16(weights=None, weights_backbone=None, num_classes=3).state_dict(), weights)

        def step(model: onestage.Detector) -> None:
            images, metas = model.prepare([decode_image(picture)])
            targets = Targets(metas[0].apply(torch.tensor([[10.0, 20.0, 60.0, 70.0]])), torch.tensor([1]))
            sum(model.loss(model(images), [targets]).values()).backward()

        def small() -> onestage.Detector:
            return onestage.create("ssd300_vgg16", 3, size=(128, 128)).eval()  # as load() gives it

        def convert(_: None) -> None:
            onestage.create("ssd300_vgg16", weights=weights)

        found = []
        for call, thing in ((lambda model: model.predict([picture]), small), (step, small), (convert, lambda: None)):
            call(thing())
            fresh = thing()
            map_sizes.cache_clear()  # what the first call found out, a reader has to find out too
            found.append(way(lambda call=call, fresh=fresh: call(fresh)))
    return found[0], found[1], found[2]


# --- the figures -----------------------------------------------------------------------------------------------------------


def read_figures() -> list[Figure]:
    """What can be counted by reading the files."""
    long, deep = sorted(lines(), reverse=True), sorted(complexities(), reverse=True)
    described, silent = without_docstring()
    shaped, shapeless = without_shapes()
    any_words, every, loops = words("Any"), circles(), circles(aside=DELEGATES)
    return [
        Figure("lines of the longest function", 53, long[0][0], 45, items=[f"{n:4} {at}" for n, at in long if n > 45]),
        Figure("worst cyclomatic complexity", 34, deep[0][0], 15, items=[f"{n:4} {at}" for n, at in deep if n > 15]),
        Figure("public functions with a docstring, %", 85, described, 95, at_least=True, items=silent),
        Figure("of those with tensors, docstring states shapes, %", 63, shaped, 95, at_least=True, items=shapeless),
        Figure("`Any`", 176, len(any_words), 90, items=sorted(set(any_words))),
        Figure("import circles between files", 2, len(every), 2, items=every),
        Figure("import circles between files, those through the five delegates aside", 0, len(loops), 0, items=loops),
    ]


def walked_figures() -> list[Figure]:
    """What is counted by going the three ways."""
    boxes, step, detector = ways()
    return [
        Figure("files entered from a picture to boxes", 16, len(boxes.files), 12, items=boxes.files),
        Figure("files entered from a picture to a training step", 16, len(step.files), 14, items=step.files),
        Figure("files entered from a foreign file to a detector", 27, len(detector.files), 18, items=detector.files),
        Figure("changes of room from a foreign file to a detector", 14, len(detector.changes), 9, items=detector.changes),
    ]


def table(figures: list[Figure]) -> str:
    """The figures as Markdown."""
    head = ["| figure | before | now | goal |", "|---|---:|---:|---:|"]
    goals = [f"{'at least' if figure.at_least else 'at most'} {figure.goal:.0f}" for figure in figures]
    rows = [f"| {f.title} | {f.before:.0f} | {floor(f.now)} | {goal} |" for f, goal in zip(figures, goals, strict=True)]
    return "\n".join([*head, *rows, ""])


def with_table(text: str, figures: list[Figure]) -> str:
    """A page with the table between its marks replaced."""
    start, end = MARKS
    head, _, rest = text.partition(start)
    _, _, tail = rest.partition(end)
    return f"{head}{start}{table(figures)}{end}{tail}"


def main(options: list[str]) -> None:
    """Print the table; see the top of this file."""
    figures = [*walked_figures(), *read_figures()]
    print(table(figures))
    if "--list" in options:
        for figure in figures:
            print(f"--- {figure.title}: {figure.now:.1f}", *figure.items, "", sep="\n")
    if "--write" in options:
        page = DOCS / "architecture.md"
        page.write_text(with_table(page.read_text(encoding="utf-8"), figures), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
