//! What oci-client leaves to its user: bounds. Which hosts may be asked in plain text, how long anything may take, and a
//! GET of our own whose answer is read within a bound, for all that is pulled. oci-client reads manifests, tokens and the
//! error pages that come instead of blobs whole into memory whatever their size; of the answer to a request for a part of a
//! blob it shows neither which part it is (`Content-Range`) nor when to come back (`Retry-After`). Pushes are the library's.
//!
//! Known limits of oci-client 0.18 that nothing here can lift:
//! - It reads the error page that comes instead of an upload's acceptance whole into memory. It is bounded in time alone
//!   (the transfer's), so a hostile registry can send what the line carries in that time.
//! - It follows up to 10 redirects of an upload, and from HTTPS to plain HTTP too. Passwords and tokens are not sent along
//!   to another host or port. Our own GET follows 5, and none out of HTTPS.
//! - It follows an upload's location out of HTTPS, without password and token, but with the component.
//! - It cannot be made on a system without certificate authorities, not even for plain HTTP or with authorities of the
//!   owner's alone.

use std::{io, sync::OnceLock, time::Duration};

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream::BoxStream};
use marram_core::{
    pace::{Pace, Slowest},
    retry::Fault,
};
use oci_client::client::{CertificateEncoding, ClientConfig, ClientProtocol};
use reqwest::{Certificate, Client, RequestBuilder, Response, Url, redirect};
use tokio::time::{Instant, timeout};

use crate::{
    answer::{innermost, unreachable},
    failure::Failure,
    image::Authority,
    proxy::{self, Proxy},
    settings::{Settings, SettingsError, Timeouts, hosts},
};

/// How we call ourselves.
const USER_AGENT: &str = concat!("marram/", env!("CARGO_PKG_VERSION"));
/// Most redirects of one request; object stores need one or two.
const MAX_REDIRECTS: usize = 5;
/// Most of an error page that is read.
const MAX_ERROR_BYTES: usize = 8 << 10;

/// What the settings say about connections, and our own client, made when first needed: reading the system's
/// certificates takes time.
pub(crate) struct Transport {
    client: OnceLock<Client>,
    proxy: Option<Proxy>,
    plain_http: Vec<Authority>,
    /// PEM.
    extra_roots: Vec<Vec<u8>>,
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
            client: OnceLock::new(),
            proxy: settings.proxy.clone(),
            plain_http: hosts("plain-http", &settings.plain_http)?,
            extra_roots: settings.extra_roots.clone(),
            roots,
            timeouts: settings.timeouts,
        })
    }

    /// Whether this registry is asked in plain text.
    pub(crate) fn is_plain(&self, registry: &Authority) -> bool {
        registry.is_loopback() || self.is_listed(registry)
    }

    /// Whether the owner named this host as one to be asked in plain text.
    pub(crate) fn is_listed(&self, host: &Authority) -> bool {
        self.plain_http.iter().any(|listed| listed.same(host, 80))
    }

    /// Our own client.
    pub(crate) fn client(&self) -> Result<Client, Failure> {
        if let Some(client) = self.client.get() {
            return Ok(client.clone());
        }
        let client = self.make_client(redirect::Policy::custom(follow))?;
        Ok(self.client.get_or_init(|| client).clone())
    }

    /// A client of our own that follows nothing: for requests whose body is a secret, which a redirect would hand on.
    pub(crate) fn client_for_secrets(&self) -> Result<Client, Failure> {
        self.make_client(redirect::Policy::none())
    }

    fn make_client(&self, redirects: redirect::Policy) -> Result<Client, Failure> {
        let mut builder = Client::builder()
            .user_agent(USER_AGENT)
            .connect_timeout(self.timeouts.connect)
            .redirect(redirects)
            .tls_certs_merge(self.roots.iter().cloned())
            // What the environment says has been read by our caller, or is none of our business.
            .no_proxy();
        if let Some(proxy) = &self.proxy {
            let rule = proxy::rule(proxy).map_err(|err| Failure::refused(innermost(&err)))?;
            builder = builder.proxy(rule);
        }
        builder.build().map_err(|err| no_https(&innermost(&err)))
    }

    /// Sends a request of our own and waits for the head of the answer, at most `limit`.
    pub(crate) async fn send(&self, request: RequestBuilder, limit: Duration, host: &str) -> Result<Response, Failure> {
        let failure = match timeout(limit, request.send()).await {
            Ok(Ok(response)) => return Ok(response),
            Ok(Err(err)) => unreachable(&err, host),
            Err(_) => silent(host, limit),
        };
        Err(match (failure, &self.proxy) {
            (Failure::Unreachable { message, fault }, Some(proxy)) => {
                Failure::unreachable(fault, format!("{message}; the proxy {} is set", proxy.name()))
            }
            (failure, _) => failure,
        })
    }

    /// How oci-client is to ask this registry.
    pub(crate) fn config(&self, registry: &Authority, plain: bool) -> ClientConfig {
        let certificate =
            |pem: &Vec<u8>| oci_client::client::Certificate { encoding: CertificateEncoding::Pem, data: pem.clone() };
        let (proxy, except) = proxy::words(self.proxy.as_ref());
        ClientConfig {
            protocol: ClientProtocol::HttpsExcept(plain.then(|| registry.to_string()).into_iter().collect()),
            extra_root_certificates: self.extra_roots.iter().map(certificate).collect(),
            platform_resolver: None,
            use_monolithic_push: true,
            user_agent: USER_AGENT,
            connect_timeout: Some(self.timeouts.connect),
            // It would count while a body is sent, and end slow uploads; each call is bounded by its caller instead.
            read_timeout: None,
            https_proxy: Some(proxy),
            no_proxy: Some(except),
            ..ClientConfig::default()
        }
    }
}

