"""The README.md of what is pushed, from the records: metadata for the hub, and a page that a stranger can use."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from posttrain.hub import card_sections as section
from posttrain.hub.card_run import how_to_run
from posttrain.hub.card_text import cell
from posttrain.hub.fetch import split
from posttrain.hub.lineage import (
    Source,
    ancestors,
    formats_in,
    inputs_of,
    licence,
    model_path,
    public,
    sources,
    step_record,
)
from posttrain.report.records import INVALID, Named, judge_name
from posttrain.rows import read_rows

if TYPE_CHECKING:
    from posttrain.hub.release import Release
    from posttrain.hub.verify import Greedy

TEMPLATE = Path(__file__).with_name("card.md")
POSTTRAIN = "posttrain"
NAMELESS = "PATH OR NAME OF THIS DATA SET"  # where a step's own card cannot know it
DID = {
    "base": "taken as it is",
    "distill": "distilled from {teacher}",
    "sft": "tuned on {rows} examples",
    "dpo": "tuned on {rows} preferences",
    "export": "written as {formats}",
}
SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))  # the hub's names


def model_card(release: "Release", greedy: "Greedy | None") -> str:
    """README.md of a model, an adapter or exported files; `greedy` is what the check before the push recorded."""
    from huggingface_hub import ModelCard

    nodes = ancestors(release)
    way = model_path(nodes, release.step)
    card = ModelCard.from_template(
        _metadata(release, nodes),
        template_str=TEMPLATE.read_text(encoding="utf-8"),
        title=cell(f"{release.recipe} {release.step}"),
        warning=section.warning(nodes, release.step),
        about=_about(release, nodes, way),
        run=how_to_run(release, greedy),
        judged=section.judged(nodes, way, release.step),
        exported=section.exported([node for node in nodes if node[0]["name"].split(".")[0] == release.step]),
        made=section.made(nodes),
        spent=section.spent(nodes),
        data=section.data(nodes),
        outside=section.outside(sources(nodes)),
        limits=section.limits(nodes, release.step),
        samples=section.samples(nodes, release.step),
    )
    return str(card)


def _metadata(release: "Release", nodes: Sequence[Named]) -> Any:
    """What the hub reads; a field of which nothing is known is left out."""
    from huggingface_hub import ModelCardData

    found = sources(list(nodes))
    base = _base(found)
    hub_base = base.hub_id if base else None
    if release.base:
        hub_base = split(release.base)[0]
    return ModelCardData(
        base_model=hub_base,
        base_model_relation=_relation(release, nodes) if hub_base else None,
        datasets=sorted({str(one.hub_id) for one in found if one.hub_id and one.is_data}) or None,
        license=licence(base) if base else None,
        library_name=_library(release),
        pipeline_tag="text-generation",
        tags=[POSTTRAIN, *sorted({row["kind"] for row, _ in nodes if "." not in row["name"]} - {"base", "export"})],
        eval_results=_results(release, nodes) or None,
        model_name=f"{release.recipe} {release.step}",
    )


def _base(found: Sequence[Source]) -> Source | None:
    """The model that the chain started from, where it came from outside."""
    return next((one for one in found if one.role == "model"), None)


def _relation(release: "Release", nodes: Sequence[Named]) -> str:
    """How the files stand to the base: trained ones are a finetune, whatever their precision."""
    if release.shape == "adapter":
        return "adapter"
    trained = {row["kind"] for row, _ in nodes} & {"distill", "sft", "dpo"}
    return "finetune" if trained or release.shape == "model" else "quantized"


def _library(release: "Release") -> str:
    if release.shape == "adapter":
        return "peft"
    formats = formats_in(release)
    if any(name.startswith("gguf-") for name in formats):
        return "gguf"
    return "onnx" if "onnx-int8" in formats else "transformers"


def _results(release: "Release", nodes: Sequence[Named]) -> list[Any]:
    """The mean of every axis of the last verdict, for the hub's table of results."""
    from huggingface_hub import EvalResult

    record = section.judge_of(nodes, release.step)
    if record is None or record["metrics"]["verdict"] == INVALID:
        return []
    config, metrics = record["config"], record["metrics"]
    judge = f"{judge_name(metrics)}, rubric {section.file_name(config['rubric'])}, 1-10"
    prompts = section.file_name(config["prompts"]) if config.get("prompts") else "not recorded"
    return [
        EvalResult(
            task_type="text-generation",
            dataset_type="held-out-prompts",
            dataset_name=f"held-out prompts {prompts}",
            metric_type=axis,
            metric_name=f"{axis} ({judge}, n={metrics['n_scored']})",
            metric_value=score["score"],
        )
        for axis, score in metrics["axes"].items()
        if score and score["score"] is not None
    ]


