//! What the device's owner decides about registries. Plain data; read from `marram.toml` elsewhere.

use std::{path::PathBuf, time::Duration};

use marram_core::{deployment::RegistryCredential, pace::Slowest, retry::Policy};

use crate::{
    image::{Authority, BadImage},
    mirror::Mirror,
    proxy::Proxy,
};

/// Largest component that is fetched or pushed unless the owner says otherwise. A Python component has 40 MiB; 128 MiB
/// leaves room and still fits the memory of a small device while it is compiled.
pub const DEFAULT_MAX_COMPONENT_BYTES: u64 = 128 << 20;
/// Largest manifest, config and index. The distribution specification asks registries for at least this much.
pub const DEFAULT_MAX_MANIFEST_BYTES: u64 = 4 << 20;

/// Components that are downloaded at the same time unless the owner says otherwise. One slow registry leaves the line to
/// others; more would only make each slower, and a download that is cut short has less to show.
pub const DEFAULT_CONCURRENT_DOWNLOADS: usize = 3;

/// The owner's decisions. [`Settings::new`] has the defaults.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Folder of the cache; made when first needed. It belongs to one host process.
    pub cache: PathBuf,
    /// Registry of images that name none. None: such an image is an error. A device must not ask a public registry, nor
    /// tell it the names of its modules, because someone forgot a host name.
    pub default_registry: Option<String>,
    /// `host[:port]` of registries that are asked by plain HTTP. Loopback addresses always are.
    pub plain_http: Vec<String>,
    /// Largest component in bytes.
    pub max_component_bytes: u64,
    /// Largest manifest, config or index in bytes.
    pub max_manifest_bytes: u64,
    /// The owner's credentials; they come first.
    pub credentials: Vec<RegistryCredential>,
    /// Docker's configuration file, read whenever a registry asks who we are, with the programs that it names: their
    /// logins come second, before those of the deployment manifest. None: no such file is looked for.
    pub docker_config: Option<PathBuf>,
    /// Where images are looked for before their registry is asked, in order. Only pulls.
    pub mirrors: Vec<Mirror>,
    /// The way to HTTPS hosts. None: directly, whatever the environment says.
    pub proxy: Option<Proxy>,
    /// Certificate authorities beside the system's, each a PEM text with one or more certificates.
    pub extra_roots: Vec<Vec<u8>>,
    /// How long to wait.
    pub timeouts: Timeouts,
    /// How often to try within one fetch or push.
    pub retry: Policy,
    /// Components that are downloaded at the same time, at least 1.
    pub concurrent_downloads: usize,
}

impl Settings {
    /// Defaults with this cache folder.
    #[must_use]
    pub fn new(cache: impl Into<PathBuf>) -> Self {
        Self {
            cache: cache.into(),
            default_registry: None,
            plain_http: Vec::new(),
            max_component_bytes: DEFAULT_MAX_COMPONENT_BYTES,
            max_manifest_bytes: DEFAULT_MAX_MANIFEST_BYTES,
            credentials: Vec::new(),
            docker_config: None,
            mirrors: Vec::new(),
            proxy: None,
            extra_roots: Vec::new(),
            timeouts: Timeouts::default(),
            retry: Policy::default(),
            concurrent_downloads: DEFAULT_CONCURRENT_DOWNLOADS,
        }
    }
}

/// How long to wait for a registry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// To a connection, TLS included. Default 10 s.
    pub connect: Duration,
    /// For an answer's head, and then without a byte. Default 30 s.
    pub idle: Duration,
    /// For an answer's body that comes slowly. Bounds a transfer's whole time too, by its size.
    pub slowest: Slowest,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self { connect: Duration::from_secs(10), idle: Duration::from_secs(30), slowest: Slowest::default() }
    }
}

/// Why settings cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// A host is not `host[:port]`.
    #[error("registries.{setting}: {source}")]
    Host {
        /// Name of the setting.
        setting: &'static str,
        /// What is wrong with it.
        #[source]
        source: BadImage,
    },
    /// A certificate cannot be read.
    #[error("registries: certificate authority {number} is not PEM: {reason}")]
    Certificate {
        /// Place in [`Settings::extra_roots`], from 1.
        number: usize,
        /// What is wrong with it.
        reason: String,
    },
}

/// Reads the hosts of a setting.
pub(crate) fn hosts<'a>(
    setting: &'static str,
    texts: impl IntoIterator<Item = &'a String>,
) -> Result<Vec<Authority>, SettingsError> {
    texts
        .into_iter()
        .map(|text| Authority::parse(text).map_err(|source| SettingsError::Host { setting, source }))
        .collect()
}
