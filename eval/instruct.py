"""Does the story do what the prompt asked? Exact where it can be: words, features, first sentence, hero.

Each thing asked counts the same within its kind, and the kinds are averaged by weight; what was not asked
does not count. Not stopping is the plot's affair.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from eval.cues import FEATURES, shows
from eval.prose import CURLY, Story
from eval.verdict import Verdict, graded, unscored
from eval.words import missing

WEIGHTS = {"words": 0.4, "features": 0.3, "first_sentence": 0.2, "hero": 0.1}


class Part(NamedTuple):
    """One kind of request: how much of it was met, in [0, 1], and the evidence."""

    kind: str
    met: float
    evidence: str


def _words(words: Sequence[str], story: Story) -> Part:
    absent = missing(story.text, words)
    told = f"uses {len(words) - len(absent)} of {len(words)} words"
    return Part(
        "words",
        1 - len(absent) / len(words),
        told + (": missing " + ", ".join(f"'{word}'" for word in absent) if absent else ""),
    )


def _features(features: Sequence[str], story: Story) -> Part:
    has = {feature: shows(story, feature) for feature in features}
    told = ", ".join(("has " if found else "no ") + feature for feature, found in has.items())
    return Part("features", sum(has.values()) / len(has), told)


def _first_sentence(wanted: str, story: Story) -> Part:
    """Equal up to case, quotes and blanks; else the share of its words that open the story in place."""
    ask, got = (" ".join(text.translate(CURLY).lower().split()) for text in (wanted, story.text))
    if got.startswith(ask):
        return Part("first_sentence", 1.0, "opens with the asked sentence")
    asked = ask.split()
    same = sum(a == b for a, b in zip(asked, got.split(), strict=False)) / len(asked)
    return Part("first_sentence", 0.5 * same, f"first sentence differs ({same:.0%} of its words in place)")


def _hero(hero: str, story: Story) -> Part:
    named = not missing(story.text, [hero])
    return Part("hero", float(named), f"{'names' if named else 'never names'} {hero}")


def instruct(prompt: Mapping[str, Any], story: Story) -> Verdict:
    """Share of what was asked, 1 to 10; unscored when nothing was asked or a feature has no rule."""
    words, features = prompt.get("words") or (), prompt.get("features") or ()
    unknown = [feature for feature in features if feature not in FEATURES]
    if unknown:
        return unscored(f"no rule for feature '{unknown[0]}'; known are {', '.join(FEATURES)}")
    parts = [_words(words, story)] if words else []
    parts += [_features(features, story)] if features else []
    parts += [_first_sentence(first, story)] if (first := prompt.get("first_sentence")) else []
    parts += [_hero(hero, story)] if (hero := prompt.get("hero")) else []
    if not parts:
        return unscored("the prompt asks for nothing that a rule can check")
    weight = sum(WEIGHTS[part.kind] for part in parts)
    met = sum(WEIGHTS[part.kind] * part.met for part in parts) / weight
    return graded(met, [part.evidence for part in parts])
