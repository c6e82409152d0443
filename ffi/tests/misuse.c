/* Everything wrong that a program may do: it gets a code and a sentence, and goes on. */
#include <pthread.h>

#include "check.h"

static void *end_elsewhere(void *span) {
    ANSWERS(SPANRING_ERROR_THREAD, spanring_span_end(span));
    ANSWERS(SPANRING_ERROR_THREAD, spanring_span_set_int(span, intern("key"), 1));
    return NULL;
}

static void *end_detached(void *span) {
    ANSWERS(SPANRING_OK, spanring_span_end(span));
    ANSWERS(SPANRING_ERROR_HANDLE, spanring_span_end(span));
    return NULL;
}

static void *detach_elsewhere(void *guard) {
    ANSWERS(SPANRING_ERROR_THREAD, spanring_context_detach(guard));
    return NULL;
}

static void on_a_thread(void *(*what)(void *), void *with) {
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, what, with) == 0);
    CHECK(pthread_join(thread, NULL) == 0);
}

static void before_start(void) {
    ANSWERS(SPANRING_ERROR_NOT_STARTED, spanring_flush(0));
    ANSWERS(SPANRING_ERROR_NOT_STARTED, spanring_shutdown(0));
    spanring_stats counts = {.size = sizeof(counts)};
    ANSWERS(SPANRING_ERROR_NOT_STARTED, spanring_stats_get(&counts));
    /* Spans work and record nothing. */
    spanring_span span;
    ANSWERS(SPANRING_OK, spanring_span_start_named(TEXT("early"), NULL, &span));
    int32_t recording = 1;
    ANSWERS(SPANRING_OK, spanring_span_is_recording(&span, &recording));
    CHECK(recording == 0);
    ANSWERS(SPANRING_OK, spanring_span_set_int(&span, intern("key"), 1));
    ANSWERS(SPANRING_OK, spanring_span_end(&span));
    ANSWERS(SPANRING_ERROR_HANDLE, spanring_span_end(&span));
}

static void wrong_options(const char *dir) {
    spanring_setting setting = {TEXT("MAX_SPAN"), TEXT("1000")};
    spanring_options options = {.size = 1, .flags = SPANRING_IGNORE_ENVIRONMENT};
    ANSWERS(SPANRING_ERROR_SIZE, spanring_start(&options));
    options.size = sizeof(options);
    ANSWERS(SPANRING_ERROR_START, spanring_start(&options));
    options.settings_len = 1;
    ANSWERS(SPANRING_ERROR_NULL, spanring_start(&options));
    options.settings = &setting;
    ANSWERS(SPANRING_ERROR_ARGUMENT, spanring_start(&options));
    CHECK(strstr(spanring_last_error(), "is MAX_SPANS meant?"));
    setting.name = "MAX_SPANS", setting.name_len = 9;
    setting.value = "many", setting.value_len = 4;
    ANSWERS(SPANRING_ERROR_ARGUMENT, spanring_start(&options));
    CHECK(strstr(spanring_last_error(), "MAX_SPANS"));
    setting.name = "HEADERS", setting.name_len = 7;
    setting.value = "secret", setting.value_len = 6;
    ANSWERS(SPANRING_ERROR_ARGUMENT, spanring_start(&options));
    CHECK(!strstr(spanring_last_error(), "secret"));
    setting.value = "\xff", setting.value_len = 1;
    ANSWERS(SPANRING_ERROR_UTF8, spanring_start(&options));
    options.settings_len = 0, options.flags = 8;
    ANSWERS(SPANRING_ERROR_ARGUMENT, spanring_start(&options));
    ANSWERS(SPANRING_OK, start_in(dir));
    ANSWERS(SPANRING_ERROR_STARTED, start_in(dir));
}

