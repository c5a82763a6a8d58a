/* The machine's vector, seen as LANES float32 lanes: 16 (AVX-512), 8 (AVX2 with F16C), 4 (SSE2, NEON, anything else).
 *
 * Arithmetic is written with the GCC/Clang vector operators. This file holds only what they lack or compile badly:
 * minimum and maximum, selection, rounding, float16, reductions across lanes, and the corner turn. The last branch of every
 * #if is plain C.
 *
 * Every operation is one correctly rounded IEEE float32 operation, so the lanes change the speed and never the bits.
 */
#ifndef CONVERT_LANES_H
#define CONVERT_LANES_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VL__) && defined(__AVX512DQ__)
#define LANES_AVX512 1
#define LANES 16
#include <immintrin.h>
#elif defined(__AVX2__) && defined(__F16C__)
#define LANES_AVX2 1
#define LANES 8
#include <immintrin.h>
#elif defined(__SSE2__)
#define LANES_SSE2 1
#define LANES 4
#include <emmintrin.h>
#elif defined(__aarch64__) && defined(__ARM_NEON)
#define LANES_NEON 1
#define LANES 4
#include <arm_neon.h>
#else
#define LANES 4
#endif

#define INLINE static inline __attribute__((always_inline))

typedef float f32v __attribute__((vector_size(4 * LANES)));
typedef int32_t i32v __attribute__((vector_size(4 * LANES)));
typedef uint32_t u32v __attribute__((vector_size(4 * LANES)));
typedef uint16_t u16v __attribute__((vector_size(2 * LANES)));
typedef float f32x4 __attribute__((vector_size(16)));
typedef int32_t i32x4 __attribute__((vector_size(16)));
typedef uint8_t u8x16 __attribute__((vector_size(16)));

#if defined(__clang__)
#define SHUFFLE4(a, b, i, j, k, l) __builtin_shufflevector(a, b, i, j, k, l)
#else
#define SHUFFLE4(a, b, i, j, k, l) __builtin_shuffle(a, b, (i32x4){i, j, k, l})
#endif

/* ---- memory: every pointer may be unaligned ---- */

#define DEFINE_LOAD_STORE(type, name)                                                                                  \
    INLINE type load_##name(const void *from) {                                                                        \
        type value;                                                                                                    \
        memcpy(&value, from, sizeof value);                                                                            \
        return value;                                                                                                  \
    }                                                                                                                  \
    INLINE void store_##name(void *to, type value) { memcpy(to, &value, sizeof value); }

DEFINE_LOAD_STORE(f32v, f32)
DEFINE_LOAD_STORE(u32v, u32)
DEFINE_LOAD_STORE(i32v, i32)
DEFINE_LOAD_STORE(u16v, u16)
DEFINE_LOAD_STORE(f32x4, f32x4)
DEFINE_LOAD_STORE(u8x16, u8x16)

INLINE f32v splat(float x) {
    return x - (f32v){0}; /* x - 0 keeps -0, x + 0 would not */
}

INLINE u32v splat_u32(uint32_t x) { return x - (u32v){0}; }

/* ---- selection, minimum, maximum; operands are never NaN, except that a comparison with NaN is false ---- */

/* a > b ? yes : no, in each lane. */
INLINE f32v select_gt(f32v a, f32v b, f32v yes, f32v no) {
#if LANES_AVX512
    return (f32v)_mm512_mask_blend_ps(_mm512_cmp_ps_mask((__m512)a, (__m512)b, _CMP_GT_OQ), (__m512)no, (__m512)yes);
#elif LANES_AVX2
    return (f32v)_mm256_blendv_ps((__m256)no, (__m256)yes, _mm256_cmp_ps((__m256)a, (__m256)b, _CMP_GT_OQ));
#else
    u32v mask = (u32v)(a > b);
    return (f32v)((mask & (u32v)yes) | (~mask & (u32v)no));
#endif
}

#if LANES_AVX512
#define ANY(a, b, op, predicate) (_mm512_cmp_ps_mask((__m512)(a), (__m512)(b), predicate) != 0)
#elif LANES_AVX2
#define ANY(a, b, op, predicate) (_mm256_movemask_ps(_mm256_cmp_ps((__m256)(a), (__m256)(b), predicate)) != 0)
#elif LANES_SSE2
#define ANY(a, b, op, predicate) (_mm_movemask_ps((__m128)((a)op(b))) != 0)
#else
INLINE int any_set(i32v mask) { return (mask[0] | mask[1] | mask[2] | mask[3]) != 0; }
#define ANY(a, b, op, predicate) any_set((a)op(b))
#endif

