//! Who we are to a registry: which login belongs to it, and which token server its `WWW-Authenticate` names, and the token
//! in that server's answer.
//!
//! Sends nothing, and decides nothing about who is told a password; `session` does.

use std::path::Path;

use http_auth::parser::ChallengeParser;
use marram_core::deployment::RegistryCredential;
use serde::Deserialize;

use crate::{docker_config, failure::Failure, image::Authority};

/// Who we are to one registry. Not shown by `Debug`: it is a secret.
#[derive(Clone)]
pub(crate) struct Login {
    pub(crate) username: String,
    pub(crate) secret: Secret,
    /// Where it was found, for people who look for a fault.
    pub(crate) place: String,
}

/// What proves it.
#[derive(Clone)]
pub(crate) enum Secret {
    /// For the registry, or for the token server that it names.
    Password(String),
    /// An OAuth 2 refresh token, for a token server alone.
    IdentityToken(String),
}

/// All that may hold a login, in their order.
#[derive(Clone, Copy)]
pub(crate) struct Logins<'a> {
    /// The owner's, of `marram.toml` or of the command line.
    pub(crate) owner: &'a [RegistryCredential],
    /// Docker's configuration file.
    pub(crate) docker: Option<&'a Path>,
    /// The deployment manifest's.
    pub(crate) deployment: &'a [RegistryCredential],
}

impl Logins<'_> {
    /// The login for a repository of this registry. A missing port is `default_port`.
    pub(crate) async fn find(
        &self,
        registry: &Authority,
        default_port: u16,
        repository: &str,
    ) -> Result<Option<Login>, Failure> {
        let of = |credentials, place| credential_for(registry, default_port, credentials).map(|c| login(c, place));
        if let Some(own) = of(self.owner, "registries.credentials") {
            return Ok(Some(own));
        }
        if let Some(path) = self.docker
            && let Some(login) = docker_config::login(path, registry, default_port, repository).await?
        {
            return Ok(Some(login));
        }
        Ok(of(self.deployment, "registryCredentials"))
    }
}

fn login(credential: &RegistryCredential, place: &str) -> Login {
    let secret = Secret::Password(credential.password.clone());
    Login { username: credential.username.clone(), secret, place: place.to_owned() }
}

/// The first credential for this registry: same host, same port (the scheme's when one is missing).
fn credential_for<'a>(
    registry: &Authority,
    default_port: u16,
    credentials: &'a [RegistryCredential],
) -> Option<&'a RegistryCredential> {
    credentials.iter().find(|c| Authority::of_address(&c.address).is_some_and(|a| a.same(registry, default_port)))
}

/// Where a registry sends us for a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TokenServer {
    /// Its URL, as written.
    pub(crate) realm: String,
    /// The registry's name there.
    pub(crate) service: Option<String>,
}

/// The first token server in the `WWW-Authenticate` headers (RFC 9110, 11.6.1). What cannot be read ends a header.
pub(crate) fn token_server<'a>(headers: impl Iterator<Item = &'a str>) -> Option<TokenServer> {
    let challenges = headers.flat_map(|header| ChallengeParser::new(header).map_while(Result::ok));
    let mut bearer = challenges.filter(|challenge| challenge.scheme.eq_ignore_ascii_case("bearer"));
    bearer.find_map(|challenge| {
        let parameter = |key: &str| {
            let found = challenge.params.iter().rev().find(|(name, _)| name.eq_ignore_ascii_case(key));
            found.map(|(_, value)| value.to_unescaped())
        };
        Some(TokenServer { realm: parameter("realm")?, service: parameter("service") })
    })
}

/// The token in a token server's answer, if it is one that a header can carry.
pub(crate) fn token_of(answer: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Answer {
        token: Option<String>,
        access_token: Option<String>,
    }
    let answer: Answer = serde_json::from_slice(answer).ok()?;
    let mut tokens = [answer.token, answer.access_token].into_iter().flatten();
    tokens.find(|token| !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_graphic()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(headers: &[&str]) -> Option<String> {
        token_server(headers.iter().copied()).map(|server| server.realm)
    }

    #[test]
    fn a_bearer_challenge_names_realm_and_service() {
        let header =
            r#"Bearer realm="https://auth.example/token",service="registry.example",scope="repository:a:pull,push""#;
        let expected = TokenServer {
            realm: "https://auth.example/token".to_owned(),
            service: Some("registry.example".to_owned()),
        };
        assert_eq!(token_server([header].into_iter()), Some(expected));
    }

    #[test]
    fn the_first_token_server_is_found_wherever_it_stands() {
        let realm = |text: &str| Some(text.to_owned());
        assert_eq!(read(&[r#"Basic realm="x, y", bearer Realm = token-server"#]), realm("token-server"));
        assert_eq!(read(&[r#"Basic realm="x""#, r#"Bearer realm="a\"b""#]), realm("a\"b"));
        assert_eq!(read(&[r#"Bearer realm="a", Bearer realm="b""#]), realm("a"));
        assert_eq!(read(&[r#"Basic realm="Registry Realm""#]), None);
        assert_eq!(read(&[r#"Bearer service="x""#]), None, "without a realm there is nobody to ask");
        assert_eq!(read(&["Negotiate"]), None);
        assert_eq!(read(&[]), None);
    }

    #[test]
    fn a_token_goes_by_two_names_and_fits_into_a_header() {
        let token = |text: &str| token_of(text.as_bytes());
        assert_eq!(token(r#"{"token":"a.b-c","expires_in":300}"#).as_deref(), Some("a.b-c"));
        assert_eq!(token(r#"{"token":"","access_token":"x"}"#).as_deref(), Some("x"));
        for none in ["", "[]", "{}", r#"{"token":5}"#, r#"{"token":"a\nb"}"#, r#"{"token":"a b"}"#, r#"{"token":""}"#] {
            assert_eq!(token(none), None, "{none}");
        }
    }

    #[test]
    fn a_credential_is_for_one_host_and_port() {
        let credential = |address: &str| RegistryCredential {
            address: address.to_owned(),
            username: address.to_owned(),
            password: String::new(),
        };
        let all = [credential("a.example:5000"), credential("https://a.example/"), credential("b.example")];
        let found = |registry: &str| {
            credential_for(&Authority::parse(registry).unwrap(), 443, &all).map(|c| c.username.clone())
        };
        assert_eq!(found("a.example").as_deref(), Some("https://a.example/"));
        assert_eq!(found("a.example:5000").as_deref(), Some("a.example:5000"));
        assert_eq!(found("a.example:5001"), None);
        assert_eq!(found("c.example"), None);
    }

    proptest! {
        #[test]
        fn no_header_makes_the_reader_panic(text in "\\PC{0,60}", words in "[Bb]earer [a-z=\", \\\\]{0,40}") {
            read(&[&text, &words]);
        }
    }
}
