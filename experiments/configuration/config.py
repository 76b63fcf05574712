"""What one training run is made of. A file in `experiments/configs` is one instance of it."""

import dataclasses
from typing import Any, Self

from experiments.configuration.data import Data
from experiments.configuration.method import Method
from experiments.configuration.model import Model
from experiments.configuration.optimiser import Optimiser
from experiments.configuration.run import Run


@dataclasses.dataclass(frozen=True)
class Config:
    """One training run, by sections; one that cannot be trained cannot be made.

    No two sections have a field in common, so that a field is known by its own name alone: on the
    command line, in ``config.json`` and in `replace`.

    Example:
        >>> from experiments.configuration import Config, Data, Method, Model
        >>> config = Config(Data("digits"), Model("mlp", features=(32,)), Method(rank=16))
        >>> config.replace(estimator="vnc", steps=10).method.rank
        16
    """

    data: Data
    model: Model
    method: Method = dataclasses.field(default_factory=Method)
    optimiser: Optimiser = dataclasses.field(default_factory=Optimiser)
    run: Run = dataclasses.field(default_factory=Run)

    @classmethod
    def of(cls, **fields: Any) -> Self:
        """Makes a configuration of fields of all sections.

        Raises:
            TypeError: if there is no field of that name.
            UserError: if it cannot be trained.
        """
        parts: dict[str, dict[str, Any]] = {name: {} for name in SECTIONS}
        for name, value in fields.items():
            parts[_section_of(name)][name] = value
        return cls(**{name: SECTIONS[name](**part) for name, part in parts.items()})

    def replace(self, **fields: Any) -> Self:
        """Returns the configuration with other values of fields, of whichever section.

        Raises:
            TypeError: if there is no field of that name.
            UserError: if it cannot be trained.
        """
        return type(self).of(**(self.fields() | fields))

    def widened(self, width: float) -> Self:
        """Returns the configuration with `width` times the hidden units or channels."""
        return self.replace(
            features=tuple(max(8, int(width * units)) for units in self.model.features),
            dense=max(1, int(width * self.model.dense)),
        )

    def fields(self) -> dict[str, Any]:
        """Returns name and value of every field, in the order of the sections."""
        return {
            field: value
            for section in dataclasses.asdict(self).values()
            for field, value in section.items()
        }

    def __post_init__(self) -> None:
        """Refuses sections that do not fit each other, and fields that the others do not use.

        Raises:
            UserError: naming the field, what it got and what it takes.
        """
        data, model = self.data, self.model
        if data.is_task and not model.is_recurrent:
            model.refuse("model", f"{data.name} takes 'leaky' or 'gru'")
        if (data.name == "characters") != (model.name == "transformer"):
            takes = "'transformer'" if data.name == "characters" else "a network of other inputs"
            model.refuse("model", f"{data.name} takes {takes}")
        if model.noise and not (model.name == "leaky" and data.is_task):
            model.refuse("noise", f"{model.name} on {data.name} takes 0")
        idle = {
            "image_size": data if data.name != "folder" else None,
            "skip_damaged": data if data.name != "folder" else None,
            "patch": model if model.name != "vit" else None,
        }
        for field, section in idle.items():
            by_default = getattr(type(section), field, None)
            if section is not None and getattr(section, field) != by_default:
                section.refuse(
                    field, f"{model.name} on {data.name} does not use it and takes {by_default!r}"
                )


SECTIONS: dict[str, Any] = {
    "data": Data,
    "model": Model,
    "method": Method,
    "optimiser": Optimiser,
    "run": Run,
}


def _section_of(field: str) -> str:
    for name, section in SECTIONS.items():
        if field in section.__dataclass_fields__:
            return name
    raise TypeError(f"a configuration has no field {field!r}")
