"""`posttrain chat` and `posttrain serve` as the command line calls them."""

import argparse
import signal
import sys
from collections.abc import Collection
from contextlib import ExitStack

from posttrain.chain.recipe import Recipe
from posttrain.chain.runner import read_run
from posttrain.chain.store import Store
from posttrain.chatting.answers import Speaker, open_speaker
from posttrain.chatting.chat import Chat
from posttrain.chatting.decoding import Decoding, chosen
from posttrain.chatting.serving import Address, Wanted, serve_llamacpp, serve_vllm
from posttrain.chatting.steps import Steps, steps_of
from posttrain.chatting.terminal import open_screen

SETTINGS = tuple(Decoding.model_fields)


def chat(options: argparse.Namespace, recipe: Recipe, store: Store, kinds: Collection[str]) -> None:
    """Talk to a step of the latest run until the input ends; `kinds` are the kinds of step that make a model."""
    decoding = chosen({name: getattr(options, name) for name in SETTINGS}, options.greedy)
    steps = steps_of(read_run(recipe.name, store), kinds, recipe.where)
    step = steps.first(options.step, options.format)
    steps.path(step)  # a wrong name is said before anything is loaded
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # Ctrl-C ends an answer only
    with ExitStack() as stack:
        talk(steps, step, decoding, options, stack)


def talk(steps: Steps, step: str, decoding: Decoding, options: argparse.Namespace, stack: ExitStack) -> None:
    """Hold the conversation. Models are opened when they are first asked, and stay open until `stack` ends."""
    opened: dict[str, Speaker] = {}

    def speaker(name: str) -> Speaker:
        if name not in opened:
            opened[name] = stack.enter_context(open_speaker(steps.path(name)))
        return opened[name]

    screen = open_screen(options.json)
    conversation = Chat(step, speaker, decoding, screen)
    where = speaker(step).where
    conversation.system(options.system or "")
    screen.remark(f"{step} ({where}) is ready. Ask for something; /help lists the commands, Ctrl-D leaves.")
    conversation.hold()
    if not screen.plain:
        print()


def serve(options: argparse.Namespace, recipe: Recipe, store: Store, kinds: Collection[str]) -> None:
    """Serve a step of the latest run until Ctrl-C."""
    steps = steps_of(read_run(recipe.name, store), kinds, recipe.where)
    step = steps.first(options.step, options.format)
    step = step if options.engine == "vllm" else steps.served(step)
    wanted = Wanted(steps.path(step), f"{recipe.name}-{step.replace('/', '-')}", Address(options.host, options.port))
    serving = serve_vllm if options.engine == "vllm" else serve_llamacpp
    serving(wanted, dry_run=options.dry_run, as_json=options.json)
