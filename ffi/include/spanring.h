/* spanring: a span engine. Generated from ffi/src; to change it, change those files and run
 * UPDATE_HEADER=1 cargo test -p spanring-ffi header
 */


#ifndef SPANRING_H
#define SPANRING_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

// It worked.
#define SPANRING_OK 0

// A pointer that is needed is NULL.
#define SPANRING_ERROR_NULL 1

// A struct's `size` is none that this library knows.
#define SPANRING_ERROR_SIZE 2

// A text is not UTF-8.
#define SPANRING_ERROR_UTF8 3

// An argument has a value that it cannot have.
#define SPANRING_ERROR_ARGUMENT 4

// There is no pipeline: `spanring_start` was not called, or failed.
#define SPANRING_ERROR_NOT_STARTED 5

// There is a pipeline already.
#define SPANRING_ERROR_STARTED 6

// The struct holds no span, context or guard: it was ended before, is a copy, or never was one.
#define SPANRING_ERROR_HANDLE 7

// What is current on one thread was ended or detached on another.
#define SPANRING_ERROR_THREAD 8

// The time was up; it goes on.
#define SPANRING_ERROR_TIMED_OUT 9

// The pipeline was shut down.
#define SPANRING_ERROR_SHUT_DOWN 10

// The pipeline cannot be started; the last error says why.
#define SPANRING_ERROR_START 11

// Packed attributes are not as they must be; the last error says where.
#define SPANRING_ERROR_PACKED 12

// The buffer is too small; the length that is needed was written.
#define SPANRING_ERROR_BUFFER 13

// A header of W3C trace context cannot be used.
#define SPANRING_ERROR_PROPAGATION 14

// No more strings can be interned, or this one is too long; give it as text.
#define SPANRING_ERROR_FULL 15

// There is nothing to give.
#define SPANRING_ERROR_EMPTY 16

// A defect in spanring; it did nothing, or half of what it should. Please report it.
#define SPANRING_ERROR_INTERNAL 17

// The call was made by a fork child for what belongs to its parent.
#define SPANRING_ERROR_FORKED 18

// Version of this ABI: what is added leaves it, what breaks callers raises it.
#define SPANRING_ABI_VERSION 1

// No environment variable is read: settings come from `spanring_options` alone.
#define SPANRING_IGNORE_ENVIRONMENT 1

// The end of each span waits until the span is delivered, at most a second: for programs that end without warning.
#define SPANRING_FLUSH_EACH_SPAN 2

// As a timeout: as long as it takes.
#define SPANRING_FOREVER UINT64_MAX

// It has no parent, whatever is current.
#define SPANRING_SPAN_ROOT 1

// It is not current, so that it may end on another thread.
#define SPANRING_SPAN_DETACHED 2

// It is about details: where the settings do not want them, it is as if it were not there.
#define SPANRING_SPAN_DETAILED 4

// It is as if it were not there: its children are its parent's.
#define SPANRING_LEVEL_NONE 1

// It is kept if it has no parent in this process, or ends with an error.
#define SPANRING_LEVEL_MINIMAL 2

// It is kept if it is probably worth it, and of the others a share.
#define SPANRING_LEVEL_SMART 3

// It is kept if it is sampled.
#define SPANRING_LEVEL_FULL 4

// An operation inside a program.
#define SPANRING_KIND_INTERNAL 1

// A request that is answered.
#define SPANRING_KIND_SERVER 2

// A request that is made.
#define SPANRING_KIND_CLIENT 3

// A message that is sent.
#define SPANRING_KIND_PRODUCER 4

// A message that is handled.
#define SPANRING_KIND_CONSUMER 5

// Nothing is said.
#define SPANRING_STATUS_UNSET 0

// It went well.
#define SPANRING_STATUS_OK 1

// It failed.
#define SPANRING_STATUS_ERROR 2

// A setting by its name in docs/settings.md (`MAX_SPANS`), with the value that its environment variable would have. A package for another
// language says which by the name `telemetry.sdk.language`, which is `c` otherwise.
typedef struct {
  // The name.
  const char *name;
  // Its bytes.
  size_t name_len;
  // The value.
  const char *value;
  // Its bytes.
  size_t value_len;
} spanring_setting;

