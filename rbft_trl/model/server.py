"""An OpenAI-compatible server that runs the base: one clip per request, repeated after what can pass.

Input: a clip, its prompt and how to decode. Output: the texts, and the tokens that the server read.
How vLLM is started for it is in docs/serving.md.
"""

import base64
import contextlib
import email.utils
import io
import json
import math
import os
import random
import threading
import time
from collections import Counter
from dataclasses import dataclass
from typing import Any

import requests
import urllib3
from PIL import Image
from requests.adapters import HTTPAdapter

from rbft_trl.data.task import CLIP_PLACE
from rbft_trl.data.video import Clip
from rbft_trl.errors import UserError, nearest, quoted

KEY = "RBFT_SERVER_KEY"  # the only place of the key; OPENAI_API_KEY would be handed to whatever server_url names
ATTEMPTS = 8
FIRST_WAIT, LONGEST_WAIT = 0.5, 60.0  # seconds; doubled after each attempt, about 60 in all
LONGEST_ASKED_WAIT = 600.0  # seconds that a server may ask for by Retry-After
CONNECT_SECONDS = 10.0
LARGEST_ANSWER = 64 << 20  # bytes; texts and token ids of one clip are far smaller
WORTH_ANOTHER_TRY = (408, 425, 429)  # and everything from 500 on


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

    def __init__(self, what: str, wait: float | None = None) -> None:
        super().__init__(what)
        self.what, self.wait = what, wait


