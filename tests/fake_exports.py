"""`netweight` whose export of random weights, lighter heads and int8 takes no time, beside what fake_netweight does.

As there, each call is noted in the file that FAKE_NETWEIGHT_CALLS names; FAKE_NETWEIGHT_FAILS names a network whose export
fails too.
"""

from __future__ import annotations

import hashlib
import os
import sys
from pathlib import Path
from typing import Any

from tests import fake_netweight
from tests.published import publish


def export(network: str, options: dict[str, str]) -> None:
    if os.environ.get("FAKE_NETWEIGHT_FAILS") == network:
        sys.exit("Error: no such network")
    weights, repository = options["--weights"], Path(options["--repository"])
    digest = None if weights == "random" else hashlib.sha256(Path(weights).read_bytes()).hexdigest()
    facts: dict[str, Any] = {"sha256": digest, "trained": digest is not None}
    name = f"{network}.{options['--head']}" if "--head" in options else network
    if not (repository / name).exists():
        publish(repository, name, **facts, reference=None if name == network else network)
    if "--variant" in options:
        publish(repository, f"{name}.int8", **facts, variant="int8", reference=network)


def main() -> None:
    command, network, *rest = sys.argv[1:]
    if command != "export":
        fake_netweight.main()
        return
    with Path(os.environ["FAKE_NETWEIGHT_CALLS"]).open("a") as calls:
        calls.write(" ".join(["export", network, *rest[4:]]) + "\n")
    export(network, dict(zip(rest[::2], rest[1::2], strict=True)))


if __name__ == "__main__":
    main()
