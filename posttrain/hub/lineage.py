"""Where what is pushed comes from: its steps and what went in from outside, and posttrain.json, in words for all.

Only what led to the step is told: a run may hold other arms. What a record says of one machine is replaced on the way
out: a path by its last name (beside it stands the sha256 of what it held), the address of an endpoint by a remark.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

from posttrain.chain.identity import sha256_path
from posttrain.chain.paths import PROJECT
from posttrain.report.lineage import versions_of
from posttrain.report.markdown import LONG
from posttrain.report.records import JUDGE_KEYS, Named

if TYPE_CHECKING:
    from posttrain.hub.release import Release

HUB, DATA_SETS = "hub:", "datasets/"  # how identities from the hub begin, and names of data sets in them
MODELS = ("model", "teacher", "tokenizer")  # fields that name no data
ENDPOINT = "openai:"  # before the name of a model behind an endpoint
GGUF = "gguf-"  # how the names of llama.cpp's formats begin
PUBLIC_HOSTS = ("api.openai.com", "github.com", "huggingface.co")  # any other may be the name of a machine
URL = re.compile(r"\b[a-z][a-z0-9+.-]*://[^\s\"'<>)\]|]+")
PATH = re.compile(
    r"(?<![\w.:/\\~@-])(?:~[\w.-]*|[A-Za-z]:)?[/\\](?:[^\s\"'`<>|:;,()\[\]{}/\\]+[/\\])+([^\s\"'`<>|:;,()\[\]{}/\\]*)"
)


class Source(NamedTuple):
    """A model or a data set from outside the run."""

    role: str  # the field that named it: model, teacher, data; `teacher.1` is the second of several
    name: str  # a hub id, the last name of a path, or `openai:MODEL`
    identity: str  # `hub:org/name@commit`, or sha256 of what the path held; "" behind an endpoint
    step: str

    @property
    def hub_id(self) -> str | None:
        """`org/name`, of data sets too; None where it is not from the hub."""
        if not self.identity.startswith(HUB):
            return None
        return self.identity.removeprefix(HUB).partition("@")[0].removeprefix(DATA_SETS)

    @property
    def commit(self) -> str | None:
        """The commit on the hub."""
        return self.identity.partition("@")[2] if self.hub_id else None

    @property
    def is_data(self) -> bool:
        return self.identity.startswith(HUB + DATA_SETS) or self.role.split(".")[0] not in MODELS


def public(text: str) -> str:
    """The text without paths and addresses of one machine."""
    return PATH.sub(lambda found: found[1] or "a directory", URL.sub(_address, text))


def _address(found: re.Match[str]) -> str:
    parts = urlsplit(found[0])
    return found[0] if parts.netloc in PUBLIC_HOSTS else "a private endpoint"


def public_value(value: Any) -> Any:
    """The same for every text in plain JSON."""
    if isinstance(value, str):
        return public(value)
    if isinstance(value, dict):
        return {key: public_value(item) for key, item in value.items()}
    return [public_value(item) for item in value] if isinstance(value, list) else value


def step_record(release: "Release") -> dict[str, Any]:
    """The record of the step that is pushed."""
    return next(artifact.record for row, artifact in release.nodes if row["name"] == release.step)


def ancestors(release: "Release") -> list[Named]:
    """The nodes that led to the step, in the order of the run, each with its samples and its judge."""
    records = {row["name"]: artifact.record for row, artifact in release.nodes if "." not in row["name"]}
    found, new = set[str](), [release.step]
    while new:
        step = new.pop()
        if step not in found:
            found.add(step)
            inputs = records[step]["inputs"].values()
            new += [name for value in inputs if (name := value["reference"]) in records and _is(records[name], value)]
    return [(row, artifact) for row, artifact in release.nodes if row["name"].split(".")[0] in found]


def _is(record: dict[str, Any], value: dict[str, Any]) -> bool:
    return bool(record["identity"] == value["identity"])


def model_path(nodes: list[Named], step: str) -> list[str]:
    """The steps whose model became that of `step`, oldest first; of a step that makes rows none."""
    records = {row["name"]: artifact.record for row, artifact in nodes}
    found: list[str] = []
    while step in records and records[step]["kind"] not in ("generate", "pairs"):
        found.insert(0, step)
        step = str(records[step]["inputs"].get("model", {}).get("reference"))
    return found


def sources(nodes: list[Named]) -> list[Source]:
    """What the steps took from outside the run, each once."""
    inside = {artifact.record["identity"] for _, artifact in nodes}
    found: dict[str, Source] = {}
    for row, artifact in nodes:
        if "." not in row["name"]:
            for one in inputs_of(row["name"], artifact.record):
                if one.identity not in inside:
                    found.setdefault(one.identity or one.name, one)
    return list(found.values())


def inputs_of(step: str, record: dict[str, Any]) -> Iterator[Source]:
    """What a step's record names: its inputs, and teachers behind endpoints, of which there is no identity."""
    for field, value in record["inputs"].items():
        yield Source(field, _name(str(value["reference"]), value["identity"]), value["identity"], step)
    teacher = record["config"].get("teacher")
    for name in [one["model"] for one in teacher] if isinstance(teacher, list) else [teacher]:
        if isinstance(name, str) and name.startswith(ENDPOINT):
            yield Source("teacher", name, "", step)


