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

from posttrain.arguments import parser
from posttrain.errors import GateFailed, PosttrainError

if TYPE_CHECKING:
    from posttrain.chain.graph import Node
    from posttrain.chain.recipe import Recipe
    from posttrain.chain.store import Store
    from posttrain.report.records import Named


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command. Exit codes: 0 done, 2 bad input, 3 a failed gate, 130 interrupted."""
    options = parser().parse_args(arguments)
    signal.signal(signal.SIGTERM, _interrupt)
    commands = {
        "run": _run,
        "plan": _plan,
        "validate": _validate,
        "fetch": _fetch,
        "eval": _eval,
        "report": _report,
        "chat": _chat,
        "serve": _serve,
        "label": _label,
        "calibrate": _calibrate,
        "push": _push,
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


def _graph(options: argparse.Namespace, judged_by: Sequence[str] = ()) -> tuple[Recipe, list[Node]]:
    """The chain; `judged_by` are overrides of the judge that closes its steps, which leave the steps as they are."""
    from dataclasses import replace

    from posttrain.chain.graph import build_graph
    from posttrain.chain.recipe import load_recipe
    from posttrain.hub.fetch import resolve_revision
    from posttrain.stages import STAGES

    recipe = _recipe(options)
    if judged_by:
        judged = load_recipe(options.recipe, STAGES, [*options.overrides, *judged_by])
        recipe = replace(judged, steps=recipe.steps)
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


def _plan(options: argparse.Namespace, judged_by: Sequence[str] = ()) -> None:
    from posttrain.chain.console import RichScreen
    from posttrain.chain.plan import plan_rows

    recipe, nodes = _graph(options, judged_by)
    rows = plan_rows(nodes, recipe.gates, _store(options))
    if options.json:
        print(json.dumps({"recipe": recipe.name, "nodes": rows}, indent=1))
    else:
        RichScreen().plan_table(recipe.name, rows)


JUDGE_OPTIONS = {
    "judge": "judge.judge",
    "rubric": "judge.rubric",
    "base_url": "judge.endpoint.base_url",
    "api_key_env": "judge.endpoint.api_key_env",
}


def _eval(options: argparse.Namespace) -> None:
    from posttrain.chain.console import RichScreen, screen_console
    from posttrain.chain.rejudge import eval_folder, failures, rejudge
    from posttrain.report import records
    from posttrain.report.markdown import write_markdown

    given = {key: getattr(options, name) for name, key in JUDGE_OPTIONS.items()}
    judged_by = [f"{key}={json.dumps(value)}" for key, value in given.items() if value is not None]
    if options.dry_run:
        options.until = options.step or options.until
        return _plan(options, judged_by)
    recipe, nodes = _graph(options, judged_by)
    store, screen = _store(options), RichScreen(screen_console(to_stderr=options.json))
    folder = eval_folder(recipe, nodes, store)
    done = rejudge(recipe, nodes, store, screen, folder, options.step)
    named = records.named(done)
    write_markdown(folder, recipe.name, named)
    if options.json:
        print(json.dumps(records.report_json(recipe.name, named), indent=1, ensure_ascii=False))
    else:
        screen.closing_table(records.steps_of(named))
        print(f"\nreport: {_write_page(folder, recipe, named)}")
    if failed := failures(recipe, done):
        raise GateFailed(" ".join(failed))
    return None


def _validate(options: argparse.Namespace) -> None:
    recipe, nodes = _graph(options)
    if options.json:
        print(json.dumps({"recipe": recipe.name, "nodes": [node.name for node in nodes]}))
    else:
        print(f"{recipe.where}: fine; {len(recipe.steps)} steps, {len(nodes)} nodes with judges")


def _fetch(options: argparse.Namespace) -> None:
    from posttrain.hub.fetching import fetch

    fetch(*_graph(options), options.json)


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
    from posttrain.chatting.commands import chat

    chat(options, _recipe(options), _store(options), _kinds_of_model())


def _serve(options: argparse.Namespace) -> None:
    from posttrain.chatting.commands import serve

    serve(options, _recipe(options), _store(options), _kinds_of_model())


def _kinds_of_model() -> frozenset[str]:
    from posttrain.stages import STAGES

    return frozenset(kind for kind, stage in STAGES.items() if stage.makes == "model")


def _label(options: argparse.Namespace) -> None:
    from posttrain.labelling.commands import label

    label(options, _recipe(options), _store(options))


def _calibrate(options: argparse.Namespace) -> None:
    from posttrain.labelling.commands import calibrate

    calibrate(options, _store(options))


def _push(options: argparse.Namespace) -> None:
    from posttrain.hub.commands import push_step

    push_step(options, _recipe(options), _store(options))


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
