"""Every family on a tiny random base of its own layout: scores, samples, prompts, LoRA by part, 4 bit, training.

Published sizes, as instances without weights, are in tests/test_published.py.
"""

import dataclasses
import warnings
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from transformers.utils import ModelOutput

from rbft_trl import sft
from rbft_trl.configs import PARTS, AdapterArguments
from rbft_trl.data.rows import load_rows
from rbft_trl.data.task import TaskCard
from rbft_trl.errors import UserError
from rbft_trl.model.collator import ClipCollator
from rbft_trl.model.families import has_linear_attention, part_of, vision_tower, writes_time_stamps
from rbft_trl.model.inference import LabelScorer, LabelTrie, _steps_by_trie, prefill, sample, score_labels
from rbft_trl.model.loading import load_base, load_processor, prepare_for_training, trainable_parameters
from tests.helpers import base_arguments, toy_recipe
from tests.test_scoring import naive_scores
from tests.tiny_families import FAMILIES, LINEAR, frame_settings, layers_to_wrap, tiny_base


@dataclasses.dataclass
class Case:
    family: str
    folder: Path
    model: nn.Module
    collator: ClipCollator
    rows: list[dict]

    def prompts(self, times: int = 1) -> dict[str, torch.Tensor]:
        rows = [row for row in self.rows for _ in range(times)]
        return self.collator.prompts(rows, [self.collator.label_prompt(row) for row in rows])

    def decoding(self) -> dict[str, int]:
        return {"end_id": self.collator.end_id, "pad_id": self.collator.tokenizer.pad_token_id}


