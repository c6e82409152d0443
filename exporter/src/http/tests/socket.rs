//! Single sockets.

use std::os::unix::net::UnixListener;

use super::super::socket::{Descriptors, Link, Place};
use super::*;

fn place(poll: &mio::Poll) -> Place {
    let registry = poll.registry().try_clone().unwrap();
    let descriptors = Descriptors::claim(1, &registry);
    Place { registry: Arc::new(registry), descriptors, index: 0, token: mio::Token(FIRST_TOKEN) }
}

/// Keeps `SIGPIPE` from this thread, and tells whether there was one.
struct Blocked(libc::sigset_t);

impl Blocked {
    fn new() -> Self {
        // SAFETY: a set of signals is plain data, made by the first call; only this thread's mask changes.
        unsafe {
            let mut set = std::mem::zeroed();
            libc::sigemptyset(&raw mut set);
            libc::sigaddset(&raw mut set, libc::SIGPIPE);
            let error =
                libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut());
            assert_eq!(error, 0);
            Blocked(set)
        }
    }

    fn was_raised(&mut self) -> bool {
        // SAFETY: a set that was made above, and is overwritten here.
        unsafe {
            assert_eq!(libc::sigpending(&raw mut self.0), 0);
            libc::sigismember(&raw const self.0, libc::SIGPIPE) == 1
        }
    }
}

fn write_until_it_fails(mut link: Link) -> std::io::ErrorKind {
    let end = Instant::now() + PATIENCE;
    loop {
        assert!(Instant::now() < end, "a closed connection takes everything");
        match link.write(b"bytes") {
            Ok(_) => std::thread::yield_now(),
            // The second write meets a connection that is known to be broken.
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => {}
            Err(error) => return error.kind(),
        }
    }
}

#[test]
fn a_write_to_a_closed_connection_is_an_error_and_no_signal() {
    let poll = mio::Poll::new().unwrap();
    let mut blocked = Blocked::new();

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("agent.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let link = Link::unix(&path, place(&poll)).unwrap();
    drop(listener.accept().unwrap());
    assert_eq!(write_until_it_fails(link), std::io::ErrorKind::BrokenPipe);
    assert!(!blocked.was_raised());

    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let link = Link::tcp(listener.local_addr().unwrap(), place(&poll)).unwrap();
    drop(listener.accept().unwrap());
    assert_eq!(write_until_it_fails(link), std::io::ErrorKind::BrokenPipe);
    assert!(!blocked.was_raised());
}
