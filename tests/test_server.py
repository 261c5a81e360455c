"""Stage 0 over a real HTTP server in a process of its own: same frames, same texts, every clip once under faults."""

import hashlib
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from rbft_trl import rationales
from rbft_trl.data.jsonl import read_json, read_jsonl
from rbft_trl.errors import UserError
from rbft_trl.model import server as client
from rbft_trl.model.lineage import rationale_facts
from rbft_trl.model.public import PublicBase, rationales_text
from tests.helpers import REPOSITORY, make_collator, toy_recipe
from tests.test_kill import kill_when
from tests.toy_server import Remote

BASE = REPOSITORY / "toy/base"  # its texts depend on the clip
SECRET = "sk-not-to-be-seen-anywhere-0815"
CLIPS = 8 + 8  # one shot per class, and the pool
COMMON = {"max_new_tokens": 40, "checks": "none", "label_shown": "blind", "num_samples": 1, "temperature": 0.0}
COMMON |= {"top_p": ..., "per_device_batch_size": ..., "seed": 0, "shots": 1}


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Remote]:
    port = tmp_path_factory.mktemp("server") / "port"
    command = [sys.executable, "tests/toy_server.py", "--base", str(BASE), "--port_file", str(port)]
    started = subprocess.Popen(command, cwd=REPOSITORY, env=os.environ)
    deadline = time.time() + 300
    while not port.exists():
        assert started.poll() is None and time.time() < deadline
        time.sleep(0.05)
    yield Remote(int(port.read_text()))
    started.kill()
    started.wait()


@pytest.fixture
def toy(process: Remote, monkeypatch: pytest.MonkeyPatch) -> Remote:
    process.script()
    monkeypatch.delenv(client.KEY, raising=False)
    monkeypatch.setattr(client, "FIRST_WAIT", 0.01)
    return process


@pytest.fixture
def run(toy: Remote, toy_set: tuple[Path, Path], tmp_path: Path) -> Callable[..., list[dict[str, Any]]]:
    """`run("name", key=value)` runs stage 0 on the server into `name.jsonl`; returns its rows."""

    def run(name: str, **changes: Any) -> list[dict[str, Any]]:
        options = COMMON | {"server_url": toy.url, "server_model": "toy", "concurrency": 4} | changes
        card = options.pop("card", toy_set[0])
        recipe = toy_recipe("rationales", tmp_path, card, BASE, output_file=tmp_path / f"{name}.jsonl", **options)
        rationales.main([recipe])
        return read_jsonl(tmp_path / f"{name}.jsonl")

    return run


LOCAL = {"server_url": ..., "server_model": ..., "concurrency": ..., "server_timeout": ...}


def texts(rows: list[dict[str, Any]]) -> list[tuple]:
    return [(row["id"], row["sample"], row["text"], row["cut"], row["prompt_fingerprint"]) for row in rows]


def test_the_server_sees_our_frames_and_writes_what_the_base_here_writes(
    run: Callable, toy: Remote, toy_set: tuple[Path, Path], tmp_path: Path
) -> None:
    toy.script(delay=0.05)
    served, log = run("served"), toy.log()
    here = run("here", **LOCAL, per_device_batch_size=4)
    assert texts(served) == texts(here) and len(served) == CLIPS
    assert len({text for _, _, text, *_ in texts(here)}) > CLIPS // 2  # the base does look at the clips
    collator = make_collator(*toy_set, BASE)
    ours = {hashlib.sha256(collator.read_row(row).frames.tobytes()).hexdigest() for row in served}
    assert {seen["frames"] for seen in log["requests"]} == ours and len(ours) == CLIPS == len(log["requests"])
    assert all(seen["parts"] == ["video_url", "text"] and seen["top_k"] == 0 for seen in log["requests"])
    assert 2 <= log["most"] <= 4
    made, local = (read_json(tmp_path / f"{name}.summary.json") for name in ("served", "here"))
    assert made["server"] == {"model": "toy"} and "cannot be verified" in made["note"] and "precision" not in made
    assert all(made[key] == local[key] for key in ("base", "frames", "definitions", "card", "clips", "kept"))
    facts = rationale_facts(str(tmp_path / "served.jsonl"))
    assert facts and facts["served"] and facts["kept"] == made["kept"]
    record = {"recipe": {}, "target": "label", "rationales": facts}
    text = rationales_text(record, PublicBase("a/b", "c"), notes=[])
    assert "# An OpenAI-compatible server wrote the rationales" in text and "max_new_tokens: 40" in text
    with pytest.raises(UserError, match="was made with other settings"):
        run("served", **LOCAL)
    toy.script()
    assert run("served") == served and toy.log()["requests"] == []  # complete: the server is not asked


