/* Part of spanring.c: spans that an object finds again, its component's. What lib/spanring/traceable.rb and lib/spanring/raaf/ are made of.
 *
 * A component's entry in the fiber's stack has a note: for RAAF, the Live that its code and its processors read, which is a C struct for
 * what RAAF's Traceable makes (`live`), since each costs. */

/* ---- Any component's ---- */

/* span(component, note, name, attributes, more, level) { |span| }: a span that the component finds again; attributes are a Hash or nil */
static VALUE stack_span(VALUE module, VALUE component, VALUE note, VALUE name, VALUE attributes, VALUE more, VALUE level) {
    (void)module;
    rb_need_block();
    if (!is_name(name)) {
        raise_name("a span's", name);
    }
    block with;
    memset(&with, 0, offsetof(block, packed));
    with.name = name;
    with.attributes = attributes_of(attributes);
    with.keywords = attributes_of(more);
    with.component = component;
    with.note = note;
    with.options.level = NIL_P(level) ? 0 : level_of(level);
    return span_around_block(&with, Qnil);
}

/* A Span of a component, which is current until it ends, wherever that is. The parent is a Span, a Context, nil for what is current, or
 * false for none. */
static VALUE open_span(VALUE component, VALUE note, VALUE name, VALUE kind, VALUE parent, const spanring_ids *ids) {
    if (!is_name(name)) {
        raise_name("a span's", name);
    }
    spanring_span_options options = {.size = sizeof(options), .flags = SPANRING_SPAN_DETACHED, .ids = ids};
    options.kind = NIL_P(kind) ? 0 : kind_of(kind);
    fiber *self = here();
    VALUE object = span_object();
    span *own = RTYPEDDATA_DATA(object) = span_allocate();
    if (parent == Qfalse) {
        options.flags |= SPANRING_SPAN_ROOT;
    } else {
        find_parent(&options, parent_of(parent), self);
    }
    start_span_in(own, name, &options);
    own->began = monotonic();
    top_of(self);
    entry *next = push(self, own, NULL, object);
    next->component = component;
    next->note = note;
    next->entered = true;
    RB_GC_GUARD(object);
    RB_GC_GUARD(parent);
    return object;
}

/* open(component, note, name, kind, parent, trace ID, span ID) -> Span; the IDs are as RAAF writes them, or nil */
static VALUE stack_open(VALUE module, VALUE component, VALUE note, VALUE name, VALUE kind, VALUE parent, VALUE trace_id, VALUE span_id) {
    (void)module;
    if (NIL_P(trace_id)) {
        return open_span(component, note, name, kind, parent, NULL);
    }
    utf8 trace_text = id_text(trace_id), span_text = id_text(span_id);
    foreign_id trace = trace_id_of(trace_text.bytes, trace_text.len), own = span_id_of(span_text.bytes, span_text.len);
    RB_GC_GUARD(trace_text.owner);
    RB_GC_GUARD(span_text.owner);
    spanring_ids ids = {.size = sizeof(ids)};
    write_id(ids.trace_id, trace.high);
    write_id(ids.trace_id + 8, trace.low);
    write_id(ids.span_id, own.high);
    return open_span(component, note, name, kind, parent, &ids);
}

/* note(component) -> the note of its innermost span that goes on in this fiber, or nil */
static VALUE stack_note(VALUE module, VALUE component) {
    (void)module;
    const entry *found = entry_of(here(), component);
    return found == NULL ? Qnil : found->note;
}

/* reusable(component, note) -> its innermost span that goes on in this fiber, if that has this note, or no note is given; or nil */
static VALUE stack_reusable(VALUE module, VALUE component, VALUE note) {
    (void)module;
    const entry *found = entry_of(here(), component);
    return found != NULL && (NIL_P(note) || found->note == note) ? found->owner : Qnil;
}

static double age_of(const span *self) { return (double)(monotonic() - self->began) / 1e6; }

/* age(Span) -> milliseconds since Stack.open made it */
static VALUE stack_age(VALUE module, VALUE object) {
    (void)module;
    return DBL2NUM(age_of(rb_check_typeddata(object, &span_type)));
}

/* ---- What attributes of RAAF's are called elsewhere, the usual ones (lib/spanring/raaf/conventions.rb) ---- */

