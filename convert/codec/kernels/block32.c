/* The five types with blocks of 32 weights: Q4_0, Q4_1, Q5_0, Q5_1, Q8_0.
 *
 *   Q4_0  18 bytes   d f16 | 16 x nibbles                        weight = d * (q - 8)
 *   Q4_1  20 bytes   d f16 | m f16 | 16 x nibbles                weight = d * q + m
 *   Q5_0  22 bytes   d f16 | 32 fifth bits | 16 x nibbles        weight = d * (q - 16)
 *   Q5_1  24 bytes   d f16 | m f16 | 32 fifth bits | nibbles     weight = d * q + m
 *   Q8_0  34 bytes   d f16 | 32 x int8                           weight = d * q
 *
 * Byte j of the nibbles holds weight j (low) and weight j + 16 (high).
 *
 * A chunk's blocks are measured once (`measure_blocks`), then every type encodes from the same measures. Per-block
 * scalars are computed for LANES blocks at a time: division is exact in every lane.
 *
 * Source of the arithmetic: ggml-quants.c, quantize_row_{q4_0,q4_1,q5_0,q5_1,q8_0}_ref @ 0c1e570, as x86-64 runs it:
 * a conversion to integer that does not fit (a scale so small that its inverse is infinite) has the low byte 0.
 */
#include "block32.h"

#include <float.h>
#include <stddef.h>

/* What one type stores and multiplies with, block by block. */
typedef struct {
    float inverse[CHUNK_BLOCKS];    /* 1 / scale, 0 where the scale is 0 */
    uint16_t scale[CHUNK_BLOCKS];   /* as float16 */
    uint16_t minimum[CHUNK_BLOCKS]; /* as float16 */
    int any_degenerate;             /* some inverse or scale is infinite: see zero_degenerate_quants */
} scales;

/* Parity: ggml starts from max = +0 and takes a weight only if its magnitude is larger than all before it. */
static float first_peak(const float *x, float peak) {
    for (int j = 0; j < BLOCK; j++)
        if (x[j] == peak || x[j] == -peak) return x[j];
    return peak;
}

/* Parity: ggml takes a weight as minimum only if it is smaller than all before it, so the first of two zeros stays. */
static float first_zero(const float *x) {
    for (int j = 0; j < BLOCK; j++)
        if (x[j] == 0.0f) return x[j];
    return 0.0f;
}

/* The cases that a minimum and a maximum do not decide: zeros of both signs, and equal magnitudes of both signs. */
static __attribute__((noinline)) void settle_ties(const float *x, measures *m, int first, int n_blocks) {
    for (int k = first; k < first + LANES && k < n_blocks; k++) {
        const float *block = x + k * BLOCK;
        if (m->lowest[k] == -m->highest[k] && m->highest[k] != 0.0f) m->peak[k] = first_peak(block, m->highest[k]);
        if (m->lowest[k] == 0.0f) {
            m->lowest[k] = first_zero(block);
            if (m->highest[k] == 0.0f) m->highest[k] = m->peak[k] = 0.0f;
        }
        if (m->peak[k] == 0.0f) m->peak[k] = 0.0f;
    }
}

void LEVEL(measure_blocks)(const float *x, int n_blocks, measures *m) {
    for (int first = 0; first < n_blocks; first += LANES) {
        f32v low[LANES], high[LANES];
        for (int k = 0; k < LANES; k++) {
            const float *block = x + (first + k) * BLOCK;
            low[k] = high[k] = load_f32(block);
            for (int v = 1; v < BLOCK_VECTORS; v++) {
                f32v part = load_f32(block + v * LANES);
                low[k] = minimum(low[k], part);
                high[k] = maximum(high[k], part);
            }
        }
        f32v lowest = minima(low), highest = maxima(high), below = -lowest;
        store_f32(m->lowest + first, lowest);
        store_f32(m->highest + first, highest);
        store_f32(m->peak + first, select_gt(below, highest, lowest, highest));
        if (any_eq(below, highest) || any_eq(lowest, splat(0))) settle_ties(x, m, first, n_blocks);
    }
}

/* Stores LANES scales and their inverses. */
INLINE void store_scales(scales *s, int first, f32v scale) {
    const f32v zero = splat(0), largest = splat(FLT_MAX);
    f32v inverse = select_gt(magnitude(scale), zero, splat(1) / scale, zero);
    store_f32(s->inverse + first, inverse);
    store_f16(s->scale + first, scale);
    s->any_degenerate |= any_gt(magnitude(inverse), largest) | any_gt(scale, largest);
}

/* scale = peak / divisor: Q4_0 (-8) and Q5_0 (-16); powers of two, so multiplying by `factor` = 1 / divisor is exact. */
INLINE void scale_by_peak(scales *s, const measures *m, int n_blocks, float factor) {
    s->any_degenerate = 0;
    for (int k = 0; k < n_blocks; k += LANES) store_scales(s, k, load_f32(m->peak + k) * splat(factor));
}

