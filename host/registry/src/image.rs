//! `settings.image`: an image in a registry, or in an OCI image-layout folder. Reads text; asks nobody.

use std::{
    fmt,
    net::{IpAddr, Ipv6Addr},
    path::{Path, PathBuf},
};

use crate::digest::{BadDigest, Digest};

/// Longest repository name, from the distribution specification's advice (host included there; we allow it whole).
const MAX_REPOSITORY_BYTES: usize = 255;
/// Longest tag, from the distribution specification.
const MAX_TAG_BYTES: usize = 128;
/// The tag of an image that names neither tag nor digest.
const DEFAULT_TAG: &str = "latest";
/// Starts a reference to a layout folder.
const LAYOUT_SCHEME: &str = "oci:";

/// Where a component is. [`fmt::Display`] writes the canonical form, which parses to the same value.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Image {
    /// `[registry/]repository[:tag][@sha256:…]`.
    Remote(RemoteImage),
    /// `oci:PATH[:TAG][@sha256:…]`.
    Layout(LayoutImage),
}

/// An image in a registry.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RemoteImage {
    pub(crate) registry: Option<Authority>,
    pub(crate) repository: String,
    /// Some, unless there is a digest.
    pub(crate) tag: Option<String>,
    pub(crate) digest: Option<Digest>,
}

/// An image in a layout folder.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct LayoutImage {
    pub(crate) path: PathBuf,
    pub(crate) tag: Option<String>,
    pub(crate) digest: Option<Digest>,
}

impl Image {
    /// Reads a reference. White space around it is ignored.
    ///
    /// The part before the first `/` is a registry when it contains `.` or `:`, is `localhost` or an IPv6 address in
    /// brackets: Docker's rule. A missing tag is `latest` unless a digest is given; with both, the digest decides. In
    /// `oci:PATH:TAG` the part after the last `:` is a tag when it can be one.
    ///
    /// # Errors
    /// [`BadImage`] says which part is wrong.
    pub fn parse(text: &str) -> Result<Self, BadImage> {
        let text = text.trim();
        if text.is_empty() {
            return Err(BadImage::Empty);
        }
        if let Some(c) = text.chars().find(|c| c.is_control()) {
            return Err(BadImage::Character(c));
        }
        match text.strip_prefix(LAYOUT_SCHEME) {
            Some(rest) => parse_layout(rest).map(Self::Layout),
            None => parse_remote(text).map(Self::Remote),
        }
    }

    /// The digest that the reference pins.
    #[must_use]
    pub fn digest(&self) -> Option<Digest> {
        match self {
            Self::Remote(image) => image.digest,
            Self::Layout(image) => image.digest,
        }
    }

    /// The tag; none when a digest is given instead, or when a layout has but one image.
    #[must_use]
    pub fn tag(&self) -> Option<&str> {
        match self {
            Self::Remote(image) => image.tag.as_deref(),
            Self::Layout(image) => image.tag.as_deref(),
        }
    }
}

impl RemoteImage {
    /// The registry, when the reference names one.
    #[must_use]
    pub fn registry(&self) -> Option<&Authority> {
        self.registry.as_ref()
    }

    /// The repository, without the registry.
    #[must_use]
    pub fn repository(&self) -> &str {
        &self.repository
    }
}

