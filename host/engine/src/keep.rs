//! What the folder of compiled code holds, and how an entry leaves it. Which ones leave is decided elsewhere
//! (`marram_core::cache`). The code that is loaded or being made stays, whatever is asked.

use std::{collections::BTreeMap, fs, io, path::Path, sync::PoisonError};

use marram_core::ports::{BoxFuture, CacheError, CodeCache, KeptCode};

use crate::{
    cache::{Cache, absent_as_none},
    engine::{Shared, WasmEngine},
};

/// Digits of a component's digest at the beginning of an entry's name.
const DIGITS: usize = 64;

impl CodeCache for WasmEngine {
    fn code(&self) -> BoxFuture<'_, Result<Vec<KeptCode>, CacheError>> {
        let shared = self.0.clone();
        in_background(move || {
            let mut entries = shared.cache.list()?;
            for entry in &mut entries {
                entry.held = entry.usable && shared.is_held(digits(&entry.name));
            }
            Ok(entries)
        })
    }

    fn remove_code(&self, names: Vec<String>) -> BoxFuture<'_, Result<(), CacheError>> {
        let shared = self.0.clone();
        in_background(move || names.iter().try_for_each(|name| shared.remove(name)))
    }
}

fn in_background<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> BoxFuture<'static, Result<T, CacheError>> {
    Box::pin(async move {
        let done = tokio::task::spawn_blocking(work).await.unwrap_or_else(|panic| Err(io::Error::other(panic)));
        done.map_err(|error| CacheError(format!("compiled code: {error}")))
    })
}

impl Shared {
    /// Whether the code of this component (64 digits) is loaded, or somebody is about to.
    fn is_held(&self, component: &str) -> bool {
        let slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        slots.get(component).is_some_and(|slot| slot.try_lock().map_or(true, |loaded| loaded.strong_count() > 0))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        if !is_entry(name) {
            return Ok(());
        }
        // Whoever loads or compiles holds the lock of the slot; with it in our hands nobody does.
        let slot = self.slot(digits(name));
        let Ok(loaded) = slot.try_lock() else { return Ok(()) };
        if self.cache.is_usable(name) && loaded.strong_count() > 0 {
            return Ok(());
        }
        self.cache.remove(name)
    }
}

impl Cache {
    /// The entries. Those of other engines are no use here, but take their place.
    fn list(&self) -> io::Result<Vec<KeptCode>> {
        let mut bytes: BTreeMap<String, u64> = BTreeMap::new();
        for file in fs::read_dir(&self.folder)? {
            let file = file?;
            let name = file.file_name();
            let Some(stem) = Path::new(&name).file_stem().and_then(|stem| stem.to_str()) else { continue };
            let metadata = absent_as_none(file.metadata())?;
            if let Some(metadata) = metadata.filter(|metadata| metadata.is_file() && is_entry(stem)) {
                *bytes.entry(stem.to_owned()).or_default() += metadata.len();
            }
        }
        let entry = |(name, bytes): (String, u64)| KeptCode {
            component: format!("sha256:{}", digits(&name)),
            usable: self.is_usable(&name),
            held: false,
            name,
            bytes,
        };
        Ok(bytes.into_iter().map(entry).collect())
    }

    fn is_usable(&self, name: &str) -> bool {
        name.get(DIGITS + 1..) == Some(self.suffix.as_str())
    }

    /// The digest goes first: without it the code does not count.
    fn remove(&self, name: &str) -> io::Result<()> {
        for extension in ["sha256", "cwasm"] {
            absent_as_none(fs::remove_file(self.folder.join(format!("{name}.{extension}"))))?;
        }
        Ok(())
    }
}

/// `COMPONENT-ENGINE`, the component with 64 digits. Keeps foreign files, and foreign folders, out.
fn is_entry(name: &str) -> bool {
    let is_hex = |text: &str| text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    name.split_once('-').is_some_and(|(component, engine)| {
        component.len() == DIGITS && is_hex(component) && !engine.is_empty() && is_hex(engine)
    })
}

fn digits(name: &str) -> &str {
    name.get(..DIGITS).unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_entries_are_entries() {
        let component = "0f".repeat(32);
        assert!(is_entry(&format!("{component}-00ff")));
        let short = &component[1..];
        for name in
            [&component, "12-0.tmp", &format!("{component}-"), &format!("{short}-00"), &format!("{component}-../x")]
        {
            assert!(!is_entry(name), "{name}");
        }
    }
}
