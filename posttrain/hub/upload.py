"""Files to a repository of the hub in one commit on top of the head that was looked at: the old state, or the new one.

Every try begins with a look at the head. If that holds our files already, there is nothing to do: so a second push
makes no second commit, and neither does a try after an answer that got lost on the way. If it is not the head of the
first try any more, somebody else has been there, and nothing is written.
"""

import hashlib
import io
import json
import logging
import re
import time
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, NamedTuple

from httpx2 import HTTPError

from posttrain.errors import PosttrainError
from posttrain.exporting.formats import EXPORTS
from posttrain.hub.release import ADAPTER, GGUF, MODEL, ROWS, File

LINEAGE = "posttrain.json"
OURS = (*MODEL, *ADAPTER, *GGUF, *ROWS)  # what a push writes at the root, and so may delete there
LOGIN = "Run 'hf auth login' with a token that may write, or set HF_TOKEN, and push again."
MAIN = "main"
TRIES = 4
STALLED = 120.0  # seconds without a byte after which an answer counts as lost
LONGEST_WAIT = 300.0  # seconds that the hub may ask us to wait
MOVED = 412
BUSY = (408, 429, 500, 502, 503, 504)
ADDRESS = re.compile(r"https?://[^\s'\"]+")
Say = Callable[[str], None]
Names = Mapping[str, tuple[str, str]]  # file: what git calls its bytes, and their sha256


class Target(NamedTuple):
    """Where it goes."""

    repo: str
    repo_type: str
    private: bool = False
    revision: str = MAIN
    replace: bool = False  # also weights that no push of ours has put there


class Uploaded(NamedTuple):
    url: str
    commit: str
    new: bool  # False: everything was there already


def upload(files: Sequence[File], target: Target, message: str, say: Say) -> Uploaded:
    """Make the repository hold `files`, by one commit or none. Raises PosttrainError for whatever the hub refuses."""
    from huggingface_hub import HfApi, get_session, get_token

    if get_token() is None:
        raise PosttrainError(f"{target.repo}: no token of yours is here; one is needed to push. {LOGIN}")
    for handler in logging.getLogger("huggingface_hub").handlers:
        handler.addFilter(_without_addresses)
    api, names, parent = HfApi(), {file.name: names_of(file.content) for file in files}, ""
    for attempt in range(1, TRIES + 1):
        get_session().timeout = STALLED
        try:
            head = _head(api, target)
            stored = _stored(api, target, head)
            stale = _stale(stored, names, target)
            if not stale and all(stored.get(name, "") in both for name, both in names.items()):
                return Uploaded(_page(api, target, head), head, new=parent not in ("", head))
            if parent not in ("", head):
                raise _moved(target)
            parent = head
            return _commit(api, files, stale, target, message, head)
        except (HTTPError, ConnectionError, PermissionError, RuntimeError, json.JSONDecodeError) as error:
            wait = _wait(error, attempt, target)
            say(f"{target.repo}: {_what(error)}; try {attempt + 1} of {TRIES} in {wait:g} s")
            time.sleep(wait)
    raise AssertionError("the last try ends above")


def _without_addresses(record: logging.LogRecord) -> bool:
    """The client says what it waits for, with the address: that of a large file is signed for us."""
    record.msg, record.args = ADDRESS.sub("the hub", record.getMessage()), ()
    return True


def names_of(content: Path | bytes) -> tuple[str, str]:
    """What the hub calls a file: git's name of its bytes, and of a large one their sha256."""
    size = len(content) if isinstance(content, bytes) else content.stat().st_size
    blob, sha256 = hashlib.sha1(b"blob %d\0" % size), hashlib.sha256()
    with io.BytesIO(content) if isinstance(content, bytes) else content.open("rb") as file:
        while chunk := file.read(1 << 20):
            blob.update(chunk)
            sha256.update(chunk)
    return blob.hexdigest(), sha256.hexdigest()


def _head(api: Any, target: Target) -> str:
    """The commit that the branch stands at; repository and branch are made where there is none."""
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

    where = {"repo_type": target.repo_type}
    try:
        found = api.repo_info(target.repo, revision=target.revision, **where)
    except (RepositoryNotFoundError, RevisionNotFoundError) as error:
        if error.response.status_code == 401:  # how the hub answers without a token that it knows
            raise
        if isinstance(error, RepositoryNotFoundError):
            api.create_repo(target.repo, private=target.private or None, exist_ok=True, **where)
        if target.revision != MAIN:
            api.create_branch(target.repo, branch=target.revision, exist_ok=True, **where)
        found = api.repo_info(target.repo, revision=target.revision, **where)
    if target.private and not found.private:
        raise PosttrainError(
            f"{target.repo}: is there and public; --private makes new repositories private. Make it private in its "
            "settings on the hub first, or leave --private out."
        )
    return str(found.sha)


def _stored(api: Any, target: Target, head: str) -> dict[str, str]:
    """The hub's name of every file at a commit."""
    from huggingface_hub import RepoFile

    entries = api.list_repo_tree(target.repo, recursive=True, repo_type=target.repo_type, revision=head)
    files = [entry for entry in entries if isinstance(entry, RepoFile)]
    return {file.path: file.lfs.sha256 if file.lfs else file.blob_id for file in files}


