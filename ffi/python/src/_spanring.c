/* The extension module spanring._spanring: spans, contexts and the pipeline, on the C library of ../../include/spanring.h.
 *
 * What keeps a span cheap: its struct lies in the Python object, objects are used again (`free_spans`), names and keys are numbers that are
 * found by the address of their text (`number_of`), and all attributes of a call are packed on the stack and set at once (`packer`).
 *
 * The GIL is what lets the library be called: everything here is under it, but `flush` and `shutdown`, which touch nothing of ours.
 * What calls back into Python (lazy values, str(), mappings) does so between calls of the library, never in one. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stddef.h>
#include <spanring.h>

/* The usual build is for one version of Python. With Py_LIMITED_API it is for all, and slower: the two headers have what differs. */
#ifdef Py_LIMITED_API
#include "_limited.h"
#else
static PyTypeObject span_type;
static PyTypeObject door_type;
static PyTypeObject context_type;
#define FORGET_TYPE(type) ((void)0)
#endif

#define LIKELY(condition) __builtin_expect(!!(condition), 1)
#define UNLIKELY(condition) __builtin_expect(!!(condition), 0)
#define COLD __attribute__((cold, noinline))

/* ---- What the module has, once a process: it refuses subinterpreters. ---- */

static PyObject *current_var;     /* the context variable: a Span, a Context, or nothing */
static PyObject *error_type;      /* SpanringError */
static PyObject *format_function; /* (exception) -> stack trace, or NULL until it is imported */
static PyObject *numbers;         /* dict: text -> its number in the library */

typedef struct Span Span;

#ifndef Py_LIMITED_API
/* What a with statement gets as __enter__ of a span: it lies in the span, keeps it alive as long as somebody has it, and spares a bound
 * method a span. As __exit__ it gets the span itself, which is called to leave the block: the garbage collector sees who has it. */
typedef struct {
    PyObject_HEAD
    vectorcallfunc call;
    Span *span;
} Door;
#endif

struct Span {
    PyObject_HEAD
#ifndef Py_LIMITED_API
    vectorcallfunc leave;
    Door enter;               /* exists while its count is not 0 */
#endif
    spanring_span span;       /* never moves */
    PyObject *token;          /* of the context variable, while the span is entered */
    spanring_context context; /* if `has_context` */
    bool live;                /* started and not ended */
    bool has_context;
    bool entered;             /* `token` counts, and the garbage collector knows the object */
};

typedef struct {
    PyObject_HEAD
    spanring_context context;
    PyObject *token;
} Context;

/* ---- Errors ---- */

/* Raises what the library said. */
static COLD PyObject *raise_error(int32_t code) {
    PyObject *text = PyUnicode_DecodeUTF8(spanring_last_error(), (Py_ssize_t)strlen(spanring_last_error()), "replace");
    PyObject *arguments = text ? Py_BuildValue("(iN)", (int)code, text) : NULL;
    PyObject *error = arguments ? PyObject_CallObject(error_type, arguments) : NULL;
    Py_XDECREF(arguments);
    if (error != NULL) {
        PyErr_SetObject(error_type, error);
        Py_DECREF(error);
    }
    return NULL;
}

/* Raises a TypeError: "%S" in the format is the name of the value's type. */
static COLD PyObject *wrong_type(const char *format, PyObject *value) {
    PyObject *name = PyObject_GetAttrString((PyObject *)Py_TYPE(value), "__name__");
    if (name != NULL) {
        PyErr_Format(PyExc_TypeError, format, name);
        Py_DECREF(name);
    }
    return NULL;
}

/* ---- Names and keys ---- */

/* Texts by address. One that comes a second time is worth a number, one that is made anew each time is never found here. */
#define SETS 2048
#define LONGEST_NUMBERED 256
#define NEVER UINT32_MAX

typedef struct {
    PyObject *text; /* owned, so that its address is nobody else's */
    uint32_t number; /* 0: seen once; NEVER: the library has none for it */
} known;

static known table[SETS][2];

static COLD uint32_t number_slowly(PyObject *text, known *set) {
    if (PyUnicode_GET_LENGTH(text) > LONGEST_NUMBERED) {
        return 0;
    }
    known *slot = set[0].text == text ? &set[0] : set[1].text == text ? &set[1] : NULL;
    if (slot != NULL && slot->number == NEVER) {
        return 0;
    }
    PyObject *found = PyDict_GetItemWithError(numbers, text);
    uint32_t number = 0;
    if (found != NULL) {
        number = (uint32_t)PyLong_AsUnsignedLong(found);
    } else if (PyErr_Occurred()) {
        PyErr_Clear();
        return 0;
    } else if (slot != NULL) {
        Py_ssize_t len;
        const char *utf8 = PyUnicode_AsUTF8AndSize(text, &len);
        if (utf8 == NULL) {
            PyErr_Clear();
            slot->number = NEVER;
            return 0;
        }
        if (spanring_intern(utf8, (size_t)len, &number) != SPANRING_OK) {
            slot->number = NEVER;
            return 0;
        }
        PyObject *value = PyLong_FromUnsignedLong(number);
        if (value == NULL || PyDict_SetItem(numbers, text, value) < 0) {
            PyErr_Clear();
        }
        Py_XDECREF(value);
    }
    if (slot == NULL) {
        PyObject *out = set[1].text;
        set[1] = set[0];
        Py_INCREF(text);
        set[0].text = text;
        slot = &set[0];
        Py_XDECREF(out);
    }
    slot->number = number;
    return number;
}

/* The number of a text, which is an exact str; 0 if it has none. */
static inline uint32_t number_of(PyObject *text) {
    uintptr_t address = (uintptr_t)text >> 4;
    known *set = table[(address ^ (address >> 11)) % SETS];
    if (LIKELY(set[0].text == text && set[0].number - 1 < NEVER - 1)) {
        return set[0].number;
    }
    if (set[1].text == text && set[1].number - 1 < NEVER - 1) {
        return set[1].number;
    }
    return number_slowly(text, set);
}

/* ---- UTF-8 ---- */

typedef struct {
    const char *bytes;
    size_t len;
    PyObject *owner; /* what has the bytes, if the text itself has not; to be given back */
} utf8;

static COLD bool utf8_of_odd(PyObject *text, utf8 *out) {
    PyErr_Clear();
    /* Surrogates: text all the same. */
    PyObject *encoded = PyUnicode_AsEncodedString(text, "utf-8", "backslashreplace");
    if (encoded == NULL) {
        PyErr_Clear();
        return false;
    }
    out->owner = encoded;
    out->bytes = PyBytes_AS_STRING(encoded);
    out->len = (size_t)PyBytes_GET_SIZE(encoded);
    return true;
}

/* The bytes of a str; false if there is no memory. */
static inline bool utf8_of(PyObject *text, utf8 *out) {
    out->owner = NULL;
    if (LIKELY(PyUnicode_IS_COMPACT_ASCII(text))) {
        out->bytes = (const char *)PyUnicode_1BYTE_DATA(text);
        out->len = (size_t)PyUnicode_GET_LENGTH(text);
        return true;
    }
    Py_ssize_t len;
    out->bytes = PyUnicode_AsUTF8AndSize(text, &len);
    out->len = (size_t)len;
    return out->bytes != NULL || utf8_of_odd(text, out);
}

/* ---- Packed attributes (docs/c.md) ---- */

enum { NONE, BOOL, INT, DOUBLE, STRING, BYTES, ARRAY, MAP };

#define KEY_TEXT 0x80000000u
#define DEEPEST 100
#define MOST_NESTED 100000 /* values in lists and dicts of one call */
#define LONGEST 0x7fffffffu

typedef struct {
    uint8_t *at;
    uint8_t *end;
    uint8_t *start;
    int nested; /* values that may follow in lists and dicts */
    bool plain;  /* callables are texts as other values are */
    bool broken; /* there was no memory: nothing of it is used */
    bool interrupted; /* an exception that is no Exception came, and is set */
    uint8_t here[512];
} packer;

static inline void pack_begin(packer *packed) {
    packed->at = packed->start = packed->here;
    packed->end = packed->here + sizeof(packed->here);
    packed->nested = MOST_NESTED;
    packed->plain = packed->broken = packed->interrupted = false;
}

static inline void pack_done(packer *packed) {
    if (UNLIKELY(packed->start != packed->here)) {
        PyMem_Free(packed->start);
    }
}

static COLD bool grow(packer *packed, size_t more) {
    if (packed->broken) {
        return false;
    }
    size_t used = (size_t)(packed->at - packed->start);
    size_t size = (used + more) * 2;
    uint8_t *start = PyMem_Malloc(size);
    if (start == NULL) {
        packed->broken = true;
        return false;
    }
    memcpy(start, packed->start, used);
    pack_done(packed);
    packed->start = start;
    packed->at = start + used;
    packed->end = start + size;
    return true;
}

static inline bool room(packer *packed, size_t more) {
    return LIKELY((size_t)(packed->end - packed->at) >= more) || grow(packed, more);
}

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "the packed form is little-endian"
#endif

static inline void put_u32(uint8_t *at, uint32_t value) { memcpy(at, &value, 4); }

static inline void pack_tagged(packer *packed, uint8_t type, const void *value, size_t len) {
    if (room(packed, 1 + len)) {
        packed->at[0] = type;
        memcpy(packed->at + 1, value, len);
        packed->at += 1 + len;
    }
}

static void pack_bytes(packer *packed, uint8_t type, const char *bytes, size_t len) {
    if (UNLIKELY(len > LONGEST)) {
        bytes = "(longer than 2 GiB)";
        len = strlen(bytes);
        type = STRING;
    }
    if (room(packed, 5 + len)) {
        packed->at[0] = type;
        put_u32(packed->at + 1, (uint32_t)len);
        memcpy(packed->at + 5, bytes, len);
        packed->at += 5 + len;
    }
}

static inline void pack_str(packer *packed, PyObject *text) {
    utf8 bytes;
    if (!utf8_of(text, &bytes)) {
        packed->broken = true;
        return;
    }
    pack_bytes(packed, STRING, bytes.bytes, bytes.len);
    Py_XDECREF(bytes.owner);
}

