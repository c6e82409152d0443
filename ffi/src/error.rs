//! Result codes, and the text of the last error of each thread.

use std::cell::UnsafeCell;
use std::ffi::c_char;
use std::fmt::{self, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// It worked.
pub const SPANRING_OK: i32 = 0;
/// A pointer that is needed is NULL.
pub const SPANRING_ERROR_NULL: i32 = 1;
/// A struct's `size` is none that this library knows.
pub const SPANRING_ERROR_SIZE: i32 = 2;
/// A text is not UTF-8.
pub const SPANRING_ERROR_UTF8: i32 = 3;
/// An argument has a value that it cannot have.
pub const SPANRING_ERROR_ARGUMENT: i32 = 4;
/// There is no pipeline: `spanring_start` was not called, or failed.
pub const SPANRING_ERROR_NOT_STARTED: i32 = 5;
/// There is a pipeline already.
pub const SPANRING_ERROR_STARTED: i32 = 6;
/// The struct holds no span, context or guard: it was ended before, is a copy, or never was one.
pub const SPANRING_ERROR_HANDLE: i32 = 7;
/// What is current on one thread was ended or detached on another.
pub const SPANRING_ERROR_THREAD: i32 = 8;
/// The time was up; it goes on.
pub const SPANRING_ERROR_TIMED_OUT: i32 = 9;
/// The pipeline was shut down.
pub const SPANRING_ERROR_SHUT_DOWN: i32 = 10;
/// The pipeline cannot be started; the last error says why.
pub const SPANRING_ERROR_START: i32 = 11;
/// Packed attributes are not as they must be; the last error says where.
pub const SPANRING_ERROR_PACKED: i32 = 12;
/// The buffer is too small; the length that is needed was written.
pub const SPANRING_ERROR_BUFFER: i32 = 13;
/// A header of W3C trace context cannot be used.
pub const SPANRING_ERROR_PROPAGATION: i32 = 14;
/// No more strings can be interned, or this one is too long; give it as text.
pub const SPANRING_ERROR_FULL: i32 = 15;
/// There is nothing to give.
pub const SPANRING_ERROR_EMPTY: i32 = 16;
/// A defect in spanring; it did nothing, or half of what it should. Please report it.
pub const SPANRING_ERROR_INTERNAL: i32 = 17;
/// The call was made by a fork child for what belongs to its parent.
pub const SPANRING_ERROR_FORKED: i32 = 18;

/// Longest text of an error, with its end.
const TEXT_BYTES: usize = 512;

struct Text {
    bytes: UnsafeCell<[u8; TEXT_BYTES]>,
}

thread_local! {
    // Without a destructor, so that it works in other destructors, and the library's thread-locals need none.
    static LAST: Text = const { Text { bytes: UnsafeCell::new([0; TEXT_BYTES]) } };
}

/// A text of bounded length that is cut between characters.
struct Cut<'a> {
    bytes: &'a mut [u8; TEXT_BYTES],
    len: usize,
}

impl Write for Cut<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = TEXT_BYTES - 1 - self.len;
        let mut take = text.len().min(room);
        while !text.is_char_boundary(take) {
            take -= 1;
        }
        self.bytes[self.len..self.len + take].copy_from_slice(&text.as_bytes()[..take]);
        self.len += take;
        if take == text.len() { Ok(()) } else { Err(fmt::Error) }
    }
}

/// A code, and its sentence.
pub(crate) struct Error(pub(crate) i32);

impl Error {
    /// Keeps the sentence for this thread.
    #[cold]
    pub(crate) fn new(code: i32, text: fmt::Arguments<'_>) -> Self {
        LAST.with(|last| {
            // SAFETY: this thread's own, and nothing that is called here comes back here.
            let bytes = unsafe { &mut *last.bytes.get() };
            let mut cut = Cut { bytes, len: 0 };
            // Cut if it is too long.
            let _ = cut.write_fmt(text);
            let len = cut.len;
            bytes[len] = 0;
        });
        Error(code)
    }

