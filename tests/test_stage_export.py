"""The export stage: files in their directories, their losses in the record, and no file that is another model."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from chain_fakes import Quiet
from stage_context import PROMPTS, checked, context, given, run

from posttrain.chain.graph import build_graph
from posttrain.chain.recipe import parse_recipe
from posttrain.chain.runner import run_chain
from posttrain.chain.store import Store
from posttrain.errors import PosttrainError
from posttrain.exporting import formats, measure
from posttrain.exporting.formats import write_format
from posttrain.exporting.measure import Corpus
from posttrain.exporting.sampling import Asked, FileSampling, sample_file
from posttrain.report.exports import COLUMNS, exports_of
from posttrain.report.markdown import report_markdown
from posttrain.report.page import page
from posttrain.report.records import steps_of
from posttrain.rows import read_rows, write_rows
from posttrain.stages import STAGES
from posttrain.stages.export_corpus import corpus_of

FEW: dict[str, Any] = {"measured_on": PROMPTS, "rows": 4, "completions": 2, "new_tokens": 6, "name": "tiny"}


def exported(folder: Path, model: Path, stop_after: int | None = None, **settings: Any) -> dict[str, Any]:
    """An export to gguf-f16, measured on answers of few tokens."""
    ctx = context(folder, stop_after, model=given(model))
    few = {"measured_on": asked(folder, 3, 4, 5), "formats": ["gguf-f16"], "limits": {"d_nll_share": 1}}
    return run("export", ctx, model="m", **{**FEW, **few, **settings})


def asked(folder: Path, *counts: int) -> Path:
    """Prompts with references of so many sentences."""
    rows = [{"id": f"r{at}", "prompt": f"Tell me story {at}.", "reference": "The hen sat. " * count}
            for at, count in enumerate(counts)]  # fmt: skip
    write_rows(folder / "p.jsonl", rows)
    return folder / "p.jsonl"


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are measured without a process of their own, which costs seconds; the slow chain below has them."""
    monkeypatch.setattr(measure, "measure", measure.measure_here)


@pytest.mark.usefixtures("in_this_process")
def test_a_file_stands_in_a_directory_of_its_format_and_its_figures_in_the_record(
    tiny_chat_model: Path, tmp_path: Path
) -> None:
    found = exported(tmp_path, tiny_chat_model)
    assert sorted(path.name for path in (tmp_path / "out/gguf-f16").iterdir()) == [
        "Modelfile", "llama.cpp.md", "tiny-F16.gguf"
    ]  # fmt: skip
    reference, file = found["formats"]["fp32"], found["formats"]["gguf-f16"]
    assert file["bytes"] == (tmp_path / "out/gguf-f16/tiny-F16.gguf").stat().st_size
    assert file["tokenizer"] == 1 and 0 <= file["kl"] < 1e-4 and file["top1_clear"] in (None, 1.0)
    assert file["tuned_kl"] is reference["tuned_kl"] is None and found["threads"] == 1
    assert "gguf-f16" in found["summary"] and file["decode_tokens"] > 0


