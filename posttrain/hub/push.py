"""Push a step of a run to the hub: what is judged, looked through and loaded by itself goes in one commit.

posttrain push RECIPE --step sft --repo user/name --dry-run
"""

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from posttrain.chain.runner import STOPPING
from posttrain.errors import GateFailed, PosttrainError
from posttrain.hub.release import File, Release
from posttrain.hub.scan import Leak, leaks
from posttrain.hub.upload import LINEAGE, MAIN, Target, names_of, upload

SHOWN = 10  # findings that are listed
README = "README.md"


class Sent(NamedTuple):
    """A file of a push."""

    name: str
    bytes: int
    sha256: str


class Pushed(NamedTuple):
    """What went, or would go; page and id of the commit are None after a dry run."""

    files: list[Sent]
    url: str | None
    commit: str | None
    new: bool  # False: the repository held it already


def push(
    release: Release,
    *,
    private: bool = False,
    revision: str | None = None,
    dry_run: bool = False,
    anyway: bool = False,
    say: Callable[[str], None],
) -> Pushed:
    """Check a release, complete it with card and lineage, and make the repository hold it by one commit or none.

    A dry run makes no request. `anyway` lets a failed gate, personal data and paths of this machine pass, and weights
    of others be replaced; secrets never pass. Raises GateFailed and PosttrainError.
    """
    _gate(release, anyway, say)
    if release.merged:
        say(f"{release.step}: goes merged into its base in fp32, as {release.merged}")
    with _assembled(release) as folder:
        _look_through(release, release.files, anyway, say)
        files = sorted([*release.files, *_told(release, folder, offline=dry_run)], key=lambda file: file.name)
        _look_through(release, [file for file in files if file not in release.files], anyway, say)
        sent = [_sent(file) for file in files]
        if dry_run:
            return Pushed(sent, None, None, new=False)
        size = sum(file.bytes for file in sent) / 1e6
        say(f"{release.repo}: {len(sent)} files, {size:,.1f} MB")
        target = Target(release.repo, release.repo_type, private, revision or MAIN, replace=anyway)
        done = upload(files, target, f"Step {release.step} of {release.recipe}", say)
    return Pushed(sent, done.url, done.commit, done.new)


def _gate(release: Release, anyway: bool, say: Callable[[str], None]) -> None:
    """Say the verdicts; a failed one stops here."""
    verdicts = {
        row["name"]: artifact.record["metrics"]
        for row, artifact in release.nodes
        if row["kind"] == "judge" and row["name"].split(".")[0] == release.step
    }
    for name, metrics in verdicts.items():
        say(f"{name}: {metrics['verdict']}: {metrics['why']}")
    if not verdicts:
        say(f"{release.step}: no judge has closed it")
    failed = {name: metrics for name, metrics in verdicts.items() if metrics["verdict"] in STOPPING}
    if failed and not anyway:
        name, metrics = next(iter(failed.items()))
        raise GateFailed(
            f"{release.repo}: {name} says {metrics['verdict']}; a step without a failed gate is pushed. Improve it, or "
            "push it --anyway: its card says so."
        )


@contextmanager
def _assembled(release: Release) -> Iterator[Path]:
    """A directory with the files as the repository will hold them, beside the store, so that none is copied."""
    beside = release.nodes[0][1].path.parents[1]
    with tempfile.TemporaryDirectory(prefix=".push-", dir=beside) as work:
        for file in release.files:
            place = Path(work) / file.name
            place.parent.mkdir(exist_ok=True)
            _put(file.content, place)
        yield Path(work)


def _put(content: Path | bytes, place: Path) -> None:
    if isinstance(content, bytes):
        place.write_bytes(content)
        return
    try:
        os.link(content, place)
    except OSError:  # another disk, or one without links
        shutil.copyfile(content, place)


def _told(release: Release, folder: Path, offline: bool) -> list[File]:
    """Card and lineage, after the files have said what the model says."""
    from posttrain.hub.card import data_card, model_card
    from posttrain.hub.lineage import lineage
    from posttrain.hub.verify import verify

    if release.shape == "rows":
        card = data_card(release)
    else:
        with _offline(offline):
            card = model_card(release, verify(folder, release))
    facts = json.dumps(lineage(release), indent=1, ensure_ascii=False) + "\n"
    return [File(README, card.encode()), File(LINEAGE, facts.encode())]


@contextmanager
def _offline(offline: bool) -> Iterator[None]:
    """The process that loads the files makes no request either."""
    before = os.environ.get("HF_HUB_OFFLINE")
    if offline:
        os.environ["HF_HUB_OFFLINE"] = "1"
    try:
        yield
    finally:
        if offline:
            os.environ.pop("HF_HUB_OFFLINE")
            os.environ.update({} if before is None else {"HF_HUB_OFFLINE": before})


def _look_through(release: Release, files: Sequence[File], anyway: bool, say: Callable[[str], None]) -> None:
    """Refuse what must not leave this machine."""
    found = leaks(files)
    secrets = [leak for leak in found if leak.is_secret]
    if secrets or (found and not anyway):
        way = (
            "Take them out, make the step again, and have the secret replaced by its issuer."
            if secrets
            else "Take them out and make the step again, or push --anyway where they are nobody's."
        )
        raise PosttrainError(
            f"{release.repo}: {len(found)} findings in what would go: {_shown(secrets or found)}; no secret, personal "
            f"data or path of this machine is allowed. {way}"
        )
    if found:
        say(f"{release.repo}: {len(found)} findings go all the same (--anyway): {_shown(found)}")


def _shown(found: Sequence[Leak]) -> str:
    more = f"; and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
    return "; ".join(str(leak) for leak in found[:SHOWN]) + more


def _sent(file: File) -> Sent:
    size = len(file.content) if isinstance(file.content, bytes) else file.content.stat().st_size
    return Sent(file.name, size, names_of(file.content)[1])
