"""
``azstack simulate``: what more hosts, streams or bandwidth would bring.

Owns the options; shares out and simulates with the code of real jobs.
Invariant: nothing is asked of a stack and nothing is written; the same options give the same table.
"""

from argparse import ArgumentParser, Namespace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec.structs import replace

from airflow_provider_azstack.config import GIB, MEGABYTE, BackupHost, Caps
from airflow_provider_azstack.console.arguments import add_output, add_repository, open_repository
from airflow_provider_azstack.console.estimate import find_job
from airflow_provider_azstack.console.present import show
from airflow_provider_azstack.console.scenario_options import OPTIONS
from airflow_provider_azstack.errors import ConfigurationError
from airflow_provider_azstack.model import Job
from airflow_provider_azstack.policy import Policy

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow_provider_azstack.engine.backup.fleets import Fleet, Scene
    from airflow_provider_azstack.repo.repository import Repository

# A simulation begins at one moment, so that it is the same tomorrow.
_NOW = datetime(2000, 1, 1, tzinfo=UTC)
_DEFAULT_SPLIT_GIB = 8.0
_MOST_HOSTS = 200


def add(parser: ArgumentParser) -> None:
    """Declare the arguments."""
    add_scenario(parser)
    add_repository(parser)
    add_output(parser)


def add_scenario(parser: ArgumentParser) -> None:
    """Declare what is simulated."""
    parser.add_argument(
        "fleet", nargs="?", default="", help="YAML, see docs/planning.md; else a recorded job"
    )
    for name, metavar, text in OPTIONS:
        parser.add_argument(f"--{name}", metavar=metavar, default="", help=text)


def run(args: Namespace) -> int:
    """Print a row for each number of hosts."""
    return show_simulation(args, lambda: open_repository(args), ())


def show_simulation(
    args: Namespace,
    repository: "Callable[[], Repository]",
    hosts: tuple[BackupHost, ...],
    caps: Caps | None = None,
) -> int:
    """
    Print what more hosts bring.

    :param repository: opened only for what a job recorded.
    :param hosts: those of a configuration; without them, those of the job or of the fleet.
    """
    from airflow_provider_azstack.engine.backup import fleets, scenarios  # noqa: PLC0415 - heavy
    from airflow_provider_azstack.engine.backup.past import Past  # noqa: PLC0415
    from airflow_provider_azstack.engine.backup.prepare import Terms  # noqa: PLC0415

    job = _job(args)
    if args.fleet and args.run:
        raise ConfigurationError("give a fleet's file, or --run, not both")
    if args.fleet:
        fleet = fleets.load_fleet(Path(args.fleet))
        scene, known = fleets.made_up(fleet, job.mode), hosts or _made_up_hosts(fleet)
    else:
        opened = repository()
        record = find_job(opened, args.run)
        scene = fleets.recorded(record, Past(opened.job_outlines()))
        known = hosts or scenarios.hosts_of(record)
    limit, split = _number(args, "policy-limit", 1), _number(args, "split-gib")
    policy = Policy(name=job.policy, limit_mb_per_second=None if limit is None else int(limit))
    split_gib = _DEFAULT_SPLIT_GIB if split is None else split
    rows = scenarios.compare(
        _with_rates(scene, args),
        _as_asked(known, args),
        _more(args.more),
        Terms(policy, caps or Caps(), int(split_gib * GIB) or None),
        job,
        now=_NOW,
    )
    show(rows, args.output, scenarios.COLUMNS)
    return 0


def _job(args: Namespace) -> Job:
    if args.mode not in {"", "full", "incremental"}:
        raise ConfigurationError(f"--mode: {args.mode!r} is neither 'incremental' nor 'full'")
    window = _number(args, "window")
    return Job(
        run="simulated",
        session="simulated",
        policy="simulated",
        stack="simulated",
        mode="full" if args.mode == "full" else "incremental",
        stop_starting_at=None if window is None else _NOW + timedelta(hours=window),
    )


def _made_up_hosts(fleet: "Fleet") -> tuple[BackupHost, ...]:
    names = (f"host-{n + 1}" for n in range(fleet.hosts))
    return tuple(
        BackupHost(
            name=name,
            streams=fleet.streams,
            queue=name,
            executor=None,
            limit_mb_per_second=fleet.limit_mb_per_second,
        )
        for name in names
    )


def _as_asked(hosts: tuple[BackupHost, ...], args: Namespace) -> tuple[BackupHost, ...]:
    """Return the hosts as the options change them: how many, and what each of them can do."""
    from airflow_provider_azstack.engine.backup.scenarios import with_more  # noqa: PLC0415

    count, streams = _number(args, "hosts", 1, _MOST_HOSTS), _number(args, "streams", 1, 64)
    limit = _number(args, "host-limit", 1)
    if count:
        hosts = with_more(hosts, max(0, int(count) - len(hosts)))[: int(count)]
    return tuple(
        replace(
            host,
            streams=int(streams or host.streams),
            limit_mb_per_second=int(limit) if limit else host.limit_mb_per_second,
        )
        for host in hosts
    )


def _with_rates(scene: "Scene", args: Namespace) -> "Scene":
    from airflow_provider_azstack.engine.backup.past import Rates, Tempo  # noqa: PLC0415

    if stream := _number(args, "stream-rate", 1):
        usual = scene.rates.usual or Tempo()
        scene = scene._replace(
            rates=Rates(usual=usual._replace(bytes_per_second=stream * MEGABYTE))
        )
    if stack := _number(args, "stack-rate", 1):
        scene = scene._replace(stack_rate=stack * MEGABYTE)
    return scene


def _more(text: str) -> tuple[int, ...]:
    try:
        counts = tuple(int(part) for part in (text or "0,1,2,4").split(","))
    except ValueError:
        counts = (-1,)
    if not all(0 <= count <= _MOST_HOSTS for count in counts):
        raise ConfigurationError(f"--more: {text!r} is no list of numbers such as 0,1,2")
    return counts


def _number(args: Namespace, name: str, least: int = 0, most: int = 1_000_000) -> float | None:
    text = getattr(args, name.replace("-", "_"))
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not least <= value <= most:
        raise ConfigurationError(f"--{name}: {text!r} is no number from {least} to {most:,}")
    return value
