//! Sinks that are stuck cost a healthy one nothing: neither delay, nor spans, nor threads. Alone in its process, whose
//! look-ups it makes hang.
#![cfg(target_os = "linux")]

use std::collections::HashSet;
use std::ffi::{CStr, c_char, c_int};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::{Condvar, Mutex};
use std::time::{Duration, Instant};

use spanring::span;
use spanring_exporter::{OtlpOptions, Pipeline, SinkStats};
use spanring_tests::ledger::check_counts;
use spanring_tests::receiver::Receiver;
use spanring_tests::{LONG, settings};

/// The host whose look-up hangs.
const HANGS: &CStr = c"hangs.invalid";
const BATCHES: usize = 50;
const ROUNDS: usize = 10;
/// How far batches are apart: so far that stuck sinks fail, back off and are tried again meanwhile.
const PACE: Duration = Duration::from_millis(4);

/// Look-ups that hang now, and whether they may end.
static HANGING: Mutex<(usize, bool)> = Mutex::new((0, false));
static CHANGED: Condvar = Condvar::new();

type GetAddrInfo = unsafe extern "C" fn(
    *const c_char,
    *const c_char,
    *const libc::addrinfo,
    *mut *mut libc::addrinfo,
) -> c_int;

/// What the standard library's look-ups call, in the C library's place: it hangs for [`HANGS`] as a resolver whose
/// server does not answer, and asks the C library for all others.
///
/// # Safety
///
/// As the C library's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn getaddrinfo(
    node: *const c_char,
    service: *const c_char,
    hints: *const libc::addrinfo,
    result: *mut *mut libc::addrinfo,
) -> c_int {
    // SAFETY: a node is a string or null.
    if !node.is_null() && unsafe { CStr::from_ptr(node) } == HANGS {
        let mut state = HANGING.lock().unwrap();
        state.0 += 1;
        CHANGED.notify_all();
        let mut state = CHANGED.wait_while(state, |state| !state.1).unwrap();
        state.0 -= 1;
        CHANGED.notify_all();
        return libc::EAI_AGAIN;
    }
    // SAFETY: the C library's own function, of that type, called as we were.
    unsafe {
        let real = libc::dlsym(libc::RTLD_NEXT, c"getaddrinfo".as_ptr());
        assert!(!real.is_null());
        let real: GetAddrInfo = std::mem::transmute(real);
        real(node, service, hints, result)
    }
}

/// Sinks that are stuck, each in its way, and what keeps them so.
struct Stuck {
    /// Takes connections and never reads: its kernel does that for it.
    silent: TcpListener,
    /// Its queue is full, so that no connection to it is made.
    deaf: TcpListener,
    _waiting: Vec<TcpStream>,
}

impl Stuck {
    fn new() -> Self {
        let silent = TcpListener::bind("127.0.0.1:0").unwrap();
        let deaf = TcpListener::bind("127.0.0.1:0").unwrap();
        // SAFETY: an open listener; this only makes its queue as short as can be.
        assert_eq!(unsafe { libc::listen(deaf.as_raw_fd(), 0) }, 0);
        let address = deaf.local_addr().unwrap();
        let connect = || TcpStream::connect_timeout(&address, Duration::from_millis(200)).ok();
        let waiting = std::iter::from_fn(connect).take(100).collect();
        Stuck { silent, deaf, _waiting: waiting }
    }

    fn options(&self) -> [OtlpOptions; 3] {
        let http = |listener: &TcpListener| format!("http://{}/", listener.local_addr().unwrap());
        let hangs = format!("http://{}/", HANGS.to_str().unwrap());
        [("silent", http(&self.silent)), ("deaf", http(&self.deaf)), ("hangs", hangs)].map(
            |(name, endpoint)| {
                let mut options = OtlpOptions::new(endpoint);
                options.name = name.to_owned();
                // So short that connections and look-ups are given up and begun anew all the time.
                options.timeout = Duration::from_millis(20);
                options
            },
        )
    }
}

