"""`netweight` with a train and an export that take no time, for tests of the demo; serve is the real one.

Each call is noted in the file that FAKE_NETWEIGHT_CALLS names; FAKE_NETWEIGHT_FAILS names a network whose training
fails, FAKE_NETWEIGHT_SLEEPS one whose training never ends.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from pathlib import Path

from tests.published import held_out, publish


def train(network: str, output: Path) -> None:
    if os.environ.get("FAKE_NETWEIGHT_FAILS") == network:
        sys.exit("Error: no such network")
    if os.environ.get("FAKE_NETWEIGHT_SLEEPS") == network:
        print("training", flush=True)
        time.sleep(60)
    held_out(output / "heldout.npz", 30, wrong=3)
    (output / "best.pt").write_bytes(weights := network.encode())
    best = {"bytes": len(weights), "sha256": hashlib.sha256(weights).hexdigest()}
    (output / "run.json").write_text(json.dumps({"finished": True, "best": best}))


def export(network: str, weights: Path, repository: Path) -> None:
    version = len(list((repository / network).glob("[0-9]*"))) + 1
    publish(repository, network, version=version, sha256=hashlib.sha256(weights.read_bytes()).hexdigest())


def main() -> None:
    command, network, *rest = sys.argv[1:]
    options = dict(zip(rest[::2], rest[1::2], strict=False))
    with Path(os.environ["FAKE_NETWEIGHT_CALLS"]).open("a") as calls:
        calls.write(f"{command} {network}\n")
    if command == "train":
        train(network, Path(options["--output"]))
    elif command == "export":
        export(network, Path(options["--weights"]), Path(options["--repository"]))
    else:
        import netweight

        netweight.main()


if __name__ == "__main__":
    main()
