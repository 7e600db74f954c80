//! How a registry lets us in: what it asks for, whom we tell a password, and what we show from then on.
//!
//! Decided once in a session: the registry itself is told, or the token server that its first answer names and that was
//! found fit. Our login is looked for when the registry asks for one, not before.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering::Relaxed},
};

use oci_client::{Client, RegistryOperation, secrets::RegistryAuth, token_cache::RegistryTokenType};
use reqwest::{
    RequestBuilder, StatusCode, Url,
    header::{CONTENT_TYPE, WWW_AUTHENTICATE},
};
use tokio::sync::OnceCell;

use super::Session;
use crate::{
    auth::{Login, Secret, TokenServer, token_of, token_server},
    failure::Failure,
    http::host_of,
    image::Authority,
};

/// Largest answer of a token server. Tokens that list many rights have some ten kilobytes.
const MAX_TOKEN_BYTES: u64 = 1 << 20;
/// How we call ourselves to a token server (OAuth 2, `client_id`).
const CLIENT_ID: &str = "marram";

/// How we were let in.
pub(super) struct Entry {
    pub(super) pass: Pass,
    /// Where a new token is to be had when this one runs out. None: it is no token.
    renewal: Option<TokenRequest>,
    /// The registry has let it in. One that it has never let in is not renewed: the next would fare no better.
    pub(super) worked: AtomicBool,
    /// Of this entry alone: its store keeps the first credential that it sees for a registry.
    pub(super) client: OnceCell<Client>,
}

/// What lets us in.
pub(super) enum Pass {
    /// Nothing was asked for, or there is nothing to give.
    None,
    /// The session's login.
    Password,
    /// What follows `Bearer`.
    Token(String),
}

/// What is asked of a token server that was found fit.
#[derive(Clone)]
struct TokenRequest {
    /// As the registry wrote it.
    realm: Url,
    /// `scope` and `service`.
    parameters: Vec<(&'static str, String)>,
}

impl TokenRequest {
    fn url(&self) -> Url {
        let mut url = self.realm.clone();
        url.query_pairs_mut().extend_pairs(&self.parameters);
        url
    }

    /// For a refresh token (RFC 6749, 6), as the form of a POST.
    fn form(&self, refresh_token: &str) -> String {
        let mut form = self.realm.clone();
        form.set_query(None);
        let fixed = [("grant_type", "refresh_token"), ("client_id", CLIENT_ID), ("refresh_token", refresh_token)];
        form.query_pairs_mut().extend_pairs(fixed).extend_pairs(&self.parameters);
        form.query().unwrap_or_default().to_owned()
    }
}

impl Entry {
    fn new(pass: Pass, renewal: Option<TokenRequest>) -> Self {
        Self { pass, renewal, worked: AtomicBool::new(false), client: OnceCell::new() }
    }
}

impl Session<'_> {
    pub(super) async fn entry(&self) -> Result<Arc<Entry>, Failure> {
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
        let request = self.transport.client()?.get(self.base.clone());
        let asked = self.transport.send(request, idle, &host_of(&self.base)).await?;
        // What it wants is not known yet; to go on as a nobody would be refused for the wrong reason.
        if asked.status().is_server_error() || asked.status() == StatusCode::TOO_MANY_REQUESTS {
            return self.body(asked, "anything").await.map(|_| Entry::new(Pass::None, None));
        }
        // A stranger, reached by a redirect, is never told who we are.
        let ours = asked.url().origin() == self.base.origin();
        if asked.status() != StatusCode::UNAUTHORIZED || !asked.headers().contains_key(WWW_AUTHENTICATE) || !ours {
            return Ok(Entry::new(Pass::None, None));
        }
        let headers = asked.headers().get_all(WWW_AUTHENTICATE).iter().filter_map(|value| value.to_str().ok());
        let server = token_server(headers);
        let login = self.find_login().await?;
        match (server, login) {
            (Some(server), _) => {
                let request = self.token_request(&server)?;
                Ok(Entry::new(Pass::Token(self.token(&request).await?), Some(request)))
            }
            (None, Some(Login { secret: Secret::IdentityToken(_), place, .. })) => Err(Failure::refused(format!(
                "{place} has an identity token for {}, which asks for a password; log in with a password",
                self.registry
            ))),
            (None, Some(_)) => Ok(Entry::new(Pass::Password, None)),
            (None, None) => Ok(Entry::new(Pass::None, None)),
        }
    }

    async fn find_login(&self) -> Result<Option<&Login>, Failure> {
        let port = if self.base.scheme() == "http" { 80 } else { 443 };
        let find = || self.logins.find(&self.registry, port, self.image.repository());
        self.login.get_or_try_init(find).await.map(Option::as_ref)
    }

    /// Who we are, once somebody has asked.
    pub(super) fn login(&self) -> Option<&Login> {
        self.login.get()?.as_ref()
    }

