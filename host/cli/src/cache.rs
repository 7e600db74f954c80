//! `marram cache list` and `prune`: through the running host, or, where none runs, on the data folder itself under its lock.
//! What may go is decided in `core::cache` either way.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime},
};

use marram_agent::{CacheStatus, Caches, Collector, PruneRequest, Pruned};
use marram_core::{
    cache::{Goal, Item},
    time::UtcMillis,
};
use marram_engine::WasmEngine;
use marram_registry::{Registry, Settings};
use marram_store::{Folder, LockError, lock_data_dir};
use serde::{Serialize, de::DeserializeOwned};

use crate::{
    access,
    args::{Ask, Cache, Format, Prune},
    ask::read,
    check::check_image,
    client::{Call, socket_path},
    config,
    failure::{Code, Failure},
    output::{self, Table, bytes, plain},
    run::engine_settings,
};

/// Digits of a digest that tell components apart for people.
const SHORT: usize = 19;

pub(crate) fn cache(args: Cache) -> Result<(), Failure> {
    match args {
        Cache::List(ask) => {
            let status = answer(&ask, Call::get("/v1/cache"), async |cache| cache.status(&[]).await)?;
            write(ask.format, &status, list_text)
        }
        Cache::Prune(args) => {
            let request = request(&args);
            let call = Call::post_with("/v1/cache/prune", serde_json::to_string(&request).unwrap_or_default());
            let pruned = answer(&args.ask, call, async move |cache| cache.prune(request, &[]).await)?;
            write(args.ask.format, &pruned, prune_text)
        }
    }
}

fn request(args: &Prune) -> PruneRequest {
    let before = |age: Duration| {
        let time = SystemTime::now().checked_sub(age).unwrap_or(SystemTime::UNIX_EPOCH);
        let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        UtcMillis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    };
    let goal = match (args.all, args.older_than, args.to) {
        (true, _, _) => Some(Goal::InUse),
        (_, Some(age), _) => Some(Goal::UnusedSinceMs(before(age))),
        (_, _, Some(most)) => Some(Goal::MaxBytes(most)),
        _ => None,
    };
    PruneRequest { goal, dry_run: args.dry_run }
}

/// The host's answer, or our own where none runs.
fn answer<T: DeserializeOwned>(
    ask: &Ask,
    call: Call,
    alone: impl AsyncFnOnce(Collector) -> Result<T, marram_core::ports::CacheError>,
) -> Result<T, Failure> {
    let config = config::load(ask.place.config.as_deref())?;
    let data = config::data_folder(&ask.place, Some(&config))?;
    if !data.is_dir() {
        let message = format!("there is no data folder {}", data.display());
        return Err(Failure::new(Code::Failed, message).hint("name it with --data DIR"));
    }
    refuse_anothers(&data)?;
    // Whoever has the lock is the one to ask.
    let _lock = match lock_data_dir(&data) {
        Ok(lock) => lock,
        Err(LockError::Held { .. }) => return read(&call.send(&data)?),
        Err(error) => return Err(Failure::failed(&error)),
    };
    access::wait(async {
        let collector = open(&config, &data)?;
        alone(collector).await.map_err(|error| Failure::failed(&error))
    })
}

/// Root would leave files in the folder of a host of another user that this host cannot read.
pub(crate) fn refuse_anothers(data: &Path) -> Result<(), Failure> {
    let owner = fs::metadata(data).map_err(|error| Failure::failed(&error))?.uid();
    let running = socket_path(data)?.exists();
    if running || owner == rustix::process::geteuid().as_raw() {
        return Ok(());
    }
    let message = format!("{} belongs to user {owner}, and no host runs there", data.display());
    let hint = format!("run this as that user: `sudo -u '#{owner}' marram … --data {}`", data.display());
    Err(Failure::new(Code::Failed, message).hint(hint))
}

/// The caches of a data folder that is ours.
fn open(config: &config::Config, data: &Path) -> Result<Collector, Failure> {
    let documents = Folder::open(data.join("store")).map_err(|error| Failure::failed(&error))?;
    // Nothing is fetched: no credentials, no certificates.
    let mut settings = Settings::new(data.join("cache"));
    settings.default_registry.clone_from(&config.registries.default);
    let registry = Registry::new(settings).map_err(|error| Failure::failed(&error))?;
    let engine = WasmEngine::new(engine_settings(config, data)?).map_err(|error| Failure::failed(&error))?;
    let caches = Caches { components: Arc::new(registry), code: Arc::new(engine), max_bytes: config.cache.max_bytes };
    Collector::of_stored(caches, &documents, check_image).map_err(|error| {
        Failure::failed(&error).hint("what it needs is not known, so nothing is touched; `marram run` says more")
    })
}

