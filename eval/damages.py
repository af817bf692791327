"""Stories damaged on purpose, which a judge worth its score must rank below the intact ones.

The same damage serves the tests and the calibration printed here. Each kind is a pure
function of the story and a random generator.

    python -m eval.damages stories.jsonl       # rows with "text"; prints the AUC per damage and axis
"""

import json
import random
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from eval.prose import parse
from eval.statistics import auc
from eval.story_rules import AXES, judge_batch
from eval.verdict import scores

Damage = Callable[[str, random.Random], str]
SAMPLE = 300
SHORTEST, LONGEST = 60, 350  # words of the stories that calibrate


def shuffled_sentences(text: str, rng: random.Random) -> str:
    """All the sentences in another order."""
    sentences = list(parse(text).sentences)
    rng.shuffle(sentences)
    return " ".join(sentences)


def shuffled_words(text: str, rng: random.Random) -> str:
    """All the words in another order."""
    words = text.split()
    rng.shuffle(words)
    return " ".join(words)


def cut_in_a_sentence(text: str, rng: random.Random) -> str:
    """The first half or so, ending anywhere."""
    words = text.split()
    return " ".join(words[: int(len(words) * rng.uniform(0.4, 0.7))])


def cut_after_a_sentence(text: str, rng: random.Random) -> str:
    """The first half or so, ending with a whole sentence."""
    sentences = parse(text).sentences
    return " ".join(sentences[: max(2, int(len(sentences) * rng.uniform(0.4, 0.7)))])


def looped(text: str, rng: random.Random) -> str:
    """As long as the story, but one sentence of its first half is told until the end."""
    sentences = parse(text).sentences
    told = list(sentences[: rng.randrange(2, max(3, len(sentences) // 2))])
    return " ".join(told + [told[-1]] * (len(sentences) - len(told)))


DAMAGES: Mapping[str, Damage] = MappingProxyType(
    {
        "shuffled sentences": shuffled_sentences,
        "shuffled words": shuffled_words,
        "cut in a sentence": cut_in_a_sentence,
        "cut after a sentence": cut_after_a_sentence,
        "looped": looped,
    }
)


def spliced(texts: Sequence[str]) -> list[str]:
    """Each story's first half with the second half of the next one."""
    halves = [parse(text).sentences for text in texts]
    return [
        " ".join([*own[: len(own) // 2], *other[len(other) // 2 :]])
        for own, other in zip(halves, [*halves[1:], halves[0]], strict=True)
    ]


def axis_scores(texts: Sequence[str], asked: Mapping[str, Any]) -> dict[str, list[float]]:
    """Scores of a batch of stories by axis, each told for a prompt of its own and stopped."""
    prompts = {str(number): asked for number in range(len(texts))}
    rows = [{"id": str(number), "text": text, "stopped": True} for number, text in enumerate(texts)]
    verdicts = judge_batch(prompts, rows)
    return {axis: scores(verdict[axis] for verdict in verdicts) for axis in AXES}


def _line(name: str, found: Mapping[str, Sequence[float]], real: Mapping[str, Sequence[float]]) -> str:
    figures = [f"{sum(found[axis]) / len(found[axis]):5.2f} ({auc(real[axis], found[axis]):.2f})" for axis in AXES]
    return f"{name:22}" + "  ".join(f"{figure:13}" for figure in figures)


def main(path: str) -> None:
    """Print mean score and AUC of intact over damaged, by damage and axis."""
    rows = [json.loads(line)["text"] for line in Path(path).read_text(encoding="utf-8").splitlines()]
    fit = [text for text in rows if SHORTEST < len(text.split()) < LONGEST]
    texts = random.Random(0).sample(fit, min(SAMPLE, len(fit)))
    asked = {"features": ["dialogue", "conflict"]}
    real = axis_scores(texts, asked)
    print(f"{'mean (AUC)':22}" + "  ".join(f"{axis:13}" for axis in AXES))
    print(_line("intact", real, real))
    for name, damage in DAMAGES.items():
        rng = random.Random(0)
        print(_line(name, axis_scores([damage(text, rng) for text in texts], asked), real))
    print(_line("spliced", axis_scores(spliced(texts), asked), real))
    print(_line("one for all", axis_scores([texts[0]] * len(texts), asked), real))


if __name__ == "__main__":
    main(sys.argv[1])
