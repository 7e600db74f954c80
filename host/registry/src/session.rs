//! One repository, asked by one user. What is pulled, manifests, blobs and tokens, is asked for here, within bounds (see
//! `http`); pushes are oci-client's, and this says how long they may take and what their faults mean.
//!
//! Who is told a password is decided here too, once: the registry itself, or the token server that its first answer names
//! and that was found fit. The library would ask the registry again and believe another answer, so it gets what lets us in
//! ready to show. A registry that asks for credentials must say so at `/v2/`.
//!
//! Decides nothing about content: digests and sizes are checked by the callers.

use std::{
    future::Future,
    panic::AssertUnwindSafe,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::{FutureExt, Stream};
use marram_core::{deployment::RegistryCredential, ports::Progress};
use oci_client::{
    Client, Reference, RegistryOperation, errors::Result as OciResult, secrets::RegistryAuth,
    token_cache::RegistryTokenType,
};
use reqwest::{
    RequestBuilder, Response, StatusCode, Url,
    header::{ACCEPT, CONTENT_RANGE, HeaderValue, RANGE, WWW_AUTHENTICATE},
};
use tokio::{
    sync::{Mutex, OnceCell},
    time::timeout,
};

use crate::{
    answer::{Asker, Head, innermost, is_unauthorized},
    auth::{TokenServer, credential_for, token_of, token_server},
    digest::Digest,
    failure::{Failure, blocking},
    http::{Body, Transport, host_of, no_https, send, silent, transfer_time},
    image::{Authority, RemoteImage},
    manifest::{ACCEPTED_MANIFESTS, Descriptor, MEDIA_TYPE_MANIFEST},
    range,
    retry::Retries,
};

/// Piece of an upload.
const UPLOAD_BYTES: usize = 64 << 10;
/// Largest answer of a token server. Tokens that list many rights have some ten kilobytes.
const MAX_TOKEN_BYTES: u64 = 1 << 20;

/// A repository, with what is known about how to be let in.
pub(crate) struct Session<'a> {
    transport: &'a Transport,
    registry: Authority,
    /// `scheme://host/v2/`.
    base: Url,
    image: Reference,
    operation: RegistryOperation,
    pub(crate) retries: Retries,
    credential: Option<RegistryCredential>,
    /// None: we have not asked yet.
    entry: Mutex<Option<Arc<Entry>>>,
}

/// How we were let in.
struct Entry {
    pass: Pass,
    /// Where a new token is to be had when this one runs out. None: it is no token.
    renewal: Option<Url>,
    /// The registry has let it in. One that it has never let in is not renewed: the next would fare no better.
    worked: AtomicBool,
    /// Of this entry alone: its store keeps the first credential that it sees for a registry.
    client: OnceCell<Client>,
}

/// What lets us in.
enum Pass {
    /// Nothing was asked for, or there is nothing to give.
    None,
    /// The session's credential.
    Password,
    /// What follows `Bearer`.
    Token(String),
}

impl Entry {
    fn new(pass: Pass, renewal: Option<Url>) -> Self {
        Self { pass, renewal, worked: AtomicBool::new(false), client: OnceCell::new() }
    }
}

