//! The distribution protocol, spoken with one repository by one user: manifests and blobs, down and up.
//!
//! Decides nothing about content: digests and sizes are checked by the callers.

use std::{sync::Mutex, sync::PoisonError, time::Duration};

use bytes::Bytes;
use marram_core::deployment::RegistryCredential;
use reqwest::{
    Client, RequestBuilder, Response, StatusCode, Url,
    header::{ACCEPT, CONTENT_LENGTH, CONTENT_TYPE, LOCATION, WWW_AUTHENTICATE},
};

use crate::{
    auth::{Challenge, challenge, credential_for},
    digest::Digest,
    failure::Failure,
    http::{Body, Transport, host_of, is_temporary, send, transfer_time},
    image::{Authority, RemoteImage},
    manifest::{ACCEPTED_MANIFESTS, MEDIA_TYPE_MANIFEST},
};

/// Largest answer of a token server.
const MAX_TOKEN_BYTES: u64 = 1 << 20;

/// What is going to be done; asked of the token server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    Pull,
    Push,
}

/// A repository, with what is known about how to be let in.
pub(crate) struct Session<'a> {
    transport: &'a Transport,
    client: Client,
    /// `scheme://host/v2/repository/`.
    base: Url,
    registry: Authority,
    repository: &'a str,
    action: Action,
    credential: Option<RegistryCredential>,
    authorization: Mutex<Authorization>,
}

#[derive(Clone)]
enum Authorization {
    None,
    Basic,
    Bearer(String),
}

