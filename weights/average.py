"""Average two sets of weights, such as a network's before and after it was trained further.

    python3 weights/average.py start/Meso4.weights.h5 trained/Meso4.weights.h5 --name averaged/Meso4

If one was trained from the other, what lies between them often does better on all data sets than either
(Wortsman et al., "Robust fine-tuning of zero-shot models", CVPR 2022). Writes the three files that scoring
and training use; evaluate them with training/df_CNN.py --evaluate --calibrate.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the repository's root

import pipeline
from pipeline import fail
from weights import check_free, find_weights, name_card, write_weights


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parse_arguments(argv)
    try:
        first, second = (find_weights(name, (".weights.h5",)) for name in arguments.weights)
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
        cards = [json.loads(name_card(weights.path).read_bytes()) for weights in (first, second)]
        card = {
            **first.view._asdict(),
            "threshold": 0.5,
            "trained_on": cards[1].get("trained_on"),
            "average_of": [
                {"share": part}
                | {key: card.get(key) for key in ("command", "best_epoch", "recipe", "sha256")}
                for part, card in zip((1 - share, share), cards, strict=True)
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
    add("--share", type=float, default=0.5, metavar="P", help="of the second (default: %(default)s)")
    add("--name", type=Path, required=True, help="path of the files to write, without suffix")
    # fmt: on
    arguments = pipeline.parse(parser, argv)
    if not 0 <= arguments.share <= 1:
        parser.error(f"--share must be from 0 to 1, not {arguments.share:g}")
    return arguments


if __name__ == "__main__":
    pipeline.run(main)
