"""Imitation: one network's first blocks learn to give what another's give.

Romero et al., "FitNets: Hints for Thin Deep Nets", ICLR 2015. The outputs of the blocks are thousands of
numbers to learn from in each face; a label is one. The layers after them have the same shapes in all
networks: they are copied. Blocks see no further than a small window, which costs a sixteenth of a face.
"""

from typing import Any

import classifiers  # noqa: F401  (first: it sets what TensorFlow reads when it is imported)

# isort: split
import keras
import tensorflow as tf

BLOCKS = 3  # to imitate
WINDOW = 64  # pixels, both ways


class Student(keras.Model):
    """The first blocks of a network, on windows of faces, fitted to those of a teacher."""

    teacher: keras.Model

    def fit(self, batches: tf.data.Dataset, **options: Any) -> Any:
        """Fit to batches of (windows, labels); labels do not matter."""
        shape = self.output_shape[1:]
        # Keras looks at the targets' shape before the first step; `train_step` gives their values
        unlabelled = batches.map(lambda windows, labels: (windows, tf.zeros((labels.shape[0], *shape))))
        return super().fit(unlabelled, **options)

    def train_step(self, data: tuple[Any, Any]) -> dict[str, Any]:
        return super().train_step((data[0], self.teacher(data[0], training=False)))


def make_student(model: keras.Model, teacher: keras.Model) -> Student:
    """Return a Student that shares the variables of `model`, whose other layers become the teacher's."""
    for layer, taught in zip(list_head(model), list_head(teacher), strict=True):
        layer.set_weights(taught.get_weights())
        layer.trainable = False
    blocks = _on_windows(model)
    student = Student(blocks.inputs, blocks.outputs)
    student.teacher = _on_windows(teacher)
    student.teacher.trainable = False
    return student


def explained(wanted: Any, found: Any) -> Any:
    """Return the share of the variance in `wanted` that `found` explains: at most 1, a scalar tensor."""
    wanted, found = tf.cast(wanted, tf.float32), tf.cast(found, tf.float32)
    return 1 - tf.reduce_mean((found - wanted) ** 2) / tf.math.reduce_variance(wanted)


def list_pools(model: keras.Model) -> list[keras.layers.Layer]:
    """Return the layers with which the blocks of a network end."""
    return [layer for layer in model.layers if isinstance(layer, keras.layers.MaxPooling2D)]


def cut_blocks(model: keras.Model, count: int) -> keras.Model:
    """Return the first `count` blocks of a network as one of its own, with the same variables."""
    return keras.Model(model.input, list_pools(model)[count - 1].output)


def list_head(model: keras.Model) -> list[keras.layers.Layer]:
    """Return the layers with weights that come after the blocks to imitate."""
    blocks = cut_blocks(model, BLOCKS).layers
    return [layer for layer in model.layers if layer.weights and layer not in blocks]


def _on_windows(model: keras.Model) -> keras.Model:
    """Return the blocks to imitate with the same layers, for windows instead of faces."""
    return keras.models.clone_model(
        cut_blocks(model, BLOCKS),
        input_tensors=keras.Input((WINDOW, WINDOW, 3)),
        clone_function=lambda layer: layer,
    )
