"""Damaged and hostile `.lqs` files: of tens of thousands of mutations, each gives one clear error or a whole file.

Checksum and header are made to fit again after most mutations: otherwise nothing would reach what comes after.
A mutation is found again by its seed, which a failure names.
"""

import copy
import itertools
import json
import tracemalloc
import zlib

import keras
import numpy as np
import pytest

from lqs.conversion import quantize
from lqs.file.ans import NumpyDecoder
from lqs.file.compiled import CompiledDecoder
from lqs.file.layout import CHECKSUM, DICTIONARY, MAGIC, PREFIX, VERSION, FileFormatError, inflate
from lqs.file.reader import parse
from lqs.file.saving import load, pack_model
from lqs.file.writer import encode_integers, encode_numbers, pack
from lqs.layers import QuantDense
from lqs.methods.lq_nets import LQNets
from lqs.quantizer import NestedQuantization

NUM_MUTATIONS = 30_000
NUM_MODELS = 300
MAX_BYTES = 2**20
# What a number in a header may be replaced by.
NUMBERS = [-1, 0, 1, 2, 3, 7, 255, 2**16, 2**31 - 1, 2**31, 2**48 - 1, 2**48, 2**64, 10**400, 0.5, 1e308, True]
OTHERS = [
    None,
    "",
    "raw",
    "deflate",
    "fixed",
    "ans",
    "contexts",
    "mixing",
    "float16",
    "object",
    "\ud800",
    [],
    {},
    [[]],
    [1, -1],
    "x" * 100,
]


@pytest.fixture(scope="module")
def content():
    """Return the bytes of a small file with an array of each coding."""
    rng = np.random.default_rng(0)
    codes = np.floor(rng.laplace(0, 20, (40, 10))).astype("int32")
    planted = np.where(np.arange(40)[:, None] % 4, 0, rng.integers(-3, 4, (40, 20))).astype("int32")
    scale = np.full((40, 1), 0.5, "float32")
    encoded = [
        encode_integers(codes, scale, slow=False),
        encode_integers(np.arange(5, dtype="int32"), scale[0]),
        encode_numbers(rng.normal(size=7).astype("float32"), stored="bfloat16"),
        encode_numbers(np.zeros((3, 100))),
        encode_integers(planted, scale[:1], slow=False),
        encode_integers(np.array([[-1, 0, 1, 1]], "int32"), scale[:1]),
        encode_numbers(np.array([-0.5, 0, 2], "float32")),
        encode_integers(np.where(np.arange(800) % 399 == 3, -17, 0).reshape(40, 20).astype("int32"), scale[:1]),
    ]
    encoded[5][0].update(levels="6", lowest=-1)
    codings = [entry["coding"] for entry, _ in encoded]
    assert codings[:5] == ["ans", "fixed", "raw", "deflate", "contexts"] and encoded[4][0]["axes"] == [1, 0]
    assert codings[7] == "mixing"
    return pack({"class_name": "none"}, [({"name": str(i), **entry}, s) for i, (entry, s) in enumerate(encoded)])


def seal(header, body):
    """Return a file with a right checksum around the text of a header and the bytes of sections."""
    stream = zlib.compressobj(6, zlib.DEFLATED, -zlib.MAX_WBITS, zdict=DICTIONARY)
    stored = stream.compress(header) + stream.flush()
    content = PREFIX.pack(MAGIC, VERSION, len(stored), len(header)) + stored + body
    return content + CHECKSUM.pack(zlib.crc32(content))


def open_up(content):
    """Return what `seal` takes, of a whole file."""
    _, _, stored, inflated = PREFIX.unpack_from(content)
    end = PREFIX.size + stored
    return inflate(content[PREFIX.size : end], inflated, DICTIONARY), content[end : -CHECKSUM.size]


def damage(content, rng):
    """Return bytes with a few of them replaced, inserted, removed or repeated."""
    content = bytearray(content)
    for _ in range(rng.integers(1, 4)):
        at, length = rng.integers(0, len(content) + 1), int(rng.integers(1, 9))
        noise = rng.integers(0, 256, length, "uint8").tobytes()
        kind = rng.integers(5)
        if kind == 0:
            content[at : at + length] = noise[: len(content[at : at + length])]
        elif kind == 1:
            content[at:at] = noise
        elif kind == 2:
            del content[at : at + length]
        elif kind == 3:
            del content[at:]
        else:
            content[at:at] = content[: rng.integers(0, len(content) + 1)]
    return bytes(content)


def places(value, path=()):
    """Yield the path of every value inside a JSON value."""
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from places(inner, (*path, key))


