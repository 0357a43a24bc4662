"""Tests of `study.datasets`: small archives made here; the published files only where `LQS_MIRROR` has them."""

import errno
import functools
import gzip
import hashlib
import io
import os
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from study import datasets, downloads

MIRROR = os.environ.get("LQS_MIRROR")
CLASS_NAMES = ("n01", "n02")
COUNTS = {"train": (2, 1), "val": (1, 2)}


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    """Leave the publishers out, and forget the user's settings."""
    for name in ("MNIST_URLS", "CIFAR10_URLS", "IMAGENETTE_URLS"):
        monkeypatch.setattr(datasets, name, ())
    for variable in ("LQS_MIRROR", "LQS_DATA"):
        monkeypatch.delenv(variable, raising=False)


@pytest.fixture
def mnist(tmp_path, monkeypatch):
    """Make a mirror with an MNIST of 3 training and 2 test images, whose hashes the loader knows."""
    folder = tmp_path / "mirror" / "mnist"
    folder.mkdir(parents=True)
    hashes = {}
    for name in datasets.MNIST_HASHES:
        number = 3 if name.startswith("train") else 2
        header = bytes([0, 0, 8, 3]) + bytes(12) if "images" in name else bytes([0, 0, 8, 1]) + bytes(4)
        values = np.arange(number * 784 if "images" in name else number, dtype="uint8").tobytes()
        content = gzip.compress(header + values, mtime=0)
        (folder / name).write_bytes(content)
        hashes[name] = "sha256:" + hashlib.sha256(content).hexdigest()
    monkeypatch.setattr(datasets, "MNIST_HASHES", hashes)
    return folder.parent