def _stale(stored: Mapping[str, str], wanted: Collection[str], target: Target) -> list[str]:
    """Files of an earlier push that go: weights beside those of another model are a mixture."""
    patterns = (*OURS, *(f"{name}/*" for name in EXPORTS))
    stale = [
        name
        for name in stored
        if name not in wanted
        and any(fnmatch(name, pattern) and name.count("/") == pattern.count("/") for pattern in patterns)
    ]
    if stale and LINEAGE not in stored and not target.replace:
        raise PosttrainError(
            f"{target.repo}: holds {', '.join(stale[:5])}, and no {LINEAGE}, so no push has put it there; an empty "
            "repository or one of ours is allowed. Push to another --repo or --revision, or let --anyway replace it."
        )
    return stale


def _commit(api: Any, files: Sequence[File], stale: Sequence[str], target: Target, message: str, head: str) -> Uploaded:
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    operations: list[Any] = [CommitOperationAdd(file.name, file.content) for file in files]
    operations += [CommitOperationDelete(name, is_folder=False) for name in stale]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the hub, about the card
        try:
            done = api.create_commit(
                target.repo,
                operations,
                commit_message=message,
                repo_type=target.repo_type,
                revision=target.revision,
                parent_commit=head,
            )
        except ValueError as error:
            if isinstance(error, HTTPError | json.JSONDecodeError):
                raise
            raise PosttrainError(
                f"{target.repo}: the hub does not take the metadata at the head of README.md; valid metadata is "
                "needed. See it with --dry-run."
            ) from None
    return Uploaded(_page(api, target, done.oid), done.oid, new=True)


def _page(api: Any, target: Target, commit: str) -> str:
    kind = "datasets/" if target.repo_type == "dataset" else ""
    return f"{api.endpoint}/{kind}{target.repo}/commit/{commit}"


def _answer(error: Exception) -> Any:
    """The hub's answer with its status; None where none came. That a large file got stuck is raised from one."""
    from huggingface_hub.errors import HfHubHTTPError

    cause = error.__cause__ if isinstance(error, RuntimeError) else error
    return cause.response if isinstance(cause, HfHubHTTPError) else None


def _what(error: Exception) -> str:
    """Its kind alone: the words of an error may hold addresses that are signed for us."""
    answer = _answer(error)
    if answer is not None:
        return f"the hub answered {answer.status_code}"
    return "a large file got stuck" if isinstance(error, RuntimeError) else "no answer of the hub came"


def _wait(error: Exception, attempt: int, target: Target) -> float:
    """Seconds until the next try; raises where another one is of no use."""
    from huggingface_hub.errors import OfflineModeIsEnabled
    from huggingface_hub.utils import parse_ratelimit_headers  # type: ignore[attr-defined]

    answer = _answer(error)
    status = answer.status_code if answer is not None else 403 if isinstance(error, PermissionError) else None
    asked = answer.headers.get("Retry-After", "") if answer is not None else ""
    limit = parse_ratelimit_headers(answer.headers) if answer is not None else None
    wait = float(asked) if asked.isdigit() else float(2 ** (attempt - 1))
    if status == 429 and limit is not None and limit.remaining == 0:
        wait = float(limit.reset_in_seconds)
    useless = isinstance(error, OfflineModeIsEnabled) or status not in (None, MOVED, *BUSY)
    if useless or attempt == TRIES or wait > LONGEST_WAIT:
        if isinstance(error, OfflineModeIsEnabled):
            raise PosttrainError(f"{target.repo}: HF_HUB_OFFLINE is set, and a push needs the hub. Unset it.") from None
        raise _refused(status, _what(error), target, wait) from None
    return 0.0 if status == MOVED else wait  # the next look says who was there


def _refused(status: int | None, what: str, target: Target, wait: float) -> PosttrainError:
    """What the hub's last answer means, and the way out."""
    if status == MOVED:
        return _moved(target)
    known = {
        401: f"the hub does not accept your token (401). {LOGIN}",
        403: "your token may not write there (403); a repository of yours, or of an organisation that lets you write, "
        f"is needed. Correct --repo, or give the token that right. {LOGIN}",
        404: "the hub gives no such repository (404). Check the spelling of --repo and --revision.",
        409: "another change to it is going on (409); nothing of this push was written. Wait a little and push again.",
        429: f"the hub asks for a pause (429), {wait:g} s at the least. Push again later.",
    }  # fmt: skip
    if status in known:
        return PosttrainError(f"{target.repo}: {known[status]}")
    return PosttrainError(
        f"{target.repo}: {what}, {TRIES} times where that may help. It holds the old state or the new one, nothing in "
        "between: check the network and push again, which does what is still missing."
    )


def _moved(target: Target) -> PosttrainError:
    return PosttrainError(
        f"{target.repo}: somebody else has committed to {target.revision} during this push; nothing of it was "
        "written. Look at what came in, and push again to put your files on top."
    )
