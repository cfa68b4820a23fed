"""The recipe of a training: from the command line, in the output folder, in the card. Without TensorFlow."""

import contextlib
import datetime
import hashlib
import json
import os
import platform
import re
import shlex
import subprocess
import sys
from argparse import Namespace
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pipeline
from pipeline import Item, View
from weights import find_keras_weights, write_card
from weights.scoring.metrics import group_by, parse_forgery

RECIPE_FILE = "recipe.json"


class Recipe(NamedTuple):
    """What decides the weights that a training gives. Defaults: the paper's."""

    model: str = "Meso4"
    steps: int = 4000
    batch_size: int = 75
    learning_rate: float = 1e-3
    schedule: str = "paper"
    loss: str = "mse"
    dropout: float = 0.5  # share of the features that a step leaves out, before each dense layer
    balance: dict[str, float] | None = None  # {data set: how often it is drawn, others 1}
    pairs: bool = False  # forged faces together with their originals
    degrade: float = 0.0  # strength of augmentation.degrade
    average: float = 0.0  # share that the moving average of the weights keeps at a step; 0 = no average
    seed: int = 0
    resample: str = "nearest"
    zoom: float = pipeline.CROP_ZOOM  # how wide a square is looked at, in widths of the face
    weights: str = ""  # file to start from
    experts: Sequence[str] = ()  # forgeries that the experts in it know
    name: str = "Meso4"  # of the weights files
    data: str = "data"  # folder
    split_by_video: float = 0.0
    faces: str = ""  # fingerprint of the faces, so that a training is resumed on its own
    command: str = ""  # with relative paths only

    @property
    def view(self) -> View:
        return View(self.resample, self.zoom)


def make_recipe(arguments: Namespace, command: Iterable[str]) -> Recipe:
    """Return the Recipe that the arguments describe, or that of the training to resume.

    Raises OSError or ValueError if there is no such training, or too many options; its data may have moved.
    """
    path = arguments.output / RECIPE_FILE
    given = {name: value for name, value in vars(arguments).items() if name in Recipe._fields}
    if arguments.resume:
        if given.keys() - {"data"}:
            raise ValueError("--resume: must be given with --output and --data only: it keeps its recipe")
        try:
            recipe = Recipe(**json.loads(path.read_bytes()))
        except FileNotFoundError:
            raise FileNotFoundError(f"{path}: no such file: there is no training to resume") from None
        except (ValueError, TypeError, RecursionError) as error:
            raise ValueError(f"{path}: damaged ({pipeline.describe_error(error)})") from error
        return recipe._replace(data=os.path.abspath(given.get("data", recipe.data)))
    if path.exists():
        raise FileExistsError(f"{path.parent}: holds a training: --resume it, or give another --output")
    inherited = {"name": given.get("model", Recipe().model)}
    if "weights" in given:
        origin = find_keras_weights(given["weights"])
        given["weights"] = str(origin.path)
        inherited |= {"resample": origin.view.resampling, "zoom": origin.view.zoom}
        inherited["experts"] = [*origin.card.get("experts", ())]
    given["data"] = os.path.abspath(given.get("data", Recipe().data))
    given["command"] = shlex.join(["python3", *map(shorten, command)])
    return Recipe(**inherited | given)


def complete_recipe(recipe: Recipe, items: Sequence[Item], folder: Path) -> Recipe:
    """Return the Recipe with the faces' fingerprint, and write it. ValueError: a resumed one had others."""
    faces = hashlib.sha256(os.fsencode("\n".join(item.name for item in items))).hexdigest()[:16]
    if recipe.faces not in ("", faces):
        raise ValueError(f"{folder}: was trained with other faces: give those, or another --output")
    recipe = recipe._replace(faces=faces)
    write_card(folder / RECIPE_FILE, recipe._asdict())
    return recipe


def shorten(word: str) -> str:
    """Return a word of a command, or a path, without the folders of this machine."""
    return re.sub(r"(^|=)(/|\w:\\).*[/\\]", r"\1", word)


def count_faces(items: Iterable[Item]) -> dict[str, dict[str, int]]:
    """Return {"dataset label": {"images": n, "videos": m}}, sorted; or {"label": ...} without data sets."""
    sets = sorted(group_by(items, lambda i: f"{i.dataset} {i.label}".strip()).items())
    return {name: {"images": len(own), "videos": len({i.video for i in own})} for name, own in sets}


def make_card(recipe: Recipe, training: Sequence[Item], validation: Sequence[Item]) -> dict[str, Any]:
    """Return what a card says of a training. It names no folder of this machine."""
    shown = {k: shorten(v) if isinstance(v, str) else v for k, v in recipe._asdict().items()}
    command, commit = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"], ""
    with contextlib.suppress(OSError):  # there is no git
        commit = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    return {
        "experts": shown.pop("experts"),
        **recipe.view._asdict(),
        "threshold": 0.5,
        "forgeries": sorted({parse_forgery(item)[0] for item in training} - {""}),
        "trained_on": count_faces(training),
        "validated_on": count_faces(validation),
        "command": shown.pop("command"),
        "recipe": shown,
        "commit": commit,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "versions": {"python": platform.python_version()}
        | {name: sys.modules[name].__version__ for name in ("tensorflow", "keras", "numpy")},
    }
