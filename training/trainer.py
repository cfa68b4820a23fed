"""The training loop: one loop for one CPU, several GPUs and several machines.

Keras' own `fit` does not run under MultiWorkerMirroredStrategy (Keras 3.15), hence `strategy.run`.
All state is in a checkpoint written after every epoch, so that a run killed and resumed goes the
way of the uninterrupted one.
"""

import csv
import json
import os
import re
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import classifiers  # first: it sets what TensorFlow reads when it is imported

# isort: split
import keras
import numpy as np
import tensorflow as tf

import pipeline
from training import data
from weights.metrics import evaluate_by_dataset, label_scores

PLATEAU_PATIENCE = 3  # epochs without improvement before the plateau schedule divides the rate by 10
LOWEST_RATE = 1e-6
IMITATED_BLOCKS = 3
IMITATION_WINDOW = 64  # pixels: blocks see no further than that, and it costs a sixteenth of a face
ADVICE = "lower the learning rate, or look at the faces"


CHECKPOINT_NAME = re.compile(r"checkpoint-\d{5,}\.npz")
# what reading a file of untrusted content may raise
UNREADABLE = (
    OSError, EOFError, ValueError, KeyError, TypeError, AttributeError, MemoryError, RecursionError,
    zipfile.BadZipFile, zlib.error,
)  # fmt: skip


class DamagedCheckpointError(Exception):
    """A checkpoint that cannot be read."""


class Recipe(NamedTuple):
    """What decides the weights that a training gives, besides the faces. Defaults: the paper's."""

    model: str = "Meso4"
    steps: int = 4000
    batch_size: int = 75
    learning_rate: float = 1e-3
    schedule: str = "paper"
    loss: str = "mse"
    balance: bool = False
    seed: int = 0
    patience: int = 0  # epochs without improvement before training ends; 0 = never
    resample: str = "nearest"
    weights: str = ""  # file to start from
    freeze: int = 0  # blocks that keep their weights
    imitate: str = ""  # weights of the other network, to give what its first blocks give
    name: str = "Meso4"  # of the weights files
    faces: str = ""  # fingerprint of the list of faces, so that a training is resumed on its own


class TrainingState(NamedTuple):
    """Where a training stands; with the variables, all that a checkpoint holds."""

    epoch: int = 0  # completed
    best: float = -1.0  # best validation AUC
    best_epoch: int = 0
    history: tuple[dict[str, Any], ...] = ()  # of each epoch
    finished: bool = False


def choose_strategy() -> tf.distribute.Strategy:
    """Return the tf.distribute strategy of this machine: TF_CONFIG's workers, all GPUs, or neither."""
    if os.environ.get("TF_CONFIG"):
        return tf.distribute.MultiWorkerMirroredStrategy()
    if len(tf.config.list_physical_devices("GPU")) > 1:
        return tf.distribute.MirroredStrategy()
    return tf.distribute.get_strategy()


def is_chief(strategy: tf.distribute.Strategy) -> bool:
    """Return whether this process is the one that validates, writes and prints."""
    resolver = strategy.cluster_resolver
    return (
        resolver is None
        or not resolver.task_type
        or (resolver.task_type == "chief" or (resolver.task_type == "worker" and resolver.task_id == 0))
    )


