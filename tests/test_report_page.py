"""The page of a report, from records that no run made: what it shows, and what it never lets through."""

import base64
import hashlib
import os
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from chain_fakes import no_wait
from page_tags import NASTY, Tags, unsafe
from report_fakes import AXES, CANARIES, DRAWN, Run, draw_once, whole_chain

from posttrain.report.page import PROMPTS, page


def forms(word: str) -> frozenset[str]:
    return frozenset({word, word + "s", "ran"}) if word == "run" else frozenset({word, word + "s"})


def made(run: Run) -> str:
    return page("a run", run.nodes, run.prompts, forms)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The page of a run in which nothing is special."""
    return made(whole_chain(tmp_path_factory.mktemp("whole")))


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", no_wait)
    draw_once(monkeypatch)


def test_the_same_records_give_the_same_bytes(tmp_path: Path) -> None:
    run = whole_chain(tmp_path)
    first = made(run)
    DRAWN.clear()
    assert made(run) == first
    run.nodes[-1][1].record["metrics"]["axes"]["instruct"]["score"] = 6.1
    assert made(run) != first  # negative control


def test_every_part_is_there_and_every_plot_has_words(whole: str) -> None:
    for title in ("At a glance", "The chain", "Judge scores", "Samples", "Losses", "rows went", "energy", "lineage"):
        assert title in whole
    images = [attributes for tag, attributes in Tags(whole).found if attributes.get("role") == "img"]
    assert len(images) == 2 + 1 + len(AXES) + 2  # the graph twice, the primary axis twice, two losses
    ids = {attributes.get("id") for _, attributes in Tags(whole).found}
    for image in images:
        assert all(name in ids for name in str(image["aria-labelledby"]).split())
    assert "base 3.0 [2.6, 3.3]; rows 9.0 [8.6, 9.3]; sft 6.0 [5.6, 6.3]" in whole
    assert "5.00 at step 50, 3.50 half way, 3.25 at step 150. held-out text 2.50 nats a token" in whole
    assert "sft (sft · 3.0 min) with model from base and data from rows: PASS, instruct 6.0 [5.6, 6.3]." in whole
    assert "org/outside@main" in whole and "held-out answers 3.00 → 1.50 nats a token" in whole


def test_the_summary_leads_from_the_first_model_to_the_last(whole: str) -> None:
    text = Tags(whole).text
    assert (
        "instruct, base → sft3.0 → 6.0 [5.6, 6.3]sft by itself +1.5 [+1.0, +2.0], paired · rule judge (a proxy)" in text
    )
    assert "words used30% → 60%" in text
    assert "time8.1 min" in text and "peak memory1.23 GB" in text
    assert "energynot measuredno counter is readable here" in text
    assert "cost$0.000 remote calls" in text


def test_a_judge_is_called_a_proxy_wherever_it_is_shown(whole: str) -> None:
    for part in whole.split("<section id=")[1:5]:  # at a glance, the chain, the scores, the samples
        assert "a proxy" in part
    assert whole.count("rule judge (a proxy)</span></figcaption>") == len(AXES)


@pytest.mark.parametrize("where", ["base", "sft"])
def test_a_text_is_a_text(tmp_path: Path, where: str) -> None:
    run = whole_chain(tmp_path, {where: NASTY})
    text = made(run)
    assert unsafe(text) == []
    assert NASTY in Tags(text).text
    assert "<img" not in text and 'alert("x")' not in text


def test_names_reasons_and_settings_are_texts_too(tmp_path: Path) -> None:
    run = whole_chain(tmp_path, why=NASTY, judge=NASTY, canaries=[{**CANARIES[0], "name": NASTY}])
    run.add("last", "generate", {"summary": NASTY, "counts": {NASTY: 1}, "rows": 1, "rows_held_out": 0},
            {"model": NASTY}, config={"trainer": {NASTY: NASTY}})  # fmt: skip
    text = page(NASTY, run.nodes, run.prompts, forms)
    assert unsafe(text) == []
    assert Tags(text).text.count(NASTY) >= 8


def test_what_is_unsafe_is_noticed(whole: str) -> None:
    for bad in (
        "<script>1</script>",
        "<img src=x>",
        '<a href="javascript:alert(1)">x</a>',
        '<p onclick="x">',
        "<p style=x>",
        '<a href="https://example.org">x</a>',
    ):
        assert unsafe(whole.replace("</main>", bad + "</main>")) != []
    assert unsafe(whole.replace("--page:", "--page: url(x);")) != []


def test_the_policy_of_the_page_names_its_own_style_and_script(whole: str) -> None:
    policy = next(str(a["content"]) for _, a in Tags(whole).found if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'; ") and "unsafe" not in policy and "*" not in policy
    for name, code in Tags(whole).code.items():
        digest = base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()
        assert code and f"{name}-src 'sha256-{digest}'" in policy


def test_ids_are_unique_and_references_lead_somewhere(whole: str) -> None:
    tags = Tags(whole).found
    ids = Counter(str(attributes["id"]) for _, attributes in tags if "id" in attributes)
    repeated = {name for name, count in ids.items() if count > 1}
    assert repeated == set()
    wanted = {str(a["href"])[1:] for _, a in tags if "href" in a} | set(re.findall(r"url\(#([^)]+)\)", whole))
    wanted |= {str(a["for"]) for tag, a in tags if tag == "label"}
    assert len(wanted) > 10 and wanted <= set(ids)


def test_an_invalid_judge_stands_at_the_top_with_its_canaries(tmp_path: Path) -> None:
    broken: dict[str, Any] = {"verdict": "JUDGE INVALID", "why": "it likes empty answers", "canaries": CANARIES}
    text = made(whole_chain(tmp_path, **broken))
    top = text.split('id="chain"')[0]
    assert "The verdicts on sft do not count" in top and "it likes empty answers" in top
    assert re.search(r'sentences shuffled</th><td class="n">20</td><td class="n">20</td><td class="n">18</td>', top)
    assert 'class="verdict v-judge-invalid"' in top and "JUDGE INVALID: these figures do not count" in top
    assert "paired" not in top
    passed = made(whole_chain(tmp_path / "passed", canaries=CANARIES[:1]))
    assert "do not count" not in passed and "Canaries of the judge of sft: 1 of 1 passed" in passed


def test_an_invalid_judge_of_an_older_record_has_no_table(tmp_path: Path) -> None:
    text = made(whole_chain(tmp_path, verdict="JUDGE INVALID", why="no reason kept"))
    assert "The verdicts on sft do not count" in text and "Canaries" not in text


def test_a_long_chain_runs_down_the_page_and_not_out_of_it(tmp_path: Path, whole: str) -> None:
    run = Run(tmp_path)
    for at in range(7):
        run.add(f"s{at}", "sft", {}, {"model": f"s{at - 1}"} if at else {})
    text = made(run)
    assert 'class="graph down' in text and 'class="graph across' not in text
    assert 'class="graph down' in whole and 'class="graph across' in whole


def test_an_unscored_axis_is_not_a_zero(tmp_path: Path) -> None:
    axes = {key: {"score": None, "low": None, "high": None} for key in AXES}
    text = made(whole_chain(tmp_path, axes=axes, changes={}, words_used=None))
    assert "base 3.0 [2.6, 3.3]; rows 9.0 [8.6, 9.3]; sft unscored" in text
    assert "3.0 → unscored" in text and "0.0 [" not in text


def test_a_run_without_judges_or_samples_has_a_page(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.add("base", "base", {"summary": "a base"}, {"model": "models/x"})
    text = made(run)
    assert "1 step, finished" in text and unsafe(text) == []
    for said in ("No step of this run was judged", "No step of this run was sampled", "No step of this run was trained",
                 "No step of this run counted rows", "not judged"):  # fmt: skip
        assert said in text


def test_one_judged_step_compares_with_nothing(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.add("base", "base", {"summary": "a base"})
    run.sample("base")
    run.judge("base", 3.0)
    text = made(run)
    assert "instruct, base" in Tags(text).text and "paired" not in text and 'data-drop-all=""' in text


def test_samples_without_verdicts_are_shown_without_a_filter(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.add("base", "base", {})
    run.sample("base")
    text = made(run)
    assert text.count('class="story"') == PROMPTS and 'id="controls"' not in text


def test_required_words_are_marked_only_with_the_prompts_that_were_sampled(tmp_path: Path) -> None:
    run = whole_chain(tmp_path)
    assert "<mark>fox</mark> <mark>ran</mark> away" in made(run) and "any of their forms" in made(run)
    run.prompts.write_text(run.prompts.read_text().replace("fox", "hen"))
    assert "<mark>" not in made(run)


def test_settings_inputs_files_and_versions_are_shown(tmp_path: Path) -> None:
    run = whole_chain(tmp_path)
    text = Tags(made(run)).text
    for row, artifact in run.nodes:
        assert row["identity"] in text
        assert all(name in text and digest[:16] in text for name, digest in artifact.record["files"].items())
    assert "seed7" in text and "torch2.13.0" in text and "c" * 40 in text
    run.nodes[0][1].record["provenance"]["packages"] = {"torch": "2.12.0"}
    assert "Versions of base" in Tags(made(run)).text