static COLD void pack_key_text(packer *packed, PyObject *key) {
    utf8 bytes;
    if (!utf8_of(key, &bytes)) {
        packed->broken = true;
        return;
    }
    size_t len = bytes.len;
    if (len > LONGEST) {
        len = 0;
    }
    if (room(packed, 4 + len)) {
        put_u32(packed->at, KEY_TEXT | (uint32_t)len);
        memcpy(packed->at + 4, bytes.bytes, len);
        packed->at += 4 + len;
    }
    Py_XDECREF(bytes.owner);
}

/* A key, which is a str. */
static inline void pack_key(packer *packed, PyObject *key) {
    uint32_t number = LIKELY(PyUnicode_CheckExact(key)) ? number_of(key) : 0;
    if (LIKELY(number != 0 && room(packed, 4))) {
        put_u32(packed->at, number);
        packed->at += 4;
    } else {
        pack_key_text(packed, key);
    }
}

/* Whether the exception that is set is no Exception, and stays set: KeyboardInterrupt, SystemExit from a signal's handler, a greenlet that
 * is killed. They come from elsewhere, not from the value. */
static COLD bool is_interrupt(packer *packed) {
    packed->interrupted = PyErr_Occurred() != NULL && !PyErr_ExceptionMatches(PyExc_Exception);
    return packed->interrupted;
}

/* Takes the exception that is set; a text of it, or NULL if there is none to have, or it is an interrupt. */
static COLD PyObject *text_of_error(packer *packed) {
    if (is_interrupt(packed)) {
        return NULL;
    }
    PyObject *type, *value, *traceback;
    PyErr_Fetch(&type, &value, &traceback);
    PyErr_NormalizeException(&type, &value, &traceback);
    PyObject *said = value != NULL ? PyObject_Str(value) : NULL;
    if (said == NULL && PyErr_Occurred()) {
        if (is_interrupt(packed)) {
            Py_XDECREF(type);
            Py_XDECREF(value);
            Py_XDECREF(traceback);
            return NULL;
        }
        PyErr_Clear();
    }
    const char *name = type != NULL && PyExceptionClass_Check(type) ? PyExceptionClass_Name(type) : "exception";
    PyObject *text = said != NULL && PyUnicode_GET_LENGTH(said) > 0 ? PyUnicode_FromFormat("%s: %U", name, said)
                                                                     : PyUnicode_FromString(name);
    if (text == NULL) {
        PyErr_Clear();
    }
    Py_XDECREF(said);
    Py_XDECREF(type);
    Py_XDECREF(value);
    Py_XDECREF(traceback);
    return text;
}

static COLD void pack_error(packer *packed) {
    PyObject *text = text_of_error(packed);
    if (text != NULL) {
        pack_str(packed, text);
        Py_DECREF(text);
    } else if (room(packed, 1)) {
        *packed->at++ = NONE;
    }
}

static COLD void pack_text_of(packer *packed, PyObject *value) {
    PyObject *text = PyObject_Str(value);
    if (text == NULL) {
        pack_error(packed);
        return;
    }
    pack_str(packed, text);
    Py_DECREF(text);
}

static void pack_value(packer *packed, PyObject *value, int depth, bool may_call);

static COLD void pack_large_int(packer *packed, PyObject *value) {
    PyObject *text = PyObject_Str(value);
    if (text == NULL) {
        if (is_interrupt(packed)) {
            return;
        }
        /* Python limits how long the decimal text may be. */
        PyErr_Clear();
        text = PyNumber_ToBase(value, 16);
    }
    if (text == NULL) {
        pack_error(packed);
        return;
    }
    pack_str(packed, text);
    Py_DECREF(text);
}

static inline void pack_int(packer *packed, PyObject *value) {
    int overflow;
    long long number = PyLong_AsLongLongAndOverflow(value, &overflow);
    if (UNLIKELY(overflow != 0)) {
        pack_large_int(packed, value);
        return;
    }
    int64_t wide = number;
    pack_tagged(packed, INT, &wide, 8);
}

/* Where the count of an array or a map goes. */
static size_t pack_opening(packer *packed, uint8_t type) {
    if (!room(packed, 5)) {
        return 0;
    }
    packed->at[0] = type;
    size_t place = (size_t)(packed->at - packed->start) + 1;
    packed->at += 5;
    return place;
}

static void pack_closing(packer *packed, size_t place, uint32_t count) {
    if (!packed->broken) {
        put_u32(packed->start + place, count);
    }
}

static COLD void pack_cut(packer *packed) { pack_bytes(packed, STRING, "...", 3); }

static COLD void pack_sequence(packer *packed, PyObject *value, int depth) {
    size_t place = pack_opening(packed, ARRAY);
    uint32_t count = 0;
    /* What is called meanwhile may change a list. */
    for (Py_ssize_t index = 0; index < PySequence_Fast_GET_SIZE(value) && !packed->broken && !packed->interrupted; index++) {
        if (packed->nested-- <= 0) {
            pack_cut(packed);
            count++;
            break;
        }
        PyObject *item = PySequence_Fast_GET_ITEM(value, index);
        Py_INCREF(item);
        pack_value(packed, item, depth + 1, true);
        Py_DECREF(item);
        count++;
    }
    pack_closing(packed, place, count);
}

static COLD void pack_dict(packer *packed, PyObject *value, int depth) {
    PyObject *copy = PyDict_Copy(value);
    if (copy == NULL) {
        pack_error(packed);
        return;
    }
    size_t place = pack_opening(packed, MAP);
    uint32_t count = 0;
    Py_ssize_t at = 0;
    PyObject *key, *item;
    while (PyDict_Next(copy, &at, &key, &item) && !packed->broken && !packed->interrupted) {
        if (packed->nested-- <= 0) {
            break;
        }
        PyObject *text = NULL;
        if (!PyUnicode_Check(key)) {
            text = PyObject_Str(key);
            if (text == NULL) {
                text = text_of_error(packed);
                if (text == NULL) {
                    break;
                }
            }
            key = text;
        }
        pack_key(packed, key);
        Py_XDECREF(text);
        pack_value(packed, item, depth + 1, true);
        count++;
    }
    pack_closing(packed, place, count);
    Py_DECREF(copy);
}

static COLD void pack_buffer(packer *packed, PyObject *value) {
    PyObject *bytes = PyBytes_FromObject(value);
    if (bytes == NULL) {
        PyErr_Clear();
        pack_text_of(packed, value);
        return;
    }
    pack_bytes(packed, BYTES, PyBytes_AS_STRING(bytes), (size_t)PyBytes_GET_SIZE(bytes));
    Py_DECREF(bytes);
}

/* What is none of the usual types, and not too deep in calls. */
static void pack_unusual(packer *packed, PyObject *value, int depth, bool may_call) {
    if (PyList_Check(value) || PyTuple_Check(value)) {
        if (depth >= DEEPEST - 1) {
            pack_cut(packed);
        } else {
            pack_sequence(packed, value, depth);
        }
    } else if (PyDict_Check(value)) {
        if (depth >= DEEPEST - 1) {
            pack_cut(packed);
        } else {
            pack_dict(packed, value, depth);
        }
    } else if (PyUnicode_Check(value)) {
        pack_str(packed, value);
    } else if (PyLong_Check(value)) {
        pack_int(packed, value);
    } else if (PyFloat_Check(value)) {
        double number = PyFloat_AS_DOUBLE(value);
        pack_tagged(packed, DOUBLE, &number, 8);
    } else if (PyBytes_Check(value)) {
        pack_bytes(packed, BYTES, PyBytes_AS_STRING(value), (size_t)PyBytes_GET_SIZE(value));
    } else if (PyByteArray_Check(value) || PyMemoryView_Check(value)) {
        pack_buffer(packed, value);
    } else if (may_call && !packed->plain && PyCallable_Check(value) && !PyType_Check(value) && Py_TYPE(value) != &span_type) {
        PyObject *result = PyObject_CallObject(value, NULL);
        if (result == NULL) {
            pack_error(packed);
            return;
        }
        pack_value(packed, result, depth, false);
        Py_DECREF(result);
    } else if (PyIndex_Check(value)) {
        /* An integer of another library. */
        PyObject *number = PyNumber_Index(value);
        if (number == NULL) {
            if (is_interrupt(packed)) {
                return;
            }
            PyErr_Clear();
            pack_text_of(packed, value);
            return;
        }
        pack_int(packed, number);
        Py_DECREF(number);
    } else {
        pack_text_of(packed, value);
    }
}

static COLD void pack_other(packer *packed, PyObject *value, int depth, bool may_call) {
    /* A function may be one of ours, which come here again and do not count themselves; their frames, with a packer each, are large. */
    int units = may_call && !packed->plain && PyCallable_Check(value) ? 4 : 1;
    int entered = 0;
    while (entered < units && Py_EnterRecursiveCall(" in an attribute's value") == 0) {
        entered++;
    }
    if (entered == units) {
        pack_unusual(packed, value, depth, may_call);
    } else {
        pack_error(packed);
    }
    while (entered-- > 0) {
        Py_LeaveRecursiveCall();
    }
}

static inline __attribute__((always_inline)) void pack_usual(packer *packed, PyObject *value, int depth, bool may_call) {
    PyTypeObject *type = Py_TYPE(value);
    if (type == &PyUnicode_Type) {
        pack_str(packed, value);
    } else if (type == &PyLong_Type) {
        pack_int(packed, value);
    } else if (type == &PyFloat_Type) {
        double number = PyFloat_AS_DOUBLE(value);
        pack_tagged(packed, DOUBLE, &number, 8);
    } else if (type == &PyBool_Type) {
        uint8_t truth = value == Py_True;
        pack_tagged(packed, BOOL, &truth, 1);
    } else if (value == Py_None) {
        if (room(packed, 1)) {
            *packed->at++ = NONE;
        }
    } else {
        pack_other(packed, value, depth, may_call);
    }
}

static void pack_value(packer *packed, PyObject *value, int depth, bool may_call) {
    pack_usual(packed, value, depth, may_call);
}

