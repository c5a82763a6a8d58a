/* Picks an instruction set. Every function here is part of the library's interface. */
#include "kernels.h"

#include <stddef.h>
#include <string.h>

#if defined(__x86_64__)
#include <cpuid.h>
#endif

#define EXPORT __attribute__((visibility("default")))

typedef struct {
    const char *name;
    encode_function *encode;
    decode_function *decode;
    decode_4bit_function *decode_4bit;
    codec_facts_function *codec_facts;
    set_grid_function *set_grid;
} level;

#define LEVEL_ROW(name) {#name, encode_##name, decode_##name, decode_4bit_##name, codec_facts_##name, set_grid_##name},

/* The levels this library holds, the best first. */
static const level levels[] = {
#ifdef HAVE_AVX512
    LEVEL_ROW(avx512)
#endif
#ifdef HAVE_AVX2
    LEVEL_ROW(avx2)
#endif
#ifdef HAVE_NEON
    LEVEL_ROW(neon)
#endif
#ifdef HAVE_BASELINE
    LEVEL_ROW(baseline)
#endif
    {NULL, NULL, NULL, NULL, NULL, NULL},
};

#if defined(__x86_64__)
/* F16C has no name in older compilers' __builtin_cpu_supports: leaf 1, ecx, bit 29. */
static int machine_has_f16c(void) {
    unsigned int eax, ebx, ecx, edx;
    return __get_cpuid(1, &eax, &ebx, &ecx, &edx) && (ecx >> 29 & 1);
}
#endif

static int machine_has(const char *name) {
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (strcmp(name, "avx2") == 0) return __builtin_cpu_supports("avx2") && machine_has_f16c();
    if (strcmp(name, "avx512") == 0)
        return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
               __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
#endif
    return name != NULL;
}

/* Name of the index-th best level that this machine can run, NULL after the last. */
EXPORT const char *convert_kernels_level(int32_t index) {
    for (const level *l = levels; l->name != NULL; l++)
        if (machine_has(l->name) && index-- == 0) return l->name;
    return NULL;
}

/* SHA-256 of the sources this library was built from, as CMakeLists.txt computed it. */
EXPORT const char *convert_kernels_digest(void) { return KERNELS_DIGEST; }

static const level *find_level(const char *name) {
    for (const level *l = levels; l->name != NULL; l++)
        if (strcmp(l->name, name) == 0) return l;
    return NULL;
}

/* Encodes at the named level; returns 0, or 1 if the library does not hold it. */
EXPORT int32_t convert_kernels_encode(const char *level_name, encode_request *request) {
    const level *found = find_level(level_name);
    if (found != NULL) found->encode(request);
    return found == NULL;
}

/* Decodes blocks; returns 2 if the level does not decode their type. */
EXPORT int32_t convert_kernels_decode(const char *level_name, const decode_request *request) {
    const level *found = find_level(level_name);
    return found == NULL ? 1 : 2 * found->decode(request);
}

/* Decodes weights packed in four bits. */
EXPORT int32_t convert_kernels_decode_4bit(const char *level_name, const decode_4bit_request *request) {
    const level *found = find_level(level_name);
    if (found != NULL) found->decode_4bit(request);
    return found == NULL;
}

/* Fills in what is known of the index-th type with blocks; returns 1, or 0 after the last. */
EXPORT int32_t convert_kernels_codec(int32_t index, codec_facts *facts) {
    return levels[0].codec_facts(index, facts);
}

/* Gives a type its grid at the named level; returns 0, or 1 if there is no such level, type or memory. */
EXPORT int32_t convert_kernels_set_grid(const char *level_name, int32_t type, const uint16_t *points, int32_t n) {
    const level *found = find_level(level_name);
    return found == NULL || found->set_grid(type, points, n);
}
