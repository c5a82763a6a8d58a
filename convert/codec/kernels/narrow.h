/* From float32 to the types of two bytes, to nearest, ties to even. */
#ifndef CONVERT_NARROW_H
#define CONVERT_NARROW_H

#include "lanes.h"

#define F32_INFINITY 0x7f800000u

/* Rounds to nearest, ties to even; a NaN stays one. ggml-impl.h, ggml_compute_fp32_to_bf16 @ 0c1e570. */
INLINE void store_bf16(void *to, f32v x) {
    u32v bits = (u32v)x;
    u32v rounded = (bits + splat_u32(0x7fffu) + ((bits >> 16) & splat_u32(1))) >> 16;
    u32v is_nan = (u32v)((i32v)(bits & splat_u32(0x7fffffffu)) > (i32v)splat_u32(F32_INFINITY));
    u32v quiet = (bits >> 16) | splat_u32(64);
    store_u16(to, __builtin_convertvector((is_nan & quiet) | (~is_nan & rounded), u16v));
}

static void narrow_f16(const float *x, int n, uint8_t *out) {
    uint16_t rest[LANES];
    int whole = n - n % LANES;
    for (int i = 0; i < whole; i += LANES) store_f16(out + 2 * i, load_f32(x + i));
    store_f16(rest, load_f32(x + (n > whole ? whole : 0)));
    memcpy(out + whole * 2, rest, (size_t)(n - whole) * 2);
}

static void narrow_bf16(const float *x, int n, uint8_t *out) {
    uint16_t rest[LANES];
    int whole = n - n % LANES;
    for (int i = 0; i < whole; i += LANES) store_bf16(out + 2 * i, load_f32(x + i));
    store_bf16(rest, load_f32(x + (n > whole ? whole : 0)));
    memcpy(out + whole * 2, rest, (size_t)(n - whole) * 2);
}

#endif
