"""A loopback double of the hub: what the real client of `huggingface_hub` asks, answered from memory.

with HubDouble() as double:
    commit = double.add("user/name", folder)          # or let a client create and fill a repository
    double.faults.append(Fault("/commit/", status=503))
    ...                                               # HF_ENDPOINT=double.endpoint, HF_HUB_DISABLE_XET=1
"""

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
from hub_answers import Answer, Request, as_json, decoded, info, mode, resolved, validated
from hub_repositories import ATTRIBUTES, Commit, Refused, Repository, Stored, committed, in_folder, paths_info, tree

COMMIT = "0123456789abcdef0123456789abcdef01234567"
SIGNATURE = "signed-for-whoever-holds-this-address"  # in addresses that large files are put to
TOKEN = "hf_loopbackdoubletokenoftheuser"  # user `user` of the double
API = re.compile(
    r"/api/(model|dataset)s/(.+?)(?:/(revision|tree|preupload|commit|branch|refs|paths-info|xet-write-token)(/.*)?)?"
)
RESOLVE = re.compile(r"/(datasets/)?([^/]+(?:/[^/]+)?)/resolve/([^/]+)/(.+)")
LFS = re.compile(r"/(datasets/)?(.+)\.git/info/lfs/objects/(batch|verify)")
UPLOAD = re.compile(r"/lfs/([0-9a-f]{64})")


@dataclass
class Fault:
    """What goes wrong with requests whose path holds `path`: the `nth` of them and, of these, `times`.

    With `accepted` the request is carried out all the same, and only its answer is lost.
    """

    path: str
    status: int | None = None  # answered; None with `drop` or `stall`
    nth: int = 1
    times: int = 1
    method: str = ""  # any
    headers: dict[str, str] = field(default_factory=dict)
    accepted: bool = False
    drop: bool = False  # the connection is closed without an answer
    stall: bool = False  # no answer until the client gives up or the double is closed
    words: str = "a fault of the double"
    met: int = 0

    def strikes(self, asked: Request) -> bool:
        if self.path not in asked.path or self.method not in ("", asked.method):
            return False
        self.met += 1
        return self.nth <= self.met < self.nth + self.times


