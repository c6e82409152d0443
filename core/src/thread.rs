//! What each instrumented thread has: its ring, its block of ID counters, and its current context.
//!
//! The hot path reaches all of it through one thread-local without a destructor. A second one, with a
//! destructor, hands the thread's rings over to the flusher when the thread ends; spans recorded later
//! still, in other destructors, get a ring of their own each, which is handed over at once.
//!
//! The rings themselves lie in pages that a fork child sees zeroed: no engine, no credits, no IDs, so
//! the child's first span takes the slow path, where the fork is noticed. The current contexts are a
//! stack of frames in the blocks of the spans themselves; they stay usable in the child as parents.

use std::cell::{Cell, RefCell, UnsafeCell};
use std::mem::ManuallyDrop;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::context::{Ctx, Keys, SpanContext};
use crate::engine::{Engine, Reason};
use crate::ring::{Lifetime, Ring};
use crate::sampler::Mode;
use crate::span::Block;

/// Changes whenever threads must look at the engine again: another one is installed, one is closed,
/// settings changed, a fork happened. Zero until the first engine is made.
static EPOCH: AtomicU32 = AtomicU32::new(0);

/// ID counters of the process; threads take them in blocks.
static COUNTER: AtomicU64 = AtomicU64::new(1);
const COUNTER_BLOCK: u64 = 1024;

/// The epoch as the hot path compares it. Relaxed: a thread that sees a change late goes on with the
/// old state for a moment, which is still valid memory; whoever must be seen to have changed something
/// synchronises with the thread by other means.
#[inline(always)]
pub(crate) fn epoch() -> u32 {
    EPOCH.load(Ordering::Relaxed)
}

/// Makes every thread take its slow path once.
pub(crate) fn bump_epoch() {
    // Zero means "never", so it is skipped when the number wraps.
    if EPOCH.fetch_add(1, Ordering::Release) == u32::MAX {
        EPOCH.fetch_add(1, Ordering::Release);
    }
}

/// One thread's ring for one engine, and what the hot path needs beside it.
#[repr(C, align(128))]
pub(crate) struct ThreadRing {
    pub(crate) ring: Ring,
    pub(crate) engine: Cell<*const Engine>,
    pub(crate) keys: Cell<*const Keys>,
    pub(crate) counter_next: Cell<u64>,
    pub(crate) counter_end: Cell<u64>,
    pub(crate) epoch: Cell<u32>,
    pub(crate) root_mode: Cell<Mode>,
    /// Whether the child of a local parent does as that did, without a question to the sampler.
    pub(crate) is_inherited: Cell<bool>,
    /// `engine`, if its spans may end on the short way; else, or in a fork child, null.
    pub(crate) short_end: Cell<*const Engine>,
    /// A root's context flags, if it may begin on the short way; else zero.
    pub(crate) short_root: Cell<u32>,
    /// Whether the child of a local parent may.
    pub(crate) short_child: Cell<bool>,
    /// Whether there is a memory profile, so that no span takes the short way.
    pub(crate) profiles: Cell<bool>,
    /// Drops that this thread has met, by reason. Written by the thread, read by `stats`.
    pub(crate) dropped: [AtomicU64; Reason::COUNT],
    /// Not zero once a critical span was recorded that the flusher has not been told of yet.
    pub(crate) critical: AtomicU32,
    /// The thread waits for room: a signal handler that records meanwhile does not.
    pub(crate) waits: Cell<bool>,
    lifetime: Lifetime,
    /// The next ring on the engine's list of new rings.
    pub(crate) next: AtomicPtr<ThreadRing>,
    /// The operating system's number of the thread.
    pub(crate) thread_id: u64,
}

