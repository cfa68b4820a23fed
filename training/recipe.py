"""The recipe of a training: from the command line, in the output folder, in the card. Without TensorFlow."""

import argparse
import datetime
import hashlib
import json
import math
import os
import platform
import re
import shlex
import subprocess
import sys
from argparse import Namespace
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pipeline
from pipeline import Item, View
from weights import find_keras_weights, start_card

ROOT = Path(__file__).resolve().parents[1]
RECIPE_FILE = "recipe.json"


class Recipe(NamedTuple):
    """What decides the weights that a training gives. Defaults: the paper's."""

    model: str = "Meso4"
    steps: int = 4000
    batch_size: int = 75
    learning_rate: float = 1e-3
    schedule: str = "paper"
    loss: str = "mse"
    balance: dict[str, float] | None = None  # {data set: how often it is drawn, the others once}
    pairs: bool = False  # forged faces together with their originals
    degrade: float = 0.0  # strength of augmentation.degrade
    average: float = 0.0  # share that the moving average of the weights keeps at a step; 0 = no average
    seed: int = 0
    resample: str = "nearest"
    zoom: float = pipeline.CROP_ZOOM  # how wide a square is looked at, in widths of the face
    weights: str = ""  # file to start from
    imitate: str = ""  # weights of the other network, to give what its first blocks give
    name: str = "Meso4"  # of the weights files
    data: str = "data"  # folder
    split_by_video: float = 0.0
    faces: str = ""  # fingerprint of the faces, so that a training is resumed on its own
    command: str = ""  # with relative paths only

    @property
    def view(self) -> View:
        return View(self.resample, self.zoom)


def find_fault(arguments: Namespace) -> str:
    """Return what is wrong with the arguments, "" if nothing is."""
    given, output = Recipe()._asdict() | vars(arguments), arguments.output.resolve()
    among = [Path(given["data"], part).resolve() for part in ("training", "validation")]
    least, most = pipeline.SMALLEST_ZOOM, pipeline.CROP_ZOOM
    checks = {
        "--name: must be a file name, as --output says where": given["name"]
        == Path(given["name"]).name
        != "",
        "--output: must not lie among the faces": not any(output.is_relative_to(folder) for folder in among),
        "--split-by-video: must be a share below 1": 0 <= given["split_by_video"] < 1,
        f"--zoom: must be from {least} to {most}": least <= given["zoom"] <= most,
        "--degrade: must be at least 0": 0 <= given["degrade"] < math.inf,
        "--learning-rate: must be above 0": 0 < given["learning_rate"] < math.inf,
        "--average: must be a share below 1": 0 <= given["average"] < 1,
        f"--seed: must be from 0 to {2**32 - 1}": 0 <= given["seed"] < 2**32,
    }
    wrong = next((reason for reason, right in checks.items() if not right), "")
    name = wrong.partition(":")[0].removeprefix("--").replace("-", "_")
    return f"{wrong}, not {given[name]}" if wrong else ""


def make_recipe(arguments: Namespace) -> Recipe:
    """Return the Recipe that the arguments describe, or that of the training to resume.

    Raises ValueError if that is damaged or differs from arguments given; its data may have moved.
    """
    path = arguments.output / RECIPE_FILE
    given = {name: value for name, value in vars(arguments).items() if name in Recipe._fields}
    origins = {name: find_keras_weights(given[name]) for name in ("weights", "imitate") if name in given}
    given |= {name: os.path.abspath(origin.path) for name, origin in origins.items()}
    given["command"] = format_command(arguments.command)
    if arguments.resume:
        try:
            recipe = Recipe(**json.loads(path.read_bytes()))
        except FileNotFoundError:
            raise FileNotFoundError(f"{path}: no such file: there is no training to resume") from None
        except (ValueError, TypeError, RecursionError) as error:
            raise ValueError(f"{path}: damaged ({pipeline.describe_error(error)})") from error
        moved = {"data": os.path.abspath(given.pop("data", recipe.data))}
        check_agreement(recipe, {**given, "command": recipe.command}, arguments.output)
        return recipe._replace(**moved)
    check_new(path.parent)
    view = next((origin.view for origin in origins.values()), View())
    inherited = {"resample": view.resampling, "zoom": view.zoom, "name": given.get("model", Recipe().model)}
    recipe = Recipe(**inherited | given)._replace(data=os.path.abspath(given.get("data", "data")))
    if "imitate" in origins and recipe.view.zoom != view.zoom:
        raise ValueError(f"--imitate {given['imitate']}: needs zoom {view.zoom}, not {recipe.zoom}")
    return recipe


