"""Cards from the records: metadata that the hub's client reads, verdicts in words, nothing of one machine."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hub_releases import BASE, COMMIT, PROMPT, path_of, release, tuned_run
from hub_releases import add_export as export_of
from report_fakes import MODEL, Run

from posttrain.hub.card import data_card, model_card
from posttrain.hub.card_text import fenced
from posttrain.hub.lineage import lineage, public
from posttrain.hub.release import File, Release
from posttrain.hub.verify import Greedy
from posttrain.rows import write_rows

GREEDY = Greedy([{"role": "user", "content": PROMPT}], "Once there was a fox.", [1, 2])
FENCE = re.compile(r"^(`{3,})\w*\n.*?\n\1$", re.MULTILINE | re.DOTALL)
ADAPTER = (File("adapter_config.json", b'{"r": 4}'), File("adapter_model.safetensors", b""))


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return tuned_run(tmp_path / "run")


def read(card: str) -> Any:
    """The card as the hub's client reads it."""
    from huggingface_hub import ModelCard

    return ModelCard(card)


def adapter(run: Run) -> Release:
    release_of_it = release(run, "sft", "adapter", f"{BASE}@{COMMIT}")
    return Release(**{**vars(release_of_it), "files": ADAPTER})


def outside_fences(card: str) -> str:
    """What Markdown reads as Markdown."""
    return FENCE.sub("", card)


def test_metadata_say_what_it_is_and_how_it_was_judged(run: Run) -> None:
    data = read(model_card(release(run), GREEDY)).data
    assert (data.library_name, data.pipeline_tag, data.license) == ("transformers", "text-generation", "apache-2.0")
    assert "posttrain" in data.tags and "sft" in data.tags
    results = {result.metric_type: result for result in data.eval_results}
    assert set(results) == {"grammar", "instruct", "plot"} and results["instruct"].metric_value == 6.0
    name = results["instruct"].metric_name
    assert "rule judge (a proxy)" in name and "rubric story" in name and "n=24" in name
    assert data.get("base_model") is None, "a directory of one machine is no base on the hub"


def test_an_adapter_names_its_base_and_exported_files_their_library(run: Run, tmp_path: Path) -> None:
    data = read(model_card(adapter(run), GREEDY)).data
    assert (data.base_model, data.base_model_relation, data.library_name) == (BASE, "adapter", "peft")
    card = model_card(adapter(run), GREEDY)
    assert f"rank 4 for [{BASE}](https://huggingface.co/{BASE}) at commit {COMMIT[:12]}" in card
    export_of(run, ("gguf-q8_0",))
    (path_of(run, "export") / "gguf-q8_0").mkdir()
    (path_of(run, "export") / "gguf-q8_0" / "tiny-Q8_0.gguf").touch()
    files = read(model_card(release(run, "export", "files"), GREEDY))
    assert files.data.library_name == "gguf" and "| gguf-q8_0 | 1.72 |" in files.text
    for program in ("llama-cli", "llama-server", "ollama run"):
        assert program in files.text and program not in card


def test_a_base_on_the_hub_is_named_and_its_licence_only_where_its_card_is_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    of_hub = tuned_run(tmp_path / "run", f"{BASE}@main", f"hub:{BASE}@{COMMIT}")
    data = read(model_card(release(of_hub), None)).data
    assert (data.base_model, data.base_model_relation, data.get("license")) == (BASE, "finetune", None)
    snapshot = tmp_path / "cache" / f"models--{BASE.replace('/', '--')}" / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (snapshot / "README.md").write_text("---\nlicense: mit\n---\n# base\n")
    card = read(model_card(release(of_hub), None))
    assert card.data.license == "mit" and f"| model | {BASE} | commit {COMMIT} | mit |" in card.text


def test_a_data_set_of_the_hub_is_named(run: Run) -> None:
    run.nodes[3][1].record["inputs"]["source"] = {
        "reference": "datasets/org/tales@main",
        "identity": f"hub:datasets/org/tales@{COMMIT}",
    }
    card = read(model_card(release(run), None))
    assert (
        card.data.datasets == ["org/tales"] and f"| source | org/tales | commit {COMMIT} | not recorded |" in card.text
    )


