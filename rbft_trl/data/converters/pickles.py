"""Pickles of plain data, read without running anything: numbers, text, lists, dicts, sets; arrays come as lists.

Input: a .pkl file. Output: its value. A pickle that names any other class or function is refused before it is called.
"""

import io
import pickle
import re
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np

from rbft_trl.errors import UserError

LARGEST = 64 << 20  # bytes of a file; annotations are far smaller
PLAIN = re.compile(r"[biuf][1248]|U\d{1,4}|S\d{1,4}|O8?")


class Kind:
    """The type of an array's items: a number, text, or `O` for a list of anything.

    numpy's own is not used while a pickle is read: one with a false size makes numpy read beside its memory.
    """

    def __init__(self, code: str = "", *_: Any) -> None:
        if not PLAIN.fullmatch(code):
            raise pickle.UnpicklingError(f"an array of {code!r}, which are no numbers and no text")
        self.code, self.order = code, "="

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, order, *fields = state
        if order not in ("<", ">", "|", "=") or any(field is not None for field in fields[:3]):
            raise pickle.UnpicklingError("an array of records")
        self.order = order

    def read(self, data: Any, shape: Any, order: str) -> list[Any]:
        """The items of an array, as nested lists."""
        if self.code[0] == "O" and isinstance(data, list):
            flat = np.empty(len(data), object)
            for i, item in enumerate(data):
                flat[i] = item
        elif not isinstance(data, bytes | bytearray):
            raise pickle.UnpicklingError("an array without its bytes")
        else:
            flat = np.frombuffer(data, np.dtype(self.order.replace("|", "=") + self.code))
        return flat.reshape(shape, order=order).tolist()


class Items(list):
    """An array that is being read."""

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, kind, by_column, data = state
        self[:] = as_kind(kind).read(data, shape, "F" if by_column else "C")


def as_kind(value: Any) -> Kind:
    """`value`, if it is the type of an array's items."""
    if not isinstance(value, Kind):
        raise pickle.UnpicklingError("an array of no type")
    return value


def empty_array(_kind: Any, _shape: Any, _code: Any) -> Items:
    """As numpy's `_reconstruct`: what its pickles then fill."""
    return Items()


def whole_array(data: Any, kind: Any, shape: Any, order: Any) -> list[Any]:
    """As numpy's `_frombuffer`, of protocol 5."""
    return as_kind(kind).read(data, shape, "F" if order == "F" else "C")


def one_number(kind: Any, data: Any) -> Any:
    """As numpy's `scalar`."""
    return as_kind(kind).read(data, (1,), "C")[0]


def old_bytes(text: str = "", encoding: str = "latin1") -> bytes:
    """Bytes as the protocols below 3 write them."""
    if not isinstance(text, str) or encoding != "latin1":
        raise pickle.UnpicklingError("bytes in another encoding than latin1")
    return text.encode("latin1")


ARRAY = object()  # stands for numpy's class of arrays, which is named and never called
ALLOWED: dict[tuple[str, str], Any] = {
    ("builtins", "set"): set,
    ("builtins", "frozenset"): frozenset,
    ("__builtin__", "set"): set,
    ("__builtin__", "frozenset"): frozenset,
    ("__builtin__", "bytes"): old_bytes,
    ("_codecs", "encode"): old_bytes,
    ("collections", "OrderedDict"): OrderedDict,
    ("numpy", "ndarray"): ARRAY,
    ("numpy", "dtype"): Kind,
} | {
    (f"numpy.{core}.{module}", name): function
    for core in ("core", "_core")  # of numpy 1 and 2
    for module, name, function in (
        ("multiarray", "_reconstruct", empty_array),
        ("multiarray", "scalar", one_number),
        ("numeric", "_frombuffer", whole_array),
    )
}
REFUSED = (pickle.INST, pickle.OBJ, pickle.NEWOBJ, pickle.NEWOBJ_EX, pickle.EXT1, pickle.EXT2, pickle.EXT4)


class PlainUnpickler(pickle._Unpickler):
    """Knows the names in `ALLOWED` and no others, imports nothing, and sets nothing but an array's items.

    It is pickle's own reader in Python: the one in C has been seen to crash on damaged arrays.
    """

    dispatch = dict(pickle._Unpickler.dispatch)

    def find_class(self, module: str, name: str) -> Any:
        """What a name stands for here."""
        if (module, name) not in ALLOWED:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which is no plain data")
        return ALLOWED[module, name]

    def persistent_load(self, pid: Any) -> Any:
        """Objects that a pickle expects its reader to have."""
        raise pickle.UnpicklingError("it refers to something outside itself")

    def load_build(self) -> None:
        """Of pickle's `build`, the part that numpy's pickles need."""
        if not isinstance(self.stack[-2], Kind | Items):
            raise pickle.UnpicklingError("it sets what an object holds")
        state = self.stack.pop()
        self.stack[-1].__setstate__(state)

    def load_bytearray8(self) -> None:
        """As pickle's own, which would make room for more bytes than the file has."""
        size = int.from_bytes(self.read(8), "little")
        if size > LARGEST or len(data := self.read(size)) < size:
            raise pickle.UnpicklingError("it is cut off")
        self.append(bytearray(data))

    def refuse(self) -> None:
        """Operations that make objects of classes."""
        raise pickle.UnpicklingError("it makes an object of a class")

    dispatch[pickle.BUILD[0]] = load_build
    dispatch[pickle.BYTEARRAY8[0]] = load_bytearray8
    dispatch |= dict.fromkeys((code[0] for code in REFUSED), refuse)


def read_pickle(path: Path) -> Any:
    """The plain data in a pickle.

    Raises:
        UserError: if it is damaged, too large, or holds anything else; nothing of it has been called then.
    """
    if path.stat().st_size > LARGEST:
        raise UserError(f"'{path}' has more than {LARGEST >> 20} MiB; take the official file")
    try:
        return PlainUnpickler(io.BytesIO(path.read_bytes())).load()
    except Exception as error:  # whatever bytes a file holds, unpickling may raise anything
        said = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"'{path}' is no pickle of plain data ({said[:200]}); take the official file") from error
