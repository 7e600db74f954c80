//! The promises of [`Folder`] on real files: what is read, what falls back, what is refused.

use std::{fs, os::unix::fs::PermissionsExt};

use super::*;

fn folder() -> (tempfile::TempDir, Folder) {
    let outer = tempfile::tempdir().unwrap();
    let folder = Folder::open(outer.path().join("documents")).unwrap();
    (outer, folder)
}

fn bytes_of(folder: &Folder, name: &str) -> Option<Vec<u8>> {
    folder.read(name).unwrap().map(|document| document.bytes)
}

#[test]
fn what_is_written_is_read_back_byte_for_byte_also_after_reopening() {
    let (_outer, folder) = folder();
    let odd = b" { \"a\" : 1.10,\r\n\t\"a\":\"\\u00e9\" }\n\n";
    for name in ["deployment", "twin-a%b:c=d@e+f~g.h", "twin-A", "twin-a", "..", &"X".repeat(160)] {
        assert_eq!(folder.read(name).unwrap(), None);
        folder.write(name, odd).unwrap();
        let again = Folder::open(&folder.path).unwrap();
        assert_eq!(again.read(name).unwrap(), Some(StoredDocument { bytes: odd.to_vec(), recovered: None }));
    }
}

#[test]
fn names_of_documents_are_listed_by_what_they_begin_with() {
    let (_outer, folder) = folder();
    for name in ["deployment", "deployment-1a", "deployment-2b", "deployment-A", "twin-a", "deployment-2b"] {
        folder.write(name, b"1").unwrap();
    }
    folder.write("deployment-2b", b"2").unwrap();
    fs::remove_file(folder.path.join("deployment-2b.json")).unwrap();
    fs::write(folder.path.join("deployment-3c.json.tmp"), b"").unwrap();
    assert_eq!(folder.names("deployment-").unwrap(), ["deployment-1a", "deployment-2b"]);
    assert_eq!(folder.names("none").unwrap(), [""; 0]);
}

#[test]
fn names_that_differ_in_case_are_two_documents() {
    let (_outer, folder) = folder();
    folder.write("twin-Temp", b"1").unwrap();
    folder.write("twin-temp", b"2").unwrap();
    assert_eq!(bytes_of(&folder, "twin-Temp"), Some(b"1".to_vec()));
    assert_eq!(bytes_of(&folder, "twin-temp"), Some(b"2".to_vec()));
}

#[test]
fn files_and_folder_are_for_their_owner_only() {
    let (_outer, folder) = folder();
    folder.write("deployment", b"{}").unwrap();
    let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&folder.path), 0o700);
    assert_eq!(mode(&folder.path.join("deployment.json")), 0o600);
}

#[test]
fn a_name_with_a_path_in_it_is_refused_by_every_call() {
    let (outer, folder) = folder();
    for bad in ["../escape", "a/b", "/etc/x", ""] {
        assert!(folder.write(bad, b"{}").is_err(), "{bad}");
        assert!(folder.read(bad).is_err(), "{bad}");
        assert!(folder.remove(bad).is_err(), "{bad}");
    }
    assert_eq!(fs::read_dir(outer.path()).unwrap().count(), 1);
}

#[test]
fn what_is_not_json_or_too_large_is_refused_and_the_old_one_stays() {
    let (_outer, folder) = folder();
    folder.write("deployment", b"{\"v\":1}").unwrap();
    let large = format!("\"{}\"", "x".repeat(MAX_DOCUMENT_BYTES));
    for bad in [&b"{"[..], b"", b"{} {}", b"\"\xff\"", large.as_bytes()] {
        assert!(folder.write("deployment", bad).is_err());
    }
    assert_eq!(folder.read("deployment").unwrap().unwrap().recovered, None);
    assert_eq!(bytes_of(&folder, "deployment"), Some(b"{\"v\":1}".to_vec()));
}

#[test]
fn the_largest_document_can_be_written_and_read() {
    let (_outer, folder) = folder();
    let largest = format!("\"{}\"", "x".repeat(MAX_DOCUMENT_BYTES - 2));
    folder.write(&"n".repeat(160), largest.as_bytes()).unwrap();
    assert_eq!(bytes_of(&folder, &"n".repeat(160)), Some(largest.into_bytes()));
}

#[test]
fn a_damaged_newest_falls_back_and_says_so() {
    let (_outer, folder) = folder();
    folder.write("deployment", b"1").unwrap();
    folder.write("deployment", b"2").unwrap();
    let newest = folder.path.join("deployment.json");
    let good = fs::read(&newest).unwrap();
    for at in 0..good.len() {
        let mut bytes = good.clone();
        bytes[at] ^= 0x20;
        fs::write(&newest, &bytes).unwrap();
        let read = folder.read("deployment").unwrap().unwrap();
        assert_eq!(read.bytes, b"1", "byte {at}");
        assert!(read.recovered.unwrap().contains("deployment.json"), "byte {at}");
    }
}

