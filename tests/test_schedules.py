"""models/schedules.py and models/recipe_options.py: how the learning rate goes on, and how the user says so."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from torch import nn

from models import catalog, schedules
from models.commands import train
from models.recipe_options import option_name, recipe
from models.spec import NetweightError, Recipe
from netweight import main

STEPS = 5
"""In an epoch."""


def rates(asked: Recipe) -> list[float]:
    """Return the learning rate of every step of a training that has a schedule by steps."""
    parameter = nn.Parameter(torch.zeros(1))
    parameter.grad = torch.zeros(1)
    optimizer = schedules.optimizer(asked, [parameter])
    schedule = schedules.schedule(asked, optimizer, STEPS)
    found = []
    for _ in range(asked.epochs * STEPS):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return found


def test_cosine_falls_along_half_a_wave() -> None:
    """Step t of T has the rate (1 + cos(pi t / T)) / 2 of the first."""
    found = rates(Recipe(epochs=4, learning_rate=0.2, schedule="cosine"))
    assert found == pytest.approx([0.2 * (1 + math.cos(math.pi * step / 20)) / 2 for step in range(20)])


def test_steps_fall_after_their_epochs() -> None:
    """Each milestone multiplies the rate by the decay, from the first step after that epoch on."""
    found = rates(Recipe(epochs=4, learning_rate=0.2, schedule="steps", milestones=(1, 3), decay=0.5))
    assert found == pytest.approx([0.2] * 5 + [0.1] * 10 + [0.05] * 5)


def test_onecycle_peaks_at_the_learning_rate() -> None:
    """The rate rises to what was asked for, once, and falls to next to nothing."""
    found = rates(Recipe(epochs=4, learning_rate=0.2, schedule="onecycle"))
    peak = found.index(max(found))
    assert max(found) == pytest.approx(0.2)
    assert found[:peak] == sorted(found[:peak])
    assert found[peak:] == sorted(found[peak:], reverse=True)
    assert found[-1] < 1e-5 < found[0] < 0.2


def test_plateau_falls_when_patience_is_over() -> None:
    """The rate is multiplied by the decay once the loss has not fallen for more epochs than the patience."""
    asked = Recipe(epochs=9, learning_rate=1.0, schedule="plateau", patience=2, decay=0.1)
    optimizer = schedules.optimizer(asked, [nn.Parameter(torch.zeros(1))])
    schedule = schedules.schedule(asked, optimizer, STEPS)
    found = []
    for loss in (3.0, 2.0, 2.0, 2.1, 2.2, 1.0):
        schedule.step(loss)  # type: ignore[arg-type]  # torch's stub has the epoch's number there
        found.append(optimizer.param_groups[0]["lr"])
    assert found == pytest.approx([1, 1, 1, 1, 0.1, 0.1])


def test_optimizers_take_their_settings() -> None:
    """Momentum and weight decay reach the optimizer."""
    parameters = [nn.Parameter(torch.zeros(1))]
    sgd = schedules.optimizer(Recipe(1, 0.1, optimizer="sgd", momentum=0.5, weight_decay=0.01), parameters)
    adam = schedules.optimizer(Recipe(1, 0.1, weight_decay=0.02), parameters)
    assert isinstance(sgd, torch.optim.SGD)
    assert isinstance(adam, torch.optim.Adam)
    assert (sgd.defaults["momentum"], sgd.defaults["weight_decay"]) == (0.5, 0.01)
    assert adam.defaults["weight_decay"] == 0.02


def test_every_field_of_a_recipe_is_an_option() -> None:
    """`netweight train` has an option for each field, whose help is what the field says."""
    options = {parameter.name: parameter for parameter in train.params}
    for field in dataclasses.fields(Recipe):
        option = options[field.name]
        assert option.opts == [f"--{option_name(field.name)}"]
        assert getattr(option, "help", None) == field.metadata["said"]


def test_given_options_change_the_networks_recipe() -> None:
    """What is given takes the place of the record's; the rest stays; without a record two are needed."""
    lenet = catalog.get("lenet5")
    assert lenet.recipe
    changed = recipe(lenet, {"epochs": 2, "schedule": "steps", "milestones": (1,), "decay": None})
    assert changed == dataclasses.replace(lenet.recipe, epochs=2, schedule="steps", milestones=(1,))
    bare = dataclasses.replace(lenet, recipe=None)
    assert recipe(bare, {"epochs": 2, "learning_rate": None}) is None
    assert recipe(bare, {"epochs": 2, "learning_rate": 0.1}) == Recipe(2, 0.1)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"schedule": "linear"}, "unknown schedule 'linear': expected onecycle, cosine, steps, plateau"),
        ({"initialization": "zeros"}, "unknown initialization 'zeros': expected default, kaiming, xavier"),
        ({"learning_rate": -0.1}, "learning rate must be at least 0, got -0.1"),
        ({"learning_rate": math.nan}, "learning rate must be at least 0, got nan"),
        ({"epochs": 0}, "epochs must be at least 1, got 0"),
        ({"label_smoothing": 1.5}, "label smoothing must be at least 0 and at most 1, got 1.5"),
        (
            {"schedule": "steps"},
            "schedule steps needs milestones, the epochs after which the rate falls, such as 40,100",
        ),
        ({"schedule": "steps", "milestones": (4, 2)}, "milestones must rise, got 4,2"),
        ({"schedule": "steps", "milestones": (0,)}, "milestones must be at least 1, got 0"),
    ],
)
def test_recipe_that_cannot_be_is_refused(fields: dict[str, Any], message: str) -> None:
    """An unknown word, a number out of its range: one line that says what was expected."""
    with pytest.raises(NetweightError) as failure:
        Recipe(**{"epochs": 1, "learning_rate": 0.1, **fields})
    assert str(failure.value) == message


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ("--schedule linear", "unknown schedule 'linear': expected onecycle, cosine, steps, plateau"),
        ("--batch-size -3", "batch size must be at least 1, got -3"),
        (
            "--schedule plateau --milestones 3",
            "--milestones has no effect with --schedule plateau: leave it out, or give --schedule steps",
        ),
        (
            "--decay 0.5",
            "--decay has no effect with --schedule onecycle: leave it out, or give --schedule steps or plateau",
        ),
        (
            "--momentum 0.5",
            "--momentum has no effect with --optimizer adam: leave it out, or give --optimizer sgd",
        ),
        ("--milestones 3,x", "--milestones '3,x': expected whole numbers with commas between them, as 40,100"),
        ("--builder-option width", "--builder-option 'width': expected NAME=VALUE, such as width=0.25"),
        ("--freeze-epochs 2", "--freeze-epochs keeps what --transfer took: give --transfer too, or leave it out"),
    ],
)
def test_options_that_do_not_fit_are_one_line(arguments: str, line: str) -> None:
    """What a schedule or an optimizer would ignore is refused, in one line."""
    result = CliRunner().invoke(main, ["train", "lenet5", *arguments.split()])
    assert result.exit_code == 1
    assert result.output == f"Error: {line}\n"
