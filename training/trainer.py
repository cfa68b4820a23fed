"""The training loop: Keras' own `fit`, an epoch at a time.

All state is in a checkpoint written after every epoch, so that a training that is killed and resumed
ends with the very weights of an uninterrupted one.
"""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import classifiers  # first: it sets what TensorFlow reads when it is imported

# isort: split
import keras
import numpy as np
import tensorflow as tf

import pipeline
from training import data
from training.recipe import Recipe
from weights import Rule, write_weights
from weights.scoring.metrics import evaluate_by_dataset, label_scores

CHECKPOINT = "checkpoint.npz"


class BatchNormalization(keras.layers.BatchNormalization):
    """Keras' BatchNormalization, 2.4 times as fast to train on a CPU; same variables, same inference."""

    def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        if not (training and self.trainable):
            return super().call(inputs, training=training, mask=mask)
        width, channels = inputs.shape[2:]
        if channels % 4:  # oneDNN has no kernel for 11: by lines of pixels MesoInception4 gains a quarter
            lines = tf.reshape(inputs, (-1, width * channels))
            means = (tf.reduce_mean(x, 0) for x in (lines, tf.square(lines)))
            mean, square = (tf.reduce_mean(tf.reshape(x, (width, channels)), 0) for x in means)
            variance = square - tf.square(mean)
            scale = self.gamma * tf.math.rsqrt(variance + self.epsilon)
            scales, offsets = (tf.tile(x, [width]) for x in (scale, self.beta - mean * scale))
            outputs = tf.reshape(lines * scales + offsets, tf.shape(inputs))
        else:
            outputs, mean, variance = tf.compat.v1.nn.fused_batch_norm(
                inputs, self.gamma, self.beta, epsilon=self.epsilon, is_training=True
            )  # this variance is the unbiased one, n / (n - 1) times Keras 3's
        for moving, batch in ((self.moving_mean, mean), (self.moving_variance, variance)):
            moving.assign(moving * self.momentum + batch * (1.0 - self.momentum))
        return outputs


def quicken(model: keras.Model, dropout: float) -> keras.Model:
    """Return a copy of a network, with its weights, that trains faster, and with this dropout."""

    def copy(layer: keras.layers.Layer) -> keras.layers.Layer:
        if isinstance(layer, keras.layers.Dropout):
            return keras.layers.Dropout(dropout)
        plain = type(layer) is keras.layers.BatchNormalization
        return (BatchNormalization if plain else type(layer)).from_config(layer.get_config())

    quick = keras.models.clone_model(model, clone_function=copy)
    quick.set_weights(model.get_weights())
    return quick


class Trainer:
    """A network in training: its variables, its optimiser, the figures of its epochs so far."""

    def __init__(self, recipe: Recipe, checkpoint: Path | None = None) -> None:
        """Begin with the recipe's weights or go on from the checkpoint. ValueError: it is damaged."""
        self.recipe = recipe
        self.history: list[dict[str, Any]] = []  # figures of each epoch, the columns of history.csv
        resumed = bool(checkpoint and checkpoint.exists())
        keras.utils.set_random_seed(recipe.seed)
        self.scorer = classifiers.MODELS[recipe.model]()  # scores, and writes the weights
        if recipe.weights and not resumed:
            self.scorer.load(recipe.weights)
        self.model = quicken(self.scorer.model, recipe.dropout)
        self.optimizer = keras.optimizers.Adam(make_schedule(recipe))
        self.optimizer.build(self.model.trainable_variables)
        self.average = [tf.Variable(weight) for weight in self.model.weights] if recipe.average else []
        # the model's variables include the seeds of its dropout layers
        self.variables = [*self.model.variables, *self.optimizer.variables, *self.average]
        # no XLA: on a CPU it trains at a fifth of the speed (26 against 125 images/s)
        self.model.compile(self.optimizer, recipe.loss, metrics=["accuracy"], jit_compile=False)
        if checkpoint and resumed:
            self.restore(checkpoint)

    @property
    def steps_done(self) -> int:
        return int(self.optimizer.iterations.numpy())

    def train_epoch(self, face_set: data.FaceSet, epoch: int, bar: Iterator[int]) -> dict[str, float]:
        """Train one epoch; return its mean loss and accuracy."""
        recipe, left = self.recipe, self.recipe.steps - self.steps_done
        order, seeds = (drawn[:left] for drawn in data.draw_epoch(face_set.items, recipe, epoch))
        batches = data.make_batches(face_set, order, seeds, recipe.degrade)
        follow = keras.callbacks.LambdaCallback(on_train_batch_end=lambda _, logs: self.end_step(logs, bar))
        found = self.model.fit(batches, epochs=1, verbose=0, shuffle=False, callbacks=[follow]).history
        return {name: found[name][0] for name in ("loss", "accuracy")}

    def end_step(self, logs: dict[str, float], bar: Iterator[int]) -> None:
        """Advance the bar and the moving average of all weights. ArithmeticError: the loss is not finite."""
        next(bar)
        if not np.isfinite(logs["loss"]):  # the mean so far: one that is not finite shows at once
            problem = f"the loss is {logs['loss']} at step {self.steps_done}"
            raise ArithmeticError(f"{problem}: lower the learning rate, or check the faces")
        # unlike Keras' own, it keeps little of the first steps, and has the statistics of normalisation
        kept = min(self.recipe.average, self.steps_done / (self.steps_done + 9))
        for mean, weight in zip(self.average, self.model.weights, strict=False):
            mean.assign(kept * mean + (1 - kept) * weight.value)

    def score(self, face_set: data.FaceSet) -> np.ndarray:
        """Return the scores of the faces, float32 (N,), by the weights, or their average, as they are now."""
        self.scorer.model.set_weights([weight.numpy() for weight in self.average or self.model.weights])
        return data.score_faces(self.scorer.predict, face_set.faces)

    def save(self, folder: Path) -> None:
        """Write history.csv and the checkpoint."""
        lines = [",".join(map(str, line)) for line in (self.history[0], *(r.values() for r in self.history))]
        table = "\n".join([*lines, ""])
        pipeline.write_atomically(folder / "history.csv", lambda part: part.write_text(table))
        arrays: dict[str, Any] = {f"variable_{i}": v.numpy() for i, v in enumerate(self.variables)}
        arrays["history"] = json.dumps(self.history)
        pipeline.write_atomically(folder / CHECKPOINT, lambda part: np.savez(part, **arrays))

    def restore(self, path: Path) -> None:
        """Load what `save` wrote. Raises ValueError when it is damaged."""
        try:
            with np.load(path, allow_pickle=False) as arrays:
                self.history = json.loads(str(arrays["history"]))
                for index, variable in enumerate(self.variables):
                    variable.assign(arrays[f"variable_{index}"])
        except Exception as error:  # of a damaged archive NumPy raises anything
            reason = pipeline.describe_error(error)
            raise ValueError(f"{path}: damaged ({reason}): train anew in another folder") from error


