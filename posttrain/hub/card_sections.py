"""The sections of a card, each a function from the nodes that led to a step to Markdown."""

from collections.abc import Sequence
from typing import Any

from posttrain.chain.identity import sha256_file
from posttrain.chain.paths import PROJECT
from posttrain.hub.card_text import cell, fenced, rows_table
from posttrain.hub.lineage import Source, licence, public
from posttrain.report.accounting import costs, row_accounts, total_usd
from posttrain.report.exports import COLUMNS, exports_of
from posttrain.report.glance import energy_note
from posttrain.report.lineage import versions_of
from posttrain.report.markdown import judge_section, table
from posttrain.report.records import INVALID, Named, judge_name, sample_rows, score_text, steps_of
from posttrain.report.wording import count, dollars, duration, energy, flat, memory

SHORT = 12  # characters of an identity, as the store names its entries
SHOWN = 2  # held-out prompts whose completions are shown
BUNDLED = ("eval/prompts", "eval/rubrics")  # files that a record names by their content
JUDGES = {  # by a part of the judge's name
    "a proxy": "is a set of rules: a proxy for what people would say, blind to much that they would see",
    "exact": "compares with what is known to be right, and sees nothing else",
    "language model": "is a language model, with tastes of its own that need not be people's",
    "panel": "is a panel of language models, with tastes of their own that need not be people's",
}
LEGEND = (
    "A paired difference is to the model of the step before on the same prompts. Canaries are texts whose order is "
    "known; a judge that gets them wrong is invalid."
)
LINK = "[posttrain.json](posttrain.json)"
TRAINING = (
    "lora.r", "lora.lora_alpha", "learning_rate", "num_train_epochs", "per_device_train_batch_size",
    "gradient_accumulation_steps", "max_length",
)  # fmt: skip
SETTINGS = {
    "base": ("training.steps", "training.batch_size", "training.sequence_length", "training.learning_rate"),
    "distill": ("method", "divergence", "temperature", *TRAINING),
    "generate": ("generator", "sampling.temperature"),
    "sft": TRAINING,
    "pairs": ("samples", "by", "axis", "sampling.temperature"),
    "dpo": ("loss_type", "beta", *TRAINING),
    "export": ("formats",),
}
NO_SETTINGS = {"not set", "none"}


def bundled(digest: str) -> str | None:
    """The name of a file of ours by what it holds."""
    paths = [path for folder in BUNDLED for path in sorted((PROJECT / folder).glob("*.*"))]
    return next((path.stem for path in paths if sha256_file(path) == digest), None)


def file_name(digest: str) -> str:
    """`story (9b3e452965bf)`; of a file of the user the beginning of its sha256."""
    name = bundled(digest)
    return f"{name} ({digest[:SHORT]})" if name else digest[:SHORT]


def judge_of(nodes: Sequence[Named], step: str) -> dict[str, Any] | None:
    """The record of a step's judge; of files that were judged one by one the worst verdict's."""
    order = ("FAIL", INVALID, "INCONCLUSIVE")
    found = [artifact.record for row, artifact in nodes if row["kind"] == "judge" and row["name"].split(".")[0] == step]
    worst = [record for verdict in order for record in found if record["metrics"]["verdict"] == verdict]
    return next(iter([*worst, *found]), None)


def warning(nodes: Sequence[Named], step: str) -> str:
    """What stands at the top where the step did not prove itself; nothing where it did."""
    record = judge_of(nodes, step)
    if record is None:
        return "> **Not judged.** Nothing was measured of what it says; look at it before you use it."
    metrics = record["metrics"]
    said = {
        "FAIL": "**It failed its gate.** The judge found it wanting",
        "INCONCLUSIVE": "**Inconclusive.** The judge could not tell it from the model of the step before",
        INVALID: "**The judge is invalid.** It failed its own tests, so none of its figures counts",
    }.get(metrics["verdict"])
    if said is None:
        return ""
    kept = next((row["kept"] for row, _ in nodes if row["name"] == f"{step}.judge" and row.get("kept")), None)
    instead = f" In its recipe the model of {cell(kept)} is handed on in its place." if kept else ""
    return f"> {said} (verdict {metrics['verdict']}): {cell(metrics['why'])}{instead}"


def judged(nodes: Sequence[Named], shown: Sequence[str], step: str) -> str:
    """The axes of the steps shown with intervals, who judged by what, and every ruling."""
    record = judge_of(nodes, step)
    if record is None:
        return "It was not judged."
    parts = [(row, artifact) for row, artifact in nodes if row["name"].split(".")[0] in shown]
    lines = judge_section(parts, steps_of(parts))
    config, metrics = record["config"], record["metrics"]
    asked = f"{metrics['n_scored']:,} of {metrics['n_asked']:,} answers scored"
    prompts = f", prompts {file_name(config['prompts'])}" if config.get("prompts") else ""
    lines += [
        "",
        f"The last verdict: {judge_name(metrics)}, rubric {file_name(config['rubric'])}{prompts}, {asked}; identity of "
        f"the judging `{record['identity'][:SHORT]}`. {LEGEND}",
    ]
    return public("\n".join(lines))


def exported(nodes: Sequence[Named]) -> str:
    """Every file beside the fp32 model."""
    return "\n\n".join("\n".join([one.note, "", *table([COLUMNS, *one.rows])]) for one in exports_of(nodes))


