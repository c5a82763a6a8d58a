/* IQ2_XXS, IQ2_XS and IQ2_S: super-blocks of 256 weights; eight weights are a point of a grid of three levels.
 *
 *   IQ2_XXS   66 bytes   d f16 | 8 x (4 points, 4 x 7 signs, 4 bits of scale)
 *   IQ2_XS    74 bytes   d f16 | 32 x (9 bits of point, 7 signs) | 16 x 4 bits of scale
 *   IQ2_S     82 bytes   d f16 | 32 points, low bytes | 32 x 8 signs | 32 x 2 high bits | 16 x 4 bits of scale
 *
 * Seven signs stand for eight: their number is even. IQ2_XXS has 8 sub-blocks of 32, the others 16 of 16. The search is
 * in grid_search.h; IQ2_XXS begins it around the scale that fits levels 0 to 4 best (positive.h).
 *
 * Source: ggml-quants.c, quantize_row_iq2_{xxs,xs,s}_impl @ 0c1e570.
 */
#include "grid_decode.h"
#include "grid_search.h"
#include "positive.h"

#define IQ2_XXS_NBYTES 66
#define IQ2_XS_NBYTES 74
#define IQ2_S_NBYTES 82

static const search of_iq2_xxs = {.n = 32, .dims = 8, .bits = 2, .n_side = 6, .step = 0.1f, .again = ALL};
static const search of_iq2_xs = {
    .n = 16, .dims = 8, .bits = 2, .n_side = 9, .step = 0.1f, .again = OFF_GRID, .begins_on_grid = 1};

/* ---- IQ2_XXS ---- */

typedef struct {
    sub_block block[8];
    unsigned signs[8][4];
    float scale[8]; /* of levels up to 4 */
} begun;

static void begin_xxs(const float *x, const float *importance, float sigma2, begun *b) {
    for (int j = 0; j < 8; j++) {
        sub_block *block = &b->block[j];
        weigh_important(x + 32 * j, importance + 32 * j, sigma2, 32, block->w);
        take_roots(block, 32);
        for (int k = 0; k < 4; k++) {
            const float *weights = x + 32 * j + 8 * k;
            b->signs[j][k] = strip_signs(weights, block->x + 8 * k);
            b->signs[j][k] = make_even(weights, block->w + 8 * k, block->x + 8 * k, b->signs[j][k]);
        }
    }
}

static void fit_all(begun *b) {
    for (int first = 0; first < 8; first += LANES) {
        float x[32][LANES], w[32][LANES], scale[LANES];
        memset(x, 0, sizeof x);
        memset(w, 0, sizeof w);
        for (int k = 0; k < LANES && first + k < 8; k++)
            for (int i = 0; i < 32; i++) x[i][k] = b->block[first + k].x[i], w[i][k] = b->block[first + k].w[i];
        f32v xs[32], ws[32];
        i32v levels[32];
        for (int i = 0; i < 32; i++) xs[i] = load_f32(x[i]), ws[i] = load_f32(w[i]);
        store_f32(scale, fit_positive(xs, ws, levels, 32, 4));
        for (int k = 0; k < LANES && first + k < 8; k++) b->scale[first + k] = scale[k];
    }
}

static int encode_super_xxs(const float *x, const float *importance, float sum_of_squares, uint8_t *out) {
    float scale[8] = {0}, largest_scale = 0;
    uint32_t words[16] = {0};
    begun b;
    memset(out, 0, IQ2_XXS_NBYTES);
    begin_xxs(x, importance, sum_of_squares / SUPER, &b);
    fit_all(&b);
    for (int j = 0; j < 8; j++) {
        float largest = b.scale[j] * 3;
        if (largest_weight(b.block[j].x, 32) < TINY || largest <= 0) continue;
        found f = search_sub_block(&LEVEL(grid_iq2_xxs), of_iq2_xxs, &b.block[j], largest, b.scale[j]);
        if (f.refused) return 1;
        unsigned flip = f.scale < 0 ? 127 : 0;
        for (int k = 0; k < 4; k++) {
            words[2 * j] |= (uint32_t)f.index[k] << 8 * k;
            words[2 * j + 1] |= (b.signs[j][k] ^ flip) << 7 * k;
        }
        scale[j] = __builtin_fabsf(f.scale);
        largest_scale = largest_scale > scale[j] ? largest_scale : scale[j];
    }
    if (largest_scale == 0) return 0;
    float d = largest_scale / 31, inverse = 1 / d;
    put_half(out, d);
    for (int j = 0; j < 8; j++) words[2 * j + 1] |= (uint32_t)step_of_scale(scale[j], inverse) << 28;
    memcpy(out + 2, words, 64);
    return 0;
}

