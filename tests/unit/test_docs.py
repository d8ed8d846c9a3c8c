"""The pages say what is so now: generated numbers, the import table, snippets and command lines."""

import ast
import functools
import importlib
import inspect
import io
import json
import pkgutil
import re
import shlex
import textwrap
import types
import typing
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from types import ModuleType

import pytest

import onestage
from loaded import ROOT, loaded
from onestage.cli.main import VERBS, main
from onestage.cli.train import NO_CHOICE
from onestage.errors import DataError
from onestage.model.cost import cost_of
from onestage.weights.tensor_file import numbered_classes
from onestage.zoo.table import ANY_BACKBONE, ZOO, recipe

DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md"))]

blocks = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
inline = re.compile(r"`((?:torchrun [^`]*)?onestage [^`]+)`")


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.fixture(scope="module")
def make_models() -> ModuleType:
    return loaded("docs/make_models.py")


# --- generated numbers -----------------------------------------------------------------------------------------------------


@pytest.mark.slow  # it builds every model
def test_the_page_of_the_zoo_is_up_to_date(make_models):
    page = (DOCS / "models.md").read_text()
    assert page == make_models.current(), "run: python docs/make_models.py"
    assert all(f"| {name} |" in page for name in onestage.list_models())


def test_the_page_of_parts_is_up_to_date():
    make_parts = loaded("docs/make_parts.py")
    assert (DOCS / "parts.md").read_text() == make_parts.page(), "run: python docs/make_parts.py"


def test_the_readme_s_table_is_up_to_date(make_models):
    text = (DOCS.parent / "README.md").read_text()
    names = [name for name in re.findall(r"^\| (\w+) \| \d+x\d+ \|", text, re.MULTILINE) if name in ZOO]
    assert len(names) >= 10
    rows = make_models.zoo(*names)  # the whole zoo takes long to count
    assert text == make_models.with_counts(text, rows), "run: python docs/make_models.py"
    spoiled = text.replace("| 8,732 |", "| 8,733 |")
    assert spoiled != text == make_models.with_counts(spoiled, rows)


def test_the_times_are_those_of_the_benchmark(make_models):
    text = (DOCS / "which-model.md").read_text()
    assert text == make_models.with_times(text, make_models.read_latency()), "run: python docs/make_models.py"
    rest = make_models.MARK.sub("", text)
    assert re.findall(r"\d[\d.,]* ?(?:ms|s|sec\w*|milli\w*)\b", rest) == [], "times stand between marks, see make_models.py"


def test_marked_times_are_replaced(make_models):
    times = {"a": [0.05, 9.0, 0.05], "b": [2.5] * 3}
    timings = [{"model": name, "batch": 2, "predict": seconds, "network": seconds} for name, seconds in times.items()]
    latency = {"environment": {"device": "D", "cores": 3, "threads": 1}, "timings": timings}
    marks = ("time: a", "time: b", "ratio: b / a", "machine")
    text = " ".join(f"<!-- {mark} -->{{}}<!-- end -->" for mark in marks)
    old, expected = text.format("1", "", "?", "x"), text.format("25 ms", "1.2 s", "50", "D, 3 cores, 1 threads")
    assert make_models.with_times(old, latency) == expected
    with pytest.raises(DataError, match="not timed"):
        make_models.with_times("<!-- time: c -->1<!-- end -->", latency)


@pytest.mark.parametrize(("network", "good"), [(0.10, True), (0.1029, True), (0.105, False)])
def test_times_that_cannot_be_are_refused(make_models, tmp_path, network, good):
    file = tmp_path / "latency.json"
    timing = {"model": "tinyssd", "batch": 1, "predict": [0.1] * 3, "network": [network] * 3}
    file.write_text(json.dumps({"environment": {}, "timings": [timing]}))
    if good:
        assert make_models.read_latency(file)["timings"] == [timing]
    else:
        with pytest.raises(DataError, match="faster than the network inside it") as error:
            make_models.read_latency(file)
        assert "latency.json, tinyssd" in str(error.value) and "--repeats" in str(error.value)


