mod faults;

use std::{collections::BTreeMap, fs};

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;

fn write(key: &str, value: Option<&str>) -> Write {
    let value = value.map(|value| Bytes::copy_from_slice(value.as_bytes()));
    Write { bucket: "b".into(), key: key.into(), value, only_if: None }
}

fn module(name: &str) -> ModuleName {
    ModuleName::new(name).unwrap()
}

fn folder(dir: &TempDir) -> StateFolder {
    StateFolder::open(dir.path().join("state")).unwrap()
}

/// The state of module `m` as a new start of the host finds it.
fn reopened(dir: &TempDir) -> Box<dyn State> {
    folder(dir).open(&module("m")).unwrap()
}

fn contents(state: &dyn State) -> BTreeMap<String, String> {
    let text = |value: Bytes| String::from_utf8(value.to_vec()).unwrap();
    let keys = state.keys("b", "", None, usize::MAX);
    keys.iter().map(|key| (key.to_string(), text(state.get("b", key).unwrap().unwrap()))).collect()
}

fn map(entries: &[(&str, &str)]) -> BTreeMap<String, String> {
    entries.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

fn file(dir: &TempDir) -> PathBuf {
    dir.path().join("state/m.log")
}

#[test]
fn what_was_written_is_there_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let mut state = reopened(&dir);
    assert!(!file(&dir).exists(), "no file for a module that keeps nothing");
    state.write(&[write("a", Some("1")), write("b", Some("2"))]).unwrap();
    state.write(&[write("a", Some("3")), write("c", Some(""))]).unwrap();
    state.write(&[write("b", None), write("never", None)]).unwrap();
    let expected = map(&[("a", "3"), ("c", "")]);
    assert_eq!(contents(&*state), expected);
    drop(state);
    let mut state = reopened(&dir);
    assert_eq!(contents(&*state), expected);
    state.write(&[write("d", Some("4"))]).unwrap();
    assert_eq!(contents(&*reopened(&dir)).len(), 3);
}

#[test]
fn modules_see_nothing_of_each_other_and_one_is_removed_alone() {
    let dir = tempfile::tempdir().unwrap();
    let states = folder(&dir);
    let (mut a, mut b) = (states.open(&module("a")).unwrap(), states.open(&module("b")).unwrap());
    a.write(&[write("k", Some("a"))]).unwrap();
    b.write(&[write("k", Some("b"))]).unwrap();
    assert_eq!((contents(&*a), contents(&*b)), (map(&[("k", "a")]), map(&[("k", "b")])));
    drop(a);
    states.remove(&module("a")).unwrap();
    states.remove(&module("never")).unwrap();
    assert!(contents(&*states.open(&module("a")).unwrap()).is_empty());
    assert_eq!(contents(&*states.open(&module("b")).unwrap()), map(&[("k", "b")]));
}

#[test]
fn the_owner_sees_what_is_kept_under_every_name_and_removes_it_wholly() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state");
    assert_eq!(kept_states(&path).unwrap(), []);
    let states = folder(&dir);
    let names = ["a", "Sensor.log", "b.log.c"];
    for name in names {
        states.open(&module(name)).unwrap().write(&[write("k", Some("v"))]).unwrap();
    }
    let kept = |path| kept_states(path).unwrap().into_iter().map(|kept| (kept.module, kept.bytes)).collect::<Vec<_>>();
    assert_eq!(kept(&path), [("Sensor.log".into(), 65_536), ("a".into(), 65_536), ("b.log.c".into(), 65_536)]);
    fs::write(path.join("a.log.damaged"), "1234").unwrap();
    assert_eq!(kept(&path)[1], ("a".into(), 65_540));
    for name in names {
        states.remove(&module(name)).unwrap();
    }
    assert_eq!(fs::read_dir(&path).unwrap().count(), 0);

    let long = module(&"L".repeat(120)); // its file's name is cut
    states.open(&long).unwrap().write(&[write("k", Some("v"))]).unwrap();
    let found = kept_states(&path).unwrap();
    assert!(found.len() == 1 && found[0].is_of(&long) && !found[0].is_of(&module("L")), "{found:?}");
}

#[test]
fn a_write_with_a_condition_happens_wholly_or_not_at_all() {
    let dir = tempfile::tempdir().unwrap();
    let mut state = reopened(&dir);
    let only_if = |key: &str, old: Option<&str>, new: &str| Write {
        only_if: Some(old.map(|old| Bytes::copy_from_slice(old.as_bytes()))),
        ..write(key, Some(new))
    };
    state.write(&[only_if("a", None, "1")]).unwrap();
    assert_eq!(state.write(&[only_if("a", None, "2")]), Err(StateError::Changed));
    assert_eq!(state.write(&[write("b", Some("x")), only_if("a", Some("0"), "2")]), Err(StateError::Changed));
    state.write(&[only_if("a", Some("1"), "2")]).unwrap();
    assert_eq!(contents(&*reopened(&dir)), map(&[("a", "2")]));
}

