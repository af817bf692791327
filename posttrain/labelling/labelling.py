"""A person's blind votes on a finished run, in the terminal or on a local page."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console

from posttrain.labelling.ballot import Ballot
from posttrain.labelling.label_file import LabelFile
from posttrain.labelling.pairs import Steps, chosen_steps, find_pairs
from posttrain.labelling.server import Hall
from posttrain.labelling.terminal import vote
from posttrain.report.records import Named


class Chosen(NamedTuple):
    """What the voter asks for: steps, the file of votes, the seed of the order, terminal or page."""

    step: str | None = None
    against: str | None = None
    out: Path | None = None
    seed: int = 0
    page: bool = False


def votes_path(folder: Path, steps: Steps) -> Path:
    """Where the votes lie unless another file is named."""
    return folder / f"labels-{steps.a}-{steps.b}.jsonl"


def hold_vote(
    nodes: Sequence[Named],
    where: str,
    folder: Path,
    prompts: Path | None,
    chosen: Chosen,
    console: Console,
) -> dict[str, Any]:
    """Vote until all pairs are done, the voter quits or is interrupted; gives how the vote stands.

    Every vote is on the disk when the next pair is shown, so an interruption is an ordinary end. Who is ahead is not
    said: a break must not tell the voter anything.
    """
    steps = chosen_steps(nodes, chosen.step, chosen.against, where)
    found = find_pairs(nodes, steps, prompts, where)
    with LabelFile(chosen.out or votes_path(folder, steps)) as file:
        ballot = Ballot(found.pairs, steps, file, chosen.seed)
        if found.equal:
            console.print(f"{found.equal} pairs are left out: both completions are the same text", markup=False)
        try:
            if chosen.page:
                _serve(ballot, console)
            else:
                vote(ballot, console, lambda text: console.input(text, markup=False))
        except KeyboardInterrupt:
            console.print()
        return {
            "file": str(file.path),
            "steps": steps._asdict(),
            "pairs": ballot.total,
            "voted": ballot.voted,
            "equal": found.equal,
        }


def _serve(ballot: Ballot, console: Console) -> None:
    with Hall(ballot) as hall:
        console.print(f"open {hall.url}", markup=False, soft_wrap=True)
        console.print("its keys: a, b, t, s, u, q; Ctrl-C here ends it too, and votes are kept", markup=False)
        hall.serve_forever(poll_interval=0.1)
        if hall.failure:
            raise hall.failure
