/* The search that IQ2 and IQ3 share: one scale for a sub-block, and a point of the grid for each group of its weights.
 *
 * Some twenty scales are tried. Each rounds every group to a point; a point off the grid gives way to the near point of
 * least squared error at that scale; the scale whose fit is best is kept, and what it put off the grid is chosen again
 * with the fitted scale.
 *
 * Rounding and fitting: a lane is a scale tried. Choosing among near points: a lane is a near point, and as a level is
 * one of eight numbers at most, a weight's error for each is a table in a register, so that a near point costs one
 * look-up and one addition a weight. All sums run in ggml's order over ggml's own products.
 *
 * Source: ggml-quants.c, quantize_row_iq{2_xxs,2_xs,2_s,3_xxs,3_s}_impl and iq{2,3}_find_best_neighbour @ 0c1e570.
 */
#ifndef CONVERT_GRID_SEARCH_H
#define CONVERT_GRID_SEARCH_H

#include "grids.h"
#include "search.h"

#define MOST_WEIGHTS 32
#define MOST_GROUPS 8
#define TRIED 32 /* room for the scales tried: whole lanes */

/* Which groups are chosen again with the fitted scale. */
enum { OFF_GRID, ALL_IF_ANY_OFF_GRID, ALL };

/* What differs between the types; a constant at each call. */
typedef struct {
    int n, dims, bits;  /* weights in a sub-block and in a group; bits a level */
    int n_side;         /* scales tried on each side of the middle */
    float step;         /* inverse of a scale tried: (top + step * i) / largest, i from -n_side to n_side */
    int again;          /* OFF_GRID, ... */
    int begins_on_grid; /* where no scale is better than none, the groups count as on the grid */
} search;

typedef struct {
    float x[MOST_WEIGHTS]; /* magnitudes; one of eight may be negative, where signs have a parity */
    float w[MOST_WEIGHTS], root_w[MOST_WEIGHTS];
} sub_block;

typedef struct {
    float scale;
    uint16_t index[MOST_GROUPS]; /* in the grid */
    int refused;                 /* ggml aborts */
} found;

typedef struct {
    float inverse[TRIED], scale[TRIED], qx[TRIED], q2[TRIED];
    uint32_t point[MOST_GROUPS][TRIED];  /* what a group is rounded to */
    uint32_t chosen[MOST_GROUPS][TRIED]; /* the point of the grid in its place */
} __attribute__((aligned(64))) trials;

INLINE int n_tried(search s) { return 2 * s.n_side + 1; }

INLINE int top_of(search s) { return 2 * ((s.bits == 2 ? 3 : 8)) - 1; }

/* The numbers that levels stand for: 1, 3, 5, ... A level of two bits is looked up with a bit of the next one's. */
INLINE eight numbers_of_levels(search s) {
    static const float of_two_bits[8] = {1, 3, 5, 7, 1, 3, 5, 7}, of_three[8] = {1, 3, 5, 7, 9, 11, 13, 15};
    return load_eight(s.bits == 2 ? of_two_bits : of_three);
}

INLINE u32v load_points(const uint16_t *from) { return __builtin_convertvector(load_u16(from), u32v); }

/* The errors of LANES near points: sum w (scale q - x)^2. */
INLINE f32v errors_of(search s, const eight *error, u32v near) {
    f32v sum = pick(error[0], near);
    for (int i = 1; i < s.dims; i++) sum = sum + pick(error[i], near >> s.bits * i);
    return sum;
}

/* The place in the list of the least error, the first of equals; -1 where ggml finds none. */
INLINE int find_least(search s, const eight *error, const uint16_t *near, int n_near) {
    f32v least = splat(FLT_MAX);
    i32v block = splat_i32(-1);
    for (int b = 0; b * LANES < n_near; b++) {
        f32v sum = errors_of(s, error, load_points(near + b * LANES));
        i32v better = greater(least, sum);
        block = choose_i32(better, splat_i32(b), block);
        least = choose(better, sum, least);
    }
    float smallest = least_of(least);
    unsigned ties = ~which_greater(least, splat(smallest)) & ALL_LANES;
    int lane = __builtin_ctz(ties);
    for (ties &= ties - 1; ties != 0; ties &= ties - 1)
        if (block[__builtin_ctz(ties)] < block[lane]) lane = __builtin_ctz(ties);
    return smallest < FLT_MAX ? block[lane] * LANES + lane : -1;
}

/* The near point of least error, the first of equals; -1 where ggml finds none. */
INLINE int32_t best_near_point(const grid *g, place at, search s, eight numbers, const float *x, const float *w,
                               float scale) {
    const uint16_t *near = g->near + (size_t)at.list * LANES;
    eight error[8];
    for (int i = 0; i < s.dims; i++)
        for (int p = 0; p < EIGHT_PARTS; p++) {
            f32v off = splat(scale) * numbers.part[p] - splat(x[i]);
            error[i].part[p] = splat(w[i]) * off * off;
        }
    if (at.n_near <= LANES) { /* most lists of IQ3 and IQ2_S */
        f32v sum = errors_of(s, error, load_points(near));
        if (which_greater(splat(FLT_MAX), sum) == ALL_LANES)
            return near[__builtin_ctz(~which_greater(sum, splat(least_of(sum))) & ALL_LANES)];
    }
    int found = find_least(s, error, near, at.n_near);
    return found < 0 ? -1 : near[found];
}

