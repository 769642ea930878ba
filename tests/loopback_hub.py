"""A hub on loopback: the endpoints that `huggingface_hub` calls to push and to fetch, in memory."""

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

TOKEN = "hf_" + "Loopback0" * 4
"""The one token that may write, and read what is private."""


@dataclass
class Repo:
    """A repository: who may read it, and its commits, each a mapping from path to content."""

    private: bool
    commits: list[tuple[str, dict[str, bytes]]] = field(default_factory=list)
    messages: list[str] = field(default_factory=list)

    def commit(self, files: dict[str, bytes], message: str) -> str:
        sha = hashlib.sha1(repr((len(self.commits), sorted(files.items()))).encode()).hexdigest()
        self.commits.append((sha, files))
        self.messages.append(message)
        return sha

    def at(self, revision: str) -> tuple[str, dict[str, bytes]] | None:
        if revision == "main":
            return self.commits[-1]
        return next((found for found in self.commits if found[0] == revision), None)

    @property
    def files(self) -> dict[str, bytes]:
        return self.commits[-1][1]


class Hub:
    """What the hub holds, by type and id; tests read and spoil it."""

    def __init__(self) -> None:
        self.url = ""
        self.repos: dict[tuple[str, str], Repo] = {}
        self.large: dict[str, bytes] = {}
        self.lock = threading.Lock()


