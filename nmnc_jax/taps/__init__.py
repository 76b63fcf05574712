"""The tap: one hook in the forward function through which the library reads and perturbs it."""

from nmnc_jax.taps.forms import TapLike
from nmnc_jax.taps.model import Model, run
from nmnc_jax.taps.no_tap import no_tap
from nmnc_jax.taps.recorder import NONE, OUTPUTS
from nmnc_jax.taps.stages import LinearStage, Reader, Stage, read_input, with_derivative_of
from nmnc_jax.taps.tap import Tap

__all__ = [
    "NONE",
    "OUTPUTS",
    "LinearStage",
    "Model",
    "Reader",
    "Stage",
    "Tap",
    "TapLike",
    "no_tap",
    "read_input",
    "run",
    "with_derivative_of",
]
