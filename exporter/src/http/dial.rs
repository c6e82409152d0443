//! Connecting to one of several addresses.
//!
//! One after another, the next as soon as the one before failed, or after [`FALLBACK_DELAY`] beside it;
//! whichever is connected first wins, and the others are closed. At most [`PLACES`] are under way.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::error::{HttpError, HttpErrorKind};
use super::socket::{Link, Place};

/// Sockets, and so tokens, that one connection needs while it is being made.
pub(super) const PLACES: usize = 4;
const FALLBACK_DELAY: Duration = Duration::from_millis(250);

#[derive(Clone, Debug)]
pub(super) enum Route {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Route::Tcp(address) => address.fmt(f),
            Route::Unix(path) => path.display().fmt(f),
        }
    }
}

pub(super) enum Dialed {
    Pending,
    Connected(Link),
    /// No route is left.
    Failed(HttpError),
}

pub(super) struct Dial {
    routes: Vec<Route>,
    next: usize,
    places: Vec<Place>,
    /// Oldest first.
    attempts: Vec<(Route, Link)>,
    fallback_at: Option<Instant>,
    first_failure: Option<String>,
}

impl Dial {
    /// Nothing happens before the first [`Self::drive`].
    pub(super) fn new(routes: Vec<Route>, places: Vec<Place>) -> Self {
        debug_assert_eq!(places.len(), PLACES);
        Dial {
            routes,
            next: 0,
            places,
            attempts: Vec::new(),
            fallback_at: None,
            first_failure: None,
        }
    }

    /// When to try the next route beside those under way.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.fallback_at.filter(|_| self.next < self.routes.len())
    }

    pub(super) fn drive(&mut self, now: Instant) -> Dialed {
        let mut index = 0;
        while index < self.attempts.len() {
            match self.attempts[index].1.connected() {
                Ok(true) => {
                    let (_, link) = self.attempts.swap_remove(index);
                    self.attempts.clear();
                    return Dialed::Connected(link);
                }
                Ok(false) => index += 1,
                Err(error) => {
                    let (route, _) = self.attempts.remove(index);
                    self.note(&route, &error);
                }
            }
        }
        while self.attempts.is_empty() || self.fallback_at.is_some_and(|at| at <= now) {
            let Some(route) = self.routes.get(self.next).cloned() else { break };
            self.next += 1;
            self.fallback_at = Some(now + FALLBACK_DELAY);
            if self.attempts.len() == PLACES {
                self.attempts.remove(0);
            }
            let place = self.free_place();
            let link = match &route {
                Route::Tcp(address) => Link::tcp(*address, place),
                Route::Unix(path) => Link::unix(path, place),
            };
            match link {
                // One that is connected already tells so by an event, as all do.
                Ok(link) => self.attempts.push((route, link)),
                Err(error) => self.note(&route, &error),
            }
        }
        if self.attempts.is_empty() { Dialed::Failed(self.failure()) } else { Dialed::Pending }
    }

    fn free_place(&self) -> Place {
        let is_free =
            |place: &&Place| !self.attempts.iter().any(|(_, link)| link.token() == place.token);
        self.places.iter().find(is_free).expect("there are as many as attempts").clone()
    }

    fn note(&mut self, route: &Route, error: &io::Error) {
        self.first_failure.get_or_insert_with(|| format!("{route}: {error}"));
    }

    fn failure(&self) -> HttpError {
        let first = self.first_failure.as_deref().unwrap_or("there is no address");
        let others = match self.routes.len() {
            0 | 1 => String::new(),
            count => format!(", nor to {} other addresses", count - 1),
        };
        HttpError::new(
            HttpErrorKind::Connect,
            format!(
                "no connection to {first}{others}; check that the server runs there and the endpoint \
                 is right"
            ),
        )
    }
}
