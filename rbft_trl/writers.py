"""Who writes the rationales of stage 0: the base on this machine, batch by batch, or a server, one clip per request.

Input: rows of clips. Output: one sample per rationale; every finished batch is in the log before the next.
"""

import hashlib
import os
import random
import warnings
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, fields
from typing import Any

from accelerate import Accelerator
from tqdm import tqdm

from rbft_trl.batches import Pairs, Row, fixed_batches, in_order, read_ahead, run_batches
from rbft_trl.configs import ModelArguments
from rbft_trl.data.jsonl import BatchLog
from rbft_trl.data.task import TaskCard, fingerprint
from rbft_trl.data.video import Clip, ClipError
from rbft_trl.errors import UserError
from rbft_trl.evidence.support import margin_of
from rbft_trl.evidence.wording import without_classes
from rbft_trl.model.chat import Answer
from rbft_trl.model.collator import ClipCollator, metadata_of
from rbft_trl.model.inference import prefill, write
from rbft_trl.model.loading import load_for_inference
from rbft_trl.model.rebuild import Rebuilder
from rbft_trl.model.server import Server
from rbft_trl.rationale_config import RationaleArguments
from rbft_trl.stopping import listening, noted

Sample = dict[str, Any]
DECODING = ("temperature", "top_p", "max_new_tokens")
ONLY_HERE = ("dtype", "load_in_4bit", "attn_implementation", "per_device_batch_size")
UNVERIFIED = "the weights behind the server cannot be verified; `base` is the one that the recipe names"


class Writer:
    """Writes rationales with the base, or a checkpoint of it, on this machine."""

    def __init__(
        self,
        accelerator: Accelerator,
        collator: ClipCollator,
        base: ModelArguments,
        args: RationaleArguments,
        log: BatchLog,
    ) -> None:
        self.accelerator, self.collator, self.args, self.log, self.base = accelerator, collator, args, log, base
        self.batch_size = args.per_device_batch_size
        self.model, self.rebuilder = None, None

    def run_pass(self, rows: list[Row], *, shown: bool, first: int) -> list[Sample]:
        """One pass over `rows`, shared over the processes; returns the samples of all of them."""
        batches = fixed_batches(rows, self.batch_size, first=first)
        if self.model is None and not set(batches) <= set(self.log.load()):
            self.model = load_for_inference(self.base, self.args.checkpoint, device=self.accelerator.device)
        return run_batches(
            lambda number, pairs: self._write_batch(number, pairs, shown=shown),
            batches,
            self.log,
            self.accelerator,
            self.collator,
            title="rationales, label shown" if shown else "rationales",
            workers=self.args.dataloader_num_workers,
        )

    def _write_batch(self, number: int, pairs: Pairs, *, shown: bool) -> list[Sample]:
        for _, clip in pairs:
            if isinstance(clip, ClipError):
                raise clip
        args, collator = self.args, self.collator
        rows = [row for row, _ in pairs]
        prompts = [prompt_of(row, args, collator, shown=shown) for row in rows]
        seed = args.seed * 1_000_003 + number
        read = prefill(self.model, collator.prompts(rows, prompts, clips=[clip for _, clip in pairs]))
        decoding = {key: getattr(args, key) for key in DECODING}
        texts, cut = write(self.model, read, collator, num_samples=args.num_samples, seed=seed, **decoding)
        samples = []
        for i, row in enumerate(rows):
            own = slice(i * args.num_samples, (i + 1) * args.num_samples)
            samples += samples_of(row, texts[own], cut[own], args, collator, seed=seed, shown=shown)
        if args.rebuild == "model":
            self._rebuild(samples)
        return samples

    def _rebuild(self, samples: list[Sample]) -> None:
        """What the base concludes from each text alone, while it is loaded."""
        card, labelled = self.collator.card, [sample for sample in samples if sample["label"] is not None]
        texts = [without_classes(card.without_final_line(sample["text"]), card)[0] for sample in labelled]
        self.rebuilder = self.rebuilder or Rebuilder(self.collator)
        for start in range(0, len(labelled), self.batch_size):
            part = slice(start, start + self.batch_size)
            scores = self.rebuilder.scores(self.model, texts[part])
            for sample, text, row in zip(labelled[part], texts[part], scores, strict=True):
                nothing = {"best": None, "margin": None}
                sample["rebuilt_model"] = margin_of(row, sample["label"]) if text else nothing


