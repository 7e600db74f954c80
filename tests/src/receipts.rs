//! What a sender was told is accepted, by its own hand: `flood` of the guest `misbehaving` writes a line `RUN N SEQUENCE` for each.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use serde_json::Value;

use crate::journal::text;

/// Each message of the receipts came upstream from each of these modules. Returns how many receipts there are.
///
/// # Panics
/// One is missing, or there is no receipt.
#[track_caller]
#[must_use]
pub fn check(receipts: &Path, entries: &[Value], modules: &[&str]) -> usize {
    let (came, receipts) = (came(entries), read(receipts));
    for (run, n, _) in &receipts {
        for module in modules {
            let came = came.get(module).is_some_and(|came| came.contains(&(run.clone(), n.clone())));
            assert!(came, "message {n} of run {run} was accepted, and did not come from {module}");
        }
    }
    assert!(!receipts.is_empty(), "something was accepted");
    receipts.len()
}

/// Run and number of what came upstream, by the module that it came from.
#[must_use]
pub fn came(entries: &[Value]) -> BTreeMap<&str, BTreeSet<(String, String)>> {
    let mut came: BTreeMap<&str, BTreeSet<(String, String)>> = BTreeMap::new();
    for entry in entries {
        let module = text(entry, "/source").split('/').nth(3).unwrap_or_default();
        let property = |name: &str| entry["properties"][name].as_str().unwrap_or_default().to_owned();
        came.entry(module).or_default().insert((property("run"), property("n")));
    }
    came
}

/// Run, number and sequence of each receipt.
///
/// # Panics
/// There are none, or one is no receipt.
#[track_caller]
#[must_use]
pub fn read(receipts: &Path) -> Vec<(String, String, u64)> {
    let receipts = fs::read_to_string(receipts).expect("the receipts");
    // The last line may have broken off.
    let whole = receipts.rfind('\n').map_or("", |end| &receipts[..end]);
    let receipt = |line: &str| match line.split(' ').collect::<Vec<_>>()[..] {
        [run, n, sequence] => (run.to_owned(), n.to_owned(), sequence.parse().expect("a sequence")),
        _ => panic!("a receipt is {line:?}"),
    };
    whole.lines().map(receipt).collect()
}
