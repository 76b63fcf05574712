"""Rehearses training on ImageNet, which is made: python -m benchmarks.rehearsal.

Archives with the official names and layout, of 1,000 classes of small JPEGs, are prepared. A narrow
ResNet-18 trains on them for 20 steps by `nmnc`, as two processes of four simulated devices each.
Both processes are killed after a checkpoint, and the same command resumes the run, which is tested
on the validation images. Its measurements are compared with those of a run that was not killed.
"""

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.common import Row, parse, print_table, write_table
from benchmarks.made_imagenet import encoded, photo, write_archives
from benchmarks.processes import QUICK, outputs_of, start_together
from experiments.data.builders import LABELS, tfds
from experiments.files import read_records
from experiments.training.loop import TIMES

CLASSES, IMAGES, VALIDATION = 1000, 2, 64
"""Number of classes, of training images of each, and of validation images."""
STEPS, KILLED_AT = 20, 10
DEVICES = 4
CONFIG = [
    *("imagenet_resnet18_nmnc", "--channels", "8", "--rank", "8", "--batch", "16"),
    *("--steps", str(STEPS), "--warmup", "5", "--log-every", "5", "--checkpoint-every", "5"),
    *("--basis-batch", "32", "--alignment-batch", "32"),
]
TIMEOUT = 3600


def main() -> None:
    """Runs the rehearsal and writes rehearsal.csv."""
    options = parse("rehearsal", __doc__ or "")
    rows: list[Row] = []

    @contextmanager
    def part(name: str) -> Iterator[None]:
        print(name, flush=True)
        start = time.perf_counter()
        yield
        rows.append({"part": name, "seconds": time.perf_counter() - start})

    with tempfile.TemporaryDirectory() as directory:
        archives, prepared, killed, straight = (
            Path(directory) / name for name in ("archives", "prepared", "killed", "straight")
        )
        archives.mkdir()
        with part("make archives"):
            make_archives(archives)
        with part("prepare"):
            prepare(archives, prepared)
        with part("train and kill"):
            train_and_kill(prepared, killed)
        with part("resume and test"):
            printed = train(prepared, killed)
        with part("train without a kill"):
            train(prepared, straight)
        resumed, measured = measurements(killed), measurements(straight)
    write_table(options.out / "rehearsal.csv", rows)
    print_table(rows, ["part", "seconds"])
    print(printed.strip().splitlines()[-1])
    assert [record["step"] for record in measured] == [0, 5, 10, 15, 20]
    same = "the same measurements as" if resumed == measured else "OTHER MEASUREMENTS than"
    print(f"the resumed run has {same} the one that was not killed")
    if resumed != measured:
        sys.exit(1)


def make_archives(directory: Path) -> None:
    """Makes the archives of small JPEGs."""
    names = tfds.core.tfds_path(LABELS).read_text().split()[:CLASSES]
    training = {
        name: [encoded(photo(IMAGES * number + k)) for k in range(IMAGES)]
        for number, name in enumerate(names)
    }
    validation = {k: encoded(photo(-k % 2**32)) for k in range(1, VALIDATION + 1)}
    write_archives(directory, training, validation)


def prepare(archives: Path, prepared: Path) -> None:
    """Prepares the data set by the command of a real run."""
    command = [sys.executable, "-m", "experiments.prepare", "imagenet2012", "--no-verify"]
    command += ["--archive", str(archives), "--data-dir", str(prepared)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def start(prepared: Path, out: Path) -> list[subprocess.Popen[str]]:
    """Starts or resumes the run."""
    arguments = [*CONFIG, "--data-dir", str(prepared), "--out", str(out), "--resume"]
    flags = [*QUICK, f"--xla_force_host_platform_device_count={DEVICES}"]
    return start_together(arguments, flags)


def train(prepared: Path, out: Path) -> str:
    """Trains to the end, and returns what the first process prints."""
    return outputs_of(start(prepared, out), TIMEOUT)[0]


def train_and_kill(prepared: Path, out: Path) -> None:
    """Trains until a checkpoint in the middle is complete, and kills both processes."""
    processes = start(prepared, out)
    middle = out / "checkpoints" / "manifests" / f"{KILLED_AT}.json"
    while not middle.exists():
        if any(process.poll() is not None for process in processes):
            outputs_of(processes, TIMEOUT)
            raise RuntimeError(f"the run ended before step {KILLED_AT}")
        time.sleep(0.05)
    for process in processes:
        process.kill()
        process.communicate()
    if (out / "summary.json").exists():
        raise RuntimeError("the run ended before it was killed")


def measurements(out: Path) -> list[Row]:
    """Returns every measurement except times."""
    records = read_records(out / "metrics.jsonl")
    return [{k: v for k, v in record.items() if k not in TIMES} for record in records]


if __name__ == "__main__":
    main()
