/* The grids of the IQ types: which points of small integers may be stored, and for each other point the near ones.
 *
 * A point is `dims` levels of `bits` bits, the first in the lowest place. The list of a point off the grid holds the
 * points of its `n_shells` nearest distances, by distance, then by place in the grid; a point is one uint16, and a list
 * is padded to whole lanes (with its last point, or with levels of 3, which no point of three levels has).
 *
 * Source: ggml-quants.c, iq2xs_init_impl and iq3xs_init_impl @ 0c1e570. The points come from whoever calls.
 */
#ifndef CONVERT_GRIDS_H
#define CONVERT_GRIDS_H

#include "codecs.h"

typedef struct {
    uint32_t list; /* its first block of LANES points */
    int16_t n_blocks;
    int16_t index; /* in the grid, or -1 */
} place;

typedef struct {
    int dims, bits, n_levels, n_shells;
    place *places;    /* of every point */
    uint16_t *points;   /* the lists */
    uint16_t *of_index; /* the points of the grid */
} grid;

extern grid LEVEL(grid_iq2_xxs), LEVEL(grid_iq2_xs), LEVEL(grid_iq2_s), LEVEL(grid_iq1), LEVEL(grid_iq3_xxs),
    LEVEL(grid_iq3_s);

#endif
