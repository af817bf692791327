"""Rows of preferences in TRL's formats, made of scored answers; what makes none is counted by its reason."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from posttrain.chain.stage import Metrics
from posttrain.rows import Row
from posttrain.stages.candidates import Answered, Asked
from posttrain.stages.judges import members
from posttrain.stages.pair_scores import Scored
from posttrain.stages.teaching import CONTROL, EMPTY

if TYPE_CHECKING:
    from data_gen.pairing import Candidate, Rules
    from posttrain.stages.pairs import PairsConfig

HELD_OUT = "equal to a held-out answer"


class Made(NamedTuple):
    """Rows, the prompt of each (rows of one prompt are held out together), and what was dropped.

    `asked` counts the units (`unit`) that the rows were made of; those in `counts` beside them were left out before.
    """

    rows: list[Row]
    prompts: list[str]
    unit: str
    asked: int
    counts: dict[str, int]
    metrics: Metrics


def rules_of(config: "PairsConfig") -> "Rules":
    from data_gen.pairing import Rules

    ratio = None if config.match_lengths is False else float(config.match_lengths)
    return Rules(config.least, config.near_duplicates, ratio, config.rejects_cut)


def paired(config: "PairsConfig", answered: Answered, scored: Scored, held_out: Sequence[Row]) -> Made:
    """Of each prompt's answers the best against the worst that may stand."""
    from data_gen.pairing import REASONS, best_against_worst

    rules, source = rules_of(config), source_of(config)
    dropped: Counter[str] = Counter()
    rows = []
    for nth, (one, answers) in enumerate(zip(answered.asked, scored.answers, strict=True)):
        pair = best_against_worst(answers, rules, scored.beats[nth] if scored.beats else None)
        if isinstance(pair, str):
            dropped[pair] += 1
        else:
            rows.append(pair_row(one, answers[pair.chosen], answers[pair.rejected], source))
    rows, leaked = without_held_out(rows, held_out)
    counts = {**answered.counts, **{reason: dropped[reason] for reason in REASONS}, HELD_OUT: leaked}
    metrics = {**answered.metrics, **scored.metrics, "margin": rules.margin}
    return Made(rows, [row["id"] for row in rows], "prompts", len(answered.asked), counts, metrics)


def source_of(config: "PairsConfig") -> str:
    """What told the answers apart: `constraints`, or `scores by openai:gpt-4o-mini`."""
    if config.judge is None:
        return config.by
    return f"{config.by} by {'+'.join(one.name for one in members(config.judge)) or config.judge.judge}"


def pair_row(one: Asked, chosen: "Candidate", rejected: "Candidate", source: str) -> Row:
    return {
        "id": one.id,
        "prompt": one.messages,
        "chosen": said(chosen.text),
        "rejected": said(rejected.text),
        "score_chosen": chosen.score,
        "score_rejected": rejected.score,
        "source": source,
    }


def said(text: str) -> list[dict[str, str]]:
    """An answer as messages."""
    return [{"role": "assistant", "content": text}]


def unpaired(config: "PairsConfig", answered: Answered, scored: Scored, held_out: Sequence[Row]) -> Made:
    """Each answer with a label: desirable from a threshold on, which by default parts the answers in two halves.

    By constraints it is desirable where it meets them all. What can stand on neither side is counted among the answers.
    """
    from data_gen.pairing import CUT, NEAR, NO_SCORE, TIE, Label, labelled, middle

    found = middle(scored.answers) if config.threshold is None else config.threshold
    threshold = 1.0 if config.by == "constraints" else found
    rules, source = rules_of(config), source_of(config)
    dropped: Counter[str] = Counter()
    rows, prompts = [], {}
    for one, answers in zip(answered.asked, scored.answers, strict=True):
        labels = labelled(answers, rules, threshold) if threshold is not None else [NO_SCORE] * len(answers)
        for nth, (answer, label) in enumerate(zip(answers, labels, strict=True)):
            if not isinstance(label, Label):
                dropped[label] += 1
                continue
            rows.append(label_row(f"{one.id}/{nth}", one.messages, answer.text, label.desirable, answer.score, source))
            prompts[rows[-1]["id"]] = one.id
    rows, leaked = without_held_out(rows, held_out)
    dropped.update(answered.metrics["answers_left_out"])
    counts = {name: dropped[name] for name in (CUT, EMPTY, CONTROL, NO_SCORE, TIE, NEAR)}
    metrics = {**answered.metrics, **scored.metrics, "margin": rules.margin, "threshold": threshold}
    metrics["prompts_left_out"] = answered.counts
    asked = answered.metrics["answers"]
    return Made(rows, [prompts[row["id"]] for row in rows], "answers", asked, {**counts, HELD_OUT: leaked}, metrics)


def label_row(
    name: str, prompt: list[dict[str, str]], text: str, label: bool, points: float | None, source: str
) -> Row:
    return {"id": name, "prompt": prompt, "completion": said(text), "label": label, "score": points, "source": source}


def without_held_out(rows: Iterable[Row], held_out: Sequence[Row]) -> tuple[list[Row], int]:
    """The rows none of whose answers is a reference of the evaluation, and how many others there were."""
    from data_gen.holdout import held_out_keys

    keys = {key for prompt in held_out for key in held_out_keys(prompt)}
    every, kept = list(rows), []
    for row in every:
        sides = [row[name] for name in ("chosen", "rejected", "completion") if name in row]
        if all(keys.isdisjoint(held_out_keys({"messages": [row["prompt"][-1], *side]})) for side in sides):
            kept.append(row)
    return kept, len(every) - len(kept)
