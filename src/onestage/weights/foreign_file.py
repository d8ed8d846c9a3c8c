"""Files of tensors that other programs wrote. They are read in this file only. The result is tensors, and no code in a file is
run.

Below is what the adapters for foreign projects share: rules that rename tensors, which output is background, and the classes of
files that do not name them.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import pickletools
import re
import threading
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Literal, NamedTuple

import torch
from torch import Tensor

from onestage.errors import WeightsError, counted, first_ten, without_warnings
from onestage.model.limits import PICKLE as PICKLE_SIZE
from onestage.structures import ClassSet
from onestage.weights.safetensors_file import DAMAGED
from onestage.weights.tensor_file import COUNTER, PICKLE, SAFETENSORS, TORCH_ZIP, OpenFile, check_finite, numbered_classes

Background = Literal["first", "none"]
"""Which of the outputs of an anchor stands for background."""

Rules = tuple[tuple[str, str | Callable[[re.Match[str]], str]], ...]
"""(pattern of a whole name, what it becomes); the first that matches counts."""

WRAPPERS = (
    *("state_dict_ema", "model_ema", "ema_state_dict", "ema", "state_dict", "model_state_dict"),
    *("model", "module", "net", "network", "weights"),
)
"""Keys under which training programs store a state_dict. The averaged weights come first: they are the ones measured."""


PREFIXES = ("ema.", "ema_model.", "module.", "_orig_mod.", "_fsdp_wrapped_module.", "model.", "net.")
"""What training programs put before every key: averaging, DistributedDataParallel, torch.compile, FSDP and Lightning. Averaged
weights beside others are taken.
"""


TORCH_PICKLE = torch.serialization.MAGIC_NUMBER.to_bytes(10, "little")
"""The first object that torch.save pickles in files that are not zip archives."""


OLD_PICKLES = 5
"""Pickles in a file that is no zip archive: a magic number, a version, a machine, the content and its keys."""

MOST_SHARED = 4
"""How often the tensors of a file may share the same numbers, on average: tied weights do."""

PLAIN: list[Callable[..., object] | tuple[Callable[..., object], str]] = [argparse.Namespace]
"""What counts as plain data besides torch's list: the arguments of a program."""


MOST_ITEMS = 10_000
"""Items of a tuple, with those of the tuples in it. A checkpoint holds arguments of tensors in tuples: about 20."""
NO_NUMBERS = ("sparse", "meta_tensor", "nested", "qtensor", "wrapper_subclass", "from_numpy", "bytearray")
"""Parts of the names of functions, in a pickle, that make something other than a dense tensor of numbers in the file."""
_GET, _PUT = ("GET", "BINGET", "LONG_BINGET"), ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE")
_TUPLES = ("TUPLE", "TUPLE1", "TUPLE2", "TUPLE3")

_LISTED = threading.RLock()
"""Taken around ``safe_globals``: torch has one list for all threads."""

NUMPY_FIX = "take the checkpoint that the arrays come from, or save them again: torch.save({name: tensor}, FILE)"


class StateDict(NamedTuple):
    """The tensors of a file by name, and what was around them: the entry that held them, the prefixes taken off all names."""

    tensors: dict[str, Tensor]
    entry: str = ""
    prefixes: tuple[str, ...] = ()

    def note(self, path: Path) -> str:
        """A line for the user that names what was taken off; empty if nothing was."""
        parts = [f"the tensors are those of its entry '{self.entry}'"] if self.entry else []
        parts += [f"'{prefix}' is taken off their names" for prefix in self.prefixes]
        return f"{path}: {', and '.join(parts)}" if parts else ""


