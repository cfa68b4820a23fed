"""The training loop: Keras' own `fit`, an epoch at a time, on one CPU or on all GPUs of the machine.

All state is in a checkpoint written after every epoch, so that a training that is killed and resumed
ends with the very weights of an uninterrupted one.
"""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import classifiers  # first: it sets what TensorFlow reads when it is imported

# isort: split
import keras
import numpy as np
import tensorflow as tf

import pipeline
from training import augmentation, checkpoints, data, draws, evaluation, imitation
from training.averaging import MovingAverage
from training.checkpoints import DamagedCheckpointError, TrainingState
from training.normalization import BatchNormalization
from training.recipe import Recipe, check_agreement

PLATEAU_PATIENCE = 3  # epochs without improvement before the plateau schedule divides the rate by 10
LOWEST_RATE = 1e-6
LOSSES = {"mse": keras.losses.MeanSquaredError, "bce": keras.losses.BinaryCrossentropy}
ADVICE = "lower the learning rate, or look at the faces"


def choose_strategy() -> tf.distribute.Strategy:
    """Return the tf.distribute strategy of this machine: all its GPUs, or the one device it has."""
    if len(tf.config.list_logical_devices("GPU")) > 1:
        return tf.distribute.MirroredStrategy()
    return tf.distribute.get_strategy()


class Trainer:
    """A network in training: its variables, its optimiser, and their checkpoints."""

    def __init__(self, recipe: Recipe, strategy: tf.distribute.Strategy, resumed: bool = False) -> None:
        """Make the variables. If `resumed`, a checkpoint will fill them: recipe.weights is not read."""
        replicas = strategy.num_replicas_in_sync
        if recipe.batch_size % replicas:
            raise ValueError(f"batch size must be a multiple of {replicas} (GPUs), not {recipe.batch_size}")
        self.recipe = recipe
        keras.utils.set_random_seed(recipe.seed)
        # outside the strategy: scores, and writes the weights
        self.scorer = classifiers.MODELS[recipe.model]()
        if recipe.weights and not resumed:
            self.scorer.load(recipe.weights)
        with strategy.scope():
            self.model = classifiers.MODELS[recipe.model].build(BatchNormalization)
            self.model.set_weights(self.scorer.model.get_weights())
            freeze_blocks(self.model, recipe.freeze)
            for layer in self.model.layers:
                if isinstance(layer, keras.layers.BatchNormalization):
                    layer.synchronized = replicas > 1  # statistics of the whole batch, as on one device
            self.optimizer = keras.optimizers.Adam(make_schedule(recipe))
            self._fitted, loss = self.model, LOSSES[recipe.loss]()
            metric: Any = accuracy
            if recipe.imitate:
                teacher = classifiers.load_classifier(recipe.imitate).model
                self._fitted = imitation.make_student(self.model, teacher)
                loss, metric = keras.losses.MeanSquaredError(), imitation.explained
            self.optimizer.build(self._fitted.trainable_variables)
            # the seeds of the dropout layers are among the model's variables
            self.variables = [*self.model.variables, *self.optimizer.variables]
            self._average = None
            if recipe.average:
                self._average = MovingAverage(self.model, self.optimizer, recipe.average)
                self.variables += self._average.variables
            # no XLA: on a CPU it trains at a fifth of the speed (26 against 125 images/s)
            self._fitted.compile(self.optimizer, loss, metrics=[metric], jit_compile=False)

    @property
    def steps_done(self) -> int:
        return int(self.optimizer.iterations.numpy())

    @property
    def learning_rate(self) -> float:
        return float(keras.ops.convert_to_numpy(self.optimizer.learning_rate))

    def train_epoch(
        self, face_set: data.FaceSet, epoch: int, watch: pipeline.Watch[int] = iter
    ) -> tuple[float, float]:
        """Train one epoch; return its mean loss, and its accuracy or, imitating, `imitation.explained`.

        Raises ArithmeticError when a loss is not finite.
        `watch` wraps the iterator over steps: a progress bar.
        """
        recipe = self.recipe
        order, changes = draws.draw_epoch(
            face_set.images, recipe.batch_size, recipe.balance, recipe.seed, epoch, recipe.pairs,
            recipe.degrade > 0, recipe.shares,
        )  # fmt: skip
        left = recipe.steps - self.steps_done
        order, changes = order[:left], changes[:left]
        if recipe.views:
            changes = augmentation.keep_flips(changes)
        side = imitation.WINDOW if recipe.imitate else data.SIDE
        batches = data.make_batches(face_set, order, changes, side, recipe.degrade)
        callbacks: list[keras.callbacks.Callback] = [_Watch(epoch, watch(range(len(order))))]
        if self._average:
            callbacks.append(self._average)
        found = self._fitted.fit(batches, epochs=1, verbose=0, shuffle=False, callbacks=callbacks).history
        return found["loss"][0], found["explained" if recipe.imitate else "accuracy"][0]

    def score(self, face_set: data.FaceSet, batch_size: int = 75) -> np.ndarray:
        """Return the scores of the faces, float32 (N,), by the weights, or their average, as they are now."""
        self.scorer.model.set_weights((self._average or self.model).get_weights())
        return self.scorer.predict(face_set.faces, batch_size)[:, 0]

    def lower_rate(self) -> None:
        """Divide the learning rate by ten, down to 1e-6: the plateau schedule."""
        rate = min(self.learning_rate, max(self.learning_rate / 10, LOWEST_RATE))
        self.optimizer.learning_rate.assign(rate)

    def save(self, folder: Path, state: TrainingState) -> None:
        """Write the checkpoint of an epoch."""
        checkpoints.write_checkpoint(folder, self.recipe, state, [v.numpy() for v in self.variables])

    def restore(self, path: Path) -> TrainingState:
        """Load a checkpoint; return its TrainingState.

        Raises DamagedCheckpointError, with nothing changed, when it cannot be read, ValueError when
        the recipe was another.
        """
        recipe, state, values = checkpoints.read_checkpoint(path)
        check_agreement(recipe, self.recipe._asdict(), path)
        if [value.shape for value in values] != [tuple(variable.shape) for variable in self.variables]:
            raise DamagedCheckpointError(f"{path}: damaged (arrays of other shapes)")
        for variable, value in zip(self.variables, values, strict=True):
            variable.assign(value)
        return state


