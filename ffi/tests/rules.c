/* Rules of sampling and levels: what they see of spans that start, in each way in which they can. */
#include "check.h"

static int32_t recording(const spanring_span *span) {
    int32_t is = -1;
    ANSWERS(SPANRING_OK, spanring_span_is_recording(span, &is));
    return is;
}

/* Whether a span with that number of rows records; it ends. */
static int32_t starts(const char *name, spanring_span_options *options, int64_t rows) {
    packer packed = {.len = 0};
    pack_key(&packed, "priority");
    pack_u8(&packed, 4);
    pack_text(&packed, rows == 7 ? "high" : "low");
    pack_u32(&packed, intern("rows"));
    pack_u8(&packed, 2);
    pack_i64(&packed, rows);
    spanring_span_options usual = {.size = sizeof(usual)};
    options = options ? options : &usual;
    options->attributes = packed.bytes, options->attributes_len = packed.len;
    spanring_span span;
    ANSWERS(SPANRING_OK, spanring_span_start(intern(name), options, &span));
    int32_t is = recording(&span);
    ANSWERS(SPANRING_OK, spanring_span_end(&span));
    ANSWERS(SPANRING_OK, spanring_span_start_named(TEXT(name), options, &span));
    CHECK(recording(&span) == is);
    /* An error in them is one, whatever the rules. */
    spanring_span wrong;
    options->attributes_len--;
    ANSWERS(SPANRING_ERROR_PACKED, spanring_span_start(intern(name), options, &wrong));
    ANSWERS(SPANRING_OK, spanring_span_end(&span));
    return is;
}

int main(int argc, char **argv) {
    CHECK(argc == 2);
    CHECK(spanring_attributes_matter() == 0);
    spanring_setting settings[] = {{TEXT("DIR"), TEXT(argv[1])},
                                   {TEXT("RULES"), TEXT("rows>=100 -> always; kind=server -> never; priority=high -> always; -> never")},
                                   {TEXT("LEVELS"), TEXT("hidden*=none; scope:quiet=minimal")}};
    spanring_options start = {
        .size = sizeof(start), .settings = settings, .settings_len = 3, .flags = SPANRING_IGNORE_ENVIRONMENT};
    ANSWERS(SPANRING_OK, spanring_start(&start));
    CHECK(spanring_attributes_matter() == 1);

    CHECK(starts("query", NULL, 100) == 1);
    CHECK(starts("query", NULL, 99) == 0);
    CHECK(starts("query", NULL, 7) == 1);
    spanring_span_options options = {.size = sizeof(options), .flags = SPANRING_SPAN_DETACHED | SPANRING_SPAN_ROOT};
    CHECK(starts("query", &options, 100) == 1 && starts("query", &options, 99) == 0);
    options.kind = SPANRING_KIND_SERVER;
    CHECK(starts("query", &options, 100) == 1 && starts("query", &options, 7) == 0);
    options.start_unix_nano = 1000000000;
    CHECK(starts("query", &options, 100) == 1 && starts("query", &options, 7) == 0);
    CHECK(starts("hidden", &options, 100) == 0);
    options.level = SPANRING_LEVEL_FULL;
    CHECK(starts("hidden", &options, 100) == 1);
    options.level = 9;
    spanring_span span;
    ANSWERS(SPANRING_ERROR_ARGUMENT, spanring_span_start(intern("query"), &options, &span));
    options = (spanring_span_options){.size = sizeof(options), .flags = SPANRING_SPAN_DETAILED};
    CHECK(starts("query", &options, 100) == 0);
    spanring_setting detailed = {TEXT("DETAILED_TRACING"), TEXT("true")};
    ANSWERS(SPANRING_OK, spanring_settings_change(&detailed, 1));
    CHECK(starts("query", &options, 100) == 1);

    /* Children of what is not there are their grandparent's; of the level minimal there are errors. */
    uint32_t quiet = 0;
    ANSWERS(SPANRING_OK, spanring_tracer_create(TEXT("quiet"), TEXT(""), &quiet));
    packer rows = {.len = 0};
    pack_u32(&rows, intern("rows"));
    pack_u8(&rows, 2);
    pack_i64(&rows, 100);
    spanring_span root, hidden, child;
    options = (spanring_span_options){.size = sizeof(options), .attributes = rows.bytes, .attributes_len = rows.len};
    ANSWERS(SPANRING_OK, spanring_span_start(intern("root"), &options, &root));
    ANSWERS(SPANRING_OK, spanring_span_start(intern("hidden"), NULL, &hidden));
    spanring_context contexts[2];
    ANSWERS(SPANRING_OK, spanring_span_context(&root, &contexts[0]));
    ANSWERS(SPANRING_OK, spanring_span_context(&hidden, &contexts[1]));
    spanring_ids ids[2] = {{.size = sizeof(spanring_ids)}, {.size = sizeof(spanring_ids)}};
    for (int at = 0; at < 2; at++) {
        ANSWERS(SPANRING_OK, spanring_context_ids(&contexts[at], &ids[at]));
        ANSWERS(SPANRING_OK, spanring_context_release(&contexts[at]));
    }
    CHECK(memcmp(&ids[0], &ids[1], sizeof(ids[0])) == 0);
    spanring_stats before = stats();
    options = (spanring_span_options){.size = sizeof(options), .tracer = quiet};
    ANSWERS(SPANRING_OK, spanring_span_start(intern("child"), &options, &child));
    CHECK(recording(&child) == 1);
    ANSWERS(SPANRING_OK, spanring_span_end(&child));
    ANSWERS(SPANRING_OK, spanring_span_start(intern("child"), &options, &child));
    ANSWERS(SPANRING_OK, spanring_span_set_status(&child, SPANRING_STATUS_ERROR, TEXT("why")));
    ANSWERS(SPANRING_OK, spanring_span_end(&child));
    ANSWERS(SPANRING_OK, spanring_span_end(&hidden));
    ANSWERS(SPANRING_OK, spanring_span_end(&root));
    spanring_stats after = stats();
    CHECK(after.created - before.created == 3 && after.dropped_by_rule == 1 && after.dropped == 1);

    spanring_record record = {.size = sizeof(record),
                              .name = "whole",
                              .name_len = 5,
                              .start_unix_nano = 1,
                              .end_unix_nano = 2,
                              .attributes = rows.bytes,
                              .attributes_len = rows.len};
    ANSWERS(SPANRING_OK, spanring_record_span(&record, NULL));
    record.level = SPANRING_LEVEL_NONE;
    ANSWERS(SPANRING_OK, spanring_record_span(&record, NULL));
    record.level = 0, record.attributes_len = 0;
    ANSWERS(SPANRING_OK, spanring_record_span(&record, NULL));
    CHECK(stats().created - after.created == 1);
    ANSWERS(SPANRING_OK, spanring_shutdown(60000000000u));
    CHECK(spanring_attributes_matter() == 0);
    return 0;
}
