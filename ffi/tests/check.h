/* What the programs here check with. */
#ifndef CHECK_H
#define CHECK_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <spanring.h>

#define CHECK(condition)                                                                            \
    do {                                                                                            \
        if (!(condition)) {                                                                         \
            fprintf(stderr, "%s:%d: %s (last error: %s)\n", __FILE__, __LINE__, #condition,         \
                    spanring_last_error());                                                         \
            exit(1);                                                                                \
        }                                                                                           \
    } while (0)

/* The call answers that code, and with an error a sentence. */
#define ANSWERS(code, call)                                                                         \
    do {                                                                                            \
        int32_t answer = (call);                                                                    \
        if (answer != (code)) {                                                                     \
            fprintf(stderr, "%s:%d: %s answers %d, not %s (last error: %s)\n", __FILE__, __LINE__,  \
                    #call, (int)answer, #code, spanring_last_error());                              \
            exit(1);                                                                                \
        }                                                                                           \
        CHECK(answer == SPANRING_OK || spanring_last_error()[0] != 0);                              \
    } while (0)

#define TEXT(text) text, strlen(text)

static inline uint32_t intern(const char *text) {
    uint32_t number = 0;
    ANSWERS(SPANRING_OK, spanring_intern(TEXT(text), &number));
    return number;
}

/* A pipeline that writes to `dir`, and reads no environment variable. */
static inline int32_t start_with(const char *dir, uint32_t flags) {
    spanring_setting settings[] = {{TEXT("DIR"), TEXT(dir)}, {TEXT("service_name"), TEXT("c-tests")}};
    spanring_options options = {.size = sizeof(spanring_options),
                                .settings = settings,
                                .settings_len = 2,
                                .flags = SPANRING_IGNORE_ENVIRONMENT | flags};
    return spanring_start(&options);
}

static inline int32_t start_in(const char *dir) { return start_with(dir, 0); }

static inline spanring_stats stats(void) {
    spanring_stats counts = {.size = sizeof(spanring_stats)};
    ANSWERS(SPANRING_OK, spanring_stats_get(&counts));
    CHECK(counts.created == counts.sealed + counts.dropped + counts.resident);
    return counts;
}

/* Packed attributes, as a program makes them that has no library for it. */
typedef struct {
    unsigned char bytes[512];
    size_t len;
} packer;

static inline void pack_bytes(packer *to, const void *from, size_t len) {
    CHECK(to->len + len <= sizeof(to->bytes));
    memcpy(to->bytes + to->len, from, len);
    to->len += len;
}

static inline void pack_u8(packer *to, uint8_t value) { pack_bytes(to, &value, 1); }
static inline void pack_u32(packer *to, uint32_t value) { pack_bytes(to, &value, 4); }
static inline void pack_i64(packer *to, int64_t value) { pack_bytes(to, &value, 8); }
static inline void pack_f64(packer *to, double value) { pack_bytes(to, &value, 8); }

static inline void pack_text(packer *to, const char *text) {
    pack_u32(to, (uint32_t)strlen(text));
    pack_bytes(to, text, strlen(text));
}

static inline void pack_key(packer *to, const char *text) {
    pack_u32(to, 0x80000000u | (uint32_t)strlen(text));
    pack_bytes(to, text, strlen(text));
}

#endif
