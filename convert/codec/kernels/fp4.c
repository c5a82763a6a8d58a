/* Floats of four bits under a shared scale: MXFP4 and NVFP4. Importance changes nothing.
 *
 *   MXFP4   17 bytes of 32   e8m0 scale | 16 x nibbles (weight j low, j + 16 high)
 *   NVFP4   36 bytes of 64   4 x ue4m3 scale, one for 16 weights | 4 x (8 x nibbles: weight j low, j + 8 high)
 *
 * A nibble is a sign and one of eight magnitudes, 0 to 6; they are kept doubled, and scales halved.
 *
 * Source: ggml-quants.c, quantize_row_{mxfp4,nvfp4}_ref, best_index_mxfp4; ggml-impl.h, ggml_fp32_to_ue4m3 @ 0c1e570.
 */
#include "search.h"

#define MXFP4_NBYTES 17
#define NVFP4_NBYTES 36
#define NVFP4_BLOCK 64
#define NVFP4_SUB 16

/* The magnitude nearest to each |x|, of equals the smaller; bit 3 is the sign, and zero has none. Parity: a magnitude's
 * error is rounded, so that far beyond the largest they may be equal; hence the errors themselves are compared. */
INLINE f32v nearest_fp4(f32v x, f32v d) {
    static const float doubled[8] = {0, 1, 2, 3, 4, 6, 8, 12};
    f32v size = magnitude(x), least = size, index = splat(0);
    for (int k = 1; k < 8; k++) {
        f32v error = magnitude(splat(doubled[k]) * d - size);
        index = select_gt(least, error, splat((float)k), index);
        least = minimum(error, least);
    }
    return index + select_gt(splat(0), x, select_gt(index, splat(0), splat(8), splat(0)), splat(0));
}

/* How many of the largest mantissas under a power of two round up to it in float32's log2, by the bits of the exponent. */
static const uint8_t n_rounding_up[8] = {0, 1, 2, 5, 11, 22, 44, 88};

/* floor(log2(x)) with log2 rounded to float32, as the C library gives it; x > 0. */
static inline int floor_of_log2(float x) {
    uint32_t bits;
    memcpy(&bits, &x, 4);
    int exponent = (int)(bits >> 23) - 127;
    uint32_t mantissa = (bits & 0x7fffffu) | 0x800000u;
    if (exponent == -127) {
        int shift = __builtin_clz(bits) - 8;
        mantissa = bits << shift;
        exponent = -126 - shift;
    }
    int distance = exponent >= 0 ? exponent : -(exponent + 1);
    int n = distance == 0 ? 0 : n_rounding_up[31 - __builtin_clz((unsigned)distance)];
    return exponent + (0x1000000u - mantissa <= (uint32_t)n);
}

/* Half of 2^(e - 127). ggml-impl.h, ggml_e8m0_to_fp32_half @ 0c1e570. */
static inline float half_of_e8m0(uint8_t e) {
    uint32_t bits = e < 2 ? 0x00200000u << e : (uint32_t)(e - 1) << 23;
    float d;
    memcpy(&d, &bits, 4);
    return d;
}

static void encode_mxfp4(chunk *c, uint8_t *out) {
    for (int k = 0; k < c->n / BLOCK; k++, out += MXFP4_NBYTES) {
        float largest = __builtin_fabsf(c->measured.peak[k]);
        /* Parity: of the least magnitudes the exponent goes below zero, and is kept in a byte all the same. */
        uint8_t e = largest > 0 ? (uint8_t)(floor_of_log2(largest) - 2 + 127) : 0;
        f32v v[BLOCK_VECTORS], d = splat(half_of_e8m0(e));
        for (int i = 0; i < BLOCK_VECTORS; i++) v[i] = nearest_fp4(load_f32(c->x + k * BLOCK + i * LANES), d);
        bytes32 q = truncate_to_bytes(v);
        out[0] = e;
        store_u8x16(out + 1, q.lo | (q.hi << 4));
    }
}

