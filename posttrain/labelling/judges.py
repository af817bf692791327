"""Judges as the command line names them, and their verdicts on labelled rows with what those took.

rule             the rule judge, without a model (a proxy for short stories)
longest          the longer answer wins; it stands in every table anyway
recorded:FILE    verdicts made elsewhere (eval/recorded.py has the forms)
openai:MODEL     a language model behind an OpenAI-compatible endpoint
"""

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from eval.bias import longest
from eval.labels import TIE, A, B, Labels, PairLabel, ScoreLabel
from eval.ranking import Spent
from eval.recorded import PairVerdict, Pick, ScoreVerdict, Verdicts, pair_verdicts, read_verdicts, score_verdicts
from eval.score_agreement import by_length
from eval.story_rules import rule_judge
from eval.verdict import scores
from posttrain.errors import PosttrainError
from posttrain.labelling.endpoint_judge import Remote, endpoint_judge
from posttrain.labelling.texts import plain_label_errors, read_text

ALLOWED = "rule, longest, recorded:FILE or openai:MODEL"
RULE_NOTE = (
    "rule: a proxy for short English children's stories (eval/README.md), the mean of its axes; texts are taken as "
    "complete. Where the labelled answers are no such stories, its row says nothing for or against it."
)
EQUAL = 1e-9  # means that differ by less are equal: they are sums of rounded scores
Asked = Mapping[str, Mapping[str, Any]]  # what a row's prompt asks for, by the row's id


class Judged(NamedTuple):
    """A judge's verdicts, what they took, and what must be known to read them."""

    verdicts: Verdicts
    spent: Spent = Spent()
    note: str = ""


class Judge(NamedTuple):
    """A judge whose name and files are found to be right; `judge` does the work."""

    name: str
    judge: Callable[[], Judged]


def known_judges(specs: Sequence[str], labels: Labels, asked: Asked, remote: Remote) -> list[Judge]:
    """The judges of a command line, all checked before any of them judges."""
    found = [_known(spec, labels, asked, remote) for spec in specs]
    names = [judge.name for judge in found]
    twice = {name for name in names if names.count(name) > 1}
    found = [
        judge._replace(name=spec) if judge.name in twice else judge for spec, judge in zip(specs, found, strict=True)
    ]
    if len({judge.name for judge in found}) < len(found):
        raise PosttrainError(f"--judge: {', '.join(specs)} names one judge twice; each once is allowed. Delete one.")
    return found


def _known(spec: str, labels: Labels, asked: Asked, remote: Remote) -> Judge:
    kind, _, rest = spec.partition(":")
    if spec == "rule":
        return Judge(spec, lambda: _rule(labels, asked))
    if spec == "longest":
        return Judge(spec, lambda: _longest(labels))
    if kind == "recorded" and rest:
        verdicts = _recorded(Path(rest), labels)
        return Judge(f"recorded:{Path(rest).name}", lambda: Judged(verdicts))
    if kind == "openai" and rest:
        judge = endpoint_judge(rest, labels, remote)
        return Judge(spec, lambda: Judged(*judge()))
    raise PosttrainError(f"--judge: found '{spec}'; {ALLOWED} is allowed. Choose one of these.")


def _recorded(path: Path, labels: Labels) -> Verdicts:
    """The verdicts of a file, found to belong to these labels."""
    text = read_text(path, "recorded verdicts")
    with plain_label_errors():
        verdicts = read_verdicts(text, str(path))
        pairs = [label for label in labels if isinstance(label, PairLabel)]
        made = [verdict for verdict in verdicts if isinstance(verdict, PairVerdict)]
        given = [verdict for verdict in verdicts if isinstance(verdict, ScoreVerdict)]
        if bool(pairs) != bool(made):
            kinds = ("pairs", "scores") if pairs else ("scores", "pairs")
            raise PosttrainError(
                f"{path}: verdicts on {kinds[1]}, and the labels are {kinds[0]}; both of one kind are needed. "
                "Check that the files belong together."
            )
        pair_verdicts(pairs, made, str(path))
        score_verdicts([label for label in labels if isinstance(label, ScoreLabel)], given, str(path))
    return verdicts


def _longest(labels: Labels) -> Judged:
    started = time.perf_counter()
    pairs = [label for label in labels if isinstance(label, PairLabel)]
    verdicts = longest(pairs) if pairs else by_length([label for label in labels if isinstance(label, ScoreLabel)])
    return Judged(verdicts, Spent(time.perf_counter() - started, 0.0))


def _rule(labels: Labels, asked: Asked) -> Judged:
    """Each answer by itself on the rule judge's axes; of a pair the higher mean wins, so no order can matter."""
    started = time.perf_counter()
    prompts = {label.id: {"prompt": label.prompt, **asked.get(label.id, {})} for label in labels}
    # rows on one prompt share an id, so that the answers to it are not taken for answers to others
    topics = {key: repr(sorted(prompt.items())) for key, prompt in prompts.items()}
    rows = [{"id": topics[label.id], "text": text, "stopped": True} for label in labels for text in _texts(label)]
    by_topic = {topics[key]: prompt for key, prompt in prompts.items()}
    means = iter(_mean(scores(axes.values())) for axes in rule_judge(by_topic, rows)(rows))
    verdicts: list[PairVerdict] = []
    grades: list[ScoreVerdict] = []
    for label in labels:
        if isinstance(label, PairLabel):
            pick = _higher(next(means), next(means))
            verdicts.append(PairVerdict(label.id, pick, pick))
        else:
            grades.append(ScoreVerdict(label.id, next(means)))
    return Judged(verdicts or grades, Spent(time.perf_counter() - started, 0.0), RULE_NOTE)


def _texts(label: PairLabel | ScoreLabel) -> tuple[str, ...]:
    return (label.a, label.b) if isinstance(label, PairLabel) else (label.text,)


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _higher(a: float | None, b: float | None) -> Pick:
    if a is None or b is None:
        return Pick(None, "an answer has no score")
    reason = f"{a:.2f} against {b:.2f}"
    return Pick(TIE if abs(a - b) < EQUAL else A if a > b else B, reason)