@contextmanager
def loopback_hub() -> Iterator[Hub]:
    """Serve until the block ends."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(hub))
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)


def environment(hub: Hub, home: str) -> dict[str, str]:
    """Variables for a command that uses it: not the real hub, and no cache of this machine."""
    return {
        "HF_ENDPOINT": hub.url,
        "HF_HUB_OFFLINE": "0",
        "TRANSFORMERS_OFFLINE": "0",
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_HOME": home,
        "HF_TOKEN": TOKEN,
        "NO_PROXY": "127.0.0.1",
    }


def _is_large(path: str) -> bool:
    return path.endswith((".safetensors", ".parquet", ".model"))


def _handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *arguments: Any) -> None:
            del format, arguments

        # -- answers

        def answer(self, status: int, value: Any = None, **headers: str) -> None:
            body = value if isinstance(value, bytes) else json.dumps(value).encode()
            self.send_response(status)
            for name, text in headers.items():
                self.send_header(name.replace("_", "-"), text)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def refuse(self, status: int, code: str, message: str) -> None:
            self.answer(status, {"error": message}, X_Error_Code=code, X_Error_Message=message)

        def body(self) -> bytes:
            if self.headers.get("Transfer-Encoding") != "chunked":
                return self.rfile.read(int(self.headers.get("Content-Length") or 0))
            found = b""
            while size := int(self.rfile.readline(), 16):
                found += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return found

        def may(self) -> bool:
            return self.headers.get("Authorization") == f"Bearer {TOKEN}"

        def repo(self, type_: str, id_: str) -> Repo | None:
            """The repository; answers by itself if there is none for this caller."""
            found = hub.repos.get((type_, id_))
            if found is None or (found.private and not self.may()):
                self.refuse(404, "RepoNotFound", "Repository not found")
                return None
            return found

        # -- requests

        def do_POST(self) -> None:
            parts = [unquote(part) for part in urlsplit(self.path).path.strip("/").split("/")]
            body = self.body()
            if parts == ["api", "validate-yaml"]:
                self.answer(200, {"errors": [], "warnings": []})
            elif not self.may():
                self.refuse(401, "", "Invalid username or password")
            elif parts == ["api", "repos", "create"]:
                self.create(json.loads(body))
            elif parts[-4:] == ["info", "lfs", "objects", "batch"]:
                self.batch(json.loads(body))
            elif parts[0] == "api" and parts[4] in ("preupload", "commit"):
                with hub.lock:
                    self.change(parts, body)
            else:
                self.refuse(404, "", f"no such endpoint: {self.path}")

        def create(self, wanted: dict[str, Any]) -> None:
            type_, id_ = wanted.get("type", "model"), f"{wanted['organization']}/{wanted['name']}"
            if (type_, id_) in hub.repos:
                url = f"{hub.url}/{'' if type_ == 'model' else 'datasets/'}{id_}"
                self.answer(409, {"error": "You already created this repo", "url": url})
                return
            repo = hub.repos[type_, id_] = Repo(private=wanted.get("visibility") == "private")
            repo.commit({".gitattributes": b"*.safetensors filter=lfs\n"}, "initial commit")
            prefix = "" if type_ == "model" else "datasets/"
            self.answer(200, {"url": f"{hub.url}/{prefix}{id_}", "name": id_})

        def batch(self, wanted: dict[str, Any]) -> None:
            objects = []
            for one in wanted["objects"]:
                found: dict[str, Any] = {"oid": one["oid"], "size": one["size"]}
                if one["oid"] not in hub.large:
                    href = f"{hub.url}/large/{one['oid']}"
                    found["actions"] = {"upload": {"href": href}}
                objects.append(found)
            self.answer(200, {"transfer": "basic", "objects": objects})

        def change(self, parts: list[str], body: bytes) -> None:
            _, types, owner, name, what, revision = parts[:6]
            repo = self.repo(types.removesuffix("s"), f"{owner}/{name}")
            if repo is None:
                return
            if what == "preupload":
                files = [
                    {
                        "path": one["path"],
                        "uploadMode": "lfs" if _is_large(one["path"]) else "regular",
                        "shouldIgnore": False,
                        "oid": _oid(one["path"], repo.files.get(one["path"])),
                    }
                    for one in json.loads(body)["files"]
                ]
                self.answer(200, {"files": files})
                return
            assert revision == "main"
            files, lines = dict(repo.files), [json.loads(line) for line in body.splitlines()]
            header = lines[0]["value"]
            if header.get("parentCommit", repo.commits[-1][0]) != repo.commits[-1][0]:
                self.refuse(412, "", "a commit has happened since")
                return
            for line in lines[1:]:
                value = line["value"]
                if line["key"] == "file":
                    files[value["path"]] = base64.b64decode(value["content"])
                elif line["key"] == "lfsFile":
                    files[value["path"]] = hub.large[value["oid"]]
                elif line["key"] == "deletedFile":
                    del files[value["path"]]
            sha = repo.commit(files, header["summary"])
            url = f"{hub.url}/{owner}/{name}/commit/{sha}"
            self.answer(200, {"commitUrl": url, "commitOid": sha, "success": True})

        def do_PUT(self) -> None:
            body = self.body()
            oid = hashlib.sha256(body).hexdigest()
            if not self.path.endswith(f"/large/{oid}"):
                self.refuse(400, "", "not what was announced")
                return
            hub.large[oid] = body
            self.answer(200, {})

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            parts = [unquote(part) for part in urlsplit(self.path).path.strip("/").split("/")]
            if parts[0] == "api" and parts[1] in ("models", "datasets"):
                self.described(parts)
                return
            type_ = "dataset" if parts[0] == "datasets" else "model"
            rest = parts[1:] if type_ == "dataset" else parts
            if len(rest) < 5 or rest[2] != "resolve":
                self.refuse(404, "", f"no such endpoint: {self.path}")
                return
            repo = self.repo(type_, "/".join(rest[:2]))
            found = None if repo is None else repo.at(rest[3])
            if repo is None:
                return
            content = None if found is None else found[1].get("/".join(rest[4:]))
            if found is None or content is None:
                self.refuse(404, "EntryNotFound", "Entry not found")
                return
            tag = hashlib.sha256(content).hexdigest()
            self.answer(200, content, ETag=f'"{tag}"', X_Repo_Commit=found[0])

        def described(self, parts: list[str]) -> None:
            _, types, owner, name, *rest = parts
            repo = self.repo(types.removesuffix("s"), f"{owner}/{name}")
            if repo is None:
                return
            found = repo.at(rest[1] if len(rest) > 1 else "main")
            if found is None:
                self.refuse(404, "RevisionNotFound", "Revision not found")
                return
            sha, files = found
            if rest[:1] == ["tree"]:
                self.answer(200, [_entry(path, content) for path, content in files.items()])
                return
            siblings = [{"rfilename": path} for path in files]
            value = {"id": f"{owner}/{name}", "sha": sha, "private": repo.private}
            self.answer(200, value | {"siblings": siblings, "tags": []})

    return Handler


def _oid(path: str, content: bytes | None) -> str | None:
    """The hash by which a client sees that a file has not changed."""
    if content is None:
        return None
    if _is_large(path):
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _entry(path: str, content: bytes) -> dict[str, Any]:
    found: dict[str, Any] = {"type": "file", "path": path, "size": len(content)}
    found["oid"] = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    if _is_large(path):
        found["lfs"] = {"oid": _oid(path, content), "size": len(content), "pointerSize": 130}
    return found
