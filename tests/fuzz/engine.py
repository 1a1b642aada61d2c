"""Mutations, and one run of one target. Everything follows from the seed."""

import struct
import time
from dataclasses import dataclass
from random import Random
from typing import Final

from tests.fuzz.registry import Target

LONGEST: Final = 256 * 1024
"""Bytes of an input: four messages of any of our sockets."""

NUMBERS: Final = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x100, 0x7FFF, 0x8000, 0xFFFF, 0x10000, 0x7FFFFFFF, 0x80000000,
                  0xFFFFFFFF, 0x7FFFFFFFFFFFFFFF, 0xFFFFFFFFFFFFFFFF)  # fmt: skip
WORDS: Final = (
    b"\0", b"\n", b"\r\n", b"\x1b[2J", b"\x1b]52;c;AA==\x07", b"..", b"/", b"'", b'"', b"\\", b"%s", b"@", b"#", b"-o",
    b"{}", b"[", b"]", b"=", b"\xff\xfe", b"\xed\xa0\x80", "\u202e".encode(), "\u2028".encode(), "\u0130".encode(),
    b"Password: ", b"\x1b[?1049h", b"\x1b[200~",
)  # fmt: skip


@dataclass(frozen=True)
class Finding:
    target: str
    data: bytes
    error: str


def mutate(random: Random, samples: list[bytes]) -> bytes:
    """An input that looks like one of `samples` to a careless parser."""
    data = bytearray(random.choice(samples))
    for _ in range(random.choice((0, 1, 1, 2, 3, 5, 8, 20))):
        at = random.randrange(len(data) + 1)
        end = min(len(data), at + random.choice((1, 2, 4, 8, 32, 512)))
        match random.randrange(10):
            case 0:
                data[at:at] = random.randbytes(random.choice((1, 2, 4, 16, 300)))
            case 1:
                del data[at:end]
            case 2 if at < len(data):
                data[at] ^= 1 << random.randrange(8)
            case 3 if at < len(data):
                data[at] = random.randrange(256)
            case 4:
                layout = random.choice(("B", ">H", ">I", ">Q", "<I"))
                number = struct.pack(layout, random.choice(NUMBERS) & (1 << 8 * struct.calcsize(layout)) - 1)
                data[at : at + len(number)] = number
            case 5:
                data[at:at] = random.choice(WORDS)
            case 6:
                data[at:at] = data[at:end] * random.choice((1, 2, 10, 1000))
            case 7:
                other = random.choice(samples)
                cut = random.randrange(len(other) + 1)
                data[at:] = other[cut:]
            case 8:
                del data[at:]
            case _:
                other = random.choice(samples)
                start = random.randrange(len(other) + 1)
                data[at:end] = other[start : start + 64]
    return bytes(data[:LONGEST])


def attempt(target: Target, data: bytes) -> Finding | None:
    """One input."""
    begin = time.process_time()
    try:
        target.parse(data)
    except target.errors:
        pass
    except Exception as exc:  # what is looked for
        return Finding(target.name, data, f"{type(exc).__name__}: {exc}")
    took = time.process_time() - begin
    return Finding(target.name, data, f"took {took:.1f} s") if took > target.slow else None


def run(target: Target, count: int, seed: int) -> Finding | None:
    """The corpus, then `count` mutations of it by weight; the first finding ends the run."""
    samples = target.inputs() or [b""]
    for data in samples:
        if finding := attempt(target, data):
            return finding
    random = Random(f"{seed} {target.name}")
    for _ in range(int(count * target.weight) + 1):
        if finding := attempt(target, mutate(random, samples)):
            return finding
    return None


def pieces(data: bytes) -> list[tuple[int, bytes]]:
    """An input for something that is fed piece by piece: u8 which | u16 length | bytes, the last one cut short."""
    found, at = [], 0
    while at + 3 <= len(data):
        length = int.from_bytes(data[at + 1 : at + 3], "big")
        found.append((data[at], data[at + 3 : at + 3 + length]))
        at += 3 + length
    return found


def script(*steps: tuple[int, bytes]) -> bytes:
    """The inverse of `pieces`, for samples."""
    return b"".join(bytes([which]) + len(data).to_bytes(2, "big") + data for which, data in steps)
