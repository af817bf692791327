"""Scripted language models that judge: they see nothing but the messages, as a real one would."""

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from eval.asking import Ask, Question, Reply
from eval.story_rules import AXES, judge_story
from eval.verdict import Verdict

FENCE = re.compile(r"^BEGIN ([A-Z ]+) ([0-9a-f]{16})\n(.*)\nEND \1 \2$", re.MULTILINE)
PIECE = re.compile(r"\s?\d+|\s?\w+|\s?[^\w\s]|\s", re.ASCII)
Answered = Callable[[dict[str, str]], Reply]


def content(question: Question) -> str:
    return question.messages[0]["content"]


def fenced_parts(question: Question) -> dict[str, str]:
    """What stands between the fences of a question, by label."""
    return {label: json.loads(text) for label, _, text in FENCE.findall(content(question))}


def scripted(answered: Answered) -> Ask:
    """An endpoint whose model gives a reply to the parts of each question."""
    return lambda questions: [answered(fenced_parts(question)) for question in questions]


def verdict_text(scores: Mapping[str, Any], reason: str = "as seen") -> str:
    return json.dumps({axis: {"reason": reason, "score": score} for axis, score in scores.items()})


def same_for_all(score: Any, axes: Sequence[str] = AXES) -> str:
    return verdict_text(dict.fromkeys(axes, score))


def with_probabilities(scores: Mapping[str, float]) -> Reply:
    """Whole grades in the text, and a mean of exactly `scores` in the probabilities of their tokens."""
    text = verdict_text({axis: math.floor(score) for axis, score in scores.items()})
    left = list(scores.values())
    tokens = []
    for piece in PIECE.findall(text):
        if piece.strip().isdigit():
            score = left.pop(0)
            part = score - math.floor(score)
            other = [(f" {math.floor(score) + 1}", math.log(part))] if part else []
            tokens.append([(piece, math.log(1 - part)), *other])
        else:
            tokens.append([(piece, 0.0)])
    return Reply(text, logprobs=tokens)


def reader(prompts: Sequence[Mapping[str, Any]]) -> Ask:
    """A model that can tell good stories from bad: the rule judge, which knows a request by its text."""
    by_request = {row["prompt"]: row for row in prompts}

    def answered(parts: dict[str, str]) -> Reply:
        found = judge_story(by_request[parts["REQUEST"]], parts["ANSWER"], stopped=True)
        return with_probabilities({axis: verdict.score or 1.0 for axis, verdict in found.items()})

    return scripted(answered)


def scores_of(verdicts: Mapping[str, Verdict]) -> dict[str, float | None]:
    return {axis: verdict.score for axis, verdict in verdicts.items()}
