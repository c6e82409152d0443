/* Fork children at awkward moments, and those that no handler of the C library's hears of.
 *
 *   children WHAT DIR
 *
 * prints how many spans `verify` must find, if that is known. */
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"

enum { THREADS = 4, ROUNDS = 60 };

static const char *dir;
static atomic_int go, stop;

static void record(const char *name) {
    spanring_span span;
    ANSWERS(SPANRING_OK, spanring_span_start_named(TEXT(name), NULL, &span));
    ANSWERS(SPANRING_OK, spanring_span_end(&span));
}

static void ends_well(pid_t pid) {
    int status = 0;
    CHECK(pid > 0 && waitpid(pid, &status, 0) == pid);
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) {
        fprintf(stderr, "a child ended with %x\n", status);
        exit(1);
    }
}

static void start_threads(pthread_t *threads, int count, void *(*work)(void *)) {
    for (int i = 0; i < count; i++) {
        CHECK(pthread_create(&threads[i], NULL, work, NULL) == 0);
    }
}

static void join(pthread_t *threads, int count) {
    for (int i = 0; i < count; i++) {
        CHECK(pthread_join(threads[i], NULL) == 0);
    }
}

static void *record_first(void *unused) {
    (void)unused;
    while (!atomic_load(&go)) {
    }
    record("first");
    record("second");
    return NULL;
}

static void *start_here(void *unused) {
    (void)unused;
    while (!atomic_load(&go)) {
    }
    int32_t code = start_in(dir);
    CHECK(code == SPANRING_OK || code == SPANRING_ERROR_STARTED);
    return NULL;
}

static void *after_fork(void *unused) {
    (void)unused;
    while (!atomic_load(&go)) {
    }
    ANSWERS(SPANRING_OK, spanring_after_fork_child());
    return NULL;
}

/* The first spans of several threads of a child, while others of them start the pipeline: whoever is first, every span is recorded. */
static void race(void) {
    ANSWERS(SPANRING_OK, start_in(dir));
    record("parent's");
    for (int round = 0; round < ROUNDS; round++) {
        pid_t pid = fork();
        if (pid == 0) {
            alarm(60);
            pthread_t threads[THREADS + 2];
            start_threads(threads, THREADS, record_first);
            start_threads(threads + THREADS, 1, round % 3 == 0 ? start_here : after_fork);
            start_threads(threads + THREADS + 1, 1, round % 3 == 1 ? start_here : after_fork);
            atomic_store(&go, 1);
            join(threads, THREADS + 2);
            spanring_stats counts = stats();
            CHECK(counts.created == 2 * THREADS && counts.dropped == 0);
            ANSWERS(SPANRING_OK, spanring_shutdown(SPANRING_FOREVER));
            CHECK(stats().sink_delivered == 2 * THREADS);
            _exit(0);
        }
        ends_well(pid);
    }
    ANSWERS(SPANRING_OK, spanring_shutdown(SPANRING_FOREVER));
    printf("%d\n", 1 + ROUNDS * 2 * THREADS);
}

static void *keep_flushing(void *unused) {
    (void)unused;
    while (!atomic_load(&stop)) {
        record("parent's");
        int32_t code = spanring_flush(SPANRING_FOREVER);
        CHECK(code == SPANRING_OK || code == SPANRING_ERROR_SHUT_DOWN || code == SPANRING_ERROR_NOT_STARTED);
    }
    return NULL;
}

static void *keep_restarting(void *unused) {
    (void)unused;
    while (!atomic_load(&stop)) {
        int32_t code = spanring_shutdown(SPANRING_FOREVER);
        CHECK(code == SPANRING_OK || code == SPANRING_ERROR_SHUT_DOWN || code == SPANRING_ERROR_NOT_STARTED);
        code = start_in(dir);
        CHECK(code == SPANRING_OK || code == SPANRING_ERROR_STARTED);
    }
    return NULL;
}

/* Forks while other threads start, flush and shut down. A child has its parent's kind of pipeline, or none if that had none just then. */
static void during(void) {
    pthread_t threads[3];
    start_threads(threads, 1, keep_restarting);
    start_threads(threads + 1, 2, keep_flushing);
    int had = 0;
    for (int round = 0; round < 5 * ROUNDS || had == 0; round++) {
        pid_t pid = fork();
        if (pid == 0) {
            alarm(60);
            record("child's");
            spanring_stats counts = {.size = sizeof(counts)};
            int32_t code = spanring_stats_get(&counts);
            if (code == SPANRING_ERROR_NOT_STARTED) {
                ANSWERS(SPANRING_OK, start_in(dir));
                record("child's");
            } else {
                CHECK(code == SPANRING_OK);
            }
            counts = stats();
            CHECK(counts.created == 1 && counts.dropped == 0);
            ANSWERS(SPANRING_OK, spanring_shutdown(SPANRING_FOREVER));
            CHECK(stats().sink_delivered == 1);
            _exit(code == SPANRING_OK ? 7 : 0);
        }
        int status = 0;
        CHECK(pid > 0 && waitpid(pid, &status, 0) == pid);
        CHECK(WIFEXITED(status) && (WEXITSTATUS(status) == 0 || WEXITSTATUS(status) == 7));
        had += WEXITSTATUS(status) == 7;
    }
    atomic_store(&stop, 1);
    join(threads, 3);
}