impl ThreadRing {
    fn new(engine: *const Engine, thread_id: u64) -> Self {
        ThreadRing {
            ring: Ring::new(),
            engine: Cell::new(engine),
            keys: Cell::new(std::ptr::null()),
            counter_next: Cell::new(0),
            counter_end: Cell::new(0),
            epoch: Cell::new(0),
            root_mode: Cell::new(Mode::Ask),
            is_inherited: Cell::new(false),
            short_end: Cell::new(std::ptr::null()),
            short_root: Cell::new(0),
            short_child: Cell::new(false),
            profiles: Cell::new(false),
            dropped: [const { AtomicU64::new(0) }; Reason::COUNT],
            critical: AtomicU32::new(0),
            waits: Cell::new(false),
            lifetime: Lifetime::new(),
            next: AtomicPtr::new(std::ptr::null_mut()),
            thread_id,
        }
    }

    /// Whether the thread has handed the ring over: it records no more.
    pub(crate) fn is_retired(&self) -> bool {
        self.lifetime.is_retired()
    }

    /// The thread's next counter, unless its block is used up.
    #[inline(always)]
    pub(crate) fn take_counter(&self) -> Option<u64> {
        let counter = self.counter_next.get();
        if counter == self.counter_end.get() {
            return None;
        }
        self.counter_next.set(counter + 1);
        Some(counter)
    }
}

/// The thread is done with `ring`.
///
/// # Safety
///
/// `ring` is one of `slab::allocate`'s, and the thread does not use it again.
unsafe fn leave_as_thread(ring: *const ThreadRing) {
    // SAFETY: freed only once both sides have left, and this one leaves just now.
    if unsafe { (*ring).lifetime.leave_as_thread() } {
        // SAFETY: both sides are done.
        unsafe { slab::free(ring.cast_mut()) };
    }
}

/// The engine is done with `ring`.
///
/// # Safety
///
/// `ring` is one of `slab::allocate`'s, and the engine does not use it again.
pub(crate) unsafe fn leave_as_engine(ring: *const ThreadRing) {
    // SAFETY: freed only once both sides have left, and this one leaves just now.
    if unsafe { (*ring).lifetime.leave_as_engine() } {
        // SAFETY: both sides are done.
        unsafe { slab::free(ring.cast_mut()) };
    }
}

/// A context that is current, or was, or will be: the head of a span's block in the thread's chain.
///
/// A thread keeps its blocks in one chain: at the bottom the base, above it the current contexts, innermost
/// last, and above the [top](Local::top) the blocks that wait for the next spans. So a span begins by moving
/// the top up, and ends by moving it down.
#[repr(C)]
pub(crate) struct Frame {
    pub(crate) context: Ctx,
    /// Null in the base.
    below: *mut Frame,
    /// [`EMPTY`] in the last one.
    above: *mut Frame,
    /// The epoch for which the frame has been made ready, or zero. Above the top: the block's lasting fields
    /// are those of the thread's ring, so that a span may use it as it is. From the top down: a child may take
    /// the context over as it is (of the base: a root needs no sampler).
    pub(crate) ready: u32,
}

/// What ends every chain, and is the chain of a thread that has none yet. Never ready and never written.
struct Empty(Frame);

// SAFETY: nothing ever writes to it, since it is never ready.
unsafe impl Sync for Empty {}

static EMPTY: Empty = Empty(Frame {
    context: Ctx::NONE,
    below: std::ptr::null_mut(),
    above: (&raw const EMPTY.0).cast_mut(),
    ready: 0,
});

fn empty() -> *mut Frame {
    (&raw const EMPTY.0).cast_mut()
}

/// Blocks that a thread's chain keeps.
const BLOCKS_MAX: u32 = 128;

/// The thread-local state of the hot path.
pub(crate) struct Local {
    ring: Cell<*const ThreadRing>,
    /// The innermost current context: a block's, the base, or [`EMPTY`] on a thread without a chain.
    top: Cell<*mut Frame>,
    /// The bottom of the chain: a root's context, but for its IDs.
    /// (Never dropped: a thread-local with a destructor costs every use a look.)
    base: UnsafeCell<ManuallyDrop<Frame>>,
    /// Blocks in the chain.
    blocks: Cell<u32>,
    /// The engine that `Engine::attach` chose for this thread; null for the installed one.
    pub(crate) attached: Cell<*const Engine>,
    /// Spans of this thread are not recorded: it is the flusher.
    suppressed: Cell<bool>,
    /// The block of the span that waits for its attributes before the sampler decides about it; else null.
    undecided: Cell<*mut Block>,
    exiting: Cell<bool>,
    /// Of [`number`]; zero until it is asked for.
    number: Cell<u64>,
}