@dataclass
class Job:
    """One request: the clip's batch in the log, its row and prompt, and the tokens that the server must read."""

    number: int
    row: Row
    clip: Clip
    prompt: str
    seed: int
    tokens: list[int]


class ServerWriter:
    """Lets a server write rationales, several clips at a time; only this thread writes the log.

    The first request of a run goes alone, so that a server that reads other tokens costs one request.
    """

    batch_size = 1

    def __init__(self, server: Server, collator: ClipCollator, args: RationaleArguments, log: BatchLog) -> None:
        self.server, self.collator, self.args, self.log = server, collator, args, log
        self.answered = 0

    def run_pass(self, rows: list[Row], *, shown: bool, first: int) -> list[Sample]:
        """One pass over `rows`; returns their samples in the order of the ids, whatever came back first."""
        for row in rows:
            self._check_text(row)
        batches = fixed_batches(rows, self.batch_size, first=first)
        finished = self.log.load()
        todo = [number for number in batches if number not in finished]
        clips = read_ahead(self.collator, [batches[n][0] for n in todo], self.args.dataloader_num_workers)
        title = "rationales, label shown" if shown else "rationales"
        bar = tqdm(total=len(todo), desc=title, unit="clip")
        with listening(), ThreadPoolExecutor(self.args.concurrency) as pool, bar:
            pending: dict[Future[Answer], Job] = {}
            try:
                for number, clip in zip(todo, clips, strict=True):
                    if noted():
                        break
                    job = self._job(number, batches[number][0], clip, shown=shown)
                    self._collect(pending, bar, shown=shown, most=self.args.concurrency - 1 if self.answered else 0)
                    pending[pool.submit(self._ask, job)] = job
                self._collect(pending, bar, shown=shown, most=0)
            except BaseException:
                self._keep_what_is_done(pending, bar, shown=shown)
                raise
        if self.server.repeated:
            told = ", ".join(f"{count} x {what}" for what, count in self.server.repeated.most_common())
            print(f"requests that were sent again: {told}")
            self.server.repeated.clear()
        return in_order(batches, self.log)

    def _job(self, number: int, row: Row, clip: Clip | ClipError, *, shown: bool) -> Job:
        if isinstance(clip, ClipError):
            raise clip
        prompt = prompt_of(row, self.args, self.collator, shown=shown)
        tokens = self.collator.prompts([row], [prompt], clips=[clip])["input_ids"][0].tolist()
        told = hashlib.sha256(f"{self.args.seed}:{row['id']}:{shown}".encode()).hexdigest()
        return Job(number, row, clip, prompt, int(told[:12], 16), tokens)

    def _ask(self, job: Job) -> Answer:
        decoding = {key: getattr(self.args, key) for key in DECODING}
        metadata = metadata_of(job.clip)
        return self.server.write(
            job.clip, job.prompt, metadata, num_samples=self.args.num_samples, seed=job.seed, **decoding
        )

    def _collect(self, pending: dict[Future[Answer], Job], bar: tqdm, *, shown: bool, most: int) -> None:
        """Waits until at most `most` requests are under way, and writes down those that came back."""
        while len(pending) > most:
            for future in wait(pending, return_when=FIRST_COMPLETED).done:
                job = pending[future]
                self._finish(job, future.result(), shown=shown)
                del pending[future]
                bar.update()

    def _finish(self, job: Job, answer: Answer, *, shown: bool) -> None:
        check_tokens(job, answer, self.collator, self.server.url)
        own = samples_of(job.row, answer.texts, answer.cut, self.args, self.collator, seed=job.seed, shown=shown)
        self.log.append(job.number, own)
        self.answered += 1

    def _keep_what_is_done(self, pending: dict[Future[Answer], Job], bar: tqdm, *, shown: bool) -> None:
        """The run stops: nothing new is sent, and what the server is still writing is waited for and kept."""
        self.server.stopped.set()
        for future in pending:
            future.cancel()
        wait(pending)
        for future, job in pending.items():
            if (
                not future.cancelled()
                and future.exception() is None
                and future.result().prompt_tokens == len(job.tokens)
            ):
                self._finish(job, future.result(), shown=shown)
                bar.update()

    def _check_text(self, row: Row) -> None:
        """A server turns what looks like a special token into one; the collator never does."""
        text = row.get("context") or ""
        if self.collator.encode(text) != self.collator.tokenizer(text, add_special_tokens=False).input_ids:
            raise UserError(
                f"the text of clip '{row['id']}' holds a special token of the base, which a server would read as one; "
                "take it out of the text, or leave server_url out"
            )