class HubDouble:
    """Repositories in memory behind a loopback endpoint; `tokens` are users (and their organisations) by token."""

    def __init__(self, tokens: dict[str, tuple[str, ...]] | None = None) -> None:
        self.tokens = {TOKEN: ("user",)} if tokens is None else tokens
        self.repositories: dict[tuple[str, str], Repository] = {}  # by type and id
        self.large: dict[str, bytes] = {}  # uploaded by LFS, by sha256
        self.faults: list[Fault] = []
        self.requests: list[Request] = []
        self.asked: list[str] = []  # paths
        self.closing = threading.Event()
        self.lock = threading.RLock()

    def __enter__(self) -> "HubDouble":
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler(self))
        self.endpoint = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.closing.set()
        self.server.shutdown()
        self.server.server_close()

    def add(
        self, repo_id: str, folder: Path, repo_type: str = "model", private: bool = False, gated: bool = False,
        oid: str | None = None,
    ) -> str:  # fmt: skip
        """Commit the files of a folder to `main`, in a new repository where there is none; gives the commit."""
        with self.lock:
            made = Repository(repo_id, repo_type, private, gated)
            repository = self.repositories.setdefault((repo_type, repo_id), made)
            return repository.add("main", "added", in_folder(folder), oid).oid

    def files(self, repo_id: str, repo_type: str = "model", revision: str = "main") -> dict[str, bytes]:
        with self.lock:
            held = self.repositories[repo_type, repo_id].head(revision).files
            return {path: stored.data for path, stored in held.items()}

    def commits(self, repo_id: str, repo_type: str = "model", revision: str = "main") -> list[Commit]:
        """Oldest first; the first of a repository that a client created holds `.gitattributes` alone."""
        with self.lock:
            return self.repositories[repo_type, repo_id].history(revision)

    def sent(self) -> bytes:
        """Every byte that clients sent, apart from Authorization headers."""
        with self.lock:
            return b"\n".join(
                f"{r.method} {r.path}?{r.query}\n{r.headers}\n".encode() + r.body + decoded(r) for r in self.requests
            )

    def answer(self, asked: Request, token: str | None) -> Answer:
        """The hub's answer to a request, in one piece."""
        with self.lock:
            try:
                return self._answered(asked, self._names(token), token)
            except Refused as refused:
                headers = {"X-Error-Message": refused.words}
                if refused.code:
                    headers["X-Error-Code"] = refused.code
                body = json.dumps({"error": refused.words}).encode()
                return Answer(refused.status, body, {**headers, "Content-Type": "application/json"})

    def _names(self, token: str | None) -> tuple[str, ...]:
        """The user and organisations of a token; none without one."""
        if token is not None and token not in self.tokens:
            raise Refused(401, "Invalid credentials in Authorization header")
        return self.tokens[token] if token is not None else ()

    def _answered(self, asked: Request, names: tuple[str, ...], token: str | None) -> Answer:
        path = asked.path
        if path == "/api/whoami-v2":
            if not names:
                raise Refused(401, "Invalid username or password.")
            orgs = [{"name": name, "type": "org"} for name in names[1:]]
            return as_json({"type": "user", "name": names[0], "orgs": orgs, "auth": {"type": "access_token"}})
        if path == "/api/repos/create":
            return self._create(json.loads(asked.body), names)
        if path == "/api/validate-yaml":
            return validated(json.loads(asked.body)["content"])
        if found := UPLOAD.fullmatch(path):
            if hashlib.sha256(asked.body).hexdigest() != found[1]:
                raise Refused(400, "not the content that was announced")
            self.large[found[1]] = asked.body
            return as_json({})
        if found := LFS.fullmatch(path):
            repository = self._repository("dataset" if found[1] else "model", found[2], names, write=True)
            return self._lfs(repository, found[3], json.loads(asked.body))
        if found := RESOLVE.fullmatch(path):
            repository = self._repository("dataset" if found[1] else "model", found[2], names)
            return resolved(repository, unquote(found[3]), unquote(found[4]), asked, names)
        if found := API.fullmatch(path):
            rest = (found[4] or "/").removeprefix("/")
            return self._api(self._repository(found[1], found[2], names), found[3] or "", rest, asked, names)
        raise Refused(404, f"no such page: {path}", "RepoNotFound")

    def _repository(self, kind: str, name: str, names: tuple[str, ...], write: bool = False) -> Repository:
        repository = self.repositories.get((kind, name))
        if repository is None or (repository.private and repository.owner not in names):
            raise Refused(404 if names else 401, "Repository not found", "RepoNotFound")
        if write and repository.owner not in names:
            words = f"You don't have the rights to write to {name}" if names else "Invalid username or password."
            raise Refused(403 if names else 401, words)
        return repository

    def _create(self, wanted: dict[str, Any], names: tuple[str, ...]) -> Answer:
        if not names:
            raise Refused(401, "Invalid username or password.")
        owner, kind = wanted.get("organization") or names[0], wanted.get("type") or "model"
        if owner not in names:
            raise Refused(403, f'You don\'t have the rights to create a {kind} under the namespace "{owner}"')
        name = f"{owner}/{wanted['name']}"
        url = f"{self.endpoint}/{'datasets/' if kind == 'dataset' else ''}{name}"
        if (kind, name) in self.repositories:
            return as_json({"error": f"You already created this {kind} repo", "url": url}, 409)
        private = wanted.get("visibility") == "private"
        repository = self.repositories[kind, name] = Repository(name, kind, private)
        repository.add("main", "initial commit", {".gitattributes": Stored(ATTRIBUTES, lfs=False)})
        return as_json({"url": url, "name": name})

    def _lfs(self, repository: Repository, what: str, wanted: dict[str, Any]) -> Answer:
        if what == "verify":
            if wanted["oid"] not in self.large or len(self.large[wanted["oid"]]) != wanted["size"]:
                raise Refused(404, "not uploaded")
            return as_json({})
        base = f"{self.endpoint}/{'datasets/' if repository.type == 'dataset' else ''}{repository.id}.git"
        objects = []
        for one in wanted["objects"]:
            actions = {
                "upload": {"href": f"{self.endpoint}/lfs/{one['oid']}?signature={SIGNATURE}"},
                "verify": {"href": f"{base}/info/lfs/objects/verify"},
            }
            objects.append({**one, **({} if one["oid"] in self.large else {"actions": actions})})
        return as_json({"transfer": "basic", "objects": objects})

    def _api(self, repository: Repository, what: str, rest: str, asked: Request, names: tuple[str, ...]) -> Answer:
        revision, _, folder = rest.partition("/")
        revision = unquote(revision) or "main"
        if what in ("", "revision"):
            return as_json(info(repository, repository.head(revision)))
        if what == "refs":
            branches = [
                {"name": k, "ref": f"refs/heads/{k}", "targetCommit": v} for k, v in repository.branches.items()
            ]
            return as_json({"branches": branches, "converts": [], "tags": []})
        if what == "tree":
            return as_json(tree(repository.head(revision), unquote(folder), "recursive=true" in asked.query.lower()))
        if what == "paths-info":
            return as_json(paths_info(repository.head(revision), parse_qs(asked.body.decode())["paths"]))
        self._repository(repository.type, repository.id, names, write=True)
        wanted = [json.loads(line) for line in asked.body.splitlines()]
        if what == "branch":
            repository.branch(revision, wanted[0].get("startingPoint"))
            return as_json({}, 201)
        if what == "preupload":
            return as_json({"files": [mode(repository.head(revision), file) for file in wanted[0]["files"]]})
        if what == "commit":
            oid = committed(repository, revision, wanted, self.large).oid
            kind = "datasets/" if repository.type == "dataset" else ""
            url = f"{self.endpoint}/{kind}{repository.id}/commit/{oid}"
            return as_json({"success": True, "commitOid": oid, "commitUrl": url, "hookOutput": ""})
        raise Refused(404, f"not spoken here: {what}")


