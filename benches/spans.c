/* Spans from C, in bursts: for each letter on standard input one burst, timed, and a line with its nanoseconds a span. `b` is bare,
 * `a` has 4 attributes (2 integers, 2 static strings) from the start, in packed memory whose keys and strings are numbers. At the end of the
 * input the program fails if anything was dropped.
 *
 *   spans DIR */
#define _GNU_SOURCE
#include <spanring.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { BURST = 4096, FIRST = 64 };

static uint32_t bare_name, four_name;
static uint8_t packed[2 * (4 + 1 + 8) + 2 * (4 + 1 + 4)];
enum { FIRST_INT = 5 };

static void check(int32_t code) {
    if (code != SPANRING_OK) {
        fprintf(stderr, "spans: %s\n", spanring_last_error());
        exit(1);
    }
}

static uint32_t number(const char *text) {
    uint32_t number;
    check(spanring_intern(text, strlen(text), &number));
    return number;
}

static uint8_t *put_key(uint8_t *at, const char *key, uint8_t type) {
    uint32_t value = number(key);
    memcpy(at, &value, 4);
    at[4] = type;
    return at + 5;
}

static uint8_t *put_int(uint8_t *at, const char *key, int64_t value) {
    at = put_key(at, key, 2);
    memcpy(at, &value, 8);
    return at + 8;
}

static uint8_t *put_static(uint8_t *at, const char *key, const char *value) {
    uint32_t text = number(value);
    at = put_key(at, key, 8);
    memcpy(at, &text, 4);
    return at + 4;
}

static int32_t bare(int count) {
    int32_t failed = 0;
    for (int i = 0; i < count; i++) {
        spanring_span span;
        failed |= spanring_span_start(bare_name, NULL, &span);
        failed |= spanring_span_end(&span);
    }
    return failed;
}

static int32_t four(int count) {
    int32_t failed = 0;
    spanring_span_options options = {.size = sizeof(options), .attributes = packed, .attributes_len = sizeof(packed)};
    for (int64_t i = 0; i < count; i++) {
        spanring_span span;
        memcpy(packed + FIRST_INT, &i, 8);
        failed |= spanring_span_start(four_name, &options, &span);
        failed |= spanring_span_end(&span);
    }
    return failed;
}

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec * 1e9 + (double)time.tv_nsec;
}

int main(int argc, char **argv) {
    if (argc != 2) {
        fprintf(stderr, "usage: spans DIR\n");
        return 2;
    }
    spanring_setting dir = {"DIR", 3, argv[1], strlen(argv[1])};
    spanring_options options = {.size = sizeof(options), .settings = &dir, .settings_len = 1, .flags = SPANRING_IGNORE_ENVIRONMENT};
    check(spanring_start(&options));
    bare_name = number("bench.bare");
    four_name = number("bench.four");
    uint8_t *at = put_int(packed, "db.rows", 0);
    at = put_int(at, "db.shard", 7);
    at = put_static(at, "db.system", "postgresql");
    put_static(at, "db.operation", "select");

    uint64_t made = 0;
    int letter;
    while ((letter = getchar()) != EOF) {
        int32_t (*burst)(int) = letter == 'b' ? bare : four;
        /* Whoever must be woken is. */
        int32_t failed = burst(FIRST);
        double before = now();
        failed |= burst(BURST);
        double took = now() - before;
        check(spanring_flush(SPANRING_FOREVER));
        made += FIRST + BURST;
        if (failed != 0) {
            fprintf(stderr, "spans: a call failed: %s\n", spanring_last_error());
            return 1;
        }
        printf("%.3f\n", took / BURST);
        fflush(stdout);
    }
    spanring_stats stats = {.size = sizeof(stats)};
    check(spanring_stats_get(&stats));
    if (stats.created != made || stats.sealed != made || stats.dropped != 0 || stats.attributes_dropped != 0) {
        fprintf(stderr, "spans: of %llu spans %llu were sealed, %llu dropped\n", (unsigned long long)made,
                (unsigned long long)stats.sealed, (unsigned long long)stats.dropped);
        return 1;
    }
    return 0;
}