/* What Conventions.attributes gives, at a fifth of the time: where it would do more than give values another name, it is asked. */
enum { SLOTS_MAX = 64, NUMBERS = 32768 };
enum { UNSEEN, UNKNOWN, ASK, KNOWN }; /* and from KNOWN on, slot and rank */
#define NO_RANK 256

static VALUE convention_codes;  /* Hash of names to slot << 8 | rank, or nil for a name that is a target */
static VALUE convention_names;  /* by slot, nil where there is more to do */
static uint32_t count_slots;    /* so many slots, the first, are counts */
static VALUE convention_types;  /* by slot, the names for the types of contents */
static uint16_t codes[NUMBERS]; /* by number of the name */

/* conventions(codes, names, types, count of slots of counts) */
static VALUE stack_conventions(VALUE module, VALUE given_codes, VALUE names, VALUE types, VALUE first) {
    Check_Type(given_codes, T_HASH);
    Check_Type(names, T_ARRAY);
    Check_Type(types, T_ARRAY);
    if (RARRAY_LEN(names) > SLOTS_MAX || RARRAY_LEN(types) != RARRAY_LEN(names)) {
        rb_raise(rb_eArgError, "there are more slots than %d", SLOTS_MAX);
    }
    convention_codes = given_codes;
    convention_names = names;
    convention_types = types;
    count_slots = NUM2UINT(first);
    return module;
}

static COLD uint16_t code_slowly(VALUE key) {
    VALUE code = rb_hash_lookup2(convention_codes, key, Qundef);
    return code == Qundef ? UNKNOWN : NIL_P(code) ? ASK : (uint16_t)(KNOWN + FIX2INT(code));
}

static inline uint16_t code_of(VALUE key) {
    uint32_t number = number_of(key);
    if (UNLIKELY(number == 0 || number >= NUMBERS)) {
        return code_slowly(key);
    }
    if (UNLIKELY(codes[number] == UNSEEN)) {
        codes[number] = code_slowly(key);
    }
    return codes[number];
}

/* Whether it is what RAAF says where it knows nothing. */
static bool is_no_answer(VALUE text) {
    long len = RSTRING_LEN(text);
    return (len == 3 && (memcmp(RSTRING_PTR(text), "N/A", 3) == 0 || memcmp(RSTRING_PTR(text), "n/a", 3) == 0)) ||
           (len == 7 && memcmp(RSTRING_PTR(text), "unknown", 7) == 0);
}

typedef struct {
    inner_hash inner;
    bool asks;  /* there is more to do than is done here */
    bool knows; /* a slot has a value */
    uint16_t ranks[SLOTS_MAX];
    VALUE values[SLOTS_MAX];
} description_of;

static int describe_pair(VALUE key, VALUE value, VALUE argument) {
    description_of *found = (description_of *)argument;
    uint16_t code = is_name(key) ? code_of(key) : UNKNOWN;
    if (code == ASK) {
        found->asks = true;
        return ST_STOP;
    }
    if (code >= KNOWN && !NIL_P(value) && !(is_string(value) && is_no_answer(value))) {
        uint32_t slot = (uint32_t)(code - KNOWN) >> 8;
        bool is_content = !NIL_P(RARRAY_AREF(convention_types, slot));
        if (NIL_P(RARRAY_AREF(convention_names, slot)) || (slot < count_slots && !(RB_FIXNUM_P(value) && FIX2LONG(value) >= 0)) ||
            (is_content && !is_name(value))) {
            found->asks = true;
            return ST_STOP;
        }
        uint16_t rank = (code - KNOWN) & 255;
        if (rank <= found->ranks[slot]) {
            found->ranks[slot] = rank;
            found->values[slot] = value;
            found->knows = true;
        }
    }
    return pack_inner_pair(key, value, (VALUE)&found->inner);
}

static void describe_begin(description_of *found, packer *packed) {
    found->inner = (inner_hash){.packed = packed, .hash = Qnil, .depth = -1};
    found->asks = found->knows = false;
    for (size_t slot = 0; slot < SLOTS_MAX; slot++) {
        found->ranks[slot] = NO_RANK;
    }
}