struct NoRing(ThreadRing);

// SAFETY: nothing ever writes to this ring: its engine is null, so no span ends on it, and its epoch
// is zero, so no span begins on it.
unsafe impl Sync for NoRing {}

#[cfg(not(spanring_loom))]
static NO_RING: NoRing = NoRing(ThreadRing {
    ring: Ring::none(),
    engine: Cell::new(std::ptr::null()),
    keys: Cell::new(std::ptr::null()),
    counter_next: Cell::new(0),
    counter_end: Cell::new(0),
    epoch: Cell::new(0),
    root_mode: Cell::new(Mode::Ask),
    is_inherited: Cell::new(false),
    short_end: Cell::new(std::ptr::null()),
    short_root: Cell::new(0),
    short_child: Cell::new(false),
    profiles: Cell::new(false),
    dropped: [const { AtomicU64::new(0) }; Reason::COUNT],
    critical: AtomicU32::new(0),
    waits: Cell::new(false),
    lifetime: Lifetime::none(),
    next: AtomicPtr::new(std::ptr::null_mut()),
    thread_id: 0,
});

const _: () = assert!(!std::mem::needs_drop::<Local>());

thread_local! {
    static LOCAL: Local = const { Local {
        ring: Cell::new(&raw const NO_RING.0),
        top: Cell::new((&raw const EMPTY.0).cast_mut()),
        base: UnsafeCell::new(ManuallyDrop::new(Frame {
            context: Ctx::NONE,
            below: std::ptr::null_mut(),
            above: (&raw const EMPTY.0).cast_mut(),
            ready: 0,
        })),
        blocks: Cell::new(0),
        attached: Cell::new(std::ptr::null()),
        suppressed: Cell::new(false),
        undecided: Cell::new(std::ptr::null_mut()),
        exiting: Cell::new(false),
        number: Cell::new(0),
    } };

    /// The thread's rings, one for each engine that it has recorded for.
    static RINGS: Rings = const { Rings(RefCell::new(Vec::new())) };
}

struct Rings(RefCell<Vec<*const ThreadRing>>);

impl Drop for Rings {
    fn drop(&mut self) {
        LOCAL.with(|local| {
            local.exiting.set(true);
            local.set_ring(&raw const NO_RING.0);
            local.clear();
        });
        for ring in self.0.take() {
            // SAFETY: the thread's own ring; from here on it is reached through neither local.
            unsafe { leave_as_thread(ring) };
        }
        crate::scratch::clear();
    }
}

/// The thread's state. The reference must not outlive the thread: callers use it up at once. (It
/// cannot leave the thread, since `Local` is not Sync.)
#[inline(always)]
pub(crate) fn local() -> &'static Local {
    // A closure that did all the work would not always be inlined into `with`.
    let local = LOCAL.with(std::ptr::from_ref);
    // SAFETY: the thread-local has no destructor, so it is valid until the thread's memory goes.
    unsafe { &*local }
}

/// The calling thread's number, not zero: no other has the same, before or after.
// Here, so that it is found with what a span needs anyway.
#[inline(always)]
pub(crate) fn number() -> u64 {
    let local = local();
    match local.number.get() {
        0 => local.take_number(),
        number => number,
    }
}

/// What a thread may do about a new span.
pub(crate) enum Ready<'a> {
    /// Record it: everything that the span needs.
    Ring(&'a ThreadRing),
    /// Do nothing: there is no engine.
    Disabled,
    /// There is an engine, but the span is refused; it has been counted.
    Refused,
}

