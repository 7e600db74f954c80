//! Tells the binary which target it was built for; `marram version` shows it.

fn main() {
    let target = std::env::var("TARGET").unwrap_or_else(|_| "unknown".into());
    println!("cargo::rustc-env=MARRAM_TARGET={target}");
    println!("cargo::rerun-if-changed=build.rs");
}
