//! A spool whose files cannot be deleted: it costs neither the processor nor the log. In a process of its own, where
//! nothing can be deleted.
#![cfg(target_os = "linux")]

use std::ffi::{c_char, c_int};
use std::net::TcpListener;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;

use spanring::span;
use spanring_exporter::{OtlpOptions, Pipeline};
use spanring_tests::settings;

static READ_ONLY: AtomicBool = AtomicBool::new(false);

/// What the standard library deletes files with, in the C library's place: it refuses as a file system does that is
/// mounted for reading only.
///
/// # Safety
///
/// As the C library's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn unlink(path: *const c_char) -> c_int {
    // SAFETY: the thread's own `errno`, and the system call that the C library makes, called as we were.
    unsafe {
        if READ_ONLY.load(SeqCst) {
            *libc::__errno_location() = libc::EROFS;
            return -1;
        }
        libc::syscall(libc::SYS_unlink, path) as c_int
    }
}

/// What the child does; without the parent it is no test.
#[test]
#[ignore = "a part that a child process plays"]
fn child() {
    let directory = tempfile::tempdir().unwrap();
    // Nobody listens there any more.
    let receiver = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let settings = settings()
        .dir(directory.path())
        .spool_max_age(Duration::from_secs(1))
        .max_batch_wait(Duration::from_millis(1))
        .build();
    let endpoint = format!("http://{receiver}/v1/traces");
    let pipeline =
        Pipeline::builder().settings(settings).otlp(OtlpOptions::new(endpoint)).build().unwrap();
    {
        let _attached = pipeline.attach();
        (0..10).for_each(|_| drop(span!("kept")));
    }
    _ = pipeline.flush(Duration::from_millis(50));
    READ_ONLY.store(true, SeqCst);
    std::thread::sleep(Duration::from_secs(2));
    let before = pipeline.stats().wake_ups;
    // Long enough for a second try.
    std::thread::sleep(Duration::from_secs(6));
    let stats = pipeline.stats();
    // Some are attempts to send.
    let wake_ups = stats.wake_ups - before;
    assert!(wake_ups < 50, "{wake_ups} wake-ups");
    let files = || {
        let sink = std::fs::read_dir(directory.path().join("spool")).unwrap().next().unwrap();
        std::fs::read_dir(sink.unwrap().path()).unwrap().count()
    };
    assert_eq!((stats.sinks[0].dropped_total(), files()), (0, 2));
    READ_ONLY.store(false, SeqCst);
    std::thread::sleep(Duration::from_secs(6));
    assert_eq!(files(), 0);
}

#[test]
fn what_cannot_be_deleted_does_not_keep_the_flusher_busy_and_is_logged_once() {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child", "--ignored", "--nocapture"])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert_eq!(said.matches("cannot delete what it has to").count(), 1, "{said}");
}
