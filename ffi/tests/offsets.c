/* The layout of every struct, as ffi/src/layout.rs has it from the other side. A change here breaks callers. */
#include <stddef.h>

#include <spanring.h>

#define OFFSET(type, field, at) _Static_assert(offsetof(type, field) == (at), #type "." #field)
#define SIZE(type, bytes) _Static_assert(sizeof(type) == (bytes), #type)

SIZE(spanring_setting, 32);
OFFSET(spanring_setting, name, 0);
OFFSET(spanring_setting, name_len, 8);
OFFSET(spanring_setting, value, 16);
OFFSET(spanring_setting, value_len, 24);

SIZE(spanring_options, 32);
OFFSET(spanring_options, size, 0);
OFFSET(spanring_options, settings, 8);
OFFSET(spanring_options, settings_len, 16);
OFFSET(spanring_options, flags, 24);
OFFSET(spanring_options, reserved, 28);

SIZE(spanring_context, 64);
SIZE(spanring_guard, 24);
SIZE(spanring_span, 24);

SIZE(spanring_ids, 40);
OFFSET(spanring_ids, size, 0);
OFFSET(spanring_ids, trace_id, 8);
OFFSET(spanring_ids, span_id, 24);
OFFSET(spanring_ids, trace_flags, 32);
OFFSET(spanring_ids, is_remote, 33);
OFFSET(spanring_ids, reserved, 34);

SIZE(spanring_span_options, 64);
OFFSET(spanring_span_options, size, 0);
OFFSET(spanring_span_options, parent, 8);
OFFSET(spanring_span_options, start_unix_nano, 16);
OFFSET(spanring_span_options, tracer, 24);
OFFSET(spanring_span_options, kind, 28);
OFFSET(spanring_span_options, flags, 32);
OFFSET(spanring_span_options, level, 36);
OFFSET(spanring_span_options, attributes, 40);
OFFSET(spanring_span_options, attributes_len, 48);
OFFSET(spanring_span_options, ids, 56);

SIZE(spanring_record, 112);
OFFSET(spanring_record, size, 0);
OFFSET(spanring_record, name, 8);
OFFSET(spanring_record, name_len, 16);
OFFSET(spanring_record, name_key, 24);
OFFSET(spanring_record, tracer, 28);
OFFSET(spanring_record, kind, 32);
OFFSET(spanring_record, status, 36);
OFFSET(spanring_record, flags, 40);
OFFSET(spanring_record, level, 44);
OFFSET(spanring_record, status_message, 48);
OFFSET(spanring_record, status_message_len, 56);
OFFSET(spanring_record, parent, 64);
OFFSET(spanring_record, start_unix_nano, 72);
OFFSET(spanring_record, end_unix_nano, 80);
OFFSET(spanring_record, attributes, 88);
OFFSET(spanring_record, attributes_len, 96);
OFFSET(spanring_record, ids, 104);
