//! Every fault: what is written where, where it is reported, and how the message begins.

use super::*;
use crate::route::Route;

/// Checks that the text has exactly one fault, at this place, whose message begins so.
fn check_text(text: &str, at: &str, message: &str) {
    let faults = read_str(text).unwrap_err();
    let [fault] = faults.0.as_slice() else { panic!("not one fault but: {faults}\nin {text}") };
    assert_eq!(fault.at, at, "{fault}");
    assert!(fault.message.starts_with(message), "{fault}\nexpected: {message}");
}

/// Writes the value at a place and expects the fault at that very place.
fn check(cases: &[(&str, Value, &str)]) {
    for (place, value, message) in cases {
        check_text(&with(&[(place, value.clone())]), &path(place), message);
    }
}

/// Writes the value at a place and expects the fault somewhere else.
fn check_at(cases: &[(&str, Value, &str, &str)]) {
    for (place, value, at, message) in cases {
        check_text(&with(&[(place, value.clone())]), &path(at), message);
    }
}

fn check_missing(places: &[&str]) {
    for place in places {
        check_text(&without(place), &path(place), "is missing");
    }
}

#[test]
fn a_text_that_is_not_json_names_line_and_column() {
    check_text("{\n  \"a\": x\n}", "line 2, column 8", "not JSON: expected value");
    check_text("", "line 1, column 0", "not JSON: EOF");
    check_text("{} x", "line 1, column 4", "not JSON: trailing characters");
    check_text("\"\\ud800\"", "line 1, column 8", "not JSON:");
}

#[test]
fn a_manifest_has_a_largest_size() {
    let text = format!("{}{}", base(), " ".repeat(MAX_MANIFEST_BYTES));
    check_text(&text, "", "a manifest has at most 2097152 bytes");
}

#[test]
fn deep_nesting_is_a_fault_and_no_overflow_of_the_stack() {
    check_text(&"[".repeat(1_000_000), "line 1, column 128", "not JSON: recursion limit exceeded");
    let nested = format!("{}1{}", "{\"a\":".repeat(100_000), "}".repeat(100_000));
    check_text(&nested, "line 1, column 636", "not JSON: recursion limit exceeded");
    let options = json!("[".repeat(100_000));
    check(&[("temp/settings/createOptions", options, "the text in it is not JSON: recursion limit exceeded")]);
}

#[test]
fn an_integer_that_64_bits_do_not_hold_is_a_fault() {
    let wide = "18446744073709551616";
    let text = with(&[("temp/env/A/value", json!(7_654_321))]).replacen("7654321", wide, 1);
    check_text(&text, &path("temp/env/A/value"), &format!("`{wide}` is too large for an integer"));
    let (twin, at) = (json!({ "m": 7_654_321 }), "modulesContent.temp.properties.desired.m");
    let mut manifest = base();
    manifest["modulesContent"]["temp"] = json!({ "properties.desired": twin });
    check_text(&manifest.to_string().replacen("7654321", wide, 1), at, &format!("`{wide}` is too large"));
    assert!(read_str(&manifest.to_string().replacen("7654321", "1e300", 1)).is_ok());
}