/* ---- IQ2_XS, IQ2_S ---- */

static void store_scales(const float *scale, float largest, float factor, uint8_t *out, uint8_t *steps) {
    float d = largest / 31, inverse = 1 / d;
    put_half(out, d * factor);
    for (int j = 0; j < 16; j++) steps[j / 2] |= (uint8_t)(step_of_scale(scale[j], inverse) << 4 * (j % 2));
}

static int encode_super_xs(const float *x, const float *importance, float sum_of_squares, uint8_t *out) {
    float scale[16] = {0}, largest_scale = 0;
    uint16_t words[32] = {0};
    memset(out, 0, IQ2_XS_NBYTES);
    for (int j = 0; j < 16; j++) {
        const float *weights = x + 16 * j;
        unsigned signs[2];
        sub_block b;
        weigh_important(weights, importance + 16 * j, sum_of_squares / SUPER, 16, b.w);
        take_roots(&b, 16);
        for (int k = 0; k < 2; k++) {
            signs[k] = strip_signs(weights + 8 * k, b.x + 8 * k);
            signs[k] = make_even(weights + 8 * k, b.w + 8 * k, b.x + 8 * k, signs[k]);
        }
        float largest = largest_weight(b.x, 16);
        if (largest < TINY) continue;
        found f = search_sub_block(&LEVEL(grid_iq2_xs), of_iq2_xs, &b, largest, largest / 5);
        if (f.refused) return 1;
        unsigned flip = f.scale < 0 ? 127 : 0;
        for (int k = 0; k < 2; k++) words[2 * j + k] = (uint16_t)(f.index[k] | (signs[k] ^ flip) << 9);
        scale[j] = __builtin_fabsf(f.scale);
        largest_scale = largest_scale > scale[j] ? largest_scale : scale[j];
    }
    if (largest_scale == 0) return 0;
    memcpy(out + 2, words, 64);
    store_scales(scale, largest_scale, 1, out, out + 66);
    return 0;
}

static int encode_super_s(const float *x, const float *importance, float sum_of_squares, uint8_t *out) {
    float scale[16] = {0}, largest_scale = 0, sigma2 = 2 * sum_of_squares / SUPER;
    memset(out, 0, IQ2_S_NBYTES);
    for (int j = 0; j < 16; j++) {
        const float *weights = x + 16 * j;
        unsigned signs[2];
        sub_block b;
        if (importance != NULL)
            weigh_important(weights, importance + 16 * j, sigma2, 16, b.w);
        else
            for (int i = 0; i < 16; i++) b.w[i] = 0.25f * sigma2 + weights[i] * weights[i];
        take_roots(&b, 16);
        for (int k = 0; k < 2; k++) signs[k] = strip_signs(weights + 8 * k, b.x + 8 * k);
        float largest = largest_weight(b.x, 16);
        if (largest < 1e-8f) continue; /* GROUP_MAX_EPS_IQ2_S */
        found f = search_sub_block(&LEVEL(grid_iq2_s), of_iq2_xs, &b, largest, largest / 5);
        if (f.refused) return 1;
        unsigned flip = f.scale < 0 ? 255 : 0;
        for (int k = 0; k < 2; k++) {
            int at = 2 * j + k;
            out[2 + at] = (uint8_t)f.index[k];
            out[34 + at] = (uint8_t)(signs[k] ^ flip);
            out[66 + at / 4] |= (uint8_t)(f.index[k] >> 8 << 2 * (at % 4));
        }
        scale[j] = __builtin_fabsf(f.scale);
        largest_scale = largest_scale > scale[j] ? largest_scale : scale[j];
    }
    if (largest_scale == 0) return 0; /* Parity: points and signs stay */
    store_scales(scale, largest_scale, 0.9875f, out, out + 74);
    return 0;
}

