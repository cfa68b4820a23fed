"""Train a network on the faces in data/training|validation/<df,real>.

Writes OUTPUT/NAME.weights.h5 (to train on), NAME.tflite (to score with) and NAME.json (the card),
as they were at the epoch with the best validation AUC (the mean over sources).
"""

import argparse
import collections
import datetime
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the repository's root

import pipeline


def main():
    arguments = parse_arguments()
    import keras
    import tensorflow as tf

    import classifiers

    keras.utils.set_random_seed(arguments.seed)
    training = load_split(arguments.data / "training", arguments.resample)
    validation = load_split(arguments.data / "validation", arguments.resample)
    steps = -(-len(training[0]) // arguments.batch_size)

    classifier = classifiers.MODELS[arguments.model]()
    model = classifier.model
    rate = keras.optimizers.schedules.CosineDecay(arguments.learning_rate, arguments.epochs * steps)
    model.compile(keras.optimizers.Adam(rate), loss=arguments.loss, metrics=["accuracy"])

    best = -1.0
    for epoch in range(arguments.epochs):
        started = time.time()
        batches = make_batches(tf, training, arguments.batch_size, arguments.seed, epoch)
        history = model.fit(batches, verbose=0).history
        scores = classifier.predict(validation[1], 75)[:, 0]
        found = evaluate_by_source(validation[0], scores)
        print(
            f"epoch {epoch + 1}/{arguments.epochs}: loss {history['loss'][0]:.4f}, "
            f"{len(training[0]) / (time.time() - started):.0f} images/s, validation AUC "
            + ", ".join(f"{source} {figures['auc']:.3f}" for source, figures in found.items()),
            f"balanced accuracy {found['mean']['balanced_accuracy']:.3f}",
            flush=True,
        )
        if found["mean"]["auc"] > best:
            best = found["mean"]["auc"]
            card = {
                "resampling": arguments.resample,
                "threshold": 0.5,
                "trained_on": {"images": count(training[0]), "epoch": epoch + 1},
                "validation": found,
                "command": " ".join(["python3", *sys.argv]),
                "date": datetime.date.today().isoformat(),
            }
            classifiers.write_weights(classifier, arguments.output / arguments.name, card)


def load_split(folder, resampling):
    """Return the ImageFiles of a folder and their faces, uint8 (N, 256, 256, 3)."""
    images = pipeline.find_images([folder])
    faces = np.empty((len(images), 256, 256, 3), np.uint8)
    for i, face in enumerate(pipeline.load_faces(images, resampling)):
        faces[i] = face
    return images, faces


def count(images):
    return dict(collections.Counter(f"{image.source} {image.label}" for image in images))


def evaluate_by_source(images, scores):
    """Return pipeline.evaluate's figures for each source, and their mean over the sources."""
    found = {}
    for source in sorted({image.source for image in images}):
        chosen = [i for i, image in enumerate(images) if image.source == source]
        found[source] = pipeline.evaluate([images[i].label for i in chosen], scores[chosen], 0.5)
    keys = ("auc", "balanced_accuracy")
    found["mean"] = {key: float(np.mean([f[key] for f in found.values()])) for key in keys}
    return found


def balance(images):
    """Return the chance of each image to be drawn: equal for classes, sources in a class, videos in a source."""

    def share(*keys):
        sizes = collections.Counter(key[:-1] for key in set(keys))
        return sizes

    classes, sources, videos, frames = (collections.Counter() for _ in range(4))
    groups = [(i.label, i.source, i.video) for i in images]
    frames.update(groups)
    videos.update(key[:2] for key in set(groups))
    sources.update(key[:1] for key in {key[:2] for key in groups})
    chance = np.array([1 / frames[k] / videos[k[:2]] / sources[k[:1]] for k in groups])
    return chance / chance.sum()


def make_batches(tf, split, batch_size, seed, epoch):
    images, faces = split
    random = np.random.default_rng((seed, epoch))
    order = random.choice(len(images), len(images), p=balance(images))
    labels = np.array([image.label == "real" for image in images], np.float32)[:, None]

    def load(chosen, step):
        batch = tf.numpy_function(lambda i: faces[i], [chosen], tf.uint8)
        batch = tf.ensure_shape(batch, (None, 256, 256, 3))
        return augment(tf, batch, tf.stack([seed * 1000 + epoch, step])), tf.gather(labels, chosen)

    batches = tf.data.Dataset.from_tensor_slices(order).batch(batch_size).enumerate()
    return batches.map(lambda step, chosen: load(chosen, tf.cast(step, tf.int32)), 2).prefetch(2)


def augment(tf, faces, seed):
    """The authors' augmentation: zoom, rotation, channel shift, flip, brightness. Float32 in [0, 1]."""
    n = tf.shape(faces)[0]
    draws = tf.random.stateless_uniform([6, n], seed, -1.0, 1.0)
    angle = draws[0] * (15 * np.pi / 180)
    zoom_x, zoom_y = 1 + 0.2 * draws[1], 1 + 0.2 * draws[2]
    flip = tf.sign(draws[3])
    # what each output pixel (x, y) reads, about the centre: [a0 a1; b0 b1] (x, y)
    a0, a1 = tf.cos(angle) * zoom_x * flip, -tf.sin(angle) * zoom_y
    b0, b1 = tf.sin(angle) * zoom_x * flip, tf.cos(angle) * zoom_y
    centre = 127.5
    zero = tf.zeros_like(a0)
    transforms = tf.stack([a0, a1, centre * (1 - a0 - a1), b0, b1, centre * (1 - b0 - b1), zero, zero], 1)
    x = tf.raw_ops.ImageProjectiveTransformV3(
        images=tf.cast(faces, tf.float32) / 255.0,
        transforms=transforms,
        output_shape=[256, 256],
        fill_value=0.0,
        interpolation="BILINEAR",
        fill_mode="NEAREST",
    )
    shift, brightness = 30 / 255 * draws[4], 1 + 0.2 * draws[5]
    x = tf.clip_by_value(x + shift[:, None, None, None], 0.0, 1.0)
    return tf.clip_by_value(x * brightness[:, None, None, None], 0.0, 1.0)


def parse_arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--model", choices=("Meso4", "MesoInception4"), default="Meso4")
    parser.add_argument("--name", default="Meso4_DF", help="name of the weights")
    parser.add_argument("--data", type=Path, default=Path("data"), help="holds training/ and validation/")
    parser.add_argument("--output", type=Path, default=Path("output"), help="folder for the weights")
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--batch-size", type=int, default=75)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--loss", default="mse")
    parser.add_argument("--resample", choices=pipeline.RESAMPLING, default="nearest")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


if __name__ == "__main__":
    main()
