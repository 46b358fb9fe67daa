"""
The options of a simulation, by name, unit and text.

Owns the words that both command lines show; imports nothing, because every ``airflow`` command
loads it. Invariant: ``azstack simulate`` and ``airflow azstack simulate`` take the same options.
"""

OPTIONS = (
    ("run", "RUN", "the job whose VMs are simulated; default: the newest"),
    ("mode", "MODE", "incremental or full; default: incremental"),
    ("hosts", "N", "how many backup hosts there are; default: as recorded, or as the fleet says"),
    ("streams", "N", "of each host"),
    ("more", "N,N", "further hosts, a row each; default: 0,1,2,4"),
    ("host-limit", "MB", "a second, of each host"),
    ("policy-limit", "MB", "a second, over all hosts"),
    ("stack-rate", "MB", "a second that the stack gives"),
    ("stream-rate", "MB", "a second that a stream reads, instead of what was measured"),
    ("split-gib", "GIB", "from how much data on a disk is cut; 0: never"),
    ("window", "HOURS", "after which no VM is begun"),
)