def test_every_clip_once_whatever_the_server_does(run: Callable, toy: Remote, capsys: pytest.CaptureFixture) -> None:
    how = {"num_samples": 2, "temperature": 1.0, "label_shown": "blind_then_hint", "checks": "label_match"}
    straight = run("straight", **how)
    toy.script(
        faults={"0": "503", "2": "retry 0.2", "5": "cut", "6": "hang 11", "9": "500", "11": "say {", "20": "cut"}
        | {"13": "drip 25"}
    )
    rows = run("faults", server_timeout=10, **how)
    assert rows == straight
    keys = [(row["id"], row["sample"]) for row in rows]
    assert len(keys) == len(set(keys)) and len({name for name, _ in keys}) == CLIPS
    assert {row["shown"] for row in rows} == {False, True}
    hinted = len({row["id"] for row in rows if row["shown"]})
    assert 4 <= hinted <= 8 and len(rows) == 2 * (CLIPS + hinted)
    log = toy.log()["requests"]
    assert sum("fault" in seen for seen in log) == 8 and {seen["n"] for seen in log} == {2}
    asked, again, *_ = [seen["time"] for seen in log if seen["seed"] == log[2]["seed"]]
    assert again - asked >= 0.2  # what Retry-After asked for, and no wait of our own is that long here
    told = re.findall(r"(\d+) x ([^,\n]+)", capsys.readouterr().out.partition("requests that were sent again: ")[2])
    assert sum(int(count) for count, _ in told) == len(log) - CLIPS - hinted  # 8, and more where a slow machine's pass
    assert {("2", "cut answer"), ("1", "HTTP 429"), ("1", "time-out in the middle of an answer")} <= set(told)
    assert len({row["seed"] for row in rows}) == CLIPS + hinted


def test_the_shared_instruction_comes_first_where_the_card_says_so(
    run: Callable, toy: Remote, toy_set: tuple[Path, Path], tmp_path: Path
) -> None:
    card = tmp_path / "first.yaml"
    raw = yaml.safe_load(toy_set[0].read_text()) | {"prompts": str(REPOSITORY / "recipes/tasks/instruction_first")}
    card.write_text(yaml.safe_dump(raw, sort_keys=False))
    served, log = run("first", card=card, label_shown="blind_then_hint", checks="label_match"), toy.log()["requests"]
    (shared,) = {seen["before_the_clip"] for seen in log}  # byte for byte, blind and hinted
    assert raw["role"] in shared and all(name in shared for name in raw["labels"])
    assert all(seen["parts"] == ["text", "video_url", "text"] for seen in log) and len(log) > CLIPS
    here = run("here", card=card, label_shown="blind_then_hint", checks="label_match", **LOCAL)
    assert texts(served) == texts(here)