def complete_recipe(recipe: Recipe, arguments: Namespace, items: Sequence[Item]) -> Recipe:
    """Return the Recipe with the steps and the fingerprint of the faces; write it if the training is new.

    Raises ValueError if the training to resume had others.
    """
    names = "\n".join(item.name for item in items)
    found: dict[str, Any] = {"faces": hashlib.sha256(os.fsencode(names)).hexdigest()[:16]}
    if "epochs" in arguments:
        found["steps"] = arguments.epochs * -(-len(items) // recipe.batch_size)
    if arguments.resume:
        check_agreement(recipe, found, arguments.output)
        return recipe
    recipe = recipe._replace(**found)
    check_new(arguments.output)  # again: another run may have begun while the faces were read
    text = json.dumps(recipe._asdict(), indent=1) + "\n"
    pipeline.write_atomically(arguments.output / RECIPE_FILE, lambda path: path.write_text(text))
    return recipe


def check_new(folder: Path) -> None:
    if (folder / RECIPE_FILE).exists():
        raise FileExistsError(f"{folder}: holds a training already: add --resume or another --output")


def check_agreement(recipe: Recipe, given: dict[str, Any], folder: Path) -> None:
    """Raise ValueError when something else is given than the recipe that is resumed."""
    for name, value in given.items():
        if (found := getattr(recipe, name)) != value:
            what = "other faces" if name == "faces" else f"{name} {found}, not {value}"
            raise ValueError(f"{folder}: was trained with {what}: give what it had, or another --output")


def check_shares(recipe: Recipe, items: Iterable[Item]) -> None:
    """Raise ValueError unless the shares of --balance name data sets and leave one to draw."""
    shares, datasets = recipe.balance or {}, {item.dataset for item in items}
    if unknown := sorted(shares.keys() - datasets):
        names = ", ".join(sorted(datasets - {""})) or "none"
        raise ValueError(f"--balance {unknown[0]}: no such data set in training; there are: {names}")
    if not any(shares.get(dataset, 1.0) for dataset in datasets):
        raise ValueError("--balance: must leave a data set to draw")


def read_shares(text: str) -> dict[str, float]:
    """Return {data set: share} from `dfdc=0.5,ffpp=2`. Raises argparse's error if it is anything else."""
    shares = {}
    for word in text.split(","):
        named = re.fullmatch(r"\s*([^=]+)=(\d+\.?\d*|\.\d+)\s*", word)
        if not named or named[1] in shares:
            raise argparse.ArgumentTypeError(f"must be SET=SHARE,..., each set once, not {text}")
        shares[named[1]] = float(named[2])
    return shares


def list_networks() -> list[str]:
    """Return the keys of classifiers.MODELS, read from the text: importing it starts TensorFlow."""
    text = (ROOT / "classifiers.py").read_text(encoding="utf-8")
    models = re.search(r"^MODELS = \{(.*?)\}", text, re.MULTILINE | re.DOTALL)
    return re.findall(r'"(\w+)":', models[1] if models else "")


def format_command(words: Iterable[str]) -> str:
    """Return the command of a script and its arguments, the paths made relative."""
    shown = []
    for word in words:
        option, equals, value = word.rpartition("=")
        shown.append(option + equals + shorten_path(value))
    return shlex.join(["python3", *shown])


def shorten_path(path: str) -> str:
    """Return a path relative to here or to the repository; of one outside both, its last two parts."""
    if not os.path.isabs(path):
        return path
    for base in (Path.cwd(), ROOT):
        if Path(path).is_relative_to(base):
            return str(Path(path).relative_to(base))
    return str(Path(*Path(path).parts[1:][-2:]))


def count_faces(items: Iterable[Item]) -> dict[str, dict[str, int]]:
    """Return {"dataset label": {"images": n, "videos": m}}, sorted; a set without datasets has "" there."""
    videos = defaultdict(list)  # of each image
    for item in items:
        videos[f"{item.dataset} {item.label}".strip()].append(item.video)
    return {name: {"images": len(v), "videos": len(set(v))} for name, v in sorted(videos.items())}


def make_card(recipe: Recipe, training: Iterable[Item], validation: Iterable[Item]) -> dict[str, Any]:
    """Return what a card says of a training. Its paths are relative: it travels with the weights."""
    shown = recipe._asdict()
    command = shown.pop("command")
    shown |= {name: shorten_path(shown[name]) for name in ("weights", "imitate", "data")}
    return {
        **start_card(recipe.model),
        **recipe.view._asdict(),
        "threshold": 0.5,
        "trained_on": count_faces(training),
        "validated_on": count_faces(validation),
        "recipe": shown,
        "command": command,
        **find_commit(),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "versions": {"python": platform.python_version()}
        | {name: sys.modules[name].__version__ for name in ("tensorflow", "keras", "numpy")},
    }


def find_commit() -> dict[str, str]:
    """Return {"commit": of this program}, {} where Git does not say."""
    command = ["git", "rev-parse", "HEAD"]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return {}
    return {"commit": done.stdout.strip()}
