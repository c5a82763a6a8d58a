/* IQ1_S and IQ1_M: super-blocks of 256 weights; eight weights are a point of a grid of three levels, and the levels stand
 * for -1, 0, 1, all of them shifted up or down by an eighth.
 *
 *   IQ1_S   50 bytes   d f16 | 32 points, low bytes | 8 x (4 x 3 high bits, 3 bits of scale, shift)
 *   IQ1_M   56 bytes   32 points, low bytes | 32 x (3 high bits, shift) | 4 x (4 x 3 bits of scale, 4 bits of d f16)
 *
 * IQ1_S has 8 sub-blocks of 32, IQ1_M 16 of 16 whose halves are shifted each its own way. With three levels the best
 * split can be searched whole: the weights are sorted, and from sums up to each place in that order the fit of every
 * pair of places follows. A lane is a sub-block, so each lane's candidates come in ggml's order; what is off the grid
 * then gives way to the near point of least error, where a lane is a near point (grid_search.h).
 *
 * Source: ggml-quants.c, quantize_row_iq1_{s,m}_impl and iq1_find_best_neighbour2 @ 0c1e570.
 */
#include "grid_decode.h"
#include "grid_search.h"

#define IQ1_S_NBYTES 50
#define IQ1_M_NBYTES 56
#define SHIFT 0.125f /* IQ1S_DELTA, IQ1M_DELTA */
#define MOST 32

static const search near_points = {.dims = 8, .bits = 2};

/* LANES sub-blocks of n weights, a column for each weight. */
typedef struct {
    f32v x[MOST], w[MOST], wx[MOST];
    i32v rank[MOST];                     /* a weight's place in ascending order; of equals, the first comes first */
    f32v sum_x[2][MOST + 1], sum_w[2][MOST + 1]; /* of the weights before each place; IQ1_M: of each half's */
    f32v best, scale;
    i32v split, split2, kind; /* the places, and which shifts; kind is -1 where no split is any good */
} lanes;

/* What a sub-block becomes. */
typedef struct {
    float scale;
    int kind; /* bit h: half h is shifted down; IQ1_S: both or none. Of a dead sub-block, 0 */
    uint16_t index[4];
    int refused;
} sub;

static void load_columns(lanes *l, const float *x, const float *w, int n) {
    for (int i = 0; i < n; i += LANES) {
        corner_turn(x + i, n, l->x + i);
        corner_turn(w + i, n, l->w + i);
    }
    for (int i = 0; i < n; i++) l->wx[i] = l->w[i] * l->x[i];
}

static void rank_weights(lanes *l, int n) {
    for (int i = 0; i < n; i++) l->rank[i] = splat_i32(i);
    for (int i = 0; i < n; i++) {
        i32v rank = l->rank[i];
        for (int j = i + 1; j < n; j++) {
            i32v after = greater(l->x[i], l->x[j]);
            rank = rank - after;
            l->rank[j] = l->rank[j] + after;
        }
        l->rank[i] = rank;
    }
}

/* Sums in ascending order of the weights. In halves, what belongs to the other half adds 0. */
static void sum_sorted(lanes *l, int n, int n_halves) {
    for (int h = 0; h < n_halves; h++) {
        float wx[MOST][LANES], w[MOST][LANES];
        if (n_halves > 1) memset(wx, 0, (size_t)n * sizeof wx[0]), memset(w, 0, (size_t)n * sizeof w[0]);
        for (int i = h * n / n_halves; i < (h + 1) * n / n_halves; i++)
            for (int k = 0; k < LANES; k++) {
                wx[l->rank[i][k]][k] = l->wx[i][k];
                w[l->rank[i][k]][k] = l->w[i][k];
            }
        l->sum_x[h][0] = l->sum_w[h][0] = splat(0);
        for (int i = 0; i < n; i++) {
            l->sum_x[h][i + 1] = l->sum_x[h][i] + load_f32(wx[i]);
            l->sum_w[h][i + 1] = l->sum_w[h][i] + load_f32(w[i]);
        }
    }
}

/* Whether a fit may be better than the best: a fit of nothing may seem so. */
INLINE i32v beats(f32v qx, f32v q2, f32v best) { return greater(qx * qx, best * q2); }

