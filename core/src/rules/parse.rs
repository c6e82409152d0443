//! Reads rules. What is refused is refused with its place, and with what to write instead.

use super::scan::{RuleError, Scanner, Text, shown};
use super::{Comparison, Condition, Number, Pattern, RULES_MAX, Rule, Test};
use crate::SpanKind;
use crate::settings::{RATE_LIMIT_MAX, RootSampler};

const ARROW: &str = "->";
const SAMPLERS: &str = "always, never, ratio:0.1, every_nth:10 or rate_limit:5";
const KINDS: [(&str, SpanKind); 5] = [
    ("internal", SpanKind::Internal),
    ("server", SpanKind::Server),
    ("client", SpanKind::Client),
    ("producer", SpanKind::Producer),
    ("consumer", SpanKind::Consumer),
];
/// Words before `=` that are no attributes, unless they stand in quotes.
const WORDS: [&str; 3] = ["name", "scope", "kind"];
const LENGTH: &str = ".length";

/// The name of a kind in rules; spans here have no unspecified one.
pub(super) fn kind_name(kind: SpanKind) -> &'static str {
    KINDS.iter().find(|(_, known)| *known == kind).map_or("internal", |(name, _)| name)
}

/// Whether a key says the same without quotes.
pub(super) fn is_key_plain(key: &str) -> bool {
    !WORDS.contains(&key) && !key.ends_with(LENGTH)
}

/// The rules of a text.
///
/// # Errors
///
/// The first thing that is wrong.
pub(super) fn rules(text: &str) -> Result<Vec<Rule>, RuleError> {
    let mut scanner = Scanner::new(text);
    let mut rules = Vec::new();
    loop {
        scanner.skip_blanks();
        if scanner.take(";") {
            continue;
        }
        if scanner.is_at_end() {
            return Ok(rules);
        }
        scanner.begin_rule(rules.len() + 1);
        if rules.len() == RULES_MAX {
            let message =
                format!("there may be {RULES_MAX} rules: take some out, or join them with *");
            return Err(scanner.error(scanner.at(), message));
        }
        rules.push(rule(&mut scanner)?);
    }
}

fn rule(scanner: &mut Scanner<'_>) -> Result<Rule, RuleError> {
    let mut conditions = Vec::new();
    while !scanner.is_at(ARROW) {
        conditions.extend(condition(scanner)?);
        scanner.skip_blanks();
        if !scanner.take(",") {
            break;
        }
        scanner.skip_blanks();
    }
    if !scanner.take(ARROW) {
        let message = format!("here the sampler is missing: write -> and {SAMPLERS}");
        return Err(scanner.error(scanner.at(), message));
    }
    let text = scanner.text(&[";"])?;
    let sampler = sampler(&text).map_err(|message| scanner.error(text.at, message))?;
    Ok(Rule { conditions: conditions.into(), sampler })
}

fn sampler(text: &Text) -> Result<RootSampler, String> {
    let plain = text.plain();
    let (name, argument) = plain.split_once(':').unwrap_or((&plain, ""));
    let argument = argument.trim();
    let number = argument.parse::<f64>().ok();
    match name.trim_end() {
        "always" if argument.is_empty() => Ok(RootSampler::AlwaysOn),
        "never" if argument.is_empty() => Ok(RootSampler::AlwaysOff),
        "ratio" => match number.filter(|ratio| (0.0..=1.0).contains(ratio)) {
            Some(ratio) => Ok(RootSampler::TraceIdRatio(ratio.abs())),
            None => Err("ratio takes a number from 0 to 1: write ratio:0.1 for a tenth".to_owned()),
        },
        "every_nth" => match argument.parse().ok().filter(|n| *n >= 1) {
            Some(n) => Ok(RootSampler::EveryNth(n)),
            None => Err("every_nth takes a whole number from 1: write every_nth:10".to_owned()),
        },
        "rate_limit" => match number.filter(|rate| *rate > 0.0 && *rate <= RATE_LIMIT_MAX) {
            Some(rate) => Ok(RootSampler::RateLimit(rate)),
            None => Err(format!(
                "rate_limit takes spans a second, above 0 and at most {RATE_LIMIT_MAX}: write rate_limit:5"
            )),
        },
        _ => Err(format!("{} is no sampler: write {SAMPLERS}", shown(&plain))),
    }
}

