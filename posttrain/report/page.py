"""The report as one page that needs nothing else: no network, no build, no file beside it.

Every text is escaped by jinja2, and the page's own policy lets nothing run or load but the style and the script below
by their hashes, so a story with `<script>` is a story.
"""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from posttrain.report import chain_graph, plots, wording
from posttrain.report.accounting import costs, row_accounts
from posttrain.report.exports import COLUMNS, exports_of
from posttrain.report.glance import energy_note, step_lines, tiles
from posttrain.report.lineage import lineage_of, versions_of
from posttrain.report.model_judge import judge_notes, remarks
from posttrain.report.records import INVALID, Named, judge_name, score_text, step_before, steps_of
from posttrain.report.samples import Forms, Shown, Verdict, shown_prompts
from posttrain.rows import write_text

HERE = Path(__file__).parent
PROMPTS = 20
SECTIONS = [
    ("glance", "At a glance"),
    ("chain", "Chain"),
    ("scores", "Scores"),
    ("files", "Files"),
    ("samples", "Samples"),
    ("losses", "Losses"),
    ("rows", "Rows"),
    ("costs", "Time and energy"),
    ("lineage", "Lineage"),
]
Step = dict[str, Any]


@cache
def _environment() -> Environment:
    made = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=False, lstrip_blocks=True
    )
    made.filters |= {
        "change": wording.change,
        "count": wording.count,
        "dollars": wording.dollars,
        "duration": wording.duration,
        "energy": wording.energy,
        "memory": wording.memory,
        "tight": lambda text: text.replace(" %", "\u00a0%"),
        "verdict_class": wording.verdict_class,
        "verdict_sign": wording.verdict_sign,
        "score": lambda axis, sign="": score_text(axis, sign).replace("-", "−"),
        "number": lambda value: "" if value is None else f"{value:g}",
        "point": lambda value: "–" if value is None else f"{value:.1f}",
        "of": _score_of,
        "sided": lambda score: "dim" if score in (None, 0.5) else "rose" if score > 0.5 else "fell",
        "short": lambda text, most: text if len(text) <= most else text[: most - 1] + "…",
    }
    return made


