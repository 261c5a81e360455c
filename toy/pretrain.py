"""Makes the base of the toy domain: a vision warm-up with dense targets, captions and answers, at last final lines.

Output: OUT/ (default toy/base) with safetensors, processor, tokenizer and chat template, and how it was made.
Command: python toy/pretrain.py            (about half an hour on 2 CPU cores)
"""

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from tqdm import tqdm

from rbft_trl.data.jsonl import write_json
from rbft_trl.errors import UserError, run_entry
from toy.base_model import make_model, make_processor, patchify
from toy.corpus import TASKS, Example, draw_example
from toy.scenes import ATTRIBUTES, NUM_FRAMES, SIDE, Scene
from toy.source import SAMPLED, make_source

SMALLER = {"width": 64, "depth": 2, "tower_depth": 1}
SETTINGS = {
    "cpu": {"clips": 30_000, "warmup_steps": 1_200, "steps": 4_200, "last_steps": 200, "batch": 64, "size": {}},
    "long": {"clips": 120_000, "warmup_steps": 8_000, "steps": 60_000, "last_steps": 3_000, "batch": 128, "size": {}},
    "smoke": {"clips": 250, "warmup_steps": 4, "steps": 6, "last_steps": 2, "batch": 16, "size": SMALLER},
}
# First mostly to see (short, cheap batches), then mostly to follow a prompt with a list of names.
SEEING = {
    "caption": 0.38, "question": 0.16, "repeat": 0.18, "match": 0.06, "rationale": 0.04, "hint": 0.06, "label": 0.12,
}  # fmt: skip
FOLLOWING = {
    "caption": 0.12, "question": 0.12, "repeat": 0.09, "match": 0.08, "rationale": 0.16, "hint": 0.18, "label": 0.25,
}  # fmt: skip
# At last, in few and small steps, only to name one class of any list.
NAMING = {
    "caption": 0.1, "question": 0.1, "repeat": 0.05, "match": 0.0, "rationale": 0.4, "hint": 0.2, "label": 0.15,
}  # fmt: skip
DENSE = ("colour", "shape", "size")
assert set(SEEING) == set(FOLLOWING) == set(NAMING) == set(TASKS)


def batched_attention(model: nn.Module, *, patches_per_frame: int) -> None:
    """Attention of the tower over all frames at once: all have one size here (upstream loops over them)."""
    from transformers.models.qwen2_vl.modeling_qwen2_vl import apply_rotary_pos_emb_vision

    def forward(self: nn.Module, hidden_states: torch.Tensor, *_: Any, **given: Any) -> torch.Tensor:
        q, k, v = self.qkv(hidden_states).reshape(len(hidden_states), 3, self.num_heads, -1).unbind(1)
        q, k = apply_rotary_pos_emb_vision(q, k, *given["position_embeddings"])
        q, k, v = (x.reshape(-1, patches_per_frame, self.num_heads, x.shape[-1]).transpose(1, 2) for x in (q, k, v))
        out = F.scaled_dot_product_attention(q, k, v, scale=self.scaling)
        return self.proj(out.transpose(1, 2).reshape(len(hidden_states), -1))

    for block in model.model.visual.blocks:
        block.attn.forward = forward.__get__(block.attn)


