"""Kafka's five codecs, each as a file to read from: what a batch holds is decompressed as far as it is read.

A batch of 1 MB may hold 1 GB (gzip 1,000 : 1, lz4 250 : 1, zstd 30,000 : 1). Only snappy can't be read in parts, and
needn't be: a block of it holds 22 times its size at most.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Callable, Mapping
from typing import BinaryIO, Final, cast

import cramjam
import lz4.frame
import zstandard
from aiokafka.errors import UnsupportedCodecError
from isal import igzip

#: How the framing begins that Java's producer puts around snappy blocks: magic, then two version numbers. librdkafka
#: writes one bare block.
_FRAMED: Final = b"\x82SNAPPY\x00"
_FRAME_HEADER_BYTES: Final = 16


def _open_zstd(data: bytes) -> BinaryIO:
    return cast("BinaryIO", zstandard.ZstdDecompressor().stream_reader(data))


def _open_snappy(data: bytes) -> BinaryIO:
    if not data.startswith(_FRAMED):
        return io.BytesIO(cramjam.snappy.decompress_raw(data))
    blocks, at = [], _FRAME_HEADER_BYTES
    while at < len(data):
        (length,) = struct.unpack_from(">i", data, at)
        at += 4
        blocks.append(bytes(cramjam.snappy.decompress_raw(data[at : at + length])))
        at += length
    return io.BytesIO(b"".join(blocks))


#: By the number that a batch's attributes hold. Source: Kafka's RecordBatch, "compression type".
_OPEN: Final[Mapping[int, Callable[[bytes], BinaryIO]]] = {
    1: lambda data: cast("BinaryIO", igzip.IGzipFile(fileobj=io.BytesIO(data))),  # type: ignore[no-untyped-call]
    2: _open_snappy,
    3: lambda data: cast("BinaryIO", lz4.frame.LZ4FrameFile(io.BytesIO(data))),
    4: _open_zstd,
}


def open_compressed(codec: int, data: bytes) -> BinaryIO:
    """Return a file of what the data holds. Raises: UnsupportedCodecError."""
    if codec not in _OPEN:
        raise UnsupportedCodecError(f"Kafka had no codec {codec} when this was written")
    return _OPEN[codec](data)


def read_up_to(file: BinaryIO, size_bytes: int) -> bytes:
    """Read so many bytes, fewer only at the end: a codec's own file may return fewer before."""
    parts = []
    while size_bytes > 0 and (part := file.read(size_bytes)):
        parts.append(part)
        size_bytes -= len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)
