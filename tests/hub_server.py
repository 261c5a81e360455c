"""A Hub on loopback for the real `huggingface_hub` client: create, upload (LFS), commit, list, download; and faults.

It speaks plain HTTP and LFS. Xet, the Hub's newer storage, is off in these tests (HF_HUB_DISABLE_XET=1): the server
does not implement it. `with HubServer() as hub:` serves; `hub.env(home)` is the environment of a process that talks to
it.
"""

import base64
import hashlib
import json
import os
import re
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

TOKEN = "hf_loopbackTokenForTests0123456789"
HANGS = -1
API = re.compile(r"/api/(models|datasets)/([^/]+/[^/]+?)(?:/(revision|tree|preupload|commit)/([^/]+)(?:/(.*))?)?$")
RESOLVE = re.compile(r"/(datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)$")
LFS = re.compile(r"/(datasets/)?([^/]+/[^/]+)\.git/info/lfs/objects/batch$")
LARGE = (".safetensors", ".mp4", ".png")


@dataclass
class Repo:
    """One repository: its commits, each a mapping of paths to contents."""

    private: bool
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)

    def commit(self, files: dict[str, bytes], message: str) -> str:
        name = hashlib.sha1(f"{len(self.commits)}{message}".encode()).hexdigest()
        self.commits[name] = files
        self.messages.append(message)
        return name

    @property
    def head(self) -> str:
        return list(self.commits)[-1]

    @property
    def files(self) -> dict[str, bytes]:
        return self.commits[self.head]


