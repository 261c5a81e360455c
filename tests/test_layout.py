"""The shape of the repository: names that cannot clash, imports that go one way, files that stay short.

Each rule is a function over source text, and each is shown a planted breach, so none of them can be silent for ever.
"""

import ast
import functools
import graphlib
import importlib
import importlib.metadata
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
PACKAGE = REPOSITORY / "rbft_trl"
SCRIPT_FOLDERS = (PACKAGE, REPOSITORY / "toy")  # a script run by path puts its own folder first on sys.path
LONGEST = 300
MODEL_NAMES = re.compile(r"Qwen\d\w*VL\w*|qwen\d\w*_?vl\w*")

CONFIGS = ("training_config", "rationale_config", "star_config")
# Room of each module → the rooms that it may import, beside its own. Arrows only go downwards.
ALLOWED = {
    "stopping": set(),
    "errors": {"stopping"},
    "yaml_file": {"errors"},
    "data": {"errors", "yaml_file"},
    "renamed": set(),
    "options": {"errors", "renamed"},
    "setups": {"errors", "yaml_file", "options", "configs", *CONFIGS},
    "recipe": {"errors", "yaml_file", "options", "setups"},
    "configs": {"errors", "data"},
    "engines": {"errors"},
    "training_config": {"errors", "configs", "engines", "renamed"},
    "rationale_config": {"errors", "configs"},
    "star_config": {"errors", "configs"},
    "launched": {"errors", "stopping", "yaml_file"},
    "model": {"errors", "stopping", "data", "configs", *CONFIGS},
    "evidence": {"errors", "data", "configs"},
    "start": {"errors", "data", "configs", "model"},
    "batches": {"errors", "stopping", "data", "model"},
    "writers": {"errors", "stopping", "data", "configs", "rationale_config", "model", "batches", "evidence"},
    "checklist": {"errors", "data", "model", "batches", "writers"},
    "arms": {"errors", "yaml_file"},
    "references": {"errors", "arms"},
    "costs": {"data", "start"},
    "compare_config": {"errors", "configs"},
    "texts": {"batches", "stopping", "errors", "data", "configs", "model", "evidence", "start", "classifier"},
    "cells": {
        "errors",
        "stopping",
        "data",
        "configs",
        "compare_config",
        "recipe",
        "model",
        "evidence",
        "arms",
        "start",
        "costs",
        "texts",
        "rationales",
        "sft",
        "eval",
        "launched",
        "star",
    },
    "compared": {"data", "configs", "options", "yaml_file", "model", "evidence", "arms", "compare_config"},
    "fairness": {"errors", "data", *CONFIGS, "recipe", "arms", "cells", "compare_config", "configs", "plan", "star"}
    | {"compare_cards", "launched", "options", "references", "setups", "texts"},
    "compare_cards": {"errors", "data", "model", "compare_config"},
    "compare_data": {"errors", "data", "configs", "rationale_config", "recipe", "model", "evidence", "arms", "costs"}
    | {"cells", "checklist", "eval", "launched", "start", "texts", "plan", "star_config", "training_config"},
    "reader": {"errors", "data", "configs", "model", "batches", "start"},
    "classifier": {"errors", "data", "configs", "model", "evidence", "batches"},
    "stage_rows": {"errors", "data", "configs", "model", "evidence", "start"},
    "browse": {"errors", "data", "configs", "model", "evidence", "classifier", "start"},
    "plan": {"errors", "data", "configs", "engines", "training_config", "model", "start", "stage_rows"},
    "hub": {"errors", "data", "configs", "training_config", "model", "evidence", "plan"},
    "advice": {"training_config", "model"},
    "memory": {"errors", "data", "configs", *CONFIGS, "model", "start", "advice"},
    "preview": {"errors", "data", "configs", *CONFIGS, "engines", "recipe", "model", "start", "plan", "memory"},
}
ENTRIES = {"sft", "merge", "push", "rationales", "eval", "compare", "predict", "check", "app", "convert", "harmonic"}
ENTRIES |= {"review"}
DRIVERS = {"compare", "star"}  # they run other entries
ENTRIES |= DRIVERS
ALLOWED |= {entry: {*ALLOWED, *(ENTRIES - {entry} if entry in DRIVERS else ())} for entry in ENTRIES}


def python_files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*.py") if ".venv" not in path.parts)


