"""Laws of the story world: what is told is correct English, keeps its promises, depends on nothing else."""

import re
from collections import Counter
from dataclasses import replace
from itertools import combinations, pairwise

import pytest

from data_gen.story import LONGEST, SHORTEST, Story, article, tell
from data_gen.storyworld import FEATURES, Branch, Choice, Line, fitting_adjectives, load_world

WORLD = load_world()
SAMPLES = [tell(3, index) for index in range(2000)]
PRONOUNS = {"he": "boy", "him": "boy", "his": "boy", "she": "girl", "her": "girl"}
CAPITALISED = {"I", "Saturday"}


def all_lines() -> list[Line]:
    """Every line of every plot."""
    lines: list[Line] = []
    queue = [beat for plot in WORLD.plots for beats in plot.paragraphs for beat in beats]
    while queue:
        beat = queue.pop()
        if isinstance(beat, Choice):
            lines += beat.lines
        else:
            assert isinstance(beat, Branch)
            queue += [*beat.shown, *beat.hidden]
    return lines


def words_of(text: str) -> list[str]:
    return re.findall(r"[A-Za-z]+", text)


def faults(story: Story) -> list[str]:
    """What is wrong with a story, by rules that a reader would agree with."""
    found, text = [], story.text
    words, lower = words_of(text), words_of(text.lower())
    for first, second in pairwise(lower):
        if first in {"a", "an"} and first != article(second) and second != "hour":
            found.append(f"article: {first} {second}")
    found += [
        f"doubled: {match}" for match in re.findall(r"\b(\w+) \1\b", text.lower()) if match not in {"had", "that"}
    ]
    if re.search(r"[${}_@]|None|  ", text):
        found.append("placeholder")
    if any(paragraph.count('"') % 2 for paragraph in text.split("\n\n")):
        found.append("quotes")
    starts = re.findall(r"(?:^|[.!?] |\n\n)\"?(\w)|said, \"(\w)", text)
    if any(not (a or b).isupper() for a, b in starts):
        found.append("capital")
    if not re.search(r"[.!?]\"?$", text):
        found.append("end")
    names = set(WORLD.girls) | set(WORLD.boys)
    found += [f"unknown name: {word}" for word in set(words) & names - set(story.characters)]
    mid = re.findall(r"(?<=[a-z,] )[A-Z]\w*", text)
    found += [f"capital inside: {w}" for w in mid if w not in CAPITALISED | set(story.characters)]
    kinds = {"girl" if name in WORLD.girls else "boy" for name in story.characters if name in names}
    found += [f"pronoun: {w}" for w in set(lower) if w in PRONOUNS and PRONOUNS[w] not in kinds]
    noun, verb, adjective = story.words
    if not {verb, WORLD.verbs[verb]} & set(lower) or adjective not in lower:
        found.append("required word")
    if lower.count(noun) < 2 or noun not in lower[:50]:
        found.append("noun")
    if ('"' in text) != ("dialogue" in story.features):
        found.append("dialogue")
    if not SHORTEST <= len(text.split()) <= LONGEST or not 2 <= text.count("\n\n") + 1 <= 4:
        found.append("length")
    return found


def test_stories_have_no_fault() -> None:
    assert [found for found in map(faults, SAMPLES) if found] == []


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        (". ", ". and ", "capital"),
        (" the ", " the the ", "doubled"),
        (" the ", " an ", "article"),
        (" the ", " {noun} ", "placeholder"),
        (" the ", ' "the ', "quotes"),
        (" the ", " Zorro ", "capital inside"),
    ],
)
def test_a_broken_story_is_caught(old: str, new: str, fault: str) -> None:
    story = SAMPLES[0]
    broken = Story(story.text.replace(old, new, 1), story.words, story.features, story.characters, story.summary)
    assert any(found.startswith(fault) for found in faults(broken))


