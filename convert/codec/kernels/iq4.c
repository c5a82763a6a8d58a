/* IQ4_NL and IQ4_XS: a weight is one of sixteen numbers, closer together around zero, times a scale.
 *
 *   IQ4_NL    18 bytes of 32    d f16 | 16 x nibbles (weight j low, j + 16 high)
 *   IQ4_XS   136 bytes of 256   d f16 | 8 x 2 high bits | 8 x 4 low bits of scale | 8 x 16 x nibbles
 *
 * Sixteen scales are tried for each 32 weights; a lane is a block, so that sums run in order. From the least scale tried
 * to the greatest (120/127 to 134/127) no weight crosses more than one midpoint between neighbouring numbers: the
 * nearest of those that are two apart differ by a quarter. So each weight's number at the least one, the step to the
 * next, and the midpoint between are looked up once, and each scale tried costs one comparison a weight.
 *
 * Source: ggml-quants.c, quantize_row_iq4_nl_impl with 7 tries on each side, best_index_int8 @ 0c1e570.
 */
#include "search.h"

#define IQ4_NL_NBYTES 18
#define IQ4_XS_NBYTES 136

static const float numbers[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};
/* ggml takes the lower number for x < midpoint, else the upper; its differences are exact near the midpoint. */
static const float midpoints[16] = {
    -115.5f, -93.5f, -74, -57, -42, -28.5f, -16, -4.5f, 7, 19, 31.5f, 45.5f, 61, 79, 101, __builtin_inff()};

/* table[index], sixteen numbers. */
INLINE f32v look_up(const float *table, i32v index) {
#if LANES_AVX512
    return (f32v)_mm512_permutexvar_ps((__m512i)index, _mm512_loadu_ps(table));
#elif LANES_AVX2
    __m256 low = _mm256_permutevar8x32_ps(_mm256_loadu_ps(table), (__m256i)index);
    __m256 high = _mm256_permutevar8x32_ps(_mm256_loadu_ps(table + 8), (__m256i)index);
    return (f32v)_mm256_blendv_ps(low, high, _mm256_castsi256_ps(_mm256_slli_epi32((__m256i)index, 28)));
#else
    f32v out;
    for (int i = 0; i < LANES; i++) out[i] = table[index[i]];
    return out;
#endif
}

/* All ones where !(x < m), NaN included. */
INLINE i32v not_less(f32v x, f32v m) {
#if LANES_AVX512
    return (i32v)_mm512_movm_epi32(_mm512_cmp_ps_mask((__m512)x, (__m512)m, _CMP_NLT_UQ));
#elif LANES_AVX2
    return (i32v)_mm256_cmp_ps((__m256)x, (__m256)m, _CMP_NLT_UQ);
#else
    return ~(i32v)(x < m);
#endif
}

/* ggml's best_index_int8: how many midpoints x is not below, by halving. */
INLINE i32v nearest_number(f32v x) {
#if LANES_AVX512 || LANES_AVX2
    static const float second[16] = {[0 ... 7] = -57, [8 ... 15] = 45.5f};
    static const float third[16] = {[0] = -93.5f, [4] = -28.5f, [8] = 19, [12] = 79};
    static const float fourth[16] = {[0] = -115.5f, [2] = -74, [4] = -42,  [6] = -16,
                                     [8] = 7,       [10] = 31.5f, [12] = 61, [14] = 101};
    i32v index = not_less(x, splat(midpoints[7])) & 8;
    index |= not_less(x, look_up(second, index)) & 4;
    index |= not_less(x, look_up(third, index)) & 2;
    return index | (not_less(x, look_up(fourth, index)) & 1);
#else
    i32v index = {0};
    for (int k = 0; k < 15; k++) index -= not_less(x, splat(midpoints[k]));
    return index;
#endif
}

/* LANES blocks, a column for each weight; and what is looked up once for 32 of them. */
typedef struct {
    f32v x[SUPER], w[SUPER], scale[SUPER / BLOCK];
    f32v base[BLOCK], step[BLOCK], midpoint[BLOCK];
} __attribute__((aligned(64))) columns;

typedef struct {
    f32v qx, q2;
} sums;

INLINE void add(sums *s, f32v x, f32v w, f32v q) {
    f32v wq = w * q;
    s->qx = s->qx + wq * x;
    s->q2 = s->q2 + wq * q;
}

