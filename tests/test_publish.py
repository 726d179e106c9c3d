"""export.publish: a version appears in the model repository whole, or not at all."""

from __future__ import annotations

import json
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from export.publish import Publication, Signature, check, config, publish, staging
from models.spec import NetweightError
from server import config_fields, model_config
from tests import graphs

TINY = Signature("uint8", (8, 8, 1), 3)
LABELS = ("zero", "one", "two")


def make(repository: Path, name: str = "tiny", labels: tuple[str, ...] = LABELS) -> Publication:
    """Publish a small classifier."""
    with staging(repository) as files:
        graphs.image_classifier(files.parent, "made")
        (files.parent / "made" / "1" / "model.onnx").rename(files / "model.onnx")
        return publish(files, repository, name, TINY, labels, {"schema": "netweight-card/1", "parameters": 195})


def refusal(repository: Path, name: str, signature: Signature) -> str:
    """Return the message that the check ends with: one line."""
    with pytest.raises(NetweightError) as caught:
        check(repository, name, signature)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_new_model_is_complete(tmp_path: Path) -> None:
    """The first version comes with config, labels and card, and nothing else is left in the repository."""
    publication = make(tmp_path / "repository")
    assert publication.path == tmp_path / "repository" / "tiny" / "1"
    there = sorted(str(each.relative_to(tmp_path / "repository")) for each in (tmp_path / "repository").rglob("*"))
    assert there == ["tiny", "tiny/1", "tiny/1/card.json", "tiny/1/model.onnx", "tiny/config.pbtxt", "tiny/labels.txt"]
    card = json.loads((publication.path / "card.json").read_text())
    assert card == publication.card == {"schema": "netweight-card/1", "name": "tiny", "version": 1, "parameters": 195}
    assert (publication.path.parent / "labels.txt").read_text() == "zero\none\ntwo\n"


def test_next_version_is_one_above_the_highest(tmp_path: Path) -> None:
    """Numbers are not used again, and other directories are not versions."""
    make(tmp_path)
    (tmp_path / "tiny" / "7").mkdir()
    (tmp_path / "tiny" / "notes").mkdir()
    assert make(tmp_path).version == 8


def test_server_of_another_user_can_read_it(tmp_path: Path) -> None:
    """The version's directory has the usual permissions, not those of a temporary directory."""
    usual = tmp_path / "usual"
    usual.mkdir()
    path = make(tmp_path).path
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE(usual.stat().st_mode)


def test_config_is_tritons(tmp_path: Path) -> None:
    """config.pbtxt parses as Triton's ModelConfig, and the server acts on all of it; dims leave the batch out."""
    make(tmp_path)
    text = (tmp_path / "tiny" / "config.pbtxt").read_text()
    read = text_format.Parse(text, model_config_pb2.ModelConfig())
    ours = model_config.read(tmp_path / "tiny")
    assert (model_config.unknown(tmp_path / "tiny"), config_fields.ignored(ours)) == ([], [])
    assert (read.name, read.platform, read.max_batch_size) == ("tiny", "onnxruntime_onnx", 32)
    assert read.HasField("dynamic_batching")
    assert [(each.name, each.data_type, list(each.dims)) for each in read.input] == [
        ("image", model_config_pb2.TYPE_UINT8, [8, 8, 1])
    ]
    assert [(each.name, each.data_type, list(each.dims), each.label_filename) for each in read.output] == [
        (name, model_config_pb2.TYPE_FP32, [3], "labels.txt") for name in ("logits", "probabilities")
    ]


def test_variant_is_a_model_of_its_own(tmp_path: Path) -> None:
    """A variant's directory is a Triton model directory under its own name, with its own config and labels."""
    path = make(tmp_path, "tiny.int8").path
    read = text_format.Parse((path.parent / "config.pbtxt").read_text(), model_config_pb2.ModelConfig())
    assert (path.parent.name, read.name) == ("tiny.int8", "tiny.int8")
    assert model_config.unknown(path.parent) == []
    assert all((path.parent / each.label_filename).is_file() for each in read.output)


def test_float32_input_is_declared() -> None:
    """The plain form takes FP32 planes."""
    text = config("plain", Signature("float32", (3, 224, 224), 1000))
    (image,) = text_format.Parse(text, model_config_pb2.ModelConfig()).input
    assert (image.data_type, list(image.dims)) == (model_config_pb2.TYPE_FP32, [3, 224, 224])


