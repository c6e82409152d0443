/* For the build that runs on every Python (SPANRING_ABI3=1): what _spanring.c uses beyond the limited API of 3.9, made of that. The names are
 * those of the full API, so the code there is the same. What cannot be had so, the doors of a span and types that are static, is behind
 * Py_LIMITED_API there. */

/* In the stable ABI since 3.10, in the same form in 3.9. */
#define METH_FASTCALL 0x0080

#define PyVectorcall_NARGS(count) ((Py_ssize_t)(count))
#define PyUnicode_GET_LENGTH(text) PyUnicode_GetLength(text)
#define PyUnicode_IS_COMPACT_ASCII(text) false
#define PyUnicode_1BYTE_DATA(text) NULL
#define PyBytes_AS_STRING(bytes) PyBytes_AsString(bytes)
#define PyBytes_GET_SIZE(bytes) PyBytes_Size(bytes)
#define PyFloat_AS_DOUBLE(number) PyFloat_AsDouble(number)
#define PyTuple_GET_SIZE(tuple) PyTuple_Size(tuple)
#define PyTuple_GET_ITEM(tuple, index) PyTuple_GetItem(tuple, index)
#define PyList_GET_SIZE(list) PyList_Size(list)
#define PyList_GET_ITEM(list, index) PyList_GetItem(list, index)

/* Headers of 3.12 and later spare counting None, which older Pythons need. */
#undef Py_RETURN_NONE
#define Py_RETURN_NONE return Py_INCREF(Py_None), Py_None

/* Python before 3.13 takes a "#" for a Py_ssize_t by these names alone, which the headers of 3.13 no longer give. */
PyAPI_FUNC(int) _PyArg_Parse_SizeT(PyObject *, const char *, ...);
PyAPI_FUNC(int) _PyArg_ParseTuple_SizeT(PyObject *, const char *, ...);
PyAPI_FUNC(PyObject *) _Py_BuildValue_SizeT(const char *, ...);
#define PyArg_Parse _PyArg_Parse_SizeT
#define PyArg_ParseTuple _PyArg_ParseTuple_SizeT
#define Py_BuildValue _Py_BuildValue_SizeT

static inline const char *PyUnicode_AsUTF8AndSize(PyObject *text, Py_ssize_t *len) {
    const char *bytes;
    return PyArg_Parse(text, "s#", &bytes, len) ? bytes : NULL;
}

/* ---- Types are made when the module is, and each object counts in its type. ---- */

static PyTypeObject *made_span_type;
static PyTypeObject *made_context_type;
#define span_type (*made_span_type)
#define context_type (*made_context_type)

#define _Py_NewReference(span) PyObject_Init(span, &span_type)
#define FORGET_TYPE(type) Py_DECREF(type)

/* ---- The context variable, by its methods ---- */

static PyObject *variable_get;
static PyObject *variable_set;
static PyObject *variable_reset;

static PyObject *PyContextVar_New(const char *name, PyObject *Py_UNUSED(otherwise)) {
    PyObject *module = PyImport_ImportModule("contextvars");
    PyObject *variable = module != NULL ? PyObject_CallMethod(module, "ContextVar", "s", name) : NULL;
    Py_XDECREF(module);
    if (variable != NULL) {
        variable_get = PyObject_GetAttrString(variable, "get");
        variable_set = PyObject_GetAttrString(variable, "set");
        variable_reset = PyObject_GetAttrString(variable, "reset");
        if (variable_get == NULL || variable_set == NULL || variable_reset == NULL) {
            Py_CLEAR(variable);
        }
    }
    return variable;
}

static inline int PyContextVar_Get(PyObject *Py_UNUSED(variable), PyObject *Py_UNUSED(otherwise), PyObject **value) {
    *value = PyObject_CallFunctionObjArgs(variable_get, Py_None, NULL);
    return *value != NULL ? 0 : -1;
}

static inline PyObject *PyContextVar_Set(PyObject *Py_UNUSED(variable), PyObject *value) {
    return PyObject_CallFunctionObjArgs(variable_set, value, NULL);
}

static inline int PyContextVar_Reset(PyObject *Py_UNUSED(variable), PyObject *token) {
    PyObject *none = PyObject_CallFunctionObjArgs(variable_reset, token, NULL);
    Py_XDECREF(none);
    return none != NULL ? 0 : -1;
}

/* ---- Objects that hold each other in a long chain are let go one after the other, not each in the other's call. ---- */

static void span_dealloc(PyObject *object);
static void context_dealloc(PyObject *object);

static int trash_depth;
static PyObject *trash; /* each has the next in its first word, where its count was, which nobody else needs any more */

static void empty_trash(void) {
    while (trash_depth == 1 && trash != NULL) {
        PyObject *object = trash;
        /* The whole word: in headers of 3.14 and later, ob_refcnt is half of it. */
        memcpy(&trash, object, sizeof(trash));
        memset(object, 0, sizeof(void *));
        (Py_TYPE(object) == &span_type ? span_dealloc : context_dealloc)(object);
    }
}

#define Py_TRASHCAN_BEGIN(object, dealloc)             \
    if (trash_depth >= 50) {                           \
        memcpy((object), &trash, sizeof(trash));       \
        trash = (object);                              \
    } else {                                           \
        trash_depth++;
#define Py_TRASHCAN_END \
        empty_trash();  \
        trash_depth--;  \
    }