// How the pipeline is configured. Nothing is kept of it after the call.
typedef struct {
  // `sizeof(spanring_options)`.
  size_t size;
  // Settings from code; the environment overrides each of them. NULL for none.
  const spanring_setting *settings;
  // How many.
  size_t settings_len;
  // `SPANRING_IGNORE_ENVIRONMENT` and `SPANRING_FLUSH_EACH_SPAN`, together or not.
  uint32_t flags;
  // Zero.
  uint32_t reserved;
} spanring_options;

// What identifies a span to its children. Its memory is the caller's, what is in it the library's. Made by `spanring_context_current`,
// `spanring_span_context`, `spanring_context_from_ids`, `spanring_context_extract` and `spanring_context_copy`; given back by
// `spanring_context_release`, which one without tracestate does not need. May be moved in memory and used by any thread, by several at
// once, too; two bytewise copies of one are one, to be released once. A call that fails leaves none in its output.
typedef struct {
  // The library's.
  uint64_t opaque[8];
} spanring_context;

// A context in plain form.
typedef struct {
  // `sizeof(spanring_ids)`.
  size_t size;
  // In the order in which they are written; zero if there is no span.
  uint8_t trace_id[16];
  // The same.
  uint8_t span_id[8];
  // W3C trace flags: 1 is sampled, 2 is random.
  uint8_t trace_flags;
  // 1 if it came from another process, else 0.
  uint8_t is_remote;
  // Zero.
  uint8_t reserved[6];
} spanring_ids;

// A context that is current on a thread until `spanring_context_detach`. Its memory is the caller's and must not move.
typedef struct {
  // The library's.
  uint64_t opaque[3];
} spanring_guard;

// How a span starts. All zero but `size` is the default: a child of the thread's current span (a root if there is none), internal,
// started now, and current itself until it ends.
typedef struct {
  // `sizeof(spanring_span_options)`.
  size_t size;
  // The parent, NULL for the thread's current span. An invalid context makes it a root.
  const spanring_context *parent;
  // Nanoseconds since the Unix epoch; 0 for now.
  uint64_t start_unix_nano;
  // From `spanring_tracer_create`; 0 for none.
  uint32_t tracer;
  // One of `SPANRING_KIND_...`; 0 for internal.
  uint32_t kind;
  // `SPANRING_SPAN_...` together.
  uint32_t flags;
  // One of `SPANRING_LEVEL_...`; 0 for what the settings say.
  uint32_t level;
  // Packed attributes, or NULL. With an error in them no span starts.
  const uint8_t *attributes;
  // Their bytes.
  size_t attributes_len;
  // IDs that another tracer or a recording gave the span; NULL for new ones. The trace ID takes the place of the parent's, and the sampler
  // is asked in any case. Flags are not read. That no other span has them is up to the caller.
  const spanring_ids *ids;
} spanring_span_options;

// A span under way. Its memory is the caller's and must not move; what is in it is the library's. One that is never ended is never
// recorded.
typedef struct {
  // The library's.
  uint64_t opaque[3];
} spanring_span;

// A span that is over.
typedef struct {
  // `sizeof(spanring_record)`.
  size_t size;
  // The name as text; not read if `name_key` is not 0.
  const char *name;
  // Its bytes.
  size_t name_len;
  // The name as a number of `spanring_intern`, or 0.
  uint32_t name_key;
  // From `spanring_tracer_create`; 0 for none.
  uint32_t tracer;
  // One of `SPANRING_KIND_...`; 0 for internal.
  uint32_t kind;
  // One of `SPANRING_STATUS_...`.
  uint32_t status;
  // `SPANRING_SPAN_ROOT` and `SPANRING_SPAN_DETAILED`, or 0.
  uint32_t flags;
  // One of `SPANRING_LEVEL_...`, or 0.
  uint32_t level;
  // What is wrong, with the status error; or NULL.
  const char *status_message;
  // Its bytes.
  size_t status_message_len;
  // The parent, NULL for the thread's current span.
  const spanring_context *parent;
  // Nanoseconds since the Unix epoch; not 0.
  uint64_t start_unix_nano;
  // The same.
  uint64_t end_unix_nano;
  // Packed attributes, or NULL.
  const uint8_t *attributes;
  // Their bytes.
  size_t attributes_len;
  // IDs that another tracer or a recording gave the span; NULL for new ones, as in `spanring_span_options`.
  const spanring_ids *ids;
} spanring_record;

