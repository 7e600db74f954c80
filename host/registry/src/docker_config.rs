//! Docker's configuration file (`config.json`, also Podman's `auth.json`): who we are to which registry, and the programs
//! that know it. The format is that of Docker's command line, the programs' protocol that of `docker-credential-helpers`.
//!
//! Read anew whenever a registry asks who we are, so that a login that was renewed counts without a restart. Nothing of it
//! is logged but names: of files, registries, users and programs.

use std::{collections::BTreeMap, io, path::Path};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde::Deserialize;

use crate::{
    auth::{Login, Secret},
    cache::read_bounded,
    credential_helper,
    failure::{Failure, blocking},
    image::Authority,
};

/// Largest file; one with a hundred registries has some ten kilobytes.
const MAX_FILE_BYTES: u64 = 1 << 20;
/// Under which name Docker keeps the login of its own registry.
const DOCKER_HUB: &str = "https://index.docker.io/v1/";

/// Whether the file can be read and understood, without running anything.
///
/// # Errors
/// One line that says what is wrong with it.
pub fn check_docker_config(path: &Path) -> Result<(), String> {
    read(path).map(|_| ())
}

/// The login for a repository, from the file or from the program that it names. None: it knows none.
pub(crate) async fn login(
    path: &Path,
    registry: &Authority,
    default_port: u16,
    repository: &str,
) -> Result<Option<Login>, Failure> {
    let owned = path.to_owned();
    let file = blocking(move || read(&owned).map_err(Failure::Refused)).await?;
    if let Some((helper, server)) = file.helper(registry, default_port) {
        let login = credential_helper::get(helper, &server).await?;
        if login.is_some() {
            return Ok(login);
        }
    }
    file.entry(registry, default_port, repository, path)
}

/// What we read of the file; the rest is about other things.
#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct ConfigFile {
    auths: BTreeMap<String, Entry>,
    cred_helpers: BTreeMap<String, String>,
    creds_store: String,
}

/// One of `auths`. Empty fields are as good as none.
#[derive(Deserialize, Default)]
#[serde(default)]
struct Entry {
    auth: String,
    username: String,
    password: String,
    identitytoken: String,
    registrytoken: String,
}

fn read(path: &Path) -> Result<ConfigFile, String> {
    let name = path.display();
    let bytes = read_bounded(path, MAX_FILE_BYTES).map_err(|err: io::Error| format!("cannot read {name}: {err}"))?;
    let bytes = bytes.ok_or_else(|| format!("{name} is larger than {MAX_FILE_BYTES} bytes"))?;
    // serde's words may quote the text; the place says enough.
    let file: ConfigFile = serde_json::from_slice(&bytes).map_err(|err| {
        let place = format!("line {}, column {}", err.line(), err.column());
        format!("{name} is not a Docker configuration file ({place})")
    })?;
    let helpers = file.cred_helpers.values().chain(Some(&file.creds_store).filter(|store| !store.is_empty()));
    match helpers.into_iter().find(|helper| !credential_helper::is_name(helper)) {
        Some(bad) => {
            Err(format!("{name} names the credential helper `{}`, which is no name of a program", bad.escape_debug()))
        }
        None => Ok(file),
    }
}

impl ConfigFile {
    /// The program to ask about this registry, and the name that it knows it by.
    fn helper(&self, registry: &Authority, default_port: u16) -> Option<(&str, String)> {
        let own = self.cred_helpers.iter().find(|(key, _)| names(key, registry, default_port));
        if let Some((key, helper)) = own {
            return Some((helper, key.clone()));
        }
        let hub = names(DOCKER_HUB, registry, default_port);
        let server = if hub { DOCKER_HUB.to_owned() } else { registry.to_string() };
        (!self.creds_store.is_empty()).then_some((&*self.creds_store, server))
    }

    /// The login written in the file: for the repository's own path first (Podman's way), then for the registry.
    fn entry(
        &self,
        registry: &Authority,
        default_port: u16,
        repository: &str,
        file: &Path,
    ) -> Result<Option<Login>, Failure> {
        let fits = |key: &str| {
            let path = path_of(key);
            names(key, registry, default_port)
                && (path.is_empty()
                    || repository.strip_prefix(path).is_some_and(|rest| rest.is_empty() || rest.starts_with('/')))
        };
        let found = self.auths.iter().filter(|(key, _)| fits(key)).max_by_key(|(key, _)| path_of(key).len());
        let Some((key, entry)) = found else { return Ok(None) };
        entry.login(file).map_err(|why| Failure::refused(format!("{}: auths.{key}: {why}", file.display())))
    }
}

impl Entry {
    fn login(&self, file: &Path) -> Result<Option<Login>, &'static str> {
        let place = file.display().to_string();
        let (mut username, mut password) = (self.username.clone(), self.password.clone());
        if !self.auth.is_empty() {
            let wrong = "`auth` is not the base64 form of `user:password`; log in again";
            let bytes = BASE64_STANDARD.decode(self.auth.trim()).map_err(|_| wrong)?;
            let text = String::from_utf8(bytes).map_err(|_| wrong)?;
            // Docker pads with NUL bytes in old files.
            let (user, word) = text.split_once(':').ok_or(wrong)?;
            (username, password) = (user.to_owned(), word.trim_matches('\0').to_owned());
        }
        if !self.identitytoken.is_empty() {
            let secret = Secret::IdentityToken(self.identitytoken.clone());
            return Ok(Some(Login { username, secret, place }));
        }
        if !self.registrytoken.is_empty() {
            return Err("`registrytoken` is not supported; use `auth`, `identitytoken` or a credential helper");
        }
        let empty = username.is_empty() && password.is_empty();
        Ok((!empty).then_some(Login { username, secret: Secret::Password(password), place }))
    }
}