@pytest.mark.usefixtures("in_this_process")
def test_a_killed_export_measures_and_writes_nothing_twice(tiny_chat_model: Path, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        exported(tmp_path / "a", tiny_chat_model, stop_after=2)
    file, work = tmp_path / "a/out/gguf-f16/tiny-F16.gguf", tmp_path / "a/out/.work"
    assert sorted(path.name for path in work.iterdir()) == ["facts-gguf-f16.json", "measured-fp32.json"]
    stamps = [path.stat().st_mtime_ns for path in (file, work / "measured-fp32.json")]
    found = exported(tmp_path / "a", tiny_chat_model)
    assert [path.stat().st_mtime_ns for path in (file, work / "measured-fp32.json")] == stamps
    facts = found["formats"]["gguf-f16"]["facts"]
    assert facts == exported(tmp_path / "b", tiny_chat_model)["formats"]["gguf-f16"]["facts"] != {}


@pytest.mark.usefixtures("in_this_process")
def test_a_directory_that_was_not_finished_is_made_again(tiny_chat_model: Path, tmp_path: Path) -> None:
    half = tmp_path / "out/gguf-f16"
    half.mkdir(parents=True)
    for name in ("tiny-F16.gguf", "old-F16.gguf"):
        (half / name).write_bytes(b"GGUF")
    exported(tmp_path, tiny_chat_model)
    assert sorted(path.name for path in half.iterdir()) == ["Modelfile", "llama.cpp.md", "tiny-F16.gguf"]


@pytest.mark.usefixtures("in_this_process")
def test_a_file_that_is_another_model_is_an_error_with_its_figures(
    tiny_chat_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = formats.write_format

    def damaged(name: str, source: Path, out: Path, title: str) -> dict[str, Any]:
        import torch

        from posttrain.lm.models import load_model, load_tokenizer, save_model

        model = load_model(source)
        with torch.no_grad():
            model.model.embed_tokens.weight[:300] *= 8
        save_model(model, load_tokenizer(source), tmp_path / "damaged")
        return real(name, tmp_path / "damaged", out, title)

    monkeypatch.setattr(formats, "write_format", damaged)
    with pytest.raises(
        PosttrainError, match=r"export: gguf-f16 is not the model that it was made from: NLL \+.*d_nll_share"
    ):
        exported(tmp_path, tiny_chat_model, limits={})


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"formats": ["gguf-q4"]}, "gguf-q8_0, .* are allowed, found 'gguf-q4'"),
        ({"formats": ["gguf-f16", "gguf-f16"]}, "each format once is allowed"),
        ({"formats": []}, "at least 1"),
        ({"name": "../up"}, "letters, digits"),
        ({"measured_on": None}, r"steps\.x\.measured_on: found nothing; .*or add 'judge:'"),
    ],
)
def test_what_cannot_be_exported_is_refused_before_any_compute(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises((PosttrainError, ValueError), match=said):
        checked("export", model="m", **{**FEW, **wrong})


@pytest.mark.parametrize("wrong", [{"id": None}, {"id": "r0"}, {"id": 7}, {"prompt": None}, {"prompt": " "}])
def test_rows_to_be_measured_on_without_an_id_or_a_prompt_are_refused_before_any_compute(
    wrong: dict[str, Any], tmp_path: Path
) -> None:
    path = asked(tmp_path, 3, 4)
    checked("export", model="m", **{**FEW, "measured_on": path})
    first, second = read_rows(path)
    write_rows(path, [first, {**second, **wrong}])
    with pytest.raises(PosttrainError, match=r"p\.jsonl, row 2: found id .* with prompt .*; an 'id' of its own and"):
        checked("export", model="m", **{**FEW, "measured_on": path})


@pytest.mark.timeout(120)
def test_a_file_answers_in_its_own_runtime_and_a_killed_run_goes_on(
    tiny_chat_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # More warnings than a pipe holds (64 KiB): a process that nobody listens to would wait for ever.
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.stderr.write('A warning.\\n' * 20_000)\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    write_format("gguf-f16", tiny_chat_model, tmp_path / "gguf-f16", "tiny")
    hens = [Asked(f"p{at}", [{"role": "user", "content": f"Tell of {at} hens."}]) for at in range(6)]

    def sampled(journal: Path, seed: int = 3, stop_after: int = 99) -> dict[str, dict[str, Any]]:
        how = FileSampling(8, 1.0, seed, 2, 128, 1)

        def tick(rows: int, tokens: int) -> None:
            if rows >= stop_after:
                raise KeyboardInterrupt

        return sample_file("gguf-f16", tmp_path / "gguf-f16", hens, how, journal, tick)

    whole = sampled(tmp_path / "a")
    assert list(whole) == [one.id for one in hens] and all(0 < row["tokens"] <= 8 for row in whole.values())
    with pytest.raises(KeyboardInterrupt):
        sampled(tmp_path / "b", stop_after=2)
    kept = (tmp_path / "b/block-00000.jsonl").stat().st_mtime_ns
    assert sampled(tmp_path / "b") == whole and (tmp_path / "b/block-00000.jsonl").stat().st_mtime_ns == kept
    assert sampled(tmp_path / "c", seed=4) != whole
    (tmp_path / "gguf-f16/tiny-F16.gguf").write_bytes(b"no file")
    with pytest.raises(PosttrainError, match=r"tiny-F16.gguf: llama.cpp cannot open it"):
        sampled(tmp_path / "d")


def test_references_that_do_not_fit_the_context_are_left_out(tiny_chat_model: Path, tmp_path: Path) -> None:
    def corpus(*counts: int) -> Corpus:
        config: Any = STAGES["export"].config.model_validate(
            {"kind": "export", "model": "m", **FEW, "measured_on": asked(tmp_path, *counts)}
        )
        return corpus_of(config, tiny_chat_model)

    found = corpus(300, 3, 4)
    assert [row.id for row in found.rows] == ["r1", "r2"]
    assert found.prompts == [row.prompt for row in found.rows]  # nor are their prompts completed
    assert found.prompts != [row.prompt for row in corpus(2, 3, 4).rows[:2]]
    with pytest.raises(PosttrainError, match=r"1 references of .* fit the model's context of 512 tokens"):
        corpus(300, 4)


def chain(model: Path, **export: Any) -> dict[str, Any]:
    return {
        "name": "r",
        "judge": {"prompts": str(PROMPTS), "limit": 4, "samples": 1, "max_new_tokens": 8},
        "gate": {"on_fail": "warn"},
        "steps": {
            "base": {"kind": "base", "model": str(model)},
            "export": {"kind": "export", "model": "base", **export},
        },
    }


def test_every_file_of_an_export_is_judged_against_the_model_it_was_made_from(tiny_chat_model: Path) -> None:
    recipe = parse_recipe(chain(tiny_chat_model, formats=["gguf-q8_0", "bnb-int8"]), "r.yaml", STAGES)
    nodes = {node.name: node for node in build_graph(recipe, STAGES, None, str)}
    assert [name for name in nodes if name.startswith("export")] == [
        "export", "export.samples", "export.judge", "export.bnb-int8.samples", "export.bnb-int8.judge",
    ]  # fmt: skip
    for name, judge in (("gguf-q8_0", "export.judge"), ("bnb-int8", "export.bnb-int8.judge")):
        found: Any = nodes[judge]
        assert found.inputs["before"] == "base.samples" and found.config.test == "non_inferior"
        sampled: Any = nodes[found.inputs["judged"]]
        assert sampled.config.format == name and sampled.inputs == {"model": "export"}
    assert {node.step for name, node in nodes.items() if name.startswith("export")} == {"export"}
    config: Any = nodes["export"].config
    assert config.measured_on == PROMPTS


@pytest.mark.slow
def test_a_chain_with_an_export_runs_and_its_report_has_the_table(tiny_chat_model: Path, tmp_path: Path) -> None:
    few = {**FEW, "measured_on": str(PROMPTS), "formats": ["gguf-f16"], "limits": {"d_nll_share": 1}}
    path = tmp_path / "r.yaml"
    path.write_text(yaml.safe_dump(chain(tiny_chat_model, **few)))
    recipe = parse_recipe(yaml.safe_load(path.read_text()), str(path), STAGES)
    nodes = build_graph(recipe, STAGES, None, str)
    done = run_chain(recipe, nodes, Store(tmp_path / "runs/store"), Quiet())
    named = [({"name": one.node.name, "kind": one.node.stage.kind, "identity": one.node.identity, "cached": False,
               "seconds": 1.0}, one.artifact) for one in done]  # fmt: skip
    [export] = exports_of(named)
    assert [row[0] for row in export.rows] == ["fp32", "gguf-f16"] and {len(row) for row in export.rows} == {
        len(COLUMNS)
    }
    assert [step["name"] for step in steps_of(named)] == ["base", "export"]
    judge = json.loads((done[-1].artifact.path / "artifact.json").read_text())["metrics"]["verdict"]
    assert export.rows[1][-1].startswith(judge)
    markdown, html = report_markdown("r", named), page("r", named, None, lambda word: [word])
    assert "## Exported files of export" in markdown and "| gguf-f16 |" in markdown
    assert 'id="files-h"' in html and "gguf-f16" in html
    assert 'id="files-h"' not in page("r", named[:3], None, lambda word: [word])  # negative control
    assert len(read_rows(done[-2].artifact.path / "completions.jsonl")) == 4
