/* Q3_K: super-blocks of 256 weights, as 16 sub-blocks of 16; 110 bytes.
 *
 *   32 bytes: bit h of byte i is the high bit of weight 32 * h + i      weight = d * (scales[j] - 32) * (q - 4)
 *   64 bytes: two halves of 128 weights, as runs of 32: a | b << 2 | c << 4 | d << 6, the low two bits
 *   12 bytes: 16 scales of six bits: byte j, the low four of scales[j] and, above, of scales[j + 8], j in 0..7;
 *             byte 8 + j, the high two of scales[j], [j + 4], [j + 8], [j + 12], j in 0..3
 *   d f16
 *
 * Without importance, quants are improved one after the other, an error counting x * x, and the largest scale becomes
 * -32. With, all is searched: an error counts importance * sqrt(2 * mean square + x * x), one in a scale their sum.
 *
 * Source: ggml-quants.c, make_q3_quants, quantize_row_q3_K_ref and _impl @ 0c1e570.
 */
#include "super_block.h"
#include "symmetric.h"

#define Q3_K_NBYTES 110
#define SUB 16
#define N_SUBS 16
#define LIMIT 4
#define SCALE_LIMIT 32
#define N_GROUPS 4 /* improved at once: a step waits for the one before */
#define N_ROUNDS 5

/* LANES super-blocks on their way; [j]: of sub-block j. */
typedef struct {
    float x[N_SUBS][SUB][LANES], w[N_SUBS][SUB][LANES];
    float q[N_SUBS][SUB][LANES]; /* as the search leaves them, -4..3 */
    float scale[N_SUBS][LANES], sum_w[N_SUBS][LANES];
    int32_t scales[N_SUBS][LANES];
    uint16_t d_half[LANES];
    float d[LANES];
} __attribute__((aligned(64))) lanes_of_super_blocks;

/* LANES sub-blocks, as columns; a search of quants -4..3. */
typedef struct {
    const float *x;
    float *q;
    f32v peak_size, sum_x, sum_q;
} q3_group;

INLINE f32v limited(f32v q) { return maximum(minimum(q, splat(LIMIT - 1)), splat(-LIMIT)); }

/* The first guess: the peak becomes -4. */
INLINE void guess(q3_group *g) {
    static const symmetric_search search = {.n = SUB, .limit = LIMIT, .stride = LANES};
    f32v inverse = splat(-LIMIT) / find_peak(g->x, &search, &g->peak_size);
    g->sum_x = g->sum_q = splat(0);
    for (int i = 0; i < SUB * LANES; i += LANES) {
        f32v x = load_f32(g->x + i), w = x * x, q = minimum(nearest(inverse * x), splat(LIMIT - 1));
        store_f32(g->q + i, q);
        g->sum_x = g->sum_x + w * x * q;
        g->sum_q = g->sum_q + w * q * q;
    }
}

/* The lanes whose guess may be improved. Those of a positive peak never are: ggml asks for a positive sum. Until a first weight takes another quant the sums stay as they are, so all
 * weights can be looked at side by side; four lanes of five turn out to be done. A weight keeps its quant if the best one,
 * given the others, is within half a step of it (a difference that is exact), or beyond it at the end of the range. The
 * best is below 2^21, where ggml's nearest_int wraps, if even the peak's would be. */
INLINE i32v may_improve(const q3_group *g) {
    const f32v top = splat(LIMIT - 1 + 0.4f), bottom = splat(-LIMIT - 0.4f);
    f32v least = g->sum_x, most = g->sum_x, farthest = splat(0);
    for (int i = 0; i < SUB * LANES; i += LANES) {
        f32v x = load_f32(g->x + i), w = x * x, q = load_f32(g->q + i);
        f32v rest_x = g->sum_x - w * x * q, rest_q = g->sum_q - w * q * q;
        f32v distance = magnitude(maximum(minimum(x * rest_q / rest_x, top), bottom) - q);
        least = minimum(rest_x, least);
        most = maximum(rest_x, most);
        farthest = maximum(distance, farthest);
    }
    i32v tame = (i32v)(least > splat(0)) & (i32v)(g->peak_size * g->sum_q < least * splat(1048576.0f));
    return ~((i32v)(most <= splat(0)) | ((i32v)(farthest < splat(0.5f)) & tame));
}

