//! HTTP as we allow it: which hosts may be asked in plain text, how long anything may take, how much may be read.
//!
//! Built on reqwest and not on oci-client, which reads manifests, tokens and error pages whole into memory whatever their
//! size, waits without a bound for a slow sender, drops the reason when a token is refused, and panics where the system
//! has no certificate authorities.

use std::{error::Error as _, sync::OnceLock, time::Duration};

use bytes::Bytes;
use reqwest::{Certificate, Client, ClientBuilder, RequestBuilder, Response, StatusCode, Url, redirect};
use tokio::time::{Instant, timeout, timeout_at};

use crate::{
    failure::Failure,
    image::Authority,
    settings::{Settings, SettingsError, Timeouts, hosts},
};

/// Most redirects of one request; object stores need one or two.
const MAX_REDIRECTS: usize = 5;
/// Slowest transfer, in bytes a second over its whole length, that is waited for: half of what GPRS gives. It bounds the
/// time of a sender that stays just within the idle time-out.
const MIN_RATE: u64 = 2 << 10;
/// Most of an error page that is read.
const MAX_ERROR_BYTES: usize = 8 << 10;
/// Most of an error page that is shown.
const MAX_ERROR_CHARS: usize = 200;

/// The clients of one [`crate::Registry`], made when first needed: reading the system's certificates takes time.
pub(crate) struct Transport {
    plain: OnceLock<Client>,
    secure: OnceLock<Client>,
    plain_http: Vec<Authority>,
    roots: Vec<Certificate>,
    pub(crate) timeouts: Timeouts,
}

impl Transport {
    pub(crate) fn new(settings: &Settings) -> Result<Self, SettingsError> {
        let mut roots = Vec::new();
        for (index, pem) in settings.extra_roots.iter().enumerate() {
            let bad = |reason: String| SettingsError::Certificate { number: index + 1, reason };
            let found = Certificate::from_pem_bundle(pem).map_err(|err| bad(innermost(&err)))?;
            if found.is_empty() {
                return Err(bad("it holds no certificate".to_owned()));
            }
            roots.extend(found);
        }
        Ok(Self {
            plain: OnceLock::new(),
            secure: OnceLock::new(),
            plain_http: hosts("plain-http", &settings.plain_http)?,
            roots,
            timeouts: settings.timeouts,
        })
    }

    /// Whether this registry is asked in plain text.
    pub(crate) fn is_plain(&self, registry: &Authority) -> bool {
        registry.is_loopback() || self.plain_http.iter().any(|host| host.same(registry, 80))
    }

    /// The client for `http` (`plain`) or `https`.
    pub(crate) fn client(&self, plain: bool) -> Result<Client, Failure> {
        let slot = if plain { &self.plain } else { &self.secure };
        if let Some(client) = slot.get() {
            return Ok(client.clone());
        }
        let client = if plain { self.build_plain() } else { self.builder().build() }
            .map_err(|err| Failure::refused(format!("HTTPS cannot be used here: {}", innermost(&err))))?;
        Ok(slot.get_or_init(|| client).clone())
    }

    /// Plain registries are on this device or in its network: no proxy. They must work on a device without certificate
    /// authorities too; only a redirect to HTTPS fails there.
    fn build_plain(&self) -> reqwest::Result<Client> {
        let builder = || self.builder().no_proxy();
        builder().build().or_else(|_| builder().tls_certs_only([]).build())
    }

