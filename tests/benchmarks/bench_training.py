"""What training costs, side by side in one run: the input pipeline, the network, and both together.

    python3 tests/benchmarks/bench_training.py [Meso4|MesoInception4]

Images a second of: our input pipeline and Keras' legacy ImageDataGenerator with the same
augmentation, on the same files, both without a network; Keras' own `fit` of the network in plain
Keras layers, from memory; our training from one batch in memory, and with the pipeline feeding it.
Interleaved, so that a busy machine hits all alike; the best of the rounds counts. Prints as it goes, and
ends within three minutes. TF_ENABLE_ONEDNN_OPTS is set for both sides, see classifiers.py.
"""

import os
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np
from PIL import Image

import pipeline

with pipeline.silence_native_stderr():
    import tensorflow as tf

    import classifiers
    from training import data, draws, trainer

BATCH = 75
STEPS = 3  # for each measurement
LONGEST = 120  # seconds, after which no further round begins: slow machines get fewer
ROUNDS = 12
FILES = 300


def main():
    name = sys.argv[1] if len(sys.argv) > 1 else "Meso4"
    with tempfile.TemporaryDirectory() as folder:
        write_faces(Path(folder))
        images, _ = data.list_images(folder)
        face_set, _ = data.load_faces(images, pipeline.View(), folder)
        run = trainer.Trainer(trainer.Recipe(model=name, steps=10**6), trainer.choose_strategy())
        plain = build_plain(name)
        generator = make_generator(folder)
        measures = {
            "ImageDataGenerator, alone": lambda: drain_generator(generator),
            "our pipeline, alone": lambda: drain(make_batches(face_set)),
            "plain Keras fit, from memory": lambda: fit(plain, from_memory(face_set)),
            "our training, from memory": lambda: fit(run.model, from_memory(face_set)),
            "our training, with our pipeline": lambda: fit(run.model, make_batches(face_set)),
        }
        best = dict.fromkeys(measures, 0.0)
        begun = time.perf_counter()
        for measure in measures.values():
            measure()  # compile, open files
        print(f"compiled in {time.perf_counter() - begun:.0f} s", flush=True)
        for number in range(ROUNDS):
            if number and time.perf_counter() - begun > LONGEST:
                break
            for label, measure in measures.items():
                started = time.perf_counter()
                count = measure()
                best[label] = max(best[label], count / (time.perf_counter() - started))
            print(f"round {number + 1}: {', '.join(f'{speed:.0f}' for speed in best.values())}", flush=True)
    print(f"{name}, batches of {BATCH}, {os.cpu_count()} cores")
    for label, speed in best.items():
        print(f"{label:<33} {speed:>7.0f} images/s")
    generator, ours, plain_fit, memory, fed = best.values()
    print(f"pipeline / generator              {ours / generator:>7.1f} x")
    print(f"our training / plain fit          {memory / plain_fit:>7.2f} x")
    print(f"with pipeline / from memory       {fed / memory:>7.2f} x")


def write_faces(folder):
    random = np.random.default_rng(0)
    for i in range(FILES):
        coarse = Image.fromarray(random.integers(0, 256, (16, 16, 3), dtype=np.uint8))
        path = folder / ("df", "real")[i % 2] / f"{i}.jpg"
        path.parent.mkdir(exist_ok=True)
        coarse.resize((256, 256), Image.Resampling.BICUBIC).save(path, quality=90)


def make_generator(folder):
    flow = tf.keras.preprocessing.image.ImageDataGenerator(
        rescale=1 / 255,
        zoom_range=0.2,
        rotation_range=15,
        brightness_range=(0.8, 1.2),
        channel_shift_range=30,
        horizontal_flip=True,
    )
    return flow.flow_from_directory(folder, (256, 256), batch_size=BATCH, class_mode="binary")


def drain_generator(generator):
    return sum(len(next(generator)[0]) for _ in range(STEPS))


def make_batches(face_set):
    order, changes = draws.draw_epoch(face_set.images * 2, BATCH, False, 0, 0)
    return data.make_batches(face_set, order[:STEPS] % len(face_set.images), changes[:STEPS])


def drain(batches):
    return sum(len(batch) for batch, _ in batches)


def from_memory(face_set):
    x, y = classifiers.scale_pixels(face_set.faces[:BATCH]), face_set.labels[:BATCH]
    return tf.data.Dataset.from_tensors((tf.constant(x), tf.constant(y))).repeat(STEPS)


def fit(model, batches):
    model.fit(batches, epochs=1, verbose=0, shuffle=False)
    return STEPS * BATCH


def build_plain(name):
    """Return the network with Keras' own BatchNormalization, compiled as published."""
    model = classifiers.MODELS[name].build()
    model.compile("adam", "mean_squared_error", metrics=["accuracy"])
    return model


if __name__ == "__main__":
    main()