static void wrong_spans(void) {
    uint32_t name = intern("span"), key = intern("key");
    spanring_span span, other;
    ANSWERS(SPANRING_ERROR_NULL, spanring_span_start(name, NULL, NULL));
    ANSWERS(SPANRING_ERROR_ARGUMENT, spanring_span_start(0, NULL, &span));
    ANSWERS(SPANRING_ERROR_ARGUMENT, spanring_span_start(0xffffffff, NULL, &span));
    ANSWERS(SPANRING_ERROR_NULL, spanring_span_start_named(NULL, 3, NULL, &span));
    ANSWERS(SPANRING_ERROR_UTF8, spanring_span_start_named("a\xc3(", 3, NULL, &span));
    ANSWERS(SPANRING_ERROR_ARGUMENT, spanring_span_start_named("a", SIZE_MAX, NULL, &span));
    ANSWERS(SPANRING_ERROR_NULL, spanring_span_end(NULL));
    spanring_span_options options = {.size = 3};
    ANSWERS(SPANRING_ERROR_SIZE, spanring_span_start(name, &options, &span));
    options.size = sizeof(options), options.kind = 6;
    ANSWERS(SPANRING_ERROR_ARGUMENT, spanring_span_start(name, &options, &span));
    options.kind = 0, options.flags = 8;
    ANSWERS(SPANRING_ERROR_ARGUMENT, spanring_span_start(name, &options, &span));
    options.flags = 0, options.tracer = 60000;
    ANSWERS(SPANRING_ERROR_ARGUMENT, spanring_span_start(name, &options, &span));
    options.tracer = 70000;
    ANSWERS(SPANRING_ERROR_ARGUMENT, spanring_span_start(name, &options, &span));
    spanring_context garbage;
    memset(&garbage, 0xa5, sizeof(garbage));
    options.tracer = 0, options.parent = &garbage;
    ANSWERS(SPANRING_ERROR_HANDLE, spanring_span_start(name, &options, &span));
    spanring_ids ids = {.trace_id = "sixteen bytes id"};
    options.parent = NULL, options.ids = &ids;
    ANSWERS(SPANRING_ERROR_SIZE, spanring_span_start(name, &options, &span));
    ids.size = sizeof(ids);
    ANSWERS(SPANRING_ERROR_ARGUMENT, spanring_span_start(name, &options, &span));

    /* With wrong attributes there is no span, whether it would be current or not, and what was current is so again. */
    options.ids = NULL, options.attributes_len = 1;
    ANSWERS(SPANRING_ERROR_NULL, spanring_span_start(name, &options, &span));
    options.attributes = (const uint8_t *)"\1";
    for (int way = 0; way < 3; way++) {
        options.flags = way == 1 ? SPANRING_SPAN_DETACHED : 0, options.kind = way == 2 ? SPANRING_KIND_CLIENT : 0;
        memset(&span, 0, sizeof(span));
        ANSWERS(SPANRING_ERROR_PACKED, spanring_span_start(name, &options, &span));
        ANSWERS(SPANRING_ERROR_HANDLE, spanring_span_end(&span));
    }
    spanring_context none;
    ANSWERS(SPANRING_OK, spanring_context_current(&none));
    ids.span_id[0] = 1;
    ANSWERS(SPANRING_OK, spanring_context_ids(&none, &ids));
    CHECK(ids.span_id[0] == 0);
    CHECK(stats().created == 0);

    /* Garbage, zero, a copy, a second end. */
    memset(&span, 0xa5, sizeof(span));
    ANSWERS(SPANRING_ERROR_HANDLE, spanring_span_end(&span));
    memset(&span, 0, sizeof(span));
    ANSWERS(SPANRING_ERROR_HANDLE, spanring_span_end(&span));
    ANSWERS(SPANRING_OK, spanring_span_start(name, NULL, &span));
    memcpy(&other, &span, sizeof(span));
    ANSWERS(SPANRING_ERROR_HANDLE, spanring_span_end(&other));
    ANSWERS(SPANRING_ERROR_ARGUMENT, spanring_span_set_int(&span, 0, 1));
    ANSWERS(SPANRING_ERROR_NULL, spanring_span_set_string(&span, key, NULL, 1));
    ANSWERS(SPANRING_ERROR_UTF8, spanring_span_set_string(&span, key, "\xed\xa0\x80", 3));
    ANSWERS(SPANRING_ERROR_ARGUMENT, spanring_span_set_status(&span, 3, NULL, 0));
    ANSWERS(SPANRING_ERROR_NULL, spanring_span_is_recording(&span, NULL));
    ANSWERS(SPANRING_ERROR_NULL, spanring_span_context(&span, NULL));
    ANSWERS(SPANRING_ERROR_HANDLE, spanring_span_add_link(&span, &garbage, NULL, 0));
    on_a_thread(end_elsewhere, &span);
    ANSWERS(SPANRING_OK, spanring_span_end(&span));
    ANSWERS(SPANRING_ERROR_HANDLE, spanring_span_end(&span));
    ANSWERS(SPANRING_ERROR_HANDLE, spanring_span_set_int(&span, key, 1));

    spanring_span_options detached = {.size = sizeof(detached), .flags = SPANRING_SPAN_DETACHED};
    ANSWERS(SPANRING_OK, spanring_span_start(name, &detached, &span));
    on_a_thread(end_detached, &span);
    ANSWERS(SPANRING_ERROR_HANDLE, spanring_span_end(&span));

    /* Ended in the wrong order: both are recorded. */
    ANSWERS(SPANRING_OK, spanring_span_start(name, NULL, &span));
    ANSWERS(SPANRING_OK, spanring_span_start(name, NULL, &other));
    ANSWERS(SPANRING_OK, spanring_span_end(&span));
    ANSWERS(SPANRING_OK, spanring_span_end(&other));
    CHECK(stats().created == 4);
}

