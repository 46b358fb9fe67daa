"""
The table of what programs took beside each other, and the bars that this project is held to.

Owns medians, ratios and bars; knows nothing of how anything was measured.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from statistics import median
from typing import NamedTuple

from measure import MIB, Cost
from tools import STEPS, Tool

Results = Mapping[str, Mapping[str, list[Cost]]]  # program -> step -> one cost a round
BY_CONTENT, TOLD, FAST = "azstack", "azstack, told", "azstack, fast"
PEAK_MIB = 300


class Bar(NamedTuple):
    """Something that shall hold: in a step, a figure of ours against the best of the peers."""

    what: str
    ours: str  # which way of ours
    step: str
    figure: Callable[[Cost], float]
    factor: float  # the best peer's figure is at least so many times ours


def _seconds(cost: Cost) -> float:
    return cost.seconds


def _cpu(cost: Cost) -> float:
    return cost.cpu_seconds


def _stored(cost: Cost) -> float:
    return cost.stored_bytes


BARS = (
    Bar("first backup: seconds", BY_CONTENT, "first", _seconds, 2.5),
    Bar("first backup: CPU-seconds", BY_CONTENT, "first", _cpu, 1),
    Bar("first backup, fast: seconds", FAST, "first", _seconds, 2.5),
    Bar("first backup, fast: CPU-seconds", FAST, "first", _cpu, 1),
    Bar("day later, by content: seconds", BY_CONTENT, "day", _seconds, 2),
    Bar("sibling: seconds", BY_CONTENT, "sibling", _seconds, 2),
    Bar("day later, told the changes: seconds", TOLD, "day", _seconds, 5),
    Bar("database-like day, told: seconds", TOLD, "database", _seconds, 5),
    Bar("database-like day, told: bytes stored", TOLD, "database", _stored, 20),
    Bar("restore: seconds", BY_CONTENT, "restore", _seconds, 1),
    Bar("verify: seconds", BY_CONTENT, "verify", _seconds, 1),
)


def report(results: Results, tools: Mapping[str, type[Tool]]) -> list[str]:
    """Print the table, and return the bars that do not hold."""
    middle = {
        name: {step: _median(costs) for step, costs in steps.items()}
        for name, steps in results.items()
    }
    peers = [name for name in middle if not tools[name].is_ours]
    for step in STEPS:
        at_step = {name: steps[step] for name, steps in middle.items() if step in steps}
        _print_step(step, at_step, peers)
    for name in peers:
        if not tools[name].is_encrypted:
            print(f"{name} does not encrypt")
    missed = []
    for text, holds in _bars(middle, {name: tools[name] for name in peers}):
        print(f"  {'holds ' if holds else 'MISSED'}  {text}")
        if not holds:
            missed.append(text)
    return missed


def _median(costs: Sequence[Cost]) -> Cost:
    """Return the median of each figure by itself."""
    seconds, cpu, peak, stored = (median(figures) for figures in zip(*costs, strict=True))
    return Cost(seconds, cpu, peak, int(stored))


def _print_step(step: str, costs: Mapping[str, Cost], peers: Sequence[str]) -> None:
    best = min((costs[name].seconds for name in peers if name in costs), default=0.0)
    print(
        f"\n{step:<15}{'seconds':>9}{'of best peer':>14}{'CPU s':>8}{'peak MiB':>10}"
        f"{'stored MiB':>12}"
    )
    for name, cost in costs.items():
        times = f"{best / cost.seconds:.1f}x" if best else ""
        stored = f"{cost.stored_bytes / MIB:.1f}" if cost.stored_bytes else ""
        print(
            f"{name:<15}{cost.seconds:>9.2f}{times:>14}{cost.cpu_seconds:>8.2f}"
            f"{cost.peak_mib:>10.0f}{stored:>12}"
        )


def _bars(
    middle: Mapping[str, Mapping[str, Cost]], peers: Mapping[str, type[Tool]]
) -> Iterator[tuple[str, bool]]:
    for bar in BARS:
        theirs = {n: bar.figure(middle[n][bar.step]) for n in peers if bar.step in middle[n]}
        if theirs:
            yield _compared(bar, max(bar.figure(middle[bar.ours][bar.step]), 1e-9), theirs, peers)
    peak = max(c.peak_mib for n, steps in middle.items() if n not in peers for c in steps.values())
    yield f"memory: {peak:.0f} MiB at the peak, bar {PEAK_MIB}", peak < PEAK_MIB


def _compared(
    bar: Bar, ours: float, theirs: Mapping[str, float], peers: Mapping[str, type[Tool]]
) -> tuple[str, bool]:
    """Compare with those of comparable compression; where another does better, say both."""
    zstd = {name: figure for name, figure in theirs.items() if peers[name].uses_zstd}
    comparable = theirs if bar.ours == FAST else zstd or theirs
    best, any_best = (min(of, key=of.__getitem__) for of in (comparable, theirs))
    text = f"{bar.what}: {theirs[best] / ours:.2f} times better than {best}"
    if any_best != best:
        text += f", {theirs[any_best] / ours:.2f} than {any_best}, which compresses less"
    return f"{text}; bar {bar.factor:g}", theirs[best] >= bar.factor * ours
