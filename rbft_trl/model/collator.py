"""Flat rows → one batch: frames read once, prompt and answer tokenised apart, loss exactly on the answer.

Input: rows {id, video, label, target, text}, some with a `prompt` and an `order` of their own. Output: the tensors
that the model's forward takes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import ProcessorMixin

from rbft_trl.data.task import CLIP_PLACE, TaskCard
from rbft_trl.data.video import Clip, FrameSettings, in_order, read_row
from rbft_trl.model.families import one_pair_of_marks, writes_time_stamps
from rbft_trl.model.loading import frame_factor

Row = dict[str, Any]
MARK = "@@the prompt goes here@@"
IGNORED = -100


@dataclass
class ClipCollator:
    """Turns rows into a batch, for training (`__call__`) and for reading prompts (`prompts`).

    Text by people and models is encoded with `split_special_tokens=True`, so `<|im_end|>` or `<|video_pad|>` inside a
    rationale stay text. Prompt and answer are tokenised apart: the boundary is the same in training and in scoring.

    Args:
        processor (`ProcessorMixin`): The base's processor.
        card (`TaskCard`): Labels and prompts.
        root (`Path`): Folder that the rows' `video` paths start from.
        frames (`FrameSettings`): The one sampler's settings.
        definitions (`bool`): Whether prompts list the definitions.
        label_in_prompt (`bool`, *optional*, defaults to `False`): Show the gold label in rationale prompts.
    """

    processor: ProcessorMixin
    card: TaskCard
    root: Path
    frames: FrameSettings
    definitions: bool
    label_in_prompt: bool = False
    factor: int = field(init=False)

    def __post_init__(self) -> None:
        self.factor = frame_factor(self.processor)
        self.tokenizer = self.processor.tokenizer
        text = {"type": "text", "text": MARK}
        message = {"role": "user", "content": [text, {"type": "video"}, text]}
        rendered = self.processor.apply_chat_template(
            [message], add_generation_prompt=True, tokenize=False, **_no_thought(self.processor)
        )
        opening, video, after = rendered.split(MARK)
        self.before = opening + one_pair_of_marks(self.processor, video)
        self.opening_ids = self.tokenizer(opening, add_special_tokens=False).input_ids
        self.after_ids = self.tokenizer(after, add_special_tokens=False).input_ids
        self.end_id = self.tokenizer.eos_token_id

    def __call__(self, rows: Sequence[Row]) -> dict[str, torch.Tensor]:
        """A training batch, padded on the right, with `labels` set on the answer and its end token only.

        `loss_weights` `[B, S]` are there where tokens do not count alike: each is its row's `weight` (class_balance),
        and in a rationale of target `joint` divided by the number of its trained tokens. `loss_items` `[B]` are there
        for target `joint`: 1 at the first sequence of each row.
        """
        parts, clips, first = [], [], []
        for row in rows:
            clip = self.read_row(row | {"order": None})
            own = self.parts(row)
            parts += own
            clips += [in_order(clip, part) for part in own]
            first += [1.0] + [0.0] * (len(own) - 1)
        batch, heads = self._clips(parts, clips)
        sequences, answers = [], []
        for row, head in zip(parts, heads, strict=True):
            answer = [*self.encode(self.answer_text(row)), self.end_id]
            sequences.append(self.around(head, self.prompt_text(row)) + answer)
            answers.append(len(answer))
        batch |= self._pad(sequences, side="right")
        labels = torch.full_like(batch["input_ids"], IGNORED)
        for i, (sequence, length) in enumerate(zip(sequences, answers, strict=True)):
            labels[i, len(sequence) - length : len(sequence)] = torch.tensor(sequence[-length:])
        joint = any(row["target"] == "joint" for row in rows)
        if joint or "weight" in rows[0]:
            weights = torch.tensor([part.get("weight", 1.0) for part in parts])
            for i, (part, length) in enumerate(zip(parts, answers, strict=True)):
                weights[i] /= length if joint and part["target"] == "rationale" else 1
            batch["loss_weights"] = weights[:, None].expand(labels.shape).clone()
        if joint:
            batch["loss_items"] = torch.tensor(first)
        return batch | {"labels": labels}

    def parts(self, row: Row) -> list[Row]:
        """The sequences that are trained of a row: one, or for target `joint` its label and its rationale, where it
        has them. A label is learnt from the clip as it is, whatever the row's own prompt and order."""
        if row["target"] != "joint":
            return [row]
        label = row | {"target": "label", "prompt": None, "order": None}
        return [label] * (row["label"] is not None) + [row | {"target": "rationale"}] * bool(row["text"])

    def prompts(
        self,
        rows: Sequence[Row],
        texts: Sequence[str],
        *,
        clips: Sequence[Clip] | None = None,
        begun: Sequence[str] | None = None,
    ) -> dict[str, torch.Tensor]:
        """A batch of prompts without answers, padded on the left, ready for one prefill.

        Args:
            rows (`Sequence[Row]`): What to read.
            texts (`Sequence[str]`): One prompt per clip.
            clips (`Sequence[Clip]`, *optional*): The clips, if they have been read already.
            begun (`Sequence[str]`, *optional*): Beginnings of the answers.
        """
        batch, heads = self._clips(rows, clips)
        sequences = [self.around(head, text) for head, text in zip(heads, texts, strict=True)]
        if begun is not None:
            sequences = [ids + self.encode(text) for ids, text in zip(sequences, begun, strict=True)]
        return batch | self._pad(sequences, side="left")

    def clips_alone(self, rows: Sequence[Row], clips: Sequence[Clip] | None = None) -> dict[str, torch.Tensor]:
        """The beginning of a prompt, up to the clip: what several prompts about one clip share."""
        batch, heads = self._clips(rows, clips)
        return batch | self._pad(heads, side="left")

    def conversations(self, dialogues: Sequence[Sequence[tuple[Row, Clip, str | None]]]) -> dict[str, torch.Tensor]:
        """A batch of label prompts with examples, padded on the left, ready for one prefill.

        Args:
            dialogues (`Sequence`): Per row its turns: a clip's row, the clip, and what was answered (None: asked now).
        """
        flat = [(row, clip) for turns in dialogues for row, clip, _ in turns]
        batch, heads = self._clips([row for row, _ in flat], [clip for _, clip in flat])
        left, sequences = iter(heads), []
        for turns in dialogues:
            ids: list[int] = []
            to_answer, between = self.turn_ids
            for row, _, answer in turns:
                asked = self._asked(next(left), self.label_prompt(row))
                ids += between + asked[len(self.opening_ids) :] if ids else asked
                ids += self.after_ids if answer is None else to_answer + self.encode(answer)
            sequences.append(ids)
        return batch | self._pad(sequences, side="left")

    @cached_property
    def turn_ids(self) -> tuple[list[int], list[int]]:
        """The template's tokens from an earlier question to its answer, and from that answer to the next question."""
        text = {"type": "text", "text": MARK}
        user = {"role": "user", "content": [text, {"type": "video"}, text]}
        turns = [user, {"role": "assistant", "content": [text]}, user]
        rendered = self.processor.apply_chat_template(
            turns, add_generation_prompt=True, tokenize=False, **_no_thought(self.processor)
        )
        _, _, to_answer, between, *_ = rendered.split(MARK)
        first, second = (self.tokenizer(part, add_special_tokens=False).input_ids for part in (to_answer, between))
        return first, second

    def count_tokens(self, rows: Sequence[Row], known: Sequence[dict[str, Any]]) -> list[int]:
        """Tokens of training rows, video and text together, the longer sequence of a joint one; nothing is decoded.

        Args:
            rows (`Sequence[Row]`): What would be trained.
            known (`Sequence[dict[str, Any]]`): The manifest's entry of each row's clip: its `shape` (frames, height
                and width) and its `seconds` (time stamps of longer clips have more digits).
        """
        heads: dict[tuple[Any, ...], list[int]] = {}
        counts = []
        for row, clip in zip(rows, known, strict=True):
            blank = _blank(clip["shape"], clip["seconds"])
            stamps = blank.indices / blank.fps if writes_time_stamps(self.processor) else ()
            key = (*clip["shape"], *(len(f"{time:.1f}") for time in stamps))
            if key not in heads:
                heads[key] = self._clips([{}], [blank])[1][0]
            asked = [(self.around(heads[key], self.prompt_text(part)), part) for part in self.parts(row)]
            counts.append(max(len(prompt) + len(self.encode(self.answer_text(part))) + 1 for prompt, part in asked))
        return counts

    def around(self, head: list[int], prompt: str) -> list[int]:
        """A whole prompt: the template's tokens with the clip (`head`), and the text around it."""
        return self._asked(head, prompt) + self.after_ids

    def _asked(self, head: list[int], prompt: str) -> list[int]:
        first, place, rest = prompt.rpartition(CLIP_PLACE)
        opening = len(self.opening_ids)
        assert head[:opening] == self.opening_ids
        before = head[:opening] + self.encode(first) + head[opening:] if place else head
        return before + self.encode(rest)

    def encode(self, text: str) -> list[int]:
        """Token ids of text that may hold anything, never a special token."""
        return self.tokenizer(text, add_special_tokens=False, split_special_tokens=True).input_ids

    def prompt_text(self, row: Row) -> str:
        """The prompt of a training row: its own, else the label prompt if the answer starts with the bare name."""
        if row.get("prompt") is not None:
            return row["prompt"]
        if row["target"] in ("label", "label_rationale"):
            return self.label_prompt(row)
        return self.rationale_prompt(row, row["label"] if self.label_in_prompt else None)

    def label_prompt(self, row: Row) -> str:
        """The prompt of stage 2 and of scoring, with the text that came with the clip."""
        return self.card.label_prompt(definitions=self.definitions, text=row.get("context"))

    def rationale_prompt(self, row: Row, hint: str | None = None) -> str:
        """The prompt of stages 0 and 1, with the text that came with the clip."""
        return self.card.rationale_prompt(hint, definitions=self.definitions, text=row.get("context"))

    def answer_text(self, row: Row) -> str:
        """What the model learns to write for a row."""
        if row["target"] == "label":
            return row["label"]
        if row.get("prompt") is not None:  # a task of its own, with or without a label: nothing is added or cut
            return row["text"].strip()
        reasoning = self.card.without_final_line(row["text"])
        if row["label"] is None:  # the pool: nobody knows the label, so no final line is trained
            return reasoning
        if row["target"] == "rationale":
            return row["text"].strip()
        if row["target"] == "rationale_label":
            return f"{reasoning}\n{self.card.final_line(row['label'])}"
        return f"{row['label']}\n{reasoning}"

    def _clips(
        self, rows: Sequence[Row], clips: Sequence[Clip] | None = None
    ) -> tuple[dict[str, torch.Tensor], list[list[int]]]:
        """Pixels of the batch, and per row the tokens up to the prompt with the placeholders of its clip."""
        clips = [self.read_row(row) for row in rows] if clips is None else clips
        encoded = self.processor(
            text=[self.before] * len(rows),
            videos=[torch.from_numpy(clip.frames).permute(0, 3, 1, 2) for clip in clips],
            video_metadata=[metadata_of(clip) for clip in clips],
            do_sample_frames=False,
            do_resize=False,
            padding=True,
            return_tensors="pt",
        )
        ids, mask = encoded.pop("input_ids"), encoded.pop("attention_mask").bool()
        self._type_of_video = int(encoded.pop("mm_token_type_ids").max())
        heads = [ids[i][mask[i]].tolist() for i in range(len(rows))]
        features = encoded["video_grid_thw"].prod(-1) // self.processor.video_processor.merge_size**2
        found = [head.count(self.processor.video_token_id) for head in heads]
        assert found == features.tolist(), f"{found} placeholders for {features.tolist()} features of the tower"
        return dict(encoded), heads

    def read_row(self, row: Row) -> Clip:
        """Reads a row's clip with the one reader; a bad clip raises `ClipError`, it is never replaced."""
        return read_row(row, root=self.root, frames=self.frames, factor=self.factor)

    def _pad(self, sequences: list[list[int]], *, side: str) -> dict[str, torch.Tensor]:
        longest = max(len(s) for s in sequences)
        pad = self.tokenizer.pad_token_id
        ids = torch.full((len(sequences), longest), pad, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for i, sequence in enumerate(sequences):
            place = slice(0, len(sequence)) if side == "right" else slice(longest - len(sequence), longest)
            ids[i, place] = torch.tensor(sequence)
            mask[i, place] = 1
        types = (ids == self.processor.video_token_id).long() * self._type_of_video
        return {"input_ids": ids, "attention_mask": mask, "mm_token_type_ids": types}


def _no_thought(processor: ProcessorMixin) -> dict[str, bool]:
    """A label or a rationale follows the prompt at once; transformers warns of switches that a template lacks."""
    return {"enable_thinking": False} if "enable_thinking" in str(processor.chat_template) else {}


def _blank(shape: Sequence[int], seconds: float) -> Clip:
    frames, height, width = shape
    indices = np.linspace(0, seconds * 1000, frames).round().astype(np.int64)
    return Clip(np.zeros((frames, height, width, 3), np.uint8), indices, 1000.0, int(indices[-1]) + 1)


def metadata_of(clip: Clip) -> dict[str, Any]:
    """What time stamps and seconds per frame pair are made of, in the families that use them. Time counts from the
    clip's first frame, so that a part of a long file is the same clip as that part in a file of its own."""
    indices = clip.indices - clip.indices[0]
    return {"fps": clip.fps, "frames_indices": indices.tolist(), "total_num_frames": int(indices[-1]) + 1}
