"""The section `Data` of a configuration."""

import dataclasses
from typing import Literal, get_args

from experiments.configuration.section import Section
from experiments.errors import UserError

DATA_DIR = "~/tensorflow_datasets"
AUGMENTED = ("photos", "folder", "cifar10")
TaskName = Literal["flip_flop", "context", "match", "evidence", "reach"]
TASK_NAMES: tuple[str, ...] = get_args(TaskName)


@dataclasses.dataclass(frozen=True)
class Data(Section):
    """The data."""

    data: Literal[
        "digits", "mnist5k", "photos", "folder", "cifar10", "imagenet2012", "characters", TaskName
    ]
    """Data set (characters: text, in which each character is predicted from the earlier ones), or
    task of a recurrent network: flip-flop memory, context-dependent integration, delayed match to
    sample, accumulation of evidence, or centre-out reaching."""
    data_dir: str = DATA_DIR
    """Directory in which cifar10 and imagenet2012 were prepared."""
    data_path: str = ""
    """folder: images in train/<class>/ and test/<class>/ (or val), or an archive of them.
    imagenet2012: extracted images in train/<class>/ and val/, read during training, with any number
    of classes; by default the data set that was prepared in data_dir."""
    image_size: int | None = None
    """folder only: side to which images are resized; by default all images must have one size."""
    skip_damaged: bool = False
    """folder only: leave out images that cannot be read, count them and list them with the reasons;
    by default the first such image is an error."""
    variant: Literal["plain", "hard"] = "plain"
    """photos only: "hard" removes colour, brightness and contrast as cues."""
    validation: bool = False
    """Test on a held-out part of the training set instead of the test set, to choose settings."""
    train_images: int | None = None
    """Image data sets in memory only: number of training images, chosen by a fixed random order; by
    default all are used."""
    augment: bool = False
    """photos, folder and cifar10 only: shift training images randomly by up to an eighth of their
    side and mirror half of them. Images of imagenet2012 are always cropped and mirrored."""
    distort: Literal["jitter", "randaugment"] | None = None
    """imagenet2012 only: also distort training images. jitter: brightness, contrast and saturation
    change by up to 40 %, in random order. randaugment: two random operations of RandAugment's 14,
    at strength 9 of 30."""
    time_steps: int = 50
    """Time steps of a trial (tasks), or characters of a sequence (characters)."""
    rotation: float = 0.0
    """reach only: degrees by which the correct end point is rotated from the displayed target."""

    @property
    def name(self) -> str:
        """Name of the data set or the task."""
        return self.data

    @property
    def is_task(self) -> bool:
        """Whether it is a task of a recurrent network."""
        return self.data in TASK_NAMES

    def __post_init__(self) -> None:
        """Checks that the fields fit the data set.

        Raises:
            UserError: if a field does not fit.
        """
        self.counts("image_size", "time_steps", "train_images")
        if self.train_images and (self.is_task or self.data in ("characters", "imagenet2012")):
            self.refuse("train_images", f"{self.data} takes none")
        if self.variant == "hard" and self.data != "photos":
            raise UserError(f"variant is 'hard' with data {self.data!r}; only photos has one")
        if self.data == "folder" and not self.data_path:
            raise UserError("data_path is '' with data 'folder'; it takes a path")
        if self.data_path and self.data not in ("folder", "imagenet2012"):
            raise UserError(
                f"data_path is {self.data_path!r} with data {self.data!r}; 'folder' and "
                "'imagenet2012' take a path, the others none"
            )
        if self.augment and self.data not in AUGMENTED:
            self.refuse("augment", f"{self.data} takes False")
        if self.distort and self.data != "imagenet2012":
            self.refuse("distort", f"{self.data} takes None")
        self.require("rotation", abs(self.rotation) < float("inf"), "a finite number of degrees")
        if self.rotation and self.data != "reach":
            self.refuse("rotation", f"{self.data} takes 0")
        if self.is_task and self.time_steps < 10:
            self.refuse("time_steps", f"{self.data} takes at least 10")
