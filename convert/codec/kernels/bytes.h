/* Blocks of 32 quants as bytes: what truncates to them, limits them and takes their bits apart. */
#ifndef CONVERT_BYTES_H
#define CONVERT_BYTES_H

#include "lanes.h"

#define BLOCK 32
#define BLOCK_VECTORS (BLOCK / LANES)

typedef struct {
    u8x16 lo, hi; /* quants 0..15 and 16..31 of a block */
} bytes32;

/* Truncates 32 floats, each above -129 and below 128 (anything may come out beyond), to bytes. */
INLINE bytes32 truncate_to_bytes(const f32v v[BLOCK_VECTORS]) {
    bytes32 out;
#if LANES_AVX512
    out.lo = (u8x16)_mm512_cvtepi32_epi8(_mm512_cvttps_epi32((__m512)v[0]));
    out.hi = (u8x16)_mm512_cvtepi32_epi8(_mm512_cvttps_epi32((__m512)v[1]));
#elif LANES_AVX2
    __m256i ab = _mm256_packs_epi32(_mm256_cvttps_epi32((__m256)v[0]), _mm256_cvttps_epi32((__m256)v[1]));
    __m256i cd = _mm256_packs_epi32(_mm256_cvttps_epi32((__m256)v[2]), _mm256_cvttps_epi32((__m256)v[3]));
    __m256i abcd = _mm256_packs_epi16(ab, cd); /* dwords: a0 b0 c0 d0 a1 b1 c1 d1 */
    abcd = _mm256_permutevar8x32_epi32(abcd, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
    out.lo = (u8x16)_mm256_castsi256_si128(abcd);
    out.hi = (u8x16)_mm256_extracti128_si256(abcd, 1);
#elif LANES_SSE2
    __m128i w[4];
    for (int i = 0; i < 4; i++)
        w[i] = _mm_packs_epi32(_mm_cvttps_epi32((__m128)v[2 * i]), _mm_cvttps_epi32((__m128)v[2 * i + 1]));
    out.lo = (u8x16)_mm_packs_epi16(w[0], w[1]);
    out.hi = (u8x16)_mm_packs_epi16(w[2], w[3]);
#elif LANES_NEON
    int8x8_t b[4];
    for (int i = 0; i < 4; i++)
        b[i] = vqmovn_s16(vcombine_s16(vqmovn_s32(vcvtq_s32_f32((float32x4_t)v[2 * i])),
                                       vqmovn_s32(vcvtq_s32_f32((float32x4_t)v[2 * i + 1]))));
    out.lo = (u8x16)vcombine_s8(b[0], b[1]);
    out.hi = (u8x16)vcombine_s8(b[2], b[3]);
#else
    for (int i = 0; i < 16; i++) {
        float lo = v[i / LANES][i % LANES], hi = v[4 + i / LANES][i % LANES];
        out.lo[i] = lo > -129 && lo < 128 ? (uint8_t)(int32_t)lo : 0; /* a cast out of range would be undefined */
        out.hi[i] = hi > -129 && hi < 128 ? (uint8_t)(int32_t)hi : 0;
    }
#endif
    return out;
}

INLINE u8x16 minimum_u8(u8x16 a, uint8_t limit) {
    u8x16 b = limit - (u8x16){0};
#if LANES_AVX512 || LANES_AVX2 || LANES_SSE2
    return (u8x16)_mm_min_epu8((__m128i)a, (__m128i)b);
#elif LANES_NEON
    return (u8x16)vminq_u8((uint8x16_t)a, (uint8x16_t)b);
#else
    u8x16 above = (u8x16)(a > b);
    return (b & above) | (a & ~above);
#endif
}

/* Bit `bit` of each of the 32 bytes, the first byte's in the lowest place. */
INLINE uint32_t gather_bit(bytes32 q, int bit) {
#if LANES_AVX512 || LANES_AVX2 || LANES_SSE2
    uint32_t lo = (uint32_t)_mm_movemask_epi8(_mm_slli_epi16((__m128i)q.lo, 7 - bit));
    uint32_t hi = (uint32_t)_mm_movemask_epi8(_mm_slli_epi16((__m128i)q.hi, 7 - bit));
    return lo | hi << 16;
#elif LANES_NEON
    static const uint8_t weights[16] = {1, 2, 4, 8, 16, 32, 64, 128, 1, 2, 4, 8, 16, 32, 64, 128};
    uint8x16_t weight = vld1q_u8(weights), tested = vdupq_n_u8((uint8_t)(1u << bit));
    uint8x16_t lo = vandq_u8(vtstq_u8((uint8x16_t)q.lo, tested), weight);
    uint8x16_t hi = vandq_u8(vtstq_u8((uint8x16_t)q.hi, tested), weight);
    return (uint32_t)vaddv_u8(vget_low_u8(lo)) | (uint32_t)vaddv_u8(vget_high_u8(lo)) << 8 |
           (uint32_t)vaddv_u8(vget_low_u8(hi)) << 16 | (uint32_t)vaddv_u8(vget_high_u8(hi)) << 24;
#else
    uint32_t mask = 0;
    for (int i = 0; i < 16; i++) {
        mask |= (uint32_t)(q.lo[i] >> bit & 1) << i;
        mask |= (uint32_t)(q.hi[i] >> bit & 1) << (i + 16);
    }
    return mask;
#endif
}

#endif
