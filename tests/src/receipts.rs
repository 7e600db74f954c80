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
    let mut came: BTreeMap<&str, BTreeSet<(&str, &str)>> = BTreeMap::new();
    for entry in entries {
        let module = text(entry, "/source").split('/').nth(3).unwrap_or_default();
        let property = |name: &str| entry["properties"][name].as_str().unwrap_or_default();
        came.entry(module).or_default().insert((property("run"), property("n")));
    }
    let receipts = fs::read_to_string(receipts).expect("the receipts");
    // The last line may have broken off.
    let whole = receipts.rfind('\n').map_or("", |end| &receipts[..end]);
    for line in whole.lines() {
        let [run, n, _] = line.split(' ').collect::<Vec<_>>()[..] else { panic!("a receipt is {line:?}") };
        for module in modules {
            let came = came.get(module).is_some_and(|came| came.contains(&(run, n)));
            assert!(came, "message {n} of run {run} was accepted, and did not come from {module}");
        }
    }
    let count = whole.lines().count();
    assert!(count > 0, "something was accepted");
    count
}
