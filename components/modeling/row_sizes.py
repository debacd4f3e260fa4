"""Sizes of the rows of Arrow data, before they are made into Python objects.

A dictionary holds each distinct value once: a Parquet file of 1 kB can stand for gigabytes of text.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy
    import pyarrow

CHUNK_BYTES = 64 * 1024 * 1024
"""Rows that are made into Python objects at once have so many bytes, or are one row."""
VALUE_BYTES = 8
"""Of a number, a date, or the place of a text in its dictionary."""


def row_bytes(batch: pyarrow.RecordBatch) -> numpy.ndarray:
    """Return the size of each row with all its texts written out."""
    import numpy

    sizes = numpy.zeros(batch.num_rows, dtype=numpy.int64)
    for column in batch.columns:
        sizes += _sizes(column)
    return sizes


def chunks(sizes: numpy.ndarray) -> Iterator[tuple[int, int]]:
    """Yield [start, end) of rows that together have at most CHUNK_BYTES, or are one row."""
    start = 0
    size = 0
    for index, row_size in enumerate(sizes.tolist()):
        if index > start and size + row_size > CHUNK_BYTES:
            yield start, index
            start = index
            size = 0
        size += row_size
    if start < len(sizes):
        yield start, len(sizes)


def _sizes(array: pyarrow.Array) -> numpy.ndarray:
    """Return the size of each item of an array.

    Raises pyarrow.ArrowNotImplementedError for a type (a union, runs of values) whose items may
    share values in a way that is not known here.
    """
    import numpy
    import pyarrow
    from pyarrow import types

    kind = array.type
    plain = numpy.full(len(array), VALUE_BYTES, dtype=numpy.int64)
    is_number = types.is_primitive(kind) or types.is_decimal(kind)
    if not len(array) or is_number or types.is_null(kind):
        return plain
    if types.is_dictionary(kind):
        if not len(array.dictionary):
            return plain
        # Without its indices a null would have no size at all.
        indices = numpy.asarray(array.indices.fill_null(0))
        plain += _sizes(array.dictionary)[indices]
        return plain
    if types.is_struct(kind):
        for index in range(kind.num_fields):
            plain += _sizes(array.field(index))
        return plain
    if types.is_list(kind) or types.is_large_list(kind) or types.is_map(kind):
        offsets = numpy.asarray(array.offsets)
        # Of the values, those of this slice alone.
        values = array.values.slice(offsets[0], offsets[-1] - offsets[0])
        offsets = offsets - offsets[0]
        plain += _sums(values, offsets[:-1], offsets[1:])
        return plain
    if types.is_list_view(kind) or types.is_large_list_view(kind):
        starts = numpy.asarray(array.offsets)
        plain += _sums(array.values, starts, starts + numpy.asarray(array.sizes))
        return plain
    if types.is_fixed_size_list(kind):
        item_sizes = _sizes(array.flatten())
        # Nulls are left out of what is flattened: then each row counts as the mean.
        plain += int(item_sizes.sum() / max(1, len(array)))
        return plain
    if isinstance(kind, pyarrow.BaseExtensionType):
        return _sizes(array.storage)
    plain += _lengths(array)
    return plain


def _sums(
    values: pyarrow.Array, starts: numpy.ndarray, ends: numpy.ndarray
) -> numpy.ndarray:
    """Return the size of all values in each stretch [start, end), at most CHUNK_BYTES."""
    import numpy

    sums = numpy.concatenate(([0], numpy.cumsum(_sizes(values))))
    # Bounded: lists within lists that repeat each other come to more than 64 bits hold.
    sizes: numpy.ndarray = numpy.minimum(sums[ends] - sums[starts], CHUNK_BYTES)
    return sizes


def _lengths(array: pyarrow.Array) -> numpy.ndarray:
    """Return the bytes of each text of an array."""
    import numpy
    import pyarrow
    from pyarrow import compute, types

    if types.is_string_view(array.type) or types.is_binary_view(array.type):
        # Four numbers for each text, of which the first is its length.
        views = numpy.frombuffer(array.buffers()[1], dtype=numpy.int32).reshape(-1, 4)
        lengths = views[array.offset : array.offset + len(array), 0]
        return numpy.where(numpy.asarray(array.is_valid()), lengths, 0).astype(
            numpy.int64
        )
    try:
        lengths = compute.binary_length(array)
    except pyarrow.ArrowNotImplementedError:
        message = f"columns of {array.type} are not read; write their values as plain texts or lists"
        raise pyarrow.ArrowNotImplementedError(message) from None
    return numpy.asarray(lengths.fill_null(0)).astype(numpy.int64)