def write_tar(path, members, mode="w"):
    """Write `{name: bytes}` as a tar."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as archive:
        for name, content in members.items():
            header = tarfile.TarInfo(name)
            header.size = len(content)
            archive.addfile(header, io.BytesIO(content))
    return path


def make_cifar10(monkeypatch):
    """Return the members of a CIFAR-10 with 2 images in each batch, whose md5 the loader knows."""
    generator = np.random.default_rng(0)
    members = {}
    for name in datasets.CIFAR10_MEMBERS:
        images = generator.integers(0, 256, (2, 3072)).astype("uint8")
        members[name] = pickle.dumps({b"data": images, b"labels": generator.integers(0, 10, 2).tolist()})
    md5 = {name: hashlib.md5(content).hexdigest() for name, content in members.items()}
    monkeypatch.setattr(datasets, "CIFAR10_MEMBERS", md5)
    return {f"cifar-10-batches-py/{name}": content for name, content in members.items()}


def jpeg(grey, mode="RGB", size=(160, 160)):
    buffer = io.BytesIO()
    Image.new(mode, size, (grey, grey, grey) if mode == "RGB" else grey).save(buffer, "JPEG")
    return buffer.getvalue()


def make_imagenette(monkeypatch):
    """Return the members of an Imagenette of uniform images, grey 10, 20, 30 (train) and 40, 50, 60 (val)."""
    paths = [
        f"{split}/{name}/{name}_{index}.JPEG"
        for split, counts in COUNTS.items()
        for name, count in zip(CLASS_NAMES, counts, strict=True)
        for index in range(count)
    ]
    monkeypatch.setattr(datasets, "IMAGENETTE_PATHS", hashlib.sha256("\n".join(sorted(paths)).encode()).hexdigest())
    images = [jpeg(10), jpeg(20, "L"), jpeg(30, size=(200, 160)), jpeg(40), jpeg(50), jpeg(60)]
    members = {f"imagenette2-160/{path}": image for path, image in zip(paths, images, strict=True)}
    return dict(reversed(members.items()))  # archives are not sorted


def files_in(folder):
    return sorted(str(path.relative_to(folder)) for path in Path(folder).rglob("*") if path.is_file())


# Digits and the dataset itself.


def test_digits_need_no_file_and_have_a_fixed_split(tmp_path):
    digits = datasets.load("digits", cache=tmp_path)
    assert digits.x_train.shape == (1500, 8, 8, 1) and digits.x_test.shape == (297, 8, 8, 1)
    assert digits.x_train.dtype == "uint8" and digits.y_train.dtype == "int32"
    assert np.bincount(digits.y_test).tolist() == [27, 31, 27, 30, 33, 30, 30, 30, 28, 31]
    assert (digits.num_classes, digits.input_shape) == (10, (8, 8, 1))
    assert files_in(tmp_path) == []


def test_unknown_name_lists_the_names():
    with pytest.raises(ValueError, match=r"'mnist', 'cifar10', 'imagenette', 'digits'.*Received: name='svhn'"):
        datasets.load("svhn")


@pytest.mark.parametrize("argument", ["size", "train_size"])
@pytest.mark.parametrize("size", [0, -1, 1.5, True, "160"])
def test_wrong_size(argument, size):
    with pytest.raises(ValueError, match=f"`{argument}` must be a positive integer. Received: {argument}={size!r}"):
        datasets.load("imagenette", **{argument: size})


def test_dataset_is_frozen_and_its_repr_is_short():
    digits = datasets.load("digits")
    with pytest.raises(AttributeError):
        digits.name = "other"
    assert len(repr(digits)) < 150


def test_holdout_takes_the_place_of_the_test_set():
    digits, held_out = datasets.load("digits"), datasets.load("digits", holdout=300)
    assert held_out.x_train.shape == (1200, 8, 8, 1) and held_out.x_test.shape == (300, 8, 8, 1)
    assert held_out.source == f"{digits.source}; 300 of its training examples as test set"
    # Together they are the training examples with their labels, each part in the old order.
    order = numbered(digits.x_train, digits.y_train)
    kept = [order[example] for example in numbered(held_out.x_train, held_out.y_train)]
    held = [order[example] for example in numbered(held_out.x_test, held_out.y_test)]
    assert kept == sorted(kept) and held == sorted(held) and sorted(kept + held) == list(range(1500))
    assert held[:5] == [11, 23, 24, 25, 28]  # the same ones for ever, so that a choice can be repeated
    assert np.bincount(held_out.y_test).min() > 15  # of 30 in the mean


def numbered(images, labels):
    """Return the number of each example by its content."""
    return {image.tobytes() + bytes([label]): i for i, (image, label) in enumerate(zip(images, labels, strict=True))}


def test_smaller_holdout_is_part_of_the_larger():
    small, large = (datasets.load("digits", holdout=number) for number in (1, 1499))
    assert len(small.x_test) == len(large.x_train) == 1
    assert small.x_test.tobytes() in {image.tobytes() for image in large.x_test}


@pytest.mark.parametrize("holdout", [0, -1, 1500, 0.5, "300"])
def test_wrong_holdout(holdout):
    with pytest.raises(ValueError, match=f"`holdout` must be an integer from 1 to 1499. Received: holdout={holdout!r}"):
        datasets.load("digits", holdout=holdout)


def test_tf_data_keeps_every_example_and_its_label():
    digits = datasets.load("digits")
    train, test = digits.as_tf_data(batch_size=64)
    assert (int(train.cardinality()), int(test.cardinality())) == (24, 5)
    assert train.element_spec[0].shape.as_list() == [None, 8, 8, 1]
    images, labels = (np.concatenate(parts) for parts in zip(*train.as_numpy_iterator(), strict=True))
    np.testing.assert_array_equal(images, digits.x_train)
    np.testing.assert_array_equal(labels, digits.y_train)


def test_tf_data_shuffles_training_examples_by_the_seed():
    digits = datasets.load("digits")

    def epochs(seed):
        train, test = digits.as_tf_data(1500, shuffle_seed=seed)
        assert np.array_equal(next(test.as_numpy_iterator())[1], digits.y_test)
        return [next(train.as_numpy_iterator()) for _ in range(2)]

    (images, labels), (_, second) = epochs(1)
    assert not np.array_equal(labels, digits.y_train) and not np.array_equal(labels, second)
    np.testing.assert_array_equal(np.sort(labels), np.sort(digits.y_train))
    first_of = {image.tobytes(): label for image, label in zip(digits.x_train, digits.y_train, strict=True)}
    assert all(first_of[image.tobytes()] == label for image, label in zip(images, labels, strict=True))
    np.testing.assert_array_equal(epochs(1)[0][1], labels)
    assert not np.array_equal(epochs(2)[0][1], labels)


def make_images(number):
    """Return a dataset of `number` training images of 12 x 12, one test image of 8 x 8, and labels that count."""
    generator = np.random.default_rng(1)
    images = [
        generator.integers(0, 256, (count, size, size, 3)).astype("uint8") for count, size in ((number, 12), (1, 8))
    ]
    labels = [np.arange(number, dtype="int32"), np.zeros(1, "int32")]
    return datasets.Dataset("made", images[0], labels[0], images[1], labels[1], number, "made here")


def test_augmented_images_have_the_size_of_the_test_images():
    train, test = make_images(50).as_tf_data(16, shuffle_seed=3, augment=True)
    assert int(train.cardinality()) == 4  # so that Keras knows the length of an epoch
    batches = list(train.as_numpy_iterator())
    assert [images.shape for images, _ in batches] == [(16, 8, 8, 3)] * 3 + [(2, 8, 8, 3)]
    assert {images.dtype.name for images, _ in batches} == {"float32"}
    assert min(images.min() for images, _ in batches) >= 0
    assert 200 < max(images.max() for images, _ in batches) <= 255
    labels = np.concatenate([labels for _, labels in batches])
    assert sorted(labels) == list(range(50)) and list(labels) != sorted(labels)
    assert next(test.as_numpy_iterator())[0].dtype == "uint8"


def test_augmentation_is_decided_by_the_seed_and_new_in_each_epoch():
    dataset = make_images(20)

    def epochs(seed):
        train, _ = dataset.as_tf_data(20, shuffle_seed=seed, augment=True)
        parts = [next(train.as_numpy_iterator()) for _ in range(2)]
        return [images[np.argsort(labels)] for images, labels in parts]  # in the order of the dataset

    first, second = epochs(1)
    again = epochs(1)
    np.testing.assert_array_equal(again[0], first)
    np.testing.assert_array_equal(again[1], second)
    for other in (second, epochs(2)[0]):
        assert all(np.any(image != image_too) for image, image_too in zip(first, other, strict=True))


def test_augmentation_needs_a_seed():
    message = "`augment` needs a seed. Received: augment=True, shuffle_seed=None"
    with pytest.raises(ValueError, match=message):
        make_images(2).as_tf_data(2, augment=True)


# MNIST: plain files.


def assert_is_small_mnist(dataset):
    assert dataset.x_train.shape == (3, 28, 28, 1) and dataset.x_test.shape == (2, 28, 28, 1)
    assert dataset.x_train.ravel()[:300].tolist() == [*range(256), *range(44)]
    assert dataset.y_train.tolist() == [0, 1, 2] and dataset.y_test.tolist() == [0, 1]
    assert dataset.x_train.dtype == "uint8" and dataset.y_train.dtype == "int32"


def test_mnist_from_a_mirror(mnist, tmp_path):
    dataset = datasets.load("mnist", mirror=mnist, cache=tmp_path / "cache")
    assert_is_small_mnist(dataset)
    assert files_in(tmp_path / "cache") == files_in(mnist)
    assert dataset.source == "mnist/*-ubyte.gz, the publishers' files"


def test_environment_names_mirror_and_cache(mnist, tmp_path, monkeypatch):
    monkeypatch.setenv("LQS_MIRROR", str(mnist))
    monkeypatch.setenv("LQS_DATA", str(tmp_path / "cache"))
    assert_is_small_mnist(datasets.load("mnist"))
    assert len(files_in(tmp_path / "cache")) == 4


@pytest.mark.parametrize("name, file", [("mnist", "train-images"), ("cifar10", "cifar"), ("imagenette", "160sq.tar")])
def test_without_network_one_error_says_what_to_do(tmp_path, name, file):
    with pytest.raises(ConnectionError, match="No usable copy of") as caught:
        datasets.load(name, cache=tmp_path)
    message = str(caught.value)
    assert file in message and str(tmp_path / name) in message and "LQS_MIRROR" in message
    assert files_in(tmp_path) == []


def test_wrong_hash_is_refused_and_leaves_nothing(mnist, tmp_path):
    (mnist / "mnist" / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(bytes(100)))
    with pytest.raises(ConnectionError, match="does not match the known hash"):
        datasets.load("mnist", mirror=mnist, cache=tmp_path / "cache")
    assert files_in(tmp_path / "cache") == []


@pytest.mark.parametrize(
    "name, sizes, megabytes", [("mnist", {}, 12), ("imagenette", {"size": 100, "train_size": 200}, 1708)]
)
def test_full_disk_is_reported_in_one_line(tmp_path, monkeypatch, name, sizes, megabytes):
    def fail(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(downloads, "download", fail)
    with pytest.raises(OSError, match=f"{tmp_path}/cache .No space.*: {name} needs {megabytes} MB. Set .* LQS_DATA"):
        datasets.load(name, mirror=tmp_path / "mirror", cache=tmp_path / "cache", **sizes)


# CIFAR-10: archives.


@pytest.mark.parametrize("suffix, mode", [("tar", "w"), ("tar.gz", "w:gz"), ("tar.xz", "w:xz")])
def test_cifar10_from_any_archive(tmp_path, monkeypatch, suffix, mode):
    members = make_cifar10(monkeypatch)
    write_tar(tmp_path / "mirror" / "cifar10" / f"cifar-10-python.{suffix}", members, mode)
    cifar10 = datasets.load("cifar10", mirror=tmp_path / "mirror", cache=tmp_path / "cache")
    assert cifar10.x_train.shape == (10, 32, 32, 3) and cifar10.x_test.shape == (2, 32, 32, 3)
    batch = pickle.loads(members["cifar-10-batches-py/data_batch_2"])
    red, green, blue = batch[b"data"][1].reshape(3, 32, 32)  # channels are stored one after the other
    np.testing.assert_array_equal(cifar10.x_train[3], np.stack([red, green, blue], axis=-1))
    assert cifar10.y_train[2:4].tolist() == batch[b"labels"] and cifar10.y_train.dtype == "int32"


class Evil:
    """A pickle that makes a file when it is loaded."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


