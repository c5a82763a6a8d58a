/* The search for a scale and a minimum: x is nearly scale * q + minimum, q in 0..highest.
 *
 * A lane is a block, so that the sums over a block's weights run in order; a group is LANES blocks, as columns of LANES
 * floats. Each candidate is a grid (inverse, minimum): quants on it, the best scale and minimum for these quants, and
 * the error of that fit. A winner's minimum begins the next candidate's grid, so candidates cannot be tried side by
 * side, nor left out; four groups are in flight instead, two summing while two divide.
 *
 * Source: ggml-quants.c, make_qkx2_quants and make_qkx3_quants @ 0c1e570; they differ only in what they are given.
 */
#ifndef CONVERT_AFFINE_H
#define CONVERT_AFFINE_H

#include "lanes.h"

#define N_GROUPS 4 /* searched at once */

typedef struct {
    int n;       /* weights in a block */
    int highest; /* quant */
    int n_steps;
    float first, step; /* candidate c has the inverse (highest + first + c * step) / range */
    int absolute;      /* errors count as they are, not squared */
} affine_search;

typedef struct {
    const float *x, *w; /* columns: the weights, and what an error in each counts */
    float *q;           /* columns: the candidate's quants */
    f32v lowest, highest, sum_w, sum_wx;
    i32v flat; /* lanes of one value: nothing is above the lowest, nor above zero */
    f32v inverse, grid;         /* the candidate's grid: q = (x - grid) * inverse */
    f32v sum_q, sum_qq, sum_qx; /* weighted */
    f32v determinant, new_scale, new_minimum, new_error;
    f32v scale, minimum, error;     /* the best fit so far */
    f32v best_inverse, best_grid;   /* its grid: what the block's quants are made on */
} affine_group;

/* Beyond this, ggml's nearest_int may wrap. */
#define SAFE_QUANT 2097152.0f

/* Not capped where no quant can be above `highest`. */
INLINE f32v affine_quants(f32v x, f32v inverse, f32v grid, int highest, int capped) {
    f32v v = maximum(inverse * (x - grid), splat(0));
    if (capped) v = minimum(v, splat((float)highest));
    return (v + splat(ROUNDER)) - splat(ROUNDER);
}

INLINE f32v affine_quants_wrapping(f32v x, f32v inverse, f32v grid, int highest) {
    f32v q = float_of(nearest_wrapping(inverse * (x - grid)));
    return maximum(minimum(q, splat((float)highest)), splat(0));
}

/* Whether affine_quants may err: where a quant wraps, where the grid begins above all weights, or is none at all. The
 * highest weight needs no look: it becomes (highest + first + c * step), give or take the last bit. */
INLINE int is_wild(const affine_group *g) {
    i32v tame = (i32v)(g->inverse * magnitude(g->lowest - g->grid) < splat(SAFE_QUANT)) & (i32v)(g->inverse > splat(0));
    return any_lane(~tame);
}

INLINE f32v deviation(f32v d, int absolute) { return absolute ? magnitude(d) : d * d; }

/* Quants of the candidates of two groups, and their sums. */
INLINE void sum_pair(affine_group *a, affine_group *b, int n, int highest, int capped) {
    f32v a1 = {0}, a2 = {0}, ax = {0}, b1 = {0}, b2 = {0}, bx = {0};
    const f32v a_inverse = a->inverse, a_grid = a->grid, b_inverse = b->inverse, b_grid = b->grid;
    const float *a_x = a->x, *a_w = a->w, *b_x = b->x, *b_w = b->w;
    float *a_q = a->q, *b_q = b->q;
#pragma GCC unroll 8
    for (int i = 0; i < n * LANES; i += LANES) {
        f32v x = load_f32(a_x + i), q = affine_quants(x, a_inverse, a_grid, highest, capped), p = load_f32(a_w + i) * q;
        store_f32(a_q + i, q);
        a1 = a1 + p;
        a2 = a2 + p * q;
        ax = ax + p * x;
        x = load_f32(b_x + i), q = affine_quants(x, b_inverse, b_grid, highest, capped), p = load_f32(b_w + i) * q;
        store_f32(b_q + i, q);
        b1 = b1 + p;
        b2 = b2 + p * q;
        bx = bx + p * x;
    }
    a->sum_q = a1, a->sum_qq = a2, a->sum_qx = ax;
    b->sum_q = b1, b->sum_qq = b2, b->sum_qx = bx;
}

static __attribute__((noinline)) void sum_wrapping(affine_group *g, int n, int highest) {
    f32v s1 = {0}, s2 = {0}, sx = {0};
    for (int i = 0; i < n * LANES; i += LANES) {
        f32v x = load_f32(g->x + i), q = affine_quants_wrapping(x, g->inverse, g->grid, highest);
        f32v p = load_f32(g->w + i) * q;
        store_f32(g->q + i, q);
        s1 = s1 + p;
        s2 = s2 + p * q;
        sx = sx + p * x;
    }
    g->sum_q = s1, g->sum_qq = s2, g->sum_qx = sx;
}

/* The least squares for the candidate's quants; a minimum above zero becomes zero. */
INLINE void solve(affine_group *g) {
    const f32v zero = splat(0);
    f32v determinant = g->sum_w * g->sum_qq - g->sum_q * g->sum_q;
    f32v scale = (g->sum_w * g->sum_qx - g->sum_wx * g->sum_q) / determinant;
    f32v low = (g->sum_qq * g->sum_wx - g->sum_q * g->sum_qx) / determinant;
    if (any_gt(low, zero)) {
        scale = select_gt(low, zero, g->sum_qx / g->sum_qq, scale);
        low = select_gt(low, zero, zero, low);
    }
    g->determinant = determinant;
    g->new_scale = scale;
    g->new_minimum = low;
}