impl Local {
    #[cold]
    fn take_number(&self) -> u64 {
        static LAST: AtomicU64 = AtomicU64::new(0);
        let number = LAST.fetch_add(1, Ordering::Relaxed) + 1;
        self.number.set(number);
        number
    }

    /// The thread's ring; the one of no engine if it has none yet.
    #[inline(always)]
    pub(crate) fn ring(&self) -> &ThreadRing {
        // SAFETY: the static, or a ring of this thread, which only this thread's `leave` gives up,
        // after pointing elsewhere.
        unsafe { &*self.ring.get() }
    }

    /// Changes the ring: what was ready for the old one is not for the new one.
    fn set_ring(&self, ring: *const ThreadRing) {
        self.ring.set(ring);
        let mut at = self.top.get();
        // SAFETY: the frames of a chain are alive, and `below` and `above` lead to its ends.
        unsafe {
            let mut above = (*at).above;
            while !at.is_null() && at != empty() {
                (*at).ready = 0;
                at = (*at).below;
            }
            while above != empty() {
                (*above).ready = 0;
                above = (*above).above;
            }
        }
    }

    /// The current context. It must not be used after something ended or was made current.
    #[inline(always)]
    pub(crate) fn current(&self) -> &Ctx {
        static NONE: Ctx = Ctx::NONE;
        // SAFETY: the frame on top is alive.
        let top = unsafe { &*self.top.get() };
        if top.below.is_null() { &NONE } else { &top.context }
    }

    /// The innermost frame; only on a thread that has no chain it must not be written.
    #[inline(always)]
    pub(crate) fn top(&self) -> *mut Frame {
        self.top.get()
    }

    /// The frame above the top: the next span's block if it is [ready](Frame::ready).
    #[inline(always)]
    pub(crate) fn next(&self) -> *mut Frame {
        // SAFETY: the frame on top is alive.
        unsafe { (*self.top.get()).above }
    }

    /// Makes the context of [`next`](Self::next) current.
    ///
    /// # Safety
    ///
    /// `frame` is `next`, and a block.
    #[inline(always)]
    pub(crate) unsafe fn advance(&self, frame: *mut Frame) {
        self.top.set(frame);
    }

    /// Ends the time of `frame`, whose block waits for the next span from now on.
    ///
    /// # Safety
    ///
    /// It is on [top](Self::top), and a block.
    #[inline(always)]
    pub(crate) unsafe fn retreat(&self, frame: *mut Frame) {
        // SAFETY: on the stack, so alive.
        self.top.set(unsafe { (*frame).below });
    }

    /// Makes the top, if it can be, ready to be a parent on the short way.
    ///
    /// The thread's ring is up to date.
    pub(crate) fn make_top_ready(&self) {
        let ring = self.ring();
        let top = self.top.get();
        // SAFETY: the frame on top is alive, and no chain's end unless there is none.
        unsafe {
            if top == empty() {
                return;
            }
            let epoch = ring.epoch.get();
            if (*top).below.is_null() {
                let flags = ring.short_root.get();
                (*top).context.flags = flags;
                (*top).ready = if flags == 0 { 0 } else { epoch };
                return;
            }
            let context = &(*top).context;
            let may = ring.short_child.get()
                && std::ptr::eq(context.keys, ring.keys.get())
                && context.may_be_inherited();
            (*top).ready = if may { epoch } else { 0 };
        }
    }

    /// The chain's top, which may be written.
    fn chain(&self) -> *mut Frame {
        if self.top.get() == empty() {
            self.top.set(self.base.get().cast());
            // From now on the thread has something to free when it ends, be it never a ring.
            let _ = RINGS.try_with(|_| ());
        }
        self.top.get()
    }

    /// Puts a block into the chain, above `at`.
    ///
    /// # Safety
    ///
    /// `at` is in the chain, and the block is the caller's and in none.
    unsafe fn link(&self, at: *mut Frame, frame: *mut Frame) {
        // SAFETY: the caller's promise; the frames of a chain are alive.
        unsafe {
            let above = (*at).above;
            (*frame).below = at;
            (*frame).above = above;
            (*at).above = frame;
            if above != empty() {
                (*above).below = frame;
            }
        }
        self.blocks.set(self.blocks.get() + 1);
    }