def _about(release: "Release", nodes: Sequence[Named], way: Sequence[str]) -> str:
    """One paragraph in plain words: what it is, what was done to it, how well it does."""
    by_name = {row["name"]: artifact.record for row, artifact in nodes}
    base = _base(sources(list(nodes)))
    sizes = [by_name[step]["metrics"]["parameters"] for step in way if "parameters" in by_name[step]["metrics"]]
    model = f"a language model of {sizes[-1] / 1e6:,.1f} million parameters" if sizes else "a language model"
    if release.shape == "adapter":
        name, commit = split(str(release.base))
        what = f"A LoRA adapter of rank {_rank(release)} for [{name}](https://huggingface.co/{name})"
        what += f" at commit {str(commit)[: section.SHORT]}, {model}"
    elif release.shape == "files":
        what = f"Files of {model} for {_runtimes(release)}"
    else:
        what = model.capitalize()
    did = [text for step in way if (text := _did(by_name[step]))]
    start = f", made from {cell(base.name)}" if base and release.shape != "adapter" else ""
    done = f": {', then '.join(did)}" if did else ""
    merged = f" It was trained as an adapter and is merged here: {cell(release.merged)}." if release.merged else ""
    judge = section.judge_of(nodes, release.step)
    score = f" {judge_name(judge['metrics']).capitalize()}: {section.primary_score(judge)}." if judge else ""
    recipe = f" Recipe `{release.recipe}` of posttrain, a pipeline for small language models."
    return public(f"{what}{start}{done}.{merged}{score}") + recipe


def _did(record: dict[str, Any]) -> str:
    if record["kind"] == "base":
        return "trained from scratch" if record["config"].get("architecture") else ""
    teachers = [one.name for one in inputs_of("", record) if one.role.startswith("teacher")]
    rows = f"{record['metrics'].get('rows', 0):,}"
    formats = " and ".join(record["config"].get("formats", []))
    return DID[record["kind"]].format(teacher=cell(" and ".join(teachers)), rows=rows, formats=formats)


def _rank(release: "Release") -> int:
    config = next(file.content for file in release.files if file.name == "adapter_config.json")
    return int(json.loads(config if isinstance(config, bytes) else config.read_bytes())["r"])


def _runtimes(release: "Release") -> str:
    names = {
        "gguf": "llama.cpp (or Ollama)",
        "onnx": "ONNX Runtime",
        "bnb": "transformers",
        "safetensors": "transformers",
    }
    *others, last = dict.fromkeys(names[name.split("-")[0]] for name in formats_in(release))
    return f"{', '.join(others)} and {last}" if others else last


def data_card(release: "Release") -> str:
    """README.md of rows: the step's own, with the hub's metadata, the judge's verdict and the lineage."""
    from huggingface_hub import DatasetCard

    nodes = ancestors(release)
    path = next(artifact.path for row, artifact in nodes if row["name"] == release.step)
    own = path / "README.md"
    text = own.read_text(encoding="utf-8") if own.is_file() else f"# {cell(f'{release.recipe} {release.step}')}\n"
    card = DatasetCard(text if text.startswith("---") else f"---\n{{}}\n---\n\n{text}")
    for key, value in _data_metadata(release, path).items():
        if card.data.get(key) is None:
            card.data[key] = value
        elif key == "tags":
            card.data[key] = list(dict.fromkeys([*card.data[key], *value]))
    top = section.warning(nodes, release.step) if section.judge_of(nodes, release.step) else ""
    title, _, rest = card.text.strip().replace(NAMELESS, release.repo).partition("\n")
    parts = [title, top, rest.strip(), *_of_rows(nodes, release.step, counted=own.is_file())]
    card.text = "\n" + "\n\n".join(part for part in parts if part) + "\n"
    return str(card)


def _data_metadata(release: "Release", path: Path) -> dict[str, Any]:
    """What the hub reads of rows whose own card does not say it."""
    from huggingface_hub import DatasetCardData

    splits = [(name, f"{name}.jsonl") for name in ("train", "test") if (path / f"{name}.jsonl").is_file()]
    rows = sum(len(read_rows(path / file)) for _, file in splits)
    found: Any = DatasetCardData(
        pretty_name=f"{release.recipe} {release.step}",
        tags=[POSTTRAIN, "synthetic", step_record(release)["kind"]],
        task_categories=["text-generation"],
        size_categories=next((name for most, name in SIZES if rows < most), "n>1M"),
        configs=[{"config_name": "default", "data_files": [{"split": s, "path": file} for s, file in splits]}],
    )
    return dict(found.to_dict())


def _of_rows(nodes: list[Named], step: str, counted: bool) -> list[str]:
    """What the data's own card cannot know: judge, steps, sources, cost; and counts where there is none."""
    return [
        "## How it was judged", section.judged(nodes, [step], step),
        "## How it was made", section.made(nodes), section.spent(nodes),
        *([] if counted else ["## Rows", section.data(nodes)]),
        "## What went in", section.outside(sources(nodes)),
    ]  # fmt: skip
