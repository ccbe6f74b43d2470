"""A stand-in for the hub on this machine's loopback: as much of its HTTP interface as the hub library calls.

Repositories live in memory. Small files come inline with the commit; large ones and weights go through Git LFS, whose
objects are put to an address of their own and served by a redirect. Every request is kept in ``asked``.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import http.server
import json
import re
import socket
import threading
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote, urlsplit

import yaml

TOKEN = "hf_" + "standinTokenThatIsNoSecret0123456"
WRITES = ("POST", "PUT", "DELETE", "PATCH")


@dataclass
class Repo:
    """One repository: its commits, oldest first, each a mapping of file names to contents."""

    private: bool = False
    kind: str = "model"
    commits: list[tuple[str, dict[str, bytes]]] = field(default_factory=list)
    messages: list[str] = field(default_factory=list)

    def commit(self, files: dict[str, bytes], message: str = "") -> str:
        content = json.dumps({n: hashlib.sha256(c).hexdigest() for n, c in files.items()}, sort_keys=True)
        sha = hashlib.sha1(f"{len(self.commits)}{content}".encode()).hexdigest()
        self.commits.append((sha, files))
        self.messages.append(message)
        return sha

    def at(self, revision: str) -> tuple[str, dict[str, bytes]] | None:
        if revision == "main":
            return self.commits[-1]
        return next((entry for entry in self.commits if entry[0] == revision), None)


@dataclass
class Asked:
    """One request as it came in."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


class Hub:
    """The stand-in. ``user`` owns ``TOKEN`` and may write below its own name only."""

    def __init__(self, user: str = "ada") -> None:
        self.user = user
        self.repos: dict[str, Repo] = {}
        self.objects: dict[str, bytes] = {}
        self.asked: list[Asked] = []
        self.failures: list[tuple[str, str, int, str, str]] = []
        """(method, pattern of the path, status, message, error code): what is answered instead."""
        self.connections: list[socket.socket] = []
        self.torn: str | None = None
        """Name of a file whose content ends half-way."""
        self.tampered = False
        """Whether large objects come with their last bit turned over."""
        self.said_sizes: dict[str, int] = {}
        """Sizes that the listing gives instead of the true ones."""
        hub = self
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (_Handler,), {"hub": hub}))
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    @property
    def store(self) -> str:
        """Where the large objects lie: another host in the library's eyes, which must not see the token."""
        return f"http://localhost:{self._server.server_port}/store"

    def __enter__(self) -> Hub:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """The hub is gone; connections are refused from now on."""
        if self._thread.is_alive():
            self._server.shutdown()
            self._server.server_close()
            self._thread.join()
            for connection in self.connections:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def publish(self, name: str, files: dict[str, bytes], **about: Any) -> str:
        """A repository with one more commit, as if someone had pushed it; returns the commit."""
        repo = self.repos.setdefault(name, Repo(**about))
        return repo.commit(dict(files))

    def files(self, name: str) -> dict[str, bytes]:
        return self.repos[name].commits[-1][1]

    def count(self, method: str, part: str) -> int:
        """How often something was asked for."""
        return sum(a.method == method and part in a.path for a in self.asked)

    def written(self) -> list[Asked]:
        return [a for a in self.asked if a.method in WRITES]

    def fail(self, method: str, pattern: str, status: int, message: str = "", code: str = "") -> None:
        self.failures.append((method, pattern, status, message, code))


def is_large(name: str, content_size: int) -> bool:
    return name.endswith((".safetensors", ".bin", ".pth")) or content_size > 10_000_000


