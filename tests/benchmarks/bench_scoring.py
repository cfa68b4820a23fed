"""LiteRT against Keras, side by side: seconds from start to finish, and images a second.

    python3 tests/benchmarks/bench_scoring.py [NAME]

Scores test_images with the .tflite and the .weights.h5 of the same weights, three times each in turn,
as a user would, and imports TensorFlow alone; then 320 faces from memory, batches of 32, in one process.
Last, --jobs 2 against one job on forty short clips.
"""

import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import clips
import numpy as np

import pipeline
from weights import DEFAULT, find_weights, load_predictor

ROUNDS = 3
FACES = 320
CLIPS = 40


def main():
    name = sys.argv[1] if len(sys.argv) > 1 else DEFAULT
    forms = {"LiteRT": f"{name}.tflite", "Keras": f"{name}.weights.h5"}
    seconds = {form: [] for form in (*forms, "import tensorflow")}
    for _ in range(ROUNDS):
        for form, weights in forms.items():
            seconds[form].append(clips.time_python("deepfakes_images.py", "--weights", weights)[0])
        seconds["import tensorflow"].append(clips.time_python("-c", "import tensorflow")[0])
    speeds = {form: [] for form in forms}
    predictors = {form: load_predictor(find_weights(weights)) for form, weights in forms.items()}
    for _ in range(ROUNDS):
        for form, predict in predictors.items():
            speeds[form].append(time_predictor(predict))
    print(f"{name}, {os.cpu_count()} cores   start to finish   images/s")
    for form, found in seconds.items():
        speed = f"{max(speeds[form]):>9.0f}" if form in forms else ""
        print(f"{form:<24}  {statistics.median(found):>13.2f} s  {speed}")
    litert, keras, tensorflow = (statistics.median(found) for found in seconds.values())
    faster = max(speeds["LiteRT"]) / max(speeds["Keras"])
    print(f"{'Keras / LiteRT':<24}  {keras / litert:>13.1f} x  {faster:>8.1f}x")
    print(f"{'LiteRT / import':<24}  {litert / tensorflow:>13.2f} x", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for number in range(CLIPS):
            clips.film_portrait(Path(folder, f"{number}.mp4"), 30)
        used = os.times().children_user
        one, _ = clips.time_python("deepfakes_images.py", folder)
        used = os.times().children_user - used
        two, _ = clips.time_python("deepfakes_images.py", folder, "--jobs", "2")
    print(f"{CLIPS} clips: one job {one:.1f} s, two jobs {two:.1f} s, ratio {one / two:.2f}")
    print(f"one job keeps {used / one:.2f} cores busy: on two, at most {2 * one / used:.2f} times as fast")


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