INLINE void round_groups(trials *t, search s, const float *x) {
    const int highest = s.bits == 2 ? 2 : 7;
    for (int k = 0; k < s.n / s.dims; k++)
        for (int v = 0; v < n_tried(s); v += LANES) {
            f32v inverse = load_f32(t->inverse + v);
            i32v point = splat_i32(0);
            for (int i = 0; i < s.dims; i++) {
                f32v level = splat(0.5f) * (inverse * splat(x[k * s.dims + i]) - splat(1));
                point |= clamp_ints(nearest_wrapping(level), 0, highest) << s.bits * i;
            }
            store_u32(t->point[k] + v, (u32v)point);
        }
}

/* Returns 1 if ggml finds no near point, and aborts. */
INLINE int choose_points(trials *t, const grid *g, search s, eight numbers, const sub_block *b) {
    for (int k = 0; k < s.n / s.dims; k++)
        for (int c = 0; c < n_tried(s); c++) {
            uint32_t point = t->point[k][c];
            place at = place_of(g, s.bits, point);
            if (at.index < 0) {
                int32_t near = best_near_point(g, at, s, numbers, b->x + k * s.dims, b->root_w + k * s.dims, t->scale[c]);
                if (near < 0) return 1;
                point = (uint32_t)near;
            }
            t->chosen[k][c] = point;
        }
    return 0;
}

/* Sums of w * x * q and w * q * q for every scale tried. */
INLINE void sum_fits(trials *t, search s, eight numbers, const sub_block *b) {
    f32v qx[TRIED / LANES], q2[TRIED / LANES];
    const int vectors = (n_tried(s) + LANES - 1) / LANES;
    for (int v = 0; v < vectors; v++) qx[v] = q2[v] = splat(0);
    for (int i = 0; i < s.n; i++) {
        eight wxq, wqq;
        for (int p = 0; p < EIGHT_PARTS; p++) {
            wxq.part[p] = splat(b->w[i] * b->x[i]) * numbers.part[p];
            wqq.part[p] = splat(b->w[i]) * numbers.part[p] * numbers.part[p];
        }
        for (int v = 0; v < vectors; v++) {
            u32v level = load_u32(t->chosen[i / s.dims] + v * LANES) >> s.bits * (i % s.dims);
            qx[v] = qx[v] + pick(wxq, level);
            q2[v] = q2[v] + pick(wqq, level);
        }
    }
    for (int v = 0; v < vectors; v++) {
        store_f32(t->qx + v * LANES, qx[v]);
        store_f32(t->q2 + v * LANES, q2[v]);
    }
}

/* The scale tried whose fit is best, and the fitted scale; -1 where none is better than none. */
INLINE int find_best(const trials *t, search s, float *scale) {
    float best = 0;
    int winner = -1;
    for (int c = 0; c < n_tried(s); c++) {
        if (!(t->q2[c] > 0 && t->qx[c] * t->qx[c] > best * t->q2[c])) continue;
        *scale = t->qx[c] / t->q2[c];
        best = *scale * t->qx[c];
        winner = c;
    }
    return winner;
}

INLINE uint32_t round_group(search s, const float *x, float inverse) {
    uint32_t point = 0;
    for (int i = 0; i < s.dims; i++) {
        int level = nearest_int(0.5f * (inverse * x[i] - 1));
        point |= (uint32_t)clamp_int(level, 0, s.bits == 2 ? 2 : 7) << s.bits * i;
    }
    return point;
}

/* Parity: a number that the sums would take from the table is computed as ggml does, 2 * level + 1. */
INLINE float fit_again(search s, const uint32_t *points, const sub_block *b, float scale) {
    float qx = 0, q2 = 0;
    for (int i = 0; i < s.n; i++) {
        float q = (float)(2 * (points[i / s.dims] >> s.bits * (i % s.dims) & ((1u << s.bits) - 1)) + 1);
        qx += b->w[i] * b->x[i] * q;
        q2 += b->w[i] * q * q;
    }
    return q2 > 0 ? qx / q2 : scale;
}

