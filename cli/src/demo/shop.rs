//! A small shop that answers requests, instrumented as an application would be.
//!
//! It does what its spans say on data in memory: looks a basket up, works prices out, checks a card,
//! renders a page. It never sleeps and never waits, so it records as fast as the machine lets it. Now and
//! then something fails. Each thread has its own visitors, from a fixed seed.

use std::collections::HashMap;
use std::fmt::{self, Write};
use std::time::Instant;

use spanring::{SpanKind, StatusCode, span};

/// Spans of the largest request: a checkout of a full basket.
const REQUEST_SPANS_MAX: u64 = 7 + BASKET_PRODUCTS_MAX as u64;
const PRODUCTS: u32 = 256;
const VISITORS: u32 = 64;
const BASKET_PRODUCTS_MAX: usize = 4;
const SESSION_BYTES: usize = 2048;
/// Products on a page.
const PAGE_PRODUCTS: u32 = 24;

const FNV_BASIS: u64 = 0xcbf2_9ce4_8422_2325;
const FNV_PRIME: u64 = 0x0000_0100_0000_01b3;

/// How long a thread goes on.
#[derive(Clone, Copy, Debug)]
pub enum Quota {
    /// Exactly so many spans.
    Spans(u64),
    /// Until then; a request that was begun is finished.
    Until(Instant),
}

/// The shop as one thread serves it.
#[derive(Debug)]
pub struct Shop {
    /// Prices in cents, by product.
    prices: HashMap<u32, u64>,
    sessions: Vec<String>,
    baskets: HashMap<u32, Vec<u32>>,
    page: String,
    random: u64,
    spans: u64,
}

/// Why a card was not charged.
#[derive(Debug)]
struct Declined {
    cents: u64,
}

impl fmt::Display for Declined {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the card was declined for {}.{:02}", self.cents / 100, self.cents % 100)
    }
}

impl std::error::Error for Declined {}

impl Shop {
    /// The shop of thread `thread`.
    pub fn new(thread: u32) -> Self {
        let prices = (0..PRODUCTS).map(|product| (product, u64::from(product) * 37 % 9_000 + 99));
        let session = |visitor: u32| format!("visitor {visitor} ").repeat(SESSION_BYTES / 12);
        Shop {
            prices: prices.collect(),
            sessions: (0..VISITORS).map(session).collect(),
            baskets: HashMap::new(),
            page: String::new(),
            random: u64::from(thread).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5370_616e,
            spans: 0,
        }
    }

    /// Serves requests until the quota is used up; returns how many spans were made. `on_request` is
    /// called after each with that number.
    pub fn serve(&mut self, quota: Quota, mut on_request: impl FnMut(u64)) -> u64 {
        loop {
            let fits = match quota {
                Quota::Spans(most) if self.spans >= most => return self.spans,
                Quota::Until(end) if Instant::now() >= end => return self.spans,
                Quota::Spans(most) => most - self.spans >= REQUEST_SPANS_MAX,
                Quota::Until(_) => true,
            };
            match self.draw(8) {
                // The last few spans must come out even.
                _ if !fits => self.health(),
                0 | 1 => self.checkout(),
                2..=4 => self.add_to_basket(),
                _ => self.browse(),
            }
            on_request(self.spans);
        }
    }

    fn health(&mut self) {
        self.spans += 1;
        let _request = span!("GET /health", kind: SpanKind::Server, "http.request.method" = "GET");
    }

    fn browse(&mut self) {
        self.spans += 1;
        let mut request = span!("GET /products", kind: SpanKind::Server,
            "http.request.method" = "GET", "url.path" = "/products");
        let first = self.draw(PRODUCTS);
        let found = self.query_products(first, PAGE_PRODUCTS);
        self.render(&found);
        let status = 200;
        request.set_attribute("http.response.status_code", status);
    }

    fn add_to_basket(&mut self) {
        self.spans += 1;
        let visitor = self.draw(VISITORS);
        let mut request = span!("POST /basket", kind: SpanKind::Server,
            "http.request.method" = "POST", "url.path" = "/basket", "user.id" = visitor);
        let product = self.draw(PRODUCTS);
        let found = self.query_products(product, 1);
        let basket = self.baskets.entry(visitor).or_default();
        if basket.len() < BASKET_PRODUCTS_MAX {
            basket.extend(found);
        }
        request.set_attribute("http.response.status_code", 204);
    }

