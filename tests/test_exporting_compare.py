"""What an export may do to a model shows in the figures: closed forms of each, and damaged files that they catch."""

import json
from collections.abc import Callable
from math import exp, log
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import SHARED
from exporting_corpus import STORYTELLER, TEXTS, corpus_of, here
from torch import nn

from eval.statistics import Interval
from posttrain.errors import PosttrainError
from posttrain.exporting.compare import compare, divergence, tuned_kl
from posttrain.exporting.gguf_file import write
from posttrain.exporting.limits import Limits, losses
from posttrain.exporting.measure import Corpus, Measured, Row, ScoredRow
from posttrain.exporting.runtime import Scored
from posttrain.lm import gguf
from posttrain.lm.models import load_model, load_tokenizer, save_model

Change = Callable[[Any, Any], None]
CORPUS_ROWS = 2


def scored(logits: list[float], top: int, token: int = 0) -> Scored:
    """One token as a runtime with these logits reports it."""
    total = log(sum(exp(logit) for logit in logits))
    best = sorted(range(len(logits)), key=lambda at: -logits[at])[:top]
    return Scored(logits[token] - total, tuple((at, logits[at] - total) for at in best))


def exact_kl(p: list[float], q: list[float]) -> float:
    ours, theirs = torch.tensor([p, q], dtype=torch.float64).log_softmax(-1)
    return float((ours.exp() * (ours - theirs)).sum())


def test_kl_is_exact_over_a_whole_vocabulary_and_a_lower_bound_over_its_top() -> None:
    generator = torch.Generator().manual_seed(1)
    for _ in range(50):
        p, q = (2 * torch.randn(2, 40, generator=generator, dtype=torch.float64)).tolist()
        exact = exact_kl(p, q)
        bounds = [divergence(scored(p, top), scored(q, top)) for top in (1, 3, 10, 39, 40)]
        assert bounds[-1] == pytest.approx(exact, abs=1e-9)
        assert all(-1e-9 <= bound <= exact + 1e-9 for bound in bounds)
        assert abs(divergence(scored(q, 40), scored(p, 40)) - exact) > 1e-3  # the other direction is another number


def test_lists_without_a_common_id_still_show_a_difference() -> None:
    p, q = [10.0] * 5 + [0.0] * 1000, [0.0] * 1000 + [1.0] * 5
    assert 0.8 * exact_kl(p, q) < divergence(scored(p, 5), scored(q, 5)) <= exact_kl(p, q)


def test_a_renormalised_top_list_would_hide_what_the_bucket_shows() -> None:
    p, q = [3.0, 2.0, *[-9.0] * 38], [3.0, 2.0, *[1.0] * 38]  # equal at the top, unequal in their tails
    shown = divergence(scored(p, 2), scored(q, 2))
    renormalised = exact_kl(p[:2], q[:2])
    assert shown > 1.0 and renormalised == 0


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return corpus_of(STORYTELLER, CORPUS_ROWS)


@pytest.fixture(scope="module")
def reference(corpus: Corpus) -> Measured:
    return here("fp32", STORYTELLER, corpus)