def connect(base: ModelArguments, args: RationaleArguments) -> Server:
    """The server of a recipe, which has been asked for its model.

    Raises:
        UserError: if it is not there or lacks the model, or several processes were started for it.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError(
            f"{os.environ['WORLD_SIZE']} processes were started but a server does the work; start one (concurrency "
            "says how many clips are sent at once): python rbft_trl/rationales.py"
        )
    own = [(group, spec) for group in (base, args) for spec in fields(group) if spec.name in ONLY_HERE]
    if ignored := [spec.name for group, spec in own if getattr(group, spec.name) != spec.default]:
        warnings.warn(f"{', '.join(ignored)}: ignored, the server decides (server_url is set)", stacklevel=2)
    model = args.server_model or base.model_name_or_path
    server = Server(args.server_url, model, timeout=args.server_timeout, connections=args.concurrency)
    server.check()
    return server


def check_tokens(job: Job, answer: Answer, collator: ClipCollator, url: str) -> None:
    """The server must have read the prompt that this recipe makes: same count, and same tokens where it tells them.

    Raises:
        UserError: with both numbers, the likely reason and the flag that mends it.
    """
    found, wanted, told = answer.prompt_tokens, len(job.tokens), answer.prompt_ids
    if found == wanted and told in (None, job.tokens):
        return
    video = collator.processor.video_token_id
    of_clip = job.tokens.count(video)
    if told is None:
        likely = "it samples or resizes the frames itself, or has another chat template"
    elif told.count(video) != of_clip:
        likely = f"{told.count(video)} of its tokens are the clip's, so it samples or resizes the frames itself"
    else:
        likely = (
            "the clip's are as many, but the text differs: another chat template, or other time stamps of the frames"
        )
    raise UserError(
        f"the server at '{url}' read {found} tokens for clip '{job.row['id']}', this recipe makes {wanted} ({of_clip} "
        f"of them the clip's); {likely}: serve the base of model_name_or_path, and start vLLM with --media-io-kwargs "
        '\'{"video": {"num_frames": -1}}\' --mm-processor-kwargs \'{"do_sample_frames": false, "do_resize": false}\''
    )


def hint_of(row: Row, args: RationaleArguments, card: TaskCard, *, shown: bool) -> str | None:
    """The label that a prompt shows; for `hint: other` one of the other classes, by the clip's id."""
    if not shown or row["label"] is None or args.hint == "gold":
        return row["label"] if shown else None
    others = [name for name in card.names if name != row["label"]]
    return random.Random(f"hint of {row['id']}").choice(others)


def prompt_of(row: Row, args: RationaleArguments, collator: ClipCollator, *, shown: bool) -> str:
    """What the writer is asked about a clip."""
    if args.instruction is not None:
        return args.instruction
    return collator.rationale_prompt(row, hint_of(row, args, collator.card, shown=shown))


def samples_of(
    row: Row,
    texts: Sequence[str],
    cut: Sequence[bool],
    args: RationaleArguments,
    collator: ClipCollator,
    *,
    seed: int,
    shown: bool,
) -> list[Sample]:
    """The lines of rationales.jsonl for one clip, before they are checked."""
    hint = hint_of(row, args, collator.card, shown=shown)
    # Without the text of the single clip, so that all rows of one kind carry the same fingerprint.
    asked = args.instruction or collator.card.rationale_prompt(hint, definitions=collator.definitions)
    offset = args.num_samples if shown and args.label_shown == "blind_then_hint" else 0
    common = {"id": row["id"], "video": row["video"], "label": row["label"]}
    how = {"prompt_fingerprint": fingerprint(asked), "shown": shown and row["label"] is not None}
    how |= {} if args.instruction is None else {"prompt": args.instruction}
    how |= {"decoding": {key: getattr(args, key) for key in DECODING}, "seed": seed}
    return [
        common | {"sample": offset + k} | how | {"text": text, "cut": was_cut}
        for k, (text, was_cut) in enumerate(zip(texts, cut, strict=True))
    ]
