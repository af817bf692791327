"""Derive requests from existing stories: what could somebody have asked for to be told this text?

A corpus has answers without questions. The words of a request are taken from the text itself, features are
named only when an exact rule shows them, and the answer stays the original text, so every row is honoured.
"""

import random
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from data_gen.instructions import FIRST_SENTENCE, HERO, Request, as_row, first_sentence, phrase
from data_gen.story import stable_random
from data_gen.storyworld import load_world, read_yaml

SHORTEST, LONGEST = 40, 400  # words
RAREST, COMMONEST = 0.0005, 0.08  # shares of documents in which a required word may occur
SENTENCE_END = re.compile(r"[.!?][\"')]*(?=\s|$)")
FEATURE_CHANCE = 0.6


def problem_with(text: str) -> str | None:
    """Why a text is no story to learn from, or None."""
    length = len(text.split())
    if length < SHORTEST:
        return "too short"
    if length > LONGEST:
        return "too long"
    whole = re.match(r"[\"']?[A-Z]", text) and re.search(r"[.!?][\"')]*$", text)
    if not whole or len(SENTENCE_END.findall(text)) < 3:
        return "no sentences"
    return "unbalanced quotes" if text.count('"') % 2 else None


def content_words(text: str, stop_words: frozenset[str]) -> set[str]:
    """Lower-case words that are no stop word, no adverb in -ly, and never written with a capital."""
    capitalised = {word.lower() for word in re.findall(r"\b[A-Z][a-z]+", text)}
    plain = set(re.findall(r"(?<![\w'-])[a-z]{3,}(?![\w'-])", text))
    return {word for word in plain - stop_words - capitalised if not word.endswith("ly")}


def plainest(words: Sequence[str]) -> list[str]:
    """The words without an ending in -ed or -ing where these are enough, sorted."""
    plain = [word for word in words if not word.endswith(("ed", "ing"))]
    return sorted(plain if len(plain) >= 3 else words)


def base_form(word: str, pasts: Mapping[str, str], text_words: set[str]) -> str:
    """The base of a past form of the story world's verbs where the text has no other use of it."""
    base = pasts.get(word, word)
    return word if base in text_words else base


def visible_features(text: str) -> list[str]:
    """The features that a rule can see without doubt."""
    found = ["dialogue"] if len(re.findall(r"\"[^\"]+[.,!?]\"", text)) >= 2 else []
    if re.search(r"\b(learned|learnt) (that|to|a lesson|the lesson)\b|\bmoral of the story\b", text):
        found.append("moral value")
    return found


def named_hero(text: str) -> str | None:
    """The first name that is introduced as one and comes back at least twice."""
    match = re.search(r"\b(?:named|called) ([A-Z][a-z]+)\b", text[:300])
    return match[1] if match and len(re.findall(rf"\b{match[1]}\b", text)) >= 3 else None


def request_for(rng: random.Random, text: str, words: Sequence[str]) -> Request:
    """A request that this text honours."""
    opening, hero = first_sentence(text), named_hero(text)
    features = visible_features(text)
    return Request(
        words=tuple(words),
        features=(rng.choice(features),) if features and rng.random() < FEATURE_CHANCE else (),
        first_sentence=opening if '"' not in opening and rng.random() < FIRST_SENTENCE else None,
        hero=hero if rng.random() < HERO else None,
    )


def backtranslate_rows(texts: Sequence[str], seed: int) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """Rows for the usable texts, and the counts `kept` and one for each reason to drop a text."""
    stop_words = frozenset(read_yaml("stop_words.yaml"))
    pasts = {past: base for base, past in load_world().verbs.items()}
    vocabularies = [content_words(text, stop_words) for text in texts]
    frequency = Counter(word for words in vocabularies for word in words)
    rarest, commonest = RAREST * len(texts), max(1.0, COMMONEST * len(texts))
    rows, counts = [], Counter({"kept": 0})
    for index, (text, vocabulary) in enumerate(zip(texts, vocabularies, strict=True)):
        candidates = plainest([word for word in vocabulary if rarest <= frequency[word] <= commonest])
        problem = problem_with(text) or ("few content words" if len(candidates) < 3 else None)
        counts[problem or "kept"] += 1
        if problem:
            continue
        rng = stable_random("backtranslate", seed, text)
        chosen = [base_form(word, pasts, vocabulary) for word in rng.sample(candidates, 3)]
        request = request_for(rng, text, chosen)
        rows.append(as_row(f"{index:06d}", request, phrase(rng, request), text, "backtranslate"))
    return rows, dict(counts)
