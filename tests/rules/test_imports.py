"""Who may import whom, and how long a file or function may grow: the house plan, enforced on the source itself."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[2] / "src" / "onestage"
FILES = sorted(SOURCE.rglob("*.py"))

GROUND = {"structures", "detections", "boxes", "images", "draw", "errors", "files", "processes"}
ALLOWED = {
    "errors": set(),
    "boxes": {"errors"},
    "images": {"errors"},
    "files": {"errors"},
    "processes": {"errors"},
    "detections": {"boxes", "errors"},
    "structures": {"detections", "boxes", "errors"},
    "draw": {"detections", "boxes", "images", "errors"},
    "model": GROUND,
    "data": GROUND,
    "metrics": GROUND,
    "zoo": GROUND | {"model"},
    "weights": GROUND | {"model", "zoo"},
    "creation": GROUND | {"zoo", "weights", "model"},
    "predict": GROUND | {"model", "data", "metrics"},
    "training": GROUND | {"predict", "data", "metrics", "model", "weights"},
    "evaluation": GROUND | {"predict", "training", "weights", "data", "metrics", "model"},
    "explain": GROUND | {"predict", "model", "metrics"},
    "deploy": GROUND | {"predict", "weights", "data", "metrics", "model"},
}
"""A room (a file or folder of the package) and the others it may import. cli and the package's own face may import all."""
DELEGATES = {("model/detector.py", "predict"), ("model/detector.py", "weights"), ("detections.py", "draw")}
"""Detector.predict, Detector.save and Detections.draw: thin, public, and importing inside the function."""


def room_of(path):
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


@cache
def tree_of(path):
    return ast.parse(path.read_text(encoding="utf-8"))


def imported_rooms(path):
    """The rooms of onestage that a file imports, at its top or anywhere inside, with the line."""
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            names = [name.value for name in node.args[:1] if isinstance(name, ast.Constant)]
        else:
            continue
        for name in names:
            parts = name.split(".")
            if parts[0] == "onestage":
                yield (parts[1] if len(parts) > 1 else "__init__"), node.lineno


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_imports_follow_the_plan(path):
    room = room_of(path)
    if room in ("cli", "__init__", "__main__"):
        return
    assert room in ALLOWED, f"a new room: say in ALLOWED what {room} may import"
    name = path.relative_to(SOURCE).as_posix()
    allowed = ALLOWED[room] | {other for file, other in DELEGATES if file == name}
    wrong = [f"line {line}: {other}" for other, line in imported_rooms(path) if other != room and other not in allowed]
    assert wrong == []


def test_the_plan_has_no_circle():
    """Rooms can be put in an order in which each imports only earlier ones, but for the three delegates."""
    left = {room: others - {room} for room, others in ALLOWED.items()}
    while left:
        ready = [room for room, others in left.items() if not others & left.keys()]
        assert ready, f"a circle among {sorted(left)}"
        for room in ready:
            del left[room]


def test_only_adapters_know_foreign_names():
    """Key patterns of foreign checkpoints stand in weights/projects/ alone."""
    signs = (
        "module_list",
        "base_net",
        "cls_headers",
        "L2Norm",
        "blk_",
        "classification_head",
        "regression_head",
        "scale_weight",
    )
    for path in FILES:
        if "projects" not in path.parts:
            text = path.read_text(encoding="utf-8")
            assert [sign for sign in signs if sign in text] == [], path


def test_no_room_but_the_zoo_asks_for_a_family():
    """What a detector does follows from its parts: no name of the zoo, whole or its beginning, is compared or looked up."""
    families = ("ssd", "dssd", "tinyssd", "ssdlite", "retinanet", "efficientdet")
    for path in FILES:
        if room_of(path) in ("model", "training", "predict", "metrics", "explain", "data", "deploy"):
            texts = [n.value for n in ast.walk(tree_of(path)) if isinstance(n, ast.Constant) and isinstance(n.value, str)]
            plain = [t for t in texts if "\n" not in t and " " not in t]  # not docstrings and messages
            assert [t for t in plain if t.lower().startswith(families) and t != "ssd"] == [], path
            assert "ssd" not in plain or path.name == "config.py", path  # a way to augment has that name


def test_only_boxes_suppresses_boxes_and_only_images_decodes():
    for path in FILES:
        text = path.read_text(encoding="utf-8")
        if path.name != "boxes.py":
            assert "torchvision.ops" not in text and "batched_nms" not in text, path
        if path.name not in ("images.py",):
            assert "Image.open" not in text and "torchvision.io" not in text, path


def functions():
    for path in FILES:
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield path, node


def test_no_file_is_longer_than_450_lines():
    long = [f"{p.relative_to(SOURCE)}: {n}" for p in FILES if (n := len(p.read_text(encoding="utf-8").splitlines())) > 450]
    assert long == []


def test_functions_take_at_most_8_parameters():
    """But for the command line's verbs, whose parameters are its options."""
    wide = []
    for path, node in functions():
        arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        count = len([a for a in arguments if a.arg not in ("self", "cls")])
        if count > 8 and room_of(path) != "cli":
            wide.append(f"{path.relative_to(SOURCE)}:{node.lineno} {node.name}: {count}")
    assert wide == []


@pytest.mark.parametrize("path", [p for p in FILES if p.stat().st_size], ids=lambda p: str(p.relative_to(SOURCE)))
def test_every_file_says_what_it_is(path):
    assert ast.get_docstring(tree_of(path))


def docstrings(path):
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    return [ast.get_docstring(node) or "" for node in ast.walk(tree_of(path)) if isinstance(node, kinds)]


def speaks_of_shapes(path):
    """Whether a docstring gives a shape in letters, such as (N, 4) or (B, A, C)."""
    return any(re.search(r"\((?:\.\.\., )?[A-Z](?:_l)?,", text) for text in docstrings(path))


@pytest.mark.parametrize("path", [p for p in FILES if speaks_of_shapes(p)], ids=lambda p: str(p.relative_to(SOURCE)))
def test_a_file_that_speaks_of_shapes_opens_with_their_letters(path):
    assert "letters" in ast.get_docstring(tree_of(path))
