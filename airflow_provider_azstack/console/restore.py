"""
``azstack restore``: say what a restore will do, or do it.

Owns the question whether it is meant, and what is said at the end; the work is the engine's.
Invariants: without ``--execute`` nothing is changed; what exists, only if that very plan is
confirmed.
"""

from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from rich.markup import escape

from airflow_provider_azstack.console.arguments import add_output, add_repository, open_repository
from airflow_provider_azstack.console.present import DONE, FAILED, PARTLY, say, show
from airflow_provider_azstack.console.restore_plan import read_plan, save_plan, show_plan
from airflow_provider_azstack.console.stacks import add_stack, open_stack
from airflow_provider_azstack.errors import ConfigurationError

if TYPE_CHECKING:
    from airflow_provider_azstack.arm.client import Stack
    from airflow_provider_azstack.engine.restore.records import RestorePlan
    from airflow_provider_azstack.repo.sessions import Session


def add(parser: ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument(
        "file", type=Path, help="a request (YAML or JSON, see docs/restore.md), or a plan of --save"
    )
    meant = parser.add_mutually_exclusive_group()
    meant.add_argument(
        "--save", type=Path, metavar="FILE", help="keep the plan, to carry out this very one later"
    )
    meant.add_argument("--execute", action="store_true", help="do it; without this only say it")
    meant.add_argument(
        "--discard",
        action="store_true",
        help="give an earlier try up: delete what it half wrote, start a VM with its old disks",
    )
    parser.add_argument(
        "--confirm", default="", metavar="PLAN", help="the plan's id, where it changes what exists"
    )
    add_repository(parser)
    add_stack(parser)
    add_output(parser)


def run(args: Namespace) -> int:
    """Show the plan, carry it out, or take back what it left."""
    repository = open_repository(args)
    with open_stack(args) as stack:
        plan = read_plan(args.file, stack, repository)
        if not (args.execute or args.discard) or (args.execute and plan.refusals):
            return _show(plan, args)
        if args.execute:
            _require_confirmed(plan, args.confirm)
        session = repository.open_session("restore", run=plan.id)
        try:
            work = _execute if args.execute else _discard
            return work(stack, session, plan, args.output)
        finally:
            session.close()


def _show(plan: "RestorePlan", args: Namespace) -> int:
    if args.save:
        save_plan(args.save, plan)
    show_plan(plan, args.output)
    if plan.refusals:
        return FAILED
    confirm = f" --confirm {plan.id}" if plan.touched else ""
    command = f"azstack restore {args.save or args.file} --execute{confirm}"
    say(f"nothing was done: {escape(command)} does it")
    return DONE


def _require_confirmed(plan: "RestorePlan", confirmed: str) -> None:
    """Refuse to change what exists unless this very plan was looked at."""
    if plan.touched and confirmed != plan.id:
        raise ConfigurationError(
            f"this changes what exists ({', '.join(plan.touched)}): look at the plan, then add "
            f"--confirm {plan.id}"
        )


def _execute(stack: "Stack", session: "Session", plan: "RestorePlan", output: str) -> int:
    from airflow_provider_azstack.engine.restore.execute import carry_out  # noqa: PLC0415 - heavy
    from airflow_provider_azstack.engine.restore.share import keep  # noqa: PLC0415 - heavy

    keep(session, plan, plan.id)  # the janitor knows by it what is ours, if we are killed
    try:
        outcomes = carry_out(stack, session, plan, lambda line: say(escape(line)))
    except KeyboardInterrupt:
        say(
            "[yellow]note:[/] what was written stays: the same command goes on from there, "
            "--discard in the place of --execute gives it up"
        )
        raise
    show([outcome._asdict() for outcome in outcomes], output, ("vm", "status", "target", "reason"))
    for outcome in outcomes if output != "json" else ():  # JSON has them as well
        for line in outcome.lost:
            say(f"[yellow]lost:[/] {escape(outcome.vm)} {escape(line)}")
    failed = [outcome for outcome in outcomes if outcome.status == "failed"]
    if failed:
        return FAILED if len(failed) == len(outcomes) else PARTLY
    return PARTLY if any(outcome.lost for outcome in outcomes) else DONE


def _discard(stack: "Stack", session: "Session", plan: "RestorePlan", output: str) -> int:
    from airflow_provider_azstack.engine.restore.execute import discard  # noqa: PLC0415 - heavy

    gone = discard(stack, session, plan)
    if gone or output == "json":
        show([{"deleted": place} for place in gone], output, ("deleted",))
    else:
        say("nothing half-written was left")
    return DONE
