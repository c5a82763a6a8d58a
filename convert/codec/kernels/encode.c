/* Encodes one run of weights for every target at once; compiled once for each instruction set.
 *
 * The run is cut into chunks that stay in the first-level cache. Each is brought to float32 once, then goes through
 * every target's encoder. Blocks never cross rows (a row is a whole number of them), so rows need not be known here.
 */
#include "kernels.h"

#include "block32.h"
#include "lanes.h"
#include "narrow.h"
#include "q6_k.h"

#define F16_OVERFLOW 0x477ff000u /* 65520: the least magnitude that rounds to a float16 infinity */

typedef struct {
    float x[CHUNK]; /* zeros after the last weight */
    measures measured;
} __attribute__((aligned(64))) workspace;

INLINE f32v load_bf16(const void *from) {
    return (f32v)(__builtin_convertvector(load_u16(from), u32v) << 16);
}

/* Magnitudes as bits, which order like the magnitudes do; NaN is above infinity. */
INLINE u32v raise_to(u32v largest, f32v x) {
    u32v bits = (u32v)x & splat_u32(0x7fffffffu);
#if LANES_AVX512
    return (u32v)_mm512_max_epu32((__m512i)largest, (__m512i)bits);
#elif LANES_AVX2
    return (u32v)_mm256_max_epu32((__m256i)largest, (__m256i)bits);
#else
    u32v above = (u32v)((i32v)bits > (i32v)largest);
    return (bits & above) | (largest & ~above);
#endif
}

INLINE f32v load_value(const uint8_t *source, int32_t type, int i) {
    if (type == TYPE_F32) return load_f32(source + 4 * i);
    return type == TYPE_F16 ? load_f16(source + 2 * i) : load_bf16(source + 2 * i);
}

/* `type` is a constant at each call. Returns the largest magnitude's bits, lane by lane. */
INLINE u32v widen_type(const uint8_t *source, int32_t type, int n, float *x) {
    const int value_nbytes = type == TYPE_F32 ? 4 : 2, whole = n - n % LANES;
    uint8_t rest[4 * LANES] = {0};
    u32v largest = {0};
    for (int i = 0; i < whole; i += LANES) {
        f32v value = load_value(source, type, i);
        largest = raise_to(largest, value);
        store_f32(x + i, value);
    }
    if (n == whole) return largest;
    memcpy(rest, source + whole * value_nbytes, (size_t)((n - whole) * value_nbytes));
    store_f32(x + whole, load_value(rest, type, 0));
    return raise_to(largest, load_value(rest, type, 0));
}

/* Brings n values to float32, zeros after them. Returns the bits of the largest magnitude. */
static uint32_t widen(const uint8_t *source, int32_t type, int n, float *x) {
    u32v largest;
    if (n < CHUNK) memset(x + n - n % LANES, 0, (size_t)(CHUNK - n + n % LANES) * 4);
    switch (type) {
    case TYPE_F32: largest = widen_type(source, TYPE_F32, n, x); break;
    case TYPE_F16: largest = widen_type(source, TYPE_F16, n, x); break;
    default: largest = widen_type(source, TYPE_BF16, n, x); break;
    }
    uint32_t result = 0;
    for (int i = 0; i < LANES; i++) result = largest[i] > result ? largest[i] : result;
    return result;
}

static void round_through_f16(float *x, int n) {
    for (int i = 0; i < n; i += LANES) {
        uint16_t half[LANES];
        store_f16(half, load_f32(x + i));
        store_f32(x + i, load_f16(half));
    }
}

static __attribute__((noinline)) void count_bad(encode_request *request, const float *x, int n, int to_f16) {
    for (int i = 0; i < n; i++) {
        uint32_t bits;
        memcpy(&bits, x + i, 4);
        bits &= 0x7fffffffu;
        if (bits >= F32_INFINITY)
            request->n_nonfinite++;
        else if (to_f16 && bits >= F16_OVERFLOW)
            request->n_overflow++;
    }
}

static int is_float(int32_t type) { return type == TYPE_F32 || type == TYPE_F16 || type == TYPE_BF16; }

/* first: where in the run the chunk begins; the same formula gives its place in each output. */
static void encode_float(const encode_request *request, const encode_target *target, int64_t first, int n,
                         const float *x) {
    const uint8_t *source = request->source;
    if (target->type == TYPE_F32)
        memcpy(target->out + first * 4, x, (size_t)n * 4);
    else if (target->type == TYPE_BF16)
        narrow_bf16(x, n, target->out + first * 2);
    else if (request->source_type == TYPE_F16)
        memcpy(target->out + first * 2, source + first * 2, (size_t)n * 2);
    else
        narrow_f16(x, n, target->out + first * 2);
}

static void encode_quantized(const encode_target *target, int64_t first, int n, const workspace *w) {
    int n_blocks = n / BLOCK;
    int64_t first_block = first / BLOCK;
    switch (target->type) {
    case TYPE_Q4_0: encode_q4_0(w->x, &w->measured, n_blocks, target->out + first_block * 18); break;
    case TYPE_Q4_1: encode_q4_1(w->x, &w->measured, n_blocks, target->out + first_block * 20); break;
    case TYPE_Q5_0: encode_q5_0(w->x, &w->measured, n_blocks, target->out + first_block * 22); break;
    case TYPE_Q5_1: encode_q5_1(w->x, &w->measured, n_blocks, target->out + first_block * 24); break;
    case TYPE_Q8_0: encode_q8_0(w->x, &w->measured, n_blocks, target->out + first_block * 34); break;
    case TYPE_Q6_K: encode_q6_k(w->x, n / SUPER, target->out + first / SUPER * Q6_K_NBYTES); break;
    default: break;
    }
}

/* What the targets need done to each chunk. */
typedef struct {
    int to_f16;    /* float16 overflow matters */
    int rounding;  /* the weights go through float16 */
    int measuring; /* some target has blocks of 32 */
} needs;

static needs find_needs(const encode_request *request) {
    needs result = {.to_f16 = request->through_f16 != 0};
    for (int64_t t = 0; t < request->n_targets; t++) {
        int32_t type = request->targets[t].type;
        if (type == TYPE_F16) result.to_f16 = 1;
        if (!is_float(type) && request->through_f16 && request->source_type != TYPE_F16) result.rounding = 1;
        if (!is_float(type) && type != TYPE_Q6_K) result.measuring = 1;
    }
    return result;
}

static void encode_chunk(encode_request *request, needs need, int64_t first, int n, workspace *w) {
    int value_nbytes = request->source_type == TYPE_F32 ? 4 : 2;
    uint32_t largest = widen(request->source + first * value_nbytes, request->source_type, n, w->x);
    if (largest >= F16_OVERFLOW) count_bad(request, w->x, n, need.to_f16);
    for (int64_t t = 0; t < request->n_targets; t++)
        if (is_float(request->targets[t].type)) encode_float(request, &request->targets[t], first, n, w->x);
    if (need.rounding) round_through_f16(w->x, n);
    if (need.measuring) measure_blocks(w->x, n / BLOCK, &w->measured);
    for (int64_t t = 0; t < request->n_targets; t++)
        if (!is_float(request->targets[t].type)) encode_quantized(&request->targets[t], first, n, w);
}

void JOIN(encode_, KERNEL_LEVEL)(encode_request *request) {
    workspace w;
    needs need = find_needs(request);
    request->n_nonfinite = request->n_overflow = 0;
    for (int64_t first = 0; first < request->n_values; first += CHUNK) {
        int64_t left = request->n_values - first;
        encode_chunk(request, need, first, left < CHUNK ? (int)left : CHUNK, &w);
    }
}
