//! What an answer that is no success means to a person: who said no to what, and what to try; and whether to try later.
//!
//! Sends nothing. Of an error page it shows one bounded line.

use std::{
    error::Error,
    time::{Duration, SystemTime},
};

use marram_core::retry::Fault;
use oci_client::errors::{OciDistributionError, OciEnvelope, OciErrorCode};
use reqwest::{
    Response, StatusCode,
    header::{HeaderMap, RETRY_AFTER},
};

use crate::{
    failure::Failure,
    http::{Body, host_of},
    image::Authority,
};

/// Most of an error page that is shown.
const MAX_ERROR_CHARS: usize = 200;

/// Whom we talk to as whom, for the texts.
pub(crate) struct Asker<'a> {
    pub(crate) registry: &'a Authority,
    pub(crate) repository: &'a str,
    /// User, and where its password was found. None: anonymous.
    pub(crate) user: Option<(&'a str, &'a str)>,
}

/// The head of an answer, as far as it says why there is no content.
pub(crate) struct Head {
    status: StatusCode,
    host: String,
    retry_after: Option<Duration>,
}

impl Head {
    pub(crate) fn of(response: &Response) -> Self {
        let retry_after = retry_after(response.headers(), SystemTime::now());
        Self { status: response.status(), host: host_of(response.url()), retry_after }
    }
}

/// `Retry-After` (RFC 9110, 10.2.3): seconds, or a date. What is neither says nothing.
fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = httpdate::parse_http_date(text).ok()?;
    Some(date.duration_since(now).unwrap_or_default())
}

/// What an answer comes down to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// With the pause asked for.
    NotNow(Option<Duration>),
    NoAccess,
    Absent,
    Refused,
}

impl Asker<'_> {
    /// An answer to a request of our own becomes a fault unless it is a success.
    pub(crate) async fn check(&self, answer: Head, what: &str, body: Body) -> Result<Body, Failure> {
        let Head { status, host, retry_after } = answer;
        if status.is_success() {
            return Ok(body);
        }
        let complaint = complaint_of(&body.beginning().await);
        let verdict = match verdict_of(status) {
            Verdict::NotNow(_) => Verdict::NotNow(retry_after),
            other => other,
        };
        Err(self.refusal(verdict, &host, what, &detail(status, complaint)))
    }

    /// A fault that the library met while it asked for `what`.
    pub(crate) fn fault(&self, err: &OciDistributionError, what: &str) -> Failure {
        let host = self.registry.to_string();
        match err {
            // Its URL tells an object store, reached by a redirect, from the registry.
            OciDistributionError::RequestError(err) => unreachable(err, &err.url().map_or(host, host_of)),
            OciDistributionError::ServerError { code, message, .. } => {
                let status = StatusCode::from_u16(*code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
                self.refusal(verdict_of(status), &host, what, &detail(status, complaint_of(message.as_bytes())))
            }
            OciDistributionError::UnauthorizedError { .. } => {
                self.refusal(Verdict::NoAccess, &host, what, &StatusCode::UNAUTHORIZED.to_string())
            }
            // The library keeps the codes but not the status.
            OciDistributionError::RegistryError { envelope, .. } => {
                let complaint = serde_json::to_vec(envelope).ok().and_then(|bytes| complaint_of(&bytes));
                self.refusal(verdict_of_codes(envelope), &host, what, complaint.as_deref().unwrap_or("no reason given"))
            }
            other => Failure::refused(format!(
                "{host} does not keep to the distribution protocol for {what}: {}",
                one_line(&other.to_string())
            )),
        }
    }

    fn refusal(&self, verdict: Verdict, host: &str, what: &str, detail: &str) -> Failure {
        let registry = self.registry;
        match (verdict, self.user) {
            (Verdict::NotNow(retry_after), _) => {
                Failure::unreachable(Fault::Busy { retry_after }, format!("{host} cannot serve {what} now ({detail})"))
            }
            (Verdict::NoAccess, None) => Failure::refused(format!(
                "{host} does not give {what} without credentials ({detail}); add an entry with the address `{registry}` \
                 to registryCredentials"
            )),
            (Verdict::NoAccess, Some((user, place))) => Failure::refused(format!(
                "{host} does not give {what} to the user `{user}` ({detail}); check the entry for `{registry}` in {place}"
            )),
            (Verdict::Absent, _) => Failure::refused(format!(
                "{host} does not have {what} in the repository `{}` ({detail}); check the name, or push it",
                self.repository
            )),
            (Verdict::Refused, _) => Failure::refused(format!("{host} refuses {what} ({detail})")),
        }
    }
}

