/* The table of types, and what is done by looking into it alone. */
#include "codecs.h"

#include <stddef.h>

#define REFERENCE(name) &LEVEL(name),
static const codec *const codecs[] = {CODECS(REFERENCE)};
#undef REFERENCE
#define N_CODECS ((int32_t)(sizeof codecs / sizeof codecs[0]))

int32_t LEVEL(codec_facts)(int32_t index, codec_facts *facts) {
    if (index < 0 || index >= N_CODECS) return 0;
    const codec *row = codecs[index];
    *facts = (codec_facts){row->type, row->block, row->nbytes, row->encode_weighted != NULL, row->encode == NULL};
    return 1;
}

const codec *LEVEL(find_codec)(int32_t type) {
    for (int32_t i = 0; i < N_CODECS; i++)
        if (codecs[i]->type == type) return codecs[i];
    return NULL;
}

int32_t LEVEL(decode)(const decode_request *request) {
    const codec *row = LEVEL(find_codec)(request->type);
    if (row == NULL) return 1;
    for (int64_t k = 0; k < request->n_blocks; k++)
        row->decode(request->blocks + k * row->nbytes, request->out + k * row->block);
    return 0;
}
