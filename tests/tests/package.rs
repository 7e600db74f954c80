//! The Debian package on a machine with a real systemd: installed, started, hung, upgraded, removed, purged.

#![allow(clippy::unwrap_used)] // helpers of tests

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt},
};

use marram_tests::{
    machine::Machine,
    manifest::{Manifest, Module},
    program::Layout,
    wait::wait_for,
};
use serde_json::Value;

/// Most exposure that the unit may have, of 100, as `systemd-analyze security` counts; it has 15.
const EXPOSURE: &str = "16";

#[test]
fn the_installed_host_is_up_and_runs_what_is_applied() {
    let Some(machine) = installed() else { return };
    assert_eq!(machine.ok(&["systemctl", "is-active", "marram"]), "active", "up when dpkg is done");
    assert_eq!(machine.ok(&["systemctl", "is-enabled", "marram"]), "enabled");
    wait_for_state(&machine, "no deployment yet");

    apply(&machine, "0");
    // Under the unit's restrictions the helper has compiled it, and its code was loaded.
    let status = machine.wait_for_module("stopped");
    assert_eq!(status["modules"][0]["exitCode"], 0, "{status}");
    let data = fs::metadata(machine.file("/var/lib/marram")).unwrap();
    assert_eq!(data.permissions().mode() & 0o777, 0o700);
    assert_ne!(data.uid(), 0, "it is not root that runs modules");

    let log = machine.ok(&["journalctl", "-u", "marram", "-o", "json", "--no-pager"]);
    let entry = |text: &str| {
        let entries = log.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        entries.into_iter().find(|entry| entry["MESSAGE"].as_str().is_some_and(|message| message.contains(text)))
    };
    let up = entry("host is up").unwrap();
    assert_eq!(up["PRIORITY"], "6", "the journal knows how important it is: {up}");
    assert!(up["MESSAGE"].as_str().unwrap().starts_with("marram"), "the journal has the time: {up}");
    assert!(entry("plain-program: ran 0 ms").is_some(), "a module's words are in the journal");

    let unit = "/usr/lib/systemd/system/marram.service";
    let verified = machine.run(&["systemd-analyze", "verify", unit]).ok();
    assert!(!verified.err.contains("marram"), "{verified:?}");
    let told = machine.run(&["systemd-analyze", "security", "--offline=true", "--threshold", EXPOSURE, unit]);
    assert_eq!(told.code, Some(0), "exposure above {EXPOSURE}: {}", told.out);
}

#[test]
fn a_host_that_hangs_is_replaced_and_goes_on() {
    let Some(machine) = Machine::boot() else { return };
    let folder = machine.file("/etc/systemd/system/marram.service.d");
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("fast.conf"), "[Service]\nWatchdogSec=6\nTimeoutAbortSec=1\nRestartSec=0\n").unwrap();
    let machine = install(machine);
    apply(&machine, "3600000");
    machine.wait_for_module("running");
    wait_for_state(&machine, "deployment 1: 1 of 1 modules run");

    let _ = machine.ok(&["systemctl", "kill", "--kill-who=main", "--signal=STOP", "marram"]);
    wait_for("systemd to see that it hangs", || {
        let log = machine.run(&["journalctl", "-u", "marram", "--no-pager"]).out;
        log.contains("Watchdog timeout").then_some(())
    });
    wait_for("the next host", || {
        (machine.run(&["systemctl", "is-active", "marram"]).out.trim() == "active").then_some(())
    });
    let status = machine.wait_for_module("running");
    assert_eq!(status["deploymentVersion"], 1, "the stored deployment goes on: {status}");
    assert_ne!(show(&machine, "NRestarts"), "0");
}

#[test]
fn data_and_settings_outlive_an_upgrade_and_a_removal_but_not_a_purge() {
    let Some(machine) = installed() else { return };
    apply(&machine, "3600000");
    machine.wait_for_module("running");
    let settings = machine.file("/etc/marram/marram.toml");
    assert_eq!(
        fs::metadata(machine.file("/etc/marram")).unwrap().permissions().mode() & 0o777,
        0o755,
        "authors read it too"
    );
    let own = format!("device-id = \"mine\"\n{}", fs::read_to_string(&settings).unwrap());
    fs::write(&settings, &own).unwrap();
    let before = show(&machine, "MainPID");

    let _ = machine.ok(&["dpkg", "--install", "/srv/marram.deb"]);
    assert_ne!(show(&machine, "MainPID"), before, "the new version runs");
    let status = machine.wait_for_module("running");
    assert_eq!((status["deploymentVersion"].as_u64(), status["deviceId"].as_str()), (Some(1), Some("mine")));

    let _ = machine.ok(&["systemctl", "stop", "marram"]);
    assert_eq!((show(&machine, "Result"), show(&machine, "ExecMainStatus")), ("success".into(), "0".into()));
    let _ = machine.ok(&["systemctl", "start", "marram"]);

    let _ = machine.ok(&["dpkg", "--remove", "marram"]);
    assert!(!machine.file("/usr/bin/marram").exists());
    assert_eq!(machine.run(&["systemctl", "is-active", "marram"]).out.trim(), "inactive");
    assert!(machine.file("/var/lib/marram/store").is_dir(), "the device's state stays");
    assert_eq!(fs::read_to_string(&settings).unwrap(), own);

    let _ = machine.ok(&["dpkg", "--purge", "marram"]);
    for gone in ["/var/lib/marram", "/etc/marram", "/usr/lib/systemd/system/marram.service", "/usr/share/doc/marram"] {
        assert!(fs::symlink_metadata(machine.file(gone)).is_err(), "{gone}");
    }
}

/// A machine with the package.
fn installed() -> Option<Machine> {
    Machine::boot().map(install)
}

fn install(machine: Machine) -> Machine {
    let _ = machine.ok(&["dpkg", "--install", "/srv/marram.deb"]);
    machine
}

/// Gives the host a deployment of one program, which runs so long.
fn apply(machine: &Machine, milliseconds: &str) {
    machine.bring(&Layout::with(&["plain_program"]));
    let program = Module::new("oci:/srv/layout:plain_program").policy("never").env("RUN_MS", milliseconds);
    let manifest = Manifest::new().module("program", program).to_json().to_string();
    fs::write(machine.file("/srv/deployment.json"), manifest).unwrap();
    let _ = machine.ok(&["marram", "apply", "/srv/deployment.json"]);
}

fn show(machine: &Machine, property: &str) -> String {
    machine.ok(&["systemctl", "show", "--property", property, "--value", "marram"])
}

fn wait_for_state(machine: &Machine, state: &str) {
    wait_for(&format!("`systemctl status` to say: {state}"), || (show(machine, "StatusText") == state).then_some(()));
}
