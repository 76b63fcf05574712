"""Checkpoints by Orbax, which are written atomically during training and checked when read."""

import contextlib
import errno
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from experiments.errors import UserError
from experiments.files import read_object, write_whole

KEPT = 2
MANIFESTS = "manifests"
FULL = [os.strerror(number) for number in (errno.ENOSPC, errno.EDQUOT, errno.EROFS)]
"""What the system says where nothing more can be written; Orbax raises it as a ValueError."""


class Checkpoints:
    """The last checkpoints of a run, in one directory.

    Each checkpoint has a manifest with the sha256 of its files, which is written after Orbax has
    finished. A checkpoint without a manifest, or whose files differ from it, is damaged: it is
    reported and moved aside, and the checkpoint before it is used.

    Args:
        directory: directory for only the checkpoints; it is made if it does not exist.
        report: function that is called with a line for each damaged checkpoint.
    """

    def __init__(self, directory: Path, report: Callable[[str], None]):
        self._directory = directory.resolve()
        self._report = report
        self._manifests = self._directory / MANIFESTS
        if jax.process_index() == 0:
            self._manifests.mkdir(parents=True, exist_ok=True)
        _together("made")
        self._manager = self._open()
        self._thread = ThreadPoolExecutor(1)
        self._sealing: Future[None] | None = None

    def _open(self) -> ocp.CheckpointManager:
        options = ocp.CheckpointManagerOptions(max_to_keep=KEPT, create=False)
        handler = ocp.StandardCheckpointHandler()
        return ocp.CheckpointManager(self._directory, options=options, item_handlers=handler)

    def save(self, step: int, tree: Any) -> None:
        """Starts writing a checkpoint; the tree's arrays may be donated when it has returned."""
        self.wait()
        with self._on_a_full_disk():
            self._manager.save(step, args=ocp.args.StandardSave(_named(tree)), force=True)
        self._sealing = self._thread.submit(self._seal)

    def wait(self) -> None:
        """Waits until the last checkpoint is written, and raises its errors.

        Raises:
            UserError: if the disk is full or cannot be written to.
        """
        sealing, self._sealing = self._sealing, None
        if sealing is not None:
            with self._on_a_full_disk():
                sealing.result()

    @contextlib.contextmanager
    def _on_a_full_disk(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            reason = next((reason for reason in FULL if reason in str(error)), None)
            if reason is None:
                raise
            raise UserError(
                f"a checkpoint cannot be written to {self._directory}: {reason}; the checkpoints "
                "before it are whole: when it can be, continue with --resume and --out"
            ) from error

    def _seal(self) -> None:
        self._manager.wait_until_finished()
        if jax.process_index() == 0:
            self._list_files()

    def restore(self, template: Any) -> tuple[int, Any] | None:
        """Reads the last checkpoint that is not damaged.

        Args:
            template: the tree's shapes, dtypes and shardings.

        Returns:
            The step and the tree, or None if there is no checkpoint.

        Raises:
            UserError: if the checkpoint contains another tree.
        """
        for step in sorted(self._manager.all_steps(), reverse=True):
            damage = self._damage(step)
            _together(f"checked {step}")
            if damage is None:
                return step, self._read(step, template)
            self._report(f"checkpoint {step} is damaged ({damage}); trying the one before it")
            if jax.process_index() == 0:
                self._move_aside(step)
            _together(f"moved {step}")
        return None

    def _read(self, step: int, template: Any) -> Any:
        # A new manager does not list the checkpoints that were moved aside.
        self._manager = self._open()
        named = _named(template)
        wanted = {name: tuple(leaf.shape) for name, leaf in named.items()}
        there: Any = self._manager.item_metadata(step)
        found = {name: tuple(leaf.shape) for name, leaf in there.items()}
        for name in sorted(wanted | found):
            if wanted.get(name) != found.get(name):
                raise UserError(
                    f"checkpoint {step} in {self._directory} is of another run: {name} is "
                    f"{found.get(name, 'not there')}, not {wanted.get(name, 'there')}"
                )
        restored = self._manager.restore(step, args=ocp.args.StandardRestore(named))
        return jax.tree.unflatten(jax.tree.structure(template), [restored[name] for name in named])

    def _damage(self, step: int) -> str | None:
        """Returns what is wrong with a checkpoint, or None."""
        manifest = self._manifests / f"{step}.json"
        if not manifest.exists():
            return "it has no manifest, because writing was interrupted"
        try:
            listed = read_object(manifest)
        except UserError:
            return "its manifest is damaged"
        found = _digests(self._directory / str(step))
        wrong = sorted(name for name in listed | found if listed.get(name) != found.get(name))
        return f"{wrong[0]} is not as it was written" if wrong else None

    def _move_aside(self, step: int) -> None:
        aside = self._directory / "damaged"
        aside.mkdir(exist_ok=True)
        number = len(list(aside.iterdir()))
        (self._directory / str(step)).rename(aside / f"{step}-{number}")
        (self._manifests / f"{step}.json").unlink(missing_ok=True)

    def _list_files(self) -> None:
        """Writes the manifests of complete checkpoints, and removes those of removed ones."""
        whole = {path.name for path in self._directory.iterdir() if path.name.isdecimal()}
        listed = {path.stem for path in self._manifests.glob("*.json")}
        for step in whole - listed:
            digests = json.dumps(_digests(self._directory / step), indent=1)
            write_whole(self._manifests / f"{step}.json", digests)
        for step in listed - whole:
            (self._manifests / f"{step}.json").unlink(missing_ok=True)

    def close(self) -> None:
        """Waits until everything is written."""
        self.wait()
        self._thread.shutdown()
        with self._on_a_full_disk():
            self._manager.close()


def _named(tree: Any) -> dict[str, Any]:
    """Returns path to leaf, so that Orbax is given neither NamedTuples nor empty nodes."""
    return {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree.leaves_with_path(tree)}


def _digests(directory: Path) -> dict[str, str]:
    digests = {}
    for path in sorted(directory.rglob("*")):
        if path.is_file():
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            digests[str(path.relative_to(directory))] = digest
    return digests


def _together(name: str) -> None:
    """Waits for the other processes, if there are any."""
    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices(f"checkpoints: {name}")