/// Whether a key of the file means this registry.
fn names(key: &str, registry: &Authority, default_port: u16) -> bool {
    Authority::of_address(key).is_some_and(|named| named.api().same(&registry.api(), default_port))
}

/// The repository's path in a key, if it is for a part of the registry only. `/v1/` and `/v2/` are paths of the protocol.
fn path_of(key: &str) -> &str {
    let rest = key.split_once("://").map_or(key, |(_, rest)| rest);
    let path = rest.split_once('/').map_or("", |(_, path)| path).trim_matches('/');
    if matches!(path, "v1" | "v2") { "" } else { path }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> ConfigFile {
        serde_json::from_str(text).unwrap()
    }

    /// `user` and secret for `registry/repository`.
    fn entry(text: &str, registry: &str, repository: &str) -> Result<Option<(String, String)>, String> {
        let registry = Authority::parse(registry).unwrap();
        let found = file(text).entry(&registry, 443, repository, Path::new("/c.json"));
        let shown = |login: Login| match login.secret {
            Secret::Password(word) => (login.username, word),
            Secret::IdentityToken(token) => ("identity".to_owned(), token),
        };
        found.map(|login| login.map(shown)).map_err(|failure| failure.to_string())
    }

    const AUTHS: &str = r#"{"auths": {
        "https://index.docker.io/v1/": {"auth": "aHViOnNlY3JldA=="},
        "r.example": {"auth": "ZGV2aWNlOmE6Yg=="},
        "r.example/team": {"auth": "dGVhbTp0"},
        "r.example/team/inner": {"username": "inner", "password": "i"},
        "https://token.example:8443": {"auth": "Og==", "identitytoken": "refresh"},
        "empty.example": {}, "bad.example": {"auth": "%%%"}, "odd.example": {"registrytoken": "x"}
      }, "HttpHeaders": {"x": "y"}, "psFormat": 5}"#;

    #[test]
    fn a_login_is_found_by_host_port_and_the_longest_path() {
        let pair = |user: &str, word: &str| Ok(Some((user.to_owned(), word.to_owned())));
        assert_eq!(entry(AUTHS, "docker.io", "library/x"), pair("hub", "secret"));
        assert_eq!(entry(AUTHS, "r.example:443", "a"), pair("device", "a:b"));
        assert_eq!(entry(AUTHS, "r.example", "team/a"), pair("team", "t"));
        assert_eq!(entry(AUTHS, "r.example", "teamwork"), pair("device", "a:b"));
        assert_eq!(entry(AUTHS, "r.example", "team/inner"), pair("inner", "i"));
        assert_eq!(entry(AUTHS, "token.example:8443", "a"), pair("identity", "refresh"));
        for none in ["r.example:5000", "token.example", "empty.example", "other.example"] {
            assert_eq!(entry(AUTHS, none, "a"), Ok(None), "{none}");
        }
    }

    #[test]
    fn an_entry_that_cannot_be_used_is_named_without_what_is_in_it() {
        let said = entry(AUTHS, "bad.example", "a").unwrap_err();
        assert!(
            said.contains("/c.json: auths.bad.example: `auth` is not the base64") && !said.contains("%%%"),
            "{said}"
        );
        assert!(entry(AUTHS, "odd.example", "a").unwrap_err().contains("`registrytoken` is not supported"));
    }

    #[test]
    fn a_helper_of_the_registry_comes_before_the_store() {
        let file = file(r#"{"credsStore": "all", "credHelpers": {"ecr.example": "ecr", "https://h.example/": "h"}}"#);
        let asked = |registry: &str| {
            let registry = Authority::parse(registry).unwrap();
            file.helper(&registry, 443).map(|(helper, server)| format!("{helper} {server}"))
        };
        assert_eq!(asked("ecr.example").as_deref(), Some("ecr ecr.example"));
        assert_eq!(asked("h.example").as_deref(), Some("h https://h.example/"));
        assert_eq!(asked("other.example:5000").as_deref(), Some("all other.example:5000"));
        assert_eq!(asked("docker.io").as_deref(), Some("all https://index.docker.io/v1/"));
    }

    #[test]
    fn a_file_that_is_wrong_is_refused_without_quoting_it() {
        let folder = tempfile::tempdir().unwrap();
        let said = |text: &str| {
            let path = folder.path().join("config.json");
            std::fs::write(&path, text).unwrap();
            check_docker_config(&path).unwrap_err()
        };
        let text = said(r#"{"auths": {"a": {"auth": 5, "password": "secret"}}}"#);
        assert!(text.contains("line 1, column") && !text.contains("secret"), "{text}");
        assert!(said(r#"{"credsStore": "../../tmp/evil"}"#).contains("no name of a program"));
        assert!(said(r#"{"credHelpers": {"a": ""}}"#).contains("no name of a program"));
        assert!(check_docker_config(Path::new("/nonexistent/config.json")).unwrap_err().contains("cannot read"));
    }
}
