"""A small OpenAI-compatible server for the tests: a process of its own that runs a base on the frames it receives.

It works as vLLM is documented to: chat template of the base, frames of `data:video/jpeg;base64,...` told by their
first bytes, metadata and switches from the request. POST /script sets faults by number of request; GET /log tells
what came.
Command: python tests/toy_server.py --base FOLDER --port_file FILE
"""

import argparse
import base64
import contextlib
import hashlib
import io
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import requests
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

FRESH = {
    "faults": {},
    "delay": 0.0,
    "models": ["toy"],
    "busy": 0,  # so many times /models answers 503
    "key": None,
    "take_frames": None,
    "tell_ids": True,
    "system": "",
}


class Toy:
    """The base, what it was told to do wrong, and what it saw."""

    def __init__(self, base: str) -> None:
        self.processor = AutoProcessor.from_pretrained(base)
        self.model = AutoModelForImageTextToText.from_pretrained(base, dtype=torch.float32).eval()
        self.one_at_a_time, self.counting = threading.Lock(), threading.Lock()
        self.reset({})

    def reset(self, script: dict[str, Any]) -> None:
        assert set(script) <= set(FRESH), script
        self.script, self.requests, self.under_way, self.most = FRESH | script, [], 0, 0

    def answer(self, asked: dict[str, Any], seen: dict[str, Any]) -> dict[str, Any]:
        """Runs one chat request as vLLM would: template, frames, processor with the request's switches, generation."""
        (message,) = asked["messages"]
        videos = [part["video_url"]["url"] for part in message["content"] if part["type"] == "video_url"]
        seen["parts"] = [part["type"] for part in message["content"]]
        seen["before_the_clip"] = json.dumps(message).split("data:")[0]
        (url,) = videos
        frames = np.stack([np.asarray(Image.open(io.BytesIO(f))) for f in map(base64.b64decode, split_frames(url))])
        seen["frames"] = hashlib.sha256(frames.tobytes()).hexdigest()
        frames = frames[: self.script["take_frames"]]
        metadata = {k: v for k, v in asked["media_io_kwargs"]["video"].items() if k != "num_frames"}
        content = [part if part["type"] == "text" else {"type": "video"} for part in message["content"]]
        messages = [{"role": "user", "content": content}]
        if self.script["system"]:
            messages.insert(0, {"role": "system", "content": self.script["system"]})
        text = self.processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        batch = self.processor(
            text=[text],
            videos=[torch.from_numpy(frames.copy()).permute(0, 3, 1, 2)],
            video_metadata=[metadata | {"frames_indices": metadata["frames_indices"][: len(frames)]}],
            return_tensors="pt",
            **asked["mm_processor_kwargs"],
        )
        prompt = batch["input_ids"][0].tolist()
        greedy = asked["temperature"] == 0
        how = {} if greedy else {"temperature": asked["temperature"], "top_p": asked["top_p"], "top_k": asked["top_k"]}
        with self.one_at_a_time, torch.no_grad():
            torch.manual_seed(asked["seed"])
            written = self.model.generate(
                **batch,
                do_sample=not greedy,
                num_return_sequences=asked["n"],
                max_new_tokens=asked["max_tokens"],
                repetition_penalty=asked["repetition_penalty"],
                **how,
            )[:, len(prompt) :]
        end = self.processor.tokenizer.eos_token_id
        texts = self.processor.tokenizer.batch_decode(written, skip_special_tokens=True)
        choices = [
            {
                "index": i,
                "message": {"role": "assistant", "content": text},
                "finish_reason": "stop" if end in row else "length",
            }
            for i, (text, row) in enumerate(zip(texts, written.tolist(), strict=True))
        ]
        told = {"prompt_token_ids": prompt} if self.script["tell_ids"] and asked.get("return_token_ids") else {}
        usage = {"prompt_tokens": len(prompt), "completion_tokens": int(written.numel())}
        return {"object": "chat.completion", "model": "toy", "choices": choices[::-1], "usage": usage} | told


