/* The search for one scale of a few values that are nearly scale * q, q in 0..highest: a super-block's scales, or its
 * minimums. A lane is a super-block.
 *
 * Source: ggml-quants.c, make_qp_quants @ 0c1e570.
 */
#ifndef CONVERT_POSITIVE_H
#define CONVERT_POSITIVE_H

#include "codecs.h"

/* Parity: quants are kept as a byte, without a lower limit. */
#define AS_BYTE(q) ((q) & 255)

INLINE f32v capped_quants(f32v x, f32v inverse, int highest) {
    return minimum(float_of(nearest_wrapping(inverse * x)), splat((float)highest));
}

/* The inverse of the scale, out of nine, that leaves the least error; the first one's quants are not capped. */
INLINE f32v choose_inverse(const f32v *x, const f32v *w, int n, int highest, f32v peak) {
    f32v best = splat((float)highest) / peak, scale = splat(1) / best, least = {0};
    for (int i = 0; i < n; i++) {
        f32v miss = x[i] - scale * float_of(AS_BYTE(nearest_wrapping(best * x[i])));
        least = least + w[i] * miss * miss;
    }
    for (int step = -4; step <= 4; step++) {
        f32v inverse = splat(0.1f * (float)step + (float)highest) / peak, error = {0};
        if (step == 0) continue;
        scale = splat(1) / inverse;
        for (int i = 0; i < n; i++) {
            f32v miss = x[i] - scale * capped_quants(x[i], inverse, highest);
            error = error + w[i] * miss * miss;
        }
        best = select_gt(least, error, inverse, best);
        least = select_gt(least, error, error, least);
    }
    return best;
}

/* One round over the values: each takes the quant that is best given the others. Returns the lanes that changed. */
INLINE i32v improve_quants(const f32v *x, const f32v *w, i32v *q, int n, int highest, f32v *sum_x, f32v *sum_q) {
    const f32v zero = splat(0);
    i32v changed = {0};
    for (int i = 0; i < n; i++) {
        f32v wx = w[i] * x[i], old = float_of(q[i]);
        f32v rest_x = *sum_x - wx * old, rest_q = *sum_q - w[i] * old * old;
        f32v new = minimum(float_of(nearest_wrapping(x[i] * rest_q / rest_x)), splat((float)highest));
        f32v with_x = rest_x + wx * new, with_q = rest_q + w[i] * new * new;
        i32v better = (i32v)(with_x * with_x * *sum_q > *sum_x * *sum_x * with_q) & (i32v)(new != old) &
                      (i32v)(rest_x > zero) & (i32v)(rest_q > zero);
        q[i] = choose_i32(better, AS_BYTE(__builtin_convertvector(new, i32v)), q[i]);
        *sum_x = choose(better, with_x, *sum_x);
        *sum_q = choose(better, with_q, *sum_q);
        changed |= better;
    }
    return changed;
}

/* Returns the scale of n values a lane, and their quants; `n` and `highest` are constants at each call. */
INLINE f32v fit_positive(const f32v *x, const f32v *w, i32v *q, int n, int highest) {
    const f32v zero = splat(0);
    f32v peak = zero, sum_x = zero, sum_q = zero;
    for (int i = 0; i < n; i++) peak = maximum(peak, x[i]);
    i32v live = ~(i32v)(peak < splat(TINY));
    f32v inverse = choose_inverse(x, w, n, highest, peak);
    for (int i = 0; i < n; i++) {
        f32v capped = capped_quants(x[i], inverse, highest);
        q[i] = AS_BYTE(__builtin_convertvector(capped, i32v));
        sum_x = sum_x + w[i] * x[i] * capped; /* Parity: of the quant before it becomes a byte */
        sum_q = sum_q + w[i] * capped * capped;
    }
    for (int round = 0; round < 5; round++)
        if (!any_lane(improve_quants(x, w, q, n, highest, &sum_x, &sum_q) & live)) break;
    for (int i = 0; i < n; i++) q[i] &= live;
    return choose(live & (i32v)(sum_q > zero), sum_x / sum_q, zero);
}

#endif