#[test]
fn a_file_that_ends_anywhere_holds_the_writes_that_were_whole() {
    let dir = tempfile::tempdir().unwrap();
    let mut state = reopened(&dir);
    let mut after = vec![(record::HEADER.len(), map(&[]))];
    for n in 0..6 {
        let (key, value) = (format!("k{}", n % 3), format!("value {n}"));
        state.write(&[write(&key, Some(&value)), write("last", Some(&value))]).unwrap();
        let bytes = fs::read(file(&dir)).unwrap();
        let end = bytes.iter().rposition(|byte| *byte != 0).unwrap() + 1;
        after.push((end, contents(&*state)));
    }
    drop(state);
    let whole = fs::read(file(&dir)).unwrap();
    for cut in 0..=after[6].0 {
        fs::write(file(&dir), &whole[..cut]).unwrap();
        let expected = after.iter().rev().find(|(end, _)| *end <= cut).map(|(_, contents)| contents.clone());
        let mut state = reopened(&dir);
        assert_eq!(contents(&*state), expected.unwrap_or_default(), "cut at {cut}");
        state.write(&[write("next", Some("x"))]).unwrap();
        drop(state);
        assert_eq!(contents(&*reopened(&dir))["next"], "x", "goes on after a cut at {cut}");
    }
}

#[test]
fn a_damaged_byte_costs_at_most_its_record_and_never_gives_wrong_data() {
    let dir = tempfile::tempdir().unwrap();
    let mut state = reopened(&dir);
    for n in 0..8 {
        state.write(&[write(&format!("k{n}"), Some(&format!("value {n}")))]).unwrap();
    }
    let all = contents(&*state);
    drop(state);
    let whole = fs::read(file(&dir)).unwrap();
    let end = whole.iter().rposition(|byte| *byte != 0).unwrap() + 1;
    for at in 0..end {
        let mut bytes = whole.clone();
        bytes[at] ^= 0xff;
        fs::write(file(&dir), &bytes).unwrap();
        let mut state = reopened(&dir);
        let found = contents(&*state);
        assert!(found.len() >= 7, "byte {at}: {found:?}");
        assert!(found.iter().all(|(key, value)| all[key] == *value), "byte {at}: {found:?}");
        // The next write puts a clean file in place; what was found is kept beside it.
        state.write(&[write("next", Some("x"))]).unwrap();
        drop(state);
        assert_eq!(contents(&*reopened(&dir)).len(), found.len() + 1, "byte {at}");
    }
    assert_eq!(fs::read(dir.path().join("state/m.log.damaged")).unwrap().len(), whole.len());
}

#[test]
fn a_state_of_another_version_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let states = folder(&dir);
    fs::write(file(&dir), b"marram state 2\n\0 something").unwrap();
    let error = states.open(&module("m")).err().unwrap().to_string();
    assert!(error.contains("m.log") && error.contains("another version of marram"), "{error}");
    assert_eq!(fs::read(file(&dir)).unwrap(), b"marram state 2\n\0 something");
}

#[test]
fn a_state_that_is_written_over_and_over_keeps_its_size() {
    let dir = tempfile::tempdir().unwrap();
    let mut state = reopened(&dir);
    state.write(&[write("kept", Some("for ever"))]).unwrap();
    for n in 0..300 {
        state.write(&[write("mark", Some(&format!("{n:2000}")))]).unwrap();
        assert!(fs::metadata(file(&dir)).unwrap().len() <= SLACK_BYTES + 80_000, "after {n}");
    }
    drop(state);
    assert_eq!(contents(&*reopened(&dir)), map(&[("kept", "for ever"), ("mark", &format!("{:2000}", 299))]));
}

#[test]
fn a_write_that_fails_has_not_happened_and_the_next_one_can() {
    let dir = tempfile::tempdir().unwrap();
    let mut state = reopened(&dir);
    // A folder in the place of the new file: it cannot be made.
    fs::create_dir(dir.path().join("state/m.log.tmp")).unwrap();
    let error = state.write(&[write("a", Some("1"))]).unwrap_err().to_string();
    assert!(error.contains("cannot write the module's state") && error.contains("m.log"), "{error}");
    assert!(contents(&*state).is_empty());
    fs::remove_dir(dir.path().join("state/m.log.tmp")).unwrap();
    state.write(&[write("a", Some("1"))]).unwrap();
    assert_eq!(contents(&*reopened(&dir)), map(&[("a", "1")]));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn a_state_is_what_a_map_would_be_over_restarts(
        ops in prop::collection::vec(prop_oneof![
            6 => prop::collection::vec((0..8_u8, prop::option::of("[a-z]{0,40}")), 1..4).prop_map(Some),
            1 => Just(None),
        ], 0..30)
    ) {
        let dir = tempfile::tempdir().unwrap();
        let (mut state, mut model) = (reopened(&dir), BTreeMap::new());
        for op in ops {
            let Some(writes) = op else {
                drop(state);
                state = reopened(&dir);
                continue;
            };
            let writes: Vec<Write> =
                writes.iter().map(|(key, value)| write(&key.to_string(), value.as_deref())).collect();
            state.write(&writes).unwrap();
            for write in &writes {
                match &write.value {
                    Some(value) => model.insert(write.key.to_string(), String::from_utf8(value.to_vec()).unwrap()),
                    None => model.remove(&*write.key),
                };
            }
            prop_assert_eq!(&contents(&*state), &model);
        }
    }
}

#[test]
fn a_damaged_file_that_is_all_likely_beginnings_is_given_up_in_bounded_time() {
    let dir = tempfile::tempdir().unwrap();
    reopened(&dir).write(&[write("a", Some("1"))]).unwrap();
    let mut bytes = fs::read(file(&dir)).unwrap();
    // Each fourth byte begins what could be a record of 100 kB: without a bound, 25 GB would be hashed.
    bytes.extend(100_000_u32.to_le_bytes().repeat(250_000));
    fs::write(file(&dir), bytes).unwrap();
    assert_eq!(contents(&*reopened(&dir)), map(&[("a", "1")]), "what is whole is kept");
}
