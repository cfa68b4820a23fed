"""What a training leaves to score with: weights, and the card that says how they are used."""

import datetime
import json
import os
import platform
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pipeline
from training import data
from training.recipe import Plan, shorten_path
from weights import check_room, name_card, start_card

if TYPE_CHECKING:
    from classifiers import Classifier


def make_card(plan: Plan, training: data.FaceSet, validation: data.FaceSet) -> dict[str, Any]:
    """Return what a card says of a training. Its paths are relative: it travels with the weights."""
    recipe = plan.recipe
    recipe = recipe._replace(weights=shorten_path(recipe.weights), imitate=shorten_path(recipe.imitate))
    return {
        **start_card(recipe.model),
        **recipe.view._asdict(),
        "threshold": 0.5,
        "trained_on": data.count_faces(training.images),
        "validated_on": data.count_faces(validation.images),
        "recipe": recipe._asdict(),
        **({"soft_labels": shorten_path(plan.soft_labels)} if plan.soft_labels else {}),
        "command": plan.command,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "versions": {"python": platform.python_version()}
        | {name: sys.modules[name].__version__ for name in ("tensorflow", "keras", "numpy")},
    }


def write_best(classifier: "Classifier", stem: Path, card: dict[str, Any]) -> None:
    """Write `stem`.weights.h5 and its card; remove the .tflite, which another epoch's weights gave."""
    Path(f"{stem}.tflite").unlink(missing_ok=True)
    _write_with_card(stem, ".weights.h5", classifier.save, card | {"sha256": {}})


def write_litert(classifier: "Classifier", stem: Path) -> dict[str, Any]:
    """Write `stem`.tflite, unless it is there, and name it in the card. Returns the card."""
    card_path = name_card(Path(f"{stem}.weights.h5"))
    card = json.loads(card_path.read_bytes())
    if f"{stem.name}.tflite" not in card["sha256"] or not Path(f"{stem}.tflite").is_file():
        with pipeline.silence_native_stderr():
            _write_with_card(stem, ".tflite", classifier.export, card)
    return card


def _write_with_card(stem: Path, ending: str, write: Callable[[Path], None], card: dict[str, Any]) -> None:
    """Write a file and the card that names its SHA-256, the second right after the first.

    Both are complete before either is seen, so a full disk leaves the pair that was there. Only a kill
    between the two renames leaves a card that refuses its file; `--resume` writes both anew.
    """
    check_room(stem.parent)
    with tempfile.TemporaryDirectory(dir=stem.parent, prefix=".writing-") as folder:
        file, card_file = Path(folder, stem.name + ending), Path(folder, stem.name + ".json")
        write(file)
        card["sha256"][file.name] = pipeline.compute_sha256(file)
        card_file.write_text(json.dumps(card, indent=1) + "\n", encoding="utf-8")
        for path in (file, card_file):
            os.replace(path, stem.parent / path.name)
