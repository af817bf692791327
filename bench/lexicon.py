"""The English words that the rule judge knows, with their kinds: noun, verb, adjective, adverb.

The words are SCOWL's up to level 35, and up to level 50 where WordNet has them, in base forms of up to fourteen
letters, without what `eval.spelling` derives and what WordNet knows as offensive only. The kinds are WordNet's: those
that its counted senses have in a quarter of cases and more, a plus, and the rarer ones. Both come as Debian packages
(`scowl`, `wordnet-base`), whose notices the file repeats.

    python -m bench.lexicon /usr/share/dict/scowl /usr/share/wordnet > eval/lexicon/english.txt
"""

import re
import sys
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping
from itertools import groupby
from pathlib import Path

from eval.spelling import inflected
from eval.words import bases

COMMON, LEVEL, LONGEST = 35, 50, 14
MAIN = 0.25
COUNTED, UNCOUNTED = 2, 1  # weights of a counted example of a kind, and of a kind without one
KINDS = {"1": "n", "2": "v", "3": "a", "5": "a", "4": "r"}
INDEXES = {"noun": "n", "verb": "v", "adj": "a", "adv": "r"}
ROUGH = re.compile(r"\b(?:obscene|offensive|disparaging|slur|vulgar|derogatory|sexual intercourse)\b")
NOTICE = """\
# Words of English: `kinds word word ...`. Kinds are n(oun), v(erb), a(djective), adve(r)b; those after a + are rare for
# the word, and x is none of them. Made by bench/lexicon.py.
#
# The words are a part of SCOWL 2020.12.07, levels 10 to 50.
# Copyright 2000-2011 by Kevin Atkinson. Permission to use, copy, modify, distribute and sell these word lists, the
# associated scripts, the output created from the scripts, and its documentation for any purpose is hereby granted
# without fee, provided that the above copyright notice appears in all copies and that both that copyright notice and
# this permission notice appear in supporting documentation. Kevin Atkinson makes no representations about the
# suitability of this array for any purpose. It is provided "as is" without express or implied warranty.
#
# The kinds are WordNet 3.0's. WordNet 3.0 Copyright 2006 by Princeton University. All rights reserved.
# Permission to use, copy, modify and distribute this software and database and its documentation for any purpose and
# without fee or royalty is hereby granted, provided that you agree to comply with the following copyright notice and
# statements, including the disclaimer, and that the same appear on ALL copies of the software, database and
# documentation, including modifications that you make for internal use or for distribution.
# WordNet 3.0 Copyright 2006 by Princeton University. All rights reserved.
# THIS SOFTWARE AND DATABASE IS PROVIDED "AS IS" AND PRINCETON UNIVERSITY MAKES NO REPRESENTATIONS OR WARRANTIES,
# EXPRESS OR IMPLIED. BY WAY OF EXAMPLE, BUT NOT LIMITATION, PRINCETON UNIVERSITY MAKES NO REPRESENTATIONS OR
# WARRANTIES OF MERCHANTABILITY OR FITNESS FOR ANY PARTICULAR PURPOSE OR THAT THE USE OF THE LICENSED SOFTWARE,
# DATABASE OR DOCUMENTATION WILL NOT INFRINGE ANY THIRD PARTY PATENTS, COPYRIGHTS, TRADEMARKS OR OTHER RIGHTS.
# The name of Princeton University or Princeton may not be used in advertising or publicity pertaining to distribution
# of the software and/or database. Title to copyright in this software, database and any associated documentation shall
# at all times remain with Princeton University and LICENSEE agrees to preserve same.
"""


def listed(folder: Path, level: int) -> set[str]:
    """The plain lower-case words of SCOWL up to a level, in every spelling of English."""
    found: set[str] = set()
    for path in folder.iterdir():
        named = re.fullmatch(r"(?:english|american|british|british_z|canadian)-words\.(\d+)", path.name)
        if named and int(named[1]) <= level:
            found.update(path.read_text(encoding="latin-1").split())
    return {word for word in found if re.fullmatch(rf"[a-z]{{1,{LONGEST}}}", word)}


def rough(folder: Path) -> set[str]:
    """Words that have no sense but ones that WordNet's glosses call offensive or sexual."""
    senses: dict[str, list[bool]] = defaultdict(list)
    for name in INDEXES:
        for line in (folder / f"data.{name}").read_text(encoding="ascii").splitlines():
            fields, _, gloss = line.partition("|")
            for word in fields.split()[4::2]:
                senses[word.lower()].append(bool(ROUGH.search(gloss)))
    return {word for word, marks in senses.items() if all(marks)}


def weights(folder: Path) -> dict[str, Counter[str]]:
    """How often WordNet counted each word as each kind."""
    found: dict[str, Counter[str]] = defaultdict(Counter)
    for line in (folder / "cntlist.rev").read_text(encoding="ascii").splitlines():
        sense, _, count = line.split()
        word, _, place = sense.partition("%")
        found[word][KINDS[place[0]]] += COUNTED * int(count)
    for name, kind in INDEXES.items():
        for line in (folder / f"index.{name}").read_text(encoding="ascii").splitlines():
            found[line.split(" ", 1)[0]][kind] += UNCOUNTED
    return found


def kinds(counted: Counter[str]) -> str:
    """The main kinds, the commonest first, and the rare ones behind a plus."""
    order = sorted(counted, key=lambda kind: (-counted[kind], kind))
    main = [kind for kind in order if counted[kind] >= MAIN * counted.total()]
    rare = sorted(set(order) - set(main))
    return "".join(main) + ("+" + "".join(rare) if rare else "") or "x"


def derived(word: str, words: Collection[str], counted: Mapping[str, Counter[str]]) -> bool:
    """Whether the judge's rules form the word from an adjective: older, oldest, sadly, sadness."""
    for ending in ("er", "est", "ly", "ness"):
        stem = word.removesuffix(ending)
        near = {stem, stem + "e", stem[:-1], stem[:-1] + "y"} - {word}
        if stem != word and len(stem) > 2 and any("a" in counted[base] for base in near if base in words):
            return counted[word].total() <= UNCOUNTED
    return False


def main(scowl: Path, wordnet: Path) -> None:
    """Print the lexicon, one line for the words of a kind and a first letter."""
    common, counted = listed(scowl, COMMON), weights(wordnet)
    words = common | {word for word in listed(scowl, LEVEL) if word in counted}
    left_out = rough(wordnet)
    every = {word: kinds(counted[word]) for word in words if not bases(word) & left_out}
    base = [word for word in every if not inflected(word, every) and not derived(word, words, counted)]
    found = sorted((every[word], word) for word in base)
    print(NOTICE, end="")
    for (kind, _), group in groupby(found, key=lambda item: (item[0], item[1][0])):
        print(kind, *(word for _, word in group))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