typedef int encode_super(const float *x, const float *importance, float sum_of_squares, uint8_t *out);

INLINE void encode_all(chunk *c, uint8_t *out, const float *importance, encode_super *encode, int nbytes) {
    float sums[CHUNK / SUPER];
    const int n_super = c->n / SUPER;
    sum_squares(c->x, n_super, sums);
    for (int k = 0; k < n_super; k++) {
        const float *of_super = importance ? importance + k * SUPER : NULL;
        c->n_refused += encode(c->x + k * SUPER, of_super, sums[k], out + k * nbytes);
    }
}

static void encode_iq2_xxs(chunk *c, uint8_t *out) {
    encode_all(c, out, c->importance, encode_super_xxs, IQ2_XXS_NBYTES);
}

static void encode_iq2_xs(chunk *c, uint8_t *out) { encode_all(c, out, c->importance, encode_super_xs, IQ2_XS_NBYTES); }

static void encode_iq2_s(chunk *c, uint8_t *out) { encode_all(c, out, NULL, encode_super_s, IQ2_S_NBYTES); }

static void encode_important_iq2_s(chunk *c, uint8_t *out) {
    encode_all(c, out, c->importance, encode_super_s, IQ2_S_NBYTES);
}

INLINE float decoded_scale(float d, unsigned step) { return d * (0.5f + (float)step) * 0.25f; }

static void decode_iq2_xxs(const uint8_t *b, float *x) {
    const float d = load_half(b);
    for (int j = 0; j < 8; j++, b += 8) {
        const uint32_t word = word_at(b + 6);
        for (int k = 0; k < 4; k++, x += 8)
            decode_eight(&LEVEL(grid_iq2_xxs), b[2 + k], eight_signs(word >> 7 * k & 127), decoded_scale(d, word >> 28), x);
    }
}

static void decode_iq2_xs(const uint8_t *b, float *x) {
    const float d = load_half(b);
    for (int k = 0; k < 32; k++, x += 8) {
        const unsigned packed = half_word_at(b + 2 + 2 * k);
        const float scale = decoded_scale(d, b[66 + k / 4] >> k / 2 % 2 * 4 & 15);
        decode_eight(&LEVEL(grid_iq2_xs), packed & 511, eight_signs(packed >> 9), scale, x);
    }
}

static void decode_iq2_s(const uint8_t *b, float *x) {
    const float d = load_half(b);
    for (int k = 0; k < 32; k++, x += 8) {
        const unsigned index = b[2 + k] | (b[66 + k / 4] >> 2 * (k % 4) & 3u) << 8;
        decode_eight(&LEVEL(grid_iq2_s), index, b[34 + k], decoded_scale(d, b[74 + k / 4] >> k / 2 % 2 * 4 & 15), x);
    }
}

const codec LEVEL(iq2_xxs) = {
    TYPE_IQ2_XXS, SUPER, IQ2_XXS_NBYTES, .encode_weighted = encode_iq2_xxs, .decode = decode_iq2_xxs};
const codec LEVEL(iq2_xs) = {
    TYPE_IQ2_XS, SUPER, IQ2_XS_NBYTES, .encode_weighted = encode_iq2_xs, .decode = decode_iq2_xs};
const codec LEVEL(iq2_s) = {
    TYPE_IQ2_S, SUPER, IQ2_S_NBYTES, .encode = encode_iq2_s, .encode_weighted = encode_important_iq2_s,
    .decode = decode_iq2_s};
