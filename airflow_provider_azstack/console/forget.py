"""
``azstack forget``: take restore points away.

Owns the command and the table of decisions; which points go, and in what order, the repository
decides.
Invariant: without ``--execute`` nothing changes.
"""

from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING, Any

from airflow_provider_azstack.console.arguments import add_output, add_repository, open_repository
from airflow_provider_azstack.console.points import is_vm_key, none_of, points_of
from airflow_provider_azstack.console.present import DONE, PARTLY, say, show
from airflow_provider_azstack.errors import ConfigurationError
from airflow_provider_azstack.model import Retention
from airflow_provider_azstack.policy import load_policy, read_retention
from airflow_provider_azstack.repo.points.namesakes import told_apart
from airflow_provider_azstack.speed import counted

if TYPE_CHECKING:
    from airflow_provider_azstack.repo.points.forget import Forgotten
    from airflow_provider_azstack.repo.points.retention import Decision
    from airflow_provider_azstack.repo.repository import Repository

_COLUMNS = ("action", "vm", "point", "taken_at", "because")
_RULES = tuple(Retention.__struct_fields__)
_HELP = {
    "keep_last": "the newest N",
    "keep_daily": "the newest of each of the last N days that have one",
    "keep_weekly": "of each of the last N weeks",
    "keep_monthly": "of each of the last N months",
    "keep_yearly": "of each of the last N years",
    "keep_minimum": "always the newest N of a VM, whatever the rest says; default: 1",
}


def add(parser: ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("vm", nargs="?", default="", help="name, key or id; default: all VMs")
    parser.add_argument("point", nargs="*", help="chosen points; default: what the rule says")
    parser.add_argument("--policy", default="", metavar="FILE", help="its retention, its points")
    for rule in _RULES:
        option = "--" + rule.replace("_", "-")
        if rule == "keep_within":
            parser.add_argument(option, metavar="TIME", help="such as 14d, 36h or 1y6m")
        else:
            parser.add_argument(option, metavar="N", type=int, help=_HELP[rule])
    parser.add_argument("--execute", action="store_true", help="do it; default: only show")
    parser.add_argument("--confirm", default="", metavar="ID", help="the repository's id, if asked")
    add_output(parser)
    add_repository(parser)


def run(args: Namespace) -> int:
    """Forget chosen points, or those that a rule does not keep."""
    repository = open_repository(args)
    if args.point:
        return _forget_chosen(repository, args)
    policy, rule = _rule(args)
    return forget_by_rule(
        repository,
        rule,
        policy=policy,
        vm=args.vm,
        execute=args.execute,
        confirm=args.confirm,
        output=args.output,
    )


def forget_by_rule(
    repository: "Repository",
    rule: Retention,
    *,
    policy: str,
    vm: str,
    execute: bool,
    confirm: str,
    output: str,
) -> int:
    """Print what a rule keeps and what not, and why; forget the latter when told to."""
    from airflow_provider_azstack.repo.points import forget  # noqa: PLC0415 - loads cryptography

    keys = {point.vm.key for point in points_of(repository, vm)} if vm else None
    if vm and not keys:
        raise ConfigurationError(f"{none_of(repository, vm)}; 'azstack points' lists all")
    decisions, gone = forget.forget_by_rule(
        repository, rule, policy=policy, vm_keys=keys, dry_run=not execute, confirm=confirm
    )
    nothing = f"no restore point of policy {policy!r}" if policy else "no restore point yet"
    rows = sorted(map(_facts, decisions), key=lambda row: (row["vm"], row["vm_key"], row["point"]))
    show(rows, output, _COLUMNS, nothing=nothing)
    count = sum(not decision.is_kept for decision in decisions)
    return _told(gone, execute=execute, count=count)


def _forget_chosen(repository: "Repository", args: Namespace) -> int:
    from airflow_provider_azstack.repo.points import forget  # noqa: PLC0415 - loads cryptography

    if args.policy or any(getattr(args, rule) is not None for rule in _RULES):
        raise ConfigurationError("give points, or a rule, not both")
    key = _vm_key(repository, args.vm)
    chosen = [(key, point) for point in args.point]
    if not args.execute:
        gone = forget.forget(repository, chosen, confirm=repository.id, dry_run=True)
        rows = [{"action": "forget", "vm": args.vm, "point": point} for point in args.point]
        show([{**row, "because": "chosen"} for row in rows], args.output, _COLUMNS)
        return _told(gone, execute=False, count=len(chosen))
    gone = forget.forget(repository, chosen, confirm=args.confirm)
    return _told(gone, execute=True, count=len(chosen))


def _vm_key(repository: "Repository", vm: str) -> str:
    """Return a VM's key; when it is given as such, no point need be readable."""
    if is_vm_key(vm):
        return vm
    points = points_of(repository, vm)
    if not points:
        raise ConfigurationError(f"{none_of(repository, vm)}; else give its key")
    if several := told_apart(vm, points):
        raise ConfigurationError(several)
    return points[0].vm.key


def _rule(args: Namespace) -> tuple[str, Retention]:
    given = {rule: getattr(args, rule) for rule in _RULES if getattr(args, rule) is not None}
    if bool(given) == bool(args.policy):
        raise ConfigurationError("by which rule? Give points, --policy FILE, or --keep-... options")
    if args.policy:
        policy = load_policy(args.policy)
        return policy.name, policy.retention
    return "", read_retention(given)


def _facts(decision: "Decision") -> dict[str, Any]:
    point = decision.point
    return {
        "action": "keep" if decision.is_kept else "forget",
        "vm": point.vm.name,
        "point": point.id,
        "taken_at": point.taken_at,
        "because": ", ".join(decision.reasons),
        "policy": point.policy,
        "vm_key": point.vm.key,
    }


def _told(gone: "Forgotten", *, execute: bool, count: int) -> int:
    if not count:
        say("there is nothing to forget")
        return DONE
    if not execute:
        say(f"{counted(count, 'restore point')} would be forgotten: --execute does it")
        return DONE
    for (vm, point), why in gone.held.items():
        say(f"[yellow]held:[/] {point} of VM {vm}: {why}")
    say(f"forgotten: {counted(len(gone.points), 'restore point')}; 'azstack prune' makes room")
    return PARTLY if gone.held else DONE
