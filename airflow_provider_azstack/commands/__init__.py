"""
``airflow azstack ...``: the commands' names and arguments.

Owns what the command line looks like; the work is in the sibling modules, loaded when called.
Invariant: every ``airflow`` command loads this module, so it imports nothing but Airflow's own CLI
and plain texts.
"""

from airflow.cli.cli_config import (
    ARG_VERBOSE,
    ActionCommand,
    Arg,
    CLICommand,
    GroupCommand,
    lazy_load_command,
)

from airflow_provider_azstack.console.scenario_options import OPTIONS

_HERE = "airflow_provider_azstack.commands"

_CONFIG = Arg(("--config",), help="azurestack.conf; default: $AZSTACK_CONF, then $AIRFLOW_HOME")
_STACK = Arg(("--stack-conn-id",), help="connection of the stack; default: the configuration's")
_REPOSITORY = Arg(
    ("--repository-conn-id",), help="connection of the repository; default: the configuration's"
)
_EXECUTE = Arg(("--execute",), action="store_true", help="do it; default: only show")
_CONFIRM = Arg(("--confirm",), default="", help="the repository's id, if asked for")
_OUTPUT = Arg(("-o", "--output"), choices=("table", "json"), default="table", help="default: table")
_TABLE = (_CONFIG, _REPOSITORY, _OUTPUT)  # of a repository


def get_commands() -> list[CLICommand]:
    """Return the command group; Airflow finds it through the provider's ``cli`` key."""
    return [
        GroupCommand(
            name="azstack",
            help="Backup of Azure Stack Hub virtual machines",
            description="Exit states: 0 done, 1 partly done, above 1 failed.",
            subcommands=(*_site(), *_planning(), *_reports(), *_upkeep()),
        )
    ]


def _site() -> tuple[ActionCommand, ...]:
    """Return what sets a site up, and looks whether it is well."""
    return (
        _command(
            "init-repository",
            "repository.init_repository",
            "Create the repository that a connection describes; prints its recovery key once",
            _CONFIG,
            _REPOSITORY,
        ),
        _command(
            "import-credentials",
            "credentials.import_credentials",
            "Turn a credentials file of the predecessor into connections",
            Arg(("file",), help="JSON with IdentityProvider, TenantId, ClientId, ClientSecret"),
            Arg(("--endpoint",), required=True, help="Resource Manager endpoint of the stack"),
            Arg(("--conn-id",), default="azure_stack_default", help="connection to create"),
            Arg(("--ca-bundle",), default="", help="path of the CA bundle"),
            Arg(("--replace",), action="store_true", help="replace a connection of that name"),
        ),
        _command(
            "sync-pools",
            "pools.sync_pools",
            "Make Airflow's pools match the backup hosts",
            _CONFIG,
            _OUTPUT,
            Arg(("--dry-run",), action="store_true", help="only show what would change"),
            Arg(("--prune",), action="store_true", help="delete azstack_* pools of no host"),
        ),
        _command(
            "doctor",
            "doctor.doctor",
            "Check endpoints, sign-in, permissions, versions, repository and pools",
            _CONFIG,
            _STACK,
            _REPOSITORY,
            _OUTPUT,
            Arg(
                ("--try",),
                dest="scratch_group",
                metavar="GROUP",
                default="",
                help="also make a disk and snapshots in that resource group, and delete them again",
            ),
            Arg(
                ("--account",),
                default="",
                help="with --try: a storage account with a container 'vhds', to try blobs in",
            ),
        ),
        _command(
            "roles",
            "roles.roles",
            "Print the four role definitions as JSON",
            Arg(("--subscription",), action="append", default=[], help="scope; may be repeated"),
            Arg(("--name",), choices=("reader", "snapshots", "restore", "unmanaged"), default=None),
            Arg(("--power",), action="store_true", help="for policies of consistency 'stopped'"),
        ),
        _command(
            "emulator",
            "emulator.run_emulator",
            "Run a stack on this machine, for demos and rehearsals",
            Arg(("--root",), required=True, help="directory for its disks"),
            Arg(("--port",), type=int, default=0, help="default: a free one"),
            Arg(("--demo",), action="store_true", help="with a few VMs"),
        ),
    )


