"""A moving average of a network's weights, which often does better than the weights themselves."""

import classifiers  # noqa: F401  (first: it sets what TensorFlow reads when it is imported)

# isort: split
import keras
import numpy as np
import tensorflow as tf


class MovingAverage(keras.callbacks.Callback):
    """Averages all weights of a network, the statistics of batch normalisation included, at every step.

    Keras' own average, of its optimisers, leaves the statistics out and begins with the random weights
    of the start. This one keeps little of the first steps: 1/10, 2/11, 3/12, ... up to `share`.
    """

    def __init__(self, network: keras.Model, optimizer: keras.Optimizer, share: float) -> None:
        super().__init__()
        self.network, self.optimizer, self.share = network, optimizer, share
        self.variables = [tf.Variable(weight) for weight in network.weights]  # for the checkpoint

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:  # noqa: ARG002
        steps = int(self.optimizer.iterations.numpy())
        kept = min(self.share, steps / (steps + 9))
        for mean, weight in zip(self.variables, self.network.weights, strict=True):
            mean.assign(kept * mean + (1 - kept) * weight.value)

    def get_weights(self) -> list[np.ndarray]:
        return [variable.numpy() for variable in self.variables]
