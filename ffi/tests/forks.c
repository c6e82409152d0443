/* Forks while threads record: a child has a pipeline of its own with its first span, sends nothing of its parent's, and
 * ends. Prints, for the parent and each child, how many spans it recorded; the script that runs this compares. */
#include <pthread.h>
#include <stdatomic.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"

enum { THREADS = 4, IN_A_CHILD = 100 };

static atomic_int stop;
static uint32_t name, pid_key, number_key;

static void record(long number) {
    spanring_span span;
    ANSWERS(SPANRING_OK, spanring_span_start(name, NULL, &span));
    ANSWERS(SPANRING_OK, spanring_span_set_int(&span, pid_key, (int64_t)getpid()));
    ANSWERS(SPANRING_OK, spanring_span_set_int(&span, number_key, number));
    ANSWERS(SPANRING_OK, spanring_span_end(&span));
}

static void *keep_recording(void *unused) {
    (void)unused;
    for (long number = 0; !atomic_load(&stop); number++) {
        record(number);
        usleep(100);
    }
    return NULL;
}

static void child(spanring_span *parents) {
    ANSWERS(SPANRING_ERROR_FORKED, spanring_flush(0));
    /* Begun before the fork: it writes nothing here. */
    ANSWERS(SPANRING_OK, spanring_span_end(parents));
    for (long number = 0; number < IN_A_CHILD; number++) {
        record(number);
    }
    ANSWERS(SPANRING_OK, spanring_after_fork_child());
    spanring_stats counts = stats();
    CHECK(counts.created == IN_A_CHILD && counts.dropped == 0);
    ANSWERS(SPANRING_OK, spanring_shutdown(SPANRING_FOREVER));
    printf("%ld %d\n", (long)getpid(), IN_A_CHILD);
    fflush(stdout);
    _exit(0);
}

int main(int count, char **arguments) {
    CHECK(count == 3);
    /* Before the forks: a thread that a child loses may have been interning. */
    name = intern("forked"), pid_key = intern("pid"), number_key = intern("number");
    ANSWERS(SPANRING_OK, start_in(arguments[1]));
    pthread_t threads[THREADS];
    for (int i = 0; i < THREADS; i++) {
        CHECK(pthread_create(&threads[i], NULL, keep_recording, NULL) == 0);
    }
    for (int forks = atoi(arguments[2]); forks > 0; forks--) {
        spanring_span span;
        ANSWERS(SPANRING_OK, spanring_span_start(name, NULL, &span));
        pid_t pid = fork();
        CHECK(pid >= 0);
        if (pid == 0) {
            alarm(60);
            child(&span);
        }
        ANSWERS(SPANRING_OK, spanring_span_set_int(&span, pid_key, (int64_t)getpid()));
        ANSWERS(SPANRING_OK, spanring_span_end(&span));
        int status = 0;
        CHECK(waitpid(pid, &status, 0) == pid);
        CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    }
    atomic_store(&stop, 1);
    for (int i = 0; i < THREADS; i++) {
        CHECK(pthread_join(threads[i], NULL) == 0);
    }
    ANSWERS(SPANRING_OK, spanring_flush(SPANRING_FOREVER));
    spanring_stats counts = stats();
    CHECK(counts.dropped == 0 && counts.sink_delivered == counts.created);
    ANSWERS(SPANRING_OK, spanring_shutdown(SPANRING_FOREVER));
    printf("%ld %llu\n", (long)getpid(), (unsigned long long)counts.created);
    return 0;
}
