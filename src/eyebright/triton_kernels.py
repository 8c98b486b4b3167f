"""Kernels for nets that train in bf16 on a GPU, in Triton; `eyebright.triton_functions` runs them.

Features are bf16, channels last: rows of pixels, the channels of a pixel beside each other. Sums
over rows are made in two passes, without atomic additions, so that they are always the same.
"""

import triton
import triton.language as tl


# GELU is z * P(z) with the normal distribution P; the same polynomials as in kernels.c, where more
# is said of them: the error function itself takes longer than the memory.
@triton.jit
def _gelu(z):
    s = tl.minimum(tl.maximum(z * 0.25, -1.0), 1.0)
    u = s * s
    p = 8.16775007 - 1.69731318 * u
    p = -17.2000892 + p * u
    p = 21.1463453 + p * u
    p = -17.1737351 + p * u
    p = 9.89682284 + p * u
    p = -4.2352236 + p * u
    p = 1.59544182 + p * u
    return z * (0.5 + s * p)


@triton.jit
def _gelu_slope(z):
    s = tl.minimum(tl.maximum(z * (1 / 4.3), -1.0), 1.0)
    u = s * s
    p = -163.28724 + 31.1503274 * u
    p = 371.560863 + p * u
    p = -484.105606 + p * u
    p = 401.631481 + p * u
    p = -222.995433 + p * u
    p = 84.0616671 + p * u
    p = -20.9438741 + p * u
    p = 3.4278133 + p * u
    return 0.5 + s * p


@triton.jit
def _larger(best, place, other, number: tl.constexpr):
    """The larger of two, and its number; what is not a number wins, as in torch."""
    take = (other > best) | (other != other)
    return tl.where(take, other, best), tl.where(take, number, place)


