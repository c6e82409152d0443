//! The header is made from these files; it is checked in, and is what they say.

use std::path::Path;

const CONFIG: &str = r#"
language = "C"
cpp_compat = true
include_guard = "SPANRING_H"
documentation_style = "c99"
documentation_length = "full"
style = "type"
line_length = 100
usize_is_size_t = true
"#;

#[test]
fn the_header_is_what_the_code_says() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut config: cbindgen::Config = toml::from_str(CONFIG).expect("the configuration is right");
    config.header = Some(std::fs::read_to_string(root.join("src/header.txt")).unwrap());
    let mut builder = cbindgen::Builder::new().with_config(config);
    for file in ["error", "pipeline", "context", "span", "record", "stats", "subscription"] {
        builder = builder.with_src(root.join(format!("src/{file}.rs")));
    }
    let bindings = builder.generate().expect("the code can be read");
    let mut made = Vec::new();
    bindings.write(&mut made);
    let made = String::from_utf8(made).expect("it is text");
    let path = root.join("include/spanring.h");
    if std::env::var_os("UPDATE_HEADER").is_some() {
        std::fs::write(&path, &made).unwrap();
    }
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    for (number, (committed, made)) in committed.lines().zip(made.lines()).enumerate() {
        let advice = "run UPDATE_HEADER=1 cargo test -p spanring-ffi header";
        assert_eq!(committed, made, "line {} of spanring.h is old; {advice}", number + 1);
    }
    assert_eq!(committed.lines().count(), made.lines().count(), "spanring.h has another length");
}