/* What was found, by its other names. */
static void describe_end(description_of *found, packer *packed) {
    static VALUE plain;
    if (plain == 0) {
        plain = ID2SYM(rb_intern("text/plain"));
    }
    for (long slot = 0; found->knows && slot < RARRAY_LEN(convention_names); slot++) {
        if (LIKELY(found->ranks[slot] == NO_RANK)) {
            continue;
        }
        pack_key(packed, RARRAY_AREF(convention_names, slot));
        pack_value(packed, found->values[slot], 0, true);
        if (!NIL_P(RARRAY_AREF(convention_types, slot))) {
            pack_key(packed, RARRAY_AREF(convention_types, slot));
            pack_value(packed, plain, 0, true);
        }
    }
}

/* What spans of a kind always say, packed: a String that its Hash keeps. */
static void pack_always(packer *packed, VALUE always) {
    static ID bytes;
    if (UNLIKELY(bytes == 0)) {
        bytes = rb_intern("@packed");
    }
    VALUE known = rb_attr_get(always, bytes);
    if (NIL_P(known)) {
        pack_foreign(packed, always);
        return;
    }
    size_t len = (size_t)RSTRING_LEN(known);
    if (room(packed, len)) {
        memcpy(packed->at, RSTRING_PTR(known), len);
        packed->at += len;
    }
    RB_GC_GUARD(known);
}

static VALUE do_pack(VALUE argument) {
    work *with = (work *)argument;
    pack_foreign(&with->packed, with->attributes);
    const packer *packed = &with->packed;
    return packed->broken ? Qnil : rb_str_new((const char *)packed->start, packed->at - packed->start);
}

/* pack(attributes) -> a String, for the variable @packed of a Hash that is packed often */
static VALUE stack_pack(VALUE module, VALUE attributes) {
    (void)module;
    Check_Type(attributes, T_HASH);
    work with = {.attributes = attributes};
    return run(do_pack, &with);
}

static void set_packed(span *self, const packer *packed) {
    if (!packed->broken && self->live) {
        spanring_span_set_attributes(&self->span, packed->start, (size_t)(packed->at - packed->start));
    }
}

static VALUE do_describe(VALUE argument) {
    work *with = (work *)argument;
    packer *packed = &with->packed;
    if (!records(with->span)) {
        return Qtrue;
    }
    packed->is_foreign = true;
    pack_always(packed, with->keywords);
    VALUE attributes = rb_hash_dup(with->attributes); /* a value that makes its text may change them */
    if (RTEST(with->value)) {
        description_of found;
        describe_begin(&found, packed);
        rb_hash_foreach(attributes, describe_pair, (VALUE)&found);
        if (found.asks) {
            return Qfalse;
        }
        describe_end(&found, packed);
    } else {
        pack_foreign(packed, attributes);
    }
    RB_GC_GUARD(attributes);
    set_packed(with->span, packed);
    return Qtrue;
}

/* describe(Span, always, attributes, maps) -> whether they are set; if not, `Conventions.apart` is to be asked. Without `maps`, nothing
 * gets another name. */
static VALUE stack_describe(VALUE module, VALUE object, VALUE always, VALUE attributes, VALUE maps) {
    (void)module;
    Check_Type(always, T_HASH);
    Check_Type(attributes, T_HASH);
    work with = {
        .span = rb_check_typeddata(object, &span_type), .object = object, .attributes = attributes, .keywords = always, .value = maps};
    return run(do_describe, &with);
}

static VALUE do_foreign_event(VALUE argument) {
    work *with = (work *)argument;
    if (records(with->span)) {
        with->packed.is_foreign = true;
        pack_foreign(&with->packed, rb_hash_dup(with->attributes));
        utf8 name = utf8_of_name(with->subject);
        if (!with->packed.broken && with->span->live) {
            spanring_span_add_event(&with->span->span, name.bytes, name.len, with->time, with->packed.start,
                                    (size_t)(with->packed.at - with->packed.start));
        }
        RB_GC_GUARD(name.owner);
    }
    return with->object;
}

/* event(Span, nanoseconds, name, attributes): as `event_at`, but the attributes are somebody else's. */
static VALUE stack_event(VALUE module, VALUE object, VALUE time, VALUE name, VALUE attributes) {
    (void)module;
    Check_Type(name, T_STRING);
    Check_Type(attributes, T_HASH);
    work with = {.span = rb_check_typeddata(object, &span_type),
                 .object = object,
                 .attributes = attributes,
                 .subject = name,
                 .time = time_of(time)};
    return run(do_foreign_event, &with);
}