class Server:
    """Speaks to one server; several threads may.

    Args:
        url (`str`): Below it are `/models` and `/chat/completions`.
        model (`str`): The model's name on the server.
        timeout (`float`): Seconds for one attempt.
        connections (`int`): Connections that are kept open.
    """

    def __init__(self, url: str, model: str, *, timeout: float, connections: int) -> None:
        self.url, self.model, self.timeout = url, model, timeout
        self.key = os.environ.get(KEY, "").strip()
        self.session = requests.Session()
        for scheme in ("http://", "https://"):
            self.session.mount(scheme, HTTPAdapter(pool_connections=1, pool_maxsize=connections))
        self.session.auth = self._sign  # also without a key: requests would look for a password in ~/.netrc
        self.stopped = threading.Event()
        self.repeated: Counter[str] = Counter()
        self.lock = threading.Lock()

    def check(self) -> None:
        """One request before any work: is the server there, and has it the model?

        Raises:
            UserError: if not, naming what it has.
        """
        try:
            reply = self._attempt("GET", "/models")
        except PassingError as error:
            raise UserError(
                f"no server answers at '{self.url}' ({error.what}); start it, or correct server_url"
            ) from error
        listed = reply.get("data")
        if not isinstance(listed, list) or not all(isinstance(entry, dict) for entry in listed):
            raise UserError(
                f"'{self.url}/models' lists no models, so it is no OpenAI-compatible server; correct server_url"
            )
        names = [str(entry.get("id")) for entry in listed]
        if self.model not in names:
            raise UserError(
                f"the server at '{self.url}' has no model '{self.model}'{nearest(self.model, names)}; it has "
                f"{quoted(names) or 'none'}: set server_model, or serve the base that model_name_or_path names"
            )

    def write(self, clip: Clip, prompt: str, metadata: dict[str, Any], **decoding: Any) -> Answer:
        """The texts for one clip; what can pass is tried again, with a growing wait.

        Args:
            clip (`Clip`): Frames as the model is to see them.
            prompt (`str`): Of the task card.
            metadata (`dict[str, Any]`): Rate and places of the frames (`fps`, `frames_indices`, `total_num_frames`).
            decoding (`Any`): `num_samples`, `temperature`, `top_p`, `max_new_tokens`, `seed`.

        Raises:
            UserError: if the server refuses the request, or nothing helped.
        """
        body = request_body(self.model, clip, prompt, metadata, **decoding)
        for attempt in range(ATTEMPTS):
            try:
                return read_answer(self._attempt("POST", "/chat/completions", body), decoding["num_samples"])
            except PassingError as error:
                with self.lock:
                    self.repeated[error.what] += 1
                last, wait = error, FIRST_WAIT * 2**attempt * random.uniform(0.5, 1.0)
                wait = max(min(wait, LONGEST_WAIT), min(error.wait or 0.0, LONGEST_ASKED_WAIT))
            if attempt + 1 < ATTEMPTS and self.stopped.wait(wait):
                break
        raise UserError(
            f"the server at '{self.url}' gave no usable answer in {attempt + 1} attempts (at last: {last.what}); what "
            "is finished is kept, and the same command goes on from there"
        ) from last

    def _attempt(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """One request; raises `PassingError` where another may help, `UserError` where it cannot."""
        limits = (min(CONNECT_SECONDS, self.timeout), self.timeout)
        try:
            reply = self.session.request(
                method, self.url + path, json=body, timeout=limits, allow_redirects=False, stream=True
            )
            with contextlib.closing(reply):
                said = read_body(reply, time.monotonic() + self.timeout)
        except (requests.Timeout, urllib3.exceptions.TimeoutError) as error:
            raise PassingError(f"time-out after {self.timeout:g} s") from error
        except (requests.exceptions.InvalidURL, requests.exceptions.InvalidHeader) as error:
            raise UserError(
                f"server_url '{self.url}' or {KEY} cannot be sent ({type(error).__name__}); correct it"
            ) from None
        except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
            cut = isinstance(error, urllib3.exceptions.ProtocolError)
            raise PassingError("cut answer" if cut else "connection failed") from error
        if reply.status_code >= 500 or reply.status_code in WORTH_ANOTHER_TRY:
            raise PassingError(f"HTTP {reply.status_code}", asked_wait(reply.headers.get("Retry-After")))
        if reply.status_code in (401, 403):
            done = f"refuses the key of {KEY}; set another" if self.key else f"wants a key; set {KEY}"
            raise UserError(f"the server at '{self.url}' {done} in the environment (HTTP {reply.status_code})")
        if reply.status_code >= 300:
            raise UserError(f"the server at '{self.url}' answers HTTP {reply.status_code}: {self._said(reply, said)}")
        try:
            found = json.loads(said)
        except (ValueError, RecursionError) as error:
            raise PassingError("answer that is not JSON") from error
        if not isinstance(found, dict):
            raise PassingError("answer that is no JSON object")
        return found

    def _sign(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        if self.key:
            request.headers["Authorization"] = f"Bearer {self.key}"
        return request

    def _said(self, reply: requests.Response, body: bytes) -> str:
        """The first line of a refusal, without the key."""
        if reply.is_redirect:
            return f"it points to '{reply.headers['Location'].partition('?')[0]}'; write that address as server_url"
        try:
            error = json.loads(body)
            error = error.get("error", error)
            text = str(error.get("message", error) if isinstance(error, dict) else error)
        except (ValueError, AttributeError):
            text = body.decode("utf-8", "replace")
        line = next((line.strip() for line in text.splitlines() if line.strip()), "no reason given")
        line = "".join(sign if sign.isprintable() else " " for sign in line)
        return (line.replace(self.key, "***") if self.key else line)[:300]


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


def read_body(reply: requests.Response, deadline: float) -> bytes:
    """The body of a reply, as it comes: a limit of time per read would not stop a server that sends a byte at a time.

    Raises:
        PassingError: if it is not whole by `deadline` (of `time.monotonic`), or larger than any answer.
    """
    body = bytearray()
    while piece := reply.raw.read1(1 << 16, decode_content=True):
        body += piece
        if time.monotonic() > deadline:
            raise PassingError("time-out in the middle of an answer")
        if len(body) > LARGEST_ANSWER:
            raise PassingError(f"answer of more than {LARGEST_ANSWER >> 20} MB")
    return bytes(body)


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


def asked_wait(header: str | None) -> float | None:
    """Seconds of a Retry-After header, a number or a date; None if there is none that can be read."""
    if not header:
        return None
    try:
        seconds = float(header)
        return max(0.0, seconds) if math.isfinite(seconds) else None
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(header).timestamp() - time.time())
    except ValueError:
        return None
