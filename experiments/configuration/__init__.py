"""What one training run is made of. A file in `experiments/configs` is one instance of it."""

import dataclasses
import importlib
import pkgutil
from typing import Literal, get_args

from experiments import configs

DATA_DIR = "~/tensorflow_datasets"
JACOBIANS = ("oracle_subspace", "exact_feedback", "exact_feedback_manifold")
"""Methods that are told the exact Jacobian."""
LAST_SEED = 2**31 - 4
"""A task's trials are drawn by a 32-bit number of up to 3 above the seed."""
OPTIMISERS = (
    *("adabelief", "adafactor", "adagrad", "adam", "adamw", "lamb", "lars", "lion", "nadam"),
    *("nadamw", "novograd", "radam", "rmsprop", "sgd", "yogi"),
)
"""Optimisers of Optax by name."""
TaskName = Literal["flip_flop", "context", "match", "evidence", "reach"]


class UserError(Exception):
    """A mistake in what was asked, told in one line."""


class Unreadable(UserError):
    """A file that cannot be read as what it is given as."""


class Diverged(UserError):
    """A run whose loss is no longer finite."""


def in_one_line(error: BaseException) -> str:
    """Returns an error's message in one line, or its kind where it has none."""
    return " ".join(str(error).split()) or type(error).__name__


class Stopped(Exception):
    """A run that was asked to stop and has saved where it was."""


