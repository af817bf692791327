"""Several verdicts on one answer made one: votes of one judge, and a panel of judges.

A panel of small judges of different families agrees with people better than one large judge, and favours no family
(PoLL, Verga et al. 2024, arXiv 2404.18796). The models of a family are averaged first, so that a family with many
members has one voice. Whoever gave no score is left out, counted and named; nobody is replaced by a number.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, Protocol

from eval.verdict import Judge, Verdict, unscored

PROVIDER = re.compile(r"^[a-z][a-z0-9_]*:(?!//)")
DATED = re.compile(r"[-@](\d{4}-\d{2}-\d{2}|\d{8})$")


class SelfJudging(ValueError):
    """The judge is the model that it would judge."""


class Voice(Protocol):
    """Whoever has a name and belongs to a family of models."""

    @property
    def name(self) -> str: ...

    @property
    def family(self) -> str: ...


class Member(NamedTuple):
    """A judge of a panel: its name, the family of models it belongs to, and the judge."""

    name: str
    family: str
    judge: Judge


def combine_votes(votes: Sequence[Mapping[str, Verdict]]) -> dict[str, Verdict]:
    """The mean of the votes that carry a score, by axis; the reason names their number and spread."""
    if len(votes) == 1:
        return dict(votes[0])
    return {axis: _vote([vote[axis] for vote in votes]) for axis in votes[0]}


def _vote(votes: Sequence[Verdict]) -> Verdict:
    scored = sorted((vote.score, vote.reason) for vote in votes if vote.score is not None)
    if not scored:
        return unscored(f"0 of {len(votes)} votes: {votes[0].reason}")
    found = [score for score, _ in scored]
    mean = sum(found) / len(found)
    _, reason = min(scored, key=lambda vote: abs(vote[0] - mean))
    return Verdict(round(mean, 4), f"{len(scored)} of {len(votes)} votes, {found[0]:g} to {found[-1]:g}: {reason}")


def combine_panel(
    members: Sequence[Voice], verdicts: Sequence[Sequence[Mapping[str, Verdict]]]
) -> list[dict[str, Verdict]]:
    """One verdict a row and axis from those of each member; `verdicts[m][row]` are those of member m."""
    return [
        {axis: _together(members, [found[axis] for found in row]) for axis in row[0]}
        for row in zip(*verdicts, strict=True)
    ]


def _together(members: Sequence[Voice], verdicts: Sequence[Verdict]) -> Verdict:
    families: dict[str, list[float]] = {member.family: [] for member in members}
    told, missing = [], []
    for member, verdict in zip(members, verdicts, strict=True):
        if verdict.score is None:
            missing.append(f"{member.name} ({verdict.reason})")
        else:
            families[member.family].append(verdict.score)
            told.append(f"{member.name} {verdict.score:g} ({verdict.reason})")
    means = [sum(found) / len(found) for found in families.values() if found]
    reason = "; ".join([f"{len(means)} of {len(families)} families", *told])
    if missing:
        reason += f"; {len(missing)} of {len(members)} judges without a score: {', '.join(missing)}"
    return Verdict(round(sum(means) / len(means), 4), reason) if means else unscored(reason)


def panel(members: Sequence[Member]) -> Judge:
    """A judge that asks every member; the mean of the families that gave a score."""
    names = [member.name for member in members]
    if not members or len(set(names)) < len(names):
        raise ValueError(
            f"panel: the judges are {', '.join(names) or 'none'}; at least one, each under a name of its own, is "
            "needed. Name them apart."
        )
    return lambda rows: combine_panel(members, [member.judge(rows) for member in members])


def missing_by_axis(verdicts: Iterable[Mapping[str, Verdict]]) -> dict[str, int]:
    """How many rows have no score on each axis: the account of one member, or of a panel."""
    found: dict[str, int] = {}
    for row in verdicts:
        for axis, verdict in row.items():
            found[axis] = found.get(axis, 0) + (verdict.score is None)
    return found


def same_model(one: str, other: str) -> bool:
    """Whether two references name the same model, apart from provider, owner, folder, revision, date and case."""
    return bool(_bare(one)) and _bare(one) == _bare(other)


def _bare(name: str) -> str:
    last = PROVIDER.sub("", name.strip().casefold()).rstrip("/").rsplit("/", 1)[-1]
    last = DATED.sub("", last).split("@", 1)[0]
    return last.removesuffix(".gguf")


def refuse_self_judging(judges: Iterable[str], candidates: Iterable[str], *, allowed: bool = False) -> None:
    """SelfJudging when a judge is a candidate, by name or identity: models favour what they wrote themselves."""
    if allowed:
        return
    models = list(candidates)
    for judge in judges:
        for candidate in models:
            if same_model(judge, candidate):
                raise SelfJudging(
                    f"judge '{judge}': it is the model that is judged ('{candidate}'), and models favour their own "
                    "text; another model is needed. Name another judge, or allow self-judging where it is meant."
                )
