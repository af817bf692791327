"""A judge on loopback that sees what a remote one would see: the words of the prompt, and nothing else."""

import json
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

from misbehaving_server import Call, Reply, Script, chat
from scripted_judges import FENCE

from eval.story_rules import AXES, judge_story
from posttrain.engines.probe import EXPECTED

Grade = Callable[[str, str], float]  # of a request and an answer


def honest(prompts: Sequence[Mapping[str, Any]]) -> Grade:
    """The rule judge's mean: it can tell a good story from a bad one."""
    by_request = {row["prompt"]: row for row in prompts}

    @cache
    def grade(request: str, answer: str) -> float:
        found = judge_story(by_request.get(request, {"prompt": request}), answer, stopped=True)
        scored = [verdict.score for verdict in found.values() if verdict.score is not None]
        return sum(scored) / len(scored)

    return grade


def judging(grade: Grade, schema: bool = True) -> Script:
    """Grades every axis alike, to the nearest whole number; says A, B or tie; passes the test call with `schema`."""

    def script(call: Call) -> Reply:
        parts = {label: json.loads(text) for label, _, text in FENCE.findall(call.prompt)}
        if not parts:
            return _said(json.dumps(EXPECTED) if schema else "Hello there!")
        if "ANSWER A" in parts:
            a, b = (grade(parts["REQUEST"], parts[f"ANSWER {letter}"]) for letter in "AB")
            return _said(json.dumps({"reason": "as read", "verdict": "tie" if a == b else "A" if a > b else "B"}))
        score = round(grade(parts["REQUEST"], parts["ANSWER"]))
        graded: dict[str, Any] = {axis: {"reason": "as read", "score": score} for axis in AXES}
        return _said(json.dumps({**graded, "age_group": {"reason": "plain words", "choice": "B"}}))

    return script


def _said(text: str) -> Reply:
    usage = {"prompt_tokens": 1000, "completion_tokens": 100, "total_tokens": 1100}
    return Reply(body=json.dumps({**chat(text), "usage": usage}).encode())
