"""The command line's options of a recipe, made from the fields of `models.spec.Recipe`, and a recipe made from them."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin, get_type_hints

import click

from models.spec import NetweightError, Recipe

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from models.spec import Architecture

_NAMES = {"initialization": "init"}
"""Fields whose option is called otherwise."""


def recipe_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command an option for each field of a recipe; what is not given is None."""
    for field in reversed(dataclasses.fields(Recipe)):
        command = _option(field)(command)
    return command


def recipe_fields() -> tuple[str, ...]:
    """Return the names of a recipe's fields, which are those of the command's arguments."""
    return tuple(field.name for field in dataclasses.fields(Recipe))


def recipe(architecture: Architecture, given: Mapping[str, Any]) -> Recipe | None:
    """Return the network's recipe with what was given in its place; None: neither says how to train it.

    Args:
        architecture: The network's record.
        given: A recipe's fields, None for those that were not given.

    Raises:
        NetweightError: what a recipe refuses, and an option that has no effect beside the others.
    """
    changes = {name: value for name, value in given.items() if value is not None}
    if architecture.recipe is None and not {"epochs", "learning_rate"} <= changes.keys():
        return None
    made = dataclasses.replace(architecture.recipe, **changes) if architecture.recipe else Recipe(**changes)
    for field in dataclasses.fields(Recipe):
        ruling, *values = field.metadata["only"] or (None,)
        if field.name in changes and ruling and getattr(made, ruling) not in values:
            raise NetweightError(
                f"--{option_name(field.name)} has no effect with --{option_name(ruling)} {getattr(made, ruling)}: leave "
                f"it out, or give --{option_name(ruling)} {' or '.join(values)}"
            )
    return made


def option_name(field: str) -> str:
    """Return what a recipe's field is called on the command line, without the dashes."""
    return _NAMES.get(field, field.replace("_", "-"))


def _numbers(_: click.Context, parameter: click.Parameter, value: str | None) -> tuple[int, ...] | None:
    """Read whole numbers with commas between them."""
    if value is None:
        return None
    try:
        return tuple(int(number) for number in value.split(","))
    except ValueError:
        name = parameter.opts[0]
        raise NetweightError(f"{name} {value!r}: expected whole numbers with commas between them, as 40,100") from None


def _option(field: dataclasses.Field[Any]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Make the option of a field. Words and limits are checked by the recipe itself, which says them in one line."""
    hint = get_type_hints(Recipe)[field.name]
    choices = get_args(hint) if get_origin(hint) is Literal else ()
    several = get_origin(hint) is tuple
    return click.option(
        f"--{option_name(field.name)}",
        field.name,
        type=hint if hint in {int, float} else str,
        metavar=f"[{'|'.join(choices)}]" if choices else "N,N,..." if several else None,
        callback=_numbers if several else None,
        shell_complete=lambda _, __, begun: [choice for choice in choices if choice.startswith(begun)],
        help=field.metadata["said"],
    )
