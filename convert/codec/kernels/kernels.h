/* The compiled kernels' interface: what ctypes sees (convert/codec/compiled.py mirrors it). */
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
    TYPE_Q2_K = 10,
    TYPE_Q3_K = 11,
    TYPE_Q4_K = 12,
    TYPE_Q5_K = 13,
    TYPE_Q6_K = 14,
    TYPE_IQ2_XXS = 16,
    TYPE_IQ2_XS = 17,
    TYPE_IQ3_XXS = 18,
    TYPE_IQ1_S = 19,
    TYPE_IQ4_NL = 20,
    TYPE_IQ3_S = 21,
    TYPE_IQ2_S = 22,
    TYPE_IQ4_XS = 23,
    TYPE_IQ1_M = 29,
    TYPE_BF16 = 30,
    TYPE_TQ1_0 = 34,
    TYPE_TQ2_0 = 35,
    TYPE_MXFP4 = 39,
    TYPE_NVFP4 = 40,
    TYPE_Q1_0 = 41,
    TYPE_Q2_0 = 42
};

typedef struct {
    int32_t type;
    uint8_t *out; /* room for all the blocks, of any alignment */
} encode_target;

typedef struct {
    const uint8_t *source;   /* n_values values, of any alignment: whole rows */
    int64_t n_values;
    int64_t n_cols;          /* a row's length, a multiple of every target's block size */
    int32_t source_type;     /* TYPE_F32, TYPE_F16 or TYPE_BF16 */
    int32_t through_f16;     /* quantized targets are computed from the weights rounded to float16 */
    int64_t n_targets;
    const encode_target *targets;
    const float *importance; /* NULL, or n_cols numbers for every `rows_each` rows of the tensor */
    int64_t rows_each;
    int64_t first_row;       /* the source's first row, counted from the one that `importance` begins with */
    int64_t n_nonfinite;     /* result: NaN or infinite in the source */
    int64_t n_overflow;      /* result: finite in the source, infinite as float16 */
    int64_t n_refused;       /* result: blocks on which ggml's own encoder aborts; their bytes are none in particular */
} encode_request;

typedef struct {
    const uint8_t *blocks; /* of any alignment */
    int64_t n_blocks;
    int32_t type;
    float *out;
} decode_request;

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

/* What is known of a type that has blocks: the head of its row, see codecs.h. */
typedef struct {
    int32_t type;
    int32_t block;  /* weights in a block */
    int32_t nbytes; /* bytes in a block */
    int32_t takes_importance, needs_importance;
} codec_facts;

typedef void encode_function(encode_request *);

/* 1 if the library does not decode the type. */
typedef int32_t decode_function(const decode_request *);

typedef void decode_4bit_function(const decode_4bit_request *);

/* The index-th row of the table of types: 1, or 0 after the last. */
typedef int32_t codec_facts_function(int32_t index, codec_facts *facts);

/* Gives a type its grid, n points in order (grids.h): 0, or 1 if it has none or there is no memory. Once, and before
 * the type is encoded; not while another thread does the same. */
typedef int32_t set_grid_function(int32_t type, const uint16_t *points, int32_t n);

#define DECLARE_LEVEL(level)                                                                                           \
    encode_function encode_##level;                                                                                    \
    decode_function decode_##level;                                                                                    \
    decode_4bit_function decode_4bit_##level;                                                                          \
    codec_facts_function codec_facts_##level;                                                                          \
    set_grid_function set_grid_##level;

DECLARE_LEVEL(baseline)
DECLARE_LEVEL(avx2)
DECLARE_LEVEL(avx512)
DECLARE_LEVEL(neon)

/* Names by instruction set: what one file gives to the others of its level. */
#define JOIN_(a, b) a##_##b
#define JOIN(a, b) JOIN_(a, b)
#define LEVEL(name) JOIN(name, KERNEL_LEVEL)

#endif
