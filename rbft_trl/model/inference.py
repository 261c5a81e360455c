"""Read a clip once: one prefill, then score every label from it, sample k rationales from it, or answer greedily.

Scores are sums of token log-probabilities with the end token, over the trie of the labels' tokens in one forward
(boolean 4-D mask, so sdpa in the language model), or one row per label on linear-attention layers, which ignore such
a mask; equal to naive full forwards to 1e-5 in fp32.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import LogitsProcessorList, TemperatureLogitsWarper, TopPLogitsWarper
from transformers.cache_utils import Cache

from rbft_trl.data.task import FINAL_LINE
from rbft_trl.data.video import Clip
from rbft_trl.model.collator import ClipCollator, Row
from rbft_trl.model.families import position_after

ROWS_AT_ONCE = 32  # clips times labels in one forward, where each label needs a row and a state of its own


@dataclass
class Prefill:
    """What one forward over prompt and clip leaves behind.

    Args:
        cache (`Cache`): Keys and values of the prompt.
        logits (`torch.Tensor` float32 `[B, vocab]`): For the token after the prompt.
        features (`torch.Tensor` float32 `[B, 2 * hidden]`): Last hidden state of the last token, and its mean over
            the video's tokens; what the probe is fitted on.
        mask (`torch.Tensor` int64 `[B, S]`): Attention mask of the prompt (padding on the left).
        position (`torch.Tensor` int64 `[3, B, 1]`): Position of the first token after the prompt.
    """

    cache: Cache
    logits: torch.Tensor
    features: torch.Tensor
    mask: torch.Tensor
    position: torch.Tensor

    def repeat(self, times: int) -> None:
        """`times` rows per clip, those of one clip together."""
        rows = torch.arange(len(self.mask), device=self.mask.device).repeat_interleave(times)
        self.cache.reorder_cache(rows)  # linear-attention layers know no other way to repeat rows
        self.logits, self.features, self.mask = self.logits[rows], self.features[rows], self.mask[rows]
        self.position = self.position[:, rows]


@torch.no_grad()
def prefill(model: nn.Module, batch: dict[str, torch.Tensor]) -> Prefill:
    """Runs tower and language model once over a batch of prompts (`ClipCollator.prompts`)."""
    batch = {key: value.to(model.device) for key, value in batch.items()}
    out = model(**batch, use_cache=True, logits_to_keep=1, output_hidden_states=True)
    position = position_after(model, batch)
    last = out.hidden_states[-1].float()
    video = (batch["mm_token_type_ids"] > 0).unsqueeze(-1)
    mean = (last * video).sum(1) / video.sum(1).clamp(min=1)
    features = torch.cat([last[:, -1], mean], dim=-1)
    logits = out.logits[:, -1].float()
    return Prefill(out.past_key_values, logits, features, batch["attention_mask"], position.to(model.device))


@dataclass
class LabelTrie:
    """The token trie of a list of labels: shared beginnings are computed once.

    Args:
        tokens (`list[int]`): Token of each inner node; every node is fed once.
        parents (`list[int]`): Index of its parent node, -1 for the prompt.
        depths (`list[int]`): 0 for a label's first token.
        paths (`list[list[tuple[int, int]]]`): Per label, the steps `(node that predicts, token predicted)`.
    """

    tokens: list[int]
    parents: list[int]
    depths: list[int]
    paths: list[list[tuple[int, int]]]

    @classmethod
    def build(cls, labels: Sequence[Sequence[int]], end_id: int) -> "LabelTrie":
        """Builds the trie from token ids per label; the end token makes "run" and "running" comparable."""
        trie, index = cls([], [], [], []), {}
        for label in labels:
            node, path = -1, []
            for depth, token in enumerate(label):
                path.append((node, token))
                if (node, token) not in index:
                    index[node, token] = len(trie.tokens)
                    trie.tokens.append(token)
                    trie.parents.append(node)
                    trie.depths.append(depth)
                node = index[node, token]
            trie.paths.append([*path, (node, end_id)])
        return trie

    def mask(self) -> torch.Tensor:
        """`[K, K]` bool: which node sees which: itself and its ancestors."""
        seen = torch.eye(len(self.tokens), dtype=torch.bool)
        for node, parent in enumerate(self.parents):
            if parent >= 0:
                seen[node] |= seen[parent]
        return seen


@torch.no_grad()
def score_labels(model: nn.Module, read: Prefill, trie: LabelTrie, *, how: str = "sum") -> torch.Tensor:
    """Log-probability of every label from one prefill; the cache is left as it was.

    One forward over the trie where all layers have attention; rows of `clips x labels` by the longest label where
    some have linear attention.

    Args:
        model (`nn.Module`): The model that made `read`.
        read (`Prefill`): Prompt and clip.
        trie (`LabelTrie`): The labels.
        how (`str`, *optional*, defaults to `"sum"`): `"sum"` over a label's tokens, or `"mean"` per token.

    Returns:
        `torch.Tensor` float32 `[B, C]`, in the order in which the labels were given.
    """
    steps = _steps_by_rows(model, read, trie) if any(read.cache.is_linear) else _steps_by_trie(model, read, trie)
    return torch.stack([(step.sum(0) if how == "sum" else step.mean(0)) for step in steps], dim=1)


def _steps_by_trie(model: nn.Module, read: Prefill, trie: LabelTrie) -> list[torch.Tensor]:
    """Per label, the log-probabilities of its tokens `[tokens, B]`, from one forward over the trie."""
    rows, length = read.mask.shape
    device, nodes = read.logits.device, len(trie.tokens)
    seen = torch.cat(
        [read.mask.bool()[:, None].expand(rows, nodes, length), trie.mask().to(device).expand(rows, nodes, nodes)], -1
    )
    out = model(
        input_ids=torch.tensor(trie.tokens, device=device).expand(rows, nodes),
        attention_mask=seen[:, None],
        position_ids=read.position + torch.tensor(trie.depths, device=device),
        past_key_values=read.cache,
        use_cache=True,
    )
    read.cache.crop(-nodes)
    logits = torch.cat([out.logits.float(), read.logits[:, None]], dim=1)  # index -1: the prompt predicts
    logprobs = logits.log_softmax(-1)
    return [torch.stack([logprobs[:, node, token] for node, token in path]) for path in trie.paths]


def _steps_by_rows(model: nn.Module, read: Prefill, trie: LabelTrie) -> list[torch.Tensor]:
    """The same from one row per label, each on a copy of the cache: a forward overwrites a recurrent state."""
    labels = [[token for _, token in path] for path in trie.paths]
    at_once = max(1, ROWS_AT_ONCE // len(read.mask))
    steps = []
    for start in range(0, len(labels), at_once):
        group = labels[start : start + at_once]
        longest = max(len(label) for label in group)
        filled = torch.tensor([label + label[-1:] * (longest - len(label)) for label in group])
        branches = _repeated(read, len(group))
        out = model(
            input_ids=filled[:, :-1].repeat(len(read.mask), 1).to(read.logits.device),
            attention_mask=torch.nn.functional.pad(branches.mask, (0, longest - 1), value=1),
            position_ids=branches.position + torch.arange(longest - 1, device=read.logits.device),
            past_key_values=branches.cache,
            use_cache=True,
        )
        logprobs = torch.cat([branches.logits[:, None], out.logits.float()], dim=1).log_softmax(-1)
        for number, label in enumerate(group):
            own = logprobs[number :: len(group)]
            steps.append(torch.stack([own[:, depth, token] for depth, token in enumerate(label)]))
    return steps


def _repeated(read: Prefill, times: int) -> Prefill:
    """`times` rows per clip, those of one clip together; `read` stays as it is."""
    branches = copy.deepcopy(read)
    branches.repeat(times)
    return branches


@torch.no_grad()
def sample(
    model: nn.Module,
    read: Prefill,
    *,
    end_id: int,
    pad_id: int,
    num_samples: int = 1,
    temperature: float = 0.0,
    top_p: float = 1.0,
    max_new_tokens: int = 256,
    seed: int = 0,
) -> torch.Tensor:
    """Writes `num_samples` answers per clip from one prefill, which is used up.

    `generate(num_return_sequences=k)` would read the clip k times; the cache is repeated here instead. The generator
    is the batch's own, so that a batch gives the same text whatever ran before it.

    Returns:
        `torch.Tensor` int64 `[B * num_samples, T]`, rows of one clip together, padded after the end token.
    """
    read.repeat(num_samples)
    logits, mask, position = read.logits, read.mask, read.position
    generator = torch.Generator(device=logits.device).manual_seed(seed)
    warp = LogitsProcessorList()
    if temperature > 0:
        warp += [TemperatureLogitsWarper(temperature)]
        warp += [TopPLogitsWarper(top_p)] if top_p < 1 else []
    done = torch.zeros(len(logits), dtype=torch.bool, device=logits.device)
    written = []
    for _ in range(max_new_tokens):
        if temperature > 0:
            odds = warp(None, logits).softmax(-1)
            token = torch.multinomial(odds, 1, generator=generator)[:, 0]
        else:
            token = logits.argmax(-1)
        token = token.masked_fill(done, pad_id)
        written.append(token)
        done |= token == end_id
        if done.all() or len(written) == max_new_tokens:
            break
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
        out = model(
            input_ids=token[:, None],
            attention_mask=mask,
            position_ids=position,
            past_key_values=read.cache,
            use_cache=True,
        )
        logits, position = out.logits[:, -1].float(), position + 1
    return torch.stack(written, dim=1)


def write(model: nn.Module, read: Prefill, collator: ClipCollator, **decoding: Any) -> tuple[list[str], list[bool]]:
    """What the model writes after a prefill, and beside each text whether it was cut at `max_new_tokens`.

    Args:
        model (`nn.Module`): The model that made `read`.
        read (`Prefill`): Prompts and clips; it is used up.
        collator (`ClipCollator`): Knows the tokenizer.
        decoding (`Any`): Options of `sample`; greedy without any.
    """
    tokenizer, end_id = collator.tokenizer, collator.end_id
    tokens = sample(model, read, end_id=end_id, pad_id=tokenizer.pad_token_id, **decoding)
    texts = [text.strip() for text in tokenizer.batch_decode(tokens, skip_special_tokens=True)]
    return texts, (tokens != end_id).all(dim=1).tolist()


class LabelScorer:
    """The one decision rule, in training, evaluation and prediction: a clip gets the label with the highest score.

    Args:
        collator (`ClipCollator`): Makes the prompts.
        how (`str`, *optional*, defaults to `"sum"`): See `score_labels`.
    """

    def __init__(self, collator: ClipCollator, *, how: str = "sum") -> None:
        self.collator, self.how = collator, how
        self.names = collator.card.names
        self.trie = LabelTrie.build([collator.encode(name) for name in self.names], collator.end_id)

    def read(
        self, model: nn.Module, rows: Sequence[Row], clips: Sequence[Clip] | None = None
    ) -> tuple[Prefill, torch.Tensor]:
        """One prefill of the label prompt, and the scores `[B, C]` from it."""
        prompts = [self.collator.label_prompt(row) for row in rows]
        read = prefill(model, self.collator.prompts(rows, prompts, clips=clips))
        return read, score_labels(model, read, self.trie, how=self.how)

    def reasoned(
        self, model: nn.Module, rows: Sequence[Row], clips: Sequence[Clip] | None = None, **decoding: Any
    ) -> tuple[list[str], list[bool], torch.Tensor]:
        """The scores `[B, C]` behind what the model itself writes to the rationale prompt, its own conclusion cut off.

        Returns:
            `tuple`: the texts as they were written, whether each was cut at `max_new_tokens`, and the scores.
        """
        collator, card = self.collator, self.collator.card
        clips = [collator.read_row(row) for row in rows] if clips is None else clips
        asked = [collator.rationale_prompt(row) for row in rows]
        texts, cut = write(model, prefill(model, collator.prompts(rows, asked, clips=clips)), collator, **decoding)
        begun = [f"{card.without_final_line(text)}\n{FINAL_LINE}".lstrip() for text in texts]
        read = prefill(model, collator.prompts(rows, asked, clips=clips, begun=begun))
        trie = LabelTrie.build([collator.encode(f" {name}") for name in self.names], collator.end_id)
        return texts, cut, score_labels(model, read, trie, how=self.how)

    def right(
        self, model: nn.Module, rows: Sequence[Row], *, batch_size: int, reasons_first: bool = False
    ) -> list[tuple[str, bool]]:
        """`(id, is the label right)` for every row; what the trainer watches on validation clips.

        A model that is taught to conclude from its own rationale (`reasons_first`) is asked so, which takes longer.
        """
        verdicts = []
        for start in range(0, len(rows), batch_size):
            batch = rows[start : start + batch_size]
            scores = self.reasoned(model, batch)[2] if reasons_first else self.read(model, batch)[1]
            best = scores.argmax(-1).tolist()
            verdicts += [(row["id"], self.names[i] == row["label"]) for row, i in zip(batch, best, strict=True)]
        return verdicts
