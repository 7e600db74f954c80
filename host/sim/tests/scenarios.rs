//! Hosts by the book: each file in `scenarios/` says what happens and what comes of it. `MARRAM_SCENARIOS=write` writes anew what
//! comes of each; the difference is for a reader to judge.

use std::{env, fs, path::Path};

#[test]
fn each_scenario_comes_out_as_it_is_written() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios");
    let mut files: Vec<_> =
        fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("a file").path()).collect();
    files.sort();
    assert!(files.len() >= 5, "{files:?}");
    for file in files {
        let text = fs::read_to_string(&file).expect("a text");
        let play = || marram_sim::play(&text).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        if env::var("MARRAM_SCENARIOS").is_ok_and(|word| word == "write") {
            fs::write(&file, play()).expect("a folder to write to");
            continue;
        }
        // What comes out differently now and then depends on chance, and is shown here rather than on another machine.
        for _ in 0..6 {
            assert_eq!(play(), text, "{}", file.display());
        }
    }
}
