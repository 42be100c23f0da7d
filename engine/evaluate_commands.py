"""`python -m engine evaluate …`: models measured."""

import typer

from engine import judge_commands

evaluate = typer.Typer(no_args_is_help=True, help="Measure a model.")
evaluate.command("generate")(judge_commands.generate)
