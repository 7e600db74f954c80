//! `commit.power*`, `backlog.*`, `wear.*`: the message log by itself against a plain file that is appended to and synced, in
//! the same folder, by rounds in turn. 300-byte bodies, 10 endpoints with 3 priorities each: 30 queues.
//!
//! Times are wall-clock times, because most of them is waiting for the disk. The folder is Cargo's for temporary files of benches, or
//! `MARRAM_BENCH_DIR`. Prints a JSON line a figure: `{"name","value","unit","floor","ratio"}`.

mod backlog;
mod commit;
mod load;
mod wear;

use std::path::PathBuf;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let Some(place) = arguments.iter().position(|argument| argument == "--child") {
        backlog::child(&arguments[place + 1..]);
        return;
    }
    let names: Vec<String> = arguments.into_iter().filter(|argument| !argument.starts_with("--")).collect();
    let wanted = |figure: &str| names.is_empty() || names.iter().any(|name| figure.contains(name.as_str()));
    for (figure, group) in [("commit.power", 16), ("commit.power.1", 1), ("commit.power.256", 256)] {
        if wanted(figure) {
            commit::commit(figure, group);
        }
    }
    if ["backlog.fill", "backlog.reopen", "backlog.drain", "backlog.rss", "backlog.disk"].into_iter().any(wanted) {
        backlog::backlog();
    }
    if ["wear.trickle", "wear.steady", "wear.backlog", "wear.commit"].into_iter().any(wanted) {
        wear::wear();
    }
}

/// A fresh folder on a real disk.
fn folder() -> tempfile::TempDir {
    let parent = std::env::var_os("MARRAM_BENCH_DIR").map_or_else(|| env!("CARGO_TARGET_TMPDIR").into(), PathBuf::from);
    std::fs::create_dir_all(&parent).expect("a folder");
    tempfile::tempdir_in(parent).expect("a folder")
}