@pytest.fixture(scope="module")
def healthy(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Measured:
    return exported(STORYTELLER, tmp_path_factory.mktemp("healthy") / "out", corpus)


def exported(model_dir: Path, out: Path, corpus: Corpus, kind: str = "q8_0") -> Measured:
    write(model_dir, out, "m", kind)
    return here(f"gguf-{kind}", out, corpus)


def changed(change: Change, path: Path) -> Path:
    """The storyteller with something done to it, as a directory."""
    model, tokenizer = load_model(STORYTELLER), load_tokenizer(STORYTELLER)
    with torch.no_grad():
        change(model, tokenizer)
    save_model(model, tokenizer, path)
    return path


def zero_a_block(model: Any, tokenizer: Any) -> None:
    block = model.model.layers[1]
    block.self_attn.o_proj.weight.zero_()
    block.mlp.down_proj.weight.zero_()


def untie_the_head(model: Any, tokenizer: Any) -> None:
    """What a reader makes of a head that is missing and not known to be tied: fresh numbers."""
    model.config.tie_word_embeddings = False
    generator = torch.Generator().manual_seed(0)
    model.lm_head.weight = nn.Parameter(0.02 * torch.randn(model.lm_head.weight.shape, generator=generator))


def drop_the_template(model: Any, tokenizer: Any) -> None:
    tokenizer.chat_template = None


def add_outliers(model: Any, tokenizer: Any) -> None:
    """Channel 7 times 100, undone by the norm before it: the same function in fp32, but 8 bits have a coarser step."""
    for layer in model.model.layers:
        attention, mlp = layer.self_attn, layer.mlp
        layer.input_layernorm.weight[7] /= 100
        layer.post_attention_layernorm.weight[7] /= 100
        for projection in (attention.q_proj, attention.k_proj, attention.v_proj, mlp.gate_proj, mlp.up_proj):
            projection.weight[:, 7] *= 100


@pytest.mark.slow
def test_a_healthy_f16_file_is_within_the_limits(reference: Measured, corpus: Corpus, tmp_path: Path) -> None:
    figures = compare(reference, exported(STORYTELLER, tmp_path / "f16", corpus, "f16"))
    assert losses(figures, Limits()) == []
    assert figures.greedy == 1.0 and figures.ratios.size < 0.55
    assert figures.kl.low <= figures.kl.mean <= figures.kl.high < 1e-4


def real_stories(model_dir: Path, rows: int, characters: int, tokens: int) -> Corpus:
    """Cuts of real stories at even distances, as the model reads them."""
    stories = SHARED / "data" / "tinystories" / "valid.txt"
    if not stories.is_file():
        pytest.skip("needs the real stories beside the project")
    tokenizer, text = load_tokenizer(model_dir), stories.read_text(encoding="utf-8")
    starts = range(0, 9_000 * rows, 9_000)
    cut = [tokenizer.encode(text[start : start + characters])[:tokens] for start in starts]
    scored_rows = [Row(f"{at}", ids[:2], ids[2:]) for at, ids in enumerate(cut)]
    return Corpus(scored_rows, list(TEXTS), [], [row.prompt for row in scored_rows[:2]])


def test_a_healthy_8_bit_file_is_within_the_limits(stories260k: Path, tmp_path: Path) -> None:
    real = real_stories(stories260k, rows=8, characters=500, tokens=102)
    figures = compare(here("fp32", stories260k, real), exported(stories260k, tmp_path / "out", real))
    assert losses(figures, Limits()) == []


@pytest.mark.slow
def test_a_healthy_8_bit_file_agrees_in_98_of_100_first_choices(stories260k: Path, tmp_path: Path) -> None:
    real = real_stories(stories260k, rows=40, characters=700, tokens=200)
    assert sum(len(row.answer) for row in real.rows) > 5000  # a standard error of 0.2 points of the top-1 agreement
    figures = compare(here("fp32", stories260k, real), exported(stories260k, tmp_path / "out", real))
    assert losses(figures, Limits(top1=0.98)) == []


@pytest.mark.parametrize(
    ("change", "beyond"),
    [
        (zero_a_block, {"NLL", "KL", "top-1"}),
        (untie_the_head, {"NLL", "KL", "top-1"}),
        (add_outliers, {"NLL", "KL", "top-1"}),
        (drop_the_template, {"tokenizer"}),
    ],
)
def test_a_damaged_file_is_noticed(
    change: Change, beyond: set[str], reference: Measured, corpus: Corpus, tmp_path: Path
) -> None:
    path = changed(change, tmp_path / "model")
    figures = compare(reference, exported(path, tmp_path / "out", corpus))
    assert beyond <= {line.split()[0] for line in losses(figures, Limits())}


def test_a_wrong_rope_is_noticed(
    reference: Measured, corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gguf, "interleave_halves", lambda values, heads: values)
    figures = compare(reference, exported(STORYTELLER, tmp_path / "out", corpus))
    assert {"NLL", "KL", "top-1"} <= {line.split()[0] for line in losses(figures, Limits())}


def test_outliers_are_the_same_model_until_they_are_rounded(
    reference: Measured, corpus: Corpus, tmp_path: Path
) -> None:
    figures = compare(reference, here("fp32", changed(add_outliers, tmp_path / "model"), corpus))
    assert losses(figures, Limits()) == [] and figures.kl.mean < 1e-6


@pytest.mark.slow
def test_an_adapter_lost_on_the_way_is_noticed(
    reference: Measured, healthy: Measured, corpus: Corpus, tmp_path: Path
) -> None:
    def tune(model: Any, tokenizer: Any) -> None:
        generator = torch.Generator().manual_seed(2)
        for layer in model.model.layers:
            weight = layer.self_attn.v_proj.weight
            low = [torch.randn(size, generator=generator) for size in ((weight.shape[0], 2), (2, weight.shape[1]))]
            weight += 0.05 * low[0] @ low[1]

    tuned_dir = changed(tune, tmp_path / "tuned")
    tuned = here("fp32", tuned_dir, corpus)
    before = tuned_kl(reference, tuned)
    after = tuned_kl(reference, exported(tuned_dir, tmp_path / "kept", corpus))
    assert before > 0.02 and after == pytest.approx(before, rel=0.2)
    assert tuned_kl(reference, healthy) < 0.1 * before  # the base, exported in the tuned model's place


def test_agreement_counts_tosses_and_clear_choices_apart(reference: Measured) -> None:
    def answers(*logits: list[float]) -> Measured:
        return reference._replace(rows=[ScoredRow("r", [scored(each, 3) for each in logits])])

    ours = answers([2.0, 1.0, 0.0], [1.05, 1.0, 0.0], [2.0, 1.0, 0.0], [2.0, 1.0, 0.0])
    tossed = compare(ours, answers([2.0, 1.0, 0.0], [1.0, 1.05, 0.0], [2.0, 1.0, 0.0], [2.0, 1.0, 0.0]))
    wrong = compare(ours, answers([1.0, 2.0, 0.0], [1.05, 1.0, 0.0], [2.0, 1.0, 0.0], [2.0, 1.0, 0.0]))
    assert (tossed.top1, tossed.top1_clear) == (0.75, 1.0)
    assert (wrong.top1, wrong.top1_clear) == (0.75, pytest.approx(2 / 3))
    assert compare(answers([1.0, 1.0, 1.0]), answers([1.0, 1.0, 1.0])).top1_clear is None


def test_each_limit_is_held_by_itself(reference: Measured) -> None:
    limits = Limits()
    at = compare(reference, reference)._replace(**limits.model_dump(exclude={"kl"}), kl=Interval(limits.kl, 0, 1))
    assert losses(at, limits) == [] == losses(at._replace(top1_clear=None), limits)
    for key, beyond in {"d_nll_share": 0.0051, "kl": Interval(0.0101, 0, 1), "top1": 0.949, "top1_clear": 0.979,
                        "tokenizer": 0.999}.items():  # fmt: skip
        [said] = losses(at._replace(**{key: beyond}), limits)
        assert f"(limit {key}: " in said
    assert losses(at._replace(top1=0.9), Limits(top1=0.9)) == []


def test_measurements_of_different_rows_are_refused(reference: Measured) -> None:
    with pytest.raises(PosttrainError, match="not the same"):
        compare(reference, reference._replace(rows=reference.rows[1:]))
    with pytest.raises(PosttrainError, match="at least one row"):
        compare(reference._replace(rows=[]), reference._replace(rows=[]))
    assert compare(reference, reference).d_nll.mean == 0


def test_figures_are_plain_numbers(reference: Measured) -> None:
    assert "NaN" not in json.dumps(compare(reference, reference))
