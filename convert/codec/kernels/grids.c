/* Makes the lists of grids.h: once a process, in milliseconds. */
#include "grids.h"

#include <stdlib.h>

#define MOST_POINTS 2048
#define MOST_LEVELS 8

#define DEFINE_GRID(name, dims_, bits_, levels, shells)                                                                \
    grid LEVEL(name) = {.dims = dims_, .bits = bits_, .n_levels = levels, .n_shells = shells};

DEFINE_GRID(grid_iq2_xxs, 8, 2, 3, 2)
DEFINE_GRID(grid_iq2_xs, 8, 2, 3, 2)
DEFINE_GRID(grid_iq2_s, 8, 2, 3, 1)
DEFINE_GRID(grid_iq1, 8, 2, 3, 3)
DEFINE_GRID(grid_iq3_xxs, 4, 3, 8, 2)
DEFINE_GRID(grid_iq3_s, 4, 3, 8, 3)

uint8_t LEVEL(in_base_3)[256];

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

/* The grid as seen from one point after the other. */
typedef struct {
    int n; /* points of the grid, a multiple of 16 */
    uint8_t squared[8][MOST_LEVELS][MOST_POINTS]; /* by dimension and level there: what it adds to the distances */
    uint8_t distance[MOST_POINTS];
} around;

static uint32_t level_of(const grid *g, uint32_t point, int dim) {
    return point >> dim * g->bits & ((1u << g->bits) - 1);
}

static uint32_t n_points(const grid *g) { return 1u << g->dims * g->bits; }

static int is_point(const grid *g, uint32_t point) {
    for (int k = 0; k < g->dims; k++)
        if (level_of(g, point, k) >= (uint32_t)g->n_levels) return 0;
    return 1;
}

static void measure_distances(const grid *g, uint32_t point, around *a) {
    memset(a->distance, 0, sizeof a->distance);
    for (int k = 0; k < g->dims; k++) {
        const uint8_t *squared = a->squared[k][level_of(g, point, k)];
        for (int i = 0; i < a->n; i++) a->distance[i] = (uint8_t)(a->distance[i] + squared[i]);
    }
}

/* The least distance above `beyond`; UINT8_MAX if there is none. */
static uint8_t nearest_beyond(const around *a, int beyond) {
    uint8_t nearest = UINT8_MAX;
    for (int i = 0; i < a->n; i++) {
        uint8_t d = a->distance[i] > beyond ? a->distance[i] : UINT8_MAX;
        nearest = d < nearest ? d : nearest;
    }
    return nearest;
}

/* Indices of the grid's points within a distance, in order; most sixteen hold none. */
static int find_within(const around *a, uint8_t distance, uint16_t *found) {
    int n = 0;
    for (int i = 0; i < a->n; i += 16) {
        uint64_t any[2];
        u8x16 within = (u8x16)(load_u8x16(a->distance + i) <= distance - (u8x16){0});
        memcpy(any, &within, 16);
        if ((any[0] | any[1]) == 0) continue;
        for (int k = i; k < i + 16; k++)
            if (a->distance[k] <= distance) found[n++] = (uint16_t)k;
    }
    return n;
}

/* Writes a list, and what pads it; returns how many are near. */
static int collect(const grid *g, const around *a, uint16_t *near) {
    uint16_t found[MOST_POINTS];
    int shell = -1, n_near = 0;
    for (int s = 0; s < g->n_shells; s++) {
        int next = nearest_beyond(a, shell);
        if (next != UINT8_MAX) shell = next;
    }
    int n = find_within(a, (uint8_t)shell, found);
    for (int d = 0; d <= shell && n_near < n; d++)
        for (int i = 0; i < n; i++)
            if (a->distance[found[i]] == d) near[n_near++] = g->of_index[found[i]];
    for (int i = n_near; i % LANES != 0; i++) near[i] = near[n_near - 1];
    return n_near;
}

static void place_points(grid *g, const uint16_t *points, int n, around *a) {
    a->n = n;
    memcpy(g->of_index, points, (size_t)n * sizeof *points);
    for (uint32_t low = 0; low < 256; low++) {
        uint32_t number = 0;
        for (int k = 3; k >= 0; k--) number = number * 3 + (low >> 2 * k & 3);
        LEVEL(in_base_3)[low] = (uint8_t)number;
    }
    for (uint32_t u = 0; u < n_points(g); u++)
        if (is_point(g, u)) g->places[number_of(g->bits, u)] = (place){.index = -1};
    for (int i = 0; i < n; i++) {
        g->places[number_of(g->bits, points[i])].index = (int16_t)i;
        for (int k = 0; k < g->dims; k++)
            for (int level = 0; level < g->n_levels; level++) {
                int step = (int)level_of(g, points[i], k) - level;
                a->squared[k][level][i] = (uint8_t)(step * step);
            }
    }
}

/* Makes all lists, one after the other; returns 1 if there is no memory. */
static int make_lists(grid *g, around *a) {
    size_t used = 0, room = 0;
    for (uint32_t u = 0; u < n_points(g); u++) {
        if (!is_point(g, u) || place_of(g, g->bits, u).index >= 0) continue;
        if (room - used < MOST_POINTS) {
            uint16_t *longer = realloc(g->near, (room += 1 << 18) * sizeof *longer);
            if (longer == NULL) return 1;
            g->near = longer;
        }
        measure_distances(g, u, a);
        int n_near = collect(g, a, g->near + used);
        g->places[number_of(g->bits, u)] = (place){(uint32_t)(used / LANES), (int16_t)n_near, -1};
        used += (size_t)(n_near + LANES - 1) / LANES * LANES;
    }
    return 0;
}

int32_t LEVEL(set_grid)(int32_t type, const uint16_t *points, int32_t n) {
    grid *g = grid_of(type);
    if (g == NULL || n > MOST_POINTS || n % 16 != 0) return 1;
    if (g->places != NULL) return 0; /* of two types that share one */
    around *a = malloc(sizeof *a);
    place *places = malloc((sizeof *places) << 13); /* 8^4 and 3^8 are less */
    g->of_index = malloc((size_t)n * sizeof *points);
    int failed = a == NULL || places == NULL || g->of_index == NULL;
    g->places = places;
    if (!failed) {
        place_points(g, points, n, a);
        failed = make_lists(g, a);
    }
    free(a);
    if (failed) free(g->places), g->places = NULL;
    return failed;
}