static VALUE do_succeed(VALUE argument) {
    work *with = (work *)argument;
    packer *packed = &with->packed;
    double took = age_of(with->span);
    if (records(with->span)) {
        static VALUE duration, success;
        if (success == 0) {
            duration = ID2SYM(rb_intern("duration_ms"));
            success = ID2SYM(rb_intern("success"));
        }
        description_of found;
        packed->is_foreign = true;
        pack_always(packed, with->keywords);
        describe_begin(&found, packed);
        VALUE parts[] = {with->attributes, with->subject, with->value};
        for (size_t at = 0; at < 3; at++) {
            if (is_hash(parts[at]) && !RHASH_EMPTY_P(parts[at]) && !found.asks) {
                rb_hash_foreach(parts[at], describe_pair, (VALUE)&found);
            }
        }
        if (found.asks) {
            return Qnil;
        }
        describe_end(&found, packed);
        pack_key(packed, duration);
        pack_value(packed, DBL2NUM(round(took * 100) / 100), 0, false);
        pack_key(packed, success);
        pack_value(packed, Qtrue, 0, false);
        set_packed(with->span, packed);
        if (with->span->live) {
            spanring_span_set_status(&with->span->span, SPANRING_STATUS_OK, "", 0);
        }
    }
    context_of_span(with->span);
    span_finish(with->span);
    return DBL2NUM(took);
}

/* ---- Spans of RAAF's Traceable ---- */

/* Spanring::RAAF::ComponentSpan. What is not there yet is nil. */
typedef struct {
    VALUE component;
    VALUE entry;      /* of its class's Shape: kind, name, the engine's kind, what it always says, the same below a trace */
    VALUE parent;     /* a Live, a Span, a Context */
    VALUE outer;      /* the Live around it, in this fiber or where that was made */
    VALUE metadata;   /* a Hash */
    VALUE own;        /* what the class says: a Hash */
    VALUE found;      /* what it says of the result: a Hash, if all was recorded from the parts */
    VALUE attributes; /* all in one Hash, once somebody has asked */
    VALUE engine;     /* the Span */
    VALUE took;       /* milliseconds, once it has ended */
} live;

static void live_mark(void *pointer) {
    const live *self = pointer;
    const VALUE *fields = &self->component;
    for (size_t at = 0; at < sizeof(live) / sizeof(VALUE); at++) {
        rb_gc_mark(fields[at]);
    }
}

static size_t live_size(const void *unused) {
    (void)unused;
    return sizeof(live);
}

static const rb_data_type_t live_type = {
    .wrap_struct_name = "Spanring::RAAF::ComponentSpan",
    .function = {.dmark = live_mark, .dfree = free, .dsize = live_size},
    .flags = RUBY_TYPED_FREE_IMMEDIATELY,
};

static VALUE fiber_class, live_class, trace_provider, tracing_module, processor_class, others_module, parents_module;
static bool can_inherit; /* Fiber[] is there: Ruby 3.2 */

static bool is_live(VALUE object) { return rb_typeddata_is_kind_of(object, &live_type); }

static live *live_in(VALUE object) { return rb_check_typeddata(object, &live_type); }

#define READER(field)                                                                                                                  \
    static VALUE live_##field(VALUE self) { return live_in(self)->field; }
READER(component)
READER(entry)
READER(parent)
READER(outer)
READER(metadata)
READER(own)
READER(found)
READER(engine)
READER(took)

static VALUE live_known_attributes(VALUE self) { return live_in(self)->attributes; }

static VALUE live_set_attributes(VALUE self, VALUE attributes) { return live_in(self)->attributes = attributes; }

static VALUE live_set_took(VALUE self, VALUE took) { return live_in(self)->took = took; }

static bool is_finished(VALUE object) {
    static ID finished;
    if (is_live(object)) {
        return !NIL_P(live_in(object)->took);
    }
    if (finished == 0) {
        finished = rb_intern("finished?");
    }
    return RTEST(rb_funcallv(object, finished, 0, NULL));
}

static VALUE inheritance_key(void) {
    static VALUE key;
    if (key == 0) {
        key = ID2SYM(rb_intern("__spanring_raaf__"));
    }
    return key;
}

