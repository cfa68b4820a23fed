"""Draw what a network looks for in faces (section 4.4 of the paper).

    python3 training/visualize.py photos --weights Meso4_F2F --output looks

writes Meso4_F2F-activations.png, the mean activations of the first and of the last convolutional layer over
the faces in folders labelled df and real, and Meso4_F2F-units.png, what excites each hidden unit most. A unit
of positive weight speaks for real, one of negative weight for forged.
"""

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the repository's root

import numpy as np

import pipeline
from weights import find_keras_weights, name_stem, silence_native_stderr

STEPS = 60  # of gradient ascent


def main(argv: Sequence[str] | None = None) -> int:
    parser = pipeline.make_parser(__doc__)
    add, shown = parser.add_argument, "(default: %(default)s)"
    add("paths", nargs="*", default=["test_images"], metavar="PATH", help="folders that hold df/ and real/")
    add("--weights", default="Meso4_DF", metavar="NAME", help=f"Keras weights, by name or path {shown}")
    add("--output", type=Path, default=Path("looks"), metavar="FOLDER", help=f"for the two figures {shown}")
    arguments = parser.parse_args(argv)
    try:
        weights = find_keras_weights(arguments.weights)
        items = [i for i in pipeline.find_files(arguments.paths)[0] if i.label and i.kind != "video"]
        if not items:
            raise ValueError(f"{', '.join(arguments.paths)}: must hold images in folders named df or real")
        with silence_native_stderr():
            import classifiers
        model = classifiers.load_classifier(weights.path).model
        if model.name == "Meso4Experts":
            raise ValueError(f"{weights.path}: must hold one network: draw each expert by itself")
        maps = {}
        for label in sorted({item.label for item in items}):
            faces = [pipeline.load_face(item.path, weights.view) for item in items if item.label == label]
            for name, mean in average_activations(model, faces).items():
                maps[f"{label}: {name} layer"] = mean
        images, scores = excite_units(model)
        units = {f"unit {u}: {scores[u]:+.2f}": images[u] for u in np.argsort(scores)}
        stem = arguments.output / name_stem(weights.path)
        draw_panels(maps, 2, Path(f"{stem}-activations.png"))
        draw_panels(units, 8, Path(f"{stem}-units.png"))
    except (OSError, ValueError) as error:
        return pipeline.fail(2, error)
    print(f"wrote {stem}-activations.png and {stem}-units.png")
    return 0


def average_activations(model: Any, faces: Iterable[np.ndarray]) -> dict[str, np.ndarray]:
    """Return the mean outputs of the "first" and "last" block before pooling, (height, width)."""
    import keras

    from classifiers import scale_pixels

    pools = [layer for layer in model.layers if isinstance(layer, keras.layers.MaxPooling2D)]
    outputs = {"first": pools[0].input, "last": pools[-1].input}
    blocks = keras.Model(model.inputs, {name: keras.ops.mean(x, axis=-1) for name, x in outputs.items()})
    found = [blocks.predict_on_batch(scale_pixels(face[None])) for face in faces]
    return {name: np.mean([maps[name][0] for maps in found], axis=0) for name in outputs}


def excite_units(model: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return what excites each hidden unit most, uint8 (16, 256, 256, 3), and its weight in the score, (16,).

    Activation maximisation: gradient ascent on the input from grey noise, blurred after each step.
    """
    import keras
    import tensorflow as tf

    last = model.layers[-1]
    hidden = keras.Model(model.inputs, last.input)
    noise = np.random.default_rng(0).normal(0.5, 0.02, (last.input.shape[-1], *model.input_shape[1:]))
    images = tf.Variable(noise.astype(np.float32))

    @tf.function
    def ascend() -> None:
        with tf.GradientTape() as tape:
            total = tf.reduce_sum(tf.linalg.diag_part(hidden(images, training=False)))
        gradient = tape.gradient(total, images)
        size = tf.sqrt(tf.reduce_mean(gradient**2, axis=(1, 2, 3), keepdims=True))
        moved = images + 0.02 * gradient / (size + 1e-12)
        images.assign(tf.clip_by_value(0.8 * moved + 0.2 * tf.nn.avg_pool2d(moved, 3, 1, "SAME"), 0, 1))

    for _ in range(STEPS):
        ascend()
    return (images.numpy() * 255).round().astype(np.uint8), last.get_weights()[0][:, 0]


def draw_panels(panels: dict[str, np.ndarray], columns: int, path: Path) -> None:
    """Draw pictures {title: (height, width) or uint8 (height, width, 3)} row by row."""
    from matplotlib.figure import Figure

    pictures, rows = list(panels.values()), -(-len(panels) // columns)
    figure = Figure(figsize=(11, 14 / columns * rows), layout="constrained")
    for number, (title, picture) in enumerate(panels.items(), 1):
        panel = figure.add_subplot(rows, columns, number)
        # a column has one scale; the border, where a convolution meets zeros, would outshine all else
        limit = np.percentile(pictures[(number - 1) % columns :: columns], 99.5)
        panel.imshow(picture, cmap="magma", vmin=0, vmax=limit)
        panel.set_title(title, fontsize=8)
        panel.axis("off")
    pipeline.write_atomically(path, lambda part: figure.savefig(part, dpi=90))


if __name__ == "__main__":
    pipeline.run(main)
