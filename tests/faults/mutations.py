"""Ways to damage a file, each drawn from a seeded generator."""

import random
from collections.abc import Callable

Mutation = Callable[[random.Random, bytes], bytes]

INTERESTING = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
HEADER = 256


def flip_bits(rng: random.Random, data: bytes) -> bytes:
    out = bytearray(data)
    for _ in range(rng.choice((1, 2, 8, 64))):
        out[rng.randrange(len(out))] ^= 1 << rng.randrange(8)
    return bytes(out)


def truncate(rng: random.Random, data: bytes) -> bytes:
    return data[: rng.randrange(len(data))]


def swap_blocks(rng: random.Random, data: bytes) -> bytes:
    size = rng.randint(1, max(1, len(data) // 4))
    a, b = sorted(rng.randrange(max(1, len(data) - size)) for _ in range(2))
    b = max(b, a + size)
    return data[:a] + data[b : b + size] + data[a + size : b] + data[a : a + size] + data[b + size :]


def insert_block(rng: random.Random, data: bytes) -> bytes:
    at, start = rng.randrange(len(data)), rng.randrange(len(data))
    block = rng.choice((rng.randbytes(rng.randint(1, 64)), data[start : start + rng.randint(1, 512)]))
    return data[:at] + block + data[at:]


def delete_block(rng: random.Random, data: bytes) -> bytes:
    at = rng.randrange(len(data))
    return data[:at] + data[at + rng.randint(1, 64) :]


def overwrite_block(rng: random.Random, data: bytes) -> bytes:
    at, size = rng.randrange(len(data)), rng.randint(1, 64)
    block = rng.choice((rng.randbytes(size), bytes(size), b"\xff" * size))
    return data[:at] + block + data[at + size :]


def edit_header(rng: random.Random, data: bytes) -> bytes:
    """Set a field near the start, or anywhere, to a number at which programs break."""
    width = rng.choice((1, 2, 4))
    at = rng.randrange(min(len(data), rng.choice((32, HEADER, len(data)))))
    value = rng.choice((rng.choice(INTERESTING), rng.getrandbits(32))) & (256**width - 1)
    return data[:at] + value.to_bytes(width, rng.choice(("big", "little"))) + data[at + width :]


def random_tail(rng: random.Random, data: bytes) -> bytes:
    return data[: rng.randrange(len(data))] + rng.randbytes(rng.randint(1, 4096))


BYTES: tuple[Mutation, ...] = (
    *(flip_bits, truncate, swap_blocks, insert_block, delete_block),
    *(overwrite_block, edit_header, edit_header, random_tail),
)


def mutate(rng: random.Random, data: bytes, mutations: tuple[Mutation, ...] = BYTES) -> bytes:
    """Damage a file in one to three ways."""
    for _ in range(rng.choice((1, 1, 2, 3))):
        data = rng.choice(mutations)(rng, data) or b"\0"
    return data