def _score_of(verdicts: Sequence[Verdict], axis: str) -> float | None:
    return next((verdict.score for verdict in verdicts if verdict.axis == axis), None)


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def page(recipe: str, nodes: Sequence[Named], prompts: Path | None, forms: Forms) -> str:
    """The whole page. Required words are marked when `prompts` is still the file that was sampled."""
    steps = steps_of(nodes)
    judged = [step for step in steps if step["judge"]]
    axes = list(dict.fromkeys(axis for step in judged for axis in step["judge"]["axes"]))
    primary = judged[-1]["judge"]["primary"] if judged else ""
    shown = shown_prompts(nodes, PROMPTS, prompts, forms)
    (vertices, edges), spent = chain_graph.chain_of(nodes), costs(nodes)
    style, script = ((HERE / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    return (
        _environment()
        .get_template("page.html")
        .render(
            recipe=recipe,
            made=_made(nodes),
            sections=_sections(nodes),
            style=Markup(style),
            style_hash=_hash(style),
            script=Markup(script),
            script_hash=_hash(script),
            steps=steps,
            lines=step_lines(steps),
            tiles=tiles(nodes, steps, spent),
            invalid=[step for step in judged if step["judge"]["verdict"] == INVALID],
            judges=", ".join(dict.fromkeys(f"{judge_name(step['judge'])}" for step in judged)) or "no judge",
            primary=primary,
            axes=axes,
            plots=_score_plots(nodes, judged, axes, primary),
            exports=(COLUMNS, exports_of(nodes)),
            remarks=remarks(nodes),
            judge_notes=judge_notes(nodes),
            words=chain_graph.in_words(vertices, edges),
            across=chain_graph.draw(vertices, edges, across=True),
            down=chain_graph.draw(vertices, edges, across=False),
            box_width=chain_graph.BOX[0],
            widest=chain_graph.WIDEST,
            prompts=shown,
            marks=any(is_word for prompt in shown for _, is_word in prompt.prompt),
            compared=any(cell.pair for prompt in shown for cell in prompt.cells),
            sample_axes=_sample_axes(shown),
            losses=_loss_plots(steps),
            rows=row_accounts(nodes),
            costs=spent,
            tokens=any(cost.tokens for cost in spent),
            total_seconds=sum(cost.total_seconds for cost in spent),
            energy_note=energy_note(spent),
            lineage=lineage_of(nodes),
            versions=versions_of(nodes),
        )
    )


def _sections(nodes: Sequence[Named]) -> list[tuple[str, str]]:
    """Without the files where there are none."""
    return [one for one in SECTIONS if one[0] != "files" or exports_of(nodes)]


def _made(nodes: Sequence[Named]) -> str:
    """`5 steps, finished 2026-11-21 13:13 UTC, …`, by the newest record."""
    record = max((artifact.record for _, artifact in nodes), key=lambda record: str(record["finished"]))
    machine = record["provenance"]["machine"]
    count = sum("." not in row["name"] for row, _ in nodes)
    commit = record["provenance"]["commit"]
    return (
        f"{count} {'step' if count == 1 else 'steps'}, finished {wording.moment(record['finished'])}; "
        f"posttrain {record['provenance']['posttrain']}{f' at {commit[:7]}' if commit else ''}; "
        f"{machine['system']} {machine['processor']}, {machine['cores']} cores"
    )


def _score_plots(nodes: Sequence[Named], judged: Sequence[Step], axes: Sequence[str], primary: str) -> list[Any]:
    by_name = {row["name"]: artifact.record for row, artifact in nodes}
    found = []
    for at, axis in enumerate(sorted(axes, key=lambda axis: axis != primary)):
        entries = []
        for step in judged:
            score = step["judge"]["axes"].get(axis) or {"score": None, "low": None, "high": None}
            before = step_before(by_name[f"{step['name']}.judge"])
            of_rows = f"{step['name']}.samples" not in by_name
            entries.append(plots.Scored(step["name"], score["score"], score["low"], score["high"], before, of_rows))
        judge, first = judge_name(judged[-1]["judge"]), axis == primary
        svg = plots.scores(f"score-{at}", axis, entries, judge, first, large=False)
        wide = plots.scores(f"wide-{at}", axis, entries, judge, first, large=True) if first else ""
        found.append({"axis": axis, "primary": first, "svg": Markup(svg), "wide": Markup(wide)})
    return found


def _loss_plots(steps: Sequence[Step]) -> list[dict[str, Any]]:
    found = []
    for at, step in enumerate(steps):
        curve = step["metrics"].get("loss_curve")
        if not curve:
            continue
        note = _held_out(step["metrics"])
        svg = Markup(plots.losses(f"loss-{at}", step["name"], curve, note))
        found.append({"step": step["name"], "note": note, "svg": svg})
    return found


def _held_out(metrics: Mapping[str, Any]) -> str:
    if pairs := metrics.get("held_out_pairs"):
        return f"held-out pairs: the chosen answer gains more in {pairs['accuracy']['mean']:.0%}"
    nll = metrics.get("held_out_nll")
    if nll is None:
        return ""
    if isinstance(nll, dict):
        return f"held-out answers {nll['before']:.2f} → {nll['after']:.2f} nats a token"
    return f"held-out text {nll:.2f} nats a token"


def _sample_axes(shown: Sequence[Shown]) -> list[str]:
    found = (verdict.axis for prompt in shown for cell in prompt.cells for verdict in cell.verdicts)
    return list(dict.fromkeys(found))


def write_page(folder: Path, recipe: str, nodes: Sequence[Named], prompts: Path | None, forms: Forms) -> Path:
    """Write report.html into the run's folder and return its path."""
    path = folder / "report.html"
    write_text(path, page(recipe, nodes, prompts, forms))
    return path
