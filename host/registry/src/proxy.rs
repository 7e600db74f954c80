//! The forward proxy: which one, and for which hosts not. Opens no connection.
//!
//! It is for HTTPS alone (`CONNECT`): a registry that is asked in plain text is on this device or in its network, and what
//! it is told in plain text is not for a third party. Addresses of this device are never asked through it.

use std::fmt;

use reqwest::{NoProxy, Url};

/// This device, as Go's and so Docker's clients have it.
const LOOPBACK: &str = "localhost,127.0.0.0/8,::1";
/// A proxy that is used for no host is the one way to tell oci-client that there is none, not even the environment's.
const NOWHERE: (&str, &str) = ("http://proxy.invalid", "*,0.0.0.0/0,::/0");

/// A forward proxy.
#[derive(Clone, PartialEq, Eq)]
pub struct Proxy {
    url: Url,
    no_proxy: Vec<String>,
}

impl Proxy {
    /// `http[s]://[user:password@]host[:port]`; the scheme may be left out for `http`. `no_proxy`: host names (with their
    /// subdomains), addresses, networks (`10.0.0.0/8`), or `*`.
    ///
    /// # Errors
    /// What is wrong, in words that do not repeat the text: it may hold a password.
    pub fn new(url: &str, no_proxy: impl IntoIterator<Item = String>) -> Result<Self, String> {
        let text = url.trim();
        let whole = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
        let url = Url::parse(&whole).map_err(|err| format!("it is no URL of a proxy (`http://host:port`): {err}"))?;
        match url.scheme() {
            "http" | "https" if url.host_str().is_some_and(|host| !host.is_empty()) => {}
            "http" | "https" => return Err("it names no host (`http://host:port`)".to_owned()),
            other => return Err(format!("proxies by `{other}` are not supported, only `http` and `https`")),
        }
        Ok(Self { url, no_proxy: no_proxy.into_iter().collect() })
    }

    /// With more exceptions.
    #[must_use]
    pub fn except(mut self, hosts: impl IntoIterator<Item = String>) -> Self {
        self.no_proxy.extend(hosts);
        self
    }

    /// Whether its URL holds a password.
    #[must_use]
    pub fn has_password(&self) -> bool {
        self.url.password().is_some()
    }

    /// `host:port`, for people; without the password.
    pub(crate) fn name(&self) -> String {
        let port = self.url.port_or_known_default().unwrap_or(80);
        format!("{}:{port}", self.url.host_str().unwrap_or("?"))
    }

    fn exceptions(&self) -> String {
        std::iter::once(LOOPBACK).chain(self.no_proxy.iter().map(String::as_str)).collect::<Vec<_>>().join(",")
    }
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Proxy({}, except {:?})", self.name(), self.no_proxy)
    }
}

/// URL and exceptions as oci-client takes them.
pub(crate) fn words(proxy: Option<&Proxy>) -> (String, String) {
    match proxy {
        Some(proxy) => (proxy.url.to_string(), proxy.exceptions()),
        None => (NOWHERE.0.to_owned(), NOWHERE.1.to_owned()),
    }
}

/// As our own client takes it.
pub(crate) fn rule(proxy: &Proxy) -> reqwest::Result<reqwest::Proxy> {
    Ok(reqwest::Proxy::https(proxy.url.clone())?.no_proxy(NoProxy::from_string(&proxy.exceptions())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proxy_is_named_without_its_password() {
        let proxy = Proxy::new("http://user:secret@proxy.example:3128", ["a.example".to_owned()]).unwrap();
        assert_eq!(proxy.name(), "proxy.example:3128");
        assert_eq!(Proxy::new("proxy.example", []).unwrap().name(), "proxy.example:80");
        assert!(!format!("{proxy:?}").contains("secret"));
        assert!(proxy.exceptions().ends_with("::1,a.example"));
    }

    #[test]
    fn what_is_no_http_proxy_is_refused_without_repeating_it() {
        for bad in ["socks5://u:secret@h:1080", "http://", "http://u:secret@:80", "http://u:secret@h:port", ""] {
            let said = Proxy::new(bad, []).unwrap_err();
            assert!(!said.contains("secret"), "{said}");
        }
        assert!(Proxy::new("socks5://h:1080", []).unwrap_err().contains("`socks5`"));
    }
}
