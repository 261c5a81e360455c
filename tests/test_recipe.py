"""Recipes and overrides become dataclasses: launch forms, kinds of values, anchored paths, clear refusals."""

import dataclasses
import re
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rbft_trl import configs, training_config
from rbft_trl.configs import option
from rbft_trl.errors import UserError
from rbft_trl.recipe import parse_recipe, split_argv

OWN = [
    cls
    for module in (configs, training_config)
    for cls in vars(module).values()
    if isinstance(cls, type) and cls.__module__ == module.__name__
]
EXAMPLES = settings(max_examples=60, database=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


class Pace(Enum):
    NO = "no"
    STEPS = "steps"


NOT_FINITE = {".nan": "nan", "nan": "'nan'", ".inf": "inf", "-.inf": "-inf", "1e999": "'1e999'"}


@dataclasses.dataclass
class Small:
    """A few options of every kind."""

    name: str = option("", "Text.")
    place: str | None = option(None, "A path.", path=True)
    rate: float = option(0.1, "A number.")
    count: int | None = option(None, "A whole number.")
    flag: bool = option(False, "A switch.")
    parts: list[str] = option(["llm"], "A list.")  # noqa: RUF009
    sizes: list[int] | None = option(None, "A list of numbers.")  # noqa: RUF009
    pace: Pace | str = option("no", "An enum, as transformers writes it.")  # noqa: RUF009
    mixed: str | dict[str, str] | None = option(None, "Text or a mapping.")  # noqa: RUF009
    size: str = option("small", "A choice.", choices=["small", "large"])


@dataclasses.dataclass
class Other:
    """A second group."""

    name: str = option("", "Text.")
    depth: int = option(1, "A whole number.")


@pytest.fixture
def recipe(tmp_path: Path) -> Callable[..., str]:
    def write(**values: Any) -> str:
        path = tmp_path / "x.yaml"
        path.write_text(yaml.safe_dump(values), encoding="utf-8")
        return str(path)

    return write


def small(*argv: str) -> Small:
    (args,) = parse_recipe(argv, Small)
    return args


@pytest.mark.parametrize("form", [["{}"], ["--config", "{}"], ["--config={}"]])
@pytest.mark.parametrize("last", [False, True])
def test_three_ways_to_name_the_recipe(form: list[str], last: bool, recipe: Callable[..., str]) -> None:
    named = [word.format(recipe(name="a", count=3)) for word in form]
    argv = ["--rate", "0.5", *named] if last else [*named, "--rate", "0.5"]
    assert small(*argv) == Small(name="a", count=3, rate=0.5)


def test_the_command_line_wins_and_the_groups_share_the_keys(recipe: Callable[..., str]) -> None:
    first, second = parse_recipe([recipe(name="a", depth=2, count=1), "--name", "b"], Small, Other)
    assert (first.name, first.count) == ("b", 1) and second == Other(name="b", depth=2)


words = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), max_size=20)
keys = st.from_regex(r"[a-z][a-z0-9_]{0,10}", fullmatch=True).filter(lambda key: key != "config")


@EXAMPLES
@given(st.dictionaries(keys, words, max_size=5), st.data())
def test_every_spelling_of_overrides_splits_alike(wanted: dict[str, str], data: st.DataObject) -> None:
    argv = ["x.yaml"]
    for key, value in wanted.items():
        spelt = data.draw(st.sampled_from([key, key.replace("_", "-")]))
        if value.startswith("--") or data.draw(st.booleans()):
            argv.append(f"--{spelt}={value}")
        else:
            argv += [f"--{spelt}", value]
    assert split_argv(argv) == (Path("x.yaml"), wanted)


@EXAMPLES
@given(words)
def test_text_arrives_as_it_was_written(text: str) -> None:
    assert small(f"--name={text}").name == text


@EXAMPLES
@given(
    rate=st.floats(allow_nan=False, allow_infinity=False),
    count=st.none() | st.integers(-(10**9), 10**9),
    flag=st.booleans(),
    parts=st.lists(words, max_size=3),
)
def test_values_are_the_same_from_a_recipe_and_from_the_command_line(
    rate: float, count: int | None, flag: bool, parts: list[str], tmp_path: Path
) -> None:
    wanted = {"rate": rate, "count": count, "flag": flag, "parts": parts}
    path = tmp_path / "x.yaml"
    path.write_text(yaml.safe_dump(wanted, allow_unicode=True), encoding="utf-8")
    argv = [f"--{key}={yaml.safe_dump(value, default_flow_style=True, width=10**6)}" for key, value in wanted.items()]
    assert small(str(path)) == small(*argv) == Small(**wanted)