class Trainer:
    """A network in training: its variables, its optimiser, and the compiled step."""

    def __init__(self, recipe: Recipe, strategy: tf.distribute.Strategy) -> None:
        replicas = strategy.num_replicas_in_sync
        if recipe.batch_size % replicas:
            raise ValueError(f"batch size {recipe.batch_size}: wanted a multiple of {replicas} replicas")
        self.recipe, self.strategy = recipe, strategy
        keras.utils.set_random_seed(recipe.seed)
        # outside the strategy: scores, and writes the weights
        self.scorer = classifiers.MODELS[recipe.model]()
        if recipe.weights:
            self.scorer.load(recipe.weights)
        with strategy.scope():
            self.model = classifiers.MODELS[recipe.model].build()
            self.model.set_weights(self.scorer.model.get_weights())
            freeze_blocks(self.model, recipe.freeze)
            if recipe.imitate:
                self._teach(classifiers.load_classifier(recipe.imitate).model)
            for layer in self.model.layers:
                if isinstance(layer, keras.layers.BatchNormalization):
                    layer.synchronized = replicas > 1  # statistics of the whole batch, as on one device
            self.optimizer = keras.optimizers.Adam(make_schedule(recipe))
            self.optimizer.build(self.model.trainable_variables)
        self._step = tf.function(self._run_step)

    def _teach(self, teacher: keras.Model) -> None:
        """Have the first blocks imitate the teacher's (Romero et al., "FitNets: Hints for Thin Deep Nets").

        Their outputs are thousands of numbers to learn from in each face, a label is one. The layers
        after them are of one shape in all networks: they are taken over.
        """
        for layer, taught in zip(*(list_head(model) for model in (self.model, teacher)), strict=True):
            layer.set_weights(taught.get_weights())
            layer.trainable = False
        self._student, self._teacher = (cut_blocks(m, IMITATED_BLOCKS) for m in (self.model, teacher))

    def _run_step(self, batch: tuple[tf.Tensor, tf.Tensor]) -> list[tf.Tensor]:
        train_replica = self._imitate_replica if self.recipe.imitate else self._train_replica
        per_replica = self.strategy.run(train_replica, args=batch)
        return [self.strategy.reduce(tf.distribute.ReduceOp.SUM, value, axis=None) for value in per_replica]

    def _train_replica(self, batch: tf.Tensor, labels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        loss_of = {"mse": keras.losses.mean_squared_error, "bce": keras.losses.binary_crossentropy}
        with tf.GradientTape() as tape:
            scores = self.model(batch, training=True)
            # the sum over replicas is the mean over the whole batch
            loss = tf.reduce_sum(loss_of[self.recipe.loss](labels, scores)) / self.recipe.batch_size
        gradients = tape.gradient(loss, [v.value for v in self.model.trainable_variables])
        self.optimizer.apply(gradients, self.model.trainable_variables)
        right = tf.cast((scores >= 0.5) == (labels >= 0.5), tf.float32)
        return loss, tf.reduce_sum(right) / self.recipe.batch_size

    def _imitate_replica(self, batch: tf.Tensor, _: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Return the mean squared error, and the share of the teacher's variance explained."""
        share = len(batch) / self.recipe.batch_size
        wanted = self._teacher.call(batch, training=False)
        with tf.GradientTape() as tape:
            # `call`, since the input of these models is declared as large as a face
            loss = share * tf.reduce_mean((self._student.call(batch, training=True) - wanted) ** 2)
        gradients = tape.gradient(loss, [v.value for v in self.model.trainable_variables])
        self.optimizer.apply(gradients, self.model.trainable_variables)
        return loss, share - loss / tf.math.reduce_variance(wanted)

    @property
    def steps_done(self) -> int:
        return int(self.optimizer.iterations.numpy())

    @property
    def learning_rate(self) -> float:
        return float(keras.ops.convert_to_numpy(self.optimizer.learning_rate))

    def train_epoch(
        self, face_set: data.FaceSet, epoch: int, watch: pipeline.Watch[int] = iter
    ) -> np.ndarray:
        """Train one epoch; return its mean (loss, accuracy), or as `_imitate_replica`.

        Raises ArithmeticError when a loss is no number.
        `watch` wraps the iterator over steps: a progress bar.
        """
        recipe = self.recipe
        order, changes = data.draw_epoch(
            face_set.images, recipe.batch_size, recipe.balance, recipe.seed, epoch
        )
        done = self.steps_done
        order, changes = order[: recipe.steps - done], changes[: recipe.steps - done]

        def make_batches(context: tf.distribute.InputContext) -> tf.data.Dataset:
            replicas = self.strategy.num_replicas_in_sync
            local = replicas // context.num_input_pipelines
            first = context.input_pipeline_id * local
            mine, side = slice(first, first + local), IMITATION_WINDOW if recipe.imitate else data.SIDE
            return data.make_batches(face_set, order, changes, replicas, mine, side)

        sums = np.zeros(2)
        batches = iter(self.strategy.distribute_datasets_from_function(make_batches))
        for step in watch(range(len(order))):
            values = np.array([float(value) for value in self._step(next(batches))])
            if not np.isfinite(values[0]):
                raise ArithmeticError(
                    f"the loss is {values[0]} at epoch {epoch + 1}, step {step + 1}: {ADVICE}"
                )
            sums += values
        return sums / len(order)

    def score(self, face_set: data.FaceSet, batch_size: int = 75) -> np.ndarray:
        """Return P(real) of the faces, float32 (N,), by the weights as they are now."""
        self.scorer.model.set_weights(self.model.get_weights())
        return self.scorer.predict(face_set.faces, batch_size)[:, 0]

    def agree(self, value: float) -> float:
        """Return the chief's `value` on every worker, so that all take the same decisions."""
        if not isinstance(self.strategy, tf.distribute.MultiWorkerMirroredStrategy):
            return value
        mine = tf.constant(value if is_chief(self.strategy) else 0.0, tf.float64)

        @tf.function
        def reduce_sum() -> tf.Tensor:
            return self.strategy.run(
                lambda: tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, mine)
            )

        return float(self.strategy.experimental_local_results(reduce_sum())[0])

    def lower_rate(self) -> None:
        """Divide the learning rate by ten, down to 1e-6: the plateau schedule."""
        rate = min(self.learning_rate, max(self.learning_rate / 10, LOWEST_RATE))
        self.optimizer.learning_rate.assign(rate)

    def _variables(self) -> list[keras.Variable]:
        # the seed states of the dropout layers are among the model's variables
        return [*self.model.variables, *self.optimizer.variables]

    def save(self, folder: Path, state: TrainingState) -> None:
        """Write the checkpoint of an epoch; the two last are kept."""
        arrays = {f"variable_{i}": v.numpy() for i, v in enumerate(self._variables())}
        header = json.dumps({"recipe": self.recipe._asdict(), "state": state._asdict()})
        path = folder / f"checkpoint-{state.epoch:05}.npz"
        pipeline.write_atomically(path, lambda part: np.savez(part, header=header, **arrays))
        for old in find_checkpoints(folder)[:-2]:
            old.unlink()

    def restore(self, path: Path) -> TrainingState:
        """Take up a checkpoint; return its TrainingState.

        Raises DamagedCheckpointError, with nothing changed, when it cannot be read, ValueError when
        the recipe was another.
        """
        variables = self._variables()
        try:
            with np.load(path, allow_pickle=False) as arrays:
                header = json.loads(str(arrays["header"]))
                values = [arrays[f"variable_{i}"] for i in range(len(arrays) - 1)]
            recipe = Recipe(**header["recipe"])
            state = TrainingState(**{**header["state"], "history": tuple(header["state"]["history"])})
            if any(not np.isfinite(value).all() for value in values):
                raise ValueError("weights that are no numbers")
        except UNREADABLE as error:
            raise DamagedCheckpointError(f"{path}: damaged ({pipeline.describe_error(error)})") from error
        for name, value in self.recipe._asdict().items():
            found = getattr(recipe, name)
            if found != value:
                raise ValueError(
                    f"{path}: was trained with {name} {found}, not {value}: "
                    "resume with the same, or train anew in another folder"
                )
        if [value.shape for value in values] != [tuple(variable.shape) for variable in variables]:
            raise DamagedCheckpointError(f"{path}: damaged (arrays of other shapes)")
        for variable, value in zip(variables, values, strict=True):
            variable.assign(value)
        return state


def find_checkpoints(folder: str | Path) -> list[Path]:
    """Return the checkpoints in a folder, oldest first."""
    found = Path(folder).glob("checkpoint-*.npz")
    return sorted(path for path in found if CHECKPOINT_NAME.fullmatch(path.name) and path.is_file())


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
    if not 0 <= count <= len(list_pools(model)):
        raise ValueError(f"freeze {count}: {model.name} has {len(list_pools(model))} blocks")
    if count:
        for layer in cut_blocks(model, count).layers:
            layer.trainable = False


def list_pools(model: keras.Model) -> list[keras.layers.Layer]:
    """Return the layers with which the blocks of a network end."""
    return [layer for layer in model.layers if isinstance(layer, keras.layers.MaxPooling2D)]


def cut_blocks(model: keras.Model, count: int) -> keras.Model:
    """Return the first `count` blocks of a network as one of its own, with the same variables."""
    return keras.Model(model.input, list_pools(model)[count - 1].output)


def list_head(model: keras.Model) -> list[keras.layers.Layer]:
    """Return the layers with weights that come after the blocks to imitate."""
    blocks = cut_blocks(model, IMITATED_BLOCKS).layers
    return [layer for layer in model.layers if layer.weights and layer not in blocks]


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

    After each, the chief writes history.csv and a checkpoint to `folder`, and calls
    `keep_best(epoch, validation scores)` when the validation AUC has never been as high. Begins
    where `state` stands. Raises ArithmeticError as `Trainer.train_epoch`, OSError.
    """
    recipe, state = trainer.recipe, state or TrainingState()
    chief = is_chief(trainer.strategy)
    epochs = -(-recipe.steps // -(-len(training.images) // recipe.batch_size))
    for epoch in range(state.epoch, 0 if state.finished else epochs):
        rate = trainer.learning_rate
        loss, share = trainer.train_epoch(training, epoch, watch)
        figures = {}
        if chief:
            scores = trainer.score(validation)
            if not np.isfinite(scores).all():
                raise ArithmeticError(f"the scores are no numbers after epoch {epoch + 1}: {ADVICE}")
            figures = measure(validation, scores, recipe.loss)
        auc = trainer.agree(figures.get("validation_auc", 0.0))
        better = auc > state.best
        row = {"epoch": epoch + 1, "step": trainer.steps_done, "loss": float(loss),
               "explained" if recipe.imitate else "accuracy": float(share), **figures,
               "learning_rate": rate}  # fmt: skip
        state = TrainingState(
            epoch + 1,
            auc if better else state.best,
            epoch + 1 if better else state.best_epoch,
            (*state.history, row),
        )
        waited = state.epoch - state.best_epoch
        if recipe.schedule == "plateau" and waited and waited % PLATEAU_PATIENCE == 0:
            trainer.lower_rate()
        state = state._replace(finished=bool(recipe.patience and waited >= recipe.patience))
        if chief:
            if better:
                keep_best(epoch + 1, scores)
            write_history(folder / "history.csv", state.history)
            trainer.save(folder, state)
        yield row, better
        if state.finished:
            return


def write_history(path: Path, history: Sequence[dict[str, Any]]) -> None:
    def write(part: Path) -> None:
        with open(part, "w", newline="") as file:
            writer = csv.DictWriter(file, history[0])
            writer.writeheader()
            writer.writerows(history)

    pipeline.write_atomically(path, write)


def measure(face_set: data.FaceSet, scores: np.ndarray, loss: str) -> dict[str, float]:
    """Return the figures of an epoch's validation: loss, accuracy, balanced accuracy and AUC per image.

    The last two are means over the datasets that have both classes, so that the largest does not
    decide alone.
    """
    real = face_set.labels[:, 0].astype(float)
    safe = np.clip(scores.astype(float), 1e-7, 1 - 1e-7)
    losses = {
        "mse": np.mean((scores - real) ** 2),
        "bce": -np.mean(real * np.log(safe) + (1 - real) * np.log(1 - safe)),
    }
    found = evaluate_by_dataset(label_scores(face_set.images, scores, 0.5), 0.5)
    return {
        "validation_loss": float(losses[loss]),
        "validation_accuracy": found["all"]["image"]["accuracy"],
        "validation_balanced_accuracy": found["mean"]["image"]["balanced_accuracy"],
        "validation_auc": found["mean"]["image"]["auc"],
    }
