/* Q4_K and Q5_K: super-blocks of 256 weights, as 8 sub-blocks of 32; 144 and 176 bytes.
 *
 *   d f16 | dmin f16            weight = d * scales[j] * q - dmin * minimums[j], j the sub-block
 *   12 bytes: 8 scales and 8 minimums of six bits, s and m:
 *       byte j     0..3     s[j]     low 6 bits, above them the high 2 of s[j + 4]
 *       byte j + 4 0..3     m[j]     low 6 bits, above them the high 2 of m[j + 4]
 *       byte j + 8 0..3     s[j + 4] low 4 bits, above them the low 4 of m[j + 4]
 *   Q5_K only: 32 bytes, bit j of byte i is the fifth bit of weight i of sub-block j
 *   128 bytes: 32 for each pair of sub-blocks, the first's in the low nibbles
 *
 * Without importance, a weight's error counts rms + |x|; with, importance * sqrt(2 * mean square + x * x).
 *
 * Source: ggml-quants.c, quantize_row_q{4,5}_K_ref and _impl @ 0c1e570.
 */
#define SUB 32
#include "affine_super_block.h"

#include <stddef.h>

#define HIGHEST_SCALE 63

static const affine_search q4_plain = {.n = SUB, .highest = 15, .n_steps = 20, .first = -1.0f, .step = 0.1f};
static const affine_search q5_plain = {.n = SUB, .highest = 31, .n_steps = 15, .first = -0.5f, .step = 0.1f};
static const affine_search q4_weighted = {.n = SUB, .highest = 15, .n_steps = 36, .first = -0.9f, .step = 0.05f};
static const affine_search q5_weighted = {.n = SUB, .highest = 31, .n_steps = 36, .first = -0.9f, .step = 0.05f};

INLINE void weigh_by_size(lanes_of_super_blocks *s) {
    for (int j = 0; j < N_SUBS; j++) {
        f32v sum = {0};
        for (int i = 0; i < SUB; i++) sum = sum + load_f32(s->x[j][i]) * load_f32(s->x[j][i]);
        f32v rms = root(sum / splat(SUB));
        for (int i = 0; i < SUB; i++) store_f32(s->w[j][i], rms + magnitude(load_f32(s->x[j][i])));
    }
}

INLINE i32v at_most_63(i32v q) { return choose_i32(q > HIGHEST_SCALE, q - q + HIGHEST_SCALE, q); }

/* The largest scale becomes 63. */
INLINE void round_scales(const f32v *scale, int32_t rounded[N_SUBS][LANES], uint16_t *half, float *back) {
    f32v largest = largest_or_zero(scale, N_SUBS), zero = splat(0);
    f32v inverse = select_gt(largest, zero, splat(HIGHEST_SCALE) / largest, zero);
    for (int j = 0; j < N_SUBS; j++)
        store_i32(rounded[j], at_most_63(AS_BYTE(nearest_wrapping(inverse * scale[j]))));
    store_rounded(largest / splat(HIGHEST_SCALE), half, back);
}

/* The scales are fitted as weights are. Parity: Q4_K stores a byte above 63 as it is. */
INLINE void fit_scales(const f32v *scale, const f32v *w, int limited, int32_t fitted[N_SUBS][LANES], uint16_t *half,
                       float *back) {
    i32v q[N_SUBS];
    store_rounded(fit_positive(scale, w, q, N_SUBS, HIGHEST_SCALE), half, back);
    for (int j = 0; j < N_SUBS; j++) store_i32(fitted[j], limited ? at_most_63(q[j]) : q[j]);
}

/* The scales and minimums as a reader sees them. */
INLINE void unpack_scales(const uint8_t *packed, uint8_t scale[N_SUBS], uint8_t minimum[N_SUBS]) {
    for (int j = 0; j < 4; j++) {
        scale[j] = packed[j] & 63;
        minimum[j] = packed[j + 4] & 63;
        scale[j + 4] = (uint8_t)((packed[j + 8] & 15) | packed[j] >> 6 << 4);
        minimum[j + 4] = (uint8_t)(packed[j + 8] >> 4 | packed[j + 4] >> 6 << 4);
    }
}

static void store_scales(const lanes_of_super_blocks *s, int k, uint8_t *packed) {
    for (int j = 0; j < 4; j++) {
        unsigned a = (unsigned)s->scales[j][k], b = (unsigned)s->scales[j + 4][k];
        unsigned c = (unsigned)s->minimums[j][k], d = (unsigned)s->minimums[j + 4][k];
        packed[j] = (uint8_t)(a | b >> 4 << 6);
        packed[j + 4] = (uint8_t)(c | d >> 4 << 6);
        packed[j + 8] = (uint8_t)((b & 15) | (d & 15) << 4);
    }
}