    /// Takes a block out of the chain.
    ///
    /// # Safety
    ///
    /// It is in the chain and not on top.
    unsafe fn unlink(&self, frame: *mut Frame) {
        // SAFETY: as above.
        unsafe {
            let (below, above) = ((*frame).below, (*frame).above);
            (*below).above = above;
            if above != empty() {
                (*above).below = below;
            }
        }
        self.blocks.set(self.blocks.get() - 1);
    }

    /// A block for a new span, [ready](Frame::ready) or not; in no chain.
    pub(crate) fn take_block(&self) -> NonNull<Block> {
        let next = self.next();
        if next == empty() {
            return crate::span::allocate_block(Frame {
                context: Ctx::NONE,
                below: std::ptr::null_mut(),
                above: std::ptr::null_mut(),
                ready: 0,
            });
        }
        // SAFETY: above the top, so a block that nobody uses.
        unsafe {
            self.unlink(next);
            NonNull::new_unchecked(next.cast())
        }
    }

    /// Takes a block back from a span that has ended: it waits for the next one, unless there are enough.
    ///
    /// # Safety
    ///
    /// The block is the caller's and in no chain. It is ready only if it is for this thread's ring.
    pub(crate) unsafe fn give_block(&self, block: NonNull<Block>) {
        if self.blocks.get() >= BLOCKS_MAX {
            // SAFETY: the caller's promise.
            return unsafe { crate::span::free_block(block) };
        }
        // SAFETY: likewise.
        unsafe { self.link(self.chain(), block.as_ptr().cast()) };
    }

    /// Makes the context of a block current. True if the chain keeps more blocks than it should: then this
    /// one must be [removed](Self::remove) when it ends.
    ///
    /// # Safety
    ///
    /// The block is in no chain, and stays in its place until it leaves this thread's. (If it never does, it
    /// stays for good.)
    pub(crate) unsafe fn push(&self, block: NonNull<Block>) -> bool {
        let frame = block.as_ptr().cast();
        // SAFETY: the caller's promise.
        unsafe { self.link(self.chain(), frame) };
        self.top.set(frame);
        self.blocks.get() > BLOCKS_MAX
    }

    /// Takes a block whose context is current, or was, out of the chain: what was current before it becomes
    /// current again.
    ///
    /// If another one is on top, either a guard inside it was leaked, or it ends out of order. The
    /// outer one wins: with it go all above it. Those find, when they end, that they are no longer in
    /// the chain, and change nothing. So every frame that can be reached from the top is alive.
    ///
    /// # Safety
    ///
    /// It was pushed, or advanced to, on this thread.
    pub(crate) unsafe fn remove(&self, frame: *mut Frame) {
        let top = self.top.get();
        let mut at = top;
        let mut gone = 1;
        // SAFETY: reached from the top, so alive.
        unsafe {
            while at != frame {
                at = (*at).below;
                gone += 1;
                if at.is_null() {
                    return;
                }
            }
            let below = (*frame).below;
            let above = (*top).above;
            (*top).above = empty();
            (*below).above = above;
            if above != empty() {
                (*above).below = below;
            }
            self.top.set(below);
        }
        self.blocks.set(self.blocks.get() - gone);
    }

    /// Frees the blocks that wait.
    fn clear(&self) {
        while self.next() != empty() {
            // SAFETY: it waits in the chain, so nobody uses it.
            unsafe { crate::span::free_block(self.take_block()) };
        }
    }

    /// A counter for a new span, taking a new block where the old one is used up.
    #[inline(always)]
    pub(crate) fn counter(ring: &ThreadRing) -> u64 {
        match ring.take_counter() {
            Some(counter) => counter,
            None => Self::counter_cold(ring),
        }
    }

