"""Turn Keras weights (.weights.h5, .h5 or .hdf5) into the three files that scoring and training use.

    python3 weights/convert.py weights/authors/Meso4_DF.h5

writes Meso4_DF.weights.h5, Meso4_DF.tflite and Meso4_DF.json beside the file given, unless --name says where.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the repository's root

import pipeline
from pipeline import RESAMPLING, fail
from weights import check_free, name_stem, write_weights


def main(argv: Sequence[str] | None = None) -> int:
    parser = pipeline.make_parser(__doc__)
    add = parser.add_argument
    add("file", type=Path, metavar="FILE", help="Keras weights, .weights.h5, .h5 or .hdf5")
    add("--name", type=Path, help="path of the files to write, without suffix (default: that of FILE)")
    add("--resample", choices=RESAMPLING, default="nearest", help="trained with (default: %(default)s)")
    arguments = parser.parse_args(argv)
    file = arguments.file
    stem = arguments.name or file.with_name(name_stem(file))
    try:
        check_free(stem)
        origin = {"converted_from": {file.name: pipeline.compute_sha256(file)}}
        with pipeline.silence_native_stderr():
            from classifiers import load_classifier
        write_weights(
            load_classifier(file), stem, {"resampling": arguments.resample, "threshold": 0.5} | origin
        )
    except (OSError, ValueError) as error:
        return fail(2, error)
    print(f"wrote {stem}.weights.h5, {stem}.tflite and {stem}.json")
    return 0


if __name__ == "__main__":
    pipeline.run(main)