/// Whether the library was not let in: a token may have run out.
pub(crate) fn is_unauthorized(err: &OciDistributionError) -> bool {
    match err {
        OciDistributionError::UnauthorizedError { .. } => true,
        OciDistributionError::ServerError { code, .. } => *code == StatusCode::UNAUTHORIZED.as_u16(),
        OciDistributionError::RequestError(err) => err.status() == Some(StatusCode::UNAUTHORIZED),
        OciDistributionError::RegistryError { envelope, .. } => {
            envelope.errors.first().is_some_and(|error| error.code == OciErrorCode::Unauthorized)
        }
        _ => false,
    }
}

fn verdict_of(status: StatusCode) -> Verdict {
    match status {
        StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS => Verdict::NotNow(None),
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Verdict::NoAccess,
        StatusCode::NOT_FOUND => Verdict::Absent,
        status if status.is_server_error() => Verdict::NotNow(None),
        _ => Verdict::Refused,
    }
}

/// The first code decides, as the status would have.
fn verdict_of_codes(envelope: &OciEnvelope) -> Verdict {
    use OciErrorCode as Code;
    match envelope.errors.first().map(|error| &error.code) {
        Some(Code::Toomanyrequests) => Verdict::NotNow(None),
        Some(Code::Unauthorized | Code::Denied) => Verdict::NoAccess,
        Some(Code::BlobUnknown | Code::ManifestUnknown | Code::NameUnknown | Code::NotFound) => Verdict::Absent,
        _ => Verdict::Refused,
    }
}

fn detail(status: StatusCode, complaint: Option<String>) -> String {
    complaint.map_or_else(|| status.to_string(), |text| format!("{status}: {text}"))
}

/// The messages of an OCI error document.
fn complaint_of(bytes: &[u8]) -> Option<String> {
    let document: serde_json::Value = serde_json::from_slice(bytes).ok()?;
    let errors = document.get("errors")?.as_array()?;
    let text = |error: &serde_json::Value| {
        let field = |key: &str| error.get(key).and_then(serde_json::Value::as_str).filter(|text| !text.is_empty());
        field("message").or_else(|| field("code")).map(str::to_owned)
    };
    let line = one_line(&errors.iter().filter_map(text).collect::<Vec<_>>().join("; "));
    (!line.is_empty()).then_some(line)
}

fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(MAX_ERROR_CHARS).collect()
}

/// A request that got no answer, with what to try.
pub(crate) fn unreachable(err: &reqwest::Error, host: &str) -> Failure {
    let cause = innermost(err);
    if err.is_redirect() || err.is_builder() {
        return Failure::refused(format!("{host}: {cause}"));
    }
    let texts = chain(err);
    if texts.iter().any(|text| text.contains("proxy authorization required")) {
        return Failure::refused(format!(
            "the proxy on the way to {host} wants to know who asks; write `http://USER:PASSWORD@HOST:PORT` as `registries.proxy`"
        ));
    }
    // Any other answer of a proxy than "yes"; not that it is down itself.
    if texts.iter().any(|text| text.contains("tunnel error") && !text.contains("underlying connection")) {
        return Failure::unreachable(Fault::Lasting, format!("the proxy does not connect us to {host} ({cause})"));
    }
    // rustls' word for an answer that is no TLS at all.
    if texts.iter().any(|text| text.contains("InvalidContentType")) {
        return Failure::refused(format!(
            "{host} does not speak TLS; if plain HTTP is what you want, add `{host}` to `registries.plain-http`"
        ));
    }
    if texts.iter().any(|text| text.contains("certificate")) {
        let text = format!(
            "{host} shows a certificate that is not accepted ({cause}); check the device's clock, or add the registry's \
             certificate authority"
        );
        return Failure::unreachable(Fault::Lasting, text);
    }
    if err.is_timeout() {
        return Failure::unreachable(Fault::NoAnswer, format!("{host} is out of reach (no connection in time)"));
    }
    Failure::unreachable(Fault::NoAnswer, format!("{host} is out of reach ({cause})"))
}

