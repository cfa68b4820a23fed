"""Choose the threshold and the bounds of "uncertain" for existing weights, on labelled faces.

    python3 training/calibrate.py Meso4 --data data/validation --name calibrated/Meso4

writes calibrated/Meso4.weights.h5, .tflite and .json; the weights given stay as they are. The faces must not
have been trained on. Bounds need 20 real and 10 forged videos, of different people, of three faces each.

Four weights of Meso4, each named after the forgery that it knows, become one: it multiplies their scores.
Otherwise, several weights of one network are averaged; the card is that of the first.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the repository's root

import numpy as np

import pipeline
from training import calibration, data
from weights import find_keras_weights, name_stem, silence_native_stderr, write_weights

KEPT = ("command", "commit", "trained_on", "sha256")  # of the cards of several weights


def main(argv: Sequence[str] | None = None) -> int:
    parser = pipeline.make_parser(__doc__)
    add = parser.add_argument
    add("weights", nargs="+", metavar="WEIGHTS", help="Keras weights, by name or path")
    add("--data", type=Path, default=Path("data/validation"), metavar="FOLDER", help="holds df/ and real/")
    add("--name", type=Path, required=True, metavar="NEW", help="of the files to write, without suffix")
    arguments = parser.parse_args(argv)
    try:
        if existing := sorted(arguments.name.parent.glob(f"{arguments.name.name}.*")):
            raise FileExistsError(f"{existing[0]} already exists: choose another --name")
        given = {name_stem(found.path): found for found in map(find_keras_weights, arguments.weights)}
        weights, *others = given.values()
        items = data.list_faces(arguments.data)
        with silence_native_stderr():
            from classifiers import Meso4Experts, load_classifier
        classifiers = [load_classifier(each.path) for each in given.values()]
        kinds = {(each.view, one.model.name) for each, one in zip(given.values(), classifiers, strict=True)}
        if len(given) < len(arguments.weights) or len(kinds) > 1:
            raise ValueError("several WEIGHTS must have different names, one network and one view")
        arguments.name.parent.mkdir(parents=True, exist_ok=True)
        face_set = data.load_faces(items, weights.view, arguments.name.parent)
        classifier, card = classifiers[0], weights.card
        cards = {name: {key: each.card.get(key) for key in KEPT} for name, each in given.items()}
        if classifier.model.name == "Meso4" and len(given) == 4:
            classifier, card = Meso4Experts(), {"experts": cards, "forgeries": [*cards]}
            calibration.join_experts(classifier, classifiers, face_set.faces[face_set.labels[:, 0] == 1])
        elif others:
            card = card | {"averaged": cards}
            own = zip(*(each.model.get_weights() for each in classifiers), strict=True)
            classifier.model.set_weights([np.mean(arrays, axis=0) for arrays in own])
        card, report = calibration.calibrate_card(weights.view._asdict() | card, classifier, face_set)
        write_weights(classifier, arguments.name, card)
    except (OSError, ValueError) as error:
        return pipeline.fail(2, error)
    for remark in face_set.remarks:
        print(f"calibrate.py: warning: {remark}", file=sys.stderr)
    print(f"{report}\nwrote {arguments.name}.weights.h5, .tflite and .json")
    return 0


if __name__ == "__main__":
    pipeline.run(main)