def test_pickle_of_another_hash_is_not_loaded(tmp_path, monkeypatch):
    members = make_cifar10(monkeypatch)
    members["cifar-10-batches-py/test_batch"] = pickle.dumps(Evil(tmp_path / "evil"))
    write_tar(tmp_path / "cache" / "cifar10" / "cifar-10-python.tar", members)
    with pytest.raises(ConnectionError, match="member test_batch is missing or not of the published md5"):
        datasets.load("cifar10", cache=tmp_path / "cache")
    assert not (tmp_path / "evil").exists()


# Imagenette: images.


@pytest.mark.parametrize("suffix, mode", [("160.tgz", "w:gz"), ("160.tar.xz", "w:xz"), ("160sq.tar", "w")])
def test_imagenette_is_decoded_to_a_memory_map(tmp_path, monkeypatch, suffix, mode):
    archive = tmp_path / "mirror" / "imagenette" / f"imagenette2-{suffix}"
    write_tar(archive, make_imagenette(monkeypatch), mode)
    digest = hashlib.md5(archive.read_bytes()).hexdigest()
    sha256 = hashlib.sha256(archive.read_bytes()).hexdigest()
    known = None if suffix.endswith("xz") else f"md5:{digest}"
    monkeypatch.setitem(datasets.IMAGENETTE_HASHES, archive.name, known)
    load = functools.partial(datasets.load, "imagenette", mirror=tmp_path / "mirror", cache=tmp_path / "cache")
    imagenette = load()
    assert isinstance(imagenette.x_train, np.memmap) and not imagenette.x_train.flags.writeable
    assert imagenette.x_train.shape == imagenette.x_test.shape == (3, 160, 160, 3)
    assert imagenette.x_train[:, 80, 80, 0].tolist() == [10, 20, 30]
    assert imagenette.x_test[:, 0, 0, 2].tolist() == [40, 50, 60]
    assert imagenette.y_train.tolist() == [0, 0, 1] and imagenette.y_test.tolist() == [0, 1, 1]
    assert imagenette.source == f"imagenette/{archive.name}, sha256 {sha256}"  # no path of this machine
    assert files_in(tmp_path / "cache")[-1] == f"imagenette/imagenette2-{suffix}"


