"""Tests of `lqs.augmentation`: what is drawn on the device, against `tf.image` and against what it is drawn from."""

import jax
import numpy as np

from lqs.augmentation import MAX_BRIGHTNESS, SATURATION, augment_on_device, saturate


def augmented(image, num_keys, size):
    """Return the images that `num_keys` keys make of one."""
    keys = jax.random.split(jax.random.key(0), num_keys)
    return np.asarray(jax.jit(jax.vmap(lambda key: augment_on_device(image, key, size)))(keys), "float64")


def test_saturation_is_that_of_tensorflow(rng):
    import tensorflow as tf

    image = np.concatenate([rng.uniform(0, 1, (60, 5, 3)), np.tile(rng.uniform(0, 1, (4, 5, 1)), 3)]).astype("float32")
    image[:3] = np.eye(3, dtype="float32")[:, None]  # pure colours
    image[-1] = 0
    for factor in (0.0, 0.8, 1.0, 1.2, 5.0):
        expected = tf.image.adjust_saturation(image, factor).numpy()
        np.testing.assert_allclose(saturate(image, factor), expected, atol=2e-6, err_msg=str(factor))


def test_crop_flip_and_brightness():
    """On grey images saturation does nothing: each result is a window, mirrored or not, plus a constant."""
    rows, columns = np.mgrid[0:10, 0:10]
    image = np.repeat((100 + 2 * rows + 5 * columns)[..., None], 3, axis=-1).astype("uint8")
    results = augmented(image, 2000, 8)
    assert results.shape == (2000, 8, 8, 3) and np.ptp(results, axis=-1).max() < 1e-4
    differences = np.diff(results, axis=2)
    is_flipped = differences[:, 0, 0, 0] < 0
    np.testing.assert_allclose(
        differences, np.broadcast_to(np.where(is_flipped, -5, 5)[:, None, None, None], differences.shape), atol=1e-3
    )
    np.testing.assert_allclose(np.diff(results, axis=1), 2, atol=1e-3)
    assert 0.45 < is_flipped.mean() < 0.55
    # With offsets of 0 to 2 in both directions and a shift, the upper left corner is 100 + 2 i + 5 j + shift.
    corner = np.where(is_flipped, results[:, 0, -1, 0], results[:, 0, 0, 0])
    lowest, highest = 100 - 255 * MAX_BRIGHTNESS, 100 + 4 + 10 + 255 * MAX_BRIGHTNESS
    assert lowest <= corner.min() < lowest + 5 and highest - 5 < corner.max() <= highest
    assert abs(corner.mean() - 107) < 5 * np.sqrt((51**2 / 3 + 4 * 2 / 3 + 25 * 2 / 3) / 2000)


def test_every_window_is_drawn():
    """The brightest pixel of a black image tells the offset; clipping at 0 keeps the rest black or equally bright."""
    image = np.zeros((4, 4, 3), "uint8")
    image[1, 1] = 200
    results = augmented(image, 500, 2).max(axis=-1)
    shares = {}
    for result in results:
        is_bright = result == result.max()
        place = tuple(np.argwhere(is_bright)[0]) if is_bright.sum() == 1 else None
        shares[place] = shares.get(place, 0) + 1 / len(results)
    # Of 9 windows, 4 hold the pixel, in each corner once; flipped or not, each corner has a ninth.
    assert set(shares) == {None, (0, 0), (0, 1), (1, 0), (1, 1)}
    assert all(0.05 < share < 0.18 for place, share in shares.items() if place is not None)


def test_saturation_and_clipping():
    image = np.broadcast_to(np.array([150, 100, 125], "uint8"), (2, 2, 3))
    results = augmented(image, 1000, 2)[:, 0, 0]
    factors = (results[:, 0] - results[:, 1]) / 50
    assert SATURATION[0] - 1e-3 < factors.min() < 0.81 and 1.19 < factors.max() < SATURATION[1] + 1e-3
    assert abs(factors.mean() - 1) < 0.02
    bright = augmented(np.full((2, 2, 3), 250, "uint8"), 200, 2)
    assert bright.max() == 255 and bright.min() >= 250 - 255 * MAX_BRIGHTNESS - 1e-3
