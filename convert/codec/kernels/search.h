/* What the types with grids, levels and few numbers share: comparisons as masks, tables of eight numbers in a register,
 * the least and the largest lane. Every operation is ggml's own on any float, so that nothing has to be guarded. */
#ifndef CONVERT_SEARCH_H
#define CONVERT_SEARCH_H

#include <float.h>

#include "super_block.h"

#define ALL_LANES ((1u << LANES) - 1u)

INLINE i32v splat_i32(int32_t x) { return x - (i32v){0}; }

/* nearest_wrapping of one float. */
static inline int nearest_int(float x) {
    float shifted = x + ROUNDER;
    int32_t bits;
    memcpy(&bits, &shifted, 4);
    return (bits & 0x007fffff) - 0x00400000;
}

static inline int clamp_int(int x, int low, int high) { return x < low ? low : x > high ? high : x; }

/* All ones where a > b; false for NaN. */
INLINE i32v greater(f32v a, f32v b) {
#if LANES_AVX512
    return (i32v)_mm512_movm_epi32(_mm512_cmp_ps_mask((__m512)a, (__m512)b, _CMP_GT_OQ));
#elif LANES_AVX2
    return (i32v)_mm256_cmp_ps((__m256)a, (__m256)b, _CMP_GT_OQ);
#else
    return (i32v)(a > b);
#endif
}

/* Bit i of the result: a[i] > b[i]. */
INLINE unsigned which_greater(f32v a, f32v b) {
#if LANES_AVX512
    return (unsigned)_mm512_cmp_ps_mask((__m512)a, (__m512)b, _CMP_GT_OQ);
#elif LANES_AVX2
    return (unsigned)_mm256_movemask_ps(_mm256_cmp_ps((__m256)a, (__m256)b, _CMP_GT_OQ));
#elif LANES_SSE2
    return (unsigned)_mm_movemask_ps((__m128)(a > b));
#else
    unsigned mask = 0;
    for (int i = 0; i < LANES; i++) mask |= (unsigned)(a[i] > b[i]) << i;
    return mask;
#endif
}

/* Bit i of the result: lane i of a mask. */
INLINE unsigned which_set(i32v mask) {
#if LANES_AVX512
    return (unsigned)_mm512_movepi32_mask((__m512i)mask);
#elif LANES_AVX2
    return (unsigned)_mm256_movemask_ps((__m256)mask);
#elif LANES_SSE2
    return (unsigned)_mm_movemask_ps((__m128)mask);
#else
    unsigned set = 0;
    for (int i = 0; i < LANES; i++) set |= (unsigned)(mask[i] & 1) << i;
    return set;
#endif
}

INLINE i32v clamp_ints(i32v x, int low, int high) {
#if LANES_AVX512
    return (i32v)_mm512_min_epi32(_mm512_max_epi32((__m512i)x, _mm512_set1_epi32(low)), _mm512_set1_epi32(high));
#elif LANES_AVX2
    return (i32v)_mm256_min_epi32(_mm256_max_epi32((__m256i)x, _mm256_set1_epi32(low)), _mm256_set1_epi32(high));
#else
    i32v below = (i32v)(x < splat_i32(low)), above = (i32v)(x > splat_i32(high));
    return (below & splat_i32(low)) | (above & splat_i32(high)) | (x & ~(below | above));
#endif
}

INLINE float least_of(f32v x) {
#if LANES_AVX512
    return _mm512_reduce_min_ps((__m512)x);
#elif LANES_AVX2
    __m128 a = _mm_min_ps(_mm256_castps256_ps128((__m256)x), _mm256_extractf128_ps((__m256)x, 1));
    a = _mm_min_ps(a, _mm_movehl_ps(a, a));
    return _mm_cvtss_f32(_mm_min_ss(a, _mm_movehdup_ps(a)));
#else
    float least = x[0];
    for (int i = 1; i < LANES; i++) least = x[i] < least ? x[i] : least;
    return least;
#endif
}

INLINE float largest_of(f32v x) { return -least_of(-x); }

/* ---- tables of eight numbers; where a register holds sixteen, they are there twice ---- */

#define EIGHT_PARTS (LANES < 8 ? 2 : 1)

typedef struct {
    f32v part[EIGHT_PARTS];
} eight;

INLINE eight load_eight(const float numbers[8]) {
    eight t;
#if LANES == 16
    t.part[0] = (f32v)_mm512_broadcast_f32x8(_mm256_loadu_ps(numbers));
#else
    for (int i = 0; i < EIGHT_PARTS; i++) t.part[i] = load_f32(numbers + i * LANES);
#endif
    return t;
}

/* table[index & 7] in each lane. */
INLINE f32v pick(eight table, u32v index) {
#if LANES_AVX512
    return (f32v)_mm512_permutexvar_ps((__m512i)index, (__m512)table.part[0]);
#elif LANES_AVX2
    return (f32v)_mm256_permutevar8x32_ps((__m256)table.part[0], (__m256i)index);
#else
    float numbers[8];
    f32v out;
    for (int i = 0; i < EIGHT_PARTS; i++) store_f32(numbers + i * LANES, table.part[i]);
    for (int i = 0; i < LANES; i++) out[i] = numbers[index[i] & 7];
    return out;
#endif
}

static inline void put_half(uint8_t *out, float x) {
    uint16_t half[LANES];
    store_f16(half, splat(x));
    memcpy(out, half, 2);
}

#endif