/* Gives weight i the quant that is best given the others; returns the lanes where that is another. Where that is seldom,
 * a branch lets the next weight begin before this one's sums are known. */
INLINE i32v improve(q3_group *g, int i, int seldom) {
    const f32v zero = splat(0), x = load_f32(g->x + i), w = x * x, wx = w * x, old = load_f32(g->q + i);
    f32v rest_x = g->sum_x - wx * old, rest_q = g->sum_q - w * old * old;
    f32v new = limited(float_of(nearest_wrapping(x * rest_q / rest_x)));
    i32v differs = (i32v)(rest_x > zero) & (i32v)(new != old);
    if (seldom && !any_lane(differs)) return differs;
    f32v with_x = rest_x + wx * new, with_q = rest_q + w * new * new;
    i32v better = differs & (i32v)(with_q > zero) & (i32v)(with_x * with_x * g->sum_q > g->sum_x * g->sum_x * with_q);
    store_f32(g->q + i, choose(better, new, old));
    g->sum_x = choose(better, with_x, g->sum_x);
    g->sum_q = choose(better, with_q, g->sum_q);
    return better;
}

INLINE void improve_groups(q3_group g[N_GROUPS]) {
    for (int round = 0; round < N_ROUNDS; round++) {
        i32v changed = {0};
        for (int i = 0; i < SUB * LANES; i += LANES)
            for (int k = 0; k < N_GROUPS; k++) changed |= improve(&g[k], i, round > 0);
        if (!any_lane(changed)) return; /* a lane that did not change will not */
    }
}

/* Parity: a sub-block of (almost) zeros has the lowest quants, not those of zeros. */
static void clear(q3_group *g, i32v empty) {
    for (int i = 0; i < SUB * LANES; i += LANES)
        store_f32(g->q + i, choose(empty, splat(-LIMIT), load_f32(g->q + i)));
}

INLINE f32v scale_of(const q3_group *g) {
    f32v zero = splat(0), scale = select_gt(g->sum_q, zero, g->sum_x / g->sum_q, zero);
    return select_gt(splat(TINY), g->peak_size, zero, scale);
}

/* Sub-blocks that are still to be improved: sub-block j of lane k. */
typedef struct {
    uint8_t j[N_SUBS * LANES], k[N_SUBS * LANES];
    int n;
} q3_pending;

/* Improves up to N_GROUPS * LANES sub-blocks from `first` on, gathered from wherever they are. x: the super-blocks. */
static __attribute__((noinline)) void improve_pending(lanes_of_super_blocks *s, const float *x,
                                                      const q3_pending *pending, int first) {
    float gathered[N_GROUPS][LANES][SUB] __attribute__((aligned(64))) = {0};
    float columns[N_GROUPS][SUB][LANES] __attribute__((aligned(64))), q[N_GROUPS][SUB][LANES];
    q3_group g[N_GROUPS];
    int n = pending->n - first < N_GROUPS * LANES ? pending->n - first : N_GROUPS * LANES;
    for (int p = 0; p < n; p++)
        memcpy(gathered[p / LANES][p % LANES], x + pending->k[first + p] * SUPER + pending->j[first + p] * SUB,
               SUB * sizeof(float));
    for (int i = 0; i < N_GROUPS; i++) {
        f32v tile[LANES];
        for (int at = 0; at < SUB; at += LANES) {
            corner_turn(&gathered[i][0][at], SUB, tile);
            for (int k = 0; k < LANES; k++) store_f32(columns[i][at + k], tile[k]);
        }
        g[i] = (q3_group){.x = columns[i][0], .q = q[i][0]};
        guess(&g[i]);
    }
    improve_groups(g);
    for (int i = 0; i < N_GROUPS; i++) {
        f32v scale = scale_of(&g[i]);
        for (int lane = 0; lane < LANES && i * LANES + lane < n; lane++) {
            int j = pending->j[first + i * LANES + lane], k = pending->k[first + i * LANES + lane];
            s->scale[j][k] = scale[lane];
            for (int at = 0; at < SUB; at++) s->q[j][at][k] = q[i][at][lane];
        }
    }
}