INLINE void keep_split(lanes *l, f32v qx, f32v q2, int first, int second, int kind) {
    i32v better = beats(qx, q2, l->best) & greater(q2, splat(0));
    if (!any_lane(better)) return;
    f32v scale = qx / q2;
    l->scale = choose(better, scale, l->scale);
    l->best = choose(better, scale * qx, l->best);
    l->split = choose_i32(better, splat_i32(first), l->split);
    l->split2 = choose_i32(better, splat_i32(second), l->split2);
    l->kind = choose_i32(better, splat_i32(kind), l->kind);
}

static void begin_search(lanes *l) {
    l->best = splat(-FLT_MAX);
    l->scale = splat(0);
    l->split = l->split2 = splat_i32(0);
    l->kind = splat_i32(-1);
}

/* Parity: sums of three products each, added from the left; the middle product is the same for both shifts but for the
 * sign. */
static void search_splits_s(lanes *l) {
    enum { n = 32 };
    const f32v *sx = l->sum_x[0], *sw = l->sum_w[0];
    const f32v low = splat(1 - SHIFT), high = splat(1 + SHIFT), shift = splat(SHIFT);
    f32v end_up[n + 1], end_down[n + 1], end2_up[n + 1], end2_down[n + 1];
    for (int i = 0; i <= n; i++) {
        f32v rest = sx[n] - sx[i], rest_w = sw[n] - sw[i];
        end_up[i] = rest * high;
        end_down[i] = rest * low;
        end2_up[i] = rest_w * high * high;
        end2_down[i] = rest_w * low * low;
    }
    for (int first = 0; first <= n; first++) {
        f32v x = sx[first], w = sw[first], best = l->best;
        f32v begin_up = x * -low, begin_down = x * -high, begin2_up = w * -low * -low, begin2_down = w * -high * -high;
        for (int second = first; second <= n; second++) {
            f32v middle = (sx[second] - x) * shift, middle2 = (sw[second] - w) * shift * shift;
            f32v qx_up = begin_up + middle + end_up[second], q2_up = begin2_up + middle2 + end2_up[second];
            f32v qx_down = begin_down - middle + end_down[second], q2_down = begin2_down + middle2 + end2_down[second];
            if (!any_lane(beats(qx_up, q2_up, best) | beats(qx_down, q2_down, best))) continue;
            keep_split(l, qx_up, q2_up, first, second, 0);
            keep_split(l, qx_down, q2_down, first, second, 3);
            best = l->best;
        }
    }
}

/* Of one half: what a split sums to, shifted up and down. */
typedef struct {
    f32v qx_up, qx_down, q2_up, q2_down;
} half_sums;

/* Parity: the sums of a half collapse to a difference, see ggml's own comment. */
static void search_splits_m(lanes *l) {
    enum { n = 16 };
    const f32v up = splat(1 + SHIFT), down = splat(1 - SHIFT);
    const f32v up1 = splat(0.75f), up2 = splat(-1.25f), down1 = splat(1.25f), down2 = splat(-0.75f);
    f32v end_up[2][n + 1], end_down[2][n + 1];
    for (int h = 0; h < 2; h++)
        for (int i = 0; i <= n; i++) end_up[h][i] = l->sum_w[h][i] * up2, end_down[h][i] = l->sum_w[h][i] * down2;
    for (int first = 0; first <= n; first++) {
        f32v best = l->best, x[2] = {l->sum_x[0][first], l->sum_x[1][first]};
        half_sums begin[2], sums[2];
        for (int h = 0; h < 2; h++) {
            f32v all_x = l->sum_x[h][n], all_w = l->sum_w[h][n], w = l->sum_w[h][first];
            begin[h] = (half_sums){all_x * up, all_x * down, all_w * up * up + w * up1, all_w * down * down + w * down1};
        }
        for (int second = first; second <= n; second++) {
            f32v qx[4], q2[4];
            i32v better = splat_i32(0);
            for (int h = 0; h < 2; h++) {
                f32v taken = x[h] + l->sum_x[h][second];
                sums[h] = (half_sums){begin[h].qx_up - taken, begin[h].qx_down - taken,
                                      begin[h].q2_up + end_up[h][second], begin[h].q2_down + end_down[h][second]};
            }
            for (int k = 0; k < 4; k++) {
                qx[k] = (k < 2 ? sums[0].qx_up : sums[0].qx_down) + (k % 2 ? sums[1].qx_down : sums[1].qx_up);
                q2[k] = (k < 2 ? sums[0].q2_up : sums[0].q2_down) + (k % 2 ? sums[1].q2_down : sums[1].q2_up);
                better |= beats(qx[k], q2[k], best);
            }
            if (!any_lane(better)) continue;
            for (int k = 0; k < 4; k++) keep_split(l, qx[k], q2[k], first, second, k / 2 | k % 2 << 1);
            best = l->best;
        }
    }
}

