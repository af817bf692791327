"""Laws of the story world: what is told is correct English, keeps its promises, depends on nothing else."""

import re
from collections import Counter
from dataclasses import replace
from itertools import combinations, pairwise

import pytest

from data_gen.story import LONGEST, SHORTEST, Story, tell
from data_gen.storyworld import FEATURES, Branch, Choice, Line, check_slots, fitting_adjectives, load_world

WORLD = load_world()
SAMPLES = [tell(3, index) for index in range(2_500)]
PRONOUNS = {"he": "boy", "him": "boy", "his": "boy", "she": "girl", "her": "girl"}
SPEECH = re.compile(r'"[^"]*"')
SENTENCES = re.compile(r"[^.!?]+[.!?]")
BASES = {base for base, past in WORLD.verbs.items() if base != past}
PASTS = set(WORLD.verbs.values()) - set(WORLD.verbs)
PRESENT = r"is|are|am|has|does|goes|says|wants|knows|comes|makes|gets|takes|runs|looks|asks|tells"
GENERAL = re.compile(r"learned|understood|always|know|than|for nobody|said that|told|sometimes|\bif\b|that \w+ \w+ is")
INTRODUCES = re.compile(r"friend|named|name was|called|name of the new child was|brother|sister|neighbor|cousin")
CAPITALISED = {"I", "Saturday", "Sunday"}


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


def sounds_like_a_vowel(word: str) -> bool:
    """By the word's sound, written out apart from the code under test."""
    return bool(re.match(r"honest|hour|heir|[aeio]|u(?!ni[a-z]|se|ku)|uni[mn]", word)) and not re.match(r"one|eu", word)


def faults(story: Story) -> list[str]:
    """What is wrong with a story, by rules that a reader would agree with."""
    found, text = [], story.text
    words, lower = words_of(text), words_of(text.lower())
    for first, second in pairwise(lower):
        if first in {"a", "an"} and (first == "an") != sounds_like_a_vowel(second):
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


def language_faults(story: Story) -> list[str]:
    """Tense, agreement and the form after a helper verb, outside of what the characters say."""
    told = SPEECH.sub("...", story.text)
    subjects = "|".join(["he", "she", "it", "they", *map(re.escape, story.characters)])
    found = [f"base: {m[0]}" for m in re.finditer(rf"[.,;!?\n] (?:{subjects}) (\w+)", told) if m[1] in BASES]
    found += [f"agreement: {m[0]}" for m in re.finditer(r"\b(?:they|we|you|both) was\b|\b(?:he|she|it) are\b", told)]
    helpers = r"\b(?:did|didn't|could|would|should|must|can|to) (\w+)"
    found += [f"after helper: {m[0]}" for m in re.finditer(helpers, story.text) if m[1] in PASTS]
    for sentence in SENTENCES.findall(told):
        if re.search(rf"\b(?:he|she|they|{'|'.join(story.characters)}) (?:{PRESENT})\b", sentence):
            found += [] if GENERAL.search(sentence) else [f"tense: {sentence.strip()}"]
    return found


def unintroduced(story: Story) -> list[str]:
    """People, animals and the thing of the story that are spoken of as known before they are introduced."""
    found, low = [], story.text.lower()
    for who in story.characters:
        if who[0].isupper() and who != story.characters[0]:
            sentence = next(part for part in SENTENCES.findall(story.text) if re.search(rf"\b{who}\b", part))
            if not INTRODUCES.search(sentence[: sentence.index(who)]):
                found.append(f"name: {who}")
        elif who in WORLD.animals and not re.search(rf"\ban? (?:\w+ ){{0,2}}{who}\b", low):
            found.append(f"animal: {who}")
    first = re.search(rf"((?:\w+ ){{1,3}}){story.words[0]}\b", low)
    if first is None or not set(first[1].split()) & {"a", "an", "his", "her", "its", "their"}:
        found.append("thing")
    others = set(words_of(low)) & set(WORLD.nouns) - {story.words[0]}
    return found + [f"other thing: {noun}" for noun in sorted(others)]


def test_stories_keep_tense_agreement_and_the_forms_of_verbs() -> None:
    assert [found for found in map(language_faults, SAMPLES) if found] == []


@pytest.mark.slow
def test_ten_thousand_stories_have_no_fault_and_none_is_told_twice() -> None:
    many = [tell(3, index) for index in range(10_000)]
    for story in many:
        assert not language_faults(story) and not unintroduced(story) and not faults(story), story.text
    assert len({story.text for story in many} | {tell(4, index).text for index in range(10_000)}) == 20_000


def test_nothing_is_spoken_of_before_it_is_introduced() -> None:
    assert [(found, story.text) for story in SAMPLES if (found := unintroduced(story))] == []


@pytest.mark.parametrize(
    ("sentence", "fault"),
    [
        (" HERO dance.", "base"),
        (" Soon they was glad.", "agreement"),
        (" It did not want to danced.", "after helper"),
        (" HERO wants it.", "tense"),
    ],
)
def test_a_mistake_of_language_is_caught(sentence: str, fault: str) -> None:
    story = SAMPLES[0]
    broken = replace(story, text=story.text + sentence.replace("HERO", story.characters[0]))
    assert any(found.startswith(fault) for found in language_faults(broken))


def test_an_unknown_thing_or_name_is_caught() -> None:
    story = next(s for s in SAMPLES if len(s.characters) > 1 and s.characters[1][0].isupper())
    noun, friend = story.words[0], story.characters[1]
    early = replace(story, text=f"There was the {noun}. Then {friend} came. " + story.text)
    assert unintroduced(early) == [f"name: {friend}", "thing"]
    other = next(word for word in WORLD.nouns if word != noun)
    assert unintroduced(replace(story, text=story.text + f" A {other}.")) == [f"other thing: {other}"]


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
    story = next(s for s in SAMPLES if len(s.characters) == 1 and s.characters[0] in WORLD.girls and " she " in s.text)
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


def test_a_slot_that_no_story_fills_is_refused() -> None:
    line = Line("{hero} saw {a_dragon}.", frozenset({"hero", "a_dragon"}))
    with pytest.raises(ValueError, match=r"plot 'cave': unknown slot \$a_dragon"):
        check_slots("cave", [line], frozenset({"hero"}))
    check_slots("cave", [line], frozenset({"hero", "dragon"}))


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


def test_more_than_a_billion_stories_can_be_told() -> None:
    adjectives = min(len(fitting) for fitting in WORLD.fitting.values())
    heroes = min(len(WORLD.girls), len(WORLD.boys))
    assert len(WORLD.nouns) * len(WORLD.verbs) * adjectives * heroes * len(WORLD.plots) > 10**9
    assert len({s.text for s in SAMPLES} | {tell(4, index).text for index in range(2_500)}) == 5_000


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
