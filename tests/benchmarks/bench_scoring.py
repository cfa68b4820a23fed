"""LiteRT against Keras, side by side: seconds from start to finish, and images a second.

    python3 tests/benchmarks/bench_scoring.py

Scores test_images with the .tflite and the .weights.h5 of the same weights, three times each in
turn, as a user would; then 320 faces from memory, batches of 32, in one process.
"""

import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import numpy as np

import pipeline
from weights import find_weights, load_predictor

ROUNDS = 3
FACES = 320


def main():
    for name in sys.argv[1:] or ["Meso4_DF"]:
        forms = {"LiteRT": f"{name}.tflite", "Keras": f"{name}.weights.h5"}
        seconds = {form: [] for form in forms}
        for _ in range(ROUNDS):
            for form, weights in forms.items():
                seconds[form].append(time_script(weights))
        speeds = {form: [] for form in forms}
        predictors = {form: load(weights) for form, weights in forms.items()}
        for _ in range(ROUNDS):
            for form, predict in predictors.items():
                speeds[form].append(time_predictor(predict))
        print(f"{name}, {os.cpu_count()} cores   start to finish   images/s")
        for form in forms:
            print(f"{form:<22}  {statistics.median(seconds[form]):>13.2f} s  {max(speeds[form]):>9.0f}")
        started = statistics.median(seconds["Keras"]) / statistics.median(seconds["LiteRT"])
        print(f"{'ratio':<22}  {started:>13.1f} x  {max(speeds['LiteRT']) / max(speeds['Keras']):>8.1f}x")


def time_script(weights):
    command = [sys.executable, "deepfakes_images.py", "--weights", weights]
    started = time.perf_counter()
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return time.perf_counter() - started


def load(weights):

    return load_predictor(find_weights(weights))


def time_predictor(predict):
    faces = np.random.default_rng(0).integers(0, 256, (32, 256, 256, 3), dtype=np.uint8)
    predict(faces)
    started = time.perf_counter()
    for _ in range(FACES // 32):
        predict(faces)
    return FACES / (time.perf_counter() - started)


if __name__ == "__main__":
    with pipeline.silence_native_stderr():
        import classifiers  # noqa: F401
    main()
