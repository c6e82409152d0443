//! Names to addresses, without ever waiting.
//!
//! A look-up runs on a thread that ends with it; at most one such thread exists for a client, so a
//! resolver that hangs costs one thread, not one a request, and [`THREADS_MAX`] in the process. What it
//! found is kept, and looked up again when a new connection is needed after [`AGE_MAX`], or after all
//! addresses failed. If that look-up fails, or takes longer than [`PATIENCE`], the addresses known before are
//! used.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;

use super::error::{HttpError, HttpErrorKind};
use crate::thread;

/// How long addresses are used without asking again.
const AGE_MAX: Duration = Duration::from_secs(60);
/// Addresses of one name that are tried.
const ADDRESSES_MAX: usize = 16;

/// How long connections wait for a look-up where addresses are known.
const PATIENCE: Duration = Duration::from_secs(1);
/// Look-ups in the process at a time: each pipeline that comes and goes may leave one that hangs.
pub(super) const THREADS_MAX: usize = 8;

/// Looks a host and port up; blocks as long as it likes.
pub(crate) type LookUp = Arc<dyn Fn(&str, u16) -> io::Result<Vec<SocketAddr>> + Send + Sync>;

/// What a name stands for, in the order in which to try; cheap to keep for a fork child.
pub(crate) type Addresses = Arc<[SocketAddr]>;

/// The system's resolver.
pub(crate) fn system_look_up() -> LookUp {
    Arc::new(|host, port| Ok((host, port).to_socket_addrs()?.collect()))
}

/// What hosts and ports stood for last; a fork child finds its parent's here. Not under a lock, which a lost thread
/// may hold in a child.
static KNOWN: ArcSwapOption<Vec<Known>> = ArcSwapOption::const_empty();
/// Hosts that are remembered.
const KNOWN_MAX: usize = 64;

#[derive(Clone)]
struct Known {
    host: String,
    port: u16,
    addresses: Addresses,
}

/// The addresses that [`remember_addresses`] was told.
pub(super) fn known_addresses(host: &str, port: u16) -> Option<Addresses> {
    let known = KNOWN.load();
    let known = known
        .iter()
        .flat_map(|all| all.iter())
        .find(|known| known.host == host && known.port == port);
    known.map(|known| known.addresses.clone())
}

/// Keeps the addresses for later clients of this process and of its fork children.
fn remember_addresses(host: &str, port: u16, addresses: &Addresses) {
    if known_addresses(host, port).is_some_and(|known| Arc::ptr_eq(&known, addresses)) {
        return;
    }
    KNOWN.rcu(|known| {
        let others = known
            .iter()
            .flat_map(|all| all.iter())
            .filter(|known| known.host != host || known.port != port);
        let new = Known { host: host.to_owned(), port, addresses: addresses.clone() };
        let others = others.take(KNOWN_MAX - 1).cloned();
        Some(Arc::new(std::iter::once(new).chain(others).collect::<Vec<_>>()))
    });
}

/// Threads with a look-up.
///
/// The count says how many there are and carries nothing else, so Relaxed is enough.
pub(super) struct Threads(AtomicUsize);

/// Those of the process.
static THREADS: Threads = Threads::new();

/// In a fork child, which has none of its parent's threads; safe there, being one store.
pub(super) fn forget_threads() {
    THREADS.0.store(0, Ordering::Relaxed);
}

impl Threads {
    pub(super) const fn new() -> Self {
        Threads(AtomicUsize::new(0))
    }

    /// How many of the process there are.
    #[cfg(test)]
    pub(super) fn count() -> usize {
        THREADS.0.load(Ordering::Relaxed)
    }

    /// The right to one more.
    fn claim(&'static self) -> io::Result<Claim> {
        let more = |count| (count < THREADS_MAX).then_some(count + 1);
        match self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more) {
            Ok(_) => Ok(Claim(self)),
            Err(count) => Err(io::Error::other(format!("{count} look-ups have not ended yet"))),
        }
    }
}

