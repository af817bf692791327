"""What a judge would be asked to choose pairs, at most, before anything is asked: for `plan` and `--dry-run`.

No answer is made yet, so each is taken to be as long as the recipe allows, and none to be left out.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from posttrain.chain.stage import Planned, RemoteCalls
from posttrain.stages.candidates import PROMPTS, Answered, Asked, read_prompts
from posttrain.stages.judge_cost import CHARACTERS, ROW_CHARACTERS, calls_of
from posttrain.stages.judges import RULE, fitted
from posttrain.stages.pair_scores import PairsJudge, compare, grade
from posttrain.stages.rubrics import rubric_of

if TYPE_CHECKING:
    from eval.asking import Ask
    from posttrain.stages.pairs import PairsConfig


def pair_calls(planned: Planned) -> RemoteCalls | None:
    """The calls of a node of pairs; None where no language model is asked."""
    config: PairsConfig = planned.config
    judge = config.judge
    if judge is None or judge.judge == RULE:
        return None
    answered = _stand_ins(config, _asked(config, planned))
    return calls_of(judge, planned.journal, lambda asks: _ask_everything(config, judge, asks, answered))


def _ask_everything(config: "PairsConfig", judge: PairsJudge, asks: "Sequence[Ask]", answered: Answered) -> None:
    if config.by == "pairwise":
        compare(judge, rubric_of(judge), asks, answered)
    else:
        grade(judge, answered, fitted(judge, rubric_of(judge), asks), [], None)


def _asked(config: "PairsConfig", planned: Planned) -> list[Asked]:
    """The prompts, or as many stand-ins as there may be."""
    from data_gen.pairing import spread

    count = config.rows or PROMPTS
    if "prompts" in planned.made:
        return spread(read_prompts(planned.made["prompts"]), count)
    count = min(count, planned.awaited["prompts"].rows)
    texts = [f"{number} ".ljust(ROW_CHARACTERS // 10, "x") for number in range(count)]
    return [Asked(text, [{"role": "user", "content": text}], {"prompt": text}) for text in texts]


def _stand_ins(config: "PairsConfig", asked: Sequence[Asked]) -> Answered:
    from data_gen.pairing import Candidate

    length = CHARACTERS * config.sampling.max_new_tokens
    answers = [
        [Candidate(f"{one.id} {nth} ".ljust(length, "x"), None) for nth in range(config.samples)] for one in asked
    ]
    return Answered(list(asked), answers, {}, {})
