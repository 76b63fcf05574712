"""The speed and memory of reading ImageNet: python -m benchmarks.reading.

The benchmark makes an extracted ImageNet of parts of two photographs in the usual size (500 x 375
pixels, about 100 kB each). It measures images per second of CPU time, which is the speed of one
core, for decoding a whole image, and for a training image as it is cropped, mirrored and distorted,
by the batches that training takes. A process that reads batches from a folder measures its resident
memory, for folders with more and more images, which are links to the same files.
"""

import dataclasses
import os
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from benchmarks.common import Row, parse, print_table, progress, save, write_table
from benchmarks.made_imagenet import encoded
from experiments.data.distortion import DISTORTIONS
from experiments.data.extracted import open_extracted
from experiments.data.imagenet import ImageNet, stream_imagenet
from experiments.data.pictures import picture

WIDTH, HEIGHT, QUALITY = 500, 375, 97
BATCH = 256
PUBLISHED = {"decode, Pillow (published)": 537, "decode, tf.io (published)": 596}
"""Images per second of one thread that decodes ImageNet's validation images on an AMD EPYC 9B14:
Iglovikov and Kosarevsky 2026, arXiv 2605.08731."""


def photos(count: int, seed: int) -> Iterator[bytes]:
    """Yields encoded parts of scikit-learn's two photographs."""
    from sklearn.datasets import load_sample_images

    whole = [Image.fromarray(array) for array in load_sample_images().images]
    random = np.random.default_rng(seed)
    for number in range(count):
        image = whole[number % len(whole)]
        left = int(random.integers(image.width - WIDTH + 1))
        top = int(random.integers(image.height - HEIGHT + 1))
        part = image.crop((left, top, left + WIDTH, top + HEIGHT))
        yield encoded(part, quality=QUALITY)


def make_folder(path: Path, contents: list[bytes], images: int, classes: int) -> None:
    """Writes an extracted ImageNet, in which most images are links to the first ones."""
    originals = path / "originals"
    originals.mkdir(parents=True)
    for number, content in enumerate(contents):
        (originals / str(number)).write_bytes(content)
    for part, total in (("train", images), ("val", classes)):
        for label in range(classes):
            folder = path / part / f"n{label:08}"
            folder.mkdir(parents=True)
            for number in range(label, total, classes):
                source = originals / str(number % len(contents))
                os.symlink(source, folder / f"{folder.name}_{number}.JPEG")


def read_batches(data: ImageNet, batches: int) -> float:
    """Reads batches as training does, and returns the images per second of CPU time."""
    rows = np.arange(BATCH)
    start = time.process_time()
    for _ in data.train_batches(BATCH, 0, steps=range(batches), rows=rows):
        pass
    return batches * BATCH / (time.process_time() - start)


def speeds(path: Path, contents: list[bytes], repeats: int) -> list[Row]:
    """Measures what one core reads."""
    data = stream_imagenet(path, validation=False)

    def decode() -> float:
        start = time.process_time()
        for content in contents:
            picture(content, "image", None)
        return len(contents) / (time.process_time() - start)

    measured = {"decode": decode, "crop and mirror": lambda: read_batches(data, 2)}
    for name in DISTORTIONS:
        distorted = dataclasses.replace(data, distort=name)
        measured[name] = lambda data=distorted: read_batches(data, 2)
    found: dict[str, list[float]] = {name: [] for name in measured}
    for _ in progress("speed", range(repeats)):
        for name, measure in measured.items():
            found[name].append(measure())
    rows: list[Row] = [
        {"part": "speed", "what": what, "images_per_core_second": float(np.median(values)),
         "low": min(values), "high": max(values)}
        for what, values in found.items()
    ]  # fmt: skip
    return rows + [
        {"part": "speed", "what": what, "images_per_core_second": float(value)}
        for what, value in PUBLISHED.items()
    ]


def largest_memory(path: Path) -> float:
    """Reads batches of a folder, and returns the process's largest resident memory in GB."""
    read_batches(stream_imagenet(path, validation=False), 8)
    # Unlike getrusage, this does not count the memory of the process that began this one.
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1e6


def memory(path: Path) -> float:
    """Returns `largest_memory` of a new process."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(largest_memory, path).result()


def draw(rows: list[Row]) -> Figure:
    """Draws images per core second, and memory over the number of images."""
    figure = Figure(figsize=(10, 3.4), layout="constrained")
    speed, held = figure.subplots(1, 2)
    some = [row for row in rows if row["part"] == "speed"]
    values = np.array([row["images_per_core_second"] for row in some])
    ends = np.array([[row.get("low", v), row.get("high", v)]
                     for row, v in zip(some, values, strict=True)])  # fmt: skip
    colours = ["gray" if "published" in row["what"] else "tab:blue" for row in some]
    spread = np.abs(ends - values[:, None]).T
    speed.barh([row["what"] for row in some], values, xerr=spread, color=colours)
    speed.invert_yaxis()
    speed.set(title="speed of one core", xlabel="images per second")
    some = [row for row in rows if row["part"] == "memory"]
    held.plot([row["images"] for row in some], [row["gigabytes"] for row in some], "o-")
    held.axhline(2, color="gray", linestyle=":", label="goal")
    held.set(xscale="log", ylim=(0, None), title="memory of a process that reads a folder",
             xlabel="images in the folder", ylabel="largest resident memory, GB")  # fmt: skip
    held.legend()
    return figure


def main() -> None:
    """Measures, and writes reading.csv and reading.png."""
    options = parse("reading", __doc__ or "")
    contents = list(photos(512, options.seed))
    print(f"{np.mean([len(content) for content in contents]) / 1e3:.0f} kB an image")
    rows: list[Row] = []
    counts = [10_000, 100_000] + [1_281_167] * options.full
    for images in progress("memory", counts):
        with tempfile.TemporaryDirectory() as directory:
            path = Path(directory)
            make_folder(path, contents, images, classes=1000)
            assert len(open_extracted(path).train) == images
            rows.append({"part": "memory", "images": images, "gigabytes": memory(path)})
            if images == counts[0]:
                rows += speeds(path, contents, repeats=5)
    write_table(options.out / "reading.csv", rows)
    print_table([row for row in rows if row["part"] == "speed"],
                ["what", "images_per_core_second", "low", "high"])  # fmt: skip
    print_table([row for row in rows if row["part"] == "memory"], ["images", "gigabytes"])
    save(draw(rows), options.out / "reading.png")


if __name__ == "__main__":
    main()
