"""Pickles of plain data are read; one that names anything else is refused before anything of it runs."""

import codecs
import copyreg
import os
import pickle
from collections import OrderedDict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rbft_trl.data.converters.pickles import read_pickle
from rbft_trl.errors import UserError

QUIET = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary()
PLAIN = st.recursive(
    SCALARS, lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(SCALARS, inner), max_leaves=8
)


def read(data: bytes, folder: Path) -> Any:
    (folder / "a.pkl").write_bytes(data)
    return read_pickle(folder / "a.pkl")


@QUIET
@given(value=PLAIN, protocol=st.integers(0, pickle.HIGHEST_PROTOCOL))
def test_plain_data_come_back(value: Any, protocol: int, tmp_path: Path) -> None:
    assert read(pickle.dumps(value, protocol), tmp_path) == value


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize(
    "array",
    [np.arange(6.0).reshape(2, 3), np.array(["Back", "Entry"]), np.array([1, 2], np.int16), np.array([[], 1], object),
     np.zeros((0, 2)), np.float32(1.5), np.int64(7), np.bool_(True)],
)  # fmt: skip
def test_arrays_and_their_numbers_come_back(array: Any, protocol: int, tmp_path: Path) -> None:
    back = read(pickle.dumps({"a": array, "s": {1, 2}, "o": OrderedDict(a=1)}, protocol), tmp_path)
    assert back["a"] == array.tolist() and back["s"] == {1, 2}
    assert back["o"] == {"a": 1}


class Calls:
    """A pickle of this calls `function(*arguments)` when it is read by pickle itself."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return self.call


def mark(place: str) -> None:
    Path(place).touch()


def evil(place: str) -> dict[str, bytes]:
    """Pickles that would make the file `place`, or ask for what is no plain data."""
    command = f"touch {place}"
    values = {
        "system": Calls(os.system, command),
        "eval": Calls(eval, f"open({place!r}, 'w')"),
        "exec": Calls(exec, f"open({place!r}, 'w')"),
        "own function": Calls(mark, place),
        "import": Calls(__import__, "this"),
        "getattr": Calls(getattr, "text", "upper"),
        "numpy load": Calls(np.load, place),
        "partial": Calls(partial, os.system, command),
        "in an object array": np.array([Calls(os.system, command)], object),
        "as a key": {"a": [(Calls(os.system, command),)]},
        "codec": Calls(codecs.encode, "x", "zlib"),
        "memory": Calls(np.ndarray, (1 << 50,)),
        "memory by bytes": Calls(bytes, 1 << 50),
        "memory by an array of bytes": Calls(bytearray, 1 << 50),
        "class": Path,
        "complex": Calls(copyreg._reconstructor, object, object, None),
    }
    by_hand = {
        "old instance": f"(S'{command}'\nios\nsystem\n.".encode(),
        "builtins by name": b"c__builtin__\neval\n(S'1'\ntR.",
        "dotted name": b"\x80\x04\x8c\x05numpy\x8c\x0bndarray.dot\x93.",
        "outside itself": b"Pid\n.",
        "extension": b"\x80\x02\x82\x01.",
        "build": b"cnumpy\nndarray\n)R(S'a'\nI1\ndb.",
        "odd dtype": b"cnumpy\ndtype\n(S'V8'\ntR.",
        "attributes": b"cnumpy\ndtype\n(N(S'read'\nccollections\nOrderedDict\ndtb.",
        "false size": b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR(I1\n(I9\ntcnumpy\n"
        b"dtype\n(S'f8'\nI0\nI1\ntR(I3\nS'<'\nNNNI1\nI1\nI0\ntbI00\nS'a'\ntb.",
        "more bytes than there are": b"\x80\x05\x96" + (1 << 45).to_bytes(8, "little") + b"a.",
        "fields": b"cnumpy\ndtype\n((lp0\ntR.",
    }
    return {name: pickle.dumps(value, 2) for name, value in values.items()} | by_hand


@pytest.mark.parametrize("name", evil("nowhere"))
def test_a_pickle_that_would_run_something_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"a\.pkl' is no pickle of plain data .*; take the official file") as told:
        read(evil(str(tmp_path / "made"))[name], tmp_path)
    assert "\n" not in str(told.value) and not (tmp_path / "made").exists()


def test_the_pickles_above_do_run_without_us(tmp_path: Path) -> None:
    for name in ("system", "eval", "own function", "in an object array"):
        place = tmp_path / name.replace(" ", "")
        pickle.loads(evil(str(place))[name])
        assert place.exists(), name


@QUIET
@given(data=st.data())
def test_damaged_pickles_are_one_sentence(data: st.DataObject, tmp_path: Path) -> None:
    good = pickle.dumps({("r1", 0): {"action_type": "107b", "labels": np.arange(5)}}, 2)
    bad = bytearray(good)
    for _ in range(data.draw(st.integers(1, 4))):
        bad[data.draw(st.integers(0, len(bad) - 1))] = data.draw(st.integers(0, 255))
    bad = bad[: data.draw(st.integers(0, len(bad)))]
    try:
        read(bytes(bad), tmp_path)
    except UserError as error:
        assert "no pickle of plain data" in str(error)


def test_a_file_that_is_too_large_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rbft_trl.data.converters.pickles.LARGEST", 10)
    with pytest.raises(UserError, match="has more than 0 MiB"):
        read(pickle.dumps(list(range(100))), tmp_path)
