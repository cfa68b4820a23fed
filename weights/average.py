"""Average two sets of weights, such as a network's before and after it was trained further.

    python3 weights/average.py start/Meso4.weights.h5 trained/Meso4.weights.h5 --name averaged/Meso4

If one was trained from the other, what lies between them often does better on all data sets than either
(Wortsman et al., "Robust fine-tuning of zero-shot models", CVPR 2022). Writes the three files that scoring
and training use; evaluate them with training/df_CNN.py --evaluate --calibrate.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the repository's root

import pipeline
from pipeline import fail, read_share
from weights import check_free, find_keras_weights, write_weights


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parse_arguments(argv)
    try:
        first, second = (find_keras_weights(name) for name in arguments.weights)
        for weights in (first, second):
            if not weights.card:
                raise ValueError(f"{weights.path}: has no card: weights/convert.py makes one")
        if second.view != first.view:
            raise ValueError(f"{second.path}: must need {first.view}, not {second.view}")
        check_free(arguments.name)
        with pipeline.silence_native_stderr():
            import classifiers
        average, other = (classifiers.load_classifier(weights.path) for weights in (first, second))
        if average.model.name != other.model.name:
            raise ValueError(
                f"{second.path}: must be weights of {average.model.name}, not {other.model.name}"
            )
        pairs = zip(average.model.get_weights(), other.model.get_weights(), strict=True)
        share = arguments.share
        average.model.set_weights([(1 - share) * one + share * two for one, two in pairs])
        card = {
            **first.view._asdict(),
            "threshold": 0.5,
            "trained_on": second.card.get("trained_on"),
            "average_of": [
                {"share": part}
                | {key: weights.card.get(key) for key in ("command", "best_epoch", "recipe", "sha256")}
                for part, weights in ((1 - share, first), (share, second))
            ],
        }
        write_weights(average, arguments.name, card)
    except (OSError, ValueError) as error:
        return fail(1, error)
    print(f"wrote {arguments.name}.weights.h5, .tflite and .json")
    return 0


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = pipeline.make_parser(__doc__, "FILE FILE --name NAME [options]")
    add = parser.add_argument
    # fmt: off
    add("weights", nargs=2, metavar="FILE", help="two .weights.h5 of one network, with their cards")
    add("--share", type=read_share, default=0.5, metavar="P", help="of the second (default: %(default)s)")
    add("--name", type=Path, required=True, help="path of the files to write, without suffix")
    # fmt: on
    return pipeline.parse(parser, argv)


if __name__ == "__main__":
    pipeline.run(main)
