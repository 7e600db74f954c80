//! What `marram.toml` means: identity, data folder, engine, registries, messages, upstream, cache. Plain data; `config::file` reads it, and
//! `docs/configuration.md` describes it for people. Nothing here opens a socket or makes a folder.

mod file;
mod place;
mod proxy;
mod reader;

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
};

use marram_core::{deployment::RegistryCredential, manifest::Finding};
use marram_registry::{Mirror, Proxy};

use crate::failure::{Code, Failure};

pub(crate) use place::{data_folder, docker_config_of_user, load};

/// Smallest file of the journal. Below it, more time goes into files than into messages.
pub(crate) const MIN_JOURNAL_FILE_BYTES: u64 = 64 << 10;

/// Smallest message log: it holds one message of the largest kind beside what must stay free.
pub(crate) const MIN_MESSAGES_BYTES: u64 = 8 << 20;
/// Longest time between two syncs of the message log. An hour is a typing error: it is as good as never, which is 0.
pub(crate) const MAX_SYNC_SECONDS: u64 = 600;

/// The owner's settings.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Config {
    /// Where they were read; none = there is no file, all are defaults.
    pub(crate) file: Option<PathBuf>,
    /// `device-id`; none = the host name.
    pub(crate) device_id: Option<String>,
    /// `data`.
    pub(crate) data: Option<PathBuf>,
    /// `[engine]`.
    pub(crate) engine: Engine,
    /// `[registries]`.
    pub(crate) registries: Registries,
    /// `[messages]`.
    pub(crate) messages: Messages,
    /// `[upstream]`.
    pub(crate) upstream: Upstream,
    /// `[cache]`.
    pub(crate) cache: Cache,
    /// `metrics.listen`; none = nothing listens.
    pub(crate) metrics: Option<SocketAddr>,
    /// `[modules]`.
    pub(crate) modules: Modules,
    /// What is allowed and yet not well.
    pub(crate) warnings: Vec<Finding>,
}

/// `[engine]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Engine {
    /// `profile`.
    pub(crate) profile: marram_engine::Profile,
    /// `precompiled`: folders that the owner fills with the output of `marram compile`.
    pub(crate) precompiled: Vec<PathBuf>,
}

impl Default for Engine {
    /// The folder is where packages put what does not change while the system runs; its absence is fine.
    fn default() -> Self {
        Self { profile: Default::default(), precompiled: vec!["/usr/lib/marram/precompiled".into()] }
    }
}

/// `[registries]`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Registries {
    /// `default`.
    pub(crate) default: Option<String>,
    /// `plain-http`.
    pub(crate) plain_http: Vec<String>,
    /// `certificate-authorities`: PEM files.
    pub(crate) certificate_authorities: Vec<PathBuf>,
    /// `[[registries.credentials]]`.
    pub(crate) credentials: Vec<Credential>,
    /// `docker-config`.
    pub(crate) docker_config: Option<PathBuf>,
    /// `[[registries.mirrors]]`.
    pub(crate) mirrors: Vec<Mirror>,
    /// `proxy`; none = the environment's.
    pub(crate) proxy: Option<Way>,
    /// `no-proxy`.
    pub(crate) no_proxy: Vec<String>,
    /// `concurrent-downloads`; none = the registry client's default.
    pub(crate) concurrent_downloads: Option<usize>,
}

/// How HTTPS registries are reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Way {
    /// `"direct"`: whatever the environment says.
    Direct,
    /// Through a proxy.
    Through(Proxy),
}

/// One of `[[registries.credentials]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Credential {
    pub(crate) address: String,
    pub(crate) username: String,
    pub(crate) password: Password,
}

/// Where a password is.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Password {
    /// `password`.
    Text(String),
    /// `password-file`: read when a registry is to be asked, so that commands without one do not need it.
    File(PathBuf),
}

impl std::fmt::Debug for Password {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Text(_) => f.write_str("Text(…)"),
            Self::File(path) => write!(f, "File({})", path.display()),
        }
    }
}

/// `[messages]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Messages {
    /// `max-bytes`: over all files of the message log.
    pub(crate) max_bytes: u64,
    /// `sync-seconds`: how long what was written may be unsynced; 0 = for ever.
    pub(crate) sync_seconds: u64,
}

impl Default for Messages {
    /// A day of 10 messages of 300 bytes a second.
    fn default() -> Self {
        Self { max_bytes: 256 << 20, sync_seconds: 5 }
    }
}

/// `[upstream]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Upstream {
    /// `journal-max-bytes`: over all files.
    pub(crate) journal_max_bytes: u64,
    /// `journal-files`.
    pub(crate) journal_files: u64,
}

impl Default for Upstream {
    /// As [`marram_upstream::Settings::new`].
    fn default() -> Self {
        Self { journal_max_bytes: 64 << 20, journal_files: 8 }
    }
}

/// `[cache]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Cache {
    /// `max-bytes`: over components and machine code.
    pub(crate) max_bytes: u64,
}

