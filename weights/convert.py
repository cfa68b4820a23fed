"""Turn Keras weights (.h5 or .weights.h5) into the three files that scoring and training use.

    python3 weights/convert.py weights/authors/Meso4_DF.h5

writes Meso4_DF.weights.h5, Meso4_DF.tflite and Meso4_DF.json beside the file given.
"""

import argparse
import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the repository's root

import pipeline
from weights import write_weights


def main() -> int:
    arguments = parse_arguments()
    stem = arguments.output / re.sub(r"(\.weights)?\.h5$", "", arguments.file.name)
    for path in (Path(f"{stem}{end}") for end in (".json", ".weights.h5", ".tflite")):
        if path.exists():
            print(f"convert.py: {path}: is there already: name another --output", file=sys.stderr)
            return 2
    try:
        if not arguments.file.is_file():
            raise FileNotFoundError(f"{arguments.file}: no such file")
        with pipeline.silence_native_stderr():
            import classifiers
        card = {
            "resampling": arguments.resample,
            "threshold": arguments.threshold,
            "converted_from": {arguments.file.name: pipeline.compute_sha256(arguments.file)},
        }
        write_weights(classifiers.load_classifier(arguments.file), stem, card)
    except (OSError, ValueError) as error:
        print(f"convert.py: {error}", file=sys.stderr)
        return 1
    print(f"wrote {stem}.weights.h5, {stem}.tflite and {stem}.json")
    return 0


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file", type=Path, help="Keras weights, .h5 or .weights.h5")
    parser.add_argument("--output", type=Path, metavar="FOLDER", help="default: where the file is")
    parser.add_argument(
        "--resample",
        choices=pipeline.RESAMPLING,
        default="nearest",
        help="filter the weights were trained with (default: %(default)s, as the authors')",
    )
    parser.add_argument(
        "--threshold",
        type=float,
        default=0.5,
        metavar="P",
        help="a score below it is called a deepfake (default: %(default)s)",
    )
    arguments = parser.parse_args()
    arguments.output = arguments.output or arguments.file.parent
    if not 0 <= arguments.threshold <= 1:
        parser.error(f"--threshold {arguments.threshold}: wanted 0 to 1")
    return arguments


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
