/* The search for one scale of a block: x is nearly scale * q, q in -limit..limit - 1.
 *
 * A lane is a block. 19 candidates divide the peak by something near -limit; each is judged by weighted sums over the
 * block's weights, which run in order. A product and a sum stay two operations: fusing them would change bits.
 *
 * Source: ggml-quants.c, make_qx_quants (rmse_type 1) @ 0c1e570.
 */
#ifndef CONVERT_SYMMETRIC_H
#define CONVERT_SYMMETRIC_H

#include <stddef.h>

#include "codecs.h"

/* Constant at each call. */
typedef struct {
    int n;      /* weights in a block */
    int limit;
    int stride; /* floats from one column to the next */
    int wild;   /* x may be NaN or infinite */
} symmetric_search;

/* The best candidate so far. */
typedef struct {
    f32v inverse; /* weights times this, rounded, are the quants */
    f32v scale;
    f32v merit;
    i32v empty; /* lanes of (almost) zeros: scale and inverse are 0 */
} symmetric_fit;

/* Quants nearest to x * inverse, as floats. `step` is a constant, so that only limits that can be met are tested:
 * |x * inverse| <= limit + step / 10 and a little. */
INLINE f32v nearest_quants(f32v x, f32v inverse, const symmetric_search *s, int step) {
    f32v q = s->wild ? float_of(nearest_wrapping(x * inverse)) : (x * inverse + splat(ROUNDER)) - splat(ROUNDER);
    if (s->wild || step >= -5) q = minimum(q, splat((float)(s->limit - 1)));
    if (s->wild || step >= 5) q = maximum(q, splat((float)-s->limit));
    return q;
}

typedef struct {
    f32v weighted; /* sum of w * x * q */
    f32v squares;  /* sum of w * q * q */
} symmetric_sums;

INLINE void add_to_sums(symmetric_sums *sums, f32v x, f32v w, f32v inverse, const symmetric_search *s, int step) {
    f32v q = nearest_quants(x, inverse, s, step);
    sums->weighted = sums->weighted + w * x * q;
    sums->squares = sums->squares + w * q * q;
}

/* The weights' columns, or where there are none, squares. */
INLINE f32v load_weight(const float *w, int at, f32v x) { return w != NULL ? load_f32(w + at) : x * x; }

/* The candidates: inverse = -(limit + 0.1 * step) / peak, 0.1 as float32. */
INLINE f32v symmetric_inverse(f32v peak, int limit, int step) {
    return splat(-((float)limit + 0.1f * (float)step)) / peak;
}

/* Parity: a candidate is better if weighted^2 > merit * squares, in exactly these products. */
INLINE void keep_better(symmetric_fit *best, symmetric_sums s, f32v inverse) {
    const f32v never = splat(-__builtin_inff());
    f32v challenge = select_gt(s.squares, splat(0), s.weighted * s.weighted, never);
    f32v bar = best->merit * s.squares;
    f32v scale = s.weighted / s.squares;
    best->merit = select_gt(challenge, bar, scale * s.weighted, best->merit);
    best->scale = select_gt(challenge, bar, scale, best->scale);
    best->inverse = select_gt(challenge, bar, inverse, best->inverse);
}

/* Three candidates side by side: each sum is a chain of dependent additions, and six chains hide its latency. */
INLINE void try_three(const float *x, const float *w, const symmetric_search *s, f32v peak, symmetric_fit *best,
                      int step) {
    f32v inverse[3];
    symmetric_sums sums[3] = {{{0}, {0}}, {{0}, {0}}, {{0}, {0}}};
    for (int c = 0; c < 3; c++) inverse[c] = symmetric_inverse(peak, s->limit, step + c);
    for (int i = 0; i < s->n; i++) {
        f32v value = load_f32(x + i * s->stride), weight = load_weight(w, i * s->stride, value);
        add_to_sums(&sums[0], value, weight, inverse[0], s, step);
        add_to_sums(&sums[1], value, weight, inverse[1], s, step + 1);
        add_to_sums(&sums[2], value, weight, inverse[2], s, step + 2);
    }
    for (int c = 0; c < 3; c++) keep_better(best, sums[c], inverse[c]);
}

/* The first value of largest magnitude; NaN is never larger. The two halves are looked through side by side. */
INLINE f32v find_peak(const float *x, const symmetric_search *s, f32v *magnitude_of_peak) {
    f32v peak[2] = {splat(0), splat(0)}, largest[2] = {splat(0), splat(0)};
    for (int i = 0; i < s->n / 2; i++) {
        for (int half = 0; half < 2; half++) {
            f32v value = load_f32(x + (i + half * s->n / 2) * s->stride), size = magnitude(value);
            peak[half] = select_gt(size, largest[half], value, peak[half]);
            largest[half] = maximum(size, largest[half]);
        }
    }
    *magnitude_of_peak = maximum(largest[1], largest[0]);
    return select_gt(largest[1], largest[0], peak[1], peak[0]);
}

/* Searches LANES blocks; scale and inverse are both 0 for a block of (almost) zeros. w: as x, or NULL for x * x. */
INLINE symmetric_fit search_symmetric(const float *x, const float *w, const symmetric_search *s) {
    f32v largest, zero = splat(0), peak = find_peak(x, s, &largest);
    symmetric_fit best = {.inverse = symmetric_inverse(peak, s->limit, 0)};
    symmetric_sums sums = {{0}, {0}};
    for (int i = 0; i < s->n; i++) {
        f32v value = load_f32(x + i * s->stride);
        add_to_sums(&sums, value, load_weight(w, i * s->stride, value), best.inverse, s, 0);
    }
    best.scale = choose((i32v)(sums.squares != zero), sums.weighted / sums.squares, zero);
    best.merit = best.scale * sums.weighted;
    try_three(x, w, s, peak, &best, -9);
    try_three(x, w, s, peak, &best, -6);
    try_three(x, w, s, peak, &best, -3);
    try_three(x, w, s, peak, &best, 1);
    try_three(x, w, s, peak, &best, 4);
    try_three(x, w, s, peak, &best, 7);
    best.empty = (i32v)(largest < splat(TINY));
    best.scale = select_gt(splat(TINY), largest, zero, best.scale);
    best.inverse = select_gt(splat(TINY), largest, zero, best.inverse);
    return best;
}

/* The integer nearest to each lane within -limit..limit - 1, plus limit, as a float; ggml's nearest_int. */
INLINE f32v quants_from_zero(f32v x, int limit) {
    f32v q = float_of(nearest_wrapping(x)), bound = splat((float)limit);
    return maximum(minimum(q, splat((float)(limit - 1))), -bound) + bound;
}

/* The quants that the search found, of a column. Parity: a block of zeros has quants 0, not limit. */
INLINE f32v quants_of_fit(f32v x, symmetric_fit fit, int limit) {
    return choose(fit.empty, splat(0), quants_from_zero(x * fit.inverse, limit));
}

/* Quants of LANES weights of a block that decodes as divisor * (q - limit); where that came out as zero, the quants are
 * those that the search found. */
INLINE f32v symmetric_final_quants(f32v x, float divisor, float inverse, int limit) {
    if (divisor != 0) return quants_from_zero(x / splat(divisor), limit); /* NaN too */
    return inverse != 0 ? quants_from_zero(x * splat(inverse), limit) : splat(0);
}

#endif