impl<'a> Session<'a> {
    /// Asks nobody yet.
    pub(crate) fn new<'c>(
        transport: &'a Transport,
        registry: &Authority,
        image: &RemoteImage,
        credentials: impl Iterator<Item = &'c RegistryCredential>,
        operation: RegistryOperation,
        retries: Retries,
    ) -> Result<Self, Failure> {
        let (scheme, port) = if transport.is_plain(registry) { ("http", 80) } else { ("https", 443) };
        let text = format!("{scheme}://{}/v2/", registry.api());
        let base = Url::parse(&text).map_err(|err| Failure::refused(format!("{text}: {err}")))?;
        let tag = image.tag.clone().unwrap_or_default();
        Ok(Self {
            transport,
            registry: registry.clone(),
            base,
            image: Reference::with_tag(registry.api().to_string(), image.repository.clone(), tag),
            operation,
            retries,
            credential: credential_for(registry, port, credentials).cloned(),
            entry: Mutex::default(),
        })
    }

    /// Reads a manifest by tag or digest, at most `limit` bytes, and compares it with the digest that the registry gives.
    pub(crate) async fn manifest(&self, reference: &str, limit: u64) -> Result<Vec<u8>, Failure> {
        self.retries.run(|| self.manifest_once(reference, limit)).await
    }

    async fn manifest_once(&self, reference: &str, limit: u64) -> Result<Vec<u8>, Failure> {
        let url = self.url("manifests", reference)?;
        let response =
            self.ask(|| self.own_client(&url).map(|c| c.get(url.clone()).header(ACCEPT, ACCEPTED_MANIFESTS)));
        let response = response.await?;
        let given = response.headers().get("docker-content-digest").and_then(|value| value.to_str().ok());
        let given = given.map(Digest::parse);
        let body = self.body(response, &format!("the manifest `{reference}`"), limit).await?;
        let bytes = body.read("the manifest", limit).await?;
        let computed = Digest::of(&bytes);
        match given {
            Some(Ok(given)) if given != computed => Err(Failure::refused(format!(
                "digest mismatch: {} gives the manifest `{reference}` the digest {given}, but it has {computed}",
                self.registry
            ))),
            // No header, or one by another algorithm, which we cannot check.
            _ => Ok(bytes),
        }
    }

    /// Opens a blob at byte `offset`, or at its start when the registry cannot do that; says which. One try: whoever reads
    /// it knows how far he came.
    pub(crate) async fn blob(&self, blob: &Descriptor, offset: u64) -> Result<(Body, u64), Failure> {
        if offset > 0
            && let Some(body) = self.rest_of_blob(blob, offset).await?
        {
            return Ok(body);
        }
        let (url, what) = (self.url("blobs", &blob.digest.to_string())?, format!("the blob {}", blob.digest));
        let response = self.ask(|| self.own_client(&url).map(|client| client.get(url.clone()))).await?;
        if response.status() == StatusCode::PARTIAL_CONTENT {
            let host = host_of(response.url());
            return Err(Failure::refused(format!("{host} sent a part of {what} that nobody asked for")));
        }
        Ok((self.body(response, &what, blob.size).await?, 0))
    }

    /// None: the registry sent another part than was asked for, or says that there is none.
    async fn rest_of_blob(&self, blob: &Descriptor, offset: u64) -> Result<Option<(Body, u64)>, Failure> {
        let (url, range) = (self.url("blobs", &blob.digest.to_string())?, format!("bytes={offset}-"));
        let request = || self.own_client(&url).map(|client| client.get(url.clone()).header(RANGE, &range));
        let response = self.ask(request).await?;
        match response.status() {
            StatusCode::PARTIAL_CONTENT => {
                let given = response.headers().get(CONTENT_RANGE).and_then(|value| value.to_str().ok());
                if !given.is_some_and(|given| range::is_rest(given, offset, blob.size)) {
                    tracing::warn!(url = %response.url(), range, ?given, "the registry sent another part; the blob is fetched anew");
                    return Ok(None);
                }
                let body = self.body(response, "the rest of a blob", blob.size - offset).await?;
                Ok(Some((body, offset)))
            }
            StatusCode::RANGE_NOT_SATISFIABLE => Ok(None),
            _ => self.body(response, &format!("the blob {}", blob.digest), blob.size).await.map(|body| Some((body, 0))),
        }
    }

    fn url(&self, kind: &str, reference: &str) -> Result<Url, Failure> {
        let path = format!("{}/{kind}/{reference}", self.image.repository());
        self.base.join(&path).map_err(|err| Failure::refused(format!("{}{path}: {err}", self.base)))
    }

    /// Uploads a blob unless it is there.
    pub(crate) async fn put_blob(
        &self,
        digest: &Digest,
        bytes: &Bytes,
        progress: &Arc<Progress>,
    ) -> Result<(), Failure> {
        self.retries.run(|| self.put_blob_once(digest, bytes, progress)).await
    }

    async fn put_blob_once(&self, digest: &Digest, bytes: &Bytes, progress: &Arc<Progress>) -> Result<(), Failure> {
        let (idle, name) = (self.transport.timeouts.idle, &digest.to_string());
        let look = |client: Client| async move { client.blob_exists(&self.image, name).await };
        // When this goes wrong, the upload says why.
        if self.call(idle, look).await?.unwrap_or(false) {
            return Ok(());
        }
        let limit = idle + transfer_time(bytes.len() as u64);
        let size = bytes.len() as u64;
        let upload = |client: Client| async move {
            client.push_blob_stream(&self.image, told(bytes.clone(), progress), name, Some(size)).await
        };
        let done = self.call(limit, upload).await?;
        done.map_err(|err| self.asker().fault(&err, &format!("the upload of {digest}"))).map(|_| ())
    }

    /// Uploads the manifest under the image's tag.
    pub(crate) async fn put_manifest(&self, bytes: &Bytes) -> Result<(), Failure> {
        self.retries.run(|| self.put_manifest_once(bytes)).await
    }

    async fn put_manifest_once(&self, bytes: &Bytes) -> Result<(), Failure> {
        let (computed, limit) = (Digest::of(bytes), transfer_time(bytes.len() as u64));
        let media_type = HeaderValue::from_static(MEDIA_TYPE_MANIFEST);
        let media_type = &media_type;
        let upload = |client: Client| async move {
            client.push_manifest_raw(&self.image, bytes.clone(), media_type.clone()).await
        };
        let done = self.call(limit, upload).await?;
        let what = || format!("the manifest `{}`", self.image.tag().unwrap_or_default());
        let location = done.map_err(|err| self.asker().fault(&err, &what()))?;
        // Most registries name the digest there.
        match location.rsplit('/').next().map(Digest::parse) {
            Some(Ok(given)) if given != computed => {
                Err(Failure::refused(format!("{} stored the manifest as {given}, not as {computed}", self.registry)))
            }
            _ => Ok(()),
        }
    }

    fn asker(&self) -> Asker<'_> {
        let user = self.credential.as_ref().map(|own| own.username.as_str());
        Asker { registry: &self.registry, repository: self.image.repository(), user }
    }

    /// Lets the library do something, at most so long; once more when the token has run out.
    async fn call<T, F>(&self, limit: Duration, call: impl Fn(Client) -> F) -> Result<OciResult<T>, Failure>
    where
        F: Future<Output = OciResult<T>>,
    {
        let entry = self.entry().await?;
        let first = self.within(limit, call(self.client(&entry).await?)).await?;
        if !first.as_ref().err().is_some_and(is_unauthorized) {
            entry.worked.store(true, Relaxed);
        } else if let Some(entry) = self.renew(&entry).await? {
            return self.within(limit, call(self.client(&entry).await?)).await;
        }
        Ok(first)
    }

    /// The library panics on some answers (an upload location that is no URL): a registry must not end the task with that.
    async fn within<T>(
        &self,
        limit: Duration,
        call: impl Future<Output = OciResult<T>>,
    ) -> Result<OciResult<T>, Failure> {
        match timeout(limit, AssertUnwindSafe(call).catch_unwind()).await {
            Ok(Ok(result)) => Ok(result),
            Ok(Err(_)) => Err(Failure::refused(format!("{} sent an answer that makes no sense", self.registry))),
            Err(_) => Err(silent(&self.registry.to_string(), limit)),
        }
    }

    /// The library's client, which shows what let us in and never looks for more.
    async fn client(&self, entry: &Entry) -> Result<Client, Failure> {
        let make = async || {
            let config = self.transport.config(&self.registry.api(), self.base.scheme() == "http");
            let client = blocking(move || {
                // It makes a client with defaults too, and panics when that fails.
                reqwest::Client::builder().build().map_err(|err| no_https(&innermost(&err)))?;
                Client::try_from(config).map_err(|err| no_https(&err.to_string()))
            })
            .await?;
            self.equip(&client, &entry.pass).await;
            Ok(client)
        };
        entry.client.get_or_try_init(make).await.cloned()
    }

    async fn equip(&self, client: &Client, pass: &Pass) {
        let registry = self.image.resolve_registry();
        match (pass, &self.credential) {
            // It shows this as it is and asks nobody.
            (Pass::Token(token), _) => {
                client.store_auth_if_needed(registry, &RegistryAuth::Bearer(token.clone())).await;
            }
            // Left to itself, it would ask the registry again, and tell the password to a token server that that answer
            // names. So it believes that it has asked; what is stored does not run out.
            (Pass::Password, Some(own)) => {
                client.store_auth_if_needed(registry, &RegistryAuth::Anonymous).await;
                for operation in [RegistryOperation::Pull, RegistryOperation::Push] {
                    let basic = RegistryTokenType::Basic(own.username.clone(), own.password.clone());
                    client.tokens.insert(&self.image, operation, basic).await;
                }
            }
            // Without anything in its store it asks for nothing.
            _ => {}
        }
    }

    async fn entry(&self) -> Result<Arc<Entry>, Failure> {
        let mut slot = self.entry.lock().await;
        if let Some(entry) = &*slot {
            return Ok(entry.clone());
        }
        let entry = Arc::new(self.enter().await?);
        *slot = Some(entry.clone());
        Ok(entry)
    }

    /// Asks the registry what it wants to know about us, and gives it that.
    async fn enter(&self) -> Result<Entry, Failure> {
        let idle = self.transport.timeouts.idle;
        let asked = send(self.own_client(&self.base)?.get(self.base.clone()), idle, &host_of(&self.base)).await?;
        // A stranger, reached by a redirect, is never told who we are.
        let ours = asked.url().origin() == self.base.origin();
        if asked.status() != StatusCode::UNAUTHORIZED || !asked.headers().contains_key(WWW_AUTHENTICATE) || !ours {
            return Ok(Entry::new(Pass::None, None));
        }
        let headers = asked.headers().get_all(WWW_AUTHENTICATE).iter().filter_map(|value| value.to_str().ok());
        match token_server(headers) {
            Some(server) => {
                let url = self.token_url(&server)?;
                Ok(Entry::new(Pass::Token(self.token(&url).await?), Some(url)))
            }
            None if self.credential.is_some() => Ok(Entry::new(Pass::Password, None)),
            None => Ok(Entry::new(Pass::None, None)),
        }
    }

    /// The way in after a token ran out: a new one from the same token server. A long download may need several.
    async fn renew(&self, old: &Entry) -> Result<Option<Arc<Entry>>, Failure> {
        let Some(url) = old.renewal.as_ref().filter(|_| old.worked.load(Relaxed)) else { return Ok(None) };
        let entry = Arc::new(Entry::new(Pass::Token(self.token(url).await?), Some(url.clone())));
        *self.entry.lock().await = Some(entry.clone());
        Ok(Some(entry))
    }

    /// Asks a token server that was found fit. Its refusal is an answer, its trouble is none: a copy on this device may
    /// stand in then.
    async fn token(&self, url: &Url) -> Result<String, Failure> {
        let request = self.show(&Pass::Password, self.own_client(url)?.get(url.clone()));
        let response = send(request, self.transport.timeouts.idle, &host_of(url)).await?;
        let answer = self.body(response, "a token", 0).await?.read("the token", MAX_TOKEN_BYTES).await?;
        token_of(&answer)
            .ok_or_else(|| Failure::refused(format!("the token server of {} sent no token", self.registry)))
    }

    /// URL of the request for a token. A token server gets the password. It is asked in plain text only where the owner
    /// said so, or on this device when the registry is asked in plain text too: one far away must not learn what is said
    /// to a port of this device.
    fn token_url(&self, server: &TokenServer) -> Result<Url, Failure> {
        let (registry, realm) = (&self.registry, &server.realm);
        let mut url = Url::parse(realm).map_err(|err| {
            Failure::refused(format!("{registry} names a token server `{realm}`, which is no URL ({err})"))
        })?;
        let host = host_of(&url);
        let near = |host: &Authority| host.is_loopback() && self.base.scheme() == "http";
        let plain = || Authority::parse(&host).is_ok_and(|host| self.transport.is_listed(&host) || near(&host));
        if url.scheme() != "https" && !(url.scheme() == "http" && plain()) {
            return Err(Failure::refused(format!(
                "{registry} names a token server without TLS, {host}; if that is what you want, add `{host}` to \
                 `registries.plain-http`"
            )));
        }
        let actions = if self.operation == RegistryOperation::Pull { "pull" } else { "pull,push" };
        url.query_pairs_mut().append_pair("scope", &format!("repository:{}:{actions}", self.image.repository()));
        if let Some(service) = &server.service {
            url.query_pairs_mut().append_pair("service", service);
        }
        Ok(url)
    }

    /// Asks the registry; once more when the token has run out.
    async fn ask(&self, request: impl Fn() -> Result<RequestBuilder, Failure>) -> Result<Response, Failure> {
        let (idle, host) = (self.transport.timeouts.idle, self.registry.to_string());
        let entry = self.entry().await?;
        let first = send(self.show(&entry.pass, request()?), idle, &host).await?;
        if first.status() != StatusCode::UNAUTHORIZED {
            entry.worked.store(true, Relaxed);
        } else if let Some(entry) = self.renew(&entry).await? {
            return send(self.show(&entry.pass, request()?), idle, &host).await;
        }
        Ok(first)
    }

    /// Body of an answer to a request of our own, unless it is a refusal; not read yet. `expected`: bytes.
    async fn body(&self, response: Response, what: &str, expected: u64) -> Result<Body, Failure> {
        let head = Head::of(&response);
        let body = Body::of_response(response, self.transport.timeouts.idle, expected);
        self.asker().check(head, what, body).await
    }

    /// Our own client for this URL.
    fn own_client(&self, url: &Url) -> Result<reqwest::Client, Failure> {
        self.transport.client(url.scheme() == "http")
    }

    fn show(&self, pass: &Pass, request: RequestBuilder) -> RequestBuilder {
        match (pass, &self.credential) {
            (Pass::Token(token), _) => request.bearer_auth(token),
            (Pass::Password, Some(own)) => request.basic_auth(&own.username, Some(&own.password)),
            _ => request,
        }
    }
}