@pytest.mark.parametrize(
    ("verdict", "words"),
    [
        ("FAIL", "> **It failed its gate.**"),
        ("INCONCLUSIVE", "> **Inconclusive.**"),
        ("JUDGE INVALID", "> **The judge is invalid.**"),
    ],
)
def test_a_step_that_did_not_prove_itself_says_so_at_the_top(tmp_path: Path, verdict: str, words: str) -> None:
    failed = tuned_run(tmp_path / "run", verdict=verdict)
    failed.nodes[-1][0]["kept"] = "base"
    card = read(model_card(release(failed), GREEDY))
    title, first, *_ = card.text.strip().split("\n\n")
    assert title == "# tiny sft" and first.startswith(words) and "better \\| than \\*before\\*" in first
    assert "the model of base is handed on" in first
    assert (card.data.eval_results is None) == (verdict == "JUDGE INVALID")


def test_a_step_that_passed_has_no_warning_and_one_that_was_not_judged_has(run: Run) -> None:
    assert "> **" not in model_card(release(run), GREEDY)
    run.nodes = [node for node in run.nodes if node[0]["name"] != "sft.judge"]
    unjudged = model_card(release(run), GREEDY)
    assert "> **Not judged.**" in unjudged and "It was judged on" not in unjudged and "The judge is" not in unjudged


def test_the_card_tells_how_it_was_made_and_what_that_took(run: Run) -> None:
    for _, artifact in run.nodes:
        artifact.record["provenance"]["joules"] = {"package-0": 1000.0}
    run.nodes[-1][1].record["metrics"] |= {"remote_calls": 7, "remote_tokens": 900, "cost_usd": 0.5}
    text = read(model_card(release(run), GREEDY)).text
    assert "| rows | generate | generator instructions | 80 rows |" in text
    assert re.search(r"\| sft \| sft \| lora.r 4, learning_rate 0.002 \| LoRA on 80 rows \| [0-9a-f]{12} \|", text)
    assert "| rows | 94 rows | 4 exact copies | 10 |" in text
    assert "7 remote calls, 900 tokens, $0.50" in text and "Energy 8.0 kJ" in text
    assert "| model | storyteller-1m | sha256 1c0bce952925 | apache-2.0 |" in text
    assert "a proxy for what people would say" in text
    assert "| sft, paired difference |" in text and "posttrain.json" in text


def test_only_what_led_to_the_step_is_told(run: Run) -> None:
    run.add("arm", "sft", {"summary": "another arm"}, {"model": "base", "data": "rows"})
    assert "another arm" not in model_card(release(run), GREEDY)
    assert [step["name"] for step in lineage(release(run, "rows", "rows"))["steps"]] == ["rows", "rows.judge"]
    assert "another arm" in model_card(release(run, "arm"), GREEDY)


MACHINE = ("/home/alice", "alice", "gpu7", "10.0.0.3", "s3cret")


def marked(folder: Path) -> Run:
    """A run whose records name a person's directories and private addresses wherever a record holds text."""
    said = {
        "judge_notes": ["tiny at http://gpu7.lan:8000/v1 enforces json_schema"],
        "why": "see /home/alice/runs/store/sft-0123",
    }
    run = tuned_run(folder, "/home/alice/models/my-base", "5" * 64, **said)
    sft = run.nodes[5][1].record
    assert sft["kind"] == "sft"
    sft["config"]["trainer"] = {"logging_dir": "/home/alice/logs", "hub": "https://alice:s3cret@huggingface.co/x"}
    sft["metrics"]["summary"] = "LoRA from '/home/alice/models/my-base', then ~alice/x/y"
    sft["inputs"]["teacher"] = {"reference": "/home/alice/teachers/big", "identity": "6" * 64}
    run.nodes[-1][1].record["config"]["endpoint"] = {"base_url": "http://10.0.0.3:8000/v1"}
    return run


def named(text: str) -> list[str]:
    return [word for word in MACHINE if word in text]


def test_no_path_and_no_private_address_leaves_the_machine(tmp_path: Path) -> None:
    run = marked(tmp_path / "run")
    told = json.dumps(lineage(release(run)))
    card = model_card(release(run), GREEDY)
    assert named(card) == [] and named(told) == [] and str(tmp_path) not in card + told
    assert "my-base" in card and "5" * 64 in told and "a private endpoint" in told
    raw = json.dumps([artifact.record for _, artifact in run.nodes])
    assert named(raw) == list(MACHINE), "the records do name them"


def test_public_text_keeps_what_is_not_of_one_machine() -> None:
    for text in (
        "org/name and a/b",
        "0.5/0.3",
        "https://huggingface.co/org/name",
        "models/storyteller-1m: 1.47M",
        "1 / 2",
    ):
        assert public(text) == text
    assert public("at ~/x/y.json.") == "at y.json." and public(r"C:\Users\alice\m") == "m"


