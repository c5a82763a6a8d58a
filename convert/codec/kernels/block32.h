/* What the encoders of blocks of 32 weights share, see block32.c for the types. */
#ifndef CONVERT_BLOCK32_H
#define CONVERT_BLOCK32_H

#include "codecs.h"

INLINE u8x16 pack_nibbles(bytes32 q) { return (q.lo & 15) | (q.hi << 4); }

INLINE void store_five_bits(uint8_t *out, bytes32 q) {
    uint32_t fifth = gather_bit(q, 4);
    memcpy(out, &fifth, 4);
    store_u8x16(out + 4, pack_nibbles(q));
}

encode_blocks LEVEL(encode_q4_0_weighted), LEVEL(encode_q4_1_weighted);
encode_blocks LEVEL(encode_q5_0_weighted), LEVEL(encode_q5_1_weighted);

#endif
