"""Who may import whom, and how long a file or function may grow: the house plan, enforced on the source itself."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

from loaded import loaded

SOURCE = Path(__file__).resolve().parents[2] / "src" / "onestage"
FILES = sorted(SOURCE.rglob("*.py"))

GROUND = {"structures", "boxes", "images", "draw", "errors", "files", "processes", "console", "parts", "tars", "pages"}
ALLOWED = {
    "errors": set(),
    "boxes": {"errors"},
    "pixels": {"errors"},
    "tars": {"errors"},
    "pages": {"errors"},
    "parts": {"tars", "pages", "errors"},
    "images": {"pixels", "parts", "errors"},
    "files": {"errors"},
    "processes": {"errors"},
    "console": {"errors"},
    "structures": {"boxes", "errors"},
    "draw": {"structures", "boxes", "images", "errors"},
    "model": GROUND,
    "data": GROUND,
    "metrics": GROUND,
    "analysis": GROUND | {"metrics", "data"},
    "zoo": GROUND | {"model"},
    "weights": GROUND | {"model", "zoo"},
    "creation": GROUND | {"zoo", "weights", "model"},
    "predict": GROUND | {"model", "data", "metrics"},
    "training": GROUND | {"predict", "data", "metrics", "model", "weights"},
    "tuning": GROUND | {"training", "analysis", "data", "metrics", "model"},
    "loading": GROUND | {"predict", "weights", "model", "deploy"},
    "evaluation": GROUND | {"loading", "predict", "training", "data", "metrics", "model"},
    "explain": GROUND | {"predict", "model", "metrics"},
    "deploy": GROUND | {"predict", "weights", "data", "metrics", "model"},
    "scale": GROUND | {"deploy", "predict", "weights", "data", "metrics", "model"},
}
"""A room (a file or folder of the package) and the others it may import. cli and the package's own face may import all."""
DELEGATES = {
    ("model/detector.py", "Detector.predict", "predict"),
    ("model/detector.py", "Detector.stream", "predict"),
    ("model/detector.py", "Detector.save", "weights"),
    ("model/detector.py", "Detector.export", "deploy"),
    ("structures.py", "Detections.draw", "draw"),
}
"""File, function and room: these five, thin and public, import that room inside the function and nowhere else in the file."""
house = loaded("docs/measure_house.py")


def room_of(path):
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


@cache
def tree_of(path):
    return ast.parse(path.read_text(encoding="utf-8"))


def against_the_plan(file, tree):
    """The imports of a file that its room may not have, at its top or anywhere inside. file: its path inside the package."""
    room = file.split("/")[0].removesuffix(".py")
    for name, line, function in house.imports(tree):
        package, *parts = name.split(".")
        other = parts[0] if parts else "__init__"
        allowed = {room} | ALLOWED[room] | {there for *here, there in DELEGATES if here == [file, function]}
        if package == "onestage" and other not in allowed:
            yield f"line {line}: {other}"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_imports_follow_the_plan(path):
    tree = tree_of(path)
    assert all(node.level == 0 for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)), "a relative import"
    if (room := room_of(path)) not in ("cli", "__init__", "__main__"):
        assert room in ALLOWED, f"a new room: say in ALLOWED what {room} may import"
        assert [*against_the_plan(path.relative_to(SOURCE).as_posix(), tree)] == []


INSIDE = "class Detector:\n    def {}(self):\n        from onestage.{} import x\n"


@pytest.mark.parametrize(
    ("file", "text", "wrong"),
    [
        ("model/detector.py", INSIDE.format("save", "weights.detector_file"), []),
        ("model/detector.py", INSIDE.format("predict", "weights.detector_file"), ["line 3: weights"]),
        ("model/detector.py", INSIDE.format("load", "weights.detector_file"), ["line 3: weights"]),
        ("model/decoder.py", INSIDE.format("save", "weights.detector_file"), ["line 3: weights"]),
        ("model/detector.py", "from onestage import weights", ["line 1: weights"]),
        ("model/detector.py", "import onestage", ["line 1: __init__"]),
        ("model/detector.py", "import importlib\nimportlib.import_module('onestage.predict')", ["line 2: predict"]),
        ("model/detector.py", "import torch\nfrom onestage.boxes import iou", []),
    ],
)
def test_only_a_delegate_imports_against_the_plan(file, text, wrong):
    assert [*against_the_plan(file, ast.parse(text))] == wrong
    assert {function for _, function, _ in DELEGATES} == set(house.DELEGATES)


def test_the_plan_has_no_circle():
    """Rooms can be put in an order in which each imports only earlier ones, but for the five delegates."""
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
        if room_of(path) in ("model", "training", "predict", "metrics", "analysis", "explain", "data", "deploy"):
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


def test_a_file_that_speaks_of_shapes_opens_with_their_letters():
    """In one test: to know the files, all of them are parsed."""
    speaking = [path for path in FILES if speaks_of_shapes(path)]
    silent = [path for path in speaking if "letters" not in ast.get_docstring(tree_of(path))]
    assert [str(path.relative_to(SOURCE)) for path in silent] == [] and len(speaking) > 50


@pytest.mark.parametrize("file", sorted((SOURCE.parents[1] / "benchmarks").glob("*.py")), ids=lambda file: file.stem)
def test_a_program_in_benchmarks_imports_what_the_others_have(file):
    """None of them is run by the tests, and what one takes from another may move away."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        other = isinstance(node, ast.ImportFrom) and file.with_name(f"{node.module}.py")
        if other and other.exists():
            body = ast.parse(other.read_text(encoding="utf-8")).body
            bound = {name.asname or name.name for part in body if isinstance(part, ast.ImportFrom) for name in part.names}
            bound |= {part.name for part in body if isinstance(part, ast.ClassDef | ast.FunctionDef)}
            bound |= {name.id for part in body for name in ast.walk(part) if isinstance(name, ast.Name)}
            assert {name.name for name in node.names} <= bound, other.name
