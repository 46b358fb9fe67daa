"""
``airflow azstack doctor``: is everything there that a backup needs?

Owns the questions and their order; the answers are the errors that a backup would meet.
Invariant: nothing on the stack is changed, but with ``--try`` scratch resources, which are taken
away again; one failed question does not stop the others, and each says in one line what to do.
"""

from argparse import Namespace
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from typing import NamedTuple

from airflow_provider_azstack.commands.connections import repository_hook, stack_hook
from airflow_provider_azstack.commands.console import command
from airflow_provider_azstack.commands.pools import plan, read_pools
from airflow_provider_azstack.config import BackupHost, load_config
from airflow_provider_azstack.console.present import DONE, FAILED, PARTLY, show
from airflow_provider_azstack.errors import AzStackError, ConfigurationError
from airflow_provider_azstack.hooks.connections import WAITING_SECONDS
from airflow_provider_azstack.speed import counted

_MOST_SKEW_SECONDS = 300
_TRYING_SECONDS = 120.0  # how long one request of a trial is retried


class Answer(NamedTuple):
    """One line of the report; ``verdict`` is ``ok``, ``warning`` or ``failed``."""

    question: str
    verdict: str
    finding: str


Question = Callable[[Namespace], Iterable[Answer]]


@command
def doctor(args: Namespace) -> int:
    """Ask everything; the exit state is that of the worst answer."""
    answers = list(_once(answer for question in _QUESTIONS for answer in ask(question, args)))
    show([answer._asdict() for answer in answers], args.output, Answer._fields)
    verdicts = {answer.verdict for answer in answers}
    return FAILED if "failed" in verdicts else PARTLY if "warning" in verdicts else DONE


def _once(answers: Iterable[Answer]) -> Iterator[Answer]:
    """Say what fails several questions, such as a wrong secret, with the first of them only."""
    told: dict[str, str] = {}
    for answer in answers:
        first = told.setdefault(answer.finding, answer.question)
        if answer.verdict == "failed" and first != answer.question:
            yield answer._replace(finding=f"as {first}")
        else:
            yield answer


def ask(question: Question, args: Namespace) -> Iterator[Answer]:
    """Yield the answers to ``question``; an error is an answer as well."""
    try:
        yield from question(args)
    except AzStackError as error:
        name = question.__name__.strip("_").replace("_", " ")
        yield Answer(name, "failed", str(error))


def _configuration(args: Namespace) -> Iterator[Answer]:
    hosts = load_config(args.config).backup_hosts()
    streams = sum(host.streams for host in hosts)
    text = f"{counted(len(hosts), 'backup host')}, {counted(streams, 'stream')}"
    yield Answer("configuration", "ok", text)


def _stack(args: Namespace) -> Iterator[Answer]:
    """Endpoint, CA bundle and sign-in: the first request needs all of them."""
    with stack_hook(args).get_conn(budget_seconds=WAITING_SECONDS) as stack:
        found = [str(entry.get("subscriptionId")) for entry in stack.subscriptions()]
        yield Answer("sign-in", "ok", f"signed in to {stack.name}")
        if not found:
            advice = "no subscription is visible: assign the role 'reader' to the client"
            yield Answer("subscriptions", "failed", advice)
        yield _clock(stack.now())


def _clock(theirs: datetime) -> Answer:
    skew = abs((theirs - datetime.now(UTC)).total_seconds())
    if skew > _MOST_SKEW_SECONDS:
        advice = f"{skew:.0f} s off the stack's: set up NTP on this host"
        return Answer("clock", "warning", advice)
    return Answer("clock", "ok", f"{skew:.0f} s off the stack's")


def _versions(args: Namespace) -> Iterator[Answer]:
    from airflow_provider_azstack.arm.offered import (  # noqa: PLC0415 - loads azure
        check_versions,
        unlisted_versions,
    )

    hook = stack_hook(args)
    with hook.get_conn(budget_seconds=WAITING_SECONDS) as stack:
        for subscription in _subscriptions(hook.subscription_id, stack.subscriptions()):
            chosen = check_versions(stack, subscription)
            text = ", ".join(f"{kind.split('/')[-1]} {chosen[kind]}" for kind in chosen)
            yield Answer("versions", "ok", f"{subscription}: {text}")
            for line in unlisted_versions(stack, subscription):
                yield Answer("versions", "warning", f"{subscription} does not list {line}")


def _permissions(args: Namespace) -> Iterator[Answer]:
    """Read one page of everything that discovery reads."""
    from airflow_provider_azstack.arm.compute import Compute  # noqa: PLC0415 - loads azure
    from airflow_provider_azstack.arm.network import Network  # noqa: PLC0415
    from airflow_provider_azstack.arm.storage import Storage  # noqa: PLC0415

    hook = stack_hook(args)
    with hook.get_conn(budget_seconds=WAITING_SECONDS) as stack:
        compute, network, storage = Compute(stack), Network(stack), Storage(stack)
        reads: dict[str, tuple[str, Callable[[str], Iterable[object]]]] = {
            "virtual machines": ("reader", compute.vms),
            "disks": ("reader", compute.disks),
            "network interfaces": ("reader", network.nics),
            "snapshots": ("snapshots", compute.snapshots),
            "storage accounts": ("unmanaged", storage.accounts),
        }
        for subscription in _subscriptions(hook.subscription_id, stack.subscriptions()):
            for what, (role, read) in reads.items():
                yield _readable(what, role, subscription, read)