/* Whether a > b (or a == b) in any lane. */
INLINE int any_gt(f32v a, f32v b) { return ANY(a, b, >, _CMP_GT_OQ); }

INLINE int any_eq(f32v a, f32v b) { return ANY(a, b, ==, _CMP_EQ_OQ); }

INLINE f32v minimum(f32v a, f32v b) {
#if LANES_AVX512
    return (f32v)_mm512_min_ps((__m512)a, (__m512)b);
#elif LANES_AVX2
    return (f32v)_mm256_min_ps((__m256)a, (__m256)b);
#elif LANES_SSE2
    return (f32v)_mm_min_ps((__m128)a, (__m128)b);
#elif LANES_NEON
    return (f32v)vminq_f32((float32x4_t)a, (float32x4_t)b);
#else
    return select_gt(a, b, b, a);
#endif
}

INLINE f32v maximum(f32v a, f32v b) {
#if LANES_AVX512
    return (f32v)_mm512_max_ps((__m512)a, (__m512)b);
#elif LANES_AVX2
    return (f32v)_mm256_max_ps((__m256)a, (__m256)b);
#elif LANES_SSE2
    return (f32v)_mm_max_ps((__m128)a, (__m128)b);
#elif LANES_NEON
    return (f32v)vmaxq_f32((float32x4_t)a, (float32x4_t)b);
#else
    return select_gt(a, b, a, b);
#endif
}

INLINE f32v magnitude(f32v a) { return (f32v)((u32v)a & splat_u32(0x7fffffffu)); }

/* x with the sign bit of `sign`; x >= 0. */
INLINE f32v with_sign_of(f32v x, f32v sign) { return (f32v)((u32v)x | ((u32v)sign & splat_u32(0x80000000u))); }

/* ---- masks: all bits of a lane, or none; for what is not worth a select_gt ---- */

INLINE f32v choose(i32v mask, f32v yes, f32v no) { return (f32v)((mask & (i32v)yes) | (~mask & (i32v)no)); }

INLINE i32v choose_i32(i32v mask, i32v yes, i32v no) { return (mask & yes) | (~mask & no); }

/* Whether any lane of a mask is set. */
INLINE int any_lane(i32v mask) {
#if LANES_AVX512
    return _mm512_movepi32_mask((__m512i)mask) != 0;
#elif LANES_AVX2
    return _mm256_movemask_ps((__m256)mask) != 0;
#elif LANES_SSE2
    return _mm_movemask_ps((__m128)mask) != 0;
#else
    return (mask[0] | mask[1] | mask[2] | mask[3]) != 0;
#endif
}

/* ---- rounding and roots ---- */

#define ROUNDER 12582912.0f /* 1.5 * 2^23: adding it leaves the nearest integer, ties to even, in the last bits */