/// The bytes as the library takes them for an upload, and how far it is. It asks for the next piece when it has sent the
/// one before.
fn told(mut bytes: Bytes, progress: &Arc<Progress>) -> impl Stream<Item = OciResult<Bytes>> + Send + 'static {
    let (progress, total) = (progress.clone(), bytes.len() as u64);
    futures_util::stream::iter(std::iter::from_fn(move || {
        progress.set(total - bytes.len() as u64, total);
        let piece = bytes.split_to(bytes.len().min(UPLOAD_BYTES));
        (!piece.is_empty()).then_some(Ok(piece))
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{image::Image, settings::Settings};
    use marram_core::retry::Standby;

    /// Whether the registry may send us to this token server, when the owner lists these hosts as plain.
    fn allowed(registry: &str, realm: &str, plain_http: &[&str]) -> bool {
        let mut settings = Settings::new("unused");
        settings.plain_http = plain_http.iter().map(|&host| host.to_owned()).collect();
        let transport = Transport::new(&settings).unwrap();
        let Image::Remote(image) = Image::parse(&format!("{registry}/x:1")).unwrap() else { unreachable!() };
        let registry = Authority::parse(registry).unwrap();
        let retries = Retries::new(settings.retry, Standby::Nothing);
        let pull = RegistryOperation::Pull;
        let session = Session::new(&transport, &registry, &image, [].into_iter(), pull, retries).unwrap();
        session.token_url(&TokenServer { realm: realm.to_owned(), service: None }).is_ok()
    }

    #[test]
    fn only_a_plain_registry_may_name_a_plain_token_server_on_this_device() {
        for realm in ["http://127.0.0.1:8080/token", "http://localhost/token", "http://[::1]:1/token"] {
            assert!(!allowed("registry.example", realm, &[]), "{realm}");
            assert!(allowed("127.0.0.1:5000", realm, &[]), "{realm}");
            assert!(allowed("registry.example", realm, &["registry.example"]), "{realm}");
        }
        assert!(allowed("registry.example", "http://127.0.0.1:8080/token", &["127.0.0.1:8080"]));
        assert!(!allowed("registry.example", "http://127.0.0.1:8080/token", &["127.0.0.1:8081"]));
    }

    #[test]
    fn a_plain_token_server_elsewhere_needs_the_owners_word() {
        assert!(allowed("127.0.0.1:5000", "https://tokens.example/token", &[]));
        assert!(!allowed("127.0.0.1:5000", "http://tokens.example/token", &[]));
        assert!(allowed("registry.example", "http://tokens.example/token", &["tokens.example"]));
        assert!(!allowed("registry.example", "file:///token", &["tokens.example"]));
        assert!(!allowed("registry.example", "token-server", &[]));
    }
}
