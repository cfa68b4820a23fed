"""What training costs, side by side in one run: the faces, the network, and both together.

    python3 tests/benchmarks/bench_training.py [NETWORK]

Images a second of: the augmented faces without a network, undegraded and degraded; Keras' own `fit` of the
network in plain Keras layers, from memory; our training from one batch in memory, and with augmented faces
feeding it. Interleaved, so that a busy machine hits all alike; the best of the rounds counts. Prints as it
goes, and ends within three minutes. TF_ENABLE_ONEDNN_OPTS is set for both sides, see classifiers.py.
"""

import os
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import pipeline
from weights import silence_native_stderr

with silence_native_stderr():
    import tensorflow as tf

    import classifiers
    from training import data, trainer
    from training.recipe import Recipe

BATCH = 75
STEPS = 3  # for each measurement
LONGEST = 120  # seconds, after which no further round begins


def main():
    name = sys.argv[1] if len(sys.argv) > 1 else "Meso4"
    with tempfile.TemporaryDirectory() as scratch:
        items = pipeline.find_files([ROOT / "test_images"])[0] * 40
        face_set = data.load_faces(items, pipeline.View(), Path(scratch))
    run = trainer.Trainer(Recipe(model=name, steps=10**6))
    plain = classifiers.MODELS[name]().model
    batch = classifiers.scale_pixels(face_set.faces[:BATCH]), face_set.labels[:BATCH]
    in_memory = tf.data.Dataset.from_tensors(batch).repeat(STEPS)
    measures = {
        "faces alone": lambda: list(make_batches(face_set)),
        "faces alone, --degrade 0.3": lambda: list(make_batches(face_set, 0.3)),
        "plain Keras fit, from memory": lambda: fit(plain, in_memory),
        "our training, from memory": lambda: fit(run.model, in_memory),
        "our training, with faces": lambda: fit(run.model, make_batches(face_set)),
        "our training, --degrade 0.3": lambda: fit(run.model, make_batches(face_set, 0.3)),
    }
    best = dict.fromkeys(measures, 0.0)
    begun = time.perf_counter()
    for measure in measures.values():
        measure()  # compile
    print(f"compiled in {time.perf_counter() - begun:.0f} s", flush=True)
    while time.perf_counter() - begun < LONGEST:
        for label, measure in measures.items():
            started = time.perf_counter()
            measure()
            best[label] = max(best[label], STEPS * BATCH / (time.perf_counter() - started))
        print(", ".join(f"{speed:.0f}" for speed in best.values()), flush=True)
    print(f"{name}, batches of {BATCH}, {os.cpu_count()} cores")
    for label, speed in best.items():
        print(f"{label:<33} {speed:>7.0f} images/s")


def make_batches(face_set, degrade=0.0):
    order, seeds = data.draw_epoch(face_set.items, Recipe(batch_size=BATCH), 0)
    return data.make_batches(face_set, order[:STEPS], seeds[:STEPS], degrade=degrade)


def fit(model, batches):
    model.fit(batches, epochs=1, verbose=0, shuffle=False)


if __name__ == "__main__":
    main()
