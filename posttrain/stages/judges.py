"""Who judges: the rule judge, a language model behind an endpoint, or a panel of such models.

judge: rule
judge: openai:gpt-4o-mini                          # with `endpoint:` for anything but OpenAI itself
judge: panel                                       # with `panel:`, a list of models, each with its endpoint
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

from pydantic import AfterValidator, Field

from posttrain.chain.identity import HowNotWhat
from posttrain.chain.references import ENDPOINT
from posttrain.chain.stage import Config
from posttrain.engines.budget import Budget, limit_of
from posttrain.engines.endpoint import Endpoint, EndpointSettings
from posttrain.errors import PosttrainError

if TYPE_CHECKING:
    from eval.asking import Ask
    from eval.canaries import Fit
    from eval.llm_judge import JudgeSettings
    from eval.rubric import Rubric
    from eval.verdict import Judge

RULE, PANEL, REMOTE = "rule", "panel", ENDPOINT


class JudgeEndpoint(EndpointSettings):
    """An endpoint with room for a verdict on every axis, and alternatives a token for expected grades."""

    max_tokens: int = Field(1024, ge=1, description="of one verdict")
    top_logprobs: int = Field(5, ge=0, le=20, description="alternatives a token; 0 takes the number that is written")


class PanelMember(JudgeEndpoint):
    """A model of a panel."""

    model: str = Field(min_length=1, description="as the endpoint names it")
    family: str | None = Field(None, description="models of one family share one voice; by default its own")


class Member(NamedTuple):
    """A judge that is asked: its name in reports, its family, and where it answers."""

    name: str
    family: str
    endpoint: Endpoint


def _known(name: str) -> str:
    if name not in (RULE, PANEL) and not name.startswith(REMOTE):
        raise ValueError("rule, panel or openai:MODEL is allowed. Choose one of these")
    if not name.removeprefix(REMOTE).strip():
        raise ValueError("a model's name is needed after openai:. Write for example openai:gpt-4o-mini")
    return name


class JudgeChoice(Config):
    """The part of a recipe's `judge:` that says who judges and how that one is asked."""

    judge: Annotated[str, AfterValidator(_known)] = Field(RULE, description="rule, openai:MODEL or panel")
    endpoint: JudgeEndpoint = Field(JudgeEndpoint(), description="where openai:MODEL answers")
    panel: tuple[PanelMember, ...] = Field((), description="the models of judge: panel")
    votes: int = Field(1, ge=1, le=64, description="samples of every verdict; more than one needs a temperature")
    pairwise: bool = Field(True, description="a language model also compares with the step before, in both orders")
    budget: Annotated[Budget | None, HowNotWhat] = Field(
        None, description="of all judge calls of this recipe; no call is sent that might pass it"
    )
    allow_self_judging: Annotated[bool, HowNotWhat] = Field(False, description="let a model judge its own text")


def members(choice: JudgeChoice) -> list[Member]:
    """The models that are asked; none for the rule judge."""
    if choice.judge == RULE:
        return []
    if choice.judge == PANEL:
        return [_member(one, one.model, one.family) for one in choice.panel]
    return [_member(choice.endpoint, choice.judge.removeprefix(REMOTE), None)]


def _member(settings: JudgeEndpoint, model: str, family: str | None) -> Member:
    known = {name: getattr(settings, name) for name in EndpointSettings.model_fields}
    return Member(f"{REMOTE}{model}", family or model, Endpoint(model=model, **known))


def check_choice(choice: JudgeChoice, where: str) -> None:
    """Refuse settings that do not go together; `where` names the recipe's `judge`."""
    asked = members(choice)
    if (choice.judge == PANEL) != bool(choice.panel):
        found = f"{len(choice.panel)} models with judge: {choice.judge}"
        raise PosttrainError(
            f"{where}.panel: found {found}; 'judge: panel' and its list go together. Add or delete it."
        )
    if len({one.name for one in asked}) < len(asked):
        raise PosttrainError(f"{where}.panel: a model stands there twice; each once is allowed. Delete one.")
    for one in asked:
        limit_of(choice.budget, one.endpoint)  # a budget in dollars needs a price
        if choice.votes > 1 and one.endpoint.temperature == 0:
            raise PosttrainError(
                f"{where}.votes: found {choice.votes} with temperature 0, where all votes are the same; a temperature "
                "above 0 is needed. Set endpoint.temperature to 1, say, or votes to 1."
            )
    if choice.judge == RULE and (choice.votes > 1 or choice.budget is not None):
        key = "votes" if choice.votes > 1 else "budget"
        raise PosttrainError(f"{where}.{key}: the rule judge asks nobody. Delete '{key}', or name a model as judge.")


def asking_settings(choice: JudgeChoice, one: Member) -> "JudgeSettings":
    """How a member is asked."""
    from eval.llm_judge import JudgeSettings

    return JudgeSettings(votes=choice.votes, max_tokens=one.endpoint.max_tokens)


def prompt_hashes(choice: JudgeChoice, rubric: "Rubric") -> list[str] | None:
    """What decides language models' verdicts beside their settings: the words of the prompts, how replies are read."""
    from eval.llm_judge import prompt_identity

    return [prompt_identity(rubric, asking_settings(choice, one)) for one in members(choice)] or None


def fitted(choice: JudgeChoice, rubric: "Rubric", asks: "Sequence[Ask]") -> "Fit":
    """A judge of completions whose members are asked through `asks`, one each."""
    from eval.llm_judge import llm_judge
    from eval.panel import Member as Voice
    from eval.panel import panel

    asked = list(zip(members(choice), asks, strict=True))

    def fit(prompts: "Mapping[str, Mapping[str, Any]]", rows: Sequence[Any], training: Sequence[str]) -> "Judge":
        judges = [llm_judge(ask, rubric, prompts, asking_settings(choice, one)) for one, ask in asked]
        if len(judges) == 1:
            return judges[0]
        return panel([Voice(one.name, one.family, judge) for (one, _), judge in zip(asked, judges, strict=True)])

    return fit


def refuse_self_judging(choice: JudgeChoice, models: Sequence[str], where: str) -> None:
    """Refuse a judge that is one of the models of the chain, unless that is meant; `where` names the recipe."""
    from eval.panel import SelfJudging
    from eval.panel import refuse_self_judging as refuse

    try:
        refuse([one.name for one in members(choice)], models, allowed=choice.allow_self_judging)
    except SelfJudging as error:
        said = str(error).removesuffix(".")
        raise PosttrainError(f"{where}: {said} (judge: allow_self_judging: true).") from None
