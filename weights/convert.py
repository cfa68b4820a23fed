"""Turn Keras weights (.weights.h5, .h5 or .hdf5) into the three files that scoring and training use.

    python3 weights/convert.py weights/authors/Meso4_DF.h5

writes Meso4_DF.weights.h5, Meso4_DF.tflite and Meso4_DF.json beside the file given.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the repository's root

import pipeline
from pipeline import CROP_ZOOM, fail, read_share, read_width
from weights import check_free, name_stem, write_weights


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parse_arguments(argv)
    stem = arguments.output / name_stem(arguments.file)
    try:
        check_free(stem)
    except FileExistsError as error:
        return fail(2, error)
    try:
        if not arguments.file.is_file():
            raise FileNotFoundError(f"{arguments.file}: no such file")
        with pipeline.silence_native_stderr():
            import classifiers
        card = {
            "resampling": arguments.resample,
            "zoom": arguments.zoom,
            "threshold": arguments.threshold,
            "converted_from": {arguments.file.name: pipeline.compute_sha256(arguments.file)},
        }
        write_weights(classifiers.load_classifier(arguments.file), stem, card)
    except (OSError, ValueError) as error:
        return fail(1, error)
    print(f"wrote {stem}.weights.h5, {stem}.tflite and {stem}.json")
    return 0


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = pipeline.make_parser(__doc__, "FILE [options]")
    add, default = parser.add_argument, "(default: %(default)s, as the authors')"
    # fmt: off
    add("file", type=Path, metavar="FILE", help="Keras weights, .weights.h5, .h5 or .hdf5")
    add("--output", type=Path, metavar="FOLDER", help="where to write (default: where the file is)")
    add("--resample", choices=pipeline.RESAMPLING, default="nearest", help=f"filter trained with {default}")
    add("--zoom", type=read_width, default=CROP_ZOOM, metavar="X", help=f"zoom trained with {default}")
    add("--threshold", type=read_share, default=0.5, metavar="P", help=f"lower scores: deepfake {default}")
    # fmt: on
    arguments = pipeline.parse(parser, argv)
    arguments.output = arguments.output or arguments.file.parent
    return arguments


if __name__ == "__main__":
    pipeline.run(main)
