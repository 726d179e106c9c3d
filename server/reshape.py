"""Between the shape that callers see and the one that the graph has, where a model's configuration tells them apart."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from server.errors import ExecutionError
from server.tensors import Array, show

if TYPE_CHECKING:
    from collections.abc import Iterable

    from server.pb import model_config_pb2 as pb

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Reshape:
    """Two shapes of the same elements, without the batch; the n-th open extent of one is the n-th of the other."""

    dims: Shape
    """What callers see; -1 where any extent is accepted."""
    graph: Shape
    batches: bool
    """Whether a batch dimension stands in front of both."""

    def to_graph(self, array: Array) -> Array:
        """Return an array that a caller gave, and that fits ``dims``, as the graph takes it; a view."""
        return self._turn(array, self.dims, self.graph)

    def to_caller(self, array: Array) -> Array:
        """Return an array that the graph made as callers see it; a view.

        Raises:
            ExecutionError: the graph made another shape than the configuration says.
        """
        made = array.shape[self.batches :]
        if len(made) != len(self.graph) or any(
            want not in (-1, got) for want, got in zip(self.graph, made, strict=True)
        ):
            raise ExecutionError(
                f"an output came as {show(made)} where the configuration's reshape is {show(self.graph)}"
            )
        return self._turn(array, self.graph, self.dims)

    def _turn(self, array: Array, source: Shape, target: Shape) -> Array:
        lead = array.shape[: self.batches]
        extents = array.shape[self.batches :]
        opened = iter([extent for want, extent in zip(source, extents, strict=True) if want == -1])
        return array.reshape(lead + tuple(next(opened) if want == -1 else want for want in target))


def reshapes(tensors: Iterable[pb.ModelInput] | Iterable[pb.ModelOutput], *, batches: bool) -> dict[str, Reshape]:
    """Return the reshape of each input or output that has one."""
    return {
        tensor.name: Reshape(tuple(tensor.dims), tuple(tensor.reshape.shape), batches)
        for tensor in tensors
        if tensor.HasField("reshape")
    }


def contradiction(dims: Shape, graph: Shape) -> str:
    """Say why two shapes cannot hold the same elements; empty: they can.

    Triton's rule: between open extents, which are as many on both sides, stand as many elements.
    """
    if any(extent < 1 and extent != -1 for extent in (*dims, *graph)):
        return "extents are 1 or more, or -1"
    if dims.count(-1) != graph.count(-1):
        return f"{dims.count(-1)} open extents against {graph.count(-1)}"
    here, there = _counts(dims), _counts(graph)
    wrong = next(((a, b) for a, b in zip(here, there, strict=True) if a != b), None)
    return f"{wrong[0]} elements against {wrong[1]}" if wrong else ""


def _counts(shape: Shape) -> list[int]:
    """Return how many elements stand before, between and after the open extents."""
    counts = [1]
    for extent in shape:
        if extent == -1:
            counts.append(1)
        else:
            counts[-1] *= extent
    return counts
