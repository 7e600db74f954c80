//! Who we are to a registry: which credential belongs to it, and what its `WWW-Authenticate` asks for.
//!
//! Sends nothing; `session` does.

use marram_core::deployment::RegistryCredential;

use crate::image::Authority;

/// The first credential for this registry: same host, same port (the scheme's when one is missing).
pub(crate) fn credential_for<'a>(
    registry: &Authority,
    default_port: u16,
    mut credentials: impl Iterator<Item = &'a RegistryCredential>,
) -> Option<&'a RegistryCredential> {
    credentials.find(|c| Authority::of_address(&c.address).is_some_and(|a| a.same(registry, default_port)))
}

/// What a registry asks for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Challenge {
    /// User name and password with each request.
    Basic,
    /// A token of a token server.
    Bearer {
        /// URL of the token server.
        realm: String,
        /// The registry's name there.
        service: Option<String>,
    },
}

/// Reads the challenges of all `WWW-Authenticate` headers (RFC 9110, 11.6.1); a token is preferred to a password.
pub(crate) fn challenge<'a>(headers: impl Iterator<Item = &'a str>) -> Option<Challenge> {
    let mut basic = false;
    for (scheme, parameters) in headers.flat_map(challenges) {
        if scheme.eq_ignore_ascii_case("bearer") {
            let get = |key: &str| parameters.iter().find(|(k, _)| k.eq_ignore_ascii_case(key)).map(|(_, v)| v.clone());
            if let Some(realm) = get("realm") {
                return Some(Challenge::Bearer { realm, service: get("service") });
            }
        }
        basic |= scheme.eq_ignore_ascii_case("basic");
    }
    basic.then_some(Challenge::Basic)
}

type Parameters = Vec<(String, String)>;

/// Splits one header into schemes with their parameters. What cannot be read ends the list.
fn challenges(header: &str) -> Vec<(String, Parameters)> {
    let mut found: Vec<(String, Parameters)> = Vec::new();
    let mut rest = header;
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        let (word, after) = token(rest);
        if word.is_empty() {
            return found;
        }
        let equals = after.trim_start();
        match (equals.strip_prefix('='), found.last_mut()) {
            (Some(value), Some((_, parameters))) => {
                let Some((value, after)) = parameter_value(value.trim_start()) else { return found };
                parameters.push((word.to_owned(), value));
                rest = after;
            }
            (Some(_), None) => return found,
            (None, _) => {
                found.push((word.to_owned(), Vec::new()));
                rest = after;
            }
        }
    }
}

fn token(text: &str) -> (&str, &str) {
    let end = text.find(|c: char| !(c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c))).unwrap_or(text.len());
    text.split_at(end)
}

/// A token or a quoted string, and what follows it.
fn parameter_value(text: &str) -> Option<(String, &str)> {
    let Some(quoted) = text.strip_prefix('"') else {
        let (word, rest) = token(text);
        return Some((word.to_owned(), rest));
    };
    let mut value = String::new();
    let mut characters = quoted.char_indices();
    while let Some((at, c)) = characters.next() {
        match c {
            '"' => return Some((value, &quoted[at + 1..])),
            '\\' => value.push(characters.next()?.1),
            c => value.push(c),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(headers: &[&str]) -> Option<Challenge> {
        challenge(headers.iter().copied())
    }

    #[test]
    fn a_bearer_challenge_names_realm_and_service() {
        let header =
            r#"Bearer realm="https://auth.example/token",service="registry.example",scope="repository:a:pull,push""#;
        let expected = Challenge::Bearer {
            realm: "https://auth.example/token".to_owned(),
            service: Some("registry.example".to_owned()),
        };
        assert_eq!(read(&[header]), Some(expected));
    }

    #[test]
    fn a_token_is_preferred_to_a_password_wherever_they_stand() {
        let bearer = |challenge| matches!(challenge, Some(Challenge::Bearer { .. }));
        assert!(bearer(read(&[r#"Basic realm="x, y", bearer Realm = token-server"#])));
        assert!(bearer(read(&["Basic", r#"Bearer realm="a\"b""#])));
        assert_eq!(read(&[r#"Basic realm="Registry Realm""#]), Some(Challenge::Basic));
        assert_eq!(read(&["Bearer service=x"]), None, "without a realm there is nobody to ask");
        assert_eq!(read(&["Negotiate"]), None);
        assert_eq!(read(&[]), None);
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
            credential_for(&Authority::parse(registry).unwrap(), 443, all.iter()).map(|c| c.username.clone())
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
