/* The types of _spanring.c in the build that runs on every Python: made at run time, __enter__ and __exit__ are ordinary methods. */

/* Span(...): calls span_new as Python does where it knows of it. */
static PyObject *span_from_call(PyTypeObject *type, PyObject *positional, PyObject *keywords) {
    Py_ssize_t count = PyTuple_Size(positional), named = keywords != NULL ? PyDict_Size(keywords) : 0;
    PyObject **args = PyMem_Malloc((size_t)(count + named + 1) * sizeof(*args));
    PyObject *names = args != NULL && named > 0 ? PyTuple_New(named) : NULL;
    if (args == NULL || (named > 0 && names == NULL)) {
        PyMem_Free(args);
        return PyErr_NoMemory();
    }
    for (Py_ssize_t index = 0; index < count; index++) {
        args[index] = PyTuple_GetItem(positional, index);
    }
    /* The dict may be somebody's, who changes it while lazy values are called. */
    PyObject *key, *value, *span = NULL;
    bool are_str = true;
    for (Py_ssize_t at = 0, index = 0; index < named && PyDict_Next(keywords, &at, &key, &value); index++) {
        are_str = are_str && PyUnicode_Check(key);
        Py_INCREF(key);
        PyTuple_SetItem(names, index, key);
        Py_INCREF(value);
        args[count + index] = value;
    }
    if (are_str) {
        span = span_new((PyObject *)type, args, (size_t)count, names);
    } else {
        PyErr_SetString(PyExc_TypeError, "keywords must be strings");
    }
    for (Py_ssize_t index = 0; index < named; index++) {
        Py_DECREF(args[count + index]);
    }
    PyMem_Free(args);
    Py_XDECREF(names);
    return span;
}

static PyObject *no_context_from_call(PyTypeObject *Py_UNUSED(type), PyObject *Py_UNUSED(positional), PyObject *Py_UNUSED(keywords)) {
    PyErr_SetString(PyExc_TypeError, "cannot create 'spanring.Context' instances");
    return NULL;
}

static PyType_Slot span_slots[] = {
    {Py_tp_new, span_from_call},
    {Py_tp_dealloc, span_dealloc},
    {Py_tp_repr, repr},
    {Py_tp_doc, (char *)span_doc},
    {Py_tp_traverse, span_traverse},
    {Py_tp_clear, span_clear},
    {Py_tp_methods, span_methods},
    {Py_tp_getset, span_getset},
    {0, NULL},
};

static PyType_Slot context_slots[] = {
    {Py_tp_new, no_context_from_call},
    {Py_tp_dealloc, context_dealloc},
    {Py_tp_repr, repr},
    {Py_tp_doc, (char *)context_doc},
    {Py_tp_traverse, context_traverse},
    {Py_tp_clear, context_clear},
    {Py_tp_methods, context_methods},
    {Py_tp_getset, context_getset},
    {0, NULL},
};

static int make_types(void) {
    PyType_Spec span = {"spanring.Span", sizeof(Span), 0, Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC, span_slots};
    PyType_Spec context = {"spanring.Context", sizeof(Context), 0, Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC, context_slots};
    made_span_type = (PyTypeObject *)PyType_FromSpec(&span);
    made_context_type = (PyTypeObject *)PyType_FromSpec(&context);
    return made_span_type != NULL && made_context_type != NULL ? 0 : -1;
}
