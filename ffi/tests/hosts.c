/* What hosts that are not Rust's do to a library: signals with their default actions, cancelled threads, fork children with
 * threads. The library costs none of them the process. */
#include <pthread.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"

static void record(const char *name) {
    spanring_span span;
    ANSWERS(SPANRING_OK, spanring_span_start_named(TEXT(name), NULL, &span));
    ANSWERS(SPANRING_OK, spanring_span_end(&span));
}

/* Nobody reads standard error, on which the library says that nobody takes the spans. */
static void broken_pipe(void) {
    int ends[2];
    CHECK(pipe(ends) == 0 && dup2(ends[1], 2) == 2);
    CHECK(close(ends[0]) == 0 && close(ends[1]) == 0);
    CHECK(signal(SIGPIPE, SIG_DFL) != SIG_ERR);
    /* Once from the thread that starts, once from the library's own. */
    CHECK(setenv("SPANRING_MAX_SPANS", "many", 1) == 0);
    CHECK(setenv("SPANRING_ENDPOINT", "http://127.0.0.1:1", 1) == 0);
    ANSWERS(SPANRING_OK, spanring_start(NULL));
    record("unheard");
    while (spanring_flush(1000000) == SPANRING_ERROR_TIMED_OUT) {
        char text[256];
        size_t len = sizeof(text);
        int32_t severity;
        if (spanring_message_next(text, &len, &severity) == SPANRING_OK && strstr(text, "127.0.0.1:1")) {
            break;
        }
    }
    sigset_t pending;
    CHECK(sigpending(&pending) == 0 && !sigismember(&pending, SIGPIPE));
    spanring_shutdown(0);
}

/* A file may have less than what is recorded. */
static void short_files(const char *dir) {
    struct rlimit limit = {4096, 4096};
    CHECK(setrlimit(RLIMIT_FSIZE, &limit) == 0);
    CHECK(signal(SIGXFSZ, SIG_DFL) != SIG_ERR);
    ANSWERS(SPANRING_OK, start_in(dir));
    for (int i = 0; i < 20000; i++) {
        char name[32];
        snprintf(name, sizeof(name), "name %d", i * 7919 % 20011);
        record(name);
    }
    CHECK(spanring_flush(100000000) != SPANRING_OK);
    spanring_shutdown(0);
}

static void *cancelled(void *dir) {
    CHECK(pthread_cancel(pthread_self()) == 0);
    ANSWERS(SPANRING_OK, start_in(dir));
    record("cancelled");
    ANSWERS(SPANRING_OK, spanring_flush(SPANRING_FOREVER));
    ANSWERS(SPANRING_OK, spanring_shutdown(SPANRING_FOREVER));
    pthread_testcancel();
    return NULL;
}

static void cancel(char *dir) {
    pthread_t thread;
    void *result = NULL;
    CHECK(pthread_create(&thread, NULL, cancelled, dir) == 0 && pthread_join(thread, &result) == 0);
    CHECK(result == PTHREAD_CANCELED);
    CHECK(stats().sink_delivered == 1);
}

static void *intern_all(void *unused) {
    (void)unused;
    for (int i = 0; i < 2000; i++) {
        char text[32];
        snprintf(text, sizeof(text), "text %d", i);
        intern(text);
    }
    return NULL;
}

/* Threads of a fork child wait for each other. */
static void intern_in_a_child(void) {
    intern("before");
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
        alarm(60);
        pthread_t threads[8];
        for (int i = 0; i < 8; i++) {
            CHECK(pthread_create(&threads[i], NULL, intern_all, NULL) == 0);
        }
        for (int i = 0; i < 8; i++) {
            CHECK(pthread_join(threads[i], NULL) == 0);
        }
        _exit(0);
    }
    int status = 0;
    CHECK(waitpid(pid, &status, 0) == pid && WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

int main(int count, char **arguments) {
    CHECK(count == 3);
    alarm(120);
    switch (arguments[1][0]) {
    case 'p': broken_pipe(); break;
    case 'f': short_files(arguments[2]); break;
    case 'c': cancel(arguments[2]); break;
    default: intern_in_a_child();
    }
    return 0;
}
