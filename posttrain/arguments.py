"""What the command line takes: a parser for every command, and nothing that it does."""

import argparse
from collections.abc import Callable
from pathlib import Path

from posttrain import __version__


def parser() -> argparse.ArgumentParser:
    """All commands with their options."""
    top = argparse.ArgumentParser(
        prog="posttrain",
        description="Post-training for small language models: a recipe is a chain, every step closed by a judge.",
    )
    top.add_argument("--version", action="version", version=f"posttrain {__version__}")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

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
    command("fetch", "get a recipe's models and data sets from the hub, so that it then runs without the network")
    _judging(command("eval", "judge a finished chain again, from its stored completions; nothing is made anew"))
    command("report", "write report.html and report.md from the records of the latest run")
    _talking(command("chat", "talk to the model of a step, or to a file that was exported from it"))
    _serving(command("serve", "serve the model of a step as an OpenAI-compatible endpoint"))
    _voting(command)
    _pushing(command("push", "push a step of the latest run to the hub: a model, an adapter, rows or exported files"))
    command("ls", "list what the store holds", recipe=False)
    command("schema", "print the JSON Schema of recipes", recipe=False)
    show = command("show", "print the record of an artifact", recipe=False)
    show.add_argument("artifact", help="its name in the store, such as sft-3fa1c09b2d4e, or the start of it")
    return top


def _judging(made: argparse.ArgumentParser) -> None:
    made.add_argument("--step", metavar="STEP", help="only this step, and those that it is compared with")
    made.add_argument("--judge", metavar="JUDGE", help="rule, openai:MODEL or panel; the recipe's unless given")
    made.add_argument("--rubric", metavar="FILE", help="the recipe's unless given")
    made.add_argument("--base-url", metavar="URL", help="the endpoint's, as in http://127.0.0.1:8000/v1 (OpenAI's)")
    made.add_argument("--api-key-env", metavar="NAME", help="the environment variable with the endpoint's key")
    made.add_argument("--dry-run", action="store_true", help="show what would be asked, and stop")


def _talking(made: argparse.ArgumentParser) -> None:
    _which_model(made)
    made.add_argument("--system", metavar="TEXT", help="a system prompt, where the chat template has that role")
    made.add_argument("--greedy", action="store_true", help="always the likeliest token")
    made.add_argument("--beams", type=int, metavar="N", help="beam search with N beams (1: none)")
    made.add_argument("--temperature", type=float, metavar="T", help="0.7 unless given; 0 is greedy")
    made.add_argument("--top-p", type=float, metavar="P", help="sample from the likeliest tokens that make up P (1)")
    made.add_argument("--min-p", type=float, metavar="P", help="and from those with P times the likeliest's share (0)")
    made.add_argument("--max-new-tokens", type=int, metavar="N", help="of an answer, at most (300)")
    made.add_argument("--seed", type=int, metavar="N", help="the same seed and lines give the same answers (0)")


def _serving(made: argparse.ArgumentParser) -> None:
    _which_model(made)
    made.add_argument("--engine", choices=("llamacpp", "vllm"), default="llamacpp", help="llamacpp unless given")
    made.add_argument("--host", default="127.0.0.1", metavar="ADDRESS", help="this machine only, unless given")
    made.add_argument("--port", type=int, default=8000, metavar="N", help="8000 unless given; 0 takes any free one")
    made.add_argument("--dry-run", action="store_true", help="show what would be served and how, and stop")


def _which_model(made: argparse.ArgumentParser) -> None:
    made.add_argument("--step", metavar="STEP", help="the last step that makes a model, unless given")
    made.add_argument("--format", metavar="FORMAT", help="an exported file, such as gguf-q8_0, in place of the model")


def _pushing(made: argparse.ArgumentParser) -> None:
    made.add_argument("--step", required=True, metavar="STEP", help="what goes")
    made.add_argument("--repo", required=True, metavar="USER/NAME", help="where it goes; made where there is none")
    made.add_argument("--private", action="store_true", help="make the repository a private one")
    made.add_argument("--revision", metavar="BRANCH", help="main unless given; made where there is none")
    made.add_argument("--dry-run", action="store_true", help="list what would go, and stop")
    text = "also after a failed gate, with findings of personal data, and over weights that are no push's"
    made.add_argument("--anyway", action="store_true", help=text)


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
    text = "the recipe whose latest run was voted on: judge all its pairs, and correct the win rate by the votes"
    calibrate.add_argument("--run", metavar="RECIPE", help=text)
    text = "what an endpoint is told to look for (eval/rubrics/assistant.md)"
    calibrate.add_argument("--rubric", type=Path, default="eval/rubrics/assistant.md", metavar="FILE", help=text)
    calibrate.add_argument(
        "--base-url", metavar="URL", help="the endpoint's, as in http://127.0.0.1:8000/v1 (OpenAI's)"
    )
    calibrate.add_argument("--api-key-env", metavar="NAME", help="the environment variable with the endpoint's key")
    calibrate.add_argument("--budget-usd", type=float, metavar="N", help="stop before a call that might pass this sum")