INLINE void keep_better(f32v *d, f32v *best, sums s) {
    const f32v never = splat(-__builtin_inff());
    f32v challenge = select_gt(s.q2, splat(0), s.qx * s.qx, never), bar = *best * s.q2, scale = s.qx / s.q2;
    *best = select_gt(challenge, bar, scale * s.qx, *best);
    *d = select_gt(challenge, bar, scale, *d);
}

/* The first weight of largest magnitude, and that magnitude. */
INLINE f32v find_peak(const f32v *x, f32v *largest) {
    f32v peak = splat(0);
    *largest = splat(0);
    for (int i = 0; i < BLOCK; i++) {
        f32v size = magnitude(x[i]);
        peak = select_gt(size, *largest, x[i], peak);
        *largest = maximum(size, *largest);
    }
    return peak;
}

/* Where each weight stands at the least scale tried. Below zero its step is to the next lower number. */
INLINE void look_up_steps(columns *c, const f32v *x, f32v least) {
    for (int i = 0; i < BLOCK; i++) {
        f32v scaled = least * x[i];
        i32v index = nearest_number(scaled);
        index = clamp_ints(index + (i32v)(scaled < splat(0)), 0, 14);
        c->base[i] = look_up(numbers, index);
        c->step[i] = look_up(numbers, index + 1) - c->base[i];
        c->midpoint[i] = look_up(midpoints, index);
    }
}

INLINE f32v number_at(const columns *c, int i, f32v scaled) {
    return c->base[i] + (f32v)((i32v)(scaled >= c->midpoint[i]) & (i32v)c->step[i]);
}

/* The scale of 32 weights a lane, 0 where they are (almost) 0. */
INLINE f32v search_scale(columns *c, const f32v *x, const f32v *w) {
    f32v largest, peak = find_peak(x, &largest), zero = splat(0);
    peak = select_gt(splat(TINY), largest, splat(1), peak);
    f32v inverse = splat(1) / (-peak / splat(-127));
    sums s = {0};
    for (int i = 0; i < BLOCK; i++) add(&s, x[i], w[i], look_up(numbers, nearest_number(inverse * x[i])));
    f32v d = select_gt(s.q2, zero, s.qx / s.q2, zero), best = d * s.qx;
    look_up_steps(c, x, splat(7.0f - 127.0f) / peak);
    for (int k = -7; k <= 7; k += 3) { /* three side by side: a sum waits for itself, six hide that */
        f32v i0 = splat((float)k - 127.0f) / peak, i1 = splat((float)(k + 1) - 127.0f) / peak;
        f32v i2 = splat((float)(k + 2) - 127.0f) / peak;
        sums s0 = {0}, s1 = {0}, s2 = {0};
#pragma GCC unroll 2
        for (int i = 0; i < BLOCK; i++) {
            add(&s0, x[i], w[i], number_at(c, i, i0 * x[i]));
            add(&s1, x[i], w[i], number_at(c, i, i1 * x[i]));
            add(&s2, x[i], w[i], number_at(c, i, i2 * x[i]));
        }
        keep_better(&d, &best, s0);
        keep_better(&d, &best, s1);
        keep_better(&d, &best, s2);
    }
    return select_gt(splat(TINY), largest, zero, d);
}

/* w = x * x, or importance * sqrt(sigma2 + x * x) with twice the block's mean square. */
INLINE void weigh(columns *c, int n, int is_important) {
    f32v sum = splat(0);
    for (int i = 0; i < n; i++) sum = sum + c->x[i] * c->x[i];
    f32v sigma2 = sum * splat(2.0f / (float)n);
    for (int i = 0; i < n; i++) {
        f32v square = c->x[i] * c->x[i];
        c->w[i] = is_important ? c->w[i] * root(sigma2 + square) : square;
    }
}

INLINE void store_nearest(const float *x, float inverse, uint8_t *out) {
    f32v v[BLOCK_VECTORS];
    for (int i = 0; i < BLOCK_VECTORS; i++)
        v[i] = float_of(nearest_number(splat(inverse) * load_f32(x + i * LANES)));
    bytes32 q = truncate_to_bytes(v);
    store_u8x16(out, q.lo | (q.hi << 4));
}

