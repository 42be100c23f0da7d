"""`python -m engine job`: a training on a GPU of Hugging Face, its cost said first, followed until its adapter is here."""

import json
from typing import Annotated

import typer

from engine import hub_jobs, job_bundle, job_offer, jobs, pushing, recipe_paths, runs, trainable, training_commands
from engine.errors import BadInput
from engine.job_offer import Offer
from engine.recipe import Recipe
from engine.runs import Run
from engine.terminal import AsJson, agreed, log, report


def job(
    what: Annotated[str, typer.Argument(metavar="[RECIPE|PRESET]", help="What to train, as for `train`.")] = "",
    data: Annotated[str, typer.Option(help=training_commands.DATA_HELP)] = "",
    flavor: Annotated[str, typer.Option(help="The machine, by the Hub's name for it.")] = "t4-small",
    timeout: Annotated[str, typer.Option(help="The longest that the job may take, as in 90m or 2h; it saves before it ends.")] = "2h",
    yes: Annotated[bool, typer.Option("--yes", help="Start it without asking.")] = False,
    follow: Annotated[str, typer.Option(metavar="RUN", help="Follow the job of a run again.")] = "",
    stop: Annotated[str, typer.Option(metavar="RUN", help="Ask the job of a run to save and end, and fetch what it saved.")] = "",
    as_json: AsJson = False,
) -> None:
    """Train on a GPU of Hugging Face. Says what it costs and what is sent, and asks; with --json and without --yes it only says.

    Ctrl-C ends the following alone: the job goes on, and costs, until it is done, stopped, or its time is up.
    """
    if sum(map(bool, (what, follow, stop))) != 1:
        raise BadInput("Name a recipe or preset to train, or a run by --follow or --stop.")
    if follow or stop:
        run = runs.find(follow or stop)
        if stop:
            _ask_to_stop(run)
            if run.process:
                return
    else:
        plan, name = training_commands.recipe_of(what, data)
        plan = recipe_paths.absolute(plan)
        offer = _offer(plan, flavor, timeout)
        if as_json and not yes:
            print(json.dumps(offer.document(), ensure_ascii=False))
            return
        for note in offer.notes:
            log(note)
        if not yes and not agreed("Start the job?", "Nothing was sent. Add --yes to start the job."):
            log("Nothing was sent.")
            return
        run = hub_jobs.start(plan, name, offer.flavor, offer.limit, report)
    _follow(run, as_json)


def _offer(plan: Recipe, flavor: str, timeout: str) -> Offer:
    limit = job_offer.limit_of(timeout)
    job_bundle.check(plan)
    pushing.token()
    chosen = job_offer.flavor(flavor)
    spec = trainable.looked_at(trainable.base(plan.model))
    return job_offer.offer(plan, spec, chosen, limit, job_offer.counted(plan, report))


def _ask_to_stop(run: Run) -> None:
    """By whoever follows it, else here."""
    if run.process:
        jobs.stop(run)
        log(f"{run.id} was asked to save and end.")
        return
    found = hub_jobs.read(run)
    with pushing.explained(f"The job {found.url}", "was not asked to stop"):
        hub_jobs.ask_to_stop(found)


def _follow(run: Run, as_json: bool) -> None:
    try:
        with training_commands.Terminal(run) as terminal:
            done = hub_jobs.follow(run, terminal.show)
    except KeyboardInterrupt:
        log(
            f"The job goes on and costs: {hub_jobs.read(run).url}\nFollow it: python -m engine job --follow {run.id}\n"
            f"End it: python -m engine job --stop {run.id}"
        )
        raise
    training_commands.told_at_the_end(run, done, as_json)
