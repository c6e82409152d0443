/* Everything that there is, used as it should be. What was recorded is compared by the script that runs this. */
#include "check.h"
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>

static atomic_int waits;

/* Takes one span, however long that takes. */
static void *take(void *subscription) {
    char line[4096];
    size_t len = sizeof(line);
    atomic_store(&waits, 1);
    ANSWERS(SPANRING_OK, spanring_subscription_next(*(uint64_t *)subscription, SPANRING_FOREVER, line, &len));
    return NULL;
}

int main(int count, char **arguments) {
    CHECK(count == 2);
    CHECK(spanring_abi_version() == SPANRING_ABI_VERSION);
    CHECK(strlen(spanring_version()) >= 5);
    ANSWERS(SPANRING_OK, start_in(arguments[1]));

    uint32_t rows = intern("db.rows"), system = intern("db.system"), name = intern("root");
    CHECK(intern("root") == name);
    uint32_t tracer = 0;
    ANSWERS(SPANRING_OK, spanring_tracer_create(TEXT("c.scope"), TEXT("1.2"), &tracer));

    /* A span with a child, which is one because the span is current. */
    spanring_span root, child;
    ANSWERS(SPANRING_OK, spanring_span_start(name, NULL, &root));
    spanring_span_options options = {
        .size = sizeof(options), .tracer = tracer, .kind = SPANRING_KIND_CLIENT};
    ANSWERS(SPANRING_OK, spanring_span_start_named(TEXT("child"), &options, &child));
    int32_t recording = 0;
    ANSWERS(SPANRING_OK, spanring_span_is_recording(&child, &recording));
    CHECK(recording == 1);
    ANSWERS(SPANRING_OK, spanring_span_set_int(&child, rows, 7));
    ANSWERS(SPANRING_OK, spanring_span_set_string(&child, system, TEXT("postgresql")));
    ANSWERS(SPANRING_OK, spanring_span_set_double(&child, intern("cost"), 1.5));
    ANSWERS(SPANRING_OK, spanring_span_set_bool(&child, intern("cached"), 1));
    packer packed = {{0}, 0};
    pack_key(&packed, "list");
    pack_u8(&packed, 6), pack_u32(&packed, 3);
    pack_u8(&packed, 2), pack_i64(&packed, -1);
    pack_u8(&packed, 4), pack_text(&packed, "two");
    pack_u8(&packed, 0);
    pack_u32(&packed, rows), pack_u8(&packed, 2), pack_i64(&packed, 8);
    pack_key(&packed, "map");
    pack_u8(&packed, 7), pack_u32(&packed, 1), pack_key(&packed, "half"), pack_u8(&packed, 3);
    pack_f64(&packed, 0.5);
    pack_key(&packed, "raw"), pack_u8(&packed, 5), pack_text(&packed, "ab");
    pack_key(&packed, "known"), pack_u8(&packed, 8), pack_u32(&packed, name);
    ANSWERS(SPANRING_OK, spanring_span_set_attributes(&child, packed.bytes, packed.len));
    packer event = {{0}, 0};
    pack_key(&event, "try"), pack_u8(&event, 1), pack_u8(&event, 1);
    ANSWERS(SPANRING_OK, spanring_span_add_event(&child, TEXT("retry"), 0, event.bytes, event.len));
    ANSWERS(SPANRING_OK, spanring_span_set_status(&child, SPANRING_STATUS_ERROR, TEXT("no rows")));
    ANSWERS(SPANRING_OK, spanring_span_update_name(&child, TEXT("query")));
    ANSWERS(SPANRING_OK, spanring_span_set_critical(&child));
    spanring_span unmade;
    ANSWERS(SPANRING_OK, spanring_thread_pause());
    ANSWERS(SPANRING_OK, spanring_span_start_named(TEXT("unmade"), NULL, &unmade));
    recording = 1;
    ANSWERS(SPANRING_OK, spanring_span_is_recording(&unmade, &recording));
    CHECK(recording == 0);
    ANSWERS(SPANRING_OK, spanring_span_end(&unmade));
    ANSWERS(SPANRING_OK, spanring_thread_resume());

    /* Its context travels to another process and back. */
    spanring_context context, remote;
    ANSWERS(SPANRING_OK, spanring_span_context(&child, &context));
    char parent[56], state[513];
    size_t state_len = sizeof(state);
    ANSWERS(SPANRING_OK, spanring_context_inject(&context, parent, state, &state_len));
    CHECK(strlen(parent) == 55 && state_len == 0);
    ANSWERS(SPANRING_OK, spanring_context_extract(TEXT(parent), TEXT("vendor=1"), &remote));
    spanring_ids ids = {.size = sizeof(ids)}, back = {.size = sizeof(back)};
    ANSWERS(SPANRING_OK, spanring_context_ids(&context, &ids));
    ANSWERS(SPANRING_OK, spanring_context_ids(&remote, &back));
    CHECK(memcmp(ids.trace_id, back.trace_id, 16) == 0 && memcmp(ids.span_id, back.span_id, 8) == 0);
    CHECK(ids.is_remote == 0 && back.is_remote == 1 && (back.trace_flags & 1) == 1);
    state_len = sizeof(state);
    ANSWERS(SPANRING_OK, spanring_context_inject(&remote, parent, state, &state_len));
    CHECK(state_len == 8 && strcmp(state, "vendor=1") == 0);
    state_len = 8;
    ANSWERS(SPANRING_ERROR_BUFFER, spanring_context_inject(&remote, parent, state, &state_len));
    CHECK(state_len == 8);

    ANSWERS(SPANRING_OK, spanring_span_end(&child));

    /* The first attributes of a span, all at once; some that are refused for their last; and one key twice. */
    spanring_span first;
    packer usual = {{0}, 0};
    pack_u32(&usual, rows), pack_u8(&usual, 2), pack_i64(&usual, -3);
    pack_u32(&usual, intern("big")), pack_u8(&usual, 2), pack_i64(&usual, INT64_MIN);
    pack_u32(&usual, intern("cached")), pack_u8(&usual, 1), pack_u8(&usual, 0);
    pack_u32(&usual, intern("cost")), pack_u8(&usual, 3), pack_f64(&usual, 0.25);
    pack_u32(&usual, system), pack_u8(&usual, 4), pack_text(&usual, "caf\xc3\xa9 redis");
    pack_u32(&usual, intern("empty")), pack_u8(&usual, 4), pack_text(&usual, "");
    pack_u32(&usual, intern("known")), pack_u8(&usual, 8), pack_u32(&usual, name);
    ANSWERS(SPANRING_OK, spanring_span_start(intern("first"), NULL, &first));
    ANSWERS(SPANRING_OK, spanring_span_set_attributes(&first, usual.bytes, usual.len));
    ANSWERS(SPANRING_OK, spanring_span_end(&first));
    ANSWERS(SPANRING_OK, spanring_span_start(intern("refused"), NULL, &first));
    ANSWERS(SPANRING_ERROR_PACKED, spanring_span_set_attributes(&first, usual.bytes, usual.len - 1));
    ANSWERS(SPANRING_OK, spanring_span_end(&first));
    packer twice = {{0}, 0};
    pack_u32(&twice, rows), pack_u8(&twice, 2), pack_i64(&twice, 1);
    pack_u32(&twice, rows), pack_u8(&twice, 2), pack_i64(&twice, 2);
    ANSWERS(SPANRING_OK, spanring_span_start(intern("twice"), NULL, &first));
    ANSWERS(SPANRING_OK, spanring_span_set_attributes(&first, twice.bytes, twice.len));
    ANSWERS(SPANRING_OK, spanring_span_end(&first));

    /* What is attached is the parent meanwhile. */
    spanring_guard guard;
    spanring_span other;
    ANSWERS(SPANRING_OK, spanring_context_attach(&remote, &guard));
    ANSWERS(SPANRING_OK, spanring_span_start_named(TEXT("from remote"), NULL, &other));
    ANSWERS(SPANRING_OK, spanring_span_add_link(&other, &context, event.bytes, event.len));
    ANSWERS(SPANRING_OK, spanring_span_end(&other));
    ANSWERS(SPANRING_OK, spanring_context_detach(&guard));
    spanring_context current;
    ANSWERS(SPANRING_OK, spanring_context_current(&current));
    ANSWERS(SPANRING_OK, spanring_context_ids(&current, &back));
    CHECK(memcmp(ids.trace_id, back.trace_id, 16) == 0 && memcmp(ids.span_id, back.span_id, 8) != 0);

    /* A span in one call, under the current one; and one that is a root. */
    spanring_record record = {.size = sizeof(record),
                              .name = "recorded",
                              .name_len = 8,
                              .status = SPANRING_STATUS_OK,
                              .start_unix_nano = 1700000000000000000,
                              .end_unix_nano = 1700000000000001000,
                              .attributes = event.bytes,
                              .attributes_len = event.len};
    spanring_context recorded;
    ANSWERS(SPANRING_OK, spanring_record_span(&record, &recorded));
    ANSWERS(SPANRING_OK, spanring_context_release(&recorded));
    record.name_key = name, record.flags = SPANRING_SPAN_ROOT, record.attributes_len = 0;
    ANSWERS(SPANRING_OK, spanring_record_span(&record, NULL));

    /* Two spans that already have IDs, the second one under the first. */
    spanring_ids given = {.size = sizeof(given), .trace_id = "sixteen bytes id", .span_id = "parent's"};
    record.name_key = intern("given"), record.ids = &given;
    spanring_context parent_given;
    ANSWERS(SPANRING_OK, spanring_record_span(&record, &parent_given));
    ANSWERS(SPANRING_OK, spanring_context_ids(&parent_given, &back));
    CHECK(memcmp(given.trace_id, back.trace_id, 16) == 0 && memcmp(given.span_id, back.span_id, 8) == 0);
    spanring_ids own = {.size = sizeof(own), .trace_id = "sixteen bytes id", .span_id = "child's "};
    spanring_span_options known = {
        .size = sizeof(known), .parent = &parent_given, .flags = SPANRING_SPAN_DETACHED, .ids = &own};
    ANSWERS(SPANRING_OK, spanring_span_start(intern("given child"), &known, &child));
    ANSWERS(SPANRING_OK, spanring_span_end(&child));

    /* With attributes from the start: few of the usual kinds, and any; current, and not. */
    spanring_span_options with = {.size = sizeof(with), .attributes = event.bytes, .attributes_len = event.len};
    ANSWERS(SPANRING_OK, spanring_span_start(intern("some from the start"), &with, &child));
    ANSWERS(SPANRING_OK, spanring_span_end(&child));
    with.attributes = packed.bytes, with.attributes_len = packed.len, with.flags = SPANRING_SPAN_DETACHED;
    ANSWERS(SPANRING_OK, spanring_span_start_named(TEXT("all from the start"), &with, &child));
    ANSWERS(SPANRING_OK, spanring_span_end(&child));
    ANSWERS(SPANRING_OK, spanring_context_release(&parent_given));

    ANSWERS(SPANRING_OK, spanring_span_end_at(&root, 1));
    spanring_context copy;
    ANSWERS(SPANRING_OK, spanring_context_copy(&remote, &copy));
    ANSWERS(SPANRING_OK, spanring_context_release(&remote));
    ANSWERS(SPANRING_OK, spanring_context_ids(&copy, &back));
    CHECK(back.is_remote == 1);
    ANSWERS(SPANRING_OK, spanring_context_release(&copy));
    ANSWERS(SPANRING_OK, spanring_context_release(&context));
    ANSWERS(SPANRING_OK, spanring_context_release(&current));
    ANSWERS(SPANRING_OK, spanring_context_release(NULL));

    ANSWERS(SPANRING_OK, spanring_flush(SPANRING_FOREVER));
    spanring_stats counts = stats();
    CHECK(counts.created == 12 && counts.sealed == 12 && counts.sink_delivered == 12);
    char json[4096];
    size_t len = 1;
    ANSWERS(SPANRING_ERROR_BUFFER, spanring_stats_json(NULL, &len));
    CHECK(len > 100 && len < sizeof(json));
    len = sizeof(json);
    ANSWERS(SPANRING_OK, spanring_stats_json(json, &len));
    CHECK(strlen(json) == len && strstr(json, "\"created\":12") && strstr(json, "\"sinks\":[{"));
    len = sizeof(json);
    ANSWERS(SPANRING_OK, spanring_metrics_json(json, &len));
    CHECK(strlen(json) == len && strstr(json, "\"created\":12"));
    len = sizeof(json);
    ANSWERS(SPANRING_OK, spanring_health_json(json, &len));
    CHECK(strlen(json) == len && strstr(json, "\"tracing_enabled\":true"));

    /* Alerts and errors, of which there are none, and a subscription. */
    len = sizeof(json);
    ANSWERS(SPANRING_OK, spanring_alerts_json(json, &len));
    CHECK(strlen(json) == len && strstr(json, "\"alerts\":[]"));
    len = sizeof(json);
    ANSWERS(SPANRING_OK, spanring_errors_json(json, &len));
    CHECK(strlen(json) == len && strstr(json, "\"errors\":[]"));
    uint64_t subscription = 0, missed = 1;
    ANSWERS(SPANRING_ERROR_NULL, spanring_subscription_open(100, NULL));
    ANSWERS(SPANRING_OK, spanring_subscription_open(100, &subscription));
    CHECK(subscription != 0);
    len = sizeof(json);
    ANSWERS(SPANRING_ERROR_EMPTY, spanring_subscription_next(subscription, 0, json, &len));
    /* Who waits in one does not hold up who asks for its count. */
    uint64_t taken = 0;
    pthread_t taking;
    ANSWERS(SPANRING_OK, spanring_subscription_open(100, &taken));
    CHECK(pthread_create(&taking, NULL, take, &taken) == 0);
    while (!atomic_load(&waits)) {
        sched_yield();
    }
    for (int round = 0; round < 10000; round++) {
        ANSWERS(SPANRING_OK, spanring_subscription_dropped(taken, &missed));
        sched_yield();
    }
    ANSWERS(SPANRING_OK, spanring_span_start(name, NULL, &child));
    ANSWERS(SPANRING_OK, spanring_span_end(&child));
    ANSWERS(SPANRING_OK, spanring_flush(SPANRING_FOREVER));
    CHECK(pthread_join(taking, NULL) == 0 && missed == 0);
    missed = 1;
    ANSWERS(SPANRING_OK, spanring_subscription_close(taken));
    ANSWERS(SPANRING_ERROR_NULL, spanring_subscription_next(subscription, SPANRING_FOREVER, json, NULL));
    len = 3;
    ANSWERS(SPANRING_ERROR_BUFFER, spanring_subscription_next(subscription, SPANRING_FOREVER, json, &len));
    CHECK(len > 100 && len < sizeof(json));
    len = sizeof(json);
    ANSWERS(SPANRING_OK, spanring_subscription_next(subscription, SPANRING_FOREVER, json, &len));
    CHECK(strlen(json) == len && strstr(json, "\"start_unix_nano\":") && strstr(json, "\"kind\":\"internal\""));
    ANSWERS(SPANRING_ERROR_EMPTY, spanring_subscription_next(subscription, 1000, json, &len));
    ANSWERS(SPANRING_OK, spanring_subscription_dropped(subscription, &missed));
    CHECK(missed == 0);
    ANSWERS(SPANRING_OK, spanring_subscription_close(subscription));
    ANSWERS(SPANRING_ERROR_HANDLE, spanring_subscription_close(subscription));
    ANSWERS(SPANRING_ERROR_HANDLE, spanring_subscription_next(subscription, 0, json, &len));
    ANSWERS(SPANRING_ERROR_HANDLE, spanring_subscription_dropped(0, &missed));

    /* Settings that change meanwhile. */
    spanring_setting changes[] = {{TEXT("sampler"), TEXT("always_off")}, {TEXT("BATCH_SIZE"), TEXT("9")}};
    ANSWERS(SPANRING_OK, spanring_settings_change(changes, 2));
    char settings[32768];
    len = sizeof(settings);
    ANSWERS(SPANRING_OK, spanring_settings_json(settings, &len));
    CHECK(strlen(settings) == len && strstr(settings, "\"value\":\"9\"") && strstr(settings, "\"source\":\"live\""));
    ANSWERS(SPANRING_OK, spanring_span_start(name, NULL, &child));
    ANSWERS(SPANRING_OK, spanring_span_is_recording(&child, &recording));
    ANSWERS(SPANRING_OK, spanring_span_end(&child));
    CHECK(recording == 0);
    changes[0].value_len = 0;
    ANSWERS(SPANRING_OK, spanring_settings_change(changes, 1));
    changes[1].name = "DIR", changes[1].name_len = 3;
    ANSWERS(SPANRING_ERROR_ARGUMENT, spanring_settings_change(changes, 2));
    ANSWERS(SPANRING_ERROR_NULL, spanring_settings_change(NULL, 1));
    ANSWERS(SPANRING_ERROR_BUFFER, (len = 1, spanring_settings_json(settings, &len)));

    ANSWERS(SPANRING_OK, spanring_after_fork_child());
    ANSWERS(SPANRING_OK, spanring_shutdown(SPANRING_FOREVER));
    return 0;
}
