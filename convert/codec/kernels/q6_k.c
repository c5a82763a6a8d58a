/* Q6_K: super-blocks of 256 weights, as 16 sub-blocks of 16; 210 bytes.
 *
 *   ql 128 | low four bits          weight = d * scales[j] * (q - 32), j the sub-block
 *   qh  64 | high two bits
 *   scales 16 x int8 | d f16
 *
 * Each sub-block's scale is searched: 19 candidates, each judged by weighted sums over its 16 weights. The sums run
 * in order, so a lane is a sub-block and the 16 weights are steps (`columns` below is the corner-turned super-block).
 * A product and a sum stay two operations: fusing them would change bits.
 *
 * Source: ggml-quants.c, make_qx_quants (nmax 32, rmse_type 1) and quantize_row_q6_K_ref @ 0c1e570.
 */
#include "codecs.h"

#define SUPER 256
#define SUB 16
#define Q6_K_NBYTES 210
#define TINY 1e-15f            /* GROUP_MAX_EPS */

/* columns[i][j] = x[16 * j + i]. */
INLINE void turn_super_block(const float *x, float columns[SUB][SUB]) {
    f32v tile[LANES];
    for (int j = 0; j < SUB; j += LANES) {
        for (int i = 0; i < SUB; i += LANES) {
            corner_turn(x + SUB * j + i, SUB, tile);
            for (int k = 0; k < LANES; k++) store_f32(&columns[i + k][j], tile[k]);
        }
    }
}

/* The best candidate so far, of LANES sub-blocks. */
typedef struct {
    f32v inverse; /* weights times this, rounded, are the quants */
    f32v scale;
    f32v merit;
} choice;

/* The candidates: inverse = -(32 + 0.1 * step) / peak, 32 and 0.1 as float32. */
#define NUMERATOR(step) (-(32.0f + 0.1f * (float)(step)))

/* Quants nearest to x * inverse, as floats, within [-32, 31]. `step` is a constant, so that only limits that can be
 * met are tested: |x * inverse| <= 32 + step / 10 and a little. */
INLINE f32v nearest_quants(f32v x, f32v inverse, int step) {
    f32v q = (x * inverse + splat(ROUNDER)) - splat(ROUNDER);
    if (step >= -5) q = minimum(q, splat(31));
    if (step >= 5) q = maximum(q, splat(-32));
    return q;
}

typedef struct {
    f32v weighted; /* sum of w * x * q, w = x * x */
    f32v squares;  /* sum of w * q * q */
} sums;

INLINE void add_to_sums(sums *s, f32v x, f32v inverse, int step) {
    f32v w = x * x, q = nearest_quants(x, inverse, step);
    s->weighted = s->weighted + w * x * q;
    s->squares = s->squares + w * q * q;
}

/* Parity: a candidate is better if weighted^2 > merit * squares, in exactly these products. */
INLINE void keep_better(choice *best, sums s, f32v inverse) {
    const f32v never = splat(-__builtin_inff());
    f32v challenge = select_gt(s.squares, splat(0), s.weighted * s.weighted, never);
    f32v bar = best->merit * s.squares;
    f32v scale = s.weighted / s.squares;
    best->merit = select_gt(challenge, bar, scale * s.weighted, best->merit);
    best->scale = select_gt(challenge, bar, scale, best->scale);
    best->inverse = select_gt(challenge, bar, inverse, best->inverse);
}

/* Three candidates side by side: each sum is a chain of dependent additions, and six chains hide its latency. */
#define TRIO(columns, peak, best, s0, s1, s2)                                                                          \
    do {                                                                                                               \
        f32v i0 = splat(NUMERATOR(s0)) / peak, i1 = splat(NUMERATOR(s1)) / peak, i2 = splat(NUMERATOR(s2)) / peak;     \
        sums t0 = {0}, t1 = {0}, t2 = {0};                                                                             \
        for (int i = 0; i < SUB; i++) {                                                                                \
            f32v x = load_f32(columns + i * SUB);                                                                      \
            add_to_sums(&t0, x, i0, s0);                                                                               \
            add_to_sums(&t1, x, i1, s1);                                                                               \
            add_to_sums(&t2, x, i2, s2);                                                                               \
        }                                                                                                              \
        keep_better(best, t0, i0);                                                                                     \
        keep_better(best, t1, i1);                                                                                     \
        keep_better(best, t2, i2);                                                                                     \
    } while (0)

/* The first weight of largest magnitude. */
INLINE f32v find_peak(const float *columns, f32v *magnitude_of_peak) {
    f32v peak = splat(0), largest = splat(0);
    for (int i = 0; i < SUB; i++) {
        f32v x = load_f32(columns + i * SUB), size = magnitude(x);
        peak = select_gt(size, largest, x, peak);
        largest = maximum(size, largest);
    }
    *magnitude_of_peak = largest;
    return peak;
}

