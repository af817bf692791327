"""`posttrain label` and `posttrain calibrate` as the command line calls them: options in, text or JSON out."""

import argparse
import json
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from posttrain.chain.console import RichScreen, screen_console
from posttrain.chain.paths import find_path
from posttrain.chain.recipe import Recipe, load_recipe
from posttrain.chain.runner import journal_path, read_run, run_folder
from posttrain.chain.store import Store
from posttrain.labelling import calibrating
from posttrain.labelling.endpoint_judge import Remote
from posttrain.labelling.labelling import Chosen, hold_vote
from posttrain.labelling.run_votes import Run


def label(options: argparse.Namespace, recipe: Recipe, store: Store) -> None:
    """Hold a vote on the latest run of the recipe, and say where the votes are."""
    run, folder = _run(recipe, store), run_folder(recipe.name, store)
    chosen = Chosen(options.step, options.against, options.out, options.seed, options.page)
    found = hold_vote(run.nodes, run.where, folder, run.prompts, chosen, screen_console(to_stderr=options.json))
    if options.json:
        print(json.dumps(found, ensure_ascii=False))
        return
    print(f"{found['voted']} of {found['pairs']} pairs have a vote: {found['file']}")


def _run(recipe: Recipe, store: Store) -> Run:
    """The latest run of a recipe."""
    return Run(read_run(recipe.name, store), recipe.judge.prompts if recipe.judge else None, recipe.where)


def calibrate(options: argparse.Namespace, store: Store) -> None:
    """Rank the judges: a drawn table in a terminal, Markdown anywhere else, or one JSON object.

    With a run, correct the win rate of its steps too.
    """
    from posttrain.stages import STAGES

    run = _run(load_recipe(options.run, STAGES), store) if options.run else None
    remote = Remote(
        journal_path(store),
        find_path(options.rubric),
        RichScreen(screen_console(to_stderr=True)).progress,
        options.base_url,
        options.api_key_env,
        options.budget_usd,
    )
    found = calibrating.calibrate(options.judges, options.labels, remote, run)
    console = Console(highlight=False)
    if options.json:
        print(json.dumps(found.as_json(), indent=1, ensure_ascii=False))
    elif console.is_terminal:
        _draw(found.head, found.cells(), found.remarks(), console)
        if found.win_rate:
            console.print()
            _draw(found.win_rate.head, found.win_rate.cells(), found.win_rate.remarks(), console)
    else:
        print(found.as_markdown())


def _draw(head: str, cells: Sequence[Sequence[str]], remarks: Sequence[str], console: Console) -> None:
    """A column a judge: a dozen figures fit below one another, and not beside."""
    table = Table()
    for number, column in enumerate(zip(*cells, strict=True)):
        if number:
            table.add_row(*(Text(cell) for cell in column))
        else:
            for name in column:
                table.add_column(Text(name), overflow="fold")
    console.print(Text(head))
    console.print(table)
    for note in remarks:
        console.print(Text(note))
