//! One repository, asked by one user: oci-client speaks the distribution protocol, this says how long it may take and
//! what its faults mean. Manifests are read here, within a bound (see `http`).
//!
//! Decides nothing about content: digests and sizes are checked by the callers.

use std::{future::Future, panic::AssertUnwindSafe, time::Duration};

use bytes::Bytes;
use futures_util::FutureExt;
use marram_core::deployment::RegistryCredential;
use oci_client::{
    Client, Reference, RegistryOperation, errors::OciDistributionError, errors::Result as OciResult,
    secrets::RegistryAuth,
};
use reqwest::{
    RequestBuilder, StatusCode, Url,
    header::{ACCEPT, AUTHORIZATION, HeaderValue, WWW_AUTHENTICATE},
};
use tokio::{sync::OnceCell, time::timeout};

use crate::{
    answer::{Asker, innermost},
    auth::{TokenServer, credential_for, token_servers},
    digest::Digest,
    failure::{Failure, blocking},
    http::{Body, Transport, host_of, no_https, send, silent, transfer_time},
    image::{Authority, RemoteImage},
    manifest::{ACCEPTED_MANIFESTS, MEDIA_TYPE_MANIFEST},
};

/// A repository, with what is known about how to be let in.
pub(crate) struct Session<'a> {
    transport: &'a Transport,
    registry: Authority,
    /// `scheme://host/v2/`.
    base: Url,
    image: Reference,
    operation: RegistryOperation,
    credential: Option<RegistryCredential>,
    /// Of this session alone: its store keeps the first credential that it sees for a registry.
    client: OnceCell<Client>,
    pass: OnceCell<Pass>,
}

/// What lets us in.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Pass {
    /// Nothing was asked for, or there is nothing to give.
    None,
    Password,
    /// `Bearer …`.
    Token(HeaderValue),
}