def load_foreign(file: OpenFile, *, finite: bool = True) -> StateDict:
    """The state_dict in another program's file (.pth, .pt, .pkl, .bin or .safetensors, recognised by content), on the CPU.

    Wrappers such as {"state_dict": ...} and prefixes such as "module." are taken off; nothing else is renamed. Raise
    WeightsError if the file is damaged, holds Python objects besides tensors and plain data (they could run code), holds no
    state_dict, or, with ``finite``, holds NaN or infinity.
    """
    if file.kind is SAFETENSORS:
        return _without_prefixes(StateDict(file.tensors(finite=finite)))
    if file.kind not in (TORCH_ZIP, PICKLE):
        expected = "a PyTorch state_dict (.pth, .pt, .pkl, .bin) or a safetensors file"
        fix = NUMPY_FIX if "NumPy" in file.kind.name else None
        raise WeightsError("this is not a weights file", where=file.path, got=file.kind.name, expected=expected, fix=fix)
    if file.kind is TORCH_ZIP:
        check_pickles(_check_archive(file), 1, file.path)
    else:
        check_pickles(file.stream, OLD_PICKLES, file.path)
    found = _state_dict(_load_pickled(file), file.path)
    tensors = found.tensors
    for name, tensor in tensors.items():  # a view that repeats its memory could claim any size
        if tensor.layout is not torch.strided or tensor.device.type != "cpu":
            got = f"{str(tensor.layout).removeprefix('torch.')}, on {tensor.device.type}"
            raise WeightsError(f"tensor '{name}' holds no plain numbers", where=file.path, got=got, fix="save dense tensors")
        if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            raise WeightsError(f"tensor '{name}' claims more numbers than the file holds", where=file.path, fix=DAMAGED)
    if sum(tensor.nbytes for tensor in tensors.values()) > MOST_SHARED * file.size:
        raise WeightsError("the tensors claim more numbers than the file holds", where=file.path, fix=DAMAGED)
    if finite:
        check_finite(tensors, file.path)
    return _without_prefixes(found._replace(tensors={name: tensor.detach() for name, tensor in tensors.items()}))


def _check_archive(file: OpenFile) -> IO[bytes]:
    """The pickle in a zip archive. Raise WeightsError if the archive holds NumPy arrays, if its tensors are compressed, which
    torch does not do, or if it unpacks to more bytes than it has.
    """
    file.stream.seek(0)
    try:
        archive = zipfile.ZipFile(file.stream)
        entries = archive.infolist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError, EOFError) as error:
        raise _not_importable(file, f"a zip archive that cannot be read ({error})", DAMAGED) from error
    if entries and all(entry.filename.endswith(".npy") for entry in entries):
        raise WeightsError("this is not a weights file", where=file.path, got="NumPy arrays (.npz)", fix=NUMPY_FIX)
    if sum(entry.file_size for entry in entries) > file.size or any(e.compress_type and "/data" in e.filename for e in entries):
        raise _not_importable(file, "a zip archive that unpacks to more than its size", DAMAGED)
    name = next((entry.filename for entry in entries if entry.filename.endswith("/data.pkl")), None)
    try:
        return io.BytesIO(b"" if name is None else archive.read(name))
    except Exception as error:  # zipfile raises many types for a damaged archive
        raise _not_importable(file, f"a zip archive that cannot be read ({error})", DAMAGED) from error


def check_pickles(stream: IO[bytes], pickles: int, where: object) -> None:
    """Follow the instructions of up to so many pickles on paper, from the start of a stream.

    A few bytes of a pickle can ask for memory or time without end: for a tuple of a tuple twice, and so on, which takes for
    ever to compare or to print, or for a tensor that the file does not hold. Raise WeightsError if a tuple would grow beyond
    MOST_ITEMS, if a tensor would not be one of plain numbers, or if the pickles are too long. A damaged pickle passes: the
    program that really follows it refuses it.
    """
    stream.seek(0)
    try:
        for _ in range(pickles):
            _follow(pickletools.genops(stream), where)
    except WeightsError:
        raise
    except Exception:  # pickletools raises many types for a damaged pickle
        return


def _follow(operations: Iterator[tuple[pickletools.OpcodeInfo, object, int | None]], where: object) -> None:
    """Keep the number of items in place of every object of the stack."""
    stack: list[int | None] = []  # None: a mark
    memo: dict[object, int] = {}
    for code, argument, place in operations:
        if (place or 0) > PICKLE_SIZE.most:
            raise WeightsError(f"too many {PICKLE_SIZE.what}", where=where, expected=f"at most {PICKLE_SIZE.most:,}")
        if code.name == "GLOBAL":
            _check_name(str(argument), where)
        if code.name in _GET:
            stack.append(memo[argument])
        elif code.name in _PUT:
            memo[len(memo) if code.name == "MEMOIZE" else argument] = stack[-1] or 0
        else:
            popped = _popped(stack, code)
            items = 1 + sum(popped) if code.name in _TUPLES else 1
            if items > MOST_ITEMS:
                what, expected = "the checkpoint holds a tuple that grows without end", f"at most {MOST_ITEMS:,} items"
                raise WeightsError(what, where=where, got=f"{items:,} items", expected=expected)
            stack += [None if item.name == "mark" else items for item in code.stack_after if item.name != "stackslice"]