def test_the_lines_of_the_files_are_counted(make_models):
    """To a tenth: a docstring may grow without a run of ``python docs/make_models.py``."""
    counted = r"`([\w*/]+\.py)` (\d+)"
    text = (DOCS / "architecture.md").read_text()
    said, now = (re.findall(counted, page) for page in (text, make_models.with_lines(text)))
    assert len(said) >= 15
    for (file, lines), (same, present) in zip(said, now, strict=True):
        assert file == same
        assert int(lines) == pytest.approx(int(present), rel=0.1, abs=3), f"{file}: run python docs/make_models.py"
    lines = len((ROOT / "src/onestage/model/necks/fpn.py").read_text().splitlines())
    assert make_models.with_lines("`fpn.py` 0 and `make.py`") == f"`fpn.py` {lines} and `make.py`"
    for unclear in ("`no_such_file.py` 3", "`__init__.py` 3"):
        with pytest.raises(DataError, match="counts the lines"):
            make_models.with_lines(unclear)


def test_the_models_of_each_family_are_counted():
    text = (DOCS / "architecture.md").read_text()
    said = dict(re.findall(r"^\| (\w+) \|.*\| (\d+) and any timm backbone \|$", text, re.MULTILINE))
    named = {name: next(f for f in ("dssd", "retinanet", "efficientdet", "ssd") if f in name) for name in ZOO}
    named |= {name: "dssd" for name in ZOO if re.fullmatch(r"ssd\d+_resnet101", name)}  # DSSD's paper, and its file
    fixed = [family for name, family in named.items() if name not in ANY_BACKBONE]
    assert {family.lower(): int(count) for family, count in said.items()} == {f: fixed.count(f) for f in set(fixed)}


def test_the_import_table_is_that_of_the_rules():
    rules = loaded("tests/rules/test_imports.py")
    text = (DOCS / "architecture.md").read_text()
    rows = dict(re.findall(r"^(\w+) +-> (.+)$", text, re.MULTILINE))
    assert rows.pop("cli") == "everything"
    said = {room: set() if others == "nothing more" else set(others.split(", ")) for room, others in rows.items()}
    ground = rules.GROUND | {"pixels"}  # which serves images alone
    assert said == {room: others - ground for room, others in rules.ALLOWED.items() if room not in ground}
    assert all(f"`{room}`" in text for room in rules.GROUND)


def test_which_model_knows_the_smallest_anchors_and_the_work():
    text = " ".join((DOCS / "which-model.md").read_text().split())
    smallest = {name: round(recipe(name, ("x",)).levels[0].shapes[0][0]) for name in ZOO if "efficientdet_" in name}
    strays = {name.removeprefix("efficientdet_"): side for name, side in smallest.items() if side != 32}
    assert strays == {"lite0": 24, "lite1": 24, "lite2": 24, "d7": 40}
    assert "EfficientDet 32 at any input, but lite0 to lite2 24 and D7 40" in text
    for name, title in (("ssdlite320_mobilenet_v3_large", "SSDLite320"), ("ssd300_vgg16", "SSD300")):
        assert f"{title} {recipe(name, ('x',)).levels[0].shapes[0][0]:.0f}" in text
    assert min(w for w, h in recipe("retinanet_r50_fpn", ("x",)).levels[0].shapes if w == h) == 32
    work = [cost_of(recipe(name, numbered_classes(80))).multiply_adds for name in ("ssd300_vgg16", "efficientdet_d0")]
    assert "a fourteenth of SSD300's multiply-adds" in text and 13.5 < work[0] / work[1] < 14.5


def test_the_readme_leads_to_every_page():
    text = (ROOT / "README.md").read_text()
    assert [page.name for page in sorted(DOCS.glob("*.md")) if f"](docs/{page.name}" not in text] == []


# --- snippets --------------------------------------------------------------------------------------------------------------