/* A negative scale is turned around, and levels and shifts with it. */
static void make_points(lanes *l, int n, u32v points[4]) {
    i32v negative = greater(splat(0), l->scale);
    l->scale = magnitude(l->scale);
    l->kind = l->kind ^ (negative & 3);
    for (int k = 0; k < n / 8; k++) points[k] = splat_u32(0);
    for (int i = 0; i < n; i++) {
        i32v before = (i32v)(l->rank[i] < l->split), before2 = (i32v)(l->rank[i] < l->split2);
        i32v level = 2 + before + before2, turned = -(before + before2);
        points[i / 8] |= (u32v)choose_i32(negative, turned, level) << 2 * (i % 8);
    }
}

INLINE float shift_of(int kind, int half) { return kind >> half & 1 ? -SHIFT : SHIFT; }

/* The points on the grid of one sub-block. Returns 1 if ggml finds none: it then reads what lies behind its weights. */
static int settle(const float *x, const float *w, int n, float scale, int kind, const uint32_t *points, uint16_t *settled,
                  int *all_on_grid) {
    const grid *g = &LEVEL(grid_iq1);
    for (int k = 0; k < n / 8; k++) {
        float shift = shift_of(kind, k / (n / 16)), numbers[8];
        place at = place_of(g, 2, points[k]);
        settled[k] = (uint16_t)points[k];
        if (at.index >= 0) continue;
        *all_on_grid = 0;
        for (int i = 0; i < 8; i++) numbers[i] = (float)(i % 4 - 1) + shift;
        int32_t near = best_near_point(g, at, near_points, load_eight(numbers), x + 8 * k, w + 8 * k, scale);
        if (near < 0) return 1;
        settled[k] = (uint16_t)near;
    }
    return 0;
}

/* The scale that fits the settled points. */
static f32v fit_lanes(const lanes *l, int n, const u32v *points) {
    f32v qx = splat(0), q2 = splat(0);
    for (int i = 0; i < n; i++) {
        i32v level = (i32v)(points[i / 8] >> 2 * (i % 8) & 3);
        i32v down = -(l->kind >> i / (n / 2) & 1);
        f32v shift = choose(down, splat(-SHIFT - 1), splat(SHIFT - 1));
        f32v q = float_of(level) + shift;
        qx = qx + l->w[i] * q * l->x[i];
        q2 = q2 + l->w[i] * q * q;
    }
    const f32v zero = splat(0);
    i32v fits = greater(qx, zero) & greater(q2, zero);
    return choose(fits, qx / q2, l->scale);
}