INLINE float inverse_of(float d) { return d != 0 ? 1 / d : 0; }

static void finish_nl(const float *x, float d, uint8_t *out) {
    put_half(out, d);
    store_nearest(x, inverse_of(d), out + 2);
}

/* Parity: weights are rounded with the scale before it becomes a float16. */
static void finish_xs(const float *x, const float scale[8], uint8_t *out) {
    float peak = 0;
    uint16_t high = 0;
    for (int j = 0; j < 8; j++)
        if (__builtin_fabsf(scale[j]) > __builtin_fabsf(peak)) peak = scale[j];
    float d = -peak / 32, inverse = inverse_of(d);
    put_half(out, d);
    memset(out + 4, 0, 4);
    for (int j = 0; j < 8; j++) {
        int step = clamp_int(nearest_int(inverse * scale[j]), -32, 31);
        store_nearest(x + j * BLOCK, inverse_of(d * (float)step), out + 8 + j * 16);
        out[4 + j / 2] |= (uint8_t)((step & 15) << 4 * (j % 2));
        high |= (uint16_t)((step + 32) >> 4 << 2 * j);
    }
    out[2] = (uint8_t)high;
    out[3] = (uint8_t)(high >> 8);
}

/* n: weights in a block, a constant at each call. */
INLINE void encode_all(chunk *c, uint8_t *out, int n, int is_important) {
    columns s;
    float scale[SUPER / BLOCK][LANES], of_lane[SUPER / BLOCK];
    for (int first = 0; first < c->n / n; first += LANES) {
        for (int i = 0; i < n; i += LANES) {
            corner_turn(c->x + first * n + i, n, s.x + i);
            if (is_important) corner_turn(c->importance + first * n + i, n, s.w + i);
        }
        weigh(&s, n, is_important);
        for (int j = 0; j < n / BLOCK; j++) store_f32(scale[j], search_scale(&s, s.x + j * BLOCK, s.w + j * BLOCK));
        for (int k = 0; k < LANES && first + k < c->n / n; k++) {
            const float *x = c->x + (first + k) * n;
            for (int j = 0; j < n / BLOCK; j++) of_lane[j] = scale[j][k];
            if (n == BLOCK)
                finish_nl(x, of_lane[0], out + (first + k) * IQ4_NL_NBYTES);
            else
                finish_xs(x, of_lane, out + (first + k) * IQ4_XS_NBYTES);
        }
    }
}

static void encode_iq4_nl(chunk *c, uint8_t *out) { encode_all(c, out, BLOCK, 0); }

static void encode_important_iq4_nl(chunk *c, uint8_t *out) { encode_all(c, out, BLOCK, 1); }

static void encode_iq4_xs(chunk *c, uint8_t *out) { encode_all(c, out, SUPER, 0); }

static void encode_important_iq4_xs(chunk *c, uint8_t *out) { encode_all(c, out, SUPER, 1); }

INLINE void decode_32(const uint8_t *q, float d, float *x) {
    for (int i = 0; i < BLOCK / 2; i++) {
        x[i] = d * numbers[q[i] & 15];
        x[i + BLOCK / 2] = d * numbers[q[i] >> 4];
    }
}

static void decode_iq4_nl(const uint8_t *b, float *x) { decode_32(b + 2, load_half(b), x); }

static void decode_iq4_xs(const uint8_t *b, float *x) {
    const float d = load_half(b);
    for (int j = 0; j < SUPER / BLOCK; j++) {
        int step = (b[4 + j / 2] >> 4 * (j % 2) & 15) | (b[2 + j / 4] >> 2 * (j % 4) & 3) << 4;
        decode_32(b + 8 + 16 * j, d * (float)(step - 32), x + BLOCK * j);
    }
}

const codec LEVEL(iq4_nl) = {
    TYPE_IQ4_NL, BLOCK, IQ4_NL_NBYTES, .encode = encode_iq4_nl, .encode_weighted = encode_important_iq4_nl,
    .decode = decode_iq4_nl};
const codec LEVEL(iq4_xs) = {
    TYPE_IQ4_XS, SUPER, IQ4_XS_NBYTES, .encode = encode_iq4_xs, .encode_weighted = encode_important_iq4_xs,
    .decode = decode_iq4_xs};
