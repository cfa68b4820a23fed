"""Write faces as training changes them: a larger network scores them, and a small one learns its scores.

    python3 training/make_views.py data views --count 50000

Faces are drawn from data/training as df_CNN.py --pairs draws them, and changed as its --degrade changes them. A
forged face and its original are changed alike. data/validation is copied as it is. Let any network score the
images in views/training, and write its scores into a table (CSV) with the columns path and score (1 = real,
0 = forged). Then train on them: df_CNN.py --data views --pairs --soft-labels TABLE. It knows from
views/views.json that the faces are views, and changes them no further than by mirroring them.

Exit status: 0 all written, 1 stopped (disk full) or some faces could not be read, 2 wrong usage or unfit data.
"""

import argparse
import functools
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the repository's root

from tqdm import tqdm

import pipeline
from pipeline import View, read_amount, read_count
from training import data, evaluation, views
from training.recipe import read_shares
from training.run import check_shares


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parse_arguments(argv)
    source, target, count = arguments.data, arguments.output, arguments.count
    try:
        if target.exists() or target.is_symlink():
            raise FileExistsError(f"{target}: exists already: name another folder")
        if target.resolve().is_relative_to(source.resolve()):
            raise ValueError(f"{target}: lies inside {source}: name a folder beside it")
        images, _ = data.list_images(source / "training")
        check_shares(arguments.shares, images)
        target.parent.mkdir(parents=True, exist_ok=True)
        view = View(arguments.resample, arguments.zoom)
        face_set = evaluation.load_data(images, view, target.parent, "training")
        note = {**view._asdict(), "count": count, "degrade": arguments.degrade, "shares": arguments.shares,
                "seed": arguments.seed, "faces": data.fingerprint(face_set.images)}  # fmt: skip
        with pipeline.silence_native_stderr():
            import classifiers  # noqa: F401  (before TensorFlow: it sets what that reads when it is imported)
        from tensorflow.errors import OpError

        watch = functools.partial(tqdm, total=count, unit="view", disable=None, leave=False)
        try:
            views.write_views(source, target, face_set, note, watch)
        except OpError as error:  # memory is full
            raise MemoryError(str(error)) from error
    except BrokenPipeError:  # `pipeline.run` ends quietly
        raise
    except (OSError, ValueError, MemoryError) as error:
        return evaluation.fail(error)
    print(f"wrote {count} views to {target}")
    return 0 if len(face_set.images) == len(images) else 1


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = pipeline.make_parser(__doc__, "DATA OUTPUT [options]")
    add = parser.add_argument
    # fmt: off
    add("data", type=Path, metavar="DATA", help="holds training/, with df/ and real/, and validation/ if you have it")
    add("output", type=Path, metavar="OUTPUT", help="folder to make")
    add("--count", type=read_count, default=10000, metavar="N", help="views to write (default: %(default)s)")
    add("--degrade", type=read_amount, default=0.4, metavar="STRENGTH", help="as in df_CNN.py (default: %(default)s)")
    add("--shares", type=read_shares, default={}, metavar="SET=X,...", help="as in df_CNN.py (default: all data sets equally often)")
    add("--resample", choices=pipeline.RESAMPLING, default="bilinear", help="filter that brings faces to 256x256 (default: %(default)s)")
    add("--zoom", type=pipeline.read_width, default=pipeline.CROP_ZOOM, metavar="X", help="width of the square to look at, in widths of the face, as in df_CNN.py (default: %(default)s)")
    add("--seed", type=int, default=0, metavar="N", help="of all that is random (default: %(default)s)")
    # fmt: on
    arguments = pipeline.parse(parser, argv)
    if arguments.seed < 0:
        parser.error(f"--seed must be at least 0, not {arguments.seed}")
    return arguments


if __name__ == "__main__":
    pipeline.run(main)