// Counts of the pipeline. `created` = `sealed` + `dropped` + `resident`; over all sinks, `sink_sealed` + `sink_adopted` = `sink_delivered` +
// `sink_dropped` + `sink_queued` + `sink_spooled`. All are spans if nothing else is said.
typedef struct {
  // `sizeof(spanring_stats)`.
  size_t size;
  // Spans that ended recording.
  uint64_t created;
  // Spans in sealed batches.
  uint64_t sealed;
  // Recorded and not yet sealed.
  uint64_t resident;
  // The most that were.
  uint64_t resident_max;
  // Dropped, for all reasons.
  uint64_t dropped;
  // Dropped: `MAX_SPANS` were resident.
  uint64_t dropped_budget;
  // Dropped: no ring memory under `MAX_BYTES`.
  uint64_t dropped_ring_full;
  // Dropped: attributes, events and links did not fit under `MAX_BYTES`.
  uint64_t dropped_value_too_large;
  // Dropped: ended inside the engine, in a signal handler.
  uint64_t dropped_re_entrant;
  // Dropped: began or ended after shutdown.
  uint64_t dropped_shut_down;
  // Dropped: the batch could not be encoded.
  uint64_t dropped_encode;
  // Dropped: at the level minimal, and without an error.
  uint64_t dropped_by_rule;
  // Attributes that limits or missing memory kept out of spans.
  uint64_t attributes_dropped;
  // Batches sealed.
  uint64_t batches;
  // Their bytes.
  uint64_t bytes;
  // Sealed, once for each sink.
  uint64_t sink_sealed;
  // Left by earlier processes.
  uint64_t sink_adopted;
  // Taken by sinks.
  uint64_t sink_delivered;
  // Not taken, for all reasons.
  uint64_t sink_dropped;
  // Waiting in memory, or under way.
  uint64_t sink_queued;
  // Waiting on disk.
  uint64_t sink_spooled;
  // Sent again although an answer may have been lost.
  uint64_t sink_repeated;
} spanring_stats;

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

// What the last call on this thread that failed said, in English, ended by a zero byte; empty if none has failed. Never NULL. It stays as
// it is until the next call on this thread fails, or the thread ends.
const char *spanring_last_error(void);

// The version of the ABI that the library has: compare it with `SPANRING_ABI_VERSION` of the header.
uint32_t spanring_abi_version(void);

// The library's version, ended by a zero byte, for the process's life.
const char *spanring_version(void);

// Starts the process's pipeline. `options` may be NULL: everything comes from the environment then. Its one thread starts with the first span.
//
// A fork child whose parent had a pipeline gets one like it, with the same settings, with its first span; nothing is to be done for that. At process exit the
// pipeline is shut down by itself. A setting that cannot be used is an error if it comes from `options`, and reported on standard error
// if it comes from the environment.
//
// # Safety
//
// `options` is NULL or readable, with everything that it points to.
int32_t spanring_start(const spanring_options *options);

// Changes settings while the pipeline runs, all or, with an error, none; they are in force for the next span. Names and values are as in
// `spanring_options`; an empty value takes back what was given here. They win over the environment, and over the file that `CONFIG` names
// until that says something new. Only settings that docs/settings.md calls live can be changed. Fork children have them, too.
//
// # Safety
//
// `settings` has `settings_len` settings, whose texts have so many bytes.
int32_t spanring_settings_change(const spanring_setting *settings,
                                 size_t settings_len);

// Gives the settings in force as JSON, ended by a zero byte: for each its name, value (null for none), source, whether it is live, its default
// and what it does. Secrets are not in it. `len` is as for `spanring_stats_json`.
//
// # Safety
//
// As for `spanring_stats_json`.
int32_t spanring_settings_json(char *out,
                               size_t *len);

// Waits until everything recorded before is delivered or given up, at most so many nanoseconds. Blocks: a host with a lock of its own
// around its code (as Python and Ruby have) gives it back meanwhile.
int32_t spanring_flush(uint64_t timeout_nano);

// Delivers what is there and ends the pipeline, within so many nanoseconds; what cannot be delivered by then is dropped and counted. Spans
// that end later are counted as dropped. Blocks as `spanring_flush` does. Its counts can be asked for until another is started, which
// is possible once this has answered `SPANRING_OK`; with `SPANRING_ERROR_TIMED_OUT` it goes on ending: call again.
int32_t spanring_shutdown(uint64_t timeout_nano);

