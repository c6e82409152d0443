/* The extension spanring/spanring: spans, contexts and the pipeline, on the C library of ../../../include/spanring.h.
 *
 * What is current is a stack a fiber (`fiber`), kept alive by the fiber and found again by its address. Names and keys are numbers that are
 * found by the address of a frozen string or symbol (`number_of`), and all attributes of a call are packed on the C stack and set at
 * once (`packer`).
 *
 * The GVL is held in every call of the library but `flush` and `shutdown`, which touch nothing of ours. What calls back into Ruby (lazy
 * values, to_s, blocks) may leave by longjmp, so it runs inside rb_protect, between calls of the library, never in one. */
#include <ruby.h>
#include <ruby/encoding.h>
#include <ruby/thread.h>
#include <ruby/vm.h>
#include <math.h>
#include <spanring.h>
#include <time.h>

#define LIKELY(condition) __builtin_expect(!!(condition), 1)
#define UNLIKELY(condition) __builtin_expect(!!(condition), 0)
#define COLD __attribute__((cold, noinline))
#undef ALWAYS_INLINE
#define ALWAYS_INLINE inline __attribute__((always_inline))

static VALUE spanring_module, span_class, context_class, error_class;
static VALUE full_message_options;
static ID id_state, id_to_s, id_call, id_message, id_full_message, id_strftime, id_scrub, id_big_decimal;
static int utf8_index, binary_index;

/* ---- Errors ---- */

/* Raises what the library said. */
static COLD void raise_error(int32_t code) {
    VALUE arguments[2] = {rb_utf8_str_new_cstr(spanring_last_error()), INT2NUM(code)};
    rb_exc_raise(rb_class_new_instance(2, arguments, error_class));
}

static bool is_exception(VALUE object) {
    return !RB_SPECIAL_CONST_P(object) && RB_BUILTIN_TYPE(object) != T_IMEMO && RTEST(rb_obj_is_kind_of(object, rb_eException));
}

/* Takes the error that rb_protect caught, if it is one that a value may have of its own. Everything else goes on: a throw, the end of a
 * thread, an interrupt. `before` is what $! was. */
static COLD VALUE take_error(int state, VALUE before) {
    VALUE error = rb_errinfo();
    if (!is_exception(error) ||
        !(RTEST(rb_obj_is_kind_of(error, rb_eStandardError)) || RTEST(rb_obj_is_kind_of(error, rb_eScriptError)) ||
          RTEST(rb_obj_is_kind_of(error, rb_eNoMemError)) || RTEST(rb_obj_is_kind_of(error, rb_eSysStackError)))) {
        rb_jump_tag(state);
    }
    rb_set_errinfo(is_exception(before) ? before : Qnil);
    return error;
}

static VALUE call_message(VALUE error) { return rb_obj_as_string(rb_funcallv(error, id_message, 0, NULL)); }

/* An error's message; nil if there is none to have. */
static COLD VALUE message_of(VALUE error) {
    int state;
    VALUE before = rb_errinfo();
    VALUE message = rb_protect(call_message, error, &state);
    if (state != 0) {
        take_error(state, before);
        return Qnil;
    }
    return message;
}

/* The class's name and the message, in UTF-8 or as the message is. */
static VALUE make_error_text(VALUE pair) {
    VALUE name = rb_class_path(rb_obj_class(RARRAY_AREF(pair, 0)));
    VALUE message = RARRAY_AREF(pair, 1);
    if (NIL_P(message) || RSTRING_LEN(message) == 0) {
        return name;
    }
    VALUE text = rb_str_plus(name, rb_str_new_cstr(": "));
    return rb_str_plus(text, message);
}

static COLD VALUE error_text(VALUE error, VALUE message) {
    int state;
    VALUE before = rb_errinfo();
    VALUE text = rb_protect(make_error_text, rb_assoc_new(error, message), &state);
    if (state != 0) {
        /* Encodings that do not fit. */
        take_error(state, before);
        return rb_class_path(rb_obj_class(error));
    }
    return text;
}

/* ---- UTF-8 ---- */

typedef struct {
    const char *bytes;
    size_t len;
    VALUE owner; /* has the bytes */
    bool is_binary;
} utf8;

static COLD VALUE encode(VALUE text) {
    return rb_str_encode(text, rb_enc_from_encoding(rb_utf8_encoding()), ECONV_INVALID_REPLACE | ECONV_UNDEF_REPLACE, Qnil);
}

/* Not rb_str_scrub, which would call the block that we were given. */
static COLD VALUE scrub(VALUE text) { return rb_funcallv(text, id_scrub, 0, NULL); }

/* Not plainly UTF-8. May leave by longjmp without memory. */
static COLD VALUE utf8_slowly(VALUE text, bool *is_binary) {
    int range = rb_enc_str_coderange(text);
    int encoding = rb_enc_get_index(text);
    if (range == ENC_CODERANGE_7BIT || (range == ENC_CODERANGE_VALID && encoding == utf8_index)) {
        return text;
    }
    if (encoding != utf8_index && encoding != binary_index) {
        int state;
        VALUE before = rb_errinfo();
        VALUE encoded = rb_protect(encode, text, &state);
        if (state == 0) {
            return encoded;
        }
        /* There is no way from that encoding. */
        take_error(state, before);
    }
    VALUE copy = rb_enc_str_new(RSTRING_PTR(text), RSTRING_LEN(text), rb_utf8_encoding());
    RB_GC_GUARD(text);
    if (rb_enc_str_coderange(copy) != ENC_CODERANGE_BROKEN) {
        return copy;
    }
    if (encoding == binary_index && is_binary != NULL) {
        *is_binary = true;
        return text;
    }
    return scrub(copy);
}

/* The bytes of a String. */
static inline utf8 utf8_of(VALUE text) {
    utf8 out = {.owner = text};
    int range = ENC_CODERANGE(text);
    if (UNLIKELY(range != ENC_CODERANGE_7BIT && !(range == ENC_CODERANGE_VALID && RB_ENCODING_GET(text) == utf8_index))) {
        out.owner = utf8_slowly(text, NULL);
    }
    out.bytes = RSTRING_PTR(out.owner);
    out.len = (size_t)RSTRING_LEN(out.owner);
    return out;
}

/* ---- Names and keys ---- */

/* Texts by address. One that comes a second time is worth a number, one that is made anew each time is never found here. */
#define SETS 1024
#define LONGEST_NUMBERED 256
#define NEVER UINT32_MAX

typedef struct {
    VALUE text;      /* marked, and pinned, so that its address is nobody else's */
    uint32_t number; /* 0: seen once; NEVER: the library has none for it */
} known;

static known table[SETS][2];

static void table_mark(void *unused) {
    (void)unused;
    for (size_t set = 0; set < SETS; set++) {
        rb_gc_mark(table[set][0].text);
        rb_gc_mark(table[set][1].text);
    }
}

static size_t table_size(const void *unused) {
    (void)unused;
    return sizeof(table);
}

static const rb_data_type_t table_type = {
    .wrap_struct_name = "Spanring names",
    .function = {.dmark = table_mark, .dsize = table_size},
};

static inline known *find_known(known *set, VALUE text) {
    return set[0].text == text ? &set[0] : set[1].text == text ? &set[1] : NULL;
}

static COLD uint32_t number_slowly(VALUE text, known *set) {
    VALUE string = text;
    if (RB_SYMBOL_P(text)) {
        string = rb_sym2str(text);
    } else if (!RB_OBJ_FROZEN(text) || RBASIC_CLASS(text) != rb_cString) {
        return 0;
    }
    if (RSTRING_LEN(string) > LONGEST_NUMBERED) {
        return 0;
    }
    known *slot = find_known(set, text);
    if (slot != NULL && slot->number == NEVER) {
        return 0;
    }
    /* Symbols in code are there for good. */
    uint32_t number = 0;
    if (slot != NULL || RB_STATIC_SYM_P(text)) {
        utf8 bytes = utf8_of(string);
        if (spanring_intern(bytes.bytes, bytes.len, &number) != SPANRING_OK) {
            number = NEVER;
        }
        RB_GC_GUARD(bytes.owner);
        slot = find_known(set, text); /* what converted it may have had names of its own */
    }
    if (slot == NULL) {
        set[1] = set[0];
        set[0].text = text;
        slot = &set[0];
    }
    slot->number = number;
    return number == NEVER ? 0 : number;
}

/* The number of a Symbol or String; 0 if it has none. */
static inline uint32_t number_of(VALUE text) {
    uintptr_t address = (uintptr_t)text >> 3;
    known *set = table[(address ^ (address >> 10)) % SETS];
    if (LIKELY(set[0].text == text && set[0].number - 1 < NEVER - 1)) {
        return set[0].number;
    }
    if (set[1].text == text && set[1].number - 1 < NEVER - 1) {
        return set[1].number;
    }
    return number_slowly(text, set);
}

static inline bool is_string(VALUE object) { return !RB_SPECIAL_CONST_P(object) && RB_BUILTIN_TYPE(object) == T_STRING; }

static inline bool is_name(VALUE object) { return RB_SYMBOL_P(object) || is_string(object); }

static inline bool is_array(VALUE object) { return !RB_SPECIAL_CONST_P(object) && RB_BUILTIN_TYPE(object) == T_ARRAY; }

static inline bool is_hash(VALUE object) { return !RB_SPECIAL_CONST_P(object) && RB_BUILTIN_TYPE(object) == T_HASH; }

static inline utf8 utf8_of_name(VALUE name) { return utf8_of(RB_SYMBOL_P(name) ? rb_sym2str(name) : name); }

/* ---- Lazy values that took long ---- */

#define SLOWEST 10
#define KEY_SHOWN 64

typedef struct {
    uint64_t nanos;
    uint32_t len;
    char key[KEY_SHOWN];
} slow_value;

static slow_value slowest[SLOWEST]; /* longest first */

