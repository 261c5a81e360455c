"""Pushes that fail, by hand and during a run, and what is refused before anything leaves the machine.

Xet is off here, as in tests/test_hub.py.
"""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from tests.helpers import REPOSITORY, toy_recipe
from tests.hub_process import PUSH, QUICK, HubProcess, expect_clean
from tests.hub_server import HANGS, HubServer
from tests.launching import launch
from tests.test_kill import kill_when


@pytest.fixture(scope="module")
def run(me: HubProcess, place: Path, toy_set: tuple, smoke_base: Path) -> Path:
    """A finished run that was not pushed."""
    out = place / "direct"
    me.ok("sft", toy_recipe("direct", place, toy_set[0], smoke_base, **QUICK, output_dir=out))
    return out


@pytest.mark.parametrize(
    ("path", "status", "words"),
    [
        ("/api/repos/create", 401, "refuses the token (401)"),
        ("/commit/main", 409, "came in between (409)"),
        ("/commit/main", 500, "has a fault or too much to do (500)"),
        ("/commit/main", 0, "broke or could not be made"),
        ("/api/validate-yaml", 400, "Invalid metadata"),
    ],
)
def test_a_failing_push_is_one_sentence_and_can_be_repeated(
    path: str, status: int, words: str, run: Path, me: HubProcess, hub: HubServer, place: Path
) -> None:
    name = f"me/fault{status}"
    command = [run, "--repo", name, "--base_id", "org/base"]
    hub.fail(path, status)
    done = me.run("push", *command)
    assert done.code == 2 and words in done.said and "Traceback" not in done.said, done.said
    assert ("models", name) not in hub.repos or list(hub.repos["models", name].files) == [".gitattributes"]
    me.ok("push", *command)
    expect_clean(hub.repos["models", name].files, str(place))
    assert (run / "rbft.json").is_file() and not list(place.glob(".push_*"))


def test_a_hub_that_does_not_answer_is_given_up(run: Path, me: HubProcess, hub: HubServer) -> None:
    hub.fail("/api/repos/create", HANGS)
    argv = [str(run), "--repo", "me/silent", "--base_id", "org/base"]
    code = f"from rbft_trl.hub import client\nclient.NO_ANSWER = 0.5\nfrom rbft_trl import push\npush.main({argv})"
    done = me.run("python", code)
    me.ok("python", "from rbft_trl.hub import client\nclient.NO_ANSWER = 120.0")
    assert "the Hub did not answer for 0 s; push again" in done.said.replace("0.5", "0")


def test_what_a_killed_push_left_is_removed_by_the_next(
    run: Path, me: HubProcess, hub: HubServer, place: Path
) -> None:
    argv = [str(run), "--repo", "me/killed", "--base_id", "org/base"]
    hub.fail("/api/repos/create", HANGS)
    command = [str(REPOSITORY / "rbft_trl/push.py"), *argv]
    env = hub.env(place / "my_home") | {"PYTHONPATH": str(REPOSITORY)}
    kill_when(command, lambda: list(place.glob(".push_*/*/README.md")), env)
    (left,) = place.glob(".push_*")
    (place / ".push_under_way").mkdir()
    with FileLock(place / ".push_under_way/lock"):
        me.ok("push", *argv)
        assert list(place.glob(".push_*")) == [place / ".push_under_way"] != [left]
    me.ok("push", *argv)
    assert not list(place.glob(".push_*"))


@pytest.mark.slow
def test_of_two_processes_one_pushes_and_none_waits(
    hub: HubServer, place: Path, toy_set: tuple, smoke_base: Path, tmp_path: Path
) -> None:
    changes = QUICK | PUSH | {"hub_model_id": "me/two", "hub_strategy": "every_save", "save_strategy": "steps"}
    changes |= {"save_steps": 1, "output_dir": tmp_path / "two", "per_device_train_batch_size": 2}
    recipe = toy_recipe("direct", tmp_path, toy_set[0], smoke_base, **changes)
    online = hub.env(place / "my_home") | {"HF_HUB_OFFLINE": "0", "TRANSFORMERS_OFFLINE": "0"}
    seen = launch(tmp_path, REPOSITORY / "accelerate_configs/cpu_2_processes.yaml", "sft", recipe, **online)
    assert [each["world"] for each in seen] == [2, 2]
    repo = hub.repos["models", "me/two"]
    weights = json.loads((tmp_path / "two/rbft.json").read_text())["weights"]
    assert weights in repo.messages[-1] and len(set(repo.messages)) == len(repo.messages) <= 4
    expect_clean(repo.files, str(tmp_path))


