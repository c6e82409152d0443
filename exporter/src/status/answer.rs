//! What is answered.

use serde_json::{Value, json};

use super::page;
use super::request::{Method, Path, Request};
use crate::metrics::OPENMETRICS_TYPE;
use crate::pipeline::Shared;

const JSON: &str = "application/json";
const PLAIN: &str = "text/plain; charset=utf-8";
const HTML: &str = "text/html; charset=utf-8";

/// The answer to a request that is understood; `is_local` says that only this machine can ask.
pub(super) fn make(request: &Request, is_local: bool, shared: &Shared) -> Vec<u8> {
    if request.method == Method::Other {
        return refusal(405, request.method);
    }
    if is_local && request.by_name {
        return refusal(421, request.method);
    }
    let (status, kind, body) = match request.path {
        Path::Page => (200, HTML, page::make(shared)),
        Path::Health => {
            let health = shared.health();
            (if health.healthy { 200 } else { 503 }, JSON, health.to_json() + "\n")
        }
        Path::Metrics => (200, OPENMETRICS_TYPE, shared.metrics().to_openmetrics()),
        Path::Config => (200, JSON, config(shared).to_string() + "\n"),
        Path::Unknown => return refusal(404, request.method),
    };
    whole(status, kind, &body, request.method)
}

/// The answer where too many wait to be sent.
pub(super) fn busy(request: &Request) -> Vec<u8> {
    whole(503, PLAIN, "Too many answers wait for clients that do not read them.\n", request.method)
}

/// The answer to what is not understood, or not allowed.
pub(super) fn refusal(status: u16, method: Method) -> Vec<u8> {
    let text = match status {
        404 => "There are /, /health, /health/tracing, /metrics and /config.\n",
        405 => "Only GET and HEAD are answered.\n",
        421 => {
            "Ask by the IP address, or by localhost: other names may stand for somebody else's.\n"
        }
        431 => "The head of a request may have 8 KiB and 64 fields.\n",
        505 => "HTTP/1.0 and HTTP/1.1 are answered.\n",
        _ => "That is no request of HTTP/1.1.\n",
    };
    whole(status, PLAIN, text, method)
}

fn whole(status: u16, kind: &str, body: &str, method: Method) -> Vec<u8> {
    let name = match status {
        200 => "OK",
        400 => "Bad Request",
        404 => "Not Found",
        405 => "Method Not Allowed",
        421 => "Misdirected Request",
        431 => "Request Header Fields Too Large",
        503 => "Service Unavailable",
        _ => "HTTP Version Not Supported",
    };
    let allow = if status == 405 { "Allow: GET, HEAD\r\n" } else { "" };
    let mut answer = format!(
        "HTTP/1.1 {status} {name}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n{allow}Connection: close\r\n\
         Cache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\n\
         Content-Security-Policy: default-src 'none'; style-src 'unsafe-inline'\r\n\r\n",
        body.len()
    );
    if method != Method::Head {
        answer.push_str(body);
    }
    answer.into_bytes()
}

/// The settings in force, as `spanring config --json` has them; secrets are not shown there either.
fn config(shared: &Shared) -> Value {
    let settings = shared.settings();
    let rows = settings.explain();
    let rows = rows.iter().map(|row| {
        json!({
            "name": row.name,
            "field": row.field,
            "value": row.value,
            "unit": row.unit,
            "source": row.source.to_string(),
            "live": row.live,
            "default": row.default,
            "allowed": row.allowed,
            "description": row.description,
        })
    });
    let problems = settings.problems().iter();
    let problems = problems.map(|it| json!({ "name": it.name, "message": it.message }));
    json!({ "settings": rows.collect::<Vec<_>>(), "problems": problems.collect::<Vec<_>>() })
}
