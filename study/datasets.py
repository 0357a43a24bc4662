"""Datasets: the three of the thesis (MNIST, CIFAR-10, Imagenette), and the digits of scikit-learn.

The splits are the publishers'. As in the thesis, the test set serves as validation set, unless a hold-out takes its
place. `study.downloads` says where the files are looked for. Archives are read in memory and never unpacked. A pickle
is loaded only if its hash is the published one.
"""

import dataclasses
import functools
import gzip
import hashlib
import io
import pickle
import warnings
from dataclasses import dataclass, field

import numpy as np
import pooch

from lqs.file.atomic import replacing
from study import downloads
from study.augmentation import augmented

MNIST_URLS = (
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
)
MNIST_HASHES = {
    "train-images-idx3-ubyte.gz": "sha256:440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
    "train-labels-idx1-ubyte.gz": "sha256:3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
    "t10k-images-idx3-ubyte.gz": "sha256:8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
    "t10k-labels-idx1-ubyte.gz": "sha256:f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
}

CIFAR10_URLS = ("https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",)
CIFAR10_NAMES = ("cifar-10-python.tar", "cifar-10-python.tar.gz", "cifar-10-python.tar.xz")
# The archives differ in their compression, their members do not: md5 of each pickle.
CIFAR10_MEMBERS = {
    "data_batch_1": "c99cafc152244af753f735de768cd75f",
    "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
    "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
    "data_batch_4": "634d18415352ddfa80567beed471001a",
    "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
    "test_batch": "40351d587109b95175f43aff81a1287e",
}

IMAGENETTE_URLS = ("https://s3.amazonaws.com/fast-ai-imageclas/imagenette2-160.tgz",)
# Two copies with different pixels: fast.ai's (torchvision's md5) and a square re-encoding. Of a recompressed
# archive of fast.ai's only the paths are checked.
IMAGENETTE_HASHES = {
    "imagenette2-160.tgz": "md5:e793b78cc4c9e9a4ccc0c1155377a412",
    "imagenette2-160.tar.gz": "md5:e793b78cc4c9e9a4ccc0c1155377a412",
    "imagenette2-160.tar.xz": None,
    "imagenette2-160sq.tar": "sha256:4c9461430e70b18f04ecadcb176e5f3b534075cb772f87768b3f01a6ad2aad56",
}
# sha256 of the sorted paths `split/class/name.JPEG`, one a line.
IMAGENETTE_PATHS = "1d3b7e4e6d4af6b70a59b3a3dbeb85b33a623ea7039c536dbade63e771d028b1"


@dataclass(frozen=True, eq=False)
class Dataset:
    """Images and labels of a classification task.

    Args:
        name: name of the dataset, as in `load`.
        x_train, x_test: uint8 images `(examples, height, width, channels)`, unscaled.
        y_train, y_test: int32 labels `(examples,)`, from 0 to `num_classes - 1`.
        num_classes: number of classes.
        source: the copy that was read, for the run record.
    """

    name: str
    x_train: np.ndarray = field(repr=False)
    y_train: np.ndarray = field(repr=False)
    x_test: np.ndarray = field(repr=False)
    y_test: np.ndarray = field(repr=False)
    num_classes: int
    source: str

    @property
    def input_shape(self):
        """Shape of one test image, `(height, width, channels)`."""
        return self.x_test.shape[1:]

    def as_tf_data(self, batch_size, shuffle_seed=None, augment=False):
        """Return two `tf.data.Dataset` of batches `(images, labels)`: training and test examples.

        Args:
            batch_size: number of examples in a batch; the last batch may be smaller.
            shuffle_seed: `None`, or the seed of a new order of the training examples in each epoch.
            augment: whether training images are changed at random, anew in each epoch; see `study.augmentation`. They
                are then float32 and of the size of the test images. Needs `shuffle_seed`.

        Raises:
            ValueError: if there is no seed to augment by.
        """
        if augment and shuffle_seed is None:
            raise ValueError("Argument `augment` needs a seed. Received: augment=True, shuffle_seed=None")
        import tensorflow as tf

        train = _pipeline(self.x_train, self.y_train, batch_size, shuffle_seed)
        if augment:
            examples = train.unbatch().apply(tf.data.experimental.assert_cardinality(len(self.x_train)))
            train = augmented(examples, self.input_shape[0], shuffle_seed).batch(batch_size).prefetch(tf.data.AUTOTUNE)
        return train, _pipeline(self.x_test, self.y_test, batch_size)


