"""How the loopback hub words its answers about a repository."""

import base64
import json
import re
from typing import Any, NamedTuple

import yaml
from hub_repositories import Commit, Refused, Repository, file_entry, is_large


class Request(NamedTuple):
    """One request as it came, apart from its Authorization header."""

    method: str
    path: str  # without the query
    query: str
    headers: dict[str, str]
    body: bytes


class Answer(NamedTuple):
    status: int
    body: bytes
    headers: dict[str, str]


def as_json(value: Any, status: int = 200) -> Answer:
    return Answer(status, json.dumps(value).encode(), {"Content-Type": "application/json"})


def decoded(asked: Request) -> bytes:
    """Contents that travel in base64, as they are: what is searched for must be found."""
    found = re.findall(rb'"(?:content|sample)": ?"([A-Za-z0-9+/=]{8,})"', asked.body)
    return b"".join(b"\n" + base64.b64decode(text) for text in found if len(text) % 4 == 0)


def mode(head: Commit, file: dict[str, Any]) -> dict[str, Any]:
    there = head.files.get(file["path"])
    mode = "lfs" if is_large(file["path"], file["size"]) else "regular"
    return {"path": file["path"], "uploadMode": mode, "shouldIgnore": False, "oid": there and there.etag}


def info(repository: Repository, head: Commit) -> dict[str, Any]:
    siblings = []
    for path, stored in head.files.items():
        entry = file_entry(path, stored)
        siblings.append({"rfilename": path, "size": entry["size"], "blobId": entry["oid"]})
    readme = head.files.get("README.md")
    return {
        "id": repository.id, "sha": head.oid, "private": repository.private, "gated": repository.gated and "manual",
        "siblings": siblings, "tags": [], "downloads": 0, "likes": 0,
        "cardData": metadata(readme.data) if readme else None,
    }  # fmt: skip


def metadata(readme: bytes) -> Any:
    parts = readme.decode().split("---\n")
    return yaml.safe_load(parts[1]) if len(parts) > 2 and not parts[0] else None


def validated(readme: str) -> Answer:
    """YAML that cannot be read is refused, as are a licence that is no text and tags that are no list."""
    try:
        found = metadata(readme.encode()) or {}
    except yaml.YAMLError as error:
        return as_json({"errors": [{"message": str(error)}], "warnings": []}, 400)
    wrong = [k for k, kind in (("license", str), ("tags", list)) if not isinstance(found.get(k, kind()), kind)]
    errors = [{"message": f'"{key}" has a wrong type'} for key in wrong]
    warnings = [] if found else [{"message": "empty or missing yaml metadata in repo card"}]
    return as_json({"errors": errors, "warnings": warnings}, 400 if errors else 200)


def resolved(repository: Repository, revision: str, name: str, asked: Request, names: tuple[str, ...]) -> Answer:
    head = repository.head(revision)
    if repository.gated and repository.owner not in names:
        words = f"Access to {repository.type} {repository.id} is restricted."
        raise Refused(403 if names else 401, words, "GatedRepo")
    if name not in head.files:
        raise Refused(404, "Entry not found", "EntryNotFound")
    stored = head.files[name]
    headers = {"ETag": f'"{stored.etag}"', "X-Repo-Commit": head.oid, "Accept-Ranges": "bytes"}
    ranged = re.fullmatch(r"bytes=(\d+)-(\d*)", asked.headers.get("range", ""))
    if not ranged:
        return Answer(200, stored.data, headers)
    start, last = int(ranged[1]), int(ranged[2] or len(stored.data) - 1)
    shown = {"Content-Range": f"bytes {start}-{last}/{len(stored.data)}"}
    return Answer(206, stored.data[start : last + 1], {**headers, **shown})
