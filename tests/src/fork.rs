//! Fork children that go on in the test itself.
#![allow(unsafe_code, reason = "forking is what this is for")]

/// Runs `f` in a fork child; its result is the child's exit status.
///
/// # Panics
///
/// If the child was killed.
pub fn in_child(f: impl FnOnce() -> i32) -> i32 {
    // SAFETY: the child runs `f` on its one thread and leaves by `_exit`.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        let status = f();
        // SAFETY: ends the child without running the parent's exit handlers.
        unsafe { libc::_exit(status) };
    }
    let mut status = 0;
    // SAFETY: our own child; `status` is valid for writes.
    assert_eq!(unsafe { libc::waitpid(pid, &raw mut status, 0) }, pid);
    assert!(libc::WIFEXITED(status), "the child was killed: {status:x}");
    libc::WEXITSTATUS(status)
}