/// The names of this process's threads, by their IDs.
fn threads() -> Vec<(u32, String)> {
    let name = |task: std::io::Result<std::fs::DirEntry>| {
        let task = task.ok()?;
        // It may end meanwhile.
        let name = std::fs::read_to_string(task.path().join("comm")).ok()?;
        Some((task.file_name().to_str()?.parse().ok()?, name.trim_end().to_owned()))
    };
    std::fs::read_dir("/proc/self/task").unwrap().filter_map(name).collect()
}

/// How many threads there are beyond those that were there `before` and the receiver's.
fn new_threads(before: &HashSet<u32>) -> usize {
    let threads = threads();
    let new = threads.iter().filter(|(id, name)| !before.contains(id) && name != "receiver");
    let names: Vec<_> = new.map(|(_, name)| name).collect();
    assert!(names.iter().all(|name| *name == "spanring"), "{names:?}");
    names.len()
}

/// Sends batches one by one, with these sinks beside the healthy one; how long each took from the end of its span to
/// its arrival. Returns the other sinks' counts, too.
fn send(stuck: &[OtlpOptions]) -> (Vec<Duration>, Vec<SinkStats>) {
    let receiver = Receiver::start();
    let before: HashSet<u32> = threads().into_iter().map(|(id, _)| id).collect();
    let mut builder = Pipeline::builder()
        .settings(settings().build())
        .otlp(OtlpOptions::new(receiver.endpoint()));
    for options in stuck {
        builder = builder.otlp(options.clone());
    }
    let pipeline = builder.build().unwrap();
    let _attached = pipeline.attach();
    let mut delays = Vec::new();
    for batch in 0..BATCHES {
        std::thread::sleep(PACE);
        let mut span = span!("sent");
        // A batch of its own, at once.
        span.set_critical();
        let end = Instant::now();
        drop(span);
        receiver.wait_for(batch + 1);
        delays.push(end.elapsed());
        // The flusher alone, and from the first batch on the look-up that hangs.
        let mut most = 1;
        if !stuck.is_empty() {
            let state = HANGING.lock().unwrap();
            let (state, timeout) = CHANGED.wait_timeout_while(state, LONG, |s| s.0 == 0).unwrap();
            assert!(!timeout.timed_out(), "nothing was looked up");
            assert_eq!(state.0, 1, "a look-up is begun while one is under way");
            most += 1;
        }
        assert_eq!(new_threads(&before), most);
    }
    // Until the last answer was seen, and each of the others has failed: it was stuck.
    let end = Instant::now() + LONG;
    let is_done = |sinks: &[SinkStats]| {
        sinks[0].delivered == BATCHES as u64 && sinks[1..].iter().all(|sink| sink.failures > 0)
    };
    while !is_done(&pipeline.stats().sinks) {
        assert!(Instant::now() < end, "{:?}", pipeline.stats().sinks);
        std::thread::yield_now();
    }
    // What they have is given up.
    while pipeline.shutdown(Duration::ZERO).is_err() {
        std::thread::yield_now();
    }
    let stats = pipeline.stats();
    check_counts(&stats);
    assert_eq!((receiver.distinct(), receiver.repeats()), (BATCHES, 0));
    // The next round begins with no look-up.
    HANGING.lock().unwrap().1 = true;
    CHANGED.notify_all();
    let state = HANGING.lock().unwrap();
    CHANGED.wait_while(state, |state| state.0 > 0).unwrap().1 = false;
    (delays, stats.sinks[1..].to_vec())
}

fn p99(delays: &mut [Duration]) -> Duration {
    delays.sort_unstable();
    delays[delays.len() * 99 / 100]
}

#[test]
fn stuck_sinks_delay_no_other() {
    let stuck = Stuck::new();
    let (mut alone, mut beside) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        alone.extend(send(&[]).0);
        let (delays, others) = send(&stuck.options());
        beside.extend(delays);
        for sink in others {
            assert_eq!((sink.delivered, sink.sealed), (0, BATCHES as u64), "{sink:?}");
        }
    }
    let (alone, beside) = (p99(&mut alone), p99(&mut beside));
    println!(
        "{} batches each: p99 {alone:?} alone, {beside:?} beside stuck sinks",
        ROUNDS * BATCHES
    );
    // Both are about a millisecond; a flusher that waits for any of them takes 20 ms a time, or forever.
    assert!(beside <= 3 * alone + Duration::from_millis(10), "{beside:?} is more than {alone:?}");
}
