//! Numbers in rules, and how attributes compare with them: exactly, whichever of the two is an integer.

use std::cmp::Ordering;
use std::fmt;

/// A number that is not NaN. One in a rule is finite, and an integer if it can be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Number {
    Int(i64),
    Double(f64),
}

impl Number {
    /// The number that a text says, if it is one.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        if let Ok(number) = text.parse() {
            return Some(Number::Int(number));
        }
        let number: f64 = text.parse().ok().filter(|number: &f64| number.is_finite())?;
        // Beyond these an i64 does not have the same value.
        let is_integer = number == number.trunc() && number.abs() < 9e18;
        Some(if is_integer { Number::Int(number as i64) } else { Number::Double(number) })
    }

    /// `None` if one is NaN.
    fn compare(self, with: Number) -> Option<Ordering> {
        match (self, with) {
            (Number::Int(a), Number::Int(b)) => Some(a.cmp(&b)),
            (Number::Double(a), Number::Double(b)) => a.partial_cmp(&b),
            (Number::Int(a), Number::Double(b)) => compare_mixed(a, b),
            (Number::Double(a), Number::Int(b)) => compare_mixed(b, a).map(Ordering::reverse),
        }
    }
}

fn compare_mixed(a: i64, b: f64) -> Option<Ordering> {
    const END: f64 = 9_223_372_036_854_775_808.0;
    if b.is_nan() {
        None
    } else if b >= END {
        Some(Ordering::Less)
    } else if b < -END {
        Some(Ordering::Greater)
    } else {
        // Its whole part is an i64 now, and what is behind the point decides where those are equal.
        Some(
            a.cmp(&(b as i64)).then_with(|| 0.0.partial_cmp(&b.fract()).unwrap_or(Ordering::Equal)),
        )
    }
}

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Number::Int(number) => write!(f, "{number}"),
            Number::Double(number) => write!(f, "{number:?}"),
        }
    }
}

/// How a value is to compare.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Comparison {
    Less,
    AtMost,
    Equal,
    AtLeast,
    More,
}

impl Comparison {
    pub(crate) fn holds(self, value: Number, with: Number) -> bool {
        let Some(order) = value.compare(with) else { return false };
        match self {
            Comparison::Less => order.is_lt(),
            Comparison::AtMost => order.is_le(),
            Comparison::Equal => order.is_eq(),
            Comparison::AtLeast => order.is_ge(),
            Comparison::More => order.is_gt(),
        }
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Comparison::Less => "<",
            Comparison::AtMost => "<=",
            Comparison::Equal => "=",
            Comparison::AtLeast => ">=",
            Comparison::More => ">",
        })
    }
}