/* The span that goes on where the fiber was made, or nil. */
static VALUE inherited_by(fiber *self) {
    static ID aref, outer;
    if (UNLIKELY(self->inherited == 0)) {
        if (aref == 0) {
            aref = rb_intern("[]");
            outer = rb_intern("outer");
        }
        VALUE key = inheritance_key();
        self->inherited = can_inherit ? rb_funcallv(fiber_class, aref, 1, &key) : Qnil;
    }
    while (!NIL_P(self->inherited) && is_finished(self->inherited)) {
        self->inherited = rb_funcallv(self->inherited, outer, 0, NULL);
    }
    return self->inherited;
}

/* The note of an entry, if it is an object. */
static VALUE live_of(const entry *self) {
    return self->component != 0 && !RB_SPECIAL_CONST_P(self->note) && !RB_SYMBOL_P(self->note) ? self->note : Qnil;
}

/* The Live around what begins here, or nil. */
static VALUE outer_of(fiber *self) {
    VALUE found = inherited_by(self);
    for (uint32_t at = self->depth; at > 0; at--) {
        const entry *below = &self->entries[at - 1];
        if (!is_over(below) && !NIL_P(live_of(below))) {
            return live_of(below);
        }
    }
    return found;
}

/* What is current: a Live; a Span; a Context; what was current where the fiber was made; or nil. */
static VALUE ambient(fiber *self) {
    const entry *top = top_of(self);
    if (top == NULL) {
        return inherited_by(self);
    }
    VALUE found = live_of(top);
    return NIL_P(found) ? top->owner : found;
}

/* Has fibers and threads that are made from here on begin below it. */
static void hand_on(VALUE object) {
    static ID aset;
    if (can_inherit) {
        if (aset == 0) {
            aset = rb_intern("[]=");
        }
        VALUE pair[] = {inheritance_key(), object};
        rb_funcallv(fiber_class, aset, 2, pair);
    }
}

static VALUE stack_ambient(VALUE module) {
    (void)module;
    return ambient(here());
}

static VALUE stack_outer(VALUE module) {
    (void)module;
    return outer_of(here());
}

static VALUE stack_hand_on(VALUE module, VALUE object) {
    (void)module;
    hand_on(object);
    return object;
}

/* Whether RAAF said in this fiber for whom tools or jobs run. */
static bool is_told(void) {
    static ID names[3];
    if (names[0] == 0) {
        names[0] = rb_intern("original_agent_span");
        names[1] = rb_intern("current_agent");
        names[2] = rb_intern("raaf_job_span");
    }
    VALUE thread = rb_thread_current();
    return RTEST(rb_thread_local_aref(thread, names[0])) || RTEST(rb_thread_local_aref(thread, names[1])) ||
           RTEST(rb_thread_local_aref(thread, names[2]));
}

/* install(TraceProvider, Tracing, Processor, Others, Parents) */
static VALUE stack_install(VALUE module, VALUE provider, VALUE tracing, VALUE processor, VALUE others, VALUE parents) {
    trace_provider = provider;
    tracing_module = tracing;
    processor_class = processor;
    others_module = others;
    parents_module = parents;
    return module;
}

/* The content of prompts is recorded, so that the usual attributes need no look at Ruby. */
static bool takes_content = true;

static VALUE stack_set_content(VALUE module, VALUE value) {
    (void)module;
    takes_content = RTEST(value);
    return value;
}

typedef struct {
    VALUE object; /* the ComponentSpan */
    live *live;
    VALUE always;
    VALUE error; /* that left the block */
    bool done;
    fiber *fiber;
    uint32_t depth; /* what is left again */
} tracing;

/* The hooks, the block, and the usual end. */
static VALUE trace_body(VALUE argument) {
    static ID collect, collect_result, say, complete;
    if (collect == 0) {
        collect = rb_intern("collect_span_attributes");
        collect_result = rb_intern("collect_result_attributes");
        say = rb_intern("say");
        complete = rb_intern("complete");
    }
    tracing *with = (tracing *)argument;
    live *self = with->live;
    VALUE own = rb_funcallv(self->component, collect, 0, NULL);
    if (LIKELY(is_hash(own) && NIL_P(self->attributes))) {
        self->own = rb_hash_dup(own); /* it is the host's */
    } else {
        rb_funcallv(with->object, say, 1, &own);
    }
    VALUE result = rb_yield_values(0);
    VALUE found = rb_funcallv(self->component, collect_result, 1, &result);
    if (LIKELY(takes_content && is_hash(found) && NIL_P(self->attributes))) {
        found = rb_hash_dup(found); /* it is the host's */
        work succeeding = {.span = span_in(self->engine),
                           .object = self->engine,
                           .attributes = self->own,
                           .keywords = with->always,
                           .subject = self->metadata,
                           .value = found};
        VALUE took = run(do_succeed, &succeeding);
        if (!NIL_P(took)) {
            self->found = found;
            self->took = took;
            with->done = true;
            return result;
        }
    }
    rb_funcallv(with->object, complete, 1, &found);
    with->done = true;
    return result;
}