@pytest.fixture
def imagenette_cache(tmp_path, monkeypatch):
    archive = tmp_path / "imagenette" / "imagenette2-160.tar.xz"
    write_tar(archive, make_imagenette(monkeypatch), "w:xz")
    return archive.parent.parent


def test_training_images_may_have_a_size_of_their_own(imagenette_cache):
    load = functools.partial(datasets.load, "imagenette", cache=imagenette_cache, size=8, train_size=9)
    imagenette, held_out = load(), load(holdout=1)
    assert imagenette.x_train.shape == (3, 9, 9, 3) and imagenette.x_test.shape == (3, 8, 8, 3)
    # A held-out image has the size of a test image.
    assert held_out.x_train.shape == (2, 9, 9, 3) and held_out.x_test.shape == (1, 8, 8, 3)
    values = [*held_out.x_train[:, 4, 4, 0], *held_out.x_test[:, 4, 4, 0]]
    assert sorted(values) == [10, 20, 30]
    names = [path.name.split("-", 1)[1] for path in imagenette_cache.rglob("*.npy")]
    assert sorted(names) == ["train-8.npy", "train-9.npy", "val-8.npy"]


def test_images_are_decoded_once(imagenette_cache, monkeypatch):
    first = datasets.load("imagenette", cache=imagenette_cache, size=8)
    monkeypatch.setattr(Image, "open", None)
    second = datasets.load("imagenette", cache=imagenette_cache, size=8)
    np.testing.assert_array_equal(first.x_train, second.x_train)