/* Chooses points again with the fitted scale. Returns 1 if ggml aborts. */
INLINE int choose_again(const grid *g, search s, eight numbers, const sub_block *b, const int on_grid[], uint32_t *points,
                        float *scale) {
    const int n_groups = s.n / s.dims;
    int n_off = 0;
    for (int k = 0; k < n_groups; k++) n_off += !on_grid[k];
    if (!(*scale > 0) || (n_off == 0 && s.again != ALL)) return 0;
    for (int k = 0; k < n_groups; k++) {
        if (on_grid[k] && s.again == OFF_GRID) continue;
        uint32_t point = round_group(s, b->x + k * s.dims, 1 / *scale);
        place at = place_of(g, s.bits, point);
        int32_t near = (int32_t)point;
        if (at.index < 0) near = best_near_point(g, at, s, numbers, b->x + k * s.dims, b->root_w + k * s.dims, *scale);
        if (near < 0) return 1;
        points[k] = (uint32_t)near;
    }
    *scale = fit_again(s, points, b, *scale);
    return 0;
}

/* Searches one sub-block. numerator, largest: see `search.step`; scale: what is kept if no scale tried is any good. */
INLINE found search_sub_block(const grid *g, search s, const sub_block *b, float largest, float scale) {
    const eight numbers = numbers_of_levels(s);
    const int n_groups = s.n / s.dims;
    uint32_t points[MOST_GROUPS] = {0};
    int on_grid[MOST_GROUPS];
    found result = {.refused = 1};
    trials t;
    for (int c = 0; c < TRIED; c++) t.inverse[c] = (float)top_of(s) + (float)(c - s.n_side) * s.step;
    for (int v = 0; v < TRIED; v += LANES) {
        f32v inverse = load_f32(t.inverse + v) / splat(largest);
        store_f32(t.inverse + v, inverse);
        store_f32(t.scale + v, splat(1) / inverse);
    }
    round_groups(&t, s, b->x);
    if (choose_points(&t, g, s, numbers, b)) return result;
    sum_fits(&t, s, numbers, b);
    int winner = find_best(&t, s, &scale);
    for (int k = 0; k < n_groups; k++) {
        on_grid[k] = winner < 0 ? s.begins_on_grid : place_of(g, s.bits, t.point[k][winner]).index >= 0;
        if (winner >= 0) points[k] = t.chosen[k][winner];
    }
    if (choose_again(g, s, numbers, b, on_grid, points, &scale)) return result;
    result.scale = scale;
    result.refused = scale != scale;
    for (int k = 0; k < n_groups; k++) result.index[k] = (uint16_t)place_of(g, s.bits, points[k]).index;
    return result;
}

/* ---- what comes before the search ---- */

/* The sum of squares of each of n super-blocks, in order: a lane is a super-block. There is room for whole lanes. */
static void sum_squares(const float *x, int n_super, float *sums) {
    f32v tile[LANES];
    for (int s = 0; s < n_super; s += LANES) {
        f32v sum = splat(0);
        for (int i = 0; i < SUPER; i += LANES) {
            corner_turn(x + s * SUPER + i, SUPER, tile);
            for (int k = 0; k < LANES; k++) sum = sum + tile[k] * tile[k];
        }
        store_f32(sums + s, sum);
    }
}

/* Magnitudes of eight weights, and a bit for each negative one. */
INLINE unsigned strip_signs(const float *weights, float *x) {
    unsigned negative = 0;
    for (int i = 0; i < 8; i++) {
        int below = !(weights[i] >= 0);
        x[i] = below ? -weights[i] : weights[i];
        negative |= (unsigned)below << i;
    }
    return negative;
}

/* Makes the number of negative signs even: the weight that matters least changes its own. Seven bits say them all. */
INLINE unsigned make_even(const float *weights, const float *w, float *x, unsigned negative) {
    if (__builtin_popcount(negative) % 2) {
        int least = 0;
        float smallest = w[0] * weights[0] * weights[0];
        for (int i = 1; i < 8; i++) {
            float matters = w[i] * weights[i] * weights[i];
            if (matters < smallest) smallest = matters, least = i;
        }
        x[least] = -x[least];
        negative ^= 1u << least;
    }
    return negative & 127;
}

/* n: a multiple of 16. */
INLINE float largest_weight(const float *x, int n) {
    f32v largest = load_f32(x);
    for (int i = LANES; i < n; i += LANES) largest = maximum(largest, load_f32(x + i));
    return largest_of(largest);
}

/* w = importance * sqrt(sigma2 + x * x). */
INLINE void weigh_important(const float *x, const float *importance, float sigma2, int n, float *w) {
    for (int i = 0; i < n; i += LANES) {
        f32v v = load_f32(x + i);
        store_f32(w + i, load_f32(importance + i) * root(splat(sigma2) + v * v));
    }
}

INLINE void take_roots(sub_block *b, int n) {
    for (int i = 0; i < n; i += LANES) store_f32(b->root_w + i, root(load_f32(b->w + i)));
}

/* The stored step of a scale, 0 to 15, where the scale is d * (2 * step + 1). */
static inline unsigned step_of_scale(float scale, float inverse_d) {
    return (unsigned)clamp_int(nearest_int(0.5f * (inverse_d * scale - 1)), 0, 15);
}

#endif
