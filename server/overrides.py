"""What a Load call carries in place of a model's configuration and files."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from server import model_config, paths
from server.errors import InvalidArgumentError, ModelLoadError, UnavailableError
from server.source import Source

if TYPE_CHECKING:
    from collections.abc import Mapping

    from server.pb import inference_pb2 as pb

CONFIG = "config"
FILE = "file:"
"""Before the path of a file, which is relative to the model's directory."""


@dataclass(frozen=True)
class Overrides:
    """A configuration as JSON, empty for the one that lies in the repository; and files, by their paths."""

    config: str
    files: dict[str, bytes]

    def source(self, directory: Path) -> Source:
        """Return the source that these make of the model whose directory this is.

        Files are written to a private directory, which is removed when nothing holds the source any more.

        Raises:
            ModelLoadError: the configuration is none, or the files cannot lie beside each other.
            UnavailableError: there is no room for the files.
        """
        config = model_config.from_json(self.config, directory.name) if self.config else None
        if not self.files:
            return Source(directory, config)
        try:
            private = Path(tempfile.mkdtemp(prefix="netweight-"))
        except OSError as error:
            raise _no_room(error) from error
        source = Source(private / directory.name, config, carried=True)
        weakref.finalize(source, shutil.rmtree, private, ignore_errors=True)
        _write(self.files, source.directory)
        return source


def read(parameters: Mapping[str, pb.ModelRepositoryParameter]) -> Overrides:
    """Return what the parameters of a Load call say.

    Raises:
        InvalidArgumentError: one is unknown or of the wrong type, a path leads out of the model's directory, or there
            are files without a configuration.
    """
    config, files = "", {}
    for key, parameter in sorted(parameters.items()):
        kind = parameter.WhichOneof("parameter_choice")
        if key == CONFIG:
            if kind != "string_param" or not parameter.string_param.strip():
                raise InvalidArgumentError(f"parameter config came as {kind}; expected JSON text as string_param")
            config = parameter.string_param
        elif key.startswith(FILE):
            if kind != "bytes_param":
                raise InvalidArgumentError(f"parameter {paths.shown(key)} came as {kind}; expected bytes_param")
            files[_path(key)] = parameter.bytes_param
        else:
            expected = "'config' or 'file:VERSION/model.onnx'"
            raise InvalidArgumentError(f"parameter {paths.shown(key)} is unknown; expected {expected}")
    if files and not config:
        raise InvalidArgumentError("parameters 'file:...' need the parameter 'config' beside them; '{}' is enough")
    return Overrides(config, files)


def _path(key: str) -> str:
    try:
        paths.check_file_name(key.removeprefix(FILE), "parameter file:")
    except ModelLoadError as error:
        raise InvalidArgumentError(str(error)) from error
    return key.removeprefix(FILE)


def _write(files: Mapping[str, bytes], directory: Path) -> None:
    directory.mkdir()
    for name, content in files.items():
        path = directory / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        except (FileExistsError, NotADirectoryError, IsADirectoryError) as error:
            raise ModelLoadError(f"file {paths.shown(name)} is a directory of another file") from error
        except OSError as error:
            raise _no_room(error) from error


def _no_room(error: OSError) -> UnavailableError:
    return UnavailableError(f"the files of the call cannot be kept in {tempfile.gettempdir()}: {error.strerror}")