def made(nodes: Sequence[Named]) -> str:
    """Every step that led here: settings, what came of it, identity, time."""
    rows = []
    for step, record in zip(steps_of(nodes), _steps(nodes), strict=True):
        facts = dict(flat(record["config"]))
        names = SETTINGS.get(step["kind"], ()) if step["kind"] != "base" or record["config"].get("architecture") else ()
        if step["kind"] == "generate" and facts.get("teacher", "not set") == "not set":
            names = ("generator",)
        settings = [f"{name} {facts[name]}" for name in names if facts.get(name, "not set") not in NO_SETTINGS]
        came = public(str(step["metrics"].get("summary", "")))
        took = duration(step["seconds"])
        rows.append([step["name"], step["kind"], ", ".join(settings), came, step["identity"][:SHORT], took])
    head = ["step", "kind", "settings", "what came of it", "identity", "time"]
    return f"{rows_table(head, rows)}\n\nAll settings, inputs and hashes are in {LINK}."


def _steps(nodes: Sequence[Named]) -> list[dict[str, Any]]:
    return [artifact.record for row, artifact in nodes if "." not in row["name"]]


def spent(nodes: Sequence[Named]) -> str:
    """Time, memory, energy, money and versions of all that."""
    found = costs(nodes)
    joules = [cost.joules for cost in found]
    measured = sum(value for value in joules if value is not None) if None not in joules else None
    calls, tokens = sum(cost.calls for cost in found), sum(cost.tokens for cost in found)
    remote = f"{calls:,} remote calls, {tokens:,} tokens, {dollars(total_usd(cost.usd for cost in found))}"
    note = f"Energy {energy(measured)}. {energy_note(found)}" if measured is not None else energy_note(found)
    lines = [
        f"All of it, sampling and judging included, took {duration(sum(cost.total_seconds for cost in found))} and at "
        f"most {memory(max(cost.peak_memory_mb for cost in found))}; {remote if calls else 'no remote calls, $0.00'}. "
        f"{note}"
    ]
    for one in versions_of(nodes):
        facts = dict(one.facts)
        packages = ("posttrain", "torch", "transformers", "trl", "peft")
        named = ", ".join(f"{name} {facts[name]}" for name in packages if name in facts)
        lines.append(f"Made on {facts['machine']} with {named}.")
    return "\n".join(dict.fromkeys(lines))


def data(nodes: Sequence[Named]) -> str:
    """Rows that came in, were dropped and why, and were used, by step."""
    rows = []
    for one in row_accounts(nodes):
        dropped = ", ".join(f"{number:,} {reason}" for reason, number in one.dropped if number) or "none"
        cut = "" if one.cut is None else f"{one.cut:,}"
        held = "" if one.held_out is None else f"{one.held_out:,}"
        numbers = [f"{count(one.came_in)} {one.unit}", dropped, held, cut, count(one.used), one.tokens]
        rows.append([one.step, *numbers])
    head = ["step", "came in", "dropped", "held out", "cut", "used", "tokens"]
    return rows_table(head, rows) if rows else ""


def outside(found: Sequence[Source]) -> str:
    """Models and data from outside the run, what they were to the byte, and their licences."""
    if not found:
        return "Nothing from outside: no other model, and texts of the project's own generators alone."
    rows = [[one.role, one.name, _exactly(one), licence(one) or "not recorded"] for one in found]
    return rows_table(["as", "name", "exactly", "licence"], rows)


def _exactly(source: Source) -> str:
    if not source.identity:
        return "behind an endpoint"
    return f"commit {source.commit}" if source.commit else f"sha256 {source.identity[:SHORT]}"


def limits(nodes: Sequence[Named], step: str) -> str:
    """What nobody should take it for."""
    record = judge_of(nodes, step)
    judge = judge_name(record["metrics"]) if record else ""
    lines = [f"The judge {said}." for sign, said in JUDGES.items() if sign in judge]
    if record:
        ours = "English " if bundled(str(record["config"].get("prompts"))) else ""
        lines.append(f"It was judged on one set of {ours}prompts: other tasks and languages are untried.")
    lines += [
        "Small models make things up. Do not use it for facts, advice, or decisions about people.",
        "It was not tested for harmful, unfair or private content, and nothing keeps such content out.",
    ]
    return "\n".join(f"- {line}" for line in lines)


def samples(nodes: Sequence[Named], step: str) -> str:
    """Its completions of the first held-out prompts, chosen by order and never by score."""
    _, rows = sample_rows(nodes, SHOWN, [step])
    if not rows:
        return ""
    parts = [f"The first {len(rows)} held-out prompts and what it wrote, as sampled for the judge."]
    for prompt, text, *_ in rows:
        parts += ["Prompt:", fenced(prompt), "Completion:", fenced(text or "(none)")]
    return "\n\n".join(parts)


def primary_score(record: dict[str, Any]) -> str:
    """`instruct 8.7 [8.5, 8.8] of 10, 8.2 before its last step`."""
    metrics = record["metrics"]
    before = metrics.get("before")
    compared = "" if before is None else f", {before:.1f} before its last step"
    return f"{metrics['primary']} {score_text(metrics['axes'].get(metrics['primary']))} of 10{compared}"