/* Searches LANES sub-blocks; stores their scales and inverses, both 0 for a sub-block of (almost) zeros. */
INLINE void search_scales(const float *columns, float *scale, float *inverse) {
    f32v largest, zero = splat(0);
    f32v peak = find_peak(columns, &largest);
    choice best = {.inverse = splat(NUMERATOR(0)) / peak};
    sums s = {0};
    for (int i = 0; i < SUB; i++) add_to_sums(&s, load_f32(columns + i * SUB), best.inverse, 0);
    best.scale = select_gt(s.squares, zero, s.weighted / s.squares, zero);
    best.merit = best.scale * s.weighted;
    TRIO(columns, peak, &best, -9, -8, -7);
    TRIO(columns, peak, &best, -6, -5, -4);
    TRIO(columns, peak, &best, -3, -2, -1);
    TRIO(columns, peak, &best, 1, 2, 3);
    TRIO(columns, peak, &best, 4, 5, 6);
    TRIO(columns, peak, &best, 7, 8, 9);
    const f32v tiny = splat(TINY);
    store_f32(scale, select_gt(tiny, largest, zero, best.scale));
    store_f32(inverse, select_gt(tiny, largest, zero, best.inverse));
}

/* The integer nearest to each lane, ties to even, within [-32, 31], plus 32, as a float.
 * Parity: the bits of x + ROUNDER are taken as they come, so NaN gives 0 and a huge value wraps as ggml's does. */
INLINE f32v nearest_in_range(f32v x) {
    i32v bits = (i32v)(x + splat(ROUNDER));
    f32v q = __builtin_convertvector((bits & 0x007fffff) - 0x00400000, f32v);
    return maximum(minimum(q, splat(31)), splat(-32)) + splat(32);
}

/* Quantizes two sub-blocks: by `divisor` where it is not 0, else by the search's own inverse. */
INLINE bytes32 quantize_pair(const float *x, const float *divisor, const float *inverse) {
    f32v v[BLOCK_VECTORS];
    for (int i = 0; i < BLOCK_VECTORS; i++) {
        int j = i * LANES / SUB;
        f32v part = load_f32(x + i * LANES);
        if (divisor[j] != 0) /* NaN too */
            v[i] = nearest_in_range(part / splat(divisor[j]));
        else if (inverse[j] != 0)
            v[i] = nearest_in_range(part * splat(inverse[j]));
        else
            v[i] = splat(0); /* Parity: an all-zero sub-block keeps quants 0, not 32 */
    }
    return truncate_to_bytes(v);
}

INLINE void store_halves(const bytes32 q[4], uint8_t *ql, uint8_t *qh) {
    store_u8x16(ql, (q[0].lo & 15) | (q[2].lo << 4));
    store_u8x16(ql + 16, (q[0].hi & 15) | (q[2].hi << 4));
    store_u8x16(ql + 32, (q[1].lo & 15) | (q[3].lo << 4));
    store_u8x16(ql + 48, (q[1].hi & 15) | (q[3].hi << 4));
    store_u8x16(qh, (q[0].lo >> 4) | (q[1].lo >> 4 << 2) | (q[2].lo >> 4 << 4) | (q[3].lo >> 4 << 6));
    store_u8x16(qh + 16, (q[0].hi >> 4) | (q[1].hi >> 4 << 2) | (q[2].hi >> 4 << 4) | (q[3].hi >> 4 << 6));
}

/* The scale of largest magnitude, the first of equals; NaN is never larger. */
INLINE float largest_scale(const float scale[SUB]) {
    float largest = 0, magnitude_of_largest = 0;
    for (int j = 0; j < SUB; j++) {
        float size = __builtin_fabsf(scale[j]);
        if (size > magnitude_of_largest) {
            magnitude_of_largest = size;
            largest = scale[j];
        }
    }
    return largest;
}

/* Stores d and the 16 integer scales; divisor[j] is what decoding will multiply sub-block j's quants with. */
INLINE void store_super_scales(const float scale[SUB], float largest, uint8_t *out, float divisor[SUB]) {
    uint16_t half[LANES];
    float inverse = -128.0f / largest, d[LANES];
    store_f16(half, splat(1 / inverse));
    store_f32(d, load_f16(half));
    for (int j = 0; j < SUB; j++) {
        float shifted = inverse * scale[j] + ROUNDER;
        int32_t bits;
        memcpy(&bits, &shifted, 4);
        int32_t q = (bits & 0x007fffff) - 0x00400000;
        int8_t stored = (int8_t)(uint8_t)(q > 127 ? 127 : q);
        divisor[j] = d[0] * (float)stored;
        out[192 + j] = (uint8_t)stored;
    }
    memcpy(out + 208, half, 2);
}

static void encode_super_block(const float *x, uint8_t *out) {
    float columns[SUB][SUB] __attribute__((aligned(64)));
    float scale[SUB], inverse[SUB], divisor[SUB];
    turn_super_block(x, columns);
    for (int j = 0; j < SUB; j += LANES) search_scales(&columns[0][j], scale + j, inverse + j);
    float largest = largest_scale(scale);
    if (__builtin_fabsf(largest) < TINY) {
        memset(out, 0, Q6_K_NBYTES);
        return;
    }
    store_super_scales(scale, largest, out, divisor);
    for (int half = 0; half < 2; half++) {
        bytes32 q[4];
        for (int i = 0; i < 4; i++) {
            int j = half * 8 + i * 2;
            q[i] = quantize_pair(x + j * SUB, divisor + j, inverse + j);
        }
        store_halves(q, out + half * 64, out + 128 + half * 32);
    }
}

static void encode_q6_k(chunk *c, uint8_t *out) {
    for (int k = 0; k < c->n / SUPER; k++) encode_super_block(c->x + k * SUPER, out + k * Q6_K_NBYTES);
}

const codec LEVEL(q6_k) = {TYPE_Q6_K, SUPER, Q6_K_NBYTES, .encode = encode_q6_k};