// Spans that the calling thread begins are not made from now on, as if there were no pipeline, until `spanring_thread_resume`: to measure what
// tracing costs, by running something with it and without. Other threads go on; twice is once. Not for switching tracing off: that is
// the setting DISABLED.
int32_t spanring_thread_pause(void);

// Spans of the calling thread are made again. Without a pause it does nothing.
int32_t spanring_thread_resume(void);

// Starts the pipeline of a fork child now instead of with its first span. Never needed; does nothing elsewhere. Answers why, if it cannot be
// started; it may be called again.
int32_t spanring_after_fork_child(void);

// Gives the context of the span that is current on this thread; an invalid one if there is none.
//
// # Safety
//
// `out` is writable.
int32_t spanring_context_current(spanring_context *out);

// Gives the same context once more, to be released by itself.
//
// # Safety
//
// `context` is readable, `out` writable.
int32_t spanring_context_copy(const spanring_context *context, spanring_context *out);

// Gives back what a context holds; its memory holds none then. NULL does nothing.
//
// # Safety
//
// `context` is NULL or writable, and nobody else uses it meanwhile.
int32_t spanring_context_release(spanring_context *context);

// Gives the IDs and flags of a context; all zero for an invalid one. `out->size` must be set before.
//
// # Safety
//
// `context` is readable, `out` writable.
int32_t spanring_context_ids(const spanring_context *context,
                             spanring_ids *out);

// Makes a context from IDs, with a tracestate (empty for none). With an ID of zero it is invalid: its children are roots.
//
// # Safety
//
// `ids` is readable, `trace_state` has `trace_state_len` bytes, `out` is writable.
int32_t spanring_context_from_ids(const spanring_ids *ids,
                                  const char *trace_state,
                                  size_t trace_state_len,
                                  spanring_context *out);

// Makes `context` current on this thread until the guard is detached: spans that start meanwhile are its children. The context may
// be released at once.
//
// # Safety
//
// `context` is readable, `out` writable, and its memory stays where it is.
int32_t spanring_context_attach(const spanring_context *context,
                                spanring_guard *out);

// Ends what `spanring_context_attach` began: what was current before is so again. On the same thread, once; guards may be detached in any
// order.
//
// # Safety
//
// `guard` is readable and writable.
int32_t spanring_context_detach(spanring_guard *guard);

// Writes the context as W3C `traceparent` and `tracestate`, for a request to another process. Both are ended by a zero byte, which
// the lengths leave out. With an invalid context, both are empty: send neither.
//
// `traceparent` has 56 bytes. `trace_state_len` says how many bytes `trace_state` has, and afterwards how long it is; 513 are enough
// for what spanring makes itself. If they are not, the code is `SPANRING_ERROR_BUFFER` and the length that is needed is written.
//
// # Safety
//
// `context` is readable, the outputs are writable with so many bytes.
int32_t spanring_context_inject(const spanring_context *context,
                                char *traceparent,
                                char *trace_state,
                                size_t *trace_state_len);

// Reads a remote context from a request's `traceparent` and `tracestate` (empty if there is none). A tracestate that cannot be used is
// left out, as W3C says; a traceparent that cannot be used is an error: start a root then.
//
// # Safety
//
// The texts have so many bytes, `out` is writable.
int32_t spanring_context_extract(const char *traceparent,
                                 size_t traceparent_len,
                                 const char *trace_state,
                                 size_t trace_state_len,
                                 spanring_context *out);

// Keeps a name or a key for the life of the process and gives its number, with which spans are cheaper. The same text has the same
// number. At most 256 bytes; some sixteen thousand texts are kept, beyond them the code is `SPANRING_ERROR_FULL`: give them as text. A fork
// child gets that too for what its parent had not interned, if another thread was interning when it was forked.
//
// # Safety
//
// `data` has `len` bytes, `out` is writable.
int32_t spanring_intern(const char *data,
                        size_t len,
                        uint32_t *out);

// Registers an instrumentation scope and gives its number, for the process's life. The same name and version have the same number.
//
// # Safety
//
// The texts have so many bytes, `out` is writable.
int32_t spanring_tracer_create(const char *name,
                               size_t name_len,
                               const char *version,
                               size_t version_len,
                               uint32_t *out);

