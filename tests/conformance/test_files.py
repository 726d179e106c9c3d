"""A load request reads the repository anew: versions that were added there, and that were taken away."""

from __future__ import annotations

import shutil
from typing import Any

import pytest

from tests.conformance.case import fp32, gives, x
from tests.conformance.conftest import Target
from tests.conformance.repository import scale_bytes

ROW = (1.0, 2.0, 3.0, 4.0)


@pytest.mark.extension("model_repository")
def test_a_version_that_is_added_is_loaded(target: Target, client: Any) -> None:
    """The newest version serves after the next load, and the one before it again when it is gone."""
    target.require("model_repository", ours=False)
    if target.repository is None:
        pytest.skip("--repository DIR says where the server's models lie")
    added = target.repository / "changeable" / "2"
    added.mkdir()
    (added / "model.onnx").write_bytes(scale_bytes(7))
    try:
        client.infer("changeable", x(ROW), model_version="1")
        client.load_model("changeable")
        gives(y=7 * fp32(ROW))(client.infer("changeable", x(ROW)))
        assert list(client.get_model_metadata("changeable").versions) == ["2"]
    finally:
        shutil.rmtree(added)
        client.load_model("changeable")
    gives(y=2 * fp32(ROW))(client.infer("changeable", x(ROW)))
