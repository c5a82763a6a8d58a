/* The grids of the IQ types: which points of small integers may be stored, and for each other point the near ones.
 *
 * A point is four levels of three bits or eight of two, the first in the lowest place. The list of a point off the grid
 * holds the points of its nearest few distances, by distance, then by place in the grid; a point is one uint16, and a
 * list is padded to whole lanes with its last point.
 *
 * Source: ggml-quants.c, iq2xs_init_impl and iq3xs_init_impl @ 0c1e570. The points come from whoever calls.
 */
#ifndef CONVERT_GRIDS_H
#define CONVERT_GRIDS_H

#include "codecs.h"

typedef struct {
    uint32_t list; /* its first block of LANES points */
    int16_t n_near;
    int16_t index; /* in the grid, or -1 */
} place;

typedef struct {
    int dims, bits, n_levels;
    int n_shells;       /* distances that are near */
    place *places;      /* see place_of */
    uint16_t *near;     /* the lists */
    uint16_t *of_index; /* the points of the grid */
} grid;

extern grid LEVEL(grid_iq2_xxs), LEVEL(grid_iq2_xs), LEVEL(grid_iq2_s), LEVEL(grid_iq1), LEVEL(grid_iq3_xxs),
    LEVEL(grid_iq3_s);

/* Of four levels of two bits, their number in base 3, so that the places of all points lie close together. */
extern uint8_t LEVEL(in_base_3)[256];

INLINE uint32_t number_of(int bits, uint32_t point) {
    return bits == 2 ? LEVEL(in_base_3)[point & 255] + 81u * LEVEL(in_base_3)[point >> 8] : point;
}

INLINE place place_of(const grid *g, int bits, uint32_t point) { return g->places[number_of(bits, point)]; }

#endif
