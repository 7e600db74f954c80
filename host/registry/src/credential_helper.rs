//! Runs `docker-credential-NAME get` and reads its answer (the protocol of `docker-credential-helpers`). Bounded in time and
//! output; a program that hangs is killed with all that it started. Which one runs is the owner's word.

use std::{io, process::Stdio, time::Duration};

use marram_core::retry::Fault;
use rustix::process::{Pid, Signal, kill_process_group};
use serde::Deserialize;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    process::{Child, Command},
    time::timeout,
};

use crate::{
    auth::{Login, Secret},
    failure::Failure,
};

/// Longest run. Some ask a service for a new password; that takes a second or two.
const MAX_TIME: Duration = Duration::from_secs(30);
/// Largest answer. Tokens have some kilobytes.
const MAX_ANSWER_BYTES: u64 = 64 << 10;
/// The user that says: the secret is an identity token.
const TOKEN_USER: &str = "<token>";
/// What a helper says when it knows nothing about a server.
const NOT_FOUND: &str = "credentials not found";

/// Whether this can be the NAME of a `docker-credential-NAME`: never a path.
pub(crate) fn is_name(text: &str) -> bool {
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    !text.is_empty() && text.len() <= 64 && text.chars().all(good)
}

/// Asks the helper about a server. None: it knows none.
pub(crate) async fn get(name: &str, server: &str) -> Result<Option<Login>, Failure> {
    ask(&format!("docker-credential-{name}"), server, MAX_TIME).await
}

async fn ask(program: &str, server: &str, limit: Duration) -> Result<Option<Login>, Failure> {
    let trouble = |why: String| Failure::unreachable(Fault::Lasting, format!("`{program} get` for {server} {why}"));
    let child = start(program).map_err(|err| match err.kind() {
        io::ErrorKind::NotFound => Failure::refused(format!(
            "the Docker configuration asks `{program}` about {server}, and there is no such program on PATH; install it"
        )),
        _ => Failure::refused(format!("cannot start `{program}`: {err}")),
    })?;
    let mut group = Group(child.id().and_then(|id| Pid::from_raw(id.cast_signed())));
    let (success, answer) = match timeout(limit, talk(child, server)).await {
        Ok(Ok(answered)) => answered,
        Ok(Err(err)) => return Err(trouble(format!("cannot be heard: {err}"))),
        Err(_) => return Err(trouble(format!("did not end within {} s", limit.as_secs_f32()))),
    };
    group.0 = None;
    if answer.len() as u64 > MAX_ANSWER_BYTES {
        return Err(trouble(format!("says more than {MAX_ANSWER_BYTES} bytes")));
    }
    match (success, String::from_utf8_lossy(&answer).contains(NOT_FOUND)) {
        (true, _) => read(&answer, program.to_owned()).map_err(trouble),
        (false, true) => Ok(None),
        // Its own words are not repeated: who knows what is in them.
        (false, false) => Err(trouble(format!("failed; run `echo {server} | {program} get` to see why"))),
    }
}

fn start(program: &str) -> io::Result<Child> {
    let mut command = Command::new(program);
    command.arg("get").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    command.process_group(0).kill_on_drop(true).spawn()
}

/// Success, and what it wrote: at most one byte more than is read.
async fn talk(mut child: Child, server: &str) -> io::Result<(bool, Vec<u8>)> {
    if let Some(mut input) = child.stdin.take() {
        // One that does not read has closed it; its answer counts.
        let _ = input.write_all(format!("{server}\n").as_bytes()).await;
    }
    let mut answer = Vec::new();
    if let Some(output) = child.stdout.take() {
        output.take(MAX_ANSWER_BYTES + 1).read_to_end(&mut answer).await?;
    }
    Ok((child.wait().await?.success(), answer))
}