class Names(ast.NodeVisitor):
    """Goes through a snippet with what is known of its names: the modules, functions and classes that it imports, and the types
    of what they give. What it says of them has to be so.
    """

    def __init__(self) -> None:
        self.known: dict[str, object] = {}
        self.wrong: list[str] = []

    def visit_Import(self, node: ast.Import) -> None:
        for name in node.names:
            module = importlib.import_module(name.name)
            self.known[name.asname or name.name] = module
            if not name.asname:
                self.known[name.name.split(".")[0]] = importlib.import_module(name.name.split(".")[0])

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        for name in node.names:
            self.known[name.asname or name.name] = getattr(importlib.import_module(node.module), name.name)

    def visit_Assign(self, node: ast.Assign) -> None:
        self.generic_visit(node)
        for target in node.targets:
            if isinstance(target, ast.Name):
                self.known[target.id] = self.value(node.value)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        self.generic_visit(node)
        if (owner := self.value(node.value)) is not None and not self.has(owner, node.attr):
            self.wrong.append(f"line {node.lineno}: {ast.unparse(node)}")

    def visit_Call(self, node: ast.Call) -> None:
        self.generic_visit(node)
        function = self.value(node.func)
        if callable(function) and is_ours(function):
            of_a_type = isinstance(node.func, ast.Attribute) and inspect.isclass(self.value(node.func.value))
            places = [None] * (len(node.args) + (of_a_type and inspect.isfunction(function)))
            try:
                inspect.signature(function).bind_partial(*places, **{k.arg: None for k in node.keywords if k.arg})
            except TypeError as error:
                self.wrong.append(f"line {node.lineno}: {ast.unparse(node.func)}: {error}")

    def value(self, node: ast.expr) -> object:
        """The module, function or type that an expression is, or whose instance it is; None where that is not known."""
        if isinstance(node, ast.Name):
            return self.known.get(node.id)
        if isinstance(node, ast.Attribute):
            return member(self.value(node.value), node.attr)
        if isinstance(node, ast.Call):
            function = self.value(node.func)
            return function if inspect.isclass(function) else hint(function, "return")
        if isinstance(node, ast.Subscript):
            items = typing.get_args(self.value(node.value))
            return items[0] if items else None
        return None

    @staticmethod
    def has(owner: object, name: str) -> bool:
        return hasattr(typing.get_origin(owner) or owner, name) or name in fields_of(owner)


def is_ours(thing: object) -> bool:
    return (getattr(thing, "__module__", None) or "").startswith("onestage")


def hint(thing: object, name: str) -> object:
    """The type that a function or class of ours declares for a parameter, "return" or a field; None where it cannot be read."""
    if not is_ours(thing) or name not in (declared := getattr(thing, "__annotations__", {})):
        return None
    try:
        names = dict(vars(importlib.import_module(thing.__module__)))
        found = eval(declared[name], names) if isinstance(declared[name], str) else declared[name]
        found = typing._strip_annotations(found)  # without the limits that a type may state
        if typing.get_origin(found) is types.UnionType and None not in (parts := typing.get_args(found)):
            return parts[0]  # load: a Detector, or what predicts as one does
        return None if typing.get_origin(found) is typing.Union else found
    except NameError:  # imported for type checkers only
        return None


def fields_of(owner: object) -> dict[str, object]:
    """Fields of a class of ours and of its bases, and what __init__ gives to self, with their types where these are known."""
    found: dict[str, object] = {}
    for kind in filter(is_ours, owner.__mro__[::-1] if inspect.isclass(owner) else ()):
        found |= {name: hint(kind, name) for name in vars(kind).get("__annotations__", {})}
        for node in ast.walk(ast.parse(textwrap.dedent(inspect.getsource(kind)))):
            targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
            names = [
                name.id for name in (*targets, getattr(node, "value", None)) if isinstance(name, ast.Name)
            ]  # self.a = a = f()
            for target in targets:
                if isinstance(target, ast.Attribute) and isinstance(target.value, ast.Name) and target.value.id == "self":
                    found.setdefault(target.attr, hint(kind.__init__, names[0] if names else ""))
    return found


def member(owner: object, name: str) -> object:
    """A function, class or module, or the type of an instance's part; None where it is neither or not known."""
    found = fields_of(owner).get(name) or getattr(owner, name, None)
    if owner is onestage and name in onestage.__all__:  # evaluate and train are packages too
        found = getattr(onestage, name)
    if isinstance(found, property):
        return hint(found.fget, "return")
    return found if inspect.ismodule(found) or callable(found) else None