    #[cold]
    fn counter_cold(ring: &ThreadRing) -> u64 {
        let first = COUNTER.fetch_add(COUNTER_BLOCK, Ordering::Relaxed);
        ring.counter_next.set(first + 1);
        ring.counter_end.set(first + COUNTER_BLOCK);
        first
    }

    /// The way to a ring when the hot path has none that is up to date.
    #[cold]
    #[inline(never)]
    pub(crate) fn prepare(&self) -> Ready<'_> {
        if crate::fork::is_new_child() {
            self.forget_parent();
        }
        let epoch = EPOCH.load(Ordering::Acquire);
        let engine = match self.attached.get() {
            engine if engine.is_null() => crate::engine::installed(),
            // SAFETY: engines are never freed.
            engine => Some(unsafe { &*engine }),
        };
        let Some(engine) = engine else { return Ready::Disabled };
        if engine.is_disabled() || engine.is_from_parent() {
            return Ready::Disabled;
        }
        if engine.is_closed() {
            engine.count_drop(None, Reason::ShutDown);
            return Ready::Refused;
        }
        if self.suppressed.get() {
            engine.count_drop(None, Reason::ReEntrant);
            return Ready::Refused;
        }
        let Some(ring) = self.ring_of(engine) else {
            let reason = if engine.is_closed() { Reason::ShutDown } else { Reason::RingFull };
            engine.count_drop(None, reason);
            return Ready::Refused;
        };
        // SAFETY: a ring of this thread.
        let ring = unsafe { &*ring };
        engine.configure(ring);
        ring.epoch.set(epoch);
        if !self.exiting.get() {
            self.set_ring(ring);
        }
        Ready::Ring(ring)
    }

    /// This thread's ring for `engine`, made if need be; `None` if it cannot be made.
    ///
    /// On a thread whose locals are being destroyed it is a new ring every time, and whoever asked
    /// hands it over with [`retire_if_exiting`](Self::retire_if_exiting).
    pub(crate) fn ring_of(&self, engine: &'static Engine) -> Option<*const ThreadRing> {
        let found = RINGS.try_with(|rings| {
            let rings = rings.0.try_borrow().ok()?;
            // SAFETY: the thread's own rings.
            rings
                .iter()
                .copied()
                .find(|ring| unsafe { std::ptr::eq((**ring).engine.get(), engine) })
        });
        if let Ok(Some(ring)) = found {
            return Some(ring);
        }
        if found.is_err() {
            self.exiting.set(true);
        }
        let ring = slab::allocate(ThreadRing::new(engine, crate::platform::thread_id()))?;
        if !engine.register(ring) {
            // SAFETY: nobody else has seen the ring.
            unsafe { slab::free(ring) };
            return None;
        }
        if found.is_ok() {
            let _ = RINGS.try_with(|rings| rings.0.borrow_mut().push(ring));
        }
        Some(ring)
    }

    /// Hands a ring over that `ring_of` made on a thread whose locals are being destroyed.
    pub(crate) fn retire_if_exiting(&self, ring: *const ThreadRing) {
        if self.exiting.get() {
            // SAFETY: such a ring is in neither local, and its only user is done with it.
            unsafe { leave_as_thread(ring) };
        }
    }

    /// In a fork child: the rings, and the engine attached, are the parent's.
    pub(crate) fn forget_parent(&self) {
        self.set_ring(&raw const NO_RING.0);
        self.attached.set(std::ptr::null());
        self.suppressed.set(false);
        let _ = RINGS.try_with(|rings| {
            if let Ok(mut rings) = rings.0.try_borrow_mut() {
                rings.clear();
            }
        });
        crate::fork::generation();
    }

    /// In a fork child, in its `pthread_atfork` handler: the hot path has no ring, also where the kernel
    /// has no pages that a child sees zeroed.
    pub(crate) fn leave_ring(&self) {
        self.set_ring(&raw const NO_RING.0);
    }

    /// Chooses the engine for this thread; null for the installed one. Returns the one before.
    pub(crate) fn attach(&self, engine: *const Engine) -> *const Engine {
        self.set_ring(&raw const NO_RING.0);
        self.attached.replace(engine)
    }

    /// Spans of this thread are refused and counted from now on.
    pub(crate) fn suppress(&self) {
        self.set_ring(&raw const NO_RING.0);
        self.suppressed.set(true);
    }

    /// The block of the span that the sampler has not decided about; null if there is none.
    #[inline(always)]
    pub(crate) fn undecided(&self) -> *mut Block {
        self.undecided.get()
    }

    pub(crate) fn set_undecided(&self, block: *mut Block) {
        self.undecided.set(block);
    }

    /// Undoes [`suppress`](Self::suppress).
    pub(crate) fn unsuppress(&self) {
        self.suppressed.set(false);
    }

    pub(crate) fn is_suppressed(&self) -> bool {
        self.suppressed.get()
    }
}

