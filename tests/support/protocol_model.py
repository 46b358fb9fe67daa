"""
The repository's concurrency protocol as a state machine, small enough to explore completely.

One block that every writer wants, so that all of them would like to deduplicate against the same
pack. Writers run W1 to W6, collectors C1 to C7 for ever; anybody may stop anywhere, a collector may
start again at any step, and may fence sessions that are alive. Sets are bit masks: pack 0 and point
0 exist at the start, writer ``i`` has session, pack and point ``i``.

Invariant: a point that was there at the start and not forgotten, and a point whose writer was told
"committed", never refers to a pack that is gone.
"""

from collections.abc import Iterator
from itertools import chain
from typing import NamedTuple

# Each leaves one rule out, and the invariant must break.
MUTANTS = {
    "no check after publishing": "W6",
    "check before publishing instead": "W6",
    "deduplicate against condemned packs": "W4",
    "read the condemned lists last": "W2, W3",
    "count on packs condemned, but not stamped yet": "W4",
    "believe the index without listing packs": "W3",
    "list living sessions before condemning": "C3",
    "do not wait for sessions that lived": "C4",
    "delete by the first mark": "C5",
}
WITH_TWO_COLLECTORS = {"name packs by their content": "unique names"}

ABSENT, UNSTAMPED = -2, -1


class State(NamedTuple):
    """What the store holds, and what each process remembers."""

    packs: int
    index: int
    condemned: tuple[int, ...]  # per pack: ABSENT, UNSTAMPED, or the sessions in ``alive``
    sessions: int
    points: int
    writers: tuple[tuple[str, int, int], ...]  # step, what it knows, the pack it refers to
    collectors: tuple[tuple[str, int, int], ...]  # step, two things that it knows


def initial(writers: int, collectors: int) -> State:
    absent = (ABSENT,) * (writers + 1)
    return State(1, 1, absent, 0, 1, (("open", 0, 0),) * writers, (("fence", 0, 0),) * collectors)


# A state machine reads best in one piece, in the order of its steps: so no limit on branches.
def step_writer(  # noqa: C901, PLR0912
    state: State, i: int, mutant: str
) -> Iterator[State]:
    step, known, target = state.writers[i - 1]
    me = 1 << i

    def go(step: str, known: int = 0, target: int = 0, **changes: int) -> State:
        mine = (*state.writers[: i - 1], (step, known, target), *state.writers[i:])
        return state._replace(writers=mine, **changes)

    late = mutant == "read the condemned lists last"
    if step == "open":  # W1
        yield go("read index" if late else "read condemned", sessions=state.sessions | me)
    elif step == "read condemned":  # W2
        condemned = may_vanish(state, me, mutant)
        yield go("choose", known & ~condemned) if late else go("read index", condemned)
    elif step == "read index":  # W3: a pack counts when a segment names it and it is listed
        found = state.index
        if mutant != "believe the index without listing packs":
            found &= state.packs
        yield go("read condemned", found) if late else go("choose", found & ~known)
    elif step == "choose":  # W4
        for pack in bits(known):
            yield go("publish", target=pack)
        if not known:
            yield go("upload", target=0 if mutant == "name packs by their content" else i)
    elif step == "upload":  # W5: the pack is durable before a segment names it
        yield go("index", target=target, packs=state.packs | 1 << target)
    elif step == "index":
        yield go("publish", target=target, index=state.index | 1 << target)
    elif step == "publish" and mutant == "check before publishing instead":
        yield go("publish unchecked" if state.sessions & me else "failed", target=target)
    elif step == "publish":  # W6
        yield go("check", target=target, points=state.points | me)
    elif step == "publish unchecked":
        yield go("committed", target=target, points=state.points | me)
    elif step == "check":
        is_there = state.sessions & me or mutant == "no check after publishing"
        yield go("committed" if is_there else "withdraw", target=target)
    elif step == "withdraw":
        yield go("failed", points=state.points & ~me)
    elif step == "committed" and state.sessions & me:  # W7
        yield go("committed", target=target, sessions=state.sessions & ~me)


def may_vanish(state: State, me: int, mutant: str) -> int:
    """Return the condemned packs that are not kept for this session."""
    found = 0
    for pack, alive in enumerate(state.condemned):
        is_kept = alive & me if alive >= 0 else alive == ABSENT
        if alive == UNSTAMPED and mutant == "count on packs condemned, but not stamped yet":
            is_kept = True
        if not is_kept and mutant != "deduplicate against condemned packs":
            found |= 1 << pack
    return found


