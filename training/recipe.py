"""The recipe of a training: from flags, and in the output folder. TensorFlow is not imported."""

import argparse
import json
import os
import shlex
from argparse import Namespace
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import pipeline

ROOT = Path(__file__).resolve().parents[1]
RECIPE_FILE = "recipe.json"


class Recipe(NamedTuple):
    """What decides the weights that a training gives, besides the faces. Defaults: the paper's."""

    model: str = "Meso4"
    steps: int = 4000
    batch_size: int = 75
    learning_rate: float = 1e-3
    schedule: str = "paper"
    loss: str = "mse"
    balance: bool = False
    pairs: bool = False  # forged faces together with their originals
    # {data set: how often it is drawn, where the others are drawn once}; never changed
    shares: dict[str, float] = {}  # noqa: RUF012
    degrade: float = 0.0  # strength of augmentation.degrade
    # how the faces were changed beforehand, if make_views.py did; training then only mirrors them
    views: dict[str, Any] = {}  # noqa: RUF012
    average: float = 0.0  # share that the moving average of the weights keeps at a step; 0 = no average
    seed: int = 0
    patience: int = 0  # epochs without improvement before training ends; 0 = never
    resample: str = "nearest"
    zoom: float = pipeline.CROP_ZOOM  # how wide a square is looked at, in widths of the face
    weights: str = ""  # file to start from
    freeze: int = 0  # blocks that keep their weights
    imitate: str = ""  # weights of the other network, to give what its first blocks give
    name: str = "Meso4"  # of the weights files
    faces: str = ""  # fingerprint of the faces and labels, so that a training is resumed on its own

    @property
    def view(self) -> pipeline.View:
        return pipeline.View(self.resample, self.zoom)


class Plan(NamedTuple):
    """A training as it was asked for; written to RECIPE_FILE before the first step, to resume from."""

    recipe: Recipe
    data: str  # folder
    split_by_video: float
    command: str  # with relative paths only
    soft_labels: str = ""  # table of scores to learn instead of 0 and 1


def write_plan(folder: Path, plan: Plan) -> None:
    text = json.dumps(plan._asdict() | {"recipe": plan.recipe._asdict()}, indent=1) + "\n"
    pipeline.write_atomically(folder / RECIPE_FILE, lambda path: path.write_text(text))


def read_plan(folder: Path) -> Plan | None:
    """Return the Plan of the training in a folder, None if there is none. Raises ValueError if damaged."""
    path = folder / RECIPE_FILE
    if not path.is_file():
        return None
    try:
        found = json.loads(path.read_bytes())
        return Plan(**found | {"recipe": Recipe(**found["recipe"])})
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(
            f"{path}: damaged ({pipeline.describe_error(error)}): train in another folder"
        ) from error


def check_agreement(recipe: Recipe, given: dict[str, Any], where: Path) -> None:
    """Raise ValueError when a flag given asks for something else than the recipe that is resumed."""
    for name, value in given.items():
        found = getattr(recipe, name)
        if found != value:
            raise ValueError(
                f"{where}: was trained with {name} {found}, not {value}: "
                "resume without that flag, or train in another folder"
            )


def read_shares(text: str) -> dict[str, float]:
    """Return {data set: share} from `dfdc=0.5,ffpp=2`. Raises argparse's error if it is anything else."""
    shares: dict[str, float] = {}
    for word in text.split(","):
        dataset, _, number = word.strip().partition("=")
        if not dataset or not number or dataset in shares:
            raise argparse.ArgumentTypeError(f"must be SET=SHARE,..., each set once, not {text}")
        shares[dataset] = pipeline.read_amount(number)
    return shares


def collect_given(arguments: Namespace) -> dict[str, Any]:
    """Return the fields of Recipe that flags were given for."""
    return {name: value for name, value in vars(arguments).items() if name in Recipe._fields}


def format_command(words: Iterable[str]) -> str:
    """Return the command that ran df_CNN.py with these arguments, its paths made relative."""
    shown = []
    for word in words:
        option, equals, value = word.rpartition("=")
        shown.append(option + equals + shorten_path(value))
    return shlex.join(["python3", "training/df_CNN.py", *shown])


def shorten_path(path: str) -> str:
    """Return a path relative to here or to the repository; of one outside both, its last two parts."""
    if not os.path.isabs(path):
        return path
    for base in (Path.cwd(), ROOT):
        if Path(path).is_relative_to(base):
            return str(Path(path).relative_to(base))
    return str(Path(*Path(path).parts[1:][-2:]))
