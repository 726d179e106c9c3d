"""The report on variants as Markdown."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

_HEAD = (
    "| variant | file, MB | initializers, MB | agrees with fp32 | held-out accuracy | largest difference | batch 1, ms "
    "| batch 8, ms | opens in, s | own memory, MiB |\n|---|---|---|---|---|---|---|---|---|---|\n"
)


def markdown(networks: Sequence[dict[str, Any]]) -> str:
    """Return the whole report: the environment, then a table for each network and what its profiles show."""
    if not networks:
        return "# Variants\n\nNothing was measured.\n"
    return "\n".join(["# Variants", "", _environment(networks[0]), *map(_network, networks)])


def _environment(network: dict[str, Any]) -> str:
    """Return where the first network was measured, and how to read the tables."""
    machine = network["environment"]
    packages = ", ".join(f"{name} {version}" for name, version in machine["packages"].items())
    return (
        f"{machine['cpu']} ({', '.join(machine['cpu_flags']) or 'no flags told'}), {machine['usable_cores']} cores, "
        f"{machine['date']}; {packages}. Load before: {machine['load_average'][0]}.\n\n"
        "Written by `make results-variants`; raw samples and each network's own environment are in `variants.json`. "
        "Latency: one session for each variant, all in one process and in alternation, median (quartiles); ONNX Runtime "
        "with as many threads as the process may use, no spinning. The largest difference is that of two logits, as a share "
        "of the largest. Own memory is anonymous, beside what is mapped from the file: what opening a session and one "
        "answer add to a process. MB = 10^6 bytes, MiB = 2^20.\n"
    )


def _network(network: dict[str, Any]) -> str:
    """Return one network's table."""
    weights = "trained on the digits" if network["trained"] else "untrained: agreement is on random pixels"
    sides = "x".join(map(str, network["image_shape"]))
    title = f"## {network['network']}, {sides}, {weights}\n\n{network['images']} images.\n"
    table = _HEAD + "\n".join(map(_row, network["variants"]))
    seen = [_words(row) for row in network["variants"]]
    refused = [f"- {name}: not made: {why}" for name, why in network["refused"].items()]
    gpu = [f"- GPU, batch {batch}: {_gpu(rows)}" for batch, rows in network["gpu"]["latency_ms"].items()]
    skipped = [f"- GPU skipped: {why}" for why in network["gpu"]["skipped"]]
    return "\n".join([title, table, "", "What the profiles show (batch 1):", "", *seen, *refused, *gpu, *skipped, ""])


def _row(row: dict[str, Any]) -> str:
    """Return one variant's line."""
    accuracy = "untrained" if row["heldout_accuracy"] is None else f"{row['heldout_accuracy']:.1%}"
    cells = (
        row["variant"],
        f"{row['file_bytes'] / 1e6:,.2f}",
        f"{row['initializer_bytes'] / 1e6:,.2f}",
        f"{row['agreement']:.1%}",
        accuracy,
        f"{row['max_relative_difference']:.1e}",
        *(_latency(row["latency_ms"][batch]) for batch in ("1", "8")),
        f"{row['session_seconds']:.2f}",
        f"{row['anonymous_mib']:,.0f} + {max(row['mapped_mib'], 0):,.0f}",
    )
    return f"| {' | '.join(cells)} |"


def _latency(latency: dict[str, Any]) -> str:
    """Return a median with its quartiles."""
    low, high = latency["quartiles"]
    return f"{_milliseconds(latency['median'])} ({_milliseconds(low)}-{_milliseconds(high)})"


def _words(row: dict[str, Any]) -> str:
    """Return whether a variant is slower than fp32, and what was seen in its profile."""
    slower = " and ".join(map(str, row["slower_at_batch"]))
    return f"- {row['variant']}{f', slower than fp32 at batch {slower}' if slower else ''}: {row['seen']}"


def _gpu(rows: dict[str, dict[str, Any]]) -> str:
    """Return the GPU's medians."""
    return ", ".join(f"{name} {_latency(latency)} ms" for name, latency in rows.items())


def _milliseconds(value: float) -> str:
    """Return three figures, and no power of ten."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
