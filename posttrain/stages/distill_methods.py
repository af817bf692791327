"""Which loss a method of `distill` trains with, made ready, and what it has to tell about itself."""

import hashlib
from typing import TYPE_CHECKING, NamedTuple

from posttrain.chain.stage import Metrics, StageContext
from posttrain.stages.training import trainer_settings

if TYPE_CHECKING:
    from posttrain.lm.distillation.objectives import Logits
    from posttrain.lm.distillation.training import Objective
    from posttrain.stages.distill import DistillConfig
    from posttrain.stages.distilling import Examples, Pair


class Chosen(NamedTuple):
    """What is minimised (None: the cross entropy of plain SFT), and the method's own figures."""

    objective: "Objective | None"
    figures: Metrics


def choose(config: "DistillConfig", ctx: StageContext, pair: "Pair", rows: "Examples") -> Chosen:
    """The method's loss over these rows."""
    if config.method == "sequence":
        return Chosen(None, {})
    if config.method == "cached":
        return _cached(config, ctx, pair, rows)
    if config.method == "cross_tokenizer":
        return _cross_tokenizer(config, pair, rows)
    if config.method == "on_policy":
        return _on_policy(config, pair, rows)
    if config.method == "hidden":
        return _hidden(config, pair)
    return Chosen(_logits(config, pair), {})


def _logits(config: "DistillConfig", pair: "Pair") -> "Logits":
    from posttrain.lm.distillation.logit_loss import LogitDistillation
    from posttrain.lm.distillation.objectives import Logits

    settings = LogitDistillation(config.divergence, config.beta, config.temperature, config.alpha)
    return Logits(pair.teacher, settings, _shared(pair))


def _cached(config: "DistillConfig", ctx: StageContext, pair: "Pair", rows: "Examples") -> Chosen:
    """The teacher reads every row once, 1 % of it again, and leaves the device."""
    from posttrain.lm.distillation.objectives import Cached
    from posttrain.lm.distillation.sampled_targets import TargetSettings
    from posttrain.lm.distillation.target_store import Origin, TargetStore
    from posttrain.lm.distillation.training import as_in_training, runs_in_bf16

    training = trainer_settings(config)
    precision = "bf16" if runs_in_bf16(training) else "fp32"
    tokenizer = hashlib.sha256(pair.chat.tokenizer.backend_tokenizer.to_str().encode()).hexdigest()
    origin = Origin(tokenizer, f"{ctx.inputs['teacher'].identity} in {precision}")
    settings = TargetSettings(_shared(pair), config.draws, config.temperature, config.proposal, config.seed)
    store = TargetStore(ctx.work / "targets", rows.student, origin, settings)
    with as_in_training(pair.teacher, training):
        with ctx.progress(len(rows.student), "rows read by the teacher") as tick:
            made = store.make(pair.teacher, tick)
        verified = store.verify(pair.teacher, seed=config.seed)
    pair.teacher.to("cpu")
    rate = None if made.tokens_per_second is None else round(made.tokens_per_second, 1)
    figures = {**made._asdict(), "tokens_per_second": rate, "tokens_verified": verified}
    return Chosen(Cached(store, config.alpha), {"cache": figures})


def _hidden(config: "DistillConfig", pair: "Pair") -> Chosen:
    """The mapped layers, and projections between the two hidden sizes."""
    from posttrain.lm.distillation.hidden_states import IntermediateMatching
    from posttrain.lm.distillation.objectives import Hidden

    student, teacher = (model.config.get_text_config() for model in (pair.student, pair.teacher))
    matching = IntermediateMatching(student, teacher, config.layer_map, config.attention, config.seed)
    if config.attention:
        for model in (pair.student, pair.teacher):
            model.set_attn_implementation("eager")  # the others keep no maps
    figures = {
        "layer_map": [list(layers) for layers in matching.layer_map],
        "projected": student.hidden_size != teacher.hidden_size,
    }
    return Chosen(Hidden(matching, _logits(config, pair), config.intermediate_share), {"intermediate": figures})


def _on_policy(config: "DistillConfig", pair: "Pair", rows: "Examples") -> Chosen:
    """The student writes to the rows' prompts."""
    from posttrain.lm.distillation.on_policy import OnPolicy, OwnAnswers

    answers = OwnAnswers(
        share=config.lmbda,
        max_new_tokens=config.max_new_tokens,
        temperature=config.sampling_temperature,
        stop_ids=pair.chat.stop_ids,
        max_length=config.max_length,
        seed=config.seed,
    )
    return Chosen(OnPolicy(_logits(config, pair), rows.student, answers), {})


def _cross_tokenizer(config: "DistillConfig", pair: "Pair", rows: "Examples") -> Chosen:
    """Two vocabularies, compared where rows are aligned."""
    from posttrain.lm.distillation.cross_tokenizer import RealIds, aligned_share
    from posttrain.lm.distillation.mixed_universal import check_head
    from posttrain.lm.distillation.objectives import CrossTokenizer

    sizes = RealIds(*(max(chat.tokenizer.get_vocab().values()) + 1 for chat in (pair.chat, pair.teacher_chat)))
    check_head("student", pair.student, sizes.student)
    check_head("teacher", pair.teacher, sizes.teacher)
    objective = CrossTokenizer(pair.teacher, rows.aligned, sizes, config.alpha, config.temperature)
    return Chosen(objective, {"aligned_share": round(aligned_share(rows.aligned), 4)})


def _shared(pair: "Pair") -> int:
    assert pair.real_ids is not None, "load_pair has compared the vocabularies"
    return pair.real_ids