def load(name, *, mirror=None, cache=None, size=160, train_size=None, holdout=None):
    """Return the dataset `name`.

    | name         | training examples | test examples | image             | values   | classes |
    |--------------|-------------------|---------------|-------------------|----------|---------|
    | `mnist`      | 60,000            | 10,000        | `(28, 28, 1)`     | 0 to 255 | 10      |
    | `cifar10`    | 50,000            | 10,000        | `(32, 32, 3)`     | 0 to 255 | 10      |
    | `imagenette` | 9,469             | 3,925         | `(size, size, 3)` | 0 to 255 | 10      |
    | `digits`     | 1,500             | 297           | `(8, 8, 1)`       | 0 to 16  | 10      |

    Args:
        name: one of the above.
        mirror: folder or URL (http, https, file) that holds `mnist/`, `cifar10/` and `imagenette/`. Default:
            the environment variable `LQS_MIRROR`.
        cache: folder that keeps the files. Default: see `study.downloads`.
        size: Imagenette only: height and width that images are scaled and cropped (centre) to. The decoded
            images are kept in the cache and read by a memory map (read only).
        train_size: Imagenette only: that of the training images, which random crops are taken from. Default: `size`.
        holdout: `None`, or the number of training examples that take the place of the test set, so that choices can
            be made without it. They are drawn at random, the same on every machine and for every seed of a run;
            the rest keeps its order.

    Raises:
        ValueError: if there is no such dataset, or a size or `holdout` is not a number that it can have.
        ConnectionError: if no source has a usable copy of a file.
        OSError: if the cache is read-only or full.

    Example:

    >>> digits = load("digits")
    >>> digits.input_shape, len(digits.x_train), len(digits.x_test), int(digits.x_train.max())
    ((8, 8, 1), 1500, 297, 16)
    """
    if name not in _LOADERS:
        raise ValueError(f"Argument `name` must be one of {tuple(_LOADERS)}. Received: name={name!r}")
    train_size = size if train_size is None else train_size
    for argument, received in (("size", size), ("train_size", train_size)):
        if not isinstance(received, int) or isinstance(received, bool) or received < 1:
            raise ValueError(f"Argument `{argument}` must be a positive integer. Received: {argument}={received!r}")
    cache = downloads.cache_folder(cache)
    fetch = functools.partial(downloads.fetch, cache=cache, mirror=mirror)
    megabytes = {"mnist": 12, "cifar10": 170, "imagenette": 100 + 0.0402 * max(size, train_size) ** 2, "digits": 0}
    with downloads.storing(cache, f"{name} needs {megabytes[name]:.0f} MB"):
        dataset = _LOADERS[name](fetch, size, train_size)
        if holdout is None:
            return dataset
        test_like = dataset if train_size == size else _LOADERS[name](fetch, size, size)
        return _hold_out(dataset, holdout, test_like.x_train)


def _hold_out(dataset, number, images):
    """Return the dataset with `number` examples of `images`, the training images in test size, as the test set."""
    total = len(dataset.x_train)
    if not (isinstance(number, int) and 0 < number < total):
        raise ValueError(f"Argument `holdout` must be an integer from 1 to {total - 1}. Received: holdout={number!r}")
    order = np.random.RandomState(0).permutation(total)  # unlike default_rng, the same in every version of NumPy
    kept, held = np.sort(order[:-number]), np.sort(order[-number:])
    return dataclasses.replace(
        dataset,
        x_train=dataset.x_train[kept],
        y_train=dataset.y_train[kept],
        x_test=images[held],
        y_test=dataset.y_train[held],
        source=f"{dataset.source}; {number} of its training examples as test set",
    )


def _load_mnist(fetch, size, train_size):
    x_train, y_train, x_test, y_test = (
        fetch("mnist", {name: known_hash}, [url + name for url in MNIST_URLS], _read_idx)[1]
        for name, known_hash in MNIST_HASHES.items()
    )
    return Dataset("mnist", x_train, y_train, x_test, y_test, 10, "mnist/*-ubyte.gz, the publishers' files")


def _load_cifar10(fetch, size, train_size):
    _, batches = fetch("cifar10", dict.fromkeys(CIFAR10_NAMES), CIFAR10_URLS, _read_cifar10)
    images, labels = zip(*batches, strict=True)
    x_train, y_train = np.concatenate(images[:-1]), np.concatenate(labels[:-1])
    return Dataset("cifar10", x_train, y_train, images[-1], labels[-1], 10, "cifar10/*_batch*, the publisher's pickles")


