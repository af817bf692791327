"""Which loss a method of `distill` trains with, made ready, and what it has to tell about itself."""

from typing import TYPE_CHECKING, NamedTuple

from posttrain.chain.stage import Metrics, StageContext

if TYPE_CHECKING:
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
    return Chosen(_logits(config, pair), {})


def _logits(config: "DistillConfig", pair: "Pair") -> "Objective":
    from posttrain.lm.distillation.logit_loss import LogitDistillation
    from posttrain.lm.distillation.objectives import Logits

    settings = LogitDistillation(config.divergence, config.beta, config.temperature, config.alpha)
    assert pair.real_ids is not None, "load_pair has compared the vocabularies"
    return Logits(pair.teacher, settings, pair.real_ids)
