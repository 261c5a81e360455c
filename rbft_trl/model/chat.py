"""One chat request with a clip, and its answer, as an OpenAI-compatible server has them.

Input: a clip, its prompt and how to decode. Output: the body of the request; from the reply, texts and counts.
"""

import base64
import io
from dataclasses import dataclass
from typing import Any

from PIL import Image

from rbft_trl.data.task import CLIP_PLACE
from rbft_trl.data.video import Clip
from rbft_trl.errors import UserError


@dataclass
class Answer:
    """What a server wrote for one clip.

    Args:
        texts (`list[str]`): One per sample.
        cut (`list[bool]`): Whether a text was cut at the limit of tokens.
        prompt_tokens (`int`): Tokens of the prompt with the clip, as the server counted them.
        prompt_ids (`list[int]`, *optional*): These tokens, if the server tells them (vLLM does).
    """

    texts: list[str]
    cut: list[bool]
    prompt_tokens: int
    prompt_ids: list[int] | None


class PassingError(Exception):
    """Something that may be gone at the next attempt; `wait` is what the server asked for, in seconds."""

    attempts = 1

    def __init__(self, what: str, wait: float | None = None) -> None:
        super().__init__(what)
        self.what, self.wait = what, wait


def request_body(
    model: str,
    clip: Clip,
    prompt: str,
    metadata: dict[str, Any],
    *,
    num_samples: int,
    temperature: float,
    top_p: float,
    max_new_tokens: int,
    seed: int,
) -> dict[str, Any]:
    """A chat request with the clip as ONE video, its frames as they are: the server samples and resizes none.

    `top_k`, `min_p` and `repetition_penalty` are set because vLLM would take them from generation_config.json.
    """
    video = {"type": "video_url", "video_url": {"url": frames_url(clip)}}
    first, place, last = prompt.rpartition(CLIP_PLACE)
    texts = [{"type": "text", "text": first}] if place else []
    frames = len(clip.frames)
    total = max(frames, metadata["total_num_frames"])  # a clip of fewer frames repeats its last; vLLM refuses less
    return {
        "model": model,
        "messages": [{"role": "user", "content": [*texts, video, {"type": "text", "text": last}]}],
        "n": num_samples,
        "temperature": temperature,
        "top_p": top_p if temperature > 0 else 1.0,
        "max_tokens": max_new_tokens,
        "seed": seed,
        "top_k": 0,
        "min_p": 0.0,
        "repetition_penalty": 1.0,
        "media_io_kwargs": {"video": metadata | {"num_frames": frames, "total_num_frames": total}},
        "mm_processor_kwargs": {"do_sample_frames": False, "do_resize": False},
        "chat_template_kwargs": {"enable_thinking": False},
        "return_token_ids": True,
    }


def frames_url(clip: Clip) -> str:
    """The frames as one data URL of the form that vLLM takes as frames already sampled, each as PNG: nothing is lost.

    The type says jpeg because that is the name of the form; what a frame is, is told by its first bytes.
    """
    encoded = []
    for frame in clip.frames:
        buffer = io.BytesIO()
        Image.fromarray(frame).save(buffer, "PNG", compress_level=1)
        encoded.append(base64.b64encode(buffer.getvalue()).decode("ascii"))
    return "data:video/jpeg;base64," + ",".join(encoded)


def read_answer(reply: dict[str, Any], num_samples: int) -> Answer:
    """The texts and the count in a reply.

    Raises:
        PassingError: if the server gave up in the middle.
        UserError: if it cannot be used, now or later.
    """
    try:
        choices = sorted(reply["choices"], key=lambda choice: int(choice["index"]))
        reasons = [choice["finish_reason"] for choice in choices]
        texts = [choice["message"]["content"] for choice in choices]
        counted = reply["usage"]["prompt_tokens"]
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise UserError(f"the server's answer lacks {error}; use one that gives choices and usage") from error
    if len(choices) != num_samples:
        raise UserError(f"the server gave {len(choices)} texts for n = {num_samples}; use one that knows `n`")
    if any(reason not in ("stop", "length") for reason in reasons):
        raise PassingError("unfinished answer")
    if not all(isinstance(text, str) for text in texts) or type(counted) is not int:
        raise UserError(
            "the server gave an answer without text or usage.prompt_tokens; start vLLM without --reasoning-parser"
        )
    cut = [reason == "length" for reason in reasons]
    return Answer([text.strip() for text in texts], cut, counted, reply.get("prompt_token_ids"))