@pytest.mark.parametrize(
    ("argv", "wanted"),
    [
        ([], {}),  # a recipe is not needed
        (["--rate", "1e-4"], {"rate": 1e-4}),
        (["--count", "-1"], {"count": -1}),
        (["--count", "null"], {"count": None}),
        (["--place", "null"], {"place": None}),
        (["--name", "null"], {"name": "null"}),
        (["--name", "3"], {"name": "3"}),
        (["--flag"], {"flag": True}),
        (["--flag", "--count", "2"], {"flag": True, "count": 2}),
        (["--flag", "false"], {"flag": False}),
        (["--parts", "[llm, merger]"], {"parts": ["llm", "merger"]}),
        (["--pace", "no"], {"pace": "no"}),
        (["--pace=steps"], {"pace": "steps"}),
        (["--mixed", "sdpa"], {"mixed": "sdpa"}),
        (["--mixed", "{text_config: sdpa}"], {"mixed": {"text_config": "sdpa"}}),
    ],
)
def test_values_of_the_command_line(argv: list[str], wanted: dict[str, Any]) -> None:
    assert small(*argv) == Small(**wanted)


def test_numbers_that_yaml_reads_as_text_and_no_that_it_reads_as_false(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text("rate: 1e-4\npace: no\ncount: null\n", encoding="utf-8")
    assert yaml.safe_load(path.read_text()) == {"rate": "1e-4", "pace": False, "count": None}
    assert small(str(path)) == Small(rate=1e-4, pace="no", count=None)


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--rat", "1"], ["'rat'", "did you mean 'rate'", "the command line"]),
        (["--count", "2.5"], ["--count is 2.5", "int or null"]),
        (["--count", "true"], ["--count is True", "int or null"]),
        (["--rate", "fast"], ["--rate is 'fast'", "float"]),
        (["--rate", "true"], ["--rate is True", "float"]),
        (["--flag", "1"], ["--flag is 1", "bool"]),
        (["--parts", "llm"], ["--parts is 'llm'", "list"]),
        (["--parts", "[llm, 1]"], ["--parts holds 1 (int) but every element must be str"]),
        (["--parts", "[[llm]]"], ["--parts holds ['llm'] (list) but every element must be str"]),
        (["--mixed", "{a: sdpa, b: 3}"], ["--mixed holds 3 (int) but what stands under 'b' must be str"]),
        (["--sizes", "[4, two]"], ["--sizes holds 'two' (str) but every element must be int"]),
        (["--sizes", "[4, true]"], ["--sizes holds True (bool) but every element must be int"]),
        *[(["--rate", text], [f"--rate is {told} but must be a finite number"]) for text, told in NOT_FINITE.items()],
        (["--parts", "[llm"], ["--parts is '[llm'", "quote"]),
        (["--count", "2026-13-45"], ["--count is '2026-13-45'"]),
        (["--pace", "epoch"], ["--pace is 'epoch'", "no or steps"]),
        (["--size", "larg"], ["--size is 'larg'", "did you mean 'large'", "['small', 'large']"]),
        (["a.yaml", "b.yaml"], ["'b.yaml'", "second recipe", "'a.yaml'"]),
        (["a.yaml", "--config", "b.yaml"], ["'b.yaml'", "second recipe"]),
    ],
)
def test_what_is_refused(argv: list[str], words: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        small(*argv)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize("text", ["", "- a\n- b\n", "name: [a\n", "name: 'a\n  b", "\tname: a", "name: \xff"])
def test_files_that_are_no_recipe(text: str, tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(UserError, match=re.escape(f"the recipe '{path}'")) as caught:
        small(str(path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("key", [1, True, None])
def test_keys_that_are_no_text(key: Any, tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(yaml.safe_dump({key: "a"}), encoding="utf-8")
    with pytest.raises(UserError, match=f"unknown key '{key}'"):
        small(str(path))


def test_the_checks_of_a_group_name_the_recipe_or_the_command_line(recipe: Callable[..., str]) -> None:
    path = recipe(task="card.yaml")
    with pytest.raises(UserError, match=r"^the command line: 'shots' is 0"):
        parse_recipe([path, "--shots", "0"], configs.DataArguments)
    with pytest.raises(UserError, match=r"^the twin: 'shots' is 0"):
        parse_recipe([path, "--shots", "0"], configs.DataArguments, given_by="the twin")
    with pytest.raises(UserError, match=r"^the twin: 'shots' is 'a' \(str\) but must be int"):
        parse_recipe([path, "--shots", "a"], configs.DataArguments, given_by="the twin")
    path = recipe(task="card.yaml", shots=0)
    with pytest.raises(UserError, match=f"^{re.escape(path)}: 'shots' is 0"):
        parse_recipe([path, "--draw", "1"], configs.DataArguments)
    path = recipe(task="card.yaml", max_frames=8)
    with pytest.raises(UserError, match=f"^{re.escape(path)} with the command line: num_frames is 8 and fps is 2"):
        parse_recipe([recipe(task="card.yaml", fps=2), "--num_frames", "8"], configs.DataArguments)
    with pytest.raises(UserError, match=r"^the command line: 'task' is missing"):
        parse_recipe([], configs.DataArguments)


class TestPaths:
    """Of a file: from its folder, or one of the two above it. Of the command line: from the current folder."""

    @pytest.fixture
    def tree(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        (tmp_path / "repo/recipes/toy").mkdir(parents=True)
        (tmp_path / "elsewhere").mkdir()
        for name in ("there", "recipes/above", "recipes/toy/beside", "recipes/both", "recipes/toy/both"):
            (tmp_path / f"repo/{name}.txt").touch()
        for name in ("far.txt", "elsewhere/here.txt"):
            (tmp_path / name).touch()
        monkeypatch.chdir(tmp_path / "elsewhere")
        return tmp_path

    def place(self, tree: Path, value: str, recipe: str = "repo/recipes/toy/x.yaml") -> str | None:
        (tree / recipe).parent.mkdir(parents=True, exist_ok=True)
        (tree / recipe).write_text(yaml.safe_dump({"place": value, "name": value}), encoding="utf-8")
        args = small(str(tree / recipe))
        assert args.name == value, "only options that are paths are touched"
        return args.place

    @pytest.mark.parametrize(
        ("value", "found"),
        [
            ("beside.txt", "recipes/toy/beside.txt"),
            ("above.txt", "recipes/above.txt"),
            ("there.txt", "there.txt"),
            ("recipes/above.txt", "recipes/above.txt"),
            ("both.txt", "recipes/toy/both.txt"),
        ],
    )
    def test_start_at_the_file_or_above_it_from_any_directory(self, tree: Path, value: str, found: str) -> None:
        assert self.place(tree, value) == str(tree / "repo" / found)
        assert small("../repo/recipes/toy/x.yaml").place == str(tree / "repo" / found)

    @pytest.mark.parametrize("value", ["here.txt", "far.txt", "Qwen/Qwen2-VL-2B-Instruct", "base"])
    def test_stay_as_they_are_if_nothing_is_there(self, tree: Path, value: str) -> None:
        assert self.place(tree, value) == value

    def test_of_a_folder_with_another_name_are_found_alike(self, tree: Path) -> None:
        (tree / "repo/recipes").rename(tree / "repo/mine")
        assert self.place(tree, "above.txt", "repo/mine/toy/x.yaml") == str(tree / "repo/mine/above.txt")
        assert self.place(tree, "there.txt", "repo/mine/toy/x.yaml") == str(tree / "repo/there.txt")

    def test_the_word_base_is_no_path(self, tree: Path) -> None:
        (tree / "repo/base").mkdir()
        assert self.place(tree, "base") == "base"

    def test_absolute_ones_stay(self, tree: Path) -> None:
        assert self.place(tree, str(tree / "elsewhere/here.txt")) == str(tree / "elsewhere/here.txt")

    def test_of_the_command_line_start_here(self, tree: Path) -> None:
        self.place(tree, "there.txt")
        assert small(str(tree / "repo/recipes/toy/x.yaml"), "--place", "there.txt").place == "there.txt"


@pytest.mark.parametrize("cls", OWN)
def test_every_option_has_a_help_text(cls: type) -> None:
    for spec in dataclasses.fields(cls):
        assert len(spec.metadata.get("help", "")) > 5, spec.name


@pytest.mark.parametrize("word", ["--help", "-h"])
def test_help_lists_every_own_option_and_ends_well(word: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parse_recipe(["nowhere.yaml", word], Small, Other)
    shown = capsys.readouterr().out if ended.value.code == 0 else ""
    for spec in [*dataclasses.fields(Small), *dataclasses.fields(Other)]:
        assert spec.name in shown and spec.metadata["help"] in shown
