//! Exists because `links` needs a build script. Two versions of spanring in one program would be
//! two engines, each with its own rings and its own counts; `links` makes cargo refuse that.
fn main() {
    println!("cargo::rerun-if-changed=build.rs");
}