def dense_targets(scenes: list[Scene], centres: list[np.ndarray]) -> dict[str, torch.Tensor]:
    """What is in each of the 2 x 2 cells of each pair of frames: how many things, where, how fast, and their look."""
    pairs, half = len(SAMPLED) // 2, SIDE / 2
    count = np.zeros((len(scenes), pairs, 2, 2), np.int64)
    vector = np.zeros((len(scenes), pairs, 2, 2, 4), np.float32)
    for i, where in enumerate(centres):
        for pair in range(pairs):
            first, second = where[2 * pair], where[2 * pair + 1]
            for centre, velocity in zip((first + second) / 2, second - first, strict=True):
                column, row = np.clip(centre // half, 0, 1).astype(int)
                offset = (centre - [column * half, row * half]) / half - 0.5
                count[i, pair, row, column] += 1
                vector[i, pair, row, column] += [*offset, *(velocity / 5)]
    targets = {"count": torch.from_numpy(count).flatten()}
    vector /= np.maximum(count, 1)[..., None]
    targets["vector"] = torch.from_numpy(vector).reshape(-1, 4)
    for name in DENSE:
        values = torch.tensor([ATTRIBUTES[name].index(getattr(scene, name)) for scene in scenes])
        targets[name] = values.repeat_interleave(pairs * 4)
    return targets


def warm_up(model: nn.Module, processor: Any, clips: Any, settings: dict[str, Any], rng: np.random.Generator) -> float:
    """Trains the tower on dense targets; a language-model loss alone gave no grounding. The head is thrown away."""
    frames, scenes, centres = clips
    visual = model.model.visual
    sizes = {"count": 4, "vector": 4, **{name: len(ATTRIBUTES[name]) for name in DENSE}}
    head = nn.Linear(model.config.text_config.hidden_size, sum(sizes.values()))
    optimizer, scheduler = make_optimizer([*visual.parameters(), *head.parameters()], settings["warmup_steps"])
    loss = torch.tensor(0.0)
    bar = tqdm(range(settings["warmup_steps"]), desc="vision warm-up", unit="step")
    for _ in bar:
        chosen = rng.integers(0, len(frames), settings["batch"])
        grid = torch.tensor([[len(SAMPLED) // 2, 4, 4]] * len(chosen))
        tokens = visual(patchify(frames[chosen], processor), grid_thw=grid).pooler_output
        out = dict(zip(sizes, head(tokens).split(list(sizes.values()), -1), strict=True))
        target = dense_targets([scenes[i] for i in chosen], [centres[i] for i in chosen])
        seen = target["count"] > 0
        loss = F.cross_entropy(out["count"], target["count"])
        loss = loss + 4 * F.mse_loss(out["vector"][seen], target["vector"][seen])
        for name in DENSE:
            loss = loss + F.cross_entropy(out[name][seen], target[name][seen])
        step(loss, optimizer, scheduler)
        bar.set_postfix(loss=f"{loss.item():.3f}")
    return loss.item()


class Conversations:
    """Batches of one kind of task: tokens, answer labels, positions and pixels."""

    def __init__(
        self,
        model: nn.Module,
        processor: Any,
        clips: Any,
        batch: int,
        rng: np.random.Generator,
        *,
        first_name: bool = False,
    ) -> None:
        self.model, self.processor, self.clips, self.batch, self.rng = model, processor, clips, batch, rng
        self.first_name = first_name
        tokenizer = processor.tokenizer
        message = {"role": "user", "content": [{"type": "video"}, {"type": "text", "text": "@"}]}
        before, after = processor.apply_chat_template([message], add_generation_prompt=True, tokenize=False).split("@")
        self.video = processor.video_token_id
        head = tokenizer(before, add_special_tokens=False).input_ids
        spot = head.index(self.video)
        self.head = head[:spot] + [self.video] * (len(SAMPLED) // 2 * 4) + head[spot + 1 :]
        self.after = tokenizer(after, add_special_tokens=False).input_ids

    def draw(self, task: str) -> dict[str, torch.Tensor]:
        """A batch for one kind of task; hidden clips become noise."""
        frames, scenes, _ = self.clips
        chosen = self.rng.integers(0, len(frames), self.batch)
        examples = [draw_example(self.rng, scenes[i], task, first_name=self.first_name) for i in chosen]
        pixels = frames[chosen]
        for i, example in enumerate(examples):
            if example.hidden:
                pixels[i] = self.rng.integers(0, 60, pixels[i].shape, dtype=np.uint8)
        return self._tensors(examples) | {"pixel_values_videos": patchify(pixels, self.processor)}

    def _tensors(self, examples: list[Example]) -> dict[str, torch.Tensor]:
        encode, end = self.processor.tokenizer, self.processor.tokenizer.eos_token_id
        prompts = encode([e.prompt for e in examples], add_special_tokens=False).input_ids
        answers = [[*ids, end] for ids in encode([e.answer for e in examples], add_special_tokens=False).input_ids]
        rows = [self.head + p + self.after + a for p, a in zip(prompts, answers, strict=True)]
        longest = max(map(len, rows))
        ids = torch.full((len(rows), longest), encode.pad_token_id)
        labels = torch.full_like(ids, -100)
        mask = torch.zeros_like(ids)
        for i, (row, answer, example) in enumerate(zip(rows, answers, examples, strict=True)):
            ids[i, : len(row)] = torch.tensor(row)
            mask[i, : len(row)] = 1
            trained = answer[-_final_tokens(encode, example) :] if example.hidden else answer  # noise has no caption
            labels[i, len(row) - len(trained) : len(row)] = torch.tensor(trained)
        types = (ids == self.video).long() * 2
        grid = torch.tensor([[len(SAMPLED) // 2, 4, 4]])
        one = self.model.model.get_rope_index(ids[:1], types[:1], video_grid_thw=grid)[0]
        tensors = {"input_ids": ids, "attention_mask": mask, "labels": labels, "mm_token_type_ids": types}
        return tensors | {"position_ids": one.expand(-1, len(rows), -1), "video_grid_thw": grid.repeat(len(rows), 1)}


def _final_tokens(tokenizer: Any, example: Example) -> int:
    last = example.answer.rsplit("\n", 1)[-1]
    return len(tokenizer("\n" + last, add_special_tokens=False).input_ids)


def train_language(
    model: nn.Module, draw: Conversations, shares: list[dict[str, float]], *, steps: int, rate: float, title: str
) -> dict[str, float]:
    """Trains all parts on every kind of conversation; returns the last smoothed loss of each.

    The first 30 % of the steps have the first of `shares`, the rest the last.
    """
    optimizer, scheduler = make_optimizer(list(model.parameters()), steps, rate)
    losses: dict[str, float] = {}
    bar = tqdm(range(steps), desc=title, unit="step")
    for number in bar:
        share = shares[0] if number < 0.3 * steps else shares[-1]
        task = str(draw.rng.choice(list(share), p=list(share.values())))
        batch = draw.draw(task)
        labels = batch.pop("labels")
        hidden = model.model(**batch).last_hidden_state[:, :-1]
        trained = labels[:, 1:] != -100
        loss = F.cross_entropy(model.lm_head(hidden[trained]), labels[:, 1:][trained])
        step(loss, optimizer, scheduler)
        losses[task] = 0.95 * losses.get(task, loss.item()) + 0.05 * loss.item()
        if number % 50 == 0:
            bar.set_postfix({name: f"{value:.2f}" for name, value in losses.items()})
    return losses


def name_a_class(
    model: nn.Module, processor: Any, clips: Any, settings: dict[str, Any], seed: int
) -> dict[str, float]:
    """The last phase, with a generator of its own, so that it can be run again from saved weights."""
    talk = Conversations(model, processor, clips, settings["batch"], np.random.default_rng([seed, 3]), first_name=True)
    return train_language(model, talk, [NAMING], steps=settings["last_steps"], rate=5e-4, title="naming a class")


def make_optimizer(parameters: list[nn.Parameter], steps: int, rate: float = 1.5e-3) -> tuple[Any, Any]:
    """AdamW with a short warm-up and a cosine to zero."""
    optimizer = torch.optim.AdamW(parameters, lr=rate, weight_decay=0.02, betas=(0.9, 0.98))
    return optimizer, torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps + 1, pct_start=0.05)


def step(loss: torch.Tensor, optimizer: Any, scheduler: Any) -> None:
    """One clipped optimizer step."""
    loss.backward()
    nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], 1.0)
    optimizer.step()
    scheduler.step()
    optimizer.zero_grad(set_to_none=True)


def save(model: nn.Module, processor: Any, out: Path) -> None:
    """Writes the base in fp32 (about 7 MB)."""
    model.save_pretrained(out)
    processor.save_pretrained(out)


def main(argv: list[str]) -> None:
    """Pretrains and saves the base."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, help="folder to write [toy/base, with the setting cpu only]")
    parser.add_argument("--setting", choices=list(SETTINGS), default="cpu")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    if args.out is None and args.setting != "cpu":
        raise UserError(f"--setting {args.setting} needs --out, or it would replace the base that is shipped")
    args.out = args.out or Path(__file__).parent / "base"
    settings, started = SETTINGS[args.setting], time.perf_counter()
    torch.manual_seed(args.seed)
    rng = np.random.default_rng(args.seed)
    processor = make_processor(seed=args.seed)
    model = make_model(processor, seed=args.seed, **settings["size"])
    batched_attention(model, patches_per_frame=(SIDE // 14) ** 2)
    clips = make_source(settings["clips"], seed=args.seed)
    warm_up(model, processor, clips, settings, rng)
    talk = Conversations(model, processor, clips, settings["batch"], rng)
    losses = train_language(
        model, talk, [SEEING, FOLLOWING], steps=settings["steps"], rate=1.5e-3, title="conversations"
    )
    losses |= name_a_class(model, processor, clips, settings, args.seed)
    save(model, processor, args.out)
    made = {"setting": args.setting, "seed": args.seed, **settings}
    made |= {"frames_per_clip": f"{len(SAMPLED)} of {NUM_FRAMES}"}
    made |= {"parameters": sum(p.numel() for p in model.parameters()), "torch_threads": torch.get_num_threads()}
    made |= {"seconds": round(time.perf_counter() - started), "losses": {k: round(v, 4) for k, v in losses.items()}}
    write_json(args.out / "made.json", made)
    print(f"base of {made['parameters']:,} parameters in '{args.out}' after {made['seconds']} s")


if __name__ == "__main__":
    run_entry(main)