def _readable(
    what: str, role: str, subscription: str, read: Callable[[str], Iterable[object]]
) -> Answer:
    question = f"read {what}"
    try:
        first = next(iter(read(subscription)), None)
    except AzStackError as error:
        return Answer(question, "failed", f"{subscription}: {error} (role {role!r})")
    if first is None:
        if role != "reader":
            return Answer(question, "ok", f"{subscription}: there are none")
        advice = f"none visible: is the role {role!r} assigned where they are?"
        return Answer(question, "warning", f"{subscription}: {advice}")
    return Answer(question, "ok", subscription)


def _subscriptions(named: str, visible: Iterable[dict[str, object]]) -> list[str]:
    """
    Return the subscriptions to ask about.

    The visible ones are asked for in any case: a stack that does not answer, or lets nobody in,
    fails here, and not at the first permission.

    :raises ConfigurationError: the one that the connection names is not visible.
    """
    seen = [str(entry.get("subscriptionId")) for entry in visible]
    if not named:
        return seen
    if named.lower() not in map(str.lower, seen):
        raise ConfigurationError(
            f"the connection's subscription_id {named} is not visible to the client; visible are "
            f"{', '.join(seen) or 'none'}: correct it, or assign the role 'reader' there"
        )
    return [named]


def _trial(args: Namespace) -> Iterator[Answer]:
    """Make, write, snapshot, read and delete a disk, and a page blob, where that was asked for."""
    if not args.scratch_group:
        return
    from airflow_provider_azstack.arm.probe import probe_disks  # noqa: PLC0415 - loads azure
    from airflow_provider_azstack.arm.probe_blobs import blobs_of  # noqa: PLC0415

    hook = stack_hook(args)
    with hook.get_conn(budget_seconds=_TRYING_SECONDS) as stack:
        found = _subscriptions(hook.subscription_id, stack.subscriptions())
        if len(found) != 1:
            raise ConfigurationError(
                f"--try needs one subscription, and {len(found)} are visible: give the connection "
                "its subscription_id"
            )
        group_id = f"/subscriptions/{found[0]}/resourceGroups/{args.scratch_group}"
        blobs = blobs_of(stack, found[0], args.account) if args.account else None
        findings = probe_disks(stack, group_id, blobs.staging() if blobs else None)
        yield from (Answer(*finding) for finding in findings)
        yield from (Answer(*finding) for finding in (blobs.probe() if blobs else ()))


def _repository(args: Namespace) -> Iterator[Answer]:
    hook = repository_hook(args)
    repository = hook.get_conn(budget_seconds=WAITING_SECONDS)
    points = sum(1 for _ in repository.points())
    yield Answer("repository", "ok", f"{repository.id}, {counted(points, 'restore point')}")


def _store(args: Namespace) -> Iterator[Answer]:
    from airflow_provider_azstack.store.probe import probe  # noqa: PLC0415 - asked for rarely

    store = repository_hook(args).get_store(budget_seconds=WAITING_SECONDS)
    findings = list(probe(store))
    for finding in findings:
        verdict = "failed" if finding.fatal else "warning"
        text = f"{finding.promise}: {finding.observed}: {finding.meaning}"
        yield Answer("store", verdict, text)
    if not findings:
        yield Answer("store", "ok", f"{store.url} keeps its promises")


def _pools(args: Namespace) -> Iterator[Answer]:
    hosts = load_config(args.config).backup_hosts()
    yield from pool_answers(read_pools(), hosts)


def pool_answers(now: dict[str, int], hosts: Iterable[BackupHost]) -> Iterator[Answer]:
    """Compare the pools there are with the configuration."""
    for change in plan(now, hosts):
        if change.action == "keep":
            yield Answer("pool", "ok", f"{change.pool}: {counted(change.now or 0, 'slot')}")
        elif change.action == "delete":
            advice = "no backup host: run 'airflow azstack sync-pools --prune'"
            yield Answer("pool", "warning", f"{change.pool}: {advice}")
        else:
            state = "is missing" if change.now is None else f"has {counted(change.now, 'slot')}"
            advice = f"{state}, needs {change.wanted}: run 'airflow azstack sync-pools'"
            yield Answer("pool", "failed", f"{change.pool} {advice}")


_QUESTIONS: tuple[Question, ...] = (
    _configuration,
    _stack,
    _versions,
    _permissions,
    _trial,
    _repository,
    _store,
    _pools,
)