#[test]
fn a_key_that_stands_twice_is_a_fault() {
    let twice = base().to_string().replacen("\"status\":", "\"status\":\"stopped\",\"status\":", 1);
    check_text(&twice, &path("temp/status"), "the key `status` stands twice");
    let options = json!(r#"{"HostConfig":{"Binds":[],"Binds":[]}}"#);
    let at = "temp/settings/createOptions/HostConfig/Binds";
    check_at(&[("temp/settings/createOptions", options, at, "the key `Binds` stands twice")]);
    let cases = base().to_string().replacen("\"status\":", "\"Status\":\"stopped\",\"status\":", 1);
    check_text(&cases, &path("temp/status"), "`Status` and `status` are the same key");
}

#[test]
fn the_envelope() {
    check_text("[]", "", "expected an object, found a list");
    check_text("{}", "modulesContent", "is missing");
    check_text(r#"{"content":{}}"#, "content.modulesContent", "is missing");
    check_text(r#"{"content":[]}"#, "content", "expected an object, found a list");
    check_text(r#"{"modulesContent":null}"#, "modulesContent", "expected an object, found null");
    let both = json!({ "content": base(), "modulesContent": {} }).to_string();
    check_text(&both, "modulesContent", "stands beside `content`");
    check_missing(&["modulesContent/$edgeAgent", "agent", "hub"]);
    check(&[
        ("modulesContent/$edgeAgent", json!(1), "expected an object, found a number"),
        ("modulesContent/$edgeHub", json!([]), "expected an object, found a list"),
        ("agent", json!(null), "expected an object, found null"),
        ("hub", json!("x"), "expected an object, found a string"),
        ("modulesContent/temp", json!("x"), "expected an object, found a string"),
        ("modulesContent/temp/properties.desired", json!([]), "expected an object, found a list"),
    ]);
}

#[test]
fn entries_of_layered_deployments_are_refused_with_the_reason() {
    let message = "is an entry of a layered deployment";
    check(&[
        ("modulesContent/$edgeAgent/properties.desired.modules.x", json!({}), message),
        ("modulesContent/$edgeHub/Properties.Desired.routes.x", json!(""), message),
        ("modulesContent/temp/properties.desired.section", json!({}), message),
    ]);
}

#[test]
fn nested_properties_are_refused_with_the_reason() {
    let message = "the key is `properties.desired`, one key with a dot";
    check(&[("modulesContent/temp/properties", json!({"desired": {}}), message)]);
}

#[test]
fn the_agent() {
    check_missing(&["agent/schemaVersion", "agent/runtime/type"]);
    check(&[
        ("agent/schemaVersion", json!(null), "may not be null"),
        ("agent/schemaVersion", json!(1.1), "expected a string, found a number"),
        ("agent/schemaVersion", json!("1"), "`1` is not a version"),
        ("agent/schemaVersion", json!("one"), "`one` is not a version"),
        ("agent/schemaVersion", json!("1.+1"), "`1.+1` is not a version"),
        ("agent/schemaVersion", json!("1.2"), "this version of $edgeAgent's schema is not known"),
        ("agent/schemaVersion", json!("1.1.1"), "this version of $edgeAgent's schema is not known"),
        ("agent/schemaVersion", json!("2.0"), "this version of $edgeAgent's schema is not known"),
        ("agent/schemaVersion", json!("0.9"), "this version of $edgeAgent's schema is not known"),
        ("agent/runtime", json!("docker"), "expected an object, found a string"),
        ("agent/runtime/type", json!("podman"), "unknown runtime `podman` (docker, wasm)"),
        ("agent/runtime/settings", json!([]), "expected an object, found a list"),
        ("agent/systemModules", json!([]), "expected an object, found a list"),
        ("agent/modules", json!([]), "expected an object, found a list"),
    ]);
}

#[test]
fn registry_credentials() {
    let place = "agent/runtime/settings/registryCredentials";
    let good = json!({"address": "registry.test", "username": "u", "password": "p"});
    check(&[(place, json!([]), "expected an object, found a list")]);
    for key in ["address", "username", "password"] {
        let mut entry = good.clone();
        entry.as_object_mut().unwrap().remove(key);
        let at = format!("{place}/r/{key}");
        check_at(&[(&format!("{place}/r"), entry, &at, "is missing")]);
        for (bad, message) in [(json!(" "), "may not be empty"), (json!(1), "expected a string, found a number")] {
            let mut entry = good.clone();
            entry[key] = bad;
            check_at(&[(&format!("{place}/r"), entry, &at, message)]);
        }
    }
}

#[test]
fn names_of_modules() {
    let module = base().pointer("/modulesContent/$edgeAgent/properties.desired/modules/temp").unwrap().clone();
    check(&[
        ("agent/modules/a b", module.clone(), "' ' may not stand in a name"),
        ("agent/modules/$x", module.clone(), "'$' may not stand in a name"),
    ]);
    let empty = base().to_string().replace("\"temp\":", "\"\":");
    check_text(&empty, &format!("{}.", path("agent/modules")), "a name may not be empty");
    let twins = base().to_string().replacen("\"temp\":", &format!("\"Temp\":{module},\"temp\":"), 1);
    check_text(&twins, &path("temp"), "differs from the module `Temp` only in case");
}

#[test]
fn modules() {
    check_missing(&["temp/type", "temp/status", "temp/settings", "temp/settings/image"]);
    check(&[
        ("temp", json!(null), "expected an object, found null"),
        ("temp/type", json!("python"), "unknown module type `python` (wasm, docker)"),
        ("temp/type", json!(null), "may not be null"),
        ("temp/status", json!("backoff"), "unknown status `backoff` (running, stopped)"),
        ("temp/status", json!(true), "expected a string, found a boolean"),
        ("temp/restartPolicy", json!("sometimes"), "unknown restart policy `sometimes` (never, on-failure, on-un"),
        ("temp/restartPolicy", json!(null), "may not be null"),
        ("temp/restartPolicy", json!(4), "expected a whole number from 0 to 3"),
        ("temp/imagePullPolicy", json!("always"), "unknown pull policy `always` (on-create, never)"),
        ("temp/startupOrder", json!(null), "may not be null"),
        ("temp/startupOrder", json!(-1), "expected a whole number from 0 to 4294967295"),
        ("temp/startupOrder", json!(4_294_967_296_u64), "expected a whole number from 0 to 4294967295"),
        ("temp/startupOrder", json!(1.5), "expected a whole number from 0 to 4294967295"),
        ("temp/startupOrder", json!("1"), "expected a whole number, found a string"),
        ("temp/version", json!(1), "expected a string, found a number"),
        ("temp/env", json!([]), "expected an object, found a list"),
        ("temp/env/A", json!("x"), "expected an object, found a string"),
        ("temp/env/A/value", json!(null), "may not be null"),
        ("temp/env/A/value", json!([1]), "expected a string, a number or a boolean, found a list"),
        ("temp/env/A/value", json!("a\0b"), "a value may not contain a NUL"),
        ("temp/env/A=B", json!({"value": 1}), "the name of a variable may not"),
        ("temp/settings", json!("x"), "expected an object, found a string"),
        ("temp/settings/image", json!("  "), "may not be empty"),
        ("temp/settings/image", json!(7), "expected a string, found a number"),
        ("temp/settings/image", json!(" BAD image "), "`BAD image` is not an image reference"),
    ]);
    check_at(&[("temp/env/A", json!({}), "temp/env/A/value", "is missing")]);
}

#[test]
fn a_missing_key_points_to_a_misspelt_one() {
    let text = base().to_string().replacen("\"status\"", "\"stauts\"", 1);
    let faults = read_str(&text).unwrap_err();
    assert_eq!(faults.0[0].hint.as_deref(), Some("is `stauts` meant for it?"));
}

#[test]
fn create_options() {
    let place = "temp/settings/createOptions";
    check(&[
        (place, json!(1), "expected an object, or a string with one, found a number"),
        (place, json!("[]"), "expected an object, found a list"),
        (place, json!("{\n x}"), "the text in it is not JSON: key must be a string at its line 2, column 2"),
        (place, json!("{} {}"), "the text in it is not JSON: trailing characters"),
    ]);
    let pieces = |pieces: Value| with(&[("temp/settings", pieces)]);
    let image = "registry.test/temp:1";
    let gap = json!({"image": image, "createOptions": "{", "createOptions02": "}"});
    check_text(&pieces(gap), &path(place), "the piece `createOptions01` is missing before piece 2");
    let headless = json!({"image": image, "createOptions01": "{}"});
    check_text(&pieces(headless), &path(place), "the piece `createOptions` is missing before piece 1");
    let twice = json!({"image": image, "createOptions": "{}", "CreateOptions": "{}"});
    check_text(&pieces(twice), &path(place), "this piece stands twice");
    let object = json!({"image": image, "createOptions": {}, "createOptions01": "{}"});
    check_text(&pieces(object), &path(place), "expected a string, found an object");
}

#[test]
fn additions_stand_in_one_place_only() {
    let edits =
        [("sandbox", json!({"args": []})), ("temp/settings/createOptions", json!("{\"marram\":{\"args\":[]}}"))];
    check_text(&with(&edits), &path("temp/settings/createOptions/marram"), "stands beside `settings.sandbox`");
}

#[test]
fn unknown_keys_of_ours_are_faults_wherever_they_stand() {
    check(&[
        ("sandbox/limit", json!({}), "unknown key"),
        ("sandbox/limits/memmory", json!(1), "unknown key"),
        ("temp/settings/createOptions/marram/filesytem", json!([]), "unknown key"),
    ]);
    let hint = |text: &str| read_str(text).unwrap_err().0[0].hint.clone().unwrap();
    assert_eq!(hint(&with(&[("sandbox/limit", json!({}))])), "did you mean `limits`?");
    assert_eq!(
        hint(&with(&[("sandbox/xyz", json!({}))])),
        "known here: `limits`, `health`, `filesystem`, `args`, `network`, `http`"
    );
}

#[test]
fn sandboxes() {
    check(&[
        ("sandbox", json!([]), "expected an object, found a list"),
        ("sandbox/network", json!({}), "this version cannot grant `network` yet"),
        ("sandbox/http", json!({}), "this version cannot grant `http` yet"),
        ("sandbox/limits", json!(1), "expected an object, found a number"),
        ("sandbox/limits/memory", json!("64MB"), "`64MB` is not a size"),
        ("sandbox/limits/memory", json!("1e3KiB"), "`1e3KiB` is not a size"),
        ("sandbox/limits/memory", json!("99999999999999999999GiB"), "`99999999999999999999GiB` is not a size"),
        ("sandbox/limits/memory", json!("18446744073709551615GiB"), "`18446744073709551615GiB` is not a size"),
        ("sandbox/limits/memory", json!(-1), "`-1` is not a size"),
        ("sandbox/limits/memory", json!(1.5), "`1.5` is not a size"),
        ("sandbox/limits/memory", json!([]), "expected a size, found a list"),
        ("sandbox/limits/memory", json!(65535), "expected 65536 to 4294967296 bytes, found 65535"),
        ("sandbox/limits/memory", json!("5GiB"), "expected 65536 to 4294967296 bytes, found 5368709120"),
        ("sandbox/limits/maxRestarts", json!(-1), "expected a whole number from 0 to 4294967295"),
        ("sandbox/limits/maxRestarts", json!("20"), "expected a whole number, found a string"),
        ("sandbox/limits/handlerTime", json!(5), "a number does not say its unit"),
        ("sandbox/limits/handlerTime", json!("5 s"), "`5 s` is not a duration"),
        ("sandbox/limits/handlerTime", json!("s"), "`s` is not a duration"),
        ("sandbox/limits/handlerTime", json!("5"), "`5` is not a duration"),
        ("sandbox/limits/handlerTime", json!("18446744073709551615h"), "`18446744073709551615h` is not a duration"),
        ("sandbox/limits/handlerTime", json!(0), "expected a duration from 1ms to 1h"),
        ("sandbox/limits/handlerWall", json!("61m"), "expected a duration from 1ms to 1h"),
        ("sandbox/limits/handlerWall", json!(true), "expected a duration, found a boolean"),
        ("sandbox/filesystem", json!({}), "expected a list, found an object"),
        ("sandbox/args", json!("x"), "expected a list, found a string"),
    ]);
    check_at(&[
        ("sandbox/args", json!(["a", 1]), "sandbox/args/[1]", "expected a string, found a number"),
        ("sandbox/args", json!(["a\0"]), "sandbox/args/[0]", "an argument may not contain a NUL"),
    ]);
}

#[test]
fn health_checks() {
    let check = |health: Value, at: &str, message: &str| {
        check_at(&[("sandbox/health", health, &format!("sandbox/health{at}"), message)]);
    };
    check(json!("alive"), "", "expected an object, found a string");
    check(json!({}), "/method", "is missing");
    check(json!({"method": " "}), "/method", "the name of a method may not be empty or blank");
    check(json!({"method": "ä".repeat(101)}), "/method", "the name of a method has at most 100 characters");
    check(json!({"method": "a", "retries": 3}), "/retries", "unknown key");
    check(json!({"method": "a", "interval": 30}), "/interval", "a number does not say its unit");
    check(json!({"method": "a", "interval": "999ms"}), "/interval", "expected a duration from 1s to 24h");
    check(json!({"method": "a", "timeout": "301s"}), "/timeout", "expected a duration from 1s to 300s");
    check(json!({"method": "a", "failures": 0}), "/failures", "expected a whole number from 1 to 1000");
}

#[test]
fn mounts() {
    let check = |mount: Value, at: &str, message: &str| {
        check_at(&[("sandbox/filesystem", json!([mount]), &format!("sandbox/filesystem/[0]{at}"), message)]);
    };
    check(json!("/proc"), "", "expected an object, found a string");
    check(json!({"guest": "/a"}), "/host", "is missing");
    check(json!({"host": "/a"}), "/guest", "is missing");
    check(json!({"host": "/a", "guest": "/a", "acess": "read-only"}), "/acess", "unknown key");
    check(json!({"host": "/a", "guest": "/a", "access": "rw"}), "/access", "unknown access `rw`");
    for bad in ["a", "", "./a", "~/a"] {
        check(json!({"host": bad, "guest": "/a"}), "/host", "expected an absolute path");
    }
    for bad in ["/..", "/a/../b", "/a/.", "/a//b", "//"] {
        check(json!({"host": "/a", "guest": bad}), "/guest", "a path may not contain `.`, `..` or `//`");
    }
    check(json!({"host": "/a\0", "guest": "/a"}), "/host", "a path may not contain control characters");
    check(json!({"host": format!("/{}", "x".repeat(4096)), "guest": "/a"}), "/host", "a path has at most 4096 bytes");
    let twice = json!([{"host": "/a", "guest": "/x"}, {"host": "/b", "guest": "/x/"}]);
    check_at(&[("sandbox/filesystem", twice, "sandbox/filesystem/[1]/guest", "another entry has this path")]);
}

#[test]
fn the_hub() {
    check_missing(&["hub/schemaVersion", "hub/routes", "hub/storeAndForwardConfiguration"]);
    check_missing(&["hub/storeAndForwardConfiguration/timeToLiveSecs"]);
    let seconds = "expected a whole number from -2147483648 to 2147483647";
    check(&[
        ("hub/schemaVersion", json!("1.4"), "this version of $edgeHub's schema is not known"),
        ("hub/schemaVersion", json!(""), "`` is not a version"),
        ("hub/routes", json!(null), "may not be null"),
        ("hub/routes", json!([]), "expected an object, found a list"),
        ("hub/storeAndForwardConfiguration", json!(null), "may not be null"),
        ("hub/storeAndForwardConfiguration/timeToLiveSecs", json!(null), "may not be null"),
        ("hub/storeAndForwardConfiguration/timeToLiveSecs", json!("7200"), "expected a whole number, found a string"),
        ("hub/storeAndForwardConfiguration/timeToLiveSecs", json!(3_000_000_000_u64), seconds),
        ("hub/storeAndForwardConfiguration/storeLimits", json!(1), "expected an object, found a number"),
        ("hub/storeAndForwardConfiguration/storeLimits/maxSizeBytes", json!(-1), "expected a whole number from 0"),
        ("hub/marram", json!("crash"), "expected an object, found a string"),
        ("hub/marram/overflow", json!("drop-newest"), "unknown overflow policy `drop-newest`"),
        ("hub/marram/sendTimeout", json!("2m"), "expected a duration from 0 to 60s"),
        ("hub/marram/maxAttempts", json!(0), "expected a whole number from 1"),
        ("hub/marram/priority", json!(1), "unknown key"),
    ]);
}

#[test]
fn routes() {
    let route = "FROM /messages/* INTO $upstream";
    check(&[
        ("hub/routes/up", json!("FROM /messages/* TO $upstream"), "column "),
        (
            "hub/routes/up",
            json!("FROM /messages/* WHERE a = 1 INTO $upstream"),
            "column 26: `=` compares a text with a number",
        ),
        ("hub/routes/up", json!("FROM /messages/* WHERE f(a) INTO $upstream"), "column 24: there is no function `f`"),
        ("hub/routes/up", json!(" "), "a route may not be empty"),
        ("hub/routes/up", json!(null), "expected a string or an object, found null"),
        ("hub/routes/up", json!(5), "expected a string or an object, found a number"),
        ("hub/routes/ ", json!(route), "the name of a route may not be empty"),
    ]);
    let object = |key: &str, value: Value| json!({"route": route, key: value});
    let cases = [
        (json!({}), "/route", "is missing"),
        (object("route", json!("")), "/route", "a route may not be empty"),
        (object("route", json!("FROM")), "/route", "column "),
        (object("priority", json!(null)), "/priority", "may not be null"),
        (object("priority", json!(10)), "/priority", "expected a whole number from 0 to 9"),
        (object("priority", json!("1")), "/priority", "expected a whole number, found a string"),
        (object("timeToLiveSecs", json!(-1)), "/timeToLiveSecs", "expected a whole number from 0 to 4294967295"),
        (object("timeToLiveSecs", json!(null)), "/timeToLiveSecs", "may not be null"),
        (object("marram", json!([])), "/marram", "expected an object, found a list"),
        (object("marram", json!({"sendTimout": "1s"})), "/marram/sendTimout", "unknown key"),
        (object("marram", json!({"sendTimeout": "2m"})), "/marram/sendTimeout", "expected a duration from 0 to 60s"),
        (object("marram", json!({"maxAttempts": 0})), "/marram/maxAttempts", "expected a whole number from 1"),
        (object("marram", json!({"durability": "x"})), "/marram/durability", "unknown durability `x`"),
        (object("marram", json!({"overflow": "x"})), "/marram/overflow", "unknown overflow policy `x`"),
        (object("marram", json!({"ordering": "x"})), "/marram/ordering", "unknown ordering `x` (fifo, none)"),
        (object("marram", json!({"expiredToDeadLetter": 1})), "/marram/expiredToDeadLetter", "expected true or false"),
        (object("marram", json!({"drain": "x"})), "/marram/drain", "unknown drain `x` (oldest-first, live-first)"),
    ];
    for (value, at, message) in cases {
        check_at(&[("hub/routes/up", value, &format!("hub/routes/up{at}"), message)]);
    }
}

#[test]
fn two_routes_into_one_input_that_disagree_about_its_queue_are_a_fault() {
    for option in [json!({"overflow": "drop-oldest"}), json!({"drain": "live-first"})] {
        let one = json!({"route": "FROM /a/* INTO $upstream", "marram": option});
        let other = json!("FROM /b/* INTO $upstream");
        check_at(&[(
            "hub/routes",
            json!({"one": one, "other": other}),
            "hub/routes/other",
            "`overflow`, `ordering`, `drain` and `expiredToDeadLetter` belong to the queue, and route `one`",
        )]);
    }
}

#[test]
fn a_route_is_an_object_only_since_schema_1_1() {
    let edits = [("hub/schemaVersion", json!("1.0")), ("hub/routes/up", json!({"route": "x"}))];
    check_text(&with(&edits), &path("hub/routes/up"), "a route is an object only since schema 1.1");
}

#[test]
fn properties_of_modules_keep_to_the_limits_of_twins() {
    let place = "modulesContent/temp/properties.desired";
    check_at(&[
        (place, json!({"a": {"b": [null]}}), &format!("{place}/a/b/[0]"), "null may not stand inside an array"),
        (place, json!({"a": "x".repeat(4097)}), &format!("{place}/a"), "a string of 4097 bytes"),
    ]);
    let keys = (0..9).map(|i| (format!("k{i}"), json!("x".repeat(4000))));
    check(&[(place, keys.collect::<serde_json::Map<_, _>>().into(), "36073 bytes of JSON, at most 32768")]);
}

#[test]
fn all_faults_are_told_at_once_with_their_paths() {
    let text = with(&[
        ("agent/schemaVersion", json!("3.0")),
        ("temp/restartPolicy", json!("sometimes")),
        ("sandbox/limits/memmory", json!("64MiB")),
        ("hub/routes/up", json!("FROM /messages/* INTO $cloud")),
        ("hub/storeAndForwardConfiguration", json!({})),
        ("modulesContent/temp/properties.desired/a b", json!(1)),
    ]);
    let faults = read_str(&text).unwrap_err().to_string();
    let route_fault = Route::parse("FROM /messages/* INTO $cloud").unwrap_err();
    let expected = format!(
        "the deployment has 6 faults
  modulesContent.$edgeAgent.properties.desired.schemaVersion: this version of $edgeAgent's schema is not known (1.0 and 1.1 are)
  modulesContent.$edgeAgent.properties.desired.modules.temp.restartPolicy: unknown restart policy `sometimes` (never, on-failure, on-unhealthy, always)
  modulesContent.$edgeAgent.properties.desired.modules.temp.settings.sandbox.limits.memmory: unknown key
    hint: did you mean `memory`?
  modulesContent.$edgeHub.properties.desired.routes.up: {route_fault}
  modulesContent.$edgeHub.properties.desired.storeAndForwardConfiguration.timeToLiveSecs: is missing
  modulesContent.temp.properties.desired.a b: a key may not contain ' ' (nor any of `.`, `$`, `#`, white space and control characters)"
    );
    assert_eq!(faults, expected);
}

#[test]
fn a_hostile_manifest_makes_no_endless_report_and_no_control_characters() {
    let modules: serde_json::Map<_, _> = (0..500).map(|i| (format!("m{i}\u{1b}[2J"), json!(1))).collect();
    let faults = read_str(&with(&[("agent/modules", modules.into())])).unwrap_err();
    assert_eq!(faults.0.len(), 101);
    assert_eq!(faults.0[100].message, "and 900 more");
    assert!(!faults.to_string().contains('\u{1b}'));
}

#[test]
fn a_password_is_in_no_message() {
    let entry = json!({"address": "", "username": 1, "password": "s3cret", "passwrd": "s3cret"});
    let faults = read_str(&with(&[("agent/runtime/settings/registryCredentials/r", entry)])).unwrap_err();
    assert!(!format!("{faults} {faults:?}").contains("s3cret"));
}