#[test]
fn a_flipped_byte_in_the_previous_generation_changes_nothing() {
    let (_outer, folder) = folder();
    folder.write("deployment", b"1").unwrap();
    folder.write("deployment", b"2").unwrap();
    let previous = folder.path.join("deployment.json.1");
    let good = fs::read(&previous).unwrap();
    for at in 0..good.len() {
        let mut bytes = good.clone();
        bytes[at] ^= 0x01;
        fs::write(&previous, &bytes).unwrap();
        assert_eq!(folder.read("deployment").unwrap(), Some(StoredDocument { bytes: b"2".to_vec(), recovered: None }));
    }
}

#[test]
fn a_write_over_a_damaged_newest_keeps_the_good_previous_one() {
    let (_outer, folder) = folder();
    folder.write("deployment", b"1").unwrap();
    folder.write("deployment", b"2").unwrap();
    fs::write(folder.path.join("deployment.json"), b"rubbish").unwrap();
    folder.write("deployment", b"3").unwrap();
    assert_eq!(folder.read("deployment").unwrap(), Some(StoredDocument { bytes: b"3".to_vec(), recovered: None }));
    fs::write(folder.path.join("deployment.json"), b"rubbish").unwrap();
    assert_eq!(bytes_of(&folder, "deployment"), Some(b"1".to_vec()));
}

#[test]
fn two_damaged_generations_are_an_error_that_names_both_files() {
    let (_outer, folder) = folder();
    folder.write("deployment", b"1").unwrap();
    folder.write("deployment", b"2").unwrap();
    fs::write(folder.path.join("deployment.json"), b"rubbish").unwrap();
    fs::write(folder.path.join("deployment.json.1"), b"").unwrap();
    let error = folder.read("deployment").unwrap_err().to_string();
    assert!(error.contains("/deployment.json:") && error.contains("/deployment.json.1:"), "{error}");
    // And the way out of it works.
    folder.write("deployment", b"3").unwrap();
    assert_eq!(bytes_of(&folder, "deployment"), Some(b"3".to_vec()));
}

#[test]
fn a_huge_or_misplaced_file_is_damage_and_not_read_whole() {
    let (_outer, folder) = folder();
    folder.write("deployment", b"1").unwrap();
    folder.write("deployment", b"2").unwrap();
    let newest = folder.path.join("deployment.json");
    fs::File::create(&newest).unwrap().set_len(1 << 40).unwrap();
    assert!(folder.read("deployment").unwrap().unwrap().recovered.unwrap().contains("larger"));
    fs::remove_file(&newest).unwrap();
    fs::create_dir(&newest).unwrap();
    assert_eq!(bytes_of(&folder, "deployment"), Some(b"1".to_vec()));
}

#[test]
fn an_unfinished_write_is_removed_at_open_and_nothing_else_is() {
    let (_outer, folder) = folder();
    folder.write("deployment", b"1").unwrap();
    fs::write(folder.path.join("deployment.json.tmp"), b"{\"na").unwrap();
    fs::write(folder.path.join("notes.txt"), b"mine").unwrap();
    let again = Folder::open(&folder.path).unwrap();
    assert!(!folder.path.join("deployment.json.tmp").exists());
    assert!(folder.path.join("notes.txt").exists());
    assert_eq!(bytes_of(&again, "deployment"), Some(b"1".to_vec()));
}

#[test]
fn a_removed_document_is_gone_with_all_its_files() {
    let (_outer, folder) = folder();
    folder.write("twin-a", b"1").unwrap();
    folder.write("twin-a", b"2").unwrap();
    folder.remove("twin-a").unwrap();
    folder.remove("twin-a").unwrap();
    assert_eq!(folder.read("twin-a").unwrap(), None);
    assert_eq!(fs::read_dir(&folder.path).unwrap().count(), 0);
}

#[test]
fn writers_and_readers_in_many_threads_always_see_a_whole_document() {
    let (_outer, folder) = folder();
    folder.write("twin-a", b"0").unwrap();
    std::thread::scope(|scope| {
        for writer in 1..=4 {
            let folder = &folder;
            scope.spawn(move || {
                for round in 0..10 {
                    folder.write("twin-a", format!("{}", writer * 100 + round).as_bytes()).unwrap();
                    assert_eq!(folder.read("twin-a").unwrap().unwrap().recovered, None);
                }
            });
        }
    });
}

mod faults;
