"""Tests of `study.augmentation`: each change on its own, all together, and on the device."""

import jax
import numpy as np
import pytest
import tensorflow as tf

from study import augmentation
from study.augmentation import (
    MAX_BRIGHTNESS,
    SATURATION,
    augment,
    augment_on_device,
    augmented,
    saturate,
    size_to_crop_from,
)

# Where the changes happen: red is the row, green the column; blue is constant.
ROWS, COLUMNS = np.mgrid[:12, :12]
COORDINATES = np.stack([100 + 4 * ROWS, 100 + 4 * COLUMNS, np.full_like(ROWS, 122)], axis=-1).astype("uint8")


@pytest.fixture
def without_colors(monkeypatch):
    """Leave crops and flips alone on."""
    monkeypatch.setattr(augmentation, "MAX_BRIGHTNESS", 1e-9)
    monkeypatch.setattr(augmentation, "SATURATION", (1.0, 1.0 + 1e-9))


def many(image, size, number=400):
    return np.stack([augment(tf.constant(image), tf.constant([seed, 0], tf.int64), size) for seed in range(number)])


def test_size_to_crop_from_is_in_the_ratio_of_the_thesis():
    assert [size_to_crop_from(size) for size in (224, 112, 64)] == [256, 128, 73]


def test_crops_are_everywhere_and_half_of_them_are_flipped(without_colors):
    images = many(COORDINATES, 8)
    assert images.shape == (400, 8, 8, 3) and images.dtype == "float32"
    rows, columns = ((images[..., channel] - 100) / 4 for channel in (0, 1))
    top, left = rows[:, 0, 0].round().astype(int), columns.min(axis=(1, 2)).round().astype(int)
    expected = COORDINATES.astype("float32")
    for image, y, x, flipped in zip(images, top, left, columns[:, 0, 0] > columns[:, 0, 7], strict=True):
        crop = expected[y : y + 8, x : x + 8]
        np.testing.assert_allclose(image, crop[:, ::-1] if flipped else crop, atol=0.01)
    # Five places each way; 400 draws: four standard deviations are 32 about 80, and 40 about 200.
    for places in (top, left):
        counts = np.bincount(places, minlength=5)
        assert len(counts) == 5 and np.abs(counts - 80).max() < 32
    assert abs(np.sum(columns[:, 0, 0] > columns[:, 0, 7]) - 200) < 40


def test_brightness_moves_all_values_by_up_to_a_fifth_of_the_range(monkeypatch):
    monkeypatch.setattr(augmentation, "SATURATION", (1.0, 1.0 + 1e-9))
    moved = many(np.full((4, 4, 3), 128, "uint8"), 4) - 128
    assert np.ptp(moved, axis=(1, 2, 3)).max() < 0.01
    assert -51 - 0.01 <= moved.min() < -48 and 48 < moved.max() <= 51 + 0.01
    assert abs(moved[:, 0, 0, 0].mean()) < 4 * 51 / np.sqrt(3 * 400)  # uniform: deviation 51 / sqrt(3)


def test_saturation_is_multiplied_by_up_to_a_fifth_more_or_less(monkeypatch):
    monkeypatch.setattr(augmentation, "MAX_BRIGHTNESS", 1e-9)
    # Saturation is (max - min) / max: 0.5 here; the greatest channel stays.
    images = many(np.full((4, 4, 3), (200, 150, 100), "uint8"), 4)[:, 0, 0]
    np.testing.assert_allclose(images[:, 0], 200, rtol=1e-5)
    factors = (1 - images[:, 2] / images[:, 0]) / 0.5
    assert 0.8 - 1e-4 <= factors.min() < 0.82 and 1.18 < factors.max() <= 1.2 + 1e-4


def test_values_stay_in_the_range_of_pixels(rng):
    images = many(rng.choice([0, 255], (12, 12, 3)).astype("uint8"), 8, 100)
    assert images.min() >= 0 and images.max() <= 255