    fn checkout(&mut self) {
        self.spans += 1;
        let visitor = self.draw(VISITORS);
        let mut request = span!("POST /checkout", kind: SpanKind::Server,
            "http.request.method" = "POST", "url.path" = "/checkout", "user.id" = visitor);
        self.authenticate(visitor);
        let basket = self.load_basket(visitor);
        let cents = self.price(&basket);
        let status = match self.charge(visitor, cents) {
            Ok(()) => {
                self.ship(visitor, &basket);
                self.baskets.remove(&visitor);
                201
            }
            Err(declined) => {
                request.set_status(StatusCode::Error, &declined.to_string());
                402
            }
        };
        request.set_attribute("http.response.status_code", status);
    }

    fn authenticate(&mut self, visitor: u32) {
        self.spans += 1;
        let mut span = span!("session.verify", "user.id" = visitor);
        // The signature of a session is a hash (FNV-1a) of what it holds.
        let signature = self.sessions[visitor as usize]
            .bytes()
            .fold(FNV_BASIS, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(FNV_PRIME));
        span.set_attribute("session.is_new", signature.is_multiple_of(3));
    }

    fn load_basket(&mut self, visitor: u32) -> Vec<u32> {
        self.spans += 1;
        let mut span = span!("basket.load", kind: SpanKind::Client,
            "db.system.name" = "redis", "db.operation.name" = "GET");
        let basket = self.baskets.get(&visitor).cloned().unwrap_or_else(|| vec![visitor]);
        if basket.len() == 1 {
            span.add_event_with("cache.miss", |event| {
                event.set("cache.key", visitor);
            });
        }
        span.set_attribute("basket.items", basket.len());
        basket
    }

    fn price(&mut self, basket: &[u32]) -> u64 {
        self.spans += 1;
        let mut span = span!("basket.price", "basket.items" = basket.len());
        let mut cents = 0;
        for product in basket {
            self.spans += 1;
            let _quote = span!("price.quote", "product.id" = *product);
            let price = self.prices.get(product).copied().unwrap_or_default();
            // Each piece costs a little less than the one before.
            cents += (0..4).fold(price, |price, _| price - price / 50);
        }
        span.set_attribute("price.cents", cents);
        cents
    }

    fn charge(&mut self, visitor: u32, cents: u64) -> Result<(), Declined> {
        self.spans += 1;
        let mut span = span!("payment.charge", kind: SpanKind::Client,
            "server.address" = "payment.example", "price.cents" = cents);
        let digits = (0..16).map(|place| (u64::from(visitor) * 7 + place * cents) % 10);
        let checksum: u64 = digits.enumerate().map(|(at, digit)| digit * (at as u64 % 2 + 1)).sum();
        span.set_attribute("payment.checksum", checksum % 10);
        if self.draw(24) == 0 {
            let declined = Declined { cents };
            span.record_error(&declined);
            return Err(declined);
        }
        Ok(())
    }

    fn ship(&mut self, visitor: u32, basket: &[u32]) {
        self.spans += 2;
        let order = self.draw(u32::MAX);
        let _order = span!("order.insert", kind: SpanKind::Client,
            "db.system.name" = "postgresql", "order.id" = order, "basket.items" = basket.len());
        let _mail = span!("mail.send", kind: SpanKind::Producer,
            "messaging.system" = "rabbitmq", "user.id" = visitor);
    }

    fn query_products(&mut self, first: u32, count: u32) -> Vec<u32> {
        self.spans += 1;
        let mut span = span!("products.select", kind: SpanKind::Client,
            "db.system.name" = "postgresql", "db.operation.name" = "SELECT");
        // No index: every product is looked at, as a query without one does.
        let is_wanted = |product: u32| product.wrapping_sub(first) % PRODUCTS < count;
        let mut found: Vec<u32> =
            self.prices.keys().copied().filter(|product| is_wanted(*product)).collect();
        found.sort_unstable_by_key(|product| self.prices[product]);
        span.set_attribute("db.response.returned_rows", found.len());
        found
    }

    fn render(&mut self, products: &[u32]) {
        self.spans += 1;
        let mut span = span!("page.render", "page.template" = "products.html");
        self.page.clear();
        for product in products {
            let cents = self.prices.get(product).copied().unwrap_or_default();
            // Writing to a string cannot fail.
            let _ = writeln!(self.page, "<li>{product} {}.{:02}</li>", cents / 100, cents % 100);
        }
        span.set_attribute("page.bytes", self.page.len());
    }

    /// A number below `below`, by Marsaglia's xorshift.
    fn draw(&mut self, below: u32) -> u32 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (((self.random >> 32) * u64::from(below)) >> 32) as u32
    }
}
