/* What the types with a scale and a minimum for each sub-block share: Q2_K, Q4_K, Q5_K. SUB, the weights in a sub-block,
 * is defined before this file is included.
 */
#ifndef CONVERT_AFFINE_SUPER_BLOCK_H
#define CONVERT_AFFINE_SUPER_BLOCK_H

#include "affine.h"
#include "positive.h"
#include "super_block.h"

#define N_SUBS (SUPER / SUB)

/* LANES super-blocks on their way; [j][k]: sub-block j of lane k. */
typedef struct {
    float x[N_SUBS][SUB][LANES], w[N_SUBS][SUB][LANES], q[N_GROUPS][SUB][LANES];
    f32v scale[N_SUBS], minimum[N_SUBS], sum_w[N_SUBS]; /* minimum: as it is stored, negated */
    float inverse[N_SUBS][LANES], grid[N_SUBS][LANES];
    int32_t scales[N_SUBS][LANES], minimums[N_SUBS][LANES];
    uint16_t d_half[LANES], dmin_half[LANES];
    float d[LANES], dmin[LANES];
} __attribute__((aligned(64))) lanes_of_super_blocks;

INLINE void search_sub_blocks(lanes_of_super_blocks *s, const affine_search *search) {
    for (int j = 0; j < N_SUBS; j += N_GROUPS) {
        affine_group g[N_GROUPS];
        for (int i = 0; i < N_GROUPS; i++) g[i].x = s->x[j + i][0], g[i].w = s->w[j + i][0], g[i].q = s->q[i][0];
        search_affine(g, search);
        for (int i = 0; i < N_GROUPS; i++) {
            s->scale[j + i] = g[i].scale;
            s->minimum[j + i] = -g[i].minimum;
            s->sum_w[j + i] = g[i].sum_w;
            store_f32(s->inverse[j + i], g[i].best_inverse);
            store_f32(s->grid[j + i], g[i].best_grid);
        }
    }
}

/* Quants 0..highest of LANES weights of sub-block j of lane k, which decodes as scale * q - minimum; where the scale came
 * out as zero, the quants are those that the search found. */
INLINE f32v final_quants(const lanes_of_super_blocks *s, const float *x, int j, int k, float scale, float minimum_,
                         int highest) {
    f32v q = splat(0), v = load_f32(x);
    if (scale != 0) /* NaN too */
        q = float_of(nearest_wrapping((v + splat(minimum_)) / splat(scale)));
    else if (s->inverse[j][k] != 0)
        q = float_of(nearest_wrapping(splat(s->inverse[j][k]) * (v - splat(s->grid[j][k]))));
    return maximum(minimum(q, splat((float)highest)), splat(0));
}

#endif
