/* Decodes what grid_search.h finds: points of a grid by their index, and signs that lie apart from their magnitudes.
 *
 * Source: ggml-quants.c, dequantize_row_iq{2_xxs,2_xs,2_s,3_xxs,3_s} @ 0c1e570.
 */
#ifndef CONVERT_GRID_DECODE_H
#define CONVERT_GRID_DECODE_H

#include "grids.h"

/* Eight signs of the seven that are stored: their number is even. */
INLINE unsigned eight_signs(unsigned seven) { return seven | (unsigned)__builtin_parity(seven) << 7; }

INLINE float signed_product(float d, int magnitude, int negative) {
    return d * (float)((magnitude ^ -negative) + negative);
}

/* Levels 0, 1, 2 stand for 8, 25, 43. */
INLINE void decode_eight(const grid *g, unsigned index, unsigned signs, float d, float *x) {
    const uint32_t point = g->of_index[index];
    for (int i = 0; i < 8; i++) {
        int level = point >> 2 * i & 3;
        x[i] = signed_product(d, 8 + 17 * level + (level >> 1), signs >> i & 1);
    }
}

/* Four levels 0 to 7 stand for begin + step * level, the highest for `more` more. */
INLINE void decode_four(const grid *g, unsigned index, unsigned signs, float d, int begin, int step, int more, float *x) {
    const uint32_t point = g->of_index[index];
    for (int i = 0; i < 4; i++) {
        int level = point >> 3 * i & 7;
        x[i] = signed_product(d, begin + step * level + (level == 7 ? more : 0), signs >> i & 1);
    }
}

INLINE uint32_t word_at(const uint8_t *from) {
    uint32_t word;
    memcpy(&word, from, 4);
    return word;
}

INLINE uint16_t half_word_at(const uint8_t *from) { return (uint16_t)(from[0] | from[1] << 8); }

#endif
