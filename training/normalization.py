"""Batch normalisation that trains 2.4 times as fast as Keras' own on a CPU."""

from typing import Any

import classifiers  # noqa: F401  (first: it sets what TensorFlow reads when it is imported)

# isort: split
import keras


class BatchNormalization(keras.layers.BatchNormalization):
    """Keras' BatchNormalization, faster to train on TensorFlow; same variables, same inference.

    Keras 3 normalises with separate reductions and elementwise passes, which cost as much as the
    convolutions here. TensorFlow's fused kernel, as under the authors' Keras 2, takes a fifth of
    that, but twice as much where the channels are no multiple of four (the first inception block
    has 11): there the sums are matrix products. The name is Keras' own because Keras stores
    weights under class names: either layer reads the other's files.
    """

    def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        if not (training and self.trainable and self._is_ours()) or inputs.shape[-1] % 4:
            return super().call(inputs, training=training, mask=mask)
        from tensorflow.compat.v1.nn import fused_batch_norm

        outputs, mean, variance = fused_batch_norm(
            inputs, self.gamma, self.beta, epsilon=self.epsilon, is_training=True
        )
        # this variance is the unbiased one, n / (n - 1) times Keras 3's
        for moving, batch in ((self.moving_mean, mean), (self.moving_variance, variance)):
            moving.assign(moving * self.momentum + batch * (1.0 - self.momentum))
        return outputs

    def _moments(self, inputs: Any, mask: Any) -> tuple[Any, Any]:
        if not self._is_ours():
            return super()._moments(inputs, mask)
        pixels = keras.ops.reshape(inputs, (-1, inputs.shape[-1]))
        ones = keras.ops.ones_like(pixels[:, :1])
        mean, square = (
            keras.ops.matmul(keras.ops.transpose(ones), values)[0] / keras.ops.sum(ones)
            for values in (pixels, keras.ops.square(pixels))
        )
        return mean, keras.ops.maximum(square - keras.ops.square(mean), 0.0)

    def _is_ours(self) -> bool:
        return keras.backend.backend() == "tensorflow" and not self.synchronized
