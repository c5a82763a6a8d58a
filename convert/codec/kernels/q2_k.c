/* Q2_K: super-blocks of 256 weights, as 16 sub-blocks of 16; 84 bytes.
 *
 *   16 x (scale | minimum << 4)     weight = d * scales[j] * q - dmin * minimums[j], j the sub-block
 *   64 bytes: two halves of 128 weights, as runs of 32: a | b << 2 | c << 4 | d << 6
 *   d f16 | dmin f16
 *
 * Without importance, a weight's error counts |x| and is not squared; with, importance * sqrt(mean square + x * x).
 *
 * Source: ggml-quants.c, quantize_row_q2_K_ref and _impl @ 0c1e570.
 */
#define SUB 16
#include "affine_super_block.h"

#define Q2_K_NBYTES 84
#define HIGHEST 3
#define HIGHEST_SCALE 15

static const affine_search plain = {
    .n = SUB, .highest = HIGHEST, .n_steps = 15, .first = -0.5f, .step = 0.1f, .absolute = 1};
static const affine_search weighted = {.n = SUB, .highest = HIGHEST, .n_steps = 36, .first = -0.9f, .step = 0.05f};

INLINE void weigh_by_size(lanes_of_super_blocks *s) {
    const float *x = s->x[0][0];
    for (int i = 0; i < SUPER * LANES; i += LANES) store_f32(s->w[0][0] + i, magnitude(load_f32(x + i)));
}

/* The largest scale becomes 15. */
INLINE void round_scales(const f32v *scale, int32_t rounded[N_SUBS][LANES], uint16_t *half, float *back) {
    f32v largest = largest_or_zero(scale, N_SUBS), inverse = splat(HIGHEST_SCALE) / largest;
    i32v any = (i32v)(largest > splat(0));
    for (int j = 0; j < N_SUBS; j++) store_i32(rounded[j], AS_BYTE(nearest_wrapping(inverse * scale[j])) & any);
    store_rounded(largest / splat(HIGHEST_SCALE), half, back);
}

/* The scales are fitted as weights are. */
INLINE void fit_scales(const f32v *scale, const f32v *w, int32_t fitted[N_SUBS][LANES], uint16_t *half, float *back) {
    i32v q[N_SUBS];
    store_rounded(fit_positive(scale, w, q, N_SUBS, HIGHEST_SCALE), half, back);
    for (int j = 0; j < N_SUBS; j++) store_i32(fitted[j], q[j]);
}

/* Sub-blocks j and j + 1 of lane k. */
INLINE bytes32 quantize_pair(const lanes_of_super_blocks *s, const float *x, int j, int k, const uint8_t *scales) {
    f32v v[BLOCK_VECTORS];
    for (int i = 0; i < BLOCK_VECTORS; i++) {
        int sub = j + i * LANES / SUB;
        float d = s->d[k] * (float)(scales[sub] & 15), dmin = s->dmin[k] * (float)(scales[sub] >> 4);
        v[i] = final_quants(s, x + j * SUB + i * LANES, sub, k, d, dmin, HIGHEST);
    }
    return truncate_to_bytes(v);
}

/* Lane k, whose weights are x. Parity: a scale beyond four bits runs into the minimum. */
INLINE void store_super_block(const lanes_of_super_blocks *s, const float *x, int k, uint8_t *out) {
    for (int j = 0; j < N_SUBS; j++) out[j] = (uint8_t)(s->scales[j][k] | s->minimums[j][k] << 4);
    for (int half = 0; half < 2; half++) {
        bytes32 q[4];
        for (int i = 0; i < 4; i++) q[i] = quantize_pair(s, x, half * 8 + i * 2, k, out);
        store_u8x16(out + 16 + half * 32, q[0].lo | q[1].lo << 2 | q[2].lo << 4 | q[3].lo << 6);
        store_u8x16(out + 32 + half * 32, q[0].hi | q[1].hi << 2 | q[2].hi << 4 | q[3].hi << 6);
    }
    memcpy(out + 80, s->d_half + k, 2);
    memcpy(out + 82, s->dmin_half + k, 2);
}

/* `search` is a constant at each call. */
INLINE void encode_chunk(chunk *c, const affine_search *search, uint8_t *out) {
    lanes_of_super_blocks s;
    for (int first = 0; first < c->n / SUPER; first += LANES) {
        const float *x = c->x + first * SUPER;
        turn_super_blocks(x, s.x[0][0]);
        if (search == &weighted) weigh_by_importance(s.x[0][0], c->importance + first * SUPER, s.w[0][0], 1);
        else weigh_by_size(&s);
        search_sub_blocks(&s, search);
        if (search == &weighted) {
            fit_scales(s.scale, s.sum_w, s.scales, s.d_half, s.d);
            fit_scales(s.minimum, s.sum_w, s.minimums, s.dmin_half, s.dmin);
        } else {
            round_scales(s.scale, s.scales, s.d_half, s.d);
            round_scales(s.minimum, s.minimums, s.dmin_half, s.dmin);
        }
        for (int k = 0; k < LANES && first + k < c->n / SUPER; k++)
            store_super_block(&s, x + k * SUPER, k, out + (first + k) * Q2_K_NBYTES);
    }
}

static void encode_q2_k(chunk *c, uint8_t *out) { encode_chunk(c, &plain, out); }

static void encode_q2_k_weighted(chunk *c, uint8_t *out) { encode_chunk(c, &weighted, out); }

static void decode_q2_k(const uint8_t *b, float *x) {
    const float d = load_half(b + 80), dmin = load_half(b + 82);
    for (int j = 0; j < N_SUBS; j++) {
        const uint8_t *q = b + 16 + j / 8 * 32 + j % 2 * 16; /* a run of 32 is two sub-blocks */
        float scale = d * (float)(b[j] & 15), minimum = dmin * (float)(b[j] >> 4);
        for (int i = 0; i < SUB; i++) x[j * SUB + i] = scale * (float)(q[i] >> (j % 8 / 2 * 2) & 3) - minimum;
    }
}

const codec LEVEL(q2_k) = {
    TYPE_Q2_K, SUPER, Q2_K_NBYTES, .encode = encode_q2_k, .encode_weighted = encode_q2_k_weighted,
    .decode = decode_q2_k};
