"""Augmentation of images: the thesis's for Imagenette (section 4.1), seeded image by image.

`augment` is for `tf.data`, by `tf.image`; `augment_on_device` draws from the same distribution inside a JAX step.
"""

CROP_FROM = 256 / 224  # the thesis takes crops of 224 pixels from images of 256
MAX_BRIGHTNESS = 0.2  # of the range of pixel values
SATURATION = (0.8, 1.2)


def size_to_crop_from(size):
    """Return the size of the images that random crops of `size` are taken from.

    Example:

    >>> size_to_crop_from(224), size_to_crop_from(64)
    (256, 73)
    """
    return round(size * CROP_FROM)


def augment(image, seed, size):
    """Return an image cropped, flipped, and changed in brightness and saturation at random.

    The crop is at a random place; half of the images are flipped left to right; up to a fifth of the range is added to
    or taken from all pixel values; the saturation is multiplied by 0.8 to 1.2.

    Args:
        image: uint8 tensor `(height, width, 3)`, height and width at least `size`.
        seed: integer tensor `(2,)`. The same seed gives the same changes.
        size: height and width of the crop.

    Returns:
        float32 tensor `(size, size, 3)` with values from 0 to 255.
    """
    import tensorflow as tf

    crop, flip, brightness, saturation = tf.unstack(tf.random.split(seed, 4))
    image = tf.image.stateless_random_crop(image, (size, size, 3), crop)
    image = tf.image.stateless_random_flip_left_right(tf.cast(image, "float32") / 255, flip)
    image = tf.image.stateless_random_brightness(image, MAX_BRIGHTNESS, brightness)
    image = tf.image.stateless_random_saturation(tf.clip_by_value(image, 0, 1), *SATURATION, saturation)
    return 255 * image


def augmented(examples, size, seed):
    """Return the `tf.data.Dataset` of pairs `(image, label)` with every image augmented, anew in each epoch."""
    import tensorflow as tf

    def change(example, seed):
        image, label = example
        return augment(image, tf.stack([seed, 0]), size), label

    seeds = tf.data.Dataset.random(seed, rerandomize_each_iteration=True)
    pairs = tf.data.Dataset.zip(examples, seeds)
    return pairs.map(change, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)


def augment_on_device(image, key, size):
    """Return an image changed as by `augment`, which also gives the arguments, for use under `jax.jit` and `jax.vmap`.

    `key` is a key of `jax.random`.
    """
    import jax
    from jax import numpy as jnp

    crop, flip, brightness, saturation = jax.random.split(key, 4)
    corner = jax.random.randint(crop, (2,), 0, jnp.array(image.shape[:2]) - size + 1)
    image = jax.lax.dynamic_slice(image, (*corner, 0), (size, size, 3)).astype("float32") / 255
    image = jnp.where(jax.random.bernoulli(flip), image[:, ::-1], image)
    image += jax.random.uniform(brightness, (), "float32", -MAX_BRIGHTNESS, MAX_BRIGHTNESS)
    factor = jax.random.uniform(saturation, (), "float32", *SATURATION)
    return 255 * saturate(jnp.clip(image, 0, 1), factor)


def saturate(image, factor):
    """Return `tf.image.adjust_saturation(image, factor)` of a float image in JAX, without its way over HSV.

    With `V` the maximum of a pixel's channels and `S` its saturation, which has to stay below 1, every channel moves
    away from the maximum or towards it:

        S = (V - min) / V,    channel := V - (V - channel) * min(factor, 1 / S)

    Example:

    >>> import numpy as np
    >>> saturate(np.array([0.5, 0.25, 0.375], "float32"), 2.0).tolist()
    [0.5, 0.0, 0.25]
    """
    from jax import numpy as jnp

    value = jnp.max(image, axis=-1, keepdims=True)
    spread = value - jnp.min(image, axis=-1, keepdims=True)
    factor = jnp.where(factor * spread > value, value / jnp.where(spread == 0, 1, spread), factor)
    return value - (value - image) * factor