def _name(reference: str, identity: str) -> str:
    """A hub id without its revision, a path's last name, an endpoint's model as it is."""
    if identity.startswith(HUB):
        return identity.removeprefix(HUB).partition("@")[0].removeprefix(DATA_SETS)
    return Path(reference).name


def formats_in(release: "Release") -> dict[str, str]:
    """The exported formats that go, each with its folder in the repository: GGUF files lie at the root, which is ""."""
    if release.shape != "files":
        return {}
    return {name: "" if name.startswith(GGUF) else name for name in step_record(release)["config"]["formats"]}


def licence(source: Source) -> str | None:
    """What the source's own card says: of our bundled models, and of a hub's where it is in the local cache."""
    card = _bundled_card(source) if source.hub_id is None else _cached_card(source)
    if card is None:
        return None
    from huggingface_hub import RepoCard

    said = RepoCard.load(card, ignore_metadata_errors=True).data.get("license")
    return said if isinstance(said, str) else None


def _bundled_card(source: Source) -> Path | None:
    folder = PROJECT / "models" / source.name
    same = (folder / "README.md").is_file() and sha256_path(folder) == source.identity
    return folder / "README.md" if same else None


def _cached_card(source: Source) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    kind = "dataset" if source.is_data else "model"
    found = try_to_load_from_cache(str(source.hub_id), "README.md", revision=source.commit, repo_type=kind)
    return Path(found) if isinstance(found, str) else None


def lineage(release: "Release") -> dict[str, Any]:
    """posttrain.json: how every step was made and judged. The same run gives the same; it holds no time."""
    nodes = ancestors(release)
    return {
        "recipe": release.recipe,
        "step": release.step,
        "shape": release.shape,
        "base": release.base,
        "versions": [{"nodes": one.nodes, **dict(one.facts)} for one in versions_of(nodes)],
        "outside": [{**source._asdict(), "licence": licence(source)} for source in sources(nodes)],
        "steps": [_told(row["name"], artifact.record) for row, artifact in nodes],
    }


def _told(name: str, record: dict[str, Any]) -> dict[str, Any]:
    """One node; a reference to something outside becomes its name, and its identity says what it was."""
    inputs = {one.role: {"name": one.name, "identity": one.identity} for one in inputs_of(name, record) if one.identity}
    named = {field: value["name"] for field, value in inputs.items() if record["config"].get(field)}
    return {
        "name": name,
        "kind": record["kind"],
        "version": record["version"],
        "identity": record["identity"],
        "commit": record["provenance"]["commit"],
        "source": record["provenance"]["source"],
        "config": public_value({**record["config"], **named}),
        "inputs": inputs,
        "metrics": public_value(dict(_metrics(record))),
        "files": record["files"],
    }


def _metrics(record: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """What was counted and measured, without curves; of a judge its verdict."""
    for key, value in record["metrics"].items():
        if key in JUDGE_KEYS if record["kind"] == "judge" else key not in LONG:
            yield key, value
