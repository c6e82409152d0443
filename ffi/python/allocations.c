/* Counts how often Python allocates memory for an object, for bench.py. */
#include <Python.h>

static PyMemAllocatorEx before;
static Py_ssize_t count;

static void *count_malloc(void *Py_UNUSED(context), size_t size) {
    count++;
    return before.malloc(before.ctx, size);
}

static void *count_calloc(void *Py_UNUSED(context), size_t items, size_t size) {
    count++;
    return before.calloc(before.ctx, items, size);
}

static void *count_realloc(void *Py_UNUSED(context), void *memory, size_t size) {
    count += memory == NULL;
    return before.realloc(before.ctx, memory, size);
}

static void count_free(void *Py_UNUSED(context), void *memory) { before.free(before.ctx, memory); }

/* Begins to count from zero. */
void allocations_begin(void) {
    PyMemAllocatorEx counting = {NULL, count_malloc, count_calloc, count_realloc, count_free};
    PyMem_GetAllocator(PYMEM_DOMAIN_OBJ, &before);
    PyMem_SetAllocator(PYMEM_DOMAIN_OBJ, &counting);
    count = 0;
}

/* Ends it; how many there were. */
Py_ssize_t allocations_end(void) {
    PyMem_SetAllocator(PYMEM_DOMAIN_OBJ, &before);
    return count;
}