static spanring_span left_open;

static void *leave_open(void *unused) {
    (void)unused;
    ANSWERS(SPANRING_OK, spanring_span_start(intern("left open"), NULL, &left_open));
    return NULL;
}

static void *end_what_was_left(void *unused) {
    (void)unused;
    ANSWERS(SPANRING_ERROR_THREAD, spanring_span_end(&left_open));
    return NULL;
}

/* Threads that come later may have the same memory as one that has ended, and are not the same. */
static void left_by_a_thread(void) {
    on_a_thread(leave_open, NULL);
    for (int i = 0; i < 20; i++) {
        on_a_thread(end_what_was_left, NULL);
    }
    ANSWERS(SPANRING_ERROR_THREAD, spanring_span_end(&left_open));
}

static void wrong_packed(void) {
    spanring_span span;
    ANSWERS(SPANRING_OK, spanring_span_start(intern("packed"), NULL, &span));
    packer good = {{0}, 0};
    pack_key(&good, "a"), pack_u8(&good, 6), pack_u32(&good, 2);
    pack_u8(&good, 2), pack_i64(&good, 1);
    pack_u8(&good, 4), pack_text(&good, "text");
    pack_u32(&good, intern("key")), pack_u8(&good, 1), pack_u8(&good, 1);
    /* Cut anywhere but at an end of an entry. */
    size_t first = good.len - 6;
    for (size_t len = 1; len < good.len; len++) {
        int32_t expected = len == first ? SPANRING_OK : SPANRING_ERROR_PACKED;
        ANSWERS(expected, spanring_span_set_attributes(&span, good.bytes, len));
    }
    /* Each byte another: an error, or other attributes, but never a crash. */
    for (size_t at = 0; at < good.len; at++) {
        for (int bit = 0; bit < 8; bit++) {
            packer bad = good;
            bad.bytes[at] ^= (unsigned char)(1 << bit);
            int32_t answer = spanring_span_set_attributes(&span, bad.bytes, bad.len);
            CHECK(answer == SPANRING_OK || answer == SPANRING_ERROR_PACKED);
        }
    }
    ANSWERS(SPANRING_ERROR_NULL, spanring_span_set_attributes(&span, NULL, 1));
    /* Arrays in arrays without end. */
    size_t len = 1 << 20;
    unsigned char *deep = malloc(len);
    CHECK(deep != NULL);
    packer head = {{0}, 0};
    pack_key(&head, "deep");
    memcpy(deep, head.bytes, head.len);
    for (size_t at = head.len; at + 5 <= len; at += 5) {
        memcpy(deep + at, "\x06\x01\x00\x00\x00", 5);
    }
    ANSWERS(SPANRING_ERROR_PACKED, spanring_span_set_attributes(&span, deep, len));
    free(deep);
    ANSWERS(SPANRING_OK, spanring_span_end(&span));
}