/* scale = largest magnitude / 127: Q8_0. */
INLINE void scale_by_magnitude(scales *s, const measures *m, int n_blocks) {
    s->any_degenerate = 0;
    for (int k = 0; k < n_blocks; k += LANES) store_scales(s, k, magnitude(load_f32(m->peak + k)) / splat(127));
}

/* scale = (highest - lowest) / steps: Q4_1 (15) and Q5_1 (31). */
INLINE void scale_by_range(scales *s, const measures *m, int n_blocks, float steps) {
    s->any_degenerate = 0;
    for (int k = 0; k < n_blocks; k += LANES) {
        f32v lowest = load_f32(m->lowest + k);
        store_scales(s, k, (load_f32(m->highest + k) - lowest) / splat(steps));
        store_f16(s->minimum + k, lowest);
    }
}

/* Parity: where 1 / scale is infinite (a scale below 2^-128), or the range of a block is, every product is infinite
 * or NaN, and ggml's conversion of those to bytes gives 0. Written over what the fast path left there. */
static __attribute__((noinline)) void zero_degenerate_quants(const scales *s, int n_blocks, uint8_t *quants,
                                                             size_t stride, size_t n_bytes) {
    for (int k = 0; k < n_blocks; k++) {
        float inverse = s->inverse[k];
        int infinite_scale = (s->scale[k] & 0x7fffu) == 0x7c00u && inverse == 0.0f;
        if (inverse > FLT_MAX || inverse < -FLT_MAX || infinite_scale) memset(quants + k * stride, 0, n_bytes);
    }
}

/* trunc(x * inverse + offset) of one block. */
INLINE bytes32 quantize_symmetric(const float *x, float inverse, float offset) {
    f32v v[BLOCK_VECTORS];
    for (int i = 0; i < BLOCK_VECTORS; i++) v[i] = load_f32(x + i * LANES) * splat(inverse) + splat(offset);
    return truncate_to_bytes(v);
}

/* trunc((x - lowest) * inverse + 0.5) of one block. */
INLINE bytes32 quantize_affine(const float *x, float inverse, float lowest) {
    f32v v[BLOCK_VECTORS];
    for (int i = 0; i < BLOCK_VECTORS; i++)
        v[i] = (load_f32(x + i * LANES) - splat(lowest)) * splat(inverse) + splat(0.5f);
    return truncate_to_bytes(v);
}

/* Rounds half away from zero: 0.49999997 is the float below 0.5, so that it is not carried up to 1 itself. */
INLINE bytes32 quantize_rounded(const float *x, float inverse) {
    f32v v[BLOCK_VECTORS];
    for (int i = 0; i < BLOCK_VECTORS; i++) {
        f32v scaled = load_f32(x + i * LANES) * splat(inverse);
        v[i] = scaled + with_sign_of(splat(0.49999997f), scaled);
    }
    return truncate_to_bytes(v);
}

static void encode_q4_0(chunk *c, uint8_t *out) {
    const float *x = c->x;
    int n_blocks = c->n / BLOCK;
    scales s;
    scale_by_peak(&s, &c->measured, n_blocks, -0.125f);
    for (int k = 0; k < n_blocks; k++) {
        bytes32 q = quantize_symmetric(x + k * BLOCK, s.inverse[k], 8.5f);
        q.lo = minimum_u8(q.lo, 15);
        q.hi = minimum_u8(q.hi, 15);
        memcpy(out + k * 18, &s.scale[k], 2);
        store_u8x16(out + k * 18 + 2, pack_nibbles(q));
    }
    if (s.any_degenerate) zero_degenerate_quants(&s, n_blocks, out + 2, 18, 16);
}

static void encode_q4_1(chunk *c, uint8_t *out) {
    const float *x = c->x;
    int n_blocks = c->n / BLOCK;
    scales s;
    scale_by_range(&s, &c->measured, n_blocks, 15);
    for (int k = 0; k < n_blocks; k++) {
        bytes32 q = quantize_affine(x + k * BLOCK, s.inverse[k], c->measured.lowest[k]);
        memcpy(out + k * 20, &s.scale[k], 2);
        memcpy(out + k * 20 + 2, &s.minimum[k], 2);
        store_u8x16(out + k * 20 + 4, pack_nibbles(q)); /* 15 * (1 + 2^-21) + 0.5 < 16: no clamp is needed */
    }
    if (s.any_degenerate) zero_degenerate_quants(&s, n_blocks, out + 4, 20, 16);
}

