"""Average two sets of weights, such as a network's before and after it was trained further.

    python3 weights/average.py start/Meso4.weights.h5 trained/Meso4.weights.h5 --name averaged/Meso4

Where one was trained on from the other, what lies between them often does better on all sources than
either (Wortsman et al., "Robust fine-tuning of zero-shot models", CVPR 2022). Writes the three files that
scoring and training use; training/df_CNN.py --evaluate --calibrate tells what they are worth.
"""

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the repository's root

import pipeline
from weights import find_weights, name_card, write_weights


def main() -> int:
    arguments = parse_arguments()
    try:
        first, second = (find_weights(name, (".weights.h5",)) for name in arguments.weights)
        if first.resampling != second.resampling:
            raise ValueError(f"{second.path}: resampling {second.resampling}, wanted {first.resampling}")
        if arguments.name.with_name(arguments.name.name + ".json").exists():
            raise ValueError(f"{arguments.name}.json: is there already: --name another")
        with pipeline.silence_native_stderr():
            import classifiers
        average, other = (classifiers.load_classifier(weights.path) for weights in (first, second))
        if average.model.name != other.model.name:
            raise ValueError(f"{second.path}: of {other.model.name}, wanted {average.model.name}")
        pairs = zip(average.model.get_weights(), other.model.get_weights(), strict=True)
        share = arguments.share
        average.model.set_weights([(1 - share) * one + share * two for one, two in pairs])
        cards = [json.loads(name_card(weights.path).read_bytes()) for weights in (first, second)]
        card = {
            "resampling": first.resampling,
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
        print(f"average.py: {error}", file=sys.stderr)
        return 1
    print(f"wrote {arguments.name}.weights.h5, .tflite and .json")
    return 0


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("weights", nargs=2, metavar="FILE", help="two .weights.h5 of one network, with cards")
    parser.add_argument(
        "--share", type=float, default=0.5, metavar="P", help="of the second (default: %(default)s)"
    )
    parser.add_argument("--name", type=Path, required=True, help="of the files to write, without suffix")
    arguments = parser.parse_args()
    if not 0 <= arguments.share <= 1:
        parser.error(f"--share {arguments.share}: wanted 0 to 1")
    return arguments


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