static void wrong_contexts(void) {
    spanring_context context, zero;
    spanring_guard guard;
    memset(&zero, 0, sizeof(zero));
    memset(&guard, 0x5a, sizeof(guard));
    ANSWERS(SPANRING_ERROR_NULL, spanring_context_current(NULL));
    ANSWERS(SPANRING_ERROR_NULL, spanring_context_ids(NULL, NULL));
    ANSWERS(SPANRING_ERROR_HANDLE, spanring_context_attach(&zero, &guard));
    ANSWERS(SPANRING_ERROR_HANDLE, spanring_context_release(&zero));
    ANSWERS(SPANRING_ERROR_HANDLE, spanring_context_detach(&guard));
    ANSWERS(SPANRING_ERROR_NULL, spanring_context_detach(NULL));
    ANSWERS(SPANRING_ERROR_PROPAGATION, spanring_context_extract(TEXT("00-0-0-0"), NULL, 0, &context));
    ANSWERS(SPANRING_ERROR_UTF8, spanring_context_extract("\xff", 1, NULL, 0, &context));
    spanring_ids ids = {.size = 8};
    ANSWERS(SPANRING_ERROR_SIZE, spanring_context_from_ids(&ids, NULL, 0, &context));
    ids.size = sizeof(ids);
    ANSWERS(SPANRING_ERROR_PROPAGATION, spanring_context_from_ids(&ids, TEXT("no state"), &context));
    ANSWERS(SPANRING_OK, spanring_context_from_ids(&ids, NULL, 0, &context));
    ids.size = 1;
    ANSWERS(SPANRING_ERROR_SIZE, spanring_context_ids(&context, &ids));
    ANSWERS(SPANRING_ERROR_NULL, spanring_context_attach(&context, NULL));
    ANSWERS(SPANRING_OK, spanring_context_attach(&context, &guard));
    on_a_thread(detach_elsewhere, &guard);
    spanring_guard moved = guard;
    ANSWERS(SPANRING_ERROR_HANDLE, spanring_context_detach(&moved));
    ANSWERS(SPANRING_OK, spanring_context_detach(&guard));
    ANSWERS(SPANRING_ERROR_HANDLE, spanring_context_detach(&guard));
    ANSWERS(SPANRING_OK, spanring_context_release(&context));
    ANSWERS(SPANRING_ERROR_HANDLE, spanring_context_release(&context));
    ANSWERS(SPANRING_ERROR_HANDLE, spanring_context_copy(&context, &zero));
    /* What an output held before is not there any more after a call that failed. */
    ANSWERS(SPANRING_OK, spanring_context_extract(
        TEXT("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"), TEXT("a=1"), &context));
    spanring_context kept = context;
    ANSWERS(SPANRING_ERROR_PROPAGATION, spanring_context_extract(TEXT("none"), NULL, 0, &context));
    ANSWERS(SPANRING_ERROR_HANDLE, spanring_context_release(&context));
    ANSWERS(SPANRING_OK, spanring_context_release(&kept));
}