def test_a_wrong_pronoun_is_caught() -> None:
    story = next(s for s in SAMPLES if len(s.characters) == 1 and s.characters[0] in WORLD.girls)
    broken = Story(story.text.replace(" she ", " he "), story.words, story.features, story.characters, story.summary)
    assert "pronoun: he" in faults(broken)


def test_a_story_without_its_words_is_caught() -> None:
    first, second = SAMPLES[:2]
    broken = replace(first, words=second.words)
    assert {"required word", "noun"} <= set(faults(broken))


def test_a_story_depends_on_its_arguments_alone() -> None:
    assert [tell(3, index) for index in (1999, 5, 700)] == [SAMPLES[1999], SAMPLES[5], SAMPLES[700]]
    assert tell(4, 5) != SAMPLES[5]


def test_a_known_story_stays_the_same_in_every_process() -> None:
    assert tell(0, 0, words=["key", "run", "red"]).words == ("key", "run", "red")
    assert tell(0, 0).text == tell(0, 0).text


def test_given_words_are_honoured_in_any_order() -> None:
    for index in range(200):
        noun, verb, adjective = SAMPLES[index].words
        story = tell(9, index, words=[verb, adjective, noun])
        assert story.words == (noun, verb, adjective)
        assert faults(story) == []


@pytest.mark.parametrize("wanted", [*combinations(FEATURES, 1), *combinations(FEATURES, 2)])
def test_every_pair_of_features_can_be_told(wanted: tuple[str, ...]) -> None:
    for index in range(20):
        story = tell(1, index, features=wanted)
        assert set(wanted) <= set(story.features)
        assert faults(story) == []


def test_unknown_words_and_features_are_refused() -> None:
    with pytest.raises(ValueError, match="not in data_gen/world"):
        tell(0, 0, words=["xylograph"])
    with pytest.raises(ValueError, match="a second noun"):
        tell(0, 0, words=["key", "ball"])
    with pytest.raises(ValueError, match="no plot"):
        tell(0, 0, features=["car chase"])


def test_stories_are_rarely_alike() -> None:
    assert len({story.text for story in SAMPLES}) == len(SAMPLES)
    assert Counter(story.words for story in SAMPLES).most_common(1)[0][1] <= 2


def test_the_world_is_large_enough_and_its_classes_are_disjoint() -> None:
    classes = [WORLD.nouns, tuple(WORLD.verbs), WORLD.adjectives, WORLD.traits]
    words = [word for members in classes for word in members]
    assert len(words) == len(set(words)) >= 1000
    assert not set(words) & (set(WORLD.verbs.values()) - set(WORLD.verbs))
    assert not set(WORLD.girls) & set(WORLD.boys)
    assert len(WORLD.plots) == len({plot.name for plot in WORLD.plots}) >= 24


def test_an_adjective_fits_its_noun() -> None:
    assert "ripe" in WORLD.fitting["apple"] and "ripe" not in WORLD.fitting["hammer"]
    thing_words = [story.words for story in SAMPLES if story.words[2] not in WORLD.traits]
    assert [words for words in thing_words if words[2] not in WORLD.fitting[words[0]]] == []
    assert 0.2 < 1 - len(thing_words) / len(SAMPLES) < 0.4


def test_a_list_of_adjectives_for_an_unknown_group_is_refused() -> None:
    with pytest.raises(ValueError, match="fitting 'fish'"):
        fitting_adjectives({"toys": ["ball"]}, {"any": {"size": ["big"]}, "fitting": {"fish": ["wet"]}})


def test_lines_leave_things_and_pronouns_to_the_slots() -> None:
    fixed = [(set(words_of(re.sub(r"{\w+}", "", line.template))), line.template) for line in all_lines()]
    spots = [(set(words_of(spot)), spot) for place in WORLD.places for spot in (*place.spots, place.at)]
    reserved = set(WORLD.nouns) | set(PRONOUNS) | {"He", "She", "His", "Her"}
    assert [(used & reserved, line) for used, line in [*fixed, *spots] if used & reserved] == []
