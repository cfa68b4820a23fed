"""Draw what a network looks for in faces (section 4.4 of the paper).

    python3 training/visualize.py photos --weights Meso4_F2F --output looks

writes Meso4_F2F-activations.png, the mean activations of the first and of the last convolutional layer over
the faces in folders labelled df and real, and Meso4_F2F-units.png, what excites each hidden unit most.
"""

import argparse
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the repository's root

import numpy as np

import pipeline
from pipeline import IMAGE_SIZE, fail, read_count, write_atomically
from weights import Weights, find_keras_weights, name_stem
from weights.scoring.scores import BATCH_SIZE

if TYPE_CHECKING:
    from classifiers import Classifier


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parse_arguments(argv)
    try:
        weights = find_keras_weights(arguments.weights)
        faces = load_labelled(arguments.paths, weights)
        with pipeline.silence_native_stderr():
            import classifiers
        classifier = classifiers.load_classifier(weights.path)
        stem = arguments.output / name_stem(weights.path)
        activations, units = (Path(f"{stem}-{name}.png") for name in ("activations", "units"))
        means = {label: average_activations(classifier, images) for label, images in faces.items()}
        plot_activations(means, activations)
        plot_units(*excite_units(classifier, arguments.steps), units)
    except (OSError, ValueError) as error:
        return fail(2, error)
    print(f"wrote {activations} and {units}")
    return 0


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = pipeline.make_parser(__doc__, "[PATH ...] [options]")
    add, shown = parser.add_argument, "(default: %(default)s)"
    # fmt: off
    add("paths", nargs="*", default=["test_images"], metavar="PATH", help="folders that hold df/ and real/")
    add("--weights", default="Meso4_DF_F2F", metavar="NAME", help=f"Keras weights, by name or path {shown}")
    add("--output", type=Path, default=Path("looks"), metavar="FOLDER", help=f"for the two figures {shown}")
    add("--steps", type=read_count, default=60, metavar="N", help=f"of gradient ascent for the units {shown}")
    # fmt: on
    return pipeline.parse(parser, argv)


def load_labelled(paths: Sequence[str], weights: Weights) -> dict[str, np.ndarray]:
    """Return {"df": faces, "real": faces}, uint8 (N, 256, 256, 3), of the labelled images in `paths`.

    Raises ValueError when there are none, or when one cannot be read.
    """
    images = [image for image in pipeline.find_images(paths) if image.label]
    if not images:
        raise ValueError(f"{', '.join(paths)}: must hold images in folders named df or real")
    faces: dict[str, list[np.ndarray]] = defaultdict(list)
    loaded = pipeline.load_faces(images, weights.view)
    for image, face in zip(images, loaded, strict=True):
        if isinstance(face, Exception):
            raise ValueError(f"{image.path}: {pipeline.describe_error(face)}")
        faces[image.label].append(face)
    return {label: np.stack(faces[label]) for label in sorted(faces)}


def average_activations(classifier: "Classifier", faces: np.ndarray) -> tuple[np.ndarray, ...]:
    """Return the mean outputs of the first and of the last convolutional block, before their pooling.

    Float32 (height, width, channels) each. `faces` as `classifiers.scale_pixels` takes them, N > 0.
    """
    import keras

    from classifiers import scale_pixels

    pools = [layer for layer in classifier.model.layers if isinstance(layer, keras.layers.MaxPooling2D)]
    blocks = keras.Model(classifier.model.inputs, [pools[0].input, pools[-1].input])
    sums: list[Any] = [0.0, 0.0]
    for i in range(0, len(faces), BATCH_SIZE):
        outputs = blocks.predict_on_batch(scale_pixels(faces[i : i + BATCH_SIZE]))
        sums = [total + output.sum(axis=0) for total, output in zip(sums, outputs, strict=True)]
    return tuple(total / len(faces) for total in sums)


def excite_units(
    classifier: "Classifier", steps: int = 60, rate: float = 0.02, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Return (faces, weights): what excites each of the 16 hidden units most, its weight in the score.

    Uint8 (16, 256, 256, 3) and float32 (16,). Activation maximisation: gradient ascent on the input
    from grey noise, blurred after each step.
    """
    import keras
    import tensorflow as tf

    last = classifier.model.layers[-1]
    hidden = keras.Model(classifier.model.inputs, last.input)
    units = last.input.shape[-1]
    noise = np.random.default_rng(seed).normal(0.5, 0.02, (units, IMAGE_SIZE, IMAGE_SIZE, 3))
    images = tf.Variable(noise.astype(np.float32))

    @tf.function
    def ascend() -> None:
        with tf.GradientTape() as tape:
            total = tf.reduce_sum(tf.linalg.diag_part(hidden(images, training=False)))
        gradient = tape.gradient(total, images)
        size = tf.sqrt(tf.reduce_mean(gradient**2, axis=(1, 2, 3), keepdims=True))
        moved = images + rate * gradient / (size + 1e-12)
        smooth = 0.8 * moved + 0.2 * tf.nn.avg_pool2d(moved, 3, 1, "SAME")
        images.assign(tf.clip_by_value(smooth, 0, 1))

    for _ in range(steps):
        ascend()
    return (images.numpy() * 255).round().astype(np.uint8), last.get_weights()[0][:, 0]


def plot_activations(means: dict[str, tuple[np.ndarray, ...]], path: Path) -> None:
    """Draw mean activations, {"real": (first, last), "df": (first, last)}: maps (height, width, channels)."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 2.45 * len(means)), layout="constrained")
    rows = figure.subplots(len(means), 4, squeeze=False)
    for layer in (0, 1):
        # the border, where the convolution meets zeros, would outshine all else
        limit = max(float(np.percentile(maps[layer].mean(axis=2), 99.5)) for maps in means.values())
        for row, (label, maps) in zip(rows, means.items(), strict=True):
            strongest = maps[layer][:, :, maps[layer].mean(axis=(0, 1)).argmax()]
            name = ("first", "last")[layer]
            row[2 * layer].imshow(maps[layer].mean(axis=2), cmap="magma", vmin=0, vmax=limit)
            row[2 * layer].set_title(f"{label}: {name} layer, mean", fontsize=8)
            row[2 * layer + 1].imshow(strongest, cmap="magma")
            row[2 * layer + 1].set_title(f"{label}: {name} layer, strongest channel", fontsize=8)
    for panel in rows.flat:
        panel.axis("off")
    write_atomically(path, lambda part: figure.savefig(part, dpi=100))


def plot_units(images: np.ndarray, weights: np.ndarray, path: Path) -> None:
    """Draw what excites each hidden unit most, uint8 (units, 256, 256, 3), those for "forged" first.

    `weights`, float (units,): of the units in the score.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 1.9 * -(-len(images) // 8)), layout="constrained")
    panels = figure.subplots(-(-len(images) // 8), 8, squeeze=False)
    for panel in panels.flat:
        panel.axis("off")
    for panel, unit in zip(panels.flat, np.argsort(weights), strict=False):
        panel.imshow(images[unit])
        meaning = "real" if weights[unit] > 0 else "forged"
        panel.set_title(f"unit {unit}: {weights[unit]:+.2f}\n{meaning}", fontsize=8)
    write_atomically(path, lambda part: figure.savefig(part, dpi=80))


if __name__ == "__main__":
    pipeline.run(main)
