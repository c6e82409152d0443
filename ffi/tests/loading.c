/* A host that loads a plugin with the library from threads that end, unloads it and loads it again: nothing is lost, and the process ends.
 *
 *   loading PLUGIN LIBRARY WHO DIR
 *
 * PLUGIN is plugin.c, LIBRARY what must stay loaded: the shared library, or the plugin with the static one in it. WHO says which thread calls
 * it: `thread`, `main`, or `ended` for a thread that also shuts the pipeline down, so that nothing of it runs when the plugin is unloaded. */
#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static const char *plugin, *dir;
static int ends;

#define CHECK(condition)                                                                            \
    do {                                                                                            \
        if (!(condition)) {                                                                         \
            const char *why = dlerror();                                                            \
            fprintf(stderr, "%s:%d: %s (%s)\n", __FILE__, __LINE__, #condition, why ? why : "");    \
            exit(1);                                                                                \
        }                                                                                           \
    } while (0)

static void run(void *library, const char *name) {
    void (*run)(const char *, const char *, int);
    *(void **)&run = dlsym(library, "plugin_run");
    CHECK(run != NULL);
    run(dir, name, ends);
}

static void *load(void) {
    void *library = dlopen(plugin, RTLD_NOW | RTLD_LOCAL);
    CHECK(library != NULL);
    return library;
}

static void *load_and_run(void *name) {
    void *library = load();
    run(library, name);
    CHECK(dlclose(library) == 0);
    return NULL;
}

static void *run_only(void *library) {
    run(library, "only");
    return NULL;
}

static void in_thread(void *(*work)(void *), void *of) {
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, work, of) == 0 && pthread_join(thread, NULL) == 0);
}

int main(int count, char **arguments) {
    CHECK(count == 5);
    alarm(60);
    plugin = arguments[1], dir = arguments[4];
    ends = arguments[3][0] == 'e';
    for (int round = 0; round < 4; round++) {
        if (arguments[3][0] == 'm') {
            load_and_run("main");
            continue;
        }
        in_thread(load_and_run, "thread");
        /* Unloaded while the flusher starts, if it can be. */
        void *library = load();
        in_thread(run_only, library);
        CHECK(dlclose(library) == 0);
        void *still = dlopen(arguments[2], RTLD_NOW | RTLD_NOLOAD);
        CHECK(still != NULL);
        CHECK(dlclose(still) == 0);
    }
    return 0;
}
