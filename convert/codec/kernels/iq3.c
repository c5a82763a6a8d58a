/* IQ3_XXS and IQ3_S: super-blocks of 256 weights, as 8 sub-blocks of 32; four weights are a point of a grid.
 *
 *   IQ3_XXS   98 bytes   d f16 | 64 points | 8 x (4 x 7 signs, 4 bits of scale)
 *   IQ3_S    110 bytes   d f16 | 64 points, low bytes | 8 ninth bits x 8 | 32 x 8 signs | 8 x 4 bits of scale
 *
 * Seven signs stand for eight: their number is even. The search is in grid_search.h.
 *
 * Source: ggml-quants.c, quantize_row_iq3_xxs_impl and quantize_row_iq3_s_impl @ 0c1e570.
 */
#include "grid_decode.h"
#include "grid_search.h"

#define IQ3_XXS_NBYTES 98
#define IQ3_S_NBYTES 110

static const search of_iq3_xxs = {
    .n = 32, .dims = 4, .bits = 3, .n_side = 15, .step = 0.2f, .again = OFF_GRID, .begins_on_grid = 1};
static const search of_iq3_s = {.n = 32, .dims = 4, .bits = 3, .n_side = 9, .step = 0.2f, .again = ALL_IF_ANY_OFF_GRID};

INLINE void weigh(const float *x, const float *importance, float sigma2, sub_block *b) {
    if (importance != NULL)
        weigh_important(x, importance, sigma2, 32, b->w);
    else
        for (int i = 0; i < 32; i++) b->w[i] = x[i] * x[i];
    take_roots(b, 32);
}

/* Returns 1 if ggml aborts. */
static int encode_super_xxs(const float *x, const float *importance, float sigma2, uint8_t *out) {
    float scale[8] = {0}, largest_scale = 0;
    uint32_t signs_and_scale[8] = {0};
    memset(out, 0, IQ3_XXS_NBYTES);
    for (int j = 0; j < 8; j++) {
        const float *weights = x + 32 * j;
        unsigned signs[4];
        sub_block b;
        weigh(weights, importance ? importance + 32 * j : NULL, sigma2, &b);
        for (int k = 0; k < 4; k++) {
            signs[k] = strip_signs(weights + 8 * k, b.x + 8 * k);
            signs[k] = make_even(weights + 8 * k, b.w + 8 * k, b.x + 8 * k, signs[k]);
        }
        float largest = largest_weight(b.x, 32);
        if (largest < 1e-8f) continue; /* GROUP_MAX_EPS_IQ3_XXS */
        found f = search_sub_block(&LEVEL(grid_iq3_xxs), of_iq3_xxs, &b, largest, largest / 15);
        if (f.refused) return 1;
        unsigned flip = f.scale < 0 ? 127 : 0;
        for (int k = 0; k < 8; k++) out[2 + 8 * j + k] = (uint8_t)f.index[k];
        for (int k = 0; k < 4; k++) signs_and_scale[j] |= (signs[k] ^ flip) << 7 * k;
        scale[j] = __builtin_fabsf(f.scale);
        largest_scale = largest_scale > scale[j] ? largest_scale : scale[j];
    }
    if (largest_scale == 0) {
        memset(out, 0, IQ3_XXS_NBYTES);
        return 0;
    }
    float d = largest_scale / 31, inverse = 1 / d;
    put_half(out, d * 1.0125f);
    for (int j = 0; j < 8; j++) signs_and_scale[j] |= (uint32_t)step_of_scale(scale[j], inverse) << 28;
    memcpy(out + 66, signs_and_scale, 32);
    return 0;
}