/// The current context of the calling thread.
pub(crate) fn current_context() -> SpanContext {
    let local = local();
    crate::span::settle(local, &());
    SpanContext(local.current().clone())
}

/// Where rings live: pages that fork children see zeroed, cut into slots that are used again.
mod slab {
    use super::*;

    const SLAB_BYTES: usize = 64 * 1024;
    const SLOTS: usize = SLAB_BYTES / size_of::<ThreadRing>();

    /// Free slots, by generation: a child's are not its parent's.
    struct Slab {
        generation: u32,
        free: Vec<*mut ThreadRing>,
    }

    // SAFETY: free slots belong to nobody; the mutex hands them out.
    unsafe impl Send for Slab {}

    /// Taken when a thread makes or leaves a ring, never while spans are recorded. A fork child that
    /// finds it held by a thread that no longer exists makes do without: `try_lock`, and a slab of its
    /// own.
    static SLAB: Mutex<Slab> = Mutex::new(Slab { generation: 0, free: Vec::new() });

    pub(super) fn allocate(ring: ThreadRing) -> Option<*mut ThreadRing> {
        let generation = crate::fork::generation();
        let mut slab = if generation == 0 {
            Some(SLAB.lock().unwrap_or_else(PoisonError::into_inner))
        } else {
            SLAB.try_lock().ok()
        };
        let mut own = Vec::new();
        let free = match &mut slab {
            Some(slab) => {
                if slab.generation != generation {
                    slab.generation = generation;
                    slab.free.clear();
                }
                &mut slab.free
            }
            None => &mut own,
        };
        if free.is_empty() {
            let pages = crate::platform::map_pages(SLAB_BYTES);
            if pages.is_null() {
                return None;
            }
            // SAFETY: mapped with this length just now.
            unsafe { crate::platform::wipe_on_fork(pages, SLAB_BYTES) };
            // SAFETY: `SLOTS` slots fit into the slab.
            free.extend(
                (0..SLOTS).rev().map(|slot| unsafe { pages.cast::<ThreadRing>().add(slot) }),
            );
        }
        let slot = free.pop()?;
        // SAFETY: a free slot, aligned because the slab is page-aligned and slots are 128-aligned.
        unsafe { slot.write(ring) };
        Some(slot)
    }

    /// # Safety
    ///
    /// `ring` came from `allocate` and nobody uses it any more.
    pub(super) unsafe fn free(ring: *mut ThreadRing) {
        // A ring has nothing to drop. If the lock cannot be had in a fork child, the slot is leaked.
        let generation = crate::fork::generation();
        let slab = if generation == 0 {
            Some(SLAB.lock().unwrap_or_else(PoisonError::into_inner))
        } else {
            SLAB.try_lock().ok()
        };
        if let Some(mut slab) = slab
            && slab.generation == generation
        {
            slab.free.push(ring);
        }
    }

    const _: () = assert!(SLOTS > 0 && size_of::<ThreadRing>().is_multiple_of(128));
    const _: () = assert!(!std::mem::needs_drop::<ThreadRing>());
}
