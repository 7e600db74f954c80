//! `marram.toml` as owners write it, well and badly.

use super::*;

fn check(text: &str) -> Result<Config, Vec<String>> {
    read(text, Path::new("/etc/marram")).map_err(|faults| faults.iter().map(ToString::to_string).collect())
}

fn faults(text: &str) -> Vec<String> {
    check(text).unwrap_err()
}

const EVERY_KEY: &str = r#"
device-id = "pump-7"
data = "state"
[engine]
profile = "narrow"
precompiled = ["code", "/usr/lib/marram/precompiled"]
[registries]
default = "registry.example:5000"
plain-http = ["registry.example:5000"]
certificate-authorities = ["ca.pem"]
docker-config = "docker/config.json"
proxy = "http://user:word@proxy.example:3128"
no-proxy = ["plant.example", "10.0.0.0/8"]
concurrent-downloads = 2
[[registries.mirrors]]
prefix = "registry.example:5000/team"
location = "mirror.example/team"
[[registries.credentials]]
address = "registry.example:5000"
username = "pump"
password-file = "pump.password"
[[registries.credentials]]
address = "other.example"
username = "pump"
password = "secret"
[messages]
max-bytes = 16_777_216
sync-seconds = 0
[upstream]
journal-max-bytes = 1_048_576
journal-files = 4
[metrics]
listen = "[::1]:9600"
[modules]
max-memory-bytes = 536_870_912
trap-bodies = true
core-dump-max-bytes = 16_777_216
"#;

#[test]
fn an_empty_file_means_the_defaults() {
    assert_eq!(check(""), Ok(Config::default()));
    let journal = Config::default().upstream.journal("/j".into());
    assert_eq!(journal, marram_upstream::Settings::new("/j"));
}

#[test]
fn every_key_is_read() {
    let config = check(EVERY_KEY).unwrap();
    assert_eq!((config.modules.max_memory_bytes, config.modules.trap_bodies), (Some(512 << 20), true));
    assert_eq!(config.modules.core_dump_max_bytes, Some(16 << 20));
    assert_eq!(faults("[modules]\ntrap-bodies = 1\n").len(), 1);
    assert_eq!(config.device_id.as_deref(), Some("pump-7"));
    assert_eq!(config.data, Some("/etc/marram/state".into()));
    assert_eq!(config.engine.profile, Profile::Narrow);
    assert_eq!(config.engine.precompiled, [Path::new("/etc/marram/code"), Path::new("/usr/lib/marram/precompiled")]);
    assert_eq!(config.registries.default.as_deref(), Some("registry.example:5000"));
    assert_eq!(config.registries.plain_http, ["registry.example:5000"]);
    assert_eq!(config.registries.certificate_authorities, [PathBuf::from("/etc/marram/ca.pem")]);
    assert_eq!(config.registries.docker_config, Some("/etc/marram/docker/config.json".into()));
    let proxy = Proxy::new("http://user:word@proxy.example:3128", []).unwrap();
    assert_eq!(config.registries.proxy, Some(Way::Through(proxy)));
    assert_eq!(config.registries.no_proxy, ["plant.example", "10.0.0.0/8"]);
    assert_eq!(config.registries.concurrent_downloads, Some(2));
    let mirror = Mirror::new("registry.example:5000/team", "mirror.example/team").unwrap();
    assert_eq!(config.registries.mirrors, [mirror]);
    let passwords: Vec<_> = config.registries.credentials.iter().map(|c| c.password.clone()).collect();
    assert_eq!(passwords, [Password::File("/etc/marram/pump.password".into()), Password::Text("secret".into())]);
    assert_eq!(config.messages, Messages { max_bytes: 16 << 20, sync_seconds: 0 });
    assert_eq!(config.upstream.journal("/j".into()).max_file_bytes, 262_144);
    assert_eq!(config.metrics, "[::1]:9600".parse().ok());
}

#[test]
fn numbers_are_served_nowhere_unless_an_address_is_named() {
    assert_eq!(check("[metrics]\n").unwrap().metrics, None);
    for bad in ["localhost:9600", "9600", "127.0.0.1", ":9600"] {
        let found = faults(&format!("[metrics]\nlisten = '{bad}'\n"));
        let expected = "metrics.listen: `BAD`: expected an IP address and a port, as `127.0.0.1:9600`";
        assert_eq!(found, [format!("line 2, column 10: {}", expected.replace("BAD", bad))]);
    }
}

