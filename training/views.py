"""Views: faces as training changes them, written as images, so that another network can score them.

Training on its scores of the very views that it saw is distillation with consistent views (Beyer et al.,
"Knowledge distillation: a good teacher is patient and consistent", CVPR 2022).
"""

import functools
import itertools
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

import pipeline
from pipeline import Item
from training import augmentation, data, draws

NOTE = "views.json"  # beside training/ and validation/: how the views were made
BATCH_SIZE = 50


def read_note(folder: Path) -> dict[str, Any]:
    """Return how the views in a folder were made, {} if it holds none. Raises ValueError if damaged."""
    path = folder / NOTE
    if not path.is_file():
        return {}
    try:
        note = json.loads(path.read_bytes())
        resampling, zoom = note["resampling"], float(note["zoom"])
        if resampling not in pipeline.RESAMPLING or not pipeline.SMALLEST_ZOOM <= zoom <= pipeline.CROP_ZOOM:
            raise ValueError(f"resampling {resampling}, zoom {zoom}")
        return dict(note, zoom=zoom)
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise ValueError(f"{path}: damaged ({pipeline.describe_error(error)})") from error


def write_views(
    source: Path,
    target: Path,
    face_set: data.FaceSet,
    note: Mapping[str, Any],
    watch: pipeline.Watch[tuple[Item, int, np.ndarray]] = iter,
) -> None:
    """Write note["count"] views of faces in `source`/training to `target`, which must not exist.

    `source`/validation is copied as it is. `note` also holds resampling and zoom, with which the faces were
    read, degrade, shares and seed. `watch` wraps the iterator over views: a progress bar.
    Raises OSError; then nothing is left.
    """
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".writing-") as scratch:
        folder = Path(scratch, target.name)
        if (source / "validation").is_dir():
            try:
                shutil.copytree(source / "validation", folder / "validation")
            except shutil.Error as error:
                path, _, reason = error.args[0][0]
                raise OSError(f"{path}: cannot be copied ({reason})") from error
        views = change_faces(face_set, note["count"], note["degrade"], note["seed"], note["shares"])
        write = functools.partial(_write_view, source / "training", folder / "training", note["zoom"])
        watched = iter(watch(views))
        with ThreadPoolExecutor() as pool:
            while part := list(itertools.islice(watched, BATCH_SIZE)):
                list(pool.map(write, part))
        (folder / NOTE).write_text(json.dumps(note, indent=1) + "\n")
        os.replace(folder, target)


def change_faces(
    face_set: data.FaceSet, count: int, strength: float, seed: int, shares: Mapping[str, float]
) -> Iterator[tuple[Item, int, np.ndarray]]:
    """Yield `count` times (Item, number of the view, the face changed, uint8 (256, 256, 3)).

    Drawn as `draws.draw_pairs` does: after a forged face comes its original, with the same number and
    changed alike. A forged face is left out where no place was left for its original.
    """
    random = np.random.default_rng(seed)
    partners = draws.pair_faces(face_set.images)
    steps = -(-count // (BATCH_SIZE - 1))
    order, places = draws.draw_pairs(face_set.images, steps, BATCH_SIZE, random, shares)
    changes = random.uniform(-1, 1, (steps, BATCH_SIZE, augmentation.CHANGES + augmentation.NUMBERS))
    changes = np.take_along_axis(changes.astype(np.float32), places[..., None], 1)
    numbers = places + BATCH_SIZE * np.arange(steps)[:, None]
    batches = data.make_batches(face_set, order, changes, degrade=strength, threads=os.cpu_count() or 1)

    def draw() -> Iterator[tuple[Item, int, np.ndarray]]:
        for indices, row, (faces, _) in zip(order, numbers, batches, strict=True):
            alone = partners[indices[-1]] >= 0  # a forged face: its original did not fit into the batch
            for place in range(BATCH_SIZE - alone):
                face = np.round(255 * faces[place].numpy()).astype(np.uint8)
                yield face_set.images[indices[place]], int(row[place]), face

    yield from itertools.islice(draw(), count)


def name_view(image: Item, source: Path, number: int) -> Path:
    """Return where a view of an image in `source` goes, below its folder: of the same data set and video.

    A name that tells a data set and a video keeps them. Others become a folder named after the video, or
    after the image if no video is known.
    """
    below = Path(image.label, *image.path.relative_to(source).parts[1:-1])
    view = f"{number:06}view.png"
    if image.dataset:
        return below / f"{image.path.stem.rpartition('-')[0]}-{view}"
    if image.video == str(image.path):
        return below / image.path.stem / view
    return Path(image.label, image.video, view)


def _write_view(source: Path, target: Path, zoom: float, changed: tuple[Item, int, np.ndarray]) -> None:
    image, number, face = changed
    path = target / name_view(image, source, number)
    path.parent.mkdir(parents=True, exist_ok=True)
    cut = pipeline.read_zoom(image.path)
    pipeline.write_crop(face, path, zoom=cut and min(cut, zoom))
