"""Warm-up samples: what each of them holds, and how often it is run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from google.protobuf import text_format

from server.errors import ExecutionError, ModelLoadError
from server.model import Tensors
from server.pb import model_config_pb2 as pb
from server.tensors import NUMPY, Array
from server.warmup import warm_up


class FakeModel:
    """Keeps what it is to run."""

    name = "fake"

    def __init__(self, text: str, broken: bool = False) -> None:
        self.config = text_format.Parse(text, pb.ModelConfig())
        self.broken = broken
        self.ran: list[Tensors] = []

    def rehearse(self, inputs: Tensors) -> None:
        self.ran.append(inputs)
        if self.broken:
            raise ExecutionError("no")


def rehearsed(directory: Path, data: str, *, batch: int = 1, largest: int = 8) -> Array:
    """Return what a sample of one input comes to."""
    model = FakeModel(
        f'max_batch_size: {largest} model_warmup {{ name: "it" batch_size: {batch} '
        f'inputs {{ key: "x" value {{ {data} }} }} }}'
    )
    warm_up(model, directory)  # type: ignore[arg-type]
    (inputs,) = model.ran
    return inputs["x"]


@pytest.mark.parametrize("datatype", NUMPY)
def test_synthetic_data(tmp_path: Path, datatype: str) -> None:
    """Zeros are zeros and texts are empty; random numbers differ, are the same each time, and floats are 0 to 1."""
    name = "STRING" if datatype == "BYTES" else datatype
    zeros, random, again = (
        rehearsed(tmp_path, f"data_type: TYPE_{name} dims: [ 3, 50 ] {kind}: true", batch=2)
        for kind in ("zero_data", "random_data", "random_data")
    )
    for array in (zeros, random):
        assert (array.shape, array.dtype) == ((2, 3, 50), NUMPY[datatype])
    np.testing.assert_array_equal(random, again)
    np.testing.assert_array_equal(random[0], random[1])
    if datatype == "BYTES":
        assert {*zeros.ravel(), *random.ravel()} == {b""}
    else:
        assert not any(zeros.tobytes())
        assert len({each.tobytes() for each in random.ravel()}) > 1
    if datatype == "BF16":
        random = (random.view("<u2").astype("<u4") << 16).view("<f4")
    if random.dtype.kind == "f":
        assert 0 <= random.min() <= random.max() <= 1
    if random.dtype.kind == "i":
        assert random.min() < 0 < random.max()


@pytest.mark.parametrize("datatype", NUMPY)
def test_one_random_number(tmp_path: Path, datatype: str) -> None:
    """A sample of no extent is an array too."""
    name = "STRING" if datatype == "BYTES" else datatype
    array = rehearsed(tmp_path, f"data_type: TYPE_{name} random_data: true", largest=0)
    assert (array.shape, array.dtype) == ((), NUMPY[datatype])


def test_a_file_holds_one_element_of_the_batch(tmp_path: Path) -> None:
    """It is as on the wire, may hold more than is needed, and is repeated; a text's file is exactly its elements."""
    (tmp_path / "warmup" / "in").mkdir(parents=True)
    np.arange(9, dtype="<i2").tofile(tmp_path / "warmup" / "in" / "numbers")
    (tmp_path / "warmup" / "texts").write_bytes(b"\x02\0\0\0ab\0\0\0\0")
    numbers = rehearsed(tmp_path, 'data_type: TYPE_INT16 dims: [ 2, 3 ] input_data_file: "in/numbers"', batch=2)
    np.testing.assert_array_equal(numbers, np.array([[[0, 1, 2], [3, 4, 5]]] * 2, np.int16))
    texts = rehearsed(tmp_path, 'data_type: TYPE_STRING dims: 2 input_data_file: "texts"', largest=0)
    assert texts.tolist() == [b"ab", b""]
    with pytest.raises(ModelLoadError, match=r"model_warmup 'it': input 'x': warmup/texts .* needs 1 elements"):
        rehearsed(tmp_path, 'data_type: TYPE_STRING dims: 1 input_data_file: "texts"')


def test_a_model_without_batches(tmp_path: Path) -> None:
    """Its samples have no batch in front, and batch_size is 1."""
    data = "data_type: TYPE_BOOL dims: [ 2, 3 ] zero_data: true"
    assert rehearsed(tmp_path, data, largest=0).shape == (2, 3)
    assert rehearsed(tmp_path, "data_type: TYPE_BOOL zero_data: true", largest=0).shape == ()
    with pytest.raises(ModelLoadError, match="has batch_size 2; expected 1, the model takes no batches"):
        rehearsed(tmp_path, data, largest=0, batch=2)


def test_counts(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A sample is run once unless it says how often; one of no batch is passed over, with a warning; the first that fails ends it."""
    text = (
        'model_warmup { name: "a" batch_size: 1 } model_warmup { name: "none" } model_warmup { batch_size: 1 count: 3 }'
    )
    model = FakeModel(text)
    warm_up(model, tmp_path)  # type: ignore[arg-type]
    assert len(model.ran) == 4
    (record,) = caplog.records
    assert record.message == "model fake: config.pbtxt: model_warmup 'none' has batch_size 0: it is not run"
    broken = FakeModel(text, broken=True)
    with pytest.raises(ModelLoadError, match="model_warmup 'a': no"):
        warm_up(broken, tmp_path)  # type: ignore[arg-type]
    assert len(broken.ran) == 1