/* Nearest integer, ties to even; |x| < 2^22. */
INLINE f32v nearest(f32v x) {
#if LANES_AVX512
    return (f32v)_mm512_roundscale_ps((__m512)x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
#elif LANES_AVX2
    return (f32v)_mm256_round_ps((__m256)x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
#else
    return (x + splat(ROUNDER)) - splat(ROUNDER);
#endif
}

/* ggml's nearest_int on any float: the bits of x + ROUNDER are taken as they come, so NaN gives 0 and what exceeds
 * 22 bits wraps. */
INLINE i32v nearest_wrapping(f32v x) {
    i32v bits = (i32v)(x + splat(ROUNDER));
    return (bits & 0x007fffff) - 0x00400000;
}

INLINE f32v float_of(i32v x) { return __builtin_convertvector(x, f32v); }

INLINE f32v root(f32v x) {
#if LANES_AVX512
    return (f32v)_mm512_sqrt_ps((__m512)x);
#elif LANES_AVX2
    return (f32v)_mm256_sqrt_ps((__m256)x);
#elif LANES_SSE2
    return (f32v)_mm_sqrt_ps((__m128)x);
#else
    for (int i = 0; i < LANES; i++) x[i] = sqrtf(x[i]);
    return x;
#endif
}

/* ---- float16, rounding to nearest, ties to even, overflow to infinity ---- */

#if !LANES_AVX512 && !LANES_AVX2 && !LANES_NEON
INLINE u32v select_bits(i32v mask, u32v yes, u32v no) { return ((u32v)mask & yes) | (~(u32v)mask & no); }

INLINE f32v f32_of_f16_bits(u32v half) {
    const u32v exponent_mask = splat_u32(0x7c00u << 13);
    u32v bits = (half & splat_u32(0x7fffu)) << 13;
    u32v exponent = bits & exponent_mask;
    u32v rebiased = bits + splat_u32((127u - 15u) << 23);
    u32v special = rebiased + splat_u32((128u - 16u) << 23);
    f32v denormal = (f32v)(rebiased + splat_u32(1u << 23)) - (f32v)splat_u32(113u << 23);
    u32v magnitude_bits = select_bits((i32v)(exponent == exponent_mask), special, rebiased);
    magnitude_bits = select_bits((i32v)(exponent == splat_u32(0)), (u32v)denormal, magnitude_bits);
    return (f32v)(magnitude_bits | ((half & splat_u32(0x8000u)) << 16));
}

INLINE u32v f16_bits_of_f32(f32v x) {
    const f32v denormal_magic = (f32v)splat_u32(126u << 23); /* 0.5: its last bit weighs 2^-24, float16's smallest */
    u32v bits = (u32v)x & splat_u32(0x7fffffffu);
    u32v sign = ((u32v)x ^ bits) >> 16;
    u32v nan = splat_u32(0x7e00u) | ((bits >> 13) & splat_u32(0x3ffu));
    u32v special = select_bits((i32v)bits > (i32v)splat_u32(0x7f800000u), nan, splat_u32(0x7c00u));
    u32v denormal = (u32v)((f32v)bits + denormal_magic) - (u32v)denormal_magic;
    u32v odd = (bits >> 13) & splat_u32(1u);
    u32v normal = (bits - splat_u32((127u - 15u) << 23) + splat_u32(0xfffu) + odd) >> 13;
    u32v half = select_bits((i32v)bits < (i32v)splat_u32(113u << 23), denormal, normal);
    return select_bits((i32v)bits >= (i32v)splat_u32(143u << 23), special, half) | sign;
}
#endif

/* LANES float16 values as float32. */
INLINE f32v load_f16(const void *from) {
#if LANES_AVX512
    return (f32v)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)from));
#elif LANES_AVX2
    return (f32v)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)from));
#elif LANES_NEON
    return (f32v)vcvt_f32_f16(vreinterpret_f16_u16((uint16x4_t)load_u16(from)));
#else
    return f32_of_f16_bits(__builtin_convertvector(load_u16(from), u32v));
#endif
}

/* One float16 value. */
INLINE float load_half(const void *from) {
    uint16_t half[LANES] = {0};
    memcpy(half, from, 2);
    return load_f16(half)[0];
}

