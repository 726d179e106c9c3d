"""Fuzz for as long as one likes: rounds of the tests with new seeds, until something is found.

``python -m tests.fuzz --minutes 10``; ``--seed 42`` repeats a round that found something.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import time
from pathlib import Path


def main() -> int:
    """Run rounds, print each one's seed before it begins, and stop at the first finding or when the time is up."""
    options = _options()
    end = time.monotonic() + 60 * options.minutes
    seed = options.seed if options.seed is not None else random.randrange(2**32)
    while True:
        print(f"seed {seed}; again: make fuzz ARGS='--seed {seed} --minutes 0'", flush=True)
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-x",
            "--hypothesis-profile=random",
            f"--hypothesis-seed={seed}",
        ]
        found = subprocess.run([*command, *(options.tests or [Path(__file__).parent])], check=False).returncode
        if found or time.monotonic() >= end:
            return found
        seed = random.randrange(2**32)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make fuzz ARGS=...", description=__doc__)
    parser.add_argument(
        "--minutes", type=float, default=10, help="begin no new round after so many (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, help="of the first round (default: a random one)")
    parser.add_argument("tests", nargs="*", help="test files, or ids (default: all of tests/fuzz)")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