impl LayoutImage {
    /// The folder; a relative one starts at the working folder of the process.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

fn parse_layout(rest: &str) -> Result<LayoutImage, BadImage> {
    let (rest, digest) = match rest.rsplit_once("@sha256:") {
        Some((before, hex)) => (before, Some(Digest::parse(&format!("sha256:{hex}"))?)),
        None => (rest, None),
    };
    let (path, tag) = match rest.rsplit_once(':') {
        Some((path, tag)) if is_tag(tag) => (path, Some(tag.to_owned())),
        _ => (rest, None),
    };
    if path.is_empty() {
        return Err(BadImage::NoPath);
    }
    Ok(LayoutImage { path: path.into(), tag, digest })
}

fn parse_remote(text: &str) -> Result<RemoteImage, BadImage> {
    if text.contains("://") {
        return Err(BadImage::Scheme(text.to_owned()));
    }
    let (rest, digest) = match text.split_once('@') {
        Some((rest, digest)) => (rest, Some(Digest::parse(digest)?)),
        None => (text, None),
    };
    let (registry, rest) = match rest.split_once('/') {
        Some((first, rest)) if is_registry(first) => (Some(Authority::parse(first)?), rest),
        _ => (None, rest),
    };
    let (repository, tag) = match rest.split_once(':') {
        Some((repository, tag)) => (repository, Some(tag)),
        None => (rest, None),
    };
    check_repository(repository)?;
    if let Some(tag) = tag.filter(|tag| !is_tag(tag)) {
        return Err(BadImage::Tag(tag.to_owned()));
    }
    let tag = tag.or(if digest.is_none() { Some(DEFAULT_TAG) } else { None });
    Ok(RemoteImage { registry, repository: repository.to_owned(), tag: tag.map(str::to_owned), digest })
}

fn is_registry(first: &str) -> bool {
    first.contains(['.', ':']) || first.eq_ignore_ascii_case("localhost")
}

fn is_tag(text: &str) -> bool {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    text.len() <= MAX_TAG_BYTES && text.starts_with(word) && text.chars().all(|c| word(c) || c == '.' || c == '-')
}

fn check_repository(text: &str) -> Result<(), BadImage> {
    let bad = || BadImage::Repository(text.to_owned());
    if text.len() > MAX_REPOSITORY_BYTES {
        return Err(bad());
    }
    if text.chars().any(|c| c.is_ascii_uppercase()) {
        return Err(BadImage::UpperCase(text.to_owned()));
    }
    if text.split('/').all(is_path_component) { Ok(()) } else { Err(bad()) }
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`, as the distribution specification has it.
fn is_path_component(text: &str) -> bool {
    let letter = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let separators = text.split(letter).filter(|s| !s.is_empty());
    text.starts_with(letter)
        && text.ends_with(letter)
        && separators.into_iter().all(|s| matches!(s, "." | "_" | "__") || s.chars().all(|c| c == '-'))
}

impl fmt::Display for Image {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Remote(image) => image.fmt(f),
            Self::Layout(image) => image.fmt(f),
        }
    }
}

impl fmt::Display for RemoteImage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(registry) = &self.registry {
            write!(f, "{registry}/")?;
        }
        f.write_str(&self.repository)?;
        write_version(f, self.tag.as_deref(), self.digest.as_ref())
    }
}

impl fmt::Display for LayoutImage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{LAYOUT_SCHEME}{}", self.path.display())?;
        write_version(f, self.tag.as_deref(), self.digest.as_ref())
    }
}

fn write_version(f: &mut fmt::Formatter<'_>, tag: Option<&str>, digest: Option<&Digest>) -> fmt::Result {
    if let Some(tag) = tag {
        write!(f, ":{tag}")?;
    }
    digest.map_or(Ok(()), |digest| write!(f, "@{digest}"))
}

/// Host and port of a registry, in lower case.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Authority {
    /// A name, an IPv4 address, or an IPv6 address in brackets.
    host: String,
    port: Option<u16>,
}

impl Authority {
    /// Reads `host[:port]`.
    ///
    /// # Errors
    /// [`BadImage::Registry`].
    pub fn parse(text: &str) -> Result<Self, BadImage> {
        let bad = || BadImage::Registry(text.to_owned());
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) if !port.contains(']') => (host, Some(port)),
            _ => (text, None),
        };
        let port = match port {
            Some(digits) if digits.bytes().all(|b| b.is_ascii_digit()) => {
                Some(digits.parse::<u16>().ok().filter(|port| *port != 0).ok_or_else(bad)?)
            }
            Some(_) => return Err(bad()),
            None => None,
        };
        if !is_host(host) {
            return Err(bad());
        }
        Ok(Self { host: host.to_ascii_lowercase(), port })
    }

    /// Reads the `address` of a credential, where people also write a URL (`https://host/v1/`).
    pub(crate) fn of_address(address: &str) -> Option<Self> {
        let address = address.trim();
        let rest = address.split_once("://").map_or(address, |(_, rest)| rest);
        Self::parse(rest.split('/').next().unwrap_or(rest)).ok()
    }

    /// True when it names this device itself.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        let address = self.host.trim_matches(['[', ']']).parse::<IpAddr>();
        self.host == "localhost" || address.is_ok_and(|address| address.is_loopback())
    }

    /// The same registry, when a missing port means the one of the scheme.
    pub(crate) fn same(&self, other: &Self, default_port: u16) -> bool {
        self.host == other.host && self.port.unwrap_or(default_port) == other.port.unwrap_or(default_port)
    }

    /// Docker Hub's name for people is not the name of its API.
    pub(crate) fn api(&self) -> Self {
        match self.host.as_str() {
            "docker.io" | "index.docker.io" => Self { host: "registry-1.docker.io".to_owned(), port: self.port },
            _ => self.clone(),
        }
    }
}

fn is_host(host: &str) -> bool {
    if let Some(address) = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')) {
        return address.parse::<Ipv6Addr>().is_ok();
    }
    let label = |text: &str| {
        let end = |c: char| c.is_ascii_alphanumeric();
        text.len() <= 63 && text.starts_with(end) && text.ends_with(end) && text.chars().all(|c| end(c) || c == '-')
    };
    host.len() <= 253 && host.split('.').all(label)
}

impl fmt::Display for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.host)?;
        self.port.map_or(Ok(()), |port| write!(f, ":{port}"))
    }
}

/// Why a text is not an image reference.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadImage {
    /// No text.
    #[error("an image reference may not be empty (`registry/repository:tag` or `oci:FOLDER:TAG`)")]
    Empty,
    /// A control character.
    #[error("{0:?} may not stand in an image reference")]
    Character(char),
    /// `oci:` alone.
    #[error("`oci:` needs the path of an image-layout folder (`oci:FOLDER:TAG`)")]
    NoPath,
    /// `https://…` and the like.
    #[error("`{0}` is a URL; an image reference has no scheme (`registry/repository:tag`)")]
    Scheme(String),
    /// Host and port.
    #[error("`{0}` is not the address of a registry (`host` or `host:port`)")]
    Registry(String),
    /// The repository.
    #[error("`{0}` is not a repository name (words of a-z 0-9, joined by `.` `_` `-`, separated by `/`)")]
    Repository(String),
    /// The repository.
    #[error("`{0}` is not a repository name: it must be in lower case")]
    UpperCase(String),
    /// The tag.
    #[error("`{0}` is not a tag (1 to {MAX_TAG_BYTES} of A-Z a-z 0-9 `_` `.` `-`, not starting with `.` or `-`)")]
    Tag(String),
    /// The digest.
    #[error(transparent)]
    Digest(#[from] BadDigest),
}

#[cfg(test)]
#[path = "image_tests.rs"]
mod tests;
