//! The keys of `marram.toml`: reads the text into a [`Config`], all faults at once, each with its line. Opens no file.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
};

use marram_core::manifest::Finding;
use marram_engine::Profile;
use marram_registry::{Authority, Mirror, Proxy};
use toml::{Spanned, de::DeValue};

use super::{
    Cache, Config, Credential, Engine, MAX_SYNC_SECONDS, MIN_JOURNAL_FILE_BYTES, MIN_MESSAGES_BYTES, Messages, Modules,
    Password, Registries, Upstream, Way, check_device_id,
    reader::{Entry, Reader, entries},
};

type Value<'t> = Spanned<DeValue<'t>>;

const ROOT: [&str; 9] =
    ["device-id", "data", "engine", "registries", "messages", "upstream", "cache", "metrics", "modules"];
const ENGINE: [&str; 2] = ["profile", "precompiled"];
const REGISTRIES: [&str; 9] = [
    "default",
    "plain-http",
    "certificate-authorities",
    "credentials",
    "docker-config",
    "mirrors",
    "proxy",
    "no-proxy",
    "concurrent-downloads",
];
const MIRRORS: [&str; 2] = ["prefix", "location"];
const CREDENTIALS: [&str; 4] = ["address", "username", "password", "password-file"];
const CACHE: [&str; 1] = ["max-bytes"];
const METRICS: [&str; 1] = ["listen"];
const MODULES: [&str; 3] = ["core-dump-max-bytes", "max-memory-bytes", "trap-bodies"];
const MESSAGES: [&str; 2] = ["max-bytes", "sync-seconds"];
const UPSTREAM: [&str; 2] = ["journal-max-bytes", "journal-files"];

/// Most components that are downloaded at once: as many as the host fetches images at once.
const MAX_CONCURRENT_DOWNLOADS: u64 = 8;
/// Most files of the journal: each start looks at all of them.
const MAX_JOURNAL_FILES: u64 = 10_000;

/// Reads a `marram.toml`. Relative paths in it start at `folder`, the folder of the file.
pub(super) fn read(text: &str, folder: &Path) -> Result<Config, Vec<Finding>> {
    let mut reader = Reader::new(text);
    let document = reader.parse();
    let mut config = Config::default();
    for (key, value) in entries(document.get_ref()) {
        match key.get_ref().as_ref() {
            "device-id" => config.device_id = device_id(&mut reader, value),
            "data" => config.data = path(&mut reader, "data", value, folder),
            "engine" => config.engine = engine(&mut reader, value, folder),
            "registries" => config.registries = registries(&mut reader, value, folder),
            "messages" => config.messages = messages(&mut reader, value),
            "upstream" => config.upstream = upstream(&mut reader, value),
            "cache" => config.cache = cache(&mut reader, value),
            "metrics" => config.metrics = metrics(&mut reader, value),
            "modules" => config.modules = modules(&mut reader, value),
            _ => reader.unknown("", key, &ROOT),
        }
    }
    if reader.faults.is_empty() { Ok(config) } else { Err(reader.faults) }
}

fn device_id(reader: &mut Reader<'_>, value: &Value<'_>) -> Option<String> {
    let id = reader.string("device-id", value)?;
    reader.checked("device-id", value.span(), check_device_id(&id))?;
    Some(id)
}

fn path(reader: &mut Reader<'_>, at: &str, value: &Value<'_>, folder: &Path) -> Option<PathBuf> {
    reader.string(at, value).map(|text| folder.join(text))
}

fn engine(reader: &mut Reader<'_>, value: &Value<'_>, folder: &Path) -> Engine {
    let mut engine = Engine::default();
    for (key, value) in reader.table("engine", value) {
        match key.get_ref().as_ref() {
            "profile" => engine.profile = profile(reader, value).unwrap_or_default(),
            "precompiled" => {
                let folders = reader.strings("engine.precompiled", value);
                engine.precompiled = folders.into_iter().map(|path| folder.join(path)).collect();
            }
            _ => reader.unknown("engine", key, &ENGINE),
        }
    }
    engine
}

fn profile(reader: &mut Reader<'_>, value: &Value<'_>) -> Option<Profile> {
    let text = reader.string("engine.profile", value)?;
    let parsed = text.parse::<Profile>().map_err(|error| error.to_string());
    reader.checked("engine.profile", value.span(), parsed)
}