// Whether rules of sampling look at attributes: 1, else 0. While it is 0, and no level is smart, it does not matter whether attributes are
// given in `spanring_span_options` or set after the start.
int32_t spanring_attributes_matter(void);

// Starts a span whose name is a number of `spanring_intern`. `options` may be NULL.
//
// Without a pipeline, and for spans that are not sampled, it works the same and records nothing.
//
// # Safety
//
// `options` is NULL or readable, as is what it points to, `out` writable, and its memory stays where it is until the span has ended.
int32_t spanring_span_start(uint32_t name,
                            const spanring_span_options *options,
                            spanring_span *out);

// Starts a span whose name is a text. `options` may be NULL.
//
// # Safety
//
// As for `spanring_span_start`, and `name` has `name_len` bytes.
int32_t spanring_span_start_named(const char *name,
                                  size_t name_len,
                                  const spanring_span_options *options,
                                  spanring_span *out);

// Ends a span now. Its memory holds none then. What was current before it is so again.
//
// # Safety
//
// `span` is readable and writable, and no other thread uses it meanwhile.
int32_t spanring_span_end(spanring_span *span);

// Ends a span at a time in nanoseconds since the Unix epoch; 0 is now. A time before its start becomes its start.
//
// # Safety
//
// As for `spanring_span_end`.
int32_t spanring_span_end_at(spanring_span *span,
                             uint64_t end_unix_nano);

// Whether what is set on a span is recorded: 1, else 0. To find out before a value is computed.
//
// # Safety
//
// `span` is readable, `out` writable.
int32_t spanring_span_is_recording(const spanring_span *span, int32_t *out);

// Gives a span's context, for children elsewhere. Release it.
//
// # Safety
//
// `span` is readable, `out` writable.
int32_t spanring_span_context(const spanring_span *span, spanring_context *out);

// Sets an attribute to a text. The key is a number of `spanring_intern`. The last value of a key counts.
//
// # Safety
//
// `span` is readable and no other thread uses it meanwhile, `value` has `value_len` bytes.
int32_t spanring_span_set_string(spanring_span *span,
                                 uint32_t key,
                                 const char *value,
                                 size_t value_len);

// Sets an attribute to an integer.
//
// # Safety
//
// `span` is readable and no other thread uses it meanwhile.
int32_t spanring_span_set_int(spanring_span *span, uint32_t key, int64_t value);

// Sets an attribute to a floating-point number.
//
// # Safety
//
// As for `spanring_span_set_int`.
int32_t spanring_span_set_double(spanring_span *span, uint32_t key, double value);

// Sets an attribute to true (not 0) or false.
//
// # Safety
//
// As for `spanring_span_set_int`.
int32_t spanring_span_set_bool(spanring_span *span, uint32_t key, int32_t value);

// Sets packed attributes, all or, with an error, none.
//
// # Safety
//
// As for `spanring_span_set_int`, and `packed` has `packed_len` bytes.
int32_t spanring_span_set_attributes(spanring_span *span, const uint8_t *packed, size_t packed_len);

// Adds an event at a time in nanoseconds since the Unix epoch, 0 for now, with packed attributes.
//
// # Safety
//
// As for `spanring_span_set_int`, and the texts have so many bytes.
int32_t spanring_span_add_event(spanring_span *span,
                                const char *name,
                                size_t name_len,
                                uint64_t time_unix_nano,
                                const uint8_t *packed,
                                size_t packed_len);

// Links a span to another one, with packed attributes. A link to an invalid context is left out.
//
// # Safety
//
// As for `spanring_span_set_int`, `context` is readable, and `packed` has `packed_len` bytes.
int32_t spanring_span_add_link(spanring_span *span,
                               const spanring_context *context,
                               const uint8_t *packed,
                               size_t packed_len);

// Sets a span's status, one of `SPANRING_STATUS_...`, with a message for errors. As in OpenTelemetry, ok is final.
//
// # Safety
//
// As for `spanring_span_set_int`, and `message` has `message_len` bytes.
int32_t spanring_span_set_status(spanring_span *span,
                                 uint32_t code,
                                 const char *message,
                                 size_t message_len);

// Gives a span another name.
//
// # Safety
//
// As for `spanring_span_set_int`, and `name` has `name_len` bytes.
int32_t spanring_span_update_name(spanring_span *span, const char *name, size_t name_len);