INLINE void search_plain(lanes_of_super_blocks *s, const float *x) {
    q3_pending pending = {.n = 0};
    for (int j = 0; j < N_SUBS; j++) {
        q3_group g = {.x = s->x[j][0], .q = s->q[j][0]};
        guess(&g);
        store_f32(s->scale[j], scale_of(&g));
        i32v empty = (i32v)(g.peak_size < splat(TINY)), improvable = may_improve(&g) & ~empty;
        if (any_lane(empty)) clear(&g, empty);
        if (!any_lane(improvable)) continue;
        for (int k = 0; k < LANES; k++) {
            pending.j[pending.n] = (uint8_t)j, pending.k[pending.n] = (uint8_t)k;
            pending.n -= improvable[k];
        }
    }
    for (int first = 0; first < pending.n; first += N_GROUPS * LANES) improve_pending(s, x, &pending, first);
}

INLINE void search_weighted(lanes_of_super_blocks *s) {
    static const symmetric_search search = {.n = SUB, .limit = LIMIT, .stride = LANES};
    for (int j = 0; j < N_SUBS; j++) {
        symmetric_fit fit = search_symmetric(s->x[j][0], s->w[j][0], &search);
        f32v sum = {0};
        store_f32(s->scale[j], fit.scale);
        for (int i = 0; i < SUB; i++) {
            sum = sum + load_f32(s->w[j][i]);
            store_f32(s->q[j][i], quants_of_fit(load_f32(s->x[j][i]), fit, LIMIT) - splat(LIMIT));
        }
        store_f32(s->sum_w[j], sum);
    }
}

/* The scale of largest magnitude becomes -32. Parity: rounded scales pass through a signed byte. */
INLINE void round_scales(lanes_of_super_blocks *s) {
    static const symmetric_search search = {.n = N_SUBS, .limit = SCALE_LIMIT, .stride = LANES};
    f32v size, peak = find_peak(s->scale[0], &search, &size), inverse = splat(-SCALE_LIMIT) / peak;
    i32v any = (i32v)(peak != splat(0));
    for (int j = 0; j < N_SUBS; j++) {
        i32v q = nearest_wrapping(inverse * load_f32(s->scale[j])) << 24 >> 24;
        f32v in_range = maximum(minimum(float_of(q), splat(SCALE_LIMIT - 1)), splat(-SCALE_LIMIT)) + splat(SCALE_LIMIT);
        store_i32(s->scales[j], __builtin_convertvector(in_range, i32v) & any);
    }
    store_rounded(choose(any, splat(1) / inverse, splat(0)), s->d_half, s->d);
}

INLINE void fit_scales(lanes_of_super_blocks *s) {
    static const symmetric_search search = {.n = N_SUBS, .limit = SCALE_LIMIT, .stride = LANES, .wild = 1};
    symmetric_fit fit = search_symmetric(s->scale[0], s->sum_w[0], &search);
    for (int j = 0; j < N_SUBS; j++) {
        f32v q = quants_of_fit(load_f32(s->scale[j]), fit, SCALE_LIMIT);
        store_i32(s->scales[j], __builtin_convertvector(q, i32v));
    }
    store_rounded(fit.scale, s->d_half, s->d);
}

static void store_scales(const lanes_of_super_blocks *s, int k, uint8_t *packed) {
    unsigned q[N_SUBS];
    for (int j = 0; j < N_SUBS; j++) q[j] = (unsigned)s->scales[j][k];
    for (int j = 0; j < 8; j++) packed[j] = (uint8_t)((q[j] & 15) | (q[j + 8] & 15) << 4);
    for (int j = 0; j < 4; j++)
        packed[8 + j] = (uint8_t)(q[j] >> 4 | q[j + 4] >> 4 << 2 | q[j + 8] >> 4 << 4 | q[j + 12] >> 4 << 6);
}