fn registries(reader: &mut Reader<'_>, value: &Value<'_>, folder: &Path) -> Registries {
    let mut registries = Registries::default();
    for (key, value) in reader.table("registries", value) {
        match key.get_ref().as_ref() {
            "default" => registries.default = authority(reader, "registries.default", value),
            "plain-http" => registries.plain_http = authorities(reader, "registries.plain-http", value),
            "certificate-authorities" => {
                let files = reader.strings("registries.certificate-authorities", value);
                registries.certificate_authorities = files.into_iter().map(|file| folder.join(file)).collect();
            }
            "credentials" => registries.credentials = credentials(reader, value, folder),
            "docker-config" => registries.docker_config = path(reader, "registries.docker-config", value, folder),
            "mirrors" => registries.mirrors = mirrors(reader, value),
            "proxy" => registries.proxy = proxy(reader, value),
            "no-proxy" => registries.no_proxy = reader.strings("registries.no-proxy", value),
            "concurrent-downloads" => registries.concurrent_downloads = concurrent_downloads(reader, value),
            _ => reader.unknown("registries", key, &REGISTRIES),
        }
    }
    registries
}

fn authorities(reader: &mut Reader<'_>, at: &str, value: &Value<'_>) -> Vec<String> {
    let mut hosts = reader.strings(at, value);
    hosts.retain(|host| reader.checked(at, value.span(), check_authority(host)).is_some());
    hosts
}

fn authority(reader: &mut Reader<'_>, at: &str, value: &Value<'_>) -> Option<String> {
    let text = reader.string(at, value)?;
    reader.checked(at, value.span(), check_authority(&text))?;
    Some(text)
}

fn check_authority(text: &str) -> Result<(), String> {
    Authority::parse(text).map(drop).map_err(|error| error.to_string())
}

fn proxy(reader: &mut Reader<'_>, value: &Value<'_>) -> Option<Way> {
    let at = "registries.proxy";
    let text = reader.string(at, value)?;
    if text == "direct" {
        return Some(Way::Direct);
    }
    reader.checked(at, value.span(), Proxy::new(&text, [])).map(Way::Through)
}

fn concurrent_downloads(reader: &mut Reader<'_>, value: &Value<'_>) -> Option<usize> {
    let at = "registries.concurrent-downloads";
    let number = reader.number(at, value)?;
    let result = match usize::try_from(number) {
        Ok(small @ 1..) if number <= MAX_CONCURRENT_DOWNLOADS => Ok(small),
        _ => Err(format!("{number}: expected 1 to {MAX_CONCURRENT_DOWNLOADS}")),
    };
    reader.checked(at, value.span(), result)
}

fn mirrors(reader: &mut Reader<'_>, value: &Value<'_>) -> Vec<Mirror> {
    let Some(array) = value.get_ref().as_array() else {
        reader.fault(value.span(), "registries.mirrors", "expected `[[registries.mirrors]]`".into());
        return Vec::new();
    };
    array.iter().filter_map(|value| mirror(reader, value)).collect()
}

fn mirror(reader: &mut Reader<'_>, value: &Value<'_>) -> Option<Mirror> {
    const AT: &str = "registries.mirrors";
    let entries = reader.table(AT, value);
    let (mut prefix, mut location) = (None, None);
    for (key, value) in entries.iter().copied() {
        let at = format!("{AT}.{}", key.get_ref());
        match key.get_ref().as_ref() {
            "prefix" => prefix = reader.string(&at, value),
            "location" => location = reader.string(&at, value),
            _ => reader.unknown(AT, key, &MIRRORS),
        }
    }
    for key in MIRRORS {
        require_one(reader, AT, value, &entries, &[key]);
    }
    let made = Mirror::new(&prefix?, &location?).map_err(|(part, error)| format!("{part}: {error}"));
    reader.checked(AT, value.span(), made)
}

fn credentials(reader: &mut Reader<'_>, value: &Value<'_>, folder: &Path) -> Vec<Credential> {
    let Some(array) = value.get_ref().as_array() else {
        reader.fault(value.span(), "registries.credentials", "expected `[[registries.credentials]]`".into());
        return Vec::new();
    };
    array.iter().filter_map(|value| credential(reader, value, folder)).collect()
}

fn credential(reader: &mut Reader<'_>, value: &Value<'_>, folder: &Path) -> Option<Credential> {
    const AT: &str = "registries.credentials";
    let entries = reader.table(AT, value);
    let (mut address, mut username, mut password, mut file) = (None, None, None, None);
    for (key, value) in entries.iter().copied() {
        let at = format!("{AT}.{}", key.get_ref());
        match key.get_ref().as_ref() {
            "address" => address = authority(reader, &at, value),
            "username" => username = reader.string(&at, value),
            "password" => password = reader.string(&at, value).map(Password::Text),
            "password-file" => file = path(reader, &at, value, folder).map(Password::File),
            _ => reader.unknown(AT, key, &CREDENTIALS),
        }
    }
    for keys in [&["address"][..], &["username"], &["password", "password-file"]] {
        require_one(reader, AT, value, &entries, keys);
    }
    Some(Credential { address: address?, username: username?, password: password.or(file)? })
}

