"""Serialised requests of one batch size or another, made before anything is timed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from server.pb import inference_pb2

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from compare.images import InputTensor

DISTINCT_IMAGES = 64
"""That requests of one batch size hold altogether, or one batch if that is more."""
LARGEST_BYTES = 60 * 2**20
"""Of one request; below the 64 MiB that the server takes by default."""


def batches(tensor: InputTensor, images: NDArray[Any], batch: int) -> list[bytes]:
    """Return serialised ModelInferRequests with `batch` samples each; images are used again where there are too few."""
    count = max(1, DISTINCT_IMAGES // batch)
    chosen = images[np.arange(count * batch) % len(images)]
    return [_request(tensor, chosen[start : start + batch]) for start in range(0, len(chosen), batch)]


def fits(images: NDArray[Any], batch: int) -> bool:
    """Return whether so many images go into one request."""
    return bool(images[0].nbytes * batch <= LARGEST_BYTES)


def _request(tensor: InputTensor, images: NDArray[Any]) -> bytes:
    request = inference_pb2.ModelInferRequest(model_name=tensor.model)
    request.inputs.add(name=tensor.name, datatype=tensor.datatype, shape=images.shape)
    request.raw_input_contents.append(images.tobytes())
    return request.SerializeToString()
