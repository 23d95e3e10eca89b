"""FarmHash's Fingerprint64 in plain Python: the oracle of HashLayer.

After the published algorithm (`farmhashna::Hash64`); all arithmetic is modulo 2**64.
"""

_MASK = 2**64 - 1
_K0 = 0xC3A5C85C97CB3127
_K1 = 0xB492B66FBE98F273
_K2 = 0x9AE16A3B2F90404F


def fingerprint64(text: bytes) -> int:
    size = len(text)
    if size <= 16:
        return _up_to_16(text)
    if size <= 32:
        return _up_to_32(text)
    if size <= 64:
        return _up_to_64(text)
    return _long(text)


def _word(text: bytes, start: int, size: int = 8) -> int:
    """The little-endian integer at `start`, which counts from the end where it is negative."""
    start %= len(text)
    return int.from_bytes(text[start : start + size], "little")


def _rotate(value: int, bits: int) -> int:
    value &= _MASK
    return (value >> bits | value << (64 - bits)) & _MASK


def _shift_mix(value: int) -> int:
    value &= _MASK
    return value ^ value >> 47


def _mix(u: int, v: int, mul: int) -> int:
    a = _shift_mix(((u ^ v) & _MASK) * mul)
    return _shift_mix(((v ^ a) & _MASK) * mul) * mul & _MASK


def _up_to_16(text: bytes) -> int:
    size = len(text)
    mul = _K2 + size * 2
    if size >= 8:
        a, b = _word(text, 0) + _K2, _word(text, -8)
        return _mix(_rotate(b, 37) * mul + a, (_rotate(a, 25) + b) * mul, mul)
    if size >= 4:
        return _mix(size + (_word(text, 0, 4) << 3), _word(text, -4, 4), mul)
    if size:
        y = text[0] + (text[size // 2] << 8)
        z = size + (text[-1] << 2)
        return _shift_mix(y * _K2 ^ z * _K0) * _K2 & _MASK
    return _K2


def _halves(text: bytes) -> tuple[int, int, int]:
    """What the hashes of 17 to 64 bytes begin with: a, y and the second argument of the mix."""
    mul = _K2 + len(text) * 2
    a, b = _word(text, 0) * _K1, _word(text, 8)
    if len(text) > 32:
        a = _word(text, 0) * _K2
    c, d = _word(text, -8) * mul, _word(text, -16) * _K2
    return a, _rotate(a + b, 43) + _rotate(c, 30) + d, a + _rotate(b + _K2, 18) + c


def _up_to_32(text: bytes) -> int:
    _, y, z = _halves(text)
    return _mix(y, z, _K2 + len(text) * 2)


def _up_to_64(text: bytes) -> int:
    mul = _K2 + len(text) * 2
    a, y, z = _halves(text)
    z = _mix(y, z, mul)
    e, f = _word(text, 16) * mul, _word(text, 24)
    g, h = (y + _word(text, -32)) * mul, (z + _word(text, -24)) * mul
    return _mix(_rotate(e + f, 43) + _rotate(g, 30) + h, e + _rotate(f + a, 18) + g, mul)


def _weak(text: bytes, start: int, a: int, b: int) -> tuple[int, int]:
    w, x, y, z = (_word(text, start + 8 * place) for place in range(4))
    a += w
    b = _rotate(b + a + z, 21)
    total = a + x + y
    return (total + z) & _MASK, (b + _rotate(total, 44) + a) & _MASK


def _long(text: bytes) -> int:
    x = 81
    y = x * _K1 + 113
    z = _shift_mix(y * _K2 + 113) * _K2
    x = x * _K2 + _word(text, 0)
    v, w = (0, 0), (0, 0)
    for start in range(0, len(text) - 64, 64):
        x, y, z, v, w = _round(text, start, x, y, z, v, w, _K1, 1)
    mul = _K1 + ((z & 0xFF) << 1)
    w = (w[0] + (len(text) - 1) % 64, w[1])
    v = (v[0] + w[0], v[1])
    w = (w[0] + v[0], w[1])
    x, y, z, v, w = _round(text, len(text) - 64, x, y, z, v, w, mul, 9)
    return _mix(_mix(v[0], w[0], mul) + _shift_mix(y) * _K0 + z, _mix(v[1], w[1], mul) + x, mul)


def _round(text, s, x, y, z, v, w, mul, factor):
    """One block of 64 bytes; `mul` and `factor` differ in the last one."""
    x = _rotate(x + y + v[0] + _word(text, s + 8), 37) * mul
    y = _rotate(y + v[1] + _word(text, s + 48), 42) * mul
    x ^= w[1] * factor
    y += v[0] * factor + _word(text, s + 40)
    z = _rotate(z + w[0], 33) * mul
    v = _weak(text, s, v[1] * mul, x + w[0])
    w = _weak(text, s + 32, z + w[1], y + _word(text, s + 16))
    return z & _MASK, y & _MASK, x & _MASK, v, w