impl Default for Cache {
    fn default() -> Self {
        Self { max_bytes: marram_core::cache::DEFAULT_MAX_BYTES }
    }
}

/// `[modules]`: ceilings for what manifests ask for, and what is kept of modules.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Modules {
    /// `max-memory-bytes`: over the memory limits of all modules that are to run; none = any sum is accepted.
    pub(crate) max_memory_bytes: Option<u64>,
    /// `core-dump-max-bytes`: of the core dump of a module that trapped; none = there are no dumps.
    pub(crate) core_dump_max_bytes: Option<u64>,
    /// `trap-bodies`: the beginning of a message is kept with the trap of who handled it.
    pub(crate) trap_bodies: bool,
}

impl Upstream {
    /// Settings of the journal in this folder.
    pub(crate) fn journal(&self, folder: PathBuf) -> marram_upstream::Settings {
        marram_upstream::Settings {
            max_file_bytes: self.journal_max_bytes / self.journal_files.max(1),
            max_files: usize::try_from(self.journal_files).unwrap_or(usize::MAX),
            ..marram_upstream::Settings::new(folder)
        }
    }
}

impl Config {
    /// Settings of the registry client; reads passwords and certificates.
    pub(crate) fn registry(&self, cache: &Path) -> Result<marram_registry::Settings, Failure> {
        let mut settings = marram_registry::Settings::new(cache);
        settings.default_registry = self.registries.default.clone();
        settings.plain_http = self.registries.plain_http.clone();
        settings.credentials =
            self.registries.credentials.iter().map(Credential::resolve).collect::<Result<_, Failure>>()?;
        settings.extra_roots =
            self.registries.certificate_authorities.iter().map(|path| read(path)).collect::<Result<_, Failure>>()?;
        settings.mirrors = self.registries.mirrors.clone();
        settings.docker_config = self.registries.docker_config.clone();
        if let Some(path) = &settings.docker_config {
            let bad =
                |why| Failure::new(Code::BadConfig, why).hint("`registries.docker-config` in marram.toml names it");
            marram_registry::check_docker_config(path).map_err(bad)?;
        }
        settings.proxy = self.proxy()?.map(|proxy| proxy.except(self.registries.no_proxy.iter().cloned()));
        settings.concurrent_downloads = self.registries.concurrent_downloads.unwrap_or(settings.concurrent_downloads);
        Ok(settings)
    }

    fn proxy(&self) -> Result<Option<Proxy>, Failure> {
        match &self.registries.proxy {
            Some(Way::Direct) => Ok(None),
            Some(Way::Through(proxy)) => Ok(Some(proxy.clone())),
            None => proxy::of_environment(|name| std::env::var(name).ok()).map_err(|why| {
                Failure::new(Code::BadConfig, format!("the environment variable {why}"))
                    .hint("unset it, or set `registries.proxy` in marram.toml; `\"direct\"` means none")
            }),
        }
    }

    /// The device's id: as set, else the host name.
    pub(crate) fn device_id(&self) -> Result<String, Failure> {
        if let Some(id) = &self.device_id {
            return Ok(id.clone());
        }
        let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let name = name.trim_end();
        check_device_id(name).map(|()| name.to_owned()).map_err(|why| {
            Failure::new(Code::Failed, format!("the host name `{name}` cannot be the device's id: {why}"))
                .hint("set `device-id` in marram.toml")
        })
    }
}

impl Credential {
    fn resolve(&self) -> Result<RegistryCredential, Failure> {
        let password = match &self.password {
            Password::Text(text) => text.clone(),
            Password::File(path) => {
                let bytes = read(path)?;
                let text = String::from_utf8(bytes)
                    .map_err(|_| Failure::new(Code::BadConfig, format!("{} is not UTF-8", path.display())))?;
                text.trim_end_matches(['\r', '\n']).to_owned()
            }
        };
        Ok(RegistryCredential { address: self.address.clone(), username: self.username.clone(), password })
    }
}

/// Largest password or certificate file; the system's whole list of authorities has a quarter of it.
const MAX_SIDE_FILE_BYTES: u64 = 1 << 20;

fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    crate::input::read_bounded(path, MAX_SIDE_FILE_BYTES).map_err(|error| {
        Failure::new(Code::BadConfig, format!("cannot read {}: {error}", path.display()))
            .hint("marram.toml names this file")
    })
}

/// IoT Hub's rule for device ids, so that the device can go to the cloud under the same name.
fn check_device_id(text: &str) -> Result<(), String> {
    let good = |c: char| c.is_ascii_alphanumeric() || "-.%_*?!(),:=@$'+#".contains(c);
    if text.is_empty() || text.len() > 128 {
        return Err(format!("it has {} bytes, 1 to 128 are allowed", text.len()));
    }
    text.chars().find(|c| !good(*c)).map_or(Ok(()), |c| {
        Err(format!("{c:?} may not stand in it (letters, digits and - . % _ * ? ! ( ) , : = @ $ ' + # may)"))
    })
}
