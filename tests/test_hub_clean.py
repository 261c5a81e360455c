"""What may leave the machine: planted tokens, paths and files are found; ordinary texts pass."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from rbft_trl.errors import UserError
from rbft_trl.hub.clean import check_clean, is_public
from rbft_trl.model.provenance import hashed
from rbft_trl.model.public import PublicBase, public_record

SECRETS = [
    "hf_abcdefghijklmnopqrstuv", "sk-abcdefghijklmnopqrstuvwx", "ghp_abcdefghijklmnopqrstuvwx", "AKIAABCDEFGHIJKLMNOP",
    "-----BEGIN RSA PRIVATE KEY-----", "xoxb-1234567890-abc", "github_pat_abcdefghijklmnopqrstuv",
    "xhf_abcdefghijklmnopqrstuv", "eyJhbGciOiJIUzI1.eyJzdWIiOiIxMjM0.SflKxwRJSMeKKF2Q", "https://anna:passw0rd@host/x",
]  # fmt: skip
PATHS = ["/home/anna/clips", "at /data/raw.csv", '{"root": "/mnt/x"}', "~/clips", "C:\\Users\\anna", "file:///etc/x"]
FINE = ["24/7 and/or", "https://huggingface.co/a/b/c", "</details>", "Qwen/Qwen2-VL-2B", "../x", "a / b / c", "1/2/3"]


@pytest.mark.parametrize("secret", SECRETS)
def test_a_secret_is_found_and_not_shown(secret: str, tmp_path: Path) -> None:
    (tmp_path / "rbft.json").write_text(json.dumps({"note": f"x {secret} y"}))
    with pytest.raises(UserError, match=r"rbft\.json holds an? ") as caught:
        check_clean(tmp_path)
    assert secret not in str(caught.value)


def test_a_secret_of_this_machine_is_found_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVICE_API_KEY", "violet-otter-42")
    (tmp_path / "prompts").mkdir()
    save_file({"w": np.zeros(2)}, tmp_path / "model.safetensors", {"made": "by violet-otter-42"})
    with pytest.raises(UserError, match=r"model\.safetensors holds (?:the value of \$|this machine)"):
        check_clean(tmp_path)
    save_file({"w": np.zeros(2)}, tmp_path / "model.safetensors", {"format": "pt"})
    check_clean(tmp_path)
    (tmp_path / "prompts/label.txt").write_text("violet-otter-42")
    with pytest.raises(UserError, match=r"prompts/label\.txt holds the value of \$SERVICE_API_KEY"):
        check_clean(tmp_path)


@pytest.mark.parametrize("name", ["DB_PASS", "MY_TOKEN_2", "GITHUB_PAT", "HF_TOKEN", "openai_api_key", "SECRET_2"])
def test_a_variable_whose_name_tells_a_secret(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "rbft.json").write_text(json.dumps({"note": "violet-otter-42"}))
    monkeypatch.setenv("COMPASS_PATH", "violet-otter-42")  # no secret
    check_clean(tmp_path)
    monkeypatch.setenv(name, "violet-otter-42")
    with pytest.raises(UserError, match=rf"the value of \${name}"):
        check_clean(tmp_path)


def test_a_text_that_is_not_utf8_is_told(tmp_path: Path) -> None:
    (tmp_path / "chat_template.jinja").write_bytes(b"caf\xe9")
    with pytest.raises(UserError, match=r"chat_template\.jinja is not UTF-8 \(byte 3\)"):
        check_clean(tmp_path)


@pytest.mark.parametrize("path", PATHS)
def test_a_path_of_this_machine_is_found(path: str, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(f"task: {path}\n")
    with pytest.raises(UserError, match=r"recipe\.yaml holds '.*', which looks like a path"):
        check_clean(tmp_path)


@pytest.mark.parametrize("text", FINE)
def test_ordinary_texts_pass(text: str, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(f"{text} and ({text})\n")
    (tmp_path / "tokenizer.json").write_text('{"/usr/local/lib": 1}')  # a vocabulary is no path
    check_clean(tmp_path)


@pytest.mark.parametrize(
    "name", ["training_args.bin", "optimizer.pt", "x.safetensors.pkl", "sub/rbft.json", "rng.pth"]
)
def test_only_known_files_leave(name: str, tmp_path: Path) -> None:
    assert not is_public(name)
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(UserError, match="is no file of a pushed model"):
        check_clean(tmp_path)


def test_the_public_record_has_no_names_paths_or_unknown_keys() -> None:
    recipe = {"task": "/home/a/c.yaml", "output_dir": "/x/y", "run_name": "anna", "hub_model_id": "a/b", "seed": 3}
    recipe |= {
        "trackio_space_id": "anna/x",
        "deepspeed": "/x/ds.json",
        "rationales": "/x/r.jsonl",
        "hub_token": "hf_x",
    }
    record = {"trained_on": ["front door", hashed("yard")], "selected_by": ["anna"], "target": "label", "note": "hf_x"}
    record |= {"recipe": recipe, "weights": "abc", "adapters": {"use_peft": True}}
    record["parents"] = [{"weights": "def", "hub_model_id": "a/secret"}]
    public = public_record(record, PublicBase("q/b", "c0ffee"), None)
    assert public["trained_on"] == sorted([hashed("front door"), hashed("yard")]) and public["recipe"]["seed"] == 3
    text = json.dumps(public)
    assert not [
        word
        for word in ("front door", "anna", "/", "hf_x", "secret")
        if word in text.replace("q/b", "").replace("outputs/label", "")
    ]
