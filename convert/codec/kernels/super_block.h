/* What the types with super-blocks of 256 weights share. A lane is a super-block: LANES of them are turned into columns,
 * so that every sum over a sub-block's weights runs in order, and sub-block j of all lanes lies side by side.
 */
#ifndef CONVERT_SUPER_BLOCK_H
#define CONVERT_SUPER_BLOCK_H

#include "codecs.h"

#define SUPER 256

/* columns[i * LANES + k] = x[i + 256 * k]. x: zeros after the last super-block, so that whole lanes can be read. */
INLINE void turn_super_blocks(const float *x, float *columns) {
    f32v tile[LANES];
    for (int i = 0; i < SUPER; i += LANES) {
        corner_turn(x + i, SUPER, tile);
        for (int k = 0; k < LANES; k++) store_f32(columns + (i + k) * LANES, tile[k]);
    }
}

/* w: columns of importance * sqrt(sigma2 + x * x), sigma2 = factor * the super-block's mean square.
 * x: columns. importance: as weights lie in the chunk. */
INLINE void weigh_by_importance(const float *x, const float *importance, float *w, float factor) {
    f32v sum = {0};
    for (int i = 0; i < SUPER * LANES; i += LANES) sum = sum + load_f32(x + i) * load_f32(x + i);
    f32v sigma2 = splat(factor) * sum / splat(SUPER);
    turn_super_blocks(importance, w);
    for (int i = 0; i < SUPER * LANES; i += LANES) {
        f32v v = load_f32(x + i);
        store_f32(w + i, load_f32(w + i) * root(sigma2 + v * v));
    }
}

/* Stores x as float16, and what that is worth. */
INLINE void store_rounded(f32v x, uint16_t half[LANES], float back[LANES]) {
    store_f16(half, x);
    store_f32(back, load_f16(half));
}

/* The largest of n values, or zero. Parity: of two zeros, +0. */
INLINE f32v largest_or_zero(const f32v *x, int n) {
    f32v largest = splat(0);
    for (int j = 0; j < n; j++) largest = select_gt(x[j], largest, x[j], largest);
    return largest;
}

#endif