fn read(answer: &[u8], place: String) -> Result<Option<Login>, String> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Answer {
        username: String,
        secret: String,
    }
    let Answer { username, secret } = serde_json::from_slice(answer)
        .map_err(|_| "does not answer in its protocol (JSON with Username and Secret)")?;
    Ok(match (username.as_str(), secret.as_str()) {
        ("", "") => None,
        (TOKEN_USER, _) => Some(Login { username, secret: Secret::IdentityToken(secret), place }),
        _ => Some(Login { username, secret: Secret::Password(secret), place }),
    })
}

/// The processes of a helper; killed when this is dropped while it is set.
struct Group(Option<Pid>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_never_a_path() {
        for good in ["osxkeychain", "ecr-login", "acr.env_2"] {
            assert!(is_name(good), "{good}");
        }
        for bad in ["", "/bin/sh", "../x", "a b", "a\0", "ä"] {
            assert!(!is_name(bad), "{bad}");
        }
    }

    /// Runs a script as the helper.
    async fn run(folder: &tempfile::TempDir, script: &str, limit: Duration) -> Result<Option<Login>, Failure> {
        use std::os::unix::fs::PermissionsExt;
        let path = folder.path().join("helper");
        std::fs::write(&path, format!("#!/bin/sh\ncd '{}'\n{script}\n", folder.path().display())).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o700)).unwrap();
        ask(path.to_str().unwrap(), "r.example", limit).await
    }

    #[tokio::test]
    async fn a_helper_is_told_the_server_and_answers() {
        let folder = tempfile::tempdir().unwrap();
        let script = r#"read server; echo "{\"Username\":\"$1\",\"Secret\":\"of $server\"}""#;
        let login = run(&folder, script, MAX_TIME).await.ok().flatten().unwrap();
        assert_eq!(login.username, "get");
        assert!(matches!(login.secret, Secret::Password(word) if word == "of r.example"));
        let none = run(&folder, "echo credentials not found in native keychain; exit 1", MAX_TIME).await;
        assert!(none.ok().unwrap().is_none());
    }

    #[tokio::test]
    async fn a_helper_that_fails_or_talks_too_much_is_a_fault_that_repeats_nothing() {
        let folder = tempfile::tempdir().unwrap();
        for script in ["echo secret; exit 3", "echo secret", "yes secret", "exit 1"] {
            let failure = run(&folder, script, MAX_TIME).await.err().unwrap();
            let said = failure.to_string();
            assert!(said.contains("helper") && said.contains("r.example") && !said.contains("secret"), "{said}");
            assert!(failure.is_transient(), "{said}");
        }
    }

    #[tokio::test]
    async fn a_helper_that_hangs_is_killed_with_its_children() {
        let folder = tempfile::tempdir().unwrap();
        let hang = "sleep 1000 & echo $! > child; wait";
        let failure = run(&folder, hang, Duration::from_secs(1)).await.err().unwrap();
        assert!(failure.to_string().contains("did not end within 1 s") && failure.is_transient());
        let child = std::fs::read_to_string(folder.path().join("child")).unwrap();
        let stat = format!("/proc/{}/stat", child.trim());
        // Gone, or dead and not yet collected.
        marram_tests::wait::wait_for("the child to be dead", || {
            std::fs::read_to_string(&stat).map_or(true, |stat| stat.contains(") Z ")).then_some(())
        });
    }

    #[test]
    fn the_token_user_means_an_identity_token() {
        let read = |text: &str| read(text.as_bytes(), String::new());
        let token = read(r#"{"ServerURL":"x","Username":"<token>","Secret":"t"}"#).ok().flatten().unwrap();
        assert!(matches!(token.secret, Secret::IdentityToken(token) if token == "t"));
        let plain = read(r#"{"Username":"u","Secret":"p"}"#).ok().flatten().unwrap();
        assert!(matches!(plain.secret, Secret::Password(word) if word == "p"));
        assert!(read(r#"{"Username":"","Secret":""}"#).ok().unwrap().is_none());
        assert!(read("secret").err().is_some_and(|said| !said.contains("secret")));
    }
}