/* Packs a mapping of attributes; -1 with an exception set if it is none, or a key is no str. */
static COLD int pack_mapping(packer *packed, PyObject *attributes) {
    PyObject *dict = attributes;
    Py_INCREF(dict);
    if (!PyDict_CheckExact(dict)) {
        if (PyUnicode_Check(dict) || !PyMapping_Check(dict) || PyList_Check(dict) || PyTuple_Check(dict)) {
            wrong_type("attributes must be a mapping, not %S", dict);
            Py_DECREF(dict);
            return -1;
        }
        PyObject *copy = PyDict_New();
        if (copy == NULL || PyDict_Update(copy, dict) < 0) {
            Py_XDECREF(copy);
            Py_DECREF(dict);
            return -1;
        }
        Py_DECREF(dict);
        dict = copy;
    }
    Py_ssize_t at = 0;
    PyObject *key, *value;
    while (PyDict_Next(dict, &at, &key, &value)) {
        if (!PyUnicode_Check(key)) {
            wrong_type("attribute keys must be str, not %S", key);
            Py_DECREF(dict);
            return -1;
        }
        Py_INCREF(key);
        Py_INCREF(value);
        pack_key(packed, key);
        pack_value(packed, value, 0, true);
        Py_DECREF(key);
        Py_DECREF(value);
        if (packed->interrupted) {
            Py_DECREF(dict);
            return -1;
        }
    }
    Py_DECREF(dict);
    return 0;
}

/* Packs the attributes of a call: a mapping (NULL or None for none) and keyword arguments. */
static inline __attribute__((always_inline)) int pack_call(packer *packed, PyObject *mapping, PyObject *const *values,
                                                           PyObject *names) {
    if (UNLIKELY(mapping != NULL && mapping != Py_None) && pack_mapping(packed, mapping) < 0) {
        return -1;
    }
    if (names != NULL) {
        Py_ssize_t count = PyTuple_GET_SIZE(names);
        for (Py_ssize_t index = 0; index < count; index++) {
            pack_key(packed, PyTuple_GET_ITEM(names, index));
            pack_usual(packed, values[index], 0, true);
            if (UNLIKELY(packed->interrupted)) {
                return -1;
            }
        }
    }
    return 0;
}

/* ---- Contexts of spans ---- */

/* The context of a span, kept in it; NULL if there is none. */
static inline const spanring_context *context_of_span(Span *self) {
    if (LIKELY(self->has_context)) {
        return &self->context;
    }
    if (!self->live || spanring_span_context(&self->span, &self->context) != SPANRING_OK) {
        return NULL;
    }
    self->has_context = true;
    return &self->context;
}

/* The context of a Span or a Context; NULL if it is something else. */
static inline const spanring_context *context_of(PyObject *object) {
    if (LIKELY(Py_TYPE(object) == &span_type)) {
        return context_of_span((Span *)object);
    }
    if (Py_TYPE(object) == &context_type) {
        return &((Context *)object)->context;
    }
    return NULL;
}

/* What is in the context variable: a new reference, or NULL. */
static inline PyObject *current(void) {
    PyObject *value = NULL;
    if (UNLIKELY(PyContextVar_Get(current_var, NULL, &value) < 0)) {
        PyErr_Clear();
        return NULL;
    }
    return value;
}

/* ---- Spans ---- */

#ifndef Py_LIMITED_API
static PyObject *leave_call(PyObject *object, PyObject *const *args, size_t nargsf, PyObject *names);
#endif

#define MOST_FREE 256
static Span *free_spans[MOST_FREE];
static int free_count;

static COLD Span *span_from_memory(void) {
    Span *self = PyObject_GC_New(Span, &span_type); /* not tracked until it is entered */
#ifndef Py_LIMITED_API
    if (self != NULL) {
        /* Not with Py_SET_REFCNT, which leaves alone what looks immortal, as anything does that was here before. */
        memset(&self->enter, 0, sizeof(self->enter));
        self->leave = leave_call;
    }
#endif
    return self;
}

static inline Span *span_allocate(void) {
    Span *self;
    if (LIKELY(free_count > 0)) {
        self = free_spans[--free_count];
        _Py_NewReference((PyObject *)self);
    } else {
        self = span_from_memory();
        if (self == NULL) {
            return NULL;
        }
    }
    self->token = NULL;
    self->live = self->has_context = self->entered = false;
    return self;
}

static inline void span_finish(Span *self) {
    if (self->live) {
        self->live = false;
        spanring_span_end(&self->span);
    }
}

static void span_dealloc(PyObject *object) {
    Span *self = (Span *)object;
    if (UNLIKELY(self->entered)) {
        PyObject_GC_UnTrack(object);
        /* The token has the span before, which may have one: not each in the other's call. */
        Py_TRASHCAN_BEGIN(object, span_dealloc)
        Py_CLEAR(self->token);
        self->entered = false;
        Py_TRASHCAN_END
        if (self->entered) {
            return; /* it comes again */
        }
    }
    span_finish(self);
    if (self->has_context) {
        self->has_context = false;
        spanring_context_release(&self->context);
    }
    if (LIKELY(free_count < MOST_FREE)) {
        free_spans[free_count++] = self;
    } else {
        PyObject_GC_Del(self);
    }
    FORGET_TYPE(&span_type);
}

static int span_traverse(PyObject *object, visitproc visit, void *arg) {
    Py_VISIT(((Span *)object)->token);
    return 0;
}

static int span_clear(PyObject *object) {
    Py_CLEAR(((Span *)object)->token);
    return 0;
}

static const char *const kinds[] = {"internal", "server", "client", "producer", "consumer"};

/* -1 with an exception set if it is none. */
static COLD int kind_of(PyObject *object) {
    if (object == Py_None) {
        return 0;
    }
    if (!PyUnicode_Check(object)) {
        wrong_type("kind must be str, not %S", object);
        return -1;
    }
    for (int kind = 0; kind < 5; kind++) {
        if (PyUnicode_CompareWithASCIIString(object, kinds[kind]) == 0) {
            return kind + 1;
        }
    }
    PyErr_Format(PyExc_ValueError, "kind must be internal, server, client, producer or consumer, not %R", object);
    return -1;
}

/* Sets packed attributes and gives their memory back. */
static inline void set_packed(Span *self, packer *packed) {
    if (LIKELY(!packed->broken && self->live)) {
        spanring_span_set_attributes(&self->span, packed->start, (size_t)(packed->at - packed->start));
    }
    pack_done(packed);
}

static inline bool records(Span *self) {
    int32_t recording = 0;
    return self->live && spanring_span_is_recording(&self->span, &recording) == SPANRING_OK && recording != 0;
}

/* -1 with an exception set: wrong types, or an interrupt. */
static inline __attribute__((always_inline)) int set_call(Span *self, PyObject *mapping, PyObject *const *values, PyObject *names) {
    if (!records(self)) {
        if (mapping != NULL && mapping != Py_None && !PyDict_Check(mapping) && !PyMapping_Check(mapping)) {
            wrong_type("attributes must be a mapping, not %S", mapping);
            return -1;
        }
        return 0;
    }
    packer packed;
    pack_begin(&packed);
    if (UNLIKELY(pack_call(&packed, mapping, values, names) < 0)) {
        pack_done(&packed);
        return -1;
    }
    set_packed(self, &packed);
    return 0;
}

/* Sets a mapping; -1 with an exception set as above. */
static int set_mapping(Span *self, PyObject *mapping, bool plain) {
    if (!records(self)) {
        return 0;
    }
    packer packed;
    pack_begin(&packed);
    packed.plain = plain;
    if (pack_mapping(&packed, mapping) < 0) {
        pack_done(&packed);
        return -1;
    }
    set_packed(self, &packed);
    return 0;
}

static COLD int start_with_text(PyObject *name, const spanring_span_options *options, Span *self) {
    utf8 bytes;
    if (!utf8_of(name, &bytes)) {
        return SPANRING_ERROR_INTERNAL;
    }
    int code = spanring_span_start_named(bytes.bytes, bytes.len, options, &self->span);
    Py_XDECREF(bytes.owner);
    return code;
}

static const char *const levels[] = {"none", "minimal", "smart", "full"};

/* One of SPANRING_LEVEL_..., 0 for None; -1 with an exception set. */
static COLD int level_of(PyObject *object) {
    if (object == Py_None) {
        return 0;
    }
    if (PyUnicode_Check(object)) {
        for (int level = 0; level < 4; level++) {
            if (PyUnicode_CompareWithASCIIString(object, levels[level]) == 0) {
                return level + 1;
            }
        }
    }
    PyErr_Format(PyExc_ValueError, "level must be none, minimal, smart or full, not %R", object);
    return -1;
}

/* Whether rules of sampling are to see the attributes. */
static inline bool attributes_matter(const spanring_span_options *options) {
    return UNLIKELY(spanring_attributes_matter() != 0 || options->level == SPANRING_LEVEL_SMART);
}

/* Starts a span with its attributes; -1 with an exception set: wrong types, or an interrupt. */
static COLD int start_with(Span *self, PyObject *name, spanring_span_options *options, PyObject *mapping, PyObject *const *values,
                           PyObject *names, bool plain) {
    packer packed;
    pack_begin(&packed);
    packed.plain = plain;
    if (pack_call(&packed, mapping, values, names) < 0) {
        pack_done(&packed);
        return -1;
    }
    if (!packed.broken) {
        options->attributes = packed.start;
        options->attributes_len = (size_t)(packed.at - packed.start);
    }
    uint32_t number = PyUnicode_CheckExact(name) ? number_of(name) : 0;
    int code = number != 0 ? spanring_span_start(number, options, &self->span) : start_with_text(name, options, self);
    self->live = code == SPANRING_OK;
    pack_done(&packed);
    return 0;
}

static const char span_doc[] =
    "Span(name, attributes=None, kind=None, parent=None, level=None, /, **keywords)\n--\n\n"
    "Starts a span, a child of the current one. In a with statement it is current in the block and ends with it.";

