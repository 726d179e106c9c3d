"""Where a model comes from: its directory in the repository, or what a Load call carried in place of that."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from server import model_config
from server.errors import ModelLoadError
from server.pb import model_config_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

Files: TypeAlias = "frozenset[tuple[str, int, int, int]]"
"""Each file's path, bytes, time of change in nanoseconds, and inode: a file that was written anew differs in one of them."""
Mark: TypeAlias = "tuple[bytes, Files]"
"""What a version is loaded from: its configuration but for the policy of versions, and its files."""


@dataclass(frozen=True)
class Source:
    """A directory with a model's versions, and a configuration in place of the one that lies there."""

    directory: Path
    config: pb.ModelConfig | None = None
    carried: bool = False
    """The files came with a call: nobody vouches for them."""

    @property
    def name(self) -> str:
        """The model's."""
        return self.directory.name

    def configuration(self) -> pb.ModelConfig:
        """Return the configuration as it is now.

        Raises:
            ModelLoadError: it cannot be read.
        """
        return model_config.read(self.directory) if self.config is None else self.config

    def versions(self) -> list[int]:
        """Return the versions that are there now, sorted; none where the directory has gone.

        Raises:
            OSError: it cannot be read.
        """
        try:
            return sorted(int(each.name) for each in self.directory.iterdir() if _is_version(each))
        except (FileNotFoundError, NotADirectoryError):
            return []

    def newest(self) -> str:
        """Return the newest version; "0" where there is none, or where that cannot be told."""
        with contextlib.suppress(OSError):
            return str(max(self.versions(), default=0))
        return "0"

    def chosen(self) -> tuple[pb.ModelConfig, list[str]]:
        """Return the configuration, and the versions that it wants served, oldest first.

        Raises:
            ModelLoadError: the configuration cannot be read, or wants what is not there.
        """
        config = self.configuration()
        try:
            present = self.versions()
        except OSError as error:
            raise ModelLoadError(f"its directory cannot be read: {error.strerror}") from error
        return config, [str(each) for each in choose_versions(present, config.version_policy)]

    def mark(self, version: str, config: pb.ModelConfig) -> Mark:
        """Return what this version is made of now.

        Raises:
            ModelLoadError: the files cannot be read.
        """
        without = pb.ModelConfig()
        without.CopyFrom(config)
        without.ClearField("version_policy")
        try:
            others = {str(each) for each in self.versions()} - {version}
            all_files = list(self._files())
        except OSError as error:
            raise ModelLoadError(f"its files cannot be read: {error.strerror}") from error
        files = [each for each in all_files if each[0] != model_config.FILE and each[0].split("/")[0] not in others]
        return without.SerializeToString(deterministic=True), frozenset(files)

    def look(self) -> Files:
        """Return everything that lies in the directory now.

        Raises:
            OSError: it cannot be read.
        """
        return frozenset(self._files())

    def _files(self) -> Iterable[tuple[str, int, int, int]]:
        """Find the files; hidden ones are no part of the model. A version's directory may be a link, others not."""
        try:
            tops = [each for each in self.directory.iterdir() if not each.name.startswith(".")]
        except (FileNotFoundError, NotADirectoryError):
            return
        for top in tops:
            if top.is_dir():
                yield (f"{top.name}/", 0, 0, 0)
            for path in _below(top) if top.is_dir() else [top]:
                try:
                    facts = path.stat()
                except FileNotFoundError:  # it has gone
                    continue
                yield (path.relative_to(self.directory).as_posix(), facts.st_size, facts.st_mtime_ns, facts.st_ino)


def models(repository: Path) -> list[str]:
    """Return the names of the models in a repository, sorted.

    Raises:
        OSError: it cannot be read.
    """
    return sorted(each.name for each in repository.iterdir() if each.is_dir() and not each.name.startswith("."))


def choose_versions(present: list[int], policy: pb.ModelVersionPolicy) -> list[int]:
    """Return the versions to serve, oldest first, of those present (sorted); nothing said: the newest.

    Raises:
        ModelLoadError: there is no version, or the policy names one that is not there.
    """
    if not present:
        raise ModelLoadError("there is no version directory (1, 2, ...) with a model.onnx")
    choice = policy.WhichOneof("policy_choice")
    if choice == "all":
        return present
    if choice == "specific":
        wanted = sorted(policy.specific.versions)
        if missing := [version for version in wanted if version not in present]:
            raise ModelLoadError(f"version_policy names version {missing[0]}; on disk are {present}")
        return wanted
    return present[-max(1, policy.latest.num_versions) :]


def _below(directory: Path) -> Iterable[Path]:
    for folder, folders, names in os.walk(directory):
        folders[:] = [each for each in folders if not each.startswith(".")]
        yield from (directory.__class__(folder, name) for name in names if not name.startswith("."))


def _is_version(path: Path) -> bool:
    name = path.name
    return name.isascii() and name.isdecimal() and int(name) > 0 and not name.startswith("0") and path.is_dir()