@pytest.fixture(scope="module", params=FAMILIES)
def case(
    request: pytest.FixtureRequest,
    toy_set: tuple[Path, Path],
    smoke_base: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Case:
    card, root = toy_set
    folder = tiny_base(request.param, tmp_path_factory.mktemp("tiny"), smoke_base)
    frames = frame_settings(request.param)
    collator = ClipCollator(load_processor(str(folder)), TaskCard.from_yaml(card), root, frames, definitions=False)
    model = load_base(base_arguments(folder), device="cpu").eval()
    return Case(
        request.param, folder, model, collator, [row for row in load_rows(collator.card) if row["split"] == "test"][:3]
    )


def with_answers(batch: dict[str, torch.Tensor], answers: torch.Tensor) -> dict[str, torch.Tensor]:
    """Prompts and answers in one batch, for a full forward without a cache."""
    more = {"input_ids": answers, "attention_mask": torch.ones_like(answers)}
    more |= {"mm_token_type_ids": torch.zeros_like(answers)}
    return batch | {key: torch.cat([batch[key], value], dim=1) for key, value in more.items()}


def test_scores_from_the_cache_equal_full_forwards(case: Case) -> None:
    scorer = LabelScorer(case.collator)
    _, found = scorer.read(case.model, case.rows)
    expected = torch.tensor([[total for total, _ in naive_scores(case.model, scorer, row)] for row in case.rows])
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    assert expected.std(dim=1).min() > 0.01  # labels differ, so equality says something


def test_n_samples_from_the_cache_equal_full_forwards(case: Case) -> None:
    steps = []
    special = case.collator.tokenizer.all_special_ids

    def watch(_: nn.Module, __: tuple, out: ModelOutput) -> None:
        """A base that has learnt nothing would write placeholders of clips, which a full forward cannot be given."""
        out.logits[..., special] = -1e4
        steps.append(out.logits[:, -1])

    hook = case.model.register_forward_hook(watch)
    read = prefill(case.model, case.prompts())
    tokens = sample(case.model, read, **case.decoding(), num_samples=3, temperature=1.0, max_new_tokens=5, seed=3)
    with torch.no_grad():
        full = case.model(**with_answers(case.prompts(times=3), tokens)).logits.log_softmax(-1)
    hook.remove()
    found = torch.stack(steps[1:-1], dim=1).log_softmax(-1)
    assert tokens.shape == (9, 5) and len({tuple(row) for row in tokens.tolist()}) > 3
    torch.testing.assert_close(found, full[:, -5:-1], atol=1e-5, rtol=0)


def test_scoring_leaves_the_cache_for_a_greedy_answer_equal_to_generate(case: Case) -> None:
    read, first = LabelScorer(case.collator).read(case.model, case.rows)
    again = score_labels(case.model, read, LabelScorer(case.collator).trie)
    found = sample(case.model, read, **case.decoding(), max_new_tokens=6)
    batch = case.prompts()
    expected = case.model.generate(**batch, max_new_tokens=6, do_sample=False)[:, batch["input_ids"].shape[1] :]
    assert torch.equal(first, again) and found.tolist() == expected.tolist()


def test_padding_changes_no_score(case: Case) -> None:
    prompts = ["Which?", "Which one of these is it, in one word, please?", "Which of them?"]
    trie = LabelScorer(case.collator).trie
    together = prefill(case.model, case.collator.prompts(case.rows, prompts))
    assert together.mask.min() == 0
    scores = score_labels(case.model, together, trie)
    for number, (row, prompt) in enumerate(zip(case.rows, prompts, strict=True)):
        alone = prefill(case.model, case.collator.prompts([row], [prompt]))
        torch.testing.assert_close(scores[[number]], score_labels(case.model, alone, trie), atol=1e-5, rtol=0)


def test_features_computed_apart_give_the_same_logits(case: Case) -> None:
    """What a cache of features needs, the levels that Qwen3-VL feeds into deeper layers included."""
    batch = case.prompts()
    with torch.no_grad():
        features = case.model.get_video_features(
            batch["pixel_values_videos"], batch["video_grid_thw"], return_dict=True
        )
        rest = {key: value for key, value in batch.items() if key != "pixel_values_videos"}
        apart = case.model(**rest, mm_encoder_outputs={"video": features}).logits
        assert torch.equal(apart, case.model(**batch).logits)


def test_scoring_costs_a_trie_or_one_row_per_label(case: Case) -> None:
    fed = []
    read = prefill(case.model, case.prompts())
    trie = LabelTrie.build([[5, 6, 7], [5, 8], *([9, n] for n in range(20))], case.collator.end_id)
    hook = case.model.register_forward_pre_hook(lambda _, __, x: fed.append(x["input_ids"].shape), with_kwargs=True)
    score_labels(case.model, read, trie)
    hook.remove()
    rows = [(3 * 10, 3), (3 * 10, 2), (3 * 2, 2)]  # three clips, 32 rows at once, by the longest label of the group
    assert fed == (rows if case.family == LINEAR else [(3, 1 + 1 + 1 + 1 + 1 + 20)])


def refused_if_linear(case: Case, words: str) -> AbstractContextManager:
    return pytest.raises(UserError, match=words) if case.family == LINEAR else nullcontext()


def test_a_tree_mask_is_refused_on_linear_layers(case: Case) -> None:
    """Planted: the scorer of attention families, on layers that would drop its mask without an error."""
    read = prefill(case.model, case.prompts())
    with refused_if_linear(case, r"ignore a 4-D mask.*a row of its own"):
        assert _steps_by_trie(case.model, read, LabelScorer(case.collator).trie)


def test_samples_packed_into_one_row_are_refused_on_linear_layers(case: Case) -> None:
    positions = torch.tensor([0, 1, 2, 0, 1]).expand(4, 1, -1)
    with refused_if_linear(case, "packed into one row"), torch.no_grad():
        assert case.model(input_ids=torch.tensor([[5, 6, 7, 5, 6]]), position_ids=positions).logits.isfinite().all()


def test_the_clip_in_a_prompt(case: Case, caplog: pytest.LogCaptureFixture) -> None:
    case = dataclasses.replace(case, collator=dataclasses.replace(case.collator))  # what making it says is heard
    ids = case.prompts()["input_ids"][0]
    text = case.collator.tokenizer.decode(ids).replace("<|video_pad|>", ".")
    clip = case.collator.read_row(case.rows[0])
    seconds = (clip.indices / clip.fps).reshape(-1, 2).mean(-1)
    stamped = "".join(f"<{time:.1f} seconds><|vision_start|>....<|vision_end|>" for time in seconds)
    plain = "<|vision_start|>" + 16 * "." + "<|vision_end|>"
    assert writes_time_stamps(case.collator.processor) == (case.family in ("qwen3_vl", "qwen3_5"))
    expected = stamped if writes_time_stamps(case.collator.processor) else plain
    assert text.count("vision_start") == expected.count("vision_start") and f"user\n{expected}" in text
    no_thought = "<think>\n\n</think>\n\n" if case.family == LINEAR else ""
    assert text.endswith("<|im_start|>assistant\n" + no_thought) and "processor_kwargs" not in caplog.text


def test_a_lost_placeholder_is_noticed(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    processor = case.collator.processor
    whole = type(processor).replace_video_token
    monkeypatch.setattr(
        type(processor), "replace_video_token", lambda *a, **k: whole(*a, **k).replace("<|video_pad|>", "", 1)
    )
    with pytest.raises(AssertionError, match=r"\[15, 15, 15\] placeholders for \[16, 16, 16\] features"):
        case.prompts()


def test_a_part_of_a_long_file_is_the_clip_that_it_holds(case: Case) -> None:
    """Time counts from the clip's own first frame: in stamps, and in the seconds per frame pair of Qwen2.5-VL."""
    frames = np.zeros((8, *case.collator.read_row(case.rows[0]).frames.shape[1:]), np.uint8)
    clip = dataclasses.replace(case.collator.read_row(case.rows[0]), frames=frames, indices=np.arange(0, 32, 4))
    part = dataclasses.replace(clip, indices=clip.indices + 5000, total_frames=9000)
    first, second = (case.collator.prompts([{}], ["Which?"], clips=[one]) for one in (clip, part))
    assert first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)
    assert ("second_per_grid_ts" in first) == (case.family == "qwen2_5_vl")


@pytest.mark.parametrize("seconds", [2.0, 11.0, 130.0])
def test_tokens_are_counted_from_the_header(case: Case, seconds: float) -> None:
    row = {"id": "x", "label": "dorvan", "target": "label", "text": ""}
    height, width = case.collator.read_row(case.rows[0]).frames.shape[1:3]
    indices = np.linspace(0, seconds * 10 - 1, 8).round().astype(int)
    clip = dataclasses.replace(case.collator.read_row(case.rows[0]), indices=indices, fps=10.0)
    batch = case.collator.prompts([row], [case.collator.prompt_text(row)], clips=[clip])
    answer = len(case.collator.encode("dorvan")) + 1
    counted = case.collator.count_tokens([row], [{"shape": [8, height, width], "seconds": seconds}])
    assert counted == [batch["input_ids"].shape[1] + answer]


# Linear layers that get a LoRA, by part: the number of them in the tiny base, and their names.
TEXT = "down_proj gate_proj k_proj o_proj q_proj up_proj v_proj"
GATED_DELTA = "in_proj_a in_proj_b in_proj_qkv in_proj_z out_proj"
PATCH16 = {"vision": (12, "linear_fc1 linear_fc2 proj qkv")}
MATCHES = {
    "qwen2_vl": {"llm": (14, TEXT), "merger": (2, "0 2"), "vision": (8, "fc1 fc2 proj qkv")},
    "qwen2_5_vl": {"llm": (14, TEXT), "merger": (2, "0 2"), "vision": (10, "down_proj gate_proj proj qkv up_proj")},
    "qwen3_vl": {"llm": (21, TEXT), "merger": (6, "linear_fc1 linear_fc2")} | PATCH16,
    "qwen3_5": {"llm": (31, f"{TEXT} {GATED_DELTA}"), "merger": (2, "linear_fc1 linear_fc2")} | PATCH16,
}


@pytest.mark.parametrize("part", PARTS)
def test_lora_by_part_matches_that_part_alone(case: Case, part: str, capsys: pytest.CaptureFixture) -> None:
    model = prepare_for_training(
        load_base(base_arguments(case.folder), device="cpu"), AdapterArguments(train_parts=[part], lora_dropout=0)
    )
    matched = [name for name, _ in model.named_modules() if name.endswith("lora_A.default")]
    number, names = MATCHES[case.family][part]
    assert {part_of(name) for name in matched} == {part} and len(matched) == number
    assert {name.split(".")[-3] for name in matched} == set(names.split())
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith(part)]
    assert line.split()[-1] == str(number)
    if part == "merger":  # behind a frozen tower the mergers learn, those in its middle too
        model(**case.collator([row | {"target": "label", "text": ""} for row in case.rows])).loss.backward()
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for n, p in model.named_parameters() if "lora_B" in n)


