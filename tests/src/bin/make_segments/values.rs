//! Attribute values at the edges, and any at all.

use bytes::Bytes;
use spanring::{DEPTH_MAX, Value};

/// Longer than the value that any encoder might keep in one piece.
pub(crate) const LARGE_BYTES: usize = 150_000;

/// Strings that are easily got wrong.
pub(crate) const STRINGS: [&str; 16] = [
    "",
    " ",
    "a",
    "postgresql",
    "0123456789abcdef0123456789abcdef",
    "\0",
    "line one\nline two\r\n\ttab",
    "quotes \" ' \\ / and \u{7f} \u{1f} \u{2028}",
    "grüße",
    "日本語テキスト",
    "🦀👩‍👩‍👧‍👦",
    "עברית ו-عربي",
    "e\u{301} is not \u{e9}",
    "\u{feff}mark",
    "\u{10ffff}\u{e000}\u{d7ff}",
    "SELECT id, name FROM users WHERE id = 00000000000000017",
];

/// Integers around each power of two that a variable-length code may change at.
pub(crate) fn integers() -> Vec<i64> {
    let mut integers = vec![0, i64::MIN, i64::MIN + 1, i64::MAX - 1, i64::MAX];
    for bits in 0..63 {
        let power = 1_i64 << bits;
        integers.extend([power - 1, power, power + 1, -power - 1, -power, 1 - power]);
    }
    integers
}

/// Doubles of every class.
pub(crate) const DOUBLES: [f64; 16] = [
    0.0,
    -0.0,
    1.0,
    -1.5,
    0.1,
    1.0 / 3.0,
    1e-7,
    1e21,
    9_007_199_254_740_993.0,
    f64::MIN_POSITIVE,
    5e-324,
    f64::MAX,
    f64::MIN,
    f64::INFINITY,
    f64::NEG_INFINITY,
    f64::NAN,
];

/// A string of `bytes` bytes (or one less) that neither repeats nor compresses well.
pub(crate) fn large_string(bytes: usize) -> String {
    let mut random = Random::new(bytes as u64);
    let mut text = String::with_capacity(bytes);
    while text.len() + 2 <= bytes {
        let point = 0x21 + random.below(0x500) as u32;
        text.push(char::from_u32(point).unwrap_or('?'));
    }
    text
}

/// One value of every kind, and of every shape that matters.
pub(crate) fn all() -> Vec<Value> {
    let mut all = vec![Value::Null, Value::Bool(false), Value::Bool(true)];
    all.extend([0, -1, i64::MIN, i64::MAX].map(Value::Int));
    all.extend(DOUBLES.map(Value::Double));
    all.extend(STRINGS.map(Value::from));
    all.extend([
        Value::Bytes(Bytes::new()),
        Value::Bytes((0..=255).collect()),
        Value::Array(Vec::new()),
        Value::Map(Vec::new()),
        Value::Array(vec![Value::Null]),
        Value::Array(vec![1.into(), 2.into(), i64::MIN.into()]),
        Value::Array(vec!["a".into(), "".into(), "a".into()]),
        Value::Array(vec![true.into(), 1.into(), 1.0.into(), "1".into(), Value::Null]),
        Value::Array(vec![Value::Array(vec![]), Value::Array(vec![Value::Array(vec![7.into()])])]),
        map([("", "".into()), ("key", 1.into()), ("key", "twice".into())]),
        map([("outer", map([("inner", Value::Array(vec![map([("key", Value::Null)])]))]))]),
    ]);
    all
}

/// `depth` arrays and maps, one in the other, with an integer in the innermost.
pub(crate) fn nested(depth: u32) -> Value {
    (0..depth).fold(Value::Int(1), |inner, level| match level % 2 {
        0 => Value::Array(vec![inner]),
        _ => map([("level", inner)]),
    })
}

/// As deep as values may nest.
pub(crate) fn deepest() -> Value {
    nested(DEPTH_MAX)
}

fn map<const N: usize>(entries: [(&str, Value); N]) -> Value {
    Value::Map(entries.into_iter().map(|(key, value)| (key.to_owned(), value)).collect())
}

/// A stream of numbers that is the same for the same seed (splitmix64, by Steele, Lea and Flood).
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Random(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    /// A number below `end`, which is not zero.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    /// True once in `count` times.
    pub(crate) fn one_in(&mut self, count: usize) -> bool {
        self.below(count) == 0
    }

    pub(crate) fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }

    /// A number of any magnitude, small ones as likely as large ones.
    pub(crate) fn magnitude(&mut self) -> u64 {
        self.next() >> self.below(64)
    }

    /// A string: a known one, one of a few, or a new one.
    pub(crate) fn text(&mut self) -> String {
        match self.below(4) {
            0 => (*self.pick(&STRINGS)).to_owned(),
            1 => format!("value-{}", self.below(20)),
            2 => format!("{:x}", self.next()),
            _ => (*self.pick(&["GET", "POST", "/users/{id}"])).to_owned(),
        }
    }

    /// Any value, with at most `depth` levels of arrays and maps.
    pub(crate) fn value(&mut self, depth: u32) -> Value {
        let kinds = if depth == 0 { 6 } else { 8 };
        match self.below(kinds) {
            0 => Value::Null,
            1 => Value::Bool(self.one_in(2)),
            2 if self.one_in(2) => Value::Int(self.magnitude() as i64),
            2 => Value::Int((self.magnitude() as i64).wrapping_neg()),
            3 if self.one_in(2) => Value::Double(*self.pick(&DOUBLES)),
            3 => Value::Double(f64::from_bits(self.next())),
            4 => Value::Str(self.text()),
            5 => {
                let bytes = self.below(40);
                Value::Bytes((0..bytes).map(|_| self.next() as u8).collect())
            }
            6 => {
                let items = self.below(4);
                Value::Array((0..items).map(|_| self.value(depth - 1)).collect())
            }
            _ => {
                let entries = self.below(4);
                let entry = |_| (self.text(), self.value(depth - 1));
                Value::Map((0..entries).map(entry).collect())
            }
        }
    }
}
