/* A plugin with the library in it, or on it, for loading.c. */
#include "check.h"

void plugin_run(const char *dir, const char *name, int end);

void plugin_run(const char *dir, const char *name, int end) {
    int32_t code = start_in(dir);
    CHECK(code == SPANRING_OK || code == SPANRING_ERROR_STARTED);
    spanring_span span;
    ANSWERS(SPANRING_OK, spanring_span_start_named(TEXT(name), NULL, &span));
    ANSWERS(SPANRING_OK, spanring_span_end(&span));
    if (end) {
        ANSWERS(SPANRING_OK, spanring_shutdown(SPANRING_FOREVER));
    }
}