def make_schedule(recipe: Recipe) -> keras.optimizers.schedules.LearningRateSchedule:
    """Return the learning rate by steps, for Keras' optimisers."""
    rate, schedules = recipe.learning_rate, keras.optimizers.schedules
    if recipe.schedule == "cosine":
        return schedules.CosineDecay(rate, recipe.steps)
    # divided by 10 every 1000 steps (paper, section 4.1), down to 1e-6
    rates = [max(rate / 10**i, min(rate, 1e-6)) for i in range(4)]
    return schedules.PiecewiseConstantDecay([1000, 2000, 3000], rates)


def train(
    trainer: Trainer, training: data.FaceSet, validation: data.FaceSet, stem: Path, card: dict[str, Any]
) -> Iterator[str]:
    """Train the epochs that are missing; yield a line on each, then history.csv and a checkpoint are written.

    Weights and card are written first if the validation AUC is the highest yet. ArithmeticError: it diverges.
    """
    recipe, history = trainer.recipe, trainer.history
    epochs = -(-recipe.steps // -(-len(training.items) // recipe.batch_size))
    left = recipe.steps - trainer.steps_done
    bar = pipeline.show_progress(range(left), left, "step")
    for epoch in range(len(history), epochs):
        begun, done = time.monotonic(), trainer.steps_done
        figures, scores = trainer.train_epoch(training, epoch, bar), trainer.score(validation)
        loss = float(np.mean(keras.losses.get(recipe.loss)(validation.labels, scores[:, None])))
        found = evaluate_by_dataset(label_scores(validation.items, scores, 0.5), Rule())["mean"]["image"]
        row = {"epoch": epoch + 1, "step": trainer.steps_done, **figures, "validation_loss": loss}
        row |= {f"validation_{name}": found[name] for name in ("balanced_accuracy", "auc")}
        if row["validation_auc"] > max((earlier["validation_auc"] for earlier in history), default=-1):
            write_weights(trainer.scorer, stem, card | {"best_epoch": epoch + 1})
        history.append(row)
        trainer.save(stem.parent)
        speed = (row["step"] - done) * recipe.batch_size / (time.monotonic() - begun)
        shown = ", ".join(f"{name.replace('_', ' ')} {row[name]:.4g}" for name in [*row][2:])
        yield f"epoch {epoch + 1}/{epochs}: {shown}; {speed:.0f} images/s"
    next(bar, None)  # closes it


def draw_curves(history: list[dict[str, Any]], path: Path) -> None:
    """Draw the figures of all epochs."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 4), layout="constrained")
    for panel, title in zip(figure.subplots(1, 3), ("loss", "accuracy", "auc"), strict=True):
        for name in (name for name in history[0] if name.endswith(title)):
            values = [row[name] for row in history]
            panel.plot([row["epoch"] for row in history], values, marker=".", label=name.replace("_", " "))
        panel.set(xlabel="epoch")
        panel.legend(fontsize=8)
    pipeline.write_atomically(path, lambda part: figure.savefig(part, dpi=110))