/* The errors of the fits of two groups. */
INLINE void judge_pair(affine_group *a, affine_group *b, int n, int absolute) {
    const f32v a_scale = a->new_scale, a_low = a->new_minimum, b_scale = b->new_scale, b_low = b->new_minimum;
    const float *a_x = a->x, *a_w = a->w, *a_q = a->q, *b_x = b->x, *b_w = b->w, *b_q = b->q;
    f32v a_error = {0}, b_error = {0};
#pragma GCC unroll 8
    for (int i = 0; i < n * LANES; i += LANES) {
        f32v a_miss = a_scale * load_f32(a_q + i) + a_low - load_f32(a_x + i);
        f32v b_miss = b_scale * load_f32(b_q + i) + b_low - load_f32(b_x + i);
        a_error = a_error + load_f32(a_w + i) * deviation(a_miss, absolute);
        b_error = b_error + load_f32(b_w + i) * deviation(b_miss, absolute);
    }
    a->new_error = a_error;
    b->new_error = b_error;
}

INLINE void keep_better_fit(affine_group *g) {
    f32v challenge = select_gt(g->determinant, splat(0), g->new_error, splat(__builtin_inff())), bar = g->error;
    g->scale = select_gt(bar, challenge, g->new_scale, g->scale);
    g->minimum = select_gt(bar, challenge, g->new_minimum, g->minimum);
    g->best_inverse = select_gt(bar, challenge, g->inverse, g->best_inverse);
    g->best_grid = select_gt(bar, challenge, g->grid, g->best_grid);
    g->error = select_gt(bar, challenge, challenge, bar);
}

INLINE void next_grid(affine_group *g, const affine_search *s, int candidate) {
    float numerator = s->first + s->step * (float)candidate + (float)s->highest;
    g->grid = g->minimum;
    g->inverse = splat(numerator) / (g->highest - g->grid);
}

/* The fit to begin with: from the lowest weight, or zero if that is lower, to the highest. */
INLINE void begin(affine_group *g, const affine_search *s) {
    const f32v zero = splat(0);
    f32v x = load_f32(g->x), w = load_f32(g->w), low = x, high = x, sum_w = w, sum_wx = w * x, error = {0};
    for (int i = LANES; i < s->n * LANES; i += LANES) {
        x = load_f32(g->x + i), w = load_f32(g->w + i);
        low = minimum(x, low); /* Parity: of zeros of both signs, the first */
        high = maximum(x, high);
        sum_w = sum_w + w;
        sum_wx = sum_wx + w * x;
    }
    low = select_gt(low, zero, zero, low);
    g->flat = ~(i32v)(high > low);
    high = choose(g->flat, low + splat(1), high); /* any grid, so that padding does not look as if it wrapped */
    g->lowest = low, g->highest = high, g->sum_w = sum_w, g->sum_wx = sum_wx;
    g->grid = g->minimum = g->best_grid = low;
    g->inverse = g->best_inverse = splat((float)s->highest) / (high - low);
    g->scale = splat(1) / g->inverse;
    int wild = is_wild(g);
    for (int i = 0; i < s->n * LANES; i += LANES) {
        f32v q;
        x = load_f32(g->x + i);
        if (__builtin_expect(wild, 0)) q = affine_quants_wrapping(x, g->inverse, low, s->highest);
        else q = affine_quants(x, g->inverse, low, s->highest, 0);
        error = error + load_f32(g->w + i) * deviation(g->scale * q + low - x, s->absolute);
    }
    g->error = error;
}

/* Flat blocks: scale 0, quants 0. */
INLINE void settle_flat(affine_group *g) {
    if (!any_lane(g->flat)) return;
    g->scale = choose(g->flat, splat(0), g->scale);
    g->best_inverse = choose(g->flat, splat(0), g->best_inverse);
    g->minimum = choose(g->flat, g->lowest, g->minimum);
}

INLINE void try_candidate(affine_group g[N_GROUPS], const affine_search *s, int candidate, int capped) {
    for (int i = 0; i < N_GROUPS; i += 2) {
        sum_pair(&g[i], &g[i + 1], s->n, s->highest, capped);
        for (int k = i; k < i + 2; k++) {
            if (__builtin_expect(is_wild(&g[k]), 0)) sum_wrapping(&g[k], s->n, s->highest);
            solve(&g[k]);
        }
    }
    for (int i = 0; i < N_GROUPS; i += 2) {
        judge_pair(&g[i], &g[i + 1], s->n, s->absolute);
        for (int k = i; k < i + 2; k++) {
            keep_better_fit(&g[k]);
            next_grid(&g[k], s, candidate + 1);
        }
    }
}

/* Searches four groups; `s` is a constant at each call. */
INLINE void search_affine(affine_group g[N_GROUPS], const affine_search *s) {
    int candidate = 0;
    for (int i = 0; i < N_GROUPS; i++) {
        begin(&g[i], s);
        next_grid(&g[i], s, 0);
    }
    for (; candidate <= s->n_steps && s->first + s->step * (float)candidate < 0.499f; candidate++)
        try_candidate(g, s, candidate, 0);
    for (; candidate <= s->n_steps; candidate++) try_candidate(g, s, candidate, 1);
    for (int i = 0; i < N_GROUPS; i++) settle_flat(&g[i]);
}

#endif