def test_an_upload_that_stumbles_goes_on(run: Path, me: HubProcess, hub: HubServer) -> None:
    hub.blobs = {}
    hub.fail("PUT /lfs/", 500)
    me.ok("push", run, "--repo", "me/stumbled", "--base_id", "org/base")
    assert "adapter_model.safetensors" in hub.repos["models", "me/stumbled"].files


def test_a_run_whose_pushes_fail_ends_well_with_its_model(
    me: HubProcess, hub: HubServer, place: Path, toy_set: tuple, smoke_base: Path
) -> None:
    changes = QUICK | PUSH | {"hub_model_id": "me/unlucky", "hub_strategy": "every_save", "output_dir": place / "bad"}
    recipe = toy_recipe(
        "direct", place, toy_set[0], smoke_base, **changes | {"save_strategy": "steps", "save_steps": 1}
    )
    hub.fail("/me/unlucky/commit/main", 500, times=99)
    done = me.run("sft", recipe)
    hub.faults.clear()
    assert done.code == 0 and "Traceback" not in done.said, done.said[-3000:]
    command = re.search(r"the model is safe in '.*?', push it with: python rbft_trl/push.py (.*)", done.said)[1]
    assert (place / "bad/rbft.json").is_file() and "(500)" in done.said
    me.ok("push", *command.split())
    assert len(hub.repos["models", "me/unlucky"].commits) == 2
    assert "nothing to push" in me.ok(
        "sft", recipe, "--resume_from_checkpoint", "true"
    )  # it is complete: pushes again


def test_what_cannot_be_used_elsewhere_or_is_secret_is_refused(
    run: Path, me: HubProcess, hub: HubServer, place: Path, smoke_base: Path
) -> None:
    def refused(*argv: Any, env: dict[str, str] | None = None) -> str:
        done = me.run("push", *argv, env=env)
        assert done.code == 2 and "Traceback" not in done.said, done.said
        return done.said

    command = [run, "--repo", "me/refused", "--to_folder", place / "dry"]
    assert "an adapter on the local folder" in refused(*command)
    (place / "other").mkdir()
    for file in smoke_base.iterdir():
        content = file.read_bytes()
        (place / "other" / file.name).write_bytes(content if file.suffix != ".safetensors" else content[:-4] + b"abcd")
    hub.put("org/other", place / "other")
    command[-1] = place / "dry2"
    assert "'model.safetensors' of 'org/other'" in refused(*command, "--base_id", "org/other")
    command[-1] = place / "dry3"
    assert "weights None" in refused(*command, "--base_id", "org/base", "--eval", fake_evaluation(place))
    command[-1] = place / "dry4"
    found = refused(*command, "--base_id", "org/base", env={"MY_SERVICE_TOKEN": "Which name fits"})
    assert "holds the value of $" in found and "Which name fits" not in found
    command[-1] = place / "dry5"
    without = shutil.copytree(run, place / "no_tokenizer")
    (without / "tokenizer.json").unlink()
    lacking = [without, "--repo", "me/refused", "--to_folder", place / "dry6", "--base_id", "org/base"]
    assert "lacks tokenizer.json, so nobody could use it" in refused(*lacking)
    assert "works alone, but 2 processes" in refused(*lacking, env={"WORLD_SIZE": "2"})
    assert "nothing was pushed" in me.ok("push", *command, "--base_id", "org/base")
    assert (place / "dry5/README.md").is_file() and ("models", "me/refused") not in hub.repos


def fake_evaluation(place: Path) -> Path:
    (place / "fake").mkdir(exist_ok=True)
    (place / "fake/metrics.json").write_text('{"settings": {"checkpoint": null}}')
    (place / "fake/confusion.png").write_bytes(b"")
    return place / "fake"