/* LANES sub-blocks from x on. */
static void encode_lanes(const float *x, const float *w, int n, float tiny, sub subs[LANES]) {
    lanes l;
    u32v points[4], fitted[4];
    uint16_t settled[LANES][4];
    int all_on_grid[LANES];
    float scale[LANES], refit[LANES], largest[LANES];
    load_columns(&l, x, w, n);
    f32v most = magnitude(l.x[0]);
    for (int i = 1; i < n; i++) most = maximum(most, magnitude(l.x[i]));
    store_f32(largest, most);
    rank_weights(&l, n);
    sum_sorted(&l, n, n == 32 ? 1 : 2);
    begin_search(&l);
    if (n == 32)
        search_splits_s(&l);
    else
        search_splits_m(&l);
    i32v found = ~(i32v)(l.kind < 0);
    make_points(&l, n, points);
    store_f32(scale, l.scale);
    memset(settled, 0, sizeof settled);
    for (int k = 0; k < LANES; k++) {
        uint32_t of_lane[4] = {points[0][k], points[1][k], n == 32 ? points[2][k] : 0, n == 32 ? points[3][k] : 0};
        subs[k] = (sub){0};
        all_on_grid[k] = 1;
        if (largest[k] < tiny || !found[k]) continue;
        subs[k].kind = l.kind[k];
        subs[k].refused = settle(x + k * n, w + k * n, n, scale[k], l.kind[k], of_lane, settled[k], &all_on_grid[k]);
    }
    for (int j = 0; j < n / 8; j++)
        for (int k = 0; k < LANES; k++) fitted[j][k] = settled[k][j];
    store_f32(refit, fit_lanes(&l, n, fitted));
    for (int k = 0; k < LANES; k++) {
        if (largest[k] < tiny || !found[k]) continue;
        subs[k].scale = all_on_grid[k] ? scale[k] : refit[k];
        subs[k].refused |= subs[k].scale != subs[k].scale;
        for (int j = 0; j < n / 8; j++) subs[k].index[j] = (uint16_t)place_of(&LEVEL(grid_iq1), 2, settled[k][j]).index;
    }
}

static int finish_s(const sub subs[8], uint8_t *out) {
    float largest = 0, inverse = 0;
    int refused = 0;
    memset(out, 0, IQ1_S_NBYTES);
    for (int j = 0; j < 8; j++) {
        refused |= subs[j].refused;
        largest = largest > subs[j].scale ? largest : subs[j].scale;
    }
    float d = largest / 15;
    if (largest != 0) put_half(out, d * 1.125f), inverse = 1 / d;
    for (int j = 0; j < 8; j++) {
        unsigned high = 0;
        for (int k = 0; k < 4; k++) {
            out[2 + 4 * j + k] = (uint8_t)subs[j].index[k];
            high |= (unsigned)subs[j].index[k] >> 8 << 3 * k;
        }
        int step = clamp_int(nearest_int(0.5f * (inverse * subs[j].scale - 1)), 0, 7);
        if (largest != 0) high |= (unsigned)(step | (subs[j].kind ? 8 : 0)) << 12;
        out[34 + 2 * j] = (uint8_t)high;
        out[35 + 2 * j] = (uint8_t)(high >> 8);
    }
    return refused;
}

/* Parity: fitted again over all 256 weights, those of dead sub-blocks too: they decode as the grid's first point. */
static float fit_super(const float *x, const float *w, const sub subs[16], const int step[16], float d) {
    float qx = 0, q2 = 0;
    for (int i = 0; i < SUPER; i++) {
        const sub *s = &subs[i / 16];
        uint32_t point = LEVEL(grid_iq1).of_index[s->index[i / 8 % 2]];
        float level = (float)(int)(point >> 2 * (i % 8) & 3) - 1 + shift_of(s->kind, i / 8 % 2);
        float q = level * (float)(2 * step[i / 16] + 1);
        qx += w[i] * q * x[i];
        q2 += w[i] * q * q;
    }
    return q2 > 0 ? qx / q2 : d;
}

static int finish_m(const float *x, const float *w, const sub subs[16], uint8_t *out) {
    float largest = 0;
    int refused = 0, step[16];
    uint16_t scales[4] = {0}, half;
    memset(out, 0, IQ1_M_NBYTES);
    for (int j = 0; j < 16; j++) {
        refused |= subs[j].refused;
        largest = largest > subs[j].scale ? largest : subs[j].scale;
        for (int k = 0; k < 2; k++) {
            out[2 * j + k] = (uint8_t)subs[j].index[k];
            out[32 + j] |= (uint8_t)(subs[j].index[k] >> 8 << 4 * k);
        }
    }
    if (largest == 0) return refused;
    float d = largest / 15, inverse = 1 / d;
    for (int j = 0; j < 16; j++) {
        step[j] = clamp_int(nearest_int(0.5f * (inverse * subs[j].scale - 1)), 0, 7);
        scales[j / 4] = (uint16_t)(scales[j / 4] | step[j] << 3 * (j % 4));
        out[32 + j] |= (uint8_t)((subs[j].kind & 1) << 3 | (subs[j].kind & 2) << 6);
    }
    put_half((uint8_t *)&half, fit_super(x, w, subs, step, d) * 1.1125f);
    for (int k = 0; k < 4; k++) {
        scales[k] = (uint16_t)(scales[k] | (half >> 4 * k & 15) << 12);
        out[48 + 2 * k] = (uint8_t)scales[k];
        out[49 + 2 * k] = (uint8_t)(scales[k] >> 8);
    }
    return refused;
}