def step_collector(  # noqa: C901, PLR0912
    state: State, n: int, mutant: str
) -> Iterator[State]:
    step, known, more = state.collectors[n]

    def go(step: str, known: int = 0, more: int = 0, **changes: object) -> State:
        mine = (*state.collectors[:n], (step, known, more), *state.collectors[n + 1 :])
        return state._replace(collectors=mine, **changes)  # type: ignore[arg-type]

    early = mutant == "list living sessions before condemning"
    if step != "fence":
        yield go("fence")  # killed, and started again: what it knew is lost
    if step == "fence":  # C1: belief may be wrong
        for lost in subsets(state.sessions):
            left = state.sessions & ~lost
            yield go("list packs", 0, left if early else 0, sessions=left)
    elif step == "list packs":
        yield go("mark", state.packs, more)
    elif step == "mark":  # C2
        yield go("condemn", known & ~referred(state), more)
    elif step == "condemn":  # C3
        stamp = more if early else UNSTAMPED
        condemned = tuple(
            stamp if alive == ABSENT and known >> pack & 1 else alive
            for pack, alive in enumerate(state.condemned)
        )
        yield go("list sessions", condemned=condemned)
    elif step == "list sessions":  # also for lists that a killed collector did not stamp
        unstamped = sum(1 << pack for pack, a in enumerate(state.condemned) if a == UNSTAMPED)
        yield go("stamp", state.sessions, unstamped)
    elif step == "stamp":
        condemned = tuple(
            known if alive == UNSTAMPED and more >> pack & 1 else alive
            for pack, alive in enumerate(state.condemned)
        )
        yield go("fence again", condemned=condemned)
    elif step == "fence again":
        for lost in subsets(state.sessions):
            yield go("gate", sessions=state.sessions & ~lost)
    elif step == "gate":  # C4
        ripe = 0
        for pack, alive in enumerate(state.condemned):
            waits = alive & state.sessions and mutant != "do not wait for sessions that lived"
            if alive >= 0 and not waits:
                ripe |= 1 << pack
        yield go("mark again", ripe)
    elif step == "mark again":  # C5
        live = 0 if mutant == "delete by the first mark" else referred(state)
        yield go("delete", known & ~live, known)
    elif step == "delete":  # C5, C6, C7
        condemned = tuple(
            ABSENT if more >> pack & 1 else alive for pack, alive in enumerate(state.condemned)
        )
        left = {"packs": state.packs & ~known, "index": state.index & ~known}
        yield go("fence", condemned=condemned, **left)


def step_forget(state: State) -> Iterator[State]:
    if state.points & 1:
        yield state._replace(points=state.points & ~1)


def referred(state: State) -> int:
    """Return the packs that points refer to: the mark."""
    found = state.points & 1
    for i, (_, _, target) in enumerate(state.writers, 1):
        if state.points >> i & 1:
            found |= 1 << target
    return found


def is_violated(state: State) -> bool:
    if state.points & 1 and not state.packs & 1:
        return True
    return any(
        step == "committed" and state.points >> i & 1 and not state.packs >> target & 1
        for i, (step, _, target) in enumerate(state.writers, 1)
    )


def explore(mutant: str = "", *, writers: int = 2, collectors: int = 1) -> tuple[int, int, bool]:
    """Return the number of states, of those with a committed writer, and whether it held."""
    start = initial(writers, collectors)
    seen, front, committed = {start}, [start], 0
    while front:
        following = []
        for state in front:
            committed += any(step == "committed" for step, _, _ in state.writers)
            if is_violated(state):
                return len(seen), committed, False
            moves = chain(
                *(step_writer(state, i, mutant) for i in range(1, writers + 1)),
                *(step_collector(state, n, mutant) for n in range(collectors)),
                step_forget(state),
            )
            for move in moves:
                if move not in seen:
                    seen.add(move)
                    following.append(move)
        front = following
    return len(seen), committed, True


def subsets(mask: int) -> Iterator[int]:
    part = mask
    while True:
        yield part
        if not part:
            return
        part = (part - 1) & mask


def bits(mask: int) -> Iterator[int]:
    return (n for n in range(mask.bit_length()) if mask >> n & 1)