def _load_imagenette(fetch, size, train_size):
    path, images = fetch("imagenette", IMAGENETTE_HASHES, IMAGENETTE_URLS, _read_imagenette)
    digest = pooch.file_hash(str(path))
    arrays = []
    for split, side in (("train", train_size), ("val", size)):
        files = {name: data for name, data in images.items() if name.startswith(split)}
        _, labels = np.unique([name.split("/")[1] for name in files], return_inverse=True)
        arrays.append(_decoded(path.with_name(f"{digest[:16]}-{split}-{side}.npy"), files.values(), side))
        arrays.append(labels.astype("int32"))
    x_train, y_train, x_test, y_test = arrays
    return Dataset("imagenette", x_train, y_train, x_test, y_test, 10, f"imagenette/{path.name}, sha256 {digest}")


def _load_digits(fetch, size, train_size):
    from sklearn.datasets import load_digits

    digits = load_digits()
    images, labels = digits.images.astype("uint8")[..., None], digits.target.astype("int32")
    parts = images[:1500], labels[:1500], images[1500:], labels[1500:]
    return Dataset("digits", *parts, num_classes=10, source="scikit-learn's load_digits, first 1500 to train")


_LOADERS = {"mnist": _load_mnist, "cifar10": _load_cifar10, "imagenette": _load_imagenette, "digits": _load_digits}


def _read_idx(path):
    """Return the images or labels of an MNIST file."""
    data = gzip.decompress(path.read_bytes())
    if data[3] == 1:  # the number of axes
        return np.frombuffer(data, "uint8", offset=8).astype("int32")
    return np.frombuffer(data, "uint8", offset=16).reshape(-1, 28, 28, 1)


def _read_cifar10(path):
    """Return images and labels of each pickle of a CIFAR-10 archive. None is loaded before all hashes are checked."""
    files = downloads.read_tar(path, r"cifar-10-batches-py/(data|test)_batch(_\d)?")
    pickles = {name.split("/")[1]: data for name, data in files}
    for name, known_md5 in CIFAR10_MEMBERS.items():
        if hashlib.md5(pickles.get(name, b"")).hexdigest() != known_md5:
            raise ValueError(f"member {name} is missing or not of the published md5 {known_md5}")
    return [_unpickle(pickles[name]) for name in CIFAR10_MEMBERS]


def _unpickle(data):
    """Return images `(examples, height, width, channels)` and labels of a pickle."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # NumPy on the dtype of 2009
        batch = pickle.loads(data, encoding="bytes")
    return batch[b"data"].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), np.array(batch[b"labels"], "int32")


def _read_imagenette(path):
    """Return the JPEG files of an Imagenette archive by their sorted paths `split/class/name.JPEG`."""
    files = downloads.read_tar(path, r"[^/]+/(train|val)/n\d+/[^/.][^/]*\.JPEG")
    images = dict(sorted((name.split("/", 1)[1], data) for name, data in files))
    if hashlib.sha256("\n".join(images).encode()).hexdigest() != IMAGENETTE_PATHS:
        raise ValueError(f"its {len(images)} image paths are not the published ones")
    return images


def _decoded(path, files, size):
    """Return the JPEG files as a memory map `(examples, size, size, 3)`, decoded to `path` once."""
    from PIL import Image, ImageOps

    if not path.exists():
        header = {"descr": "|u1", "fortran_order": False, "shape": (len(files), size, size, 3)}
        # Image by image: all of them may not fit into memory.
        with replacing(path) as partial, open(partial, "wb") as output:
            np.lib.format.write_array_header_1_0(output, header)
            for data in files:
                image = Image.open(io.BytesIO(data)).convert("RGB")
                output.write(ImageOps.fit(image, (size, size), Image.Resampling.BICUBIC).tobytes())
    return np.load(path, mmap_mode="r")


def _pipeline(images, labels, batch_size, shuffle_seed=None):
    import tensorflow as tf

    def take(indices):
        batch = tf.numpy_function(lambda i: (images[i], labels[i]), [indices], (tf.uint8, tf.int32))
        return tf.ensure_shape(batch[0], (None, *images.shape[1:])), tf.ensure_shape(batch[1], (None,))

    indices = tf.data.Dataset.range(len(images))
    if shuffle_seed is not None:
        indices = indices.shuffle(len(images), seed=shuffle_seed)
    return indices.batch(batch_size).map(take).prefetch(tf.data.AUTOTUNE)
