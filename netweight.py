"""The command line: one command, a subcommand for each stage.

Each stage declares its own commands in its `commands` module, and imports the rest of itself when one is called, so
that `netweight serve` needs no torch and starts at once.
Exit codes: 0 done, 1 failed, 2 misused, 130 interrupted.
"""

from __future__ import annotations

from server import first_line  # noqa: F401  before all else: it notes the time

# isort: split
import os
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import click

EXTRAS = {
    "torch": "train",
    "torchvision": "train",
    "onnx": "train",
    "lightning": "train",
    "sklearn": "train",
    "matplotlib": "train",
    "squarify": "train",
    "zstandard": "train",
}
"""Which extra of the package brings a module; others come with [compare]."""

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # ONNX Runtime 1.32 would otherwise keep a device's id on disk

COMMANDS = {
    "serve": "server",
    "health": "server",
    "token": "server",
    "models": "models",
    "train": "models",
    "export": "export",
    "adopt": "export",
    "weigh": "export",
    "infer": "server",
    "cards": "server",
    "compare": "compare",
    "choose": "compare",
    "demo": "compare",
}
"""The commands in the order of the stages, and the stage that declares each; a server's image has no other stage."""


class Lines(click.Group):
    """A group whose commands fail with one line, and which finds them in their stages."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002  click's signature
        """Return the commands' names, but for those of stages that are not installed."""
        there = {stage for stage in set(COMMANDS.values()) if find_spec(stage) and find_spec(f"{stage}.commands")}
        return [*(name for name, stage in COMMANDS.items() if stage in there), *self.commands]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return a command, None where there is none of that name."""
        if cmd_name in self.list_commands(ctx) and cmd_name in COMMANDS:
            found = getattr(import_module(f"{COMMANDS[cmd_name]}.commands"), cmd_name)
            assert isinstance(found, click.Command)
            return found
        return super().get_command(ctx, cmd_name)

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; our own failures become one line and exit code 1."""
        try:
            return super().invoke(ctx)
        except ModuleNotFoundError as error:
            name = str(error.name).partition(".")[0]
            cure = f"pip install 'netweight[{EXTRAS.get(name, 'compare')}]'"
            raise click.ClickException(f"this needs the package {name}, which is not installed: {cure}") from error
        except Exception as error:
            if type(error).__module__.partition(".")[0] in COMMANDS.values():
                raise click.ClickException(str(error)) from error  # ours: its message is one line for the user
            raise


HELP = """What does a network weigh in production?

\b
netweight demo                                  all of it, on built-in data
netweight models                                which networks there are
netweight train lenet5 --output runs/lenet5     train one on the built-in digits
netweight export lenet5 --weights runs/lenet5/best.pt
netweight serve                                 serve what was exported, by gRPC
netweight infer lenet5 digit.png                ask the server
netweight compare                               weigh all that is exported, side by side
netweight choose --max-mb 50 --p99-ms 20        which of them to deploy
"""


@click.group(cls=Lines, help=HELP, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="netweight")
def main() -> None:
    """Hold the commands."""


@main.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the script that completes netweight's commands: eval "$(netweight completion bash)"."""
    from click.shell_completion import get_completion_class

    kind = get_completion_class(shell)
    assert kind is not None
    click.echo(kind(main, {}, "netweight", "_NETWEIGHT_COMPLETE").source())


if __name__ == "__main__":
    main()
