//! Fork children that go on in the test itself.
#![allow(unsafe_code, reason = "forking is what this is for")]

/// Runs `f` in a fork child; its result is the child's exit status.
///
/// # Panics
///
/// If the child was killed.
pub fn in_child(f: impl FnOnce() -> i32) -> i32 {
    let status = end_of_child(|| {
        let status = f();
        // SAFETY: ends the child without running the parent's exit handlers.
        unsafe { libc::_exit(status) };
    });
    assert!(libc::WIFEXITED(status), "the child was killed: {status:x}");
    libc::WEXITSTATUS(status)
}

/// Runs `f` in a fork child that then ends by `SIGKILL`.
///
/// # Panics
///
/// If the child ended before that.
pub fn in_killed_child(f: impl FnOnce()) {
    let status = end_of_child(|| {
        f();
        // SAFETY: a signal to this process alone.
        unsafe { libc::kill(libc::getpid(), libc::SIGKILL) };
    });
    let is_killed = libc::WIFSIGNALED(status) && libc::WTERMSIG(status) == libc::SIGKILL;
    assert!(is_killed, "the child ended before it was killed: {status:x}");
}

/// Runs `f`, which ends the process, in a fork child; how it ended, as `waitpid` says.
fn end_of_child(f: impl FnOnce()) -> i32 {
    // SAFETY: the child runs `f` on its one thread and does not come back from here.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        // One that hangs is killed, which says so.
        // SAFETY: asks for a signal to this process alone.
        unsafe { libc::alarm(crate::LONG.as_secs() as u32) };
        // A panic must not go on in the test's own frames: there the child would be a second test run.
        _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(f));
        // SAFETY: ends the child without running the parent's exit handlers.
        unsafe { libc::_exit(101) };
    }
    let mut status = 0;
    // SAFETY: our own child; `status` is valid for writes.
    assert_eq!(unsafe { libc::waitpid(pid, &raw mut status, 0) }, pid);
    status
}