struct Claim(&'static Threads);

impl Drop for Claim {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

pub(super) enum Resolved {
    Known(Addresses),
    /// Ask [`Resolver::poll`] after the waker was called.
    Pending,
    Failed(HttpError),
}

type Outcome = io::Result<Vec<SocketAddr>>;

pub(super) struct Resolver {
    host: String,
    port: u16,
    look_up: LookUp,
    waker: Arc<mio::Waker>,
    /// Whether what is found is remembered for the process.
    shared: bool,
    known: Option<Addresses>,
    /// When `known` was looked up; none for addresses that were given, until they are first used.
    known_at: Option<Instant>,
    /// Whether `known` may be used only if a new look-up fails or hangs.
    stale: bool,
    running: Option<Running>,
    pub(super) threads: &'static Threads,
}

struct Running {
    found: Arc<Mutex<Option<Outcome>>>,
    since: Instant,
}

impl Resolver {
    pub(super) fn new(
        host: String,
        port: u16,
        look_up: LookUp,
        waker: Arc<mio::Waker>,
        shared: bool,
        known: Option<Addresses>,
    ) -> Self {
        let known = known.or_else(|| shared.then(|| known_addresses(&host, port)).flatten());
        let known = known.filter(|addresses| !addresses.is_empty());
        Resolver {
            host,
            port,
            look_up,
            waker,
            shared,
            known,
            known_at: None,
            stale: false,
            running: None,
            threads: &THREADS,
        }
    }

    #[cfg(test)]
    pub(super) fn known(&self) -> Option<&Addresses> {
        self.known.as_ref()
    }

    /// All addresses failed: the next connection asks again.
    pub(super) fn mark_stale(&mut self) {
        self.stale = true;
    }

    pub(super) fn resolve(&mut self, now: Instant) -> Resolved {
        if let Some(known) = &self.known
            && !self.stale
            && now.saturating_duration_since(*self.known_at.get_or_insert(now)) < AGE_MAX
        {
            return Resolved::Known(known.clone());
        }
        if self.running.is_some() {
            return self.overdue(now).unwrap_or(Resolved::Pending);
        }
        let claim = match self.threads.claim() {
            Ok(claim) => claim,
            Err(error) => return self.settle(Err(error), now),
        };
        let cell = Arc::new(Mutex::new(None));
        let body = {
            let (cell, look_up, waker) = (cell.clone(), self.look_up.clone(), self.waker.clone());
            let (host, port) = (self.host.clone(), self.port);
            move || {
                let found = catch_unwind(AssertUnwindSafe(|| look_up(&host, port)));
                let found =
                    found.unwrap_or_else(|_| Err(io::Error::other("the resolver panicked")));
                drop(claim);
                *cell.lock().unwrap_or_else(PoisonError::into_inner) = Some(found);
                // If this fails, the deadline of the request that waits is what calls.
                let _ = waker.wake();
            }
        };
        match thread::spawn(body) {
            Ok(()) => {
                self.running = Some(Running { found: cell, since: now });
                Resolved::Pending
            }
            Err(error) => self.settle(Err(error), now),
        }
    }

    /// What those that wait for a look-up get: what one found that has ended since the last call, or the known
    /// addresses when it takes too long.
    pub(super) fn poll(&mut self, now: Instant) -> Option<Resolved> {
        let running = self.running.as_ref()?;
        let found = running.found.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(found) = found else { return self.overdue(now) };
        self.running = None;
        Some(self.settle(found, now))
    }

    /// When those that wait for a look-up need not wait any longer.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let running = self.running.as_ref().filter(|_| self.known.is_some());
        running.map(|running| running.since + PATIENCE)
    }

    fn overdue(&self, now: Instant) -> Option<Resolved> {
        let is_due = self.deadline().is_some_and(|at| at <= now);
        self.known.clone().filter(|_| is_due).map(Resolved::Known)
    }

    fn settle(&mut self, found: Outcome, now: Instant) -> Resolved {
        let what = match found {
            Ok(addresses) if !addresses.is_empty() => {
                let addresses = alternate(&addresses);
                self.known = Some(addresses.clone());
                self.known_at = Some(now);
                if self.shared {
                    remember_addresses(&self.host, self.port, &addresses);
                }
                self.stale = false;
                return Resolved::Known(addresses);
            }
            Ok(_) => "it has no address".to_owned(),
            Err(error) => error.to_string(),
        };
        if let Some(known) = &self.known {
            // As good as new: the next connection does not wait for another failure, unless all addresses fail.
            self.known_at = Some(now);
            self.stale = false;
            return Resolved::Known(known.clone());
        }
        Resolved::Failed(HttpError::new(
            HttpErrorKind::Resolve,
            format!(
                "the host {:?} could not be looked up: {what}; check the name and the DNS settings",
                self.host
            ),
        ))
    }
}

/// IPv6 and IPv4 in turn, beginning with what the resolver put first: a broken family then costs
/// one attempt, not all of its addresses.
fn alternate(addresses: &[SocketAddr]) -> Addresses {
    let first_is_v6 = addresses[0].is_ipv6();
    let (first, second): (Vec<_>, Vec<_>) =
        addresses.iter().copied().partition(|address| address.is_ipv6() == first_is_v6);
    let longest = first.len().max(second.len());
    let turns = (0..longest).flat_map(|index| [first.get(index), second.get(index)]);
    turns.flatten().copied().take(ADDRESSES_MAX).collect()
}
