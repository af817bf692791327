"""The command line: joins the chain with the table of stages. Heavy imports happen inside functions."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from posttrain import __version__
from posttrain.errors import GateFailed, PosttrainError

if TYPE_CHECKING:
    from posttrain.chain.graph import Node
    from posttrain.chain.recipe import Recipe
    from posttrain.chain.store import Store
    from posttrain.report.records import Named


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="posttrain",
        description="Post-training for small language models: a recipe is a chain, every step closed by a judge.",
    )
    parser.add_argument("--version", action="version", version=f"posttrain {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, text: str, recipe: bool = True) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=text, description=text)
        if recipe:
            made.add_argument("recipe", help="a name in recipes/, or the path of a YAML file")
            text = "change a value of the recipe, such as sft.lora.r=8 (may be given again)"
            made.add_argument(
                "--set", action="append", default=[], metavar="STEP.KEY=VALUE", dest="overrides", help=text
            )
            made.add_argument("--until", metavar="STEP", help="stop after this step")
        made.add_argument(
            "--store", type=Path, default=Path("runs/store"), metavar="DIR", help="where artifacts lie (runs/store)"
        )
        made.add_argument("--json", action="store_true", help="print JSON instead of text")
        return made

    run = command("run", "run a recipe's chain; what is done already is not done again")
    run.add_argument("--rerun", action="append", default=[], metavar="STEP", help="make this step again")
    run.add_argument("--dry-run", action="store_true", help="show what would run, and stop")
    command("plan", "show what would run")
    command("validate", "check a recipe and its inputs")
    command("report", "write report.html and report.md from the records of the latest run")
    chat = command("chat", "talk to the model of a step")
    chat.add_argument("--step", metavar="STEP", help="the last step that makes a model, unless given")
    _voting(command)
    command("ls", "list what the store holds", recipe=False)
    command("schema", "print the JSON Schema of recipes", recipe=False)
    show = command("show", "print the record of an artifact", recipe=False)
    show.add_argument("artifact", help="its name in the store, such as sft-3fa1c09b2d4e, or the start of it")
    return parser


def _voting(command: Callable[..., argparse.ArgumentParser]) -> None:
    label = command("label", "vote blind on pairs of a run's completions, for a file of human labels")
    label.add_argument("--step", metavar="STEP", help="whose completions; the last sampled step's, unless given")
    label.add_argument("--against", metavar="STEP", help="against whose; the step's that its judge compared with")
    label.add_argument("--page", action="store_true", help="vote on a local web page and not in the terminal")
    label.add_argument("--out", type=Path, metavar="FILE", help="where votes go (runs/RECIPE/labels-STEP-STEP.jsonl)")
    label.add_argument("--seed", type=int, default=0, metavar="N", help="draws the order of pairs and places (0)")
    calibrate = command("calibrate", "measure judges against human labels, and rank them", recipe=False)
    text = "rule, longest, recorded:FILE or openai:MODEL (may be given again)"
    calibrate.add_argument("--judge", action="append", required=True, metavar="JUDGE", dest="judges", help=text)
    text = "pairs or scores: our JSON lines, or PandaLM's or LLMBar's file as it is"
    calibrate.add_argument("--labels", type=Path, required=True, metavar="FILE", help=text)
    text = "what an endpoint is told to look for (eval/rubrics/assistant.md)"
    calibrate.add_argument("--rubric", type=Path, default="eval/rubrics/assistant.md", metavar="FILE", help=text)
    calibrate.add_argument(
        "--base-url", metavar="URL", help="the endpoint's, as in http://127.0.0.1:8000/v1 (OpenAI's)"
    )
    calibrate.add_argument("--api-key-env", metavar="NAME", help="the environment variable with the endpoint's key")
    calibrate.add_argument("--budget-usd", type=float, metavar="N", help="stop before a call that might pass this sum")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command. Exit codes: 0 done, 2 bad input, 3 a failed gate, 130 interrupted."""
    options = _parser().parse_args(arguments)
    signal.signal(signal.SIGTERM, _interrupt)
    commands = {
        "run": _run,
        "plan": _plan,
        "validate": _validate,
        "report": _report,
        "chat": _chat,
        "label": _label,
        "calibrate": _calibrate,
        "ls": _ls,
        "schema": _schema,
        "show": _show,
    }
    try:
        _run_plainly(commands[options.command], options)
    except GateFailed as error:
        sys.exit(_complain(error, 3))
    except PosttrainError as error:
        sys.exit(_complain(error, 2))
    except KeyboardInterrupt:
        print("interrupted; what was finished is kept, and the same command continues", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:  # the reader of our output, `head` say, has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _run_plainly(command: Callable[[argparse.Namespace], None], options: argparse.Namespace) -> None:
    from posttrain.chain.store import plain_disk_errors

    with plain_disk_errors(options.store):
        command(options)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _complain(error: PosttrainError, code: int) -> int:
    print(f"posttrain: {error}", file=sys.stderr)
    return code


def _recipe(options: argparse.Namespace) -> Recipe:
    from posttrain.chain.recipe import load_recipe
    from posttrain.stages import STAGES

    return load_recipe(options.recipe, STAGES, options.overrides)


def _graph(options: argparse.Namespace) -> tuple[Recipe, list[Node]]:
    from posttrain.chain.graph import build_graph
    from posttrain.hub.fetch import resolve_revision
    from posttrain.stages import STAGES

    recipe = _recipe(options)
    return recipe, build_graph(recipe, STAGES, options.until, resolve_revision)


def _store(options: argparse.Namespace) -> Store:
    from posttrain.chain.console import RichScreen, screen_console
    from posttrain.chain.store import Store

    screen = RichScreen(screen_console(to_stderr=True))
    return Store(options.store, say=lambda text: print(text, file=sys.stderr), progress=screen.progress)


def _run(options: argparse.Namespace) -> None:
    from posttrain.chain.console import RichScreen, screen_console
    from posttrain.chain.kept import handed_on
    from posttrain.chain.runner import read_run, run_chain, run_folder
    from posttrain.report import records
    from posttrain.report.markdown import write_markdown

    if options.dry_run:
        return _plan(options)
    recipe, nodes = _graph(options)
    store, folder = _store(options), run_folder(recipe.name, _store(options))
    screen = RichScreen(screen_console(to_stderr=options.json))
    failed: GateFailed | None = None
    try:
        named = records.named(run_chain(recipe, nodes, store, screen, frozenset(options.rerun)))
    except GateFailed as error:  # what was done up to here is reported all the same
        failed, named = error, read_run(recipe.name, store)
    write_markdown(folder, recipe.name, named)
    if options.json:
        print(json.dumps(records.report_json(recipe.name, named), indent=1, ensure_ascii=False))
    else:
        columns, rows = records.sample_rows(named, 3, records.lineage(named))
        if rows and any(not row["cached"] for row, _ in named):
            screen.side_by_side("Samples on held-out prompts", columns, rows)
        screen.closing_table(records.steps_of(named))
        reached = {row["name"] for row, _ in named}
        models = [node.name for node in nodes if node.stage.makes == "model" and node.name in reached]
        screen.where(models[-1:], folder, options.recipe, handed_on([row for row, _ in named]))
    if failed is not None:
        raise failed
    return None


def _plan(options: argparse.Namespace) -> None:
    from posttrain.chain.console import RichScreen
    from posttrain.chain.plan import plan_rows

    recipe, nodes = _graph(options)
    rows = plan_rows(nodes, recipe.gates, _store(options))
    if options.json:
        print(json.dumps({"recipe": recipe.name, "nodes": rows}, indent=1))
    else:
        RichScreen().plan_table(recipe.name, rows)


def _validate(options: argparse.Namespace) -> None:
    recipe, nodes = _graph(options)
    if options.json:
        print(json.dumps({"recipe": recipe.name, "nodes": [node.name for node in nodes]}))
    else:
        print(f"{recipe.where}: fine; {len(recipe.steps)} steps, {len(nodes)} nodes with judges")


def _report(options: argparse.Namespace) -> None:
    from posttrain.chain.runner import read_run, run_folder
    from posttrain.report.markdown import write_markdown
    from posttrain.report.records import report_json

    recipe, store = _recipe(options), _store(options)
    nodes = read_run(recipe.name, store)
    if options.json:
        print(json.dumps(report_json(recipe.name, nodes), indent=1, ensure_ascii=False))
        return
    folder = run_folder(recipe.name, store)
    write_markdown(folder, recipe.name, nodes)
    print(_write_page(folder, recipe, nodes))


def _write_page(folder: Path, recipe: Recipe, nodes: list[Named]) -> Path:
    """The required words of a prompt are marked by the judge's own rule of which forms count."""
    from eval.words import accepted
    from posttrain.report.page import write_page

    prompts = recipe.judge.prompts if recipe.judge else None
    return write_page(folder, recipe.name, nodes, prompts, accepted)


def _chat(options: argparse.Namespace) -> None:
    from posttrain.chain.kept import handed_on
    from posttrain.chain.recipe import check_steps
    from posttrain.chain.runner import read_run
    from posttrain.stages import STAGES
    from posttrain.stages.chatting import talk

    recipe = _recipe(options)
    run = read_run(recipe.name, _store(options))
    models = {row["name"]: artifact for row, artifact in run if STAGES[row["kind"]].makes == "model"}
    last = next(reversed(models), "of any name")
    step = options.step or handed_on([row for row, _ in run]).get(last, last)
    check_steps(models, [step], f"{recipe.where}: steps that have made a model")
    talk(models[step].path, step)


def _label(options: argparse.Namespace) -> None:
    from posttrain.labelling.commands import label

    label(options, _recipe(options), _store(options))


def _calibrate(options: argparse.Namespace) -> None:
    from posttrain.labelling.commands import calibrate

    calibrate(options)


def _ls(options: argparse.Namespace) -> None:
    entries = _store(options).entries()
    if options.json:
        print(json.dumps([{"entry": entry.path.name, **entry.record} for entry in entries], indent=1))
        return
    for entry in entries:
        print(f"{entry.path.name:<24} {entry.record['finished']}  {entry.record['metrics'].get('summary', '')}")


def _show(options: argparse.Namespace) -> None:
    found = [entry for entry in _store(options).entries() if entry.path.name.startswith(options.artifact)]
    if len(found) != 1:
        names = ", ".join(entry.path.name for entry in found) or "none"
        raise PosttrainError(
            f"show {options.artifact}: {len(found)} entries of {options.store} start so ({names}); "
            "exactly one is needed. See 'posttrain ls'."
        )
    print(json.dumps(found[0].record, indent=1, ensure_ascii=False))


def _schema(options: argparse.Namespace) -> None:
    from posttrain.chain.recipe import json_schema
    from posttrain.stages import STAGES

    print(json.dumps(json_schema(STAGES), indent=1))
