"""`posttrain push` as the command line calls it."""

import argparse
import json
import sys
import tempfile
from pathlib import Path

from posttrain.chain.recipe import Recipe
from posttrain.chain.store import Store
from posttrain.hub.push import Pushed, push
from posttrain.hub.release import release_of


def push_step(options: argparse.Namespace, recipe: Recipe, store: Store) -> None:
    """Push a step of the latest run, or list what would go."""
    from huggingface_hub.utils import disable_progress_bars  # type: ignore[attr-defined]

    if options.json or not sys.stderr.isatty():
        disable_progress_bars()
    beside = store.root.parent if store.root.parent.is_dir() else None
    with tempfile.TemporaryDirectory(prefix=".push-", dir=beside) as merged:
        release = release_of(recipe.name, store, options.step, options.repo, Path(merged))
        done = push(
            release,
            private=options.private,
            revision=options.revision,
            dry_run=options.dry_run,
            anyway=options.anyway,
            say=lambda text: print(text, file=sys.stderr, flush=True),
        )
    if options.json:
        told = {"repo": release.repo, "type": release.repo_type, "shape": release.shape, "base": release.base}
        files = [file._asdict() for file in done.files]
        print(json.dumps({**told, "merged": release.merged, **done._asdict(), "files": files}, indent=1))
    else:
        print(_text(release.repo, done))


def _text(repo: str, done: Pushed) -> str:
    if done.url is not None:
        return f"{done.url}{'' if done.new else '  (held it already; no commit was made)'}"
    rows = [f"{file.bytes:>14,}  {file.sha256}  {file.name}" for file in done.files]
    total = sum(file.bytes for file in done.files)
    return "\n".join([*rows, f"{total:>14,}  bytes in {len(done.files)} files would go to {repo}; nothing was sent"])