def handler(double: HubDouble) -> type[BaseHTTPRequestHandler]:
    """The double's side of one connection."""

    class Connection(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = 1 << 16  # an answer leaves in one piece

        def answered(self) -> None:
            parts = urlsplit(self.path)
            headers = {key.lower(): value for key, value in self.headers.items()}
            given = headers.pop("authorization", None)
            asked = Request(self.command, parts.path, parts.query, headers, self.body())
            with double.lock:
                double.requests.append(asked)
                double.asked.append(asked.path)
                fault = next((fault for fault in double.faults if fault.strikes(asked)), None)
            answer = None
            if fault is None or fault.accepted:
                answer = double.answer(asked, given.removeprefix("Bearer ") if given else None)
            if fault is not None and fault.stall:
                double.closing.wait()
            if fault is not None and (fault.drop or fault.stall):
                self.close_connection = True
                return
            if fault is not None:
                answer = Answer(fault.status or 500, json.dumps({"error": fault.words}).encode(), fault.headers)
            assert answer is not None
            self.send(answer)

        def body(self) -> bytes:
            if "chunked" not in self.headers.get("Transfer-Encoding", ""):
                return self.rfile.read(int(self.headers.get("Content-Length", 0)))
            found = b""
            while size := int(self.rfile.readline(), 16):
                found += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return found

        def send(self, answer: Answer) -> None:
            self.send_response(answer.status)
            for key, value in {**answer.headers, "Content-Length": str(len(answer.body))}.items():
                self.send_header(key, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(answer.body)

        do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = answered

        def log_message(self, *_: object) -> None:
            """Quiet."""

    return Connection


def reach(double: HubDouble, monkeypatch: pytest.MonkeyPatch, token: str = TOKEN) -> None:
    """Let the client in this process speak with the double, online and without Xet."""
    from huggingface_hub import constants

    monkeypatch.setenv("HF_TOKEN", token)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "ENDPOINT", double.endpoint)


@contextmanager
def hub(repo: str, folder: Path) -> Iterator[tuple[str, list[str]]]:
    """Serve `folder` as `repo` (a data set where it begins with `datasets/`): the endpoint, and the paths asked for."""
    with HubDouble() as double:
        kind = "dataset" if repo.startswith("datasets/") else "model"
        double.add(repo.removeprefix("datasets/"), folder, kind, oid=COMMIT)
        yield double.endpoint, double.asked