/* What a child does that was forked in whatever way. */
static void in_child(void) {
    alarm(60);
    ANSWERS(SPANRING_ERROR_FORKED, spanring_flush(0));
    spanring_context parents;
    ANSWERS(SPANRING_OK, spanring_context_current(&parents));
    spanring_ids ids = {.size = sizeof(ids)};
    ANSWERS(SPANRING_OK, spanring_context_ids(&parents, &ids));
    CHECK(ids.trace_flags & 1);
    ANSWERS(SPANRING_OK, spanring_context_release(&parents));
    record("child's");
    spanring_stats counts = stats();
    CHECK(counts.created == 1 && counts.dropped == 0);
    pthread_t threads[2];
    atomic_store(&go, 1);
    start_threads(threads, 2, record_first);
    join(threads, 2);
    CHECK(stats().created == 5);
    ANSWERS(SPANRING_OK, spanring_shutdown(SPANRING_FOREVER));
    CHECK(stats().sink_delivered == 5);
}

static pid_t underscore_fork(void) {
#if defined(__GLIBC__) && (__GLIBC__ > 2 || __GLIBC_MINOR__ >= 34)
    return _Fork();
#else
    return fork();
#endif
}

static pid_t raw_clone(void) { return (pid_t)syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0); }

/* Children of _Fork and of the bare system call, which run no handlers; and one of vfork, which shares its parent's memory. */
static void unheard(void) {
    ANSWERS(SPANRING_OK, start_in(dir));
    int spans = 0;
    for (int round = 0; round < ROUNDS; round++) {
        spanring_span span;
        ANSWERS(SPANRING_OK, spanring_span_start_named(TEXT("parent's"), NULL, &span));
        pid_t pid;
        if (round % 3 == 2) {
            pid = vfork();
            if (pid == 0) {
                execl("/bin/true", "true", (char *)NULL);
                _exit(1);
            }
        } else {
            /* Nobody holds malloc's locks: the flusher sleeps. */
            ANSWERS(SPANRING_OK, spanring_flush(SPANRING_FOREVER));
            pid = round % 3 == 0 ? underscore_fork() : raw_clone();
            if (pid == 0) {
                in_child();
                _exit(0);
            }
            spans += 5;
        }
        ends_well(pid);
        ANSWERS(SPANRING_OK, spanring_span_end(&span));
        spans++;
    }
    ANSWERS(SPANRING_OK, spanring_shutdown(SPANRING_FOREVER));
    printf("%d\n", spans);
}

static int messages(void) {
    char text[512];
    int32_t severity;
    int count = 0;
    for (;; count++) {
        size_t len = sizeof(text);
        int32_t code = spanring_message_next(text, &len, &severity);
        if (code == SPANRING_ERROR_EMPTY) {
            return count;
        }
        CHECK(code == SPANRING_OK);
    }
}

/* What the parent was told is not told to its children. */
static void told(void) {
    CHECK(setenv("SPANRING_MAX_SPANS", "many", 1) == 0);
    ANSWERS(SPANRING_OK, spanring_start(NULL));
    pid_t pid = fork();
    if (pid == 0) {
        alarm(60);
        CHECK(messages() == 0);
        _exit(0);
    }
    ends_well(pid);
    CHECK(messages() > 0);
}

/* A process that is killed right after a span's end, with SPANRING_FLUSH_EACH_SPAN: the span is there. */
static void killed(void) {
    ANSWERS(SPANRING_OK, start_with(dir, SPANRING_FLUSH_EACH_SPAN));
    for (int round = 0; round < ROUNDS; round++) {
        pid_t pid = fork();
        if (pid == 0) {
            alarm(60);
            record("child's");
            spanring_record whole = {.size = sizeof(whole), .name = "whole", .name_len = 5, .start_unix_nano = 1, .end_unix_nano = 2};
            ANSWERS(SPANRING_OK, spanring_record_span(&whole, NULL));
            kill(getpid(), SIGKILL);
        }
        int status = 0;
        CHECK(pid > 0 && waitpid(pid, &status, 0) == pid);
        CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
    }
    record("parent's");
    printf("%d\n", 2 * ROUNDS + 1);
    fflush(stdout);
    _exit(0);
}

int main(int count, char **arguments) {
    CHECK(count == 3);
    alarm(300);
    dir = arguments[2];
    CHECK(setenv("SPANRING_DIR", dir, 1) == 0);
    switch (arguments[1][0]) {
    case 'r': race(); break;
    case 'd': during(); break;
    case 'u': unheard(); break;
    case 'k': killed(); break;
    default: told();
    }
    return 0;
}
