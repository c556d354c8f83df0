"""A hub on loopback: enough of the Hugging Face hub's HTTP interface to push a model and to get it back."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit


class Hub(ThreadingHTTPServer):
    """Repositories as files by path; `refused` is a status code that every writing request gets."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.private: dict[str, bool] = {}
        self.large: dict[str, bytes] = {}  # uploaded large files by SHA-256
        self.commits: list[str] = []
        self.tokens: set[str | None] = set()
        self.refused: int | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments: object) -> None:
        pass

    def do_POST(self) -> None:
        hub, path, body = self.server, unquote(urlsplit(self.path).path), self._body()
        hub.tokens.add(self.headers.get("Authorization"))
        if hub.refused is not None:
            self._answer({"error": "You don't have the rights"}, hub.refused)
        elif path == "/api/repos/create":
            wanted = json.loads(body)
            name = "/".join(filter(None, (wanted.get("organization"), wanted["name"])))
            there = name in hub.repositories
            hub.repositories.setdefault(name, {})
            hub.private[name] = bool(wanted.get("private") or wanted.get("visibility") == "private")
            self._answer({"url": f"{hub.url}/{name}", "id": name}, 409 if there else 200)
        elif path == "/api/validate-yaml":
            self._answer({"warnings": [], "errors": []})
        elif re.fullmatch(r"/api/models/.+/preupload/main", path):
            names = [file["path"] for file in json.loads(body)["files"]]
            modes = {True: "lfs", False: "regular"}
            files = [
                {"path": n, "uploadMode": modes[n.endswith(".safetensors")], "shouldIgnore": False}
                for n in names
            ]
            self._answer({"files": files})
        elif path.endswith(".git/info/lfs/objects/batch"):
            objects = [
                {**wanted, "actions": {"upload": {"href": f"{hub.url}/large/{wanted['oid']}"}}}
                for wanted in json.loads(body)["objects"]
            ]
            self._answer({"transfer": "basic", "objects": objects})
        elif match := re.fullmatch(r"/api/models/(.+)/commit/main", path):
            self._commit(match[1], [json.loads(line) for line in body.splitlines()])
        else:
            self._answer({"error": f"no such address: POST {path}"}, 404)

    def _commit(self, name: str, lines: list[dict]) -> None:
        hub = self.server
        for line in lines:
            value = line["value"]
            if line["key"] == "header":
                hub.commits.append(value["summary"])
            elif line["key"] == "file":
                hub.repositories[name][value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                hub.repositories[name][value["path"]] = hub.large[value["oid"]]
        address = f"{hub.url}/{name}/commit/{self._sha(name)}"
        self._answer({"success": True, "commitUrl": address, "commitOid": self._sha(name)})

    def do_PUT(self) -> None:
        body = self._body()
        digest = hashlib.sha256(body).hexdigest()
        if self.path != f"/large/{digest}":
            self._answer({"error": "these are other bytes"}, 400)
            return
        self.server.large[digest] = body
        self._answer({})

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        hub, path = self.server, unquote(urlsplit(self.path).path)
        about = re.fullmatch(r"/api/models/(.+?)(?:/revision/[^/]+)?", path)
        tree = re.fullmatch(r"/api/models/(.+?)/tree/[^/]+", path)
        file = re.fullmatch(r"/(.+)/resolve/[^/]+/(.+)", path)
        if about and about[1] in hub.repositories:
            siblings = [{"rfilename": name} for name in hub.repositories[about[1]]]
            self._answer({"id": about[1], "sha": self._sha(about[1]), "siblings": siblings})
        elif tree and tree[1] in hub.repositories:
            files = hub.repositories[tree[1]].items()
            self._answer([{"type": "file", "path": n, "size": len(c), "oid": "0" * 40} for n, c in files])
        elif file and file[2] in hub.repositories.get(file[1], {}):
            content = hub.repositories[file[1]][file[2]]
            etag = hashlib.sha256(content).hexdigest()
            self._send(content, 200, {"X-Repo-Commit": self._sha(file[1]), "ETag": f'"{etag}"'})
        else:
            error = {"X-Error-Code": "EntryNotFound" if file else "RepoNotFound"}
            self._send(b"{}", 404, error)

    def _sha(self, name: str) -> str:
        return hashlib.sha1(repr(sorted(self.server.repositories[name].items())).encode()).hexdigest()

    def _body(self) -> bytes:
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _answer(self, value: object, status: int = 200) -> None:
        self._send(json.dumps(value).encode(), status, {"Content-Type": "application/json"})

    def _send(self, content: bytes, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)
