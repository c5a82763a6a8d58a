/* Decodes weights packed in four bits each: an index into 16 numbers, times the scale of the weight's block; compiled
 * once for each instruction set.
 *
 *     byte i      high nibble: weight 2 i, low nibble: weight 2 i + 1, counted over the flattened tensor
 *     weight      code[nibble] * absmax[block], one float32 product, rounded to the output's type
 *
 * A block knows only 16 products. They are computed and rounded once a block, and each weight picks one.
 * Source: bitsandbytes 0.50.2, functional.py, dequantize_4bit; Dettmers et al., QLoRA (2023), section 3.
 */
#include "kernels.h"

#include "lanes.h"
#include "narrow.h"

#define N_CODES 16

typedef struct {
    uint8_t low[16], high[16]; /* the bytes of the 16 products, for two-byte types */
    uint8_t whole[4 * N_CODES];
} products;

static products find_products(const float *code, float scale, int32_t type) {
    products result;
    float x[N_CODES];
    for (int i = 0; i < N_CODES; i++) x[i] = code[i] * scale;
    if (type == TYPE_F32) memcpy(result.whole, x, sizeof x);
    else if (type == TYPE_F16) narrow_f16(x, N_CODES, result.whole);
    else narrow_bf16(x, N_CODES, result.whole);
    for (int i = 0; i < N_CODES; i++) {
        result.low[i] = result.whole[2 * i];
        result.high[i] = result.whole[2 * i + 1];
    }
    return result;
}

static uint8_t nibble(const uint8_t *packed, int64_t index) {
    return index % 2 == 0 ? packed[index / 2] >> 4 : packed[index / 2] & 15;
}

/* Weights first..first + n of one block, one at a time; `size` is a constant at each call. */
INLINE void pick(const products *p, const uint8_t *packed, int64_t first, int64_t n, int size, uint8_t *out) {
    for (int64_t i = 0; i < n; i++) memcpy(out + i * size, p->whole + nibble(packed, first + i) * size, (size_t)size);
}

#if LANES_AVX512 || LANES_AVX2
/* 32 weights of a two-byte type, from 16 whole bytes. */
INLINE void pick_32(const products *p, const uint8_t *packed, uint8_t *out) {
    __m128i low = _mm_loadu_si128((const __m128i *)p->low), high = _mm_loadu_si128((const __m128i *)p->high);
    __m128i bytes = _mm_loadu_si128((const __m128i *)packed), four_bits = _mm_set1_epi8(15);
    __m128i even = _mm_and_si128(_mm_srli_epi16(bytes, 4), four_bits), odd = _mm_and_si128(bytes, four_bits);
    __m128i indices[2] = {_mm_unpacklo_epi8(even, odd), _mm_unpackhi_epi8(even, odd)};
    for (int i = 0; i < 2; i++) {
        __m128i l = _mm_shuffle_epi8(low, indices[i]), h = _mm_shuffle_epi8(high, indices[i]);
        _mm_storeu_si128((__m128i *)(out + 32 * i), _mm_unpacklo_epi8(l, h));
        _mm_storeu_si128((__m128i *)(out + 32 * i + 16), _mm_unpackhi_epi8(l, h));
    }
}
#define PICKED_AT_ONCE 32
#else
#define pick_32(p, packed, out) ((void)0)
#define PICKED_AT_ONCE INT64_MAX
#endif

static void decode_run(const products *p, const uint8_t *packed, int64_t first, int64_t n, int size, uint8_t *out) {
    int64_t done = 0;
    if (size == 4) {
        pick(p, packed, first, n, 4, out);
        return;
    }
    if (first % 2 == 0)
        for (; n - done >= PICKED_AT_ONCE; done += 32) pick_32(p, packed + (first + done) / 2, out + 2 * done);
    pick(p, packed, first + done, n - done, 2, out + 2 * done);
}

void LEVEL(decode_4bit)(const decode_4bit_request *request) {
    int size = request->type == TYPE_F32 ? 4 : 2;
    int64_t in_block = request->first_in_block;
    for (int64_t done = 0, block = 0; done < request->n_values; block++, in_block = 0) {
        int64_t n = request->block_size - in_block;
        if (n > request->n_values - done) n = request->n_values - done;
        products p = find_products(request->code, request->absmax[block], request->type);
        decode_run(&p, request->packed, request->first_in_packed + done, n, size, request->out + size * done);
        done += n;
    }
}