class _Handler(http.server.BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def setup(self) -> None:
        super().setup()
        self.hub.connections.append(self.connection)

    def log_message(self, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        self.handle_any()

    def do_HEAD(self) -> None:
        self.handle_any()

    def do_POST(self) -> None:
        self.handle_any()

    def do_PUT(self) -> None:
        self.handle_any()

    # ------------------------------------------------------------ routing

    def handle_any(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.body = self.read_body()
        self.hub.asked.append(Asked(self.command, self.path, dict(self.headers.items()), self.body))
        for method, pattern, status, message, code in self.hub.failures:
            if self.command == method and re.search(pattern, path):
                return self.refuse(status, message, code)
        routes = [
            ("POST", r"/api/repos/create", self.create),
            ("POST", r"/api/validate-yaml", self.validate),
            ("POST", r"/api/models/(?P<name>[^/]+/[^/]+)/preupload/main", self.preupload),
            ("POST", r"/api/models/(?P<name>[^/]+/[^/]+)/commit/main", self.commit),
            ("POST", r"/(?P<name>[^/]+/[^/]+)\.git/info/lfs/objects/batch", self.batch),
            ("PUT", r"/store/(?P<oid>[0-9a-f]{64})", self.store),
            ("POST", r"/verify", lambda: self.reply({})),
            ("GET", r"/api/(?P<kind>model|dataset|space)s/(?P<name>[^/]+/[^/]+)(/revision/(?P<rev>.+))?", self.info),
            ("(GET|HEAD)", r"/(?P<name>[^/]+/[^/]+)/resolve/(?P<rev>[^/]+)/(?P<file>.+)", self.resolve),
            ("(GET|HEAD)", r"/store/(?P<oid>[0-9a-f]{64})", self.serve_object),
        ]
        for method, pattern, answer in routes:
            found = re.fullmatch(pattern, path)
            if found and re.fullmatch(method, self.command):
                return answer(**found.groupdict())
        self.refuse(404, "no such address")

    def read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def reply(self, data: Any, status: int = 200, **headers: str) -> None:
        content = data if isinstance(data, bytes) else json.dumps(data).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/octet-stream" if isinstance(data, bytes) else "application/json")
        self.send_header("Content-Length", str(len(content)))
        for key, value in headers.items():
            self.send_header(key.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def refuse(self, status: int, message: str, code: str = "") -> None:
        headers = {"X_Error_Message": message} | ({"X_Error_Code": code} if code else {})
        self.reply({"error": message}, status, **headers)

    # ------------------------------------------------------------ who may

    def token(self) -> str:
        return self.headers.get("Authorization", "").removeprefix("Bearer ")

    def may_write(self, name: str) -> bool:
        if self.token() != TOKEN:
            self.refuse(401, "Invalid credentials in Authorization header")
        elif name.partition("/")[0] != self.hub.user:
            self.refuse(403, "You don't have the rights to create a model under this namespace")
        else:
            return True
        return False

    def find(self, name: str, kind: str = "model") -> Repo | None:
        """The repository if it is there and may be seen; else the hub's answer, the same for both."""
        repo = self.hub.repos.get(name)
        if repo and repo.kind == kind and (not repo.private or self.token() == TOKEN):
            return repo
        self.refuse(404 if self.token() == TOKEN else 401, "Repository not found", "RepoNotFound")
        return None

    # ------------------------------------------------------------ writing

    def create(self) -> None:
        asked = json.loads(self.body)
        name = f"{asked.get('organization') or self.hub.user}/{asked['name']}"
        if not self.may_write(name):
            return
        if name in self.hub.repos:
            return self.refuse(409, "You already created this model repo")
        private = asked.get("visibility") == "private" or bool(asked.get("private"))
        self.hub.repos[name] = Repo(private)
        self.hub.repos[name].commit({".gitattributes": b"*.safetensors filter=lfs\n"}, "initial commit")
        self.reply({"url": f"{self.hub.address}/{name}", "name": name})

    def validate(self) -> None:
        found = re.match(r"---\r?\n(.*?)\r?\n---\r?\n", json.loads(self.body)["content"], re.DOTALL)
        try:
            data = yaml.safe_load(found[1]) if found else None
        except yaml.YAMLError as error:
            return self.reply({"errors": [{"message": str(error)}], "warnings": []}, 400)
        warnings = [] if data else [{"message": "empty or missing yaml metadata in repo card"}]
        self.reply({"errors": [], "warnings": warnings})

    def preupload(self, name: str) -> None:
        repo = self.find(name)
        if repo is None or not self.may_write(name):
            return
        files = [
            {
                "path": f["path"],
                "uploadMode": "lfs" if is_large(f["path"], f["size"]) else "regular",
                "shouldIgnore": False,
            }
            for f in json.loads(self.body)["files"]
        ]
        self.reply({"files": files})

    def batch(self, name: str) -> None:
        if not self.may_write(name):
            return
        objects = []
        for wanted in json.loads(self.body)["objects"]:
            entry = {"oid": wanted["oid"], "size": wanted["size"]}
            if wanted["oid"] not in self.hub.objects:
                href = f"{self.hub.store}/{wanted['oid']}"
                entry["actions"] = {"upload": {"href": href}, "verify": {"href": f"{self.hub.address}/verify"}}
            objects.append(entry)
        self.reply({"transfer": "basic", "objects": objects})

    def store(self, oid: str) -> None:
        if hashlib.sha256(self.body).hexdigest() != oid:
            return self.refuse(400, "the content does not have this checksum")
        self.hub.objects[oid] = self.body
        self.reply({})

    def commit(self, name: str) -> None:
        repo = self.find(name)
        if repo is None or not self.may_write(name):
            return
        lines = [json.loads(line) for line in self.body.splitlines()]
        header = lines[0]["value"]
        if header.get("parentCommit") not in (None, repo.commits[-1][0]):
            return self.refuse(412, "A commit has happened since. Please refresh and try again.")
        files = dict(repo.commits[-1][1])
        for line in lines[1:]:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.hub.objects[value["oid"]]
            else:
                del files[value["path"]]
        sha = repo.commit(files, header["summary"])
        self.reply({"commitUrl": f"{self.hub.address}/{name}/commit/{sha}", "commitOid": sha})

    # ------------------------------------------------------------ reading

    def info(self, kind: str, name: str, rev: str | None) -> None:
        repo = self.find(name, kind)
        if repo is None:
            return
        found = repo.at(rev or "main")
        if found is None:
            return self.refuse(404, "Invalid rev id", "RevisionNotFound")
        sha, files = found
        siblings: list[dict[str, Any]] = []
        for file, content in files.items():
            entry: dict[str, Any] = {"rfilename": file}
            if "blobs=" in self.path:
                entry["size"] = self.hub.said_sizes.get(file, len(content))
                entry["blobId"] = hashlib.sha1(content).hexdigest()
                if is_large(file, len(content)):
                    oid = hashlib.sha256(content).hexdigest()
                    entry["lfs"] = {"sha256": oid, "size": len(content), "pointerSize": 134}
            siblings.append(entry)
        card = re.match(rb"---\n(.*?)\n---\n", files.get("README.md", b""), re.DOTALL)
        data = yaml.safe_load(card[1]) if card else {}
        about = {"id": name, "sha": sha, "private": repo.private, "siblings": siblings, "tags": data.get("tags", [])}
        self.reply(about | {"cardData": data})

    def resolve(self, name: str, rev: str, file: str) -> None:
        repo = self.find(name)
        if repo is None:
            return
        found = repo.at(rev)
        if found is None:
            return self.refuse(404, "Invalid rev id", "RevisionNotFound")
        sha, files = found
        if file not in files:
            return self.refuse(404, "Entry not found", "EntryNotFound")
        content = files[file]
        if is_large(file, len(content)):
            oid = hashlib.sha256(content).hexdigest()
            self.hub.objects[oid] = content
            where = {"Location": f"{self.hub.store}/{oid}", "X_Linked_Etag": f'"{oid}"'}
            return self.reply(b"", 302, X_Repo_Commit=sha, X_Linked_Size=str(len(content)), **where)
        self.send_content(file, content, X_Repo_Commit=sha, ETag=f'"{hashlib.sha1(content).hexdigest()}"')

    def serve_object(self, oid: str) -> None:
        content = self.hub.objects[oid]
        if self.hub.tampered:
            content = content[:-1] + bytes([content[-1] ^ 1])
        self.send_content("model.safetensors", content, ETag=f'"{oid}"')

    def send_content(self, file: str, content: bytes, **headers: str) -> None:
        if self.hub.torn != file or self.command == "HEAD":
            return self.reply(content, **headers)
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        for key, value in headers.items():
            self.send_header(key.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(content[: len(content) // 2])
        self.close_connection = True
