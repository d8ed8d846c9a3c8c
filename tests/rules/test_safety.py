"""Nothing in the source runs what a file says, and foreign bytes are opened in one place each."""

import ast
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[2] / "src" / "onestage"
FILES = sorted(SOURCE.rglob("*.py"))

NO_MODULES = ("pickle.", "marshal.", "shelve.", "dill.", "cloudpickle.", "joblib.", "tarfile.", "xml.sax.", "xml.dom.")
NO_CALLS = {"eval", "exec", "compile", "__import__", "yaml.load", "yaml.load_all", "yaml.unsafe_load", "yaml.full_load"}
NO_CALLS |= {"os.system", "os.popen", "torch.hub.load"}
XML_READERS = {f"ElementTree.{reader}" for reader in ("parse", "iterparse", "fromstring", "XML", "XMLParser")}
ONE_PLACE = {
    "torch.load": "weights/foreign_file.py",
    "safetensors.torch.load": "weights/safetensors_file.py",
    "Image.open": None,
    "urllib.request.urlopen": "weights/fetch.py",
}
"""A call that foreign bytes go through, and the only file that may make it."""


def dotted(node):
    """The text of a name or a chain of attributes, such as torch.load; else an empty string."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return ""


def violations(text, name="a.py"):
    """What the rules say against a file's text, a line each."""
    tree = ast.parse(text)
    imports = [(node, module) for node in ast.walk(tree) for module in imported(node)]
    found = [f"{node.lineno}: imports {module}" for node, module in imports if f"{module}.".startswith(NO_MODULES)]
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    found += [f"{call.lineno}: {fault}" for call in calls for fault in call_violations(call, name)]
    if "defusedxml.ElementTree" not in [module for _, module in imports]:
        found += [f"{call.lineno}: reads XML without defusedxml" for call in calls if dotted(call.func) in XML_READERS]
    return found


def imported(node):
    """The modules, or names in modules, that an import brings in."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    return [f"{node.module}.{alias.name}" for alias in node.names] if isinstance(node, ast.ImportFrom) else []


def quietly_imported(text):
    """Whether a file imports onnxruntime nowhere but for its types and in the function that switches its reports off."""
    tree = ast.parse(text)
    allowed = [node for node in ast.walk(tree) if getattr(node, "name", "") == "import_onnxruntime"]
    allowed += [node for node in ast.walk(tree) if isinstance(node, ast.If) and dotted(node.test) == "TYPE_CHECKING"]
    inside = {id(inner) for node in allowed for inner in ast.walk(node)}
    return all("onnxruntime" not in imported(node) for node in ast.walk(tree) if id(node) not in inside)


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_onnxruntime_is_imported_without_its_reports(path):
    assert quietly_imported(path.read_text(encoding="utf-8"))


def test_the_rule_sees_an_import_of_onnxruntime():
    assert not quietly_imported("def f():\n    import onnxruntime\n")


def call_violations(call, name):
    called = dotted(call.func)
    options = {k.arg: k.value.value if isinstance(k.value, ast.Constant) else ... for k in call.keywords}
    if called in NO_CALLS or called.endswith(".extractall"):
        yield f"calls {called}"
    if options.get("shell", False) is not False:
        yield "runs a shell"
    if options.get("allow_pickle", False) is not False:
        yield "allows pickles"
    if called == "torch.load" and options.get("weights_only") is not True:
        yield "torch.load without weights_only=True"
    if called in ONE_PLACE and name != ONE_PLACE[called]:
        yield f"{called} belongs in {ONE_PLACE[called] or 'no file'}"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_the_source_is_safe(path):
    name = path.relative_to(SOURCE).as_posix()
    assert violations(path.read_text(encoding="utf-8"), name) == []


@pytest.mark.parametrize(
    "line",
    [
        "import pickle",
        "from pickle import loads",
        "import xml.dom.minidom",
        "ElementTree.parse(path)",
        "eval(text)",
        "yaml.load(file, Loader=Loader)",
        "archive.extractall(folder)",
        "subprocess.run(command, shell=True)",
        "subprocess.run(command, shell=yes)",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "np.load(path, allow_pickle=True)",
        "Image.open(path)",
    ],
)
def test_the_rules_see_what_they_forbid(line):
    assert violations(line, "weights/foreign_file.py") != []


@pytest.mark.parametrize(
    "line",
    [
        "model.eval()",
        "import pickletools",  # reads the instructions of a pickle and follows none
        "yaml.safe_load(file)",
        "re.compile('a')",
        "np.load(path)",
        "from defusedxml import ElementTree\nElementTree.parse(path)",
        "from xml.etree import ElementTree\nElementTree.tostring(tree)",
    ],
)
def test_the_rules_allow_the_harmless(line):
    assert violations(line) == []


def test_the_safe_loader_of_foreign_checkpoints_is_there():
    """The rule above would also hold for a project that reads no checkpoints; this one does, and here."""
    assert "weights_only=True" in (SOURCE / "weights" / "foreign_file.py").read_text(encoding="utf-8")
