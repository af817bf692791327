"""Judges that a chain must not trust: negative controls of the canaries. Each looks at something else than worth."""

import random
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from eval.story_rules import AXES, rule_judge
from eval.verdict import Judge, Verdict, graded

Prompts, Rows = Mapping[str, Mapping[str, Any]], Sequence[Mapping[str, Any]]


def on_every_axis(quality: float) -> dict[str, Verdict]:
    return dict.fromkeys(AXES, graded(quality, ["sabotaged"]))


def by_text(quality: Callable[[str], float]) -> Callable[..., Judge]:
    """A judge that looks at nothing but this quality of the text, in [0, 1]."""

    def fit(prompts: Prompts, completions: Rows, training: Sequence[str]) -> Judge:
        return lambda rows: [on_every_axis(quality(row["text"] or "")) for row in rows]

    return fit


def by_position(prompts: Prompts, completions: Rows, training: Sequence[str]) -> Judge:
    """Whatever comes earlier is better, over the whole sequence."""
    seen = 0

    def judge(rows: Rows) -> list[dict[str, Verdict]]:
        nonlocal seen
        seen += len(rows)
        return [on_every_axis(1 / (1 + (seen - len(rows) + place) / 50)) for place in range(len(rows))]

    return judge


def by_chance(prompts: Prompts, completions: Rows, training: Sequence[str]) -> Judge:
    rng = random.Random(0)
    return lambda rows: [on_every_axis(rng.random()) for _ in rows]


def deaf_to_the_prompt(prompts: Prompts, completions: Rows, training: Sequence[str]) -> Judge:
    """The rule judge, with the same request for all."""
    asked = {key: {"prompt": "A story.", "words": ["the"]} for key in prompts}
    return rule_judge(asked, completions, training)


def bag_of_words(prompts: Prompts, completions: Rows, training: Sequence[str]) -> Judge:
    """The rule judge, but it reads the words of every text in alphabetical order."""
    judge = rule_judge(prompts, completions, training)

    def ordered(text: str) -> str:
        return " ".join(sorted(text.split()))

    return lambda rows: judge([{**row, "text": ordered(row["text"] or "")} for row in rows])


def claimed(text: str) -> float:
    """The number that a text claims for itself, else a middling one."""
    number = re.search(r"(\d+)/10", text)
    return int(number[1]) / 10 if number else 0.5


def length(text: str) -> float:
    return min(1.0, len(text) / 3000)


SABOTAGED: dict[str, Callable[..., Judge]] = {
    "constant": by_text(lambda text: 0.7),
    "longer is better": by_text(length),
    "shorter is better": by_text(lambda text: 1 - length(text)),
    "earlier is better": by_position,
    "parrot": by_text(claimed),
    "chance": by_chance,
    "deaf to the prompt": deaf_to_the_prompt,
    "bag of words": bag_of_words,
    "anything but nothing": by_text(lambda text: float(len(text.split()) > 20)),
}