// Has the flusher woken when the span ends, and takes a reserve of the budget for it.
//
// # Safety
//
// As for `spanring_span_set_int`.
int32_t spanring_span_set_critical(spanring_span *span);

// Records a span that is over, in one call. `out`, if it is not NULL, gets its context, for children and links; release it.
//
// # Safety
//
// `record` and what it points to is readable, `out` NULL or writable.
int32_t spanring_record_span(const spanring_record *record,
                             spanring_context *out);

// Gives the counts. `out->size` must be set before.
//
// # Safety
//
// `out` is readable and writable.
int32_t spanring_stats_get(spanring_stats *out);

// Gives the oldest message of the library that was not given yet, ended by a zero byte, with its severity: 0 fatal, 1 error, 2 warning,
// 3 information, 4 debugging. They are written on standard error as well; the last 64 are kept. `SPANRING_ERROR_EMPTY` if there is
// none. `len` says how many bytes `out` has, and afterwards how long the text is; a longer one is cut.
//
// # Safety
//
// `out` is writable for `*len` bytes, `len` and `severity` readable and writable.
int32_t spanring_message_next(char *out,
                              size_t *len,
                              int32_t *severity);

// Gives the counts as JSON, with each sink by itself, ended by a zero byte. `len` says how many bytes `out` has, and afterwards how long the
// text is; with `SPANRING_ERROR_BUFFER`, how long it would be.
//
// # Safety
//
// `out` is writable for `*len` bytes (NULL if that is 0), `len` readable and writable.
int32_t spanring_stats_json(char *out,
                            size_t *len);

// Gives what is measured as JSON (docs/status.md): the counts, memory, time, and with METRICS the spans by name and kind. `len` as for
// `spanring_stats_json`; between two calls the text may grow.
//
// # Safety
//
// As for [`spanring_stats_json`].
int32_t spanring_metrics_json(char *out,
                              size_t *len);

// Gives whether tracing is well as JSON (docs/status.md): `healthy`, and the `reasons` why not. `len` as for
// `spanring_stats_json`; between two calls the text may grow.
//
// # Safety
//
// As for [`spanring_stats_json`].
int32_t spanring_health_json(char *out,
                             size_t *len);

// Gives and takes the alerts since the last call as JSON (docs/alerts.md). `len` as for `spanring_stats_json`; with `SPANRING_ERROR_BUFFER` they
// stay, and between two calls there may be more.
//
// # Safety
//
// As for [`spanring_stats_json`].
int32_t spanring_alerts_json(char *out,
                             size_t *len);

// Gives the errors that were seen, by name, type and message, as JSON (docs/processors.md). `len` as for `spanring_stats_json`; between two calls
// the text may grow.
//
// # Safety
//
// As for [`spanring_stats_json`].
int32_t spanring_errors_json(char *out,
                             size_t *len);

// Opens a subscription: the host takes finished spans with `spanring_subscription_next`. About `spans_max` of them wait; of more, whole
// batches are dropped and counted. `out` gets its number, which is never zero. It ends with `spanring_subscription_close`, and with the
// pipeline.
//
// # Safety
//
// `out` is writable.
int32_t spanring_subscription_open(uint64_t spans_max,
                                   uint64_t *out);

// Gives the next finished span as a line of JSON, ended by a zero byte (docs/processors.md has its fields), and waits for one at most
// `timeout` nanoseconds. The code is `SPANRING_ERROR_EMPTY` if none came, and `SPANRING_ERROR_SHUT_DOWN` if none will. `len` says how many
// bytes `out` has, and afterwards how long the text is; with `SPANRING_ERROR_BUFFER`, how long it would be: the span is given again then.
// One thread at a time is served.
//
// # Safety
//
// `out` is writable for `*len` bytes (NULL if that is 0), `len` readable and writable.
int32_t spanring_subscription_next(uint64_t subscription,
                                   uint64_t timeout,
                                   char *out,
                                   size_t *len);

// Gives how many spans were dropped because nobody took those before them; at once, also while another thread waits for the next span.
//
// # Safety
//
// `out` is writable.
int32_t spanring_subscription_dropped(uint64_t subscription,
                                      uint64_t *out);

// Ends a subscription; what waits is given up. A thread that waits in `spanring_subscription_next` gets what comes, or its time is up.
int32_t spanring_subscription_close(uint64_t subscription);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* SPANRING_H */