@dataclasses.dataclass(frozen=True)
class Config:
    """One training run."""

    data: Literal[
        "digits", "mnist5k", "photos", "folder", "cifar10", "imagenet2012", "characters", TaskName
    ]
    """Data set (characters: text, each character to be predicted from those before it), or task of
    a recurrent network: flip-flop memory, context-dependent integration, delayed match to sample,
    accumulation of evidence, or reaching from the centre out."""
    model: Literal[
        "mlp", "conv", "vit", "alexnet", "resnet18", "resnet50", "leaky", "gru", "transformer"
    ]
    """Architecture: dense layers; strided 3x3 convolutions with GroupNorm and a dense layer; a
    vision transformer; AlexNet; a residual network with GroupNorm; a recurrent network of leaky
    units; a GRU (these two read images row by row); or a causal transformer of text."""
    features: tuple[int, ...] = ()
    """Hidden units of each dense layer (mlp), channels of each convolution (conv), width of the
    residual stream in each block, the same in all (vit, transformer), or units (leaky, gru)."""
    strides: tuple[int, ...] = ()
    """Stride of each convolution (conv)."""
    dense: int = 128
    """Units of the dense layer after the convolutions (conv)."""
    leak: float = 0.2
    """Time step over the units' time constant (leaky)."""
    noise: float = 0.0
    """Standard deviation of the noise that each unit has of its own (leaky, tasks)."""
    time_steps: int = 50
    """Time steps of a trial (tasks), or characters of a sequence (characters)."""
    rotation: float = 0.0
    """reach only: degrees by which the hand must end beside the target that is shown."""
    patch: int = 8
    """Side of the image patches (vit)."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """alexnet and resnets only: dtype of the computation; parameters are float32."""
    data_dir: str = DATA_DIR
    """Where cifar10 and imagenet2012 were prepared."""
    data_path: str = ""
    """folder only: images in train/<class>/ and test/<class>/ (or val), or an archive of them."""
    image_size: int | None = None
    """folder only: side to which images are resized; without, all have one size."""
    skip_damaged: bool = False
    """folder only: leave out images that cannot be read, count them and list them with the reasons;
    without, the first one is refused."""
    variant: Literal["plain", "hard"] = "plain"
    """photos only: "hard" removes colour, brightness and contrast as cues."""
    validation: bool = False
    """Test on a part held out of the training set instead of the test set: to choose settings."""

    estimator: str = "nmnc"
    """How gradients are estimated: backprop, dfa, vnc, nmnc, nmnc_unrotated (the basis moves, the
    feedback does not turn with it), random_subspace, oracle_subspace (the exact mean Jacobian's
    rows), exact_feedback and exact_feedback_manifold (that Jacobian in the probes' place),
    node_perturbation, node_perturbation_manifold, forward_gradient, weight_perturbation,
    weight_mirror, weight_mirror_manifold, mirror (weight mirrors in the form of the layers' own
    weights), mirror_manifold (where probes are too few, in the manifold of a layer's input),
    feedback_alignment, sign_symmetric (feedback in the form of the weights, with their signs) or
    one_step (recurrent networks: no credit goes back through the recurrent weights)."""
    start: str = ""
    """Directory of a run whose trained network this one begins with, in place of a new one."""
    steps: int = 1500
    """Training steps."""
    batch: int = 64
    """Examples per step."""
    augment: bool = False
    """photos, folder and cifar10 only: shift training images by up to an eighth of their side and
    mirror half of them, at random. imagenet2012 is always cropped and mirrored."""

    optimiser: str = "adam"
    """Optimiser, by its name in Optax: adam, adamw, sgd, lars, lamb, lion and others."""
    optimiser_settings: tuple[str, ...] = ()
    """Its other arguments, each as NAME=VALUE: momentum=0.9 nesterov=True."""
    learning_rate: float = 1e-3
    """Peak learning rate."""
    schedule: Literal["cosine", "steps", "constant"] = "cosine"
    """How the learning rate goes on from its peak: to zero by a cosine, divided by ten after 1/3,
    2/3 and 8/9 of the updates, or not at all."""
    warmup: int = 0
    """Updates in which the learning rate rises to its peak."""
    weight_decay: float = 0.0
    """Weight decay of all parameters but biases and those of norms: the optimiser's own (adamw,
    lamb, lars, lion ...), or added to the gradient."""
    clip_norm: float | None = None
    """Norm to which a larger gradient is scaled; without, none is."""
    label_smoothing: float = 0.0
    """Share of each label that is spread over all classes, in training."""
    average: float | None = None
    """Decay of a moving average of the parameters, which is tested and saved in their place."""
    accumulate: int = 1
    """Steps whose gradients are averaged for one update of the parameters."""
    seed: int = 0
    """Seed of initial weights, data order and perturbations."""

    rank: int = 64
    """Dimension of the manifold at each tap (at most the tap's units)."""
    explained_variance: float | None = None
    """Perturb the fewest principal components that hold this share of a tap's variance, up to rank,
    chosen anew whenever the components are; without, all of them."""
    probes: int | Literal["auto"] = 1
    """Probes per example and tap at each feedback update (passes, for weight_perturbation). "auto":
    as many as each layer needs, for mirror and mirror_manifold; one for other methods."""
    probe_rows: int | None = None
    """Examples (of a recurrent network: examples at one time step) that are perturbed at each
    feedback update; without, all."""
    kind: Literal["gaussian", "rademacher", "orthogonal"] = "gaussian"
    """Distribution of the probes' coordinates."""
    difference: Literal["central", "forward", "jvp"] = "jvp"
    """How the response to a probe is measured."""
    sigma: float = 1e-3
    """Perturbation size relative to each tap's RMS activity; weights' standard deviation for
    weight_perturbation. Equal for all methods, so they perturb with equal energy."""
    scope: Literal["each_tap", "all_taps"] = "each_tap"
    """Perturb one tap at a time or all of them in one pass."""
    feedback_decay: float = 0.9
    """Decay of the feedback's moving average."""
    update_every: int = 1
    """Steps between feedback updates."""
    basis_batch: int = 1500
    """Training examples that fit the first basis."""
    basis_update_every: int = 10
    """Steps between updates of the principal components."""
    basis_decay: float = 0.95
    """Weight of earlier activity at each such update."""

    log_every: int = 100
    """Steps between measurements."""
    checkpoint_every: int = 1000
    """Steps between checkpoints (experiments.train)."""
    alignment_batch: int = 2048
    """Training examples, fixed, on which credit is compared with the exact credit (above 256, a
    multiple of it)."""

    devices: int = 0
    """Devices to run on; 0 takes all there are."""
    divide_units: bool = False
    """Divide bases and feedback over the devices by units, where they are too large for one."""

    @property
    def least_probes(self) -> int:
        """Probes per example, where their number does not depend on the layer."""
        return 1 if self.probes == "auto" else self.probes

    def check(self) -> None:
        """Refuses what cannot be trained.

        Raises:
            UserError: naming the field, what it got and what it takes.
        """
        mirrors = self.estimator in ("mirror", "mirror_manifold", "sign_symmetric")
        counts = ("steps", "batch", "rank", "probes", "patch", "dense", "time_steps",
                  "update_every", "basis_batch", "basis_update_every", "log_every",
                  "alignment_batch", "checkpoint_every", "accumulate")  # fmt: skip
        for field in counts:
            if getattr(self, field) == "auto":
                continue
            if getattr(self, field) < 1:
                raise UserError(f"{field} is {getattr(self, field)}; it takes at least 1")
        if not 0 <= self.seed <= LAST_SEED:
            raise UserError(f"seed is {self.seed}; it takes 0 to {LAST_SEED}")
        for field in ("learning_rate", "sigma"):
            if not 0 < getattr(self, field) < float("inf"):
                raise UserError(f"{field} is {getattr(self, field)}; it takes a positive number")
        if self.optimiser not in OPTIMISERS:
            raise UserError(
                f"optimiser is {self.optimiser!r}; it takes one of {', '.join(OPTIMISERS)}"
            )
        if self.warmup < 0:
            raise UserError(f"warmup is {self.warmup}; it takes 0 or more")
        if not 0 <= self.weight_decay < float("inf"):
            raise UserError(f"weight_decay is {self.weight_decay}; it takes 0 or a positive number")
        if self.clip_norm is not None and not 0 < self.clip_norm < float("inf"):
            raise UserError(
                f"clip_norm is {self.clip_norm}; it takes a positive number, or nothing"
            )
        if not 0 <= self.label_smoothing < 1:
            raise UserError(
                f"label_smoothing is {self.label_smoothing}; it takes a number from 0 to below 1"
            )
        if self.average is not None and not 0 < self.average < 1:
            raise UserError(
                f"average is {self.average}; it takes a number between 0 and 1, or nothing"
            )
        if self.augment and self.data not in ("photos", "folder", "cifar10"):
            raise UserError(f"augment is True; {self.data} takes False")
        if not 0 <= self.feedback_decay < 1:
            raise UserError(
                f"feedback_decay is {self.feedback_decay}; it takes a number from 0 to below 1"
            )
        if not 0 <= self.basis_decay <= 1:
            raise UserError(f"basis_decay is {self.basis_decay}; it takes a number from 0 to 1")
        if self.explained_variance is not None and not 0 < self.explained_variance <= 1:
            raise UserError(
                f"explained_variance is {self.explained_variance}; it takes a number above 0, up "
                "to 1, or nothing"
            )
        if self.devices < 0:
            raise UserError(f"devices is {self.devices}; it takes 0 (all) or more")
        for field in ("features", "strides"):
            if any(value < 1 for value in getattr(self, field)):
                raise UserError(
                    f"{field} is {getattr(self, field)}; it takes numbers of at least 1"
                )
        used = {"image_size": self.data == "folder", "skip_damaged": self.data == "folder",
                "patch": self.model == "vit"}  # fmt: skip
        for field, is_used in used.items():
            got, by_default = getattr(self, field), getattr(Config, field)
            if not is_used and got != by_default:
                raise UserError(
                    f"{field} is {got!r}; {self.model} on {self.data} does not use it and takes "
                    f"{by_default!r}"
                )
        if self.image_size is not None and self.image_size < 1:
            raise UserError(f"image_size is {self.image_size}; it takes at least 1, or nothing")
        large = self.model in ("alexnet", "resnet18", "resnet50")
        if large == bool(self.features):
            takes = "none" if large else "the width of each layer"
            raise UserError(f"features is {self.features}; {self.model} takes {takes}")
        if self.precision != "float32" and not large:
            raise UserError(f"precision is {self.precision!r}; {self.model} takes 'float32'")
        recurrent = self.model in ("leaky", "gru")
        tasks = get_args(TaskName)
        if self.data in tasks and not recurrent:
            raise UserError(f"model is {self.model!r}; {self.data} takes 'leaky' or 'gru'")
        if (self.data == "characters") != (self.model == "transformer"):
            takes = "'transformer'" if self.data == "characters" else "a network of other inputs"
            raise UserError(f"model is {self.model!r}; {self.data} takes {takes}")
        if recurrent and len(self.features) != 1:
            raise UserError(f"features is {self.features}; {self.model} takes one number of units")
        if not 0 < self.leak <= 1:
            raise UserError(f"leak is {self.leak}; it takes a number above 0, up to 1")
        if not 0 <= self.noise < float("inf"):
            raise UserError(f"noise is {self.noise}; it takes 0 or a positive finite number")
        if self.noise and not (self.model == "leaky" and self.data in tasks):
            raise UserError(f"noise is {self.noise}; {self.model} on {self.data} takes 0")
        if not abs(self.rotation) < float("inf"):
            raise UserError(f"rotation is {self.rotation}; it takes a finite number of degrees")
        if self.rotation and self.data != "reach":
            raise UserError(f"rotation is {self.rotation}; {self.data} takes 0")
        if self.data in tasks and self.time_steps < 10:
            raise UserError(f"time_steps is {self.time_steps}; {self.data} takes at least 10")
        if self.probe_rows is not None and self.probe_rows < 1:
            raise UserError(f"probe_rows is {self.probe_rows}; it takes at least 1, or nothing")
        if self.estimator == "one_step" and not recurrent:
            raise UserError(f"estimator is 'one_step'; {self.model} has no recurrent weights")
        if recurrent and mirrors:
            raise UserError(
                f"estimator is {self.estimator!r}, which mirrors layers of Linen; {self.model} "
                "takes weight_mirror"
            )
        if (recurrent or self.data == "characters") and self.estimator in JACOBIANS:
            raise UserError(
                f"estimator is {self.estimator!r}, which takes one Jacobian for all time; "
                f"{self.model} has one for each pair of time steps"
            )
        if self.model == "conv" and len(self.strides) != len(self.features):
            raise UserError(f"strides is {self.strides}; it takes one for each of {self.features}")
        if self.model == "conv" and any(channels % 8 for channels in self.features):
            raise UserError(f"features is {self.features}; conv takes multiples of 8")
        if self.model in ("vit", "transformer") and (
            len(set(self.features)) != 1 or self.features[0] % 4
        ):
            raise UserError(
                f"features is {self.features}; {self.model} takes one multiple of 4 for all blocks"
            )


def seeds_of(config: Config, seeds: int) -> range:
    """Returns a number of seeds, from the configuration's on.

    Raises:
        UserError: if there are none, or the last one is too large.
    """
    if not 1 <= seeds <= LAST_SEED - config.seed + 1:
        raise UserError(
            f"seeds is {seeds}; it takes at least 1, and with the first, {config.seed}, none above "
            f"{LAST_SEED}"
        )
    return range(config.seed, config.seed + seeds)


def config_names() -> list[str]:
    """Lists the configurations that are shipped."""
    return sorted(module.name for module in pkgutil.iter_modules(configs.__path__))


def load_config(name: str) -> Config:
    """Loads one configuration by name.

    Raises:
        UserError: if there is none of that name.
    """
    if name not in config_names():
        raise UserError(f"unknown config {name!r}; there are {', '.join(config_names())}")
    return importlib.import_module(f"experiments.configs.{name}").config
