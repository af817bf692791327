"""What the distill stage refuses, and what a student of no step is compared with."""

from pathlib import Path
from typing import Any

import distill_stage
import pytest
from distill_stage import distil
from stage_context import checked

from posttrain.errors import PosttrainError
from posttrain.stages import STAGES

rows, pair, other_teacher = distill_stage.rows, distill_stage.pair, distill_stage.other_teacher  # fixtures


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, "exactly one of 'model', 'architecture' and 'layers' .* not none"),
        ({"model": "m", "layers": 2}, "not model and layers"),
        ({"model": "m", "layers": 0}, "greater than or equal to 1"),
        ({"model": "m", "method": "sequence", "alpha": 0.1}, "'alpha' is not read by method sequence, only by logits"),
        ({"model": "m", "beta": 0.1}, "'beta' is read by divergence jsd alone, not by forward_kl"),
        ({"model": "m", "alpha": 1.0}, "less than 1"),
        ({"model": "m", "method": "telepathy"}, "'sequence'"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings: dict[str, Any], said: str) -> None:
    config = STAGES["distill"].config
    config.model_validate(
        {"kind": "distill", "teacher": "t", "data": "d", "model": "m", "divergence": "jsd", "beta": 0.1}
    )
    with pytest.raises(ValueError, match=said):
        config.model_validate({"kind": "distill", "teacher": "t", "data": "d", **settings})


def test_a_trainer_field_that_is_ours_is_refused_before_any_compute() -> None:
    checked("distill", model="m", teacher="t", data="d", trainer={"adam_beta2": 0.99})
    with pytest.raises(PosttrainError, match=r"steps\.x\.trainer\.seed: is set by distill itself"):
        checked("distill", model="m", teacher="t", data="d", trainer={"seed": 1})


def test_a_teacher_with_other_tokens_is_refused_unless_only_its_texts_are_learnt(
    pair: tuple[Path, Path], other_teacher: Path, rows: Path, tmp_path: Path
) -> None:
    with pytest.raises(PosttrainError, match=r"vocabulary: id .* for the student .* Use method: cross_tokenizer"):
        distil(tmp_path / "a", (pair[0], other_teacher), rows)
    made = distil(tmp_path / "b", (pair[0], other_teacher), rows, method="sequence", max_length=128)
    assert made["held_out_divergence"] is None and made["held_out_nll"]["teacher"] > 0


def test_rows_that_cannot_be_learnt_are_refused(pair: tuple[Path, Path], rows: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for name in ("train", "test"):
        (tmp_path / "empty" / f"{name}.jsonl").touch()
    with pytest.raises(PosttrainError, match="holds no rows"):
        distil(tmp_path / "a", pair, tmp_path / "empty")
    with pytest.raises(PosttrainError, match="32 of 32 rows are longer than max_length 8"):
        distil(tmp_path / "b", pair, rows, max_length=8)
    with pytest.raises(PosttrainError, match=r"distill\.max_length: 256; at most 128"):
        distil(tmp_path / "c", pair, rows, max_length=256)


def test_a_model_whose_logits_change_after_the_head_is_refused(
    pair: tuple[Path, Path], rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import LlamaForCausalLM

    real = LlamaForCausalLM.forward

    def capped(self: Any, *args: Any, **kwargs: Any) -> Any:
        found = real(self, *args, **kwargs)
        found.logits = found.logits.tanh()
        return found

    monkeypatch.setattr(LlamaForCausalLM, "forward", capped)
    with pytest.raises(PosttrainError, match="changes its logits after the output"):
        distil(tmp_path, pair, rows)


def test_a_teacher_of_no_numbers_stops_the_run(pair: tuple[Path, Path], rows: Path, tmp_path: Path) -> None:
    from posttrain.lm.models import load_model, load_tokenizer, save_model

    broken = load_model(pair[1])
    broken.model.norm.weight.data.fill_(float("nan"))
    save_model(broken, load_tokenizer(pair[1]), tmp_path / "broken")
    with pytest.raises(PosttrainError, match=r"teacher: held-out answers cost .*broken nan nats"):
        distil(tmp_path, (pair[0], tmp_path / "broken"), rows)


# The chain


def test_a_student_of_no_step_has_nothing_to_be_compared_with() -> None:
    from chain_fakes import commit_of

    from posttrain.chain.graph import build_graph
    from posttrain.chain.recipe import parse_recipe

    def judge_of(**student: Any) -> set[str]:
        step = {"kind": "distill", "teacher": "models/storyteller-1m", "data": "rows", **student}
        raw = {
            "judge": {"prompts": "eval/prompts/tinystories.jsonl"},
            "steps": {
                "base": {"kind": "base", "model": "models/storyteller-1m"},
                "rows": {"kind": "generate"},
                "distill": step,
            },
        }
        recipe = parse_recipe(raw, "r", STAGES)
        assert recipe.gates["distill"].test == ("superior" if "model" in student else None)
        nodes = build_graph(recipe, STAGES, None, commit_of)
        return {*next(node for node in nodes if node.name == "distill.judge").inputs}

    assert judge_of(model="base") == {"judged", "before", "previous", "training"}
    assert judge_of(layers=2) == judge_of(architecture={}) == {"judged", "training"}