/// What to try where no client can be made.
pub(crate) fn no_https(cause: &str) -> Failure {
    Failure::refused(format!(
        "registries cannot be asked from this device: {cause}; install the system's certificate authorities (Debian: \
         `apt-get install ca-certificates`), or name a file of them in SSL_CERT_FILE"
    ))
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

/// Longest time for the whole upload of `bytes`, of which nobody tells how far it is.
pub(crate) fn upload_time(bytes: u64, slowest: Slowest) -> Duration {
    Duration::from_secs(60 + bytes / u64::from(slowest.rate.max(1)))
}

pub(crate) fn silent(host: &str, limit: Duration) -> Failure {
    Failure::unreachable(Fault::NoAnswer, format!("{host} did not answer within {} s", limit.as_secs_f32()))
}

/// Body of an answer, piece by piece, within its bounds of time.
pub(crate) struct Body {
    stream: BoxStream<'static, io::Result<Bytes>>,
    announced: Option<u64>,
    host: String,
    idle: Duration,
    slowest: Slowest,
    pace: Pace,
}

impl Body {
    /// Of an answer to our own request.
    pub(crate) fn of_response(response: Response, timeouts: Timeouts) -> Self {
        let (announced, host) = (response.content_length(), host_of(response.url()));
        let stream = response.bytes_stream().map_err(io::Error::other).boxed();
        let Timeouts { idle, slowest, .. } = timeouts;
        Self { stream, announced, host, idle, slowest, pace: Pace::new(slowest) }
    }

    /// What the sender announced.
    pub(crate) fn announced(&self) -> Option<u64> {
        self.announced
    }

    /// The next piece; none at the end.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, Failure> {
        let (begun, patience) = (Instant::now(), self.pace.patience());
        match timeout(patience.min(self.idle), self.stream.next()).await {
            Ok(None) => Ok(None),
            Ok(Some(Ok(piece))) => {
                self.pace.received(begun.elapsed(), piece.len());
                Ok(Some(piece))
            }
            Ok(Some(Err(err))) => {
                let text = format!("{} broke off the transfer: {}", self.host, innermost(&err));
                Err(Failure::unreachable(Fault::BrokeOff, text))
            }
            Err(_) => Err(Failure::unreachable(Fault::BrokeOff, self.too_slow(patience))),
        }
    }

    fn too_slow(&self, patience: Duration) -> String {
        let Slowest { rate, window } = self.slowest;
        match patience < self.idle {
            true => format!("{} sends too slowly (below {rate} bytes/s for {} s)", self.host, window.as_secs_f32()),
            false => format!("{} sent nothing for {} s", self.host, self.idle.as_secs_f32()),
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

    /// As much of an error page as is worth reading.
    pub(crate) async fn beginning(mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        while let Ok(Some(chunk)) = self.next().await {
            bytes.extend_from_slice(&chunk[..chunk.len().min(MAX_ERROR_BYTES - bytes.len())]);
            if bytes.len() == MAX_ERROR_BYTES {
                break;
            }
        }
        bytes
    }
}

/// `host:port` of a URL, for messages.
pub(crate) fn host_of(url: &Url) -> String {
    let host = url.host_str().unwrap_or("?");
    url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}