/* LANES float32 values, rounded, stored as float16. */
INLINE void store_f16(void *to, f32v x) {
#if LANES_AVX512
    _mm256_storeu_si256((__m256i *)to, _mm512_cvtps_ph((__m512)x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
#elif LANES_AVX2
    _mm_storeu_si128((__m128i *)to, _mm256_cvtps_ph((__m256)x, _MM_FROUND_TO_NEAREST_INT));
#elif LANES_NEON
    store_u16(to, (u16v)vreinterpret_u16_f16(vcvt_f16_f32((float32x4_t)x)));
#else
    store_u16(to, __builtin_convertvector(f16_bits_of_f32(x), u16v));
#endif
}

/* ---- reductions: lane i of the result is the extreme of rows[i]'s lanes ----
 *
 * A 4 x 4 corner turn that reduces as it turns, on every 128-bit part at once; then the same among the parts.
 */

#if LANES_AVX512
#define UNPACK_LO(a, b) ((f32v)_mm512_unpacklo_ps((__m512)(a), (__m512)(b)))
#define UNPACK_HI(a, b) ((f32v)_mm512_unpackhi_ps((__m512)(a), (__m512)(b)))
#define PAIRS_LO(a, b) ((f32v)_mm512_unpacklo_pd((__m512d)(a), (__m512d)(b)))
#define PAIRS_HI(a, b) ((f32v)_mm512_unpackhi_pd((__m512d)(a), (__m512d)(b)))
#define PARTS(a, b, order) ((f32v)_mm512_shuffle_f32x4((__m512)(a), (__m512)(b), order))
#elif LANES_AVX2
#define UNPACK_LO(a, b) ((f32v)_mm256_unpacklo_ps((__m256)(a), (__m256)(b)))
#define UNPACK_HI(a, b) ((f32v)_mm256_unpackhi_ps((__m256)(a), (__m256)(b)))
#define PAIRS_LO(a, b) ((f32v)_mm256_unpacklo_pd((__m256d)(a), (__m256d)(b)))
#define PAIRS_HI(a, b) ((f32v)_mm256_unpackhi_pd((__m256d)(a), (__m256d)(b)))
#define PARTS(a, b, order) ((f32v)_mm256_permute2f128_ps((__m256)(a), (__m256)(b), order))
#else
#define UNPACK_LO(a, b) SHUFFLE4(a, b, 0, 4, 1, 5)
#define UNPACK_HI(a, b) SHUFFLE4(a, b, 2, 6, 3, 7)
#define PAIRS_LO(a, b) SHUFFLE4(a, b, 0, 1, 4, 5)
#define PAIRS_HI(a, b) SHUFFLE4(a, b, 2, 3, 6, 7)
#endif

#define DEFINE_REDUCTION(name, op)                                                                                     \
    INLINE f32v name##_of_4(const f32v *r) {                                                                           \
        f32v ab = op(UNPACK_LO(r[0], r[1]), UNPACK_HI(r[0], r[1]));                                                    \
        f32v cd = op(UNPACK_LO(r[2], r[3]), UNPACK_HI(r[2], r[3]));                                                    \
        return op(PAIRS_LO(ab, cd), PAIRS_HI(ab, cd));                                                                 \
    }                                                                                                                  \
    INLINE f32v name(const f32v *rows) { return DEFINE_REDUCTION_BODY(name, op); }

#if LANES_AVX512
#define HALVES(op, a, b) op(PARTS(a, b, 0x44), PARTS(a, b, 0xee))
#define QUARTERS(op, a, b) op(PARTS(a, b, 0x88), PARTS(a, b, 0xdd))
#define DEFINE_REDUCTION_BODY(name, op)                                                                                \
    QUARTERS(op, HALVES(op, name##_of_4(rows), name##_of_4(rows + 4)),                                                 \
             HALVES(op, name##_of_4(rows + 8), name##_of_4(rows + 12)))
#elif LANES_AVX2
#define HALVES(op, a, b) op(PARTS(a, b, 0x20), PARTS(a, b, 0x31))
#define DEFINE_REDUCTION_BODY(name, op) HALVES(op, name##_of_4(rows), name##_of_4(rows + 4))
#else
#define DEFINE_REDUCTION_BODY(name, op) name##_of_4(rows)
#endif

DEFINE_REDUCTION(minima, minimum)
DEFINE_REDUCTION(maxima, maximum)

/* ---- corner turn: LANES x LANES floats; lane k of out[i] is rows[k * stride + i] ---- */

INLINE void corner_turn(const float *rows, int stride, f32v out[LANES]) {
    f32v t[LANES / 4][4]; /* t[g][i]: of rows 4 g .. 4 g + 3, the elements i of every 128-bit part */
    for (int g = 0; g < LANES / 4; g++) {
        f32v r[4];
        for (int k = 0; k < 4; k++) r[k] = load_f32(rows + (4 * g + k) * stride);
        f32v ab_lo = UNPACK_LO(r[0], r[1]), ab_hi = UNPACK_HI(r[0], r[1]);
        f32v cd_lo = UNPACK_LO(r[2], r[3]), cd_hi = UNPACK_HI(r[2], r[3]);
        t[g][0] = PAIRS_LO(ab_lo, cd_lo);
        t[g][1] = PAIRS_HI(ab_lo, cd_lo);
        t[g][2] = PAIRS_LO(ab_hi, cd_hi);
        t[g][3] = PAIRS_HI(ab_hi, cd_hi);
    }
    for (int i = 0; i < 4; i++) {
#if LANES_AVX512
        f32v a = PARTS(t[0][i], t[1][i], 0x44), b = PARTS(t[0][i], t[1][i], 0xee);
        f32v c = PARTS(t[2][i], t[3][i], 0x44), d = PARTS(t[2][i], t[3][i], 0xee);
        out[i] = PARTS(a, c, 0x88);
        out[4 + i] = PARTS(a, c, 0xdd);
        out[8 + i] = PARTS(b, d, 0x88);
        out[12 + i] = PARTS(b, d, 0xdd);
#elif LANES_AVX2
        out[i] = PARTS(t[0][i], t[1][i], 0x20);
        out[4 + i] = PARTS(t[0][i], t[1][i], 0x31);
#else
        out[i] = t[0][i];
#endif
    }
}

#endif
