"""Checkpoints: everything needed to resume a training exactly. TensorFlow is not imported."""

import csv
import json
import re
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import pipeline
from training.recipe import Recipe

CHECKPOINT_NAME = re.compile(r"checkpoint-\d{5,}\.npz")
KEPT = 2  # the last ones; should one be damaged, the training goes on from the other
# what reading a file of untrusted content may raise
UNREADABLE = (
    OSError, EOFError, ValueError, KeyError, TypeError, AttributeError, MemoryError, RecursionError,
    zipfile.BadZipFile, zlib.error,
)  # fmt: skip


class DamagedCheckpointError(Exception):
    """A checkpoint that cannot be read."""


class TrainingState(NamedTuple):
    """Where a training stands; with the variables, all that a checkpoint holds."""

    epoch: int = 0  # completed
    best: float = -1.0  # best validation AUC
    best_epoch: int = 0
    history: tuple[dict[str, Any], ...] = ()  # of each epoch
    finished: bool = False


def find_checkpoints(folder: str | Path) -> list[Path]:
    """Return the checkpoints in a folder, oldest first."""
    found = Path(folder).glob("checkpoint-*.npz")
    return sorted(path for path in found if CHECKPOINT_NAME.fullmatch(path.name) and path.is_file())


def write_checkpoint(
    folder: Path, recipe: Recipe, state: TrainingState, values: Sequence[np.ndarray]
) -> None:
    """Write the checkpoint of an epoch; remove all but the last two."""
    arrays: dict[str, Any] = {f"variable_{i}": value for i, value in enumerate(values)}
    arrays["header"] = json.dumps({"recipe": recipe._asdict(), "state": state._asdict()})
    path = folder / f"checkpoint-{state.epoch:05}.npz"
    pipeline.write_atomically(path, lambda part: np.savez(part, **arrays))
    for old in find_checkpoints(folder)[:-KEPT]:
        old.unlink()


def read_checkpoint(path: Path) -> tuple[Recipe, TrainingState, list[np.ndarray]]:
    """Return what `write_checkpoint` wrote. Raises DamagedCheckpointError when it cannot be read."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            header = json.loads(str(arrays["header"]))
            values = [arrays[f"variable_{i}"] for i in range(len(arrays) - 1)]
        recipe = Recipe(**header["recipe"])
        state = TrainingState(**{**header["state"], "history": tuple(header["state"]["history"])})
        if any(not np.isfinite(value).all() for value in values):
            raise ValueError("weights that are not finite")
    except UNREADABLE as error:
        raise DamagedCheckpointError(f"{path}: damaged ({pipeline.describe_error(error)})") from error
    return recipe, state, values


def write_history(path: Path, history: Sequence[dict[str, Any]]) -> None:
    def write(part: Path) -> None:
        with open(part, "w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, history[0])
            writer.writeheader()
            writer.writerows(history)

    pipeline.write_atomically(path, write)
