//! Writes the log that `corpus/log` speaks of anew, because its format has changed. The inputs stay what they are: changes
//! of these files.

#![allow(clippy::unwrap_used)] // a tool for authors

use std::{fs, path::Path};

fn main() {
    let kept = Path::new(env!("CARGO_MANIFEST_DIR")).join("kept");
    let folder = kept.join("new");
    let _ = fs::remove_dir_all(&kept);
    fs::create_dir_all(&kept).unwrap();
    marram_fuzz::write_log(&folder);
    for entry in fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        // Room that is set aside is made anew.
        if path.extension().is_some_and(|extension| extension == "log") {
            fs::rename(&path, kept.join(path.file_name().unwrap())).unwrap();
        }
    }
    fs::remove_dir_all(&folder).unwrap();
}
