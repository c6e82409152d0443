/* Forks while four threads record and the flusher sends, to files and a receiver: a child has a pipeline of its own with its first span,
 * sends nothing of its parent's, and ends. storm.py runs it and says what it prints. */
#include <pthread.h>
#include <stdatomic.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"

enum { THREADS = 4, AT_ONCE = 4, SPANS = 60 };

static atomic_int stop;
static uint32_t name, process_key, under_key, number_key;
/* The process's number, as storm.py has it. */
static int process;

static void record(long number, int under) {
    spanring_span span;
    ANSWERS(SPANRING_OK, spanring_span_start(name, NULL, &span));
    ANSWERS(SPANRING_OK, spanring_span_set_int(&span, process_key, process));
    ANSWERS(SPANRING_OK, spanring_span_set_int(&span, number_key, number));
    if (under) {
        ANSWERS(SPANRING_OK, spanring_span_set_int(&span, under_key, 1));
    }
    ANSWERS(SPANRING_OK, spanring_span_end(&span));
}

/* A span, and in it another. */
static void *keep_recording(void *unused) {
    (void)unused;
    for (long number = 0; !atomic_load(&stop); number++) {
        spanring_span outer;
        ANSWERS(SPANRING_OK, spanring_span_start(name, NULL, &outer));
        ANSWERS(SPANRING_OK, spanring_span_set_int(&outer, process_key, process));
        record(number, 1);
        ANSWERS(SPANRING_OK, spanring_span_end(&outer));
        usleep(200);
    }
    return NULL;
}

static void *record_some(void *unused) {
    (void)unused;
    for (long number = 0; number < SPANS / THREADS; number++) {
        record(number, 0);
    }
    return NULL;
}

static void say(unsigned long long spans) {
    printf("%d %llu\n", process, spans);
    fflush(stdout);
}

/* All is delivered, and the counts say so. */
static void settle(unsigned long long spans) {
    ANSWERS(SPANRING_OK, spanring_flush(SPANRING_FOREVER));
    spanring_stats counts = stats();
    CHECK(counts.created == spans && counts.dropped == 0 && counts.sealed == spans);
    CHECK(counts.sink_dropped == 0 && counts.sink_delivered == 2 * spans + counts.sink_adopted);
}

static void wait_for(pid_t pid) {
    int status = 0;
    pid_t ended = waitpid(pid, &status, 0);
    CHECK(ended > 0 && (pid == -1 || ended == pid));
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

/* Never comes back. `parents` is current, and was begun before the fork. */
static void child(int way, spanring_span *parents) {
    alarm(120);
    ANSWERS(SPANRING_ERROR_FORKED, spanring_flush(0));
    pid_t pid = 1;
    if (way == 1) {
        /* Forked by a child that has recorded nothing yet. */
        pid = fork();
    }
    if (way == 2) {
        pthread_t threads[THREADS];
        for (int i = 0; i < THREADS; i++) {
            CHECK(pthread_create(&threads[i], NULL, record_some, NULL) == 0);
        }
        for (int i = 0; i < THREADS; i++) {
            CHECK(pthread_join(threads[i], NULL) == 0);
        }
    } else {
        for (long number = 0; number < SPANS / 2 && pid != 0; number++) {
            record(number, 1);
        }
        if (way == 3) {
            pid = fork();
        }
        if (pid == 0) {
            alarm(120);
            process = -process;
            for (long number = 0; number < SPANS / 2; number++) {
                record(number, 1);
            }
        }
        /* It writes nothing here. */
        ANSWERS(SPANRING_OK, spanring_span_end(parents));
        for (long number = SPANS / 2; number < SPANS; number++) {
            record(number, 0);
        }
    }
    settle(SPANS);
    if (pid > 1) {
        wait_for(pid);
    }
    if (way == 4) {
        record(SPANS, 0);
        say(SPANS + 1);
        /* Which delivers the last one. */
        exit(0);
    }
    say(SPANS);
    if (way == 5) {
        ANSWERS(SPANRING_OK, spanring_shutdown(SPANRING_FOREVER));
    }
    _exit(0);
}

int main(int count, char **arguments) {
    CHECK(count == 4);
    name = intern("forked");
    process_key = intern("process"), under_key = intern("under"), number_key = intern("number");
    spanring_setting settings[] = {{TEXT("DIR"), TEXT(arguments[1])}, {TEXT("ENDPOINT"), TEXT(arguments[2])}};
    spanring_options options = {.size = sizeof(options), .settings = settings, .settings_len = 2, .flags = SPANRING_IGNORE_ENVIRONMENT};
    ANSWERS(SPANRING_OK, spanring_start(&options));
    pthread_t threads[THREADS];
    for (int i = 0; i < THREADS; i++) {
        CHECK(pthread_create(&threads[i], NULL, keep_recording, NULL) == 0);
    }
    int forks = atoi(arguments[3]);
    for (int number = 1; number <= forks; number++) {
        spanring_span span;
        ANSWERS(SPANRING_OK, spanring_span_start(name, NULL, &span));
        pid_t pid = fork();
        CHECK(pid >= 0);
        if (pid == 0) {
            process = number;
            child(number % 6, &span);
        }
        ANSWERS(SPANRING_OK, spanring_span_set_int(&span, process_key, process));
        ANSWERS(SPANRING_OK, spanring_span_end(&span));
        if (number >= AT_ONCE) {
            wait_for(-1);
        }
    }
    for (int number = 1; number < AT_ONCE && number <= forks; number++) {
        wait_for(-1);
    }
    atomic_store(&stop, 1);
    for (int i = 0; i < THREADS; i++) {
        CHECK(pthread_join(threads[i], NULL) == 0);
    }
    unsigned long long spans = stats().created;
    settle(spans);
    say(spans);
    ANSWERS(SPANRING_OK, spanring_shutdown(SPANRING_FOREVER));
    return 0;
}
