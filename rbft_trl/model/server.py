"""An OpenAI-compatible server that runs the base: one clip per request, repeated after what can pass.

Input: a clip, its prompt and how to decode. Output: the texts, and the tokens that the server read.
How vLLM is started for it is in docs/serving.md.
"""

import contextlib
import email.utils
import json
import math
import os
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import requests
import urllib3
from requests.adapters import HTTPAdapter

from rbft_trl.data.video import Clip
from rbft_trl.errors import UserError, nearest, quoted
from rbft_trl.model.chat import Answer, PassingError, read_answer, request_body

KEY = "RBFT_SERVER_KEY"  # the only place of the key; OPENAI_API_KEY would be handed to whatever server_url names
ATTEMPTS = 8
FIRST_WAIT, LONGEST_WAIT = 0.5, 60.0  # seconds; doubled after each attempt, about 60 in all
LONGEST_ASKED_WAIT = 600.0  # seconds that a server may ask for by Retry-After
CONNECT_SECONDS = 10.0
LARGEST_ANSWER = 64 << 20  # bytes; texts and token ids of one clip are far smaller
WORTH_ANOTHER_TRY = (408, 425, 429)  # and everything from 500 on


class BusyError(PassingError):
    """The server is there, and cannot answer now."""


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
            reply = self._repeated(lambda: self._attempt("GET", "/models"), after=BusyError)
        except PassingError as error:
            tries = f" in {error.attempts} attempts" if error.attempts > 1 else ""
            raise UserError(
                f"no server answers at '{self.url}' ({error.what}{tries}); start it, or correct server_url"
            ) from error
        listed = reply.get("data")
        if not isinstance(listed, list) or not all(isinstance(entry, dict) for entry in listed):
            raise UserError(
                f"'{self.url}/models' lists no models, so it is no OpenAI-compatible server; correct server_url"
            )
        names = [str(entry.get("id")) for entry in listed]
        if self.model not in names:
            names = [_printable(name) for name in names]
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

        def ask() -> Answer:
            return read_answer(self._attempt("POST", "/chat/completions", body), decoding["num_samples"])

        try:
            return self._repeated(ask, after=PassingError)
        except PassingError as last:
            raise UserError(
                f"the server at '{self.url}' gave no usable answer in {last.attempts} attempts (at last: {last.what});"
                " what is finished is kept, and the same command goes on from there"
            ) from last

    def _repeated(self, ask: Callable[[], Any], *, after: type[PassingError]) -> Any:
        """What `ask` returns; asked again `after` such an error, with a growing wait, and at last that error."""
        for attempt in range(ATTEMPTS):
            try:
                return ask()
            except after as error:
                with self.lock:
                    self.repeated[error.what] += 1
                last, wait = error, FIRST_WAIT * 2**attempt * random.uniform(0.5, 1.0)
                wait = max(min(wait, LONGEST_WAIT), min(error.wait or 0.0, LONGEST_ASKED_WAIT))
            last.attempts = attempt + 1
            if attempt + 1 < ATTEMPTS and self.stopped.wait(wait):
                break
        raise last

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
            raise BusyError(f"HTTP {reply.status_code}", asked_wait(reply.headers.get("Retry-After")))
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
        line = _printable(line)
        return (line.replace(self.key, "***") if self.key else line)[:300]


def _printable(text: str) -> str:
    """What a server says, without signs that would steer a terminal."""
    return "".join(sign if sign.isprintable() else " " for sign in text)


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