def snippets_of(page: Path) -> list[str]:
    return [text for language, text in blocks.findall(page.read_text(encoding="utf-8")) if language == "python"]


@pytest.mark.parametrize("page", [page for page in PAGES if snippets_of(page)], ids=name_of)
def test_snippets_use_what_there_is(page):
    names = Names()
    for code in snippets_of(page):  # the later ones go on with the names of the earlier
        names.visit(ast.parse(code))
    assert names.wrong == []


@pytest.mark.parametrize(
    ("code", "wrong"),
    [
        ("m = onestage.create('x', num_classes=2)\nm.config.replace({}).loss", ""),
        ("onestage.creat('x')", "onestage.creat"),
        ("m = onestage.create('x')\nm.predikt('a')", "m.predikt"),
        ("m = onestage.create('x', klasses=['a'])", "klasses"),
        ("f = onestage.load('x').predict(['a'])[0]\nf.draw(score=1).save('a')", ""),
        ("f = onestage.load('x').predict(['a'])[0]\nf.names", "f.names"),
        ("onestage.load('x').config.los", "config.los"),
        ("onestage.load('x').predict(['a'], skore=1)", "skore"),
        ("r = onestage.evaluate(1, data='x')\nr.coco.AP, r.coco.AP51", "r.coco.AP51"),
    ],
)
def test_the_snippets_test_sees_mistakes(code, wrong):
    names = Names()
    names.visit(ast.parse(f"import onestage\n{code}"))
    assert wrong in "".join(names.wrong) and bool(names.wrong) == bool(wrong)


# --- dotted names ----------------------------------------------------------------------------------------------------------

GONE = {
    "onestage.errors.explain",
    "onestage.zoo.create",
    "onestage.zoo.numbered_classes",
    "onestage.images.BACKGROUND",
    "onestage.model.storage",
    "onestage.model.files",
}
"""Names of former versions, which the changelog says what became of."""


def is_there(name: str) -> bool:
    """Whether a dotted name is a module, or a part of one."""
    try:
        pkgutil.resolve_name(name)
    except (ImportError, AttributeError):
        return False
    return True


@pytest.mark.parametrize("page", [ROOT / "CHANGELOG.md", *PAGES], ids=name_of)
def test_dotted_names_are_there(page):
    names = set(re.findall(r"`(onestage(?:\.[A-Za-z_]\w*)+)", page.read_text(encoding="utf-8")))
    gone = GONE if page.name == "CHANGELOG.md" else set()
    assert {name for name in names if not is_there(name)} == gone
    assert not is_there("onestage.weights.names") and is_there("onestage.weights.tensor_file.numbered_classes")


# --- command lines ---------------------------------------------------------------------------------------------------------


def command_lines(page: Path) -> list[str]:
    """The lines of code blocks that call onestage, joined where a backslash ends them."""
    text = "\n".join(
        block for language, block in blocks.findall(page.read_text(encoding="utf-8")) if language in ("", "sh", "bash")
    )
    return [line for line in text.replace("\\\n", " ").splitlines() if line.startswith("onestage ")]


def mentions(page: Path) -> list[str]:
    """The command lines inside of sentences: often only a verb, or a verb and an option."""
    text = blocks.sub("", page.read_text(encoding="utf-8"))
    return [found[found.index("onestage ") :] for found in inline.findall(text)]


@pytest.fixture
def parse(monkeypatch):
    """Parses a command line as the program does, and runs nothing; gives what is wrong with it."""
    for verb in VERBS.values():
        module = importlib.import_module(f"onestage.cli.{verb.module}")
        monkeypatch.setattr(module, verb.function, parsed(getattr(module, verb.function)))

    def run(line: str) -> str:
        with redirect_stderr(io.StringIO()) as errors, redirect_stdout(io.StringIO()) as out:
            try:
                code = main(shlex.split(line, comments=True)[1:])
            except SystemExit as end:
                code = end.code
        return "" if code == 0 else f"{errors.getvalue()}{out.getvalue()}" or str(code)

    return run