/* span(name, attributes=None, kind=None, parent=None, level=None, / , **keywords) */
static PyObject *span_new(PyObject *Py_UNUSED(type), PyObject *const *args, size_t nargsf, PyObject *names) {
    Py_ssize_t count = PyVectorcall_NARGS(nargsf);
    if (UNLIKELY(count < 1 || count > 5)) {
        return PyErr_Format(PyExc_TypeError, "span() takes from 1 to 5 positional arguments but %zd were given", count);
    }
    PyObject *name = args[0];
    if (UNLIKELY(!PyUnicode_Check(name))) {
        return wrong_type("a span's name must be str, not %S", name);
    }
    spanring_span_options options = {.size = sizeof(options), .flags = SPANRING_SPAN_DETACHED};
    if (UNLIKELY(count > 2)) {
        int kind = kind_of(args[2]);
        if (kind < 0) {
            return NULL;
        }
        options.kind = (uint32_t)kind;
    }
    if (UNLIKELY(count > 4)) {
        int level = level_of(args[4]);
        if (level < 0) {
            return NULL;
        }
        options.level = (uint32_t)level;
    }
    PyObject *parent = NULL;
    if (UNLIKELY(count > 3 && args[3] != Py_None)) {
        parent = args[3];
        if (Py_TYPE(parent) != &span_type && Py_TYPE(parent) != &context_type) {
            return wrong_type("parent must be a Span or a Context, not %S", parent);
        }
        Py_INCREF(parent);
    } else {
        parent = current();
    }
    if (parent != NULL) {
        options.parent = context_of(parent);
    }
    if (options.parent == NULL) {
        options.flags |= SPANRING_SPAN_ROOT;
    }
    Span *self = span_allocate();
    if (UNLIKELY(self == NULL)) {
        Py_XDECREF(parent);
        return NULL;
    }
    if ((names != NULL || count > 1) && attributes_matter(&options)) {
        int started = start_with(self, name, &options, count > 1 ? args[1] : NULL, args + count, names, false);
        Py_XDECREF(parent);
        if (started < 0) {
            Py_DECREF(self);
            return NULL;
        }
        return (PyObject *)self;
    }
    uint32_t number = LIKELY(PyUnicode_CheckExact(name)) ? number_of(name) : 0;
    int code = LIKELY(number != 0) ? spanring_span_start(number, &options, &self->span) : start_with_text(name, &options, self);
    self->live = code == SPANRING_OK;
    Py_XDECREF(parent);
    if (names != NULL || count > 1) {
        if (UNLIKELY(set_call(self, count > 1 ? args[1] : NULL, args + count, names) < 0)) {
            Py_DECREF(self);
            return NULL;
        }
    }
    return (PyObject *)self;
}

/* Nanoseconds since the epoch, None for 0, which is now. */
static bool time_of(PyObject *object, uint64_t *out) {
    *out = 0;
    if (object == Py_None) {
        return true;
    }
    if (!PyLong_Check(object)) {
        wrong_type("a time must be an int, nanoseconds since 1970 as time.time_ns() gives them, not %S", object);
        return false;
    }
    unsigned long long nanos = PyLong_AsUnsignedLongLong(object);
    if (nanos == (unsigned long long)-1 && PyErr_Occurred()) {
        PyErr_Clear();
        PyErr_Format(PyExc_ValueError, "a time must be nanoseconds since 1970, not %R", object);
        return false;
    }
    *out = nanos;
    return true;
}

static bool is_parent(PyObject *object) { return Py_TYPE(object) == &span_type || Py_TYPE(object) == &context_type; }

/* _start_span(name, attributes, kind, parent, start time, scope, plain, level=None, detailed=False): a span with all that it can be given at its
 * start. */
static PyObject *start_span(PyObject *Py_UNUSED(module), PyObject *args) {
    PyObject *name, *attributes, *kind, *parent, *time;
    PyObject *level = Py_None;
    unsigned int scope;
    int plain, detailed = 0;
    if (!PyArg_ParseTuple(args, "OOOOOIp|Op", &name, &attributes, &kind, &parent, &time, &scope, &plain, &level, &detailed)) {
        return NULL;
    }
    if (!PyUnicode_Check(name)) {
        return wrong_type("a span's name must be str, not %S", name);
    }
    if (parent != Py_None && !is_parent(parent)) {
        return wrong_type("parent must be a Span or a Context, not %S", parent);
    }
    spanring_span_options options = {.size = sizeof(options), .tracer = scope, .flags = SPANRING_SPAN_DETACHED};
    int number = kind_of(kind), own_level = level_of(level);
    if (number < 0 || own_level < 0 || !time_of(time, &options.start_unix_nano)) {
        return NULL;
    }
    options.kind = (uint32_t)number;
    options.level = (uint32_t)own_level;
    if (detailed) {
        options.flags |= SPANRING_SPAN_DETAILED;
    }
    PyObject *from = parent;
    if (parent == Py_None) {
        from = current();
    } else {
        Py_INCREF(from);
    }
    options.parent = from != NULL ? context_of(from) : NULL;
    if (options.parent == NULL) {
        options.flags |= SPANRING_SPAN_ROOT;
    }
    Span *self = span_allocate();
    /* Plain ones have nothing that must not be called in vain, and what is wrong with them is found before there is a span. */
    if (self != NULL && attributes != Py_None && (plain || attributes_matter(&options))) {
        int started = start_with(self, name, &options, attributes, NULL, NULL, plain);
        Py_XDECREF(from);
        if (started < 0) {
            Py_DECREF(self);
            return NULL;
        }
        return (PyObject *)self;
    }
    if (self != NULL) {
        uint32_t known = PyUnicode_CheckExact(name) ? number_of(name) : 0;
        int code = known != 0 ? spanring_span_start(known, &options, &self->span) : start_with_text(name, &options, self);
        self->live = code == SPANRING_OK;
    }
    Py_XDECREF(from);
    if (self != NULL && attributes != Py_None && set_mapping(self, attributes, plain) < 0) {
        Py_DECREF(self);
        return NULL;
    }
    return (PyObject *)self;
}

/* The token is of another context: an async generator that is closed by another task, for example. If the object is current here all the
 * same, what was before it is so again. */
static COLD void leave_elsewhere(PyObject *object, PyObject *token) {
    PyErr_Clear();
    PyObject *now = current();
    if (now == object) {
        PyObject *before = PyObject_GetAttrString(token, "old_value");
        if (before != NULL && (Py_TYPE(before) == &span_type || Py_TYPE(before) == &context_type || before == Py_None)) {
            PyObject *set = PyContextVar_Set(current_var, before);
            Py_XDECREF(set);
        } else {
            PyObject *set = PyContextVar_Set(current_var, Py_None);
            Py_XDECREF(set);
        }
        Py_XDECREF(before);
        PyErr_Clear();
    }
    Py_XDECREF(now);
}

static inline void leave(PyObject *object, PyObject *token) {
    if (UNLIKELY(token == NULL)) {
        return;
    }
    if (UNLIKELY(PyContextVar_Reset(current_var, token) < 0)) {
        leave_elsewhere(object, token);
    }
    Py_DECREF(token);
}

static PyObject *span_enter(PyObject *object, PyObject *Py_UNUSED(nothing)) {
    Span *self = (Span *)object;
    if (UNLIKELY(self->entered)) {
        PyErr_SetString(PyExc_RuntimeError, "the span is entered already");
        return NULL;
    }
    PyObject *token = PyContextVar_Set(current_var, object);
    if (UNLIKELY(token == NULL)) {
        return NULL;
    }
    if (UNLIKELY(self->entered)) {
        /* By a finalizer that ran meanwhile, or another thread. */
        leave(object, token);
        PyErr_SetString(PyExc_RuntimeError, "the span is entered already");
        return NULL;
    }
    self->token = token;
    self->entered = true;
    PyObject_GC_Track(object);
    Py_INCREF(object);
    return object;
}

static PyObject *qualified_name(PyObject *type) {
    PyObject *module = PyObject_GetAttrString(type, "__module__");
    PyObject *name = module != NULL ? PyObject_GetAttrString(type, "__qualname__") : NULL;
    PyObject *text = NULL;
    if (name != NULL && PyUnicode_Check(module) && PyUnicode_Check(name)) {
        if (PyUnicode_CompareWithASCIIString(module, "builtins") == 0) {
            Py_INCREF(name);
            text = name;
        } else {
            text = PyUnicode_FromFormat("%U.%U", module, name);
        }
    }
    Py_XDECREF(module);
    Py_XDECREF(name);
    PyErr_Clear();
    return text != NULL ? text : PyUnicode_FromString(PyExceptionClass_Name(type));
}

static PyObject *stack_trace(PyObject *exception) {
    if (format_function == NULL) {
        PyObject *module = PyImport_ImportModule("spanring._errors");
        format_function = module != NULL ? PyObject_GetAttrString(module, "format_exception") : NULL;
        Py_XDECREF(module);
        if (format_function == NULL) {
            return NULL;
        }
    }
    return PyObject_CallFunctionObjArgs(format_function, exception, NULL);
}

static void pack_literal(packer *packed, const char *key) {
    size_t len = strlen(key);
    if (room(packed, 4 + len)) {
        put_u32(packed->at, KEY_TEXT | (uint32_t)len);
        memcpy(packed->at + 4, key, len);
        packed->at += 4 + len;
    }
}

/* Packs a text that was made for this, or why it could not be. */
static void pack_made(packer *packed, const char *key, PyObject *text) {
    pack_literal(packed, key);
    if (text != NULL && PyUnicode_Check(text)) {
        pack_str(packed, text);
    } else if (PyErr_Occurred()) {
        pack_error(packed);
    } else {
        pack_bytes(packed, STRING, "", 0);
    }
}

/* Adds the event; -1 with an exception set for wrong types, or an interrupt. */
static COLD int record_exception(Span *self, PyObject *exception, PyObject *mapping, PyObject *const *values, PyObject *names,
                                 bool sets_status) {
    if (!records(self)) {
        return 0;
    }
    packer packed;
    pack_begin(&packed);
    PyObject *type = qualified_name((PyObject *)Py_TYPE(exception));
    pack_made(&packed, "exception.type", type);
    Py_XDECREF(type);
    PyObject *message = PyObject_Str(exception);
    if (message == NULL && !packed.interrupted) {
        message = text_of_error(&packed);
    }
    if (!packed.interrupted) {
        pack_made(&packed, "exception.message", message);
        PyObject *trace = stack_trace(exception);
        pack_made(&packed, "exception.stacktrace", trace);
        Py_XDECREF(trace);
    }
    int failed = packed.interrupted ? -1 : pack_call(&packed, mapping, values, names);
    if (failed == 0 && !packed.broken && self->live) {
        spanring_span_add_event(&self->span, "exception", 9, 0, packed.start, (size_t)(packed.at - packed.start));
    }
    pack_done(&packed);
    if (failed == 0 && sets_status && self->live) {
        const char *name = PyExceptionClass_Name((PyObject *)Py_TYPE(exception));
        PyObject *text = message != NULL && PyUnicode_Check(message) && PyUnicode_GET_LENGTH(message) > 0
                             ? PyUnicode_FromFormat("%s: %U", name, message)
                             : PyUnicode_FromString(name);
        utf8 bytes;
        if (text != NULL && utf8_of(text, &bytes)) {
            spanring_span_set_status(&self->span, SPANRING_STATUS_ERROR, bytes.bytes, bytes.len);
            Py_XDECREF(bytes.owner);
        }
        Py_XDECREF(text);
        PyErr_Clear();
    }
    Py_XDECREF(message);
    return failed;
}