def test_labels_follow_the_newest_version(tmp_path: Path) -> None:
    """A version with other class names rewrites labels.txt; a name is one line whatever is in it."""
    make(tmp_path)
    make(tmp_path, labels=("nought", "one\nand only", "two"))
    assert (tmp_path / "tiny" / "labels.txt").read_text() == "nought\none and only\ntwo\n"


@pytest.mark.parametrize(
    ("signature", "words"),
    [
        (Signature("uint8", (8, 8, 1), 5), "uint8 images 8x8x1 and 5 classes"),
        (Signature("uint8", (9, 8, 1), 3), "uint8 images 9x8x1 and 3 classes"),
        (Signature("float32", (8, 8, 1), 3), "float32 images 8x8x1 and 3 classes"),
    ],
)
def test_contradicting_version_is_refused(tmp_path: Path, signature: Signature, words: str) -> None:
    """Another class count, shape or datatype than the versions there have is named, and how to go on."""
    make(tmp_path)
    check(tmp_path, "tiny", TINY)
    message = refusal(tmp_path, "tiny", signature)
    assert f"has uint8 images 8x8x1 and 3 classes in version 1, this export has {words}" in message
    assert "--name" in message


def test_foreign_model_is_not_overwritten(tmp_path: Path) -> None:
    """A model that netweight did not export keeps its name to itself."""
    graphs.scale(tmp_path, "scale")
    assert "has inputs x and outputs y in version 1" in refusal(tmp_path, "scale", TINY)


def test_broken_version_does_not_stop_the_next(tmp_path: Path) -> None:
    """Exporting again is how a truncated file is mended."""
    path = make(tmp_path).path / "model.onnx"
    path.write_bytes(path.read_bytes()[:100])
    check(tmp_path, "tiny", TINY)
    assert make(tmp_path).version == 2


@pytest.mark.parametrize("name", ["", ".hidden", "a/b", "two words", '"', ".."])
def test_names_that_cannot_be_directories_are_refused(tmp_path: Path, name: str) -> None:
    """A name that would leave the repository, hide, or break config.pbtxt is refused."""
    assert "cannot be a model's name" in refusal(tmp_path, name, TINY)


def test_failed_export_leaves_nothing(tmp_path: Path) -> None:
    """What was staged when an export fails is gone, and no model has appeared."""

    def fail() -> None:
        with staging(tmp_path) as files:
            (files / "model.onnx").write_bytes(b"half")
            raise RuntimeError("half way")

    with pytest.raises(RuntimeError, match="half way"):
        fail()
    assert not list(tmp_path.iterdir())


def test_exports_at_the_same_time_get_their_own_versions(tmp_path: Path) -> None:
    """An export that is published while another is being made takes its number; the other takes the next."""
    with staging(tmp_path) as files:
        assert make(tmp_path).version == 1
        publication = publish(files, tmp_path, "tiny", TINY, LABELS, {"schema": "netweight-card/1"})
    assert publication.version == 2
    assert sorted(each.name for each in (tmp_path / "tiny").iterdir()) == ["1", "2", "config.pbtxt", "labels.txt"]


def test_killed_export_is_cleaned_up_by_the_next(tmp_path: Path) -> None:
    """A live export keeps its staging directory; once it was killed, the next export removes it."""
    program = (
        "import sys; from pathlib import Path; from export.publish import staging\n"
        "with staging(Path(sys.argv[1])) as files:\n"
        "    (files / 'model.onnx').write_bytes(b'half'); print('staged', flush=True); sys.stdin.read()\n"
    )
    root = Path(__file__).parent.parent
    with subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)], cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"staged\n"
        make(tmp_path)
        assert len(list(tmp_path.glob(".export-*"))) == 1
        process.send_signal(signal.SIGKILL)
    assert len(list(tmp_path.glob(".export-*"))) == 1
    make(tmp_path)
    assert [each.name for each in tmp_path.iterdir()] == ["tiny"]


def test_unwritable_repository_is_one_line(tmp_path: Path) -> None:
    """A repository below a file cannot be made; the message names it and the reason."""
    (tmp_path / "file").touch()
    with pytest.raises(NetweightError, match=r"cannot write to the model repository .*: Not a directory") as caught:
        make(tmp_path / "file" / "repository")
    assert "\n" not in str(caught.value)