static int encode_super_s(const float *x, const float *importance, float sigma2, uint8_t *out) {
    float scale[8] = {0}, largest_scale = 0;
    int n_live = 0; /* Parity: a sub-block of zeros takes no room: points and signs of those after it come earlier */
    memset(out, 0, IQ3_S_NBYTES);
    for (int j = 0; j < 8; j++) {
        const float *weights = x + 32 * j;
        unsigned signs[4];
        sub_block b;
        weigh(weights, importance ? importance + 32 * j : NULL, sigma2, &b);
        for (int k = 0; k < 4; k++) signs[k] = strip_signs(weights + 8 * k, b.x + 8 * k);
        float largest = largest_weight(b.x, 32);
        if (largest == 0) continue;
        found f = search_sub_block(&LEVEL(grid_iq3_s), of_iq3_s, &b, largest, largest / 15);
        if (f.refused) return 1;
        unsigned flip = f.scale < 0 ? 255 : 0;
        for (int k = 0; k < 8; k++) {
            out[2 + 8 * n_live + k] = (uint8_t)f.index[k];
            out[66 + j] |= (uint8_t)(f.index[k] >> 8 << k);
        }
        for (int k = 0; k < 4; k++) out[74 + 4 * n_live + k] = (uint8_t)(signs[k] ^ flip);
        n_live++;
        scale[j] = __builtin_fabsf(f.scale);
        largest_scale = largest_scale > scale[j] ? largest_scale : scale[j];
    }
    if (largest_scale == 0) return 0; /* Parity: points and signs stay */
    float d = largest_scale / 31, inverse = 1 / d;
    put_half(out, d * 1.033f);
    for (int j = 0; j < 8; j++) out[106 + j / 2] |= (uint8_t)(step_of_scale(scale[j], inverse) << 4 * (j % 2));
    return 0;
}

typedef int encode_super(const float *x, const float *importance, float sigma2, uint8_t *out);

INLINE void encode_all(chunk *c, uint8_t *out, const float *importance, encode_super *encode, int nbytes) {
    float sums[CHUNK / SUPER];
    const int n_super = c->n / SUPER;
    if (importance != NULL) sum_squares(c->x, n_super, sums);
    for (int k = 0; k < n_super; k++) {
        const float *of_super = importance ? importance + k * SUPER : NULL;
        float sigma2 = importance ? 2 * sums[k] / SUPER : 0;
        c->n_refused += encode(c->x + k * SUPER, of_super, sigma2, out + k * nbytes);
    }
}

static void encode_iq3_xxs(chunk *c, uint8_t *out) { encode_all(c, out, NULL, encode_super_xxs, IQ3_XXS_NBYTES); }

static void encode_iq3_s(chunk *c, uint8_t *out) { encode_all(c, out, NULL, encode_super_s, IQ3_S_NBYTES); }

static void encode_important_iq3_xxs(chunk *c, uint8_t *out) {
    encode_all(c, out, c->importance, encode_super_xxs, IQ3_XXS_NBYTES);
}

static void encode_important_iq3_s(chunk *c, uint8_t *out) {
    encode_all(c, out, c->importance, encode_super_s, IQ3_S_NBYTES);
}

static void decode_iq3_xxs(const uint8_t *b, float *x) {
    const float d = load_half(b);
    for (int j = 0; j < 8; j++) {
        const uint32_t word = word_at(b + 66 + 4 * j);
        const float scale = d * (0.5f + (float)(word >> 28)) * 0.5f;
        for (int k = 0; k < 8; k++, x += 4) {
            unsigned signs = eight_signs(word >> 7 * (k / 2) & 127) >> 4 * (k % 2);
            decode_four(&LEVEL(grid_iq3_xxs), b[2 + 8 * j + k], signs, scale, 4, 8, 2, x);
        }
    }
}

static void decode_iq3_s(const uint8_t *b, float *x) {
    const float d = load_half(b);
    for (int j = 0; j < 8; j++) {
        const float scale = d * (float)(1 + 2 * (b[106 + j / 2] >> 4 * (j % 2) & 15));
        for (int k = 0; k < 8; k++, x += 4) {
            unsigned index = b[2 + 8 * j + k] | (b[66 + j] >> k & 1u) << 8;
            unsigned signs = b[74 + 4 * j + k / 2] >> 4 * (k % 2);
            decode_four(&LEVEL(grid_iq3_s), index, signs, scale, 1, 2, 0, x);
        }
    }
}

const codec LEVEL(iq3_xxs) = {
    TYPE_IQ3_XXS, SUPER, IQ3_XXS_NBYTES, .encode = encode_iq3_xxs, .encode_weighted = encode_important_iq3_xxs,
    .decode = decode_iq3_xxs};
const codec LEVEL(iq3_s) = {
    TYPE_IQ3_S, SUPER, IQ3_S_NBYTES, .encode = encode_iq3_s, .encode_weighted = encode_important_iq3_s,
    .decode = decode_iq3_s};