impl<'a> Session<'a> {
    /// Asks nobody yet.
    pub(crate) fn new<'c>(
        transport: &'a Transport,
        registry: &Authority,
        image: &'a RemoteImage,
        credentials: impl Iterator<Item = &'c RegistryCredential>,
        action: Action,
    ) -> Result<Self, Failure> {
        let plain = transport.is_plain(registry);
        let (scheme, port) = if plain { ("http", 80) } else { ("https", 443) };
        let text = format!("{scheme}://{}/v2/{}/", registry.api(), image.repository);
        let base = Url::parse(&text).map_err(|err| Failure::refused(format!("{text}: {err}")))?;
        Ok(Self {
            transport,
            client: transport.client(plain)?,
            base,
            registry: registry.clone(),
            repository: &image.repository,
            action,
            credential: credential_for(registry, port, credentials).cloned(),
            authorization: Mutex::new(Authorization::None),
        })
    }

    /// The registry, for messages.
    pub(crate) fn host(&self) -> String {
        self.registry.to_string()
    }

    /// Reads a manifest by tag or digest, at most `limit` bytes, and compares it with the digest that the registry gives.
    pub(crate) async fn manifest(&self, reference: &str, limit: u64) -> Result<Vec<u8>, Failure> {
        let url = self.url(&format!("manifests/{reference}"))?;
        let request = || self.client.get(url.clone()).header(ACCEPT, ACCEPTED_MANIFESTS);
        let response = self.send(&url, self.transport.timeouts.idle, request).await?;
        let response = self.check(response, &format!("the manifest `{reference}`")).await?;
        let given = header(&response, "docker-content-digest");
        let bytes = self.body(response, limit).read("the manifest", limit).await?;
        let computed = Digest::of(&bytes);
        match given.as_deref().map(Digest::parse) {
            Some(Ok(given)) if given != computed => Err(Failure::refused(format!(
                "digest mismatch: {} gives the manifest `{reference}` the digest {given}, but it has {computed}",
                self.host()
            ))),
            // No header, or one by another algorithm, which we cannot check.
            _ => Ok(bytes),
        }
    }

    /// Opens a blob that is expected to have `size` bytes.
    pub(crate) async fn blob(&self, digest: &Digest, size: u64) -> Result<Body, Failure> {
        let url = self.url(&format!("blobs/{digest}"))?;
        let response = self.send(&url, self.transport.timeouts.idle, || self.client.get(url.clone())).await?;
        let response = self.check(response, &format!("the blob {digest}")).await?;
        Ok(self.body(response, size))
    }

    /// Uploads a blob unless it is there.
    pub(crate) async fn put_blob(&self, digest: &Digest, bytes: &Bytes) -> Result<(), Failure> {
        let url = self.url(&format!("blobs/{digest}"))?;
        let idle = self.transport.timeouts.idle;
        let present = self.send(&url, idle, || self.client.head(url.clone())).await?;
        if present.status().is_success() {
            return Ok(());
        }
        let url = self.url("blobs/uploads/")?;
        let begun = self.send(&url, idle, || self.client.post(url.clone()).header(CONTENT_LENGTH, 0)).await?;
        let begun = self.check(begun, "the upload").await?;
        let mut target = self.upload_location(&begun)?;
        target.query_pairs_mut().append_pair("digest", &digest.to_string());
        let request = || {
            let typed = self.client.put(target.clone()).header(CONTENT_TYPE, "application/octet-stream");
            typed.body(bytes.clone())
        };
        let done = self.send(&target, transfer_time(bytes.len() as u64), request).await?;
        self.check(done, &format!("the upload of {digest}")).await.map(|_| ())
    }

    /// Uploads the manifest under a tag.
    pub(crate) async fn put_manifest(&self, tag: &str, bytes: Bytes) -> Result<(), Failure> {
        let url = self.url(&format!("manifests/{tag}"))?;
        let request = || self.client.put(url.clone()).header(CONTENT_TYPE, MEDIA_TYPE_MANIFEST).body(bytes.clone());
        let done = self.send(&url, transfer_time(bytes.len() as u64), request).await?;
        let done = self.check(done, &format!("the manifest `{tag}`")).await?;
        let computed = Digest::of(&bytes);
        match header(&done, "docker-content-digest").as_deref().map(Digest::parse) {
            Some(Ok(given)) if given != computed => {
                Err(Failure::refused(format!("{} stored the manifest as {given}, not as {computed}", self.host())))
            }
            _ => Ok(()),
        }
    }

    fn url(&self, path: &str) -> Result<Url, Failure> {
        self.base.join(path).map_err(|err| Failure::refused(format!("{}{path}: {err}", self.base)))
    }

    fn body(&self, response: Response, expected: u64) -> Body {
        let host = host_of(response.url());
        Body::new(response, host, self.transport.timeouts.idle, expected)
    }

    /// Sends, and once more after the registry has said what it wants to know about us.
    async fn send(
        &self,
        url: &Url,
        limit: Duration,
        request: impl Fn() -> RequestBuilder,
    ) -> Result<Response, Failure> {
        let host = host_of(url);
        let ours = same_origin(url, &self.base);
        let first = send(if ours { self.authorized(request()) } else { request() }, limit, &host).await?;
        // A stranger, reached by a redirect or an upload location, is never told who we are.
        if first.status() != StatusCode::UNAUTHORIZED || !same_origin(first.url(), &self.base) {
            return Ok(first);
        }
        let headers = first.headers().get_all(WWW_AUTHENTICATE).iter().filter_map(|value| value.to_str().ok());
        let Some(asked) = challenge(headers) else { return Ok(first) };
        let Some(authorization) = self.answer(asked).await? else { return Ok(first) };
        *self.authorization.lock().unwrap_or_else(PoisonError::into_inner) = authorization;
        send(self.authorized(request()), limit, &host).await
    }

    fn authorized(&self, request: RequestBuilder) -> RequestBuilder {
        let authorization = self.authorization.lock().unwrap_or_else(PoisonError::into_inner).clone();
        match (authorization, &self.credential) {
            (Authorization::Basic, Some(own)) => request.basic_auth(&own.username, Some(&own.password)),
            (Authorization::Bearer(token), _) => request.bearer_auth(token),
            _ => request,
        }
    }

    /// What to send with the next requests; none when nothing better is known.
    async fn answer(&self, asked: Challenge) -> Result<Option<Authorization>, Failure> {
        match asked {
            Challenge::Basic => Ok(self.credential.is_some().then_some(Authorization::Basic)),
            Challenge::Bearer { realm, service } => {
                self.token(&realm, service.as_deref()).await.map(|token| Some(Authorization::Bearer(token)))
            }
        }
    }

    /// Asks a token server; anonymously without a credential.
    async fn token(&self, realm: &str, service: Option<&str>) -> Result<String, Failure> {
        let host = self.host();
        let mut url = Url::parse(realm).map_err(|err| {
            Failure::refused(format!("{host} names a token server `{realm}`, which is no URL ({err})"))
        })?;
        let client = self.token_client(&url)?;
        let actions = if self.action == Action::Pull { "pull" } else { "pull,push" };
        url.query_pairs_mut().append_pair("scope", &format!("repository:{}:{actions}", self.repository));
        if let Some(service) = service {
            url.query_pairs_mut().append_pair("service", service);
        }
        let mut request = client.get(url.clone());
        if let Some(own) = &self.credential {
            request = request.basic_auth(&own.username, Some(&own.password));
        }
        let response = send(request, self.transport.timeouts.idle, &host_of(&url)).await?;
        let response = self.check(response, "a token").await?;
        let bytes = self.body(response, MAX_TOKEN_BYTES).read("the token", MAX_TOKEN_BYTES).await?;
        read_token(&bytes).ok_or_else(|| Failure::refused(format!("the token server {} sent no token", host_of(&url))))
    }

    /// A token server gets the password: it is asked in plain text only where the registry would be.
    fn token_client(&self, url: &Url) -> Result<Client, Failure> {
        match url.scheme() {
            "https" => self.transport.client(false),
            "http" if Authority::parse(&host_of(url)).is_ok_and(|host| self.transport.is_plain(&host)) => {
                self.transport.client(true)
            }
            _ => {
                let (host, server) = (self.host(), host_of(url));
                Err(Failure::refused(format!(
                    "{host} names a token server without TLS, {server}; if that is what you want, add `{server}` to \
                     `registries.plain-http`"
                )))
            }
        }
    }

    /// An answer that is no success becomes a fault that says what to try.
    async fn check(&self, response: Response, what: &str) -> Result<Response, Failure> {
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let host = host_of(response.url());
        let complaint = self.body(response, 0).complaint().await;
        let registry = &self.registry;
        Err(match (status, &self.credential) {
            (status, _) if is_temporary(status) => {
                Failure::Unreachable(format!("{host} cannot serve {what} now ({status}{complaint})"))
            }
            (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN, None) => Failure::refused(format!(
                "{host} does not give {what} without credentials ({status}{complaint}); add an entry with the address \
                 `{registry}` to registryCredentials"
            )),
            (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN, Some(own)) => Failure::refused(format!(
                "{host} does not give {what} to the user `{}` ({status}{complaint}); check the entry with the address \
                 `{registry}` in registryCredentials",
                own.username
            )),
            (StatusCode::NOT_FOUND, _) => Failure::refused(format!(
                "{host} does not have {what} in the repository `{}` ({status}{complaint}); check the name, or push it",
                self.repository
            )),
            _ => Failure::refused(format!("{host} refuses {what} ({status}{complaint})")),
        })
    }

    /// Where to upload; it may be relative, and elsewhere, but not out of HTTPS.
    fn upload_location(&self, begun: &Response) -> Result<Url, Failure> {
        let text = header(begun, LOCATION.as_str());
        let url = text
            .as_deref()
            .and_then(|text| begun.url().join(text).ok())
            .filter(|url| url.scheme() == "https" || (url.scheme() == "http" && self.base.scheme() == "http"));
        url.ok_or_else(|| {
            let text = text.unwrap_or_default();
            Failure::refused(format!("{} names no usable place to upload to (`{text}`)", self.host()))
        })
    }
}

fn same_origin(a: &Url, b: &Url) -> bool {
    a.origin() == b.origin()
}

fn header(response: &Response, name: &str) -> Option<String> {
    response.headers().get(name)?.to_str().ok().map(str::to_owned)
}

fn read_token(bytes: &[u8]) -> Option<String> {
    let document: serde_json::Value = serde_json::from_slice(bytes).ok()?;
    let field = |key: &str| document.get(key)?.as_str().filter(|token| !token.is_empty()).map(str::to_owned);
    field("token").or_else(|| field("access_token"))
}