/* Rounds to four bits of exponent and three of mantissa, at most 448; half of the result's last place is rounded up. */
static inline uint8_t ue4m3_of(float x) {
    uint32_t bits;
    if (!(x > 0)) return 0;
    if (x > 448) return 0x7e;
    memcpy(&bits, &x, 4);
    int exponent = (int)(bits >> 23) - 127 + 7;
    if (exponent <= 0) {
        int mantissa = (int)(x * 512.0f + 0.5f);
        return (uint8_t)(mantissa > 7 ? 7 : mantissa);
    }
    if (exponent >= 15) return 0x7e;
    uint32_t rounded = (uint32_t)exponent << 3 | (bits >> 20 & 7);
    rounded += bits >> 19 & 1;
    return (uint8_t)(rounded >= 15 << 3 ? 0x7e : rounded);
}

/* Half of a scale's value. */
static inline float half_of_ue4m3(uint8_t e) {
    if (e < 8) return (float)e * 0x1p-10f;
    uint32_t bits = (uint32_t)((e >> 3) - 7 - 1 + 127) << 23 | (uint32_t)(e & 7) << 20;
    float d;
    memcpy(&d, &bits, 4);
    return d;
}

/* The largest magnitude of each 16 weights, divided by 6, the largest float of four bits. */
static void scale_subs(const chunk *c, float scale[CHUNK / NVFP4_SUB]) {
    for (int first = 0; first < c->n / NVFP4_SUB; first += LANES) {
        f32v largest[LANES];
        for (int k = 0; k < LANES; k++) {
            const float *x = c->x + (first + k) * NVFP4_SUB;
            largest[k] = magnitude(load_f32(x));
            for (int i = LANES; i < NVFP4_SUB; i += LANES) largest[k] = maximum(largest[k], magnitude(load_f32(x + i)));
        }
        store_f32(scale + first, maxima(largest) / splat(6));
    }
}

/* Byte j: weight j low, weight j + 8 high. */
INLINE void store_sub(uint8_t *out, u8x16 q) {
    uint64_t half[2];
    memcpy(half, &q, 16);
    half[0] |= half[1] << 4;
    memcpy(out, half, 8);
}

static void encode_nvfp4(chunk *c, uint8_t *out) {
    float scale[CHUNK / NVFP4_SUB];
    scale_subs(c, scale);
    for (int k = 0; k < c->n / NVFP4_BLOCK; k++, out += NVFP4_NBYTES) {
        for (int s = 0; s < 4; s++) out[s] = ue4m3_of(scale[4 * k + s]);
        for (int s = 0; s < 4; s += 2) {
            f32v v[BLOCK_VECTORS];
            for (int i = 0; i < BLOCK_VECTORS; i++) {
                f32v d = splat(half_of_ue4m3(out[s + (i * LANES) / NVFP4_SUB]));
                v[i] = nearest_fp4(load_f32(c->x + k * NVFP4_BLOCK + s * NVFP4_SUB + i * LANES), d);
            }
            bytes32 q = truncate_to_bytes(v);
            store_sub(out + 4 + 8 * s, q.lo);
            store_sub(out + 12 + 8 * s, q.hi);
        }
    }
}

static const float fp4_doubled[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};

static void decode_mxfp4(const uint8_t *b, float *x) {
    const float d = half_of_e8m0(b[0]);
    for (int i = 0; i < BLOCK / 2; i++) {
        x[i] = fp4_doubled[b[1 + i] & 15] * d;
        x[i + BLOCK / 2] = fp4_doubled[b[1 + i] >> 4] * d;
    }
}

/* Parity: ggml reads no sign in a scale, and takes 0x7f for 0, not for NaN. ggml-impl.h, ggml_ue4m3_to_fp32 @ 0c1e570. */
static void decode_nvfp4(const uint8_t *b, float *x) {
    for (int s = 0; s < NVFP4_BLOCK / NVFP4_SUB; s++, x += NVFP4_SUB) {
        const float d = b[s] == 0x7f ? 0 : half_of_ue4m3(b[s] & 0x7f);
        const uint8_t *q = b + 4 + 8 * s;
        for (int i = 0; i < NVFP4_SUB / 2; i++) {
            x[i] = fp4_doubled[q[i] & 15] * d;
            x[i + NVFP4_SUB / 2] = fp4_doubled[q[i] >> 4] * d;
        }
    }
}

const codec LEVEL(mxfp4) = {
    TYPE_MXFP4, BLOCK, MXFP4_NBYTES, .wants_measures = 1, .encode = encode_mxfp4, .decode = decode_mxfp4};
const codec LEVEL(nvfp4) = {TYPE_NVFP4, NVFP4_BLOCK, NVFP4_NBYTES, .encode = encode_nvfp4, .decode = decode_nvfp4};
