"""Rows of preferences in TRL's formats, made of scored answers; what makes none is counted by its reason."""

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from posttrain.chain.stage import Metrics
from posttrain.rows import Row
from posttrain.stages.candidates import Answered, Asked
from posttrain.stages.judges import members
from posttrain.stages.leaks import REMOVED, TOLD, Message, without_told
from posttrain.stages.pair_scores import Scored
from posttrain.stages.teaching import CONTROL, EMPTY

if TYPE_CHECKING:
    from data_gen.pairing import Candidate, Rules
    from posttrain.stages.pairs import PairsConfig


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
    kept = without_told(rows, held_out)
    counts = {**answered.counts, **{reason: dropped[reason] for reason in REASONS}, TOLD: len(rows) - len(kept)}
    metrics = {**answered.metrics, **scored.metrics, "margin": rules.margin}
    return Made(kept, [row["id"] for row in kept], "prompts", len(answered.asked), counts, metrics)


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


def said(text: str) -> list[Message]:
    """An answer as messages."""
    return [{"role": "assistant", "content": text}]


def unpaired(config: "PairsConfig", answered: Answered, scored: Scored, held_out: Sequence[Row]) -> Made:
    """Each answer with a label: desirable from a threshold on, which by default parts the answers in two halves.

    By constraints it is desirable where it meets them all. What can stand on neither side is counted among the answers.
    """
    from data_gen.pairing import LABEL_REASONS, NO_SCORE, Label, labelled, middle

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
    kept = without_told(rows, held_out)
    dropped.update(answered.metrics["answers_left_out"])
    counts = {REMOVED: answered.counts[REMOVED], **{name: dropped[name] for name in (EMPTY, CONTROL, *LABEL_REASONS)}}
    metrics = {**answered.metrics, **scored.metrics, "margin": rules.margin, "threshold": threshold}
    metrics["prompts_left_out"] = answered.counts
    asked = answered.metrics["answers"]
    counts |= {TOLD: len(rows) - len(kept)}
    return Made(kept, [prompts[row["id"]] for row in kept], "answers", asked, counts, metrics)


def label_row(name: str, prompt: list[Message], text: str, label: bool, points: float | None, source: str) -> Row:
    return {"id": name, "prompt": prompt, "completion": said(text), "label": label, "score": points, "source": source}