static void large_and_wrong_records(void) {
    size_t len = 10 << 20;
    char *large = malloc(len);
    CHECK(large != NULL);
    memset(large, 'x', len);
    uint32_t number;
    ANSWERS(SPANRING_ERROR_FULL, spanring_intern(large, len, &number));
    spanring_span span;
    ANSWERS(SPANRING_OK, spanring_span_start_named(large, len, NULL, &span));
    ANSWERS(SPANRING_OK, spanring_span_set_string(&span, intern("large"), large, len));
    ANSWERS(SPANRING_OK, spanring_span_set_status(&span, SPANRING_STATUS_ERROR, large, len));
    ANSWERS(SPANRING_OK, spanring_span_end(&span));
    ANSWERS(SPANRING_ERROR_PROPAGATION, spanring_context_extract(large, len, large, len, (void *)&span));

    spanring_record record = {.size = sizeof(record), .name = large, .name_len = len};
    ANSWERS(SPANRING_ERROR_NULL, spanring_record_span(NULL, NULL));
    ANSWERS(SPANRING_ERROR_ARGUMENT, spanring_record_span(&record, NULL));
    record.start_unix_nano = 2, record.end_unix_nano = 1;
    ANSWERS(SPANRING_OK, spanring_record_span(&record, NULL));
    record.attributes_len = 1;
    ANSWERS(SPANRING_ERROR_NULL, spanring_record_span(&record, NULL));
    record.attributes = (const uint8_t *)"\1";
    ANSWERS(SPANRING_ERROR_PACKED, spanring_record_span(&record, NULL));
    spanring_ids ids = {.size = sizeof(ids), .span_id = "eight by"};
    record.attributes_len = 0, record.ids = &ids;
    ANSWERS(SPANRING_ERROR_ARGUMENT, spanring_record_span(&record, NULL));
    record.ids = NULL, record.flags = SPANRING_SPAN_DETACHED;
    ANSWERS(SPANRING_ERROR_ARGUMENT, spanring_record_span(&record, NULL));
    record.size--;
    ANSWERS(SPANRING_ERROR_SIZE, spanring_record_span(&record, NULL));
    free(large);
}

static void after_shutdown(const char *dir) {
    spanring_span over;
    ANSWERS(SPANRING_OK, spanring_span_start(intern("over"), NULL, &over));
    uint64_t created = stats().created;
    CHECK(created > 0);
    ANSWERS(SPANRING_OK, spanring_shutdown(SPANRING_FOREVER));
    ANSWERS(SPANRING_OK, spanring_span_end(&over));
    ANSWERS(SPANRING_OK, spanring_span_start(intern("late"), NULL, &over));
    ANSWERS(SPANRING_OK, spanring_span_end(&over));
    ANSWERS(SPANRING_ERROR_SHUT_DOWN, spanring_flush(0));
    ANSWERS(SPANRING_OK, spanring_shutdown(0));
    /* Its counts are there, and those who came too late in them. */
    CHECK(stats().created > created && stats().dropped_shut_down >= 1);
    /* And again from the beginning. */
    ANSWERS(SPANRING_OK, start_in(dir));
    CHECK(stats().created == 0);
    ANSWERS(SPANRING_OK, spanring_span_start(intern("again"), NULL, &over));
    ANSWERS(SPANRING_OK, spanring_span_end(&over));
    ANSWERS(SPANRING_OK, spanring_shutdown(SPANRING_FOREVER));
}

/* A setting from the environment that cannot be used is said, and can be asked for. */
static void messages(void) {
    char text[64];
    size_t len = sizeof(text);
    int32_t severity = -1;
    ANSWERS(SPANRING_ERROR_EMPTY, spanring_message_next(text, &len, &severity));
    ANSWERS(SPANRING_ERROR_NULL, spanring_message_next(NULL, &len, &severity));
    len = 0;
    ANSWERS(SPANRING_ERROR_BUFFER, spanring_message_next(text, &len, &severity));
    CHECK(setenv("SPANRING_MAX_SPANS", "many", 1) == 0);
    CHECK(setenv("SPANRING_DIR", "/dev/null/none", 1) == 0);
    ANSWERS(SPANRING_ERROR_START, spanring_start(NULL));
    len = sizeof(text);
    ANSWERS(SPANRING_OK, spanring_message_next(text, &len, &severity));
    CHECK(severity == 2 && len == strlen(text) && len < sizeof(text));
    CHECK(strstr(text, "SPANRING_MAX_SPANS"));
    CHECK(unsetenv("SPANRING_MAX_SPANS") == 0 && unsetenv("SPANRING_DIR") == 0);
}

int main(int count, char **arguments) {
    CHECK(count == 2);
    CHECK(spanring_last_error()[0] == 0);
    messages();
    before_start();
    wrong_options(arguments[1]);
    wrong_spans();
    left_by_a_thread();
    wrong_packed();
    wrong_contexts();
    large_and_wrong_records();
    after_shutdown(arguments[1]);
    return 0;
}