static VALUE trace_failed(VALUE argument) {
    static ID failed;
    if (failed == 0) {
        failed = rb_intern("failed");
    }
    tracing *with = (tracing *)argument;
    return rb_funcallv(with->object, failed, 1, &with->error);
}

static VALUE trace_abandoned(VALUE argument) {
    static ID abandon;
    if (abandon == 0) {
        abandon = rb_intern("abandon");
    }
    return rb_funcallv(((tracing *)argument)->object, abandon, 0, NULL);
}

/* A span that was opened in the block and goes on is current no longer, here and for fibers and threads that are made from here on. */
static void leave_open(const tracing *with) {
    bool is_open = top_of(with->fiber) != NULL && with->fiber->depth > with->depth + 1;
    leave(with->fiber, with->depth);
    if (UNLIKELY(is_open)) {
        hand_on(with->live->outer);
    }
}

/* Inside rb_ensure, which keeps what left the block: a throw has no other keeper. */
static VALUE leave_trace(VALUE argument) {
    tracing *with = (tracing *)argument;
    leave_open(with);
    if (LIKELY(with->done)) {
        return Qnil;
    }
    with->error = rb_errinfo();
    bool is_error = is_exception(with->error) && RTEST(rb_obj_is_kind_of(with->error, rb_eStandardError));
    int state = 0;
    if (is_error || NIL_P(with->live->took)) {
        rb_protect(is_error ? trace_failed : trace_abandoned, argument, &state);
    }
    span_finish(span_in(with->live->engine));
    if (UNLIKELY(state != 0)) {
        VALUE failure = take_error(state, with->error); /* whoever stops this thread meanwhile comes first */
        rb_funcallv(with->object, rb_intern("not_recorded"), 1, &failure);
    }
    return Qnil;
}

static VALUE tell_one(VALUE argument) {
    static ID on_span_end;
    if (on_span_end == 0) {
        on_span_end = rb_intern("on_span_end");
    }
    const VALUE *pair = (const VALUE *)argument;
    return rb_check_funcall(pair[0], on_span_end, 1, &pair[1]);
}

/* The other processors, each for itself. */
static void tell(VALUE processors, VALUE object) {
    for (long at = 0; is_array(processors) && at < RARRAY_LEN(processors); at++) {
        VALUE pair[] = {RARRAY_AREF(processors, at), object};
        if (RTEST(rb_obj_is_kind_of(pair[0], processor_class))) {
            continue; /* the engine has the span already */
        }
        int state;
        VALUE before = rb_errinfo();
        rb_protect(tell_one, (VALUE)pair, &state);
        if (UNLIKELY(state != 0)) {
            VALUE failure[] = {pair[0], ID2SYM(rb_intern("on_span_end")), take_error(state, before)};
            rb_funcallv(others_module, rb_intern("failed"), 3, failure);
        }
    }
}

static VALUE stack_tell(VALUE module, VALUE processors, VALUE object) {
    (void)module;
    tell(processors, object);
    return Qnil;
}

/* The Shape's entry for the method: see `live`. */
static VALUE entry_for(VALUE shape, VALUE component, VALUE method, VALUE metadata) {
    static ID names, config, name;
    static VALUE agent_name, tool_name;
    if (names == 0) {
        names = rb_intern("@names");
        config = rb_intern("@span_naming_config");
        name = rb_intern("name");
        agent_name = ID2SYM(rb_intern("agent_name"));
        tool_name = ID2SYM(rb_intern("tool_name"));
    }
    bool is_usual = NIL_P(rb_attr_get(tracing_module, config)) &&
                    (NIL_P(metadata) || (NIL_P(rb_hash_lookup(metadata, agent_name)) && NIL_P(rb_hash_lookup(metadata, tool_name))));
    VALUE entry = is_usual ? rb_hash_lookup(rb_attr_get(shape, names), method) : Qnil;
    if (NIL_P(entry)) {
        VALUE given[] = {component, method, NIL_P(metadata) ? rb_hash_new() : metadata};
        entry = rb_funcallv(shape, name, 3, given);
    }
    return entry;
}

