/* Q4_0, Q4_1, Q5_0, Q5_1 with importance. An error counts importance * sqrt(mean square of the row + x * x); quants are
 * those that the search found. A lane is a block.
 *
 * Source: ggml-quants.c, quantize_row_{q4_0,q4_1,q5_0,q5_1}_impl @ 0c1e570.
 */
#include "affine.h"
#include "block32.h"
#include "symmetric.h"

/* The columns of LANES blocks from `first` on, and what an error in each weight counts. */
INLINE void weigh_blocks(const chunk *c, int first, float *x, float *w) {
    const f32v row_power = load_f32(c->row_power + first);
    f32v values[LANES], importance[LANES];
    for (int i = 0; i < BLOCK; i += LANES) {
        corner_turn(c->x + first * BLOCK + i, BLOCK, values);
        corner_turn(c->importance + first * BLOCK + i, BLOCK, importance);
        for (int k = 0; k < LANES; k++) {
            store_f32(x + (i + k) * LANES, values[k]);
            store_f32(w + (i + k) * LANES, importance[k] * root(row_power + values[k] * values[k]));
        }
    }
}

/* Block k of the lanes, whose weights are x. */
INLINE bytes32 symmetric_quants(const float *x, const symmetric_fit *fit, int k, int limit) {
    f32v v[BLOCK_VECTORS];
    for (int i = 0; i < BLOCK_VECTORS; i++)
        v[i] = fit->empty[k] ? splat(0) : quants_from_zero(load_f32(x + i * LANES) * splat(fit->inverse[k]), limit);
    return truncate_to_bytes(v);
}

/* d | quants; `limit` is a constant at each call. */
INLINE void encode_symmetric(chunk *c, const int limit, uint8_t *out) {
    const symmetric_search search = {.n = BLOCK, .limit = limit, .stride = LANES};
    const int nbytes = limit == 8 ? 18 : 22, n_blocks = c->n / BLOCK;
    float x[BLOCK * LANES] __attribute__((aligned(64))), w[BLOCK * LANES] __attribute__((aligned(64)));
    for (int first = 0; first < n_blocks; first += LANES) {
        uint16_t d[LANES];
        weigh_blocks(c, first, x, w);
        symmetric_fit fit = search_symmetric(x, w, &search);
        store_f16(d, fit.scale);
        for (int k = 0; k < LANES && first + k < n_blocks; k++) {
            uint8_t *block = out + (first + k) * nbytes;
            bytes32 q = symmetric_quants(c->x + (first + k) * BLOCK, &fit, k, limit);
            memcpy(block, d + k, 2);
            if (limit == 8) store_u8x16(block + 2, pack_nibbles(q));
            else store_five_bits(block + 2, q);
        }
    }
}

/* Block k of a group, whose weights are x. */
INLINE bytes32 affine_block_quants(const float *x, const affine_group *g, int k, int highest) {
    f32v v[BLOCK_VECTORS], inverse = splat(g->best_inverse[k]), grid = splat(g->best_grid[k]);
    for (int i = 0; i < BLOCK_VECTORS; i++)
        v[i] = g->flat[k] ? splat(0) : affine_quants_wrapping(load_f32(x + i * LANES), inverse, grid, highest);
    return truncate_to_bytes(v);
}

/* d | minimum | quants, of the blocks of one group. */
INLINE void store_affine(const chunk *c, int first, const affine_group *g, int highest, uint8_t *out) {
    const int nbytes = highest == 15 ? 20 : 24;
    uint16_t d[LANES], low[LANES];
    store_f16(d, g->scale);
    store_f16(low, g->minimum);
    for (int k = 0; k < LANES && first + k < c->n / BLOCK; k++) {
        uint8_t *block = out + (first + k) * nbytes;
        bytes32 q = affine_block_quants(c->x + (first + k) * BLOCK, g, k, highest);
        memcpy(block, d + k, 2);
        memcpy(block + 2, low + k, 2);
        if (highest == 15) store_u8x16(block + 4, pack_nibbles(q));
        else store_five_bits(block + 4, q);
    }
}

/* `highest` is a constant at each call. */
INLINE void encode_affine(chunk *c, const int highest, uint8_t *out) {
    const affine_search search = {.n = BLOCK, .highest = highest, .n_steps = 36, .first = -0.9f, .step = 0.05f};
    struct {
        float x[BLOCK * LANES], w[BLOCK * LANES], q[BLOCK * LANES];
    } columns[N_GROUPS] __attribute__((aligned(64)));
    for (int first = 0; first < c->n / BLOCK; first += N_GROUPS * LANES) {
        affine_group g[N_GROUPS];
        for (int i = 0; i < N_GROUPS; i++) {
            weigh_blocks(c, first + i * LANES, columns[i].x, columns[i].w);
            g[i].x = columns[i].x, g[i].w = columns[i].w, g[i].q = columns[i].q;
        }
        search_affine(g, &search);
        for (int i = 0; i < N_GROUPS; i++) store_affine(c, first + i * LANES, &g[i], highest, out);
    }
}

void LEVEL(encode_q4_0_weighted)(chunk *c, uint8_t *out) { encode_symmetric(c, 8, out); }

void LEVEL(encode_q5_0_weighted)(chunk *c, uint8_t *out) { encode_symmetric(c, 16, out); }

void LEVEL(encode_q4_1_weighted)(chunk *c, uint8_t *out) { encode_affine(c, 15, out); }

void LEVEL(encode_q5_1_weighted)(chunk *c, uint8_t *out) { encode_affine(c, 31, out); }