#[test]
fn all_faults_are_told_at_once_in_the_order_of_the_file() {
    let found = faults(
        "device_id = 'a'\ndata = 7\n[engine]\nprofile = 'huge'\n[registries]\nplain-http = 'x'\n\
         [upstream]\njournal-files = 0\nspeed = 1\n",
    );
    let expected = [
        "line 1, column 1: device_id: unknown key",
        "line 2, column 8: data: expected a string, found integer",
        "line 4, column 11: engine.profile: unknown engine profile `huge` (wide, narrow)",
        "line 6, column 14: registries.plain-http: expected an array of strings, found string",
        "line 8, column 17: upstream.journal-files: 0: expected 1 to 10000",
        "line 9, column 1: upstream.speed: unknown key",
    ];
    assert_eq!(found, expected);
}

#[test]
fn sizes_of_the_message_log_that_cannot_be_used_are_faults() {
    let found = faults("[messages]\nmax-bytes = 8388607\nsync-seconds = 601\nsync = 1\n");
    let expected = [
        "line 2, column 13: messages.max-bytes: 8388607: expected at least 8388608",
        "line 3, column 16: messages.sync-seconds: 601: expected 0 to 600",
        "line 4, column 1: messages.sync: unknown key",
    ];
    assert_eq!(found, expected);
}

#[test]
fn a_slip_in_a_key_comes_with_what_was_meant() {
    let found = read("device_id = 'a'", Path::new("/")).unwrap_err();
    assert_eq!(found[0].hint.as_deref(), Some("did you mean `device-id`?"));
}

#[test]
fn text_that_is_not_toml_is_a_fault_with_its_line() {
    let found = faults("data = 'b'\nwhat is this\n");
    assert!(found.iter().any(|fault| fault.starts_with("line 2, column ")), "{found:?}");
}

#[test]
fn a_credential_needs_its_parts_and_one_password() {
    let found = faults("[[registries.credentials]]\naddress = 'r.example'\npassword = 'a'\npassword-file = 'b'\n");
    let expected = [
        "line 1, column 1: registries.credentials: `username` is missing",
        "line 1, column 1: registries.credentials: only one of `password` or `password-file` may stand there",
    ];
    assert_eq!(found, expected);
}

#[test]
fn a_proxy_a_mirror_and_a_number_that_cannot_be_used_are_faults() {
    let found = faults(
        "[registries]\nproxy = 'socks5://u:secret@h:1'\nconcurrent-downloads = 9\n[[registries.mirrors]]\nprefix = 'r.example'\n\
         [[registries.mirrors]]\nprefix = 'https://r.example'\nlocation = 'm'\n",
    );
    assert!(
        found[0].starts_with("line 2, column 9: registries.proxy: proxies by `socks5` are not supported"),
        "{found:?}"
    );
    assert_eq!(found[1], "line 3, column 24: registries.concurrent-downloads: 9: expected 1 to 8");
    assert_eq!(found[2], "line 4, column 1: registries.mirrors: `location` is missing");
    assert!(found[3].starts_with("line 6, column 1: registries.mirrors: prefix: "), "{found:?}");
    assert!(!found.concat().contains("secret"));
}

#[test]
fn direct_means_no_proxy_whatever_the_environment_says() {
    let config = check("[registries]\nproxy = 'direct'\n").unwrap();
    assert_eq!(config.registries.proxy, Some(Way::Direct));
    assert_eq!(config.registry(Path::new("/cache")).unwrap().proxy, None);
}

#[test]
fn a_docker_configuration_that_cannot_be_read_is_a_fault_at_once() {
    let config = check("[registries]\ndocker-config = '/nonexistent/config.json'\n").unwrap();
    let failure = config.registry(Path::new("/cache")).unwrap_err();
    assert!(failure.message.contains("/nonexistent/config.json"), "{}", failure.message);
}

#[test]
fn a_journal_of_crumbs_is_refused() {
    let found = faults("[upstream]\njournal-max-bytes = 100000\n");
    assert!(found[0].contains("12500 bytes a file"), "{found:?}");
}

#[test]
fn a_device_id_must_be_one_for_the_cloud_too() {
    assert!(faults("device-id = 'a b'")[0].contains("' ' may not stand in it"));
    assert!(faults(&format!("device-id = '{}'", "x".repeat(129)))[0].contains("129 bytes"));
}

#[test]
fn passwords_are_not_shown_in_debug_output() {
    assert!(!format!("{:?}", Password::Text("secret".into())).contains("secret"));
}

#[test]
fn the_example_in_the_manual_is_a_good_configuration() {
    let manual = include_str!("../../../../docs/configuration.md");
    let example = manual.split("```toml\n").nth(1).unwrap().split("```").next().unwrap();
    let config = check(example).unwrap();
    assert!(config.device_id.is_some() && config.data.is_some());
    assert!(!config.registries.plain_http.is_empty() && !config.registries.credentials.is_empty());
}