impl<'a> Session<'a> {
    /// Asks nobody yet.
    pub(crate) fn new<'c>(
        transport: &'a Transport,
        registry: &Authority,
        image: &RemoteImage,
        credentials: impl Iterator<Item = &'c RegistryCredential>,
        operation: RegistryOperation,
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
            credential: credential_for(registry, port, credentials).cloned(),
            client: OnceCell::new(),
            pass: OnceCell::new(),
        })
    }

    /// Reads a manifest by tag or digest, at most `limit` bytes, and compares it with the digest that the registry gives.
    pub(crate) async fn manifest(&self, reference: &str, limit: u64) -> Result<Vec<u8>, Failure> {
        let pass = self.pass().await?;
        let path = format!("{}/manifests/{reference}", self.image.repository());
        let url = self.base.join(&path).map_err(|err| Failure::refused(format!("{}{path}: {err}", self.base)))?;
        let request = self.own_client(&url)?.get(url).header(ACCEPT, ACCEPTED_MANIFESTS);
        let (given, body) = self.get(self.show(pass, request), &format!("the manifest `{reference}`"), limit).await?;
        let bytes = body.read("the manifest", limit).await?;
        let computed = Digest::of(&bytes);
        match given.as_deref().map(Digest::parse) {
            Some(Ok(given)) if given != computed => Err(Failure::refused(format!(
                "digest mismatch: {} gives the manifest `{reference}` the digest {given}, but it has {computed}",
                self.registry
            ))),
            // No header, or one by another algorithm, which we cannot check.
            _ => Ok(bytes),
        }
    }

    /// Opens a blob that is expected to have `size` bytes.
    pub(crate) async fn blob(&self, digest: &Digest, size: u64) -> Result<Body, Failure> {
        let client = self.admitted().await?;
        let (idle, name) = (self.transport.timeouts.idle, digest.to_string());
        let blob = self.within(idle, client.pull_blob_stream(&self.image, name.as_str())).await?;
        let blob = blob.map_err(|err| self.asker().fault(&err, &format!("the blob {digest}")))?;
        Ok(Body::of_blob(blob, self.registry.to_string(), idle, size))
    }

    /// Uploads a blob unless it is there.
    pub(crate) async fn put_blob(&self, digest: &Digest, bytes: &Bytes) -> Result<(), Failure> {
        let client = self.admitted().await?;
        let (idle, name) = (self.transport.timeouts.idle, digest.to_string());
        // When this goes wrong, the upload says why.
        if self.within(idle, client.blob_exists(&self.image, &name)).await?.unwrap_or(false) {
            return Ok(());
        }
        let limit = idle + transfer_time(bytes.len() as u64);
        let done = self.within(limit, client.push_blob(&self.image, bytes.clone(), &name)).await?;
        done.map_err(|err| self.asker().fault(&err, &format!("the upload of {digest}"))).map(|_| ())
    }

    /// Uploads the manifest under the image's tag.
    pub(crate) async fn put_manifest(&self, bytes: Bytes) -> Result<(), Failure> {
        let client = self.admitted().await?;
        let (computed, limit) = (Digest::of(&bytes), transfer_time(bytes.len() as u64));
        let media_type = HeaderValue::from_static(MEDIA_TYPE_MANIFEST);
        let done = self.within(limit, client.push_manifest_raw(&self.image, bytes, media_type)).await?;
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

    /// Lets the library do something, at most so long. It panics on some answers (a token that no header can carry, an
    /// upload location that is no URL): a registry must not end the task with that.
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

    /// The library's client.
    async fn client(&self) -> Result<&Client, Failure> {
        let make = || {
            let config = self.transport.config(&self.registry.api(), self.base.scheme() == "http");
            blocking(move || {
                // It makes a client with defaults too, and panics when that fails.
                reqwest::Client::builder().build().map_err(|err| no_https(&innermost(&err)))?;
                Client::try_from(config).map_err(|err| no_https(&err.to_string()))
            })
        };
        self.client.get_or_try_init(make).await
    }

    /// The library's client, after it has been let in. A token that runs out is renewed by the library.
    async fn admitted(&self) -> Result<&Client, Failure> {
        self.pass().await?;
        self.client().await
    }

    async fn pass(&self) -> Result<&Pass, Failure> {
        self.pass.get_or_try_init(|| self.enter()).await
    }

    /// Asks the registry what it wants to know about us, and has the library answer.
    async fn enter(&self) -> Result<Pass, Failure> {
        let idle = self.transport.timeouts.idle;
        let asked = send(self.own_client(&self.base)?.get(self.base.clone()), idle, &host_of(&self.base)).await?;
        // A stranger, reached by a redirect, is never told who we are.
        let ours = asked.url().origin() == self.base.origin();
        if asked.status() != StatusCode::UNAUTHORIZED || !asked.headers().contains_key(WWW_AUTHENTICATE) || !ours {
            return Ok(Pass::None);
        }
        let headers = asked.headers().get_all(WWW_AUTHENTICATE).iter().filter_map(|value| value.to_str().ok());
        let servers = token_servers(headers);
        // The library would tell the password to any of them.
        let urls = servers.iter().map(|server| self.token_url(server)).collect::<Result<Vec<_>, _>>()?;
        let auth = self
            .credential
            .as_ref()
            .map_or(RegistryAuth::Anonymous, |own| RegistryAuth::Basic(own.username.clone(), own.password.clone()));
        let client = self.client().await?;
        match self.within(idle, client.auth(&self.image, &auth, self.operation)).await? {
            Ok(Some(token)) => {
                let value = HeaderValue::try_from(format!("Bearer {token}"));
                value.map(Pass::Token).map_err(|_| Failure::refused("the token server sent no token"))
            }
            Ok(None) => Ok(if self.credential.is_some() { Pass::Password } else { Pass::None }),
            Err(OciDistributionError::AuthenticationFailure(_)) => Err(self.why_no_token(urls).await),
            Err(err) => Err(self.asker().fault(&err, "a token")),
        }
    }

    /// URL of the request for a token. A token server gets the password: it is asked in plain text only where the
    /// registry would be.
    fn token_url(&self, server: &TokenServer) -> Result<Url, Failure> {
        let (registry, realm) = (&self.registry, &server.realm);
        let mut url = Url::parse(realm).map_err(|err| {
            Failure::refused(format!("{registry} names a token server `{realm}`, which is no URL ({err})"))
        })?;
        let host = host_of(&url);
        let plain = || Authority::parse(&host).is_ok_and(|host| self.transport.is_plain(&host));
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

    /// The library drops the status of a token server that gives none, and that decides whether a copy on this device
    /// may stand in: 401 is an answer, 503 is none. So we ask once more.
    async fn why_no_token(&self, urls: Vec<Url>) -> Failure {
        let again = async {
            let Some(url) = urls.into_iter().next() else { return Err(Failure::refused("no token server is named")) };
            let request = self.own_client(&url)?.get(url);
            self.get(self.show(&Pass::Password, request), "a token", 0).await
        };
        again.await.err().unwrap_or_else(|| {
            Failure::Unreachable(format!("the token server of {} gave a token at the second try only", self.registry))
        })
    }

    /// Sends a request of our own. Answers with the digest that its answer names, and its body, which is not read yet.
    async fn get(&self, request: RequestBuilder, what: &str, limit: u64) -> Result<(Option<String>, Body), Failure> {
        let idle = self.transport.timeouts.idle;
        let response = send(request, idle, &self.registry.to_string()).await?;
        let status = (response.status(), host_of(response.url()));
        let digest = response.headers().get("docker-content-digest").and_then(|value| value.to_str().ok());
        let (digest, body) = (digest.map(str::to_owned), Body::of_response(response, idle, limit));
        self.asker().check(status, what, body).await.map(|body| (digest, body))
    }

    /// Our own client for this URL.
    fn own_client(&self, url: &Url) -> Result<reqwest::Client, Failure> {
        self.transport.client(url.scheme() == "http")
    }

    fn show(&self, pass: &Pass, request: RequestBuilder) -> RequestBuilder {
        match (pass, &self.credential) {
            (Pass::Token(token), _) => request.header(AUTHORIZATION, token),
            (Pass::Password, Some(own)) => request.basic_auth(&own.username, Some(&own.password)),
            _ => request,
        }
    }
}