    fn builder(&self) -> ClientBuilder {
        Client::builder()
            .user_agent(concat!("marram/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(self.timeouts.connect)
            .redirect(redirect::Policy::custom(follow))
            .tls_certs_merge(self.roots.iter().cloned())
    }
}

/// Follows a redirect unless it leaves HTTPS: content is checked by digest, but what a tag names is not.
fn follow(attempt: redirect::Attempt<'_>) -> redirect::Action {
    let was_secure = attempt.previous().last().is_some_and(|url| url.scheme() == "https");
    if attempt.previous().len() > MAX_REDIRECTS {
        attempt.error("too many redirects")
    } else if was_secure && attempt.url().scheme() != "https" {
        attempt.error("a redirect from HTTPS to plain HTTP is not followed")
    } else {
        attempt.follow()
    }
}

/// Longest time for the whole transfer of `bytes`, beside the idle time-out.
pub(crate) fn transfer_time(bytes: u64) -> Duration {
    Duration::from_secs(60 + bytes / MIN_RATE)
}

/// Sends a request and waits for the head of the answer, at most `limit`.
pub(crate) async fn send(request: RequestBuilder, limit: Duration, host: &str) -> Result<Response, Failure> {
    match timeout(limit, request.send()).await {
        Ok(Ok(response)) => Ok(response),
        Ok(Err(err)) => Err(unreachable(&err, host)),
        Err(_) => Err(Failure::Unreachable(format!("{host} did not answer within {} s", limit.as_secs_f32()))),
    }
}

/// Body of an answer, piece by piece, within its bounds of time.
pub(crate) struct Body {
    response: Response,
    host: String,
    idle: Duration,
    deadline: Instant,
}

impl Body {
    /// `expected`: bytes, for the bound on the whole time.
    pub(crate) fn new(response: Response, host: String, idle: Duration, expected: u64) -> Self {
        Self { response, host, idle, deadline: Instant::now() + transfer_time(expected) }
    }

    /// What the sender announced.
    pub(crate) fn announced(&self) -> Option<u64> {
        self.response.content_length()
    }

    /// The next piece; none at the end.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, Failure> {
        let until = self.deadline.min(Instant::now() + self.idle);
        match timeout_at(until, self.response.chunk()).await {
            Ok(Ok(chunk)) => Ok(chunk),
            Ok(Err(err)) => {
                Err(Failure::Unreachable(format!("{} broke off the transfer: {}", self.host, innermost(&err))))
            }
            Err(_) if Instant::now() >= self.deadline => {
                Err(Failure::Unreachable(format!("{} sends too slowly (below {MIN_RATE} bytes/s)", self.host)))
            }
            Err(_) => {
                Err(Failure::Unreachable(format!("{} sent nothing for {} s", self.host, self.idle.as_secs_f32())))
            }
        }
    }

    /// All of it, unless that is more than `limit` bytes.
    pub(crate) async fn read(mut self, what: &str, limit: u64) -> Result<Vec<u8>, Failure> {
        let too_large = |host: &str| Failure::refused(format!("{what} from {host} is larger than {limit} bytes"));
        if self.announced().is_some_and(|size| size > limit) {
            return Err(too_large(&self.host));
        }
        let mut bytes = Vec::new();
        while let Some(chunk) = self.next().await? {
            if (bytes.len() + chunk.len()) as u64 > limit {
                return Err(too_large(&self.host));
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(bytes)
    }

    /// What an error page says, in one bounded line with a leading `: `; empty when it says nothing.
    pub(crate) async fn complaint(mut self) -> String {
        let mut bytes = Vec::new();
        while let Ok(Some(chunk)) = self.next().await {
            bytes.extend_from_slice(&chunk[..chunk.len().min(MAX_ERROR_BYTES - bytes.len())]);
            if bytes.len() == MAX_ERROR_BYTES {
                break;
            }
        }
        complaint_of(&bytes).map_or_else(String::new, |text| format!(": {text}"))
    }
}

/// The messages of an OCI error document.
fn complaint_of(bytes: &[u8]) -> Option<String> {
    let document: serde_json::Value = serde_json::from_slice(bytes).ok()?;
    let errors = document.get("errors")?.as_array()?;
    let text = |error: &serde_json::Value| {
        let field = |key: &str| error.get(key).and_then(serde_json::Value::as_str).filter(|text| !text.is_empty());
        field("message").or_else(|| field("code")).map(str::to_owned)
    };
    let joined = errors.iter().filter_map(text).collect::<Vec<_>>().join("; ");
    let line: String = joined.chars().map(|c| if c.is_control() { ' ' } else { c }).take(MAX_ERROR_CHARS).collect();
    (!line.is_empty()).then_some(line)
}

/// True when the registry may answer the same request later.
pub(crate) fn is_temporary(status: StatusCode) -> bool {
    status.is_server_error() || matches!(status, StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS)
}

/// A request that got no answer, with what to try.
fn unreachable(err: &reqwest::Error, host: &str) -> Failure {
    let cause = innermost(err);
    if err.is_redirect() || err.is_builder() {
        return Failure::refused(format!("{host}: {cause}"));
    }
    let texts = chain(err);
    // rustls' word for an answer that is no TLS at all.
    if texts.iter().any(|text| text.contains("InvalidContentType")) {
        return Failure::refused(format!(
            "{host} does not speak TLS; if plain HTTP is what you want, add `{host}` to `registries.plain-http`"
        ));
    }
    if texts.iter().any(|text| text.contains("certificate")) {
        return Failure::Unreachable(format!(
            "{host} shows a certificate that is not accepted ({cause}); check the device's clock, or add the registry's \
             certificate authority"
        ));
    }
    if err.is_timeout() {
        return Failure::Unreachable(format!("{host} is out of reach (no connection in time)"));
    }
    Failure::Unreachable(format!("{host} is out of reach ({cause})"))
}

fn chain(err: &reqwest::Error) -> Vec<String> {
    let mut texts = vec![err.to_string()];
    let mut source = err.source();
    while let Some(err) = source {
        texts.push(err.to_string());
        source = err.source();
    }
    texts
}

/// The last cause: the one that says something.
fn innermost(err: &reqwest::Error) -> String {
    chain(err).pop().unwrap_or_default()
}

/// `host:port` of a URL, for messages.
pub(crate) fn host_of(url: &Url) -> String {
    let host = url.host_str().unwrap_or("?");
    url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}
