/* Weights of two or three values under one scale: TQ1_0, TQ2_0, Q1_0, Q2_0. Importance changes nothing.
 *
 *   TQ1_0    54 bytes of 256   52 x (5 or 4 digits in base 3, as a fraction of 256) | d f16      weight = d * (q - 1)
 *   TQ2_0    66 bytes of 256   64 x 4 pairs of bits | d f16                                      weight = d * (q - 1)
 *   Q1_0     18 bytes of 128   d f16 | 128 bits                                                  weight = bit ? d : -d
 *   Q2_0     18 bytes of 64    d f16 | 16 x 4 pairs of bits                                      weight = d * (q - 1)
 *
 * Source: ggml-quants.c, quantize_row_{tq1_0,tq2_0,q1_0,q2_0}_ref @ 0c1e570.
 */
#include "search.h"

#define TQ1_0_NBYTES 54
#define TQ2_0_NBYTES 66
#define Q1_0_NBYTES 18
#define Q1_0_BLOCK 128
#define Q2_0_NBYTES 18
#define Q2_0_BLOCK 64

INLINE float largest_magnitude(const float *x, int n) {
    f32v largest = magnitude(load_f32(x));
    for (int i = LANES; i < n; i += LANES) largest = maximum(largest, magnitude(load_f32(x + i)));
    return largest_of(largest);
}

/* Rounds x / d, half away from zero, and adds 1: 0, 1 or 2. Parity: where 1 / d is infinite, no integer comes of it, and
 * ggml's conversion gives `otherwise` to all. */
INLINE void to_three(const float *x, int n, float d, uint8_t otherwise, uint8_t *q) {
    float inverse = d != 0 ? 1 / d : 0;
    if (inverse > FLT_MAX) {
        memset(q, otherwise, (size_t)n);
        return;
    }
    for (int i = 0; i < n; i += BLOCK) {
        f32v v[BLOCK_VECTORS];
        for (int k = 0; k < BLOCK_VECTORS; k++) {
            f32v scaled = load_f32(x + i + k * LANES) * splat(inverse);
            v[k] = scaled + with_sign_of(splat(0.49999997f), scaled); /* not 0.5: see quantize_rounded, block32.c */
        }
        bytes32 b = truncate_to_bytes(v);
        store_u8x16(q + i, b.lo + 1);
        store_u8x16(q + i + 16, b.hi + 1);
    }
}

/* n bytes of `digits` digits each, stride apart, the first the highest of five; the fraction is rounded up. */
INLINE void pack_digits(const uint8_t *q, int n, int digits, uint8_t *out) {
    for (int m = 0; m < n; m++) {
        unsigned number = 0;
        for (int k = 0; k < digits; k++) number = number * 3 + q[m + k * n];
        if (digits == 4) number *= 3;
        out[m] = (uint8_t)((number * 256 + 242) / 243);
    }
}

static void encode_tq1_0(chunk *c, uint8_t *out) {
    uint8_t q[SUPER];
    for (int k = 0; k < c->n / SUPER; k++, out += TQ1_0_NBYTES) {
        float d = largest_magnitude(c->x + k * SUPER, SUPER);
        to_three(c->x + k * SUPER, SUPER, d, 1, q);
        pack_digits(q, 32, 5, out);
        pack_digits(q + 160, 16, 5, out + 32);
        pack_digits(q + 240, 4, 4, out + 48);
        put_half(out + 52, d);
    }
}

static void encode_tq2_0(chunk *c, uint8_t *out) {
    uint8_t q[SUPER];
    for (int k = 0; k < c->n / SUPER; k++, out += TQ2_0_NBYTES) {
        float d = largest_magnitude(c->x + k * SUPER, SUPER);
        to_three(c->x + k * SUPER, SUPER, d, 1, q);
        for (int j = 0; j < 2; j++)
            for (int m = 0; m < 32; m++) {
                const uint8_t *at = q + 128 * j + m;
                out[32 * j + m] = (uint8_t)(at[0] | at[32] << 2 | at[64] << 4 | at[96] << 6);
            }
        put_half(out + 64, d);
    }
}