static void weigh_chunk(const chunk *c, int is_important, float *w) {
    float sums[CHUNK / SUPER];
    if (is_important) sum_squares(c->x, c->n / SUPER, sums);
    for (int k = 0; k < c->n / SUPER; k++) {
        const float *x = c->x + k * SUPER;
        if (is_important)
            weigh_important(x, c->importance + k * SUPER, 2 * sums[k] / SUPER, SUPER, w + k * SUPER);
        else
            for (int i = 0; i < SUPER; i++) w[k * SUPER + i] = x[i] * x[i];
    }
    memset(w + c->n, 0, (size_t)(CHUNK - c->n) * 4);
}

INLINE void encode_all(chunk *c, uint8_t *out, int n, int is_important) {
    float w[CHUNK];
    sub subs[CHUNK / 16];
    weigh_chunk(c, is_important, w);
    for (int at = 0; at < c->n; at += LANES * n)
        encode_lanes(c->x + at, w + at, n, n == 32 ? 1e-12f : 1e-7f, subs + at / n); /* GROUP_MAX_EPS_IQ1_S, _M */
    for (int k = 0; k < c->n / SUPER; k++)
        c->n_refused += n == 32 ? finish_s(subs + 8 * k, out + k * IQ1_S_NBYTES)
                                : finish_m(c->x + k * SUPER, w + k * SUPER, subs + 16 * k, out + k * IQ1_M_NBYTES);
}

static void encode_iq1_s(chunk *c, uint8_t *out) { encode_all(c, out, 32, 1); }

static void encode_iq1_m(chunk *c, uint8_t *out) { encode_all(c, out, 16, 0); }

static void encode_important_iq1_m(chunk *c, uint8_t *out) { encode_all(c, out, 16, 1); }

/* Eight weights: scale * (level + shift). */
INLINE void decode_shifted(unsigned index, float scale, float shift, float *x) {
    const uint32_t point = LEVEL(grid_iq1).of_index[index];
    for (int i = 0; i < 8; i++) x[i] = scale * ((float)((int)(point >> 2 * i & 3) - 1) + shift);
}

static void decode_iq1_s(const uint8_t *b, float *x) {
    const float d = load_half(b);
    for (int k = 0; k < 32; k++, x += 8) {
        const unsigned high = half_word_at(b + 34 + k / 4 * 2);
        const float scale = d * (float)(2 * (high >> 12 & 7) + 1);
        decode_shifted(b[2 + k] | (high >> 3 * (k % 4) & 7) << 8, scale, high & 0x8000 ? -SHIFT : SHIFT, x);
    }
}

static void decode_iq1_m(const uint8_t *b, float *x) {
    uint16_t half = 0;
    for (int k = 0; k < 4; k++) half = (uint16_t)(half | half_word_at(b + 48 + 2 * k) >> 12 << 4 * k);
    const float d = load_half((const uint8_t *)&half);
    for (int k = 0; k < 32; k++, x += 8) {
        const unsigned high = b[32 + k / 2] >> 4 * (k % 2), scales = half_word_at(b + 48 + k / 8 * 2);
        const float scale = d * (float)(2 * (scales >> 3 * (k / 2 % 4) & 7) + 1);
        decode_shifted(b[k] | (high & 7) << 8, scale, high & 8 ? -SHIFT : SHIFT, x);
    }
}

const codec LEVEL(iq1_s) = {
    TYPE_IQ1_S, SUPER, IQ1_S_NBYTES, .encode_weighted = encode_iq1_s, .decode = decode_iq1_s};
const codec LEVEL(iq1_m) = {
    TYPE_IQ1_M, SUPER, IQ1_M_NBYTES, .encode = encode_iq1_m, .encode_weighted = encode_important_iq1_m,
    .decode = decode_iq1_m};