/* Leaves the block. `is_ours` says that one reference to the span is the caller's, which ends with the call. */
static inline __attribute__((always_inline)) PyObject *leave_block(PyObject *object, PyObject *const *args, Py_ssize_t count,
                                                                   bool is_ours) {
    Span *self = (Span *)object;
    PyObject *type = NULL, *value = NULL, *traceback = NULL;
    if (UNLIKELY(count != 3)) {
        PyErr_SetString(PyExc_TypeError, "__exit__() takes 3 arguments");
        return NULL;
    }
    if (UNLIKELY(args[1] != Py_None)) {
        PyObject *exception = args[1];
        if (PyExceptionInstance_Check(exception)) {
            /* Somebody who stops early is no error of the generator's. */
            bool is_error = !PyErr_GivenExceptionMatches(exception, PyExc_GeneratorExit);
            if (record_exception(self, exception, NULL, NULL, NULL, is_error) < 0) {
                PyErr_Fetch(&type, &value, &traceback);
            }
        }
    }
    if (LIKELY(self->entered)) {
        PyObject *token = self->token;
        self->token = NULL;
        self->entered = false;
        PyObject_GC_UnTrack(object);
        leave(object, token);
    }
    if (!is_ours || Py_REFCNT(object) > 1) {
        /* Somebody may ask for it, or have children, when it is over. */
        context_of_span(self);
    }
    span_finish(self);
    if (UNLIKELY(type != NULL)) {
        PyErr_Restore(type, value, traceback);
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyObject *span_exit(PyObject *object, PyObject *const *args, Py_ssize_t count) {
    return leave_block(object, args, count, false);
}

static PyObject *span_end(PyObject *object, PyObject *Py_UNUSED(nothing)) {
    Span *self = (Span *)object;
    context_of_span(self);
    span_finish(self);
    Py_RETURN_NONE;
}

static PyObject *span_end_at(PyObject *object, PyObject *time) {
    Span *self = (Span *)object;
    uint64_t nanos;
    if (!time_of(time, &nanos)) {
        return NULL;
    }
    context_of_span(self);
    if (self->live) {
        self->live = false;
        spanring_span_end_at(&self->span, nanos);
    }
    Py_RETURN_NONE;
}

static PyObject *span_set(PyObject *object, PyObject *const *args, Py_ssize_t count, PyObject *names) {
    if (count > 1) {
        return PyErr_Format(PyExc_TypeError, "set() takes at most 1 positional argument but %zd were given", count);
    }
    if (set_call((Span *)object, count > 0 ? args[0] : NULL, args + count, names) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyObject *span_set_attribute(PyObject *object, PyObject *const *args, Py_ssize_t count) {
    if (count != 2) {
        return PyErr_Format(PyExc_TypeError, "set_attribute() takes 2 arguments but %zd were given", count);
    }
    if (!PyUnicode_Check(args[0])) {
        return wrong_type("an attribute's key must be str, not %S", args[0]);
    }
    Span *self = (Span *)object;
    if (!records(self)) {
        Py_RETURN_NONE;
    }
    packer packed;
    pack_begin(&packed);
    pack_key(&packed, args[0]);
    pack_value(&packed, args[1], 0, true);
    if (packed.interrupted) {
        pack_done(&packed);
        return NULL;
    }
    set_packed(self, &packed);
    Py_RETURN_NONE;
}

/* Adds an event with what a call gave: -1 with an exception set. */
static int add_event(Span *self, PyObject *name, PyObject *mapping, PyObject *const *values, PyObject *names, uint64_t time, bool plain) {
    if (!PyUnicode_Check(name)) {
        wrong_type("an event's name must be str, not %S", name);
        return -1;
    }
    if (!records(self)) {
        return 0;
    }
    packer packed;
    pack_begin(&packed);
    packed.plain = plain;
    if (pack_call(&packed, mapping, values, names) < 0) {
        pack_done(&packed);
        return -1;
    }
    utf8 text;
    if (!packed.broken && self->live && utf8_of(name, &text)) {
        spanring_span_add_event(&self->span, text.bytes, text.len, time, packed.start, (size_t)(packed.at - packed.start));
        Py_XDECREF(text.owner);
    }
    pack_done(&packed);
    return 0;
}

static PyObject *span_event(PyObject *object, PyObject *const *args, Py_ssize_t count, PyObject *names) {
    if (count < 1 || count > 2) {
        return PyErr_Format(PyExc_TypeError, "event() takes from 1 to 2 positional arguments but %zd were given", count);
    }
    if (add_event((Span *)object, args[0], count > 1 ? args[1] : NULL, args + count, names, 0, false) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyObject *span_event_at(PyObject *object, PyObject *const *args, Py_ssize_t count, PyObject *names) {
    if (count < 2 || count > 3) {
        return PyErr_Format(PyExc_TypeError, "event_at() takes from 2 to 3 positional arguments but %zd were given", count);
    }
    uint64_t time;
    if (!time_of(args[0], &time) ||
        add_event((Span *)object, args[1], count > 2 ? args[2] : NULL, args + count, names, time, false) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyObject *span_record_exception(PyObject *object, PyObject *const *args, Py_ssize_t count, PyObject *names) {
    if (count < 1 || count > 2) {
        return PyErr_Format(PyExc_TypeError, "record_exception() takes from 1 to 2 positional arguments but %zd were given", count);
    }
    if (!PyExceptionInstance_Check(args[0])) {
        return wrong_type("record_exception() takes an exception, not %S", args[0]);
    }
    if (record_exception((Span *)object, args[0], count > 1 ? args[1] : NULL, args + count, names, false) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

/* Links to a Span or a Context: -1 with an exception set. */
static int add_link(Span *self, PyObject *other, PyObject *mapping, PyObject *const *values, PyObject *names, bool plain) {
    if (!records(self)) {
        return 0;
    }
    packer packed;
    pack_begin(&packed);
    packed.plain = plain;
    if (pack_call(&packed, mapping, values, names) < 0) {
        pack_done(&packed);
        return -1;
    }
    const spanring_context *context = context_of(other);
    if (context != NULL && !packed.broken && self->live) {
        spanring_span_add_link(&self->span, context, packed.start, (size_t)(packed.at - packed.start));
    }
    pack_done(&packed);
    return 0;
}

static PyObject *span_link(PyObject *object, PyObject *const *args, Py_ssize_t count, PyObject *names) {
    if (count < 1 || count > 2) {
        return PyErr_Format(PyExc_TypeError, "link() takes from 1 to 2 positional arguments but %zd were given", count);
    }
    if (!is_parent(args[0])) {
        return wrong_type("link() takes a Span or a Context, not %S", args[0]);
    }
    if (add_link((Span *)object, args[0], count > 1 ? args[1] : NULL, args + count, names, false) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyObject *span_status(PyObject *object, PyObject *const *args, Py_ssize_t count) {
    static const char *const names[] = {"unset", "ok", "error"};
    if (count < 1 || count > 2) {
        return PyErr_Format(PyExc_TypeError, "status() takes from 1 to 2 positional arguments but %zd were given", count);
    }
    if (!PyUnicode_Check(args[0]) || (count > 1 && args[1] != Py_None && !PyUnicode_Check(args[1]))) {
        PyErr_SetString(PyExc_TypeError, "status() takes \"ok\", \"error\" or \"unset\", and a message, which is a str");
        return NULL;
    }
    uint32_t status = 0;
    while (status < 3 && PyUnicode_CompareWithASCIIString(args[0], names[status]) != 0) {
        status++;
    }
    if (status == 3) {
        return PyErr_Format(PyExc_ValueError, "a status is \"ok\", \"error\" or \"unset\", not %R", args[0]);
    }
    Span *self = (Span *)object;
    utf8 message = {"", 0, NULL};
    if (self->live && (count < 2 || args[1] == Py_None || utf8_of(args[1], &message))) {
        spanring_span_set_status(&self->span, status, message.bytes, message.len);
        Py_XDECREF(message.owner);
    }
    Py_RETURN_NONE;
}

static PyObject *span_rename(PyObject *object, PyObject *name) {
    if (!PyUnicode_Check(name)) {
        return wrong_type("a span's name must be str, not %S", name);
    }
    Span *self = (Span *)object;
    utf8 bytes;
    if (self->live && utf8_of(name, &bytes)) {
        spanring_span_update_name(&self->span, bytes.bytes, bytes.len);
        Py_XDECREF(bytes.owner);
    }
    Py_RETURN_NONE;
}

static PyObject *span_critical(PyObject *object, PyObject *Py_UNUSED(nothing)) {
    Span *self = (Span *)object;
    if (self->live) {
        spanring_span_set_critical(&self->span);
    }
    Py_RETURN_NONE;
}

static PyObject *hex(const uint8_t *bytes, size_t len) {
    static const char digits[] = "0123456789abcdef";
    char text[32];
    for (size_t at = 0; at < len; at++) {
        text[2 * at] = digits[bytes[at] >> 4];
        text[2 * at + 1] = digits[bytes[at] & 15];
    }
    return PyUnicode_FromStringAndSize(text, (Py_ssize_t)(2 * len));
}

/* The IDs of a context; all zero if there is none. */
static spanring_ids ids_of(const spanring_context *context) {
    spanring_ids ids = {.size = sizeof(ids)};
    if (context == NULL || spanring_context_ids(context, &ids) != SPANRING_OK) {
        memset(&ids, 0, sizeof(ids));
    }
    return ids;
}

static PyObject *get_trace_id(PyObject *object, void *Py_UNUSED(closure)) { return hex(ids_of(context_of(object)).trace_id, 16); }

static PyObject *get_span_id(PyObject *object, void *Py_UNUSED(closure)) { return hex(ids_of(context_of(object)).span_id, 8); }

static PyObject *get_is_sampled(PyObject *object, void *Py_UNUSED(closure)) {
    return PyBool_FromLong(ids_of(context_of(object)).trace_flags & 1);
}

static PyObject *get_is_remote(PyObject *object, void *Py_UNUSED(closure)) { return PyBool_FromLong(ids_of(context_of(object)).is_remote); }

static PyObject *span_is_recording(PyObject *object, void *Py_UNUSED(closure)) { return PyBool_FromLong(records((Span *)object)); }

static PyObject *repr(PyObject *object) {
    PyObject *trace = get_trace_id(object, NULL), *span = get_span_id(object, NULL), *text = NULL;
    if (trace != NULL && span != NULL) {
        const char *name = Py_TYPE(object) == &span_type ? "spanring.Span" : "spanring.Context";
        text = PyUnicode_FromFormat("<%s trace_id=%U span_id=%U>", name, trace, span);
    }
    Py_XDECREF(trace);
    Py_XDECREF(span);
    return text;
}

/* ---- The door of a span ---- */

#ifndef Py_LIMITED_API

static PyObject *enter_call(PyObject *door, PyObject *const *Py_UNUSED(args), size_t nargsf, PyObject *names) {
    if (UNLIKELY(PyVectorcall_NARGS(nargsf) != 0 || (names != NULL && PyTuple_GET_SIZE(names) > 0))) {
        PyErr_SetString(PyExc_TypeError, "__enter__() takes no arguments");
        return NULL;
    }
    return span_enter((PyObject *)((Door *)door)->span, NULL);
}

static PyObject *leave_call(PyObject *object, PyObject *const *args, size_t nargsf, PyObject *names) {
    Py_ssize_t count = PyVectorcall_NARGS(nargsf);
    if (UNLIKELY(count != 3 || (names != NULL && PyTuple_GET_SIZE(names) > 0))) {
        PyErr_SetString(PyExc_TypeError, "__exit__() takes 3 arguments");
        return NULL;
    }
    return leave_block(object, args, count, true);
}

static void door_dealloc(PyObject *door) { Py_DECREF(((Door *)door)->span); }

/* Gives the door: a new reference. */
static inline PyObject *open_door(Span *span) {
    PyObject *door = (PyObject *)&span->enter;
    if (UNLIKELY(Py_REFCNT(door) > 0)) {
        Py_INCREF(door);
        return door;
    }
    span->enter.call = enter_call;
    span->enter.span = span;
    Py_SET_TYPE(door, &door_type);
    _Py_NewReference(door);
    Py_INCREF(span);
    return door;
}

static PyTypeObject door_type = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "spanring._Door",
    .tp_basicsize = sizeof(Door),
    .tp_dealloc = door_dealloc,
    .tp_vectorcall_offset = offsetof(Door, call),
    .tp_call = PyVectorcall_Call,
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_VECTORCALL,
};

/* What __enter__ and __exit__ are in the type: a span gives its door or itself, the type itself the function of that name. */
typedef struct {
    PyObject_HEAD
    PyObject *function;
    bool leaves;
} DoorDescriptor;

static PyObject *descriptor_get(PyObject *object, PyObject *span, PyObject *Py_UNUSED(type)) {
    DoorDescriptor *self = (DoorDescriptor *)object;
    if (LIKELY(span != NULL && Py_TYPE(span) == &span_type)) {
        if (!self->leaves) {
            return open_door((Span *)span);
        }
        Py_INCREF(span);
        return span;
    }
    Py_INCREF(self->function);
    return self->function;
}

static PyTypeObject descriptor_type = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "spanring._DoorDescriptor",
    .tp_basicsize = sizeof(DoorDescriptor),
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_descr_get = descriptor_get,
};

static PyMethodDef door_methods[] = {
    {"__enter__", span_enter, METH_NOARGS, NULL},
    {"__exit__", (PyCFunction)(void (*)(void))span_exit, METH_FASTCALL, NULL},
};

/* Puts __enter__ and __exit__ into the type, which is ready. */
static int add_doors(void) {
    if (PyType_Ready(&door_type) < 0 || PyType_Ready(&descriptor_type) < 0) {
        return -1;
    }
    for (int index = 0; index < 2; index++) {
        DoorDescriptor *descriptor = PyObject_New(DoorDescriptor, &descriptor_type);
        if (descriptor == NULL) {
            return -1;
        }
        descriptor->leaves = index == 1;
        descriptor->function = PyDescr_NewMethod(&span_type, &door_methods[index]);
        int failed = descriptor->function == NULL ||
                     PyDict_SetItemString(span_type.tp_dict, door_methods[index].ml_name, (PyObject *)descriptor) < 0;
        /* It stays for the life of the process, as the type does. */
        if (failed) {
            return -1;
        }
    }
    PyType_Modified(&span_type);
    return 0;
}
#endif

static PyMethodDef span_methods[] = {
#ifdef Py_LIMITED_API
    {"__enter__", span_enter, METH_NOARGS, NULL},
    {"__exit__", (PyCFunction)(void (*)(void))span_exit, METH_FASTCALL, NULL},
#endif
    {"set", (PyCFunction)(void (*)(void))span_set, METH_FASTCALL | METH_KEYWORDS,
     "set($self, attributes=None, /, **keywords)\n--\n\nSets attributes."},
    {"set_attribute", (PyCFunction)(void (*)(void))span_set_attribute, METH_FASTCALL,
     "set_attribute($self, key, value, /)\n--\n\nSets an attribute."},
    {"event", (PyCFunction)(void (*)(void))span_event, METH_FASTCALL | METH_KEYWORDS,
     "event($self, name, attributes=None, /, **keywords)\n--\n\nAdds an event that happens now."},
    {"event_at", (PyCFunction)(void (*)(void))span_event_at, METH_FASTCALL | METH_KEYWORDS,
     "event_at($self, time, name, attributes=None, /, **keywords)\n--\n\nAdds an event that happened at a time in nanoseconds since 1970."},
    {"record_exception", (PyCFunction)(void (*)(void))span_record_exception, METH_FASTCALL | METH_KEYWORDS,
     "record_exception($self, exception, attributes=None, /, **keywords)\n--\n\nAdds an event for an exception; the status stays as it is."},
    {"link", (PyCFunction)(void (*)(void))span_link, METH_FASTCALL | METH_KEYWORDS,
     "link($self, other, attributes=None, /, **keywords)\n--\n\nLinks to another span."},
    {"status", (PyCFunction)(void (*)(void))span_status, METH_FASTCALL,
     "status($self, code, message=None, /)\n--\n\nSets the status: \"ok\" (which is final), \"error\" or \"unset\"."},
    {"rename", span_rename, METH_O, "rename($self, name, /)\n--\n\nGives the span another name."},
    {"critical", span_critical, METH_NOARGS, "critical($self, /)\n--\n\nHas the span delivered soon after it ends."},
    {"end", span_end, METH_NOARGS, "end($self, /)\n--\n\nEnds the span; the second time does nothing."},
    {"end_at", span_end_at, METH_O, "end_at($self, time, /)\n--\n\nEnds the span at a time in nanoseconds since 1970."},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef span_getset[] = {
    {"trace_id", get_trace_id, NULL, "The trace's ID, 32 hexadecimal digits; zeros if there is none.", NULL},
    {"span_id", get_span_id, NULL, "The span's ID, 16 hexadecimal digits; zeros if there is none.", NULL},
    {"is_sampled", get_is_sampled, NULL, "Whether the trace is sampled.", NULL},
    {"is_recording", span_is_recording, NULL, "Whether what is set is recorded.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

/* ---- Contexts ---- */

/* Takes `context` over. */
static PyObject *context_new(spanring_context context) {
    Context *self = PyObject_GC_New(Context, &context_type);
    if (self == NULL) {
        spanring_context_release(&context);
        return NULL;
    }
    self->context = context;
    self->token = NULL;
    PyObject_GC_Track(self);
    return (PyObject *)self;
}

static bool no_context(spanring_context *out) {
    spanring_ids ids = {.size = sizeof(ids)};
    return spanring_context_from_ids(&ids, "", 0, out) == SPANRING_OK;
}

static void context_dealloc(PyObject *object) {
    Context *self = (Context *)object;
    PyObject_GC_UnTrack(object);
    Py_TRASHCAN_BEGIN(object, context_dealloc)
    Py_CLEAR(self->token);
    spanring_context_release(&self->context);
    PyObject_GC_Del(object);
    FORGET_TYPE(&context_type);
    Py_TRASHCAN_END
}

static int context_traverse(PyObject *object, visitproc visit, void *arg) {
    Py_VISIT(((Context *)object)->token);
    return 0;
}

static int context_clear(PyObject *object) {
    Py_CLEAR(((Context *)object)->token);
    return 0;
}

static PyObject *context_enter(PyObject *object, PyObject *Py_UNUSED(nothing)) {
    Context *self = (Context *)object;
    if (self->token != NULL) {
        PyErr_SetString(PyExc_RuntimeError, "the context is entered already; attach() gives another one");
        return NULL;
    }
    PyObject *token = PyContextVar_Set(current_var, object);
    if (token == NULL) {
        return NULL;
    }
    if (self->token != NULL) {
        leave(object, token);
        PyErr_SetString(PyExc_RuntimeError, "the context is entered already; attach() gives another one");
        return NULL;
    }
    self->token = token;
    Py_INCREF(object);
    return object;
}

static PyObject *context_exit(PyObject *object, PyObject *const *Py_UNUSED(args), Py_ssize_t Py_UNUSED(count)) {
    Context *self = (Context *)object;
    PyObject *token = self->token;
    self->token = NULL;
    leave(object, token);
    Py_RETURN_NONE;
}

static PyMethodDef context_methods[] = {
    {"__enter__", context_enter, METH_NOARGS, NULL},
    {"__exit__", (PyCFunction)(void (*)(void))context_exit, METH_FASTCALL, NULL},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef context_getset[] = {
    {"trace_id", get_trace_id, NULL, "The trace's ID, 32 hexadecimal digits; zeros if there is none.", NULL},
    {"span_id", get_span_id, NULL, "The span's ID, 16 hexadecimal digits; zeros if there is none.", NULL},
    {"is_sampled", get_is_sampled, NULL, "Whether the trace is sampled.", NULL},
    {"is_remote", get_is_remote, NULL, "Whether it came from another process.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static const char context_doc[] = "What identifies a span to its children; in a with statement it is current in the block.";

/* ---- The types ---- */

#ifdef Py_LIMITED_API
#include "_limited_types.h"
#else
static PyTypeObject span_type = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "spanring.Span",
    .tp_basicsize = sizeof(Span),
    .tp_dealloc = span_dealloc,
    .tp_vectorcall_offset = offsetof(Span, leave),
    .tp_repr = repr,
    .tp_call = PyVectorcall_Call,
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_HAVE_VECTORCALL,
    .tp_doc = span_doc,
    .tp_traverse = span_traverse,
    .tp_clear = span_clear,
    .tp_methods = span_methods,
    .tp_getset = span_getset,
    .tp_vectorcall = span_new,
};

static PyTypeObject context_type = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "spanring.Context",
    .tp_basicsize = sizeof(Context),
    .tp_dealloc = context_dealloc,
    .tp_repr = repr,
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    .tp_doc = context_doc,
    .tp_traverse = context_traverse,
    .tp_clear = context_clear,
    .tp_methods = context_methods,
    .tp_getset = context_getset,
};

static int make_types(void) {
    return PyType_Ready(&span_type) < 0 || add_doors() < 0 || PyType_Ready(&context_type) < 0 ? -1 : 0;
}
#endif

/* ---- Functions of the module ---- */

static PyObject *current_span(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(nothing)) {
    PyObject *value = current();
    if (value != NULL && Py_TYPE(value) == &span_type) {
        return value;
    }
    Py_XDECREF(value);
    Py_RETURN_NONE;
}

/* current_ids() -> (trace ID, span ID), empty texts if there are none. */
static PyObject *current_ids(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(nothing)) {
    PyObject *value = current();
    spanring_ids ids = ids_of(value != NULL ? context_of(value) : NULL);
    Py_XDECREF(value);
    static const spanring_ids none;
    if (memcmp(ids.span_id, none.span_id, sizeof(none.span_id)) == 0) {
        return Py_BuildValue("(ss)", "", "");
    }
    return Py_BuildValue("(NN)", hex(ids.trace_id, 16), hex(ids.span_id, 8));
}

/* context_of(None | Span | Context) -> a Context of its own. */
static PyObject *copy_context(PyObject *Py_UNUSED(module), PyObject *object) {
    const spanring_context *from = context_of(object);
    spanring_context context;
    bool is_there = from != NULL && spanring_context_copy(from, &context) == SPANRING_OK;
    if (!is_there && !no_context(&context)) {
        return raise_error(SPANRING_ERROR_INTERNAL);
    }
    return context_new(context);
}

/* _extract(traceparent, tracestate, is_remote) -> Context; one without a span if the header cannot be used. */
static PyObject *extract(PyObject *Py_UNUSED(module), PyObject *args) {
    PyObject *parent, *state;
    int is_remote;
    if (!PyArg_ParseTuple(args, "UUp", &parent, &state, &is_remote)) {
        return NULL;
    }
    utf8 parent_bytes = {"", 0, NULL}, state_bytes = {"", 0, NULL};
    spanring_context context;
    bool is_there = utf8_of(parent, &parent_bytes) && utf8_of(state, &state_bytes) &&
                    spanring_context_extract(parent_bytes.bytes, parent_bytes.len, state_bytes.bytes, state_bytes.len, &context) == SPANRING_OK;
    if (is_there && !is_remote) {
        spanring_ids ids = ids_of(&context);
        ids.is_remote = 0;
        spanring_context_release(&context);
        is_there = spanring_context_from_ids(&ids, state_bytes.bytes, state_bytes.len, &context) == SPANRING_OK;
    }
    Py_XDECREF(parent_bytes.owner);
    Py_XDECREF(state_bytes.owner);
    if (!is_there && !no_context(&context)) {
        return raise_error(SPANRING_ERROR_INTERNAL);
    }
    return context_new(context);
}

/* inject(None | Span | Context) -> (traceparent, tracestate); None is what is current. */
static PyObject *inject(PyObject *Py_UNUSED(module), PyObject *object) {
    PyObject *from = object;
    if (object == Py_None) {
        from = current();
    } else {
        Py_INCREF(from);
    }
    const spanring_context *context = from != NULL ? context_of(from) : NULL;
    PyObject *result = NULL;
    char parent[56] = "";
    char here[1024];
    char *state = here;
    size_t len = sizeof(here);
    int32_t code = context != NULL ? spanring_context_inject(context, parent, state, &len) : SPANRING_ERROR_EMPTY;
    if (code == SPANRING_ERROR_BUFFER) {
        state = PyMem_Malloc(++len);
        code = state != NULL ? spanring_context_inject(context, parent, state, &len) : code;
    }
    if (code == SPANRING_OK) {
        result = Py_BuildValue("(ss#)", parent, state, (Py_ssize_t)len);
    } else {
        result = Py_BuildValue("(ss)", "", "");
    }
    if (state != here) {
        PyMem_Free(state);
    }
    Py_XDECREF(from);
    return result;
}

/* ---- For spanring.otel, whose callers mean a callable as a value like others ---- */

/* _set(span, attributes) */
static PyObject *set_plain(PyObject *Py_UNUSED(module), PyObject *args) {
    PyObject *span, *attributes;
    if (!PyArg_ParseTuple(args, "O!O", &span_type, &span, &attributes) || set_mapping((Span *)span, attributes, true) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

/* _event(span, name, attributes, time) */
static PyObject *event_plain(PyObject *Py_UNUSED(module), PyObject *args) {
    PyObject *span, *name, *attributes, *time;
    uint64_t nanos;
    if (!PyArg_ParseTuple(args, "O!OOO", &span_type, &span, &name, &attributes, &time) || !time_of(time, &nanos) ||
        add_event((Span *)span, name, attributes, NULL, NULL, nanos, true) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

/* _link(span, Span | Context, attributes) */
static PyObject *link_plain(PyObject *Py_UNUSED(module), PyObject *args) {
    PyObject *span, *other, *attributes;
    if (!PyArg_ParseTuple(args, "O!OO", &span_type, &span, &other, &attributes)) {
        return NULL;
    }
    if (!is_parent(other)) {
        return wrong_type("a link takes a Span or a Context, not %S", other);
    }
    if (add_link((Span *)span, other, attributes, NULL, NULL, true) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

/* _scope(name, version) -> its number */
static PyObject *scope(PyObject *Py_UNUSED(module), PyObject *args) {
    PyObject *name, *version;
    if (!PyArg_ParseTuple(args, "UU", &name, &version)) {
        return NULL;
    }
    utf8 name_bytes = {"", 0, NULL}, version_bytes = {"", 0, NULL};
    uint32_t number = 0;
    int32_t code = SPANRING_ERROR_INTERNAL;
    if (utf8_of(name, &name_bytes) && utf8_of(version, &version_bytes)) {
        code = spanring_tracer_create(name_bytes.bytes, name_bytes.len, version_bytes.bytes, version_bytes.len, &number);
    }
    Py_XDECREF(name_bytes.owner);
    Py_XDECREF(version_bytes.owner);
    return code == SPANRING_OK ? PyLong_FromUnsignedLong(number) : raise_error(code);
}

/* A list of (name, value); NULL with an exception. Given back with PyMem_Free, while the list has the texts. */
static spanring_setting *settings_of(PyObject *pairs) {
    Py_ssize_t count = PyList_GET_SIZE(pairs);
    spanring_setting *settings = PyMem_Malloc(((size_t)count + 1) * sizeof(*settings));
    if (settings == NULL) {
        PyErr_NoMemory();
        return NULL;
    }
    for (Py_ssize_t index = 0; index < count; index++) {
        Py_ssize_t name_len = 0, value_len = 0;
        if (!PyArg_ParseTuple(PyList_GET_ITEM(pairs, index), "s#s#", &settings[index].name, &name_len, &settings[index].value, &value_len)) {
            PyMem_Free(settings);
            return NULL;
        }
        settings[index].name_len = (size_t)name_len;
        settings[index].value_len = (size_t)value_len;
    }
    return settings;
}

/* start([(name, value)], flags) */
static PyObject *start(PyObject *Py_UNUSED(module), PyObject *args) {
    PyObject *pairs;
    unsigned int flags;
    if (!PyArg_ParseTuple(args, "O!I", &PyList_Type, &pairs, &flags)) {
        return NULL;
    }
    spanring_setting *settings = settings_of(pairs);
    if (settings == NULL) {
        return NULL;
    }
    spanring_options options = {
        .size = sizeof(options), .settings = settings, .settings_len = (size_t)PyList_GET_SIZE(pairs), .flags = flags};
    int32_t code = spanring_start(&options);
    PyMem_Free(settings);
    if (code != SPANRING_OK) {
        return raise_error(code);
    }
    Py_RETURN_NONE;
}

/* change([(name, value)]) */
static PyObject *change(PyObject *Py_UNUSED(module), PyObject *args) {
    PyObject *pairs;
    if (!PyArg_ParseTuple(args, "O!", &PyList_Type, &pairs)) {
        return NULL;
    }
    spanring_setting *settings = settings_of(pairs);
    if (settings == NULL) {
        return NULL;
    }
    int32_t code = spanring_settings_change(settings, (size_t)PyList_GET_SIZE(pairs));
    PyMem_Free(settings);
    if (code != SPANRING_OK) {
        return raise_error(code);
    }
    Py_RETURN_NONE;
}

/* Nanoseconds of a timeout: seconds, or None for as long as it takes. */
static bool timeout_of(PyObject *object, uint64_t *out) {
    *out = SPANRING_FOREVER;
    if (object == Py_None) {
        return true;
    }
    double seconds = PyFloat_AsDouble(object);
    if (seconds == -1.0 && PyErr_Occurred()) {
        return false;
    }
    if (!(seconds >= 0)) {
        PyErr_SetString(PyExc_ValueError, "a timeout must not be negative");
        return false;
    }
    if (seconds < 1e10) {
        *out = (uint64_t)(seconds * 1e9);
    }
    return true;
}

/* There is nothing that could be waited for: no pipeline, or none yet in a fork child. */
static bool is_nothing(int32_t code) {
    return code == SPANRING_ERROR_NOT_STARTED || code == SPANRING_ERROR_FORKED || code == SPANRING_ERROR_SHUT_DOWN;
}

static PyObject *flush(PyObject *Py_UNUSED(module), PyObject *timeout) {
    uint64_t nanos;
    if (!timeout_of(timeout, &nanos)) {
        return NULL;
    }
    int32_t code;
    Py_BEGIN_ALLOW_THREADS
    code = spanring_flush(nanos);
    Py_END_ALLOW_THREADS
    if (code != SPANRING_OK && !is_nothing(code)) {
        return raise_error(code);
    }
    Py_RETURN_NONE;
}

static PyObject *shut_down(PyObject *Py_UNUSED(module), PyObject *timeout) {
    uint64_t nanos;
    if (!timeout_of(timeout, &nanos)) {
        return NULL;
    }
    int32_t code;
    Py_BEGIN_ALLOW_THREADS
    code = spanring_shutdown(nanos);
    Py_END_ALLOW_THREADS
    if (code != SPANRING_OK && !is_nothing(code)) {
        return raise_error(code);
    }
    Py_RETURN_NONE;
}

/* What a function of the library writes. */
static PyObject *text_of(int32_t (*get)(char *, size_t *)) {
    size_t size = 4096;
    for (;;) {
        char *text = PyMem_Malloc(size);
        if (text == NULL) {
            return PyErr_NoMemory();
        }
        size_t len = size;
        int32_t code = get(text, &len);
        PyObject *result = code == SPANRING_OK ? PyUnicode_DecodeUTF8(text, (Py_ssize_t)len, "replace") : NULL;
        PyMem_Free(text);
        if (code == SPANRING_OK) {
            return result;
        }
        if (code != SPANRING_ERROR_BUFFER) {
            return raise_error(code);
        }
        size = len + 1024;
    }
}

/* stats_json() -> text */
static PyObject *stats_json(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(nothing)) { return text_of(spanring_stats_json); }

/* settings_json() -> text */
static PyObject *settings_json(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(nothing)) { return text_of(spanring_settings_json); }

/* metrics_json() -> text */
static PyObject *metrics_json(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(nothing)) { return text_of(spanring_metrics_json); }

/* health_json() -> text */
static PyObject *health_json(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(nothing)) { return text_of(spanring_health_json); }

/* alerts_json() -> text; they are taken */
static PyObject *alerts_json(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(nothing)) { return text_of(spanring_alerts_json); }

/* errors_json() -> text */
static PyObject *errors_json(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(nothing)) { return text_of(spanring_errors_json); }

/* subscription_open(spans_max) -> number */
static PyObject *subscription_open(PyObject *Py_UNUSED(module), PyObject *spans_max) {
    unsigned long long most = PyLong_AsUnsignedLongLong(spans_max);
    if (most == (unsigned long long)-1 && PyErr_Occurred()) {
        return NULL;
    }
    uint64_t number = 0;
    int32_t code = spanring_subscription_open(most, &number);
    return code == SPANRING_OK ? PyLong_FromUnsignedLongLong(number) : raise_error(code);
}

/* subscription_next(number, nanoseconds) -> text, or None */
static PyObject *subscription_next(PyObject *Py_UNUSED(module), PyObject *arguments) {
    unsigned long long number, nanos;
    if (!PyArg_ParseTuple(arguments, "KK", &number, &nanos)) {
        return NULL;
    }
    size_t size = 4096;
    for (;;) {
        char *text = PyMem_Malloc(size);
        if (text == NULL) {
            return PyErr_NoMemory();
        }
        size_t len = size;
        int32_t code;
        Py_BEGIN_ALLOW_THREADS
        code = spanring_subscription_next(number, nanos, text, &len);
        Py_END_ALLOW_THREADS
        PyObject *result = code == SPANRING_OK ? PyUnicode_DecodeUTF8(text, (Py_ssize_t)len, "replace") : NULL;
        PyMem_Free(text);
        if (code == SPANRING_OK) {
            return result;
        }
        if (code == SPANRING_ERROR_EMPTY) {
            Py_RETURN_NONE;
        }
        if (code != SPANRING_ERROR_BUFFER) {
            return raise_error(code);
        }
        size = len + 1024;
    }
}

/* subscription_dropped(number) -> number */
static PyObject *subscription_dropped(PyObject *Py_UNUSED(module), PyObject *subscription) {
    unsigned long long number = PyLong_AsUnsignedLongLong(subscription);
    if (number == (unsigned long long)-1 && PyErr_Occurred()) {
        return NULL;
    }
    uint64_t dropped = 0;
    int32_t code = spanring_subscription_dropped(number, &dropped);
    return code == SPANRING_OK ? PyLong_FromUnsignedLongLong(dropped) : raise_error(code);
}

/* subscription_close(number) */
static PyObject *subscription_close(PyObject *Py_UNUSED(module), PyObject *subscription) {
    unsigned long long number = PyLong_AsUnsignedLongLong(subscription);
    if (number == (unsigned long long)-1 && PyErr_Occurred()) {
        return NULL;
    }
    int32_t code = spanring_subscription_close(number);
    if (code != SPANRING_OK) {
        return raise_error(code);
    }
    Py_RETURN_NONE;
}

/* next_message() -> (severity, text), or None */
static PyObject *next_message(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(nothing)) {
    static char text[16384];
    size_t len = sizeof(text);
    int32_t severity = 0;
    if (spanring_message_next(text, &len, &severity) != SPANRING_OK) {
        Py_RETURN_NONE;
    }
    PyObject *decoded = PyUnicode_DecodeUTF8(text, (Py_ssize_t)len, "replace");
    return decoded != NULL ? Py_BuildValue("(iN)", (int)severity, decoded) : NULL;
}

/* _pause(bool): whether this thread's spans are not made. */
static PyObject *pause_thread(PyObject *Py_UNUSED(module), PyObject *object) {
    int is_paused = PyObject_IsTrue(object);
    if (is_paused < 0) {
        return NULL;
    }
    (void)(is_paused ? spanring_thread_pause() : spanring_thread_resume());
    Py_RETURN_NONE;
}

static PyMethodDef functions[] = {
    {"current_span", current_span, METH_NOARGS, "current_span($module, /)\n--\n\nThe span that is current, or None."},
    {"_current_ids", current_ids, METH_NOARGS, NULL},
    {"_context_of", copy_context, METH_O, NULL},
    {"_extract", extract, METH_VARARGS, NULL},
    {"_inject", inject, METH_O, NULL},
    {"_start_span", start_span, METH_VARARGS, NULL},
    {"_set", set_plain, METH_VARARGS, NULL},
    {"_event", event_plain, METH_VARARGS, NULL},
    {"_link", link_plain, METH_VARARGS, NULL},
    {"_scope", scope, METH_VARARGS, NULL},
    {"_start", start, METH_VARARGS, NULL},
    {"_flush", flush, METH_O, NULL},
    {"_shutdown", shut_down, METH_O, NULL},
    {"_stats_json", stats_json, METH_NOARGS, NULL},
    {"_change", change, METH_VARARGS, NULL},
    {"_settings_json", settings_json, METH_NOARGS, NULL},
    {"_metrics_json", metrics_json, METH_NOARGS, NULL},
    {"_health_json", health_json, METH_NOARGS, NULL},
    {"_alerts_json", alerts_json, METH_NOARGS, NULL},
    {"_errors_json", errors_json, METH_NOARGS, NULL},
    {"_subscription_open", subscription_open, METH_O, NULL},
    {"_subscription_next", subscription_next, METH_VARARGS, NULL},
    {"_subscription_dropped", subscription_dropped, METH_O, NULL},
    {"_subscription_close", subscription_close, METH_O, NULL},
    {"_next_message", next_message, METH_NOARGS, NULL},
    {"_pause", pause_thread, METH_O, NULL},
    {NULL, NULL, 0, NULL},
};

static int add(PyObject *module, const char *name, PyObject *object) {
    Py_XINCREF(object);
    if (object == NULL || PyModule_AddObject(module, name, object) < 0) {
        Py_XDECREF(object);
        return -1;
    }
    return 0;
}

static int execute(PyObject *module) {
    static bool is_loaded;
    if (PyInterpreterState_GetID(PyInterpreterState_Get()) != 0) {
        PyErr_SetString(PyExc_ImportError, "spanring works in the main interpreter only, not in subinterpreters");
        return -1;
    }
    if (spanring_abi_version() != SPANRING_ABI_VERSION) {
        PyErr_SetString(PyExc_ImportError, "the library of spanring has another ABI than this module was built for");
        return -1;
    }
    if (!is_loaded) {
        if (make_types() < 0) {
            return -1;
        }
        PyObject *errors = PyImport_ImportModule("spanring._errors");
        if (errors == NULL) {
            return -1;
        }
        error_type = PyObject_GetAttrString(errors, "SpanringError");
        Py_DECREF(errors);
        numbers = PyDict_New();
        current_var = PyContextVar_New("spanring_current", NULL);
        if (error_type == NULL || numbers == NULL || current_var == NULL) {
            return -1;
        }
        is_loaded = true;
    }
    PyObject *version = PyUnicode_FromString(spanring_version());
    if (add(module, "version", version) < 0 || add(module, "Span", (PyObject *)&span_type) < 0 ||
        add(module, "Context", (PyObject *)&context_type) < 0 || add(module, "_current", current_var) < 0) {
        Py_XDECREF(version);
        return -1;
    }
    Py_DECREF(version);
    return 0;
}

static PyModuleDef_Slot slots[] = {
    {Py_mod_exec, execute},
#ifdef Py_mod_multiple_interpreters
    {Py_mod_multiple_interpreters, Py_MOD_MULTIPLE_INTERPRETERS_NOT_SUPPORTED},
#endif
#ifdef Py_mod_gil
    {Py_mod_gil, Py_MOD_GIL_USED},
#endif
    {0, NULL},
};

static PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "spanring._spanring",
    .m_methods = functions,
    .m_slots = slots,
};

PyMODINIT_FUNC PyInit__spanring(void) { return PyModuleDef_Init(&definition); }