static void encode_q2_0(chunk *c, uint8_t *out) {
    uint8_t q[Q2_0_BLOCK];
    for (int k = 0; k < c->n / Q2_0_BLOCK; k++, out += Q2_0_NBYTES) {
        float d = largest_magnitude(c->x + k * Q2_0_BLOCK, Q2_0_BLOCK);
        to_three(c->x + k * Q2_0_BLOCK, Q2_0_BLOCK, d, 0, q);
        put_half(out, d);
        for (int j = 0; j < 16; j++) {
            const uint8_t *at = q + 4 * j;
            uint32_t four = at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16 | (uint32_t)at[3] << 24;
            out[2 + j] = (uint8_t)(four * 0x01041040u >> 24); /* brings the four pairs of bits together */
        }
    }
}

/* Parity: the magnitudes are added in order, so a lane is a block. */
static void encode_q1_0(chunk *c, uint8_t *out) {
    float d[LANES];
    f32v tile[LANES];
    for (int first = 0; first < c->n / Q1_0_BLOCK; first += LANES) {
        const float *x = c->x + first * Q1_0_BLOCK;
        f32v sum = splat(0);
        for (int i = 0; i < Q1_0_BLOCK; i += LANES) {
            corner_turn(x + i, Q1_0_BLOCK, tile);
            for (int k = 0; k < LANES; k++) sum = sum + magnitude(tile[k]);
        }
        store_f32(d, sum / splat(Q1_0_BLOCK));
        for (int k = 0; k < LANES && first + k < c->n / Q1_0_BLOCK; k++, out += Q1_0_NBYTES) {
            uint32_t bits[4] = {0};
            for (int i = 0; i < Q1_0_BLOCK; i += LANES) {
                unsigned negative = which_greater(splat(0), load_f32(x + k * Q1_0_BLOCK + i));
                bits[i / 32] |= (uint32_t)(~negative & ALL_LANES) << i % 32;
            }
            put_half(out, d[k]);
            memcpy(out + 2, bits, 16);
        }
    }
}

/* Byte by byte the highest digit, then all the next ones, by what is left of the fraction. */
INLINE float *unpack_digits(const uint8_t *packed, int n, int digits, float d, float *x) {
    static const uint8_t powers[5] = {1, 3, 9, 27, 81};
    for (int k = 0; k < digits; k++)
        for (int m = 0; m < n; m++) {
            unsigned rest = (uint8_t)(packed[m] * powers[k]);
            *x++ = (float)((int)(rest * 3 >> 8) - 1) * d;
        }
    return x;
}

static void decode_tq1_0(const uint8_t *b, float *x) {
    const float d = load_half(b + 52);
    x = unpack_digits(b, 32, 5, d, x);
    x = unpack_digits(b + 32, 16, 5, d, x);
    unpack_digits(b + 48, 4, 4, d, x);
}

static void decode_tq2_0(const uint8_t *b, float *x) {
    const float d = load_half(b + 64);
    for (int half = 0; half < 2; half++, b += 32)
        for (int run = 0; run < 4; run++, x += 32)
            for (int i = 0; i < 32; i++) x[i] = (float)((b[i] >> 2 * run & 3) - 1) * d;
}

static void decode_q1_0(const uint8_t *b, float *x) {
    const float d = load_half(b), either[2] = {-d, d};
    for (int i = 0; i < Q1_0_BLOCK; i++) x[i] = either[b[2 + i / 8] >> i % 8 & 1];
}

static void decode_q2_0(const uint8_t *b, float *x) {
    const float d = load_half(b);
    for (int i = 0; i < Q2_0_BLOCK; i++) x[i] = (float)((b[2 + i / 4] >> i % 4 * 2 & 3) - 1) * d;
}

const codec LEVEL(tq1_0) = {TYPE_TQ1_0, SUPER, TQ1_0_NBYTES, .encode = encode_tq1_0, .decode = decode_tq1_0};
const codec LEVEL(tq2_0) = {TYPE_TQ2_0, SUPER, TQ2_0_NBYTES, .encode = encode_tq2_0, .decode = decode_tq2_0};
const codec LEVEL(q1_0) = {TYPE_Q1_0, Q1_0_BLOCK, Q1_0_NBYTES, .encode = encode_q1_0, .decode = decode_q1_0};
const codec LEVEL(q2_0) = {TYPE_Q2_0, Q2_0_BLOCK, Q2_0_NBYTES, .encode = encode_q2_0, .decode = decode_q2_0};