class HubServer:
    """Serves repositories on loopback.

    `fail(path, status)` answers the next request whose path holds `path` with that status, cuts the connection if the
    status is 0, or says nothing for 5 seconds if it is HANGS; `times` says how often. `seen` counts what was asked.
    """

    def __init__(self) -> None:
        self.repos: dict[tuple[str, str], Repo] = {}
        self.blobs: dict[str, bytes] = {}
        self.faults: list[list[Any]] = []
        self.seen: Counter[str] = Counter()
        self.lock = threading.Lock()
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"hub": self}))
        self.http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.http.server_port}"

    def __enter__(self) -> "HubServer":
        threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, kind: type | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.http.shutdown()
        self.http.server_close()

    def env(self, home: Path, *, token: str | None = TOKEN) -> dict[str, str]:
        """The environment of a process that has this Hub, its own empty cache, and no Xet."""
        off = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE", "HF_TOKEN")
        kept = {key: value for key, value in os.environ.items() if key not in off}
        kept |= {"HF_ENDPOINT": self.url, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1", "no_proxy": "127.0.0.1"}
        kept |= {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
        return kept | ({"HF_TOKEN": token} if token else {})

    def put(self, name: str, folder: Path, *, kind: str = "models") -> str:
        """Puts a folder there as somebody else would have pushed it; returns the commit."""
        files = {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}
        repo = self.repos.setdefault((kind, name), Repo(private=False))
        for content in files.values():
            self.blobs[hashlib.sha256(content).hexdigest()] = content
        return repo.commit(files, "put")

    def fail(self, path: str, status: int, *, times: int = 1) -> None:
        """Scripts a fault."""
        self.faults.append([path, status, times])

    def fault_of(self, line: str) -> int | None:
        with self.lock:
            for fault in self.faults:
                if fault[0] in line and fault[2] > 0:
                    fault[2] -= 1
                    return fault[1]
        return None


class Handler(BaseHTTPRequestHandler):
    """The calls of the client; `hub` is the server that it belongs to."""

    hub: HubServer
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: Any) -> None:
        """Silent."""

    def handle_one_call(self) -> None:
        self.path, self.query = unquote(urlsplit(self.path).path), parse_qs(urlsplit(self.path).query)
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        else:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        line = f"{self.command} {self.path}"
        self.hub.seen[line] += 1
        fault = self.hub.fault_of(line)
        if fault == 0:
            self.close_connection = True
            self.connection.close()
            return
        if fault == HANGS:
            time.sleep(5)
        elif fault is not None:
            return self.answer(fault, {"error": f"scripted {fault}"})
        with self.hub.lock:
            return self.route(body)

    do_GET = do_HEAD = do_POST = do_PUT = handle_one_call

    def route(self, body: bytes) -> None:
        if self.path == "/api/repos/create":
            return self.create(json.loads(body))
        if self.path == "/api/validate-yaml":
            return self.validate(json.loads(body)["content"])
        if found := LFS.match(self.path):
            return self.batch(json.loads(body))
        if self.path.startswith("/lfs/"):
            oid = self.path.removeprefix("/lfs/")
            good = hashlib.sha256(body).hexdigest() == oid
            self.hub.blobs |= {oid: body} if good else {}
            return self.answer(200 if good else 400, {})
        if found := RESOLVE.match(self.path):
            return self.resolve("datasets" if found[1] else "models", found[2], found[3], found[4])
        if found := API.match(self.path):
            kind, name, call, revision, self.below = found.groups()
            repo = self.repo(kind, name)
            if repo is None:
                return None
            calls = {"tree": self.tree, "preupload": self.preupload, "commit": self.commit}
            return calls[call](repo, revision, body) if call in calls else self.info(kind, name, repo, revision)
        return self.answer(404, {"error": "no such call"})

    def repo(self, kind: str, name: str) -> Repo | None:
        """The repository if it is there and this caller may see it, else an answer."""
        repo = self.hub.repos.get((kind, name))
        writes = self.command in ("POST", "PUT")
        if repo is None or ((repo.private or writes) and not self.has_token()):
            status = 404 if self.has_token() else 401
            self.answer(status, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
            return None
        return repo

    def has_token(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def create(self, asked: dict[str, Any]) -> None:
        if not self.has_token():
            return self.answer(401, {"error": "Invalid credentials in Authorization header"})
        name = f"{asked['organization']}/{asked['name']}"
        url = {"url": f"{self.hub.url}/{name}"}
        if ("models", name) in self.hub.repos:
            return self.answer(409, {"error": "You already created this model repo"} | url)
        repo = Repo(private=asked.get("visibility") == "private")
        repo.commit({".gitattributes": b"*.safetensors filter=lfs\n"}, "initial commit")
        self.hub.repos["models", name] = repo
        return self.answer(200, url)

    def validate(self, content: str) -> None:
        """As the Hub does: the metadata must be YAML with a license of its list."""
        data = yaml.safe_load(content.split("---")[1])
        bad = not re.fullmatch(r"apache-2\.0|mit|unknown|other", data.get("license", ""))
        errors = [{"message": '"license" must be one of a list'}] if bad else []
        return self.answer(400 if errors else 200, {"errors": errors, "warnings": []})

    def preupload(self, repo: Repo, revision: str, body: bytes) -> None:
        files = []
        for asked in json.loads(body)["files"]:
            old, large = repo.files.get(asked["path"]), asked["path"].endswith(LARGE)
            answer = {"path": asked["path"], "uploadMode": "lfs" if large else "regular", "shouldIgnore": False}
            files.append(answer | ({"oid": oid(old, large)} if old is not None else {}))
        return self.answer(200, {"files": files})

    def batch(self, asked: dict[str, Any]) -> None:
        objects = []
        for item in asked["objects"]:
            upload = {"upload": {"href": f"{self.hub.url}/lfs/{item['oid']}"}}
            objects.append(item | ({} if item["oid"] in self.hub.blobs else {"actions": upload}))
        return self.answer(200, {"transfer": "basic", "objects": objects})

    def commit(self, repo: Repo, revision: str, body: bytes) -> None:
        files, message = dict(repo.files), ""
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "header":
                message = value["summary"]
            elif line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.hub.blobs[value["oid"]]
            else:
                assert line["key"] == "deletedFile", line["key"]
                del files[value["path"]]
        name = repo.commit(files, message)
        return self.answer(
            200, {"commitUrl": f"{self.hub.url}/{self.path.split('/')[3]}/x/commit/{name}", "commitOid": name}
        )

    def info(self, kind: str, name: str, repo: Repo, revision: str | None) -> None:
        files = self.files(repo, revision)
        if files is None:
            return self.answer(404, {"error": "Invalid rev"}, {"X-Error-Code": "RevisionNotFound"})
        commit = repo.head if revision in (None, "main") else revision
        siblings = [{"rfilename": path} for path in sorted(files)]
        return self.answer(200, {"id": name, "sha": commit, "private": repo.private, "siblings": siblings})

    def tree(self, repo: Repo, revision: str, body: bytes) -> None:
        if self.below:  # transformers looks for a folder of further chat templates
            return self.answer(404, {}, {"X-Error-Code": "EntryNotFound"})
        entries = []
        for path, content in sorted((self.files(repo, revision) or {}).items()):
            entry = {"type": "file", "path": path, "size": len(content), "oid": oid(content, False)}
            if path.endswith(LARGE):
                entry["lfs"] = {"oid": oid(content, True), "size": len(content), "pointerSize": 134}
            entries.append(entry)
        return self.answer(200, entries)

    def resolve(self, kind: str, name: str, revision: str, path: str) -> None:
        repo = self.repo(kind, name)
        if repo is None:
            return None
        files = self.files(repo, revision)
        if files is None or path not in files:
            code = "RevisionNotFound" if files is None else "EntryNotFound"
            return self.answer(404, {}, {"X-Error-Code": code, "X-Repo-Commit": repo.head})
        commit = repo.head if revision == "main" else revision
        headers = {"ETag": f'"{oid(files[path], path.endswith(LARGE))}"', "X-Repo-Commit": commit}
        return self.answer(200, files[path], headers)

    @staticmethod
    def files(repo: Repo, revision: str | None) -> dict[str, bytes] | None:
        return repo.files if revision in (None, "main") else repo.commits.get(revision)

    def answer(self, status: int, value: Any, headers: dict[str, str] | None = None) -> None:
        content = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(status)
        kind = "application/octet-stream" if isinstance(value, bytes) else "application/json"
        for key, text in {"Content-Type": kind, "Content-Length": str(len(content)), **(headers or {})}.items():
            self.send_header(key, text)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


def oid(content: bytes, large: bool) -> str:
    """The name of a content: sha256 in LFS, else as git names a blob."""
    if large:
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
