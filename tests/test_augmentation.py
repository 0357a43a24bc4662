"""Tests of `lqs.augmentation`: each change on its own, and all together on images made here."""

import numpy as np
import pytest
import tensorflow as tf

from lqs import augmentation
from lqs.augmentation import augment, augmented, size_to_crop_from

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
