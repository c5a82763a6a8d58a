/* Encodes one run of weights for every target at once; compiled once for each instruction set.
 *
 * The run is cut into chunks that stay in the first-level cache. Each is brought to float32 once, then goes through
 * every target's encoder. Blocks never cross rows (a row is a whole number of them), so chunks may; only importance is
 * of rows. Where a type needs the mean square of whole rows, those of LANES rows are computed before their chunks.
 */
#include "codecs.h"

#include <stddef.h>

#include "narrow.h"

#define F16_OVERFLOW 0x477ff000u /* 65520: the least magnitude that rounds to a float16 infinity */

INLINE int float_nbytes(int32_t type) { return type == TYPE_F32 ? 4 : 2; }

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
    const int value_nbytes = float_nbytes(type), whole = n - n % LANES;
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

static u32v widen_part(const uint8_t *source, int32_t type, int n, float *x) {
    if (type == TYPE_F32) return widen_type(source, TYPE_F32, n, x);
    return type == TYPE_F16 ? widen_type(source, TYPE_F16, n, x) : widen_type(source, TYPE_BF16, n, x);
}

/* Brings n values to float32, zeros after them. Returns the bits of the largest magnitude. */
static uint32_t widen(const uint8_t *source, int32_t type, int n, float *x) {
    if (n < CHUNK) memset(x + n - n % LANES, 0, (size_t)(CHUNK - n + n % LANES) * 4);
    u32v largest = widen_part(source, type, n, x);
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

/* What the targets need done to each chunk. */
typedef struct {
    int to_f16;    /* float16 overflow matters */
    int rounding;  /* the weights go through float16 */
    int weighting; /* some target's blocks depend on importance */
    int measuring; /* some target wants its blocks of 32 measured */
    int row_power; /* some target wants the mean square of rows */
} needs;

static int is_weighted(const encode_request *request, const codec *row) {
    return request->importance != NULL && row->encode_weighted != NULL;
}

static needs find_needs(const encode_request *request) {
    needs result = {.to_f16 = request->through_f16 != 0};
    for (int64_t t = 0; t < request->n_targets; t++) {
        const codec *row = LEVEL(find_codec)(request->targets[t].type);
        if (request->targets[t].type == TYPE_F16) result.to_f16 = 1;
        if (row == NULL) continue;
        int weighted = is_weighted(request, row);
        result.rounding |= request->through_f16 && request->source_type != TYPE_F16;
        result.weighting |= weighted;
        result.measuring |= !weighted && row->wants_measures;
        result.row_power |= weighted && row->wants_row_power;
    }
    return result;
}

/* The importance of the columns that the chunk's weights are in. */
static void spread_importance(const encode_request *request, int64_t first, chunk *c) {
    for (int i = 0, run; i < c->n; i += run) {
        int64_t row = (first + i) / request->n_cols, column = (first + i) % request->n_cols;
        const float *of_row = request->importance + (request->first_row + row) / request->rows_each * request->n_cols;
        run = request->n_cols - column < c->n - i ? (int)(request->n_cols - column) : c->n - i;
        memcpy(c->importance + i, of_row + column, (size_t)run * 4);
    }
    memset(c->importance + c->n, 0, (size_t)(CHUNK - c->n) * 4);
}

static void encode_chunk(encode_request *request, needs need, int64_t first, chunk *c) {
    uint32_t largest = widen(request->source + first * float_nbytes(request->source_type), request->source_type, c->n, c->x);
    if (largest >= F16_OVERFLOW) count_bad(request, c->x, c->n, need.to_f16);
    for (int64_t t = 0; t < request->n_targets; t++)
        if (LEVEL(find_codec)(request->targets[t].type) == NULL)
            encode_float(request, &request->targets[t], first, c->n, c->x);
    if (need.rounding) round_through_f16(c->x, c->n);
    if (need.weighting) spread_importance(request, first, c);
    if (need.measuring) LEVEL(measure_blocks)(c->x, c->n / BLOCK, &c->measured);
    for (int64_t t = 0; t < request->n_targets; t++) {
        const codec *row = LEVEL(find_codec)(request->targets[t].type);
        if (row == NULL) continue;
        encode_blocks *encode = is_weighted(request, row) ? row->encode_weighted : row->encode;
        encode(c, request->targets[t].out + first / row->block * row->nbytes);
    }
}

/* The mean squares of up to LANES rows, each summed in order: a lane is a row, so that the sums do not wait for
 * themselves. At `first` the first row begins. */
static void measure_rows(const encode_request *request, needs need, int64_t first, int n_rows, chunk *c, float *power) {
    const int step = CHUNK / LANES, value_nbytes = float_nbytes(request->source_type);
    f32v sum = splat(0), tile[LANES];
    memset(c->x, 0, sizeof c->x);
    for (int64_t column = 0; column < request->n_cols; column += step) {
        int width = request->n_cols - column < step ? (int)(request->n_cols - column) : step;
        for (int row = 0; row < n_rows; row++) {
            const uint8_t *source = request->source + (first + row * request->n_cols + column) * value_nbytes;
            widen_part(source, request->source_type, width, c->x + row * step);
        }
        if (need.rounding) round_through_f16(c->x, CHUNK);
        for (int i = 0; i < width; i += LANES) {
            corner_turn(c->x + i, step, tile);
            for (int k = 0; k < LANES; k++) sum = sum + tile[k] * tile[k];
        }
    }
    store_f32(power, sum / splat((float)request->n_cols));
}

/* How many weights are encoded between two looks at whole rows. */
static int64_t values_at_once(const encode_request *request, needs need) {
    return need.row_power ? LANES * request->n_cols : request->n_values;
}

void LEVEL(encode)(encode_request *request) {
    chunk c;
    float power[LANES];
    needs need = find_needs(request);
    request->n_nonfinite = request->n_overflow = c.n_refused = 0;
    for (int64_t first = 0, end; first < request->n_values; first = end) {
        end = first + values_at_once(request, need);
        if (end > request->n_values) end = request->n_values;
        if (need.row_power)
            measure_rows(request, need, first, (int)((end - first) / request->n_cols), &c, power);
        for (int64_t at = first; at < end; at += CHUNK) {
            c.n = end - at < CHUNK ? (int)(end - at) : CHUNK;
            for (int k = 0; need.row_power && k < CHUNK_BLOCKS; k++)
                c.row_power[k] = k < c.n / BLOCK ? power[(at - first + k * BLOCK) / request->n_cols] : 0;
            encode_chunk(request, need, at, &c);
        }
    }
    request->n_refused = c.n_refused;
}