@triton.jit
def pool_sums(
    x, pooled, which, sums, count, height, width, channels,
    POOL: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Sum and sum of squares of each channel, after 2x2 max-pooling; sums: (programs, 2, channels).

    ``which`` is the place of the largest, from 0 to 3.
    """
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    inside = column < channels
    sum = tl.zeros((ROWS, COLUMNS), tl.float32)
    square = tl.zeros((ROWS, COLUMNS), tl.float32)
    rows, columns = height // 2, width // 2
    for start in range(tl.program_id(0) * ROWS, count, tl.num_programs(0) * ROWS):
        pixel = start + tl.arange(0, ROWS)
        mask = (pixel < count)[:, None] & inside[None, :]
        at = pixel[:, None] * channels + column[None, :]
        if POOL:
            picture, rest = pixel // (rows * columns), pixel % (rows * columns)
            corner = (picture * height + 2 * (rest // columns)) * width + 2 * (rest % columns)
            first = corner[:, None] * channels + column[None, :]
            best = tl.load(x + first, mask, 0.0).to(tl.float32)
            place = tl.zeros((ROWS, COLUMNS), tl.int8)
            right = tl.load(x + first + channels, mask, 0.0).to(tl.float32)
            below = tl.load(x + first + width * channels, mask, 0.0).to(tl.float32)
            across = tl.load(x + first + (width + 1) * channels, mask, 0.0).to(tl.float32)
            best, place = _larger(best, place, right, 1)
            best, place = _larger(best, place, below, 2)
            best, place = _larger(best, place, across, 3)
            tl.store(pooled + at, best, mask)
            tl.store(which + at, place.to(tl.int8), mask)
        else:
            best = tl.load(x + at, mask, 0.0).to(tl.float32)
        sum += best
        square += best * best
    into = sums + tl.program_id(0) * 2 * channels + column
    tl.store(into, tl.sum(sum, 0), inside)
    tl.store(into + channels, tl.sum(square, 0), inside)


@triton.jit
def statistics(
    sums, programs, count, channels, eps, momentum, bias, running_mean, running_var, factors,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Factors (3, channels): x * scale + centre is the normalised feature, + offset goes into GELU.

    The offset is centre + bias.
    """
    column = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    inside = column < channels
    sum = tl.zeros((ROWS, COLUMNS), tl.float32)
    square = tl.zeros((ROWS, COLUMNS), tl.float32)
    for start in range(0, programs, ROWS):
        row = start + tl.arange(0, ROWS)
        mask = (row < programs)[:, None] & inside[None, :]
        at = sums + row[:, None] * 2 * channels + column[None, :]
        sum += tl.load(at, mask, 0.0)
        square += tl.load(at + channels, mask, 0.0)
    mean = tl.sum(sum, 0) / count
    variance = tl.maximum(tl.sum(square, 0) / count - mean * mean, 0.0)
    scale = 1.0 / tl.sqrt(variance + eps)
    centre = -mean * scale
    tl.store(factors + column, scale, inside)
    tl.store(factors + channels + column, centre, inside)
    offset = centre + tl.load(bias + column, inside, 0.0)
    tl.store(factors + 2 * channels + column, offset, inside)
    before = tl.load(running_mean + column, inside, 0.0)
    tl.store(running_mean + column, before + momentum * (mean - before), inside)
    before = tl.load(running_var + column, inside, 0.0)
    unbiased = variance * (count / tl.maximum(count - 1.0, 1.0))
    tl.store(running_var + column, before + momentum * (unbiased - before), inside)


@triton.jit
def activate(
    x, scale, offset, out, count, channels,
    NORM: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """GELU(x * scale + offset), or GELU(x + offset)."""
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    inside = column < channels
    pixel = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    mask = (pixel < count)[:, None] & inside[None, :]
    at = pixel[:, None] * channels + column[None, :]
    z = tl.load(x + at, mask, 0.0).to(tl.float32)
    if NORM:
        z *= tl.load(scale + column, inside, 0.0)[None, :]
    z += tl.load(offset + column, inside, 0.0)[None, :]
    tl.store(out + at, _gelu(z), mask)


@triton.jit
def gradient_sums(
    gradient, x, scale, centre, offset, sums, count, channels,
    NORM: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """The gradient of what goes into GELU, summed, and summed times the normalised feature."""
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    inside = column < channels
    add = tl.load(offset + column, inside, 0.0)[None, :]
    if NORM:
        times = tl.load(scale + column, inside, 0.0)[None, :]
        middle = tl.load(centre + column, inside, 0.0)[None, :]
    sum = tl.zeros((ROWS, COLUMNS), tl.float32)
    product = tl.zeros((ROWS, COLUMNS), tl.float32)
    for start in range(tl.program_id(0) * ROWS, count, tl.num_programs(0) * ROWS):
        pixel = start + tl.arange(0, ROWS)
        mask = (pixel < count)[:, None] & inside[None, :]
        at = pixel[:, None] * channels + column[None, :]
        value = tl.load(x + at, mask, 0.0).to(tl.float32)
        slope = tl.load(gradient + at, mask, 0.0).to(tl.float32)
        if NORM:
            slope *= _gelu_slope(value * times + add)
            product += slope * (value * times + middle)
        else:
            slope *= _gelu_slope(value + add)
        sum += slope
    into = sums + tl.program_id(0) * 2 * channels + column
    tl.store(into, tl.sum(sum, 0), inside)
    if NORM:
        tl.store(into + channels, tl.sum(product, 0), inside)


@triton.jit
def add_up(
    sums, programs, channels, totals,
    NORM: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Sums (programs, 2, channels) added up: totals (2, channels)."""
    column = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    inside = column < channels
    sum = tl.zeros((ROWS, COLUMNS), tl.float32)
    product = tl.zeros((ROWS, COLUMNS), tl.float32)
    for start in range(0, programs, ROWS):
        row = start + tl.arange(0, ROWS)
        mask = (row < programs)[:, None] & inside[None, :]
        at = sums + row[:, None] * 2 * channels + column[None, :]
        sum += tl.load(at, mask, 0.0)
        if NORM:
            product += tl.load(at + channels, mask, 0.0)
    tl.store(totals + column, tl.sum(sum, 0), inside)
    tl.store(totals + channels + column, tl.sum(product, 0), inside)


@triton.jit
def back(
    gradient, x, which, factors, totals, out, count, height, width, channels, values,
    POOL: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """The gradient of features, each at the place of its 2x2 pixels that was largest.

    It is scale * (dz - mean(dz) - x_hat * mean(dz * x_hat)), dz that of what goes into GELU.
    """
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    inside = column < channels
    scale = tl.load(factors + column, inside, 0.0)[None, :]
    centre = tl.load(factors + channels + column, inside, 0.0)[None, :]
    offset = tl.load(factors + 2 * channels + column, inside, 0.0)[None, :]
    mean = tl.load(totals + column, inside, 0.0)[None, :] / values
    product = tl.load(totals + channels + column, inside, 0.0)[None, :] / values
    pixel = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    mask = (pixel < count)[:, None] & inside[None, :]
    if POOL:
        # Squares of 2x2, also those that an odd last row or column leaves incomplete.
        rows, columns = height // 2, width // 2
        squares_down, squares_across = (height + 1) // 2, (width + 1) // 2
        picture = pixel // (squares_down * squares_across)
        rest = pixel % (squares_down * squares_across)
        row, place = rest // squares_across, rest % squares_across
        whole = ((row < rows) & (place < columns))[:, None] & mask
        source = ((picture * rows + row) * columns + place)[:, None] * channels + column[None, :]
    else:
        whole = mask
        source = pixel[:, None] * channels + column[None, :]
    value = tl.load(x + source, whole, 0.0).to(tl.float32)
    slope = tl.load(gradient + source, whole, 0.0).to(tl.float32)
    slope *= _gelu_slope(value * scale + offset)
    result = scale * (slope - mean - (value * scale + centre) * product)
    if POOL:
        largest = tl.load(which + source, whole, -1)
        down, across = 2 * row, 2 * place
        corner = ((picture * height + down) * width + across)[:, None]
        into = out + corner * channels + column[None, :]
        one_right = mask & (across + 1 < width)[:, None]
        one_below = mask & (down + 1 < height)[:, None]
        tl.store(into, tl.where(largest == 0, result, 0.0), mask)
        tl.store(into + channels, tl.where(largest == 1, result, 0.0), one_right)
        tl.store(into + width * channels, tl.where(largest == 2, result, 0.0), one_below)
        across = tl.where(largest == 3, result, 0.0)
        tl.store(into + (width + 1) * channels, across, one_right & one_below)
    else:
        tl.store(out + source, result, mask)