class Remote:
    """The server, seen from a test."""

    def __init__(self, port: int) -> None:
        self.root, self.url = f"http://127.0.0.1:{port}", f"http://127.0.0.1:{port}/v1"

    def script(self, **script: Any) -> None:
        requests.post(f"{self.root}/script", json=script, timeout=120).raise_for_status()

    def log(self) -> dict[str, Any]:
        return requests.get(f"{self.root}/log", timeout=120).json()


def split_frames(url: str) -> list[str]:
    head, _, data = url.partition(",")
    assert head == "data:video/jpeg;base64", head
    return data.split(",")


def handler(toy: Toy) -> type[BaseHTTPRequestHandler]:
    """The request handler over one `Toy`."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            """Silent."""

        def do_GET(self) -> None:
            if self.path == "/log":
                self.reply(200, {"requests": toy.requests, "most": toy.most})
            elif self.path != "/v1/models":
                self.reply(200, {"object": "something else"})
            elif toy.script["busy"] > 0:
                toy.script["busy"] -= 1
                self.reply(503, {"error": {"message": "the model is loaded"}})
            elif self.allowed():
                self.reply(200, {"object": "list", "data": [{"id": name} for name in toy.script["models"]]})

        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if self.path == "/script":
                toy.reset(asked)
                self.reply(200, {})
            elif self.allowed():
                self.chat(asked)

        def allowed(self) -> bool:
            key = toy.script["key"]
            if key and self.headers["Authorization"] != f"Bearer {key}":
                self.reply(401, {"error": {"message": f"wrong key {self.headers['Authorization']}"}})
            return not key or self.headers["Authorization"] == f"Bearer {key}"

        def chat(self, asked: dict[str, Any]) -> None:
            seen = {key: asked[key] for key in ("seed", "n", "temperature", "top_k", "media_io_kwargs")}
            seen["time"] = time.time()
            with toy.counting:
                toy.requests.append(seen)
                fault = toy.script["faults"].get(str(len(toy.requests) - 1), "")
                toy.under_way += 1
                toy.most = max(toy.most, toy.under_way)
            try:
                time.sleep(toy.script["delay"])
                self.faulty(fault, asked, seen) if fault else self.reply(200, toy.answer(asked, seen))
            finally:
                with toy.counting:
                    toy.under_way -= 1

        def faulty(self, fault: str, asked: dict[str, Any], seen: dict[str, Any]) -> None:
            seen["fault"] = fault
            kind, _, rest = fault.partition(" ")
            if kind == "hang":
                time.sleep(float(rest))
                self.close_connection = True
            elif kind == "drip":  # a byte at a time, for so many seconds: no single read takes long
                self.send_response(200)
                self.end_headers()
                self.close_connection = True
                with contextlib.suppress(ConnectionError):
                    for _ in range(int(float(rest) * 10)):
                        self.wfile.write(b" ")
                        time.sleep(0.1)
            elif kind == "cut":
                body = json.dumps(toy.answer(asked, seen)).encode()
                self.reply(200, body, send=len(body) // 2)
            elif kind == "say":  # a whole answer with another body
                self.reply(200, rest.encode())
            elif kind == "retry":
                self.reply(429, {"error": {"message": "busy"}}, headers={"Retry-After": rest})
            elif kind == "moved":
                self.reply(307, {}, headers={"Location": rest})
            else:
                self.reply(int(kind), {"error": {"message": rest or "no"}})

        def reply(self, status: int, body: Any, *, send: int | None = None, headers: dict | None = None) -> None:
            data = body if isinstance(body, bytes) else json.dumps(body).encode()
            with contextlib.suppress(ConnectionError):  # the client may have given up
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                for name, value in (headers or {}).items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(data[:send])
            self.close_connection = self.close_connection or send is not None

    return Handler


def main() -> None:
    """Serves until it is killed; its port stands in the file once it is ready."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--base", required=True)
    parser.add_argument("--port_file", required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler(Toy(args.base)))
    server.daemon_threads = True
    ready = Path(args.port_file)
    ready.with_suffix(".tmp").write_text(str(server.server_port))
    ready.with_suffix(".tmp").replace(ready)
    server.serve_forever()


if __name__ == "__main__":
    main()