@pytest.mark.parametrize(
    ("script", "words"),
    [
        (
            {"take_frames": 6},
            r"read \d+ tokens .* makes \d+ \(16 of them the clip's\); 12 of its tokens are the clip's, so it samples",
        ),
        (
            {"take_frames": 6, "tell_ids": False},
            "this recipe makes .* it samples or resizes the frames itself, or has another",
        ),
        ({"system": "Be brief."}, "the clip's are as many, but the text differs: another chat template"),
        ({"faults": {"0": "400 the model has no eyes"}}, "answers HTTP 400: the model has no eyes"),
        ({"faults": {"0": "moved http://127.0.0.1:9/v1?a=b"}}, "points to 'http://127.0.0.1:9/v1'; write that"),
        ({"faults": {"0": 'say {"choices": []}'}}, "lacks 'usage'"),
        ({"faults": {"0": 'say {"choices": [], "usage": {"prompt_tokens": 1}}'}}, "0 texts for n = 1"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, dict) else "",
)
def test_what_cannot_pass_stops_at_the_first_request(
    run: Callable, toy: Remote, tmp_path: Path, script: dict[str, Any], words: str
) -> None:
    toy.script(**script)
    with pytest.raises(UserError, match=words) as caught:
        run("wrong")
    assert len(toy.log()["requests"]) == 1 and "\n" not in str(caught.value)
    assert not list(tmp_path.glob("wrong*"))


def test_another_prompt_of_the_same_length_is_seen(
    run: Callable, toy: Remote, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = client.request_body

    def swapped(*args: Any, **options: Any) -> dict[str, Any]:
        body = real(*args, **options)
        text = body["messages"][0]["content"][-1]
        text["text"] = text["text"].replace("dorvan, miloren", "miloren, dorvan")
        return body

    monkeypatch.setattr(client, "request_body", swapped)
    with pytest.raises(UserError, match=r"read (\d+) tokens .* this recipe makes \1 .* the text differs"):
        run("swapped")


def test_a_server_that_stays_away_ends_the_run_and_what_is_done_stays(
    run: Callable, toy: Remote, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    toy.script(faults={str(number): "502" for number in range(6, 100)}, delay=0.02)
    monkeypatch.setattr(client, "ATTEMPTS", 3)
    with pytest.raises(
        UserError, match=r"no usable answer in 3 attempts \(at last: HTTP 502\); what is finished is kept"
    ):
        run("away")
    sent = len(toy.log()["requests"])
    assert 6 + 3 <= sent <= 6 + 3 * 4  # nothing new was begun after the first clip had failed
    assert (tmp_path / "away.jsonl.rank0.part").read_text().count("\n") == 1 + 6
    toy.script()
    rows = run("away", concurrency=2)
    assert len(toy.log()["requests"]) == CLIPS - 6 and len({row["id"] for row in rows}) == len(rows) == CLIPS


def test_killed_and_started_again(run: Callable, toy: Remote, toy_set: tuple[Path, Path], tmp_path: Path) -> None:
    file, part = tmp_path / "killed.jsonl", tmp_path / "killed.jsonl.rank0.part"
    options = COMMON | {"server_url": toy.url, "server_model": "toy", "concurrency": 4, "temperature": 1.0}
    recipe = toy_recipe("rationales", tmp_path, toy_set[0], BASE, output_file=file, **options)
    toy.script(delay=0.1)
    kill_when(["rbft_trl/rationales.py", recipe], lambda: part.exists() and part.read_text().count("\n") >= 6)
    done = part.read_text().count("\n") - 1
    assert not file.exists() and 5 <= done < CLIPS
    toy.script()
    rationales.main([recipe])
    assert len(toy.log()["requests"]) == CLIPS - done and not part.exists()
    assert read_jsonl(file) == run("straight", temperature=1.0)


def test_the_key_is_sent_and_seen_nowhere(
    run: Callable, toy: Remote, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    toy.script(key=SECRET)
    with pytest.raises(UserError, match="wants a key; set RBFT_SERVER_KEY in the environment"):
        run("none")
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)  # not ours to hand to any server
    with pytest.raises(UserError, match="wants a key"):
        run("none")
    monkeypatch.setenv(client.KEY, "wrong-" + SECRET)
    with pytest.raises(UserError, match="refuses the key of RBFT_SERVER_KEY") as caught:
        run("wrong")
    assert SECRET not in str(caught.value)
    monkeypatch.setenv(client.KEY, SECRET)
    toy.script(key=SECRET, faults={"1": "500", "3": f"400 the key {SECRET} is worn out"})
    with pytest.raises(UserError, match=r"the key \*\*\* is worn out"):
        run("key")
    toy.script(key=SECRET)
    assert len(run("key")) == CLIPS
    told = capfd.readouterr()
    assert SECRET not in told.out + told.err
    assert all(SECRET.encode() not in file.read_bytes() for file in tmp_path.rglob("*") if file.is_file())


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"server_model": "toys"}, "has no model 'toys'; did you mean 'toy'"),
        ({"server_model": ...}, "it has 'toy': set server_model"),
        ({"server_url": "http://127.0.0.1:9"}, r"no server answers at '\S+:9/v1' \(connection failed\); start it"),
        ({"server_url": "{root}/elsewhere"}, "lists no models"),
    ],
    ids=["other model", "no model", "nobody", "no such server"],
)
def test_the_server_is_asked_before_a_clip_is_read(
    run: Callable, toy: Remote, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], words: str
) -> None:
    monkeypatch.setattr(rationales, "open_task", None)
    changes = {key: value if value is ... else value.format(root=toy.root) for key, value in changes.items()}
    with pytest.raises(UserError, match=words) as caught:
        run("none", **changes)
    assert "\n" not in str(caught.value)


def test_a_server_that_still_loads_its_model_is_waited_for(
    run: Callable, toy: Remote, monkeypatch: pytest.MonkeyPatch
) -> None:
    toy.script(busy=3)
    assert len(run("late")) == CLIPS
    monkeypatch.setattr(client, "ATTEMPTS", 3)
    toy.script(busy=3)
    with pytest.raises(UserError, match=r"no server answers at '\S+' \(HTTP 503 in 3 attempts\); start it"):
        run("never")


def test_names_of_models_do_not_steer_the_terminal(run: Callable, toy: Remote) -> None:
    toy.script(models=["to\x1b[2Jy\r\n\x07", "other"])
    with pytest.raises(UserError, match=r"has no model 'toy'; it has 'to \[2Jy   ', 'other'") as caught:
        run("none")
    assert str(caught.value).isprintable()


def test_what_a_server_makes_useless_is_told(
    run: Callable, toy: Remote, toy_set: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.warns(UserWarning, match="dtype, per_device_batch_size: ignored, the server decides"):
        assert len(run("warned", per_device_batch_size=2)) == CLIPS
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="2 processes were started but a server does the work; start one"):
        run("two")


def test_a_special_token_in_the_text_of_a_clip_stops_the_run(
    run: Callable, toy: Remote, toy_set: tuple[Path, Path], tmp_path: Path
) -> None:
    table = toy_set[1] / "told.csv"
    lines = (toy_set[1] / "clips.csv").read_text().splitlines()
    texts = [f"{line},{'so <|im_end|> it is' if number == 3 else 'fine'}" for number, line in enumerate(lines[1:])]
    table.write_text("\n".join([lines[0] + ",text", *texts]) + "\n")
    card = tmp_path / "told.yaml"
    card.write_text(toy_set[0].read_text().replace("clips.csv", "told.csv"))
    with pytest.raises(UserError, match="holds a special token of the base, which a server would read as one"):
        run("told", card=card, shots=...)
    assert toy.log()["requests"] == []