def _planning() -> tuple[ActionCommand, ...]:
    """Return what tells what a run will need, and how well that held."""
    return (
        _command(
            "plan",
            "plan.plan",
            "What a backup of a policy will need: hosts, streams, bytes, when it ends",
            Arg(("policy",), help="the policy's file"),
            _CONFIG,
            _STACK,
            _REPOSITORY,
            _OUTPUT,
            Arg(("--at",), default="", help="when it begins, by the policy's clock; default: now"),
            Arg(("--mode",), choices=("incremental", "full"), default=None),
            Arg(("--workloads",), action="store_true", help="each of them as well"),
        ),
        _command(
            "estimate",
            "plan.estimate",
            "How well what was expected of a job held",
            Arg(("run",), nargs="?", default="", help="default: the newest"),
            *_TABLE,
        ),
        _command(
            "simulate",
            "plan.simulate",
            "What more backup hosts, streams or bandwidth would bring",
            Arg(("fleet",), nargs="?", default="", help="its file; default: a recorded job"),
            *_TABLE,
            *(
                Arg((f"--{name}",), metavar=metavar, default="", help=text)
                for name, metavar, text in OPTIONS
            ),
        ),
    )


def _reports() -> tuple[ActionCommand, ...]:
    """Return what tells how backups went, and what is there."""
    return (
        _command(
            "points",
            "points.points",
            "List restore points, oldest first",
            *_TABLE,
            Arg(("--vm",), default="", help="only VMs of this name or id"),
        ),
        _command(
            "jobs",
            "reports.jobs",
            "How compound jobs went",
            *_TABLE,
            Arg(("--last",), type=int, default=0, help="only the newest so many"),
        ),
        _command(
            "coverage",
            "reports.coverage",
            "What is protected, how fresh it is, how well it was checked",
            *_TABLE,
            Arg(("--max-age",), type=float, default=0.0, help="hours; state 1 when one is older"),
        ),
        _command(
            "usage",
            "reports.usage",
            "What a VM or a policy costs, and how it grows",
            *_TABLE,
            Arg(("--by",), choices=("vm", "policy"), default="vm", help="default: vm"),
        ),
        _command(
            "report",
            "reports.report",
            "All that is worth a look as one page of pictures, an HTML file",
            *_TABLE,
            Arg(("--to",), required=True, help="the file; - is standard output"),
            Arg(("--days",), type=int, default=30, help="1 to 90; default: 30"),
            Arg(("--max-age",), type=float, default=0.0, help="hours; state 1 when one is older"),
            Arg(("--job",), default="", help="whose timeline is drawn: a run; default: the newest"),
            Arg(("--usage",), action="store_true", help="what policies cost as well; reads more"),
            Arg(("--timezone",), default="UTC", help="of all times; default: UTC"),
        ),
    )


def _upkeep() -> tuple[ActionCommand, ...]:
    """Return what checks a repository and makes room in it."""
    return (
        _command(
            "verify",
            "reports.verify",
            "Check that everything that is there can be restored",
            *_TABLE,
            Arg(("--mode",), choices=("structure", "cycle", "full"), default="structure"),
            Arg(("--budget",), default="", help="of a cycle: read so much, such as 200G"),
            Arg(("--days",), type=int, default=30, help="in which daily cycles read everything"),
            Arg(("--resume",), action="store_true", help="go on with a full one that was stopped"),
        ),
        _command(
            "forget",
            "retention.forget",
            "Forget the restore points that a policy's retention does not keep",
            Arg(("policy",), help="the policy's file"),
            *_TABLE,
            _EXECUTE,
            _CONFIRM,
        ),
        _command(
            "prune",
            "retention.prune",
            "Delete what no restore point needs",
            *_TABLE,
            _EXECUTE,
            _CONFIRM,
            Arg(("--fence",), action="append", default=[], help="a session that is dead"),
        ),
    )


def _command(name: str, function: str, text: str, *args: Arg) -> ActionCommand:
    return ActionCommand(
        name=name,
        help=text,
        func=lazy_load_command(f"{_HERE}.{function}"),
        args=(*args, ARG_VERBOSE),
    )