/* with_tracing(method_name = nil, parent_component: nil, **metadata) { } */
static VALUE with_tracing(int count, VALUE *values, VALUE component) {
    static ID instance, instance_ivar, disabled_ivar, processors_ivar, get_shape, shape_ivar, serves, add, engine_id, is_trace, of,
        parent_ivar, tracer_ivar, usual_ivar, processors_id, get_tracer;
    static VALUE parent_component, trace;
    if (instance == 0) {
        instance_ivar = rb_intern("@instance");
        disabled_ivar = rb_intern("@disabled");
        processors_ivar = rb_intern("@processors");
        get_shape = rb_intern("spanring_shape");
        shape_ivar = rb_intern("@spanring_shape");
        serves = rb_intern("serves?");
        add = rb_intern("add");
        engine_id = rb_intern("engine");
        is_trace = rb_intern("trace?");
        of = rb_intern("of");
        parent_ivar = rb_intern("@parent_component");
        tracer_ivar = rb_intern("@tracer");
        usual_ivar = rb_intern("@is_usual");
        processors_id = rb_intern("processors");
        get_tracer = rb_intern("get_tracer_for_span_sending");
        parent_component = ID2SYM(rb_intern("parent_component"));
        trace = ID2SYM(rb_intern("trace"));
        instance = rb_intern("instance");
    }
    VALUE provider = rb_attr_get(trace_provider, instance_ivar);
    if (UNLIKELY(NIL_P(provider))) {
        provider = rb_funcallv(trace_provider, instance, 0, NULL);
    }
    if (RTEST(rb_attr_get(provider, disabled_ivar))) {
        return rb_call_super_kw(count, values, RB_PASS_CALLED_KEYWORDS);
    }
    rb_need_block();
    arguments given = arguments_of(count, values, 0, 1);
    VALUE method = argument(&given, 0), metadata = given.keywords, parent = Qnil;
    if (is_string(method)) {
        method = rb_to_symbol(method);
    }
    if (!NIL_P(metadata)) {
        parent = rb_hash_lookup2(metadata, parent_component, Qundef);
        metadata = rb_hash_dup(metadata); /* it may be the caller's */
        if (parent != Qundef) {
            rb_hash_delete(metadata, parent_component);
        } else {
            parent = Qnil;
        }
    }
    VALUE owner = rb_obj_class(component), shape = rb_attr_get(owner, shape_ivar);
    if (UNLIKELY(NIL_P(shape))) {
        shape = rb_funcallv(owner, get_shape, 0, NULL);
    }
    fiber *place = here();
    const entry *open = entry_of(place, component);
    if (open != NULL && is_live(open->note)) {
        VALUE found = open->note, pair[] = {shape, method};
        if (RTEST(rb_funcallv(found, serves, 2, pair))) {
            if (!NIL_P(metadata)) {
                rb_funcallv(found, add, 1, &metadata);
            }
            return rb_yield_values(0);
        }
    }
    VALUE entry = entry_for(shape, component, method, metadata);
    Check_Type(entry, T_ARRAY);
    VALUE own_parent = rb_attr_get(component, parent_ivar);
    parent = RTEST(parent) ? parent : own_parent;
    parent = !NIL_P(parent) || is_told() ? rb_funcallv(parents_module, of, 1, &parent) : ambient(here());

    VALUE object = rb_data_typed_object_zalloc(live_class, sizeof(live), &live_type);
    live *self = RTYPEDDATA_DATA(object);
    *self = (live){component, entry, parent, Qnil, metadata, Qnil, Qnil, Qnil, Qnil, Qnil};
    self->outer = outer_of(here());
    bool is_below_trace = is_live(parent) ? RARRAY_AREF(live_in(parent)->entry, 0) == trace
                                          : !NIL_P(parent) && !is_parent(parent) && RTEST(rb_funcallv(parent, is_trace, 0, NULL));
    VALUE below = NIL_P(parent)       ? Qfalse
                  : is_live(parent)   ? live_in(parent)->engine
                  : is_parent(parent) ? parent
                                      : rb_funcallv(parent, engine_id, 0, NULL);
    tracing with = {.object = object, .live = self, .always = RARRAY_AREF(entry, is_below_trace ? 4 : 3), .error = Qnil, .fiber = place};
    Check_Type(with.always, T_HASH);
    self->engine = open_span(component, object, RARRAY_AREF(entry, 1), RARRAY_AREF(entry, 2), below, NULL);
    with.depth = place->depth - 1;
    place->entries[with.depth].is_placed = true;
    hand_on(object);
    VALUE result = rb_ensure(trace_body, (VALUE)&with, leave_trace, (VALUE)&with);
    /* The usual answer of get_tracer_for_span_sending. */
    VALUE processors = Qnil;
    if (NIL_P(own_parent) && NIL_P(rb_attr_get(component, tracer_ivar)) && RTEST(rb_attr_get(shape, usual_ivar))) {
        processors = rb_attr_get(provider, processors_ivar);
    }
    if (!is_array(processors) || RARRAY_LEN(processors) == 0) {
        VALUE tracer = rb_funcallv(component, get_tracer, 0, NULL);
        processors = NIL_P(tracer) ? Qnil : rb_funcallv(tracer, processors_id, 0, NULL);
    }
    tell(processors, object);
    RB_GC_GUARD(object);
    return result;
}

