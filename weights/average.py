"""Average two sets of weights, such as a network's before and after it was trained further.

    python3 weights/average.py start/Meso4.weights.h5 trained/Meso4.weights.h5 --name averaged/Meso4

If one was trained from the other, what lies between them often does better on all data sets than either
(Wortsman et al., "Robust fine-tuning of zero-shot models", CVPR 2022). Writes the three files that scoring
and training use; training/calibrate.py then chooses their threshold and bounds.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the repository's root

import pipeline
from pipeline import fail
from weights import check_free, find_keras_weights, write_weights


def main(argv: Sequence[str] | None = None) -> int:
    parser = pipeline.make_parser(__doc__)
    add = parser.add_argument
    add("weights", nargs=2, metavar="FILE", help="two .weights.h5 of one network, with their cards")
    add("--share", type=float, default=0.5, metavar="P", help="of the second (default: %(default)s)")
    add("--name", type=Path, required=True, help="path of the files to write, without suffix")
    arguments = parser.parse_args(argv)
    share = arguments.share
    try:
        if not 0 <= share <= 1:
            raise ValueError(f"--share must be from 0 to 1, not {share:g}")
        first, second = (find_keras_weights(name) for name in arguments.weights)
        check_free(arguments.name)
        if not first.network or (first.network, first.view) != (second.network, second.view):
            needed = f"{first.network or 'a network'} with {first.view}"
            raise ValueError(f"{second.path}: its card must name {needed}, as that of {first.path}")
        with pipeline.silence_native_stderr():
            from classifiers import load_classifier
        average, other = (load_classifier(weights.path) for weights in (first, second))
        pairs = zip(average.model.get_weights(), other.model.get_weights(), strict=True)
        average.model.set_weights([(1 - share) * a + share * b for a, b in pairs])
        kept = ("command", "commit", "recipe", "sha256")
        parts = [{key: weights.card.get(key) for key in kept} for weights in (first, second)]
        parts = [{"share": 1 - share} | parts[0], {"share": share} | parts[1]]
        card = {"threshold": 0.5, "trained_on": second.card.get("trained_on"), "average_of": parts}
        write_weights(average, arguments.name, first.view._asdict() | card)
    except (OSError, ValueError) as error:
        return fail(1, error)
    print(f"wrote {arguments.name}.weights.h5, .tflite and .json")
    return 0


if __name__ == "__main__":
    pipeline.run(main)