def test_a_frozen_tower_runs_without_a_graph_and_changes_nothing(case: Case) -> None:
    batch = case.collator([row | {"target": "label", "text": ""} for row in case.rows])
    results = []
    for cut in (True, False):
        torch.manual_seed(0)
        model = prepare_for_training(
            load_base(base_arguments(case.folder), device="cpu"), AdapterArguments(lora_dropout=0)
        )
        tower = vision_tower(model)
        if not cut:  # the tower with its graph, as PEFT and checkpointing would run it
            tower.forward = type(tower).forward.__get__(tower)
            tower.patch_embed.register_forward_hook(lambda _, __, out: out.requires_grad_(True))
        seen = []
        tower.register_forward_hook(lambda _, __, out, seen=seen: seen.append(out.pooler_output.requires_grad))
        loss = model(**batch).loss
        loss.backward()
        assert seen == [not cut]
        results.append((loss.item(), [p.grad.clone() for _, _, p in trainable_parameters(model)]))
    assert results[0][0] == results[1][0]
    assert all(torch.equal(a, b) for a, b in zip(results[0][1], results[1][1], strict=True))


def test_4_bit_takes_the_language_model_alone(case: Case) -> None:
    args = base_arguments(case.folder, load_in_4bit=True, dtype="bfloat16")
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        model = load_base(args, device="cpu")
    told = [str(warning.message) for warning in said if "load_in_4bit" in str(warning.message)]
    assert len(told) == (case.family == LINEAR) and all("write load_in_4bit: false" in text for text in told)
    head = model.get_output_embeddings()
    linears = {n: m for n, m in model.named_modules() if isinstance(m, nn.Linear) and m is not head}
    for name, module in linears.items():
        small = part_of(name) == "llm" and not name.endswith(("in_proj_a", "in_proj_b"))
        assert (type(module).__name__ == "Linear4bit") == small, name
    assert type(head) is nn.Linear and {part_of(name) for name in linears} == set(PARTS)
    _, scores = LabelScorer(case.collator).read(model.eval(), case.rows)
    assert scores.isfinite().all()


