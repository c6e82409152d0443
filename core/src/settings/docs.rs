//! Renders `docs/settings.md` from the table, and checks the committed page against it. Part of
//! the tests only: a program has `Settings::explain`.

use super::choice::Preset;
use super::explain::with_unit;
use super::parse::{Dialect, Kind};
use super::row::{PREFIX, Row};
use super::table::TABLE;

const HEAD: &str = "\
# Settings

This page is rendered from the table in `core/src/settings/table.rs`; to change it, change the table and run
`UPDATE_DOCS=1 cargo test -p spanring settings`.

Each setting `X` has the environment variables `SPANRING_X` and `RAAF_TRACE_X`, in many cases one of
OpenTelemetry's, and a field and a builder method in Rust with the same name in lower case. `spanring config`
prints what is in force and where it came from.

The latest of these layers that has a valid value wins:

1. the default;
2. the preset, if one is chosen;
3. code (`SettingsBuilder`);
4. the environment, unless code called `ignore_environment`; among several variables of one setting
   `SPANRING_X` wins over `RAAF_TRACE_X`, that over OpenTelemetry's names, and those over others;
5. what changes while the program runs: the file that `CONFIG` names, and live calls. Of these the later one wins; the file is
   later only for settings about which it says something new.

An empty variable counts as unset. A value that cannot be used is reported once, with what is used instead, and
the next variable or lower layer decides. A variable that begins with `SPANRING_` and is not listed here is
reported with the nearest known name.

Durations are in seconds with up to nine decimals, in OpenTelemetry's variables in whole milliseconds. Bytes
are a plain number or one of KiB, MiB, GiB, TiB. A boolean is `true`, `1`, `yes`, `on` or `false`, `0`, `no`, `off`; in
OpenTelemetry's variables only `true` is true. Names are taken in any case. *Live* settings can change while
the engine runs.

";

const TAIL: &str = "
## The file

`CONFIG` names a TOML file with settings under their names in lower case:

```toml
sampler = \"parentbased_traceidratio\"
sampler_arg = 0.1
batch_size = 200
```

It is read when the pipeline starts, and again whenever it changes; what changed is in force for the next span. A file with anything wrong in it is
refused whole, with the line: the settings stay as they are. Of settings that are not *live*, a change counts from the next start, which is said. A
setting that is taken out of the file falls back to what code and environment say. To replace a file whole, write another one beside it and rename it.

## Samplers

| sampler | records | `SAMPLER_ARG` |
|---|---|---|
| `always_on` | every span | none |
| `always_off` | no span | none |
| `traceidratio` | a share of all traces, chosen by trace ID | 0 to 1; 1 if unset |
| `every_nth` | the first of every so many | 1 or more; 1 if unset |
| `rate_limit` | at most so many spans a second | above 0 to 1000000000; 100 if unset |

With `parentbased_` before its name a sampler decides for root spans only, and other spans do as their parent
did. An argument counts only if it comes from the same layer as the sampler or a later one: it was meant for
that sampler.

## Values that must fit together

`MAX_SPANS` spans of the smallest size (64 bytes) must fit in `MAX_BYTES`, `BATCH_SIZE` must not exceed
`MAX_SPANS`, nor `SEGMENT_MAX_BYTES` `RETENTION_BYTES`. What is too large is lowered. That is reported if somebody
had set it; a default is lowered silently, and `spanring config` shows by what. `OPENAI` without `OPENAI_API_KEY` is
off, and that is reported, too.
";

fn page() -> String {
    let mut page = String::from(HEAD);
    page.push_str("| setting | default | allowed | other names | live | what it does |\n");
    page.push_str("|---|---|---|---|---|---|\n");
    for row in TABLE {
        page.push_str(&format!(
            "| `{}` | {} | {} | {} | {} | {} |\n",
            row.suffix,
            default(row),
            allowed(row),
            other_names(row),
            if row.live { "yes" } else { "no" },
            row.description
        ));
    }
    page.push_str("\n## Presets\n\n| setting |");
    for preset in Preset::ALL {
        page.push_str(&format!(" `{preset}` |"));
    }
    page.push_str(&format!("\n|---|{}\n", "---|".repeat(Preset::ALL.len())));
    for row in TABLE.iter().filter(|row| !row.presets.is_empty()) {
        page.push_str(&format!("| `{}` |", row.suffix));
        for preset in Preset::ALL {
            let value = row.preset(*preset).and_then(|data| data.render());
            let text = value.map(|value| with_unit(&value, row.kind.unit())).unwrap_or_default();
            page.push_str(&format!(" {text} |"));
        }
        page.push('\n');
    }
    page.push_str(TAIL);
    page
}

fn default(row: &Row) -> String {
    match (row.default_text(), row.unset) {
        (Some(value), _) if !value.is_empty() => with_unit(&value, row.kind.unit()),
        (_, Some(meaning)) => meaning.to_owned(),
        _ => "none".to_owned(),
    }
}

fn allowed(row: &Row) -> String {
    match (row.kind, row.kind.unit()) {
        (Kind::Bytes { .. }, _) | (_, "") => row.allowed(),
        (_, unit) => format!("{} {unit}", row.kind.allowed()) + none(row),
    }
}

fn none(row: &Row) -> &'static str {
    if row.takes_none() { ", or none" } else { "" }
}

/// The names beside `SPANRING_X` and `RAAF_TRACE_X`, which follow from the suffix.
fn other_names(row: &Row) -> String {
    let names = row.names().skip(2).map(|name| {
        let unit = match (row.kind, name.dialect) {
            (Kind::Duration { .. }, Dialect::OpenTelemetry) => " (ms)",
            _ => "",
        };
        format!("`{}`{unit}", name.text)
    });
    names.collect::<Vec<_>>().join(", ")
}

#[test]
fn the_committed_page_is_what_the_table_says() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/settings.md");
    let page = page();
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, &page).expect("docs/settings.md can be written");
    }
    let advice = "run `UPDATE_DOCS=1 cargo test -p spanring settings` and commit docs/settings.md";
    let committed = std::fs::read_to_string(&path)
        .unwrap_or_else(|error| panic!("docs/settings.md cannot be read: {error}; {advice}"));
    for (number, (committed, rendered)) in committed.lines().zip(page.lines()).enumerate() {
        assert_eq!(committed, rendered, "line {} of docs/settings.md is old; {advice}", number + 1);
    }
    assert!(committed == page, "docs/settings.md is shorter or longer than it should be; {advice}");
}

#[test]
fn the_page_names_every_variable() {
    let page = page();
    for row in TABLE {
        assert!(page.contains(&format!("| `{}` |", row.suffix)), "{PREFIX}{}", row.suffix);
        for name in row.names().skip(2) {
            assert!(page.contains(&format!("`{}`", name.text)), "{}", name.text);
        }
    }
}
