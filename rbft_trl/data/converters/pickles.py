"""Pickles of plain data, read without running anything: numbers, text, lists, dicts, sets and arrays of them.

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
PLAIN = re.compile(r"[<>|=]?(?:[biuf][1248]|[SU]\d{1,4}|b1|\?|O8?)")


ARRAY = object()  # stands for the class of an array in numpy's pickles; it cannot be called


def _empty(_kind: Any, shape: Any, _code: Any) -> np.ndarray:
    """As numpy's own `_reconstruct`, for the empty array that its pickles then fill."""
    if shape != (0,):
        raise pickle.UnpicklingError(f"an array of shape {shape!r} where numpy writes (0,)")
    return np.empty(0, np.int8)


def _dtype(code: Any, *_: Any) -> np.dtype:
    if not isinstance(code, str) or not PLAIN.fullmatch(code):
        raise pickle.UnpicklingError(f"an array of {code!r}, which are no numbers and no text")
    return np.dtype(code)


def _scalar(dtype: np.dtype, data: Any) -> Any:
    if not isinstance(dtype, np.dtype) or dtype.hasobject or not isinstance(data, bytes):
        raise pickle.UnpicklingError("a number that is none")
    return np.frombuffer(data, dtype, 1)[0]


def _bytes(text: Any, encoding: Any = "latin1") -> bytes:
    if not isinstance(text, str) or encoding != "latin1":
        raise pickle.UnpicklingError(f"bytes in the encoding {encoding!r}")
    return text.encode("latin1")


def _no_bytes() -> bytes:
    """`bytes` as old protocols call it: for none at all, never for a number of them."""
    return b""


def _filled(data: Any, dtype: np.dtype, shape: Any, order: Any) -> np.ndarray:
    """As numpy's own `_frombuffer`, for the arrays of protocol 5."""
    if not isinstance(dtype, np.dtype) or dtype.hasobject or not isinstance(data, bytes | bytearray):
        raise pickle.UnpicklingError("an array that is none")
    return np.frombuffer(data, dtype).reshape(shape, order=order)


ALLOWED: dict[tuple[str, str], Any] = {
    ("builtins", "set"): set,
    ("builtins", "frozenset"): frozenset,
    ("__builtin__", "set"): set,
    ("__builtin__", "bytes"): _no_bytes,
    ("collections", "OrderedDict"): OrderedDict,
    ("numpy", "ndarray"): ARRAY,
    ("numpy", "dtype"): _dtype,
    ("_codecs", "encode"): _bytes,
} | {
    (f"numpy.{core}.{module}", name): function
    for core in ("core", "_core")  # of numpy 1 and 2
    for module, name, function in (
        ("multiarray", "_reconstruct", _empty),
        ("multiarray", "scalar", _scalar),
        ("numeric", "_frombuffer", _filled),
    )
}


class _PlainUnpickler(pickle.Unpickler):
    """Looks names up in `ALLOWED` and nowhere else; nothing is imported."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ALLOWED:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which is no plain data")
        return ALLOWED[module, name]

    def persistent_load(self, pid: Any) -> Any:
        raise pickle.UnpicklingError("it refers to something outside itself")


def read_pickle(path: Path) -> Any:
    """The plain data in a pickle.

    Raises:
        UserError: if it is damaged, too large, or holds anything else; nothing of it has been called then.
    """
    if path.stat().st_size > LARGEST:
        raise UserError(f"'{path}' has more than {LARGEST >> 20} MiB; take the official file")
    try:
        return _PlainUnpickler(io.BytesIO(path.read_bytes())).load()
    except Exception as error:  # whatever bytes a file holds, unpickling may raise anything
        said = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"'{path}' is no pickle of plain data ({said}); take the official file") from error