static void encode_q5_0(chunk *c, uint8_t *out) {
    const float *x = c->x;
    int n_blocks = c->n / BLOCK;
    scales s;
    scale_by_peak(&s, &c->measured, n_blocks, -0.0625f);
    for (int k = 0; k < n_blocks; k++) {
        bytes32 q = quantize_symmetric(x + k * BLOCK, s.inverse[k], 16.5f);
        q.lo = minimum_u8(q.lo, 31);
        q.hi = minimum_u8(q.hi, 31);
        memcpy(out + k * 22, &s.scale[k], 2);
        store_five_bits(out + k * 22 + 2, q);
    }
    if (s.any_degenerate) zero_degenerate_quants(&s, n_blocks, out + 2, 22, 20);
}

static void encode_q5_1(chunk *c, uint8_t *out) {
    const float *x = c->x;
    int n_blocks = c->n / BLOCK;
    scales s;
    scale_by_range(&s, &c->measured, n_blocks, 31);
    for (int k = 0; k < n_blocks; k++) {
        bytes32 q = quantize_affine(x + k * BLOCK, s.inverse[k], c->measured.lowest[k]);
        memcpy(out + k * 24, &s.scale[k], 2);
        memcpy(out + k * 24 + 2, &s.minimum[k], 2);
        store_five_bits(out + k * 24 + 4, q);
    }
    if (s.any_degenerate) zero_degenerate_quants(&s, n_blocks, out + 4, 24, 20);
}

static void encode_q8_0(chunk *c, uint8_t *out) {
    const float *x = c->x;
    int n_blocks = c->n / BLOCK;
    scales s;
    scale_by_magnitude(&s, &c->measured, n_blocks);
    for (int k = 0; k < n_blocks; k++) {
        bytes32 q = quantize_rounded(x + k * BLOCK, s.inverse[k]);
        memcpy(out + k * 34, &s.scale[k], 2);
        store_u8x16(out + k * 34 + 2, q.lo);
        store_u8x16(out + k * 34 + 18, q.hi);
    }
    if (s.any_degenerate) zero_degenerate_quants(&s, n_blocks, out + 2, 34, 32);
}

/* ---- decoding: one product a weight, one sum where there is a minimum ---- */

/* Weights j and j + 16 are byte j's nibbles, with fifth bits j and j + 16 above them where the type has those. */
INLINE void unpack_quants(const uint8_t *nibbles, uint32_t fifth, float q[BLOCK]) {
    for (int j = 0; j < BLOCK / 2; j++) {
        q[j] = (float)((nibbles[j] & 15) | (int)(fifth >> j & 1) << 4);
        q[j + 16] = (float)(nibbles[j] >> 4 | (int)(fifth >> (j + 16) & 1) << 4);
    }
}

INLINE uint32_t load_fifth(const uint8_t *from) {
    uint32_t fifth;
    memcpy(&fifth, from, 4);
    return fifth;
}

INLINE void decode_symmetric(const uint8_t *nibbles, uint32_t fifth, float d, float zero, float *x) {
    float q[BLOCK];
    unpack_quants(nibbles, fifth, q);
    for (int j = 0; j < BLOCK; j++) x[j] = (q[j] - zero) * d;
}

INLINE void decode_affine(const uint8_t *nibbles, uint32_t fifth, float d, float minimum, float *x) {
    float q[BLOCK];
    unpack_quants(nibbles, fifth, q);
    for (int j = 0; j < BLOCK; j++) x[j] = q[j] * d + minimum;
}

static void decode_q4_0(const uint8_t *b, float *x) { decode_symmetric(b + 2, 0, load_half(b), 8, x); }

static void decode_q4_1(const uint8_t *b, float *x) { decode_affine(b + 4, 0, load_half(b), load_half(b + 2), x); }

static void decode_q5_0(const uint8_t *b, float *x) { decode_symmetric(b + 6, load_fifth(b + 2), load_half(b), 16, x); }

static void decode_q5_1(const uint8_t *b, float *x) {
    decode_affine(b + 8, load_fifth(b + 4), load_half(b), load_half(b + 2), x);
}

static void decode_q8_0(const uint8_t *b, float *x) {
    const float d = load_half(b);
    for (int j = 0; j < BLOCK; j++) x[j] = (float)(int8_t)b[2 + j] * d;
}

/* With importance: block32_weighted.c. */
#define ROW(name, type, nbytes)                                                                                        \
    const codec LEVEL(name) = {                                                                                        \
        type, BLOCK, nbytes, .wants_measures = 1, .wants_row_power = 1,                                                \
        .encode = encode_##name, .encode_weighted = LEVEL(encode_##name##_weighted), .decode = decode_##name}
ROW(q4_0, TYPE_Q4_0, 18);
ROW(q4_1, TYPE_Q4_1, 20);
ROW(q5_0, TYPE_Q5_0, 22);
ROW(q5_1, TYPE_Q5_1, 24);
const codec LEVEL(q8_0) = {
    TYPE_Q8_0, BLOCK, 34, .wants_measures = 1, .encode = encode_q8_0, .decode = decode_q8_0};