@pytest.mark.parametrize("parts", [["llm"], ["llm", "merger", "vision"]])
def test_two_steps_of_training(case: Case, toy_set: tuple, tmp_path: Path, parts: list[str]) -> None:
    """The real entry with the real trainer: stage 2 on the frozen tower, and with a LoRA on every part."""
    frames = frame_settings(case.family)
    changes = {"max_steps": 2, "per_device_train_batch_size": 2, "eval_strategy": "no", "save_strategy": "no"}
    changes |= {"load_best_model_at_end": False, "train_parts": parts, "output_dir": tmp_path / "run"}
    changes |= {"min_pixels": frames.min_pixels, "max_pixels": frames.max_pixels}
    record = sft.main([toy_recipe("direct", tmp_path, toy_set[0], case.folder, **changes)])
    moved = {n: p for n, p in load_file(tmp_path / "run/adapter_model.safetensors").items() if "lora_B" in n}
    assert record["steps"] == 2 and {part_of(name) for name in moved} == set(parts)
    assert all(p.abs().sum() > 0 for p in moved.values())


def test_facts_of_the_tiny_bases(case: Case) -> None:
    assert has_linear_attention(case.model.config) == (case.family == LINEAR)
    assert case.collator.factor == (28 if case.family in ("qwen2_vl", "qwen2_5_vl") else 32)
    assert len(layers_to_wrap(case.model)) == 2
