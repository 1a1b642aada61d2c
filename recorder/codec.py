"""Compression around every plaintext, and variable-length numbers (FORMAT.md, section 2). No I/O."""

import threading
from typing import Any, Final

import zstandard

MAX_BATCH: Final = 16 * 1024 * 1024
"""Bytes of one batch before compression: a segment of 1 MiB of data with room for its columns, sixteen times over."""

STORED: Final = 0
ZSTD: Final = 1

WORTH_COMPRESSING: Final = 128
"""Bytes below which zstd's frame header eats what it saves."""

_FRAME = 5  # codec u8 | raw length u32

STORE, FAST, FASTEST = 0, 1, -5
"""Levels for what is compacted later, and under load: no time at all, 2.0 and 1.1 s/GB where level 3 takes 3.9."""

_LONG_LIVED: Final = (FASTEST, FAST, 3)
_local = threading.local()  # a zstd context serves one thread at a time, and lets go of the interpreter lock


class FormatError(Exception):
    """The bytes are not what FORMAT.md allows. Says what and, where it helps, got and expected."""


def compress(raw: bytes, level: int = 3) -> bytes:
    """codec u8 | raw length u32 | body. Stored as it is where compression does not pay."""
    if len(raw) > MAX_BATCH:
        raise FormatError(f"{len(raw)} bytes to compress, at most {MAX_BATCH}")
    codec, body = STORED, raw
    if len(raw) >= WORTH_COMPRESSING and level != STORE:
        smaller = _compressor(level, len(raw)).compress(raw)
        if len(smaller) < len(raw):
            codec, body = ZSTD, smaller
    return (codec << 32 | len(raw)).to_bytes(_FRAME, "big") + body


def decompress(framed: bytes) -> bytes:
    """Inverse of `compress`; FormatError before a byte is unpacked if the length is a bomb or a lie."""
    if len(framed) < _FRAME:
        raise FormatError("a compressed part is cut short")
    codec, length, body = framed[0], int.from_bytes(framed[1:_FRAME], "big"), framed[_FRAME:]
    if length > MAX_BATCH:
        raise FormatError(f"{length} bytes after decompression, at most {MAX_BATCH}")
    if codec == STORED:
        raw = body
    elif codec == ZSTD:
        try:
            # The frame's own size is checked first: the library allocates what the frame claims.
            if zstandard.frame_content_size(body) != length:
                raise FormatError("the zstd frame disagrees about its length")
            raw = zstandard.ZstdDecompressor().decompress(body, max_output_size=length, allow_extra_data=False)
        except zstandard.ZstdError as exc:
            raise FormatError(f"zstd: {exc}") from None
    else:
        raise FormatError(f"unknown compression {codec}")
    if len(raw) != length:
        raise FormatError(f"{len(raw)} bytes after decompression, {length} expected")
    return raw


def _compressor(level: int, size: int) -> zstandard.ZstdCompressor:
    """Contexts of high levels are big (80 MB at 19 without a size): they are made for their input, then dropped."""
    if level in _LONG_LIVED:
        kept: dict[Any, zstandard.ZstdCompressor] = _local.__dict__
        if level not in kept:
            kept[level] = zstandard.ZstdCompressor(level=level, write_content_size=True)
        return kept[level]
    parameters = zstandard.ZstdCompressionParameters.from_level(level, source_size=size, write_content_size=1)
    return zstandard.ZstdCompressor(compression_params=parameters)


def varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def read_varint(data: bytes) -> tuple[int, int]:
    """The number at the start of `data` and where it ends; at most three bytes, shortest form only."""
    number = 0
    for at, byte in enumerate(data[:3]):
        number |= (byte & 0x7F) << (7 * at)
        if byte < 0x80:
            if at and not byte:
                raise FormatError("a number is not in its shortest form")
            return number, at + 1
    raise FormatError("a number is cut short or too long")