def test_same_seed_same_image(rng):
    image = tf.constant(rng.integers(0, 256, (12, 12, 3)).astype("uint8"))
    first, again, other = (augment(image, tf.constant(seed, tf.int64), 8).numpy() for seed in ([1, 0], [1, 0], [2, 0]))
    np.testing.assert_array_equal(first, again)
    assert np.any(first != other)


def test_examples_keep_their_labels_and_differ_from_each_other_and_from_epoch_to_epoch():
    examples = tf.data.Dataset.from_tensor_slices((np.stack([COORDINATES] * 30), np.arange(30)))
    changed = augmented(examples, 8, 1)
    first, second = ([image.tobytes() for image, _ in changed.as_numpy_iterator()] for _ in range(2))
    assert [int(label) for _, label in changed.as_numpy_iterator()] == list(range(30))
    assert len(set(first)) == 30 and not set(first) & set(second)
    again, other = (next(iter(augmented(examples, 8, seed).as_numpy_iterator()))[0] for seed in (1, 2))
    assert again.tobytes() == first[0] != other.tobytes()


# On the device.


def on_device(image, num_keys, size):
    """Return the images that `num_keys` keys make of one."""
    keys = jax.random.split(jax.random.key(0), num_keys)
    return np.asarray(jax.jit(jax.vmap(lambda key: augment_on_device(image, key, size)))(keys), "float64")


def test_saturation_is_that_of_tensorflow(rng):
    image = np.concatenate([rng.uniform(0, 1, (60, 5, 3)), np.tile(rng.uniform(0, 1, (4, 5, 1)), 3)]).astype("float32")
    image[:3] = np.eye(3, dtype="float32")[:, None]  # pure colours
    image[-1] = 0
    for factor in (0.0, 0.8, 1.0, 1.2, 5.0):
        expected = tf.image.adjust_saturation(image, factor).numpy()
        np.testing.assert_allclose(saturate(image, factor), expected, atol=2e-6, err_msg=str(factor))


def test_crop_flip_and_brightness_on_device():
    """On grey images saturation does nothing: each result is a window, mirrored or not, plus a constant."""
    rows, columns = np.mgrid[0:10, 0:10]
    image = np.repeat((100 + 2 * rows + 5 * columns)[..., None], 3, axis=-1).astype("uint8")
    results = on_device(image, 2000, 8)
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


def test_every_window_is_drawn_on_device():
    """The brightest pixel of a black image tells the offset; clipping at 0 keeps the rest black or equally bright."""
    image = np.zeros((4, 4, 3), "uint8")
    image[1, 1] = 200
    results = on_device(image, 500, 2).max(axis=-1)
    shares = {}
    for result in results:
        is_bright = result == result.max()
        place = tuple(np.argwhere(is_bright)[0]) if is_bright.sum() == 1 else None
        shares[place] = shares.get(place, 0) + 1 / len(results)
    # Of 9 windows, 4 hold the pixel, in each corner once; flipped or not, each corner has a ninth.
    assert set(shares) == {None, (0, 0), (0, 1), (1, 0), (1, 1)}
    assert all(0.05 < share < 0.18 for place, share in shares.items() if place is not None)


def test_saturation_and_clipping_on_device():
    image = np.broadcast_to(np.array([150, 100, 125], "uint8"), (2, 2, 3))
    results = on_device(image, 1000, 2)[:, 0, 0]
    factors = (results[:, 0] - results[:, 1]) / 50
    assert SATURATION[0] - 1e-3 < factors.min() < 0.81 and 1.19 < factors.max() < SATURATION[1] + 1e-3
    assert abs(factors.mean() - 1) < 0.02
    bright = on_device(np.full((2, 2, 3), 250, "uint8"), 200, 2)
    assert bright.max() == 255 and bright.min() >= 250 - 255 * MAX_BRIGHTNESS - 1e-3
