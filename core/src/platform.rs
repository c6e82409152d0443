//! What the engine asks of the operating system.

/// Fills `bytes` from the operating system's random source.
///
/// Falls back to the clock, the process ID and an address where there is none: IDs must be unique,
/// not secret, and a program must not fail because it cannot trace.
pub(crate) fn random(bytes: &mut [u8]) {
    // SAFETY: the pointer and the length describe `bytes`.
    let got =
        unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), libc::GRND_NONBLOCK) };
    if got == bytes.len() as isize {
        return;
    }
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |since| since.as_nanos() as u64);
    let mut state = now ^ u64::from(std::process::id()) << 32 ^ bytes.as_ptr() as u64;
    for byte in bytes {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        *byte = (state >> 56) as u8;
    }
}

/// Maps `len` bytes of zeroed pages; null if there are none to be had.
pub(crate) fn map_pages(len: usize) -> *mut u8 {
    // SAFETY: a new private mapping at an address of the kernel's choice.
    let pages = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            len,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
            0,
        )
    };
    if pages == libc::MAP_FAILED { std::ptr::null_mut() } else { pages.cast() }
}

/// Gives pages back.
///
/// # Safety
///
/// `pages` came from [`map_pages`] with the same `len` and is not used again.
pub(crate) unsafe fn unmap_pages(pages: *mut u8, len: usize) {
    // SAFETY: the caller's promise.
    unsafe { libc::munmap(pages.cast(), len) };
}

/// Asks that a fork child see the pages zeroed; false if the system cannot.
///
/// # Safety
///
/// `pages` came from [`map_pages`] with the same `len`.
pub(crate) unsafe fn wipe_on_fork(pages: *mut u8, len: usize) -> bool {
    #[cfg(target_os = "linux")]
    // SAFETY: the caller's promise; the advice changes nothing in this process.
    let done = unsafe { libc::madvise(pages.cast(), len, libc::MADV_WIPEONFORK) } == 0;
    #[cfg(not(target_os = "linux"))]
    let done = {
        let _ = (pages, len);
        false
    };
    done
}

const MEMBARRIER_CMD_PRIVATE_EXPEDITED: libc::c_int = 1 << 3;
const MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED: libc::c_int = 1 << 4;

/// Registers the process for [`membarrier`]; false if the kernel has none.
pub(crate) fn membarrier_register() -> bool {
    #[cfg(target_os = "linux")]
    // SAFETY: the call takes a command and flags and touches no memory of ours.
    return unsafe {
        libc::syscall(libc::SYS_membarrier, MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED, 0, 0)
    } == 0;
    #[cfg(not(target_os = "linux"))]
    false
}

/// A full barrier on every running thread of the process. After a successful registration only; false if
/// the kernel refuses nevertheless, as it does once a seccomp filter forbids the call.
pub(crate) fn membarrier() -> bool {
    #[cfg(target_os = "linux")]
    // SAFETY: as above.
    let done =
        unsafe { libc::syscall(libc::SYS_membarrier, MEMBARRIER_CMD_PRIVATE_EXPEDITED, 0, 0) };
    #[cfg(not(target_os = "linux"))]
    let done = -1;
    done == 0
}

fn clock_nanos(clock: libc::clockid_t) -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is valid for writes; the clocks asked for exist everywhere.
    unsafe { libc::clock_gettime(clock, &raw mut time) };
    (time.tv_sec.max(0) as u64).wrapping_mul(1_000_000_000).wrapping_add(time.tv_nsec as u64)
}

/// `CLOCK_MONOTONIC` in ns.
pub(crate) fn monotonic_nanos() -> u64 {
    clock_nanos(libc::CLOCK_MONOTONIC)
}

/// `CLOCK_REALTIME` in ns.
pub(crate) fn realtime_nanos() -> u64 {
    clock_nanos(libc::CLOCK_REALTIME)
}

/// Resident memory of the process in bytes; `None` where the system does not tell. Allocates nothing.
#[cfg(not(target_os = "linux"))]
pub(crate) fn resident_bytes() -> Option<i64> {
    None
}