pub(crate) fn write<T: Serialize>(format: Format, answer: &T, text: impl FnOnce(&T) -> String) -> Result<(), Failure> {
    output::data(&match format {
        Format::Text => text(answer),
        Format::Json => format!("{}\n", serde_json::to_string(answer).map_err(|error| Failure::failed(&error))?),
    })
}

fn list_text(status: &CacheStatus) -> String {
    let mut table = Table::new(&["COMPONENT", "SIZE", "CODE", "LAST USE", "IN USE BY", "IMAGE"], &[1, 2]);
    for item in &status.components {
        let images = if item.images.is_empty() { "none (its tag moved on)".to_owned() } else { item.images.join(", ") };
        table.row([
            short(&item.component),
            bytes(item.component_bytes),
            bytes(item.code_bytes),
            day(item.last_use),
            users(item),
            images,
        ]);
    }
    let partial = match status.partial_bytes {
        0 => String::new(),
        partial => format!(", {} of it unfinished downloads", bytes(partial)),
    };
    let other = match status.other_bytes {
        0 => String::new(),
        other => format!(", and {} that the next prune removes", bytes(other)),
    };
    format!("{}{} of {}{partial}{other}\n", table.text(), bytes(status.total_bytes), bytes(status.max_bytes))
}

fn prune_text(pruned: &Pruned) -> String {
    let (did, gave) = if pruned.dry_run { ("would remove", "would free") } else { ("removed", "freed") };
    let line = |verb: &str, item: &Item, why: &str| {
        let images = item.images.first().map_or("", String::as_str);
        plain(&format!("{verb} {} {} {images}{why}", short(&item.component), bytes(item.bytes()))).into_owned() + "\n"
    };
    let removed = pruned.removed.iter().map(|item| line(did, item, ""));
    let kept = pruned.in_use.iter().map(|item| line("kept", item, &format!(" (in use by {})", users(item))));
    let sum = format!("{gave} {}; {} are kept\n", bytes(pruned.freed_bytes), bytes(pruned.total_bytes));
    removed.chain(kept).chain([sum]).collect()
}

fn users(item: &Item) -> String {
    match item.modules.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ") {
        none if none.is_empty() && item.held => "the host".to_owned(),
        none if none.is_empty() => "-".to_owned(),
        modules => modules,
    }
}

fn short(digest: &str) -> String {
    digest.get(..SHORT).unwrap_or(digest).to_owned()
}

fn day(time: UtcMillis) -> String {
    let time = SystemTime::UNIX_EPOCH.checked_add(Duration::from_millis(time.0)).unwrap_or(SystemTime::UNIX_EPOCH);
    let text = humantime::format_rfc3339_seconds(time).to_string();
    text.split('T').next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(component: &str, modules: &[&str], held: bool) -> Item {
        Item {
            component: format!("sha256:{component}"),
            images: vec![format!("r.example/{component}:1")],
            component_bytes: 1 << 20,
            code_bytes: 3 << 20,
            last_use: UtcMillis(1_767_225_600_000),
            modules: modules.iter().map(|name| marram_core::name::ModuleName::new(name).unwrap()).collect(),
            held,
        }
    }

    #[test]
    fn a_list_says_who_uses_what_and_how_much_there_is() {
        let components = vec![item("a", &["one", "two"], true), item("b", &[], true), item("c", &[], false)];
        let (max_bytes, total_bytes) = (256 << 20, 12 << 20);
        let mut status = CacheStatus { max_bytes, total_bytes, partial_bytes: 0, other_bytes: 1024, components };
        let text = list_text(&status);
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[0], "COMPONENT     SIZE     CODE  LAST USE    IN USE BY  IMAGE");
        assert_eq!(lines[1], "sha256:a   1.0 MiB  3.0 MiB  2026-01-01  one, two   r.example/a:1");
        assert!(lines[2].contains("  the host  ") && lines[3].contains("  -  "), "{text}");
        assert_eq!(lines[4], "12.0 MiB of 256.0 MiB, and 1.0 KiB that the next prune removes");
        (status.partial_bytes, status.other_bytes) = (2048, 0);
        assert!(list_text(&status).ends_with("12.0 MiB of 256.0 MiB, 2.0 KiB of it unfinished downloads\n"));
    }

    #[test]
    fn a_prune_says_what_went_and_what_stays_for_whom() {
        let mut pruned = Pruned {
            removed: vec![item("a", &[], false)],
            in_use: vec![item("b", &["m"], false)],
            freed_bytes: 4 << 20,
            total_bytes: 4 << 20,
            dry_run: false,
        };
        let said = "removed sha256:a 4.0 MiB r.example/a:1\nkept sha256:b 4.0 MiB r.example/b:1 (in use by m)\nfreed 4.0 MiB; 4.0 MiB are kept\n";
        assert_eq!(prune_text(&pruned), said);
        pruned.dry_run = true;
        assert!(prune_text(&pruned).starts_with("would remove sha256:a"), "{}", prune_text(&pruned));
    }
}
