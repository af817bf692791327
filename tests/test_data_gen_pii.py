"""Laws of the scan for personal data: planted data is found in every form, what only looks like it is let through."""

import json
from collections import Counter
from collections.abc import Callable
from functools import cache
from itertools import pairwise
from pathlib import Path

import pii_corpus
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_gen import pii
from data_gen.pii import KINDS, Found, find, masked, without_pii

EACH, RECALL = 1_700, 0.99  # 10,200 planted in all
SHARED = Path(__file__).parents[2] / "shared/data"
PLANTED = list(pii_corpus.positives(7, EACH))
Scanner = Callable[[str], list[Found]]
first_scan = cache(find)


def recall(scan: Scanner) -> dict[str, float]:
    """The share of what is planted of each kind that is found whole, as that kind."""
    hits = Counter(
        planted.kind
        for planted in PLANTED
        if any(f.kind == planted.kind and f.start <= planted.start and f.end >= planted.end for f in scan(planted.text))
    )
    return {kind: hits[kind] / EACH for kind in KINDS}


def false_alarms(scan: Scanner) -> list[str]:
    return [text for text in pii_corpus.negatives(7, 50) if scan(text)]


def test_what_is_planted_is_found() -> None:
    assert len(PLANTED) >= 10_000
    assert len({planted.text for planted in PLANTED}) > 0.9 * len(PLANTED)
    found = recall(first_scan)
    assert {kind: share for kind, share in found.items() if share < RECALL} == {}


def test_a_scanner_that_lacks_a_kind_fails_in_it() -> None:
    for kind in KINDS:
        found = recall(lambda text, kind=kind: [f for f in first_scan(text) if f.kind != kind])  # type: ignore[misc]
        assert [name for name, share in found.items() if share < RECALL] == [kind]


def test_a_scanner_of_the_bare_text_misses_what_is_disguised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pii, "_PLAIN", {})
    assert min(recall(find).values()) < RECALL


def test_what_only_looks_like_it_is_let_through() -> None:
    assert false_alarms(find) == []


@pytest.mark.parametrize("check", ["passes_luhn", "passes_mod_97"])
def test_a_scanner_without_check_digits_raises_false_alarms(check: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pii, check, lambda number: True)
    assert false_alarms(find) != []


@pytest.mark.parametrize(
    ("text", "kinds"),
    [
        ("Mail john.smith@example.com or call +44 20 7946 0958.", ["email", "phone"]),
        ("from DE89 3704 0044 0532 0130 00 to GB82WEST12345698765432", ["iban", "iban"]),
        ("4111 1111 1111 1111 and 3782-822463-10005", ["card", "card"]),
        ("ｊｏｈｎ＠ｅｘａｍｐｌｅ．ｃｏｍ", ["email"]),
        ("j\u200bo\u200bhn@exam\u00adple.com", ["email"]),
        ("４１１１ １１１１ １１１１ １１１１", ["card"]),
        ("DE88 3704 0044 0532 0130 00, 4111 1111 1111 1112, a@b, 10/10, 2024-01-02", []),
    ],
)
def test_known_examples(text: str, kinds: list[str]) -> None:
    assert [found.kind for found in find(text)] == kinds


def test_a_place_is_one_of_the_text_itself() -> None:
    text = "½ﬁ\u200b: ４１１１\u00a01111 1111 1111 …"
    [found] = find(text)
    assert text[found.start : found.end] == "４１１１\u00a01111 1111 1111"


@given(st.text(st.sampled_from("a@.-+ 0149(:/=\n\u200b１é…DE"), max_size=60) | st.text(max_size=60))
def test_any_text_can_be_scanned(text: str) -> None:
    found = find(text)
    assert all(0 <= f.start < f.end <= len(text) and f.kind in KINDS for f in found)
    assert all(first.end <= second.start for first, second in pairwise(found))


def test_a_finding_is_shown_without_being_told() -> None:
    text = "john@example.com, +44 20 7946 0958, password=hunter2, 4111 1111 1111 1111"
    assert [masked(text, found) for found in find(text)] == ["j…@…", "+…", "…", "4…"]
    for planted in PLANTED[::17]:
        for found in find(planted.text):
            assert len(masked(planted.text, found)) <= 4


def test_rows_with_personal_data_go_and_their_kind_is_counted() -> None:
    def row(text: str, **facts: object) -> dict[str, object]:
        return {
            "id": "1",
            "messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": text}],
            **facts,
        }

    rows = [row("Nothing."), row("Write to ann@example.com."), row("Fine.", facts={"phones": ["+44 20 7946 0958"]})]
    assert without_pii(rows) == (rows[:1], {"kept": 1, "email": 1, "phone": 1})
    assert without_pii([]) == ([], {"kept": 0})


@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared data are absent")
def test_natural_text_is_let_through() -> None:
    lines = (SHARED / "tinystories/train.jsonl").read_text(encoding="utf-8").splitlines()
    assert [text for line in lines if find(text := json.loads(line)["text"])] == []
    lines = (SHARED / "prompts/ifeval.jsonl").read_text(encoding="utf-8").splitlines()
    found = [kind for line in lines for kind, *_ in find(json.loads(line)["prompt"])]
    assert found == ["phone"]  # one prompt holds one