def parsed(function):
    """In the place of a verb: takes its arguments; for train, makes the config that they ask for."""

    @functools.wraps(function)
    def stub(*_, detector=NO_CHOICE, **__):
        if detector.model is not None:
            detector.config(("a", "b"))
        return 0

    return stub


@pytest.mark.parametrize("page", [page for page in PAGES if command_lines(page)], ids=name_of)
def test_command_lines_are_understood(page, parse):
    wrong = {line: error for line in command_lines(page) if (error := parse(line))}
    assert wrong == {}


@pytest.mark.parametrize("page", [page for page in PAGES if mentions(page)], ids=name_of)
def test_mentioned_verbs_and_options_are_there(page):
    wrong = []
    for line in mentions(page):
        words = line.split()[1:]
        verb = next((name for name in (" ".join(words[:2]), words[0]) if name in VERBS), None)
        known = options_of(verb) if verb else {"--help", "--version"}
        wrong += [line] * (verb is None and words[0] not in ("VERB", *known))
        wrong += [f"{line}: {word}" for word in words if re.match(r"--?[a-z]", word) and word not in known]
    assert wrong == []


@functools.cache
def options_of(verb: str) -> set[str]:
    with redirect_stdout(io.StringIO()) as text, pytest.raises(SystemExit):
        main([*verb.split(), "--help"])
    return set(re.findall(r"--?[a-z][a-z-]*", re.sub(r"\x1b\[[\d;]*m", "", text.getvalue())))


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("onestage train DATA --model tinyssd --set loss.gama=1", "gama"),
        ("onestage train DATA --model tinyssd --set anchors=OctaveAnchors", ""),
        ("onestage train DATA --modell tinyssd", "--modell"),
        ("onestage explain MODEL PICTURE --labels DATA --on-bad skip", ""),
        ("onestage explain MODEL", "PICTURE"),
        ("onestage predikt MODEL a.jpg", "no verb"),
        ("onestage benchmark tinyssd --repeats many   # comment", "many"),
    ],
)
def test_the_command_lines_test_sees_mistakes(line, says, parse):
    error = parse(line)
    assert says in error and bool(error) == bool(says)


def test_the_part_of_the_benchmark_is_up_to_date():
    make = loaded("docs/make_performance.py")
    text = (DOCS / "performance.md").read_text()
    assert text == make.with_part(text, make.figures()), "run: python docs/make_performance.py"


def test_the_part_of_the_benchmark_has_every_cell():
    make = loaded("docs/make_performance.py")
    times = {"p50_ms": 12.34, "p90_ms": None, "p99_ms": None, "pictures_per_second": 80.1, "predict": [0.1], "network": [0.1]}
    row = times | {
        "given": "m",
        "runtime": "openvino",
        "numbers": "fp16",
        "computed_in": "fp32",
        "batch": 8,
        "memory_bytes": 5e8,
    }
    row |= {"share_of_peak": 0.42, "ap": 0.5, "ap_lost": 0.0045, "other_work": 0.3}
    failed = {"model": "n", "runtime": "ncnn", "numbers": "fp32", "batch": 1, "reason": "a crash"}
    content = {"environment": {"cores": 2}, "command": "onestage benchmark m", "data": "set", "peaks": {"fp32": 1234.5}}
    content |= {"conclusion": ["Deploy m."], "timings": [row], "not_measured": [failed]}
    kept = make.without_times(content)
    assert "predict" not in kept["timings"][0] and kept["timings"][0]["p50_ms"] == 12.34
    page = make.with_part(f"a\n{make.MARKS[0]}old{make.MARKS[1]}b", kept)
    for told in (
        "| m | openvino fp16 (in fp32) | 8 | 12.3 | - | - | 80.1 | 500 | 42 % | .5000 | -.0045 |",
        "fp32 1,234",
        "a crash",
    ):
        assert told in page
    assert "up to 30 % of the processors" in page and "> Deploy m." in page and "old" not in page
    with pytest.raises(SystemExit, match="has no"):
        make.with_part("no marks", kept)
