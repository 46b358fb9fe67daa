"""
Random clients for as long as you like: ``python tests/soak.py --seeds 100 --steps 10000``.

Needs the package and this directory on the path; the first failure ends it and names its seed.
"""

import argparse
import logging
import sys
import time
from collections import Counter
from datetime import timedelta
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]

from support import points, random_clients  # noqa: E402 - the path above


def main() -> None:
    """Run worlds of one seed after the other and sum up what happened in them."""
    parser = argparse.ArgumentParser(description="Random clients of a repository and its copy.")
    parser.add_argument("--first", type=int, default=0, help="the first seed; default: 0")
    parser.add_argument("--seeds", type=int, default=10, help="how many; default: 10")
    parser.add_argument("--steps", type=int, default=10_000, help="of each; default: 10,000")
    arguments = parser.parse_args()
    logging.disable(logging.CRITICAL)  # damage that clients do to each other is what it is about
    total, simulated, started = Counter[str](), timedelta(), time.monotonic()
    for seed in range(arguments.first, arguments.first + arguments.seeds):
        world = random_clients.run(seed, arguments.steps)
        total += world.done
        simulated += world.now - points.DAY_ONE
        minutes = (time.monotonic() - started) / 60
        print(  # noqa: T201 - it talks to who started it
            f"seed {seed}: {simulated.days} simulated days in {minutes:.1f} min, {dict(total)}"
        )


if __name__ == "__main__":
    main()