HOSTILE = "text\n```\n---\nlicense: evil\n---\n# Take over\n````\n<script>alert(1)</script> {{ title }} | a |"


def test_texts_of_models_cannot_break_the_page(tmp_path: Path, run: Run) -> None:
    path = path_of(run, "sft.samples") / "completions.jsonl"
    write_rows(path, [{"id": "p00", "sample": 0, "prompt": HOSTILE, "text": HOSTILE, "stopped": True, "tokens": 3}])
    card = model_card(release(run), Greedy([{"role": "user", "content": HOSTILE}], HOSTILE, []))
    assert read(card).data.license == "apache-2.0"
    assert "Take over" in card and "Take over" not in outside_fences(card) and "<script>" not in outside_fences(card)
    careless = f"```text\n{HOSTILE}\n```"
    assert "Take over" in outside_fences(careless), "the check sees a fence that a text closes"
    assert outside_fences(fenced(HOSTILE)) == ""


def test_posttrain_json_is_the_same_for_the_same_run_and_holds_what_made_it(run: Run, tmp_path: Path) -> None:
    told = lineage(release(run))
    assert json.dumps(told) == json.dumps(lineage(release(tuned_run(tmp_path / "again"))))
    steps = {step["name"]: step for step in told["steps"]}
    assert steps["sft"]["inputs"]["model"]["identity"] == steps["base"]["identity"]
    assert steps["sft"]["commit"] == "c" * 40 and steps["sft.judge"]["metrics"]["verdict"] == "PASS"
    assert steps["base"]["config"]["model"] == "storyteller-1m" and told["outside"][0]["licence"] == "apache-2.0"
    run.nodes[5][1].record["config"]["seed"] = 8
    assert lineage(release(run)) != told
    assert not re.search(r"20\d\d-\d\d-\d\dT", json.dumps(told)), "no times"


LOAD = 'load_dataset("PATH OR NAME OF THIS DATA SET")'


def test_a_data_card_keeps_the_steps_own_and_adds_what_the_hub_needs(run: Run) -> None:
    path = path_of(run, "rows")
    write_rows(path / "train.jsonl", [{"id": "a"}] * 3)
    write_rows(path / "test.jsonl", [{"id": "b"}])
    bare = read(data_card(release(run, "rows", "rows")))
    (path / "README.md").write_text("---\nlicense: cc0-1.0\ntags: [stories]\n---\n# Own title\n\nOwn words.\n\n" + LOAD)
    card = read(data_card(release(run, "rows", "rows")))
    assert card.data.license == "cc0-1.0" and bare.data.get("license") is None
    assert card.data.tags == ["stories", "posttrain", "synthetic", "generate"]
    assert card.data.size_categories == "n<1K"
    splits = card.data.configs[0]["data_files"]
    assert splits == [{"split": "train", "path": "train.jsonl"}, {"split": "test", "path": "test.jsonl"}]
    assert "Own words." in card.text and "# Own title" in card.text and "# tiny rows" in bare.text
    assert 'load_dataset("user/tuned")' in card.text
    assert "4 exact copies" in bare.text and "Nothing from outside" in card.text
    failed = run.nodes[4][1].record["metrics"]
    failed["verdict"] = "FAIL"
    warned = read(data_card(release(run, "rows", "rows"))).text.strip().split("\n\n")
    assert warned[0] == "# Own title" and warned[1].startswith("> **It failed its gate.**")


def test_a_language_model_as_judge_is_named(tmp_path: Path) -> None:
    run = Run(tmp_path / "fake", by=MODEL)
    again = tuned_run(tmp_path / "run")
    for row, artifact in again.nodes:
        if row["kind"] == "judge":
            artifact.record["metrics"]["judge"] = run.by
    card = read(model_card(release(again), GREEDY))
    assert "language model gpt-4o-mini" in card.data.eval_results[0].metric_name
    assert "The judge is a language model," in card.text and "set of rules" not in card.text


def test_without_a_recorded_completion_none_is_claimed(run: Run) -> None:
    card = model_card(release(run), None)
    assert "The likeliest answer" not in card and "Story 0 with the words fox and run." in card
    told = model_card(release(run), GREEDY)
    assert "The likeliest answer" in told and GREEDY.text in told