/// Exactly one of the keys must stand there.
fn require_one(reader: &mut Reader<'_>, at: &str, table: &Value<'_>, entries: &[Entry<'_, '_>], keys: &[&str]) {
    let written = entries.iter().filter(|(key, _)| keys.contains(&key.get_ref().as_ref())).count();
    let names = keys.iter().map(|key| format!("`{key}`")).collect::<Vec<_>>().join(" or ");
    match written {
        0 => reader.fault(table.span(), at, format!("{names} is missing")),
        1 => {}
        _ => reader.fault(table.span(), at, format!("only one of {names} may stand there")),
    }
}

fn messages(reader: &mut Reader<'_>, value: &Value<'_>) -> Messages {
    let mut messages = Messages::default();
    for (key, value) in reader.table("messages", value) {
        let at = format!("messages.{}", key.get_ref());
        let (most, least, into) = match key.get_ref().as_ref() {
            "max-bytes" => (u64::MAX, MIN_MESSAGES_BYTES, &mut messages.max_bytes),
            "sync-seconds" => (MAX_SYNC_SECONDS, 0, &mut messages.sync_seconds),
            _ => {
                reader.unknown("messages", key, &MESSAGES);
                continue;
            }
        };
        let Some(number) = reader.number(&at, value) else { continue };
        let result = if (least..=most).contains(&number) {
            Ok(number)
        } else if number < least {
            Err(format!("{number}: expected at least {least}"))
        } else {
            Err(format!("{number}: expected {least} to {most}"))
        };
        *into = reader.checked(&at, value.span(), result).unwrap_or(*into);
    }
    messages
}

fn upstream(reader: &mut Reader<'_>, value: &Value<'_>) -> Upstream {
    let mut upstream = Upstream::default();
    for (key, value) in reader.table("upstream", value) {
        match key.get_ref().as_ref() {
            "journal-max-bytes" => {
                let number = reader.number("upstream.journal-max-bytes", value);
                upstream.journal_max_bytes = number.unwrap_or(upstream.journal_max_bytes);
            }
            "journal-files" => upstream.journal_files = journal_files(reader, value).unwrap_or(upstream.journal_files),
            _ => reader.unknown("upstream", key, &UPSTREAM),
        }
    }
    let each = upstream.journal_max_bytes / upstream.journal_files.max(1);
    if each < MIN_JOURNAL_FILE_BYTES {
        let why = format!(
            "journal-max-bytes over journal-files leaves {each} bytes a file; at least {MIN_JOURNAL_FILE_BYTES} are needed"
        );
        reader.fault(value.span(), "upstream", why);
    }
    upstream
}

fn cache(reader: &mut Reader<'_>, value: &Value<'_>) -> Cache {
    let mut cache = Cache::default();
    for (key, value) in reader.table("cache", value) {
        match key.get_ref().as_ref() {
            "max-bytes" => cache.max_bytes = reader.number("cache.max-bytes", value).unwrap_or(cache.max_bytes),
            _ => reader.unknown("cache", key, &CACHE),
        }
    }
    cache
}

fn modules(reader: &mut Reader<'_>, value: &Value<'_>) -> Modules {
    let mut modules = Modules::default();
    for (key, value) in reader.table("modules", value) {
        match key.get_ref().as_ref() {
            "core-dump-max-bytes" => {
                modules.core_dump_max_bytes = reader.number("modules.core-dump-max-bytes", value);
            }
            "max-memory-bytes" => modules.max_memory_bytes = reader.number("modules.max-memory-bytes", value),
            "trap-bodies" => match value.get_ref() {
                DeValue::Boolean(keep) => modules.trap_bodies = *keep,
                _ => reader.fault(value.span(), "modules.trap-bodies", "expected `true` or `false`".into()),
            },
            _ => reader.unknown("modules", key, &MODULES),
        }
    }
    modules
}

fn metrics(reader: &mut Reader<'_>, value: &Value<'_>) -> Option<SocketAddr> {
    let mut listen = None;
    for (key, value) in reader.table("metrics", value) {
        match key.get_ref().as_ref() {
            "listen" => listen = address(reader, "metrics.listen", value),
            _ => reader.unknown("metrics", key, &METRICS),
        }
    }
    listen
}

fn address(reader: &mut Reader<'_>, at: &str, value: &Value<'_>) -> Option<SocketAddr> {
    let text = reader.string(at, value)?;
    let parsed = text.parse().map_err(|_| format!("`{text}`: expected an IP address and a port, as `127.0.0.1:9600`"));
    reader.checked(at, value.span(), parsed)
}

fn journal_files(reader: &mut Reader<'_>, value: &Value<'_>) -> Option<u64> {
    let at = "upstream.journal-files";
    let number = reader.number(at, value)?;
    let result = match number {
        1..=MAX_JOURNAL_FILES => Ok(number),
        _ => Err(format!("{number}: expected 1 to {MAX_JOURNAL_FILES}")),
    };
    reader.checked(at, value.span(), result)
}

#[cfg(test)]
#[path = "file_tests.rs"]
mod tests;