def _check_name(name: str, where: object) -> None:
    """Raise WeightsError if a function that a pickle names makes no dense tensor."""
    if any(part in name for part in NO_NUMBERS):
        what = "the checkpoint holds tensors of no plain numbers"
        raise WeightsError(what, where=where, got=name, expected="dense tensors", fix="save dense tensors")


def _popped(stack: list[int | None], code: pickletools.OpcodeInfo) -> list[int]:
    """What an instruction takes from the stack: so many objects, or all down to the last mark and what is below it."""
    names = [item.name for item in code.stack_before]
    popped: list[int | None] = []
    if "mark" in names:
        while (item := stack.pop()) is not None:
            popped.append(item)
        names = names[: names.index("mark")]
    popped += [stack.pop() for _ in names]
    return [item for item in popped if item is not None]


def _load_pickled(file: OpenFile) -> object:
    """The tensors and plain data in a torch.save file.

    It reads the open file without a memory map: every tensor is read once, to its place in memory.
    """
    file.stream.seek(0)
    try:
        # torch warns about old pickles and TorchScript; only the result counts
        with _LISTED, torch.serialization.safe_globals(PLAIN), without_warnings():
            return torch.load(file.stream, weights_only=True, map_location="cpu")
    except Exception as error:  # torch's reader raises many types: RuntimeError, EOFError, KeyError, struct.error ...
        got, fix = _fault(file) or (f"contents that PyTorch cannot read ({type(error).__name__})", DAMAGED)
        raise _not_importable(file, got, fix) from error


def _fault(file: OpenFile) -> tuple[str, str] | None:
    """What is in a file that torch cannot read, and what to do; None if that is not known."""
    if file.kind is TORCH_ZIP and any(name.endswith("/constants.pkl") for name in zipfile.ZipFile(file.stream).namelist()):
        return "a TorchScript program", "save the state_dict() of the model it was made from"
    if (name := _unsafe_name(file)) is not None:
        return f"Python objects ({name}), which could run code when loaded", "save only model.state_dict()"
    file.stream.seek(0)
    if file.kind is PICKLE and TORCH_PICKLE not in file.stream.read(32):
        return "a Python pickle that holds more than tensors", "save it again: torch.save(model.state_dict(), FILE)"
    return None


def _unsafe_name(file: OpenFile) -> str | None:
    """The first class or function in a file that torch does not count as data; None if there is none. Nothing is run."""
    with _LISTED, torch.serialization.safe_globals(PLAIN), contextlib.suppress(Exception):  # of a damaged pickle
        for name in _names(file):
            if unsafe := torch.serialization.get_unsafe_globals_in_checkpoint(_checkpoint_of(name)):
                return unsafe[0]
    return None


def _names(file: OpenFile) -> Iterator[str]:
    """The classes and functions that a file's pickles name, as "module name", in their order."""
    pickles: IO[bytes] = file.stream
    if file.kind is TORCH_ZIP:
        archive = zipfile.ZipFile(file.stream)
        pickles = io.BytesIO(archive.read(next(name for name in archive.namelist() if name.endswith("/data.pkl"))))
    pickles.seek(0)
    for _ in range(OLD_PICKLES):  # a zip archive has only one
        yield from (str(argument) for code, argument, _ in pickletools.genops(pickles) if code.name == "GLOBAL")


