"""Statistics of integers that a run record keeps: histograms, and sizes by the thesis's accounting."""

import numpy as np

from lqs.file.sizes import zip_archive


def histogram(integers, max_bins=512):
    """Return a histogram of an integer array as `{"start", "width", "counts"}`.

    Bin `i` counts the integers from `start + i * width` up to, not including, `start + (i + 1) * width`. The
    width is 1, that is the histogram is exact, if the range has at most `max_bins` integers.

    Example:

    >>> histogram(np.array([-1, 0, 0, 2]))
    {'start': -1, 'width': 1, 'counts': [1, 2, 0, 1]}
    """
    start, stop = int(integers.min()), int(integers.max()) + 1
    width = -(-(stop - start) // max_bins)
    counts = np.bincount((np.ravel(integers).astype("int64") - start) // width)
    return {"start": start, "width": width, "counts": counts.tolist()}


def zipped_bytes(arrays):
    """Return the size in bytes of a deflated zip archive with one member per array, and their dtype.

    This is the thesis's accounting: int8 codes, no scales. Integers that int8 does not hold are stored in the
    smallest type that holds them all (the thesis's cast wraps around); float arrays as they are.

    Example:

    >>> zipped_bytes([np.zeros(1000, "int32")])[1], zipped_bytes([np.array([0, 200])])[1]
    ('int8', 'int16')
    """
    buffer, dtype = zip_archive(arrays)
    return buffer.getbuffer().nbytes, dtype.name
