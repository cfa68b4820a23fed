"""Write faces as training changes them, so that a larger network can score them and a small one learn that.

    python3 training/make_views.py data views --count 50000 --degrade 0.4

Faces are drawn from data/training as df_CNN.py --pairs draws them, and changed as it changes them. Each
view is a file views/training/<df,real>/<dataset>-<video>-<number>_<frame>.png; a forged face and its
original share the number and the change. data/validation is copied as it is. Let any network score the
views, write a table with the columns path and score (1 = real, 0 = forged), and train with
df_CNN.py --data views --pairs --flip-only --soft-labels TABLE.
"""

import argparse
import functools
import itertools
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the repository's root

import numpy as np
from tqdm import tqdm

import pipeline
from pipeline import Item, View, fail, read_count, read_number
from training import augmentation, data, draws, evaluation, run
from training.recipe import Recipe, read_shares

BATCH_SIZE = 50


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parse_arguments(argv)
    source, target = arguments.data / "training", arguments.output / "training"
    try:
        if arguments.output.exists():
            raise FileExistsError(f"{arguments.output}: exists already: name another folder")
        images, _ = data.list_images(source)
        run.check_shares(arguments.shares, images)
        target.mkdir(parents=True)
        face_set = evaluation.load_data(images, arguments.view, arguments.output, "training")
        views = change_faces(face_set, arguments.count, arguments.degrade, arguments.seed, arguments.shares)
        with ThreadPoolExecutor() as pool:
            watched = iter(tqdm(views, total=arguments.count, unit="view", disable=None, leave=False))
            write = functools.partial(write_view, source, target, arguments.view)
            while part := list(itertools.islice(watched, BATCH_SIZE)):
                list(pool.map(write, part))
        if (arguments.data / "validation").is_dir():
            shutil.copytree(arguments.data / "validation", arguments.output / "validation")
    except (FileNotFoundError, FileExistsError, NotADirectoryError, ValueError) as error:
        return fail(2, error)
    except OSError as error:
        return fail(1, error)
    print(f"wrote {arguments.count} views to {target}")
    return 0


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = pipeline.make_parser(__doc__, "DATA OUTPUT [options]")
    add = parser.add_argument
    # fmt: off
    add("data", type=Path, metavar="DATA", help="holds training/, with df/ and real/")
    add("output", type=Path, metavar="OUTPUT", help="folder to make")
    add("--count", type=read_count, default=10000, metavar="N", help="views to write (default: %(default)s)")
    add("--degrade", type=read_number, default=0.4, metavar="STRENGTH", help="as of df_CNN.py (default: %(default)s)")
    add("--shares", type=read_shares, default={}, metavar="SET=X,...", help="as of df_CNN.py (default: all data sets as often)")
    add("--resample", choices=pipeline.RESAMPLING, default="bilinear", help="filter that brings faces to 256x256 (default: %(default)s)")
    add("--zoom", type=read_number, default=Recipe().zoom, metavar="X", help="width of the square to look at, in widths of the face, as of df_CNN.py (default: %(default)s)")
    add("--seed", type=int, default=0, metavar="N", help="(default: %(default)s)")
    # fmt: on
    arguments = pipeline.parse(parser, argv)
    if not pipeline.SMALLEST_ZOOM <= arguments.zoom <= pipeline.CROP_ZOOM:
        parser.error(
            f"--zoom must be from {pipeline.SMALLEST_ZOOM} to {pipeline.CROP_ZOOM}, not {arguments.zoom}"
        )
    if arguments.degrade < 0 or arguments.seed < 0:
        parser.error("--degrade and --seed must be at least 0")
    arguments.view = View(arguments.resample, arguments.zoom)
    return arguments


def change_faces(
    face_set: data.FaceSet, count: int, strength: float, seed: int, shares: Mapping[str, float]
) -> Iterator[tuple[Item, int, np.ndarray]]:
    """Yield `count` times (Item, number of the view, the face changed, uint8 (256, 256, 3)).

    A forged face is followed by its original, with the same number and changed alike.
    """
    random = np.random.default_rng(seed)
    steps = -(-count // BATCH_SIZE)
    order, places = draws.draw_pairs(face_set.images, steps, BATCH_SIZE, random, shares)
    changes = random.uniform(-1, 1, (steps, BATCH_SIZE, augmentation.CHANGES + augmentation.NUMBERS))
    changes = np.take_along_axis(changes.astype(np.float32), places[..., None], 1)
    numbers = places + BATCH_SIZE * np.arange(steps)[:, None]
    batches = data.make_batches(face_set, order, changes, degrade=strength)
    drawn = (
        (face_set.images[index], int(number), np.round(255 * face).astype(np.uint8))
        for indices, row, (faces, _) in zip(order, numbers, batches, strict=True)
        for index, number, face in zip(indices, row, faces.numpy(), strict=True)
    )
    yield from itertools.islice(drawn, count)


def write_view(source: Path, target: Path, view: View, changed: tuple[Item, int, np.ndarray]) -> None:
    """Write a view where its face lies in `source`, noting how wide it was cut if its face does."""
    image, number, face = changed
    below = Path(*image.path.relative_to(source).parts[1:-1])
    start, dash, frame = image.path.stem.rpartition("-")
    path = target / image.label / below / f"{start}{dash}{number:06}_{frame}.png"
    zoom = pipeline.read_zoom(image.path) and view.zoom
    pipeline.write_atomically(path, functools.partial(pipeline.write_crop, face, zoom=zoom))


if __name__ == "__main__":
    pipeline.run(main)