static uint64_t monotonic(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static COLD void note_slow(VALUE key, uint64_t nanos) {
    if (nanos <= slowest[SLOWEST - 1].nanos || NIL_P(key)) {
        return;
    }
    slow_value this = {.nanos = nanos};
    VALUE text = RB_SYMBOL_P(key) ? rb_sym2str(key) : key;
    this.len = RSTRING_LEN(text) < KEY_SHOWN ? (uint32_t)RSTRING_LEN(text) : KEY_SHOWN;
    memcpy(this.key, RSTRING_PTR(text), this.len);
    RB_GC_GUARD(text);
    size_t at = 0;
    while (at < SLOWEST - 1 && !(slowest[at].len == this.len && slowest[at].nanos > 0 && memcmp(slowest[at].key, this.key, this.len) == 0)) {
        at++;
    }
    if (slowest[at].nanos >= nanos) {
        return;
    }
    for (; at > 0 && slowest[at - 1].nanos < nanos; at--) {
        slowest[at] = slowest[at - 1];
    }
    slowest[at] = this;
}

/* slowest_values() -> [[key, seconds]], the slowest first */
static VALUE slowest_values(VALUE self) {
    (void)self;
    VALUE found = rb_ary_new();
    for (size_t at = 0; at < SLOWEST && slowest[at].nanos > 0; at++) {
        slow_value this = slowest[at];
        rb_ary_push(found, rb_assoc_new(scrub(rb_utf8_str_new(this.key, this.len)), DBL2NUM((double)this.nanos / 1e9)));
    }
    return found;
}

/* ---- Packed attributes (docs/c.md) ---- */

enum { NONE, BOOL, INT, DOUBLE, STRING, BYTES, ARRAY, MAP, NUMBERED };

#define KEY_TEXT 0x80000000u
#define DEEPEST 100
#define DEEP 12 /* needs a look at the stack */
#define MOST_NESTED 100000 /* values in arrays and hashes of one call */
#define LONGEST 0x7fffffffu

typedef struct {
    uint8_t *at;
    uint8_t *end;
    uint8_t *start;
    VALUE key;   /* of the attribute that is packed */
    int nested;  /* values that may follow in arrays and hashes */
    bool is_foreign; /* the values belong to somebody else: procs are not called, hashes may change meanwhile */
    bool broken; /* there was no memory, or it is gone: nothing of it is used */
    VALUE memory; /* has what does not fit `here`; 0 for none */
    uint8_t here[512];
} packer;

/* Goes with the packer, whose C stack an abandoned fiber never leaves, and a continuation enters again. */
static const rb_data_type_t memory_type = {
    .wrap_struct_name = "Spanring attributes",
    .function = {.dfree = free},
    .flags = RUBY_TYPED_FREE_IMMEDIATELY | RUBY_TYPED_WB_PROTECTED,
};

static inline void pack_begin(packer *packed) {
    packed->at = packed->start = packed->here;
    packed->end = packed->here + sizeof(packed->here);
    packed->key = Qnil;
    packed->nested = MOST_NESTED;
    packed->is_foreign = false;
    packed->broken = false;
    packed->memory = 0;
}

static inline void pack_done(packer *packed) {
    if (UNLIKELY(packed->memory != 0)) {
        free(RTYPEDDATA_DATA(packed->memory));
        RTYPEDDATA_DATA(packed->memory) = NULL;
    }
}

/* After what may have been a continuation that came back when all was done. */
static inline void pack_check(packer *packed) {
    if (UNLIKELY(packed->memory != 0 && RTYPEDDATA_DATA(packed->memory) != packed->start)) {
        packed->broken = true;
        packed->end = packed->at; /* nothing is written any more */
    }
}

static COLD bool grow(packer *packed, size_t more) {
    if (packed->broken) {
        return false;
    }
    size_t used = (size_t)(packed->at - packed->start);
    size_t size = (used + more) * 2;
    bool is_first = packed->memory == 0;
    if (is_first) {
        packed->memory = rb_data_typed_object_wrap(rb_cObject, NULL, &memory_type);
    }
    uint8_t *start = realloc(RTYPEDDATA_DATA(packed->memory), size);
    if (start == NULL) {
        packed->broken = true;
        return false;
    }
    if (is_first) {
        memcpy(start, packed->here, used);
    }
    RTYPEDDATA_DATA(packed->memory) = start;
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

static inline void pack_null(packer *packed) {
    if (room(packed, 1)) {
        *packed->at++ = NONE;
    }
}

static inline void pack_string(packer *packed, VALUE text) {
    bool is_binary = false;
    int range = ENC_CODERANGE(text);
    if (UNLIKELY(range != ENC_CODERANGE_7BIT && !(range == ENC_CODERANGE_VALID && RB_ENCODING_GET(text) == utf8_index))) {
        text = utf8_slowly(text, &is_binary);
    }
    pack_bytes(packed, is_binary ? BYTES : STRING, RSTRING_PTR(text), (size_t)RSTRING_LEN(text));
    RB_GC_GUARD(text);
}

static void pack_text(packer *packed, VALUE text) {
    utf8 bytes = utf8_of(text);
    pack_bytes(packed, STRING, bytes.bytes, bytes.len);
    RB_GC_GUARD(bytes.owner);
}

static void pack_key_bytes(packer *packed, const char *bytes, size_t len) {
    if (len > LONGEST) {
        len = 0;
    }
    if (room(packed, 4 + len)) {
        put_u32(packed->at, KEY_TEXT | (uint32_t)len);
        memcpy(packed->at + 4, bytes, len);
        packed->at += 4 + len;
    }
}

static COLD void pack_key_text(packer *packed, VALUE key) {
    utf8 bytes = utf8_of_name(key);
    pack_key_bytes(packed, bytes.bytes, bytes.len);
    RB_GC_GUARD(bytes.owner);
}

/* A key, which is a Symbol or a String. */
static inline void pack_key(packer *packed, VALUE key) {
    uint32_t number = number_of(key);
    if (LIKELY(number != 0 && room(packed, 4))) {
        put_u32(packed->at, number);
        packed->at += 4;
    } else {
        pack_key_text(packed, key);
    }
}

static COLD void pack_error(packer *packed, VALUE error) { pack_text(packed, error_text(error, message_of(error))); }

/* What a value's own code gives, or undef when it failed and its error is packed instead. */
static COLD VALUE ask(packer *packed, VALUE (*body)(VALUE), VALUE value) {
    int state;
    VALUE before = rb_errinfo();
    VALUE result = rb_protect(body, value, &state);
    pack_check(packed);
    if (state != 0) {
        pack_error(packed, take_error(state, before));
        return Qundef;
    }
    return result;
}

static VALUE text_of(VALUE value) {
    VALUE text = rb_check_funcall(value, id_to_s, 0, NULL);
    return text != Qundef && is_string(text) ? text : rb_any_to_s(value);
}

static VALUE decimal_of(VALUE value) {
    VALUE format = rb_str_new_cstr("F");
    return rb_obj_as_string(rb_funcallv(value, id_to_s, 1, &format));
}

static VALUE time_text_of(VALUE value) {
    VALUE format = rb_str_new_cstr("%Y-%m-%dT%H:%M:%S.%9N%:z");
    return rb_obj_as_string(rb_funcallv(value, id_strftime, 1, &format));
}

static COLD void pack_text_by(packer *packed, VALUE (*body)(VALUE), VALUE value) {
    VALUE text = ask(packed, body, value);
    if (text != Qundef) {
        pack_text(packed, text);
    }
}

static void pack_value(packer *packed, VALUE value, int depth, bool may_call);

static COLD void pack_large_int(packer *packed, VALUE value) {
    int64_t wide;
    int sign = rb_integer_pack(value, &wide, 1, sizeof(wide), 0, INTEGER_PACK_NATIVE_BYTE_ORDER | INTEGER_PACK_2COMP);
    if ((sign == 1 && wide >= 0) || (sign == -1 && wide < 0)) {
        pack_tagged(packed, INT, &wide, 8);
    } else {
        pack_text_by(packed, text_of, value);
    }
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

/* Whether there are 80 KiB of stack, which the library takes to read the deepest nesting. Each step is in what the last one found: Ruby
 * checks for 16 KiB, as it did before the method that was called. */
static COLD bool has_stack(int steps) {
    char step[8192];
    __asm__ volatile("" : : "r"(step) : "memory");
    bool found = !ruby_stack_check() && (steps == 1 || has_stack(steps - 1));
    __asm__ volatile("" : : "r"(step) : "memory");
    return found;
}

static bool is_too_deep(int depth) { return depth >= DEEPEST - 1 || (depth == DEEP && !has_stack(10)); }

static COLD void pack_array(packer *packed, VALUE value, int depth) {
    if (is_too_deep(depth)) {
        pack_cut(packed);
        return;
    }
    size_t place = pack_opening(packed, ARRAY);
    uint32_t count = 0;
    /* What is called meanwhile may change it. */
    for (long index = 0; index < RARRAY_LEN(value) && !packed->broken; index++) {
        count++;
        if (packed->nested-- <= 0) {
            pack_cut(packed);
            break;
        }
        pack_value(packed, rb_ary_entry(value, index), depth + 1, true);
    }
    pack_closing(packed, place, count);
    RB_GC_GUARD(value);
}

typedef struct {
    packer *packed;
    VALUE hash;
    int depth;
    uint32_t count;
} inner_hash;

static int pack_inner_pair(VALUE key, VALUE value, VALUE argument) {
    inner_hash *inner = (inner_hash *)argument;
    packer *packed = inner->packed;
    if (packed->broken || packed->nested-- <= 0) {
        return ST_STOP;
    }
    if (!is_name(key)) {
        int state;
        VALUE before = rb_errinfo();
        VALUE text = rb_protect(text_of, key, &state);
        pack_check(packed);
        if (state != 0) {
            VALUE error = take_error(state, before);
            text = error_text(error, message_of(error));
        }
        key = text;
    }
    pack_key(packed, key);
    pack_value(packed, value, inner->depth + 1, true);
    inner->count++;
    return ST_CONTINUE;
}

static VALUE each_inner_pair(VALUE argument) {
    rb_hash_foreach(((inner_hash *)argument)->hash, pack_inner_pair, argument);
    return Qnil;
}

static COLD void pack_hash(packer *packed, VALUE value, int depth) {
    if (is_too_deep(depth)) {
        pack_cut(packed);
        return;
    }
    size_t place = pack_opening(packed, MAP);
    /* While a hash is iterated nobody may add to it, on any thread that runs while a value of it makes its text. */
    inner_hash inner = {.packed = packed, .hash = packed->is_foreign ? rb_hash_dup(value) : value, .depth = depth};
    each_inner_pair((VALUE)&inner);
    pack_closing(packed, place, inner.count);
    RB_GC_GUARD(inner.hash);
}

static VALUE call_lazy(VALUE value) { return rb_funcallv(value, id_call, 0, NULL); }

static COLD void pack_lazy(packer *packed, VALUE value, int depth) {
    VALUE key = packed->key;
    uint64_t begin = monotonic();
    VALUE result = ask(packed, call_lazy, value);
    note_slow(key, monotonic() - begin);
    if (result != Qundef) {
        pack_value(packed, result, depth, false);
    }
}

static bool is_big_decimal(VALUE value) {
    return RTEST(rb_obj_is_kind_of(value, rb_cNumeric)) && rb_const_defined(rb_cObject, id_big_decimal) &&
           RTEST(rb_obj_is_kind_of(value, rb_const_get(rb_cObject, id_big_decimal)));
}

/* What is none of the usual types. */
static COLD void pack_other(packer *packed, VALUE value, int depth, bool may_call) {
    switch (RB_BUILTIN_TYPE(value)) {
    case T_ARRAY:
        pack_array(packed, value, depth);
        break;
    case T_HASH:
        pack_hash(packed, value, depth);
        break;
    case T_BIGNUM:
        pack_large_int(packed, value);
        break;
    case T_SYMBOL:
        pack_text(packed, rb_sym2str(value));
        break;
    default:
        if (may_call && !packed->is_foreign && (RTEST(rb_obj_is_proc(value)) || RTEST(rb_obj_is_method(value)))) {
            pack_lazy(packed, value, depth);
        } else if (RB_BUILTIN_TYPE(value) == T_DATA && RTEST(rb_obj_is_kind_of(value, rb_cTime))) {
            pack_text_by(packed, time_text_of, value);
        } else if (RB_BUILTIN_TYPE(value) == T_DATA && is_big_decimal(value)) {
            pack_text_by(packed, decimal_of, value);
        } else {
            pack_text_by(packed, text_of, value);
        }
    }
}

static ALWAYS_INLINE void pack_usual(packer *packed, VALUE value, int depth, bool may_call) {
    if (RB_FIXNUM_P(value)) {
        int64_t wide = RB_FIX2LONG(value);
        pack_tagged(packed, INT, &wide, 8);
    } else if (RB_STATIC_SYM_P(value)) {
        uint32_t number = number_of(value);
        if (LIKELY(number != 0)) {
            pack_tagged(packed, NUMBERED, &number, 4);
        } else {
            pack_text(packed, rb_sym2str(value));
        }
    } else if (value == Qtrue || value == Qfalse) {
        uint8_t truth = value == Qtrue;
        pack_tagged(packed, BOOL, &truth, 1);
    } else if (NIL_P(value)) {
        pack_null(packed);
    } else if (RB_FLOAT_TYPE_P(value)) {
        double number = RFLOAT_VALUE(value);
        pack_tagged(packed, DOUBLE, &number, 8);
    } else if (LIKELY(RB_BUILTIN_TYPE(value) == T_STRING)) {
        pack_string(packed, value);
    } else {
        pack_other(packed, value, depth, may_call);
    }
}

static void pack_value(packer *packed, VALUE value, int depth, bool may_call) { pack_usual(packed, value, depth, may_call); }

static COLD void raise_key(VALUE key) {
    rb_raise(rb_eTypeError, "attribute keys must be String or Symbol, not %" PRIsVALUE, rb_obj_class(key));
}

static int pack_pair(VALUE key, VALUE value, VALUE argument) {
    packer *packed = (packer *)argument;
    if (UNLIKELY(!is_name(key))) {
        raise_key(key);
    }
    packed->key = key;
    pack_key(packed, key);
    pack_usual(packed, value, 0, true);
    return ST_CONTINUE;
}

/* Packs the attributes of a call: a Hash (nil for none) and keywords (the same). May leave by longjmp. */
static inline void pack_call(packer *packed, VALUE attributes, VALUE keywords) {
    if (UNLIKELY(!NIL_P(attributes))) {
        rb_hash_foreach(attributes, pack_pair, (VALUE)packed);
    }
    if (!NIL_P(keywords)) {
        rb_hash_foreach(keywords, pack_pair, (VALUE)packed);
    }
    packed->key = Qnil;
}

/* ---- Arguments ---- */

/* The attributes of a call, where they are positional: nil or a Hash. */
static VALUE attributes_of(VALUE object) {
    if (NIL_P(object) || is_hash(object)) {
        return object;
    }
    VALUE hash = rb_check_hash_type(object);
    if (NIL_P(hash)) {
        rb_raise(rb_eTypeError, "attributes must be a Hash, not %" PRIsVALUE, rb_obj_class(object));
    }
    return hash;
}

typedef struct {
    int count;
    VALUE *values;
    VALUE keywords; /* a Hash, or nil */
} arguments;

/* Takes the keywords off. */
static inline arguments arguments_of(int count, VALUE *values, int least, int most) {
    arguments out = {count, values, Qnil};
    if (count > 0 && rb_keyword_given_p()) {
        out.keywords = values[--out.count];
    }
    rb_check_arity(out.count, least, most);
    return out;
}

static inline VALUE argument(const arguments *given, int at) { return at < given->count ? given->values[at] : Qnil; }

static COLD void raise_name(const char *of, VALUE object) {
    rb_raise(rb_eTypeError, "%s name must be a String or a Symbol, not %" PRIsVALUE, of, rb_obj_class(object));
}

static bool says(VALUE name, const char *text) {
    VALUE string = RB_SYMBOL_P(name) ? rb_sym2str(name) : name;
    return (size_t)RSTRING_LEN(string) == strlen(text) && memcmp(RSTRING_PTR(string), text, strlen(text)) == 0;
}

static COLD uint32_t kind_of(VALUE object) {
    static const char *const kinds[] = {"internal", "server", "client", "producer", "consumer"};
    if (NIL_P(object)) {
        return 0;
    }
    if (!is_name(object)) {
        rb_raise(rb_eTypeError, "kind must be a Symbol, not %" PRIsVALUE, rb_obj_class(object));
    }
    for (uint32_t kind = 0; kind < 5; kind++) {
        if (says(object, kinds[kind])) {
            return kind + 1;
        }
    }
    rb_raise(rb_eArgError, "kind must be :internal, :server, :client, :producer or :consumer, not %+" PRIsVALUE, object);
}

/* One of SPANRING_LEVEL_...; nil for 0. */
static COLD uint32_t level_of(VALUE object) {
    static const char *const levels[] = {"none", "minimal", "smart", "full"};
    if (NIL_P(object)) {
        return 0;
    }
    if (!is_name(object)) {
        rb_raise(rb_eTypeError, "level must be a Symbol, not %" PRIsVALUE, rb_obj_class(object));
    }
    for (uint32_t level = 0; level < 4; level++) {
        if (says(object, levels[level])) {
            return level + 1;
        }
    }
    rb_raise(rb_eArgError, "level must be :none, :minimal, :smart or :full, not %+" PRIsVALUE, object);
}

/* Whether rules of sampling are to see the attributes. */
static inline bool attributes_matter(const spanring_span_options *options) {
    return UNLIKELY(spanring_attributes_matter() != 0 || options->level == SPANRING_LEVEL_SMART);
}

/* Nanoseconds since the epoch, of a Time or an Integer; nil for 0, which is now. */
static uint64_t time_of(VALUE object) {
    if (NIL_P(object)) {
        return 0;
    }
    if (RB_INTEGER_TYPE_P(object)) {
        if (RTEST(rb_funcall(object, '<', 1, INT2FIX(0)))) {
            rb_raise(rb_eArgError, "a time must not be before 1970");
        }
        return NUM2ULL(object);
    }
    if (!RTEST(rb_obj_is_kind_of(object, rb_cTime))) {
        rb_raise(rb_eTypeError, "a time must be a Time, or an Integer of nanoseconds since 1970, not %" PRIsVALUE, rb_obj_class(object));
    }
    struct timespec time = rb_time_timespec(object);
    if (time.tv_sec < 0) {
        rb_raise(rb_eArgError, "a time must not be before 1970");
    }
    if ((uint64_t)time.tv_sec >= UINT64_MAX / 1000000000u) {
        rb_raise(rb_eRangeError, "a time must be before 2554");
    }
    return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

/* ---- Spans and contexts ---- */

typedef struct {
    spanring_span span;       /* never moves */
    spanring_context context; /* if `has_context` */
    uint64_t began;           /* by `monotonic`, of spans of Stack.open */
    bool live;                /* started and not ended */
    bool has_context;
} span;

/* The context of a span, kept in it; NULL if there is none. */
static inline const spanring_context *context_of_span(span *self) {
    if (LIKELY(self->has_context)) {
        return &self->context;
    }
    if (!self->live || spanring_span_context(&self->span, &self->context) != SPANRING_OK) {
        return NULL;
    }
    self->has_context = true;
    return &self->context;
}

static inline void span_finish(span *self) {
    if (self->live) {
        self->live = false;
        spanring_span_end(&self->span);
    }
}

/* Free functions touch what they free and the library alone: they may run on any thread. */
static void span_free(void *pointer) {
    span *self = pointer;
    if (self == NULL) {
        return;
    }
    span_finish(self);
    if (self->has_context) {
        spanring_context_release(&self->context);
    }
    free(self);
}

static size_t span_size(const void *pointer) { return pointer != NULL ? sizeof(span) : 0; }

static const rb_data_type_t span_type = {
    .wrap_struct_name = "Spanring::Span",
    .function = {.dfree = span_free, .dsize = span_size},
    .flags = RUBY_TYPED_FREE_IMMEDIATELY | RUBY_TYPED_WB_PROTECTED,
};

static void context_free(void *pointer) {
    if (pointer != NULL) {
        spanring_context_release(pointer);
        free(pointer);
    }
}

static size_t context_size(const void *pointer) { return pointer != NULL ? sizeof(spanring_context) : 0; }

static const rb_data_type_t context_type = {
    .wrap_struct_name = "Spanring::Context",
    .function = {.dfree = context_free, .dsize = context_size},
    .flags = RUBY_TYPED_FREE_IMMEDIATELY | RUBY_TYPED_WB_PROTECTED,
};

/* A Span without a span in it yet. */
static inline VALUE span_object(void) { return rb_data_typed_object_wrap(span_class, NULL, &span_type); }

static inline span *span_in(VALUE object) { return RTYPEDDATA_DATA(object); }

static span *span_allocate(void) {
    span *self = malloc(sizeof(span));
    if (self == NULL) {
        rb_memerror();
    }
    self->live = self->has_context = false;
    return self;
}

/* Takes `context` over. */
static VALUE context_object(spanring_context context) {
    VALUE object = rb_data_typed_object_wrap(context_class, NULL, &context_type);
    spanring_context *place = malloc(sizeof(context));
    if (place == NULL) {
        spanring_context_release(&context);
        rb_memerror();
    }
    *place = context;
    RTYPEDDATA_DATA(object) = place;
    return object;
}

static bool no_context(spanring_context *out) {
    spanring_ids ids = {.size = sizeof(ids)};
    return spanring_context_from_ids(&ids, "", 0, out) == SPANRING_OK;
}

static bool is_span(VALUE object) { return rb_typeddata_is_kind_of(object, &span_type); }

static bool is_parent(VALUE object) { return is_span(object) || rb_typeddata_is_kind_of(object, &context_type); }

/* The context of a Span or a Context; NULL if it is something else. */
static const spanring_context *context_of(VALUE object) {
    if (is_span(object)) {
        return context_of_span(span_in(object));
    }
    return rb_typeddata_is_kind_of(object, &context_type) ? RTYPEDDATA_DATA(object) : NULL;
}

static VALUE parent_of(VALUE object) {
    if (!NIL_P(object) && !is_parent(object)) {
        rb_raise(rb_eTypeError, "parent must be a Spanring::Span or a Spanring::Context, not %" PRIsVALUE, rb_obj_class(object));
    }
    return object;
}

/* ---- What is current ---- */

typedef struct {
    span *span;                      /* what is current, or NULL */
    const spanring_context *context; /* if `span` is NULL; NULL for none */
    VALUE owner;                     /* the Span or Context that has it, or nil */
    VALUE component;                 /* whose span it is (Spanring::Traceable); 0 for nobody's */
    VALUE note;                      /* what the component keeps with it */
    bool ends;    /* the span ends with the block */
    bool entered; /* it is current until the span ends, wherever that is */
    bool is_placed; /* it is entered, and a block knows its depth all the same */
} entry;

/* A fiber's stack of what is current, innermost last. It hangs on the fiber, so it lives as long. Each owner is marked: the call that pushed
 * it has it on its C stack, but a continuation may have left that call without its end. */
typedef struct {
    entry *entries;
    VALUE inherited; /* what was current where the fiber was made: a span of RAAF's; 0 for not known yet (components.h) */
    uint32_t depth;
    uint32_t size;
} fiber;

static void fiber_mark(void *pointer) {
    const fiber *self = pointer;
    rb_gc_mark(self->inherited);
    for (uint32_t at = 0; at < self->depth; at++) {
        rb_gc_mark(self->entries[at].owner);
        rb_gc_mark(self->entries[at].component);
        rb_gc_mark(self->entries[at].note);
    }
}

static void fiber_free(void *pointer) {
    free(((fiber *)pointer)->entries);
    free(pointer);
}

static size_t fiber_size(const void *pointer) {
    const fiber *self = pointer;
    return sizeof(*self) + self->size * sizeof(entry);
}

static const rb_data_type_t fiber_type = {
    .wrap_struct_name = "Spanring current",
    .function = {.dmark = fiber_mark, .dfree = fiber_free, .dsize = fiber_size},
    .flags = RUBY_TYPED_FREE_IMMEDIATELY, /* no write barriers: it is marked each time */
};

/* The fiber that was here last, and its stack. It is a root and pinned, so no other fiber has its address. */
static VALUE last_fiber = Qnil;
static fiber *last;

static COLD fiber *here_slowly(VALUE now) {
    VALUE object = rb_attr_get(now, id_state);
    if (NIL_P(object)) {
        fiber *self = calloc(1, sizeof(*self));
        if (self == NULL) {
            rb_memerror();
        }
        object = rb_data_typed_object_wrap(rb_cObject, self, &fiber_type);
        rb_ivar_set(now, id_state, object);
    }
    last = RTYPEDDATA_DATA(object);
    last_fiber = now;
    return last;
}

static inline fiber *here(void) {
    VALUE now = rb_fiber_current();
    return LIKELY(now == last_fiber) ? last : here_slowly(now);
}

static inline bool is_over(const entry *self) { return UNLIKELY(self->entered) && !self->span->live; }

/* The innermost entry; NULL if nothing is current. Those that are over and lie above all blocks go. */
static inline entry *top_of(fiber *self) {
    while (self->depth > 0) {
        entry *top = &self->entries[self->depth - 1];
        if (LIKELY(!is_over(top))) {
            return top;
        }
        self->depth--;
    }
    return NULL;
}

static inline const spanring_context *current_context(fiber *self) {
    const entry *top = top_of(self);
    return top == NULL ? NULL : top->span != NULL ? context_of_span(top->span) : top->context;
}

/* The innermost entry of a component whose span goes on; NULL if it has none here. */
static inline const entry *entry_of(const fiber *self, VALUE component) {
    for (uint32_t at = RTEST(component) ? self->depth : 0; at > 0; at--) {
        const entry *found = &self->entries[at - 1];
        if (found->component == component && found->span->live) {
            return found;
        }
    }
    return NULL;
}

/* Forgets those that are over above the innermost that a block leaves: blocks know depths. */
static void forget_ended(fiber *self) {
    uint32_t kept = self->depth;
    while (kept > 0 && self->entries[kept - 1].entered && !self->entries[kept - 1].is_placed) {
        kept--;
    }
    for (uint32_t at = kept; at < self->depth; at++) {
        if (!is_over(&self->entries[at])) {
            self->entries[kept++] = self->entries[at];
        }
    }
    self->depth = kept;
}

static COLD void more_entries(fiber *self) {
    forget_ended(self);
    if (self->depth < self->size / 2) {
        return;
    }
    uint32_t size = self->size == 0 ? 8 : self->size * 2;
    entry *entries = realloc(self->entries, size * sizeof(*entries));
    if (entries == NULL) {
        rb_memerror();
    }
    self->entries = entries;
    self->size = size;
}

/* Makes a span current, or a context. */
static inline entry *push(fiber *self, span *span, const spanring_context *context, VALUE owner) {
    if (UNLIKELY(self->depth == self->size)) {
        more_entries(self);
    }
    entry *next = &self->entries[self->depth];
    *next = (entry){.span = span, .context = context, .owner = owner};
    self->depth++;
    return next;
}

static inline void pop(fiber *self) {
    entry *top = &self->entries[--self->depth];
    if (top->ends) {
        /* Somebody may ask for it, or have children, when it is over. */
        context_of_span(top->span);
        span_finish(top->span);
    }
}

/* Goes back to what was current: leaves an entry, and what is above it, which a continuation may have left there. With continuations, it may
 * have been left before. */
static inline void leave(fiber *self, uint32_t depth) {
    while (self->depth > depth) {
        pop(self);
    }
}

/* ---- Attributes of a span ---- */

static inline bool records(span *self) {
    int32_t recording = 0;
    return self->live && spanring_span_is_recording(&self->span, &recording) == SPANRING_OK && recording != 0;
}

/* May leave by longjmp; `packed` has begun and is to be given back. */
static inline void set_call(span *self, packer *packed, VALUE attributes, VALUE keywords) {
    if (!records(self)) {
        return;
    }
    pack_call(packed, attributes, keywords);
    if (LIKELY(!packed->broken && self->live)) {
        spanring_span_set_attributes(&self->span, packed->start, (size_t)(packed->at - packed->start));
    }
}

/* What runs with a packer, so that nothing that leaves by longjmp leaks. */
typedef struct work work;
struct work {
    span *span;
    VALUE object; /* the Span */
    VALUE attributes;
    VALUE keywords;
    VALUE subject; /* a name, a key, another span, an exception */
    VALUE value;
    uint64_t time;
    spanring_span_options *options;
    packer packed;
};

static VALUE run(VALUE (*body)(VALUE), work *with) {
    int state;
    pack_begin(&with->packed);
    VALUE result = rb_protect(body, (VALUE)with, &state);
    pack_done(&with->packed);
    RB_GC_GUARD(with->object);
    if (UNLIKELY(state != 0)) {
        rb_jump_tag(state);
    }
    return result;
}

/* ---- Exceptions ---- */

static VALUE full_message(VALUE exception) {
    return rb_obj_as_string(rb_funcallv_kw(exception, id_full_message, 1, &full_message_options, RB_PASS_KEYWORDS));
}

static void pack_literal(packer *packed, const char *key) { pack_key_bytes(packed, key, strlen(key)); }

/* Adds the event, and the status if it is asked for. May leave by longjmp. */
static COLD void add_exception(span *self, packer *packed, VALUE exception, VALUE attributes, VALUE keywords, bool sets_status) {
    if (!records(self)) {
        return;
    }
    pack_literal(packed, "exception.type");
    pack_text(packed, rb_class_path(rb_obj_class(exception)));
    VALUE message = message_of(exception);
    pack_literal(packed, "exception.message");
    if (NIL_P(message)) {
        pack_bytes(packed, STRING, "", 0);
    } else {
        pack_text(packed, message);
    }
    pack_literal(packed, "exception.stacktrace");
    pack_text_by(packed, full_message, exception);
    pack_call(packed, attributes, keywords);
    if (!packed->broken && self->live) {
        spanring_span_add_event(&self->span, "exception", 9, 0, packed->start, (size_t)(packed->at - packed->start));
    }
    if (sets_status) {
        utf8 text = utf8_of(error_text(exception, message));
        if (self->live) {
            spanring_span_set_status(&self->span, SPANRING_STATUS_ERROR, text.bytes, text.len);
        }
        RB_GC_GUARD(text.owner);
    }
}

static VALUE add_unhandled(VALUE argument) {
    work *with = (work *)argument;
    add_exception(with->span, &with->packed, with->subject, Qnil, Qnil, true);
    return Qnil;
}

/* ---- Starting spans ---- */

typedef struct {
    fiber *fiber;
    span *span;
    VALUE object; /* the Span */
    VALUE name;
    VALUE parent; /* nil for what is current */
    VALUE attributes;
    VALUE keywords;
    VALUE component; /* 0 for none */
    VALUE note;
    uint32_t depth; /* what is left again; UINT32_MAX until it is current */
    bool in_block;
    spanring_span_options options;
    packer packed;
} block;

/* Options with the parent that is given, or current. */
static inline void find_parent(spanring_span_options *options, VALUE given, fiber *self) {
    options->parent = LIKELY(NIL_P(given)) ? current_context(self) : context_of(given);
    if (options->parent == NULL) {
        options->flags |= SPANRING_SPAN_ROOT;
    }
}

static inline int32_t start_span_in(span *self, VALUE name, const spanring_span_options *options) {
    uint32_t number = number_of(name);
    int32_t code;
    if (LIKELY(number != 0)) {
        code = spanring_span_start(number, options, &self->span);
    } else {
        utf8 bytes = utf8_of_name(name);
        code = spanring_span_start_named(bytes.bytes, bytes.len, options, &self->span);
        RB_GC_GUARD(bytes.owner);
    }
    self->live = code == SPANRING_OK;
    return code;
}

/* Starts a span with the attributes, so that rules of sampling see them. May leave by longjmp, before that; `packed` has begun and is to be given
 * back. The parent is found afterwards: the program's code in between may end what was current, and its memory. */
static COLD void start_with(span *self, VALUE name, VALUE parent, spanring_span_options *options, packer *packed, VALUE attributes, VALUE keywords) {
    pack_call(packed, attributes, keywords);
    find_parent(options, parent, here());
    if (!packed->broken) {
        options->attributes = packed->start;
        options->attributes_len = (size_t)(packed->at - packed->start);
    }
    start_span_in(self, name, options);
}

/* Starts the span, makes it current, sets its attributes, runs the block. All that may leave by longjmp is in here. */
static VALUE run_block(VALUE argument) {
    block *with = (block *)argument;
    bool has_attributes = !NIL_P(with->keywords) || !NIL_P(with->attributes);
    if (has_attributes && attributes_matter(&with->options)) {
        start_with(with->span, with->name, with->parent, &with->options, &with->packed, with->attributes, with->keywords);
        pack_done(&with->packed);
        pack_begin(&with->packed);
        has_attributes = false;
    } else {
        find_parent(&with->options, with->parent, with->fiber);
        start_span_in(with->span, with->name, &with->options);
    }
    entry *next = push(with->fiber, with->span, NULL, with->object);
    next->component = with->component;
    next->note = with->note;
    next->ends = true;
    with->depth = with->fiber->depth - 1;
    if (has_attributes) {
        set_call(with->span, &with->packed, with->attributes, with->keywords);
        pack_done(&with->packed);
        pack_begin(&with->packed);
    }
    with->in_block = true;
    return rb_yield(with->object);
}

/* An error that left the block is recorded, and goes on, as does all else. */
static COLD void leave_with(int state, block *with) {
    VALUE error = rb_errinfo();
    if (with->in_block && is_exception(error)) {
        work recording = {.span = with->span, .object = with->object, .subject = error};
        pack_begin(&recording.packed);
        int failed;
        rb_protect(add_unhandled, (VALUE)&recording, &failed);
        pack_done(&recording.packed);
        if (failed != 0) {
            /* Whoever stops this thread meanwhile comes first. */
            state = failed;
        } else {
            rb_set_errinfo(error);
        }
    }
    leave(with->fiber, with->depth);
    RB_GC_GUARD(with->object);
    rb_jump_tag(state);
}

typedef struct {
    VALUE name, attributes, kind, parent, time, keywords, level;
    bool detailed;
} description;

static VALUE start_plain(VALUE argument) {
    work *with = (work *)argument;
    set_call(with->span, &with->packed, with->attributes, with->keywords);
    return with->object;
}

static VALUE start_seen(VALUE argument) {
    work *with = (work *)argument;
    start_with(with->span, with->subject, with->value, with->options, &with->packed, with->attributes, with->keywords);
    return with->object;
}

/* A Span that somebody ends. */
static VALUE span_without_block(const description *of) {
    spanring_span_options options = {.size = sizeof(options), .flags = SPANRING_SPAN_DETACHED};
    options.kind = kind_of(of->kind);
    options.start_unix_nano = time_of(of->time);
    options.level = level_of(of->level);
    if (of->detailed) {
        options.flags |= SPANRING_SPAN_DETAILED;
    }
    VALUE object = span_object();
    span *self = RTYPEDDATA_DATA(object) = span_allocate();
    bool has_attributes = !NIL_P(of->attributes) || !NIL_P(of->keywords);
    work with = {.span = self, .object = object, .attributes = of->attributes, .keywords = of->keywords};
    if (has_attributes && attributes_matter(&options)) {
        with.subject = of->name;
        with.value = of->parent;
        with.options = &options;
        return run(start_seen, &with);
    }
    find_parent(&options, of->parent, here());
    start_span_in(self, of->name, &options);
    if (has_attributes) {
        return run(start_plain, &with);
    }
    return object;
}

/* Runs the block that was given in a new span. */
static ALWAYS_INLINE VALUE span_around_block(block *with, VALUE parent) {
    with->options.size = sizeof(with->options);
    with->options.flags = SPANRING_SPAN_DETACHED;
    with->fiber = here();
    with->depth = UINT32_MAX;
    with->object = span_object();
    with->span = RTYPEDDATA_DATA(with->object) = span_allocate();
    with->parent = parent;
    pack_begin(&with->packed);
    int state;
    VALUE result = rb_protect(run_block, (VALUE)with, &state);
    pack_done(&with->packed);
    if (UNLIKELY(state != 0)) {
        leave_with(state, with);
    }
    leave(with->fiber, with->depth);
    RB_GC_GUARD(with->object);
    RB_GC_GUARD(with->parent);
    return result;
}

/* span(name, attributes = nil, kind = nil, parent = nil, level = nil, **keywords) { |span| } */
static VALUE module_span(int count, VALUE *values, VALUE module) {
    (void)module;
    arguments given = arguments_of(count, values, 1, 5);
    if (UNLIKELY(!is_name(given.values[0]))) {
        raise_name("a span's", given.values[0]);
    }
    VALUE attributes = UNLIKELY(given.count > 1) ? attributes_of(given.values[1]) : Qnil;
    VALUE parent = UNLIKELY(given.count > 3) ? parent_of(given.values[3]) : Qnil;
    if (!rb_block_given_p()) {
        description of = {given.values[0], attributes, argument(&given, 2), parent, Qnil, given.keywords, argument(&given, 4), false};
        return span_without_block(&of);
    }
    block with;
    memset(&with, 0, offsetof(block, packed));
    if (UNLIKELY(given.count > 2)) {
        with.options.kind = kind_of(given.values[2]);
        with.options.level = level_of(argument(&given, 4));
    }
    with.name = given.values[0];
    with.attributes = attributes;
    with.keywords = given.keywords;
    return span_around_block(&with, parent);
}

/* start_span(name, attributes = nil, kind: nil, parent: nil, start_time: nil, level: nil, detailed: false) */
static VALUE module_start_span(int count, VALUE *values, VALUE module) {
    (void)module;
    static ID options[5];
    if (options[0] == 0) {
        options[0] = rb_intern("kind");
        options[1] = rb_intern("parent");
        options[2] = rb_intern("start_time");
        options[3] = rb_intern("level");
        options[4] = rb_intern("detailed");
    }
    arguments given = arguments_of(count, values, 1, 2);
    if (!is_name(given.values[0])) {
        raise_name("a span's", given.values[0]);
    }
    VALUE found[5] = {Qnil, Qnil, Qnil, Qnil, Qnil};
    if (!NIL_P(given.keywords)) {
        rb_get_kwargs(given.keywords, options, 0, 5, found);
        for (int at = 0; at < 5; at++) {
            found[at] = found[at] == Qundef ? Qnil : found[at];
        }
    }
    description of = {given.values[0], attributes_of(argument(&given, 1)), found[0], parent_of(found[1]), found[2], Qnil, found[3], RTEST(found[4])};
    return span_without_block(&of);
}

/* ---- Methods of spans ---- */

static VALUE do_set(VALUE argument) {
    work *with = (work *)argument;
    set_call(with->span, &with->packed, with->attributes, with->keywords);
    return with->object;
}

static VALUE span_set(int count, VALUE *values, VALUE object) {
    arguments given = arguments_of(count, values, 0, 1);
    work with = {.span = span_in(object), .object = object, .attributes = attributes_of(argument(&given, 0)), .keywords = given.keywords};
    return run(do_set, &with);
}

static VALUE do_set_attribute(VALUE argument) {
    work *with = (work *)argument;
    if (records(with->span)) {
        pack_pair(with->subject, with->value, (VALUE)&with->packed);
        if (!with->packed.broken && with->span->live) {
            spanring_span_set_attributes(&with->span->span, with->packed.start, (size_t)(with->packed.at - with->packed.start));
        }
    }
    return with->object;
}

static VALUE span_set_attribute(VALUE object, VALUE key, VALUE value) {
    if (!is_name(key)) {
        raise_key(key);
    }
    work with = {.span = span_in(object), .object = object, .subject = key, .value = value};
    return run(do_set_attribute, &with);
}

static VALUE do_event(VALUE argument) {
    work *with = (work *)argument;
    if (!records(with->span)) {
        return with->object;
    }
    pack_call(&with->packed, with->attributes, with->keywords);
    utf8 name = utf8_of_name(with->subject);
    if (!with->packed.broken && with->span->live) {
        spanring_span_add_event(&with->span->span, name.bytes, name.len, with->time, with->packed.start,
                                (size_t)(with->packed.at - with->packed.start));
    }
    RB_GC_GUARD(name.owner);
    return with->object;
}

static VALUE add_event(VALUE object, VALUE name, VALUE attributes, VALUE keywords, uint64_t time) {
    if (!is_name(name)) {
        raise_name("an event's", name);
    }
    work with = {
        .span = span_in(object), .object = object, .attributes = attributes, .keywords = keywords, .subject = name, .time = time};
    return run(do_event, &with);
}

static VALUE span_event(int count, VALUE *values, VALUE object) {
    arguments given = arguments_of(count, values, 1, 2);
    return add_event(object, given.values[0], attributes_of(argument(&given, 1)), given.keywords, 0);
}

static VALUE span_event_at(int count, VALUE *values, VALUE object) {
    arguments given = arguments_of(count, values, 2, 3);
    return add_event(object, given.values[1], attributes_of(argument(&given, 2)), given.keywords, time_of(given.values[0]));
}

static VALUE do_record_exception(VALUE argument) {
    work *with = (work *)argument;
    add_exception(with->span, &with->packed, with->subject, with->attributes, with->keywords, false);
    return with->object;
}

static VALUE span_record_exception(int count, VALUE *values, VALUE object) {
    arguments given = arguments_of(count, values, 1, 2);
    if (!is_exception(given.values[0])) {
        rb_raise(rb_eTypeError, "record_exception takes an exception, not %" PRIsVALUE, rb_obj_class(given.values[0]));
    }
    work with = {.span = span_in(object),
                 .object = object,
                 .attributes = attributes_of(argument(&given, 1)),
                 .keywords = given.keywords,
                 .subject = given.values[0]};
    return run(do_record_exception, &with);
}

static VALUE do_link(VALUE argument) {
    work *with = (work *)argument;
    if (!records(with->span)) {
        return with->object;
    }
    pack_call(&with->packed, with->attributes, with->keywords);
    const spanring_context *context = context_of(with->subject);
    if (context != NULL && !with->packed.broken && with->span->live) {
        spanring_span_add_link(&with->span->span, context, with->packed.start, (size_t)(with->packed.at - with->packed.start));
    }
    return with->object;
}

static VALUE span_link(int count, VALUE *values, VALUE object) {
    arguments given = arguments_of(count, values, 1, 2);
    if (!is_parent(given.values[0])) {
        rb_raise(rb_eTypeError, "link takes a Spanring::Span or a Spanring::Context, not %" PRIsVALUE, rb_obj_class(given.values[0]));
    }
    work with = {.span = span_in(object),
                 .object = object,
                 .attributes = attributes_of(argument(&given, 1)),
                 .keywords = given.keywords,
                 .subject = given.values[0]};
    return run(do_link, &with);
}

/* 3 if it is none. */
static uint32_t status_of(VALUE name) {
    static const char *const codes[] = {"unset", "ok", "error"};
    uint32_t status = 0;
    while (status < 3 && !says(name, codes[status])) {
        status++;
    }
    return status;
}

static VALUE span_status(int count, VALUE *values, VALUE object) {
    rb_check_arity(count, 1, 2);
    VALUE message = count > 1 ? values[1] : Qnil;
    if (!is_name(values[0]) || !(NIL_P(message) || is_string(message))) {
        rb_raise(rb_eTypeError, "status takes :ok, :error or :unset, and a message, which is a String");
    }
    uint32_t status = status_of(values[0]);
    if (status == 3) {
        rb_raise(rb_eArgError, "a status is :ok, :error or :unset, not %+" PRIsVALUE, values[0]);
    }
    utf8 text = {.bytes = "", .owner = Qnil};
    if (!NIL_P(message)) {
        text = utf8_of(message);
    }
    span *self = span_in(object);
    if (self->live) {
        spanring_span_set_status(&self->span, status, text.bytes, text.len);
    }
    RB_GC_GUARD(text.owner);
    return object;
}

static VALUE span_rename(VALUE object, VALUE name) {
    if (!is_name(name)) {
        raise_name("a span's", name);
    }
    utf8 text = utf8_of_name(name);
    span *self = span_in(object);
    if (self->live) {
        spanring_span_update_name(&self->span, text.bytes, text.len);
    }
    RB_GC_GUARD(text.owner);
    return object;
}

static VALUE span_critical(VALUE object) {
    span *self = span_in(object);
    if (self->live) {
        spanring_span_set_critical(&self->span);
    }
    return object;
}

static VALUE span_end(VALUE object) {
    span *self = span_in(object);
    context_of_span(self);
    span_finish(self);
    return Qnil;
}

static VALUE span_end_at(VALUE object, VALUE time) {
    uint64_t nanos = time_of(time);
    span *self = span_in(object);
    context_of_span(self);
    if (self->live) {
        self->live = false;
        spanring_span_end_at(&self->span, nanos);
    }
    return Qnil;
}

static VALUE hex(const uint8_t *bytes, size_t len) {
    static const char digits[] = "0123456789abcdef";
    char text[32];
    for (size_t at = 0; at < len; at++) {
        text[2 * at] = digits[bytes[at] >> 4];
        text[2 * at + 1] = digits[bytes[at] & 15];
    }
    return rb_usascii_str_new(text, (long)(2 * len));
}

/* The IDs of a context; all zero if there is none. */
static spanring_ids ids_of(const spanring_context *context) {
    spanring_ids ids = {.size = sizeof(ids)};
    if (context == NULL || spanring_context_ids(context, &ids) != SPANRING_OK) {
        memset(&ids, 0, sizeof(ids));
    }
    return ids;
}

static VALUE get_trace_id(VALUE object) { return hex(ids_of(context_of(object)).trace_id, 16); }

static VALUE get_span_id(VALUE object) { return hex(ids_of(context_of(object)).span_id, 8); }

static VALUE is_sampled(VALUE object) { return ids_of(context_of(object)).trace_flags & 1 ? Qtrue : Qfalse; }

static VALUE is_remote(VALUE object) { return ids_of(context_of(object)).is_remote ? Qtrue : Qfalse; }

static VALUE is_recording(VALUE object) { return records(span_in(object)) ? Qtrue : Qfalse; }

static VALUE inspect(VALUE object) {
    return rb_sprintf("#<%" PRIsVALUE " trace_id=%" PRIsVALUE " span_id=%" PRIsVALUE ">", rb_obj_class(object), get_trace_id(object),
                      get_span_id(object));
}

/* ---- Spans that RAAF made ---- */

/* An ID of RAAF's or of OpenAI's SDK: what the engine has in its place. */
typedef struct {
    uint64_t high, low;  /* as it is written; a span's is `high` */
    bool is_there;
    bool is_plain; /* OpenAI's sink makes the original of it */
} foreign_id;

static int digit_of(char digit) {
    if (digit >= '0' && digit <= '9') {
        return digit - '0';
    }
    int letter = (digit | 0x20) - 'a';
    return letter >= 0 && letter < 6 ? letter + 10 : -1;
}

/* Reads so many hex digits; whether they are, and in lower case. */
static bool read_hex(const char *text, size_t count, uint64_t *out, bool *is_lower) {
    uint64_t value = 0;
    for (size_t at = 0; at < count; at++) {
        int digit = digit_of(text[at]);
        if (digit < 0) {
            return false;
        }
        *is_lower = *is_lower && !(text[at] >= 'A' && text[at] <= 'F');
        value = value << 4 | (uint64_t)digit;
    }
    *out = value;
    return true;
}

/* FNV-1a, mixed by MurmurHash3's last step: the same in every process. */
static uint64_t hash_of(const char *text, size_t len, uint64_t seed) {
    uint64_t hash = 0xcbf29ce484222325u ^ seed;
    for (size_t at = 0; at < len; at++) {
        hash = (hash ^ (uint8_t)text[at]) * 0x100000001b3u;
    }
    hash = (hash ^ hash >> 33) * 0xff51afd7ed558ccdu;
    hash = (hash ^ hash >> 33) * 0xc4ceb9fe1a85ec53u;
    hash ^= hash >> 33;
    return hash != 0 ? hash : 1;
}

static bool begins_with(const char *text, size_t len, const char *start) { return len >= strlen(start) && memcmp(text, start, strlen(start)) == 0; }

/* "trace_" and 32 hex digits are the trace ID itself; whatever else is hashed. */
static foreign_id trace_id_of(const char *text, size_t len) {
    foreign_id id = {.is_there = len > 0, .is_plain = true};
    if (len == 38 && begins_with(text, len, "trace_") && read_hex(text + 6, 16, &id.high, &id.is_plain) &&
        read_hex(text + 22, 16, &id.low, &id.is_plain) && (id.high | id.low) != 0) {
        return id;
    }
    id.is_plain = false;
    id.high = hash_of(text, len, 0);
    id.low = hash_of(text, len, 1);
    return id;
}

/* Of "span_" and 32 or 24 hex digits it is the first 16; whatever else is hashed. */
static foreign_id span_id_of(const char *text, size_t len) {
    foreign_id id = {.is_there = len > 0, .is_plain = true};
    uint64_t rest = 0, more = 0;
    bool is_long = len == 37;
    if ((is_long || len == 29) && begins_with(text, len, "span_") && read_hex(text + 5, 16, &id.high, &id.is_plain) &&
        read_hex(text + 21, 8, &rest, &id.is_plain) && (!is_long || read_hex(text + 29, 8, &more, &id.is_plain)) && id.high != 0) {
        id.is_plain = id.is_plain && !is_long && rest == 0;
        return id;
    }
    id.is_plain = false;
    id.high = hash_of(text, len, 2);
    return id;
}

static void write_id(uint8_t *out, uint64_t id) {
    for (int at = 7; at >= 0; at--, id >>= 8) {
        out[at] = (uint8_t)id;
    }
}

/* Sets of four, in which the oldest makes room: spans by what identifies them. */
#define MEMORY_SETS 512

typedef struct {
    uint64_t keys[MEMORY_SETS][4];
} memory;

static memory recorded_spans; /* of late, so that none is there twice */
static memory trace_spans;    /* that stand for a trace: to OpenAI, their children have no parent */

static uint64_t memory_key(const foreign_id *trace, const foreign_id *span) {
    uint64_t key = (trace->high ^ trace->low * 0x9e3779b97f4a7c15u ^ span->high) * 0xff51afd7ed558ccdu;
    key ^= key >> 32;
    return key != 0 ? key : 1;
}

static bool remembers(const memory *in, uint64_t key) {
    const uint64_t *set = in->keys[key % MEMORY_SETS];
    return set[0] == key || set[1] == key || set[2] == key || set[3] == key;
}

static void remember(memory *in, uint64_t key) {
    if (!remembers(in, key)) {
        uint64_t *set = in->keys[key % MEMORY_SETS];
        memmove(set + 1, set, 3 * sizeof(*set));
        set[0] = key;
    }
}

static void forget(memory *in, uint64_t key) {
    uint64_t *set = in->keys[key % MEMORY_SETS];
    for (int at = 0; at < 4; at++) {
        set[at] = set[at] == key ? 0 : set[at];
    }
}

typedef struct {
    spanring_span span;
    bool live;
    VALUE added, attributes, events, message;
    uint32_t status;
    uint64_t end;
    VALUE trace_text, span_text, parent_text; /* what openai.* is to say; nil for nothing */
    bool has_trace_parent;
    packer packed;
} foreign_span;

static void pack_id(packer *packed, const char *name, uint32_t *number, VALUE text) {
    if (NIL_P(text)) {
        return;
    }
    if (*number == 0 && spanring_intern(name, strlen(name), number) != SPANRING_OK) {
        *number = 0;
        pack_literal(packed, name);
    } else if (room(packed, 4)) {
        put_u32(packed->at, *number);
        packed->at += 4;
    }
    pack_text(packed, text);
}

static void pack_foreign(packer *packed, VALUE hash) {
    inner_hash inner = {.packed = packed, .hash = hash, .depth = -1};
    each_inner_pair((VALUE)&inner);
    RB_GC_GUARD(hash);
}

/* First of all, so that a limit of attributes keeps them. */
static void pack_ids(foreign_span *self) {
    static uint32_t trace_number, span_number, parent_number;
    pack_id(&self->packed, "openai.trace_id", &trace_number, self->trace_text);
    pack_id(&self->packed, "openai.span_id", &span_number, self->span_text);
    if (self->has_trace_parent) {
        self->parent_text = rb_str_new(NULL, 0);
    }
    pack_id(&self->packed, "openai.parent_id", &parent_number, self->parent_text);
}

/* All that may run Ruby and leave by longjmp. */
static VALUE fill_foreign(VALUE argument) {
    foreign_span *self = (foreign_span *)argument;
    packer *packed = &self->packed;
    packed->is_foreign = true;
    pack_ids(self);
    pack_foreign(packed, self->added);
    pack_foreign(packed, rb_hash_dup(self->attributes));
    if (!packed->broken) {
        spanring_span_set_attributes(&self->span, packed->start, (size_t)(packed->at - packed->start));
    }
    for (long at = 0; !NIL_P(self->events) && at + 2 < RARRAY_LEN(self->events); at += 3) {
        VALUE name = rb_ary_entry(self->events, at), attributes = rb_ary_entry(self->events, at + 2);
        uint64_t time = NUM2ULL(rb_ary_entry(self->events, at + 1));
        packed->at = packed->start;
        packed->nested = MOST_NESTED;
        if (is_hash(attributes)) {
            pack_foreign(packed, rb_hash_dup(attributes));
        }
        utf8 text = utf8_of_name(name);
        if (!packed->broken) {
            spanring_span_add_event(&self->span, text.bytes, text.len, time, packed->start, (size_t)(packed->at - packed->start));
        }
        RB_GC_GUARD(text.owner);
    }
    utf8 message = {.bytes = "", .owner = Qnil};
    if (is_string(self->message)) {
        message = utf8_of(self->message);
    }
    spanring_span_set_status(&self->span, self->status, message.bytes, message.len);
    RB_GC_GUARD(message.owner);
    return Qtrue;
}

/* What rules of sampling see. */
static VALUE pack_seen(VALUE argument) {
    foreign_span *self = (foreign_span *)argument;
    self->packed.is_foreign = true;
    pack_ids(self);
    pack_foreign(&self->packed, self->added);
    pack_foreign(&self->packed, rb_hash_dup(self->attributes));
    return Qtrue;
}

/* The scope of RAAF's spans. */
static uint32_t raaf_tracer(void) {
    static uint32_t tracer;
    if (UNLIKELY(tracer == 0)) {
        spanring_tracer_create("raaf", 4, "", 0, &tracer);
    }
    return tracer;
}

static utf8 id_text(VALUE text) { return is_string(text) ? utf8_of(text) : (utf8){.bytes = "", .owner = Qnil}; }

/* _record_raaf(name, kind, is_trace, [status, message], trace ID, span ID, parent's ID, start, end, added, attributes, events) -> true; false
 * if it was recorded before; nil if it is not recorded at all
 *
 * Times are Integers of nanoseconds since 1970, events are flat: name, time, attributes. */
static VALUE record_raaf(int count, VALUE *values, VALUE module) {
    (void)module;
    rb_check_arity(count, 12, 12);
    uint32_t tracer = raaf_tracer();
    foreign_span self = {.added = values[9], .attributes = values[10], .events = values[11]};
    Check_Type(self.added, T_HASH);
    Check_Type(self.attributes, T_HASH);
    Check_Type(values[3], T_ARRAY);
    if (!is_name(values[0])) {
        raise_name("a span's", values[0]);
    }
    self.status = status_of(rb_ary_entry(values[3], 0));
    self.message = rb_ary_entry(values[3], 1);
    self.end = time_of(values[8]);
    spanring_span_options options = {
        .size = sizeof(options), .start_unix_nano = time_of(values[7]), .tracer = tracer, .kind = kind_of(values[1]), .flags = SPANRING_SPAN_DETACHED};
    utf8 trace_text = id_text(values[4]), span_text = id_text(values[5]), parent_text = id_text(values[6]);
    foreign_id trace = trace_id_of(trace_text.bytes, trace_text.len), span = span_id_of(span_text.bytes, span_text.len),
               parent = span_id_of(parent_text.bytes, parent_text.len);
    /* With one of the two alone the engine makes both; then the original is all that there is. */
    bool has_ids = trace.is_there && span.is_there;
    self.trace_text = trace.is_there && !(trace.is_plain && has_ids) ? values[4] : Qnil;
    self.span_text = span.is_there && !(span.is_plain && has_ids) ? values[5] : Qnil;
    self.parent_text = parent.is_there && !(parent.is_plain && has_ids) ? values[6] : Qnil;
    uint64_t key = 0; /* which no set has */
    spanring_ids ids = {.size = sizeof(ids), .trace_flags = 1};
    spanring_context context;
    options.flags |= SPANRING_SPAN_ROOT;
    if (has_ids) {
        key = memory_key(&trace, &span);
        if (RTEST(values[2])) {
            remember(&trace_spans, key);
        }
        if (remembers(&recorded_spans, key)) {
            return Qfalse;
        }
        /* Now, not once it is recorded: what its attributes run may let others come with the same span. */
        remember(&recorded_spans, key);
        write_id(ids.trace_id, trace.high);
        write_id(ids.trace_id + 8, trace.low);
        if (parent.is_there && parent.high != span.high) {
            self.has_trace_parent = remembers(&trace_spans, memory_key(&trace, &parent));
            write_id(ids.span_id, parent.high);
            if (spanring_context_from_ids(&ids, "", 0, &context) == SPANRING_OK) {
                options.parent = &context;
                options.flags &= ~(uint32_t)SPANRING_SPAN_ROOT;
            }
        }
        write_id(ids.span_id, span.high);
        options.ids = &ids;
    }
    RB_GC_GUARD(trace_text.owner);
    RB_GC_GUARD(span_text.owner);
    RB_GC_GUARD(parent_text.owner);
    int state = 0;
    bool is_seen = attributes_matter(&options);
    if (is_seen) {
        pack_begin(&self.packed);
        rb_protect(pack_seen, (VALUE)&self, &state);
        if (state != 0) {
            pack_done(&self.packed);
            forget(&recorded_spans, key);
            rb_jump_tag(state);
        }
        if (!self.packed.broken) {
            options.attributes = self.packed.start;
            options.attributes_len = (size_t)(self.packed.at - self.packed.start);
        }
    }
    uint32_t number = number_of(values[0]);
    int32_t code;
    if (number != 0) {
        code = spanring_span_start(number, &options, &self.span);
    } else {
        utf8 name = utf8_of_name(values[0]);
        code = spanring_span_start_named(name.bytes, name.len, &options, &self.span);
        RB_GC_GUARD(name.owner);
    }
    if (is_seen) {
        pack_done(&self.packed);
    }
    if (code != SPANRING_OK) {
        forget(&recorded_spans, key);
        raise_error(code);
    }
    int32_t records = 0;
    spanring_span_is_recording(&self.span, &records);
    if (records == 0) {
        forget(&recorded_spans, key);
    } else {
        pack_begin(&self.packed);
        rb_protect(fill_foreign, (VALUE)&self, &state);
        pack_done(&self.packed);
    }
    /* Whatever went on: what is there of it is recorded. */
    spanring_span_end_at(&self.span, self.end);
    RB_GC_GUARD(self.added);
    RB_GC_GUARD(self.attributes);
    RB_GC_GUARD(self.events);
    RB_GC_GUARD(self.message);
    if (state != 0) {
        rb_jump_tag(state);
    }
    return records != 0 ? Qtrue : Qnil;
}

/* _remember_trace(trace ID, span ID): of a span that stands for a trace and has begun */
static VALUE remember_trace(VALUE module, VALUE trace_id, VALUE span_id) {
    (void)module;
    utf8 trace_text = id_text(trace_id), span_text = id_text(span_id);
    foreign_id trace = trace_id_of(trace_text.bytes, trace_text.len), span = span_id_of(span_text.bytes, span_text.len);
    if (trace.is_there && span.is_there) {
        remember(&trace_spans, memory_key(&trace, &span));
    }
    RB_GC_GUARD(trace_text.owner);
    RB_GC_GUARD(span_text.owner);
    return Qnil;
}

/* _seal: has everything sealed and sent that was recorded, and waits for nothing */
static VALUE seal(VALUE module) {
    (void)module;
    spanring_flush(0);
    return Qnil;
}

/* ---- Functions of the module ---- */

/* current_span -> the Span that is current, or nil */
static VALUE current_span(VALUE module) {
    (void)module;
    const entry *top = top_of(here());
    return top == NULL || top->span == NULL ? Qnil : top->owner;
}

/* _current_ids -> [trace ID, span ID], or nil */
static VALUE current_ids(VALUE module) {
    (void)module;
    spanring_ids ids = ids_of(current_context(here()));
    static const spanring_ids none;
    if (memcmp(ids.span_id, none.span_id, sizeof(none.span_id)) == 0) {
        return Qnil;
    }
    return rb_assoc_new(hex(ids.trace_id, 16), hex(ids.span_id, 8));
}

/* _context(nil | Span | Context) -> a Context; nil is what is current */
static VALUE copy_context(VALUE module, VALUE object) {
    (void)module;
    const spanring_context *from = NIL_P(object) ? current_context(here()) : context_of(object);
    spanring_context context;
    bool is_usable = from != NULL && spanring_context_copy(from, &context) == SPANRING_OK;
    if (!is_usable && !no_context(&context)) {
        raise_error(SPANRING_ERROR_INTERNAL);
    }
    return context_object(context);
}

static VALUE yield_nothing(VALUE unused) {
    (void)unused;
    return rb_yield_values(0);
}

/* _attach(nil | Span | Context) { } */
static VALUE attach(VALUE module, VALUE object) {
    (void)module;
    rb_need_block();
    fiber *self = here();
    uint32_t depth = self->depth;
    push(self, is_span(object) ? span_in(object) : NULL, is_span(object) ? NULL : context_of(object), object);
    int state;
    VALUE result = rb_protect(yield_nothing, Qnil, &state);
    leave(self, depth);
    RB_GC_GUARD(object);
    if (state != 0) {
        rb_jump_tag(state);
    }
    return result;
}

#include "components.h"

/* _extract(traceparent, tracestate) -> Context; one without a span if the header cannot be used */
static VALUE extract(VALUE module, VALUE parent, VALUE state) {
    (void)module;
    StringValue(parent);
    StringValue(state);
    utf8 state_bytes = utf8_of(state);
    utf8 parent_bytes = utf8_of(parent); /* last, for others may change it */
    spanring_context context;
    bool is_usable =
        spanring_context_extract(parent_bytes.bytes, parent_bytes.len, state_bytes.bytes, state_bytes.len, &context) == SPANRING_OK;
    RB_GC_GUARD(parent_bytes.owner);
    RB_GC_GUARD(state_bytes.owner);
    if (!is_usable && !no_context(&context)) {
        raise_error(SPANRING_ERROR_INTERNAL);
    }
    return context_object(context);
}

/* _inject(nil | Span | Context) -> [traceparent, tracestate], or nil; nil is what is current */
static VALUE inject(VALUE module, VALUE object) {
    (void)module;
    const spanring_context *context = NIL_P(object) ? current_context(here()) : context_of(object);
    char parent[56] = "";
    char place[1024];
    size_t len = sizeof(place);
    int32_t code = context != NULL ? spanring_context_inject(context, parent, place, &len) : SPANRING_ERROR_EMPTY;
    if (code == SPANRING_ERROR_BUFFER) {
        VALUE text = rb_utf8_str_new(NULL, (long)len);
        len++;
        code = spanring_context_inject(context, parent, RSTRING_PTR(text), &len);
        return code == SPANRING_OK ? rb_assoc_new(rb_utf8_str_new_cstr(parent), text) : Qnil;
    }
    if (code != SPANRING_OK || parent[0] == 0) {
        return Qnil;
    }
    return rb_assoc_new(rb_utf8_str_new_cstr(parent), rb_utf8_str_new(place, (long)len));
}

/* [[name, value]], in memory of as many settings, while the pairs have the texts. */
static void settings_of(VALUE pairs, spanring_setting *settings) {
    for (long index = 0; index < RARRAY_LEN(pairs); index++) {
        VALUE pair = RARRAY_AREF(pairs, index);
        VALUE name = RARRAY_AREF(pair, 0), value = RARRAY_AREF(pair, 1);
        Check_Type(name, T_STRING);
        Check_Type(value, T_STRING);
        settings[index] = (spanring_setting){RSTRING_PTR(name), (size_t)RSTRING_LEN(name), RSTRING_PTR(value), (size_t)RSTRING_LEN(value)};
    }
}

/* _start([[name, value]], flags) */
static VALUE start(VALUE module, VALUE pairs, VALUE flags) {
    (void)module;
    VALUE place;
    spanring_options options = {.size = sizeof(options), .settings_len = (size_t)RARRAY_LEN(pairs), .flags = NUM2UINT(flags)};
    spanring_setting *settings = ALLOCV_N(spanring_setting, place, options.settings_len + 1);
    settings_of(pairs, settings);
    options.settings = settings;
    int32_t code = spanring_start(&options);
    ALLOCV_END(place);
    RB_GC_GUARD(pairs);
    if (code != SPANRING_OK) {
        raise_error(code);
    }
    return Qnil;
}

/* _change([[name, value]]) */
static VALUE change(VALUE module, VALUE pairs) {
    (void)module;
    VALUE place;
    size_t count = (size_t)RARRAY_LEN(pairs);
    spanring_setting *settings = ALLOCV_N(spanring_setting, place, count + 1);
    settings_of(pairs, settings);
    int32_t code = spanring_settings_change(settings, count);
    ALLOCV_END(place);
    RB_GC_GUARD(pairs);
    if (code != SPANRING_OK) {
        raise_error(code);
    }
    return Qnil;
}

/* Nanoseconds of a timeout: seconds, or nil for as long as it takes. */
static uint64_t timeout_of(VALUE object) {
    if (NIL_P(object)) {
        return SPANRING_FOREVER;
    }
    double seconds = NUM2DBL(object);
    if (!(seconds >= 0)) {
        rb_raise(rb_eArgError, "a timeout must not be negative");
    }
    return seconds < 1e10 ? (uint64_t)(seconds * 1e9) : SPANRING_FOREVER;
}

typedef struct {
    int32_t (*call)(uint64_t);
    uint64_t nanos;
    int32_t code;
} waiting;

static void *wait_here(void *argument) {
    waiting *wait = argument;
    wait->code = wait->call(wait->nanos);
    return NULL;
}

/* There is nothing that could be waited for: no pipeline, or none yet in a fork child. */
static bool is_nothing(int32_t code) {
    return code == SPANRING_ERROR_NOT_STARTED || code == SPANRING_ERROR_FORKED || code == SPANRING_ERROR_SHUT_DOWN;
}

static VALUE answer(int32_t code) {
    if (code != SPANRING_OK && !is_nothing(code)) {
        raise_error(code);
    }
    return Qnil;
}

#define FIRST_WAIT 100000000u
#define LONGEST_WAIT 10000000000u

/* Waits in turns, so that Ruby's interrupts (signals, Thread#kill, Timeout) are served; each is longer than the last, for one that is too
 * short is asked again and waits for what was recorded meanwhile, too. */
static VALUE flush(VALUE module, VALUE timeout) {
    (void)module;
    uint64_t left = timeout_of(timeout);
    waiting wait = {.call = spanring_flush};
    for (uint64_t turn = FIRST_WAIT;; turn = turn * 2 < LONGEST_WAIT ? turn * 2 : LONGEST_WAIT) {
        wait.nanos = turn < left ? turn : left;
        rb_thread_call_without_gvl(wait_here, &wait, NULL, NULL);
        if (left != SPANRING_FOREVER) {
            left -= wait.nanos;
        }
        if (wait.code != SPANRING_ERROR_TIMED_OUT || left == 0) {
            return answer(wait.code);
        }
    }
}

/* In one turn: what is not delivered at its end is dropped. */
static VALUE shut_down(VALUE module, VALUE timeout) {
    (void)module;
    waiting wait = {.call = spanring_shutdown, .nanos = timeout_of(timeout)};
    rb_thread_call_without_gvl(wait_here, &wait, NULL, NULL);
    return answer(wait.code);
}

/* What a function of the library writes. */
static VALUE text_from(int32_t (*get)(char *, size_t *)) {
    size_t size = 4096;
    for (;;) {
        VALUE text = rb_utf8_str_new(NULL, (long)size);
        size_t len = size;
        int32_t code = get(RSTRING_PTR(text), &len);
        if (code == SPANRING_OK) {
            rb_str_set_len(text, (long)len);
            return text;
        }
        if (code != SPANRING_ERROR_BUFFER) {
            raise_error(code);
        }
        size = len + 1024;
    }
}

/* _stats_json -> text */
static VALUE stats_json(VALUE module) {
    (void)module;
    return text_from(spanring_stats_json);
}

/* _settings_json -> text */
static VALUE settings_json(VALUE module) {
    (void)module;
    return text_from(spanring_settings_json);
}

/* _metrics_json -> text */
static VALUE metrics_json(VALUE module) {
    (void)module;
    return text_from(spanring_metrics_json);
}

/* _health_json -> text */
static VALUE health_json(VALUE module) {
    (void)module;
    return text_from(spanring_health_json);
}

/* _pause(bool): whether this thread's spans are not made */
static VALUE pause_thread(VALUE module, VALUE is_paused) {
    (void)module;
    (void)(RTEST(is_paused) ? spanring_thread_pause() : spanring_thread_resume());
    return Qnil;
}

/* _alerts_json -> text; they are taken */
static VALUE alerts_json(VALUE module) {
    (void)module;
    return text_from(spanring_alerts_json);
}

/* _errors_json -> text */
static VALUE errors_json(VALUE module) {
    (void)module;
    return text_from(spanring_errors_json);
}

/* _subscription_open(spans_max) -> number */
static VALUE subscription_open(VALUE module, VALUE spans_max) {
    (void)module;
    uint64_t number = 0;
    int32_t code = spanring_subscription_open(NUM2ULL(spans_max), &number);
    if (code != SPANRING_OK) {
        raise_error(code);
    }
    return ULL2NUM(number);
}

#define NOT_POLLED (-1)

typedef struct {
    uint64_t number;
    uint64_t nanos;
    char *text;
    size_t len;
    int32_t code;
} polling;

static void *poll_here(void *argument) {
    polling *poll = argument;
    poll->code = spanring_subscription_next(poll->number, poll->nanos, poll->text, &poll->len);
    return NULL;
}

/* _subscription_next(number, nanoseconds, taken) -> text, or nil. Other threads run meanwhile. What stops this thread meanwhile leaves the
 * text in the Array `taken`. */
static VALUE subscription_next(VALUE module, VALUE number, VALUE nanos, VALUE taken) {
    (void)module;
    polling poll = {.number = NUM2ULL(number), .nanos = NUM2ULL(nanos)};
    Check_Type(taken, T_ARRAY);
    size_t size = 4096;
    for (;;) {
        VALUE text = rb_utf8_str_new(NULL, (long)size);
        poll.text = RSTRING_PTR(text);
        poll.len = size;
        poll.code = NOT_POLLED;
        /* Unlike the one without 2, it does not end in what stops this thread; where that is there before, it does nothing. */
        rb_thread_call_without_gvl2(poll_here, &poll, NULL, NULL);
        if (poll.code == SPANRING_OK) {
            rb_str_set_len(text, (long)poll.len);
            rb_ary_push(taken, text);
            rb_thread_check_ints();
            return rb_ary_shift(taken);
        }
        RB_GC_GUARD(text);
        if (poll.code == SPANRING_ERROR_BUFFER) {
            size = poll.len + 1024;
            continue;
        }
        if (poll.code != SPANRING_ERROR_EMPTY && poll.code != NOT_POLLED) {
            raise_error(poll.code);
        }
        rb_thread_check_ints();
        if (poll.code == SPANRING_ERROR_EMPTY) {
            return Qnil;
        }
    }
}

/* _subscription_dropped(number) -> number */
static VALUE subscription_dropped(VALUE module, VALUE number) {
    (void)module;
    uint64_t dropped = 0;
    int32_t code = spanring_subscription_dropped(NUM2ULL(number), &dropped);
    if (code != SPANRING_OK) {
        raise_error(code);
    }
    return ULL2NUM(dropped);
}

/* _subscription_close(number) */
static VALUE subscription_close(VALUE module, VALUE number) {
    (void)module;
    int32_t code = spanring_subscription_close(NUM2ULL(number));
    if (code != SPANRING_OK) {
        raise_error(code);
    }
    return Qnil;
}

/* _next_message -> [severity, text], or nil */
static VALUE next_message(VALUE module) {
    (void)module;
    static char text[16384];
    size_t len = sizeof(text);
    int32_t severity = 0;
    if (spanring_message_next(text, &len, &severity) != SPANRING_OK) {
        return Qnil;
    }
    return rb_assoc_new(INT2NUM(severity), rb_utf8_str_new(text, (long)(len < sizeof(text) ? len : sizeof(text) - 1)));
}

/* Ruby ends a process that a signal ended by the signal itself, without C's exit handlers; this it calls before. */
static void at_exit(ruby_vm_t *vm) {
    (void)vm;
    spanring_shutdown(5000000000u);
}

RUBY_FUNC_EXPORTED void Init_spanring(void) {
    if (spanring_abi_version() != SPANRING_ABI_VERSION) {
        rb_raise(rb_eLoadError, "the library of spanring has another ABI than this extension was built for");
    }
    utf8_index = rb_utf8_encindex();
    binary_index = rb_ascii8bit_encindex();
    id_state = rb_intern("__spanring__");
    id_to_s = rb_intern("to_s");
    id_call = rb_intern("call");
    id_message = rb_intern("message");
    id_full_message = rb_intern("full_message");
    id_strftime = rb_intern("strftime");
    id_scrub = rb_intern("scrub");
    id_big_decimal = rb_intern("BigDecimal");
    rb_gc_register_address(&last_fiber);
    rb_gc_register_address(&full_message_options);
    full_message_options = rb_hash_new();
    rb_hash_aset(full_message_options, ID2SYM(rb_intern("highlight")), Qfalse);
    rb_hash_aset(full_message_options, ID2SYM(rb_intern("order")), ID2SYM(rb_intern("top")));
    rb_obj_freeze(full_message_options);
    rb_gc_register_mark_object(rb_data_typed_object_wrap(rb_cObject, table, &table_type));

    spanring_module = rb_define_module("Spanring");
    error_class = rb_const_get(spanring_module, rb_intern("Error"));
    rb_gc_register_address(&error_class);
    rb_define_const(spanring_module, "LIBRARY_VERSION", rb_obj_freeze(rb_utf8_str_new_cstr(spanring_version())));

    rb_define_singleton_method(spanring_module, "span", module_span, -1);
    rb_define_singleton_method(spanring_module, "start_span", module_start_span, -1);
    rb_define_singleton_method(spanring_module, "current_span", current_span, 0);
    rb_define_singleton_method(spanring_module, "slowest_values", slowest_values, 0);
    rb_define_singleton_method(spanring_module, "_current_ids", current_ids, 0);
    rb_define_singleton_method(spanring_module, "_context", copy_context, 1);
    rb_define_singleton_method(spanring_module, "_attach", attach, 1);
    rb_define_singleton_method(spanring_module, "_extract", extract, 2);
    rb_define_singleton_method(spanring_module, "_inject", inject, 1);
    rb_define_singleton_method(spanring_module, "_start", start, 2);
    rb_define_singleton_method(spanring_module, "_record_raaf", record_raaf, -1);
    rb_define_singleton_method(spanring_module, "_remember_trace", remember_trace, 2);
    rb_define_singleton_method(spanring_module, "_seal", seal, 0);
    /* exit! and exec flush, in any Ractor. */
    rb_ext_ractor_safe(true);
    rb_define_singleton_method(spanring_module, "_flush", flush, 1);
    rb_ext_ractor_safe(false);
    rb_define_singleton_method(spanring_module, "_shutdown", shut_down, 1);
    rb_define_singleton_method(spanring_module, "_stats_json", stats_json, 0);
    rb_define_singleton_method(spanring_module, "_change", change, 1);
    rb_define_singleton_method(spanring_module, "_settings_json", settings_json, 0);
    rb_define_singleton_method(spanring_module, "_metrics_json", metrics_json, 0);
    rb_define_singleton_method(spanring_module, "_health_json", health_json, 0);
    rb_define_singleton_method(spanring_module, "_alerts_json", alerts_json, 0);
    rb_define_singleton_method(spanring_module, "_errors_json", errors_json, 0);
    rb_define_singleton_method(spanring_module, "_subscription_open", subscription_open, 1);
    rb_define_singleton_method(spanring_module, "_subscription_next", subscription_next, 3);
    rb_define_singleton_method(spanring_module, "_subscription_dropped", subscription_dropped, 1);
    rb_define_singleton_method(spanring_module, "_subscription_close", subscription_close, 1);
    rb_define_singleton_method(spanring_module, "_next_message", next_message, 0);
    rb_define_singleton_method(spanring_module, "_pause", pause_thread, 1);

    define_components();

    span_class = rb_define_class_under(spanring_module, "Span", rb_cObject);
    rb_gc_register_address(&span_class);
    rb_undef_alloc_func(span_class);
    rb_undef_method(CLASS_OF(span_class), "new");
    rb_define_method(span_class, "set", span_set, -1);
    rb_define_method(span_class, "set_attribute", span_set_attribute, 2);
    rb_define_method(span_class, "[]=", span_set_attribute, 2);
    rb_define_method(span_class, "event", span_event, -1);
    rb_define_method(span_class, "event_at", span_event_at, -1);
    rb_define_method(span_class, "record_exception", span_record_exception, -1);
    rb_define_method(span_class, "link", span_link, -1);
    rb_define_method(span_class, "status", span_status, -1);
    rb_define_method(span_class, "rename", span_rename, 1);
    rb_define_method(span_class, "critical", span_critical, 0);
    rb_define_method(span_class, "end", span_end, 0);
    rb_define_method(span_class, "end_at", span_end_at, 1);
    rb_define_method(span_class, "trace_id", get_trace_id, 0);
    rb_define_method(span_class, "span_id", get_span_id, 0);
    rb_define_method(span_class, "sampled?", is_sampled, 0);
    rb_define_method(span_class, "recording?", is_recording, 0);
    rb_define_method(span_class, "inspect", inspect, 0);

    context_class = rb_define_class_under(spanring_module, "Context", rb_cObject);
    rb_gc_register_address(&context_class);
    rb_undef_alloc_func(context_class);
    rb_undef_method(CLASS_OF(context_class), "new");
    rb_define_method(context_class, "trace_id", get_trace_id, 0);
    rb_define_method(context_class, "span_id", get_span_id, 0);
    rb_define_method(context_class, "sampled?", is_sampled, 0);
    rb_define_method(context_class, "remote?", is_remote, 0);
    rb_define_method(context_class, "inspect", inspect, 0);

    ruby_vm_at_exit(at_exit);
}