    #[cold]
    #[inline(never)]
    pub(crate) fn null(what: &str) -> Self {
        Self::new(SPANRING_ERROR_NULL, format_args!("{what} is NULL"))
    }
}

/// What the last error of this thread said.
pub(crate) fn last_text() -> String {
    // SAFETY: ended by a zero byte, and this thread's own.
    unsafe { std::ffi::CStr::from_ptr(spanring_last_error()) }.to_string_lossy().into_owned()
}

pub(crate) type Result<T> = std::result::Result<T, Error>;

/// What a function answers, whatever happens in it.
#[inline(always)]
pub(crate) fn guarded(call: impl FnOnce() -> Result<()>) -> i32 {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(Ok(())) => SPANRING_OK,
        Ok(Err(Error(code))) => code,
        Err(panic) => panicked(panic),
    }
}

#[cold]
fn panicked(panic: Box<dyn std::any::Any + Send>) -> i32 {
    let text = match (panic.downcast_ref::<&str>(), panic.downcast_ref::<String>()) {
        (Some(text), _) => text,
        (_, Some(text)) => text.as_str(),
        _ => "no text",
    };
    Error::new(SPANRING_ERROR_INTERNAL, format_args!("a defect in spanring: {text}")).0
}

/// A text of the caller's.
///
/// # Safety
///
/// `data` is NULL or points to `len` bytes that stay as they are for `'a`.
#[inline(always)]
pub(crate) unsafe fn text<'a>(data: *const c_char, len: usize, what: &str) -> Result<&'a str> {
    // SAFETY: as promised to us.
    let bytes = unsafe { bytes(data.cast(), len, what) }?;
    utf8(bytes).map_err(|error| {
        let at = error.valid_up_to();
        Error::new(SPANRING_ERROR_UTF8, format_args!("{what} is not UTF-8 at byte {at}"))
    })
}

/// As `str::from_utf8`, which goes through short texts byte by byte.
#[inline(always)]
pub(crate) fn utf8(bytes: &[u8]) -> std::result::Result<&str, std::str::Utf8Error> {
    if bytes.is_ascii() {
        // SAFETY: ASCII is UTF-8.
        return Ok(unsafe { std::str::from_utf8_unchecked(bytes) });
    }
    other_utf8(bytes)
}

#[cold]
#[inline(never)]
fn other_utf8(bytes: &[u8]) -> std::result::Result<&str, std::str::Utf8Error> {
    std::str::from_utf8(bytes)
}

/// Bytes of the caller's; NULL is none if `len` is zero.
///
/// # Safety
///
/// As for [`text`].
#[inline(always)]
pub(crate) unsafe fn bytes<'a>(data: *const u8, len: usize, what: &str) -> Result<&'a [u8]> {
    if len == 0 {
        return Ok(&[]);
    }
    if data.is_null() {
        return Err(Error::null(what));
    }
    if isize::try_from(len).is_err() {
        return Err(no_length(len, what));
    }
    // SAFETY: as promised to us, and not NULL.
    Ok(unsafe { std::slice::from_raw_parts(data, len) })
}

#[cold]
#[inline(never)]
fn no_length(len: usize, what: &str) -> Error {
    Error::new(
        SPANRING_ERROR_ARGUMENT,
        format_args!("{what} has a length of {len} bytes, which no memory has"),
    )
}

/// What the last call on this thread that failed said, in English, ended by a zero byte; empty if none has failed. Never NULL. It stays as
/// it is until the next call on this thread fails, or the thread ends.
#[unsafe(no_mangle)]
pub extern "C" fn spanring_last_error() -> *const c_char {
    // SAFETY: the storage lives as long as the thread; only the caller's thread writes it.
    LAST.try_with(|last| last.bytes.get().cast::<c_char>().cast_const()).unwrap_or(c"".as_ptr())
}
