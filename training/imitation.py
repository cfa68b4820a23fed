"""Imitation: one network's first blocks learn to give what another's give.

Romero et al., "FitNets: Hints for Thin Deep Nets", ICLR 2015. The outputs of the blocks are thousands of
numbers to learn from in each face; a label is one. The layers after them have the same shapes in both
networks: they are copied. Blocks see no further than a small window, which costs a sixteenth of a face.
"""

import keras  # after classifiers, which sets what TensorFlow reads when it is imported

BLOCKS = 3  # to imitate
WINDOW = 64  # pixels, both ways


def make_student(model: keras.Model, teacher: keras.Model) -> tuple[keras.Model, keras.Model]:
    """Return the blocks of `model`, with its variables, and those of `teacher`, both for windows of faces.

    The other layers of `model` become the teacher's. Raises ValueError if they have other shapes.
    """
    heads = list_head(model), list_head(teacher)
    ends, wanted_ends = ([[w.shape for w in layer.weights] for layer in head] for head in heads)
    if ends != wanted_ends:
        raise ValueError(f"--imitate: {model.name} and {teacher.name} must end in layers of the same shapes")
    for layer, taught in zip(*heads, strict=True):
        layer.set_weights(taught.get_weights())
        layer.trainable = False
    models, window = (model, teacher), keras.Input((WINDOW, WINDOW, 3))
    student, wanted = (
        keras.models.clone_model(cut_blocks(m), window, clone_function=lambda layer: layer) for m in models
    )
    return student, wanted


def cut_blocks(model: keras.Model) -> keras.Model:
    """Return the blocks to imitate, each up to its max-pooling, as a network with the same variables."""
    pools = [layer for layer in model.layers if isinstance(layer, keras.layers.MaxPooling2D)]
    return keras.Model(model.input, pools[BLOCKS - 1].output)


def list_head(model: keras.Model) -> list[keras.layers.Layer]:
    """Return the layers with weights that come after the blocks to imitate."""
    blocks = cut_blocks(model).layers
    return [layer for layer in model.layers if layer.weights and layer not in blocks]