/* Sub-block j of lane k. */
INLINE bytes32 quantize(const lanes_of_super_blocks *s, const float *x, int j, int k, uint8_t scale, uint8_t minimum,
                        int highest) {
    float d = s->d[k] * (float)scale, dmin = s->dmin[k] * (float)minimum;
    f32v v[BLOCK_VECTORS];
    for (int i = 0; i < BLOCK_VECTORS; i++)
        v[i] = final_quants(s, x + j * SUB + i * LANES, j, k, d, dmin, highest);
    return truncate_to_bytes(v);
}

/* Lane k, whose weights are x, of which `highest` tells the type. */
INLINE void store_super_block(const lanes_of_super_blocks *s, const float *x, int k, int highest, uint8_t *out) {
    uint8_t scale[N_SUBS], minimum[N_SUBS], *nibbles = out + (highest == 31 ? 48 : 16);
    bytes32 fifth = {{0}, {0}};
    memcpy(out, s->d_half + k, 2);
    memcpy(out + 2, s->dmin_half + k, 2);
    store_scales(s, k, out + 4);
    unpack_scales(out + 4, scale, minimum);
    for (int j = 0; j < N_SUBS; j += 2) {
        bytes32 a = quantize(s, x, j, k, scale[j], minimum[j], highest);
        bytes32 b = quantize(s, x, j + 1, k, scale[j + 1], minimum[j + 1], highest);
        if (highest == 31) {
            fifth.lo |= (a.lo >> 4 | b.lo >> 4 << 1) << j;
            fifth.hi |= (a.hi >> 4 | b.hi >> 4 << 1) << j;
        }
        store_u8x16(nibbles + j * 16, (a.lo & 15) | b.lo << 4);
        store_u8x16(nibbles + j * 16 + 16, (a.hi & 15) | b.hi << 4);
    }
    if (highest != 31) return;
    store_u8x16(out + 16, fifth.lo);
    store_u8x16(out + 32, fifth.hi);
}

/* Every argument but `c` and `out` is a constant at each call. */
INLINE void encode_chunk(chunk *c, const affine_search *search, int weighted, int nbytes, uint8_t *out) {
    lanes_of_super_blocks s;
    for (int first = 0; first < c->n / SUPER; first += LANES) {
        const float *x = c->x + first * SUPER;
        turn_super_blocks(x, s.x[0][0]);
        if (weighted) weigh_by_importance(s.x[0][0], c->importance + first * SUPER, s.w[0][0], 2);
        else weigh_by_size(&s);
        search_sub_blocks(&s, search);
        if (weighted) {
            fit_scales(s.scale, s.sum_w, search->highest == 31, s.scales, s.d_half, s.d);
            fit_scales(s.minimum, s.sum_w, search->highest == 31, s.minimums, s.dmin_half, s.dmin);
        } else {
            round_scales(s.scale, s.scales, s.d_half, s.d);
            round_scales(s.minimum, s.minimums, s.dmin_half, s.dmin);
        }
        for (int k = 0; k < LANES && first + k < c->n / SUPER; k++)
            store_super_block(&s, x + k * SUPER, k, search->highest, out + (first + k) * nbytes);
    }
}

static void encode_q4_k(chunk *c, uint8_t *out) { encode_chunk(c, &q4_plain, 0, 144, out); }

static void encode_q4_k_weighted(chunk *c, uint8_t *out) { encode_chunk(c, &q4_weighted, 1, 144, out); }

static void encode_q5_k(chunk *c, uint8_t *out) { encode_chunk(c, &q5_plain, 0, 176, out); }

static void encode_q5_k_weighted(chunk *c, uint8_t *out) { encode_chunk(c, &q5_weighted, 1, 176, out); }

/* fifth: NULL where there are no fifth bits. */
INLINE void decode_super_block(const uint8_t *b, const uint8_t *fifth, const uint8_t *nibbles, float *x) {
    const float d = load_half(b), dmin = load_half(b + 2);
    uint8_t scale[N_SUBS], minimum[N_SUBS];
    unpack_scales(b + 4, scale, minimum);
    for (int j = 0; j < N_SUBS; j++) {
        float step = d * (float)scale[j], low = dmin * (float)minimum[j];
        for (int i = 0; i < SUB; i++) {
            int q = nibbles[j / 2 * SUB + i] >> (j % 2 * 4) & 15;
            if (fifth != NULL) q |= (fifth[i] >> j & 1) << 4;
            x[j * SUB + i] = step * (float)q - low;
        }
    }
}

static void decode_q4_k(const uint8_t *b, float *x) { decode_super_block(b, NULL, b + 16, x); }

static void decode_q5_k(const uint8_t *b, float *x) { decode_super_block(b, b + 16, b + 48, x); }

const codec LEVEL(q4_k) = {
    TYPE_Q4_K, SUPER, 144, .encode = encode_q4_k, .encode_weighted = encode_q4_k_weighted, .decode = decode_q4_k};
const codec LEVEL(q5_k) = {
    TYPE_Q5_K, SUPER, 176, .encode = encode_q5_k, .encode_weighted = encode_q5_k_weighted, .decode = decode_q5_k};
