/* Makes the lists of grids.h: once a process, in milliseconds. */
#include "grids.h"

#include <stdlib.h>

#define MOST_POINTS 2048

#define DEFINE_GRID(name, dims_, bits_, levels, shells)                                                                \
    grid LEVEL(name) = {.dims = dims_, .bits = bits_, .n_levels = levels, .n_shells = shells};

DEFINE_GRID(grid_iq2_xxs, 8, 2, 3, 2)
DEFINE_GRID(grid_iq2_xs, 8, 2, 3, 2)
DEFINE_GRID(grid_iq2_s, 8, 2, 3, 1)
DEFINE_GRID(grid_iq1, 8, 2, 3, 3)
DEFINE_GRID(grid_iq3_xxs, 4, 3, 8, 2)
DEFINE_GRID(grid_iq3_s, 4, 3, 8, 3)

static grid *grid_of(int32_t type) {
    switch (type) {
    case TYPE_IQ2_XXS: return &LEVEL(grid_iq2_xxs);
    case TYPE_IQ2_XS: return &LEVEL(grid_iq2_xs);
    case TYPE_IQ2_S: return &LEVEL(grid_iq2_s);
    case TYPE_IQ1_S:
    case TYPE_IQ1_M: return &LEVEL(grid_iq1);
    case TYPE_IQ3_XXS: return &LEVEL(grid_iq3_xxs);
    case TYPE_IQ3_S: return &LEVEL(grid_iq3_s);
    default: return NULL;
    }
}

typedef struct {
    int n;
    const uint16_t *points;
    int16_t level[8][MOST_POINTS]; /* by dimension, so that distances are computed by lanes */
    uint16_t distance[MOST_POINTS];
} around;

static int level_of(const grid *g, uint32_t point, int dim) { return (int)(point >> dim * g->bits) & ((1 << g->bits) - 1); }

static int has_unused_level(const grid *g, uint32_t point) {
    for (int k = 0; k < g->dims; k++)
        if (level_of(g, point, k) >= g->n_levels) return 1;
    return 0;
}

/* Squared distances of every point of the grid; the nearest distance above `above`. */
static void measure_distances(const grid *g, uint32_t point, around *a) {
    memset(a->distance, 0, sizeof a->distance);
    for (int k = 0; k < g->dims; k++) {
        int16_t here = (int16_t)level_of(g, point, k);
        for (int i = 0; i < a->n; i++) {
            int16_t step = (int16_t)(a->level[k][i] - here);
            a->distance[i] = (uint16_t)(a->distance[i] + step * step);
        }
    }
}

static uint16_t nearest_beyond(const around *a, int beyond) {
    uint16_t nearest = UINT16_MAX;
    for (int i = 0; i < a->n; i++) {
        uint16_t d = (int)a->distance[i] > beyond ? a->distance[i] : UINT16_MAX;
        nearest = d < nearest ? d : nearest;
    }
    return nearest;
}

/* The near points in order; returns how many. */
static int collect(const grid *g, const around *a, uint16_t *near) {
    uint16_t candidates[MOST_POINTS], last = 0;
    int n = 0, n_near = 0, shell = -1;
    for (int s = 0; s < g->n_shells; s++) {
        int next = nearest_beyond(a, shell);
        if (next != UINT16_MAX) shell = next;
    }
    for (int i = 0; i < a->n; i++) {
        candidates[n] = (uint16_t)i;
        n += (int)a->distance[i] <= shell;
    }
    for (int d = 0; d <= shell && n_near < n; d++)
        for (int i = 0; i < n; i++)
            if (a->distance[candidates[i]] == d) near[n_near++] = last = a->points[candidates[i]];
    if (g->n_levels < 1 << g->bits) last = UINT16_MAX;
    for (int i = n_near; i % LANES != 0; i++) near[i] = last;
    return n_near;
}

static int needs_list(const grid *g, uint32_t point) { return g->places[point].index < 0 && !has_unused_level(g, point); }

static void place_points(grid *g, const uint16_t *points, int n, around *a) {
    *a = (around){.n = n, .points = points};
    memcpy(g->of_index, points, (size_t)n * sizeof *points);
    for (uint32_t u = 0; u < 1u << g->dims * g->bits; u++) g->places[u] = (place){.index = -1};
    for (int i = 0; i < n; i++) {
        g->places[points[i]].index = (int16_t)i;
        for (int k = 0; k < g->dims; k++) a->level[k][i] = (int16_t)level_of(g, points[i], k);
    }
}

/* Makes all lists, one after the other; returns 1 if there is no memory. */
static int make_lists(grid *g, around *a) {
    size_t used = 0, room = 0;
    for (uint32_t u = 0; u < 1u << g->dims * g->bits; u++) {
        if (!needs_list(g, u)) continue;
        if (room - used < MOST_POINTS) {
            uint16_t *longer = realloc(g->points, (room += 1 << 18) * sizeof *longer);
            if (longer == NULL) return 1;
            g->points = longer;
        }
        measure_distances(g, u, a);
        int n_blocks = (collect(g, a, g->points + used) + LANES - 1) / LANES;
        g->places[u].list = (uint32_t)(used / LANES);
        g->places[u].n_blocks = (int16_t)n_blocks;
        used += (size_t)n_blocks * LANES;
    }
    return 0;
}

/* points: n of them, in the grid's order. Called once for each grid, before any of its types is encoded. Returns 0, or 1
 * if the type has no grid or there is no memory. */
int32_t LEVEL(set_grid)(int32_t type, const uint16_t *points, int32_t n) {
    grid *g = grid_of(type);
    if (g == NULL || n > MOST_POINTS) return 1;
    if (g->places != NULL) return 0; /* of two types that share one */
    around *a = malloc(sizeof *a);
    g->places = malloc((sizeof *g->places) << g->dims * g->bits);
    g->of_index = malloc((size_t)n * sizeof *points);
    int failed = a == NULL || g->places == NULL || g->of_index == NULL;
    if (!failed) {
        place_points(g, points, n, a);
        failed = make_lists(g, a);
    }
    free(a);
    if (failed) free(g->places), g->places = NULL;
    return failed;
}
