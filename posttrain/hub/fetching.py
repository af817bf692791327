"""`posttrain fetch`: all that a recipe needs from the hub, ahead of its run, which then works without the network."""

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from posttrain.chain.graph import Node
from posttrain.chain.recipe import Recipe
from posttrain.chain.stage import Input
from posttrain.hub.fetch import HubFile, local_directory, wanted_files
from posttrain.hub.refusals import DATA_SETS, no_space

MB = 1e6


class Needed(NamedTuple):
    """A repository that a recipe names; `subset` and `split` are a data set's."""

    source: Input
    subset: str | None
    split: str | None

    @property
    def name(self) -> str:
        return self.source.identity.removeprefix("hub:")


def fetch(recipe: Recipe, nodes: Sequence[Node], as_json: bool) -> None:
    """Fetch models, teachers and data sets of all steps; say what each takes, and what was here already."""
    from huggingface_hub import constants

    needed = needed_of(nodes)
    rows, fetched = [], 0
    for one in needed:
        files = _files(one)
        missing = sum(file.size for file in files if not file.here)
        _check_room(one, missing, Path(constants.HF_HUB_CACHE))
        if not as_json:
            print(_told(one, files, missing), flush=True)
        local_directory(one.source, one.subset, one.split)
        fetched += missing
        rows.append({"repository": one.name, "files": len(files), "bytes": _size(files), "fetched": missing})
    if as_json:
        print(json.dumps({"recipe": recipe.name, "cache": constants.HF_HUB_CACHE, "repositories": rows}, indent=1))
    elif needed:
        print(
            f"{recipe.name}: all of it is here, {fetched / MB:,.1f} MB of it new, in {constants.HF_HUB_CACHE}; "
            f"HF_HUB_OFFLINE=1 posttrain run {recipe.name} needs no hub"
        )
    else:
        print(f"{recipe.name}: needs nothing from the hub")


def needed_of(nodes: Sequence[Node]) -> list[Needed]:
    """The repositories behind the inputs of a chain, each once, in its order."""
    found: dict[tuple[str, str | None, str | None], Needed] = {}
    for node in nodes:
        settings = node.config.model_dump()
        for value in node.inputs.values():
            if isinstance(value, Input) and value.identity.startswith("hub:"):
                is_data = value.identity.startswith(f"hub:{DATA_SETS}")
                part = (settings.get("subset"), settings.get("split")) if is_data else (None, None)
                found.setdefault((value.identity, *part), Needed(value, *part))
    return list(found.values())


def _files(one: Needed) -> list[HubFile]:
    """What is wanted of it; without the network, what is here, which `local_directory` has checked."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        folder = local_directory(one.source, one.subset, one.split)
        return [HubFile(path.name, path.stat().st_size, True) for path in sorted(folder.rglob("*")) if path.is_file()]
    return wanted_files(one.source, one.subset, one.split)


def _check_room(one: Needed, missing: int, cache: Path) -> None:
    """Refuse before a download what cannot fit."""
    there = next(folder for folder in (cache, *cache.parents) if os.path.isdir(folder))
    free = shutil.disk_usage(there).free
    if missing > free:
        raise no_space(one.source.reference, missing, free)


def _told(one: Needed, files: Sequence[HubFile], missing: int) -> str:
    name, _, commit = one.name.partition("@")
    part = " ".join(text for text in (one.subset, one.split) if text)
    what = f"{name}@{commit[:12]}{f' ({part})' if part else ''}"
    state = f"{missing / MB:,.1f} MB to fetch" if missing else "here already"
    return f"{what:<64} {len(files):>3} files  {_size(files) / MB:>9,.1f} MB  {state}"


def _size(files: Sequence[HubFile]) -> int:
    return sum(file.size for file in files)