    /// The way in after a token ran out: a new one from the same token server. A long download may need several.
    pub(super) async fn renew(&self, old: &Entry) -> Result<Option<Arc<Entry>>, Failure> {
        let Some(request) = old.renewal.as_ref().filter(|_| old.worked.load(Relaxed)) else { return Ok(None) };
        let entry = Arc::new(Entry::new(Pass::Token(self.token(request).await?), Some(request.clone())));
        *self.entry.lock().await = Some(entry.clone());
        Ok(Some(entry))
    }

    /// Asks a token server that was found fit. Its refusal is an answer, its trouble is none: a copy on this device may
    /// stand in then.
    async fn token(&self, request: &TokenRequest) -> Result<String, Failure> {
        let sent = match self.login() {
            Some(Login { secret: Secret::IdentityToken(token), .. }) => {
                let form = self.transport.client_for_secrets()?.post(request.realm.clone()).body(request.form(token));
                form.header(CONTENT_TYPE, "application/x-www-form-urlencoded")
            }
            _ => self.show(&Pass::Password, self.transport.client()?.get(request.url())),
        };
        let response = self.transport.send(sent, self.transport.timeouts.idle, &host_of(&request.realm)).await?;
        let answer = self.body(response, "a token").await?.read("the token", MAX_TOKEN_BYTES).await?;
        token_of(&answer)
            .ok_or_else(|| Failure::refused(format!("the token server of {} sent no token", self.registry)))
    }

    /// The request for a token. A token server gets the password. It is asked in plain text only where the owner
    /// said so, or on this device when the registry is asked in plain text too: one far away must not learn what is said
    /// to a port of this device.
    fn token_request(&self, server: &TokenServer) -> Result<TokenRequest, Failure> {
        let (registry, realm) = (&self.registry, &server.realm);
        let url = Url::parse(realm).map_err(|err| {
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
        let scope = format!("repository:{}:{actions}", self.image.repository());
        let service = server.service.clone().map(|service| ("service", service));
        Ok(TokenRequest { realm: url, parameters: [("scope", scope)].into_iter().chain(service).collect() })
    }

    /// Gives the library what lets us in.
    pub(super) async fn equip(&self, client: &Client, pass: &Pass) {
        let registry = self.image.resolve_registry();
        match (pass, self.login()) {
            // It shows this as it is and asks nobody.
            (Pass::Token(token), _) => {
                client.store_auth_if_needed(registry, &RegistryAuth::Bearer(token.clone())).await;
            }
            // Left to itself, it would ask the registry again, and tell the password to a token server that that answer
            // names. So it believes that it has asked; what is stored does not run out.
            (Pass::Password, Some(Login { username, secret: Secret::Password(password), .. })) => {
                client.store_auth_if_needed(registry, &RegistryAuth::Anonymous).await;
                for operation in [RegistryOperation::Pull, RegistryOperation::Push] {
                    let basic = RegistryTokenType::Basic(username.clone(), password.clone());
                    client.tokens.insert(&self.image, operation, basic).await;
                }
            }
            // Without anything in its store it asks for nothing.
            _ => {}
        }
    }

    pub(super) fn show(&self, pass: &Pass, request: RequestBuilder) -> RequestBuilder {
        match (pass, self.login()) {
            (Pass::Token(token), _) => request.bearer_auth(token),
            (Pass::Password, Some(Login { username, secret: Secret::Password(password), .. })) => {
                request.basic_auth(username, Some(password))
            }
            _ => request,
        }
    }
}

#[cfg(test)]
mod tests {
    use marram_core::retry::Standby;

    use super::*;
    use crate::{auth::Logins, http::Transport, image::Image, retry::Retries, settings::Settings};

    /// Whether the registry may send us to this token server, when the owner lists these hosts as plain.
    fn allowed(registry: &str, realm: &str, plain_http: &[&str]) -> bool {
        let mut settings = Settings::new("unused");
        settings.plain_http = plain_http.iter().map(|&host| host.to_owned()).collect();
        let transport = Transport::new(&settings).unwrap();
        let Image::Remote(image) = Image::parse(&format!("{registry}/x:1")).unwrap() else { unreachable!() };
        let registry = Authority::parse(registry).unwrap();
        let retries = Retries::new(settings.retry, Standby::Nothing);
        let pull = RegistryOperation::Pull;
        let logins = Logins { owner: &[], docker: None, deployment: &[] };
        let session = Session::new(&transport, &registry, &image, logins, pull, retries).unwrap();
        session.token_request(&TokenServer { realm: realm.to_owned(), service: None }).is_ok()
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
    fn a_request_for_a_token_says_what_for() {
        let request = TokenRequest {
            realm: Url::parse("https://t.example/token?a=b").unwrap(),
            parameters: vec![("scope", "repository:x/y:pull".into()), ("service", "a b".into())],
        };
        let wanted = "scope=repository%3Ax%2Fy%3Apull&service=a+b";
        assert_eq!(request.url().as_str(), format!("https://t.example/token?a=b&{wanted}"));
        let form = format!("grant_type=refresh_token&client_id=marram&refresh_token=r%26s&{wanted}");
        assert_eq!(request.form("r&s"), form);
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