def test_failed_decoding_leaves_no_images(tmp_path, monkeypatch):
    members = make_imagenette(monkeypatch)
    members["imagenette2-160/train/n02/n02_0.JPEG"] = b"not a JPEG"
    write_tar(tmp_path / "imagenette" / "imagenette2-160.tar.xz", members, "w:xz")
    with pytest.raises(OSError, match="cannot identify image file"):
        datasets.load("imagenette", cache=tmp_path)
    assert files_in(tmp_path) == ["imagenette/imagenette2-160.tar.xz"]


def test_an_image_that_fits_is_not_resampled(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (16, 16, 3)).astype("uint8")
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, "PNG")  # without loss
    np.testing.assert_array_equal(datasets._decoded(tmp_path / "images.npy", [buffer.getvalue()], 16)[0], noise)


def test_an_oblong_image_keeps_its_centre(tmp_path):
    # Black, white, black, 16 pixels each: only the middle third is left.
    stripes = np.repeat(np.array([0, 255, 0], "uint8"), 16)
    buffer = io.BytesIO()
    Image.fromarray(np.tile(stripes, (16, 1))).save(buffer, "PNG")
    assert datasets._decoded(tmp_path / "images.npy", [buffer.getvalue()], 16).min() == 255


@pytest.mark.parametrize("change", ["missing", "additional", "renamed"])
def test_other_image_paths_are_refused(tmp_path, monkeypatch, change):
    members = make_imagenette(monkeypatch)
    name, content = next(iter(members.items()))
    if change != "additional":
        del members[name]
    if change != "missing":
        members[name.replace("_", "_9")] = content
    write_tar(tmp_path / "imagenette" / "imagenette2-160.tar.xz", members, "w:xz")
    with pytest.raises(ConnectionError, match="image paths are not the published ones"):
        datasets.load("imagenette", cache=tmp_path)


# The published files.


@pytest.mark.skipif(not MIRROR, reason="LQS_MIRROR names no mirror of the published files")
@pytest.mark.parametrize(
    "name, train, test, of_each_class",
    [
        ("mnist", (60000, 28, 28, 1), 10000, [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]),
        ("cifar10", (50000, 32, 32, 3), 10000, [5000] * 10),
        ("imagenette", (9469, 24, 24, 3), 3925, [963, 955, 993, 858, 941, 956, 961, 931, 951, 960]),
    ],
)
def test_published_dataset(tmp_path, name, train, test, of_each_class):
    dataset = datasets.load(name, mirror=MIRROR, cache=tmp_path, size=24)
    assert dataset.x_train.shape == train and dataset.x_test.shape == (test, *train[1:])
    assert np.bincount(dataset.y_train).tolist() == of_each_class and len(np.unique(dataset.y_test)) == 10
    assert dataset.x_train.min() == 0 and dataset.x_train.max() == 255
