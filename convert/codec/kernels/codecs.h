/* The table of types. To add one: a file that ends with its row (`const codec LEVEL(q9_z) = {...}`), and its name here.
 *
 * A row's functions see one chunk of weights at a time, whole blocks of it, already float32 (and rounded to float16, if
 * that was asked for). Chunks cross rows; what depends on the row is given block by block.
 */
#ifndef CONVERT_CODECS_H
#define CONVERT_CODECS_H

#include "bytes.h"
#include "kernels.h"

#define CODECS(ROW)                                                                                                    \
    ROW(q4_0) ROW(q4_1) ROW(q5_0) ROW(q5_1) ROW(q8_0) ROW(q2_k) ROW(q3_k) ROW(q4_k) ROW(q5_k) ROW(q6_k)                \
    ROW(mxfp4) ROW(nvfp4) ROW(tq1_0) ROW(tq2_0) ROW(q1_0) ROW(q2_0)                                                    \
    ROW(iq4_nl) ROW(iq4_xs) ROW(iq3_xxs) ROW(iq3_s) ROW(iq2_xxs) ROW(iq2_xs) ROW(iq2_s) ROW(iq1_s) ROW(iq1_m)

#define TINY 1e-15f /* GROUP_MAX_EPS: what is below counts as nothing */

#define CHUNK 4096 /* a multiple of every block; the weights stay in the first-level cache */
#define CHUNK_BLOCKS (CHUNK / BLOCK)

/* Of each block of 32 weights; LANES blocks at a time, so there is room for a whole number of lanes. */
typedef struct {
    float lowest[CHUNK_BLOCKS];  /* a zero has the sign of the block's first zero */
    float highest[CHUNK_BLOCKS]; /* never -0 where `lowest` is a zero */
    float peak[CHUNK_BLOCKS];    /* the first weight of largest magnitude, with its sign; +0 in a block of zeros */
} measures;

typedef struct {
    float x[CHUNK];                /* n weights, then zeros */
    float importance[CHUNK];       /* of each weight's column, then zeros; only for `encode_weighted` */
    float row_power[CHUNK_BLOCKS]; /* of the row that a block of 32 is in, the mean square; only where it is wanted */
    measures measured;             /* only where the codec wants it */
    int n;                         /* a multiple of the codec's block */
    int n_refused;                 /* to be raised by a codec, for each block on which ggml's encoder aborts */
} __attribute__((aligned(64))) chunk;

typedef void encode_blocks(chunk *c, uint8_t *out);

typedef void decode_block(const uint8_t *block, float *x);

typedef struct {
    int32_t type, block, nbytes;
    int wants_measures;             /* `encode` reads c->measured */
    int wants_row_power;            /* `encode_weighted` reads c->row_power */
    encode_blocks *encode;          /* NULL where ggml does not encode without importance */
    encode_blocks *encode_weighted; /* NULL where importance changes nothing */
    decode_block *decode;
} codec;

#define DECLARE_CODEC(name) extern const codec LEVEL(name);
CODECS(DECLARE_CODEC)
#undef DECLARE_CODEC

/* NULL for a type without blocks. codecs.c */
const codec *LEVEL(find_codec)(int32_t type);

/* Measures n_blocks blocks of 32; room for a multiple of LANES blocks must be readable. block32.c */
void LEVEL(measure_blocks)(const float *x, int n_blocks, measures *m);

#endif
