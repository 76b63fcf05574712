"""The configuration of one training run; each file in `experiments/configs` is an instance."""

import dataclasses
from typing import Any, Self

from experiments.configuration.data import Data
from experiments.configuration.method import Method
from experiments.configuration.model import Model
from experiments.configuration.optimiser import Optimiser
from experiments.configuration.run import Run


@dataclasses.dataclass(frozen=True)
class Config:
    """One training run, in sections; a configuration that cannot be trained raises an error.

    No two sections share the name of a field, so that the name alone identifies a field on the
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
        """Makes a configuration from fields of all sections.

        Raises:
            TypeError: if a field is unknown.
            UserError: if the configuration cannot be trained.
        """
        parts: dict[str, dict[str, Any]] = {name: {} for name in SECTIONS}
        for name, value in fields.items():
            parts[_section_of(name)][name] = value
        return cls(**{name: SECTIONS[name](**part) for name, part in parts.items()})

    def replace(self, **fields: Any) -> Self:
        """Returns the configuration with other values of fields of any section.

        Raises:
            TypeError: if a field is unknown.
            UserError: if the configuration cannot be trained.
        """
        return type(self).of(**(self.fields() | fields))

    def widened(self, width: float) -> Self:
        """Returns the configuration with `width` times the hidden units or channels."""
        return self.replace(
            features=tuple(max(8, int(width * units)) for units in self.model.features),
            dense=max(1, int(width * self.model.dense)),
        )

    def fields(self) -> dict[str, Any]:
        """Returns a dict from the name of every field to its value, in the order of sections."""
        return {
            field: value
            for section in dataclasses.asdict(self).values()
            for field, value in section.items()
        }

    def __post_init__(self) -> None:
        """Checks that the sections fit together and that all changed fields are used.

        Raises:
            UserError: if a field does not fit.
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
            "time_steps": None if data.is_task or data.name == "characters" else data,
            "leak": model if model.name != "leaky" else None,
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