class _Watch(keras.callbacks.Callback):
    """Advances a progress bar; raises ArithmeticError when a loss is not finite."""

    def __init__(self, epoch: int, steps: Iterable[int]) -> None:
        super().__init__()
        self.epoch, self.steps = epoch, iter(steps)

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:  # noqa: ARG002
        next(self.steps)

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        loss = (logs or {})["loss"]  # the mean so far: one that is not finite shows at once
        if not np.isfinite(loss):
            raise ArithmeticError(f"the loss is {loss} at epoch {self.epoch + 1}, step {batch + 1}: {ADVICE}")

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:  # noqa: ARG002
        next(self.steps, None)  # closes the bar


def accuracy(wanted: Any, found: Any) -> Any:
    """Return which scores lie on the labels' side of 0.5: as Keras' accuracy, but for soft labels too."""
    return tf.reduce_mean(tf.cast((wanted > 0.5) == (found > 0.5), tf.float32), -1)


def make_schedule(recipe: Recipe) -> float | keras.optimizers.schedules.LearningRateSchedule:
    """Return the learning rate by steps, for Keras' optimisers; for "plateau" where it starts."""
    rate, schedules = recipe.learning_rate, keras.optimizers.schedules
    if recipe.schedule == "cosine":
        return schedules.CosineDecay(rate, recipe.steps)
    if recipe.schedule == "paper":  # divided by 10 every 1000 steps (section 4.1), down to 1e-6
        rates = [max(rate / 10**i, min(rate, LOWEST_RATE)) for i in range(4)]
        return schedules.PiecewiseConstantDecay([1000, 2000, 3000], rates)
    return rate


def freeze_blocks(model: keras.Model, count: int) -> None:
    """Let the first `count` blocks, each up to its max-pooling, keep their weights."""
    blocks = len(imitation.list_pools(model))
    if not 0 <= count <= blocks:
        raise ValueError(f"freeze must be 0 to {blocks}, not {count}: {model.name} has {blocks} blocks")
    if count:
        for layer in imitation.cut_blocks(model, count).layers:
            layer.trainable = False


def train(
    trainer: Trainer,
    training: data.FaceSet,
    validation: data.FaceSet,
    folder: Path,
    keep_best: Callable[[int, np.ndarray], None],
    state: TrainingState | None = None,
    watch: pipeline.Watch[int] = iter,
) -> Iterator[tuple[dict[str, Any], bool]]:
    """Train epoch after epoch; yield (figures of the epoch, whether it is the best so far).

    After each, history.csv and a checkpoint are written to `folder`; `keep_best(epoch, validation
    scores)` is called before, when the validation AUC has never been as high. Begins where `state`
    stands. Raises ArithmeticError as `Trainer.train_epoch`, OSError.
    """
    recipe, state = trainer.recipe, state or TrainingState()
    epochs = -(-recipe.steps // -(-len(training.images) // recipe.batch_size))
    for epoch in range(state.epoch, 0 if state.finished else epochs):
        rate = trainer.learning_rate
        loss, share = trainer.train_epoch(training, epoch, watch)
        scores = trainer.score(validation)
        if not np.isfinite(scores).all():
            raise ArithmeticError(f"the scores are not finite after epoch {epoch + 1}: {ADVICE}")
        row = {"epoch": epoch + 1, "step": trainer.steps_done, "loss": loss,
               "explained" if recipe.imitate else "accuracy": share,
               **evaluation.measure(validation, scores, recipe.loss), "learning_rate": rate}  # fmt: skip
        auc = row["validation_auc"]
        better = auc > state.best
        best, best_epoch = (auc, epoch + 1) if better else (state.best, state.best_epoch)
        waited = epoch + 1 - best_epoch
        finished = bool(recipe.patience and waited >= recipe.patience)
        state = TrainingState(epoch + 1, best, best_epoch, (*state.history, row), finished)
        if recipe.schedule == "plateau" and waited and waited % PLATEAU_PATIENCE == 0:
            trainer.lower_rate()
        if better:
            keep_best(epoch + 1, scores)
        checkpoints.write_history(folder / "history.csv", state.history)
        trainer.save(folder, state)
        yield row, better
        if finished:
            return
