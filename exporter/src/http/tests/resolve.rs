//! Look-ups, with resolvers that fail, hang and change.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;

use super::super::resolve::{Resolved, Resolver, THREADS_MAX, Threads};
use super::*;

#[test]
fn the_system_knows_localhost() {
    let found = system_look_up()("localhost", 4318).unwrap();
    assert!(found.iter().all(|address| address.ip().is_loopback() && address.port() == 4318));
    assert!(!found.is_empty());
}

#[test]
fn an_unknown_name_fails_and_says_what_to_check() {
    for answer in [Err("no such host"), Ok(Vec::new())] {
        let mut options = options("http://no-such-host.test/");
        options.look_up = Arc::new(move |_, _| answer.clone().map_err(io::Error::other));
        let error = Loop::new(options).post_fails(HttpErrorKind::Resolve, "check the name");
        assert!(!error.may_have_been_processed());
        assert!(error.to_string().contains("no-such-host.test"), "{error}");
    }
}

#[test]
fn a_resolver_that_panics_fails_the_request() {
    let mut options = options("http://host.test/");
    let look_up: LookUp = Arc::new(|_, _| panic!("on purpose"));
    options.look_up = look_up;
    Loop::new(options).post_fails(HttpErrorKind::Resolve, "panicked");
}

#[test]
fn a_look_up_is_used_for_many_connections_and_repeated_when_it_is_old() {
    let server = Server::start(|listener| {
        for _ in 0..4 {
            let mut socket = listener.accept().unwrap().0;
            read_request(&mut socket).unwrap();
            socket.write_all(b"HTTP/1.0 200 OK\r\n\r\n").unwrap();
        }
    });
    let (address, count) = (server.address, Arc::new(AtomicUsize::new(0)));
    let mut options = options("http://host.test/");
    let counter = count.clone();
    options.look_up = Arc::new(move |host, port| {
        assert_eq!((host, port), ("host.test", 80));
        // Only the first works: later ones leave what is known.
        match counter.fetch_add(1, Ordering::SeqCst) {
            0 => Ok(vec![address]),
            _ => Err(io::Error::other("down")),
        }
    });
    let mut client = Loop::new(options);
    for _ in 0..3 {
        client.post("").unwrap();
    }
    assert_eq!(count.load(Ordering::SeqCst), 1);
    client.pass(Duration::from_secs(61));
    client.post("").unwrap();
    assert_eq!(count.load(Ordering::SeqCst), 2);
    server.join();
}

#[test]
fn a_look_up_is_repeated_after_all_addresses_failed() {
    let server = Server::answering(OK);
    let dead = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (address, count) = (server.address, AtomicUsize::new(0));
    let mut options = options("http://host.test/");
    options.look_up = Arc::new(move |_, _| match count.fetch_add(1, Ordering::SeqCst) {
        0 => Ok(vec![dead, dead]),
        _ => Ok(vec![address]),
    });
    let mut client = Loop::new(options);
    client.post_fails(HttpErrorKind::Connect, "1 other");
    assert_eq!(client.post("").unwrap().status, 200);
    server.join();
}

#[test]
fn known_addresses_need_no_look_up() {
    let server = Server::answering(OK);
    let mut options = options("http://host.test/");
    options.look_up = Arc::new(|_, _| panic!("not needed"));
    options.addresses = Some(Addresses::from([server.address]));
    let mut client = Loop::new(options);
    assert_eq!(client.post("").unwrap().status, 200);
    assert_eq!(client.client.addresses().as_deref(), Some(&[server.address][..]));
    server.join();
}

#[test]
fn a_later_client_starts_with_what_an_earlier_one_found() {
    let server = Server::answering(OK);
    let address = server.address;
    let mut found = options("http://shared.test/");
    found.share_addresses = true;
    found.look_up = Arc::new(move |_, _| Ok(vec![address]));
    assert_eq!(Loop::new(found).post("").unwrap().status, 200);
    server.join();

    let server = Server::start(|_| ());
    let mut known = options("http://shared.test/");
    known.share_addresses = true;
    known.look_up = Arc::new(|_, _| panic!("not needed"));
    let client = Loop::new(known);
    assert_eq!(client.client.addresses().as_deref(), Some(&[address][..]));
    let mut alone = options("http://shared.test/");
    alone.share_addresses = false;
    assert_eq!(Loop::new(alone).client.addresses(), None);
    server.join();
}

#[test]
fn a_look_up_that_hangs_costs_the_timeout_and_one_thread() {
    let server = Server::answering(OK);
    let (started, starts) = mpsc::channel();
    let (go, may_go) = mpsc::channel::<()>();
    let (address, may_go) = (server.address, std::sync::Mutex::new(may_go));
    let mut options = options("http://host.test/");
    options.look_up = Arc::new(move |_, _| {
        started.send(()).unwrap();
        may_go.lock().unwrap().recv().unwrap();
        Ok(vec![address])
    });
    let mut client = Loop::new(options);
    for _ in 0..3 {
        client.submit(1, "");
        client.submit(2, "");
        client.pass(Duration::from_secs(11));
        for _ in 0..2 {
            let error = client.client.finished().unwrap().1.unwrap_err();
            assert_eq!(error.kind(), HttpErrorKind::Resolve, "{error}");
            assert!(error.to_string().contains("did not end"), "{error}");
        }
    }
    starts.recv().unwrap();
    // The next request waits for the same look-up, which now ends.
    client.submit(3, "");
    go.send(()).unwrap();
    assert_eq!(client.next().1.unwrap().status, 200);
    assert!(starts.try_recv().is_err(), "a second look-up was started");
    server.join();
}

