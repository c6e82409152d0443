//! Carriers: how the headers of a request, whatever holds them, are read and written.
//!
//! Header names are compared without regard to ASCII case, as HTTP demands, and are written in lower
//! case. Writing replaces every header of that name: two traceparents would be none to a receiver.

use std::collections::HashMap;
use std::hash::BuildHasher;

/// Reads headers.
pub trait Extractor {
    /// The value of the first header called `name`, in any case.
    fn get(&self, name: &str) -> Option<&str>;

    /// The values of all headers called `name`, in their order. Carriers in which a name can stand
    /// more than once override it; the default knows one.
    fn get_all(&self, name: &str) -> Vec<&str> {
        self.get(name).into_iter().collect()
    }
}

/// Writes headers.
pub trait Injector {
    /// Sets the header called `name`, which is in lower case, to `value`, in place of what was there.
    fn set(&mut self, name: &str, value: String);
}

impl<K: AsRef<str>, V: AsRef<str>> Extractor for [(K, V)] {
    fn get(&self, name: &str) -> Option<&str> {
        self.iter().find(|(key, _)| is_name(key, name)).map(|(_, value)| value.as_ref())
    }

    fn get_all(&self, name: &str) -> Vec<&str> {
        self.iter().filter(|(key, _)| is_name(key, name)).map(|(_, value)| value.as_ref()).collect()
    }
}

impl<K: AsRef<str>, V: AsRef<str>> Extractor for Vec<(K, V)> {
    fn get(&self, name: &str) -> Option<&str> {
        Extractor::get(self.as_slice(), name)
    }

    fn get_all(&self, name: &str) -> Vec<&str> {
        self.as_slice().get_all(name)
    }
}

impl Injector for Vec<(String, String)> {
    fn set(&mut self, name: &str, value: String) {
        self.retain(|(key, _)| !is_name(key, name));
        self.push((name.to_owned(), value));
    }
}

impl<S: BuildHasher> Extractor for HashMap<String, String, S> {
    fn get(&self, name: &str) -> Option<&str> {
        // The usual spelling costs one look-up; any other costs a walk, in an order that is stable.
        let value = HashMap::get(self, name).map(String::as_str);
        value.or_else(|| self.get_all(name).first().copied())
    }

    /// Spellings that differ only in case come in the order of their bytes: the map has none.
    fn get_all(&self, name: &str) -> Vec<&str> {
        let mut found: Vec<_> = self.iter().filter(|(key, _)| is_name(key, name)).collect();
        found.sort_unstable_by_key(|(key, _)| *key);
        found.into_iter().map(|(_, value)| value.as_str()).collect()
    }
}

impl<S: BuildHasher> Injector for HashMap<String, String, S> {
    fn set(&mut self, name: &str, value: String) {
        self.retain(|key, _| !is_name(key, name));
        self.insert(name.to_owned(), value);
    }
}

fn is_name(key: impl AsRef<str>, name: &str) -> bool {
    key.as_ref().eq_ignore_ascii_case(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_in_any_case_and_no_other_name_is() {
        let pairs = [("TraceParent", "1"), ("trace-parent", "2"), ("TRACEPARENT", "3")];
        assert_eq!(Extractor::get(&pairs[..], "traceparent"), Some("1"));
        assert_eq!(pairs[..].get_all("traceparent"), ["1", "3"]);
        assert_eq!(Extractor::get(&pairs[..], "tracestate"), None);
        let map: HashMap<String, String> =
            pairs.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
        assert_eq!(Extractor::get(&map, "traceparent"), Some("3"));
        assert_eq!(map.get_all("traceparent"), ["3", "1"]);
        assert_eq!(Extractor::get(&map, "trace.parent"), None);
    }

    #[test]
    fn a_carrier_that_knows_one_value_a_name_gives_that() {
        struct One;
        impl Extractor for One {
            fn get(&self, name: &str) -> Option<&str> {
                (name == "a").then_some("1")
            }
        }
        assert_eq!(One.get_all("a"), ["1"]);
        assert!(One.get_all("b").is_empty());
    }

    #[test]
    fn setting_replaces_every_spelling_and_leaves_other_headers() {
        let old = [("Baggage", "a=1"), ("host", "h"), ("BAGGAGE", "b=2")];
        let owned = || old.iter().map(|(k, v)| (k.to_string(), v.to_string()));
        let mut pairs: Vec<_> = owned().collect();
        pairs.set("baggage", "c=3".to_owned());
        assert_eq!(pairs.get_all("baggage"), ["c=3"]);
        assert_eq!(pairs.len(), 2);
        let mut map: HashMap<_, _> = owned().collect();
        map.set("baggage", "c=3".to_owned());
        assert_eq!(map.get_all("baggage"), ["c=3"]);
        assert_eq!(map.len(), 2);
    }
}
