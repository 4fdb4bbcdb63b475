"""Ed25519 after RFC 8032, section 5.1, and nothing but the standard library: slow, and independent of ours."""

from __future__ import annotations

import hashlib

P = 2**255 - 19
L = 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, -1, P) % P
ROOT_OF_MINUS_1 = pow(2, (P - 1) // 4, P)

Point = tuple[int, int]


def sign(private_key: bytes, message: bytes) -> bytes:
    """Section 5.1.6."""
    scalar, prefix = _expanded(private_key)
    public = public_key(private_key)
    r = _hash(prefix + message) % L
    commitment = _encoded(_times(r, BASE))
    k = _hash(commitment + public + message) % L
    return commitment + ((r + k * scalar) % L).to_bytes(32, "little")


def public_key(private_key: bytes) -> bytes:
    """Section 5.1.5."""
    return _encoded(_times(_expanded(private_key)[0], BASE))


def _expanded(private_key: bytes) -> tuple[int, bytes]:
    digest = hashlib.sha512(private_key).digest()
    scalar = int.from_bytes(digest[:32], "little") & ((1 << 254) - 8) | 1 << 254
    return scalar, digest[32:]


def _hash(data: bytes) -> int:
    return int.from_bytes(hashlib.sha512(data).digest(), "little")


def _add(a: Point, b: Point) -> Point:
    product = D * a[0] * b[0] * a[1] * b[1]
    x = (a[0] * b[1] + b[0] * a[1]) * pow(1 + product, -1, P)
    y = (a[1] * b[1] + a[0] * b[0]) * pow(1 - product, -1, P)
    return x % P, y % P


def _times(n: int, point: Point) -> Point:
    result = (0, 1)
    while n:
        if n & 1:
            result = _add(result, point)
        point = _add(point, point)
        n >>= 1
    return result


def _encoded(point: Point) -> bytes:
    return (point[1] | (point[0] & 1) << 255).to_bytes(32, "little")


def _even_x(y: int) -> int:
    square = (y * y - 1) * pow(D * y * y + 1, -1, P) % P
    x = pow(square, (P + 3) // 8, P)
    if x * x % P != square:
        x = x * ROOT_OF_MINUS_1 % P
    return x if x % 2 == 0 else P - x


_BASE_Y = 4 * pow(5, -1, P) % P
BASE = (_even_x(_BASE_Y), _BASE_Y)