def rewrite(header, rng):
    """Return the text of a header with one to three of its values replaced, removed or repeated."""
    tree = {"root": json.loads(header)}
    for _ in range(rng.integers(1, 4)):
        paths = [path for path in places(tree) if len(path) > 1]
        if not paths:
            break
        *parents, key = paths[rng.integers(len(paths))]
        parent = tree
        for name in parents:
            parent = parent[name]
        kind = rng.integers(4)
        if kind == 0:
            del parent[key]
        elif kind == 1 and isinstance(parent, list):
            parent.append(parent[key])
        elif kind == 2:
            parent[key] = copy.deepcopy(OTHERS[rng.integers(len(OTHERS))])  # later changes may be inside of it
        else:
            parent[key] = NUMBERS[rng.integers(len(NUMBERS))]
    return json.dumps(tree["root"]).encode()


def mutate(content, seed):
    """Return a mutation of a whole file: of its bytes, its sections, its header's text or its header's values."""
    rng = np.random.default_rng(seed)
    header, body = open_up(content)
    kind = rng.integers(4)
    if kind == 0:
        return damage(content, rng)
    if kind == 1:
        return seal(header, damage(body, rng))
    if kind == 2:
        return seal(damage(header, rng), body)
    return seal(rewrite(header, rng), body)


def test_whole_file_opens_up_and_seals(content):
    assert parse(seal(*open_up(content)))[0] == parse(content)[0]


@pytest.mark.once
def test_mutated_files_are_refused_or_whole(content):
    refused, messages = 0, set()
    for seed in range(NUM_MUTATIONS):
        mutated = mutate(content, seed)
        try:
            _, tensors = parse(mutated, MAX_BYTES)
        except FileFormatError as error:
            refused += 1
            messages.add(str(error))
        except Exception as error:
            raise AssertionError(f"seed {seed}") from error
        else:
            assert sum(tensor.array.nbytes for tensor in tensors) <= MAX_BYTES, seed
    assert all(len(message.splitlines()) == 1 for message in messages)
    assert NUM_MUTATIONS / 2 < refused < NUM_MUTATIONS  # some are harmless, such as another name


def test_both_decoders_agree_on_mutated_codes(content):
    header, body = open_up(content)
    outcomes = set()
    for seed in range(NUM_MUTATIONS // 100):
        mutated = seal(header, bytes(damage(body, np.random.default_rng(seed))[: len(body)].ljust(len(body), b"\1")))
        results = []
        for decoder in (NumpyDecoder, CompiledDecoder):
            try:
                results.append([tensor.array.tolist() for tensor in parse(mutated, MAX_BYTES, decoder)[1]])
            except FileFormatError:
                results.append(None)
        assert results[0] == results[1], seed
        outcomes.add(results[0] is None)
    assert outcomes == {True, False}


@pytest.mark.parametrize("shape", [[2**24], [2**20, 2**20], [2**47], [2, 10**30]])
def test_bombs_are_refused_before_they_take_memory(content, shape):
    header, body = open_up(content)
    for index in range(5):
        tree = json.loads(header)
        entry = tree["tensors"][index]
        entry["shape"] = shape
        if "scale" in entry:
            entry["scale"]["shape"] = [1] * len(shape)
        bomb = seal(json.dumps(tree).encode(), body)
        tracemalloc.start()
        with pytest.raises(FileFormatError):
            parse(bomb, MAX_BYTES)
        assert tracemalloc.get_traced_memory()[1] < 2**20
        tracemalloc.stop()


def test_deflate_bomb_is_refused_before_it_takes_memory(content):
    _, body = open_up(content)
    text = b'{"model":{},"tensors":[' + b" " * 2**27
    tracemalloc.start()
    with pytest.raises(FileFormatError, match="too long"):
        parse(seal(text, body))
    stream = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    bomb = stream.compress(bytes(2**27)) + stream.flush()
    tracemalloc.reset_peak()
    with pytest.raises(FileFormatError, match="too short or too long"):
        inflate(bomb, 1000)
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()


def test_mutated_models_are_refused_or_whole(tmp_path):
    codebook = NestedQuantization(rounding=LQNets(), bits=2, initial_scale="max")
    layers = [keras.Input((4,)), keras.layers.Dense(3), keras.layers.BatchNormalization()]
    layers.append(QuantDense(2, kernel_quantizer=codebook))
    prototypes = [NestedQuantization("row"), NestedQuantization(parametrization="log")]
    content = pack_model(quantize(keras.Sequential(layers), *prototypes))
    header, body = open_up(content)
    path, refused = tmp_path / "mutated.lqs", 0
    for seed in itertools.islice(itertools.count(), NUM_MODELS):
        path.write_bytes(seal(rewrite(header, np.random.default_rng(seed)), body))
        try:
            model = load(path, MAX_BYTES)
        except FileFormatError:
            refused += 1
        except Exception as error:
            raise AssertionError(f"seed {seed}") from error
        else:
            assert model.count_params() * 4 < MAX_BYTES, seed
    assert 0 < refused < NUM_MODELS