/// A look-up that says when it has begun, and gives these addresses when it is told to.
fn hanging(address: SocketAddr) -> (LookUp, mpsc::Receiver<()>, mpsc::Sender<()>) {
    let (started, starts) = mpsc::channel();
    let (go, may_go) = mpsc::channel::<()>();
    let may_go = std::sync::Mutex::new(may_go);
    let look_up: LookUp = Arc::new(move |_, _| {
        let _ = started.send(());
        let _ = may_go.lock().unwrap().recv();
        Ok(vec![address])
    });
    (look_up, starts, go)
}

#[test]
fn a_look_up_that_hangs_holds_up_nobody_where_addresses_are_known() {
    let server = Server::start(|listener| {
        for _ in 0..4 {
            let mut socket = listener.accept().unwrap().0;
            read_request(&mut socket).unwrap();
            socket.write_all(b"HTTP/1.0 200 OK\r\n\r\n").unwrap();
        }
    });
    let (look_up, starts, go) = hanging(server.address);
    let mut options = options("http://host.test/");
    options.look_up = look_up;
    options.addresses = Some(Addresses::from([server.address]));
    let mut client = Loop::new(options);
    client.post("").unwrap();
    client.pass(Duration::from_secs(61));
    client.submit(1, "");
    starts.recv().unwrap();
    client.pass(Duration::from_millis(500));
    assert_eq!(client.open_sockets(), 0);
    // The loop wakes for it by itself.
    let due = client.client.deadline().unwrap().saturating_duration_since(client.now());
    assert!(due < Duration::from_secs(1), "{due:?}");
    assert_eq!(client.next().1.unwrap().status, 200);
    // The next one does not wait any more.
    client.submit(2, "");
    assert_eq!(client.open_sockets(), 1);
    assert_eq!(client.next().1.unwrap().status, 200);
    go.send(()).unwrap();
    client.post("").unwrap();
    assert!(starts.try_recv().is_err(), "a second look-up was started");
    server.join();
}

#[test]
fn a_look_up_that_failed_is_not_repeated_for_each_connection() {
    let server = Server::start(|listener| {
        for _ in 0..4 {
            let mut socket = listener.accept().unwrap().0;
            read_request(&mut socket).unwrap();
            socket.write_all(b"HTTP/1.0 200 OK\r\n\r\n").unwrap();
        }
    });
    let count = Arc::new(AtomicUsize::new(0));
    let counter = count.clone();
    let mut options = options("http://host.test/");
    options.addresses = Some(Addresses::from([server.address]));
    options.look_up = Arc::new(move |_, _| {
        counter.fetch_add(1, Ordering::SeqCst);
        Err(io::Error::other("down"))
    });
    let mut client = Loop::new(options);
    client.post("").unwrap();
    client.pass(Duration::from_secs(61));
    for _ in 0..3 {
        client.post("").unwrap();
    }
    assert_eq!(count.load(Ordering::SeqCst), 1);
    server.join();
}

#[test]
fn look_ups_that_hang_have_a_bound() {
    static FEW: Threads = Threads::new();
    let poll = mio::Poll::new().unwrap();
    let waker = Arc::new(mio::Waker::new(poll.registry(), WAKER).unwrap());
    let (look_up, _starts, go) = hanging("127.0.0.1:80".parse().unwrap());
    let now = Instant::now();
    let resolver = || {
        let (host, look_up, waker) = ("host.test".to_owned(), look_up.clone(), waker.clone());
        let mut resolver = Resolver::new(host, 80, look_up, waker, false, None);
        resolver.threads = &FEW;
        resolver
    };
    let mut hanging: Vec<_> = (0..THREADS_MAX).map(|_| resolver()).collect();
    for resolver in &mut hanging {
        assert!(matches!(resolver.resolve(now), Resolved::Pending));
    }
    let mut one_more = resolver();
    let Resolved::Failed(error) = one_more.resolve(now) else { panic!("it is one too many") };
    assert_eq!(error.kind(), HttpErrorKind::Resolve);
    assert!(error.to_string().contains("8 look-ups have not ended"), "{error}");
    // When one has ended, there is room again.
    drop(hanging);
    go.send(()).unwrap();
    let end = Instant::now() + super::PATIENCE;
    while !matches!(one_more.resolve(now), Resolved::Pending) {
        assert!(Instant::now() < end, "no thread ends");
        std::thread::yield_now();
    }
}

#[test]
fn a_fork_child_does_not_count_the_look_ups_of_its_parent() {
    let (look_up, starts, go) = hanging("127.0.0.1:80".parse().unwrap());
    let mut options = options("http://host.test/");
    options.look_up = look_up;
    let mut client = Loop::new(options);
    client.submit(1, "");
    starts.recv().unwrap();
    assert!(Threads::count() > 0);
    // SAFETY: the child only loads a number and ends.
    let child = unsafe { libc::fork() };
    if child == 0 {
        // SAFETY: ends the child without running anything of its parent's.
        unsafe { libc::_exit(i32::try_from(Threads::count()).unwrap_or(-1)) };
    }
    assert!(child > 0);
    let mut status = -1;
    // SAFETY: a child of ours that nobody else waits for.
    assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
    assert_eq!(status, 0);
    go.send(()).unwrap();
}
