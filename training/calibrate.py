"""Choose the threshold and the bounds of "uncertain" for existing weights, on labelled faces.

    python3 training/calibrate.py Meso4 --data data/validation --name calibrated/Meso4

writes calibrated/Meso4.weights.h5, .tflite and .json; the weights given stay as they are. The faces must not
have been trained on. Bounds need at least 20 real and 10 forged videos, of three faces each.

Four weights of Meso4, each named after the forgery that it knows, become one: it multiplies their scores.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the repository's root

import pipeline
from training import calibration, data
from weights import find_keras_weights, name_stem, silence_native_stderr, write_weights

KEPT = ("command", "commit", "trained_on", "sha256")  # of the cards of experts that are joined


def main(argv: Sequence[str] | None = None) -> int:
    parser = pipeline.make_parser(__doc__)
    add = parser.add_argument
    add("weights", nargs="+", metavar="WEIGHTS", help="Keras weights, by name or path: one, or four experts")
    add("--data", type=Path, default=Path("data/validation"), metavar="FOLDER", help="holds df/ and real/")
    add("--name", type=Path, required=True, metavar="NEW", help="of the files to write, without suffix")
    arguments = parser.parse_args(argv)
    try:
        if existing := [*arguments.name.parent.glob(f"{arguments.name.name}.*")]:
            raise FileExistsError(f"{existing[0]} already exists: choose another --name")
        experts = {name_stem(found.path): found for found in map(find_keras_weights, arguments.weights)}
        weights = next(iter(experts.values()))
        kinds = [(expert.network, expert.view) for expert in experts.values()]
        if len(arguments.weights) > 1 and kinds != 4 * [("Meso4", weights.view)]:
            raise ValueError("must be one WEIGHTS, or four of Meso4, of different names and one view")
        items = data.list_faces(arguments.data)
        arguments.name.parent.mkdir(parents=True, exist_ok=True)
        face_set = data.load_faces(items, weights.view, arguments.name.parent)
        with silence_native_stderr():
            from classifiers import Meso4Experts, load_classifier
        classifiers = [load_classifier(expert.path) for expert in experts.values()]
        classifier, card = classifiers[0], weights.card
        if len(experts) > 1:
            classifier = Meso4Experts()
            calibration.join_experts(classifier, classifiers, face_set.faces[face_set.labels[:, 0] == 1])
            cards = {name: {key: e.card.get(key) for key in KEPT} for name, e in experts.items()}
            card = {"experts": cards, "forgeries": [*cards]}
        card = weights.view._asdict() | card
        card, report = calibration.calibrate_card(card, classifier, face_set)
        write_weights(classifier, arguments.name, card)
    except (OSError, ValueError) as error:
        return pipeline.fail(2, error)
    for remark in face_set.remarks:
        print(f"calibrate.py: warning: {remark}", file=sys.stderr)
    print(f"{report}\nwrote {arguments.name}.weights.h5, .tflite and .json")
    return 0


if __name__ == "__main__":
    pipeline.run(main)