def _checkpoint_of(name: str) -> io.BytesIO:
    """A checkpoint that holds nothing but this class or function, to ask torch about it."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", f"c{name.replace(' ', chr(10))}\n.")
        archive.writestr("archive/version", "3\n")
    file.seek(0)
    return file


def _not_importable(file: OpenFile, got: str, fix: str) -> WeightsError:
    what, expected = "the checkpoint cannot be imported", "a state_dict of tensors"
    return WeightsError(what, where=file.path, got=got, expected=expected, fix=fix)


def _state_dict(content: object, path: Path | str) -> StateDict:
    """The mapping of names to tensors in ``content``, inside at most three wrappers (a pickle may contain itself)."""
    keys: list[str] = []
    for _ in range(3):
        key, content = _unwrapped(content)
        keys += [key] if key else []
    if isinstance(content, Mapping) and content and all(isinstance(value, Tensor) for value in content.values()):
        return StateDict({str(name): tensor for name, tensor in content.items()}, "/".join(keys))
    got = f"a {type(content).__name__}"
    if isinstance(content, Mapping):
        got = f"entries {', '.join(map(str, list(content)[:10]))}" if content else "no entries at all"
    raise WeightsError("no state_dict in the checkpoint", where=path, got=got, expected="names with tensors")


def _unwrapped(content: object) -> tuple[str, object]:
    """The first wrapper key whose value holds tensors or a further wrapper, and that value; "" and ``content`` if there is
    none.
    """
    if isinstance(content, Mapping):
        for key in WRAPPERS:
            inner = content.get(key)
            if isinstance(inner, Mapping) and any(isinstance(value, Tensor | Mapping) for value in inner.values()):
                return key, inner
    return "", content


def _without_prefixes(found: StateDict) -> StateDict:
    tensors, taken = found.tensors, list[str]()
    tensors.pop("n_averaged", None)  # torch's AveragedModel counts beside the module it wraps
    while tensors and all(name.startswith(PREFIXES) for name in tensors):
        prefix = next(prefix for prefix in PREFIXES if any(name.startswith(prefix) for name in tensors))
        tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
        taken.append(prefix)
    return StateDict(tensors, found.entry, tuple(taken))


# --- what adapters share ----------------------------------------------------------------------------------------------------


def rename(tensors: Mapping[str, Tensor], rules: Rules) -> dict[str, Tensor]:
    """The tensors of a detector under their new names.

    Raise WeightsError if a tensor has no new name: the file is of another network.
    """
    renamed, unused = _renamed(tensors, rules)
    strange = [f"{name}: {tuple(tensors[name].shape)}" for name in unused if not name.endswith(COUNTER)]
    if strange:
        raise WeightsError(
            f"the file is of another network: {counted(len(strange), 'tensor')} that this network does not have",
            got="\n" + first_ten(strange),
            fix="take the state_dict of the detector alone, as its project builds it",
        )
    return renamed


def known_classes(count: int, *known: ClassSet) -> ClassSet:
    """The class set in ``known`` that has ``count`` classes, or numbered classes if none has.

    A file of weights rarely names its classes. But the published weights of a project are for few data sets, so the number of
    classes shows which data set it is. Raise ValueError if ``count`` is not positive.
    """
    if count < 1:
        raise ValueError(f"outputs for {count} classes")
    found = next((classes for classes in known if len(classes.names) == count), None)
    return ClassSet(numbered_classes(count), tuple(range(count))) if found is None else found


def nothing_to_tell(tensors: Mapping[str, Tensor]) -> str:
    """The doubt, or the note, of an adapter whose files leave nothing open."""
    return ""


def first_output(tensors: Mapping[str, Tensor]) -> Background | None:
    """The background of an adapter whose detectors have a softmax: the first output of every anchor."""
    return "first"


def no_output(tensors: Mapping[str, Tensor]) -> Background | None:
    """The background of an adapter whose detectors have a sigmoid for each class, and no output more."""
    return "none"


def demand_levels(tensors: Mapping[str, Tensor], *parts: str, levels: int) -> None:
    """Raise KeyError if a part of a detector, such as "conf", has no tensors for one of its levels: "conf.3. ...".

    A comparison with our tensors does not show this, because an input of another size may need fewer levels than the file has.
    """
    for start in (f"{part}.{level}." for part in parts for level in range(levels)):
        if not any(name.startswith(start) for name in tensors):
            raise KeyError(f"{start}...")


def pick(tensors: Mapping[str, Tensor], rules: Rules) -> dict[str, Tensor]:
    """The tensors that the rules know, under their new names: a backbone out of a classifier."""
    return _renamed(tensors, rules)[0]


def _renamed(tensors: Mapping[str, Tensor], rules: Rules) -> tuple[dict[str, Tensor], list[str]]:
    """The tensors under their new names, and the names that have no new name, or a new name that is already taken."""
    renamed: dict[str, Tensor] = {}
    unused = []
    for name, tensor in tensors.items():
        new = _new_name(name, rules)
        if new is None or new in renamed:
            unused.append(name)
        else:
            renamed[new] = tensor
    return renamed, unused


def _new_name(name: str, rules: Rules) -> str | None:
    for pattern, becomes in rules:
        if match := re.fullmatch(pattern, name):
            try:
                return match.expand(becomes) if isinstance(becomes, str) else becomes(match)
            except LookupError:  # a number beyond the layers that the rule knows
                return None
    return None
