//! How the shared library is linked: its name to the linker, and that it stays loaded (threads and exit handlers call it).

fn main() {
    for argument in ["-Wl,-soname,libspanring.so.0", "-Wl,-z,nodelete"] {
        println!("cargo:rustc-cdylib-link-arg={argument}");
    }
    println!("cargo:rerun-if-changed=build.rs");
}
