/* Q6_K: super-blocks of 256 weights, as 16 sub-blocks of 16; 210 bytes.
 *
 *   ql 128 | low four bits          weight = d * scales[j] * (q - 32), j the sub-block
 *   qh  64 | high two bits
 *   scales 16 x int8 | d f16
 *
 * A lane is a sub-block (`columns` below is the corner-turned super-block). With importance, an error counts as much as
 * that says; without, x * x.
 *
 * Source: ggml-quants.c, quantize_row_q6_K_ref and _impl @ 0c1e570.
 */
#include "super_block.h"
#include "symmetric.h"

#define SUB 16
#define Q6_K_NBYTES 210
#define LIMIT 32

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

/* Quantizes two sub-blocks: by `divisor` where it is not 0, else by the search's own inverse. */
INLINE bytes32 quantize_pair(const float *x, const float *divisor, const float *inverse) {
    f32v v[BLOCK_VECTORS];
    for (int i = 0; i < BLOCK_VECTORS; i++) {
        int j = i * LANES / SUB;
        v[i] = symmetric_final_quants(load_f32(x + i * LANES), divisor[j], inverse[j], LIMIT);
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

/* importance: of the weights' columns, or NULL, which counts an error as x * x. */
INLINE void encode_super_block(const float *x, const float *importance, uint8_t *out) {
    static const symmetric_search search = {.n = SUB, .limit = LIMIT, .stride = SUB};
    float columns[SUB][SUB] __attribute__((aligned(64))), weights[SUB][SUB] __attribute__((aligned(64)));
    float scale[SUB], inverse[SUB], divisor[SUB];
    turn_super_block(x, columns);
    if (importance != NULL) turn_super_block(importance, weights);
    for (int j = 0; j < SUB; j += LANES) {
        symmetric_fit fit = search_symmetric(&columns[0][j], importance != NULL ? &weights[0][j] : NULL, &search);
        store_f32(scale + j, fit.scale);
        store_f32(inverse + j, fit.inverse);
    }
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
    for (int k = 0; k < c->n / SUPER; k++) encode_super_block(c->x + k * SUPER, NULL, out + k * Q6_K_NBYTES);
}

static void encode_q6_k_weighted(chunk *c, uint8_t *out) {
    for (int k = 0; k < c->n / SUPER; k++)
        encode_super_block(c->x + k * SUPER, c->importance + k * SUPER, out + k * Q6_K_NBYTES);
}

static void decode_q6_k(const uint8_t *b, float *x) {
    const float d = load_half(b + 208);
    for (int j = 0; j < SUPER / SUB; j++) {
        int run = j % 8 / 2; /* of 32 weights; two sub-blocks */
        const uint8_t *low = b + j / 8 * 64 + run % 2 * 32 + j % 2 * 16, *high = b + 128 + j / 8 * 32 + j % 2 * 16;
        float scale = d * (float)(int8_t)b[192 + j];
        for (int i = 0; i < SUB; i++) {
            int q = (low[i] >> (run / 2 * 4) & 15) | (high[i] >> (run * 2) & 3) << 4;
            x[j * SUB + i] = scale * (float)(q - LIMIT);
        }
    }
}

const codec LEVEL(q6_k) = {
    TYPE_Q6_K, SUPER, Q6_K_NBYTES, .encode = encode_q6_k, .encode_weighted = encode_q6_k_weighted,
    .decode = decode_q6_k};
