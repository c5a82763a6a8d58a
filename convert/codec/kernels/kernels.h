/* The compiled kernels' interface: what ctypes sees (convert/codec/kernels.py mirrors it). */
#ifndef CONVERT_KERNELS_H
#define CONVERT_KERNELS_H

#include <stdint.h>

/* GGML's type numbers (gguf.GGMLQuantizationType). */
enum {
    TYPE_F32 = 0,
    TYPE_F16 = 1,
    TYPE_Q4_0 = 2,
    TYPE_Q4_1 = 3,
    TYPE_Q5_0 = 6,
    TYPE_Q5_1 = 7,
    TYPE_Q8_0 = 8,
    TYPE_Q6_K = 14,
    TYPE_BF16 = 30
};

typedef struct {
    int32_t type;
    uint8_t *out; /* room for all the blocks, of any alignment */
} encode_target;

typedef struct {
    const uint8_t *source; /* n_values values, of any alignment */
    int64_t n_values;      /* a multiple of every target's block size */
    int32_t source_type;   /* TYPE_F32, TYPE_F16 or TYPE_BF16 */
    int32_t through_f16;   /* quantized targets are computed from the weights rounded to float16 */
    int64_t n_targets;
    const encode_target *targets;
    int64_t n_nonfinite; /* result: NaN or infinite in the source */
    int64_t n_overflow;  /* result: finite in the source, infinite as float16 */
} encode_request;

typedef struct {
    const uint8_t *packed;   /* two weights a byte, the high nibble first */
    const float *code;       /* 16 numbers */
    const float *absmax;     /* one scale a block, from the block of the first weight on */
    int64_t first_in_packed; /* the first weight: 0, or 1 for the low nibble of the first byte */
    int64_t first_in_block;  /* how many weights of its block come before the first */
    int64_t block_size;
    int64_t n_values;
    int32_t type; /* of `out`: TYPE_F32, TYPE_F16 or TYPE_BF16 */
    uint8_t *out;
} decode_4bit_request;

typedef void encode_function(encode_request *);

typedef void decode_4bit_function(const decode_4bit_request *);

encode_function encode_baseline, encode_avx2, encode_avx512, encode_neon;
decode_4bit_function decode_4bit_baseline, decode_4bit_avx2, decode_4bit_avx512, decode_4bit_neon;

/* Names of functions by instruction set. */
#define JOIN_(a, b) a##b
#define JOIN(a, b) JOIN_(a, b)

#endif