/// Resident memory of the process in bytes; `None` where the system does not tell. Allocates nothing.
// System calls and not the C library's functions, which `pthread_cancel` would end in the middle of our frames.
#[cfg(target_os = "linux")]
pub(crate) fn resident_bytes() -> Option<i64> {
    let mut text = [0u8; 128];
    let path = c"/proc/self/statm".as_ptr();
    // SAFETY: the path ends with a zero; `text` has room for as many bytes; the descriptor is ours and closed once.
    let len = unsafe {
        let flags = libc::O_RDONLY | libc::O_CLOEXEC;
        let file = libc::syscall(libc::SYS_openat, libc::AT_FDCWD, path, flags, 0);
        if file < 0 {
            return None;
        }
        let len = libc::syscall(libc::SYS_read, file, text.as_mut_ptr(), text.len());
        libc::syscall(libc::SYS_close, file);
        len
    };
    let text = std::str::from_utf8(text.get(..usize::try_from(len).ok()?)?).ok()?;
    let pages: i64 = text.split(' ').nth(1)?.parse().ok()?;
    // SAFETY: asks for a number.
    let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    Some(pages * page)
}

/// Whether the CPU's time-stamp counter is invariant and the kernel keeps time by it.
pub(crate) fn has_reliable_tsc() -> bool {
    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    {
        let path = "/sys/devices/system/clocksource/clocksource0/current_clocksource";
        let kernel = std::fs::read_to_string(path).is_ok_and(|source| source.trim() == "tsc");
        // The leaf exists wherever the highest extended leaf says so; bit 8 of EDX is the flag.
        let leaf = |leaf| std::arch::x86_64::__cpuid(leaf);
        kernel && leaf(0x8000_0000).eax >= 0x8000_0007 && leaf(0x8000_0007).edx & (1 << 8) != 0
    }
    #[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
    false
}

/// Has `handler` called in fork children. It must be safe to call there.
pub(crate) fn at_fork_child(handler: extern "C" fn()) {
    // SAFETY: a handler of the right type that stays loaded as long as the program.
    unsafe { libc::pthread_atfork(None, None, Some(handler)) };
}

/// The operating system's number of the calling thread.
pub(crate) fn thread_id() -> u64 {
    #[cfg(target_os = "linux")]
    // SAFETY: takes nothing and cannot fail.
    let id = unsafe { libc::gettid() } as u64;
    #[cfg(not(target_os = "linux"))]
    // SAFETY: takes nothing and cannot fail.
    let id = unsafe { libc::pthread_self() } as u64;
    id
}

/// Asks for the cache line `BYTES` behind `address`, to write it; any address will do.
#[inline(always)]
pub(crate) fn prefetch_for_write<const BYTES: usize, T>(address: *const T) {
    #[cfg(all(target_arch = "x86_64", not(spanring_loom)))]
    // SAFETY: a hint that never faults; 64-bit CPUs that do not know it take it for a NOP.
    unsafe {
        std::arch::asm!(
            "prefetchw [{} + {}]",
            in(reg) address,
            const BYTES,
            options(nostack, preserves_flags, readonly)
        );
    }
    #[cfg(all(target_arch = "aarch64", not(spanring_loom)))]
    // SAFETY: a hint that never faults.
    unsafe {
        std::arch::asm!(
            "prfm pstl1keep, [{}]",
            in(reg) address.wrapping_byte_add(BYTES),
            options(nostack, preserves_flags, readonly)
        );
    }
    let _ = address;
}

/// Asks for the cache line at `address`, to read it; any address will do.
#[inline(always)]
pub(crate) fn prefetch<T>(address: *const T) {
    #[cfg(all(target_arch = "x86_64", not(spanring_loom)))]
    // SAFETY: a hint that never faults.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(address.cast());
    }
    #[cfg(all(target_arch = "aarch64", not(spanring_loom)))]
    // SAFETY: a hint that never faults.
    unsafe {
        std::arch::asm!(
            "prfm pldl1keep, [{}]",
            in(reg) address,
            options(nostack, preserves_flags, readonly)
        );
    }
    let _ = address;
}