fn chain(err: &dyn Error) -> Vec<String> {
    let mut texts = vec![err.to_string()];
    let mut source = err.source();
    while let Some(err) = source {
        texts.push(err.to_string());
        source = err.source();
    }
    texts
}

/// The last cause: the one that says something.
pub(crate) fn innermost(err: &dyn Error) -> String {
    chain(err).pop().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(err: &OciDistributionError, user: Option<(&str, &str)>) -> (String, bool) {
        let registry = Authority::parse("r.example").unwrap();
        let failure = Asker { registry: &registry, repository: "edge/temp", user }.fault(err, "the blob");
        (failure.to_string(), failure.is_transient())
    }

    fn server_error(code: u16, message: &str) -> OciDistributionError {
        OciDistributionError::ServerError { code, url: String::new(), message: message.to_owned() }
    }

    #[test]
    fn a_status_decides_who_is_to_blame_and_whether_to_come_back() {
        for (code, says, transient) in [
            (503, "cannot serve the blob now (503 Service Unavailable)", true),
            (429, "cannot serve the blob now", true),
            (401, "without credentials", false),
            (404, "in the repository `edge/temp`", false),
            (400, "r.example refuses the blob (400 Bad Request)", false),
        ] {
            let (text, comes_back) = said(&server_error(code, "<html>\n</html>"), None);
            assert!(text.contains(says), "{text}");
            assert_eq!(comes_back, transient, "{text}");
        }
        let (text, _) = said(&server_error(403, ""), Some(("device", "/root/.docker/config.json")));
        assert!(text.contains("to the user `device`") && text.contains("in /root/.docker/config.json"), "{text}");
    }

    #[test]
    fn codes_stand_in_where_the_library_drops_the_status() {
        let error = |code: &str| {
            let text = format!(r#"{{"errors":[{{"code":"{code}","message":"because\nof {code}"}}]}}"#);
            let envelope = serde_json::from_str(&text).unwrap();
            OciDistributionError::RegistryError { envelope, url: String::new() }
        };
        let (text, transient) = said(&error("BLOB_UNKNOWN"), None);
        assert!(text.contains("does not have the blob") && text.contains("because of BLOB_UNKNOWN"), "{text}");
        assert!(!transient);
        assert!(said(&error("DENIED"), None).0.contains("without credentials"));
        assert!(said(&error("TOOMANYREQUESTS"), None).1);
        assert!(said(&error("ARTIFACT_LOCKED"), None).0.contains("refuses"));
    }

    #[test]
    fn a_pause_is_asked_for_in_seconds_or_until_a_date() {
        let asked = |text: &'static str| {
            let headers = HeaderMap::from_iter([(RETRY_AFTER, text.parse().unwrap())]);
            // A second before the date.
            retry_after(&headers, SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_776))
        };
        assert_eq!(asked("120"), Some(Duration::from_secs(120)));
        assert_eq!(asked("Sun, 06 Nov 1994 08:49:37 GMT"), Some(Duration::from_secs(1)));
        assert_eq!(asked("Sun, 06 Nov 1994 08:49:30 GMT"), Some(Duration::ZERO));
        assert_eq!(asked("soon"), None);
        assert_eq!(asked("-1"), None);
        assert_eq!(retry_after(&HeaderMap::new(), SystemTime::UNIX_EPOCH), None);
    }

    #[test]
    fn a_long_complaint_is_cut_to_one_line() {
        let long = format!(r#"{{"errors":[{{"message":"{}\n"}}]}}"#, "x\\t".repeat(1000));
        let (text, _) = said(&server_error(500, &long), None);
        assert!(text.len() < 400 && !text.contains(char::is_control), "{text}");
    }
}