/* ---- Names ---- */

static void define_components(void) {
    VALUE *roots[] = {&convention_codes, &convention_names, &convention_types, &fiber_class, &live_class,
                      &trace_provider, &tracing_module, &processor_class, &others_module, &parents_module};
    for (size_t at = 0; at < sizeof(roots) / sizeof(roots[0]); at++) {
        *roots[at] = Qnil;
        rb_gc_register_address(roots[at]);
    }
    fiber_class = rb_const_get(rb_cObject, rb_intern("Fiber"));
    can_inherit = rb_respond_to(fiber_class, rb_intern("[]"));

    VALUE stack = rb_define_module_under(spanring_module, "Stack");
    rb_funcall(spanring_module, rb_intern("private_constant"), 1, ID2SYM(rb_intern("Stack")));
    rb_define_singleton_method(stack, "span", stack_span, 6);
    rb_define_singleton_method(stack, "open", stack_open, 7);
    rb_define_singleton_method(stack, "note", stack_note, 1);
    rb_define_singleton_method(stack, "reusable", stack_reusable, 2);
    rb_define_singleton_method(stack, "age", stack_age, 1);
    rb_define_singleton_method(stack, "ambient", stack_ambient, 0);
    rb_define_singleton_method(stack, "outer", stack_outer, 0);
    rb_define_singleton_method(stack, "hand_on", stack_hand_on, 1);
    rb_define_singleton_method(stack, "describe", stack_describe, 4);
    rb_define_singleton_method(stack, "event", stack_event, 4);
    rb_define_singleton_method(stack, "conventions", stack_conventions, 4);
    rb_define_singleton_method(stack, "pack", stack_pack, 1);
    rb_define_singleton_method(stack, "install", stack_install, 5);
    rb_define_singleton_method(stack, "content=", stack_set_content, 1);
    rb_define_singleton_method(stack, "tell", stack_tell, 2);

    VALUE raaf = rb_define_module_under(spanring_module, "RAAF");
    live_class = rb_define_class_under(raaf, "ComponentSpan", rb_cObject);
    rb_undef_alloc_func(live_class);
    rb_undef_method(CLASS_OF(live_class), "new");
    rb_define_method(live_class, "component", live_component, 0);
    rb_define_method(live_class, "outer", live_outer, 0);
    rb_define_method(live_class, "engine", live_engine, 0);
    rb_define_private_method(live_class, "entry", live_entry, 0);
    rb_define_private_method(live_class, "parent", live_parent, 0);
    rb_define_private_method(live_class, "metadata", live_metadata, 0);
    rb_define_private_method(live_class, "own", live_own, 0);
    rb_define_private_method(live_class, "found", live_found, 0);
    rb_define_private_method(live_class, "took", live_took, 0);
    rb_define_private_method(live_class, "took=", live_set_took, 1);
    rb_define_private_method(live_class, "known_attributes", live_known_attributes, 0);
    rb_define_private_method(live_class, "known_attributes=", live_set_attributes, 1);
    VALUE path = rb_define_module_under(raaf, "TraceablePath");
    rb_define_method(path, "with_tracing", with_tracing, -1);
}
