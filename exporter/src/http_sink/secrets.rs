//! What no message may show, although receivers repeat it.

use crate::http::Endpoint;

/// What messages show of an answer.
const ANSWER_BYTES_SHOWN: usize = 200;
/// What is shorter is found in any text, and no secret.
const SECRET_BYTES_MIN: usize = 4;

/// What we send and no message may show: receivers like to repeat the key that they do not know.
pub(crate) struct Secrets(Vec<String>);

impl Secrets {
    pub(crate) fn new(endpoint: &Endpoint, headers: &[(String, String)]) -> Self {
        let mut secrets = endpoint.secrets();
        for (_, value) in headers {
            // Without the scheme before it: "Bearer", "Basic".
            secrets.extend(value.split_whitespace().last().map(str::to_owned));
            secrets.push(value.trim().to_owned());
        }
        secrets.retain(|secret| secret.len() >= SECRET_BYTES_MIN);
        // One that holds another goes first, or its rest would stay.
        secrets.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
        Secrets(secrets)
    }

    /// `bytes` up to the secret, if there is one, in which they were cut off.
    pub(crate) fn without_cut<'a>(&self, bytes: &'a [u8]) -> &'a [u8] {
        let beginning = |secret: &String| {
            let mut lengths = (SECRET_BYTES_MIN..secret.len()).rev();
            lengths.find(|&length| bytes.ends_with(&secret.as_bytes()[..length]))
        };
        let cut = self.0.iter().filter_map(beginning).max().unwrap_or(0);
        &bytes[..bytes.len() - cut]
    }

    /// The first bytes of a text from outside, without secrets and control characters.
    pub(crate) fn shown(&self, bytes: &[u8]) -> String {
        let mut text = String::from_utf8_lossy(bytes).into_owned();
        for secret in &self.0 {
            if text.contains(secret.as_str()) {
                text = text.replace(secret.as_str(), "[secret]");
            }
        }
        let head = String::from_utf8_lossy(&text.as_bytes()[..text.len().min(ANSWER_BYTES_SHOWN)]);
        let text: String = head.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        text.trim().to_owned()
    }
}