/// How a condition may go on behind its key. The longer ones come first.
const OPERATORS: [(&str, Operator); 6] = [
    ("^=", Operator::Begins),
    (">=", Operator::Compares(Comparison::AtLeast)),
    ("<=", Operator::Compares(Comparison::AtMost)),
    ("=", Operator::Is),
    (">", Operator::Compares(Comparison::More)),
    ("<", Operator::Compares(Comparison::Less)),
];

#[derive(Clone, Copy, PartialEq)]
enum Operator {
    Is,
    Begins,
    Compares(Comparison),
}

/// A condition; `None` for one that always holds.
fn condition(scanner: &mut Scanner<'_>) -> Result<Option<Condition>, RuleError> {
    let mut key = scanner.text(&[ARROW, ",", ";", "^=", ">=", "<=", "=", ">", "<"])?;
    if key.is_missing() {
        let message = "here a condition is missing: write a span's name, key=value, key^=beginning, key>=100, or * for any span";
        return Err(scanner.error(key.at, message));
    }
    let found = OPERATORS.iter().find(|(token, _)| scanner.take(token));
    let Some(&(token, operator)) = found else {
        let pattern = Pattern::new(&key);
        return Ok((!pattern.is_any()).then_some(Condition::Name(pattern)));
    };
    if let Some(word) = WORDS.iter().find(|word| key.is_word(word)) {
        if operator != Operator::Is {
            let message = format!(
                "{word} takes =, not {token}: write {word}={}",
                match *word {
                    "kind" => "server",
                    _ => "http*",
                }
            );
            return Err(scanner.error(key.at, message));
        }
        let value = value(scanner, token)?;
        return Ok(Some(match *word {
            "name" => Condition::Name(Pattern::new(&value)),
            "scope" => Condition::Scope(Pattern::new(&value)),
            _ => Condition::Kind(kind(scanner, &value)?),
        }));
    }
    if key.chars.contains(&('*', false)) {
        let message = "a key is taken as it is: write it without *, or in quotes if it has one";
        return Err(scanner.error(key.at, message));
    }
    let of_length = key.strip_suffix(LENGTH);
    if key.is_missing() {
        let message = "here the key is missing: write the attribute's, as in message.length>100";
        return Err(scanner.error(key.at, message));
    }
    let value = value(scanner, token)?;
    let test = match operator {
        Operator::Compares(how) if of_length => Test::Length(how, number(scanner, &value, token)?),
        Operator::Is if of_length => {
            Test::Length(Comparison::Equal, number(scanner, &value, token)?)
        }
        Operator::Begins if of_length => {
            let message =
                "a length is a number: write = or < or > before it, as in message.length>100";
            return Err(scanner.error(key.at, message));
        }
        Operator::Compares(how) => Test::Compares(how, number(scanner, &value, token)?),
        Operator::Is => Test::Is(Pattern::new(&value)),
        Operator::Begins => Test::Begins(value.plain().into()),
    };
    Ok(Some(Condition::Attribute { key: key.plain().into(), test }))
}

fn value(scanner: &mut Scanner<'_>, token: &str) -> Result<Text, RuleError> {
    let value = scanner.text(&[ARROW, ",", ";"])?;
    if value.is_missing() {
        let message =
            format!("here a value is missing behind {token}: write it, or \"\" for an empty one");
        return Err(scanner.error(value.at, message));
    }
    Ok(value)
}

fn kind(scanner: &Scanner<'_>, value: &Text) -> Result<SpanKind, RuleError> {
    let plain = value.plain();
    let found = KINDS.iter().find(|(name, _)| name.eq_ignore_ascii_case(&plain));
    found.map(|(_, kind)| *kind).ok_or_else(|| {
        let names = KINDS.map(|(name, _)| name).join(", ");
        scanner.error(value.at, format!("{} is no kind: write one of {names}", shown(&plain)))
    })
}

fn number(scanner: &Scanner<'_>, value: &Text, token: &str) -> Result<Number, RuleError> {
    let plain = value.plain();
    Number::parse(&plain).ok_or_else(|| {
        let message =
            format!("{} is no number: write one behind {token}, as in {token}100", shown(&plain));
        scanner.error(value.at, message)
    })
}