/* Sub-blocks j and j + 1 of lane k, whose weights are x; where the scale came out as zero, as the search left them. */
INLINE bytes32 quantize_pair(const lanes_of_super_blocks *s, const float *x, int j, int k) {
    f32v v[BLOCK_VECTORS];
    for (int i = 0; i < BLOCK_VECTORS; i++) {
        int sub = j + i * LANES / SUB, first = i * LANES % SUB;
        float divisor = s->d[k] * (float)(s->scales[sub][k] - SCALE_LIMIT);
        if (divisor != 0) v[i] = quants_from_zero(load_f32(x + j * SUB + i * LANES) / splat(divisor), LIMIT);
        else
            for (int lane = 0; lane < LANES; lane++) v[i][lane] = s->q[sub][first + lane][k] + LIMIT;
    }
    return truncate_to_bytes(v);
}

INLINE void store_super_block(const lanes_of_super_blocks *s, const float *x, int k, uint8_t *out) {
    bytes32 high = {{0}, {0}};
    for (int half = 0; half < 2; half++) {
        bytes32 q[4];
        for (int i = 0; i < 4; i++) {
            q[i] = quantize_pair(s, x, half * 8 + i * 2, k);
            high.lo |= q[i].lo >> 2 << (half * 4 + i);
            high.hi |= q[i].hi >> 2 << (half * 4 + i);
            q[i].lo &= 3;
            q[i].hi &= 3;
        }
        store_u8x16(out + 32 + half * 32, q[0].lo | q[1].lo << 2 | q[2].lo << 4 | q[3].lo << 6);
        store_u8x16(out + 48 + half * 32, q[0].hi | q[1].hi << 2 | q[2].hi << 4 | q[3].hi << 6);
    }
    store_u8x16(out, high.lo);
    store_u8x16(out + 16, high.hi);
    store_scales(s, k, out + 96);
    memcpy(out + 108, s->d_half + k, 2);
}

static void store_lanes(const lanes_of_super_blocks *s, const chunk *c, int first, uint8_t *out) {
    for (int k = first; k < first + LANES && k < c->n / SUPER; k++)
        store_super_block(s, c->x + k * SUPER, k - first, out + k * Q3_K_NBYTES);
}

static void encode_q3_k(chunk *c, uint8_t *out) {
    lanes_of_super_blocks s;
    for (int first = 0; first < c->n / SUPER; first += LANES) {
        turn_super_blocks(c->x + first * SUPER, s.x[0][0]);
        search_plain(&s, c->x + first * SUPER);
        round_scales(&s);
        store_lanes(&s, c, first, out);
    }
}

static void encode_q3_k_weighted(chunk *c, uint8_t *out) {
    lanes_of_super_blocks s;
    for (int first = 0; first < c->n / SUPER; first += LANES) {
        turn_super_blocks(c->x + first * SUPER, s.x[0][0]);
        weigh_by_importance(s.x[0][0], c->importance + first * SUPER, s.w[0][0], 2);
        search_weighted(&s);
        fit_scales(&s);
        store_lanes(&s, c, first, out);
    }
}

static void decode_q3_k(const uint8_t *b, float *x) {
    const float d = load_half(b + 108);
    const uint8_t *scales = b + 96;
    for (int j = 0; j < N_SUBS; j++) {
        const uint8_t *q = b + 32 + j / 8 * 32 + j % 2 * 16, *high = b + j % 2 * 16; /* a run is two sub-blocks */
        int six = (scales[j % 8] >> (j / 8 * 4) & 15) | (scales[8 + j % 4] >> (j / 4 * 2) & 3) << 4;
        float scale = d * (float)(six - SCALE_LIMIT);
        for (int i = 0; i < SUB; i++) {
            int quant = (q[i] >> (j % 8 / 2 * 2) & 3) | (high[i] >> (j / 2) & 1) << 2;
            x[j * SUB + i] = scale * (float)(quant - LIMIT);
        }
    }
}

const codec LEVEL(q3_k) = {
    TYPE_Q3_K, SUPER, Q3_K_NBYTES, .encode = encode_q3_k, .encode_weighted = encode_q3_k_weighted,
    .decode = decode_q3_k};