def imports(source: str) -> Iterator[str]:
    """Every imported module of a file, also those inside functions; a relative import keeps its dots."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            yield from (f"{module}.{a.name}" for a in node.names) if module == "rbft_trl" else (module,)


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def forbidden_imports(room: str, source: str) -> list[str]:
    bad = []
    for module in imports(source):
        first, _, rest = module.partition(".")
        target = rest.partition(".")[0]
        outside = first in ("", "toy", "tests")
        upwards = first == "rbft_trl" and target != room and target not in ALLOWED[room]
        if outside or upwards:
            bad.append(module)
    return bad


@functools.cache
def installed() -> frozenset[str]:
    """Names that installed packages can be imported by; listing them takes seconds."""
    return frozenset(importlib.metadata.packages_distributions())


def clashes(name: str) -> bool:
    return name in sys.stdlib_module_names or name in installed()


def test_there_is_something_to_look_at() -> None:
    rooms = {room_of(path) for path in python_files(PACKAGE)} - {"__init__"}
    assert rooms <= set(ALLOWED), "a new module: say in ALLOWED what it may import"
    assert {"errors", "data", "model", "evidence", "sft"} <= rooms


@pytest.mark.parametrize("folder", SCRIPT_FOLDERS, ids=lambda path: path.name)
def test_no_name_hides_a_library(folder: Path) -> None:
    names = {path.stem for path in folder.iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()}
    assert [name for name in sorted(names) if clashes(name)] == []


@pytest.mark.parametrize("name", ["types", "statistics", "evaluate", "datasets", "peft", "tokenizers", "pytest"])
def test_a_name_that_hides_a_library_is_seen(name: str) -> None:
    assert clashes(name)


@pytest.mark.parametrize("path", python_files(PACKAGE), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_model_families_are_known_to_two_files(path: Path) -> None:
    if path not in (PACKAGE / "model/loading.py", PACKAGE / "model/families.py"):
        assert MODEL_NAMES.findall(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "text", ["Qwen2VLForConditionalGeneration", "from transformers.models.qwen2_vl import x", "Qwen2_5_VLProcessor"]
)
def test_a_model_family_is_seen(text: str) -> None:
    assert MODEL_NAMES.search(text)
    assert not MODEL_NAMES.search("Qwen/Qwen2-VL-2B-Instruct, from qwen_vl_utils.vision_process import smart_resize")


@pytest.mark.parametrize("path", python_files(PACKAGE), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_downwards(path: Path) -> None:
    if path != PACKAGE / "__init__.py":
        assert forbidden_imports(room_of(path), path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("room", "source"),
    [
        ("evidence", "from rbft_trl.model.loading import load_base"),
        ("model", "def f():\n    import rbft_trl.evidence.metrics"),
        ("data", "from rbft_trl import configs"),
        ("errors", "from rbft_trl.data.task import TaskCard"),
        ("recipe", "from rbft_trl.configs import PARTS"),
        ("start", "from rbft_trl.evidence.metrics import brier"),
        ("sft", "from rbft_trl import eval as evaluation"),
        ("sft", "from toy.clips import main"),
        ("model", "from .loading import load_base"),
        ("model", "from . import loading"),
    ],
)
def test_an_upward_import_is_seen(room: str, source: str) -> None:
    assert len(forbidden_imports(room, source)) == 1


def test_no_module_imports_itself_through_others() -> None:
    graph = {}
    for path in python_files(PACKAGE):
        name = ".".join(path.relative_to(REPOSITORY).with_suffix("").parts).removesuffix(".__init__")
        graph[name] = set(imports(path.read_text(encoding="utf-8")))
    known = {name: {module for module in used if module in graph} for name, used in graph.items()}
    assert len(list(graphlib.TopologicalSorter(known).static_order())) == len(graph)


SCRIPTS = [f"toy.{file.stem}" for file in sorted((REPOSITORY / "toy").glob("[!_]*.py"))]
SCRIPTS += [file.stem for file in sorted((REPOSITORY / "benchmarks").glob("[!_]*.py"))]


@pytest.mark.parametrize("module", SCRIPTS)
def test_scripts_find_what_they_import(module: str) -> None:
    """Some are run by hand only, after days; a name that moved must not wait for that."""
    importlib.import_module(module)


def tells_in_one_sentence(source: str) -> bool:
    """Whether what is run by path, if anything, is run by `run_entry`."""
    return "run_entry(" in source.partition('if __name__ == "__main__":')[2] or "__main__" not in source


@pytest.mark.parametrize("folder", ["rbft_trl", "toy", "benchmarks"])
def test_every_script_tells_a_mistake_in_one_sentence(folder: str) -> None:
    sources = {path.name: path.read_text(encoding="utf-8") for path in python_files(REPOSITORY / folder)}
    assert [name for name, source in sources.items() if not tells_in_one_sentence(source)] == []
    assert not tells_in_one_sentence('from x import run_entry\n\nif __name__ == "__main__":\n    main()\n')


@pytest.mark.parametrize("folder", ["rbft_trl", "toy", "tests"])
def test_files_stay_short(folder: str) -> None:
    lengths = {
        str(path.relative_to(REPOSITORY)): path.read_text(encoding="utf-8").count("\n")
        for path in python_files(REPOSITORY / folder)
    }
    assert {path: lines for path, lines in lengths.items() if lines > LONGEST} == {}
